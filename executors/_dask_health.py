"""How the workers of a Dask scheduler are, in the shape of docs/reference/router.md: looked up in the background, never waited for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

METRIC = "libstream"
"""Name of what our workers add to the figures that they send to the scheduler with every heartbeat."""
LOOK_S = 1.0
SILENT_S = 10.0
RATE_S = 3.0
"""Rates are means over about this time: heartbeats come every half second to every few seconds."""
REMEMBERED_S = 60.0
"""How long a worker that has gone is shown."""


class Health:
    """Of one scheduler. `of` returns at once with what was found last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: Any = None
        self._begun = 0.0
        self._heard = 0.0
        self._found: dict[str, Any] = {}
        self._counts: dict[str, deque[tuple[float, int, int]]] = {}
        self._gone: dict[str, tuple[dict[str, Any], float]] = {}
        self._lost = 0

    def of(self, client: Any) -> dict[str, Any]:
        """The dictionary; `state` is "silent" where the scheduler does not answer."""
        with self._lock:
            now = time.monotonic()
            address = str(getattr(client.scheduler, "address", "")) if client.scheduler is not None else ""
            if self._asked is not None and self._asked.done():
                asked, self._asked = self._asked, None
                if not asked.cancelled() and asked.exception() is None:
                    self._heard = now
                    self._found = self._read(asked.result(), now)
            if self._asked is None and now - self._begun >= LOOK_S and client.status == "running":
                self._begun = now
                self._heard = self._heard or now
                self._asked = asyncio.run_coroutine_threadsafe(_ask(client), client.loop.asyncio_loop)
            silent = client.status != "running" or (self._heard and now - self._heard > SILENT_S)
            nodes = self._found.get("nodes", [])
            busy = any(n["state"] == "busy" for n in nodes)
            return {
                "v": 1, "kind": "dask", "state": "silent" if silent else "running" if busy else "waiting", "address": address,
                "consumers": self._found.get("consumers", 0), "consumers_lost": self._lost, "problems": [], "nodes": nodes,
            }  # fmt: skip

    def _read(self, identity: Mapping[str, Any], now: float) -> dict[str, Any]:
        workers = identity.get("workers", {})
        before = {n["name"]: n for n in self._found.get("nodes", []) if n["state"] != "lost"}
        nodes = [self._node(address, worker) for address, worker in workers.items()]
        there = {n["name"] for n in nodes}
        for name, node in before.items():
            if name not in there:
                self._lost += 1
                self._counts.pop(name, None)
                gone = {**node, "state": "lost", "frames_per_s": 0.0, "bytes_per_s": 0.0, "blocks": 0}
                gone["last_error"] = node["last_error"] or "this worker has gone"
                self._gone[name] = (gone, now)
        self._gone = {k: v for k, v in self._gone.items() if now - v[1] < REMEMBERED_S}
        return {"consumers": len(nodes), "nodes": [*nodes, *(node for node, _ in self._gone.values())]}

    def _node(self, address: str, worker: Mapping[str, Any]) -> dict[str, Any]:
        metrics = worker.get("metrics", {})
        ours = metrics.get(METRIC) or {"frames": 0, "bytes": 0, "t": 0.0, "pid": 0, "last_error": ""}
        host = str(worker.get("host", ""))
        name = f"{host}:{urlsplit(address).port or worker.get('id')}"
        frames_per_s, bytes_per_s = self._rates(name, ours)
        limit, used = int(worker.get("memory_limit") or 0), int(metrics.get("memory", 0))
        tasks = metrics.get("task_counts", {})
        blocks = sum(int(tasks.get(k, 0)) for k in ("executing", "ready", "constrained"))
        return {
            "name": name, "role": "worker", "host": host, "pid": ours["pid"], "state": "busy" if blocks or frames_per_s else "idle",
            "frames": ours["frames"], "bytes": ours["bytes"], "frames_per_s": frames_per_s, "bytes_per_s": bytes_per_s,
            "fill": min(1.0, used / limit) if limit else None, "ring_bytes": limit, "memory_bytes": used, "blocks": blocks,
            "seen_s": round(max(0.0, time.time() - float(worker.get("last_seen", 0.0))), 3), "last_error": ours["last_error"],
        }  # fmt: skip

    def _rates(self, name: str, ours: Mapping[str, Any]) -> tuple[float, float]:
        if not ours["t"]:  # it has not been told of a run yet
            return 0.0, 0.0
        seen = self._counts.setdefault(name, deque())
        newest = (float(ours["t"]), int(ours["frames"]), int(ours["bytes"]))
        if not seen or newest[0] > seen[-1][0]:
            seen.append(newest)
        while len(seen) > 2 and seen[-1][0] - seen[1][0] >= RATE_S:
            seen.popleft()
        (t0, f0, b0), (t1, f1, b1) = seen[0], seen[-1]
        return ((f1 - f0) / (t1 - t0), (b1 - b0) / (t1 - t0)) if t1 > t0 else (0.0, 0.0)


async def _ask(client: Any) -> Any:
    return await client.scheduler.identity()
