"""TCP transports over real sockets: messages come out of the stream whole, in order and within bounds, wherever it is cut."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.ext import UsageError
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


# -- what is sent arrives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("receiver_listens", [True, False])
def test_order(receiver_listens: bool) -> None:
    sent = [bytes([i]) * (997 * i + 1) for i in range(200)]
    with pair(receiver_listens) as (to, source):
        results: list[bool] = []
        thread = threading.Thread(target=lambda: results.extend(source.send([wire(m)[:5], wire(m)[5:]], BOUND_S) for m in sent))
        thread.start()
        assert Sink(to).until(200) == sent
        thread.join(BOUND_S)
        assert results == [True] * 200
        assert to.connected
        assert to.trouble == source.trouble == ""


def test_many_small_messages() -> None:
    n = 50_000
    with raw_pair() as (to, link):
        thread = threading.Thread(target=link.sendall, args=(wire(*(b"%d" % i for i in range(n))),))
        thread.start()
        assert Sink(to).until(n) == [b"%d" % i for i in range(n)]
        thread.join(BOUND_S)


def test_a_message_that_comes_byte_by_byte() -> None:
    with raw_pair() as (to, link):
        sink = Sink(to)
        for byte in wire(b"slow"):
            assert not sink.messages
            link.sendall(bytes([byte]))
            sink.take(0.02)
        assert sink.until(1) == [b"slow"]


def test_messages_larger_than_a_chunk() -> None:
    big = [np.random.default_rng(i).bytes(3_000_000) for i in range(4)]
    with raw_pair() as (to, link):
        to._framing.cut = lambda data: (0, 3_000_000)  # type: ignore[union-attr, method-assign]
        sink = Sink(to, 3_000_003, max_bytes=4_000_000)
        thread = threading.Thread(target=lambda: [link.sendall(m) for m in big])
        thread.start()
        assert sink.until(4) == big
        thread.join(BOUND_S)


@given(
    messages=st.lists(st.integers(1, 400).map(lambda n: bytes([n % 256]).replace(b"#", b"!") * n), max_size=20),
    garbage=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"#", b"!")), max_size=20),
    cuts=st.lists(st.integers(1, 300), min_size=1, max_size=10),
    block=st.integers(0, 900),
    rows=st.integers(1, 10),
    max_bytes=st.integers(1, 500),
)
def test_any_stream_comes_out_through_any_blocks(
    messages: list[bytes], garbage: list[bytes], cuts: list[int], block: int, rows: int, max_bytes: int
) -> None:
    stream = b"".join((garbage[i] if i < len(garbage) else b"") + wire(m) for i, m in enumerate(messages))
    with raw_pair() as (to, link):
        sink = Sink(to, block, rows, max_bytes)
        at = i = 0
        while at < len(stream):
            link.sendall(stream[at : at + cuts[i % len(cuts)]])
            at, i = at + cuts[i % len(cuts)], i + 1
            sink.take(0.0)
        sink.until(len(messages))
        kept = [m for m in messages if len(m) <= max_bytes]
        assert sink.messages == kept
        assert sink.dropped == len(messages) - len(kept)


# -- what does not fit ------------------------------------------------------------------------------------------------


def test_a_message_that_does_not_fit_comes_first_next_time() -> None:
    with raw_pair() as (to, link):
        link.sendall(wire(b"a" * 60, b"b" * 50, b"c"))
        sink = Sink(to, block=100)
        got = sink.take()
        assert (got.messages, got.full) == (1, True)
        assert sink.take(block=40).full
        assert sink.until(3) == [b"a" * 60, b"b" * 50, b"c"]


def test_a_full_table_ends_the_call() -> None:
    with raw_pair() as (to, link):
        link.sendall(wire(*(b"%d" % i for i in range(10))))
        sink = Sink(to, rows=4)
        sink.until(10)
        assert sink.messages == [b"%d" % i for i in range(10)]


def test_lying_lengths_cost_no_good_message() -> None:
    with raw_pair() as (to, link):
        link.sendall(wire(b"one") + b"#999999" + wire(b"two") + b"#000900" + wire(b"three"))
        sink = Sink(to, max_bytes=100)
        sink.until(5)
        assert sink.messages == [b"one", b"two", b"three"]
        assert sink.dropped == 2


def test_garbage_without_end_takes_no_memory() -> None:
    with raw_pair() as (to, link):
        link.sendall(wire(b"before"))
        sink = Sink(to, block=1000)
        sink.until(1)
        stop = threading.Event()

        def pour() -> None:
            while not stop.is_set():
                link.sendall(bytes(10_000))
            link.sendall(wire(b"after"))

        thread = threading.Thread(target=pour)
        thread.start()
        for _ in range(100):
            got = sink.take(0.01)
            assert got[:4] == (0, 0, 0, False)
            assert len(to._carry) <= 1000
        stop.set()
        assert sink.until(2) == [b"before", b"after"]
        thread.join(BOUND_S)


def test_a_framing_that_never_decides_hangs_nothing() -> None:
    with raw_pair() as (to, link):
        cut, to._framing.cut = to._framing.cut, lambda data: (0, UNKNOWN)  # type: ignore[union-attr, method-assign]
        sink = Sink(to, block=5000, max_bytes=5000)
        link.sendall(bytes(5000))
        while sink.dropped < 1:
            sink.take()
        to._framing.cut = cut  # type: ignore[union-attr, method-assign]
        link.sendall(wire(b"good"))
        assert sink.until(2) == [b"good"]
        assert sink.dropped == 1


# -- connections ------------------------------------------------------------------------------------------------------


def test_the_end_of_a_connection_is_said_once_and_the_next_one_is_taken() -> None:
    to = TcpTransport(LOCAL, 0, listen=True, framing=Numbered())
    with opened(to):
        sink = Sink(to)
        for i in range(5):
            with socket.create_connection((LOCAL, to.port), BOUND_S) as link:
                link.sendall(wire(b"%d" % i) + b"#000100 half a message")
            sink.until_closed(i + 1)
            assert not sink.take(0.0).closed
        assert sink.messages == [b"%d" % i for i in range(5)]
        assert to._framing.resets == 5  # type: ignore[union-attr]


def test_a_connection_that_breaks_is_an_end_too() -> None:
    with raw_pair() as (to, link):
        sink = Sink(to)
        link.sendall(wire(b"x"))
        sink.until(1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by a reset
        link.close()
        sink.until_closed()
        assert to.trouble


def test_it_connects_as_soon_as_somebody_listens() -> None:
    with socket.create_server((LOCAL, 0)) as probe:
        port = probe.getsockname()[1]
    to = TcpTransport(LOCAL, port, listen=False, framing=Numbered())
    with opened(to):
        sink = Sink(to)
        assert sink.take(0.1).messages == 0
        assert "refused" in to.trouble.lower()
        for i in range(3):  # and again
            with socket.create_server((LOCAL, port)) as server:
                server.settimeout(BOUND_S)
                thread = threading.Thread(target=sink.until, args=(i + 1,))
                thread.start()
                link, _ = server.accept()
                with link:
                    link.sendall(wire(b"%d" % i))
                    thread.join(BOUND_S)
            sink.until_closed(i + 1)
        assert sink.messages == [b"0", b"1", b"2"]


def test_one_peer_at_a_time() -> None:
    with raw_pair() as (to, link):
        sink = Sink(to)
        link.sendall(wire(b"first"))
        sink.until(1)
        with socket.create_connection((LOCAL, to.port), BOUND_S) as second:
            second.settimeout(0.0)
            end = time.monotonic() + BOUND_S
            while True:
                assert time.monotonic() < end
                sink.take(0.02)
                with suppress(BlockingIOError):
                    assert second.recv(1) == b""
                    break
        link.sendall(wire(b"still there"))
        assert sink.until(2) == [b"first", b"still there"]


_SENDER = """
import socket, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
m = sys.argv[2].encode() * 5000
while True:
    link.sendall(b"#%06d" % len(m) + m)
"""


def test_a_sender_that_is_killed() -> None:
    to = TcpTransport(LOCAL, 0, listen=True, framing=Numbered())
    with opened(to):
        sink = Sink(to)
        for i, name in enumerate("ab"):
            process = subprocess.Popen([sys.executable, "-c", _SENDER, str(to.port), name])
            try:
                sink.until(len(sink.messages) + 100)
            finally:
                process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
                process.wait(BOUND_S)
            sink.until_closed(i + 1)
        assert set(sink.messages) == {b"a" * 5000, b"b" * 5000}
        assert sorted(sink.messages) == sink.messages


@pytest.mark.parametrize("listen", [True, False])
def test_close_ends_a_wait(listen: bool) -> None:
    to = TcpTransport(LOCAL, 0 if listen else 9, listen=listen, framing=Numbered())
    to.open()
    got: list[Any] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        with suppress(OSError):  # where close came first
            got.append(Sink(to).take(60.0))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait(BOUND_S)
    to.close()
    thread.join(BOUND_S)
    assert not thread.is_alive()
    assert got == [] or got[0].messages == 0
    with pytest.raises(OSError, match="closed"):
        Sink(to).take(0.0)
    to.close()


# -- sending ----------------------------------------------------------------------------------------------------------


def test_nobody_there_is_false() -> None:
    for listen in (True, False):
        source = TcpTransport(LOCAL, 0 if listen else 9, listen=listen)
        with opened(source):
            assert not source.send([b"x"], 0.02)


def test_back_pressure_reaches_the_sender_and_messages_stay_whole() -> None:
    with pair(receiver_listens=True) as (to, source):
        sink = Sink(to, 4_000_000)
        n = 0
        while source.send([wire(b"%06d" % n + bytes(900_000))], 0.2):
            n += 1
            assert n < 300
            sink.take(0.0) if n == 1 else None
        thread = threading.Thread(target=source.send, args=([wire(b"again")], BOUND_S))  # and the rest of the last one, if any
        thread.start()
        got = sink.until(n + 1)
        thread.join(BOUND_S)
        assert [m[:6] for m in got[:n]] == [b"%06d" % i for i in range(n)]
        assert got[n:] == [b"again"]
        assert {len(m) for m in got[:n]} == {900_006}


def test_a_sender_takes_the_next_client_when_one_went() -> None:
    source = TcpTransport(LOCAL, 0, listen=True)
    with opened(source):
        for i in range(3):
            with socket.create_connection((LOCAL, source.port), BOUND_S) as client:
                client.sendall(b"what clients say does not matter")
                assert source.send([b"message %d" % i], BOUND_S)
                assert client.recv(100) == b"message %d" % i
        assert not source.send([b"nobody"], 0.02)


def test_a_message_of_many_parts_and_of_none() -> None:
    with pair(receiver_listens=False) as (to, source):
        sink = Sink(to)
        sink.take(0.02)
        text = wire(b"0123456789" * 30)
        assert source.send([], BOUND_S)
        assert source.send([b"", *(text[i : i + 1] for i in range(len(text)))], BOUND_S)
        assert source.send([np.frombuffer(wire(b"array"), np.uint8), bytearray(wire(b"b")), memoryview(wire(b"c"))], BOUND_S)
        assert sink.until(4) == [b"0123456789" * 30, b"array", b"b", b"c"]


def test_close_sends_the_rest_of_a_message_that_is_underway() -> None:
    with pair(receiver_listens=True) as (to, source):
        sink = Sink(to, 4_000_000)
        n = 0
        while not source._unsent:
            assert source.send([wire(bytes(999_999))], 0.1)
            sink.take(0.0) if n == 0 else None
            n += 1
        thread = threading.Thread(target=source.close)
        thread.start()
        sink.until(n)
        thread.join(BOUND_S)
        sink.until_closed()


# -- opening and closing ----------------------------------------------------------------------------------------------


def test_errors_are_explained() -> None:
    first = TcpTransport(LOCAL, 0, listen=True)
    with opened(first):
        with pytest.raises(OSError, match=r"cannot listen at 127\.0\.0\.1:\d+: .*another program has this port") as caught:
            TcpTransport(LOCAL, first.port, listen=True).open()
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(UsageError, match="framing="):
            Sink(first).take(0.0)
    with pytest.raises(OSError, match=r"no-such-host\.invalid is not known"):
        TcpTransport("no-such-host.invalid", 1, listen=False).open()
    with pytest.raises(UsageError, match="uint8"):
        TcpTransport(LOCAL, 1, listen=False, framing=Numbered()).receive(np.zeros(4, np.int8), np.zeros((1, 3), np.int64), 0, 1)


def test_ipv6_and_its_brackets() -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists() or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("this computer has no IPv6")
    to = TcpTransport("[::1]", 0, listen=True, framing=Numbered())
    with opened(to):
        assert to.address == f"tcp://[::1]:{to.port}"
        with socket.create_connection(("::1", to.port), BOUND_S) as link:
            link.sendall(wire(b"six"))
            assert Sink(to).until(1) == [b"six"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted in /proc")
def test_nothing_stays_open_and_it_can_be_opened_again() -> None:
    to = TcpTransport(LOCAL, 0, listen=True, framing=Numbered())

    def cycle() -> None:
        with opened(to):
            source = TcpTransport(LOCAL, to.port, listen=False)
            with opened(source):
                assert source.send([wire(b"x") + b"#0001"], BOUND_S)
                assert Sink(to).until(1) == [b"x"]
        assert not to._carry

    cycle()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        cycle()
    assert len(os.listdir("/proc/self/fd")) == before
