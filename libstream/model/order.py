"""Which scan position the k-th frame of a run belongs to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from libstream.errors import ShapeError, UsageError

_Arr = np.ndarray[Any, Any]

ORDERS = ("raster", "serpentine")


@dataclass(frozen=True)
class ScanOrder:
    """How a scan is travelled. Make it with `ScanOrder.of`.

    nav: shape of the scan, with an axis for the frames of one position at its end where there are several.
    n_frames: frames that the detector sends for it, flyback included.
    order: "raster", every line from left to right; "serpentine", every second line from right to left.
    flyback: frames at the end of each line that belong to no position.
    frames_per_position: frames at each position, one after another.
    positions: int64 (n_frames,) flat position of each frame, -1 for none; instead of order and flyback.
    """

    nav: tuple[int, ...]
    n_frames: int
    order: str = "raster"
    flyback: int = 0
    frames_per_position: int = 1
    positions: _Arr | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls, scan: tuple[int, ...], *, order: str = "raster", flyback: int = 0, frames_per_position: int = 1, positions: Any = None
    ) -> ScanOrder:
        """A scan of shape `scan`.

        positions: a custom path: flat positions (n,), or (y, x) (n, axes of the scan); negative ones belong to no position.

        Raises ShapeError, UsageError: for what cannot be, with what was expected.
        """
        scan = tuple(int(n) for n in scan)
        if any(n < 1 for n in scan):
            raise ShapeError(f"a scan has at least one position on each axis, got {scan}")
        if order not in ORDERS:
            raise UsageError(f"order is one of {', '.join(ORDERS)}, got {order!r}; for any other path pass positions=")
        if flyback < 0 or frames_per_position < 1:
            raise UsageError(f"flyback is 0 or more and frames_per_position 1 or more, got {flyback} and {frames_per_position}")
        nav = (*scan, frames_per_position) if frames_per_position > 1 else scan
        if positions is None:
            lines, width = _lines(scan)
            return cls(nav, lines * (width + flyback) * frames_per_position, order, flyback, frames_per_position)
        if order != "raster" or flyback:
            raise UsageError("positions= says the whole path: leave order and flyback out")
        path = _path(positions, scan)
        return cls(nav, len(path) * frames_per_position, "custom", 0, frames_per_position, path)

    @property
    def n_positions(self) -> int:
        """Number of positions in the result."""
        return math.prod(self.nav)

    def positions_of(self, numbers: _Arr) -> _Arr:
        """Flat positions, int64, of the frames `numbers` (int64, 0 <= number < n_frames); -1 for frames of no position."""
        k = self.frames_per_position
        step, repeat = (numbers, 0) if k == 1 else np.divmod(numbers, k)
        if self.positions is not None:
            at = self.positions[step]
        elif not self.flyback and self.order == "raster":
            at = step
        else:
            scan = self.nav[:-1] if k > 1 else self.nav
            _, width = _lines(scan)
            line, x = np.divmod(step, width + self.flyback)
            back = x >= width
            if self.order == "serpentine":
                height = scan[-2] if len(scan) > 1 else 1
                x = np.where(line % height % 2 == 1, width - 1 - x, x)
            at = np.where(back, -1, line * width + x)
        return at if k == 1 else np.where(at < 0, -1, at * k + repeat)

    def numbers(self) -> _Arr:
        """Number of the frame at each flat position, int64 (n_positions,); -1 at positions that the path leaves out."""
        out = np.full(self.n_positions, -1, np.int64)
        at = self.positions_of(np.arange(self.n_frames, dtype=np.int64))
        out[at[at >= 0]] = np.flatnonzero(at >= 0)
        return out

    def left_out(self) -> _Arr:
        """Flat positions that the path never visits, int64."""
        if self.positions is None:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.numbers() < 0)


def _lines(scan: tuple[int, ...]) -> tuple[int, int]:
    return (math.prod(scan[:-1]), scan[-1]) if scan else (1, 1)


def _path(positions: Any, scan: tuple[int, ...]) -> _Arr:
    given = np.asarray(positions)
    if given.dtype.kind not in "iu" or given.ndim not in (1, 2) or not given.size:
        raise ShapeError(f"positions is an array of whole numbers, (n,) flat or (n, {len(scan)}), got {given.dtype} {given.shape}")
    given = given.astype(np.int64)
    if given.ndim == 2:
        if given.shape[1] != len(scan):
            raise ShapeError(f"positions has {given.shape[1]} columns, the scan {scan} has {len(scan)} axes")
        none = (given < 0).any(axis=1)
        outside = (given >= np.array(scan)).any(axis=1) & ~none
        if outside.any():
            i = int(np.argmax(outside))
            raise ShapeError(f"positions: {tuple(given[i].tolist())} of frame {i} lies outside of the scan {scan}")
        flat = np.full(len(given), -1, np.int64)
        flat[~none] = np.ravel_multi_index(tuple(given[~none].T), scan)
    else:
        if (given >= math.prod(scan)).any():
            i = int(np.argmax(given >= math.prod(scan)))
            raise ShapeError(f"positions: {int(given[i])} of frame {i} lies outside of the {math.prod(scan)} positions of the scan {scan}")
        flat = np.maximum(given, -1)
    used, counts = np.unique(flat[flat >= 0], return_counts=True)
    if (counts > 1).any():
        twice = int(used[np.argmax(counts > 1)])
        raise ShapeError(
            f"positions: position {twice} is visited {int(counts.max())} times; give one more axis of the scan to tell the visits apart, "
            "or frames_per_position where they follow each other"
        )
    return flat
