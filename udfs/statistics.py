"""Statistics of each pixel over the scan."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from libstream.ext import UDF, Coverage, Kernel, Output, UsageError, kernel, param, sig, single
from libstream.udfs.kernels.squares import add_deviations, add_squares, add_squares_wide
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


def exact_mean(total: _Arr, n: int) -> _Arr:
    """total / n, rounded once more than the exact quotient at most: whole and fractional part apart. float64."""
    whole = total // total.dtype.type(n)
    return whole + (total - whole * total.dtype.type(n)) / np.float64(n)


def exact_deviations(total: _Arr, low: _Arr, high: _Arr | int, n: int) -> _Arr:
    """Sum of squared deviations from the mean of `n` integers, from their sum and their sum of squares `low + 2^32 high`.

    With m the integer nearest to the mean and r = total - n m (so |r| <= n / 2), the sum is D - r^2 / n with
    D = sum((x - m)^2) = squares - m (total + r), which is an integer: it is computed exactly, in two words of 32 and more
    bits, where the textbook formula loses all digits if the mean is large. As D >= |r|, taking off r^2 / n <= D / 2 loses
    at most one bit. float64, within 4 units in the last place.
    """
    s = total.astype(np.int64)  # below 2^63: fewer than 2^31 frames of 32 bits
    m = (s + n // 2) // n
    r = s - m * n
    t = s + r
    t_low, t_high = t & 0xFFFFFFFF, t >> 32
    m_low, m_high = m & 0xFFFFFFFF, m >> 32
    cross = m_low.astype(np.uint64) * t_low.astype(np.uint64)
    upper = np.asarray(high).astype(np.int64) - m * t_high - m_high * t_low - (cross >> np.uint64(32)).astype(np.int64)
    lower = low.astype(np.int64) - (cross & np.uint64(0xFFFFFFFF)).astype(np.int64)
    upper, lower = upper + (lower >> 32), lower & 0xFFFFFFFF
    return upper * 2.0**32 + lower - (r * r) / np.float64(n)


class _Spread(UDF):
    """What `Variance` and `StdDev` share: sums in `outputs`, and mean and variance made of them."""

    ddof: int = param(0, ge=0, title="Degrees of freedom taken off", help="1: unbiased variance of a sample")

    process_tile = add_squares

    def hook(self) -> Kernel:
        if is_narrow(self.meta.dtype):
            return add_squares
        return add_squares_wide if self._exact else add_deviations

    @property
    def _exact(self) -> bool:
        return _real(self).kind in "biu" and self.meta.dtype.itemsize <= 4

    def _sums(self) -> dict[str, Output]:
        if not self._exact:
            return {
                "running_mean": sig("float64", merge="custom", private=True, fill=0),
                "deviations": sig("float64", merge="custom", private=True, fill=0),
                "seen": single("int64", (self.meta.shape.sig[0],), merge="custom", private=True, fill=0),
            }
        wide = {} if is_narrow(self.meta.dtype) else {"squares_high": sig("uint64", private=True, fill=0)}
        return {
            "total": scan_sum(self, private=True, fill=0),
            "squares": sig("uint64", private=True, fill=0),
            **wide,
            "count": single("int64", private=True, fill=0),
        }

    def merge(self, into: Any, part: Any) -> None:
        """Eq. 2.1 of T. F. Chan, G. H. Golub, R. J. LeVeque, American Statistician 37, 242 (1983), doi:10.1080/00031305.1983.10483115."""
        shape = (-1, *(1,) * (into.running_mean.ndim - 1))
        a, b = into.seen.reshape(shape).astype(np.float64), part.seen.reshape(shape).astype(np.float64)
        share = b / np.maximum(a + b, 1.0)
        with np.errstate(invalid="ignore", over="ignore"):
            step = part.running_mean - into.running_mean
            into.running_mean += step * share
            into.deviations += part.deviations + step * step * (a * share)
        into.seen += part.seen

    def _mean_and_variance(self, results: dict[str, Any]) -> tuple[_Arr, _Arr]:
        """Mean and variance, NaN where there are no (or not more than ddof) frames."""
        if self._exact:
            n = int(results["count"])
            if n == 0:
                nothing = np.full(self.meta.shape.sig, np.nan)
                return nothing, nothing
            mean = exact_mean(results["total"], n)
            deviations = exact_deviations(results["total"], results["squares"], results.get("squares_high", 0), n)
            return mean, deviations / (n - self.ddof) if n > self.ddof else np.full(mean.shape, np.nan)
        n_rows = results["seen"].reshape(-1, *(1,) * (len(self.meta.shape.sig) - 1))
        mean = np.where(n_rows > 0, results["running_mean"], np.nan)
        free = np.where(n_rows > self.ddof, n_rows - self.ddof, np.nan)
        return mean, results["deviations"] / free


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

    def outputs(self) -> Mapping[str, Output]:
        return {"max": sig(_real(self), merge="max", title="Maximum of frames")}


class Min(UDF):
    """Smallest value of each pixel over the scan. Output min: frame shape, dtype of the frames; NaN if one was NaN."""

    process_tile = into_min

    def outputs(self) -> Mapping[str, Output]:
        return {"min": sig(_real(self), merge="min", title="Minimum of frames")}


class LogSum(UDF):
    """Sum over the scan of log(frame - min(frame) + 1), the minimum of each frame: weak features beside strong ones.

    Output logsum: frame shape, float64 (natural logarithm). A frame that holds NaN makes all of it NaN.
    """

    whole_frames = True
    process_tile = add_logs

    def hook(self) -> Kernel:
        return add_logs_by_table if is_narrow(self.meta.dtype) else add_logs

    def outputs(self) -> Mapping[str, Output]:
        _real(self)
        return {"logsum": sig("float64", title="Sum of log(frame - min + 1)")}

    @functools.cached_property
    def logs(self) -> _Arr:
        """log(k + 1) for every difference k of two pixels."""
        return np.log(np.arange(1 << 8 * self.meta.dtype.itemsize) + 1.0)
