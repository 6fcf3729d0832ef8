"""`import libstream as ls`: public names are there, are what they say, and stay so."""

from __future__ import annotations

import ast
import configparser
import importlib
import subprocess
import sys

import pytest

import libstream as ls
from libstream import registry
from tests import links


def test_type_checkers_see_the_public_names() -> None:
    tree = ast.parse((links.ROOT / "libstream/__init__.py").read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "_typing.TYPE_CHECKING"]
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


def entry_points(group: str) -> dict[str, str]:
    """Entry points of a group in setup.cfg, by name: what will be registered, whatever is installed now."""
    cfg = configparser.ConfigParser()
    cfg.read(links.ROOT / "setup.cfg", encoding="utf-8")
    rows = cfg["options.entry_points"].get(group, "").strip().splitlines()
    return {name.strip(): value.strip() for name, value in (row.split("=") for row in rows)}


@pytest.mark.parametrize("group", ["udfs", "formats", "executors", "sinks", "commands"])
def test_every_registered_plug_in_exists_and_is_installed(group: str) -> None:
    listed = entry_points(f"libstream.{group}")
    assert listed
    for value in listed.values():
        module, _, name = value.partition(":")
        assert hasattr(importlib.import_module(module), name), value
    installed = {p.name: p.value for p in registry.plugins(group) if p.distribution == "libstream"}
    assert installed == listed, "setup.cfg has changed since the installation: pip install -e . --no-deps"


def test_built_in_udfs_are_the_registered_ones() -> None:
    registered = {name: value.partition(":")[0] for name, value in entry_points("libstream.udfs").items()}
    assert registered == ls.udfs._HOME
    assert ls.udfs.__all__ == sorted(registered)
    tree = ast.parse((links.ROOT / "udfs/__init__.py").read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "_typing.TYPE_CHECKING"]
    assert {a.asname: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names} == registered
    for name in registered:
        assert getattr(ls.udfs, name).__name__ == name
        assert getattr(ls.udfs, name).__doc__


def test_an_unknown_udf_names_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="built-in UDFs are CenterOfMass"):
        ls.udfs.CentreOfMass  # noqa: B018
