"""Which UDFs there are: the installed ones, and those of the user's own folder, read anew when a file is saved."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
import threading
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from libstream import registry
from libstream.contracts.params import schema
from libstream.contracts.udf import UDF
from libstream.errors import LibstreamError, UsageError

HIDDEN = frozenset({"FrameMap", "Record", "Pick"})
"""Need a Python function, or write files: not for a page."""
MAX_FILE_BYTES = 4 << 20


@dataclass(frozen=True)
class Entry:
    """One UDF class. name: by which it is asked for ("VirtualDetector", "mine.py:Brightest"). file: of the user's folder, or "".

    error: why it cannot be used, in words.
    """

    name: str
    cls: type[UDF] | None
    file: str = ""
    error: str = ""

    @property
    def doc(self) -> str:
        """Docstring of the class."""
        return inspect.cleandoc(self.cls.__doc__ or "") if self.cls is not None else ""

    def schema(self) -> dict[str, Any]:
        """JSON schema of the parameters."""
        return schema(self.cls) if self.cls is not None else {}


@dataclass(frozen=True)
class FileError:
    """What is wrong with a file of the user's folder. line: 0 where that is unknown."""

    file: str
    line: int
    message: str


@dataclass(frozen=True)
class _File:
    stamp: tuple[int, int]
    digest: str = ""
    entries: tuple[Entry, ...] = ()
    error: FileError | None = None
    modules: tuple[str, ...] = ()


class Catalog:
    """UDFs by name. `own`: a folder of the user's; each `.py` file in it is a module, read by its content.

    A file that cannot be read keeps its old UDFs, and `errors` says what is wrong. Files are code that runs with the rights of the
    server: the folder is named by whoever starts it, and nothing ever comes into it from a page.
    """

    def __init__(self, own: Path | None = None) -> None:
        self.own = None if own is None else own.expanduser().resolve()
        if self.own is not None and not self.own.is_dir():
            raise UsageError(f"{own}: no such folder for UDFs")
        self._lock = threading.Lock()
        self._installed: dict[str, Entry] | None = None
        self._files: dict[str, _File] = {}
        self.version = 1
        self.poll()

    @property
    def errors(self) -> list[FileError]:
        """Files that cannot be used as they are now."""
        with self._lock:
            return [f.error for f in self._files.values() if f.error is not None]

    def entries(self) -> list[Entry]:
        """All UDFs, the user's own first; installed ones are imported when this is first asked."""
        with self._lock:
            own = [e for name in sorted(self._files) for e in self._files[name].entries]
        return [*own, *self._all_installed().values()]

    def get(self, name: str) -> type[UDF]:
        """The class of `name`. Raises UsageError where there is none, or what went wrong when it was imported."""
        found = self.find(name)
        if found is None:
            raise UsageError(f"there is no UDF {name!r}; there are {', '.join(e.name for e in self.entries())}")
        if found.cls is None:
            raise LibstreamError(f"UDF {name} cannot be used: {found.error}")
        return found.cls

    def find(self, name: str) -> Entry | None:
        """The entry of `name`, or None."""
        with self._lock:
            for file in self._files.values():
                for entry in file.entries:
                    if entry.name == name:
                        return entry
        if self._installed is None and name in {p.name for p in registry.plugins("udfs")}:
            return _installed(name)
        return self._all_installed().get(name)

    def poll(self) -> bool:
        """Look at the user's folder again; True where something changed."""
        if self.own is None:
            return False
        seen = {p.name: p for p in sorted(self.own.glob("*.py")) if not p.name.startswith((".", "_")) and p.is_file()}
        changed = False
        with self._lock:
            for gone in [n for n in self._files if n not in seen]:
                _forget(self._files.pop(gone))
                changed = True
            for name, path in seen.items():
                try:
                    stat = path.stat()
                except OSError:
                    continue
                old = self._files.get(name)
                stamp = (stat.st_mtime_ns, stat.st_size)
                if old is not None and old.stamp == stamp:
                    continue
                new = _read(path, stamp, old)
                if old is None or new.digest != old.digest or new.error != old.error:
                    changed = True
                self._files[name] = new
            if changed:
                self.version += 1
        return changed

    def close(self) -> None:
        """Forget the user's modules."""
        with self._lock:
            for file in self._files.values():
                _forget(file)
            self._files.clear()

    def _all_installed(self) -> dict[str, Entry]:
        if self._installed is None:
            found = [_installed(p.name) for p in registry.plugins("udfs") if p.name not in HIDDEN]
            self._installed = {e.name: e for e in found}
        return self._installed


def _installed(name: str) -> Entry:
    try:
        return Entry(name, registry.load("udfs", name))
    except Exception as exc:  # noqa: BLE001  a broken plug-in must not hide the others
        return Entry(name, None, "", f"{type(exc).__name__}: {exc}")


def _read(path: Path, stamp: tuple[int, int], old: _File | None) -> _File:
    """The file as it is now; where it cannot be used, the old classes and the error."""
    kept = old.entries if old is not None else ()
    modules = old.modules if old is not None else ()
    try:
        if stamp[1] > MAX_FILE_BYTES:
            raise UsageError(f"{stamp[1]} bytes are too many for a module")
        text = path.read_bytes()
    except (OSError, UsageError) as exc:
        return _File(stamp, "", kept, FileError(path.name, 0, str(exc)), modules)
    digest = hashlib.sha256(text).hexdigest()
    if old is not None and digest == old.digest and old.error is None:
        return replace(old, stamp=stamp)
    name = f"libstream_own_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{digest[:12]}"
    try:
        module = _import(name, path)
        classes = [v for v in vars(module).values() if inspect.isclass(v) and issubclass(v, UDF) and v.__module__ == name and v.hook_name()]
        for cls in classes:
            schema(cls)
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        sys.modules.pop(name, None)
        return _File(stamp, digest, kept, FileError(path.name, _line_in(exc, path), f"{type(exc).__name__}: {exc}"), modules)
    entries = tuple(Entry(f"{path.name}:{c.__name__}", c, path.name) for c in classes)
    error = None if entries else FileError(path.name, 0, "no class in it is a UDF with a hook")
    # modules of earlier versions stay: runs that go on look their classes up by name
    return _File(stamp, digest, entries, error, (*modules, name))


def _import(name: str, path: Path) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and annotations look their module up
    source = path.read_bytes()
    exec(compile(source, str(path), "exec"), module.__dict__)  # not the loader: it would use a cached .pyc of the same second and size
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)  # no other process can import it by this name
    return module


def _forget(file: _File) -> None:
    for name in file.modules:
        sys.modules.pop(name, None)


def _line_in(exc: BaseException, path: Path) -> int:
    """Line of the user's file at which `exc` came up."""
    if isinstance(exc, SyntaxError):
        return exc.lineno or 0
    lines = [f.lineno or 0 for f in traceback.extract_tb(exc.__traceback__) if f.filename == str(path)]
    return lines[-1] if lines else 0
