"""Where results are published: one writer, versions, immutable snapshots, readers that pull."""

from __future__ import annotations

import threading

from libstream.model.result import Result


class Board:
    """Keeps the newest `Result`. Readers ask for the version or wait for a newer one; none of them slows the writer."""

    def __init__(self) -> None:
        self._cond = threading.Condition()
        self._result: Result | None = None
        self._version = 0

    @property
    def version(self) -> int:
        """Version of the newest result; 0 = nothing was published."""
        return self._version

    def next_version(self) -> int:
        """Version that the next publication will have."""
        return self._version + 1

    def publish(self, result: Result) -> None:
        """Replace the newest result. The run's thread only."""
        with self._cond:
            self._result = result
            self._version = result.version
            self._cond.notify_all()

    def wake(self) -> None:
        """Let all that wait look again: the run ended."""
        with self._cond:
            self._cond.notify_all()

    def get(self) -> Result | None:
        """The newest result."""
        return self._result

    def wait(self, seen: int, timeout_s: float) -> Result | None:
        """The newest result once it is newer than `seen`; None when woken or timed out before."""
        with self._cond:
            if self._version <= seen:
                self._cond.wait(timeout_s)
            return self._result if self._version > seen else None
