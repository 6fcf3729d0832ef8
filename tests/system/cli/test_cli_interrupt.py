"""Ctrl-C and SIGTERM: what was finished is saved and marked incomplete, and the exit code is 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import libstream as ls

SLOW = """
import time
from pathlib import Path
import libstream as ls

class Slow(ls.UDF):
    def outputs(self):
        return {"n": ls.nav("float64")}

    def process_frame(self, frame, out, at):
        if at.index >= 40:
            Path("running").touch()
            time.sleep(0.05)
        out.n[...] = at.index
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")


def _start(folder: Path, *words: str) -> subprocess.Popen[str]:
    (folder / "slow.py").write_text(SLOW)
    np.save(folder / "a.npy", np.zeros((20, 100, 4, 4), np.uint8))
    np.save(folder / "b.npy", np.zeros((20, 100, 4, 4), np.uint8))
    return subprocess.Popen(
        [sys.executable, "-m", "libstream", "run", *words, "--udf", "slow.py", "--workers", "2"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _when_running(process: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not (folder / "running").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_finished_is_saved(folder: Path, number: int) -> None:
    process = _start(folder, "a.npy", "-o", "out.h5")
    _when_running(process, folder)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "libstream: interrupted: a.npy: " in err
    assert "saved to out.h5, marked incomplete" in err
    result = ls.load_result(folder / "out.h5")
    assert not result.complete
    valid = result.valid.reshape(-1)
    assert 0 < valid.sum() < 2000
    np.testing.assert_array_equal(result["n"].reshape(-1)[valid], np.flatnonzero(valid))
    assert np.isnan(result["n"].reshape(-1)[~valid]).all()


def test_without_output_nothing_is_saved_and_that_is_said(folder: Path) -> None:
    process = _start(folder, "a.npy")
    _when_running(process, folder)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "not saved (no -o)" in err


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_many_files(folder: Path, jobs: str) -> None:
    process = _start(folder, "a.npy", "b.npy", "scan.npy", "-o", "{stem}.h5", "--jobs", jobs, "--json")
    _when_running(process, folder)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "--resume goes on from here" in err
    import json

    statuses = {f["file"]: f["status"] for f in json.loads(out)["files"]}
    assert statuses["a.npy"] == "interrupted"
    if jobs == "1":
        assert statuses == {"a.npy": "interrupted", "b.npy": "not started", "scan.npy": "not started"}
        assert sorted(p.name for p in folder.glob("*.h5")) == ["a.h5"]
    assert not ls.load_result(folder / "a.h5").complete


def test_before_anything_was_computed(folder: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from libstream import api\n"
        "from libstream.cli.main import main\n"
        "real = api.start\n"
        "def start(*args, **options):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(*args, **options)\n"
        "api.start = start\n"
        "sys.exit(main(['run', 'scan.npy', '--udf', 'bright.py:Bright', '-o', 'out.h5']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert not (folder / "out.h5").exists()


def test_interrupted_export_leaves_nothing(folder: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from libstream.cli import export\n"
        "from libstream.cli.main import main\n"
        "real = export.binned\n"
        "def binned(*args):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(*args)\n"
        "export.binned = binned\n"
        "sys.exit(main(['export', 'scan.npy', '-o', 'out.npy']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    assert (done.returncode, done.stderr) == (130, "libstream: interrupted\n")
    assert sorted(os.listdir(folder)) == ["bright.py", "scan.npy"]
