"""Work in a thread, so that Ctrl-C can be answered at once and what was done is known afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from libstream.cli._liveline import LiveLine

T = TypeVar("T")
_LOOK_S = 0.1


def run_stoppable(work: Callable[[threading.Event], T], line: LiveLine, text: Callable[[], str | None]) -> tuple[T, bool]:
    """Run `work(cancel)` in a thread and draw `text()` meanwhile; (what it returned, whether Ctrl-C ended it). Raises what it raised.

    The first Ctrl-C asks it to end, the second one leaves at once.
    """
    cancel, over = threading.Event(), threading.Event()
    box: list[T] = []
    failed: list[BaseException] = []

    def body() -> None:
        try:
            box.append(work(cancel))
        except BaseException as exc:  # noqa: BLE001  raised in the main thread
            failed.append(exc)
        finally:
            over.set()

    threading.Thread(target=body, name="libstream-cli-work", daemon=True).start()
    stopped = False
    while not over.is_set():  # not Thread.join, which takes a thread for finished when Ctrl-C interrupts it
        try:
            over.wait(_LOOK_S)
            said = text()
            if said is not None:
                line.draw(said)
        except KeyboardInterrupt:
            if stopped:
                raise
            stopped = True
            cancel.set()
            line.message("ending ... (Ctrl-C again leaves at once)")
    if failed:
        raise failed[0]
    return box[0], stopped


class Rate:
    """Mean over about a second of a number that grows."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._at, self._before, self._rate = clock, clock(), 0.0, 0.0

    def of(self, value: float) -> float:
        """Growth per second."""
        now = self._clock()
        if value < self._before:
            self._at, self._before = now, 0.0
        if now - self._at >= 1.0:
            self._rate = (value - self._before) / (now - self._at)
            self._at, self._before = now, value
        return self._rate
