"""The benchmark of receiving runs; never how long anything takes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import links


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="compares with the compiled loop, which is for POSIX systems")
def test_every_side_is_measured() -> None:
    command = [sys.executable, "-m", "tests.bench.receive", "--smoke"]
    done = subprocess.run(command, cwd=links.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "  compiled / pyzmq:" in done.stdout
    assert "  transport / recv_into:" in done.stdout
