"""Centre of mass of each frame, and the field of deflections made of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from libstream.ext import UDF, Coverage, Kernel, Output, Quantity, default_fill, nav, param, single
from libstream.udfs.deflection import RotationEstimate, components, curl, divergence, estimate_rotation, fit_descan, turned
from libstream.udfs.geometry import centre_of, exact_sum_dtype, frame_shape, narrow_sum_dtype, ring, row_runs, row_spans
from libstream.udfs.kernels.moments import corrected_moments, run_moments, whole_moments

__all__ = ["CenterOfMass", "RotationEstimate", "estimate_rotation"]


class CenterOfMass(UDF):
    """First moment of the intensity of each frame, and the field of beam deflections.

    For each scan position `com = sum(r I) / sum(I) - centre` over the pixels r = (y, x) with inner <= |r - centre| < radius.
    In a thin specimen it is the mean momentum transfer, so proportional to the gradient of the projected potential
    (K. Mueller et al., Nature Communications 5, 5653 (2014), doi:10.1038/ncomms6653).

    Outputs (components always in the order (y, x); NaN where a position was not processed or has no counts, i.e. sum(I) <= 0):

    total: sum of I in the ring; exact uint64 or int64 for integer frames.
    com: px from the centre, (*scan, 2).
    field: `com` minus the descan fit, mirrored and turned onto the axes of the scan, (*scan, 2); in the unit of the frame's axes
        where these are calibrated alike, else px. magnitude: its length.
    divergence, curl: of `field` per scan step (per unit of the scan's axes where these are calibrated alike), by central
        differences, one-sided beside edges and missing positions; scans of two axes and more.
    regression: (6, 2) coefficients of the descan fit in px: rows 1, y, x, y^2, y x, x^2 of the scan indices.
    rotation_estimate: (rotation in degrees, flip_y as 0 or 1, residual curl, residual curl with the other flip_y); see
        `estimate_rotation`. It does not depend on scan_rotation_deg and flip_y.

    Sums of integers are exact: uint64 (int64 for signed frames) wherever (largest value of the dtype) x ny nx (max(ny, nx) - 1) / 2
    fits, i.e. up to 2048 x 2048 for uint32. Beyond that, and for float frames, sums are float64. With corrections the corrected
    pixels are float32 where that holds the detector's values (else float64), summed in float64 over blocks of 8 rows.
    """

    centre: tuple[float, float] | None = param(
        None, unit="px", title="Centre (y, x)", help="default: the source's, else the middle of the frame"
    )
    radius: Quantity | None = param(None, gt=0, unit="px", title="Outer radius", help="default: the whole frame")
    inner: Quantity = param(0.0, ge=0, unit="px", title="Inner radius")
    descan: Literal["none", "mean", "plane", "parabola"] = param(
        "none", title="Descan fit", help="subtracted from com before field is made"
    )
    scan_rotation_deg: float | None = param(None, unit="deg", title="Scan rotation", help="default: the source's, else 0")
    flip_y: bool = param(False, title="Mirror the detector's y axis")

    process_tile = whole_moments
    folds_corrections: ClassVar[bool] = True

    @property
    def tile_cost(self) -> float:
        return 1.6

    def hook(self) -> Kernel:
        """Over whole frames, over runs of the ring's pixels, or with corrections in the same pass."""
        if self.meta.corrections is not None:
            return corrected_moments
        return whole_moments if self.radius is None and not self.inner else run_moments

    @functools.cached_property
    def origin(self) -> tuple[float, float]:
        """Centre (y, x) in px."""
        return centre_of(self, self.centre)

    @functools.cached_property
    def mask(self) -> Any:
        """Pixels in the ring; bool (ny, nx)."""
        return ring(self, self.origin, self.inner, self.radius)  # type: ignore[arg-type]  # bound: px

    @functools.cached_property
    def segments(self) -> Any:
        """Runs of pixels in the ring, by rows."""
        return row_runs(self.mask)

    @functools.cached_property
    def gain(self) -> Any:
        """Gain of the pixels that count, 0 at others; float32 where that holds the detector's values, else float64."""
        c, dtype = self.meta.corrections, np.float32 if np.can_cast(self.meta.dtype, np.float32) else np.float64
        gain = np.ones(frame_shape(self)) if c is None or c.gain is None else c.gain
        good = self.mask if c is None or c.excluded is None else self.mask & ~c.excluded
        return np.where(good, gain, 0).astype(dtype)

    @functools.cached_property
    def dark(self) -> Any:
        """Dark frame in the dtype of `gain`."""
        c = self.meta.corrections
        return (np.zeros(frame_shape(self)) if c is None or c.dark is None else c.dark).astype(self.gain.dtype)

    @functools.cached_property
    def spans(self) -> Any:
        """Part [start, stop) of each row that counts; int64 (ny, 2)."""
        return row_spans(self.gain != 0)

    @functools.cached_property
    def near(self) -> Any:
        """(y, x) of each good neighbour of an excluded pixel in the ring, and (y, x) of that pixel; int64 (n, 4)."""
        return self._repairs[0]

    @functools.cached_property
    def near_weights(self) -> Any:
        """Dark and gain of each such neighbour, and its share in the pixel; float64 (n, 3)."""
        return self._repairs[1]

    @functools.cached_property
    def _repairs(self) -> tuple[Any, Any]:
        c, (ny, nx) = self.meta.corrections, frame_shape(self)
        if c is None or c.excluded is None:
            return np.zeros((0, 4), np.int64), np.zeros((0, 3))
        bad, offsets, good = c.repair
        counts = np.diff(offsets)
        to = np.repeat(bad, counts)
        dark, gain = (np.full(ny * nx, v) if a is None else a.reshape(-1) for a, v in ((c.dark, 0.0), (c.gain, 1.0)))
        counted = self.mask.reshape(-1)[to]
        where = np.stack([good // nx, good % nx, to // nx, to % nx], axis=1).astype(np.int64)
        weights = np.stack([dark[good], gain[good], np.repeat(1 / np.maximum(counts, 1), counts)], axis=1)
        return where[counted], weights[counted]

    @functools.cached_property
    def narrow(self) -> Any:
        """Empty array of the dtype for sums along one row or column."""
        return np.zeros(0, narrow_sum_dtype(self.meta.dtype, max(frame_shape(self)), self._sums))

    @property
    def _sums(self) -> np.dtype[Any]:
        if self.meta.corrections is not None:
            return np.dtype(np.float64)
        ny, nx = frame_shape(self)
        return exact_sum_dtype(self.meta.dtype, max(1, ny * nx * (max(ny, nx) - 1) // 2, ny * nx))

    @property
    def _scale(self) -> tuple[tuple[float, float], str]:
        """Size of a pixel along (y, x), and its unit."""
        y, x = self.meta.sig_axes
        return ((y.step, x.step), y.unit) if y.calibrated and y.unit == x.unit else ((1.0, 1.0), "px")

    @property
    def _scan_steps(self) -> tuple[tuple[float, float], str]:
        y, x = self.meta.nav_axes[-2:]
        return ((y.step, x.step), y.unit) if y.calibrated and y.unit == x.unit else ((1.0, 1.0), "step")

    def outputs(self) -> Mapping[str, Output]:
        frame_shape(self)
        unit = self._scale[1]
        yx = ("y_x",)
        out = {
            "moments": nav(self._sums, (3,), private=True),
            "total": nav(self._sums, derived=True, title="Sum of intensity"),
            "com": nav("f8", (2,), unit="px", axes=yx, derived=True, title="Centre of mass"),
            "field": nav("f8", (2,), unit=unit, axes=yx, derived=True, title="Deflection"),
            "magnitude": nav("f8", unit=unit, derived=True, title="Length of the deflection"),
        }
        if len(self.meta.shape.nav) >= 2:
            per_step = f"{unit}/{self._scan_steps[1]}"
            out["divergence"] = nav("f8", unit=per_step, derived=True, title="Divergence of the deflection")
            out["curl"] = nav("f8", unit=per_step, derived=True, title="Curl of the deflection")
            out["rotation_estimate"] = single("f8", (4,), derived=True, title="Scan rotation with least curl")
        out["regression"] = single("f8", (6, 2), unit="px", derived=True, title="Descan fit")
        return out

    def finish(self, results: dict[str, Any], coverage: Coverage) -> Mapping[str, Any]:
        moments, valid = results["moments"], coverage.valid
        total = moments[..., 0]
        com = components(valid.shape)
        with np.errstate(invalid="ignore", over="ignore"):  # frames that hold inf
            weight = np.where(valid & (total > 0), total, np.nan)
            for i, origin in enumerate(self.origin):
                com[..., i] = moments[..., i + 1] / weight - origin
        com[~(np.isfinite(com[..., 0]) & np.isfinite(com[..., 1]))] = np.nan
        coefficients, fitted = fit_descan(com, self.descan)
        straight = (com - fitted) * self._scale[0]
        rotation = self.scan_rotation_deg if self.scan_rotation_deg is not None else self.meta.rotation_deg or 0.0
        field = turned(straight, rotation, self.flip_y)
        out = {
            "total": np.where(valid, total, default_fill(total.dtype)),
            "com": com,
            "field": field,
            "magnitude": np.hypot(field[..., 0], field[..., 1]),
            "regression": coefficients,
        }
        if valid.ndim >= 2:
            steps = self._scan_steps[0]
            r = estimate_rotation(straight, steps)
            out["divergence"], out["curl"] = divergence(field, steps), curl(field, steps)
            out["rotation_estimate"] = np.array([r.rotation_deg, float(r.flip_y), r.residual, r.residual_other])
        return out
