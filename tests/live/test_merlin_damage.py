"""Merlin streams that are damaged, cut off, hostile, or lie."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from libstream.ext import FramePart, RunHeader, WireError, wire
from libstream.io_backends.streams._merlin_decode import MerlinDecoder
from libstream.io_backends.streams._merlin_encode import MerlinEncoder
from libstream.io_backends.streams.merlin import MerlinFraming
from tests.live.merlin_streams import cut_all, decoded, good_stream, message, numbers_in, sent, small
from tests.writers import mib as writer


@pytest.mark.parametrize("chunk", [0, 1, 7, 14, 15, 16, 19, 600, 2063, 4096])
def test_messages_are_cut_whatever_the_pieces_in_which_they_come(chunk: int) -> None:
    messages, _ = good_stream()
    rng = np.random.default_rng(chunk)
    garbage = rng.bytes(21504)[:-4] + b"MPX,"
    assert cut_all(b"".join(messages), chunk=chunk) == messages
    assert cut_all(garbage[:1500] + b"".join(messages), chunk=chunk) == messages
    if chunk != 1:
        assert cut_all(garbage + b"".join(messages), chunk=chunk) == messages
    between = messages[0] + messages[1] + garbage[:333] + b"MPX" + messages[2] + b"MPX,00000" + b"".join(messages[3:])
    assert numbers_in(between, chunk=chunk) == [0, 1, 2, 3, 4, 5]


def test_garbage_of_the_sender_is_skipped() -> None:
    frames = small(3)
    data = sent(MerlinEncoder(garbage=21504), frames, (3,))
    assert len(data) > 21504
    _, got = decoded(cut_all(data))
    assert sorted(got) == [(1, 0, 0), (1, 1, 0), (1, 2, 0)]


@pytest.mark.parametrize(
    "length", [b"9999999999", b"0000000000", b"0000000001", b"0000000002", b"0000000100", b"0000000896", b"0000002000", b"0000500000"]
)
@pytest.mark.parametrize("at", [1, 2, 4, 6])
def test_a_lying_length_costs_no_other_frame(length: bytes, at: int) -> None:
    messages, _ = good_stream(8)
    messages[at] = b"MPX," + length + messages[at][14:]
    found = numbers_in(b"".join(messages), max_bytes=100_000)
    others = [i for i in range(8) if i != at - 1]
    assert [n for n in found if n != at - 1] == others or (at <= 2 and len(found) >= 4)
    # once the length of frames is known, the frame itself is not lost either
    if at > 2:
        assert found == list(range(8))


def test_a_length_beyond_the_limit_does_not_swallow_what_follows() -> None:
    messages, _ = good_stream()
    assert numbers_in(b"MPX,9999999999," + b"".join(messages), max_bytes=10_000) == list(range(6))
    assert numbers_in(b"MPX,9999999999,MQ1,".ljust(9000, b"x") + b"".join(messages), max_bytes=10_000) == list(range(6))


@pytest.mark.parametrize("length", [b"0000005000", b"0000100000", b"0060000000", b"2147483648"])
@pytest.mark.parametrize("kind", [b"HDR,", b"MQ1,000001,"])
def test_lies_in_a_row_before_an_acquisition_cost_nothing(length: bytes, kind: bytes) -> None:
    messages, _ = good_stream()
    lie = b"MPX," + length + b"," + kind
    for chunk in (0, 700):
        for times in (1, 2, 3):
            assert numbers_in(lie.ljust(300, b"x") * times + b"".join(messages), max_bytes=1 << 20, chunk=chunk) == list(range(6))


def test_frames_of_another_size_in_the_next_acquisition() -> None:
    framing, decoder = MerlinFraming(), MerlinDecoder()
    stream = b""
    for code, rows in (("U08", 2), ("U16", 4), ("U08", 1), ("R64", 4)):
        frames = small(4, code, 12, rows=rows)
        stream += b"".join(map(message, [writer.hdr(4, 12), *writer.records(frames, code)]))
    for chunk in (0, 1000):
        _, got = decoded(cut_all(stream, framing, chunk=chunk), decoder)
        assert len(got) == 16


def test_a_header_cut_off_anywhere() -> None:
    hdr, record = writer.hdr(3), writer.records(small(1, "U08", rows=2), "U08")[0]
    decoder = MerlinDecoder()
    good = writer.records(small(2, "U08", rows=2), "U08")[1]
    for data in (record, message(record)):
        for n in range(len(data) - 512 + 1):
            with pytest.raises(WireError):
                decoder.feed([data[:n]])
            with pytest.raises(WireError):  # the header is cut, the rest is there
                decoder.feed([data[:n] + data[n + 1 :]])
            assert decoder.feed([good])[-1].number == 1
    for n in range(4):
        with pytest.raises(WireError):
            decoder.feed([hdr[:n]])
    for n in range(4, len(hdr)):
        assert isinstance(decoder.feed([hdr[:n]])[0], RunHeader)


@pytest.mark.parametrize(
    "parts", [[], [b"", b""], [b""], [b"MQ1,"], [b"HDR"], [b"GET,IMAGEX,256,0"], [b"MPX,0000000005,MQ1"], [b"\xff" * 500]]
)
def test_what_is_no_message(parts: list[bytes]) -> None:
    decoder = MerlinDecoder()
    with pytest.raises(WireError):
        decoder.feed(parts)
    assert decoder.feed([writer.hdr(1)])


def test_headers_that_state_much_allocate_nothing() -> None:
    head = writer.frame_header(1, (9999, 9999), "U64")
    with pytest.raises(WireError, match="should have"):
        MerlinDecoder().feed([head + bytes(100)])
    with pytest.raises(WireError, match="acquisition header"):
        MerlinDecoder().feed([b"HDR,\t\n" + bytes(2 << 20)])


def mutations(messages: list[bytes], n: int, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    texts = [b"MPX,", b"MQ1,", b"HDR,", b",", b"99999999", b"R64", b"U64", b"-1", b"\0", b"1x1", b"2x2G", b"MQ1A,", b"End", b"3RX", b"nan"]
    for _ in range(n):
        data = bytearray(rng.choice(messages))
        for _ in range(rng.randrange(1, 5)):
            i = rng.randrange(min(len(data), 420)) if data else 0
            how = rng.randrange(6)
            if how == 0 and data:
                data[i] ^= 1 << rng.randrange(8)
            elif how == 1 and data:
                data[i] = rng.randrange(256)
            elif how == 2:
                text = rng.choice(texts)
                data[i : i + len(text)] = text
            elif how == 3:
                data[i:i] = rng.choice(texts)
            elif how == 4:
                del data[i : i + rng.randrange(1, 40)]
            else:
                del data[rng.randrange(len(data) + 1) :]
        yield bytes(data)


def test_damaged_messages_raise_wire_errors_only_and_the_next_good_one_is_understood() -> None:
    kinds = [("U08", 0, "1x1"), ("R64", 12, "1x1"), ("R64", 24, "2x2")]
    messages = [message(writer.hdr(5, scan=(1, 5)))]
    for code, depth, layout in kinds:
        messages += [message(r) for r in writer.records(small(2, code, depth, layout, rows=2), code, depth, layout)]
    good = message(writer.records(small(7, "U16"), "U16")[6])
    decoder = MerlinDecoder()
    decoder.feed([message(writer.hdr(7))])
    refused = 0
    for i, data in enumerate(mutations(messages, 4000, 4)):
        try:
            for event in decoder.feed([memoryview(data)]):
                if isinstance(event, FramePart):
                    assert 0 <= event.start < event.stop <= len(data)
                    assert 0 <= event.number < 1 << 40
                    wire.check(event.codec, event.shape, event.dtype)
        except WireError:
            refused += 1
        if i % 7 == 0:
            assert decoder.feed([memoryview(good)])[-1].number % 1_000_000 == 6
    assert refused > 1000


def test_damaged_streams_are_understood_again() -> None:
    messages, _ = good_stream(30)
    rng = random.Random(5)
    for _ in range(150):
        broken = list(messages)
        hit = sorted(rng.sample(range(1, 24), 3))
        for i, data in zip(hit, mutations([broken[i] for i in hit[:1]], 3, rng.randrange(1 << 30)), strict=True):
            broken[i] = data
        found = numbers_in(b"".join(broken), max_bytes=100_000, chunk=rng.choice([0, 900, 5000]))
        assert set(range(25, 30)) <= set(found)
        assert len(set(found) & set(range(30))) >= 24


@pytest.mark.parametrize("chunk", [0, 700])
def test_a_frame_that_is_cut_off_costs_no_other_one(chunk: int) -> None:
    messages, _ = good_stream(10)
    for cut in [*range(30), *range(30, len(messages[5]), 41)]:
        stream = [*messages[:5], messages[5][:cut], *messages[6:]]
        assert numbers_in(b"".join(stream), chunk=chunk) == [i for i in range(10) if i != 4], cut
