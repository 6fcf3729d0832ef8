"""Acquisitions: one run of a detector each, used like a file; and how they come about."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from libstream.contracts.source import FrameSource, Partition
from libstream.contracts.stream import RunHeader
from libstream.errors import LibstreamError, ShapeError, UsageError
from libstream.live.assemble import Run
from libstream.live.handout import HandOut
from libstream.live.layout import Layout
from libstream.live.ledger import Counts
from libstream.live.reader import opener_of
from libstream.live.ring import MIB, Ring
from libstream.model.order import ScanOrder
from libstream.model.shape import DataShape
from libstream.model.source import Axis, SourceId, SourceMeta, default_axes

PUBLISH_S = 0.05
"""Time between two publications of a live run."""
STALL_MIN_S, STALL_FRAMES = 5.0, 20
QUEUED_MAX = 1000
"""Acquisitions that wait to be taken; the oldest is given up where there are more, or where their tables take more memory than the
largest single one may."""
TABLE_BYTES, TABLE_PART_BYTES = 32, 18
"""Memory that a run takes for each position, and for each sector or channel of it."""
TABLE_FREE_BYTES = 64 * MIB
"""So much it may always take; more only where the memory for frames is larger."""
ShapeHook = Callable[[int, RunHeader], Any]
Describe = Callable[[SourceMeta], SourceMeta]


class Acquisition(FrameSource):
    """One run of a detector, while it happens and afterwards; used like a file.

    Its frames are kept in memory until they are processed, and as long as there is room after that: running other UDFs, or changing
    parameters, applies to all that are still there.
    """

    tick_s = PUBLISH_S
    keeps_going = True

    def __init__(self, run: Run, meta: SourceMeta, metas: Mapping[str, SourceMeta]) -> None:
        super().__init__(meta, opener_of(run))
        self._run, self._metas = run, dict(metas)
        self._source: Any = None  # a source that nobody refers to disconnects

    def partitions(self, planned: Iterable[Partition]) -> Iterator[Partition]:
        """Partitions as frames arrive; ends when the run is closed and everything was handed out."""
        frame_bytes = sum(m.shape.frame_size * m.dtype.itemsize for m in self._metas.values())
        return HandOut(self._run, planned, frame_bytes)

    def channel_meta(self, name: str) -> SourceMeta:
        """See `FrameSource`."""
        return self._metas.get(name, self.meta)

    @property
    def run(self) -> int | str:
        """The detector's number of this run."""
        return self._run.header.run

    @property
    def state(self) -> str:
        """running, draining, done, incomplete or failed."""
        return self._run.state

    @property
    def reason(self) -> str:
        """Why it ended as it did, in words; "" for a regular end."""
        return self._run.reason

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know."""
        return tuple(self._run.notes)

    @property
    def n_arrived(self) -> int:
        """Positions whose frame has arrived so far."""
        return self._run.n_ready

    @property
    def newest(self) -> int | None:
        """Flat position of the frame that became complete last; None before the first one."""
        with self._run.changed:
            return int(self._run.ready[self._run.n_ready - 1]) if self._run.n_ready else None

    @property
    def counts(self) -> Counts:
        """What was received, by kind."""
        with self._run.changed:
            return replace(self._run.counts)

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait until the run is closed; returns its state (still "running" after `timeout_s` seconds).

        It processes nothing. Where the memory gets full meanwhile, and nobody else processes this run either, its frames make room.
        """
        with self._run.changed:
            self._run.changed.wait_for(self._over, timeout_s)
            return self._run.state

    def _over(self) -> bool:
        if self._run.ring.short and not self._run.claimed:
            self.give_up()
        return self._run.closed

    def give_up(self) -> None:
        """Frames that nobody processes need not be kept; called when its user goes on to the next acquisition."""
        with self._run.changed:
            if not self._run.given_up:
                self._run.give_up()
                self._run.changed.notify_all()


class Arrivals:
    """Makes acquisitions of what arrives, and keeps them until they are taken. See `runs.Begins`; called with `changed` held."""

    def __init__(
        self,
        uri: str,
        kind: str,
        ring: Ring,
        changed: threading.Condition,
        *,
        scan: tuple[int, ...] | None,
        order: Mapping[str, Any],
        shape_hook: ShapeHook | None,
        describe: Describe,
        stall_timeout_s: float | None,
    ) -> None:
        if stall_timeout_s is not None and not stall_timeout_s > 0:
            raise UsageError(f"stall_timeout_s is a time in seconds, got {stall_timeout_s!r}")
        if scan is not None:
            ScanOrder.of(scan, **order)
        self.uri, self._kind, self._ring, self._changed = uri, kind, ring, changed
        self._scan, self._order, self._hook, self._describe, self._stall = scan, dict(order), shape_hook, describe, stall_timeout_s
        self._tables_max = max(ring.n_bytes, TABLE_FREE_BYTES)
        self.queue: deque[Acquisition | LibstreamError] = deque()
        self.n_acquisitions = 0

    def begin(self, header: RunHeader, layout: Layout, number: int) -> Run:
        """See `Begins`."""
        order = self._order_of(header)
        needed = _table_bytes(order.n_positions, layout)
        if needed > self._tables_max:
            raise ShapeError(
                f"run {header.run!r}: to keep account of {order.n_positions} positions takes {needed} bytes, more than the memory for "
                f"frames ({self._ring.n_bytes}); give the scan= that is meant, or larger ring_bytes="
            )
        first = number // order.n_frames * order.n_frames if header.n_frames is None else 0
        run = Run(header, order, layout, self._ring, self._changed, first)
        metas = self._metas(header, order, layout, first)
        run.notes[:] = metas[layout.channels[0]].notes
        self._put(Acquisition(run, metas[layout.channels[0]], metas))
        self.n_acquisitions += 1
        return run

    def refused(self, exc: LibstreamError) -> None:
        """See `Begins`."""
        self._put(exc)

    def stall_s(self, header: RunHeader) -> float:
        """See `Begins`."""
        return self._stall if self._stall is not None else max(STALL_MIN_S, STALL_FRAMES * (header.frame_time_s or 0.0))

    def _put(self, found: Acquisition | LibstreamError) -> None:
        self.queue.append(found)
        tables = [_table_bytes(a._run.n, a._run.layout) if isinstance(a, Acquisition) else 0 for a in self.queue]
        total = sum(tables)
        for size in tables:
            if len(self.queue) <= QUEUED_MAX and total <= self._tables_max:
                break
            total -= size
            oldest = self.queue.popleft()
            if isinstance(oldest, Acquisition):
                oldest.give_up()

    def _order_of(self, header: RunHeader) -> ScanOrder:
        n = header.n_frames
        scan, said = self._scan, "scan="
        if scan is None and header.scan is not None:
            scan, said = tuple(header.scan), "the stream"
        if scan is None and self._hook is not None and n is not None:
            scan, said = _shape(self._hook(n, header)), "the shape hook"
        if scan is None:
            if n is None:
                raise ShapeError(
                    f"run {header.run!r}: the detector announces no number of frames; say the shape of the scan: connect with scan=(y, x)"
                )
            scan, said = (n,), "the announced number of frames"
            if self._order.get("positions") is None and not self._order.get("flyback") and self._order.get("frames_per_position", 1) == 1:
                return ScanOrder.of(scan)
        order = ScanOrder.of(scan, **self._order)
        if n is not None and order.n_frames != n:
            words = _order_words(self._order)
            raise ShapeError(
                f"run {header.run!r}: the detector announces {n} frames, but the scan {scan} from {said}{words and f' ({words})'} takes "
                f"{order.n_frames}. Nothing was processed. Give the scan=, flyback= and frames_per_position= that multiply to the "
                "announced number"
            )
        return order

    def _metas(self, header: RunHeader, order: ScanOrder, layout: Layout, first: int) -> dict[str, SourceMeta]:
        out = {}
        notes = (*header.notes, *_unlike(header, layout))
        for c, name in enumerate(layout.channels):
            shape = DataShape(order.nav, layout.frame_shape(c))
            dtype = np.dtype(layout.dtypes[c])
            uri = f"{self.uri}#run={header.run}" + (f"&from={first}" if first else "")
            n_bytes = shape.n_positions * shape.frame_size * dtype.itemsize
            meta = SourceMeta(
                SourceId(uri, self._kind, n_bytes), shape, dtype, axes=_axes(shape, order, header), channels=layout.channels,
                vendor=dict(header.meta), notes=notes,
            )  # fmt: skip
            out[name] = self._describe(meta)
        return out


def _table_bytes(n: int, layout: Layout) -> int:
    return n * (TABLE_BYTES + TABLE_PART_BYTES * layout.pieces)


def _unlike(header: RunHeader, layout: Layout) -> Iterator[str]:
    """What the header says of frames and the first frame does not."""
    shape, dtype = layout.frame_shape(0), layout.dtypes[0]
    if header.frame is not None and tuple(header.frame) != shape:
        yield f"the header says frames of {tuple(header.frame)}, they come as {shape}"
    if header.dtype is not None and header.dtype != dtype:
        yield f"the header says pixels of {header.dtype}, they come as {dtype}"


def _axes(shape: DataShape, order: ScanOrder, header: RunHeader) -> tuple[Axis, ...]:
    axes = list(default_axes(shape))
    if order.frames_per_position > 1:
        base = default_axes(DataShape(order.nav[:-1], shape.sig))
        axes = [*base[: len(order.nav) - 1], Axis("repeat", order.nav[-1]), *base[len(order.nav) - 1 :]]
    return tuple(replace(a, step=float(header.axes[a.name][0]), unit=header.axes[a.name][1]) if a.name in header.axes else a for a in axes)


def _order_words(order: Mapping[str, Any]) -> str:
    words = [f"{k}={v}" for k, v in order.items() if k != "positions" and v not in (0, 1, None, "raster")]
    return ", ".join([*words, *(["positions="] if order.get("positions") is not None else [])])


def _shape(value: Any) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in value)
    except TypeError:
        return (int(value),)
