"""The runs of a live source: what begins, continues, drains and ends them. Waiting -> armed -> running -> draining -> closed."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from libstream.contracts.stream import Announced, Event, FramePart, RunEnd, RunHeader
from libstream.errors import LibstreamError, WireError
from libstream.live.assemble import Layout, Run
from libstream.live.batch import Batch
from libstream.live.ledger import Counts

_Arr = np.ndarray[Any, Any]
_log = logging.getLogger("libstream.live")

END_S = 1.0
"""How long a run whose frames were all seen waits for its end message."""
DRAIN_S, DRAIN_MANY_S = 0.25, 1.0
"""How long frames may follow the end of their run (or the header of the next), from one sender and from several."""
REMEMBERED = 64
"""Closed runs whose late frames are recognised."""
STRANGE_MIN = 32
"""A run fails when so many of its first frames have another shape or dtype, and none has the right one."""
CHANNELS_MAX = 64


class Runs:
    """Events to runs. Used by the receiving thread; what others see changes with `changed` held.

    begin: makes a run when header and first frame are there, or raises LibstreamError (a scan shape that cannot be).
    failed: is told of such a refusal. stall_s: silence in seconds after which a run is closed.
    """

    def __init__(
        self,
        name: str,
        changed: threading.Condition,
        begin: Callable[[RunHeader, Layout, int], Run],
        failed: Callable[[RunHeader, LibstreamError], None],
        *,
        sectors: int,
        n_senders: int,
        stall_s: Callable[[RunHeader], float],
    ) -> None:
        self.name, self.changed, self._begin, self._failed = name, changed, begin, failed
        self.sectors, self.many, self.n_senders, self._stall_s = sectors, n_senders > 1, n_senders, stall_s
        self.has_end = True
        self.total = Counts()
        self.problems: deque[str] = deque(maxlen=50)
        self.header: RunHeader | None = None
        self.open: list[Run] = []
        self.silent_since = time.monotonic()
        self.kept = True
        self._batch = Batch()
        self._first: list[tuple[FramePart, int]] = []
        self._refused: int | str | None = None
        self._closed: OrderedDict[int | str, Run | None] = OrderedDict()
        self._announced: OrderedDict[int | str, dict[int, int]] = OrderedDict()
        self._due: dict[int, float] = {}
        self._parts: dict[int, int] = {}
        self._strange: dict[int, int] = {}

    @property
    def state(self) -> str:
        """waiting, armed, running or draining."""
        if self.open:
            return self.open[-1].state
        return "armed" if self.header is not None else "waiting"

    # -- events ------------------------------------------------------------------------------------------------------

    def take(self, found: Event, starts: list[int], sizes: list[int]) -> None:
        """One event of a message whose parts begin at ring offsets `starts` and have `sizes` bytes. Raises WireError."""
        if type(found) is FramePart:
            if not 0 <= found.start <= found.stop <= sizes[found.part]:
                raise WireError(f"frame {found.number}: bytes {found.start} to {found.stop} of a part of {sizes[found.part]}")
            batch = self._batch
            if found.run == batch.run_id:
                batch.add(found, starts[found.part] + found.start)
            else:
                self._of_another_run(found, starts[found.part] + found.start)
        elif type(found) is RunHeader:
            self.flush()
            with self.changed:
                self._new_header(found)
        elif type(found) is RunEnd:
            self.flush()
            with self.changed:
                self._run_end(found)
        elif type(found) is Announced:
            self.flush()
            with self.changed:
                self._announcement(found)

    def message_over(self) -> None:
        """All events of a message were taken: a run whose first frame was in it begins."""
        if self._first:
            with self.changed:
                self._start()

    def flush(self) -> None:
        """Everything taken so far goes to its place."""
        self.message_over()
        batch = self._batch
        if batch.run is not None and batch.numbers:
            run, arrays = batch.run, batch.arrays()
            with self.changed:
                self._place(run, *arrays)
                self.changed.notify_all()

    def not_understood(self, why: str) -> None:
        """A message that means nothing."""
        with self.changed:
            self.total.malformed += 1
            if self.open:
                self.open[-1].counts.malformed += 1
            if self.total.malformed <= 10:
                self.problem(f"a message was not understood: {why}")

    def problem(self, text: str) -> None:
        """Keep a sentence for the user, and log it."""
        if not self.problems or self.problems[-1] != text:
            self.problems.append(text)
            _log.warning("%s: %s", self.name, text)

    def _of_another_run(self, part: FramePart, at: int) -> None:
        """Not the run of the frame before: the first frame of a run, one of a run that drains, or one that belongs to none."""
        if self.header is not None and self.header.run == part.run:
            if not (0 <= part.channel < CHANNELS_MAX and 0 <= part.sector < self.sectors):
                raise WireError(f"frame {part.number}: sector {part.sector}, channel {part.channel} cannot be")
            self._first.append((part, at))
            return
        self.flush()
        with self.changed:
            run = next((r for r in self.open if r.header.run == part.run), None)
            if run is None:
                self._stray(part)
                return
            self._batch.reset(run)
        self._batch.add(part, at)

    def _stray(self, part: FramePart) -> None:
        if part.run in self._closed:
            closed = self._closed[part.run]
            beyond = closed is not None and part.number - closed.first >= closed.order.n_frames
            for counts in (self.total, closed.counts if closed is not None else None):
                if counts is not None and beyond:
                    counts.surplus += 1
                elif counts is not None:
                    counts.late += 1
            return
        self.total.foreign += 1
        if self.open:
            self.open[-1].counts.foreign += 1
        if part.run != self._refused:
            self._refused = part.run
            self.problem(f"frames of run {part.run!r} arrive without a header (joined too late?): they are counted, not processed")

    def _new_header(self, header: RunHeader) -> None:
        same = [r for r in self.open if r.header.run == header.run]
        if same and self.many:
            return
        for run in list(self.open):
            if self.many:
                if run.state == "running":
                    run.state, self._due[id(run)] = "draining", time.monotonic() + DRAIN_MANY_S
            else:
                self.close(run, _fitting(run), "the next acquisition began before all frames had come")
        if self.header is not None:
            self.problem(f"run {self.header.run!r} was announced and sent no frame before the next one began")
        self.header, self._refused, self.silent_since = header, None, time.monotonic()
        self._closed.pop(header.run, None)
        self._batch.reset(None)
        self.changed.notify_all()

    def _run_end(self, end: RunEnd) -> None:
        if self.header is not None and self.header.run == end.run:
            self.problem(f"run {end.run!r} ended without a frame" + (f": {end.reason}" if end.reason else ""))
            self.header = None
            self.changed.notify_all()
            return
        for run in self.open:
            if run.header.run == end.run:
                run.reason = end.reason
                if run.n_settled == run.n:
                    self.close(run, "done", end.reason)
                else:
                    self._drain(run, DRAIN_MANY_S if self.many else DRAIN_S)
                return

    def _announcement(self, found: Announced) -> None:
        if len(self._announced) >= REMEMBERED and found.run not in self._announced:
            self._announced.popitem(last=False)
        self._announced.setdefault(found.run, {})[found.sender] = found.n_parts
        for run in list(self.open):
            if run.header.run == found.run:
                self._look_for_end(run)

    # -- frames to runs ----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        first, self._first = self._first, []
        header, self.header = self.header, None
        if header is None:
            return
        try:
            run = self._begin(header, _layout(header, first, self.sectors), 0)
        except LibstreamError as exc:
            self.problem(str(exc))
            self._refused = header.run
            self._failed(header, exc)
            self.total.foreign += len(first)
            self.changed.notify_all()
            return
        self._opened(run)
        for part, at in first:
            self._batch.add(part, at)
        self._place(run, *self._batch.arrays())

    def _opened(self, run: Run) -> None:
        self.open.append(run)
        self.silent_since = time.monotonic()
        self._parts[id(run)] = self._strange[id(run)] = 0
        self._batch.reset(run)
        self.changed.notify_all()

    def _place(self, run: Run, numbers: _Arr, pieces: _Arr, offsets: _Arr, sizes: _Arr, codecs: _Arr, good: _Arr | None) -> None:
        if run.closed:
            for counts in (self.total, run.counts):
                counts.late += len(numbers)
            return
        columns = (numbers, pieces, offsets, sizes, codecs)
        if run.header.n_frames is None:
            beyond = numbers - run.first >= run.order.n_frames
            if beyond.any():
                now = ~beyond
                run.place(*(c[now] for c in columns), None if good is None else good[now], not self.kept)
                self._wrap(run, *(c[beyond] for c in columns), None if good is None else good[beyond])
                return
        run.place(*columns, good, not self.kept)
        self._parts[id(run)] += len(numbers)
        if good is not None and not good.any():
            self._strange[id(run)] += len(numbers)
            if self._strange[id(run)] >= STRANGE_MIN and not run.n_ready:
                self.close(run, "failed", "its frames have another shape or dtype than the first one")
                return
        self._look_for_end(run)

    def _wrap(self, run: Run, numbers: _Arr, *rest: Any) -> None:
        """An endless acquisition: after the last position of the scan, the next scan begins."""
        self.close(run, _fitting(run), "the next scan of an endless acquisition began before all frames had come")
        n = run.order.n_frames
        following = self._begin(run.header, run.layout, run.first + n * ((int(numbers.min()) - run.first) // n))
        following.codecs = list(run.codecs)
        self._opened(following)
        self._place(following, numbers, *rest)

    def _look_for_end(self, run: Run) -> None:
        announced = self._announced.get(run.header.run, {})
        all_came = len(announced) >= self.n_senders and self._parts[id(run)] >= sum(announced.values())
        if run.n_settled == run.n:
            if not self.has_end or all_came or run.state == "draining":
                self.close(run, "done", run.reason)
            else:
                self._due.setdefault(id(run), time.monotonic() + END_S)
        elif announced and all_came:
            self._drain(run, DRAIN_S)

    def _drain(self, run: Run, seconds: float) -> None:
        if run.state == "running":
            run.state, self._due[id(run)] = "draining", time.monotonic() + seconds

    def close(self, run: Run, state: str, reason: str = "") -> None:
        """Close a run; its user is told by `changed`."""
        run.close(state, "" if state == "done" else reason)
        self.open = [r for r in self.open if r is not run]
        for held in (self._due, self._parts, self._strange):
            held.pop(id(run), None)
        for key in self._closed:
            self._closed[key] = None  # known by name: its tables are not kept for late frames
        self._closed[run.header.run] = run
        while len(self._closed) > REMEMBERED:
            self._closed.popitem(last=False)
        if self._batch.run is run:
            self._batch.reset(None)
        self.changed.notify_all()

    def close_all(self, reason: str) -> None:
        """No run goes on."""
        for run in list(self.open):
            self.close(run, _fitting(run), reason)
        self.header = None
        self.changed.notify_all()

    # -- time --------------------------------------------------------------------------------------------------------

    def look_at_the_clock(self) -> None:
        """Called when the wire is silent: runs that are over, or stalled, are closed."""
        if not self.open:
            return
        now = time.monotonic()
        with self.changed:
            for run in list(self.open):
                silent = now - self.silent_since
                if now >= self._due.get(id(run), math.inf):
                    self.close(run, _fitting(run), run.reason or "the detector ended the run before all frames had come")
                elif silent > self._stall_s(run.header):
                    self.close(run, _fitting(run), f"no message for {silent:.3g} s: the detector, or the connection to it, stopped")


def _fitting(run: Run) -> str:
    return "done" if run.n_settled == run.n else "incomplete"


def _layout(header: RunHeader, first: list[tuple[FramePart, int]], sectors: int) -> Layout:
    n = max(len(header.channels), 1 + max(part.channel for part, _ in first))
    if len(header.channels) == n:
        names = tuple(header.channels)
    else:
        names = ("frames",) if n == 1 else tuple(f"channel_{i + 1}" for i in range(n))
    by_channel = {part.channel: part for part, _ in reversed(first)}
    parts = [by_channel.get(c, first[0][0]) for c in range(n)]
    return Layout(names, sectors, tuple(tuple(p.shape) for p in parts), tuple(p.dtype for p in parts))  # type: ignore[misc]
