"""Partial results are merged along one fixed tree: any order of arrival and any nesting give the same bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import libstream as ls
from libstream.errors import UDFError
from libstream.model.partial import CORRUPT, PROCESSED, Partial, RaggedPart
from libstream.run.merge import Merger, Tree
from libstream.testing._bench import Bench
from libstream.testing.sources import ScriptedSource

SIG = (2, 3)


class Reductions(ls.UDF):
    def outputs(self) -> dict[str, ls.Output]:
        return {
            "sum": ls.sig("f8"),
            "count": ls.single("u8"),
            "largest": ls.sig("i4", merge="max"),
            "least": ls.single("f4", (2,), merge="min"),
            "product": ls.single("f8", merge="custom"),
            "last": ls.single("i8", merge="custom"),  # not commutative: of the higher partition
        }

    def process_frame(self, frame: Any, out: Any) -> None:
        out.sum += frame
        out.count[...] += 1

    def merge(self, into: Any, part: Any) -> None:
        into.product = into.product * part.product
        into.last = part.last


MERGER = Merger({"u": (Reductions(), Reductions().outputs())})


def reduced(seed: int) -> dict[tuple[str, str], np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        ("u", "sum"): rng.normal(size=SIG) * 10.0 ** rng.integers(-8, 8),
        ("u", "count"): np.array(rng.integers(0, 1000), "u8"),
        ("u", "largest"): rng.integers(-99, 99, SIG, "i4"),
        ("u", "least"): rng.normal(size=2).astype("f4"),
        ("u", "product"): np.array(rng.normal() + 2.0),
        ("u", "last"): np.array(seed),
    }


def reference(present: dict[int, Any], first: int, size: int) -> Any:
    """The fixed tree by its definition: halves of an aligned power of two; what is missing is left out."""
    if size == 1:
        return present.get(first)
    a, b = reference(present, first, size // 2), reference(present, first + size // 2, size // 2)
    if a is None or b is None:
        return b if a is None else a
    return {
        ("u", "sum"): a["u", "sum"] + b["u", "sum"],
        ("u", "count"): a["u", "count"] + b["u", "count"],
        ("u", "largest"): np.maximum(a["u", "largest"], b["u", "largest"]),
        ("u", "least"): np.minimum(a["u", "least"], b["u", "least"]),
        ("u", "product"): a["u", "product"] * b["u", "product"],
        ("u", "last"): b["u", "last"],
    }


def same_bits(a: Any, b: Any) -> bool:
    return all(np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in a)


@given(st.sets(st.integers(0, 40), min_size=1, max_size=24), st.integers(0, 999), st.data())
def test_any_order_and_missing_partitions(numbers: set[int], seed: int, data: Any) -> None:
    present = {i: reduced(i) for i in numbers}
    expected = reference(present, 0, 64)
    tree = Tree(MERGER)
    for i in data.draw(st.permutations(sorted(numbers))):
        tree.add(i, 1, present[i])
        tree.total()  # snapshots on the way change nothing
    assert same_bits(expected, tree.total())


@given(st.integers(1, 33), st.integers(0, 999), st.data())
def test_workers_may_combine_aligned_neighbours(n: int, seed: int, data: Any) -> None:
    def node(first: int, size: int) -> list[tuple[int, int, Any]]:
        """Nodes that cover [first, first + size), combined elsewhere as far as the draw says."""
        if first >= n:
            return []
        if size == 1:
            return [(first, 1, reduced(first))]
        parts = node(first, size // 2) + node(first + size // 2, size // 2)
        if len(parts) == 2 and all(p[1] == size // 2 for p in parts) and data.draw(st.booleans()):
            return [(first, size, MERGER.pair(parts[0][2], parts[1][2]))]
        return parts

    nodes = node(0, 64)
    tree = Tree(MERGER)
    for i in data.draw(st.permutations(range(len(nodes)))):
        tree.add(*nodes[i])
    assert same_bits(reference({i: reduced(i) for i in range(n)}, 0, 64), tree.total())


def test_few_sums_wait_while_partitions_arrive_in_order() -> None:
    tree = Tree(MERGER)
    for i in range(1000):
        tree.add(i, 1, reduced(i))
        assert len(tree.nodes) <= 10


def test_nothing_is_no_total() -> None:
    assert Tree(MERGER).total() is None


def test_an_empty_partition_merges_as_nothing() -> None:
    tree = Tree(MERGER)
    for i, part in enumerate([{}, reduced(1), reduced(2), {}, {}]):
        tree.add(i, 1, part)
    assert same_bits(reference({1: reduced(1), 2: reduced(2)}, 0, 8), tree.total())
    only = Tree(MERGER)
    only.add(3, 1, {})
    assert only.total() is None


@pytest.mark.parametrize(
    ("before", "again"),
    [([0], (0, 1)), ([0, 1], (0, 1)), ([0, 1], (1, 1)), ([0, 1, 2, 3], (2, 1)), ([0, 1, 2, 3], (0, 4)), ([1], (0, 2)), ([5], (4, 4))],
)  # fmt: skip
def test_a_partition_is_merged_once(before: list[int], again: tuple[int, int]) -> None:
    tree = Tree(MERGER)
    for i in before:
        tree.add(i, 1, reduced(i))
    total = tree.total()
    with pytest.raises(ValueError, match=f"partition {again[0]} was merged twice"):
        tree.add(*again, reduced(7))
    assert same_bits(total, tree.total())


@pytest.mark.parametrize(("number", "span"), [(1, 2), (2, 4), (0, 3), (0, 6)])
def test_only_nodes_of_the_tree_are_taken(number: int, span: int) -> None:
    with pytest.raises(ValueError, match="not a node of the tree"):
        Tree(MERGER).add(number, span, reduced(0))


def test_totals_do_not_share_memory_with_later_ones() -> None:
    tree = Tree(MERGER)
    for i in (0, 1, 2):
        tree.add(i, 1, reduced(i))
    first = tree.total()
    before = {k: np.array(v) for k, v in first.items()}
    tree.add(3, 1, reduced(3))
    tree.total()
    assert same_bits(before, first)


@pytest.mark.parametrize("order", [range(8), reversed(range(8)), [3, 1, 0, 7, 2, 6, 4, 5]])
def test_arrays_that_were_handed_in_are_not_changed(order: Any) -> None:
    """A worker that is asked for a partition again, or a snapshot, may still hold them."""
    handed, tree = {i: reduced(i) for i in range(8)}, Tree(MERGER)
    for i in order:
        tree.add(i, 1, handed[i])
    assert all(same_bits(reduced(i), handed[i]) for i in range(8))


def test_sums_of_a_run_that_goes_on_are_not_those_of_its_snapshots() -> None:
    """Sums are merged in place: what a snapshot shows is a copy."""
    udf = Reductions()
    frames = np.ones((16, *SIG))
    bench = Bench(udf, ScriptedSource(frames))
    collector, results = bench.bound.collector(), []
    for p in bench.cut([1] * 16):
        collector.add(p)
        results.append(collector.result(0, 1, {}, {}, False)["udf"])
    assert [int(r["count"]) for r in results] == list(range(1, 17))
    assert [r["sum"][0, 0] for r in results] == [float(i) for i in range(1, 17)]


# -- pairs -------------------------------------------------------------------------------------------------------------


def partial(number: int, n: int, span: int = 1, bad: int = 0) -> Partial:
    status = np.full(n, PROCESSED, np.uint8)
    status[:bad] = CORRUPT
    good = n - bad
    rng = np.random.default_rng(number)
    counts = rng.integers(0, 3, good)
    placed = {("u", "nav"): rng.random(good), ("u", "events"): RaggedPart(rng.random(counts.sum()), counts)}
    return Partial(number, span, np.arange(n) + 100 * number, status, placed, reduced(number), {"read": 1.0, f"udf:{number}": 2.0})


def test_combine_joins_neighbours() -> None:
    a, b = partial(4, 3, bad=1), partial(5, 2)
    before = [np.array(v) for p in (a, b) for v in p.reduced.values()]
    c = MERGER.combine(a, b)
    assert (c.number, c.span) == (4, 2)
    assert c.positions.tolist() == [400, 401, 402, 500, 501]
    assert c.status.tolist() == [CORRUPT, PROCESSED, PROCESSED, PROCESSED, PROCESSED]
    assert c.placed["u", "nav"].tolist() == [*a.placed["u", "nav"], *b.placed["u", "nav"]]
    assert c.placed["u", "events"].counts.tolist() == [*a.placed["u", "events"].counts, *b.placed["u", "events"].counts]
    assert c.placed["u", "events"].values.tolist() == [*a.placed["u", "events"].values, *b.placed["u", "events"].values]
    assert c.seconds == {"read": 2.0, "udf:4": 2.0, "udf:5": 2.0}
    assert [np.array(v).tolist() for p in (a, b) for v in p.reduced.values()] == [v.tolist() for v in before], "inputs are not changed"


@pytest.mark.parametrize(("a", "b"), [(5, 4), (4, 4), (4, 6), (0, 3)])
def test_only_neighbours_in_order_are_combined(a: int, b: int) -> None:
    with pytest.raises(ValueError, match="not neighbours in order"):
        MERGER.combine(partial(a, 2), partial(b, 2))


@pytest.mark.parametrize(
    ("dtype", "a", "b"),
    [("u1", 200, 56), ("u8", 2**63, 2**63), ("i4", 2**30, 2**30), ("i4", -(2**30), -(2**30) - 1), ("i8", 2**62, 2**62), ("u2", 65535, 1)],
)
def test_integer_sums_that_overflow_are_an_error(dtype: str, a: int, b: int) -> None:
    class Total(ls.UDF):
        def outputs(self) -> dict[str, ls.Output]:
            return {"total": ls.single(dtype, (2,))}

        def process_frame(self, frame: Any, out: Any) -> None: ...

    merger = Merger({"adf": (Total(), Total().outputs())})
    parts = [{("adf", "total"): np.array([1, v], dtype)} for v in (a, b)]
    with pytest.raises(UDFError, match=f"UDF adf: output total overflows its dtype {np.dtype(dtype)}.* declare a wider dtype") as caught:
        merger.reduced(*parts)
    assert (caught.value.udf, caught.value.where) == ("adf", "merge")


@pytest.mark.parametrize(
    ("dtype", "a", "b"), [("u1", 200, 55), ("i4", 2**30, 2**30 - 1), ("i4", -(2**30), -(2**30)), ("i4", -5, 2**31 - 1)]
)
def test_sums_up_to_the_limit_are_no_error(dtype: str, a: int, b: int) -> None:
    class Total(ls.UDF):
        def outputs(self) -> dict[str, ls.Output]:
            return {"total": ls.single(dtype)}

        def process_frame(self, frame: Any, out: Any) -> None: ...

    merger = Merger({"u": (Total(), Total().outputs())})
    out = merger.reduced({("u", "total"): np.array(a, dtype)}, {("u", "total"): np.array(b, dtype)})
    assert int(out["u", "total"]) == a + b


class Custom(ls.UDF):
    how: str

    def outputs(self) -> dict[str, ls.Output]:
        return {"a": ls.single("f8", (3,), merge="custom"), "n": ls.single("i8")}

    def process_frame(self, frame: Any, out: Any) -> None: ...

    def merge(self, into: Any, part: Any) -> None:
        if self.how == "raises":
            raise KeyError("gone")
        if self.how == "shape":
            into.a = np.zeros(4)
        elif self.how == "changes part":
            part.a[...] = 0.0
        elif self.how == "in place":
            into.a += part.a
        else:
            into.a = part.a


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises", "UDF c: merge raised KeyError: 'gone'"),
        ("shape", r"UDF c: merge made a an array of shape \(4,\), expected \(3,\)"),
        ("changes part", "UDF c: merge raised ValueError.*read-only"),
    ],
)
def test_a_merge_that_fails(how: str, says: str) -> None:
    merger = Merger({"c": (Custom(how=how), Custom(how=how).outputs())})
    part = {("c", "a"): np.ones(3), ("c", "n"): np.array(1)}
    with pytest.raises(UDFError, match=says):
        merger.reduced(part, part)


@pytest.mark.parametrize(("how", "expected"), [("in place", 3.0), ("takes over", 2.0)])
def test_a_merge_changes_neither_side(how: str, expected: float) -> None:
    merger = Merger({"c": (Custom(how=how), Custom(how=how).outputs())})
    left, right = ({("c", "a"): np.full(3, v), ("c", "n"): np.array(1)} for v in (1.0, 2.0))
    out = merger.reduced(left, right)
    assert out["c", "a"].tolist() == [expected] * 3
    assert out["c", "n"] == 2
    assert (left["c", "a"].tolist(), right["c", "a"].tolist()) == ([1.0] * 3, [2.0] * 3)


class Placed(ls.UDF):
    def outputs(self) -> dict[str, ls.Output]:
        return {"nav": ls.nav("f8"), "events": ls.ragged("f8"), "sum": ls.single("f8")}

    def process_frame(self, frame: Any, out: Any) -> None: ...


@given(st.lists(st.booleans(), min_size=4, max_size=4), st.integers(0, 2))
def test_a_udf_that_failed_on_one_side_keeps_what_it_had(failed: list[bool], bad: int) -> None:
    """As if nothing had been combined: its rows of the other side stay, those of the failed one are empty."""
    udfs = {k: (Placed(), Placed().outputs()) for k in ("u", "v")}
    merger = Merger(udfs)
    parts = []
    for number, fails in enumerate(failed):
        p = partial(number, 3, bad=bad)
        there = ["u"] if fails else ["u", "v"]
        placed = {(k, n): v for k in there for (_, n), v in p.placed.items()}
        sums = {(k, "sum"): np.array(1.0) for k in there}
        parts.append(replace(p, placed=placed, reduced=sums, failures=(("v", "boo"),) if fails else ()))
    whole = merger.combine(merger.combine(parts[0], parts[1]), merger.combine(parts[2], parts[3]))
    if all(failed):
        assert ("v", "nav") not in whole.placed
        return
    rows = whole.placed["v", "nav"].reshape(4, 3 - bad)
    counts = whole.placed["v", "events"].counts.reshape(4, 3 - bad)
    for number, fails in enumerate(failed):
        original = partial(number, 3, bad=bad)
        assert np.isnan(rows[number]).all() if fails else (rows[number] == original.placed["u", "nav"]).all()
        assert (counts[number] == (0 if fails else original.placed["u", "events"].counts)).all()
    assert len(whole.placed["v", "events"].values) == counts.sum()
    assert whole.reduced["v", "sum"] == 4 - sum(failed)
    assert whole.failures == (("v", "boo"),) * sum(failed)


def test_sums_of_no_frames_are_left_out() -> None:
    """As the collector does: -0.0 + 0.0 has other bits than -0.0."""
    merger = Merger({"u": (Placed(), {"sum": ls.single("f8")})})
    none, some = (Partial(i, 1, np.arange(1), np.array([s], np.uint8), {}, {("u", "sum"): np.array(v)}) for i, s, v in
                  ((0, CORRUPT, 0.0), (1, PROCESSED, -0.0)))  # fmt: skip
    assert np.signbit(merger.combine(none, some).reduced["u", "sum"])
    assert merger.combine(none, replace(none, number=1)).reduced == {}


def test_an_empty_side_of_a_pair() -> None:
    a = partial(0, 2)
    b = replace(
        partial(1, 2, bad=2), placed={("u", "nav"): np.zeros(0), ("u", "events"): RaggedPart(np.zeros(0), np.zeros(0, int))}, reduced={}
    )
    c = MERGER.combine(a, b)
    assert same_bits(a.reduced, c.reduced)
    assert c.positions.tolist() == [0, 1, 100, 101]
