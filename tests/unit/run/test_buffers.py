"""Scratch memory: aligned, used again, and never by two at a time."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.run import buffers
from libstream.run.buffers import KEPT_BYTES, SMALL, Buffers, aligned, reused


def address(a: np.ndarray) -> int:
    return int(a.__array_interface__["data"][0])


def test_aligned_and_named_buffers() -> None:
    assert address(aligned((3, 5), "f4")) % 4096 == 0
    held = Buffers()
    big = held.get("read", (10, 10), "u2")
    assert held.get("read", (5, 4), "f4").base is big.base
    assert held.get("other", (10, 10), "u2").base is not big.base


def test_memory_is_used_again_when_array_and_views_are_gone() -> None:
    a = reused((256, 256), np.uint64)
    assert (a.shape, a.dtype, address(a) % 4096, a.flags.writeable, a.flags.c_contiguous) == ((256, 256), np.uint64, 0, True, True)
    where, row = address(a), a[3:].reshape(-1)[::2]
    del a
    gc.collect()
    b = reused((256, 256), np.uint64)
    assert not np.shares_memory(b, row), "a view is still in use"
    row[:] = 7
    b[:] = 1
    assert (row == 7).all()
    del row
    gc.collect()
    c = reused((512, 128), np.int64)
    assert address(c) == where, "the same size, another shape and dtype"


def test_little_is_kept() -> None:
    for k in range(20):
        waiting = [reused((n, 1024), np.uint8) for n in range(SMALL // 1024 + 8 * k, SMALL // 1024 + 8 * k + 4)]
        del waiting
    many = [reused((1024, 1024), np.uint8) for _ in range(40)]
    del many
    gc.collect()
    assert len(buffers._kept) <= buffers.KEPT_SIZES
    assert all(len(d) * size <= KEPT_BYTES for size, d in buffers._kept.items())
    large = reused((KEPT_BYTES + 1,), np.uint8)
    del large
    assert all(size <= KEPT_BYTES for size in buffers._kept)


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=60))
def test_arrays_in_use_never_overlap(steps: list[tuple[int, bool]]) -> None:
    held: list[np.ndarray] = []
    for n, keep in steps:
        array = reused((n, 4096), np.uint8)
        array[...] = len(held) % 251
        if keep:
            held.append(array)
        elif held:
            held.pop(n % len(held))
            held = [a.copy() if i % 7 == 0 else a for i, a in enumerate(held)]
        assert not any(np.shares_memory(array, a) for a in held if a is not array)


@pytest.mark.parametrize("n_threads", [4])
def test_threads_share_it(n_threads: int) -> None:
    wrong: list[int] = []

    def work(me: int) -> None:
        for i in range(300):
            a = reused((40 + i % 3, 4096), np.uint8)
            a[...] = me
            b = a[1:]
            del a
            if not (b == me).all():
                wrong.append(me)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(n_threads)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
