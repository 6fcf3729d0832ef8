"""Detectors that were configured on this machine, and what a detector says of itself before anybody connects.

The file (`config.detectors_file`) is TOML, one table for each detector:

    [eiger]
    url = "dectris://192.168.1.10:9999?api=80"
    title = "Eiger, left column"        # optional
    scan = [256, 256]                   # and other arguments of ls.connect
    scan_step = "0.4 nm"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libstream import config, registry
from libstream.contracts.stream import StreamUrl
from libstream.errors import LibstreamError, UsageError

MAX_BYTES = 1 << 20
COUNTS = (("nimages", "ntrigger"), ("numframestoacquire",))
"""What detectors call the number of frames of their next acquisition; several are multiplied."""


@dataclass(frozen=True)
class Configured:
    """One detector. options: arguments of `ls.connect` beside its address."""

    name: str
    url: str
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """For a page; keys that an address names are not shown."""
        shown = {k: v for k, v in self.options.items() if v is None or isinstance(v, (bool, int, float, str, list))}
        return {"name": self.name, "title": self.title, "url": self.url.split("?")[0], "options": shown}


def configured(path: Path | None = None) -> tuple[list[Configured], str]:
    """Detectors of the file (read anew), and what is wrong with it ("": nothing). Those that are right are there all the same."""
    path = config.detectors_file() if path is None else path
    if path is None:
        return [], ""
    import tomllib

    try:
        if path.stat().st_size > MAX_BYTES:
            return [], f"{path} is larger than {MAX_BYTES} bytes"
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        return [], f"{path}: {exc.strerror or exc if isinstance(exc, OSError) else exc}"
    known = {p.name for p in registry.plugins("detectors")}
    found, wrong = [], []
    for name, given in data.items():
        try:
            found.append(_one(name, given, known))
        except UsageError as exc:
            wrong.append(f"{path}, {exc}")
    return found, "; ".join(wrong)


def _one(name: str, given: Any, known: set[str]) -> Configured:
    if not isinstance(given, dict) or not isinstance(given.get("url"), str):
        raise UsageError(f'[{name}]: a detector is a table with a url, such as url = "dectris://192.168.1.10:9999"')
    scheme = given["url"].partition("://")[0]
    if "://" not in given["url"] or scheme not in known:
        raise UsageError(f"[{name}]: url {given['url']!r} does not begin with one of {', '.join(f'{k}://' for k in sorted(known))}")
    title = given.get("title", name)
    if not isinstance(title, str) or not title.strip():
        raise UsageError(f"[{name}]: title is a text, got {title!r:.80}")
    return Configured(name, given["url"], title, {k: v for k, v in given.items() if k not in ("url", "title")})


def by_name(name: str, path: Path | None = None) -> Configured:
    """A configured detector. Raises UsageError naming those that there are."""
    found, wrong = configured(path)
    for one in found:
        if one.name == name:
            return one
    listed = ", ".join(d.name for d in found) or "none"
    raise UsageError(f"there is no configured detector {name!r}; there are: {listed}{f' ({wrong})' if wrong else ''}")


def announced(uri: str) -> dict[str, Any]:
    """What the detector at `uri` says of itself: {"says": its status, "frames": of its next acquisition or None}.

    Only where the address names its control port; {} else. Never raises: {"error": why} where it cannot be reached.
    """
    try:
        url = StreamUrl.parse(uri)
        controller = registry.load("detectors", url.scheme)().receiver(url).controller
        if controller is None:
            return {}
        try:
            status = dict(controller.status())
        finally:
            controller.close()
    except (LibstreamError, OSError, ValueError) as exc:
        return {"error": str(exc)}
    says = {str(k): v if isinstance(v, (bool, int, float)) else str(v)[:200] for k, v in status.items()}
    return {"says": says, "frames": _frames(says)}


def _frames(says: Mapping[str, Any]) -> int | None:
    for names in COUNTS:
        values = [says.get(n, 1) for n in names]
        if names[0] in says and all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values):
            n = 1
            for v in values:
                n *= v
            return n
    return None
