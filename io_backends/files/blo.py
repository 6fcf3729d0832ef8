"""NanoMEGAS block files (.blo) of precession and scanning diffraction, 8 and 16 bit."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from libstream.ext import Axis, CorruptFileError, DataShape, FormatError, FrameSource, SourceMeta, param
from libstream.io_backends.files._fixed import FixedLayout
from libstream.io_backends.files._identity import StoredFile, local_path, source_id, stat_file, whole_frames

_MARK = b"IMGBLO"
_VERSIONS = (258, 259)
_HEADER = struct.Struct("<6sHIIIHHHHHddIHId")
_FIELDS = (
    *("mark", "version", "offset_image", "offset_frames", "flags", "frame_size", "frame_rotation", "n_x", "n_y"),
    *("scan_rotation", "step_x", "step_y", "beam_energy", "pixels_per_cm_100", "camera_length", "time"),
)
_NOTE_AT = 240  # text follows after 22 numbers about centring and distortion
_FRAME_HEADER = 6  # AA 55 and the number of the frame


@dataclass(frozen=True)
class BloOptions:
    """allow_truncated: use the whole frames of a file that holds fewer than it announces."""

    allow_truncated: bool = param(False, title="Accept a truncated file")


class BloFormat:
    """NanoMEGAS block files."""

    name: ClassVar[str] = "blo"
    suffixes: ClassVar[tuple[str, ...]] = (".blo",)
    options: ClassVar[type] = BloOptions

    def probe(self, head: bytes, path: str) -> float:
        """Certain where the file starts with IMGBLO."""
        return 1.0 if head.startswith(_MARK) else 0.0

    def open(self, uri: str, options: BloOptions) -> FrameSource:
        """Open a block file. Raises FormatError for other files, CorruptFileError for damaged or truncated ones."""
        path = local_path(uri)
        file = stat_file(path)
        fields, text = _header(file)
        side = fields["frame_size"]
        scan: tuple[int, ...] = (fields["n_y"], fields["n_x"])
        announced = math.prod(scan)
        dtype = _dtype(file.size - fields["offset_frames"], announced, side, text)
        stride = _FRAME_HEADER + side * side * dtype.itemsize
        offset = fields["offset_frames"]
        n = whole_frames(file, offset=offset, stride=stride, last=stride, announced=announced, allow_truncated=options.allow_truncated)
        notes: tuple[str, ...] = ()
        if n < announced:
            notes = (f"truncated: {n} of {announced} frames; the scan was {scan}",)
            scan = (n,)
        with open(path, "rb") as f:
            f.seek(offset)
            mark = f.read(2)
        if mark != b"\xaa\x55":
            raise CorruptFileError(f"{path}: byte {offset} should begin the first frame with AA 55, got {mark.hex(' ').upper()}")
        layout = FixedLayout((replace(file, n_frames=n, offset=offset),), (side, side), dtype, stride, _FRAME_HEADER)
        meta = SourceMeta(
            id=source_id(uri, self.name, [path]),
            shape=DataShape(scan, (side, side)),
            dtype=layout.out_dtype,
            axes=_axes(fields, scan, side),
            n_frames=n,
            vendor=_vendor(fields, text),
            notes=notes,
        )
        return FrameSource(meta, layout)


def _header(file: StoredFile) -> tuple[dict[str, Any], str]:
    with open(file.path, "rb") as f:
        head = f.read(64 * 1024)
    if not head.startswith(_MARK):
        raise FormatError(f"{file.path}: is no block file: it starts with {head[:6]!r}, expected {_MARK!r}")
    if len(head) < _NOTE_AT:
        raise CorruptFileError(f"{file.path}: its header is cut off: expected at least {_NOTE_AT} bytes, got {len(head)}. Copy it again.")
    fields: dict[str, Any] = dict(zip(_FIELDS, _HEADER.unpack_from(head), strict=True))
    if fields["version"] not in _VERSIONS:
        raise FormatError(f"{file.path}: is a block file of version {fields['version']:#x}, known are {[hex(v) for v in _VERSIONS]}")
    if not (fields["n_x"] and fields["n_y"] and fields["frame_size"]):
        what = f"a scan of {fields['n_y']} x {fields['n_x']} and frames of {fields['frame_size']} px"
        raise CorruptFileError(f"{file.path}: its header claims {what}; expected at least 1 of each")
    if not _HEADER.size <= fields["offset_image"] <= fields["offset_frames"]:
        places = f"{fields['offset_image']} and {fields['offset_frames']}"
        raise CorruptFileError(f"{file.path}: its header puts image and frames at bytes {places}, expected rising numbers after the header")
    text = head[_NOTE_AT : max(_NOTE_AT, fields["offset_image"])].split(b"\0\0")[0]
    return fields, text.replace(b"\0", b"").decode("latin1").strip()


def _dtype(n_bytes: int, n: int, side: int, text: str) -> np.dtype[Any]:
    """8 or 16 bit: the one that fits the size of the file; else what the note says ("Blo Bit Depth: 16 bits"); else 8."""
    fitting = [size for size in (1, 2) if n_bytes == n * (_FRAME_HEADER + side * side * size)]
    if fitting:
        return np.dtype("u1" if fitting[0] == 1 else "<u2")
    noted = next((line for line in text.lower().splitlines() if line.strip().startswith("blo bit depth")), "")
    return np.dtype("<u2" if "16" in noted.split(":")[-1] else "u1")


def _axes(fields: dict[str, Any], scan: tuple[int, ...], side: int) -> tuple[Axis, ...]:
    nav = [_axis(a, n, fields[f"step_{a}"], "nm") for a, n in zip("yx", scan, strict=True)] if len(scan) == 2 else [Axis("frame", scan[0])]
    density, length = fields["pixels_per_cm_100"], fields["camera_length"]
    pixel_mm = 1000.0 / density if density else 0.0
    step, unit = (pixel_mm / (length / 10.0) * 1e3, "mrad") if length else (pixel_mm, "mm")
    return (*nav, _axis("ky", side, step, unit), _axis("kx", side, step, unit))


def _axis(name: str, size: int, step: float, unit: str) -> Axis:
    return Axis(name, size, step, 0.0, unit) if math.isfinite(step) and step > 0 else Axis(name, size)


def _vendor(fields: dict[str, Any], text: str) -> dict[str, Any]:
    out = {
        "version": fields["version"],
        "flags": fields["flags"],
        "beam_energy_V": fields["beam_energy"],
        "camera_length_mm": fields["camera_length"] / 10.0,
        "pixels_per_cm": fields["pixels_per_cm_100"] / 100.0,
        "scan_rotation_deg": fields["scan_rotation"] / 100.0,
        "frame_rotation_deg": fields["frame_rotation"] / 100.0,
        "note": text,
    }
    days = fields["time"]  # since 1899-12-30, as in Windows' variants
    if math.isfinite(days) and 0 < days < 100_000:
        out["acquired"] = str(np.datetime64("1899-12-30T00:00:00") + np.timedelta64(round(days * 86400), "s"))
    return out
