"""Pixels and headers of Merlin against an encoder that follows the published layout pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from libstream.codecs import merlin, merlin_header
from libstream.codecs.merlin import Pixels
from libstream.errors import CorruptFileError, FormatError, UsageError
from tests.writers import mib as writer

_Arr = np.ndarray[Any, Any]

VARIANTS = [(code, 12, "1x1") for code in writer.DTYPES] + [("R64", d, chips) for d in (1, 6, 12, 24) for chips in ("1x1", "2x2", "2x2G")]


def _stored(frames: _Arr, code: str, depth: int, layout: str, head: int, gap: int) -> _Arr:
    """Records with `head` bytes before and `gap` bytes after the pixels, as a view of the pixels: uint8 (n, n_bytes)."""
    parts = [np.frombuffer(writer.encode(f, code, depth, layout), np.uint8) for f in frames]
    size = len(parts[0])
    whole = np.full((len(parts), head + size + gap), 0xA5, np.uint8)
    for row, part in zip(whole, parts, strict=True):
        row[head : head + size] = part
    return whole[:, head : head + size]


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, int, str, int, int, int, int, int]:
    code, depth, layout = draw(st.sampled_from(VARIANTS))
    rows = draw(st.sampled_from([1, 3, 8]))
    n = draw(st.integers(0, 3))
    # headers of real files are whole words; others are decoded by way of a copy
    head, gap = draw(st.sampled_from([(384, 0), (768, 0), (384, 392), (389, 0), (7, 6), (16, 3)]))
    return code, depth, layout, rows, n, head, gap, draw(st.integers(0, 2**32 - 1))


@given(cases(), st.data())
def test_decode_is_the_inverse_of_the_published_encoding(case: Any, data: st.DataObject) -> None:
    code, depth, layout, rows, n, head, gap, seed = case
    frames = writer.random_frames(np.random.default_rng(seed), max(n, 1), code, depth, layout, rows)
    how = Pixels(code, frames.shape[1:], depth, layout)
    raw = _stored(frames, code, depth, layout, head, gap)[:n]
    assert raw.shape[1] == how.n_bytes
    assert frames.dtype == how.dtype
    a = data.draw(st.integers(0, how.sig[0]))
    b = data.draw(st.integers(a, how.sig[0]))
    out = np.full((n, b - a, how.sig[1]), 0x55, how.dtype)
    how.decode(raw, out, a)
    np.testing.assert_array_equal(out, frames[:n, a:b])


@pytest.mark.parametrize(("code", "depth", "layout"), VARIANTS)
def test_decode_full_size(code: str, depth: int, layout: str) -> None:
    frames = writer.random_frames(np.random.default_rng(1), 2, code, depth, layout)
    how = Pixels(code, frames.shape[1:], depth, layout)
    out = np.empty_like(frames)
    how.decode(_stored(frames, code, depth, layout, 384, 0), out)
    np.testing.assert_array_equal(out, frames)


def test_one_pixel_at_a_time() -> None:
    """Places written down by hand from the layout, so that encoder and decoder cannot be wrong in the same way."""
    cases = [
        # depth, chips, byte, value of the byte, row, column, value
        (1, "1x1", 7, 1, 0, 0, 1),  # bit 0 of the first big-endian word
        (1, "1x1", 0, 0x80, 0, 63, 1),
        (1, "1x1", 32 + 15, 2, 1, 65, 1),
        (6, "1x1", 7, 9, 0, 0, 9),
        (6, "1x1", 256, 5, 1, 7, 5),
        (12, "1x1", 7, 3, 0, 0, 3),
        (12, "1x1", 0, 1, 0, 3, 256),
        (24, "1x1", 7, 1, 0, 0, 4096),  # first plane: the upper 12 bits
        (24, "1x1", 256 * 512 + 7, 1, 0, 0, 1),
        (12, "2x2", 7, 1, 511, 511, 1),  # chip 4 is first: lower right, rotated
        (12, "2x2", 512 + 7, 1, 511, 255, 1),
        (12, "2x2", 1024 + 7, 1, 0, 256, 1),
        (12, "2x2", 1536 + 7, 1, 0, 0, 1),
        (12, "2x2", 2048 + 7, 1, 510, 511, 1),
        (12, "2x2G", 7, 1, 513, 513, 1),
        (12, "2x2G", 1024 + 7, 1, 0, 258, 1),
        (24, "2x2", 1024 * 512 + 1536 + 5, 2, 0, 1, 2),
    ]
    for depth, chips, byte, value, row, column, expected in cases:
        side = {"1x1": 256, "2x2": 512, "2x2G": 514}[chips]
        how = Pixels("R64", (side, side), depth, chips)
        raw = np.zeros((1, how.n_bytes), np.uint8)
        raw[0, byte] = value
        out = np.empty((1, side, side), how.dtype)
        how.decode(raw, out)
        found = [(int(y), int(x), int(out[0, y, x])) for y, x in np.argwhere(out[0])]
        assert found == [(row, column, expected)], f"{depth} bit {chips}, byte {byte}"


def test_kernels_are_their_own_twins() -> None:
    """The compiled kernels and the Python functions they are made of do the same."""
    rng = np.random.default_rng(2)
    for depth, unpack in merlin._UNPACK.items():
        how = Pixels("R64", (4, 512), depth, "2x2")
        words = rng.integers(0, 2**64 - 1, how.n_bytes // 8, dtype=np.uint64)
        if depth in (12, 24):
            words &= np.uint64(0x0FFF0FFF0FFF0FFF).byteswap()
        out = np.zeros((2, 1, 4, 512 * how.dtype.itemsize // 8), np.uint64)
        row = 4 * 256 * {1: 1, 6: 8, 12: 16, 24: 16}[depth] // 64
        plane = len(words) // 2 if depth == 24 else 0
        args = (how._segments(row, 32 * how.dtype.itemsize), row, plane, 2, 0)
        with np.errstate(over="ignore"):
            unpack(words, len(words), out[0], *args)
        unpack.cached(words, len(words), out[1], *args)
        np.testing.assert_array_equal(out[0], out[1])
    heads = np.frombuffer(b"".join(writer.frame_header(9 + i, (4, 4), "U08") for i in range(3)), np.uint8)
    good = np.zeros((2, 3), bool)
    assert merlin._check_heads(heads, 384, 9, 1, good[0]) == merlin._check_heads.cached(heads, 384, 9, 1, good[1]) == 0
    assert good.all()


def test_decode_refuses_what_does_not_fit() -> None:
    how = Pixels("U16", (4, 8))
    good = np.zeros((2, 64), np.uint8)
    out = np.zeros((2, 4, 8), np.uint16)
    how.decode(good, out)
    for raw, dest, row in [
        (good[:, :63], out, 0),
        (good.view(np.int8), out, 0),
        (good, out[:1], 0),
        (good, out.astype(np.uint32), 0),
        (good, np.zeros((2, 4, 9), np.uint16)[:, :, :8], 0),
        (good, out, 1),
        (good, out, -1),
    ]:
        with pytest.raises(UsageError):
            how.decode(raw, dest, row)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("X99", (4, 4)), "unknown pixel code 'X99', expected one of U01"),
        (("R64", (4, 256), 7), "counter depth 7"),
        (("R64", (4, 1024), 12, "4x1"), "'4x1' cannot be put together"),
        (("R64", (4, 250), 12, "1x1"), "4 x 250 px do not fit"),
        (("R64", (5, 512), 12, "2x2"), "5 x 512 px do not fit"),
    ],
)
def test_unknown_encodings(args: Any, text: str) -> None:
    with pytest.raises(FormatError, match=text):
        Pixels(*args)


# -- headers -----------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 10**9), st.sampled_from([1, 2, 3]), st.integers(1, 12), st.sets(st.integers(0, 11)), st.booleans(), st.integers(0, 30)
)  # fmt: skip
def test_check_heads(number: int, step: int, n: int, broken: set[int], by_number: bool, gap: int) -> None:
    heads = [bytearray(f"MQ1,{number + i * step:06d},00384,01,0256,0256,U08".encode()[:30].ljust(30 + gap)) for i in range(n)]
    for i in broken:
        if i < n:
            heads[i][:6] = b"MQ1,x0" if by_number else b"\0Q1,00"
    raw = np.frombuffer(b"".join(heads), np.uint8).reshape(n, -1)
    expected = np.array([i not in broken for i in range(n)])
    found = merlin.check_heads(raw, number, step)
    assert found is None if expected.all() else list(found) == list(expected)
    # a wrong number is found where numbers are known, and only there
    if n > 1 and not broken and number % 10**6 > n * step:
        shifted = merlin.check_heads(raw[1:], number, step)
        assert shifted is not None
        assert not shifted.any()
        assert merlin.check_heads(raw[1:], None) is None


def test_numbers_may_start_again_after_six_digits() -> None:
    raw = np.frombuffer(b"MQ1,999999,00384,MQ1,1000000,0038,MQ1,000001,00384,"[:51], np.uint8).reshape(3, 17)
    assert merlin.check_heads(raw, 999999) is None
    assert merlin.check_heads(raw[:0], 1) is None
    for number in (1, 999, 899999, 999899, 998999):
        found = merlin.check_heads(raw, number)
        assert found is not None
        assert not found.any()


def test_frame_header_fields() -> None:
    text = (
        b"MQ1,000007,00768,04,0512,0512,U32,   2x2,0F,2021-04-15 14:44:54.778214,0.001000,1,0,2,2.000000E+0,5.110000E+2,0.000000E+0,"
        b"3RX,011,511,3RX,012,510,MQ1A,2021-04-15T13:44:54.778214701Z,1000000ns,24,"
    )
    head = merlin_header.parse_frame_header(text.ljust(768, b"\0"), "x")
    assert head.geometry == ("U32", 512, 512, 768, "2x2", 24, 4)
    assert (head.number, head.counter, head.gain, head.exposure_s, head.exposure_ns) == (7, 1, "HGM", 0.001, 1000000)
    assert (head.chip_mask, head.timestamp) == ("0F", "2021-04-15 14:44:54.778214")
    assert head.timestamp_utc == "2021-04-15T13:44:54.778214701Z"
    assert head.thresholds_kev == (2.0, 511.0, 0.0)
    assert head.dacs == ((11, 511), (12, 510))
    assert head.vendor()["dacs"] == [[11, 511], [12, 510]]
    assert head.pixels("x") == Pixels("U32", (512, 512), 24)


def test_short_frame_header_of_raw_files() -> None:
    text = b"MQ1,000001,00768,04,2048,0256,R64,   2x2,0F,2019-09-18 11:14:44.904106,0.010000,0,0,0,,MQ1A,2019-09-18T10Z,10000000ns,24,"
    head = merlin_header.parse_frame_header(text.ljust(768, b"\0"), "x")
    assert head.pixels("x") == Pixels("R64", (512, 512), 24, "2x2")
    assert head.thresholds_kev == ()
    oldest = merlin_header.parse_frame_header(b"MQ1,000001,00384,01,0256,0064,U08,   1x1".ljust(384, b"\0"), "x")
    assert (oldest.depth, oldest.exposure_s, oldest.gain) == (0, None, "")
    assert oldest.pixels("x").sig == (64, 256)


def _head(**changes: Any) -> merlin_header.FrameHeader:
    return merlin_header.FrameHeader(
        **{"number": 1, "offset": 384, "chips": 1, "width": 256, "height": 256, "code": "R64", "layout": "1x1", "depth": 12, **changes}
    )


@pytest.mark.parametrize(
    ("changes", "sig"),
    [
        ({}, (256, 256)),
        ({"height": 64}, (64, 256)),
        ({"width": 512, "depth": 24}, (256, 256)),
        ({"width": 256, "depth": 24}, (256, 256)),
        ({"width": 1024, "chips": 4, "layout": "2x2"}, (512, 512)),
        ({"width": 1024, "height": 64, "chips": 4, "layout": "2x2"}, (128, 512)),
        ({"width": 1024, "chips": 4, "layout": "2x2G"}, (514, 514)),
        ({"width": 2048, "chips": 4, "layout": "2x2", "depth": 24}, (512, 512)),
        ({"width": 512, "height": 512, "chips": 4, "layout": "2x2"}, (512, 512)),
        ({"code": "U16", "width": 1024, "height": 256, "chips": 4, "layout": "4x1"}, (256, 1024)),
        ({"code": "U16", "width": 514, "height": 514, "chips": 4, "layout": "2x2G"}, (514, 514)),
    ],
)
def test_frame_shape(changes: dict[str, Any], sig: tuple[int, int]) -> None:
    assert _head(**changes).pixels("x").sig == sig


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"layout": "4x1", "width": 1024, "chips": 4}, "known for 1x1, 2x2 and 2x2G only, got '4x1'"),
        ({"width": 300}, "expected a width of 256 for 1 chip"),
        ({"width": 300, "depth": 24}, "expected a width of 256 or 512"),
        ({"depth": 0}, "counter depth expected one of 1, 6, 12, 24 bit, got none"),
    ],
)
def test_raw_frames_that_cannot_be_put_together(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(FormatError, match=text) as caught:
        _head(**changes).pixels("a.mib, byte 0")
    assert "a.mib, byte 0" in str(caught.value)


GOOD = writer.frame_header(1, (256, 256), "U16")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "starts with 'MQ1,', got b''"),
        (b"HDR,....", "starts with 'MQ1,'"),
        (GOOD[:100], "has 384 bytes, 100 of them are there"),
        (b"MQ1,000001,99999999,01", "states b'99999999' as its size"),
        (b"MQ1,000001,abcde,01", "states b'abcde' as its size"),
        (b"MQ1,000001,00040,01,0256,0256,".ljust(40, b"\0"), "ends too early"),
        (GOOD.replace(b"0256,0256", b"02x6,0256"), "width in the frame's header is '02x6'"),
        (GOOD.replace(b"0256,0256", b"0000,0256"), "states 0 x 256 px"),
        (GOOD.replace(b"0256,0256", b"99999,256"), "states 99999 x 256 px"),
        (GOOD.replace(b"U16", b"F32"), "pixel type 'F32' in the frame's header is unknown, expected one of U01"),
    ],
)
def test_broken_frame_headers(data: bytes, text: str) -> None:
    with pytest.raises(FormatError, match=text):
        merlin_header.parse_frame_header(data, "f")


@given(st.binary(max_size=400), st.integers(0, 380), st.integers(0, 255))
@example(b"", GOOD.index(b"3RX,") + 5, 0xB2)  # a superscript is a digit, but no number
@settings(max_examples=200)
def test_frame_header_never_fails_otherwise(noise: bytes, at: int, byte: int) -> None:
    damaged = bytearray(GOOD)
    damaged[at] = byte
    for data in (noise, b"MQ1," + noise, bytes(damaged), GOOD[:at] + noise):
        try:
            merlin_header.parse_frame_header(data, "f").pixels("f")
        except FormatError:
            continue


def test_acquisition_header() -> None:
    found = merlin_header.parse_acquisition_header(writer.hdr(12, 6, "2x2", per_trigger=4, scan=(3, 4)), "x.hdr")
    assert (found.n_frames, found.per_trigger, found.scan, found.depth) == (12, 4, (3, 4), 6)
    assert found.fields["Dead Time File"] == "Dummy (C:\\<NUL>\\)"  # cut at the first colon
    assert found.fields["Trigger Start (Positive, Negative, Internal)"] == "Rising Edge"
    endless = merlin_header.parse_acquisition_header(writer.hdr(0), "x.hdr")
    assert (endless.n_frames, endless.scan) == (None, None)
    odd = merlin_header.parse_acquisition_header(b"HDR,\t\nFrames in Acquisition (Number):\tmany\nno colon\nEnd\t\nScanX:\t4\n", "x.hdr")
    assert (odd.n_frames, dict(odd.fields)) == (None, {"Frames in Acquisition (Number)": "many"})
    with pytest.raises(CorruptFileError, match=r"x\.hdr: expected an acquisition header of Merlin, which starts with 'HDR,', got b'ENVI'"):
        merlin_header.parse_acquisition_header(b"ENVI", "x.hdr")


@given(st.binary(max_size=300))
def test_acquisition_header_never_fails_otherwise(noise: bytes) -> None:
    found = merlin_header.parse_acquisition_header(b"HDR," + noise, "x")
    assert found.n_frames is None or found.n_frames > 0
