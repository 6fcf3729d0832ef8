"""The 4D Camera's sectors: decoder against messages made with msgpack, and damaged ones."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.ext import (
    Announced,
    FramePart,
    RunHeader,
    StreamUrl,
    UsageError,
    WireError,
    wire,
)
from libstream.io_backends.streams import _sectors_wire as wire_format
from libstream.io_backends.streams._sectors_wire import SectorsDecoder
from libstream.io_backends.streams.sectors import Sectors
from tests.live.sectors_messages import Assembled, frames_like, header, messages

msgpack = pytest.importorskip("msgpack")

# -- what is understood -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [None, 1024])
def test_sectors_make_frames_whatever_their_order(threads: int | None) -> None:
    frames = frames_like(6)
    sent = messages(frames, threads=threads, thread=3)
    random.Random(1).shuffle(sent)
    got = Assembled().take(sent)
    (head,) = got.headers
    assert (head.run, head.n_frames, head.scan, head.frame, head.dtype) == (7, 6, (2, 3), (16, 16), "uint16")
    assert head.meta == {"scan_number": 7, "thread_id": 3} | ({} if threads is None else {"num_frames_this_thread": 1024})
    assert head.notes == ()
    assert got.skipped == []
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(got.frame(7, i), frame)


def test_the_camera_itself() -> None:
    sector = np.arange(144 * 576, dtype="<u2").tobytes()
    head, part = SectorsDecoder().feed([header(1, 0, 2, columns=1024, rows=1024), sector])
    assert head.frame == (576, 576)
    assert (part.shape, part.dtype, part.sector, part.codec) == ((144, 576), "uint16", 2, "raw<")


def test_frames_that_are_not_square_are_said_by_the_address() -> None:
    sector = bytes(2 * 3 * 10)
    with pytest.raises(WireError, match="no quarter of a square image"):
        SectorsDecoder().feed([header(1, 0, 0), sector])
    decoder = Sectors().decoder(StreamUrl.parse("sectors://h?frame=12,10"))
    assert decoder.feed([header(1, 0, 0), sector])[0].frame == (12, 10)
    with pytest.raises(WireError, match="frame=ROWS,COLUMNS"):
        Sectors().decoder(StreamUrl.parse("sectors://h"), frame=(12, 8)).feed([header(1, 0, 0), sector])


def test_a_new_scan_number_begins_a_run_and_sectors_of_the_one_before_still_count() -> None:
    frames = frames_like(2)
    first, second = messages(frames, 7, columns=2, rows=1), messages(frames, 8, columns=2, rows=1)
    got = Assembled().take([*first[:6], second[0], first[6], *second[1:], first[7]])
    assert [h.run for h in got.headers] == [7, 8]
    for run, i in itertools.product((7, 8), (0, 1)):
        np.testing.assert_array_equal(got.frame(run, i), frames[i])


@settings(max_examples=60)
@given(st.lists(st.tuples(*[st.integers(0, 300) | st.sampled_from([65535, 65536, 70_000, 2**32, 2**40])] * 6), min_size=1, max_size=30),
       st.booleans(), st.booleans())  # fmt: skip
def test_headers_of_all_widths_in_any_order(rows: list[tuple[int, ...]], nine: bool, wide: bool) -> None:
    decoder = SectorsDecoder()
    for scan, frame, x, y, thread, threads in rows:
        numbers = [scan, frame, *([threads] if nine else []), 1000, 65536, x, y, thread, 3]
        data = msgpack.packb(numbers)
        if wide:  # array 16, and every number in 8 bytes
            data = b"\xdc\x00" + bytes([len(numbers)]) + b"".join(struct.pack(">BQ", 0xCF, n) for n in numbers)
        parts = [e for e in decoder.feed([data, bytes(128)]) if isinstance(e, FramePart)]
        assert [(p.run, p.number, p.sector) for p in parts] == [(scan, frame, 3)]
        assert list(wire_format._numbers(data)) == numbers


def test_the_short_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = messages(frames_like(100), columns=10, rows=10)
    decoder = SectorsDecoder()
    decoder.feed(sent[0])
    monkeypatch.setattr(wire_format, "_numbers", lambda data: pytest.fail("the long way"))
    monkeypatch.setattr(decoder, "_careful", lambda *_: pytest.fail("the long way"))
    for i, parts in enumerate(sent[1:]):
        assert decoder.feed(parts)[0].number == (i + 1) // 4


# -- places, announcements ------------------------------------------------------------------------------------------------


def test_frames_that_are_elsewhere_are_spoken_of_once() -> None:
    sent = [[header(1, frame, 0, x=frame // 2 % 3, y=frame // 6), bytes(128)] for frame in range(12)]
    got = Assembled().take(sent)
    assert got.headers[0].notes == ()
    assert len(got.skipped) == 1
    assert "frame 1 was taken at row 0, column 0, which is position 0" in got.skipped[0]
    assert [n for _, n in got.parts] == list(range(12))
    (late,) = Assembled().take(sent[5:]).headers
    assert "frame 5" in late.notes[0]
    assert Assembled().take(sent[5:]).skipped == []


def test_several_frames_at_each_position_have_to_be_said() -> None:
    decoder = Sectors().decoder(StreamUrl.parse("sectors://h?dwell=2"))
    got = Assembled(decoder).take([[header(1, frame, 0, x=frame // 2 % 3, y=frame // 6), bytes(128)] for frame in range(12)])
    assert (got.headers[0].n_frames, got.headers[0].scan, got.headers[0].notes, got.skipped) == (12, (2, 3), (), [])
    with pytest.raises(UsageError, match="dwell is"):
        Sectors().decoder(StreamUrl.parse("sectors://h?dwell=0"))


def test_announcements_are_numbered_by_scan_and_wait_for_their_scan() -> None:
    frames = frames_like(6)
    info = [[msgpack.packb({7: 6})]] * 2
    got = Assembled().take([*info, *messages(frames)[:5], *info, [msgpack.packb({8: 1, 7: 2})]])
    assert got.announced == [Announced(7, i, 6) for i in range(4)] + [Announced(7, 4, 2)]
    got.take(messages(frames, 8)[:1])
    assert got.announced[-1] == Announced(8, 0, 1)
    decoder = SectorsDecoder()
    assert decoder.feed([msgpack.packb({n: n for n in range(40)})]) == []  # a map 16
    for _ in range(64):
        decoder.feed([msgpack.packb({99: 1})])
    with pytest.raises(WireError, match="more than 64 announcements"):
        decoder.feed([msgpack.packb({99: 1})])


def test_what_is_remembered_is_bounded() -> None:
    decoder = SectorsDecoder()
    for scan in range(500):
        decoder.feed([header(scan, 0, 0), bytes(128)])
        decoder.feed([msgpack.packb({1000 + scan: 5})])
    assert len(decoder._scans) <= 16
    assert len(decoder._early) <= 16
    assert len(decoder._layouts) <= 96


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [None, 70_000])
def test_a_header_cut_off_anywhere(threads: int | None) -> None:
    frames = frames_like(6)
    good = messages(frames)
    decoder = SectorsDecoder()
    decoder.feed(good[0])
    full = header(300, 70_000, 3, columns=500, rows=600, thread=200, threads=threads)
    for n in range(len(full)):
        with pytest.raises(WireError):
            decoder.feed([full[:n], bytes(128)])
        assert decoder.feed(good[1 + n % 3])[0].number == 0
    for more in (full + b"\x00", full + full):
        with pytest.raises(WireError, match="too many"):
            decoder.feed([more, bytes(128)])
    info = msgpack.packb({70_000: 1 << 33, 5: 3})
    for n in range(len(info)):
        with pytest.raises(WireError):
            decoder.feed([info[:n]])


GOOD = [7, 1, 3, 2, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "head",
    [
        [], [1], GOOD[:7], [*GOOD, 1, 1], {7: 1}, 5, None, "text", [7, -1, *GOOD[2:]], [7, 1.0, *GOOD[2:]], [7, None, *GOOD[2:]],
        [7, "1", *GOOD[2:]], [[7], *GOOD[1:]], [*GOOD[:7], 4], [7, 1, 0, 2, 1, 0, 0, 0], [7, 1, 3, 0, 1, 0, 0, 0],
        [7, 1, 3, 70_000, 1, 0, 0, 0], [7, 1, 1 << 63, 2, 1, 0, 0, 0], [7, 1 << 50, *GOOD[2:]], [7, 1, 4, 2, 1, 0, 0, 0],
    ],
)  # fmt: skip
def test_headers_that_cannot_be(head: Any) -> None:
    decoder = SectorsDecoder()
    good = messages(frames_like(6))
    decoder.feed(good[0])
    with pytest.raises(WireError):
        decoder.feed([msgpack.packb(head), bytes(128)])
    assert decoder.feed(good[1])[0].sector == 1


@pytest.mark.parametrize(
    "parts", [[], [b""], [b"", b""], [b"\x81"], [b"\x98"], [b"", b"", b""], [b"\xdf\xff\xff\xff\xff"], [b"\xde\xff\xff"], [bytes(9000)]]
)
def test_what_is_no_message(parts: list[bytes]) -> None:
    decoder = SectorsDecoder()
    with pytest.raises(WireError):
        decoder.feed(parts)
    assert decoder.feed([header(1, 0, 0), bytes(128)])


def test_sectors_of_another_size() -> None:
    decoder = SectorsDecoder()
    decoder.feed([header(1, 0, 0), bytes(128)])
    with pytest.raises(WireError, match="expected sectors of 128 bytes, got 127"):
        decoder.feed([header(1, 1, 0), bytes(127)])
    with pytest.raises(WireError, match="got 0"):
        decoder.feed([header(1, 1, 0), b""])
    # whole rows: the frame is there, and is not like the others
    assert decoder.feed([header(1, 1, 0), bytes(96)])[0].shape == (3, 16)
    assert decoder.feed([header(1, 2, 0), bytes(128)])[0].shape == (4, 16)
    # the next scan may have other frames
    assert decoder.feed([header(2, 2, 0), bytes(512)])[0].frame == (32, 32)


def mutations(good: list[list[bytes]], n: int) -> Iterator[list[bytes]]:
    rng = random.Random(11)
    for _ in range(n):
        parts = [bytearray(p) for p in rng.choice(good)]
        for _ in range(rng.randrange(1, 4)):
            part = parts[0] if rng.random() < 0.9 else parts[-1]
            i = rng.randrange(len(part) + 1)
            how = rng.randrange(5)
            if how == 0 and i < len(part):
                part[i] ^= 1 << rng.randrange(8)
            elif how == 1 and i < len(part):
                part[i] = rng.choice([0x00, 0x7F, 0x80, 0x90, 0x98, 0x99, 0xC0, 0xC4, 0xCC, 0xCF, 0xD3, 0xDC, 0xDD, 0xDF, 0xFF])
            elif how == 2:
                part[i:i] = rng.randbytes(rng.randrange(1, 9))
            elif how == 3:
                del part[i : i + rng.randrange(1, 9)]
            else:
                del part[i:]
        if rng.random() < 0.05:
            parts = parts[:1] if rng.random() < 0.5 else [*parts, parts[0]]
        yield [bytes(p) for p in parts]


def test_damaged_messages_raise_wire_errors_only_and_the_next_good_one_is_understood() -> None:
    good = [
        *messages(frames_like(6)),
        *messages(frames_like(6), 300, threads=6),
        [msgpack.packb({7: 6})],
        [msgpack.packb({70_000: 1 << 20})],
    ]
    good += [[header(300, 70_000, 3, columns=500, rows=600, thread=200), bytes(128)]]
    mine = messages(frames_like(6))
    decoder = SectorsDecoder()
    refused = 0
    for i, parts in enumerate(mutations(good, 6000)):
        try:
            for event in decoder.feed([memoryview(p) for p in parts]):
                if isinstance(event, FramePart):
                    assert 0 <= event.start < event.stop <= len(parts[event.part])
                    assert 0 <= event.sector < 4
                    assert 0 <= event.number < 1 << 62
                    wire.check(event.codec, event.shape, event.dtype)
                elif isinstance(event, RunHeader):
                    assert 0 < event.n_frames <= 1 << 32
        except WireError:
            refused += 1
        if i % 5 == 0:
            part = [e for e in decoder.feed(mine[i % 24]) if isinstance(e, FramePart)]
            assert [(p.run, p.number, p.sector) for p in part] == [(7, i % 24 // 4, i % 24 % 4)]
    assert refused > 1500
