"""Reused, aligned scratch memory of a worker."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

ALIGN = 4096
"""Page alignment: reads into np.empty (16 bytes past a page) run at 8 GB/s against 14 (facts behind docs/adr/0005)."""


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Uninitialised C array that starts on a page."""
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(n_bytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


class Buffers:
    """Named scratch arrays of one thread; a request that fits gets the same memory again."""

    def __init__(self) -> None:
        self._held: dict[str, np.ndarray[Any, Any]] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Array of this shape and dtype, contents undefined, overwritten by the next request of the same name."""
        dtype = np.dtype(dtype)
        n_bytes = math.prod(shape) * dtype.itemsize
        held = self._held.get(name)
        if held is None or held.nbytes < n_bytes:
            held = self._held[name] = aligned((n_bytes,), np.uint8)
        return held[:n_bytes].view(dtype).reshape(shape)


SMALL = 32 * 1024
"""Arrays below this size come from the allocator as always."""
KEPT_BYTES = 16 * 1024 * 1024
"""Most memory that waits for its next use, of each size; of the last `KEPT_SIZES` sizes."""
KEPT_SIZES = 3

_kept: dict[int, deque[np.ndarray[Any, Any]]] = {}


def reused(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Uninitialised C array on a page, in memory that goes back when the array and all its views are gone.

    For accumulators, of which every partition needs new ones: pages fresh from the system cost as much as adding up 16 MiB of frames.
    """
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    if not SMALL <= n_bytes <= KEPT_BYTES:
        return np.empty(shape, dtype)
    size = -(-n_bytes // ALIGN) * ALIGN
    try:
        raw = _kept[size].pop()
    except (KeyError, IndexError):
        raw = aligned((size,), np.uint8)
    return np.asarray(_Lease(raw))[:n_bytes].view(dtype).reshape(shape)


class _Lease:
    """What the array and its views refer to as the owner of their memory."""

    def __init__(self, raw: np.ndarray[Any, Any]) -> None:
        self._raw = raw
        self.__array_interface__ = raw.__array_interface__

    def __del__(self, kept: dict[int, deque[np.ndarray[Any, Any]]] = _kept) -> None:
        # in any thread, at any place, even in the middle of this function: only steps that are atomic, and no lock
        size = self._raw.nbytes
        if size not in kept:
            for other in list(kept)[: 1 - KEPT_SIZES]:
                kept.pop(other, None)
        kept.setdefault(size, deque(maxlen=KEPT_BYTES // size)).append(self._raw)
