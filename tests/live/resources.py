"""What a process holds: memory, threads, descriptors, shared memory."""

from __future__ import annotations

import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

MIB = 1 << 20


@dataclass(frozen=True)
class Held:
    """bytes: resident memory; own_bytes: of it what is not shared (the ring of a live source is).

    shared: names of this process in /dev/shm."""

    bytes: int
    own_bytes: int
    threads: int
    descriptors: int
    shared: frozenset[str]

    @classmethod
    def now(cls) -> Held:
        """As it is. Skips the test where this cannot be known."""
        status = Path("/proc/self/status")
        if not status.is_file():
            pytest.skip("memory is read from /proc: Linux")
        gc.collect()
        lines = dict(
            line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(("VmRSS", "RssAnon"))
        )
        sizes = {name: 1024 * int(value.split()[0]) for name, value in lines.items()}
        names = os.listdir("/dev/shm") if Path("/dev/shm").is_dir() else []
        shared = frozenset(n for n in names if f"-{os.getpid()}-" in n)
        # workers of the process-wide executors are started when they are needed, and stay
        threads = [t for t in threading.enumerate() if not t.name.startswith("libstream-worker")]
        return cls(sizes["VmRSS"], sizes["RssAnon"], len(threads), len(os.listdir("/proc/self/fd")), shared)

    def assert_like(self, before: Held, *, all_memory: bool = True) -> None:
        """No more than before, up to 20 MB of memory. all_memory: shared memory, too."""
        grown = self.bytes - before.bytes if all_memory else self.own_bytes - before.own_bytes
        assert grown < 20 * MIB, f"{grown / MIB:.1f} MiB more"
        assert self.threads <= before.threads, "threads"
        assert self.descriptors <= before.descriptors, "descriptors"
