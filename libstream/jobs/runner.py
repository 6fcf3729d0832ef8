"""Keeps every analysis computed with its newest parameters: one pass for all that are new, a run of its own for the one that is changed.

Dragging a detector over a scan repeats one analysis and not all of them; opening a file, or the next acquisition, takes one pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from libstream import api
from libstream.contracts.source import FrameSource
from libstream.contracts.udf import UDF
from libstream.errors import UDFError
from libstream.jobs.analysis import DONE, FAILED, IDLE, INCOMPLETE, RUNNING, Analysis, error_json
from libstream.jobs.lane import Lane
from libstream.jobs.outputs import describe, outputs_of
from libstream.jobs.sketch import Sketch
from libstream.jobs.store import Store
from libstream.model.corrections import Corrections
from libstream.model.result import Outputs, Result


class Runner:
    """Lanes over one source. Methods are called by the session's worker thread, except `cancel`, `close`, `progress`, `results`.

    lock: of the session; guards `analyses`. changed: called from any thread after something changed. poke: asks for another `sync`.
    ended: called when nothing is running any more.
    """

    def __init__(
        self, analyses: Mapping[str, Analysis], store: Store, lock: threading.RLock, *, executor: str,
        changed: Callable[[], None], poke: Callable[[], None], ended: Callable[[], None],
    ) -> None:  # fmt: skip
        self._analyses, self._store, self._lock, self._executor = analyses, store, lock, executor
        self._changed, self._poke, self._ended = changed, poke, ended
        self.source: FrameSource | None = None
        self.epoch = 0
        self._roi: Any = None
        self._corrections: Corrections | None = None
        self._lanes: list[Lane] = []
        self._leaving: list[Lane] = []
        self._specs: dict[str, tuple[type[UDF], str | None]] = {}
        self._infos: dict[tuple[int, int, str], list[Any]] = {}
        self._stopped: set[str] = set()
        self._closed = False

    # -- what is computed ----------------------------------------------------------------------------------------------

    def reset(self, source: FrameSource | None, roi: Any, corrections: Corrections | None) -> None:
        """Leave what is running; from now on `source` is processed. Every analysis becomes a new generation."""
        with self._lock:
            lanes, self._lanes = self._lanes, []
            self._leaving += lanes
            if source is not self.source:
                self.epoch += 1
            self.source, self._roi, self._corrections = source, roi, corrections
            self._specs.clear()
            self._infos.clear()
            self._stopped.clear()
            for a in self._analyses.values():
                a.gen += 1
                a.state, a.error = IDLE, None
        for lane in lanes:
            lane.close()
        self._tidy()

    def sync(self, only: set[str] | None = None) -> None:
        """Start or change runs, so that analyses whose generation was not sent yet are computed. only: these, None = all."""
        with self._lock:
            source = self.source
            if source is None or self._closed:
                return
            dirty = [a for a in self._analyses.values() if a.sent != a.gen and (only is None or a.id in only)]
            change: list[tuple[Analysis, Lane, UDF, int]] = []
            fresh: list[tuple[Analysis, UDF, int]] = []
            for a in dirty:
                lane = self._lane_of(a.id)
                if lane is not None and lane.ids == {a.id} and self._specs.get(a.id) == (type(a.udf), a.channel):
                    if lane.ready:
                        change.append((a, lane, a.udf, a.gen))
                elif lane is None or lane.ready or lane.ids != {a.id}:
                    fresh.append((a, a.udf, a.gen))
                    if lane is not None:
                        lane.ids.discard(a.id)
            for lane in [x for x in self._lanes if not x.ids]:
                self._leave(lane)
        for a, lane, udf, gen in change:
            self._sending(a, gen)
            try:
                lane.update(a.id, udf, gen)
            except Exception as exc:  # noqa: BLE001  a UDF may raise anything while it is bound; its user is told
                self._failed(a, gen, exc)
        if fresh:
            self._start(source, fresh)
        self._tidy()

    def remove(self, id: str) -> None:
        """An analysis is no more; at once, from any thread: another one may get its id. Its run is ended by the next `sync`."""
        with self._lock:
            lane = self._lane_of(id)
            if lane is not None:
                lane.ids.discard(id)
        self._store.drop(f"a/{id}/")
        self._store.drop(f"r/{id}/")

    def cancel(self) -> None:
        """Stop what is running; what is there stays, as incomplete."""
        with self._lock:
            lanes = [x for x in self._lanes if x.running]
            for lane in lanes:
                self._stopped |= lane.ids
            for a in self._analyses.values():
                a.sent = a.gen  # what waits for a run is not started either
        for lane in lanes:
            lane.cancel()

    def refuse(self) -> None:
        """Start nothing more."""
        self._closed = True

    def close(self, timeout_s: float) -> bool:
        """Stop all runs and wait for them, `timeout_s` seconds for all together. False where a UDF could not be stopped."""
        with self._lock:
            self._closed = True
            lanes, self._lanes = self._lanes, []
            lanes += self._leaving
        for lane in lanes:
            lane.close()
        end = time.monotonic() + timeout_s
        left = [lane for lane in lanes if not lane.join(max(0.0, end - time.monotonic()))]
        return not left

    def _start(self, source: FrameSource, fresh: Sequence[tuple[Analysis, UDF, int]]) -> None:
        """One pass for all of these; those that cannot be bound are left out and told why."""
        udfs = {a.id: udf if a.channel is None else api.on(a.channel, udf) for a, udf, _ in fresh}
        gens = {a.id: gen for a, _, gen in fresh}
        for a, _, gen in fresh:
            self._sending(a, gen)
        try:
            lane = Lane(
                source, udfs, gens, roi=self._roi, corrections=self._corrections, executor=self._executor,
                shown=self._shown, ended=self._lane_ended,
            )  # fmt: skip
        except Exception as exc:  # noqa: BLE001  see `sync`
            if len(fresh) == 1:
                self._failed(fresh[0][0], fresh[0][2], exc)
                return
            good = []
            for a, udf, gen in fresh:
                try:
                    api.explain(source, {a.id: udfs[a.id]}, roi=self._roi, corrections=self._corrections, executor=self._executor)
                except Exception as own:  # noqa: BLE001  see `sync`
                    self._failed(a, gen, own)
                else:
                    good.append((a, udf, gen))
            if len(good) == len(fresh):  # together they do not work, alone they do: one after another
                for one in good:
                    self._start(source, [one])
            elif good:
                self._start(source, good)
            return
        try:
            infos = {id: outputs_of(udf) for id, udf in lane.job.udfs.items()}
        except Exception:  # noqa: BLE001  the run itself will say what is wrong with them
            infos = {}
        with self._lock:
            self._lanes.append(lane)
            for a, udf, _ in fresh:
                self._specs[a.id] = (type(udf), a.channel)
                if a.id in infos:
                    a.outputs = infos[a.id]
        self._changed()

    def _lane_of(self, id: str) -> Lane | None:
        return next((x for x in self._lanes if id in x.ids), None)

    def _leave(self, lane: Lane) -> None:
        if lane in self._lanes:
            self._lanes.remove(lane)
        self._leaving.append(lane)
        lane.close()

    def _tidy(self) -> None:
        with self._lock:
            leaving = list(self._leaving)
        for lane in leaving:
            if lane.join(0):
                with self._lock:
                    self._leaving = [x for x in self._leaving if x is not lane]

    def _sending(self, a: Analysis, gen: int) -> None:
        """Said before a run is started: its first result may come before the start returns."""
        with self._lock:
            a.sent = gen
            self._stopped.discard(a.id)
            a.state, a.error = RUNNING, None
        self._changed()

    def _failed(self, a: Analysis, gen: int, exc: BaseException) -> None:
        with self._lock:
            a.sent = max(a.sent, gen)
            a.state, a.error = FAILED, error_json(exc)
        self._changed()

    # -- what comes back, in the lanes' threads ------------------------------------------------------------------------

    def _shown(self, lane: Lane, result: Result, gens: Mapping[str, int], sketch: Sketch | None) -> None:
        failures = result.failures
        rough = sketch is not None and sketch.result is result
        for id, gen in gens.items():
            if id not in lane.ids or id not in result.udfs:
                continue
            infos = self._infos_of(lane, result, id, rough=rough)
            if rough and not any(i.kind == "nav" for i in infos):
                continue
            self._keep(id, result.udfs[id], result, infos, gen, sketch, rough=rough)
            with self._lock:
                a = self._analyses.get(id)
                if a is None:
                    self._store.drop(f"a/{id}/")
                    self._store.drop(f"r/{id}/")
                    continue
                if id not in lane.ids or gen < a.shown:
                    continue
                a.outputs = infos
                a.shown = gen
                if id in failures:
                    a.state, a.error = FAILED, {"message": failures[id], "where": "", "traceback": ""}
                elif a.sent == gen:
                    a.state = RUNNING if rough or not result.final else DONE if result.coverage.complete else INCOMPLETE
        self._changed()
        self._poke()  # whoever waits until this was shown

    def _infos_of(self, lane: Lane, result: Result, id: str, *, rough: bool) -> list[Any]:
        key = (builtin_id(lane), result.generation, id)  # generations of sketches are no count
        found = None if rough else self._infos.get(key)
        if found is None:
            outs = result.udfs[id]
            made = [describe(n, outs.declared[n], outs.shape, outs.axes) for n in outs.arrays]
            with self._lock:
                known = self._analyses[id].outputs if id in self._analyses else []
                # the same objects where nothing changed: what is made of them stays valid
                found = known if known == made else made
                if len(self._infos) > 200:
                    self._infos.clear()
                if not rough:
                    self._infos[key] = found
        return found

    def _keep(
        self, id: str, outputs: Outputs, result: Result, infos: list[Any], gen: int, sketch: Sketch | None, *, rough: bool
    ) -> None:  # fmt: skip
        valid, final = result.valid, result.final and not rough
        t_ms = now_ms()
        for info in infos:
            array = outputs.arrays[info.name]
            if rough and info.kind != "nav":  # a sum over some positions is no picture of that over all
                continue
            if info.display == "ragged":
                self._store.put(f"r/{id}/{info.name}", array, valid, gen, final, t_ms, info)
                continue
            seen = valid if info.kind == "nav" else None
            guessed = None if sketch is None else sketch.of(id, info.name)
            self._store.put(f"a/{id}/{info.name}", np.asarray(array), seen, gen, final, t_ms, info, guessed)

    def _lane_ended(self, lane: Lane, error: BaseException | None) -> None:
        with self._lock:
            guilty = error.udf if isinstance(error, UDFError) else ""
            for id in list(lane.ids):
                a = self._analyses.get(id)
                if a is None:
                    continue
                if error is not None:
                    if guilty and guilty != id:
                        a.sent = a.gen - 1  # another one's fault: again, without it
                        lane.ids.discard(id)
                    elif a.sent == a.gen or not guilty:
                        a.state, a.error = FAILED, error_json(error)
                elif a.state == RUNNING and a.sent == a.gen:
                    a.state = INCOMPLETE if id in self._stopped or a.shown != a.gen else DONE
        self._changed()
        self._poke()
        if not self.running:
            self._ended()

    # -- what others want to know --------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """True while something is computed."""
        with self._lock:
            return any(x.running for x in self._lanes)

    def progress(self) -> tuple[dict[str, Any] | None, dict[str, dict[str, int]]]:
        """(all that is under way added up, or None; positions by analysis)."""
        with self._lock:
            lanes = [(x, set(x.ids)) for x in self._lanes if x.running]
        total: dict[str, Any] = {"n_done": 0, "n_total": 0, "frames_per_s": 0.0, "bytes_per_s": 0.0, "seconds": 0.0, "seconds_left": None}
        each: dict[str, dict[str, int]] = {}
        left = 0.0
        for lane, ids in lanes:
            p = lane.job.progress
            total["n_done"] += p.n_done
            total["n_total"] += p.n_total
            total["frames_per_s"] += p.frames_per_s
            total["bytes_per_s"] += p.bytes_per_s
            total["seconds"] = max(total["seconds"], p.seconds)
            left = max(left, p.seconds_left)
            each |= {id: {"n_done": p.n_done, "n_total": p.n_total} for id in ids}
        if not lanes:
            return None, {}
        total["seconds_left"] = left if left != float("inf") else None
        return total, each

    def results(self) -> list[tuple[set[str], Result]]:
        """Newest results: the analyses that each one stands for."""
        with self._lock:
            lanes = [(set(x.ids), x.result) for x in self._lanes]
        return [(ids, r) for ids, r in lanes if r is not None]


builtin_id = id
"""The name is used for the ids of analyses in this module."""


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
