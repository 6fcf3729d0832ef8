"""Frames to messages of Merlin's data port: what replay and simulators send."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from libstream.ext import CodecError, FormatError, Outgoing, SourceMeta, UsageError, merlin, wire

_Arr = np.ndarray[Any, Any]

CODES = {1: "U08", 2: "U16", 4: "U32", 8: "U64"}
"""Pixel code of integers, by their bytes."""
FRAME_S = 0.001
"""Time from frame to frame that is stated [s]: a source does not tell it."""
_HDR = 2048
_DACS = "3RX,011,511,000,000,000,000,000,000,175,010,200,125,100,100,093,100,099,030,128,004,255,140,128,191,179,511,511"
_THRESHOLDS = "1.200000E+1,5.110000E+2" + 6 * ",0.000000E+0"


class MerlinEncoder:
    """Any source of whole numbers as a Merlin stream. See `Encoder`.

    code: of pixels, "" = by the source's dtype. depth: counter depth of raw frames (R64) [bit]. chips: 1x1, 2x2 or 2x2G.
    garbage: bytes to send before the first header, as some servers do.
    """

    def __init__(self, code: str = "", depth: int = 12, chips: str = "1x1", garbage: int = 0) -> None:
        if code and code not in merlin.CODES:
            raise UsageError(f"pixels is one of {', '.join(merlin.CODES)}, got {code!r}")
        if depth not in merlin.DEPTHS:
            raise UsageError(f"depth is one of {', '.join(map(str, merlin.DEPTHS))} bit, got {depth}")
        if chips not in ("1x1", "2x2", "2x2G"):
            raise UsageError(f"chips is 1x1, 2x2 or 2x2G, got {chips!r}")
        self._code, self._depth, self._chips, self._garbage = code, depth, chips, garbage
        self._channels: tuple[str, ...] = ()
        self.control: Any = None
        """The simulated control port (`ControlServer`), where there is one."""

    def begin(self, meta: SourceMeta, run: int) -> Iterable[Outgoing]:
        """The acquisition header. Raises UsageError where a Merlin could not have recorded this source."""
        if len(meta.shape.sig) != 2 or meta.dtype.kind not in "bui":
            raise UsageError(f"Merlin sends images of whole numbers, not frames {meta.shape.sig} of {meta.dtype}")
        if len(meta.channels) > 2:
            raise UsageError(f"Merlin has two counters, this source has {len(meta.channels)} channels")
        self._channels = meta.channels
        sig = (int(meta.shape.sig[0]), int(meta.shape.sig[1]))
        self._kinds: dict[tuple[int, int], _Kind] = {}
        self._used = self._code or CODES[meta.dtype.itemsize]
        kind = self._kind(sig)
        self._t0_ns = time.time_ns()
        if self.control is not None:
            about = {"IMAGEX": sig[1], "IMAGEY": sig[0], "COUNTERDEPTH": kind.counted, "NUMFRAMESTOACQUIRE": meta.n_frames}
            about["FILEFORMAT"] = 2 if self._used == "R64" else 0
            self.control.settings.update({key: str(value) for key, value in about.items()})
        if self._garbage:
            yield Outgoing((np.random.default_rng(run).integers(0, 256, self._garbage, np.uint8).tobytes(),))
            self._garbage = 0
        yield Outgoing((framed(_header(meta, kind.counted, self._chips)),))

    def _kind(self, sig: tuple[int, int]) -> _Kind:
        """How frames of this shape are sent. Raises UsageError where they cannot be."""
        kind = self._kinds.get(sig)
        if kind is None:
            raw = self._used == "R64"
            try:
                pixels = merlin.Pixels(self._used, sig, self._depth if raw else 0, self._chips)
            except FormatError as exc:
                raise UsageError(f"these frames cannot be sent so: {exc}") from exc
            kind = self._kinds[sig] = _Kind(pixels, self._chips)
        return kind

    def frame(self, number: int, frames: Mapping[str, _Arr]) -> Iterable[Outgoing]:
        """One message for each counter. Raises UsageError for counts that the pixels cannot hold."""
        t_ns = self._t0_ns + round(number * FRAME_S * 1e9)
        second = datetime.fromtimestamp(t_ns // 1_000_000_000, UTC)
        day, clock, fraction = f"{second:%Y-%m-%d}", f"{second:%H:%M:%S}", f"{t_ns % 1_000_000_000:09d}"
        for counter, channel in enumerate(self._channels):
            frame = frames[channel]
            kind = self._kind((frame.shape[0], frame.shape[1]))
            text = (
                f"MQ1,{number + 1:06d}{kind.before}{day} {clock}.{fraction[:6]},{FRAME_S:.6f},{counter}{kind.between}"
                f"{day}T{clock}.{fraction}{kind.after}"
            )
            yield Outgoing((framed(text.encode().ljust(kind.size, b"\0"), _packed(kind, number, frame)),), number=number)

    def end(self) -> Iterable[Outgoing]:
        """Nothing: the protocol has no end."""
        return ()


class _Kind:
    """How frames of one shape are sent. before, between, after: text of their headers around times and counter; size: of a header.

    counted: counter depth [bit]. most: largest count.
    """

    def __init__(self, pixels: merlin.Pixels, chips: str) -> None:
        raw = pixels.code == "R64"
        n = 1 if chips == "1x1" else 4
        self.pixels = pixels
        self.codec = f"merlin/{pixels.code}/{pixels.depth}/{chips if raw else '1x1'}"
        self.counted = pixels.depth if raw else {"U01": 1, "U08": 6, "U16": 12}.get(pixels.code, 24)
        self.most = {"U01": 1, "R64": (1 << pixels.depth) - 1}.get(pixels.code, int(np.iinfo(pixels.dtype).max))
        self.size = 384 if n == 1 else 768
        height, width = pixels.sig
        if raw:  # chips lie side by side, and 24 bit are two planes
            height, width = pixels.chip_rows, merlin.CHIP * n * (2 if pixels.depth == 24 else 1)
        self.before = f",{self.size:05d},{n:02d},{width:04d},{height:04d},{pixels.code},{chips:>6},{(1 << n) - 1:02X},"
        self.between = f",0,2,{_THRESHOLDS},{','.join([_DACS] * n)},MQ1A,"
        self.after = f"Z,{round(FRAME_S * 1e9)}ns,{self.counted},"


def _packed(kind: _Kind, number: int, frame: _Arr) -> bytes:
    pixels = kind.pixels
    if frame.dtype != pixels.dtype:
        low, high = int(frame.min(initial=0)), int(frame.max(initial=0))
        if low < 0 or high > kind.most:
            raise UsageError(
                f"frame {number} holds counts from {low} to {high}, {pixels.code} holds 0 to {kind.most}: choose other pixels="
            )
        frame = frame.astype(pixels.dtype)
    try:
        return wire.encode(kind.codec, frame)
    except CodecError as exc:
        raise UsageError(f"frame {number} cannot be sent: {exc}") from exc


def framed(*parts: bytes) -> bytes:
    """A message as it is on the wire. Its length counts the comma before what follows."""
    return b"MPX,%010d,%b" % (sum(map(len, parts)) + 1, b"".join(parts))


def _header(meta: SourceMeta, depth: int, chips: str) -> bytes:
    nav = meta.shape.nav
    lines = [
        "HDR,\t",
        f"Time and Date Stamp (day, mnth, yr, hr, min, s):\t{datetime.now(UTC):%d/%m/%Y %H:%M:%S}",
        "Chip ID:\tlibstream replay",
        f"Assembly Size (NX1, 2X2):\t{chips:>6}",
        "Chip Mode  (SPM, CSM, CM, CSCM):\tSPM",
        f"Counter Depth (number):\t{depth}",
        f"Active Counters:\t{'Both' if len(meta.channels) == 2 else 'Counter 0'}",
        f"Frames in Acquisition (Number):\t{meta.n_frames}",
        f"Frames per Trigger (Number):\t{nav[-1] if nav else 1}",
        "Trigger Start (Positive, Negative, Internal):\tInternal",
    ]
    if len(nav) == 2 and meta.shape.n_positions == meta.n_frames:
        lines += [f"ScanX:\t{nav[1]}", f"ScanY:\t{nav[0]}"]
    return "\r\n".join([*lines, "End\t"]).encode("latin-1").ljust(_HDR, b" ")
