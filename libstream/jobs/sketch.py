"""A coarse picture of a large scan long before the whole one: a run over every k-th position of every k-th row, blown up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream import api
from libstream.contracts.source import FrameSource
from libstream.contracts.udf import UDF
from libstream.live.watch import WatchedAcquisition
from libstream.model.result import Result

_Arr = np.ndarray[Any, Any]

SLOW_S = 0.3
"""Runs that are expected to take longer are sketched first."""
AIM_S = 0.08
"""Time that a sketch should take (half of it to twice as much: steps are powers of two): with binding, sending and painting the first
picture is there within a quarter of a second."""
MOST_S = 0.5
"""A sketch that takes longer (frames of a compressed chunk cannot be had one by one) is stopped; what it has is shown."""
BYTES_PER_S = 2e9
"""Rate that is assumed until something has been measured."""
LEAST = 12
"""A sketch has at least so many rows and columns."""


@dataclass(frozen=True)
class Grid:
    """Which positions are sketched. mask: bool, of the scan's shape. rows, columns: of the nearest one, for each row and column."""

    step: int
    mask: _Arr
    rows: _Arr
    columns: _Arr
    allowed: _Arr | None

    def filled(self, array: _Arr) -> _Arr:
        """Values of the grid at all positions. array: (*scan, ...)."""
        y = self.mask.ndim - 2
        return np.take(np.take(array, self.rows, axis=y), self.columns, axis=y + 1)


class Sketch:
    """What was computed on a grid: values for positions that are not there yet. `of` gives the same objects for the same output."""

    def __init__(self, grid: Grid, result: Result) -> None:
        self.grid, self.result = grid, result
        valid = grid.filled(result.valid)
        self._drawn = valid if grid.allowed is None else valid & grid.allowed
        self._of: dict[tuple[str, str], tuple[_Arr, _Arr]] = {}

    def of(self, id: str, name: str) -> tuple[_Arr, _Arr] | None:
        """(values at all positions, which of them are to be drawn) of an output with a value for each position, else None."""
        outputs = self.result.udfs.get(id)
        if outputs is None or name not in outputs.arrays or outputs.declared[name].kind != "nav":
            return None
        found = self._of.get((id, name))
        if found is None:
            found = self._of[id, name] = self.grid.filled(np.asarray(outputs.arrays[name])), self._drawn
        return found


def grid_for(source: FrameSource, udfs: Mapping[str, UDF], roi: _Arr | None, frame_s: float) -> Grid | None:
    """The grid to sketch a run, None where it is fast enough, or nothing of it is a map. frame_s: seconds that a frame takes.

    The step is a power of two, so that it does not change with every measurement. roi: bool mask, None = all.
    """
    nav = source.meta.shape.nav
    if len(nav) < 2 or isinstance(source, (api.Acquisition, WatchedAcquisition)):
        return None
    n = math.prod(nav) if roi is None else int(roi.sum())
    if n * frame_s <= SLOW_S or not any(o.kind == "nav" and not o.private for u in udfs.values() for o in u.outputs().values()):
        return None
    step = 1 << max(1, round(math.log2(math.sqrt(n * frame_s / AIM_S))))
    while step > 1 and min(nav[-2:]) < LEAST * step:
        step //= 2
    if step == 1:
        return None
    rows, columns = (np.minimum(np.arange(size) // step * step + step // 2, size - 1) for size in nav[-2:])
    mask = np.zeros(nav, bool)
    mask[..., np.unique(rows)[:, None], np.unique(columns)[None, :]] = True
    if roi is not None:
        mask &= roi
    return Grid(step, mask, rows, columns, roi) if mask.any() else None


def guessed_frame_s(source: FrameSource) -> float:
    """Seconds that a frame may take, before anything was measured."""
    meta = source.meta
    return math.prod(meta.shape.sig) * meta.dtype.itemsize / BYTES_PER_S
