"""Zeroth and first moments of frames: sums of I, y I and x I with pixel indices, exact for integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import kernel, part_of

# A row is read twice, the second time from L1: once for its sum, once into the sums of the columns. Both loops
# vectorise. Loops that do both at once, weights inside the loop, or 8 rows at a time reach 0.4 to 0.83 of the plain read
# limit instead of 0.94 (uint16, 256 x 256, two cores).


@kernel(fastmath={"reassoc", "nsz", "contract"})
def whole_moments(tile: Any, moments: Any, row0: int, narrow: Any) -> None:
    """Add (sum I, sum y I, sum x I) of each frame to moments (n, 3).

    narrow: empty array of the dtype in which one row and one column of pixels can be added up.
    """
    ny, nx = tile.shape[1], tile.shape[2]
    column, wide = narrow.dtype.type, moments.dtype.type
    columns = np.zeros(nx, narrow.dtype)
    for i in range(tile.shape[0]):
        for x in range(nx):
            columns[x] = column(0)
        sum_y = wide(0)
        for y in range(ny):
            row = part_of(tile, i, y * nx, (y + 1) * nx)
            total = column(0)
            for x in range(nx):
                total = column(total + column(row[x]))
            for x in range(nx):
                columns[x] = column(columns[x] + column(row[x]))
            sum_y += wide(total) * wide(y + row0)
        sum_0, sum_x = wide(0), wide(0)
        for x in range(nx):
            sum_0 += wide(columns[x])
            sum_x += wide(columns[x]) * wide(x)
        moments[i, 0] += sum_0
        moments[i, 1] += sum_y
        moments[i, 2] += sum_x


@kernel(fastmath={"reassoc", "nsz", "contract"})
def run_moments(tile: Any, moments: Any, row0: int, narrow: Any, segments: Any) -> None:
    """As `whole_moments`, over the pixels in `segments` only: int64 (rows of the whole frame, k, 2), half-open runs of x.

    Pixels outside are not read.
    """
    ny, nx = tile.shape[1], tile.shape[2]
    column, wide = narrow.dtype.type, moments.dtype.type
    columns = np.zeros(nx, narrow.dtype)
    for i in range(tile.shape[0]):
        for x in range(nx):
            columns[x] = column(0)
        sum_y = wide(0)
        for y in range(ny):
            total = column(0)
            for k in range(segments.shape[1]):
                start, stop = segments[y + row0, k, 0], segments[y + row0, k, 1]
                if stop > start:
                    row = part_of(tile, i, y * nx + start, y * nx + stop)
                    below = columns[start:stop]
                    for x in range(stop - start):
                        total = column(total + column(row[x]))
                    for x in range(stop - start):
                        below[x] = column(below[x] + column(row[x]))
            sum_y += wide(total) * wide(y + row0)
        sum_0, sum_x = wide(0), wide(0)
        for x in range(nx):
            sum_0 += wide(columns[x])
            sum_x += wide(columns[x]) * wide(x)
        moments[i, 0] += sum_0
        moments[i, 1] += sum_y
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
