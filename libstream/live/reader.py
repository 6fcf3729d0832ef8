"""Frames out of the ring: decoded where they are needed, by the worker that reduces them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from libstream.codecs import wire
from libstream.contracts.source import FrameReader, Partition
from libstream.errors import LibstreamError
from libstream.live.assemble import READY, Run
from libstream.live.layout import Layout
from libstream.live.ring import Shared
from libstream.model.shape import Region, Span

_Arr = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Held:
    """Where the frames of a partition lie, in the order of its positions: offset, size (n, pieces), codec ids, names of the codecs."""

    offset: _Arr
    size: _Arr
    codec: _Arr
    codecs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class RingOpener:
    """Opens readers over the ring's memory, in this process or, by its path, in others."""

    shared: Shared
    layout: Layout
    here: Any = field(default=None, repr=False)

    def open_reader(self, channel: str) -> RingReader:
        """A reader of `channel`."""
        run = self.here() if self.here is not None else None
        memory = self.shared.map() if run is None else run.ring.data
        return RingReader(memory, self.layout, self.layout.channels.index(channel), run)

    def __reduce__(self) -> tuple[Any, ...]:
        return (RingOpener, (self.shared, self.layout))


def opener_of(run: Run) -> RingOpener:
    """The opener of a run; it does not keep the run alive."""
    return RingOpener(run.ring.shared, run.layout, weakref.ref(run))


class RingReader(FrameReader):
    """Decodes the rows of the partition it was given, or (to look at a frame) what is in the ring just now."""

    def __init__(self, memory: _Arr, layout: Layout, channel: int, run: Run | None) -> None:
        self._memory, self._layout, self._channel = memory, layout, channel
        self._run = None if run is None else weakref.ref(run)
        self._held: Held | None = None  # of the partition
        self._shape, self._dtype = layout.shapes[channel], np.dtype(layout.dtypes[channel])
        for codec in () if run is None else tuple(run.codecs):
            wire.warm_up(codec, self._shape, self._dtype)  # a reader is opened when UDFs are bound: nothing is compiled in a worker

    def begin(self, partition: Partition) -> None:
        """See `TakesPartitions`."""
        self._held = partition.held

    def read_rows(self, out: _Arr, start: int) -> _Arr | None:
        """See `TakesPartitions`."""
        held, rows = self._held, slice(start, start + len(out))
        if held is None:
            raise LibstreamError("rows of a partition were asked for before there was one")
        return self._decode(held.offset[rows], held.size[rows], held.codec[rows], held.codecs, out, Region.whole(out.shape[1:]))

    def read_into(self, out: _Arr, frames: Span, region: Region) -> _Arr | None:
        """See `FrameReader`. Raises LibstreamError for frames that are not in memory."""
        wanted = np.arange(frames.start, frames.stop, dtype=np.int64)
        run = None if self._run is None else self._run()
        if run is None:
            raise LibstreamError(f"frames {frames.start} to {frames.stop} were asked for, but their acquisition is not in this process")
        with run.changed:
            there = (run.fate[wanted] == READY) & run.held(wanted)
            if not there.all():
                missing = int(wanted[np.argmin(there)])
                raise LibstreamError(
                    f"frame at flat position {missing} is not in memory: it has not arrived yet, was lost, or has made room for newer ones"
                )
            run.ring.hold(run.offset[wanted].reshape(-1), 1)
            where = run.offset[wanted], run.size[wanted], run.codec[wanted], tuple(run.codecs)
        try:
            return self._decode(*where, out, region)
        finally:
            with run.changed:
                run.ring.hold(where[0].reshape(-1), -1)

    def _decode(self, offset: _Arr, size: _Arr, codec: _Arr, codecs: tuple[str, ...], out: _Arr, region: Region) -> _Arr | None:
        n, sectors = len(out), self._layout.sectors
        flat = out.reshape(-1).view(np.uint8)
        frame_bytes = flat.size // max(1, n)
        height, width = self._shape
        line = width * self._dtype.itemsize
        good: _Arr | None = None
        starts = np.arange(n, dtype=np.int64) * frame_bytes
        for sector in range(sectors):
            top = sector * height
            first, last = max(region.rows.start, top) - top, min(region.rows.stop, top + height) - top
            if first >= last:
                continue
            piece = self._channel * sectors + sector
            to = starts + (top + first - region.rows.start) * line
            ids = codec[:, piece]
            for one in np.unique(ids).tolist():
                these = slice(None) if (ids == one).all() else np.flatnonzero(ids == one)
                valid = wire.decode(
                    codecs[one], self._shape, self._dtype, self._memory, offset[these, piece], size[these, piece].astype(np.int64), flat,
                    to[these], (first, last),
                )  # fmt: skip
                if not valid.all():
                    good = np.ones(n, bool) if good is None else good
                    good[these] &= valid
        return good

    def view(self) -> _Arr | None:
        """Frames are decoded: there is nothing to look at in place."""
        return None

    def check(self) -> None:
        """What a partition was given stays where it is until it is merged."""

    def close(self) -> None:
        """Let the memory go."""
        self._held = None
