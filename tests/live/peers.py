"""Independent programs, each in an environment of its own, spoken to only through sockets, files and lines of JSON.

An environment is made once, in .venv-interop/NAME, by pip; where that is not possible its tests are skipped, and say why.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tests import links

FOLDER = links.ROOT / ".venv-interop"
HERE = Path(__file__).parent
NEEDS: dict[str, tuple[str, ...]] = {
    "libertem": ("libertem-live==0.3.0", "libertem==0.16.0", "flask"),
    "dectris": ("dectris-compression==0.4.0", "cbor2>=5.6", "numpy", "h5py", "hdf5plugin"),
}
"""Packages of each environment. dectris-compression is built from source, by a compiler that knows C++20."""
IMPORTS = {"libertem": "libertem_live.api, flask", "dectris": "dectris.compression, cbor2, numpy, h5py, hdf5plugin"}
INSTALL_S, START_S, ANSWER_S = 400, 90, 60


def _bin(folder: Path, name: str) -> Path:
    return folder / ("Scripts" if os.name == "nt" else "bin") / (f"{name}.exe" if os.name == "nt" else name)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def _made(name: str) -> tuple[Path, str]:
    """(folder of the environment, why it cannot be had)."""
    folder, stamp = FOLDER / name, FOLDER / name / "made-for.txt"
    wanted = " ".join([*NEEDS[name], f"Python {sys.version.split()[0]}"])
    with _alone(FOLDER / f"{name}.lock"):
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            return folder, ""
        python = str(_bin(folder, "python"))
        steps = [
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [
                python,
                "-m",
                "pip",
                "install",
                "-q",
                "--no-compile",
                "--disable-pip-version-check",
                "--retries",
                "1",
                "--timeout",
                "15",
                *NEEDS[name],
            ],
            [python, "-c", f"import {IMPORTS[name]}"],
        ]
        for step in steps:
            try:
                done = subprocess.run(step, capture_output=True, text=True, timeout=INSTALL_S, env=_env(), cwd=FOLDER)
            except (OSError, subprocess.TimeoutExpired) as exc:
                return folder, str(exc)
            if done.returncode:
                said = re.findall(r"(?i)^.*error.*$", done.stderr, re.MULTILINE) or done.stderr.splitlines() or ["no reason given"]
                return folder, said[-1].strip()[:300]
        stamp.write_text(wanted, encoding="utf-8")
    return folder, ""


def _env() -> dict[str, str]:
    """Without what would mix the environments."""
    mixing = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {k: v for k, v in os.environ.items() if k not in mixing and not k.startswith("COV_")}


def program(name: str, command: str = "python") -> str:
    """Path of a program in the environment of a peer; skips the test where that cannot be made."""
    folder, why = _made(name)
    if why:
        pytest.skip(f"{' and '.join(NEEDS[name])} cannot be installed here: {why}")
    return str(_bin(folder, command))


class Peer:
    """A running program: orders to it and answers from it as lines of JSON, for scripts of this folder; its log for others."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with open(log, "w", encoding="utf-8") as errors:
            talks = command[1:2] == ["-P"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE if talks else errors, stderr=errors if talks else subprocess.STDOUT,
                text=True, env=_env(), start_new_session=True,
            )  # fmt: skip

    @classmethod
    def script(cls, name: str, log: Path) -> Peer:
        """A script of this folder, by the Python of the peer."""
        return cls([program(name), "-P", str(HERE / f"peer_{name}.py")], log)

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer."""
        self.order(**order)
        return self.answer()

    def order(self, **order: Any) -> None:
        """Give an order."""
        pipe: IO[str] | None = self._process.stdin
        assert pipe is not None
        pipe.write(json.dumps(order) + "\n")
        pipe.flush()

    def answer(self) -> dict[str, Any]:
        """The next answer; the peer itself ends what takes too long."""
        pipe: IO[str] | None = self._process.stdout
        assert pipe is not None
        line = pipe.readline()
        assert line, f"the peer has ended:\n{self.said()[-3000:]}"
        found: dict[str, Any] = json.loads(line)
        assert "error" not in found, f"{found['error']}\n{self.said()[-3000:]}"
        return found

    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_said(self, pattern: str, limit_s: float = START_S) -> re.Match[str]:
        """Wait for something in the log."""
        end = time.monotonic() + limit_s
        while (found := re.search(pattern, self.said())) is None:
            assert self._process.poll() is None, f"the peer has ended:\n{self.said()[-3000:]}"
            assert time.monotonic() < end, f"the peer never said {pattern}:\n{self.said()[-3000:]}"
            time.sleep(0.05)
        return found

    def wait_listens(self, port: int, limit_s: float = START_S) -> None:
        """Wait until somebody listens at a port."""
        end = time.monotonic() + limit_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                assert self._process.poll() is None, f"the peer has ended:\n{self.said()[-3000:]}"
                assert time.monotonic() < end, f"nobody listens at {port}:\n{self.said()[-3000:]}"
                time.sleep(0.05)
            else:
                return

    def close(self) -> None:
        """End it, and the processes that it has started."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and pipe is not self._process.stdout:
                pipe.close()
        if self._process.stdout is not None:  # a script ends with its orders
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            self._process.stdout.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
