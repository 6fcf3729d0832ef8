"""The memory of a live source: one allocation, cut into blocks that messages are received into.

A block is free, being filled, or full. What was received stays where it landed until every frame in it was merged; a block whose
frames are all merged is used again when no free one is left, the oldest first, so that frames of a running scan can be processed
once more with other parameters while they are there.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.errors import LibstreamError, UsageError

_Arr = np.ndarray[Any, Any]
MIB = 1 << 20
MIN_BLOCKS = 4
BLOCK_MIN, BLOCK_MAX = MIB, 256 * MIB
MESSAGE_MAX = (1 << 31) - 1
"""No message is larger, whatever the settings say."""
BLOCKS = 64
"""Blocks of a ring where their size is not given."""


@dataclass(frozen=True)
class Shared:
    """Memory that other processes of this user can map by `path`. Picklable; the owner keeps the file open."""

    path: str
    n_bytes: int

    def map(self) -> _Arr:
        """The memory as read-only uint8 (n_bytes,)."""
        try:
            with open(self.path, "rb") as f:
                held = mmap.mmap(f.fileno(), self.n_bytes, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as exc:
            raise LibstreamError(
                f"process {os.getpid()} cannot reach the memory of the live source ({exc}); is the source closed?"
            ) from exc
        return np.frombuffer(held, np.uint8)


class Ring:
    """Blocks of memory and what keeps each of them. Not thread-safe: its owner's lock is held by whoever calls.

    epoch: how often a block was taken. keep: reasons why it must not be taken again. wanted: runs that may look at it once more.
    short: there was no block when one was needed.

    n_bytes: size of the allocation, rounded down to whole blocks; pages are taken from the system when they are first used.
    It lives as long as somebody refers to it: a result may still be computed when its source is closed.
    block_bytes: largest message; by default a 64th of it, between 1 and 256 MiB.
    """

    def __init__(self, n_bytes: int, block_bytes: int | None = None) -> None:
        if block_bytes is None:
            block_bytes = min(max(n_bytes // BLOCKS, BLOCK_MIN), BLOCK_MAX)
        n = n_bytes // block_bytes
        if block_bytes > MESSAGE_MAX:
            raise UsageError(f"messages of {block_bytes} bytes are not possible, at most {MESSAGE_MAX}")
        if n < MIN_BLOCKS:
            raise UsageError(
                f"ring_bytes={n_bytes} holds {n} messages of up to {block_bytes} bytes, at least {MIN_BLOCKS} are needed: "
                f"give ring_bytes={MIN_BLOCKS * block_bytes} or more"
            )
        self.n_blocks, self.block_bytes, self.n_bytes = n, block_bytes, n * block_bytes
        fd, path, is_file = _allocate(self.n_bytes)
        try:
            held = mmap.mmap(fd, self.n_bytes)
        except BaseException:
            _give_back(fd, path if is_file else None)
            raise
        weakref.finalize(held, _give_back, fd, path if is_file else None)
        self.data: _Arr = np.frombuffer(held, np.uint8)
        self.shared = Shared(path, self.n_bytes)
        self.epoch: _Arr = np.zeros(n, np.int64)
        self.keep: _Arr = np.zeros(n, np.int64)
        self.wanted: _Arr = np.zeros(n, np.int64)
        self._new = list(range(n - 1, -1, -1))
        self._full: deque[int] = deque()
        self._filling: int | None = None
        self.short = False

    def take(self) -> int | None:
        """A block to fill: the last one whose runs are over, or a new one, or the oldest one that was merged; None where all are needed."""
        self.retire()
        block = self._pick()
        self.short = block is None
        if block is not None:
            self.epoch[block] += 1
            self.wanted[block] = 0
            self._filling = block
        return block

    def _pick(self) -> int | None:
        for block in reversed(self._full):
            if not self.keep[block] and not self.wanted[block]:
                self._full.remove(block)
                return block
        if self._new:
            return self._new.pop()
        for block in self._full:
            if not self.keep[block]:
                self._full.remove(block)
                return block
        return None

    def oldest(self, which: _Arr) -> int | None:
        """The full block that was filled first among `which`, bool (n_blocks,)."""
        return next((block for block in self._full if which[block]), None)

    def retire(self) -> None:
        """The block being filled is full."""
        if self._filling is not None:
            self._full.append(self._filling)
            self._filling = None

    def want(self, block: int, epoch: int, by: int) -> None:
        """A run has frames in this block (1), or is over and given up by its user (-1)."""
        if self.epoch[block] == epoch:
            self.wanted[block] += by

    def hold(self, offsets: _Arr, by: int) -> None:
        """Add `by` (1 or -1) reasons to keep the blocks of these offsets."""
        if len(offsets):
            self.keep += by * self.count(offsets)

    def count(self, offsets: _Arr) -> _Arr:
        """How many of these offsets lie in each block, int64 (n_blocks,)."""
        return np.bincount(offsets // self.block_bytes, minlength=self.n_blocks)

    def pin(self, block: int, by: int) -> None:
        """The same for one block, `by` reasons at once."""
        self.keep[block] += by

    def held(self, offsets: _Arr, epochs: _Arr) -> _Arr:
        """Bool: what was received at `offsets` in the block's epoch `epochs` is still there."""
        return np.asarray(self.epoch[offsets // self.block_bytes] == epochs)

    @property
    def fill(self) -> float:
        """Part of the blocks that are needed, 0 to 1."""
        return float(np.count_nonzero(self.keep)) / self.n_blocks


def _allocate(n_bytes: int) -> tuple[int, str, bool]:
    """(file descriptor, path for other processes, path is a file to be deleted). Pages are taken when they are used."""
    if hasattr(os, "memfd_create"):
        # nothing is left behind however this process ends
        fd = os.memfd_create("libstream-ring", getattr(os, "MFD_CLOEXEC", 0))
        path, is_file = f"/proc/{os.getpid()}/fd/{fd}", False
    else:
        fd, path = tempfile.mkstemp(prefix="libstream-ring-")
        is_file = True
    try:
        os.ftruncate(fd, n_bytes)
    except OSError:
        _give_back(fd, path if is_file else None)
        raise
    return fd, path, is_file


def _give_back(fd: int, path: str | None) -> None:
    with contextlib.suppress(OSError):
        n_bytes = os.fstat(fd).st_size
        os.ftruncate(fd, 0)  # idle worker processes may still map it: its pages are free all the same
        os.ftruncate(fd, n_bytes)
    os.close(fd)
    if path is not None:
        with contextlib.suppress(OSError):  # Windows: a worker process still maps it
            os.unlink(path)
