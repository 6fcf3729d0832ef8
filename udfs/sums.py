"""Sums of frames: over the scan (`Sum`) and over the detector (`FrameTotals`)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from libstream.ext import UDF, Corrections, Coverage, Kernel, Output, kernel, nav, sig, single
from libstream.udfs.kernels.masks import weigh_each, weigh_each_float
from libstream.udfs.kernels.sums import add_frames, total_narrow, total_wide
from libstream.udfs.masks import Form, cheapest

_Arr = np.ndarray[Any, Any]


def sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype of sums of pixels of `dtype`: uint64 or int64 for integers of up to 32 bits (exact below 2^31 pixels), else float64.

    Sums of 64-bit integers may not fit into 64 bits: float64 is exact up to 2^53 and never wraps. complex128 for complex pixels.
    """
    if dtype.kind == "c":
        return np.dtype(np.complex128)
    if dtype.kind in "biu" and dtype.itemsize <= 4:
        return np.dtype(np.int64 if dtype.kind == "i" else np.uint64)
    return np.dtype(np.float64)


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """True for integers of 8 and 16 bits and bool."""
    return dtype.kind in "biu" and dtype.itemsize <= 2


def scan_sum(udf: UDF, **options: Any) -> Output:
    """Accumulator for the sum of all frames; 32 bits within a partition where that is proven to be enough."""
    dtype = sum_dtype(udf.meta.dtype)
    short = np.dtype(np.uint32) if dtype == np.uint64 and is_narrow(udf.meta.dtype) else None
    return sig(dtype, partial_dtype=short, **options)


def corrected_sum(corrections: Corrections | None, total: _Arr, n: int) -> _Arr:
    """Sum of `n` corrected frames, made of the sum of the raw ones: corrections are linear. float64 (as it is without any).

    NaN for no frames.
    """
    if n == 0:
        return np.full(total.shape, np.nan)
    if corrections is None:
        return total
    dark = None if corrections.dark is None else n * corrections.dark
    return replace(corrections, dark=dark).apply(total)


@kernel
def into_raw(tile: _Arr, raw: _Arr, count: _Arr, row0: int) -> None:
    """Kernel of `Sum` with corrections, which need the number of frames."""
    add_frames(tile, raw)
    if row0 == 0:
        count[0] += tile.shape[0]


class Sum(UDF):
    """Sum of all frames: the mean diffraction pattern times the number of frames.

    Outputs:

    sum: frame shape, in the unit of the detector (counts). Exact uint64 (int64 for signed frames) for integers of up to
        32 bits; float64 for floats, and for integers of 64 bits, whose sum may not fit (exact up to 2^53); complex128.
        With corrections float64: dark, gain and repair are linear, so they are applied once, to the exact sum.

    NaN and infinities go where they go in NumPy. Sums of floats depend on the cut into tiles by about 1e-15 of the sum of
    magnitudes.
    """

    folds_corrections = True
    process_tile = add_frames

    @property
    def tile_cost(self) -> float:
        return 1.0

    def hook(self) -> Kernel:
        return add_frames if self.meta.corrections is None else into_raw

    def outputs(self) -> Mapping[str, Output]:
        if self.meta.corrections is None:
            return {"sum": scan_sum(self, title="Sum of frames")}
        return {
            "raw": scan_sum(self, private=True, fill=0),
            "count": single("int64", private=True, fill=0),
            "sum": sig("float64", derived=True, title="Sum of corrected frames"),
        }

    def finish(self, results: dict[str, Any], coverage: Coverage) -> Mapping[str, Any]:
        if self.meta.corrections is None:
            return {}
        return {"sum": corrected_sum(self.meta.corrections, results["raw"], int(results["count"]))}


@kernel
def total_weighted(
    tile: _Arr, total: _Arr, segments: _Arr, firsts: _Arr, weights: _Arr, units: _Arr, offsets: _Arr, row_size: int, row0: int
) -> None:
    """Kernel of `FrameTotals` with corrections."""
    weigh_each(tile, total, segments, firsts, weights, units, offsets, row_size, row0)


@kernel
def total_weighted_float(
    tile: _Arr, total: _Arr, segments: _Arr, firsts: _Arr, weights: _Arr, units: _Arr, offsets: _Arr, row_size: int, row0: int
) -> None:
    """The same for float frames."""
    weigh_each_float(tile, total, segments, firsts, weights, units, offsets, row_size, row0)


class FrameTotals(UDF):
    """Sum of each frame: the image of a detector that sees everything.

    Outputs:

    total: scan shape, in the unit of the detector (counts). Exact uint64 (int64 for signed frames) for integers of up to
        32 bits; float64 for floats, and for integers of 64 bits, whose sum may not fit (exact up to 2^53); complex128.
        With corrections float64: they become weights of the pixels, and excluded pixels do not count, even if NaN.
    """

    folds_corrections = True
    process_tile = total_narrow

    @property
    def tile_cost(self) -> float:
        return 1.0

    def hook(self) -> Kernel:
        if self.meta.corrections is not None:
            return total_weighted_float if self.meta.dtype.kind == "f" else total_weighted
        return total_narrow if is_narrow(self.meta.dtype) else total_wide

    def outputs(self) -> Mapping[str, Output]:
        if self.meta.corrections is not None:
            return {"total": nav("float64", title="Sum of each corrected frame")}
        return {"total": nav(sum_dtype(self.meta.dtype), title="Sum of each frame")}

    @functools.cached_property
    def _form(self) -> Form:
        return cheapest(np.ones((1, *self.meta.shape.sig)), self.meta, np.dtype(np.float64), ("each",))

    @functools.cached_property
    def segments(self) -> _Arr:
        """Runs of pixels that count, see `libstream.udfs.kernels.masks`."""
        return self._form.segments

    @functools.cached_property
    def firsts(self) -> _Arr:
        """Where segments of each row begin."""
        return self._form.firsts

    @functools.cached_property
    def row_size(self) -> int:
        """Pixels of a row."""
        return self.meta.shape.frame_size // max(1, self.meta.shape.sig[0])

    @functools.cached_property
    def weights(self) -> _Arr:
        """Weight of each pixel."""
        return self._form.weights

    @functools.cached_property
    def units(self) -> _Arr:
        """Ones."""
        return self._form.units

    @functools.cached_property
    def offsets(self) -> _Arr:
        """What the dark frame adds up to."""
        return self._form.offsets
