"""Who may import whom (setup.cfg, importlinter): the tree keeps to it, and each planted breach is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import links

pytestmark = pytest.mark.packaging


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over the package in `tree`; from there, because it looks into the current folder first."""
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command(sys.argv[1:])"
    command = [sys.executable, "-c", code, "--config", str(links.ROOT / "setup.cfg"), "--no-cache", "--no-logo"]
    return subprocess.run(
        command, cwd=tree, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package as one tree of real files."""
    linked = links.make(tmp_path_factory.mktemp("links"))
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(linked / "libstream", copy / "libstream", ignore=shutil.ignore_patterns("__pycache__", "static"))
    return copy


def test_the_tree_of_links_keeps_the_contracts(tmp_path: Path) -> None:
    done = lint(links.make(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


BREACHES = {
    "a plug-in imports the engine": ("io_backends/files/npy.py", "libstream.run.tiles"),
    "a plug-in passes by the door": ("udfs/com.py", "libstream.model.shape"),
    "a format imports codecs directly": ("io_backends/files/npy.py", "libstream.codecs.merlin"),
    "one kind of plug-in imports another": ("udfs/com.py", "libstream.executors.threads"),
    "the model imports contracts": ("libstream/model/shape.py", "libstream.contracts.udf"),
    "errors import the model": ("libstream/errors.py", "libstream.model.shape"),
    "kernels import the model": ("libstream/kernels/jit.py", "libstream.model.shape"),
    "contracts import the registry": ("libstream/contracts/source.py", "libstream.registry"),
    "the plan imports the engine": ("libstream/plan/roi.py", "libstream.run.tiles"),
    "the engine imports the verbs": ("libstream/run/tiles.py", "libstream.api"),
    "the core imports a plug-in": ("libstream/api.py", "libstream.io_backends.files.npy"),
    "the core imports a plug-in inside a function": ("libstream/registry.py", "libstream.udfs.sums"),
    "the engine imports the command line": ("libstream/run/tiles.py", "libstream.cli.main"),
    "the page imports the engine": ("web_gui/topics.py", "libstream.run.tiles"),
    "the page passes by the jobs": ("web_gui/wire.py", "libstream.api"),
    "jobs import the page": ("libstream/jobs/session.py", "libstream.web_gui.wire"),
    "the verbs import the jobs": ("libstream/api.py", "libstream.jobs.session"),
    "the command line imports the page": ("libstream/cli/serve.py", "libstream.web_gui.entry"),
    "codecs import a contract": ("libstream/codecs/merlin.py", "libstream.contracts.udf"),
    "a module in a room that nobody named": ("libstream/helpers.py", "libstream.errors"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_planted_breach_is_found(breach: str, tree: Path) -> None:
    path, imported = BREACHES[breach]
    file = tree / "libstream" / path.removeprefix("libstream/")
    before = file.read_text(encoding="utf-8") if file.exists() else None
    assert before is not None or "nobody named" in breach, f"{path} is no more: plant this breach elsewhere"
    try:
        file.write_text(f"{before or ''}\n\ndef _planted():\n    import {imported}\n    return {imported}\n", encoding="utf-8")
        done = lint(tree)
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_text(before, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    named = file.stem if before is None else "libstream." + path.removeprefix("libstream/").removesuffix(".py").replace("/", ".")
    assert named in done.stdout, done.stdout
