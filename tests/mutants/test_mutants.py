"""The tests find planted faults (faults.toml): each is put into a copy of the tree, and the tests it names must fail."""

from __future__ import annotations

import compileall
import os
import py_compile
import queue
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("libstream", "udfs", "executors", "io_backends", "web_gui", "tests")
FILES = ("setup.cfg", "pyproject.toml")
FAULTS: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "faults.toml").read_text(encoding="utf-8"))["fault"]
PASSED, FAILED = 0, 1  # exit codes of pytest; others mean that it could not run the tests


def copied(copy: Path) -> Path:
    """A copy of the tree."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "static", "bench"))
    for file in FILES:
        shutil.copy(ROOT / file, copy / file)
    # bytecode that is checked by the hash of its source: a fault of the same size within the same second is seen
    compileall.compile_dir(copy, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return copy


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound copy, made once."""
    return copied(tmp_path_factory.mktemp("mutants") / "copy")


def run(tree: Path, tests: list[str], cache: Path | None = None, limit_s: float = 20.0) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy in a process of their own."""
    env = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LIBSTREAM_MUTANT": str(tree),
        "LIBSTREAM_TEST_LIMIT_S": str(limit_s),
    }
    if cache is not None:
        env["LIBSTREAM_CACHE_DIR"] = str(cache)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tests.mutants.where", "-p", "no:cacheprovider", "--no-header", "--timeout=60",
         "--hypothesis-profile=mutants", *tests],
        cwd=tree, env=env, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def test_without_a_fault_the_named_tests_pass(tree: Path) -> None:
    done = run(tree, sorted({test for fault in FAULTS for test in fault["tests"]}))
    assert done.returncode == PASSED, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Any]]]:
    """For each fault that was chosen, what its tests said: as many at a time as there are processors, each in its own copy."""
    chosen = [item.callspec.params["fault"] for item in request.session.items if getattr(item, "originalname", "") == FINDS]
    free: queue.SimpleQueue[Path] = queue.SimpleQueue()
    n = max(1, min(os.cpu_count() or 1, 4, len(chosen)))
    for i in range(n):
        free.put(copied(tmp_path_factory.mktemp("mutants") / f"copy-{i}"))

    def find(fault: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        copy = free.get()
        try:
            return planted(fault, copy, tmp_path_factory.mktemp("cache") if fault.get("own_cache") else None)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(n) as pool:
        yield {fault["name"]: pool.submit(find, fault) for fault in chosen}
        pool.shutdown(cancel_futures=True)


def planted(fault: dict[str, Any], copy: Path, cache: Path | None) -> subprocess.CompletedProcess[str]:
    """Run the tests that a fault names in a copy that has it."""
    path = copy / fault["file"]
    sound = path.read_text(encoding="utf-8")
    n = sound.count(fault["old"])
    assert n == 1, (
        f"fault {fault['name']!r}: its text occurs {n} times in {fault['file']}; the code has changed, plant it anew: {fault['old']!r}"
    )
    path.write_text(sound.replace(fault["old"], fault["new"]), encoding="utf-8")
    try:
        return run(copy, fault["tests"], cache, 1.0)
    finally:
        path.write_text(sound, encoding="utf-8")


@pytest.mark.leaves("children", "those that look for the next faults")
@pytest.mark.leaves("files", "the sources into which the next faults are planted")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault["name"])
def test_a_planted_fault_is_found(fault: dict[str, Any], outcomes: dict[str, Future[Any]]) -> None:
    done = outcomes[fault["name"]].result()
    assert done.returncode == FAILED, (
        f"{fault['tests']} did not find it (exit code {done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    )


FINDS = test_a_planted_fault_is_found.__name__


def test_there_are_enough_and_each_has_its_own_name() -> None:
    assert len(FAULTS) >= 20
    assert len({fault["name"] for fault in FAULTS}) == len(FAULTS)
    assert all(set(fault) <= {"name", "file", "old", "new", "tests", "own_cache"} for fault in FAULTS)


def test_the_copy_is_what_is_tested(tree: Path) -> None:
    """A syntax error in the copy is seen: so the copy is what is imported."""
    path = tree / "libstream" / "plan" / "roi.py"
    sound = path.read_text(encoding="utf-8")
    path.write_text("raise RuntimeError('from the copy')\n", encoding="utf-8")
    try:
        done = run(tree, ["tests/unit/plan/test_roi.py"])
    finally:
        path.write_text(sound, encoding="utf-8")
    assert done.returncode not in (PASSED, FAILED)
    assert "from the copy" in done.stdout + done.stderr
