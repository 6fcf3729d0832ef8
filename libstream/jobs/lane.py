"""One run for some analyses, and a thread that hands its results on as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from libstream import api
from libstream.contracts.source import FrameSource
from libstream.errors import CancelledError
from libstream.model.corrections import Corrections
from libstream.model.result import Result

TICK_S = 0.05
"""Time between two snapshots. Shorter ones cost more than anyone sees; a run over a small file shows its end at once anyhow."""
HOLD_S = 0.08
"""A new generation is first shown when it is complete or this old: its first snapshot holds a few positions only, and showing it
would make a dragged detector's image flicker between almost nothing and all."""
GENERATIONS = 8
"""Generations whose parameters are remembered: results of at most two can be under way."""


class Lane:
    """A `Job` over `source` for several analyses.

    gens: generation of each analysis (its own count, not the job's). shown: called with (lane, result, generations) in the lane's
    thread for new results, the newest only. ended: called with (lane, error or None) whenever nothing is left to do.
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
        shown: Callable[[Lane, Result, Mapping[str, int]], None],
        ended: Callable[[Lane, BaseException | None], None],
    ) -> None:
        self.ids = set(udfs)
        self._shown, self._ended = shown, ended
        self._lock = threading.Lock()
        self._gens: dict[int, dict[str, int]] = {0: dict(gens)}
        self._go = threading.Event()
        self._closed = False
        self.result: Result | None = None
        self.shown_generation = -1
        self.sent_generation = 0
        self.job = api.start(
            source, udfs, roi=roi, corrections=corrections, executor=executor, order="coarse", tick_s=TICK_S
        )  # raises what is wrong before any thread of ours is there  # fmt: skip
        self._thread = threading.Thread(target=self._watch, name="libstream-lane", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """True when new parameters may be sent: those sent before are shown, or nothing is running.

        So an image of some worth appears for one position of a detector before the next one is computed.
        """
        return self.job.done or self.shown_generation >= self.sent_generation

    @property
    def running(self) -> bool:
        """True while something is computed."""
        return not self._closed and not self.job.done

    def update(self, id: str, params: Mapping[str, Any], gen: int) -> None:
        """Change the parameters of one analysis. Raises what `Job.update` raises."""
        with self._lock:
            number = self.job.update(id, **params)
            self._gens[number] = {**self._gens[max(self._gens)], id: gen}
            for old in sorted(self._gens)[:-GENERATIONS]:
                del self._gens[old]
            self.sent_generation = number
            self._go.set()

    def cancel(self) -> None:
        """Stop what is computed; what is there stays."""
        self.job.cancel()

    def close(self) -> None:
        """Stop for good; returns at once."""
        with self._lock:
            self._closed = True
            self._go.set()
        self.job.cancel()

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
            result = self.job.newer(seen, 0.02 if self.result is not None and self.result.final else 0.25)
            if result is not None:
                result = self._settled(result)
                seen = result.version
                with self._lock:
                    gens = self._gens.get(result.generation)
                    self.result = result
                    self.shown_generation = result.generation
                if gens is not None and not self._closed:
                    try:
                        self._shown(self, result, gens)
                    except Exception as exc:  # noqa: BLE001  whoever shows results must not stop them from coming
                        self._ended(self, exc)
                continue
            with self._lock:
                idle = self.job.done and not self._closed
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

    def _settled(self, result: Result) -> Result:
        """`result`, or a newer one where it is too early to be looked at."""
        if result.generation == self.shown_generation:
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
