"""The UDF: a frozen dataclass of parameters with outputs and one hook."""

from __future__ import annotations

import copyreg
import functools
import inspect
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, dataclass_transform, get_args, get_type_hints

import numpy as np

from libstream.errors import UsageError
from libstream.kernels.jit import Kernel
from libstream.model.array import Array, digest_of
from libstream.model.output import Output
from libstream.model.partial import Coverage
from libstream.model.source import RunMeta

HOOKS = ("process_frame", "process_tile", "process_partition")
RESERVED = frozenset(
    {
        "meta",
        "dtype",
        "accepts",
        "xp",
        "device",
        "outputs",
        "merge",
        "finish",
        "begin_run",
        "end_run",
        "hook",
        "version",
        "examples",
        "folds_corrections",
        "whole_frames",
        "tile_frames",
        "dry_run",
        "tile_cost",
        *HOOKS,
    }
)


class _PerPosition:
    """Marks a parameter that is an array of the scan's shape (+ extra)."""


PerPosition = Annotated[Array, _PerPosition]


def param(default: Any = MISSING, *, ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None,
          unit: str = "", title: str = "", help: str = "", choices: tuple[Any, ...] | None = None) -> Any:  # fmt: skip
    """Describe a parameter: its default, limits, unit and title, for validation, the command line and forms.

    A mutable default (list, dict, ndarray) is copied for each UDF.
    """
    extra: dict[str, Any] = {}
    if unit:
        extra["unit"] = unit
    if choices is not None:
        extra["enum"] = list(choices)
    metadata: dict[str, Any] = {k: v for k, v in (("ge", ge), ("gt", gt), ("le", le), ("lt", lt)) if v is not None}
    if title:
        metadata["title"] = title
    if help:
        metadata["description"] = help
    if choices is not None:
        metadata["choices"] = tuple(choices)
    if extra:
        metadata["json_schema_extra"] = extra
    if default is MISSING:
        return field(metadata=metadata)
    if isinstance(default, (list, dict, set, np.ndarray)):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


# `param` is no field specifier: checkers look for `default=` by name and would call every parameter required
@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False, field_specifiers=(field,))
class UDF:
    """Base of all user-defined functions. Annotated fields are parameters; methods say what is computed.

    Write `outputs` and exactly one of
    `process_frame(self, frame, out, at)`: one whole frame at a time (`at` may be left out),
    `process_tile(self, tile, out)`: several frames, maybe only some rows of them,
    `process_partition(self, data, out)`: all frames of a partition at once.

    A UDF holds parameters and never buffers: it is frozen, compared by value, and bound to a source before a run
    (`self.meta` is there in every method).
    """

    dtype: ClassVar[Any] = None
    """Dtype of the frames that the hook gets: None = the detector's own, "float32" = cast."""
    folds_corrections: ClassVar[bool] = False
    """True: gets raw frames and applies `self.meta.corrections` to its constants itself (linear UDFs)."""
    whole_frames: ClassVar[bool] = False
    """True: `process_tile` must get whole frames, never a band of rows."""
    tile_frames: ClassVar[int] = 1
    """Frames that the hook would like in a tile, for constants that are larger than a tile and go through the cache with each one.

    The plan gives so many where they fit into 16 MiB; the last tile of a partition has fewer.
    """
    dry_run: ClassVar[bool] = True
    """False: the hook has effects outside of its outputs (writes files), so it is not tried out before the run."""
    version: ClassVar[str] = "1"
    """Raise when the results of the same parameters change; kept in the provenance."""
    _hook: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = [h for h in HOOKS if h in cls.__dict__]
        if len(own) > 1:
            raise TypeError(f"UDF {cls.__name__} defines {' and '.join(own)}: write exactly one of them")
        if own:
            cls._hook = own[0]
        annotations = inspect.get_annotations(cls)
        for name in annotations:
            if name in RESERVED and not str(annotations[name]).startswith(("ClassVar", "typing.ClassVar")):
                raise TypeError(f"UDF {cls.__name__}: a parameter cannot be called {name!r}, that name is reserved")
        for name, value in cls.__dict__.items():
            if name[0] != "_" and name not in annotations and name not in RESERVED and isinstance(value, (bool, int, float, str)):
                warnings.warn(
                    f"UDF {cls.__name__}: {name} = {value!r} has no annotation, so it is a constant and not a parameter; "
                    f"write `{name}: {type(value).__name__} = {value!r}`, or `ClassVar` if that is meant",
                    stacklevel=2,
                )
        if cls.__doc__ is None:
            cls.__doc__ = ""  # else dataclass invents one from the signature, which forms would show
        dataclass(frozen=True, kw_only=True, eq=False)(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> UDF:
        """Refuse a class that computes nothing."""
        if not cls._hook:
            raise TypeError(f"UDF {cls.__name__} has no hook: write one of {', '.join(HOOKS)}")
        return super().__new__(cls)

    # -- what an author writes -------------------------------------------------------------------------------------

    def outputs(self) -> Mapping[str, Output]:
        """Outputs by name, made with `nav`, `sig`, `single`, `ragged`."""
        raise UsageError(f"UDF {type(self).__name__} has no outputs(): return a dict such as {{'total': ls.nav('float64')}}")

    def merge(self, into: Any, part: Any) -> None:
        """Merge `part` into `into`, for outputs with merge="custom" (attributes are arrays). Must be associative."""
        raise UsageError(f"UDF {type(self).__name__} declares an output with merge='custom' and has no merge(self, into, part)")

    def finish(self, results: dict[str, Any], coverage: Coverage) -> Mapping[str, Any]:
        """Derived outputs from merged `results`; pure, called for every snapshot. Returns additional or changed arrays."""
        return {}

    def begin_run(self) -> None:
        """Called once in the process that started the run, after all checks and before the first partition.

        For UDFs with effects outside of their outputs (files); such a class also says `dry_run = False`.
        """

    def end_run(self, results: Mapping[str, Any] | None, coverage: Coverage) -> None:
        """Called once, in the same process, after `begin_run` and the last partition, before the final result is published.

        results: merged outputs by name (private ones too, derived ones not) where all partitions were processed;
        None where the run failed, was cancelled or was superseded by new parameters: undo then.
        """

    @classmethod
    def examples(cls, sig: tuple[int, ...]) -> Sequence[UDF]:
        """Instances for frames of shape `sig` that together use all forms of the kernel: what `libstream warmup` compiles.

        None (the default): the instance with default parameters will do.
        """
        return ()

    @property
    def tile_cost(self) -> float:
        """Time that a compiled hook takes for a tile that is in cache, in units of the time for adding up its pixels.

        In a pass with others, those that take longest see a tile first: they work while it comes from memory. Runs
        of UDFs below 2 alone are cut into fewer partitions. (2: loops that are written without a thought about speed.)
        """
        return 2.0

    # -- what the engine uses --------------------------------------------------------------------------------------

    @property
    def meta(self) -> RunMeta:
        """The source as this run reads it; only in a bound UDF."""
        bound: RunMeta | None = self.__dict__.get("_meta")
        if bound is None:
            raise UsageError(f"UDF {type(self).__name__} is not bound to a source yet, so it has no meta")
        return bound

    def bound_to(self, meta: RunMeta) -> UDF:
        """A copy bound to `meta`; constants (cached properties) start afresh."""
        copy = replace(self)  # type: ignore[type-var]  # sub-classes are made dataclasses by __init_subclass__
        object.__setattr__(copy, "_meta", meta)
        return copy

    @classmethod
    def hook_name(cls) -> str:
        """Name of the hook in use: that of the nearest class in the MRO."""
        return cls._hook

    def hook(self) -> Any:
        """What the engine calls: a `Kernel` (arguments bound by name) or a plain function `f(self, ...)`.

        A UDF with several forms of one algorithm overrides this to choose one by its (bound) parameters; all forms have
        the signature kind of the class's hook.
        """
        value = getattr(type(self), self._hook)
        return value if isinstance(value, Kernel) else getattr(value, "__func__", value)

    def parameters(self) -> dict[str, Any]:
        """Parameters by name, as given."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def digest(self) -> str:
        """Digest of class name, version and parameters (arrays by content)."""
        rows = [(n, np.frombuffer(repr(_plain(v)).encode(), np.uint8)) for n, v in sorted(self.parameters().items())]
        return digest_of([(f"{type(self).__module__}.{type(self).__qualname__} {self.version}", np.zeros(0)), *rows])

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _plain(self.parameters()) == _plain(other.parameters())

    def __hash__(self) -> int:
        return hash((type(self), _hashable(_plain(self.parameters()))))

    def __getstate__(self) -> dict[str, Any]:
        state = self.parameters()
        if "_meta" in self.__dict__:
            state["_meta"] = self.__dict__["_meta"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _plain(value: Any) -> Any:
    """Value with arrays replaced by their digests, so that == and repr mean content."""
    if isinstance(value, Array):
        return ("array", value.digest)
    if isinstance(value, np.ndarray):
        return ("array", Array(value).digest)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _hashable(value: Any) -> Any:
    """Something with the hash that equal values of `_plain` share (1 == 1.0, any order of a dict)."""
    if isinstance(value, dict):
        return frozenset((k, _hashable(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(v) for v in value)
    try:
        hash(value)
    except TypeError:
        return type(value)
    return value


@functools.lru_cache(maxsize=512)
def hints(cls: type[UDF]) -> dict[str, Any]:
    """Resolved annotations of the parameters of `cls`."""
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError as exc:
        raise UsageError(
            f"UDF {cls.__name__}: the type of a parameter cannot be resolved ({exc}); move that type to the top of its module"
        ) from exc


def per_position_fields(cls: type[UDF]) -> tuple[str, ...]:
    """Names of the parameters annotated `PerPosition` or `PerPosition | None`."""
    names: list[str] = []
    for f in fields(cls):  # type: ignore[arg-type]
        hint = hints(cls).get(f.name)  # type: ignore[arg-type]  # a class is hashable, whatever its instances do
        if any(_PerPosition in getattr(h, "__metadata__", ()) for h in (hint, *get_args(hint))):
            names.append(f.name)
    return tuple(names)


def constants(cls: type[UDF]) -> tuple[str, ...]:
    """Names of the cached properties of `cls`, nearest class first."""
    seen: dict[str, None] = {}
    for klass in cls.__mro__:
        for name, value in vars(klass).items():
            if isinstance(value, functools.cached_property):
                seen.setdefault(name)
    return tuple(seen)


def field_of(cls: type[UDF], name: str) -> Field[Any] | None:
    """The dataclass field `name`, or None."""
    return next((f for f in fields(cls) if f.name == name), None)  # type: ignore[arg-type]


def _rebuild_constant(func: Any, name: str | None) -> functools.cached_property[Any]:
    out = functools.cached_property(func)
    out.attrname = name
    return out


if sys.version_info < (3, 12):
    # there a cached_property holds a lock, and cloudpickle could not carry a notebook's UDF that has a constant
    copyreg.pickle(functools.cached_property, lambda c: (_rebuild_constant, (c.func, c.attrname)))
