"""Masks as kernels want them: the cheapest of several forms of one weighted sum.

Costs are counted in bytes that one core streams from its L2 cache in the same time (50 to 60 GB/s on Zen 4; measured there
with 256 x 256 frames of uint16).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.ext import RunMeta
from libstream.udfs.kernels.masks import BLOCK, SEGMENT

_Arr = np.ndarray[Any, Any]

SEGMENT_COST = 512
"""To begin a segment: 8.5 ns, for 4 frames side by side."""
PIXEL_COST = 64
"""To visit a single pixel by its index: a cache line."""
BITS_FACTOR = 1.25
"""AND with a mask that is loaded once for 4 frames, against plain sums."""
WEIGHT_COST = 5.4
"""One pixel times one weight in float64, one mask at a time (22 GB/s of uint16)."""
BLOCKED_COST = 2.3
"""The same with 4 frames and 4 masks at a time (3.3 GB/s of uint16 for 16 masks)."""
MEMORY_COST = 3.0
"""A byte that is brought from memory, in whole lines, while all cores read (17 GB/s for each of two); computing goes on meanwhile."""
LINE = 64
LARGE = 16 << 20
"""Bytes of weights that no longer stay in the cache that cores share."""
TILE_FRAMES = 32
"""Frames in a tile for many large masks, which come from memory for each tile: with 16 masks of 512 x 512 px 2.6 GB/s of uint16 for
each of two cores; 1.9 with 8 frames, 0.7 with 2."""


def runs_of(mask: _Arr) -> _Arr:
    """Runs of True in flat `mask`: int64 (k, 2), half-open."""
    edges = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    head = np.zeros(1 if mask.size and mask[0] else 0, np.int64)
    tail = np.full(1 if mask.size and mask[-1] else 0, mask.size, np.int64)
    return np.concatenate([head, edges, tail]).astype(np.int64).reshape(-1, 2)


def segments_of(runs: _Arr, gap: int = 0, most: int = SEGMENT) -> _Arr:
    """Runs (k, 2) with gaps of up to `gap` pixels bridged and cut to at most `most` pixels."""
    if not len(runs):
        return runs
    wide = runs[1:, 0] - runs[:-1, 1] > gap
    starts, stops = runs[np.concatenate([[True], wide]), 0], runs[np.concatenate([wide, [True]]), 1]
    pieces = -(-(stops - starts) // most)
    nth = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = np.repeat(starts, pieces) + nth * most
    return np.stack([first, np.minimum(first + most, np.repeat(stops, pieces))], axis=1)


@dataclass(frozen=True)
class Form:
    """One way to apply masks; fields that its kernel does not take are empty.

    name: "runs": all pixels of the segments count; "bits": pixels of the segments AND bits; "pixels": single pixels by index;
    "each", "many": weights, one mask after another or in blocks of 4 masks and 4 frames.
    weights: float64 (rows, pixels), rows padded to a multiple of 4; a complex mask has two rows, real and imaginary.
    units: dtype of the output, one for each row that counts: 1, and 1j for imaginary parts.
    offsets: dtype of the output, one for each mask: taken off the sums (dark frames).
    values: of single pixels, dtype of the output.
    """

    name: str
    segments: _Arr
    firsts: _Arr
    bits: _Arr
    pixels: _Arr
    starts: _Arr
    values: _Arr
    weights: _Arr
    units: _Arr
    offsets: _Arr


ALL = ("runs", "bits", "pixels", "each", "many")


def cheapest(masks: _Arr, meta: RunMeta, out: np.dtype[Any], allowed: tuple[str, ...] = ALL) -> Form:
    """The cheapest form of `masks` (n, *frame shape) for frames as in `meta`, with its corrections folded in.

    out: dtype of the output; integers take the forms for binary masks only, which are exact.
    """
    n, dtype = len(masks), meta.dtype
    offsets = np.zeros(n, out)
    if meta.corrections is not None:
        folded = [meta.corrections.fold(m) for m in masks]
        masks = np.stack([w for w, _ in folded])
        offsets[:] = [offset for _, offset in folded]
    flat = np.ascontiguousarray(masks.reshape(n, -1))
    binary = flat.dtype.kind == "b"
    inside = flat if binary else flat != 0
    rows, complex_ = flat, flat.dtype.kind == "c"
    if complex_:
        rows = np.stack([flat.real, flat.imag], axis=1).reshape(2 * n, -1)
    units = np.tile(np.array([1, 1j], out), n) if complex_ else np.ones(n, out)
    padded = -(-len(rows) // 4) * 4
    gap = SEGMENT_COST // dtype.itemsize
    most = BLOCK if 8 * padded * rows.shape[1] > LARGE else SEGMENT
    runs = [runs_of(m) for m in inside]
    exact, near = [segments_of(r) for r in runs], [segments_of(r, gap) for r in runs]
    each = [s for s in near for _ in range(2 if complex_ else 1)]
    many = near if n == 1 else [segments_of(runs_of(np.asarray(inside.any(axis=0))), gap, most)]

    computing: dict[str, float] = {}
    if not offsets.any():
        computing["pixels"] = PIXEL_COST * _size(exact)
        if out.kind != "c" and (binary or (flat[inside] == 1).all()):
            computing["runs"] = dtype.itemsize * _size(exact) + SEGMENT_COST * _count(exact)
            if dtype.kind in "biu" and dtype.itemsize < 8:
                computing["bits"] = BITS_FACTOR * dtype.itemsize * _size(near) + SEGMENT_COST * _count(near)
    if out.kind in "fc":
        computing["each"] = WEIGHT_COST * _size(each) + SEGMENT_COST * _count(each)
        computing["many"] = (BLOCKED_COST * padded + dtype.itemsize) * _size(many) + SEGMENT_COST * padded * _count(many)
    used = {"pixels": exact, "runs": exact, "bits": near, "each": each, "many": many}
    reading = {c: MEMORY_COST * _touched(used[c], dtype.itemsize, flat.shape[1]) for c in computing}
    costs = {c: (max(computing[c], reading[c]), computing[c]) for c in computing if c in allowed}
    name = min(costs, key=costs.__getitem__)

    pixels, starts, values = np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, out)
    bits, weights = np.zeros((0, 0), dtype), np.zeros((0, 0))
    if name == "pixels":
        owner, pixels = np.nonzero(inside)
        starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n))])
        values = flat[owner, pixels].astype(out)
    elif name == "bits":
        bits = inside if dtype.kind == "b" else np.negative(inside.astype(f"i{dtype.itemsize}")).view(dtype)
    elif name in ("each", "many"):
        weights = np.zeros((padded, rows.shape[1]))
        weights[: len(rows)] = rows
    segments = [] if name == "pixels" else used[name]
    listed = _listed(segments)
    return Form(name, listed, _firsts(listed, meta), bits, pixels, starts, values, weights, units, offsets)


def _firsts(listed: _Arr, meta: RunMeta) -> _Arr:
    """For each row of the frame, how many segments at the head of the list end before it (int64)."""
    n_rows = meta.shape.sig[0]
    ends = np.maximum.accumulate(listed[:, 1])
    return np.searchsorted(ends, np.arange(n_rows) * (meta.shape.frame_size // max(1, n_rows)), side="right").astype(np.int64)


def _listed(segments: list[_Arr]) -> _Arr:
    """Segments of several masks as int64 (k, 3) with the number of the mask, by rising start."""
    rows = [np.column_stack([s, np.full(len(s), m, np.int64)]) for m, s in enumerate(segments)]
    joined = np.concatenate([np.zeros((0, 3), np.int64), *rows])
    return np.ascontiguousarray(joined[np.argsort(joined[:, 0], kind="stable")])


def _size(segments: list[_Arr]) -> int:
    return int(sum((s[:, 1] - s[:, 0]).sum() for s in segments))


def _touched(segments: list[_Arr], itemsize: int, size: int) -> int:
    """Bytes of the lines of memory that these segments of a frame of `size` pixels lie in; a line that several need counts once."""
    ends = np.concatenate([np.zeros((0, 2), np.int64), *segments]) * itemsize
    n = size * itemsize // LINE + 2
    begun = np.bincount(ends[:, 0] // LINE, minlength=n) - np.bincount((ends[:, 1] - 1) // LINE + 1, minlength=n)
    return LINE * int((np.cumsum(begun) > 0).sum())


def _count(segments: list[_Arr]) -> int:
    return sum(map(len, segments))
