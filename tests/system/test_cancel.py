"""A cancelled run stops working: counted by the calls that are made afterwards, not by what the job says."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import CancelledError
from libstream.executors import processes, threads

ROOT = Path(__file__).parents[2]
FRAMES = np.ones((32, 32, 4, 4), "u2")
LIMIT_S = 30.0


class Marks(ls.UDF):
    """Adds a byte to a file for each frame, and takes its time."""

    path: str
    seconds: float = 0.003
    dry_run = False

    def outputs(self) -> dict[str, ls.Output]:
        return {"n": ls.single("i8"), "pid": ls.nav("i8")}

    def process_frame(self, frame: Any, out: Any) -> None:
        with open(self.path, "ab", buffering=0) as f:
            f.write(b".")
        time.sleep(self.seconds)
        out.n[...] += 1
        out.pid[...] = os.getpid()


class Burn(ls.UDF):
    """Compiled, some 10 ms a frame."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"v": ls.nav("f8")}

    @ls.kernel
    def process_frame(frame, v):
        s = 1.0
        for _ in range(2_000_000):
            s = s * 1.0000001 + 1e-9
        v[0] = s + frame[0, 0]


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT_S} s: {what}"
        time.sleep(0.005)


def goes_on(path: Path, seconds: float = 0.3) -> int:
    """Calls within the next `seconds`."""
    before = size(path)
    time.sleep(seconds)
    return size(path) - before


@pytest.fixture(params=["inline", "threads", "processes"])
def executor(request: pytest.FixtureRequest) -> Any:
    if request.param == "inline":
        yield "inline"
        return
    with ls.executor(request.param, workers=2) as ex:
        ls.run(FRAMES[:1, :4], Marks(path=os.devnull, seconds=0.0), executor=ex)
        yield ex


def test_cancel_stops_calls(executor: Any, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    job = ls.start(FRAMES, Marks(path=str(marks)), executor=executor)
    until(lambda: size(marks) > 300, "partitions of more than 100 frames are in work")
    before = size(marks)
    job.cancel()
    with pytest.raises(CancelledError):
        job.wait(LIMIT_S)
    # no frame begins later than 0.1 s after the cancel; two workers, 3 ms a frame
    assert size(marks) - before <= 2 * (0.1 / 0.003 + 1)
    assert goes_on(marks) == 0, "the run was cancelled, its UDF is still called"
    assert size(marks) < 1024


def test_leaving_a_loop_stops_calls(executor: Any, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    for result in ls.run_iter(FRAMES, Marks(path=str(marks)), executor=executor):
        assert not result.final
        break
    time.sleep(0.2)
    assert goes_on(marks) == 0
    assert 0 < size(marks) < 1024


def test_an_error_stops_calls(executor: Any, tmp_path: Path) -> None:
    marks = tmp_path / "marks"

    class Fails(Marks):
        def process_frame(self, frame: Any, out: Any, at: Any) -> None:
            super().process_frame(frame, out)
            if at.index == 100:
                raise ValueError("stop here")

    with pytest.raises(ls.errors.UDFError, match=r"stop here, at scan position \(3, 4\)"):
        ls.run(FRAMES, Fails(path=str(marks)), executor=executor)
    assert goes_on(marks) == 0
    assert size(marks) < 1024


def test_new_parameters_stop_the_old_ones(executor: Any, tmp_path: Path) -> None:
    """Work of an old generation does not go on beside the new one."""
    old, new = tmp_path / "old", tmp_path / "new"
    job = ls.start(FRAMES, {"m": Marks(path=str(old))}, executor=executor)
    until(lambda: job.snapshot() is not None, "the first snapshot")
    job.update("m", path=str(new), seconds=0.0)
    result = job.wait(LIMIT_S)
    assert result["n"] == 1024
    assert size(new) >= 1024
    assert size(old) < 1024
    assert goes_on(old) == 0


@pytest.mark.parametrize("kind", ["inline", "threads"])
def test_compiled_loops_stop_after_a_tile(kind: str) -> None:
    frames = np.ones((1024, 128, 128), "u2")  # 32 frames a tile, some 10 s of work
    job = ls.start(frames, Burn(), executor=kind)
    until(lambda: job.snapshot() is not None, "the first snapshot")
    begun = time.monotonic()
    job.cancel()
    with pytest.raises(CancelledError) as caught:
        job.wait(LIMIT_S)
    partial: Any = caught.value.partial
    assert 0 < partial.valid.sum() < 1024
    assert time.monotonic() - begun < 8.0, "a cancelled compiled loop went on"


def test_processes_that_sleep_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE_S", 0.4)
    marks = tmp_path / "marks"
    with ls.executor("processes", workers=2) as ex:
        pids = set(np.unique(ls.run(FRAMES, Marks(path=os.devnull, seconds=0.0), executor=ex)["pid"]).tolist())
        job = ls.start(FRAMES, Marks(path=str(marks), seconds=600.0), executor=ex)
        until(lambda: size(marks) >= 2, "both workers sleep")
        begun = time.monotonic()
        job.cancel()
        with pytest.raises(CancelledError):
            job.wait(LIMIT_S)
        assert time.monotonic() - begun < LIMIT_S / 2
        until(lambda: not any(_alive(pid) for pid in pids), "the workers that slept are gone")
        again = ls.run(FRAMES[:4], Marks(path=str(marks), seconds=0.0), executor=ex)
        assert again["n"] == 128, "new workers took their places"
        assert not set(np.unique(again["pid"]).tolist()) & pids


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc/self").exists() else True


def test_threads_that_cannot_be_killed_are_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(threads, "PATIENCE_S", 0.05)
    awake, begun = threading.Event(), threading.Event()

    class Waits(ls.UDF):
        def outputs(self) -> dict[str, ls.Output]:
            return {"n": ls.single("i8")}

        def process_frame(self, frame: Any, out: Any, at: Any) -> None:
            if frame[0, 0] == 2:
                begun.set()
                awake.wait(LIMIT_S)

    frames = FRAMES.copy()
    frames[8:] = 2
    job = ls.start(frames, Waits(), executor="threads")
    assert begun.wait(LIMIT_S)
    with caplog.at_level(logging.WARNING, "libstream"):
        job.cancel()
        until(lambda: caplog.records, "a warning")
    assert "threads cannot be killed" in caplog.text
    assert not job.done
    awake.set()
    with pytest.raises(CancelledError):
        job.wait(LIMIT_S)


SCRIPT = """
    import os, signal, sys, time
    import numpy as np
    sys.path.insert(0, {root!r})
    import libstream as ls
    from tests.system.test_cancel import FRAMES, Marks

    if __name__ == "__main__":
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            ls.run(FRAMES, Marks(path={marks!r}), executor={kind!r})
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
@pytest.mark.parametrize("kind", ["inline", "threads", "processes"])
def test_ctrl_c(kind: str, tmp_path: Path) -> None:
    """As from a terminal: the signal goes to all processes of the group."""
    marks, script = tmp_path / "marks", tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(root=str(ROOT), marks=str(marks), kind=kind)))
    child = subprocess.Popen(
        [sys.executable, str(script)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "LIBSTREAM_THREADS": "2"},
    )  # fmt: skip
    try:
        until(lambda: size(marks) > 20 or child.poll() is not None, "the run has begun")
        assert child.poll() is None, child.communicate()
        begun = time.monotonic()
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=LIMIT_S)
        assert "interrupted" in out, err
        assert child.returncode == 0, err
        assert time.monotonic() - begun < LIMIT_S / 2
        assert goes_on(marks, 0.2) == 0
        assert size(marks) < 1024
        until(lambda: not _group_alive(child.pid), "all its processes have ended")
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the number was given to somebody else
        return False
    return True
