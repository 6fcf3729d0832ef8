"""Reused, aligned scratch memory of a worker."""

from __future__ import annotations

import math
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
