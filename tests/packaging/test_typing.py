"""Users' code is type-checked against libstream: what is right passes mypy --strict, what is wrong is found."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests import links

pytestmark = pytest.mark.packaging

CODE = """
import numpy as np
import libstream as ls

Frame = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class Bright(ls.UDF):
    threshold: float = ls.param(10.0, ge=0)
    template: ls.Array | None = None

    def outputs(self) -> dict[str, ls.Output]:
        return {"n": ls.nav("int64"), "image": ls.sig(self.meta.dtype, merge="max")}

    @ls.kernel
    @staticmethod
    def process_frame(frame: Frame, n: Frame, threshold: float) -> None:
        n[0] = (frame > threshold).sum()


scan = ls.open("scan.mib", scan=(8, 8))
result: ls.Result = ls.run(scan, [Bright(threshold=3.0), ls.udfs.CenterOfMass()])
job: ls.Job = ls.start(scan, {"a": Bright()}, roi=np.ones((8, 8), bool))
generation: int = job.update("a", threshold=4.0)
for snapshot in ls.run_iter(scan, Bright()):
    complete: bool = snapshot.complete
"""

WRONG = {
    'Bright(threshold="high")': "arg-type",
    "Bright(3.0)": "call-arg",
    "Bright(treshold=3.0)": "call-arg",
    "Bright().threshold = 4.0": "misc",
    "ls.opne('scan.mib')": "attr-defined",
    "ls.run(scan, 3)": "arg-type",
    "ls.udfs.CenterOfMass(radios=3)": "call-arg",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What mypy says of the code, with the wrong lines after it, by line."""
    folder = tmp_path_factory.mktemp("typing")
    tree = links.make(folder / "links")
    (folder / "user.py").write_text(CODE + "\n".join(WRONG) + "\n", encoding="utf-8")
    (folder / "mypy.ini").write_text(
        f"[mypy]\nmypy_path = {tree}\nstrict = true\npython_version = 3.12\n[mypy-numba.*]\nfollow_imports = skip\n"
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        "mypy.ini",
        "--cache-dir",
        str(links.ROOT / ".mypy_cache" / "users"),
        "user.py",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    rows = [re.match(r"user\.py:(\d+): error: (.*)", line) for line in done.stdout.splitlines()]
    return {int(m[1]): m[2] for m in rows if m}


def test_right_code_passes(found: dict[int, str]) -> None:
    n_right = CODE.count("\n")
    assert {line: text for line, text in found.items() if line <= n_right} == {}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_code_is_found(wrong: str, found: dict[int, str]) -> None:
    line = CODE.count("\n") + 1 + list(WRONG).index(wrong)
    assert f"[{WRONG[wrong]}]" in found.get(line, "nothing found")
