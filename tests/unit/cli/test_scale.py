"""Contrast, units and scale bars."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from libstream.cli._scale import display_unit, edges, is_signed, log_limits, robust_limits, scale_bar, wants_log


def test_outliers_do_not_decide_the_contrast() -> None:
    image = np.random.default_rng(0).normal(1000, 50, (64, 64))
    calm = robust_limits(image)
    image[3, 4], image[5, 6] = 1e9, -1e9
    wild = robust_limits(image)
    assert wild == pytest.approx(calm, rel=0.15)
    assert 700 < wild[0] < 900 < 1100 < wild[1] < 1300


def test_image_without_outliers_is_not_clipped() -> None:
    ramp = np.arange(256.0)
    assert robust_limits(ramp) == (0.0, 255.0)


@given(hnp.arrays(st.sampled_from([np.float32, np.float64, np.int16, np.uint8, bool]), hnp.array_shapes(max_dims=2, max_side=20)))
def test_limits_are_always_usable(values: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        low, high = robust_limits(values)
    finite = values[np.isfinite(values)]
    if finite.size and np.abs(finite.astype(np.float64)).max() < 1e30:
        assert math.isfinite(low)
        assert low < high
        assert low <= finite.astype(np.float64).max()
        assert high >= finite.astype(np.float64).min()


@pytest.mark.parametrize(("values", "signed"), [([-1.0, 1.0] * 50, True), ([-0.01, *[1.0] * 100], False), ([1.0, 2.0], False), ([], False)])
def test_signed(values: list[float], signed: bool) -> None:
    assert is_signed(np.array(values)) is signed


def test_log_where_most_would_be_black() -> None:
    radius = np.hypot(*np.mgrid[-32:32, -32:32])
    beam = 1e6 * np.exp(-((radius / 4) ** 2)) + 10
    assert wants_log(beam)
    assert not wants_log(beam - 100), "negative values have no logarithm"
    assert not wants_log(np.linspace(50, 100, 4096))
    assert not wants_log(np.zeros(10))
    single = np.zeros(4096)
    single[7] = 1e9
    assert not wants_log(single), "one hot pixel among zeros"
    low, high = log_limits(beam)
    assert 0 < low < high == beam.max()


@pytest.mark.parametrize(
    ("extent", "unit", "expected"),
    [
        (102.4, "nm", (1.0, "nm")), (5e-8, "m", (1e9, "nm")), (2500.0, "nm", (1e-3, "µm")), (230.0, "mrad", (1.0, "mrad")),
        (256, "px", (1.0, "px")), (0.05, "rad", (1e3, "mrad")), (40.0, "1/nm", (1.0, "1/nm")), (0.02, "nm", (1e3, "pm")),
        (0.0, "nm", (1.0, "nm")),
    ],
)  # fmt: skip
def test_display_unit(extent: float, unit: str, expected: tuple[float, str]) -> None:
    factor, name = display_unit(extent, unit)
    assert (factor, name) == (pytest.approx(expected[0]), expected[1])


@given(st.floats(1e-9, 1e9))
def test_scale_bar_is_round_and_fits(extent: float) -> None:
    length = scale_bar(extent)
    assert extent / 10.01 <= length <= extent / 3.999
    mantissa = length / 10 ** math.floor(math.log10(length) + 1e-9)
    assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-6


def test_edges_lie_half_a_pixel_outside() -> None:
    assert edges(0.5, 10.0, 4) == (9.75, 11.75)
