"""The panels of a picture: which ones an output needs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.cli._draw import Where, bars, frame, label, line, profile, scan_image, text, trace, wheel
from libstream.model.output import Output
from libstream.model.ragged import Ragged
from libstream.model.result import Outputs, Result
from libstream.model.source import Axis

_Arr = np.ndarray[Any, Any]
_MOST_CHANNELS = 6
"""A nav output with at most this many values a position gets a panel for each; with more, a mean profile."""
_SCALES = ("edges", "radius")
"""Outputs of one axis that say where the values of their neighbours lie; they become axes, not panels."""
_TABLE = 24
"""A small array that is no image is written out as numbers up to this size."""


@dataclass(frozen=True)
class Panel:
    """One plot: `draw(axes)` fills matplotlib axes. aspect: height over width that suits it."""

    title: str
    paint: Callable[[Any], None]
    aspect: float = 0.8

    def draw(self, ax: Any) -> None:
        """Draw into `ax` and set the title."""
        ax.set_title(self.title, fontsize=10)
        ax.tick_params(labelsize=8)
        self.paint(ax)


def panels_of(result: Result, key: str, name: str) -> Iterator[Panel]:
    """The panels that show output `name` of UDF `key`."""
    outputs = result.udfs[key]
    data = outputs[name]
    declared = outputs.declared.get(name) or _guess(data, outputs.shape.nav, outputs.shape.sig)
    title = f"{key}: {declared.title or name.replace('_', ' ')}"
    n_nav = len(outputs.shape.nav)
    scale = _scale(outputs, data)
    if scale is not None and name in _SCALES:
        return  # it is drawn as the axis of others
    where = Where(title, declared.unit, outputs.axes[:n_nav], outputs.axes[n_nav:], result.valid, scale=scale)
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


def _scale(outputs: Outputs, data: Any) -> tuple[_Arr, str] | None:
    """Positions (n,) or limits of bins (n + 1,) of the last axis of `data`, where the UDF has an output that gives them."""
    for name in _SCALES:
        at = outputs.get(name)
        if isinstance(at, np.ndarray) and at.ndim == 1 and at.dtype.kind in "fiu" and len(at) > 1 and np.isfinite(at).all():
            n = len(at) - (name == "edges")
            users = [o for other, o in outputs.items() if other not in _SCALES and np.ndim(o) and np.shape(o)[-1] == n]
            if users and (data is at or (np.ndim(data) and np.shape(data)[-1] == n)):
                declared = outputs.declared.get(name)
                return at, label(name.replace("edges", "value"), declared.unit if declared is not None else "")
    return None


def _of_kind(data: _Arr, kind: str, where: Where, declared: Output) -> Iterator[Panel]:
    if data.dtype.kind == "c":
        yield from _of_kind(np.abs(data), kind, _but(where, title=f"{where.title}, amplitude"), declared)
        yield from _of_kind(np.angle(data), kind, _but(where, title=f"{where.title}, phase", unit="rad", cyclic=True), declared)
    elif kind == "nav":
        yield from _nav(data, where, declared)
    elif kind == "sig":
        yield from _sig(data, where)
    else:
        yield from _single(data, where, declared)


def _but(where: Where, **changes: Any) -> Where:
    return Where(**{**where.__dict__, **changes})


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


def _nav(data: _Arr, where: Where, declared: Output | None = None) -> Iterator[Panel]:
    n_nav = len(where.nav_axes)
    extra = data.shape[n_nav:]
    if data.size == 0:
        yield Panel(where.title, text("nothing: no positions"))
    elif math.prod(extra) == 1:
        yield from _map(data.reshape(data.shape[:n_nav]), where)
    elif n_nav == 2 and extra == (2,) and data.dtype.kind == "f":
        yield Panel(f"{where.title}, direction and length", lambda ax: wheel(ax, data, where), _aspect(where.nav_axes))
    elif len(extra) == 1 and extra[0] <= _MOST_CHANNELS:
        for i in range(extra[0]):
            yield from _map(data[..., i], _but(where, title=f"{where.title} [{i}]"))
    elif len(extra) == 1:
        axis_name = declared.axes[-1] if declared is not None and declared.axes else "index"
        rows = data.reshape(-1, extra[0])[where.valid.reshape(-1)]
        at, axis_name = where.along(extra[0], axis_name)
        yield Panel(f"{where.title}, mean over positions", lambda ax: profile(ax, rows, at, axis_name, where.unit))
    else:
        seen = data[where.valid]
        mean = seen.mean(axis=0, dtype=np.float64) if len(seen) else np.full(extra, np.nan)
        axes = where.sig_axes if mean.shape == tuple(a.size for a in where.sig_axes) else ()
        yield from _single(mean, _but(where, title=f"{where.title}, mean over positions", sig_axes=axes), None)


def _map(data: _Arr, where: Where) -> Iterator[Panel]:
    """One value for each position: an image, a line, a number; a series as a row of images."""
    n_nav = len(where.nav_axes)
    if n_nav == 0:
        yield Panel(where.title, text(_number(data[()], where.unit)))
    elif n_nav == 1:
        yield Panel(where.title, lambda ax: trace(ax, data, where))
    else:
        flat, valid = data.reshape(-1, *data.shape[-2:]), where.valid.reshape(-1, *data.shape[-2:])
        picked = np.unique(np.linspace(0, len(flat) - 1, min(len(flat), 4)).astype(int))
        for i in picked:
            names = "" if n_nav == 2 else f" [{', '.join(map(str, np.unravel_index(i, data.shape[:-2])))}]"
            image, seen = flat[i], valid[i]
            paint = functools.partial(scan_image, data=image, valid=seen, where=where)
            yield Panel(where.title + names, paint, _aspect(where.nav_axes[-2:]))


# -- frames ----------------------------------------------------------------------------------------------------------


def _sig(data: _Arr, where: Where) -> Iterator[Panel]:
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
            yield Panel(title, functools.partial(line, at=at, data=plane, name=label(axis.name, axis.unit), unit=where.unit))
        else:
            yield _frame_panel(title, plane, where.sig_axes, where)


def _frame_panel(title: str, data: _Arr, axes: tuple[Axis, ...], where: Where) -> Panel:
    return Panel(title, functools.partial(frame, data=data, axes=axes, unit=where.unit, cyclic=where.cyclic), _aspect(axes))


def _aspect(axes: tuple[Axis, ...]) -> float:
    """Height over width of an image, within what a panel can show."""
    y, x = axes
    return float(np.clip(y.size * abs(y.step) / max(x.size * abs(x.step), 1e-300), 0.25, 1.6)) if y.unit == x.unit else 0.8


# -- the rest ----------------------------------------------------------------------------------------------------------


def _single(data: _Arr, where: Where, declared: Output | None) -> Iterator[Panel]:
    data = np.asarray(data)
    if data.ndim == 0 or data.size == 1:
        yield Panel(where.title, text(_number(data.reshape(-1)[0], where.unit)), 0.4)
    elif data.ndim <= 2 and data.size <= _TABLE:
        yield Panel(where.title, text(_table(data, where.unit), size=9, family="monospace"), 0.4)
    elif data.ndim == 1:
        name = declared.axes[-1] if declared is not None and declared.axes else "index"
        if data.dtype.kind in "iu":
            limits, name = where.limits(len(data), name)
            yield Panel(where.title, functools.partial(bars, data=data, limits=limits, name=name, unit=where.unit))
        else:
            at, name = where.along(len(data), name)
            yield Panel(where.title, functools.partial(line, at=at, data=data, name=name, unit=where.unit))
    elif data.ndim == 2:
        as_frame = data.shape == tuple(a.size for a in where.sig_axes)
        axes = where.sig_axes if as_frame else (Axis("row", data.shape[0]), Axis("column", data.shape[1]))
        yield _frame_panel(where.title, data, axes, where)
    else:
        for i in range(min(4, len(data))):
            yield from _single(data[i], _but(where, title=f"{where.title} [{i}]"), declared)


def _table(data: _Arr, unit: str) -> str:
    rows = "\n".join("  ".join(f"{v:>11.4g}" for v in row) for row in np.atleast_2d(data if data.ndim == 2 else data[:, None]))
    return f"{rows}\n{unit}".rstrip()


def _density(data: Ragged, where: Where) -> Iterator[Panel]:
    """Where in the frame the records lie, if they say so in fields y and x."""
    names = data.values.dtype.names or ()
    if len(where.sig_axes) == 2 and "y" in names and "x" in names and len(data.values):
        y, x = where.sig_axes
        bins = [np.linspace(-0.5, a.size - 0.5, min(a.size, 256) + 1) for a in (y, x)]
        counts = np.histogram2d(data.values["y"].reshape(-1), data.values["x"].reshape(-1), bins=bins)[0]
        factors = [a.size / n for a, n in zip((y, x), counts.shape, strict=True)]
        coarser = zip((y, x), counts.shape, factors, strict=True)
        coarse = tuple(Axis(a.name, n, a.step * f, a.offset + a.step * (f - 1) / 2, a.unit) for a, n, f in coarser)
        yield _frame_panel(f"{where.title} (records per pixel)", counts, coarse, _but(where, unit=""))


def _number(value: Any, unit: str) -> str:
    text = f"{value:,}" if np.asarray(value).dtype.kind in "iub" else f"{value:.6g}"
    return f"{text} {unit}".strip()


NOTHING = Panel("", text("no results"), 0.4)
"""What is drawn where there is nothing to draw."""
