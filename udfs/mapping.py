"""A plain function of one frame as a UDF."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from libstream.ext import UDF, Output, UsageError, nav, param


class FrameMap(UDF):
    """`func(frame)` for each scan position: a number or an array of one shape. See `ls.map`.

    Shape and dtype of the output come from `func` applied to a frame of ones.
    """

    func: Any = param(title="Function of one frame")

    @cached_property
    def sample(self) -> np.ndarray[Any, Any]:
        """What `func` gives for a frame of ones."""
        if not callable(self.func):
            raise UsageError(f"ls.map needs a function of one frame, got {self.func!r}")
        value = np.asarray(self.func(np.ones(self.meta.shape.sig, self.meta.dtype)))
        if value.dtype.kind not in "biufc":
            name = getattr(self.func, "__name__", "the function")
            raise UsageError(f"ls.map: {name} returned {value.dtype} for a frame of ones; it must return numbers")
        return value

    def outputs(self) -> Mapping[str, Output]:
        """value: nav, (*scan, *shape of func's result)."""
        return {"value": nav(self.sample.dtype, self.sample.shape)}

    def process_frame(self, frame: np.ndarray[Any, Any], out: Any) -> None:
        """Apply the function."""
        out.value[...] = self.func(frame)
