"""A first look at a UDF: one run, one merge, and what came out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from libstream.contracts.source import FrameSource
from libstream.contracts.udf import UDF
from libstream.model.ragged import Ragged
from libstream.model.result import Result
from libstream.testing._bench import KEY, Bench, differ

RTOL = 1e-9
TIMED_S = 0.2
"""The tile loop is repeated for so long to find its speed."""


def check(udf: UDF, frames: Any) -> Result:
    """Run `udf` over a few frames, in one partition and in two merged ones; print shapes, dtypes, values and GB/s.

    frames: array (*scan, *frame), or a source. Everything runs in this thread, so that a debugger stops in the UDF.
    Returns the result. Raises what the run raises, and AssertionError where the merged halves differ from the whole.
    """
    from libstream.api import open as open_frames
    from libstream.api import run

    source = frames if isinstance(frames, FrameSource) else open_frames(frames)
    meta = source.meta
    name = type(udf).__name__
    print(f"{name} on {meta.shape} {meta.dtype}, {meta.n_bytes / 1e6:.3g} MB")
    result = run(source, {KEY: udf}, executor="inline")
    for output, value in result[KEY].items():
        print(f"  {output}: {_described(value, result[KEY].declared[output].unit)}")
    bench = Bench(udf, source)
    if bench.n > 1:
        whole, halves = bench.result(bench.cut([])), bench.result(bench.cut([bench.n // 2]))
        wrong = [w for output, value in whole[KEY].items() if (w := differ(output, value, halves[KEY][output], RTOL))]
        if wrong:
            raise AssertionError(f"{name}: two halves, merged, differ from the whole: {'; '.join(wrong)}")
        print(f"  two halves of {bench.n // 2} and {bench.n - bench.n // 2} frames, merged: the same")
    begun, n = time.perf_counter(), 0
    while (seconds := time.perf_counter() - begun) < TIMED_S:
        bench.cut([])
        n += 1
    rate = n / seconds
    print(f"  {rate * meta.n_bytes / 1e9:.3g} GB/s, {rate * meta.shape.n_positions:.3g} frames/s in one thread, frames in memory")
    return result


def _described(value: Any, unit: str) -> str:
    if isinstance(value, Ragged):
        counts = value.counts
        return f"{len(value.values)} records of {value.dtype}, {counts.min(initial=0)} to {counts.max(initial=0)} a frame"
    text = f"{value.shape} {value.dtype}{f' [{unit}]' if unit else ''}"
    if not value.size or value.dtype.names is not None:
        return text
    numbers = np.abs(value) if value.dtype.kind == "c" else value.astype("f8") if value.dtype.kind != "f" else value
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return f"{text}, no finite value"
    rest = f", {numbers.size - finite.size} not finite" if finite.size < numbers.size else ""
    what = "magnitude " if value.dtype.kind == "c" else ""
    return f"{text}, {what}{finite.min():.6g} to {finite.max():.6g}, mean {finite.mean():.6g}{rest}"
