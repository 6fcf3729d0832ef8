"""libstream: user-defined functions over the frames of pixelated detectors, in one pass."""

from __future__ import annotations

import sys as _sys
import typing as _typing
from pathlib import Path as _Path
from types import ModuleType as _ModuleType
from typing import Any as _Any

if _typing.TYPE_CHECKING:  # what `_FROM` does at run time, for type checkers and editors; tests/unit/test_door.py compares
    from libstream import errors as errors
    from libstream import ext as ext
    from libstream import testing as testing
    from libstream import udfs as udfs
    from libstream.api import Acquisition as Acquisition
    from libstream.api import Job as Job
    from libstream.api import LiveSource as LiveSource
    from libstream.api import Result as Result
    from libstream.api import arun as arun
    from libstream.api import arun_iter as arun_iter
    from libstream.api import connect as connect
    from libstream.api import executor as executor
    from libstream.api import load_result as load_result
    from libstream.api import map as map
    from libstream.api import on as on
    from libstream.api import open as open
    from libstream.api import record as record
    from libstream.api import register as register
    from libstream.api import replay as replay
    from libstream.api import route as route
    from libstream.api import run as run
    from libstream.api import run_iter as run_iter
    from libstream.api import shutdown as shutdown
    from libstream.api import start as start
    from libstream.api import watch as watch
    from libstream.ext import UDF as UDF
    from libstream.ext import Array as Array
    from libstream.ext import Corrections as Corrections
    from libstream.ext import Coverage as Coverage
    from libstream.ext import Output as Output
    from libstream.ext import PerPosition as PerPosition
    from libstream.ext import Quantity as Quantity
    from libstream.ext import Ragged as Ragged
    from libstream.ext import frame_of as frame_of
    from libstream.ext import kernel as kernel
    from libstream.ext import nav as nav
    from libstream.ext import param as param
    from libstream.ext import ragged as ragged
    from libstream.ext import sig as sig
    from libstream.ext import single as single
    from libstream.viewing import live_view as live_view

__version__ = "0.1.0"

# In a checkout udfs/, executors/, ... lie beside this folder (setup.cfg, package_dir);
# in an installed copy they lie in it and there is no setup.cfg beside it.
_root = _Path(__file__).resolve().parents[1]
if (_root / "setup.cfg").is_file() and (_root / "udfs" / "__init__.py").is_file():
    __path__.append(str(_root))

_FROM = {
    "libstream.api": (
        "open", "run", "run_iter", "arun", "arun_iter", "start", "map", "on", "executor", "shutdown", "load_result",
        "Result", "Job", "connect", "LiveSource", "Acquisition", "record", "register", "replay", "route", "watch",
    ),
    "libstream.ext": (
        "UDF", "Array", "Corrections", "Coverage", "Output", "PerPosition", "Quantity", "Ragged", "kernel", "nav", "param",
        "ragged", "sig", "single", "frame_of",
    ),
    "libstream.viewing": ("live_view",),
}  # fmt: skip
_HOME = {name: module for module, names in _FROM.items() for name in names}
_MODULES = ("udfs", "errors", "ext", "testing")

__all__ = [
    "UDF",
    "Acquisition",
    "Array",
    "Corrections",
    "Coverage",
    "Job",
    "LiveSource",
    "Output",
    "PerPosition",
    "Quantity",
    "Ragged",
    "Result",
    "arun",
    "arun_iter",
    "connect",
    "errors",
    "executor",
    "ext",
    "frame_of",
    "kernel",
    "live_view",
    "load_result",
    "map",
    "nav",
    "on",
    "open",
    "param",
    "ragged",
    "record",
    "register",
    "replay",
    "route",
    "run",
    "run_iter",
    "shutdown",
    "sig",
    "single",
    "start",
    "testing",
    "udfs",
    "watch",
]


class _Door(_ModuleType):
    """This module, whose `run` is the verb: importing the package libstream.run would put the package in its place."""

    @property
    def run(self) -> _Any:
        from libstream.api import run

        return run

    @run.setter
    def run(self, package: _Any) -> None:
        """Python sets sub-packages as attributes of their parent; `from libstream.run import job` does not need that."""

    def __reduce__(self) -> tuple[_Any, ...]:
        """By name: a UDF of a notebook or a script holds `ls` among its globals, and cloudpickle knows plain modules only."""
        return (__import__, (__name__,))


_sys.modules[__name__].__class__ = _Door


if not _typing.TYPE_CHECKING:  # or checkers would accept any name

    def __getattr__(name: str) -> _Any:
        import importlib

        if name in _HOME:
            value = getattr(importlib.import_module(_HOME[name]), name)
        elif name in _MODULES:
            value = importlib.import_module(f"libstream.{name}")
        else:
            raise AttributeError(f"module 'libstream' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
