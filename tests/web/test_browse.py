"""Files under the roots and no others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libstream.errors import UsageError
from libstream.web_gui.browse import Roots


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "day").mkdir(parents=True)
    (root / "day" / "scan.mib").write_bytes(b"x" * 10)
    (root / "notes.txt").write_text("x")
    (root / ".hidden").write_text("x")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.npy").write_text("x")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "key").symlink_to(tmp_path / "secret" / "key.npy")
    (root / "dead").symlink_to(tmp_path / "nothing")
    (root / "loop").symlink_to(root / "loop")
    (root / "today").symlink_to(root / "day")
    return root


def test_a_folder_is_listed_without_what_leads_out_of_it(tree: Path) -> None:
    found = Roots([tree]).listing(None, {"mib": [".mib"]})
    assert [e["name"] for e in found["entries"]] == ["day", "today", "notes.txt"]
    assert found["parent"] is None
    inner = Roots([tree]).listing(str(tree / "day"), {"mib": [".mib"]})
    assert inner["entries"][0] | {"mtime": 0} == {
        "name": "scan.mib", "path": str(tree / "day" / "scan.mib"), "dir": False, "bytes": 10, "mtime": 0, "format": "mib",
    }  # fmt: skip
    assert inner["parent"] == str(tree)
    assert [p["name"] for p in inner["parts"]] == ["data", "day"]


@pytest.mark.parametrize(
    "given",
    [
        "..", "../secret", "../secret/key.npy", "/etc/passwd", "/", "day/../../secret", "out", "out/key.npy", "key", "../data2", "a\0b", "",
        7, None, "x" * 5000,
    ],
)  # fmt: skip
def test_paths_outside_are_refused(tree: Path, given: object) -> None:
    (tree.parent / "data2").mkdir()  # its name begins like the root's
    with pytest.raises(UsageError):
        Roots([tree]).resolve(given)


@pytest.mark.parametrize("given", [".", "day", "day/scan.mib", "today/scan.mib", "day/../notes.txt", "not there yet"])
def test_paths_inside_are_resolved(tree: Path, given: str) -> None:
    assert Roots([tree]).resolve(given) == Path(os.path.realpath(tree / given))


def test_a_link_that_is_changed_after_listing_is_looked_at_again(tree: Path) -> None:
    roots = Roots([tree])
    assert roots.resolve("today/scan.mib")
    (tree / "today").unlink()
    (tree / "today").symlink_to(tree.parent / "secret")
    with pytest.raises(UsageError):
        roots.resolve("today/key.npy")


def test_files_and_missing_folders_are_no_folders(tree: Path) -> None:
    roots = Roots([tree])
    with pytest.raises(UsageError, match="is a file"):
        roots.listing(str(tree / "notes.txt"), {})
    with pytest.raises(UsageError, match="no folder"):
        roots.listing(str(tree / "gone"), {})


def test_roots_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        Roots([tmp_path / "x"])
    with pytest.raises(UsageError):
        Roots([])
    assert Roots([tmp_path, tmp_path / "."]).folders == (tmp_path.resolve(),)
