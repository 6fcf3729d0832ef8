"""Worker processes: for plain-Python UDFs that hold the GIL. Workers are spawned, never forked, and kept for the next run."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from libstream.executors._feed import Feed, Given, feed_of
from libstream.ext import (
    CancelFlag,
    CancelledError,
    Partial,
    Partition,
    Traits,
    UsageError,
    Work,
    WorkerLostError,
    n_workers_default,
)

TRIES = 3
"""How often a partition may be tried when its worker dies."""
PATIENCE_S = 5.0
"""Time that workers have to reach their next tile after a cancel, before they are killed."""
HEARTBEAT_S = 0.05
DEAD_S = 1.0
"""Time after the death of a worker in which the pool has to notice it."""
POLL_S = 0.005
"""Workers that have nothing to do look for the next partition of a source that waits this often."""


class ProcessesExecutor:
    """A pool of processes.

    workers: number of processes (default: the processors this process may use).
    """

    name: ClassVar[str] = "processes"

    def __init__(self, workers: int | None = None) -> None:
        workers = n_workers_default() if workers is None else workers
        if workers < 1:
            raise UsageError(f"workers must be >= 1, got {workers}")
        self.traits = Traits(n_workers=workers, crosses_process=True)
        self._lock = threading.Lock()
        self._pool: Any = None
        self._dead_at = 0.0

    def imap(self, work: Work, partitions: Iterable[Partition], *, in_flight: int, cancel: CancelFlag) -> Iterator[Partial | None]:
        """See `Executor.imap`. The work is written once to a private file and read once by each worker."""
        with _Shipped(work) as shipped:
            run = _Run(self, shipped, feed_of(partitions), in_flight + 1, cancel)
            try:
                yield from run.results()
            finally:
                run.stop()

    def close(self) -> None:
        """Stop the workers."""
        self._drop(kill=False)

    def kill(self) -> None:
        """Stop the workers, whatever they are in the middle of."""
        self._drop(kill=True)

    def _started(self) -> Any:
        with self._lock:
            if self._pool is None:
                from loky import ProcessPoolExecutor

                self._pool = ProcessPoolExecutor(self.traits.n_workers, initializer=_one_blas_thread)
            return self._pool

    def _drop(self, *, kill: bool) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            if kill:
                _cut_off(pool)
            pool.shutdown(wait=True, kill_workers=kill)

    def look_after(self) -> None:
        """A worker that was killed while it wrote a result leaves half of it behind, and the pool waits for the rest for ever: end that."""
        with self._lock:
            pool = self._pool
        if pool is None or all(p.exitcode is None for p in _processes(pool)):
            self._dead_at = 0.0
            return
        now = time.monotonic()
        self._dead_at = self._dead_at or now
        if now - self._dead_at > DEAD_S:
            _cut_off(pool)


def _processes(pool: Any) -> list[Any]:
    return list((pool._processes or {}).values())


def _cut_off(pool: Any) -> None:
    """Kill the workers of a pool, and close the pipe of their results: whoever waits for the rest of one finds its end."""
    for process in _processes(pool):
        process.terminate()
    queue = pool._result_queue
    if queue is not None:
        queue._writer.close()


class _Run:
    """One `imap`: what is in flight, what has to be tried again."""

    def __init__(self, executor: ProcessesExecutor, shipped: _Shipped, feed: Feed | Given, room: int, cancel: CancelFlag) -> None:
        self.executor, self.shipped, self.feed, self.room, self.cancel = executor, shipped, feed, room, cancel
        self.flying: dict[Any, Partition] = {}
        self.again: deque[Partition] = deque()
        self.tries: dict[int, int] = {}

    def results(self) -> Iterator[Partial | None]:
        from concurrent.futures import FIRST_COMPLETED, wait

        while True:
            self._fill()
            done: set[Any] = set()
            if self.flying:
                # idle workers and a source that waits: its next partition must not wait for a result
                idle = len(self.flying) < self.room and not self.again and not self.feed.ended
                done, _ = wait(self.flying, timeout=POLL_S if idle else HEARTBEAT_S, return_when=FIRST_COMPLETED)
            elif self.cancel or self.feed.ended:
                break
            else:
                self.feed.wait(HEARTBEAT_S)
            if not done:
                self.executor.look_after()
                yield None
                if self.cancel:
                    break
            for future in done:
                if future not in self.flying:
                    continue  # its pool died while this batch was looked at: it is tried again
                partial = self._result(future)
                if partial is not None:
                    yield partial
        if self.cancel:
            raise CancelledError("cancelled")

    def _fill(self) -> None:
        # partitions whose worker died run alone, so that only the one that kills is blamed in the end
        while not self.cancel and (not self.flying or (not self.again and len(self.flying) < self.room)):
            partition = self.again.popleft() if self.again else self.feed.poll(self.room - len(self.flying))
            if partition is None:
                return
            self.flying[self.executor._started().submit(_task, *self.shipped.task, partition, self.cancel)] = partition

    def _result(self, future: Any) -> Partial | None:
        from concurrent.futures.process import BrokenProcessPool

        try:
            partial: Partial = future.result()
        except BrokenProcessPool as exc:
            self._worker_died(exc)
            return None
        finally:
            partition = self.flying.pop(future, None)
        if partition is not None:
            self.tries.pop(partition.number, None)
        return partial

    def _worker_died(self, exc: BaseException) -> None:
        from concurrent.futures import wait
        from concurrent.futures.process import BrokenProcessPool

        wait(self.flying, timeout=PATIENCE_S)
        lost = []
        for future, partition in list(self.flying.items()):
            broken = not future.done() or future.cancelled() or isinstance(future.exception(), BrokenProcessPool)
            if broken:
                lost.append(partition)
                del self.flying[future]
        self.executor._drop(kill=True)
        for partition in lost:
            n = self.tries[partition.number] = self.tries.get(partition.number, 0) + 1
            if n >= TRIES:
                a, b = (int(partition.runs[0, 0]), int(partition.runs[-1, 1])) if len(partition.runs) else (0, 0)
                raise WorkerLostError(
                    f"the worker process died {n} times on the flat scan positions {a} to {b} ({str(exc).splitlines()[0]}). "
                    "It was killed from outside (out of memory?) or the UDF crashes the interpreter; try executor='inline' to see where"
                ) from exc
        self.again.extend(sorted(lost, key=lambda p: p.number))

    def stop(self) -> None:
        """Let running tiles end; kill workers that do not."""
        self.feed.stop()
        if not self.flying:
            return
        from concurrent.futures import wait

        self.cancel.set()
        for future in self.flying:
            future.cancel()
        _, busy = wait(self.flying, timeout=PATIENCE_S)
        if busy:
            self.executor._drop(kill=True)


class _Shipped:
    """A work in a private file that workers read once. `task` = (token, path)."""

    _numbers = itertools.count()

    def __init__(self, work: Work) -> None:
        self.work = work

    def __enter__(self) -> _Shipped:
        import cloudpickle

        fd, path = tempfile.mkstemp(prefix="libstream-work-")  # readable by this user only
        with os.fdopen(fd, "wb") as f:
            cloudpickle.dump(self.work, f)
        self.task = (f"{os.getpid()}-{next(self._numbers)}", path)
        return self

    def __exit__(self, *exc: object) -> None:
        os.unlink(self.task[1])


_held: tuple[str, Work] | None = None


def _task(token: str, path: str, partition: Partition, cancel: CancelFlag) -> Partial:
    """In a worker: the work of `token`, read once, over one partition."""
    global _held
    if _held is None or _held[0] != token:
        import pickle

        if _held is not None:
            _held[1].close()
        with open(path, "rb") as f:
            work: Work = pickle.load(f)  # noqa: S301  written by the parent of this process, for this user only
        work.setup()
        _held = (token, work)
    return _held[1].process(partition, cancel)


def _one_blas_thread() -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1, user_api="blas")
