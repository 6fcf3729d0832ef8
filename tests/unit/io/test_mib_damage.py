"""Merlin files that are cut off, damaged, something else, or change while they are read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libstream.ext import CorruptFileError, FormatError, Region, SourceChangedError, Span, UsageError
from tests.unit.io.mib_files import damage, frames_like, opened, read, settle
from tests.writers import mib as writer


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("code", ["U08", "U16", "R64"])
@pytest.mark.parametrize("what", [b"\0\0\0\0", b"MQ1,000009,", b"MQ1,ABCDEF,"])
def test_damaged_frames_are_marked(tmp_path: Path, code: str, what: bytes, mapped: bool) -> None:
    frames = frames_like(40, code)
    path = writer.write(tmp_path, frames, code)
    record = path.stat().st_size // 40
    damage(path, 19 * record, what)
    if mapped:
        settle(tmp_path)
    source = opened(path)
    expected = np.arange(40) != 19
    out, valid = read(source, 0, 40)
    assert valid is not None
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(out[expected], frames[expected])
    assert read(source, 0, 19)[1] is None
    assert read(source, 20, 40, slice(1, 3))[1] is None
    if mapped and code == "U08":
        reader = source.opener.open_reader("frames")
        np.testing.assert_array_equal(reader.valid(Span(10, 40)), expected[10:])
        assert reader.valid(Span(20, 40)) is None
        reader.close()


@pytest.mark.parametrize("damaged", [[1], [2, 3], [39], [0]])
def test_opens_with_some_damaged_headers(tmp_path: Path, damaged: list[int]) -> None:
    path = writer.write(tmp_path, frames_like(40), "U16")
    record = path.stat().st_size // 40
    for i in damaged:
        damage(path, i * record, b"XXXX")
    if 0 in damaged:  # the first header says what all are
        with pytest.raises(CorruptFileError, match=r"scan\.mib, byte 0: expected the header of a Merlin frame"):
            opened(path)
        return
    valid = read(opened(path), 0, 40)[1]
    assert valid is not None
    assert list(np.flatnonzero(~valid)) == damaged


def test_lost_frames_are_told(tmp_path: Path) -> None:
    frames = frames_like(40)
    path = tmp_path / "scan.mib"
    path.write_bytes(b"".join(writer.records(frames[:25], "U16") + writer.records(frames[25:], "U16", first=31)))
    source = opened(path)
    assert any("frame numbers do not rise by one" in note and "expected" in note for note in source.meta.notes)
    out, valid = read(source, 0, 40)
    assert valid is None  # numbers follow no rule: none is wrong
    np.testing.assert_array_equal(out, frames)


def test_frames_are_not_where_the_header_says(tmp_path: Path) -> None:
    path = writer.write(tmp_path, frames_like(8, "U08"), "U08")
    head = writer.frame_header(1, (3, 256), "U08")
    damage(path, 0, head)
    with pytest.raises(CorruptFileError, match="no frame begins at byte 1152 or at"):
        opened(path)


@pytest.mark.parametrize(
    ("cut", "text"),
    [
        (0, r"scan\.mib: is empty \(0 bytes\)"),
        (100, r"scan\.mib, byte 0: the frame's header has 384 bytes, 100 of them are there"),
        (384, r"too short for one frame: its header announces U16 12 bit 1x1 256 x 4 .* takes 2432 bytes, the file has 384"),
        (2000, r"too short for one frame"),
        (2432 * 2 + 10, r"ends within a frame: 2 whole frames of 2432 bytes and 10 more\. .*allow_truncated=True"),
        (2432 * 2 + 2000, r"ends within a frame"),
        (2432 * 2, r"scan\.hdr: announces 3 frames, .*scan\.mib holds 2\. Truncated copy.*allow_truncated=True"),
    ],
)
def test_truncated(tmp_path: Path, cut: int, text: str) -> None:
    frames = frames_like(3)
    path = writer.write(tmp_path, frames, "U16", scan=(1, 3))
    os.truncate(path, cut)
    with pytest.raises(CorruptFileError, match=text):
        opened(path)
    if cut < 2432:
        with pytest.raises(CorruptFileError):
            opened(path, allow_truncated=True)
        return
    source = opened(path, allow_truncated=True)
    assert (source.meta.n_frames, source.meta.shape.nav) == (2, (1, 3))
    assert "2 of 3 announced frames are there; the others count as missing" in source.meta.notes
    np.testing.assert_array_equal(read(source, 0, 2)[0], frames[:2])


def test_more_frames_than_announced(tmp_path: Path) -> None:
    path = writer.write(tmp_path, frames_like(5), "U16")
    path.with_suffix(".hdr").write_bytes(writer.hdr(4))
    with pytest.raises(CorruptFileError, match=r"announces 4 frames, .*holds 5\. Do they belong together\?"):
        opened(path)
    assert opened(path, allow_truncated=True).meta.shape.nav == (5,)
    path.with_suffix(".hdr").write_bytes(writer.hdr(0))  # endless recording
    assert opened(path).meta.shape.nav == (5,)


def test_huge_announced_frames_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "huge.mib"
    path.write_bytes(writer.frame_header(1, (9999, 9999), "U64") + bytes(1000))
    with pytest.raises(CorruptFileError, match=r"9999 x 9999 .* takes 799840392 bytes, the file has 1384"):
        opened(path)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x89HDF\r\n\x1a\n" * 100, "starts with 'MQ1,'"),
        (writer.frame_header(1, (4, 4), "U08").replace(b"U08", b"F32") + bytes(16), "pixel type 'F32'"),
        (writer.frame_header(1, (4, 4), "U08").replace(b"00384", b"xx384") + bytes(16), "states b'xx384' as its size"),
    ],
)
def test_garbage(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "a.mib"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=text) as caught:
        opened(path)
    assert str(path) in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.integers(0, 3 * 2432 - 1), st.binary(min_size=1, max_size=40))
def test_noise_anywhere_never_fails_otherwise(tmp_path: Path, at: int, noise: bytes) -> None:
    path = writer.write(tmp_path, frames_like(3), "U16")
    damage(path, at, noise)
    for options in ({}, {"allow_truncated": True}, {"whole_set": False}):
        try:
            source = opened(path, **options)
        except FormatError:
            continue
        read(source, 0, source.meta.n_frames)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("code", ["U08", "R64"])
def test_files_that_change_are_noticed(tmp_path: Path, code: str, mapped: bool) -> None:
    frames = frames_like(4, code)
    path = writer.write(tmp_path, frames, code)
    if mapped:
        settle(tmp_path)
    source = opened(path)
    reader = source.opener.open_reader("frames")
    out = np.empty_like(frames)
    reader.read_into(out, Span(0, 4), Region.whole(frames.shape[1:]))
    os.truncate(path, 500)
    for use in (reader.check, lambda: reader.read_into(out, Span(0, 4), Region.whole(frames.shape[1:]))):
        with pytest.raises(SourceChangedError, match=r"scan\.mib"):
            use()
    reader.close()
    with pytest.raises(SourceChangedError):
        source.opener.open_reader("frames")


@pytest.mark.parametrize("bad", [Region((0, 1), (4, 255)), Region((3, 0), (2, 256)), Region((0, 0), (4, 100))])
def test_regions_that_do_not_exist(tmp_path: Path, bad: Region) -> None:
    reader = opened(writer.write(tmp_path, frames_like(2), "U16")).opener.open_reader("frames")
    with pytest.raises(UsageError):
        reader.read_into(np.empty((1, *bad.shape), np.uint16), Span(0, 1), bad)
    with pytest.raises(UsageError):
        reader.read_into(np.empty((3, 4, 256), np.uint16), Span(0, 3), Region.whole((4, 256)))
    reader.close()
