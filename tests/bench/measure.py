"""Measure in turn: each side is a process that answers one order at a time, so that nothing else of ours runs meanwhile."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests import links
from tests.bench.spec import JOBS, OWN, Data

_Arr = np.ndarray[Any, Any]

OURS, LIMIT, PEER = "libstream", "limit", "LiberTEM threads"
ONE, LIMIT_ONE = "libstream, 1 thread", "limit, 1 thread"


@dataclass(frozen=True)
class SideSpec:
    """How a side is started. peer: folder of its environment below that of the peers, "" for our own."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    peer: str = ""


SIDES = {
    s.name: s
    for s in (
        SideSpec(LIMIT, "limit"),
        SideSpec(OURS, "libstream"),
        SideSpec(PEER, "libertem", ("threads",), "libertem"),
        SideSpec(LIMIT_ONE, "limit", ("1",)),
        SideSpec(ONE, "libstream", ("1",)),
        SideSpec("LiberTEM inline", "libertem", ("inline",), "libertem"),
        SideSpec("py4DSTEM", "py4dstem", (), "py4dstem"),
        SideSpec("dask.array", "dask", (), "dask"),
        SideSpec("NumPy", "numpy"),
    )
}


class Absent(Exception):
    """The side is not installed, or has no such job."""


class Process:
    """A running side."""

    def __init__(self, spec: SideSpec, peers: Path | None) -> None:
        self.spec = spec
        python = Path(sys.executable)
        if spec.peer:
            python = (peers or Path("nowhere")) / spec.peer / "bin" / "python"
            if peers is None or not python.exists():
                raise Absent(f"not installed: pip install -r tests/bench/peers-{spec.peer}.txt in a venv {spec.peer} of the folder --peers")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the process
        self._process = subprocess.Popen(
            [str(python), "-m", f"tests.bench.sides.{spec.module}", *spec.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=links.ROOT,
            text=True,
        )

    def ask(self, **order: Any) -> dict[str, Any]:
        """Send an order and wait for the answer. Raises Absent, or RuntimeError with what the side printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the process ended"}
        if "absent" in answer:
            raise Absent(answer["absent"])
        if "error" in answer:
            self._errors.seek(0)
            raise RuntimeError(f"{self.spec.name}: {answer['error']}\n{self._errors.read()[-2000:]}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._errors.close()


@dataclass(frozen=True)
class Entry:
    """One thing that is timed in a row: a side, and what it does. label: its name in the row."""

    label: str
    side: str
    job: str
    variant: str = "plain"


@dataclass
class Row:
    """One job on one file: seconds of each entry by round, and what was found; keys are labels of entries.

    bytes: of frames that an entry goes through; absent: why one has no figures; differs: how its result differs from ours;
    others: share of the machine that others kept busy before each round.
    """

    data: Data
    job: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    bytes: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    differs: dict[str, str] = field(default_factory=dict)
    others: list[float] = field(default_factory=list)

    def rates(self, label: str) -> list[float]:
        """GB/s of frames by round."""
        return [self.bytes[label] / s / 1e9 for s in self.seconds.get(label, [])]

    def rate(self, label: str) -> float:
        """Median of them; nan where there is none."""
        found = self.rates(label)
        return statistics.median(found) if found else float("nan")

    def ratio(self, label: str, other: str) -> float:
        """Median over rounds of (rate of `label`) / (rate of `other` in the same round); nan where there is none."""
        both = [a / b for a, b in zip(self.rates(label), self.rates(other), strict=False)]
        return statistics.median(both) if both else float("nan")


class Bench:
    """Starts sides when they are first asked for and keeps them."""

    def __init__(self, peers: Path | None, say: Callable[[str], None], quiet_s: float = 0.0) -> None:
        self.peers, self._say, self._quiet_s = peers, say, quiet_s
        self._running: dict[str, Process] = {}
        self.missing: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="libstream-bench-")

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._running.values():
            process.close()
        self._folder.cleanup()

    def side(self, name: str) -> Process:
        """A running side. Raises Absent."""
        if name in self.missing:
            raise Absent(self.missing[name])
        if name not in self._running:
            try:
                self._running[name] = process = Process(SIDES[name], self.peers)
                self.versions[name] = process.ask(op="hello")["versions"]
            except Absent as exc:
                self.missing[name] = str(exc)
                raise
        return self._running[name]

    def row(self, data: Data, job: str, entries: Sequence[Entry], rounds: int, few: Mapping[str, int]) -> Row:
        """Measure `entries` in turn, `rounds` times. few: rounds of sides that are slow."""
        row = Row(data, job)
        results: dict[Entry, dict[str, _Arr]] = {}
        for entry in entries:  # each opens, compiles, and runs once before anything counts
            path = Path(self._folder.name) / "result.npz"
            try:
                self._ask(data, entry, save=str(path))
            except Absent as exc:
                row.absent[entry.label] = str(exc)
            except RuntimeError as exc:
                row.absent[entry.label] = str(exc).splitlines()[0]
                self._say(str(exc))
                self._stop(entry.side)
            if path.exists():
                with np.load(path) as saved:
                    results[entry] = dict(saved)
                path.unlink()
        for entry, arrays in results.items():
            ours = next((r for e, r in results.items() if e.side == OURS and (e.job, e.variant) == (entry.job, entry.variant)), None)
            if ours is not None and SIDES[entry.side].module != "libstream":
                row.differs[entry.label] = differs(ours, arrays, entry.job)
        for number in range(rounds):
            self._wait_for_quiet(row)
            for entry in entries:
                if entry.label not in row.absent and number < few.get(entry.side, rounds):
                    answer = self._ask(data, entry)
                    row.seconds.setdefault(entry.label, []).append(answer["seconds"])
                    row.bytes[entry.label] = answer["bytes"]
        return row

    def _ask(self, data: Data, entry: Entry, **more: Any) -> dict[str, Any]:
        return self.side(entry.side).ask(op="run", data=data.__dict__, job=entry.job, variant=entry.variant, **more)

    def _stop(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is not None:
            process.close()

    def _wait_for_quiet(self, row: Row) -> None:
        deadline = time.monotonic() + self._quiet_s
        while (busy := others_busy()) > 0.1 and time.monotonic() < deadline:
            time.sleep(1.0)
        row.others.append(busy)


def differs(ours: Mapping[str, _Arr], theirs: Mapping[str, _Arr], job: str) -> str:
    """How `theirs` differs from `ours` in words, "" where they are equal to 1e-4 of the largest value (peers sum in float32)."""
    for name in JOBS[OWN[job][0] if job in OWN else job].outputs:
        if name not in theirs:
            return f"no {name}"
        a, b = np.asarray(ours[name], np.float64), np.asarray(theirs[name], np.float64)
        if b.size < a.size and name not in ("sum", "mean", "variance"):
            a = a.reshape(-1)[: b.size]  # a part of the scan
        a, b = a.reshape(-1), b.reshape(-1)
        if a.shape != b.shape:
            return f"{name} has {b.size} values, expected {a.size}"
        worst = float(np.nanmax(np.abs(a - b), initial=0.0))
        scale = float(np.nanmax(np.abs(a), initial=0.0)) or 1.0
        if not worst <= 1e-4 * scale:
            return f"{name} differs by {worst:.3g} of {scale:.3g}"
    return ""


def others_busy(seconds: float = 0.2) -> float:
    """Share of the processors that is busy while we are not: other people's work. 0.0 where the system does not tell."""
    try:
        before = _busy()
        time.sleep(seconds)
        after = _busy()
    except (OSError, ValueError, IndexError):
        return 0.0
    total = sum(after) - sum(before)
    idle = (after[3] + after[4]) - (before[3] + before[4])
    return max(0.0, 1.0 - idle / total) if total > 0 else 0.0


def _busy() -> list[int]:
    with open("/proc/stat") as f:
        return [int(v) for v in f.readline().split()[1:9]]


def load() -> tuple[float, ...]:
    """Load of the machine over 1, 5 and 15 minutes."""
    return tuple(round(v, 2) for v in os.getloadavg()) if hasattr(os, "getloadavg") else ()
