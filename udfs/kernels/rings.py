"""Sums of frames over rings, and over rings with angular waves."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import frame_of, kernel

# Four frames share each look-up of a pixel's ring, and their four sums lie side by side, so that one vector addition
# serves them all: 5.2 GB/s per core for uint16 and rings of 1 px; one frame at a time 0.9 to 1.6, pixels gathered
# ring by ring 0.8 (1 px) to 3.8 (4 px), runs of pixels in one ring 3.2 to 4.2.


@kernel
def ring_sums(tile: Any, sums: Any, row0: int, ring_of: Any, spans: Any, narrow: Any) -> None:
    """Add the pixels of each ring to sums (n, n_rings).

    ring_of: int32 (rows of the whole frame, nx), n_rings for pixels outside all rings. spans: int64 (rows, 2), part of each
    row outside of which there is no ring. narrow: empty array of the dtype in which a ring's pixels can be added up.
    """
    n, ny, n_rings = tile.shape[0], tile.shape[1], sums.shape[1]
    cast, wide = narrow.dtype.type, sums.dtype.type
    four = np.zeros((n_rings + 1, 4), narrow.dtype)
    i = 0
    while i + 4 <= n:
        frame_a, frame_b, frame_c, frame_d = frame_of(tile, i), frame_of(tile, i + 1), frame_of(tile, i + 2), frame_of(tile, i + 3)
        four[:] = cast(0)
        for y in range(ny):
            a, b, c, d, ring = frame_a[y], frame_b[y], frame_c[y], frame_d[y], ring_of[y + row0]
            for x in range(spans[y + row0, 0], spans[y + row0, 1]):
                s = four[np.intp(ring[x])]
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
        frame = frame_of(tile, i)
        one[:] = cast(0)
        for y in range(ny):
            row, ring = frame[y], ring_of[y + row0]
            for x in range(spans[y + row0, 0], spans[y + row0, 1]):
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
    values = np.zeros(4)
    i = 0
    while i < n:
        m = min(4, n - i)
        four[:] = 0.0
        for y in range(ny):
            for x in range(spans[y + row0, 0], spans[y + row0, 1]):
                p = (y + row0) * nx + x
                for q in range(m):
                    values[q] = frame_of(tile, i + q)[y, x]
                c1, s1 = direction[y + row0, x, 0], -direction[y + row0, x, 1]
                for e in range(first[p], first[p + 1]):
                    into = four[rings[e]]
                    c, s = weights[e], 0.0
                    for q in range(4):
                        into[0, q] += c * values[q]
                    for k in range(n_waves):
                        c, s = c * c1 - s * s1, c * s1 + s * c1
                        for q in range(4):
                            into[1 + 2 * k, q] += c * values[q]
                            into[2 + 2 * k, q] += s * values[q]
        for q in range(m):
            for r in range(n_rings):
                sums[i + q, r] += four[r, 0, q]
                for k in range(n_waves):
                    waves[i + q, r, k] += complex(four[r, 1 + 2 * k, q], four[r, 2 + 2 * k, q])
        i += m


@kernel(fastmath={"reassoc", "nsz", "contract"})
def ring_statistics(frame: Any, mean: Any, std: Any, normalised_variance: Any, segments: Any, narrow: Any) -> None:
    """Mean, standard deviation and variance / mean^2 of the pixels in `segments`, int64 (ny, k, 2) half-open runs of x.

    Two passes, the second from cache: exact where one pass loses all digits (mean 60000, standard deviation 3).
    narrow: empty array of the dtype in which a row of pixels can be added up.
    """
    cast = narrow.dtype.type
    count, total = 0, 0.0
    for y in range(frame.shape[0]):
        for k in range(segments.shape[1]):
            start, stop = segments[y, k, 0], segments[y, k, 1]
            row = frame[y, start:stop]
            part = cast(0)
            for x in range(stop - start):
                part = cast(part + cast(row[x]))
            total += float(part)
            count += stop - start
    centre = total / count
    squares = 0.0
    for y in range(frame.shape[0]):
        for k in range(segments.shape[1]):
            start, stop = segments[y, k, 0], segments[y, k, 1]
            row = frame[y, start:stop]
            for x in range(stop - start):
                d = float(row[x]) - centre
                squares += d * d
    variance = squares / count
    mean[0] = centre
    std[0] = np.sqrt(variance)
    normalised_variance[0] = variance / (centre * centre) if centre != 0.0 else np.nan
