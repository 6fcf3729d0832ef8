"""Four producers, a router, two consumers in workers of Dask: the result is that of the stored frames, also where a worker is killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.live.ledger import imbalance
from libstream.route import health
from tests.live.sending import Sender, free_ports

pytestmark = [
    pytest.mark.leaves("files", "connections between the parts of a cluster that lives on"),
    pytest.mark.leaves("children", "workers and router live until the module is over"),
    pytest.mark.leaves("threads", "those of Dask's client and of the router's connections live until then, too"),
]
SCAN, SIDE = (12, 16), 576
LIMIT_S = 60.0
KILLS = [*range(2), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))]
SCANS = [10, pytest.param(50, marks=pytest.mark.soak)]


@pytest.fixture(scope="module")
def frames() -> Any:
    return np.random.default_rng(0).integers(0, 4096, (*SCAN, SIDE, SIDE), dtype=np.uint16)


def udfs() -> dict[str, ls.UDF]:
    return {"sum": ls.udfs.Sum(), "total": ls.udfs.FrameTotals(), "com": ls.udfs.CenterOfMass(), "max": ls.udfs.Max()}


@pytest.fixture(scope="module")
def stored(frames: Any) -> ls.Result:
    return ls.run(ls.open(frames), udfs())


class Setup:
    """A 4D Camera in this process, a router beside it, consumers in two workers."""

    def __init__(self, frames: Any, executor: Any, live: Any, url: str, health_url: str) -> None:
        self.source, self.executor, self.live, self.url, self.health_url = ls.open(frames), executor, live, url, health_url
        self.run = 0

    def send(self, **options: Any) -> Sender:
        self.run += 1
        return Sender(self.source, self.url, {"run": self.run, **options})

    def wait_for_both(self) -> None:
        """Both consumers; Dask itself may need a quarter of a minute to see that a worker is to be replaced."""
        end = time.monotonic() + LIMIT_S
        while self.live.n_consumers != 2:
            assert time.monotonic() < end, f"there are {self.live.n_consumers} consumers, not 2: {self.live.problems}"
            time.sleep(0.02)

    def taken(self) -> Any:
        found = self.live.wait(LIMIT_S)
        assert found is not None, self.live.problems
        return found

    def start(self, acquisition: Any) -> ls.api.Job:
        return ls.start(acquisition, udfs(), executor=self.executor)


@pytest.fixture(scope="module")
def setup(frames: Any) -> Iterator[Setup]:
    p = free_ports(6)
    url = f"sectors://127.0.0.1:{p[0]}-{p[3]}?info={p[4]}"
    with ls.executor("dask", workers=2) as executor:
        cluster = {"health": str(p[5]), "wait_s": LIMIT_S, "timeout_s": 3.0}
        with ls.connect(url, executor=executor, ring_bytes=512 << 20, cluster=cluster) as live:
            yield Setup(frames, executor, live, url, f"http://127.0.0.1:{p[5]}")


def same(result: ls.Result, stored: ls.Result) -> None:
    assert imbalance(result.ledger) == ""
    assert result.complete, result.ledger
    for key in stored:
        for name, expected in stored[key].items():
            assert result[key][name].dtype == expected.dtype
            assert result[key][name].tobytes() == expected.tobytes(), (key, name)


@pytest.mark.parametrize("n", SCANS)
def test_scans_one_after_another_are_those_of_the_stored_frames(setup: Setup, stored: ls.Result, n: int) -> None:
    pids = set(setup.executor._connected().run(os.getpid).values())
    for _ in range(n):
        sender = setup.send()
        result = setup.start(setup.taken()).wait(LIMIT_S)
        same(result, stored)
        assert result.run["acquisition"]["state"] == "done"
        sender.join()
    assert set(setup.executor._connected().run(os.getpid).values()) == pids  # nothing was started again
    found = health.fetch(setup.health_url)
    assert found["consumers"] == 2
    assert sum(node["frames"] > 0 for node in found["nodes"]) == 3


@pytest.mark.parametrize("seed", KILLS)
def test_a_worker_killed_in_the_middle_changes_nothing(setup: Setup, stored: ls.Result, seed: int) -> None:
    rng = random.Random(seed)
    setup.wait_for_both()
    sender = setup.send(rate=400.0)
    job = setup.start(setup.taken())
    after = rng.randrange(0, 150)
    end = time.monotonic() + LIMIT_S
    while job.progress.n_done < after and time.monotonic() < end:
        time.sleep(0.002)
    victim = rng.choice(sorted(setup.executor._connected().run(os.getpid).values()))
    os.kill(victim, signal.SIGKILL)
    result = job.wait(LIMIT_S)
    same(result, stored)
    sender.join()
    setup.wait_for_both()


def test_a_router_that_is_killed_ends_the_scan_and_is_started_again(setup: Setup, stored: ls.Result) -> None:
    setup.wait_for_both()
    sender = setup.send(rate=50.0)
    acquisition = setup.taken()
    job = setup.start(acquisition)
    while job.progress.n_done < 40:
        time.sleep(0.002)
    os.kill(setup.live._owned.pid, signal.SIGKILL)
    begun = time.monotonic()
    result = job.wait(LIMIT_S)
    assert time.monotonic() - begun < 20  # 3 s were agreed
    assert imbalance(result.ledger) == ""
    ledger = result.ledger
    assert 40 <= ledger["processed"] < SCAN[0] * SCAN[1]
    assert ledger["processed"] + ledger["missing"] == SCAN[0] * SCAN[1]
    assert (acquisition.state, result.run["acquisition"]["state"]) == ("incomplete", "incomplete")
    sender.stop()
    setup.wait_for_both()
    time.sleep(1.0)  # what the old sender had underway has arrived: sectors of two runs at once would end the newer one
    sender = setup.send()
    acquisition = setup.taken()
    while acquisition.run != setup.run:  # the rest of the scan before, without its beginning
        acquisition = setup.taken()
    same(setup.start(acquisition).wait(LIMIT_S), stored)
    sender.join()


def test_results_grow_while_frames_come(setup: Setup) -> None:
    setup.wait_for_both()
    sender = setup.send(rate=150.0)
    job = setup.start(setup.taken())
    counts = [r.coverage.counts["processed"] for r in job.results()]
    assert counts[-1] == SCAN[0] * SCAN[1]
    assert counts == sorted(counts)
    assert len(set(counts)) >= 4  # 1.3 s of frames
    sender.join()
