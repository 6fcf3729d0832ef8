"""Encoders as kernels: bit transposition and LZ4 blocks, for replay and simulators. See `_kernels` for the formats."""

from __future__ import annotations

import numpy as np

from libstream.codecs._kernels import _FOUR, _NIBBLES, _ODD, _ONE, _PAIRS, _TWO, SLACK, all_zero, move, swap
from libstream.codecs._raw import copy16, copy32, load64
from libstream.kernels.jit import kernel

TABLE = 4096
"""Entries of the table of places that `lz4_encode` looks up."""
_PRIME = np.uint64(889523592379)  # of 5 bytes, as the reference encoder has it
_S24, _S52, _LOW32 = np.uint64(24), np.uint64(52), np.uint64(0xFFFFFFFF)
_M1, _M2, _M3 = np.uint64(0x00AA00AA00AA00AA), np.uint64(0x0000CCCC0000CCCC), np.uint64(0x00000000F0F0F0F0)
_S7, _S14, _S28, _S8 = np.uint64(7), np.uint64(14), np.uint64(28), np.uint64(8)


def bound(n: int) -> int:
    """Bytes that `lz4_encode` may write for n bytes."""
    return n + n // 255 + 16 + 2 * SLACK


@kernel
def lz4_encode(src, a, b, dst, op, table, base):  # type: ignore[no-untyped-def]
    """Encode src[a:b] as one LZ4 block at dst[op:], which has room for `bound` bytes. Returns where it ends.

    table: int64 (TABLE,), -1 or what earlier calls left, whose `base` was smaller by at least the bytes that they encoded.
    """
    anchor = ip = a
    misses = 0
    # the format wants the last five bytes to be literals, and no match to begin in the last twelve
    while ip <= b - 13:
        word = load64(src, ip)
        h = np.int64(((word << _S24) * _PRIME) >> _S52)
        ref = table[h] - base + a
        table[h] = ip - a + base
        if ref < a or ip - ref > 65535 or (load64(src, ref) ^ word) & _LOW32 != 0:
            misses += 1
            ip += 1 + (misses >> 6)
            continue
        misses = 0
        while ip > anchor and ref > a and src[ip - 1] == src[ref - 1]:
            ip -= 1
            ref -= 1
        stop = b - 5
        end, r = ip + 4, ref + 4
        while end + 8 <= stop and load64(src, end) == load64(src, r):
            end += 8
            r += 8
        while end < stop and src[end] == src[r]:
            end += 1
            r += 1
        op = _sequence(src, anchor, ip, dst, op, end - ip - 4, ip - ref, b)
        anchor = ip = end
    return _sequence(src, anchor, b, dst, op, 0, 0, b)


@kernel
def _length(dst, op, n):  # type: ignore[no-untyped-def]
    """The rest of a length that does not fit into a token."""
    while n >= 255:
        dst[op] = 255
        op += 1
        n -= 255
    dst[op] = n
    return op + 1


@kernel
def _sequence(src, anchor, ip, dst, op, match, offset, b):  # type: ignore[no-untyped-def]
    """Literals src[anchor:ip] and a match of match + 4 bytes (offset 0: no match, the end of the block)."""
    n = ip - anchor
    dst[op] = (min(n, 15) << 4) | min(match, 15)
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
            dst[op + k] = src[anchor + k]
    op += n
    if offset:
        dst[op] = offset & 255
        dst[op + 1] = offset >> 8
        op += 2
        if match >= 15:
            op = _length(dst, op, match - 15)
    return op


@kernel
def planes8(column, out):  # type: ignore[no-untyped-def]
    """Inverse of `transpose8`: n bytes, n a multiple of 8, to eight planes of n / 8 bytes."""
    n = column.size // 8
    words = column.view(np.uint64)
    for j in range(n):
        x = words[j]
        t = (x ^ (x >> _S7)) & _M1
        x = x ^ t ^ (t << _S7)
        t = (x ^ (x >> _S14)) & _M2
        x = x ^ t ^ (t << _S14)
        t = (x ^ (x >> _S28)) & _M3
        x = x ^ t ^ (t << _S28)
        for k in range(8):
            out[k * n + j] = np.uint8(x & np.uint64(255))
            x >>= _S8


@kernel
def planes64(column, out):  # type: ignore[no-untyped-def]
    """Inverse of `transpose64`, which see: as `planes8` for n a multiple of 64."""
    n = column.size // 8
    for k in range(8):
        part = out[k * n : (k + 1) * n]
        for i in range(n):
            part[i] = column[8 * i + k]
    words = out.view(np.uint64)
    n //= 8
    p0, p1, p2, p3 = words[:n], words[n : 2 * n], words[2 * n : 3 * n], words[3 * n : 4 * n]
    p4, p5, p6, p7 = words[4 * n : 5 * n], words[5 * n : 6 * n], words[6 * n : 7 * n], words[7 * n : 8 * n]
    for j in range(n):
        a, b = swap(p0[j], p1[j], _ONE, _ODD)
        c, d = swap(p2[j], p3[j], _ONE, _ODD)
        e, f = swap(p4[j], p5[j], _ONE, _ODD)
        g, h = swap(p6[j], p7[j], _ONE, _ODD)
        a, c = swap(a, c, _TWO, _PAIRS)
        b, d = swap(b, d, _TWO, _PAIRS)
        e, g = swap(e, g, _TWO, _PAIRS)
        f, h = swap(f, h, _TWO, _PAIRS)
        p0[j], p4[j] = swap(a, e, _FOUR, _NIBBLES)
        p1[j], p5[j] = swap(b, f, _FOUR, _NIBBLES)
        p2[j], p6[j] = swap(c, g, _FOUR, _NIBBLES)
        p3[j], p7[j] = swap(d, h, _FOUR, _NIBBLES)


@kernel
def _byte_of(words, shift, column):  # type: ignore[no-untyped-def]
    for j in range(column.size):
        column[j] = np.uint8((words[j] >> shift) & 255)


@kernel
def shuffle(block, item, column, out):  # type: ignore[no-untyped-def]
    """bitshuffle's transposition of a block of n elements of `item` bytes, n a multiple of 8. column: scratch, uint8 (n,)."""
    n = block.size // item
    for b in range(item):
        planes = out[b * n : (b + 1) * n]
        if item == 1:
            move(block, column)
        elif item == 2:
            _byte_of(block.view(np.uint16), 8 * b, column)
        elif item == 4:
            _byte_of(block.view(np.uint32), 8 * b, column)
        else:
            for j in range(n):
                column[j] = block[j * item + b]
        if all_zero(column.view(np.uint64)):
            planes[:] = 0
        elif n % 64 == 0:
            planes64(column, planes)
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
    table = np.full(TABLE, -1, np.int64)
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
    table = np.full(TABLE, -1, np.int64)
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
