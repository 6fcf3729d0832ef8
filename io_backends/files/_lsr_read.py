"""Frames out of a recording: messages as they were stored, verified, decoded where they are needed."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from libstream.ext import EXCLUDED, MISSING, CodecError, FrameReader, Region, ScanOrder, Span, UsageError, lsr, wire
from libstream.io_backends.files._identity import StoredFile, changed
from libstream.io_backends.files._lsr_index import INDEX, RunIndex, index_of
from libstream.io_backends.files._openfile import aligned

_Arr = np.ndarray[Any, Any]

_EXTENT = 4 * 1024 * 1024
_GAP = 128 * 1024
"""Bytes between two frames up to which they are read in one go: tables of blocks, messages of other kinds."""
_MAX_OPEN = 64


@dataclass(frozen=True)
class Layout:
    """Pieces of a frame. shapes, dtypes: of one sector, by channel; kinds: for each kind of the run, whether it is decoded, by channel."""

    channels: tuple[str, ...]
    sectors: int
    shapes: tuple[tuple[int, int], ...]
    dtypes: tuple[str, ...]
    kinds: tuple[tuple[str, tuple[int, int], str], ...]
    known: tuple[bool, ...]

    @classmethod
    def of(cls, run: RunIndex, sectors: int) -> Layout:
        """Of a run that has frames; the first one of each channel decides. sectors: of a frame, 0 where that is not known."""
        rows = run.rows
        n = max(len(run.header.channels), int(rows["channel"].max()) + 1)
        named = run.header.channels if len(run.header.channels) == n else ()
        channels = named or (("frames",) if n == 1 else tuple(f"channel_{i + 1}" for i in range(n)))
        order = np.argsort(rows["bad"], kind="stable")  # a damaged one decides only where there is no other
        first = [run.kinds[int(rows["kind"][order[int(np.argmax(rows["channel"][order] == c))]])] for c in range(n)]
        known = []
        for codec, shape, dtype in run.kinds:
            try:
                wire.check(codec, shape, dtype)
                known.append(True)
            except CodecError:
                known.append(False)
        n_sectors = sectors or int(rows["sector"].max()) + 1
        return cls(channels, n_sectors, tuple(k[1] for k in first), tuple(k[2] for k in first), tuple(run.kinds), tuple(known))

    def frame_shape(self, channel: int) -> tuple[int, int]:
        """Shape (y, x) of a whole frame."""
        return self.shapes[channel][0] * self.sectors, self.shapes[channel][1]


def _placed(run: RunIndex, order: ScanOrder, layout: Layout) -> _Arr:
    """Row of each part of the frame at each position, int64 (n_positions, channels * sectors), -1 where there is none.

    The first of several parts counts, unless its checksum was wrong and a later one's is right.
    """
    rows = run.rows
    which = np.flatnonzero((rows["number"] < order.n_frames) & (rows["sector"] < layout.sectors))
    at = order.positions_of(rows["number"][which])
    which, at = which[at >= 0], at[at >= 0]
    piece = rows["channel"][which].astype(np.int64) * layout.sectors + rows["sector"][which]
    out = np.full((order.n_positions, len(layout.channels) * layout.sectors), -1, np.int64)
    # backwards, so that the first one is written last; good ones after bad ones
    last_first = np.lexsort((-which, rows["bad"][which] == 0))
    out[at[last_first], piece[last_first]] = which[last_first]
    return out


@dataclass(frozen=True, eq=False)
class RecordingOpener:
    """Opens readers of one run (an `Opener`). Travels without the table of frames where that is kept in the folder."""

    folder: str
    files: tuple[StoredFile, ...]
    number: int
    check: str
    order: ScanOrder
    layout: Layout
    run: RunIndex | None = field(repr=False)

    def __post_init__(self) -> None:
        run = self.run
        if run is None:
            index = index_of(self.folder)
            if index.check != self.check:
                raise changed(self.files[0], f"and its {INDEX} were written anew", self.check, index.check or "nothing")
            run = index.runs[self.number]
            object.__setattr__(self, "run", run)
        object.__setattr__(self, "rows", run.rows)
        object.__setattr__(self, "placed", _placed(run, self.order, self.layout))

    def __reduce__(self) -> tuple[Any, ...]:
        run = None if self.check else self.run
        return (RecordingOpener, (self.folder, self.files, self.number, self.check, self.order, self.layout, run))

    rows: _Arr = field(init=False, repr=False)
    placed: _Arr = field(init=False, repr=False)

    @property
    def fate(self) -> _Arr:
        """What is known of each position without reading: 0 or MISSING or EXCLUDED, uint8 (n_positions,)."""
        fate = np.where((self.placed < 0).any(axis=1), MISSING, 0).astype(np.uint8)
        fate[self.order.left_out()] = EXCLUDED
        return fate

    def open_reader(self, channel: str) -> RecordingReader:
        """A reader of `channel`. Raises UsageError naming the channels there are."""
        if channel not in self.layout.channels:
            raise UsageError(f"no channel {channel!r}; there are {', '.join(map(repr, self.layout.channels))}")
        return RecordingReader(self, self.layout.channels.index(channel))


class RecordingReader(FrameReader):
    """Reads messages as they were stored, verifies their checksums, decodes their pixels."""

    def __init__(self, opener: RecordingOpener, channel: int) -> None:
        self._of, self._channel = opener, channel
        self._open: OrderedDict[int, int] = OrderedDict()
        self._scratch = aligned(_EXTENT)
        self._shape, self._dtype = opener.layout.shapes[channel], np.dtype(opener.layout.dtypes[channel])
        kinds, dtype = zip(opener.layout.known, opener.layout.kinds, strict=True), opener.layout.dtypes[channel]
        self._usable = np.array([known and kind[1:] == (self._shape, dtype) for known, kind in kinds])

    def view(self) -> None:
        """Frames are encoded."""
        return None

    def check(self) -> None:
        """Raise SourceChangedError where a file in use was shortened. It may have grown: frames are verified one by one."""
        for i, fd in self._open.items():
            size = os.fstat(fd).st_size
            if size < self._of.files[i].size:
                raise changed(self._of.files[i], "was shortened", f"{self._of.files[i].size} bytes", f"{size} bytes")

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def read_into(self, out: _Arr, frames: Span, region: Region) -> _Arr | None:
        """See `FrameReader`; False for frames that are missing, damaged, or of another shape or dtype than the run."""
        opener, sectors = self._of, self._of.layout.sectors
        whole = opener.layout.frame_shape(self._channel)
        band = region.rows
        outside = frames.stop > len(opener.placed) or band.start < 0 or band.stop > whole[0]
        if outside or tuple(region.shape[1:]) != whole[1:] or any(region.origin[1:]):
            raise UsageError(f"{region} of frames {frames.start} to {frames.stop} is not in {len(opener.placed)} frames of shape {whole}")
        if out.shape != (len(frames), *region.shape) or out.dtype != self._dtype or not out.flags.c_contiguous:
            raise UsageError(f"out is {out.shape} {out.dtype}, expected C-contiguous {(len(frames), *region.shape)} {self._dtype}")
        n = len(frames)
        valid = np.ones(n, bool)
        if not out.size:
            return None
        flat = out.reshape(-1).view(np.uint8)
        frame_bytes, line = flat.size // n, whole[1] * self._dtype.itemsize
        height = self._shape[0]
        for sector in range(sectors):
            top = sector * height
            first, last = max(band.start, top) - top, min(band.stop, top + height) - top
            which = opener.placed[frames.start : frames.stop, self._channel * sectors + sector]
            there = which >= 0
            valid &= there
            if first >= last:
                continue
            to = np.arange(n, dtype=np.int64) * frame_bytes + (top + first - band.start) * line
            index = np.flatnonzero(there)
            good = self._read(which[index], flat, to[index], (first, last))
            valid[index[~good]] = False
        return None if valid.all() else valid

    def _read(self, which: _Arr, out: _Arr, to: _Arr, band: tuple[int, int]) -> _Arr:
        """Rows `band` of the parts in rows `which` of the table, to out[to[i] :]; False where one is damaged."""
        rows = self._of.rows[which]
        good = self._usable[rows["kind"]]
        order = np.lexsort((rows["part_at"], rows["file"]))
        order = order[good[order]]
        for start, stop in _extents(rows[order]):
            these = order[start:stop]
            part = rows[these]
            base = int(part["part_at"][0])
            size = int((part["part_at"] + part["part_size"]).max()) - base
            raw = self._bytes(int(part["file"][0]), base, size)
            fine = lsr.sums(raw, part["part_at"] - base, part["part_size"]) == part["sum"]
            for kind in np.unique(part["kind"]).tolist():
                codec, shape, dtype = self._of.layout.kinds[kind]
                of_kind = fine & (part["kind"] == kind)
                some = part[of_kind]
                fine[of_kind] = wire.decode(codec, shape, dtype, raw, some["at"] - base, some["size"], out, to[these[of_kind]], band)
            good[these] = fine
        return good

    def _bytes(self, file: int, start: int, size: int) -> _Arr:
        if self._scratch.size < size:
            self._scratch = aligned(size)
        raw = self._scratch[:size]
        fd, done = self._fd(file), 0
        while done < size:
            try:
                n = _read_at(fd, memoryview(raw)[done:], start + done)
            except OSError as exc:
                raise changed(self._of.files[file], "could not be read", f"bytes at {start}", exc.strerror or str(exc)) from exc
            if n == 0:
                raise changed(self._of.files[file], f"ends at byte {start + done}", f"{size} bytes at byte {start}", f"{done} bytes")
            done += n
        return raw

    def _fd(self, file: int) -> int:
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        stored = self._of.files[file]
        try:
            fd = os.open(stored.path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError as exc:
            raise changed(stored, "cannot be opened any more", f"{stored.size} bytes", exc.strerror or str(exc)) from exc
        self._open[file] = fd
        if len(self._open) > _MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        self.check()
        return fd


def _read_at(fd: int, into: memoryview, start: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [into], start)
    os.lseek(fd, start, os.SEEK_SET)
    raw = os.read(fd, len(into))
    into[: len(raw)] = raw
    return len(raw)


def _extents(rows: _Arr) -> Iterator[tuple[int, int]]:
    """Neighbours [start, stop) in `rows`, which are sorted by file and place, that are read in one go."""
    files, begins, sizes = rows["file"].tolist(), rows["part_at"].tolist(), rows["part_size"].tolist()
    start = 0
    for i in range(1, len(rows) + 1):
        if i < len(rows):
            end = begins[i - 1] + sizes[i - 1]
            if files[i] == files[start] and begins[i] - end <= _GAP and begins[i] + sizes[i] - begins[start] <= _EXTENT:
                continue
        yield start, i
        start = i
