"""Plain-Python hooks: what they are given, and how they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from libstream.errors import CancelledError
from libstream.model.output import Output
from libstream.model.partial import RaggedPart
from libstream.model.shape import Region
from libstream.model.tile import At, Aux, Tile

if TYPE_CHECKING:
    from libstream.run.calls import Call, State

_Arr = np.ndarray[Any, Any]


class Out:
    """The arrays that a hook writes: `out.<name>[...] = value`. Assigning to the attribute itself is refused."""

    def __init__(self, key: str) -> None:
        object.__setattr__(self, "_key", key)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, np.ndarray) and value is self.__dict__.get(name):
            return  # out.total += x ends here, after the addition was done in place
        raise AttributeError(f"write into the output: out.{name}[...] = value (out.{name} = value would lose it)")

    def __getattr__(self, name: str) -> Any:
        names = ", ".join(n for n in self.__dict__ if n[0] != "_")
        raise AttributeError(f"UDF {self.__dict__.get('_key')!r} has no output {name!r}; outputs() declares {names}")


class Puts:
    """Ragged output in Python: `out.peaks.put(i, records)`, i = row of the frame in this call (0 in process_frame)."""

    def __init__(self, output: Output, n: int) -> None:
        self.output = output
        self.parts: list[_Arr | None] = [None] * n
        self.at(0, n)

    def at(self, first: int, n: int) -> None:
        """The next call gets `n` frames, which are rows `first`, ... of the partition."""
        self.first, self.n = first, n

    def put(self, i: int, records: Any) -> None:
        """Set the records of frame `i`: array or list of shape (any number, *extra)."""
        array = np.asarray(records, dtype=self.output.dtype)
        if array.shape[1:] != self.output.extra:
            array = array.reshape(-1, *self.output.extra)
        if not 0 <= i < self.n:
            raise IndexError(f"put({i}, ...): this call has {self.n} frame{'s' if self.n != 1 else ''}, counted from 0")
        self.parts[self.first + i] = array.copy()

    def finished(self) -> RaggedPart:
        """All records, in frame order."""
        empty = np.zeros((0, *self.output.extra), self.output.dtype)
        filled = [empty if p is None else p for p in self.parts]
        return RaggedPart(np.concatenate([empty, *filled]), np.array([len(p) for p in filled], np.int64))


class Hooked:
    """A plain-Python hook over one partition. What does not change from tile to tile is made once: a tile costs 3 us, a frame 0.6.

    cancel: uint8 (1,), not 0 when the run is to stop.
    """

    def __init__(self, call: Call, state: State, cancel: _Arr) -> None:
        self.call, self.cancel = call, cancel
        self.out = Out(call.key)
        self.fields: dict[str, Any] = self.out.__dict__
        self.fields.update({n: state.arrays[n] for n in call.outputs})
        self.navs = [(n, state.arrays[n]) for n, o in call.outputs.items() if o.kind == "nav"]
        self.sigs = [(n, state.arrays[n]) for n, o in call.outputs.items() if o.kind == "sig"]
        self.puts: list[Puts] = [state.arrays[n] for n, o in call.outputs.items() if o.kind == "ragged"]
        self.absent: dict[str, Any] = dict.fromkeys(call.aux_names)
        self.nothing = Aux(self.absent)
        self.regions: dict[tuple[int, int], Region] = {}

    def frames(self, data: _Arr, runs: _Arr, index: _Arr, k: int) -> None:
        """Call `process_frame` for `data[i]`, i in `runs`; they are rows k, k + 1, ... of the partition. index: flat positions."""
        call, fields, out, navs, puts, cancel = self.call, self.fields, self.out, self.navs, self.puts, self.cancel
        hook, udf, wants_at, nav, has_aux = call.hook, call.udf, call.wants_at, call.nav, bool(call.aux_arrays)
        row = k
        try:
            for start, stop in runs.tolist():
                for frame in data[start:stop]:
                    if cancel[0]:
                        raise CancelledError("cancelled")
                    for name, array in navs:
                        fields[name] = array[row]
                    for p in puts:
                        p.at(row, 1)
                    if wants_at:
                        flat = int(index[row - k])
                        hook(udf, frame, out, At(flat, nav, self._aux(flat) if has_aux else self.nothing))
                    else:
                        hook(udf, frame, out)
                    row += 1
        except CancelledError:
            raise
        except Exception as exc:
            raise call.failure(exc, f"at scan position {call.where(int(index[row - k]))}") from exc

    def tile(self, data: _Arr, index: _Arr, k: int, band: tuple[int, int]) -> None:
        """Call `process_tile` or `process_partition` for frames `data`, rows k, k + 1, ... of the partition.

        data holds the rows `band` of the detector. index: flat positions.
        """
        call, fields = self.call, self.fields
        n = len(data)
        for name, array in self.navs:
            fields[name] = array[k : k + n]
        for name, array in self.sigs:
            fields[name] = array[band[0] : band[1]]
        for p in self.puts:
            p.at(k, n)
        region = self.regions.get(band)
        if region is None:
            region = self.regions[band] = Region((band[0], *(0,) * (data.ndim - 2)), (band[1] - band[0], *data.shape[2:]))
        try:
            if call.kind == "process_tile":
                call.hook(call.udf, Tile(data, index, region, call.nav, self._aux(index) if call.aux_arrays else self.nothing), self.out)
            else:
                call.hook(call.udf, data, self.out)
        except CancelledError:
            raise
        except Exception as exc:
            first, last = call.where(int(index[0])), call.where(int(index[-1]))
            raise call.failure(
                exc, f"in the {n} frames at scan positions {first} to {last}, rows {band[0]} to {band[1]} of the frame"
            ) from exc

    def _aux(self, index: Any) -> Aux:
        return Aux(self.absent | {name: a[index] for name, a in self.call.aux_arrays.items()})
