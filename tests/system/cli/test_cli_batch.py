"""Many files, recipes, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls

RECIPE = """
executor = "inline"
output = "results/{stem}.h5"
[open]
scan_step = "0.4 nm"
[corrections]
dark = "dark.npy"
[[udf]]
name = "bright.py:Bright"
key = "low"
params = { floor = 2 }
[[udf]]
name = "bright.py:Bright"
params = { floor = 3.5, mask = "@mask.npy" }
"""


@pytest.fixture
def scans(folder: Path, data: np.ndarray) -> list[str]:
    """a.npy, b.npy, c.npy; a recipe with its arrays in its own folder."""
    for n, name in enumerate("abc"):
        np.save(f"{name}.npy", data + n)
    Path("setup").mkdir()
    Path("setup/recipe.toml").write_text(RECIPE)
    Path("bright.py").rename("setup/bright.py")
    np.save("setup/dark.npy", np.ones((8, 10)))
    np.save("setup/mask.npy", np.eye(8, 10))
    return ["a.npy", "b.npy", "c.npy"]


def test_recipe_over_many_files(cli: Any, scans: list[str], data: np.ndarray) -> None:
    said = cli("run", *scans, "--recipe", "setup/recipe.toml")
    assert said.code == 0
    assert "3 files: 3 done" in said.out
    for n, name in enumerate("abc"):
        result = ls.load_result(f"results/{name}.h5")
        assert list(result) == ["low", "bright"]
        np.testing.assert_array_equal(result["low"]["n"], ((data + n - 1.0) > 2).sum(axis=(2, 3)))
        assert result["low"].axes[0].unit == "nm"
        assert result.run["udfs"]["bright"]["params"]["floor"] == 3.5


def test_pattern_that_no_shell_expanded(cli: Any, scans: list[str]) -> None:
    said = cli("run", "[a-b].npy", "--recipe", "setup/recipe.toml", "--json")
    assert [f["file"] for f in said.json["files"]] == ["a.npy", "b.npy"]


def test_command_line_wins_over_the_recipe(cli: Any, scans: list[str]) -> None:
    words = (
        "--recipe",
        "setup/recipe.toml",
        "--scan-step",
        "2 nm",
        "--udf",
        "more=setup/bright.py:Bright",
        "-o",
        "x.h5",
        "--executor",
        "threads",
    )
    assert cli("run", "a.npy", *words).code == 0
    result = ls.load_result("x.h5")
    assert list(result) == ["low", "bright", "more"]
    assert (result["low"].axes[0].step, result.run["executor"]) == (2.0, "threads")


def test_resume_skips_what_is_finished_and_nothing_else(cli: Any, scans: list[str], data: np.ndarray) -> None:
    words = ("--recipe", "setup/recipe.toml", "--resume", "--json")

    def status(*more: str) -> list[str]:
        return [f["status"] for f in cli("run", *scans, *words, *more).json["files"]]

    assert status() == ["done"] * 3
    assert status() == ["skipped"] * 3
    Path("results/b.h5").unlink()
    assert status() == ["skipped", "done", "skipped"]
    np.save("c.npy", data + 7)
    assert status() == ["skipped", "skipped", "done"], "the data of c changed"
    assert status("--scan-step", "1 nm") == ["done"] * 3, "another calibration"
    assert status() == ["done"] * 3, "and back"
    Path("results/a.h5").write_bytes(Path("results/a.h5").read_bytes()[:-900])
    said = cli("run", *scans, *words)
    assert [f["status"] for f in said.json["files"]] == ["failed", "skipped", "skipped"], "a damaged file might be anything"
    assert "delete it" in said.error
    Path("results/a.h5").unlink()
    assert status() == ["done", "skipped", "skipped"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("floor = 2", "floor = 4"),
        ('key = "low"', 'key = "other"'),
        ('dark = "dark.npy"', 'gain = "dark.npy"'),
        ('"@mask.npy"', '"@dark.npy"'),
        ("output =", 'roi = "roi.npy"\noutput ='),
        ("bright.py:Bright", "edited.py:Bright"),
    ],
)
def test_resume_sees_every_change_of_the_recipe(cli: Any, scans: list[str], old: str, new: str) -> None:
    np.save("setup/roi.npy", np.eye(5, 6, dtype=bool))
    Path("setup/edited.py").write_text(Path("setup/bright.py").read_text().replace("> self.floor", ">= self.floor"))
    words = ("run", "a.npy", "--recipe", "setup/recipe.toml", "--resume", "--json")
    assert cli(*words).json["done"] == 1
    assert cli(*words).json["skipped"] == 1
    Path("setup/recipe.toml").write_text(RECIPE.replace(old, new))
    said = cli(*words)
    assert said.json["done"] == 1
    assert "is made anew: changed:" in said.err


@pytest.mark.parametrize("udf", ["CenterOfMass", "VirtualDetector", "RadialProfile", "FEM"])
def test_resume_knows_parameters_that_were_not_given(cli: Any, scans: list[str], udf: str) -> None:
    words = ("run", "a.npy", "--udf", udf, "-o", "out.h5", "--resume", "--json")
    assert cli(*words).json["done"] == 1
    assert cli(*words).json["skipped"] == 1


def test_resume_repeats_an_incomplete_result(cli: Any, scans: list[str]) -> None:
    words = ("run", "a.npy", "--recipe", "setup/recipe.toml", "--resume")
    cli(*words)
    result = ls.load_result("results/a.h5")
    status = np.array(result.coverage.status)
    status[4, 2:] = 0
    from dataclasses import replace

    replace(result, coverage=ls.Coverage(status)).save("results/a.h5")
    said = cli(*words)
    assert "it is incomplete (4 positions unseen)" in said.err
    assert ls.load_result("results/a.h5").complete


def test_a_failing_file_does_not_stop_the_others(cli: Any, scans: list[str]) -> None:
    Path("b.npy").write_bytes(Path("b.npy").read_bytes()[:200])
    for jobs in ("1", "2"):
        said = cli("run", *scans, "nowhere.npy", "--recipe", "setup/recipe.toml", "--jobs", jobs)
        assert said.code == 1
        assert "4 files: 2 done, 2 failed" in said.out
        errors = [line for line in said.err.splitlines() if line.startswith("libstream: error: ")]
        assert len(errors) == 2
        assert errors[0].startswith("libstream: error: b.npy: ")
        assert errors[1].startswith("libstream: error: nowhere.npy: ")
        assert "Traceback" not in said.err
        for name in "ac":
            result = Path(f"results/{name}.h5")
            assert result.exists()
            result.unlink()
        assert not Path("results/b.h5").exists()


def test_several_at_the_same_time(cli: Any, scans: list[str]) -> None:
    said = cli("run", *scans, "--recipe", "setup/recipe.toml", "--jobs", "3", "--executor", "threads", "--json")
    assert [f["status"] for f in said.json["files"]] == ["done"] * 3
    assert [f["file"] for f in said.json["files"]] == scans


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("out.h5", "would both be written to out.h5; put {stem} into it"),
        ("{parent}.h5", "would both be written"),
        ("{stme}.h5", "{stme} is unknown; known are {stem}, {name}, {parent}, {index}"),
        ("{index:z}.h5", "{index:z}"),
        ("{stem.__class__}.h5", "nobody writes|would both"),
    ],
)
def test_templates_that_cannot_be(cli: Any, scans: list[str], template: str, says: str) -> None:
    said = cli("run", *scans, "--recipe", "setup/recipe.toml", "-o", template)
    assert said.code == 2
    assert any(part in said.error for part in says.split("|"))


def test_templates(cli: Any, scans: list[str]) -> None:
    said = cli("run", *scans, "--recipe", "setup/recipe.toml", "-o", "o/{index:03}-{stem}.h5")
    assert said.code == 0
    assert sorted(p.name for p in Path("o").iterdir()) == ["001-a.h5", "002-b.h5", "003-c.h5"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("output = ", "is not valid TOML"),
        ("scan = [3, 4]", "unknown entry 'scan' (options of the file go below [open]"),
        ("ouput = 'x'", "unknown entry 'ouput' (did you mean output?)"),
        ("output = 3", "output = 3 is not a text"),
        ("udf = 3", "not an array of tables"),
        ("[[udf]]\nkey = 'a'", "[[udf]] number 1 has no name"),
        ("[[udf]]\nname = 'Sum'\nparam = {}", "unknown entry 'param' (did you mean params?)"),
        ("[corrections]\nflat = 'x.npy'", "unknown entry 'flat'"),
        ("[[udf]]\nname = 'bright.py:Bright'\nparams = {floor = 'low'}", "floor"),
    ],
)
def test_wrong_recipes(cli: Any, scans: list[str], text: str, says: str) -> None:
    Path("setup/wrong.toml").write_text(text)
    said = cli("run", "a.npy", "--recipe", "setup/wrong.toml")
    assert said.code == 2
    assert says in said.error
