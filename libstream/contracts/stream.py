"""Where live frames come from: transports move bytes, decoders turn them into events, both know nothing of each other.

A plug-in for a detector is one class with two methods, `receiver` and `sender`, registered as an entry point
`libstream.detectors` under the scheme of its addresses ("dectris" for dectris://host:port). Everything else (placing frames by
their number, gaps, duplicates, late frames, memory, back-pressure, recording, running UDFs) happens outside of it, in `live`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from libstream.errors import UsageError
from libstream.model.source import SourceMeta

_Arr = np.ndarray[Any, Any]

Parts = Sequence[Any]
"""One message: its parts, bytes-like. A transport without parts (TCP) gives one."""


# -- events: what a decoder makes of messages -----------------------------------------------------------------------------


class RunHeader(NamedTuple):
    """A run (series, scan, acquisition) begins.

    run: how the detector numbers it; frames of this run carry the same value.
    n_frames: announced number of frames; None where it is not known or endless.
    scan: shape of the scan (y, x) where the stream says it.
    frame, dtype: shape (y, x) and dtype of frames where the header says them; the first frame decides.
    channels: names in the detector's order; () where only frames say them.
    frame_time_s: time from frame to frame, for the stall timeout.
    meta: vendor metadata, plain values only. notes: sentences for the user.
    axes: calibration by axis name: {"ky": (step, unit), ...} where the stream has it.
    """

    run: int | str
    n_frames: int | None = None
    scan: tuple[int, ...] | None = None
    frame: tuple[int, int] | None = None
    dtype: str | None = None
    channels: tuple[str, ...] = ()
    frame_time_s: float | None = None
    meta: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()
    axes: Mapping[str, tuple[float, str]] = {}


class FramePart(NamedTuple):
    """The pixels of a frame, or of one sector or channel of it.

    number: from 0, counts frames of the run; where the detector counts from 1 the decoder subtracts.
    part, start, stop: bytes [start, stop) of part `part` of the message hold the pixels, encoded with `codec`.
    codec: see `libstream.codecs.wire`. shape, dtype: of the decoded pixels of this part (of the sector where there are sectors).
    sector: place among `Detector.sectors`, from the top. channel: index into `RunHeader.channels`.
    t_ns: the detector's time stamp, 0 where it has none.
    """

    run: int | str
    number: int
    part: int
    start: int
    stop: int
    codec: str
    shape: tuple[int, int]
    dtype: str
    sector: int = 0
    channel: int = 0
    t_ns: int = 0


class Announced(NamedTuple):
    """A sender says how many frame parts (sectors) it will deliver in this run: the run is over when all of all senders came."""

    run: int | str
    sender: int
    n_parts: int


class RunEnd(NamedTuple):
    """The detector says that the run is over. reason: "" for the regular end, else in words ("aborted")."""

    run: int | str
    n_frames: int | None = None
    reason: str = ""


class Skipped(NamedTuple):
    """A message, or a part of it, that is well-formed and of no interest (heartbeat, unknown type). what: in words."""

    what: str


Event = RunHeader | FramePart | Announced | RunEnd | Skipped


class Decoder(Protocol):
    """Bytes -> events. No I/O; all state is inside the object; never keeps a reference to the parts it was given.

    has_end: the protocol marks the end of a run (a run without end mark is over as soon as all its frames were seen).
    """

    has_end: bool

    def feed(self, parts: Parts) -> Iterable[Event]:
        """Events of one message, in order. Raises WireError for anything that is not what the protocol allows; the decoder
        stays usable, and understands the next good message. Never raises anything else, never allocates what the wire announces."""


# -- transports -----------------------------------------------------------------------------------------------------------


class Received(NamedTuple):
    """What `Transport.receive` did.

    messages: number of messages; their parts are the first `rows` rows of the table.
    used: bytes of the buffer that are taken. full: the next message did not fit into the rest; it is kept and comes first next time.
    dropped: messages larger than the largest allowed one, which were thrown away.
    closed: the peer closed the connection (transports that notice; they connect again by themselves).
    lane: index of the socket of each message where there are several, else None.
    """

    messages: int
    rows: int
    used: int
    full: bool = False
    dropped: int = 0
    closed: bool = False
    lane: _Arr | None = None


class Transport(Protocol):
    """Moves messages; knows no detector. Used by one thread after `open`. Connects again by itself, forever."""

    def open(self) -> None:
        """Bind or connect. Raises OSError naming the address and what to do. A connecting side does not wait for its peer."""

    @property
    def address(self) -> str:
        """The address in use; ports that were given as 0 are the real ones after `open`."""

    def receive(self, into: _Arr, table: _Arr, timeout_s: float, max_bytes: int) -> Received:
        """Copy whole messages into `into` (uint8, writeable) until it is full, the table is full, or the wire is silent.

        table: int64 (k, 3), a row for each part: number of the message in this call, offset in `into`, length.
        Waits at most `timeout_s` for the first message, then takes what is there (and lingers about 2 ms for more).
        max_bytes: larger messages are thrown away and counted. Messages come whole or not at all.
        Raises OSError where the connection cannot be had at all (the caller reports it and tries again).
        """

    def send(self, parts: Parts, timeout_s: float, lane: int = 0) -> bool:
        """Send one message; False where the peer took nothing within `timeout_s` (nobody connected, or it does not keep up)."""

    def close(self) -> None:
        """Close sockets at once (what is unsent is given up after a second). Idempotent, callable from another thread."""


# -- the other way: for replay ------------------------------------------------------------------------------------------


class Outgoing(NamedTuple):
    """A message to send. lane: which socket. number: frame in it, None for other messages (they are never lost on purpose)."""

    parts: Parts
    lane: int = 0
    number: int | None = None


class Encoder(Protocol):
    """Frames -> messages; the inverse of a decoder."""

    def begin(self, meta: SourceMeta, run: int) -> Iterable[Outgoing]:
        """Messages that start a run over a source: meta.shape (nav, sig), dtype, channels."""

    def frame(self, number: int, frames: Mapping[str, _Arr]) -> Iterable[Outgoing]:
        """Messages of frame `number` (from 0); frames: (y, x) array by channel name."""

    def end(self) -> Iterable[Outgoing]:
        """Messages that end the run."""


class Controller(Protocol):
    """Commands to a detector beside its stream. All raise OSError (unreachable) or UsageError (refused), with the reply."""

    def arm(self, **settings: Any) -> int | str | None:
        """Apply settings, arm. Returns the number of the run that will come where the detector says it."""

    def trigger(self) -> None:
        """Start the armed acquisition (software trigger)."""

    def disarm(self) -> None:
        """Stop, go back to idle."""

    def status(self) -> Mapping[str, Any]:
        """What the detector says of itself."""

    def close(self) -> None:
        """Release connections."""


# -- detectors ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StreamUrl:
    """`scheme://host:port-port2?key=value`, taken apart. ports: all of a range, () where none is given."""

    text: str
    scheme: str
    host: str
    ports: tuple[int, ...]
    query: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> StreamUrl:
        """Raises UsageError saying what is wrong with an address."""
        scheme, sep, rest = text.partition("://")
        if not sep or not scheme:
            raise UsageError(f"{text!r} is no address of a stream; one looks like dectris://host:9999 or libstream://host:port")
        split = urlsplit(f"//{rest}")
        host, ports = split.netloc, ""
        if ":" in host and not host.endswith("]"):
            host, _, ports = host.rpartition(":")
        try:
            first, _, last = ports.partition("-")
            numbers = tuple(range(int(first), int(last or first) + 1)) if ports else ()
        except ValueError:
            raise UsageError(f"{text!r}: {ports!r} is no port; expected a number or a range such as 6001-6004") from None
        if any(not 0 <= p <= 65535 for p in numbers) or (ports and not numbers) or len(numbers) > 64:
            raise UsageError(f"{text!r}: ports are 0 to 65535, at most 64 of them in rising order, got {ports!r}")
        return cls(text, scheme, host or "127.0.0.1", numbers, dict(parse_qsl(split.query, keep_blank_values=True)))

    def flag(self, name: str, default: bool) -> bool:
        """A 0/1 of the query."""
        value = self.query.get(name, str(int(default)))
        if value not in ("0", "1"):
            raise UsageError(f"{self.text}: {name} is 0 or 1, got {value!r}")
        return value == "1"

    def number(self, name: str, default: int | None = None) -> int | None:
        """A whole number of the query."""
        value = self.query.get(name)
        if value is None:
            return default
        if not value.isdigit():
            raise UsageError(f"{self.text}: {name} is a whole number, got {value!r}")
        return int(value)

    def only(self, *known: str) -> None:
        """Raise UsageError where the query has other keys than these."""
        for key in self.query:
            if key not in known:
                raise UsageError(f"{self.text}: unknown option {key!r}; {self.scheme} takes {', '.join(known) or 'none'}")


@dataclass(frozen=True)
class Detector:
    """The receiving side of one detector, ready to open.

    sectors: parts of a frame, stacked from the top (1 = whole frames). n_senders: independent senders of one run.
    make_decoder: a fresh decoder (after a reconnect, for a recording). controller: None where there is none.
    """

    name: str
    transport: Transport
    make_decoder: Any
    sectors: int = 1
    n_senders: int = 1
    controller: Controller | None = None


class DetectorKind(Protocol):
    """A kind of detector, found by the scheme of its addresses. Its class is the entry point.

    name: the scheme. hint: an example address, shown in help texts.
    """

    name: ClassVar[str]
    hint: ClassVar[str]

    def receiver(self, url: StreamUrl, **options: Any) -> Detector:
        """The receiving side for an address. Raises UsageError for a bad address or option, NotInstalledError for missing packages."""

    def decoder(self, url: StreamUrl, **options: Any) -> Decoder:
        """A decoder alone, without sockets: recordings are read with it."""

    def sender(self, url: StreamUrl, **options: Any) -> tuple[Transport, Encoder]:
        """The sending side: what replay and simulators use."""
