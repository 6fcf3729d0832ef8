"""Rings on a detector: the pixels at a distance from a centre. Pixel (0, 0) has its centre at 0.0; order is (y, x)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from libstream.ext import UDF, ParameterError, UsageError

_Arr = np.ndarray[Any, Any]


def frame_shape(udf: UDF) -> tuple[int, int]:
    """(ny, nx) of the frames of a bound UDF. Raises UsageError where a frame has not two axes or is not real."""
    sig = udf.meta.shape.sig
    name = type(udf).__name__
    if len(sig) != 2:
        raise UsageError(f"{name} needs frames with two axes (y, x), the frames of this source have shape {sig}")
    if udf.meta.dtype.kind not in "biuf":
        raise UsageError(f"{name} needs real numbers, the frames of this source are {udf.meta.dtype}")
    return sig[0], sig[1]


def centre_of(udf: UDF, given: tuple[float, float] | None) -> tuple[float, float]:
    """The centre (y, x) in px: as given, else that of the source, else the middle of the frame ((ny - 1) / 2, (nx - 1) / 2)."""
    if given is not None:
        y, x = given
    elif udf.meta.centre is not None:
        y, x = udf.meta.centre
    else:
        ny, nx = frame_shape(udf)
        y, x = (ny - 1) / 2, (nx - 1) / 2
    if not (np.isfinite(y) and np.isfinite(x)):
        raise ParameterError(f"{type(udf).__name__}: centre must be two finite numbers (y, x), got {given}")
    return float(y), float(x)


def radius_map(shape: tuple[int, int], centre: tuple[float, float]) -> _Arr:
    """Distance of each pixel's centre from `centre` in px; float64 array (ny, nx), not to be written to."""
    return (_kept if shape[0] * shape[1] <= KEPT_PIXELS else _distances)(shape, centre)


def _distances(shape: tuple[int, int], centre: tuple[float, float]) -> _Arr:
    y = np.arange(shape[0], dtype=np.float64) - centre[0]
    x = np.arange(shape[1], dtype=np.float64) - centre[1]
    r = np.asarray(np.sqrt((y * y)[:, None] + (x * x)[None, :]))  # exact where squares are; hypot takes six times as long
    r.setflags(write=False)
    return r


KEPT_PIXELS = 2**20
"""Largest frames whose distances are kept (8 MiB): a dragged radius keeps its centre, and a small run is soon done."""
_kept = functools.lru_cache(maxsize=2)(_distances)


def ring(udf: UDF, centre: tuple[float, float], inner: float, outer: float | None) -> _Arr:
    """Pixels with `inner <= r < outer` as a bool array (ny, nx); outer=None: no outer limit.

    Raises ParameterError where no pixel is in the ring.
    """
    shape = frame_shape(udf)
    r = radius_map(shape, centre)
    mask = r >= inner
    if outer is not None:
        mask &= r < outer
    if not mask.any():
        limits = f"{inner:g} <= r < {outer:g}" if outer is not None else f"r >= {inner:g}"
        raise ParameterError(
            f"{type(udf).__name__}: no pixel has {limits} px around (y, x) = ({centre[0]:g}, {centre[1]:g}) in frames of {shape}; "
            f"distances there go from {r.min():.2f} to {r.max():.2f} px"
        )
    return mask


def row_runs(mask: _Arr) -> _Arr:
    """Half-open runs of True in each row: int64 (ny, k, 2) as [start, stop), padded with (0, 0)."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    edges = np.diff(padded, axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    counts = np.bincount(rows, minlength=mask.shape[0])
    out = np.zeros((mask.shape[0], max(1, int(counts.max(initial=0))), 2), np.int64)
    slot = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    out[rows, slot, 0], out[rows, slot, 1] = starts, stops
    return out


def row_spans(mask: _Arr) -> _Arr:
    """Part [start, stop) of each row outside of which nothing is True; int64 (ny, 2), (0, 0) where nothing is."""
    any_in = mask.any(axis=1)
    start, stop = mask.argmax(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1)
    return np.stack([np.where(any_in, start, 0), np.where(any_in, stop, 0)], axis=1).astype(np.int64)


def largest_value(dtype: np.dtype[Any]) -> int:
    """Largest magnitude that an integer or bool pixel can have."""
    if dtype.kind == "b":
        return 1
    info = np.iinfo(dtype)
    return max(int(info.max), -int(info.min))


def exact_sum_dtype(dtype: np.dtype[Any], weight: int) -> np.dtype[Any]:
    """Dtype in which sums of pixels, with integer weights that add up to `weight`, are exact.

    uint64 or int64 where they cannot overflow, else float64 (which is exact up to 2^53).
    """
    if dtype.kind in "bu" and largest_value(dtype) * weight < 1 << 64:
        return np.dtype(np.uint64)
    if dtype.kind == "i" and largest_value(dtype) * weight < 1 << 63:
        return np.dtype(np.int64)
    return np.dtype(np.float64)


def narrow_sum_dtype(dtype: np.dtype[Any], n: int, total: np.dtype[Any]) -> np.dtype[Any]:
    """Narrowest dtype in which `n` pixels can be added up exactly (32 bits vectorise twice as well as 64), else `total`."""
    if dtype.kind in "bu" and largest_value(dtype) * n < 1 << 32:
        return np.dtype(np.uint32)
    if dtype.kind == "i" and largest_value(dtype) * n < 1 << 31:
        return np.dtype(np.int32)
    return total
