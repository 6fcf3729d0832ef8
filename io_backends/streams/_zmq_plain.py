"""Receiving from ZeroMQ sockets through pyzmq, for where libzmq's functions cannot be reached; the twin of the compiled loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_Arr = np.ndarray[Any, Any]

BURST = 16
"""Messages taken from a socket before the next one has its turn."""
STEP_MS = 50
"""How often a waiting loop looks whether it shall stop."""
LINGER_MS = 2
"""Silence that ends a batch."""
LONGEST_S = 0.01
"""A batch ends that long after its first message."""


class Taken(NamedTuple):
    """What a loop did; see `Received`. error: errno that ended it, or 0."""

    messages: int
    rows: int
    used: int
    full: bool
    dropped: int
    error: int


class PlainLoop:
    """Takes messages from `sockets` in turn. stop: int64 (1,), not 0 ends a wait.

    A message is held until all of its parts are there, and as long as it does not fit.
    """

    def __init__(self, sockets: Sequence[Any], stop: _Arr) -> None:
        import zmq

        self._zmq, self._sockets, self._stop = zmq, list(sockets), stop
        self._poller = zmq.Poller()
        for socket in sockets:
            self._poller.register(socket, zmq.POLLIN)
        self._held: list[Any] = []
        self._bytes = 0
        self._lane = 0  # of the held message, else where to begin
        self._whole = self._underway = self._too_big = False

    def release(self) -> None:
        """Let go of a held message, before the sockets are closed."""
        self._held, self._bytes = [], 0
        self._whole = self._underway = False

    def receive(self, into: _Arr, table: _Arr, lanes: _Arr, timeout_s: float, max_bytes: int) -> Taken:
        zmq, room, most = self._zmq, into.size, len(table)
        out = memoryview(into)
        rows: list[tuple[int, int, int]] = []
        n = used = dropped = error = 0
        full = False
        until, first_at, silent = time.monotonic() + timeout_s, 0.0, 0
        if self._whole and (self._bytes > max_bytes or len(self._held) > most):  # other limits than when it came
            self.release()
            dropped = 1
        try:
            while not full and len(rows) < most:
                took = 0
                for _ in self._sockets:
                    for _ in range(BURST):
                        if len(rows) == most:
                            break
                        if not self._whole and not self._fetch(max_bytes, most):
                            break
                        took += 1
                        if self._too_big:
                            self._too_big = False
                            dropped += 1
                            continue
                        if self._bytes > room - used:
                            full = True
                            break
                        if len(self._held) > most - len(rows):
                            most = len(rows)  # it is held for the next table
                            break
                        for part in self._held:
                            size = len(part)
                            out[used : used + size] = part.buffer
                            rows.append((n, used, size))
                            used += size
                        lanes[n] = self._lane
                        n += 1
                        self.release()
                    if full or len(rows) == most or self._underway:
                        break
                    self._lane = (self._lane + 1) % len(self._sockets)
                now = time.monotonic()
                if took or dropped:
                    first_at = first_at or now
                if not first_at:
                    if self._stop[0] or now >= until:
                        break
                    self._poller.poll(min(STEP_MS, max(1, int(1000 * (until - now)))))
                    continue
                silent = 0 if took else silent + 1
                if now - first_at > LONGEST_S or silent > LINGER_MS:
                    break
                if not took:
                    self._poller.poll(1)
        except zmq.ZMQError as exc:
            error = exc.errno or 5
        if self._sockets and not self._whole and not self._underway:  # a small table must not always end in the same turn
            self._lane = (self._lane + 1) % len(self._sockets)
        if rows:
            table[: len(rows)] = rows
        return Taken(n, len(rows), used, full, dropped, error)

    def _fetch(self, max_bytes: int, most: int) -> bool:
        """Take the parts of one message from the socket whose turn it is; False where there is none, or not all of one."""
        zmq, socket = self._zmq, self._sockets[self._lane]
        while True:
            try:
                part = socket.recv(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return False
            self._underway = True
            if not self._too_big:
                self._bytes += len(part)
                self._held.append(part)
                if self._bytes > max_bytes or len(self._held) > most:
                    self._held, self._bytes, self._too_big = [], 0, True
            if not part.more:
                self._underway, self._whole = False, not self._too_big
                return True
