"""Binary messages: one array each, or some of its rows. Pure: no Tornado, no engine (docs/reference/gui-protocol.md, "Arrays")."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_Arr = np.ndarray[Any, Any]

MAGIC = b"LST1"
BINS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Level:
    """One way to send an array: a dtype and how many pixels become one. Ordered from exact to coarse in `LEVELS`."""

    name: str
    dtype: str
    bin: int = 1

    @property
    def bytes_per_value(self) -> float:
        """Bytes of the message for each value of the array (2-D)."""
        return np.dtype(self.dtype).itemsize / self.bin**2


EXACT = Level("f4", "<f4")
LEVELS = (EXACT, Level("u2", "<u2"), Level("u1", "<u1"), Level("u1/2", "<u1", 2), Level("u1/4", "<u1", 4), Level("u1/8", "<u1", 8))


def pack(header: Mapping[str, Any], payload: bytes | memoryview) -> bytes:
    """One message. The payload starts at a multiple of 8 bytes."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-(8 + len(text)) % 8)
    return b"".join((MAGIC, struct.pack("<I", len(text)), text, payload))


def unpack(message: bytes) -> tuple[dict[str, Any], _Arr]:
    """Header and the rows that it carries, as float64 with NaN for what was not seen. Raises ValueError for what is no message."""
    if message[:4] != MAGIC:
        raise ValueError(f"a message starts with {MAGIC!r}, got {message[:4]!r}")
    (n,) = struct.unpack("<I", message[4:8])
    header: dict[str, Any] = json.loads(message[8 : 8 + n])
    shape = tuple(header["shape"])
    if shape:
        shape = (header["rows"][1] - header["rows"][0], *shape[1:])
    raw = np.frombuffer(message, header["dtype"], offset=8 + n).reshape(shape)
    if raw.dtype.kind == "f":
        return header, raw.astype(np.float64)
    return header, np.where(raw == 0, np.nan, raw * float(header["scale"]) + float(header["offset"]))


def displayed(array: _Arr, seen: _Arr | None) -> _Arr:
    """Values as they are shown: float32 (float64 for integers and ranges that it cannot hold); NaN where not seen; complex as (re, im)."""
    array = np.asarray(array)
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], axis=-1)
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if array.dtype.kind in "iu" and array.dtype.itemsize > 2 and array.size:
        good = array if seen is None else array[seen]
        # 2^24: beyond it float32 leaves out integers
        if good.size and (int(good.max()) > 1 << 24 or int(good.min()) < -(1 << 24)):
            values = array.astype(np.float64)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 4 and (np.isinf(values) & np.isfinite(array)).any():
        values = array.astype(np.float64)
    if seen is not None and not seen.all():
        values[~seen] = np.nan
    return values


def limits(values: _Arr) -> tuple[float, float] | None:
    """Smallest and largest finite value; None where there is none."""
    if not values.size:
        return None
    lo, hi = float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None))
    if not (np.isfinite(lo) and np.isfinite(hi)):
        finite = values[np.isfinite(values)]
        if not finite.size:
            return None
        lo, hi = float(finite.min()), float(finite.max())
    return lo, hi


def binned(values: _Arr, factor: int) -> _Arr:
    """Means of `factor x factor` pixels that were seen (NaN where none was), shape (ceil(h / factor), ceil(w / factor), ...)."""
    if factor == 1:
        return values
    h, w = values.shape[:2]
    rows, columns = -(-h // factor), -(-w // factor)
    padded = np.full((rows * factor, columns * factor, *values.shape[2:]), np.nan, values.dtype)
    padded[:h, :w] = values
    blocks = padded.reshape(rows, factor, columns, factor, *values.shape[2:])
    good = np.isfinite(blocks)
    n = good.sum(axis=(1, 3))
    total = np.where(good, blocks, 0).sum(axis=(1, 3), dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(n > 0, total / n, np.nan).astype(values.dtype))


def quantised(values: _Arr, dtype: str, lo: float, hi: float) -> tuple[_Arr, float, float]:
    """(q, scale, offset) with value = q * scale + offset to half a scale for lo <= value <= hi; q = 0 for NaN. Beyond: clipped."""
    top = np.iinfo(dtype).max
    scale = (hi - lo) / (top - 1)
    if not (np.isfinite(scale) and scale > 0):
        scale = 1.0
    offset = lo - scale
    with np.errstate(invalid="ignore", over="ignore"):
        q = np.rint((values.astype(np.float64, copy=False) - offset) / scale)
        q = np.where(np.isnan(q), 0, np.clip(q, 1, top))
    return q.astype(dtype), scale, offset


def encode(values: _Arr, level: Level, rows: tuple[int, int] | None, span: tuple[float, float] | None) -> tuple[dict[str, Any], bytes]:
    """Fields of the header that say how rows [y0, y1) of `values` (None = all) are written, and the payload.

    values: as `displayed` gives them. rows: of the full resolution. span: `limits(values)` of the whole array.
    """
    full = values.shape
    factor = level.bin if values.ndim >= 2 else 1
    shape = (-(-full[0] // factor), -(-full[1] // factor), *full[2:]) if factor > 1 else full
    if values.ndim == 0:
        y0, y1 = 0, 1
        part = values
    else:
        a, b = rows if rows is not None else (0, full[0])
        y0, y1 = a // factor, -(-b // factor)
        part = binned(values[y0 * factor : min(y1 * factor, full[0])], factor)
    header: dict[str, Any] = {"shape": list(shape), "full": list(full), "rows": [y0, y1], "bin": factor}
    if level.dtype == "<f4":
        dtype = "<f8" if values.dtype == np.float64 else "<f4"
        payload = np.ascontiguousarray(part, dtype).tobytes()
        header |= {"dtype": dtype, "scale": 1.0, "offset": 0.0}
    else:
        lo, hi = span if span is not None else (0.0, 0.0)
        q, scale, offset = quantised(part, level.dtype, lo, hi)
        payload = np.ascontiguousarray(q).tobytes()
        header |= {"dtype": level.dtype, "scale": scale, "offset": offset}
    header |= {"exact": level.dtype == "<f4" and factor == 1, "range": None if span is None else [span[0], span[1]]}
    return header, payload


def fitting(n_values: int, bytes_per_s: float, budget_s: float, itemsize: int = 4, start: int = 0) -> Level:
    """The first of `LEVELS` whose message takes at most `budget_s` at `bytes_per_s`; the coarsest where none does.

    itemsize: bytes of an exact value. start: index of the first level that is considered.
    """
    for level in LEVELS[start:]:
        size = n_values * (itemsize if level is EXACT else level.bytes_per_value)
        if size <= bytes_per_s * budget_s:
            return level
    return LEVELS[-1]


def coarsest_sharp(shape: tuple[int, ...], px: tuple[int, int] | None) -> int:
    """The largest bin at which every device pixel of a view still has a value of its own. px: (w, h) of the whole array."""
    if px is None or len(shape) < 2:
        return 1
    return max(b for b in BINS if b == 1 or (shape[1] >= b * px[0] and shape[0] >= b * px[1]))
