"""LiberTEM. `python -m tests.bench.sides.libertem [threads|inline]`"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np

from tests.bench.sides.serve import Absent, Side, Step, serve
from tests.bench.spec import Data, centre, corrections_of, mask_of, roi_of

_Arr = np.ndarray[Any, Any]


class Libertem(Side):
    """One context for everything; files are opened once."""

    def __init__(self, executor: str) -> None:
        from libertem.api import Context

        self.context = Context.make_with(executor)
        self.held: tuple[str, Any] = ("", None)

    def versions(self) -> dict[str, str]:
        import libertem
        import numba

        return {"libertem": libertem.__version__, "numba": numba.__version__, "numpy": np.__version__}

    def step(self, data: Data, job: str, variant: str) -> Step:
        if self.held[0] != data.path:
            self.held = (data.path, self._opened(data))
        source = self.held[1]
        if job == "pick":
            return self._pick(source, data)
        udfs = self._udfs(job, data.frame)
        options: dict[str, Any] = {}
        roi = roi_of(variant, data.scan)
        if roi is not None:
            options["roi"] = roi
        if variant == "corrected":
            options["corrections"] = self._corrections(data.frame)

        def step() -> dict[str, _Arr]:
            found = self.context.run_udf(source, udfs, progress=False, **options)
            return self._arrays(found, job, data)

        return step

    def _pick(self, source: Any, data: Data) -> Step:
        places = itertools.cycle(np.random.default_rng(1).integers(0, data.n_frames, 100).tolist())

        def step() -> dict[str, _Arr]:
            y, x = divmod(next(places), data.scan[1])
            return {"frame": self.context.run(self.context.create_pick_analysis(source, x=x, y=y)).intensity.raw_data}

        return step

    def _opened(self, data: Data) -> Any:
        if data.kind == "raw":
            return self.context.load("raw", path=data.path, dtype=data.dtype, nav_shape=data.scan, sig_shape=data.frame)
        if data.kind == "npy":
            return self.context.load("npy", path=data.path)
        if data.kind == "mib":
            return self.context.load("mib", path=data.path, nav_shape=data.scan)
        return self.context.load("hdf5", path=data.path, ds_path=data.dataset, nav_shape=data.scan)

    def _udfs(self, job: str, frame: tuple[int, int]) -> list[Any]:
        from libertem.udf.com import CoMUDF
        from libertem.udf.masks import ApplyMasksUDF
        from libertem.udf.stddev import StdDevUDF
        from libertem.udf.sum import SumUDF
        from libertem.udf.sumsigudf import SumSigUDF

        cy, cx = centre(frame)
        com = lambda: CoMUDF.with_params(cy=cy, cx=cx)  # noqa: E731
        disk = lambda: ApplyMasksUDF(mask_factories=[lambda: mask_of("disk", frame)])  # noqa: E731
        made: dict[str, Any] = {
            "disk": lambda: [disk()],
            "annulus": lambda: [ApplyMasksUDF(mask_factories=[lambda: mask_of("annulus", frame)])],
            "mask": lambda: [ApplyMasksUDF(mask_factories=[lambda: mask_of("mask", frame)])],
            "masks16": lambda: [
                ApplyMasksUDF(mask_factories=lambda: mask_of("masks16", frame), mask_count=16, mask_dtype=np.float32, use_sparse=False)
            ],
            "totals": lambda: [SumSigUDF()],
            "sum": lambda: [SumUDF()],
            "variance": lambda: [StdDevUDF()],
            "com": lambda: [com()],
            "trio": lambda: [SumUDF(), disk(), com()],
            "python_frame": lambda: [_nothing()],
        }
        if job not in made:
            raise Absent("not written")
        return made[job]()  # type: ignore[no-any-return]

    def _corrections(self, frame: tuple[int, int]) -> Any:
        import sparse
        from libertem.corrections import CorrectionSet

        dark, gain, dead = corrections_of(frame)
        excluded = sparse.COO(coords=dead.T, shape=frame, data=True)
        return CorrectionSet(dark=dark, gain=gain, excluded_pixels=excluded)

    def _arrays(self, found: Any, job: str, data: Data) -> dict[str, _Arr]:
        by_name = dict(zip({"trio": ["sum", "disk", "com"]}.get(job, [job]), found, strict=True))
        out: dict[str, _Arr] = {}
        if job == "python_frame":
            return out
        for name, results in by_name.items():
            if name in ("disk", "annulus", "mask", "masks16"):
                raw = results["intensity"].data
                out["intensity"] = raw if name == "masks16" else raw[..., 0]
            elif name == "com":
                out["com"] = results["raw_com"].data if "raw_com" in results else results["com"].data
                if "raw_com" in results:
                    out["com"] = out["com"] - np.array(centre(data.frame))
            elif name == "variance":
                out["mean"], out["variance"] = results["mean"].data, results["var"].data
            else:
                out["total" if name == "totals" else "sum"] = results["intensity"].data
        return out


def _nothing() -> Any:
    from libertem.udf import UDF

    class Nothing(UDF):
        def get_result_buffers(self) -> Any:
            return {"none": self.buffer(kind="nav", dtype="int64")}

        def get_backends(self) -> Any:
            return ("numpy",)

        def get_preferred_input_dtype(self) -> Any:
            return self.USE_NATIVE_DTYPE

        def process_frame(self, frame: Any) -> None:
            pass

    return Nothing()


if __name__ == "__main__":
    serve(Libertem(sys.argv[1] if len(sys.argv) > 1 else "threads"))
