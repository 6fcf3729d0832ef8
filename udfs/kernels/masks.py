"""Weighted sums of each frame, in the forms among which `libstream.udfs.masks` chooses.

segments: int64 (k, 3), [start, stop) in pixels of the whole frame as one row, and the mask it belongs to; rising starts,
none longer than SEGMENT. Pixels outside are not read. firsts: number of the first segment that ends behind the start of each row.
row_size: pixels of a row, row0: first detector row of the tile. intensity: (n, number of masks), added to.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import kernel, part_of, prefetch

_Arr = np.ndarray[Any, Any]

SEGMENT = 32768
"""Longest segment: 32768 * 65535 < 2**31, so that sums of 16-bit pixels stay exact in 32 bits."""

AHEAD = 4
"""Short segments lie in places that the processor does not guess: they are asked for so many segments before (disk of 60 px: 2.0
instead of 1.6 times the plain read limit of a core; 8 and more ahead are no better). Four times as many where a frame comes alone
(a random tenth of a scan: 25 instead of 17 GB/s)."""
BLOCK = 8192
"""Longest segment of many large masks: 4 of them (256 KiB) stay in L2 while all frames of a tile go by."""
SHORT = 512
"""Longest segment of that sort, in pixels."""

REASSOCIATE = {"reassoc", "nsz", "contract"}
"""Float sums in any order (else they do not vectorise); NaN and infinities are kept."""


# -- binary masks: exact for integers ----------------------------------------------------------------------------------


def _add_runs(word: Any) -> Any:
    """Sums in `word` over segments whose pixels all count."""

    @kernel(fastmath=REASSOCIATE)
    def add_4(f0: _Arr, f1: _Arr, f2: _Arr, f3: _Arr) -> Any:
        a, b, c, d = word(0), word(0), word(0), word(0)
        for j in range(f0.size):
            a = word(a + word(f0[j]))
            b = word(b + word(f1[j]))
            c = word(c + word(f2[j]))
            d = word(d + word(f3[j]))
        return a, b, c, d

    @kernel(fastmath=REASSOCIATE)
    def add_1(f: _Arr) -> Any:
        a = word(0)
        for j in range(f.size):
            a = word(a + word(f[j]))
        return a

    @kernel
    def add_runs(tile: _Arr, intensity: _Arr, segments: _Arr, firsts: _Arr, row_size: int, row0: int) -> None:
        t = intensity.dtype.type
        n, start, size = tile.shape[0], row0 * row_size, tile.shape[1] * row_size
        i = 0
        while i < n:
            many = i + 4 <= n
            for k in range(firsts[row0], segments.shape[0]):
                p, q, m = segments[k, 0] - start, segments[k, 1] - start, segments[k, 2]
                if p >= size:
                    break
                p, q = p if p > 0 else 0, q if q < size else size
                if p >= q:
                    continue
                f0 = part_of(tile, i, p, q)
                ahead = k + (AHEAD if many else 4 * AHEAD)
                if ahead < segments.shape[0]:
                    later, end = segments[ahead, 0] - start, segments[ahead, 1] - start
                    if end <= size and end - later <= SHORT:
                        for j in range(i, i + 4 if many else i + 1):
                            prefetch(tile, j, later, end)
                if many:
                    a, b, c, d = add_4(f0, part_of(tile, i + 1, p, q), part_of(tile, i + 2, p, q), part_of(tile, i + 3, p, q))
                    intensity[i, m] += t(a)
                    intensity[i + 1, m] += t(b)
                    intensity[i + 2, m] += t(c)
                    intensity[i + 3, m] += t(d)
                else:
                    intensity[i, m] += t(add_1(f0))
            i += 4 if many else 1

    return add_runs


add_runs_narrow = _add_runs(np.int32)
"""Binary masks made of runs, integers of 8 and 16 bits and bool."""
add_runs_wide = _add_runs(np.int64)
"""Binary masks made of runs, integers of 32 bits."""
add_runs_float = _add_runs(np.float64)
"""Binary masks made of runs, floats and integers of 64 bits."""


def _add_bits(word: Any) -> Any:
    """Sums in `word` over segments of pixels AND bits; bits: (number of masks, pixels), dtype of the tile, all bits set or none."""

    @kernel
    def add_4(g: _Arr, f0: _Arr, f1: _Arr, f2: _Arr, f3: _Arr) -> Any:
        a, b, c, d = word(0), word(0), word(0), word(0)
        for j in range(g.size):
            x = g[j]
            a = word(a + word(f0[j] & x))
            b = word(b + word(f1[j] & x))
            c = word(c + word(f2[j] & x))
            d = word(d + word(f3[j] & x))
        return a, b, c, d

    @kernel
    def add_1(g: _Arr, f: _Arr) -> Any:
        a = word(0)
        for j in range(g.size):
            a = word(a + word(f[j] & g[j]))
        return a

    @kernel
    def add_bits(tile: _Arr, intensity: _Arr, segments: _Arr, firsts: _Arr, bits: _Arr, row_size: int, row0: int) -> None:
        t = intensity.dtype.type
        n, start, size = tile.shape[0], row0 * row_size, tile.shape[1] * row_size
        i = 0
        while i < n:
            many = i + 4 <= n
            for k in range(firsts[row0], segments.shape[0]):
                p, q, m = segments[k, 0] - start, segments[k, 1] - start, segments[k, 2]
                if p >= size:
                    break
                p, q = p if p > 0 else 0, q if q < size else size
                if p >= q:
                    continue
                g, f0 = part_of(bits, m, start + p, start + q), part_of(tile, i, p, q)
                if many:
                    a, b, c, d = add_4(g, f0, part_of(tile, i + 1, p, q), part_of(tile, i + 2, p, q), part_of(tile, i + 3, p, q))
                    intensity[i, m] += t(a)
                    intensity[i + 1, m] += t(b)
                    intensity[i + 2, m] += t(c)
                    intensity[i + 3, m] += t(d)
                else:
                    intensity[i, m] += t(add_1(g, f0))
            i += 4 if many else 1

    return add_bits


add_bits_narrow = _add_bits(np.int32)
"""Binary masks of any form, integers of 8 and 16 bits and bool."""
add_bits_wide = _add_bits(np.int64)
"""Binary masks of any form, integers of 32 bits."""


# -- few pixels --------------------------------------------------------------------------------------------------------


@kernel
def add_pixels(tile: _Arr, intensity: _Arr, pixels: _Arr, starts: _Arr, values: _Arr, row_size: int, row0: int) -> None:
    """Mask m has `values` (dtype of `intensity`) at `pixels`, both [starts[m], starts[m + 1])."""
    t = intensity.dtype.type
    size = tile.shape[1] * row_size
    for i in range(tile.shape[0]):
        f = part_of(tile, i, 0, size)
        for m in range(starts.shape[0] - 1):
            s = t(0)
            for k in range(starts[m], starts[m + 1]):
                p = pixels[k] - row0 * row_size
                if p >= 0 and p < size:
                    s += values[k] * t(f[p])
            intensity[i, m] += s


# -- weights -----------------------------------------------------------------------------------------------------------
# 4 frames side by side load a weight once for 4 pixels; 8 frames gain nothing and compile twice as long. Fewer than 4 go the
# same way, the last one repeated: another loop would add in another order, and what belongs to one frame has the same bits
# whatever frames it came with. Float frames have kernels of their own: NaN in a pixel of weight 0 does not count there, because
# that pixel is outside.


@kernel(fastmath=REASSOCIATE)
def _dot_4(w: _Arr, f0: _Arr, f1: _Arr, f2: _Arr, f3: _Arr) -> Any:
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for j in range(w.size):
        x = w[j]
        a += x * np.float64(f0[j])
        b += x * np.float64(f1[j])
        c += x * np.float64(f2[j])
        d += x * np.float64(f3[j])
    return a, b, c, d


@kernel(fastmath=REASSOCIATE)
def _dot_4_float(w: _Arr, f0: _Arr, f1: _Arr, f2: _Arr, f3: _Arr) -> Any:
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for j in range(w.size):
        x = w[j]
        if x != 0.0:
            a += x * np.float64(f0[j])
            b += x * np.float64(f1[j])
            c += x * np.float64(f2[j])
            d += x * np.float64(f3[j])
    return a, b, c, d


def _weigh_each(dot_4: Any) -> Any:
    @kernel
    def weigh_each(
        tile: _Arr, intensity: _Arr, segments: _Arr, firsts: _Arr, weights: _Arr, units: _Arr, offsets: _Arr, row_size: int, row0: int
    ) -> None:
        n, start, size = tile.shape[0], row0 * row_size, tile.shape[1] * row_size
        for i in range(0, n, 4):
            i1, i2, i3 = min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
            for k in range(firsts[row0], segments.shape[0]):
                p, q, m = segments[k, 0] - start, segments[k, 1] - start, segments[k, 2]
                if p >= size:
                    break
                p, q = p if p > 0 else 0, q if q < size else size
                if p >= q:
                    continue
                o = m * intensity.shape[1] // units.shape[0]
                w, f0 = part_of(weights, m, start + p, start + q), part_of(tile, i, p, q)
                a, b, c, d = dot_4(w, f0, part_of(tile, i1, p, q), part_of(tile, i2, p, q), part_of(tile, i3, p, q))
                intensity[i, o] += a * units[m]
                if i + 1 < n:
                    intensity[i + 1, o] += b * units[m]
                if i + 2 < n:
                    intensity[i + 2, o] += c * units[m]
                if i + 3 < n:
                    intensity[i + 3, o] += d * units[m]
        if row0 == 0:
            for i in range(n):
                for m in range(offsets.shape[0]):
                    intensity[i, m] -= offsets[m]

    return weigh_each


weigh_each = _weigh_each(_dot_4)
"""Weights (rows, pixels), one row after another: row r is a part of mask r * masks // rows and counts units[r] times.

A real mask has one row and the unit 1, a complex one two rows and the units 1 and 1j. units, offsets: dtype of `intensity`;
offsets, one for each mask, are taken off once per frame.
"""
weigh_each_float = _weigh_each(_dot_4_float)
"""The same for float frames."""


# 16 sums and 8 factors stay in 32 vector registers: 0.9 of what the multipliers can do. 8 frames x 2 masks, 2 x 8 and 8 x 4
# reach half of it.
@kernel(fastmath=REASSOCIATE)
def _dot_4x4(u: _Arr, v: _Arr, w: _Arr, z: _Arr, f0: _Arr, f1: _Arr, f2: _Arr, f3: _Arr) -> Any:
    a0, a1, a2, a3, b0, b1, b2, b3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    c0, c1, c2, c3, d0, d1, d2, d3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(u.size):
        x0, x1, x2, x3 = np.float64(f0[j]), np.float64(f1[j]), np.float64(f2[j]), np.float64(f3[j])
        w0, w1, w2, w3 = u[j], v[j], w[j], z[j]
        a0, a1, a2, a3 = a0 + w0 * x0, a1 + w1 * x0, a2 + w2 * x0, a3 + w3 * x0
        b0, b1, b2, b3 = b0 + w0 * x1, b1 + w1 * x1, b2 + w2 * x1, b3 + w3 * x1
        c0, c1, c2, c3 = c0 + w0 * x2, c1 + w1 * x2, c2 + w2 * x2, c3 + w3 * x2
        d0, d1, d2, d3 = d0 + w0 * x3, d1 + w1 * x3, d2 + w2 * x3, d3 + w3 * x3
    return (a0, a1, a2, a3), (b0, b1, b2, b3), (c0, c1, c2, c3), (d0, d1, d2, d3)


@kernel(fastmath=REASSOCIATE)
def _dot_4x4_float(u: _Arr, v: _Arr, w: _Arr, z: _Arr, f0: _Arr, f1: _Arr, f2: _Arr, f3: _Arr) -> Any:
    a0, a1, a2, a3, b0, b1, b2, b3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    c0, c1, c2, c3, d0, d1, d2, d3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(u.size):
        x0, x1, x2, x3 = np.float64(f0[j]), np.float64(f1[j]), np.float64(f2[j]), np.float64(f3[j])
        w0, w1, w2, w3 = u[j], v[j], w[j], z[j]
        if w0 != 0.0:
            a0, b0, c0, d0 = a0 + w0 * x0, b0 + w0 * x1, c0 + w0 * x2, d0 + w0 * x3
        if w1 != 0.0:
            a1, b1, c1, d1 = a1 + w1 * x0, b1 + w1 * x1, c1 + w1 * x2, d1 + w1 * x3
        if w2 != 0.0:
            a2, b2, c2, d2 = a2 + w2 * x0, b2 + w2 * x1, c2 + w2 * x2, d2 + w2 * x3
        if w3 != 0.0:
            a3, b3, c3, d3 = a3 + w3 * x0, b3 + w3 * x1, c3 + w3 * x2, d3 + w3 * x3
    return (a0, a1, a2, a3), (b0, b1, b2, b3), (c0, c1, c2, c3), (d0, d1, d2, d3)


def _weigh_many(dot_4x4: Any) -> Any:
    @kernel
    def weigh_many(
        tile: _Arr, intensity: _Arr, segments: _Arr, firsts: _Arr, weights: _Arr, units: _Arr, offsets: _Arr, row_size: int, row0: int
    ) -> None:
        n, start, size = tile.shape[0], row0 * row_size, tile.shape[1] * row_size
        for k in range(firsts[row0], segments.shape[0]):
            p, q = segments[k, 0] - start, segments[k, 1] - start
            if p >= size:
                break
            p, q = p if p > 0 else 0, q if q < size else size
            if p >= q:
                continue
            for m in range(0, weights.shape[0], 4):
                here = 4 if units.shape[0] - m > 4 else units.shape[0] - m
                a, b = start + p, start + q
                u, v = part_of(weights, m, a, b), part_of(weights, m + 1, a, b)
                w, z = part_of(weights, m + 2, a, b), part_of(weights, m + 3, a, b)
                for i in range(0, n, 4):
                    f0, f1 = part_of(tile, i, p, q), part_of(tile, min(i + 1, n - 1), p, q)
                    f2, f3 = part_of(tile, min(i + 2, n - 1), p, q), part_of(tile, min(i + 3, n - 1), p, q)
                    s = dot_4x4(u, v, w, z, f0, f1, f2, f3)
                    for j in range(min(4, n - i)):
                        for h in range(here):
                            intensity[i + j, (m + h) * intensity.shape[1] // units.shape[0]] += s[j][h] * units[m + h]
        if row0 == 0:
            for i in range(n):
                for m in range(offsets.shape[0]):
                    intensity[i, m] -= offsets[m]

    return weigh_many


weigh_many = _weigh_many(_dot_4x4)
"""As `weigh_each`, all rows in every segment (column 2 of segments is not used); rows padded to a multiple of 4."""
weigh_many_float = _weigh_many(_dot_4x4_float)
"""The same for float frames."""
