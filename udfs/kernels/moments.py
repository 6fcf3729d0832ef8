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
