"""The commands that README promises: they exist, and say what is wrong where they cannot work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import links

pytestmark = [pytest.mark.packaging, pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=links.ROOT, env=env, capture_output=True, text=True, timeout=60)


def fake_python(folder: Path, text: str) -> Path:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench", "soak", "warmup", "docs", "clean"])
def test_the_target_exists_and_is_explained(target: str, tmp_path: Path) -> None:
    done = make("--dry-run", f"VENV={tmp_path / 'venv'}", target)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"make {target}\b", make("help").stdout)


def test_nothing_is_installed_twice(tmp_path: Path) -> None:
    for stamp in ("all", "test", "dev"):
        (tmp_path / f".installed-{stamp}").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    done = make("--dry-run", f"VENV={tmp_path}", "test")
    assert "pip install" not in done.stdout
    assert "-m venv" not in done.stdout
    assert "pytest" in done.stdout


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    old = fake_python(tmp_path, 'if [ "$1" = --version ]; then echo Python 3.9.2; else exit 1; fi')
    done = make(f"PYTHON={old}", f"VENV={tmp_path / 'venv'}", str(tmp_path / "venv/bin/python"))
    assert done.returncode == 2
    assert "is not a Python >= 3.11: Python 3.9.2" in done.stderr


def test_a_missing_venv_module_is_explained(tmp_path: Path) -> None:
    bare = fake_python(tmp_path, f'if [ "$2" = venv ]; then mkdir -p "$3"; exit 1; fi; exec "{sys.executable}" "$@"')
    venv = tmp_path / "venv"
    done = make(f"PYTHON={bare}", f"VENV={venv}", str(venv / "bin/python"))
    assert done.returncode == 2
    assert "apt install python3-venv" in done.stderr
    assert not venv.exists(), "a half-made environment would be taken for a whole one"


def test_ci_runs_what_the_readme_says() -> None:
    script = links.ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert re.search(r"^make test\b", text, flags=re.M)
    makefile = (links.ROOT / "Makefile").read_text(encoding="utf-8")
    parts = re.search(r"^check: (.+)$", makefile, flags=re.M)
    assert parts is not None
    made = {word for line in re.findall(r"^make (.+)$", text, flags=re.M) for word in line.split()}
    assert set(parts[1].split()) <= made, "a part of make check that CI leaves out"
    readme = (links.ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme
    assert "make test" in readme
