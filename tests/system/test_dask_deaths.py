"""Workers of Dask that die at any moment, also at the worst ones: the same bits, no hang, and there are as many as before."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.executors.dask import DaskExecutor
from libstream.testing.sources import ScriptedSource, part_filled
from tests.system.test_dask import LIMIT_S, Slow, assert_same_bits, pids, wait_until

pytestmark = [
    pytest.mark.leaves("files", "connections between the parts of a cluster that lives on"),
    pytest.mark.leaves("threads", "of the worker that is started anew"),
    pytest.mark.leaves("children", "the worker that is started anew"),
]
KILLS = [*range(3), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 20))]


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskExecutor]:
    ex = DaskExecutor(workers=2)
    yield ex
    ex.close()


@pytest.fixture(scope="module")
def client(cluster: DaskExecutor) -> Any:
    return cluster._connected()


def wait_for_both(cluster: DaskExecutor) -> None:
    """Until both workers are there; one that Dask has given up is replaced, as at the begin of a run."""

    def there() -> bool:
        cluster._heal(n := len(cluster._connected().nthreads()))
        return n == 2

    wait_until(there, "two workers")


@pytest.mark.parametrize("seed", KILLS)
def test_a_killed_worker_changes_nothing(cluster: DaskExecutor, client: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 1000, (40, 25, 16, 16)).astype("u2")
    source = ScriptedSource(frames, part_filled(seed, most=9))
    ex = DaskExecutor(client=client, combine_bytes=int(rng.choice([0, 1 << 20])), snapshot_s=0.2)
    here = ls.run(source, {"slow": Slow(seconds=0.0)}, executor="threads")
    wait_for_both(cluster)
    before = pids(client)
    job = ls.start(source, {"slow": Slow(seconds=0.0015)}, executor=ex)
    wait_until(lambda: job.snapshot() is not None, "the first snapshot")
    time.sleep(float(rng.uniform(0, 0.4)))
    os.kill(int(rng.choice(before)), signal.SIGKILL)
    assert not job.done, "it was killed too late"
    there = job.wait(LIMIT_S)
    assert there.complete
    assert_same_bits(there, here)


def test_a_worker_that_dask_gives_up_is_replaced(cluster: DaskExecutor, client: Any) -> None:
    """Dask closes the nanny of a worker that is not back in time, and forgets it."""
    import dask

    wait_for_both(cluster)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}):
        os.kill(pids(client)[0], signal.SIGKILL)
        wait_until(lambda: len(cluster._cluster.workers) == 1, "Dask has given it up")
        wait_until(lambda: len(client.nthreads()) == 1, "the nanny takes its new worker along")
    assert ls.run(np.ones((4, 4, 4, 4), "u2"), ls.udfs.Sum(), executor=cluster)["sum"]["sum"].max() == 16
    wait_until(lambda: len(client.nthreads()) == 2, "a new worker")


def test_a_worker_that_dies_while_it_is_told_of_a_run(cluster: DaskExecutor, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_both(cluster)
    tell, told = client.register_plugin, []

    def and_die(plugin: Any, name: str) -> Any:
        told.append(name)
        if len(told) == 1:
            os.kill(pids(client)[0], signal.SIGKILL)
            raise OSError("broken pipe")  # what Dask raises where it does not know yet
        return tell(plugin, name=name)

    monkeypatch.setattr(client, "register_plugin", and_die)
    result = ls.run(np.ones((4, 4, 4, 4), "u2"), ls.udfs.Sum(), executor=cluster)
    assert result["sum"]["sum"].max() == 16
    assert len(told) == 2


def test_a_fetch_from_a_worker_that_dies_is_begun_anew(cluster: DaskExecutor, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's client goes on for half a minute to connect to it."""
    wait_for_both(cluster)
    gather, victim, hung = client.gather, pids(client)[0], []

    def hangs(futures: Any, *, direct: bool | None, **more: Any) -> Any:
        if not direct or hung:
            return gather(futures, direct=direct, **more)
        os.kill(victim, signal.SIGKILL)
        hung.append(len(futures))
        return asyncio.sleep(2 * LIMIT_S)

    monkeypatch.setattr(client, "gather", hangs)
    result = ls.start(np.ones((8, 8, 4, 4), "u2"), {"slow": Slow(seconds=0.01)}, executor=cluster).wait(LIMIT_S / 2)
    assert hung
    assert result["slow"]["n"] == 64
