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
    cancel, box, failed = threading.Event(), [], []  # type: ignore[var-annotated]

    def body() -> None:
        try:
            box.append(work(cancel))
        except BaseException as exc:  # noqa: BLE001  raised in the main thread
            failed.append(exc)

    thread = threading.Thread(target=body, name="libstream-cli-work", daemon=True)
    thread.start()
    stopped = False
    while thread.is_alive():
        try:
            thread.join(_LOOK_S)
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
