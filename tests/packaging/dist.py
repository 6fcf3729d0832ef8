"""Build sdist and wheel from a clean copy of the project, and compare what is in them with what is in the folders.

`python -m tests.packaging.dist` does it and prints what was found; the tests use the same functions.
"""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tests import links


def clean_copy(to: Path, root: Path = links.ROOT) -> Path:
    """Copy the project's own files, without anything that was built: a stale build/lib would be shipped."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
    folders = {folder.relative_to(root).parts[0] for folder in links.package_dirs(root).values()} | {"tests", "docs", ".ci"}
    for folder in folders:
        shutil.copytree(root / folder, to / folder, ignore=ignored)
    shutil.rmtree(to / "tests" / "bench" / "data", ignore_errors=True)
    for file in root.iterdir():
        if file.is_file():
            shutil.copy2(file, to / file.name)
    return to


def build(source: Path, out: Path, *kinds: str) -> list[Path]:
    """Build "sdist" and/or "wheel" of `source` into `out` with the setuptools that is installed here; needs no network."""
    command = [sys.executable, "-m", "build", "--no-isolation", *(f"--{k}" for k in kinds), "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return sorted(out.glob("*.tar.gz")) * ("sdist" in kinds) + sorted(out.glob("*.whl")) * ("wheel" in kinds)


def names(archive: Path) -> set[str]:
    """Files in a wheel, or in an sdist without its leading folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as z:
            return {n for n in z.namelist() if not n.endswith("/")}
    with tarfile.open(archive) as t:
        return {m.name.split("/", 1)[1] for m in t.getmembers() if m.isfile()}


def expected_modules(root: Path = links.ROOT) -> set[str]:
    """Every file of the package folders, by the path that it must have in a wheel."""
    out: set[str] = set()
    for name, folder in links.package_dirs(root).items():
        for file in folder.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc":
                out.add("/".join([*name.split("."), *file.relative_to(folder).parts]))
    return out


def listed_and_found(root: Path = links.ROOT) -> tuple[set[str], set[str]]:
    """Packages that setup.cfg lists, and packages that are on disk."""
    cfg = configparser.ConfigParser()
    cfg.read(root / "setup.cfg", encoding="utf-8")
    listed = set(cfg["options"]["packages"].split())
    found: set[str] = set()
    for name, folder in links.package_dirs(root).items():
        for init in folder.rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(folder).parts]))
    return listed, found


def faults(wheel: set[str], sdist: set[str], rebuilt: set[str], expected: set[str]) -> list[str]:
    """What is wrong with a wheel, an sdist and the wheel rebuilt from it."""
    out: list[str] = []
    code = {n for n in wheel if ".dist-info/" not in n}
    out += [f"the wheel lacks {n}" for n in sorted(expected - code)]
    out += [f"the wheel holds {n}, which is in no package folder" for n in sorted(code - expected)]
    out += [f"the wheel puts {n} outside of libstream/" for n in sorted(code) if not n.startswith("libstream/")]
    out += [] if "libstream/py.typed" in wheel else ["the wheel has no py.typed, so type checkers ignore its annotations"]
    for folder in ("libstream", "udfs", "executors", "io_backends", "web_gui", "tests", "docs"):
        out += [] if any(n.startswith(f"{folder}/") for n in sdist) else [f"the sdist has no folder {folder}/"]
    out += [] if rebuilt == wheel else [f"the wheel rebuilt from the sdist differs in {sorted(rebuilt ^ wheel)[:10]}"]
    return out


def main() -> int:
    """Check packages, sdist and wheel; 0 when all is well."""
    listed, found = listed_and_found()
    wrong = [f"setup.cfg does not list {p}: the wheel would silently lack it" for p in sorted(found - listed)]
    wrong += [f"setup.cfg lists {p}, which does not exist" for p in sorted(listed - found)]
    if not wrong:
        with tempfile.TemporaryDirectory(prefix="libstream-dist-") as temporary:
            work = Path(temporary)
            source = clean_copy(work / "source")
            sdist, wheel = build(source, work / "dist", "sdist", "wheel")
            with tarfile.open(sdist) as t:
                t.extractall(work / "unpacked", filter="data")
            (rebuilt,) = build(next((work / "unpacked").iterdir()), work / "again", "wheel")
            wrong = faults(names(wheel), names(sdist), names(rebuilt), expected_modules(source))
            print(f"packages: {wheel.name} {len(names(wheel))} files, {sdist.name} {len(names(sdist))} files")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
