"""FEM against plain NumPy and rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import libstream as ls
from libstream.errors import ParameterError
from libstream.udfs.fem import FEM
from tests.unit.udfs.drive import drive
from tests.unit.udfs.test_com import frames_of, ring_mask


@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(["u1", "u2", "u4", "i2", "f4", "f8"]),
    sig=st.tuples(st.integers(1, 20), st.integers(1, 23)),
    inner=st.sampled_from([0.0, 1.0, 3.5]),
    outer=st.sampled_from([None, 2.0, 6.0]),
)
def test_ring_statistics_equal_numpy(seed: int, dtype: str, sig: tuple[int, int], inner: float, outer: float | None) -> None:
    data = frames_of(seed, (5,), sig, dtype)
    centre = ((sig[0] - 1) / 2, (sig[1] - 1) / 2)
    mask = ring_mask(sig, centre, inner, outer)
    udf = FEM(inner=inner, outer=outer)
    if not mask.any():
        with pytest.raises(ParameterError, match="no pixel"):
            drive(udf, data)
        return
    got = drive(udf, data)
    values = data[:, mask].astype(np.float64)
    size = np.abs(values).max(initial=1e-300)
    assert_allclose(got["mean"], values.mean(axis=1), atol=1e-13 * size)
    assert_allclose(got["std"], values.std(axis=1), rtol=1e-9, atol=1e-13 * size)
    sure = np.abs(values.mean(axis=1)) > 1e-3 * size
    expected = values[sure].var(axis=1) / values[sure].mean(axis=1) ** 2
    assert_allclose(got["normalised_variance"][sure], expected, rtol=1e-8, atol=1e-18)


def test_small_deviations_of_a_large_mean_are_exact() -> None:
    rng = np.random.default_rng(0)
    data = np.clip(np.rint(rng.normal(60000, 3, (4, 64, 64))), 0, 65535).astype(np.uint16)
    got = drive(FEM(), data)
    for i, frame in enumerate(data):
        values = [int(v) for v in frame.reshape(-1)]
        n, total = len(values), sum(values)
        variance = Fraction(sum(v * v for v in values), n) - Fraction(total, n) ** 2
        assert_allclose(got["std"][i] ** 2, float(variance), rtol=1e-12)
        assert_allclose(got["normalised_variance"][i], float(variance / Fraction(total, n) ** 2), rtol=1e-12)


def test_the_centre_is_y_x() -> None:
    data = np.zeros((1, 12, 40), np.uint8)
    data[0, 3, 30] = 9
    assert drive(FEM(centre=(3, 30), outer=2), data)["std"][0] > 0
    assert drive(FEM(centre=(9, 3), outer=2), data)["std"][0] == 0


def test_zero_mean_is_nan_and_a_flat_ring_is_zero() -> None:
    got = drive(FEM(), np.stack([np.zeros((4, 4)), np.full((4, 4), 7.0), np.full((4, 4), np.nan)]))
    assert_array_equal(got["std"], [0, 0, np.nan])
    assert_array_equal(got["normalised_variance"], [np.nan, 0, np.nan])


def test_through_the_engine() -> None:
    data = frames_of(8, (9, 14), (20, 22), "u2")
    roi = np.random.default_rng(0).random((9, 14)) < 0.5
    plain = drive(FEM(inner=3, outer=8), data, seen=roi)
    for executor in ("inline", "threads"):
        result = ls.run(data, FEM(inner=3, outer=8), roi=roi, executor=executor)
        for name in ("mean", "std", "normalised_variance"):
            assert result[name].tobytes() == plain[name].tobytes()
