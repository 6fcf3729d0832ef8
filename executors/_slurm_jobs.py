"""Slurm's own commands, and a job of dask-jobqueue that says what Slurm said."""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libstream.executors._slurm_config import SlurmConfig
from libstream.ext import UsageError

CALL_S = 60.0
"""Longest wait for one of Slurm's commands. sbatch itself tries for a while to reach a controller that is busy."""
LIVE = frozenset(
    ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD",
     "SPECIAL_EXIT", "RESIZING", "SIGNALING", "STAGE_OUT")
)  # fmt: skip
"""States of a job that is not at its end, or may come back."""
NEVER = frozenset(
    ("AccountNotAllowed", "BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit",
     "QOSNotAllowed")
)  # fmt: skip
"""Reasons for which a job waits until somebody changes it or the partition."""
GONE = "gone"
"""What a job is called that squeue does not know any more."""
_HINTS = (
    (r"account|association", "`sacctmgr show associations user=$USER format=account,partition,qos` lists yours; set account=, partition="),
    (r"partition", "`sinfo -s` lists the partitions; set partition="),
    (r"qos", "`sacctmgr show associations user=$USER format=account,qos` lists what you may use; set directives = ['--qos=...']"),
    (r"time.?limit|walltime", "`sinfo -o '%P %l'` lists the longest times; set walltime="),
    (r"node configuration|cpu count|memory|more processors", "`sinfo -o '%P %c %m'` lists cores and MB of nodes; set cores= or memory="),
    (r"contact|connect|socket|configuration source|communication", "is this a computer of the cluster, and does `sinfo` answer?"),
)  # fmt: skip


_importing = threading.Lock()


@dataclass(frozen=True)
class Seen:
    """A job as squeue shows it."""

    state: str
    node: str = ""
    reason: str = ""


class RefusedError(UsageError):
    """Slurm did not take a job."""


def missing(tool: str) -> UsageError:
    """The error where Slurm is not installed."""
    return UsageError(
        f"{tool} is not found: executor='slurm' submits jobs with Slurm's own commands. Run it on a computer of the cluster "
        "(a login node), and load Slurm's module where there is one"
    )


def call(tool: str, *arguments: str, timeout_s: float = CALL_S) -> str:
    """What one of Slurm's commands prints. Raises UsageError where it is missing, RefusedError with its own words, TimeoutError."""
    try:
        # a session of its own: Ctrl-C in the terminal is not for it
        done = subprocess.run(
            [tool, *arguments], capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, start_new_session=True
        )
    except FileNotFoundError:
        raise missing(tool) from None
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{tool} has not answered for {timeout_s:g} s") from None
    if done.returncode:
        raise RefusedError(words(tool, done.stderr or done.stdout) or f"{tool} ended with {done.returncode}")
    return done.stdout


def words(tool: str, said: str) -> str:
    """What a command said, in one line, without its name before every sentence."""
    lines = [re.sub(rf"^{tool}: (error: |fatal: )?", "", line.strip()) for line in said.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))


def hint(said: str) -> str:
    """What to do about it."""
    for pattern, text in _HINTS:
        if re.search(pattern, said, re.I):
            return text
    return "--dry-run shows the job as it is submitted"


def jobs_named(name: str) -> dict[str, Seen]:
    """All jobs of this user of that name that Slurm remembers, by id; those that ended a while ago are forgotten. Raises as `call`."""
    # %r is last, it may hold anything
    out = call("squeue", "--noheader", "--states=all", f"--name={name}", f"--user={os.getuid()}", "--format=%i|%T|%N|%r", timeout_s=20.0)
    rows = [line.strip().split("|", 3) for line in out.splitlines() if line.count("|") >= 3]
    return {i: Seen(state, node, reason) for i, state, node, reason in rows}


def cancel_all(name: str) -> None:
    """Take all jobs of this user of that name out of Slurm. Raises as `call`."""
    call("scancel", f"--name={name}", f"--user={os.getuid()}", timeout_s=20.0)


def last_words(log: Path) -> str:
    """The end of a job's log without what Dask says of itself, for an error; "" where there is none."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-60:]
    except OSError:
        return ""
    told = [line.strip() for line in lines if line.strip() and not re.search(r" - (INFO|WARNING) - ", line)]
    return " / ".join(told[-3:])[-600:]


def job_arguments(config: SlurmConfig, name: str) -> dict[str, Any]:
    """Arguments of dask-jobqueue's job."""
    pre_spawn = '{"MALLOC_TRIM_THRESHOLD_": 134217728, "MALLOC_MMAP_THRESHOLD_": 33554432}'
    return {
        "queue": config.partition or None,
        "account": config.account or None,
        "walltime": config.walltime,
        "cores": config.cores,
        "processes": config.n_processes,
        "memory": config.memory or "1 GB",  # a number is asked for; the line is left out below
        "job_directives_skip": [] if config.memory else ["--mem="],
        "job_extra_directives": list(config.directives),
        # freed blocks of half a megabyte would be given back to the system each time: Dask's setting costs streams half their rate
        "job_script_prologue": [
            *config.prologue,
            f"export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON='{pre_spawn}'",
            "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False",
        ],
        "python": config.python or shlex.quote(sys.executable),
        "interface": config.interface or None,
        "death_timeout": f"{config.death_timeout_s:g}",
        "local_directory": config.local_directory or None,
        "log_directory": str(config.logs),
        "worker_extra_args": ["--no-dashboard"],
        "job_name": name,
    }


@functools.cache
def jobqueue() -> Any:
    """The module `dask_jobqueue`, without what its import does to Ctrl-C. Raises ImportError."""
    real = signal.signal

    def keep(number: int, handler: Any) -> Any:
        # dask-jobqueue 0.9.0 makes Ctrl-C leave the program without a word, and cannot be imported in a thread for it
        return signal.getsignal(number) if getattr(handler, "__module__", "") == "dask_jobqueue.runner" else real(number, handler)

    with _importing:
        signal.signal = keep  # type: ignore[assignment]
        try:
            return importlib.import_module("dask_jobqueue")
        finally:
            signal.signal = real


@functools.cache
def job_class() -> type[Any]:
    """dask-jobqueue's job, with what is added here."""
    from distributed.core import Status

    class Job(jobqueue().slurm.SLURMJob):  # type: ignore[misc,unused-ignore]
        """Submitted by Dask's cluster; the watch keeps the books on it.

        tries: how often its node was asked for before. met: its workers have been connected. refused: why Slurm did not take it.
        """

        def __init__(self, *arguments: Any, watch: Any = None, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.watch = watch
            self.seen = Seen("PENDING")
            self.tries, self.met, self.over = 0, False, False
            self.refused: Exception | None = None

        @property
        def worker_process_memory(self) -> str:
            """No limit of Dask's: it would count mapped files as the worker's own. Slurm's is that of the job."""
            return "0"

        async def start(self) -> None:
            """Submit it. What goes wrong is kept in `refused`: Dask would log it only."""
            try:
                await super().start()
            except (RuntimeError, OSError, ValueError) as exc:
                self.refused = exc
                self.status = Status.running  # what Dask expects after a start
            if self.watch is not None:
                self.watch.submitted(self)

        async def close(self) -> None:
            """Take it out of Slurm."""
            if self.job_id and not self.over:
                await self._close_job(self.job_id, self.cancel_command)
            self.status = Status.closed

        @classmethod
        async def _close_job(cls, job_id: str, cancel_command: str) -> None:
            try:
                await cls._call([*shlex.split(cancel_command), job_id])
            except (RuntimeError, OSError, ValueError):
                return  # it has ended by itself; what is left is cancelled by name

        @staticmethod
        async def _call(command: list[str], **_: Any) -> str:
            pipe = asyncio.subprocess.PIPE
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
                )
            except FileNotFoundError:
                raise missing(command[0]) from None
            try:
                out, err = await asyncio.wait_for(process.communicate(), CALL_S)
            except TimeoutError:
                process.kill()
                await process.wait()
                raise TimeoutError(f"{command[0]} has not answered for {CALL_S:g} s") from None
            if process.returncode:
                said = (err or out).decode(errors="replace")
                raise RefusedError(words(command[0], said) or f"{command[0]} ended with {process.returncode}")
            return out.decode(errors="replace")

    return Job
