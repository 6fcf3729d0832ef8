"""Frames in memory on their way to the hooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_Arr = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Block:
    """Good frames of a partition: `data[i]` for i in `runs` are its rows k, k + 1, ...

    data: (n, *rows of the frame), read-only. runs: int64 (r, 2), half-open. index: int64, flat scan positions, one a frame.
    """

    data: _Arr
    runs: _Arr
    index: _Arr
    k: int

    @classmethod
    def of(cls, data: _Arr, index: _Arr | None = None) -> Block:
        """All frames of an array, as rows 0, 1, ... of a partition."""
        n = len(data)
        return cls(data, np.array([[0, n]], np.int64), np.arange(n, dtype=np.int64) if index is None else index, 0)
