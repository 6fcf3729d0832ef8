"""The only place where results change: partial results are combined along one fixed binary tree over partition numbers.

Neighbours are merged as soon as both are there, so that a sum waits for at most log2(n) others, and the order of
additions depends on partition numbers only: one plan gives the same bits on every executor and every time.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from libstream.contracts.udf import UDF
from libstream.errors import UDFError
from libstream.model.output import Output
from libstream.model.partial import PROCESSED, Partial, RaggedPart
from libstream.run.buffers import reused

_Arr = np.ndarray[Any, Any]
Key = tuple[str, str]


class Merger:
    """Combines accumulators and placed rows of two neighbours.

    failed: where given, a UDF whose merge raises is noted there (key: message) and left out; else the error is raised.
    """

    def __init__(self, udfs: Mapping[str, tuple[UDF, Mapping[str, Output]]], failed: dict[str, str] | None = None) -> None:
        self.udfs, self.failed = udfs, failed

    def combine(self, left: Partial, right: Partial) -> Partial:
        """One Partial for two neighbours; `left` has the smaller partition numbers. Neither is changed."""
        if right.number != left.number + left.span:
            raise ValueError(f"partials are not neighbours in order: {left.number}+{left.span}, {right.number}")
        seconds = {k: left.seconds.get(k, 0.0) + right.seconds.get(k, 0.0) for k in {**left.seconds, **right.seconds}}
        return Partial(
            left.number,
            right.number + right.span - left.number,
            np.concatenate([left.positions, right.positions]),
            np.concatenate([left.status, right.status]),
            {at: self._joined(at, left, right) for at in {**left.placed, **right.placed}},
            self.pair(_sums(left), _sums(right)) or {},
            seconds,
            left.failures + right.failures,
        )

    def _joined(self, at: Key, left: Partial, right: Partial) -> Any:
        """Placed rows of both; a side in which the UDF has failed has those of an empty result."""
        a: Any = left.placed.get(at)
        b: Any = right.placed.get(at)
        if a is None or b is None:
            some, n = (b, _n_good(left)) if a is None else (a, _n_good(right))
            if isinstance(some, RaggedPart):
                none: Any = RaggedPart(some.values[:0], np.zeros(n, some.counts.dtype))
            else:
                none = np.full((n, *some.shape[1:]), self.udfs[at[0]][1][at[1]].fill_value, some.dtype)
            a, b = (none, b) if a is None else (a, none)
        if isinstance(a, RaggedPart):
            return RaggedPart(np.concatenate([a.values, b.values]), np.concatenate([a.counts, b.counts]))
        return np.concatenate([a, b])

    def pair(self, left: Mapping[Key, _Arr], right: Mapping[Key, _Arr], *, into_left: bool = False) -> Mapping[Key, _Arr]:
        """Merged accumulators of two neighbours; an empty mapping stands for partitions in which no frame was processed."""
        return self.reduced(left, right, into_left=into_left) if left and right else left or right

    def reduced(self, left: Mapping[Key, _Arr], right: Mapping[Key, _Arr], *, into_left: bool = False) -> dict[Key, _Arr]:
        """Merged accumulators of two neighbours, both of which saw frames. into_left: the arrays of `left` may be overwritten."""
        out: dict[Key, _Arr] = {}
        for key, (udf, outputs) in self.udfs.items():
            names = [n for n, o in outputs.items() if o.kind in ("sig", "single")]
            if not names:
                continue
            sides = [side for side in (left, right) if (key, names[0]) in side]
            if len(sides) < 2:  # a UDF that has failed in the other
                out.update({(key, n): sides[0][key, n] for n in names if sides})
                continue
            try:
                out.update(_pair_of(key, udf, outputs, names, left, right, into_left))
            except UDFError as exc:
                if self.failed is None:
                    raise
                self.failed.setdefault(key, str(exc))
        return out


def _pair_of(
    key: str,
    udf: UDF,
    outputs: Mapping[str, Output],
    names: list[str],
    left: Mapping[Key, _Arr],
    right: Mapping[Key, _Arr],
    into_left: bool,
) -> dict[Key, _Arr]:
    """Merged accumulators of one UDF."""
    out: dict[Key, _Arr] = {}
    custom = [n for n in names if outputs[n].merge == "custom"]
    for name in names:
        a, b = left[key, name], right[key, name]
        out[key, name] = a.copy() if name in custom else _merged(outputs[name], a, b, key, name, into_left)
    if custom:
        into = SimpleNamespace(**{n: out[key, n] for n in names})
        part = SimpleNamespace(**{n: _read_only(right[key, n]) for n in names})
        try:
            udf.merge(into, part)
        except Exception as exc:
            raise UDFError(f"UDF {key}: merge raised {type(exc).__name__}: {exc}", udf=key, where="merge") from exc
        for n in custom:
            value = np.asarray(getattr(into, n))
            if value.shape != left[key, n].shape:
                raise UDFError(
                    f"UDF {key}: merge made {n} an array of shape {value.shape}, expected {left[key, n].shape}", udf=key, where="merge"
                )
            out[key, n] = value.astype(left[key, n].dtype, copy=False)
    return out


def _merged(o: Output, a: _Arr, b: _Arr, key: str, name: str, into_a: bool) -> _Arr:
    # sums of one partition may be narrower than the output (Output.partial_dtype); fresh arrays cost more than adding
    dtype = np.result_type(a, b, o.dtype)
    out = a if into_a and a.dtype == dtype and a.flags.writeable else reused(a.shape, dtype)
    if o.merge in ("max", "min"):
        return (np.maximum if o.merge == "max" else np.minimum)(a, b, out=out)
    total = np.add(a, b, out=out, dtype=dtype)  # from here on `a` may be gone
    wrapped: Any = False
    if total.dtype.kind == "u":
        wrapped = (total < b).any()
    elif total.dtype.kind == "i":
        wrapped = (((total - b >= 0) == (b >= 0)) & ((total >= 0) != (b >= 0))).any()
    if wrapped:
        raise UDFError(
            f"UDF {key}: output {name} overflows its dtype {total.dtype} when partial sums are added; declare a wider dtype "
            "(uint64, float64)",
            udf=key,
            where="merge",
        )
    return total


def _read_only(array: _Arr) -> _Arr:
    view = np.asarray(array).view()
    view.setflags(write=False)
    return view


def _n_good(partial: Partial) -> int:
    return int(np.count_nonzero(partial.status == PROCESSED))


def _sums(partial: Partial) -> Mapping[Key, _Arr]:
    """Its accumulators, or none where no frame was processed: to add zeros can change the sign of a zero."""
    return partial.reduced if _n_good(partial) else {}


class Tree:
    """The fixed binary tree. A node (level, i) covers partitions [i << level, (i + 1) << level).

    Arrays that are added are not changed; sums that were made here are, as more comes.
    """

    def __init__(self, merger: Merger) -> None:
        self.merger = merger
        self.nodes: dict[tuple[int, int], Mapping[Key, _Arr]] = {}
        self._own: set[tuple[int, int]] = set()

    def add(self, number: int, span: int, reduced: Mapping[Key, _Arr]) -> None:
        """Add the accumulators of a node: one partition, or an aligned power of two of them combined elsewhere.

        `reduced` is empty where no frame was processed in it.
        """
        level = span.bit_length() - 1
        if span != 1 << level or number % span:
            raise ValueError(f"partial of partitions {number} to {number + span} is not a node of the tree")
        for lv, j in self.nodes:
            if number < (j + 1) << lv and j << lv < number + span:
                raise ValueError(f"partition {number} was merged twice")
        i, own = number >> level, False
        while (level, i ^ 1) in self.nodes:
            other, other_own = self.nodes.pop((level, i ^ 1)), (level, i ^ 1) in self._own
            self._own.discard((level, i ^ 1))
            left, right, left_own = (other, reduced, other_own) if i & 1 else (reduced, other, own)
            own = True if left and right else other_own if other else own
            reduced = self.merger.pair(left, right, into_left=left_own)
            level, i = level + 1, i >> 1
        self.nodes[level, i] = reduced
        if own:
            self._own.add((level, i))

    def total(self) -> Mapping[Key, _Arr] | None:
        """Sum of what is there: complete subtrees first, along the same tree, missing partitions left out; None if empty.

        Its arrays are valid until more is added.
        """
        return (self._subtotal(*self._root()) or None) if self.nodes else None

    def _root(self) -> tuple[int, int]:
        last = max((i + 1) << level for level, i in self.nodes) - 1
        return last.bit_length(), 0

    def _subtotal(self, level: int, i: int) -> Mapping[Key, _Arr] | None:
        # only branches that hold nodes are visited: their number is small while partitions arrive roughly in order
        held = self.nodes.get((level, i))
        if held is not None or level == 0:
            return held
        if not any(lv < level and j >> (level - lv) == i for lv, j in self.nodes):
            return None
        a, b = self._subtotal(level - 1, 2 * i), self._subtotal(level - 1, 2 * i + 1)
        if a is None or b is None:
            return b if a is None else a
        return self.merger.pair(a, b)
