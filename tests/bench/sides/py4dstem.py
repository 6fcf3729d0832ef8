"""py4DSTEM on the mapped file. Its centre of mass copies the data to float32 several times, so it gets a quarter of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.bench.sides.numpy import frames_of
from tests.bench.sides.serve import Absent, Side, Step, serve
from tests.bench.spec import RADIUS, RING, Data, centre, mask_of

_Arr = np.ndarray[Any, Any]


class Py4dstem(Side):
    """A `DataCube` over the mapping."""

    def versions(self) -> dict[str, str]:
        import py4DSTEM

        return {"py4DSTEM": py4DSTEM.__version__, "numpy": np.__version__}

    def share(self, data: Data, job: str) -> float:
        return 0.25 if job == "com" else 1.0

    def step(self, data: Data, job: str, variant: str) -> Step:
        from py4DSTEM import DataCube

        if variant != "plain" or job not in ("disk", "annulus", "mask", "sum", "com"):
            raise Absent("py4DSTEM has no such function")
        array = frames_of(data)
        cy, cx = centre(data.frame)
        width = data.frame[1]
        cube = DataCube(data=array[: data.scan[0] // 4] if job == "com" else array)
        if job == "sum":
            return lambda: {"sum": np.asarray(cube.get_dp_mean().data) * data.n_frames}
        if job == "com":
            return lambda: {"com": _com(cube)}
        mode, geometry = {
            "disk": ("circle", ((cy, cx), RADIUS * width)),
            "annulus": ("annulus", ((cy, cx), (RING[0] * width, RING[1] * width))),
            "mask": ("mask", mask_of("mask", data.frame)),
        }[job]
        return lambda: {"intensity": np.asarray(cube.get_virtual_image(mode, geometry, verbose=False).data)}


def _com(cube: Any) -> _Arr:
    from py4DSTEM.process.phase import DPC

    dpc = DPC(datacube=cube, energy=300e3, verbose=False)
    dpc.preprocess(plot_center_of_mass=False, plot_rotation=False, force_com_rotation=0.0, force_com_transpose=False)
    # it counts from the corner of the frame
    return np.stack([np.asarray(dpc._com_measured_x), np.asarray(dpc._com_measured_y)], axis=-1) - np.array(centre(cube.shape[2:]))


if __name__ == "__main__":
    serve(Py4dstem())
