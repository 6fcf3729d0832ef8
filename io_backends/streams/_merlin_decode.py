"""Messages of Merlin's data port to events: acquisition headers ("HDR,...") and frames ("MQ1,...")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from libstream.ext import Event, FormatError, FramePart, Parts, RunHeader, Skipped, WireError, merlin_header

MAGIC = b"MPX,"
"""First bytes of every message."""
PREFIX = 15
"""Bytes of "MPX,", ten digits and a comma."""
MAX_HDR = 1 << 20
"""No acquisition header is longer than this [bytes]; real ones have 2 KiB."""
MAX_FRAMES = 1 << 40
"""No acquisition has more frames."""
COUNTERS = ("counter_0", "counter_1")
"""Channels of acquisitions in which each exposure gives an image of both counters."""

_MILLION = 1_000_000
_NEAR = 1000
"""Frames before and after number 999999 between which it has to be looked at whether six digits began again."""
_NO, _BEFORE, _AFTER = range(3)
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_TIME = re.compile(rb"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):$")


class MerlinDecoder:
    """Messages to events. See `Decoder`.

    counters: 2 where each exposure gives an image of both counters, 1 where it does not, 0 = as the acquisition header says.

    Acquisitions have no number on the wire: runs are counted here, from 1. Frames before the first header are of run 0.
    """

    has_end = False

    def __init__(self, counters: int = 0) -> None:
        self._counters = counters
        self._run = 0
        self._header: RunHeader | None = None
        self._depth = 0
        self._both = False
        self._begin_counting()

    # -- one message -----------------------------------------------------------------------------------------------------

    def feed(self, parts: Parts) -> Sequence[Event]:
        """Events of one message, with or without its "MPX," prefix. Raises WireError."""
        if len(parts) != 1:
            raise WireError(f"Merlin's messages have one part, got {len(parts)}")
        data = parts[0]
        n = len(data)
        if n == self._size:
            # The header of the frame before, with another number, counter and time? Then the rest of it is known. s0:s1 are the
            # digits of the number, b1:c0 the local time or the end of it (any digits at their places), q:q1 seconds and their fraction,
            # k the counter; the rest is compared with head0 to head4.
            start, s0, s1, b1, c0, k, d1, q, q1, e, scale, head0, head1, local, head2, head3, head4, base, codec, shape, dtype = (
                self._template
            )
            head = bytes(data[:start])
            digits, stamp, counter = head[s0:s1], head[q : q + 2] + head[q + 3 : q1], head[k]
            if (
                digits.isdigit()
                and stamp.isdigit()
                and head[s1:b1] == head1
                and head[b1:c0].translate(_ZEROS) == local
                and head[c0:k] == head2
                and head[k + 1 : d1] == head3
                and head[e:] == head4
                and head[:s0] == head0
                and (counter == 48 or counter == 49)
                and head[q + 2] == 46
                and self._wrap == _NO
            ):
                number = int(digits)
                if number > 1 and not _MILLION - _NEAR <= number < _MILLION:
                    number += (self._epoch if number < _MILLION else 0) - 1
                    t_ns = base + int(stamp) * scale
                    if not self._both:
                        return (FramePart(self._run, number, 0, start, n, codec, shape, dtype, 0, 0, t_ns),)
                    number, channel = self._exposure(number + 1, counter - 48)
                    return (FramePart(self._run, number, 0, start, n, codec, shape, dtype, 0, channel, t_ns),)
        return self._any(data, n)

    def _any(self, data: Any, n: int) -> Sequence[Event]:
        head = bytes(data[: PREFIX + 4])
        at = 0
        if head[:4] == MAGIC:
            at = PREFIX
            if not re.fullmatch(rb"\d{10},", head[4:PREFIX]):
                raise WireError(f"a message of Merlin begins with MPX, and ten digits, got {head[:PREFIX]!r}")
            if int(head[4:14]) - 1 != n - PREFIX:
                raise WireError(f"a message of Merlin states {int(head[4:14]) - 1:,} bytes and has {n - PREFIX:,}")
        kind = head[at : at + 4]
        if kind == merlin_header.HDR_MAGIC:
            return self._acquisition(data, at, n)
        if kind == merlin_header.MAGIC:
            return self._frame(data, at, n)
        raise WireError(f"a message of Merlin's data port is a header (HDR,) or a frame (MQ1,), got {head[at : at + 16]!r}")

    # -- acquisitions ----------------------------------------------------------------------------------------------------

    def _acquisition(self, data: Any, at: int, n: int) -> Sequence[Event]:
        if n - at > MAX_HDR:
            raise WireError(f"an acquisition header of Merlin has {n - at:,} bytes, expected at most {MAX_HDR:,}")
        try:
            header = merlin_header.parse_acquisition_header(bytes(data[at:]), "Merlin stream")
        except FormatError as exc:
            raise WireError(str(exc)) from exc
        fields = header.fields
        active = _field(fields, "Active Counters").lower()
        both = self._counters == 2 or (self._counters == 0 and "both" in active)
        notes = []
        if both:
            notes.append("each exposure gives an image of both counters: channels counter_0 and counter_1")
        elif "alternating" in active:
            notes.append("the counters are read in turn: each image is a frame of its own, counter 0 and 1 are one sequence")
        if "CM" in _field(fields, "Chip Mode"):  # CM, CSCM
            notes.append("colour mode: which threshold a frame belongs to is not documented; frames are taken as one sequence")
        scan, announced = header.scan, header.n_frames
        if (announced or 0) > MAX_FRAMES or (scan is not None and scan[0] * scan[1] > MAX_FRAMES):
            notes.append(f"the header announces {announced} frames, scan {scan}: left out, more than {MAX_FRAMES:,} are not possible")
            scan = announced = None
        if both and scan and announced == 2 * scan[0] * scan[1]:
            announced //= 2
        self._run += 1
        self._depth = header.depth
        self._both = both
        self._begin_counting()
        channels = COUNTERS if both else ()
        self._header = RunHeader(self._run, announced, scan, channels=channels, meta={"hdr": dict(fields)}, notes=tuple(notes))
        return (self._header,)

    def _begin_counting(self) -> None:
        """A run begins: nothing is known of its frames."""
        self._size = -1
        self._template: tuple[Any, ...] = ()
        self._firsts: dict[int, bytes] = {}
        self._epoch = 0
        self._wrap = _NO
        self._shared = False
        self._said = False

    def _again(self, why: str) -> RunHeader:
        """A run begins without a header of its own."""
        self._run += 1
        self._begin_counting()
        before = self._header
        if before is None:
            self._both = self._counters == 2
            self._header = RunHeader(self._run, channels=COUNTERS if self._both else (), notes=(why,))
        else:
            self._header = before._replace(run=self._run, notes=(*before.notes, why))
        return self._header

    # -- frames ----------------------------------------------------------------------------------------------------------

    def _frame(self, data: Any, at: int, n: int) -> Sequence[Event]:
        try:
            head = merlin_header.parse_frame_header(bytes(data[at : at + merlin_header.MAX_HEADER]), "Merlin stream")
            pixels = head.pixels("Merlin stream", self._depth)
        except FormatError as exc:
            raise WireError(str(exc)) from exc
        if n - at != head.offset + pixels.n_bytes:
            raise WireError(
                f"frame {head.number} of Merlin ({head.describe()}) should have {head.offset + pixels.n_bytes:,} bytes, got {n - at:,}"
            )
        text = bytes(data[at : at + head.offset])
        events: list[Event] = []
        number = head.number
        if number == 1 and self._wrap == _NO and not self._epoch:
            first = self._firsts.get(head.counter)
            if self._run == 0:
                events.append(self._again("the header of this acquisition was not seen: its length and scan are not known"))
            elif first is not None and first != text:
                # sent twice it would carry the same time
                events.append(self._again("frame numbers began again without a header: taken as a new acquisition like the one before"))
            elif self._firsts and first is None and not self._both and not self._said:
                self._said = True
                events.append(
                    Skipped("frames of counter 0 and 1 carry the same numbers; with counters=2 in the address they are two channels")
                )
            self._firsts.setdefault(head.counter, text)
        self._learn(text, bytes(data[:at]), head, pixels, n)
        number, channel = self._number(number), 0
        if self._both:
            number, channel = self._exposure(number, head.counter)
        else:
            number -= 1
        if number < 0:
            raise WireError(f"frame numbers of Merlin begin with 1, got {head.number}")
        codec, shape, dtype = _coding(pixels)
        t_ns = _t_ns(head.timestamp_utc.removesuffix("Z").encode("latin-1") or head.timestamp.encode("latin-1"))
        events.append(FramePart(self._run, number, 0, at + head.offset, n, codec, shape, dtype, 0, channel, t_ns))
        return events

    def _number(self, number: int) -> int:
        """Sequence number, counted on where six digits began again after 999999."""
        announced = self._header.n_frames if self._header is not None else None
        if number >= _MILLION or (announced is not None and announced < _MILLION):
            self._wrap = _NO
            return number
        if number >= _MILLION - _NEAR:
            if self._wrap == _AFTER:  # arrives late
                return number + self._epoch - _MILLION
            self._wrap = _BEFORE
        elif number >= _NEAR:
            self._wrap = _NO
        elif self._wrap == _BEFORE:
            self._epoch += _MILLION
            self._wrap = _AFTER
        return number + self._epoch

    def _exposure(self, number: int, counter: int) -> tuple[int, int]:
        """Number of the exposure from 0, and counter. Both images of an exposure carry its number, or images are numbered on."""
        if not self._shared and (number - 1) % 2 != counter:
            self._shared = True
        return (number - 1 if self._shared else (number - 1) // 2), counter

    def _learn(self, text: bytes, prefix: bytes, head: Any, pixels: Any, n: int) -> None:
        """Remember where number, counter and times are in this header, for the next ones."""
        self._size = -1
        commas, place = [], -1
        for _ in range(12):
            place = text.find(b",", place + 1)
            if place < 0:
                return
            commas.append(place)
        s0, s1, t0, t1, k = 4, commas[1], commas[8] + 1, commas[9], commas[10] + 1
        if commas[11] != k + 1 or text[k] not in b"01":
            return
        e0 = text.find(b",MQ1A,") + 6
        if e0 > 5:
            e1 = text.find(b",", e0)
            b1, d1, q, q1 = t0, e0 + 17, e0 + 17, e1 - 1
            if e0 <= k or text[q1 : e1 + 1] != b"Z,":
                return
        else:
            b1, d1, q, q1 = t0 + 17, len(text), t0 + 17, t1
        base, digits = _minute_ns(text[q - 17 : q]), q1 - q - 3
        if base is None or not 1 <= digits <= 9:
            return
        p = len(prefix)
        end = q1 if e0 > 5 else len(text)
        self._template = (
            p + len(text), p + s0, p + s1, p + b1, p + t1, p + k, p + d1, p + q, p + q1, p + end, 10 ** (9 - digits),
            prefix + text[:s0], text[s1:b1], text[b1:t1].translate(_ZEROS), text[t1:k], text[k + 1 : d1], text[end:],
            base, *_coding(pixels),
        )  # fmt: skip
        self._size = n


def _coding(pixels: Any) -> tuple[str, tuple[int, int], str]:
    """Codec, shape and dtype of the pixels of a frame."""
    raw = pixels.code == "R64"
    return f"merlin/{pixels.code}/{pixels.depth if raw else 0}/{pixels.chips if raw else '1x1'}", pixels.sig, pixels.dtype.name


def _field(fields: Any, name: str) -> str:
    return next((str(value) for key, value in fields.items() if key.startswith(name)), "")


def _minute_ns(text: bytes) -> int | None:
    """Time of "2020-05-18T14:51:" in ns since 1970, None where it is no time."""
    m = _TIME.match(text)
    if m is None:
        return None
    year, month, day, hour, minute = map(int, m.groups())
    try:
        return round(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()) * 1_000_000_000
    except ValueError:
        return None


def _t_ns(text: bytes) -> int:
    """A time stamp in ns since 1970; 0 where there is none. Stamps without a zone are taken as they are."""
    base = _minute_ns(text[:17])
    m = re.fullmatch(rb"(\d\d)(?:\.(\d{1,9}))?", text[17:])
    if base is None or m is None:
        return 0
    return base + int(m[1]) * 1_000_000_000 + int((m[2] or b"").ljust(9, b"0"))
