"""The handle of a run: wait, look, change parameters, cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from libstream.contracts.executor import CancelFlag, Executor
from libstream.contracts.params import make
from libstream.contracts.source import FrameSource, HandsOut
from libstream.contracts.udf import UDF
from libstream.errors import CancelledError, UsageError
from libstream.model.corrections import Corrections
from libstream.model.result import Result
from libstream.run.around import around
from libstream.run.bind import Bound, OnChannel, bind
from libstream.run.board import Board
from libstream.run.collect import Collector
from libstream.run.loop import run_loop
from libstream.run.stamp import array_params, stamp


@dataclass(frozen=True)
class Progress:
    """How far a run is. Positions, bytes of frames, seconds since its generation began."""

    n_done: int
    n_total: int
    bytes_done: int
    seconds: float
    generation: int

    @property
    def frames_per_s(self) -> float:
        """Mean rate in frames per second."""
        return self.n_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def bytes_per_s(self) -> float:
        """Mean rate in bytes of frames per second."""
        return self.bytes_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """Expected time to the end in seconds (inf before the first frame)."""
        return (self.n_total - self.n_done) / self.frames_per_s if self.n_done else float("inf")


ProgressCallback = Callable[[Progress], None]


class Job:
    """A run of UDFs over a source. Made by `ls.start`; use it from any thread.

    `wait()` gives the final result, `snapshot()` the newest, `update(key, ...)` changes parameters (a new generation),
    `cancel()` stops; `explain()` and `profile()` say what was chosen and where the time went.
    """

    def __init__(
        self,
        source: FrameSource,
        udfs: Mapping[str, UDF | OnChannel],
        *,
        executor: Executor,
        roi: Any = None,
        corrections: Corrections | None = None,
        progress: ProgressCallback | None = None,
        order: str = "scan",
        saver: Callable[[Result, Path], None] | None = None,
        tick_s: float | None = None,
        profile: bool = False,
    ) -> None:
        if order not in ("scan", "coarse"):
            raise UsageError(f"order must be 'scan' or 'coarse', got {order!r}")
        self._source, self._executor, self._progress, self._saver = source, executor, progress, saver
        self._tick_s = source.tick_s if tick_s is None else tick_s
        self._options: dict[str, Any] = {"roi": roi, "corrections": corrections, "order": order, "traits": executor.traits}
        self._by_udf = profile
        self._udfs = dict(udfs)
        self._lock = threading.RLock()
        self._idle = threading.Event()
        self._board = Board()
        self._generation = 0
        self._error: BaseException | None = None
        self._stopped = False  # cancel() was called
        self._cut_short = False  # and it came before the end
        self._cancel: CancelFlag | None = None
        self._hands_out: HandsOut | None = None
        self._published_in_generation = False
        self._last_progress = Progress(0, 0, 0, 0.0, 0)
        self._collector: Collector | None = None
        self._bound = self._bind(self._udfs)
        self._pending: Bound | None = self._bound
        self._thread: threading.Thread | None = None

    # -- for users -------------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Number of the parameters in use, from 0; raised by `update`."""
        return self._generation

    @property
    def udfs(self) -> Mapping[str, UDF]:
        """The UDFs as they are bound to the source, by key: `meta` and `outputs()` work, quantities are px."""
        return self._bound.udfs

    @property
    def given(self) -> Mapping[str, UDF | OnChannel]:
        """The UDFs with the newest parameters, as they were given, by key."""
        return dict(self._udfs)

    @property
    def source(self) -> FrameSource:
        """What it runs over."""
        return self._source

    @property
    def corrections(self) -> Corrections | None:
        """How frames are corrected."""
        return self._bound.corrections

    @property
    def state(self) -> str:
        """ "running", "done", "cancelled" or "failed"."""
        if not self._idle.is_set():
            return "running"
        return "failed" if self._error is not None else "cancelled" if self._cut_short or self._board.get() is None else "done"

    @property
    def in_caller(self) -> bool:
        """True where the executor runs in the caller's thread: use `steps()` then."""
        return self._executor.traits.in_caller

    @property
    def done(self) -> bool:
        """True when nothing is running."""
        return self._idle.is_set()

    @property
    def progress(self) -> Progress:
        """How far the current generation is."""
        return self._last_progress

    def wait(self, timeout_s: float | None = None) -> Result:
        """The final result. Raises the error of the run; CancelledError (with `.partial`) when it was cancelled;
        TimeoutError after `timeout_s` seconds, the run goes on then."""
        if not self._idle.wait(timeout_s):
            raise TimeoutError(f"the run is not finished after {timeout_s} s")
        if self._error is not None:
            raise self._error
        result = self._board.get()
        if result is None:
            raise CancelledError("the run was cancelled before anything was computed")
        if self._cut_short:
            raise CancelledError(f"the run was cancelled: {result.coverage}", partial=result)
        return result

    def snapshot(self) -> Result | None:
        """The newest published result; None before the first one. Works after an error too (incomplete then)."""
        return self._board.get()

    def newer(self, version: int, timeout_s: float) -> Result | None:
        """The newest result as soon as its version is above `version`; None after `timeout_s` seconds, or when the run ends before.

        For whoever watches a run whose parameters change: versions go on rising from one generation to the next.
        """
        return self._board.wait(version, timeout_s)

    def results(self) -> Iterator[Result]:
        """Newest results as they are published, older ones skipped; the last one is final. Closing the iterator cancels."""
        seen = 0
        try:
            while True:
                idle = self._idle.is_set()  # asked first: what was published before the end is not missed
                result = self._board.wait(seen, 0.0 if idle else 0.5)
                if result is not None:
                    seen = result.version
                    yield result
                elif idle:
                    break
            self.wait()
        finally:
            if not self._idle.is_set():
                self.cancel()

    def update(self, key: str, **params: Any) -> int:
        """Change parameters of UDF `key`: everything is computed again as a new generation, whose number is returned.

        Parameters that arrive before the newest generation has shown anything collapse to the last ones. Raises
        ParameterError at once for values that are not allowed; the run goes on with the old ones then.
        """
        with self._lock:
            if key not in self._udfs:
                raise UsageError(f"this run has no UDF {key!r}; it has {', '.join(self._udfs)}")
            old = self._udfs[key]
            inner = old.udf if isinstance(old, OnChannel) else old
            new = make(type(inner), {**inner.parameters(), **params})
            udfs = {**self._udfs, key: OnChannel(old.channel, new) if isinstance(old, OnChannel) else new}
            self._pending = self._bind(udfs)
            self._udfs = udfs
            self._stopped = False  # whoever sets parameters wants to see them, also after a cancel
            number = self._generation + 1
            if self._idle.is_set():
                self._restart()
            elif self._published_in_generation:
                self._interrupt()
            return number

    def cancel(self) -> None:
        """Stop: no tile starts any more, running calls end by themselves. What was merged stays in `snapshot()`.

        Does nothing once the run has ended.
        """
        with self._lock:
            if self._idle.is_set():
                return
            self._stopped = True
            self._pending = None
            self._interrupt()

    def explain(self) -> str:
        """The choices of the plan in words, one a line."""
        return self._bound.plan.explain()

    def profile(self) -> dict[str, float]:
        """Seconds of worker time by part: "read", "convert", "udf:<key>", "merge"; summed over workers.

        Compiled UDFs of one pass share a loop and have one entry, "udf:<key>+<key>", unless the job was started with profile=True.
        """
        return dict(self._collector.seconds) if self._collector is not None else {}

    def __repr__(self) -> str:
        p = self._last_progress
        return f"<Job {', '.join(self._udfs)} over {self._source.meta.id.uri}: {self.state}, {p.n_done} of {p.n_total} positions>"

    def _repr_html_(self) -> str:
        from libstream.model.html import job_html, number

        p = self._last_progress
        rate = f", {number(round(p.frames_per_s))} frames/s" if p.n_done else ""
        words = f"{p.n_done} of {p.n_total} positions{rate}, generation {p.generation}"
        error = "" if self._error is None or not self.done else f"{type(self._error).__name__}: {self._error}"
        return job_html(self.state, p.n_done / p.n_total if p.n_total else 0.0, words, error, self.snapshot())

    # -- for the api -----------------------------------------------------------------------------------------------

    def start(self) -> Job:
        """Start the run's thread."""
        self._idle.clear()
        self._thread = threading.Thread(target=self._run, name="libstream-run", daemon=True)
        self._thread.start()
        return self

    def steps(self) -> Iterator[Result]:
        """Run in the caller's thread (inline executor: pdb stops at the user's line); yields published results."""
        self._idle.clear()
        finished = False
        try:
            for _ in self._generations():
                result = self._board.get()
                if result is not None and not result.final:
                    yield result
            finished = True
        finally:
            if not finished:
                self._stopped = self._cut_short = True
            self._idle.set()
        yield self.wait()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        if self._cancel is not None:
            self._cancel.set()
        if self._hands_out is not None:
            self._hands_out.wake()  # an executor in the caller's thread waits in it

    def _bind(self, udfs: Mapping[str, UDF | OnChannel]) -> Bound:
        bound = bind(self._source, udfs, **self._options)
        bound.work.profile = self._by_udf
        return bound

    def _restart(self) -> None:
        self._error, self._stopped = None, False
        self._generation += 1
        self.start()

    def _run(self) -> None:
        while True:
            error: BaseException | None = None
            try:
                for _ in self._generations():
                    pass
            except BaseException as exc:  # noqa: BLE001  kept for wait(): a thread has nobody else to tell
                error = exc
            with self._lock:
                if self._pending is None:
                    self._error = error
                    self._idle.set()
                    break
                self._generation += 1  # parameters that arrived after the last look, or with the error
        self._board.wake()

    def _generations(self) -> Iterator[None]:
        first = True
        while True:
            with self._lock:
                if self._pending is None:
                    return
                self._bound, self._pending = self._pending, None
                if not first:
                    self._generation += 1
                self._published_in_generation = self._cut_short = False
                self._cancel = CancelFlag(shared=self._executor.traits.crosses_process)
                if self._stopped:
                    self._cancel.set()
            first = False
            try:
                yield from self._one_generation(self._bound, self._cancel)
            finally:
                self._cancel.remove()

    def _one_generation(self, bound: Bound, cancel: CancelFlag) -> Iterator[None]:
        started, begun = datetime.now(UTC), time.monotonic()
        collector = self._collector = bound.collector()
        frame_bytes = sum(c.dtype.itemsize * _prod(c.sig) for c in bound.work.channels)
        channels = {k: c.channel for c in bound.work.channels for k in c.udfs}
        params = array_params(bound)
        record = stamp(bound, channels, self._executor.name, self._generation)
        partitions = bound.source.partitions(bound.plan.partitions())
        hands_out = self._hands_out = partitions if isinstance(partitions, HandsOut) else None

        def publish(final: bool = False) -> None:
            with self._lock:
                self._published_in_generation = True
                if self._pending is not None and not final:
                    self._interrupt()
            result = collector.result(self._generation, self._board.next_version(), {}, params, final)
            now = datetime.now(UTC)
            times = {"started": started.isoformat(), "ended": now.isoformat(), "seconds": (now - started).total_seconds()}
            counts = result.coverage.counts
            run = {**record, "times": {**times, "by_part": dict(collector.seconds)}, "coverage": counts}
            if hands_out is not None:
                run.update(hands_out.report(counts))
            if collector.failures:
                run["failures"] = dict(collector.failures)
            self._board.publish(replace(result, run=run, saver=self._saver))

        def progress(c: Collector) -> None:
            done = c.n_tried
            self._last_progress = Progress(done, bound.plan.n_selected, done * frame_bytes, time.monotonic() - begun, self._generation)
            if self._progress is not None:
                self._progress(self._last_progress)

        self._last_progress = Progress(0, bound.plan.n_selected, 0, 0.0, self._generation)
        try:
            with around(bound.udfs, collector):
                yield from run_loop(self._executor, bound.work, partitions, collector, cancel, publish, progress, self._tick_s)
        except CancelledError:
            with self._lock:
                superseded = self._pending is not None
            if not superseded:
                publish(final=True)
                if not self._stopped:
                    raise
                self._cut_short = True
                return
        except BaseException:
            self._publish_what_is_there(publish)
            raise
        else:
            publish(final=True)
        finally:
            if hands_out is not None:
                hands_out.close()
            bound.work.close()
        yield

    def _publish_what_is_there(self, publish: Callable[[bool], None]) -> None:
        try:
            publish(True)
        except Exception:  # noqa: BLE001  the error of the run is on its way; a second one from a UDF's finish would hide it
            return


def _prod(shape: tuple[int, ...]) -> int:
    out = 1
    for n in shape:
        out *= n
    return out
