"""DECTRIS stream V2: damaged and hostile messages, the CBOR walker, templates against the careful way."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import cbor2
import hypothesis.strategies as st
import numpy as np
import pytest
from cbor2 import CBORTag
from hypothesis import given

from libstream.ext import Skipped, WireError
from libstream.io_backends.streams import _dectris_v2
from libstream.io_backends.streams._dectris_cbor import message
from libstream.io_backends.streams._dectris_v2 import V2Decoder
from tests.live import dectris_messages as d
from tests.live.dectris_v2_messages import END, MAGIC, array, events, image, one, start

# -- damaged messages ------------------------------------------------------------------------------------------------------

PIXELS = array(d.counts(0))
TYPED = CBORTag(69, bytes(768))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "ends after 0"),
        (b"\x80\x04\x95pickle", "expected a map"),
        (b"\xa0", "without a type"),
        (b"\xc1" * 100, "expected a map|ends"),
        (b"\xa1\x01\x02", "without a type"),
        (b"\xa1\x64type\x81" + b"\x81" * 200, "nested deeper"),
        (b"\xa1\x64type\xbf" + b"\xbf" * 200, "ends|map with the key|nested"),
        (b"\xa1\x64type\x5f\x41a\xff", "strings in pieces"),
        (b"\xa1\x64type\x7f\x61a\xff", "strings in pieces"),
        (b"\xa1\x64type\x62\xff\xff", "no UTF-8"),
        (b"\xa1\x64type\xff", "break"),
        (b"\xa1\x64type\x82\x01\xff", "break"),
        (b"\xa1\x64type\xf8\xff", "simple value"),
        (b"\xa1\x64type\x1c", "0x1c"),
        (b"\xa2\x64type\x01\x64type\x01", "each once"),
        (b"\xa1\x81\x01\x01", "expected texts"),
        (b"\xbb" + b"\xff" * 8, "ends"),
        (END + b"x", "1 bytes follow"),
        (MAGIC + cbor2.dumps({"type": "end"}), "missing"),
        (MAGIC + cbor2.dumps({"type": "start", "series_id": -1}), "-1"),
        (MAGIC + cbor2.dumps({"type": "end", "series_id": 2**63}), "whole number"),
        (MAGIC + cbor2.dumps({"type": "image", "x": list(range(100_001))}), "more than 100000 values"),
        (MAGIC + cbor2.dumps({"type": "x" * (1 << 20) + "y"}), "text of"),
        (image(0, KeyError), "no data"),
        (image(0, None), "no data"),
        (image(0, {str(i): PIXELS for i in range(17)}), "1 to 16 channels"),
        (image(0, {"a": PIXELS}, image_id=KeyError), "image_id 'missing'"),
        (image(0, {"a": PIXELS}, image_id=True), "image_id 'True'"),
        (image(0, {"a": PIXELS}, series_id=None), "series_id 'None'"),
        (image(0, {"a": b"pixels"}), "tag 40"),
        (image(0, {"a": CBORTag(40, b"pixels")}), "tag 40"),
        (image(0, {"a": CBORTag(40, [[16, 24]])}), "tag 40"),
        (image(0, {"a": CBORTag(40, [[16, 24, 1], TYPED])}), "shape"),
        (image(0, {"a": CBORTag(40, [[16, -24], TYPED])}), "shape"),
        (image(0, {"a": CBORTag(40, [[65537, 1], TYPED])}), "shape"),
        (image(0, {"a": CBORTag(40, [[65536, 65536], TYPED])}), "shape"),
        (image(0, {"a": CBORTag(1040, [[16, 24], TYPED])}), "column by column"),
        (image(0, {"a": CBORTag(40, [[16, 24], bytes(768)])}), "no known type"),
        (image(0, {"a": CBORTag(40, [[16, 24], CBORTag(83, bytes(768))])}), "no known type"),
        (image(0, {"a": CBORTag(40, [[16, 24], CBORTag(69, "text")])}), "no bytes"),
        (image(0, {"a": CBORTag(40, [[16, 24], CBORTag(69, CBORTag(56500, ["bslz4", 2]))])}), "no bytes"),
        (image(0, {"a": CBORTag(40, [[16, 24], CBORTag(69, CBORTag(56500, ["bslz4", 3, b""]))])}), "'bslz4'"),
        (image(0, {"a": CBORTag(40, [[16, 24], CBORTag(69, CBORTag(56500, ["zstd", 2, b""]))])}), "'zstd'"),
    ],
)
def test_refused(data: bytes, says: str) -> None:
    decoder = V2Decoder()
    one(decoder, image(0, {"a": PIXELS}))
    with pytest.raises(WireError, match=says):
        decoder.feed(d.views([data]))
    assert one(decoder, image(1, {"a": PIXELS})).number == 1


def test_several_parts_are_refused() -> None:
    with pytest.raises(WireError, match=r"legacy"):
        V2Decoder().feed([b"{}", b"{}"])


def test_unknown_types_are_skipped() -> None:
    assert one(V2Decoder(), cbor2.dumps({"type": "heartbeat"})) == Skipped("a message of type 'heartbeat'")


@pytest.mark.parametrize(
    "head", [b"\x5a\x80\x00\x00\x00", b"\x5b" + b"\xff" * 8, b"\x7b" + b"\x7f" * 8, b"\x9b" + b"\x7f" * 8, b"\xbb" + b"\x7f" * 8]
)
def test_two_gigabytes_announced_in_a_few_bytes(head: bytes) -> None:
    before = MAGIC + b"\xa2" + cbor2.dumps("type") + cbor2.dumps("start") + cbor2.dumps("user_data")
    good = image(0, {"a": PIXELS})
    at = good.rfind(b"\x59\x03\x00")
    decoder = V2Decoder()
    tracemalloc.start()
    try:
        for data in (before + head, good[:at] + head + bytes(60)):
            for _ in range(2):
                with pytest.raises(WireError, match=r"announces|ends|no bytes|no known|each once"):
                    decoder.feed([data])
                one(decoder, good)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def series() -> list[list[bytes]]:
    mask = {n: array(np.eye(16, 24, dtype="<u4"), "bslz4") for n in ("threshold_1", "threshold_2")}
    frames = [{n: array(d.counts(2 * i + j), "bslz4") for j, n in enumerate(mask)} for i in range(3)]
    return [[start(pixel_mask=mask)], *([image(i, f)] for i, f in enumerate(frames)), [END]]


def test_cut_at_every_byte() -> None:
    good = series()
    bad = [[m[0][:k]] for m in good for k in range(len(m[0]))]
    assert d.survives(V2Decoder, good, bad[::3]) == len(bad[::3])


def test_damaged_in_every_way() -> None:
    good = series()
    bad = [v for i, m in enumerate(good) for v in d.damaged(m, 700, i)]
    assert len(bad) >= 3000
    assert d.survives(V2Decoder, good, bad) > 1000


@given(st.sampled_from([b"", b"\xbf", b"\xa1\x61a", b"\xa2\x64type\x65image\x64data"]), st.binary(max_size=60))
def test_random_bytes(before: bytes, data: bytes) -> None:
    with contextlib.suppress(WireError):
        assert isinstance(message(before + data)[0], dict)
    with contextlib.suppress(WireError):
        V2Decoder().feed([before + data])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=5), st.booleans())
def test_the_walker_reads_what_cbor2_writes(value: dict[str, Any], magic: bool) -> None:
    found, places = message(MAGIC * magic + cbor2.dumps(value))
    assert found == value
    assert list(places) == list(value)


# -- templates -------------------------------------------------------------------------------------------------------------


def test_images_go_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = V2Decoder()
    one(decoder, start())
    frames = {n: array(d.counts(0), "bslz4") for n in ("threshold_1", "threshold_2")}
    events(decoder, image(0, frames))
    monkeypatch.setattr(decoder, "_careful", lambda buf: pytest.fail("an ordinary image went the careful way"))
    for number in (1, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**40):
        changed = {n: array(d.counts(number % 1000 + 1, dtype="uint16"), "bslz4") for n in frames}
        a, b = events(decoder, image(number, changed))
        assert (a.number, b.number, a.t_ns) == (number, number, number * 1_000_000)


def test_what_a_template_must_not_accept() -> None:
    decoder = V2Decoder()
    both = {"threshold_1": PIXELS, "threshold_2": PIXELS}
    good = [image(i, both) for i in range(3)]
    at = good[1].find(b"\x59\x03\x00")
    endless = good[1][:at] + b"\x5b" + b"\xff" * 8 + good[1][at + 3 :]
    late = image(2**63, both, start_time=[0, 50_000_000], stop_time=[9, 50_000_000])
    one(decoder, start())
    for sent in (good[0], good[1] + b"x", good[1][:-1], endless, late):
        fresh = V2Decoder()
        one(fresh, start())
        assert outcome(decoder, sent) == outcome(fresh, sent)
    # the next series has its channels the other way round
    one(decoder, start(channels=["threshold_2", "threshold_1"]))
    assert [e.channel for e in events(decoder, good[2])] == [1, 0]


def test_few_templates_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    learn = _dectris_v2._learn
    monkeypatch.setattr(_dectris_v2, "_learn", lambda *a: made.append(1) or learn(*a))
    decoder = V2Decoder()
    for i in range(1000):
        assert one(decoder, image(i, {"a": PIXELS}, user_data=f"changes with every image {i}")).number == i
    assert len(made) == 2


@given(data=st.data())
def test_templates_and_the_careful_way_agree(data: st.DataObject) -> None:
    """Messages that differ here and there, one after another: with templates as without."""

    def variant() -> bytes:
        draw = data.draw
        n = draw(st.sampled_from([1, 1, 2]))
        how = draw(st.sampled_from(["none", "none", "bslz4"]))
        frames = {
            f"threshold_{i + 1}": array(d.counts(draw(st.integers(0, 3)), (8, draw(st.sampled_from([8, 8, 8, 9])))), how) for i in range(n)
        }
        number = draw(st.sampled_from([0, 1, 23, 24, 1000, 70_000, 2**33, 2**63 - 1, 2**63]))
        fields = {
            "type": "image",
            "series_id": draw(st.sampled_from([7, 7, 7, 8])),
            "image_id": number,
            "start_time": [[number, 1000], [number + 1, 1000], [number, 999], None, CBORTag(30, [number, 1000])][draw(st.integers(0, 4))],
            "stop_time": [draw(st.integers(0, 2**40)), 1000],
            "user_data": draw(st.sampled_from(["", "", "x", None])),
        }
        items = [*fields.items(), ("data", frames)]
        if draw(st.booleans()):
            items = [items[0], items[-1], *items[1:-1]]
        out = MAGIC + cbor2.dumps(dict(items))
        return out if draw(st.integers(0, 5)) else out[: draw(st.integers(0, len(out)))]

    decoder = V2Decoder()
    decoder.feed([start()])
    for _ in range(4):
        sent = variant()
        decoder._since = 1000  # learns from every image
        for _ in range(2):
            fresh = V2Decoder()
            fresh.feed([start()])
            assert outcome(decoder, sent) == outcome(fresh, sent)


def outcome(decoder: V2Decoder, data: bytes) -> Any:
    try:
        return list(decoder.feed([data]))
    except WireError as exc:
        return str(exc)
