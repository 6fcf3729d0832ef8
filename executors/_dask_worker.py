"""What runs on Dask's workers: one work a run, kept for all its tasks, with a flag of its own that stops it."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

from libstream.executors._dask_health import METRIC
from libstream.ext import CancelFlag, CancelledError, LibstreamError, Partial, Partition, SourceChangedError, UsageError, Work

_held: dict[str, Held] = {}
_counts: dict[str, Any] = {"frames": 0, "bytes": 0, "last_error": ""}
"""What this process has done, in all runs."""
_lock = threading.Lock()


class Held:
    """A work on this worker.

    payload: the pickled work; flag: the pickled flag of the client, which workers of the same computer see at once.
    path_map: see `DaskExecutor`; wanted: versions of the client.
    """

    def __init__(self, payload: bytes, flag: bytes, path_map: Mapping[str, str], wanted: Mapping[str, str]) -> None:
        import pickle

        self.payload, self.path_map = payload, path_map
        self.mismatch = differences(wanted, versions())
        try:
            self.cancel: CancelFlag = pickle.loads(flag)  # noqa: S301  a Dask cluster runs what its users send: they chose to trust it
        except (OSError, EOFError):  # another computer, or a flag that cannot be shared: `stop` sets this one
            self.cancel = CancelFlag()
        self.apart = False  # merging has failed
        self._work: Work | None = None
        self._lock = threading.Lock()
        self._blas: Any = None
        self.frame_bytes = 0

    def work(self) -> Work:
        """The work, unpickled and set up once."""
        with self._lock:
            if self._work is None:
                import pickle

                from threadpoolctl import threadpool_limits

                if self.mismatch:
                    raise UsageError(f"Dask worker at {where()} has other versions: {self.mismatch}. Install the same ones")
                # as all executors do: the bits of BLAS depend on its number of threads
                self._blas = threadpool_limits(limits=1, user_api="blas")
                work = pickle.loads(self.payload)  # noqa: S301  see above
                self.payload = b""
                if self.path_map and hasattr(work, "opener"):
                    work.opener = with_paths(work.opener, self.path_map)
                work.setup()
                self.frame_bytes = sum(math.prod(c.sig) * c.dtype.itemsize for c in getattr(work, "channels", ()))
                self._work = work
            return self._work

    def close(self) -> None:
        """Release what the work holds. Its calls are over."""
        with self._lock:
            if self._work is not None:
                self._work.close()
            if self._blas is not None:
                self._blas.restore_original_limits()


def hold(token: str, payload: bytes, flag: bytes, path_map: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """A run begins, or this worker has just joined it."""
    tune_malloc()
    with _lock:
        if token not in _held:
            _held[token] = Held(payload, flag, path_map, wanted)


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


def mismatch(token: str) -> str:
    """How the versions here differ from those of the client, "" where they do not."""
    held = _held.get(token)
    return "" if held is None else held.mismatch


def process(token: str, partitions: list[Partition]) -> Partial | list[Partial]:
    """Task: partitions whose numbers are a node of the tree, merged; one by one where merging fails, for the client to see why."""
    held = _of(token)
    try:
        work = held.work()
        done = [work.process(p, held.cancel) for p in partitions[:1]]
        _count(done[0], held)
        for p in partitions[1:]:
            done.append(work.process(p, held.cancel))
            _count(done[-1], held)
            while not held.apart and len(done) > 1 and done[-1].span == done[-2].span:
                try:
                    done[-2:] = [work.combine(done[-2], done[-1])]
                except Exception:  # noqa: BLE001  of the UDF's merge
                    held.apart = True
    except (FileNotFoundError, SourceChangedError) as exc:
        _counts["last_error"] = str(exc)[:2000]
        raise type(exc)(
            f"{exc} This is what the Dask worker at {where()} found: it has to see the files of the client, under another name with "
            "path_map={'/name/here': '/name/there'}"
        ) from exc
    except CancelledError:
        raise
    except Exception as exc:
        _counts["last_error"] = f"{type(exc).__name__}: {exc}"[:2000]
        raise
    return done[0] if len(done) == 1 else done


def _count(partial: Partial, held: Held) -> None:
    with _lock:
        _counts["frames"] += len(partial.positions)
        _counts["bytes"] += len(partial.positions) * held.frame_bytes


def metric(worker: Any) -> dict[str, Any]:
    """What goes to the scheduler with the heartbeats of this worker."""
    with _lock:
        return {**_counts, "t": time.time(), "pid": os.getpid()}


def combine(token: str, *parts: Partial) -> Partial:
    """Task: neighbours that make up a node of the tree, in order, merged pair by pair as the tree says."""
    work, done = _of(token).work(), []
    for part in parts:
        done.append(part)
        while len(done) > 1 and done[-1].span == done[-2].span:
            done[-2:] = [work.combine(done[-2], done[-1])]
    (merged,) = done
    return merged


def _of(token: str) -> Held:
    with _lock:
        held = _held.get(token)
    if held is None:
        raise LibstreamError(f"the Dask worker at {where()} was not told of this run: was the scheduler restarted?")
    return held


def where() -> str:
    """This process in words."""
    return f"{platform.node()}, process {os.getpid()}"


@functools.cache
def versions() -> dict[str, str]:
    """What has to agree between client and workers, so that results do."""
    import libstream

    found = {name: version(name) for name in ("numpy", "numba", "cloudpickle")}
    return {"libstream": libstream.__version__, **found, "python": ".".join(platform.python_version_tuple()[:2])}


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Versions that differ, in words."""
    return ", ".join(f"{name} {there.get(name, '(none)')} there, {v} here" for name, v in here.items() if there.get(name) != v)


@functools.cache
def tune_malloc() -> None:
    """Let glibc keep large blocks: Dask's nanny switches that off, and each buffer of half a megabyte would come anew from the system."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 128 << 20)  # M_TRIM_THRESHOLD


def with_paths(value: Any, path_map: Mapping[str, str]) -> Any:
    """`value` with the beginnings of its paths replaced: the same files under the names that this worker has for them."""
    if isinstance(value, (str, PurePath)):
        text = str(value)
        for here, there in path_map.items():
            start = here.rstrip("/\\")
            if text == start or text[: len(start) + 1] in (f"{start}/", f"{start}\\"):
                return type(value)(there.rstrip("/\\") + text[len(start) :])
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
        changes = {k: v for k, v in changes.items() if v is not getattr(value, k)}
        if "path" in changes and hasattr(value, "device"):
            changes["device"] = -1  # numbers of files are compared where the device is the same: this may be a copy
        return replace(value, **changes) if changes else value
    return value


@functools.cache
def _run_plugin() -> type[Any]:
    from distributed import WorkerPlugin

    class RunPlugin(WorkerPlugin):  # type: ignore[misc,unused-ignore]
        """Brings a run to every worker once, also to those that join later."""

        def __init__(self, token: str, *what: Any) -> None:
            self.name, self.token, self.what = f"libstream-{token}", token, what

        def setup(self, worker: Any) -> None:
            """The run begins on this worker."""
            hold(self.token, *self.what)
            worker.metrics.setdefault(METRIC, metric)
            self.what = ()  # it may be large, and is kept once

        def teardown(self, worker: Any) -> None:
            """The run is over."""
            forget(self.token)

    # found by __getattr__ below: pickled by name, so that workers with another Python can say so
    RunPlugin.__module__, RunPlugin.__qualname__ = __name__, "RunPlugin"
    return RunPlugin


def __getattr__(name: str) -> Any:
    if name == "RunPlugin":  # made when it is asked for: its base class is Dask's
        return _run_plugin()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
