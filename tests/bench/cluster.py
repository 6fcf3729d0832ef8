"""Dask worker processes against threads: `python -m tests.bench.cluster [--smoke] [--workers 2] [--peers FOLDER] [--json FILE]`.

Jobs of at least 20 s of threads time (64 arbitrary masks; a plain-Python UDF) in turn on both, worker start excluded, and what a
partition costs beyond its work. Printed as medians and ratios; with --peers, LiberTEM's Dask executor on the masks beside it (a folder
with a virtual environment `libertem`).
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import libstream as ls
from libstream.executors.dask import DaskExecutor
from libstream.ext import FrameSource
from libstream.testing.sources import cut_at
from tests.bench.measure import load, others_busy

FRAME = (256, 256)
FRAME_BYTES = FRAME[0] * FRAME[1] * 2
WANTED = 0.8
PEER = """
import json, sys, time
import numpy as np
from libertem.api import Context
from libertem.udf.masks import ApplyMasksUDF
if __name__ == "__main__":
    path, n, workers, rounds = sys.argv[1], *map(int, sys.argv[2:])
    with Context.make_with("dask", cpus=workers, gpus=0) as context:
        data = context.load("raw", path=path, dtype="uint16", nav_shape=(n,), sig_shape=(256, 256))
        masks = np.random.default_rng(64).random((64, 256, 256), np.float32)
        udf, seconds = ApplyMasksUDF(mask_factories=lambda: masks, mask_count=64, mask_dtype=np.float32, use_sparse=False), []
        for _ in range(rounds + 1):
            begun = time.perf_counter()
            context.run_udf(data, udf)
            seconds.append(time.perf_counter() - begun)
    print(json.dumps(seconds[1:]))
"""


class Python(ls.UDF):
    """A centre of mass as one would write it first: many small steps that hold the interpreter's lock."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"com": ls.nav("f8", (2,))}

    def process_frame(self, frame: Any, out: Any) -> None:
        total = y = x = 0
        for i, row in enumerate(frame[::4, ::4].tolist()):
            for j, v in enumerate(row):
                total += v
                y += i * v
                x += j * v
        out.com[...] = (y / (total or 1), x / (total or 1))


def masks() -> ls.UDF:
    """64 of them."""
    return ls.udfs.VirtualDetector(shape="mask", mask=np.random.default_rng(64).random((64, *FRAME), np.float32))


class Cut(FrameSource):
    """The same frames in partitions of one frame."""

    def __init__(self, base: FrameSource, n: int) -> None:
        super().__init__(base.meta, base.opener, base.channel_name)
        self.n = n

    def partitions(self, planned: Any) -> Any:
        return cut_at([1] * self.n)(planned)


def frames_of(path: Path, n: int) -> FrameSource:
    """A sparse file of zeros: read from the system's cache, as large as is wanted."""
    with path.open("wb") as f:
        f.truncate(n * FRAME_BYTES)
    return ls.open(path, format="raw", dtype="u2", frame=FRAME, scan=(n,))


def timed(run: Callable[[], Any]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def large(
    name: str, udf: ls.UDF, threads: Any, ex: Any, seconds: float, rounds: int, folder: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """One job on threads and on Dask in turn."""
    n, t = 16, 0.0
    while t < min(1.0, seconds / 4):
        n *= 4
        source = frames_of(folder / "frames.raw", n)
        ls.run(source, udf, executor=threads)
        t = timed(functools.partial(ls.run, source, udf, executor=threads))
    n = max(n, int(n * seconds * 1.1 / t))
    source = frames_of(folder / "frames.raw", n)
    found: dict[str, list[float]] = {"threads": [], "dask": []}
    results = {}
    for number in range(rounds + 1):
        for side, executor in (("threads", threads), ("dask", ex)):
            keep: list[Any] = []
            took = timed(lambda e=executor, k=keep: k.append(ls.run(source, udf, executor=e)))  # type: ignore[misc]
            results[side] = keep[0]
            if number or not rounds:
                found[side].append(took)
    key = next(iter(results["dask"]))
    same = all(results["dask"][key][o].tobytes() == results["threads"][key][o].tobytes() for o in results["dask"][key])
    ratio = statistics.median(a / b for a, b in zip(found["threads"], found["dask"], strict=True))
    say(f"{name}: {n} frames ({n * FRAME_BYTES / 1e9:.1f} GB); threads {statistics.median(found['threads']):.2f} s, "
        f"dask {statistics.median(found['dask']):.2f} s; dask / threads = {ratio:.2f} (wanted >= {WANTED}); "
        f"{'the same bits' if same else 'OTHER BITS'}")  # fmt: skip
    return {"job": name, "frames": n, "seconds": found, "ratio": ratio, "same_bits": same}


def fixed(base: DaskExecutor, n: int, folder: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Milliseconds that a partition costs beyond what threads take for it; alone in a task, and as the executor groups them."""
    from libstream.executors import _dask_run

    source, out = Cut(frames_of(folder / "frames.raw", n), n), {}
    udf, client = ls.udfs.Sum(), base._connected()
    together = _dask_run.TOGETHER
    kinds = {
        "fetched one by one": replace(base._settings, combine_bytes=1 << 30),
        "merged on the workers": replace(base._settings, combine_bytes=0),
    }
    for name, settings in kinds.items():
        for grouped in (False, True):
            _dask_run.TOGETHER = together if grouped else 1
            ex = DaskExecutor(client=client)
            ex._settings = settings
            ls.run(source, udf, executor=ex)
            ms = statistics.median(1e3 * (timed(lambda e=ex: ls.run(source, udf, executor=e)) - timed(lambda: ls.run(source, udf))) / n  # type: ignore[misc]
                                   for _ in range(3))  # fmt: skip
            what = f"{name}, {'as grouped' if grouped else 'each its own task'}"
            out[what] = ms
            say(f"fixed cost of a partition, {what}: {ms:.2f} ms (wanted < 5)")
    _dask_run.TOGETHER = together
    return out


def peer(python: Path, n: int, workers: int, rounds: int, folder: Path) -> list[float]:
    """Seconds of LiberTEM's Dask executor on the masks."""
    frames_of(folder / "frames.raw", n)
    (folder / "peer.py").write_text(PEER)
    command = [str(python), str(folder / "peer.py"), str(folder / "frames.raw"), str(n), str(workers), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=folder)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--smoke", action="store_true", help="small and once: that it runs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="least time of a job on threads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    seconds, rounds, n = (0.2, 0, 20) if args.smoke else (args.seconds, args.rounds, 300)

    def say(text: str) -> None:
        print(text, flush=True)

    report: dict[str, Any] = {"load": load(), "others_busy": others_busy(), "workers": args.workers}
    say(f"load {report['load']}, others keep {100 * report['others_busy']:.0f} % of the processors busy")
    with tempfile.TemporaryDirectory(prefix="libstream-bench-") as name, ls.executor("threads", workers=args.workers) as threads:
        folder = Path(name)
        ex = DaskExecutor(workers=args.workers)
        try:
            ls.run(np.ones((4, *FRAME), "u2"), ls.udfs.Sum(), executor=ex)  # workers are started
            jobs = {"64 masks": masks(), "plain Python": Python()}
            report["jobs"] = [large(job, udf, threads, ex, seconds, rounds, folder, say) for job, udf in jobs.items()]
            report["fixed_ms"] = fixed(ex, n, folder, say)
        finally:
            ex.close()
            ls.shutdown()
        python = args.peers / "libertem" / "bin" / "python" if args.peers else None
        if python is not None and python.exists():
            first = report["jobs"][0]
            first["seconds"]["libertem"] = found = peer(python, first["frames"], args.workers, max(1, rounds), folder)
            theirs, ours = statistics.median(found), statistics.median(first["seconds"]["dask"])
            say(f"64 masks, LiberTEM on Dask: {theirs:.2f} s, {theirs / ours:.2f} times as long")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
