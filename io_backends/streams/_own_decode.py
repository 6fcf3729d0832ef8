"""libstream's own stream: messages -> events. The protocol is written down in `own`."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from libstream.ext import (
    Announced,
    CodecError,
    Event,
    FramePart,
    NotInstalledError,
    Parts,
    RunEnd,
    RunHeader,
    Skipped,
    WireError,
    cbor,
    wire,
)

VERSION = 1
DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float32", "float64", "complex64", "complex128"),
)  # fmt: skip
"""Names of dtypes of frames, as NumPy has them."""

MAX_SIDE = 65536
"""Pixels along one side of a frame."""
MAX_FRAME_BYTES = 1 << 30
"""Decoded bytes of one frame."""
MAX_FRAMES = 1 << 40
"""Frames of a run, positions of a scan."""
MAX_PRODUCERS = 1024
_MAX_NUMBER = 1 << 62
_MAX_TIME = (1 << 63) - 1
_KEPT_RUNS = 32
_KEPT_FORMS = 64

_NUMBER, _T_NS = b"\x66number", b"\x64t_ns"


@dataclass
class _Run:
    """What was said of a run. frame, dtype: for frames that do not say their own. announced: parts by producer."""

    frame: tuple[int, int] | None
    dtype: str | None
    channels: tuple[str, ...]
    n_producers: int
    started: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    announced: dict[int, int] = field(default_factory=dict)
    reason: str = ""


class OwnDecoder:
    """Decoder of `libstream://`. A frame whose header looks like one before it, but for number and time, costs 2 us."""

    has_end = True

    def __init__(self) -> None:
        self._runs: OrderedDict[int | str, _Run] = OrderedDict()
        # bytes of a header before and after its number (and time) -> (run, codec, shape, dtype, channel)
        self._forms: dict[tuple[bytes, bytes, bytes], tuple[int | str, str, tuple[int, int], str, int]] = {}

    def feed(self, parts: Parts) -> Iterable[Event]:
        """Events of one message. Raises WireError for what the protocol does not allow."""
        if not len(parts):
            raise WireError("a message without parts")
        if len(parts[0]) > cbor.MAX_BYTES:
            raise WireError(f"a header of {len(parts[0])} bytes, expected at most {cbor.MAX_BYTES}")
        head = bytes(parts[0])
        if len(parts) == 2 and (cut := _cut(head)) is not None:
            key, number, t_ns = cut
            known = self._forms.get(key)
            if known is not None:
                run, codec, shape, dtype, channel = known
                return (FramePart(run, number, 1, 0, len(parts[1]), codec, shape, dtype, 0, channel, t_ns),)
        return self._read(head, parts)

    # -- the careful way ------------------------------------------------------------------------------------------------

    def _read(self, head: bytes, parts: Parts) -> Iterable[Event]:
        said = cbor.loads(head)
        kind = said.get("type")
        if kind == "frame" or kind == "frames":
            return self._frames(kind, said, head, parts)
        if kind not in ("start", "end"):
            if type(kind) is not str:
                raise WireError("a header without a type: expected 'start', 'frame', 'frames' or 'end'")
            return (Skipped(f"a message of type {kind[:40]!r}"),)
        if len(parts) > 1:
            raise WireError(f"a message of type {kind!r} has {len(parts)} parts, expected its header alone")
        return self._start(said) if kind == "start" else self._end(said)

    def _start(self, said: dict[str, Any]) -> list[Event]:
        version = said.get("v")
        if type(version) is not int or version != VERSION:
            raise WireError(
                f"start: version (v) of the protocol is {_shown(version)}, expected {VERSION}. Newer than this libstream? Update it."
            )
        run = _run_of(said)
        n = _whole(said, "n_producers", 1, MAX_PRODUCERS) or 1
        producer = _whole(said, "producer", 0, n - 1) or 0
        header, state = _header(said, run, n)
        parts = _whole(said, "n_parts", 0, _MAX_NUMBER)
        self._forms.clear()
        before = self._runs.get(run)
        out: list[Event] = []
        if before is None or producer in before.started or before.n_producers != n:
            out.append(header)
            self._keep(run, state)
        else:
            if (before.frame, before.dtype, before.channels) != (state.frame, state.dtype, state.channels):
                raise WireError(f"start: producer {producer} of run {_shown(run)} announces other frames than the first one did")
            out.append(Skipped(f"start of run {_shown(run)} by producer {producer}"))
            state = before
        state.started.add(producer)
        return out + self._announce(run, state, producer, parts)

    def _keep(self, run: int | str, state: _Run) -> None:
        self._runs.pop(run, None)
        self._runs[run] = state
        while len(self._runs) > _KEPT_RUNS:
            self._runs.popitem(last=False)

    def _announce(self, run: int | str, state: _Run, producer: int, parts: int | None) -> list[Event]:
        if parts is None:
            return []
        state.announced[producer] = parts
        if len(state.announced) < state.n_producers:
            return []
        # the sum first: nobody shall take the share of one producer for all there is
        shares = [sum(state.announced.values())] + [0] * (state.n_producers - 1)
        return [Announced(run, sender, share) for sender, share in enumerate(shares)]

    def _end(self, said: dict[str, Any]) -> list[Event]:
        run = _run_of(said)
        state = self._runs.get(run)
        n_frames = _whole(said, "n_frames", 0, MAX_FRAMES)
        parts = _whole(said, "n_parts", 0, _MAX_NUMBER)
        producer = _whole(said, "producer", 0, MAX_PRODUCERS - 1) or 0
        reason = _text(said, "reason", 1000) or ""
        if state is None:
            return [RunEnd(run, n_frames, reason)]
        if producer >= state.n_producers:
            raise WireError(f"end: producer {producer} of run {_shown(run)}, which has {state.n_producers}")
        out = self._announce(run, state, producer, parts)
        state.ended.add(producer)
        state.reason = state.reason or reason
        if len(state.ended) == state.n_producers:
            out.append(RunEnd(run, n_frames, state.reason))
        return out

    def _frames(self, kind: str, said: dict[str, Any], head: bytes, parts: Parts) -> list[Event]:
        run = _run_of(said)
        state = self._runs.get(run)
        one = kind == "frame"
        numbers = [said.get("number")] if one else said.get("number")
        if type(numbers) is not list or not all(type(n) is int and 0 <= n < _MAX_NUMBER for n in numbers):
            raise WireError(
                f"{kind}: number is {_shown(said.get('number'))}, expected {'a whole number' if one else 'a list of them'} from 0"
            )
        if len(parts) != 1 + len(numbers):
            raise WireError(f"{kind}: {len(numbers)} numbers and {len(parts) - 1} payloads, expected as many")
        times = said.get("t_ns")
        if times is None or one:
            times = [0 if times is None else times] * len(numbers)
        if type(times) is not list or len(times) != len(numbers) or not all(type(t) is int and 0 <= t <= _MAX_TIME for t in times):
            raise WireError(f"{kind}: t_ns is {_shown(said.get('t_ns'))}, expected nanoseconds for each number")
        codec, shape, dtype, channel = self._form(kind, said, state)
        if one and (cut := _cut(head)) is not None:
            self._learn(cut[0], (run, codec, shape, dtype, channel))
        return [
            FramePart(run, n, 1 + i, 0, len(parts[1 + i]), codec, shape, dtype, 0, channel, t)
            for i, (n, t) in enumerate(zip(numbers, times, strict=True))
        ]

    def _form(self, kind: str, said: dict[str, Any], state: _Run | None) -> tuple[str, tuple[int, int], str, int]:
        codec = _text(said, "codec", 64)
        if codec is None:
            raise WireError(f"{kind}: the codec is missing, such as 'raw<'")
        shape = _frame_shape(said, "shape") or (state.frame if state else None)
        dtype = _dtype(said) or (state.dtype if state else None)
        channel = said.get("channel", 0)
        if type(channel) is str and state is not None and channel in state.channels:
            channel = state.channels.index(channel)
        elif type(channel) is str and state is None:
            channel = 0
        if type(channel) is not int or not 0 <= channel < max(1, len(state.channels) if state else MAX_PRODUCERS):
            names = ", ".join(state.channels) if state else ""
            raise WireError(
                f"{kind}: channel is {_shown(channel)}, expected the name or index of one of those of the start: {names or 'none'}"
            )
        if shape is None or dtype is None:
            if state is not None:
                raise WireError(f"{kind}: neither it nor the start of its run says shape and dtype")
            return codec, (0, 0), "", channel  # of no run that is known: it can only be counted
        _check_size(kind, shape, dtype)
        try:
            wire.check(codec, shape, dtype)
        except (CodecError, NotInstalledError) as err:
            raise WireError(f"{kind}: {err}") from None
        return codec, shape, dtype, channel

    def _learn(self, key: tuple[bytes, bytes, bytes], form: tuple[int | str, str, tuple[int, int], str, int]) -> None:
        """Remember a header, where number and time are really what stands between these bytes."""
        before, between, after = key
        tried = before + b"\x1a\x12\x34\x56\x78" + between + (b"\x1b\x12\x34\x56\x78\x12\x34\x56\x78" if between else b"") + after
        try:
            said = cbor.loads(tried)
        except WireError:
            return
        if said.get("number") == 0x12345678 and said.get("t_ns") == (0x1234567812345678 if between else None):
            if len(self._forms) >= _KEPT_FORMS:
                self._forms.clear()
            self._forms[key] = form


# -- fields ---------------------------------------------------------------------------------------------------------------


def _cut(head: bytes) -> tuple[tuple[bytes, bytes, bytes], int, int] | None:
    """A header around its number and time: ((before, between, after), number, time); None where it is not of that form."""
    p = head.find(_NUMBER) + 7
    if p < 7:
        return None
    number, q = _uint(head, p)
    if q == 0:
        return None
    t = head.find(_T_NS, q)
    if t < 0:
        return (head[:p], b"", head[q:]), number, 0
    t_ns, r = _uint(head, t + 5)
    if r == 0:
        return None
    return (head[:p], head[q : t + 5], head[r:]), number, t_ns


def _uint(head: bytes, p: int) -> tuple[int, int]:
    """The whole number at p and where it ends; (0, 0) where there is none."""
    n = len(head)
    if p >= n:
        return 0, 0
    first = head[p]
    if first < 24:
        return first, p + 1
    q = p + 1 + (1 << (first - 24)) if first < 28 else n + 1
    if q > n:
        return 0, 0
    value = int.from_bytes(head[p + 1 : q], "big")
    return (value, q) if value < _MAX_NUMBER else (0, 0)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _run_of(said: dict[str, Any]) -> int | str:
    run = said.get("run")
    if (type(run) is int and 0 <= run < _MAX_NUMBER) or (type(run) is str and 0 < len(run) <= 256):
        return run
    raise WireError(f"{said.get('type')}: run is {_shown(run)}, expected a whole number from 0 or a name of up to 256 characters")


def _whole(said: dict[str, Any], name: str, low: int, high: int) -> int | None:
    value = said.get(name)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise WireError(f"{said.get('type')}: {name} is {_shown(value)}, expected a whole number from {low} to {high}")
    return value


def _text(said: dict[str, Any], name: str, most: int) -> str | None:
    value = said.get(name)
    if value is None:
        return None
    if type(value) is not str or len(value) > most:
        raise WireError(f"{said.get('type')}: {name} is {_shown(value)}, expected a text of up to {most} characters")
    return value


def _sizes(said: dict[str, Any], name: str, low: int, high: int, most: int) -> tuple[int, ...] | None:
    value = said.get(name)
    if value is None:
        return None
    if type(value) is not list or not low <= len(value) <= high or not all(type(n) is int and 0 < n <= most for n in value):
        raise WireError(f"{said.get('type')}: {name} is {_shown(value)}, expected a list of {low} to {high} sizes from 1 to {most}")
    return tuple(value)


def _frame_shape(said: dict[str, Any], name: str) -> tuple[int, int] | None:
    sizes = _sizes(said, name, 2, 2, MAX_SIDE)
    return None if sizes is None else (sizes[0], sizes[1])


def _dtype(said: dict[str, Any]) -> str | None:
    value = said.get("dtype")
    if value is None:
        return None
    if type(value) is not str or value not in DTYPES:
        raise WireError(f"{said.get('type')}: dtype is {_shown(value)}, expected one of {', '.join(DTYPES)}")
    return value


def _check_size(kind: str, shape: tuple[int, int], dtype: str) -> None:
    item = 1 if dtype == "bool" else int("".join(c for c in dtype if c.isdigit())) // 8
    if shape[0] * shape[1] * item > MAX_FRAME_BYTES:
        raise WireError(f"{kind}: frames of {shape[0]} x {shape[1]} {dtype} are larger than {MAX_FRAME_BYTES} bytes")


def _header(said: dict[str, Any], run: int | str, n_producers: int) -> tuple[RunHeader, _Run]:
    frame, dtype = _frame_shape(said, "frame"), _dtype(said)
    if frame and dtype:
        _check_size("start", frame, dtype)
    scan = _sizes(said, "scan", 1, 4, MAX_FRAMES)
    if scan and math.prod(scan) > MAX_FRAMES:
        raise WireError(f"start: a scan of {_shown(list(scan))} positions, expected at most {MAX_FRAMES}")
    channels = said.get("channels")
    names = [] if channels is None else channels
    good = type(names) is list and len(names) <= 64 and all(type(c) is str and 0 < len(c) <= 100 for c in names)
    if not good or len(set(names)) < len(names):
        raise WireError(f"start: channels is {_shown(channels)}, expected a list of up to 64 different names")
    time_s = said.get("frame_time")
    if time_s is not None and not (type(time_s) in (int, float) and 0 <= time_s < 1e9):
        raise WireError(f"start: frame_time is {_shown(time_s)}, expected seconds")
    axes = said.get("axes")
    checked: dict[str, tuple[float, str]] = {}
    for name, value in _map_of(said, "axes").items():
        good = type(value) is list and len(value) == 2 and type(value[0]) in (int, float) and type(value[1]) is str
        if not good or not math.isfinite(value[0]) or value[0] == 0 or len(value[1]) > 40:
            raise WireError(f"start: axes is {_shown(axes)}, expected a step (not 0) and a unit for each name")
        checked[name] = (float(value[0]), value[1])
    notes = (f"{n_producers} producers send this run",) if n_producers > 1 else ()
    header = RunHeader(
        run, _whole(said, "n_frames", 1, MAX_FRAMES), scan, frame, dtype, tuple(names), None if time_s is None else float(time_s),
        _map_of(said, "meta"), notes, checked,
    )  # fmt: skip
    return header, _Run(frame, dtype, tuple(names), n_producers)


def _map_of(said: dict[str, Any], name: str) -> dict[str, Any]:
    value = said.get(name)
    if value is None:
        return {}
    if type(value) is not dict:
        raise WireError(f"start: {name} is {_shown(value)}, expected a map")
    return value
