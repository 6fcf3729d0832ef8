"""Sums of frames over rings, and over rings with angular waves."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import flat_of, kernel, part_of, row_of

# Four frames share each look-up of a pixel's ring, and their four sums lie side by side, so that one vector addition
# serves them all: 5.2 GB/s per core for uint16 and rings of 1 px; one frame at a time 0.9 to 1.6, pixels gathered
# ring by ring 0.8 (1 px) to 3.8 (4 px), runs of pixels in one ring 3.2 to 4.2.


@kernel
def ring_sums(tile: Any, sums: Any, row0: int, ring_of: Any, spans: Any, narrow: Any) -> None:
    """Add the pixels of each ring to sums (n, n_rings).

    ring_of: uint32 (rows of the whole frame, nx), n_rings for pixels outside all rings (unsigned, as every index here: numba tests
    a signed one for a count from the end). spans: int64 (rows, 2), part of each
    row outside of which there is no ring. narrow: empty array of the dtype in which a ring's pixels can be added up.
    """
    n, ny, nx, n_rings = tile.shape[0], tile.shape[1], tile.shape[2], sums.shape[1]
    cast, wide = narrow.dtype.type, sums.dtype.type
    four = np.zeros((n_rings + 1, 4), narrow.dtype)
    i = 0
    while i + 4 <= n:
        for k in range(n_rings + 1):
            for q in range(4):
                four[k, q] = cast(0)
        for y in range(ny):
            start, stop = spans[y + row0, 0], spans[y + row0, 1]
            first, last = y * nx + start, y * nx + stop
            a, b = part_of(tile, i, first, last), part_of(tile, i + 1, first, last)
            c, d = part_of(tile, i + 2, first, last), part_of(tile, i + 3, first, last)
            ring = part_of(ring_of, y + row0, start, stop)
            for x in range(stop - start):
                s = flat_of(four, ring[x])
                s[0] = cast(s[0] + cast(a[x]))
                s[1] = cast(s[1] + cast(b[x]))
                s[2] = cast(s[2] + cast(c[x]))
                s[3] = cast(s[3] + cast(d[x]))
        for k in range(n_rings):
            for q in range(4):
                sums[i + q, k] += wide(four[k, q])
        i += 4
    one = np.zeros(n_rings + 1, narrow.dtype)
    while i < n:
        for k in range(n_rings + 1):
            one[k] = cast(0)
        for y in range(ny):
            start, stop = spans[y + row0, 0], spans[y + row0, 1]
            row, ring = part_of(tile, i, y * nx + start, y * nx + stop), part_of(ring_of, y + row0, start, stop)
            for x in range(stop - start):
                one[ring[x]] = cast(one[ring[x]] + cast(row[x]))
        for k in range(n_rings):
            sums[i, k] += wide(one[k])
        i += 1


@kernel(fastmath={"contract"})
def ring_waves(tile: Any, sums: Any, waves: Any, row0: int, spans: Any, first: Any, rings: Any, weights: Any, direction: Any) -> None:
    """Add weighted sums of each ring to sums (n, n_rings), and those with exp(-i m theta), m = 1, 2, ..., to waves (n, n_rings, M).

    Pixel p (flat, of the whole frame) belongs to rings[first[p]:first[p + 1]] with `weights`.
    direction: float64 (ny, nx, 2), (cos, sin) of each pixel's angle. spans: as in `ring_sums`.
    """
    n, ny, nx, n_rings, n_waves = tile.shape[0], tile.shape[1], tile.shape[2], sums.shape[1], waves.shape[2]
    four = np.zeros((n_rings, 1 + 2 * n_waves, 4))
    for i in range(0, n, 4):
        last = n - 1  # at the end of a tile the last frame stands in for those that are not there
        ib, ic, id = min(i + 1, last), min(i + 2, last), min(i + 3, last)
        for r in range(n_rings):
            for k in range(1 + 2 * n_waves):
                for q in range(4):
                    four[r, k, q] = 0.0
        for y in range(ny):
            start, stop = spans[y + row0, 0], spans[y + row0, 1]
            p0, p1 = y * nx + start, y * nx + stop
            row_a, row_b, row_c, row_d = (
                part_of(tile, i, p0, p1),
                part_of(tile, ib, p0, p1),
                part_of(tile, ic, p0, p1),
                part_of(tile, id, p0, p1),
            )
            turn = part_of(direction, y + row0, 2 * start, 2 * stop)
            share = first[(y + row0) * nx + start : (y + row0) * nx + stop + 1]
            for x in range(stop - start):
                a, b, c, d = float(row_a[x]), float(row_b[x]), float(row_c[x]), float(row_d[x])
                turn_re, turn_im = turn[2 * x], -turn[2 * x + 1]
                for e in range(share[x], share[x + 1]):
                    into = four[rings[np.uintp(e)]]
                    re, im = weights[np.uintp(e)], 0.0
                    s = into[0]
                    s[0] += re * a
                    s[1] += re * b
                    s[2] += re * c
                    s[3] += re * d
                    for k in range(n_waves):
                        re, im = re * turn_re - im * turn_im, re * turn_im + im * turn_re
                        s, t = into[1 + 2 * k], into[2 + 2 * k]
                        s[0] += re * a
                        s[1] += re * b
                        s[2] += re * c
                        s[3] += re * d
                        t[0] += im * a
                        t[1] += im * b
                        t[2] += im * c
                        t[3] += im * d
        for q in range(min(4, n - i)):
            for r in range(n_rings):
                sums[i + q, r] += four[r, 0, q]
                for k in range(n_waves):
                    waves[i + q, r, k] += complex(four[r, 1 + 2 * k, q], four[r, 2 + 2 * k, q])


@kernel(fastmath={"reassoc", "nsz", "contract"})
def ring_statistics(frame: Any, mean: Any, std: Any, normalised_variance: Any, pixels: Any) -> None:
    """Mean, standard deviation and variance / mean^2 of some pixels: uint32 flat indices.

    Two passes over a copy in cache: exact where one pass loses all digits (mean 60000, standard deviation 3). Collecting the
    pixels one by one is faster than visiting the short runs of a ring in each row (4 against 25 us, 8500 pixels).
    """
    flat, n = row_of(frame), pixels.shape[0]
    values = np.empty(n, np.float64)
    for j in range(n):
        values[j] = flat[pixels[j]]
    total = 0.0
    for j in range(n):
        total += values[j]
    centre = total / n
    squares = 0.0
    for j in range(n):
        squares += (values[j] - centre) * (values[j] - centre)
    variance = squares / n
    mean[0] = centre
    std[0] = np.sqrt(variance)
    normalised_variance[0] = variance / (centre * centre) if centre != 0.0 else np.nan
