"""LZ4 blocks and bit transposition, as kernels. All of them take flat uint8 arrays and check every length before they use it.

Formats: LZ4 block format, https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md; bitshuffle, doi:10.1016/j.ascom.2015.07.002;
framing of HDF5 filters 32004 (LZ4) and 32008 (bitshuffle).
"""

from __future__ import annotations

import numpy as np

from libstream.codecs._raw import copy8, copy16, copy32, get8, load64, splat32, store64
from libstream.kernels.jit import kernel

OK, SHORT, LITERALS, OFFSET, LENGTH, SIZE, BLOCK, PLACE = range(8)
"""What became of a blob: good; ends too early; runs of literals or matches beyond the block; matches before its start;
block of another length than announced; announces another size than expected; impossible size of blocks; a call that
names bytes that are not there."""

SLACK = 32
"""Bytes that `lz4_block` may overwrite behind the end of the block, where the buffer has them: copies are that wide."""

STORED, BSLZ4, LZ4_FRAMED, LZ4_BARE = range(4)
"""How a blob is encoded: not at all; bitshuffle and LZ4; LZ4 in HDF5's framing; one LZ4 block."""

_M1, _M2, _M3 = np.uint64(0x00AA00AA00AA00AA), np.uint64(0x0000CCCC0000CCCC), np.uint64(0x00000000F0F0F0F0)
_S7, _S14, _S28 = np.uint64(7), np.uint64(14), np.uint64(28)
_S8, _S16, _S24, _S32, _S40, _S48, _S56, _S64 = (np.uint64(8 * i) for i in range(1, 9))
_ONE, _TWO, _FOUR = np.uint64(1), np.uint64(2), np.uint64(4)
_ODD, _PAIRS, _NIBBLES = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)


@kernel
def lz4_block(src, ip, end, dst, op, stop, cap):  # type: ignore[no-untyped-def]
    """Decode the LZ4 block src[ip:end] into dst[op:stop]; bytes of dst up to `cap` may be used as scratch. Returns a status."""
    start = op
    while True:
        if ip >= end:
            return SHORT
        token = get8(src, ip)
        ip += 1
        n = token >> 4
        if n == 15:
            byte = 255
            while byte == 255:
                if ip >= end:
                    return SHORT
                byte = get8(src, ip)
                ip += 1
                n += byte
        if n > end - ip or n > stop - op:
            return LITERALS
        if n >= 32:
            k = 0
            while k < n - 32:
                copy32(dst, op + k, src, ip + k)
                k += 32
            copy32(dst, op + n - 32, src, ip + n - 32)
        elif end - ip >= 32 and cap - op >= 32:
            copy16(dst, op, src, ip)
            copy16(dst, op + 16, src, ip + 16)
        else:
            for k in range(n):
                dst[op + k] = src[ip + k]
        op += n
        ip += n
        if ip == end:  # the last sequence has no match
            return OK if op == stop else LENGTH
        if end - ip < 2:
            return SHORT
        offset = get8(src, ip) | (get8(src, ip + 1) << 8)
        ip += 2
        n = token & 15
        if n == 15:
            byte = 255
            while byte == 255:
                if ip >= end:
                    return SHORT
                byte = get8(src, ip)
                ip += 1
                n += byte
        n += 4
        if offset == 0 or offset > op - start:
            return OFFSET
        if n > stop - op:
            return LITERALS
        m = op - offset
        k = 0
        if cap - op < n + SLACK:
            for k in range(n):
                dst[op + k] = dst[m + k]
        elif offset >= 16:
            while k < n:
                copy16(dst, op + k, dst, m + k)
                k += 16
        elif offset >= 8:
            while k < n:
                copy8(dst, op + k, dst, m + k)
                k += 8
        else:
            # a period of less than a word: repeat it up to a word, then write words
            bits = np.uint64(8 * offset)
            word = load64(dst, m) & ((_ONE << bits) - _ONE)
            while bits < _S64:
                word |= word << bits
                bits += bits
            if offset & (offset - 1) == 0:
                while k < n:
                    splat32(dst, op + k, word)
                    k += 32
            else:
                step = 8 // offset * offset
                while k < n:
                    store64(dst, op + k, word)
                    k += step
        op += n


@kernel
def all_zero(words):  # type: ignore[no-untyped-def]
    """True where all uint64 are 0."""
    seen = np.uint64(0)
    for i in range(words.size):
        seen |= words[i]
    return seen == 0


@kernel
def transpose8(planes, out):  # type: ignore[no-untyped-def]
    """Eight bit planes of n bytes each, one after the other, to 8 * n bytes: bit p of byte i is bit i of plane p. Any n."""
    n = out.size // 8
    words = out.view(np.uint64)
    a, b, c, d = planes[:n], planes[n : 2 * n], planes[2 * n : 3 * n], planes[3 * n : 4 * n]
    e, f, g, h = planes[4 * n : 5 * n], planes[5 * n : 6 * n], planes[6 * n : 7 * n], planes[7 * n : 8 * n]
    for j in range(n):
        x = np.uint64(a[j]) | np.uint64(b[j]) << _S8 | np.uint64(c[j]) << _S16 | np.uint64(d[j]) << _S24
        x |= np.uint64(e[j]) << _S32 | np.uint64(f[j]) << _S40 | np.uint64(g[j]) << _S48 | np.uint64(h[j]) << _S56
        # 8 x 8 bit transposition by three rounds of swaps
        t = (x ^ (x >> _S7)) & _M1
        x = x ^ t ^ (t << _S7)
        t = (x ^ (x >> _S14)) & _M2
        x = x ^ t ^ (t << _S14)
        t = (x ^ (x >> _S28)) & _M3
        words[j] = x ^ t ^ (t << _S28)


@kernel
def swap(a, b, shift, mask):  # type: ignore[no-untyped-def]
    """Exchange the bits `mask << shift` of a with the bits `mask` of b."""
    t = ((a >> shift) ^ b) & mask
    return a ^ (t << shift), b ^ t


@kernel
def transpose64(planes, out):  # type: ignore[no-untyped-def]
    """As `transpose8` for n a multiple of 8, 1.5 times as fast: 64 bits of each plane at once. Overwrites `planes`.

    The eight words at the same place in the eight planes are 64 small matrices of 8 x 8 bits, side by side: after their
    transposition, byte i of word k belongs to element 8 * i + k.
    """
    words = planes.view(np.uint64)
    n = words.size // 8
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
    n *= 8
    q0, q1, q2, q3 = planes[:n], planes[n : 2 * n], planes[2 * n : 3 * n], planes[3 * n : 4 * n]
    q4, q5, q6, q7 = planes[4 * n : 5 * n], planes[5 * n : 6 * n], planes[6 * n : 7 * n], planes[7 * n : 8 * n]
    for i in range(n):
        k = 8 * i
        out[k], out[k + 1], out[k + 2], out[k + 3] = q0[i], q1[i], q2[i], q3[i]
        out[k + 4], out[k + 5], out[k + 6], out[k + 7] = q4[i], q5[i], q6[i], q7[i]


@kernel
def join2(low, high, out):  # type: ignore[no-untyped-def]
    """uint16 of two bytes each."""
    for i in range(out.size):
        out[i] = np.uint16(low[i]) | (np.uint16(high[i]) << np.uint16(8))


@kernel
def join4(a, b, c, d, out):  # type: ignore[no-untyped-def]
    """uint32 of four bytes each."""
    for i in range(out.size):
        low = np.uint32(a[i]) | (np.uint32(b[i]) << np.uint32(8))
        out[i] = low | (np.uint32(c[i]) << np.uint32(16)) | (np.uint32(d[i]) << np.uint32(24))


@kernel
def widen(low, out):  # type: ignore[no-untyped-def]
    """Bytes to wider integers."""
    for i in range(out.size):
        out[i] = low[i]


@kernel
def move(source, target):  # type: ignore[no-untyped-def]
    """Bytes as they are (compiles in a tenth of the time of a slice assignment)."""
    for i in range(target.size):
        target[i] = source[i]


@kernel
def spread(column, out, first, step):  # type: ignore[no-untyped-def]
    """Bytes to every step-th place of `out`, from `first`."""
    for i in range(column.size):
        out[first + i * step] = column[i]


@kernel
def unshuffle(shuffled, item, columns, out):  # type: ignore[no-untyped-def]
    """Undo bitshuffle's transposition of a block: `shuffled` and `out` have n * item bytes, n a multiple of 8.

    columns: scratch, uint8 (n * item,). `shuffled` is overwritten. Small counts leave most bit planes empty; these are skipped.
    """
    size = out.size
    n = size // item  # elements, and bytes of each column of bytes
    top = 0
    for b in range(item):
        planes, column = shuffled[b * n : (b + 1) * n], columns[b * n : (b + 1) * n]
        if all_zero(planes.view(np.uint64)):
            for j in range(n):
                column[j] = 0
        else:
            top = b
            if n % 64 == 0:
                transpose64(planes, column)
            else:
                transpose8(planes, column)
    low = columns[:n]
    if item == 1:
        move(low, out)
    elif item == 2 and top == 0:
        widen(low, out.view(np.uint16))
    elif item == 2:
        join2(low, columns[n : 2 * n], out.view(np.uint16))
    elif item == 4 and top == 0:
        widen(low, out.view(np.uint32))
    elif item == 4:
        join4(low, columns[n : 2 * n], columns[2 * n : 3 * n], columns[3 * n : 4 * n], out.view(np.uint32))
    else:
        for b in range(item):
            spread(columns[b * n : (b + 1) * n], out, b, item)


@kernel
def big_endian(src, at, n):  # type: ignore[no-untyped-def]
    """Unsigned integer of n bytes, the first one the most significant (wraps from 2 ** 63 on)."""
    value = 0
    for k in range(n):
        value = (value << 8) | get8(src, at + k)
    return value


@kernel
def bslz4_part(src, ip, end, item, block, total, first, last, out):  # type: ignore[no-untyped-def]
    """Decode bytes [first, last) of the `total` bytes that src[ip:end] holds, into `out`. Returns a status.

    item: bytes of an element. block: bytes of a block where the header gives 0. Blocks outside of the part are skipped.
    """
    if end - ip < 12:
        return SHORT
    claimed, stated = big_endian(src, ip, 8), big_endian(src, ip + 8, 4)
    ip += 12
    if claimed != 0 and claimed != total:
        return SIZE
    if stated != 0:
        block = stated
    if block % (8 * item) != 0 or total % item != 0:
        return BLOCK
    body = total - total % (8 * item)
    room = min(block, body)
    packed, columns, spare = np.empty(room + SLACK, np.uint8), np.empty(room, np.uint8), np.empty(room, np.uint8)
    pos = 0
    while pos < body and pos < last:
        n = min(block, body - pos)
        if end - ip < 4:
            return SHORT
        length = big_endian(src, ip, 4)
        ip += 4
        if length > end - ip:
            return SHORT
        if pos + n > first:
            status = lz4_block(src, ip, ip + length, packed, 0, n, packed.size)
            if status != OK:
                return status
            if pos >= first and pos + n <= last:
                unshuffle(packed[:n], item, columns, out[pos - first : pos - first + n])
            else:
                unshuffle(packed[:n], item, columns, spare[:n])
                a, b = max(first, pos), min(last, pos + n)
                move(spare[a - pos : b - pos], out[a - first : b - first])
        ip += length
        pos += n
    a, b = max(first, body), last  # up to 7 elements at the end are stored as they are
    if a < b:
        if end - ip < total - body:
            return SHORT
        move(src[ip + a - body : ip + b - body], out[a - first : b - first])
    return OK


@kernel
def lz4_part(src, ip, end, total, first, last, out):  # type: ignore[no-untyped-def]
    """As `bslz4_part`, for LZ4 in HDF5's framing (filter 32004)."""
    if end - ip < 12:
        return SHORT
    claimed, block = big_endian(src, ip, 8), big_endian(src, ip + 8, 4)
    ip += 12
    if claimed != 0 and claimed != total:
        return SIZE
    if block == 0:
        return BLOCK
    pos = 0
    while pos < last:
        n = min(block, total - pos)
        if end - ip < 4:
            return SHORT
        length = big_endian(src, ip, 4)
        ip += 4
        if length > end - ip:
            return SHORT
        if pos + n > first:
            a, b = max(first, pos), min(last, pos + n)
            if length == n:  # did not become smaller, stored as it is
                move(src[ip + a - pos : ip + b - pos], out[a - first : b - first])
            elif b - a == n:
                status = lz4_block(src, ip, ip + length, out, a - first, b - first, out.size)
                if status != OK:
                    return status
            else:
                spare = np.empty(n + SLACK, np.uint8)
                status = lz4_block(src, ip, ip + length, spare, 0, n, spare.size)
                if status != OK:
                    return status
                move(spare[a - pos : b - pos], out[a - first : b - first])
        ip += length
        pos += n
    return OK


@kernel
def decode_parts(src, at, size, kind, item, block, total, first, last, out, to, status):  # type: ignore[no-untyped-def]
    """Decode part i, bytes [first[i], last[i]) of the blob src[at[i] : at[i] + size[i]], to out[to[i] :], for all i; see `status`."""
    for i in range(at.size):
        ip, a, b = at[i], first[i], last[i]
        # no sums before their terms are known to be small: they may wrap around
        inside = 0 <= ip <= src.size and 0 <= size[i] <= src.size - ip and 0 <= a <= b <= total and 0 <= to[i] <= out.size - (b - a)
        if not inside or (kind == BSLZ4 and (to[i] - a) % item != 0):
            status[i] = PLACE
            continue
        end = ip + size[i]
        target = out[to[i] : to[i] + b - a]
        if kind == BSLZ4:
            status[i] = bslz4_part(src, ip, end, item, block, total, a, b, target)
        elif kind == LZ4_FRAMED:
            status[i] = lz4_part(src, ip, end, total, a, b, target)
        elif kind == LZ4_BARE:
            if b - a == total:
                status[i] = lz4_block(src, ip, end, target, 0, total, total)
            else:
                spare = np.empty(total + SLACK, np.uint8)
                status[i] = lz4_block(src, ip, end, spare, 0, total, spare.size)
                move(spare[a:b], target)
        elif end - ip != total:
            status[i] = SIZE
        else:
            move(src[ip + a : ip + b], target)
            status[i] = OK
