"""Threads of this process: the default. Compiled kernels and reads run without the GIL."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import ClassVar

from libstream.ext import CancelFlag, CancelledError, Partial, Partition, Traits, UsageError, Work, n_workers_default

HEARTBEAT_S = 0.05
"""A silent iterator yields None this often, so that the loop can publish what it has."""


class ThreadsExecutor:
    """A pool of threads, kept for the next run. BLAS pools are limited to one thread while a run is on.

    workers: number of threads (default: the processors this process may use).
    """

    name: ClassVar[str] = "threads"

    def __init__(self, workers: int | None = None) -> None:
        workers = n_workers_default() if workers is None else workers
        if workers < 1:
            raise UsageError(f"workers must be >= 1, got {workers}")
        self.traits = Traits(n_workers=workers, crosses_process=False)
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def _started(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.traits.n_workers, thread_name_prefix="libstream-worker")
            return self._pool

    def imap(self, work: Work, partitions: Iterable[Partition], *, in_flight: int, cancel: CancelFlag) -> Iterator[Partial | None]:
        """See `Executor.imap`. Each worker pulls its next partition itself, so that a source that waits stops nobody's results."""
        work.setup()
        pool = self._started()
        source, pulling = iter(partitions), threading.Lock()

        def task() -> Partial | None:
            with pulling:
                partition = None if cancel else next(source, None)
            return None if partition is None else work.process(partition, cancel)

        waiting: set[Future[Partial | None]] = set()
        more = True
        with _one_blas_thread():
            try:
                while True:
                    while more and not cancel and len(waiting) < in_flight:
                        waiting.add(pool.submit(task))
                    if not waiting:
                        break
                    done, waiting = wait(waiting, timeout=HEARTBEAT_S, return_when=FIRST_COMPLETED)
                    if not done:
                        yield None
                    for future in done:
                        partial = future.result()
                        if partial is None:
                            more = False
                        else:
                            yield partial
                if cancel:
                    raise CancelledError("cancelled")
            finally:
                # an error or a closed generator: running tiles end by themselves before anything is torn down
                if waiting:
                    cancel.set()
                    for future in waiting:
                        future.cancel()
                    wait(waiting)

    def close(self) -> None:
        """Stop the threads."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)


def _one_blas_thread():  # type: ignore[no-untyped-def]
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1, user_api="blas")
