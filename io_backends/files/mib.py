"""Merlin / Medipix3 files: .mib with .hdr, of Quantum Detectors. All integer and raw (R64) variants, one or several files a scan."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from libstream.ext import (
    CorruptFileError,
    DataShape,
    FormatError,
    FrameSource,
    Growing,
    SourceId,
    SourceMeta,
    Span,
    UsageError,
    merlin,
    merlin_header,
    param,
)  # fmt: skip
from libstream.io_backends.files import _mib_set as mib_set
from libstream.io_backends.files._fixed import FixedLayout, FixedReader
from libstream.io_backends.files._identity import local_path, present_in, source_id, stat_file

_Arr = np.ndarray[Any, Any]
_CHUNK = 2 * 1024 * 1024
_MAX_HDR = 1024 * 1024
# a mapping holds a file descriptor, of which a process has 1024 where nobody raised the limit
_MAX_MAPPED = 256


@dataclass(frozen=True)
class MibOptions:
    """allow_truncated: use the whole frames that are there where files are cut off or frames are missing or surplus.

    whole_set: where a scan was stored in several files (scan1.mib, scan2.mib, ...), open all of them, whichever is named.
    """

    allow_truncated: bool = param(False, title="Accept a truncated file")
    whole_set: bool = param(True, title="Open all files of the scan")


@dataclass(frozen=True, kw_only=True)
class MibLayout(FixedLayout):
    """Where the frames of one counter lie, and how they are stored (an `Opener`).

    how: encoding of the pixels, which begin `pixels` bytes after the frame's header. numbers: sequence number of the first frame
    of each file, None where they follow no rule; number_step: from there to that of the next frame.
    """

    how: merlin.Pixels
    numbers: tuple[int | None, ...]
    number_step: int = 1

    def open_reader(self, channel: str) -> MibReader:
        """Open a reader."""
        return MibReader(self)


@dataclass(frozen=True)
class MibCounters:
    """One layout for each counter (an `Opener`)."""

    layouts: tuple[tuple[str, MibLayout], ...]

    def open_reader(self, channel: str) -> MibReader:
        """Open a reader of `channel`. Raises UsageError naming the channels there are."""
        for name, layout in self.layouts:
            if name == channel:
                return MibReader(layout)
        raise UsageError(f"no channel {channel!r}; there are {', '.join(repr(n) for n, _ in self.layouts)}")


class MibReader(FixedReader):
    """Decodes frames from the mapped file, or from a buffer in cache where mapping is not safe; checks each frame's header."""

    layout: MibLayout
    in_memory = False

    def view(self) -> _Arr | None:
        """All frames of a single U08 or U01 file, over the mapping, with the headers between them; None for all others."""
        return super().view() if self.layout.how.plain else None

    def valid(self, frames: Span) -> _Arr | None:
        """Frames whose header is damaged: bool (len(frames),), None where there is none."""
        heads = self._mapped(0, frames.start, len(frames), -self.layout.pixels, merlin.HEAD_BYTES) if len(frames) else None
        return None if heads is None else self._good(heads, 0, frames.start)

    def _read_file(self, i: int, first: int, out: _Arr, rows: slice) -> _Arr | None:
        lay, n = self.layout, len(out)
        record = lay.pixels + lay.how.n_bytes
        mapped = self._mapped(i, first, n, -lay.pixels, record) if len(lay.files) <= _MAX_MAPPED else None
        if mapped is not None:
            return self._decode(mapped, i, first, out, rows)
        valid: _Arr | None = None
        step = max(1, _CHUNK // lay.stride)
        for a in range(0, n, step):
            part = out[a : a + step]
            raw = self._buffer((len(part) - 1) * lay.stride + record)
            self._read(i, memoryview(raw), lay.files[i].offset + (first + a) * lay.stride)
            records = np.ndarray((len(part), record), np.uint8, buffer=raw, strides=(lay.stride, 1))
            good = self._decode(records, i, first + a, part, rows)
            if good is not None:
                valid = np.ones(n, bool) if valid is None else valid
                valid[a : a + step] = good
        return valid

    def _decode(self, records: _Arr, i: int, first: int, out: _Arr, rows: slice) -> _Arr | None:
        good = self._good(records, i, first)
        self.layout.how.decode(records[:, self.layout.pixels :], out, rows.start)
        return good

    def _good(self, records: _Arr, i: int, first: int) -> _Arr | None:
        number = self.layout.numbers[i]
        step = self.layout.number_step
        return merlin.check_heads(records, None if number is None else number + first * step, step)


class MibFormat:
    """Merlin .mib files, with or without their .hdr; either may be named."""

    name: ClassVar[str] = "mib"
    suffixes: ClassVar[tuple[str, ...]] = (".mib", ".hdr")
    options: ClassVar[type] = MibOptions

    def probe(self, head: bytes, path: str) -> float:
        """Certain by the marks of Merlin; a .mib file without them is opened too, to say what is wrong with it."""
        if head.startswith((merlin_header.MAGIC, merlin_header.HDR_MAGIC)):
            return 1.0
        return 0.2 if path.lower().endswith(".mib") else 0.0

    def warm_up(self) -> None:
        """Compile the decoders of pixels."""
        merlin.warm_up()

    def open(self, uri: str, options: MibOptions) -> FrameSource:
        """Open a .mib or .hdr file, and the others of its scan. Raises FormatError or CorruptFileError naming file and place."""
        path = stat_file(local_path(uri)).path
        hdr_path, paths = mib_set.companions(path, options.whole_set)
        hdr, notes = _acquisition(hdr_path, required=hdr_path == path)
        parts = _members(path, paths, hdr, hdr_path if hdr is not None else None)
        if path != hdr_path and not any(os.path.samefile(path, p.file.path) for p in parts):
            notes.append(f"{os.path.basename(parts[0].file.path)} holds all frames of {hdr_path}: this file is opened without it")
            hdr_path, hdr, parts = None, None, [mib_set.read_part(path, 0)]
        mib_set.same_layout(parts)
        head = parts[0].head
        counters = mib_set.counters_of(parts[0])
        parts, order_notes = mib_set.ordered(parts, len(counters))
        numbers = mib_set.numbering(parts, len(counters))
        notes += [*order_notes, *numbers.notes]
        if len(parts) > 1:
            notes.append(
                f"{len(parts)} files: {', '.join(os.path.basename(p.file.path) for p in parts[:3])}{', ...' if len(parts) > 3 else ''}"
            )
        if hdr is not None and head.depth and hdr.depth and hdr.depth != head.depth:
            notes.append(f"counter depth is {head.depth} bit by the frames and {hdr.depth} by {hdr_path}; the frames are right")
        if head.code == "R64" and parts[0].pixels.depth == 24 and parts[0].pixels.across == 2:
            notes.append("24-bit raw quad: read as two planes, the more significant first; not confirmed by a second recording")
        announced = hdr.n_frames if hdr is not None and options.whole_set else None
        n = _count(parts, announced, hdr_path, len(counters), options.allow_truncated)
        nav, more = _scan(n, announced if announced and (announced >= n) else None, hdr)
        notes += more
        channels, opener = _layouts(parts, counters, numbers)
        meta = SourceMeta(
            id=source_id(uri, self.name, [*([hdr_path] if hdr_path is not None else []), *(p.file.path for p in parts)]),
            shape=DataShape(nav, parts[0].pixels.sig),
            dtype=parts[0].pixels.dtype,
            n_frames=n,
            channels=channels,
            vendor={
                "hdr": dict(hdr.fields) if hdr is not None else {},
                "frame": head.vendor(),
                "files": [os.path.basename(p.file.path) for p in parts],
            },
            notes=tuple(notes),
        )
        return FrameSource(meta, opener)

    def watch(self, uri: str, options: MibOptions, n_frames: int | None) -> Growing | None:
        """See `WatchesFiles`. One file, with or without its .hdr, which says how many frames there will be."""
        hdr_path, paths = mib_set.companions(stat_file(local_path(uri)).path, False)
        path = paths[0]
        hdr, notes = _acquisition(hdr_path, required=False)
        n = n_frames if n_frames is not None else hdr.n_frames if hdr is not None else None
        if n is None:
            raise UsageError(f"{path}: no .hdr file says how many frames there will be; pass scan=(y, x) or frames=n")
        part = mib_set.read_part(path, hdr.depth if hdr is not None else 0)
        if part.file.n_frames < min(n, 2):  # the second header says whether there are two counters
            return None
        counters = mib_set.counters_of(part)
        numbers = mib_set.numbering([part], len(counters))
        stored = replace(part.file, n_frames=n * len(counters), growing=True)
        channels, opener = _layouts([replace(part, file=stored)], counters, numbers)
        stride = part.record * len(counters)
        nav, more = _scan(n, n, hdr)
        meta = SourceMeta(
            id=SourceId(uri, self.name, n * stride),
            shape=DataShape(nav, part.pixels.sig),
            dtype=part.pixels.dtype,
            n_frames=n,
            channels=channels,
            vendor={"hdr": dict(hdr.fields) if hdr is not None else {}, "frame": part.head.vendor()},
            notes=(*notes, *numbers.notes, *more),
        )
        return Growing(FrameSource(meta, opener), lambda: present_in(stored, stride=stride, last=stride))


def _acquisition(path: str | None, required: bool) -> tuple[merlin_header.AcquisitionHeader | None, list[str]]:
    if path is None:
        return None, ["no .hdr file beside it: the shape of the scan and the detector's settings are not known"]
    try:
        with open(path, "rb") as f:
            return merlin_header.parse_acquisition_header(f.read(_MAX_HDR), path), []
    except FormatError:
        if required:
            raise
        return None, [f"{os.path.basename(path)} is no header of Merlin and was left out"]
    except OSError as exc:
        raise FormatError(f"{path}: cannot be read ({exc.strerror or exc}). Check the access rights.") from exc


def _members(path: str, paths: Sequence[str], hdr: Any, hdr_path: str | None) -> list[mib_set.Part]:
    """The files of the acquisition, of those whose names fit.

    A file with the header's own name is the acquisition unless frames are missing from it or others follow on; without a header,
    files belong together where their frame numbers follow on.
    """
    depth = hdr.depth if hdr is not None else 0
    if hdr_path is not None:
        stem = os.path.splitext(hdr_path)[0]
        if os.path.splitext(paths[0])[0] != stem:
            return [mib_set.read_part(p, depth) for p in paths]
        parts = [mib_set.read_part(paths[0], depth)]
        if len(paths) > 1 and hdr.n_frames is not None and parts[0].file.n_frames < hdr.n_frames:
            parts += [mib_set.read_part(p, depth) for p in paths[1:]]
        return parts
    here = next((i for i, p in enumerate(paths) if os.path.samefile(p, path)), None)
    if here is None:
        return [mib_set.read_part(path, depth)]
    parts = [mib_set.read_part(paths[here], depth)]
    for step in (-1, 1):
        i = here + step
        while 0 <= i < len(paths):
            try:
                other = mib_set.read_part(paths[i], depth)
            except FormatError:  # not of this acquisition, whatever it is
                break
            pair = (other, parts[0]) if step < 0 else (parts[-1], other)
            if other.head.geometry != parts[0].head.geometry or not mib_set.continues(*pair):
                break
            parts = [other, *parts] if step < 0 else [*parts, other]
            i += step
    return parts


def _count(parts: Sequence[mib_set.Part], announced: int | None, hdr_path: str | None, n_counters: int, allow: bool) -> int:
    """Exposures in all files. Raises CorruptFileError where a file is cut off or the number is not the one of the .hdr."""
    n = sum(p.file.n_frames for p in parts)
    found = f"{len(parts)} files hold" if len(parts) > 1 else f"{parts[0].file.path} holds"
    for part in parts:
        if part.rest and not allow:
            raise CorruptFileError(
                f"{part.file.path}: ends within a frame: {part.file.n_frames} whole frames of {part.record} bytes and {part.rest} more. "
                f"Truncated copy? Copy it again, or pass allow_truncated=True to use the {part.file.n_frames} whole frames."
            )
        if part.file.n_frames % n_counters and not allow:
            raise CorruptFileError(
                f"{part.file.path}: holds {part.file.n_frames} images of two counters, expected an even number. "
                "Pass allow_truncated=True to leave the last one out."
            )
    per_file = [p.file.n_frames // n_counters for p in parts]
    if announced is None or announced in (n, sum(per_file)) or allow:
        return sum(per_file)
    more = "Truncated copy, or is a file of the set missing?" if announced > n else "Do they belong together?"
    raise CorruptFileError(
        f"{hdr_path}: announces {announced} frames, {found} {n}. {more} Copy all files again, or pass allow_truncated=True "
        f"to use the {n} frames that are there{' (the others count as missing)' if announced > n else ''}."
    )


def _scan(n: int, announced: int | None, hdr: Any) -> tuple[tuple[int, ...], list[str]]:
    """Shape of the scan by the .hdr where it makes sense, else (n,), with a note."""
    total = announced or n
    if hdr is not None:
        if hdr.scan is not None:
            if math.prod(hdr.scan) == total:
                return hdr.scan, _missing(n, total)
            note = f"the .hdr states a scan of {hdr.scan[0]} x {hdr.scan[1]}, which is not the number of frames ({total})"
            return (total,), [note, *_missing(n, total), *_hint(total)]
        row = hdr.per_trigger
        if row is not None and 1 < row < total and total % row == 0:
            return (total // row, row), _missing(n, total)
    if total == 1:
        return (), []
    return (total,), [*_missing(n, total), *_hint(total)]


def _missing(n: int, total: int) -> list[str]:
    return [f"{n} of {total} announced frames are there; the others count as missing"] if n < total else []


def _hint(n: int) -> list[str]:
    if n < 4:
        return []
    rows = next((r for r in range(math.isqrt(n), 1, -1) if n % r == 0), None)
    return [f"{n} frames: pass scan={(rows, n // rows) if rows else '(y, x)'} if they are a scan"]


def _layouts(
    parts: Sequence[mib_set.Part], counters: tuple[int, ...], numbers: mib_set.Numbering
) -> tuple[tuple[str, ...], MibLayout | MibCounters]:
    how, head, record, n = parts[0].pixels, parts[0].head, parts[0].record, len(counters)
    step = n // numbers.per_number  # from a frame of one counter to its next
    made = []
    for k, counter in enumerate(counters):
        layout = MibLayout(
            files=tuple(replace(p.file, n_frames=p.file.n_frames // n, offset=k * record) for p in parts),
            sig=how.sig,
            dtype=how.dtype,
            stride=n * record,
            pixels=head.offset,
            how=how,
            numbers=tuple(None if first is None else first + k // numbers.per_number for first in numbers.first),
            number_step=step,
        )
        made.append((f"counter_{counter}", layout))
    if n == 1:
        return ("frames",), made[0][1]
    made.sort(key=lambda pair: pair[0])
    return tuple(name for name, _ in made), MibCounters(tuple(made))
