"""Merlin's data port: framing, decoder and encoder against bytes written independently, and real files."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.ext import (
    DataShape,
    FramePart,
    Skipped,
    SourceId,
    SourceMeta,
    StreamUrl,
    UsageError,
    WireError,
)
from libstream.io_backends.streams._merlin_decode import MerlinDecoder
from libstream.io_backends.streams._merlin_encode import MerlinEncoder
from libstream.io_backends.streams.merlin import Merlin
from tests import realdata
from tests.live.merlin_streams import FORMATS, cut_all, decoded, message, meta_of, pixels, sent, small
from tests.writers import mib as writer

_Arr = np.ndarray[Any, Any]

# -- what is understood -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "depth", "layout"), FORMATS)
def test_every_pixel_format_is_understood(code: str, depth: int, layout: str) -> None:
    frames = small(6, code, depth, layout)
    records = writer.records(frames, code, depth, layout)
    stream = b"".join(map(message, [writer.hdr(6, depth, layout, scan=(2, 3)), *records]))
    (header,), got = decoded(cut_all(stream))
    assert (header.run, header.n_frames, header.scan) == (1, 6, (2, 3))
    assert header.meta["hdr"]["Counter Depth (number)"] == str(depth)
    assert sorted(got) == [(1, i, 0) for i in range(6)]
    for i in range(6):
        np.testing.assert_array_equal(got[1, i, 0], frames[i])
        assert got[1, i, 0].dtype == frames.dtype


@pytest.mark.parametrize(("code", "depth", "layout"), FORMATS)
def test_what_is_sent_is_what_comes_out(code: str, depth: int, layout: str) -> None:
    frames = small(4, code, depth, layout)
    encoder = MerlinEncoder(code, depth or 12, layout)
    (header,), got = decoded(cut_all(sent(encoder, frames, (2, 2))))
    assert (header.n_frames, header.scan) == (4, (2, 2))
    for i in range(4):
        np.testing.assert_array_equal(got[1, i, 0], frames[i])


def test_raw_frames_without_their_depth_take_that_of_the_acquisition() -> None:
    frames = small(2, "R64", 6)
    records = writer.records(frames, "R64", 6, extension=False)
    _, got = decoded([writer.hdr(2, 6), *records])
    np.testing.assert_array_equal(got[1, 1, 0], frames[1])
    with pytest.raises(WireError, match="counter depth"):
        MerlinDecoder().feed([records[0]])


def test_an_endless_acquisition_has_no_number_of_frames() -> None:
    (header,) = MerlinDecoder().feed([writer.hdr(0)])
    assert header.n_frames is None
    assert header.scan is None


def test_times_are_those_of_the_detector() -> None:
    frames = small(1)
    for extension in (True, False):
        decoder = MerlinDecoder()
        decoder.feed([writer.hdr(5)])
        times = []
        for number in range(1, 6):
            data = writer.records(frames, "U16", first=number, exposure=1000 + number, extension=extension)[0]
            times.append(decoder.feed([data])[-1].t_ns)
        assert np.diff(times).tolist() == [1_000_000] * 4
        assert times[0] == 1589813461_001_000_000 + (0 if extension else 7200_000_000_000)  # local time where the header has no other


def test_numbers_are_those_of_the_frames_whatever_their_order() -> None:
    frames = small(9)
    records = writer.records(frames, "U16")
    order = [4, 2, 0, 1, 8, 7, 3, 6, 5]
    _, got = decoded([writer.hdr(9), *(records[i] for i in order)])
    assert list(got) == [(1, i, 0) for i in order]
    assert all((got[1, i, 0] == frames[i]).all() for i in range(9))


# -- runs --------------------------------------------------------------------------------------------------------------


def runs_of(messages: list[bytes], decoder: MerlinDecoder | None = None) -> list[tuple[Any, ...]]:
    decoder = decoder or MerlinDecoder()
    out: list[tuple[Any, ...]] = []
    for data in messages:
        for event in decoder.feed([data]):
            kind = type(event).__name__
            out.append((kind, event.run, event.number) if isinstance(event, FramePart) else (kind, getattr(event, "run", None)))
    return out


def test_every_header_begins_a_run_and_frames_before_it_are_of_no_run() -> None:
    records = writer.records(small(3), "U16")
    found = runs_of([records[2], writer.hdr(3), *records, writer.hdr(3), records[0]])
    assert found == [
        ("FramePart", 0, 2), ("RunHeader", 1), ("FramePart", 1, 0), ("FramePart", 1, 1), ("FramePart", 1, 2),
        ("RunHeader", 2), ("FramePart", 2, 0),
    ]  # fmt: skip


def test_numbers_that_begin_again_begin_a_run() -> None:
    first = writer.records(small(3), "U16")
    again = [writer.frame_header(i + 1, (4, 256), "U16", exposure=50 + i) + bytes(2048) for i in range(2)]
    decoder = MerlinDecoder()
    found = runs_of([writer.hdr(3, scan=(1, 3)), *first, *again], decoder)
    assert found[4:] == [("RunHeader", 2), ("FramePart", 2, 0), ("FramePart", 2, 1)]
    header = MerlinDecoder()
    header.feed([writer.hdr(3, scan=(1, 3))])
    header.feed([first[0]])
    restarted = header.feed([again[0]])[0]
    assert (restarted.n_frames, restarted.scan) == (3, (1, 3))
    assert "began again" in restarted.notes[-1]


def test_a_first_frame_that_comes_twice_or_late_begins_no_run() -> None:
    a, b, c = writer.records(small(3), "U16")
    found = runs_of([writer.hdr(3), b, a, a, c, a])
    assert [f[:2] for f in found] == [("RunHeader", 1)] + 5 * [("FramePart", 1)]


def test_an_acquisition_whose_header_was_not_seen_is_a_run_without_a_length() -> None:
    decoder = MerlinDecoder()
    header, frame = decoder.feed([writer.records(small(1), "U16")[0]])
    assert (header.run, header.n_frames) == (1, None)
    assert "not seen" in header.notes[0]
    assert frame.run == 1


@pytest.mark.parametrize("digits", [6, 7])
def test_more_than_a_million_frames(digits: int) -> None:
    decoder = MerlinDecoder()
    decoder.feed([writer.hdr(0)])
    body = bytes(2048)

    def number_of(number: int) -> int:
        shown = number % 1_000_000 if digits == 6 else number
        return decoder.feed([writer.frame_header(shown, (4, 256), "U16", exposure=number % 50_000) + body])[-1].number

    numbers = [2, 3, 998_999, 999_000, 999_998, 1_000_000, 999_999, 1_000_001, 1_000_002, 1_000_999, 1_001_000, 1_500_000, 1_999_999]
    numbers += [2_000_001, 2_000_500, 2_004_000, 2_004_001]
    assert [number_of(n) for n in numbers] == [n - 1 for n in numbers]


def test_notes_say_what_is_not_certain() -> None:
    (header,) = MerlinDecoder().feed([writer.hdr(3, counters="Alternating")])
    assert any("in turn" in note for note in header.notes)
    assert header.channels == ()
    colour = writer.hdr(3).replace(b"SPM", b"CSM"), writer.hdr(3).replace(b"):\tSPM", b"):\tCM")
    assert MerlinDecoder().feed([colour[0]])[0].notes == ()
    assert "colour mode" in MerlinDecoder().feed([colour[1]])[0].notes[0]
    huge = writer.hdr(3, scan=(10**14, 10**14))
    assert MerlinDecoder().feed([huge])[0].scan is None


# -- two counters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbering", ["shared", "running"])
@pytest.mark.parametrize("lost", [(), (0,), (1,), (2, 3)])
def test_two_counters_of_each_exposure_are_two_channels(numbering: str, lost: tuple[int, ...]) -> None:
    frames = small(8).reshape(4, 2, 4, 256)
    records = []
    for i in range(4):
        for counter in range(2):
            number = i + 1 if numbering == "shared" else 2 * i + counter + 1
            head = writer.frame_header(number, (4, 256), "U16", counter=counter, exposure=i)
            records.append(head + writer.encode(frames[i, counter], "U16"))
    kept = [r for i, r in enumerate(records) if i not in lost]
    for decoder, header in ((MerlinDecoder(2), writer.hdr(4)), (MerlinDecoder(), writer.hdr(4, counters="Both"))):
        headers, got = decoded([header, *kept], decoder)
        assert headers[0].channels == ("counter_0", "counter_1")
        assert sorted(got) == sorted((1, i // 2, i % 2) for i in range(8) if i not in lost)
        for (_, i, counter), frame in got.items():
            np.testing.assert_array_equal(frame, frames[i, counter])


def test_counters_that_share_numbers_are_spoken_of_once() -> None:
    records = [writer.frame_header(n, (4, 256), "U16", counter=c) + bytes(2048) for n in (1, 2) for c in (0, 1)]
    decoder = MerlinDecoder()
    events = [e for data in [writer.hdr(2), *records] for e in decoder.feed([data])]
    assert [type(e).__name__ for e in events].count("Skipped") == 1
    assert "counters=2" in next(e.what for e in events if isinstance(e, Skipped))


def test_a_source_of_two_channels_is_sent_as_two_counters() -> None:
    frames = small(6).reshape(2, 3, 4, 256)
    encoder = MerlinEncoder()
    out = list(encoder.begin(meta_of(frames, (3,), ("a", "b")), 1))
    for i in range(3):
        out += encoder.frame(i, {"a": frames[0, i], "b": frames[1, i]})
    (header,), got = decoded([bytes(o.parts[0]) for o in out])
    assert header.channels == ("counter_0", "counter_1")
    assert all((got[1, i, c] == frames[c, i]).all() for i in range(3) for c in range(2))


def test_what_a_merlin_could_not_have_recorded_is_not_sent() -> None:
    encoder = MerlinEncoder()
    for frames, match in ((small(1).astype("f4"), "whole numbers"), (np.zeros((1, 4), "u2"), "images")):
        shape = DataShape((1,), frames.shape[1:])
        with pytest.raises(UsageError, match=match):
            list(encoder.begin(SourceMeta(SourceId("t", "t", 0), shape, frames.dtype), 1))
    for options, frame, match in (
        (("U08",), np.full((4, 256), 256, "u2"), "holds 0 to 255"),
        (("U01",), np.full((4, 256), 2, "u1"), "0 or 1"),
        (("R64", 6), np.full((4, 256), 64, "u1"), "6 bit"),
        (("U16",), np.full((4, 256), -1, "i2"), "holds 0 to"),
    ):
        encoder = MerlinEncoder(*options)
        list(encoder.begin(meta_of(frame[None], (1,)), 1))
        with pytest.raises(UsageError, match=match):
            list(encoder.frame(0, {"frames": frame}))
    with pytest.raises(UsageError, match="cannot be sent so"):
        list(MerlinEncoder("R64").begin(meta_of(np.zeros((1, 4, 100), "u2"), (1,)), 1))
    with pytest.raises(UsageError, match="two counters"):
        list(MerlinEncoder().begin(meta_of(small(1), (1,), ("a", "b", "c")), 1))


# -- real files --------------------------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize("name", realdata.ids("mib"))
def test_recorded_frames_come_out_as_from_the_file(name: str) -> None:
    entry = realdata.dataset(name)
    path = realdata.path(entry, suffix=".mib")
    source = ls.open(str(path))
    expected = np.asarray(source[...]).reshape(-1, *source.meta.shape.sig)
    first = source.meta.vendor["frame"]
    data = path.read_bytes()
    record = len(data) // len(expected)
    messages = [data[i * record : (i + 1) * record] for i in range(len(expected))]
    hdr = path.with_suffix(".hdr")
    stream = b"".join(map(message, ([hdr.read_bytes()] if hdr.exists() else []) + messages))
    (header,), got = decoded(cut_all(stream))
    assert header.n_frames in (len(expected), None)
    assert sorted(got) == [(1, i, 0) for i in range(len(expected))]
    # and as another Merlin would send them
    raw = first["code"] == "R64"
    encoder = MerlinEncoder(first["code"], first.get("depth", 12) if raw else 12, first["layout"])
    _, again = decoded(cut_all(sent(encoder, expected, source.meta.shape.nav)))
    for i, frame in enumerate(expected):
        np.testing.assert_array_equal(got[1, i, 0], frame)
        np.testing.assert_array_equal(again[1, i, 0], frame)


# -- over a socket -------------------------------------------------------------------------------------------------------


def test_a_scan_over_tcp() -> None:
    frames = small(12)
    kind = Merlin()
    sending, encoder = kind.sender(StreamUrl.parse("merlin://127.0.0.1:0?pixels=R64&depth=12&garbage=3000"))
    frames &= 0xFFF
    sending.open()
    port = int(sending.address.rpartition(":")[2])
    detector = kind.receiver(StreamUrl.parse(f"merlin://127.0.0.1:{port}"))
    detector.transport.open()
    outgoing = [*encoder.begin(meta_of(frames, (3, 4)), 1)]
    for i, frame in enumerate(frames):
        outgoing += encoder.frame(i, {"frames": frame})

    def send() -> None:
        for o in outgoing:
            assert sending.send(o.parts, 10.0, o.lane)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        into, table = np.zeros(1 << 20, np.uint8), np.zeros((64, 3), np.int64)
        decoder, got, headers = detector.make_decoder(), {}, []
        for _ in range(200):
            n = detector.transport.receive(into, table, 0.2, 1 << 18)
            for _, at, size in table[: n.rows].tolist():
                data = bytes(into[at : at + size])
                for event in decoder.feed([data]):
                    if isinstance(event, FramePart):
                        got[event.number] = pixels(event, data)
                    else:
                        headers.append(event)
            if len(got) == 12:
                break
        thread.join(10)
        assert [h.scan for h in headers] == [(3, 4)]
        assert all((got[i] == frames[i]).all() for i in range(12))
    finally:
        sending.close()
        detector.transport.close()
        thread.join(10)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("merlin://h:1-2", "one port"),
        ("merlin://h:1?pixel=U16", "unknown option"),
        ("merlin://h:1?pixels=U12", "pixels is one of"),
        ("merlin://h:1?depth=8", "depth is one of"),
        ("merlin://h:1?chips=3x3", "chips is"),
    ],
)
def test_addresses_that_cannot_work(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Merlin().sender(StreamUrl.parse(text))
    if "-" in text:
        with pytest.raises(UsageError, match=match):
            Merlin().receiver(StreamUrl.parse(text))


def test_options_of_the_receiver() -> None:
    with pytest.raises(UsageError, match="counters is 1 or 2"):
        Merlin().receiver(StreamUrl.parse("merlin://h:1?counters=3"))
    detector = Merlin().receiver(StreamUrl.parse("merlin://h"), control=6341, counters=2)
    assert detector.controller is not None
    assert detector.transport.address == "tcp://h:6342"
    assert detector.make_decoder().feed([writer.hdr(2)])[0].channels == ("counter_0", "counter_1")
    assert Merlin().decoder(StreamUrl.parse("merlin://h")).feed([writer.hdr(2)])[0].channels == ()
