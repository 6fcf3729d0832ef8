"""The read limit R: the plain sum of all bytes of the file as 64-bit words, by threads over the mapped file.

`python -m tests.bench.sides.limit [threads]`
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np

from tests.bench.sides.serve import Side, Step, serve
from tests.bench.spec import Data

_Arr = np.ndarray[Any, Any]


@numba.njit(nogil=True)
def total(words: _Arr) -> Any:
    """Sum modulo 2**64."""
    s = np.uint64(0)
    for i in range(words.size):
        s += words[i]
    return s


class Limit(Side):
    """Each thread reads one piece in one go."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self.pool = ThreadPoolExecutor(n_threads)
        self.mapped: dict[str, _Arr] = {}

    def versions(self) -> dict[str, str]:
        return {"numba": numba.__version__, "threads": str(self.n_threads)}

    def step(self, data: Data, job: str, variant: str) -> Step:
        if data.path not in self.mapped:
            size = os.path.getsize(data.path) // 8
            self.mapped = {data.path: np.memmap(data.path, np.uint64, "r", shape=(size,)).view(np.ndarray)}
        pieces = np.array_split(self.mapped[data.path], self.n_threads)
        return lambda: {"words": np.array(sum(int(s) for s in self.pool.map(total, pieces)) % 2**64, np.uint64)}


if __name__ == "__main__":
    serve(Limit(int(sys.argv[1]) if len(sys.argv) > 1 else len(os.sched_getaffinity(0))))
