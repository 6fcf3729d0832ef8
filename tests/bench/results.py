"""What was measured, as plain data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Self

from tests.bench.measure import Row
from tests.bench.spec import Data


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

    @classmethod
    def of(cls, text: str) -> Self:
        """From `json()`."""
        found = json.loads(text)
        made = cls(tuple(found["load"][0]), found["rounds"], found["bytes"], tuple(found["load"][1]))
        made.memory, made.overheads, made.versions, made.missing = (found[k] for k in ("memory", "overheads", "versions", "missing"))
        for table, rows in found["rows"].items():
            made.rows[table] = [
                Row(Data.of(r["data"]), r["job"], r["seconds"], r["bytes"], r["absent"], r["differs"], r["others_busy"]) for r in rows
            ]
        return made

    def add(self, newer: Results) -> None:
        """Put rows, memory and overheads of a later run in the place of those that this one has."""
        for table, rows in newer.rows.items():
            mine = self.rows.setdefault(table, [])
            for row in rows:
                at = next((i for i, r in enumerate(mine) if r.job == row.job), len(mine))
                mine[at : at + 1] = [row]
        key = ("data", "executor", "job")
        again = {tuple(m[k] for k in key) for m in newer.memory}
        self.memory = [m for m in self.memory if tuple(m[k] for k in key) not in again] + newer.memory
        self.overheads |= newer.overheads
        self.versions |= newer.versions
        self.missing = newer.missing
        self.load_after = newer.load_after
        self.rounds, self.size = max(self.rounds, newer.rounds), max(self.size, newer.size)

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
