"""CBOR as far as detectors write it: values, and where in the message byte strings lie. Strictly bounded, nothing is copied.

RFC 8949. A general decoder would copy every byte string, believe announced lengths and give tags a meaning (dates, big numbers,
regular expressions, shared values); here a tag is a number beside its value, and a byte string a place in the message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from libstream.ext import WireError

MAX_DEPTH, MAX_ITEMS, MAX_TEXT = 24, 100_000, 1 << 20
_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_SIMPLES = {20: False, 21: True, 22: None, 23: None}
_FLOATS = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}
_END = object()


class Bytes(NamedTuple):
    """A byte string: its head begins at `head`, its bytes are [start, stop) of the message."""

    head: int
    start: int
    stop: int


class Tag(NamedTuple):
    """A tagged value that was given no meaning."""

    number: int
    value: Any


def bare(value: Any) -> Any:
    """The value without its tags."""
    while type(value) is Tag:
        value = value.value
    return value


class Walker:
    """Reads one message. All methods raise WireError for what is not well-formed, too deep or too long."""

    def __init__(self, message: Any) -> None:
        self.buf = memoryview(message)
        self.size = len(self.buf)
        self._items = 0

    def head(self, at: int) -> tuple[int, int, int]:
        """Major type, argument (-1 = indefinite length) and end of the head at `at`."""
        if at >= self.size:
            raise WireError(f"CBOR ends after {self.size} bytes, where a value was expected")
        first = self.buf[at]
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info, at + 1
        if info < 28:
            stop = at + 1 + (1 << (info - 24))
            if stop > self.size:
                raise WireError(f"CBOR ends after {self.size} bytes, in the head of a value")
            return major, int.from_bytes(self.buf[at + 1 : stop], "big"), stop
        if info == 31 and major in (_ARRAY, _MAP, _SIMPLE):
            return major, -1, at + 1
        raise WireError(f"CBOR has 0x{first:02x} at byte {at}: strings in pieces and reserved lengths are not accepted")

    def value(self, at: int, depth: int = 0) -> tuple[Any, int]:
        """The value at `at`, and where it ends."""
        found, stop = self._value(at, depth)
        if found is _END:
            raise WireError(f"CBOR has a break at byte {at}, where a value was expected")
        return found, stop

    def _value(self, at: int, depth: int) -> tuple[Any, int]:
        self._items += 1
        if depth > MAX_DEPTH or self._items > MAX_ITEMS:
            raise WireError(f"CBOR is nested deeper than {MAX_DEPTH}, or has more than {MAX_ITEMS} values")
        major, n, pos = self.head(at)
        if major == _UINT:
            return n, pos
        if major == _NEGATIVE:
            return -1 - n, pos
        if major == _BYTES:
            return Bytes(at, pos, self._inside(pos, n)), pos + n
        if major == _TEXT:
            stop = self._inside(pos, n)
            if n > MAX_TEXT:
                raise WireError(f"CBOR has a text of {n} bytes, at most {MAX_TEXT} are accepted")
            try:
                return str(self.buf[pos:stop], "utf-8"), stop
            except UnicodeDecodeError as exc:
                raise WireError(f"CBOR has a text at byte {pos} that is no UTF-8: {exc.reason}") from None
        if major == _ARRAY:
            return self._array(pos, n, depth)
        if major == _MAP:
            pairs = list(self.pairs(pos, n, depth))
            return {key: value for key, value, _, _ in pairs[:-1]}, pairs[-1][3]
        if major == _TAG:
            value, pos = self.value(pos, depth + 1)
            return Tag(n, value), pos
        return self._simple(at, n, pos)

    def _inside(self, start: int, n: int) -> int:
        if n > self.size - start:
            raise WireError(f"CBOR announces a string of {n} bytes at byte {start}; the message ends after {self.size - start}")
        return start + n

    def _array(self, pos: int, n: int, depth: int) -> tuple[list[Any], int]:
        out: list[Any] = []
        while n < 0 or len(out) < n:
            value, pos = self._value(pos, depth + 1)
            if value is _END:
                if n >= 0:
                    raise WireError(f"CBOR has a break before byte {pos}, inside an array of {n}")
                break
            out.append(value)
        return out, pos

    def pairs(self, pos: int, n: int, depth: int) -> Iterator[tuple[Any, Any, int, int]]:
        """Key, value, start and end of the value, for n pairs (-1: up to a break); last of all Nones and the end. A key comes once."""
        seen: set[Any] = set()
        while n < 0 or len(seen) < n:
            key, pos = self._value(pos, depth + 1)
            if key is _END and n < 0:
                break
            if type(key) not in (str, int) or key in seen:
                raise WireError(f"CBOR has a map with the key {str(key)[:40]!r}: expected texts, each once")
            seen.add(key)
            start = pos
            value, pos = self.value(pos, depth + 1)
            yield key, value, start, pos
        yield None, None, pos, pos

    def _simple(self, at: int, n: int, pos: int) -> tuple[Any, int]:
        info = self.buf[at] & 31
        if info in _FLOATS:
            return _FLOATS[info].unpack(self.buf[at + 1 : pos])[0], pos
        if info == 31:
            return _END, pos
        if n in _SIMPLES and info < 24:
            return _SIMPLES[n], pos
        raise WireError(f"CBOR has the simple value {n} at byte {at}, which has no meaning")


def message(buf: Any) -> tuple[dict[str, Any], dict[str, int]]:
    """The one map that a message is, with or without tags before it: values by key, and where each value begins."""
    walk = Walker(buf)
    pos = 0
    for _ in range(4):
        major, n, after = walk.head(pos)
        if major != _TAG:
            break
        pos = after
    if major != _MAP:
        raise WireError(f"a CBOR message begins with byte 0x{walk.buf[pos]:02x}, expected a map")
    values: dict[str, Any] = {}
    places: dict[str, int] = {}
    stop = after
    for key, value, start, stop in walk.pairs(after, n, 0):  # noqa: B007
        if key is not None:
            values[key], places[key] = value, start
    if stop != walk.size:
        raise WireError(f"a CBOR message ends at byte {stop}, {walk.size - stop} bytes follow")
    return values, places
