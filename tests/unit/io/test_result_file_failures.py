"""Result files that cannot be written or read: an error that says why, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest

from libstream.ext import (
    DataShape,
    FormatError,
    Outputs,
    Result,
    SaveError,
    default_axes,
)
from libstream.io_backends.sinks import _aside
from tests.unit.io.result_files import SINK, assert_same, coverage, example_result


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
