"""Cropping, binning and cutting into pieces."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from libstream.cli.export import binned, binned_axis, binned_dtype, checked_ranges, pieces
from libstream.errors import UsageError
from libstream.model.source import Axis

DTYPES = [np.uint8, np.uint16, np.uint32, np.int8, np.int16, np.int32, np.float32, np.float64, np.complex64, np.bool_]


@given(st.data())
def test_binned_equals_sums_over_blocks(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    sig = data.draw(hnp.array_shapes(min_dims=1, max_dims=2, max_side=9))
    factor = data.draw(st.integers(1, min(sig)))
    frames = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 2, (3, *sig)).astype(dtype)
    if dtype.kind in "iu":
        frames *= np.iinfo(dtype).max  # the worst case for overflow
    out = binned(frames, factor, binned_dtype(dtype, factor ** len(sig)))
    for index in np.ndindex(*(n // factor for n in sig)):
        block = frames[(slice(None), *(slice(i * factor, (i + 1) * factor) for i in index))].reshape(3, -1)
        exact = [sum(int(v) if dtype.kind in "iub" else complex(v) for v in row) for row in block]
        assert [complex(v) for v in out[(slice(None), *index)]] == [complex(e) for e in exact]


@given(st.sampled_from(DTYPES), st.integers(1, 10**6))
def test_sums_cannot_overflow(dtype: type, n: int) -> None:
    given_dtype = np.dtype(dtype)
    out = binned_dtype(given_dtype, n)
    assert out.kind == given_dtype.kind or (given_dtype.kind, out.kind) == ("b", "u")
    if given_dtype.kind in "iu":
        old, new = np.iinfo(given_dtype), np.iinfo(out)
        assert new.max >= n * int(old.max)
        assert new.min <= n * int(old.min)


def test_sums_of_64_bits_are_refused() -> None:
    with pytest.raises(UsageError, match="64 bits"):
        binned_dtype(np.dtype(np.uint64), 4)
    assert binned_dtype(np.dtype(np.uint64), 1) == np.uint64


@given(st.lists(st.integers(1, 12), max_size=4), st.integers(1, 40))
def test_pieces_cover_the_scan_in_order(nav: list[int], most: int) -> None:
    numbers = np.arange(math.prod(nav)).reshape(nav)
    seen = []
    for index, n in pieces(tuple(nav), most):
        part = numbers[index].reshape(-1)
        assert len(part) == n <= most
        seen += part.tolist()
    assert seen == list(range(math.prod(nav)))


@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(1, 40), st.integers(1, 8), st.data())
def test_a_binned_pixel_lies_in_the_middle_of_its_parts(step: float, offset: float, size: int, factor: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    at = offset + np.arange(size) * step
    axis = binned_axis(Axis("x", size, step, offset, "nm"), start, stop, factor)
    assert axis.size == (stop - start) // factor
    for i in range(axis.size):
        middle = at[start + i * factor : start + (i + 1) * factor].mean()
        assert axis.offset + i * axis.step == pytest.approx(middle, abs=1e-9)


@pytest.mark.parametrize("ranges", [(slice(0, 4), slice(2, 2)), (slice(0, 9), slice(0, 1)), (slice(5, 3), slice(0, 1)), (slice(0, 1),)])
def test_ranges_outside_are_refused(ranges: tuple[slice, ...]) -> None:
    with pytest.raises(UsageError, match="--crop"):
        checked_ranges(ranges, (8, 5), "--crop")


def test_open_ends() -> None:
    assert checked_ranges((slice(None, 4), slice(2, None)), (8, 5), "--crop") == ((0, 4), (2, 5))
    assert checked_ranges(None, (8, 5), "--crop") == ((0, 8), (0, 5))
