"""Digest of everything that decides what a kernel computes, so that compiled code is never stale.

Covers, recursively: bytecode, constants, captured globals, closure cells and callees of a kernel, and the versions of
libstream, Python, numba, llvmlite, NumPy and the CPU. numba's own cache looks at one file and misses a changed callee.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from typing import Any

import numpy as np

from libstream.kernels.jit import Kernel, callees


def kernel_digest(k: Kernel, *extra: str) -> str:
    """Hex digest of kernel `k`, all it reaches, the tool chain and `extra` texts."""
    h = hashlib.sha256()
    for text in (*_environment(), *extra):
        h.update(text.encode() + b"\0")
    _feed(h, k, set())
    return h.hexdigest()


@functools.cache
def _environment() -> tuple[str, ...]:
    import llvmlite
    import llvmlite.binding
    import numba

    import libstream

    cpu = llvmlite.binding.get_host_cpu_name()
    return (libstream.__version__, sys.version, numba.__version__, llvmlite.__version__, np.__version__, cpu)


def _feed(h: Any, value: Any, seen: set[int]) -> None:
    if isinstance(value, Kernel):
        h.update(f"kernel {value.fastmath!r}".encode())
        value = value.func
    value = getattr(value, "py_func", value)  # a numba dispatcher
    if isinstance(value, types.FunctionType):
        if id(value) in seen:
            return
        seen.add(id(value))
        _feed_code(h, value.__code__)
        h.update(repr(value.__defaults__).encode())
        for name, captured in callees(value):
            h.update(name.encode())
            _feed(h, captured, seen)
    elif isinstance(value, types.ModuleType):
        h.update(f"module {value.__name__} {getattr(value, '__version__', '')}".encode())
    elif isinstance(value, np.ndarray):
        h.update(f"{value.dtype.str}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, (set, frozenset)):
        h.update(repr(sorted(map(repr, value))).encode())  # the order of a set differs from process to process
    elif isinstance(value, (tuple, list)):
        for v in value:
            _feed(h, v, seen)
    elif isinstance(value, (int, float, complex, str, bytes, bool, np.generic, np.dtype, type(None))):
        h.update(repr(value).encode())
    else:
        h.update(f"{type(value).__module__}.{type(value).__qualname__} {getattr(value, '__qualname__', '')}".encode())


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
