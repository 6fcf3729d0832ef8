"""The compiled loop around a kernel: over the runs, tiles and frames of a partition, so that Python is called once.

The loop is generated as a small module in the user's cache, named by a digest of all it contains, and compiled with
numba's cache: kernels of notebooks are cached too, and an edited callee never leaves a stale result.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from libstream.config import cache_dir
from libstream.kernels.digest import kernel_digest
from libstream.kernels.jit import Kernel

ArgKind = Literal["nav", "reduced", "constant", "aux", "index", "row0", "ragged"]

_lock = threading.Lock()
_loops: dict[tuple[str, Any], Any] = {}


@dataclass(frozen=True)
class Arg:
    """One argument of a kernel: its name and what it is bound to."""

    name: str
    kind: ArgKind


def loop_source(hook: str, args: Sequence[Arg]) -> str:
    """Text of the loop for a kernel of this hook ("process_frame" or "process_tile") with these arguments.

    step(data, runs, depth, cancel, index, row0, first, used, counts, *args) -> (frames done, records used, records wanted)
    data: (n, *sig); runs: (k, 2) rows of `data` to visit; nav outputs, aux and index have one row for each visited frame.
    """
    ragged = [a for a in args if a.kind == "ragged"]
    # prefixed: a parameter of a UDF may be called "depth" or "runs"
    names = [f"u_{a.name}" for a in args if a.kind not in ("index", "row0")]
    head = ", ".join(["data", "runs", "depth", "cancel", "index", "row0", "first", "used", "counts", *names])

    def cut(a: Arg, rows: str) -> str:
        if a.kind in ("index", "row0"):
            return f"index[{rows}]" if a.kind == "index" else "row0"
        if a.kind in ("nav", "aux"):
            return f"u_{a.name}[{rows}]"
        return f"u_{a.name}[used:]" if a.kind == "ragged" else f"u_{a.name}"

    lines = [
        f"def step({head}):",
        "    k = 0",
        "    for r in range(runs.shape[0]):",
        "        i, stop = runs[r, 0], runs[r, 1]",
        "        while i < stop:",
        "            if cancel[0] != 0:",
        "                return -1, used, 0",
        "            m = min(depth, stop - i)",
    ]
    if hook == "process_tile":
        call = ", ".join(["data[i:i + m]", *(cut(a, "k:k + m") for a in args)])
        lines += [f"            user({call})", "            k += m"]
    else:
        call = ", ".join(["frame_of(data, i + j)", *(cut(a, "k") for a in args)])
        lines.append("            for j in range(m):")
        if ragged:
            lines += [
                "                if k >= first:",
                f"                    n = user({call})",
                f"                    if n > u_{ragged[0].name}.shape[0] - used:",
                "                        return k, used, n",
                "                    counts[k] = n",
                "                    used += n",
            ]
        else:
            lines.append(f"                user({call})")
        lines.append("                k += 1")
    lines += ["            i += m", "    return k, used, 0", ""]
    return "\n".join(lines)


def compiled_loop(k: Kernel, hook: str, args: Sequence[Arg], samples: Sequence[Any]) -> Any:
    """The loop for kernel `k`, compiled (or loaded from the cache) for the types of `samples` (arguments of `step`)."""
    import numba

    source = loop_source(hook, args)
    digest = kernel_digest(k, source)
    signature = tuple(numba.typeof(s) for s in samples)
    with _lock:
        known = _loops.get((digest, signature))
        if known is None:
            module = _module(digest, source, k)
            dispatcher = module.__dict__.setdefault(
                "dispatcher", numba.njit(nogil=True, cache=True, fastmath=k.fastmath, error_model="numpy")(module.step)
            )
            dispatcher.compile(signature)
            known = _loops[digest, signature] = dispatcher
    return known


def cached_function(k: Kernel) -> Any:
    """Dispatcher that calls `k`, kept in the cache like a loop; see `Kernel.cached`."""
    import numba

    code = k.func.__code__
    names = ", ".join(code.co_varnames[: code.co_argcount])
    source = f"def step({names}):\n    return user({names})\n"
    with _lock:
        module = _module(kernel_digest(k, source), source, k)
        made = module.__dict__.setdefault(
            "dispatcher", numba.njit(nogil=True, cache=True, fastmath=k.fastmath, error_model="numpy")(module.step)
        )
    return made


def _module(digest: str, source: str, k: Kernel) -> Any:
    from libstream.kernels.rt import frame_of

    name = f"_libstream_kernel_{digest[:40]}"
    if name in sys.modules:
        return sys.modules[name]
    path = _write(kernel_folder() / f"{name}.py", f"# loop around {k!r}\n\n\n{source}")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load the generated loop {path}")
    module = importlib.util.module_from_spec(spec)
    module.__dict__.update(user=k.jit, frame_of=frame_of)
    sys.modules[name] = module  # before it runs: numba finds cached code through the module's name
    spec.loader.exec_module(module)
    return module


def kernel_folder() -> Path:
    """Folder of generated loops: in the user's cache, or a temporary one where that cannot be written."""
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


_temporary: tempfile.TemporaryDirectory[str] | None = None


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
