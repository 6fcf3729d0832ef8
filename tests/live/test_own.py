"""libstream's own stream: messages to events and back."""

from __future__ import annotations

from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.codecs.cbor import loads
from libstream.ext import (
    Announced,
    Axis,
    DataShape,
    FramePart,
    RunEnd,
    RunHeader,
    Skipped,
    SourceId,
    SourceMeta,
    StreamUrl,
    UsageError,
    WireError,
    wire,
)
from libstream.io_backends.streams import _own_decode
from libstream.io_backends.streams.own import Own, OwnDecoder, OwnEncoder

_Arr = np.ndarray[Any, Any]
dumps = cbor2.dumps
START: dict[str, Any] = {"v": 1, "type": "start", "run": 1, "n_frames": 6, "scan": [2, 3], "frame": [4, 5], "dtype": "uint16"}
FRAME: dict[str, Any] = {"type": "frame", "run": 1, "number": 3, "codec": "raw<"}
END: dict[str, Any] = {"type": "end", "run": 1}


def started(**more: Any) -> OwnDecoder:
    """A decoder that has seen a start."""
    decoder = OwnDecoder()
    decoder.feed([dumps({**START, **more})])
    return decoder


def fed(decoder: OwnDecoder, said: dict[str, Any], *payloads: bytes) -> list[Any]:
    """Events of a message."""
    return list(decoder.feed([memoryview(dumps(said)), *map(memoryview, payloads)]))


# -- what a good message means -------------------------------------------------------------------------------------------


def test_a_run() -> None:
    decoder = OwnDecoder()
    more = {"channels": ["a", "b"], "frame_time": 0.5, "axes": {"ky": [0.1, "1/nm"]}, "meta": {"kV": 300, "deep": {"list": [1, None, "x"]}}}
    assert fed(decoder, {**START, **more, "something new": 1}) == [
        RunHeader(1, 6, (2, 3), (4, 5), "uint16", ("a", "b"), 0.5, {"kV": 300, "deep": {"list": [1, None, "x"]}}, (), {"ky": (0.1, "1/nm")})
    ]
    assert fed(decoder, FRAME, b"x" * 40) == [FramePart(1, 3, 1, 0, 40, "raw<", (4, 5), "uint16")]
    for channel in (1, "b"):
        said = {**FRAME, "channel": channel, "t_ns": 77, "shape": [1, 2], "dtype": "float32"}
        assert fed(decoder, said, b"x" * 8) == [FramePart(1, 3, 1, 0, 8, "raw<", (1, 2), "float32", 0, 1, 77)]
    assert fed(decoder, {**FRAME, "type": "frames", "number": [5, 0], "t_ns": [1, 2]}, b"x" * 40, b"y" * 39) == [
        FramePart(1, 5, 1, 0, 40, "raw<", (4, 5), "uint16", 0, 0, 1),
        FramePart(1, 0, 2, 0, 39, "raw<", (4, 5), "uint16", 0, 0, 2),
    ]
    assert fed(decoder, {**FRAME, "type": "frames", "number": []}) == []
    assert fed(decoder, {**END, "n_parts": 9, "n_frames": 4, "reason": "aborted"}) == [Announced(1, 0, 9), RunEnd(1, 4, "aborted")]


def test_little_is_needed() -> None:
    decoder = OwnDecoder()
    assert fed(decoder, {"v": 1, "type": "start", "run": "scan 7"}) == [RunHeader("scan 7")]
    said = {"type": "frame", "run": "scan 7", "number": 0, "codec": "lz4", "shape": [8, 8], "dtype": "uint8"}
    assert fed(decoder, said, b"") == [FramePart("scan 7", 0, 1, 0, 0, "lz4", (8, 8), "uint8")]
    assert fed(decoder, {"type": "end", "run": "scan 7"}) == [RunEnd("scan 7")]
    assert fed(decoder, {"v": 1, "type": "start", "run": "scan 7", "n_frames": None, "scan": None, "meta": None}) == [RunHeader("scan 7")]


def test_frames_without_a_start_are_told_of() -> None:
    """They belong to no run and can only be counted; where they say shape and dtype, these are told."""
    decoder = OwnDecoder()
    assert fed(decoder, {**FRAME, "channel": "b"}, b"1") == [FramePart(1, 3, 1, 0, 1, "raw<", (0, 0), "")]
    assert fed(decoder, {**FRAME, "shape": [1, 1], "dtype": "uint8"}, b"1") == [FramePart(1, 3, 1, 0, 1, "raw<", (1, 1), "uint8")]
    assert fed(decoder, {**END, "producer": 3}) == [RunEnd(1)]
    fed(decoder, START)
    assert fed(decoder, FRAME, b"1") == [FramePart(1, 3, 1, 0, 1, "raw<", (4, 5), "uint16")]


def test_messages_of_other_types_are_skipped() -> None:
    assert fed(started(), {"type": "heartbeat"}, b"1", b"2") == [Skipped("a message of type 'heartbeat'")]


def test_a_start_says_shape_and_dtype_anew() -> None:
    """What was remembered of the headers of frames does not outlive a start."""
    decoder = started()
    assert fed(decoder, FRAME, b"")[0].shape == (4, 5)
    fed(decoder, {**START, "frame": [9, 9], "dtype": "uint8"})
    assert fed(decoder, FRAME, b"")[0][6:8] == ((9, 9), "uint8")


def test_several_producers() -> None:
    decoder = OwnDecoder()
    start = {**START, "n_producers": 3}
    first = fed(decoder, {**start, "producer": 1})
    assert [type(e) for e in first] == [RunHeader]
    assert first[0].notes == ("3 producers send this run",)
    for producer in (0, 2):
        assert [type(e) for e in fed(decoder, {**start, "producer": producer})] == [Skipped]
    assert fed(decoder, {**END, "producer": 2, "n_parts": 30}) == []
    assert fed(decoder, FRAME, b"x" * 40)[0].number == 3
    assert fed(decoder, {**END, "producer": 0, "n_parts": 10}) == []
    assert fed(decoder, {**END, "producer": 0, "n_parts": 12}) == []  # said again
    assert fed(decoder, {**END, "producer": 1, "n_parts": 20, "reason": "stopped"}) == [
        Announced(1, 0, 62), Announced(1, 1, 0), Announced(1, 2, 0), RunEnd(1, None, "stopped"),
    ]  # fmt: skip
    # the same number again is another run: of whoever comes first
    assert [type(e) for e in fed(decoder, {**start, "producer": 2})] == [RunHeader]
    assert [type(e) for e in fed(decoder, {**start, "producer": 0})] == [Skipped]
    assert fed(decoder, {**END, "producer": 2}) == []


def test_producers_can_announce_their_parts_first() -> None:
    decoder = OwnDecoder()
    start = {**START, "n_producers": 2}
    assert len(fed(decoder, {**start, "producer": 0, "n_parts": 4})) == 1
    assert fed(decoder, {**start, "producer": 1, "n_parts": 2})[1:] == [Announced(1, 0, 6), Announced(1, 1, 0)]


def test_producers_agree_on_their_frames() -> None:
    decoder = started(n_producers=2)
    with pytest.raises(WireError, match="announces other frames than the first one did"):
        fed(decoder, {**START, "n_producers": 2, "producer": 1, "frame": [4, 4]})
    with pytest.raises(WireError, match="producer 2 of run 1, which has 2"):
        fed(decoder, {**END, "producer": 2})


# -- the quick way and the careful way --------------------------------------------------------------------------------------

NAMES = st.one_of(st.integers(0, 2**40), st.sampled_from(["scan", "fnumber", "fnumber\x05", "dt_ns", "\x66number\x03\x64t_ns\x04"]))
NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 2**33), st.integers(2**61, 2**63))


@settings(max_examples=200)
@given(st.lists(st.tuples(NAMES, NUMBERS, st.one_of(st.none(), NUMBERS), st.permutations(list(range(5)))), min_size=1, max_size=8))
def test_remembered_headers_mean_what_the_careful_way_reads(messages: list[Any]) -> None:
    quick, careful = started(), started()
    careful._learn = lambda key, form: None  # type: ignore[method-assign]
    for run, number, t_ns, order in messages * 2:
        fields = [("type", "frame"), ("run", run), ("number", number), ("codec", "raw<"), ("t_ns", t_ns)]
        said = dict(fields[i] for i in order if fields[i][1] is not None)
        results = []
        for decoder in (quick, careful):
            try:
                results.append(fed(decoder, said, b"payload"))
            except WireError as err:
                results.append([str(err)])
        assert results[0] == results[1]
        if number < 2**62 and (t_ns or 0) < 2**62:
            assert results[0][0][:2] == (run, number)
            assert results[0][0].t_ns == (t_ns or 0)
    assert not careful._forms


def test_frames_like_the_one_before_go_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = started()
    read = []
    monkeypatch.setattr(_own_decode.cbor, "loads", lambda head: read.append(head) or loads(head))
    for number in range(70_000, 70_100):
        assert fed(decoder, {**FRAME, "number": number, "t_ns": number**2}, b"x")[0].number == number
    assert len(read) == 2  # itself, and the proof that its number is where it seems to be


def test_the_decoder_does_not_grow() -> None:
    decoder = OwnDecoder()
    for run in range(500):
        fed(decoder, {**START, "run": run, "n_producers": 3, "n_parts": 1})
        for i in range(10):
            fed(decoder, {**FRAME, "run": run, "x": str(i)}, b"")
    for i in range(500):
        fed(decoder, {**FRAME, "run": 499, "x": str(i)}, b"")
    assert len(decoder._runs) <= 32
    assert len(decoder._forms) <= 64


# -- frames to messages ------------------------------------------------------------------------------------------------------


def meta(shape: tuple[int, ...] = (2, 3, 4, 6), dtype: str = "uint16", **more: Any) -> SourceMeta:
    """A source to be replayed."""
    return SourceMeta(SourceId("here", "memory", 0), DataShape(shape[:-2], shape[-2:]), np.dtype(dtype), **more)


@pytest.mark.parametrize("codec", ["bslz4", "raw", "raw>", "bslz4/1>", "lz4", "lz4f>"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32", "float32", "complex64"])
def test_what_the_encoder_sends_is_what_the_decoder_tells(codec: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    frames = rng.poisson(0.7, (6, 2, 4, 6)).astype(dtype)
    encoder, decoder = OwnEncoder(codec), OwnDecoder()
    about = meta(dtype=dtype, channels=("bf", "df"), vendor={"kV": np.float32(300), "array": np.zeros(3), "list": [1, (2, "x")]})
    messages = list(encoder.begin(about, 9))
    for number in (4, 0, 1, 5, 3, 2):
        new = list(encoder.frame(number, {"bf": frames[number, 0], "df": frames[number, 1]}))
        assert [m.number for m in new] == [number] * 2
        messages += new
    messages += encoder.end()
    assert {m.lane for m in messages} == {0}
    events = [(event, message.parts) for message in messages for event in decoder.feed(message.parts)]
    expected = {"kV": 300.0, "array": None, "list": [1, [2, "x"]]}
    assert events[0][0] == RunHeader(9, 6, (2, 3), (4, 6), dtype, ("bf", "df"), None, expected)
    assert [e for e, _ in events[-2:]] == [Announced(9, 0, 12), RunEnd(9)]
    seen = np.zeros_like(frames)
    for event, parts in events[1:-2]:
        assert (event.run, event.shape, event.dtype) == (9, (4, 6), dtype)
        payload = np.frombuffer(parts[event.part], "u1")
        out = seen[event.number, event.channel].reshape(-1).view("u1")
        assert wire.decode(event.codec, event.shape, event.dtype, payload, [event.start], [event.stop - event.start], out, [0]).all()
    np.testing.assert_array_equal(seen, frames)


def test_calibration_travels() -> None:
    axes = (Axis("y", 2, 0.4, 0, "nm"), Axis("x", 3), Axis("ky", 4, 0.1, -0.2, "1/nm"), Axis("kx", 6, 0.2, 0, "1/nm"))
    (message,) = OwnEncoder().begin(meta(axes=axes), 0)
    (header,) = OwnDecoder().feed(message.parts)
    assert header.axes == {"y": (0.4, "nm"), "ky": (0.1, "1/nm"), "kx": (0.2, "1/nm")}
    assert header.channels == ()


def test_a_replayed_file_without_a_scan_and_with_too_much_metadata() -> None:
    (message,) = OwnEncoder().begin(meta((6, 4, 6), vendor={"text": "x" * 40_000}), 3)
    assert list(OwnDecoder().feed(message.parts)) == [RunHeader(3, 6, (6,), (4, 6), "uint16")]


def test_frames_of_another_shape_say_so() -> None:
    encoder, decoder = OwnEncoder("raw"), OwnDecoder()
    for message in encoder.begin(meta(), 1):
        decoder.feed(message.parts)
    (message,) = encoder.frame(0, {"frames": np.zeros((3, 3), "f4")})
    assert list(decoder.feed(message.parts)) == [FramePart(1, 0, 1, 0, 36, "raw<", (3, 3), "float32")]


def test_what_cannot_be_sent() -> None:
    assert list(OwnEncoder().end()) == []
    for about, codec, says in [
        (meta((6, 7)).with_(shape=DataShape((6,), (7,)), axes=()), "bslz4", "two axes"),
        (meta(dtype="float16"), "raw", "float16 cannot be sent"),
        (meta(), "zip", "unknown codec 'zip'"),
        (meta((6, 3, 3)), "bslz4/4", "no whole number"),
    ]:
        with pytest.raises(UsageError, match=says):
            list(OwnEncoder(codec).begin(about, 0))


# -- addresses -----------------------------------------------------------------------------------------------------------------


def test_addresses() -> None:
    url = StreamUrl.parse
    found = Own().receiver(url("libstream://"))
    assert (found.transport.address, found.sectors, found.n_senders, found.controller) == ("tcp://127.0.0.1:9876", 1, 1, None)
    assert Own().receiver(url("libstream://h:1-3?producers=4")).n_senders == 4
    assert Own().receiver(url("libstream://h:1-3"), producers=4, bind=False, hwm=5).transport.address == "tcp://h:1,tcp://h:2,tcp://h:3"
    assert isinstance(found.make_decoder(), OwnDecoder)
    assert isinstance(Own().decoder(url("libstream://h:1?x=1")), OwnDecoder)
    transport, encoder = Own().sender(url("libstream://h:5?codec=lz4>"))
    assert transport.address == "tcp://h:5"
    assert isinstance(encoder, OwnEncoder)
    assert encoder.codec == "lz4>"


@pytest.mark.parametrize(
    ("address", "options", "says"),
    [
        ("libstream://h:1?colour=red", {}, "unknown option 'colour'; libstream takes bind, hwm, producers, curve"),
        ("libstream://h:1", {"colour": "red"}, "unknown option 'colour'"),
        ("libstream://h:1?codec=raw", {}, "unknown option 'codec'"),
        ("libstream://h:1?bind=2", {}, "bind is 0 or 1"),
        ("libstream://h:1?hwm=0", {}, "hwm is a number from 1"),
        ("libstream://h:1?producers=0", {}, "producers is a number from 1"),
        ("libstream://h:1?producers=x", {}, "producers is a whole number"),
    ],
)
def test_wrong_addresses(address: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Own().receiver(StreamUrl.parse(address), **options)


def test_a_producer_sends_to_one_port() -> None:
    with pytest.raises(UsageError, match="one port, got 3"):
        Own().sender(StreamUrl.parse("libstream://h:1-3"))
