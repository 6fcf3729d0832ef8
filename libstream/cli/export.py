"""`libstream export`: frames into .npy or HDF5, cropped and binned, a piece at a time."""

from __future__ import annotations

import argparse
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from libstream import api
from libstream.cli._h5frames import around
from libstream.cli._openargs import add_open_arguments, open_options
from libstream.cli.command import OK, Command, n_of, one_line, say, size, tell
from libstream.cli.progress import Progress
from libstream.errors import CorruptFileError, SaveError, UsageError
from libstream.model.output import default_fill
from libstream.model.source import Axis

_Arr = np.ndarray[Any, Any]
PIECE_BYTES = 32 * 2**20
"""Frames read at a time: enough for full speed of a disk, little against any memory."""

_EXAMPLES = """\
  libstream export scan.mib -o scan.h5
  libstream export scan.mib -o small.h5 --bin 2 --crop 64:192,64:192       crop first, then bin; sums, not means
  libstream export scan.mib -o part.npy --scan-crop 0:16,0:16              a part of the scan"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("-o", dest="output", required=True, metavar="FILE", type=Path, help=".npy, or .h5 with axes and calibration")
    parser.add_argument("--bin", type=_factor, default=1, metavar="N", help="add up N × N pixels (after --crop)")
    parser.add_argument("--crop", type=_ranges, metavar="Y0:Y1,X0:X1", help="part of the frame [px], half-open")
    parser.add_argument("--scan-crop", type=_ranges, metavar="Y0:Y1,X0:X1", help="part of the scan, half-open")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    add_open_arguments(parser)


def _factor(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 1")
    return int(text)


def _ranges(text: str) -> tuple[slice, ...]:
    """Slices from "0:16,8:24"; either end may be left out. Raises ArgumentTypeError."""
    out = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*", part)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not y0:y1,x0:x1 with whole numbers >= 0")
        out.append(slice(int(match[1]) if match[1] else None, int(match[2]) if match[2] else None))
    return tuple(out)


# -- geometry ----------------------------------------------------------------------------------------------------------


def checked_ranges(given: tuple[slice, ...] | None, sizes: tuple[int, ...], option: str) -> tuple[tuple[int, int], ...]:
    """(start, stop) for each axis. Raises UsageError for a range that is empty or reaches outside."""
    if given is None:
        return tuple((0, n) for n in sizes)
    if len(given) != len(sizes):
        raise UsageError(f"{option} needs {n_of(len(sizes), 'range')} for shape {sizes}, got {len(given)}")
    out = []
    for part, n in zip(given, sizes, strict=True):
        start, stop = part.start or 0, n if part.stop is None else part.stop
        if not 0 <= start < stop <= n:
            raise UsageError(f"{option}: {start}:{stop} is not a part of 0:{n}")
        out.append((start, stop))
    return tuple(out)


def binned_axis(axis: Axis, start: int, stop: int, factor: int) -> Axis:
    """`axis` cropped to [start, stop) and binned: a new pixel lies in the middle of those it is made of."""
    return replace(
        axis, size=(stop - start) // factor, step=axis.step * factor, offset=axis.offset + (start + (factor - 1) / 2) * axis.step
    )  # fmt: skip


def binned_dtype(dtype: np.dtype[Any], n_pixels: int) -> np.dtype[Any]:
    """Smallest dtype of the same kind that holds the sum of `n_pixels` of `dtype`; floats keep theirs.

    Raises UsageError where no integer dtype is wide enough.
    """
    if n_pixels == 1 or dtype.kind in "fc":
        return dtype
    if dtype.kind == "b":
        dtype, most, least = np.dtype(np.uint8), n_pixels, 0
    else:
        info = np.iinfo(dtype)
        most, least = int(info.max) * n_pixels, int(info.min) * n_pixels
    for candidate in (f"{'i' if dtype.kind == 'i' else 'u'}{n}" for n in (1, 2, 4, 8)):
        info = np.iinfo(candidate)
        if info.min <= least and most <= info.max and np.dtype(candidate).itemsize >= dtype.itemsize:
            return np.dtype(candidate)
    raise UsageError(f"--bin: the sum of {n_pixels} pixels of {dtype} may not fit into 64 bits; bin less, or open with another dtype")


def binned(frames: _Arr, factor: int, dtype: np.dtype[Any]) -> _Arr:
    """Sums over factor × factor pixels (factor on a spectrum) of frames (n, *sig), in `dtype`; a rest at the end is left out."""
    if factor == 1:
        return np.ascontiguousarray(frames, dtype)
    kept = tuple(n // factor for n in frames.shape[1:])
    wide = np.dtype(np.float64 if dtype.kind == "f" else np.complex128 if dtype.kind == "c" else dtype)
    out = np.empty((len(frames), *kept), dtype)
    at_once = max(1, 2**20 // max(1, math.prod(frames.shape[1:]) * wide.itemsize))  # sums of rows stay in cache for those of columns
    for first in range(0, len(frames), at_once):
        part = frames[first : first + at_once]
        for axis, n in enumerate(kept, 1):
            every = [part[(slice(None),) * axis + (slice(k, n * factor, factor),)] for k in range(factor)]
            total = every[0].astype(wide)
            for one in every[1:]:
                np.add(total, one, out=total, casting="same_kind")
            part = total
        out[first : first + at_once] = part
    return out


def pieces(nav: tuple[int, ...], most: int) -> Iterator[tuple[Any, int]]:
    """(index, number of positions) of parts of a scan of shape `nav`, in scan order, each of at most `most` positions."""
    if not nav:
        yield (), 1
        return
    inner = math.prod(nav[1:])
    if inner > most:
        for row in range(nav[0]):
            for index, n in pieces(nav[1:], most):
                yield (slice(row, row + 1), *index), n
        return
    step = max(1, most // max(inner, 1))
    for start in range(0, nav[0], step):
        stop = min(start + step, nav[0])
        yield (slice(start, stop),), (stop - start) * inner


# -- work --------------------------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    source = api.open(args.file, **open_options(args))
    meta = source.meta
    output: Path = args.output
    if output.suffix.lower() not in (".npy", ".h5", ".hdf5"):
        raise UsageError(f"-o {output}: frames are written to .npy or .h5, not {output.suffix or 'a name without an ending'}")
    if output.exists():
        if "://" not in args.file and output.samefile(args.file):
            raise UsageError(f"-o {output} is the file to be exported, it would be overwritten")
        if not args.force:
            raise UsageError(f"-o {output} exists; --force replaces it")
    scan = checked_ranges(args.scan_crop, meta.shape.nav, "--scan-crop")
    crop = checked_ranges(args.crop, meta.shape.sig, "--crop")
    for (start, stop), axis in zip(crop, meta.sig_axes, strict=True):
        if (stop - start) // args.bin == 0:
            raise UsageError(f"--bin {args.bin}: axis {axis.name} has only {stop - start} px")
        if rest := (stop - start) % args.bin:
            tell(f"libstream: note: axis {axis.name}: the last {rest} of {stop - start} px do not fill a bin and are left out")
    dtype = binned_dtype(meta.dtype, args.bin ** len(crop))
    axes = [binned_axis(a, *r, 1) for a, r in zip(meta.nav_axes, scan, strict=True)]
    axes += [binned_axis(a, *r, args.bin) for a, r in zip(meta.sig_axes, crop, strict=True)]
    nav = tuple(stop - start for start, stop in scan)
    n_corrupt = 0
    most = max(1, PIECE_BYTES // max(1, meta.shape.frame_size * meta.dtype.itemsize))
    with _writer(output, tuple(a.size for a in axes), dtype, axes, source, crop, args.bin) as write, Progress(
        Path(args.file).name, math.prod(nav), meta.shape.frame_size * meta.dtype.itemsize
    ) as progress:  # fmt: skip
        for index, n in pieces(nav, most):
            frames, bad = _read(source, index, scan, n)
            n_corrupt += bad
            write(binned(frames[(slice(None), *(slice(*r) for r in crop))], args.bin, dtype))
            progress.update(n)
    if n_corrupt:
        tell(f"libstream: warning: {n_of(n_corrupt, 'frame')} could not be read and hold the fill value ({default_fill(dtype)!r})")
    shape = tuple(a.size for a in axes)
    say(f"{args.file}: {progress.summary()}\n  -> {output}: {shape} {dtype}, {size(math.prod(shape) * dtype.itemsize)}")
    return OK


def _read(source: Any, index: tuple[Any, ...], scan: tuple[tuple[int, int], ...], n: int) -> tuple[_Arr, int]:
    """Whole frames (n, *sig) of a piece, and how many of them are corrupt (these hold the fill value)."""
    shifted = tuple(
        slice(r[0] + (0 if i.start is None else i.start), r[0] + i.stop) for i, r in zip(index, scan, strict=False)
    ) + tuple(slice(*r) for r in scan[len(index) :])  # fmt: skip
    sig = source.meta.shape.sig
    try:
        return source[shifted].reshape(n, *sig), 0
    except CorruptFileError:
        if n == 1:
            return np.full((1, *sig), default_fill(source.dtype), source.dtype), 1
    bad = 0
    out = np.empty((n, *sig), source.dtype)
    for row, position in enumerate(np.ndindex(*(s.stop - s.start for s in shifted))):
        at = tuple(s.start + p for s, p in zip(shifted, position, strict=True))
        try:
            out[row] = source[at]
        except CorruptFileError:
            out[row], bad = default_fill(source.dtype), bad + 1
    return out, bad


@contextmanager
def _writer(
    output: Path, shape: tuple[int, ...], dtype: np.dtype[Any], axes: list[Axis], source: Any, crop: Any, factor: int
) -> Iterator[Any]:
    """A function that appends frames (n, *sig); the file is written aside and gets its name at the end. Raises SaveError."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if not output.absolute().parent.is_dir():
        raise SaveError(f"{output} cannot be written: there is no folder {output.parent}")
    if (free := shutil.disk_usage(output.absolute().parent).free) < n_bytes:  # noticed now, not after an hour
        raise SaveError(f"{output} cannot be written: it needs {size(n_bytes)}, {size(free)} are free there; --crop or --bin?")
    aside = output.with_name(f".{output.name}.part")
    of_reader: BaseException | None = None
    try:
        with (_npy if output.suffix.lower() == ".npy" else _hdf5)(aside, shape, dtype, axes, source, crop, factor) as write:

            def guarded(frames: _Arr) -> None:
                try:
                    write(frames)
                except OSError as exc:
                    raise _not_saved(output, exc) from exc

            try:
                yield guarded
            except BaseException as exc:
                of_reader = exc
                raise
        aside.replace(output)
    except OSError as exc:
        if exc is of_reader or isinstance(exc, SaveError):
            raise
        raise _not_saved(output, exc) from exc
    finally:
        aside.unlink(missing_ok=True)


def _not_saved(output: Path, exc: OSError) -> SaveError:
    return SaveError(f"{output} cannot be written: {exc.strerror or one_line(exc)}; nothing half-written was left behind")


@contextmanager
def _npy(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], axes: Any, source: Any, crop: Any, factor: int) -> Iterator[Any]:
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda frames: file.write(memoryview(np.ascontiguousarray(frames)).cast("B"))


@contextmanager
def _hdf5(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], axes: list[Axis], source: Any, crop: Any, factor: int) -> Iterator[Any]:
    made = around(shape, dtype, axes, source.meta, crop, factor)
    with path.open("wb") as file:
        for at, piece in made.pieces:
            file.seek(at)
            file.write(piece)
        file.truncate(made.size)
        file.seek(made.data_offset)
        yield lambda frames: file.write(memoryview(np.ascontiguousarray(frames)).cast("B"))


COMMAND = Command("write frames to .npy or .h5, cropped and binned", _configure, _run, _EXAMPLES)
