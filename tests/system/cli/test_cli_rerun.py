"""`libstream rerun`: equal or not, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.model.ragged import Ragged
from libstream.run.again import compare

RUN = ("run", "scan.npy", "--udf", "b=bright.py:Bright", "-p", "floor=4", "-o", "out.h5")


@pytest.fixture
def result(cli: Any, folder: Path) -> Path:
    """out.h5, made from scan.npy by a UDF of the user's."""
    assert cli(*RUN).code == 0
    return folder / "out.h5"


def test_installed_udf_is_equal(cli: Any, folder: Path) -> None:
    assert cli("run", "scan.npy", "--udf", "s=Sum", "-o", "sum.h5").code == 0
    said = cli("rerun", "sum.h5")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[-1] == "sum.h5: equal"


def test_code_is_run_only_where_it_is_allowed(cli: Any, result: Path) -> None:
    said = cli("rerun", "out.h5")
    assert said.code == 2
    assert "bright.py" in said.error
    assert "--allow-code" in said.error
    said = cli("rerun", "out.h5", "--allow-code")
    assert said.code == 0
    assert f"loading code: UDF b = {result.parent / 'bright.py'}:Bright" in said.err
    assert "sha256" in said.err
    assert said.out.splitlines() == ["b/n: equal", "b/total: equal", "out.h5: equal"]


def test_from_another_folder(cli: Any, result: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert cli("rerun", result, "--allow-code").code == 0


def test_changed_data(cli: Any, result: Path, data: np.ndarray) -> None:
    data[2, 2, 0, 0] = 3 if data[2, 2, 0, 0] > 4 else 100
    np.save("scan.npy", data)
    said = cli("rerun", "out.h5", "--allow-code")
    assert said.code == 1
    assert "the data are not those of the result (fingerprint)" in said.err
    assert "b/n: NOT EQUAL: 1 of 30 values differ, by at most 1" in said.out
    assert "b/total: NOT EQUAL: 1 of 80 values differ" in said.out
    found = cli("rerun", "out.h5", "--allow-code", "--json").json
    assert not found["equal"]
    assert [o["verdict"] for o in found["outputs"]] == ["different", "different"]


def test_changed_code(cli: Any, result: Path) -> None:
    Path("bright.py").write_text(Path("bright.py").read_text().replace("frame > self.floor", "frame >= self.floor"))
    said = cli("rerun", "out.h5", "--allow-code")
    assert said.code == 1
    assert "the code of UDF b was changed since (sha256" in said.err
    assert "b/total: equal" in said.out
    assert "b/n: NOT EQUAL: 30 of 30 values differ" in said.out


def test_moved_data(cli: Any, result: Path) -> None:
    Path("moved").mkdir()
    Path("scan.npy").rename("moved/scan.npy")
    said = cli("rerun", "out.h5", "--allow-code")
    assert said.code == 2
    assert "say where they are: --source FILE" in said.error
    assert cli("rerun", "out.h5", "--allow-code", "--source", "moved/scan.npy").code == 0
    Path("out.h5").rename("moved/out.h5")
    assert cli("rerun", "moved/out.h5", "--allow-code").code == 0, "the data lie beside the result"


def test_everything_of_a_run_is_repeated(cli: Any, folder: Path) -> None:
    roi = np.random.default_rng(1).random((5, 6)) > 0.5
    np.save("roi.npy", roi)
    np.save("dark.npy", np.full((8, 10), 0.5))
    np.save("mask.npy", np.eye(8, 10))
    words = (
        "--roi",
        "roi.npy",
        "--dark",
        "dark.npy",
        "--scan",
        "6,5",
        "--pixel",
        "0.9 mrad",
        "--udf",
        "bright.py:Bright",
        "-p",
        "mask=@mask.npy",
    )
    np.save("roi.npy", roi.reshape(6, 5))
    assert cli("run", "scan.npy", *words, "-o", "all.h5").code == 0
    for name in ("roi.npy", "dark.npy", "mask.npy"):
        Path(name).unlink()
    said = cli("rerun", "all.h5", "--allow-code", "-o", "again.h5")
    assert said.code == 0
    old, new = ls.load_result("all.h5"), ls.load_result("again.h5")
    np.testing.assert_array_equal(old.valid, new.valid)
    assert old.run["udfs"] == new.run["udfs"]
    assert old.run["calibration"] == new.run["calibration"]


def test_an_incomplete_result_is_repeated_where_it_is_valid(cli: Any, result: Path) -> None:
    old = ls.load_result(result)
    status = np.array(old.coverage.status)
    status[3:] = 0
    arrays = {"n": np.where(status == 1, old["n"], np.iinfo(np.int64).max), "total": np.load("scan.npy")[:3].sum(axis=(0, 1)).astype(float)}
    udfs = {"b": replace(old["b"], arrays=arrays)}
    replace(old, udfs=udfs, coverage=ls.Coverage(status)).save("part.h5")
    said = cli("rerun", "part.h5", "--allow-code")
    assert "12 positions unseen" in said.err
    assert said.code == 0, said.out


def test_a_udf_that_writes_files_is_not_repeated_unasked(cli: Any, folder: Path) -> None:
    assert cli("run", "scan.npy", "--udf", "Record", "-p", "path=frames.npy", "-o", "r.h5").code == 0
    before = Path("frames.npy").stat().st_mtime_ns
    said = cli("rerun", "r.h5")
    assert said.code == 2
    assert "writes files of its own" in said.error
    assert Path("frames.npy").stat().st_mtime_ns == before


def test_not_a_result(cli: Any, folder: Path) -> None:
    assert cli("rerun", "scan.npy").code == 1
    assert "no such file" in cli("rerun", "nope.h5").error


# -- compare -----------------------------------------------------------------------------------------------------------


def _with(result: ls.Result, **arrays: Any) -> ls.Result:
    return replace(result, udfs={"b": replace(result["b"], arrays={**result["b"].arrays, **arrays})})


@pytest.mark.parametrize(
    ("then", "now", "verdict", "why"),
    [
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), "equal", ""),
        (np.array([1.0, np.nan]), np.array([np.nan, 1.0]), "different", "not the same positions"),
        (np.array([1.0, np.inf]), np.array([1.0, -np.inf]), "different", "1 of 2"),
        (np.array([1e10, 1e-3]), np.array([1e10 + 1e-3, 1e-3]), "rounding", "largest relative difference"),
        (np.array([1.0, 2.0]), np.array([1.0, 2.1]), "different", "1 of 2 values differ"),
        (np.array([1, 2]), np.array([1, 4]), "different", "1 of 2 values differ, by at most 2"),
        (np.array([1, 2]), np.array([1.0, 2.0]), "different", "int64 then"),
        (np.array([True]), np.array([False]), "different", "1 of 1"),
        (np.array([1 + 2j]), np.array([1 + 2j]), "equal", ""),
        (np.zeros(2, [("y", "i4"), ("v", "f4")]), np.zeros(2, [("y", "i4"), ("v", "f4")]), "equal", ""),
        (np.zeros(2, [("y", "i4")]), np.ones(2, [("y", "i4")]), "different", "2 of 2"),
        (Ragged(np.arange(3), [0, 1, 3], (2,)), Ragged(np.arange(3), [0, 1, 3], (2,)), "equal", ""),
        (Ragged(np.arange(3), [0, 1, 3], (2,)), Ragged(np.arange(3), [0, 2, 3], (2,)), "different", "differs at 2 positions"),
        (Ragged(np.arange(3), [0, 1, 3], (2,)), Ragged(np.arange(1, 4), [0, 1, 3], (2,)), "different", "other values"),
        (np.zeros(0), np.zeros(0), "equal", ""),
    ],
)
def test_compare(result: Path, then: Any, now: Any, verdict: str, why: str) -> None:
    stored = ls.load_result(result)
    (row,) = [r for r in compare(_with(stored, n=then), _with(stored, n=now)) if r.output == "n"]
    assert row.verdict == verdict
    assert why in row.why


def test_compare_sees_missing_and_additional_outputs(result: Path) -> None:
    stored = ls.load_result(result)
    more = _with(stored, extra=np.zeros(1))
    assert {r.output: r.verdict for r in compare(stored, more)} == {"n": "equal", "total": "equal", "extra": "different"}
    assert {r.output: r.verdict for r in compare(more, stored)} == {"n": "equal", "total": "equal", "extra": "different"}
