"""The one compiled loop of libstream: runs of frames, tiles, bands of rows, and the entries of all UDFs of a pass."""

# ruff: noqa: F821
# mypy: disable-error-code="name-defined"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from libstream.kernels.digest import kernel_digest
from libstream.kernels.jit import Kernel
from libstream.kernels.loops import made

_Arr = np.ndarray[Any, Any]


def drive(address):  # type: ignore[no-untyped-def]
    """Visit runs, tiles, bands and entries; the one compiled loop of libstream (see `driver`).

    address: of the words that `drive_words` makes, where the arguments are described. Reads and writes memory by address,
    because arrays would double the time that this takes to compile. `word`, `set_word` and so on are given by `driver`.
    Returns DONE, or NEEDS_ROOM, FAILED, CANCELLED with `at` on the entry concerned.
    """
    n_entries, n_runs, n_bands, addresses = word(address, 0), word(address, 1), word(address, 2), word(address, 3)
    contexts = word(address, 4)
    slots, sources, strides, row_strides, runs = word(address, 5), word(address, 6), word(address, 7), word(address, 8), word(address, 9)
    depth, bands, cancel, k, gather, at = (
        word(address, 10), word(address, 11), word(address, 12), word(address, 13), word(address, 14), word(address, 15)
    )  # fmt: skip
    buffer, frames, stride, size, table = word(gather, 0), word(gather, 1), word(gather, 2), word(gather, 3), word(gather, 4)
    a, i, b, u, r = word(at, 0), word(at, 1), word(at, 2), word(at, 3), word(at, 4)
    while a < n_runs:
        if bytes_at(cancel, (1,))[0] != 0:
            return 3
        if i < 0:
            i = word(runs, 2 * a)
        m, next_a, next_i = 0, a, i
        while next_a < n_runs and (m == 0 or (buffer + table != 0 and m < depth)):
            if next_i < 0:
                next_i = word(runs, 2 * next_a)
            n = word(runs, 2 * next_a + 1) - next_i
            if n > depth - m:
                n = depth - m
            if table != 0:
                for j in range(n):
                    set_word(table, m + j, (next_i + j) * stride)
            if buffer != 0:
                for j in range(n):
                    source, target = frames + (next_i + j) * stride, buffer + (m + j) * size
                    for page in range(0, size, 4096):
                        part = size - page
                        if part > 4096:
                            part = 4096
                        for line in range(64):  # of the next page, beyond which the processor does not look by itself
                            ask_for(source + page + 4096 + 64 * line)
                        to, frame = bytes_at(target + page, (part,)), bytes_at(source + page, (part,))
                        for p in range(part):  # twice as fast as memcpy, which writes past the cache
                            to[p] = frame[p]
            m, next_i = m + n, next_i + n
            if next_i == word(runs, 2 * next_a + 1):
                next_a, next_i = next_a + 1, -1
        while b < n_bands:
            y0, y1 = word(bands, 2 * b), word(bands, 2 * b + 1)
            while u < n_entries:
                row_stride, whole = word(row_strides, u), word(row_strides, u) == 0
                if not whole or b == 0:
                    c = contexts + 8 * slots * u
                    if word(sources, u) < 0:
                        set_word(c, 0, ~word(sources, u) + y0 * row_stride)
                        set_word(c, 13, 0)
                    else:
                        first = 0 if table != 0 else i * word(strides, u)
                        set_word(c, 0, word(sources, u) + first + y0 * row_stride)
                        set_word(c, 13, table)
                    set_word(c, 1, word(strides, u))
                    set_word(c, 2, m)
                    set_word(c, 5, k + r)
                    set_word(c, 6, r)
                    if whole:
                        set_word(c, 3, word(bands, 2 * n_bands - 1))
                        set_word(c, 4, 0)
                    else:
                        set_word(c, 3, y1 - y0)
                        set_word(c, 4, y0)
                    status = call_address(word(addresses, u), c)
                    if status != 0:
                        set_word(at, 0, a)
                        set_word(at, 1, i)
                        set_word(at, 2, b)
                        set_word(at, 3, u)
                        set_word(at, 4, r)
                        set_word(at, 5, m)
                        return status
                u += 1
            u = 0
            b += 1
        b = 0
        r += m
        a, i = next_a, next_i
    return 0


def drive_words(
    addresses: _Arr, contexts: _Arr, sources: _Arr, strides: _Arr, row_strides: _Arr, runs: _Arr, depth: int, bands: _Arr,
    cancel: _Arr, k: int, gather: _Arr, at: _Arr,
) -> _Arr:  # fmt: skip
    """The arguments of `drive` as words: all are arrays of int64 in C order (`cancel`: uint8), and outlive the call.

    addresses: (u,), entries in the order in which they see a tile. contexts: (u, slots).
    sources: (u,), address of frame 0 as entry u sees it; < 0: ~address of a buffer that holds the current tile only, which
    an earlier entry, or gathering, fills. strides, row_strides: bytes from frame to frame and from row to row, by entry.
    runs: (n, 2), frames to visit. depth: frames of a tile. bands: (b, 2), row ranges.
    whole frames go to entries of converters: those have row_strides 0 and are called with the first band only.
    cancel: (1,), not 0 to stop. k: row of the block's first frame in the partition.
    gather: (5,) (address of a buffer for a tile or 0, address of frame 0, bytes from frame to frame, bytes of a frame, address
    of a table for a tile or 0): a tile is made of several runs, by copying, or by a table of where its frames are.
    at: (6,) (run, frame or -1, band, entry, row, frames of the tile): where to go on, and where it stopped.
    """
    arrays = (addresses, contexts, sources, strides, row_strides, runs, bands, gather, at)
    if cancel.dtype != np.uint8 or any(a.dtype != np.int64 or not a.flags.c_contiguous for a in arrays):
        raise TypeError("the compiled loop takes int64 in C order, and a byte to stop at; this is a fault of libstream")
    words = [len(addresses), len(runs), len(bands)]
    for value in (addresses, contexts, contexts.shape[1], sources, strides, row_strides, runs, depth, bands, cancel, k, gather, at):
        words.append(value if isinstance(value, int) else value.ctypes.data)
    return np.array(words, np.int64)


def driver() -> Callable[[int], int]:
    """The compiled `drive`, made once per process from the cache."""
    global _driver
    if _driver is None:
        import ctypes

        def with_names() -> Any:
            from libstream.kernels import rt

            names = ("call_address", "bytes_at", "word", "set_word", "ask_for")
            return rt.with_globals(drive, **{name: getattr(rt, name) for name in names})

        entry = made(kernel_digest(Kernel(drive)), with_names, 0)
        _driver = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(entry.address)  # called without the GIL
    return _driver


_driver: Any = None
