"""Moving bytes in compiled code without bounds checks, 8 to 32 at a time: for decoders that have checked before.

Each function has a twin in Python that does check, so that a decoder run as plain Python stops at the first byte out of bounds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from libstream.kernels.jit import Kernel

_Arr = np.ndarray[Any, Any]


class _Raw(Kernel):
    """A function with a compiled form in `_raw_numba`, and the twin that is given here."""

    def __init__(self, twin: Callable[..., Any], name: str) -> None:
        super().__init__(twin)
        self.name = name

    @functools.cached_property
    def jit(self) -> Any:
        from libstream.codecs import _raw_numba

        return getattr(_raw_numba, self.name)

    @functools.cached_property
    def checked(self) -> Any:
        return self.jit

    def __reduce__(self) -> tuple[Any, ...]:
        return (_named, (self.name,))


def _within(a: _Arr, i: int, n: int) -> slice:
    if i < 0 or i + n > a.size:
        raise IndexError(f"bytes {i} to {i + n} of {a.size}")
    return slice(i, i + n)


def _get8(a: _Arr, i: int) -> int:
    return int(a[_within(a, i, 1)][0])


def _load64(a: _Arr, i: int) -> np.uint64:
    return np.uint64(int.from_bytes(a[_within(a, i, 8)].tobytes(), "little"))


def _store64(a: _Arr, i: int, value: np.uint64) -> None:
    a[_within(a, i, 8)] = np.frombuffer(int(value).to_bytes(8, "little"), np.uint8)


def _splat32(a: _Arr, i: int, value: np.uint64) -> None:
    a[_within(a, i, 32)] = np.frombuffer(int(value).to_bytes(8, "little") * 4, np.uint8)


def _zero_bytes(word: np.uint64) -> int:
    value = int(word)
    return 8 if value == 0 else ((value & -value).bit_length() - 1) // 8


def _store8(a: _Arr, i: int, value: int) -> None:
    a[_within(a, i, 1)] = value


def _copier(n: int) -> Callable[..., None]:
    def copy(dst: _Arr, i: int, src: _Arr, j: int) -> None:
        dst[_within(dst, i, n)] = src[_within(src, j, n)].copy()

    return copy


_TWINS: dict[str, Callable[..., Any]] = {
    "get8": _get8,
    "load64": _load64,
    "store64": _store64,
    "splat32": _splat32,
    "store8": _store8,
    "zero_bytes": _zero_bytes,
    **{f"copy{n}": _copier(n) for n in (8, 16, 32)},
}
_ALL = {name: _Raw(twin, name) for name, twin in _TWINS.items()}


def _named(name: str) -> _Raw:
    return _ALL[name]


get8 = _ALL["get8"]
"""get8(a, i): byte i of a, as a signed word."""
load64 = _ALL["load64"]
"""load64(a, i): bytes i to i + 8 as a little-endian word."""
store64 = _ALL["store64"]
"""store64(a, i, word): the inverse."""
splat32 = _ALL["splat32"]
"""splat32(a, i, word): a word, four times in a row."""
store8 = _ALL["store8"]
"""store8(a, i, value): the low byte of a signed word to byte i of a."""
zero_bytes = _ALL["zero_bytes"]
"""zero_bytes(word): how many of the lowest bytes of a word are 0."""
copy8, copy16, copy32 = _ALL["copy8"], _ALL["copy16"], _ALL["copy32"]
"""copyN(dst, i, src, j): N bytes, all read before the first is written."""
