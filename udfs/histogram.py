"""Histogram of pixel values."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from libstream.ext import UDF, Coverage, Kernel, Output, ParameterError, nav, param, single
from libstream.udfs.geometry import frame_shape
from libstream.udfs.kernels.tally import counts_by_edges, counts_by_table, frame_counts_by_edges, frame_counts_by_table


class FrameHistogram(UDF):
    """Histogram of all pixel values of the scan, and of each frame where `per_frame`.

    Bin k counts values v with edges[k] <= v < edges[k + 1]; the last bin includes edges[-1] (as `numpy.histogram`); the edges
    divide [low, high] evenly. Counts are exact; values of 64-bit integers are compared as float64.

    Outputs:

    counts: uint64 (bins,). edges: float64 (bins + 1,).
    outside: uint64 (3,), number of values below low, above high, and not a number.
    frame_counts: uint32 (*scan, bins), counts of each frame; with per_frame only.
    """

    low: float | None = param(None, title="Lowest value", help="default: the smallest value of the detector's dtype")
    high: float | None = param(None, title="Highest value", help="default: the largest value of the detector's dtype, and 1")
    bins: int = param(256, ge=1, le=1 << 16, title="Number of bins")
    per_frame: bool = param(False, title="Histogram of each frame")

    process_tile = counts_by_table

    def hook(self) -> Kernel:
        by_table = self.meta.dtype.kind in "biu" and self.meta.dtype.itemsize <= 2
        if self.per_frame:
            return frame_counts_by_table if by_table else frame_counts_by_edges
        return counts_by_table if by_table else counts_by_edges

    def _range(self, dtype: np.dtype[Any]) -> tuple[int, int] | None:
        if dtype.kind == "b":
            return 0, 1
        return (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) if dtype.kind in "iu" else None

    @functools.cached_property
    def edges(self) -> Any:
        """Limits of the bins; float64 (bins + 1,)."""
        frame_shape(self)
        whole = self._range(self.meta.source_dtype)
        if whole is None and (self.low is None or self.high is None):
            raise ParameterError(
                f"FrameHistogram: frames of {self.meta.source_dtype} have no natural range, give low and high "
                f"(got low={self.low}, high={self.high})"
            )
        low = float(self.low if self.low is not None else whole[0])  # type: ignore[index]
        high = float(self.high if self.high is not None else whole[1] + 1)  # type: ignore[index]
        if not (math.isfinite(low) and math.isfinite(high) and high > low):
            raise ParameterError(f"FrameHistogram: high must be above low, and both finite; got low={low:g}, high={high:g}")
        edges = np.linspace(low, high, self.bins + 1)
        if not (np.diff(edges) > 0).all():
            raise ParameterError(
                f"FrameHistogram: {self.bins} bins between {low!r} and {high!r} are narrower than float64 can tell apart; use fewer"
            )
        return edges

    @functools.cached_property
    def lowest(self) -> int:
        """Value of the first entry of `table`."""
        whole = self._range(self.meta.dtype)
        return whole[0] if whole is not None else 0

    @functools.cached_property
    def table(self) -> Any:
        """Slot of each possible value of a narrow integer dtype: 0 below, 1 to bins, bins + 1 above; int32."""
        low, high = self._range(self.meta.dtype) or (0, 0)
        values = np.arange(low, high + 1, dtype=np.float64)
        slot = np.searchsorted(self.edges, values, side="right")
        slot[values == self.edges[-1]] = self.bins
        return slot.astype(np.int32)

    def outputs(self) -> Mapping[str, Output]:
        n = len(self.edges) - 1
        out = {
            "counts": single("u8", (n,), axes=("bin",), title="Histogram"),
            "edges": single("f8", (n + 1,), axes=("edge",), derived=True, title="Limits of the bins"),
            "outside": single("u8", (3,), axes=("below_above_nan",), title="Values outside"),
        }
        if self.per_frame:
            out["frame_counts"] = nav("u4", (n,), axes=("bin",), title="Histogram of each frame")
        return out

    def finish(self, results: dict[str, Any], coverage: Coverage) -> Mapping[str, Any]:
        return {"edges": self.edges}
