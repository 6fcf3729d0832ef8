"""Provenance: what was computed, from what, with what, where and when, as JSON that can be repeated."""

from __future__ import annotations

import functools
import getpass
import hashlib
import importlib.metadata
import inspect
import os
import platform
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import libstream
from libstream.contracts.params import to_json
from libstream.contracts.udf import UDF
from libstream.model.array import Array, digest_of
from libstream.run.bind import Bound

_Arr = np.ndarray[Any, Any]

# finding the text of a class takes longer than a run over a small scan
_digests: weakref.WeakKeyDictionary[type[UDF], str] = weakref.WeakKeyDictionary()


def source_digest(cls: type[UDF]) -> str:
    """sha256 (hex) of the text of a UDF class, or of its file for classes that were installed; "" where there is no text."""
    if cls not in _digests:
        try:
            if cls.__module__.startswith("libstream."):
                text = Path(inspect.getfile(cls)).read_bytes()
            else:
                text = inspect.getsource(cls).encode()
            _digests[cls] = hashlib.sha256(text).hexdigest()
        except (OSError, TypeError):
            return ""
    return _digests[cls]


def source_file(cls: type[UDF]) -> str:
    """Path of the file in which a UDF class of the user's was written; "" for installed ones and where there is none."""
    try:
        return "" if cls.__module__.startswith("libstream.") else os.path.abspath(inspect.getfile(cls))
    except (OSError, TypeError):
        return ""


def stamp(bound: Bound, channels: Mapping[str, str], executor: str, generation: int) -> dict[str, Any]:
    """What is known when a generation starts; times and coverage are added when a result is published."""
    meta = bound.source.meta
    return {
        "libstream": libstream.__version__,
        "source": {
            "uri": meta.id.uri,
            "path": os.path.abspath(meta.id.uri) if os.path.exists(meta.id.uri) else "",
            "kind": meta.id.kind,
            "n_bytes": meta.id.n_bytes,
            "fingerprint": meta.id.fingerprint,
            "shape": {"nav": list(meta.shape.nav), "sig": list(meta.shape.sig)},
            "dtype": meta.dtype.str,
            "open": to_json(getattr(bound.source, "opened", {})),
        },
        "udfs": {
            key: {
                "name": type(udf).__name__,
                "class": f"{type(udf).__module__}:{type(udf).__qualname__}",
                "version": udf.version,
                "source_sha256": source_digest(type(udf)),
                "file": source_file(type(udf)),
                "channel": channels[key],
                "params": {n: to_json(v) for n, v in udf.parameters().items()},
            }
            for key, udf in bound.given.items()
        },
        "corrections": None if bound.corrections is None else {"digest": bound.corrections.digest},
        "roi": None if bound.mask is None else {"digest": digest_of([("roi", bound.mask)]), "positions": int(bound.mask.sum())},
        "calibration": [{"name": a.name, "size": a.size, "step": a.step, "offset": a.offset, "unit": a.unit} for a in meta.axes],
        "plan": list(bound.plan.reasons),
        "executor": executor,
        "packages": dict(_packages()),
        "host": {"name": platform.node(), "system": platform.platform(), "user": _user()},
        "generation": generation,
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv and sys.argv[0] else [],
    }


def array_params(bound: Bound) -> dict[str, _Arr]:
    """Array parameters, corrections and the region of interest by "<key>/<name>", stored beside the record."""
    out: dict[str, _Arr] = {}
    for key, udf in bound.given.items():
        for name, value in udf.parameters().items():
            if isinstance(value, (Array, np.ndarray)):
                out[f"{key}/{name}"] = np.asarray(value)
    if bound.corrections is not None:
        for name in ("dark", "gain", "excluded"):
            if (array := getattr(bound.corrections, name)) is not None:
                out[f"corrections/{name}"] = array
    if bound.mask is not None:
        out["run/roi"] = bound.mask
    return out


@functools.cache
def _packages() -> Mapping[str, str]:
    return {n: importlib.metadata.version(n) for n in ("numpy", "numba", "h5py")} | {"python": platform.python_version()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        return ""
