"""CBOR (RFC 8949) headers of strangers: plain values only, within bounds, without tags and without recursion beyond a few levels.

Not cbor2: what a stranger sends must cost no more than its own length, mean nothing but numbers, texts, lists and maps, and fail
with one kind of error.
"""

from __future__ import annotations

import struct
from typing import Any

from libstream.errors import WireError

MAX_BYTES = 65536
"""Longest header where nothing else is said; lists and maps in it cannot have more items than it has bytes."""
MAX_DEPTH = 8
"""Levels of lists and maps inside of each other."""

_MAGIC = b"\xd9\xd9\xf7"  # "this is CBOR"; some encoders write it in front
_BREAK = 0xFF
_FLOATS = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}
_SIMPLE = {20: False, 21: True, 22: None, 23: None}


def loads(data: bytes, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The map that `data` is. Keys are texts, values None, bool, int, float, str, lists and maps of these. Raises WireError."""
    if len(data) > max_bytes:
        raise WireError(f"a header of {len(data)} bytes, expected at most {max_bytes}")
    at = len(_MAGIC) if data.startswith(_MAGIC) else 0
    try:
        value, at = _item(data, at, 0)
    except (IndexError, struct.error):
        raise WireError(f"a header of {len(data)} bytes ends too early: is it CBOR?") from None
    if at != len(data):
        raise WireError(f"a header of {len(data)} bytes has {len(data) - at} bytes too many: is it CBOR?")
    if type(value) is not dict:
        raise WireError(f"a header is a map of CBOR, got {type(value).__name__}")
    return value


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """The value at `at`, and where it ends. Raises IndexError and struct.error where the data end too early."""
    first = data[at]
    kind, info = first >> 5, first & 31
    at += 1
    if kind == 7:
        if info in _FLOATS:
            form, n = _FLOATS[info]
            return struct.unpack_from(form, data, at)[0], at + n
        if info in _SIMPLE:
            return _SIMPLE[info], at
        raise WireError(f"a header holds the simple value {info}, expected false, true, null or a float")
    if kind == 6 or kind == 2:
        raise WireError(f"a header holds {'a tag' if kind == 6 else 'a byte string'}, expected numbers, texts, lists and maps")
    endless = info == 31
    n = 0
    if info < 24:
        n = info
    elif info < 28:
        width = 1 << (info - 24)
        if at + width > len(data):
            raise IndexError
        n = int.from_bytes(data[at : at + width], "big")
        at += width
    elif not (endless and kind in (4, 5)):
        raise WireError(f"a header holds the byte 0x{first:02x}, which begins nothing that is expected here")
    if kind == 0:
        return n, at
    if kind == 1:
        return -1 - n, at
    if kind == 3:
        if n > len(data) - at:
            raise IndexError
        try:
            return data[at : at + n].decode("utf-8"), at + n
        except UnicodeDecodeError:
            raise WireError("a header holds a text that is not UTF-8") from None
    if depth >= MAX_DEPTH:
        raise WireError(f"a header has lists and maps more than {MAX_DEPTH} deep")
    if n > len(data) - at:
        raise IndexError
    return (_list if kind == 4 else _map)(data, at, None if endless else n, depth + 1)


def _list(data: bytes, at: int, n: int | None, depth: int) -> tuple[list[Any], int]:
    out: list[Any] = []
    while n is None or len(out) < n:
        if n is None and data[at] == _BREAK:
            return out, at + 1
        value, at = _item(data, at, depth)
        out.append(value)
    return out, at


def _map(data: bytes, at: int, n: int | None, depth: int) -> tuple[dict[str, Any], int]:
    out: dict[str, Any] = {}
    while n is None or len(out) < n:
        if n is None and data[at] == _BREAK:
            return out, at + 1
        key, at = _item(data, at, depth)
        if type(key) is not str:
            raise WireError(f"keys of a header are texts, got {type(key).__name__}")
        if key in out:
            raise WireError(f"a header has {key[:40]!r} twice")
        out[key], at = _item(data, at, depth)
    return out, at
