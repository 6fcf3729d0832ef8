"""TCP transports over real sockets: messages come out of the stream whole, in order and within bounds, wherever it is cut."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.io_backends.streams._tcp import UNKNOWN, TcpTransport
from tests.live.tcp_sockets import BOUND_S, LOCAL, Sink, opened, pair, raw_pair, wire

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
