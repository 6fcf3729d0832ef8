"""Declarations as JSON and back, exactly: dtypes, NumPy scalars, axes, outputs. Nothing here executes what it reads."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from libstream.ext import Axis, Output


def dtype_to_json(dtype: np.dtype[Any]) -> Any:
    """A dtype as JSON: a string such as "<u2", or names, formats and offsets of a record, or base and shape of a sub-array."""
    if dtype.subdtype is not None:
        return {"base": dtype_to_json(dtype.subdtype[0]), "shape": list(dtype.subdtype[1])}
    if dtype.names is None:
        return dtype.str
    rows = [dtype.fields[name] for name in dtype.names] if dtype.fields else []
    out: dict[str, Any] = {"names": list(dtype.names), "formats": [dtype_to_json(row[0]) for row in rows]}
    out.update(offsets=[int(row[1]) for row in rows], itemsize=dtype.itemsize)
    if any(len(row) == 3 for row in rows):
        out["titles"] = [row[2] if len(row) == 3 else None for row in rows]
    return out


def dtype_from_json(value: Any) -> np.dtype[Any]:
    """Inverse of `dtype_to_json`. Raises ValueError or TypeError for anything else, and for object dtypes."""
    if isinstance(value, str):
        dtype = np.dtype(value)
    elif not isinstance(value, dict):
        raise TypeError(f"not a dtype: {value!r}")
    elif "base" in value:
        dtype = np.dtype((dtype_from_json(value["base"]), tuple(value["shape"])))
    else:
        record: Any = {**value, "formats": [dtype_from_json(f) for f in value["formats"]]}
        dtype = np.dtype(record)
    if dtype.hasobject:
        raise ValueError(f"dtype {dtype} holds Python objects")
    return dtype


def value_to_json(value: Any) -> Any:
    """None, bool, int, str, float, complex, NumPy scalars and arrays; NumPy values keep dtype and every bit."""
    if isinstance(value, (np.generic, np.ndarray)):
        array = np.asarray(value)
        return {"dtype": dtype_to_json(array.dtype), "shape": list(array.shape), "hex": array.tobytes().hex()}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, complex):
        return {"complex": [value_to_json(value.real), value_to_json(value.imag)]}
    raise TypeError(f"{value!r} is neither a number nor an array")


def value_from_json(value: Any) -> Any:
    """Inverse of `value_to_json`."""
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "complex" in value:
        return complex(*(value_from_json(v) for v in value["complex"]))
    array = np.frombuffer(bytes.fromhex(value["hex"]), dtype_from_json(value["dtype"])).reshape(value["shape"])
    return array.copy() if value["shape"] else array[()]


def output_to_json(output: Output) -> dict[str, Any]:
    """All fields of an `Output`."""
    out: dict[str, Any] = {}
    for f in fields(output):
        value = getattr(output, f.name)
        if f.name in ("dtype", "partial_dtype"):
            out[f.name] = None if value is None else dtype_to_json(value)
        elif isinstance(value, tuple):
            out[f.name] = list(value)
        else:
            out[f.name] = value_to_json(value)
    return out


def output_from_json(value: Mapping[str, Any]) -> Output:
    """Inverse of `output_to_json`; fields that this version does not know are left out."""
    known: dict[str, Any] = {}
    for f in fields(Output):
        if f.name not in value:
            continue
        item = value[f.name]
        if f.name in ("dtype", "partial_dtype"):
            known[f.name] = None if item is None else dtype_from_json(item)
        elif isinstance(item, list):
            known[f.name] = tuple(item)
        else:
            known[f.name] = value_from_json(item)
    return Output(**known)


def axis_to_json(axis: Axis) -> dict[str, Any]:
    """All fields of an `Axis`."""
    return {f.name: value_to_json(getattr(axis, f.name)) for f in fields(axis)}


def axis_from_json(value: Mapping[str, Any]) -> Axis:
    """Inverse of `axis_to_json`."""
    return Axis(**{f.name: value_from_json(value[f.name]) for f in fields(Axis) if f.name in value})


def plain(value: Any) -> Any:
    """For `json.dumps(default=)`: what provenance may hold besides JSON's own types."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} {value!r} is no JSON value")
