"""`libstream run` on one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import libstream as ls

BRIGHT = ("run", "scan.npy", "--udf", "bright.py:Bright")


def test_one_udf(cli: Any, folder: Path, data: np.ndarray) -> None:
    said = cli(*BRIGHT, "-p", "floor=8", "-o", "out.h5")
    assert said.code == 0
    assert "bright/n: (5, 6) int64 [px]" in said.out
    assert "-> out.h5" in said.out
    result = ls.load_result("out.h5")
    np.testing.assert_array_equal(result["n"], (data > 8).sum(axis=(2, 3)))
    np.testing.assert_array_equal(result["total"], data.sum(axis=(0, 1)))
    assert result.complete
    assert result.run["udfs"]["bright"]["params"] == {"floor": 8.0, "mask": None}


def test_several_in_one_pass_with_keys_and_arrays(cli: Any, folder: Path, data: np.ndarray) -> None:
    np.save("mask.npy", np.eye(8, 10))
    spec = "bright.py:Bright"
    said = cli(
        "run", "scan.npy", "--udf", f"low={spec}", "-p", "floor=2", "--udf", spec, "-p", "mask=@mask.npy", "--udf", spec, "-o", "o.h5"
    )
    assert said.code == 0
    result = ls.load_result("o.h5")
    assert list(result) == ["low", "bright", "bright_2"]
    np.testing.assert_array_equal(result["low"]["n"], (data > 2).sum(axis=(2, 3)))
    np.testing.assert_array_equal(result["bright"]["n"], (data * np.eye(8, 10) > 6).sum(axis=(2, 3)))


def test_json(cli: Any, folder: Path, data: np.ndarray) -> None:
    said = cli(*BRIGHT, "--json", "--profile", "--explain")
    assert said.code == 0
    (file,) = said.json["files"]
    assert (file["status"], file["frames"], file["complete"]) == ("done", 30, True)
    found = file["results"]["bright"]["total"]
    total = data.sum(axis=(0, 1))
    assert (found["shape"], found["dtype"], found["min"], found["max"]) == ([8, 10], "float64", total.min(), total.max())
    assert file["profile"]["workers"]["udf:bright"] >= 0
    assert any("partition" in line for line in file["explain"])


def test_explain_alone_runs_nothing(cli: Any, folder: Path) -> None:
    said = cli(*BRIGHT, "--explain")
    assert said.code == 0
    assert "tiles" in said.out
    assert "bright/n" not in said.out
    said = cli(*BRIGHT, "--explain", "-o", "out.h5")
    assert "tiles" in said.out
    assert "bright/n" in said.out
    assert Path("out.h5").exists()


def test_profile(cli: Any, folder: Path) -> None:
    said = cli(*BRIGHT, "--profile")
    assert "udf:bright" in said.out
    assert "read" in said.out


def test_nothing_saved_is_said(cli: Any, folder: Path) -> None:
    assert "nothing was saved" in cli(*BRIGHT).err
    assert "nothing was saved" not in cli(*BRIGHT, "-o", "a.h5").err


def test_roi_and_corrections(cli: Any, folder: Path, data: np.ndarray) -> None:
    roi = np.zeros((5, 6), bool)
    roi[1:3, 2:] = True
    np.save("roi.npy", roi)
    with h5py.File("corrections.h5", "w") as file:
        file["dark"], file["gain"] = np.full((8, 10), 2.0), np.full((8, 10), 3.0)
    bad = np.zeros((8, 10), np.uint8)
    bad[3, 4] = 1
    np.save("bad.npy", bad)
    arrays = ("--roi", "roi.npy", "--dark", "corrections.h5:/dark", "--gain", "corrections.h5:/gain", "--excluded", "bad.npy")
    said = cli(*BRIGHT, "-o", "o.h5", *arrays)
    assert said.code == 0
    result = ls.load_result("o.h5")
    np.testing.assert_array_equal(result.valid, roi)
    corrected = ls.Corrections(dark=np.full((8, 10), 2.0), gain=np.full((8, 10), 3.0), excluded=bad).apply(data[roi])
    np.testing.assert_allclose(result["total"], corrected.sum(axis=0), rtol=1e-6)
    assert (result["n"][~roi] == np.iinfo(np.int64).max).all()


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_executors_agree(cli: Any, folder: Path, data: np.ndarray, executor: str) -> None:
    try:
        assert cli(*BRIGHT, "-o", "o.h5", "--executor", executor).code == 0
    finally:
        ls.shutdown()
    np.testing.assert_array_equal(ls.load_result("o.h5")["n"], (data > 6).sum(axis=(2, 3)))


def test_workers(cli: Any, folder: Path) -> None:
    said = cli(*BRIGHT, "-o", "o.h5", "--workers", "1", "--json")
    assert said.json["done"] == 1
    assert "--workers" in cli(*BRIGHT, "--executor", "inline", "--workers", "2").error
    assert cli(*BRIGHT, "--workers", "0").code == 2


def test_open_options_and_calibration(cli: Any, folder: Path, data: np.ndarray) -> None:
    data.astype(">u2").tofile("raw.bin")
    words = ("--format", "raw", "--dtype", ">u2", "--frame", "8,10", "--scan", "5,6", "--scan-step", "0.4 nm", "--pixel", "0.9 mrad")
    assert cli("run", "raw.bin", "--udf", "bright.py:Bright", "-o", "o.h5", *words).code == 0
    result = ls.load_result("o.h5")
    np.testing.assert_array_equal(result["n"], (data > 6).sum(axis=(2, 3)))
    assert [(a.step, a.unit) for a in result["bright"].axes] == [(0.4, "nm"), (0.4, "nm"), (0.9, "mrad"), (0.9, "mrad")]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["scan.npy"], 2, "nothing to compute: pass --udf"),
        (["scan.npy", "--udf", "Sumn"], 2, "no UDF 'Sumn' is installed (did you mean Sum?)"),
        (["scan.npy", "--udf", "bright"], 2, "for the one in bright.py write --udf bright.py"),
        (["scan.npy", "-p", "a=1", "--udf", "Sum"], 2, "stands before any --udf"),
        (
            ["scan.npy", "--udf", "bright.py:Bright", "-p", "floor=-3"],
            2,
            "Bright: floor: input should be greater than or equal to 0, got '-3' (allowed",
        ),
        (["scan.npy", "--udf", "bright.py:Bright", "-p", "flor=3"], 2, "no parameter 'flor' (did you mean floor?)"),
        (["nope.npy", "--udf", "bright.py:Bright"], 1, "nope.npy: no such file"),
        (["bright.py", "--udf", "bright.py:Bright"], 1, "no format recognises this file"),
        (["scan.npy", "--udf", "bright.py:Bright", "--scan", "6,7"], 2, "42 positions"),
        (["scan.npy", "--udf", "bright.py:Bright", "--roi", "t.npy"], 2, "transposed"),
        (["scan.npy", "--udf", "bright.py:Bright", "--roi", "float.npy"], 2, "roi: float.npy holds float64, expected bool"),
        (["scan.npy", "--udf", "bright.py:Bright", "--dark", "t.npy"], 2, "dark"),
        (["scan.npy", "--udf", "bright.py:Bright", "-o", "out.txt"], 2, "-o out.txt: nobody writes results with the ending '.txt'"),
        (["scan.npy", "--udf", "bright.py:Bright", "--plot", "out.xyz"], 2, "nobody can write .xyz pictures"),
        (["scan.npy", "--udf", "bright.py:Bright", "-o", "other.h5"], 1, "no result of libstream"),
        (["scan.npy", "--udf", "bright.py:Bright", "--executor", "quantum"], 2, "quantum"),
        (["scan.npy", "--udf", "bright.py:Bright", "--resume"], 2, "--resume"),
        (["scan.npy", "--udf", "bright.py:Bright", "--recipe", "none.toml"], 2, "the recipe cannot be read"),
        (["*.mib", "--udf", "bright.py:Bright"], 2, "no file matches *.mib"),
    ],
)
def test_wrong_input_is_one_line(cli: Any, folder: Path, words: list[str], code: int, says: str) -> None:
    np.save("t.npy", np.ones((6, 5), bool))
    np.save("float.npy", np.ones((5, 6)))
    with h5py.File("other.h5", "w") as file:
        file["measured"] = 1
    before = Path("other.h5").read_bytes()
    said = cli("run", *words)
    assert says in said.error
    assert said.code == code
    assert Path("other.h5").read_bytes() == before
    assert not Path("out.h5").exists()


def test_failing_udf(cli: Any, folder: Path, data: np.ndarray) -> None:
    data[3, 4, 0, 0] = 999
    np.save("scan.npy", data)
    said = cli("run", "scan.npy", "--udf", "bright.py:Failing", "-o", "out.h5", "--plot", "out.png")
    assert said.code == 1
    assert "a pixel of 999" in said.error
    assert "(3, 4)" in said.error
    assert not Path("out.h5").exists()
    said = cli("run", "scan.npy", "--udf", "bright.py:Failing", "--debug")
    assert "Traceback" in said.err
    assert "raise ZeroDivisionError" in said.err, "the user's line"


def test_an_input_is_never_overwritten(cli: Any, folder: Path, data: np.ndarray) -> None:
    with h5py.File("in.h5", "w") as file:
        file["data"] = data
    for target in ("in.h5", "./in.h5"):
        said = cli("run", "in.h5", "--udf", "bright.py:Bright", "-o", target)
        assert said.code == 2
        assert "would be overwritten" in said.error


def test_a_result_is_replaced(cli: Any, folder: Path) -> None:
    for floor in (3, 4):
        assert cli(*BRIGHT, "-p", f"floor={floor}", "-o", "out.h5").code == 0
    assert ls.load_result("out.h5").run["udfs"]["bright"]["params"]["floor"] == 4


def test_plot(cli: Any, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    said = cli(*BRIGHT, "--plot", "pictures/out.png", "-o", "out.h5")
    assert said.code == 0
    assert Path("pictures/out.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in folder.iterdir()) == ["bright.py", "out.h5", "pictures", "scan.npy"], "nothing half-written stays"


def test_notes_of_the_source_are_said(cli: Any, folder: Path, data: np.ndarray) -> None:
    np.save("stack.npy", data.reshape(30, 8, 10))
    assert "libstream: note: stack.npy: 30 frames in a row: pass --scan 5,6" in cli("run", "stack.npy", "--udf", "bright.py:Bright").err
