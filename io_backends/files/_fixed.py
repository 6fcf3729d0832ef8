"""Frames of fixed size in one or several regular files: raw, npy, MIB, EMPAD, BLO and others share this reader."""

from __future__ import annotations

import bisect
import mmap
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Protocol, Self

import numpy as np

from libstream.ext import FrameReader, Region, Span, UsageError
from libstream.io_backends.files._identity import StoredFile, changed, may_map, verify_path
from libstream.io_backends.files._openfile import OpenFile, aligned

_Arr = np.ndarray[Any, Any]

# read unit of the indirect path: 2 MiB stay in L2, from where they are swapped or decoded (1 to 2 MiB were equally fast)
_CHUNK = 2 * 1024 * 1024
# gaps up to this size are read into a dustbin by the same call: cheaper than one call per frame
_SMALL_GAP = 16 * 1024
# below this, handling one buffer per frame costs more than copying the frame
_SMALL_FRAME = 8 * 1024
_IOV = 1024
_MAX_OPEN = 64


class FrameDecoder(Protocol):
    """Makes pixels of stored bytes that are no plain numbers. A picklable object without state.

    by_rows: row i of a frame is stored in `stored_bytes / ny` bytes of its own, in order: bands of rows are decoded alone.
    """

    by_rows: bool

    def decode(self, raw: _Arr, out: _Arr) -> _Arr | None:
        """Decode `raw`, uint8 (n, bytes), C-contiguous, into `out` (n, rows, nx), C-contiguous, of the layout's dtype.

        Returns None where all frames are good, else bool (n,): False for corrupt ones.
        """


@dataclass(frozen=True)
class FixedLayout:
    """Where frames of fixed size lie in files; opens readers of them (an `Opener`).

    files: in order of their frames; each with its number of frames and the offset of its first record (`stat_file`).
    sig: shape of a frame as it is handed out.
    dtype: of a stored pixel, any byte order; with a decoder: of the decoded pixel, native.
    stride: bytes from one record to the next.
    pixels: byte within a record at which its pixels begin.
    stored: shape of a stored frame where it is larger than `sig`: rows and columns at the end are dropped.
    decoder, stored_bytes: maker of pixels, and the bytes of a frame that it gets.
    io: "auto" maps files where that is safe; "read" never does; "direct" reads past the system's cache of files.
    """

    files: tuple[StoredFile, ...]
    sig: tuple[int, ...]
    dtype: np.dtype[Any]
    stride: int
    pixels: int = 0
    stored: tuple[int, ...] = ()
    decoder: FrameDecoder | None = None
    stored_bytes: int = 0
    io: str = field(default="auto", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        object.__setattr__(self, "stored", tuple(self.stored) or tuple(self.sig))
        if len(self.stored) != len(self.sig) or any(a < b for a, b in zip(self.stored, self.sig, strict=True)):
            raise UsageError(f"stored frame shape {self.stored} does not hold frames of shape {self.sig}")
        if self.decoder is None:
            size = int(np.prod(self.stored, dtype=object)) * self.dtype.itemsize
            object.__setattr__(self, "stored_bytes", size)
        elif not self.dtype.isnative or self.stored != tuple(self.sig):
            raise UsageError("a decoder writes native pixels of the frame shape itself")

    def with_io(self, io: str) -> Self:
        """The same frames, read in another way. Raises UsageError where this system cannot."""
        if io == "direct" and not hasattr(os, "O_DIRECT"):
            raise UsageError("io='direct' needs a system with direct reading (Linux); use io='read'")
        return replace(self, io=io)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_mappings"}

    def mapping(self, i: int, fd: int) -> mmap.mmap | None:
        """File i mapped, None where that is not safe. Raises SourceChangedError where the file is not what it was.

        Shared by all readers of this layout in this process, and kept as long as the source is: the page tables of a fresh
        mapping cost as much as reading the data twice (21 against 15 GB/s). A mapping holds a file open: many files are read.
        """
        held: dict[int, mmap.mmap | None] = self.__dict__.setdefault("_mappings", {})
        if i not in held:
            file = self.files[i]
            verify_path(file)
            wanted = self.io == "auto" and len(self.files) <= _MAX_OPEN and may_map(file)
            try:
                held[i] = mmap.mmap(fd, file.size, access=mmap.ACCESS_READ) if wanted else None
            except (OSError, ValueError) as exc:  # ValueError: shortened since the line before
                raise changed(file, "could not be mapped", f"{file.size} bytes", str(exc)) from exc
        return held[i]

    @property
    def out_dtype(self) -> np.dtype[Any]:
        """dtype of the frames as read: native."""
        return self.dtype.newbyteorder("=")

    @property
    def n_frames(self) -> int:
        """Frames in all files."""
        return sum(f.n_frames for f in self.files)

    @property
    def row_bytes(self) -> int:
        """Stored bytes of one row."""
        return self.stored_bytes // max(1, self.stored[0])

    def open_reader(self, channel: str) -> FixedReader:
        """Open a reader; every channel is the same here (several layouts: `ChannelLayouts`)."""
        return FixedReader(self)


@dataclass(frozen=True)
class ChannelLayouts:
    """One layout for each channel, in order (an `Opener`): interleaved thresholds, several counters."""

    layouts: tuple[tuple[str, FixedLayout], ...]

    def with_io(self, io: str) -> ChannelLayouts:
        """See `FixedLayout.with_io`."""
        return ChannelLayouts(tuple((name, layout.with_io(io)) for name, layout in self.layouts))

    def open_reader(self, channel: str) -> FixedReader:
        """Open a reader of `channel`. Raises UsageError naming the channels there are."""
        for name, layout in self.layouts:
            if name == channel:
                return FixedReader(layout)
        raise UsageError(f"no channel {channel!r}; there are {', '.join(repr(n) for n, _ in self.layouts)}")


class FixedReader(FrameReader):
    """Reads frames of a `FixedLayout`. Files are opened at first use; the least recently used ones are closed beyond 64."""

    def __init__(self, layout: FixedLayout) -> None:
        self.layout = layout
        self._starts = [0, *accumulate(f.n_frames for f in layout.files)]
        self._open: OrderedDict[int, OpenFile] = OrderedDict()
        self._scratch: _Arr | None = None
        self._dustbin = bytearray(_SMALL_GAP)
        self._closed = False
        if layout.files:
            self._file(0)  # a deleted or changed file is noticed now

    def check(self) -> None:
        """Raise SourceChangedError where a file in use is not what it was."""
        for i in self._open:
            verify_path(self.layout.files[i])

    def close(self) -> None:
        """Close all files."""
        self._closed = True
        while self._open:
            self._open.popitem()[1].close()
        self._scratch = None

    def view(self) -> _Arr | None:
        """All frames (n_frames, *sig) as a read-only array over the mapped file, or None."""
        lay = self.layout
        if not self._direct or len(lay.files) != 1 or not self._aligned_in(0) or lay.n_frames == 0:
            return None
        file = lay.files[0]
        mapped = lay.mapping(0, self._file(0).fd)
        if mapped is None:
            return None
        verify_path(file)
        item = lay.dtype.itemsize
        inner = [item]
        for n in reversed(lay.sig[1:]):
            inner.insert(0, inner[0] * n)
        shape = (file.n_frames, *lay.sig)
        first = file.offset + lay.pixels
        return np.ndarray(shape, lay.dtype, buffer=mapped, offset=first, strides=(lay.stride, *inner))

    def read_into(self, out: _Arr, frames: Span, region: Region) -> _Arr | None:
        """Read frames, cut to `region`, into `out` (see `FrameReader`)."""
        lay = self.layout
        n_all = self._starts[-1]
        if frames.stop > n_all:
            raise UsageError(f"frames {frames.start} to {frames.stop} were asked for, {lay.files[0].path} has {n_all}")
        rows = region.rows
        if region.origin[0] < 0 or rows.stop > lay.sig[0] or tuple(region.shape[1:]) != tuple(lay.sig[1:]) or any(region.origin[1:]):
            raise UsageError(f"region {region} is no band of whole rows of frames of shape {lay.sig}")
        if out.shape != (len(frames), *region.shape) or out.dtype != lay.out_dtype or not out.flags.c_contiguous:
            raise UsageError(f"out is {out.shape} {out.dtype}, expected C-contiguous {(len(frames), *region.shape)} {lay.out_dtype}")
        valid: _Arr | None = None
        done = frames.start
        while done < frames.stop and out.size:
            i = bisect.bisect_right(self._starts, done) - 1
            stop = min(frames.stop, self._starts[i + 1])
            a, b = done - frames.start, stop - frames.start
            good = self._read_file(i, done - self._starts[i], out[a:b], rows)
            if good is not None:
                valid = np.ones(len(frames), bool) if valid is None else valid
                valid[a:b] = good
            done = stop
        return valid

    def _read_file(self, i: int, first: int, out: _Arr, rows: slice) -> _Arr | None:
        lay = self.layout
        n = len(out)
        by_rows = lay.decoder is None or lay.decoder.by_rows
        skip = rows.start * lay.row_bytes if by_rows else 0
        n_bytes = (rows.stop - rows.start) * lay.row_bytes if by_rows else lay.stored_bytes
        gap = lay.stride - n_bytes
        if self._direct:
            flat = out.reshape(n, -1).view(np.uint8)
            # Whole frames: preadv is faster than touching a fresh mapping (18 against 14 GB/s); bands, far apart: mapping, 8 against 4.5
            small = n_bytes < _SMALL_FRAME and gap > 0
            raw = self._mapped(i, first, n, skip, n_bytes) if small or gap > _SMALL_GAP else None
            if raw is not None:
                np.copyto(flat, raw)
            else:
                self._read_packed(i, first, skip, flat)
            return None
        if lay.decoder is None and self._aligned_in(i):
            raw = self._mapped(i, first, n, skip, n_bytes)
            if raw is not None:
                return self._convert(raw, out, rows)
        valid: _Arr | None = None
        step = max(1, _CHUNK // max(n_bytes, 1))
        for a in range(0, n, step):
            part = out[a : a + step]
            raw = self._buffer(len(part) * n_bytes).reshape(len(part), n_bytes)
            self._read_packed(i, first + a, skip, raw)
            good = self._convert(raw, part, rows)
            if good is not None:
                valid = np.ones(n, bool) if valid is None else valid
                valid[a : a + step] = good
        return valid

    @property
    def _direct(self) -> bool:
        """True where stored rows are what is handed out: native numbers, no column dropped, any bit pattern valid."""
        lay = self.layout
        return lay.decoder is None and lay.dtype.isnative and lay.dtype != bool and lay.stored[1:] == lay.sig[1:]

    def _aligned_in(self, i: int) -> bool:
        """True where numbers lie at multiples of their size: swapping others is twice as slow as reading them to a good place."""
        lay = self.layout
        item = lay.dtype.itemsize
        return (lay.files[i].offset + lay.pixels) % item == 0 and lay.stride % item == 0

    def _mapped(self, i: int, first: int, n: int, skip: int, n_bytes: int) -> _Arr | None:
        """Bytes [skip, skip + n_bytes) of the pixels of n frames, uint8 (n, n_bytes) over the mapping, or None."""
        mapped = self.layout.mapping(i, self._file(i).fd)
        if mapped is None:
            return None
        file, stride = self.layout.files[i], self.layout.stride
        verify_path(file)  # touching a mapped file beyond its new end would kill the process
        start = file.offset + first * stride + self.layout.pixels + skip
        return np.ndarray((n, n_bytes), np.uint8, buffer=mapped, offset=start, strides=(stride, 1))

    def _convert(self, raw: _Arr, out: _Arr, rows: slice) -> _Arr | None:
        lay = self.layout
        if lay.decoder is None:
            # bytes other than 0 and 1 are no valid bool in memory; they mean True
            stored = raw.view(np.uint8 if lay.dtype == bool else lay.dtype)
            stored = stored.reshape(len(out), out.shape[1], *lay.stored[1:])
            cut = stored[(slice(None), slice(None), *(slice(0, s) for s in lay.sig[1:]))]
            np.copyto(out, cut, casting="unsafe")
            return None
        if lay.decoder.by_rows or out.shape[1:] == lay.sig:
            return lay.decoder.decode(raw, out)
        full = np.empty((len(out), *lay.sig), lay.dtype)
        good = lay.decoder.decode(raw, full)
        np.copyto(out, full[:, rows])
        return good

    def _read_packed(self, i: int, first: int, skip: int, dest: _Arr) -> None:
        """Fill `dest`, uint8 (n, n_bytes) contiguous, with bytes [skip, skip + n_bytes) of the pixels of n frames."""
        lay = self.layout
        n, n_bytes = dest.shape
        start = lay.files[i].offset + first * lay.stride + lay.pixels + skip
        gap = lay.stride - n_bytes
        if gap == 0:
            self._read(i, memoryview(dest.reshape(-1)), start)
            return
        if gap <= _SMALL_GAP and hasattr(os, "preadv"):
            if n_bytes < _SMALL_FRAME:
                self._read_strided(i, start, dest)
            else:
                self._read_scattered(i, start, dest)
            return
        flat = memoryview(dest.reshape(-1))
        for k in range(n):
            self._read(i, flat[k * n_bytes : (k + 1) * n_bytes], start + k * lay.stride)

    def _read_scattered(self, i: int, start: int, dest: _Arr) -> None:
        """Frames with small gaps between them: one call for many frames, the gaps go into the dustbin."""
        n, n_bytes = dest.shape
        stride = self.layout.stride
        waste = memoryview(self._dustbin)[: stride - n_bytes]
        flat = memoryview(dest.reshape(-1))
        step = _IOV // 2
        for a in range(0, n, step):
            b = min(n, a + step)
            parts = [p for k in range(a, b) for p in (flat[k * n_bytes : (k + 1) * n_bytes], waste)][:-1]
            expected = (b - a - 1) * stride + n_bytes
            if self._preadv(i, parts, start + a * stride) != expected:  # interrupted, or more than one call can take
                for k in range(a, b):
                    self._read(i, flat[k * n_bytes : (k + 1) * n_bytes], start + k * stride)

    def _read_strided(self, i: int, start: int, dest: _Arr) -> None:
        """Small frames with small gaps: read all, copy the pixels out."""
        n, n_bytes = dest.shape
        stride = self.layout.stride
        step = max(1, _CHUNK // stride)
        spare = aligned(min(n, step) * stride)
        for a in range(0, n, step):
            b = min(n, a + step)
            size = (b - a - 1) * stride + n_bytes
            self._read(i, memoryview(spare[:size]), start + a * stride)
            np.copyto(dest[a:b], np.lib.stride_tricks.as_strided(spare, (b - a, n_bytes), (stride, 1), writeable=False))

    def _read(self, i: int, dest: memoryview, start: int) -> None:
        """Fill `dest` from byte `start` of file i."""
        done = 0
        while done < len(dest):
            n = self._preadv(i, [dest[done:]], start + done)
            if n == 0:
                file = self.layout.files[i]
                end = start + len(dest)
                raise changed(file, f"ends at byte {start + done}", f"{len(dest)} bytes at byte {start} (to {end})", f"{done} bytes")
            done += n

    def _preadv(self, i: int, parts: Sequence[memoryview], start: int) -> int:
        return self._file(i).preadv(parts, start)

    def _file(self, i: int) -> OpenFile:
        found = self._open.get(i)
        if found is not None:
            self._open.move_to_end(i)
            return found
        if self._closed:
            raise UsageError(f"{self.layout.files[i].path}: this reader is closed")
        self._open[i] = found = OpenFile(self.layout.files[i], direct=self.layout.io == "direct")
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        return found

    def _buffer(self, size: int) -> _Arr:
        if self._scratch is None or self._scratch.size < size:
            self._scratch = aligned(max(size, _CHUNK))
        return self._scratch[:size]
