"""Shapes and ranges. Numpy order everywhere: slow axis first, always (y, x)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from libstream.errors import ShapeError


def _checked(name: str, sizes: tuple[int, ...]) -> tuple[int, ...]:
    out = tuple(int(s) for s in sizes)
    if any(s < 0 for s in out):
        raise ShapeError(f"{name} shape {out} has a negative size")
    return out


@dataclass(frozen=True)
class DataShape:
    """Shape of a data set: `nav` (scan) axes, then `sig` (frame) axes.

    nav: () for one frame, (n,) for a stack, (y, x) for a scan, (t, y, x) for a series.
    sig: (y, x) for images, (channels,) for spectra.
    """

    nav: tuple[int, ...]
    sig: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "nav", _checked("scan", self.nav))
        object.__setattr__(self, "sig", _checked("frame", self.sig))
        if len(self.sig) not in (1, 2):
            raise ShapeError(f"a frame has 1 or 2 axes, got {len(self.sig)}: {self.sig}")

    @property
    def n_positions(self) -> int:
        """Number of scan positions (1 for a single frame)."""
        return math.prod(self.nav)

    @property
    def frame_size(self) -> int:
        """Pixels of one frame."""
        return math.prod(self.sig)

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.nav))} | {', '.join(map(str, self.sig))})"


@dataclass(frozen=True, order=True)
class Span:
    """Half-open range [start, stop) of flat scan positions or frame numbers."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.start < 0:
            raise ShapeError(f"Span starts at {self.start}, before 0")
        if self.stop < self.start:
            raise ShapeError(f"Span stops at {self.stop} before it starts at {self.start}")

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Region:
    """A band of whole rows of the frame: `origin` (y, x) and `shape`, in px. x always starts at 0.

    Bands of whole rows keep every cut of a frame contiguous in memory, so kernels need one form only.
    """

    origin: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def rows(self) -> slice:
        """Rows of the frame (its first axis) covered by the region."""
        return slice(self.origin[0], self.origin[0] + self.shape[0])

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of the region within a frame."""
        return tuple(slice(o, o + n) for o, n in zip(self.origin, self.shape, strict=True))

    @classmethod
    def whole(cls, sig: tuple[int, ...]) -> Region:
        """The region that is the whole frame."""
        return cls((0,) * len(sig), tuple(sig))
