"""One run on a Dask cluster: partitions in flight, sums merged on the workers along the fixed tree, what is fetched when."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from libstream.executors import _dask_worker as far
from libstream.executors._dask_tree import LARGE_BYTES, LEVELS, Node, Tree
from libstream.executors._feed import Feed, Given
from libstream.ext import CancelFlag, CancelledError, Partial, Partition, UsageError, Work, WorkerLostError

HEARTBEAT_S = 0.05
"""A silent iterator yields None this often, so that the loop can publish what it has."""
POLL_S = 0.005
"""Workers that have nothing to do look for the next partition of a source that waits this often."""
PATIENCE_S = 5.0
"""Time that workers have to reach their next tile after a cancel, before they are restarted."""
AHEAD = 2
"""Tasks sent for each thread of the workers beside the running one: they never wait for the client."""
TASK_S, TOGETHER = 0.1, 64
"""Partitions that take less are put together to tasks of about this time, at most so many: a task costs 2 to 5 ms."""
PING_S = 1.0
"""How often the scheduler is asked for its workers."""
SILENT_S = 30.0
"""Silence of a scheduler whose connection stands, after which a run gives up. A lost connection ends it at once."""
ASK_S = 5.0
"""Longest wait for an answer when a run is stopped."""
RESTART_S = 30.0
TRIES = 4
"""How often workers are told of a run, where one dies meanwhile."""
_numbers = itertools.count()
_log = logging.getLogger("libstream")


@dataclass(frozen=True)
class Settings:
    """See `DaskExecutor`."""

    path_map: dict[str, str]
    snapshot_s: float
    combine_bytes: float
    wait_s: float


class Run:
    """One `imap`. heal: told how many workers there are."""

    def __init__(
        self, client: Any, work: Work, feed: Feed | Given, cancel: CancelFlag, settings: Settings, direct: bool | None,
        heal: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.client, self.work, self.feed, self.cancel, self.settings, self.direct = client, work, feed, cancel, settings, direct
        self.heal = heal
        self.token = f"{os.getpid()}-{time.time_ns()}-{next(_numbers)}"
        self.plugin: Any = None
        self.flying: dict[Any, Node] = {}  # tasks: partitions, merges
        self.n_tasks = 0  # of them, partitions
        self.ready: deque[Partition] = deque()  # taken, not sent
        self.group = 1
        self.nodes = Tree()  # finished, on the workers
        self.coming: tuple[Any, list[Node]] | None = None  # being fetched
        self.workers: set[str] = set()
        self.doubt = False  # whether what is being fetched may be asked of a worker that is no more
        self.combine_bytes = settings.combine_bytes
        self.merges = False
        self.due = 0.0
        self.threads, self.alone = 1, False
        self.ping: Any = None
        self.heard = self.served = time.monotonic()

    # -- the loop --------------------------------------------------------------------------------------------------

    def results(self) -> Iterator[Partial | None]:
        """See `Executor.imap`."""
        from distributed import as_completed

        self.done = as_completed(loop=self.client.loop)
        self._send_work()
        try:
            yield from self._loop()
        except Exception:
            if self._connected():  # what was merged on the workers is kept
                self._stop_tiles()
                yield from self._rescued()
            raise

    def _loop(self) -> Iterator[Partial | None]:
        while True:
            if self.cancel:
                raise CancelledError("cancelled")
            self._fill()
            if not (self.flying or self.nodes or self.coming or self.ready) and self.feed.ended:
                return
            self._wait()
            for future in self.done.next_batch(block=False) if self.done.has_ready() else ():
                self._finished(future)
            self._fetch_otherwise()
            partials = self._fetched()
            yield from partials or (None,)
            self._fetch()
            self._look_around()

    def _fill(self) -> None:
        while (room := self._room()) > 0 and not self.cancel and (group := self._group(room)):
            level = len(group).bit_length() - 1
            runs = [p.runs for p in group if len(p.runs)]
            where = (int(runs[0][0, 0]), int(runs[-1][-1, 1])) if runs else (0, 0)
            self.n_tasks += 1
            self._submit(far.process, (group,), Node(level, group[0].number >> level, None, where))

    def _group(self, room: int) -> list[Partition]:
        """Partitions of one task: quick ones together, as many as are ready, so that they make a node of the tree."""
        while len(self.ready) < self.group and (partition := self.feed.poll(room * self.group - len(self.ready))) is not None:
            self.ready.append(partition)
        if not self.ready:
            return []
        first = self.ready[0].number
        n = 1
        while 2 * n <= min(self.group, len(self.ready)) and first % (2 * n) == 0 and self.ready[2 * n - 1].number == first + 2 * n - 1:
            n *= 2
        return [self.ready.popleft() for _ in range(n)]

    def _room(self) -> int:
        waiting = 0 if self.merges else len(self.nodes) + (len(self.coming[1]) if self.coming else 0)
        return self.threads * (1 + AHEAD) - self.n_tasks - waiting

    def _submit(self, task: Callable[..., Any], arguments: tuple[Any, ...], node: Node) -> None:
        # keys are tuples: tasks of one name are a group, which the scheduler hands out as workers become free
        key = (f"libstream-{task.__name__}-{self.token}", node.level, node.i, next(_numbers))
        future = self.client.submit(task, self.token, *arguments, key=key, priority=node.level, pure=False)
        self.flying[future] = replace(node, future=future)
        self.done.add(future)

    def _wait(self) -> None:
        if not self.flying and self.coming is None:
            self.feed.wait(HEARTBEAT_S)
            return
        idle = self._room() > self.threads * AHEAD and not self.feed.ended
        with self.done.thread_condition:
            if not self.done.has_ready() and not (self.coming is not None and self.coming[0].done()):
                self.done.thread_condition.wait(POLL_S if idle else HEARTBEAT_S)

    def _finished(self, future: Any) -> None:
        from distributed import KilledWorker

        node = self.flying.pop(future, None)
        if node is None:
            return
        self.n_tasks -= not node.parts  # a merge is not one of them
        if future.status == "error":
            exc, remote = future.exception(), future.traceback()
            future.release()  # whoever keeps the exception keeps this frame
            if node.parts and not isinstance(exc, KilledWorker):
                # the client merges these, and its error is that of every other executor
                self.combine_bytes, self.merges = math.inf, False
                self.nodes.add(*node.parts)
                return
            raise self._error(exc, node, remote) from None
        if future.status == "cancelled":
            raise self._dropped()
        # else it is finished, or lost again with its worker: then Dask computes it once more, when it is needed
        node = replace(node, parts=())  # released
        if not self.merges:
            self.nodes.add(node)
        elif (merged := self.nodes.merged_with(node)) is not None:
            self._submit(far.combine, tuple(n.future for n in merged.parts), merged)

    # -- fetching --------------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        """Begin to fetch what is ready: at once what is small, and whatever there is when nothing else goes on."""
        if self.coming is not None or not self.nodes or (self.merges and self.flying and time.monotonic() < self.due):
            return
        self._gather(self.nodes.take_all(), self.direct)

    def _gather(self, nodes: list[Node], direct: bool | None) -> None:
        self.doubt = False
        self.coming = (self._begin(self.client.gather([n.future for n in nodes], direct=direct, asynchronous=True)), nodes)

    def _fetch_otherwise(self) -> None:
        """By the scheduler, which knows who is left: a client goes on for half a minute to connect to a worker that has died."""
        if self.coming is not None and self.direct and (self.doubt or any(n.future.status == "lost" for n in self.coming[1])):
            task, nodes = self.coming
            if task.cancel():
                self._gather(nodes, False)

    def _begin(self, coroutine: Any) -> Any:
        """Start it on the client's event loop; the run's own loop wakes up when it is done."""
        task = asyncio.run_coroutine_threadsafe(coroutine, self.client.loop.asyncio_loop)

        def wake(_: Any) -> None:
            with self.done.thread_condition:
                self.done.thread_condition.notify()

        task.add_done_callback(wake)
        return task

    def _fetched(self) -> list[Partial]:
        if self.coming is None or not self.coming[0].done():
            return []
        task, nodes = self.coming
        self.coming = None
        try:
            partials = [p for found in task.result() for p in (found if isinstance(found, list) else [found])]
        except Exception as exc:  # noqa: BLE001  of whatever kind the task's is
            where = (min(n.positions[0] for n in nodes), max(n.positions[1] for n in nodes))
            raise self._error(exc, Node(0, 0, None, where), exc.__traceback__) from None
        if not self.merges:
            n_bytes = max((sum(a.nbytes for a in p.reduced.values()) for p in partials), default=0)
            self.merges = n_bytes > self.combine_bytes
            self.nodes.levels = 1 if n_bytes >= LARGE_BYTES else LEVELS
        self.due = time.monotonic() + self.settings.snapshot_s
        self._measure(partials)
        return partials  # the futures are released here, and the memory of the workers with them

    def _measure(self, partials: list[Partial]) -> None:
        """Choose how many partitions make a task, from the time that they take."""
        spent, n = sum(sum(p.seconds.values()) for p in partials), sum(p.span for p in partials)
        if spent > 0 and n:
            self.group = 1 << int(math.log2(min(max(TASK_S * n / spent, 1), TOGETHER)))

    def _rescued(self) -> Iterator[Partial]:
        """What was finished before the end."""
        with contextlib.suppress(Exception):
            if self.coming is None:
                self._fetch_now()
            for _ in range(2):
                if self.coming is not None:
                    with contextlib.suppress(TimeoutError):
                        self.coming[0].exception(ASK_S)
                    yield from self._fetched()
                self._fetch_now()

    def _fetch_now(self) -> None:
        self.due = 0.0
        self._fetch()

    # -- errors ----------------------------------------------------------------------------------------------------

    def _error(self, exc: Any, node: Node, remote: Any) -> BaseException:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        if isinstance(exc, KilledWorker):
            a, b = node.positions
            return WorkerLostError(
                f"the worker process died {exc.allowed_failures + 1} times on the flat scan positions {a} to {b} (last at "
                f"{exc.last_worker.address}). It was killed from outside (out of memory?) or the UDF crashes the interpreter; "
                "try executor='inline' to see where"
            )
        if isinstance(exc, FutureCancelledError):
            return self._dropped()
        if not isinstance(exc, BaseException):
            return RuntimeError(f"a Dask task failed without saying why ({exc!r})")
        if remote is not None:
            exc.add_note("on the worker:\n" + "".join(traceback.format_tb(remote)))
        return exc.with_traceback(None)

    def _dropped(self) -> WorkerLostError:
        scheduler = getattr(self.client, "scheduler", None)
        return WorkerLostError(
            f"the connection to the Dask scheduler at {getattr(scheduler, 'address', '(closed)')} was lost: it was stopped or restarted. "
            "What was merged before is kept"
        )

    def _connected(self) -> bool:
        return self.client.status == "running"

    def _look_around(self) -> None:
        """Is the scheduler there, how many threads do its workers have?"""
        now = time.monotonic()
        if not self._connected():
            raise self._dropped()
        if self.ping is None:
            if now - self.heard > PING_S:
                self.ping = self._begin(self.client.scheduler.ncores())
        elif self.ping.done():
            ping, self.ping = self.ping, None
            with contextlib.suppress(OSError):  # a lost connection is seen above
                self._count(ping.result())
                self.heard = now
        elif now - self.heard > SILENT_S:
            raise self._dropped()
        if self.alone and self.flying and now - self.served > self.settings.wait_s:
            raise OSError(
                f"the Dask scheduler at {self.client.scheduler.address} has had no worker for {self.settings.wait_s:g} s: start some with "
                f"`dask worker {self.client.scheduler.address}`, or wait longer for them with wait_s="
            )

    def _count(self, threads: dict[str, int]) -> None:
        self.threads, self.alone = max(1, sum(threads.values())), not threads
        self.doubt |= bool(self.workers - set(threads))
        self.workers = set(threads)
        self.heal(len(threads))
        if threads:
            self.served = time.monotonic()

    # -- beginning and end -----------------------------------------------------------------------------------------

    def _send_work(self) -> None:
        """Once to each worker, also to those that will join."""
        import pickle

        import cloudpickle

        try:
            flag = pickle.dumps(self.cancel)
        except TypeError:  # it is not shared: `stop` goes to every worker anyway
            flag = b""
        self.plugin = far.RunPlugin(self.token, cloudpickle.dumps(self.work), flag, self.settings.path_map, far.versions())
        for left in reversed(range(TRIES)):
            try:
                self.client.register_plugin(self.plugin, name=self.plugin.name)
                break
            except ImportError as exc:
                raise _not_there(exc) from exc
            except OSError:  # a worker died meanwhile; when nobody knows of it any more, the others can be told
                if not left or not self._connected():
                    raise
                time.sleep(PING_S)
        found = self.client.run(far.mismatch, self.token, on_error="return")
        for worker, differs in found.items():
            if isinstance(differs, ImportError):
                raise _not_there(differs) from differs
            if differs and not isinstance(differs, Exception):  # a worker that has just died; the one in its place looks for itself
                raise UsageError(f"the Dask worker {worker} has other versions: {differs}. Install the same ones there")
        self._count(self.client.nthreads())

    def stop(self) -> None:
        """Nothing goes on: running tasks stop at their next tile; workers that do not are restarted."""
        self.feed.stop()
        if self.flying:
            self.cancel.set()  # seen at once by workers of this computer
        if self.plugin is None:
            return
        try:
            if self._connected():
                if self.flying:
                    self._stop_tiles()
                    self._end_tasks()
                self.client.sync(self.client.scheduler.unregister_worker_plugin, name=self.plugin.name, callback_timeout=RESTART_S)
        except Exception as exc:  # noqa: BLE001  the connection has gone; the error of the run is on its way
            _log.debug("the run could not be taken from the workers: %r", exc)
        finally:
            coming = self.coming[1] if self.coming is not None else []
            for node in (*self.flying.values(), *self.nodes.take_all(), *coming):
                for one in (node, *node.parts):
                    one.future.release()  # an exception may keep this object for long
            self.done.clear()
            self.flying.clear()
            self.coming = None

    def _running(self) -> dict[Any, str]:
        """Tasks that are at a worker, and which one."""
        at = {key: worker for worker, keys in self.client.processing().items() for key in keys}
        return {f: at[f.key] for f in self.flying if f.key in at}

    def _stop_tiles(self) -> None:
        self.cancel.set()
        with contextlib.suppress(Exception):
            self.client.run(far.stop, self.token, on_error="ignore", callback_timeout=ASK_S)

    def _end_tasks(self) -> None:
        """Forget what waits, wait for the running tiles, restart workers that do not come to an end."""
        running = self._running()
        self.client.cancel([f for f in self.flying if f not in running], force=True)
        deadline = time.monotonic() + PATIENCE_S
        while any(f.status == "pending" for f in running) and time.monotonic() < deadline and self._connected():
            with self.done.thread_condition:
                self.done.thread_condition.wait(0.01)
        busy = sorted({w for f, w in running.items() if f.status == "pending"})
        self.client.cancel(list(running), force=True)
        if not busy:
            return
        try:
            self.client.restart_workers(busy, timeout=RESTART_S)
        except ValueError as exc:  # without a nanny
            _log.warning(
                "the run was stopped %g s ago, but calls of UDFs or reads go on at %s: these workers cannot be restarted (%s)",
                PATIENCE_S, ", ".join(busy), exc,
            )  # fmt: skip


def _not_there(exc: ImportError) -> UsageError:
    return UsageError(f"libstream cannot be used on the Dask workers ({exc}): install it there, in the same version")
