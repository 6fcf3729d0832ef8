"""The guard against left-overs fails tests that leave some; long proofs try more examples (tests/conftest.py)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import hypothesis.strategies as st
import pytest

from tests import conftest

LEFT = {
    "a thread": "threading.Thread(target=time.sleep, args=(30,), daemon=True).start()",
    "a child": "kept.append(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)']))",
    "a file": "kept.append(open(__file__))",
    "a socket": "kept.append(socket.socket())",
}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="children and open files are read from /proc, which only Linux has")
@pytest.mark.parametrize("what", LEFT)
def test_a_leak_fails_the_test(what: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import tests.conftest\nfrom tests.conftest import nothing_left\ntests.conftest.GRACE_S = 0.1\n")
    (tmp_path / "test_leak.py").write_text(
        "import socket, subprocess, sys, threading, time\n"
        "kept = []\n"
        f"def test_leaks():\n    {LEFT[what]}\n"
        "def test_is_clean():\n    for k in kept:\n        getattr(k, 'kill', k.close if hasattr(k, 'close') else None)()\n"
        "        getattr(k, 'wait', lambda: None)()\n"
        "    kept.clear()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path), "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "left behind" in done.stdout, done.stdout
    assert "1 error" in done.stdout, done.stdout


def test_persistent_executors_may_stay_until_the_end() -> None:
    stop = threading.Event()
    worker = threading.Thread(target=stop.wait, name="libstream-worker_0")
    worker.start()
    try:
        assert worker not in conftest._threads()
    finally:
        stop.set()
        worker.join()


@pytest.mark.parametrize(("profile", "expected"), [("soak", 5 * conftest.SOAK_FACTOR), ("ci", 5)])
def test_the_profile_soak_multiplies_examples(profile: str, expected: int) -> None:
    tried = []

    @hypothesis.settings(max_examples=5, database=None)
    @hypothesis.given(st.integers())
    def test(x: int) -> None:
        tried.append(x)

    item = SimpleNamespace(obj=test)
    conftest.pytest_collection_modifyitems(SimpleNamespace(getoption=lambda _: profile), [item, item])  # type: ignore[arg-type,list-item]
    test()
    assert len(tried) == expected
