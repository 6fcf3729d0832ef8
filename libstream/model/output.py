"""What a UDF declares that it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from libstream.errors import UsageError
from libstream.model.shape import DataShape

Kind = Literal["nav", "sig", "single", "ragged"]
Merge = Literal["place", "sum", "max", "min", "custom"]
Meaning = Literal["total", "window", "latest"]


@dataclass(frozen=True)
class Output:
    """One named result of a UDF.

    kind: "nav" one value (or `extra` array) for each scan position; "sig" one frame-shaped array; "single" one array of
        shape `extra`; "ragged" any number of records for each position.
    merge: how partial results become one: "place" (nav, ragged), "sum", "max", "min", "custom" (the UDF's `merge`).
    init: value that accumulators start from; None = the identity of the merge (0, smallest, largest).
    fill: value of what was never seen; None = NaN, the largest integer, False.
    partial_dtype: narrower dtype for the accumulator of one partition, used only where the plan proves that
        (frames of the partition) x (largest pixel value) fits: an output that adds at most one pixel value a frame.
    meaning: "total" over the whole run, "window" of the last positions, "latest" value.
    private: scratch of a worker; merged if it says how, not in the result.
    derived: made by the UDF's `finish` alone; workers neither allocate nor send it.
    """

    kind: Kind
    dtype: np.dtype[Any]
    extra: tuple[int, ...] = ()
    merge: Merge = "place"
    init: Any = None
    fill: Any = None
    partial_dtype: np.dtype[Any] | None = None
    meaning: Meaning = "total"
    unit: str = ""
    axes: tuple[str, ...] = ()
    title: str = ""
    private: bool = False
    derived: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        object.__setattr__(self, "extra", tuple(int(n) for n in self.extra))
        if self.partial_dtype is not None:
            object.__setattr__(self, "partial_dtype", np.dtype(self.partial_dtype))
        if self.dtype.hasobject:
            raise UsageError(f"an output holds numbers or records of numbers, got dtype {self.dtype}")
        if any(n < 0 for n in self.extra):
            raise UsageError(f"an output's extra shape has no negative sizes, got {self.extra}")
        placed = self.kind in ("nav", "ragged")
        if placed != (self.merge == "place"):
            allowed = "'place'" if placed else "'sum', 'max', 'min' or 'custom'"
            raise UsageError(f"an output of kind {self.kind!r} merges by {allowed}, got {self.merge!r}")

    def shape(self, data: DataShape) -> tuple[int, ...]:
        """Shape of the array in the result (not for ragged)."""
        if self.kind == "nav":
            return (*data.nav, *self.extra)
        if self.kind == "sig":
            return (*data.sig, *self.extra)
        return self.extra

    @property
    def init_value(self) -> Any:
        """Value that accumulators start from."""
        if self.init is not None:
            return self.init
        if self.merge in ("max", "min"):
            return _extreme(self.dtype, lowest=self.merge == "max")
        return np.zeros((), self.dtype)[()]

    @property
    def fill_value(self) -> Any:
        """Value of positions and pixels that were never seen."""
        return self.fill if self.fill is not None else default_fill(self.dtype)


def default_fill(dtype: np.dtype[Any]) -> Any:
    """NaN for float and complex, the largest value for integers, False for bool, recursively for records."""
    if dtype.names is not None:
        out = np.zeros((), dtype)
        for name in dtype.names:
            out[name] = default_fill(dtype[name])
        return out[()]
    if dtype.subdtype is not None:
        return default_fill(dtype.subdtype[0])
    if dtype.kind in "fc":
        return dtype.type(np.nan)
    if dtype.kind in "iu":
        return np.iinfo(dtype).max
    return dtype.type()


def _extreme(dtype: np.dtype[Any], *, lowest: bool) -> Any:
    if dtype.kind == "f":
        return -np.inf if lowest else np.inf
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return info.min if lowest else info.max
    if dtype.kind == "b":
        return not lowest
    raise UsageError(f"merge by max or min needs numbers with an order, got dtype {dtype}; use merge='custom'")


def nav(dtype: Any, extra: tuple[int, ...] = (), **options: Any) -> Output:
    """Output with one value, or one array of shape `extra`, for each scan position: shape (*scan, *extra)."""
    return Output("nav", np.dtype(dtype), tuple(extra), **options)


def sig(dtype: Any, extra: tuple[int, ...] = (), *, merge: Merge = "sum", **options: Any) -> Output:
    """Output of the frame's shape (plus trailing `extra` axes), reduced over the scan by `merge`."""
    return Output("sig", np.dtype(dtype), tuple(extra), merge, **options)


def single(dtype: Any, shape: tuple[int, ...] = (), *, merge: Merge = "sum", **options: Any) -> Output:
    """One array of shape `shape` for the whole run, reduced by `merge`."""
    return Output("single", np.dtype(dtype), tuple(shape), merge, **options)


def ragged(dtype: Any, extra: tuple[int, ...] = (), **options: Any) -> Output:
    """Any number of records (of `dtype`, each of shape `extra`) for each scan position; see `Ragged`."""
    return Output("ragged", np.dtype(dtype), tuple(extra), **options)
