"""Fluctuation electron microscopy: how uneven each frame is in a ring."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from libstream.ext import UDF, Output, Quantity, nav, param
from libstream.udfs.geometry import centre_of, frame_shape, ring
from libstream.udfs.kernels.rings import ring_statistics


class FEM(UDF):
    """Fluctuation of the intensity in a ring of each frame: inner <= r < outer around the centre (y, x).

    An ordered volume scatters into few spots of the ring, a disordered one evenly (M. M. J. Treacy and J. M. Gibson,
    Acta Crystallographica A52, 212 (1996); for nanobeam diffraction T. L. Daulton et al., Ultramicroscopy 110, 1279 (2010),
    doi:10.1016/j.ultramic.2010.05.010).

    Outputs, one value for each position, float64:

    std: standard deviation of the pixels in the ring (divisor: number of pixels). mean: their mean.
    normalised_variance: <I^2> / <I>^2 - 1 = (std / mean)^2; NaN where the mean is 0.

    The variance over positions of the mean in each ring is in `RadialProfile`.
    """

    inner: Quantity = param(0.0, ge=0, unit="px", title="Inner radius")
    outer: Quantity | None = param(None, gt=0, unit="px", title="Outer radius", help="default: the whole frame")
    centre: tuple[float, float] | None = param(
        None, unit="px", title="Centre (y, x)", help="default: the source's, else the middle of the frame"
    )

    process_frame = ring_statistics

    @functools.cached_property
    def pixels(self) -> Any:
        """Flat indices of the pixels in the ring; uint32."""
        mask = ring(self, centre_of(self, self.centre), self.inner, self.outer)  # type: ignore[arg-type]  # bound: px
        return np.flatnonzero(mask).astype(np.uint32)

    def outputs(self) -> Mapping[str, Output]:
        frame_shape(self)
        return {
            "std": nav("f8", title="Standard deviation in the ring"),
            "mean": nav("f8", title="Mean in the ring"),
            "normalised_variance": nav("f8", title="Normalised variance in the ring"),
        }
