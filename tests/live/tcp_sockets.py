"""TCP transports of tests: a framing, a receiver and a sender over real sockets, and what keeps all that came."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from libstream.io_backends.streams._tcp import UNKNOWN, TcpTransport

LOCAL = "127.0.0.1"
BOUND_S = 20.0
"""No wait of these tests is longer."""


class Numbered:
    """`#`, six digits, and as many bytes. Anything else is garbage."""

    def __init__(self) -> None:
        self.resets = 0

    def cut(self, data: memoryview) -> tuple[int, int]:
        text = bytes(data)
        at = text.find(b"#")
        while at >= 0:
            digits = text[at + 1 : at + 7]
            if len(digits) == 6 and digits.isdigit():
                return at + 7, at + 7 + int(digits)
            if at + 7 > len(text):
                return at, UNKNOWN
            at = text.find(b"#", at + 1)
        return len(text), UNKNOWN

    def reset(self) -> None:
        self.resets += 1


def wire(*messages: bytes) -> bytes:
    return b"".join(b"#%06d" % len(m) + m for m in messages)


@contextmanager
def opened(*transports: TcpTransport) -> Iterator[None]:
    with ExitStack() as stack:
        for t in transports:
            stack.callback(t.close)
            t.open()
        yield


@contextmanager
def pair(receiver_listens: bool) -> Iterator[tuple[TcpTransport, TcpTransport]]:
    """A receiver and a sender, one of which listens."""
    if receiver_listens:
        to = TcpTransport(LOCAL, 0, listen=True, framing=Numbered())
        with opened(to):
            source = TcpTransport(LOCAL, to.port, listen=False)
            with opened(source):
                yield to, source
    else:
        source = TcpTransport(LOCAL, 0, listen=True)
        with opened(source):
            to = TcpTransport(LOCAL, source.port, listen=False, framing=Numbered())
            with opened(to):
                yield to, source


@contextmanager
def raw_pair() -> Iterator[tuple[TcpTransport, socket.socket]]:
    """A receiver that listens, and a plain socket that is connected to it."""
    to = TcpTransport(LOCAL, 0, listen=True, framing=Numbered())
    with opened(to), socket.create_connection((LOCAL, to.port), BOUND_S) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield to, link


class Sink:
    """Receives into blocks of a size, and keeps what came."""

    def __init__(self, transport: TcpTransport, block: int = 1 << 20, rows: int = 4096, max_bytes: int = 1 << 20) -> None:
        self.transport, self.block, self.max_bytes = transport, block, max_bytes
        self.table = np.zeros((rows, 3), np.int64)
        self.messages: list[bytes] = []
        self.dropped = self.closed = 0

    def take(self, timeout_s: float = BOUND_S, block: int | None = None) -> Any:
        into = np.zeros(self.block if block is None else block, np.uint8)
        got = self.transport.receive(into, self.table, timeout_s, self.max_bytes)
        rows = self.table[: got.rows].tolist()
        assert got.rows == got.messages == len(rows)
        assert [r[0] for r in rows] == list(range(got.messages))
        at = 0
        for _, start, size in rows:
            assert at <= start
            at = start + size
        assert at == got.used <= into.size
        self.messages += [into[start : start + size].tobytes() for _, start, size in rows]
        self.dropped += got.dropped
        self.closed += got.closed
        return got

    def until(self, n: int) -> list[bytes]:
        """Receive until n messages came or were thrown away."""
        end = time.monotonic() + BOUND_S
        while len(self.messages) + self.dropped < n:
            assert time.monotonic() < end, f"{len(self.messages)} of {n} messages came, {self.dropped} were thrown away"
            got = self.take(1.0)
            if got.full and not got.messages:
                self.take(1.0, self.block + self.max_bytes + 7)
        return self.messages

    def until_closed(self, n: int = 1) -> None:
        end = time.monotonic() + BOUND_S
        while self.closed < n:
            assert time.monotonic() < end, "the end of the connection was not seen"
            self.take(1.0)
