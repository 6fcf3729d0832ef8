"""Overheads, one test each, timed by pytest-benchmark. Run by `tests.bench.overheads`; not part of the test suite.

Each case puts into `extra_info` what it is divided by (`per`, a number of calls) and its title.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import libstream as ls
from tests import links
from tests.bench.sides.libstream import open_data
from tests.bench.spec import Data

FILES = {name: Data.of(fields) for name, fields in json.loads(os.environ["LIBSTREAM_BENCH_FILES"]).items()}
SMOKE = bool(os.environ.get("LIBSTREAM_BENCH_SMOKE"))
ROUNDS = 1 if SMOKE else 15
PROCESSES = 1 if SMOKE else 5
UDFS = ["Sum"] if SMOKE else ["Sum", "VirtualDetector", "CenterOfMass"]


class EmptyTile(ls.UDF):
    """Nothing, tile by tile."""

    def outputs(self) -> Any:
        return {"none": ls.single("int64")}

    def process_tile(self, tile: Any, out: Any) -> None:
        pass


class EmptyFrame(ls.UDF):
    """Nothing, frame by frame."""

    def outputs(self) -> Any:
        return {"none": ls.nav("int64")}

    def process_frame(self, frame: Any, out: Any) -> None:
        pass


def untouched(n_frames: int) -> Any:
    """Frames of 256 x 256 that take no memory: nobody reads them."""
    return ls.open(np.zeros((n_frames, 256, 256), np.uint16))


def repeat(benchmark: Any, call: Callable[[], Any], title: str, *, per: float = 1.0, rounds: int = ROUNDS) -> None:
    """Time `call`, after one that is not timed."""
    benchmark.extra_info.update(title=title, per=per)
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=1)


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_python_tile(benchmark: Any, executor: str) -> None:
    source = untouched(256 if SMOKE else 32768)
    tiles = source.meta.n_frames / (2**20 / (256 * 256 * 2))
    repeat(benchmark, lambda: ls.run(source, EmptyTile(), executor=executor), f"plain-Python `process_tile`, {executor}, a tile", per=tiles)


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_python_frame(benchmark: Any, executor: str) -> None:
    source = untouched(256 if SMOKE else 32768)
    n = source.meta.n_frames
    repeat(benchmark, lambda: ls.run(source, EmptyFrame(), executor=executor), f"plain-Python `process_frame`, {executor}, a frame", per=n)


def test_run_of_nothing(benchmark: Any) -> None:
    source = ls.open(np.ones((2, 2, 256, 256), np.uint16))
    repeat(benchmark, lambda: ls.run(source, ls.udfs.FrameTotals()), "`ls.run` on 4 frames: checks, plan, threads, result")


@pytest.mark.parametrize("name", ["uint16", "mib", "dectris", "npy"])
def test_open(benchmark: Any, name: str) -> None:
    repeat(benchmark, lambda: open_data(FILES[name]), f"open {FILES[name].kind}")


@pytest.mark.parametrize("name", ["uint16", "mib", "dectris", "npy"])
def test_pick(benchmark: Any, name: str) -> None:
    source = open_data(FILES[name])
    places = iter(np.random.default_rng(1).integers(0, min(FILES[name].scan), (1000, 2)).tolist())
    repeat(benchmark, lambda: source[tuple(next(places))], f"pick one frame, {FILES[name].kind}", rounds=5 * ROUNDS)


def test_drag(benchmark: Any) -> None:
    """From new parameters to the first picture made with them, 64 x 64 x 128 x 128 uint16."""
    job = ls.start(open_data(FILES["npy"]), {"detector": ls.udfs.VirtualDetector(outer=30)}, order="coarse")
    radii = iter(np.linspace(20, 50, 1000).tolist())
    benchmark.extra_info.update(title="new parameters to the first picture of them, 134 MB", per=1.0)

    def drag() -> None:
        number = job.update("detector", outer=next(radii))
        while (seen := job.snapshot()) is None or seen.generation < number:
            time.sleep(0.0001)

    def settle() -> None:
        job.wait()

    job.wait()
    benchmark.pedantic(drag, setup=settle, rounds=ROUNDS, warmup_rounds=1)
    job.wait()


# -- fresh processes ---------------------------------------------------------------------------------------------------

FIRST = """
import time
begun = time.perf_counter()
import numpy as np
import libstream as ls
ls.run(np.ones((4, 4, 64, 64), np.uint16), ls.udfs.{first}())
first = time.perf_counter() - begun
begun = time.perf_counter()
ls.run(np.ones((4, 4, 64, 64), np.uint16), ls.udfs.{second}())
print(first, time.perf_counter() - begun)
"""


def fresh(cache: str, first: str, second: str) -> tuple[float, float, float]:
    """Seconds in a fresh process: the whole process, the first run with imports, and the first run of another UDF after it."""
    env = {**os.environ, "LIBSTREAM_CACHE_DIR": cache}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has files of bytecode
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", FIRST.format(first=first, second=second)],
        cwd=links.ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    a, b = map(float, done.stdout.split())
    return time.perf_counter() - begun, a, b


@pytest.mark.parametrize("what", ["cold", "warm"])
@pytest.mark.parametrize("udf", UDFS)
def test_first_use(benchmark: Any, udf: str, what: str) -> None:
    """A built-in UDF in a fresh process, from its first import to the result."""
    state = "compiled now" if what == "cold" else "compiled before"
    benchmark.extra_info.update(title=f"first use of {udf}, fresh process, {state}", per=1.0)
    with tempfile.TemporaryDirectory(prefix="libstream-bench-") as kept:
        if what == "warm":
            fresh(kept, udf, "FrameTotals")

        def once() -> float:
            with tempfile.TemporaryDirectory(prefix="libstream-bench-") as empty:
                return fresh(empty if what == "cold" else kept, udf, udf)[1]

        benchmark.extra_info["seconds"] = [once() for _ in range(PROCESSES)]
        benchmark.pedantic(lambda: None)


@pytest.mark.parametrize("udf", UDFS)
def test_next_use(benchmark: Any, udf: str) -> None:
    """A built-in UDF that was compiled before, in a process that has already run another one."""
    benchmark.extra_info.update(title=f"first use of {udf}, running process, compiled before", per=1.0)
    with tempfile.TemporaryDirectory(prefix="libstream-bench-") as kept:
        fresh(kept, "FrameTotals", udf)
        benchmark.extra_info["seconds"] = [fresh(kept, "FrameTotals", udf)[2] for _ in range(PROCESSES)]
        benchmark.pedantic(lambda: None)
