"""Frame numbers to scan positions, against a twin that walks the scan step by step."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.errors import ShapeError, UsageError
from libstream.model.order import ScanOrder

SCANS = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def walked(scan: tuple[int, ...], order: str, flyback: int, repeats: int) -> list[int]:
    """Flat position of each frame, -1 for none, as a microscope would travel."""
    *outer, width = scan
    out = []
    for line in itertools.product(*map(range, outer)):
        xs = list(range(width))
        if order == "serpentine" and line and line[-1] % 2 == 1:
            xs.reverse()
        for x in xs:
            at = int(np.ravel_multi_index((*line, x), scan))
            out += [at * repeats + k for k in range(repeats)]
        out += [-1] * (flyback * repeats)
    return out


@given(SCANS, st.sampled_from(["raster", "serpentine"]), st.integers(0, 3), st.integers(1, 3))
def test_orders_are_what_a_microscope_travels(scan: tuple[int, ...], order: str, flyback: int, repeats: int) -> None:
    path = walked(scan, order, flyback, repeats)
    made = ScanOrder.of(scan, order=order, flyback=flyback, frames_per_position=repeats)
    assert made.nav == ((*scan, repeats) if repeats > 1 else scan)
    assert made.n_frames == len(path)
    assert made.n_positions == math.prod(scan) * repeats
    numbers = np.random.default_rng(0).permutation(len(path))
    found = made.positions_of(numbers)
    assert found.dtype == np.int64
    assert found.tolist() == [path[n] for n in numbers]
    assert made.numbers().tolist() == [path.index(at) for at in range(made.n_positions)]
    assert made.left_out().size == 0


@given(SCANS, st.integers(1, 3), st.data())
def test_custom_paths(scan: tuple[int, ...], repeats: int, data: Any) -> None:
    n = math.prod(scan)
    order = data.draw(st.permutations(range(n)))
    visited = order[: data.draw(st.integers(1, n))]
    path = list(visited)
    for at in data.draw(st.lists(st.integers(0, len(path)), max_size=4)):
        path.insert(at, data.draw(st.integers(-3, -1)))
    if data.draw(st.booleans()):
        given_path: Any = np.array(path, np.int64)
    else:
        given_path = np.array([np.unravel_index(p, scan) if p >= 0 else (-1,) * len(scan) for p in path], np.int64)
    made = ScanOrder.of(scan, positions=given_path, frames_per_position=repeats)
    expected = [at * repeats + k if at >= 0 else -1 for at in path for k in range(repeats)]
    assert made.n_frames == len(expected)
    assert made.positions_of(np.arange(made.n_frames)).tolist() == expected
    numbers = [expected.index(at) if at in expected else -1 for at in range(n * repeats)]
    assert made.numbers().tolist() == numbers
    assert made.left_out().tolist() == [at for at, number in enumerate(numbers) if number < 0]


def test_a_path_of_pairs_and_a_flat_one_are_the_same() -> None:
    pairs = ScanOrder.of((2, 3), positions=[(1, 2), (0, 0), (-1, 5), (0, -2)])
    assert pairs.positions_of(np.arange(4)).tolist() == [5, 0, -1, -1]


@pytest.mark.parametrize(
    ("scan", "given_order", "error", "says"),
    [
        ((0, 4), {}, ShapeError, r"at least one position on each axis, got \(0, 4\)"),
        ((4, 4), {"order": "spiral"}, UsageError, "raster, serpentine, got 'spiral'; for any other path pass positions="),
        ((4, 4), {"flyback": -1}, UsageError, "flyback is 0 or more"),
        ((4, 4), {"frames_per_position": 0}, UsageError, "frames_per_position 1 or more"),
        ((4, 4), {"positions": np.arange(16), "flyback": 1}, UsageError, "says the whole path"),
        ((4, 4), {"positions": np.arange(16), "order": "serpentine"}, UsageError, "says the whole path"),
        ((4, 4), {"positions": np.arange(17)}, ShapeError, "16 of frame 16 lies outside of the 16 positions"),
        ((4, 4), {"positions": [[0, 0], [4, 0]]}, ShapeError, r"\(4, 0\) of frame 1 lies outside of the scan \(4, 4\)"),
        ((4, 4), {"positions": [[0, 0, 0]]}, ShapeError, "3 columns, the scan .* has 2 axes"),
        ((4, 4), {"positions": [0, 1, 1, 1]}, ShapeError, "position 1 is visited 3 times"),
        ((4, 4), {"positions": [0.5, 1.0]}, ShapeError, "whole numbers"),
        ((4, 4), {"positions": np.zeros((0, 2), int)}, ShapeError, "whole numbers"),
        ((4, 4), {"positions": np.zeros((2, 2, 2), int)}, ShapeError, "whole numbers"),
    ],
)
def test_what_cannot_be_is_refused(scan: tuple[int, ...], given_order: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        ScanOrder.of(scan, **given_order)
