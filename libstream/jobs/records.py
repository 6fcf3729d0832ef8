"""What a session keeps beside its analyses: history, pins, setups, layout, files."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libstream.api import Acquisition
from libstream.errors import LibstreamError, UsageError
from libstream.jobs.arrays import mask_of
from libstream.jobs.corrected import NONE, Corrected, Resolve, corrected, recipe
from libstream.jobs.history import ENTRIES, Entry, thumbnail
from libstream.jobs.keep import Keep
from libstream.jobs.runner import now_ms
from libstream.jobs.saving import combined, free_path, named
from libstream.jobs.sources import name_of

if TYPE_CHECKING:
    from libstream.jobs.session import Session

MOST_PINS = 8
LAYOUT_MAX = 64 << 10
OF_THE_SCAN = ("scan", "order", "flyback", "frames_per_position", "scan_step", "pixel", "centre", "rotation_deg")


class Records:
    """Belongs to one session. keep: where setups and the last state are stored, None = nowhere.

    resolve: which files corrections may be made of again.
    """

    def __init__(self, session: Session, keep: Keep | None) -> None:
        self._session, self._keep = session, keep
        self.resolve: Resolve = _any_path
        self.pins: dict[str, dict[str, Any]] = {}
        self.layout: Any = {}
        self._count = itertools.count(1)
        self._dirty = threading.Event()
        self._setups: list[dict[str, Any]] = keep.setups() if keep is not None else []
        self._noted = self._due = False
        for one in keep.history()[:ENTRIES] if keep is not None else ():
            with contextlib.suppress(LibstreamError, TypeError, KeyError, AttributeError):  # an entry of another version
                session.history.entries.append(Entry.of(one))

    def view(self) -> dict[str, Any]:
        """Parts of the state."""
        return {"pins": dict(self.pins), "setups": list(self._setups), "layout": self.layout}

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, name: str | None = None, ids: Sequence[str] | None = None) -> Path:
        """Write results as HDF5 into the session's folder; waits. Returns the path. Raises UsageError, SaveError."""
        s = self._session
        path = named(s.out, name) if name is not None else None
        result = self.result(ids)
        if path is None:
            source = s.source
            path = free_path(s.out, Path(name_of(source.meta.id.uri)).stem if source is not None else "result")
        try:
            s.out.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise LibstreamError(f"{s.out}: this folder for results cannot be made ({exc.strerror or exc})") from exc
        result.save(path)
        s.worker.call(self.note)
        with s.lock:
            entry = s.history.of(self._number())
            if entry is not None:
                entry.saved, self._noted = str(path), True
                s.history.touch()
        s.say("info", f"saved {path}")
        return path

    def result(self, ids: Sequence[str] | None = None) -> Any:
        """Newest results of all analyses (or these) as one `Result`. Raises UsageError where there are none."""
        s = self._session
        with s.lock:
            chosen = [s.analyses.get(i).id for i in ids] if ids is not None else [a.id for a in s.analyses.shown()]
        return combined(s.runner.results(), chosen)

    # -- pins ----------------------------------------------------------------------------------------------------------

    def pin(self, topic: str, title: str) -> str:
        """Keep what `topic` shows; returns the id of the pin. Raises UsageError."""
        s = self._session
        held = s.store.get(topic)
        if held is None or topic.startswith("p/"):
            raise UsageError(f"there is nothing to keep under {topic!r}")
        if not isinstance(title, str) or not title.strip() or len(title) > 200:
            raise UsageError("a title is a text of 1 to 200 characters")
        with s.lock:
            if len(self.pins) >= MOST_PINS:
                raise UsageError(f"{MOST_PINS} results are pinned already; take one away")
            id = f"p{next(self._count)}"
            to = f"p/{id}"
            analysis = s.analyses.by_id.get(topic.split("/")[1]) if topic.startswith(("a/", "r/")) else None
            s.store.put(to, held.array, held.seen, held.gen, True, held.t_ms, held.info)
            self.pins[id] = {
                "id": id, "title": title.strip(), "topic": to, "output": held.info.json(to), "t": now_ms(),
                "udf": None if analysis is None else analysis.name, "params": None if analysis is None else analysis.params(),
                "source": None if s.source is None else name_of(s.source.meta.id.uri),
            }  # fmt: skip
        s.changed()
        return id

    def unpin(self, id: str) -> None:
        """Take a pin away."""
        s = self._session
        with s.lock:
            if id not in self.pins:
                raise UsageError(f"there is no pin {id!r}")
            del self.pins[id]
        s.store.drop(f"p/{id}")
        s.changed()

    # -- history -------------------------------------------------------------------------------------------------------

    def due(self) -> None:
        """Something was computed: the history gets it when there is time, and nobody drags anything."""
        self._due = True

    def tend(self) -> None:
        """Called when there is nothing else to do."""
        if self._due:
            self.note()
        self.save_now()

    def note(self) -> None:
        """Write what was computed into the history; the worker's thread."""
        s = self._session
        self._due = False
        source, uri = s.source, s.opened
        shown = [a for a in s.analyses.shown() if a.shown]
        results = [r for ids, r in s.runner.results() if any(a.id in ids for a in shown)]
        if source is None or uri is None or not results:
            return
        full = max(results, key=lambda r: r.coverage.counts["processed"])
        counts = full.coverage.counts
        picture = next((p for a in shown for i in a.outputs if (h := s.store.get(a.topic(i))) and (p := thumbnail(h)) is not None), None)
        with s.lock:
            kind = "live" if s.follow is not None else "file"
            entry = s.history.note(self._number(), now_ms(), name_of(source.meta.id.uri), kind, source.meta.id.uri, self._again(uri))
            entry.state = "done" if full.complete else "incomplete"
            entry.positions, entry.processed = counts["announced"], counts["processed"]
            entry.dropped = counts["dropped"] + counts["missing"] + counts["corrupt"]
            entry.seconds = float(full.run.get("times", {}).get("seconds", 0.0))
            entry.analyses = [a.saved() for a in shown]
            entry.setting = self._setting()
            entry.thumb = picture if picture is not None else entry.thumb
            s.history.touch()
            self._noted = True
        s.changed()

    def _again(self, opened: tuple[str, dict[str, Any]]) -> dict[str, Any] | None:
        """What to open for the same frames once more: the file, or the recording of an acquisition."""
        uri, options = opened
        follow = self._session.follow
        if follow is None:
            return {"uri": uri, "options": options}
        if options.get("watch"):
            return {"uri": uri, "options": {k: v for k, v in options.items() if k not in ("watch", "frames", "stall_timeout_s", "poll_s")}}
        if options.get("record") is None or not isinstance(follow.acquisition, Acquisition):
            return None
        scan = {k: v for k, v in options.items() if k in OF_THE_SCAN}
        return {"uri": str(options["record"]), "options": {**scan, "run": follow.acquisition.run}}

    def over(self) -> None:
        """The source is left: its results go to the history. The worker's thread."""
        s = self._session
        if s.source is None:  # they have gone there already
            return
        self.note()
        with s.lock:
            entry = s.history.of(self._number())
            if entry is not None:
                s.history.store(entry, {a.id: a for a in s.analyses.shown()})

    def reopen(self, id: str) -> int:
        """Open the source of a past run with its analyses; waits. Returns the number of the source."""
        s = self._session
        with s.lock:
            entry = s.history.get(id)
            if entry is None:
                raise UsageError(f"there is no run {id!r} in the history")
            if entry.source is None:
                raise UsageError("this was a live acquisition that was not recorded: its frames are gone")
            source, analyses, setting = dict(entry.source), list(entry.analyses), dict(entry.setting)

        def again() -> int:
            s.close_source()  # what is open goes into the history with its own analyses
            for text in s.analyses.restore(analyses):
                s.say("warning", text)
            self._set(setting)
            return s.open(source["uri"], source["options"])

        return s.worker.call(again)

    def forget(self, id: str) -> None:
        """Remove a run from the history."""
        s = self._session
        with s.lock:
            if s.history.get(id) is None:
                raise UsageError(f"there is no run {id!r} in the history")
            s.history.remove(id)
            self._noted = True
        s.changed()

    def _number(self) -> int:
        return self._session.number

    # -- setups --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Analyses, region of interest, corrections and layout, to be stored."""
        s = self._session
        with s.lock:
            return {"analyses": [a.saved() for a in s.analyses.shown()], "layout": self.layout, **self._setting()}

    def _setting(self) -> dict[str, Any]:
        """Region of interest and corrections, with the shapes that they are for."""
        s = self._session
        shape = None if s.source is None else s.source.meta.shape
        out: dict[str, Any] = {"roi": s.roi, "corrections": recipe(s.corrections)}
        return out if shape is None else {**out, "nav": list(shape.nav), "sig": list(shape.sig)}

    def _set(self, data: Mapping[str, Any]) -> None:
        """Region of interest and corrections of the source that is opened next; what cannot be had is told. The worker's thread."""
        s = self._session
        roi, given = data.get("roi"), data.get("corrections")
        region = None
        corrections: Corrected = (dict(NONE), None)
        try:
            if roi is not None and data.get("nav") is not None:
                region = (dict(roi), mask_of(roi, tuple(data["nav"]), "roi"))
        except (LibstreamError, TypeError, KeyError, ValueError) as exc:
            s.say("warning", f"the region of interest could not be restored: {exc}")
        try:
            if given is not None and data.get("sig") is not None:
                corrections = corrected(corrections, given, tuple(data["sig"]), self.resolve)
        except (LibstreamError, OSError, TypeError, KeyError, ValueError) as exc:
            s.say("warning", f"the corrections could not be restored: {exc}")
        s.prepare(region, corrections)

    def save_setup(self, name: str) -> None:
        """Store a setup. Raises UsageError, SaveError."""
        self._kept().save_setup(name, self.state())
        self._setups = self._kept().setups()
        self._session.changed()

    def load_setup(self, name: str) -> None:
        """Replace the analyses by those of a setup; waits."""
        s = self._session
        data = self._kept().setup(name)
        for text in s.analyses.restore(data.get("analyses", ())):
            s.say("warning", text)
        self.layout = data.get("layout", {})
        roi = data.get("roi")
        if s.source is not None and (roi is not None or s.roi is not None):
            try:
                s.set_roi(roi)
            except LibstreamError as exc:
                s.say("warning", f"the region of interest of this setup does not fit: {exc}")
        given = data.get("corrections")
        if s.source is not None and (given is not None or s.corrections[1] is not None):
            try:
                shown, made = corrected((dict(NONE), None), given or {}, s.source.meta.shape.sig, self.resolve)
                s.set_corrections(made, shown)
            except (LibstreamError, OSError, TypeError, KeyError, ValueError) as exc:
                s.say("warning", f"the corrections of this setup do not fit: {exc}")
        s.changed()

    def remove_setup(self, name: str) -> None:
        """Remove a setup. Raises UsageError."""
        self._kept().remove_setup(name)
        self._setups = self._kept().setups()
        self._session.changed()

    def set_layout(self, layout: Any) -> None:
        """Store what the page wants to find again. Raises UsageError where it is too large."""
        if len(json.dumps(layout)) > LAYOUT_MAX:
            raise UsageError(f"a layout has at most {LAYOUT_MAX} bytes of JSON")
        self.layout = layout
        self.remember()
        self._session.changed()

    def _kept(self) -> Keep:
        if self._keep is None:
            raise UsageError("this server keeps no setups")
        return self._keep

    # -- the last state ------------------------------------------------------------------------------------------------

    def remember(self) -> None:
        """What is open has changed; it is stored soon."""
        self._dirty.set()

    def save_now(self) -> None:
        """Store what is open, where it changed."""
        s = self._session
        if self._keep is not None and self._noted:
            self._noted = False
            with s.lock:
                runs = [e.kept() for e in s.history.entries]
            self._keep.save_history(runs)
        if self._keep is None or not self._dirty.is_set() or s.opened is None:
            return
        self._dirty.clear()
        uri, options = s.opened
        data = {"uri": uri, "options": options, **self.state()}
        self._keep.save_last(data)
        self._keep.save_source(digest_of_uri(uri), data)

    def restore(self, uri: str) -> None:
        """Analyses and layout that were stored for a source, where there are no analyses yet. The worker's thread."""
        s = self._session
        if self._keep is None or s.analyses.shown():
            return
        data = self._keep.of_source(digest_of_uri(uri))
        if data is not None:
            for text in s.analyses.restore(data.get("analyses", ())):
                s.say("warning", text)
            self.layout = data.get("layout", {})
            self._set(data)

    def last(self) -> tuple[str, dict[str, Any]] | None:
        """Source and options that were open when the server ended."""
        data = self._keep.last() if self._keep is not None else None
        if data is None or not isinstance(data.get("uri"), str):
            return None
        options = data.get("options")
        return data["uri"], options if isinstance(options, dict) else {}


def digest_of_uri(uri: str) -> str:
    """Name under which things of a source are stored."""
    return sha256(uri.encode()).hexdigest()[:32]


def _any_path(given: Any, what: str) -> Path:
    return Path(str(given))
