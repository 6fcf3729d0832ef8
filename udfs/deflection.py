"""Maps of vectors over a scan: descan, derivatives, rotation of the scan. Plain NumPy, on results.

A map is an array (..., 2) of (y, x) components; the last two axes of the scan are (y, x), a scan of one axis is x alone.
NaN marks positions without a value; they take no part in fits and derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_Arr = np.ndarray[Any, Any]

TERMS = ("1", "y", "x", "y^2", "y x", "x^2")
"""Terms of a descan fit; rows of its coefficients."""
_N_TERMS = {"none": 0, "mean": 1, "plane": 3, "parabola": 6}
DESCAN = tuple(_N_TERMS)
"""Kinds of descan fit."""


@dataclass(frozen=True)
class RotationEstimate:
    """Rotation of the scan against the detector, from a map of deflections.

    rotation_deg: in (-90, 90]; the field turned by 180 degrees has the same curl, so the sign of the field stays open.
    flip_y: True where the detector's y axis is mirrored against the scan. Give both to `CenterOfMass` as
        `scan_rotation_deg` and `flip_y`. (Exchanging y and x is the same as flip_y and a further 90 degrees.)
    residual, residual_other: mean square of the curl that is left, with this flip_y and with the other one.
    """

    rotation_deg: float
    flip_y: bool
    residual: float
    residual_other: float


def components(nav: tuple[int, ...]) -> _Arr:
    """An empty map (*nav, 2), each of whose components is contiguous: arithmetic on them is several times as fast."""
    return np.moveaxis(np.empty((2, *nav)), 0, -1)


def fit_descan(field: _Arr, kind: str) -> tuple[_Arr, _Arr]:
    """Least-squares polynomial in the scan indices through the finite vectors of `field` (..., 2).

    kind: "none", "mean", "plane" (terms 1, y, x) or "parabola" (all `TERMS`). Where there are too few positions for the
    terms, the smallest coefficients that fit are taken.
    Returns (coefficients float64 (6, 2): rows `TERMS`, columns (y, x), terms not in use 0; values at all positions).
    """
    n = _N_TERMS[kind]
    out = np.zeros((6, 2))
    known = np.isfinite(field[..., 0]) & np.isfinite(field[..., 1]) if n else np.zeros(0, bool)
    if not known.any():
        return out, np.zeros_like(field)
    if n == 1:
        out[0] = field[known].mean(axis=0)
        return out, np.broadcast_to(out[0], field.shape)
    nav = field.shape[:-1]
    ny, nx = (*(1,) * (2 - len(nav)), *nav)[-2:]
    (y0, x0), (sy, sx) = ((ny - 1) / 2, (nx - 1) / 2), (max(1.0, (ny - 1) / 2), max(1.0, (nx - 1) / 2))
    # powers 0 to 4 of u = (y - y0) / sy and v = (x - x0) / sx: all sums over the grid are products with these
    u = ((np.arange(ny) - y0) / sy) ** np.arange(5)[:, None]
    v = ((np.arange(nx) - x0) / sx) ** np.arange(5)[:, None]
    weight = known.reshape(-1, ny, nx).sum(axis=0).astype(np.float64)
    sums = u @ weight @ v.T
    p, q = (np.array(powers[:n]) for powers in ((0, 1, 0, 2, 1, 0), (0, 0, 1, 0, 1, 2)))
    right = np.empty((n, 2))
    for i in range(2):
        values = np.where(known, field[..., i], 0.0).reshape(-1, ny, nx).sum(axis=0)
        right[:, i] = (u @ values @ v.T)[p, q]
    c = np.zeros((6, 2))
    c[:n] = np.linalg.lstsq(sums[p[:, None] + p, q[:, None] + q], right, rcond=1e-12)[0]
    fitted = components(nav)
    for i in range(2):
        square = np.zeros((5, 5))
        square[p, q] = c[:n, i]
        fitted[..., i] = (u.T @ square @ v).reshape(nav[-2:])
    a, b = y0 / sy, x0 / sx
    out[0] = c[0] - a * c[1] - b * c[2] + a * a * c[3] + a * b * c[4] + b * b * c[5]
    out[1] = (c[1] - 2 * a * c[3] - b * c[4]) / sy
    out[2] = (c[2] - a * c[4] - 2 * b * c[5]) / sx
    out[3:] = c[3] / sy**2, c[4] / (sy * sx), c[5] / sx**2
    return out, fitted


def turned(field: _Arr, rotation_deg: float, flip_y: bool) -> _Arr:
    """`field` (..., 2) as (y, x) on axes turned by `rotation_deg`, after the y component is mirrored where `flip_y`.

    x' = cos(t) x - sin(t) y, y' = sin(t) x + cos(t) y. On a display with y downwards the new axes are those of the detector
    turned anticlockwise by t.
    """
    out = components(field.shape[:-1])
    t = np.deg2rad(rotation_deg)
    y, x = (-field[..., 0] if flip_y else field[..., 0]), field[..., 1]
    out[..., 0] = np.sin(t) * x + np.cos(t) * y
    out[..., 1] = np.cos(t) * x - np.sin(t) * y
    return out


def derivative(values: _Arr, axis: int, step: float = 1.0) -> _Arr:
    """Central difference along `axis`; one-sided beside an edge or a missing value; NaN where no neighbour or no value is."""
    v = np.moveaxis(np.asarray(values, np.float64), axis, -1)
    out = np.full_like(v, np.nan)
    if v.shape[-1] > 1:
        out[..., 1:-1] = (v[..., 2:] - v[..., :-2]) / 2
        out[..., 0], out[..., -1] = v[..., 1] - v[..., 0], v[..., -1] - v[..., -2]
        beside_holes = np.isnan(out) & ~np.isnan(v)
        if beside_holes.any():
            step_up = np.full_like(v, np.nan)
            step_up[..., :-1] = np.diff(v, axis=-1)
            step_down = np.full_like(v, np.nan)
            step_down[..., 1:] = step_up[..., :-1]
            out[beside_holes] = np.where(np.isnan(step_up), step_down, step_up)[beside_holes]
    out[np.isnan(v)] = np.nan
    return np.moveaxis(out / step if step != 1 else out, -1, axis)


def divergence(field: _Arr, steps: tuple[float, float] = (1.0, 1.0)) -> _Arr:
    """d(field_y)/dy + d(field_x)/dx per scan step; steps: size of a scan step along (y, x)."""
    return derivative(field[..., 0], -2, steps[0]) + derivative(field[..., 1], -1, steps[1])


def curl(field: _Arr, steps: tuple[float, float] = (1.0, 1.0)) -> _Arr:
    """d(field_y)/dx - d(field_x)/dy; steps: size of a scan step along (y, x)."""
    return derivative(field[..., 0], -1, steps[1]) - derivative(field[..., 1], -2, steps[0])


def estimate_rotation(com: _Arr, steps: tuple[float, float] = (1.0, 1.0)) -> RotationEstimate:
    """Rotation (and mirroring) of the scan against the detector that leaves the least curl, in closed form.

    com: deflections (..., ny, nx, 2) as (y, x), descan subtracted; NaN where unknown. A deflection by a potential has no
    curl on the axes of the scan. With a = curl and b = divergence of `com`, the curl after a turn by t is
    cos(t) a + sin(t) b, and its mean square is least at t = atan2(-2 <ab>, <bb> - <aa>) / 2. Positions whose four
    neighbours are known take part. The same for mirrored y; the better one wins.
    All fields are NaN, and flip_y False, where no position has four neighbours.
    """
    field = np.asarray(com, dtype=np.float64)
    if field.ndim < 3 or field.shape[-1] != 2:
        raise ValueError(f"estimate_rotation needs an array (..., ny, nx, 2) of (y, x) deflections, got shape {field.shape}")
    with np.errstate(invalid="ignore"):  # inf - inf
        dy = (field[..., 2:, 1:-1, :] - field[..., :-2, 1:-1, :]) / (2 * steps[0])
        dx = (field[..., 1:-1, 2:, :] - field[..., 1:-1, :-2, :]) / (2 * steps[1])
    yy, xy, yx, xx = dy[..., 0], dy[..., 1], dx[..., 0], dx[..., 1]  # d(first) by d(second): xy is d(field_x)/dy
    known = np.isfinite(yy + xy + yx + xx)
    n = int(known.sum())
    if n == 0:
        return RotationEstimate(np.nan, False, np.nan, np.nan)
    if n < known.size:
        yy, xy, yx, xx = (np.where(known, d, 0.0) for d in (yy, xy, yx, xx))
    found = []
    for sign in (1.0, -1.0):
        a, b = sign * yx - xy, sign * yy + xx
        aa, bb, ab = (a * a).sum() / n, (b * b).sum() / n, (a * b).sum() / n
        t = 0.5 * np.arctan2(-2 * ab, bb - aa)
        c, s = np.cos(t), np.sin(t)
        found.append((max(0.0, aa * c * c + 2 * ab * c * s + bb * s * s), float(np.rad2deg(t))))
    (straight, t_straight), (mirrored, t_mirrored) = found
    if mirrored < straight:
        return RotationEstimate(t_mirrored, True, float(mirrored), float(straight))
    return RotationEstimate(t_straight, False, float(straight), float(mirrored))
