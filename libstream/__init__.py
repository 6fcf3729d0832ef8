"""libstream: user-defined functions over the frames of pixelated detectors, in one pass."""

from __future__ import annotations

from pathlib import Path as _Path
from typing import Any as _Any

__version__ = "0.1.0"

# In a checkout udfs/, executors/, ... lie beside this folder (setup.cfg, package_dir);
# in an installed copy they lie in it and there is no setup.cfg beside it.
_root = _Path(__file__).resolve().parents[1]
if (_root / "setup.cfg").is_file() and (_root / "udfs" / "__init__.py").is_file():
    __path__.append(str(_root))

_FROM = {
    "libstream.api": (
        "open", "run", "run_iter", "arun", "arun_iter", "start", "map", "on", "executor", "shutdown", "load_result",
        "Result", "Job",
    ),
    "libstream.ext": (
        "UDF", "Array", "Corrections", "Coverage", "Output", "PerPosition", "Quantity", "Ragged", "kernel", "nav", "param",
        "ragged", "sig", "single", "frame_of",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _FROM.items() for name in names}
_MODULES = ("udfs", "errors", "ext", "testing")

__all__ = [*sorted(_HOME), *_MODULES]


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
