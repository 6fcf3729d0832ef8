"""Nodes of the merge tree on a cluster: each is merged once, with its true neighbours, as soon as all of them are there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from libstream.executors._dask_tree import Node, Tree


@st.composite
def tasks(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Tasks (level, i) that cover the partitions from 0 on, as the executor cuts them: any aligned power of two."""
    out, number = [], 0
    for _ in range(draw(st.integers(1, 60))):
        level = draw(st.integers(0, 6))
        while number % (1 << level):
            level -= 1
        out.append((level, number >> level))
        number += 1 << level
    return draw(st.permutations(out))


def covered(node: Node) -> list[int]:
    return list(range(node.i << node.level, (node.i + 1) << node.level))


@given(tasks(), st.sampled_from([1, 3]))
def test_what_is_merged_lies_side_by_side(order: list[tuple[int, int]], levels: int) -> None:
    tree = Tree()
    tree.levels = levels
    todo = [Node(level, i, None, (0, 0)) for level, i in order]
    while todo:
        merged = tree.merged_with(todo.pop(0))
        if merged is not None:
            assert [p for part in merged.parts for p in covered(part)] == covered(merged)
            assert 2 <= len(merged.parts) <= 1 << levels
            todo.append(merged)
    left = tree.take_all()
    assert not len(tree)
    assert sorted(p for n in left for p in covered(n)) == sorted(p for level, i in order for p in covered(Node(level, i, None, (0, 0))))
    there = {(n.level, n.i) for n in left}
    assert levels > 1 or not any((level, i ^ 1) in there for level, i in there), "two neighbours were left apart"


def test_eight_neighbours_are_one_task() -> None:
    tree = Tree()
    made = [tree.merged_with(Node(0, i, f"f{i}", (i, i))) for i in (3, 0, 1, 7, 6, 5, 4, 2)]
    assert made[:-1] == [None] * 7
    assert made[-1] is not None
    assert (made[-1].level, made[-1].i, made[-1].positions) == (3, 0, (0, 7))
    assert [p.future for p in made[-1].parts] == [f"f{i}" for i in range(8)]
