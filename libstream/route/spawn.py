"""A router as a process of its own on this computer, started for one client and ended with it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from libstream.errors import LibstreamError

START_S = 60.0
"""Longest wait for the first word of the process."""
END_S = 10.0


class SpawnedRouter:
    """`libstream route` with these arguments. address: where consumers and clients connect. It ends when this process ends.

    files: deleted when it is closed. Raises OSError, LibstreamError with what it said where it does not start.
    """

    def __init__(self, arguments: Sequence[str], files: Sequence[str] = ()) -> None:
        self._arguments, self._files = list(arguments), tuple(files)
        self._lock = threading.Lock()
        self._closed = False
        self._running = _Process(self._arguments)
        self.address: str = self._running.first["address"]

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._running.process.pid

    def revive(self) -> bool:
        """Start it again at the same address where it has died; whether it had. Raises as `SpawnedRouter` does."""
        with self._lock:
            if self._closed or self._running.process.poll() is None:
                return False
            self._running.close()
            at = self._arguments.index("--listen") + 1
            self._running = _Process([*self._arguments[:at], self.address, *self._arguments[at + 1 :]])
            return True

    def close(self) -> None:
        """End it. Idempotent."""
        with self._lock:
            self._closed = True
            self._running.close()
        for file in self._files:
            with contextlib.suppress(OSError):
                os.unlink(file)


class _Process:
    """One process of a router. first: what it said when it was ready."""

    def __init__(self, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-m", "libstream", "route", *arguments, "--json", "--end-with-input"]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.said: deque[str] = deque(maxlen=50)
        # of a session of its own, so that Ctrl-C in a terminal does not end it before its client
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
        )
        self.first: dict[str, Any] = {}
        self._began = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, name="libstream-router-out", daemon=True),
            threading.Thread(target=self._read_errors, name="libstream-router-err", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        if not self._began.wait(START_S) or not self.first:
            self.close()
            said = "\n".join(self.said) or f"it said nothing for {START_S:g} s"
            raise LibstreamError(f"the router did not start: {said.removeprefix('libstream: ')}")

    def _read(self) -> None:
        stream: Any = self.process.stdout
        for line in stream:
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if not self.first and isinstance(found, dict) and "address" in found:
                    self.first = found
                    self._began.set()
        self._began.set()

    def _read_errors(self) -> None:
        stream: Any = self.process.stderr
        for line in stream:
            self.said.append(line.rstrip())

    def close(self) -> None:
        """End it. Idempotent."""
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for thread in self._threads:
            thread.join(5.0)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
