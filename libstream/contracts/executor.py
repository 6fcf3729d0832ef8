"""Who runs partitions, and what they run."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from libstream.contracts.source import Partition
from libstream.model.partial import Partial


class Work(Protocol):
    """The job as one picklable object. Executors call these four and know nothing else of it."""

    def setup(self) -> None:
        """Once per process before the first partition: bind, load kernels. Idempotent, thread-safe."""

    def process(self, partition: Partition, cancel: CancelFlag) -> Partial:
        """Run all UDFs over one partition. Checks `cancel` at every tile and raises CancelledError."""

    def combine(self, left: Partial, right: Partial) -> Partial:
        """Merge two neighbours of the fixed tree (left has the smaller numbers)."""

    def close(self) -> None:
        """Release this process's readers and buffers."""


class CancelFlag:
    """One byte that stops work; compiled loops read `array[0]` at each tile.

    `shared=True` keeps the byte in a small file, so that other processes see it: pickled by name.
    """

    def __init__(self, *, shared: bool = False, _path: str | None = None) -> None:
        self._path, self._owner = _path, False
        if shared and _path is None:
            fd, self._path = tempfile.mkstemp(prefix="libstream-cancel-")
            os.write(fd, b"\0")
            os.close(fd)
            self._owner = True
        if self._path is not None:
            with open(self._path, "r+b") as f:
                self._map: mmap.mmap | None = mmap.mmap(f.fileno(), 1)
            self.array = np.frombuffer(self._map, dtype=np.uint8)
        else:
            self._map = None
            self.array = np.zeros(1, np.uint8)

    def set(self) -> None:
        """Ask all work under this flag to stop."""
        self.array[0] = 1

    def __bool__(self) -> bool:
        return bool(self.array[0])

    def remove(self) -> None:
        """Delete the shared file (the owner, after the run)."""
        if self._owner and self._path is not None:
            self._owner = False
            os.unlink(self._path)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._path is None:
            raise TypeError("this CancelFlag is not shared between processes: make it with shared=True")
        return (_flag_at, (self._path,))


def _flag_at(path: str) -> CancelFlag:
    return CancelFlag(_path=path)


@dataclass(frozen=True)
class Traits:
    """What the engine must know of an executor.

    n_workers: how many partitions run at once.
    crosses_process: UDFs are pickled. A wrong guess costs a pickle, never a wrong answer.
    in_caller: partitions run in the thread that iterates, so that a debugger stops at the user's line.
    frames_per_task_factor: multiplies the partition size where a task is dear (clusters).
    """

    n_workers: int
    crosses_process: bool = True
    in_caller: bool = False
    frames_per_task_factor: float = 1.0


class Executor(Protocol):
    """Runs partitions. Started at first use, closed by whoever made it."""

    name: ClassVar[str]

    @property
    def traits(self) -> Traits:
        """See `Traits`."""

    def imap(self, work: Work, partitions: Iterable[Partition], *, in_flight: int, cancel: CancelFlag) -> Iterator[Partial | None]:
        """Partials in the order of completion. `partitions` is consumed lazily, may block and may be endless.

        Yields None now and then (some 20 times a second) while nothing completes, so that the loop can publish.

        The first exception of `work.process` ends the iteration and is raised. When `cancel` is set, no further partition
        starts, running ones end at their next tile, and CancelledError is raised. A dead worker's partitions are tried
        again on another one, 3 times each, then WorkerLostError.
        """

    def close(self) -> None:
        """Stop workers; idempotent."""


@runtime_checkable
class ShowsCluster(Protocol):
    """An executor, or a live source, behind which there are several computers or processes."""

    def cluster(self) -> dict[str, Any] | None:
        """How they are: the dictionary of docs/reference/router.md, a few seconds old at most; None before they are used. Never waits."""


ExecutorFactory = Callable[..., Executor]
