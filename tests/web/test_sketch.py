"""Coarse pictures of large scans: what is drawn where nothing was computed yet, and that it never gets into results."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import libstream as ls
from libstream.jobs import sketch
from libstream.jobs.outputs import OutputInfo
from libstream.jobs.session import Session
from libstream.jobs.store import Held, Store
from libstream.web_gui import topics, wire
from tests.web.sessions import FRAMES, array, settled, wait


class Map:
    """As much of a UDF as is asked for."""

    def __init__(self, output: Any = None) -> None:
        self._output = output if output is not None else ls.nav("float64")

    def outputs(self) -> dict[str, Any]:
        return {"x": self._output}


def grid(nav: tuple[int, ...], seconds: float, roi: Any = None, udf: Any = None) -> sketch.Grid | None:
    """The grid for a scan whose run is expected to take so long."""
    source = ls.open(np.zeros((*nav, 1, 1), np.uint8))
    return sketch.grid_for(source, {"u": udf or Map()}, roi, seconds / np.prod(nav))


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.floats(0.4, 60), st.booleans(), st.integers(0, 2**32 - 1))
def test_positions_look_like_the_nearest_one_of_the_grid(nav: tuple[int, int], seconds: float, part: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    roi = rng.random(nav) < 0.7 if part else None
    if roi is not None and not roi.any():
        return
    found = grid(nav, seconds, roi)
    if found is None:
        assert min(nav) < 2 * sketch.LEAST or roi is not None
        return
    values = rng.random((*nav, 2))
    filled = found.filled(values)
    ys, xs = (np.minimum(np.arange(0, n, found.step) + found.step // 2, n - 1) for n in nav)
    for y in range(nav[0]):
        for x in range(nav[1]):
            near = int(ys[np.argmin(abs(ys - y))]), int(xs[np.argmin(abs(xs - x))])
            mine = int(found.rows[y]), int(found.columns[x])
            assert np.array_equal(filled[y, x], values[mine])
            # ties aside it is the nearest one; blocks are cut in the middle between two
            assert abs(mine[0] - y) <= abs(near[0] - y) + 1
            assert abs(mine[1] - x) <= abs(near[1] - x) + 1
    whole = np.zeros(nav, bool)
    whole[np.ix_(ys, xs)] = True
    assert np.array_equal(found.mask, whole if roi is None else whole & roi)


def test_what_is_fast_or_no_map_is_not_sketched() -> None:
    assert grid((64, 64), 0.9 * sketch.SLOW_S) is None
    assert grid((4096,), 60) is None
    assert grid((3, 300), 60) is None
    assert grid((64, 64), 60, udf=Map(ls.sig("float64"))) is None
    found = grid((3, 96, 96), 3.0)
    assert found is not None
    assert found.mask.any(axis=(1, 2)).all(), "all scans of a series"
    assert found.mask.sum() * 3.0 / found.mask.size <= 2 * sketch.AIM_S


def test_what_was_computed_is_drawn_as_it_is() -> None:
    nav = (8, 9)
    info = OutputInfo("x", "nav", "image", nav, np.dtype(float), ())
    rng = np.random.default_rng(0)
    values, seen, guess, where = rng.random(nav), rng.random(nav) < 0.4, rng.random(nav), rng.random(nav) < 0.8
    store = Store()
    store.put("t", np.where(seen, values, np.nan), seen, 1, False, 0, info, (guess, where))
    held = store.get("t")
    assert held is not None
    assert held.is_rough
    drawn = wire.displayed(*held.drawn())
    assert np.array_equal(drawn[seen], values[seen].astype(np.float32))
    assert np.array_equal(drawn[~seen & where], guess[~seen & where].astype(np.float32))
    assert np.isnan(drawn[~seen & ~where]).all()
    assert np.isnan(held.array[~seen]).all(), "what is saved and fetched holds no guesses"
    view = topics._plain(topics.Key("t"), held)
    assert view.rough
    assert np.array_equal(view.make(), drawn, equal_nan=True)
    # without the guess everything has to be sent anew
    store.put("t", np.where(seen, values, np.nan), seen, 1, True, 0, info)
    assert store.get("t").rows_since(held.version) is None  # type: ignore[union-attr]
    assert not store.get("t").is_rough  # type: ignore[union-attr]


def test_vectors_are_guessed_too() -> None:
    nav = (4, 5)
    info = OutputInfo("x", "nav", "vector", (*nav, 2), np.dtype(float), ())
    seen = np.zeros(nav, bool)
    seen[1, 1] = True
    held = Held(1, np.ones((*nav, 2)), seen, 1, False, 0, info, 1, sketch=(np.full((*nav, 2), 7.0), np.ones(nav, bool)))
    drawn, where = held.drawn()
    assert where is not None
    assert where.all()
    assert np.array_equal(drawn[1, 1], [1, 1])
    assert np.array_equal(drawn[0, 0], [7, 7])


@pytest.fixture
def watched(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[Held]:
    """Every version of a map, where all runs are taken for slow."""
    monkeypatch.setattr(sketch, "SLOW_S", 0.0)
    monkeypatch.setattr(sketch, "AIM_S", 1e-9)
    monkeypatch.setattr(sketch, "LEAST", 4)
    put, seen = session.store.put, []

    def spy(topic: str, *args: Any) -> bool:
        done = put(topic, *args)
        held = session.store.get(topic)
        if topic.endswith(("/total", "/value")) and held is not None:
            seen.append(held)
        return done

    monkeypatch.setattr(session.store, "put", spy)
    return seen


def test_a_run_begins_with_a_sketch_and_ends_exact(session: Session, scan: str, watched: list[Held]) -> None:
    exact = FRAMES.sum(axis=(2, 3))
    session.open(scan)
    session.analyses.add("FrameTotals", id="t")
    settled(session, "t")
    for _ in range(2):
        rough = [h for h in watched if h.is_rough]
        assert rough, "there was a preview"
        drawn, where = rough[0].drawn()
        assert where.all()
        assert np.array_equal(rough[0].array[rough[0].seen], exact[rough[0].seen])
        assert np.isin(drawn, exact[rough[0].seen]).all()
        assert np.array_equal(array(session, "a/t/total"), exact)
        assert session.store.get("a/t/total").final
        assert not session.store.get("a/t/total").is_rough
        watched.clear()
        session.run()
        settled(session, "t")


def test_new_parameters_of_a_slow_run_are_sketched(session: Session, scan: str, watched: list[Held]) -> None:
    session.open(scan)
    id = session.analyses.add("mine.py:Slow", {"seconds": 0.02})
    for seconds in (0.021, 0.019, 0.018):
        wait(lambda: any(h.is_rough for h in watched))
        watched.clear()
        gen = session.analyses.set(id, {"seconds": seconds})
        wait(lambda g=gen: any(h.gen >= g and h.is_rough for h in watched))
        assert session.view()["analyses"][id]["state"] == "running"
    settled(session, id)
    assert (array(session, f"a/{id}/value") == 1).all()
    # cancelled at any moment it says so, and guesses nothing any more
    for pause in (0.0, 0.05, 0.3):
        session.analyses.set(id, {"seconds": 0.02 + pause / 1e3})
        time.sleep(pause)
        session.cancel()
        wait(lambda: not session.runner.running and session.view()["analyses"][id]["state"] in ("incomplete", "done"))
    session.run()
    settled(session, id)
    assert (array(session, f"a/{id}/value") == 1).all()
