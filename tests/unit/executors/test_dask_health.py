"""Health of Dask's workers: rates between heartbeats, workers that have gone, a scheduler that does not answer; never waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from libstream.executors import _dask_health
from libstream.executors._dask_health import Health


class Scheduler:
    """Answers with what a test has put there."""

    address = "tcp://10.0.0.1:8786"

    def __init__(self) -> None:
        self.workers: dict[str, Any] = {}
        self.hangs = False

    async def identity(self) -> dict[str, Any]:
        if self.hangs:
            await asyncio.sleep(60.0)
        return {"workers": {k: dict(v) for k, v in self.workers.items()}}


@pytest.fixture
def client() -> Iterator[Any]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield SimpleNamespace(scheduler=Scheduler(), status="running", loop=SimpleNamespace(asyncio_loop=loop))

    async def end() -> None:
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), loop).result(10.0)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10.0)
    loop.close()


def worker(frames: int, t: float, *, error: str = "", executing: int = 1, limit: int = 0) -> dict[str, Any]:
    ours = {"frames": frames, "bytes": 1000 * frames, "t": t, "pid": 7, "last_error": error}
    metrics = {"libstream": ours, "memory": 500, "task_counts": {"executing": executing, "memory": 3}}
    return {"host": "10.0.0.2", "id": "w", "metrics": metrics, "memory_limit": limit, "last_seen": time.time()}


def looked(health: Health, client: Any) -> dict[str, Any]:
    """What is known after one more answer of the scheduler."""
    health._begun = 0.0
    health.of(client)
    asked = health._asked
    if asked is not None:
        asked.exception(10.0)
    return health.of(client)


def test_rates_and_states(client: Any) -> None:
    health = Health()
    workers = client.scheduler.workers
    workers["tcp://10.0.0.2:1"] = worker(100, 50.0, limit=1000)
    workers["tcp://10.0.0.2:2"] = {"host": "10.0.0.2", "id": "w", "metrics": {}}  # has not sent a heartbeat
    found = looked(health, client)
    assert [n["name"] for n in found["nodes"]] == ["10.0.0.2:1", "10.0.0.2:2"]
    assert (found["state"], found["consumers"], found["address"]) == ("running", 2, "tcp://10.0.0.1:8786")
    workers["tcp://10.0.0.2:1"] = worker(300, 52.0, limit=1000)
    one, other = looked(health, client)["nodes"]
    assert (one["frames_per_s"], one["bytes_per_s"], one["fill"], one["blocks"], one["state"]) == (100.0, 100_000.0, 0.5, 1, "busy")
    assert (other["frames_per_s"], other["fill"], other["state"]) == (0.0, None, "idle")
    workers["tcp://10.0.0.2:1"] = worker(300, 52.0, limit=1000, executing=0)  # the same heartbeat
    assert looked(health, client)["nodes"][0]["frames_per_s"] == 100.0
    for k in range(6):
        workers["tcp://10.0.0.2:1"] = worker(300, 53.0 + k, executing=0)
        found = looked(health, client)
    assert (found["nodes"][0]["frames_per_s"], found["state"]) == (0.0, "waiting")


def test_workers_that_have_gone(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health()
    workers = client.scheduler.workers
    workers["tcp://10.0.0.2:1"] = worker(100, 50.0)
    workers["tcp://10.0.0.2:2"] = worker(100, 50.0, error="MemoryError: no more")
    looked(health, client)
    workers.clear()
    workers["tcp://10.0.0.2:3"] = worker(0, 50.0)
    found = looked(health, client)
    assert [(n["name"], n["state"], n["last_error"]) for n in found["nodes"]] == [
        ("10.0.0.2:3", "busy", ""), ("10.0.0.2:1", "lost", "this worker has gone"), ("10.0.0.2:2", "lost", "MemoryError: no more"),
    ]  # fmt: skip
    assert (found["consumers"], found["consumers_lost"]) == (1, 2)
    assert looked(health, client)["consumers_lost"] == 2, "each is lost once"
    monkeypatch.setattr(_dask_health, "REMEMBERED_S", 0.0)
    assert [n["name"] for n in looked(health, client)["nodes"]] == ["10.0.0.2:3"]


def test_a_scheduler_that_does_not_answer(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health()
    client.scheduler.workers["tcp://10.0.0.2:1"] = worker(100, 50.0)
    looked(health, client)
    client.scheduler.hangs = True
    health._begun = 0.0
    begun = time.monotonic()
    assert health.of(client)["state"] == "running"
    monkeypatch.setattr(_dask_health, "SILENT_S", 0.0)
    found = health.of(client)
    assert time.monotonic() - begun < 5.0, "it waited"
    assert (found["state"], len(found["nodes"])) == ("silent", 1)
    client.status = "closed"
    assert health.of(client)["state"] == "silent"
