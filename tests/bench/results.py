"""What was measured, as plain data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.bench.measure import Row


@dataclass
class Results:
    """One run of the benchmarks.

    rows: of the first and second table, by table name. memory: bytes of anonymous memory by (file, executor, job).
    overheads: seconds by name, from pytest-benchmark: median, min, max.
    """

    load_before: tuple[float, ...]
    rounds: int
    size: int
    load_after: tuple[float, ...] = ()
    rows: dict[str, list[Row]] = field(default_factory=dict)
    memory: list[dict[str, Any]] = field(default_factory=list)
    overheads: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def json(self) -> str:
        """All figures."""
        rows = {
            table: [
                {
                    "data": r.data.__dict__,
                    "job": r.job,
                    "seconds": r.seconds,
                    "bytes": r.bytes,
                    "absent": r.absent,
                    "differs": r.differs,
                    "others_busy": [round(v, 3) for v in r.others],
                }
                for r in found
            ]
            for table, found in self.rows.items()
        }
        return json.dumps(
            {
                "load": [self.load_before, self.load_after],
                "rounds": self.rounds,
                "bytes": self.size,
                "versions": self.versions,
                "missing": self.missing,
                "rows": rows,
                "memory": self.memory,
                "overheads": self.overheads,
            },
            indent=1,
        )
