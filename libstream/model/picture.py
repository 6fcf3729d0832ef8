"""Pictures of arrays as PNG and SVG, without further packages. Pure."""

from __future__ import annotations

import functools
import itertools
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from libstream.errors import UsageError

_Arr = np.ndarray[Any, Any]

MAPS = ("gray", "viridis")
# 17 equally spaced colours of viridis (N. Smith, S. van der Walt; public domain, CC0); between them linear
_VIRIDIS = (
    0x440154, 0x48186A, 0x472D7B, 0x424086, 0x3B528B, 0x33638D, 0x2C728E, 0x26828E, 0x21918C, 0x1FA088, 0x28AE80, 0x3FBC73, 0x5EC962,
    0x84D44B, 0xADDC30, 0xD8E219, 0xFDE725,
)  # fmt: skip
UNSEEN = (96, 96, 96)
LINE_COLOURS = ("#d98a1f", "#2f9bd6", "#9a6fe0", "#5aa83a", "#d9578d", "#a89a1c", "#1fa797", "#d9553f")
"""Seen on white as well as on black."""
POINTS_MAX = 400
"""Points of a line that are drawn; of more, the smallest and the largest of each stretch."""


def png(values: _Arr, *, map: str = "viridis", lo: float | None = None, hi: float | None = None, log: bool = False) -> bytes:
    """Coloured 8-bit picture of (h, w) values; NaN is grey. lo, hi: limits of the colours (default: 1 % and 99 % of the values).

    log: colours follow log(1 + 1000 t) for t from 0 at `lo` to 1 at `hi`.
    """
    if values.ndim != 2 or not values.size:
        raise UsageError(f"only images can be drawn, this has the shape {values.shape}")
    if map not in MAPS:
        raise UsageError(f"map is one of {', '.join(MAPS)}, got {map!r:.40}")
    index = _unit(np.asarray(values, np.float64), lo, hi)
    if log:
        index = np.log1p(1000 * index) / np.log1p(1000)
    rgb = table(map)[np.rint(index * 255).astype(np.uint8)]
    rgb[np.isnan(values)] = UNSEEN
    return encoded(rgb)


def _unit(values: _Arr, lo: float | None, hi: float | None) -> _Arr:
    """0 at `lo` to 1 at `hi`; NaN becomes 0."""
    good = np.isfinite(values)
    if lo is None or hi is None:
        found = _robust(values[good])
        lo, hi = (found[0] if lo is None else lo), (found[1] if hi is None else hi)
    # quarters: the difference of the largest and the smallest float64 is no float64
    lo, hi = lo / 4, hi / 4
    scale = hi - lo if hi > lo else 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.clip(np.nan_to_num((values / 4 - lo) / scale, nan=0.0, posinf=1.0, neginf=0.0), 0, 1))


def _robust(good: _Arr) -> tuple[float, float]:
    """Limits that leave out the outermost hundredth; all values where these are one and the same."""
    if not good.size:
        return 0.0, 1.0
    at = np.sort(good)
    lo, hi = float(at[int(0.01 * (at.size - 1))]), float(at[-1 - int(0.01 * (at.size - 1))])
    return (lo, hi) if hi > lo else (float(at[0]), float(at[-1]))


def wheel(first: _Arr, second: _Arr) -> bytes:
    """PNG of (h, w) vectors or complex numbers: the hue is the direction of (first, second), brightness the length; NaN is grey.

    Hue 0 (red) is along `first`, a quarter turn along `second`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        turn = np.nan_to_num(np.arctan2(second, first) / (2 * np.pi)) % 1 * 6
        bright = _unit(np.hypot(first, second), 0.0, None)
    k = (np.array([5.0, 3.0, 1.0]) + turn[..., None]) % 6
    rgb = np.rint(255 * bright[..., None] * (1 - np.clip(np.minimum(k, 4 - k), 0, 1))).astype(np.uint8)
    rgb[np.isnan(first) | np.isnan(second)] = UNSEEN
    return encoded(rgb)


def grey(values: _Arr) -> bytes:
    """8-bit grey picture of uint8 values (h, w)."""
    return encoded(np.ascontiguousarray(values, np.uint8))


@functools.cache
def table(map: str) -> _Arr:
    """256 colours of a map, uint8 (256, 3)."""
    if map == "gray":
        return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    stops = np.array([[c >> 16, c >> 8 & 255, c & 255] for c in _VIRIDIS], np.float64)
    at = np.linspace(0, len(stops) - 1, 256)
    return np.stack([np.rint(np.interp(at, np.arange(len(stops)), stops[:, i])) for i in range(3)], axis=1).astype(np.uint8)


def encoded(pixels: _Arr) -> bytes:
    """PNG of uint8 grey values (h, w) or colours (h, w, 3)."""
    h, w = pixels.shape[:2]
    rows = np.zeros((h, 1 + pixels.size // h), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = pixels.reshape(h, -1)
    kind = 2 if pixels.ndim == 3 else 0

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", w, h, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)) + chunk(b"IEND", b"")


def shrunk(values: _Arr, most: int) -> _Arr:
    """(h, w, ...) numbers as float64 (complex128) with at most about `most` rows and columns: means of what is finite, else NaN.

    Of far larger arrays only some rows and columns are looked at, spread evenly.
    """
    kind = np.complex128 if values.dtype.kind == "c" else np.float64
    step = max(values.shape[:2]) // (4 * most)
    if step > 1:
        values = values[::step, ::step]
    factor = max(1, -(-max(values.shape[:2]) // most))
    with np.errstate(over="ignore"):
        out = np.array(values, kind)
    if factor == 1:
        return out
    h, w = out.shape[:2]
    rows, columns = -(-h // factor), -(-w // factor)
    padded = np.full((rows * factor, columns * factor, *out.shape[2:]), np.nan, kind)
    padded[:h, :w] = out
    blocks = padded.reshape(rows, factor, columns, factor, *out.shape[2:])
    good = np.isfinite(blocks)
    n = good.sum(axis=(1, 3))
    with np.errstate(over="ignore", invalid="ignore"):
        total = (np.where(good, blocks, 0) / factor**2).sum(axis=(1, 3))  # parts first: the sum of large numbers is inf
        return np.asarray(np.where(n > 0, total * (factor**2 / np.maximum(n, 1)), np.nan))


def lines(values: Sequence[_Arr], width: int = 220, height: int = 90) -> str:
    """SVG of lines over one axis, each (n,) real numbers; gaps where they are not finite. Holds numbers only, no text of anybody's."""
    given = [np.asarray(v, np.float64).reshape(-1) for v in values]
    finite = [v[np.isfinite(v)] for v in given]
    known = [v for v in finite if v.size]
    lo = min((float(v.min()) for v in known), default=0.0)
    hi = max((float(v.max()) for v in known), default=1.0)
    if lo / 4 >= hi / 4:
        lo, hi = lo - 1, hi + 1
    pad = 4
    paths = []
    for i, line in enumerate(given):
        x, y = _outline(line)
        sx = pad + x / max(1, len(line) - 1) * (width - 2 * pad)
        with np.errstate(over="ignore", invalid="ignore"):
            sy = height - pad - (y / 4 - lo / 4) / (hi / 4 - lo / 4) * (height - 2 * pad)
        d, pen = [], False
        for a, b in zip(sx, sy, strict=True):
            if not np.isfinite(b):
                pen = False
                continue
            d.append(f"{'L' if pen else 'M'}{a:.1f} {b:.1f}" + ("" if pen else "h.01"))  # a single point is seen too
            pen = True
        colour = LINE_COLOURS[i % len(LINE_COLOURS)]
        paths.append(f'<path d="{"".join(d)}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-linecap="round"/>')
    frame = f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" fill="none" stroke="#808080" stroke-opacity=".5"/>'
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{frame}{"".join(paths)}</svg>'


def _outline(line: _Arr) -> tuple[_Arr, _Arr]:
    """Indices and values to draw of a line: all, or the extremes of each stretch."""
    n = len(line)
    if n <= POINTS_MAX:
        return np.arange(n, dtype=np.float64), line
    edges = np.linspace(0, n, POINTS_MAX // 2 + 1).astype(int)
    at: list[int] = []
    for a, b in itertools.pairwise(edges):
        part = line[a:b]
        good = np.flatnonzero(np.isfinite(part))
        if not good.size:
            at.append(int(a))
            continue
        seen = part[good]
        at += sorted({int(a + good[seen.argmin()]), int(a + good[seen.argmax()])})
    index = np.array(at)
    return index.astype(np.float64), line[index]
