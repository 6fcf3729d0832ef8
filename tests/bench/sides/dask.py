"""dask.array on the mapped file, threaded scheduler, chunks of 16 MiB."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np

from tests.bench.sides.numpy import frames_of
from tests.bench.sides.serve import Absent, Side, Step, serve
from tests.bench.spec import Data, centre, mask_of

_Arr = np.ndarray[Any, Any]


class Dask(Side):
    """The expressions of a user who knows NumPy."""

    def versions(self) -> dict[str, str]:
        return {"dask": dask.__version__, "numpy": np.__version__}

    def step(self, data: Data, job: str, variant: str) -> Step:
        if variant != "plain":
            raise Absent("not written")
        mapped = frames_of(data)
        rows = max(1, 16 * 2**20 // max(1, data.n_bytes // data.scan[0]))
        a = da.from_array(mapped, chunks=(rows, *mapped.shape[1:]))
        expressions = self._expressions(a, job, data)
        names = list(expressions)
        return lambda: dict(zip(names, dask.compute(*expressions.values(), scheduler="threads"), strict=True))

    def _expressions(self, a: Any, job: str, data: Data) -> dict[str, Any]:
        wide = np.float64 if data.dtype == "float32" else np.uint64
        if job in ("disk", "annulus", "mask", "masks16"):
            mask = mask_of(job, data.frame)
            to = np.float64 if mask.dtype.kind == "f" or wide == np.float64 else wide
            if job == "masks16":
                return {"intensity": da.tensordot(a.astype(np.float32), mask, axes=((2, 3), (1, 2)))}
            return {"intensity": da.einsum("abyx,yx->ab", a, mask, dtype=to, casting="unsafe")}
        if job == "totals":
            return {"total": a.sum(axis=(2, 3), dtype=wide)}
        if job == "sum":
            return {"sum": a.sum(axis=(0, 1), dtype=wide)}
        if job == "variance":
            return {"mean": a.mean(axis=(0, 1), dtype=np.float64), "variance": a.var(axis=(0, 1), dtype=np.float64)}
        y, x = (np.arange(n) - c for n, c in zip(data.frame, centre(data.frame), strict=True))
        down, across = a.sum(axis=3, dtype=np.float64), a.sum(axis=2, dtype=np.float64)
        com = da.stack([down @ y, across @ x], axis=-1) / down.sum(axis=2)[..., None]
        if job == "com":
            return {"com": com}
        return {**self._expressions(a, "sum", data), **self._expressions(a, "disk", data), "com": com}


if __name__ == "__main__":
    serve(Dask())
