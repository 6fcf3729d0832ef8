"""Every example of the documentation runs, and every link leads somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import links
from tests.system import run_page

ROOT = links.ROOT
PAGES = sorted(p.relative_to(ROOT).as_posix() for p in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
MOST_NOT_RUN = 6
"""Blocks that are left out, each with its reason: raise this only with a reason as good as theirs."""


def example_files(folder: Path) -> None:
    """The files that the pages speak of: a scan of (8, 8) positions with frames of (32, 32), in several formats."""
    from libstream.cli._mib import MibWriter

    y, x = np.mgrid[:32, :32]
    rng = np.random.default_rng(0)
    frames = np.empty((8, 8, 32, 32), np.uint16)
    for sy, sx in np.ndindex(8, 8):
        disk = np.hypot(y - 15.5 - sy / 8, x - 15.5 + sx / 8) < 6
        frames[sy, sx] = rng.poisson(4 + 60 * disk + 10 * (sx > 3) * (np.hypot(y - 15.5, x - 15.5) > 10))
    with MibWriter(folder / "scan.mib", (8, 8), (32, 32)) as mib:
        for frame in frames.reshape(-1, 32, 32):
            mib.write(frame)
    np.save(folder / "scan.npy", frames)
    frames.astype(">u2").tofile(folder / "scan.raw")
    np.save(folder / "dark.npy", np.full((32, 32), 2.0))
    np.save(folder / "gain.npy", np.ones((32, 32)))
    roi = np.zeros((8, 8), bool)
    roi[2:6, 1:7] = True
    np.save(folder / "roi.npy", roi)
    np.save(folder / "mask.npy", (np.hypot(y - 15.5, x - 15.5) < 8).astype(np.float32))
    import h5py

    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_dataset("entry/data", data=frames, chunks=(1, 8, 32, 32), compression="gzip")
        file["entry/flat"] = np.ones((32, 32))


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_the_page_run(page: str, tmp_path: Path) -> None:
    blocks = run_page.blocks_of((ROOT / page).read_text(encoding="utf-8"))
    if not any(b.kind in ("python", "console") and b.not_run is None for b in blocks):
        return
    example_files(tmp_path)
    env = {**os.environ, "MPLBACKEND": "Agg", "PYTHONWARNINGS": "error", "COLUMNS": "140", "NO_COLOR": "1"}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/system/run_page.py"), str(ROOT / page)],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout


def test_few_examples_are_left_out_and_each_says_why() -> None:
    left_out = [(p, b.line, b.not_run) for p in PAGES for b in run_page.blocks_of((ROOT / p).read_text("utf-8")) if b.not_run is not None]
    assert all(reason for _, _, reason in left_out), left_out
    assert len(left_out) <= MOST_NOT_RUN, left_out


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, flags=re.M)}


def test_every_page_is_in_an_index() -> None:
    missing = []
    for page in PAGES:
        folder, _, name = page.rpartition("/")
        index, link = ("docs/adr/README.md", name) if folder == "docs/adr" else ("docs/README.md", page.removeprefix("docs/"))
        if folder.startswith("docs") and name != "README.md" and f"({link})" not in (ROOT / index).read_text(encoding="utf-8"):
            missing.append(page)
    assert missing == [], "add them to docs/README.md, decisions to docs/adr/README.md"


def test_the_reference_is_that_of_the_docstrings() -> None:
    spec = importlib.util.spec_from_file_location("_reference", ROOT / "docs/reference/build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    stale = [name for name, text in build.pages().items() if (ROOT / "docs/reference" / name).read_text(encoding="utf-8") != text]
    assert stale == [], "docstrings have changed: run `make docs`"


# -- the runner itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("```python\nx = 1\n```\n\n```python\nprint(x + 1)\n#> 3\n```\n", "line 6"),
        ("```python\nraise ValueError('boom')\n```\n", "boom"),
        ("```console\n$ false\n```\n", "exits with 1, not 0"),
        ("```console\n$ echo hello\ngoodbye\n```\n", "but it prints"),
        ("```console\n$ true  # exits 3\n```\n", "exits with 0, not 3"),
        ("# A page\n\n```python\n# file: m.py\nx = 4\n```\n\n```python\nimport m\nassert m.x == 5\n```\n", "AssertionError"),
    ],
)
def test_the_runner_finds_what_is_wrong(page: str, says: str, tmp_path: Path) -> None:
    assert says in run_text(page, tmp_path)


@pytest.mark.parametrize(
    "page",
    [
        "```python\nx = 1\n```\n\n```python\nprint(x + 1, 'and more')\n#> 2 ...\n```\n",
        "```python\n# not run: needs a detector\nraise SystemExit\n```\n",
        "```console\n$ echo a  b\na b\n$ exit 3  # exits 3\n```\n",
        "1. item\n\n    ```console\n    $ true\n    ```\n",
        "```text\nnothing to run\n```\n",
    ],
)
def test_the_runner_accepts_what_is_right(page: str, tmp_path: Path) -> None:
    assert run_text(page, tmp_path) == ""


def run_text(page: str, folder: Path) -> str:
    (folder / "page.md").write_text(page, encoding="utf-8")
    runner = [sys.executable, str(ROOT / "tests/system/run_page.py"), "page.md"]
    done = subprocess.run(runner, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stderr
