"""Consumers in Dask's workers: one task a worker, hours long, that is started again wherever a worker comes (back)."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from libstream.executors import _dask_worker as far
from libstream.ext import CancelFlag, CancelledError, Consumer, Dealt, Partial, UnknownRunError, UsageError, Work, WorkerLostError

LOOK_S = 0.25
"""How often workers without a consumer are looked for."""
HEARTBEAT_S = 0.05
END_S = 5.0
"""Time that consumers have to end."""
TELL_S = 2.0
"""Longest wait for all workers to know of a run, or of its end."""
WORK_S = 3.0
"""Longest wait for the work of a run whose frames have arrived already."""
_numbers = itertools.count()
_log = logging.getLogger("libstream")


# -- on the workers ------------------------------------------------------------------------------------------------------

_ENDING = ("closing", "closing_gracefully", "closed", "failed")
_stopped: dict[str, threading.Event] = {}
_lock = threading.Lock()


def serve(key: str, consumer: Consumer, threads: int, wanted: Mapping[str, str]) -> None:
    """Task: a consumer. It leaves the worker's threads to others."""
    import distributed

    differs = far.differences(wanted, far.versions())
    if differs:
        raise UsageError(f"the Dask worker at {far.where()} has other versions: {differs}. Install the same ones there")
    far.tune_malloc()
    with contextlib.suppress(ValueError, KeyError):
        distributed.secede()
    stopped, worker = _event(key), distributed.get_worker()
    consumer.run(work_of, threads, lambda: stopped.is_set() or worker.status.name in _ENDING)


def _event(key: str) -> threading.Event:
    with _lock:
        return _stopped.setdefault(key, threading.Event())


def end(key: str) -> None:
    """Consumers of this key end."""
    _event(key).set()


def work_of(token: str) -> tuple[Work, CancelFlag]:
    """See `WorkOf`."""
    until = time.monotonic() + WORK_S
    while True:
        held = far._held.get(token)
        if held is not None:
            return held.work(), held.cancel
        if time.monotonic() > until:
            raise UnknownRunError(f"the Dask worker at {far.where()} was not told of this run")
        time.sleep(0.02)


# -- at the client -------------------------------------------------------------------------------------------------------


class Kept:
    """A consumer in every worker of a cluster; see `Consumers`.

    client: gives the `distributed.Client`, connected. expected: workers that were started here; 0 where the cluster has what it has.
    heal: called with the number of workers; replaces those that Dask has given up.
    """

    def __init__(
        self, client: Callable[[], Any], consumer: Consumer, expected: int = 0, heal: Callable[[int], None] = lambda n: None
    ) -> None:
        self._heal = heal
        self._expected = expected
        self.key = f"{os.getpid()}-{time.time_ns()}-{next(_numbers)}"
        self._client, self._consumer = client, consumer
        self._tasks: dict[str, Any] = {}
        self._error = ""
        self._n_workers = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="libstream-consumers", daemon=True)
        self._look()
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            try:
                self._look()
            except Exception as exc:  # noqa: BLE001  the scheduler may come back
                self._error = f"{type(exc).__name__}: {exc}"

    def _look(self) -> None:
        client = self._client()
        workers: dict[str, int] = client.sync(client.scheduler.ncores)
        self._n_workers, self._error = len(workers), ""
        self._heal(len(workers))
        for address, task in list(self._tasks.items()):
            if address not in workers:
                client.cancel([task], force=True)
                del self._tasks[address]
            elif task.status == "error":
                self._error = f"{type(task.exception()).__name__}: {task.exception()}"
            elif task.status in ("finished", "lost", "cancelled"):
                del self._tasks[address]
        for address, threads in workers.items():
            if address not in self._tasks and not self._over.is_set():
                self._tasks[address] = client.submit(
                    serve, self.key, self._consumer, max(1, threads), far.versions(), workers=[address],
                    allow_other_workers=False, pure=False,
                    key=("libstream-consumer-" + self.key, address, next(_numbers)), priority=100,
                )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """See `Consumers`."""
        return {"workers": max(self._n_workers, self._expected), "started": len(self._tasks), "error": self._error}

    @property
    def closed(self) -> bool:
        """It was ended."""
        return self._over.is_set()

    def close(self) -> None:
        """See `Consumers`."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join(END_S)
        with contextlib.suppress(Exception):  # the cluster may have gone before
            client = self._client()
            client.run(end, self.key, on_error="ignore")
            until = time.monotonic() + END_S
            while any(t.status == "pending" for t in self._tasks.values()) and time.monotonic() < until:
                time.sleep(0.02)
            client.cancel(list(self._tasks.values()), force=True)
        self._tasks.clear()


def run_dealt(client: Any, work: Work, dealt: Dealt, cancel: CancelFlag, path_map: Mapping[str, str]) -> Iterator[Partial | None]:
    """`imap` for partitions that are dealt out by a router: the work goes to the workers, partial results come from their consumers."""
    import cloudpickle

    plugin = far.RunPlugin(dealt.token, cloudpickle.dumps(work), b"", dict(path_map), far.versions())
    try:
        told = _apart(lambda: client.register_plugin(plugin, name=plugin.name))
        with contextlib.suppress(TimeoutError):  # a worker that cannot be reached takes no frames either
            told.result(TELL_S)
    except ImportError as exc:
        raise UsageError(f"libstream cannot be used on the Dask workers ({exc}): install it there, in the same version") from exc
    cut_short = True
    try:
        dealt.begin()
        while True:
            found = dealt.results(HEARTBEAT_S)
            if cancel:
                raise CancelledError("cancelled")
            if found is None:
                break
            yield from found or (None,)
            if client.status != "running":
                raise WorkerLostError("the connection to the Dask scheduler was lost: it was stopped or restarted")
        cut_short = False
    finally:

        def forget() -> None:
            with contextlib.suppress(Exception):  # the scheduler may have gone; the error of the run is on its way
                if cut_short:
                    client.run(far.stop, dealt.token, on_error="ignore")
                told.exception()
                client.sync(client.scheduler.unregister_worker_plugin, name=plugin.name)

        ended = _apart(forget)
        if cut_short:
            with contextlib.suppress(TimeoutError):
                ended.result(TELL_S)


def _apart(call: Callable[[], Any]) -> Future[Any]:
    """Call it in a thread: Dask waits long for a worker that cannot be reached, and a scan does not."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as exc:  # noqa: BLE001  raised where the result is asked for
            future.set_exception(exc)

    threading.Thread(target=work, name="libstream-dask", daemon=True).start()
    return future
