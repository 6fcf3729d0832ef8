"""libstream through its public API: `ls.run` on an opened file. `python -m tests.bench.sides.libstream [threads]`"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np

import libstream as ls
from tests.bench.sides import own
from tests.bench.sides.serve import Side, Step, serve
from tests.bench.spec import RADIUS, RING, Data, corrections_of, mask_of, roi_of

_Arr = np.ndarray[Any, Any]


def open_data(data: Data) -> Any:
    """The file as a user opens it."""
    if data.kind == "raw":
        return ls.open(data.path, format="raw", dtype=data.dtype, frame=data.frame, scan=data.scan)
    if data.kind == "npy":
        return ls.open(data.path)
    return ls.open(data.path, scan=data.scan)


def corrections(frame: tuple[int, int]) -> Any:
    """The dark frame, gain and dead pixels of the variant "corrected"."""
    dark, gain, dead = corrections_of(frame)
    bad = np.zeros(frame, bool)
    bad[tuple(dead.T)] = True
    return ls.Corrections(dark=dark, gain=gain, excluded=bad)


def udfs_of(job: str, frame: tuple[int, int]) -> list[Any]:
    """The UDFs of a job."""
    if job in own.UDFS:
        return [own.UDFS[job](frame)]
    width, udfs = frame[1], ls.udfs
    return {
        "disk": lambda: [udfs.VirtualDetector(outer=RADIUS * width)],
        "annulus": lambda: [udfs.VirtualDetector(inner=RING[0] * width, outer=RING[1] * width)],
        "mask": lambda: [udfs.VirtualDetector(mask=mask_of("mask", frame))],
        "masks16": lambda: [udfs.VirtualDetector(mask=mask_of("masks16", frame))],
        "totals": lambda: [udfs.FrameTotals()],
        "sum": lambda: [udfs.Sum()],
        "variance": lambda: [udfs.Variance()],
        "com": lambda: [udfs.CenterOfMass()],
        "trio": lambda: [udfs.Sum(), udfs.VirtualDetector(outer=RADIUS * width), udfs.CenterOfMass()],
    }[job]()


class Libstream(Side):
    """executor: a name, or ("threads", number)."""

    def __init__(self, executor: Any = "threads") -> None:
        self.executor = executor
        self.source: Any = None
        self.held = ""

    def versions(self) -> dict[str, str]:
        import numba

        return {"libstream": ls.__version__, "numba": numba.__version__, "numpy": np.__version__}

    def step(self, data: Data, job: str, variant: str) -> Step:
        if self.held != data.path:
            self.source, self.held = open_data(data), data.path
        if job == "pick":
            return self._pick(data)
        udfs = udfs_of(job, data.frame)
        options: dict[str, Any] = {"executor": self.executor}
        roi = roi_of(variant, data.scan)
        if roi is not None:
            options["roi"] = roi
        if variant == "corrected":
            options["corrections"] = corrections(data.frame)

        def step() -> dict[str, _Arr]:
            result = ls.run(self.source, udfs, **options)
            return {name: array for outputs in result.values() for name, array in outputs.items()}

        return step

    def _pick(self, data: Data) -> Step:
        places = itertools.cycle(np.random.default_rng(1).integers(0, data.n_frames, 100).tolist())

        def step() -> dict[str, _Arr]:
            found = ls.run(self.source, ls.udfs.Pick(positions=[at := next(places)]), roi=only(at, data.scan), executor=self.executor)
            return {"frame": found["frames"][0]}

        return step


def only(flat: int, scan: tuple[int, int]) -> _Arr:
    """Bool (y, x): one position."""
    roi = np.zeros(scan, bool)
    roi.reshape(-1)[flat] = True
    return roi


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with ls.executor("threads", workers=int(sys.argv[1])) as executor:
            serve(Libstream(executor))
    else:
        serve(Libstream())
