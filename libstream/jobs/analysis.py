"""One analysis of a session: a UDF with parameters, under a name that stays."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from libstream.contracts.params import make
from libstream.contracts.udf import UDF
from libstream.errors import LibstreamError, ParameterError, UDFError, UsageError
from libstream.jobs.arrays import array_of, json_array, plain
from libstream.jobs.outputs import OutputInfo
from libstream.model.array import Array
from libstream.model.quantity import Quantity
from libstream.model.source import SourceMeta

IDLE, RUNNING, DONE, INCOMPLETE, FAILED = "idle", "running", "done", "incomplete", "failed"
TITLE_MAX = 200
PARAMS_MAX = 100


@dataclass
class Analysis:
    """What a session keeps of one analysis. Read and changed with the session's lock held.

    gen: raised by each change of parameters, source or region; sent: the one last given to a run; shown: the one whose results are there.
    hidden: serves the page itself (mean of the frames), and is neither listed nor saved.
    """

    id: str
    name: str
    udf: UDF
    title: str
    colour: int = 0
    channel: str | None = None
    gen: int = 1
    sent: int = 0
    shown: int = 0
    state: str = IDLE
    error: dict[str, Any] | None = None
    outputs: list[OutputInfo] = field(default_factory=list)
    hidden: bool = False
    _json: tuple[Any, ...] = ()

    @property
    def prefix(self) -> str:
        """What its topics begin with."""
        return f"a/{self.id}/"

    def topic(self, output: OutputInfo) -> str:
        """Topic of one of its outputs."""
        return f"{'r' if output.display == 'ragged' else 'a'}/{self.id}/{output.name}"

    def params(self) -> dict[str, Any]:
        """Parameters as JSON; arrays by their digests."""
        return {n: plain(bare(v)) for n, v in self.udf.parameters().items()}

    def json(self, meta: SourceMeta | None) -> dict[str, Any]:
        """As a part of the state. meta: of the channel it looks at."""
        key = (id(self.udf), id(meta), tuple(id(o) for o in self.outputs))
        if not self._json or self._json[0] != key:
            resolved = resolve(self.udf, meta) if meta is not None else {}
            # what the ids belong to is kept with them, so that no other object gets the same id
            self._json = (key, self.params(), resolved, [o.json(self.topic(o)) for o in self.outputs], self.udf, meta, list(self.outputs))
        return {
            "id": self.id, "udf": self.name, "title": self.title, "colour": self.colour, "channel": self.channel, "params": self._json[1],
            "resolved": self._json[2], "gen": self.gen, "shown_gen": self.shown, "state": self.state, "error": self.error,
            "outputs": self._json[3],
        }  # fmt: skip

    def saved(self) -> dict[str, Any]:
        """What a setup keeps; arrays go in whole."""
        params = {}
        for n, v in self.udf.parameters().items():
            array = v if isinstance(v, (Array, np.ndarray)) else None
            params[n] = json_array(np.asarray(array)) if array is not None else plain(bare(v))
        return {"id": self.id, "udf": self.name, "title": self.title, "channel": self.channel, "params": params}


def bare(value: Any) -> Any:
    """A quantity in px as a number."""
    return value.value if isinstance(value, Quantity) and value.unit == "px" else value


def parsed(cls: type[UDF], given: Mapping[str, Any], before: UDF | None = None) -> UDF:
    """A UDF from JSON values; parameters that are not named are as in `before`. Raises ParameterError, UsageError."""
    if not isinstance(given, Mapping) or len(given) > PARAMS_MAX or not all(isinstance(k, str) for k in given):
        raise ParameterError(f"{cls.__name__}: parameters are an object of names and values")
    old = before.parameters() if before is not None else {}
    values = dict(old)
    for name, value in given.items():
        values[name] = _decoded(value, old.get(name), f"{cls.__name__}: {name}")
    return make(cls, values)


def _decoded(value: Any, old: Any, what: str) -> Any:
    if isinstance(value, Mapping):
        if "data" in value:
            return array_of(value, what)
        if "array" in value:
            if isinstance(old, (Array, np.ndarray)) and Array(old).digest == value["array"]:
                return old
            raise ParameterError(f"{what}: this array is not here any more; give its values")
        if set(value) == {"complex"} and isinstance(value["complex"], list) and len(value["complex"]) == 2:
            return complex(*value["complex"])
    return value


def resolve(udf: UDF, meta: SourceMeta) -> dict[str, Any]:
    """Parameters in px where they mean places or lengths on the frame: `centre` as a pair, quantities and numbers as numbers."""
    out: dict[str, Any] = {}
    for name, value in udf.parameters().items():
        if name == "centre" and value is None:
            value = centre_of(meta)
        if isinstance(value, Quantity):
            try:
                value = value.in_pixels(meta.sig_axes)
            except ParameterError:
                value = None
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            out[name] = plain(value)
        elif isinstance(value, tuple) and all(isinstance(v, (int, float)) for v in value):
            out[name] = plain(list(value))
    return out


def centre_of(meta: SourceMeta) -> tuple[float, ...]:
    """The optical axis in px: what the source says, else the middle of the frame."""
    return meta.centre if meta.centre is not None else tuple((n - 1) / 2 for n in meta.shape.sig)


def free_id(wanted: str, taken: Mapping[str, Any]) -> str:
    """`wanted` as a name that nobody has: "adf", "adf_2", ... Raises UsageError for what is no name."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", wanted):
        raise UsageError(f"{wanted!r} is no name for an analysis: letters, digits and _ only, a letter first")
    return next(name for n in range(1, len(taken) + 2) if (name := wanted if n == 1 else f"{wanted}_{n}") not in taken)


def snake(name: str) -> str:
    """ "VirtualDetector" as "virtual_detector"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def error_json(exc: BaseException) -> dict[str, Any]:
    """An error for people: message, place in the data, and the user's own lines of the traceback."""
    lines: list[str] = []
    where = getattr(exc, "where", "") or ""
    cause = exc.__cause__ if isinstance(exc, UDFError) else exc if not isinstance(exc, LibstreamError) else None
    if isinstance(exc, UDFError) and exc.remote_traceback:
        lines = exc.remote_traceback.strip().splitlines()[-20:]
    elif cause is not None:
        lines = [line.rstrip() for line in traceback.format_exception(cause)[-10:]]
    message = str(exc) if isinstance(exc, (LibstreamError, OSError)) else f"{type(exc).__name__}: {exc}"
    return {"message": message or type(exc).__name__, "where": where, "traceback": "\n".join(lines)}
