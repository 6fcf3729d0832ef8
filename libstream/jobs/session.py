"""What a server works on: a source, analyses over it, and everything that belongs to them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libstream import api
from libstream.contracts.source import FrameSource
from libstream.errors import LibstreamError, UsageError
from libstream.jobs import sources
from libstream.jobs.analyses import Analyses
from libstream.jobs.analysis import RUNNING, Analysis
from libstream.jobs.arrays import mask_of
from libstream.jobs.catalog import Catalog
from libstream.jobs.corrected import NONE, Corrected
from libstream.jobs.follow import Follow
from libstream.jobs.history import History
from libstream.jobs.keep import Keep
from libstream.jobs.records import Records
from libstream.jobs.runner import Runner, now_ms
from libstream.jobs.store import Store
from libstream.jobs.worker import Worker
from libstream.model.corrections import Corrections

LOG_LINES = 100
END_S = 2.0
"""How long everything that runs may take to end when the session is closed."""


class Session:
    """Analyses over one source at a time. All methods may be called from any thread, those marked "waits" may take long.

    out: folder for results. keep: where setups are kept, None = nowhere. `store` holds the arrays, `view()` everything else.
    """

    def __init__(
        self, *, catalog: Catalog | None = None, keep: Keep | None = None, out: Path | None = None, executor: str = "threads"
    ) -> None:
        self.catalog = catalog if catalog is not None else Catalog()
        self.out = (out if out is not None else Path("libstream-results")).expanduser().resolve()
        self.lock = threading.RLock()
        self.store = Store()
        self.history = History(self.store)
        self.log: deque[dict[str, Any]] = deque(maxlen=LOG_LINES)
        self.version = 0
        self._listeners: list[Callable[[], None]] = []
        self._closed = False
        self.auto = True
        self.executor = executor
        self._asked: set[str] = set()
        self.number = 0
        self.opened: tuple[str, dict[str, Any]] | None = None
        self._source_json: dict[str, Any] | None = None
        self._roi: tuple[dict[str, Any], Any] | None = None
        self._corrections: Corrected = (dict(NONE), None)
        self._started = 0
        self._seconds = 0.0
        self.follow: Follow | None = None
        self.worker = Worker("libstream-session", self._sync, self._tend, self._fault)
        self.analyses = Analyses(self.catalog, self.lock, again=self._again, told=self.changed, removed=self._removed)
        self.runner = Runner(
            self.analyses.by_id, self.store, self.lock, executor=executor, changed=self.changed, poke=self.worker.poke, ended=self._ended
        )
        self.records = Records(self, keep)

    # -- for whoever looks ---------------------------------------------------------------------------------------------

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, from any thread, after something changed. It must return at once and look later."""
        self._listeners.append(listener)

    def changed(self) -> None:
        """Say that something changed."""
        self.version += 1
        for listener in self._listeners:
            listener()

    def say(self, level: str, text: str) -> None:
        """Add a line to the log; level is info, warning or error."""
        with self.lock:
            self.log.append({"t": now_ms(), "level": level, "text": text})
        self.changed()

    @property
    def pending(self) -> bool:
        """True where something waits to be run, or runs."""
        with self.lock:
            if any(a.state == RUNNING for a in self.analyses.by_id.values()):
                return True
            return self.source is not None and any(
                a.sent != a.gen and (self.auto or a.id in self._asked) for a in self.analyses.by_id.values()
            )

    def clear_log(self) -> None:
        """Forget all lines of the log."""
        with self.lock:
            self.log.clear()
        self.changed()

    def view(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON (docs/reference/gui-protocol.md, "The state")."""
        with self.lock:
            running = self.runner.running or any(a.state == RUNNING for a in self.analyses.by_id.values())
            shown = {a.id: a for a in self.analyses.shown()}
            states = {a.state for a in shown.values()}
            run = "running" if running else next((s for s in ("failed", "incomplete", "done") if s in states), "idle")
            view: dict[str, Any] = {
                "udfs": {"version": self.catalog.version, "errors": [vars(e).copy() for e in self.catalog.errors]},
                "source": self._source_json, "live": None if self.follow is None else self.follow.json(),
                "analyses": {k: a.json(self._meta(a)) for k, a in shown.items()}, "order": list(shown),
                "run": {"state": run, "error": None, "started": self._started, "seconds": self._seconds, "auto": self.auto},
                "roi": None if self._roi is None else self._roi[0], "corrections": self._corrections[0],
                "history": self.history.view(), "log": list(self.log),
            }  # fmt: skip
        return {**view, **self.records.view()}

    @property
    def source(self) -> FrameSource | None:
        """The source that is processed."""
        return self.runner.source

    @property
    def newest(self) -> int:
        """Flat position of the frame that arrived last; 0 for stored frames."""
        source = self.runner.source
        return 0 if source is None else sources.newest(source)

    def _meta(self, a: Analysis) -> Any:
        source = self.runner.source
        if source is None or (a.channel is not None and a.channel not in source.meta.channels):
            return None
        return source.meta if a.channel is None else source.channel_meta(a.channel)

    # -- the source ----------------------------------------------------------------------------------------------------

    def open(self, uri: str, options: Mapping[str, Any] | None = None) -> int:
        """Open a file or connect to a detector, and process it; waits. Returns the number of the source.

        Raises what `ls.open` and `ls.connect` raise; the source before is closed then, too.
        """
        given = dict(options or {})
        return self.worker.call(lambda: self._open(uri, given))

    def close_source(self) -> None:
        """Close what is open; waits."""
        self.worker.call(self._leave)

    def _open(self, uri: str, options: dict[str, Any]) -> int:
        self._leave()
        self.number += 1
        kind = "live" if sources.is_live(uri, options) else "file"
        self._source_json = sources.unarmed(uri, kind, self.number, "opening", options)
        self.changed()
        try:
            if kind == "live":
                self.follow = Follow(self, sources.connect(uri, options, self.executor))
                self._source_json = sources.unarmed(uri, kind, self.number, "waiting", options)
                self.opened = (uri, options)
                self.records.restore(uri)
                self.follow.start()
            else:
                source = sources.open_file(uri, options)
                self.opened = (uri, options)
                self.records.restore(uri)
                self.begin(source, kind, self.number)
        except Exception as exc:
            follow, self.follow = self.follow, None
            if follow is not None:
                follow.close()
            self._source_json = sources.unarmed(uri, kind, self.number, "failed", options, str(exc) or type(exc).__name__)
            self.opened = None
            self.say("error", str(exc) if uri in str(exc) else f"{uri}: {exc}")
            raise
        self.say("info", f"connected to {uri}" if kind == "live" else f"opened {uri}")
        self.records.remember()
        return self.number

    def begin(self, source: FrameSource, kind: str, number: int | None = None) -> None:
        """Process `source` from now on; the worker's thread only. An acquisition gets a number of its own."""
        with self.lock:
            if number is None:
                self.number += 1
                number = self.number
            self._source_json = sources.describe(source, kind, number, self.opened[1] if self.opened else {})
            nav, sig = source.meta.shape.nav, source.meta.shape.sig
            if self._roi is not None and self._roi[1].shape != nav:
                self._roi = None
                self.say("warning", "the region of interest was dropped: the scan has another shape now")
            c = self._corrections[1]
            if c is not None and any(a is not None and a.shape != sig for a in (c.dark, c.gain, c.excluded)):
                self._corrections = (dict(NONE), None)
                self.say("warning", "the corrections were dropped: frames have another shape now")
            now = list(self.analyses.by_id.values())
        for a in now:
            a.shown = 0
            self.store.drop(f"a/{a.id}/")
            self.store.drop(f"r/{a.id}/")
        self._reset(source)
        self._sync()

    def _reset(self, source: FrameSource | None) -> None:
        self.analyses.drop_unwanted()
        c, on = self._corrections[1], self._corrections[0]["on"]
        self.runner.reset(source, None if self._roi is None else self._roi[1], c if on else None)
        self._started = now_ms()
        self._asked = set()

    def _leave(self) -> None:
        """Close what is open; the worker's thread only."""
        if self.follow is not None:
            self.follow.close()
        self.records.over()  # knows still that it was a detector
        self.records.save_now()  # of what is open still
        self.follow = None
        self.runner.reset(None, None, None)
        self._source_json, self.opened = None, None
        self.changed()

    def _again(self) -> None:
        self.records.remember()
        self.changed()
        self.worker.poke()

    def _removed(self, id: str) -> None:
        self.runner.remove(id)

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, ids: Sequence[str] | None = None) -> None:
        """Run all analyses in one pass (or these) anew; waits until they are started."""
        with self.lock:
            if self.source is None:
                raise UsageError("nothing is open")
            chosen = [self.analyses.get(i) for i in ids] if ids is not None else []
            for a in chosen:
                a.gen += 1
            self._started = now_ms()

        def start() -> None:
            if ids is None:
                self._reset(self.source)
            self._asked |= {a.id for a in chosen} if ids is not None else set(self.analyses.by_id)
            self._sync()

        self.worker.call(start)
        self.changed()

    def cancel(self) -> None:
        """Stop what is running."""
        with self.lock:
            self._asked.clear()
        self.runner.cancel()
        self.changed()

    def set_auto(self, on: bool) -> None:
        """Whether changes run at once."""
        with self.lock:
            self.auto = bool(on)
        self._again()

    def set_roi(self, shape: Mapping[str, Any] | None) -> None:
        """Process these positions only (a drawn shape or mask, see `arrays.mask_of`); None = all. Waits."""
        with self.lock:
            if self.source is None:
                raise UsageError("nothing is open")
            nav = self.source.meta.shape.nav
        if shape is None:
            roi = None
        else:
            mask = mask_of(shape, nav, "roi")
            n = int(mask.sum())
            if not n:
                raise UsageError("no position of the scan lies in this region")
            if mask.ndim != len(nav):
                raise UsageError(f"the scan has the shape {nav}")
            roi = ({**shape, "n": n}, mask)
        with self.lock:
            self._roi = roi
        self.records.remember()
        self.worker.call(self._restart)

    def set_corrections(self, corrections: Corrections | None, shown: Mapping[str, Any]) -> None:
        """Correct frames from now on; waits. shown: what the state says of it."""
        if corrections is not None and self.source is not None:
            corrections.check(self.source.meta.shape.sig)
        with self.lock:
            self._corrections = (dict(shown), corrections)
        self.records.remember()
        self.worker.call(self._restart)

    def prepare(self, roi: tuple[dict[str, Any], Any] | None, corrections: Corrected) -> None:
        """Region (what the state says of it, mask) and corrections of the source that is opened next; they go where they do not fit."""
        with self.lock:
            self._roi, self._corrections = roi, corrections

    @property
    def roi(self) -> dict[str, Any] | None:
        """What the state says of the region of interest."""
        return None if self._roi is None else self._roi[0]

    @property
    def corrections(self) -> Corrected:
        """What the state says of the corrections, and the corrections."""
        return self._corrections

    def want_frames(self, wanted: Iterable[tuple[str, str | None]]) -> None:
        """Compute the mean or the maximum of frames ("mean" or "max", channel) while someone looks at them, and no others."""
        chosen = frozenset(wanted)
        with contextlib.suppress(LibstreamError):  # closed
            self.worker.submit(lambda: self.analyses.want_frames(chosen))

    @property
    def current(self) -> tuple[FrameSource | None, int]:
        """The source, and a number that no other one had."""
        with self.lock:
            return self.runner.source, self.runner.epoch

    def frame(self, at: Sequence[int] | None, channel: str | None = None) -> np.ndarray[Any, Any]:
        """The (raw) frame at a scan position, or the newest one; waits. Raises LibstreamError, OSError."""
        source = self.source
        if source is None:
            raise UsageError("nothing is open")
        return sources.frame_at(source, None if at is None else tuple(int(i) for i in at), channel)

    def progress(self) -> dict[str, Any]:
        """What changes all the time: parts of `stat` in docs/reference/gui-protocol.md."""
        run, each = self.runner.progress()
        follow = self.follow
        live, ledger = (None, None) if follow is None else follow.stat(self.runner.results())
        if run is not None:
            self._seconds = run["seconds"]
        shown = {k: v for k, v in each.items() if not k.startswith("_")}
        cluster = api.cluster_of(self.executor) if follow is None or not follow.dealt else follow.dealt.cluster()
        return {"run": run, "analyses": shown, "live": live, "ledger": ledger, **({"cluster": cluster} if cluster else {})}

    def close(self) -> bool:
        """Stop everything and wait. False where a UDF could not be stopped (its thread ends with the process)."""
        if self._closed:
            return True
        self._closed = True
        self._listeners.clear()
        follow = self.follow
        if follow is not None:
            follow.close()
        self.runner.refuse()
        end = time.monotonic() + END_S  # calls of UDFs cannot be interrupted in threads, neither in runs nor when they are bound
        free = self.worker.close(END_S)
        ended = self.runner.close(max(0.0, end - time.monotonic())) and free
        self.records.save_now()
        self.catalog.close()
        return ended

    # -- the worker's thread -------------------------------------------------------------------------------------------

    def _restart(self) -> None:
        source = self.source
        if source is not None:
            self._reset(source)
            self._sync()
        self.changed()

    def _sync(self) -> None:
        self.runner.sync(None if self.auto else set(self._asked) | {k for k, a in list(self.analyses.by_id.items()) if a.hidden})

    def _tend(self) -> None:
        if self.catalog.poll():
            for text in self.analyses.new_classes():
                self.say("info", text)
            for e in self.catalog.errors:
                self.say("error", f"{e.file}{f', line {e.line}' if e.line else ''}: {e.message}")
            self._again()
        self.records.tend()

    def _ended(self) -> None:
        with self.lock:
            self._seconds = (now_ms() - self._started) / 1000
        self.records.due()

    def _fault(self, exc: BaseException) -> None:
        self.say("error", str(exc) if isinstance(exc, (LibstreamError, OSError)) else f"unexpected {type(exc).__name__}: {exc}")
