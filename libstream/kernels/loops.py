"""Compiled code around kernels: an entry for each kernel, and one driver that visits runs, tiles, bands and entries.

Python is called once for a block of frames, not for each tile, and several UDFs share a tile in cache without a compile for
each combination of them: the driver calls entries by address.

An entry is generated as a small module in the user's cache, named by a digest of all it contains, and its machine code is kept
beside it: kernels of notebooks are cached too, an edited callee never leaves a stale result, and a process that finds all it needs
there does not import numba.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from libstream.kernels.digest import kernel_digest
from libstream.kernels.jit import Kernel
from libstream.kernels.link import linked, saved
from libstream.kernels.store import generated_module, kernel_folder

ArgKind = Literal["nav", "sig", "single", "array", "scalar", "aux", "index", "row0", "ragged"]

# Slots of a context (int64), the one argument of an entry. The driver writes DATA to FRAME for each tile.
DATA, STRIDE, FRAMES, ROWS, ROW0, K, R, FIRST, USED, WANTED, COUNTS, INDEX, ROW_SHAPE, TABLE, HEAD = range(15)
"""DATA: address of the tile. STRIDE: bytes from frame to frame. FRAMES, ROWS: its shape. ROW0: first detector row. K: row of
its first frame in the partition, R: in the block. FIRST, USED, WANTED: frames done, records used and wanted of a ragged output;
COUNTS: address of its counts. INDEX: address of the block's flat positions. ROW_SHAPE: pixels of a row. TABLE: address of the
bytes from DATA to each frame of the tile, 0 where these are STRIDE apart."""

DONE, NEEDS_ROOM, FAILED, CANCELLED = 0, 1, 2, 3
"""What entries and the driver return."""

_lock = threading.Lock()
_entries: dict[Any, Any] = {}


@dataclass(frozen=True)
class Arg:
    """One argument of a kernel after the tile or frame.

    kind: "nav", "aux": rows along the partition or block; "sig": whole-frame array that is cut to the band of rows; "single",
    "array": passed whole; "scalar": a number or a tuple of them; "ragged": the free rest of an arena.
    sample: an array of the type and number of axes, or the number itself.
    """

    name: str
    kind: ArgKind
    sample: Any = None

    @property
    def slots(self) -> int:
        """Slots in the context: address and shape, or the numbers."""
        if self.kind in ("index", "row0"):
            return 0
        if self.kind == "scalar":
            values = self.sample if isinstance(self.sample, tuple) else (self.sample,)
            return sum(2 if isinstance(v, complex) else 1 for v in values)
        return 1 + int(self.sample.ndim)


@dataclass(frozen=True)
class Entry:
    """A compiled kernel: `address` of `int64 entry(int64 context)`, `n_slots` of its context. `keep` holds the code alive."""

    address: int
    n_slots: int
    keep: Any


def entry_source(hook: str, args: Sequence[Arg], sig_ndim: int) -> str:
    """Text of the entry for a kernel of this hook ("process_frame" or "process_tile")."""
    lines = [
        "def entry(address):",
        "    ctx = at_i8(address, (N_SLOTS,))",
        "    f8 = at_f8(address, (N_SLOTS,))",
        f"    m, k, r, row0 = ctx[{FRAMES}], ctx[{K}], ctx[{R}], ctx[{ROW0}]",
        f"    tile = tile_at(ctx[{DATA}], (m, ctx[{ROWS}]{f', ctx[{ROW_SHAPE}]' if sig_ndim == 2 else ''}), ctx[{STRIDE}], ctx[{TABLE}])",
        f"    index = at_index(ctx[{INDEX}] + 8 * r, (m,))",
    ]
    slot = HEAD
    call: list[str] = []
    frame = hook == "process_frame"
    ragged = next((a.name for a in args if a.kind == "ragged"), None)
    for i, a in enumerate(args):
        v = f"a{i}"
        if a.kind == "index":
            call.append("index[j]" if frame else "index")
        elif a.kind == "row0":
            call.append("row0")
        elif a.kind == "scalar":
            call.append(_scalar(a.sample, slot))
        else:
            shape = ", ".join(f"ctx[{slot + 1 + d}]" for d in range(a.sample.ndim))
            lines.append(f"    {v} = at_{v}(ctx[{slot}], ({shape},))" if a.sample.ndim else f"    {v} = at_{v}(ctx[{slot}], ())")
            rows = {"nav": ("k + j", "k:k + m"), "aux": ("r + j", "r:r + m")}.get(a.kind)
            if rows:
                call.append(f"{v}[{rows[0] if frame else rows[1]}]")
            elif a.kind == "sig":
                lines.append(f"    {v} = {v}[row0:row0 + ctx[{ROWS}]]")
                call.append(v)
            else:
                call.append(f"{v}[used:]" if a.kind == "ragged" else v)
        slot += a.slots
    # exceptions do not cross into the driver: the caller runs the plain function again to find out which one it was
    if frame:
        user = f"user({', '.join(['frame_of(tile, j)', *call])})"
        lines += ["    try:", f"        for j in range(ctx[{FIRST}], m):"]
        if ragged is not None:
            arena = f"a{[a.name for a in args].index(ragged)}"
            lines += [
                f"            used = ctx[{USED}]",
                f"            n = {user}",
                f"            if n > {arena}.shape[0] - used:",
                f"                ctx[{FIRST}], ctx[{WANTED}] = j, n",
                f"                return {NEEDS_ROOM}",
                f"            at_index_rw(ctx[{COUNTS}], (k + m,))[k + j] = n",
                f"            ctx[{USED}] = used + n",
            ]
        else:
            lines.append(f"            {user}")
        lines += ["    except Exception:", f"        return {FAILED}", f"    ctx[{FIRST}] = 0"]
    else:
        lines += ["    try:", f"        user({', '.join(['tile', *call])})", "    except Exception:", f"        return {FAILED}"]
    return "\n".join([*lines, f"    return {DONE}", ""]).replace("N_SLOTS", str(max(slot, 1)))


def _scalar(sample: Any, slot: int) -> str:
    if isinstance(sample, tuple):
        parts = []
        for v in sample:
            parts.append(_scalar(v, slot))
            slot += 2 if isinstance(v, complex) else 1
        return f"({', '.join(parts)},)"
    if isinstance(sample, bool):
        return f"(ctx[{slot}] != 0)"
    if isinstance(sample, complex):
        return f"complex(f8[{slot}], f8[{slot + 1}])"
    return f"f8[{slot}]" if isinstance(sample, float) else f"ctx[{slot}]"


def compiled_entry(k: Kernel, hook: str, args: Sequence[Arg], tile: np.ndarray[Any, Any]) -> Entry:
    """The entry for kernel `k`, compiled (or loaded from the cache) for tiles like `tile` (n, *sig) and arguments like the samples."""
    source = entry_source(hook, args, tile.ndim - 1)
    contiguous = tile.flags.c_contiguous
    types = [_type(a.sample) for a in args if a.kind not in ("index", "row0")]
    digest = kernel_digest(k, source, f"{_type(tile)} {contiguous}", *types)

    def function() -> Any:
        import numba

        from libstream.kernels import rt

        names: dict[str, Any] = {
            "user": k.jit,
            "frame_of": rt.frame_of,
            "tile_at": rt.tile_at(numba.typeof(tile).copy(readonly=True, layout="C" if contiguous else "A")),
            "at_i8": rt.words_at,
            "at_f8": rt.array_at(numba.float64[::1]),
            "at_index": rt.array_at(numba.typeof(_read_only(np.zeros(1, np.int64)))),
            "at_index_rw": rt.words_at,
        }
        for i, a in enumerate(args):
            if a.kind not in ("index", "row0", "scalar"):
                names[f"at_a{i}"] = rt.array_at(numba.typeof(a.sample))
        return generated_module(digest, f"# around {k!r}\n\n\n{source}", names).entry

    return made(digest, function, max(HEAD + sum(a.slots for a in args), 1))


def _type(sample: Any) -> str:
    """All of a sample that the type of the kernel's argument depends on."""
    if isinstance(sample, tuple):
        return f"({', '.join(map(_type, sample))})"
    if not isinstance(sample, np.ndarray):
        return type(sample).__name__
    flags = sample.flags
    layout = "C" if flags.c_contiguous else "F" if flags.f_contiguous else "A"
    return f"{np.dtype(sample.dtype).descr} {sample.dtype.str} {sample.ndim} {layout} {flags.writeable} {flags.aligned}"


def made(digest: str, function: Callable[[], Any], n_slots: int) -> Entry:
    """`int64 function()(int64)`: from this process, from the cache, or compiled now. `digest` covers all of it."""
    with _lock:
        if digest not in _entries:
            path = kernel_folder() / f"{digest[:40]}.o"
            code, keep = saved(path), None
            if code is None:
                from libstream.kernels.emit import object_code

                keep = function()
                code, lasting = object_code(keep)
                if lasting:
                    code.save(path)
            _entries[digest] = Entry(linked(code), n_slots, keep)
        return _entries[digest]


def fill_context(ctx: np.ndarray[Any, Any], args: Sequence[Arg], values: Sequence[Any]) -> None:
    """Write addresses, shapes and numbers into the slots of `ctx`; the arrays must outlive its use."""
    f8 = ctx.view(np.float64)
    slot = HEAD
    for a, value in zip(args, values, strict=True):
        if a.kind == "scalar":
            at = slot
            for v in value if isinstance(value, tuple) else (value,):
                if isinstance(v, complex):
                    f8[at], f8[at + 1] = v.real, v.imag
                    at += 2
                else:
                    (f8 if isinstance(v, float) else ctx)[at] = v
                    at += 1
        elif a.kind not in ("index", "row0"):
            ctx[slot] = value.ctypes.data
            ctx[slot + 1 : slot + 1 + value.ndim] = value.shape
        slot += a.slots


def _read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.setflags(write=False)
    return array


def cached_function(k: Kernel) -> Any:
    """Dispatcher that calls `k`, kept in the cache like an entry; see `Kernel.cached`."""
    import numba

    code = k.func.__code__
    names = ", ".join(code.co_varnames[: code.co_argcount])
    source = f"def step({names}):\n    return user({names})\n"
    with _lock:
        module = generated_module(kernel_digest(k, source), source, {"user": k.jit})
        made = module.__dict__.setdefault(
            "dispatcher", numba.njit(nogil=True, cache=True, fastmath=k.fastmath, error_model="numpy")(module.step)
        )
    return made
