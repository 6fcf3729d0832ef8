"""A file that is still being written, as a live source: its frames are handed out as they appear in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from libstream.contracts.source import FrameSource, Partition
from libstream.errors import LibstreamError, NotArmed, SourceChangedError
from libstream.model.partial import MISSING, Partial
from libstream.model.source import SourceMeta
from libstream.plan.roi import runs_of

_Arr = np.ndarray[Any, Any]

POLL_S = 0.02
"""How often the length of the file is looked at."""
FLUSH_S = 0.05
"""Frames that are there wait at most this long for more."""
MOST_BYTES = 32 << 20
"""Bytes of a partition: more would keep frames waiting while other workers have nothing to do."""
LEAST = 64
"""Frames that a partition may always have."""


class Growth:
    """How many frames of a file are there. Nobody watches in the background: whoever waits looks.

    state: "running", "done" (all frames are there), "incomplete" (nothing came for `stall_timeout_s` seconds), "failed" (the file is
    gone or another one) or "closed".
    """

    def __init__(self, present: Callable[[], int], total: int, stall_timeout_s: float, poll_s: float) -> None:
        self._present, self.total, self._stall_s, self.poll_s = present, total, stall_timeout_s, poll_s
        self._lock = threading.Lock()
        self.frames = self.surplus = 0
        self.state, self.reason = "running", ""
        self._grew_at = time.monotonic()

    @property
    def over(self) -> bool:
        """No frame will come any more."""
        return self.state != "running"

    def look(self) -> int:
        """Look at the file; frames that are there."""
        with self._lock:
            if self.over:
                return self.frames
            now = time.monotonic()
            try:
                there = self._present()
            except SourceChangedError as exc:
                self.state, self.reason = "failed", str(exc)
                return self.frames
            if there > self.frames:
                self._grew_at = now
            self.frames, self.surplus = min(there, self.total), max(0, there - self.total)
            if self.frames >= self.total:
                self.state = "done"
            elif now - self._grew_at > self._stall_s:
                self.state = "incomplete"
                self.reason = f"the file has not grown for {self._stall_s:g} s: {self.frames} of {self.total} frames are there"
            return self.frames

    def close(self, reason: str) -> None:
        """Wait for nothing more."""
        with self._lock:
            if not self.over:
                self.state, self.reason = "incomplete", reason


class WatchedAcquisition(FrameSource):
    """The frames of a file that is being written; used like a file. A run over it ends when the file is complete, or stalls."""

    tick_s = 0.05

    def __init__(self, source: FrameSource, growth: Growth) -> None:
        super().__init__(source.meta, source.opener, source.channel_name)
        self._source, self._growth = source, growth
        self.opened = source.opened

    def channel_meta(self, name: str) -> SourceMeta:
        """See `FrameSource`."""
        return self._source.channel_meta(name)

    def partitions(self, planned: Iterable[Partition]) -> Iterator[Partition]:
        """Partitions as frames appear in the file."""
        size = sum(m.shape.frame_size * m.dtype.itemsize for m in (self._source.channel_meta(c) for c in self.meta.channels))
        return HandOut(self._growth, planned, self.meta, size)

    @property
    def state(self) -> str:
        """running, done, incomplete or failed."""
        return self._growth.state

    @property
    def reason(self) -> str:
        """Why it ended as it did, in words; "" for a regular end."""
        return self._growth.reason

    @property
    def n_arrived(self) -> int:
        """Frames that are in the file."""
        return self._growth.look()

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait until no frame will come any more; returns the state (still "running" after `timeout_s` seconds)."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while self._growth.look() >= 0 and not self._growth.over:
            if end is not None and time.monotonic() >= end:
                break
            time.sleep(self._growth.poll_s)
        return self._growth.state


class HandOut:
    """One pass over a growing file (see `HandsOut`)."""

    def __init__(self, growth: Growth, planned: Iterable[Partition], meta: SourceMeta, frame_bytes: int) -> None:
        self._growth, self._sync = growth, meta.sync_offset
        wanted = np.zeros(meta.shape.n_positions, bool)
        most = 1
        for p in planned:
            for a, b in p.runs.tolist():
                wanted[a:b] = True
            most = max(most, p.n_positions)
        self._at = np.flatnonzero(wanted)
        self._size = min(most, max(LEAST, MOST_BYTES // max(1, frame_bytes)))
        self._done = self._number = 0
        self._woken = threading.Event()

    def __iter__(self) -> HandOut:
        return self

    def _there(self) -> int:
        """Wanted positions whose frame is in the file."""
        return int(np.searchsorted(self._at, self._growth.look() - self._sync))

    def __next__(self) -> Partition:
        since = 0.0
        while True:
            if self._woken.is_set():
                raise StopIteration
            over = self._growth.over  # before looking: what comes after this is the end
            there = self._there()
            n = max(0, there - self._done)
            now = time.monotonic()
            since = since or (now if n else 0.0)
            if n >= self._size or (n and (over or not self._number or now - since >= FLUSH_S)):
                return self._next(min(n, self._size), there, over)
            if over:
                if self._done < len(self._at):
                    return self._next(0, there, over)
                raise StopIteration
            self._woken.wait(self._growth.poll_s)

    def _next(self, n: int, there: int, over: bool) -> Partition:
        at = self._at[self._done : self._done + n]
        self._done += n
        lost = None
        if over and self._done == there and there < len(self._at):
            gone = self._at[there:]
            lost = (gone, np.full(len(gone), MISSING, np.uint8))
            self._done = len(self._at)
        flags = np.zeros(int(at[-1]) + 1 if len(at) else 0, bool)
        flags[at] = True
        self._number += 1
        return Partition(self._number - 1, runs_of(flags), lost)

    def merged(self, partial: Partial) -> None:
        """A file keeps its frames."""

    def wake(self) -> None:
        """See `HandsOut`."""
        self._woken.set()

    def close(self) -> None:
        """See `HandsOut`."""
        self._woken.set()

    def report(self, coverage: Mapping[str, int]) -> dict[str, Any]:
        """See `HandsOut`."""
        growth = self._growth
        there = int(np.searchsorted(self._at, growth.frames - self._sync))
        settled = int(coverage["processed"]) + int(coverage["corrupt"])
        ledger = {
            **{k: int(coverage[k]) for k in ("announced", "processed", "corrupt", "dropped", "missing", "unseen")},
            "received": growth.frames + growth.surplus, "excluded": growth.frames - there, "partial": 0, "pending": there - settled,
            "gone": 0, "duplicate": 0, "late": 0, "surplus": growth.surplus, "foreign": 0,
        }  # fmt: skip
        return {"ledger": ledger, "acquisition": {"run": 1, "state": growth.state, "reason": growth.reason, "notes": []}}


class WatchedFile:
    """What `ls.watch` gives: a live source with one acquisition. A context manager and an iterator.

    look: opens the file as soon as it says what it is: (source, function that counts its frames), or None.
    """

    def __init__(
        self, look: Callable[[], tuple[FrameSource, Callable[[], int]] | None], uri: str, *, stall_timeout_s: float, poll_s: float = POLL_S
    ) -> None:
        self.uri, self._look, self._stall_s, self._poll_s = uri, look, stall_timeout_s, poll_s
        self._growth: Growth | None = None
        self._acquisition: WatchedAcquisition | None = None
        self._closed = False
        self._try()  # a mistake in the arguments is said at once where the file is there

    def _try(self) -> WatchedAcquisition | None:
        if self._acquisition is None:
            found = self._look()
            if found is not None:
                source, present = found
                growth = Growth(present, source.meta.n_frames, self._stall_s, self._poll_s)
                if growth.look():  # a run is tried on a frame before it begins
                    self._growth, self._acquisition = growth, WatchedAcquisition(source, growth)
        return self._acquisition

    @property
    def meta(self) -> SourceMeta:
        """Raises NotArmed before the first frame is there."""
        found = self._try()
        if found is None:
            raise NotArmed(f"{self.uri} holds no frame yet: use `for acquisition in watched:` or `watched.wait()`, and run UDFs on these")
        return found.meta

    @property
    def state(self) -> str:
        """waiting, running, done, incomplete, failed or closed."""
        return "closed" if self._closed else "waiting" if self._growth is None else self._growth.state

    def wait(self, timeout_s: float | None = None) -> WatchedAcquisition | None:
        """The acquisition, once its first frame is in the file; None after `timeout_s` seconds. Raises LibstreamError when closed."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._closed:
            found = self._try()
            if found is not None:
                return found
            if end is not None and time.monotonic() >= end:
                return None
            time.sleep(self._poll_s)
        raise LibstreamError(f"{self.uri}: is not watched any more")

    def __iter__(self) -> Iterator[WatchedAcquisition]:
        found = self.wait()
        if found is not None:
            yield found

    def close(self) -> None:
        """Stop waiting for frames; runs over them end with what there is. Idempotent."""
        self._closed = True
        if self._growth is not None:
            self._growth.close("the file is not watched any more")

    def __enter__(self) -> WatchedFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<watched {self.uri}: {self.state}>"
