"""Versioned arrays: whoever takes the changed rows has the array."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.jobs.outputs import OutputInfo
from libstream.jobs.store import LOG_LENGTH, Store

INFO = OutputInfo("x", "nav", "image", (6, 4), np.dtype(float), ())


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.floats(allow_nan=True)), max_size=12), st.lists(st.booleans(), max_size=12)
)
@settings(max_examples=100)
def test_taking_changed_rows_gives_the_newest_array(writes: list[tuple[int, int, float]], looks: list[bool]) -> None:
    store = Store()
    array, seen = np.full((6, 4), np.nan), np.zeros((6, 4), bool)
    store.put("a/x/y", array.copy(), seen.copy(), 1, False, 0, INFO)
    held = store.get("a/x/y")
    mine, version = held.array.copy(), held.version
    for (y, x, value), look in zip(writes, [*looks, *[True] * 12], strict=False):
        array[y, x], seen[y, x] = value, True
        store.put("a/x/y", array.copy(), seen.copy(), 1, False, 0, INFO)
        if look:
            held = store.get("a/x/y")
            a, b = held.rows_since(version)
            mine[a:b], version = held.array[a:b], held.version
            assert np.array_equal(mine, array, equal_nan=True)


def test_nothing_changed_is_no_version_and_older_generations_are_refused() -> None:
    store = Store()
    array = np.zeros((6, 4))
    assert store.put("t", array, None, 2, False, 0, INFO)
    assert not store.put("t", array.copy(), None, 2, False, 0, INFO)
    assert not store.put("t", array + 1, None, 1, False, 0, INFO)
    assert store.put("t", array.copy(), None, 2, True, 0, INFO)  # it is final now
    assert store.get("t").final


def test_who_is_too_far_behind_gets_all() -> None:
    store = Store()
    array = np.zeros((6, 4))
    store.put("t", array.copy(), None, 1, False, 0, INFO)
    first = store.get("t").version
    for i in range(LOG_LENGTH + 5):
        array[i % 6] += 1
        store.put("t", array.copy(), None, 1, False, 0, INFO)
    held = store.get("t")
    assert held.rows_since(first) is None
    assert held.rows_since(held.version - 1) is not None
    assert held.rows_since(held.version) == (0, 0)


def test_new_parameters_are_a_new_array() -> None:
    store = Store()
    store.put("t", np.zeros((6, 4)), None, 1, True, 0, INFO)
    first = store.get("t").version
    store.put("t", np.zeros((6, 4)), None, 2, True, 0, INFO)
    assert store.get("t").rows_since(first) is None


def test_a_topic_that_comes_back_is_newer() -> None:
    store = Store()
    store.put("t", np.zeros((6, 4)), None, 5, True, 0, INFO)
    before = store.get("t").version
    store.drop("t")
    assert store.get("t") is None
    store.put("t", np.zeros((6, 4)), None, 1, True, 0, INFO)
    assert store.get("t").version > before
    store.move("t", "u")
    assert store.get("t") is None
    assert store.get("u").version > before
