"""Connections of TCP transports over real sockets: ends, killed senders, waits that are closed, opening and closing."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libstream.ext import UsageError
from libstream.io_backends.streams._tcp import TcpTransport
from tests.live.tcp_sockets import BOUND_S, LOCAL, Numbered, Sink, opened, raw_pair, wire

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
