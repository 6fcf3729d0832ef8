"""Programs that the demo starts: a simulated detector, and the page's server with the requests that a script can make of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from libstream.errors import LibstreamError

PATIENCE_S = 60.0


class Detector:
    """A process that serves a file as a DECTRIS detector. url: its address."""

    def __init__(self, scan: Path, *, rate: float, loss: float, repeat: int, pause_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "libstream", "replay", str(scan), "--to", "dectris://127.0.0.1:0", "--rate", str(rate),
             "--loss", str(loss), "--seed", "1", "--repeat", str(repeat), "--pause", str(pause_s), "--ahead", "8M", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        first = self._process.stderr.readline()  # type: ignore[union-attr]
        found = re.search(r"tcp://127\.0\.0\.1:(\d+)", first)
        if found is None:
            self.close()
            raise LibstreamError(f"the simulated detector did not start: {first.strip()}")
        self.url = f"dectris://127.0.0.1:{found[1]}"

    def account(self) -> dict[str, Any]:
        """Wait for its end: what it sent, and lost on purpose."""
        out, _ = self._process.communicate(timeout=PATIENCE_S)
        found: dict[str, Any] = json.loads(out)["runs"][0]
        return found

    def close(self) -> None:
        """Stop it."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.communicate()

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Server:
    """`libstream serve` as a process. link: what is opened in a browser."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "libstream", "serve", "--no-browser", "--fresh", "--root", str(folder), "-o", str(folder)],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "LIBSTREAM_STATE_DIR": str(folder / "state")},
        )  # fmt: skip
        self.link = self._process.stdout.readline().strip()  # type: ignore[union-attr]
        found = re.match(r"(http\S+)/\?token=(\S+)", self.link)
        if found is None:
            self.close()
            raise LibstreamError(f"the server of the page did not start: {self.link}")
        self._base, self._token = found[1], found[2]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request of its HTTP interface: JSON in, JSON out (bytes for results). Raises LibstreamError with what the server says."""
        request = urllib.request.Request(
            f"{self._base}/api/{path}", method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                data: bytes = answer.read()
        except urllib.error.HTTPError as exc:
            raise LibstreamError(f"{method} api/{path}: {exc.read().decode(errors='replace')}") from exc
        return data if path.endswith((".h5", ".npy")) else json.loads(data or b"null")

    def wait(self) -> None:
        """Until it ends."""
        self._process.wait()

    def close(self) -> None:
        """Stop it."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.communicate()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
