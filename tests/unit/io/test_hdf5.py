"""HDF5: whatever h5py writes is read as h5py reads it; what cannot be read is refused or reported, never made up."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libstream.ext import FormatError, NotInstalledError, Region, SourceChangedError, Span, UsageError
from libstream.io_backends.files import _h5chunks, _h5open, _h5read
from tests.unit.io.hdf5_files import DTYPES, FILTERS, kind_of, opened, pixels, read


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], int, tuple[int, ...] | None, str, str]:
    nav = draw(st.lists(st.integers(1, 5), max_size=3).map(tuple))
    sig = draw(st.one_of(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 40))))
    shape = (*nav, *sig)
    filters = draw(st.sampled_from(list(FILTERS)))
    chunks = tuple(draw(st.one_of(st.just(n), st.integers(1, n), st.just(1))) for n in shape)
    if filters == "none" and draw(st.booleans()):
        return shape, len(sig), None, draw(st.sampled_from(DTYPES)), filters
    return shape, len(sig), chunks, draw(st.sampled_from(DTYPES)), filters


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(layouts(), st.data())
def test_reads_what_h5py_reads(layout: tuple[Any, ...], data: st.DataObject) -> None:
    shape, sig_dims, chunks, dtype, filters = layout
    array = pixels(shape, dtype, data.draw(st.integers(0, 3)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.h5")
        with h5py.File(path, "w", userblock_size=data.draw(st.sampled_from([0, 512]))) as h5:
            growing = data.draw(st.booleans()) and chunks is not None
            h5.create_dataset("x/data", data=array, chunks=chunks, maxshape=(None,) * len(shape) if growing else None, **FILTERS[filters])
        source = opened(path, dataset="x/data", sig_dims=sig_dims)
        meta = source.meta
        assert (meta.shape.nav, meta.shape.sig) == (shape[:-sig_dims], shape[len(shape) - sig_dims :])
        assert meta.dtype == np.dtype(dtype).newbyteorder("=")
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, meta.n_frames)] * 2)))
        top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, meta.shape.sig[0])] * 2)))
        frames = array.reshape(meta.n_frames, *meta.shape.sig)
        for a, b, rows in ((0, meta.n_frames, slice(0, meta.shape.sig[0])), (start, stop, slice(top, bottom))):
            got, valid = read(source, a, b, rows)
            assert valid.all()
            assert got.tobytes() == frames[a:b, rows].astype(meta.dtype).tobytes()


@pytest.mark.parametrize(
    ("chunks", "filters", "dtype", "kind"),
    [
        (None, "none", "u2", "flat"),
        ((1, 1, 8, 6), "none", "u2", "flat"),
        ((1, 5, 8, 6), "none", ">u2", "flat"),
        ((2, 5, 8, 6), "none", "u2", "flat"),
        ((2, 2, 8, 6), "none", "u2", "whole frames"),
        ((1, 1, 8, 6), "bslz4", "u2", "whole frames"),
        ((2, 3, 8, 6), "bslz4", "u2", "whole frames"),
        ((1, 2, 8, 6), "lz4", "u2", "whole frames"),
        ((1, 1, 4, 6), "bslz4", "u2", "pieces"),
        ((1, 1, 8, 6), "shuffle+gzip", "u2", "pieces"),
        ((1, 1, 8, 6), "blosc", "u2", "library"),
        ((1, 1, 8, 6), "fletcher32", "u2", "library"),
    ],
)
def test_the_quick_ways_are_taken(tmp_path: Path, chunks: Any, filters: str, dtype: str, kind: str) -> None:
    array = pixels((4, 5, 8, 6), dtype)
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5.create_dataset("d", data=array, chunks=chunks, **FILTERS[filters])
    source = opened(tmp_path / "a.h5")
    assert kind_of(source) == kind
    np.testing.assert_array_equal(read(source)[0].reshape(array.shape), array)


def test_contiguous_data_are_mapped(tmp_path: Path) -> None:
    array = pixels((4, 5, 8, 6), "u2")
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["d"] = array
    os.utime(tmp_path / "a.h5", (time.time() - 60,) * 2)  # not being written any more
    reader = opened(tmp_path / "a.h5").opener.open_reader("frames")
    view = reader.view()
    assert view is not None
    np.testing.assert_array_equal(view.reshape(array.shape), array)
    del view
    reader.close()


def test_many_reads_through_one_reader(tmp_path: Path) -> None:
    """Chunks of several frames, kept between reads, in any order."""
    array = pixels((6, 7, 16, 12), "u2")
    for name, chunks, filters in (("a", (2, 3, 16, 12), "bslz4"), ("b", (4, 4, 5, 7), "shuffle+gzip"), ("c", (1, 7, 16, 12), "lz4")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as h5:
            h5.create_dataset("d", data=array, chunks=chunks, **FILTERS[filters])
        reader = opened(tmp_path / f"{name}.h5").opener.open_reader("frames")
        flat = array.reshape(42, 16, 12)
        for a, b in ((0, 4), (4, 8), (38, 42), (2, 30), (41, 42), (0, 42)):
            out = np.empty((b - a, 16, 12), "u2")
            assert reader.read_into(out, Span(a, b), Region.whole((16, 12))) is None or True
            np.testing.assert_array_equal(out, flat[a:b])
        reader.close()


def test_kept_chunks_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_h5read, "_KEEP_BYTES", 3000)
    array = pixels((40, 8, 8), "u2")
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5.create_dataset("d", data=array, chunks=(8, 8, 4), compression="gzip")
    reader = opened(tmp_path / "a.h5").opener.open_reader("frames")
    out = np.empty((40, 8, 8), "u2")
    reader.read_into(out, Span(0, 40), Region.whole((8, 8)))
    part: Any = reader._part(0)
    assert 0 < sum(b.nbytes for b in part._kept.values()) == part._kept_bytes <= 3000
    np.testing.assert_array_equal(out, array)
    reader.close()


def test_chunks_without_their_filter(tmp_path: Path) -> None:
    """HDF5 may leave a filter out for a chunk, and says so in the chunk's mask."""
    array = pixels((6, 8, 8), "u2")
    for filters in ("bslz4", "gzip", "shuffle+gzip"):
        path = tmp_path / f"{filters}.h5"
        with h5py.File(path, "w") as h5:
            d = h5.create_dataset("d", data=array, chunks=(1, 8, 8), **FILTERS[filters])
            every = (1 << len(d._filters)) - 1
            for i in (1, 4):
                d.id.write_direct_chunk((i, 0, 0), array[i].tobytes(), filter_mask=every)
        with h5py.File(path) as h5:
            np.testing.assert_array_equal(h5["d"][()], array)
        got, valid = read(opened(path))
        assert valid.all()
        np.testing.assert_array_equal(got, array)


def test_wrong_calls(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5.create_dataset("d", data=pixels((6, 8, 8), "u2"), chunks=(1, 8, 8), compression="gzip")
    reader = opened(tmp_path / "a.h5").opener.open_reader("frames")
    whole = Region.whole((8, 8))
    for out, span, region in [
        (np.empty((3, 8, 8), "u2"), Span(4, 7), whole),
        (np.empty((3, 8, 8), "u4"), Span(0, 3), whole),
        (np.empty((2, 8, 8), "u2"), Span(0, 3), whole),
        (np.empty((3, 8, 4), "u2"), Span(0, 3), Region((0, 0), (8, 4))),
        (np.empty((3, 8, 16), "u2")[..., ::2], Span(0, 3), whole),
    ]:
        with pytest.raises(UsageError):
            reader.read_into(out, span, region)
    reader.close()
    with pytest.raises(UsageError, match="is closed"):
        reader.read_into(np.empty((1, 8, 8), "u2"), Span(0, 1), whole)
    with pytest.raises(UsageError, match="sig_dims"):
        opened(tmp_path / "a.h5", sig_dims=3)


# -- other ways of storing ---------------------------------------------------------------------------------------------


def test_virtual_and_external_datasets(tmp_path: Path) -> None:
    array = pixels((4, 8, 8), "u2")
    (tmp_path / "raw.bin").write_bytes(b"head" + array.tobytes())
    for i in range(2):
        with h5py.File(tmp_path / f"part{i}.h5", "w") as h5:
            h5.create_dataset("d", data=array[2 * i : 2 * i + 2], chunks=(1, 8, 8), compression="gzip")
    layout = h5py.VirtualLayout((4, 8, 8), "u2")
    for i in range(2):
        layout[2 * i : 2 * i + 2] = h5py.VirtualSource(f"part{i}.h5", "d", (2, 8, 8))
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5.create_virtual_dataset("virtual", layout)
        h5.create_dataset("external", (4, 8, 8), "u2", external=[(str(tmp_path / "raw.bin"), 4, array.nbytes)])
        h5["linked"] = h5py.ExternalLink("part1.h5", "d")
    for name in ("virtual", "external"):
        source = opened(tmp_path / "a.h5", dataset=name)
        got, valid = read(source)
        assert valid.all()
        np.testing.assert_array_equal(got, array)
    np.testing.assert_array_equal(read(opened(tmp_path / "a.h5", dataset="linked"))[0], array[2:])
    source = opened(tmp_path / "a.h5", dataset="virtual")
    assert kind_of(source) == "pieces"  # of the sources, past HDF5
    assert source.meta.id.n_bytes == sum((tmp_path / n).stat().st_size for n in ("a.h5", "part0.h5", "part1.h5"))
    reader = source.opener.open_reader("frames")
    out = np.empty((1, 8, 8), "u2")
    reader.read_into(out, Span(0, 1), Region.whole((8, 8)))
    os.unlink(tmp_path / "part1.h5")
    with pytest.raises(SourceChangedError, match=r"part1\.h5"):
        reader.read_into(out, Span(2, 3), Region.whole((8, 8)))
    reader.close()
    with pytest.raises(FormatError, match=r"keeps its data in part1\.h5, but there is no .*Copy that file"):
        opened(tmp_path / "a.h5", dataset="virtual")
    with pytest.raises(FormatError, match=r"linked points to d in part1\.h5, which cannot be opened"):
        opened(tmp_path / "a.h5", dataset="linked")


def test_virtual_datasets_that_are_more_than_a_row_of_others(tmp_path: Path) -> None:
    """Interleaved, cut, or with holes: HDF5 puts them together."""
    array = pixels((6, 8, 8), "u2")
    with h5py.File(tmp_path / "part.h5", "w") as h5:
        h5["d"] = array
        h5["other"] = array + 1
    source = h5py.VirtualSource(str(tmp_path / "part.h5"), "d", (6, 8, 8))
    other = h5py.VirtualSource(str(tmp_path / "part.h5"), "other", (6, 8, 8))
    layouts = {name: h5py.VirtualLayout((6, 8, 8), "u2") for name in ("part", "hole", "mixed", "bands", "wider")}
    layouts["part"][0:3] = source[3:6]
    layouts["part"][3:6] = source[0:3]
    layouts["hole"][1:6] = source[1:6]
    layouts["mixed"][0::2] = source[0::2]
    layouts["mixed"][1::2] = other[1::2]
    layouts["bands"][:, :4] = source[:, :4]
    layouts["bands"][:, 4:] = other[:, 4:]
    layouts["wider"] = h5py.VirtualLayout((6, 8, 8), "u4")
    layouts["wider"][...] = source
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        for name, layout in layouts.items():
            h5.create_virtual_dataset(name, layout, fillvalue=5)
    with h5py.File(tmp_path / "a.h5") as h5:
        expected = {name: h5[name][()] for name in layouts}
    for name, frames in expected.items():
        source = opened(tmp_path / "a.h5", dataset=name)
        assert kind_of(source) == "library", name
        np.testing.assert_array_equal(read(source)[0], frames)


def test_odd_number_types(tmp_path: Path) -> None:
    """12 bits in 16, and an enumeration: HDF5's own business, except that stored enumerations are plain integers."""
    array = np.arange(64, dtype="u2").reshape(4, 4, 4)
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        twelve = h5py.h5t.NATIVE_UINT16.copy()
        twelve.set_precision(12)
        twelve.set_offset(4)
        space = h5py.h5s.create_simple((4, 4, 4))
        dset = h5py.Dataset(h5py.h5d.create(h5.id, b"twelve", twelve, space))
        dset.write_direct(array)
        h5.create_dataset("enum", data=array.astype("u1"), dtype=h5py.enum_dtype({"A": 1, "B": 2}, "u1"))
    for name in ("twelve", "enum"):
        source = opened(tmp_path / "a.h5", dataset=name)
        np.testing.assert_array_equal(read(source)[0], array)
        assert source.meta.dtype.metadata is None
        assert kind_of(source) == ("library" if name == "twelve" else "flat")


def test_compact_and_unwritten_contiguous(tmp_path: Path) -> None:
    array = np.arange(64, dtype="u2").reshape(4, 4, 4)
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        dset = h5py.Dataset(h5py.h5d.create(h5.id, b"compact", h5py.h5t.NATIVE_UINT16, h5py.h5s.create_simple((4, 4, 4)), plist))
        dset.write_direct(array)
        h5.create_dataset("never", (4, 4, 4), "u2", fillvalue=5)
    np.testing.assert_array_equal(read(opened(tmp_path / "a.h5", dataset="compact"))[0], array)
    assert (read(opened(tmp_path / "a.h5", dataset="never"))[0] == 5).all()


def test_missing_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        for name in ("blosc", "bslz4", "bszstd"):
            h5.create_dataset(name, data=pixels((3, 8, 8), "u2"), chunks=(1, 8, 8), **FILTERS[name])
    monkeypatch.setattr(_h5open, "_available", lambda number: number < 32000)
    with pytest.raises(NotInstalledError, match=r"compressed with blosc \(HDF5 filter 32001\).*pip install libstream\[formats\]"):
        opened(tmp_path / "a.h5", dataset="blosc")
    with pytest.raises(NotInstalledError, match="bitshuffle"):
        opened(tmp_path / "a.h5", dataset="bszstd")
    assert read(opened(tmp_path / "a.h5", dataset="bslz4"))[1].all()  # needs nothing


def test_a_file_open_for_writing(tmp_path: Path) -> None:
    """Refused with a reason, unless the writer allows readers (SWMR)."""
    path = tmp_path / "a.h5"
    write = f"""
import h5py, sys
h5 = h5py.File({str(path)!r}, "w", libver="latest")
d = h5.create_dataset("d", (3, 8, 8), "u2", chunks=(1, 8, 8), maxshape=(None, 8, 8), compression="gzip")
d[...] = 7
if sys.argv[1] == "swmr":
    h5.swmr_mode = True
h5.flush()
print("ready", flush=True)
sys.stdin.read()
h5.close()
"""
    for mode in ("plain", "swmr"):
        child = subprocess.Popen([sys.executable, "-c", write, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            if mode == "plain":
                with pytest.raises(FormatError, match=r"a\.h5: is open for writing.*Close it there"):
                    opened(path)
            else:
                source = opened(path)
                got, valid = read(source)
                assert valid.all()
                assert (got == 7).all()
                assert any("being written" in n for n in source.meta.notes)
        finally:
            child.communicate("")


def test_tables_of_chunks_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as h5:
            h5.create_dataset("d", data=pixels((6, 8, 8), "u2"), chunks=(1, 8, 8), compression="gzip")
    made: list[str] = []
    real = _h5chunks._read_table
    monkeypatch.setattr(_h5chunks, "_read_table", lambda d: (made.append(d.where), real(d))[1])
    sources = [opened(tmp_path / f"{name}.h5") for name in ("a", "b")]
    for _ in range(2):
        for source in sources:
            read(source)
    assert len(made) == 2
    monkeypatch.setattr(_h5chunks, "_INDEX_BYTES", 0)
    os.utime(tmp_path / "a.h5", (1, 1))
    read(opened(tmp_path / "a.h5"))  # another file now
    assert len(made) == 3
    assert len(_h5chunks._tables) == 1
