"""Radial profile of each frame, with angular Fourier orders."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from libstream.ext import UDF, Coverage, Kernel, Output, ParameterError, Quantity, nav, param, single
from libstream.udfs.geometry import centre_of, exact_sum_dtype, frame_shape, narrow_sum_dtype, radius_map, row_spans
from libstream.udfs.kernels.rings import ring_sums, ring_waves
from libstream.udfs.kernels.shares import ring_shares

_Arr = np.ndarray[Any, Any]

_MOST_RINGS = 1 << 16
_SUBPIXELS = 8


class RadialProfile(UDF):
    """Mean intensity in rings around a centre, and its angular Fourier coefficients.

    Ring k holds the pixels with k * bin_width <= r < min((k + 1) * bin_width, outer), r = distance of the pixel's centre in px.
    With `antialias` a pixel belongs to ring k with the weight w = share of its 8 x 8 sub-pixel centres that lie in the ring;
    else w is 1 or 0.

    Outputs (rings on the last axis; NaN where a position was not processed, or a ring holds no pixel):

    sums: sum(w I) of each ring. Exact uint64 or int64 for integer frames where max_order is 0 and antialias is off (as long as
        (largest value) x (number of pixels) fits), else float64.
    profile: sums / count.
    coefficients: complex128 (*scan, n_rings, max_order + 1), sum(w I exp(-i m theta)) / count for m = 0, 1, ...; with max_order > 0 only.
        theta = atan2(y - cy, x - cx) of the pixel's centre, so from x towards y. Order 0 is `profile`.
    count: sum(w) of each ring. radius: middle of each ring, in the unit of the frame's axes where these are calibrated alike, else px.
    mean_profile: mean of `profile` over the processed positions. normalised_variance: variance of `profile` over them, divided by
        mean_profile^2, as used in fluctuation electron microscopy (T. L. Daulton et al., Ultramicroscopy 110, 1279 (2010),
        doi:10.1016/j.ultramic.2010.05.010, there Omega-bar).
    """

    centre: tuple[float, float] | None = param(
        None, unit="px", title="Centre (y, x)", help="default: the source's, else the middle of the frame"
    )
    bin_width: Quantity = param(1.0, gt=0, unit="px", title="Width of a ring")
    outer: Quantity | None = param(None, gt=0, unit="px", title="Outer radius", help="default: to the nearest edge of the frame")
    max_order: int = param(0, ge=0, le=64, title="Highest Fourier order")
    antialias: bool = param(False, title="Share pixels between rings")

    process_tile = ring_sums

    def hook(self) -> Kernel:
        return ring_waves if self._weighted else ring_sums

    @property
    def _weighted(self) -> bool:
        return self.antialias or self.max_order > 0

    @functools.cached_property
    def origin(self) -> tuple[float, float]:
        """Centre (y, x) in px."""
        return centre_of(self, self.centre)

    @functools.cached_property
    def limit(self) -> float:
        """Outer radius in px."""
        if self.outer is not None:
            outer = float(self.outer)  # type: ignore[arg-type]  # bound: px
        else:
            (ny, nx), (cy, cx) = frame_shape(self), self.origin
            outer = min(cy, ny - 1 - cy, cx, nx - 1 - cx) + 0.5
            if outer <= 0:
                raise ParameterError(
                    f"RadialProfile: the centre (y, x) = ({cy:g}, {cx:g}) is outside of frames of {(ny, nx)}, "
                    "so outer has no default; give outer in px"
                )
        return outer

    @functools.cached_property
    def n_rings(self) -> int:
        """Number of rings."""
        n = max(1, math.ceil(self.limit / self.bin_width - 1e-9))  # type: ignore[operator]  # 0.3 / 0.1 is no more than 3
        if n > _MOST_RINGS:
            raise ParameterError(
                f"RadialProfile: {n} rings of {self.bin_width:g} px up to {self.limit:g} px; at most {_MOST_RINGS} are possible"
            )
        return n

    @functools.cached_property
    def edges(self) -> Any:
        """Limits of the rings in px; float64 (n_rings + 1,)."""
        edges = np.arange(self.n_rings + 1) * float(self.bin_width)  # type: ignore[arg-type]
        edges[-1] = self.limit
        return edges

    def _rings_at(self, r: Any) -> Any:
        return (np.searchsorted(self.edges, r, side="right") - 1).astype(np.uint32)  # n_rings beyond the last edge

    @functools.cached_property
    def ring_of(self) -> Any:
        """Ring of each pixel, n_rings for none; uint32 (ny, nx)."""
        return self._rings_at(radius_map(frame_shape(self), self.origin))

    @functools.cached_property
    def _shares(self) -> tuple[_Arr, _Arr, _Arr]:
        """(where the shares of each flat pixel begin, ring of each share, weight of each share)."""
        ny, nx = shape = frame_shape(self)
        if not self.antialias:
            flat = self.ring_of.reshape(-1)
            inside = flat < self.n_rings
            first = np.concatenate([[0], np.cumsum(inside)]).astype(np.int64)
            return first, flat[inside], np.ones(int(first[-1]))
        first, none = np.empty(ny * nx + 1, np.int64), np.empty(0, np.uint32)
        ring_shares.cached(shape, self.origin, self.edges, _SUBPIXELS, first, none, none)
        rings, hits = np.empty(first[-1], np.uint32), np.empty(first[-1], np.uint32)
        ring_shares.cached(shape, self.origin, self.edges, _SUBPIXELS, first, rings, hits)
        return first, rings, hits / _SUBPIXELS**2

    @functools.cached_property
    def first(self) -> Any:
        """Where the shares of each flat pixel begin, and after the last one end; int64 (ny * nx + 1,)."""
        return self._shares[0]

    @functools.cached_property
    def rings(self) -> Any:
        """Ring of each share; uint32."""
        return self._shares[1]

    @functools.cached_property
    def weights(self) -> Any:
        """Weight of each share; float64."""
        return self._shares[2]

    @functools.cached_property
    def spans(self) -> Any:
        """Part [start, stop) of each row that is in any ring; int64 (ny, 2)."""
        return row_spans((np.diff(self.first) > 0).reshape(frame_shape(self)))

    @functools.cached_property
    def direction(self) -> Any:
        """(cos, sin) of each pixel's angle; float64 (ny, nx, 2)."""
        ny, nx = frame_shape(self)
        theta = np.arctan2((np.arange(ny) - self.origin[0])[:, None], (np.arange(nx) - self.origin[1])[None, :])
        return np.stack([np.cos(theta), np.sin(theta)], axis=-1)

    @functools.cached_property
    def ring_counts(self) -> Any:
        """Sum of weights of each ring; float64 (n_rings,)."""
        return np.bincount(self._shares[1], weights=self._shares[2], minlength=self.n_rings).astype(np.float64)  # int where there is none

    @functools.cached_property
    def narrow(self) -> Any:
        """Empty array of the dtype for the sum of one ring."""
        return np.zeros(0, narrow_sum_dtype(self.meta.dtype, math.prod(frame_shape(self)), self._sums))

    @property
    def _sums(self) -> np.dtype[Any]:
        return np.dtype(np.float64) if self._weighted else exact_sum_dtype(self.meta.dtype, math.prod(frame_shape(self)))

    def outputs(self) -> Mapping[str, Output]:
        frame_shape(self)
        n, ring = self.n_rings, ("ring",)
        y, x = self.meta.sig_axes
        unit = y.unit if y.calibrated and (y.unit, abs(y.step)) == (x.unit, abs(x.step)) else "px"
        out = {
            "sums": nav(self._sums, (n,), axes=ring, title="Sum in rings"),
            "profile": nav("f8", (n,), axes=ring, derived=True, title="Radial profile"),
            "count": single("f8", (n,), axes=ring, derived=True, title="Pixels in rings"),
            "radius": single("f8", (n,), unit=unit, axes=ring, derived=True, title="Radius"),
            "mean_profile": single("f8", (n,), axes=ring, derived=True, title="Mean radial profile"),
            "normalised_variance": single("f8", (n,), axes=ring, derived=True, title="Normalised variance of the profiles"),
        }
        if self._weighted:
            out["waves"] = nav("c16", (n, self.max_order), private=True)
        if self.max_order:
            out["coefficients"] = nav("c16", (n, self.max_order + 1), axes=("ring", "order"), derived=True, title="Fourier coefficients")
        return out

    def finish(self, results: dict[str, Any], coverage: Coverage) -> Mapping[str, Any]:
        valid = coverage.valid
        count = np.where(self.ring_counts > 0, self.ring_counts, np.nan)
        profile = np.full((*valid.shape, self.n_rings), np.nan)
        profile[valid] = results["sums"][valid] / count
        rows = profile[valid]
        rows = rows[np.isfinite(rows[:, np.isfinite(count)]).all(axis=1)]
        mean = rows.mean(axis=0) if len(rows) else np.full(self.n_rings, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = rows.var(axis=0) / mean**2 if len(rows) else mean
        y = self.meta.sig_axes[0]
        px = abs(y.step) if self.outputs()["radius"].unit != "px" else 1.0
        out = {
            "profile": profile,
            "count": self.ring_counts,
            "radius": (self.edges[1:] + self.edges[:-1]) / 2 * px,
            "mean_profile": mean,
            "normalised_variance": variance,
        }
        if self.max_order:
            coefficients = np.full((*valid.shape, self.n_rings, self.max_order + 1), np.nan + 0j)
            coefficients[valid, :, 0] = profile[valid]
            with np.errstate(invalid="ignore"):  # complex numbers divided by NaN warn, others do not
                coefficients[valid, :, 1:] = results["waves"][valid] / count[:, None]
            out["coefficients"] = coefficients
        return out
