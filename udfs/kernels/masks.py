"""Weighted sums of each frame, in the forms among which `libstream.udfs.masks` chooses.

segments: int64 (k, 3), [start, stop) in pixels of the whole frame as one row, and the mask it belongs to; rising starts,
none longer than SEGMENT. Pixels outside are not read. row0: first detector row of the tile.
intensity: (n, number of masks), added to.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import kernel, part_of

_Arr = np.ndarray[Any, Any]

SEGMENT = 32768
"""Longest segment: 32768 * 65535 < 2**31, so that sums of 16-bit pixels stay exact in 32 bits."""

REASSOCIATE = {"reassoc", "nsz", "contract"}
"""Float sums in any order (else they do not vectorise); NaN and infinities are kept."""


@kernel
def _first(segments: _Arr, start: int) -> int:
    """First segment that can reach into pixels from `start` on."""
    low, high = 0, segments.shape[0]
    while low < high:
        mid = (low + high) // 2
        if segments[mid, 0] + SEGMENT <= start:
            low = mid + 1
        else:
            high = mid
    return low


@kernel
def _band(tile: _Arr, row0: int) -> tuple[int, int]:
    """Pixels [start, stop) of the whole frame that the tile holds."""
    size = 1
    for n in tile.shape[1:]:
        size *= n
    start = row0 * (size // max(1, tile.shape[1]))
    return start, start + size


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
    def add_runs(tile: _Arr, intensity: _Arr, segments: _Arr, row0: int) -> None:
        t = intensity.dtype.type
        start, stop = _band(tile, row0)
        first = _first(segments, start)
        n = tile.shape[0]
        i = 0
        while i < n:
            many = i + 4 <= n
            for k in range(first, segments.shape[0]):
                p, q, m = max(segments[k, 0], start) - start, min(segments[k, 1], stop) - start, segments[k, 2]
                if segments[k, 0] >= stop:
                    break
                if p >= q:
                    continue
                if many:
                    a, b, c, d = add_4(
                        part_of(tile, i, p, q), part_of(tile, i + 1, p, q), part_of(tile, i + 2, p, q), part_of(tile, i + 3, p, q)
                    )
                    intensity[i, m] += t(a)
                    intensity[i + 1, m] += t(b)
                    intensity[i + 2, m] += t(c)
                    intensity[i + 3, m] += t(d)
                else:
                    intensity[i, m] += t(add_1(part_of(tile, i, p, q)))
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
            a = word(a + word(f0[j] & g[j]))
            b = word(b + word(f1[j] & g[j]))
            c = word(c + word(f2[j] & g[j]))
            d = word(d + word(f3[j] & g[j]))
        return a, b, c, d

    @kernel
    def add_1(g: _Arr, f: _Arr) -> Any:
        a = word(0)
        for j in range(g.size):
            a = word(a + word(f[j] & g[j]))
        return a

    @kernel
    def add_bits(tile: _Arr, intensity: _Arr, segments: _Arr, bits: _Arr, row0: int) -> None:
        t = intensity.dtype.type
        start, stop = _band(tile, row0)
        first = _first(segments, start)
        n = tile.shape[0]
        i = 0
        while i < n:
            many = i + 4 <= n
            for k in range(first, segments.shape[0]):
                p, q, m = max(segments[k, 0], start) - start, min(segments[k, 1], stop) - start, segments[k, 2]
                if segments[k, 0] >= stop:
                    break
                if p >= q:
                    continue
                g = part_of(bits, m, start + p, start + q)
                if many:
                    a, b, c, d = add_4(
                        g, part_of(tile, i, p, q), part_of(tile, i + 1, p, q), part_of(tile, i + 2, p, q), part_of(tile, i + 3, p, q)
                    )
                    intensity[i, m] += t(a)
                    intensity[i + 1, m] += t(b)
                    intensity[i + 2, m] += t(c)
                    intensity[i + 3, m] += t(d)
                else:
                    intensity[i, m] += t(add_1(g, part_of(tile, i, p, q)))
            i += 4 if many else 1

    return add_bits


add_bits_narrow = _add_bits(np.int32)
"""Binary masks of any form, integers of 8 and 16 bits and bool."""
add_bits_wide = _add_bits(np.int64)
"""Binary masks of any form, integers of 32 bits."""


# -- few pixels --------------------------------------------------------------------------------------------------------


@kernel
def add_pixels(tile: _Arr, intensity: _Arr, pixels: _Arr, starts: _Arr, values: _Arr, row0: int) -> None:
    """Mask m has `values` (dtype of `intensity`) at `pixels`, both [starts[m], starts[m + 1]), pixels rising."""
    t = intensity.dtype.type
    start, stop = _band(tile, row0)
    for i in range(tile.shape[0]):
        f = part_of(tile, i, 0, stop - start)
        for m in range(starts.shape[0] - 1):
            s = t(0)
            for k in range(starts[m], starts[m + 1]):
                p = pixels[k]
                if start <= p and p < stop:
                    s += values[k] * t(f[p - start])
            intensity[i, m] += s


# -- weights -----------------------------------------------------------------------------------------------------------


@kernel(fastmath=REASSOCIATE)  # else the product is not fused with the sum: 2.2 instead of 3.3 GB/s for 16 masks
def _times(w: Any, x: Any) -> Any:
    return w * np.float64(x)


@kernel(fastmath=REASSOCIATE)
def _times_where(w: Any, x: Any) -> Any:
    """NaN in a pixel of weight 0 does not count: that pixel is outside."""
    return w * np.float64(x) if w != 0.0 else 0.0


def _weigh_each(times: Any) -> Any:
    @kernel(fastmath=REASSOCIATE)
    def dot_8(w: _Arr, f0: _Arr, f1: _Arr, f2: _Arr, f3: _Arr, f4: _Arr, f5: _Arr, f6: _Arr, f7: _Arr) -> Any:
        s0, s1, s2, s3, s4, s5, s6, s7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(w.size):
            s0 += times(w[j], f0[j])
            s1 += times(w[j], f1[j])
            s2 += times(w[j], f2[j])
            s3 += times(w[j], f3[j])
            s4 += times(w[j], f4[j])
            s5 += times(w[j], f5[j])
            s6 += times(w[j], f6[j])
            s7 += times(w[j], f7[j])
        return s0, s1, s2, s3, s4, s5, s6, s7

    @kernel(fastmath=REASSOCIATE)
    def dot_1(w: _Arr, f: _Arr) -> Any:
        s = 0.0
        for j in range(w.size):
            s += times(w[j], f[j])
        return s

    @kernel
    def weigh_each(tile: _Arr, intensity: _Arr, segments: _Arr, weights: _Arr, offsets: _Arr, row0: int) -> None:
        sums = intensity.view(np.float64)
        start, stop = _band(tile, row0)
        first = _first(segments, start)
        n = tile.shape[0]
        i = 0
        while i < n:
            many = i + 8 <= n
            for k in range(first, segments.shape[0]):
                p, q, m = max(segments[k, 0], start) - start, min(segments[k, 1], stop) - start, segments[k, 2]
                if segments[k, 0] >= stop:
                    break
                if p >= q:
                    continue
                w = part_of(weights, m, start + p, start + q)
                if many:
                    s = dot_8(
                        w,
                        part_of(tile, i, p, q),
                        part_of(tile, i + 1, p, q),
                        part_of(tile, i + 2, p, q),
                        part_of(tile, i + 3, p, q),
                        part_of(tile, i + 4, p, q),
                        part_of(tile, i + 5, p, q),
                        part_of(tile, i + 6, p, q),
                        part_of(tile, i + 7, p, q),
                    )
                    for j in range(8):
                        sums[i + j, m] += s[j]
                else:
                    sums[i, m] += dot_1(w, part_of(tile, i, p, q))
            i += 8 if many else 1
        if row0 == 0:
            for i in range(n):
                for m in range(offsets.shape[0]):
                    sums[i, m] -= offsets[m]

    return weigh_each


weigh_each = _weigh_each(_times)
"""Real weights (masks, pixels), one mask after another, 8 frames side by side; `offsets` are taken off once per frame.

`intensity`: float64, or complex128 with two rows of weights (real, imaginary) for each mask.
"""
weigh_each_float = _weigh_each(_times_where)
"""The same for float frames."""


def _weigh_many(times: Any) -> Any:
    # 4 frames x 4 masks: 16 sums and 8 factors stay in 32 vector registers. 8 x 2, 2 x 8 and 8 x 4 reach half of it.
    @kernel(fastmath=REASSOCIATE)
    def dot_4x4(u: _Arr, v: _Arr, w: _Arr, z: _Arr, f0: _Arr, f1: _Arr, f2: _Arr, f3: _Arr) -> Any:
        a0, a1, a2, a3, b0, b1, b2, b3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        c0, c1, c2, c3, d0, d1, d2, d3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(u.size):
            x0, x1, x2, x3 = np.float64(f0[j]), np.float64(f1[j]), np.float64(f2[j]), np.float64(f3[j])
            a0 += times(u[j], x0)
            a1 += times(v[j], x0)
            a2 += times(w[j], x0)
            a3 += times(z[j], x0)
            b0 += times(u[j], x1)
            b1 += times(v[j], x1)
            b2 += times(w[j], x1)
            b3 += times(z[j], x1)
            c0 += times(u[j], x2)
            c1 += times(v[j], x2)
            c2 += times(w[j], x2)
            c3 += times(z[j], x2)
            d0 += times(u[j], x3)
            d1 += times(v[j], x3)
            d2 += times(w[j], x3)
            d3 += times(z[j], x3)
        return (a0, a1, a2, a3), (b0, b1, b2, b3), (c0, c1, c2, c3), (d0, d1, d2, d3)

    @kernel(fastmath=REASSOCIATE)
    def dot_1x4(u: _Arr, v: _Arr, w: _Arr, z: _Arr, f: _Arr) -> Any:
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        for j in range(u.size):
            x = np.float64(f[j])
            a += times(u[j], x)
            b += times(v[j], x)
            c += times(w[j], x)
            d += times(z[j], x)
        return a, b, c, d

    @kernel
    def weigh_many(tile: _Arr, intensity: _Arr, segments: _Arr, weights: _Arr, offsets: _Arr, row0: int) -> None:
        sums = intensity.view(np.float64)
        start, stop = _band(tile, row0)
        first = _first(segments, start)
        n = tile.shape[0]
        for k in range(first, segments.shape[0]):
            p, q = max(segments[k, 0], start) - start, min(segments[k, 1], stop) - start
            if segments[k, 0] >= stop:
                break
            if p >= q:
                continue
            for m in range(0, weights.shape[0], 4):
                here = min(4, sums.shape[1] - m)
                u, v = part_of(weights, m, start + p, start + q), part_of(weights, m + 1, start + p, start + q)
                w, z = part_of(weights, m + 2, start + p, start + q), part_of(weights, m + 3, start + p, start + q)
                i = 0
                while i + 4 <= n:
                    f0, f1 = part_of(tile, i, p, q), part_of(tile, i + 1, p, q)
                    f2, f3 = part_of(tile, i + 2, p, q), part_of(tile, i + 3, p, q)
                    s = dot_4x4(u, v, w, z, f0, f1, f2, f3)
                    for j in range(4):
                        for h in range(here):
                            sums[i + j, m + h] += s[j][h]
                    i += 4
                while i < n:
                    r = dot_1x4(u, v, w, z, part_of(tile, i, p, q))
                    for h in range(here):
                        sums[i, m + h] += r[h]
                    i += 1
        if row0 == 0:
            for i in range(n):
                for m in range(sums.shape[1]):
                    sums[i, m] -= offsets[m]

    return weigh_many


weigh_many = _weigh_many(_times)
"""As `weigh_each`, all masks in every segment (column 2 of segments is not used); rows of weights padded to a multiple of 4."""
weigh_many_float = _weigh_many(_times_where)
"""The same for float frames."""
