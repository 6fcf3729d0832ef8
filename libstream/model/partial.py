"""What a worker hands back, and what is known of every position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_Arr = np.ndarray[Any, Any]

UNSEEN, PROCESSED, CORRUPT, DROPPED, MISSING, EXCLUDED = range(6)
"""Status of a scan position, as stored in `Coverage.status` (uint8)."""


@dataclass(frozen=True)
class RaggedPart:
    """Records of some positions: `values` (n_records, *extra), `counts` int64 (n_positions,)."""

    values: _Arr
    counts: _Arr


@dataclass(frozen=True)
class Partial:
    """Result of one partition, or of several neighbours combined.

    number: of the (first) partition; span: how many partition numbers this covers (1, or more when combined).
    positions: int64 (n,) flat scan positions that were tried; status: uint8 (n,), PROCESSED or CORRUPT ...
    placed: arrays (n_processed, *extra) or RaggedPart by (udf key, output), rows in the order of the PROCESSED positions.
    reduced: accumulators by (udf key, output).
    seconds: time spent by name ("read", "udf:<key>"), for `--profile`.
    failures: (udf key, message) of UDFs that stopped in this partition.
    """

    number: int
    span: int
    positions: _Arr
    status: _Arr
    placed: Mapping[tuple[str, str], Any]
    reduced: Mapping[tuple[str, str], _Arr]
    seconds: Mapping[str, float] = field(default_factory=dict)
    failures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Coverage:
    """Which positions are in a result.

    status: uint8 array of the scan's shape (UNSEEN, PROCESSED, CORRUPT, DROPPED, MISSING, EXCLUDED).
    `excluded` positions were not asked for (ROI); `missing` ones have no frame in the source.
    """

    status: _Arr

    def _mask(self, code: int) -> _Arr:
        return np.asarray(self.status == code)

    @property
    def valid(self) -> _Arr:
        """True where a position was processed; bool array of the scan's shape."""
        return self._mask(PROCESSED)

    @property
    def counts(self) -> dict[str, int]:
        """Number of positions of each kind, and `announced` = all that were asked for."""
        n = np.bincount(self.status.reshape(-1), minlength=6)
        names = ("unseen", "processed", "corrupt", "dropped", "missing", "excluded")
        out = {name: int(n[i]) for i, name in enumerate(names)}
        out["announced"] = int(n[:5].sum())
        return out

    @property
    def complete(self) -> bool:
        """True when every announced position was processed."""
        c = self.counts
        return c["processed"] == c["announced"]

    def __str__(self) -> str:
        c = self.counts
        rest = ", ".join(f"{c[k]} {k}" for k in ("corrupt", "dropped", "missing", "unseen", "excluded") if c[k])
        return f"{c['processed']} of {c['announced']} positions processed" + (f" ({rest})" if rest else "")


@dataclass(frozen=True)
class Snapshot:
    """Results of one UDF at one moment. Arrays are copies and read-only; ragged outputs are `Ragged`.

    changed: for each nav output the flat rows (first axis of the scan) changed since the version before, [start, stop).
    t_data_ns: wall clock of the newest merged partition.
    """

    key: str
    generation: int
    version: int
    arrays: Mapping[str, Any]
    changed: Mapping[str, tuple[int, int]]
    coverage: Coverage
    t_data_ns: int
    final: bool = False
