"""Tests that every executor has to pass. Inherit `ExecutorTests`, say how one is made, run pytest.

class TestMine(ExecutorTests):
    def make(self):
        return MyExecutor(workers=2)

Work is counted by marks in a file, so that the same tests hold for threads, processes and other computers of one file system.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libstream.contracts.executor import CancelFlag, Executor
from libstream.contracts.source import Partition
from libstream.errors import CancelledError, UDFError, WorkerLostError
from libstream.testing._bench import differ
from libstream.testing._works import CountedWork, FrameSums, KernelSums, RaisesAt, partitions
from libstream.testing.laws import random_frames
from libstream.testing.sources import ScriptedSource, part_filled


class ExecutorTests:
    """Tests of one executor. Override `make`; `wait_s` where starting workers takes long."""

    wait_s: float = 20.0
    """Longest time that a step may take before the test fails."""
    _ex: Any = None

    def make(self) -> Executor:
        """A new executor with two workers or so."""
        raise NotImplementedError("override make() to return an executor")

    @classmethod
    def setup_class(cls) -> None:
        """One executor for most tests: it has to stay usable after each of them."""
        if cls is ExecutorTests:
            return
        cls._ex = cls().make()
        with tempfile.TemporaryDirectory() as folder:
            # workers are started here: they may outlive a test
            list(cls()._imap(cls._ex, CountedWork(f"{folder}/marks", tile_s=0.05), partitions(2)))

    @classmethod
    def teardown_class(cls) -> None:
        """Close it."""
        if cls is not ExecutorTests:
            cls._ex.close()

    @pytest.fixture
    def ex(self) -> Executor:
        """The executor under test."""
        return self._ex

    # -- results -----------------------------------------------------------------------------------------------------

    def test_the_same_bits_as_inline(self, ex: Executor) -> None:
        from libstream.api import run

        frames = random_frames((16, 16), (12, 10), "uint16")
        udfs = {"python": FrameSums(), "kernel": KernelSums()}
        here = run(ScriptedSource(frames, part_filled(4, most=9)), udfs, executor="inline")
        for _ in range(2):
            there = run(ScriptedSource(frames, part_filled(4, most=9)), udfs, executor=ex)
            wrong = [differ(f"{k}/{n}", here[k][n], there[k][n], 0.0) for k in udfs for n in here[k]]
            assert not any(wrong), "; ".join(w for w in wrong if w)

    def test_every_partition_is_processed_once(self, ex: Executor, tmp_path: Path) -> None:
        work = CountedWork(str(tmp_path / "marks"), tile_s=0.001)
        done = _numbers(self._imap(ex, work, partitions(40)))
        assert sorted(done) == list(range(40))
        assert work.by_number("tile") == dict.fromkeys(range(40), work.tiles)
        assert work.count("setup") >= 1, "setup was not called before process"

    def test_nothing_to_do(self, ex: Executor, tmp_path: Path) -> None:
        assert _numbers(self._imap(ex, CountedWork(str(tmp_path / "marks")), partitions(0))) == []

    # -- errors ------------------------------------------------------------------------------------------------------

    def test_an_error_of_user_code_is_raised_once_with_its_place(self, ex: Executor) -> None:
        from libstream.api import start

        frames = random_frames((16, 16), (4, 4), "uint16")
        job = start(ScriptedSource(frames, part_filled(4, most=9)), {"bad": RaisesAt(position=100)}, executor=ex)
        error = _raised(UDFError, lambda: job.wait(self.wait_s))
        assert (error.udf, error.where) == ("bad", "at scan position (6, 4)"), f"{error.udf} {error.where}"
        assert "ValueError: boo" in str(error), str(error)
        assert "raise ValueError" in error.remote_traceback, "the traceback of the user's code is missing"
        snapshot = job.snapshot()
        assert snapshot is not None, "what was merged before the error is kept"
        assert not snapshot.complete
        # the executor is as good as new
        frames = frames[:4]
        assert int(start(frames, {"good": RaisesAt(position=-1)}, executor=ex).wait(self.wait_s)["n"]) == 64

    def test_an_error_stops_the_work(self, ex: Executor, tmp_path: Path) -> None:
        work = CountedWork(str(tmp_path / "marks"), fail_at=4, tiles=20)
        error = _raised(UDFError, lambda: list(self._imap(ex, work, partitions(None))))
        assert "partition 4" in str(error)
        self._nothing_goes_on(work)
        assert work.count("failed") == 1, "user code that raises is not tried again"

    def test_an_error_of_the_source_is_raised(self, ex: Executor, tmp_path: Path) -> None:
        def broken() -> Iterator[Partition]:
            yield from partitions(3)
            raise OSError("the detector went away")

        work = CountedWork(str(tmp_path / "marks"), tile_s=0.001)
        error = _raised(OSError, lambda: list(self._imap(ex, work, broken())))
        assert "went away" in str(error)
        self._nothing_goes_on(work)

    # -- cancel --------------------------------------------------------------------------------------------------------

    def test_cancel_stops_work(self, ex: Executor, tmp_path: Path) -> None:
        """At most the tiles that were running, and those that begin within 0.1 s, come after a cancel."""
        work = CountedWork(str(tmp_path / "marks"), tiles=1000, tile_s=0.01)
        cancel = CancelFlag(shared=True)

        def stop() -> None:
            self._until(lambda: work.count("tile") > 5)
            cancel.set()

        timer = threading.Thread(target=stop)
        timer.start()
        before = time.monotonic()
        _raised(CancelledError, lambda: list(self._imap(ex, work, partitions(None), cancel)))
        assert time.monotonic() - before < self.wait_s
        self._nothing_goes_on(work)
        timer.join()
        workers = ex.traits.n_workers
        assert work.count("tile") < 1000, "a partition was finished after the cancel"
        assert len(work.by_number("tile")) <= 2 * workers + 1, f"partitions started: {sorted(work.by_number('tile'))}"
        cancel.remove()

    def test_nothing_starts_under_a_cancel(self, ex: Executor, tmp_path: Path) -> None:
        work = CountedWork(str(tmp_path / "marks"))
        cancel = CancelFlag(shared=True)
        cancel.set()
        _raised(CancelledError, lambda: list(self._imap(ex, work, partitions(None), cancel)))
        assert work.count("tile") == 0
        cancel.remove()

    def test_leaving_the_iteration_stops_work(self, ex: Executor, tmp_path: Path) -> None:
        work = CountedWork(str(tmp_path / "marks"), tiles=10)
        for p in (results := self._imap(ex, work, partitions(None))):
            if p is not None and p.number + p.span > 2:
                break
        results.close()
        self._nothing_goes_on(work)
        work = CountedWork(str(tmp_path / "marks2"), tile_s=0.001)
        assert len(_numbers(self._imap(ex, work, partitions(5)))) == 5, "the executor cannot be used again"

    # -- partitions that come late -------------------------------------------------------------------------------------

    def test_partitions_are_taken_as_they_are_needed(self, ex: Executor, tmp_path: Path) -> None:
        taken: list[int] = []
        work = CountedWork(str(tmp_path / "marks"), tile_s=0.001)
        results = self._imap(ex, work, partitions(None, taken))
        done = 0
        for p in results:
            done += 0 if p is None else p.span
            if done >= 5:
                break
        # an executor that merges neighbours hands out fewer results than it has
        worked = sum(n == work.tiles for n in work.by_number("tile").values())
        ahead = len(taken) - worked
        results.close()
        assert ahead <= 4 * ex.traits.n_workers + 4, f"{len(taken)} partitions of an endless source were taken when {worked} were done"

    def test_a_source_that_waits_does_not_hold_up_results(self, ex: Executor, tmp_path: Path) -> None:
        gate = threading.Event()

        def waiting() -> Iterator[Partition]:
            yield from partitions(2)
            if not gate.wait(self.wait_s):
                raise TimeoutError("results were held up by the source")
            yield Partition(2, np.array([[2, 3]], np.int64))

        if ex.traits.in_caller:
            _skip("this executor runs in the thread that would have to wait")
        done = []
        for p in self._imap(ex, CountedWork(str(tmp_path / "marks"), tile_s=0.001), waiting()):
            done += _numbers([p])
            if len(done) == 2:
                gate.set()
        assert sorted(done) == [0, 1, 2]

    def test_the_loop_is_woken_while_nothing_comes(self, ex: Executor, tmp_path: Path) -> None:
        work = CountedWork(str(tmp_path / "marks"), tiles=1, tile_s=0.5)
        if ex.traits.in_caller:
            _skip("this executor runs in the thread that would be woken")
        silent = [p for p in self._imap(ex, work, partitions(1)) if p is None]
        assert len(silent) >= 4, f"None came {len(silent)} times in half a second"

    def test_cancel_while_the_source_waits(self, ex: Executor, tmp_path: Path) -> None:
        gate, cancel = threading.Event(), CancelFlag(shared=True)

        def waiting() -> Iterator[Partition]:
            yield from partitions(1)
            gate.wait(2 * self.wait_s)

        if ex.traits.in_caller:
            _skip("this executor runs in the thread that would have to wait")
        try:
            for p in (results := self._imap(ex, CountedWork(str(tmp_path / "marks"), tile_s=0.001), waiting(), cancel)):
                if p is not None:
                    break
            cancel.set()
            before = time.monotonic()
            _raised(CancelledError, lambda: list(results))
            assert time.monotonic() - before < self.wait_s / 2, "the cancel waited for the source"
        finally:
            gate.set()
        cancel.remove()

    def test_a_run_that_waits_does_not_hold_up_another(self, ex: Executor, tmp_path: Path) -> None:
        gate = threading.Event()

        def waiting() -> Iterator[Partition]:
            yield from partitions(1)
            gate.wait(self.wait_s)

        one, other = (CountedWork(str(tmp_path / name), tile_s=0.001) for name in ("one", "other"))
        first = threading.Thread(target=lambda: list(self._imap(ex, one, waiting())))
        first.start()
        try:
            self._until(lambda: one.count("tile") == one.tiles)
            done = _numbers(self._imap(ex, other, partitions(6)))
            assert sorted(done) == list(range(6))
            assert first.is_alive(), "the first run ended early"
            assert not gate.is_set()
        finally:
            gate.set()
            first.join()

    # -- workers that die ------------------------------------------------------------------------------------------------

    def test_a_partition_whose_worker_died_is_tried_again(self, tmp_path: Path) -> None:
        work = CountedWork(str(tmp_path / "marks"), die_at=6, once=True, tile_s=0.001)
        with _Closing(self.make()) as ex:
            if not ex.traits.crosses_process:
                _skip("workers are threads of this process")
            done = _numbers(self._imap(ex, work, partitions(12)))
        assert sorted(done) == list(range(12)), f"results of partitions {sorted(done)}"
        assert work.count("died") == 1

    def test_a_partition_that_kills_is_given_up(self, tmp_path: Path) -> None:
        work = CountedWork(str(tmp_path / "marks"), die_at=3, tile_s=0.001)
        with _Closing(self.make()) as ex:
            if not ex.traits.crosses_process:
                _skip("workers are threads of this process")
            error = _raised(WorkerLostError, lambda: list(self._imap(ex, work, partitions(None))))
            assert "3 times" in str(error), str(error)
            assert "3 to 4" in str(error), f"the positions are not named: {error}"
            assert work.count("died") == 3
            again = CountedWork(str(tmp_path / "again"), tile_s=0.001)
            assert len(_numbers(self._imap(ex, again, partitions(4)))) == 4, "the executor cannot be used again"

    # -- the end -------------------------------------------------------------------------------------------------------

    def test_closing_leaves_nothing(self, tmp_path: Path) -> None:
        before = set(threading.enumerate())
        ex = self.make()
        assert len(_numbers(self._imap(ex, CountedWork(str(tmp_path / "marks"), tile_s=0.001), partitions(4)))) == 4
        ex.close()
        ex.close()
        self._until(lambda: not {t for t in threading.enumerate() if t.is_alive()} - before, "threads are left: ")

    # -- inside --------------------------------------------------------------------------------------------------------

    def _imap(self, ex: Executor, work: Any, source: Iterator[Partition], cancel: CancelFlag | None = None) -> Any:
        flag = cancel if cancel is not None else CancelFlag(shared=ex.traits.crosses_process)
        try:
            yield from ex.imap(work, source, in_flight=ex.traits.n_workers, cancel=flag)
        finally:
            if cancel is None:
                flag.remove()

    def _nothing_goes_on(self, work: CountedWork) -> None:
        """After the iteration has ended no tile begins any more."""
        n = work.count("tile")
        time.sleep(0.1 + 3 * work.tile_s)
        more = work.count("tile") - n
        assert more == 0, f"{more} tiles began after the iteration had ended"

    def _until(self, condition: Callable[[], bool], what: str = "") -> None:
        deadline = time.monotonic() + self.wait_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}{[t.name for t in threading.enumerate()]}")
            time.sleep(0.005)


class _Closing:
    def __init__(self, ex: Executor) -> None:
        self.ex = ex

    def __enter__(self) -> Executor:
        return self.ex

    def __exit__(self, *exc: object) -> None:
        self.ex.close()


def _numbers(results: Iterable[Any]) -> list[int]:
    """Numbers of the partitions in these results; an executor may merge neighbours."""
    return [n for p in results if p is not None for n in range(p.number, p.number + p.span)]


def _raised(kind: type[Any], func: Callable[[], Any]) -> Any:
    try:
        func()
    except kind as exc:
        return exc
    raise AssertionError(f"{kind.__name__} was expected, nothing was raised")


def _skip(why: str) -> None:
    import pytest

    pytest.skip(why)
