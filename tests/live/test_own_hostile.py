"""libstream's own stream: messages of strangers. Nothing but WireError, and the next good message is understood."""

from __future__ import annotations

from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.codecs.cbor import MAX_BYTES, MAX_DEPTH, loads
from libstream.ext import FramePart, RunEnd, RunHeader, WireError
from libstream.io_backends.streams.own import OwnDecoder

dumps = cbor2.dumps
START: dict[str, Any] = {"v": 1, "type": "start", "run": 1, "n_frames": 6, "scan": [2, 3], "frame": [4, 5], "dtype": "uint16"}
FRAME: dict[str, Any] = {"type": "frame", "run": 1, "number": 3, "codec": "raw<"}
END: dict[str, Any] = {"type": "end", "run": 1}


def started() -> OwnDecoder:
    """A decoder that has seen a start."""
    decoder = OwnDecoder()
    decoder.feed([dumps(START)])
    return decoder


def fed(decoder: OwnDecoder, said: dict[str, Any], *payloads: bytes) -> list[Any]:
    """Events of a message."""
    return list(decoder.feed([memoryview(dumps(said)), *map(memoryview, payloads)]))


_DEEP: Any = 0
for _ in range(MAX_DEPTH):
    _DEEP = [_DEEP]

BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "without a type"),
    ({"type": 5}, "without a type"),
    ({**START, "v": 2}, "version .v. of the protocol is 2, expected 1"),
    ({**START, "v": None}, "version"),
    ({**START, "v": True}, "version"),
    ({**START, "run": -1}, "run is -1"),
    ({**START, "run": 1.5}, "run is 1.5"),
    ({**START, "run": ""}, "run is ''"),
    ({**START, "run": "x" * 257}, "run is 'xxx"),
    ({**START, "run": 2**63}, "run is"),
    ({**START, "run": [1]}, "run is"),
    ({**START, "run": None}, "run is None"),
    ({**START, "n_frames": 0}, "n_frames is 0"),
    ({**START, "n_frames": -3}, "n_frames"),
    ({**START, "n_frames": 2**63}, "n_frames"),
    ({**START, "n_frames": 5.0}, "n_frames"),
    ({**START, "n_frames": "6"}, "n_frames"),
    ({**START, "scan": [2, 0]}, "scan is"),
    ({**START, "scan": []}, "scan is"),
    ({**START, "scan": 6}, "scan is"),
    ({**START, "scan": [1] * 5}, "scan is"),
    ({**START, "scan": [2**30, 2**30]}, "a scan of"),
    ({**START, "scan": [2, True]}, "scan is"),
    ({**START, "frame": [4]}, "frame is"),
    ({**START, "frame": [4, -5]}, "frame is"),
    ({**START, "frame": [4, 2**31]}, "frame is"),
    ({**START, "frame": [65536, 65536]}, "larger than"),
    ({**START, "dtype": "object"}, "dtype is 'object'"),
    ({**START, "dtype": "<u2"}, "dtype is '<u2'"),
    ({**START, "dtype": 2}, "dtype is 2"),
    ({**START, "channels": "abc"}, "channels is"),
    ({**START, "channels": ["a", "a"]}, "channels is"),
    ({**START, "channels": [["a"]]}, "channels is"),
    ({**START, "channels": ["a", ""]}, "channels is"),
    ({**START, "channels": list(map(str, range(65)))}, "channels is"),
    ({**START, "frame_time": -1}, "frame_time is -1"),
    ({**START, "frame_time": float("nan")}, "frame_time is nan"),
    ({**START, "frame_time": float("inf")}, "frame_time is inf"),
    ({**START, "frame_time": "1 s"}, "frame_time"),
    ({**START, "axes": [1]}, "axes is"),
    ({**START, "axes": {"ky": 0.1}}, "axes is"),
    ({**START, "axes": {"ky": [float("nan"), "1/nm"]}}, "axes is"),
    ({**START, "axes": {"ky": [0, "1/nm"]}}, "axes is"),
    ({**START, "axes": {"ky": [10**400, "1/nm"]}}, "a tag"),
    ({**START, "axes": {"ky": [0.1, 3]}}, "axes is"),
    ({**START, "meta": [1, 2]}, "meta is"),
    ({**START, "meta": {1: 2}}, "keys of a header are texts"),
    ({**START, "meta": _DEEP}, "more than 8 deep"),
    ({**START, "meta": {"raw": b"bytes"}}, "a byte string"),
    ({**START, "meta": {"big": 2**70}}, "a tag"),
    ({**START, "meta": {"set": {1, 2}}}, "a tag"),
    ({**START, "meta": {"text": "x" * MAX_BYTES}}, "expected at most 65536"),
    ({**START, "n_producers": 0}, "n_producers is 0"),
    ({**START, "n_producers": 10**6}, "n_producers"),
    ({**START, "producer": 1}, "producer is 1, expected a whole number from 0 to 0"),
    ({**START, "n_producers": 2, "producer": -1}, "producer is -1"),
    ({**START, "n_parts": -1}, "n_parts is -1"),
    ({**FRAME, "number": None}, "number is None"),
    ({**FRAME, "number": -1}, "number is -1"),
    ({**FRAME, "number": 2**62}, "number is"),
    ({**FRAME, "number": 1.0}, "number is 1.0"),
    ({**FRAME, "number": True}, "number is True"),
    ({**FRAME, "number": [1]}, r"number is \[1\]"),
    ({**FRAME, "number": "1"}, "number is '1'"),
    ({**FRAME, "run": None}, "run is None"),
    ({**FRAME, "codec": None}, "the codec is missing"),
    ({**FRAME, "codec": 2}, "codec is 2"),
    ({**FRAME, "codec": "zip"}, "unknown codec 'zip'"),
    ({**FRAME, "codec": "x" * 65}, "codec is 'xxx"),
    ({**FRAME, "codec": "bslz4/16"}, "no whole number of elements"),
    ({**FRAME, "codec": "merlin/U32/0/1x1"}, "pixels are uint32, not uint16"),
    ({**FRAME, "shape": [4, 5, 6]}, "shape is"),
    ({**FRAME, "shape": [0, 5]}, "shape is"),
    ({**FRAME, "shape": [60000, 60000]}, "larger than"),
    ({**FRAME, "dtype": "float16"}, "dtype is 'float16'"),
    ({**FRAME, "channel": 1}, "channel is 1"),
    ({**FRAME, "channel": -1}, "channel is -1"),
    ({**FRAME, "channel": "a"}, "channel is 'a'"),
    ({**FRAME, "channel": 0.0}, "channel is 0.0"),
    ({**FRAME, "t_ns": -1}, "t_ns is -1"),
    ({**FRAME, "t_ns": 2**63}, "t_ns is"),
    ({**FRAME, "t_ns": [1]}, "t_ns is"),
    ({**FRAME, "type": "frames"}, "number is 3, expected a list"),
    ({**FRAME, "type": "frames", "number": [1, 2]}, "2 numbers and 1 payloads"),
    ({**FRAME, "type": "frames", "number": [-1]}, "number is"),
    ({**FRAME, "type": "frames", "number": ["1"]}, "number is"),
    ({**FRAME, "type": "frames", "number": [1], "t_ns": 5}, "t_ns is 5"),
    ({**FRAME, "type": "frames", "number": [1], "t_ns": [5, 6]}, "t_ns is"),
    ({**END, "run": None}, "run is None"),
    ({**END, "producer": 1}, "producer 1 of run 1, which has 1"),
    ({**END, "producer": "a"}, "producer is 'a'"),
    ({**END, "n_parts": 1.5}, "n_parts is 1.5"),
    ({**END, "n_frames": -1}, "n_frames is -1"),
    ({**END, "reason": 3}, "reason is 3"),
    ({**END, "reason": "x" * 1001}, "reason is 'xxx"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "says"), BAD)
def test_what_is_wrong_is_said_and_the_next_message_understood(said: dict[str, Any], says: str) -> None:
    decoder = started()
    payloads = [] if said.get("type") in ("start", "end") else [b"x" * 40]
    for _ in range(2):
        with pytest.raises(WireError, match=says):
            fed(decoder, said, *payloads)
    assert fed(decoder, FRAME, b"x" * 40) == [FramePart(1, 3, 1, 0, 40, "raw<", (4, 5), "uint16")]
    assert fed(decoder, END) == [RunEnd(1)]


def test_a_frame_without_shape_anywhere() -> None:
    decoder = OwnDecoder()
    fed(decoder, {"v": 1, "type": "start", "run": 1})
    with pytest.raises(WireError, match="neither it nor the start of its run says shape and dtype"):
        fed(decoder, FRAME, b"1")


def test_the_parts_of_messages() -> None:
    decoder = started()
    for parts, says in [
        ([], "without parts"),
        ([b""], "ends too early"),
        ([dumps(FRAME)], "1 numbers and 0 payloads"),
        ([dumps(FRAME), b"", b""], "1 numbers and 2 payloads"),
        ([dumps(END), b""], "has 2 parts, expected its header alone"),
        ([dumps(START), b""], "has 2 parts"),
        ([b"\xa0" + b"\0" * MAX_BYTES], "expected at most"),
    ]:
        with pytest.raises(WireError, match=says):
            decoder.feed(parts)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"\x01", "is a map of CBOR, got int"),
        (b"\x80", "is a map of CBOR, got list"),
        (b"\xa0\x00", "1 bytes too many"),
        (b"\xa1\x61a\x1c", "0x1c, which begins nothing"),
        (b"\xa1\x61a\xff", "simple value 31"),
        (b"\xa1\x61a\xf8\x20", "simple value 24"),
        (b"\xa1\x61a\x7f\x61b\xff", "0x7f, which begins nothing"),
        (b"\xa1\x61a\xc0\x61b", "a tag"),
        (b"\xa1\x61a\x41b", "a byte string"),
        (b"\xa1\x62\xff\xfe\x01", "not UTF-8"),
        (b"\xa2\x61a\x01\x61a\x02", "'a' twice"),
        (b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff", "ends too early"),
        (b"\x9b\x00\x00\x00\x00\x80\x00\x00\x00", "ends too early"),
        (b"\xa1\x7b\x7f\xff\xff\xff\xff\xff\xff\xff", "ends too early"),
        (b"\xa1\x61a\x64abc", "ends too early"),
        (b"\xa1\x61a" + b"\x81" * 60_000, "more than 8 deep"),
        (b"\x81" * 60_000, "more than 8 deep"),
        (b"\xbf" * 60_000, "keys of a header|more than 8 deep"),
        (b"\x9f" * 60_000, "more than 8 deep"),
        (b"\xa1\x61a\xd9\xd9\xf7\x01", "a tag"),
    ],
)  # fmt: skip
def test_what_is_no_header(head: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        loads(head)


def test_what_other_encoders_write() -> None:
    """Lists and maps without a length, the magic in front, numbers wider than needed, floats of all widths."""
    assert loads(b"\xd9\xd9\xf7\xa1\x61a\x01") == {"a": 1}
    assert loads(b"\xbf\x61a\x9f\x01\x02\xff\x61b\xbf\xff\xff") == {"a": [1, 2], "b": {}}
    assert loads(b"\xa1\x61a\x84\x1b\0\0\0\0\0\0\0\x05\xf9\x3c\x00\xfa\x3f\x80\0\0\xfb\x3f\xf0\0\0\0\0\0\0") == {"a": [5, 1.0, 1.0, 1.0]}
    assert loads(b"\xa1\x61a\xf7") == {"a": None}


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**64), 2**64 - 1), st.floats(allow_nan=False), st.text(max_size=40)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), PLAIN, max_size=5), st.booleans())
def test_headers_are_read_as_cbor2_wrote_them(value: dict[str, Any], canonical: bool) -> None:
    head = dumps(value, canonical=canonical)
    if depth_of(value) > MAX_DEPTH:
        with pytest.raises(WireError, match="more than 8 deep"):
            loads(head)
        return
    assert loads(head) == value
    for end in range(len(head)):
        with pytest.raises(WireError):
            loads(head[:end])


def depth_of(value: Any) -> int:
    """Levels of lists and maps."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


GOOD = [
    (dumps({**START, "run": 2, "channels": ["a", "b"], "axes": {"ky": [0.1, "1/nm"]}, "meta": {"a": [1, {"b": None}]}, "n_parts": 6}),),
    (dumps({**FRAME, "number": 300, "t_ns": 10**18}), b"x" * 40),
    (dumps({**FRAME, "type": "frames", "number": [1, 2, 1000], "t_ns": [1, 2, 3]}), b"x" * 40, b"", b"z"),
    (dumps({**END, "n_parts": 6, "reason": "aborted"}),),
]


def test_a_header_cut_short_anywhere_is_no_header() -> None:
    decoder = started()
    for head, *payloads in GOOD:
        decoder.feed([head, *payloads])
        for end in range(len(head)):
            with pytest.raises(WireError):
                decoder.feed([head[:end], *payloads])
        decoder.feed([dumps(START)])


def mutated(rng: np.random.Generator, parts: tuple[bytes, ...]) -> list[bytes]:
    """A good message with bytes changed, removed, inserted, parts lost or doubled, or mere noise."""
    head = bytearray(parts[0])
    if rng.random() < 0.1:
        head = bytearray(rng.bytes(int(rng.integers(0, 300))))
    for _ in range(int(rng.integers(0, 5))):
        p = int(rng.integers(0, len(head) + 1))
        what = rng.integers(4)
        if what == 0 and p < len(head):
            head[p] ^= 1 << int(rng.integers(8))
        elif what == 1:
            head[p:p] = rng.choice(
                [b"\xff", b"\x9f", b"\xbf", b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff", b"\xfb\x7f\xf8\0\0\0\0\0\0", b"\xf6"]
            )
        elif what == 2:
            del head[p : p + int(rng.integers(1, 9))]
        elif p < len(head):
            head[p] = int(rng.integers(256))
    out = [bytes(head), *parts[1:]]
    if rng.random() < 0.2:
        del out[int(rng.integers(len(out)))]
    if rng.random() < 0.1:
        out.append(rng.bytes(5))
    return out


@pytest.mark.parametrize("seed", range(4))
def test_mutated_messages_never_do_more_than_raise_wire_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    decoder = started()
    refused = 0
    for i in range(2000):
        message = mutated(rng, GOOD[int(rng.integers(len(GOOD)))])
        try:
            for event in decoder.feed(message):
                if type(event) is FramePart:
                    assert 0 <= event.start <= event.stop <= len(message[event.part])
                    assert 0 <= event.number < 2**62
                    hash(event)
        except WireError:
            refused += 1
        if i % 10 == 0:  # good ones are understood, whatever came before
            assert [type(e) for e in decoder.feed([dumps({**START, "run": "good"})])] == [RunHeader]
            expected = FramePart("good", i, 1, 0, 40, "raw<", (4, 5), "uint16")
            assert list(decoder.feed([dumps({**FRAME, "run": "good", "number": i}), b"x" * 40])) == [expected]
    assert 500 < refused < 2000
    assert len(decoder._runs) <= 32
