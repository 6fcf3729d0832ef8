"""What a run gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from libstream.errors import UsageError
from libstream.model.output import Output
from libstream.model.partial import Coverage
from libstream.model.ragged import Ragged
from libstream.model.shape import DataShape
from libstream.model.source import Axis

_Arr = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Outputs(Mapping[str, Any]):
    """Results of one UDF: arrays by output name; numpy takes it for the array where there is only one.

    `declared` holds the `Output` (unit, title, fill) of each one.
    """

    key: str
    arrays: Mapping[str, Any]
    declared: Mapping[str, Output]
    shape: DataShape
    axes: tuple[Axis, ...]

    def __getitem__(self, name: str) -> Any:
        try:
            return self.arrays[name]
        except KeyError:
            raise KeyError(f"{self.key!r} has no output {name!r}; it has: {', '.join(self.arrays)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> _Arr:
        if len(self.arrays) != 1:
            raise TypeError(f"{self.key!r} has {len(self.arrays)} outputs; take one of {', '.join(self.arrays)}")
        (only,) = self.arrays.values()
        if isinstance(only, Ragged):
            raise TypeError(f"{self.key!r} is ragged: take its .values and .offsets")
        return np.array(only, dtype=dtype, copy=copy)

    def _repr_html_(self) -> str:
        from libstream.model.html import outputs_html

        return outputs_html(self)


@dataclass(frozen=True)
class Result(Mapping[str, Any]):
    """Results of all UDFs of a run, at its end or at one moment of it.

    `result[key]` are the outputs of one UDF, `result[key][output]` is an ndarray (or `Ragged`) of the declared dtype;
    `result[output]` works where that name is unique. What was not seen holds the output's fill value.

    coverage: which positions are in it. generation: raised by each change of parameters. version: raised by each publication.
    run: provenance, as stored with the result (JSON). params: array parameters by "<key>/<name>", stored beside it.
    final: False for a snapshot of a run that goes on.
    """

    udfs: Mapping[str, Outputs]
    coverage: Coverage
    generation: int = 0
    version: int = 0
    run: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, _Arr] = field(default_factory=dict)
    final: bool = True
    changed: Mapping[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    saver: Callable[[Result, Path], None] | None = field(default=None, repr=False, compare=False)

    def __getitem__(self, name: str) -> Any:
        if name in self.udfs:
            return self.udfs[name]
        owners = [key for key, outputs in self.udfs.items() if name in outputs]
        if len(owners) == 1:
            return self.udfs[owners[0]][name]
        if owners:
            choices = ", ".join(f"result[{k!r}][{name!r}]" for k in owners)
            raise KeyError(f"output {name!r} is not unique; write one of {choices}")
        known = "; ".join(f"{k}: {', '.join(v)}" for k, v in self.udfs.items())
        raise KeyError(f"no UDF or output {name!r} in this result; it has {known}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.udfs)

    def __len__(self) -> int:
        return len(self.udfs)

    @property
    def valid(self) -> _Arr:
        """True where a position was processed; bool array of the scan's shape."""
        return self.coverage.valid

    @property
    def complete(self) -> bool:
        """True when the run ended, every announced position was processed and no UDF failed."""
        return self.final and self.coverage.complete and not self.failures

    @property
    def failures(self) -> Mapping[str, str]:
        """UDFs that stopped with an error while the others went on, by key, as they do over a live source: what they hold is incomplete."""
        return dict(self.run.get("failures", {}))

    @property
    def ledger(self) -> Mapping[str, int]:
        """What became of every frame of a live acquisition (docs/reference/ledger.md); empty for stored frames."""
        return dict(self.run.get("ledger", {}))

    def masked(self, key: str, output: str | None = None) -> np.ma.MaskedArray[Any, Any]:
        """A nav output as a masked array: masked where the position was not processed."""
        outputs, name = (self.udfs[key], output) if output is not None else self._find(key)
        declared = outputs.declared.get(name)
        data = outputs[name]
        if isinstance(data, Ragged) or (declared is not None and declared.kind != "nav"):
            raise UsageError(f"{outputs.key}/{name} is not a nav output, so no positions can be masked in it")
        valid = self.valid.reshape(self.valid.shape + (1,) * (data.ndim - self.valid.ndim))
        return np.ma.masked_array(data, mask=~np.broadcast_to(valid, data.shape))

    def _find(self, name: str) -> tuple[Outputs, str]:
        for outputs in self.udfs.values():
            if name in outputs and self[name] is outputs[name]:
                return outputs, name
        raise KeyError(f"no output {name!r} in this result")

    def save(self, path: str | Path) -> Path:
        """Write to `path` (.h5: everything with provenance; written aside, then renamed). Returns the path.

        Raises SaveError when it cannot be written; UsageError for an ending that nobody writes.
        """
        if self.saver is None:
            raise UsageError("this Result was made by hand and cannot be saved; results of ls.run and ls.load_result can")
        self.saver(self, Path(path))
        return Path(path)

    def __repr__(self) -> str:
        rows = [f"Result, {'complete' if self.complete else 'incomplete'}: {self.coverage}"]
        for key, outputs in self.udfs.items():
            for name, data in outputs.items():
                what = repr(data) if isinstance(data, Ragged) else f"{data.shape} {data.dtype}"
                unit = outputs.declared[name].unit if name in outputs.declared else ""
                rows.append(f"  {key}/{name}: {what}{' [' + unit + ']' if unit else ''}")
        rows += [f"  {key} stopped: {message}" for key, message in self.failures.items()]
        return "\n".join(rows)

    def _repr_html_(self) -> str:
        from libstream.model.html import result_html

        return result_html(self)

    def _repr_png_(self) -> bytes | None:
        """The image, where the result has exactly one."""
        from libstream.model.html import obvious

        return obvious(self)
