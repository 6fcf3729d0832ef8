"""Sum and FrameTotals through `ls.run`: dtypes, corrections, regions of interest, NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import libstream as ls
from libstream.udfs.sums import sum_dtype


def run(frames: np.ndarray, udf: Any, **options: Any) -> dict[str, Any]:
    """Results of one UDF by output name."""
    result = ls.run(ls.open(frames, **{k: options.pop(k) for k in ("sig_axes",) if k in options}), {"u": udf}, executor="inline", **options)
    return dict(result["u"])


def some(dtype: str, shape: tuple[int, ...] = (3, 4, 6, 5), seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype[0] == "c":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)
    return rng.normal(10, 3, shape).astype(dtype) if dtype[0] == "f" else rng.integers(0, 200, shape).astype(dtype)


@pytest.mark.parametrize(
    ("frames", "sums"),
    [
        ("u1", "u8"),
        ("u2", "u8"),
        ("u4", "u8"),
        ("i2", "i8"),
        ("i4", "i8"),
        ("?", "u8"),
        ("u8", "f8"),
        ("i8", "f8"),
        ("f4", "f8"),
        ("c8", "c16"),
    ],
)
def test_dtypes_of_sums(frames: str, sums: str) -> None:
    assert sum_dtype(np.dtype(frames)) == np.dtype(sums)


def test_largest_values_do_not_wrap() -> None:
    frames = np.full((2, 300, 4, 4), np.iinfo("u4").max, "u4")
    assert (run(frames, ls.udfs.Sum())["sum"] == 600 * (2**32 - 1)).all()
    assert (run(frames, ls.udfs.FrameTotals())["total"] == 16 * (2**32 - 1)).all()
    wide = np.full((2, 3, 4, 4), np.iinfo("u8").max, "u8")
    assert (run(wide, ls.udfs.Sum())["sum"] == 6 * 2.0**64).all()
    assert (run(wide, ls.udfs.FrameTotals())["total"] == 16 * 2.0**64).all()


def test_a_frame_larger_than_a_block_of_32_bits() -> None:
    frames = np.full((2, 300, 301), 65535, "u2")  # sums to 5.9e9
    frames[1, 17, 3] = 0
    assert run(frames, ls.udfs.FrameTotals())["total"].tolist() == [65535 * 90300, 65535 * 90299]
    low = np.full((2, 300, 301), -32768, "i2")
    assert run(low, ls.udfs.FrameTotals())["total"].tolist() == [-32768 * 90300] * 2


def test_complex_frames() -> None:
    frames = some("c8")
    wide = frames.astype("c16")
    assert_allclose(run(frames, ls.udfs.Sum())["sum"], wide.sum((0, 1)), rtol=1e-13)
    assert_allclose(run(frames, ls.udfs.FrameTotals())["total"], wide.sum((2, 3)), rtol=1e-13)


def test_nan_and_infinities_go_where_numpy_puts_them() -> None:
    frames = some("f4")
    frames[0, 0, 1, 1], frames[1, 2, 3, 3], frames[2, 2, 4, 4], frames[2, 3, 4, 4] = np.nan, np.inf, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        over_scan, over_frames = frames.astype("f8").sum((0, 1)), frames.astype("f8").sum((2, 3))
    assert_allclose(run(frames, ls.udfs.Sum())["sum"], over_scan, rtol=1e-13)
    assert_allclose(run(frames, ls.udfs.FrameTotals())["total"], over_frames, rtol=1e-13)


def test_a_region_of_interest() -> None:
    frames, roi = some("u2"), np.random.default_rng(2).random((3, 4)) < 0.5
    assert_array_equal(run(frames, ls.udfs.Sum(), roi=roi)["sum"], frames[roi].sum(0))
    totals = run(frames, ls.udfs.FrameTotals(), roi=roi)["total"]
    assert_array_equal(totals[roi], frames[roi].sum((1, 2)))
    assert (totals[~roi] == np.iinfo("u8").max).all()


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_corrections_are_folded(dtype: str) -> None:
    rng, frames = np.random.default_rng(3), some(dtype)
    excluded = rng.random((6, 5)) < 0.2
    dark, gain = rng.normal(5, 1, (6, 5)), rng.normal(1, 0.1, (6, 5))
    for corrections in (
        ls.Corrections(dark=dark),
        ls.Corrections(gain=gain),
        ls.Corrections(excluded=excluded),
        ls.Corrections(dark=dark, gain=gain, excluded=excluded),
    ):
        corrected = corrections.apply(frames)
        if corrections.excluded is not None and dtype == "f4":
            frames = frames.copy()
            frames[:, :, excluded] = np.nan  # dead pixels say nothing
        got = run(frames, ls.udfs.Sum(), corrections=corrections)["sum"]
        assert got.dtype == np.float64
        assert_allclose(got, corrected.sum((0, 1)), rtol=1e-12)
        assert_allclose(run(frames, ls.udfs.FrameTotals(), corrections=corrections)["total"], corrected.sum((2, 3)), rtol=1e-12)
        assert_allclose(run(frames, ls.udfs.Mean(), corrections=corrections)["mean"], corrected.mean((0, 1)), rtol=1e-12)
        roi = np.s_[1:, :2]
        assert_allclose(run(frames, ls.udfs.Sum(), corrections=corrections, roi=roi)["sum"], corrected[roi].sum((0, 1)), rtol=1e-12)


def test_threads_give_the_same_bits() -> None:
    frames = some("f4", (9, 40, 16, 16))
    udfs = {"sum": ls.udfs.Sum(), "total": ls.udfs.FrameTotals(), "var": ls.udfs.Variance(), "det": ls.udfs.VirtualDetector(inner=3)}
    with ls.executor("threads") as threads:
        there = ls.run(ls.open(frames), udfs, executor=threads)
    here = ls.run(ls.open(frames), udfs, executor="inline")
    for key in udfs:
        for name, value in here[key].items():
            assert_array_equal(there[key][name], value, err_msg=f"{key} {name}")
