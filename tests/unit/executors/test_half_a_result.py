"""A worker process that is killed while it writes a result."""

from __future__ import annotations

import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes by a signal")


class DiesWriting(ls.UDF):
    """Counts frames; at one of them, once, half a message gets into the pipe of results and its process is killed."""

    mark: str

    def outputs(self) -> dict[str, Any]:
        return {"n": ls.single("int64")}

    def process_frame(self, frame: Any, out: Any) -> None:
        if frame[0, 0] == 20 and not Path(self.mark).exists():
            Path(self.mark).touch()
            at = sys._getframe()
            while "result_queue" not in at.f_locals:
                assert at.f_back is not None
                at = at.f_back
            os.write(at.f_locals["result_queue"]._writer.fileno(), struct.pack("!i", 1_000_000) + bytes(1000))
            os.kill(os.getpid(), signal.SIGKILL)
        out.n[...] += 1


def test_the_run_goes_on(tmp_path: Path) -> None:
    frames = np.zeros((8, 8, 4, 4), np.uint16)
    frames[..., 0, 0] = np.arange(64).reshape(8, 8)
    with ls.executor("processes", workers=2) as ex:
        job = ls.start(ls.open(frames), DiesWriting(mark=str(tmp_path / "mark")), executor=ex)
        result = job.wait(60)
    assert (tmp_path / "mark").exists()
    assert result.complete
    assert int(result["n"]) == 64
