"""Proofs that take minutes: nothing grows with the number of runs, memory does not grow with the file, cancels leave nothing."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import libstream as ls

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="memory is read from /proc: Linux"),
]

MIB = 1 << 20


def anonymous_bytes() -> int:
    """Anonymous memory of this process and all its descendants."""
    pids, total = [os.getpid()], 0
    while pids:
        pid = pids.pop()
        try:
            pids += [int(p) for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()]
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # it has ended
            continue
        total += 1024 * sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Anonymous:"))
    return total


class Peak:
    """Most anonymous memory while a block runs, above what there was before it."""

    def __enter__(self) -> Peak:
        gc.collect()
        self.before, self.bytes, self._stop = anonymous_bytes(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.bytes = max(self.bytes, anonymous_bytes() - self.before)

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


def repeat(work: Callable[[], object], seconds: float) -> int:
    """Call `work` for so many seconds; how often."""
    stop, n = time.monotonic() + seconds, 0
    while time.monotonic() < stop:
        work()
        n += 1
    return n


class PythonTotals(ls.UDF):
    """Sum of each frame, in plain Python, so that it is not compiled and gets copies."""

    def outputs(self):
        return {"total": ls.nav("uint64"), "image": ls.sig("uint64")}

    def process_tile(self, tile, out):
        out.total[:, 0] += tile.data.sum(axis=(1, 2), dtype=np.uint64)
        out.image += tile.data.sum(axis=0, dtype=np.uint64)


@pytest.mark.parametrize("executor", ["threads", "processes"])
@pytest.mark.parametrize("udfs", ["compiled", "Python"])
def test_memory_does_not_grow_with_the_file(executor: str, udfs: str, tmp_path: Path) -> None:
    path = tmp_path / "10GB.raw"
    with path.open("wb") as file:
        file.truncate(10_000 * 1024 * 1024)  # sparse: read as zeros
    scan = ls.open(path, format="raw", dtype="u2", frame=(512, 512), scan=(100, 200))
    chosen = [PythonTotals()] if udfs == "Python" else [ls.udfs.Sum(), ls.udfs.CenterOfMass(), ls.udfs.FrameTotals()]
    with Peak() as peak:
        result = ls.run(scan, chosen, executor=executor)
    assert result.complete
    ls.shutdown()
    assert peak.bytes < 300 * MIB, f"{peak.bytes / MIB:.0f} MiB"


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_nothing_grows_with_the_number_of_runs(executor: str, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).integers(0, 1000, (16, 16, 64, 64)).astype(np.uint16))

    def once() -> None:
        scan = ls.open(tmp_path / "scan.npy")
        result = ls.run(scan, [ls.udfs.Sum(), PythonTotals(), ls.udfs.LocalMaxima(threshold=990)], executor=executor)
        assert result.complete
        result.save(tmp_path / "out.h5")
        ls.load_result(tmp_path / "out.h5")

    repeat(once, 20)
    gc.collect()
    before = anonymous_bytes(), len(os.listdir("/proc/self/fd")), threading.active_count()
    n = repeat(once, 60)
    gc.collect()
    grown = anonymous_bytes() - before[0]
    assert grown < 20 * MIB, f"{grown / MIB:.1f} MiB in {n} runs"
    assert len(os.listdir("/proc/self/fd")) <= before[1] + 2
    assert threading.active_count() <= before[2] + 1
    ls.shutdown()


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_cancels_and_updates_at_any_moment_leave_nothing(executor: str) -> None:
    rng = np.random.default_rng(1)
    scan = ls.open("sim://?scan=32,32&frame=64,64")
    expected = {r: ls.run(scan, ls.udfs.VirtualDetector(outer=r))["intensity"] for r in (5, 9)}

    cancelled: list[str] = []

    def once() -> None:
        job = ls.start(scan, {"d": ls.udfs.VirtualDetector(outer=5), "s": ls.udfs.Sum()}, executor=executor)
        time.sleep(float(rng.uniform(0, 0.05)))
        if rng.random() < 0.5:
            job.cancel()
            try:
                assert job.wait().complete, "a cancelled run is complete only where it was faster than the cancel"
            except ls.errors.CancelledError:
                cancelled.append(str(job.generation))
        else:
            job.update("d", outer=9)
            result = job.wait()
            assert result.complete
            np.testing.assert_array_equal(result["d"]["intensity"], expected[9])

    repeat(once, 10)
    gc.collect()
    before = anonymous_bytes(), len(os.listdir("/proc/self/fd"))
    n = repeat(once, 60)
    gc.collect()
    grown = anonymous_bytes() - before[0]
    assert cancelled, "no run was cancelled while it ran: make it longer"
    cancelled.clear()
    assert grown < 20 * MIB, f"{grown / MIB:.1f} MiB in {n} jobs"
    assert len(os.listdir("/proc/self/fd")) <= before[1] + 2
    ls.shutdown()
