"""The plan of a run: tiles, partitions, dtypes, and a sentence why for each choice."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from libstream.contracts.source import Partition, Planned
from libstream.plan.roi import cut_runs, selected

MIB = 1 << 20
TILE_BYTES = MIB
"""One tile: half to all of a core's L2, so that every UDF after the first finds it there (docs/adr/0005)."""
TILE_BYTES_MAX = 8 * MIB
TILE_BYTES_WANTED = 16 * MIB
"""Largest tile where a UDF asks for many frames (`UDF.tile_frames`): workers keep a buffer of this size."""
MIN_FRAMES = 8
"""Fewest frames in a tile for UDFs that sum over the scan: their accumulator is written once for this many frames."""

PARTITION_BYTES = 128 * MIB
"""Largest partition of compiled UDFs: each costs 0.1 ms of Python, and 0.1 ms for each sum of 256 x 256 pixels (docs/adr/0009)."""
PYTHON_BYTES = 64 * MIB
"""The same where a hook is plain Python: some tenths of a second."""
PARTITION_FRAMES = 65536
"""Most positions in it: so many 16-bit numbers can be added up in 32 bits."""

QUICK = 2.0
"""UDFs that cost less are as quick as memory is."""
COARSE = 16
"""Fewest partitions where a scan is visited coarse to fine."""

PYTHON_FIRST, PYTHON_FRAMES = 8, 256
"""Positions in the first and in the largest partition where Python is called for each frame."""


@dataclass(frozen=True)
class Need:
    """What the plan must know of one UDF.

    itemsize: bytes of a pixel as this UDF gets it. sums: has outputs that are reduced over the scan.
    whole: must get whole frames. compiled: its hook is a kernel. partition: wants the whole partition at once.
    depth: frames that it would like in a tile. cost: `UDF.tile_cost`.
    """

    key: str
    itemsize: int
    sums: bool
    whole: bool
    compiled: bool
    partition: bool
    frames: bool = False
    depth: int = 1
    cost: float = 2.0


@dataclass(frozen=True)
class Tiling:
    """Tiles of one channel: `depth` frames, `rows` rows of each (all of them unless frames are large)."""

    depth: int
    rows: int
    n_rows: int

    @property
    def bands(self) -> list[tuple[int, int]]:
        """Row ranges [start, stop) that cover a frame."""
        return [(y, min(y + self.rows, self.n_rows)) for y in range(0, self.n_rows, self.rows)]


@dataclass(frozen=True)
class RunPlan:
    """All choices of a run. Pure data; `partitions()` proposes the cut, `explain()` says why.

    runs: int64 (k, 2) positions to process; missing: bool flat, wanted positions without a frame.
    partition_frames: most positions in a partition; they start with one tile and grow, and get smaller at the end,
    down to last_frames.
    """

    nav: tuple[int, ...]
    runs: np.ndarray[Any, Any]
    missing: np.ndarray[Any, Any]
    tilings: dict[str, Tiling]
    first_frames: int
    partition_frames: int
    last_frames: int
    order: str
    reasons: tuple[str, ...] = field(default=())

    @functools.cached_property
    def n_selected(self) -> int:
        """Number of positions to process."""
        return int((self.runs[:, 1] - self.runs[:, 0]).sum())

    def sizes(self) -> Iterator[int]:
        """Positions in each partition, endless: one tile first, then four times as many, so that the first picture comes at once.

        The last ones are half of what is left, down to `last_frames`, so that workers end together; whatever their number, because
        float sums depend on the cut.
        """
        if self.order == "coarse":
            yield from itertools.repeat(self.partition_frames)
        left, grown = self.n_selected, self.first_frames
        while True:
            share = left // 2 // self.first_frames * self.first_frames
            size = min(grown, max(share, self.last_frames))
            yield size
            left -= size
            grown = min(grown * 4, self.partition_frames)

    @property
    def n_partitions(self) -> int:
        """Number of partitions of the proposed cut."""
        left, n = self.n_selected, 0
        for size in self.sizes():
            if left <= 0:
                return n
            left -= size
            n += 1
        return n

    def partitions(self) -> Planned:
        """The proposed cut. In the order "coarse" partitions are visited bit-reversed: the whole scan, coarse to fine."""
        numbered = (Partition(i, runs) for i, runs in enumerate(cut_runs(self.runs, self.sizes())))
        if self.order != "coarse":
            return Planned(numbered)
        cut = list(numbered)
        return Planned(cut[i] for i in bit_reversed(len(cut)))

    def explain(self) -> str:
        """The choices in words, one a line."""
        return "\n".join(self.reasons)


def bit_reversed(n: int) -> list[int]:
    """0..n-1 in bit-reversed order."""
    bits = max(1, (n - 1).bit_length())
    return [j for i in range(1 << bits) if (j := int(f"{i:0{bits}b}"[::-1], 2)) < n]


def make_plan(
    *,
    nav: tuple[int, ...],
    n_frames: int,
    sync_offset: int,
    channels: dict[str, tuple[tuple[int, ...], int]],
    needs: dict[str, Sequence[Need]],
    mask: np.ndarray[Any, Any] | None,
    task_factor: float = 1.0,
    order: str = "scan",
) -> RunPlan:
    """Plan a run.

    channels: frame shape and itemsize of each channel in use; needs: what the UDFs of each channel ask for.
    mask: region of interest as a bool array, or None.
    """
    reasons: list[str] = []
    runs, missing = selected(nav, n_frames, sync_offset, mask)
    n_selected = int((runs[:, 1] - runs[:, 0]).sum())
    total = math.prod(nav)
    reasons.append(f"positions: {n_selected} of {total}" + (f" in {len(runs)} runs (region of interest)" if mask is not None else ""))
    if missing.any():
        reasons.append(
            f"missing: {int(missing.sum())} positions have no frame (sync_offset {sync_offset}, {n_frames} frames in the source)"
        )
    tilings = {}
    for name, (sig, itemsize) in channels.items():
        tilings[name], why = tile_of(sig, itemsize, needs[name])
        reasons.append(f"tiles of {name}: {why}")
    frame_bytes = sum(math.prod(sig) * itemsize for sig, itemsize in channels.values()) or 1
    slow = any(not n.compiled for group in needs.values() for n in group)
    upper = PYTHON_BYTES if slow else PARTITION_BYTES
    # A partition costs 0.2 ms, which is nothing to slow UDFs: they are cut finer, for many workers. The number of workers does not
    # count: float sums depend on the cut, and have the same bits on one core and on many.
    quick = all(n.compiled and n.cost < QUICK for group in needs.values() for n in group)
    share = n_selected * frame_bytes / (16 if quick else 32)
    size = min(max(share, (32 if quick else 16) * MIB), upper) * task_factor
    depth = max(t.depth for t in tilings.values())
    frames = max(depth, min(int(size // frame_bytes), PARTITION_FRAMES) // depth * depth)
    by_frame = any(n.frames for group in needs.values() for n in group)
    if by_frame:
        # a Python call may take milliseconds: a partition is what a snapshot waits for
        depth = min(depth, PYTHON_FIRST)
        frames = max(depth, min(frames, PYTHON_FRAMES))
    if order == "coarse":
        frames = max(depth, min(frames, -(-n_selected // COARSE)))
    reasons.append(
        f"partitions: up to {frames} positions ({frames * frame_bytes / MIB:.1f} MiB), "
        + ("visited coarse to fine" if order == "coarse" else f"the first {depth}, then growing")
        + (f", at most {PYTHON_BYTES // MIB} MiB because a plain-Python UDF is in the run" if slow else "")
    )
    small = 0 if by_frame else 8 * MIB // frame_bytes // depth * depth
    last = min(max(depth, frames // 8, small), frames)
    return RunPlan(nav, runs, missing, tilings, min(depth, frames), frames, last, order, tuple(reasons))


def tile_of(sig: tuple[int, ...], itemsize: int, needs: Sequence[Need]) -> tuple[Tiling, str]:
    """Tile for frames of shape `sig`, and why. Whole frames where 8 fit into 1 MiB, else bands of rows where all UDFs allow."""
    n_rows = sig[0]
    size = max([itemsize, *(n.itemsize for n in needs)])
    frame = max(1, math.prod(sig) * size)
    row = max(1, frame // max(1, n_rows))
    if any(n.partition for n in needs):
        which = ", ".join(n.key for n in needs if n.partition)
        return Tiling(max(1, TILE_BYTES // frame), n_rows, n_rows), f"whole partitions for {which} (process_partition)"
    sums = any(n.sums for n in needs)
    depth = TILE_BYTES // frame
    wanted = max((n.depth for n in needs), default=1)
    if depth < wanted and (most := min(wanted, TILE_BYTES_WANTED // frame)) >= max(depth, MIN_FRAMES):
        which = ", ".join(n.key for n in needs if n.depth > depth)
        return Tiling(most, n_rows, n_rows), f"{most} whole frames ({most * frame / MIB:.2f} MiB), for the constants of {which}"
    if depth >= MIN_FRAMES or (depth >= 1 and not sums):
        return Tiling(depth, n_rows, n_rows), f"{depth} whole frames ({depth * frame / MIB:.2f} MiB), within L2"
    whole = [n.key for n in needs if n.whole]
    if not sums:
        return Tiling(1, n_rows, n_rows), f"1 whole frame ({frame / MIB:.2f} MiB), nothing is summed over the scan"
    if whole:
        depth = max(1, min(MIN_FRAMES, TILE_BYTES_MAX // frame))
        return Tiling(
            depth, n_rows, n_rows
        ), f"{depth} whole frames ({depth * frame / MIB:.1f} MiB), because {', '.join(whole)} needs whole frames"
    rows = max(1, min(n_rows, TILE_BYTES // (MIN_FRAMES * row)))
    return Tiling(
        MIN_FRAMES, rows, n_rows
    ), f"{MIN_FRAMES} frames in bands of {rows} rows ({MIN_FRAMES * rows * row / MIB:.2f} MiB): frames are large"
