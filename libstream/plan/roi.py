"""Regions of interest: which scan positions are processed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from libstream.errors import ShapeError, UsageError

_Arr = np.ndarray[Any, Any]


def as_mask(roi: Any, nav: tuple[int, ...]) -> _Arr | None:
    """Bool array of the scan's shape, or None for all positions.

    roi: None; a bool array of exactly the scan's shape; slices or integers as for indexing (`np.s_[2:5, :]`); or a list or
    array of positions (k, n_nav_axes) as (y, x). Raises ShapeError for another shape, a transposed one included.
    """
    if roi is None:
        return None
    if isinstance(roi, (slice, int, np.integer)) or roi is Ellipsis or (isinstance(roi, tuple) and _is_index(roi)):
        mask = np.zeros(nav, bool)
        try:
            mask[roi] = True
        except IndexError as exc:
            raise ShapeError(f"roi {roi!r} does not fit the scan {nav}: {exc}") from None
        return mask
    array = np.asarray(roi)
    if array.dtype == bool:
        if array.shape != nav:
            hint = " (it is transposed: scan shapes are (y, x))" if array.shape == nav[::-1] else ""
            raise ShapeError(f"roi has shape {array.shape}, the scan has {nav}{hint}; pass a bool array of the scan's shape")
        return array.copy()
    if array.dtype.kind in "iu" and array.ndim == 2 and array.shape[1] == len(nav):
        mask = np.zeros(nav, bool)
        for axis, size in enumerate(nav):
            bad = (array[:, axis] < 0) | (array[:, axis] >= size)
            if bad.any():
                raise ShapeError(f"roi position {tuple(int(i) for i in array[bad][0])} lies outside of the scan {nav}")
        mask[tuple(array.T)] = True
        return mask
    raise UsageError(
        f"roi must be a bool array of shape {nav}, slices, or positions of shape (k, {len(nav)}), got {array.dtype} of shape {array.shape}"
    )


def _is_index(roi: tuple[Any, ...]) -> bool:
    return all(isinstance(i, (slice, int, np.integer)) or i is Ellipsis for i in roi)


def selected(nav: tuple[int, ...], n_frames: int, sync_offset: int, mask: _Arr | None) -> tuple[_Arr, _Arr]:
    """Positions to process and their initial status.

    Returns (runs int64 (k, 2) of flat positions that are wanted and have a frame, status-relevant `missing` mask, bool flat).
    """
    n = math.prod(nav)
    lo, hi = max(0, -sync_offset), max(0, min(n, n_frames - sync_offset))
    if mask is None:
        runs = np.array([[lo, hi]], np.int64) if hi > lo else np.zeros((0, 2), np.int64)
        missing = np.ones(n, bool)
        missing[lo:hi] = False
        return runs, missing
    wanted = mask.reshape(-1)
    has = np.zeros(n, bool)
    has[lo:hi] = True
    return runs_of(wanted & has), wanted & ~has


def runs_of(flags: _Arr) -> _Arr:
    """Half-open runs of True in a flat bool array, int64 (k, 2)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return edges.reshape(-1, 2).astype(np.int64)


def cut_runs(runs: _Arr, sizes: Any) -> Any:
    """Cut rising runs into consecutive groups of the given numbers of positions; yields int64 (k, 2) arrays.

    `sizes` is an iterator of group sizes; cutting ends with the positions.
    """
    if not len(runs):
        return
    lengths = runs[:, 1] - runs[:, 0]
    ends = np.cumsum(lengths)
    total, start = int(ends[-1]), 0
    for size in sizes:
        if start >= total:
            return
        stop = min(start + int(size), total)
        a, b = int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop, side="left"))
        part = runs[a : b + 1].copy()
        part[-1, 1] = runs[b, 1] - (ends[b] - stop)
        part[0, 0] = runs[a, 0] + (start - (ends[a] - lengths[a]))
        yield part
        start = stop
