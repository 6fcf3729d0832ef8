"""A run that somebody else started, as something that can be looked at and changed: what a view in a notebook shows."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from libstream import api
from libstream.contracts.source import FrameSource
from libstream.contracts.udf import UDF
from libstream.errors import LibstreamError, UsageError
from libstream.jobs import sources
from libstream.jobs.analyses import frames_id
from libstream.jobs.analysis import DONE, FAILED, INCOMPLETE, RUNNING, Analysis, error_json, parsed
from libstream.jobs.catalog import Entry
from libstream.jobs.lane import HOLD_S
from libstream.jobs.outputs import OutputInfo, describe, outputs_of
from libstream.jobs.past import analysis_of_result, source_of_result
from libstream.jobs.runner import now_ms
from libstream.jobs.store import Store
from libstream.model.corrections import Corrections
from libstream.model.result import Outputs, Result
from libstream.model.source import SourceMeta

LOOK_S = 0.25
"""How long the end of a run, or of a view, may take to be noticed; a new result wakes at once."""
SAMPLE = 64
"""Frames of which mean and maximum are shown: reading all of them would slow the run that is watched."""
SAMPLE_BYTES = 256 << 20


class Watched:
    """Shows one `Job` (or one `Result`) at a time. Methods may be called from any thread; `changed` is called from any.

    `job` is the run, `store` holds the arrays by topic, `view()` everything else, as a session of a server does.
    Parameters are changed by `set`, or by `Job.update` somewhere else, which is followed.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.store = Store()
        self.lock = threading.RLock()
        self.layout: dict[str, Any] = {}
        self.number = 0
        self._changed = changed
        self.job: api.Job | None = None
        self._result: Result | None = None
        self._analyses: dict[str, Analysis] = {}
        self._gens: dict[int, dict[str, int]] = {}
        self._shown_generation = self._sent_generation = -1
        self._source_json: dict[str, Any] | None = None
        self._sampled = 0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    # -- what is shown -------------------------------------------------------------------------------------------------

    def show(self, what: api.Job | Result) -> None:
        """Show another run, or a result, from now on. Raises UsageError for anything else."""
        if not isinstance(what, (api.Job, Result)):
            raise UsageError(
                f"only a Job (of ls.start) or a Result (of ls.run) can be shown, got {type(what).__name__}: start a run over it"
            )
        if self._closed.is_set():
            raise UsageError("this view is closed; make another one")
        with self.lock:
            self.number += 1
            self.store.drop("")
            self._sampled = 0
            self._gens.clear()
            self._shown_generation = self._sent_generation = -1
            self.job = self._result = None
            if isinstance(what, Result):
                self._analyses = {k: analysis_of_result(what, k, i) for i, k in enumerate(what.udfs)}
                self._source_json = source_of_result(what, self.number)
                self._take(what)
            else:
                self.job = what
                self._analyses = _of_job(what)
                kind = "live" if isinstance(what.source, sources.ACQUISITIONS) else "file"
                self._source_json = {**sources.describe(what.source, kind, self.number, {}), "frames": True, "sampled": 0}
                newest = what.snapshot()
                if newest is not None:
                    self._take(newest)
                self._states(what)
                self._thread = threading.Thread(target=self._watch, args=(what,), name="libstream-watched", daemon=True)
                self._thread.start()
        self._changed()

    def close(self) -> None:
        """Look no more; the run goes on."""
        self._closed.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(4 * LOOK_S)
        with self.lock:
            newest = None if self.job is None else self.job.snapshot()
            if self.job is not None and newest is not None and newest is not self._result:
                self._take(newest)  # it came while nobody looked
                self._states(self.job)

    @property
    def running(self) -> bool:
        """True while something is computed."""
        job = self.job
        return job is not None and not job.done

    # -- for whoever looks ---------------------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON: parts of the state in docs/reference/gui-protocol.md."""
        with self.lock:
            source, analyses = self._source_json, dict(self._analyses)
            if source is not None and self._sampled != source["sampled"]:
                source = self._source_json = {**source, "sampled": self._sampled}
            states = {a.state for a in analyses.values()}
            run = "running" if self.running else next((s for s in (FAILED, INCOMPLETE, DONE) if s in states), "idle")
            return {
                "udfs": {"version": 1, "errors": []}, "source": source, "live": None,
                "analyses": {k: a.json(self._meta(a)) for k, a in analyses.items()}, "order": list(analyses),
                "run": {"state": run, "error": None, "started": 0, "seconds": 0.0, "auto": True}, "roi": None,
                "corrections": {"dark": None, "gain": None, "excluded": 0, "on": True}, "history": [], "log": [], "pins": {},
                "control": None, "layout": self.layout,
            }  # fmt: skip

    def _meta(self, a: Analysis) -> SourceMeta | None:
        source = self.source
        return None if source is None else source.meta if a.channel is None else source.channel_meta(a.channel)

    def progress(self) -> dict[str, Any]:
        """What changes all the time: parts of `stat` in docs/reference/gui-protocol.md."""
        job, result = self.job, self._result
        ledger = dict(result.ledger) if result is not None and result.ledger else None
        out: dict[str, Any] = {"run": None, "analyses": {}, "live": None, "ledger": ledger, "server": None, "link": None}
        if job is None:
            counts = result.coverage.counts if result is not None else {"processed": 0, "announced": 0}
            done = {"n_done": counts["processed"], "n_total": counts["announced"]}
            return {**out, "analyses": dict.fromkeys(self._analyses, done)}
        p = job.progress
        if not job.done:
            left = p.seconds_left
            out["run"] = {
                "n_done": p.n_done, "n_total": p.n_total, "frames_per_s": p.frames_per_s, "bytes_per_s": p.bytes_per_s,
                "seconds": p.seconds, "seconds_left": left if math.isfinite(left) else None,
            }  # fmt: skip
        out["analyses"] = {k: {"n_done": p.n_done, "n_total": p.n_total} for k in self._analyses}
        return out

    def entries(self) -> dict[str, Entry]:
        """Classes of the UDFs, by analysis."""
        with self.lock:
            return {k: Entry(a.name, type(a.udf)) for k, a in self._analyses.items()} if self.job is not None else {}

    @property
    def current(self) -> tuple[FrameSource | None, int]:
        """The source, and a number that no other one had."""
        with self.lock:
            return (None if self.job is None else self.job.source), self.number

    @property
    def source(self) -> FrameSource | None:
        """The source of the run, None for a result."""
        return self.current[0]

    @property
    def newest(self) -> int:
        """Flat position of the frame that arrived last; 0 for stored frames."""
        source, _ = self.current
        return 0 if source is None else sources.newest(source)

    @property
    def corrections(self) -> tuple[dict[str, Any], Corrections | None]:
        """Whether frames are shown corrected, and how."""
        return {"on": True}, None if self.job is None else self.job.corrections

    def frame(self, at: tuple[int, ...] | None, channel: str | None) -> np.ndarray[Any, Any]:
        """The (raw) frame at a scan position, or the newest one; waits. Raises LibstreamError, OSError."""
        source, _ = self.current
        if source is None:
            raise UsageError("a result has no frames: show the run itself, ls.live_view(ls.start(...))")
        return sources.frame_at(source, None if at is None else tuple(int(i) for i in at), channel)

    def sample(self, channel: str | None) -> None:
        """Put mean and maximum of frames that are spread over the scan into the store; reads them, so it takes its time."""
        source, number = self.current
        if source is None:
            return
        meta = source.meta if channel is None else source.channel_meta(channel)
        n = math.prod(meta.shape.nav)
        there = sources.newest(source) + 1 if isinstance(source, sources.ACQUISITIONS) else n
        most = max(1, min(SAMPLE, there, SAMPLE_BYTES // max(1, sources.memory_of(meta))))
        corrections = self.corrections[1]
        total, largest, count = None, None, 0
        for flat in np.unique(np.linspace(0, there - 1, most).astype(int)):
            if self._closed.is_set() or self.current[1] != number:
                return
            at = tuple(int(i) for i in np.unravel_index(int(flat), meta.shape.nav)) if meta.shape.nav else ()
            try:
                raw = sources.frame_at(source, at, channel)
            except (LibstreamError, OSError, ValueError):
                continue  # lost, or no longer in memory
            frame = np.asarray(raw if corrections is None else corrections.apply(raw), np.float64)
            total = frame if total is None else total + frame
            largest = frame if largest is None else np.maximum(largest, frame)
            count += 1
        if total is None or largest is None:
            return
        with self.lock:
            if self.number != number:
                return
            for kind, array in (("mean", total / count), ("max", largest)):
                info = OutputInfo(kind, "sig", "image", array.shape, array.dtype, meta.sig_axes)
                self.store.put(f"a/{frames_id(kind, channel)}/{kind}", array, None, 0, True, now_ms(), info)
            self._sampled = count
        self._changed()

    # -- changes -------------------------------------------------------------------------------------------------------

    def set(self, id: str, params: Mapping[str, Any], gen: int | None = None) -> int:
        """Change parameters (those that are named); the newest win. Returns the generation. Raises ParameterError, UsageError."""
        with self.lock:
            a = self._analyses.get(id)
            if a is None or self.job is None:
                raise UsageError(f"there is nothing to change of {id!r}")
            a.udf = parsed(type(a.udf), params, a.udf)
            a.gen = gen if gen is not None and a.gen < gen < 2**53 else a.gen + 1
            number = a.gen
            self._send(self.job)
        self._changed()
        return number

    def cancel(self) -> None:
        """Stop what is computed; what is there stays."""
        if self.job is not None:
            self.job.cancel()

    def _send(self, job: api.Job) -> None:
        """Give new parameters to the run, once those sent before are shown: a dragged detector's image appears at every place."""
        if not (job.done or self._shown_generation >= self._sent_generation):
            return
        for a in self._analyses.values():
            if a.sent == a.gen:
                continue
            a.sent = a.gen
            try:
                number = job.update(a.id, **a.udf.parameters())
            except Exception as exc:  # noqa: BLE001  a UDF may raise anything while it is bound; its user is told
                a.state, a.error = FAILED, error_json(exc)
                continue
            self._gens[number] = {k: b.sent for k, b in self._analyses.items()}
            self._sent_generation = number
            a.state, a.error = RUNNING, None

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _watch(self, job: api.Job) -> None:
        newest = job.snapshot()
        seen = 0 if newest is None or self._result is not newest else newest.version
        while not self._closed.is_set() and self.job is job:
            result = job.newer(seen, LOOK_S)
            if self._closed.is_set() or self.job is not job:
                break
            if result is not None:
                result = self._settled(job, result)
                seen = result.version
            with self.lock:
                if self.job is not job:
                    break
                if result is not None:
                    self._take(result)
                moved = self._states(job)
                self._send(job)
            if result is not None or moved:
                self._changed()

    def _settled(self, job: api.Job, result: Result) -> Result:
        """`result`, or a newer one where it holds so little that showing it would make the image flicker."""
        while result.generation != self._shown_generation and not result.final and not self._closed.is_set():
            left = HOLD_S - float(result.run.get("times", {}).get("seconds", HOLD_S))
            newer = job.newer(result.version, left) if left > 0 else None
            if newer is None:
                break
            result = newer
        return result

    def _take(self, result: Result) -> None:
        """Put a result into the store; with the lock held."""
        self._result = result
        gens = self._gens.get(result.generation)
        if gens is None:
            gens = self._gens[result.generation] = self._adopted()
        for old in sorted(self._gens)[:-8]:
            del self._gens[old]
        self._shown_generation = result.generation
        self._sent_generation = max(self._sent_generation, result.generation)
        for id, outputs in result.udfs.items():
            a = self._analyses.get(id)
            gen = gens.get(id, 0)
            if a is None or gen < a.shown:
                continue
            made = [describe(n, outputs.declared[n], outputs.shape, outputs.axes) for n in outputs if n in outputs.declared]
            if made != a.outputs:  # the same objects where nothing changed: what is made of them stays valid
                a.outputs = made
            a.shown = gen
            self._keep(id, outputs, result, a.outputs, gen)
            if id in result.failures:
                a.state, a.error = FAILED, {"message": result.failures[id], "where": "", "traceback": ""}
            elif a.sent == gen:
                a.state = RUNNING if not result.final else DONE if result.coverage.complete else INCOMPLETE

    def _keep(self, id: str, outputs: Outputs, result: Result, infos: list[OutputInfo], gen: int) -> None:
        valid, t_ms = result.valid, now_ms()
        for info in infos:
            array = outputs.arrays[info.name]
            if info.display == "ragged":
                self.store.put(f"r/{id}/{info.name}", array, valid, gen, result.final, t_ms, info)
            else:
                seen = valid if info.kind == "nav" else None
                self.store.put(f"a/{id}/{info.name}", np.asarray(array), seen, gen, result.final, t_ms, info)

    def _adopted(self) -> dict[str, int]:
        """Generations for results of parameters that were set elsewhere, by `Job.update`."""
        job = self.job
        if job is not None:
            for id, given in job.given.items():
                a, udf = self._analyses[id], _bare(given)
                if a.sent == a.gen and udf.parameters() != a.udf.parameters():
                    a.udf, a.gen = udf, a.gen + 1
                    a.sent = a.gen
        return {k: a.sent for k, a in self._analyses.items()}

    def _states(self, job: api.Job) -> bool:
        """Follow the run's state; True where something changed."""
        before = [(a.state, a.error) for a in self._analyses.values()]
        state = job.state
        error = _error_of(job) if state == "failed" else None
        for a in self._analyses.values():
            if a.sent != a.gen or a.state == FAILED:
                continue
            if state == "running":
                # the last result comes a moment before the run is over
                if not (a.shown == a.gen and a.state in (DONE, INCOMPLETE)):
                    a.state = RUNNING
            elif error is not None and getattr(error, "udf", "") in ("", a.id):
                a.state, a.error = FAILED, error_json(error)
            elif state in ("failed", "cancelled"):
                a.state = INCOMPLETE
        return before != [(a.state, a.error) for a in self._analyses.values()]


def _error_of(job: api.Job) -> BaseException | None:
    try:
        job.wait(0)
    except Exception as exc:  # noqa: BLE001  shown to the user
        return exc
    return None


def _bare(given: Any) -> UDF:
    return given.udf if isinstance(given, api.OnChannel) else given


def _of_job(job: api.Job) -> dict[str, Analysis]:
    out: dict[str, Analysis] = {}
    for i, (key, given) in enumerate(job.given.items()):
        udf = _bare(given)
        channel = given.channel if isinstance(given, api.OnChannel) else None
        out[key] = Analysis(key, type(udf).__name__, udf, key, colour=i, channel=channel, sent=1, state=RUNNING)
    for key, bound in job.udfs.items():
        out[key].outputs = outputs_of(bound)
    return out
