"""Arrays and drawn shapes as JSON."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.errors import UsageError
from libstream.jobs.arrays import DTYPES, array_of, json_array, mask_of


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3))
def test_arrays_come_back(dtype: str, shape: list[int]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    back = array_of(json_array(array), "x")
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


@pytest.mark.parametrize(
    "given",
    [
        {}, {"shape": [1], "dtype": "|O", "data": ""}, {"shape": [2], "dtype": "|u1", "data": "AA=="}, [1, 2],
        {"shape": [-1], "dtype": "|u1", "data": ""},
        {"shape": [1], "dtype": "|u1", "data": "?"}, {"shape": [1 << 40, 1 << 40], "dtype": "<f8", "data": ""},
        {"shape": [True], "dtype": "|u1", "data": "AA=="}, {"shape": "1", "dtype": "|u1", "data": "AA=="},
        {"shape": [1], "dtype": ["|u1"], "data": "AA=="}, {"shape": [1], "dtype": "|u1", "data": 3},
    ],
)  # fmt: skip
def test_what_is_no_array_is_refused(given: object) -> None:
    with pytest.raises(UsageError):
        array_of(given, "x")


def test_a_rectangle_is_half_open_and_y_comes_first() -> None:
    mask = mask_of({"kind": "rectangle", "y0": 1, "x0": 2, "y1": 3, "x1": 6}, (5, 8), "roi")
    assert mask.sum() == 2 * 4
    assert mask[1:3, 2:6].all()


def test_an_ellipse() -> None:
    mask = mask_of({"kind": "ellipse", "centre": [5, 10], "radii": [2, 4]}, (11, 21), "roi")
    y, x = np.nonzero(mask)
    assert (y.min(), y.max(), x.min(), x.max()) == (4, 6, 7, 13)  # the tips at distance 1 are outside


@given(st.lists(st.tuples(st.floats(-3, 12), st.floats(-3, 12)), min_size=3, max_size=6))
def test_a_polygon_is_what_a_ray_says(points: list[tuple[float, float]]) -> None:
    mask = mask_of({"kind": "polygon", "points": [list(p) for p in points]}, (9, 10), "roi")
    for y, x in np.ndindex(9, 10):
        crossings = 0
        for (ya, xa), (yb, xb) in zip(points, [*points[1:], points[0]], strict=True):
            if (ya > y) != (yb > y) and x < (xb - xa) * (y - ya) / (yb - ya) + xa:
                crossings += 1
        assert mask[y, x] == bool(crossings % 2)


def test_masks_of_series_and_lines() -> None:
    shape = {"kind": "rectangle", "y0": 0, "x0": 1, "y1": 1, "x1": 3}
    assert mask_of(shape, (3, 2, 4), "roi").sum() == 3 * 2
    assert mask_of(shape, (4,), "roi").tolist() == [False, True, True, False]
    given = {"kind": "mask", "array": json_array(np.eye(3, dtype=bool))}
    assert np.array_equal(mask_of(given, (3, 3), "roi"), np.eye(3, dtype=bool))
    with pytest.raises(UsageError, match="shape"):
        mask_of(given, (3, 4), "roi")


@pytest.mark.parametrize(
    "shape",
    [
        None, {}, {"kind": "star"}, {"kind": "rectangle", "y0": 0}, {"kind": "ellipse", "centre": [1, 1], "radii": [0, 1]},
        {"kind": "polygon", "points": [[0, 0], [1, 1]]}, {"kind": "rectangle", "y0": "0", "x0": 0, "y1": 1, "x1": 1},
        {"kind": "ellipse", "centre": [1], "radii": [1, 1]}, {"kind": "rectangle", "y0": float("nan"), "x0": 0, "y1": 1, "x1": 1},
        {"kind": "rectangle", "y0": 0, "x0": 0, "y1": 1, "x1": 1, "z": 1},
    ],
)  # fmt: skip
def test_what_is_no_shape_is_refused(shape: object) -> None:
    with pytest.raises(UsageError):
        mask_of(shape, (4, 4), "roi")
