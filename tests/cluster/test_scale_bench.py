"""The measurement behind docs/explanation/scaling.md runs: chain, rates, model, simulation, tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import links


@pytest.mark.soak
def test_the_measurement_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.scale_rates", "--smoke", "--json", str(tmp_path / "rates.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=links.ROOT)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "rates.json").read_text())
    assert [c["workers"] for c in report["chain"]] == [1, 2]
    assert all(c["frames_per_s"] > 0 and c["model"] > 0 for c in report["chain"])
    assert all(v >= 0 for v in report["rates"].values())
    command = [sys.executable, "-m", "tests.bench.scale_sim", "--rates", str(tmp_path / "rates.json"), "--nodes", "1,4", "--seconds", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=links.ROOT)
    assert done.returncode == 0, done.stderr
    assert "The fewest that take 87,000 frames/s" in done.stdout
