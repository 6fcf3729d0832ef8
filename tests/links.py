"""One tree that type checkers, import-linter and IDEs can read: build/links/libstream -> the real folders.

They do not understand `package_dir` of setup.cfg. Run `python tests/links.py`, or `make links`.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def package_dirs(root: Path = ROOT) -> dict[str, Path]:
    """Folder of each package that setup.cfg maps, by its name."""
    cfg = configparser.ConfigParser()
    cfg.read(root / "setup.cfg", encoding="utf-8")
    rows = (line.split("=") for line in cfg["options"]["package_dir"].strip().splitlines())
    return {name.strip(): root / folder.strip() for name, folder in rows}


def make(out: Path = ROOT / "build" / "links", root: Path = ROOT) -> Path:
    """Make or mend the tree `out` and return it. New files appear in it by themselves: folders are linked, not files."""
    out = out.resolve()  # links are relative, so a linked temporary folder must not be on the way
    wanted: dict[Path, Path] = {}
    for name, folder in package_dirs(root).items():
        target = out / Path(*name.split("."))
        if "." in name:
            wanted[target] = folder
        else:  # the root package also holds the mapped ones, so its entries are linked one by one
            target.mkdir(parents=True, exist_ok=True)
            wanted.update({target / p.name: p for p in folder.iterdir() if p.name != "__pycache__"})
    for link in out.glob("*/*"):
        if link.is_symlink() and (link not in wanted or not link.exists()):
            link.unlink(missing_ok=True)
    for link, real in wanted.items():
        if not link.exists():
            try:
                link.symlink_to(os.path.relpath(real, link.parent), target_is_directory=real.is_dir())
            except FileExistsError:
                continue  # another process makes the same tree
    return out


if __name__ == "__main__":
    print(make())
