"""DECTRIS stream V2: one CBOR map a message, all thresholds of an image in one message.

See https://github.com/dectris/documentation, stream_v2 and cbor. Only the envelope is read; pixels stay compressed where they are.
An image is 40([[rows, columns], 69(56500(["bslz4", 2, h'...']))]) for each channel: an array of RFC 8746 whose bytes may be compressed.

The first image of a series goes the careful way, through `_dectris_cbor`. What stays the same in the following ones is made into a
pattern, which the next are matched with in 2 to 3 us each; one that does not match goes the careful way, which gives the same events.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from libstream.ext import Event, FramePart, LibstreamError, Parts, RunEnd, RunHeader, Skipped, WireError
from libstream.io_backends.streams import _dectris_meta as m
from libstream.io_backends.streams._dectris_cbor import Bytes, Tag, Walker, bare, message

_Arr = np.ndarray[Any, Any]

MAX_CHANNELS = 16
_ROWS, _COLUMNS, _COMPRESSED = 40, 1040, 56500
_SAME_ORDER = {"<": "raw<", ">": "raw>"}
# RFC 8746: 64 to 71 unsigned, 72 to 79 signed, 80 to 87 floats; bit 2 = little-endian
_KINDS = {64: "|u1", 68: "|u1", 72: "|i1"}
for _tag in range(65, 88):
    _width = 1 << (((_tag >> 4) & 1) + (_tag & 3))
    if _tag not in (68, 72, 76) and _width <= 8:
        _KINDS[_tag] = f"{'<' if _tag & 4 else '>'}{'f' if _tag >= 80 else 'i' if _tag >= 72 else 'u'}{_width}"
TAG_OF = {np.dtype(kind).name: tag for tag, kind in _KINDS.items() if kind[0] != ">" and tag != 68}
"""Tag of an array of little-endian numbers, by dtype."""

_UINT = rb"([\x00-\x17]|\x18.|\x19.{2}|\x1a.{4}|\x1b.{8})"
_HEAD = rb"([\x40-\x57]|\x58.|\x59.{2}|\x5a.{4}|\x5b.{8})"
_LEARN_EVERY, _LONGEST = 512, 4096
_new = tuple.__new__


class _Pixels(NamedTuple):
    """One channel of an image."""

    channel: str
    codec: str
    shape: tuple[int, int]
    dtype: str
    blob: Bytes


class _Template(NamedTuple):
    """Images that differ in numbers, times and sizes only.

    before: matches from the start, or from the end of the blob before, to the start of each blob. after: the rest; None = nothing.
    number, time: (segment, group) of the frame's number and start. clock: units of time in a second. t_ns: where the start is not a number.
    """

    before: tuple[Any, ...]
    after: Any
    number: tuple[int, int]
    time: tuple[int, int] | None
    clock: int
    t_ns: int
    run: int
    kinds: tuple[tuple[str, tuple[int, int], str, int], ...]


class V2Decoder:
    """Messages of the stream -> events (a `Decoder`)."""

    has_end = True

    def __init__(self) -> None:
        self._channels: dict[str, int] = {}
        self._run: int | None = None
        self._template: _Template | None = None
        self._since = _LEARN_EVERY

    def feed(self, parts: Parts) -> Iterable[Event]:
        """See `Decoder.feed`."""
        if len(parts) != 1:
            raise WireError(f"a message of {len(parts)} parts; those of stream V2 have one. Is the detector set to stream V1 (legacy)?")
        template = self._template
        if template is not None:
            events = _match(template, parts[0])
            if events is not None:
                return events
        return self._careful(parts[0])

    # -- the careful way -------------------------------------------------------------------------------------------------

    def _careful(self, buf: Any) -> tuple[Event, ...]:
        values, places = message(buf)
        kind = bare(values.get("type"))
        if kind == "image":
            return self._image(buf, values, places)
        if kind == "start":
            header = _run_header(values, buf)
            self._channels, self._run = {name: i for i, name in enumerate(header.channels)}, int(header.run)
            self._template, self._since = None, _LEARN_EVERY
            return (header,)
        if kind == "end":
            return (RunEnd(_whole(values, "series_id", "the end of a series")),)
        if isinstance(kind, str):
            return (Skipped(f"a message of type {kind[:40]!r}"),)
        raise WireError("a CBOR message without a type: expected start, image or end")

    def _image(self, buf: Any, values: Mapping[str, Any], places: Mapping[str, int]) -> tuple[Event, ...]:
        run = _whole(values, "series_id", "an image")
        number = _whole(values, "image_id", f"an image of series {run}")
        where = f"image {number} of series {run}"
        data = bare(values.get("data"))
        if type(data) is not dict or not 1 <= len(data) <= MAX_CHANNELS:
            raise WireError(f"{where} has no data: expected a map of 1 to {MAX_CHANNELS} channels")
        found = [_pixels(name, value, where) for name, value in data.items()]
        order = self._indices([p.channel for p in found], run, where)
        start = bare(values.get("start_time"))
        t_ns = start[0] * 1_000_000_000 // start[1] if _is_time(start) else 0
        t_ns = t_ns if t_ns <= m.MAX_INT else 0
        events = tuple(
            FramePart(run, number, 0, p.blob.start, p.blob.stop, p.codec, p.shape, p.dtype, 0, i, t_ns)
            for p, i in zip(found, order, strict=True)
        )
        self._since += 1
        if self._since > _LEARN_EVERY:
            self._since = 0
            self._template = _learn(buf, values, places, found, events)
        return events

    def _indices(self, names: list[str], run: int, where: str) -> list[int]:
        """Channels of an image among those announced: by name, else by order where there are as many."""
        known = self._channels if run == self._run else {}
        if len(set(names)) < len(names):
            raise WireError(f"{where} has a channel twice: {', '.join(names)[:200]}")
        if all(n in known for n in names):
            return [known[n] for n in names]
        if known and len(known) != len(names):
            raise WireError(f"{where} has the channels {', '.join(names)[:200]}; {', '.join(known)[:200]} were announced")
        rank = {n: i for i, n in enumerate(sorted(names, key=_natural))}
        return [rank[n] for n in names]


def _match(template: _Template, buf: Any) -> tuple[FramePart, ...] | None:
    """Events of an image that fits, else None."""
    pos, groups, places = 0, [], []
    for match in template.before:
        found = match(buf, pos)
        if found is None:
            return None
        got = found.groups()
        head, start = got[-1], found.end()
        pos = start + (int.from_bytes(head[1:], "big") if len(head) > 1 else head[0] - 64)
        if pos > len(buf):
            return None
        groups.append(got)
        places.append((start, pos))
    if template.after is not None:
        found = template.after(buf, pos)
        if found is None:
            return None
        groups.append(found.groups())
        pos = found.end()
    if pos != len(buf):
        return None
    segment, group = template.number
    raw = groups[segment][group]
    number = int.from_bytes(raw[1:], "big") if len(raw) > 1 else raw[0]
    t_ns = template.t_ns
    if template.time is not None:
        segment, group = template.time
        raw = groups[segment][group]
        t_ns = (int.from_bytes(raw[1:], "big") if len(raw) > 1 else raw[0]) * 1_000_000_000 // template.clock
        if t_ns > m.MAX_INT:
            return None
    if number > m.MAX_INT:
        return None
    run = template.run
    if len(places) == 1:
        ((codec, shape, dtype, channel),) = template.kinds
        start, stop = places[0]
        return (_new(FramePart, (run, number, 0, start, stop, codec, shape, dtype, 0, channel, t_ns)),)
    return tuple(
        _new(FramePart, (run, number, 0, start, stop, codec, shape, dtype, 0, channel, t_ns))
        for (codec, shape, dtype, channel), (start, stop) in zip(template.kinds, places, strict=True)
    )


def _learn(
    buf: Any, values: Mapping[str, Any], places: Mapping[str, int], found: list[_Pixels], events: tuple[FramePart, ...]
) -> _Template | None:  # fmt: skip
    """The pattern of an image, None where it would be too long to be of use."""
    walk = Walker(buf)
    holes = [(places["image_id"], "number")]
    for key in ("start_time", "stop_time", "real_time"):
        # two short heads: [numerator, denominator]; the denominator is the clock's frequency and stays the same
        if _is_time(values.get(key)) and walk.head(places[key]) == (4, 2, places[key] + 1):
            holes.append((places[key] + 1, key))
    holes += [(p.blob.head, "blob") for p in found]
    holes.sort()
    before: list[Any] = []
    names: list[str] = []
    where: dict[str, tuple[int, int]] = {}
    pattern, pos, n_literal = b"", 0, 0
    for at, what in holes:
        pattern += re.escape(bytes(walk.buf[pos:at])) + (_HEAD if what == "blob" else _UINT)
        n_literal += at - pos
        major, n, pos = walk.head(at)
        if major != (2 if what == "blob" else 0) or n_literal > _LONGEST:
            return None
        if what == "blob":
            before.append(re.compile(pattern, re.DOTALL).match)
            pattern, names, pos = b"", [], pos + n
        else:
            where[what] = (len(before), len(names))
            names.append(what)
    if walk.size - pos + n_literal > _LONGEST:
        return None
    pattern += re.escape(bytes(walk.buf[pos:]))
    kinds = tuple((e.codec, e.shape, e.dtype, e.channel) for e in events)
    clock = values["start_time"][1] if "start_time" in where else 1
    after = re.compile(pattern, re.DOTALL).match if pattern else None
    return _Template(tuple(before), after, where["number"], where.get("start_time"), clock, events[0].t_ns, int(events[0].run), kinds)


def _is_time(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and all(type(v) is int and v >= 0 for v in value) and value[1] > 0


def _natural(name: str) -> list[Any]:
    return [(0, int(part), "") if part.isdecimal() and len(part) < 19 else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _whole(values: Mapping[str, Any], key: str, where: str) -> int:
    value = m.whole(bare(values.get(key)))
    if value is None:
        raise WireError(f"{where} has {key} {str(values.get(key, 'missing'))[:40]!r}, expected a whole number")
    return value


def _channel(name: Any) -> str:
    """Some senders announce "1" and then send "threshold_1"."""
    text = m.text(str(name))[:100]
    return f"threshold_{text}" if text.isdecimal() else text


def _typed(value: Any, where: str) -> tuple[str, str, tuple[int, int], Bytes]:
    """Dtype with its order, codec, shape (y, x) and place of an array."""
    while type(value) is Tag and value.number not in (_ROWS, _COLUMNS):
        value = value.value
    if type(value) is not Tag or type(value.value) is not list or len(value.value) != 2 or type(bare(value.value[0])) is not list:
        raise WireError(f"{where} is no array of two axes: expected tag 40 with [[rows, columns], values]")
    sides, inner = bare(value.value[0]), value.value[1]
    shape = m.frame_shape(*sides) if len(sides) == 2 else None
    if shape is None:
        raise WireError(f"{where} has the shape {str(sides)[:60]}, expected [rows, columns] of at most {m.MAX_SIDE} each")
    if value.number == _COLUMNS and 1 not in shape:
        raise WireError(f"{where} comes column by column (tag 1040); no detector sends that, and it is not read here: send tag 40")
    kind = _KINDS.get(inner.number) if type(inner) is Tag else None
    if kind is None:
        raise WireError(f"{where} has values of no known type: expected a typed array (tags 64 to 87)")
    blob = inner.value
    order = ">" if kind[0] == ">" else "<"
    while type(blob) is Tag and blob.number != _COMPRESSED:
        blob = blob.value
    if type(blob) is Bytes:
        return kind, _SAME_ORDER[order], shape, blob
    packed = blob.value if type(blob) is Tag else None
    if type(packed) is not list or len(packed) != 3 or type(packed[2]) is not Bytes:
        raise WireError(f"{where} has no bytes: expected a byte string, or tag 56500 with [algorithm, element size, bytes]")
    name, element, blob = packed
    high = ">" if order == ">" else ""
    if name == "lz4":
        return kind, f"lz4f{high}", shape, blob
    if name == "bslz4" and type(element) is int and element in (1, 2, 4, 8):
        return kind, f"bslz4/{element}{high}", shape, blob
    raise WireError(f"{where} is compressed by {str(name)[:40]!r} with elements of {str(element)[:20]} bytes; known are lz4 and bslz4")


def _pixels(name: Any, value: Any, where: str) -> _Pixels:
    kind, codec, shape, blob = _typed(value, f"channel {str(name)[:40]!r} of {where}")
    return _Pixels(_channel(name), codec, shape, np.dtype(kind).name, blob)


# -- the start of a series -------------------------------------------------------------------------------------------------


def _run_header(values: Mapping[str, Any], buf: Any) -> RunHeader:
    run = _whole(values, "series_id", "the start of a series")
    flat = {k: _unwrapped(v) for k, v in values.items()}
    meta: dict[str, Any] = {"protocol": "DECTRIS stream V2"}
    big = ("flatfield", "pixel_mask", "countrate_correction_lookup_table")
    meta["detector"] = m.plain({k: v for k, v in flat.items() if k not in (*big, "type", "user_data")})
    notes: tuple[str, ...] = ()
    for name in big[:2]:
        found = bare(values.get(name))
        for channel, value in list(found.items())[:MAX_CHANNELS] if type(found) is dict else ():
            summary, more = _mask(f"{name} of {_channel(channel)}", value, buf)
            meta.setdefault(name, {})[_channel(channel)] = summary
            notes += more
    if flat.get("user_data") not in (None, ""):
        meta["user_data"] = m.plain(flat["user_data"])
    n_frames, told = m.announced(m.whole(flat.get("number_of_images")))
    translation = flat.get("detector_translation")
    far: Any = translation[2] if type(translation) is list and len(translation) == 3 else None
    far = abs(far) if type(far) in (int, float) else None
    axes, assumed = m.axes_of(flat.get("pixel_size_y"), flat.get("pixel_size_x"), far)
    scan, scan_notes = m.scan_of(flat.get("user_data"), n_frames)
    energies = flat.get("threshold_energy")
    channels = flat.get("channels") or (list(energies) if type(energies) is dict else None)
    names = tuple(dict.fromkeys(_channel(c) for c in channels[:MAX_CHANNELS])) if type(channels) is list else ()
    dtype = flat.get("image_dtype")
    return RunHeader(
        run,
        n_frames=n_frames,
        scan=scan,
        frame=m.frame_shape(flat.get("image_size_y"), flat.get("image_size_x")),
        dtype=dtype if isinstance(dtype, str) and dtype in m.DTYPES else None,
        channels=names,
        frame_time_s=m.positive(flat.get("frame_time")),
        meta=meta,
        notes=(*notes, *told, *assumed, *scan_notes),
        axes=axes,
    )


def _unwrapped(value: Any, depth: int = 0) -> Any:
    """Without tags; byte strings as their length."""
    value = bare(value)
    if type(value) is Bytes:
        return f"{value.stop - value.start} bytes"
    if type(value) is dict:
        return {k: _unwrapped(v, depth + 1) for k, v in value.items()}
    return [_unwrapped(v, depth + 1) for v in value] if type(value) is list else value


def _mask(name: str, value: Any, buf: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Summary of a flat field or mask; a compressed one is decoded where its size is one that its bytes can hold."""
    from libstream.ext import wire

    try:
        kind, codec, shape, blob = _typed(value, name)
        src = np.frombuffer(buf, np.uint8)[blob.start : blob.stop]
        if codec.startswith("raw"):
            return m.mask_meta(name, m.as_array(src, kind, shape), shape)
        total = shape[0] * shape[1] * np.dtype(kind).itemsize
        out = np.empty(total if total <= min(255 * src.size, 1 << 28) else 0, np.uint8)
        good = out.size and wire.decode(codec, shape, np.dtype(kind).name, src, [0], [src.size], out, [0])[0]
        return m.mask_meta(name, out.view(np.dtype(kind).name).reshape(shape) if good else None, shape)
    except LibstreamError:
        return m.mask_meta(name, None, ())
