"""`libstream info` and `libstream export`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import libstream as ls
from libstream.contracts.source import FrameSource
from libstream.errors import CorruptFileError
from tests import realdata


def test_info(cli: Any, folder: Path) -> None:
    said = cli("info", "scan.npy", "--scan-step", "0.4 nm", "--pixel", "0.9 mrad")
    assert said.code == 0
    assert "(5, 6 | 8, 10)  = 30 positions of 8 × 10 pixels" in said.out
    assert "x: 6 × 0.4 nm = 2.4 nm" in said.out
    assert "kx: 10 × 0.9 mrad = 9 mrad" in said.out
    assert "uint16" in said.out


def test_info_json(cli: Any, folder: Path) -> None:
    said = cli("info", "scan.npy", "--json", "--scan", "30")
    found = said.json
    assert found["shape"] == {"nav": [30], "sig": [8, 10]}
    assert (found["dtype"], found["n_frames"], found["bytes_in_memory"], found["format"]) == ("uint16", 30, 4800, "npy")
    assert [a["name"] for a in found["axes"]] == ["frame", "ky", "kx"]
    assert len(found["fingerprint"]) >= 32


def test_info_says_what_is_missing(cli: Any, folder: Path, data: np.ndarray) -> None:
    np.save("stack.npy", data.reshape(30, 8, 10))
    assert "note: 30 frames in a row: pass --scan 5,6 if they are a scan" in cli("info", "stack.npy").out


def test_info_of_a_result(cli: Any, folder: Path) -> None:
    cli("run", "scan.npy", "--udf", "b=bright.py:Bright", "-p", "floor=4", "-o", "out.h5")
    said = cli("info", "out.h5")
    assert "a result of libstream, complete: 30 of 30 positions processed" in said.out
    assert "Bright(floor=4.0, mask=None)" in said.out
    found = cli("info", "out.h5", "--json").json
    assert found["kind"] == "result"
    assert found["results"]["b"]["n"]["shape"] == [5, 6]


def test_info_of_a_real_file(cli: Any) -> None:
    root = realdata.root()
    if root is None:
        pytest.skip(realdata.MISSING)
    (path,) = (root / "mib" / "mib_nav4x2_64x256_u16").glob("*.mib")
    said = cli("info", path)
    assert said.code == 0
    assert "Chip ID" in said.out
    assert "more (--all)" in said.out
    said_all = cli("info", path, "--all")
    assert len(said_all.out) > len(said.out)
    assert cli("info", path, "--json").json["shape"] == {"nav": [2, 4], "sig": [64, 256]}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nope.mib"], 1, "nope.mib: no such file"),
        (["scan.npy", "--scan", "7,7"], 2, "49 positions"),
        (["empty.npy"], 1, "is empty (0 bytes)"),
        (["scan.npy", "-O", "colour=3"], 2, "takes no option 'colour'"),
        (["scan.npy", "--format", "mibb"], 2, "mib"),
        ([".", "--json"], 1, "is a folder"),
    ],
)
def test_info_of_wrong_things(cli: Any, folder: Path, words: list[str], code: int, says: str) -> None:
    Path("empty.npy").touch()
    said = cli("info", *words)
    assert (said.code, said.out) == (code, "")
    assert says in said.error


# -- export ------------------------------------------------------------------------------------------------------------


def test_export_npy_and_back(cli: Any, folder: Path, data: np.ndarray) -> None:
    said = cli("export", "scan.npy", "-o", "out.npy")
    assert said.code == 0
    assert "(5, 6, 8, 10) uint16" in said.out
    loaded = np.load("out.npy", mmap_mode="r")
    assert loaded.dtype == np.uint16
    np.testing.assert_array_equal(loaded, data)
    assert cli("export", "out.npy", "-o", "again.npy").code == 0
    assert Path("again.npy").read_bytes() == Path("out.npy").read_bytes()


def test_export_crops_then_bins(cli: Any, folder: Path, data: np.ndarray) -> None:
    said = cli("export", "scan.npy", "-o", "out.npy", "--crop", "1:8,2:", "--bin", "3", "--scan-crop", "1:4,:5")
    assert "axis ky: the last 1 of 7 px do not fill a bin" in said.err
    expected = data[1:4, :5, 1:7, 2:8].reshape(3, 5, 2, 3, 2, 3).sum(axis=(3, 5))
    loaded = np.load("out.npy")
    assert loaded.dtype == np.uint32
    np.testing.assert_array_equal(loaded, expected)


def test_export_in_small_pieces(cli: Any, folder: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libstream.cli.export.PIECE_BYTES", 4 * 160)
    for name in ("out.npy", "out.h5"):
        assert cli("export", "scan.npy", "-o", name).code == 0
    np.testing.assert_array_equal(np.load("out.npy"), data)
    with h5py.File("out.h5") as file:
        np.testing.assert_array_equal(file["entry/data/data"][()], data)


def test_export_h5_keeps_the_calibration(cli: Any, folder: Path, data: np.ndarray) -> None:
    words = ("--bin", "2", "--scan-step", "0.4 nm", "--pixel", "0.9 mrad", "--centre", "3,4")
    assert cli("export", "scan.npy", "-o", "out.h5", *words).code == 0
    with h5py.File("out.h5") as file:
        group = file["entry/data"]
        assert list(group.attrs["axes"]) == ["y", "x", "ky", "kx"]
        assert group["x"].attrs["units"] == "nm"
        np.testing.assert_allclose(group["x"][()], np.arange(6) * 0.4)
        np.testing.assert_allclose(group["kx"][()], 0.45 + np.arange(5) * 1.8)
        np.testing.assert_allclose(group.attrs["centre_px"], [1.25, 1.75])
    source = ls.open("out.h5")
    assert source.shape == (5, 6, 4, 5)
    np.testing.assert_array_equal(source[...], data.reshape(5, 6, 4, 2, 5, 2).sum(axis=(3, 5)))


def test_export_of_a_file_with_a_corrupt_frame(cli: Any, folder: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FrameSource.__getitem__

    def with_a_bad_one(source: FrameSource, index: Any) -> Any:
        picked = np.zeros((5, 6), bool)
        picked[index[:2]] = True
        if picked[2, 3]:
            raise CorruptFileError("scan.npy: the frame at scan position (2, 3) is corrupt")
        return real(source, index)

    monkeypatch.setattr(FrameSource, "__getitem__", with_a_bad_one)
    said = cli("export", "scan.npy", "-o", "out.npy")
    assert said.code == 0
    assert "1 frame could not be read" in said.err
    expected = data.copy()
    expected[2, 3] = np.iinfo(np.uint16).max
    np.testing.assert_array_equal(np.load("out.npy"), expected)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["-o", "out.tif"], 2, "frames are written to .npy or .h5, not .tif"),
        (["-o", "scan.npy", "--force"], 2, "would be overwritten"),
        (["-o", "there.npy"], 2, "exists; --force replaces it"),
        (["-o", "out.npy", "--bin", "9"], 2, "axis ky has only 8 px"),
        (["-o", "out.npy", "--bin", "0"], 2, "not a whole number >= 1"),
        (["-o", "out.npy", "--crop", "0:9,0:3"], 2, "--crop: 0:9 is not a part of 0:8"),
        (["-o", "out.npy", "--crop", "3"], 2, "is not y0:y1,x0:x1"),
        (["-o", "out.npy", "--scan-crop", "0:2"], 2, "--scan-crop needs 2 ranges"),
        (["-o", "no/folder/out.npy"], 1, "there is no folder"),
        ([], 2, "-o"),
    ],
)
def test_wrong_exports(cli: Any, folder: Path, words: list[str], code: int, says: str) -> None:
    Path("there.npy").write_text("mine")
    said = cli("export", "scan.npy", *words)
    assert said.code == code
    assert says in said.error
    assert Path("there.npy").read_text() == "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["bright.py", "scan.npy", "there.npy"]


def test_a_full_disk_is_one_line_and_leaves_nothing(cli: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    said = cli("export", "scan.npy", "-o", "out.h5")
    assert said.code == 1
    assert "it needs 4.8 kB, 100 B are free there" in said.error
    assert sorted(p.name for p in folder.iterdir()) == ["bright.py", "scan.npy"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are a matter of Unix")
@pytest.mark.parametrize("name", ["out.npy", "out.h5"])
def test_a_write_that_fails_leaves_nothing(folder: Path, name: str) -> None:
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        f"from libstream.cli.main import main; sys.exit(main(['export', 'scan.npy', '-o', {name!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"libstream: error: {name} cannot be written: ")
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["bright.py", "scan.npy"]
