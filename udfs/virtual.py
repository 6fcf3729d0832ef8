"""Virtual detectors: weighted sums of each frame."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from libstream.ext import UDF, Array, Kernel, Output, ParameterError, Quantity, ShapeError, UsageError, nav, param
from libstream.udfs.geometry import centre_of, frame_shape, radius_map
from libstream.udfs.kernels import masks as kernels
from libstream.udfs.masks import LARGE, TILE_FRAMES, Form, cheapest
from libstream.udfs.sums import is_narrow, sum_dtype

_Arr = np.ndarray[Any, Any]


class VirtualDetector(UDF):
    """Intensity that a detector of any shape would have recorded at each scan position: `sum(mask * frame)`.

    Bright field, annular dark field and so on after the measurement, as in 4D-STEM reviewed by C. Ophus, Microscopy and
    Microanalysis 25, 563 (2019), doi:10.1017/S1431927619000497.

    Shapes, around `centre` (y, x); r is the distance of a pixel's centre from it, pixel (0, 0) has its centre at 0.0:

    annulus (default): inner <= r < outer; `outer=None` reaches to the corners.
    disk: r < outer. point: the one pixel nearest to the centre.
    rectangle: -height / 2 <= y < height / 2 and -width / 2 <= x < width / 2 from the centre; None = the whole frame.
    sector: annulus with start <= angle < stop of `angles` in degrees, anticlockwise from the +x axis as the frame is shown
        (y downwards), modulo 360.
    mask: weights of the frame's shape, real or complex, or several: (n, *frame shape). `mask=` alone is enough. The only shape
        for spectra (frames of one axis).

    Outputs:

    intensity: scan shape, (*scan, n) for several masks, in the unit of the detector (counts). For integer frames and binary
        masks (shapes; bool; integers that are 0 or 1) exact: uint64, int64 for signed frames (float64, exact up to 2^53, for
        64-bit frames whose sum may not fit). For other masks float64, complex128 for complex ones; all sums in float64, whose
        last bits depend on whether a frame was alone in its tile.

    Pixels of weight 0 do not count, even where they hold NaN. Corrections are folded into the weights (float64 then).
    """

    shape: Literal["annulus", "disk", "point", "rectangle", "sector", "mask"] = param("annulus", title="Shape")
    centre: tuple[float, float] | None = param(
        None, unit="px", title="Centre (y, x)", help="default: the source's, else the middle of the frame"
    )
    inner: Quantity = param(0.0, ge=0, unit="px", title="Inner radius")
    outer: Quantity | None = param(None, gt=0, unit="px", title="Outer radius", help="default: to the corners")
    width: Quantity | None = param(None, gt=0, unit="px", title="Width (x)", help="of the rectangle")
    height: Quantity | None = param(None, gt=0, unit="px", title="Height (y)", help="of the rectangle")
    angles: tuple[float, float] = param((0.0, 360.0), unit="deg", title="Angles (start, stop)", help="of the sector")
    mask: Array | None = param(None, title="Weights", help="array of the frame's shape, or several of them")

    folds_corrections = True
    process_tile = kernels.add_runs_narrow

    @property
    def tile_cost(self) -> float:
        return {"runs": 0.5, "bits": 0.5, "pixels": 0.1, "each": 2.5, "many": 10.0}[self._form.name]

    @property
    def tile_frames(self) -> int:  # type: ignore[override]
        return TILE_FRAMES if self._form.name == "many" and self._form.weights.nbytes > LARGE else 1

    def outputs(self) -> Mapping[str, Output]:
        many = self.mask is not None and self.mask.ndim > len(self.meta.shape.sig)
        if many:
            return {"intensity": nav(self._dtype, (len(self.masks),), axes=("mask",), title="Intensity")}
        return {"intensity": nav(self._dtype, title="Intensity")}

    def hook(self) -> Kernel:
        narrow = is_narrow(self.meta.dtype)
        real = self.meta.dtype.kind == "f"
        choice: dict[str, Kernel] = {
            "runs": kernels.add_runs_narrow if narrow else kernels.add_runs_float if self._dtype.kind == "f" else kernels.add_runs_wide,
            "bits": kernels.add_bits_narrow if narrow else kernels.add_bits_wide,
            "pixels": kernels.add_pixels,
            "each": kernels.weigh_each_float if real else kernels.weigh_each,
            "many": kernels.weigh_many_float if real else kernels.weigh_many,
        }
        return choice[self._form.name]

    @classmethod
    def examples(cls, sig: tuple[int, ...]) -> Sequence[UDF]:
        ramp = np.linspace(1, 2, int(np.prod(sig))).reshape(sig)
        masks = (Array(ramp), Array(np.stack([ramp] * 4)))
        return (cls(), cls(outer=Quantity(min(sig) / 3)), cls(shape="point"), *(cls(mask=m) for m in masks))

    # -- constants -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def masks(self) -> _Arr:
        """The masks as one array (n, *frame shape): bool, float64 or complex128."""
        sig = self.meta.shape.sig
        if self.meta.dtype.kind not in "biuf":
            raise UsageError(f"VirtualDetector needs real frames, the frames of this source are {self.meta.dtype}")
        if self.mask is None:
            if self.shape == "mask":
                raise ParameterError("VirtualDetector: shape='mask' needs mask=, an array of the frame's shape")
            return self._drawn()[None]
        if self.shape not in ("mask", "annulus") or self.outer is not None or self.inner:
            raise ParameterError(f"VirtualDetector: mask= and shape={self.shape!r} or its radii were given; give one of them")
        mask = self.mask.data
        if mask.shape != sig and (mask.shape[1:] != sig or not len(mask)):
            several = ", ".join(["n", *map(str, sig)])
            raise ShapeError(f"VirtualDetector: mask has shape {mask.shape}, the frame has {sig}; expected {sig} or ({several})")
        if mask.dtype.kind not in "biufc":
            raise ParameterError(f"VirtualDetector: mask must hold numbers, got dtype {mask.dtype}")
        if not np.isfinite(mask).all():
            raise ParameterError("VirtualDetector: mask holds values that are not finite; use weight 0 for pixels that do not count")
        mask = mask.reshape(-1, *sig)
        if mask.dtype.kind in "iu" and ((mask == 0) | (mask == 1)).all():
            mask = mask.astype(bool)
        return mask if mask.dtype.kind == "b" else mask.astype(np.complex128 if mask.dtype.kind == "c" else np.float64)

    @functools.cached_property
    def segments(self) -> _Arr:
        """For this and the following see `libstream.udfs.masks.Form`."""
        return self._form.segments

    @functools.cached_property
    def firsts(self) -> _Arr:
        return self._form.firsts

    @functools.cached_property
    def row_size(self) -> int:
        return self.meta.shape.frame_size // max(1, self.meta.shape.sig[0])

    @functools.cached_property
    def bits(self) -> _Arr:
        return self._form.bits

    @functools.cached_property
    def pixels(self) -> _Arr:
        return self._form.pixels

    @functools.cached_property
    def starts(self) -> _Arr:
        return self._form.starts

    @functools.cached_property
    def values(self) -> _Arr:
        return self._form.values

    @functools.cached_property
    def weights(self) -> _Arr:
        return self._form.weights

    @functools.cached_property
    def units(self) -> _Arr:
        return self._form.units

    @functools.cached_property
    def offsets(self) -> _Arr:
        return self._form.offsets

    @functools.cached_property
    def _form(self) -> Form:
        return cheapest(self.masks, self.meta, self._dtype)

    @property
    def _dtype(self) -> np.dtype[Any]:
        kind = self.masks.dtype.kind
        if kind == "b" and self.meta.dtype.kind in "biu" and self.meta.corrections is None:
            return sum_dtype(self.meta.dtype)
        return np.dtype(np.complex128 if kind == "c" else np.float64)

    def _drawn(self) -> _Arr:
        """The mask of a shape, bool (ny, nx)."""
        if len(self.meta.shape.sig) != 2:
            raise UsageError(
                f"VirtualDetector: shape={self.shape!r} needs frames with two axes (y, x), the frames of this source have shape "
                f"{self.meta.shape.sig}; give mask="
            )
        ny, nx = frame_shape(self)
        inner, outer = float(self.inner), np.inf if self.outer is None else float(self.outer)  # type: ignore[arg-type]  # bound: px
        if inner < 0 or outer <= inner:
            raise ParameterError(f"VirtualDetector: radii must be 0 <= inner < outer, got inner={inner:g}, outer={outer:g} px")
        if inner and self.shape in ("disk", "point", "rectangle"):
            raise ParameterError(f"VirtualDetector: a {self.shape} has no inner radius, got inner={inner:g}; an annulus has")
        cy, cx = centre_of(self, self.centre)
        y, x = np.arange(ny)[:, None] - cy, np.arange(nx)[None, :] - cx
        if self.shape == "point":
            drawn = (np.arange(ny)[:, None] == np.floor(cy + 0.5)) & (np.arange(nx)[None, :] == np.floor(cx + 0.5))
        elif self.shape == "rectangle":
            drawn = _within(y, self.height) & _within(x, self.width)
        else:
            r = radius_map((ny, nx), (cy, cx))
            drawn = (r >= inner) & (r < outer)
            if self.shape == "sector":
                start, stop = self.angles
                if not stop > start:
                    raise ParameterError(f"VirtualDetector: angles must be (start, stop) with start < stop, got {self.angles}")
                drawn &= (np.degrees(np.arctan2(-y, x)) - start) % 360 < stop - start
        if not drawn.any():
            raise ParameterError(
                f"VirtualDetector: no pixel of the frame {(ny, nx)} is in this {self.shape} around (y, x) = ({cy:g}, {cx:g})"
            )
        return drawn


def _within(distance: _Arr, size: Any) -> _Arr:
    return np.ones_like(distance, bool) if size is None else (distance >= -float(size) / 2) & (distance < float(size) / 2)
