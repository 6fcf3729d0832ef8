"""The plan is pure data, covers everything once, and says why."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.plan.plan import MIB, MIN_FRAMES, Need, RunPlan, bit_reversed, make_plan, tile_of


def need(key: str = "u", **given: Any) -> Need:
    return Need(**{"key": key, "itemsize": 2, "sums": True, "whole": False, "compiled": True, "partition": False, **given})


def plan_of(nav: tuple[int, ...] = (64, 64), sig: tuple[int, ...] = (128, 128), itemsize: int = 2, **given: Any) -> RunPlan:
    n = math.prod(nav)
    needs = given.pop("needs", [need(itemsize=itemsize)])
    options: dict[str, Any] = {"n_frames": n, "sync_offset": 0, "mask": None, **given}
    return make_plan(nav=nav, channels={"frames": (sig, itemsize)}, needs={"frames": needs}, **options)


shapes = st.tuples(
    st.lists(st.integers(0, 40), max_size=3).map(tuple),
    st.one_of(st.tuples(st.integers(1, 600), st.integers(1, 600)), st.tuples(st.integers(1, 9000))),
)


@given(
    shape=shapes, itemsize=st.sampled_from([1, 2, 4, 8, 16]), order=st.sampled_from(["scan", "coarse"]),
    sync=st.integers(-30, 30), roi=st.none() | st.floats(0, 1), factor=st.sampled_from([1.0, 20.0]),
    needs=st.lists(st.builds(need, st.sampled_from("abc"), sums=st.booleans(), whole=st.booleans(), compiled=st.booleans(),
                             partition=st.booleans(), frames=st.booleans(), depth=st.sampled_from([1, 32]), cost=st.floats(0, 9)),
                   min_size=1, max_size=3),
)  # fmt: skip
def test_every_frame_and_pixel_once(shape: Any, itemsize: int, order: str, sync: int, roi: float | None, factor: float, needs: Any) -> None:
    nav, sig = shape
    mask = None if roi is None else np.random.default_rng(1).random(nav) < roi
    plan = plan_of(nav, sig, itemsize, needs=needs, order=order, sync_offset=sync, mask=mask, task_factor=factor)
    parts = list(plan.partitions())
    assert sorted(p.number for p in parts) == list(range(plan.n_partitions)) == list(range(len(parts)))
    seen = np.concatenate([np.zeros(0, np.int64), *(p.positions() for p in sorted(parts, key=lambda p: p.number))])
    wanted = np.ones(math.prod(nav), bool) if mask is None else mask.reshape(-1)
    has_frame = np.array([0 <= p + sync < math.prod(nav) for p in range(math.prod(nav))], bool)
    assert seen.tolist() == np.flatnonzero(wanted & has_frame).tolist()
    assert plan.n_selected == len(seen)
    assert all(0 < p.n_positions <= plan.partition_frames for p in parts)
    tiling = plan.tilings["frames"]
    rows = [r for a, b in tiling.bands for r in range(a, b)]
    assert rows == list(range(sig[0])), "bands cover each row once"
    assert 1 <= tiling.depth <= plan.partition_frames or any(n.frames for n in needs)
    if any(n.whole or n.partition for n in needs):
        assert len(tiling.bands) == 1, "a UDF that needs whole frames gets whole frames"


@given(shape=shapes)
def test_the_plan_is_pure(shape: Any) -> None:
    nav, sig = shape
    mask = np.random.default_rng(2).random(nav) < 0.5
    before = mask.copy()
    a, b = plan_of(nav, sig, mask=mask), plan_of(nav, sig, mask=mask)
    assert np.array_equal(mask, before)
    assert (a.explain(), a.tilings, a.partition_frames, a.first_frames) == (b.explain(), b.tilings, b.partition_frames, b.first_frames)
    assert [(p.number, p.runs.tolist()) for p in a.partitions()] == [(p.number, p.runs.tolist()) for p in b.partitions()]
    assert [p.runs.tolist() for p in a.partitions()] == [p.runs.tolist() for p in a.partitions()], "can be asked again"


def test_partitions_start_with_one_tile_and_grow() -> None:
    plan = plan_of((256, 256))
    sizes = list(itertools.islice(plan.sizes(), 5))
    depth = plan.tilings["frames"].depth
    assert sizes[:4] == [depth, 4 * depth, 16 * depth, 64 * depth]
    assert sizes[-1] == plan.partition_frames
    assert all(size <= plan.partition_frames for size in sizes)
    assert [p.n_positions for p in plan.partitions()][: len(sizes)] == sizes


def test_partitions_are_16_to_128_mib() -> None:
    frame = 128 * 128 * 2
    large = plan_of((512, 512), needs=[need(compiled=True)])
    assert 16 * MIB <= large.partition_frames * frame <= 128 * MIB
    assert plan_of((4096, 4096), (8, 8)).partition_frames == 2**16, "as many 16-bit numbers as 32 bits can add up"
    slow = plan_of((512, 512), needs=[need(compiled=False, frames=False)])
    assert slow.partition_frames * frame <= 64 * MIB
    assert "plain-Python" in slow.explain()


@pytest.mark.parametrize("cost", [0.5, 10.0])
def test_partitions_get_smaller_at_the_end(cost: float) -> None:
    plan = plan_of((512, 512), needs=[need(cost=cost)])
    sizes = [p.n_positions for p in plan.partitions()]
    largest = sizes.index(plan.partition_frames)
    assert sizes[:largest] == sorted(sizes[:largest])
    assert sizes[largest:] == sorted(sizes[largest:], reverse=True)
    left = np.cumsum(sizes[::-1])[::-1]
    assert all(s <= max(rest // 2, plan.last_frames) for s, rest in zip(sizes, left, strict=True))
    assert len(sizes) < 20 + plan.n_selected // plan.partition_frames
    assert plan.partition_frames // 8 <= plan.last_frames <= plan.partition_frames


def test_small_scans_of_quick_udfs_are_cut_into_few_partitions() -> None:
    frame = 256 * 256 * 2
    few = plan_of((40, 40), (256, 256), needs=[need(cost=1.0)])
    assert few.partition_frames * frame == 32 * MIB
    assert few.n_partitions <= 12
    assert few.last_frames * frame == 8 * MIB
    assert plan_of((40, 40), (256, 256), needs=[need(cost=1.0), need(cost=5.0)]).partition_frames * frame == 16 * MIB


def test_python_frames_come_in_small_partitions() -> None:
    plan = plan_of((64, 64), needs=[need(compiled=False, whole=True, frames=True)])
    assert plan.partition_frames <= 256
    assert next(plan.sizes()) <= 8


def test_clusters_get_larger_tasks() -> None:
    assert plan_of((512, 512), task_factor=20.0).partition_frames > 10 * plan_of((512, 512)).partition_frames


def test_coarse_order_visits_the_whole_scan_early() -> None:
    plan = plan_of((64, 64), order="coarse")
    starts = [int(p.runs[0, 0]) for p in plan.partitions()]
    assert sorted(starts) != starts
    quarter = starts[: len(starts) // 4]
    gaps = np.diff([0, *sorted(quarter), 64 * 64])
    assert gaps.max() <= 64 * 64 / 2, f"the first quarter of the partitions leaves {gaps.max()} of 4096 positions in a row out"


@given(st.integers(1, 300))
def test_bit_reversed_is_a_permutation_that_spreads(n: int) -> None:
    order = bit_reversed(n)
    assert sorted(order) == list(range(n))
    assert order[0] == 0
    for k in (2, 4, 8):
        if n >= 2 * k:
            assert np.diff([*sorted(order[:k]), n]).max() <= 2 * n / k + 1


def test_tiles_hold_whole_frames_where_eight_fit() -> None:
    tiling, why = tile_of((128, 128), 2, [need()])
    assert (tiling.depth * 128 * 128 * 2 <= MIB, tiling.bands) == (True, [(0, 128)])
    assert tiling.depth >= MIN_FRAMES
    assert "whole frames" in why


@pytest.mark.parametrize(("whole", "bands", "says"), [(False, True, "bands of"), (True, False, "because u needs whole frames")])
def test_large_frames(whole: bool, bands: bool, says: str) -> None:
    tiling, why = tile_of((2048, 2048), 2, [need(whole=whole)])
    assert (len(tiling.bands) > 1) == bands
    assert says in why
    assert tiling.depth <= MIN_FRAMES


def test_a_wider_cast_makes_tiles_shallower() -> None:
    narrow, wide = tile_of((128, 128), 2, [need(itemsize=2)])[0], tile_of((128, 128), 2, [need(itemsize=8)])[0]
    assert wide.depth == narrow.depth // 4


def test_explain_has_a_sentence_for_each_choice() -> None:
    mask = np.zeros((64, 64), bool)
    mask[3, 4:9] = mask[7, 2] = True
    text = plan_of(mask=mask).explain()
    assert "positions: 6 of 4096 in 2 runs (region of interest)" in text
    assert "tiles of frames:" in text
    assert "partitions: up to" in text
    assert "missing: 5 positions have no frame (sync_offset 5, 4096 frames in the source)" in plan_of(sync_offset=5).explain()


def test_nothing_to_do() -> None:
    plan = plan_of(mask=np.zeros((64, 64), bool))
    assert (plan.n_selected, plan.n_partitions, list(plan.partitions())) == (0, 0, [])
    assert plan_of((0, 5)).n_partitions == 0


def test_a_udf_gets_the_frames_that_it_asks_for_where_they_fit() -> None:
    many = replace(need(), depth=32)
    assert tile_of((512, 512), 2, [many, need()])[0].depth == 32
    assert tile_of((128, 128), 2, [many])[0].depth == 32, "1 MiB is that anyway"
    assert tile_of((1024, 1024), 2, [many])[0].depth == 8, "as many as fit into 16 MiB"
    assert tile_of((2048, 2048), 2, [many])[0] == tile_of((2048, 2048), 2, [need()])[0], "fewer than others get anyway"
    assert "constants of" in tile_of((512, 512), 2, [many])[1]
