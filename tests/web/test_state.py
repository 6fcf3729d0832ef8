"""Patches make the new state of the old one."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from libstream.web_gui.state import KEPT, SharedState, applied, difference

LEAF = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.text("ab", max_size=2), st.lists(st.integers(0, 2), max_size=2))
TREE = st.dictionaries(
    st.text("abc", min_size=1, max_size=2), st.recursive(LEAF, lambda x: st.dictionaries(st.text("abc", max_size=1), x, max_size=3))
)


@given(TREE, TREE)
def test_a_patch_leads_from_one_state_to_the_other(old: dict, new: dict) -> None:
    ops = difference(old, new)
    got = applied(old, ops)
    assert got == new
    assert json.dumps(got, sort_keys=True) == json.dumps(new, sort_keys=True)  # True is not 1
    assert difference(new, new) == []


def test_who_is_behind_gets_what_it_missed() -> None:
    state = SharedState()
    assert state.update({"a": 1})
    assert not state.update({"a": 1})
    assert state.update({"a": 2, "b": {"c": 1}})
    assert [v for v, _ in state.since(0)] == [1, 2]
    assert state.since(2) == []
    for i in range(KEPT + 1):
        state.update({"a": i + 10})
    assert state.since(1) is None
    assert len(state.since(state.version - 3)) == 3
