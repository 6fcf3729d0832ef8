"""How the hook of one UDF is called: plain Python on frames, tiles or partitions, or a compiled loop."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from libstream.contracts.udf import UDF, constants, field_of, per_position_fields
from libstream.errors import LibstreamError, UDFError, UsageError
from libstream.kernels.jit import Kernel
from libstream.kernels.loops import Arg, compiled_entry
from libstream.model.array import Array
from libstream.model.output import Output
from libstream.model.partial import RaggedPart
from libstream.run.buffers import reused
from libstream.run.hooked import Puts

_Arr = np.ndarray[Any, Any]


class State:
    """Accumulators of one UDF over one partition."""

    def __init__(self, arrays: dict[str, Any], n: int) -> None:
        self.arrays, self.n = arrays, n
        self.used = 0
        """Records in the arena of a kernel's ragged output."""


class Call:
    """One bound UDF, ready to run in this process.

    partial_frames: most frames that one partition's accumulator can see (decides on narrow accumulators).
    """

    def __init__(self, key: str, udf: UDF, nav: tuple[int, ...], partial_frames: int) -> None:
        self.key, self.udf, self.nav = key, udf, nav
        self.outputs = {n: o for n, o in udf.outputs().items() if not o.derived}
        self.hook = udf.hook()
        self.kind = udf.hook_name()
        self.compiled = isinstance(self.hook, Kernel)
        self.aux_names = per_position_fields(type(udf))
        self.aux_arrays = {n: self._aux(n) for n in self.aux_names if getattr(udf, n) is not None}
        self._dtypes = {n: self._accumulator_dtype(o, partial_frames) for n, o in self.outputs.items()}
        # merging adds narrow sums to wide ones at no cost; a `merge` of the user's gets what outputs() declares
        self._widens = any(o.merge == "custom" for o in self.outputs.values())
        if self.compiled:
            self.args, self._fixed = self._bind_kernel()
            self.ragged = next((a.name for a in self.args if a.kind == "ragged"), "")
        else:
            self.wants_at = self.kind == "process_frame" and len(inspect.signature(self.hook).parameters) > 3
            for name in constants(type(udf)):
                getattr(udf, name)

    # -- binding ---------------------------------------------------------------------------------------------------

    def _aux(self, name: str) -> _Arr:
        data = np.asarray(getattr(self.udf, name))
        n_nav = len(self.nav)
        if data.shape[:n_nav] != self.nav:
            raise UsageError(f"UDF {self.key}: per-position parameter {name} has shape {data.shape}, the scan has {self.nav}")
        flat = data.reshape(-1, *data.shape[n_nav:]) if n_nav else data[np.newaxis]
        return np.ascontiguousarray(flat)

    def _accumulator_dtype(self, o: Output, partial_frames: int) -> np.dtype[Any]:
        source = self.udf.meta.dtype
        if o.partial_dtype is not None and o.partial_dtype.kind in "iu" and source.kind in "bu":
            largest = 1 if source.kind == "b" else int(np.iinfo(source).max)
            if partial_frames * largest <= int(np.iinfo(o.partial_dtype).max):
                return o.partial_dtype
        return o.dtype

    def _bind_kernel(self) -> tuple[tuple[Arg, ...], dict[str, Any]]:
        code = self.hook.func.__code__
        names = code.co_varnames[1 : code.co_argcount]
        samples = self.begin(1).arrays
        args: list[Arg] = []
        fixed: dict[str, Any] = {}
        cls = type(self.udf)
        known_constants = constants(cls)
        for name in names:
            if name in self.outputs:
                args.append(Arg(name, self.outputs[name].kind, samples[name]))
            elif name in self.aux_arrays:
                args.append(Arg(name, "aux", _read_only(self.aux_arrays[name][:1])))
            elif name in ("index", "row0"):
                args.append(Arg(name, "index" if name == "index" else "row0"))
            elif field_of(cls, name) is not None or name in known_constants:
                fixed[name] = value = _kernel_value(self.key, name, getattr(self.udf, name))
                args.append(Arg(name, "array" if isinstance(value, np.ndarray) else "scalar", value))
            else:
                choices = [*self.outputs, *self.udf.parameters(), *known_constants, "index", "row0"]
                raise TypeError(
                    f"UDF {self.key}: argument {name!r} of the kernel {self.kind} is neither an output, a parameter nor a "
                    f"cached constant; known names: {', '.join(choices)}"
                )
        ragged = [a.name for a in args if a.kind == "ragged"]
        if ragged:
            others = [*ragged[1:], *(a.name for a in args if a.kind in ("sig", "single"))]
            if others or self.kind != "process_frame":
                raise TypeError(
                    f"UDF {self.key}: a kernel with a ragged output is a process_frame without other sums or ragged outputs, "
                    f"because a frame may be repeated with more room (found {', '.join(others) or self.kind}); "
                    "put those into a UDF of their own, or write plain Python"
                )
        return tuple(args), fixed

    def compile(self, data: _Arr) -> None:
        """Compile the kernel for tiles like `data` (n, *sig). At bind, never in a worker: a compile cannot be cancelled."""
        if self.compiled:
            with self._user_code("while it was compiled"):
                self.entry = compiled_entry(self.hook, self.kind, self.args, data)

    # -- running ---------------------------------------------------------------------------------------------------

    def begin(self, n: int) -> State:
        """Accumulators for a partition of `n` frames."""
        arrays: dict[str, Any] = {}
        sig = self.udf.meta.shape.sig
        for name, o in self.outputs.items():
            if o.kind == "nav":
                arrays[name] = np.full((n, *(o.extra or (1,))), o.init_value, o.dtype)
            elif o.kind == "ragged":
                arrays[name] = np.empty((max(64, 4 * n), *o.extra), o.dtype) if self.compiled else Puts(o, n)
            else:
                shape = (*sig, *o.extra) if o.kind == "sig" else (o.extra or (1,))
                arrays[name] = reused(shape, self._dtypes[name])
                arrays[name][...] = o.init_value
        if self.compiled and any(o.kind == "ragged" for o in self.outputs.values()):
            arrays["#counts"] = np.zeros(n, np.int64)
        return State(arrays, n)

    def kernel_values(self, state: State, index: _Arr) -> list[Any]:
        """What the arguments of the kernel are bound to; `index`: positions of the block's frames."""
        out: list[Any] = []
        for a in self.args:
            if a.kind in ("nav", "sig", "single", "ragged"):
                out.append(state.arrays[a.name])
            elif a.kind == "aux":
                out.append(self.aux_arrays[a.name][index])
            else:
                out.append(self._fixed.get(a.name))
        return out

    def make_room(self, state: State, wanted: int, row: int) -> None:
        """Enlarge the arena of the ragged output for the frame in `row` of the partition, which has `wanted` records.

        The frame is repeated: what it added to other outputs is forgotten.
        """
        for a in self.args:
            if a.kind == "nav":
                state.arrays[a.name][row] = self.outputs[a.name].init_value
        arena = state.arrays[self.ragged]
        larger = np.empty((max(2 * len(arena), state.used + 2 * wanted), *arena.shape[1:]), arena.dtype)
        larger[: state.used] = arena[: state.used]
        state.arrays[self.ragged] = larger

    def twin(self, func: Any, tile: _Arr, index: _Arr, row0: int) -> None:
        """Call `func`, a form of the kernel, on `tile` (n, rows, ...) with fresh accumulators, frame by frame or whole."""
        state = self.begin(len(tile))
        rows = slice(row0, row0 + tile.shape[1])
        values: list[Any] = []
        for a, value in zip(self.args, self.kernel_values(state, index), strict=True):
            if a.kind == "sig":
                value = value[rows]
            values.append(index if a.kind == "index" else row0 if a.kind == "row0" else value)
        if self.kind == "process_tile":
            func(tile, *values)
            return
        for i, frame in enumerate(tile):
            func(frame, *(v[i] if a.kind in ("nav", "aux", "index") else v for a, v in zip(self.args, values, strict=True)))

    def failure_in(self, tile: _Arr, index: _Arr, row0: int) -> UDFError:
        """Why the compiled kernel failed on `tile`: the exception of the plain function on the same data."""
        where = f"in the frames at scan positions {self.where(int(index[0]))} to {self.where(int(index[-1]))}"
        try:
            self.twin(self.hook.func, tile, index, row0)
        except Exception as exc:  # noqa: BLE001  whatever the user's code raises is what is asked for
            error = self.failure(exc, where)
            error.__cause__ = exc
            return error
        name = type(self.udf).__name__
        return UDFError(
            f"UDF {self.key} ({name}): the compiled {self.kind} raised an exception {where}; the plain function does not, so look for "
            "an overflow or an index out of range (LIBSTREAM_DEBUG=1 checks bounds)",
            udf=self.key,
            where=where,
        )

    def run_checked(self, frames: _Arr) -> None:
        """Run a kernel once with bounds checks on `frames` (n, *sig). Debug mode only: slow."""
        if self.compiled:
            with self._user_code("in debug mode, with bounds checks"):
                self.twin(self.hook.checked, frames, np.arange(len(frames), dtype=np.int64), 0)

    def end(self, state: State) -> tuple[dict[str, Any], dict[str, _Arr]]:
        """(placed, reduced) of a finished partition."""
        placed: dict[str, Any] = {}
        reduced: dict[str, _Arr] = {}
        for name, o in self.outputs.items():
            value = state.arrays[name]
            if o.kind == "nav":
                placed[name] = value if o.extra else value[:, 0]
            elif isinstance(value, Puts):
                placed[name] = value.finished()
            elif o.kind == "ragged":
                counts = state.arrays["#counts"]
                if (counts < 0).any():
                    raise UDFError(
                        f"UDF {self.key}: the kernel {self.kind} returned {counts.min()} for a frame; it returns the number of its records",
                        udf=self.key,
                        where=self.kind,
                    )
                placed[name] = RaggedPart(value[: state.used].copy(), counts)
            else:
                value = value.reshape(value.shape if o.kind == "sig" or o.extra else ())
                reduced[name] = value.astype(o.dtype, copy=False) if self._widens else value
        return placed, reduced

    # -- errors ----------------------------------------------------------------------------------------------------

    def where(self, flat: int) -> tuple[int, ...] | int:
        """Scan position for messages."""
        return tuple(int(i) for i in np.unravel_index(flat, self.nav)) if self.nav else 0

    def failure(self, exc: BaseException, where: str) -> UDFError:
        """What the user is told when their code raised `exc`. where: place in the data, in words."""
        name = type(self.udf).__name__
        label = self.key if self.key.replace("_", "").lower() == name.lower() else f"{self.key} ({name})"
        return UDFError(
            f"UDF {label}: {self.kind} raised {type(exc).__name__}: {_in_short(exc)}, {where}",
            udf=self.key,
            where=where,
            remote_traceback="".join(traceback.format_exception(exc)),
        )

    @contextmanager
    def _user_code(self, where: str) -> Iterator[None]:
        try:
            yield
        except LibstreamError:
            raise
        except Exception as exc:
            raise self.failure(exc, where) from exc


def _in_short(exc: BaseException) -> str:
    """The message; of numba's, which show the way through the compiler, what is wrong and in which line."""
    if not type(exc).__module__.startswith("numba"):
        return str(exc)
    lines = [line.strip() for line in str(exc).split("\nDuring:")[0].splitlines()]
    return " ".join(line for line in lines if line.strip("^") and not line.startswith(("Failed in nopython", "<source elided>")))


def _read_only(array: _Arr) -> _Arr:
    array = array.view()
    array.setflags(write=False)
    return array


def _kernel_value(key: str, name: str, value: Any) -> Any:
    """A parameter or constant as a kernel gets it: a number, or a read-only C array."""
    if isinstance(value, Array):
        return value.data
    if isinstance(value, (np.ndarray, list)):
        array = np.ascontiguousarray(value)
        if array.dtype.kind not in "biufc" and array.dtype.names is None:
            raise TypeError(f"UDF {key}: {name} is an array of dtype {array.dtype}, a kernel takes numbers")
        return _read_only(array)
    if isinstance(value, (bool, int, float, complex)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple) and all(isinstance(v, (bool, int, float, complex)) for v in value):
        return value
    raise TypeError(f"UDF {key}: {name} = {value!r} cannot be given to a kernel: a kernel takes numbers, tuples of numbers and arrays")
