"""The runs of a live source: what begins, continues, drains and ends them. Waiting -> armed -> running -> draining -> closed."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from libstream.contracts.stream import Announced, Event, FramePart, RunEnd, RunHeader, Skipped
from libstream.errors import LibstreamError, WireError
from libstream.live.assemble import Run, pick
from libstream.live.batch import LARGEST, Batch
from libstream.live.layout import Layout
from libstream.live.ledger import Counts

_Arr = np.ndarray[Any, Any]
Columns = tuple[_Arr, _Arr, _Arr, _Arr, _Arr, _Arr | None]
"""numbers, pieces, offsets, sizes, codecs, good: see `Run.place`."""
_log = logging.getLogger("libstream.live")

END_S = 1.0
"""How long a run whose frames were all seen waits for its end message."""
DRAIN_S, DRAIN_MANY_S = 0.25, 1.0
"""How long frames may follow the end of their run (or the header of the next), from one sender and from several."""
REMEMBERED = 64
"""Closed runs whose late frames are recognised."""
STRANGE_MIN, STRANGE_FACTOR = 32, 8
"""A run fails when so many of its parts have another shape, dtype or codec than the first, and so many times more than are right."""
CHANNELS_MAX = 64
NOTES_MAX = 20
NOT_UNDERSTOOD_SHOWN = 10
"""Messages that nobody understands are shown so often, and only counted afterwards."""


class Begins(Protocol):
    """Who makes runs. Called with `changed` held."""

    def begin(self, header: RunHeader, layout: Layout, number: int) -> Run:
        """The run of which frame `number` has arrived. Raises LibstreamError where it cannot be (a scan shape that does not fit)."""

    def refused(self, exc: LibstreamError) -> None:
        """A run did not begin."""

    def stall_s(self, header: RunHeader) -> float:
        """Silence in seconds after which a run is closed."""


@dataclass
class _Closed:
    """What is remembered of a run, so that its late frames are known. stop: the number after that of its last frame."""

    header: RunHeader
    counts: Counts
    stop: int


class Runs:
    """Events to runs. Used by the receiving thread; what others see changes with `changed` held.

    kept: False while what is received is thrown away because the memory is full.
    """

    def __init__(self, name: str, changed: threading.Condition, begins: Begins, *, sectors: int, n_senders: int) -> None:
        self.name, self.changed, self._begins = name, changed, begins
        self.sectors, self.many, self.n_senders = sectors, n_senders > 1, n_senders
        self.has_end = True
        self.problems: deque[str] = deque(maxlen=50)
        self.header: RunHeader | None = None
        self.open: list[Run] = []
        self.alive_at = time.monotonic()
        self.kept = True
        self.apart = Counts()
        self._not_understood = 0
        self._batch = Batch()
        self._first: list[tuple[FramePart, int]] = []
        self._strange = ""
        self._refused: int | str | None = None
        self._endless: int | str | None = None  # the run of which further scans may come
        self._closed: OrderedDict[int | str, _Closed] = OrderedDict()
        self._announced: OrderedDict[int | str, dict[int, int]] = OrderedDict()

    @property
    def state(self) -> str:
        """waiting, armed, running or draining."""
        if self.open:
            return self.open[-1].state
        return "armed" if self.header is not None else "waiting"

    @property
    def total(self) -> Counts:
        """Everything that arrived since the beginning. `apart` is what belongs to no run that is remembered."""
        counts = [run.counts for run in self.open] + [closed.counts for closed in self._closed.values()]
        return sum(counts, self.apart)

    # -- events ------------------------------------------------------------------------------------------------------

    def take(self, found: Event, starts: list[int], sizes: list[int]) -> None:
        """One event of a message whose parts begin at ring offsets `starts` and have `sizes` bytes. Raises WireError."""
        if type(found) is FramePart:
            _, _, part, start, stop, *_ = found
            if not 0 <= start <= stop <= sizes[part]:
                raise WireError(f"frame {found.number}: bytes {start} to {stop} of a part of {sizes[part]}")
            if found.run == self._batch.run_id:
                self._batch.add(found, starts[part] + start)
            else:
                self._of_another_run(found, starts[part] + start)
            return
        self.alive_at = time.monotonic()
        if type(found) is RunHeader:
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
        elif type(found) is Skipped:
            self._note(found.what)

    def message_over(self) -> None:
        """All events of a message were taken: a run whose first frame was in it begins."""
        if self._first:
            with self.changed:
                self._start()

    def flush(self) -> None:
        """Everything taken so far goes to its place."""
        self.message_over()
        if self._batch.numbers:
            with self.changed:
                self._place_batch()
                self.changed.notify_all()

    def not_understood(self, why: str) -> None:
        """A message that means nothing."""
        with self.changed:
            (self.open[-1].counts if self.open else self.apart).malformed += 1
            self._not_understood += 1
            if self._not_understood <= NOT_UNDERSTOOD_SHOWN:
                self.problem(f"a message was not understood: {why}")

    def _note(self, what: str) -> None:
        """What a decoder skipped, or assumed: said once for each run."""
        with self.changed:
            if not self.open:
                self.problem(what)
            elif what not in self.open[-1].notes and len(self.open[-1].notes) < NOTES_MAX:
                self.open[-1].notes.append(what)

    def problem(self, text: str) -> None:
        """Keep a sentence for the user, and log it, once."""
        if text not in self.problems:
            self.problems.append(text)
            _log.warning("%s: %s", self.name, text)

    def _of_another_run(self, part: FramePart, at: int) -> None:
        """Not the run of the frame before: the first frame of a run, one of a run that drains, or one that belongs to none."""
        if self.header is not None and self.header.run == part.run:
            self._begin_with(part, at)
            return
        self.flush()
        with self.changed:
            run = next((r for r in reversed(self.open) if r.header.run == part.run), None)
            if run is None:
                self._stray(part, at)
                return
            self._batch.reset(run)
        self._batch.add(part, at)

    def _begin_with(self, part: FramePart, at: int) -> None:
        if not (0 <= part.channel < CHANNELS_MAX and 0 <= part.sector < self.sectors and 0 <= part.number < LARGEST):
            raise WireError(f"frame {part.number}: sector {part.sector}, channel {part.channel} cannot be")
        self._first.append((part, at))

    def _stray(self, part: FramePart, at: int) -> None:
        closed = self._closed.get(part.run)
        if closed is None:
            (self.open[-1].counts if self.open else self.apart).foreign += 1
            if part.run != self._refused:
                self._refused = part.run
                self.problem(f"frames of run {part.run!r} arrive without a header (joined too late?): they are counted, not processed")
        elif part.number < closed.stop:
            closed.counts.late += 1
        elif part.run != self._endless:
            closed.counts.surplus += 1
        else:
            self.header = closed.header
            self._begin_with(part, at)

    def _new_header(self, header: RunHeader) -> None:
        if self.many and header.run in [h.run for h in (self.header, *(r.header for r in self.open)) if h is not None]:
            return  # each sender says it
        for run in list(self.open):
            if self.many:
                self._drain(run, DRAIN_MANY_S)
            else:
                self.close(run, "the next acquisition began before all frames had come")
        if self.header is not None:
            self.problem(f"run {self.header.run!r} was announced and sent no frame before the next one began")
        self.header, self._refused, self._endless = header, None, None
        self._forget(header.run)
        self._batch.reset(None)
        self.changed.notify_all()

    def _run_end(self, end: RunEnd) -> None:
        if self.header is not None and self.header.run == end.run:
            self.problem(f"run {end.run!r} ended without a frame" + (f": {end.reason}" if end.reason else ""))
            self.header = None
            self.changed.notify_all()
        if self._endless == end.run:
            self._endless = None
        for run in [r for r in self.open if r.header.run == end.run]:
            run.reason = end.reason
            if run.settled:
                self.close(run, end.reason)
            else:
                self._drain(run, DRAIN_MANY_S if self.many else DRAIN_S)

    def _announcement(self, found: Announced) -> None:
        runs = [r for r in self.open if r.header.run == found.run]
        if found.run in self._closed and not runs and (self.header is None or self.header.run != found.run):
            return
        self._announced.setdefault(found.run, {})[found.sender] = found.n_parts
        if len(self._announced) > REMEMBERED:
            self._announced.popitem(last=False)
        for run in runs:
            self._look_for_end(run)

    # -- frames to runs ----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        first, self._first = self._first, []
        header, self.header = self.header, None
        if header is None:
            return
        try:
            layout = Layout.of(header, [part for part, _ in first], self.sectors)
            self._opened(self._begins.begin(header, layout, first[0][0].number))
        except Exception as exc:  # noqa: BLE001  a hook of the user, tables larger than the memory: the next run is another one
            self._refused = header.run
            self.apart.foreign += len(first)
            if not isinstance(exc, LibstreamError):
                exc = LibstreamError(f"run {header.run!r} could not begin: {type(exc).__name__}: {exc}")
            self.problem(str(exc))
            self._begins.refused(exc)
            self.changed.notify_all()
            return
        if header.n_frames is None:
            self._endless = header.run
        for part, at in first:
            self._batch.add(part, at)
        self._place_batch()

    def _opened(self, run: Run) -> None:
        self.open.append(run)
        self._batch.reset(run)
        self.changed.notify_all()

    def _place_batch(self) -> None:
        self.alive_at = time.monotonic()
        run, strange, columns = self._batch.run, self._batch.strange, self._batch.columns()
        self._batch.reset(run)
        if strange is not None:
            self._strange = f"{strange.shape} {strange.dtype} in the codec {strange.codec[:40]!r}"
        if run is None:
            return
        if run.header.n_frames is None:
            self._place_endless(run, columns)
        else:
            self._place(run, columns)

    def _place(self, run: Run, columns: Columns) -> None:
        run.place(*columns, not self.kept)
        run.n_parts += len(columns[0])
        good = columns[-1]
        if good is not None:
            run.n_strange += int(len(good) - np.count_nonzero(good))
            if run.n_strange >= STRANGE_MIN and run.n_strange > STRANGE_FACTOR * run.n_ready:
                self._close_as_strange(run)
                return
        self._look_for_end(run)

    def _close_as_strange(self, run: Run) -> None:
        began = f"{run.layout.shapes[0]} {run.layout.dtypes[0]} in {', '.join(map(repr, run.codecs))}"
        self.close(run, f"{run.n_strange} frames came as {self._strange}, while the run began with {began}", failed=True)
        self.problem(f"run {run.header.run!r} failed: {run.reason}")

    def _place_endless(self, run: Run, columns: Columns) -> None:
        """After the last position of the scan comes the first of the next one; frames of the one before may follow for a while."""
        n = run.order.n_frames
        scans = columns[0] // n
        for scan in np.unique(scans).tolist():
            these = scans == scan
            mine = pick(these, *columns)
            home = next((r for r in self.open if r.header.run == run.header.run and r.first == scan * n), None)
            if home is None and scan * n > run.first:
                self._drain(run, DRAIN_MANY_S if self.many else DRAIN_S)
                before, run = run, self._begins.begin(run.header, run.layout, scan * n)
                run.continues(before)
                self._opened(run)
                home = run
            if home is None:
                closed = self._closed.get(run.header.run)
                (run if closed is None else closed).counts.late += len(mine[0])
            else:
                self._place(home, mine)

    def _look_for_end(self, run: Run) -> None:
        announced = self._announced.get(run.header.run, {})
        all_parts = len(announced) >= self.n_senders and run.n_parts >= sum(announced.values())
        if run.settled and (all_parts or (run.all_came and (not self.has_end or run.header.n_frames is None or run.state == "draining"))):
            self.close(run, run.reason)
        elif run.settled:
            run.due = min(run.due, time.monotonic() + END_S)
        elif all_parts:
            self._drain(run, DRAIN_S)

    def _drain(self, run: Run, seconds: float) -> None:
        if run.state == "running":
            run.state, run.due = "draining", time.monotonic() + seconds

    def close(self, run: Run, reason: str, *, failed: bool = False) -> None:
        """Close a run: done where all frames came, else incomplete, or failed. Its user is told by `changed`."""
        run.close("failed" if failed else "done" if run.settled else "incomplete", reason if failed or not run.settled else "")
        self.open = [r for r in self.open if r is not run]
        self._announced.pop(run.header.run, None)
        self._forget(run.header.run)
        self._closed[run.header.run] = _Closed(run.header, run.counts, run.first + run.order.n_frames)
        while len(self._closed) > REMEMBERED:
            self._forget(next(iter(self._closed)))
        if self._batch.run is run:
            self._batch.reset(None)
        self.changed.notify_all()

    def _forget(self, name: int | str) -> None:
        closed = self._closed.pop(name, None)
        if closed is not None:
            self.apart += closed.counts

    def close_all(self, reason: str) -> None:
        """No run goes on."""
        for run in list(self.open):
            self.close(run, reason)
        self.header = self._endless = None
        self._first.clear()
        self.changed.notify_all()

    def drop_batch(self) -> None:
        """Forget what was not placed yet."""
        self._batch.reset(None)
        self._first.clear()

    def relieve(self) -> bool:
        """The memory is full: give up frames that wait for a sector or channel, where nothing else keeps their block. The oldest
        block that this makes free is enough."""
        runs = [run for run in self.open if run.n_open]
        if not runs:
            return False
        ring, parts = runs[0].ring, sum(run.open_parts() for run in runs)
        block = ring.oldest((ring.keep > 0) & (ring.keep == parts))
        if block is None:
            return False
        for run in runs:
            run.lose_open(block)
        self.problem("the memory for frames is full: frames that still wait for one of their sectors or channels are given up")
        return True

    # -- time --------------------------------------------------------------------------------------------------------

    def look_at_the_clock(self) -> None:
        """Close runs that are over, or stalled. Called many times a second."""
        if not self.open:
            return
        now = time.monotonic()
        with self.changed:
            for run in list(self.open):
                silent = now - self.alive_at
                if now >= run.due:
                    self.close(run, run.reason or "the detector ended the run before all frames had come")
                elif silent > self._begins.stall_s(run.header):
                    self.close(run, f"no frame for {silent:.3g} s: the detector, or the connection to it, stopped")
