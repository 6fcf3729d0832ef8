"""`--udf adf=VirtualDetector -p inner=30`: from words to UDFs."""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from libstream.cli._openargs import load_array
from libstream.cli.command import nearest, one_line
from libstream.errors import LibstreamError, ParameterError, UsageError

_KEYED = re.compile(r"([^\W\d]\w*)=(.+)", re.DOTALL)


@dataclass
class UdfArg:
    """One UDF as the user wrote it: `spec` is a name, "module:Class" or "file.py:Class"; params are texts or TOML values."""

    spec: str
    key: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    channel: str | None = None

    @classmethod
    def parse(cls, text: str) -> UdfArg:
        """From "Name" or "key=Name"."""
        match = _KEYED.fullmatch(text)
        if match and not match[1].endswith(".py"):
            return cls(match[2], match[1])
        return cls(text)


class AddUdf(argparse.Action):
    """Appends a UdfArg."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """Append to `namespace.udfs`."""
        namespace.udfs = [*(namespace.udfs or []), UdfArg.parse(values)]


class AddParam(argparse.Action):
    """Gives the UDF before it a parameter."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """Set a parameter of the last of `namespace.udfs`."""
        name, sign, value = values.partition("=")
        if not sign or not name.strip():
            parser.error(f"-p {values}: write name=value, for example -p inner=30")
        if not namespace.udfs:
            parser.error(f"-p {values} stands before any --udf; a parameter belongs to the --udf before it")
        udf, name = namespace.udfs[-1], name.strip()
        if name in udf.params:
            parser.error(f"-p {values}: parameter {name} of {udf.spec} is given twice")
        udf.params[name] = value


class SetChannel(argparse.Action):
    """Binds the UDF before it to a channel."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """Set the channel of the last of `namespace.udfs`."""
        if not namespace.udfs:
            parser.error(f"--on {values} stands before any --udf; it belongs to the --udf before it")
        namespace.udfs[-1].channel = values


def add_udf_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --udf, -p and --on."""
    group = parser.add_argument_group("what to compute")
    group.add_argument(
        "--udf", dest="udfs", action=AddUdf, default=None, metavar="[KEY=]UDF",
        help="a name from `libstream plugins`, module:Class or file.py:Class; may be repeated, all run in one pass",
    )  # fmt: skip
    group.add_argument(
        "-p", action=AddParam, dest="udfs", metavar="NAME=VALUE",
        help="parameter of the --udf before it; @mask.npy or @file.h5:/dataset loads an array, @@x means the text @x",
    )  # fmt: skip
    group.add_argument("--on", action=SetChannel, dest="udfs", metavar="CHANNEL", help="channel that the --udf before it looks at")


# -- classes -----------------------------------------------------------------------------------------------------------


def udf_class(spec: str) -> type[Any]:
    """The class of "VirtualDetector", "package.module:Class" or "file.py:Class" (the class may be left out if there is one).

    Raises UsageError where there is none; LibstreamError where the user's module fails.
    """
    from libstream.contracts.udf import UDF

    where, sign, name = spec.rpartition(":") if ":" in spec else (spec, "", "")
    if where.lower().endswith(".py") or ("/" in where and not sign):
        module = _module_of_file(Path(where))
    elif sign:
        module = _module(where)
    else:
        return _installed(spec)
    classes = {n: v for n, v in vars(module).items() if inspect.isclass(v) and issubclass(v, UDF)}
    own = {n: v for n, v in classes.items() if v.__module__ == module.__name__ and v._hook}
    if not name:
        if len(own) != 1:
            raise UsageError(f"{where} defines {len(own)} UDFs, say which one: {where}:Class ({', '.join(own) or 'none'})")
        return next(iter(own.values()))
    found = vars(module).get(name)
    if not (inspect.isclass(found) and issubclass(found, UDF)):
        what = "no " + name if found is None else f"{name}, which is no UDF"
        raise UsageError(f"{where} has {what}{nearest(name, own)}; UDFs in it: {', '.join(own) or 'none'}")
    return found


def _installed(name: str) -> type[Any]:
    from libstream import registry

    known = [p.name for p in registry.plugins("udfs")]
    if name not in known:
        here = Path(f"{name}.py")
        hint = f"; for the one in {here} write --udf {here}" if here.is_file() else "; own ones are given as module:Class or file.py:Class"
        raise UsageError(f"no UDF {name!r} is installed{nearest(name, known)}; installed: {', '.join(known)}{hint}")
    found: type[Any] = registry.load("udfs", name)
    return found


def _module(name: str) -> Any:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise UsageError(f"no module {name!r} (looked in the current folder and in the Python path)") from exc
        raise LibstreamError(f"module {name} cannot be imported: {one_line(exc)}") from exc
    except Exception as exc:
        raise LibstreamError(f"module {name} cannot be imported: {type(exc).__name__}: {one_line(exc)}") from exc


def _module_of_file(path: Path) -> Any:
    """The module in `path`, under a name that its content decides: edited code is another UDF, moved code is not."""
    if not path.is_file():
        raise UsageError(f"no file {path}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    stem = re.sub(r"\W", "_", path.stem)
    name = f"libstream_file_{stem}_{digest[:12]}"
    if name in sys.modules:
        sys.modules[name].__file__ = str(path.resolve())  # the same text in another place
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and annotations look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        del sys.modules[name]
        raise LibstreamError(f"{path} cannot be imported: {type(exc).__name__}: {one_line(exc)}") from exc
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)  # no other process can import it by this name
    return module


# -- parameters --------------------------------------------------------------------------------------------------------


def make_udfs(args: Sequence[UdfArg]) -> dict[str, Any]:
    """UDFs by key. Raises UsageError or ParameterError naming the UDF, the parameter and its limits."""
    if not args:
        raise UsageError("nothing to compute: pass --udf NAME (`libstream plugins` lists them)")
    out: dict[str, Any] = {}
    for arg in args:
        cls = udf_class(arg.spec)
        key = arg.key or _free_key(cls, out)
        if key in out:
            raise UsageError(f"two UDFs are called {key!r}; give them keys of their own: --udf a={arg.spec} --udf b={arg.spec}")
        udf = make_udf(cls, arg.params)
        if arg.channel is not None:
            from libstream import api

            udf = api.on(arg.channel, udf)
        out[key] = udf
    return out


def make_udf(cls: type[Any], params: Mapping[str, Any]) -> Any:
    """A UDF from texts (or values of a recipe)."""
    from libstream.contracts.params import make, schema

    properties = schema(cls).get("properties", {})
    values: dict[str, Any] = {}
    for name, given in params.items():
        if name not in properties:
            listed = ", ".join(properties) or "none"
            raise ParameterError(f"{cls.__name__} has no parameter {name!r}{nearest(name, properties)}; it has: {listed}")
        values[name] = _value(given, properties[name], f"{cls.__name__}: {name}")
    return make(cls, values)


def _value(given: Any, described: Mapping[str, Any], what: str) -> Any:
    """What `contracts.params.make` gets for a text: an array from a file, a list from "1,2", or the text itself."""
    kinds = _kinds(described)
    if not isinstance(given, str):
        return np.asarray(given) if "ndarray" in kinds and isinstance(given, list) else given
    if given.startswith("@@"):
        return given[1:]
    if given.startswith("@"):
        array = load_array(given[1:], what)
        return array if "ndarray" in kinds else array.tolist()
    if "null" in kinds and given.strip().lower() in ("none", "null", ""):
        return None
    if kinds & {"array", "object"} and "string" not in kinds:
        parsed = _literal(given, single="number" not in kinds and "integer" not in kinds)
        return np.asarray(parsed) if "ndarray" in kinds and isinstance(parsed, (list, tuple)) else parsed
    return given


def _kinds(described: Mapping[str, Any]) -> set[str]:
    """All JSON types that a parameter may have, and "ndarray" for an array of numbers."""
    out = {k for option in (*described.get("anyOf", ()), *described.get("oneOf", ())) for k in _kinds(option)}
    kind = described.get("type")
    out |= set(kind) if isinstance(kind, list) else {kind} if kind else set()
    if described.get("format") in ("ndarray", "per-position"):
        out.add("ndarray")
    return out


def _literal(text: str, *, single: bool) -> Any:
    """A list from "[1, 2]", "(1, 2)", "1,2" and, with `single`, "1"; a dict from "{...}"; the text where it is none of them."""
    stripped = text.strip()
    for reader in (json.loads, ast.literal_eval):
        try:
            value = reader(stripped)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return [value] if single and not isinstance(value, (list, tuple, dict)) else value
    if "," in stripped and stripped[:1] not in "[({":
        return [part.strip() for part in stripped.split(",") if part.strip()]
    return [stripped] if single and stripped[:1] not in "[({" else text


def _free_key(cls: type[Any], taken: Mapping[str, Any]) -> str:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
    return next(key for n in range(1, len(taken) + 2) if (key := name if n == 1 else f"{name}_{n}") not in taken)
