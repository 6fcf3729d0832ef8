"""What generated loops need from numba. Imported only when something is compiled."""

from __future__ import annotations

import types
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array


def _start(builder: Any, source: Any, i: Any) -> tuple[Any, Any]:
    """(where frame i of the array struct `source` begins, whether `source` is a tile of scattered frames).

    Frames of a tile lie at equal distances, or, with a table, anywhere: `tile_at` puts the address of the table where arrays that
    come from Python have a pointer to their object. Those have a meminfo, too; tiles have none.
    """
    i8 = ir.IntType(64)
    tabled = builder.and_(cgutils.is_null(builder, source.meminfo), cgutils.is_not_null(builder, source.parent))
    nothing = cgutils.alloca_once_value(builder, i8(0))
    table = builder.select(tabled, builder.bitcast(source.parent, i8.as_pointer()), nothing)
    place = builder.load(builder.gep(table, [builder.select(tabled, i, i8(0))]))
    offset = builder.select(tabled, place, builder.mul(i, builder.extract_value(source.strides, 0)))
    start = builder.gep(builder.bitcast(source.data, cgutils.voidptr_t), [offset])
    return builder.bitcast(start, source.data.type), tabled


def _part(context: Any, builder: Any, ret: Any, source: Any, i: Any, first: Any, shape: Any) -> Any:
    """C-contiguous array of `shape` from pixel `first` on of frame i of the array struct `source`."""
    start, tabled = _start(builder, source, i)
    out = make_array(ret)(context, builder)
    strides: list[Any] = []
    step = source.itemsize
    for n in reversed(shape):
        strides.insert(0, step)
        step = builder.mul(step, n)
    parent = builder.select(tabled, cgutils.get_null_value(source.parent.type), source.parent)
    populate_array(
        out, data=builder.gep(start, [first]), shape=shape, strides=strides, itemsize=source.itemsize, meminfo=source.meminfo, parent=parent
    )
    return impl_ret_borrowed(context, builder, ret, out._getvalue())


@intrinsic
def frame_of(tc: Any, tile: Any, i: Any) -> Any:
    """Frame i of a tile as a C-contiguous array."""
    # it is that by the contract of FrameReader.view, also where frames have gaps between them; numba would type tile[i] as strided
    # ("A"), which stops vectorisation: 16 against 54 GB/s for frame totals
    ret = numba.types.Array(tile.dtype, tile.ndim - 1, "C", readonly=not tile.mutable)

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = make_array(tile)(context, builder, args[0])
        shape = cgutils.unpack_tuple(builder, source.shape, tile.ndim)[1:]
        return _part(context, builder, ret, source, args[1], context.get_constant(numba.types.intp, 0), list(shape))

    return ret(tile, numba.types.intp), gen


# Intrinsics, not functions: one step instead of tile[i], a retyping, a reshape and a cut, and nothing to compile apart. A kernel
# over 8 frames compiles in half the time.
@intrinsic
def flat_of(tc: Any, tile: Any, i: Any) -> Any:
    """The pixels of frame i of a tile as one row (C-contiguous, 1 axis)."""
    ret = numba.types.Array(tile.dtype, 1, "C", readonly=not tile.mutable)

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = make_array(tile)(context, builder, args[0])
        shape = cgutils.unpack_tuple(builder, source.shape, tile.ndim)
        size = shape[1]
        for n in shape[2:]:
            size = builder.mul(size, n)
        return _part(context, builder, ret, source, args[1], context.get_constant(numba.types.intp, 0), [size])

    return ret(tile, numba.types.intp), gen


@intrinsic
def row_of(tc: Any, array: Any) -> Any:
    """The elements of a C-contiguous array as one row."""
    if not isinstance(array, numba.types.Array) or array.layout != "C":
        raise numba.errors.TypingError(f"row_of takes a C-contiguous array, got {array}")
    ret = array.copy(ndim=1)

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, out = make_array(array)(context, builder, args[0]), make_array(ret)(context, builder)
        shape, strides = [source.nitems], [source.itemsize]
        populate_array(
            out, data=source.data, shape=shape, strides=strides, itemsize=source.itemsize, meminfo=source.meminfo, parent=source.parent
        )
        return impl_ret_borrowed(context, builder, ret, out._getvalue())

    return ret(array), gen


@intrinsic
def part_of(tc: Any, tile: Any, i: Any, start: Any, stop: Any) -> Any:
    """Pixels [start, stop) of that row."""
    ret = numba.types.Array(tile.dtype, 1, "C", readonly=not tile.mutable)

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = make_array(tile)(context, builder, args[0])
        return _part(context, builder, ret, source, args[1], args[2], [builder.sub(args[3], args[2])])

    return ret(tile, numba.types.intp, numba.types.intp, numba.types.intp), gen


@intrinsic
def _ask_for(tc: Any, tile: Any, i: Any, p: Any) -> Any:
    # llvm.prefetch(address, 0 = to read, 2 = to L2, 1 = data); to L1 was slower than none at all
    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = make_array(tile)(context, builder, args[0])
        start, _ = _start(builder, source, args[1])
        place = builder.gep(start, [args[2]])
        i4 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, i4, i4, i4])
        func = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(func, [builder.bitcast(place, cgutils.voidptr_t), i4(0), i4(2), i4(1)])
        return context.get_dummy_value()

    return numba.types.void(tile, numba.types.intp, numba.types.intp), gen


@intrinsic
def ask_for(tc: Any, address: Any) -> Any:
    """Have the line at `address` brought to the L2 cache."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        i4 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, i4, i4, i4])
        func = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(func, [builder.inttoptr(args[0], cgutils.voidptr_t), i4(0), i4(2), i4(1)])
        return context.get_dummy_value()

    return numba.types.void(numba.int64), gen


@numba.njit(nogil=True)
def prefetch(tile, i, start, stop):  # type: ignore[no-untyped-def]
    """Have pixels [start, stop) of frame i brought to the L2 cache."""
    if start < stop:
        for p in range(start, stop, max(1, LINE // tile.itemsize)):
            _ask_for(tile, i, p)
        _ask_for(tile, i, stop - 1)


LINE = 64
"""Bytes that memory and caches move at a time."""


def array_at(array_type: Any) -> Any:
    """An intrinsic `f(address, shape) -> array`: C-contiguous array of `array_type` over memory that others own."""
    ret = array_type

    @intrinsic
    def at(tc: Any, address: Any, shape: Any) -> Any:
        def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            sizes = cgutils.unpack_tuple(builder, args[1], ret.ndim)
            return _array_over(context, builder, ret, args[0], sizes, None)

        return ret(numba.int64, numba.types.UniTuple(numba.int64, ret.ndim)), gen

    return at


def tile_at(array_type: Any) -> Any:
    """An intrinsic `f(address, shape, stride, table) -> array`: frames `stride` bytes apart, C-contiguous inside a frame.

    table: address of int64 offsets in bytes, one for each frame, or 0. With one, frames are where it says, and only `frame_of`,
    `flat_of`, `part_of` and `prefetch` find them.
    """
    ret = array_type

    @intrinsic
    def at(tc: Any, address: Any, shape: Any, stride: Any, table: Any) -> Any:
        def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            sizes = cgutils.unpack_tuple(builder, args[1], ret.ndim)
            return _array_over(context, builder, ret, args[0], sizes, args[2], args[3])

        return ret(numba.int64, numba.types.UniTuple(numba.int64, ret.ndim), numba.int64, numba.int64), gen

    return at


def _array_over(context: Any, builder: Any, ret: Any, address: Any, sizes: Any, first_stride: Any, table: Any = None) -> Any:
    out = make_array(ret)(context, builder)
    item = context.get_constant(numba.types.intp, context.get_abi_sizeof(context.get_data_type(ret.dtype)))
    strides: list[Any] = []
    step = item
    for size in reversed(sizes):
        strides.insert(0, step)
        step = builder.mul(step, size)
    if first_stride is not None:
        strides[0] = first_stride
    data = builder.inttoptr(address, context.get_data_type(ret.dtype).as_pointer())
    parent = None if table is None else builder.inttoptr(table, out.parent.type)
    populate_array(out, data=data, shape=list(sizes), strides=strides, itemsize=item, meminfo=None, parent=parent)
    return impl_ret_borrowed(context, builder, ret, out._getvalue())


@intrinsic
def call_address(tc: Any, address: Any, argument: Any) -> Any:
    """Call `int64 f(int64)` at `address`."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        i8 = context.get_value_type(numba.int64)
        func = builder.inttoptr(args[0], ir.FunctionType(i8, [i8]).as_pointer())
        return builder.call(func, [args[1]])

    return numba.int64(numba.int64, numba.int64), gen


@intrinsic
def word(tc: Any, address: Any, i: Any) -> Any:
    """Word i (int64) of those at `address`."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_word(context, builder, args))

    return numba.int64(numba.int64, numba.int64), gen


@intrinsic
def set_word(tc: Any, address: Any, i: Any, value: Any) -> Any:
    """Write word i (int64) of those at `address`."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _word(context, builder, args))
        return context.get_dummy_value()

    return numba.void(numba.int64, numba.int64, numba.int64), gen


def _word(context: Any, builder: Any, args: Any) -> Any:
    base = builder.inttoptr(args[0], context.get_value_type(numba.int64).as_pointer())
    return builder.gep(base, [args[1]])


bytes_at, words_at = array_at(numba.uint8[::1]), array_at(numba.int64[::1])


def with_globals(func: Any, **names: Any) -> Any:
    """A copy of a plain function that sees `names` as globals: kernels that need intrinsics can live in light modules."""
    out = types.FunctionType(func.__code__, {**func.__globals__, **names}, func.__name__, func.__defaults__, func.__closure__)
    out.__qualname__ = func.__qualname__
    return out
