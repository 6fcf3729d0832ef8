"""What outlives a server: setups and the last state, as JSON files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from libstream.errors import LibstreamError, SaveError, UsageError

MAX_BYTES = 64 << 20
NAME_MAX = 80
FORMAT = 1


class Keep:
    """A folder of JSON files: `setups/<name>.json`, `last.json`, `history.json`, and `sources/<digest>.json` for what belongs to a source.

    Files are written aside and then renamed. A file that cannot be read is treated as if it were not there, except by `setup`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setups(self) -> list[dict[str, Any]]:
        """Saved setups by name: name, saved (ms), analyses (their number)."""
        out = []
        for path in sorted((self.folder / "setups").glob("*.json")):
            data = _read(path)
            if data is not None:
                n = len(data.get("analyses", ()))
                out.append({"name": str(data.get("name", path.stem)), "saved": data.get("saved", 0), "analyses": n})
        return out

    def setup(self, name: str) -> dict[str, Any]:
        """A saved setup. Raises UsageError where there is none, LibstreamError where it cannot be read."""
        path = self._path(name)
        if not path.is_file():
            known = ", ".join(s["name"] for s in self.setups()) or "none"
            raise UsageError(f"there is no setup {name!r}; there are: {known}")
        data = _read(path)
        if data is None:
            raise LibstreamError(f"setup {name!r}: {path} is not a setup of libstream any more; remove it and save it again")
        return data

    def save_setup(self, name: str, data: dict[str, Any]) -> None:
        """Store a setup, replacing the one of the same name. Raises UsageError for a name, SaveError for a folder that cannot be used."""
        _write(self._path(name), {"libstream_setup": FORMAT, "name": name, "saved": time.time_ns() // 1_000_000, **data})

    def remove_setup(self, name: str) -> None:
        """Remove a setup. Raises UsageError where there is none."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise UsageError(f"there is no setup {name!r}") from None

    def last(self) -> dict[str, Any] | None:
        """What was open when the server ended, None where that is unknown."""
        return _read(self.folder / "last.json")

    def save_last(self, data: dict[str, Any]) -> None:
        """Remember what is open. Raises SaveError."""
        _write(self.folder / "last.json", {"libstream_setup": FORMAT, **data})

    def history(self) -> list[Any]:
        """Runs of earlier sessions, newest first."""
        data = _read(self.folder / "history.json")
        found = data.get("runs") if data is not None else None
        return found if isinstance(found, list) else []

    def save_history(self, runs: list[dict[str, Any]]) -> None:
        """Store the runs of this session and earlier ones. Raises SaveError."""
        _write(self.folder / "history.json", {"libstream_setup": FORMAT, "runs": runs})

    def of_source(self, digest: str) -> dict[str, Any] | None:
        """What was stored for a source, None where nothing was."""
        return _read(self.folder / "sources" / f"{digest}.json")

    def save_source(self, digest: str, data: dict[str, Any]) -> None:
        """Store something for a source. Raises SaveError."""
        _write(self.folder / "sources" / f"{digest}.json", {"libstream_setup": FORMAT, **data})

    def _path(self, name: str) -> Path:
        if not isinstance(name, str) or not name.strip() or len(name) > NAME_MAX or re.search(r"[\x00-\x1f/\\]", name):
            raise UsageError(f"a setup has a name of 1 to {NAME_MAX} characters without slashes, got {name!r:.100}")
        stem = re.sub(r"[^\w -]", "_", name.strip()).strip(". ") or "_"
        if stem != name:  # two names must not share a file
            stem += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
        return self.folder / "setups" / f"{stem}.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and data.get("libstream_setup") == FORMAT else None


def _write(path: Path, data: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(data, file, allow_nan=False)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise SaveError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
