"""Dask distributed: processes of this computer, or a cluster. Scheduling, membership and transport are Dask's."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
from urllib.parse import urlsplit

from libstream.executors._dask_health import Health
from libstream.executors._dask_live import Kept, run_dealt
from libstream.executors._dask_run import Run, Settings
from libstream.executors._feed import feed_of
from libstream.ext import (
    CancelFlag,
    Consumer,
    Consumers,
    Dealt,
    NotInstalledError,
    Partial,
    Partition,
    Traits,
    UsageError,
    Work,
    WorkerLostError,
    n_workers_default,
)

CONNECT_S = 8.0
"""Longest wait for the answer of a scheduler."""
GUARD = "They import the script that starts them: put what it does under `if __name__ == '__main__':`"
PORT = 8786
DEATHS = 3
"""Workers started here may die so often on one partition. A cluster has a setting of its own, distributed.scheduler.allowed-failures."""


class DaskExecutor:
    """Partitions as tasks of Dask distributed.

    workers: processes to start on this computer (default: one for each processor that this process may use).
    address: of a scheduler ("host:8786", "tls://host:8786"). client: an existing `distributed.Client`, which is not closed here.
    path_map: beginnings of paths here and on the workers, {"/data": "/mnt/data"}, where they see the same files under other names.
    snapshot_s: sums larger than combine_bytes are merged on the workers and fetched this often [s]; smaller ones at once.
    wait_s: longest time without any worker [s]. security: `distributed.Security` (default: from Dask's configuration).

    A scheduler executes what anybody sends who reaches it: connect to one that you trust, over a network that you trust, or by TLS.

    Raises NotInstalledError without the extra [dask], OSError where the scheduler does not answer, UsageError where versions differ.
    """

    name: ClassVar[str] = "dask"

    def __init__(
        self, workers: int | None = None, *, address: str | None = None, client: Any = None, path_map: Mapping[str, str] | None = None,
        snapshot_s: float = 0.5, combine_bytes: int = 64 << 10, wait_s: float = 60.0, security: Any = None,
    ) -> None:  # fmt: skip
        if workers is not None and workers < 1:
            raise UsageError(f"workers must be >= 1, got {workers}")
        if workers is not None and (address is not None or client is not None):
            raise UsageError("workers= starts processes on this computer; a cluster has the workers that it has")
        self._workers, self._address, self._given, self._security = workers or n_workers_default(), address, client, security
        self._settings = Settings(dict(path_map or {}), snapshot_s, combine_bytes, wait_s)
        self._lock = threading.Lock()
        self._kept: list[Kept] = []
        self._health = Health()
        self._client: Any = None
        self._cluster: Any = None

    @property
    def traits(self) -> Traits:
        """See `Traits`. Partitions are those of all executors: float sums depend on the cut."""
        if self._address is None and self._given is None:
            return Traits(n_workers=self._workers)
        client = self._connected()
        return Traits(n_workers=max(1, sum(client.nthreads().values())))

    def imap(self, work: Work, partitions: Iterable[Partition], *, in_flight: int, cancel: CancelFlag) -> Iterator[Partial | None]:
        """See `Executor.imap`. Yields merged neighbours too (`Partial.span`)."""
        client = self._connected()
        if isinstance(partitions, Dealt):
            yield from run_dealt(client, work, partitions, cancel, self._settings.path_map)
            return
        own = self._cluster is not None
        run = Run(client, work, feed_of(partitions), cancel, self._settings, direct=True if own else None, heal=self._heal)
        try:
            yield from run.results()
        finally:
            run.stop()

    @property
    def is_local(self) -> bool:
        """See `KeepsConsumers`."""
        if self._address is None and self._given is None:
            return True
        return urlsplit(str(self._connected().scheduler.address)).hostname in ("127.0.0.1", "localhost", "::1", None)

    def keep(self, consumer: Consumer) -> Consumers:
        """See `KeepsConsumers`."""
        own = self._address is None and self._given is None
        kept = Kept(self._connected, consumer, self._workers if own else 0, self._heal)
        self._kept = [k for k in self._kept if not k.closed] + [kept]
        return kept

    def cluster(self) -> dict[str, Any] | None:
        """See `ShowsCluster`."""
        client = self._client
        return None if client is None else self._health.of(client)

    def close(self) -> None:
        """Close what was started here; a client that was given is left alone."""
        for kept in self._kept:
            kept.close()
        with self._lock:
            self._drop()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _drop(self) -> None:
        client, self._client = self._client, None
        cluster, self._cluster = self._cluster, None
        if client is not None and client is not self._given:
            client.close()
        if cluster is not None:
            cluster.close()

    def _heal(self, n_workers: int) -> None:
        """Replace workers that Dask has given up: where one was killed, it closes what restarts it if that takes long (15 s), for good."""
        cluster = self._cluster
        if cluster is not None and n_workers < self._workers:
            cluster.scale(self._workers)  # those that are just being restarted count

    def _connected(self) -> Any:
        """The `distributed.Client`, connected."""
        with self._lock:
            if self._client is not None and self._client.status != "running":
                self._drop()  # the scheduler has gone; there may be another one at its place
            if self._client is None:
                try:
                    import distributed
                except ImportError as exc:
                    raise NotInstalledError(
                        f"executor 'dask' needs {exc.name}, which is not installed: pip install libstream[dask]", name=exc.name
                    ) from exc
                self._client = self._use(self._given) if self._given is not None else self._connect(distributed)
            return self._client

    def _use(self, client: Any) -> Any:
        if client.asynchronous:
            raise UsageError("the Dask client is asynchronous; give a synchronous one: distributed.Client(address)")
        if client.status != "running":
            raise UsageError(f"the Dask client is {client.status}, not running: make a new one")
        return client

    def _connect(self, distributed: Any) -> Any:
        if self._address is None:
            self._cluster = self._started(distributed)
            return distributed.Client(self._cluster, set_as_default=False)
        where = _address(self._address)
        try:
            # asked first, in a thread because notebooks have an event loop: a client that finds nobody leaves a thread behind
            with ThreadPoolExecutor(1) as pool:
                pool.submit(lambda: asyncio.run(_greet(where, self._security or distributed.Security()))).result()
            return distributed.Client(where, timeout=CONNECT_S, security=self._security, set_as_default=False)
        except (OSError, ValueError, TypeError) as exc:  # TypeError: TLS without certificates
            why = f"{type(exc).__name__}: {exc}".strip().splitlines()[0]
        secure = (
            " Certificates are named in Dask's configuration (distributed.comm.tls) or by security=" if where.startswith("tls:") else ""
        )
        raise OSError(
            f"the Dask scheduler at {where} does not answer ({why}); is the address right, and does `dask scheduler` run there?{secure}"
        )

    def _started(self, distributed: Any) -> Any:
        import dask

        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise UsageError(GUARD)
        # one task at a time is given to a worker, so that the right one is blamed for its death; memory is bounded by the plan, and
        # mapped files would be counted as the worker's
        settings = {
            "distributed.scheduler.allowed-failures": DEATHS - 1,
            "distributed.scheduler.worker-saturation": 1.0,
            "distributed.scheduler.work-stealing": False,
            "distributed.worker.profile.enabled": False,
        }
        with dask.config.set(settings):
            try:
                return distributed.LocalCluster(
                    n_workers=self._workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs=50,
                    memory_limit=0, security=self._security,
                )  # fmt: skip
            except RuntimeError as exc:
                raise WorkerLostError(f"Dask's workers do not start ({exc}). {GUARD}") from exc


async def _greet(where: str, security: Any) -> None:
    from distributed.comm import connect

    comm = await connect(where, timeout=CONNECT_S, **security.get_connection_args("client"))
    await comm.close()


def _address(given: str) -> str:
    """With Dask's scheme and port where they are left out."""
    where = given if "://" in given else f"tcp://{given}"
    return where if urlsplit(where).port is not None else f"{where}:{PORT}"
