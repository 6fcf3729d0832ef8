"""Work and UDFs for tests of executors; worker processes import this module."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from libstream.contracts.executor import CancelFlag
from libstream.contracts.source import Partition
from libstream.contracts.udf import UDF
from libstream.errors import CancelledError, UDFError
from libstream.kernels.jit import kernel
from libstream.model.output import Output, nav, sig, single
from libstream.model.partial import PROCESSED, Partial

_Arr = np.ndarray[Any, Any]


@dataclass
class CountedWork:
    """A `Work` of partitions that sleep, tile by tile, and leave a mark in a file for all they do.

    marks: the file. tiles: tiles of a partition. tile_s: time of each. fail_at, die_at: number of the partition that raises, or
    kills its process; once: only the first time.
    """

    marks: str
    tiles: int = 3
    tile_s: float = 0.005
    fail_at: int = -1
    die_at: int = -1
    once: bool = False

    def setup(self) -> None:
        """Once per process, maybe more often."""
        self.mark("setup", os.getpid())

    def process(self, partition: Partition, cancel: CancelFlag) -> Partial:
        """Sleep through the tiles."""
        n = partition.number
        for _ in range(self.tiles):
            if cancel:
                raise CancelledError("cancelled")
            self.mark("tile", n)
            if n == self.die_at and not (self.once and self.count("died")):
                self.mark("died", n)
                os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
            if n == self.fail_at:
                self.mark("failed", n)
                raise UDFError(f"boo in partition {n}", udf="counted", where=f"partition {n}")
            time.sleep(self.tile_s)
        positions = partition.positions()
        return Partial(n, 1, positions, np.full(len(positions), PROCESSED, np.uint8), {}, {("counted", "n"): np.ones(1)})

    def combine(self, left: Partial, right: Partial) -> Partial:
        """Neighbours, where the executor merges some itself."""
        assert left.span == right.span, "only nodes of the tree are merged"
        assert right.number == left.number + left.span, "not neighbours"
        assert left.number % (2 * left.span) == 0, "not children of one node"
        positions, status = np.concatenate([left.positions, right.positions]), np.concatenate([left.status, right.status])
        n = left.reduced["counted", "n"] + right.reduced["counted", "n"]
        return Partial(left.number, left.span + right.span, positions, status, {}, {("counted", "n"): n})

    def close(self) -> None:
        """Nothing to release."""

    def mark(self, what: str, number: int) -> None:
        """Add a line to the file, at once and whole."""
        fd = os.open(self.marks, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, f"{what} {number}\n".encode())
        finally:
            os.close(fd)

    def count(self, what: str) -> int:
        """Number of marks of this kind."""
        return sum(self.by_number(what).values())

    def by_number(self, what: str) -> Counter[int]:
        """Number of marks of this kind by partition."""
        path = Path(self.marks)
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(int(line.split()[1]) for line in lines if line.split()[0] == what)


def partitions(n: int | None, taken: list[int] | None = None) -> Iterator[Partition]:
    """`n` partitions (None: endless) of one position each; numbers are appended to `taken` when they are handed out."""
    for i in range(n) if n is not None else itertools.count():
        if taken is not None:
            taken.append(i)
        yield Partition(i, np.array([[i, i + 1]], np.int64))


class FrameSums(UDF):
    """Float sums over scan and frame in plain Python: their bits show the order of merging."""

    def outputs(self) -> dict[str, Output]:
        """Total of each frame, and the sum of all."""
        return {"total": nav("f8"), "image": sig("f8"), "n": single("i8")}

    def process_frame(self, frame: _Arr, out: Any) -> None:
        """Add."""
        out.total[...] = frame.sum(dtype="f8") / 3.0
        out.image += frame / 7.0
        out.n[...] += 1


class KernelSums(UDF):
    """The same in compiled code."""

    def outputs(self) -> dict[str, Output]:
        """Total of each frame, and the sum of all."""
        return {"total": nav("f8"), "image": sig("f8")}

    @kernel
    @staticmethod
    def process_frame(frame: _Arr, total: _Arr, image: _Arr) -> None:
        """Add."""
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                total[0] += frame[y, x] / 3.0
                image[y, x] += frame[y, x] / 7.0


class RaisesAt(UDF):
    """Raises at one scan position."""

    position: int

    def outputs(self) -> dict[str, Output]:
        """Number of frames."""
        return {"n": single("i8")}

    def process_frame(self, frame: _Arr, out: Any, at: Any) -> None:
        """Count, or raise."""
        if at.index == self.position:
            raise ValueError("boo")
        out.n[...] += 1
