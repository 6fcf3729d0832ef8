"""Memory is bounded by tiles, never by the file: the issue's limit of 300 MB for a 10 GB file, all processes together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import links

FRAME_BYTES = 256 * 256 * 2
LIMIT_MB = 300


def peak_mb(path: Path, gigabytes: float, executor: str) -> float:
    """Peak of anonymous memory [MB] over a sparse file: holes read as zeros, and cost no disk."""
    frames = int(gigabytes * 1e9) // FRAME_BYTES
    with open(path, "wb") as f:
        f.truncate(frames * FRAME_BYTES)
    command = [sys.executable, "-m", "tests.system.memory_probe", str(path), executor]
    done = subprocess.run(command, cwd=links.ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    peak, processed = done.stdout.split()
    assert int(processed) == frames
    return float(peak)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc: Linux only")
@pytest.mark.parametrize("executor", ["threads", "processes"])
@pytest.mark.parametrize("gigabytes", [1.0, pytest.param(10.0, marks=pytest.mark.soak)])
def test_anonymous_memory_is_bounded(tmp_path: Path, executor: str, gigabytes: float) -> None:
    assert peak_mb(tmp_path / "zeros.raw", gigabytes, executor) < LIMIT_MB
