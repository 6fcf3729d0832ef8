"""Result files: what is loaded is what was saved, bit for bit; failures leave nothing behind."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from pathlib import Path

import h5py
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libstream.ext import (
    Axis,
    Coverage,
    DataShape,
    FormatError,
    Output,
    Outputs,
    Ragged,
    Result,
    SaveError,
    default_axes,
    nav,
    ragged,
    sig,
    single,
)
from libstream.io_backends.sinks import _aside
from libstream.io_backends.sinks.hdf5 import Hdf5ResultSink

SINK = Hdf5ResultSink()
RECORD = np.dtype({"names": ["y", "hit", "z"], "formats": ["<u2", "?", "<c8"], "offsets": [8, 2, 16], "itemsize": 32})


def coverage(shape: tuple[int, ...]) -> Coverage:
    return Coverage((np.arange(int(np.prod(shape))) % 6).astype(np.uint8).reshape(shape))


def bits(array: np.ndarray) -> bytes:
    """Content without the padding between the fields of a record, which no NumPy operation promises to keep."""
    if array.dtype.names:
        return b"".join(bits(np.ascontiguousarray(array[n])) for n in array.dtype.names)
    if array.dtype.kind in "fc" and array.dtype.itemsize in (16, 32) and array.dtype.char in "gG":
        return repr(array.tolist()).encode()  # long doubles have 6 bytes of padding
    return array.tobytes()


def assert_same_array(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert bits(a) == bits(b)


def assert_same(a: Result, b: Result) -> None:
    """Field by field: arrays by their bits, the rest by ==."""
    assert list(a.udfs) == list(b.udfs)
    for key, ours in a.udfs.items():
        theirs = b.udfs[key]
        assert (ours.key, ours.shape, ours.axes, list(ours)) == (theirs.key, theirs.shape, theirs.axes, list(theirs))
        assert set(ours.declared) == set(theirs.declared)
        for name, output in ours.declared.items():
            other = theirs.declared[name]
            assert {k: v for k, v in vars(output).items() if k not in ("fill", "init")} == {
                k: v for k, v in vars(other).items() if k not in ("fill", "init")
            }
            for field in ("fill", "init"):
                x, y = getattr(output, field), getattr(other, field)
                assert type(x) is type(y)
                assert x is None or bits(np.asarray(x)) == bits(np.asarray(y))
        for name, data in ours.items():
            if isinstance(data, Ragged):
                assert isinstance(theirs[name], Ragged)
                assert data.nav == theirs[name].nav
                assert_same_array(data.offsets, theirs[name].offsets)
                assert_same_array(data.values, theirs[name].values)
            else:
                assert_same_array(np.asarray(data), theirs[name])
    assert_same_array(a.coverage.status, b.coverage.status)
    assert set(a.params) == set(b.params)
    for name, array in a.params.items():
        assert_same_array(np.asarray(array), b.params[name])
    assert (a.generation, a.version, a.final, dict(a.run), dict(a.changed)) == (
        b.generation,
        b.version,
        b.final,
        dict(b.run),
        dict(b.changed),
    )


def example_result(**changes: object) -> Result:
    shape = DataShape((2, 3), (4, 5))
    axes = (Axis("y", 2, 0.4, 1.0, "nm"), Axis("x", 3, 0.4, -1.0, "nm"), Axis("ky", 4, 0.9, 0.0, "mrad"), Axis("kx", 5))
    rng = np.random.default_rng(0)
    adf = Outputs("adf", {"intensity": rng.random((2, 3))}, {"intensity": nav("float64", unit="e", title="ADF signal")}, shape, axes)
    declared: dict[str, Output] = {
        "com": nav("complex64", fill=np.complex64(complex("nan"))),
        "seen": nav(bool, (2,), fill=True, axes=("which",)),
        "sum": sig("uint64", partial_dtype="uint32", init=np.uint64(7)),
        "low": sig("float32", merge="min", init=float("inf")),
        "n": single("int64", title="frames"),
        "peaks": ragged(RECORD, unit="px"),
        "scratch": sig("float32", private=True),
    }
    values = np.zeros(4, RECORD)
    values["y"], values["hit"], values["z"] = np.arange(4), [True, False, True, True], np.arange(4) * 1j
    arrays = {
        "com": (rng.random((2, 3)) + 1j * np.nan).astype("complex64"),
        "seen": rng.random((2, 3, 2)) > 0.5,
        "sum": rng.integers(0, 2**63, (4, 5), dtype=np.uint64),
        "low": rng.random((4, 5), dtype=np.float32),
        "n": np.array(6, np.int64),
        "peaks": Ragged(values, np.array([0, 0, 1, 1, 3, 4, 4]), (2, 3)),
        "extra": np.arange(3),  # from finish(), without a declaration
    }
    other = Outputs("other", arrays, declared, shape, axes)
    fields = {
        "udfs": {"adf": adf, "other": other},
        "coverage": coverage((2, 3)),
        "generation": 3,
        "version": 12,
        "run": {"udfs": {"adf": {"inner": 30.0}}, "µ": "Ångström", "nan": None, "packages": [["numpy", "2"]]},
        "params": {"adf/mask": rng.random((4, 5)), "other/table": np.zeros(0, "<u2")},
        "changed": {("adf", "intensity"): (0, 2)},
    }
    return Result(**{**fields, **changes})  # type: ignore[arg-type]


def test_everything_comes_back(tmp_path: Path) -> None:
    result = example_result()
    SINK.save(result, tmp_path / "a.h5")
    assert_same(result, SINK.load(tmp_path / "a.h5"))
    assert os.listdir(tmp_path) == ["a.h5"]


def test_a_second_generation_of_the_file_is_the_same(tmp_path: Path) -> None:
    SINK.save(example_result(final=False), tmp_path / "a.h5")
    SINK.save(SINK.load(tmp_path / "a.h5"), tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert not SINK.load(tmp_path / "b.h5").final


plain_dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="="),
    hnp.datetime64_dtypes(endianness="="),
    hnp.unicode_string_dtypes(min_len=1, max_len=3, endianness="="),
    hnp.byte_string_dtypes(min_len=1, max_len=3),
)
dtypes = st.one_of(plain_dtypes, hnp.array_dtypes(plain_dtypes, min_size=1, max_size=3), hnp.nested_dtypes(plain_dtypes, max_leaves=4))


@st.composite
def filled(draw: st.DrawFn, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Array of random bits: NaN payloads, negative zeros and subnormals included. Bools and text must be valid ones."""
    if dtype.subdtype is not None:
        return draw(filled(dtype.subdtype[0], (*shape, *dtype.subdtype[1])))
    if dtype.names is not None:
        out = np.zeros(shape, dtype)
        for name in dtype.names:
            out[name] = draw(filled(dtype[name], shape))
        return out
    n = int(np.prod(shape))
    if dtype.kind == "b":
        return np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool).reshape(shape)
    if dtype.kind in "US" or dtype.char in "gG":
        return draw(hnp.arrays(dtype, shape))
    raw = draw(st.binary(min_size=n * dtype.itemsize, max_size=n * dtype.itemsize))
    return np.frombuffer(raw, dtype).reshape(shape).copy() if n else np.zeros(shape, dtype)


@st.composite
def results(draw: st.DrawFn) -> Result:
    nav_shape = draw(st.lists(st.integers(0, 3), max_size=3).map(tuple))
    sig_shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple))
    shape = DataShape(nav_shape, sig_shape)
    names = st.text(min_size=0, max_size=4).filter(lambda s: s.isprintable())
    udfs = {}
    for key in draw(st.lists(names, max_size=2, unique=True)):
        arrays: dict[str, object] = {}
        declared = {}
        for name in draw(st.lists(names, max_size=3, unique=True)):
            dtype, extra = draw(dtypes), draw(st.sampled_from([(), (2,), (0,), (1, 2)]))
            if dtype.subdtype is not None:
                dtype = np.dtype([("a", dtype)])
            kind = draw(st.sampled_from([nav, sig, single, ragged]))
            output = kind(dtype, extra, title=draw(names), unit=draw(names))
            if kind is ragged:
                counts = draw(hnp.arrays(np.int64, int(np.prod(nav_shape)), elements=st.integers(0, 2)))
                offsets = np.concatenate([[0], np.cumsum(counts)])
                arrays[name] = Ragged(draw(filled(dtype, (int(counts.sum()), *extra))), offsets, nav_shape)
            else:
                arrays[name] = draw(filled(dtype, output.shape(shape)))
            if draw(st.booleans()):
                declared[name] = output
        udfs[key] = Outputs(key, arrays, declared, shape, default_axes(shape))
    return Result(udfs, coverage(nav_shape), version=draw(st.integers(0, 9)), params={f"{k}/m": np.arange(3) for k in udfs})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(results())
def test_any_result_comes_back(result: Result) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r.h5")
        SINK.save(result, path)
        assert_same(result, SINK.load(path))


def test_layout_is_what_viewers_expect(tmp_path: Path) -> None:
    SINK.save(example_result(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as h5:
        group = h5
        while "default" in group.attrs:  # as NeXus viewers find what to plot
            group = group[group.attrs["default"]]
        assert group.name == "/results/adf/intensity"
        assert group.attrs["NX_class"] == "NXdata"
        signal = group[group.attrs["signal"]]
        assert signal.shape == (2, 3)
        assert signal.attrs["units"] == "e"
        assert group.attrs["title"] == "ADF signal"
        assert list(group.attrs["axes"]) == ["y", "x"]
        np.testing.assert_allclose(group["x"], [-1.0, -0.6, -0.2])
        assert group["x"].attrs["units"] == "nm"
        np.testing.assert_array_equal(group["valid"], h5["coverage/status"][()] == 1)
        assert json.loads(h5["coverage/status"].attrs["legend"])["corrupt"] == 2
        assert list(h5["results/other/sum"].attrs["axes"]) == ["ky", "kx"]
        assert list(h5["results/other/seen"].attrs["axes"]) == ["y", "x", "which"]
        assert "valid" not in h5["results/other/sum"]
        assert h5["results/other/com/data"].dtype == np.complex64
        np.testing.assert_array_equal(h5["results/other/peaks/counts"], [[0, 1, 0], [2, 1, 0]])
        assert h5["params/adf/mask"].shape == (4, 5)
        assert h5.attrs["libstream_format"] == 1
        assert json.loads(h5.attrs["libstream_run"])["µ"] == "Ångström"


def test_names_that_hdf5_does_not_allow(tmp_path: Path) -> None:
    shape = DataShape((2,), (2,))
    axes = (Axis("data", 2), Axis("a/b", 2))
    udfs = {
        key: Outputs(key, {"a/b": np.arange(2), ".": np.arange(4).reshape(2, 2)}, {"a/b": nav("i8"), ".": nav("i8", (2,))}, shape, axes)
        for key in ("x/y", "x%2Fy", "..", "%2E%2E", "")
    }
    result = Result(udfs, coverage((2,)), params={"x/y/m": np.arange(2), "x%2Fy/m": np.arange(3), "solo": np.arange(4)})
    SINK.save(result, tmp_path / "a.h5")
    assert_same(result, SINK.load(tmp_path / "a.h5"))


def test_large_provenance(tmp_path: Path) -> None:
    result = example_result(run={"log": "x" * 300_000, "values": [0.1, float("inf")], "count": np.int64(3)})
    SINK.save(result, tmp_path / "a.h5")
    assert SINK.load(tmp_path / "a.h5").run == {"log": "x" * 300_000, "values": [0.1, float("inf")], "count": 3}


def test_an_empty_result(tmp_path: Path) -> None:
    SINK.save(Result({}, coverage(())), tmp_path / "a.h5")
    assert_same(Result({}, coverage(())), SINK.load(tmp_path / "a.h5"))


# -- saving that fails -------------------------------------------------------------------------------------------------


def test_objects_are_refused(tmp_path: Path) -> None:
    shape = DataShape((1,), (1,))
    udfs = {"k": Outputs("k", {"o": np.array([{}], object)}, {}, shape, default_axes(shape))}
    with pytest.raises(SaveError, match=r"results/k/o.*Python objects"):
        SINK.save(Result(udfs, coverage((1,))), tmp_path / "a.h5")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("after", [0, 1, 3, 8, 20])
def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The disk takes `after` writes and no more, wherever HDF5 is by then."""
    (tmp_path / "a.h5").touch()

    class Full(_aside.io.FileIO):
        n = 0

        def write(self, data: object) -> int:
            Full.n += 1
            if Full.n > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    monkeypatch.setattr(_aside.io, "FileIO", Full)
    with pytest.raises(SaveError, match=r"a\.h5: No space left.*needs about 0\.\d MB.* MB are free"):
        SINK.save(example_result(), tmp_path / "a.h5")
    assert Full.n > after
    assert os.listdir(tmp_path) == ["a.h5"]
    assert (tmp_path / "a.h5").read_bytes() == b""


def test_file_size_limit(tmp_path: Path) -> None:
    """A real refusal by the operating system, not a made one."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    result = example_result(params={"adf/mask": np.zeros(200_000)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SaveError, match=r"a\.h5: File too large.*needs about 1\.\d MB"):
            SINK.save(result, tmp_path / "a.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []
    SINK.save(result, tmp_path / "a.h5")
    assert_same(result, SINK.load(tmp_path / "a.h5"))


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(_aside.io.FileIO):
        def write(self, data: object) -> int:
            return super().write(memoryview(data)[:100])  # type: ignore[arg-type]

    monkeypatch.setattr(_aside.io, "FileIO", Slow)
    SINK.save(example_result(), tmp_path / "a.h5")
    monkeypatch.undo()
    assert_same(example_result(), SINK.load(tmp_path / "a.h5"))


def test_failing_fsync_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SINK.save(example_result(version=1), tmp_path / "a.h5")

    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_aside.os, "fsync", fsync)
    with pytest.raises(SaveError, match="Input/output error"):
        SINK.save(example_result(version=2), tmp_path / "a.h5")
    assert os.listdir(tmp_path) == ["a.h5"]
    assert SINK.load(tmp_path / "a.h5").version == 1


def test_interrupted_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(a: object, b: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_aside.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        SINK.save(example_result(), tmp_path / "a.h5")
    assert os.listdir(tmp_path) == []


def test_folder_refuses(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="there is no folder"):
        SINK.save(example_result(), tmp_path / "nowhere" / "a.h5")
    with pytest.raises(SaveError, match="is a folder"):
        SINK.save(example_result(), tmp_path)


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: object, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:  # chmod does not stop root, who runs tests in containers
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, mode)  # type: ignore[arg-type]

    monkeypatch.setattr(_aside.os, "open", refuse)
    with pytest.raises(SaveError, match=r"Permission denied.*check that the folder can be written"):
        SINK.save(example_result(), tmp_path / "a.h5")


def test_foreign_files_are_not_overwritten(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as h5:
        h5["data"] = np.arange(10)
    before = (tmp_path / "scan.h5").read_bytes()
    (tmp_path / "notes.h5").write_text("mine")
    for name in ("scan.h5", "notes.h5"):
        with pytest.raises(SaveError, match="is no result of libstream"):
            SINK.save(example_result(), tmp_path / name)
    assert (tmp_path / "scan.h5").read_bytes() == before


def test_links_and_permissions_are_kept(tmp_path: Path) -> None:
    SINK.save(example_result(version=1), tmp_path / "real.h5")
    os.chmod(tmp_path / "real.h5", 0o640)
    os.symlink("real.h5", tmp_path / "link.h5")
    SINK.save(example_result(version=2), tmp_path / "link.h5")
    assert (tmp_path / "link.h5").is_symlink()
    assert SINK.load(tmp_path / "real.h5").version == 2
    assert stat.S_IMODE((tmp_path / "real.h5").stat().st_mode) == 0o640


# -- loading that fails ------------------------------------------------------------------------------------------------


def test_not_a_result(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("hello")
    with h5py.File(tmp_path / "data.h5", "w") as h5:
        h5["data"] = np.arange(10)
    with pytest.raises(FormatError, match="no such file"):
        SINK.load(tmp_path / "missing.h5")
    with pytest.raises(FormatError, match="no HDF5 file"):
        SINK.load(tmp_path / "text.h5")
    with pytest.raises(FormatError, match="no result of libstream"):
        SINK.load(tmp_path / "data.h5")


def test_a_newer_format(tmp_path: Path) -> None:
    SINK.save(example_result(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as h5:
        h5.attrs["libstream_format"] = 2
    with pytest.raises(FormatError, match=r"format 2, this one reads up to 1; update libstream"):
        SINK.load(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as h5:
        h5.attrs["libstream_format"] = "one"
    with pytest.raises(FormatError, match="libstream_format is 'one'"):
        SINK.load(tmp_path / "a.h5")


def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    SINK.save(example_result(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as h5:
        about = json.loads(h5["results/adf"].attrs["libstream_outputs"])
        about["declared"]["intensity"]["colour"] = "viridis"
        h5["results/adf"].attrs["libstream_outputs"] = json.dumps(about)
    assert_same(example_result(), SINK.load(tmp_path / "a.h5"))


def break_offsets(h5: h5py.File) -> None:
    h5["results/other/peaks/offsets"][2] = 99


def external_link(h5: h5py.File) -> None:
    del h5["results/adf/intensity/data"]
    h5["results/adf/intensity/data"] = h5py.ExternalLink("other.h5", "data")


def huge(h5: h5py.File) -> None:
    del h5["results/adf/intensity/data"]
    h5.create_dataset("results/adf/intensity/data", (1 << 20, 1 << 20), "f8")


def huge_chunked(h5: h5py.File) -> None:
    del h5["results/adf/intensity/data"]
    h5.create_dataset("results/adf/intensity/data", (1 << 20, 1 << 20), "f8", chunks=(64, 64))


def objects(h5: h5py.File) -> None:
    del h5["results/adf/intensity/data"]
    h5["results/adf/intensity/data"] = np.array(["a"], h5py.string_dtype())


def other_dtype(h5: h5py.File) -> None:
    del h5["results/adf/intensity/data"]
    h5["results/adf/intensity/data"] = np.zeros((2, 3), "i2")


def object_dtype(h5: h5py.File) -> None:
    text = h5["results/adf"].attrs["libstream_outputs"]
    h5["results/adf"].attrs["libstream_outputs"] = text.replace("<f8", "|O")


def no_dataset(h5: h5py.File) -> None:
    del h5["results/adf/intensity"]


def bad_json(h5: h5py.File) -> None:
    h5.attrs["libstream_result"] = "{"


def no_json(h5: h5py.File) -> None:
    h5.attrs["libstream_result"] = 7


DAMAGES = [break_offsets, external_link, huge, huge_chunked, objects, other_dtype, object_dtype, no_dataset, bad_json, no_json]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_damaged_files(tmp_path: Path, damage: object) -> None:
    SINK.save(example_result(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as h5:
        damage(h5)  # type: ignore[operator]
    with pytest.raises(FormatError):
        SINK.load(tmp_path / "a.h5")


def test_truncated_files(tmp_path: Path) -> None:
    SINK.save(example_result(), tmp_path / "a.h5")
    whole = (tmp_path / "a.h5").read_bytes()
    for size in range(0, len(whole), 997):
        (tmp_path / "b.h5").write_bytes(whole[:size])
        with pytest.raises(FormatError):
            SINK.load(tmp_path / "b.h5")


def test_a_repacked_file_is_read(tmp_path: Path) -> None:
    """h5repack and friends compress; the content stays the same."""
    SINK.save(example_result(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as h5:
        data = h5["results/adf/intensity/data"][()]
        del h5["results/adf/intensity/data"]
        h5.create_dataset("results/adf/intensity/data", data=data, compression="gzip", shuffle=True)
    assert_same(example_result(), SINK.load(tmp_path / "a.h5"))
