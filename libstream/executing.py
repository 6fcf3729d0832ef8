"""Executors by name: shared by the whole process, or one's own."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from libstream import registry
from libstream.contracts.executor import Executor, ShowsCluster
from libstream.errors import UsageError

_shared: dict[str, Executor] = {}
_shared_lock = threading.Lock()


@contextmanager
def executor(name: str, **options: Any) -> Iterator[Executor]:
    """An executor of one's own, closed at the end: `with ls.executor("processes", workers=4) as ex: ls.run(..., executor=ex)`.

    name: as for `start`, with an address where the executor takes one ("dask://host:8786"). options: what the executor takes.
    """
    name, _, address = name.partition("://")
    own = registry.load("executors", name)(**options, **({"address": address} if address else {}))
    try:
        yield own
    finally:
        own.close()


def shutdown(*, at_once: bool = False) -> None:
    """Close the process-wide executors; the next run starts new ones. at_once: end worker processes in the middle of calls of UDFs."""
    with _shared_lock:
        held = list(_shared.values())
        _shared.clear()
    for ex in held:
        kill = getattr(ex, "kill", None)
        if not at_once:
            ex.close()
        elif kill is not None:  # threads cannot be ended: they are left to the end of the process
            kill()


def cluster_of(given: str | Executor) -> dict[str, Any] | None:
    """How the computers behind an executor are (`ShowsCluster`); None where there are none, or where it has not been used. Never waits."""
    held = _shared.get(given) if isinstance(given, str) else given
    return held.cluster() if isinstance(held, ShowsCluster) else None


atexit.register(shutdown)


def named(given: str | Executor) -> Executor:
    """The process-wide executor of this name, or the one that is given (a `distributed.Client` too). Raises UsageError."""
    if not isinstance(given, str):
        if type(given).__module__.partition(".")[0] == "distributed" and hasattr(given, "scheduler"):
            return registry.load("executors", "dask")(client=given)  # holds nothing that would have to be closed
        if not hasattr(given, "imap"):
            raise UsageError(f"executor must be a name such as 'threads' or an executor, got {given!r}")
        return given
    with _shared_lock:
        if given not in _shared:
            name, _, address = given.partition("://")
            cls = registry.load("executors", name)
            _shared[given] = cls(address=address) if address else cls()
        return _shared[given]
