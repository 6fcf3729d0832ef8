"""Raw binary files: frames of one dtype and shape, one after the other, with headers and gaps of fixed size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from libstream.ext import DataShape, FormatError, FrameSource, Growing, SourceId, SourceMeta, UsageError, param
from libstream.io_backends.files._fixed import FixedLayout
from libstream.io_backends.files._identity import local_path, present_in, source_id, stat_file, whole_frames


@dataclass(frozen=True)
class RawOptions:
    """What a raw file does not say itself.

    dtype: of a pixel as it is stored: "uint16", ">u2" (big-endian), "float32", "bool" (one byte each), ...
    frame: shape of a frame (y, x), or (channels,) for spectra.
    offset: bytes of the file's header. gap: bytes between two frames (none after the last one needed).
    frame_header, frame_footer: bytes before and after the pixels in the record of each frame.
    allow_truncated: use the whole frames of a file that ends within one.
    """

    dtype: str = param("", title="Pixel type")
    frame: tuple[int, ...] = param((), title="Frame shape (y, x)", unit="px")
    offset: int = param(0, ge=0, title="File header", unit="bytes")
    gap: int = param(0, ge=0, title="Gap between frames", unit="bytes")
    frame_header: int = param(0, ge=0, title="Header of each frame", unit="bytes")
    frame_footer: int = param(0, ge=0, title="Footer of each frame", unit="bytes")
    allow_truncated: bool = param(False, title="Accept a truncated file")


class RawFormat:
    """Raw binary files; dtype and frame shape must be given."""

    name: ClassVar[str] = "raw"
    suffixes: ClassVar[tuple[str, ...]] = (".raw", ".bin", ".dat")
    options: ClassVar[type] = RawOptions

    def probe(self, head: bytes, path: str) -> float:
        """A raw file has no mark: only its name hints at it, so that any other format that recognises the file wins."""
        return 0.05 if path.lower().endswith(self.suffixes) else 0.0

    def open(self, uri: str, options: RawOptions) -> FrameSource:
        """Open a raw file. Raises FormatError naming the size of the file where dtype or frame are missing."""
        return self._opened(uri, options, None).source

    def watch(self, uri: str, options: RawOptions, n_frames: int | None) -> Growing:
        """See `WatchesFiles`."""
        if n_frames is None:
            raise UsageError(f"{uri}: a raw file does not say how many frames there will be; pass scan=(y, x) or frames=n")
        return self._opened(uri, options, n_frames)

    def _opened(self, uri: str, options: RawOptions, expected: int | None) -> Growing:
        """expected: number of frames that a growing file will have, None for a finished one."""
        path = local_path(uri)
        file = stat_file(path)
        for name in ("offset", "gap", "frame_header", "frame_footer"):
            if getattr(options, name) < 0:
                raise UsageError(f"{path}: {name} is a number of bytes, 0 or more, got {getattr(options, name)}")
        dtype = _dtype(options.dtype, path) if options.dtype else None
        sig = _frame(options.frame, path)
        if dtype is None or not sig:
            raise FormatError(_missing(path, file.size, options, dtype))
        pixels = math.prod(sig) * dtype.itemsize
        stride = options.frame_header + pixels + options.frame_footer + options.gap
        last = stride - options.gap
        if expected is None:
            n = whole_frames(file, offset=options.offset, stride=stride, last=last, allow_truncated=options.allow_truncated)
            name_of = source_id(uri, self.name, [path])
        else:
            n, name_of = expected, SourceId(uri, self.name, options.offset + (expected - 1) * stride + last)
        stored = replace(file, n_frames=n, offset=options.offset, growing=expected is not None)
        layout = FixedLayout(files=(stored,), sig=sig, dtype=dtype, stride=stride, pixels=options.frame_header)
        meta = SourceMeta(id=name_of, shape=DataShape((n,) if n != 1 else (), sig), dtype=layout.out_dtype, n_frames=n)
        return Growing(FrameSource(meta, layout), lambda: present_in(stored, stride=stride, last=last))


def _dtype(given: Any, path: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(given)
    except TypeError as exc:
        raise UsageError(f"{path}: {given!r} is no dtype; write for example 'uint16', '>u2' (big-endian) or 'float32'") from exc
    if dtype.kind not in "biufc":
        raise UsageError(f"{path}: dtype {given!r} is no number; write for example 'uint16', '>u2' (big-endian) or 'float32'")
    return dtype


def _frame(given: Any, path: str) -> tuple[int, ...]:
    sig = (int(given),) if isinstance(given, int) else tuple(int(n) for n in given or ())
    if len(sig) > 2 or any(n < 1 for n in sig):
        raise UsageError(f"{path}: frame={given!r} is no shape of a frame; write (y, x), or (channels,) for spectra, each 1 or more")
    return sig


def _missing(path: str, size: int, options: RawOptions, dtype: np.dtype[Any] | None) -> str:
    gone = " and ".join(n for n in ("dtype", "frame") if not getattr(options, n))
    text = f"{path}: a raw file does not say what is in it; {gone} must be given (the file has {size} bytes)."
    body = size - options.offset
    extra = options.frame_header + options.frame_footer + options.gap
    fits = []
    candidates: list[np.dtype[Any]] = [dtype] if dtype is not None else [np.dtype("u2"), np.dtype("u1"), np.dtype("f4")]
    for side in (512, 256, 192, 128, 1024, 64):
        for t in candidates:
            n, rest = divmod(body + options.gap, side * side * t.itemsize + extra)
            if n > 0 and rest == 0:
                fits.append(f"{n} frames of {side} x {side} {t.name}")
    if fits:
        text += f" It could be {', '.join(fits[:4])}."
    return f"{text} Pass for example dtype='uint16' and frame=(256, 256)."
