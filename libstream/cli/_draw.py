"""How each kind of plot is drawn into matplotlib axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.cli._scale import display_unit, edges, is_signed, log_limits, robust_limits, scale_bar, wants_log
from libstream.model.source import Axis

_Arr = np.ndarray[Any, Any]
_UNSEEN = "0.72"
"""Grey of positions that were not processed, a tone that no colour map used here has in its middle."""


@dataclass(frozen=True)
class Where:
    """What the panels of one output share. scale: where the values of a profile or histogram lie, from another output."""

    title: str
    unit: str
    nav_axes: tuple[Axis, ...]
    sig_axes: tuple[Axis, ...]
    valid: _Arr
    cyclic: bool = False
    scale: tuple[_Arr, str] | None = None

    def along(self, n: int, name: str) -> tuple[_Arr, str]:
        """Positions of `n` values in a row and the name of their axis: the scale if it has that many, else 0, 1, 2, ..."""
        at, words = self.scale if self.scale is not None else (np.zeros(0), "")
        if len(at) == n + 1:  # limits of bins
            return (at[:-1] + at[1:]) / 2, words
        return (at, words) if len(at) == n else (np.arange(n), name)

    def limits(self, n: int, name: str) -> tuple[_Arr, str]:
        """Limits (n + 1,) of `n` bins and the name of their axis."""
        if self.scale is not None and len(self.scale[0]) == n + 1:
            return self.scale
        return np.arange(n + 1) - 0.5, name


def scan_image(ax: Any, data: _Arr, valid: _Arr, where: Where) -> None:
    """One value for each scan position; `valid` is False where there is none."""
    if data.dtype.kind == "b":
        data = data.astype(np.uint8)
    shown = np.ma.masked_array(data, mask=~valid | (np.isnan(data) if data.dtype.kind == "f" else False))
    seen = shown.compressed()
    if where.cyclic:
        limits, colours = (-np.pi, np.pi), "twilight"
    elif is_signed(seen):
        most = max(abs(v) for v in robust_limits(seen))
        limits, colours = (-most, most), "RdBu_r"
    else:
        limits, colours = robust_limits(seen), "gray"
    _image(ax, shown, where.nav_axes[-2:], limits=limits, colours=colours, unit=where.unit, bar=True)


def trace(ax: Any, data: _Arr, where: Where) -> None:
    """One value for each frame of a stack; grey where there is none."""
    axis = where.nav_axes[0]
    factor, unit = display_unit(axis.size * axis.step, axis.unit)
    at = (axis.offset + np.arange(axis.size) * axis.step) * factor
    shown = np.where(where.valid, data.astype(np.float64), np.nan)
    ax.plot(at, shown, lw=1, marker="." if axis.size <= 200 else "", color="C0")
    for start, stop in _runs(~where.valid):
        left, right = at[start] - 0.5 * axis.step * factor, at[stop - 1] + 0.5 * axis.step * factor
        ax.axvspan(left, right, color=_UNSEEN, lw=0)
    ax.set_xlabel(label(axis.name, "" if axis.unit == "px" else unit), fontsize=8)
    ax.set_ylabel(where.unit, fontsize=8)
    ax.margins(x=0.02)


def _runs(flags: _Arr) -> list[tuple[int, int]]:
    steps = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in steps.reshape(-1, 2)]


def wheel(ax: Any, data: _Arr, where: Where) -> None:
    """Pairs (y, x): direction as hue, length as brightness, with a wheel that says which is which."""
    from matplotlib.colors import hsv_to_rgb

    known = where.valid & np.isfinite(data).all(axis=-1)
    field = data.astype(np.float64)
    most = 1.0
    if known.any():
        field -= np.median(field[known], axis=0)
        most = robust_limits(np.hypot(field[known][:, 0], field[known][:, 1]))[1]
    rgb = np.full((*known.shape, 3), float(_UNSEEN))
    rgb[known] = _wheel_rgb(field[known], most, hsv_to_rgb)
    _image(ax, rgb, where.nav_axes, limits=None, colours=None, unit="", bar=True)
    side = np.linspace(-1, 1, 65)
    y, x = np.meshgrid(side, side, indexing="ij")
    disk = np.ones((65, 65, 4))
    disk[..., :3] = _wheel_rgb(np.stack([y, x], axis=-1) * most, most, hsv_to_rgb)
    disk[..., 3] = np.hypot(y, x) <= 1
    inset = ax.inset_axes((1.03, 0.68, 0.3, 0.3))
    inset.imshow(disk, origin="upper")
    inset.set_axis_off()
    words = f"{most:.3g} {where.unit}".strip() + "\nat the rim,\nmedian\nsubtracted"
    inset.text(0.5, -0.08, words, ha="center", va="top", fontsize=7, transform=inset.transAxes)


def _wheel_rgb(field: _Arr, most: float, hsv_to_rgb: Any) -> _Arr:
    hue = np.mod(np.arctan2(-field[..., 0], field[..., 1]) / (2 * np.pi), 1.0)
    value = np.clip(np.hypot(field[..., 0], field[..., 1]) / most, 0, 1)
    rgb: _Arr = hsv_to_rgb(np.stack([hue, np.ones_like(hue), value], axis=-1))
    return rgb


def frame(ax: Any, data: _Arr, axes: tuple[Axis, ...], unit: str, cyclic: bool = False) -> None:
    """An array of the frame's shape; logarithmic where the range asks for it."""
    data = data.astype(np.uint8) if data.dtype == bool else data
    shown = np.ma.masked_invalid(data) if data.dtype.kind == "f" else np.ma.masked_array(data)
    seen = shown.compressed()
    log, colours = False, "inferno"
    if cyclic:
        limits, colours = (-np.pi, np.pi), "twilight"
    elif is_signed(seen):
        most = max(abs(v) for v in robust_limits(seen))
        limits, colours = (-most, most), "RdBu_r"
    elif wants_log(seen):
        log, limits = True, log_limits(seen)
        shown = np.ma.masked_array(np.maximum(shown.filled(limits[0]), limits[0]), mask=np.ma.getmaskarray(shown))
    else:
        # the brightest 0.5 % of a frame are the beam, not outliers: only what is far beyond is clipped
        limits = robust_limits(seen, share=0.0005)
    _image(ax, shown, axes, limits=limits, colours=colours, unit=unit, bar=False, log=log)


def _image(ax: Any, data: _Arr, axes: tuple[Axis, ...], *, limits: tuple[float, float] | None, colours: str | None, unit: str, bar: bool,
           log: bool = False) -> None:  # fmt: skip
    """An image with axes in their units, a scale bar where they are calibrated alike, and a colour bar with `unit`."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import MaxNLocator

    y, x = axes
    factor, length_unit = display_unit(x.size * abs(x.step), x.unit)
    if y.unit != x.unit:
        factor, length_unit = 1.0, ""
    left, right = (v * factor for v in edges(x.step, x.offset, x.size))
    top, bottom = (v * factor for v in edges(y.step, y.offset, y.size))
    long = max(abs(right - left), abs(bottom - top)) / max(min(abs(right - left), abs(bottom - top)), 1e-300)
    options: dict[str, Any] = {"extent": (left, right, bottom, top), "origin": "upper", "aspect": "equal" if long < 8 else "auto"}
    if limits is not None:
        options["norm"] = (LogNorm if log else Normalize)(*limits, clip=True)
        options["cmap"] = colormaps[colours or "gray"].with_extremes(bad=_UNSEEN)
    smaller = max(data.shape[:2]) > 600
    image = ax.imshow(data, interpolation="antialiased" if smaller else "nearest", **options)
    for axis, line in ((x, ax.xaxis), (y, ax.yaxis)):
        line.set_major_locator(MaxNLocator(6, integer=not axis.calibrated, min_n_ticks=1))
    ax.set_xlabel(label(x.name, length_unit if y.unit == x.unit else x.unit), fontsize=8)
    ax.set_ylabel(label(y.name, length_unit if y.unit == x.unit else y.unit), fontsize=8)
    if bar and x.calibrated and options["aspect"] == "equal" and y.unit == x.unit:
        _scale_bar(ax, abs(right - left), length_unit)
    if limits is not None:
        # an inset keeps to the image, where a colour bar of the figure keeps to the column
        colour_bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.03, 0.0, 0.05, 1.0)))
        colour_bar.ax.tick_params(labelsize=8)
        colour_bar.set_label(unit, fontsize=8)


def _scale_bar(ax: Any, width: float, unit: str) -> None:
    from matplotlib.patches import Rectangle

    share = scale_bar(width) / width
    ax.add_patch(Rectangle((0.04, 0.04), share + 0.03, 0.12, transform=ax.transAxes, color="black", alpha=0.55, lw=0))
    ax.add_patch(Rectangle((0.055, 0.055), share, 0.018, transform=ax.transAxes, color="white", lw=0))
    text = f"{share * width:g} {unit}"
    ax.text(0.055 + share / 2, 0.082, text, color="white", fontsize=8, ha="center", va="bottom", transform=ax.transAxes)


def bars(ax: Any, data: _Arr, limits: _Arr, name: str, unit: str) -> None:
    """A histogram: all bins to the last that is not empty, logarithmic where the range asks for it."""
    used = np.flatnonzero(data)
    stop = min(len(data), int(used[-1]) + 2) if used.size else len(data)
    ax.stairs(data[:stop], limits[: stop + 1], fill=True, color="C0")
    if used.size and data.max() > 300 * max(1.0, float(np.median(data[used]))):
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.5)
    ax.set_xlabel(name, fontsize=8)
    ax.set_ylabel(unit or "count", fontsize=8)
    ax.margins(x=0.01)


def line(ax: Any, at: _Arr, data: _Arr, name: str, unit: str) -> None:
    """A profile."""
    ax.plot(at, data, lw=1.2, color="C0")
    if wants_log(np.asarray(data)):
        ax.set_yscale("log")
    ax.set_xlabel(name, fontsize=8)
    ax.set_ylabel(unit, fontsize=8)
    ax.margins(x=0.01)


def profile(ax: Any, rows: _Arr, at: _Arr, name: str, unit: str) -> None:
    """Mean profile with the band in which 80 % of the positions lie."""
    if not len(rows) or not np.isfinite(rows).any():
        text("nothing: no position has values")(ax)
        return
    values = np.ma.masked_invalid(rows.astype(np.float64))
    mean = values.mean(axis=0).filled(np.nan)
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), 20000)).astype(int)].astype(np.float64)
    seen = np.isfinite(some).any(axis=0)
    band = np.full((2, rows.shape[1]), np.nan)
    band[:, seen] = np.nanquantile(some[:, seen], [0.1, 0.9], axis=0)
    ax.fill_between(at, band[0], band[1], color="C0", alpha=0.25, lw=0, label="80 % of positions")
    ax.plot(at, mean, lw=1.2, color="C0", label="mean")
    if wants_log(mean):
        ax.set_yscale("log")
    ax.legend(fontsize=7, frameon=False)
    ax.set_xlabel(name, fontsize=8)
    ax.set_ylabel(unit, fontsize=8)
    ax.margins(x=0.01)


def text(words: str, *, size: float = 16, family: str = "sans-serif") -> Callable[[Any], None]:
    """A painter of words."""

    def paint(ax: Any) -> None:
        ax.set_axis_off()
        ax.text(0.5, 0.5, words, ha="center", va="center", fontsize=size, family=family, transform=ax.transAxes)

    return paint


def label(name: str, unit: str) -> str:
    """Name of an axis with its unit."""
    return f"{name} ({unit})" if unit else name
