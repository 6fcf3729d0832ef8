"""Frames from datasets of HDF5 files: straight from the chunks where that is possible, else through HDF5."""

from __future__ import annotations

import bisect
import math
import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from libstream.ext import FormatError, FrameReader, Opener, Region, Span, UsageError, bslz4
from libstream.io_backends.files._fixed import FixedLayout
from libstream.io_backends.files._h5chunks import Codec, chunk_table, codec_of, grid_of, steps_of
from libstream.io_backends.files._h5library import LibraryPart
from libstream.io_backends.files._h5open import H5Dataset, need_filters
from libstream.io_backends.files._identity import changed, verify, verify_path

_Arr = np.ndarray[Any, Any]
_MAX_OPEN = 64
_READ_BYTES = 4 * 1024 * 1024  # compressed bytes of one read: several MiB of frames, and it stays in L2 and L3
_GAP_BYTES = 16 * 1024  # chunks this far apart are still read by one call
_KEEP_BYTES = 64 * 1024 * 1024  # of decoded or compressed chunks that hold more frames than were asked for


def opener_of(parts: tuple[H5Dataset, ...], sig_dims: int, every: tuple[int, int] = (0, 1)) -> Opener:
    """The quickest opener for datasets with the same kind of frames, whose frames follow each other.

    every: (first, step): the frames first, first + step, ... of each part are those of a channel.
    Frames that lie in the file as they are give a `FixedLayout`, which can be mapped. Raises NotInstalledError where HDF5 is needed
    for a filter that it does not have.
    """
    flat = [_flat(p, sig_dims) for p in parts]
    strides = {f[1] for f in flat if f is not None}
    first, step = every
    if all(f is not None for f in flat) and len(strides) == 1:
        stride = strides.pop()
        files = tuple(
            replace(p.file, n_frames=n_frames(p, sig_dims, step), offset=f[0] + first * stride)
            for p, f in zip(parts, flat, strict=True)
            if f is not None
        )
        return FixedLayout(files, parts[0].shape[-sig_dims:], parts[0].dtype, step * stride)
    for part in parts:
        if not _by_chunks(part):
            need_filters(part)
    return H5Layout(parts, sig_dims, every)


def n_frames(part: H5Dataset, sig_dims: int, step: int = 1) -> int:
    """Frames of a dataset that holds `step` channels."""
    return math.prod(part.shape[:-sig_dims]) // step


def _by_chunks(part: H5Dataset) -> bool:
    return part.direct and bool(part.chunks) and steps_of(part) is not None


def _flat(part: H5Dataset, sig_dims: int) -> tuple[int, int] | None:
    """(offset, stride) where frame i lies unpacked at byte offset + i * stride, else None."""
    n_bytes = math.prod(part.shape[-sig_dims:]) * part.dtype.itemsize
    if not part.direct or part.filters:
        return None
    if not part.chunks:
        return (part.offset, n_bytes) if part.offset >= 0 else None
    per = _frames_per_chunk(part, sig_dims)
    if per == 0:
        return None
    at = chunk_table(part).at
    step = int(at[1] - at[0]) if at.size > 1 else per * n_bytes
    if (at < 0).any() or (np.diff(at) != step).any() or step < n_bytes or (per > 1 and step != per * n_bytes):
        return None
    return int(at[0]), step if per == 1 else n_bytes


def _frames_per_chunk(part: H5Dataset, sig_dims: int) -> int:
    """Frames of a chunk where these are whole and follow each other in the order of the scan, else 0."""
    nav, sig = part.chunks[:-sig_dims], part.chunks[-sig_dims:]
    if sig != part.shape[-sig_dims:]:
        return 0
    whole = True  # all faster axes lie in one chunk
    for c, n in zip(reversed(nav), reversed(part.shape[:-sig_dims]), strict=True):
        if n % c or (c != 1 and not whole):
            return 0
        whole = whole and c == n
    return math.prod(nav)


@dataclass(frozen=True)
class H5Layout:
    """Frames of several datasets, one after the other (an `Opener`). sig_dims: the last axes of each, which are the frame.

    every: (first, step) of the frames that belong to the channel.
    """

    parts: tuple[H5Dataset, ...]
    sig_dims: int
    every: tuple[int, int] = (0, 1)

    @property
    def sig(self) -> tuple[int, ...]:
        """Shape of a frame."""
        return self.parts[0].shape[-self.sig_dims :]

    def open_reader(self, channel: str) -> H5Reader:
        """Open a reader; all channels are the same here."""
        return H5Reader(self)


class Part(Protocol):
    """Reads frames of one dataset."""

    def read(self, first: int, out: _Arr, rows: slice) -> _Arr | None:
        """Frames from `first` on into `out` (n, rows, columns), native dtype. Returns what `FrameReader.read_into` does."""

    def close(self) -> None:
        """Close its file."""


class H5Reader(FrameReader):
    """Reads frames of an `H5Layout`. Files are opened at first use; the least recently used ones are closed beyond 64."""

    def __init__(self, layout: H5Layout) -> None:
        self.layout = layout
        self._starts = [0, *accumulate(n_frames(p, layout.sig_dims, layout.every[1]) for p in layout.parts)]
        self._open: OrderedDict[int, Part] = OrderedDict()
        self._closed = False
        self._part(0)  # a deleted or changed file is noticed now

    def read_into(self, out: _Arr, frames: Span, region: Region) -> _Arr | None:
        """Read frames, cut to `region`, into `out` (see `FrameReader`)."""
        lay, rows = self.layout, region.rows
        dtype = lay.parts[0].dtype.newbyteorder("=")
        if frames.stop > self._starts[-1]:
            raise UsageError(f"frames {frames.start} to {frames.stop} were asked for, {lay.parts[0].where} has {self._starts[-1]}")
        if rows.start < 0 or rows.stop > lay.sig[0] or tuple(region.shape[1:]) != lay.sig[1:] or any(region.origin[1:]):
            raise UsageError(f"region {region} is no band of whole rows of frames of shape {lay.sig}")
        if out.shape != (len(frames), *region.shape) or out.dtype != dtype or not out.flags.c_contiguous:
            raise UsageError(f"out is {out.shape} {out.dtype}, expected C-contiguous {(len(frames), *region.shape)} {dtype}")
        good: _Arr | None = None
        flat = out.reshape(len(frames), region.shape[0], -1) if out.size else out
        done = frames.start
        while done < frames.stop and out.size:
            i = bisect.bisect_right(self._starts, done) - 1
            stop = min(frames.stop, self._starts[i + 1])
            a, b = done - frames.start, stop - frames.start
            valid = self._part(i).read(done - self._starts[i], flat[a:b], rows)
            if valid is not None and not valid.all():
                good = np.ones(len(frames), bool) if good is None else good
                good[a:b] = valid
                out[a:b][~valid] = 0
            done = stop
        return good

    def view(self) -> None:
        """Chunks have to be decoded."""
        return None

    def check(self) -> None:
        """Raise SourceChangedError where a file in use is not what it was."""
        for i in self._open:
            part = self.layout.parts[i]
            for file in (part.file, *part.others):
                verify_path(file)

    def close(self) -> None:
        """Close all files."""
        self._closed = True
        while self._open:
            self._open.popitem()[1].close()

    def _part(self, i: int) -> Part:
        part = self._open.get(i)
        if part is not None:
            self._open.move_to_end(i)
            return part
        dataset = self.layout.parts[i]
        if self._closed:
            raise UsageError(f"{dataset.where}: this reader is closed")
        for file in (dataset.file, *dataset.others):
            verify_path(file)
        kind = ChunkPart if _by_chunks(dataset) else LibraryPart
        part = self._open[i] = kind(dataset, self.layout.sig_dims, self.layout.every)
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        return part


class ChunkPart:
    """Reads chunks from the file itself and decodes them without HDF5, hence without its lock."""

    def __init__(self, dataset: H5Dataset, sig_dims: int, every: tuple[int, int]) -> None:
        self.dataset = dataset
        self.every = every
        shape, chunks = dataset.shape, dataset.chunks
        self.nav, self.nav_chunk = shape[:-sig_dims], chunks[:-sig_dims]
        # a spectrum is an image of one column
        self.sig, self.sig_chunk = (tuple(s[-sig_dims:]) + (1,) * (2 - sig_dims) for s in (shape, chunks))
        self.per_chunk = math.prod(self.nav_chunk)
        self.table = chunk_table(dataset)
        self.sig_grid = tuple(-(-n // c) for n, c in zip(self.sig, self.sig_chunk, strict=True))
        self.nav_grid = grid_of(dataset)[:-sig_dims]
        self.item = dataset.dtype.itemsize
        self.chunk_bytes = math.prod(chunks) * self.item
        codec = codec_of(dataset) if self.sig_chunk == self.sig else None
        self.codec = codec if codec is not None and self.item % codec.item == 0 else None
        self.steps = steps_of(dataset) or ()
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._kept_bytes = 0
        self._scratch = np.empty(0, np.uint8)
        if self.codec is not None:
            bslz4.warm_up()
        try:
            self._fd = os.open(dataset.file.path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError as exc:
            raise changed(dataset.file, "cannot be opened any more", f"{dataset.file.size} bytes", exc.strerror or str(exc)) from exc
        try:
            verify(dataset.file, os.fstat(self._fd))
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
        self._kept.clear()
        self._scratch = np.empty(0, np.uint8)

    def read(self, first: int, out: _Arr, rows: slice) -> _Arr | None:
        """See `Part`."""
        n, (offset, step) = len(out), self.every
        frame = offset + step * np.arange(first, first + n)
        if self.per_chunk == 1:
            chunk, inner = frame, np.zeros(n, np.int64)
        else:
            where = np.unravel_index(frame, self.nav)
            chunk = np.ravel_multi_index(tuple(w // c for w, c in zip(where, self.nav_chunk, strict=True)), self.nav_grid)
            inner = np.ravel_multi_index(tuple(w % c for w, c in zip(where, self.nav_chunk, strict=True)), self.nav_chunk)
        if self.codec is not None:
            good = self._whole_frames(self.codec, chunk, inner, out, rows)
        else:
            good = self._pieces(chunk, inner, out, rows)
        if self.dataset.dtype == bool:
            np.not_equal(out.view(np.uint8), 0, out=out)  # bytes other than 0 and 1 are no valid bool in memory
        elif not self.dataset.dtype.isnative:
            out.byteswap(inplace=True)
        return good

    # -- chunks of whole frames under one codec: compiled, no GIL ------------------------------------------------------

    def _whole_frames(self, codec: Codec, chunk: _Arr, inner: _Arr, out: _Arr, rows: slice) -> _Arr:
        row_bytes, height = self.sig[1] * self.item, rows.stop - rows.start
        size = height * row_bytes
        first = inner * (self.sig[0] * row_bytes) + rows.start * row_bytes
        to = np.arange(len(chunk)) * size
        last = first + size
        # neighbours within a chunk are one part, so that each block is visited once
        joined = np.zeros(len(chunk), bool)
        joined[1:] = (chunk[1:] == chunk[:-1]) & (first[1:] == last[:-1])
        begin = np.flatnonzero(~joined)
        end = np.append(begin[1:], len(chunk))
        chunk, first, to, last = chunk[begin], first[begin], to[begin], last[end - 1]
        at, stored, mask = self.table.at[chunk], self.table.size[chunk], self.table.mask[chunk]
        if codec.kind == bslz4.STORED:  # only what is wanted is read
            at, stored, first, last = np.where(at < 0, at, at + first), last - first, np.zeros_like(first), last - first
        good = np.zeros(len(chunk), bool)
        flat = out.reshape(-1).view(np.uint8)
        total = self.chunk_bytes if codec.kind != bslz4.STORED else 0
        for a, b in self._groups(at, stored):
            if total and self.per_chunk > 1:
                src, base = self._compressed(int(chunk[a])), int(at[a])
            else:
                base = int(at[a])
                src = self._bytes(base, int(at[b - 1] + stored[b - 1]) - base)
            if src is None:
                continue
            lots: list[tuple[int, Any]] = [(codec.kind, slice(a, b))]
            if not total:
                lots = [(bslz4.STORED, slice(i, i + 1)) for i in range(a, b)]
            elif mask[a:b].any():  # chunks that were stored without the filter
                lots = [(kind, np.flatnonzero(mask[a:b] & 1 == bit) + a) for kind, bit in ((codec.kind, 0), (bslz4.STORED, 1))]
            for kind, lot in lots:
                good[lot] = bslz4.decode_parts(
                    src, at[lot] - base, stored[lot], flat, to[lot], kind=kind, item=codec.item,
                    total=total or int(last[lot][0]), first=first[lot], last=last[lot],
                )  # fmt: skip
        return np.repeat(good, end - begin)

    def _groups(self, at: _Arr, stored: _Arr) -> list[tuple[int, int]]:
        """Ranges of parts whose chunks are read together: in rising order, close to each other, not too many bytes."""
        groups: list[tuple[int, int]] = []
        ends = at + stored
        a = 0
        breaks = np.ones(len(at), bool)
        if self.per_chunk == 1:
            breaks[1:] = (at[1:] < ends[:-1]) | (at[1:] - ends[:-1] > _GAP_BYTES) | (at[1:] < 0) | (at[:-1] < 0)
        for b in [*np.flatnonzero(breaks)[1:].tolist(), len(at)]:
            while a < b:
                stop = a + 1
                if self.per_chunk == 1:
                    stop = max(stop, a + int(np.searchsorted(ends[a:b], at[a] + _READ_BYTES, side="right")))
                if at[a] >= 0:  # else a chunk that was never written: its frames are lost
                    groups.append((a, stop))
                a = stop
        return groups

    def _compressed(self, chunk: int) -> _Arr | None:
        """Stored bytes of a chunk that holds several frames: the next call will want it too."""
        if chunk not in self._kept:
            raw = self._bytes(int(self.table.at[chunk]), int(self.table.size[chunk]))
            self._keep(chunk, None if raw is None else raw.copy())
        self._kept.move_to_end(chunk)
        kept: _Arr | None = self._kept[chunk]
        return kept

    # -- chunks of parts of frames, or with other filters: decoded whole -----------------------------------------------

    def _pieces(self, chunk: _Arr, inner: _Arr, out: _Arr, rows: slice) -> _Arr:
        good = np.ones(len(chunk), bool)
        begin = np.flatnonzero(np.diff(chunk, prepend=-1))
        ch, cw = self.sig_chunk
        for a, b in zip(begin.tolist(), [*begin[1:].tolist(), len(chunk)], strict=True):
            for gy in range(rows.start // ch, -(-rows.stop // ch)):
                top, bottom = max(rows.start, gy * ch), min(rows.stop, (gy + 1) * ch, self.sig[0])
                for gx in range(self.sig_grid[1]):
                    number = (int(chunk[a]) * self.sig_grid[0] + gy) * self.sig_grid[1] + gx
                    block = self._decoded(number)
                    if block is None:
                        good[a:b] = False
                        continue
                    left, right = gx * cw, min((gx + 1) * cw, self.sig[1])
                    piece = block[inner[a:b], top - gy * ch : bottom - gy * ch, : right - left]
                    out[a:b, top - rows.start : bottom - rows.start, left:right] = piece.view(out.dtype)
        return good

    def _decoded(self, number: int) -> _Arr | None:
        """Chunk `number` as (frames, rows, columns) in the bytes of the file; None where it is damaged or was never written."""
        if number in self._kept:
            self._kept.move_to_end(number)
            kept: _Arr | None = self._kept[number]
            return kept
        at, size, mask = (int(c[number]) for c in (self.table.at, self.table.size, self.table.mask))
        data: Any = self._bytes(at, size) if at >= 0 else None
        # shuffled or compressed twice, a chunk may be a little larger in between
        limit = self.chunk_bytes + self.chunk_bytes // 8 + 4096
        try:
            for i in reversed(range(len(self.steps))):
                if data is not None and not mask >> i & 1:
                    data = self.steps[i](data, limit)
        except (ValueError, zlib.error, FormatError, EOFError, RuntimeError):
            data = None
        block = None
        if data is not None and len(data) == self.chunk_bytes:
            stored = np.frombuffer(data, self.dataset.dtype.newbyteorder("=")).reshape(self.per_chunk, *self.sig_chunk)
            block = stored if self.steps else stored.copy()  # not the scratch buffer
        self._keep(number, block)
        return block

    def _keep(self, number: int, data: _Arr | None) -> None:
        self._kept[number] = data
        self._kept_bytes += 0 if data is None else data.nbytes
        while len(self._kept) > 1 and self._kept_bytes > _KEEP_BYTES:
            old = self._kept.popitem(last=False)[1]
            self._kept_bytes -= 0 if old is None else old.nbytes

    def _bytes(self, at: int, size: int) -> _Arr | None:
        """Bytes of the file, valid until the next call; None where the file has not that many (it is damaged)."""
        if at < 0 or size <= 0 or at + size > self.dataset.file.size:
            return None
        if self._scratch.size < size:
            self._scratch = np.empty(max(size, 2 * self._scratch.size), np.uint8)
        dest = self._scratch[:size]
        view, done = memoryview(dest), 0
        while done < size:
            try:
                if hasattr(os, "preadv"):
                    n = os.preadv(self._fd, [view[done:]], at + done)
                else:
                    os.lseek(self._fd, at + done, os.SEEK_SET)
                    with open(self._fd, "rb", buffering=0, closefd=False) as f:
                        n = f.readinto(view[done:]) or 0
            except OSError as exc:
                raise changed(self.dataset.file, "could not be read", f"bytes at {at + done}", exc.strerror or str(exc)) from exc
            if n == 0:
                raise changed(self.dataset.file, f"ends at byte {at + done}", f"{size} bytes at byte {at}", f"{done} bytes")
            done += n
        return dest
