"""Messages of the 4D Camera's receivers: a MessagePack header of 8 or 9 numbers and the pixels of a sector; and what of them matters.

Only what these messages hold is read: arrays and maps of whole numbers. Nothing is allocated by what a message announces.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from libstream.ext import Announced, Event, FramePart, Outgoing, Parts, RunHeader, Skipped, SourceMeta, UsageError, WireError

_Arr = np.ndarray[Any, Any]

SECTORS = 4
"""Sectors of a frame, from the top; each comes from a receiver of its own."""
MAX_SIDE = 65536
"""More rows of a scan, or positions in a row, are not possible."""
_MAX_HEADER = 96
_MAX_INFO = 4096
_MAX_SENDERS = 64
_MAX_FRAME = 1 << 48
_MAX_KNOWN = 16
"""Scans that are remembered."""


class Header(NamedTuple):
    """Header of a sector. threads: frames that this thread of the sender will deliver, -1 where the header has eight numbers.

    columns, rows: positions in a row of the scan, and rows. x, y: where the frame was taken. module: which sector.
    """

    scan: int
    frame: int
    threads: int
    columns: int
    rows: int
    x: int
    y: int
    thread: int
    module: int


class _Scan:
    """A scan that has begun. sector: shape. announced: announcements so far. noted: it was said that frames are elsewhere."""

    __slots__ = ("announced", "columns", "n_bytes", "noted", "number", "rows", "sector")

    def __init__(self, number: int, columns: int, rows: int, sector: tuple[int, int]) -> None:
        self.number, self.columns, self.rows, self.sector = number, columns, rows, sector
        self.n_bytes = 2 * sector[0] * sector[1]
        self.announced = 0
        self.noted = False


class SectorsDecoder:
    """Messages to events. See `Decoder`.

    frame: shape (y, x) of a whole frame; () = by the size of the first sector: square frames.
    dwell: frames at each position, one after another. Headers do not say it.

    A run begins when a new scan number appears in the data. Announcements that come before are kept until then.
    """

    has_end = False

    def __init__(self, frame: tuple[int, ...] = (), dwell: int = 1) -> None:
        self._frame, self._dwell = frame, dwell
        self._scans: dict[int, _Scan] = {}
        self._early: dict[int, list[int]] = {}
        self._now = _Scan(-1, 0, 0, (0, 0))
        self._layouts: dict[int, _Layout] = {}

    def feed(self, parts: Parts) -> Sequence[Event]:
        """Events of one message. Raises WireError."""
        if len(parts) != 2:
            if len(parts) == 1:
                return self._info(parts[0])
            raise WireError(f"a message has a header and a sector, or is an announcement alone; got {len(parts)} parts")
        data = bytes(parts[0][:_MAX_HEADER])
        mask, want, unpack = self._layouts.get(len(data), _NO_LAYOUT)
        if int.from_bytes(data, "big") & mask == want:
            numbers = unpack(data)
        else:
            numbers = _numbers(data)
            self._layouts[len(data)] = _layout(data)
        if len(numbers) == 9:
            scan, frame, _, columns, rows, x, y, _, module = numbers
        else:
            scan, frame, columns, rows, x, y, _, module = numbers
        n, now = len(parts[1]), self._now
        if scan != now.number or columns != now.columns or rows != now.rows or n != now.n_bytes or module >= SECTORS or frame >= _MAX_FRAME:
            return self._careful(_header(numbers), n)
        part = FramePart(scan, frame, 1, 0, n, "raw<", now.sector, "uint16", module)
        if y * columns + x == frame // self._dwell or now.noted:
            return (part,)
        now.noted = True
        return (part, Skipped(_elsewhere(_header(numbers))))

    def _careful(self, head: Header, n: int) -> Sequence[Event]:
        """A message of another scan than the one before, or one that is not as it should be."""
        if not (0 < head.columns <= MAX_SIDE and 0 < head.rows <= MAX_SIDE and head.module < SECTORS and head.frame < _MAX_FRAME):
            raise WireError(f"expected 1 to {MAX_SIDE} rows and columns, and modules 0 to {SECTORS - 1}, got {head}")
        scan = self._scans.get(head.scan)
        events: list[Event] = []
        if scan is None:
            scan = self._begin(head, n, events)
        elif (head.columns, head.rows) != (scan.columns, scan.rows):
            raise WireError(f"expected a scan of {scan.rows} x {scan.columns} positions, as it began with, got {head}")
        rows, rest = divmod(n, 2 * scan.sector[1])
        if rest or not rows:
            raise WireError(f"expected sectors of {scan.n_bytes:,} bytes, got {n:,}: {head}")
        self._now = scan
        # another number of rows than that of the scan: whoever puts frames together does not take it, and counts it
        events.append(FramePart(head.scan, head.frame, 1, 0, n, "raw<", (rows, scan.sector[1]), "uint16", head.module))
        return events

    def _begin(self, head: Header, n: int, events: list[Event]) -> _Scan:
        sector = (self._frame[0] // SECTORS, self._frame[1]) if self._frame else _sector_of(n)
        scan = _Scan(head.scan, head.columns, head.rows, sector)
        if n != scan.n_bytes:
            raise WireError(
                f"expected sectors of {scan.n_bytes:,} bytes ({SECTORS} of {sector[0]} x {sector[1]} make a frame), got {n:,}: {head}; "
                "frame=ROWS,COLUMNS in the address says the shape of frames"
            )
        meta = {"scan_number": head.scan, "thread_id": head.thread}
        if head.threads >= 0:
            meta["num_frames_this_thread"] = head.threads
        scan.noted = head.y * head.columns + head.x != head.frame // self._dwell
        frame, notes = (SECTORS * sector[0], sector[1]), (_elsewhere(head),) if scan.noted else ()
        n_frames = head.rows * head.columns * self._dwell
        events.append(RunHeader(head.scan, n_frames, (head.rows, head.columns), frame, "uint16", meta=meta, notes=notes))
        early = self._early.pop(head.scan, [])
        events += [Announced(head.scan, i, count) for i, count in enumerate(early)]
        scan.announced = len(early)
        _keep(self._scans, head.scan, scan)
        return scan

    def _info(self, part: Any) -> Sequence[Event]:
        events: list[Event] = []
        for number, count in _announcement(bytes(part[: _MAX_INFO + 1])):
            scan = self._scans.get(number)
            early = self._early.get(number, [])
            if max(len(early), 0 if scan is None else scan.announced) >= _MAX_SENDERS:
                raise WireError(f"more than {_MAX_SENDERS} announcements for scan {number}")
            if scan is None:
                _keep(self._early, number, [*early, count])
            else:
                events.append(Announced(number, scan.announced, count))
                scan.announced += 1
        return events


def _keep(known: dict[int, Any], number: int, value: Any) -> None:
    """Remember, and forget the oldest beyond `_MAX_KNOWN`."""
    known[number] = value
    if len(known) > _MAX_KNOWN:
        del known[next(iter(known))]


def _elsewhere(head: Header) -> str:
    return (
        f"frame {head.frame} was taken at row {head.y}, column {head.x}, which is position {head.y * head.columns + head.x} of the scan: "
        "frames are placed by their number. Where the camera takes several frames at each position, or in another order, say so when "
        "connecting (dwell= in the address and frames_per_position=, positions=)"
    )


def _sector_of(n: int) -> tuple[int, int]:
    """Shape of a sector of n bytes of a square frame."""
    side = math.isqrt(n // 2 * SECTORS)
    if not n or side % SECTORS or 2 * (side // SECTORS) * side != n:
        raise WireError(
            f"a sector of {n:,} bytes is no quarter of a square image of 16 bit; frame=ROWS,COLUMNS in the address says its shape"
        )
    return side // SECTORS, side


# -- MessagePack ----------------------------------------------------------------------------------------------------------

_WIDTHS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


def _numbers(head: bytes) -> Sequence[int]:
    """The eight or nine numbers of a header."""
    try:
        n, i = head[0], 1
        if n == 0xDC:
            n, i = 0x90 + (head[1] << 8 | head[2]), 3
        if n != 0x99 and n != 0x98:
            raise WireError(f"a header is a MessagePack array of 8 or 9 numbers, got {head[:16]!r}")
        out = []
        for _ in range(n - 0x90):
            value, i = _number(head, i)
            out.append(value)
    except IndexError:
        raise WireError(f"a header of {len(head)} bytes ends too early: {head[:16]!r}") from None
    if i != len(head):
        raise WireError(f"a header has {len(head) - i} bytes too many: {head[:32]!r}")
    return out


_Layout = tuple[int, int, Callable[[bytes], Sequence[int]]]
"""What all headers with numbers of the same widths share (bits, and their values), and what takes one apart."""
_NO_LAYOUT: _Layout = (0, 1, tuple)
_STRUCT = {0xCC: "xB", 0xCD: "xH", 0xCE: "xI", 0xCF: "xQ"}


def _layout(head: bytes) -> _Layout:
    """Of a header that `_numbers` understands; none where it holds signed numbers."""
    mask, want, form = bytearray(len(head)), bytearray(len(head)), ">x"
    i = 1 if head[0] != 0xDC else 3
    mask[:i], want[:i] = b"\xff" * i, head[:i]
    form = f">{i}x"
    while i < len(head):
        kind = head[i]
        if kind >= 0x80 and kind not in _STRUCT:
            return _NO_LAYOUT
        mask[i], want[i] = (0x80, 0) if kind < 0x80 else (0xFF, kind)
        form += "B" if kind < 0x80 else _STRUCT[kind]
        i += 1 + (0 if kind < 0x80 else _WIDTHS[kind])
    return int.from_bytes(mask, "big"), int.from_bytes(want, "big"), struct.Struct(form).unpack


def _header(numbers: Sequence[int]) -> Header:
    return Header._make(numbers if len(numbers) == 9 else (*numbers[:2], -1, *numbers[2:]))


def _number(data: bytes, i: int) -> tuple[int, int]:
    """A whole number at data[i], and where it ends. Raises IndexError where the data end before."""
    kind = data[i]
    if kind < 0x80:
        return kind, i + 1
    width = _WIDTHS.get(kind)
    if width is None:
        raise WireError(f"expected a whole number, got MessagePack type 0x{kind:02x}")
    end = i + 1 + width
    if end > len(data):
        raise IndexError
    value = int.from_bytes(data[i + 1 : end], "big", signed=kind >= 0xD0)
    if value < 0:
        raise WireError(f"expected a number of 0 or more, got {value}")
    return value, end


def _announcement(data: bytes) -> list[tuple[int, int]]:
    """{scan: messages}."""
    if len(data) > _MAX_INFO:
        raise WireError(f"an announcement has more than {_MAX_INFO} bytes")
    try:
        n, i = data[0] - 0x80, 1
        if n == 0x5E:
            n, i = data[1] << 8 | data[2], 3
        elif not 0 <= n < 16:
            raise WireError(f"an announcement is a MessagePack map of scan numbers, got {data[:16]!r}")
        found = []
        for _ in range(n):
            scan, i = _number(data, i)
            count, i = _number(data, i)
            found.append((scan, count))
    except IndexError:
        raise WireError(f"an announcement of {len(data)} bytes ends too early: {data[:16]!r}") from None
    if i != len(data):
        raise WireError(f"an announcement has {len(data) - i} bytes too many: {data[:32]!r}")
    if any(count >= _MAX_FRAME for _, count in found):
        raise WireError(f"an announcement of {max(c for _, c in found):,} messages is not possible")
    return found


def packed(value: int) -> bytes:
    """A whole number >= 0 in MessagePack, in as few bytes as it can be."""
    if value < 0x80:
        return bytes((value,))
    for kind, width in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
        if value < 1 << 8 * width:
            return bytes((kind,)) + value.to_bytes(width, "big")
    raise UsageError(f"{value} is too large a number for MessagePack")


# -- the sending side -----------------------------------------------------------------------------------------------------


class SectorsEncoder:
    """Frames as four streams of sectors. See `Encoder`.

    fields: numbers in a header: 8, or 9 with the count of frames of the sender's thread. info: announce how many messages come, on
    the socket after those of the sectors. n_lanes: sockets of the sectors, 4, or 1 for all of them. dwell: the last axis of the scan is
    this many frames at each position.
    """

    def __init__(self, fields: int = 8, info: bool = True, n_lanes: int = SECTORS, dwell: int = 1) -> None:
        if fields not in (8, 9):
            raise UsageError(f"fields is 8 or 9, got {fields}")
        self._fields, self._info, self._n_lanes, self._dwell = fields, info, n_lanes, dwell

    def begin(self, meta: SourceMeta, run: int) -> Iterable[Outgoing]:
        """Announcements. Raises UsageError for frames that the camera could not have sent."""
        sig, nav = meta.shape.sig, meta.shape.nav
        if len(sig) != 2 or sig[0] % SECTORS or meta.dtype.kind not in "bui":
            raise UsageError(f"the 4D Camera sends images of whole numbers in {SECTORS} sectors, not frames {sig} of {meta.dtype}")
        if len(meta.channels) > 1:
            raise UsageError(f"the 4D Camera has one channel, this source has {', '.join(meta.channels)}: choose one")
        if self._dwell > 1:
            if not nav or nav[-1] != self._dwell:
                raise UsageError(f"dwell={self._dwell} frames at each position are the last axis of the scan, which is {nav}")
            nav = nav[:-1]
        columns = nav[-1] if nav else 1
        rows = math.prod(nav[:-1])
        if not 0 < columns <= MAX_SIDE or not 0 < rows <= MAX_SIDE:
            raise UsageError(f"the 4D Camera scans up to {MAX_SIDE} x {MAX_SIDE} positions, not {rows} x {columns}")
        self._scan, self._columns, self._rows, self._n = run, columns, rows, meta.n_frames
        self._channel = meta.channels[0]
        self._sides = packed(columns) + packed(rows)
        self._first = bytes((0x90 + self._fields,)) + packed(run)
        if self._info:
            for _ in range(SECTORS):
                yield Outgoing((b"\x81" + packed(run) + packed(meta.n_frames),), self._n_lanes)

    def frame(self, number: int, frames: Mapping[str, _Arr]) -> Iterable[Outgoing]:
        """One message for each sector. Raises UsageError for counts that 16 bits cannot hold."""
        frame = frames[self._channel]
        if frame.dtype != np.uint16:
            low, high = int(frame.min(initial=0)), int(frame.max(initial=0))
            if low < 0 or high > 65535:
                raise UsageError(f"frame {number} holds counts from {low} to {high}; the 4D Camera has 16 bits, 0 to 65535")
        frame = np.ascontiguousarray(frame, "<u2")
        per_sector = len(frame) // SECTORS
        y, x = divmod(number // self._dwell % (self._columns * self._rows), self._columns)
        head = self._first + packed(number) + (packed(self._n) if self._fields == 9 else b"") + self._sides + packed(x) + packed(y)
        for module in range(SECTORS):
            pixels = frame[module * per_sector : (module + 1) * per_sector]
            header = head + b"\x00" + bytes((module,))
            yield Outgoing((header, pixels.reshape(-1).view(np.uint8).data), module % self._n_lanes, number)

    def end(self) -> Iterable[Outgoing]:
        """Nothing: the announced counts are the end."""
        return ()
