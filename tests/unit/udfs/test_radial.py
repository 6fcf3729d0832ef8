"""Radial profiles against plain NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import libstream as ls
from libstream.errors import ParameterError, UsageError
from libstream.udfs.radial import RadialProfile
from tests.unit.udfs.drive import calibrated, drive
from tests.unit.udfs.test_com import frames_of


def weights_of(sig: tuple[int, int], centre: tuple[float, float], width: float, outer: float, soft: bool) -> np.ndarray:
    """Weight of each pixel in each ring by definition, (n_rings, ny, nx)."""
    edges = [k * width for k in range(10**4) if k * width < outer - 1e-9 * width] + [outer]
    y, x = np.mgrid[: sig[0], : sig[1]].astype(float)
    offsets = (np.arange(8) + 0.5) / 8 - 0.5 if soft else [0.0]
    out = np.zeros((len(edges) - 1, *sig))
    for dy in offsets:
        for dx in offsets:
            r = np.hypot(y + dy - centre[0], x + dx - centre[1])
            for k, (lo, hi) in enumerate(itertools.pairwise(edges)):
                out[k] += ((r >= lo) & (r < hi)) / len(offsets) ** 2
    return out


def nearest_edge(sig: tuple[int, int], centre: tuple[float, float]) -> float:
    return min(centre[0], sig[0] - 1 - centre[0], centre[1], sig[1] - 1 - centre[1]) + 0.5


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(["u2", "u4", "f4"]),
    sig=st.tuples(st.integers(1, 17), st.integers(1, 19)),
    width=st.sampled_from([0.5, 1.0, 2.5, 30.0]),
    outer=st.sampled_from([None, 2.0, 7.3, 40.0]),
    order=st.sampled_from([0, 0, 1, 3]),
    soft=st.booleans(),
    depth=st.sampled_from([3, 9]),
    cut=st.integers(0, 16),
)
def test_profiles_equal_numpy(
    seed: int, dtype: str, sig: tuple[int, int], width: float, outer: float | None, order: int, soft: bool, depth: int, cut: int
) -> None:
    data = frames_of(seed, (9,), sig, dtype)
    centre = ((sig[0] - 1) / 2 + 0.3, (sig[1] - 1) / 2)
    limit = nearest_edge(sig, centre) if outer is None else outer
    udf = RadialProfile(centre=centre, bin_width=width, outer=outer, max_order=order, antialias=soft)
    got = drive(udf, data, bands=[cut] if 0 < cut < sig[0] else [], depth=depth)
    w = weights_of(sig, centre, width, limit, soft)
    count = w.sum(axis=(1, 2))
    assert_allclose(got["count"], count, rtol=1e-12)
    if dtype[0] in "ui" and order == 0 and not soft:
        exact = [[int((f.astype(object) * (ring > 0)).sum()) for ring in w] for f in data]
        assert got["sums"].tolist() == exact
    sums = np.einsum("nyx,kyx->nk", data.astype(float), w)
    scale = np.einsum("nyx,kyx->nk", np.abs(data.astype(float)), w)
    assert np.all(np.abs(got["sums"].astype(float) - sums) <= 1e-11 * scale)
    filled = count > 0
    assert np.all(
        np.abs(got["profile"] - sums / np.where(filled, count, np.nan))[:, filled]
        <= 1e-11 * (scale / np.where(filled, count, 1))[:, filled]
    )
    assert np.isnan(got["profile"][:, ~filled]).all()
    assert ("coefficients" in got) == (order > 0)
    if order:
        y, x = np.mgrid[: sig[0], : sig[1]].astype(float)
        theta = np.arctan2(y - centre[0], x - centre[1])
        for m in range(order + 1):
            expected = np.einsum("nyx,kyx,yx->nk", data.astype(float), w, np.exp(-1j * m * theta))
            assert np.all(np.abs(got["coefficients"][:, filled, m] * count[filled] - expected[:, filled]) <= 1e-11 * scale[:, filled])


def test_rings_hold_inner_but_not_outer_edges() -> None:
    data = np.zeros((1, 7, 9), np.uint16)
    data[0, 3, 4 + 2] = 7  # r = 2 exactly
    got = drive(RadialProfile(centre=(3, 4)), data)
    assert_array_equal(got["sums"][0], [0, 0, 7, 0])
    assert_array_equal(got["count"], [np.sum(ring_count(k)) for k in range(4)])
    assert_array_equal(got["radius"], [0.5, 1.5, 2.5, 3.25])  # the last ring ends at the edge of the frame, 3.5 px


def ring_count(k: int) -> np.ndarray:
    y, x = np.mgrid[:7, :9]
    r = np.hypot(y - 3, x - 4)
    return (r >= k) & (r < min(k + 1, 3.5))


def test_widths_that_floats_cannot_divide() -> None:
    got = drive(RadialProfile(bin_width=0.1, outer=0.3), np.ones((1, 5, 5), np.uint8))
    assert got["sums"].shape == (1, 3)
    assert_allclose(got["radius"], [0.05, 0.15, 0.25])


def test_a_stripe_has_even_orders_only_and_the_angle_goes_from_x_to_y() -> None:
    y, x = np.mgrid[:41, :41] - 20.0
    theta = np.arctan2(y, x)
    data = (2 + np.cos(2 * (theta - 0.4)))[None]
    got = drive(RadialProfile(max_order=4, bin_width=5), data)["coefficients"][0, 2]
    assert_allclose(got[0], 2, atol=0.02)
    assert_allclose(got[2], 0.5 * np.exp(-2j * 0.4), atol=0.03)
    assert_allclose(got[[1, 3]], 0, atol=1e-12)


def test_antialiased_rings_of_a_smooth_frame_have_the_mean_at_their_middle() -> None:
    y, x = np.mgrid[:64, :64] - 31.5
    data = np.exp(-(y * y + x * x) / 400)[None]
    soft, hard = (drive(RadialProfile(antialias=a, outer=30), data)["profile"][0, 2:] for a in (True, False))
    expected = np.exp(-((np.arange(2, 30) + 0.5) ** 2) / 400)
    assert np.abs(soft - expected).max() < 0.004
    assert np.abs(soft - expected).max() < np.abs(hard - expected).max()


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2"])
def test_largest_values_do_not_overflow(dtype: str) -> None:
    data = np.full((5, 300, 270), np.iinfo(dtype).max, dtype)
    got = drive(RadialProfile(bin_width=200, outer=200), data, depth=5)
    assert got["sums"][:, 0].tolist() == [int(np.iinfo(dtype).max) * int(got["count"][0])] * 5


def test_nan_stays_in_its_ring_and_frame() -> None:
    data = np.ones((5, 9, 9))
    data[1, 4, 4 + 3] = np.nan
    data[:, 0, 0] = np.nan  # a corner: outside of all rings
    for udf in (RadialProfile(), RadialProfile(max_order=1), RadialProfile(antialias=True)):
        profile = drive(udf, data, depth=5)["profile"]
        assert np.isnan(profile[1, 3])
        assert np.isfinite(np.delete(profile, 1, axis=0)).all()
        assert np.isfinite(profile[1, :2]).all()
        mean = drive(udf, data)["mean_profile"]
        assert_allclose(mean, 1)


def test_what_was_not_seen_is_nan_and_not_in_the_mean() -> None:
    data = frames_of(1, (4, 5), (9, 8), "u2")
    seen = np.zeros((4, 5), bool)
    seen[1:, 2:] = True
    for udf in (RadialProfile(), RadialProfile(max_order=2)):
        got = drive(udf, data, seen=seen, corrupt=[8])
        good = seen.copy()
        good[1, 3] = False
        assert_array_equal(np.isfinite(got["profile"]).all(axis=-1), good)
        rows = got["profile"][good]
        assert_allclose(got["mean_profile"], rows.mean(axis=0))
        assert_allclose(got["normalised_variance"], rows.var(axis=0) / rows.mean(axis=0) ** 2)
    nothing = drive(RadialProfile(), data, seen=np.zeros((4, 5), bool))
    assert np.isnan(nothing["mean_profile"]).all()


@pytest.mark.parametrize("udf", [RadialProfile(), RadialProfile(max_order=3), RadialProfile(antialias=True, bin_width=2)])
def test_through_the_engine(udf: RadialProfile) -> None:
    data = frames_of(9, (11, 13), (24, 21), "u2")
    roi = np.random.default_rng(0).random((11, 13)) < 0.5
    plain = drive(udf, data, seen=roi)
    for executor in ("inline", "threads"):
        result = ls.run(data, udf, roi=roi, executor=executor)
        for name in result["radial_profile"]:
            assert result[name].tobytes() == plain[name].tobytes(), name


def test_units_and_limits() -> None:
    data = np.ones((2, 9, 9), np.uint8)
    axes = calibrated((2, 9, 9), [(1, "px"), (0.5, "mrad"), (0.5, "mrad")])
    got = drive(RadialProfile(bin_width="1 mrad"), data, axes=axes)
    assert_allclose(got["radius"], [0.5, 1.5, 2.125])
    for bad, match in (
        ({"bin_width": 0}, "allowed: > 0 px"),
        ({"outer": -1}, "allowed: > 0 px"),
        ({"centre": (50, 4)}, "outer"),
        ({"max_order": -1}, "max_order"),
        ({"bin_width": 1e-6}, "rings"),
        ({"bin_width": "1 mrad"}, "calibrated"),
    ):
        with pytest.raises(ParameterError, match=match):
            drive(RadialProfile(**bad), data)
    with pytest.raises(UsageError, match="two axes"):
        ls.run(ls.open(np.zeros((3, 4, 5), np.uint8), frame=(20,)), RadialProfile(outer=2, centre=(0, 0)))
