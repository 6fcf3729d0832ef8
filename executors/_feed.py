"""Partitions from an iterator that may wait: taken by a thread of their own, so that a source that waits stops nobody."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from libstream.ext import HandsOut, Partition, Planned

AHEAD = 1
"""Partitions taken before they are asked for, so that a worker rarely waits for the thread that takes them."""
_END_S = 0.02
"""Time that the thread has to end, where it is not waiting in the iterator."""


def feed_of(partitions: Iterable[Partition]) -> Feed | Given:
    """The feed for these: with a thread only where taking the next one may take time."""
    return Given(partitions) if isinstance(partitions, Planned) else Feed(partitions)


class Given:
    """As `Feed`, for partitions that are known beforehand: no thread, which costs a small run more than its frames do."""

    def __init__(self, partitions: Planned) -> None:
        self._source = partitions
        self.ended = False
        self._next: Partition | None = None
        self.poll(0)

    def poll(self, room: int) -> Partition | None:
        """The next partition."""
        partition, self._next = self._next, next(self._source, None)
        self.ended = self._next is None
        return partition

    def wait(self, timeout_s: float) -> None:
        """There is nothing to wait for."""

    def stop(self) -> None:
        """There is nothing to stop."""


class Feed:
    """Hands out the partitions of `partitions`, which is consumed lazily: as many as there is room for, and `AHEAD`."""

    def __init__(self, partitions: Iterable[Partition]) -> None:
        self._source = iter(partitions)
        self._ready: deque[Partition] = deque()
        self._wanted = AHEAD
        self._error: BaseException | None = None
        self._over = self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._pull, name="libstream-feed", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """True when the last partition was handed out."""
        with self._changed:
            return self._over and not self._ready and self._error is None

    def poll(self, room: int) -> Partition | None:
        """The next partition if one is ready; up to `room` are made ready. Raises what the iterator raised."""
        with self._changed:
            partition = self._ready.popleft() if self._ready else None
            self._wanted = room + AHEAD - (partition is not None)
            self._changed.notify_all()
            if partition is None and self._error is not None:
                error, self._error = self._error, None
                raise error
            return partition

    def wait(self, timeout_s: float) -> None:
        """Return when a partition is ready, the end is reached or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._over, timeout_s)

    def stop(self) -> None:
        """Take no more. An iterator that waits just now is woken if it can be; else its thread ends when it comes back."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if isinstance(self._source, HandsOut):
            self._source.wake()
        self._thread.join(_END_S)

    def _pull(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or len(self._ready) < self._wanted)
                    if self._stopped:
                        break
                partition = next(self._source)
                with self._changed:
                    self._ready.append(partition)
                    self._changed.notify_all()
            close = getattr(self._source, "close", None)
            if close is not None and not isinstance(self._source, HandsOut):  # these are closed by the run, once nothing is read any more
                close()
        except StopIteration:
            pass
        except BaseException as exc:  # noqa: BLE001  raised again where the next partition is asked for
            self._error = exc
        with self._changed:
            self._over = True
            self._changed.notify_all()
