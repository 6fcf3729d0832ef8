"""ZeroMQ transports of tests: a receiver and a sender over real sockets, and what keeps all that came."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np

from libstream.io_backends.streams._zmq import ZmqTransport

Loop = Literal["compiled", "plain"]
LOOPS: tuple[Loop, ...] = ("compiled", "plain") if os.name == "posix" else ("plain",)
LOCAL = "tcp://127.0.0.1:0"
BOUND_S = 20.0
"""No wait of these tests is longer."""


@contextmanager
def opened(*transports: ZmqTransport) -> Iterator[None]:
    with ExitStack() as stack:
        for t in transports:
            stack.callback(t.close)
            t.open()
        yield


@contextmanager
def pair(loop: Loop, n: int = 1, **options: Any) -> Iterator[tuple[ZmqTransport, ZmqTransport]]:
    """A bound receiver, and a sender that is connected to it."""
    to = ZmqTransport([LOCAL] * n, bind=True, loop=loop, **options)
    with opened(to):
        assert to.compiled == (loop == "compiled")
        source = ZmqTransport(to.addresses, kind="push", bind=False, hwm=options.get("hwm", 128))
        with opened(source):
            yield to, source


class Sink:
    """Receives into blocks of a size, and keeps what came."""

    def __init__(self, transport: ZmqTransport, block: int = 1 << 20, rows: int = 4096, max_bytes: int = 1 << 20) -> None:
        self.transport, self.block, self.max_bytes = transport, block, max_bytes
        self.table = np.zeros((rows, 3), np.int64)
        self.messages: list[list[bytes]] = []
        self.lanes: list[int] = []
        self.dropped = 0

    def take(self, timeout_s: float = BOUND_S, block: int | None = None) -> Any:
        into = np.full(self.block if block is None else block, 0xEE, np.uint8)
        got = self.transport.receive(into, self.table, timeout_s, self.max_bytes)
        rows = self.table[: got.rows].tolist()
        assert got.used <= into.size
        assert [r[1] for r in rows] == [0, *np.cumsum([r[2] for r in rows])][: got.rows]
        assert sum(r[2] for r in rows) == got.used
        assert (into[got.used :] == 0xEE).all()
        new: list[list[bytes]] = [[] for _ in range(got.messages)]
        for message, at, size in rows:
            new[message].append(into[at : at + size].tobytes())
        assert all(new)
        self.messages += new
        self.lanes += [0] * got.messages if got.lane is None else got.lane.tolist()
        self.dropped += got.dropped
        return got

    def until(self, n: int) -> list[list[bytes]]:
        """Receive until n messages came or were thrown away."""
        end = time.monotonic() + BOUND_S
        while len(self.messages) + self.dropped < n:
            assert time.monotonic() < end, f"{len(self.messages)} of {n} messages came, {self.dropped} were thrown away"
            got = self.take(1.0)
            if got.full and not got.messages:
                self.take(1.0, self.max_bytes)
        return self.messages
