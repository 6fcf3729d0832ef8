"""The growing result: placed rows, the tree of sums, the coverage. Changed by the run's own thread only."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from libstream.contracts.udf import UDF
from libstream.errors import UDFError
from libstream.model.output import Output
from libstream.model.partial import EXCLUDED, MISSING, PROCESSED, UNSEEN, Coverage, Partial
from libstream.model.ragged import Ragged
from libstream.model.result import Outputs, Result
from libstream.model.source import SourceMeta
from libstream.run.merge import Merger, Tree

_Arr = np.ndarray[Any, Any]


class Collector:
    """Everything merged so far, of one generation.

    udfs: bound UDFs by key; metas: description of the channel each one reads.
    mask: region of interest; missing: flat bool, wanted positions without a frame.
    keeps_going: a UDF that fails is noted in `failures` (key: message) and keeps what it had; the others go on.
    """

    def __init__(
        self,
        udfs: Mapping[str, UDF],
        metas: Mapping[str, SourceMeta],
        nav: tuple[int, ...],
        mask: _Arr | None,
        missing: _Arr,
        keeps_going: bool = False,
    ) -> None:
        self.udfs, self.metas, self.nav = udfs, metas, nav
        self.declared: dict[str, dict[str, Output]] = {k: dict(u.outputs()) for k, u in udfs.items()}
        worked = {k: (u, {n: o for n, o in self.declared[k].items() if not o.derived}) for k, u in udfs.items()}
        self.keeps_going = keeps_going
        self.failures: dict[str, str] = {}
        self.tree = Tree(Merger(worked, self.failures if keeps_going else None))
        self.n = math.prod(nav)
        self.status = np.full(self.n, UNSEEN, np.uint8)
        if mask is not None:
            self.status[~mask.reshape(-1)] = EXCLUDED
        self.status[missing] = MISSING
        self.navs: dict[tuple[str, str], _Arr] = {}
        self.ragged: dict[tuple[str, str], list[tuple[_Arr, _Arr, _Arr]]] = {}
        for key, (_, outputs) in worked.items():
            for name, o in outputs.items():
                if o.kind == "nav":
                    self.navs[key, name] = np.full((self.n, *o.extra), o.fill_value, o.dtype)
                elif o.kind == "ragged":
                    self.ragged[key, name] = []
        self.seconds: dict[str, float] = {}
        self.n_processed = 0
        self.n_tried = 0
        self.t_data_ns = 0
        self._touched: tuple[int, int] | None = None

    def add(self, partial: Partial) -> None:
        """Merge one partial result."""
        t = time.perf_counter()
        for key, message in partial.failures:
            self.failures.setdefault(key, message)
        rows = partial.positions[partial.status == PROCESSED]
        if (self.status[rows] == PROCESSED).any():
            raise ValueError(f"partition {partial.number}: positions were processed twice")
        for at, value in partial.placed.items():
            if at in self.ragged:
                self.ragged[at].append((rows, value.counts, value.values))
            else:
                self.navs[at][rows] = value
        self.status[partial.positions] = partial.status
        self.tree.add(partial.number, partial.span, partial.reduced if len(rows) else {})
        self.n_processed += len(rows)
        self.n_tried += len(partial.positions)
        self.t_data_ns = time.time_ns()
        if len(partial.positions):
            lo, hi = int(partial.positions.min()), int(partial.positions.max())
            a, b = self._touched or (lo, hi)
            self._touched = (min(a, lo), max(b, hi))
        for name, s in partial.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + s
        self.seconds["merge"] = self.seconds.get("merge", 0.0) + time.perf_counter() - t

    @property
    def changed(self) -> bool:
        """True when something was merged since the last `result()`."""
        return self._touched is not None

    def result(self, generation: int, version: int, run: Mapping[str, Any], params: Mapping[str, _Arr], final: bool) -> Result:
        """A snapshot: copies, read-only."""
        coverage = Coverage(_frozen(self.status.copy().reshape(self.nav)))
        total = self.tree.total() or {}
        outputs: dict[str, Outputs] = {}
        changed: dict[tuple[str, str], tuple[int, int]] = {}
        per_row = max(1, self.n // (self.nav[0] if self.nav else 1))
        touched = self._touched
        self._touched = None
        for key, udf in self.udfs.items():
            meta = self.metas[key]
            arrays = self._arrays(key, total)
            arrays.update(self._derived(key, udf, arrays, coverage))
            shown = {n: _frozen(arrays[n]) for n, o in self.declared[key].items() if not o.private and n in arrays}
            outputs[key] = Outputs(key, shown, self.declared[key], meta.shape, meta.axes)
            if touched is not None:
                changed.update(
                    {(key, n): (touched[0] // per_row, touched[1] // per_row + 1) for n, o in self.declared[key].items() if o.kind == "nav"}
                )
        return Result(outputs, coverage, generation, version, run, params, final, changed)

    def merged(self, key: str) -> tuple[dict[str, Any], Coverage]:
        """Copies of what was merged of one UDF, without derived outputs, and the coverage."""
        return self._arrays(key, self.tree.total() or {}), Coverage(_frozen(self.status.copy().reshape(self.nav)))

    def _arrays(self, key: str, total: Mapping[tuple[str, str], _Arr]) -> dict[str, Any]:
        return {name: self._array(key, name, o, total) for name, o in self.declared[key].items() if not o.derived}

    def _array(self, key: str, name: str, o: Output, total: Mapping[tuple[str, str], _Arr]) -> Any:
        if o.kind == "nav":
            return self.navs[key, name].copy().reshape((*self.nav, *o.extra))
        if o.kind == "ragged":
            return self._ragged(key, name, o)
        if (key, name) in total:
            return np.array(total[key, name], dtype=o.dtype)
        return np.full(o.shape(self.metas[key].shape), o.fill_value, o.dtype)

    def _ragged(self, key: str, name: str, o: Output) -> Ragged:
        counts = np.zeros(self.n, np.int64)
        for rows, n, _ in self.ragged[key, name]:
            counts[rows] = n
        offsets = np.concatenate([[0], np.cumsum(counts)])
        values = np.empty((int(offsets[-1]), *o.extra), o.dtype)
        for rows, n, records in self.ragged[key, name]:
            starts = np.cumsum(n) - n
            values[np.repeat(offsets[rows] - starts, n) + np.arange(len(records))] = records
        return Ragged(values, offsets, self.nav)

    def _derived(self, key: str, udf: UDF, arrays: dict[str, Any], coverage: Coverage) -> dict[str, Any]:
        try:
            return self._finished(key, udf, arrays, coverage)
        except UDFError as exc:
            if not self.keeps_going:
                raise
            self.failures.setdefault(key, str(exc))
            shape = self.metas[key].shape
            return {
                n: np.full(o.shape(shape), o.fill_value, o.dtype) for n, o in self.declared[key].items() if o.derived and o.kind != "ragged"
            }

    def _finished(self, key: str, udf: UDF, arrays: dict[str, Any], coverage: Coverage) -> dict[str, Any]:
        if type(udf).finish is UDF.finish:
            return {}
        try:
            derived = udf.finish(dict(arrays), coverage)
        except Exception as exc:
            raise UDFError(f"UDF {key}: finish raised {type(exc).__name__}: {exc}", udf=key, where="finish") from exc
        out: dict[str, Any] = {}
        for name, value in derived.items():
            o = self.declared[key].get(name)
            if o is None:
                known = ", ".join(self.declared[key])
                raise UDFError(
                    f"UDF {key}: finish returned {name!r}, which outputs() does not declare; it declares {known}", udf=key, where="finish"
                )
            if isinstance(value, Ragged):
                out[name] = value
                continue
            array = np.asarray(value)
            expected = o.shape(self.metas[key].shape)
            if array.shape != expected:
                raise UDFError(f"UDF {key}: finish returned {name} of shape {array.shape}, expected {expected}", udf=key, where="finish")
            if not np.can_cast(array.dtype, o.dtype, "same_kind"):
                raise UDFError(f"UDF {key}: finish returned {name} of dtype {array.dtype}, declared is {o.dtype}", udf=key, where="finish")
            out[name] = array.astype(o.dtype)
        missing = [n for n, o in self.declared[key].items() if o.derived and n not in out]
        if missing:
            raise UDFError(f"UDF {key}: finish did not return {', '.join(missing)}, declared as derived", udf=key, where="finish")
        return out


def _frozen(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.view()
        value.setflags(write=False)
    return value
