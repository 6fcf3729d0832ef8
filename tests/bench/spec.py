"""What is measured: data sets, jobs, their inputs, and the figures to reach. NumPy only: every side imports this."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

_Arr = np.ndarray[Any, Any]

RADIUS = 0.235
"""Radius of the disk in frame widths: 60 px of 256."""
RING = (0.235, 0.39)
"""Radii of the annulus: 60 and 100 px of 256."""


@dataclass(frozen=True)
class Data:
    """One file. kind: "raw", "npy", "mib" or "dectris"; dataset: place of the frames in an HDF5 file."""

    name: str
    kind: str
    path: str
    dtype: str
    scan: tuple[int, int]
    frame: tuple[int, int]
    dataset: str = ""

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.scan[0] * self.scan[1]

    @property
    def n_bytes(self) -> int:
        """Bytes of all frames as decoded."""
        return self.n_frames * self.frame[0] * self.frame[1] * np.dtype(self.dtype).itemsize

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Data:
        """From JSON."""
        return cls(**{**fields, "scan": tuple(fields["scan"]), "frame": tuple(fields["frame"])})


@dataclass(frozen=True)
class Job:
    """One row of the table. limit, peer: ratios to reach, to the read limit and to LiberTEM's threads; None = only reported.

    outputs: names of arrays that every side hands over for comparison.
    """

    name: str
    title: str
    outputs: tuple[str, ...]
    limit: float | None
    peer: float | None


JOBS = {
    job.name: job
    for job in (
        Job("disk", "disk detector", ("intensity",), 1.2, 8),
        Job("annulus", "annulus", ("intensity",), 1.2, 8),
        Job("mask", "one float mask", ("intensity",), 0.6, 4),
        Job("masks16", "16 arbitrary masks", ("intensity",), None, 3),
        Job("totals", "frame totals", ("total",), 0.95, 6),
        Job("sum", "sum frame", ("sum",), 0.85, 6),
        Job("variance", "mean + variance, exact", ("mean", "variance"), 0.6, 5),
        Job("com", "centre of mass", ("com",), 0.8, 7),
        Job("trio", "sum + disk + centre of mass, one pass", ("sum", "intensity", "com"), 0.5, 5),
    )
}
VARIANTS = {
    "plain": "whole scan",
    "random": "random 10 % of the scan",
    "block": "block of 10 % of the scan",
    "corrected": "dark, gain, 10 dead pixels",
}
OWN = {
    "own_frame_disk": ("disk", "own `process_frame` kernel: disk"),
    "own_tile_disk": ("disk", "own `process_tile` kernel: disk"),
    "own_frame_totals": ("totals", "own `process_frame` kernel: frame totals"),
    "own_tile_totals": ("totals", "own `process_tile` kernel: frame totals"),
    "own_frame_sum": ("sum", "own `process_frame` kernel: sum frame"),
    "own_tile_sum": ("sum", "own `process_tile` kernel: sum frame"),
}
"""Jobs of a user's own kernels, as one would write them first: the built-in job that they repeat, and a title."""
HALF = 0.5
"""What a variant must reach of its plain row."""
FACTOR_16 = 6.0
"""16 masks may take this many times the time of one."""
SCALING = 1.7
"""Speed-up from one thread to two, where one thread stays below half of the read limit."""
LEAST_LIMIT = 28.0
"""GB/s: below it the machine was too slow for the ratio to the read limit to decide."""
ANONYMOUS = 300e6
"""Bytes of anonymous memory of all processes of a run."""


def centre(frame: tuple[int, int]) -> tuple[float, float]:
    """Centre (y, x) of a frame in px."""
    return (frame[0] - 1) / 2, (frame[1] - 1) / 2


@functools.cache
def ring(frame: tuple[int, int], inner: float, outer: float) -> _Arr:
    """Bool (y, x): inner <= r < outer in px around the centre."""
    (cy, cx), (y, x) = centre(frame), np.ogrid[: frame[0], : frame[1]]
    r = np.hypot(y - cy, x - cx)
    return (r >= inner) & (r < outer)


def mask_of(job: str, frame: tuple[int, int]) -> _Arr:
    """Mask of `disk` or `annulus` (bool), of `mask` (float32) or `masks16` (float32, 16 of them)."""
    if job == "disk":
        return ring(frame, 0, RADIUS * frame[1])
    if job == "annulus":
        return ring(frame, RING[0] * frame[1], RING[1] * frame[1])
    weights = _weights(frame)
    return weights[0] if job == "mask" else weights


@functools.cache
def _weights(frame: tuple[int, int]) -> _Arr:
    return np.random.default_rng(16).random((16, *frame), np.float32)


@functools.cache
def roi_of(variant: str, scan: tuple[int, int]) -> _Arr | None:
    """Bool (y, x), a tenth of the scan; None for all of it."""
    chosen = np.zeros(scan, bool)
    n = max(1, chosen.size // 10)
    if variant == "random":
        chosen.reshape(-1)[np.random.default_rng(10).choice(chosen.size, n, replace=False)] = True
        return chosen
    if variant == "block":
        side = [max(1, round(s * 0.1**0.5)) for s in scan]
        a = [(s - m) // 2 for s, m in zip(scan, side, strict=True)]
        chosen[a[0] : a[0] + side[0], a[1] : a[1] + side[1]] = True
        return chosen
    return None


@functools.cache
def corrections_of(frame: tuple[int, int]) -> tuple[_Arr, _Arr, _Arr]:
    """dark and gain (float32, frame shape), and 10 dead pixels as int (10, 2): none on the border, none beside another."""
    rng = np.random.default_rng(11)
    dark = rng.normal(1.0, 0.1, frame).astype(np.float32)
    gain = rng.normal(1.0, 0.02, frame).astype(np.float32)
    rows = np.linspace(2, frame[0] - 3, 10).astype(int)
    columns = rng.integers(2, frame[1] - 2, 10)
    return dark, gain, np.stack([rows, columns], axis=1)
