"""What runs on Dask's workers: one work a run, kept for all its tasks, with a flag of its own that stops it."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import PurePath
from typing import Any

from libstream.ext import CancelFlag, Partial, Partition, Work

_held: dict[str, Held] = {}
_lock = threading.Lock()


class Held:
    """A work on this worker. busy: calls of it that are running."""

    def __init__(self, payload: bytes, path_map: Mapping[str, str]) -> None:
        self.payload, self.path_map = payload, path_map
        self.cancel = CancelFlag()
        self.busy = 0
        self._work: Work | None = None
        self._lock = threading.Lock()

    def work(self) -> Work:
        """The work, unpickled and set up once."""
        with self._lock:
            if self._work is None:
                import pickle

                work = pickle.loads(self.payload)  # noqa: S301  a Dask cluster runs what its users send: they chose to trust it
                if self.path_map and hasattr(work, "opener"):
                    work.opener = with_paths(work.opener, self.path_map)
                work.setup()
                self._work = work
            return self._work

    def close(self) -> None:
        """Stop and forget it."""
        self.cancel.set()
        with self._lock:
            if self._work is not None:
                self._work.close()


def hold(token: str, payload: bytes, path_map: Mapping[str, str]) -> None:
    """A run begins, or this worker has just joined it."""
    with _lock:
        _held.setdefault(token, Held(payload, path_map))


def forget(token: str) -> None:
    """A run is over."""
    with _lock:
        held = _held.pop(token, None)
    if held is not None:
        held.close()


def stop(token: str) -> None:
    """No tile of the run starts any more on this worker."""
    with _lock:
        held = _held.get(token)
    if held is not None:
        held.cancel.set()


def busy(token: str) -> int:
    """Calls of the run that are going on in this worker."""
    with _lock:
        held = _held.get(token)
    return 0 if held is None else held.busy


def process(token: str, partition: Partition) -> Partial:
    """Task: one partition."""
    held = _of(token)
    with _lock:
        held.busy += 1
    try:
        return held.work().process(partition, held.cancel)
    finally:
        with _lock:
            held.busy -= 1


def combine(token: str, left: Partial, right: Partial) -> Partial:
    """Task: two neighbours."""
    return _of(token).work().combine(left, right)


def _of(token: str) -> Held:
    with _lock:
        held = _held.get(token)
    if held is None:
        raise RuntimeError(f"worker {os.getpid()} does not know run {token}: it is over, or was never sent here")
    return held


def versions() -> dict[str, str]:
    """What has to agree between client and workers."""
    import cloudpickle
    import numba
    import numpy as np

    import libstream

    return {
        "libstream": libstream.__version__, "numpy": np.__version__, "numba": numba.__version__, "cloudpickle": cloudpickle.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
    }  # fmt: skip


def tune_malloc() -> None:
    """Let glibc keep large blocks: Dask's nanny switches that off, and each buffer of half a megabyte would come anew from the system."""
    import contextlib
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 128 << 20)  # M_TRIM_THRESHOLD


def with_paths(value: Any, path_map: Mapping[str, str]) -> Any:
    """`value` with the beginnings of its paths replaced: the same files under the names that this worker has for them."""
    if isinstance(value, (str, PurePath)):
        text = str(value)
        for here, there in path_map.items():
            if text == here or text.startswith(here.rstrip("/") + "/"):
                return type(value)(there.rstrip("/") + text[len(here.rstrip("/")) :])
        return value
    if isinstance(value, tuple):
        made = [with_paths(v, path_map) for v in value]
        return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    if isinstance(value, list):
        return [with_paths(v, path_map) for v in value]
    if isinstance(value, dict):
        return {k: with_paths(v, path_map) for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: with_paths(getattr(value, f.name), path_map) for f in fields(value) if f.init}
        return replace(value, **{k: v for k, v in changes.items() if v is not getattr(value, k)})
    return value
