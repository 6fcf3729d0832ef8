"""Read -> convert -> correct -> cut: from a partition to the arrays that hooks are given."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from libstream.contracts.source import FrameReader, TakesPartitions
from libstream.model.partial import CORRUPT, PROCESSED
from libstream.model.shape import Region, Span
from libstream.plan.plan import MIB, Tiling
from libstream.plan.roi import runs_of
from libstream.run.block import Block
from libstream.run.buffers import Buffers

_Arr = np.ndarray[Any, Any]

READ_BYTES = 2 * MIB
"""Bytes of one read into a buffer: below 1 MiB a preadv costs more than it moves (11 against 21 GB/s at 0.25 and 1 MiB)."""


class PartitionFrames:
    """Frames of one partition of one channel: status of every position, and blocks of good frames.

    mapped: read through the reader's view; else read into a buffer.
    """

    def __init__(self, reader: FrameReader, positions: _Arr, runs: _Arr, sync_offset: int, mapped: bool) -> None:
        self.reader, self.positions, self.runs, self.sync, self.mapped = reader, positions, runs, sync_offset, mapped
        self.status = np.full(len(positions), PROCESSED, np.uint8)
        self.read_s = 0.0

    def whole(self) -> Block | None:
        """The partition as one block on the reader's view, without copying; None where it has to be read."""
        if not self.mapped:
            return None
        self.reader.check()
        view = self.reader.view()
        if view is None:
            return None
        frames = self.runs + self.sync
        start = 0
        bad = False
        may_be_bad = type(self.reader).valid is not FrameReader.valid
        for a, b in frames.tolist() if may_be_bad else ():
            valid = self.reader.valid(Span(a, b))
            if valid is not None and not valid.all():
                self.status[start : start + b - a][~valid] = CORRUPT
                bad = True
            start += b - a
        if bad:
            good = self.positions[self.status == PROCESSED]
            return Block(view, _runs_in(good) + self.sync, good, 0)
        return Block(view, frames, self.positions, 0)

    def read(self, out: _Arr, depth: int) -> Iterator[Block]:
        """Blocks of at most len(out) frames, read into `out`, a multiple of `depth` wherever positions allow."""
        room = len(out) // depth * depth if len(out) >= depth else len(out)
        k = filled = begun = 0
        where: list[tuple[int, int]] = []  # (frame, count) of what waits to be read

        def flush() -> Block | None:
            nonlocal k
            t = time.perf_counter()
            self.reader.check()
            good = np.ones(filled, bool)
            row = 0
            if isinstance(self.reader, TakesPartitions):
                valid = self.reader.read_rows(out[:filled], begun)
                if valid is not None:
                    good[:] = valid
                where.clear()
            for frame, count in where:
                valid = self.reader.read_into(out[row : row + count], Span(frame, frame + count), Region.whole(out.shape[1:]))
                if valid is not None:
                    good[row : row + count] = valid
                row += count
            self.read_s += time.perf_counter() - t
            positions = self.positions[begun : begun + filled]
            if not good.all():
                self.status[begun : begun + filled][~good] = CORRUPT
                positions = positions[good]
            block = Block(out, runs_of(good), positions, k)
            k += len(positions)
            return block if len(positions) else None

        for a, b in (self.runs + self.sync).tolist():
            while a < b:
                count = min(b - a, room - filled)
                where.append((a, count))
                a, filled = a + count, filled + count
                if filled == room:
                    if (block := flush()) is not None:
                        yield block
                    begun, filled = begun + filled, 0
                    where.clear()
        if filled and (block := flush()) is not None:
            yield block


def _runs_in(positions: _Arr) -> _Arr:
    """Runs of consecutive numbers in rising `positions`."""
    if not len(positions):
        return np.zeros((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(positions) != 1)
    starts = positions[np.concatenate([[0], breaks + 1])]
    stops = positions[np.concatenate([breaks, [len(positions) - 1]])] + 1
    return np.stack([starts, stops], axis=1).astype(np.int64)


def cut(block: Block, depth: int) -> Iterator[Block]:
    """Cut a block into tiles of at most `depth` frames."""
    n = len(block.index)
    if n <= depth:
        yield block
        return
    lengths = block.runs[:, 1] - block.runs[:, 0]
    ends = np.cumsum(lengths)
    for start in range(0, n, depth):
        stop = min(start + depth, n)
        a, b = int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop, side="left"))
        runs = block.runs[a : b + 1].copy()
        runs[-1, 1] -= ends[b] - stop
        runs[0, 0] += start - (ends[a] - lengths[a])
        yield Block(block.data, runs, block.index[start:stop], block.k + start)


def gathered(block: Block, buffers: Buffers) -> Block:
    """The block's frames as one run, without copying where they are one already."""
    if len(block.runs) == 1:
        return block
    n = len(block.index)
    out = buffers.get("gather", (n, *block.data.shape[1:]), block.data.dtype)
    row = 0
    for a, b in block.runs.tolist():
        out[row : row + b - a] = block.data[a:b]
        row += b - a
    return replace(Block.of(_read_only(out), block.index), k=block.k)


def read_buffer(buffers: Buffers, tiling: Tiling, sig: Sequence[int], dtype: np.dtype[Any], n: int, partition: bool) -> tuple[_Arr, int]:
    """Buffer to read into, and the frames to fill it with at a time."""
    frame = max(1, int(np.prod(sig)) * dtype.itemsize)
    frames = n if partition else min(n, max(tiling.depth, READ_BYTES // frame // tiling.depth * tiling.depth))
    return buffers.get("read", (frames, *sig), dtype), (n if partition else tiling.depth)


def _read_only(array: _Arr) -> _Arr:
    array = array.view()
    array.setflags(write=False)
    return array
