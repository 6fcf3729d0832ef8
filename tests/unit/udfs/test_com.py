"""Centre of mass against plain NumPy, and the maps made of it."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import libstream as ls
from libstream.errors import ParameterError, UsageError
from libstream.udfs.com import CenterOfMass
from libstream.udfs.deflection import divergence, turned
from tests.unit.udfs.drive import calibrated, drive
from tests.unit.udfs.test_deflection import potential_field

DTYPES = ["u1", "u2", "u4", "i2", "f4", "f8"]


def frames_of(seed: int, nav: tuple[int, ...], sig: tuple[int, int], dtype: str) -> np.ndarray:
    """Random frames over the whole range of the dtype; some are all zero."""
    rng = np.random.default_rng(seed)
    shape = (*nav, *sig)
    if dtype[0] in "ui":
        info = np.iinfo(dtype)
        data = rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    else:
        data = rng.normal(3, 10, shape).astype(dtype)
    data.reshape(-1, *sig)[rng.random(data.shape[: len(nav)]).reshape(-1) < 0.2] = 0
    return data


def twin(data: np.ndarray, mask: np.ndarray, centre: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """(total, com) by definition; exact integers as Python numbers."""
    exact = data.dtype.kind in "ui"
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    values = np.where(mask, data, 0).astype(object if exact else np.float64)
    total = values.sum(axis=(-2, -1))
    com = np.full((*data.shape[:-2], 2), np.nan)
    for at in np.ndindex(data.shape[:-2]):
        if total[at] > 0:
            for c, weight in enumerate((y, x)):
                moment = (values[at] * weight.astype(object if exact else float)).sum()
                com[at][c] = float(Fraction(int(moment), int(total[at]))) - centre[c] if exact else moment / total[at] - centre[c]
    return total, com


def ring_mask(sig: tuple[int, int], centre: tuple[float, float], inner: float, radius: float | None) -> np.ndarray:
    y, x = np.mgrid[: sig[0], : sig[1]]
    r = np.hypot(y - centre[0], x - centre[1])
    return (r >= inner) & (r < (np.inf if radius is None else radius))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(DTYPES),
    sig=st.tuples(st.integers(1, 21), st.integers(1, 19)),
    radius=st.sampled_from([None, 3.0, 6.5]),
    inner=st.sampled_from([0.0, 2.0]),
    depth=st.sampled_from([2, 3, 6]),
    cut=st.integers(0, 20),
)
def test_moments_equal_numpy(seed: int, dtype: str, sig: tuple[int, int], radius: float | None, inner: float, depth: int, cut: int) -> None:
    data = frames_of(seed, (6,), sig, dtype)
    centre = ((sig[0] - 1) / 2, (sig[1] - 1) / 2)
    mask = ring_mask(sig, centre, inner, radius)
    udf = CenterOfMass(radius=radius, inner=inner)
    if not mask.any():
        with pytest.raises(ParameterError, match="no pixel"):
            drive(udf, data)
        return
    bands = [cut] if 0 < cut < sig[0] else []
    got = drive(udf, data, bands=bands, depth=depth)
    total, com = twin(data, mask, centre)
    if dtype[0] in "ui":
        assert got["total"].dtype == (np.int64 if dtype[0] == "i" else np.uint64)
        assert got["total"].tolist() == total.tolist()
        assert_allclose(got["com"], com, rtol=1e-13, atol=1e-12 * max(sig))
    else:
        scale = np.abs(data.astype(float)).sum(axis=(-2, -1)) * max(sig)
        assert_allclose(got["total"], total.astype(float), rtol=0, atol=1e-14 * scale.max() + 1e-300)
        sure = total > 1e-6 * scale
        assert_allclose(got["com"][sure], com[sure], rtol=1e-7, atol=1e-7)


def test_largest_values_do_not_overflow() -> None:
    for dtype in ("u1", "u2", "i2", "u4", "i4"):
        data = np.full((2, 300, 260), np.iinfo(dtype).max, dtype)
        got = drive(CenterOfMass(), data, bands=[100])
        assert got["total"].tolist() == [int(np.iinfo(dtype).max) * 300 * 260] * 2
        assert_array_equal(got["com"], 0.0)


def test_sums_that_could_overflow_are_float() -> None:
    data = np.full((1, 3, 4), 2**63, np.uint64)
    got = drive(CenterOfMass(), data)
    assert got["total"].dtype == np.float64
    assert got["total"][0] == 12 * 2.0**63
    assert_allclose(got["com"], 0.0, atol=1e-15)


def test_the_bound_holds_for_2048_by_2048_of_uint32() -> None:
    from libstream.udfs.geometry import exact_sum_dtype

    largest, n = 2**32 - 1, 2048
    assert exact_sum_dtype(np.dtype("u4"), n * n * (n - 1) // 2) == np.uint64
    assert largest * n * n * (n - 1) // 2 < 2**64 <= largest * (2 * n) * (2 * n) * (2 * n - 1) // 2
    assert exact_sum_dtype(np.dtype("u4"), (2 * n) ** 2 * (2 * n - 1) // 2) == np.float64


def test_a_point_is_found_where_it_is_and_y_comes_first() -> None:
    data = np.zeros((1, 9, 31), np.uint16)
    data[0, 7, 3] = 5
    assert_array_equal(drive(CenterOfMass(), data)["com"][0], [7 - 4, 3 - 15])
    assert_array_equal(drive(CenterOfMass(centre=(2, 3)), data)["com"][0], [5, 0])
    assert_array_equal(drive(CenterOfMass(), data, centre=(1.5, 2.0))["com"][0], [5.5, 1.0])


def test_the_default_centre_of_even_frames_is_between_pixels() -> None:
    data = np.ones((1, 8, 6), np.uint8)
    assert_array_equal(drive(CenterOfMass(), data)["com"][0], [0, 0])


def test_positions_without_counts_are_nan_and_others_are_not_touched_by_them() -> None:
    data = np.ones((3, 4, 5, 5), np.float32)
    data[0, 0] = 0
    data[0, 1] = -1
    data[1, 1, 2, 2] = np.nan
    data[1, 2, 2, 2] = np.inf
    got = drive(CenterOfMass(descan="mean"), data, corrupt=[11])
    bad = np.zeros((3, 4), bool)
    bad[0, 0] = bad[0, 1] = bad[1, 1] = bad[1, 2] = bad[2, 3] = True
    assert_array_equal(np.isnan(got["com"]), np.repeat(bad[..., None], 2, axis=-1))
    assert_allclose(got["field"][~bad], 0, atol=1e-15)
    assert_array_equal(np.isnan(got["magnitude"]), bad)
    assert np.isnan(got["total"][2, 3])


def test_nan_outside_of_the_ring_is_not_read() -> None:
    data = np.ones((2, 7, 7), np.float64)
    data[:, 0, 0] = np.nan
    assert_array_equal(drive(CenterOfMass(radius=3), data)["com"], 0)


def test_region_of_interest_and_corrupt_frames_are_filled() -> None:
    data = frames_of(3, (4, 5), (6, 6), "u2") | np.uint16(1)
    seen = np.zeros((4, 5), bool)
    seen[1:3, 1:4] = True
    got = drive(CenterOfMass(), data, seen=seen, corrupt=[7])
    seen[1, 2] = False
    assert_array_equal(got["total"] == np.iinfo(np.uint64).max, ~seen)
    assert_array_equal(np.isfinite(got["com"]).all(axis=-1), seen)
    assert_array_equal(np.isnan(got["divergence"]), np.isnan(got["curl"]))


@pytest.mark.parametrize("executor", ["inline", "threads"])
@pytest.mark.parametrize("radius", [None, 4])
def test_through_the_engine(executor: str, radius: float | None) -> None:
    data = frames_of(5, (12, 11), (16, 14), "u2")
    roi = np.random.default_rng(0).random((12, 11)) < 0.6
    result = ls.run(data, CenterOfMass(radius=radius, descan="plane"), executor=executor, roi=roi)
    total, com = twin(data, ring_mask((16, 14), (7.5, 6.5), 0, radius), (7.5, 6.5))
    assert result["total"][roi].tolist() == total[roi].tolist()
    assert_allclose(result["com"][roi], com[roi], atol=1e-11)
    assert np.isnan(result["com"][~roi]).all()
    assert set(result["center_of_mass"]) == {
        "total", "com", "field", "magnitude", "divergence", "curl", "rotation_estimate", "regression",
    }  # fmt: skip


def test_executors_and_cuts_give_the_same_bits() -> None:
    data = frames_of(6, (9, 10), (40, 32), "f4")
    results = [ls.run(data, CenterOfMass(descan="parabola"), executor=ex) for ex in ("inline", "threads")]
    for name in results[0]["center_of_mass"]:
        assert results[0][name].tobytes() == results[1][name].tobytes(), name


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(["u2", "f8"]),
    sig=st.tuples(st.integers(2, 21), st.integers(2, 19)),
    parts=st.sets(st.sampled_from(["dark", "gain", "excluded"]), min_size=1),
    radius=st.sampled_from([None, 5.0]),
    depth=st.sampled_from([2, 3, 6]),
    cut=st.integers(0, 20),
)
def test_folded_corrections_are_the_corrections(
    seed: int, dtype: str, sig: tuple[int, int], parts: set[str], radius: float | None, depth: int, cut: int
) -> None:
    rng = np.random.default_rng(seed)
    data = rng.poisson(50, (6, *sig)).astype(dtype)
    given = {"dark": rng.uniform(0, 9, sig), "gain": rng.uniform(0.5, 2, sig), "excluded": rng.random(sig) < 0.2}
    given["gain"].reshape(-1)[:1] = 0  # a pixel that is worth nothing
    given["excluded"].reshape(-1)[0] = False
    corrections = ls.Corrections(**{k: v for k, v in given.items() if k in parts})
    if dtype == "f8" and "excluded" in parts:
        data[:, given["excluded"]] = np.nan
    udf = CenterOfMass(radius=radius)
    got = drive(udf, data, bands=[cut] if 0 < cut < sig[0] else [], depth=depth, corrections=corrections)
    frames = corrections.apply(data)
    centre = ((sig[0] - 1) / 2, (sig[1] - 1) / 2)
    total, com = twin(frames, ring_mask(sig, centre, 0, radius), centre)
    tolerance = 1e-6 if dtype == "u2" else 1e-13
    assert_allclose(got["total"], total, rtol=tolerance)
    assert_allclose(got["com"], com, rtol=0, atol=tolerance * 2 * max(sig))


def test_corrected_frames_are_used() -> None:
    data = np.full((2, 3, 6, 6), 10, np.uint16)
    dark = np.full((6, 6), 10.0)
    dark[4, 1] = 0
    bad = np.zeros((6, 6), bool)
    bad[0, 0] = True
    data[..., 0, 0] = 60000
    got = ls.run(data, CenterOfMass(), corrections=ls.Corrections(dark=dark, excluded=bad))
    assert_allclose(got["com"], np.broadcast_to([1.5, -1.5], (2, 3, 2)))
    assert_allclose(got["total"], 10)


@pytest.mark.parametrize("nav", [(), (7,), (2, 3, 4)])
def test_scans_of_any_number_of_axes(nav: tuple[int, ...]) -> None:
    data = frames_of(2, nav, (5, 6), "u1") | np.uint8(1)
    got = drive(CenterOfMass(descan="parabola"), data)
    assert got["com"].shape == (*nav, 2)
    assert ("curl" in got) == (len(nav) >= 2)


def test_frames_of_one_axis_and_complex_ones_are_refused() -> None:
    with pytest.raises(UsageError, match="two axes"):
        ls.run(ls.open(np.zeros((3, 4, 5), np.uint8), frame=(20,)), CenterOfMass())
    with pytest.raises(UsageError, match="real"):
        ls.run(np.zeros((4, 5, 5), np.complex64), CenterOfMass())


@pytest.mark.parametrize("bad", [{"descan": "cubic"}, {"radius": "3 furlongs"}, {"centre": (1, 2, 3)}, {"flip_y": "maybe"}])
def test_wrong_parameters_are_named(bad: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(bad))):
        drive(CenterOfMass(**bad), np.ones((2, 4, 4), np.uint8))


def test_numpy_numbers_are_parameters() -> None:
    udf = CenterOfMass(radius=np.int64(3), inner=np.float32(1), centre=(np.int64(2), np.float64(2.5)), scan_rotation_deg=np.int32(90))
    assert drive(udf, np.ones((2, 5, 6), np.uint8))["com"].shape == (2, 2)


def test_descan_none_leaves_the_field_alone_and_says_so() -> None:
    data = frames_of(4, (4, 5), (6, 7), "u2") | np.uint16(1)
    got = drive(CenterOfMass(), data)
    assert_array_equal(got["field"], got["com"])
    assert not got["regression"].any()


def test_a_tilted_beam_is_straightened() -> None:
    data = np.zeros((6, 7, 31, 33), np.uint16)
    for i, j in np.ndindex(6, 7):
        data[i, j, 5 + 2 * i, 4 + 3 * j] = 9
    got = drive(CenterOfMass(descan="plane"), data)
    assert_allclose(got["regression"][:3], [[5 - 15, 4 - 16], [2, 0], [0, 3]], atol=1e-12)
    assert_allclose(got["field"], 0, atol=1e-11)
    raw = drive(CenterOfMass(), data)
    assert_allclose(raw["divergence"], 2 + 3)
    assert_allclose(raw["curl"], 0, atol=1e-12)


def test_the_estimate_given_back_to_the_udf_removes_the_curl() -> None:
    y, x = np.mgrid[:48, :48]
    field = potential_field(np.random.default_rng(7), (9, 10))
    field *= 3 / np.abs(field).max()
    measured = turned(field, -25, False) * [-1, 1]
    data = np.exp(-((y - 23.5 - measured[..., 0, None, None]) ** 2 + (x - 23.5 - measured[..., 1, None, None]) ** 2) / 20)
    first = drive(CenterOfMass(), data)
    angle, flip = first["rotation_estimate"][:2]
    assert flip == 1
    second = drive(CenterOfMass(scan_rotation_deg=float(angle), flip_y=bool(flip)), data)
    assert np.mean(second["curl"][1:-1, 1:-1] ** 2) < 0.02 * np.mean(first["curl"][1:-1, 1:-1] ** 2)
    assert_array_equal(second["rotation_estimate"], first["rotation_estimate"])
    assert_allclose(second["magnitude"], first["magnitude"])
    of_source = drive(CenterOfMass(flip_y=True), data, rotation_deg=float(angle))
    assert_array_equal(of_source["field"], second["field"])


def test_units_follow_calibrated_axes() -> None:
    data = frames_of(1, (4, 5), (6, 7), "u2") | np.uint16(1)
    axes = calibrated((4, 5, 6, 7), [(0.5, "nm"), (0.25, "nm"), (2.0, "mrad"), (3.0, "mrad")])
    plain, scaled = drive(CenterOfMass(), data), drive(CenterOfMass(), data, axes=axes)
    assert_array_equal(plain["com"], scaled["com"])
    assert_allclose(scaled["field"], plain["com"] * [2, 3])
    assert_allclose(scaled["magnitude"], np.hypot(*np.moveaxis(plain["com"] * [2, 3], -1, 0)))
    assert_allclose(scaled["divergence"], divergence(plain["com"] * [2, 3], (0.5, 0.25)))
    source = ls.open(data, scan_step="0.4 nm", pixel="0.9 mrad")
    declared = ls.run(source, CenterOfMass())["center_of_mass"].declared
    assert (declared["com"].unit, declared["field"].unit, declared["curl"].unit) == ("px", "mrad", "mrad/nm")
    assert ls.run(source, CenterOfMass(radius="2.7 mrad"))["total"].tolist() == ls.run(data, CenterOfMass(radius=3))["total"].tolist()


def test_no_warning_escapes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ls.run(np.zeros((3, 4, 5, 5), np.uint16), CenterOfMass(descan="parabola"))
