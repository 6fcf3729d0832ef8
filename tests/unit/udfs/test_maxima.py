"""Local maxima against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import libstream as ls
from libstream.errors import ParameterError
from libstream.udfs.maxima import LocalMaxima
from tests.unit.udfs.drive import drive


def twin(frame: np.ndarray, threshold: float, distance: float, edge: int, most: int) -> list[tuple[int, int, float]]:
    """(y, x, value) by definition."""
    ny, nx = frame.shape
    found = []
    for y in range(edge, ny - edge):
        for x in range(edge, nx - edge):
            near = [
                frame[j, i] for j in range(max(0, y - 1), min(ny, y + 2)) for i in range(max(0, x - 1), min(nx, x + 2)) if (j, i) != (y, x)
            ]
            if frame[y, x] > threshold and all(frame[y, x] > v for v in near):
                found.append((y, x, frame[y, x]))
    found.sort(key=lambda p: (-float(p[2]), p[0], p[1]))
    kept: list[tuple[int, int, float]] = []
    for p in found:
        if all((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 >= distance**2 for q in kept):
            kept.append(p)
    return kept[:most] if most else kept


@settings(max_examples=80)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(["u2", "f4"]),
    sig=st.tuples(st.integers(1, 25), st.integers(1, 27)),
    levels=st.sampled_from([2, 5, 200]),
    threshold=st.sampled_from([-1.0, 0.0, 1.0, 2.5, 100.0]),
    distance=st.sampled_from([1.0, 2.0, 2.5, 3.0, 5.0, 7.2]),
    edge=st.integers(0, 3),
    most=st.sampled_from([0, 1, 4]),
    holes=st.booleans(),
)
def test_peaks_equal_the_definition(
    seed: int, dtype: str, sig: tuple[int, int], levels: int, threshold: float, distance: float, edge: int, most: int, holes: bool
) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, levels, (3, *sig)).astype(dtype)
    data[1] = 0
    if holes and dtype[0] == "f":
        data[rng.random(data.shape) < 0.1] = np.nan
        data[rng.random(data.shape) < 0.02] = np.inf
    got = drive(LocalMaxima(threshold=threshold, min_distance=distance, edge=edge, max_peaks=most), data)["peaks"]
    assert got.dtype == np.dtype([("y", "i4"), ("x", "i4"), ("value", dtype)])
    for i, frame in enumerate(data):
        assert got[i].tolist() == [(y, x, v.item()) for y, x, v in twin(frame, threshold, distance, edge, most)]


def test_extremes_of_the_dtype() -> None:
    for dtype in ("u2", "i2"):
        info = np.iinfo(dtype)
        frame = np.full((1, 5, 5), info.min, dtype)
        frame[0, 2, 3] = info.max
        assert drive(LocalMaxima(threshold=float(info.max) - 1), frame)["peaks"][0].tolist() == [(2, 3, info.max)]
        assert len(drive(LocalMaxima(threshold=float(info.max)), frame)["peaks"][0]) == 0
        assert len(drive(LocalMaxima(threshold=float(info.min) - 1), np.full((1, 1, 1), info.min, dtype))["peaks"][0]) == 1


def test_plateaus_give_nothing_and_equal_peaks_come_by_y_then_x() -> None:
    frame = np.zeros((1, 9, 9), np.uint8)
    frame[0, 1, 1:3] = 9
    for y, x in ((7, 1), (4, 7), (4, 4)):
        frame[0, y, x] = 5
    assert [tuple(p)[:2] for p in drive(LocalMaxima(), frame)["peaks"][0].tolist()] == [(4, 4), (4, 7), (7, 1)]
    assert [tuple(p)[:2] for p in drive(LocalMaxima(min_distance=3.1), frame)["peaks"][0].tolist()] == [(4, 4), (7, 1)]
    assert [tuple(p)[:2] for p in drive(LocalMaxima(min_distance=3.0), frame)["peaks"][0].tolist()] == [(4, 4), (4, 7), (7, 1)]


def test_a_distance_larger_than_the_frame_leaves_one() -> None:
    data = np.random.default_rng(0).random((2, 12, 15))
    got = drive(LocalMaxima(min_distance=100), data)["peaks"]
    for i in range(2):
        assert got[i]["value"].tolist() == [data[i].max()]


def test_many_peaks_are_sorted() -> None:
    rng = np.random.default_rng(1)
    data = np.zeros((1, 80, 82), np.uint16)
    data[0, ::2, ::2] = rng.integers(1, 60, (40, 41))
    got = drive(LocalMaxima(), data)["peaks"][0]
    assert len(got) == 40 * 41
    assert got.tolist() == sorted(got.tolist(), key=lambda p: (-p[2], p[0], p[1]))


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_through_the_engine_with_more_peaks_than_first_room(executor: str) -> None:
    rng = np.random.default_rng(4)
    data = rng.integers(0, 200, (9, 8, 32, 34)).astype(np.uint16)
    data[::2] = 0
    roi = rng.random((9, 8)) < 0.7
    result = ls.run(data, LocalMaxima(threshold=20, min_distance=3), roi=roi, executor=executor)["peaks"]
    plain = drive(LocalMaxima(threshold=20, min_distance=3), data, seen=roi)["peaks"]
    assert result == plain
    assert plain.counts.max() > 20
    assert not plain.counts[~roi].any()


def test_wrong_parameters_are_named() -> None:
    for bad in ({"edge": -1}, {"max_peaks": -1}, {"min_distance": "a lot"}, {"threshold": "low"}):
        with pytest.raises(ParameterError, match=next(iter(bad))):
            drive(LocalMaxima(**bad), np.ones((1, 3, 3), np.uint8))


def test_a_threshold_in_calibrated_px() -> None:
    data = np.zeros((1, 9, 9), np.uint8)
    data[0, 4, 2], data[0, 4, 5] = 9, 8
    near = ls.run(ls.open(data, pixel="0.5 mrad"), LocalMaxima(min_distance="2 mrad"))["peaks"]
    assert_array_equal(near[0]["x"], [2])
