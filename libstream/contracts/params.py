"""Parameters at the border: validation, text to values, JSON schema. pydantic is imported here and nowhere else."""

from __future__ import annotations

import inspect
import operator
import textwrap
import weakref
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import numpy as np

from libstream.contracts.udf import UDF, per_position_fields
from libstream.errors import ParameterError, UsageError
from libstream.model.array import Array
from libstream.model.quantity import Quantity

U = TypeVar("U", bound=UDF)

REPR_CHARS, SOURCE_CHARS = 1000, 20_000
"""Most that is kept of the text of a parameter that is no JSON value."""

_adapters: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()


def _adapter(cls: type[Any]) -> Any:
    if cls not in _adapters:
        from pydantic import ConfigDict, TypeAdapter
        from pydantic.errors import PydanticUserError
        from pydantic_core import SchemaError

        if not issubclass(cls, UDF):
            return TypeAdapter(cls)
        cls.__pydantic_config__ = ConfigDict(extra="forbid", revalidate_instances="always")  # type: ignore[attr-defined]
        try:
            _adapters[cls] = TypeAdapter(cls)
            dict(_adapters[cls].core_schema)  # newer versions of pydantic put off the error about an unknown type until here
        except (PydanticUserError, SchemaError, NameError) as exc:
            _adapters.pop(cls, None)
            raise UsageError(
                f"UDF {cls.__name__}: its parameters cannot be understood ({str(exc).splitlines()[0]}). "
                "Types of parameters must be defined at the top of a module; arrays are annotated ls.Array"
            ) from exc
    return _adapters[cls]


def validated(udf: U) -> U:
    """`udf` with all parameters checked and coerced. Raises ParameterError naming the parameter and its limits."""
    return make(type(udf), udf.parameters())


def make(cls: type[U], values: dict[str, Any]) -> U:
    """A UDF of class `cls` from parameter values or texts. Raises ParameterError naming the parameter and its limits."""
    from pydantic import ValidationError

    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise ParameterError(f"{cls.__name__} has no parameter {name!r}; it has: {listed}")
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
    try:
        made: U = _adapter(cls).validate_python(plain)
    except ValidationError as exc:
        raise ParameterError(_explain(cls, exc)) from exc
    for f in fields(cls):  # type: ignore[arg-type]
        choices = f.metadata.get("choices")
        if choices is not None and getattr(made, f.name) not in choices:
            raise ParameterError(f"{cls.__name__}: {f.name} must be one of {', '.join(map(str, choices))}, got {getattr(made, f.name)!r}")
    return made


def _explain(cls: type[UDF], exc: Any) -> str:
    lines = []
    for error in exc.errors():
        loc = ".".join(str(p) for p in error["loc"] if isinstance(p, (str, int)) and not str(p).startswith("function-")) or "parameters"
        given = error.get("input")
        shown = f"array of shape {given.shape}" if isinstance(given, (np.ndarray, Array)) else repr(given)
        if error["type"] == "missing":
            lines.append(f"{loc} is required")
        else:
            text = error["msg"].removeprefix("Value error, ")
            lines.append(f"{loc}: {text[:1].lower()}{text[1:]}, got {shown}{_limits(cls, loc)}")
    return f"{cls.__name__}: " + "; ".join(lines)


def _limits(cls: type[UDF], name: str) -> str:
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name == name:
            signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
            limits = " and ".join(f"{signs[k]} {v:g}" for k, v in f.metadata.items() if k in signs)
            unit = f.metadata.get("json_schema_extra", {}).get("unit", "")
            return f" (allowed: {limits}{' ' + unit if unit else ''})" if limits else ""
    return ""


def check_limits(udf: UDF, name: str, value: float) -> None:
    """Raises ParameterError where `value` [px], converted from another unit, is beyond the limits of the parameter `name`."""
    compare = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}
    limits = type(udf).__dataclass_fields__[name].metadata  # type: ignore[attr-defined]
    if not all(compare[k](value, v) for k, v in limits.items() if k in compare):
        given = udf.parameters()[name]
        raise ParameterError(f"{type(udf).__name__}: {name}={given} is {value:g} px on this source{_limits(type(udf), name)}")


def schema(cls: type[UDF]) -> dict[str, Any]:
    """JSON schema of the parameters of `cls`: types, limits, units, titles, defaults."""
    out: dict[str, Any] = _adapter(cls).json_schema()
    for name in per_position_fields(cls):
        out.get("properties", {}).get(name, {})["format"] = "per-position"
    for f in fields(cls):  # type: ignore[arg-type]
        prop = out.get("properties", {}).get(f.name)
        if prop is not None and "default" not in prop and f.default is not MISSING:
            prop["default"] = to_json(f.default)
    return out


def to_json(value: Any) -> Any:
    """A parameter as JSON; arrays as {"array": sha256, "shape", "dtype"} (stored beside it), functions as {"object": name, "source"}."""
    if isinstance(value, np.ndarray):
        value = Array(value)
    if isinstance(value, Array):
        return {"array": value.digest, "shape": list(value.shape), "dtype": value.dtype.str}
    if isinstance(value, Quantity):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    name = getattr(value, "__qualname__", None)
    text = f"{value.__module__}:{name}" if name is not None else repr(value)[:REPR_CHARS]
    return {"object": text, **_source_of(value)}


def _source_of(value: Any) -> dict[str, str]:
    """Source text of a function, where it is known: nobody can run it from there, but it says what was done."""
    try:
        return {"source": textwrap.dedent(inspect.getsource(value))[:SOURCE_CHARS]}
    except (OSError, TypeError):
        return {}
