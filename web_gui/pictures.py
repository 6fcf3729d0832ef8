"""PNG and TIFF files of arrays, without further packages. Pure."""

from __future__ import annotations

import functools
import struct
import zlib
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


def png(values: _Arr, *, map: str = "viridis", lo: float | None = None, hi: float | None = None) -> bytes:
    """Coloured 8-bit picture of (h, w) values; NaN is grey. lo, hi: limits of the colours (default: 1 % and 99 % of the values)."""
    if values.ndim != 2 or not values.size:
        raise UsageError(f"only images can be drawn, this has the shape {values.shape}")
    if map not in MAPS:
        raise UsageError(f"map is one of {', '.join(MAPS)}, got {map!r:.40}")
    good = np.isfinite(values)
    if lo is None or hi is None:
        found = np.quantile(values[good], (0.01, 0.99)) if good.any() else (0.0, 1.0)
        lo, hi = (float(found[0]) if lo is None else lo), (float(found[1]) if hi is None else hi)
    scale = hi - lo if hi > lo else 1.0
    index = np.clip(np.nan_to_num((values - lo) / scale, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    rgb = _table(map)[np.rint(index * 255).astype(np.uint8)]
    rgb[np.isnan(values)] = UNSEEN
    return _png(rgb)


def grey(values: _Arr) -> bytes:
    """8-bit grey picture of uint8 values (h, w)."""
    return _png(np.ascontiguousarray(values, np.uint8))


@functools.cache
def _table(map: str) -> _Arr:
    if map == "gray":
        return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    stops = np.array([[c >> 16, c >> 8 & 255, c & 255] for c in _VIRIDIS], np.float64)
    at = np.linspace(0, len(stops) - 1, 256)
    return np.stack([np.rint(np.interp(at, np.arange(len(stops)), stops[:, i])) for i in range(3)], axis=1).astype(np.uint8)


def _png(pixels: _Arr) -> bytes:
    h, w = pixels.shape[:2]
    rows = np.zeros((h, 1 + pixels.size // h), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = pixels.reshape(h, -1)
    kind = 2 if pixels.ndim == 3 else 0

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", w, h, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)) + chunk(b"IEND", b"")


def tiff(values: _Arr, description: str = "") -> bytes:
    """Uncompressed TIFF of one image (h, w) in its own dtype (bool as uint8, float16 as float32), with a description in UTF-8."""
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        raise UsageError(f"only images of real numbers can be written as TIFF, this has the shape {values.shape} and dtype {values.dtype}")
    if values.dtype.kind == "b" or values.dtype == np.float16:
        values = values.astype(np.uint8 if values.dtype.kind == "b" else np.float32)
    data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    if len(data) > 0xF000_0000:
        raise UsageError(f"an image of {len(data)} bytes is too large for TIFF")
    text = description.encode() + b"\0"
    text += b"\0" * (len(text) % 2)
    sample = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    text_at = 8
    data_at = text_at + len(text)
    directory_at = data_at + len(data) + len(data) % 2
    short, long, ascii_ = 3, 4, 2
    tags = [
        (256, long, 1, values.shape[1]), (257, long, 1, values.shape[0]), (258, short, 1, values.dtype.itemsize * 8), (259, short, 1, 1),
        (262, short, 1, 1), (270, ascii_, len(text), text_at if len(text) > 4 else int.from_bytes(text.ljust(4, b"\0"), "little")),
        (273, long, 1, data_at), (277, short, 1, 1), (278, long, 1, values.shape[0]), (279, long, 1, len(data)), (339, short, 1, sample),
    ]  # fmt: skip
    out = struct.pack("<2sHI", b"II", 42, directory_at) + text + data + b"\0" * (len(data) % 2) + struct.pack("<H", len(tags))
    return out + b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 0)
