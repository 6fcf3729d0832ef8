"""What becomes of the jobs of an executor: told to the user, lost ones submitted again, a clear end where there are none left."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

from libstream.executors._slurm_config import SlurmConfig
from libstream.executors._slurm_jobs import CALL_S, GONE, LIVE, NEVER, Seen, hint, jobs_named, last_words
from libstream.ext import UsageError, WorkerLostError

LOOK_S = 0.1
"""How often Dask's own list of workers is looked at, which costs nothing."""
REMIND_S = 60.0
"""How often it is said that nothing has changed."""
FORGOTTEN_S = 5.0
"""squeue may not know a job yet that was submitted less than this ago."""
EARLY = 2
"""So many jobs may end before any worker has been connected: then there is something wrong with all of them."""

Say = Callable[[str, bool], None]
"""Tells the user a line; True where it is a trouble, or a long wait."""


class Watch:
    """Looks after the jobs of one cluster in a thread of its own.

    lost: the error of a run when no node is left and none will come. idle: called when nothing has been computed for `idle_s`.
    """

    def __init__(self, config: SlurmConfig, name: str, say: Say, idle: Callable[[], None]) -> None:
        self.config, self.name, self._say, self._idle = config, name, say, idle
        self.cluster: Any = None
        self.lost: Exception | None = None
        self.n_busy = 0  # runs that go on
        self.jobs: list[Any] = []  # submitted and not at their end
        self.given_up: list[str] = []  # why, for each node that is not asked for any more
        self._again: deque[int] = deque()  # tries of the jobs that are being submitted anew
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._met = False  # any worker, ever
        self._early = 0
        self._begun = self._used = time.monotonic()
        self._said, self._said_at, self._mute = "", 0.0, ""
        self._thread: threading.Thread | None = None

    # -- beginning and end -----------------------------------------------------------------------------------------

    def start(self, cluster: Any) -> None:
        """Submit all nodes. Raises UsageError with the words of Slurm where it takes none of them."""
        self.cluster = cluster
        cluster.scale(jobs=self.config.nodes)
        with self._changed:
            self._changed.wait_for(lambda: len(self.jobs) == self.config.nodes, CALL_S + LOOK_S * self.config.nodes)
            jobs = list(self.jobs)
        taken = [job for job in jobs if job.refused is None]
        refused = next((job.refused for job in jobs if job.refused is not None), None)
        if not taken:
            raise refusal(refused, self.config)
        ids = ", ".join(str(job.job_id) for job in taken[:8]) + (", ..." if len(taken) > 8 else "")
        self._say(f"Slurm: submitted {_n(len(taken), 'job')} ({ids}) called {self.name}; logs in {self.config.logs}", False)
        self._thread = threading.Thread(target=self._run, name="libstream-slurm", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """A run goes on."""
        with self._changed:
            self.n_busy += 1
        try:
            yield
        finally:
            with self._changed:
                self.n_busy -= 1

    def join(self) -> None:
        """Wait for the end of the thread, which may be in one of Slurm's commands."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CALL_S)

    def wait(self, timeout_s: float) -> None:
        """Let some time pass; less where it is stopped."""
        self._stop.wait(timeout_s)

    def submitted(self, job: Any) -> None:
        """Called by a job that was submitted or refused."""
        with self._changed:
            job.since = time.monotonic()
            job.tries = self._again.popleft() if self._again else 0
            self.jobs.append(job)
            self._changed.notify_all()

    @property
    def n_nodes(self) -> int:
        """Jobs in Slurm."""
        return sum(job.refused is None for job in self.jobs)

    # -- looking ---------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> set[str]:
        """Names of the jobs whose workers are connected."""
        suffix = "-" if self.config.n_processes > 1 else ""
        names = [str(ws.name) for ws in list(self.cluster.scheduler.workers.values())]
        return {n.rpartition("-")[0] if suffix else n for n in names}

    @property
    def waits(self) -> bool:
        """True while a job waits for its node, or starts there."""
        names = self.connected
        return self.lost is None and any(job.name not in names for job in list(self.jobs))

    def _run(self) -> None:
        due, before = 0.0, frozenset[str]()
        while not self._stop.wait(LOOK_S):
            try:
                now, names = time.monotonic(), frozenset(self.connected)
                if now >= due or before - names:  # someone left: why?
                    self._look(names)
                    due = time.monotonic() + self.config.poll_s
                elif names != before:
                    self._meet(names)
                before = names
                self._tell(names)
                self._rest()
            except Exception as exc:  # noqa: BLE001  the run has to hear of it: nobody would look after its jobs any more
                if not self._stop.is_set():
                    self.lost = exc
                return

    def _meet(self, names: frozenset[str]) -> None:
        for job in list(self.jobs):
            if job.name in names:
                job.met = self._met = True

    def _look(self, names: frozenset[str]) -> None:
        try:
            seen = jobs_named(self.name)
            self._mute = ""
        except (OSError, ValueError) as exc:  # a controller that is busy: the jobs are there all the same
            if str(exc) != self._mute:
                self._say(f"Slurm: squeue does not answer ({exc}); the jobs go on", True)
            self._mute = str(exc)
            return
        self._meet(names)
        lost = []
        for job in list(self.jobs):
            now = seen.get(job.job_id or "", Seen(GONE) if time.monotonic() - job.since > FORGOTTEN_S else job.seen)
            job.seen = Seen(now.state, now.node or job.seen.node, now.reason)
            if job.refused is not None or job.seen.state not in LIVE:
                self.jobs.remove(job)
                job.over = True
                lost.append(job)
        if lost:
            self._replace(lost)
        self._early_end()

    def _replace(self, lost: list[Any]) -> None:
        config = self.config
        self._early += sum(not self._met and job.refused is None for job in lost)
        again = 0
        for job in lost:
            what, final = self._ended(job)
            if final:
                self.given_up.append(what)
                self._say(f"Slurm: {what}; going on without it" if self.jobs or again else f"Slurm: {what}", True)
                continue
            again += 1
            self._again.append(job.tries + 1)
            self._say(
                f"Slurm: {what}; what it had is computed again, and a new one is submitted (try {job.tries + 1} of {config.retries})", True
            )
        future = asyncio.run_coroutine_threadsafe(self._exchange(lost, again), self.cluster.loop.asyncio_loop)
        future.result(CALL_S)
        if again:
            n = len(self.jobs) + again
            with self._changed:
                self._changed.wait_for(lambda: len(self.jobs) >= n or self._stop.is_set(), CALL_S)

    async def _exchange(self, lost: list[Any], again: int) -> None:
        """Dask replaces no job by itself: forget the lost ones, ask for as many others."""
        from distributed.core import Status

        for job in lost:
            for name in [n for n, kept in self.cluster.workers.items() if kept is job]:
                del self.cluster.workers[name]
                self.cluster.worker_spec.pop(name, None)
            self.cluster.worker_spec.pop(job.name, None)
            job.status = Status.closed
        if again and not self._stop.is_set():
            self.cluster.scale(jobs=len(self.cluster.worker_spec) + again)

    def _ended(self, job: Any) -> tuple[str, bool]:
        """What happened to a job, and whether its node is given up."""
        if job.refused is not None:
            return f"sbatch took no job ({job.refused})", True
        where = f" on {job.seen.node}" if job.seen.node else ""
        what = f"job {job.job_id}{where}"
        if job.seen.state == "TIMEOUT":
            return f"{what} reached its time limit (walltime = {self.config.walltime!r}: set a longer one)", True
        how = "was killed for want of memory (set memory=)" if job.seen.state == "OUT_OF_MEMORY" else f"was lost ({job.seen.state})"
        early = "" if job.met else " before its workers were connected"
        if not self._met and self._early >= EARLY:
            return f"{what} {how}{early}", True
        return f"{what} {how}{early}", job.tries >= self.config.retries

    def _early_end(self) -> None:
        config = self.config
        if not self.jobs:
            self.lost = WorkerLostError(f"no Slurm job is left: {'; '.join(self.given_up[-3:])}. {self._where()}")
        elif config.queue_wait_s and not self._met and time.monotonic() - self._begun > config.queue_wait_s:
            self.lost = OSError(f"no node after queue_wait_s = {config.queue_wait_s:g} s: {self.text()}")

    def _where(self) -> str:
        """Where the jobs say what went wrong, and what the last of them said."""
        logs = sorted(self.config.logs.glob(f"{self.name}-*.err"), key=lambda p: p.stat().st_mtime)
        told = last_words(logs[-1]) if logs else ""
        return f"Their logs are {self.config.logs}/{self.name}-*" + (f"; the last one ends: {told}" if told else "")

    # -- telling ---------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """How the jobs stand: "waiting for 4 nodes: 2 pending (Resources), 2 running"."""
        names = self.connected
        running = sum(job.name in names for job in self.jobs)
        waiting = [job for job in self.jobs if job.name not in names]
        pending = [job for job in waiting if job.seen.state != "RUNNING"]
        reasons = Counter(job.seen.reason for job in pending if job.seen.reason not in ("", "None"))
        parts = []
        if pending:
            why = f" ({', '.join(reasons)})" if reasons else ""
            never = ", which cannot start as asked: see cores, memory, walltime" if NEVER & set(reasons) else ""
            parts.append(f"{len(pending)} pending{why}{never}")
        if len(waiting) > len(pending):
            parts.append(f"{len(waiting) - len(pending)} starting")
        if running:
            parts.append(f"{running} running")
        wanted = _n(len(self.jobs), "node")
        return f"waiting for {wanted}: {', '.join(parts)}" if waiting else f"{wanted} running"

    def _tell(self, names: frozenset[str]) -> None:
        text, now = self.text(), time.monotonic()
        waiting = text.startswith("waiting")
        if text == self._said and not (waiting and now - self._said_at > REMIND_S):
            return
        if text == self._said:
            self._say(f"Slurm: {text}, for {(now - self._begun) / 60:.0f} min now", True)
        elif self.jobs:
            self._say(f"Slurm: {text}", waiting and not self._met)
        self._said, self._said_at = text, now

    def _rest(self) -> None:
        now = time.monotonic()
        if self.n_busy or self.cluster.scheduler.tasks:
            self._used = now
        elif now - self._used > self.config.idle_s:
            self._say(f"Slurm: nothing to do for {self.config.idle_s:g} s, the nodes are given back", False)
            self._stop.set()
            with contextlib.suppress(Exception):
                self._idle()


def refusal(why: Exception | None, config: SlurmConfig) -> Exception:
    """The error where Slurm took no job at all."""
    if why is None:
        return OSError(f"sbatch has not answered for {CALL_S:g} s: is Slurm's controller reachable (`sinfo`)?")
    if isinstance(why, UsageError) and "is not found" in str(why):
        return why
    asked = {n: getattr(config, n) for n in ("partition", "account", "cores", "memory", "walltime", "directives")}
    told = ", ".join(f"{n} = {v!r}" for n, v in asked.items() if v)
    kind = OSError if isinstance(why, OSError) else UsageError
    return kind(f"sbatch refused the job: {why}. Asked for were {told}; {hint(str(why))}")


def _n(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
