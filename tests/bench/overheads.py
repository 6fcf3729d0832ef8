"""Overheads: `cases.py` under pytest-benchmark in a process of its own, and the same of LiberTEM where it is installed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import links
from tests.bench.data import Files
from tests.bench.measure import OURS, PEER, Bench, Entry
from tests.bench.results import Results

TARGETS_S = {
    "test_python_tile": 5e-6,
    "test_python_frame": 2e-6,
    "test_open": 0.05,
    "test_pick": 0.002,
    "test_first_use[Sum-cold]": 1.5,
    "test_first_use[VirtualDetector-cold]": 1.5,
    "test_first_use[CenterOfMass-cold]": 1.5,
    "test_first_use[Sum-warm]": 0.5,
    "test_first_use[VirtualDetector-warm]": 0.5,
    "test_first_use[CenterOfMass-warm]": 0.5,
    "test_next_use": 0.05,
}
"""Seconds, by the name of the case or of all its parameters."""


def measure(files: Files, results: Results, bench: Bench, *, smoke: bool, say: Callable[[str], None]) -> None:
    """Fill `results.overheads`."""
    used = {name: files.get(name).__dict__ for name in ("uint16", "mib", "dectris", "npy")}
    for job in ("python_frame", "pick"):
        row = bench.row(files.get("npy"), job, [Entry(s, s, job) for s in (OURS, PEER)], results.rounds, {})
        results.rows.setdefault("calls", []).append(row)
    with tempfile.TemporaryDirectory(prefix="libstream-bench-") as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pytest", "tests/bench/cases.py", "-q", "--benchmark-only", f"--benchmark-json={report}"]
        command += ["-p", "no:cacheprovider", "-W", "ignore", "--timeout=1800", "--tb=short"]
        env = {**os.environ, "LIBSTREAM_BENCH_FILES": json.dumps(used)} | ({"LIBSTREAM_BENCH_SMOKE": "1"} if smoke else {})
        done = subprocess.run(command, cwd=links.ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"the overhead cases failed:\n{done.stdout[-4000:]}")
        results.overheads = summary(json.loads(report.read_text(encoding="utf-8")))
    for name, found in results.overheads.items():
        say(f"{name}: {found['median']:.3g} s")


def summary(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Title, median, min and max in seconds for one call, and the figure to reach (None = only reported), by name of the case."""
    out: dict[str, dict[str, Any]] = {}
    for case in report["benchmarks"]:
        info, name = case["extra_info"], case["name"]
        seconds = info.get("seconds") or case["stats"]["data"]
        seconds = [s / info["per"] for s in seconds]
        out[name] = {
            "title": info["title"],
            "median": statistics.median(seconds),
            "min": min(seconds),
            "max": max(seconds),
            "target": TARGETS_S.get(name, TARGETS_S.get(name.partition("[")[0])),
        }
    return out
