"""ZeroMQ transports over real sockets: what is sent arrives, whole, in order and within bounds, by both receiving loops."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.ext import UsageError
from libstream.io_backends.streams._zmq import ZmqTransport
from libstream.io_backends.streams._zmq_plain import BURST, PlainLoop

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


# -- what is sent arrives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_parts_and_order(loop: Loop) -> None:
    sent = [[b"head %d" % i, b"", bytes([i]) * (1000 * i), b"tail"] for i in range(50)]
    with pair(loop) as (to, source):
        assert all(source.send(m, BOUND_S) for m in sent)
        assert Sink(to).until(50) == sent


@pytest.mark.parametrize("loop", LOOPS)
def test_any_bytes_like_part_can_be_sent(loop: Loop) -> None:
    data = bytearray(b"0123456789")
    with pair(loop) as (to, source):
        assert source.send([data, memoryview(data)[2:5], np.frombuffer(data, np.uint16)], BOUND_S)
        data[:] = b"9999999999"  # sent is sent
        assert Sink(to).until(1) == [[b"0123456789", b"234", b"0123456789"]]


@pytest.mark.parametrize("loop", LOOPS)
def test_many_small_messages(loop: Loop) -> None:
    n = 100_000
    with pair(loop) as (to, source):
        context = threading.Thread(target=lambda: [source.send([struct.pack("<I", i)], BOUND_S) for i in range(n)])
        context.start()
        got = Sink(to).until(n)
        context.join(BOUND_S)
        assert b"".join(m[0] for m in got) == np.arange(n, dtype="<u4").tobytes()


@pytest.mark.parametrize("loop", LOOPS)
def test_lanes(loop: Loop) -> None:
    with pair(loop, 5) as (to, source):
        for i in range(100):
            assert source.send([b"%d" % i], BOUND_S, lane=i % 5)
        sink = Sink(to)
        sink.until(100)
        for lane in range(5):
            assert [m[0] for m, at in zip(sink.messages, sink.lanes, strict=True) if at == lane] == [b"%d" % i for i in range(lane, 100, 5)]


@pytest.mark.parametrize("rows", [8, 64, 4096])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_busy_lane_does_not_starve_the_others(loop: Loop, rows: int) -> None:
    with pair(loop, 2, hwm=1000) as (to, source):
        assert all(source.send([b"busy"], BOUND_S, lane=0) for _ in range(500))
        assert source.send([b"rare"], BOUND_S, lane=1)
        assert to._sockets[1].poll(1000 * BOUND_S)
        sink = Sink(to, rows=rows)
        while [b"rare"] not in sink.messages:
            assert sink.take().messages
        assert sink.lanes.index(1) <= 2 * BURST


# -- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_a_message_that_does_not_fit_comes_first_next_time(loop: Loop) -> None:
    sent = [[b"a" * 60], [b"b" * 30, b"c" * 20], [b"d" * 50], [b""], [b"e"]]
    with pair(loop) as (to, source):
        for m in sent:
            assert source.send(m, BOUND_S)
        sink = Sink(to, block=100)
        assert sink.take(block=60)[:3] == (1, 1, 60)
        for _ in range(2):
            assert sink.take(block=49)[:4] == (0, 0, 0, True)
        assert sink.messages == sent[:1]
        assert sink.until(5) == sent


@pytest.mark.parametrize("loop", LOOPS)
def test_messages_of_exactly_the_rest_and_of_nothing(loop: Loop) -> None:
    with pair(loop) as (to, source):
        for m in ([b"x" * 40], [b"y" * 60], [b"", b""], [b"z"]):
            assert source.send(m, BOUND_S)
        assert Sink(to, block=100).until(4) == [[b"x" * 40], [b"y" * 60], [b"", b""], [b"z"]]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_block_too_small_is_said_again_and_again(loop: Loop) -> None:
    with pair(loop) as (to, source):
        assert source.send([b"x" * 100], BOUND_S)
        sink = Sink(to, block=99)
        for _ in range(3):
            got = sink.take()
            assert got.full
            assert got.messages == got.used == got.dropped == 0
        assert sink.take(block=100).messages == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_larger_messages_are_thrown_away_and_counted(loop: Loop) -> None:
    with pair(loop) as (to, source):
        for size in (10, 101, 100, 300):
            assert source.send([b"x" * (size // 2), b"y" * (size - size // 2)], BOUND_S)
        assert source.send([b"end"], BOUND_S)
        sink = Sink(to, max_bytes=100)
        sink.until(5)
        assert [sum(map(len, m)) for m in sink.messages] == [10, 100, 3]
        assert sink.dropped == 2


@pytest.mark.parametrize("loop", LOOPS)
def test_a_message_of_more_parts_than_rows_is_thrown_away(loop: Loop) -> None:
    with pair(loop) as (to, source):
        assert source.send([b"a"], BOUND_S)
        assert source.send([b"b"] * 5, BOUND_S)
        assert source.send([b"c"] * 4, BOUND_S)
        sink = Sink(to, rows=4)
        sink.until(3)
        assert sink.messages == [[b"a"], [b"c"] * 4]
        assert sink.dropped == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_a_held_message_obeys_new_limits(loop: Loop) -> None:
    with pair(loop) as (to, source):
        assert source.send([b"x" * 100], BOUND_S)
        assert source.send([b"y"], BOUND_S)
        sink = Sink(to, block=50)
        assert sink.take().full
        sink.max_bytes = 80
        sink.until(2)
        assert sink.messages == [[b"y"]]
        assert sink.dropped == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_a_table_may_grow_while_a_message_is_held(loop: Loop) -> None:
    with pair(loop) as (to, source):
        assert source.send([b"x" * 100, b"z"], BOUND_S)
        assert source.send([b"y"] * 1500, BOUND_S)
        sink = Sink(to, block=50, rows=4000)
        assert sink.take().full
        sink.table = np.zeros((9000, 3), np.int64)
        assert sink.until(2) == [[b"x" * 100, b"z"], [b"y"] * 1500]


_MESSAGES = st.lists(st.lists(st.integers(0, 400), min_size=1, max_size=6), min_size=1, max_size=25)


@pytest.mark.parametrize("loop", LOOPS)
@settings(max_examples=60)
@given(sizes=_MESSAGES, block=st.integers(0, 2500), rows=st.integers(1, 30), max_bytes=st.integers(1, 2000))
def test_any_sequence_arrives_through_any_blocks(loop: Loop, sizes: list[list[int]], block: int, rows: int, max_bytes: int) -> None:
    sent = [[bytes([i % 251, j]) * (size // 2) + b"." * (size % 2) for j, size in enumerate(m)] for i, m in enumerate(sizes)]
    with pair(loop) as (to, source):
        assert all(source.send(m, BOUND_S) for m in sent)
        sink = Sink(to, block, rows, max_bytes)
        sink.until(len(sent))
        kept = [m for m in sent if sum(map(len, m)) <= max_bytes and len(m) <= rows]
        assert sink.messages == kept
        assert sink.dropped == len(sent) - len(kept)


# -- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_there_is_nothing(loop: Loop) -> None:
    with pair(loop) as (to, _):
        assert Sink(to).take(0.0)[:6] == (0, 0, 0, False, 0, False)
        assert Sink(to).take(0.01).lane is None


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("bind", [True, False])
def test_close_ends_a_wait(loop: Loop, bind: bool) -> None:
    to = ZmqTransport(LOCAL if bind else "tcp://127.0.0.1:9", bind=bind, loop=loop)
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


@pytest.mark.skipif(os.name != "posix", reason="interval timers are of POSIX systems")
@pytest.mark.parametrize("loop", LOOPS)
def test_signals_are_handled_while_it_waits(loop: Loop) -> None:
    hits: list[int] = []

    def hit(*_: Any) -> None:
        hits.append(1)
        if len(hits) == 5:
            assert source.send([b"late"], BOUND_S)

    with pair(loop) as (to, source):
        old = signal.signal(signal.SIGALRM, hit)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        try:
            assert Sink(to).until(1) == [[b"late"]]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, old)
        assert len(hits) >= 5


@pytest.mark.skipif("compiled" not in LOOPS, reason="no compiled loop on this system")
@pytest.mark.parametrize(("slot", "what"), [(1, "receiving"), (6, "waiting")])
def test_an_error_of_libzmq_is_an_oserror(slot: int, what: str) -> None:
    """The compiled loop with a function of libzmq in place that always fails."""
    fails = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long)(lambda *_: -1)
    reason = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: errno.ENOTSOCK)
    with pair("compiled") as (to, _):
        api = to._loop._api
        if slot == 6:
            api[6] = ctypes.cast(fails, ctypes.c_void_p).value
            good = ctypes.CFUNCTYPE(ctypes.c_int)(iter([errno.EAGAIN, errno.ENOTSOCK]).__next__)
            api[7] = ctypes.cast(good, ctypes.c_void_p).value
        else:
            api[1] = ctypes.cast(fails, ctypes.c_void_p).value
            api[7] = ctypes.cast(reason, ctypes.c_void_p).value
        with pytest.raises(OSError, match="receiving failed") as caught:
            Sink(to).take(1.0)
        assert caught.value.errno == errno.ENOTSOCK


class _Scripted:
    """A socket that gives parts, or says that there is nothing."""

    def __init__(self, script: list[tuple[bytes, bool] | None]) -> None:
        self.script = script

    def recv(self, flags: int, copy: bool) -> Any:
        step = self.script.pop(0) if self.script else None
        if step is None:
            raise zmq.Again
        frame = zmq.Frame(step[0])

        class Part:
            more, buffer = step[1], frame.buffer

            def __len__(self) -> int:
                return len(frame)

        return Part()


def test_a_message_that_stops_in_the_middle_goes_on_in_the_next_call() -> None:
    loop = PlainLoop([], np.ones(1, np.int64))
    loop._sockets = [_Scripted([(b"a", True), None, None, (b"b", False)]), _Scripted([(b"other", False)])]
    loop._poller = type("Nothing", (), {"poll": staticmethod(lambda _: [])})()
    into, table, lanes = np.zeros(100, np.uint8), np.zeros((10, 3), np.int64), np.zeros(10, np.int64)
    assert loop.receive(into, table, lanes, 0.0, 100).messages == 0
    assert loop.receive(into, table, lanes, 0.0, 100).messages == 0
    got = loop.receive(into, table, lanes, 0.0, 100)
    assert (got.messages, got.rows) == (2, 3)
    assert into[: got.used].tobytes() == b"about"[:2] + b"other"
    assert lanes[:2].tolist() == [0, 1]


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
