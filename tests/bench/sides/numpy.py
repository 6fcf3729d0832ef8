"""Plain NumPy, as one writes it without a library: one scan row at a time, so that memory stays small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.bench.sides.serve import Absent, Side, Step, serve
from tests.bench.spec import Data, centre, mask_of

_Arr = np.ndarray[Any, Any]


def frames_of(data: Data) -> _Arr:
    """The mapped file as (y, x, frame y, frame x)."""
    if data.kind not in ("raw", "npy"):
        raise Absent("plain NumPy reads no such file")
    if data.kind == "npy":
        return np.load(data.path, mmap_mode="r")
    return np.memmap(data.path, data.dtype, "r", shape=(*data.scan, *data.frame))


class Numpy(Side):
    """One loop over scan rows."""

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def step(self, data: Data, job: str, variant: str) -> Step:
        if variant != "plain" or job not in ("disk", "annulus", "mask", "totals", "sum", "variance", "com"):
            raise Absent("not written")
        array = frames_of(data)
        return getattr(self, "_" + job, self._mask)(array, job, data)  # type: ignore[no-any-return]

    def _mask(self, array: _Arr, job: str, data: Data) -> Step:
        mask = mask_of(job, data.frame)
        dtype = np.float64 if mask.dtype.kind == "f" or data.dtype == "float32" else np.uint64
        return _rows(array, "intensity", lambda row: np.einsum("nyx,yx->n", row, mask, dtype=dtype, casting="unsafe"))

    def _totals(self, array: _Arr, job: str, data: Data) -> Step:
        return _rows(array, "total", lambda row: row.sum(axis=(1, 2), dtype=_wide(row)))

    def _sum(self, array: _Arr, job: str, data: Data) -> Step:
        def step() -> dict[str, _Arr]:
            total = np.zeros(data.frame, _wide(array))
            for row in array:
                total += row.sum(axis=0, dtype=total.dtype)
            return {"sum": total}

        return step

    def _variance(self, array: _Arr, job: str, data: Data) -> Step:
        def step() -> dict[str, _Arr]:
            n, mean, m2 = 0, np.zeros(data.frame), np.zeros(data.frame)
            for row in array:
                own = row.mean(axis=0)
                own_m2 = row.var(axis=0) * len(row)
                delta = own - mean
                m2 += own_m2 + delta**2 * (n * len(row) / (n + len(row)))
                mean += delta * (len(row) / (n + len(row)))
                n += len(row)
            return {"mean": mean, "variance": m2 / n}

        return step

    def _com(self, array: _Arr, job: str, data: Data) -> Step:
        y, x = (np.arange(n) - c for n, c in zip(data.frame, centre(data.frame), strict=True))

        def one(row: _Arr) -> _Arr:
            down, across = row.sum(axis=2, dtype=np.float64), row.sum(axis=1, dtype=np.float64)
            return np.stack([down @ y, across @ x], axis=1) / down.sum(axis=1)[:, None]

        return _rows(array, "com", one)


def _wide(array: _Arr) -> Any:
    return np.float64 if array.dtype.kind == "f" else np.uint64


def _rows(array: _Arr, name: str, one: Callable[[_Arr], _Arr]) -> Step:
    return lambda: {name: np.stack([one(row) for row in array])}


if __name__ == "__main__":
    serve(Numpy())
