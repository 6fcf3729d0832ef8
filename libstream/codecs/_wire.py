"""Kernels of `wire`: batches of stored pixels and of Merlin's raw readout. They check every place and length before they use it."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.codecs._kernels import OK, PLACE, SIZE, move
from libstream.codecs.merlin import _UNPACK, GAP
from libstream.kernels.jit import kernel


@kernel
def swap2(words):  # type: ignore[no-untyped-def]
    """Reverse the bytes of each uint16, in place."""
    for p in range(words.size):
        x = words[p]
        words[p] = (x << np.uint16(8)) | (x >> np.uint16(8))


@kernel
def swap4(words):  # type: ignore[no-untyped-def]
    """Reverse the bytes of each uint32, in place."""
    for p in range(words.size):
        x = words[p]
        x = ((x & np.uint32(0x00FF00FF)) << np.uint32(8)) | ((x >> np.uint32(8)) & np.uint32(0x00FF00FF))
        words[p] = (x << np.uint32(16)) | (x >> np.uint32(16))


@kernel
def swap8(words):  # type: ignore[no-untyped-def]
    """Reverse the bytes of each uint64, in place."""
    for p in range(words.size):
        x = words[p]
        x = ((x & np.uint64(0x00FF00FF00FF00FF)) << np.uint64(8)) | ((x >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF))
        x = ((x & np.uint64(0x0000FFFF0000FFFF)) << np.uint64(16)) | ((x >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF))
        words[p] = (x << np.uint64(32)) | (x >> np.uint64(32))


@kernel
def swap_bytes(part, width):  # type: ignore[no-untyped-def]
    """Reverse the bytes of each number of `width` bytes, in place. part: uint8, aligned for such numbers."""
    if width == 2:
        swap2(part.view(np.uint16))
    elif width == 4:
        swap4(part.view(np.uint32))
    elif width == 8:
        swap8(part.view(np.uint64))


@kernel
def swap_parts(out, to, n_bytes, width, status):  # type: ignore[no-untyped-def]
    """`swap_bytes` of out[to[i] : to[i] + n_bytes] wherever status[i] is OK (then that place exists)."""
    for i in range(to.size):
        if status[i] == OK:
            swap_bytes(out[to[i] : to[i] + n_bytes], width)


@kernel
def copy_parts(src, at, size, width, total, first, last, out, to, status):  # type: ignore[no-untyped-def]
    """Copy bytes [first, last) of the `total` bytes of payload i to out[to[i] :] and swap their bytes (width 1: do not), for all i."""
    for i in range(at.size):
        ip, n = at[i], last - first
        if not (0 <= ip <= src.size and 0 <= size[i] <= src.size - ip and 0 <= first <= last <= total and 0 <= to[i] <= out.size - n):
            status[i] = PLACE
        elif size[i] != total:
            status[i] = SIZE
        else:
            target = out[to[i] : to[i] + n]
            move(src[ip + first : ip + last], target)
            swap_bytes(target, width)
            status[i] = OK


def _raw_reader(unpack: Any) -> Any:
    @kernel
    def read(src, at, size, total, out, to, row_bytes, first_row, last_row, segments, words, plane, chip_rows, gap_bytes, status):  # type: ignore[no-untyped-def]
        """Rows [first_row, last_row) of raw payload i to out[to[i] :], for all i.

        total: stored bytes of a frame. segments, words, plane, chip_rows: see `merlin`. gap_bytes: width of the cross, 0 for none.
        """
        # a payload lies anywhere: brought to whole words first, a frame at a time, in cache
        stored = np.empty(total // 8, np.uint64)
        n = row_bytes * (last_row - first_row)
        top, low = first_row, last_row  # rows without those of the cross
        if gap_bytes:
            top = min(first_row, chip_rows) if first_row < chip_rows + GAP else first_row - GAP
            low = min(last_row, chip_rows) if last_row < chip_rows + GAP else last_row - GAP
        joined = np.empty((1, low - top, (row_bytes - gap_bytes) // 8), np.uint64)
        half = (row_bytes - gap_bytes) // 2
        for i in range(at.size):
            ip = at[i]
            if not (0 <= ip <= src.size and 0 <= size[i] <= src.size - ip and 0 <= to[i] <= out.size - n):
                status[i] = PLACE
                continue
            if size[i] != total:
                status[i] = SIZE
                continue
            status[i] = OK
            move(src[ip : ip + total], stored.view(np.uint8))
            target = out[to[i] : to[i] + n]
            if not gap_bytes:
                frame = target.view(np.uint64).reshape((1, last_row - first_row, row_bytes // 8))
                unpack(stored, 0, frame, segments, words, plane, chip_rows, first_row)
                continue
            unpack(stored, 0, joined, segments, words, plane, chip_rows, top)
            for k in range(n):
                target[k] = 0
            for y in range(top, low):
                row = joined[0, y - top].view(np.uint8)
                p = (y - first_row if y < chip_rows else y + GAP - first_row) * row_bytes
                move(row[:half], target[p : p + half])
                move(row[half:], target[p + half + gap_bytes : p + row_bytes])

    return read


READ_RAW = {depth: _raw_reader(unpack) for depth, unpack in _UNPACK.items()}
"""The reader for each counter depth."""
