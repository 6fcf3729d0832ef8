"""Helpers of the tests of Merlin streams."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import DataShape, FramePart, Outgoing, RunHeader, SourceId, SourceMeta, WireError, wire
from libstream.io_backends.streams._merlin_decode import MerlinDecoder
from libstream.io_backends.streams._merlin_encode import MerlinEncoder
from libstream.io_backends.streams.merlin import MerlinFraming
from tests.writers import mib as writer

_Arr = np.ndarray[Any, Any]

FORMATS = [(code, 0, "1x1") for code in writer.DTYPES] + [("U16", 0, "2x2")]
FORMATS += [("R64", depth, chips) for depth in writer.RAW_DTYPES for chips in ("1x1", "2x2", "2x2G")]
MOST = 1 << 22


def message(payload: bytes) -> bytes:
    return b"MPX," + str(len(payload) + 1).zfill(10).encode() + b"," + payload


def small(n: int, code: str = "U16", depth: int = 12, layout: str = "1x1", rows: int = 4) -> _Arr:
    return writer.random_frames(np.random.default_rng(n), n, code, depth, layout, rows)


def cut_all(data: bytes, framing: Any = None, max_bytes: int = MOST, chunk: int = 0) -> list[bytes]:
    """What a transport gets out of a stream that comes in pieces of `chunk` bytes, by the contract of `Framing`."""
    framing = framing if framing is not None else MerlinFraming()
    out, have, at = [], b"", 0
    while at < len(data):
        have, at = have + data[at : at + (chunk or len(data))], at + (chunk or len(data))
        while have:
            start, stop = framing.cut(memoryview(have))
            assert 0 <= start <= len(have) or stop >= 0
            if stop < 0:
                have = have[start:]
                break
            assert stop > start
            if stop - start > max_bytes:
                have = have[max(start, 1) :]
                continue
            while stop > len(have) and at < len(data):  # waited for without asking again
                have, at = have + data[at : at + (chunk or len(data))], at + (chunk or len(data))
            if stop > len(have):
                return out
            out.append(have[start:stop])
            have = have[stop:]
    return out


def pixels(part: FramePart, data: bytes) -> _Arr:
    out = np.zeros(part.shape[0] * part.shape[1] * np.dtype(part.dtype).itemsize, np.uint8)
    ok = wire.decode(part.codec, part.shape, part.dtype, np.frombuffer(data, np.uint8), [part.start], [part.stop - part.start], out, [0])
    assert ok.all()
    return out.view(part.dtype).reshape(part.shape)


def decoded(messages: list[bytes], decoder: MerlinDecoder | None = None) -> tuple[list[RunHeader], dict[tuple[Any, int, int], _Arr]]:
    """Headers, and frames by (run, number, channel)."""
    decoder = decoder or MerlinDecoder()
    headers, frames = [], {}
    for data in messages:
        for event in decoder.feed([memoryview(data)]):
            if isinstance(event, RunHeader):
                headers.append(event)
            elif isinstance(event, FramePart):
                frames[event.run, event.number, event.channel] = pixels(event, data)
    return headers, frames


def meta_of(frames: _Arr, nav: tuple[int, ...], channels: tuple[str, ...] = ("frames",)) -> SourceMeta:
    return SourceMeta(SourceId("test", "test", 0), DataShape(nav, frames.shape[-2:]), frames.dtype, channels=channels)


def sent(encoder: MerlinEncoder, frames: _Arr, nav: tuple[int, ...], run: int = 1) -> bytes:
    out: list[Outgoing] = list(encoder.begin(meta_of(frames, nav), run))
    for i, frame in enumerate(frames):
        out += encoder.frame(i, {"frames": frame})
    return b"".join(bytes(p) for o in [*out, *encoder.end()] for p in o.parts)


def good_stream(n: int = 6) -> tuple[list[bytes], _Arr]:
    frames = small(n, "U08", rows=2)
    return [message(writer.hdr(n)), *map(message, writer.records(frames, "U08"))], frames


def numbers_in(stream: bytes, **how: Any) -> list[int]:
    """Numbers of all frames that are understood; everything else raises WireError."""
    decoder, out = MerlinDecoder(), []
    for data in cut_all(stream, **how):
        try:
            events = decoder.feed([memoryview(data)])
        except WireError:
            continue
        out += [e.number for e in events if isinstance(e, FramePart)]
    return out
