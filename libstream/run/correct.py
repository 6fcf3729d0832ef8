"""From the detector's frames to what a UDF asked for: cast and corrections, one pass into a buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.errors import UsageError
from libstream.kernels import convert
from libstream.kernels.jit import Kernel
from libstream.kernels.loops import Arg, Entry, compiled_entry
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
    lossy = dtype.kind in "biu" or base.kind == "c"  # floats take any real number, rounded
    if lossy and not np.can_cast(base, dtype, "same_kind" if base.kind == "c" else "safe"):
        raise UsageError(
            f"a UDF asks for frames of dtype {dtype}, but the frames are {base}, which does not fit into it; "
            f"ask for a {'complex' if base.kind == 'c' else 'float'} dtype, or set dtype = None"
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

    @property
    def kernel(self) -> Kernel:
        """`kernel(tile, *arrays)` writes converted frames into the first of `arrays(out)`."""
        return convert.cast_frames if self.corrections is None else convert.correct_frames

    def arrays(self, out: _Arr) -> dict[str, _Arr]:
        """Arguments of the kernel after the tile, by name. out: (n, *sig), C order."""
        flat = out.reshape(len(out), int(np.prod(out.shape[1:])))
        if self.corrections is None:
            return {"out": flat}
        bad, offsets, good = self.corrections.repair
        dark, gain = self._tables(out.shape[1:])
        return {"out": flat, "dark": dark, "gain": gain, "bad": bad, "offsets": offsets, "good": good}

    def entry(self, tile: _Arr) -> Entry:
        """The compiled kernel for tiles like `tile`."""
        return compiled_entry(self.kernel, "process_tile", self.args(tile.shape[1:]), tile)

    def args(self, sig: tuple[int, ...]) -> list[Arg]:
        """Arguments of the kernel for frames of shape `sig`."""
        return [Arg(name, "array", value) for name, value in self.arrays(np.empty((1, *sig), self.dtype)).items()]

    def into(self, data: _Arr, runs: _Arr, out: _Arr) -> None:
        """Convert frames `runs` of `data` (n, *sig) into `out` (m, *sig), called from Python."""
        row = 0
        for a, b in runs.tolist():
            self.kernel.cached(data[a:b], *self.arrays(out[row : row + b - a]).values())
            row += b - a

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
