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

    files: deleted when it ends. Raises OSError, LibstreamError with what it said where it does not start.
    """

    def __init__(self, arguments: Sequence[str], files: Sequence[str] = ()) -> None:
        self._files = tuple(files)
        command = [sys.executable, "-m", "libstream", "route", *arguments, "--json", "--end-with-input"]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.said: deque[str] = deque(maxlen=50)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
        )
        self._began = threading.Event()
        self._first: dict[str, Any] = {}
        self._threads = [
            threading.Thread(target=self._read, name="libstream-router-out", daemon=True),
            threading.Thread(target=self._read_errors, name="libstream-router-err", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        if not self._began.wait(START_S) or not self._first:
            self.close()
            said = "\n".join(self.said) or f"it said nothing for {START_S:g} s"
            raise LibstreamError(f"the router did not start: {said.removeprefix('libstream: ')}")
        self.address: str = self._first["address"]

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def _read(self) -> None:
        stream: Any = self._process.stdout
        for line in stream:
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if not self._first and isinstance(found, dict) and "address" in found:
                    self._first = found
                    self._began.set()
        self._began.set()

    def _read_errors(self) -> None:
        stream: Any = self._process.stderr
        for line in stream:
            self.said.append(line.rstrip())

    def close(self) -> None:
        """End it. Idempotent."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(5.0)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        for file in self._files:
            with contextlib.suppress(OSError):
                os.unlink(file)
