"""Which dataset of an HDF5 file holds the frames, and what the file says about its axes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from libstream.ext import Axis, DataShape, FormatError, default_axes
from libstream.io_backends.files._h5open import unusable

_MAX_OBJECTS = 20_000  # looked at; a file with one dataset for each pattern has more
_MAX_AXIS = 1_000_000
_LISTED = 12


@dataclass
class Contents:
    """What was found in a file: usable datasets, those that cannot hold frames with the reason, and broken links."""

    datasets: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    cut_short: bool = False


def look_through(h5: Any) -> Contents:
    """Visit groups and datasets once each, in the order of names; only headers are read."""
    found = Contents()
    for n, (name, thing) in enumerate(_walk(h5, found)):
        if n >= _MAX_OBJECTS:
            found.cut_short = True
            break
        why = unusable(thing)
        if why:
            found.refused[name] = why
        else:
            found.datasets[name] = thing
    return found


def _walk(h5: Any, found: Contents) -> Iterator[tuple[str, Any]]:
    import h5py

    seen = {_key(h5)}
    waiting = [iter([("", h5)])]  # groups may contain each other: every object is visited once
    while waiting:
        step = next(waiting[-1], None)
        if step is None:
            waiting.pop()
            continue
        path, group = step
        groups = []
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.SoftLink):
                continue  # its target is in this file and has a place of its own
            where = f"{path}/{name}"
            try:
                thing = group[name]
            except (KeyError, OSError, RuntimeError) as exc:
                target = getattr(link, "filename", "")
                found.broken[where] = f"points to {link.path} in {target}, which cannot be opened" if target else str(exc)
                continue
            if _key(thing) in seen:
                continue
            seen.add(_key(thing))
            if isinstance(thing, h5py.Group):
                groups.append((where, thing))
            elif isinstance(thing, h5py.Dataset):
                yield where, thing
        waiting.append(iter(groups))


def _key(thing: Any) -> tuple[Any, ...]:
    import h5py

    info = h5py.h5o.get_info(thing.id)
    return (info.fileno, info.addr)


def choose(h5: Any, path: str, wanted: str | None, sig_dims: int) -> tuple[Any, tuple[str, ...]]:
    """The dataset to open, and notes about the others.

    wanted: path of a dataset, or of a NeXus group; None = the NeXus default where that is a stack of frames, else the first of
    those with most values. Raises FormatError that lists what there is.
    """
    if wanted is not None:
        return _named(h5, path, wanted, sig_dims), ()
    found = look_through(h5)
    usable = {n: d for n, d in found.datasets.items() if d.ndim >= max(2, sig_dims)}
    notes = [f"{n} {why}" for n, why in found.broken.items()]
    if found.cut_short:
        notes.append(f"only the first {_MAX_OBJECTS} datasets were looked at; pass dataset= for another one")
    if not usable:
        raise FormatError(f"{path}: holds no dataset of frames{_why_none(found)}")
    default = _nexus_default(h5)
    if default is not None and (unusable(default) or default.ndim < max(3, sig_dims + 1)):
        default = None
    if default is None:
        default = max(usable.values(), key=lambda d: d.size)  # the first of equal ones
    others = [n for n, d in usable.items() if _key(d) != _key(default)]
    if others:
        shown = ", ".join(f"{n} {tuple(usable[n].shape)} {usable[n].dtype}" for n in others[:_LISTED])
        more = f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
        notes.append(f"took {default.name}; dataset= chooses another: {shown}{more}")
    return default, tuple(notes)


def _why_none(found: Contents) -> str:
    reasons = [f"{n} has {d.ndim} axes" for n, d in found.datasets.items()]
    reasons += [f"{n} {why}" for n, why in (*found.refused.items(), *found.broken.items())]
    if not reasons:
        return ": there is no dataset in it at all"
    return ": " + "; ".join(reasons[:_LISTED]) + (f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else "")


def _named(h5: Any, path: str, wanted: str, sig_dims: int) -> Any:
    import h5py

    link = h5.get(wanted, getlink=True) if wanted.strip("/") else None
    try:
        thing = h5[wanted]
    except (KeyError, OSError, ValueError, RuntimeError) as exc:
        if isinstance(link, h5py.ExternalLink):
            raise FormatError(f"{path}: {wanted} points to {link.path} in {link.filename}, which cannot be opened. Copy it too.") from exc
        names = list(look_through(h5).datasets)
        near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5) or names[:_LISTED]
        raise FormatError(f"{path}: there is no dataset {wanted!r}; there are: {', '.join(near) or 'none that could hold frames'}") from exc
    if isinstance(thing, h5py.Group):
        signal = _signal(thing)
        if signal is None:
            inside = [f"{wanted.rstrip('/')}{n}" for n in look_through(thing).datasets][:_LISTED]
            raise FormatError(f"{path}: {wanted!r} is a group; name a dataset in it: {', '.join(inside) or 'there is none'}")
        thing = signal
    why = unusable(thing)
    if why:
        raise FormatError(f"{path}: {wanted!r} {why}, so it holds no frames")
    if thing.ndim < sig_dims:
        hint = " Pass sig_dims=1 for spectra." if thing.ndim == 1 else ""
        raise FormatError(f"{path}: {wanted!r} has shape {tuple(thing.shape)}, expected at least {sig_dims} axes.{hint}")
    return thing


# -- NeXus -------------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _texts(value: Any) -> list[str]:
    if isinstance(value, np.ndarray):
        return [_text(v) for v in value.reshape(-1)]
    text = _text(value)
    return text.strip("[]").replace(",", ":").split(":") if text else []


def _get(group: Any, name: str) -> Any:
    try:
        return group[name] if name else None
    except (KeyError, OSError, RuntimeError, ValueError):
        return None


def _nexus_default(h5: Any) -> Any:
    """The dataset that viewers show: along the `default` attributes to a signal."""
    import h5py

    group = h5
    for _ in range(8):  # a chain, not a circle
        signal = _signal(group)
        if signal is not None:
            return signal
        group = _get(group, _text(group.attrs.get("default")))
        if not isinstance(group, h5py.Group):
            return None
    return None


def _signal(group: Any) -> Any:
    import h5py

    signal = _get(group, _text(group.attrs.get("signal")))
    if signal is None and _text(group.attrs.get("NX_class")) == "NXdata":  # as files before 2014 mark it
        marked = [_get(group, n) for n in list(group)[:100]]
        signal = next((d for d in marked if isinstance(d, h5py.Dataset) and str(d.attrs.get("signal", "")) in ("1", "b'1'")), None)
    return signal if isinstance(signal, h5py.Dataset) else None


# -- axes --------------------------------------------------------------------------------------------------------------


def axes_of(dset: Any, sig_dims: int) -> tuple[tuple[Axis, ...], tuple[str, ...]]:
    """Axes of a dataset as NeXus, HyperSpy or EMD describe them, and notes about those that cannot be used."""
    shape = DataShape(tuple(dset.shape[:-sig_dims]), tuple(dset.shape[-sig_dims:]))
    axes = list(default_axes(shape))
    notes: list[str] = []
    group = dset.parent
    for i, size in enumerate(dset.shape):
        found = _nexus_axis(dset, group, i) or _hyperspy_axis(group, i) or _emd_axis(dset, group, i)
        if found is None:
            continue
        values, name, unit = found
        line = _line(values, size)
        if line is None:
            notes.append(f"axis {name or i} of {dset.name} is not evenly spaced or does not fit; px are used")
        elif unit:
            axes[i] = Axis(name or axes[i].name, size, line[1], line[0], unit)
        else:
            axes[i] = Axis(name or axes[i].name, size)
            if line != (0.0, 1.0):
                notes.append(f"axis {name or i} of {dset.name} has step {line[1]:g} without a unit; px are used")
    return tuple(axes), tuple(notes)


_Found = tuple[Any, str, str]  # values, or (offset, step); name; unit


def _nexus_axis(dset: Any, group: Any, i: int) -> _Found | None:
    names = _texts(group.attrs.get("axes")) if _signal(group) is not None else []
    if not names:
        names = _texts(dset.attrs.get("axes"))  # the older way: on the signal
    for place, name in enumerate(names):
        at = group.attrs.get(f"{name}_indices", place)
        if name not in ("", ".") and np.size(at) == 1 and int(np.reshape(at, -1)[0]) == i:
            axis = _get(group, name)
            if axis is not None and _is_axis(axis):
                return axis[()], name, _text(axis.attrs.get("units"))
    return None


def _hyperspy_axis(group: Any, i: int) -> _Found | None:
    about = _get(group, f"axis-{i}")
    if about is None or "scale" not in about.attrs:
        return None
    line = (float(about.attrs.get("offset", 0.0)), float(about.attrs["scale"]))
    name, unit = (_text(about.attrs.get(a)).replace("<undefined>", "") for a in ("name", "units"))
    return line, name, unit


def _emd_axis(dset: Any, group: Any, i: int) -> _Found | None:
    """Berkeley's EMD counts dim1, dim2, ...; EMD 1.0 (py4DSTEM) counts from dim0 and may give the first two values only."""
    if "emd_group_type" not in group.attrs:
        return None
    axis = _get(group, f"dim{i if 'dim0' in group else i + 1}")
    if axis is None or not _is_axis(axis):
        return None
    values = axis[()]
    if values.size == 2 and dset.shape[i] != 2:
        values = (float(values[0]), float(values[1] - values[0]))
    unit = _text(axis.attrs.get("units"))
    if unit.startswith("[") and unit.endswith("]"):
        unit = unit[1:-1].replace("_", "")  # "[n_m]" is nm
    return values, _text(axis.attrs.get("name")), unit


def _is_axis(thing: Any) -> bool:
    import h5py

    return isinstance(thing, h5py.Dataset) and thing.ndim == 1 and thing.dtype.kind in "iuf" and 0 < thing.size <= _MAX_AXIS


def _line(values: Any, size: int) -> tuple[float, float] | None:
    """(offset, step) of evenly spaced values, None where they are not, or not of that number (bin edges give their centres)."""
    if isinstance(values, tuple):
        return values if np.isfinite(values).all() and values[1] != 0 else None
    v = np.asarray(values, np.float64)
    if v.size == size + 1 and size > 1:
        v = (v[1:] + v[:-1]) / 2
    if v.size != size or not np.isfinite(v).all():
        return None
    if size == 1:
        return float(v[0]), 1.0
    step = (v[-1] - v[0]) / (size - 1)
    if step == 0 or np.abs(v - (v[0] + step * np.arange(size))).max() > 1e-3 * abs(step):
        return None
    return float(v[0]), float(step)
