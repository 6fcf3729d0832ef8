"""Merlin of Quantum Detectors (Medipix3), over its TCP data port, and its control port where that is wanted.

merlin://host:6342 receives whatever the detector acquires; merlin://host:6342?control=6341 can arm and trigger it, too.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from libstream.ext import Decoder, Detector, Encoder, Parts, Received, StreamUrl, Transport, UsageError
from libstream.io_backends.streams._framing import UNKNOWN
from libstream.io_backends.streams._merlin_decode import PREFIX, MerlinDecoder
from libstream.io_backends.streams._merlin_encode import MerlinEncoder

DATA_PORT = 6342
CONTROL_PORT = 6341

_START = re.compile(rb"MPX,(\d{10}),")
_ANY_START = re.compile(rb"MPX,(\d{10}),(?=HDR,|MQ1,)")
_UNSURE = PREFIX + 3
"""Bytes at the end of garbage that may be the beginning of a message."""
_BELIEVED = 64 << 20
"""A message that states more is not waited for, to see whether another one begins in it."""
MPX, HDR, MQ1 = b"MPX,", b"HDR,", b"MQ1,"


class MerlinFraming:
    """Messages out of the bytes of the connection: `MPX,`, ten digits, a comma, and what they count. See `Framing`.

    All frames of an acquisition have one length. Once two of them had it, it is a second opinion: where a frame states another
    length, that one is believed after which the stream goes on. Any message ends where the next one begins, whatever length it states.
    So a damaged, lying or cut off message costs no good one.
    """

    def __init__(self) -> None:
        self._last = self._usual = 0

    def cut(self, data: memoryview) -> tuple[int, int]:
        """The next message, with its prefix unless that is wrong."""
        found = _START.match(data) or _ANY_START.search(data)
        if found is None:
            return max(0, len(data) - _UNSURE), UNKNOWN
        begin, start = found.start(), found.end()
        size = int(found[1]) - 1
        if size == self._usual and size:
            return self._as_usual(data, begin, start)
        kind = bytes(data[start : start + 4])
        if len(kind) < 4:
            return begin, UNKNOWN
        if kind == HDR:
            self.reset()
        elif kind == MQ1 and self._usual and bytes(data[start + size : start + size + 4]) != MPX:
            after = bytes(data[start + self._usual : start + self._usual + 4])
            if after == MPX:
                return start, start + self._usual
            if len(after) < 4:
                return begin, UNKNOWN
        stop = start + max(size, 0)
        if bytes(data[stop : stop + 4]) != MPX:
            inside = _ANY_START.search(data, start, stop + _UNSURE)
            if inside is not None and inside.start() < stop:
                return begin, inside.start()
            if len(data) < stop and size <= _BELIEVED:
                return begin, UNKNOWN
        if kind == MQ1 and size <= _BELIEVED:
            if size == self._last:
                self._usual = size
            self._last = size
        return begin, stop

    def _as_usual(self, data: memoryview, begin: int, start: int) -> tuple[int, int]:
        """A message that states the length of all frames."""
        stop = start + self._usual
        if len(data) < stop:
            return begin, UNKNOWN
        after = bytes(data[stop : stop + 4])
        if not MPX.startswith(after):
            inside = _ANY_START.search(data, start, stop + _UNSURE)
            if inside is not None:
                stop = inside.start()
        return begin, stop

    def reset(self) -> None:
        """Nothing is known of the lengths of frames."""
        self._last = self._usual = 0


class Merlin:
    """The detector's kind. See `DetectorKind`."""

    name: ClassVar[str] = "merlin"
    hint: ClassVar[str] = "merlin://192.168.0.10:6342"

    def receiver(self, url: StreamUrl, **options: Any) -> Detector:
        """Options: bind, control (port of the control connection), counters (1 or 2 images of each exposure)."""
        from libstream.io_backends.streams._merlin_control import MerlinControl
        from libstream.io_backends.streams._tcp import TcpTransport

        url, port, decoder = self._parsed(url, options)
        transport = TcpTransport(url.host, port, listen=url.flag("bind", False), framing=MerlinFraming())
        control = url.number("control")
        controller = None if control is None else MerlinControl(url.host, control)
        return Detector(self.name, transport, decoder, controller=controller)

    def decoder(self, url: StreamUrl, **options: Any) -> Decoder:
        """Options as for `receiver`."""
        made: Decoder = self._parsed(url, options)[2]()
        return made

    def _parsed(self, url: StreamUrl, options: dict[str, Any]) -> tuple[StreamUrl, int, Any]:
        url = with_options(url, options)
        url.only("bind", "control", "counters")
        counters = url.number("counters", 0) or 0
        if counters not in (0, 1, 2):
            raise UsageError(f"{url.text}: counters is 1 or 2 (images of each exposure), got {counters}")
        return url, _port(url), partial(MerlinDecoder, counters)

    def sender(self, url: StreamUrl, **options: Any) -> tuple[Transport, Encoder]:
        """Options: bind, control (port at which a client starts and stops what is sent), pixels (U01 U08 U16 U32 U64 R64), depth
        (of R64), chips (1x1 2x2 2x2G), garbage (bytes before the first header)."""
        from libstream.io_backends.streams._tcp import TcpTransport

        url = with_options(url, options)
        url.only("bind", "control", "pixels", "depth", "chips", "garbage")
        query = url.query
        encoder = MerlinEncoder(
            query.get("pixels", ""), url.number("depth", 12) or 0, query.get("chips", "1x1"), url.number("garbage", 0) or 0
        )  # fmt: skip
        transport = TcpTransport(url.host, _port(url), listen=url.flag("bind", True))
        control = url.number("control")
        if control is None:
            return transport, encoder
        from libstream.io_backends.streams._merlin_simulated import ControlServer

        server = ControlServer(url.host, control)
        encoder.control = server
        return StartedByControl(transport, server), encoder


class StartedByControl:
    """A `Transport` that sends when a client of the control port has started the acquisition, and stops when it says so."""

    def __init__(self, data: Transport, server: Any) -> None:
        self.data, self.server = data, server

    def open(self) -> None:
        """Listen at both ports."""
        self.server.open()
        try:
            self.data.open()
        except BaseException:
            self.server.close()
            raise

    @property
    def address(self) -> str:
        """Both addresses, the data port's first."""
        return f"{self.data.address},{self.server.address}"

    def receive(self, into: Any, table: Any, timeout_s: float, max_bytes: int) -> Received:
        """Not on the sending side."""
        return self.data.receive(into, table, timeout_s, max_bytes)

    def send(self, parts: Parts, timeout_s: float, lane: int = 0) -> bool:
        """False while the acquisition is not started. After a stop frames are thrown away: on this port nobody sees a stop."""
        what = bytes(parts[0][PREFIX : PREFIX + 4])
        if what == HDR and not self.server.wait_started(timeout_s):
            return False
        if what == MQ1 and not self.server.wait_triggered(timeout_s):
            return bool(self.server.stopped)
        sent = self.data.send(parts, timeout_s, lane)
        if sent and what == HDR:
            found = re.search(rb"Frames in Acquisition[^:]*:\s*(\d{1,12})", parts[0])
            self.server.begun(int(found[1]) if found else 0)
        elif sent and what == MQ1:
            number = bytes(parts[0][PREFIX + 4 : PREFIX + 14]).split(b",")[0]
            self.server.sent(int(number) if number.isdigit() else 0)
        return sent

    def close(self) -> None:
        """Close both ports."""
        self.data.close()
        self.server.close()


def with_options(url: StreamUrl, options: dict[str, Any]) -> StreamUrl:
    """The address with keyword arguments in place of, or beside, those of its query."""
    more = {key: str(int(value)) if isinstance(value, bool) else str(value) for key, value in options.items() if value is not None}
    return replace(url, query={**url.query, **more})


def _port(url: StreamUrl) -> int:
    if len(url.ports) > 1:
        raise UsageError(f"{url.text}: the data port of a Merlin is one port, usually {DATA_PORT}, got {len(url.ports)}")
    return url.ports[0] if url.ports else DATA_PORT
