"""A live source from opening to closing: nothing stays behind, whatever the moment; and days of acquisitions cost no memory."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import CancelledError, LibstreamError, NotArmed, UsageError
from libstream.live.ledger import imbalance
from libstream.testing.detectors import Wire, memory_source
from tests.live.failing import FRAMES, LIMIT_S, SCAN, UDFS, N, check, detector, taken, until

MIB = 1 << 20


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> list[str]:
    """What this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # the one of this listing
            continue
    return sorted(found)


def threads() -> list[str]:
    """Threads that are not kept for the next run."""
    return [t.name for t in threading.enumerate() if not t.name.startswith("libstream-worker")]


needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from /proc: Linux")


@needs_proc
@pytest.mark.parametrize("n", [20, pytest.param(100, marks=pytest.mark.soak)])
def test_acquisitions_one_after_another_leave_nothing(n: int) -> None:
    frames = np.random.default_rng(0).integers(0, 4000, (N, 256, 256)).astype(np.uint16)
    total = frames.sum(axis=(1, 2), dtype=np.uint64)
    before: Any = None
    with memory_source(wire := Wire(), scan=SCAN, ring_bytes=16 * MIB, stall_timeout_s=60.0) as live:
        for run in range(n):
            lost = [] if run % 3 else [run % N]
            wire.header(run, N)
            wire.frames(run, frames, [k for k in range(N) if k not in lost])
            wire.end(run)
            acquisition = taken(live)
            assert acquisition.run == run
            result = ls.run(acquisition, [ls.udfs.Sum(), ls.udfs.FrameTotals()], executor="threads")
            assert result.coverage.counts["missing"] == len(lost)
            assert np.array_equal(result["total"][result.valid], total.reshape(SCAN)[result.valid])
            assert imbalance(result.ledger) == ""
            if run == 4:  # all is loaded, the memory for frames is in use
                gc.collect()
                before = resident_bytes(), len(threads()), descriptors()
        del acquisition, result
        gc.collect()
        assert resident_bytes() - before[0] < 20 * MIB
        until(lambda: len(threads()) <= before[1], "threads of runs to end")
        assert descriptors() == before[2]
        assert live.status()["acquisitions"] == n
        assert not live.problems


# -- closing -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["waiting", "armed", "running", "draining"])
def test_closing_in_any_state(state: str) -> None:
    wire = Wire()
    live = memory_source(wire, scan=SCAN)
    if state != "waiting":
        wire.header(1, N)
    if state in ("running", "draining"):
        wire.frames(1, FRAMES, range(10))
    if state == "draining":
        wire.end(1)
    until(lambda: live.state == state, state)
    acquisition = taken(live) if state in ("running", "draining") else None
    live.close()
    live.close()
    assert live.state == live.status()["state"] == "closed"
    assert "closed" in repr(live)
    with pytest.raises(LibstreamError, match="memory:// is closed"):
        live.wait()
    assert list(live) == []
    if acquisition is not None:
        assert (acquisition.state, acquisition.reason) == ("incomplete", "the live source was closed")
        assert np.array_equal(acquisition[0, 3], FRAMES[3])  # what was received is there as long as somebody holds it
        check(ls.run(acquisition, UDFS), range(10), missing=N - 10)


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_closing_while_a_job_runs_over_it(executor: str) -> None:
    wire = Wire()
    live = memory_source(wire, scan=SCAN, stall_timeout_s=60.0)
    wire.header(1, N)
    wire.frames(1, FRAMES, range(10))
    acquisition = taken(live)
    until(lambda: acquisition.n_arrived == 10, "the frames")
    job = ls.start(acquisition, UDFS, executor=executor)
    until(lambda: (s := job.snapshot()) is not None and s.coverage.counts["processed"] == 10, "the frames to be shown")
    live.close()
    result = job.wait(LIMIT_S)
    check(result, range(10), missing=N - 10)
    assert not result.complete


def test_closing_while_the_memory_is_full() -> None:
    wire = Wire()
    live = memory_source(wire, scan=(24,), ring_bytes=4 * MIB)
    wire.header(1, 24)
    wire.frames(1, np.ones((24, 512, 512), np.uint16))
    until(lambda: live.status()["blocked"], "the memory to be full")
    assert live.status()["fill"] == 1.0
    acquisition = taken(live)
    live.close()
    result = ls.run(acquisition, [ls.udfs.FrameTotals()])
    assert result.ledger["processed"] == acquisition.n_arrived == result.ledger["received"]
    assert imbalance(result.ledger) == ""


def test_closing_wakes_who_waits() -> None:
    live = memory_source(Wire(), scan=SCAN)
    errors: list[Exception] = []

    def wait() -> None:
        try:
            live.wait()
        except LibstreamError as exc:
            errors.append(exc)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    live.close()
    for thread in threads:
        thread.join(LIMIT_S)
    assert [str(e) for e in errors] == ["memory:// is closed"] * 2


class Closes:
    """Something that is to be closed, and may fail at it."""

    def __init__(self, *, fails: bool = False) -> None:
        self.closed, self.fails = 0, fails
        self.n_bytes, self.error = 0, None

    def put(self, *args: Any) -> None:
        """Record nothing."""
        args[-1]()

    def close(self) -> None:
        """Count."""
        self.closed += 1
        if self.fails:
            raise OSError("cannot be closed")


class Line(Wire):
    """Counts how it is opened and closed."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.opened = self.closed = 0
        self.fails = fails

    def open(self) -> None:
        """Fail, if it is to."""
        self.opened += 1
        if self.fails:
            raise OSError("the address is in use")

    def close(self) -> None:
        """Count."""
        self.closed += 1


def source_with(line: Line, controller: Closes, recorder: Closes) -> ls.LiveSource:
    """A live source with everything that has to be closed."""
    from libstream.contracts.stream import Detector
    from libstream.live.source import LiveSource
    from libstream.testing.detectors import WireDecoder

    found = Detector("memory", line, WireDecoder, controller=controller)  # type: ignore[arg-type]
    return LiveSource(
        found, "memory://", scan=SCAN, order={}, shape_hook=None, ring_bytes=8 * MIB, max_message_bytes=None, policy="block",
        stall_timeout_s=None, describe=lambda m: m, recorder=recorder,
    )  # fmt: skip


def test_everything_is_closed_although_one_of_it_fails() -> None:
    line, controller, recorder = Line(), Closes(fails=True), Closes()
    live = source_with(line, controller, recorder)
    with pytest.raises(OSError, match="cannot be closed"):
        live.close()
    assert line.closed
    assert controller.closed
    assert recorder.closed
    assert live.state == "closed"


def test_what_cannot_be_opened_is_closed() -> None:
    line, controller, recorder = Line(fails=True), Closes(), Closes()
    with pytest.raises(OSError, match="the address is in use"):
        source_with(line, controller, recorder)
    assert (line.closed, controller.closed, recorder.closed) == (1, 1, 1)


def test_a_source_that_nobody_holds_disconnects() -> None:
    line, controller, recorder = Line(), Closes(), Closes()
    live = source_with(line, controller, recorder)
    thread, ring = live._ingest._thread, weakref.ref(live._ring)
    line.header(1, N)
    line.frames(1, FRAMES, range(5))
    acquisition: Any = taken(live)
    del live
    gc.collect()
    line.frames(1, FRAMES, range(5, N))  # the acquisition holds it
    line.end(1)
    check(ls.run(acquisition, UDFS), range(N))
    assert thread.is_alive()
    del acquisition
    gc.collect()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    until(lambda: line.closed and controller.closed and recorder.closed, "all to be closed")
    del thread
    gc.collect()
    assert ring() is None


@pytest.mark.parametrize(
    "options",
    [{"policy": "wait"}, {"stall_timeout_s": 0}, {"ring_bytes": 100}, {"max_message_bytes": 0}, {"flyback": -1}],
)
def test_options_that_cannot_be_leave_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        memory_source(Wire(), **{"scan": SCAN, **options})


# -- interrupts --------------------------------------------------------------------------------------------------------------------


def goes_on(live: ls.LiveSource, acquisition: ls.Acquisition, where: str) -> None:
    """Something that waits for the detector."""
    if where == "loop":
        for _ in live:
            pass
    ls.run(acquisition, UDFS, executor="inline" if "inline" in where else "threads")


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system has no signals for threads")
@pytest.mark.parametrize("where", ["loop", "run", "run inline"])
def test_a_keyboard_interrupt(where: str) -> None:
    with detector(stall_timeout_s=60.0) as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, range(10))
        acquisition = taken(live)
        until(lambda: acquisition.n_arrived == 10, "the frames")
        timer = threading.Timer(0.3, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))  # type: ignore[arg-type]
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            goes_on(live, acquisition, where)
        timer.join()
        wire.frames(1, FRAMES, range(10, N))
        wire.end(1)
        assert acquisition.wait(LIMIT_S) == "done"


def test_an_inline_job_that_waits_for_frames_can_be_cancelled() -> None:
    with detector(stall_timeout_s=60.0) as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, range(10))
        job = ls.start(taken(live), UDFS, executor="inline")
        until(lambda: (s := job.snapshot()) is not None and s.coverage.counts["processed"] == 10, "the frames to be shown")
        job.cancel()
        with pytest.raises(CancelledError) as info:
            job.wait(LIMIT_S)
        partial = info.value.partial
        assert isinstance(partial, ls.Result)
        assert partial.ledger["processed"] == 10
        assert imbalance(partial.ledger) == ""


# -- what can be asked at any time --------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet() -> Iterator[tuple[Wire, ls.LiveSource]]:
    """A source to which nothing has come."""
    with memory_source(wire := Wire(), scan=SCAN) as live:
        yield wire, live


def test_a_source_has_no_shape_and_no_commands(quiet: tuple[Wire, ls.LiveSource]) -> None:
    _, live = quiet
    with pytest.raises(NotArmed, match="has no shape before an acquisition begins"):
        live.meta  # noqa: B018
    with pytest.raises(UsageError, match="no connection for commands"):
        live.arm()
    assert live.wait(0.0) is None
    assert (live.address, live.n_acquisitions, live.problems) == ("memory", 0, ())


def test_how_it_stands(quiet: tuple[Wire, ls.LiveSource]) -> None:
    wire, live = quiet
    wire.header(1, N)
    wire.frames(1, FRAMES, [0, 1, 1])
    wire.frames(9, FRAMES, [0])
    wire.send(b"?")
    until(lambda: live.status()["malformed"] == 1, "all messages")
    status = live.status()
    assert {k: status[k] for k in ("state", "run", "arrived", "announced", "waiting", "messages", "frames", "duplicate", "foreign")} == {
        "state": "running", "run": 1, "arrived": 2, "announced": N, "waiting": 1, "messages": 6, "frames": 2, "duplicate": 1, "foreign": 1,
    }  # fmt: skip
    assert 0 < status["fill"] < 1
    assert status["bytes"] > 4 * FRAMES[0].nbytes
    acquisition = taken(live)
    assert (acquisition.run, acquisition.state, acquisition.counts.duplicate, acquisition.wait(0.0)) == (1, "running", 1, "running")
