"""Helpers of the tests of the 4D Camera: messages made with msgpack, and what comes out of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from libstream.ext import (
    Announced,
    DataShape,
    FramePart,
    RunHeader,
    Skipped,
    SourceId,
    SourceMeta,
    wire,
)
from libstream.io_backends.streams._sectors_wire import SectorsDecoder

msgpack = pytest.importorskip("msgpack")

_Arr = np.ndarray[Any, Any]


def header(scan: int, frame: int, module: int, *, columns: int = 3, rows: int = 2, x: int | None = None, y: int | None = None,
           thread: int = 0, threads: int | None = None) -> bytes:  # fmt: skip
    """A header as the senders pack it: 8 numbers, or 9 with `threads`."""
    x, y = frame % columns if x is None else x, frame // columns if y is None else y
    return msgpack.packb([scan, frame, *([] if threads is None else [threads]), columns, rows, x, y, thread, module])


def frames_like(n: int, side: int = 16) -> _Arr:
    return np.random.default_rng(n).integers(0, 65536, (n, side, side), dtype=np.uint16)


def messages(frames: _Arr, scan: int = 7, **more: Any) -> list[list[bytes]]:
    """All sectors of all frames, frame by frame."""
    per = frames.shape[1] // 4
    return [
        [header(scan, i, m, **more), f[m * per : (m + 1) * per].astype("<u2").tobytes()] for i, f in enumerate(frames) for m in range(4)
    ]  # fmt: skip


class Assembled:
    """What comes out of messages: headers, announcements, notes, and frames from their sectors."""

    def __init__(self, decoder: SectorsDecoder | None = None) -> None:
        self.decoder = decoder or SectorsDecoder()
        self.headers: list[RunHeader] = []
        self.announced: list[Announced] = []
        self.skipped: list[str] = []
        self.parts: dict[tuple[Any, int], dict[int, _Arr]] = {}

    def take(self, sent: list[list[bytes]]) -> Assembled:
        for parts in sent:
            for event in self.decoder.feed([memoryview(p) for p in parts]):
                if isinstance(event, RunHeader):
                    self.headers.append(event)
                elif isinstance(event, Announced):
                    self.announced.append(event)
                elif isinstance(event, Skipped):
                    self.skipped.append(event.what)
                else:
                    self.parts.setdefault((event.run, event.number), {})[event.sector] = self.pixels(event, parts[event.part])
        return self

    @staticmethod
    def pixels(part: FramePart, data: bytes) -> _Arr:
        out = np.zeros(part.shape[0] * part.shape[1] * 2, np.uint8)
        assert wire.decode(part.codec, part.shape, part.dtype, np.frombuffer(data, np.uint8), [part.start], [part.stop], out, [0]).all()
        return out.view(np.uint16).reshape(part.shape)

    def frame(self, run: int, number: int) -> _Arr:
        sectors = self.parts[run, number]
        assert sorted(sectors) == [0, 1, 2, 3]
        return np.concatenate([sectors[i] for i in range(4)])


def meta_of(frames: _Arr, nav: tuple[int, ...]) -> SourceMeta:
    return SourceMeta(SourceId("test", "test", 0), DataShape(nav, frames.shape[-2:]), frames.dtype)
