"""Threads of this process: the default. Compiled kernels and reads run without the GIL."""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, ClassVar

from libstream.executors._feed import feed_of
from libstream.ext import CancelFlag, CancelledError, Partial, Partition, Traits, UsageError, Work, n_workers_default

HEARTBEAT_S = 0.05
"""A silent iterator yields None this often, so that the loop can publish what it has."""
PATIENCE_S = 5.0
"""Time after a cancel until the user is told what the run still waits for."""
POLL_S = 0.005
"""Threads that have nothing to do look for the next partition of a source that waits this often."""


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
        """See `Executor.imap`. A source that waits occupies no thread and stops nobody's results."""
        work.setup()
        pool, feed = self._started(), feed_of(partitions)
        flying: set[Future[Partial]] = set()
        done: queue.SimpleQueue[Future[Partial]] = queue.SimpleQueue()  # wait() of many futures costs 50 us each time
        room = 2 * in_flight  # more than threads: they go on while the loop merges and publishes
        with _one_blas_thread():
            try:
                future: Future[Partial] | None
                while True:
                    while not cancel and len(flying) < room and (partition := feed.poll(room - len(flying))) is not None:
                        future = pool.submit(work.process, partition, cancel)
                        flying.add(future)
                        future.add_done_callback(done.put)
                    future = None
                    if flying:
                        idle = len(flying) < in_flight and not feed.ended
                        with contextlib.suppress(queue.Empty):
                            future = done.get(timeout=POLL_S if idle else HEARTBEAT_S)
                    elif cancel or feed.ended:
                        break
                    else:
                        feed.wait(HEARTBEAT_S)
                    if future is not None:
                        flying.discard(future)
                        yield future.result()
                        continue
                    yield None
                    if cancel:
                        break
                if cancel:
                    raise CancelledError("cancelled")
            finally:
                feed.stop()
                # an error or a closed generator: running tiles end by themselves before anything is torn down
                if flying:
                    cancel.set()
                    for future in flying:
                        future.cancel()
                    _, busy = wait(flying, timeout=PATIENCE_S)
                    if busy:
                        logging.getLogger("libstream").warning(
                            "the run was stopped %g s ago, but %d calls of UDFs or reads go on: threads cannot be killed, so it ends "
                            "when they do. With executor='processes' they could be.",
                            PATIENCE_S,
                            len(busy),
                        )
                        wait(busy)

    def close(self) -> None:
        """Stop the threads."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)


_controller: tuple[int, Any] = (0, None)


def _one_blas_thread() -> Any:
    """Limits BLAS pools to one thread. Looking for them takes longer than some runs: only when modules were imported since."""
    global _controller
    if _controller[0] != len(sys.modules):
        from threadpoolctl import ThreadpoolController

        _controller = (len(sys.modules), ThreadpoolController())
    return _controller[1].limit(limits=1, user_api="blas")
