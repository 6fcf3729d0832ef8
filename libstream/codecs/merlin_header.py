"""Headers of Merlin / Medipix3: of a frame ("MQ1,...") and of an acquisition ("HDR,...", the .hdr file). Bytes in, values out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libstream.codecs.merlin import CHIP, CODES, DEPTHS, GAP, Pixels
from libstream.errors import CorruptFileError, FormatError

MAGIC = b"MQ1,"
"""First bytes of every frame."""
HDR_MAGIC = b"HDR,"
"""First bytes of an acquisition header."""
MAX_HEADER = 65536
"""No header is longer than this [bytes]; real ones have 384 (one chip) or 768 (four)."""
_MAX_SIDE = 32768
_GAINS = ("SLGM", "LGM", "HGM", "SHGM")
_FIELDS = ("sequence number", "header size", "number of chips", "width", "height")


@dataclass(frozen=True)
class FrameHeader:
    """Header of one frame.

    number: sequence number, the first frame of an acquisition has 1. offset: bytes of the header, pixels follow.
    width, height: as stored [px]: of raw frames, all chips side by side. code: U01 U08 U16 U32 U64 R64.
    layout: arrangement of the chips: 1x1, 2x2, 2x2G (with the gap between chips), Nx1, Nx1G.
    exposure_s: shutter time; None where the header has none. counter: 0 or 1. colour: several thresholds per pixel in use.
    thresholds_kev: energies of the thresholds. dacs: settings of each chip. depth: counter depth [bit], 0 where it is not stated.
    """

    number: int
    offset: int
    chips: int
    width: int
    height: int
    code: str
    layout: str
    chip_mask: str = ""
    timestamp: str = ""
    exposure_s: float | None = None
    counter: int = 0
    colour: bool = False
    gain: str = ""
    thresholds_kev: tuple[float, ...] = ()
    dacs: tuple[tuple[int, ...], ...] = ()
    depth: int = 0
    timestamp_utc: str = ""
    exposure_ns: int | None = None

    @property
    def geometry(self) -> tuple[Any, ...]:
        """What must be the same in all frames of an acquisition."""
        return (self.code, self.width, self.height, self.offset, self.layout, self.depth, self.chips)

    def describe(self) -> str:
        """The geometry in words."""
        depth = f" {self.depth} bit" if self.depth else ""
        return f"{self.code}{depth} {self.layout} {self.width} x {self.height} with headers of {self.offset} bytes"

    def vendor(self) -> dict[str, Any]:
        """All values, as plain types."""
        values = {k: list(map(list, v)) if k == "dacs" else list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}
        return {k: v for k, v in values.items() if v is not None and v != "" and v != []}

    def pixels(self, where: str, depth: int = 0) -> Pixels:
        """How the frame's pixels are stored. depth: used where the header does not state it.

        Raises FormatError for arrangements that cannot be put together; `where` names file and place in the message.
        """
        if self.code != "R64":
            return Pixels(self.code, (self.height, self.width), self.depth or depth)
        bits, layout = self.depth or depth, self.layout
        known = f"{where}: raw frame, {self.layout}, {self.chips} chips, {self.width} x {self.height}"
        if bits not in DEPTHS:
            got = f"{bits} bit" if bits else "none"
            raise FormatError(f"{known}: counter depth expected one of {', '.join(map(str, DEPTHS))} bit, got {got}")
        across = {"1x1": 1, "2x2": 2, "2x2G": 2}.get(layout)
        if across is None:
            raise FormatError(
                f"{known}: the order of the chips in the raw readout is known for 1x1, 2x2 and 2x2G only, got {layout!r}. "
                "Record or convert this detector's data as integers (U08, U16, U32)."
            )
        # chips side by side; at 24 bit the two 12-bit planes are counted in the width
        row = across**2 * CHIP
        rows = self.height
        if self.width == across * CHIP and across == 2:  # as assembled
            rows = self.height // 2
        elif self.width != row and not (bits == 24 and self.width == 2 * row):
            raise FormatError(f"{known}: expected a width of {row}{f' or {2 * row}' if bits == 24 else ''} for {across**2} chip(s)")
        gap = GAP if layout == "2x2G" else 0
        return Pixels("R64", (rows * across + gap, CHIP * across + gap), bits, layout)


@dataclass(frozen=True)
class AcquisitionHeader:
    """Header of an acquisition: `fields` as they are stored, in order, and what of them decides on the shape."""

    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_frames(self) -> int | None:
        """Frames of the acquisition; None where it is not stated or endless (0)."""
        return self._number("Frames in Acquisition") or None

    @property
    def per_trigger(self) -> int | None:
        """Frames per trigger: the length of a row of the scan where the microscope triggers rows."""
        return self._number("Frames per Trigger") or None

    @property
    def scan(self) -> tuple[int, int] | None:
        """Shape (y, x) of the scan; stated by software 1.6 and newer."""
        y, x = self._number("ScanY"), self._number("ScanX")
        return (y, x) if y and x else None

    @property
    def depth(self) -> int:
        """Counter depth [bit], 0 where it is not stated."""
        return self._number("Counter Depth") or 0

    def _number(self, name: str) -> int | None:
        for key, value in self.fields.items():
            if key.startswith(name):
                return int(value) if re.fullmatch(r"\d{1,15}", value) else None
        return None


def parse_frame_header(data: bytes, where: str) -> FrameHeader:
    """Header of the frame that begins at data[0]. `where` names file and place in messages.

    Raises CorruptFileError where it is cut off or no header, FormatError for pixel codes that are not known.
    """
    if data[:4] != MAGIC:
        raise CorruptFileError(
            f"{where}: expected the header of a Merlin frame, which starts with {MAGIC.decode()!r}, got {data[:16]!r}. "
            "Is it another kind of file, or damaged?"
        )
    size = data[4:32].split(b",")[1:2]
    offset = int(size[0]) if size and re.fullmatch(rb"\d{2,9}", size[0]) else 0
    if not offset or offset > MAX_HEADER:
        raise CorruptFileError(
            f"{where}: the frame's header states {size[0] if size else b''!r} as its size, expected up to {MAX_HEADER} bytes"
        )
    if len(data) < offset:
        raise CorruptFileError(
            f"{where}: the frame's header has {offset} bytes, {len(data)} of them are there. Truncated copy? Copy it again."
        )
    text = data[:offset].split(b"\0", 1)[0].decode("latin-1")
    words = [w.strip() for w in text.split(",")]
    if len(words) < 8:
        raise CorruptFileError(f"{where}: the frame's header {text[:60]!r} ends too early, expected at least 8 fields")
    numbers = []
    for name, word in zip(_FIELDS, words[1:6], strict=True):
        if not re.fullmatch(r"\d{1,10}", word):
            raise CorruptFileError(f"{where}: {name} in the frame's header is {word!r}, expected a whole number")
        numbers.append(int(word))
    number, _, chips, width, height = numbers
    if not 0 < width <= _MAX_SIDE or not 0 < height <= _MAX_SIDE:
        raise CorruptFileError(f"{where}: the frame's header states {width} x {height} px, expected 1 to {_MAX_SIDE} each")
    code = words[6]
    if code not in CODES:
        raise FormatError(f"{where}: pixel type {code!r} in the frame's header is unknown, expected one of {', '.join(CODES)}")
    return FrameHeader(number, offset, chips, width, height, code, words[7], **_details(words[8:]))


def _details(words: list[str]) -> dict[str, Any]:
    """Everything after the layout. Old and raw headers lack some of it, so nothing here is required."""
    found: dict[str, Any] = {}
    if "MQ1A" in words:
        i = words.index("MQ1A")
        extension = [*words[i + 1 :], "", "", ""]
        words = words[:i]
        found["timestamp_utc"] = extension[0]
        if m := re.fullmatch(r"(\d{1,18})ns", extension[1]):
            found["exposure_ns"] = int(m[1])
        if extension[2] in map(str, DEPTHS):
            found["depth"] = int(extension[2])
    if "3RX" in words:
        i = words.index("3RX")
        chips = " ".join(words[i + 1 :]).split("3RX")
        found["dacs"] = tuple(tuple(int(w) for w in chip.split() if w.isdecimal() and len(w) < 10) for chip in chips)
        words = words[:i]
    words += [""] * (6 - len(words))
    found |= {"chip_mask": words[0], "timestamp": words[1], "exposure_s": _float(words[2])}
    found["counter"] = int(words[3]) if words[3] in ("0", "1") else 0
    found["colour"] = words[4] not in ("", "0")
    found["gain"] = _GAINS[int(words[5])] if words[5] in ("0", "1", "2", "3") else words[5]
    thresholds = [_float(w) for w in words[6:] if w]
    found["thresholds_kev"] = tuple(t for t in thresholds if t is not None)
    return found


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def parse_acquisition_header(data: bytes, where: str) -> AcquisitionHeader:
    """Acquisition header, of a .hdr file or of the stream. Raises CorruptFileError where it is none."""
    if data[:4] != HDR_MAGIC:
        raise CorruptFileError(
            f"{where}: expected an acquisition header of Merlin, which starts with {HDR_MAGIC.decode()!r}, got {data[:16]!r}"
        )
    fields: dict[str, str] = {}
    for line in data.decode("latin-1").split("\n")[1:]:
        if line.startswith("End"):
            break
        key, colon, value = line.strip("\r\0").partition(":")
        if colon and key.strip():
            fields[key.strip()] = value.strip()
    return AcquisitionHeader(fields)
