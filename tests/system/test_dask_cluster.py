"""A scheduler and workers as separate programs, as in a laboratory: reached by address, workers join and leave, the scheduler is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import NotInstalledError, UsageError, WorkerLostError
from libstream.testing.sources import ScriptedSource, part_filled
from tests import links
from tests.system.test_dask import LIMIT_S, Slow, assert_same_bits, wait_until

pytestmark = pytest.mark.leaves("files", "connections to a cluster that lives on")


class Cluster:
    """`dask scheduler` and `dask worker`s, each its own process."""

    def __init__(self, folder: Path) -> None:
        self._file, self._folder = folder / "scheduler.json", folder
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", ":0",
                                     "--scheduler-file", str(self._file))  # fmt: skip
        wait_until(self._file.exists, "the scheduler has written where it is")
        self.address = json.loads(self._file.read_text())["address"].removeprefix("tcp://")

    def join(self) -> None:
        self.workers.append(
            self._start("worker", self.address, "--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--host", "127.0.0.1")
        )

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", what, *arguments]
        with (self._folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=links.ROOT)

    def close(self) -> None:
        for p in (*self.workers, self.scheduler):
            p.terminate()
        for p in (*self.workers, self.scheduler):
            try:
                p.wait(10.0)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    cluster.join()
    try:
        yield cluster
    finally:
        ls.shutdown()
        cluster.close()


def source_of(seed: int) -> Any:
    frames = np.random.default_rng(seed).integers(0, 1000, (40, 25, 16, 16)).astype("u2")
    return ScriptedSource(frames, part_filled(seed, most=9))


@pytest.mark.leaves("children", "the worker that joins")
def test_workers_join_and_leave(cluster: Cluster) -> None:
    """A worker that joins a run is told of it and takes part; what one that leaves has taken is done by the others."""
    source = source_of(1)
    here = ls.run(source, {"slow": Slow(seconds=0.0)})
    with ls.executor(f"dask://{cluster.address}", combine_bytes=0, snapshot_s=0.1) as ex:
        client: Any = ex._connected()  # type: ignore[attr-defined]
        wait_until(lambda: len(client.nthreads()) == 1, "a worker")
        job = ls.start(source, {"slow": Slow(seconds=0.008)}, executor=ex)
        cluster.join()
        wait_until(lambda: len(client.nthreads()) == 2, "a second worker")
        wait_until(lambda: all(client.processing().values()) or job.done, "the second worker takes part")
        assert not job.done, "the run was over before the second worker was there"
        cluster.workers[0].send_signal(signal.SIGTERM)
        there = job.wait(LIMIT_S)
        cluster.workers.pop(0).wait(LIMIT_S)
        assert_same_bits(there, here)
        assert len(client.nthreads()) == 1


def test_the_command_line_takes_an_address(cluster: Cluster, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.arange(8 * 8 * 4 * 4, dtype="u2").reshape(8, 8, 4, 4))
    command = [sys.executable, "-m", "libstream", "run", "scan.npy", "--udf", "Sum", "-o", "sum.h5"]
    done = subprocess.run(
        [*command, "--executor", f"dask://{cluster.address}"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    result = ls.load_result(tmp_path / "sum.h5")
    np.testing.assert_array_equal(result["sum"]["sum"], np.load(tmp_path / "scan.npy").sum((0, 1)))
    assert result.run["executor"] == "dask"


def test_an_address_takes_no_number_of_workers(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match="a cluster has the workers that it has"), ls.executor(f"dask://{cluster.address}", workers=2):
        pass


def test_nobody_at_the_address() -> None:
    with pytest.raises(OSError, match=r"the Dask scheduler at tcp://127\.0\.0\.1:9 does not answer"):
        ls.run(np.ones((2, 2, 4, 4)), ls.udfs.Sum(), executor="dask://127.0.0.1:9")


@pytest.mark.leaves("threads", "the client of the scheduler that was killed gives up after a while")
def test_a_scheduler_that_is_killed(tmp_path: Path) -> None:
    """A clear error at once; what was merged is kept, and can be saved."""
    cluster = Cluster(tmp_path)
    cluster.join()
    try:
        with ls.executor(f"dask://{cluster.address}") as ex:
            job = ls.start(source_of(2), {"slow": Slow(seconds=0.02)}, executor=ex)
            wait_until(lambda: (s := job.snapshot()) is not None and s.coverage.counts["processed"] > 50, "some results")
            cluster.scheduler.kill()
            begun = time.monotonic()
            with pytest.raises(WorkerLostError, match=r"the connection to the Dask scheduler at tcp://127\.0\.0\.1:\d+ was lost"):
                job.wait(LIMIT_S)
            assert time.monotonic() - begun < 10.0
            result = job.snapshot()
            assert result is not None
            assert not result.complete
            result.save(tmp_path / "part.h5")
            again = ls.load_result(tmp_path / "part.h5")
            assert again.coverage.counts["processed"] == result["slow"]["n"] > 50
    finally:
        cluster.close()


def test_without_dask() -> None:
    code = "import sys; sys.modules['distributed'] = None; import libstream as ls; ls.run([[[[1]]]], ls.udfs.Sum(), executor='dask')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, cwd=links.ROOT)
    assert (
        f"{NotInstalledError.__name__}: executor 'dask' needs distributed, which is not installed: pip install libstream[dask]"
        in done.stderr
    )


@pytest.mark.parametrize("guarded", [True, False])
def test_scripts(tmp_path: Path, guarded: bool) -> None:
    """Dask's workers import the script: it needs its guard, and nothing is left or printed when it ends without a shutdown."""
    run = "print(int(ls.run(np.ones((4, 4, 4, 4), 'u2'), ls.udfs.Sum(), executor='dask')['sum']['sum'].sum()))"
    body = f"if __name__ == '__main__':\n    {run}\n" if guarded else f"{run}\n"
    (tmp_path / "script.py").write_text(f"import numpy as np\nimport libstream as ls\n{body}")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=LIMIT_S, cwd=tmp_path)
    if guarded:
        assert (done.stdout.strip(), done.returncode, done.stderr) == ("256", 0, "")
    else:
        assert done.returncode == 1
        assert "put what it does under `if __name__ == '__main__':`" in done.stderr


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.cluster", "--smoke", "--json", str(tmp_path / "report.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=links.ROOT)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert [job["same_bits"] for job in report["jobs"]] == [True, True]
    assert len(report["fixed_ms"]) == 4
