"""Runs on a real Slurm of one node: the same bits as threads, whatever becomes of the jobs, and no job is left.

Needs Debian's Slurm (see `private_slurm`); where it is not installed these tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import CancelledError, WorkerLostError
from libstream.testing.sources import ScriptedSource, part_filled
from tests import links
from tests.cluster.private_slurm import PrivateSlurm, missing
from tests.cluster.test_dask_live import same, udfs
from tests.live.sending import Sender, free_ports
from tests.system.test_dask import Slow, assert_same_bits

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.leaves("files", "of Dask's event loop")]
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    with PrivateSlurm(tmp_path_factory.mktemp("slurm") / "run") as running:
        yield running


class Cluster:
    """The Slurm, and executors on it whose lines are kept."""

    def __init__(self, slurm: PrivateSlurm, folder: Path) -> None:
        self.slurm, self.folder, self.lines = slurm, folder, list[str]()

    def executor(self, **settings: Any) -> Any:
        given = {"cores": 1, "memory": "500 MB", "interface": "lo", "poll_s": 0.3, "log_directory": self.folder / "logs"}
        return ls.executor("slurm", say=self.lines.append, **{**given, **settings})

    def said(self, text: str) -> bool:
        return any(re.search(text, line) for line in self.lines)

    def nothing_left(self) -> None:
        """No job waits or runs; those whose processes are just ending are gone soon."""
        assert self.slurm.jobs("PENDING", "RUNNING", "SUSPENDED") == []
        wait_until(lambda: self.slurm.jobs() == [], "completing jobs")


@pytest.fixture
def cluster(slurm: PrivateSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    monkeypatch.setenv("PYTHONPATH", str(links.ROOT))  # the workers find the UDFs of the tests
    assert slurm.jobs() == []
    return Cluster(slurm, tmp_path)


def wait_until(condition: Callable[[], Any], what: object) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT_S:g} s: {what}"
        time.sleep(0.02)


def source_of(seed: int) -> Any:
    frames = np.random.default_rng(seed).integers(0, 1000, (40, 25, 16, 16)).astype("u2")
    return ScriptedSource(frames, part_filled(seed, most=9))


def test_a_file_gives_the_bits_of_threads(cluster: Cluster) -> None:
    """On two nodes of two processes each. What was submitted is what the dry run shows; the queue is told; nothing is left."""
    frames = np.random.default_rng(1).normal(100, 30, (20, 25, 32, 32)).astype("f4")
    np.save(cluster.folder / "scan.npy", frames)
    scan = ls.open(cluster.folder / "scan.npy")
    udfs = [ls.udfs.Sum(), ls.udfs.CenterOfMass(), ls.udfs.StdDev(), ls.udfs.VirtualDetector(inner=2, outer=9)]
    here = ls.run(scan, udfs)
    with cluster.executor(nodes=2, cores=2, memory="900 MB") as ex:
        dry = ex.job_script()
        assert cluster.slurm.jobs() == []
        assert_same_bits(ls.run(scan, udfs, executor=ex), here)
        first = cluster.slurm.jobs()[0]
        submitted = cluster.slurm.run("scontrol", "write", "batch_script", first, "-")
        wait_until(lambda: cluster.said(r"^Slurm: 2 nodes running$"), cluster.lines)
        assert_same_bits(ls.run(scan, udfs, executor=ex), here)
        assert len(cluster.slurm.jobs()) == 2, "both runs have the same jobs"
        client = ex.client
        assert len(client.nthreads()) == 4
        # the default of Dask halves the rate of streams
        assert set(client.run(lambda: os.environ["MALLOC_MMAP_THRESHOLD_"]).values()) == {"33554432"}
    assert alike(submitted.strip()) == alike(dry.strip())
    assert cluster.said(r"^Slurm: submitted 2 jobs \(.*\) called libstream-\w+; logs in .*logs$")
    assert cluster.said(r"^Slurm: waiting for 2 nodes: ")
    cluster.nothing_left()


def alike(script: str) -> str:
    """Without what each run makes anew."""
    return re.sub(r"libstream-[0-9a-f]{6}(-\d)?|(?<=127\.0\.0\.1:)\d+|(?<=\.keys-)\w+", "*", script)


def test_a_job_that_is_cancelled_is_replaced(cluster: Cluster) -> None:
    source = source_of(2)
    here = ls.run(source, {"slow": Slow(seconds=0.0)})
    with cluster.executor(nodes=2, combine_bytes=0, snapshot_s=0.1) as ex:
        job = ls.start(source, {"slow": Slow(seconds=0.006)}, executor=ex)
        wait_until(lambda: cluster.said(r"^Slurm: 2 nodes running$"), cluster.lines)
        wait_until(lambda: job.snapshot() is not None, "the first snapshot")
        assert not job.done, "the run was over before both nodes were there"
        lost = cluster.slurm.jobs("RUNNING")[0]
        cluster.slurm.run("scancel", lost)
        assert_same_bits(job.wait(LIMIT_S), here)
        says = rf"job {lost} on .* was lost \(CANCELLED\); what it had is computed again.*\(try 1 of 3\)"
        wait_until(lambda: cluster.said(says), cluster.lines)
        wait_until(lambda: len(ex.client.nthreads()) == 2, "its place is taken")
    cluster.nothing_left()


def test_no_job_is_left(cluster: Cluster) -> None:
    """A clear error at once, what was merged is kept, and the next run asks for nodes again; they are given back after a while."""
    with cluster.executor(nodes=1, retries=0, idle_s=1.0, snapshot_s=0.1) as ex:
        job = ls.start(source_of(3), {"slow": Slow(seconds=0.01)}, executor=ex)
        wait_until(lambda: (s := job.snapshot()) is not None and s.coverage.counts["processed"] > 20, "some results")
        cluster.slurm.run("scancel", *cluster.slurm.jobs())
        begun = time.monotonic()
        says = r"no Slurm job is left: job \d+ on .* was lost \(CANCELLED\)\. Their logs are .*logs/libstream-"
        with pytest.raises(WorkerLostError, match=says):
            job.wait(LIMIT_S)
        assert time.monotonic() - begun < 10.0
        result = job.snapshot()
        assert result is not None
        assert 20 < result["slow"]["n"] == result.coverage.counts["processed"] < 1000
        assert ls.run(np.ones((4, 4, 4, 4), "u2"), ls.udfs.Sum(), executor=ex)["sum"]["sum"].max() == 16
        wait_until(lambda: cluster.said("nothing to do for 1 s, the nodes are given back") and not cluster.slurm.jobs(), cluster.lines)


def test_a_run_is_cancelled_in_the_queue(cluster: Cluster) -> None:
    with cluster.executor(nodes=2, directives=["--hold"]) as ex:
        job = ls.start(source_of(4), {"slow": Slow()}, executor=ex)
        wait_until(lambda: cluster.said(r"waiting for 2 nodes: 2 pending \(JobHeldUser\)"), cluster.lines)
        job.cancel()
        with pytest.raises(CancelledError):
            job.wait(5.0)
    cluster.nothing_left()


# -- live ------------------------------------------------------------------------------------------------------------------


@pytest.mark.leaves("threads", "of the router's connections")
def test_live_scans_are_those_of_the_stored_frames(cluster: Cluster) -> None:
    """Four producers, a router, a consumer on each of two nodes. One job is cancelled in the middle of the second scan: nothing is lost."""
    frames = np.random.default_rng(0).integers(0, 4096, (12, 16, 576, 576), dtype=np.uint16)
    stored = ls.run(frames, udfs())
    ports = free_ports(5)
    url = f"sectors://127.0.0.1:{ports[0]}-{ports[3]}?info={ports[4]}"
    how = {"consumers": 2, "wait_s": LIMIT_S, "timeout_s": 3.0}
    with cluster.executor(nodes=2) as ex, ls.connect(url, executor=ex, ring_bytes=256 << 20, cluster=how) as live:
        assert cluster.said("^Slurm: waiting for 2 nodes: ")
        for run, rate in ((1, None), (2, 150.0)):
            sender = Sender(ls.open(frames), url, {"run": run, **({"rate": rate} if rate else {})})
            acquisition = live.wait(LIMIT_S)
            assert acquisition is not None, live.problems
            job = ls.start(acquisition, udfs(), executor=ex)
            if run == 2:
                wait_until(lambda job=job: job.progress.n_done > 20, "the scan has begun")
                cluster.slurm.run("scancel", cluster.slurm.jobs("RUNNING")[0])
            same(job.wait(LIMIT_S), stored)
            sender.join()
        wait_until(lambda: cluster.said("a new one is submitted") and live.n_consumers == 2, "the consumer of the job in its place")
    cluster.nothing_left()


# -- the command line --------------------------------------------------------------------------------------------------

SLOW = """
import time
import libstream as ls

class Slow(ls.UDF):
    def outputs(self):
        return {"n": ls.nav("float64")}

    def process_frame(self, frame, out, at):
        time.sleep(0.02)
        out.n[...] = at.index
"""


@contextlib.contextmanager
def started(cluster: Cluster, *words: str, settings: str = "") -> Iterator[subprocess.Popen[str]]:
    folder = cluster.folder
    (folder / "slow.py").write_text(SLOW)
    (folder / "c.toml").write_text(f"cores = 1\nmemory = '500 MB'\ninterface = 'lo'\npoll_s = 0.3\n{settings}\n")
    np.save(folder / "scan.npy", np.zeros((20, 100, 4, 4), np.uint8))
    line = [sys.executable, "-m", "libstream", "run", "scan.npy", "--udf", "slow.py", "-o", "out.h5", "--executor", "slurm"]
    with subprocess.Popen(
        [*line, "--slurm-config", "c.toml", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def err_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    said = ""
    while text not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said


def test_ctrl_c_leaves_no_job(cluster: Cluster) -> None:
    with started(cluster, "--nodes", "2") as process:
        said = err_until(process, "frames (")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, err
    assert "Slurm: waiting for 2 nodes: " in said
    assert "saved to out.h5, marked incomplete" in err
    assert "Traceback" not in err
    cluster.nothing_left()
    result = ls.load_result(cluster.folder / "out.h5")
    valid = result.valid.reshape(-1)
    assert 0 < valid.sum() < 2000
    np.testing.assert_array_equal(result["n"].reshape(-1)[valid], np.flatnonzero(valid))


def test_ctrl_c_in_the_queue_leaves_no_job(cluster: Cluster) -> None:
    with started(cluster, settings='directives = ["--hold"]') as process:
        err_until(process, "1 pending (JobHeldUser)")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, err
    assert "nothing was computed yet, nothing was saved" in err
    cluster.nothing_left()


def test_jobs_end_when_the_program_is_killed(cluster: Cluster) -> None:
    with started(cluster, settings="death_timeout_s = 10.0") as process:
        err_until(process, "1 node running")
        process.kill()
        process.communicate(timeout=LIMIT_S)
    wait_until(lambda: cluster.slurm.jobs() == [], "the job ends by itself")


def test_a_partition_that_is_not_there(cluster: Cluster) -> None:
    with started(cluster, settings="partition = 'nope'") as process:
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2
    assert "libstream: error: sbatch refused the job: invalid partition specified: nope; " in err
    assert "Asked for were partition = 'nope', cores = 1, memory = '500 MB', walltime = '00:30:00'; `sinfo -s` lists the part" in err
