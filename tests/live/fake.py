"""A detector for tests whose wire is a queue in memory: JSON and raw pixels."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from libstream.contracts.stream import Detector, FramePart, Outgoing, Received, RunEnd, RunHeader, StreamUrl
from libstream.errors import WireError
from libstream.model.source import SourceMeta

LINES: dict[str, queue.Queue[tuple[tuple[bytes, ...], int]]] = {}
"""Messages underway, by host."""


class Line:
    """Both ends of a wire."""

    def __init__(self, host: str, room: int = 0) -> None:
        self.queue = LINES.setdefault(host, queue.Queue(room))
        self.address = f"fake://{host}"
        self.closed = False
        self.held: tuple[tuple[bytes, ...], int] | None = None

    def open(self) -> None:
        """Nothing to do."""

    def send(self, parts: Any, timeout_s: float, lane: int = 0) -> bool:
        """Put a message."""
        try:
            self.queue.put((tuple(bytes(p) for p in parts), lane), timeout=timeout_s)
        except queue.Full:
            return False
        return True

    def receive(self, into: np.ndarray, table: np.ndarray, timeout_s: float, max_bytes: int) -> Received:
        """Take messages."""
        messages = rows = used = 0
        until = time.monotonic() + timeout_s
        while rows < len(table) - 8:
            if self.held is None:
                try:
                    self.held = self.queue.get(timeout=0 if messages else max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
            parts, _ = self.held
            if used + sum(map(len, parts)) > len(into):
                return Received(messages, rows, used, full=True)
            for part in parts:
                into[used : used + len(part)] = np.frombuffer(part, np.uint8)
                table[rows] = messages, used, len(part)
                rows, used = rows + 1, used + len(part)
            messages, self.held = messages + 1, None
        return Received(messages, rows, used)

    def close(self) -> None:
        """Gone."""
        self.closed = True


class FakeDecoder:
    """JSON -> events."""

    has_end = True

    def feed(self, parts: Any) -> Iterator[Any]:
        """See `Decoder`."""
        try:
            say = json.loads(bytes(parts[0]))
            what, run = say["t"], say["run"]
            if what == "begin":
                scan = None if say["scan"] is None else tuple(say["scan"])
                return iter([RunHeader(run, say["n"], scan, channels=tuple(say.get("channels", ())), meta={"voltage": 80})])
            if what == "end":
                return iter([RunEnd(run, say["n"])])
            size = len(parts[1])
            shape, dtype = tuple(say["shape"]), say["dtype"]
            sector, channel = say.get("sector", 0), say.get("channel", 0)
            return iter([FramePart(run, say["k"], 1, 0, size, say.get("codec", "raw<"), shape, dtype, sector, channel)])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
            raise WireError(f"not a message of the fake detector: {exc!r}") from exc


class FakeEncoder:
    """Frames -> JSON and pixels, in `sectors` parts."""

    def __init__(self, sectors: int = 1) -> None:
        self.sectors = sectors

    def begin(self, meta: SourceMeta, run: int) -> Iterator[Outgoing]:
        """See `Encoder`."""
        self.meta, self.run = meta, run
        self.n = meta.shape.n_positions
        channels = list(meta.channels) if len(meta.channels) > 1 else []
        yield _say({"t": "begin", "run": run, "n": self.n, "scan": list(meta.shape.nav), "channels": channels})

    def frame(self, number: int, frames: Mapping[str, np.ndarray]) -> Iterator[Outgoing]:
        """See `Encoder`."""
        for channel, frame in enumerate(frames.values()):
            height = frame.shape[0] // self.sectors
            for s in range(self.sectors):
                part = np.ascontiguousarray(frame[s * height : (s + 1) * height])
                where = {"t": "f", "run": self.run, "k": number, "sector": s, "channel": channel}
                yield _say({**where, "shape": part.shape, "dtype": str(part.dtype)}, part.tobytes(), number=number)

    def end(self) -> Iterator[Outgoing]:
        """See `Encoder`."""
        yield _say({"t": "end", "run": self.run, "n": self.n})


def _say(value: Any, *more: bytes, number: int | None = None) -> Outgoing:
    return Outgoing((json.dumps(value).encode(), *more), number=number)


class FakeKind:
    """`fake://name?sectors=2`."""

    name: ClassVar[str] = "fake"
    hint: ClassVar[str] = "fake://name"

    def receiver(self, url: StreamUrl, **options: Any) -> Detector:
        """The receiving end."""
        return Detector("fake", Line(url.host), FakeDecoder, sectors=url.number("sectors", 1) or 1)

    def decoder(self, url: StreamUrl, **options: Any) -> FakeDecoder:
        """A decoder."""
        return FakeDecoder()

    def sender(self, url: StreamUrl, **options: Any) -> tuple[Line, FakeEncoder]:
        """The sending end."""
        return Line(url.host), FakeEncoder(url.number("sectors", 1) or 1)
