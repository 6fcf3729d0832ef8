"""Which positions are asked for, and how they are cut into partitions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.errors import LibstreamError, ShapeError, UsageError
from libstream.plan.roi import as_mask, cut_runs, runs_of, selected

NAV = (4, 6)
INDEXED = np.arange(24).reshape(NAV)


def picked(roi: Any, nav: tuple[int, ...] = NAV) -> list[int]:
    mask = as_mask(roi, nav)
    assert mask is not None
    assert mask.shape == nav
    assert mask.dtype == bool
    return np.flatnonzero(mask).tolist()


def test_no_roi_is_no_mask() -> None:
    assert as_mask(None, NAV) is None


@pytest.mark.parametrize(
    "roi",
    [
        np.s_[2], np.s_[-1], np.s_[1:3], np.s_[:, 2:5], np.s_[1:3, ::2], np.s_[..., 4], np.s_[:, -1], np.s_[2, 3], np.s_[3:1], ...,
        np.int64(1), (np.int32(2), slice(None)),
    ],
    ids=repr,
)  # fmt: skip
def test_slices_and_integers_mean_what_numpy_means(roi: Any) -> None:
    assert picked(roi) == np.ravel(INDEXED[roi]).tolist()


@pytest.mark.parametrize("form", [list, np.array, tuple])
def test_positions(form: Any) -> None:
    positions = [(3, 0), (0, 5), (2, 2), (3, 0)]
    assert picked(form(positions)) == [5, 14, 18]


def test_a_bool_array_is_copied() -> None:
    mask = np.zeros(NAV, bool)
    mask[1, 2] = True
    out = as_mask(mask, NAV)
    mask[...] = True
    assert out is not None
    assert out.sum() == 1
    assert picked(np.ones(NAV, bool).tolist()) == list(range(24))


def test_one_axis_and_none() -> None:
    assert picked(np.s_[2:4], (6,)) == [2, 3]
    assert picked([[2], [5]], (6,)) == [2, 5]
    assert picked(np.array(True), ()) == [0]
    assert picked(np.array(False), ()) == []


def test_a_transposed_array_is_refused_and_named() -> None:
    with pytest.raises(ShapeError, match=r"roi has shape \(6, 4\), the scan has \(4, 6\) \(it is transposed: scan shapes are \(y, x\)\)"):
        as_mask(np.ones((6, 4), bool), NAV)


@pytest.mark.parametrize("shape", [(4, 5), (24,), (4, 6, 1), (1, 4, 6), (4, 1)])
def test_any_other_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="roi has shape") as caught:
        as_mask(np.ones(shape, bool), NAV)
    assert "transposed" not in str(caught.value)


@pytest.mark.parametrize(("position", "says"), [((4, 0), "(4, 0)"), ((0, 6), "(0, 6)"), ((-1, 2), "(-1, 2)")])
def test_positions_outside_are_named(position: tuple[int, int], says: str) -> None:
    with pytest.raises(ShapeError) as caught:
        as_mask(np.array([(1, 1), position]), NAV)
    assert says in str(caught.value)
    assert "outside of the scan (4, 6)" in str(caught.value)


@pytest.mark.parametrize(
    "roi", [np.ones(NAV), np.zeros((3, 3), int), "all", [1.5, 2.5], np.array([[0.0, 1.0]])], ids=lambda r: str(np.shape(r))
)
def test_what_is_no_region_is_refused(roi: Any) -> None:
    with pytest.raises(UsageError, match=r"roi must be a bool array of shape \(4, 6\), slices, or positions of shape \(k, 2\)"):
        as_mask(roi, NAV)


@pytest.mark.parametrize("roi", [np.s_[4], np.s_[0, 6], np.s_[0, 0, 0], np.s_[..., ...]], ids=repr)
def test_an_index_that_does_not_fit_is_refused(roi: Any) -> None:
    with pytest.raises(LibstreamError, match="does not fit the scan"):
        as_mask(roi, NAV)


# -- positions with frames ---------------------------------------------------------------------------------------------


@given(
    nav=st.lists(st.integers(0, 7), max_size=3).map(tuple),
    n_frames=st.integers(0, 60),
    sync=st.integers(-70, 70),
    seed=st.none() | st.integers(0, 99),
)
def test_selected_and_missing_positions(nav: tuple[int, ...], n_frames: int, sync: int, seed: int | None) -> None:
    n = int(np.prod(nav, dtype=int))
    mask = None if seed is None else np.random.default_rng(seed).random(nav) < 0.5
    runs, missing = selected(nav, n_frames, sync, mask)
    wanted = np.ones(n, bool) if mask is None else mask.reshape(-1)
    has_frame = np.array([0 <= p + sync < n_frames for p in range(n)], bool)
    assert [p for a, b in runs for p in range(a, b)] == np.flatnonzero(wanted & has_frame).tolist()
    assert np.array_equal(missing, wanted & ~has_frame)
    assert runs.dtype == np.int64
    assert runs.shape[1] == 2


@given(st.lists(st.booleans(), max_size=40))
def test_runs_are_rising_separate_and_whole(flags: list[bool]) -> None:
    runs = runs_of(np.array(flags, bool)).tolist()
    assert [i for a, b in runs for i in range(a, b)] == [i for i, f in enumerate(flags) if f]
    assert all(a < b for a, b in runs)
    assert all(b < c for (_, b), (c, _) in itertools.pairwise(runs)), "neighbouring runs are one"


@given(flags=st.lists(st.booleans(), max_size=60), sizes=st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_cut_runs_keeps_each_position_once_in_order(flags: list[bool], sizes: list[int]) -> None:
    runs = runs_of(np.array(flags, bool))
    before = runs.copy()
    parts = list(cut_runs(runs, iter(sizes)))
    assert np.array_equal(runs, before), "the input is not changed"
    positions = [i for i, f in enumerate(flags) if f]
    edges = np.minimum(np.cumsum([0, *sizes]), len(positions))
    expected = [positions[a:b] for a, b in itertools.pairwise(edges) if a < b]
    assert [[p for a, b in part.tolist() for p in range(a, b)] for part in parts] == expected
    assert all((part[:, 0] < part[:, 1]).all() for part in parts), "no run is empty"
