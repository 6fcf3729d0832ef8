"""Kits for plug-in authors. Each is a class of tests to inherit, or a fake; see their docstrings.

`UDFLaws` and `check` for UDFs, `FormatTests` for file formats, `ExecutorTests` for executors, `DetectorTests` for detectors;
`ScriptedSource` as a source that behaves as a live one does, `Wire` and `memory_source` as a detector in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libstream.testing.detectors import Wire, memory_source
    from libstream.testing.executors import ExecutorTests
    from libstream.testing.formats import FormatTests
    from libstream.testing.kinds import DetectorTests
    from libstream.testing.laws import UDFLaws, random_frames
    from libstream.testing.sources import ScriptedSource
    from libstream.testing.trial import check

_HOME = {
    "DetectorTests": "kinds",
    "ExecutorTests": "executors",
    "FormatTests": "formats",
    "ScriptedSource": "sources",
    "UDFLaws": "laws",
    "Wire": "detectors",
    "check": "trial",
    "memory_source": "detectors",
    "random_frames": "laws",
}

__all__ = [
    "DetectorTests", "ExecutorTests", "FormatTests", "ScriptedSource", "UDFLaws", "Wire", "check", "memory_source", "random_frames",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module 'libstream.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"libstream.testing.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
