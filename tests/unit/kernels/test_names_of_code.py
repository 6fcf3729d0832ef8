"""Compiled functions are linked by name: functions of one name, cached by different processes, must not be taken for each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# two kernels of one factory, and so of one name; `call` reaches them by way of a third one, as a frame loop does
_MODULE = """
import numpy as np
from libstream.kernels.jit import kernel

def _adds(n):
    @kernel
    def add(out, times):
        # too long, and called too often, to be inlined
        for i in range(out.shape[0]):
            out[i] += n
        for t in range(times):
            for i in range(out.shape[0]):
                if out[i] % 3 == t:
                    out[i] += 1000 * n
                elif out[i] % 5 == t:
                    out[i] -= 1000 * n
                else:
                    out[i] += t - t // 2 * 2
            for i in range(1, out.shape[0]):
                out[i] += out[i - 1] % 7
    return add

def _calls(inner):
    @kernel
    def call(out, times):
        inner(out, times)
        inner(out[1:], times - 1)
        if times > 5:
            inner(out[2:], times - 2)
        return out[0]
    return call

def run(n):
    out = np.zeros(3, np.int64)
    return int(_calls(_adds(n)).cached(out, 0))
"""


def test_functions_of_one_factory_are_not_mixed_up(tmp_path: Path) -> None:
    (tmp_path / "factory.py").write_text(_MODULE)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "LIBSTREAM_CACHE_DIR": str(tmp_path / "cache")}

    def child(*numbers: int) -> str:
        code = f"import factory; print([factory.run(n) for n in {numbers}])"
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout.strip()

    assert child(1) == "[1]"  # each process compiles one of them ...
    assert child(2) == "[2]"
    assert child(1, 2) == "[1, 2]"  # ... and this one loads both
