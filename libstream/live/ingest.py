"""The receiving thread: messages into the ring, their events to the runs. It never waits for a UDF, a merge or a plot."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np

from libstream.contracts.stream import Detector, Received
from libstream.errors import WireError
from libstream.live.ring import Ring
from libstream.live.runs import Runs

_Arr = np.ndarray[Any, Any]
_log = logging.getLogger("libstream.live")

TICK_S = 0.02
"""Longest wait for a message, and so the time within which the thread notices anything else."""
FULL_S = 0.002
"""Longest wait for memory while messages are thrown away."""
RETRY_S = 0.2
"""Time until a connection that cannot be had is tried again."""
END_S = 10.0
"""Time that the thread has to end."""
ROWS = 16384
"""Most message parts of one call."""


class Recorder(Protocol):
    """Tees what was received to disk."""

    def put(self, block: _Arr, table: _Arr, rows: int, lanes: _Arr | None, t_ns: int, done: Callable[[], None]) -> None:
        """Take note of messages; never waits; calls `done` from another thread once they are written."""

    def close(self) -> None:
        """Write what was put. Idempotent."""


class Ingest:
    """Owns the transport of a live source.

    drop: throw frames away, counted, where all memory is needed; else the sender has to wait.
    """

    def __init__(
        self, detector: Detector, ring: Ring, runs: Runs, *, drop: bool, max_message_bytes: int, recorder: Recorder | None = None
    ) -> None:
        self.detector, self.ring, self.runs, self.changed = detector, ring, runs, runs.changed
        self._drop, self._max, self._recorder = drop, max_message_bytes, recorder
        self.blocked = False
        self._new_decoder()
        self._block: int | None = None
        self._used = 0
        self._scratch: _Arr | None = None
        self._table = np.zeros((ROWS, 3), np.int64)
        self._leaving = False
        self._thread = threading.Thread(target=self._loop, name="libstream-ingest", daemon=True)

    def start(self) -> None:
        """Open the transport and start receiving. Raises OSError; nothing stays open then."""
        try:
            self.detector.transport.open()
        except BaseException:
            self._close_all()
            raise
        self._thread.start()

    def leave(self) -> None:
        """End soon and close everything. Takes no lock: the garbage collector may call it, in any thread."""
        self._leaving = True

    def stop(self) -> None:
        """End, close the transport; open runs become incomplete."""
        self._leaving = True
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(END_S)
        self.detector.transport.close()

    def _close_all(self) -> None:
        with ExitStack() as stack:
            if self.detector.controller is not None:
                stack.callback(self.detector.controller.close)
            if self._recorder is not None:
                stack.callback(self._recorder.close)
            stack.callback(self.detector.transport.close)

    def _new_decoder(self) -> None:
        self._decoder = self.detector.make_decoder()
        self.runs.has_end = self._decoder.has_end

    def _loop(self) -> None:
        while not self._leaving:
            try:
                self._turn()
            except Exception as exc:  # noqa: BLE001  whatever it was, the next acquisition has to work
                _log.exception("receiving from %s failed", self.detector.name)
                self._begin_anew(f"receiving failed ({type(exc).__name__}: {exc})")
        with self.changed:
            self.runs.close_all("the live source was closed")
        try:
            self._close_all()
        except Exception:  # noqa: BLE001  nobody waits for this thread's errors
            _log.exception("%s was not closed in order", self.detector.name)

    def _begin_anew(self, why: str) -> None:
        with self.changed:
            self.runs.problem(f"{why}: the acquisition that was running is incomplete, the next one is received")
            self.runs.close_all(why)
            self.runs.drop_batch()
            self._next_block()  # frames may lie in the part that was just received
        self._new_decoder()
        time.sleep(RETRY_S)

    def _turn(self) -> None:
        into = self._room()
        if into is not None:
            self._receive(into)
        self.runs.look_at_the_clock()

    def _receive(self, into: _Arr) -> None:
        kept = into is not self._scratch
        try:
            got = self.detector.transport.receive(into, self._table, TICK_S if kept else 0.0, self._max)
        except OSError as exc:
            with self.changed:
                self.runs.problem(str(exc))
            time.sleep(RETRY_S)
            return
        if got.messages or got.dropped:
            self._take(into, got, kept)
        elif not kept:
            with self.changed:
                self.changed.wait(FULL_S)  # not in the transport: what arrives once there is memory again is kept
        if kept:
            self._used += got.used
            if got.full:
                with self.changed:
                    self._next_block()
        if got.closed:
            with self.changed:
                self.runs.close_all("the detector closed the connection before all frames had come")
            self._new_decoder()

    def _room(self) -> _Arr | None:
        """Where to receive into: the rest of the block; None where all memory is needed and the sender has to wait."""
        if self._block is None:
            with self.changed:
                self._block, self._used = self.ring.take(), 0
                if self._block is None and self.runs.relieve():
                    self._block = self.ring.take()
                if self._block is None:
                    return self._full()
                self.blocked = False
        start = self._block * self.ring.block_bytes
        return self.ring.data[start + self._used : start + self.ring.block_bytes]

    def _full(self) -> _Arr | None:
        if not self.blocked:
            self.blocked = True
            self.changed.notify_all()
            what = "frames are thrown away" if self._drop else "the detector has to wait"
            self.runs.problem(f"the memory for frames is full: {what} until some are processed")
        if self._drop:
            if self._scratch is None:
                self._scratch = np.empty(self.ring.block_bytes, np.uint8)
            return self._scratch
        self.changed.wait(TICK_S)
        self.runs.alive_at = time.monotonic()  # it is us who keep the detector waiting
        return None

    def _next_block(self) -> None:
        self.ring.retire()
        self._block = None

    def _take(self, into: _Arr, got: Received, kept: bool) -> None:
        runs, base = self.runs, 0
        if kept and self._block is not None:
            base = self._block * self.ring.block_bytes + self._used
            if self._recorder is not None:
                self._record(self._recorder, self._block, into, got)
        runs.kept = kept
        with self.changed:
            runs.apart.messages += got.messages
            runs.apart.bytes += got.used
            if got.dropped:
                runs.apart.oversized += got.dropped
                runs.problem(
                    f"messages of more than {self._max} bytes were thrown away; if they were frames, connect with larger "
                    "max_message_bytes= and ring_bytes="
                )
        view = memoryview(into)
        rows = self._table[: got.rows].tolist()
        feed, event, over = self._decoder.feed, runs.take, runs.message_over
        i, end = 0, got.rows
        while i < end:
            number = rows[i][0]
            parts, starts, sizes = [], [], []
            while i < end and rows[i][0] == number:
                _, at, size = rows[i]
                parts.append(view[at : at + size])
                starts.append(base + at)
                sizes.append(size)
                i += 1
            try:
                for found in feed(parts):
                    event(found, starts, sizes)
            except WireError as exc:
                runs.not_understood(str(exc))
            except Exception as exc:  # noqa: BLE001  a decoder of somebody else must not end the measurement
                runs.not_understood(f"the decoder of {self.detector.name} raised {type(exc).__name__}: {exc}; this is a bug in it")
            over()
        runs.flush()

    def _record(self, recorder: Recorder, block: int, into: _Arr, got: Received) -> None:
        with self.changed:
            self.ring.pin(block, 1)

        def done() -> None:
            with self.changed:
                self.ring.pin(block, -1)
                self.changed.notify_all()

        recorder.put(into[: got.used], self._table, got.rows, got.lane, time.time_ns(), done)
