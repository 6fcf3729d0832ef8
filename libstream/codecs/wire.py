"""Encodings of live payloads by name: many payloads decoded in one call, straight from the memory in which they arrived.

A codec is a short text that travels with every frame part:

- `raw<`, `raw>`: numbers as they are, little- or big-endian.
- `bslz4/2`: bitshuffle and LZ4 with HDF5's header (or 12 zero bytes), shuffled as elements of 2 bytes (1, 2, 4, 8 or 16; this need
  not be the size of a pixel). `bslz4/2>`: the numbers inside are big-endian.
- `lz4`, `lz4>`: one bare LZ4 block. `lz4f`, `lz4f>`: LZ4 in HDF5's framing.
- `zstd`, `zstd>`: one Zstandard frame; needs Python 3.14 or backports.zstd, and is decoded one payload at a time.
- `merlin/U16/0/1x1`, `merlin/R64/12/2x2`: Merlin's pixel code, counter depth (0 for integers) and arrangement of chips, without
  the header of the frame.

Decoding is compiled and releases the GIL once for a batch. A payload that is damaged, hostile or of another size is reported and
never read or written out of bounds.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.codecs import _kernels as k
from libstream.codecs import _zstd
from libstream.codecs.bslz4 import default_block
from libstream.codecs.merlin import _RAW_BITS, CHIP, Pixels
from libstream.errors import CodecError, FormatError, UsageError

_Arr = np.ndarray[Any, Any]

KNOWN = "raw< raw> bslz4/<1|2|4|8|16>[>] lz4[>] lz4f[>] zstd[>] merlin/<code>/<depth>/<chips>"
"""The codecs there are."""

_KINDS = {"lz4": k.LZ4_BARE, "lz4f": k.LZ4_FRAMED, "zstd": 100}

_NAME = re.compile(r"(raw)([<>])|(bslz4)/(1|2|4|8|16)(>?)|(lz4f?|zstd)(>?)|merlin/([A-Z]\d\d)/(\d{1,2})/(\w{3,5})")


@dataclass(frozen=True)
class _Plan:
    """How payloads of one kind are decoded. swap: bytes of the numbers to be reversed, 1 for none. align: of where they go [bytes]."""

    codec: str
    kind: int
    dtype: np.dtype[Any]
    shape: tuple[int, int]
    item: int = 1
    swap: int = 1
    pixels: Pixels | None = None

    @property
    def total(self) -> int:
        """Bytes of a decoded payload."""
        return self.shape[0] * self.row

    @property
    def row(self) -> int:
        """Bytes of a decoded row."""
        return self.shape[1] * self.dtype.itemsize

    @property
    def align(self) -> int:
        """The place where a payload's first byte goes, or would go, is a multiple of this [bytes]."""
        if self.pixels is not None and self.pixels.code == "R64":
            return 8
        return max(self.item, self.swap)


def check(codec: str, shape: tuple[int, int], dtype: Any) -> None:
    """Raise CodecError for a codec that is not known, or that cannot hold frames (or sectors) of `shape` (y, x) and `dtype`;
    NotInstalledError where its library is missing."""
    _plan(codec, tuple(shape), _dtype(dtype))


def decode(
    codec: str, shape: tuple[int, int], dtype: Any, src: _Arr, at: Any, size: Any, out: _Arr, to: Any, rows: tuple[int, int] | None = None
) -> _Arr:  # fmt: skip
    """Decode many payloads in one call that releases the GIL.

    codec, shape, dtype: of all of them; see `check`. src: uint8 (n_bytes,), payload i is src[at[i] : at[i] + size[i]].
    out: uint8, C-contiguous; rows [rows[0], rows[1]) of payload i (all rows where None) go to out[to[i] :] in native byte order.
    Returns bool (n,): False for a payload that is damaged, of the wrong size, or not inside of `src`; its part of `out` then
    means nothing. Raises CodecError as `check` does, UsageError where a part would not lie inside of `out`.
    """
    plan = _plan(codec, shape if type(shape) is tuple else tuple(shape), _dtype(dtype))
    r0, r1 = (0, plan.shape[0]) if rows is None else rows
    if not 0 <= r0 <= r1 <= plan.shape[0]:
        raise UsageError(f"rows {r0} to {r1} are not in frames of {plan.shape[0]} rows")
    if out.dtype != np.uint8 or out.ndim != 1 or not out.flags.c_contiguous or not out.flags.writeable:
        raise UsageError(f"out is {out.dtype} {out.shape}, expected uint8 with one axis, contiguous and writeable")
    if src.dtype != np.uint8 or src.ndim != 1 or not src.flags.c_contiguous:
        raise UsageError(f"src is {src.dtype} {src.shape}, expected uint8 with one axis, contiguous")
    at, size, to = (np.ascontiguousarray(a, np.int64) for a in (at, size, to))
    if not at.shape == size.shape == to.shape or at.ndim != 1:
        raise UsageError(f"at, size and to have the shapes {at.shape}, {size.shape} and {to.shape}, expected (n,) for n payloads")
    first, last = r0 * plan.row, r1 * plan.row
    if not to.size:
        return np.empty(0, bool)
    if to.min() < 0 or to.max() > out.size - (last - first):
        raise UsageError(f"parts of {last - first} bytes at {to.min()} to {to.max()} do not lie inside of out, which has {out.size} bytes")
    status, align = np.empty(at.size, np.uint8), plan.align
    src = src.view()
    src.setflags(write=False)
    if align == 1 or (out.ctypes.data % align == 0 and not ((to - first) % align).any()):
        _into(plan, src, at, size, out, to, first, last, status)
        return status == k.OK
    # elements wider than the step from row to row, or memory that is not aligned: by way of a copy
    a, b = (first, last) if plan.pixels is not None else (first // align * align, -(-last // align) * align)
    step = -(-(b - a) // 64) * 64 or 64
    buffer = np.empty(at.size * step, np.uint8)
    _into(plan, src, at, size, buffer, np.arange(at.size) * step, a, b, status)
    for p, part in zip(to.tolist(), buffer.reshape(-1, step), strict=True):
        out[p : p + last - first] = part[first - a : last - a]
    return status == k.OK


def _into(plan: _Plan, src: _Arr, at: _Arr, size: _Arr, out: _Arr, to: _Arr, first: int, last: int, status: _Arr) -> None:
    from libstream.codecs import _wire

    pixels = plan.pixels
    if pixels is not None and pixels.code == "R64":
        words = pixels.across**2 * CHIP * _RAW_BITS[min(pixels.depth, 12)] // 64
        plane = pixels.n_bytes // 16 if pixels.depth == 24 else 0
        segments = pixels._segments(words, CHIP * plan.dtype.itemsize // 8)
        gap = pixels.gap * plan.dtype.itemsize
        _wire.READ_RAW[pixels.depth].cached(
            src, at, size, pixels.n_bytes, out, to, plan.row, first // plan.row, last // plan.row, segments, words, plane,
            pixels.chip_rows, gap, status,
        )  # fmt: skip
    elif plan.kind == k.STORED:
        _wire.copy_parts.cached(src, at, size, plan.swap, plan.total, first, last, out, to, status)
    elif plan.kind == _KINDS["zstd"]:
        _zstd.decode_parts(src, at, size, plan.total, first, last, out, to, status)
        if plan.swap > 1:
            _wire.swap_parts.cached(out, to, last - first, plan.swap, status)
    else:
        a, b, block = np.full(at.size, first), np.full(at.size, last), default_block(plan.item)
        k.decode_parts.cached(src, at, size, plan.kind, plan.item, block, plan.total, a, b, out, to, status)
        if plan.swap > 1:
            _wire.swap_parts.cached(out, to, last - first, plan.swap, status)


def _dtype(dtype: Any) -> np.dtype[Any]:
    try:
        return np.dtype(dtype)
    except TypeError:
        raise CodecError(f"{str(dtype)[:40]!r} is no dtype of pixels, such as 'uint16'") from None


def _plan(codec: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Plan:
    # looked at before the cache, for which 4.0 is 4
    if len(shape) != 2 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
        raise CodecError(f"{codec[:40]!r}: payloads are frames or sectors of two axes (y, x), got the shape {shape}")
    return _made_plan(codec, shape, dtype)


@functools.lru_cache(maxsize=256)
def _made_plan(codec: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> _Plan:
    shape = (int(shape[0]), int(shape[1]))
    if dtype.kind not in "buifc" or dtype.itemsize > 16:
        raise CodecError(f"{codec[:40]!r}: pixels are booleans, integers, real or complex numbers, got {dtype}")
    dtype = dtype.newbyteorder("=")
    parts: Sequence[Any] = m.groups() if (m := _NAME.fullmatch(codec)) else ()
    if not parts:
        raise CodecError(f"unknown codec {codec[:40]!r}; known are {KNOWN}")
    raw, order, shuffled, elem, high, plain, plain_high, code, depth, chips = parts
    width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    big = width if ">" in (order, high, plain_high) else 1
    if big not in (1, 2, 4, 8):
        raise CodecError(f"{codec}: big-endian numbers of {big} bytes ({dtype}) are not known")
    if raw:
        return _Plan(codec, k.STORED, dtype, shape, 1, big)
    if plain:
        if plain == "zstd":
            _zstd.module()
        return _Plan(codec, _KINDS[plain], dtype, shape, 1, big)
    if shuffled:
        n_bytes = shape[0] * shape[1] * dtype.itemsize
        if n_bytes % int(elem):
            raise CodecError(f"{codec}: {shape[0]} x {shape[1]} pixels of {dtype} are {n_bytes} bytes, no whole number of elements")
        return _Plan(codec, k.BSLZ4, dtype, shape, int(elem), big)
    try:
        pixels = Pixels(code, shape, int(depth), chips)
    except FormatError as err:
        raise CodecError(f"{codec}: {err}") from None
    if pixels.dtype != dtype:
        raise CodecError(f"{codec}: pixels are {pixels.dtype}, not {dtype}")
    return _Plan(codec, k.STORED, dtype, shape, 1, 1 if code == "R64" else dtype.itemsize, pixels)


def encode(codec: str, frame: _Arr) -> bytes:
    """One frame (y, x) as a payload: the inverse of `decode`. For replay, simulators and tests.

    Raises CodecError as `check` does, and for counts that a Merlin counter of that depth cannot hold.
    """
    plan = _plan(codec, frame.shape, frame.dtype)
    frame = frame.astype(plan.dtype, copy=False)
    if plan.pixels is not None:
        from libstream.codecs._pack import pack

        return pack(plan.pixels, frame)
    if plan.swap > 1:
        frame = frame.byteswap()
    if plan.kind == k.STORED:
        return frame.tobytes()
    from libstream.codecs import _encode

    frame = np.ascontiguousarray(frame)
    if frame.ctypes.data % plan.item:
        frame = frame.copy()
    raw = frame.reshape(-1).view(np.uint8)
    if plan.kind == _KINDS["zstd"]:
        return _zstd.encode(raw)
    block = default_block(plan.item)
    room = _encode.bound(raw.size) + 12 + 32 * (raw.size // min(block, _LZ4_BLOCK) + 1)
    buffer: _Arr | None = getattr(_scratch, "buffer", None)
    if buffer is None or buffer.size < room:  # kept: fresh pages cost as much as the encoding
        buffer = _scratch.buffer = np.empty(room, np.uint8)
    if plan.kind == k.BSLZ4:
        n = _encode.encode_bslz4.cached(raw, plan.item, block, buffer)
    else:
        n = _encode.encode_lz4.cached(raw, 0 if plan.kind == k.LZ4_BARE else _LZ4_BLOCK, buffer)
    return buffer[:n].tobytes()


_LZ4_BLOCK = 65536
_scratch = threading.local()


def warm_up(codec: str, shape: tuple[int, int], dtype: Any) -> None:
    """Compile what decodes this, or load it from the user's cache, so that the first frame does not wait for it."""
    plan = _plan(codec, tuple(shape), _dtype(dtype))
    zero = np.zeros(1, np.int64)
    part = np.zeros(plan.row, np.uint8)
    decode(codec, plan.shape, plan.dtype, np.zeros(0, np.uint8), zero, zero, part, zero, (0, 1))
