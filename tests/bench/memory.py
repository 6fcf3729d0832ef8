"""Anonymous memory of a run: a fresh process, all its children together, the largest sum seen while it runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests import links
from tests.bench.data import Files
from tests.bench.results import Results
from tests.bench.sides.libstream import open_data, udfs_of
from tests.bench.spec import Data

EVERY_S = 0.005
JOBS = ("trio", "variance", "masks16")
EXECUTORS = ("threads", "processes")


def measure(files: Files, results: Results, *, smoke: bool, say: Callable[[str], None]) -> None:
    """All executors on the uint16 scan, on the compressed file, and on one that is five times as large."""
    for name in ("uint16", "dectris", "holes"):
        data = files.get(name)
        for executor in EXECUTORS:
            for job in ("trio",) if smoke else JOBS:
                peak = peak_of(data, executor, job)
                results.memory.append({"data": name, "data_bytes": data.n_bytes, "executor": executor, "job": job, **peak})
                say(f"memory: {name}, {executor}, {job}: {peak['anonymous'] / 1e6:.0f} MB in {peak['processes']} processes")


def peak_of(data: Data, executor: str, job: str) -> dict[str, float]:
    """Largest sum of RssAnon [bytes], and the number of processes at that moment. Zeros where /proc is missing."""
    command = [sys.executable, "-m", "tests.bench.memory", data.path, data.kind, data.dtype]
    command += ["x".join(map(str, data.scan)), "x".join(map(str, data.frame)), executor, job]
    child = subprocess.Popen(command, cwd=links.ROOT)
    peak = {"anonymous": 0.0, "processes": 0.0}
    while child.poll() is None:
        found = [size for pid in _family(child.pid) if (size := _anonymous(pid)) is not None]
        if sum(found) > peak["anonymous"]:
            peak = {"anonymous": float(sum(found)), "processes": float(len(found))}
        time.sleep(EVERY_S)
    if child.returncode:
        raise RuntimeError(f"the run for the memory table failed: {' '.join(command)}")
    return peak


def _family(pid: int) -> list[int]:
    out, todo = [], [pid]
    while todo:
        out.append(todo.pop())
        try:
            for task in Path(f"/proc/{out[-1]}/task").glob("*/children"):
                todo += map(int, task.read_text().split())
        except OSError:  # it has just ended
            continue
    return out


def _anonymous(pid: int) -> int | None:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def main() -> None:
    """The process that is watched: opens the file and runs the job once."""
    path, kind, dtype, scan, frame, executor, job = sys.argv[1:]
    y, x = map(int, scan.split("x"))
    h, w = map(int, frame.split("x"))
    import libstream as ls

    data = Data("", kind, path, dtype, (y, x), (h, w))
    ls.run(open_data(data), udfs_of(job, data.frame), executor=executor)


if __name__ == "__main__":
    main()
