"""What every test runs under: hypothesis profiles, the place of the real files, and nothing left behind."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import realdata

# no deadlines: the first example of a kernel may compile it
hypothesis.settings.register_profile("dev", deadline=None, max_examples=40)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=40, print_blob=True)
hypothesis.settings.load_profile("dev")
SOAK_FACTOR = 20
"""How many times more examples each property test has under the profile `soak`, those with a number of their own too."""


def pytest_configure() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would the programs of the tests that are sent one."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Raise the numbers of examples under `--hypothesis-profile=soak` (tests/system/soak.py)."""
    if config.getoption("--hypothesis-profile") != "soak":
        return
    raised = set()
    for item in items:
        test = getattr(getattr(item, "obj", None), "__func__", getattr(item, "obj", None))
        own = getattr(test, "_hypothesis_internal_use_settings", None)  # where @settings leaves it
        if own is not None and test not in raised:
            raised.add(test)
            test._hypothesis_internal_use_settings = hypothesis.settings(own, max_examples=SOAK_FACTOR * own.max_examples)


def pytest_report_header() -> list[str]:
    """Say where real files and compiled kernels are: both change what is run, and how long it takes."""
    from libstream.config import cache_dir

    found = realdata.root()
    files = f"real files: {found}" if found else f"real files: their tests are skipped, {realdata.MISSING}"
    return [files, f"compiled kernels: {cache_dir() / 'kernels'}"]


# -- nothing outlives a test -------------------------------------------------------------------------------------------


_PERSISTENT = ("libstream-worker", "ExecutorManagerThread", "QueueFeederThread", "Dask-Offload")
"""Names of the threads of the process-wide executors; two are those of loky, for each pool of processes, the last is Dask's, for ever."""


def _threads() -> dict[object, str]:
    # workers of the process-wide executors live until ls.shutdown(); tqdm's monitor is a daemon of its own
    return {
        t: f"thread {t.name!r}"
        for t in threading.enumerate()
        if t is not threading.main_thread() and not t.name.startswith(_PERSISTENT) and type(t).__name__ != "TMonitor"
    }


def _children(*, pool: bool = False) -> dict[object, str]:
    """Child processes by id, with their command lines; those of the process-wide pool (loky) only where asked for."""
    found: dict[object, str] = {}
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            pids = task.read_text().split()
        except OSError:  # that thread has ended
            continue
        for pid in pids:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if "resource_tracker" not in words and (pool or "loky" not in words):
                found[int(pid)] = f"child process {pid}: {words or '(ended, not waited for)'}"
    return found


def _files() -> dict[object, str]:
    """Open regular files and sockets by descriptor."""
    found: dict[object, str] = {}
    own = (sys.prefix, sys.base_prefix, "/dev/", "/proc/", "/sys/", "/memfd:")
    for fd in Path("/proc/self/fd").glob("*"):
        try:
            target = os.readlink(fd)
        except OSError:  # the one of this listing
            continue
        if target.startswith("socket:") or (target.startswith("/") and not target.startswith(own)):
            found[fd.name, target] = f"open file {target}"
    return found


GRACE_S = 3.0
"""How long threads and children may take to end by themselves after a test [s]."""

_WATCHED: dict[str, Callable[[], dict[object, str]]] = {"threads": _threads}
if Path("/proc/self/fd").is_dir():
    _WATCHED |= {"children": _children, "files": _files}


def _left(before: dict[str, dict[object, str]]) -> list[str]:
    now = {what: look() for what, look in _WATCHED.items() if what in before}
    return [text for what in now for thing, text in now[what].items() if thing not in before[what]]


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a child process, an open file or a socket behind."""
    allowed = {mark.args[0] for mark in request.node.iter_markers("leaves")}
    before = {what: look() for what, look in _WATCHED.items() if what not in allowed}
    yield
    if not _left(before):
        return
    gc.collect()  # readers in a reference cycle
    deadline = time.monotonic() + GRACE_S
    while left := _left(before):
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(left), pytrace=False)
        time.sleep(0.02)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_at_the_end() -> Iterator[None]:
    """After the last test `ls.shutdown()` ends the persistent executors: no thread and no worker may remain."""
    yield
    if "libstream.api" not in sys.modules:
        return
    import libstream as ls

    ls.shutdown()
    deadline = time.monotonic() + 10.0
    while left := [t.name for t in threading.enumerate() if t.name.startswith("libstream-")] + list(_children(pool=True).values()):
        if time.monotonic() > deadline:
            pytest.fail(f"still there after ls.shutdown(): {', '.join(left)}", pytrace=False)
        time.sleep(0.02)
