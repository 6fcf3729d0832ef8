"""House rules that a linter cannot know. Each check is a function of a path and its text, so that it is itself tested."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator

import pytest

import libstream as ls
from tests import links

ROOT = links.ROOT
FOLDERS = ("libstream", "udfs", "executors", "io_backends", "web_gui")
MAX_LINES = 400

HEAVY = {"numba", "llvmlite", "h5py", "hdf5plugin", "zmq", "tornado", "dask", "distributed", "pydantic", "matplotlib", "loky", "scipy"}
HEAVY |= {"anywidget", "ipywidgets", "traitlets", "IPython"}
# themselves imported only when something is compiled
MAY_IMPORT_HEAVY = {
    p: {"numba", "llvmlite"} for p in ("libstream/kernels/rt.py", "libstream/kernels/emit.py", "libstream/codecs/_raw_numba.py")
}
# themselves imported only when a server is started
MAY_IMPORT_HEAVY |= {f"web_gui/{name}.py": {"tornado"} for name in ("gate", "requests", "server", "viewer")}
MAKES_TILES = {"libstream/run/hooked.py"}
OPENS_SOCKETS = {
    f"io_backends/streams/{name}.py" for name in ("_tcp", "_zmq", "_zmq_plain", "_zmq_route", "_merlin_control", "_merlin_simulated")
}
OPENS_SOCKETS.add("libstream/testing/kinds.py")  # looks for free ports


def library() -> list[str]:
    """Paths of all modules of the library, from the root of the checkout."""
    return sorted(p.relative_to(ROOT).as_posix() for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))


def texts() -> list[str]:
    """Paths of all text files of the project."""
    kinds = {".py", ".md", ".toml", ".cfg", ".txt", ".js", ".css", ".html", ".json"}
    folders = [ROOT / f for f in (*FOLDERS, "tests", "docs", ".ci")]
    found = [p for p in ROOT.iterdir() if p.is_file() and (p.suffix in kinds or p.name in ("Makefile", ".gitignore"))]
    for folder in folders:
        found += [p for p in folder.rglob("*") if p.is_file() and (p.suffix in kinds or folder.name == ".ci")]
    return sorted(p.relative_to(ROOT).as_posix() for p in found if "__pycache__" not in p.parts)


def imports_at_load(tree: ast.Module) -> Iterator[str]:
    """Names of modules that are imported when this module is: not in functions, not for type checkers only."""
    stack: list[ast.stmt] = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.ClassDef)):
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                continue
            for name in ("body", "orelse", "finalbody"):
                stack += getattr(node, name, [])
            stack += [s for handler in getattr(node, "handlers", []) for s in handler.body]


def breaches(path: str, text: str) -> list[str]:
    """House rules that this module of the library breaks."""
    out: list[str] = []
    tree = ast.parse(text, path)
    for name in imports_at_load(tree):
        top = name.split(".")[0]
        if top in HEAVY - MAY_IMPORT_HEAVY.get(path, set()):
            out.append(f"{path} imports {name} when it is loaded; import it inside the function that needs it")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == "Tile" and path not in MAKES_TILES:
                out.append(f"{path}:{node.lineno} makes a Tile; only {', '.join(MAKES_TILES)} does")
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.split(".")[0] in ("socket", "zmq") and path not in OPENS_SOCKETS:
                out.append(f"{path}:{node.lineno} imports {name}; sockets exist only in {', '.join(OPENS_SOCKETS)}")
    return out


# with brackets, so that this file does not break its own rules
LEFT_OVER = re.compile(r"\b(TOD[O]|FIXM[E]|XX[X]|HAC[K])\b")
MACHINE_PATH = re.compile(r"/wor[k]/|/far[m]/|/roo[t]/|(?<![\w)\]])[.]librar[y]|/tm[p]/w\b")


def test_modules_keep_the_house_rules() -> None:
    assert [b for path in library() for b in breaches(path, (ROOT / path).read_text(encoding="utf-8"))] == []


def test_no_machine_paths_and_no_left_overs() -> None:
    found = []
    for path in texts():
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
            if MACHINE_PATH.search(line) or LEFT_OVER.search(line):
                found.append(f"{path}:{number}: {line.strip()[:100]}")
    assert found == []


def test_long_files_have_a_reason() -> None:
    reasons = tomllib.loads((ROOT / "tests/unit/sizes.toml").read_text(encoding="utf-8"))["reasons"]
    sizes = {p: len((ROOT / p).read_text(encoding="utf-8").splitlines()) for p in texts() if p.endswith((".py", ".js"))}
    long = {p: n for p, n in sizes.items() if n > MAX_LINES}
    assert {p: n for p, n in long.items() if p not in reasons} == {}, "split them, or say why not in tests/unit/sizes.toml"
    assert set(reasons) - set(long) == set(), "no longer long: take them out of tests/unit/sizes.toml"
    assert all(len(reason.split()) >= 5 for reason in reasons.values()), "a reason is a sentence"


def test_public_names_are_documented() -> None:
    # an annotation cannot have a docstring: the glossary explains it
    assert [n for n in ls.__all__ if n != "PerPosition" and not (getattr(ls, n).__doc__ or "").strip()] == []


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("udfs/bad.py", "import numba", "imports numba when it is loaded"),
        ("udfs/bad.py", "try:\n    from h5py import File\nexcept ImportError:\n    pass", "imports h5py"),
        ("libstream/run/tiles.py", "from libstream.ext import Tile\nt = Tile(1, 2)", "makes a Tile"),
        ("libstream/run/tiles.py", "from libstream.model import tile\nt = tile.Tile(1, 2)", "makes a Tile"),
        ("io_backends/files/bad.py", "def f():\n    import socket", "imports socket"),
        ("libstream/api.py", "def f():\n    from zmq import Context", "imports zmq"),
    ],
)
def test_a_planted_breach_is_found(path: str, text: str, says: str) -> None:
    assert any(says in found for found in breaches(path, text))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("libstream/run/hooked.py", "t = Tile(1, 2)"),
        ("libstream/kernels/rt.py", "import numba"),
        ("udfs/good.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numba\ndef f():\n    import numba"),
        ("udfs/good.py", "def f(tile: Tile) -> Tile:\n    return tile"),
    ],
)
def test_what_is_allowed_passes(path: str, text: str) -> None:
    assert breaches(path, text) == []


@pytest.mark.parametrize("line", ["open('/wor*k/x')", "# TOD*O later", "../.librar*y/a", "cd /roo*t/x"])
def test_left_overs_are_found(line: str) -> None:
    line = line.replace("*", "")
    assert MACHINE_PATH.search(line) or LEFT_OVER.search(line)


def test_an_attribute_is_no_folder() -> None:
    assert not MACHINE_PATH.search("built = made.librar*y()[0].librar*y".replace("*", ""))
