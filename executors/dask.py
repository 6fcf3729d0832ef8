"""Dask distributed: processes of this computer, or a cluster. Scheduling, membership and transport are Dask's."""

from __future__ import annotations

import functools
import itertools
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from libstream.executors import _dask_worker as far
from libstream.executors._feed import Feed
from libstream.ext import (
    CancelFlag,
    CancelledError,
    NotInstalledError,
    Partial,
    Partition,
    Traits,
    UsageError,
    Work,
    WorkerLostError,
    n_workers_default,
)

HEARTBEAT_S = 0.05
PATIENCE_S = 5.0
"""Time that workers have to reach their next tile after a cancel, before they are restarted."""
START_S = 60.0
"""Longest wait for a first worker of a cluster, and for the answer of a scheduler."""
TRIES = 3
AHEAD = 2
"""Tasks sent for each thread of the workers beside the running one: they never wait for the client."""
COMBINE_BYTES = 64 << 10
"""Sums larger than this are merged on the workers; smaller ones cost more as a task than on the way."""
LOST_S = 8.0
"""Silence of the scheduler after which a run gives up."""
_numbers = itertools.count()


class DaskExecutor:
    """Partitions as tasks of Dask distributed.

    address: of a scheduler ("host:8786"); None starts processes on this computer. client: an existing `distributed.Client`, which is
    not closed here. workers: processes to start (default: the processors this process may use).
    path_map: beginnings of paths here and on the workers, {"/data": "/mnt/data"}, where they see the same files under other names.
    snapshot_s: how often sums are fetched from the workers. security: `distributed.Security` (default: from Dask's configuration).

    A scheduler executes what anybody sends who reaches it: only connect to one that you trust, over a network that you trust.

    Raises NotInstalledError without the extra [dask], OSError where the scheduler does not answer, UsageError where versions differ.
    """

    name: ClassVar[str] = "dask"

    def __init__(
        self, workers: int | None = None, *, address: str | None = None, client: Any = None, path_map: Mapping[str, str] | None = None,
        snapshot_s: float = 0.5, security: Any = None,
    ) -> None:  # fmt: skip
        if workers is not None and workers < 1:
            raise UsageError(f"workers must be >= 1, got {workers}")
        if workers is not None and (address is not None or client is not None):
            raise UsageError("workers= starts processes on this computer; a cluster has the workers that it has")
        self._workers, self._address, self._given, self._security = workers or n_workers_default(), address, client, security
        self.path_map, self.snapshot_s = dict(path_map or {}), snapshot_s
        self._lock = threading.Lock()
        self._client: Any = client
        self._cluster: Any = None
        self._checked: set[str] = set()

    @property
    def traits(self) -> Traits:
        """See `Traits`; starts the workers, or asks the scheduler how many there are."""
        client = self.client()
        threads = sum(w["nthreads"] for w in client.scheduler_info(n_workers=-1)["workers"].values())
        return Traits(n_workers=max(1, threads), crosses_process=True, frames_per_task_factor=2.0)

    def client(self) -> Any:
        """The `distributed.Client`, connected."""
        with self._lock:
            if self._client is None:
                self._client = self._connected()
            client = self._client
        self._check(client)
        return client

    def _connected(self) -> Any:
        try:
            import dask
            import distributed
        except ImportError as exc:
            raise NotInstalledError(f"executor 'dask' needs {exc.name}: pip install libstream[dask]", name=exc.name) from exc
        if self._address is not None:
            where = self._address if "://" in self._address else f"tcp://{self._address}"
            try:
                return distributed.Client(where, timeout=START_S / 6, security=self._security, set_as_default=False)
            except (OSError, TimeoutError) as exc:
                raise OSError(
                    f"the Dask scheduler at {where} does not answer: {exc}; check the address, and that `dask scheduler` runs"
                ) from exc
        # spawned workers import the user's main module: quiet, without a dashboard's port
        with dask.config.set({"distributed.worker.daemon": True, "distributed.admin.log-format": "%(message)s"}):
            self._cluster = distributed.LocalCluster(
                n_workers=self._workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50, memory_limit=0,
                security=self._security,
            )  # fmt: skip
        return distributed.Client(self._cluster, set_as_default=False)

    def _check(self, client: Any) -> None:
        """Wait for a worker; compare versions on those that are new."""
        workers = client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            try:
                client.wait_for_workers(1, timeout=START_S)
            except TimeoutError as exc:
                raise OSError(f"the Dask scheduler at {client.scheduler.address} has had no worker for {START_S:g} s: start some") from exc
            workers = client.scheduler_info(n_workers=-1)["workers"]
        new = [w for w in workers if w not in self._checked]
        if not new:
            return
        try:
            found = client.run(far.versions, workers=new)
        except Exception as exc:
            raise UsageError(
                f"libstream cannot be used on the Dask workers ({type(exc).__name__}: {exc}): install the same version there"
            ) from exc
        mine = far.versions()
        for worker, theirs in found.items():
            other = [f"{k} {theirs.get(k)} there, {v} here" for k, v in mine.items() if theirs.get(k) != v]
            if other:
                raise UsageError(
                    f"Dask worker {worker} has other versions: {'; '.join(other)}. Results could differ: install the same ones"
                )
        client.run(far.tune_malloc, workers=new)
        self._checked.update(new)

    def imap(self, work: Work, partitions: Iterable[Partition], *, in_flight: int, cancel: CancelFlag) -> Iterator[Partial | None]:
        """See `Executor.imap`. Yields merged neighbours too (`Partial.span`)."""
        run = _Run(self, self.client(), work, Feed(partitions), cancel)
        try:
            yield from run.results()
        finally:
            run.stop()

    def close(self) -> None:
        """Close what was started here; a client that was given is left alone."""
        with self._lock:
            client, self._client = self._client, self._given
            cluster, self._cluster = self._cluster, None
            self._checked.clear()
        if client is not None and client is not self._given:
            client.close()
        if cluster is not None:
            cluster.close()


class _Run:
    """One `imap`: tasks in flight, finished nodes of the tree on the workers."""

    def __init__(self, executor: DaskExecutor, client: Any, work: Work, feed: Feed, cancel: CancelFlag) -> None:
        import cloudpickle

        self.executor, self.client, self.feed, self.cancel = executor, client, feed, cancel
        self.token = f"{os.getpid()}-{time.time_ns()}-{next(_numbers)}"
        self.plugin = _plugin()(self.token, cloudpickle.dumps(work), executor.path_map)
        client.register_plugin(self.plugin, name=self.plugin.name)
        self.room = max(1, executor.traits.n_workers) * (1 + AHEAD)
        self.flying: dict[Any, tuple[int, int, Partition | None]] = {}  # future -> (level, i, partition)
        self.nodes: dict[tuple[int, int], Any] = {}  # finished, on the workers
        self.done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.merges = False
        self.first = True
        self.heard = time.monotonic()

    def results(self) -> Iterator[Partial | None]:
        due = 0.0
        while True:
            while (
                not self.cancel and self._n_processing() < self.room and (p := self.feed.poll(self.room - self._n_processing())) is not None
            ):
                self._submit(far.process, (self.token, p), (0, p.number), p)
            if not self.flying and (self.cancel or self.feed.ended):
                break
            if self._wait():
                due = due or time.monotonic()  # the first result at once
            now = time.monotonic()
            if self.nodes and now >= due:
                yield from self._fetched()
                due = now + self.executor.snapshot_s
            else:
                yield None
            if self.cancel:
                break
            self._look_after_scheduler(now)
        if self.cancel:
            raise CancelledError("cancelled")
        yield from self._fetched()

    def _n_processing(self) -> int:
        return sum(p is not None for _, _, p in self.flying.values())

    def _submit(self, func: Any, args: tuple[Any, ...], at: tuple[int, int], partition: Partition | None) -> None:
        future = self.client.submit(
            func, *args, pure=False, key=f"libstream-{self.token}-{at[0]}-{at[1]}-{next(_numbers)}", priority=at[0], retries=0
        )
        self.flying[future] = (*at, partition)
        future.add_done_callback(self.done.put)

    def _wait(self) -> bool:
        """Take what is finished; whether there was something."""
        try:
            found = [self.done.get(timeout=HEARTBEAT_S)]
        except queue.Empty:
            return False
        while True:
            try:
                found.append(self.done.get_nowait())
            except queue.Empty:
                break
        for future in found:
            if future in self.flying:
                self._finished(future)
        return True

    def _finished(self, future: Any) -> None:
        level, i, partition = self.flying.pop(future)
        if future.status != "finished":
            if self.cancel and future.status in ("cancelled", "error", "lost"):
                return
            self._failed(future, partition)
        self.heard = time.monotonic()
        other = self.nodes.pop((level, i ^ 1), None) if self.merges else None
        if other is None:
            self.nodes[level, i] = future
            return
        left, right = (other, future) if i & 1 else (future, other)
        self._submit(far.combine, (self.token, left, right), (level + 1, i >> 1), None)

    def _failed(self, future: Any, partition: Partition | None) -> None:
        from distributed import KilledWorker

        if future.status in ("cancelled", "lost"):
            raise WorkerLostError(
                f"the Dask scheduler at {self._where()} has dropped the run: it was restarted or closed. What was merged is kept"
            )
        exc = future.exception()
        if isinstance(exc, KilledWorker):
            where = (
                "a merge" if partition is None else f"the flat scan positions {int(partition.runs[0, 0])} to {int(partition.runs[-1, 1])}"
            )
            raise WorkerLostError(
                f"the worker process died {TRIES} times on {where}. It was killed from outside (out of memory?) or the UDF crashes the "
                "interpreter; try executor='inline' to see where"
            ) from exc
        raise exc.with_traceback(None) if exc is not None else RuntimeError("a Dask task failed without saying why")

    def _fetched(self) -> Iterator[Partial]:
        nodes, self.nodes = self.nodes, {}
        if not nodes:
            return
        for partial in self.client.gather(list(nodes.values())):
            if self.first:
                self.first = False
                self.merges = sum(a.nbytes for a in partial.reduced.values()) > COMBINE_BYTES
            yield partial
        nodes.clear()  # futures are released: the workers' memory too

    def _look_after_scheduler(self, now: float) -> None:
        if self.client.status == "running":
            self.heard = max(self.heard, now - HEARTBEAT_S) if self.client.scheduler_comm is not None else self.heard
        elif now - self.heard > LOST_S or self.client.status in ("closed", "closing"):
            raise WorkerLostError(f"the Dask scheduler at {self._where()} does not answer any more. What was merged is kept")

    def _where(self) -> str:
        scheduler = getattr(self.client, "scheduler", None)
        return getattr(scheduler, "address", "?")

    def stop(self) -> None:
        """Nothing goes on: running tasks are told to stop at their next tile; who does not is restarted."""
        self.feed.stop()
        try:
            if self.flying:
                self.client.run(functools.partial(far.stop, self.token), on_error="ignore")
                self.client.cancel(list(self.flying), force=True)
                self._wait_idle()
            self.flying.clear()
            self.nodes.clear()
            self.client.unregister_worker_plugin(self.plugin.name)
        except Exception as exc:  # noqa: BLE001  the connection is gone: its workers stop with it
            import logging

            logging.getLogger("libstream").debug("the run could not be taken from the workers: %s", exc)

    def _wait_idle(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            going = {w: n for w, n in self.client.run(functools.partial(far.busy, self.token), on_error="ignore").items() if n}
            if not going:
                return
            if time.monotonic() > end:
                self.client.restart_workers(list(going), timeout=START_S / 2)
                return
            time.sleep(0.02)


@functools.cache
def _plugin() -> type[Any]:
    from distributed import WorkerPlugin

    class WorkPlugin(WorkerPlugin):  # type: ignore[misc]
        """Brings a work to every worker, also to those that join later."""

        def __init__(self, token: str, payload: bytes, path_map: dict[str, str]) -> None:
            self.name, self.token, self.payload, self.path_map = f"libstream-{token}", token, payload, path_map

        def setup(self, worker: Any) -> None:
            """The run begins on this worker."""
            far.hold(self.token, self.payload, self.path_map)

        def teardown(self, worker: Any) -> None:
            """The run is over."""
            far.forget(self.token)

    return WorkPlugin
