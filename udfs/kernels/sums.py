"""Sums and extremes over frames and over the scan. Tiles may be bands of rows and may hold spectra (frames of 1 axis).

8 frames are read side by side, so that an accumulator over the scan is loaded and stored once for all of them: it is
wider than the pixels, and one frame at a time would move more of it than of data. 16 frames at once were slower (0.7
against 0.95 of the plain read limit on Zen 4), and so was cutting frames into blocks that keep the accumulator in L1
(0.65 for 1 KiB, 0.83 for 4 KiB): the prefetchers like few, long streams.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import flat_of, kernel, row_of

_Arr = np.ndarray[Any, Any]

BLOCK = 32768
"""Pixels whose sum fits into 32 bits: 32768 * 65535 < 2**31, and 32768 * 32768 = 2**30 for signed 16-bit pixels."""

REASSOCIATE = {"reassoc", "nsz", "contract"}
"""Float sums in any order (else they do not vectorise); NaN and infinities are kept."""


@kernel
def add_frames(tile: _Arr, sum: _Arr) -> None:
    """sum (rows, ...) += the frames, in the dtype of `sum`. Exact while it fits into that."""
    t = sum.dtype.type
    a = row_of(sum)
    n = tile.shape[0]
    i = 0
    while i + 8 <= n:
        f0, f1, f2, f3 = flat_of(tile, i), flat_of(tile, i + 1), flat_of(tile, i + 2), flat_of(tile, i + 3)
        f4, f5, f6, f7 = flat_of(tile, i + 4), flat_of(tile, i + 5), flat_of(tile, i + 6), flat_of(tile, i + 7)
        for j in range(a.size):
            left = (t(f0[j]) + t(f1[j])) + (t(f2[j]) + t(f3[j]))
            a[j] += left + ((t(f4[j]) + t(f5[j])) + (t(f6[j]) + t(f7[j])))
        i += 8
    while i < n:
        f = flat_of(tile, i)
        for j in range(a.size):
            a[j] += t(f[j])
        i += 1


@kernel
def total_narrow(tile: _Arr, total: _Arr) -> None:
    """total (n, 1) += sum of each frame, for integers of 8 and 16 bits and bool: 32-bit sums of BLOCK pixels, exact."""
    t = total.dtype.type
    for i in range(tile.shape[0]):
        f = flat_of(tile, i)
        s = np.int64(0)
        for p in range(0, f.size, BLOCK):
            part = f[p : p + BLOCK]
            b = np.int32(0)
            for j in range(part.size):
                b = np.int32(b + np.int32(part[j]))
            s += b
        total[i, 0] += t(s)


@kernel(fastmath=REASSOCIATE)
def total_wide(tile: _Arr, total: _Arr) -> None:
    """total (n, 1) += sum of each frame, in the dtype of `total`: integers of 32 bits (exact below 2**31 pixels) and floats."""
    t = total.dtype.type
    for i in range(tile.shape[0]):
        f = flat_of(tile, i)
        s = t(0)
        for j in range(f.size):
            s += t(f[j])
        total[i, 0] += s


@kernel
def larger(a: Any, b: Any) -> Any:
    """The larger one, NaN if one is."""
    return a if a > b or a != a else b


@kernel
def smaller(a: Any, b: Any) -> Any:
    """The smaller one, NaN if one is."""
    return a if a < b or a != a else b


def _extreme(pick: Any) -> Any:
    @kernel
    def extreme(tile: _Arr, acc: _Arr) -> None:
        a = row_of(acc)
        n = tile.shape[0]
        i = 0
        while i + 8 <= n:
            f0, f1, f2, f3 = flat_of(tile, i), flat_of(tile, i + 1), flat_of(tile, i + 2), flat_of(tile, i + 3)
            f4, f5, f6, f7 = flat_of(tile, i + 4), flat_of(tile, i + 5), flat_of(tile, i + 6), flat_of(tile, i + 7)
            for j in range(a.size):
                left = pick(pick(f0[j], f1[j]), pick(f2[j], f3[j]))
                a[j] = pick(a[j], pick(left, pick(pick(f4[j], f5[j]), pick(f6[j], f7[j]))))
            i += 8
        while i < n:
            f = flat_of(tile, i)
            for j in range(a.size):
                a[j] = pick(a[j], f[j])
            i += 1

    return extreme


max_frames = _extreme(larger)
"""acc (rows, ...) = larger of itself and every frame; same dtype as the tile."""
min_frames = _extreme(smaller)
"""acc (rows, ...) = smaller of itself and every frame; same dtype as the tile."""


@kernel
def _minimum(f: _Arr) -> Any:
    low = f[0]
    for j in range(f.size):
        low = smaller(low, f[j])
    return low


@kernel(fastmath={"contract"})
def log_of(x: Any) -> Any:
    """log(x) of a normal number x > 0 to 2 units in the last place; inf and NaN as they are. Vectorises: 4 times as fast as libm.

    x = 2**k m with sqrt(1/2) <= m < sqrt(2), and log(m) = 2 artanh(s) with s = (m - 1) / (m + 1): the series ends where
    its next term is below 2**-55, as s**2 < 0.0295.
    """
    bits = np.float64(x).view(np.int64)
    k = (bits - 0x3FE6A09E667F3BCD) >> 52  # bits of sqrt(1/2)
    f = np.int64(bits - (k << 52)).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = 1 / 11 + z * (1 / 13 + z * (1 / 15 + z * (1 / 17 + z * (1 / 19 + z / 21))))
    p = z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * (1 / 9 + z * p))))
    y = np.float64(k) * 0.6931471805599453 + 2.0 * (s + s * p)
    return y if x < np.inf else x


@kernel
def add_logs(tile: _Arr, logsum: _Arr) -> None:
    """logsum (rows, ...) += log(frame - min(frame) + 1), for whole frames, float64."""
    a = row_of(logsum)
    for i in range(tile.shape[0]):
        f = flat_of(tile, i)
        low = np.float64(_minimum(f))
        for j in range(a.size):
            a[j] += log_of(np.float64(f[j]) - low + 1.0)


@kernel
def add_logs_by_table(tile: _Arr, logsum: _Arr, logs: _Arr) -> None:
    """As `add_logs`, for integers of 8 and 16 bits and bool: logs[k] = log(k + 1) for every possible difference."""
    a = row_of(logsum)
    for i in range(tile.shape[0]):
        f = flat_of(tile, i)
        low = np.int64(_minimum(f))
        for j in range(a.size):
            a[j] += logs[np.int64(f[j]) - low]
