"""DECTRIS stream V1: header forms, encodings, careful and fast path, damaged messages; judged by bitshuffle and lz4."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from libstream.ext import Axis, FramePart, RunEnd, RunHeader, Skipped, UsageError, WireError
from libstream.io_backends.streams._dectris_v1 import V1Decoder, V1Encoder, V1Settings, codec_of
from tests.live import dectris_messages as d
from tests.live.dectris_v1_messages import CONFIG, END, head, image, one, packed, tables, text

# -- headers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("appendix", [None, b'{"sample": "gold"}', b"\xff\xfe no text"])
@pytest.mark.parametrize("detail", ["none", "basic", "all"])
def test_headers_of_each_detail(detail: str, appendix: bytes | None) -> None:
    parts = [head(detail)] + ([text(CONFIG)] if detail != "none" else []) + (tables() if detail == "all" else [])
    assert len(parts) == {"none": 1, "basic": 2, "all": 8}[detail]
    header = one(V1Decoder(), [*parts, *([appendix] if appendix else [])]) if detail != "none" or appendix else one(V1Decoder(), parts)
    assert isinstance(header, RunHeader)
    assert header.run == 7
    assert header.channels == ()
    assert header.meta.get("header_appendix") == (appendix.decode("utf-8", "replace") if appendix else None)
    if detail == "none":
        assert header.n_frames is None
        assert header.frame is None
        assert header.notes == ()
        return
    assert (header.n_frames, header.frame, header.dtype, header.frame_time_s) == (12, (16, 24), "uint16", 0.002)
    assert header.meta["detector"] == CONFIG
    if detail == "all":
        assert header.meta["pixelmask"]["masked"] == 5
        assert header.meta["pixelmask"]["shape"] == [16, 24]
        assert any("5 of 384 pixels are masked" in n for n in header.notes)
        assert "sha256" in header.meta["flatfield"]
        assert "masked" not in header.meta["flatfield"]


@pytest.mark.parametrize("detail", ["basic", "all"])
def test_header_in_messages_of_one_part(detail: str) -> None:
    decoder = V1Decoder()
    assert list(decoder.feed([head(detail)])) == []
    header = one(decoder, [text(CONFIG)])
    assert header.n_frames == 12
    for part in [*(tables() if detail == "all" else []), b"an appendix", b"{not json"]:
        assert isinstance(one(decoder, [part]), Skipped)
    assert one(decoder, image(0, bytes(768))).number == 0
    with pytest.raises(WireError, match="is no JSON"):  # the header is over
        decoder.feed([b"an appendix"])


@pytest.mark.parametrize("then", [image(3, bytes(768)), [END], [head("basic", 8), text(CONFIG)]])
def test_second_part_of_the_header_never_came(then: list[bytes]) -> None:
    decoder = V1Decoder()
    decoder.feed([head()])
    header, event = decoder.feed(d.views(then))
    assert header.run == 7
    assert header.n_frames is None
    assert "did not arrive" in header.notes[0]
    assert isinstance(event, {4: FramePart, 1: RunEnd, 2: RunHeader}[len(then)])


@pytest.mark.parametrize(
    ("mode", "expected"), [("exte", 12), ("inte", 12), ("exts", 60), ("ints", 60), ("unheard-of", None), (None, None), (3, None)]
)
def test_number_of_frames_by_trigger_mode(mode: Any, expected: int | None) -> None:
    header = one(V1Decoder(), [head(), text({**CONFIG, "nimages": 5, "trigger_mode": mode})])
    assert header.n_frames == expected
    assert bool(header.notes) == (expected is None)


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("ntrigger", 2_000_000_000, "n_frames", None),
        ("ntrigger", -1, "n_frames", None),
        ("ntrigger", 10**400, "n_frames", None),
        ("ntrigger", True, "n_frames", None),
        ("roi_mode", "lines", "frame", None),
        ("roi_mode", "disabled", "frame", (16, 24)),
        ("x_pixels_in_detector", 1 << 40, "frame", None),
        ("bit_depth_image", 12, "dtype", None),
        ("bit_depth_image", [16], "dtype", None),
        ("frame_time", "soon", "frame_time_s", None),
        ("frame_time", 1e999, "frame_time_s", None),
        ("frame_time", -1, "frame_time_s", None),
    ],
)
def test_strange_values_of_the_configuration_are_left_out(key: str, value: Any, field: str, expected: Any) -> None:
    assert getattr(one(V1Decoder(), [head(), text({**CONFIG, key: value})]), field) == expected


def test_calibration_says_what_it_assumes() -> None:
    header = one(V1Decoder(), [head(), text({**CONFIG, "detector_distance": 0.15, "y_pixel_size": 150e-6})])
    assert header.axes["kx"] == (pytest.approx(0.5), "mrad")
    assert header.axes["ky"] == (pytest.approx(1.0), "mrad")
    assert any("0.15 m is the camera length" in n for n in header.notes)
    assert one(V1Decoder(), [head(), text(CONFIG)]).axes == {}
    # 75 um at 0.1 mm are no diffraction pattern
    assert one(V1Decoder(), [head(), text({**CONFIG, "detector_distance": 0.0001})]).axes == {}


@pytest.mark.parametrize(
    ("appendix", "scan", "says"),
    [
        (b'{"scan": [3, 4]}', (3, 4), ""),
        (b'{"scan": [3, 5]}', None, "not 12 frames"),
        (b'{"scan": [0, 4]}', None, ""),
        (b'{"scan": "3 x 4"}', None, ""),
        (b'{"scan": [3, 4]', None, ""),
        (b"[" * 5000, None, ""),
        (b'{"a":' * 1000, None, ""),
    ],
)
def test_scan_shape_from_the_appendix(appendix: bytes, scan: Any, says: str) -> None:
    header = one(V1Decoder(), [head(), text(CONFIG), appendix])
    assert header.scan == scan
    assert says in " ".join(header.notes)
    assert bool(says) == bool(header.notes)


def test_metadata_is_bounded_and_plain() -> None:
    config = {**CONFIG, "long": "x" * 100_000, "list": list(range(5000)), "deep": {"a": {"b": {"c": {"d": {"e": 1}}}}}, "half": "\ud800"}
    config |= {f"k{i}": i for i in range(1000)}
    header = one(V1Decoder(), [head(), text(config).replace(b'"frame_time": 0.002', b'"frame_time": NaN'), b"y" * 200_000])
    assert len(json.dumps(dict(header.meta)).encode()) < 100_000
    assert header.n_frames == 12
    assert header.frame_time_s is None


# -- images ----------------------------------------------------------------------------------------------------------------


ENCODINGS = [f"{how}{order}" for how in ("", "lz4", "bs8-lz4", "bs16-lz4", "bs32-lz4") for order in "<>"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_images_of_another_encoder(encoding: str) -> None:
    for dtype, shape in itertools.product(("uint8", "uint16", "uint32"), ((16, 24), (101, 67), (128, 256))):
        frame = d.counts(1, shape, dtype)
        if encoding.startswith("bs") and frame.nbytes % (int(encoding[2:].partition("-")[0]) // 8):
            continue
        parts = image(11, packed(frame, encoding), encoding, dtype, shape[::-1])
        event = one(V1Decoder(), parts)
        assert event == FramePart(7, 11, 2, 0, len(parts[2]), codec_of(encoding), shape, dtype, 0, 0, 5_000_000)
        np.testing.assert_array_equal(d.pixels(event, parts), frame)


def test_bitshuffle_header_of_zeros() -> None:
    frame = d.counts(2, (64, 96))
    blob = packed(frame, "bs16-lz4<")
    parts = image(0, bytes(12) + blob[12:], "bs16-lz4<", shape=(96, 64))
    np.testing.assert_array_equal(d.pixels(one(V1Decoder(), parts), parts), frame)


@pytest.mark.parametrize("detail", ["none", "basic", "all"])
@pytest.mark.parametrize("encoding", ["", *ENCODINGS])
def test_round_trip_of_a_series(encoding: str, detail: str) -> None:
    decoder = V1Decoder()
    for dtype, appendix, split in itertools.product(("uint8", "uint16", "uint32"), ("", "user text"), (False, True)):
        encoder = V1Encoder(V1Settings(encoding, detail, appendix, appendix, split))
        header, *rest = d.feed(decoder, encoder.begin(d.source((2, 3), dtype=dtype), 5))
        assert isinstance(header, RunHeader)
        assert header.run == 5
        assert all(isinstance(e, Skipped) for e in rest)
        if detail != "none":
            assert (header.n_frames, header.frame, header.dtype) == (6, (16, 24), dtype)
        for number in (0, 1, 5):
            frame = d.counts(number, dtype=dtype)
            (out,) = encoder.frame(number, {"frames": frame})
            assert (out.number, len(out.parts)) == (number, 5 if appendix else 4)
            (event,) = decoder.feed(d.views(out.parts))
            assert isinstance(event, FramePart)
            assert (event.run, event.number, event.t_ns) == (5, number, number * 1_000_000)
            np.testing.assert_array_equal(d.pixels(event, list(out.parts)), frame)
        assert d.feed(decoder, encoder.end()) == [RunEnd(5)]


@pytest.mark.parametrize("dtype", ["int16", "uint64", "float32", "float64"])
def test_round_trip_of_pixels_that_detectors_do_not_have(dtype: str) -> None:
    encoder = V1Encoder()
    decoder = V1Decoder()
    (header,) = d.feed(decoder, encoder.begin(d.source(dtype=dtype), 1))
    assert isinstance(header, RunHeader)
    assert header.dtype in (None, dtype)
    frame = -d.counts(3, dtype="int16").astype(dtype)
    (out,) = encoder.frame(0, {"frames": frame})
    (event,) = decoder.feed(out.parts)
    assert isinstance(event, FramePart)
    assert event.dtype == dtype
    np.testing.assert_array_equal(d.pixels(event, list(out.parts)), frame)


def test_what_detectors_write_to_the_byte() -> None:
    encoder = V1Encoder(V1Settings("<", hash=False))
    ((parts, _, _),) = encoder.begin(d.source((4, 4), (2, 3)), 1)
    assert bytes(parts[0]) == b'{"htype":"dheader-1.0","header_detail":"basic","series":1}'
    ((parts, _, _),) = encoder.frame(0, {"frames": np.zeros((2, 3), "uint16")})
    assert [bytes(p) for p in parts] == [
        b'{"htype":"dimage-1.0","series":1,"frame":0,"hash":"00000000000000000000000000000000"}',
        b'{"htype":"dimage_d-1.0","shape":[3,2],"type":"uint16","encoding":"<","size":12}',
        bytes(12),
        b'{"htype":"dconfig-1.0","start_time":0,"stop_time":1000000,"real_time":1000000}',
    ]
    ((parts, _, _),) = encoder.end()
    assert [bytes(p) for p in parts] == [b'{"htype":"dseries_end-1.0","series":1}']


def test_md5_is_that_of_the_blob() -> None:
    import hashlib

    encoder = V1Encoder()
    list(encoder.begin(d.source(), 1))
    ((parts, _, _),) = encoder.frame(0, {"frames": d.counts(0)})
    assert json.loads(parts[0])["hash"] == hashlib.md5(parts[2], usedforsecurity=False).hexdigest()


def test_calibration_and_mask_travel() -> None:
    meta = d.source()
    mask = np.zeros((16, 24), "uint32")
    mask[0, :3] = 1
    axes = (*meta.axes[:2], Axis("ky", 16, 0.4, 0.0, "mrad"), Axis("kx", 24, 0.4, 0.0, "mrad"))
    meta = meta.with_(axes=axes, vendor={"pixel_mask": mask})
    (header,) = d.feed(V1Decoder(), V1Encoder(V1Settings(detail="all")).begin(meta, 1))
    assert isinstance(header, RunHeader)
    assert header.axes["kx"] == (pytest.approx(0.4), "mrad")
    assert header.meta["pixelmask"]["masked"] == 3


def test_joined_late() -> None:
    events = [one(V1Decoder(), image(n, bytes(768))) for n in (5, 9)]
    assert [(e.run, e.number, e.shape) for e in events] == [(7, 5, (16, 24)), (7, 9, (16, 24))]
    assert one(V1Decoder(), [END]) == RunEnd(7)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: V1Settings("gzip"), "unknown encoding"),
        (lambda: V1Settings(detail="some"), "none, basic or all"),
        (lambda: list(V1Encoder().begin(d.source(dtype="complex64"), 1)), "complex64"),
        (lambda: V1Encoder().frame(0, {"a": d.counts(0), "b": d.counts(0)}), "one channel, got a, b"),
    ],
)
def test_refused_by_the_encoder(call: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call()
