"""`import libstream as ls`: public names are there, are what they say, and stay so."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import libstream as ls
from tests import links


def test_type_checkers_see_the_public_names() -> None:
    tree = ast.parse((links.ROOT / "libstream/__init__.py").read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "_TYPE_CHECKING"]
    seen = {alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {**ls._HOME, **dict.fromkeys(ls._MODULES, "libstream")}


@pytest.mark.parametrize(
    "before",
    ["", "ls.open", "import libstream.run", "import libstream.run.job", "from libstream.run.work import Work", "import libstream.cli.main"],
)
def test_the_verb_run_is_not_hidden_by_the_package_run(before: str) -> None:
    code = (
        f"import libstream as ls\n{before}\nassert ls.run.__module__ == 'libstream.api', ls.run\n"
        "from libstream.run.job import Job\nfrom libstream import run\nassert run is ls.run\nassert callable(run)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_all_names_are_there() -> None:
    assert set(ls.__all__) <= set(dir(ls))
    for name in ls.__all__:
        assert getattr(ls, name) is getattr(ls, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        ls.opne  # noqa: B018
