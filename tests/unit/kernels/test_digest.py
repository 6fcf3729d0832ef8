"""The digest of a kernel covers all that decides what it computes, so that compiled code is never stale."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libstream.kernels.digest import kernel_digest
from libstream.kernels.jit import Kernel

ROOT = Path(__file__).parents[3]

BASE = """
    import math
    import numpy as np
    import libstream as ls

    FACTOR = 3
    SHAPE = (1, 23)
    TABLE = np.arange(4)
    NAMES = frozenset({"a", "b", "c"})

    def plain(v):
        return v + 1

    def other(v):
        return v + 2

    @ls.kernel
    def inner(v):
        return plain(v) * FACTOR + TABLE[0]

    @ls.kernel
    def callee(v):
        return inner(v) + SHAPE[0]

    def make(offset):
        @ls.kernel
        def process_frame(frame, out):
            out[0] = callee(frame[0, 0]) + offset + math.sqrt(4.0)
        return process_frame

    kernel = make(5)
"""

EDITS = {
    "a constant in the code": ("math.sqrt(4.0)", "math.sqrt(9.0)"),
    "a global number": ("FACTOR = 3", "FACTOR = 4"),
    "its type": ("FACTOR = 3", "FACTOR = 3.0"),
    "a global tuple": ("SHAPE = (1, 23)", "SHAPE = (12, 3)"),
    "the nesting of a tuple": ("SHAPE = (1, 23)", "SHAPE = ((1,), 23)"),
    "a global array": ("np.arange(4)", "np.arange(1, 5)"),
    "the dtype of an array": ("np.arange(4)", "np.arange(4.0)"),
    "the shape of an array": ("np.arange(4)", "np.arange(4).reshape(2, 2)"),
    "a captured value": ("make(5)", "make(6)"),
    "a plain function two calls down": ("return v + 1", "return v + 3"),
    "which function a name means": ("return plain(v) * FACTOR", "return other(v) * FACTOR"),
    "a kernel that is called": ("return inner(v) + SHAPE[0]", "return inner(v) - SHAPE[0]"),
    "the flags of a kernel that is called": ("@ls.kernel\n    def inner", "@ls.kernel(fastmath=True)\n    def inner"),
    "its own flags": ("        @ls.kernel\n", "        @ls.kernel(fastmath={'reassoc'})\n"),
    "the arguments": ("def process_frame(frame, out)", "def process_frame(frame, out, extra)"),
    "a function of a module": ("math.sqrt(4.0)", "math.cos(4.0)"),
}

_numbers = itertools.count()


def kernel_of(text: str) -> Kernel:
    scope: dict[str, Any] = {"__name__": f"made_{next(_numbers)}"}
    exec(compile(textwrap.dedent(text), "<made>", "exec"), scope)
    return scope["kernel"]  # type: ignore[no-any-return]


def test_the_same_text_has_the_same_digest() -> None:
    assert kernel_digest(kernel_of(BASE)) == kernel_digest(kernel_of(BASE))
    assert kernel_digest(kernel_of("# moved down\n\n\n" + textwrap.dedent(BASE))) == kernel_digest(kernel_of(BASE))


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_changes_the_digest(edit: str) -> None:
    old, new = EDITS[edit]
    assert BASE.count(old) == 1, edit
    assert kernel_digest(kernel_of(BASE.replace(old, new))) != kernel_digest(kernel_of(BASE))


def test_what_is_not_reached_does_not_matter() -> None:
    assert kernel_digest(kernel_of(BASE.replace("return v + 2", "return v + 99"))) == kernel_digest(kernel_of(BASE))


def test_two_names_of_functions_that_both_occur() -> None:
    text = "def f(v): return v + 1\ndef g(v): return v + 2\nimport libstream as ls\na, b, c = f, g, {}\n"
    text += "@ls.kernel\ndef kernel(frame, out):\n    out[0] = a(1) + b(1) + c(1)\n"
    assert kernel_digest(kernel_of(text.format("f"))) != kernel_digest(kernel_of(text.format("g")))


def test_texts_that_go_with_it() -> None:
    k = kernel_of(BASE)
    assert (
        len({kernel_digest(k), kernel_digest(k, "a"), kernel_digest(k, "a", "b"), kernel_digest(k, "ab"), kernel_digest(k, "b", "a")}) == 5
    )


def test_a_function_used_through_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = []
    for i, value in enumerate((1, 2, 1)):
        package = tmp_path / f"package_{i}"
        package.mkdir()
        (package / "__init__.py").write_text("from . import deep\n")
        (package / "deep.py").write_text(f"import libstream as ls\n@ls.kernel\ndef helper(v):\n    return v + {value}\nunused = {i}\n")
        text = f"import package_{i} as package\nimport libstream as ls\n@ls.kernel\n"
        text += "def kernel(frame, out):\n    out[0] = package.deep.helper(1)\n"
        # the name of the module is part of what is reached: replace it, so that only the function differs
        k = kernel_of(text)
        sys.modules[f"package_{i}"].__name__ = "package"
        sys.modules[f"package_{i}.deep"].__name__ = "package.deep"
        digests.append(kernel_digest(k))
    assert digests[0] != digests[1]
    assert digests[0] == digests[2]


def test_recursion_ends() -> None:
    text = "import libstream as ls\ndef f(n):\n    return 1 if n < 1 else g(n - 1)\ndef g(n):\n    return f(n)\nkernel = ls.kernel(f)\n"
    assert len(kernel_digest(kernel_of(text))) == 64


def run(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_digest_is_the_same_in_every_process() -> None:
    flags = """
        from libstream.ext import kernel
        from libstream.kernels.digest import kernel_digest

        @kernel(fastmath={"reassoc", "nsz", "contract", "arcp"})
        def f(x):
            return x

        print(kernel_digest(f))
    """
    assert len({run(flags, PYTHONHASHSEED=seed) for seed in "12345"}) == 1
    code = textwrap.dedent(BASE).replace("callee(frame[0, 0])", "callee(frame[0, 0]) + (frame[0, 0] in NAMES) + (frame in {'x', 'y', 'z'})")
    code += "\nfrom libstream.kernels.digest import kernel_digest\nprint(kernel_digest(kernel))"
    assert len({run(code, PYTHONHASHSEED=seed) for seed in ("1", "2")}) == 1


USER = """
    import sys
    sys.path.insert(0, {folder!r})
    import numpy as np
    import libstream as ls
    from numba.core import event
    import helper

    class Compiles(event.Listener):
        n = 0
        def on_start(self, e): Compiles.n += 1
        def on_end(self, e): pass

    class U(ls.UDF):
        def outputs(self):
            return {{"a": ls.nav("f8")}}

        @ls.kernel
        def process_frame(frame, a):
            a[0] = helper.value(frame[0, 0]) + helper.OFFSET

    event.register("numba:compile", Compiles())
    r = ls.run(np.full((2, 2, 3), 4, "u2"), U(), executor="inline")
    print(r["a"][0], "compiled" if Compiles.n else "loaded")
"""


def test_compiled_code_is_kept_and_never_stale(tmp_path: Path) -> None:
    """Three processes with one cache: the module is edited between them, back and forth, with the same size and time stamp."""
    (tmp_path / "lib").mkdir()
    module = tmp_path / "lib" / "helper.py"
    out = []
    for text in ("v * 2", "v * 3", "v * 2"):
        module.write_text(f"import libstream as ls\nOFFSET = 1.0\n@ls.kernel\ndef value(v):\n    return {text}\n")
        os.utime(module, (1e9, 1e9))
        code = USER.format(folder=str(tmp_path / "lib"))
        out.append(run(code, LIBSTREAM_CACHE_DIR=str(tmp_path / "cache"), PYTHONDONTWRITEBYTECODE="1"))
    assert out == ["9.0 compiled", "13.0 compiled", "9.0 loaded"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    (tmp_path / "helper.py").write_text("import libstream as ls\nOFFSET = 1.0\n@ls.kernel\ndef value(v):\n    return v * 2\n")
    code = USER.format(folder=str(tmp_path))
    assert run(code, LIBSTREAM_CACHE_DIR=str(blocked / "cache")) == "9.0 compiled"


def test_arrays_are_covered_by_content() -> None:
    def made(table: Any) -> Kernel:
        def f(frame: Any, out: Any) -> None:
            out[0] = table[0]

        return Kernel(f)

    a = np.zeros(2000)
    b = a.copy()
    b[1000] = 1e-9  # its repr has dots there
    assert kernel_digest(made(a)) != kernel_digest(made(b))
