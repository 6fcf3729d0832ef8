"""Limits, units and lengths for pictures: pure functions of numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from libstream.errors import ParameterError
from libstream.model.quantity import convert

_Arr = np.ndarray[Any, Any]

_FAMILIES = (
    ("m", "mm", "µm", "nm", "pm"),
    ("rad", "mrad", "µrad"),
    ("1/m", "1/nm"),
    ("s", "ms", "µs", "ns"),
)
_LOG_RANGE = 50.0
"""Brightest against median pixel above which a frame is drawn on a logarithmic scale: on a linear one (256 steps) half of the
frame would have to do with the 5 darkest steps."""


def robust_limits(values: _Arr, *, share: float = 0.005) -> tuple[float, float]:
    """Limits of contrast that a few extreme values do not decide.

    The quantiles `share` and 1 - `share` of the finite values, widened to the extremes where these are near (within half of
    the range between the quantiles), so that an image without outliers is not clipped.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind in "fc" else values.reshape(-1)
    if finite.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.quantile(finite.astype(np.float64), [share, 1 - share]))
    least, most = float(finite.min()), float(finite.max())
    if low == high:  # nearly all are equal: what differs is the picture
        low, high = least, most
    reach = 0.5 * (high - low)
    low, high = max(least, low) if least < low - reach else least, high if most > high + reach else most
    if low == high:
        pad = abs(low) * 0.05 or 0.5
        return low - pad, high + pad
    return low, high


def is_signed(values: _Arr) -> bool:
    """True where values lie on both sides of 0 in earnest, so that a diverging colour map is right."""
    if values.dtype.kind not in "fi":
        return False
    low, high = robust_limits(values)
    return low < 0 < high and min(-low, high) > 0.2 * max(-low, high)


def wants_log(values: _Arr) -> bool:
    """True where a frame has so large a range that on a linear scale most of it would be black."""
    if values.dtype.kind not in "fiu":
        return False
    finite = values[np.isfinite(values)].astype(np.float64)
    if finite.size == 0 or finite.min() < 0:
        return False
    positive = finite[finite > 0]
    if positive.size < max(2, 0.02 * finite.size):
        return False
    return bool(finite.max() > _LOG_RANGE * max(np.median(finite), float(np.quantile(positive, 0.05))))


def log_limits(values: _Arr) -> tuple[float, float]:
    """Limits for a logarithmic scale, both positive: from the faint end of the positive values to the brightest."""
    finite = values[np.isfinite(values)].astype(np.float64)
    positive = finite[finite > 0]
    high = float(positive.max())
    low = max(float(np.quantile(positive, 0.01)), high * 1e-7)
    return (low, high) if low < high else (high / 10, high)


def display_unit(extent: float, unit: str) -> tuple[float, str]:
    """(factor, unit) so that `extent * factor` in the new unit is at least 1 and, where a unit allows it, below 1000."""
    family = next((f for f in _FAMILIES if unit in f), None)
    if family is None or not extent or not math.isfinite(extent):
        return 1.0, unit
    if 1 <= abs(extent) < 1000:
        return 1.0, unit
    for candidate in family:
        try:
            factor = convert(1.0, unit, candidate)
        except ParameterError:
            continue
        if abs(extent) * factor >= 1:
            return factor, candidate
    return convert(1.0, unit, family[-1]), family[-1]


def scale_bar(extent: float) -> float:
    """Length of a scale bar for an image `extent` wide: 1, 2 or 5 times a power of ten, about a quarter of the width."""
    target = extent / 4
    power = 10.0 ** math.floor(math.log10(target))
    return max((m * power for m in (1, 2, 5) if m * power <= target * 1.0001), default=power)


def edges(step: float, offset: float, size: int) -> tuple[float, float]:
    """Outer edges of the first and last pixel of an axis."""
    return offset - step / 2, offset + (size - 0.5) * step
