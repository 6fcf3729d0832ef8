"""Runs that are over: what they were, a thumbnail, and their results as long as there is room."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from libstream.jobs.analysis import Analysis
from libstream.jobs.arrays import array_of, json_array
from libstream.jobs.store import Held, Store, size_of

_Arr = np.ndarray[Any, Any]

ENTRIES = 50
MEMORY = 256 << 20
"""Memory for results of past runs; the oldest ones go first, saved or not. Their entries stay."""
THUMB = 96
"""Longest side of a thumbnail in px."""


@dataclass
class Entry:
    """One run. source: what to open again, {"uri", "options"}, None where its frames are gone; results: topics that are in memory.

    number: of the source in its session, 0 for runs of earlier ones. setting: region of interest and corrections, as `Records` keeps them.
    """

    id: str
    t: int
    name: str
    kind: str
    uri: str
    source: dict[str, Any] | None
    number: int
    state: str = "done"
    positions: int = 0
    processed: int = 0
    dropped: int = 0
    seconds: float = 0.0
    saved: str | None = None
    analyses: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    thumb: _Arr | None = None
    setting: dict[str, Any] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """As a part of the state."""
        return {
            "id": self.id, "t": self.t, "source": self.uri, "name": self.name, "kind": self.kind, "positions": self.positions,
            "processed": self.processed, "dropped": self.dropped, "seconds": self.seconds, "state": self.state, "saved": self.saved,
            "thumb": f"api/history/{self.id}/thumb.png?{self.processed}" if self.thumb is not None else None,
            "analyses": [{k: a[k] for k in ("id", "udf", "title", "params")} for a in self.analyses], "results": list(self.results),
            "rerun": self.source is not None,
        }  # fmt: skip

    def kept(self) -> dict[str, Any]:
        """As a file keeps it: all but the results."""
        thumb = None if self.thumb is None else json_array(self.thumb)
        return {**{f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("results", "number")}, "thumb": thumb}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Entry:
        """The inverse of `kept`. Raises UsageError, TypeError, KeyError for what is none."""
        thumb = data["thumb"]
        return cls(**{**data, "number": 0, "thumb": None if thumb is None else array_of(thumb, "thumbnail")})


class History:
    """Entries, newest first. Used with the session's lock held."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._count = itertools.count(1)
        self.entries: list[Entry] = []
        self._view: list[dict[str, Any]] | None = None

    def view(self) -> list[dict[str, Any]]:
        """As a part of the state; the same object until `touch`."""
        if self._view is None:
            self._view = [e.json() for e in self.entries]
        return self._view

    def touch(self) -> None:
        """An entry was changed."""
        self._view = None

    def of(self, number: int) -> Entry | None:
        """The entry of a source, by its number."""
        return next((e for e in self.entries if e.number == number and number), None)

    def get(self, id: str) -> Entry | None:
        """An entry by its id."""
        return next((e for e in self.entries if e.id == id), None)

    def note(self, number: int, t: int, name: str, kind: str, uri: str, source: dict[str, Any] | None) -> Entry:
        """The entry of a source; a new one where there is none."""
        entry = self.of(number)
        if entry is None:
            taken = {e.id for e in self.entries}
            id = next(i for n in self._count if (i := f"r{n}") not in taken)
            entry = Entry(id, t, name, kind, uri, source, number)
            self.entries.insert(0, entry)
            for old in self.entries[ENTRIES:]:
                self._store.drop(f"h/{old.id}/")
            del self.entries[ENTRIES:]
        return entry

    def remove(self, id: str) -> None:
        """Forget an entry."""
        self.touch()
        self._store.drop(f"h/{id}/")
        self.entries = [e for e in self.entries if e.id != id]

    def store(self, entry: Entry, analyses: Mapping[str, Analysis]) -> None:
        """Move the results of `analyses` to the entry's topics, and make room."""
        self.touch()
        entry.results = []
        for a in analyses.values():
            for info in a.outputs:
                topic = a.topic(info)
                held = self._store.get(topic)
                if a.hidden or held is None or info.display == "ragged" or size_of(held.array) > MEMORY // 2:
                    continue
                to = f"h/{entry.id}/{a.id}/{info.name}"
                self._store.move(topic, to)
                entry.results.append({"topic": to, "title": f"{a.title}: {info.title or info.name}", "output": info.json(to)})
        for old in reversed(self.entries):
            if self._store.n_bytes("h/") <= MEMORY:
                break
            self._store.drop(f"h/{old.id}/")
            old.results = []


def thumbnail(held: Held) -> _Arr | None:
    """A small grey picture, uint8 (h, w), of an image; None where it is none. What was not seen is 0."""
    info, array = held.info, held.array
    if not isinstance(array, np.ndarray):
        return None
    if info.planes:
        array = info.plane(array, 0)
    if info.display == "vector":
        array = np.hypot(array[..., 0], array[..., 1])
    elif info.display == "complex":
        array = np.abs(array)
    elif info.display != "image":
        return None
    step = max(1, -(-max(array.shape) // THUMB))
    small = np.asarray(array[::step, ::step], np.float64)
    good = np.isfinite(small)
    if held.seen is not None and held.seen.shape == array.shape:
        good &= held.seen[::step, ::step]
    if not good.any():
        return None
    lo, hi = np.quantile(small[good], (0.01, 0.99))
    scaled = np.clip((small - lo) / (hi - lo if hi > lo else 1.0), 0, 1)
    return np.where(good, 1 + 254 * np.nan_to_num(scaled), 0).astype(np.uint8)
