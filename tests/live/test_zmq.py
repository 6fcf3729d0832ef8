"""ZeroMQ transports over real sockets: what is sent arrives, whole, in order and within bounds, by both receiving loops."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import threading
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.io_backends.streams._zmq import ZmqTransport
from libstream.io_backends.streams._zmq_plain import BURST, PlainLoop
from tests.live.zmq_sockets import BOUND_S, LOCAL, LOOPS, Loop, Sink, pair

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
