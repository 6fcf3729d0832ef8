"""Digest of everything that decides what a kernel computes, so that compiled code is never stale.

Covers, recursively: bytecode, constants, captured globals, closure cells and callees of a kernel, and the versions of
libstream, Python, numba, llvmlite, NumPy and the CPU. numba's own cache looks at one file and misses a changed callee.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from libstream.kernels.jit import Kernel, callees

_COVERED = frozenset({"math", "cmath", "operator", "builtins", "numpy", "numba", "llvmlite"})
"""Modules whose code is covered by the versions of the tool chain."""


def kernel_digest(k: Kernel, *extra: str) -> str:
    """Hex digest of kernel `k`, all it reaches, the tool chain and `extra` texts."""
    h = hashlib.sha256()
    for text in (*_environment(), *extra):
        h.update(text.encode() + b"\0")
    _feed(h, k, {})
    return h.hexdigest()


@functools.cache
def _environment() -> tuple[str, ...]:
    import importlib.metadata

    import llvmlite.binding as llvm

    import libstream

    # compiled code is kept in files of its own, so that numba's version is asked for without importing it: that takes 0.3 s
    versions = [importlib.metadata.version(name) for name in ("numba", "llvmlite")]
    cpu = (llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
    sources = [Path(__file__).parent / f"{name}.py" for name in ("jit", "loops", "drive", "rt", "emit", "link")]
    own = [hashlib.sha256(source.read_bytes()).hexdigest() for source in sources]
    settings = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith("NUMBA_"))
    return (libstream.__version__, sys.version, *versions, np.__version__, *cpu, *own, *settings)


def _feed(h: Any, value: Any, seen: dict[Any, int]) -> None:
    if isinstance(value, Kernel):
        flags = sorted(value.fastmath) if isinstance(value.fastmath, (set, frozenset)) else value.fastmath  # a set has no order
        h.update(f"kernel {flags!r}".encode())
        value = value.func
    value = getattr(value, "py_func", value)  # a numba dispatcher
    if isinstance(value, types.FunctionType):
        if id(value) in seen:
            h.update(f"function {seen[id(value)]};".encode())
            return
        seen[id(value)] = len(seen)
        _feed_code(h, value.__code__)
        h.update(repr(value.__defaults__).encode())
        for name, captured in callees(value):
            h.update(f"{name}=".encode())
            _feed(h, captured, seen)
            if isinstance(captured, types.ModuleType) and captured.__name__.partition(".")[0] not in _COVERED:
                _feed_used(h, captured, value.__code__, seen)
    elif isinstance(value, types.ModuleType):
        h.update(f"module {value.__name__} {getattr(value, '__version__', '')};".encode())
    elif isinstance(value, np.ndarray):
        h.update(f"{value.dtype.str}{value.shape}".encode() + value.tobytes() + b";")
    elif isinstance(value, (set, frozenset)):
        h.update(repr(sorted(map(repr, value))).encode() + b";")  # the order of a set differs from process to process
    elif isinstance(value, (tuple, list)):
        h.update(b"(")
        for v in value:
            _feed(h, v, seen)
        h.update(b")")
    elif isinstance(value, (int, float, complex, str, bytes, bool, np.generic, np.dtype, type(None))):
        h.update(f"{type(value).__name__} {value!r};".encode())
    else:
        h.update(f"{type(value).__module__}.{type(value).__qualname__} {getattr(value, '__qualname__', '')};".encode())


def _feed_used(h: Any, module: types.ModuleType, code: types.CodeType, seen: dict[Any, int]) -> None:
    """What `code` takes from a module of the user by `module.name`."""
    if (id(module), id(code)) in seen:
        return
    seen[id(module), id(code)] = len(seen)
    for name in sorted(set(code.co_names)):
        if name in vars(module):
            value = vars(module)[name]
            h.update(f"{module.__name__}.{name}=".encode())
            _feed(h, value, seen)
            if isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] not in _COVERED:
                _feed_used(h, value, code, seen)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            _feed_used(h, module, const, seen)


def _feed_code(h: Any, code: types.CodeType) -> None:
    h.update(code.co_code)
    h.update(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_argcount)).encode())
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            _feed_code(h, const)
        elif isinstance(const, (set, frozenset)):
            h.update(repr(sorted(map(repr, const))).encode())
        else:
            h.update(f"{type(const).__name__} {const!r}".encode())
