"""Histograms against numpy.histogram."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import libstream as ls
from libstream.errors import ParameterError
from libstream.udfs.histogram import FrameHistogram
from tests.unit.udfs.drive import drive
from tests.unit.udfs.test_com import frames_of


def twin(data: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """(counts, [below, above, not a number]) by definition."""
    v = data.reshape(-1).astype(np.float64)
    counts = [int(((v >= lo) & (v < hi)).sum()) for lo, hi in itertools.pairwise(edges)]
    counts[-1] += int((v == edges[-1]).sum())
    return np.array(counts, np.uint64), [int((v < edges[0]).sum()), int((v > edges[-1]).sum()), int(np.isnan(v).sum())]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(["i2", "f4"]),
    sig=st.tuples(st.integers(1, 13), st.integers(1, 15)),
    low=st.sampled_from([-3.0, 0.0, 0.1, 7.25]),
    width=st.sampled_from([0.3, 1.0, 64.0, 40000.0]),
    bins=st.integers(1, 37),
    per_frame=st.booleans(),
    depth=st.sampled_from([2, 3, 6]),
    cut=st.integers(0, 12),
)
def test_counts_equal_the_definition(
    seed: int, dtype: str, sig: tuple[int, int], low: float, width: float, bins: int, per_frame: bool, depth: int, cut: int
) -> None:
    data = frames_of(seed, (6,), sig, dtype)
    if dtype[0] == "f":
        data.reshape(-1)[:3] = [np.nan, np.inf, -np.inf][: data.size]
    high = low + width
    edges = np.linspace(low, high, bins + 1)
    if dtype[0] == "f" or np.iinfo(dtype).min <= edges[bins // 2] <= np.iinfo(dtype).max:
        data.reshape(-1)[-1] = edges[bins // 2]  # on an edge, as far as the dtype can say
    udf = FrameHistogram(low=low, high=high, bins=bins, per_frame=per_frame)
    got = drive(udf, data, bands=[cut] if 0 < cut < sig[0] else [], depth=depth)
    counts, outside = twin(data, edges)
    assert_array_equal(got["counts"], counts)
    assert_array_equal(got["outside"], outside)
    assert_array_equal(got["edges"], edges)
    assert got["counts"].dtype == np.uint64
    assert int(got["counts"].sum() + got["outside"].sum()) == data.size
    assert ("frame_counts" in got) == per_frame
    if per_frame:
        assert_array_equal(got["frame_counts"], [twin(f, edges)[0] for f in data])
    if dtype[0] in "ui":
        assert_array_equal(got["counts"], np.histogram(data, bins, (low, high))[0])


@pytest.mark.parametrize(("dtype", "bins"), [("u1", 256), ("i1", 256), ("u2", 65536), ("i2", 1000), ("u4", 16), ("i4", 16)])
def test_by_default_the_whole_range_of_an_integer_dtype_is_counted(dtype: str, bins: int) -> None:
    info = np.iinfo(dtype)
    data = np.array([[[info.min, info.max], [info.max // 2, info.max]]], dtype)
    got = drive(FrameHistogram(bins=bins), data)
    assert (got["edges"][0], got["edges"][-1]) == (info.min, info.max + 1)
    assert not got["outside"].any()
    assert got["counts"][0] == 1
    assert got["counts"][-1] == 2
    assert got["counts"].sum() == 4


def test_a_bool_detector() -> None:
    got = drive(FrameHistogram(bins=2), np.array([[[True, False, True]]]))
    assert got["counts"].tolist() == [1, 2]


def test_limits_are_checked() -> None:
    floats = np.ones((1, 3, 3), np.float32)
    for kwargs, data, match in (
        ({}, floats, "low and high"),
        ({"low": 3, "high": 3}, floats, "above"),
        ({"low": 0, "high": np.inf}, floats, "finite"),
        ({"low": 1, "high": np.nextafter(1, 2), "bins": 4}, floats, "fewer"),
        ({"bins": 0}, floats, "bins"),
    ):
        with pytest.raises(ParameterError, match=match):
            drive(FrameHistogram(**kwargs), data)


def test_corrected_integers_keep_the_range_of_the_detector() -> None:
    data = np.full((2, 2, 3, 3), 9, np.uint8)
    got = ls.run(data, FrameHistogram(bins=256), corrections=ls.Corrections(dark=np.full((3, 3), 4.0)))
    assert got["counts"][5] == 36
    assert got["edges"][-1] == 256


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_through_the_engine(executor: str) -> None:
    data = frames_of(3, (13, 12), (17, 19), "u2")
    roi = np.random.default_rng(0).random((13, 12)) < 0.5
    result = ls.run(data, FrameHistogram(low=100, high=50000, bins=33, per_frame=True), roi=roi, executor=executor)
    plain = drive(FrameHistogram(low=100, high=50000, bins=33, per_frame=True), data, seen=roi)
    for name in plain:
        assert_array_equal(result[name], plain[name])
    assert (result["frame_counts"][~roi] == 2**32 - 1).all()
