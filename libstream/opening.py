"""`ls.open`: from a path or address to a source, with everything that the file does not say."""

from __future__ import annotations

import copy
import difflib
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from libstream import registry
from libstream.contracts.source import FrameReader, FrameSource, Opener, OpensFolders, Partition, ReadsInWays, WatchesFiles
from libstream.errors import CorruptFileError, FormatError, NotInstalledError, ParameterError, ShapeError, UsageError
from libstream.model.quantity import Quantity
from libstream.model.shape import DataShape, Region, Span
from libstream.model.source import Axis, SourceMeta, default_axes

_Arr = np.ndarray[Any, Any]
HEAD_BYTES = 64 * 1024


def open_source(
    uri: Any, *, format: str | None, scan: Any, frame: Any, sync_offset: int | None, scan_step: Any, pixel: Any,
    centre: Any, rotation_deg: float | None, channel: str | None, io: str, options: Mapping[str, Any],
) -> FrameSource:  # fmt: skip
    """See `libstream.api.open`."""
    name, fmt, location = _format_of(uri, format)
    given, left = _options(fmt, name, scan, frame, options)
    source: FrameSource = fmt.open(location, _made(fmt, name, given))
    laid_out = given.get("scan") and source.meta.shape.nav[: len(given["scan"])] == given["scan"]
    if io != "auto":
        source = _read_by(source, io, name)
    # a scan that the format has laid out itself (flyback, several frames at each position) is not asked for again
    meta = described(source.meta, None if laid_out else scan, left, sync_offset, scan_step, pixel, centre, rotation_deg)
    call = {
        "format": format, "scan": scan, "frame": frame, "sync_offset": sync_offset, "scan_step": scan_step, "pixel": pixel,
        "centre": centre, "rotation_deg": rotation_deg, "channel": channel, "io": None if io == "auto" else io, **given,
    }  # fmt: skip
    return _viewed(source, meta, call, channel)


def watch_source(
    uri: Any, *, format: str | None, scan: Any, frame: Any, frames: int | None, sync_offset: int | None, scan_step: Any, pixel: Any,
    centre: Any, rotation_deg: float | None, channel: str | None, options: Mapping[str, Any],
) -> tuple[FrameSource, Callable[[], int]] | None:  # fmt: skip
    """A file that is being written, and the function that counts its frames; None while it holds too little. See `libstream.api.watch`."""
    if not isinstance(uri, (str, os.PathLike)) or "://" in os.fspath(uri):
        raise UsageError(f"only files can be watched, got {uri!r}")
    path = Path(os.fspath(uri))
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return None
    name, fmt, location = _format_of(uri, format)
    if not isinstance(fmt, WatchesFiles):
        raise UsageError(
            f"{uri}: files of format {name} cannot be read while they are written (raw, npy and mib files can); open it when it is finished"
        )
    given, left = _options(fmt, name, scan, frame, options)
    if frames is None and scan is not None:
        frames = math.prod(scan_shape("scan", scan)) + max(0, sync_offset or 0)
    try:
        growing = fmt.watch(location, _made(fmt, name, given), frames)
    except CorruptFileError:
        return None  # not yet what it will be
    if growing is None:
        return None
    source = growing.source
    meta = described(source.meta, scan, left, sync_offset, scan_step, pixel, centre, rotation_deg)
    call = {
        "format": format, "scan": scan, "frame": frame, "sync_offset": sync_offset, "scan_step": scan_step, "pixel": pixel,
        "centre": centre, "rotation_deg": rotation_deg, "channel": channel, **given,
    }  # fmt: skip
    return _viewed(source, meta, call, channel), growing.present


def _options(fmt: Any, name: str, scan: Any, frame: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Options of the format by name, and `frame` where the format does not take it."""
    given = dict(options)
    known = {f.name for f in fields(fmt.options)}
    if frame is not None and "frame" in known:
        given["frame"], frame = scan_shape("frame", frame), None
    if scan is not None and "scan" in known:
        given["scan"] = scan_shape("scan", scan) if np.size(scan) else ()
    for option in given:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"format {name} takes no option {option!r}; {hint}it takes: {', '.join(sorted(known)) or 'none'}")
    return given, frame


def _made(fmt: Any, name: str, given: Mapping[str, Any]) -> Any:
    try:
        return fmt.options(**given)
    except (TypeError, ValueError) as exc:
        raise UsageError(f"options of format {name}: {exc}") from exc


def _viewed(source: FrameSource, meta: SourceMeta, call: Mapping[str, Any], channel: str | None) -> FrameSource:
    view = _View(source, meta)
    view.opened = {k: _plain(v) for k, v in call.items() if v is not None}
    return view if channel is None else view.channel(channel)


def _read_by(source: FrameSource, io: str, name: str) -> FrameSource:
    if io not in ("read", "direct"):
        raise UsageError(f"io must be 'auto', 'read' or 'direct', got {io!r}")
    if not isinstance(source.opener, ReadsInWays):
        raise UsageError(f"files of format {name} are read in one way only; leave io='{io}' out")
    other = copy.copy(source)
    other.opener = source.opener.with_io(io)
    return other


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (np.dtype, type)):
        return str(np.dtype(value))
    if isinstance(value, (Quantity, Path)):
        return str(value)
    return value


# -- which format --------------------------------------------------------------------------------------------------


def _format_of(uri: Any, name: str | None) -> tuple[str, Any, Any]:
    if not isinstance(uri, (str, os.PathLike)):
        return "memory", registry.load("formats", "memory")(), uri
    text = os.fspath(uri)
    if "://" in text:
        scheme = text.split("://", 1)[0]
        return scheme, registry.load("formats", scheme)(), text
    path = Path(text)
    if not path.exists():
        raise FileNotFoundError(_not_found(path))
    if path.is_dir():
        return _format_of_folder(path, name)
    if name is not None:
        return name, registry.load("formats", name)(), text
    if path.stat().st_size == 0:
        raise FormatError(f"{path} is empty (0 bytes): nothing to open. Was the copy or the acquisition interrupted?")
    with open(path, "rb") as f:
        head = f.read(HEAD_BYTES)
    best: tuple[float, str, Any] | None = None
    broken: list[str] = []
    for plugin in registry.plugins("formats"):
        try:
            fmt = registry.load("formats", plugin.name)()
        except NotInstalledError as exc:  # a plug-in that cannot be imported does not close the others' files
            broken.append(str(exc))
            continue
        sure = fmt.probe(head, text)
        if sure > 0 and (best is None or sure > best[0]):
            best = (sure, plugin.name, fmt)
    if best is None:
        names = ", ".join(p.name for p in registry.plugins("formats") if p.name not in ("memory", "sim"))
        raise FormatError(
            f"{path}: no format recognises this file (it starts with {head[:16]!r}). Known formats: {names}. "
            "For headerless data pass format='raw', dtype= and frame=, e.g. ls.open(path, format='raw', dtype='uint16', frame=(256, 256))"
            + "".join(f". Not asked: {b}" for b in broken)
        )
    return best[1], best[2], text


def _format_of_folder(path: Path, name: str | None) -> tuple[str, Any, Any]:
    for plugin in [name] if name is not None else [p.name for p in registry.plugins("formats")]:
        try:
            fmt = registry.load("formats", plugin)()
        except NotInstalledError:
            if name is not None:
                raise
            continue
        if isinstance(fmt, OpensFolders) and (name is not None or fmt.probe_folder(str(path)) > 0):
            return plugin, fmt, str(path)
    raise FormatError(f"{path} is a folder{'' if name is None else f', not a file of format {name}'}; pass one of the files in it")


def _not_found(path: Path) -> str:
    folder = path.parent if str(path.parent) else Path()
    if not folder.is_dir():
        return f"{path}: there is no folder {folder}"
    near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=3)
    return f"{path}: no such file" + (f"; did you mean {' or '.join(near)}?" if near else f" in {folder.resolve()}")


# -- what the user adds ----------------------------------------------------------------------------------------------


def scan_shape(name: str, given: Any) -> tuple[int, ...]:
    """A shape that a user gave as `name`: a size or a tuple of sizes. Raises UsageError, ShapeError."""
    if isinstance(given, (int, np.integer)):
        given = (given,)
    try:
        shape = tuple(operator.index(n) for n in given)
    except TypeError:
        raise UsageError(f"{name} must be a tuple of sizes such as (256, 256), got {given!r}") from None
    if any(n < 1 for n in shape):
        raise ShapeError(f"{name} {shape}: sizes must be >= 1")
    return shape


def described(
    meta: SourceMeta, scan: Any, frame: Any, sync_offset: int | None, scan_step: Any, pixel: Any, centre: Any, rotation_deg: float | None
) -> SourceMeta:  # fmt: skip
    """`meta` with what the user says of it; None leaves what it says itself. Raises ShapeError, UsageError, ParameterError."""
    sig = meta.shape.sig
    if frame is not None:
        sig = scan_shape("frame", frame)
        if math.prod(sig) != meta.shape.frame_size:
            raise ShapeError(f"frame={sig} has {math.prod(sig)} pixels, the file's frames have {meta.shape.frame_size} {meta.shape.sig}")
    nav, n = meta.shape.nav, meta.n_frames
    notes = list(meta.notes)
    if scan is not None:
        nav = scan_shape("scan", scan) if np.size(scan) else ()
        count = math.prod(nav)
        if count != n and sync_offset is None:
            raise ShapeError(
                f"scan={nav} has {count} positions, but {meta.id.uri} holds {n} frames; pass {_suggest(n)}"
                ", or sync_offset=0 to open it all the same (positions without a frame stay unseen, surplus frames are left out)"
            )
        if count != n or sync_offset:
            notes.append(_sync_note(count, n, sync_offset or 0))
        notes = [note for note in notes if "pass scan=" not in note]
    elif sync_offset:
        notes.append(_sync_note(math.prod(nav), n, sync_offset))
    elif len(nav) == 1 and n > 3 and not any("scan=" in note for note in notes):
        notes.append(f"{n} frames in a row: pass {_suggest(n)} if they are a scan")
    shape = DataShape(nav, sig)
    axes = list(default_axes(shape))
    if nav == meta.shape.nav:
        axes[: len(nav)] = meta.nav_axes
    elif scan is not None and meta.nav_axes and len(nav) and any(a.calibrated for a in meta.nav_axes):
        axes[len(nav) - 1] = replace(meta.nav_axes[-1], name=axes[len(nav) - 1].name, size=nav[-1])
    if sig == meta.shape.sig:
        axes[len(nav) :] = meta.sig_axes
    axes[: len(nav)] = _calibrated("scan_step", axes[: len(nav)], scan_step)
    axes[len(nav) :] = _calibrated("pixel", axes[len(nav) :], pixel)
    if centre is not None:
        centre = tuple(float(c) for c in np.ravel(centre))
        if len(centre) != len(sig):
            raise UsageError(f"centre must be {'(y, x)' if len(sig) == 2 else 'one number'} in px, got {centre}")
    return meta.with_(
        shape=shape, axes=tuple(axes), sync_offset=sync_offset or 0, notes=tuple(notes),
        centre=centre if centre is not None else meta.centre,
        rotation_deg=float(rotation_deg) if rotation_deg is not None else meta.rotation_deg,
    )  # fmt: skip


def _sync_note(count: int, n: int, sync: int) -> str:
    covered = max(0, min(count, n - sync) - max(0, -sync))
    return f"sync_offset {sync}: {covered} of {count} positions have a frame, {n - covered} of {n} frames are left out"


def _suggest(n: int) -> str:
    rows = next((r for r in range(math.isqrt(n), 1, -1) if n % r == 0), None)
    return f"scan=({rows}, {n // rows})" if rows else f"scan=({n},)"


def _calibrated(option: str, axes: list[Axis], given: Any) -> list[Axis]:
    if given is None:
        return axes
    values = list(given) if isinstance(given, (tuple, list)) else [given] * len(axes)
    if len(values) != len(axes):
        raise UsageError(f"{option} takes one quantity or {len(axes)} of them (one an axis, slow axis first), got {given!r}")
    out = []
    for axis, value in zip(axes, values, strict=True):
        q = Quantity.parse(value)
        if q.unit == "px" or not q.value > 0:
            raise ParameterError(f"{option} must be a positive number with a unit, such as '0.4 nm', got {value!r}")
        out.append(replace(axis, step=q.value, offset=0.0, unit=q.unit))
    return out


# -- the source as the user sees it ------------------------------------------------------------------------------------


class _View(FrameSource):
    """A format's source with the scan and frame shapes, calibration and sync that the user gave."""

    def __init__(self, base: FrameSource, meta: SourceMeta) -> None:
        opener, stored = base.opener, base.meta.shape.sig
        if meta.shape.sig != stored:
            alike = tuple(c for c in meta.channels if base.channel_meta(c).shape.sig == stored)
            opener = _Reframed(opener, meta.shape.sig, stored, alike)
        super().__init__(meta, opener, base.channel_name)
        self.base, self.described = base, meta

    def partitions(self, planned: Iterable[Partition]) -> Iterator[Partition]:
        sync = self.meta.sync_offset
        if not sync:
            return self.base.partitions(planned)
        # positions of the base are its frames
        return (_shifted(p, -sync) for p in self.base.partitions(_shifted(p, sync) for p in planned))

    def channel_meta(self, name: str) -> SourceMeta:
        m = self.base.channel_meta(name)
        if m.shape.sig == self.base.meta.shape.sig:
            return self.described.with_(dtype=m.dtype, vendor=m.vendor)
        shape = DataShape(self.described.shape.nav, m.shape.sig)
        axes = (*self.described.nav_axes, *m.sig_axes)
        return self.described.with_(shape=shape, axes=axes, dtype=m.dtype, centre=m.centre, vendor=m.vendor)

    def channel(self, name: str) -> FrameSource:
        other = copy.copy(super().channel(name))
        other.opened = {**self.opened, "channel": name}
        return other


def _shifted(p: Partition, by: int) -> Partition:
    return replace(p, runs=p.runs + by, lost=None if p.lost is None else (p.lost[0] + by, p.lost[1]))


@dataclass(frozen=True)
class _Reframed:
    """Opens readers whose frames are reshaped; those of channels with other frames are left as they are."""

    opener: Opener
    sig: tuple[int, ...]
    stored: tuple[int, ...]
    channels: tuple[str, ...]

    def open_reader(self, channel: str) -> FrameReader:
        reader = self.opener.open_reader(channel)
        return _ReframedReader(reader, self.sig, self.stored) if channel in self.channels else reader


class _ReframedReader:
    def __init__(self, reader: FrameReader, sig: tuple[int, ...], stored: tuple[int, ...]) -> None:
        self.reader, self.sig, self.stored = reader, sig, stored
        self.in_memory = reader.in_memory

    def read_into(self, out: _Arr, frames: Span, region: Region) -> _Arr | None:
        if region.shape != self.sig:
            whole = np.empty((len(frames), *self.sig), out.dtype)
            valid = self.read_into(whole, frames, Region.whole(self.sig))
            out[...] = whole[:, *region.slices]
            return valid
        return self.reader.read_into(out.reshape(len(frames), *self.stored), frames, Region.whole(self.stored))

    def view(self) -> _Arr | None:
        view = self.reader.view()
        if view is None:
            return None
        reshaped = view.reshape(len(view), *self.sig)
        return reshaped if np.shares_memory(reshaped, view) else None

    def valid(self, frames: Span) -> _Arr | None:
        return self.reader.valid(frames)

    def check(self) -> None:
        self.reader.check()

    def close(self) -> None:
        self.reader.close()
