"""Machine code that is kept in files: found without numba, the same results, and never taken where it does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from libstream.kernels.link import Code, linked, saved

_ODD = """
import sys
import numpy as np
import libstream as ls

TABLE = np.arange(200_000)  # too large to be written into code: its address is

@ls.kernel
def steps(n):  # calls itself
    return n if n < 2 else steps(n - 1) + steps(n - 2)

class Own(ls.UDF):  # arrays of its own
    def outputs(self):
        return {"a": ls.nav("f8")}

    @ls.kernel
    def process_frame(frame, a):
        total = 0.0
        for i in range(1, 300):
            own, other = np.zeros((3, i), frame.dtype), np.empty(i)
            for j in range(i):
                own[1, j] += frame[0, 0]
                other[j] = own[1, j] + own[0, j] - own[2, j]
            for j in range(i):
                total += other[j]
        a[0] = total

class Calls(ls.UDF):
    def outputs(self):
        return {"a": ls.nav("f8")}

    @ls.kernel
    def process_frame(frame, a):
        a[0] = steps(10)

class Lists(ls.UDF):
    def outputs(self):
        return {"a": ls.nav("f8")}

    @ls.kernel
    def process_frame(frame, a):
        found = [frame[0, 0]]
        for i in range(frame.shape[1]):
            found.append(frame[0, i])
        a[0] = len(found) + np.sin(np.float64(found[-1]))

class Large(ls.UDF):
    def outputs(self):
        return {"a": ls.nav("f8")}

    @ls.kernel
    def process_frame(frame, a):
        a[0] = TABLE[frame[0, 0] * 1000]

class Raises(ls.UDF):
    def outputs(self):
        return {"a": ls.nav("f8")}

    @ls.kernel
    def process_frame(frame, a):
        if frame[0, 0] == 4:
            raise ValueError("four")
        a[0] = 1

data = np.full((2, 2, 3, 3), 4, "u2")
for name in sys.argv[1:]:
    udf = globals().get(name) or getattr(ls.udfs, name)
    try:
        result = ls.run(data, udf(), executor="inline")
        print(name, *[v.data.tobytes().hex() for r in result.values() for v in r.arrays.values() if hasattr(v, "data")])
    except ls.errors.UDFError as exc:
        print(name, "four" in str(exc))
print("numba" in sys.modules)
"""


def _run(folder: Path, *names: str) -> tuple[list[str], bool]:
    """(what it printed for each UDF, whether numba was imported)."""
    (folder / "odd.py").write_text(_ODD)
    env = {**os.environ, "LIBSTREAM_CACHE_DIR": str(folder / "cache")}
    out = subprocess.run(
        [sys.executable, str(folder / "odd.py"), *names], env=env, capture_output=True, text=True, timeout=200, check=True
    ).stdout.split("\n")
    return out[:-2], out[-2] == "True"


def test_numba_is_not_imported_for_code_in_the_cache(tmp_path: Path) -> None:
    names = ("Sum", "VirtualDetector", "CenterOfMass", "Own")
    first, compiled = _run(tmp_path, *names)
    again, imported = _run(tmp_path, *names)
    assert compiled
    assert not imported
    assert again == first


def test_kernels_that_need_more_than_their_code(tmp_path: Path) -> None:
    names = ("Calls", "Lists", "Large", "Raises", "Own")
    first, _ = _run(tmp_path, *names)
    again, _ = _run(tmp_path, *names)
    assert again == first
    alone, _ = _run(tmp_path, "Calls", "Raises")
    assert alone == [first[0], first[3]]
    assert first[3] == "Raises True"


def test_damaged_files_are_made_again(tmp_path: Path) -> None:
    first, _ = _run(tmp_path, "Sum")
    files = list((tmp_path / "cache" / "kernels").glob("*.o"))
    assert files
    for n, file in enumerate(files):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data if n else data[:20])
    again, compiled = _run(tmp_path, "Sum")
    assert (again, compiled) == (first, True)
    assert all(saved(file) is not None for file in files)


def test_saved_code_is_what_was_saved(tmp_path: Path) -> None:
    code = Code("name", ("malloc",), b"\n\0code\n")
    code.save(tmp_path / "a.o")
    assert saved(tmp_path / "a.o") == code
    assert saved(tmp_path / "b.o") is None
    assert [p.name for p in tmp_path.iterdir()] == ["a.o"]


def test_a_function_that_nobody_has_is_named_not_linked() -> None:
    with pytest.raises(ImportError, match="no_such_function"):
        linked(Code("name", ("no_such_function",), b""))
