"""`import libstream` is cheap, and nothing can be imported under two names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import links

HEAVY = ("numba", "llvmlite", "zmq", "tornado", "dask", "distributed", "h5py", "hdf5plugin", "matplotlib", "pydantic", "loky", "scipy")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=links.ROOT, capture_output=True, text=True, timeout=60)


def loaded_by(code: str) -> set[str]:
    done = python(f"{code}\nimport sys\nprint(*sorted(set(m.split('.')[0] for m in sys.modules)))")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


ALL_MODULES = "import pkgutil, importlib, {0} as p\nfor m in pkgutil.walk_packages(p.__path__, '{0}.'): importlib.import_module(m.name)"

USES = {
    "the package": "import libstream",
    "a UDF of the user": (
        "import libstream as ls\nclass A(ls.UDF):\n    a: int = ls.param(1, ge=0)\n    def process_frame(self, frame, out): pass\nA(a=2)"
    ),
    "the verbs": "import libstream as ls\nls.run, ls.open, ls.start",
    "the command line": "import libstream.cli.main",
    "every UDF": ALL_MODULES.format("libstream.udfs"),
    "every format and sink": ALL_MODULES.format("libstream.io_backends"),
    "every executor": ALL_MODULES.format("libstream.executors"),
}


@pytest.mark.parametrize("use", USES)
def test_nothing_heavy_is_loaded(use: str) -> None:
    assert loaded_by(USES[use]) & set(HEAVY) == set()


def test_the_check_sees_what_is_loaded() -> None:
    assert "h5py" in loaded_by("import libstream, h5py")


@pytest.mark.parametrize("folder", ["udfs", "executors", "io_backends", "web_gui"])
def test_a_plug_in_folder_is_not_a_top_level_package(folder: str) -> None:
    done = python(f"import {folder}")
    assert done.returncode == 1
    assert f"import libstream.{folder}, not {folder}" in done.stderr
    assert python(f"import libstream.{folder}").returncode == 0
