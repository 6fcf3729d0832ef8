"""Merlin scans in several files, and files of two counters."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from libstream.ext import CorruptFileError, FormatError, SourceChangedError, UsageError
from tests.realdata import frames_of
from tests.unit.io.mib_files import frames_like, opened, read, settle
from tests.writers import mib as writer

# -- several files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [True, False])
def test_twelve_files_in_the_order_of_their_numbers(tmp_path: Path, restart: bool) -> None:
    frames = frames_like(24)
    paths = writer.write_set(tmp_path, frames, "U16", range(2, 24, 2), restart=restart, per_trigger=6)
    assert len(paths) == 12
    for path in (tmp_path / "scan.hdr", paths[0], paths[10]):
        source = opened(path)
        assert source.meta.shape.nav == (4, 6)
        assert any("12 files: scan1.mib, scan2.mib, scan3.mib, ..." in note for note in source.meta.notes)
        np.testing.assert_array_equal(frames_of(source).reshape(frames.shape), frames)


def test_first_file_without_a_number(tmp_path: Path) -> None:
    frames = frames_like(6)
    paths = writer.write_set(tmp_path, frames, "U16", [2, 4])
    (tmp_path / "scan1.mib").rename(tmp_path / "scan.mib")
    for name in ("scan.mib", "scan2.mib", "scan.hdr"):
        np.testing.assert_array_equal(frames_of(opened(tmp_path / name)), frames)
    assert len(paths) == 3


def test_files_without_hdr_belong_together_where_frame_numbers_follow_on(tmp_path: Path) -> None:
    frames = frames_like(6)
    writer.write_set(tmp_path, frames, "U16", [2, 4])
    (tmp_path / "scan.hdr").unlink()
    for name in ("scan1.mib", "scan2.mib", "scan3.mib"):
        np.testing.assert_array_equal(frames_of(opened(tmp_path / name)), frames)
    np.testing.assert_array_equal(frames_of(opened(tmp_path / "scan2.mib", whole_set=False)), frames[2:4])


def test_separate_images_are_not_joined(tmp_path: Path) -> None:
    frames = frames_like(3)
    writer.write_set(tmp_path, frames, "U16", [1, 2], restart=True)
    (tmp_path / "scan.hdr").unlink()
    np.testing.assert_array_equal(frames_of(opened(tmp_path / "scan2.mib")), frames[1])


def test_scans_with_headers_of_their_own_are_left_out(tmp_path: Path) -> None:
    frames = frames_like(4)
    writer.write(tmp_path, frames, "U16", name="scan")
    writer.write(tmp_path, frames[::-1], "U16", name="scan2")
    (tmp_path / "scan3.mib").write_bytes(b"something else")
    np.testing.assert_array_equal(frames_of(opened(tmp_path / "scan.mib")), frames)
    np.testing.assert_array_equal(frames_of(opened(tmp_path / "scan2.mib")), frames[::-1])


def test_a_numbered_scan_beside_a_set(tmp_path: Path) -> None:
    frames = frames_like(4)
    writer.write_set(tmp_path, frames, "U16", [2])
    writer.write(tmp_path, frames[:3], "U16", name="scan3")
    assert opened(tmp_path / "scan.hdr").meta.vendor["files"] == ["scan1.mib", "scan2.mib"]
    assert opened(tmp_path / "scan3.mib").meta.vendor["files"] == ["scan3.mib"]


def test_a_complete_file_beside_a_numbered_one(tmp_path: Path) -> None:
    frames = frames_like(4)
    writer.write(tmp_path, frames, "U16", name="scan")
    (tmp_path / "scan_7.mib").write_bytes(b"".join(writer.records(frames[:2], "U16")))
    assert opened(tmp_path / "scan.hdr").meta.vendor["files"] == ["scan.mib"]
    source = opened(tmp_path / "scan_7.mib")
    assert any("opened without it" in note for note in source.meta.notes)
    np.testing.assert_array_equal(frames_of(source), frames[:2])


def test_names_in_another_order_than_frames(tmp_path: Path) -> None:
    frames = frames_like(6)
    paths = writer.write_set(tmp_path, frames, "U16", [2, 4])
    paths[0].rename(tmp_path / "scan9.mib")
    source = opened(tmp_path / "scan.hdr")
    assert any("in the order of their frame numbers" in note for note in source.meta.notes)
    np.testing.assert_array_equal(frames_of(source), frames)


def test_missing_file_of_a_set(tmp_path: Path) -> None:
    paths = writer.write_set(tmp_path, frames_like(6), "U16", [2, 4])
    paths[1].unlink()
    with pytest.raises(CorruptFileError, match=r"scan3\.mib: begins with frame number 5, expected 3 after .*scan1\.mib\. Is a file"):
        opened(paths[0])
    paths[2].unlink()
    with pytest.raises(CorruptFileError, match=r"scan\.hdr: announces 6 frames, .*scan1\.mib holds 2\..*allow_truncated=True"):
        opened(paths[0])
    source = opened(paths[0], allow_truncated=True)
    assert (source.meta.n_frames, source.meta.shape.nav) == (2, (6,))
    assert "2 of 6 announced frames are there; the others count as missing" in source.meta.notes


def test_mixed_layouts(tmp_path: Path) -> None:
    paths = writer.write_set(tmp_path, frames_like(4), "U16", [2])
    paths[1].write_bytes(b"".join(writer.records(frames_like(2, "U08"), "U08", first=3)))
    with pytest.raises(FormatError, match=r"scan2\.mib: its frames are U08 .* those of .*scan1\.mib U16 .*whole_set=False"):
        opened(paths[0])
    assert opened(paths[1], whole_set=False).meta.dtype == np.uint8


def test_no_such_file(tmp_path: Path) -> None:
    for name in ("no.mib", "no/no.hdr"):
        with pytest.raises(FormatError, match="cannot be opened"):
            opened(tmp_path / name)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("how", ["shorten", "delete", "write"])
def test_each_file_is_checked_when_it_is_read(tmp_path: Path, how: str, mapped: bool) -> None:
    frames = frames_like(6)
    paths = writer.write_set(tmp_path, frames, "U16", [2, 4])
    if mapped:
        settle(tmp_path)
    source = opened(paths[0])
    if how == "shorten":
        os.truncate(paths[1], 3000)
    elif how == "delete":
        paths[1].unlink()
    else:
        paths[1].write_bytes(paths[1].read_bytes())
        os.utime(paths[1], ns=(1, 1))
    np.testing.assert_array_equal(read(source, 0, 2)[0], frames[:2])
    with pytest.raises(SourceChangedError, match=r"scan2\.mib"):
        read(source, 1, 5)


def test_missing_companion(tmp_path: Path) -> None:
    path = writer.write(tmp_path, frames_like(2), "U16")
    path.unlink()
    with pytest.raises(FormatError, match=r"scan\.hdr: the frames that belong to this header are missing: expected scan\.mib"):
        opened(tmp_path / "scan.hdr")


# -- counters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_number", [True, False])
@pytest.mark.parametrize("first_counter", [0, 1])
@pytest.mark.parametrize("mapped", [True, False])
def test_two_images_of_each_exposure_are_two_channels(tmp_path: Path, same_number: bool, first_counter: int, mapped: bool) -> None:
    frames = frames_like(12, "U16")
    path = tmp_path / "both.mib"
    data = b""
    for i, frame in enumerate(frames):
        number = 1 + (i // 2 if same_number else i)
        data += writer.frame_header(number, frame.shape, "U16", counter=(i + first_counter) % 2, exposure=i // 2) + writer.encode(
            frame, "U16"
        )
    path.write_bytes(data)
    path.with_suffix(".hdr").write_bytes(writer.hdr(6, per_trigger=3))
    if mapped:
        settle(tmp_path)
    source = opened(path)
    assert source.meta.channels == ("counter_0", "counter_1")
    assert source.meta.shape.nav == (2, 3)
    for c in (0, 1):
        out, valid = read(source, 0, 6, channel=f"counter_{c}")
        assert valid is None
        np.testing.assert_array_equal(out, frames[c ^ first_counter :: 2])
    with pytest.raises(UsageError, match="no channel 'frames'; there are 'counter_0', 'counter_1'"):
        source.opener.open_reader("frames")
    path.write_bytes(data[: len(data) // 12 * 11])
    with pytest.raises(CorruptFileError, match="holds 11 images of two counters"):
        opened(path)
    assert opened(path, allow_truncated=True).meta.n_frames == 5


def test_two_images_in_no_order(tmp_path: Path) -> None:
    frames = frames_like(6)
    path = tmp_path / "both.mib"
    heads = [writer.frame_header(1 + i, frames[0].shape, "U16", counter=c, exposure=i // 2) for i, c in enumerate((0, 1, 0, 1, 1, 0))]
    path.write_bytes(b"".join(h + writer.encode(f, "U16") for h, f in zip(heads, frames, strict=True)))
    with pytest.raises(FormatError, match="frame 4 is of counter 1, expected 0: they do not alternate"):
        opened(path)


def test_counters_in_turn_of_continuous_recording_are_one_sequence(tmp_path: Path) -> None:
    frames = frames_like(5)
    path = tmp_path / "alternating.mib"
    path.write_bytes(
        b"".join(writer.frame_header(1 + i, f.shape, "U16", counter=i % 2) + writer.encode(f, "U16") for i, f in enumerate(frames))
    )
    path.with_suffix(".hdr").write_bytes(writer.hdr(5, counters="Alternating"))
    source = opened(path)
    assert source.meta.channels == ("frames",)
    np.testing.assert_array_equal(frames_of(source), frames)


def test_colour_mode_is_refused(tmp_path: Path) -> None:
    path = writer.write(tmp_path, frames_like(2), "U16", header={"colour": 1})
    with pytest.raises(FormatError, match=r"recorded in colour mode .* Record in SPM or CSM mode"):
        opened(path)


def test_raw_rows_of_chips_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "row.mib"
    path.write_bytes(writer.frame_header(1, (256, 1024), "R64", 12, "4x1").replace(b"0256,0256", b"1024,0256") + bytes(1024 * 512))
    with pytest.raises(FormatError, match="known for 1x1, 2x2 and 2x2G only, got '4x1'"):
        opened(path)
