"""The command line in this process, a small scan, and a UDF in a file of the user's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libstream.cli.main import main

BRIGHT = '''
import libstream as ls
import numpy as np

class Bright(ls.UDF):
    """Pixels above a floor, and the sum of all frames."""

    floor: float = ls.param(6.0, ge=0, le=100, unit="counts")
    mask: ls.Array | None = None

    def outputs(self):
        return {"n": ls.nav("int64", unit="px"), "total": ls.sig("float64")}

    def process_frame(self, frame, out):
        if self.mask is not None:
            frame = frame * self.mask.data
        out.n[...] = np.count_nonzero(frame > self.floor)
        out.total += frame

class Failing(ls.UDF):
    def outputs(self):
        return {"n": ls.nav("float64")}

    def process_frame(self, frame, out):
        if frame[0, 0] == 999:
            raise ZeroDivisionError("a pixel of 999")
        out.n[...] = 1
'''


@dataclass
class Said:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of an error; fails where there is a traceback or another number of such lines."""
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("libstream: error: ")]
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("libstream: error: ")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    """`cli("info", path)` runs the command line in this process."""

    def run(*args: Any) -> Said:
        capsys.readouterr()
        code = main([str(a) for a in args])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture
def data() -> np.ndarray:
    """Scan (5, 6), frames (8, 10), uint16."""
    return np.random.default_rng(0).poisson(5, (5, 6, 8, 10)).astype(np.uint16)


@pytest.fixture
def folder(tmp_path: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with scan.npy and bright.py in it."""
    monkeypatch.chdir(tmp_path)
    np.save("scan.npy", data)
    Path("bright.py").write_text(BRIGHT)
    return tmp_path
