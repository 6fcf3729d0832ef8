"""Local maxima of each frame: spots, single electrons, photons."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from libstream.ext import UDF, Output, Quantity, param, ragged
from libstream.udfs.geometry import frame_shape
from libstream.udfs.kernels.peaks import local_maxima


class LocalMaxima(UDF):
    """Pixels that are brighter than their eight neighbours and than a threshold, at least a distance apart.

    A pixel counts where its value is above `threshold` and strictly above each neighbour (fewer at the border of the frame), so
    plateaus of equal pixels, and pixels beside NaN, give none. From the brightest on (equal ones in the order of y, then x), a maximum
    is kept where no kept one is closer than `min_distance` (centre to centre); then the brightest `max_peaks` are taken.

    Output:

    peaks: ragged records (y, x: int32 in px; value: the frame's dtype), brightest first at each position.
    """

    threshold: float = param(0.0, title="Threshold", help="maxima must be above it")
    min_distance: Quantity = param(1.0, ge=0, unit="px", title="Least distance")
    edge: int = param(0, ge=0, unit="px", title="Margin", help="pixels along the border that are left out")
    max_peaks: int = param(0, ge=0, title="Most peaks of a frame", help="0: all")

    process_frame = local_maxima

    @functools.cached_property
    def distance(self) -> float:
        """Least distance in px."""
        return float(self.min_distance)  # type: ignore[arg-type]  # bound: px

    def outputs(self) -> Mapping[str, Output]:
        frame_shape(self)
        record = np.dtype([("y", "i4"), ("x", "i4"), ("value", self.meta.dtype)])
        return {"peaks": ragged(record, title="Local maxima")}
