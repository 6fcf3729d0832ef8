"""DECTRIS masters: one source over all data files, masks, thresholds; what is missing is named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import libstream as ls
from libstream.ext import CorruptFileError, FormatError, Region, SourceChangedError, Span, UsageError
from libstream.io_backends.files._fixed import FixedLayout
from libstream.io_backends.files.dectris import DectrisFormat, DectrisOptions

hdf5plugin = pytest.importorskip("hdf5plugin")
BSLZ4 = dict(hdf5plugin.Bitshuffle())


def frames(n: int, shape: tuple[int, ...] = (12, 10), dtype: str = "u4", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(0.7, (n, *shape)).astype(dtype)


def write_details(h5: h5py.File, mask: np.ndarray | None, images: int, triggers: int) -> None:
    detector = h5.create_group("entry/instrument/detector")
    detector["description"] = np.bytes_(b"Dectris TEST")
    detector["frame_time"] = 1e-4
    detector["frame_time"].attrs["units"] = np.bytes_(b"s")
    detector["pixel_mask_applied"] = 1
    detector["detectorSpecific/nimages"] = np.uint64(images)
    detector["detectorSpecific/ntrigger"] = np.uint64(triggers)
    if mask is not None:
        detector["detectorSpecific/pixel_mask"] = mask.astype("u4")


def write_legacy(
    folder: Path, array: np.ndarray, per_file: list[int], *, chunk: int = 1, mask: np.ndarray | None = None, stem: str = "series_1",
    images: int | None = None, **filters: Any
) -> Path:  # fmt: skip
    """As the FileWriter's legacy format, by h5py alone."""
    master = folder / f"{stem}_master.h5"
    with h5py.File(master, "w") as h5:
        h5.create_group("entry/data").attrs["NX_class"] = "NXdata"
        write_details(h5, mask, len(array) if images is None else images, 1)
        first = 0
        for i, n in enumerate(per_file, 1):
            name = f"{stem}_data_{i:06d}.h5"
            h5[f"entry/data/data_{i:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
            with h5py.File(folder / name, "w") as part:
                d = part.create_dataset(
                    "entry/data/data", data=array[first : first + n], chunks=(min(chunk, n), *array.shape[1:]), **filters
                )
                d.attrs["image_nr_low"], d.attrs["image_nr_high"] = first + 1, first + n
            first += n
    return master


def write_v2024(folder: Path, array: np.ndarray, per_file: list[int], masks: dict[str, np.ndarray], *, stem: str = "s") -> Path:
    """As the format v2024.2: (n, channels, y, x) in one virtual dataset, or within the master where per_file is empty."""
    master = folder / f"{stem}_master.h5"
    with h5py.File(master, "w") as h5:
        write_details(h5, None, len(array), 1)
        data = h5.create_group("entry/data")
        data["channel"] = np.array([n.encode() for n in masks])
        for name, mask in masks.items():
            h5[f"entry/instrument/detector/{name}_channel/pixel_mask"] = mask.astype("u4")
        chunks = (1, 1, *array.shape[2:])
        if not per_file:
            data.create_dataset("data", data=array, chunks=chunks, **BSLZ4)
            return master
        layout = h5py.VirtualLayout(array.shape, array.dtype)
        first = 0
        for i, n in enumerate(per_file, 1):
            name = f"{stem}_data_{i:06d}.h5"
            with h5py.File(folder / name, "w") as part:
                part.create_dataset("entry/data/data", data=array[first : first + n], chunks=chunks, **BSLZ4)
            layout[first : first + n] = h5py.VirtualSource(name, "entry/data/data", (n, *array.shape[1:]))
            first += n
        data.create_virtual_dataset("data", layout)
    return master


def opened(path: Path, **options: Any) -> Any:
    return DectrisFormat().open(str(path), DectrisOptions(**options))


def read(source: Any, channel: str | None = None, start: int = 0, stop: int | None = None, rows: slice | None = None) -> np.ndarray:
    meta = source.meta
    stop = meta.n_frames if stop is None else stop
    rows = rows or slice(0, meta.shape.sig[0])
    reader = pickle.loads(pickle.dumps(source.opener)).open_reader(channel or source.channel_name)
    try:
        out = np.full((stop - start, rows.stop - rows.start, meta.shape.sig[1]), 77, meta.dtype)
        valid = reader.read_into(out, Span(start, stop), Region((rows.start, 0), out.shape[1:]))
        reader.check()
        assert valid is None or valid.all()
    finally:
        reader.close()
    return out


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_files_are_one_source(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    per_file = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    array = frames(sum(per_file), dtype=data.draw(st.sampled_from(["u1", "u2", "u4"])))
    filters = data.draw(st.sampled_from([BSLZ4, dict(hdf5plugin.LZ4()), {"compression": "gzip"}, {}]))
    mask = np.random.default_rng(0).random((12, 10)) < data.draw(st.sampled_from([0, 0.2]))
    use = data.draw(st.booleans())
    master = write_legacy(tmp_path_factory.mktemp("d"), array, per_file, chunk=data.draw(st.integers(1, 3)), mask=mask, **filters)
    source = opened(master, use_pixel_mask=use)
    assert source.meta.shape.nav == (len(array),)
    assert source.meta.dtype == array.dtype
    expected = np.where(mask, 0, array) if use else array
    np.testing.assert_array_equal(read(source), expected)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(array))] * 2)))
    top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, 12)] * 2)))
    np.testing.assert_array_equal(read(source, start=start, stop=stop, rows=slice(top, bottom)), expected[start:stop, top:bottom])


def test_details_and_masks(tmp_path: Path) -> None:
    mask = np.zeros((12, 10), "u4")
    mask[3, 4], mask[5] = 1, 8
    array = frames(6)
    array[:, mask != 0] = 2**32 - 1
    master = write_legacy(tmp_path, array, [4, 2], mask=mask, **BSLZ4)
    meta = opened(master).meta
    assert meta.vendor["detector"] == {"description": "Dectris TEST", "frame_time [s]": 1e-4, "pixel_mask_applied": 1}
    np.testing.assert_array_equal(meta.vendor["pixel_mask"], mask)
    np.testing.assert_array_equal(meta.vendor["excluded"], mask != 0)
    assert meta.notes == (
        "11 masked pixels hold 4294967295: use_pixel_mask=True reads them as 0, Corrections(excluded=meta.vendor['excluded']) repairs them",
    )
    source = opened(master, use_pixel_mask=True)
    assert source.meta.notes == ("11 masked pixels are read as 0",)
    assert read(source).max() < 100
    assert opened(write_legacy(tmp_path, array, [6], stem="other", **BSLZ4)).meta.notes == ()


def test_probe_and_open(tmp_path: Path) -> None:
    array = frames(6)
    master = write_legacy(tmp_path, array, [4, 2], **BSLZ4)
    scan = ls.open(master, scan=(2, 3))
    assert scan.meta.id.kind == "dectris"
    np.testing.assert_array_equal(scan[1, 2], array[5])
    assert ls.open(tmp_path / "series_1_data_000001.h5").meta.id.kind == "hdf5"
    os.rename(master, tmp_path / "renamed.h5")
    assert ls.open(tmp_path / "renamed.h5").meta.id.kind == "dectris"
    with h5py.File(tmp_path / "x_master.h5", "w") as h5:
        h5["entry/data/data_000001"] = array
    assert ls.open(tmp_path / "x_master.h5").meta.id.kind == "hdf5"  # no detector in it
    with pytest.raises(FormatError, match="is no DECTRIS master"):
        opened(tmp_path / "x_master.h5")
    probe = DectrisFormat().probe
    assert probe(b"", str(master)) == 0
    assert probe(b"\x89HDF\r\n\x1a\n", str(tmp_path / "gone_master.h5")) == 0


def test_renamed_series(tmp_path: Path) -> None:
    array = frames(6)
    write_legacy(tmp_path, array, [4, 2], **BSLZ4)
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / file.name.replace("series_1", "gold"))
    np.testing.assert_array_equal(read(opened(tmp_path / "gold_master.h5")), array)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    array = frames(9)
    master = write_legacy(tmp_path, array, [4, 3, 2], **BSLZ4)
    second = tmp_path / "series_1_data_000002.h5"
    whole = second.read_bytes()
    second.write_bytes(whole[:-200])
    with pytest.raises(CorruptFileError, match=r"series_1_data_000002\.h5: is truncated"):
        opened(master)
    second.unlink()
    with pytest.raises(FormatError, match=r"the data file series_1_data_000002\.h5 is missing .*allow_truncated=True"):
        opened(master)
    source = opened(master, allow_truncated=True)
    np.testing.assert_array_equal(read(source), array[:4])
    assert any("incomplete" in n and "000002" in n for n in source.meta.notes)
    assert any("announces 1 x 9 images, the data files hold 4" in n for n in source.meta.notes)
    with h5py.File(second, "w") as h5:
        h5["other"] = 1
    with pytest.raises(CorruptFileError, match=r"000002\.h5: has no dataset /entry/data/data"):
        opened(master)
    second.write_bytes((tmp_path / "series_1_data_000003.h5").read_bytes())
    with pytest.raises(CorruptFileError, match=r"000002\.h5:/entry/data/data begins with image 8, expected 5"):
        opened(master)
    with h5py.File(second, "w") as h5:
        h5["entry/data/data"] = frames(3, dtype="u2")
    with pytest.raises(FormatError, match=r"000002\.h5.* has frames \(12, 10\) uint16, those of .* are \(12, 10\) uint32"):
        opened(master)
    with h5py.File(second, "w") as h5:
        h5["entry/data/data"] = frames(1)[0]
    with pytest.raises(FormatError, match=r"has shape \(12, 10\), expected \(frames, y, x\)"):
        opened(master)


def test_a_series_stopped_early(tmp_path: Path) -> None:
    array = frames(3)
    meta = opened(write_legacy(tmp_path, array, [3], images=10, **BSLZ4)).meta
    assert meta.n_frames == 3
    assert any("announces 1 x 10 images, the data files hold 3: the series was stopped early" in n for n in meta.notes)
    with h5py.File(tmp_path / "e_master.h5", "w") as h5:
        h5.create_group("entry/data")
        write_details(h5, None, 1, 1)
        h5["entry/data/data_000001"] = h5py.SoftLink("/nowhere")
    with pytest.raises(FormatError):
        opened(tmp_path / "e_master.h5")


def test_changes_after_opening(tmp_path: Path) -> None:
    master = write_legacy(tmp_path, frames(9), [4, 5], **BSLZ4)
    reader = opened(master, use_pixel_mask=True).opener.open_reader("frames")
    os.truncate(tmp_path / "series_1_data_000002.h5", 3000)
    with pytest.raises(SourceChangedError, match=r"000002\.h5: was shortened"):
        reader.read_into(np.empty((9, 12, 10), "u4"), Span(0, 9), Region.whole((12, 10)))
    reader.close()


def test_uncompressed_series_can_be_mapped(tmp_path: Path) -> None:
    array = frames(9)
    source = opened(write_legacy(tmp_path, array, [4, 5]))
    assert isinstance(source.opener.channels[0][1], FixedLayout)
    np.testing.assert_array_equal(read(source), array)


@pytest.mark.parametrize("per_file", [[], [3, 2], [5]])
def test_thresholds_are_channels(tmp_path: Path, per_file: list[int]) -> None:
    array = frames(5 * 3, dtype="u2").reshape(5, 3, 12, 10)
    masks = {n: np.eye(12, 10) * i for i, n in enumerate(("threshold_1", "threshold_2", "difference"))}
    master = write_v2024(tmp_path, array, per_file, masks)
    source = opened(master, use_pixel_mask=True)
    assert source.meta.channels == tuple(masks)
    assert source.meta.shape.nav == (5,)
    for i, name in enumerate(masks):
        expected = np.where(masks[name] > 0, 0, array[:, i])
        np.testing.assert_array_equal(read(source, name), expected)
        np.testing.assert_array_equal(read(source, name, 1, 4, slice(2, 7)), expected[1:4, 2:7])
        np.testing.assert_array_equal(source.channel_meta(name).vendor["pixel_mask"], masks[name])
    scan = ls.open(master)
    np.testing.assert_array_equal(scan.channel("difference")[3], array[3, 2])
    with pytest.raises(UsageError, match=r"no channel 'x'; there are 'threshold_1'"):
        source.opener.open_reader("x")
    assert source.opener.channels[0][1].every == (0, 3)  # past HDF5, though the dataset is a virtual one


def test_thresholds_with_a_missing_file(tmp_path: Path) -> None:
    array = frames(5 * 2, dtype="u2").reshape(5, 2, 12, 10)
    master = write_v2024(tmp_path, array, [3, 2], {"a": np.zeros((12, 10)), "b": np.zeros((12, 10))})
    (tmp_path / "s_data_000002.h5").unlink()
    with pytest.raises(FormatError, match=r"the data file s_data_000002\.h5 is missing"):
        opened(master)
    np.testing.assert_array_equal(read(opened(master, allow_truncated=True), "b"), array[:3, 1])
    with h5py.File(tmp_path / "s_data_000002.h5", "w") as h5:
        h5["entry/data/data"] = array[:1]
    with pytest.raises(CorruptFileError, match=r"has shape \(1, 2, 12, 10\), expected \(2, 2, 12, 10\)"):
        opened(master)


def test_thresholds_that_hdf5_has_to_read(tmp_path: Path) -> None:
    array = frames(4 * 2, dtype="u2").reshape(4, 2, 12, 10)
    with h5py.File(tmp_path / "f_master.h5", "w") as h5:
        write_details(h5, None, 4, 1)
        h5.create_dataset("entry/data/data", data=array, chunks=(1, 2, 12, 10), fletcher32=True)
    source = opened(tmp_path / "f_master.h5")
    assert source.meta.channels == ("threshold_1", "threshold_2")
    np.testing.assert_array_equal(read(source, "threshold_2"), array[:, 1])
    np.testing.assert_array_equal(read(source, "threshold_1", 1, 3, slice(2, 5)), array[1:3, 0, 2:5])
