"""Copies of frames out of arrays with any memory layout."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from libstream.ext import Span

_Arr = np.ndarray[Any, Any]


def flat_frames(data: _Arr, n_sig: int) -> _Arr | None:
    """`data` (*nav, *sig) as (n, *sig) without copying, C order inside frames, read-only; None where that is impossible."""
    n_nav = data.ndim - n_sig
    step = data.itemsize
    for n, stride in zip(data.shape[:n_nav:-1], data.strides[:n_nav:-1], strict=True):
        if n > 1 and stride != step:
            return None
        step *= n
    if data.shape[n_nav] > 1 and data.strides[n_nav] != step:
        return None
    frame = step * data.shape[n_nav]
    axes = [(n, stride) for n, stride in zip(data.shape[:n_nav], data.strides[:n_nav], strict=True) if n != 1]
    nested = all(outer[1] == inner[0] * inner[1] for outer, inner in itertools.pairwise(axes))
    # frames may have gaps; repeated (stride 0) or backward ones are valid arrays, but no tiles
    if not data.flags.aligned or not nested or (axes and axes[-1][1] < frame):
        return None
    flat = data.reshape(-1, *data.shape[n_nav:]) if data.size else np.zeros((0, *data.shape[n_nav:]), data.dtype)
    flat.flags.writeable = False
    return flat


def copy_frames(data: _Arr, n_sig: int, frames: Span, rows: slice, out: _Arr) -> None:
    """Copy frames (flat numbers in C order of nav), cut to `rows`, of `data` (*nav, *sig) into `out` (n, n_rows, ...)."""
    nav = data.shape[: data.ndim - n_sig]
    if len(nav) < 2:
        stack = data if nav else data[np.newaxis]
        np.copyto(out, stack[frames.start : frames.stop, rows])
        return
    width = nav[-1]
    done = frames.start
    while done < frames.stop:  # one run along the fastest scan axis at a time
        line, first = divmod(done, width)
        n = min(width - first, frames.stop - done)
        index: tuple[Any, ...] = (*(int(i) for i in np.unravel_index(line, nav[:-1])), slice(first, first + n), rows)
        a = done - frames.start
        np.copyto(out[a : a + n], data[index])
        done += n
