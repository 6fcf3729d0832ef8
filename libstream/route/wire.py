"""What router, consumers and clients say to each other: a header of CBOR, then parts that are plain arrays. Nothing is unpickled.

The protocol is written down in docs/reference/router.md. Readers here raise WireError for everything that is not as it should be, and
never allocate what a header announces: an array is as long as the part that came.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from libstream import errors
from libstream.codecs import cbor
from libstream.errors import LibstreamError, UDFError, WireError
from libstream.live.layout import Layout
from libstream.model.partial import Partial, RaggedPart
from libstream.model.shape import DataShape
from libstream.model.source import Axis, SourceId, SourceMeta

_Arr = np.ndarray[Any, Any]

VERSION = 1
HEADER_MAX = 1 << 20
_DEEP = 6
_KINDS = ("place", "sum", "values", "counts")


class Message(NamedTuple):
    """kind: what it is. head: its header. parts: what follows the header, memoryviews."""

    kind: str
    head: Mapping[str, Any]
    parts: Sequence[Any]

    def text(self, name: str, longest: int = 400) -> str:
        """A text of the header."""
        value = self.head.get(name)
        if type(value) is not str or len(value) > longest:
            raise WireError(f"{self.kind}: {name} is a text of at most {longest} characters, got {_short(value)}")
        return value

    def number(self, name: str, least: int = 0, most: int = 1 << 62) -> int:
        """A whole number of the header."""
        value = self.head.get(name)
        if type(value) is not int or not least <= value <= most:
            raise WireError(f"{self.kind}: {name} is a whole number from {least} to {most}, got {_short(value)}")
        return value

    def numbers(self, name: str) -> list[int]:
        """A list of whole numbers of the header, none below 0."""
        value = self.head.get(name)
        if type(value) is not list or not all(type(v) is int and 0 <= v < 1 << 62 for v in value):
            raise WireError(f"{self.kind}: {name} is a list of whole numbers, got {_short(value)}")
        return value

    def array(self, at: int, dtype: str, columns: int = 0) -> _Arr:
        """Part `at` as a copy, (n,) or (n, columns)."""
        if at >= len(self.parts):
            raise WireError(f"{self.kind}: part {at} is missing, there are {len(self.parts)}")
        try:
            found = np.frombuffer(self.parts[at], dtype).copy()
            return found.reshape(-1, columns) if columns else found
        except ValueError:
            raise WireError(f"{self.kind}: part {at} of {len(self.parts[at])} bytes is no array of {dtype}") from None


def write(kind: str, parts: Iterable[Any] = (), /, **head: Any) -> list[Any]:
    """A message. head: plain values only."""
    import cbor2

    return [cbor2.dumps({"v": VERSION, "t": kind, **head}), *parts]


def read(parts: Sequence[Any]) -> Message:
    """The message that these parts are. Raises WireError."""
    if not parts:
        raise WireError("a message without a header")
    head = cbor.loads(bytes(parts[0]) if len(parts[0]) <= HEADER_MAX else b"", HEADER_MAX)
    if head.get("v") != VERSION:
        raise WireError(f"a message of version {_short(head.get('v'))}, this is {VERSION}: install the same libstream on both sides")
    kind = head.get("t")
    if type(kind) is not str:
        raise WireError(f"the kind of a message is a text, got {_short(kind)}")
    return Message(kind, head, parts[1:])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def view(array: _Arr) -> Any:
    """The bytes of an array as a part of a message; large ones are not copied."""
    array = np.ascontiguousarray(array)
    return array.tobytes() if array.nbytes < 1 << 16 else memoryview(array.reshape(-1).view(np.uint8))


# -- partial results -----------------------------------------------------------------------------------------------------


def write_partial(token: str, partial: Partial) -> list[Any]:
    """A partial result as a message. Raises LibstreamError for arrays of Python objects."""
    arrays: list[list[Any]] = []
    parts: list[Any] = [view(partial.positions.astype("<i8")), view(partial.status.astype("u1"))]

    def add(at: tuple[str, str], kind: str, array: _Arr) -> None:
        array = np.asarray(array)
        if array.dtype.hasobject:
            raise LibstreamError(f"UDF {at[0]}: output {at[1]} is an array of Python objects, which cannot be sent by a consumer")
        arrays.append([*at, kind, np.lib.format.dtype_to_descr(array.dtype), list(array.shape)])
        parts.append(view(array))

    for at, value in partial.placed.items():
        if isinstance(value, RaggedPart):
            add(at, "values", value.values)
            add(at, "counts", value.counts)
        else:
            add(at, "place", value)
    for at, value in partial.reduced.items():
        add(at, "sum", value)
    return write(
        "partial", parts, token=token, number=partial.number, span=partial.span, arrays=arrays,
        seconds={str(k): float(v) for k, v in partial.seconds.items()}, failures=[list(f) for f in partial.failures],
    )  # fmt: skip


def read_partial(message: Message) -> Partial:
    """The partial result in a message. Raises WireError."""
    head = message.head
    positions, status = message.array(0, "<i8"), message.array(1, "u1")
    given, seconds, failures = head.get("arrays"), head.get("seconds"), head.get("failures")
    if len(positions) != len(status) or type(given) is not list or len(given) != len(message.parts) - 2:
        raise WireError(f"partial: {len(positions)} positions, {len(status)} states, {len(message.parts)} parts do not fit together")
    if type(seconds) is not dict or not all(type(v) in (int, float) for v in seconds.values()):
        raise WireError("partial: seconds are numbers by name")
    if type(failures) is not list or not all(type(f) is list and len(f) == 2 and all(type(t) is str for t in f) for f in failures):
        raise WireError("partial: failures are pairs of texts")
    placed: dict[tuple[str, str], Any] = {}
    reduced: dict[tuple[str, str], _Arr] = {}
    for form, part in zip(given, message.parts[2:], strict=True):
        at, kind, array = _array(form, part)
        if kind == "sum":
            reduced[at] = array
        elif kind == "place":
            placed[at] = array
        elif kind == "values":
            placed[at] = RaggedPart(array, np.zeros(0, np.int64))
        elif isinstance(before := placed.get(at), RaggedPart):
            placed[at] = RaggedPart(before.values, array)
        else:
            raise WireError("partial: counts of records come after the records")
    span = message.number("span", 1, 1 << 30)
    return Partial(message.number("number"), span, positions, status, placed, reduced, seconds, tuple((k, m) for k, m in failures))


def _array(form: Any, part: Any) -> tuple[tuple[str, str], str, _Arr]:
    try:
        key, name, kind, descr, shape = form
        if type(key) is not str or type(name) is not str or kind not in _KINDS:
            raise ValueError
        if type(shape) is not list or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
            raise ValueError
        dtype = np.lib.format.descr_to_dtype(_tuples(descr))
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(part):
            raise ValueError
        return (key, name), kind, np.frombuffer(part, dtype).reshape(shape)
    except (ValueError, TypeError, KeyError, IndexError):
        raise WireError(f"partial: {_short(form)} with {len(part)} bytes is no array") from None


def _tuples(descr: Any) -> Any:
    """NumPy's description of a dtype, whose tuples have become lists on the way."""
    if isinstance(descr, list):
        return [tuple(_tuples(v) if isinstance(v, list) and i == 1 else tuple(v) if isinstance(v, list) else v for i, v in enumerate(f))
                for f in descr]  # fmt: skip
    return descr


# -- errors --------------------------------------------------------------------------------------------------------------


def write_error(token: str, exc: BaseException, trace: str) -> list[Any]:
    """An exception of a consumer as a message."""
    return write(
        "failed", token=token, error=type(exc).__name__, message=str(exc)[:20_000], trace=trace[-20_000:],
        udf=str(getattr(exc, "udf", "")), where=str(getattr(exc, "where", "")),
    )  # fmt: skip


def read_error(message: Message) -> LibstreamError:
    """The exception in a message, as one of libstream's own: no other class is looked up."""
    name, text, trace = message.text("error"), message.text("message", 20_000), message.text("trace", 20_000)
    made: LibstreamError
    if name == "UDFError":
        made = UDFError(text, udf=message.text("udf"), where=message.text("where"), remote_traceback=trace)
    else:
        cls = getattr(errors, name, None)
        known = isinstance(cls, type) and issubclass(cls, LibstreamError)
        made = cls(text) if known and cls is not None else LibstreamError(f"{name}: {text}")
    if trace:
        made.add_note("on the consumer:\n" + trace)
    return made


# -- sources -------------------------------------------------------------------------------------------------------------


def plain(value: Any, depth: int = 0) -> Any:
    """Numbers, texts, lists and maps of them; what is nothing of these becomes None."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 64 else str(value)
    if isinstance(value, Mapping) and depth < _DEEP:
        return {str(k): plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and depth < _DEEP:
        return [plain(v, depth + 1) for v in value]
    return None


def meta_out(meta: SourceMeta) -> dict[str, Any]:
    """A description of a source as plain values."""
    return {
        "uri": meta.id.uri, "kind": meta.id.kind, "n_bytes": meta.id.n_bytes, "nav": list(meta.shape.nav), "sig": list(meta.shape.sig),
        "dtype": meta.dtype.str, "axes": [[a.name, a.size, float(a.step), float(a.offset), a.unit] for a in meta.axes],
        "channels": list(meta.channels), "vendor": plain(meta.vendor), "notes": [str(n) for n in meta.notes],
    }  # fmt: skip


def meta_in(given: Any) -> SourceMeta:
    """The description in plain values. Raises WireError."""
    try:
        axes = tuple(Axis(str(n), int(s), float(step), float(offset), str(u)) for n, s, step, offset, u in given["axes"])
        return SourceMeta(
            SourceId(str(given["uri"]), str(given["kind"]), int(given["n_bytes"])), DataShape(tuple(given["nav"]), tuple(given["sig"])),
            np.dtype(given["dtype"]), axes=axes, channels=tuple(map(str, given["channels"])), vendor=dict(given["vendor"] or {}),
            notes=tuple(map(str, given["notes"])),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as exc:
        raise WireError(f"this describes no source: {type(exc).__name__}: {exc}") from None


def layout_out(layout: Layout) -> dict[str, Any]:
    """How frames come, as plain values."""
    return {
        "channels": list(layout.channels), "sectors": layout.sectors, "shapes": [list(s) for s in layout.shapes],
        "dtypes": list(layout.dtypes),
    }  # fmt: skip


def layout_in(given: Any) -> Layout:
    """The same, back. Raises WireError."""
    try:
        shapes = tuple((int(y), int(x)) for y, x in given["shapes"])
        dtypes = tuple(str(d) for d in given["dtypes"])
        names, sectors = tuple(map(str, given["channels"])), int(given["sectors"])
        if not names or len(names) != len(shapes) or len(names) != len(dtypes) or not 1 <= sectors <= 1024 or min(min(shapes)) < 1:
            raise ValueError("channels, shapes and dtypes do not fit together")
        return Layout(names, sectors, shapes, dtypes)
    except (KeyError, TypeError, ValueError) as exc:
        raise WireError(f"this is no layout of frames: {type(exc).__name__}: {exc}") from None
