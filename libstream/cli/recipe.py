"""What a run is to do, from a recipe file (TOML) and the command line."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from libstream.cli._openargs import OPTIONS, load_array, open_options
from libstream.cli._udfargs import UdfArg
from libstream.cli.command import nearest, one_line
from libstream.errors import UsageError
from libstream.model.corrections import Corrections

_CORRECTIONS = ("dark", "gain", "excluded")
_TOP: dict[str, type | tuple[type, ...]] = {
    "open": dict, "udf": list, "corrections": dict, "roi": str, "executor": str, "workers": int, "output": str, "plot": str,
}  # fmt: skip
_UDF: dict[str, type | tuple[type, ...]] = {"name": str, "key": str, "params": dict, "on": str}
_WORD: dict[object, str] = {dict: "a table", list: "an array of tables ([[udf]])", str: "a text", int: "a whole number"}


@dataclass(frozen=True)
class Recipe:
    """Everything about a run but its files. Paths of arrays are complete; `output` and `plot` may hold {stem} and the like."""

    open: dict[str, Any] = field(default_factory=dict)
    udfs: tuple[UdfArg, ...] = ()
    corrections: dict[str, str] = field(default_factory=dict)
    roi: str | None = None
    executor: str = "threads"
    workers: int | None = None
    output: str | None = None
    plot: str | None = None

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe. Paths of arrays and of UDF files in it are relative to it. Raises UsageError naming file and entry."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                found = tomllib.load(file)
        except tomllib.TOMLDecodeError as exc:
            raise UsageError(f"{path} is not valid TOML: {one_line(exc)}") from exc
        except (OSError, UnicodeDecodeError) as exc:
            raise UsageError(f"the recipe cannot be read: {one_line(exc)}") from exc
        _check(found, _TOP, str(path))
        udfs = []
        for number, entry in enumerate(found.get("udf", []), 1):
            where = f"{path}, [[udf]] number {number}"
            if not isinstance(entry, dict):
                raise UsageError(f"{where} is not a table; write [[udf]] and below it name = 'Sum'")
            _check(entry, _UDF, where)
            if "name" not in entry:
                raise UsageError(f"{where} has no name; write for example name = 'VirtualDetector'")
            params = {k: _beside(v, path, "@") for k, v in entry.get("params", {}).items()}
            udfs.append(UdfArg(_code_beside(entry["name"], path), entry.get("key"), params, entry.get("on")))
        corrections = found.get("corrections", {})
        _check(corrections, dict.fromkeys(_CORRECTIONS, str), f"{path}, [corrections]")
        return cls(
            open={k: tuple(v) if isinstance(v, list) else v for k, v in found.get("open", {}).items()},
            udfs=tuple(udfs),
            corrections={k: _beside(v, path) for k, v in corrections.items()},
            roi=_beside(found["roi"], path) if "roi" in found else None,
            **{k: found[k] for k in ("executor", "workers", "output", "plot") if k in found},
        )

    def with_arguments(self, args: argparse.Namespace) -> Recipe:
        """This recipe with what the command line says on top; its --udf come after those of the recipe."""
        given = {name: getattr(args, name) for name in ("roi", "executor", "workers", "output", "plot")}
        corrections = {name: getattr(args, name) for name in _CORRECTIONS}
        return replace(
            self,
            open={**self.open, **open_options(args)},
            udfs=(*self.udfs, *(args.udfs or ())),
            corrections={**self.corrections, **{k: v for k, v in corrections.items() if v is not None}},
            **{k: v for k, v in given.items() if v is not None},
        )

    def load_corrections(self) -> Corrections | None:
        """Arrays of the corrections, or None where there are none."""
        arrays = {name: load_array(path, name) for name, path in self.corrections.items()}
        if "excluded" in arrays:
            arrays["excluded"] = np.asarray(arrays["excluded"]) != 0
        return Corrections(**arrays) if arrays else None

    def load_roi(self) -> np.ndarray[Any, Any] | None:
        """The region of interest as a bool array (whose shape the run checks), or None."""
        if self.roi is None:
            return None
        mask = load_array(self.roi, "roi")
        if mask.dtype != np.bool_:
            if mask.dtype.kind not in "iu" or not np.isin(mask, (0, 1)).all():
                raise UsageError(f"roi: {self.roi} holds {mask.dtype}, expected bool (or 0 and 1), True where positions are processed")
            mask = mask.astype(bool)
        return mask


def _check(found: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for name, value in found.items():
        if name not in known:
            hint = f" (options of the file go below [open]: {name} = ...)" if name in OPTIONS else nearest(name, known)
            raise UsageError(f"{where}: unknown entry {name!r}{hint}; known are {', '.join(known)}")
        wanted = known[name]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise UsageError(f"{where}: {name} = {value!r} is not {_WORD[wanted]}")


def _beside(value: Any, recipe: Path, sign: str = "") -> Any:
    """A path in the recipe (texts that start with `sign`), relative to the recipe; anything else as it is."""
    if not isinstance(value, str) or not value.startswith(sign) or (sign and value.startswith(sign * 2)):
        return value
    return f"{sign}{recipe.parent / value[len(sign) :]}"


def _code_beside(spec: str, recipe: Path) -> str:
    file = spec.rpartition(":")[0] if ":" in spec else spec
    return str(recipe.parent / spec) if file.lower().endswith(".py") else spec
