"""Sums of squares over the scan: exact for integers up to 32 bits, by groups of 8 frames for floats."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import flat_of, kernel, row_of

_Arr = np.ndarray[Any, Any]


@kernel
def add_squares(tile: _Arr, total: _Arr, squares: _Arr, count: _Arr, row0: int) -> None:
    """total += sum, squares (uint64) += sum of squares, for integers of 8 and 16 bits and bool; exact below 2**31 frames.

    count += number of frames.
    """
    t = total.dtype.type
    s, q = row_of(total), row_of(squares)
    n = tile.shape[0]
    if row0 == 0:
        count[0] += n
    i = 0
    while i + 8 <= n:
        f0, f1, f2, f3 = flat_of(tile, i), flat_of(tile, i + 1), flat_of(tile, i + 2), flat_of(tile, i + 3)
        f4, f5, f6, f7 = flat_of(tile, i + 4), flat_of(tile, i + 5), flat_of(tile, i + 6), flat_of(tile, i + 7)
        for j in range(s.size):
            x0, x1, x2, x3 = np.int64(f0[j]), np.int64(f1[j]), np.int64(f2[j]), np.int64(f3[j])
            x4, x5, x6, x7 = np.int64(f4[j]), np.int64(f5[j]), np.int64(f6[j]), np.int64(f7[j])
            s[j] += t(((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7)))
            left = (x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3)
            q[j] += np.uint64(left + ((x4 * x4 + x5 * x5) + (x6 * x6 + x7 * x7)))
        i += 8
    while i < n:
        f = flat_of(tile, i)
        for j in range(s.size):
            x = np.int64(f[j])
            s[j] += t(x)
            q[j] += np.uint64(x * x)
        i += 1


@kernel
def add_squares_wide(tile: _Arr, total: _Arr, squares: _Arr, squares_high: _Arr, count: _Arr, row0: int) -> None:
    """As `add_squares` for integers of 32 bits: a square is squares + squares_high * 2**32, exact below 2**31 frames.

    count += number of frames.
    """
    t = total.dtype.type
    s, q, h = row_of(total), row_of(squares), row_of(squares_high)
    n = tile.shape[0]
    if row0 == 0:
        count[0] += n
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    i = 0
    while i + 4 <= n:
        f0, f1, f2, f3 = flat_of(tile, i), flat_of(tile, i + 1), flat_of(tile, i + 2), flat_of(tile, i + 3)
        for j in range(s.size):
            x0, x1, x2, x3 = np.int64(f0[j]), np.int64(f1[j]), np.int64(f2[j]), np.int64(f3[j])
            y0, y1, y2, y3 = np.uint64(x0 * x0), np.uint64(x1 * x1), np.uint64(x2 * x2), np.uint64(x3 * x3)
            s[j] += t((x0 + x1) + (x2 + x3))
            q[j] += ((y0 & low) + (y1 & low)) + ((y2 & low) + (y3 & low))
            h[j] += ((y0 >> half) + (y1 >> half)) + ((y2 >> half) + (y3 >> half))
        i += 4
    while i < n:
        f = flat_of(tile, i)
        for j in range(s.size):
            x = np.int64(f[j])
            y = np.uint64(x * x)
            s[j] += t(x)
            q[j] += y & low
            h[j] += y >> half
        i += 1


@kernel
def add_deviations(tile: _Arr, running_mean: _Arr, deviations: _Arr, seen: _Arr, row0: int) -> None:
    """Running mean and sum of squared deviations from it (float64). seen: frames so far, by detector row.

    Groups of 8 frames have their own mean and deviations, merged by eq. 2.1 of doi:10.1080/00031305.1983.10483115.
    """
    m, d = row_of(running_mean), row_of(deviations)
    n = tile.shape[0]
    n_before = seen[row0]
    for y in range(tile.shape[1]):
        seen[row0 + y] += n
    i = 0
    while i + 8 <= n:
        f0, f1, f2, f3 = flat_of(tile, i), flat_of(tile, i + 1), flat_of(tile, i + 2), flat_of(tile, i + 3)
        f4, f5, f6, f7 = flat_of(tile, i + 4), flat_of(tile, i + 5), flat_of(tile, i + 6), flat_of(tile, i + 7)
        before = np.float64(n_before + i)
        share = 8.0 / (before + 8.0)
        weight = before * share
        for j in range(m.size):
            x0, x1, x2, x3 = np.float64(f0[j]), np.float64(f1[j]), np.float64(f2[j]), np.float64(f3[j])
            x4, x5, x6, x7 = np.float64(f4[j]), np.float64(f5[j]), np.float64(f6[j]), np.float64(f7[j])
            own = (((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7))) * 0.125
            x0, x1, x2, x3, x4, x5, x6, x7 = x0 - own, x1 - own, x2 - own, x3 - own, x4 - own, x5 - own, x6 - own, x7 - own
            left = (x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3)
            step = own - m[j]
            m[j] += step * share
            d[j] += left + ((x4 * x4 + x5 * x5) + (x6 * x6 + x7 * x7)) + step * step * weight
        i += 8
    while i < n:
        f = flat_of(tile, i)
        before = np.float64(n_before + i)
        share = 1.0 / (before + 1.0)
        weight = before * share
        for j in range(m.size):
            step = np.float64(f[j]) - m[j]
            m[j] += step * share
            d[j] += step * step * weight
        i += 1


@kernel
def add_repaired(tile: _Arr, repaired: _Arr, bad: _Arr, good: _Arr, shares: _Arr) -> None:
    """Mean, squared deviations and number (k, 3) of the values that replace k excluded pixels, over whole frames.

    The value of pixel b is the sum of shares[:, 0] * pixel - shares[:, 1] over the pixels `good` in [bad[b], bad[b + 1]).
    """
    for i in range(tile.shape[0]):
        f = flat_of(tile, i)
        for b in range(repaired.shape[0]):
            value = 0.0
            for k in range(bad[b], bad[b + 1]):
                value += shares[k, 0] * np.float64(f[good[k]]) - shares[k, 1]
            before = repaired[b, 2]
            step = value - repaired[b, 0]
            repaired[b, 0] += step / (before + 1.0)
            repaired[b, 1] += step * step * (before / (before + 1.0))
            repaired[b, 2] = before + 1.0
