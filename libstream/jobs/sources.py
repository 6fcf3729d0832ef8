"""Sources for a server: opened, described, looked at."""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from libstream import api, registry
from libstream.contracts.source import FrameSource, OpensFolders
from libstream.errors import LibstreamError, UsageError
from libstream.jobs.arrays import plain
from libstream.jobs.outputs import axis_json
from libstream.live.watch import WatchedAcquisition, WatchedFile
from libstream.model.source import SourceMeta
from libstream.route.acquisition import RoutedAcquisition

OPEN_OPTIONS = ("format", "scan", "frame", "sync_offset", "scan_step", "pixel", "centre", "rotation_deg", "channel", "io")
ACQUISITIONS = (api.Acquisition, WatchedAcquisition, RoutedAcquisition)
"""Sources whose frames come while they are processed."""
LIVE_OPTIONS = (
    "scan", "order", "flyback", "frames_per_position", "scan_step", "pixel", "centre", "rotation_deg", "ring_bytes", "max_message_bytes",
    "policy", "stall_timeout_s", "record",
)  # fmt: skip


def is_live(uri: str, options: Mapping[str, Any] | None = None) -> bool:
    """True for the address of a detector, and for a file that is to be watched while it is written (option `watch`)."""
    scheme, sep, _ = uri.partition("://")
    if not sep:
        return bool((options or {}).get("watch"))
    return scheme in {p.name for p in registry.plugins("detectors")}


def is_address(uri: str) -> bool:
    """True for what is no path: an address of a detector or of a format."""
    return "://" in uri


def open_file(uri: str, options: Mapping[str, Any]) -> FrameSource:
    """Open stored frames; a UDF that fails over them stops alone. Raises what `ls.open` raises."""
    source = copy.copy(api.open(uri, **_checked(options)))
    source.keeps_going = True
    return source


def connect(uri: str, options: Mapping[str, Any], executor: str = "threads") -> api.LiveSource | Growing:
    """Connect to a detector, or watch a file. Raises what `ls.connect` and `ls.watch` raise.

    executor: where UDFs run; to workers elsewhere frames go by a router.
    """
    given = _checked(options)
    if given.pop("watch", False):
        return Growing(api.watch(uri, **given))
    if "://" in executor or executor == "slurm" or uri.startswith("router:"):
        given["executor"] = executor
    return api.connect(uri, **given)


class Growing:
    """A file that is being written, as a detector with one acquisition."""

    def __init__(self, watched: WatchedFile) -> None:
        self.uri, self._watched, self._taken = watched.uri, watched, False
        self._acquisition: WatchedAcquisition | None = None
        self._closed = threading.Event()

    def wait(self, timeout_s: float) -> WatchedAcquisition | None:
        """Its acquisition, once; None after `timeout_s` seconds. Raises LibstreamError when closed."""
        if self._acquisition is not None:
            if self._closed.wait(timeout_s):
                raise LibstreamError(f"{self.uri} is closed")
            return None
        self._acquisition = self._watched.wait(timeout_s)
        if self._acquisition is not None:
            self._acquisition.keeps_going = True
        return self._acquisition

    @property
    def state(self) -> str:
        """waiting, running or closed; "waiting" too when all is there."""
        state = self._watched.state
        return state if state in ("running", "closed") else "waiting"

    @property
    def problems(self) -> tuple[str, ...]:
        """None: a file has no messages."""
        return ()

    def status(self) -> dict[str, Any]:
        """As that of a `LiveSource`, as far as a file has such things."""
        return {"fill": 0.0, "blocked": False, "problems": 0, "recorded_bytes": 0, "recording_error": None}

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._watched.close()


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(options, Mapping) or not all(isinstance(k, str) and k.isidentifier() for k in options):
        raise UsageError("options are an object of names and values")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items() if v is not None}


def describe(source: FrameSource, kind: str, number: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """A source as a part of the state."""
    meta = source.meta
    return {
        "state": "ready", "kind": kind, "uri": meta.id.uri, "name": name_of(meta.id.uri), "format": meta.id.kind, "id": number,
        "error": None,
        "nav": list(meta.shape.nav), "sig": list(meta.shape.sig), "dtype": str(meta.dtype), "bytes": meta.n_bytes,
        "axes": [axis_json(a) for a in meta.axes], "channels": [channel_json(source, name) for name in meta.channels],
        "centre": [float(c) for c in (meta.centre or tuple((n - 1) / 2 for n in meta.shape.sig))], "centre_known": meta.centre is not None,
        "rotation_deg": meta.rotation_deg, "notes": list(meta.notes), "options": plain(dict(options)),
    }  # fmt: skip


def unarmed(uri: str, kind: str, number: int, state: str, options: Mapping[str, Any], error: Any = None) -> dict[str, Any]:
    """A source that has no shape (yet)."""
    return {
        "state": state, "kind": kind, "uri": uri, "name": name_of(uri), "format": uri.split("://")[0] if is_address(uri) else None,
        "id": number, "error": error, "nav": None, "sig": None, "dtype": None, "bytes": None, "axes": [], "channels": [], "centre": None,
        "centre_known": False, "rotation_deg": None, "notes": [], "options": plain(dict(options)),
    }  # fmt: skip


def channel_json(source: FrameSource, name: str) -> dict[str, Any]:
    """One channel as a part of the state."""
    meta = source.channel_meta(name)
    return {"name": name, "sig": list(meta.shape.sig), "dtype": str(meta.dtype)}


def name_of(uri: str) -> str:
    """A short name for people."""
    return uri.split("?")[0].split("#")[0] if is_address(uri) else Path(uri).name


def probe(uri: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `uri` is, without keeping it open. Never raises for a file that cannot be opened: `error` says why."""
    out: dict[str, Any] = {
        "format": None, "nav": None, "sig": None, "dtype": None, "bytes": None, "frames": None, "channels": [], "notes": [], "error": None,
        "options": None,
    }  # fmt: skip
    try:
        if is_live(uri):
            return {**out, "format": uri.split("://")[0]}
        source = api.open(uri, **_checked(options or {}))
    except (LibstreamError, OSError, ValueError, TypeError) as exc:
        return {**out, "error": str(exc)}
    meta = source.meta
    out |= {
        "format": meta.id.kind, "nav": list(meta.shape.nav), "sig": list(meta.shape.sig), "dtype": str(meta.dtype), "bytes": meta.n_bytes,
        "frames": meta.n_frames, "channels": [channel_json(source, n) for n in meta.channels], "notes": list(meta.notes),
        "options": format_options(meta.id.kind),
    }  # fmt: skip
    return out


def formats() -> list[dict[str, Any]]:
    """All formats: name, suffixes, JSON schema of the options."""
    out = []
    for plugin in registry.plugins("formats"):
        if plugin.name == "memory":
            continue
        with contextlib.suppress(Exception):  # a plug-in that cannot be imported opens nothing
            kind = registry.load("formats", plugin.name)
            out.append({"name": plugin.name, "suffixes": list(kind.suffixes), "options": format_options(plugin.name)})
    return out


def folder_format(path: str) -> str | None:
    """Name of the format that opens a folder as a whole (a recording), None where it is a folder like any other. Never raises."""
    for plugin in registry.plugins("formats"):
        with contextlib.suppress(Exception):  # a plug-in that cannot be imported opens nothing
            kind = registry.load("formats", plugin.name)()
            if isinstance(kind, OpensFolders) and kind.probe_folder(path) > 0:
                return plugin.name
    return None


def detectors() -> list[dict[str, Any]]:
    """All kinds of detectors: name, and an example of an address."""
    out = []
    for plugin in registry.plugins("detectors"):
        with contextlib.suppress(Exception):
            kind = registry.load("detectors", plugin.name)
            out.append({"name": plugin.name, "hint": getattr(kind, "hint", "")})
    return out


def format_options(name: str) -> dict[str, Any] | None:
    """JSON schema of the options of a format, None where it is unknown."""
    from pydantic import TypeAdapter

    if name not in {p.name for p in registry.plugins("formats")}:
        return None
    cls = registry.load("formats", name).options
    if not is_dataclass(cls):
        return None
    try:
        schema: dict[str, Any] = TypeAdapter(cls).json_schema()
    except Exception:  # noqa: BLE001  options that pydantic does not understand have no form
        return None
    for f in fields(cls):
        prop = schema.get("properties", {}).get(f.name)
        if prop is not None:
            prop |= {k: v for k, v in f.metadata.items() if k in ("title", "description") and k not in prop}
    return schema


def frame_at(source: FrameSource, at: tuple[int, ...] | None, channel: str | None) -> np.ndarray[Any, Any]:
    """The frame at a scan position of the last two axes (the first plane of a series), or the newest one.

    Raises LibstreamError, OSError where there is none.
    """
    seen = source if channel is None else source.channel(channel)
    nav = source.meta.shape.nav
    if at is None:
        flat = newest(source)
        at = tuple(int(i) for i in np.unravel_index(flat, nav)) if nav else ()
    at = (0,) * (len(nav) - len(at)) + tuple(at)
    at = at[len(at) - len(nav) :]
    if any(not 0 <= i < n for i, n in zip(at, nav, strict=True)):
        raise UsageError(f"position {tuple(at)} is outside of the scan {nav}")
    return np.asarray(seen[at] if nav else seen[...])


def newest(source: FrameSource) -> int:
    """Flat position of the frame that arrived last; 0 for stored frames."""
    if isinstance(source, WatchedAcquisition):
        return max(0, min(source.n_arrived, source.meta.shape.n_positions) - 1)
    return (source.newest or 0) if isinstance(source, (api.Acquisition, RoutedAcquisition)) else 0


def memory_of(meta: SourceMeta) -> int:
    """Bytes of one frame."""
    return math.prod(meta.shape.sig) * meta.dtype.itemsize
