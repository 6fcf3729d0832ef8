"""A detector in memory, for tests of live sources: messages of a tiny protocol, sent by the test, without sockets.

wire = Wire()
live = memory_source(wire, scan=(4, 4))
wire.header(1, 16); wire.frames(1, frames); wire.end(1)
"""

from __future__ import annotations

import json
import queue
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from libstream.contracts.stream import Announced, Detector, Event, FramePart, Parts, Received, RunEnd, RunHeader
from libstream.errors import WireError
from libstream.live.source import LiveSource

_Arr = np.ndarray[Any, Any]
_FRAME = struct.Struct("<4siiiiii8s")


class Wire:
    """A transport in memory, and the sending end of it. sectors, channels: of every frame that `frames` sends."""

    def __init__(self, *, sectors: int = 1, channels: Sequence[str] = ("frames",)) -> None:
        self.sectors, self.channels = sectors, tuple(channels)
        self._queue: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
        self._held: list[bytes] | None = None
        self.address = "memory"
        self.n_received = 0

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, *parts: bytes) -> None:
        """Any message."""
        self._queue.put([bytes(p) for p in parts])

    def header(self, run: int, n_frames: int | None, **more: Any) -> None:
        """Announce a run. more: further fields of `RunHeader`."""
        self.send(b"HEAD" + json.dumps({"run": run, "n_frames": n_frames, "channels": self.channels, **more}).encode())

    def frame(self, run: int, number: int, frame: _Arr, *, sector: int = 0, channel: int = 0, codec: str = "raw<", cut: int = 0) -> None:
        """One frame, or sector of one. cut: bytes that are missing at its end."""
        data = np.ascontiguousarray(frame).tobytes()
        self.payload(run, number, data[: len(data) - cut], frame.shape, frame.dtype.str[1:], codec, sector=sector, channel=channel)

    def payload(
        self, run: int, number: int, data: bytes, shape: tuple[int, ...], dtype: str, codec: str, *, sector: int = 0, channel: int = 0
    ) -> None:
        """One frame, or sector of one, as it comes out of an encoder. dtype: such as "u2"."""
        self.send(_FRAME.pack(b"FRAM", run, number, sector, channel, *shape, dtype.encode()) + codec.encode(), data)

    def frames(self, run: int, frames: _Arr, numbers: Iterable[int] | None = None) -> None:
        """Frames (n, y, x) with their numbers (default: in order), each in all sectors and channels."""
        for number in range(len(frames)) if numbers is None else numbers:
            for c in range(len(self.channels)):
                for s, part in enumerate(np.split(frames[number] + c, self.sectors)):
                    self.frame(run, number, part.astype(frames.dtype), sector=s, channel=c)

    def announce(self, run: int, sender: int, n_parts: int) -> None:
        """A sender says how much it will deliver."""
        self.send(b"ANNO" + struct.pack("<iii", run, sender, n_parts))

    def end(self, run: int, reason: str = "") -> None:
        """End a run."""
        self.send(b"ENDS" + struct.pack("<i", run) + reason.encode())

    def hang_up(self) -> None:
        """Close the connection."""
        self._queue.put(None)

    @property
    def waiting(self) -> int:
        """Messages that were sent and not received."""
        return self._queue.qsize() + (self._held is not None)

    # -- the transport -----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Nothing to open."""

    def receive(self, into: _Arr, table: _Arr, timeout_s: float, max_bytes: int) -> Received:
        """See `Transport`."""
        n = rows = used = dropped = 0
        while True:
            if self._held is None:
                try:
                    parts = self._queue.get(timeout=timeout_s) if not n and not dropped else self._queue.get_nowait()
                except queue.Empty:
                    break
                if parts is None:
                    return Received(n, rows, used, dropped=dropped, closed=True)
            else:
                parts, self._held = self._held, None
            size = sum(map(len, parts))
            if size > max_bytes:
                dropped += 1
                continue
            if used + size > len(into) or rows + len(parts) > len(table):
                self._held = parts
                return Received(n, rows, used, full=True, dropped=dropped)
            for part in parts:
                into[used : used + len(part)] = np.frombuffer(part, np.uint8)
                table[rows] = n, used, len(part)
                rows, used = rows + 1, used + len(part)
            n += 1
            self.n_received += 1
        return Received(n, rows, used, dropped=dropped)

    def send_parts(self, parts: Parts) -> bool:
        """Whole messages, as an encoder makes them."""
        self.send(*parts)
        return True

    def close(self) -> None:
        """Nothing to close."""


class WireDecoder:
    """The decoder of that protocol."""

    def __init__(self, *, has_end: bool = True) -> None:
        self.has_end = has_end

    def feed(self, parts: Parts) -> Iterable[Event]:
        """See `Decoder`."""
        head = bytes(parts[0][:4])
        rest = parts[0][4:]
        try:
            if head == b"FRAM":
                _, run, number, sector, channel, y, x, dtype = _FRAME.unpack(parts[0][: _FRAME.size])
                codec = bytes(parts[0][_FRAME.size :]).decode()
                name = np.dtype(dtype.rstrip(b"\0").decode()).name
                return (FramePart(run, number, 1, 0, len(parts[1]), codec, (y, x), name, sector, channel),)
            if head == b"HEAD":
                values = json.loads(bytes(rest))
                for name in ("scan", "frame", "channels", "notes"):
                    if values.get(name) is not None:
                        values[name] = tuple(values[name])
                if type(values["run"]) is not int or type(values["n_frames"]) not in (int, type(None)):
                    raise ValueError("run and n_frames are whole numbers")
                return (RunHeader(**values),)
            if head == b"ANNO":
                return (Announced(*struct.unpack("<iii", rest)),)
            if head == b"ENDS":
                return (RunEnd(struct.unpack("<i", rest[:4])[0], None, bytes(rest[4:]).decode()),)
        except (struct.error, ValueError, TypeError, IndexError, KeyError) as exc:
            raise WireError(f"a message that begins with {head!r}: {exc}") from exc
        raise WireError(f"a message that begins with {head!r}")


def memory_source(wire: Wire, *, has_end: bool = True, n_senders: int = 1, ring_bytes: int = 8 << 20, **options: Any) -> LiveSource:
    """A live source over a `Wire`. options: as for `ls.connect`."""
    detector = Detector("memory", wire, lambda: WireDecoder(has_end=has_end), wire.sectors, n_senders)  # type: ignore[arg-type]
    order = {
        "order": options.pop("order", "raster"), "flyback": options.pop("flyback", 0),
        "frames_per_position": options.pop("frames_per_position", 1), "positions": options.pop("positions", None),
    }  # fmt: skip
    settings: dict[str, Any] = {
        "scan": None, "shape_hook": None, "max_message_bytes": None, "policy": "block", "stall_timeout_s": None, "describe": lambda m: m,
        "recorder": None,
    }  # fmt: skip
    return LiveSource(detector, "memory://", order=order, ring_bytes=ring_bytes, **{**settings, **options})
