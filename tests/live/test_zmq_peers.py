"""ZeroMQ transports over real sockets: senders that are slow, killed, strangers or without a key; opening and closing."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from libstream.ext import UsageError
from libstream.io_backends.streams._zmq import ZmqTransport
from tests.live.zmq_sockets import BOUND_S, LOCAL, LOOPS, Loop, Sink, opened, pair

# -- senders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_back_pressure_reaches_the_sender(loop: Loop) -> None:
    with pair(loop, hwm=4) as (to, source):
        megabyte = bytes(1_000_000)
        n = next(i for i in range(300) if not source.send([b"%d" % i, megabyte], 0.3))
        sink = Sink(to, 4 << 20, max_bytes=2 << 20)
        sink.until(n)
        assert source.send([b"again"], BOUND_S)
        assert [m[0] for m in sink.until(n + 1)] == [*(b"%d" % i for i in range(n)), b"again"]


def test_nobody_there_is_false() -> None:
    bound, connecting = ZmqTransport(LOCAL, kind="push", bind=True), ZmqTransport("tcp://127.0.0.1:9", kind="push", bind=False)
    with opened(bound, connecting):
        assert not bound.send([b"x"], 0.02)
        assert not connecting.send([b"x"], 0.02)
        assert "127.0.0.1:9" in connecting.trouble


_SENDER = """
import sys, zmq
how, address, name = sys.argv[1:]
s = zmq.Context().socket(zmq.PUSH)
getattr(s, how)(address)
i = 0
while True:
    s.send_multipart([name.encode(), b"%d" % i, bytes(5000)])
    i += 1
"""


@contextmanager
def sender(how: str, address: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", _SENDER, how, address, name])
    try:
        yield process
    finally:
        process.kill()
        process.wait(BOUND_S)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("how", ["bind", "connect"])
def test_a_sender_that_was_killed_can_come_again(how: str) -> None:
    to = ZmqTransport(LOCAL if how == "connect" else f"tcp://127.0.0.1:{_free_port()}", bind=how == "connect")
    with opened(to):
        for name in (b"first", b"second"):
            sink = Sink(to)
            with sender(how, to.address, name.decode()):
                end = time.monotonic() + BOUND_S
                while sum(m[0] == name for m in sink.messages) < 1000:
                    assert time.monotonic() < end
                    sink.take(1.0)
            while sink.take(0.2).messages:
                pass
            mine = [int(m[1]) for m in sink.messages if m[0] == name]
            assert mine == list(range(len(mine)))  # messages come whole and in order, also the last before its death
            assert all(len(m) == 3 and len(m[2]) == 5000 for m in sink.messages)


# -- strangers --------------------------------------------------------------------------------------------------------

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
_READY = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 4) + b"PUSH"
_HELLO = _GREETING + b"\x04" + bytes([len(_READY)]) + _READY
STRANGERS: dict[str, bytes] = {
    "nothing": b"",
    "a browser": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "noise": np.random.default_rng(1).bytes(5000),
    "a greeting cut off": _GREETING[:20],
    "an older protocol": b"\x01\x00\xff\xff\xff\xff\xff",
    "a huge frame": _HELLO + b"\x02" + struct.pack(">Q", 1 << 62) + bytes(100),
    "a frame of negative length": _HELLO + b"\x02" + b"\xff" * 8,
    "a huge command": _GREETING + b"\x06" + struct.pack(">Q", 1 << 61) + b"\x05READY",
    "a message without end": _HELLO + b"\x01\x01a" * 1000,
    "another mechanism": _GREETING.replace(b"NULL", b"GUM!") + b"\x04\x01a",
}


def _speak(link: socket.socket, data: bytes) -> None:
    """Send, and as peers do: wait for the greeting of the other side after one's own."""
    link.settimeout(BOUND_S)
    n = len(_GREETING) * data.startswith(_GREETING[:64])
    link.sendall(data[:n])
    while n > 0:
        n -= len(link.recv(n))
    link.sendall(data[len(_GREETING) :] if data.startswith(_GREETING) else data)


def test_strangers_do_no_harm() -> None:
    """Bytes at a bound port: good senders go on. Some may be taken for messages of ZMTP 1, which has no greeting: decoders see to that."""
    to = ZmqTransport(LOCAL, bind=True, max_bytes=10_000)
    with opened(to), ExitStack() as stack:
        source = ZmqTransport(to.address, kind="push", bind=False)
        stack.enter_context(opened(source))
        assert source.send([b"before"], BOUND_S)
        port = int(to.address.rpartition(":")[2])
        for data in STRANGERS.values():
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", port), BOUND_S))
            _speak(stranger, data)
        good = [[b"before"], *([b"good %d" % i] for i in range(5))]
        sink = Sink(to)
        end = time.monotonic() + BOUND_S
        for i, m in enumerate(good):
            assert i == 0 or source.send(m, BOUND_S)
            while m not in sink.messages:
                assert time.monotonic() < end
                sink.take(1.0)
        assert [m for m in sink.messages if m in good] == good


@pytest.mark.parametrize("what", ["a browser", "noise", "a huge frame", "a frame of negative length"])
def test_a_connection_that_was_lost_to_rubbish_is_made_anew(what: str) -> None:
    """libzmq gives a connecting socket up after a breach of protocol; the transport does not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(BOUND_S)
        to = ZmqTransport(f"tcp://127.0.0.1:{server.getsockname()[1]}", bind=False, max_bytes=10_000)
        with opened(to):
            came: list[socket.socket] = []

            def serve() -> None:
                for answer in (STRANGERS[what], _HELLO + b"\x00\x04good"):
                    link, _ = server.accept()
                    came.append(link)
                    _speak(link, answer)
                    if not answer.startswith(_GREETING):  # who is no ZeroMQ socket hangs up
                        link.close()

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                sink, end = Sink(to), time.monotonic() + BOUND_S
                while [b"good"] not in sink.messages or to.trouble:  # noise may be taken for messages, see above
                    assert time.monotonic() < end
                    sink.take(0.2)
            finally:
                thread.join(BOUND_S)
                for link in came:
                    link.close()


def test_a_part_above_the_limit_ends_the_connection_and_the_sender_comes_again() -> None:
    with ExitStack() as stack:
        to = ZmqTransport(LOCAL, bind=True, max_bytes=1000)
        stack.enter_context(opened(to))
        source = ZmqTransport(to.address, kind="push", bind=False)
        stack.enter_context(opened(source))
        sink = Sink(to)
        assert source.send([b"x" * 1001], BOUND_S)
        end = time.monotonic() + BOUND_S
        while not sink.messages:  # what was sent into the dying connection is lost
            assert time.monotonic() < end
            source.send([b"good"], 0.2)
            sink.take(0.1)
        assert set(map(tuple, sink.messages)) == {(b"good",)}


# -- keys -------------------------------------------------------------------------------------------------------------


def _keys() -> dict[str, str]:
    public, secret = zmq.curve_keypair()
    return {"public": public.decode(), "secret": secret.decode()}


def test_only_known_keys_come_in() -> None:
    server, friend, stranger = _keys(), _keys(), _keys()
    to = ZmqTransport(LOCAL, bind=True, curve={"secret": server["secret"], "clients": [friend["public"]]})
    with opened(to):
        wrong = {
            "unknown key": {**stranger, "server": server["public"]},
            "not our server": {**friend, "server": stranger["public"]},
            "no keys": None,
        }
        bad = [ZmqTransport(to.address, kind="push", bind=False, curve=c) for c in wrong.values()]
        good = ZmqTransport(to.address, kind="push", bind=False, curve={"secret": friend["secret"], "server": server["public"]})
        with opened(good, *bad):
            for t in bad:
                assert not t.send([b"bad"], 0.3)
            assert good.send([b"good"], BOUND_S)
            for t in bad:
                assert not t.send([b"bad"], 0.3)
            assert good.send([b"end"], BOUND_S)
            assert Sink(to).until(2) == [[b"good"], [b"end"]]
            assert all("keys are others" in t.trouble for t in bad), [t.trouble for t in bad]
            assert to._doorman is not None
            assert to._doorman.refused >= 1


def test_who_knows_the_servers_key_comes_in_where_no_clients_are_named() -> None:
    server = _keys()
    to = ZmqTransport(LOCAL, kind="push", bind=True, curve=server)
    with opened(to):
        plain = ZmqTransport(to.address, bind=False)
        keyed = ZmqTransport(to.address, bind=False, curve={**_keys(), "server": server["public"]})
        with opened(plain, keyed):
            for i in range(10):
                assert to.send([b"%d" % i], BOUND_S)
            assert len(Sink(keyed).until(10)) == 10
            assert Sink(plain).take(0.1).messages == 0


def test_keys_from_files(tmp_path: Path) -> None:
    from zmq.auth import create_certificates

    _, server = create_certificates(tmp_path, "server")
    folder = tmp_path / "clients"
    folder.mkdir()
    _, friend = create_certificates(folder, "friend")
    to = ZmqTransport(LOCAL, bind=True, curve={"secret": server, "clients": folder})
    with opened(to):
        source = ZmqTransport(to.address, kind="push", bind=False, curve={"secret": friend, "server": tmp_path / "server.key"})
        with opened(source):
            assert source.send([b"x"], BOUND_S)
            assert Sink(to).until(1) == [[b"x"]]


BAD_KEYS: dict[str, tuple[bool, dict[str, Any], str]] = {
    "no secret": (True, {}, "secret key of this side is missing"),
    "no server": (False, {"secret": "0" * 40}, "give server="),
    "server for the server": (True, {"secret": "0" * 40, "server": "0" * 40}, "for the side that connects"),
    "clients for a client": (False, {"secret": "0" * 40, "server": "0" * 40, "clients": []}, "for the side that binds"),
    "no key": (True, {"secret": "not a key"}, "neither a key"),
    "unknown": (True, {"private": "x"}, "unknown key 'private'"),
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_bad_keys_are_explained(case: str) -> None:
    bind, keys, text = BAD_KEYS[case]
    with pytest.raises(UsageError, match=text):
        ZmqTransport(LOCAL, bind=bind, curve=keys)


def test_a_mistyped_secret_is_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        ZmqTransport(LOCAL, bind=True, curve={"secret": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert "0000" not in repr(ZmqTransport(LOCAL, bind=True, curve={"secret": "0" * 40})._keys)


# -- opening and closing ----------------------------------------------------------------------------------------------


def test_a_port_in_use_is_explained() -> None:
    first = ZmqTransport(LOCAL, bind=True)
    with opened(first):
        with pytest.raises(OSError, match=r"cannot bind tcp://127.0.0.1:.*another program has this port") as caught:
            ZmqTransport(first.address, bind=True).open()
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ZmqTransport([], bind=True), "at least one address"),
        (lambda: ZmqTransport(LOCAL, bind=True, kind="pub"), "'pull' or 'push'"),  # type: ignore[arg-type]
        (lambda: ZmqTransport(LOCAL, bind=True, loop="fast"), "'auto', 'compiled' or 'plain'"),  # type: ignore[arg-type]
        (lambda: ZmqTransport(LOCAL, bind=True, hwm=0), "at least 1"),
        (lambda: ZmqTransport(LOCAL, bind=True).send([b""], 0), "kind='push'"),
        (
            lambda: ZmqTransport(LOCAL, bind=True, kind="push").receive(np.zeros(1, np.uint8), np.zeros((1, 3), np.int64), 0, 1),
            "kind='pull'",
        ),
        (lambda: ZmqTransport(LOCAL, bind=True).receive(np.zeros(1, np.int8), np.zeros((1, 3), np.int64), 0, 1), "uint8"),
        (lambda: ZmqTransport(LOCAL, bind=True).receive(np.zeros(1, np.uint8), np.zeros((1, 4), np.int64), 0, 1), r"\(k, 3\)"),
    ],
)
def test_wrong_use_is_explained(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make()


def test_not_an_address() -> None:
    with pytest.raises(OSError, match="looks like tcp://host:port"):
        ZmqTransport("nonsense", bind=True).open()


def test_it_can_be_opened_again() -> None:
    to = ZmqTransport(LOCAL, bind=True)
    for _ in range(2):
        with opened(to):
            to.open()  # the second time it does nothing
            source = ZmqTransport(to.address, kind="push", bind=False)
            with opened(source):
                assert source.send([b"x"], BOUND_S)
                assert Sink(to).until(1) == [[b"x"]]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted in /proc")
@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_stays_open(loop: Loop) -> None:
    server, friend = _keys(), _keys()

    def cycle() -> None:
        to = ZmqTransport([LOCAL] * 3, bind=True, loop=loop, curve={**server, "clients": [friend["public"]]})
        with opened(to):
            source = ZmqTransport(to.addresses, kind="push", bind=False, curve={**friend, "server": server["public"]})
            with opened(source):
                assert source.send([b"x" * 100], BOUND_S)
                assert Sink(to, block=10).take().full  # held when it is closed

    cycle()
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(10):
        cycle()
    assert len(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads
