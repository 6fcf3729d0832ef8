"""Which finished nodes of the merge tree are merged next, and together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LEVELS = 3
"""Levels of the tree that one task merges: eight neighbours. A task costs a few ms, as much as merging sums of some MB."""
LARGE_BYTES = 16 << 20
"""Sums as large as this are merged by pairs: no more of them wait on the workers than must."""


@dataclass(frozen=True)
class Node:
    """A node (level, i) of the tree on the workers. positions: what an error says of it; parts: what it is merged of."""

    level: int
    i: int
    future: Any
    positions: tuple[int, int]
    parts: tuple[Node, ...] = ()


class Tree:
    """Finished nodes that wait for their neighbours."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int], Node] = {}
        self.levels = LEVELS

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def add(self, *nodes: Node) -> None:
        """They are finished."""
        self._nodes.update({(n.level, n.i): n for n in nodes})

    def take_all(self) -> list[Node]:
        """Whatever there is; none is left."""
        nodes = list(self._nodes.values())
        self._nodes.clear()
        return nodes

    def merged_with(self, node: Node) -> Node | None:
        """The node to be made of `node`, just finished, and all its neighbours, which are taken; None where some are missing: it waits."""
        self.add(node)
        level = (node.level // self.levels + 1) * self.levels
        i = node.i >> (level - node.level)
        parts = self._cover(level, i)
        if parts is None:
            return None
        for part in parts:
            del self._nodes[part.level, part.i]
        return Node(level, i, None, (parts[0].positions[0], parts[-1].positions[1]), tuple(parts))

    def _cover(self, level: int, i: int) -> list[Node] | None:
        """Finished nodes that make up (level, i), in order."""
        if (found := self._nodes.get((level, i))) is not None:
            return [found]
        if level == 0:
            return None
        left = self._cover(level - 1, 2 * i)
        right = None if left is None else self._cover(level - 1, 2 * i + 1)
        return None if left is None or right is None else left + right
