"""A source that behaves as a live one does goes through the same loop as a file: late, out of order, part-filled, with losses."""

from __future__ import annotations

import ast
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import libstream as ls
from libstream.model.partial import MISSING
from libstream.run import loop
from libstream.testing._bench import differ
from libstream.testing.laws import random_frames
from libstream.testing.sources import ScriptedSource, cut_at, gated, late, losing, part_filled, shuffled
from tests.laws import zoo

NAV, SIG = (8, 9), (6, 5)
FRAMES = random_frames(NAV, SIG, "uint16")
UDFS = {k: u for k, u in zoo.everything(NAV, SIG).items() if k not in ("weighted", "fourier")}


def compare(live: Any, stored: Any, exact: bool = False) -> None:
    """Integers and per-frame values have the same bits, float sums agree to 1e-12 (after `finish` to 1e-9)."""
    wrong = []
    for key in stored:
        declared = stored[key].declared
        for name, value in stored[key].items():
            o = declared[name]
            bits = exact or o.kind in ("nav", "ragged") or o.merge in ("max", "min")
            wrong.append(differ(f"{key}/{name}", value, live[key][name], 0.0 if bits else 1e-12 if not o.derived else 1e-9))
    assert not any(wrong), "; ".join(w for w in wrong if w)


@settings(max_examples=12)
@given(
    seed=st.integers(0, 999), most=st.integers(1, 40), lost=st.sets(st.integers(0, 71), max_size=30), bad=st.sampled_from([0.0, 0.2, 1.0]),
    executor=st.sampled_from(["inline", "threads"]), layout=st.sampled_from(["buffer", "view", "gaps"]),
)  # fmt: skip
def test_late_out_of_order_part_filled_lost_and_corrupt(
    seed: int, most: int, lost: set[int], bad: float, executor: str, layout: Any
) -> None:
    invalid = np.random.default_rng(seed).random(NAV) < bad
    live = ScriptedSource(
        FRAMES, part_filled(seed, most), losing(lost), shuffled(seed + 1), late(0.0002), invalid=invalid, layout=layout
    )  # fmt: skip
    got = ls.run(live, UDFS, executor=executor)
    good = ~invalid
    good.reshape(-1)[sorted(lost)] = False
    assert np.array_equal(got.valid, good)
    counts = got.coverage.counts
    assert (counts["dropped"], counts["unseen"]) == (len(lost), 0)
    assert counts["corrupt"] == int((invalid & ~_mask(lost)).sum())
    assert got.final
    assert got.complete == bool(good.all())
    compare(got, ls.run(FRAMES, UDFS, roi=good, executor="inline"))


def _mask(positions: set[int]) -> np.ndarray:
    out = np.zeros(72, bool)
    out[sorted(positions)] = True
    return out.reshape(NAV)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_the_order_of_arrival_changes_no_bit(executor: str) -> None:
    cut = cut_at([5, 9, 1, 20, 7, 3])
    results = [ls.run(ScriptedSource(FRAMES, cut, *more), UDFS, executor=executor) for more in ([], [shuffled(1)], [shuffled(2)])]
    for other in results[1:]:
        compare(other, results[0], exact=True)


def test_results_grow_while_the_source_waits() -> None:
    gate = threading.Event()
    job = ls.start(ScriptedSource(FRAMES, cut_at([10, 10, 10]), losing([3]), gated(2, gate)), {"n": zoo.Sums()})
    seen = []
    for result in job.results():
        seen.append(result.coverage.counts["processed"])
        if seen[-1] == 19:
            assert (result["image"] == FRAMES.reshape(-1, *SIG)[[i for i in range(20) if i != 3]].sum(0, dtype="u8")).all()
            gate.set()
    assert 19 in seen
    assert seen[-1] == 71


def test_what_the_source_never_hands_out_stays_unseen() -> None:
    def ends_early(planned: Any) -> Any:
        for i, p in enumerate(planned):
            if i == 3:
                return
            yield p

    result = ls.run(ScriptedSource(FRAMES, cut_at([10] * 7), ends_early), {"sums": zoo.Sums()})
    assert result.coverage.counts["unseen"] == 72 - 30
    assert result.final
    assert not result.complete
    assert np.array_equal(result["image"], FRAMES.reshape(-1, *SIG)[:30].sum(0, dtype="u8"))


def test_all_is_lost() -> None:
    result = ls.run(ScriptedSource(FRAMES, losing(range(72), MISSING)), {"sums": zoo.Sums(), "events": zoo.Events()})
    assert result.coverage.counts["missing"] == 72
    assert (result["image"] == np.iinfo("u8").max).all(), "never a silent zero"
    assert len(result["events"]["events"].values) == 0


def test_parts_larger_than_the_plan_are_refused() -> None:
    def all_at_once(planned: Any) -> Any:
        parts = list(planned)
        yield ls.ext.Partition(0, np.array([[0, 4096]]))
        assert len(parts) > 1

    frames = np.zeros((64, 64, 2, 2), "u2")
    with pytest.raises(ls.errors.UsageError, match=r"partition 0 has 4096 positions, the plan allows \d+"):
        ls.run(ScriptedSource(frames, all_at_once), zoo.Peak())


def test_the_loop_has_no_branch_for_it() -> None:
    """No module of the engine names a live source, or asks a source what it is."""
    folder = Path(loop.__file__).parent
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        assert not {n for n in names if "live" in n.lower() or "scripted" in n.lower()}, path
        asked = [
            ast.unparse(n) for n in ast.walk(tree)
            if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "isinstance" and "source" in ast.unparse(n.args[0])
        ]  # fmt: skip
        assert asked == [], path
