"""Files that a page may see: those under the roots that the server was started with, after symbolic links are followed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from libstream.errors import UsageError

MOST = 5000
PROBED = 1000
"""Folders among so many entries are looked into."""


class Roots:
    """Folders below which everything may be read."""

    def __init__(self, folders: Iterable[str | Path]) -> None:
        found: list[Path] = []
        for folder in folders:
            path = Path(folder).expanduser().resolve()
            if not path.is_dir():
                raise UsageError(f"--root {folder}: no such folder")
            if path not in found:
                found.append(path)
        if not found:
            raise UsageError("there must be a folder that may be seen (--root)")
        self.folders = tuple(found)

    def resolve(self, given: Any, what: str = "path") -> Path:
        """The real path of `given` (relative ones: below the first root). Raises UsageError outside of the roots; it need not exist."""
        if not isinstance(given, str) or not given or len(given) > 4096 or "\0" in given:
            raise UsageError(f"{what}: expected a path, got {given!r:.100}")
        try:
            path = (self.folders[0] / given).resolve()
        except (OSError, RuntimeError) as exc:  # a loop of links
            raise UsageError(f"{what} {given}: {exc}") from exc
        if self.root_of(path) is None:
            listed = ", ".join(map(str, self.folders))
            raise UsageError(f"{what} {given}: this server shows files below {listed} only; start it with --root for others")
        return path

    def root_of(self, path: Path) -> Path | None:
        """The innermost root that holds the (resolved) `path`, or None."""
        return max((r for r in self.folders if path == r or r in path.parents), key=lambda r: len(r.parts), default=None)

    def json(self) -> list[dict[str, str]]:
        """As a part of the state."""
        return [{"name": r.name or str(r), "path": str(r)} for r in self.folders]

    def listing(
        self, given: str | None, suffixes: Mapping[str, Sequence[str]], of_folder: Callable[[str], str | None] = lambda path: None
    ) -> dict[str, Any]:
        """What a folder holds, folders first. Raises UsageError.

        suffixes: of each format, by its name. of_folder: format of a folder that is opened like a file (a recording), or None.
        """
        folder = self.resolve(given, "folder") if given else self.folders[0]
        root = self.root_of(folder)
        top = root if root is not None else self.folders[0]
        entries: list[dict[str, Any]] = []
        left_out = 0
        try:
            with os.scandir(folder) as found:
                for item in found:
                    if item.name.startswith("."):
                        continue
                    if len(entries) == MOST:
                        left_out += 1
                        continue
                    one = self._entry(item, suffixes)
                    if one is not None:
                        entries.append(one)
                        if one["dir"] and len(entries) <= PROBED:
                            one["format"] = of_folder(item.path)
        except NotADirectoryError:
            raise UsageError(f"{folder} is a file") from None
        except FileNotFoundError:
            raise UsageError(f"there is no folder {folder}") from None
        except PermissionError:
            raise UsageError(f"{folder}: this server may not read this folder") from None
        entries.sort(key=lambda e: (not e["dir"], e["name"].lower()))
        parts, path = [], folder
        while True:
            parts.append({"name": path.name or str(path), "path": str(path)})
            if path == top:
                break
            path = path.parent
        return {
            "path": str(folder), "root": str(top), "parent": str(folder.parent) if folder != top else None,
            "parts": parts[::-1], "entries": entries, "roots": self.json(), "more": left_out,
        }  # fmt: skip

    def _entry(self, item: os.DirEntry[str], suffixes: Mapping[str, Sequence[str]]) -> dict[str, Any] | None:
        try:
            if item.is_symlink() and self.root_of(Path(item.path).resolve()) is None:
                return None
            stat, is_dir = item.stat(), item.is_dir()
        except (OSError, RuntimeError):  # a dead link, a file that has just gone
            return None
        low = item.name.lower()
        kind = None if is_dir else next((f for f, ends in suffixes.items() if any(low.endswith(e) for e in ends)), None)
        return {
            "name": item.name, "path": item.path, "dir": is_dir, "bytes": None if is_dir else stat.st_size,
            "mtime": int(stat.st_mtime * 1000), "format": kind,
        }  # fmt: skip
