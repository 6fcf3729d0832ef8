"""`@kernel`: marks a function that numba compiles, at bind, without importing numba at import."""

from __future__ import annotations

import dis
import functools
import itertools
import types
from collections.abc import Callable
from typing import Any, overload

import numpy as np


class Kernel:
    """A function in numba's subset of Python, compiled without the GIL when it is first needed.

    Calling it from Python runs the plain function (the twin); calling it from another kernel runs compiled code.
    Numba checks neither bounds nor overflow: `libstream run --debug` and `UDFLaws` run kernels once with checks.
    """

    def __init__(self, func: Callable[..., Any], *, fastmath: bool | set[str] = False) -> None:
        # under @staticmethod a hook without self passes type checkers; it means nothing here
        plain: Any = func.__func__ if isinstance(func, staticmethod) else func
        functools.update_wrapper(self, plain)
        self.func: types.FunctionType = plain
        self.fastmath = fastmath

    def __call__(self, *args: Any) -> Any:
        return self.func(*args)

    @functools.cached_property
    def jit(self) -> Any:
        """The numba dispatcher (nogil, not cached by numba: the generated loops are)."""
        import numba

        from libstream.kernels.digest import kernel_digest

        # Named after what it does: compiled code is linked by name, and two functions of one name and types (made by the same
        # factory, or a cell of a notebook run again) would be taken for each other where both come from the cache
        func = self.func
        named = types.FunctionType(func.__code__, func.__globals__, func.__name__, func.__defaults__, func.__closure__)
        named.__qualname__ = f"{func.__qualname__}_{kernel_digest(self)[:16]}"
        return numba.njit(nogil=True, fastmath=self.fastmath, error_model="numpy")(named)

    @functools.cached_property
    def cached(self) -> Any:
        """A dispatcher for calls from Python whose machine code is kept in the user's cache, under a digest of all it reaches.

        `k.cached(a, b)` compiles for the types of its arguments at the first call ever, and loads that code in later processes.
        """
        from libstream.kernels.loops import cached_function

        return cached_function(self)

    @functools.cached_property
    def checked(self) -> Any:
        """Dispatcher with bounds checks, also in the kernels that it calls; for debug mode."""
        import numba

        inner = {n: k.checked for n, k in callees(self.func) if isinstance(k, Kernel) and k is not self}
        return numba.njit(boundscheck=True, error_model="numpy")(_rebound(self.func, inner))

    @property
    def _numba_type_(self) -> Any:  # how numba types a global of this class: as the dispatcher
        import numba

        return numba.typeof(self.jit)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_remake, (self.func, self.fastmath))

    def __repr__(self) -> str:
        return f"<kernel {getattr(self.func, '__qualname__', self.func)}>"


def _rebound(func: Any, names: dict[str, Any]) -> Any:
    """A copy of a plain function whose globals and closure hold `names` instead."""
    free = zip(func.__code__.co_freevars, func.__closure__ or (), strict=True)
    closure = tuple(types.CellType(names[n]) if n in names else cell for n, cell in free)
    out = types.FunctionType(func.__code__, {**func.__globals__, **names}, func.__name__, func.__defaults__, closure or None)
    out.__qualname__ = func.__qualname__
    return out


def _remake(func: Callable[..., Any], fastmath: Any) -> Kernel:
    # a function pickled by reference arrives as the Kernel that its module holds
    return func if isinstance(func, Kernel) else Kernel(func, fastmath=fastmath)


@overload
def kernel(func: Callable[..., Any]) -> Kernel: ...
@overload
def kernel(*, fastmath: bool | set[str] = ...) -> Callable[[Callable[..., Any]], Kernel]: ...
def kernel(func: Any = None, *, fastmath: Any = False) -> Any:
    """Mark a function for compilation: `@ls.kernel`, or `@ls.kernel(fastmath={"reassoc", "nsz"})` to let float sums vectorise.

    As a hook of a UDF it has no `self`: the arguments after `frame` (or `tile`) are bound by name to outputs, parameters
    and cached constants. Where its arguments have types, write `@staticmethod` below, for the type checker. Globals and
    closures are frozen when it is compiled; attributes of objects are not followed.
    """
    if func is None:
        return lambda f: Kernel(f, fastmath=fastmath)
    return Kernel(func, fastmath=fastmath)


class _View(Kernel):
    """A view of one frame of a tile: compiled code in `kernels.rt`, its twin here."""

    def __init__(self, twin: Callable[..., Any], name: str) -> None:
        super().__init__(twin)
        self.name = name

    @functools.cached_property
    def jit(self) -> Any:
        from libstream.kernels import rt

        return getattr(rt, self.name)

    @functools.cached_property
    def checked(self) -> Any:
        return self.jit

    @property
    def _numba_type_(self) -> Any:
        import numba
        from numba.core.registry import cpu_target

        if hasattr(self.jit, "py_func"):
            return numba.typeof(self.jit)
        cpu_target.typing_context.refresh()
        return cpu_target.typing_context.resolve_value_type(self.jit)  # an intrinsic

    def __reduce__(self) -> tuple[Any, ...]:
        return (_view_named, (self.name,))


def _frame_of(tile: np.ndarray[Any, Any], i: int) -> np.ndarray[Any, Any]:
    """`frame_of(tile, i)`: frame i of a tile as a C-contiguous array, whatever lies between frames."""
    return tile[i]


def _flat_of(tile: np.ndarray[Any, Any], i: int) -> np.ndarray[Any, Any]:
    """`flat_of(tile, i)`: the pixels of frame i of a tile as one row, for frames of 1 and 2 axes alike."""
    return tile[i].reshape(-1)


def _part_of(tile: np.ndarray[Any, Any], i: int, start: int, stop: int) -> np.ndarray[Any, Any]:
    """`part_of(tile, i, start, stop)`: pixels [start, stop) of `flat_of(tile, i)`, with 0 <= start <= stop <= size (not checked)."""
    return tile[i].reshape(-1)[start:stop]


def _prefetch(tile: np.ndarray[Any, Any], i: int, start: int, stop: int) -> None:
    """`prefetch(tile, i, start, stop)`: have pixels [start, stop) of frame i brought to the cache, while others are computed.

    For places that a kernel visits in jumps, which the processor does not guess; a few hundred pixels and some microseconds ahead.
    Changes no result. Pixels that do not exist may be asked for.
    """


def _row_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`row_of(array)`: the elements of a C-contiguous array, such as an output, as one row; a kernel compiles faster than with `reshape`.

    Not for tiles: their frames may lie apart.
    """
    return array.reshape(-1)


def _view_named(name: str) -> Kernel:
    return {"frame_of": frame_of, "flat_of": flat_of, "part_of": part_of, "prefetch": prefetch, "row_of": row_of}[name]


frame_of = _View(_frame_of, "frame_of")
flat_of = _View(_flat_of, "flat_of")
part_of = _View(_part_of, "part_of")
prefetch = _View(_prefetch, "prefetch")
row_of = _View(_row_of, "row_of")


@functools.lru_cache(maxsize=256)
def finds_frames(k: Kernel) -> bool:
    """True where a kernel of tiles finds frames by `frame_of`, `flat_of`, `part_of` and `prefetch` only, wherever they are.

    Looks at the bytecode: the tile is the first argument of these, or its shape or dtype is asked for, and nothing else.
    """
    code = k.func.__code__
    tile = code.co_varnames[0]
    if tile in code.co_cellvars:
        return False
    callee: Any = None
    steps = [s for s in dis.get_instructions(code) if s.opname not in ("PRECALL", "CACHE", "EXTENDED_ARG", "PUSH_NULL")]
    for step, after in itertools.pairwise(steps):
        names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
        if tile in names and step.opname.startswith(("LOAD_FAST", "STORE_FAST", "DELETE_FAST")):
            asked = after.opname == "LOAD_ATTR" and after.argval in ("shape", "dtype", "ndim", "itemsize") and names[-1] == tile
            called = isinstance(callee, _View) and callee is not row_of and names[0] == tile
            if not step.opname.startswith("LOAD_FAST") or names.count(tile) != 1 or not (asked or called):
                return False
        if step.opname == "LOAD_GLOBAL":
            callee = k.func.__globals__.get(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(callee, types.ModuleType):
            callee = getattr(callee, step.argval, None)
        else:
            callee = None
    return True


def callees(func: types.FunctionType) -> list[tuple[str, Any]]:
    """Names and values of globals and closure cells that `func` (and code nested in it) refers to, in a fixed order."""
    out: dict[str, Any] = {}
    stack = [func.__code__]
    while stack:
        code = stack.pop()
        for name in code.co_names:
            if name in func.__globals__:
                out[name] = func.__globals__[name]
        stack.extend(c for c in code.co_consts if isinstance(c, types.CodeType))
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        try:
            out[name] = cell.cell_contents
        except ValueError:  # an empty cell: a name that is bound later
            continue
    return sorted(out.items())
