"""Statistics of each pixel over the scan."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from libstream.ext import UDF, Coverage, Kernel, Output, UsageError, kernel, param, sig, single
from libstream.udfs.kernels.squares import add_deviations, add_repaired, add_squares, add_squares_wide
from libstream.udfs.kernels.sums import add_frames, add_logs, add_logs_by_table, max_frames, min_frames
from libstream.udfs.sums import corrected_sum, is_narrow, scan_sum

_Arr = np.ndarray[Any, Any]


def _real(udf: UDF) -> np.dtype[Any]:
    """Dtype of the frames; raises UsageError where they are complex."""
    dtype = udf.meta.dtype
    if dtype.kind not in "biuf":
        raise UsageError(f"{type(udf).__name__} needs real numbers, the frames of this source are {dtype}; set dtype, or map them first")
    return dtype


@kernel
def sum_and_count(tile: _Arr, total: _Arr, count: _Arr, row0: int) -> None:
    """Kernel of `Mean`."""
    add_frames(tile, total)
    if row0 == 0:
        count[0] += tile.shape[0]


class Mean(UDF):
    """Mean frame, over all positions that were processed.

    Outputs:

    mean: frame shape, float64, in the unit of the detector; NaN where nothing was processed. Made of the exact sum for integers of
        up to 32 bits (rounded once), of a float64 sum for floats and 64-bit integers; complex128 for complex frames.

    Corrections are linear, so they are applied once, to the sum.
    """

    folds_corrections = True
    process_tile = sum_and_count

    @property
    def tile_cost(self) -> float:
        return 1.0

    def outputs(self) -> Mapping[str, Output]:
        return {
            "total": scan_sum(self, private=True, fill=0),
            "count": single("int64", private=True, fill=0),
            "mean": sig("complex128" if self.meta.dtype.kind == "c" else "float64", derived=True, title="Mean of frames"),
        }

    def finish(self, results: dict[str, Any], coverage: Coverage) -> Mapping[str, Any]:
        n, total = int(results["count"]), results["total"]
        if n and self.meta.corrections is None and total.dtype.kind in "iu":
            return {"mean": exact_mean(total, n)}
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"mean": corrected_sum(self.meta.corrections, total, n) / np.float64(n)}


CHUNK = 8192
"""Pixels at a time where results are made of sums: temporary arrays stay in cache and are not mapped anew (5 times as fast)."""


def exact_mean(total: _Arr, n: int) -> _Arr:
    """total / n within one unit in the last place, float64."""
    return exact_spread(total, None, None, n)[0]


def exact_spread(total: _Arr, low: _Arr | None, high: _Arr | None, n: int) -> tuple[_Arr, _Arr]:
    """Mean of `n` integers and sum of their squared deviations from it, of their sum and their sum of squares `low + 2^32 high`.

    With the integer m nearest to the mean and r = total - n m, the mean is m + r / n, and the deviations are D - r^2 / n with
    D = sum((x - m)^2) = squares - m (total + r), which is an integer and computed exactly: modulo 2^64 where it fits, else in
    two words. The textbook formula loses all digits where the mean is large. Here D >= |r| and |r| <= n / 2, so that taking
    off r^2 / n <= D / 2 costs one bit. float64, the deviations within 4 units in the last place. Without squares no deviations.
    """
    mean, deviations = np.empty(total.shape), np.empty(total.shape if low is not None else 0)
    flat, rest = mean.reshape(-1), deviations.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        at = slice(start, start + CHUNK)
        s = total.reshape(-1)[at].astype(np.int64)  # below 2^63: fewer than 2^31 frames of 32 bits
        m = np.rint(s / np.float64(n)).astype(np.int64)
        r = s - m * n
        flat[at] = m + r / np.float64(n)
        if low is None:
            continue
        t, squares = s + r, low.reshape(-1)[at].view(np.int64)
        if high is None:
            d = (squares - m * t).astype(np.float64)
        else:
            t_low, t_high, m_low, m_high = t & 0xFFFFFFFF, t >> 32, m & 0xFFFFFFFF, m >> 32
            cross = m_low.view(np.uint64) * t_low.view(np.uint64)
            upper = high.reshape(-1)[at].view(np.int64) - m * t_high - m_high * t_low - (cross >> np.uint64(32)).view(np.int64)
            lower = squares - (cross & np.uint64(0xFFFFFFFF)).view(np.int64)
            d = (upper + (lower >> 32)) * 2.0**32 + (lower & 0xFFFFFFFF)
        rest[at] = d - r * r / np.float64(n)
    return mean, deviations


@kernel
def repaired_narrow(
    tile: _Arr, total: _Arr, squares: _Arr, count: _Arr, repaired: _Arr, bad: _Arr, good: _Arr, shares: _Arr, row0: int
) -> None:
    """Integers of 8 and 16 bits and bool, with excluded pixels."""
    add_squares(tile, total, squares, count, row0)
    add_repaired(tile, repaired, bad, good, shares)


@kernel
def repaired_wide(
    tile: _Arr,
    total: _Arr,
    squares: _Arr,
    squares_high: _Arr,
    count: _Arr,
    repaired: _Arr,
    bad: _Arr,
    good: _Arr,
    shares: _Arr,
    row0: int,
) -> None:
    """Integers of 32 bits, with excluded pixels."""
    add_squares_wide(tile, total, squares, squares_high, count, row0)
    add_repaired(tile, repaired, bad, good, shares)


@kernel
def repaired_float(
    tile: _Arr, running_mean: _Arr, deviations: _Arr, seen: _Arr, repaired: _Arr, bad: _Arr, good: _Arr, shares: _Arr, row0: int
) -> None:
    """Floats and integers of 64 bits, with excluded pixels."""
    add_deviations(tile, running_mean, deviations, seen, row0)
    add_repaired(tile, repaired, bad, good, shares)


class _Spread(UDF):
    """What `Variance` and `StdDev` share: sums in `outputs`, and mean and variance made of them.

    Corrections: (x - dark) gain has the mean (mean - dark) gain and the variance gain^2 variance, so raw frames are summed,
    exactly. Only excluded pixels need each frame: they are repaired from pixels that may be in other rows, so frames are whole then.
    """

    ddof: int = param(0, ge=0, title="Degrees of freedom taken off", help="1: unbiased variance of a sample")

    folds_corrections = True
    process_tile = add_squares

    @property
    def whole_frames(self) -> bool:  # type: ignore[override]
        """Whether `process_tile` needs whole frames."""
        return self._repairs

    @property
    def tile_cost(self) -> float:
        return 2.4

    def hook(self) -> Kernel:
        if is_narrow(self.meta.dtype):
            return repaired_narrow if self._repairs else add_squares
        if self._exact:
            return repaired_wide if self._repairs else add_squares_wide
        return repaired_float if self._repairs else add_deviations

    @property
    def _exact(self) -> bool:
        return _real(self).kind in "biu" and self.meta.dtype.itemsize <= 4

    @property
    def _repairs(self) -> bool:
        return self.meta.corrections is not None and len(self.meta.corrections.repair[0]) > 0

    # -- excluded pixels: value of bad pixel b = sum of shares x pixels `good`, [bad[b], bad[b + 1]), less the last share --------

    @functools.cached_property
    def bad(self) -> _Arr:
        """Where the neighbours of each excluded pixel begin."""
        return self._neighbours[0]

    @functools.cached_property
    def good(self) -> _Arr:
        """Flat indices of the neighbours."""
        return self._neighbours[1]

    @functools.cached_property
    def shares(self) -> _Arr:
        """(neighbours, 2): gain / number of neighbours, and dark times that."""
        return self._neighbours[2]

    @functools.cached_property
    def _neighbours(self) -> tuple[_Arr, _Arr, _Arr]:
        corrections = self.meta.corrections
        if corrections is None:
            return np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros((0, 2))
        _, starts, good = corrections.repair
        share = np.repeat(1.0 / np.diff(starts), np.diff(starts)) * (
            1.0 if corrections.gain is None else corrections.gain.reshape(-1)[good]
        )
        dark = 0.0 if corrections.dark is None else corrections.dark.reshape(-1)[good]
        return starts, good, np.stack([share, share * dark], axis=1)

    # -- results ---------------------------------------------------------------------------------------------------

    def _sums(self) -> dict[str, Output]:
        scratch: dict[str, Any] = {"private": True, "fill": 0}
        if not self._exact:
            out = {
                "running_mean": sig("float64", merge="custom", **scratch),
                "deviations": sig("float64", merge="custom", **scratch),
                "seen": single("int64", (self.meta.shape.sig[0],), merge="custom", **scratch),
            }
        else:
            out = {"total": scan_sum(self, **scratch), "squares": sig("uint64", **scratch), "count": single("int64", **scratch)}
            if not is_narrow(self.meta.dtype):
                out["squares_high"] = sig("uint64", **scratch)
        if self._repairs:
            out["repaired"] = single("float64", (len(self.bad) - 1, 3), merge="custom", **scratch)
        return out

    def merge(self, into: Any, part: Any) -> None:
        """Eq. 2.1 of T. F. Chan, G. H. Golub, R. J. LeVeque, American Statistician 37, 242 (1983), doi:10.1080/00031305.1983.10483115."""
        if not self._exact:
            shape = (-1, *(1,) * (into.running_mean.ndim - 1))
            _merge_spread(
                into.running_mean, into.deviations, into.seen.reshape(shape), part.running_mean, part.deviations, part.seen.reshape(shape)
            )
            into.seen += part.seen
        if self._repairs:
            a, b = into.repaired, part.repaired
            _merge_spread(a[:, 0], a[:, 1], a[:, 2], b[:, 0], b[:, 1], b[:, 2])
            a[:, 2] += b[:, 2]

    def _mean_and_variance(self, results: dict[str, Any]) -> tuple[_Arr, _Arr]:
        """Mean and variance, NaN where there are no (or not more than ddof) frames."""
        shape = self.meta.shape.sig
        if self._exact:
            n = n_any = int(results["count"])
            if n == 0:
                return np.full(shape, np.nan), np.full(shape, np.nan)
            mean, deviations = exact_spread(results["total"], results["squares"], results.get("squares_high"), n)
        else:
            n_any = results["seen"].reshape(-1, *(1,) * (len(shape) - 1))
            mean, deviations = np.where(n_any > 0, results["running_mean"], np.nan), results["deviations"]
        corrections = self.meta.corrections
        if corrections is not None:
            gain = 1.0 if corrections.gain is None else corrections.gain
            mean, deviations = (mean - (0.0 if corrections.dark is None else corrections.dark)) * gain, deviations * np.square(gain)
            pixels = corrections.repair[0]
            mean.reshape(-1)[pixels] = results["repaired"][:, 0] if len(pixels) else 0.0
            deviations.reshape(-1)[pixels] = results["repaired"][:, 1] if len(pixels) else 0.0
        return mean, deviations / np.where(n_any > self.ddof, n_any - self.ddof, np.nan)


def _merge_spread(mean: _Arr, deviations: _Arr, n: _Arr, other_mean: _Arr, other_deviations: _Arr, other_n: _Arr) -> None:
    a, b = n.astype(np.float64), other_n.astype(np.float64)
    share = b / np.maximum(a + b, 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        step = other_mean - mean
        mean += step * share
        deviations += other_deviations + step * step * (a * share)


class Variance(_Spread):
    """Mean and variance of each pixel over the positions that were processed: `sum((x - mean)^2) / (n - ddof)`.

    Outputs, float64, frame shape, NaN where there are not more than `ddof` frames:

    mean: as `Mean`. variance: in the squared unit of the detector.

    Integers of up to 32 bits: sums and sums of squares are exact integers, the results are within a few units in the last
    place of the exact ones for any values. Floats and 64-bit integers: running mean and deviations in float64, groups of 8
    frames, merged in pairs (T. F. Chan, G. H. Golub, R. J. LeVeque, American Statistician 37, 242 (1983),
    doi:10.1080/00031305.1983.10483115); a pixel that was ever infinite or NaN has neither mean nor variance (NaN).
    """

    def outputs(self) -> Mapping[str, Output]:
        return {
            **self._sums(),
            "mean": sig("float64", derived=True, title="Mean of frames"),
            "variance": sig("float64", derived=True, title="Variance of frames"),
        }

    def finish(self, results: dict[str, Any], coverage: Coverage) -> Mapping[str, Any]:
        mean, variance = self._mean_and_variance(results)
        return {"mean": mean, "variance": variance}


class StdDev(_Spread):
    """Mean and standard deviation of each pixel over the positions that were processed: the root of `Variance`.

    Outputs, float64, frame shape, in the unit of the detector, NaN where there are not more than `ddof` frames:

    mean, std.
    """

    def outputs(self) -> Mapping[str, Output]:
        return {
            **self._sums(),
            "mean": sig("float64", derived=True, title="Mean of frames"),
            "std": sig("float64", derived=True, title="Standard deviation of frames"),
        }

    def finish(self, results: dict[str, Any], coverage: Coverage) -> Mapping[str, Any]:
        mean, variance = self._mean_and_variance(results)
        return {"mean": mean, "std": np.sqrt(variance)}


@kernel
def into_max(tile: _Arr, max: _Arr) -> None:
    """Kernel of `Max`."""
    max_frames(tile, max)


@kernel
def into_min(tile: _Arr, min: _Arr) -> None:
    """Kernel of `Min`."""
    min_frames(tile, min)


class Max(UDF):
    """Largest value of each pixel over the scan. Output max: frame shape, dtype of the frames; NaN if one was NaN."""

    process_tile = into_max

    @property
    def tile_cost(self) -> float:
        return 1.0

    def outputs(self) -> Mapping[str, Output]:
        return {"max": sig(_real(self), merge="max", title="Maximum of frames")}


class Min(UDF):
    """Smallest value of each pixel over the scan. Output min: frame shape, dtype of the frames; NaN if one was NaN."""

    process_tile = into_min

    @property
    def tile_cost(self) -> float:
        return 1.0

    def outputs(self) -> Mapping[str, Output]:
        return {"min": sig(_real(self), merge="min", title="Minimum of frames")}


class LogSum(UDF):
    """Sum over the scan of log(frame - min(frame) + 1), the minimum of each frame: weak features beside strong ones.

    Output logsum: frame shape, float64 (natural logarithm). A frame that holds NaN makes all of it NaN.
    """

    whole_frames = True
    process_tile = add_logs

    @property
    def tile_cost(self) -> float:
        return 5.0

    def hook(self) -> Kernel:
        return add_logs_by_table if is_narrow(self.meta.dtype) else add_logs

    def outputs(self) -> Mapping[str, Output]:
        _real(self)
        return {"logsum": sig("float64", title="Sum of log(frame - min + 1)")}

    @functools.cached_property
    def logs(self) -> _Arr:
        """log(k + 1) for every difference k of two pixels."""
        return np.log(np.arange(1 << 8 * self.meta.dtype.itemsize) + 1.0)
