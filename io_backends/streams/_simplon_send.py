"""A simulated DECTRIS detector that others arm, trigger and abort: libstream's own controller, LiberTEM-live, a browser.

The header waits for `arm`; frames wait for triggers where the trigger mode is ints or inte; after disarm, cancel or abort the series
ends early. What will be asked for is known only when a message is due, and replay makes messages long before that. So `DcuEncoder`
makes drafts (the pixels, and what they are), and `DcuTransport.send` waits, encodes them as they were asked for, and sends.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from libstream.ext import Encoder, Outgoing, Parts, Received, SourceMeta, Transport
from libstream.io_backends.streams._simplon import Handler, Server, SimulatedDcu

_Arr = np.ndarray[Any, Any]


class _Draft(bytes):
    """The first part of a message that is to be made: "begin", "frame" or "end"."""

    meta: SourceMeta
    number: int
    channels: tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]


class _Pixels(bytes):
    """Pixels of a draft. A part that is of another type was damaged on purpose."""


class DcuEncoder(Encoder):
    """Drafts of messages, for `DcuTransport`."""

    def __init__(self, dcu: SimulatedDcu) -> None:
        self._dcu = dcu

    def begin(self, meta: SourceMeta, run: int) -> Iterable[Outgoing]:
        """See `Encoder`; the series will have the number that `arm` answers, not `run`."""
        draft = _Draft(b"begin")
        draft.meta = meta
        self._dcu.describe(meta)
        return [Outgoing([draft])]

    def frame(self, number: int, frames: Mapping[str, _Arr]) -> Iterable[Outgoing]:
        """See `Encoder`."""
        draft = _Draft(b"frame")
        draft.number, draft.channels = number, tuple((name, f.shape, f.dtype) for name, f in frames.items())
        return [Outgoing([draft, *(_Pixels(f.tobytes()) for f in frames.values())], number=number)]

    def end(self) -> Iterable[Outgoing]:
        """See `Encoder`."""
        return [Outgoing([_Draft(b"end")])]


class DcuTransport(Transport):
    """The stream's transport, which also serves the REST interface while it is open.

    make: an encoder from the configuration of the detector and of the stream, as it was when the series was armed.
    api_address: (host, port) in use after `open`.
    """

    def __init__(
        self, stream: Transport, dcu: SimulatedDcu, make: Callable[[Mapping[str, Any], Mapping[str, Any]], Encoder], host: str, port: int
    ) -> None:  # fmt: skip
        self._stream, self._dcu, self._make, self.api_address = stream, dcu, make, (host, port)
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._encoder: Encoder | None = None
        self._each, self._n, self._waits = 1, 0, False
        self._made: deque[Outgoing] = deque()
        self._taken: Any = None

    @property
    def address(self) -> str:
        """See `Transport`."""
        return self._stream.address

    def open(self) -> None:
        """See `Transport`."""
        handler = type("OfThisUnit", (Handler,), {"dcu": self._dcu})
        host, port = self.api_address
        try:
            self._server = Server((host, port), handler)
        except OSError as exc:
            raise OSError(
                f"cannot serve the REST interface at {host}:{port}: {exc}. Choose another port with ?api=, 0 for a free one"
            ) from exc
        self.api_address = (host, int(self._server.server_address[1]))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="libstream-dcu", daemon=True)
        self._thread.start()
        try:
            self._stream.open()
        except BaseException:
            self.close()
            raise

    def receive(self, into: _Arr, table: _Arr, timeout_s: float, max_bytes: int) -> Received:
        """See `Transport`."""
        return self._stream.receive(into, table, timeout_s, max_bytes)

    def send(self, parts: Parts, timeout_s: float, lane: int = 0) -> bool:
        """See `Transport`; False too while nobody arms or triggers. Frames of a series that was ended are dropped."""
        draft = parts[0]
        if type(draft) is not _Draft:
            return self._stream.send(parts, timeout_s, lane)
        if self._taken is not draft:
            made = self._messages(draft, parts[1:], timeout_s)
            if made is None:
                return False
            self._made.extend(made)
            self._taken = draft  # what is left of it goes out when it is offered again
        while self._made:
            if not self._stream.send(self._made[0].parts, timeout_s):
                return False
            self._made.popleft()
        self._taken = None
        if self._encoder is None:
            self._dcu.over()
        return True

    def _messages(self, draft: _Draft, pixels: Parts, timeout_s: float) -> Iterable[Outgoing] | None:
        """What is to be sent; None where it is not the time yet."""
        if draft == b"begin":
            self._dcu.over()
            self._encoder = None
            armed = self._dcu.wait_armed(timeout_s)
            if armed is None:
                return None
            series, detector, stream = armed
            self._encoder = self._make(detector, stream)
            mode, images = detector["trigger_mode"], detector["nimages"]
            self._waits, self._each = mode in ("ints", "inte"), images if mode in ("ints", "exts") else 1
            self._n = detector["ntrigger"] * self._each
            return self._encoder.begin(draft.meta, series)
        encoder = self._encoder
        if encoder is None or (draft == b"frame" and draft.number >= self._n):
            return ()
        if draft == b"frame":
            triggered = self._dcu.wait_trigger(draft.number // self._each + 1 if self._waits else 0, timeout_s)
            if triggered is None:
                return None
            if triggered:
                return self._frame(encoder, draft, pixels)
        self._encoder = None
        return encoder.end()

    def _frame(self, encoder: Encoder, draft: _Draft, pixels: Parts) -> Iterable[Outgoing]:
        frames = {}
        for (name, shape, dtype), part in zip(draft.channels, pixels, strict=True):
            size = math.prod(shape) * dtype.itemsize
            frames[name] = np.frombuffer(bytes(part[:size]).ljust(size, b"\0"), dtype).reshape(shape)
        for out in encoder.frame(draft.number, frames):
            yield out if all(type(p) is _Pixels for p in pixels) else _damaged(out)

    def close(self) -> None:
        """See `Transport`."""
        self._dcu.close()
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()
        self._stream.close()


def _damaged(out: Outgoing) -> Outgoing:
    """The middle of the largest part overwritten, as replay does it to messages that are ready."""
    parts = [bytearray(p) for p in out.parts]
    part = max(parts, key=len)
    part[len(part) * 3 // 8 : len(part) * 5 // 8] = b"\xff" * (len(part) * 5 // 8 - len(part) * 3 // 8)
    return out._replace(parts=[bytes(p) for p in parts])
