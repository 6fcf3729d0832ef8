"""From the detector's frames to what a UDF asked for: cast and corrections, one pass into a buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.errors import UsageError
from libstream.kernels import convert
from libstream.model.corrections import Corrections

_Arr = np.ndarray[Any, Any]


def corrected_dtype(source: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype of corrected frames: float32 where it holds every value of the detector exactly, else float64."""
    return np.dtype(np.float32) if np.can_cast(source, np.float32) or source.kind == "b" else np.dtype(np.float64)


def input_dtype(source: np.dtype[Any], wanted: Any, corrected: bool) -> np.dtype[Any]:
    """Dtype that a hook gets from a `source` detector when it asks for `wanted` (None = the detector's own)."""
    base = corrected_dtype(source) if corrected else source
    if wanted is None:
        return base
    dtype = np.dtype(wanted)
    if dtype.kind not in "biufc":
        raise UsageError(f"a UDF asks for frames of dtype {dtype}; only numbers can be asked for")
    if dtype.kind in "iu" and not np.can_cast(base, dtype):
        raise UsageError(
            f"a UDF asks for frames of dtype {dtype}, but the frames are {base}, which does not fit into it; "
            "ask for a float dtype, or set dtype = None"
        )
    return dtype.newbyteorder("=")


@dataclass(frozen=True)
class Converter:
    """Makes frames of one dtype, corrected or not. `key` is equal for equal conversions."""

    dtype: np.dtype[Any]
    corrections: Corrections | None

    @property
    def key(self) -> tuple[str, bool]:
        """Equal for conversions that can share a buffer."""
        return self.dtype.str, self.corrections is not None

    def compile(self, data: _Arr) -> None:
        """Compile for arrays like `data`, before any worker runs."""
        self.into(data, np.zeros((0, 2), np.int64), np.empty((0, *data.shape[1:]), self.dtype))

    def into(self, data: _Arr, runs: _Arr, out: _Arr) -> None:
        """Convert frames `runs` of `data` (n, *sig) into `out` (m, *sig)."""
        flat = out.reshape(len(out), int(np.prod(out.shape[1:])))
        if self.corrections is None:
            convert.cast_frames.cached(data, runs, flat)
            return
        dark, gain = self._tables(out.shape[1:])
        bad, offsets, good = self.corrections.repair
        convert.correct_frames.cached(data, runs, flat, dark, gain, bad, offsets, good)

    def _tables(self, sig: tuple[int, ...]) -> tuple[_Arr, _Arr]:
        c = self.corrections
        held: tuple[_Arr, _Arr] | None = self.__dict__.get("_held")
        if held is None:
            real = np.dtype(self.dtype.type(0).real.dtype)
            dark = np.zeros(sig, real) if c is None or c.dark is None else c.dark.astype(real)
            gain = np.ones(sig, real) if c is None or c.gain is None else c.gain.astype(real)
            held = (dark.reshape(-1), gain.reshape(-1))
            object.__setattr__(self, "_held", held)
        return held
