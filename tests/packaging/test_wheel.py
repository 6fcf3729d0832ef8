"""What is installed from the wheel, outside of the checkout, is whole and works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.packaging import dist

pytestmark = pytest.mark.packaging


def test_every_package_is_listed() -> None:
    """An editable install finds a sub-package that setup.cfg forgot; a wheel lacks it, silently."""
    listed, found = dist.listed_and_found()
    assert listed == found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """sdist, wheel, and the wheel rebuilt from the sdist."""
    work = tmp_path_factory.mktemp("dist")
    source = dist.clean_copy(work / "source")
    sdist, wheel = dist.build(source, work / "dist", "sdist", "wheel")
    with tarfile.open(sdist) as t:
        t.extractall(work / "unpacked", filter="data")
    (rebuilt,) = dist.build(next((work / "unpacked").iterdir()), work / "again", "wheel")
    return {"source": source, "sdist": sdist, "wheel": wheel, "rebuilt": rebuilt}


def test_wheel_and_sdist_hold_what_they_must(built: dict[str, Path]) -> None:
    wheel, sdist, rebuilt = (dist.names(built[k]) for k in ("wheel", "sdist", "rebuilt"))
    assert dist.faults(wheel, sdist, rebuilt, dist.expected_modules(built["source"])) == []


def test_faults_are_found(built: dict[str, Path]) -> None:
    wheel, sdist = dist.names(built["wheel"]), dist.names(built["sdist"])
    expected = dist.expected_modules(built["source"])
    planted = {
        "lacks libstream/udfs/__init__.py": (wheel - {"libstream/udfs/__init__.py"}, sdist, wheel),
        "outside of libstream/": (wheel | {"udfs/__init__.py"}, sdist, wheel),
        "in no package folder": (wheel | {"libstream/stale.py"}, sdist, wheel),
        "no py.typed": (wheel - {"libstream/py.typed"}, sdist, wheel),
        "no folder udfs/": (wheel, {n for n in sdist if not n.startswith("udfs/")}, wheel),
        "differs in ['libstream/ext.py']": (wheel, sdist, wheel - {"libstream/ext.py"}),
    }
    for says, archives in planted.items():
        assert any(says in fault for fault in dist.faults(*archives, expected)), says


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a fresh environment that holds the wheel; dependencies are borrowed from the environment of the tests.

    A folder named in a .pth file is put on sys.path, but .pth files in it are not read: the borrowed environment's
    editable libstream stays out.
    """
    env = tmp_path_factory.mktemp("fresh") / "env"
    run = {"check": True, "capture_output": True, "text": True, "timeout": 300}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], **run)  # type: ignore[call-overload]
    binaries = env / ("Scripts" if os.name == "nt" else "bin")
    python = binaries / Path(sys.executable).name
    if not python.exists():
        python = binaries / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet", str(built["wheel"])]
    subprocess.run(pip, **run)  # type: ignore[call-overload]
    where = subprocess.run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], **run)  # type: ignore[call-overload]
    borrowed = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    (Path(where.stdout.strip()) / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return binaries


def in_fresh(installed: Path, tmp_path: Path, *command: str) -> str:
    """Run a program of the fresh environment, outside of the checkout; returns what it prints."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(installed / command[0]), *command[1:]], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


SCRIPT = """
import pathlib, sys
import numpy as np
import libstream as ls
import libstream.udfs

home = pathlib.Path(sys.prefix).resolve()
for module in (ls, libstream.udfs):
    assert home in pathlib.Path(module.__file__).resolve().parents, module.__file__
source = ls.open("sim://?scan=4,4&frame=16,16")
result = ls.run(source, ls.udfs.Sum())
frames = np.asarray(source[...])
assert frames.shape == (4, 4, 16, 16), frames.shape
assert frames.any(), "the simulated frames are all zero"
np.testing.assert_array_equal(result["sum"]["sum"], frames.sum(axis=(0, 1)))
assert result.complete
result.save("sum.h5")
again = ls.load_result("sum.h5")
np.testing.assert_array_equal(again["sum"]["sum"], result["sum"]["sum"])
print("ran a UDF from", home)
"""


def test_the_installed_wheel_runs_a_udf(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    assert "ran a UDF" in in_fresh(installed, tmp_path, "python", "script.py")


def test_the_installed_program_works(installed: Path, tmp_path: Path) -> None:
    info = json.loads(in_fresh(installed, tmp_path, "libstream", "info", "sim://?scan=4,5&frame=16,8", "--json"))
    text = json.dumps(info)
    assert "4, 5" in text, text
    assert "16, 8" in text, text
    in_fresh(installed, tmp_path, "libstream", "run", "sim://?scan=4,4&frame=16,16", "--udf", "Sum", "-o", "out.h5")
    assert (tmp_path / "out.h5").stat().st_size > 0
