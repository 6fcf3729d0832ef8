"""Sums of merged partitions that are made in place are those of the tree, and an overflow is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import libstream as ls
from libstream.errors import UDFError
from libstream.run.merge import Merger, Tree


def same_bits(a: Any, b: Any) -> bool:
    return all(np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in a)


class Sums(ls.UDF):
    """Integers of which one partition may keep narrow sums; large enough that memory is used again."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"a": ls.sig("u8"), "b": ls.sig("i8"), "c": ls.sig("f8"), "d": ls.sig("u2", merge="max")}

    def process_frame(self, frame: Any, out: Any) -> None: ...


LARGE = (128, 128)


def sums(seed: int, dtype: str) -> dict[tuple[str, str], np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        ("u", "a"): rng.integers(0, 2**32, LARGE, "u8").astype(dtype),
        ("u", "b"): rng.integers(-(2**40), 2**40, LARGE),
        ("u", "c"): rng.normal(size=LARGE) * 10.0 ** rng.integers(-8, 8),
        ("u", "d"): rng.integers(0, 2**16, LARGE, "u2"),
    }


@given(st.integers(1, 20), st.sampled_from(["u4", "u8"]), st.data())
def test_sums_made_in_place_are_those_of_the_tree(n: int, dtype: str, data: Any) -> None:
    given_, kept = [sums(i, dtype) for i in range(n)], [sums(i, dtype) for i in range(n)]
    tree = Tree(Merger({"u": (Sums(), Sums().outputs())}))
    for i in data.draw(st.permutations(range(n))):
        tree.add(i, 1, given_[i])
        if data.draw(st.booleans()):
            tree.total()  # a snapshot changes nothing
    total = tree.total()
    assert total is not None
    assert all(a[k].tobytes() == b[k].tobytes() for a, b in zip(given_, kept, strict=True) for k in a), "what was added is not changed"
    assert same_bits(total, by_definition(dict(enumerate(kept)), 0, 32))
    assert total["u", "a"].dtype == (dtype if n == 1 else "u8")


def by_definition(present: dict[int, Any], first: int, size: int) -> Any:
    if size == 1:
        return present.get(first)
    a, b = by_definition(present, first, size // 2), by_definition(present, first + size // 2, size // 2)
    if a is None or b is None:
        return b if a is None else a
    return {
        ("u", "a"): a["u", "a"].astype("u8") + b["u", "a"],
        ("u", "b"): a["u", "b"] + b["u", "b"],
        ("u", "c"): a["u", "c"] + b["u", "c"],
        ("u", "d"): np.maximum(a["u", "d"], b["u", "d"]),
    }


@pytest.mark.parametrize(("dtype", "large"), [("u8", 2**64 - 1), ("i8", 2**63 - 1), ("i8", -(2**63))])
@pytest.mark.parametrize("shape", [(), (3,), (128, 128)])
@pytest.mark.parametrize("into_left", [False, True])
def test_a_sum_that_overflows_is_refused(dtype: str, large: int, shape: tuple[int, ...], into_left: bool) -> None:
    merger = Merger({"u": (Sums(), {"a": ls.single(dtype, shape) if shape else ls.single(dtype)})})
    a, one = np.zeros(shape, dtype), np.full(shape, np.sign(large), dtype)
    a[...] = large
    with pytest.raises(UDFError, match="output a overflows its dtype"):
        merger.reduced({("u", "a"): a}, {("u", "a"): one}, into_left=into_left)
    a[...] = large - np.sign(large)
    assert (merger.reduced({("u", "a"): a}, {("u", "a"): one}, into_left=into_left)["u", "a"] == large).all()
