"""One thread that does a session's work in order, and looks after things once a second."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from libstream.errors import LibstreamError

T = TypeVar("T")

IDLE_S = 1.0


class Worker:
    """Runs functions one after another. `poke()` asks for `work()`, once however often it is asked before that begins.

    tend: called about once a second when there is nothing to do. failed: told of what `work` or `tend` raised.
    """

    def __init__(self, name: str, work: Callable[[], None], tend: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        self._work, self._tend, self._failed = work, tend, failed
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._poked = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def poke(self) -> None:
        """Ask for `work()`."""
        if not self._poked.is_set():
            self._poked.set()
            self._queue.put((self._poke, Future()))

    def call(self, func: Callable[[], T]) -> T:
        """Run `func` in the worker's thread and wait for it; raises what it raises. From that thread itself: at once."""
        if threading.current_thread() is self._thread:
            return func()
        return self.submit(func).result()

    def submit(self, func: Callable[[], T]) -> Future[T]:
        """Run `func` in the worker's thread. Raises LibstreamError after `close`."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise LibstreamError("the session is closed")
            self._queue.put((func, future))
        return future

    def close(self, timeout_s: float | None = None) -> bool:
        """Finish what was asked for, then end the thread. False where it is not done after `timeout_s` seconds (it goes on then)."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _poke(self) -> None:
        self._poked.clear()  # first: what is asked for from here on is done once more
        self._guarded(self._work)

    def _run(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=IDLE_S)
            except queue.Empty:
                self._guarded(self._tend)
                continue
            if item is None:
                return
            func, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(func())
            except BaseException as exc:  # noqa: BLE001  raised where the result is asked for
                future.set_exception(exc)

    def _guarded(self, func: Callable[[], None]) -> None:
        try:
            func()
        except Exception as exc:  # noqa: BLE001  the worker goes on; the session tells the user
            self._failed(exc)
