"""Generated modules in the user's cache, beside which their machine code is kept."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from libstream.config import cache_dir

_temporary: tempfile.TemporaryDirectory[str] | None = None


def generated_module(digest: str, source: str, names: dict[str, Any]) -> Any:
    """Module with text `source` and globals `names`, made once per process. `digest` names its file and covers all of both."""
    name = f"_libstream_kernel_{digest[:40]}"
    if name in sys.modules:
        return sys.modules[name]
    path = _write(kernel_folder() / f"{name}.py", source)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load the generated code {path}")
    module = importlib.util.module_from_spec(spec)
    module.__dict__.update(names)
    sys.modules[name] = module  # before it runs: numba finds cached code through the module's name
    spec.loader.exec_module(module)
    return module


def kernel_folder() -> Path:
    """Folder of generated code: in the user's cache, or a temporary one where that cannot be written."""
    global _temporary
    folder = cache_dir() / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass  # no home, read-only home: compile anew in each process, into a private folder
    if _temporary is None:
        _temporary = tempfile.TemporaryDirectory(prefix="libstream-kernels-")
    return Path(_temporary.name)


def _write(path: Path, text: str) -> Path:
    # never rewritten: numba keys its cache by the file's time stamp
    if not path.exists():
        fd, aside = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(fd, "w") as f:
            f.write(text)
        try:
            os.link(aside, path)
        except FileExistsError:
            pass  # another process was first, with the same text
        except OSError:  # a file system without hard links
            os.replace(aside, path)
            return path
        os.unlink(aside)
    return path
