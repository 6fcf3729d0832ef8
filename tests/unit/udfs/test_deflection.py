"""Maps of vectors over a scan, by definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from libstream.udfs.com import estimate_rotation
from libstream.udfs.deflection import curl, derivative, fit_descan, turned
from libstream.udfs.geometry import row_runs, row_spans


def polynomial(nav: tuple[int, int], c: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: nav[0], : nav[1]].astype(float)
    terms = np.stack([np.ones(nav), y, x, y * y, y * x, x * x], axis=-1)
    return terms @ c


@given(
    seed=st.integers(0, 10**6), nav=st.tuples(st.integers(4, 40), st.integers(4, 40)), kind=st.sampled_from(["mean", "plane", "parabola"])
)
def test_descan_is_found_and_removed_over_valid_positions(seed: int, nav: tuple[int, int], kind: str) -> None:
    rng = np.random.default_rng(seed)
    c = rng.normal(size=(6, 2)) / [[1], [10], [10], [100], [100], [100]]
    c[{"mean": 1, "plane": 3, "parabola": 6}[kind] :] = 0
    field = polynomial(nav, c)
    hole = rng.random(nav) < 0.2
    hole[:3, :3] = hole[-1, -1] = False
    measured = np.where(hole[..., None], np.nan, field)
    got, fitted = fit_descan(measured, kind)
    assert_allclose(got, c, atol=1e-9)
    assert_allclose(fitted, field, atol=1e-9 * np.abs(field).max() + 1e-9)
    assert not got[{"mean": 1, "plane": 3, "parabola": 6}[kind] :].any()


def test_descan_of_nothing_and_of_little() -> None:
    nothing = np.full((3, 4, 2), np.nan)
    for kind in ("none", "mean", "plane", "parabola"):
        c, fitted = fit_descan(nothing, kind)
        assert not c.any()
        assert not fitted.any()
    one = nothing.copy()
    one[1, 2] = (3.0, -4.0)
    for kind in ("mean", "plane", "parabola"):
        assert_allclose(fit_descan(one, kind)[1][1, 2], (3.0, -4.0))


@given(seed=st.integers(0, 10**6), shape=st.tuples(st.integers(1, 7), st.integers(1, 7)), axis=st.sampled_from([-2, -1]))
def test_derivative_by_definition(seed: int, shape: tuple[int, int], axis: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    values[rng.random(shape) < 0.3] = np.nan
    got = derivative(values, axis, 2.0)
    for at in np.ndindex(shape):
        near = []
        for step in (1, -1):
            there = list(at)
            there[axis] += step
            inside = 0 <= there[axis] < shape[axis]
            near.append(values[tuple(there)] if inside else np.nan)
        after, before = near
        here = values[at]
        if np.isnan(here) or (np.isnan(after) and np.isnan(before)):
            expected = np.nan
        elif np.isnan(after):
            expected = here - before
        elif np.isnan(before):
            expected = after - here
        else:
            expected = (after - before) / 2
        assert_allclose(got[at], expected / 2.0)


def test_turning_is_anticlockwise_on_a_display_with_y_down() -> None:
    # axes turned by 90 degrees anticlockwise: the new x axis points along -y, the new y axis along +x
    right, down = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    assert_allclose(turned(right, 90, False), [1, 0], atol=1e-15)
    assert_allclose(turned(down, 90, False), [0, -1], atol=1e-15)
    assert_allclose(turned(down, 0, True), [-1, 0], atol=1e-15)
    vectors = np.random.default_rng(0).normal(size=(5, 4, 2))
    assert_allclose(turned(turned(vectors, 30, False), -30, False), vectors)


def potential_field(rng: np.random.Generator, nav: tuple[int, int]) -> np.ndarray:
    """Gradient of a smooth potential that has no direction of its own."""
    y, x = np.mgrid[: nav[0], : nav[1]]
    v = sum(rng.normal() * np.exp(-((y - a) ** 2 + (x - b) ** 2) / 18) for a, b in rng.uniform(0, nav, (12, 2)))
    return np.stack(np.gradient(v), axis=-1)


@given(seed=st.integers(0, 10**6), angle=st.floats(-89, 89), flip=st.booleans())
def test_rotation_is_found(seed: int, angle: float, flip: bool) -> None:
    rng = np.random.default_rng(seed)
    field = potential_field(rng, (24, 31))
    measured = turned(field, -angle, False)  # undone by turned(..., angle)
    if flip:
        measured = measured * [-1, 1]
    measured = measured + rng.normal(0, 0.05 * field.std(), field.shape)
    measured[rng.random(field.shape[:2]) < 0.05] = np.nan
    found = estimate_rotation(measured)
    assert found.flip_y == flip
    assert abs((found.rotation_deg - angle + 90) % 180 - 90) < 3
    assert found.residual < found.residual_other
    straight = turned(np.nan_to_num(measured), found.rotation_deg, found.flip_y)
    sign = np.sign((straight * field).sum())
    assert (straight * field).sum() * sign > 0.9 * np.sqrt((straight**2).sum() * (field**2).sum())


def test_rotation_estimate_is_the_minimum_of_the_curl() -> None:
    rng = np.random.default_rng(1)
    field = rng.normal(size=(12, 13, 2))
    found = estimate_rotation(field)
    for flip, residual in ((found.flip_y, found.residual), (not found.flip_y, found.residual_other)):
        curls = [np.mean(curl(turned(field, t, flip))[1:-1, 1:-1] ** 2) for t in np.arange(-90, 90, 0.25)]
        assert residual <= min(curls) + 1e-12
        assert min(curls) < residual * (1 + 1e-3)
    best = np.mean(curl(turned(field, found.rotation_deg, found.flip_y))[1:-1, 1:-1] ** 2)
    assert_allclose(best, found.residual)


def test_rotation_of_too_little_is_nan() -> None:
    for shape in ((1, 5, 2), (2, 2, 2)):
        assert np.isnan(estimate_rotation(np.zeros(shape)).rotation_deg)
    assert np.isnan(estimate_rotation(np.full((5, 5, 2), np.nan)).residual)
    still = estimate_rotation(np.zeros((5, 5, 2)))
    assert (still.rotation_deg, still.flip_y, still.residual) == (0.0, False, 0.0)
    with pytest.raises(ValueError, match="deflections"):
        estimate_rotation(np.zeros((5, 2)))


@given(seed=st.integers(0, 10**6), shape=st.tuples(st.integers(1, 9), st.integers(1, 9)), share=st.floats(0, 1))
def test_row_runs_are_the_mask(seed: int, shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    again = np.zeros(shape, bool)
    for y, runs in enumerate(row_runs(mask)):
        for start, stop in runs:
            assert not again[y, start:stop].any()
            again[y, start:stop] = True
    assert_array_equal(again, mask)


def test_row_spans_enclose_the_mask() -> None:
    mask = np.zeros((3, 6), bool)
    mask[0, 2], mask[2, 0], mask[2, 4] = True, True, True
    assert row_spans(mask).tolist() == [[2, 3], [0, 0], [0, 5]]
