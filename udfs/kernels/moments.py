"""Zeroth and first moments of frames: sums of I, y I and x I with pixel indices, exact for integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import kernel, part_of

# A row is read twice, the second time from L1: once for its sum, once into the sums of the columns. Both loops
# vectorise. Loops that do both at once, weights inside the loop, sums of sums instead of the first loop, or 8 rows at a time
# reach 0.3 to 0.8 of the plain read limit of one core. Rows of 4 frames in turn, because a core reads several places ahead
# at a time: 1.08 of that limit, against 0.76 for one frame, 0.86 for 2, 0.68 for 8 (uint16, 256 x 256).

TOGETHER = 4


@kernel(fastmath={"reassoc", "nsz", "contract"})
def whole_moments(tile: Any, moments: Any, row0: int, narrow: Any) -> None:
    """Add (sum I, sum y I, sum x I) of each frame to moments (n, 3).

    narrow: empty array of the dtype in which one row and one column of pixels can be added up.
    """
    n, ny, nx = tile.shape
    column, wide = narrow.dtype.type, moments.dtype.type
    columns = np.zeros((TOGETHER, nx), narrow.dtype)
    for i in range(0, n, TOGETHER):
        stop = min(i + TOGETHER, n)
        for y in range(ny):
            for j in range(i, stop):
                row, below = part_of(tile, j, y * nx, (y + 1) * nx), part_of(columns, j - i, 0, nx)
                total = column(0)
                for x in range(nx):
                    total = column(total + column(row[x]))
                for x in range(nx):
                    below[x] = column(below[x] + column(row[x]))
                moments[j, 1] += wide(total) * wide(y + row0)
        _add_columns(moments, columns, i, stop)


@kernel(fastmath={"reassoc", "nsz", "contract"})
def run_moments(tile: Any, moments: Any, row0: int, narrow: Any, segments: Any) -> None:
    """As `whole_moments`, over the pixels in `segments` only: int64 (rows of the whole frame, k, 2), half-open runs of x.

    Pixels outside are not read.
    """
    n, ny, nx = tile.shape
    column, wide = narrow.dtype.type, moments.dtype.type
    columns = np.zeros((TOGETHER, nx), narrow.dtype)
    for i in range(0, n, TOGETHER):
        end = min(i + TOGETHER, n)
        for y in range(ny):
            for k in range(segments.shape[1]):
                start, stop = segments[y + row0, k, 0], segments[y + row0, k, 1]
                if stop <= start:
                    continue
                for j in range(i, end):
                    row, below = part_of(tile, j, y * nx + start, y * nx + stop), part_of(columns, j - i, start, stop)
                    total = column(0)
                    for x in range(stop - start):
                        total = column(total + column(row[x]))
                    for x in range(stop - start):
                        below[x] = column(below[x] + column(row[x]))
                    moments[j, 1] += wide(total) * wide(y + row0)
        _add_columns(moments, columns, i, end)


@kernel(fastmath={"reassoc", "nsz", "contract"})
def _add_columns(moments: Any, columns: Any, start: int, stop: int) -> None:
    """Sums of I and x I of frames [start, stop) from the sums of their columns, which are set to 0."""
    column, wide = columns.dtype.type, moments.dtype.type
    for i in range(start, stop):
        below = part_of(columns, i - start, 0, columns.shape[1])
        sum_0, sum_x = wide(0), wide(0)
        for x in range(below.size):
            sum_0 += wide(below[x])
            sum_x += wide(below[x]) * wide(x)
        for x in range(below.size):
            below[x] = column(0)
        moments[i, 0] += sum_0
        moments[i, 2] += sum_x


@kernel(fastmath={"reassoc", "nsz", "contract"})
def corrected_moments(tile: Any, moments: Any, row0: int, dark: Any, gain: Any, spans: Any, near: Any, near_weights: Any) -> None:
    """As `whole_moments`, of (I - dark) * gain, in one pass over the raw frames; moments are float64.

    dark, gain: (rows of the whole frame, nx); pixels with gain 0 (outside of the ring, excluded) are left out, whatever they hold.
    spans: int64 (rows, 2), part of each row outside of which gain is 0.
    Excluded pixels are replaced by the mean of their good neighbours: near (n, 4) holds (y, x) of a neighbour and (y, x) of the
    excluded pixel, near_weights (n, 3) dark and gain of that neighbour, and 1 / (number of neighbours).
    Products and sums along a row and over 8 rows are in the dtype of `gain`.
    """
    n, ny, nx = tile.shape[0], tile.shape[1], tile.shape[2]
    cast = gain.dtype.type
    columns_a, columns_b = np.zeros(nx, gain.dtype), np.zeros(nx, gain.dtype)
    wide_a, wide_b = np.zeros(nx, np.float64), np.zeros(nx, np.float64)
    for i in range(0, n, 2):  # two frames share each look at dark and gain: 18 against 13 GB/s per core in cache
        other = min(i + 1, n - 1)
        sum_ya, sum_yb = 0.0, 0.0
        for x in range(nx):
            wide_a[x], wide_b[x] = 0.0, 0.0
        for y in range(ny):
            start, stop = spans[y + row0, 0], spans[y + row0, 1]
            a, b = part_of(tile, i, y * nx + start, y * nx + stop), part_of(tile, other, y * nx + start, y * nx + stop)
            below, times = part_of(dark, y + row0, start, stop), part_of(gain, y + row0, start, stop)
            into_a, into_b = columns_a[start:stop], columns_b[start:stop]
            total_a, total_b = cast(0), cast(0)
            for x in range(stop - start):
                va = (cast(a[x]) - below[x]) * times[x] if times[x] != cast(0) else cast(0)
                vb = (cast(b[x]) - below[x]) * times[x] if times[x] != cast(0) else cast(0)
                total_a += va
                total_b += vb
                into_a[x] += va
                into_b[x] += vb
            sum_ya += float(total_a) * (y + row0)
            sum_yb += float(total_b) * (y + row0)
            if y % 8 == 7 or y == ny - 1:
                for x in range(nx):
                    wide_a[x] += float(columns_a[x])
                    wide_b[x] += float(columns_b[x])
                for x in range(nx):
                    columns_a[x], columns_b[x] = cast(0), cast(0)
        for q in range(other - i + 1):
            sum_0, sum_x, sum_y = 0.0, 0.0, sum_yb if q == 1 else sum_ya
            wide = wide_b if q == 1 else wide_a
            for x in range(nx):
                sum_0 += wide[x]
                sum_x += wide[x] * x
            for k in range(near.shape[0]):
                y, x = near[k, 0] - row0, near[k, 1]
                if 0 <= y < ny:
                    pixel = part_of(tile, i + q, y * nx + x, y * nx + x + 1)
                    value = (float(pixel[0]) - near_weights[k, 0]) * near_weights[k, 1] * near_weights[k, 2]
                    sum_0 += value
                    sum_y += value * near[k, 2]
                    sum_x += value * near[k, 3]
            moments[i + q, 0] += sum_0
            moments[i + q, 1] += sum_y
            moments[i + q, 2] += sum_x
