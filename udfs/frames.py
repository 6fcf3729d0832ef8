"""Frames themselves as results: picked into memory, or recorded to a file."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from libstream.ext import (
    UDF,
    Array,
    Coverage,
    Output,
    ParameterError,
    Ragged,
    SaveError,
    ShapeError,
    Tile,
    UsageError,
    default_fill,
    nav,
    param,
    ragged,
    single,
)
from libstream.udfs.kernels.copy import pick_frame

_Arr = np.ndarray[Any, Any]


class Pick(UDF):
    """The frames at chosen scan positions, in the order in which they are asked for.

    positions: integers (n, number of scan axes) as (y, x), or (n,) as flat positions. Each frame is copied once and held once; other
    frames of the run are not touched. (To read nothing else, give the run the same positions as `roi`.)

    Outputs:

    frames: (n, *frame) in the dtype of the frames; what was not seen holds NaN, or the largest integer. seen: bool (n,).
    """

    positions: Array = param(title="Positions", help="(n, axes of the scan) as (y, x), or flat (n,)")

    process_frame = pick_frame

    @functools.cached_property
    def flat(self) -> _Arr:
        """Flat scan positions that are asked for; int64 (n,)."""
        nav_shape = self.meta.shape.nav
        given = np.asarray(self.positions)
        if given.size == 0:
            return np.zeros(0, np.int64)
        whole = given.dtype.kind in "iu" or (given.dtype.kind == "f" and bool((given == np.floor(given)).all()))
        if not whole:
            raise ParameterError(f"Pick: positions must be integers, got {given.dtype} such as {given.reshape(-1)[0]}")
        sizes: tuple[int, ...]
        if given.ndim == 1:
            sizes, columns, names = (math.prod(nav_shape),), given[:, np.newaxis], "flat position"
        elif given.ndim == 2 and given.shape[1] == len(nav_shape):
            sizes, columns, names = nav_shape, given, "position"
        else:
            raise ShapeError(
                f"Pick: positions has shape {given.shape}; for a scan of {nav_shape} give (n, {len(nav_shape)}), or (n,) flat positions"
            )
        outside = ((columns < 0) | (columns >= np.array(sizes))).any(axis=1)
        if outside.any():
            which = tuple(columns[outside][0].astype(int).tolist())
            raise ParameterError(f"Pick: {names} {which} is outside of the scan {nav_shape}")
        columns = columns.astype(np.int64)
        return columns[:, 0] if given.ndim == 1 else np.ravel_multi_index(tuple(columns.T), nav_shape).astype(np.int64)

    @functools.cached_property
    def wanted(self) -> _Arr:
        """True at the flat positions that are asked for."""
        wanted = np.zeros(max(1, self.meta.shape.n_positions), bool)
        wanted[self.flat] = True
        return wanted

    def outputs(self) -> Mapping[str, Output]:
        """See the class."""
        n, sig, dtype = len(self.flat), self.meta.shape.sig, self.meta.dtype
        return {
            "picked": ragged(dtype, sig, private=True),
            "frames": single(dtype, (n, *sig), derived=True, title="Picked frames"),
            "seen": single(bool, (n,), derived=True, title="Frame was seen"),
        }

    def finish(self, results: dict[str, Any], coverage: Coverage) -> Mapping[str, Any]:
        """Bring the frames into the order of the positions."""
        picked: Ragged = results["picked"]
        starts, stops = picked.offsets[self.flat], picked.offsets[self.flat + 1]
        seen = stops > starts
        frames = np.full((len(seen), *self.meta.shape.sig), default_fill(self.meta.dtype), self.meta.dtype)
        frames[seen] = picked.values[starts[seen]]
        return {"frames": frames, "seen": seen}


_held: dict[int, int] = {}
"""Descriptors that hold the locks on files this process is writing, by id of the UDF that began to."""


_CLOSE_FIRST = os.name == "nt"
"""Windows neither renames nor removes a file that is open (and has no locks that would be lost by closing it)."""


class Record(UDF):
    """Write the frames of the run to a .npy file of shape (*scan, *frame), in the dtype in which they are processed.

    The file has its full size from the start (so a full disk is noticed before anything is read), is written beside its
    place as `<name>.part`, by all workers at once, and renamed when the run is complete. A run that fails or is cancelled
    leaves nothing. Positions without a frame (outside of the region of interest, corrupt, missing) hold `fill`.

    Output:

    written: bool (*scan), True where the frame is in the file.

    Workers in other processes must see the same folder under the same path.
    """

    path: str = param(title="File", help="ends with .npy")
    fill: float | None = param(None, title="Value where there is no frame", help="default: NaN, or the largest integer")
    overwrite: bool = param(False, title="Replace an existing file")

    dry_run: ClassVar[bool] = False

    @functools.cached_property
    def target(self) -> Path:
        """The file, links followed."""
        target = Path(os.path.realpath(self.path))
        if target.suffix != ".npy":
            raise ParameterError(f"Record: path must end with .npy, got {self.path!r}")
        return target

    @functools.cached_property
    def aside(self) -> Path:
        """The file while it is written."""
        return self.target.with_name(self.target.name + ".part")

    @functools.cached_property
    def header(self) -> bytes:
        """First bytes of the .npy file."""
        text, dtype, shape = io.BytesIO(), self.meta.dtype, self.meta.shape
        described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (*shape.nav, *shape.sig)}
        np.lib.format.write_array_header_1_0(text, described)
        return text.getvalue()

    @functools.cached_property
    def filler(self) -> _Arr:
        """Fill value as an array without axes, in the dtype of the file."""
        dtype = self.meta.dtype
        if self.fill is None:
            return np.array(default_fill(dtype), dtype)
        if dtype.kind in "iu" and not (np.iinfo(dtype).min <= self.fill <= np.iinfo(dtype).max and self.fill == int(self.fill)):
            raise ParameterError(f"Record: fill = {self.fill:g} is no value of {dtype}, the dtype of the frames")
        return np.array(self.fill).astype(dtype)

    @property
    def _frame_bytes(self) -> int:
        return self.meta.shape.frame_size * self.meta.dtype.itemsize

    @property
    def _file_bytes(self) -> int:
        return len(self.header) + self.meta.shape.n_positions * self._frame_bytes

    def outputs(self) -> Mapping[str, Output]:
        """See the class."""
        return {"written": nav(bool, title="Frame is in the file")}

    def process_tile(self, tile: Tile, out: Any) -> None:
        """Write the tile's rows to their places; consecutive frames in one go."""
        row_bytes = self._frame_bytes // max(1, self.meta.shape.sig[0])
        whole = tile.region.shape == self.meta.shape.sig
        with self._told(), open(self.aside, "r+b", buffering=0) as file:
            for start, stop in _runs(tile.index) if whole else ((i, i + 1) for i in range(len(tile))):
                file.seek(len(self.header) + int(tile.index[start]) * self._frame_bytes + tile.region.origin[0] * row_bytes)
                _write(file, np.ascontiguousarray(tile.data[start:stop]))
        out.written[...] = True

    def begin_run(self) -> None:
        """Make the file aside, in full size, and lock it."""
        if self.target.is_dir():
            raise UsageError(f"Record: {self.path} is a folder; give the name of a file in it")
        if self.target.exists() and not self.overwrite:
            raise UsageError(f"Record: {self.path} exists; pass overwrite=True to replace it, or another path")
        with self._told():
            _held[id(self)] = fd = _locked(self.aside, self.path)
            os.ftruncate(fd, 0)  # what a killed run may have left
            os.write(fd, self.header)
            _allocate(fd, self._file_bytes)

    def end_run(self, results: Mapping[str, Any] | None, coverage: Coverage) -> None:
        """Fill what was not written and rename the file; or remove it."""
        fd = _held.pop(id(self), None)
        if fd is None:  # begin_run had refused
            return
        renamed = False
        try:
            if results is None:
                return
            written = results["written"]
            if (coverage.valid & ~written).any():
                raise SaveError(
                    f"Record: {int((coverage.valid & ~written).sum())} frames were processed but are not in {self.path}: "
                    "do all workers see that folder under the same path?"
                )
            with self._told(), open(fd, "r+b", buffering=0, closefd=False) as file:
                frame = np.broadcast_to(self.filler, self.meta.shape.sig).copy()
                for flat in np.flatnonzero(~written.reshape(-1)).tolist():
                    file.seek(len(self.header) + flat * self._frame_bytes)
                    _write(file, frame)
                os.fsync(fd)
            if _CLOSE_FIRST:
                os.close(fd)
                fd = -1
            with self._told():
                os.replace(self.aside, self.target)
                renamed = True
        finally:
            if _CLOSE_FIRST and fd >= 0:
                os.close(fd)
                fd = -1
            if not renamed:  # still locked, so it is ours
                with contextlib.suppress(OSError):
                    os.unlink(self.aside)
            if fd >= 0:
                os.close(fd)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the operating system as SaveError."""
        try:
            yield
        except FileNotFoundError as exc:
            if not self.target.parent.is_dir():
                raise SaveError(f"Record: there is no folder {self.target.parent} for {self.path}; create it, or choose another") from exc
            raise SaveError(
                f"Record: {self.aside} is not there: it is made when a run begins, and workers must see it under the same path"
            ) from exc
        except OSError as exc:
            free = "unknown"
            with contextlib.suppress(OSError):
                free = f"{shutil.disk_usage(self.target.parent).free / 1e6:.1f} MB"
            raise SaveError(
                f"Record: cannot write {self.path}: {exc.strerror or exc}. It needs {self._file_bytes / 1e6:.1f} MB in "
                f"{self.target.parent}, free there: {free}. Free some space, check that the folder can be written, or choose another"
            ) from exc


def _runs(index: _Arr) -> list[tuple[int, int]]:
    """Rows of consecutive positions, as [start, stop)."""
    breaks = (np.flatnonzero(np.diff(index) != 1) + 1).tolist()
    return list(zip([0, *breaks], [*breaks, len(index)], strict=True)) if len(index) else []


def _write(file: io.FileIO, data: _Arr) -> None:
    left = memoryview(data).cast("B") if data.size else memoryview(b"")
    while left:
        left = left[file.write(left) or 0 :]


def _locked(aside: Path, path: str) -> int:
    """A descriptor of the file `aside`, made where it is not there, that no other run holds.

    The lock goes with the descriptor, so a killed run leaves none. Windows and some file systems have no locks.
    """
    while True:
        fd = os.open(aside, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            return fd
        except BlockingIOError as exc:
            os.close(fd)
            raise UsageError(f"Record: another run is writing {path} now; wait for it, or choose another path") from exc
        except OSError:
            return fd
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(aside)):
                return fd
        os.close(fd)  # between open and lock another run finished, and renamed or removed this file


def _allocate(fd: int, n_bytes: int) -> None:
    """Give the file its size, and the disk blocks with it where the system can."""
    import errno

    if hasattr(os, "posix_fallocate") and n_bytes:
        try:
            os.posix_fallocate(fd, 0, n_bytes)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
        else:
            return
    os.ftruncate(fd, n_bytes)
