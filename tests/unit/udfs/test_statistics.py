"""Mean, Variance, StdDev, Max, Min and LogSum, against exact fractions where integers allow it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import libstream as ls
from libstream.errors import ParameterError, UsageError
from libstream.udfs.kernels.sums import log_of
from libstream.udfs.statistics import exact_spread

EPS = np.finfo(np.float64).eps


def run(frames: np.ndarray, udf: Any, **options: Any) -> dict[str, Any]:
    """Results of one UDF by output name."""
    return dict(ls.run(ls.open(frames), {"u": udf}, executor="inline", **options)["u"])


def exact(frames: np.ndarray, ddof: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each pixel over the first two axes, rounded once from rational numbers."""
    flat = frames.reshape(-1, *frames.shape[2:])
    mean, variance = np.empty(flat.shape[1:]), np.empty(flat.shape[1:])
    for at in np.ndindex(mean.shape):
        values = [Fraction(v.item()) for v in flat[(slice(None), *at)]]
        m = sum(values) / len(values)
        mean[at], variance[at] = float(m), float(sum((v - m) ** 2 for v in values) / (len(values) - ddof))
    return mean, variance


def drawn(dtype: str, what: str) -> np.ndarray:
    rng, shape = np.random.default_rng(4), (10, 21, 3, 4)
    if what == "narrow peak":
        return np.round(rng.normal(60_000, 3, shape)).astype(dtype)
    if what == "sparse":
        return (rng.random(shape) < 0.01).astype(dtype)
    info = np.iinfo(dtype)
    if what == "ends":
        return rng.choice(np.array([info.min, info.max], dtype), shape)
    if what == "all but one at the top":
        out = np.full(shape, info.max, dtype)
        out[3, 5] -= 1
        return out
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("what", ["narrow peak", "sparse", "ends", "all but one at the top", "any"])
@pytest.mark.parametrize("dtype", ["u2", "u4", "i4"])
def test_integers_against_fractions(dtype: str, what: str) -> None:
    frames = drawn(dtype, what)
    mean, variance = exact(frames)
    got = run(frames, ls.udfs.Variance())
    assert_allclose(got["mean"], mean, rtol=EPS, atol=0)
    assert_allclose(got["variance"], variance, rtol=4 * EPS, atol=0)
    assert_allclose(run(frames, ls.udfs.StdDev(ddof=1))["std"] ** 2, exact(frames, 1)[1], rtol=8 * EPS, atol=0)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8"])
def test_floats_and_wide_integers_keep_their_digits(dtype: str) -> None:
    frames = drawn("f8", "narrow peak").astype(dtype)
    mean, variance = exact(frames)
    got = run(frames, ls.udfs.Variance())
    assert_allclose(got["mean"], mean, rtol=8 * EPS)
    assert_allclose(got["variance"], variance, rtol=1e-12)  # the textbook formula in float64 reaches 1e-7 here


def test_many_frames_of_the_largest_values() -> None:
    """The sums of 2^30 frames, which no test can run, through the arithmetic that follows them."""
    n = 2**30
    for low, high in ((0, 2**32 - 1), (-(2**31), 2**31 - 1), (2**32 - 2, 2**32 - 1), (5, 5)):
        k = n // 3
        total, squares = k * low + (n - k) * high, k * low**2 + (n - k) * high**2
        words = k * (low**2 & 0xFFFFFFFF) + (n - k) * (high**2 & 0xFFFFFFFF), k * (low**2 >> 32) + (n - k) * (high**2 >> 32)
        kind = np.int64 if low < 0 else np.uint64
        mean, got = exact_spread(np.array([total], kind), np.array([words[0]], np.uint64), np.array([words[1]], np.uint64), n)
        expected = Fraction(squares) - Fraction(total) ** 2 / n
        assert got[0] == pytest.approx(float(expected), rel=4 * EPS, abs=0)
        assert mean[0] == pytest.approx(float(Fraction(total, n)), rel=EPS, abs=0)


def test_too_few_frames_have_no_variance() -> None:
    for dtype in ("u2", "f4"):
        one = np.ones((1, 1, 3, 3), dtype)
        assert_array_equal(run(one, ls.udfs.Variance())["variance"], np.zeros((3, 3)))
        assert np.isnan(run(one, ls.udfs.Variance(ddof=1))["variance"]).all()
        assert (run(one, ls.udfs.Variance(ddof=1))["mean"] == 1).all()
        nothing = np.zeros((1, 1), bool)
        for udf in (ls.udfs.Mean(), ls.udfs.Variance(), ls.udfs.StdDev()):
            assert all(np.isnan(v).all() for v in run(one, udf, roi=nothing).values())
    with pytest.raises(ParameterError, match="ddof"):
        run(one, ls.udfs.Variance(ddof=-1))


def test_what_is_not_finite_has_no_variance() -> None:
    frames = np.random.default_rng(5).normal(3, 1, (5, 7, 2, 3)).astype("f4")
    frames[2, 2, 0, 0], frames[2, 3, 1, 1] = np.nan, np.inf
    got = run(frames, ls.udfs.Variance())
    bad = np.array([[True, False, False], [False, True, False]])
    assert np.isnan(got["mean"][bad]).all()
    assert np.isnan(got["variance"][bad]).all()
    assert_allclose(got["variance"][~bad], frames[..., ~bad].astype("f8").var((0, 1)), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4"])
def test_mean_and_variance_of_corrected_frames(dtype: str) -> None:
    rng = np.random.default_rng(6)
    frames = rng.integers(0, 1000, (4, 5, 300, 200)).astype(dtype)  # large enough for bands of rows
    excluded = rng.random((300, 200)) < 0.01
    excluded[2:5, 3:6] = True  # one pixel has no good neighbour among the 8 around it
    dark, gain = rng.normal(7, 1, (300, 200)), rng.normal(1, 0.1, (300, 200))
    for corrections in (
        ls.Corrections(dark=dark),
        ls.Corrections(gain=gain),
        ls.Corrections(dark=dark, gain=gain, excluded=excluded),
        ls.Corrections(excluded=excluded),
    ):
        given = frames
        if corrections.excluded is not None and dtype == "f4":
            given = frames.copy()
            given[..., excluded] = np.nan
        corrected = corrections.apply(given)
        got = run(given, ls.udfs.Variance(ddof=1), corrections=corrections)
        assert_allclose(got["mean"], corrected.mean((0, 1)), rtol=1e-12)
        assert_allclose(got["variance"], corrected.var((0, 1), ddof=1), rtol=1e-11)
        assert_allclose(run(given, ls.udfs.StdDev(), corrections=corrections)["std"], corrected.std((0, 1)), rtol=1e-11)


def test_extremes_of_a_region_of_interest() -> None:
    frames, roi = drawn("i4", "any"), np.random.default_rng(7).random((10, 21)) < 0.3
    assert_array_equal(run(frames, ls.udfs.Max(), roi=roi)["max"], frames[roi].max(0))
    assert_array_equal(run(frames, ls.udfs.Min(), roi=roi)["min"], frames[roi].min(0))
    assert run(frames, ls.udfs.Max())["max"].dtype == np.int32


@pytest.mark.parametrize("udf", [ls.udfs.Variance(), ls.udfs.Max(), ls.udfs.LogSum()])
def test_complex_frames_are_refused(udf: Any) -> None:
    with pytest.raises(UsageError, match="real"):
        run(np.ones((2, 3, 3), "c8"), udf)


def test_mean_of_complex_frames() -> None:
    frames = np.arange(24).reshape(2, 3, 2, 2) * (1 + 2j)
    assert_allclose(run(frames.astype("c16"), ls.udfs.Mean())["mean"], frames.mean((0, 1)), rtol=1e-14)


def test_logarithms() -> None:
    rng = np.random.default_rng(8)
    x = np.concatenate([1 + rng.random(3000) * 1e-3, 1 + rng.random(3000) * 7e4, np.exp(rng.random(3000) * 700), [1.0, 2.0, 5e-300]])
    got = np.array([log_of.jit(v) for v in x])
    assert (np.abs(got - np.log(x)) <= 2 * np.spacing(np.abs(np.log(x)))).all()
    assert log_of.jit(np.inf) == np.inf
    assert np.isnan(log_of.jit(np.nan))


def test_a_frame_with_nan_spoils_its_logarithms_only_with_nan() -> None:
    frames = np.random.default_rng(9).random((3, 4, 4)).astype("f4")
    frames[1, 2, 2] = np.nan
    assert np.isnan(run(frames, ls.udfs.LogSum())["logsum"]).all()
    frames[1, 2, 2] = np.inf
    assert np.isinf(run(frames, ls.udfs.LogSum())["logsum"]).sum() == 1
