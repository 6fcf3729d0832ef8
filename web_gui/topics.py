"""What can be subscribed to: arrays of the session, planes of them, frames, records. Encoded once for all who want the same."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from libstream.errors import LibstreamError
from libstream.jobs.analyses import frames_id
from libstream.jobs.store import Held, Store
from libstream.model.corrections import Corrections
from libstream.web_gui import wire

_Arr = np.ndarray[Any, Any]

FRAMES_KEPT = 16
KEPT_BYTES = 128 << 20
"""Memory for frames, and the same for values that are prepared for sending."""
MISSING_S = 0.5
"""A frame that is not there is looked for again after this time."""
MESSAGES_BYTES = 64 << 20
"""Memory for encoded messages: enough that browsers which are not exactly in step share them."""
MESSAGES_MOST = 512
"""Most of them: some rows of a map are small, and what is kept beside each one is not."""
RECORDS_MAX = 100_000


class Shown(Protocol):
    """What is looked at: the session of a server, or the run that a view in a notebook shows."""

    store: Store

    @property
    def current(self) -> tuple[Any, int]:
        """The source (or None), and a number that no other one had."""

    @property
    def newest(self) -> int:
        """Flat position of the frame that arrived last."""

    @property
    def corrections(self) -> tuple[dict[str, Any], Corrections | None]:
        """What the state says of the corrections, and the corrections."""

    def frame(self, at: tuple[int, ...] | None, channel: str | None) -> _Arr:
        """The raw frame at a scan position, or the newest one; waits. Raises LibstreamError, OSError."""


@dataclass(frozen=True)
class Key:
    """What a subscription asks for."""

    topic: str
    at: tuple[int, ...] | None = None
    channel: str | None = None


@dataclass(frozen=True)
class View:
    """One version of what a key shows. make: computes the values, when they are first asked for, in any thread.

    by_rows: rows of `held` are rows of this view.
    """

    key: Key
    version: int
    gen: int
    final: bool
    t_ms: int
    shape: tuple[int, ...]
    make: Callable[[], _Arr] = field(repr=False, compare=False)
    held: Held | None = field(repr=False, compare=False, default=None)
    by_rows: bool = False
    fields: tuple[str, ...] = ()

    @property
    def rough(self) -> bool:
        """True while a part of it is guessed from positions near by."""
        return self.held is not None and self.held.is_rough

    def rows_since(self, version: int) -> tuple[int, int] | None:
        """Rows that changed since `version`; None = all."""
        return self.held.rows_since(version) if self.held is not None and self.by_rows else None


@dataclass(frozen=True)
class Values:
    """Values of a view as they are shown, and their limits."""

    array: _Arr
    span: tuple[float, float] | None


class Hub:
    """Views by key, and messages made of them. Methods may be called from any thread; none of them waits for the engine.

    pool: where frames are read. wake: called when a frame has been read.
    """

    def __init__(self, session: Shown, pool: Executor, wake: Callable[[], None]) -> None:
        self._session, self._pool, self._wake = session, pool, wake
        self._lock = threading.Lock()
        self._count = itertools.count(1)
        self._frames: OrderedDict[tuple[Any, ...], tuple[View, float]] = OrderedDict()
        self._loading: set[tuple[Any, ...]] = set()
        self._values: OrderedDict[tuple[Any, ...], Values] = OrderedDict()
        self._messages: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._bytes = 0
        self.encoded = 0

    # -- which view ----------------------------------------------------------------------------------------------------

    def view(self, key: Key) -> View | None:
        """The newest version of `key`, None where there is none (yet)."""
        parts = key.topic.split("/")
        if parts[0] == "frame":
            if len(parts) == 2 and parts[1] in ("mean", "max"):
                held = self._session.store.get(f"a/{frames_id(parts[1], key.channel)}/{parts[1]}")
                return None if held is None else _plain(key, held)
            return self._frame(key) if len(parts) == 1 else None
        if parts[0] == "r":
            return self._ragged(key, parts)
        held = self._session.store.get(key.topic)
        if held is not None:
            return _plain(key, held) if not held.info.planes else None
        stem, _, index = key.topic.rpartition("/")
        held = self._session.store.get(stem) if re.fullmatch(r"\d{1,9}", index) else None
        if held is None or int(index) >= held.info.planes:
            return None
        return _plane(key, held, int(index))

    def _ragged(self, key: Key, parts: list[str]) -> View | None:
        count = len(parts) == 4 and parts[3] == "count"
        held = self._session.store.get("/".join(parts[:3]))
        if held is None or len(parts) > 3 + count:
            return None
        ragged, seen = held.array, held.seen
        if count:
            return _view(key, held, ragged.nav if len(ragged.nav) else (1,), lambda: wire.displayed(ragged.counts, seen))
        if key.at is None:
            return None
        nav = ragged.nav
        at = (0,) * (len(nav) - len(key.at)) + key.at
        if len(at) != len(nav) or any(not 0 <= i < n for i, n in zip(at, nav, strict=True)):
            return None
        records = ragged.at(int(np.ravel_multi_index(at, nav)) if nav else 0)[:RECORDS_MAX]
        names = held.info.fields
        shape = (len(records), len(names))

        def make() -> _Arr:
            if records.dtype.names:
                return np.stack([records[n].astype(np.float64) for n in records.dtype.names], axis=-1)
            return records.reshape(len(records), -1).astype(np.float64)

        return _view(key, held, shape, make, names)

    def _frame(self, key: Key) -> View | None:
        """The frame if it was read already; else it is read in the pool, and `wake` is called then."""
        session = self._session
        source, number = session.current
        if source is None or (key.channel is not None and key.channel not in source.meta.channels):
            return None
        newest = session.newest if key.at is None else None
        shown, corrections = session.corrections
        corrections = corrections if shown["on"] else None
        name = (number, key, newest, None if corrections is None else corrections.digest)
        with self._lock:
            view, good_until = self._frames.get(name, (None, 0.0))
            if view is not None and time.monotonic() < good_until:
                self._frames.move_to_end(name)
                return view
            if name not in self._loading and len(self._loading) < FRAMES_KEPT:
                self._loading.add(name)
                self._pool.submit(self._load, key, name, source, corrections)
        return None

    def _load(self, key: Key, name: tuple[Any, ...], source: Any, corrections: Corrections | None) -> None:
        meta = source.meta if key.channel is None else source.channel_meta(key.channel)
        good_for = float("inf")
        try:
            frame = self._session.frame(key.at, key.channel)
            array = wire.displayed(frame if corrections is None else corrections.apply(frame), None)
        except (LibstreamError, OSError, ValueError):
            # not there: nothing was seen of it; of a live acquisition it may still come
            array, good_for = np.full(meta.shape.sig, np.nan, np.float32), MISSING_S
        view = View(key, next(self._count), 0, True, time.time_ns() // 1_000_000, array.shape, lambda: array)
        with self._lock:
            self._loading.discard(name)
            self._frames[name] = view, time.monotonic() + good_for
            most = max(2, min(FRAMES_KEPT, KEPT_BYTES // max(1, array.nbytes)))
            while len(self._frames) > most:
                self._frames.popitem(last=False)
        self._wake()

    # -- messages ------------------------------------------------------------------------------------------------------

    def made(self, name: tuple[Any, ...]) -> bytes | None:
        """The message of this name, (key, version, name of the level, rows, whole, keep), where it was made before."""
        with self._lock:
            found = self._messages.get(name)
            if found is not None:
                self._messages.move_to_end(name)
            return found

    def message(self, view: View, level: wire.Level, rows: tuple[int, int] | None, *, whole: bool, keep: bool = False) -> bytes:
        """One message, made once for all who want the same. Takes about 1 ms for 512 x 512 values: not for the event loop."""
        name = (view.key, view.version, level.name, rows, whole, keep)
        found = self.made(name)
        if found is not None:
            return found
        values = self.values(view)
        fields, payload = wire.encode(values.array, level, rows, values.span)
        header: dict[str, Any] = {"topic": view.key.topic, "v": view.version, **fields, "whole": whole, "gen": view.gen, "ts": view.t_ms,
                                  "final": view.final}  # fmt: skip
        if keep:
            header["keep"] = True
        if view.rough:
            header["rough"] = True
        if view.key.at is not None:
            header["at"] = list(view.key.at)
        if view.key.channel is not None:
            header["channel"] = view.key.channel
        if view.fields:
            header["fields"] = list(view.fields)
        message = wire.pack(header, payload)
        with self._lock:
            self.encoded += 1
            self._messages[name] = message
            self._bytes += len(message)
            while (self._bytes > MESSAGES_BYTES and len(self._messages) > 1) or len(self._messages) > MESSAGES_MOST:
                _, old = self._messages.popitem(last=False)
                self._bytes -= len(old)
        return message

    def values(self, view: View) -> Values:
        """Values of a view, kept while it is new."""
        name = (view.key, view.version)
        with self._lock:
            found = self._values.get(name)
            if found is not None:
                self._values.move_to_end(name)
                return found
        array = view.make()
        made = Values(array, wire.limits(array))
        with self._lock:
            for old in [n for n in self._values if n[0] == view.key]:
                del self._values[old]
            self._values[name] = made
            while len(self._values) > 1 and sum(v.array.nbytes for v in self._values.values()) > KEPT_BYTES:
                self._values.popitem(last=False)
        return made

    def pixel(self, key: Key, y: int, x: int) -> Any:
        """The exact value at a pixel: a number, a list of components, or None where it was not seen. Raises LibstreamError."""
        view = self.view(key)
        if view is None:
            return None
        held = view.held
        array = self.values(view).array if held is None or key.topic.startswith("r/") else held.array
        if held is not None and held.info.planes and array is held.array:
            array = held.info.plane(array, int(key.topic.rpartition("/")[2]))
        index = (x,) if array.ndim == 1 else (y, x)
        if any(not 0 <= i < n for i, n in zip(index, array.shape, strict=False)):
            return None
        seen = None if held is None else held.seen
        if seen is not None and seen.shape == array.shape[: seen.ndim] and not seen[index[: seen.ndim]]:
            return None
        value = np.asarray(array[index])
        if value.dtype.kind == "c":
            value = np.stack([value.real, value.imag], axis=-1)
        if value.dtype.names or value.size > 16:
            return None
        flat = [None if v != v or abs(v) == float("inf") else v for v in value.reshape(-1).tolist()]
        return flat[0] if value.ndim == 0 else flat


def _view(key: Key, held: Held, shape: tuple[int, ...], make: Callable[[], _Arr], fields: tuple[str, ...] = (), rows: bool = False) -> View:
    return View(key, held.version, held.gen, held.final, held.t_ms, tuple(shape), make, held, rows, fields)


def _plain(key: Key, held: Held) -> View:
    array = held.array
    if array.dtype.kind not in "biufc":
        return _view(key, held, (0,), lambda: np.zeros(0, np.float32))
    shape = (*array.shape, 2) if array.dtype.kind == "c" else array.shape
    return _view(key, held, shape, lambda: wire.displayed(*held.drawn()), rows=True)


def _plane(key: Key, held: Held, index: int) -> View:
    info = held.info
    array = info.plane(held.array, index)

    def make() -> _Arr:
        drawn, seen = held.drawn()
        if seen is not None and not info.plane_last:
            seen = info.plane(seen, index)
        return wire.displayed(info.plane(drawn, index), seen)

    shape = (*array.shape, 2) if array.dtype.kind == "c" else array.shape
    return _view(key, held, shape, make, rows=info.plane_last)
