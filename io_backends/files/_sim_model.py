"""The simulated experiment behind `sim://`: what is on the sample, what the beam makes of it, and the noise of counting.

A polycrystalline film with a hole is scanned. Each frame has a bright disk, two shells of Bragg disks (six-fold, turned and weighted by
the grain), and a diffuse background. The disks move with the gradient of a smooth phase object and with a linear descan error.
Every pixel of every frame is drawn from a Poisson distribution by (seed, frame, row, column) alone: in any order and any cut the same.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.ext import kernel

_Arr = np.ndarray[Any, Any]
_LEVELS, _SAMPLES = 256, 4096
_N_GRAINS, _N_BUMPS = 14, 5
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class SimModel:
    """One channel of a simulated experiment.

    nav: shape of the scan, the last two axes are (y, x). sig: shape of a frame (ky, kx) in px. electrons: mean number per frame.
    """

    nav: tuple[int, ...]
    sig: tuple[int, int]
    dtype: np.dtype[Any]
    seed: int
    electrons: float

    @property
    def n_frames(self) -> int:
        """Frames of the scan."""
        return math.prod(self.nav)

    @property
    def disk_radius(self) -> float:
        """Radius of the bright disk [px]."""
        return 0.08 * min(self.sig)

    @property
    def bragg_radius(self) -> float:
        """Distance of the inner shell of Bragg disks from the bright disk [px]."""
        return 0.23 * min(self.sig)

    def fill(self, out: _Arr, first: int, row: int) -> None:
        """Write frames first, first + 1, ... into `out` (n, n_rows, kx), from row `row` of the frame on."""
        height, width = (1, 1, *self.nav)[-2:]
        table, scale = _noise(self._peak, _limit(self.dtype))
        grains, bragg, bumps = self._sample
        geometry = np.array([*self.sig, self.disk_radius, self.bragg_radius, self._disk_level], np.float64)
        _fill.cached(
            out, first, row, height, width, geometry, grains, bragg, bumps, self._background, table, scale, np.uint64(self.seed & _MASK)
        )

    @functools.cached_property
    def _disk_level(self) -> float:
        """Electrons per px of the bright disk in vacuum."""
        return self.electrons / (math.pi * self.disk_radius**2)

    @functools.cached_property
    def _sample(self) -> tuple[_Arr, _Arr, _Arr]:
        """Grains (n, 4): y, x, angle [rad], scattered part; shares of the Bragg disks (n, 12); bumps (n, 4): y, x, width, amplitude [px].

        Lengths on the sample are in units of the longer side of the scan.
        """
        height, width = (1, 1, *self.nav)[-2:]
        sides = np.array([height, width]) / max(height, width)
        u = _uniform(self.seed, _N_GRAINS * 16 + _N_BUMPS * 4)
        rows = u[: _N_GRAINS * 16].reshape(_N_GRAINS, 16)
        grains = np.column_stack([rows[:, :2] * sides, rows[:, 2] * math.pi / 3, 0.25 + 0.35 * rows[:, 3]])
        # strongly excited disks differ from grain to grain: that is what makes grains visible
        bragg = rows[:, 4:] ** 3 * np.repeat([1.0, 0.5], 6)
        bragg /= bragg.sum(axis=1, keepdims=True)
        marks = u[_N_GRAINS * 16 :].reshape(_N_BUMPS, 4)
        amplitude = (marks[:, 3] - 0.5) * 0.12 * min(self.sig) / 4
        bumps = np.column_stack([marks[:, :2] * sides, 0.05 + 0.1 * marks[:, 2], amplitude])
        return np.ascontiguousarray(grains), np.ascontiguousarray(bragg), np.ascontiguousarray(bumps)

    @functools.cached_property
    def _background(self) -> _Arr:
        """Diffuse scattering, float32 (ky, kx); its sum is the number of electrons."""
        y, x = (np.arange(n) - (n - 1) / 2 for n in self.sig)
        r = np.hypot(y[:, np.newaxis], x) / (0.2 * min(self.sig))
        shape = np.exp(-r)
        return (shape * (self.electrons / shape.sum())).astype(np.float32)

    @functools.cached_property
    def _peak(self) -> float:
        """No pixel expects more electrons than this."""
        return 2.5 * self._disk_level + float(self._background.max())

    def __getstate__(self) -> dict[str, Any]:
        return {k: self.__dict__[k] for k in ("nav", "sig", "dtype", "seed", "electrons")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _uniform(seed: int, n: int) -> _Arr:
    """n numbers in [0, 1), the same on every computer and with every version of NumPy (splitmix64)."""
    out = np.empty(n)
    state = seed & _MASK
    for i in range(n):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        out[i] = ((z ^ (z >> 31)) >> 11) * 2.0**-53
    return out


def _limit(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" else 1 << 24


@functools.lru_cache(maxsize=8)
def _noise(peak: float, limit: int) -> tuple[_Arr, float]:
    """Quantiles of Poisson distributions: (levels, samples), and levels per root of the expected value.

    Levels are even in the root of the expected value, as its noise is. Values beyond `limit` are cut: the detector saturates.
    """
    from statistics import NormalDist

    q = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    z = np.array([NormalDist().inv_cdf(v) for v in q])
    scale = (_LEVELS - 1) / math.sqrt(peak)
    table = np.zeros((_LEVELS, _SAMPLES))
    for level in range(1, _LEVELS):
        mean = (level / scale) ** 2
        if mean < 60:
            k = np.arange(int(mean + 10 * math.sqrt(mean) + 20))
            factors = np.concatenate([[1.0], mean / np.arange(1, len(k))])
            table[level] = np.searchsorted(np.cumsum(np.cumprod(factors)) * math.exp(-mean), q)
        else:
            table[level] = np.rint(mean + math.sqrt(mean) * z + (z * z - 1) / 6)  # Cornish-Fisher: the skewness of Poisson
    np.clip(table, 0, limit, out=table)
    return table.astype(np.uint16 if table.max() < 2**16 else np.uint32), scale


@kernel
def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def _fill(out, first, row, height, width, geometry, grains, bragg, bumps, background, table, scale, seed):  # type: ignore[no-untyped-def]
    n_y, n_x, radius, inner, level = geometry
    n, n_rows, n_cols = out.shape
    longer = max(height, width)
    disks = np.empty((13, 3))  # y, x, electrons per px
    expected = np.empty(n_cols, np.float32)
    place = np.empty(n_cols, np.int64)
    top = np.float32(table.shape[0] - 1)
    for i in range(n):
        frame = first + i
        x = ((frame % width) + 0.5) / longer
        y = ((frame // width) % height + 0.5) / longer
        # the grain at this position; a hole in the middle of the scan
        best, grain = 1e30, 0
        for g in range(grains.shape[0]):
            d = (y - grains[g, 0]) ** 2 + (x - grains[g, 1]) ** 2
            if d < best:
                best, grain = d, g
        hole = (y - 0.5 * height / longer) ** 2 + (x - 0.5 * width / longer) ** 2 < 0.0081
        scattered = 0.0 if hole else grains[grain, 3]
        # phase gradient and descan move all disks
        cy = (n_y - 1) / 2 + 0.01 * n_y * (y - 0.5)
        cx = (n_x - 1) / 2 - 0.015 * n_x * (x - 0.5)
        for b in range(bumps.shape[0]):
            dy, dx, s = y - bumps[b, 0], x - bumps[b, 1], bumps[b, 2]
            slope = bumps[b, 3] * np.exp(-(dy * dy + dx * dx) / (2 * s * s)) / s
            cy -= slope * dy
            cx -= slope * dx
        disks[0, 0], disks[0, 1], disks[0, 2] = cy, cx, level * (1 - scattered)
        for j in range(12):
            r = inner if j < 6 else inner * 1.7320508075688772
            a = grains[grain, 2] + (j % 6) * 1.0471975511965976 + (0.0 if j < 6 else 0.5235987755982988)
            disks[j + 1, 0] = cy + r * np.sin(a)
            disks[j + 1, 1] = cx + r * np.cos(a)
            disks[j + 1, 2] = level * scattered * 0.75 * bragg[grain, j]
        diffuse = np.float32(0.25 * scattered)
        for k in range(n_rows):
            line = row + k
            for c in range(n_cols):
                expected[c] = background[line, c] * diffuse
            for j in range(13):
                dy = line - disks[j, 0]
                if abs(dy) >= radius + 0.5 or disks[j, 2] == 0.0:
                    continue
                half = np.sqrt((radius + 0.5) ** 2 - dy * dy)
                for c in range(max(0, int(disks[j, 1] - half)), min(n_cols, int(disks[j, 1] + half) + 2)):
                    dx = c - disks[j, 1]
                    weight = min(1.0, max(0.0, radius + 0.5 - np.sqrt(dy * dy + dx * dx)))  # a soft edge of 1 px
                    expected[c] += np.float32(disks[j, 2] * weight)
            base = _mix(seed + _mix(np.uint64(frame) * np.uint64(0x100000001B3) + np.uint64(line)))
            for c in range(n_cols):
                z = base + np.uint64(c) * np.uint64(0x9E3779B97F4A7C15)
                z = (z ^ (z >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
                z = z ^ (z >> np.uint64(32))
                chance = np.float32(np.int32(z & np.uint64(0xFFFF))) * np.float32(1 / 65536)
                at = min(top, np.sqrt(expected[c]) * np.float32(scale) + chance)
                place[c] = np.int64(np.int32(at)) * table.shape[1] + np.int64((z >> np.uint64(40)) & np.uint64(4095))
            flat = table.reshape(-1)
            for c in range(n_cols):
                out[i, k, c] = flat[place[c]]
