"""Blocks of frames: out of the router's ring as few large parts without copying, and into a reader at the consumer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from libstream.contracts.source import Partition
from libstream.errors import LibstreamError, WireError
from libstream.live.layout import Layout
from libstream.live.reader import Held, RingReader
from libstream.model.shape import Region, Span
from libstream.route.wire import Message, view

_Arr = np.ndarray[Any, Any]

GAP = 4096
"""Bytes between two parts of frames (headers of other messages) that are sent along, so that both go as one part of the message."""
EXTENT = 24 << 20
"""Bytes of one part of a message: glibc gives larger ones back to the system each time."""
BLOCK_BYTES = 16 << 20
"""Decoded bytes of a block: enough work for a message, little enough that many consumers have something to do."""
EXTENTS_MAX = 1024
"""Where frames lie in more places than this, they are copied together."""


def pack(partition: Partition, ring: _Arr) -> tuple[dict[str, Any], list[Any]]:
    """(header, parts) of the frames of `partition`, which lie in `ring` (uint8). Large parts refer to the ring."""
    held: Held = partition.held
    offsets, sizes = held.offset.reshape(-1), held.size.reshape(-1).astype(np.int64)
    extents, placed = _extents(offsets, sizes)
    if len(extents) > EXTENTS_MAX:
        placed = np.cumsum(sizes) - sizes
        data = [view(np.concatenate([ring[a : a + n] for a, n in zip(offsets.tolist(), sizes.tolist(), strict=True)]))]
    else:
        data = [memoryview(ring[a:b]) for a, b in extents]
    lost = partition.lost
    parts = [
        view(partition.runs.astype("<i8")), view(placed.astype("<i8")), view(sizes.astype("<i4")), view(held.codec.reshape(-1)),
        b"" if lost is None else view(lost[0].astype("<i8")), b"" if lost is None else view(lost[1].astype("u1")), *data,
    ]  # fmt: skip
    return {"number": partition.number, "codecs": list(held.codecs)}, parts


def _extents(offsets: _Arr, sizes: _Arr) -> tuple[list[tuple[int, int]], _Arr]:
    """Ranges [start, stop) of the ring that hold all pieces, in rising order, and where each piece lies when they are put together."""
    if not len(offsets):
        return [], np.zeros(0, np.int64)
    order = np.argsort(offsets, kind="stable")
    placed = np.empty(len(offsets), np.int64)
    extents: list[tuple[int, int]] = []
    start = stop = before = 0
    for i, at, size in zip(order.tolist(), offsets[order].tolist(), sizes[order].tolist(), strict=True):
        if stop == 0 or at - stop > GAP or at + size - start > max(EXTENT, size):
            if stop:
                extents.append((start, stop))
                before += stop - start
            start, stop = at, at
        stop = max(stop, at + size)
        placed[i] = before + at - start
    return [*extents, (start, stop)], placed


@dataclass(frozen=True)
class BlockHeld(Held):
    """`Held`, in memory of its own, uint8 (n,)."""

    memory: _Arr = field(default_factory=lambda: np.zeros(0, np.uint8), repr=False)


def unpack(message: Message, layout: Layout) -> Partition:
    """The partition in a message. Raises WireError for one whose parts do not fit together; nothing outside of it is referred to."""
    runs = message.array(0, "<i8", 2)
    places, sizes, codec = message.array(1, "<i8"), message.array(2, "<i4"), message.array(3, "u1")
    lost_at, lost_code = message.array(4, "<i8"), message.array(5, "u1")
    codecs = message.head.get("codecs")
    flat = runs.reshape(-1)
    if len(runs) and (flat[0] < 0 or (runs[:, 0] >= runs[:, 1]).any() or (runs[1:, 0] < runs[:-1, 1]).any()):
        raise WireError("block: runs of positions are not rising")
    n = int((runs[:, 1] - runs[:, 0]).sum())
    if type(codecs) is not list or not all(type(c) is str for c in codecs) or (len(codec) and int(codec.max()) >= len(codecs)):
        raise WireError("block: codecs are texts, and every frame has one of them")
    if not len(places) == len(sizes) == len(codec) == n * layout.pieces or len(lost_at) != len(lost_code):
        raise WireError(f"block: {n} frames of {layout.pieces} parts, but {len(places)} places, {len(sizes)} sizes, {len(codec)} codecs")
    memory = _memory(message.parts[6:])
    if len(places) and (places.min() < 0 or sizes.min() < 0 or int((places + sizes).max()) > len(memory)):
        raise WireError(f"block: frames lie outside of its {len(memory)} bytes")
    shape = (n, layout.pieces)
    held = BlockHeld(places.reshape(shape), sizes.reshape(shape), codec.reshape(shape), tuple(codecs), memory)
    return Partition(message.number("number"), runs, (lost_at, lost_code) if len(lost_at) else None, held)


def _memory(parts: Any) -> _Arr:
    if len(parts) == 1:
        return np.frombuffer(parts[0], np.uint8)  # where libzmq has received it
    out = np.empty(sum(len(p) for p in parts), np.uint8)
    at = 0
    for part in parts:
        out[at : at + len(part)] = np.frombuffer(part, np.uint8)
        at += len(part)
    return out


@dataclass(frozen=True)
class BlockOpener:
    """Opens readers of blocks: at consumers they decode what came with a partition; at the client there are no frames."""

    layout: Layout
    where: str

    def open_reader(self, channel: str) -> BlockReader:
        """A reader of `channel`."""
        return BlockReader(self.layout, self.layout.channels.index(channel), self.where)


class BlockReader(RingReader):
    """Decodes the rows of the partition it was given."""

    def __init__(self, layout: Layout, channel: int, where: str) -> None:
        super().__init__(np.zeros(0, np.uint8), layout, channel, None)
        self._where = where

    def begin(self, partition: Partition) -> None:
        """See `TakesPartitions`."""
        super().begin(partition)
        self._memory = partition.held.memory

    def read_into(self, out: _Arr, frames: Span, region: Region) -> _Arr | None:
        """Frames are at the router and the consumers only."""
        raise LibstreamError(f"frames of {self._where} go to the consumers, they cannot be looked at one by one; `record` keeps them")

    def close(self) -> None:
        """Let the memory go."""
        super().close()
        self._memory = np.zeros(0, np.uint8)


def block_frames(frame_bytes: int, most: int, target: int = BLOCK_BYTES) -> int:
    """Frames of a block: about `target` decoded bytes, at most `most` frames (what the plan allows), at least one."""
    return max(1, min(most, math.ceil(target / max(1, frame_bytes))))
