"""NumPy's .npy files, versions 1 to 3, C and Fortran order, any byte order."""

from __future__ import annotations

import ast
import math
import struct
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from libstream.ext import (
    CorruptFileError,
    DataShape,
    FormatError,
    FrameReader,
    FrameSource,
    Growing,
    Region,
    SourceId,
    SourceMeta,
    Span,
    UsageError,
    param,
)
from libstream.io_backends.files._fixed import FixedLayout, FixedReader
from libstream.io_backends.files._identity import local_path, present_in, source_id, stat_file, whole_frames

_Arr = np.ndarray[Any, Any]
_MAGIC = b"\x93NUMPY"
# the header is a Python literal: NumPy too refuses longer ones, which are slow or unsafe to parse
_MAX_HEADER = 10_000
_CHUNK = 2 * 1024 * 1024


@dataclass(frozen=True)
class NpyOptions:
    """sig_dims: axes of a frame, the last ones of the array: 2 for images, 1 for spectra."""

    sig_dims: int = param(2, ge=1, le=2, title="Axes of a frame")
    allow_truncated: bool = param(False, title="Accept a truncated file")


@dataclass(frozen=True)
class FortranLayout:
    """An array stored in Fortran order (an `Opener`): for each pixel the whole scan lies in one piece; frames are gathered.

    pixels: the file as stored: its "frames" are the pixels in the order (x, y), each of shape (positions,) in Fortran order of nav.
    """

    pixels: FixedLayout
    nav: tuple[int, ...]
    sig: tuple[int, ...]

    def open_reader(self, channel: str) -> FortranReader:
        """Open a reader."""
        return FortranReader(self)


class FortranReader(FrameReader):
    """Gathers frames of a Fortran-ordered array."""

    def __init__(self, layout: FortranLayout) -> None:
        self._lay = layout
        self._pixels = FixedReader(layout.pixels)

    def read_into(self, out: _Arr, frames: Span, region: Region) -> None:
        """Gather frames into `out` (see `FrameReader`)."""
        lay = self._lay
        n = math.prod(lay.nav)
        if frames.stop > n:
            raise UsageError(f"frames {frames.start} to {frames.stop} were asked for, {lay.pixels.files[0].path} has {n}")
        rows = region.rows
        if rows.start < 0 or rows.stop > lay.sig[0] or out.shape != (len(frames), *region.shape):
            raise UsageError(f"region {region} is no band of whole rows of frames of shape {lay.sig}, or out does not fit: {out.shape}")
        # Frames of one scan line at a time: those of two lines lie far apart, and everything between them would be read
        width = lay.nav[-1] if lay.nav else 1
        above = math.prod(lay.nav[:-1])  # distance of neighbours along the line
        done = frames.start
        while done < frames.stop and out.size:
            line, x = divmod(done, width)
            stop = min(frames.stop, (line + 1) * width)
            where = np.unravel_index(line, lay.nav[:-1]) if lay.nav[:-1] else ()
            first = int(np.ravel_multi_index(where, lay.nav[:-1], order="F")) if where else 0
            self._line(out[done - frames.start : stop - frames.start], first + x * above, above, rows)
            done = stop

    def _line(self, out: _Arr, first: int, step: int, rows: slice) -> None:
        """Frames at places first, first + step, ... of each pixel's piece."""
        lay = self._lay
        size = (len(out) - 1) * step + 1
        height = max(1, _CHUNK // (size * lay.pixels.dtype.itemsize))
        for x in range(lay.sig[1] if len(lay.sig) == 2 else 1):
            for top in range(rows.start, rows.stop, height):
                bottom = min(top + height, rows.stop)
                piece = np.empty((bottom - top, size), lay.pixels.out_dtype)
                start = x * lay.sig[0]
                self._pixels.read_into(piece, Span(start + top, start + bottom), Region((first,), (size,)))
                target = out[:, top - rows.start : bottom - rows.start]
                (target[..., x] if len(lay.sig) == 2 else target)[...] = piece[:, ::step].T

    def view(self) -> None:
        """Frames do not lie in one piece."""
        return None

    def check(self) -> None:
        """Raise SourceChangedError where the file is not what it was."""
        self._pixels.check()

    def close(self) -> None:
        """Close the file."""
        self._pixels.close()


class NpyFormat:
    """.npy files: the last axes are the frame, the others the scan."""

    name: ClassVar[str] = "npy"
    suffixes: ClassVar[tuple[str, ...]] = (".npy",)
    options: ClassVar[type] = NpyOptions

    def probe(self, head: bytes, path: str) -> float:
        """Certain where the file starts with NumPy's mark."""
        return 1.0 if head.startswith(_MAGIC) else 0.0

    def open(self, uri: str, options: NpyOptions) -> FrameSource:
        """Open a .npy file. Raises FormatError for arrays of objects or records and for too few axes."""
        path = local_path(uri)
        if options.sig_dims not in (1, 2):
            raise UsageError(f"{path}: sig_dims is the number of axes of a frame, 1 or 2, got {options.sig_dims}")
        file = stat_file(path)
        header = _header(path)
        if len(header.shape) < options.sig_dims or not header.shape:
            hint = " Pass sig_dims=1 if its axis is a spectrum." if len(header.shape) == 1 else ""
            raise FormatError(f"{path}: holds an array of shape {header.shape}, expected at least {options.sig_dims} axes.{hint}")
        nav, sig = header.shape[: -options.sig_dims], header.shape[-options.sig_dims :]
        frame_bytes = math.prod(sig) * header.dtype.itemsize
        announced = math.prod(nav)
        notes: tuple[str, ...] = ()
        if not frame_bytes or not announced:
            raise FormatError(f"{path}: holds an array of shape {header.shape}: there are no frames in it")
        n = whole_frames(
            file,
            offset=header.offset,
            stride=frame_bytes,
            last=frame_bytes,
            announced=announced,
            allow_truncated=options.allow_truncated and not header.fortran,
        )
        if n < announced:
            nav = (n,)
            notes = (f"truncated: {n} of {announced} frames; the scan was {header.shape[: -options.sig_dims]}",)
        opener: Any
        if header.fortran and sum(size > 1 for size in header.shape) > 1:
            stored = replace(file, n_frames=math.prod(sig), offset=header.offset)
            opener = FortranLayout(FixedLayout((stored,), (announced,), header.dtype, announced * header.dtype.itemsize), nav, sig)
            notes += ("stored in Fortran order, frames are gathered: slow; np.save(..., np.ascontiguousarray(a)) makes a fast file",)
        else:
            opener = FixedLayout((replace(file, n_frames=n, offset=header.offset),), sig, header.dtype, frame_bytes)
        meta = SourceMeta(
            id=source_id(uri, self.name, [path]), shape=DataShape(nav, sig), dtype=header.dtype.newbyteorder("="), n_frames=n, notes=notes
        )
        return FrameSource(meta, opener)

    def watch(self, uri: str, options: NpyOptions, n_frames: int | None) -> Growing:
        """See `WatchesFiles`. The header of a .npy file says how many frames there will be."""
        path = local_path(uri)
        if options.sig_dims not in (1, 2):
            raise UsageError(f"{path}: sig_dims is the number of axes of a frame, 1 or 2, got {options.sig_dims}")
        file, header = stat_file(path), _header(path)
        nav, sig = header.shape[: -options.sig_dims], header.shape[-options.sig_dims :]
        size = math.prod(sig) * header.dtype.itemsize
        n = math.prod(nav)
        if len(header.shape) < options.sig_dims or not size or not n:
            raise FormatError(f"{path}: its header announces an array of shape {header.shape}: there are no frames in it")
        if header.fortran and sum(s > 1 for s in header.shape) > 1:
            raise FormatError(f"{path}: is written in Fortran order: no frame is complete before the file is. Open it when it is finished.")
        stored = replace(file, n_frames=n, offset=header.offset, growing=True)
        name = SourceId(uri, self.name, header.offset + n * size)
        meta = SourceMeta(id=name, shape=DataShape(nav, sig), dtype=header.dtype.newbyteorder("="), n_frames=n)
        layout = FixedLayout((stored,), sig, header.dtype, size)
        return Growing(FrameSource(meta, layout), lambda: present_in(stored, stride=size, last=size))


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int


def _header(path: str) -> _Header:
    with open(path, "rb") as f:
        head = f.read(12 + _MAX_HEADER)
    if not head.startswith(_MAGIC):
        raise FormatError(f"{path}: is no .npy file: it starts with {head[:6]!r}, expected {_MAGIC!r}. Pass format= if it is another kind.")
    major = head[6] if len(head) > 7 else 0
    if len(head) < 12 or major not in (1, 2, 3):
        raise CorruptFileError(f"{path}: .npy version {major} is unknown or the header is cut off; expected version 1, 2 or 3")
    start, form = (10, "<H") if major == 1 else (12, "<I")
    length = struct.unpack_from(form, head, 8)[0]
    if length > _MAX_HEADER:
        raise CorruptFileError(f"{path}: its header claims {length} bytes, expected at most {_MAX_HEADER}")
    text = head[start : start + length]
    if len(text) < length:
        raise CorruptFileError(
            f"{path}: its header claims {length} bytes, the file holds {len(text)} of them. Truncated copy? Copy it again."
        )
    try:
        fields = ast.literal_eval(text.decode("utf-8" if major == 3 else "latin1").strip())
        shape, fortran, descr = fields["shape"], fields["fortran_order"], fields["descr"]
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or type(fortran) is not bool:
            raise ValueError("a field is of the wrong type")
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as exc:
        raise CorruptFileError(f"{path}: its header {text[:80]!r} cannot be understood ({exc})") from exc
    try:
        dtype = np.dtype(descr) if isinstance(descr, str) else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.kind not in "biufc":
        raise FormatError(f"{path}: holds {descr!r}, expected plain numbers. Arrays of objects or records cannot be read as frames.")
    return _Header(shape, dtype, fortran, start + length)
