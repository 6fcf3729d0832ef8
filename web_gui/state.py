"""The one shared state, versioned: a snapshot for who comes, patches for who is there. Pure."""

from __future__ import annotations

from collections import deque
from typing import Any

KEPT = 256
"""Patches that are remembered; who is further behind gets a snapshot."""


class SharedState:
    """JSON with a version. Used by the event loop only."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}
        self.version = 0
        self._patches: deque[tuple[int, list[list[Any]]]] = deque(maxlen=KEPT)

    def update(self, value: dict[str, Any]) -> bool:
        """Take a new state; False where it is the old one. The value is kept: it must not be changed afterwards."""
        ops = difference(self.value, value)
        if not ops:
            return False
        self.version += 1
        self.value = value
        self._patches.append((self.version, ops))
        return True

    def since(self, version: int) -> list[tuple[int, list[list[Any]]]] | None:
        """Patches after `version`, oldest first; None where some are forgotten."""
        if version == self.version:
            return []
        found = [p for p in self._patches if p[0] > version]
        return found if found and found[0][0] == version + 1 else None


def difference(old: Any, new: Any, path: tuple[str, ...] = ()) -> list[list[Any]]:
    """["set", path, value] and ["del", path] that make `new` of `old`. Objects are compared key by key, lists as a whole."""
    if old is new:
        return []
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if _same(old, new) else [["set", list(path), new]]
    ops: list[list[Any]] = [["del", [*path, k]] for k in old if k not in new]
    for key, value in new.items():
        if key not in old:
            ops.append(["set", [*path, key], value])
        else:
            ops += difference(old[key], value, (*path, key))
    return ops


def applied(state: dict[str, Any], ops: list[list[Any]]) -> dict[str, Any]:
    """What a page makes of patches: the twin of store.js, for tests and scripts. `state` is not changed."""
    import copy

    out = copy.deepcopy(state)
    for op in ops:
        *parents, last = op[1]
        node = out
        for key in parents:
            node = node[key]
        if op[0] == "set":
            node[last] = copy.deepcopy(op[2])
        else:
            del node[last]
    return out


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 is 1.0 and not true."""
    if a is b:  # most of a state is
        return True
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)
