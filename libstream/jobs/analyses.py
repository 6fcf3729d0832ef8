"""The analyses of a session: added, changed, arranged. What is computed of them is the runner's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from libstream.contracts.params import make
from libstream.contracts.udf import UDF
from libstream.errors import LibstreamError, UsageError
from libstream.jobs.analysis import TITLE_MAX, Analysis, free_id, parsed, snake
from libstream.jobs.catalog import Catalog

MOST = 64
FRAMES = {"mean": "Mean", "max": "Max"}
"""What a page can show beside single frames, and the UDFs that compute it."""


class Analyses:
    """Analyses by id, in their order. Any thread.

    again: called after something changed that has to be computed. told: called after something changed that has not.
    removed: called with the id of an analysis that is no more.
    """

    def __init__(
        self, catalog: Catalog, lock: threading.RLock, *,
        again: Callable[[], None], told: Callable[[], None], removed: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.by_id: dict[str, Analysis] = {}
        self._catalog, self._lock, self._again, self._told, self._removed = catalog, lock, again, told, removed
        self._colours = 0
        self._gen = 0
        self._wanted: Mapping[str, tuple[str, str | None]] = {}

    def shown(self) -> list[Analysis]:
        """All but the hidden ones."""
        with self._lock:
            return [a for a in self.by_id.values() if not a.hidden]

    def _keep(self, a: Analysis) -> None:
        """Generations go on where those of removed analyses ended: results of one that had this id are older."""
        a.gen = self._gen + 1
        if not a.hidden:
            a.colour, self._colours = self._colours, self._colours + 1
        self.by_id[a.id] = a

    def _drop(self, a: Analysis) -> None:
        self._gen = max(self._gen, a.gen)
        del self.by_id[a.id]
        self._removed(a.id)

    def add(
        self, udf: str, params: Mapping[str, Any] | None = None, *,
        channel: str | None = None, title: str | None = None, id: str | None = None,
    ) -> str:  # fmt: skip
        """Add an analysis by the name of its UDF; returns its id. Raises UsageError, ParameterError."""
        cls = self._catalog.get(udf)
        made = parsed(cls, params or {})
        with self._lock:
            if len([a for a in self.by_id.values() if not a.hidden]) >= MOST:
                raise UsageError(f"there are {MOST} analyses already; remove one")
            key = free_id(id if id is not None else snake(cls.__name__), self.by_id)
            self._keep(Analysis(key, udf, made, _title(title or spaced(cls.__name__)), channel=_channel(channel)))
        self._again()
        return key

    def remove(self, id: str) -> None:
        """Remove an analysis. Raises UsageError where there is none."""
        with self._lock:
            self._drop(self.get(id))
        self._again()

    def duplicate(self, id: str) -> str:
        """Add a copy of an analysis; returns its id."""
        with self._lock:
            a = self.get(id)
            key = free_id(f"{id.rstrip('0123456789').rstrip('_')}", self.by_id)
            self._keep(Analysis(key, a.name, a.udf, _title(f"{a.title} (copy)"[:TITLE_MAX]), channel=a.channel))
        self._again()
        return key

    def rename(self, id: str, title: str) -> None:
        """Give an analysis another title."""
        with self._lock:
            self.get(id).title = _title(title)
        self._told()

    def arrange(self, order: Sequence[str]) -> None:
        """Put analyses into another order; those that are not named come last."""
        with self._lock:
            if not isinstance(order, (list, tuple)) or len(set(map(str, order))) != len(order):
                raise UsageError("order is a list of different ids")
            for id in order:
                self.get(id)
            rest = [k for k in self.by_id if k not in order]
            kept = {k: self.by_id[k] for k in (*order, *rest)}
            self.by_id.clear()
            self.by_id.update(kept)
        self._told()

    def set(self, id: str, params: Mapping[str, Any], gen: int | None = None) -> int:
        """Change parameters (those that are named); returns the generation. The newest ones win. Raises ParameterError."""
        with self._lock:
            before = self.get(id).udf
        udf = parsed(type(before), params, before)
        return self._changed_udf(id, udf, gen)

    def reset(self, id: str) -> int:
        """Default parameters."""
        with self._lock:
            cls = type(self.get(id).udf)
        return self._changed_udf(id, make(cls, {}), None)

    def set_channel(self, id: str, channel: str | None) -> None:
        """Have an analysis look at another channel."""
        with self._lock:
            a = self.get(id)
            a.channel, a.gen = _channel(channel), a.gen + 1
        self._again()

    def _changed_udf(self, id: str, udf: UDF, gen: int | None) -> int:
        with self._lock:
            a = self.get(id)
            a.udf = udf
            a.gen = gen if gen is not None and a.gen < gen < 2**53 else a.gen + 1
            number = a.gen
        self._again()
        return number

    def get(self, id: Any) -> Analysis:
        """The analysis `id`. Raises UsageError where there is none."""
        a = self.by_id.get(id) if isinstance(id, str) else None
        if a is None or a.hidden:
            known = ", ".join(k for k, a in self.by_id.items() if not a.hidden) or "none"
            raise UsageError(f"there is no analysis {id!r}; there are: {known}")
        return a

    def want_frames(self, wanted: Iterable[tuple[str, str | None]]) -> None:
        """Compute the mean or the maximum of frames ("mean" or "max", channel) while someone looks at them."""
        with self._lock:
            self._wanted = {frames_id(kind, channel): (kind, channel) for kind, channel in wanted if kind in FRAMES}
            new = [k for k in self._wanted if k not in self.by_id]
            for key in new:
                kind, channel = self._wanted[key]
                udf = make(self._catalog.get(FRAMES[kind]), {})
                self._keep(Analysis(key, FRAMES[kind], udf, kind, channel=channel, hidden=True))
        if new:
            self._again()

    def drop_unwanted(self) -> None:
        """Forget hidden analyses that nobody looks at any more."""
        with self._lock:
            for id in [k for k, a in self.by_id.items() if a.hidden and k not in self._wanted]:
                self._drop(self.by_id[id])

    def new_classes(self) -> list[str]:
        """Take the newest classes of the user's own UDFs; says what was changed."""
        with self._lock:
            mine = [a for a in self.by_id.values() if ":" in a.name]
        said = []
        for a in mine:
            entry = self._catalog.find(a.name)
            if entry is None or entry.cls is None or entry.cls is type(a.udf):
                continue
            udf = adapted(entry.cls, a.udf)
            with self._lock:
                a.udf, a.gen = udf, a.gen + 1
            said.append(f"{a.title}: {entry.file} was saved, it runs again")
        return said

    def restore(self, saved: Iterable[Mapping[str, Any]]) -> list[str]:
        """Replace all by what `Analysis.saved` gave; says what could not be restored."""
        said = []
        with self._lock:  # the worker looks at them when all are there: one pass
            for a in self.shown():
                self.remove(a.id)
            self._colours = 0
            for one in saved:
                try:
                    self.add(one["udf"], one.get("params", {}), channel=one.get("channel"), title=one.get("title"), id=one.get("id"))
                except (LibstreamError, KeyError, TypeError) as exc:
                    said.append(f"{one.get('title') or one.get('udf')} could not be restored: {exc}")
        return said


def adapted(cls: type[UDF], before: UDF) -> UDF:
    """A UDF of a changed class, with the parameters of the old one that it still takes."""
    values = dict(before.parameters())
    while True:
        try:
            return make(cls, values)
        except LibstreamError:
            if not values:
                raise
            for name in list(values):
                rest = {k: v for k, v in values.items() if k != name}
                try:
                    return make(cls, rest)
                except LibstreamError:
                    continue
            values.popitem()


def frames_id(kind: str, channel: str | None) -> str:
    """Id of the hidden analysis for the mean or maximum of the frames of a channel."""
    return f"_{kind}" if channel is None else f"_{kind}_" + "".join(f"{b:02x}" for b in channel.encode())


def spaced(name: str) -> str:
    """ "VirtualDetector" as "Virtual detector"; abbreviations (FEM) as they are."""
    if name.isupper():
        return name
    words = snake(name).replace("_", " ")
    return words[:1].upper() + words[1:]


def _title(title: Any) -> str:
    if not isinstance(title, str) or not title.strip() or len(title) > TITLE_MAX:
        raise UsageError(f"a title is a text of 1 to {TITLE_MAX} characters")
    return title.strip()


def _channel(channel: Any) -> str | None:
    if channel is not None and not isinstance(channel, str):
        raise UsageError(f"a channel is a name or null, got {channel!r}")
    return channel
