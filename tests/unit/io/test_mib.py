"""Merlin .mib files, written by `tests.writers.mib`, which shares nothing with the reader."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libstream.ext import CorruptFileError, Region, Span
from libstream.io_backends.files.mib import MibFormat
from libstream.testing.formats import FormatTests
from tests.realdata import frames_of
from tests.unit.io.mib_files import frames_like, opened, read, settle
from tests.writers import mib as writer

_Arr = np.ndarray[Any, Any]

VARIANTS = [(code, 12, "1x1") for code in writer.DTYPES] + [("R64", d, chips) for d in (1, 6, 12, 24) for chips in ("1x1", "2x2", "2x2G")]


SIZES = [("U16", "1x1", 400), ("R64", "2x2", 1024), ("R64", "1x1", 389), ("U32", "1x1", 385), ("U08", "1x1", 500)]
PARTS = [("U08", 12, "1x1"), ("U16", 12, "1x1"), ("R64", 12, "2x2"), ("R64", 1, "2x2G"), ("R64", 24, "1x1")]


class TestIntegers(FormatTests):
    format = MibFormat
    dtypes = ("uint8", "uint16", "uint32", "uint64")
    maps = True

    def write_file(self, folder: Path, array: Any) -> tuple[str, dict[str, Any]]:
        code = {1: "U08", 2: "U16", 4: "U32", 8: "U64"}[array.dtype.itemsize]
        scan, frames = array.shape[:2], array.reshape(-1, *array.shape[2:])
        return str(writer.write(folder, frames, code, per_trigger=scan[1])), {}


class TestRaw(FormatTests):
    format = MibFormat
    shape = (2, 3, 16, 512)
    dtypes = ("uint16", "uint32")

    def write_file(self, folder: Path, array: Any) -> tuple[str, dict[str, Any]]:
        frames = array.reshape(-1, *array.shape[2:])
        return str(writer.write(folder, frames, "R64", {2: 12, 4: 24}[array.dtype.itemsize], "2x2", scan=array.shape[:2])), {}


# -- what is in the files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize(("code", "depth", "layout"), VARIANTS)
def test_every_variant(tmp_path: Path, code: str, depth: int, layout: str, mapped: bool) -> None:
    frames = frames_like(6, code, depth, layout)
    path = writer.write(tmp_path, frames, code, depth, layout, per_trigger=3)
    if mapped:
        settle(tmp_path)
    for name in (path, path.with_suffix(".hdr")):
        source = opened(name)
        assert source.meta.shape.nav == (2, 3)
        assert source.meta.dtype == frames.dtype
        np.testing.assert_array_equal(frames_of(source), frames.reshape(2, 3, *frames.shape[1:]))


@pytest.mark.parametrize(("code", "layout", "size"), SIZES)
@pytest.mark.parametrize("mapped", [True, False])
def test_header_size_is_the_one_that_frames_state(tmp_path: Path, code: str, layout: str, size: int, mapped: bool) -> None:
    frames = frames_like(5, code, 12, layout)
    path = writer.write(tmp_path, frames, code, 12, layout, header={"size": size})
    if mapped:
        settle(tmp_path)
    np.testing.assert_array_equal(frames_of(opened(path)), frames)


@pytest.mark.parametrize(("rows", "layout"), [(64, "1x1"), (1, "1x1"), (64, "2x2")])
def test_region_of_interest_of_the_detector(tmp_path: Path, rows: int, layout: str) -> None:
    frames = frames_like(3, "R64", 12, layout, rows)
    source = opened(writer.write(tmp_path, frames, "R64", 12, layout))
    assert source.meta.shape.sig == (rows * (2 if layout == "2x2" else 1), frames.shape[2])
    np.testing.assert_array_equal(frames_of(source), frames)


def test_integers_of_other_assemblies_are_as_stored(tmp_path: Path) -> None:
    frames = np.arange(2 * 4 * 1024, dtype=np.uint16).reshape(2, 4, 1024)
    path = tmp_path / "row.mib"
    path.write_bytes(
        b"".join(writer.frame_header(i + 1, (4, 1024), "U16", 12, "4x1") + writer.encode(f, "U16") for i, f in enumerate(frames))
    )
    np.testing.assert_array_equal(frames_of(opened(path)), frames)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PARTS), st.data())
def test_any_part_of_any_cut_into_files(
    tmp_path_factory: pytest.TempPathFactory, variant: tuple[str, int, str], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("mib")
    n = data.draw(st.integers(1, 7))
    frames = frames_like(n, *variant)
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=3))) if n > 1 else []
    paths = writer.write_set(folder, frames, variant[0], cuts, *variant[1:], restart=data.draw(st.booleans()))
    if data.draw(st.booleans()):
        settle(folder)
    source = opened(data.draw(st.sampled_from([*paths, folder / "scan.hdr"])))
    assert source.meta.n_frames == n
    a = data.draw(st.integers(0, n))
    b = data.draw(st.integers(a, n))
    top = data.draw(st.integers(0, frames.shape[1]))
    bottom = data.draw(st.integers(top, frames.shape[1]))
    out, valid = read(source, a, b, slice(top, bottom))
    assert valid is None
    np.testing.assert_array_equal(out, frames[a:b, top:bottom])


def test_bytes_are_not_copied(tmp_path: Path) -> None:
    frames = frames_like(5, "U08")
    path = writer.write(tmp_path, frames, "U08")
    settle(tmp_path)
    reader = opened(path).opener.open_reader("frames")
    view = reader.view()
    assert view is not None
    assert view.strides == (384 + 4 * 256, 256, 1)
    assert not view.flags.writeable
    assert reader.view().ctypes.data == view.ctypes.data
    np.testing.assert_array_equal(view, frames)
    assert reader.valid(Span(0, 5)) is None
    reader.check()
    del view
    reader.close()


@pytest.mark.parametrize("code", ["U16", "R64"])
def test_what_has_to_be_decoded_has_no_view(tmp_path: Path, code: str) -> None:
    path = writer.write(tmp_path, frames_like(2, code), code)
    settle(tmp_path)
    reader = opened(path).opener.open_reader("frames")
    assert reader.view() is None
    reader.close()


def test_vendor_metadata(tmp_path: Path) -> None:
    vendor = opened(writer.write(tmp_path, frames_like(2), "U16")).meta.vendor
    assert vendor["hdr"]["Sensor Bias (V)"] == "120 V"
    assert vendor["frame"]["exposure_s"] == 0.001
    assert vendor["frame"]["thresholds_kev"][:2] == [12.0, 511.0]
    assert vendor["frame"]["gain"] == "HGM"
    assert vendor["frame"]["timestamp_utc"] == "2020-05-18T14:51:00.001000000Z"
    assert len(vendor["frame"]["dacs"][0]) == 27
    assert vendor["files"] == ["scan.mib"]


def test_opener_travels(tmp_path: Path) -> None:
    frames = frames_like(2, "R64", 6, "2x2")
    source = opened(writer.write(tmp_path, frames, "R64", 6, "2x2"))
    reader = pickle.loads(pickle.dumps(source.opener)).open_reader("frames")
    out = np.empty_like(frames)
    assert reader.read_into(out, Span(0, 2), Region.whole(frames.shape[1:])) is None
    np.testing.assert_array_equal(out, frames)
    reader.close()


# -- the scan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "header", "nav", "note"),
    [
        (12, {"per_trigger": 4}, (3, 4), ""),
        (12, {"per_trigger": 4, "scan": (2, 6)}, (2, 6), ""),
        (12, {"per_trigger": 4, "scan": (5, 5)}, (12,), "a scan of 5 x 5, which is not the number of frames (12)"),
        (12, {"per_trigger": 5}, (12,), "12 frames: pass scan=(3, 4)"),
        (12, {"per_trigger": 1}, (12,), "12 frames: pass scan=(3, 4)"),
        (12, {"per_trigger": 12}, (12,), "12 frames: pass scan=(3, 4)"),
        (7, {}, (7,), "7 frames: pass scan=(y, x)"),
        (2, {}, (2,), ""),
        (1, {}, (), ""),
        (1, {"scan": (1, 1)}, (1, 1), ""),
    ],
)
def test_shape_of_the_scan(tmp_path: Path, n: int, header: dict[str, Any], nav: tuple[int, ...], note: str) -> None:
    meta = opened(writer.write(tmp_path, frames_like(n), "U16", **header)).meta
    assert meta.shape.nav == nav
    assert (any(note in text for text in meta.notes)) if note else not meta.notes


def test_without_hdr(tmp_path: Path) -> None:
    frames = frames_like(8, "R64", 6)
    path = writer.write(tmp_path, frames, "R64", 6, per_trigger=4)
    path.with_suffix(".hdr").unlink()
    source = opened(path)
    assert source.meta.shape.nav == (8,)
    assert any("no .hdr file" in note for note in source.meta.notes)
    assert "8 frames: pass scan=(2, 4) if they are a scan" in source.meta.notes
    np.testing.assert_array_equal(frames_of(source), frames)


def test_hdr_of_another_kind_beside_the_file(tmp_path: Path) -> None:
    path = writer.write(tmp_path, frames_like(2), "U16")
    path.with_suffix(".hdr").write_bytes(b"ENVI\ndescription = {}\n")
    meta = opened(path).meta
    assert "scan.hdr is no header of Merlin and was left out" in meta.notes
    with pytest.raises(CorruptFileError, match=r"scan\.hdr: expected an acquisition header of Merlin"):
        opened(path.with_suffix(".hdr"))


@pytest.mark.parametrize("depth", [1, 6, 12, 24])
@pytest.mark.parametrize("n", [1, 3])
def test_counter_depth_that_frames_do_not_state(tmp_path: Path, depth: int, n: int) -> None:
    frames = frames_like(n, "R64", depth, "2x2")
    path = writer.write(tmp_path, frames, "R64", depth, "2x2", header={"extension": False})
    expected = frames[0] if n == 1 else frames
    np.testing.assert_array_equal(frames_of(opened(path)), expected)
    path.with_suffix(".hdr").unlink()
    np.testing.assert_array_equal(frames_of(opened(path)), expected)
    if n == 1:
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CorruptFileError, match="does not state the counter depth, and no second frame"):
            opened(path)


def test_depth_that_contradicts_the_hdr(tmp_path: Path) -> None:
    frames = frames_like(2, "R64", 6)
    path = writer.write(tmp_path, frames, "R64", 6)
    path.with_suffix(".hdr").write_bytes(writer.hdr(2, 12))
    source = opened(path)
    assert any("6 bit by the frames and 12 by" in note for note in source.meta.notes)
    np.testing.assert_array_equal(frames_of(source), frames)


def test_probe() -> None:
    fmt = MibFormat()
    assert fmt.probe(b"MQ1,000001", "a.mib") == 1.0
    assert fmt.probe(b"HDR,\t\r\n", "a.hdr") == 1.0
    assert 0 < fmt.probe(b"garbage", "A.MIB") < 0.5
    assert fmt.probe(b"ENVI", "a.hdr") == 0.0
    assert fmt.probe(b"", "") == 0.0
