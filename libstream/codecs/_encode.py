"""Encoders as kernels: bit transposition and LZ4 blocks, for replay and simulators. See `_kernels` for the formats."""

from __future__ import annotations

import numpy as np

from libstream.codecs._kernels import SLACK, all_zero, move
from libstream.codecs._raw import copy16, copy32, get8, load64, store8, zero_bytes
from libstream.kernels.jit import Kernel, kernel

TABLE = 4096
"""Entries of the table of places that `lz4_encode` looks up."""
_PRIME = np.uint64(889523592379)  # of 5 bytes, as the reference encoder has it
_S24, _S52, _LOW32 = np.uint64(24), np.uint64(52), np.uint64(0xFFFFFFFF)
_M1, _M2, _M3 = np.uint64(0x00AA00AA00AA00AA), np.uint64(0x0000CCCC0000CCCC), np.uint64(0x00000000F0F0F0F0)
_S7, _S14, _S28 = np.uint64(7), np.uint64(14), np.uint64(28)


def bound(n: int) -> int:
    """Bytes that `lz4_encode` may write for n bytes."""
    return n + n // 255 + 16 + 2 * SLACK


@kernel
def lz4_encode(src, a, b, dst, op, table, base):  # type: ignore[no-untyped-def]
    """Encode src[a:b] as one LZ4 block at dst[op:], which has room for `bound` bytes. Returns where it ends.

    table: int32 (TABLE,), -1 or what earlier calls left, whose `base` was smaller by at least the bytes that they encoded.
    """
    anchor = ip = a
    misses = 0
    stop, shift = b - 5, a - base
    # the format wants the last five bytes to be literals, and no match to begin in the last twelve
    while ip <= b - 13:
        word = load64(src, ip)
        h = ((word << _S24) * _PRIME) >> _S52
        ref = table[h] + shift
        table[h] = ip - shift
        if ref < a or ip - ref > 65535 or (load64(src, ref) ^ word) & _LOW32 != 0:
            misses += 1
            ip += 1 + (misses >> 6)
            continue
        misses = 0
        while ip > anchor and ref > a and get8(src, ip - 1) == get8(src, ref - 1):
            ip -= 1
            ref -= 1
        end, r = ip + 4, ref + 4
        while end + 8 <= stop:
            differ = load64(src, end) ^ load64(src, r)
            if differ != 0:
                end += zero_bytes(differ)
                break
            end += 8
            r += 8
        else:
            while end < stop and get8(src, end) == get8(src, r):
                end += 1
                r += 1
        op = _sequence(src, anchor, ip, dst, op, end - ip - 4, ip - ref, b)
        anchor = ip = end
    return _sequence(src, anchor, b, dst, op, 0, 0, b)


@kernel
def _length(dst, op, n):  # type: ignore[no-untyped-def]
    """The rest of a length that does not fit into a token."""
    while n >= 255:
        store8(dst, op, 255)
        op += 1
        n -= 255
    store8(dst, op, n)
    return op + 1


@kernel
def _sequence(src, anchor, ip, dst, op, match, offset, b):  # type: ignore[no-untyped-def]
    """Literals src[anchor:ip] and a match of match + 4 bytes (offset 0: no match, the end of the block)."""
    n = ip - anchor
    store8(dst, op, (min(n, 15) << 4) | min(match, 15))
    op += 1
    if n >= 15:
        op = _length(dst, op, n - 15)
    if n <= 16 and b - anchor >= 16:
        copy16(dst, op, src, anchor)
    elif n >= 32:
        k = 0
        while k < n - 32:
            copy32(dst, op + k, src, anchor + k)
            k += 32
        copy32(dst, op + n - 32, src, ip - 32)
    else:
        for k in range(n):
            store8(dst, op + k, get8(src, anchor + k))
    op += n
    if offset:
        store8(dst, op, offset)
        store8(dst, op + 1, offset >> 8)
        op += 2
        if match >= 15:
            op = _length(dst, op, match - 15)
    return op


def _byte_of(n: int) -> Kernel:
    shift = 8 * n

    @kernel
    def byte(words, column):  # type: ignore[no-untyped-def]
        """Byte n of each word; a constant n makes it six times as fast."""
        for j in range(column.size):
            column[j] = np.uint8((words[j] >> shift) & 255)

    return byte


_byte0, _byte1, _byte2, _byte3, _byte4, _byte5, _byte6, _byte7 = map(_byte_of, range(8))


@kernel
def planes8(column, out):  # type: ignore[no-untyped-def]
    """Inverse of `transpose8`: n bytes, n a multiple of 8, to eight planes of n / 8 bytes. Overwrites `column`."""
    words = column.view(np.uint64)
    for j in range(words.size):
        x = words[j]
        t = (x ^ (x >> _S7)) & _M1
        x = x ^ t ^ (t << _S7)
        t = (x ^ (x >> _S14)) & _M2
        x = x ^ t ^ (t << _S14)
        t = (x ^ (x >> _S28)) & _M3
        words[j] = x ^ t ^ (t << _S28)
    n = words.size
    _byte0(words, out[:n])
    _byte1(words, out[n : 2 * n])
    _byte2(words, out[2 * n : 3 * n])
    _byte3(words, out[3 * n : 4 * n])
    _byte4(words, out[4 * n : 5 * n])
    _byte5(words, out[5 * n : 6 * n])
    _byte6(words, out[6 * n : 7 * n])
    _byte7(words, out[7 * n : 8 * n])


@kernel
def shuffle(block, item, column, out):  # type: ignore[no-untyped-def]
    """bitshuffle's transposition of a block of n elements of `item` bytes, n a multiple of 8. column: scratch, uint8 (n,)."""
    n = block.size // item
    for b in range(item):
        planes = out[b * n : (b + 1) * n]
        if item == 1:
            move(block, column)
        elif item == 2 and b == 0:
            _byte0(block.view(np.uint16), column)
        elif item == 2:
            _byte1(block.view(np.uint16), column)
        elif item == 4 and b == 0:
            _byte0(block.view(np.uint32), column)
        elif item == 4 and b == 1:
            _byte1(block.view(np.uint32), column)
        else:
            for j in range(n):
                column[j] = block[j * item + b]
        if all_zero(column.view(np.uint64)):
            planes[:] = 0
        else:
            planes8(column, planes)


@kernel
def _big_endian(dst, op, value, n):  # type: ignore[no-untyped-def]
    for k in range(n):
        dst[op + n - 1 - k] = value & 255
        value >>= 8
    return op + n


@kernel
def encode_bslz4(raw, item, block, out):  # type: ignore[no-untyped-def]
    """bitshuffle-LZ4 with HDF5's header. raw: uint8, aligned for elements of `item` bytes. Returns the bytes written to `out`."""
    total = raw.size
    op = _big_endian(out, _big_endian(out, 0, total, 8), block, 4)
    body = total - total % (8 * item)
    room = min(block, body)
    # 8 bytes more than a block: words are looked up whole
    packed, column = np.zeros(room + 8, np.uint8), np.empty(room // item, np.uint8)
    table = np.full(TABLE, -1, np.int32)
    pos = 0
    while pos < body:
        n = min(block, body - pos)
        shuffle(raw[pos : pos + n], item, column[: n // item], packed[:n])
        end = lz4_encode(packed, 0, n, out, op + 4, table, pos)
        _big_endian(out, op, end - op - 4, 4)
        op = end
        pos += n
    move(raw[body:], out[op : op + total - body])
    return op + total - body


@kernel
def encode_lz4(raw, block, out):  # type: ignore[no-untyped-def]
    """LZ4 blocks of `block` bytes in HDF5's framing (0: one bare block). Returns the bytes written to `out`."""
    total = raw.size
    table = np.full(TABLE, -1, np.int32)
    if block == 0:
        return lz4_encode(raw, 0, total, out, 0, table, 0)
    op = _big_endian(out, _big_endian(out, 0, total, 8), block, 4)
    pos = 0
    while pos < total:
        n = min(block, total - pos)
        end = lz4_encode(raw, pos, pos + n, out, op + 4, table, pos)
        if end - op - 4 >= n:  # did not become smaller: stored
            move(raw[pos : pos + n], out[op + 4 : op + 4 + n])
            end = op + 4 + n
        _big_endian(out, op, end - op - 4, 4)
        op = end
        pos += n
    return op
