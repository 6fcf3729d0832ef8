"""One run for some analyses, and a thread that hands its results on as they come."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from libstream import api
from libstream.contracts.source import FrameSource
from libstream.contracts.udf import UDF
from libstream.errors import CancelledError
from libstream.jobs.sketch import MOST_S, Grid, Sketch, grid_for, guessed_frame_s
from libstream.model.corrections import Corrections
from libstream.model.result import Result

TICK_S = 0.04
"""Time between two snapshots, for 20 painted ones a second. Shorter ones cost more than anyone sees; a run over a small file shows its
end at once anyhow."""
HOLD_S = 0.08
"""A new generation is first shown when it is complete or this old: its first snapshot holds a few positions only, and showing it
would make a dragged detector's image flicker between almost nothing and all."""
PACES = 5
"""Measurements of the time that a frame takes, of which the shortest counts: a run that was held up must not make the next one rough."""
GENERATIONS = 8
"""Generations whose parameters are remembered: results of at most two can be under way."""


@dataclass
class _Sketching:
    """A sketch that is computed. change: (analysis, its UDF, its generation), given to the job when the sketch is done."""

    job: api.Job
    grid: Grid
    asked: int
    gens: dict[str, int]
    change: tuple[str, UDF, int] | None


class Lane:
    """A `Job` over `source` for several analyses; where it will take long, a sketch of each new generation comes first.

    gens: generation of each analysis (its own count, not the job's). shown: called with (lane, result, generations, sketch) in the
    lane's thread for new results, the newest only; `result` is `sketch.result` where there is nothing else yet. ended: called with
    (lane, error or None) whenever nothing is left to do.
    """

    def __init__(
        self,
        source: FrameSource,
        udfs: Mapping[str, Any],
        gens: Mapping[str, int],
        *,
        roi: Any,
        corrections: Corrections | None,
        executor: str,
        shown: Callable[[Lane, Result, Mapping[str, int], Sketch | None], None],
        ended: Callable[[Lane, BaseException | None], None],
    ) -> None:
        self.ids = set(udfs)
        self._shown, self._ended = shown, ended
        self._source, self._udfs, self._roi = source, dict(udfs), roi
        self._options: dict[str, Any] = {"corrections": corrections, "executor": executor}
        self._lock = threading.Lock()
        self._gens: dict[int, dict[str, int]] = {0: dict(gens)}
        self._asked, self._answered = 0, -1  # changes of parameters, and the last one of which something can be seen
        self._answers = {0: 0}
        self._go = threading.Event()
        self._closed = False
        self._paces: deque[float] = deque(maxlen=PACES)
        self._sketching: _Sketching | None = None
        self._sketch: tuple[int, Sketch] | None = None
        self.result: Result | None = None
        self.job = api.start(
            source, udfs, roi=roi, order="coarse", tick_s=TICK_S, **self._options
        )  # raises what is wrong before any thread of ours is there  # fmt: skip
        self._sketching = self._sketched(self._udfs, dict(gens), None)
        self._thread = threading.Thread(target=self._watch, name="libstream-lane", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """True when new parameters may be sent: those sent before are shown, or nothing is running.

        So an image of some worth appears for one position of a detector before the next one is computed.
        """
        return not self.running or self._answered >= self._asked

    @property
    def running(self) -> bool:
        """True while something is computed."""
        return not self._closed and (self._sketching is not None or not self.job.done)

    def update(self, id: str, udf: UDF, gen: int) -> None:
        """Change the parameters of one analysis to those of `udf`. Raises what `Job.update` raises."""
        old = self._udfs[id]
        udfs = {**self._udfs, id: udf if isinstance(old, UDF) else api.on(old.channel, udf)}
        with self._lock:
            self._measured(self.job)
            gens = {**self._gens[max(self._gens)], id: gen}
            sketching = self._sketched(udfs, gens, (id, udf, gen))
            if sketching is None:
                self._asked += 1
                self._send(id, udf, gen)
            else:
                self._asked = sketching.asked
                self.job.cancel()
                self._sketching = sketching
            self._udfs = udfs
            self._go.set()

    def _send(self, id: str, udf: UDF, gen: int) -> None:
        number = self.job.update(id, **udf.parameters())
        self._gens[number] = {**self._gens[max(self._gens)], id: gen}
        self._answers[number] = self._asked
        for old in sorted(self._gens)[:-GENERATIONS]:
            del self._gens[old], self._answers[old]

    def _measured(self, job: api.Job) -> None:
        """Take the time of a frame from what a run has done. The first moments of one say nothing."""
        p = job.progress
        if p.n_done > 0.1 * p.n_total and p.seconds > 0:
            self._paces.append(p.seconds / p.n_done)

    def _sketched(self, udfs: Mapping[str, Any], gens: dict[str, int], change: tuple[str, UDF, int] | None) -> _Sketching | None:
        """Start a sketch where it is worth while."""
        grid = grid_for(self._source, self.job.udfs, self._roi, min(self._paces, default=guessed_frame_s(self._source)))
        if grid is None:
            return None
        job = api.start(self._source, udfs, roi=grid.mask, tick_s=math.inf, **self._options)
        return _Sketching(job, grid, self._asked + (change is not None), gens, change)

    def cancel(self) -> None:
        """Stop what is computed; what is there stays."""
        with self._lock:
            if self._sketching is not None:
                self._sketching.change = None
                self._sketching.job.cancel()
        self.job.cancel()

    def close(self) -> None:
        """Stop for good; returns at once."""
        with self._lock:
            self._closed = True
            self._go.set()
        self.cancel()

    def join(self, timeout_s: float) -> bool:
        """Wait until the lane's threads have ended; call `close` before. False where they go on."""
        end = time.monotonic() + timeout_s
        try:
            self.job.wait(timeout_s)
        except TimeoutError:
            return False
        except Exception:  # noqa: BLE001  its error was told by `ended`
            pass
        if self._thread is not threading.current_thread():
            self._thread.join(max(0.0, end - time.monotonic()))
        return not self._thread.is_alive()

    # -- the lane's thread ---------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        seen, told = 0, -1
        while not self._closed:
            if self._sketching is not None:
                self._take_sketch(self._sketching)
                continue
            result = self.job.newer(seen, 0.02 if self.result is not None and self.result.final else 0.25)
            if self._sketching is not None:
                continue  # what is cancelled for a newer generation is not looked at any more
            if result is not None:
                result = self._settled(result)
                seen = result.version
                with self._lock:
                    gens = self._gens.get(result.generation)
                    self.result = result
                    asked = self._answers.get(result.generation, -1)
                    self._answered = max(self._answered, asked)
                    sketch = self._sketch[1] if self._sketch is not None and self._sketch[0] == asked else None
                if gens is not None:
                    # what is missing at the end is shown as missing
                    self._tell(result, gens, None if result.final and not result.coverage.complete else sketch)
                continue
            with self._lock:
                idle = self.job.done and not self._closed and self._sketching is None
                generation = self.job.generation
                if idle:
                    self._go.clear()
            if idle:
                newest = self.job.snapshot()
                if newest is not None and newest.version > seen:
                    continue
                if told < generation:
                    told = generation
                    self._ended(self, self._error())
                self._go.wait()

    def _tell(self, result: Result, gens: Mapping[str, int], sketch: Sketch | None) -> None:
        if self._closed:
            return
        try:
            self._shown(self, result, gens, sketch)
        except Exception as exc:  # noqa: BLE001  whoever shows results must not stop them from coming
            self._ended(self, exc)

    def _take_sketch(self, now: _Sketching) -> None:
        """Wait for a sketch, show it, and have the job compute the whole."""
        result = _sketched(now.job)
        with self._lock:
            self._sketching = None
            if result is not None:
                self._measured(now.job)
                self._sketch = now.asked, Sketch(now.grid, result)
            if now.change is not None and not self._closed:
                self._send(*now.change)
            if result is not None:
                self._answered = max(self._answered, now.asked)
        if result is not None and self._sketch is not None:
            self._tell(result, now.gens, self._sketch[1])
        if now.asked and now.change is None:  # cancelled meanwhile: nothing will come after it
            self._ended(self, None)

    def _settled(self, result: Result) -> Result:
        """`result`, or a newer one where it is too early to be looked at."""
        if self._answered >= self._answers.get(result.generation, 0):
            return result
        while not result.final and not self._closed:
            left = HOLD_S - float(result.run.get("times", {}).get("seconds", HOLD_S))
            if left <= 0:
                break
            newer = self.job.newer(result.version, left)
            if newer is None:
                break
            result = newer
        return result

    def _error(self) -> BaseException | None:
        try:
            self.job.wait(0)
        except (CancelledError, TimeoutError):
            return None
        except BaseException as exc:  # noqa: BLE001  handed to the session, which tells the user
            return exc
        return None


def _sketched(job: api.Job) -> Result | None:
    """The result of a sketch, a part of it where it takes too long; None where there is none: the run itself will say why."""
    result: Result | None
    try:
        result = job.wait(MOST_S)
    except TimeoutError:
        job.cancel()
        try:
            result = job.wait(MOST_S)
        except CancelledError as exc:
            result = exc.partial if isinstance(exc.partial, Result) else None
        except Exception:  # noqa: BLE001  see above
            return None
    except Exception:  # noqa: BLE001  see above
        return None
    return None if result is None or result.failures or not result.valid.any() else result
