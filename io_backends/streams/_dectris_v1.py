"""DECTRIS SIMPLON stream V1 ("legacy"): ZMQ messages of several parts, JSON beside pixels.

A series is a header (1, 2 or 8 parts and an appendix; some senders send its parts as messages of their own), images of 4 parts and an
appendix, and an end. Shapes are given as [width, height]. Encodings are `[bs<bits>-][lz4](<|>)`; "lz4<" is one bare LZ4 block.

The decoder has a fast path for images that look as detectors write them, 2 to 3 us each, and a careful one for everything else, which gives
the same events. Hashes are not verified: senders exist that hash another part, or nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from libstream.ext import Event, FramePart, Outgoing, Parts, RunEnd, RunHeader, Skipped, SourceMeta, UsageError, WireError
from libstream.io_backends.streams import _dectris_meta as m

_Arr = np.ndarray[Any, Any]

MAX_JSON = 1 << 20
_IMAGE = re.compile(
    rb'\{"htype": ?"dimage-1\.0", ?"series": ?(0|[1-9]\d{0,17}), ?"frame": ?(0|[1-9]\d{0,17}), ?"hash": ?"[ !#-\[\]-~]{0,128}"\}'
).fullmatch
_TIMES = re.compile(
    rb'\{"htype": ?"dconfig-1\.0", ?"start_time": ?(0|[1-9]\d{0,17})(?:, ?"(?:stop|real)_time": ?(?:0|[1-9]\d{0,17})){0,2}\}'
).fullmatch
_ENCODING = re.compile(r"(?:bs(8|16|32|64)-)?(lz4)?([<>])")
_BEGINS = re.compile(rb'\s*\{\s*"htype"\s*:\s*"d(?:header|image|series_end)-1\.').match
_BLOBS = ("dflatfield-1.", "dpixelmask-1.", "dcountrate_table-1.")
_new = tuple.__new__


def codec_of(encoding: Any) -> str:
    """The codec (see `libstream.codecs.wire`) of an encoding. Raises WireError naming it."""
    found = _ENCODING.fullmatch(encoding) if isinstance(encoding, str) else None
    bits, lz4, order = found.groups() if found else (None, None, None)
    if order is None or (bits and not lz4):
        raise WireError(
            f"unknown encoding {str(encoding)[:40]!r} of an image; known are <, lz4<, bs8-lz4<, bs16-lz4<, bs32-lz4< and with >"
        )
    high = ">" if order == ">" else ""
    return f"bslz4/{int(bits) // 8}{high}" if bits else f"lz4{high}" if lz4 else f"raw{order}"


class V1Decoder:
    """Messages of the stream -> events (a `Decoder`)."""

    has_end = True
    loose = False
    """The header came in messages of one part: more of them may follow, tables and an appendix."""

    def __init__(self) -> None:
        self._layouts: dict[bytes, tuple[tuple[int, int], str, str]] = {}
        self._waiting: dict[str, Any] | None = None

    def feed(self, parts: Parts) -> Iterable[Event]:
        """See `Decoder.feed`."""
        if 4 <= len(parts) <= 5 and not self.loose:
            head = _IMAGE(parts[0])
            layout = parts[1]
            if head is not None and len(layout) < 512:
                layout = bytes(layout)
                cut = layout.rfind(b'"size":')
                known = self._layouts.get(layout[:cut])
                if known is not None and _is_size(layout, cut + 7):
                    times = _TIMES(parts[3])
                    if times is not None:
                        series, frame = head.groups()
                        shape, dtype, codec = known
                        event = (int(series), int(frame), 2, 0, len(parts[2]), codec, shape, dtype, 0, 0, int(times[1]))
                        return (_new(FramePart, event),)
        return self._careful(parts)

    # -- the careful way -------------------------------------------------------------------------------------------------

    def _careful(self, parts: Parts) -> tuple[Event, ...]:
        if not len(parts):
            raise WireError("a message without parts")
        if self.loose and self._waiting is None and len(parts) == 1 and not _BEGINS(bytes(parts[0][:64])):
            return (Skipped("a part of the header that came by itself"),)
        first = _json(parts[0], "the first part of a message")
        kind = first.get("htype")
        if isinstance(kind, str):
            if kind.startswith("dimage-1."):
                image = self._image(first, parts)
                self.loose = False
                return (*self._flush(), image)
            if kind.startswith("dheader-1."):
                return self._header(first, parts)
            if kind.startswith("dseries_end-1."):
                end = RunEnd(_whole(first, "series", "the end of a series"))
                self.loose = False
                return (*self._flush(), end)
            return (Skipped(f"a message of type {kind[:40]!r}"),)
        if kind is None and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            return (_run_header(waiting, first, parts[1:]),)
        raise WireError(f"a message of {len(parts)} parts without a type: expected htype dheader-1.0, dimage-1.0 or dseries_end-1.0")

    def _flush(self) -> tuple[Event, ...]:
        """The header whose second part never came."""
        waiting, self._waiting = self._waiting, None
        return () if waiting is None else (_run_header(waiting, None, ()),)

    def _header(self, first: Mapping[str, Any], parts: Parts) -> tuple[Event, ...]:
        detail = first.get("header_detail")
        head = {"series": _whole(first, "series", "a header"), "header_detail": detail if isinstance(detail, str) else "basic"}
        rest = parts[1:]
        config = None if detail == "none" or not rest else _json(rest[0], "the configuration in a header")
        before = self._flush()
        self.loose = not rest
        if not rest and detail != "none":
            self._waiting = head
            return before
        return (*before, _run_header(head, config, rest if config is None else rest[1:]))

    def _image(self, first: Mapping[str, Any], parts: Parts) -> FramePart:
        series, frame = _whole(first, "series", "an image"), _whole(first, "frame", "an image")
        if not 3 <= len(parts) <= 5:
            raise WireError(f"image {frame} of series {series} has {len(parts)} parts, expected 4, or 5 with an appendix")
        where = f"the second part of image {frame} of series {series}"
        raw = bytes(parts[1][: MAX_JSON + 1])
        layout = _json(raw, where)
        if not str(layout.get("htype")).startswith("dimage_d-1."):
            raise WireError(f"{where} is of type {str(layout.get('htype'))[:40]!r}, expected dimage_d-1.0")
        sides = layout.get("shape")
        shape = None
        if isinstance(sides, list) and (len(sides) == 2 or (len(sides) == 3 and sides[2] == 1)):
            shape = m.frame_shape(sides[1], sides[0])
        if shape is None:
            raise WireError(f"{where} has shape {str(sides)[:60]}, expected [width, height] of at most {m.MAX_SIDE} each")
        dtype = layout.get("type")
        if not isinstance(dtype, str) or dtype not in m.DTYPES:
            raise WireError(f"{where} has type {str(dtype)[:40]!r}, expected one of {', '.join(m.DTYPES)}")
        codec = codec_of(layout.get("encoding"))
        cut = raw.rfind(b'"size":')
        # the number before the last brace is all that may change, and it is not used: senders exist that count otherwise
        if cut > 0 and len(raw) < 512 and _is_size(raw, cut + 7):
            if len(self._layouts) >= 32:
                self._layouts.clear()
            self._layouts[raw[:cut]] = shape, dtype, codec
        start = m.whole(_json(parts[3], f"the times of image {frame}").get("start_time")) if len(parts) > 3 else None
        return FramePart(series, frame, 2, 0, len(parts[2]), codec, shape, dtype, 0, 0, start or 0)


def _is_size(text: bytes, at: int) -> bool:
    """A whole number from `at` to the brace at the end, as JSON writes it."""
    digits = text[at:-1].lstrip(b" ")
    return text[-1:] == b"}" and digits.isdigit() and len(digits) < 19 and (digits[:1] != b"0" or digits == b"0")


def _json(part: Any, where: str) -> dict[str, Any]:
    if len(part) > MAX_JSON:
        raise WireError(f"{where} has {len(part)} bytes, expected JSON of at most {MAX_JSON}")
    try:
        found = json.loads(str(part, "utf-8"), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as exc:
        raise WireError(f"{where} is no JSON: {str(exc)[:100]}; it begins {bytes(part[:24])!r}") from None
    if type(found) is not dict:
        raise WireError(f"{where} is JSON of type {type(found).__name__}, expected an object")
    return found


def _whole(of: Mapping[str, Any], key: str, where: str) -> int:
    value = m.whole(of.get(key))
    if value is None:
        raise WireError(f"{where} has {key} {str(of.get(key, 'missing'))[:40]!r}, expected a whole number")
    return value


def _run_header(head: Mapping[str, Any], config: Mapping[str, Any] | None, rest: Parts) -> RunHeader:
    """rest: parts after the configuration: tables in pairs, an appendix."""
    meta: dict[str, Any] = {"protocol": "DECTRIS stream V1", "header_detail": head["header_detail"][:40]}
    notes: tuple[str, ...] = ()
    rest = list(rest)
    while 2 <= len(rest) <= 8:
        try:
            table = _json(rest[0], "a table in a header")
        except WireError:
            break
        kind = str(table.get("htype"))
        if not kind.startswith(_BLOBS):
            break
        name = kind[1:].partition("-")[0]
        if name != "countrate_table":
            meta[name], more = _table(name, table, rest[1])
            notes = (*notes, *more)
        rest = rest[2:]
    appendix = bytes(rest[0][:65536]).decode("utf-8", "replace") if rest else None
    if appendix is not None:
        meta["header_appendix"] = appendix
    if config is None:
        if head["header_detail"] != "none":
            notes = (*notes, "the detector's configuration did not arrive: the number of frames is not known")
        return RunHeader(head["series"], meta=meta, notes=notes)
    meta["detector"] = m.plain(config)
    n_frames, told = m.n_frames_of(config)
    axes, assumed = m.axes_of(config.get("y_pixel_size"), config.get("x_pixel_size"), config.get("detector_distance"))
    scan, scan_notes = m.scan_of(appendix, n_frames)
    # a region of interest makes frames smaller than the detector
    full = config.get("roi_mode") in (None, "", "disabled")
    bits = config.get("bit_depth_image")
    return RunHeader(
        head["series"],
        n_frames=n_frames,
        scan=scan,
        frame=m.frame_shape(config.get("y_pixels_in_detector"), config.get("x_pixels_in_detector")) if full else None,
        dtype=f"uint{bits}" if type(bits) is int and bits in (8, 16, 32) else None,
        frame_time_s=m.positive(config.get("frame_time")),
        meta=meta,
        notes=(*notes, *told, *assumed, *scan_notes),
        axes=axes,
    )


def _table(name: str, table: Mapping[str, Any], blob: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    sides, dtype = table.get("shape"), table.get("type")
    known = isinstance(sides, list) and len(sides) == 2 and isinstance(dtype, str) and dtype in m.DTYPES
    shape = m.frame_shape(sides[1], sides[0]) if known and isinstance(sides, list) else None
    array = m.as_array(blob, np.dtype(dtype).newbyteorder("<").str, shape) if shape is not None else None
    return m.mask_meta(name, array, shape or ())


# -- the other way ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class V1Settings:
    """How a simulated detector writes.

    encoding: "" = bitshuffle and LZ4 of the pixel's own width. detail: none, basic or all. split: parts of the header as messages of
    their own. hash: the MD5 of each image, else zeros. config: values of the detector's configuration that differ from the source's.
    """

    encoding: str = ""
    detail: str = "basic"
    header_appendix: str = ""
    image_appendix: str = ""
    split: bool = False
    hash: bool = True
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.detail not in ("none", "basic", "all"):
            raise UsageError(f"detail is none, basic or all, got {self.detail!r}")
        if self.encoding:
            try:
                codec_of(self.encoding)
            except WireError as exc:
                raise UsageError(str(exc)) from None


class V1Encoder:
    """Frames -> messages (an `Encoder`)."""

    def __init__(self, settings: V1Settings | None = None) -> None:
        self.settings = settings or V1Settings()
        self._run, self._period = 0, 1_000_000

    def begin(self, meta: SourceMeta, run: int) -> Iterable[Outgoing]:
        """See `Encoder`. Raises UsageError for frames that the protocol cannot carry."""
        s = self.settings
        config = {**m.detector_config(meta), **s.config}
        self._run = run
        self._period = int((m.positive(config.get("frame_time")) or 0.001) * 1e9)
        parts = [_text({"htype": "dheader-1.0", "header_detail": s.detail, "series": run})]
        if s.detail != "none":
            parts.append(_text(config))
        if s.detail == "all":
            shape = m.check_source(meta)
            parts += _table_parts("dflatfield-1.0", np.ones(shape, "<f4"))
            parts += _table_parts("dpixelmask-1.0", m.pixel_mask_of(meta))
            parts += _table_parts("dcountrate_table-1.0", np.array([[0.0, 1e6], [0.0, 1e6]], "<f4"))
        if s.header_appendix:
            parts.append(s.header_appendix.encode())
        return [Outgoing([p]) for p in parts] if s.split else [Outgoing(parts)]

    def frame(self, number: int, frames: Mapping[str, _Arr]) -> Iterable[Outgoing]:
        """See `Encoder`. Raises UsageError for more than one channel."""
        from libstream.ext import wire

        if len(frames) != 1:
            raise UsageError(f"stream V1 carries one channel, got {', '.join(frames)}; choose one, or send stream V2 (?version=2)")
        (frame,) = frames.values()
        encoding = self.settings.encoding or f"bs{8 * frame.dtype.itemsize}-lz4<"
        blob = wire.encode(codec_of(encoding), frame)
        digest = hashlib.md5(blob, usedforsecurity=False).hexdigest() if self.settings.hash else "0" * 32
        ny, nx = frame.shape
        start, period = number * self._period, self._period
        parts = [
            b'{"htype":"dimage-1.0","series":%d,"frame":%d,"hash":"%s"}' % (self._run, number, digest.encode()),
            b'{"htype":"dimage_d-1.0","shape":[%d,%d],"type":"%s","encoding":"%s","size":%d}'
            % (nx, ny, frame.dtype.name.encode(), encoding.encode(), len(blob)),
            blob,
            b'{"htype":"dconfig-1.0","start_time":%d,"stop_time":%d,"real_time":%d}' % (start, start + period, period),
        ]
        if self.settings.image_appendix:
            parts.append(self.settings.image_appendix.encode())
        return [Outgoing(parts, number=number)]

    def end(self) -> Iterable[Outgoing]:
        """See `Encoder`."""
        return [Outgoing([_text({"htype": "dseries_end-1.0", "series": self._run})])]


def _text(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _table_parts(kind: str, table: _Arr) -> list[bytes]:
    return [_text({"htype": kind, "shape": list(table.shape[::-1]), "type": table.dtype.name}), table.tobytes()]
