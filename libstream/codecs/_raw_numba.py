"""Compiled forms of `_raw`. Imported only when something is compiled."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

_WORD = ir.IntType(64)


def _at(context: Any, builder: Any, array_type: Any, array: Any, index: Any, pointee: Any) -> Any:
    data = builder.bitcast(make_array(array_type)(context, builder, array).data, cgutils.voidptr_t)
    return builder.bitcast(builder.gep(data, [index]), pointee.as_pointer())


@intrinsic
def _get8(tc: Any, a: Any, i: Any) -> Any:
    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        byte = builder.load(_at(context, builder, sig.args[0], args[0], args[1], ir.IntType(8)))
        return builder.zext(byte, context.get_value_type(types.intp))

    return types.intp(a, types.intp), gen


@intrinsic
def _load64(tc: Any, a: Any, i: Any) -> Any:
    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_at(context, builder, sig.args[0], args[0], args[1], _WORD), align=1)

    return types.uint64(a, types.intp), gen


@intrinsic
def _store64(tc: Any, a: Any, i: Any, word: Any) -> Any:
    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _at(context, builder, sig.args[0], args[0], args[1], _WORD), align=1)
        return context.get_dummy_value()

    return types.void(a, types.intp, types.uint64), gen


@intrinsic
def _splat32(tc: Any, a: Any, i: Any, word: Any) -> Any:
    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(_WORD, 4)
        value = ir.Constant(vector, ir.Undefined)
        for lane in range(4):
            value = builder.insert_element(value, args[2], ir.Constant(ir.IntType(32), lane))
        builder.store(value, _at(context, builder, sig.args[0], args[0], args[1], vector), align=1)
        return context.get_dummy_value()

    return types.void(a, types.intp, types.uint64), gen


@intrinsic
def _store8(tc: Any, a: Any, i: Any, value: Any) -> Any:
    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        byte = builder.trunc(args[2], ir.IntType(8))
        builder.store(byte, _at(context, builder, sig.args[0], args[0], args[1], ir.IntType(8)))
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp), gen


@intrinsic
def _zero_bytes(tc: Any, word: Any) -> Any:
    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.lshr(builder.cttz(args[0], ir.Constant(ir.IntType(1), 0)), ir.Constant(_WORD, 3))

    return types.intp(types.uint64), gen


def _copier(n: int) -> Any:
    @intrinsic
    def copy(tc: Any, dst: Any, i: Any, src: Any, j: Any) -> Any:
        def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            vector = ir.VectorType(ir.IntType(8), n)
            value = builder.load(_at(context, builder, sig.args[2], args[2], args[3], vector), align=1)
            builder.store(value, _at(context, builder, sig.args[0], args[0], args[1], vector), align=1)
            return context.get_dummy_value()

        return types.void(dst, types.intp, src, types.intp), gen

    return copy


_copy8, _copy16, _copy32 = _copier(8), _copier(16), _copier(32)


@numba.njit(nogil=True)
def get8(a, i):  # type: ignore[no-untyped-def]
    """See `_raw.get8`."""
    return _get8(a, i)


@numba.njit(nogil=True)
def load64(a, i):  # type: ignore[no-untyped-def]
    """See `_raw.load64`."""
    return _load64(a, i)


@numba.njit(nogil=True)
def store64(a, i, word):  # type: ignore[no-untyped-def]
    """See `_raw.store64`."""
    _store64(a, i, word)


@numba.njit(nogil=True)
def splat32(a, i, word):  # type: ignore[no-untyped-def]
    """See `_raw.splat32`."""
    _splat32(a, i, word)


@numba.njit(nogil=True)
def copy8(dst, i, src, j):  # type: ignore[no-untyped-def]
    """See `_raw.copy8`."""
    _copy8(dst, i, src, j)


@numba.njit(nogil=True)
def copy16(dst, i, src, j):  # type: ignore[no-untyped-def]
    """See `_raw.copy8`."""
    _copy16(dst, i, src, j)


@numba.njit(nogil=True)
def copy32(dst, i, src, j):  # type: ignore[no-untyped-def]
    """See `_raw.copy8`."""
    _copy32(dst, i, src, j)


@numba.njit(nogil=True)
def store8(a, i, value):  # type: ignore[no-untyped-def]
    """See `_raw.store8`."""
    _store8(a, i, value)


@numba.njit(nogil=True)
def zero_bytes(word):  # type: ignore[no-untyped-def]
    """See `_raw.zero_bytes`."""
    return _zero_bytes(word)
