"""bitshuffle-LZ4 and LZ4: blobs of detectors and of HDF5 chunks, into arrays.

Compiled here rather than taken from a package: it needs nothing to be installed, releases the GIL, decodes parts of a blob and many
blobs in one call, and refuses a damaged or hostile blob before a byte is read or written out of bounds. On frames of 256 x 256 uint16
(Zen 4, one thread, best of 40, a shared machine): few counts 6.4, many 8.2, noise 3.5 GB/s; the bitshuffle package 3.6, 4.2, 3.4;
dectris-compression, which needs a C++20 compiler and takes one blob at a time, 8.2, 10.1, 4.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.codecs import _kernels as k
from libstream.errors import CodecError, UsageError

_Arr = np.ndarray[Any, Any]

STORED, BSLZ4, LZ4_FRAMED, LZ4_BARE = k.STORED, k.BSLZ4, k.LZ4_FRAMED, k.LZ4_BARE

_WHY = {
    k.SHORT: "it ends too early",
    k.LITERALS: "a sequence is longer than the block or the blob",
    k.OFFSET: "a match points before the start of its block",
    k.LENGTH: "a block decodes to fewer bytes than it should",
    k.SIZE: "it announces another size than expected",
    k.BLOCK: "its block size does not fit the size of an element",
}


def default_block(item: int) -> int:
    """Bytes of a bitshuffle block where a header gives none, for elements of `item` bytes."""
    return max(128, 8192 // item // 8 * 8) * item


def decode_bslz4(blob: Any, out: _Arr, item: int = 0) -> None:
    """Decode a bitshuffle-LZ4 blob with HDF5's 12-byte header (or 12 zero bytes, as some senders have) into all of `out`.

    blob: bytes-like. out: C-contiguous array of little-endian numbers, filled completely.
    item: bytes of a shuffled element where that is not `out.itemsize` ("bs8" on 16-bit data). Releases the GIL.
    Raises CodecError for blobs that are damaged, of another size or of another kind; `out` then holds anything.
    """
    _decode_one(blob, out, BSLZ4, item or out.itemsize, "bitshuffle-LZ4")


def decode_lz4(blob: Any, out: _Arr) -> None:
    """Decode LZ4 in HDF5's framing (DECTRIS stream V2 "lz4", HDF5 filter 32004) into all of `out`; see `decode_bslz4`."""
    _decode_one(blob, out, LZ4_FRAMED, 1, "framed LZ4")


def decode_lz4_block(blob: Any, out: _Arr) -> None:
    """Decode one bare LZ4 block without any header (DECTRIS stream V1 "lz4<") into all of `out`; see `decode_bslz4`."""
    _decode_one(blob, out, LZ4_BARE, 1, "LZ4")


def decode_parts(
    src: _Arr, at: _Arr, size: _Arr, out: _Arr, to: _Arr, *, kind: int, item: int, total: int, first: _Arr, last: _Arr
) -> _Arr:  # fmt: skip
    """Decode many parts of blobs in one call that releases the GIL.

    src: uint8 (n_bytes,), holds all blobs; blob i is src[at[i] : at[i] + size[i]] and decodes to `total` bytes.
    first, last: bytes of blob i that are wanted; they go to out[to[i] :]. out: uint8, C-contiguous, aligned for elements.
    kind: STORED, BSLZ4, LZ4_FRAMED or LZ4_BARE. item: bytes of a shuffled element; all of first, last, to are multiples of it.
    Returns bool (n,): False where a blob is damaged; what is in its part of `out` then means nothing.
    """
    at, size, to, first, last = (np.ascontiguousarray(a, np.int64) for a in (at, size, to, first, last))
    if kind == BSLZ4 and out.ctypes.data % item:
        raise UsageError(f"decode_parts: `out` must be aligned for elements of {item} bytes")
    status = np.empty(at.size, np.uint8)
    k.decode_parts.cached(_read_only(src), at, size, kind, item, default_block(item), total, first, last, out, to, status)
    if k.PLACE in status:
        i = int(np.argmax(status == k.PLACE))
        raise UsageError(
            f"decode_parts: bytes {at[i]} + {size[i]} of {src.size}, part {first[i]} to {last[i]} of {total}, to {to[i]} of {out.size}: "
            f"lies outside, or does not begin at an element of {item} bytes"
        )
    return status == k.OK


def warm_up() -> None:
    """Compile the decoders, or load them from the user's cache: seconds once, then milliseconds for each process."""
    for kind in (STORED, BSLZ4, LZ4_FRAMED, LZ4_BARE):
        zero = np.zeros(0, np.int64)
        decode_parts(np.zeros(0, np.uint8), zero, zero, np.zeros(0, np.uint8), zero, kind=kind, item=1, total=0, first=zero, last=zero)


def _decode_one(blob: Any, out: _Arr, kind: int, item: int, what: str) -> None:
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise UsageError("the array to decode into must be C-contiguous and writeable")
    if not 1 <= item <= 255:
        raise UsageError(f"elements have 1 to 255 bytes, got {item}")
    src = np.frombuffer(blob, np.uint8)
    flat = out.reshape(-1).view(np.uint8)
    target = flat if flat.ctypes.data % item == 0 else np.empty(flat.size, np.uint8)
    zero, status = np.zeros(1, np.int64), np.empty(1, np.uint8)
    size, total = np.array([src.size]), np.array([flat.size])
    k.decode_parts.cached(_read_only(src), zero, size, kind, item, default_block(item), flat.size, zero, total, target, zero, status)
    if status[0] != k.OK:
        raise CodecError(
            f"a blob of {src.size} bytes is no {what} of {flat.size} bytes ({out.shape} {out.dtype}): {_WHY[int(status[0])]}. "
            "It was damaged on its way, or shape, dtype or encoding are not what was announced."
        )
    if target is not flat:
        flat[:] = target


def _read_only(array: _Arr) -> _Arr:
    # one type for the compiler, whatever the blob came in
    view = array.view()
    view.setflags(write=False)
    return view
