"""One UDF on a bench: any cut, order, nesting and tile, without an executor; and the comparison of what comes out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np

from libstream.contracts.executor import CancelFlag, Traits
from libstream.contracts.source import FrameSource, Partition
from libstream.contracts.udf import UDF
from libstream.model.output import Output
from libstream.model.partial import Partial, RaggedPart
from libstream.model.ragged import Ragged
from libstream.model.result import Result
from libstream.plan import plan
from libstream.plan.plan import Tiling
from libstream.plan.roi import cut_runs
from libstream.run.bind import bind
from libstream.run.calls import Call
from libstream.run.collect import Collector

_Arr = np.ndarray[Any, Any]
KEY = "udf"


class Bench:
    """`udf` bound to `source`, in tiles of `depth` frames and `rows` rows (None = as planned)."""

    def __init__(self, udf: UDF, source: FrameSource, *, depth: int | None = None, rows: int | None = None, roi: Any = None) -> None:
        given = plan.tile_of

        def tile_of(sig: tuple[int, ...], itemsize: int, needs: Any) -> tuple[Tiling, str]:
            tiling, why = given(sig, itemsize, needs)
            return replace(tiling, depth=depth or tiling.depth, rows=rows or tiling.rows), why

        with mock.patch.object(plan, "tile_of", tile_of):
            self.bound = bind(source, {KEY: udf}, roi=roi, traits=Traits(n_workers=1, crosses_process=False))
        self.n = self.bound.plan.n_selected
        # accumulators that are wide enough for all frames in one partition
        self.work = replace(self.bound.work, partition_frames=max(1, self.n), _made={})
        self.work.setup()

    @property
    def udf(self) -> UDF:
        """The bound UDF."""
        return self.bound.udfs[KEY]

    @property
    def outputs(self) -> Mapping[str, Output]:
        """What it declares."""
        return self.udf.outputs()

    @property
    def call(self) -> Call:
        """How its hook is called."""
        call: Call = self.work._made["calls"][KEY]
        return call

    def partial(self, partition: Partition) -> Partial:
        """One partition through the tile loop."""
        return self.work.process(partition, CancelFlag())

    def cut(self, sizes: Sequence[int]) -> list[Partial]:
        """Partial results of partitions of these sizes, and of one more with the rest."""
        sizes = [*sizes, max(0, self.n - sum(sizes))]
        return [self.partial(Partition(i, runs)) for i, runs in enumerate(cut_runs(self.bound.plan.runs, [s for s in sizes if s]))]

    def collected(self, partials: Sequence[Partial]) -> Collector:
        """Partial results merged in the order in which they are given."""
        out = self.bound.collector()
        for p in partials:
            out.add(p)
        return out

    def merged(self, partials: Sequence[Partial]) -> dict[str, Any]:
        """Arrays by output name, before `finish`; private outputs too."""
        return self.collected(partials).merged(KEY)[0]

    def result(self, partials: Sequence[Partial]) -> Result:
        """The final result."""
        return self.collected(partials).result(0, 1, {}, {}, True)

    def twin(self, frames: _Arr) -> dict[str, Any]:
        """What the plain function of a kernel makes of frames (n, *sig), as `merged` would hold it: rows by frame, accumulators.

        The function gets frames as int64 or float64, because Python does not widen small integers as compiled code does.
        """
        call, n = self.call, len(frames)
        wide = frames.astype(_widened(frames.dtype))
        wide.setflags(write=False)
        state = call.begin(n)
        index = np.arange(n, dtype=np.int64)
        records: list[_Arr] = []
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # scalars that overflow; the comparison tells
            values = dict(zip((a.name for a in call.args), call.kernel_values(state, index), strict=True))
            values.update({a.name: index if a.kind == "index" else 0 for a in call.args if a.kind in ("index", "row0")})
            if call.kind == "process_tile":
                call.hook(wide, *(values[a.name] for a in call.args))
            for i in range(n) if call.kind == "process_frame" else ():
                records.append(self._twin_frame(wide[i], i, values))
        placed, reduced = call.end(state)
        for name, value in placed.items():
            if isinstance(value, RaggedPart):
                counts = np.array([len(r) for r in records], np.int64)
                placed[name] = RaggedPart(np.concatenate(records) if records else value.values[:0], counts)
        return {**placed, **reduced}

    def _twin_frame(self, frame: _Arr, i: int, values: Mapping[str, Any]) -> _Arr:
        call, room = self.call, 64
        arena = np.zeros((0,), np.int8)
        rows = {a.name: values[a.name][i] if a.kind in ("nav", "aux", "index") else values[a.name] for a in call.args}
        while True:
            if call.ragged:
                o = call.outputs[call.ragged]
                rows[call.ragged] = arena = np.empty((room, *o.extra), o.dtype)
            n = call.hook(frame, *(rows[a.name] for a in call.args))
            if not call.ragged:
                return arena
            if n <= room:
                return arena[:n]
            room = int(n)
            for a in call.args:
                if a.kind == "nav":
                    rows[a.name][...] = call.outputs[a.name].init_value


def _widened(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind in "iu" and dtype != np.uint64:
        return np.dtype(np.int64)
    return np.dtype(np.float64) if dtype.kind == "f" else dtype


def differ(name: str, a: Any, b: Any, rtol: float) -> str:
    """How `b` differs from `a` in words, "" where it does not. rtol: of the largest magnitude in `a`; 0 = the same bits."""
    if isinstance(a, (Ragged, RaggedPart)):
        where = differ(f"{name}: records", a.values, b.values, 0.0)
        return where or differ(f"{name}: number of records", np.diff(a.offsets) if isinstance(a, Ragged) else a.counts,
                               np.diff(b.offsets) if isinstance(b, Ragged) else b.counts, 0.0)  # fmt: skip
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{name} is {b.shape} {b.dtype}, expected {a.shape} {a.dtype}"
    if a.tobytes() == b.tobytes():
        return ""
    if a.dtype.names is None and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"):
        return ""  # 0.0 and -0.0, or other bits of NaN
    if rtol == 0.0 or a.dtype.kind not in "fc":
        same = (a == b) if a.dtype.names is not None else (a == b) | ((a != a) & (b != b))
        at = tuple(int(i) for i in np.argwhere(~np.asarray(same))[0]) if a.ndim else ()
        return f"{name}{list(at)} is {b[at]}, expected {a[at]} (the same bits)"
    if a.dtype.itemsize <= (8 if a.dtype.kind == "c" else 4):
        rtol = max(rtol, 1e-5)
    finite = np.isfinite(a)
    scale = float(np.abs(a[finite]).max()) if finite.any() else 0.0
    with np.errstate(invalid="ignore"):
        close = (np.abs(a - b) <= rtol * scale) | (a == b) | (np.isnan(a) & np.isnan(b))
    if close.all():
        return ""
    at = tuple(int(i) for i in np.argwhere(~close)[0]) if a.ndim else ()
    return f"{name}{list(at)} is {b[at]!r}, expected {a[at]!r} (to {rtol:g} of {scale:g})"
