"""The benchmark of the router runs, and what it compares is the same work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests import links


def test_the_benchmark_runs(tmp_path: Path) -> None:
    report = tmp_path / "route.json"
    command = [sys.executable, "-m", "tests.bench.route", "--smoke", "--json", str(report)]
    done = subprocess.run(command, cwd=links.ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(report.read_text())
    assert found["rates"]["ratio"] > 0
    assert 0 < found["ages"]["median_s"] <= found["ages"]["max_s"]
