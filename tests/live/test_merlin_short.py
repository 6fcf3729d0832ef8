"""Merlin's decoder: headers like the one before are read the short way, and that is the long way."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.ext import WireError
from libstream.io_backends.streams._merlin_decode import MerlinDecoder
from tests.live.merlin_streams import message, small
from tests.writers import mib as writer


@st.composite
def headers_of_frames(draw: Any) -> list[bytes]:
    """Frames of one acquisition as they may come: numbers, times, counters, lengths and other fields vary."""
    out = []
    common = draw(st.fixed_dictionaries({"extension": st.booleans(), "thresholds": st.booleans()}))
    for _ in range(draw(st.integers(1, 12))):
        number = draw(st.sampled_from([0, 1, 2, 3, 7, 99, 100, 998_999, 999_000, 999_999, 1_000_000, 1_234_567]))
        extra = {**common, "counter": draw(st.integers(0, 1)), "exposure": draw(st.integers(0, 59_999))}
        if draw(st.integers(0, 5)) == 0:
            extra["extension"] = not extra["extension"]
        data = bytearray(writer.frame_header(number, (2, 256), draw(st.sampled_from(["U08", "U08", "U08", "U16"])), **extra))
        if draw(st.integers(0, 3)) == 0:
            data[draw(st.integers(0, 340))] = draw(st.sampled_from(b"0159 ,.:-ZTn\0x"))
        out.append(bytes(data) + bytes(512))
    return out


def fed(decoder: MerlinDecoder, data: bytes) -> list[Any]:
    try:
        return list(decoder.feed([memoryview(data)]))
    except WireError as exc:
        return [str(exc)]


@settings(max_examples=150)
@given(headers_of_frames(), st.sampled_from([0, 2]), st.booleans(), st.sampled_from([None, 0, 5]))
def test_the_short_way_gives_what_the_long_way_gives(datas: list[bytes], counters: int, prefix: bool, announced: int | None) -> None:
    short, long = MerlinDecoder(counters), MerlinDecoder(counters)
    for data in ([writer.hdr(announced)] if announced is not None else []) + datas:
        data = message(data) if prefix else data
        results = []
        for decoder, forget in ((short, False), (long, True)):
            if forget:
                decoder._size = -1
            results.append(fed(decoder, data))
        assert results[0] == results[1]


@pytest.mark.parametrize("extension", [True, False])
def test_a_damaged_byte_is_seen_the_short_way_too(extension: bool) -> None:
    first, second = (writer.frame_header(n, (2, 256), "U08", extension=extension, exposure=4 + n) for n in (1, 2))
    for i, byte in itertools.product(range(len(second)), b"0,:\0x"):
        damaged = bytearray(second)
        damaged[i] = byte
        results = []
        for forget in (False, True):
            decoder = MerlinDecoder()
            decoder.feed([first + bytes(512)])
            if forget:
                decoder._size = -1
            results.append(fed(decoder, bytes(damaged) + bytes(512)))
        assert results[0] == results[1], (i, chr(byte))


def test_the_short_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = MerlinDecoder()
    records = writer.records(small(20), "U16")
    decoder.feed([message(writer.hdr(20))])
    decoder.feed([message(records[0])])
    monkeypatch.setattr(decoder, "_any", lambda *_: pytest.fail("the long way"))
    for i, record in enumerate(records[1:]):
        assert decoder.feed([message(record)])[0].number == i + 1
