"""The panels of a picture: which ones an output needs, and how each kind is drawn into its axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.cli._scale import display_unit, edges, is_signed, log_limits, robust_limits, scale_bar, wants_log
from libstream.model.output import Output
from libstream.model.ragged import Ragged
from libstream.model.result import Result
from libstream.model.source import Axis

_Arr = np.ndarray[Any, Any]
_UNSEEN = "0.72"
"""Grey of positions that were not processed, a tone that no colour map used here has in its middle."""
_MOST_CHANNELS = 6
"""A nav output with at most this many values a position gets a panel for each; with more, a mean profile."""


@dataclass(frozen=True)
class Panel:
    """One plot: `draw(axes)` fills matplotlib axes."""

    title: str
    paint: Callable[[Any], None]

    def draw(self, ax: Any) -> None:
        """Draw into `ax` and set the title."""
        ax.set_title(self.title, fontsize=10)
        ax.tick_params(labelsize=8)
        self.paint(ax)


@dataclass(frozen=True)
class _Where:
    """What the panels of one output share."""

    title: str
    unit: str
    nav_axes: tuple[Axis, ...]
    sig_axes: tuple[Axis, ...]
    valid: _Arr
    cyclic: bool = False


def panels_of(result: Result, key: str, name: str) -> Iterator[Panel]:
    """The panels that show output `name` of UDF `key`."""
    outputs = result.udfs[key]
    data = outputs[name]
    declared = outputs.declared.get(name) or _guess(data, outputs.shape.nav, outputs.shape.sig)
    title = f"{key}: {declared.title or name.replace('_', ' ')}"
    n_nav = len(outputs.shape.nav)
    where = _Where(title, declared.unit, outputs.axes[:n_nav], outputs.axes[n_nav:], result.valid)
    if isinstance(data, Ragged):
        counts = np.asarray(data.counts)
        yield from _nav(counts, _but(where, title=f"{title} (records per position)", unit=""))
        yield from _density(data, where)
        return
    data = np.asarray(data)
    if data.dtype.names is not None:
        for field in data.dtype.names:
            yield from _of_kind(data[field], declared.kind, _but(where, title=f"{title}.{field}"), declared)
        return
    yield from _of_kind(data, declared.kind, where, declared)


def _of_kind(data: _Arr, kind: str, where: _Where, declared: Output) -> Iterator[Panel]:
    if data.dtype.kind == "c":
        yield from _of_kind(np.abs(data), kind, _but(where, title=f"{where.title}, amplitude"), declared)
        yield from _of_kind(np.angle(data), kind, _but(where, title=f"{where.title}, phase", unit="rad", cyclic=True), declared)
    elif kind == "nav":
        yield from _nav(data, where, declared)
    elif kind == "sig":
        yield from _sig(data, where)
    else:
        yield from _single(data, where, declared)


def _but(where: _Where, **changes: Any) -> _Where:
    return _Where(**{**where.__dict__, **changes})


def _guess(data: Any, nav: tuple[int, ...], sig: tuple[int, ...]) -> Output:
    """Kind of an output that was derived in `finish` and not declared, from its shape."""
    if isinstance(data, Ragged):
        return Output("ragged", data.dtype)
    data = np.asarray(data)
    if nav and data.shape[: len(nav)] == nav:
        return Output("nav", data.dtype, data.shape[len(nav) :])
    if data.shape[: len(sig)] == sig:
        return Output("sig", data.dtype, data.shape[len(sig) :], "sum")
    return Output("single", data.dtype, data.shape, "sum")


# -- scans ---------------------------------------------------------------------------------------------------------


def _nav(data: _Arr, where: _Where, declared: Output | None = None) -> Iterator[Panel]:
    n_nav = len(where.nav_axes)
    extra = data.shape[n_nav:]
    if data.size == 0:
        yield Panel(where.title, _text("nothing: no positions"))
    elif math.prod(extra) == 1:
        yield from _map(data.reshape(data.shape[:n_nav]), where)
    elif n_nav == 2 and extra == (2,) and data.dtype.kind == "f":
        yield Panel(f"{where.title}, direction and length", lambda ax: _wheel(ax, data, where))
    elif len(extra) == 1 and extra[0] <= _MOST_CHANNELS:
        for i in range(extra[0]):
            yield from _map(data[..., i], _but(where, title=f"{where.title} [{i}]"))
    elif len(extra) == 1:
        axis_name = declared.axes[-1] if declared is not None and declared.axes else "index"
        rows = data.reshape(-1, extra[0])[where.valid.reshape(-1)]
        yield Panel(f"{where.title}, mean over positions", lambda ax: _profile(ax, rows, axis_name, where.unit))
    else:
        seen = data[where.valid]
        mean = seen.mean(axis=0, dtype=np.float64) if len(seen) else np.full(extra, np.nan)
        axes = where.sig_axes if mean.shape == tuple(a.size for a in where.sig_axes) else ()
        yield from _single(mean, _but(where, title=f"{where.title}, mean over positions", sig_axes=axes), None)


def _map(data: _Arr, where: _Where) -> Iterator[Panel]:
    """One value for each position: an image, a line, a number; a series as a row of images."""
    n_nav = len(where.nav_axes)
    if n_nav == 0:
        yield Panel(where.title, _text(_number(data[()], where.unit)))
    elif n_nav == 1:
        yield Panel(where.title, lambda ax: _trace(ax, data, where))
    else:
        flat, valid = data.reshape(-1, *data.shape[-2:]), where.valid.reshape(-1, *data.shape[-2:])
        picked = np.unique(np.linspace(0, len(flat) - 1, min(len(flat), 4)).astype(int))
        for i in picked:
            names = "" if n_nav == 2 else f" [{', '.join(map(str, np.unravel_index(i, data.shape[:-2])))}]"
            image, seen = flat[i], valid[i]
            yield Panel(where.title + names, lambda ax, image=image, seen=seen: _scan_image(ax, image, seen, where))  # type: ignore[misc]


def _scan_image(ax: Any, data: _Arr, valid: _Arr, where: _Where) -> None:
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


def _trace(ax: Any, data: _Arr, where: _Where) -> None:
    axis = where.nav_axes[0]
    factor, unit = display_unit(axis.size * axis.step, axis.unit)
    at = (axis.offset + np.arange(axis.size) * axis.step) * factor
    shown = np.where(where.valid, data.astype(np.float64), np.nan)
    ax.plot(at, shown, lw=1, marker="." if axis.size <= 200 else "", color="C0")
    for start, stop in _runs(~where.valid):
        left, right = at[start] - 0.5 * axis.step * factor, at[stop - 1] + 0.5 * axis.step * factor
        ax.axvspan(left, right, color=_UNSEEN, lw=0)
    ax.set_xlabel(_label(axis.name, "" if axis.unit == "px" else unit), fontsize=8)
    ax.set_ylabel(where.unit, fontsize=8)
    ax.margins(x=0.02)


def _runs(flags: _Arr) -> list[tuple[int, int]]:
    steps = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in steps.reshape(-1, 2)]


def _wheel(ax: Any, data: _Arr, where: _Where) -> None:
    """Pairs (y, x): direction as hue, length as brightness, with a wheel that says which is which."""
    from matplotlib.colors import hsv_to_rgb

    field = data - np.nanmedian(data, axis=(0, 1)) if np.isfinite(data).any() else data
    length = np.hypot(field[..., 0], field[..., 1])
    known = where.valid & np.isfinite(length)
    most = robust_limits(length[known])[1] if known.any() else 1.0
    rgb = np.full((*length.shape, 3), float(_UNSEEN))
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
    inset.text(0.5, -0.08, f"{most:.3g} {where.unit}".strip() + "\nat the rim,\nmedian\nsubtracted", ha="center", va="top", fontsize=7, transform=inset.transAxes)


def _wheel_rgb(field: _Arr, most: float, hsv_to_rgb: Any) -> _Arr:
    hue = np.mod(np.arctan2(-field[..., 0], field[..., 1]) / (2 * np.pi), 1.0)
    value = np.clip(np.hypot(field[..., 0], field[..., 1]) / most, 0, 1)
    rgb: _Arr = hsv_to_rgb(np.stack([hue, np.ones_like(hue), value], axis=-1))
    return rgb


# -- frames ----------------------------------------------------------------------------------------------------------


def _sig(data: _Arr, where: _Where) -> Iterator[Panel]:
    n_sig = len(where.sig_axes)
    extra = data.shape[n_sig:]
    if math.prod(extra) > _MOST_CHANNELS:
        data, where = data.reshape(*data.shape[:n_sig], -1).mean(axis=-1), _but(where, title=f"{where.title}, mean over {extra}")
        extra = ()
    planes = data.reshape(*data.shape[:n_sig], -1)
    for i in range(planes.shape[-1]):
        plane = planes[..., i]
        title = where.title if planes.shape[-1] == 1 else f"{where.title} [{', '.join(map(str, np.unravel_index(i, extra)))}]"
        if n_sig == 1:
            axis = where.sig_axes[0]
            at = axis.offset + np.arange(axis.size) * axis.step
            yield Panel(title, lambda ax, plane=plane, at=at: _line(ax, at, plane, _label(where.sig_axes[0].name, where.sig_axes[0].unit), where.unit))  # type: ignore[misc]
        else:
            yield Panel(title, lambda ax, plane=plane: _frame(ax, plane, where.sig_axes, where.unit, where.cyclic))  # type: ignore[misc]


def _frame(ax: Any, data: _Arr, axes: tuple[Axis, ...], unit: str, cyclic: bool = False) -> None:
    shown = np.ma.masked_invalid(data) if data.dtype.kind == "f" else np.ma.masked_array(data.astype(np.int64) if data.dtype.kind == "b" else data)
    seen = shown.compressed()
    if cyclic:
        _image(ax, shown, axes, limits=(-np.pi, np.pi), colours="twilight", unit=unit, bar=False)
    elif is_signed(seen):
        most = max(abs(v) for v in robust_limits(seen))
        _image(ax, shown, axes, limits=(-most, most), colours="RdBu_r", unit=unit, bar=False)
    elif wants_log(seen):
        low, high = log_limits(seen)
        _image(ax, np.ma.masked_array(np.maximum(shown.filled(low), low), mask=np.ma.getmaskarray(shown)), axes, limits=(low, high), colours="inferno", unit=unit, bar=False, log=True)
    else:
        # the brightest 0.5 % of a frame are the beam, not outliers: only what is far beyond is clipped
        _image(ax, shown, axes, limits=robust_limits(seen, share=0.0005), colours="inferno", unit=unit, bar=False)


def _image(ax: Any, data: _Arr, axes: tuple[Axis, ...], *, limits: tuple[float, float] | None, colours: str | None, unit: str, bar: bool,
           log: bool = False) -> None:  # fmt: skip
    """An image with axes in their units, a scale bar where they are calibrated alike, and a colour bar with `unit`."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

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
    ax.set_xlabel(_label(x.name, length_unit if y.unit == x.unit else x.unit), fontsize=8)
    ax.set_ylabel(_label(y.name, length_unit if y.unit == x.unit else y.unit), fontsize=8)
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


# -- the rest ----------------------------------------------------------------------------------------------------------


def _single(data: _Arr, where: _Where, declared: Output | None) -> Iterator[Panel]:
    data = np.asarray(data)
    if data.ndim == 0 or data.size == 1:
        yield Panel(where.title, _text(_number(data.reshape(-1)[0], where.unit)))
    elif data.ndim == 1:
        name = declared.axes[-1] if declared is not None and declared.axes else "index"
        if data.dtype.kind in "iu":
            yield Panel(where.title, lambda ax: _bars(ax, data, name, where.unit))
        else:
            yield Panel(where.title, lambda ax: _line(ax, np.arange(len(data)), data, name, where.unit))
    elif data.ndim == 2:
        axes = where.sig_axes if data.shape == tuple(a.size for a in where.sig_axes) else (Axis("row", data.shape[0]), Axis("column", data.shape[1]))
        yield Panel(where.title, lambda ax: _frame(ax, data, axes, where.unit, where.cyclic))
    else:
        for i in range(min(4, len(data))):
            yield from _single(data[i], _but(where, title=f"{where.title} [{i}]"), declared)


def _bars(ax: Any, data: _Arr, name: str, unit: str) -> None:
    """A histogram: all bins to the last that is not empty, logarithmic where the range asks for it."""
    used = np.flatnonzero(data)
    stop = min(len(data), int(used[-1]) + 2) if used.size else len(data)
    ax.stairs(data[:stop], np.arange(stop + 1) - 0.5, fill=True, color="C0")
    if used.size and data.max() > _MOST_CHANNELS * 50 * max(1.0, float(np.median(data[used]))):
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.5)
    ax.set_xlabel(name, fontsize=8)
    ax.set_ylabel(unit or "count", fontsize=8)
    ax.margins(x=0.01)


def _line(ax: Any, at: _Arr, data: _Arr, name: str, unit: str) -> None:
    ax.plot(at, data, lw=1.2, color="C0")
    if wants_log(np.asarray(data)):
        ax.set_yscale("log")
    ax.set_xlabel(name, fontsize=8)
    ax.set_ylabel(unit, fontsize=8)
    ax.margins(x=0.01)


def _profile(ax: Any, rows: _Arr, name: str, unit: str) -> None:
    """Mean profile with the band in which 80 % of the positions lie."""
    if not len(rows) or not np.isfinite(rows).any():
        _text("nothing: no position has values")(ax)
        return
    at = np.arange(rows.shape[1])
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


def _density(data: Ragged, where: _Where) -> Iterator[Panel]:
    """Where in the frame the records lie, if they say so in fields y and x."""
    names = data.values.dtype.names or ()
    if len(where.sig_axes) == 2 and "y" in names and "x" in names and len(data.values):
        y, x = where.sig_axes
        bins = [np.linspace(-0.5, a.size - 0.5, min(a.size, 256) + 1) for a in (y, x)]
        counts = np.histogram2d(data.values["y"].reshape(-1), data.values["x"].reshape(-1), bins=bins)[0]
        coarse = tuple(Axis(a.name, n, a.step * a.size / n, a.offset + a.step * (a.size / n - 1) / 2, a.unit) for a, n in zip((y, x), counts.shape, strict=True))
        yield Panel(f"{where.title} (records per pixel)", lambda ax: _frame(ax, counts, coarse, ""))


def _text(words: str) -> Callable[[Any], None]:
    def paint(ax: Any) -> None:
        ax.set_axis_off()
        ax.text(0.5, 0.5, words, ha="center", va="center", fontsize=16, transform=ax.transAxes)

    return paint


def _number(value: Any, unit: str) -> str:
    text = f"{value:,}" if np.asarray(value).dtype.kind in "iub" else f"{value:.6g}"
    return f"{text} {unit}".strip()


def _label(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name
