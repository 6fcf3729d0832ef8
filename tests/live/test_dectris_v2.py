"""DECTRIS stream V2: envelopes by cbor2, typed arrays, compression by bitshuffle and lz4, templates against the careful way, damage."""

from __future__ import annotations

import tracemalloc
from typing import Any

import cbor2
import numpy as np
import pytest
from cbor2 import CBORTag

from libstream.ext import RunEnd, RunHeader, UsageError, WireError
from libstream.io_backends.streams._dectris_v2 import V2Decoder
from libstream.io_backends.streams._dectris_v2_send import V2Encoder, V2Settings
from tests.live import dectris_messages as d
from tests.live.dectris_v2_messages import END, MAGIC, START, TAGS, array, events, image, one, start, tagged

# -- start and end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("magic", [True, False])
def test_start_and_end(magic: bool) -> None:
    header = one(V2Decoder(), start(magic=magic))
    assert isinstance(header, RunHeader)
    assert header[:7] == (7, 12, None, (16, 24), "uint16", ("threshold_1", "threshold_2"), 0.001)
    assert header.meta["detector"]["goniometer"] == {"chi": {"increment": 0.0, "start": 0.0}}
    assert header.meta["detector"]["arm_date"] == "2023-10-04T14:55:53.000Z"
    assert header.axes == {"ky": (pytest.approx(1.0), "mrad"), "kx": (pytest.approx(0.5), "mrad")}
    assert "camera length" in header.notes[0]
    assert one(V2Decoder(), END[0 if magic else 3 :]) == RunEnd(7)


def test_floats_of_each_width_and_keys_in_any_order() -> None:
    for code, width in ((b"\xf9\x14\x19", 2), (b"\xfa\x3a\x83\x12\x6f", 4), (b"\xfb\x3f\x50\x62\x4d\xd2\xf1\xa9\xfc", 8)):
        head = b"\xa4" + cbor2.dumps("type") + cbor2.dumps("start") + cbor2.dumps("frame_time") + code
        header = one(V2Decoder(), head + cbor2.dumps("unheard-of") + cbor2.dumps([1, {"a": None}]) + cbor2.dumps("series_id") + b"\x07")
        assert header.frame_time_s == pytest.approx(0.001, rel=1e-3 if width == 2 else 1e-6)
    backwards = dict(reversed(START.items()))
    assert one(V2Decoder(), MAGIC + cbor2.dumps(backwards))[:7] == one(V2Decoder(), start())[:7]


def test_indefinite_maps_and_arrays() -> None:
    data = b"\xbf" + cbor2.dumps("type") + cbor2.dumps("start") + cbor2.dumps("series_id") + b"\x07" + cbor2.dumps("channels") + b"\x9f"
    assert one(V2Decoder(), data + cbor2.dumps("a") + b"\xff\xff").channels == ("a",)


def test_masks_and_flat_fields() -> None:
    mask = np.zeros((16, 24), "<u4")
    mask[2, 3:6] = 1
    for how in ("none", "lz4", "bslz4"):
        for tag in (40, 1040):
            header = one(
                V2Decoder(),
                start(
                    pixel_mask={"threshold_1": array(mask, how, tag=tag if how == "none" else 40)},
                    flatfield={"threshold_1": array(np.ones((16, 24), "<f4"), how)},
                    countrate_correction_lookup_table=CBORTag(85, bytes(800)),
                ),
            )
            if tag == 40 or how != "none":
                assert header.meta["pixel_mask"]["threshold_1"]["masked"] == 3
                assert any("pixel_mask of threshold_1: 3 of 384" in n for n in header.notes)
            assert "sha256" in header.meta["flatfield"]["threshold_1"]
            assert "countrate_correction_lookup_table" not in header.meta["detector"]


@pytest.mark.parametrize(
    "mask",
    [
        None,
        5,
        {"a": None},
        {"a": CBORTag(40, [[16, 24], CBORTag(70, b"short")])},
        {"a": CBORTag(40, [[1 << 15, 1 << 13], CBORTag(70, CBORTag(56500, ["bslz4", 4, bytes(30)]))])},
        {"a": CBORTag(40, [[16, 24], CBORTag(70, CBORTag(56500, ["lz4", 0, b"damaged" * 9]))])},
    ],
    ids=str,
)
def test_a_damaged_mask_costs_no_series(mask: Any) -> None:
    tracemalloc.start()
    try:
        header = one(V2Decoder(), start(pixel_mask=mask))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert header.n_frames == 12
    assert any("pixel_mask" in n and "left out" in n for n in header.notes) == isinstance(mask, dict)


def test_scan_shape_from_user_data() -> None:
    for user in ({"scan": [3, 4], "who": "me"}, '{"scan": [3, 4]}'):
        header = one(V2Decoder(), start(user_data=user))
        assert header.scan == (3, 4)
        assert header.meta["user_data"] == user
    assert "not 12 frames" in one(V2Decoder(), start(user_data={"scan": [4, 4]})).notes[-1]


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("number_of_images", None, "n_frames", None),
        ("number_of_images", 2_000_000_000, "n_frames", None),
        ("number_of_images", 2**64 - 1, "n_frames", None),
        ("image_size_x", None, "frame", None),
        ("image_size_x", 2**63, "frame", None),
        ("image_dtype", "object", "dtype", None),
        ("image_dtype", 5, "dtype", None),
        ("frame_time", float("nan"), "frame_time_s", None),
        ("frame_time", None, "frame_time_s", None),
        ("channels", ["1", "2"], "channels", ("threshold_1", "threshold_2")),
        ("channels", KeyError, "channels", ("threshold_1", "threshold_2")),
        ("channels", None, "channels", ("threshold_1", "threshold_2")),
        ("channels", 5, "channels", ()),
        ("channels", ["x" * 1000] * 1000, "channels", ("x" * 100,)),
        ("threshold_energy", 5.0, "channels", ("threshold_1", "threshold_2")),
        ("detector_translation", [0, 0, 2**70], "axes", {}),
        ("detector_translation", None, "axes", {}),
    ],
)
def test_strange_values_of_the_start_are_left_out(key: str, value: Any, field: str, expected: Any) -> None:
    assert getattr(one(V2Decoder(), start(**{key: value})), field) == expected


# -- images ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TAGS)
def test_typed_arrays(kind: str) -> None:
    for how in ("none", "lz4", "bslz4"):
        decoder = V2Decoder()
        for number in range(4):
            frame = d.counts(number, (33, 40), np.dtype(kind).name if kind != "i1" else "uint8").astype(kind)
            data = image(number, {"threshold_1": array(frame, how, kind)})
            event = one(decoder, data)
            assert (event.number, event.shape, event.dtype) == (number, (33, 40), np.dtype(kind).name)
            np.testing.assert_array_equal(d.pixels(event, [data]), frame.astype(event.dtype))
            assert event.t_ns == number * 1_000_000


@pytest.mark.parametrize("magic", [True, False])
@pytest.mark.parametrize("order", ["announced", "reversed"])
@pytest.mark.parametrize("data_last", [True, False])
def test_channels_by_name(magic: bool, order: str, data_last: bool) -> None:
    decoder = V2Decoder()
    one(decoder, start())
    names = ["threshold_1", "threshold_2"]
    for number in range(5):
        frames = {n: d.counts(10 * number + i) for i, n in enumerate(names)}
        sent = names if order == "announced" else names[::-1]
        data = image(number, {n: array(frames[n], "bslz4") for n in sent}, magic=magic)
        if not data_last:
            fields = cbor2.loads(data)
            fields = fields.value if isinstance(fields, CBORTag) else fields
            data = MAGIC[: 3 * magic] + cbor2.dumps(
                {"type": "image", "data": fields["data"], **{k: v for k, v in fields.items() if k not in ("type", "data")}}
            )
        found = events(decoder, data)
        assert [e.channel for e in found] == [names.index(n) for n in sent]
        for event, name in zip(found, sent, strict=True):
            np.testing.assert_array_equal(d.pixels(event, [data]), frames[name])


@pytest.mark.parametrize(
    ("announced", "sent", "channels"),
    [
        (["1"], ["threshold_1"], [0]),
        (["threshold_1"], ["1"], [0]),
        (["low", "high"], ["a10", "a9"], [1, 0]),
        (["x"], ["threshold_1"], [0]),
        (None, ["threshold_2", "threshold_10", "threshold_1"], [1, 2, 0]),
    ],
)
def test_channels_come_from_the_image_where_the_start_disagrees(announced: Any, sent: list[str], channels: list[int]) -> None:
    decoder = V2Decoder()
    one(decoder, start(channels=announced, threshold_energy=None))
    for number in range(3):
        data = image(number, {n: array(d.counts(0)) for n in sent})
        assert [e.channel for e in events(decoder, data)] == channels


@pytest.mark.parametrize(
    ("sent", "says"), [(["threshold_1"], None), (["a"], "were announced"), (["1", "threshold_1"], "twice"), ([], "no data")]
)
def test_other_channels_than_announced(sent: list[str], says: str | None) -> None:
    decoder = V2Decoder()
    one(decoder, start())
    data = image(0, {n: array(d.counts(0)) for n in sent})
    if says is None:
        assert one(decoder, data).channel == 0
    else:
        with pytest.raises(WireError, match=says):
            decoder.feed([data])


def test_joined_late_and_series_that_follow_each_other() -> None:
    decoder = V2Decoder()
    frame = {"threshold_2": array(d.counts(0))}
    assert [(e.run, e.number, e.channel) for n in (4, 5, 6) for e in events(decoder, image(n, frame, run=3))] == [
        (3, n, 0) for n in (4, 5, 6)
    ]
    one(decoder, start())
    assert [(e.run, e.channel) for n in range(3) for e in events(decoder, image(n, frame))] == [(7, 1)] * 3
    # images of the old series may still come
    assert one(decoder, image(7, frame, run=3)).run == 3
    assert one(decoder, image(4, frame)).channel == 1


@pytest.mark.parametrize("time", [KeyError, None, [5, 0], [5], [1.5, 2], ["a", "b"], [2**64 - 1, 1], [-1, 5], 3.5, CBORTag(5, [3, -4])])
def test_times_that_make_no_sense_cost_no_frame(time: Any) -> None:
    decoder = V2Decoder()
    for number in range(3):
        event = one(decoder, image(number, {"a": array(d.counts(0))}, start_time=time))
        assert (event.number, event.t_ns, event.stop - event.start) == (number, 0, 768)


# -- the other way ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detail", ["none", "basic", "all"])
@pytest.mark.parametrize("appendix", ["", "user text"])
@pytest.mark.parametrize("channels", [("frames",), ("threshold_1", "threshold_2")])
@pytest.mark.parametrize("how", ["bslz4", "lz4", "none"])
def test_round_trip_and_what_cbor2_reads(how: str, channels: tuple[str, ...], appendix: str, detail: str) -> None:
    decoder = V2Decoder()
    names = ["threshold_1", "threshold_2"][: len(channels)]
    for dtype in ("uint8", "uint16", "uint32", "int16", "float32"):
        encoder = V2Encoder(V2Settings(how, detail, appendix, appendix))
        (out,) = encoder.begin(d.source((2, 3), (64, 70), dtype, channels), 5)
        (told,) = (bytes(p) for p in out.parts)
        assert told.startswith(MAGIC)
        read = cbor2.loads(told[3:], tag_hook=tagged)
        assert next(iter(read)) == "type"
        assert (read["channels"], read["image_size_x"], read["number_of_images"], read["user_data"]) == (names, 70, 6, appendix)
        assert ("flatfield" in read) == (detail == "all")
        header = one(decoder, told)
        assert header[:7] == (5, 6, None, (64, 70), dtype, tuple(names), 0.001)
        for number in (0, 1, 2, 5):
            frames = {c: d.counts(10 * number + i, (64, 70), dtype) for i, c in enumerate(channels)}
            (out,) = encoder.frame(number, frames)
            assert out.number == number
            read = cbor2.loads(out.parts[0], tag_hook=tagged)
            read = read.value if isinstance(read, CBORTag) else read
            assert (read["image_id"], read["user_data"], read["start_time"][0] / read["start_time"][1]) == (number, appendix, number / 1000)
            for event, name, frame in zip(events(decoder, out.parts[0]), names, frames.values(), strict=True):
                np.testing.assert_array_equal(read["data"][name], frame)
                np.testing.assert_array_equal(d.pixels(event, list(out.parts)), frame)
                assert (event.run, event.number, event.t_ns) == (5, number, number * 1_000_000)
        assert d.feed(decoder, encoder.end()) == [RunEnd(5)]


def test_without_magic() -> None:
    encoder = V2Encoder(V2Settings(magic=False))
    (out,) = encoder.begin(d.source(), 5)
    assert out.parts[0][:6] != MAGIC
    assert one(V2Decoder(), out.parts[0]).run == 5


@pytest.mark.parametrize(
    "make", [lambda: V2Settings("gzip"), lambda: V2Settings(detail="x"), lambda: V2Encoder().begin(d.source(dtype="complex64"), 1)]
)
def test_refused_by_the_encoder(make: Any) -> None:
    with pytest.raises(UsageError):
        make()
