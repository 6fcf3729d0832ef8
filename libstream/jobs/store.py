"""Newest arrays by topic, each with a version and the rows that changed: one writer a topic, readers that pull."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.jobs.outputs import OutputInfo

_Arr = np.ndarray[Any, Any]

LOG_LENGTH = 64
"""Changes of a topic that are remembered; who is further behind gets the whole array."""


@dataclass(frozen=True)
class Held:
    """One version of a topic. Arrays are never written again.

    array: ndarray or `Ragged`. seen: bool array of the scan's shape, False where the array holds only its fill; None = all seen.
    base: the version since which `log` is complete. log: (version, y0, y1) of each change, oldest first.
    sketch: (values, where they are to be drawn) for positions that were not seen yet, guessed from their neighbours; never saved.
    """

    version: int
    array: Any
    seen: _Arr | None
    gen: int
    final: bool
    t_ms: int
    info: OutputInfo
    base: int
    log: tuple[tuple[int, int, int], ...] = ()
    sketch: tuple[_Arr, _Arr] | None = None

    @property
    def is_rough(self) -> bool:
        """True while a part of what is drawn is guessed."""
        return self.sketch is not None and self.seen is not None and not self.seen.all()

    def drawn(self) -> tuple[Any, _Arr | None]:
        """The array, and where it is to be drawn, as they are shown: with what is guessed."""
        if self.sketch is None or self.seen is None or not self.is_rough:
            return self.array, self.seen
        values, where = self.sketch
        seen = self.seen.reshape(self.seen.shape + (1,) * (self.array.ndim - self.seen.ndim))
        return np.where(seen, self.array, values), self.seen | where

    def rows_since(self, version: int) -> tuple[int, int] | None:
        """Rows [y0, y1) of the first axis changed after `version`; None where that is not known, so all of them."""
        if version < self.base:
            return None
        rows = [(a, b) for v, a, b in self.log if v > version and b > a]
        return (min(a for a, _ in rows), max(b for _, b in rows)) if rows else (0, 0)


class Store:
    """Topics by name. Versions rise over all topics together, so that one that comes back is newer than it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self._count = itertools.count(1)

    def get(self, topic: str) -> Held | None:
        """The newest version of `topic`."""
        return self._held.get(topic)

    def topics(self) -> list[str]:
        """Names of all topics."""
        with self._lock:
            return list(self._held)

    def put(
        self, topic: str, array: Any, seen: _Arr | None, gen: int, final: bool, t_ms: int, info: OutputInfo,
        sketch: tuple[_Arr, _Arr] | None = None,
    ) -> bool:  # fmt: skip
        """Replace the newest version; False where nothing changed, or it is older than what is there. Arrays are kept, not copied."""
        old = self._held.get(topic)
        if old is not None and old.gen > gen:
            return False
        comparable = old is not None and old.gen == gen and old.info == info and old.sketch is sketch
        changed = changed_rows(old, array, seen) if old is not None and comparable else None
        if old is not None and changed is not None and changed[0] == changed[1] and old.final == final:
            return False
        with self._lock:
            version = next(self._count)
            if old is None or changed is None:
                held = Held(version, array, seen, gen, final, t_ms, info, version, sketch=sketch)
            else:
                log = (*old.log, (version, *changed))
                base = old.base
                while len(log) > LOG_LENGTH:
                    base, log = log[0][0], log[1:]
                held = Held(version, array, seen, gen, final, t_ms, info, base, log, sketch)
            self._held[topic] = held
        return True

    def drop(self, prefix: str) -> None:
        """Forget all topics that begin with `prefix`."""
        with self._lock:
            for topic in [t for t in self._held if t.startswith(prefix)]:
                del self._held[topic]

    def move(self, topic: str, to: str) -> None:
        """Give a topic another name."""
        with self._lock:
            held = self._held.pop(topic, None)
            if held is not None:
                version = next(self._count)
                self._held[to] = Held(version, held.array, held.seen, held.gen, held.final, held.t_ms, held.info, version)

    def n_bytes(self, prefix: str) -> int:
        """Memory of the topics that begin with `prefix`."""
        with self._lock:
            return sum(size_of(h.array) for t, h in self._held.items() if t.startswith(prefix))


def size_of(array: Any) -> int:
    """Bytes of an ndarray or a `Ragged`."""
    return int(array.nbytes) if isinstance(array, np.ndarray) else int(array.values.nbytes + array.offsets.nbytes)


def changed_rows(old: Held, array: Any, seen: _Arr | None) -> tuple[int, int] | None:
    """Rows [y0, y1) of the first axis in which values, or what was seen, differ; None where all have to be taken anew.

    Compared byte by byte (NaN equals NaN): what a UDF derives may change anywhere, whatever positions were added.
    """
    before = old.array
    if not isinstance(array, np.ndarray) or not isinstance(before, np.ndarray):
        return None
    if array.shape != before.shape or array.dtype != before.dtype or array.ndim == 0 or (seen is None) != (old.seen is None):
        return None
    differ = _rows_differ(before, array)
    if seen is not None and old.seen is not None and seen.ndim and seen.shape[0] == array.shape[0]:
        differ |= _rows_differ(old.seen, seen)
    at = np.flatnonzero(differ)
    return (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)


def _rows_differ(a: _Arr, b: _Arr) -> _Arr:
    n = a.shape[0]
    if not a.size:
        return np.zeros(n, bool)
    one, two = (np.ascontiguousarray(x).reshape(n, -1).view(np.uint8) for x in (a, b))
    if one.shape[1] % 8 == 0:
        one, two = one.view(np.uint64), two.view(np.uint64)
    return np.asarray((one != two).any(axis=1))
