"""Plug-ins by entry points, loaded when they are asked for. The only door from the core to plug-in folders."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
from dataclasses import dataclass
from typing import Any, Literal

from libstream.errors import NotInstalledError, UsageError

Group = Literal["udfs", "formats", "detectors", "executors", "sinks", "commands", "transports", "servers"]


@dataclass(frozen=True)
class Plugin:
    """One registered plug-in. value: "module:Class"; distribution: the package that brings it."""

    group: str
    name: str
    value: str
    distribution: str


@functools.cache
def _entries(group: Group) -> dict[str, importlib.metadata.EntryPoint]:
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in importlib.metadata.entry_points(group=f"libstream.{group}"):
        # built-in names cannot be taken over by another package
        if entry.name not in found or entry.value.startswith("libstream."):
            found[entry.name] = entry
    return found


_added: dict[tuple[str, str], Any] = {}


def register(group: Group, name: str, plugin: Any) -> None:
    """Add a plug-in to this process, without a package: for notebooks and tests. A package uses an entry point instead.

    Raises UsageError where an installed plug-in has this name.
    """
    if name in _entries(group):
        raise UsageError(f"{group.removesuffix('s')} {name!r} is installed already ({_entries(group)[name].value}); take another name")
    _added[group, name] = plugin


def plugins(group: Group) -> list[Plugin]:
    """All plug-ins of a group, by name; none is imported."""
    found = [Plugin(group, name, entry.value, entry.dist.name if entry.dist is not None else "") for name, entry in _entries(group).items()]
    found += [Plugin(g, name, f"{p.__module__}:{p.__qualname__}", "") for (g, name), p in _added.items() if g == group]
    return sorted(found, key=lambda p: p.name)


def load(group: Group, name: str) -> Any:
    """The class (or function) registered as `name`. Raises UsageError with near names, NotInstalledError with what to install."""
    if (group, name) in _added:
        return _added[group, name]
    entries = _entries(group)
    if name not in entries:
        if not entries:
            raise UsageError(f"no libstream {group} are registered: libstream is not installed; run `pip install -e .` in its folder")
        near = difflib.get_close_matches(name, entries, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(f"there is no {group.removesuffix('s')} called {name!r}; {hint}installed are {', '.join(sorted(entries))}")
    try:
        return entries[name].load()
    except ImportError as exc:
        missing = exc.name or str(exc)
        raise NotInstalledError(
            f"{group.removesuffix('s')} {name!r} needs {missing}, which is not installed: {exc}", name=exc.name
        ) from exc
