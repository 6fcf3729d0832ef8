"""What is known of a data source before a frame is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from libstream.errors import ShapeError
from libstream.model.corrections import Corrections
from libstream.model.shape import DataShape


@dataclass(frozen=True)
class Axis:
    """One axis: value of index i is `offset + i * step`, in `unit` ("px" where uncalibrated)."""

    name: str
    size: int
    step: float = 1.0
    offset: float = 0.0
    unit: str = "px"

    @property
    def calibrated(self) -> bool:
        """True where the unit is a physical one."""
        return self.unit != "px"


@dataclass(frozen=True)
class SourceId:
    """Identity of the data: where it is and what it was when it was opened.

    fingerprint: hex digest (size + sha256 of head, tail and 64 spread blocks), "" where there is none.
    """

    uri: str
    kind: str
    n_bytes: int
    fingerprint: str = ""


@dataclass(frozen=True)
class SourceMeta:
    """Complete description of a source.

    axes: one `Axis` for each nav axis, then each sig axis.
    sync_offset: position p holds frame p + sync_offset; positions without a frame stay unseen.
    n_frames: frames that the source holds.
    channels: names of the channels; the first is the default.
    centre: (y, x) of the optical axis in px, None = middle of the frame ((ny - 1) / 2, (nx - 1) / 2).
    rotation_deg: rotation of the scan against the detector, anticlockwise, in degrees, None = unknown.
    vendor: metadata as the file gives it.
    notes: sentences for the user about what was assumed or is missing.
    """

    id: SourceId
    shape: DataShape
    dtype: np.dtype[Any]
    axes: tuple[Axis, ...] = ()
    n_frames: int = -1
    sync_offset: int = 0
    channels: tuple[str, ...] = ("frames",)
    centre: tuple[float, float] | None = None
    rotation_deg: float | None = None
    vendor: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype).newbyteorder("="))
        if self.n_frames < 0:
            object.__setattr__(self, "n_frames", self.shape.n_positions)
        if not self.axes:
            object.__setattr__(self, "axes", default_axes(self.shape))
        n_axes = len(self.shape.nav) + len(self.shape.sig)
        if len(self.axes) != n_axes:
            raise ShapeError(f"{len(self.axes)} axes were given for shape {self.shape}, expected {n_axes}")

    @property
    def nav_axes(self) -> tuple[Axis, ...]:
        """Axes of the scan."""
        return self.axes[: len(self.shape.nav)]

    @property
    def sig_axes(self) -> tuple[Axis, ...]:
        """Axes of the frame."""
        return self.axes[len(self.shape.nav) :]

    @property
    def n_bytes(self) -> int:
        """Size of all frames in memory, in bytes."""
        return self.shape.n_positions * self.shape.frame_size * self.dtype.itemsize

    def with_(self, **changes: Any) -> SourceMeta:
        """A copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class RunMeta:
    """What a bound UDF sees as `self.meta`: the source as this run reads it.

    dtype: of the tiles that this UDF gets (after its cast and the corrections).
    source_dtype: of the detector.
    roi: bool array of the scan's shape, True where positions are processed; None = all.
    corrections: those a UDF has to fold into its constants itself (`folds_corrections`), else None.
    max_frames: most frames that any accumulator of the whole run can see.
    """

    shape: DataShape
    dtype: np.dtype[Any]
    axes: tuple[Axis, ...]
    source_dtype: np.dtype[Any]
    roi: np.ndarray[Any, Any] | None = None
    corrections: Corrections | None = None
    max_frames: int = 0
    centre: tuple[float, float] | None = None
    rotation_deg: float | None = None

    @property
    def nav_axes(self) -> tuple[Axis, ...]:
        """Axes of the scan."""
        return self.axes[: len(self.shape.nav)]

    @property
    def sig_axes(self) -> tuple[Axis, ...]:
        """Axes of the frame."""
        return self.axes[len(self.shape.nav) :]


def default_axes(shape: DataShape) -> tuple[Axis, ...]:
    """Uncalibrated axes with the usual names."""
    nav_names = {0: (), 1: ("frame",), 2: ("y", "x"), 3: ("t", "y", "x")}
    nav = nav_names.get(len(shape.nav), tuple(f"scan_{i}" for i in range(len(shape.nav))))
    sig = ("ky", "kx") if len(shape.sig) == 2 else ("channel",)
    return tuple(Axis(n, s) for n, s in zip((*nav, *sig), (*shape.nav, *shape.sig), strict=True))
