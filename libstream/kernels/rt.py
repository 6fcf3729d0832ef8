"""What generated loops need from numba. Imported only when something is compiled."""

from __future__ import annotations

from typing import Any

import numba
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array


@intrinsic
def _as_c(tc: Any, arr: Any) -> Any:
    # data[i] of a tile with gaps between frames is C-contiguous by the contract of FrameReader.view,
    # but numba types it as strided ("A"), which stops vectorisation: 16 against 54 GB/s for frame totals
    ret = arr.copy(layout="C")

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return impl_ret_borrowed(context, builder, ret, args[0])

    return ret(arr), gen


@numba.njit(nogil=True)
def frame_of(tile, i):  # type: ignore[no-untyped-def]
    """Frame i of a tile as a C-contiguous array."""
    return _as_c(tile[i])


@intrinsic
def _as_flat(tc: Any, tile: Any, i: Any) -> Any:
    # one step instead of tile[i], a retyping and a reshape: a kernel over 8 frames compiles in two thirds of the time
    ret = numba.types.Array(tile.dtype, 1, "C", readonly=not tile.mutable)

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = make_array(tile)(context, builder, args[0])
        shape = cgutils.unpack_tuple(builder, source.shape, tile.ndim)
        stride = builder.extract_value(source.strides, 0)
        size = shape[1]
        for n in shape[2:]:
            size = builder.mul(size, n)
        start = builder.gep(builder.bitcast(source.data, cgutils.voidptr_t), [builder.mul(args[1], stride)])
        out = make_array(ret)(context, builder)
        populate_array(
            out,
            data=builder.bitcast(start, source.data.type),
            shape=[size],
            strides=[source.itemsize],
            itemsize=source.itemsize,
            meminfo=source.meminfo,
            parent=source.parent,
        )
        return impl_ret_borrowed(context, builder, ret, out._getvalue())

    return ret(tile, numba.types.intp), gen


@numba.njit(nogil=True)
def flat_of(tile, i):  # type: ignore[no-untyped-def]
    """The pixels of frame i of a tile as one row (C-contiguous, 1 axis)."""
    return _as_flat(tile, i)
