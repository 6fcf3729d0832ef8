"""HDF5 files and what is known of a dataset before any of it is read."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from libstream.ext import CorruptFileError, FormatError, LibstreamError, NotInstalledError
from libstream.io_backends.files._identity import StoredFile, stat_file

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SHUFFLE, DEFLATE, LZ4, BITSHUFFLE, ZSTD = 2, 1, 32004, 32008, 32015
"""Numbers of HDF5 filters that libstream undoes itself."""
_NAMES = {
    1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf", 32001: "blosc", 32004: "lz4",
    32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32017: "sz", 32023: "fci", 32024: "sz3", 32026: "blosc2", 307: "bzip2",
}  # fmt: skip
_USERBLOCKS = (0, 512, 1024, 2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True)
class H5Dataset:
    """One dataset of one file. Picklable; holds nothing open.

    file: the file that holds the dataset; others: files of its external storage, or sources of a virtual dataset.
    dtype: as stored, any byte order. chunks: shape of a chunk, () where there are none.
    filters: (number, parameters) in the order in which they were applied when writing.
    offset: byte of the first pixel of a contiguous dataset, -1 where there is no such place.
    direct: stored bytes are pixels once the filters are undone; otherwise HDF5 has to read.
    """

    file: StoredFile
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] = ()
    filters: tuple[tuple[int, tuple[int, ...]], ...] = ()
    offset: int = -1
    direct: bool = False
    others: tuple[StoredFile, ...] = ()

    @property
    def where(self) -> str:
        """File and dataset, for messages."""
        return f"{self.file.path}:{self.name}"


def has_signature(head: bytes) -> bool:
    """True where a file that begins with `head` (64 KiB) is HDF5, perhaps behind a user block."""
    return any(head[n : n + 8] == SIGNATURE for n in _USERBLOCKS)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """The file as `h5py.File`, for reading. Raises FormatError or CorruptFileError with a reason."""
    import h5py

    try:
        h5 = h5py.File(path, "r")
    except (OSError, RuntimeError) as exc:
        h5 = _second_try(path, exc)
    try:
        with h5:
            yield h5
    except LibstreamError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as exc:  # what h5py makes of damage
        raise CorruptFileError(f"{path}: is damaged, HDF5 says: {exc}. Copy it again.") from exc


def _second_try(path: str, exc: Exception) -> Any:
    import h5py

    text = str(exc)
    if isinstance(exc, FileNotFoundError):
        raise FormatError(f"{path}: no such file") from exc
    if "signature not found" in text or os.path.isdir(path):
        raise FormatError(f"{path}: is no HDF5 file") from exc
    if "truncated file" in text:
        sizes = re.search(r"eof = (\d+).*stored_eof = (\d+)", text)
        detail = f": its header announces {sizes[2]} bytes, it has {sizes[1]}" if sizes else ""
        raise CorruptFileError(f"{path}: is truncated{detail}. Was the copy or the acquisition interrupted? Copy it again.") from exc
    if isinstance(exc, BlockingIOError) or any(t in text for t in ("lock file", "already open for", "SWMR")):
        try:
            return h5py.File(path, "r", swmr=True)  # a file that is being written may allow readers
        except (OSError, ValueError, RuntimeError):
            raise FormatError(
                f"{path}: is open for writing in another program (or here), or was not closed after writing. Close it there and open "
                "it again. If nothing is writing to it: `h5clear -s` repairs the mark, HDF5_USE_FILE_LOCKING=FALSE ignores locks."
            ) from exc
    if isinstance(exc, PermissionError):
        raise FormatError(f"{path}: may not be read (permission denied)") from exc
    raise CorruptFileError(f"{path}: HDF5 cannot open it: {text}") from exc


def describe(h5: Any, dset: Any) -> H5Dataset:
    """Everything about `dset` (opened through `h5`) that a worker needs. Raises FormatError where it holds no frames."""
    path = dset.file.filename  # another file than h5's where external links were followed
    file = stat_file(path)
    name = dset.name or ""
    why = unusable(dset)
    if why:
        raise FormatError(f"{path}:{name} {why}")
    dtype = plain_dtype(dset.dtype)
    plist = dset.id.get_create_plist()
    filters = tuple((plist.get_filter(i)[0], tuple(plist.get_filter(i)[2])) for i in range(plist.get_nfilters()))
    return H5Dataset(
        file=file,
        name=name,
        shape=tuple(dset.shape),
        dtype=dtype,
        chunks=tuple(dset.chunks or ()),
        filters=filters,
        offset=-1 if dset.chunks or dset.is_virtual or dset.external else _offset(dset),
        direct=_direct(dset, dtype),
        others=_others(dset, path),
    )


def describe_all(h5: Any, dset: Any) -> tuple[H5Dataset, ...]:
    """As `describe`; a virtual dataset that only puts others one after the other is taken apart, because HDF5 reads it slowly."""
    whole = describe(h5, dset)
    order = sources_in_order(dset)
    if order is None:
        return (whole,)
    parts = []
    for name, inner, n in order:
        path = dset.file.filename if name == "." else find_source(dset, name)
        with opened(path) as other:
            if inner not in other:
                raise FormatError(f"{path}: has no dataset {inner}, of which {whole.where} is made. Is it another file of that name?")
            part = describe(other, other[inner])
        if part.shape != (n, *whole.shape[1:]) or part.dtype != whole.dtype:
            return (whole,)
        parts.append(part)
    return tuple(parts)


def sources_in_order(dset: Any) -> list[tuple[str, str, int]] | None:
    """(file, dataset, length) of the sources of a virtual dataset, where these are whole datasets joined along the first axis."""
    import h5py

    if not dset.is_virtual:
        return None
    rows = []
    for space, name, inner, source in dset.virtual_sources():
        if "%" in name or "%" in inner:
            return None
        try:
            start, stop = space.get_select_bounds()
            shape = tuple(b - a + 1 for a, b in zip(start, stop, strict=True))
            if source.get_select_type() != h5py.h5s.SEL_ALL:
                first, last = source.get_select_bounds()
                if any(first) or tuple(n + 1 for n in last) != shape or source.get_select_npoints() != math.prod(shape):
                    return None
        except (ValueError, RuntimeError):  # without limit
            return None
        if any(start[1:]) or shape[1:] != tuple(dset.shape[1:]) or space.get_select_npoints() != math.prod(shape):
            return None
        rows.append((int(start[0]), name, inner, shape[0]))
    rows.sort()
    ends = [row[0] + row[3] for row in rows]
    if not rows or [row[0] for row in rows] != [0, *ends[:-1]] or ends[-1] != dset.shape[0]:
        return None
    return [row[1:] for row in rows]


def unusable(dset: Any) -> str:
    """Why `dset` cannot hold frames, "" where it can."""
    import h5py

    if dset.shape is None:
        return "is an empty dataset (null dataspace)"
    if dset.shape == ():
        return "is a scalar"
    dtype = dset.dtype
    if h5py.check_string_dtype(dtype) is not None or dtype.kind in "SU":
        return "holds text"
    if dtype.hasobject:
        return "holds lists of variable length or references"
    if dtype.names is not None:
        return f"holds records ({', '.join(dtype.names)})"
    if dtype.kind not in "biufc" or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        return f"holds {dtype}, which is no number that frames can have"
    if dset.size == 0:
        return f"holds no data: its shape is {tuple(dset.shape)}"
    return ""


def plain_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Without HDF5's remarks on it (enumerations are integers)."""
    return np.dtype(dtype.str)


def _offset(dset: Any) -> int:
    offset = dset.id.get_offset()
    return -1 if offset is None else int(offset)


def _direct(dset: Any, dtype: np.dtype[Any]) -> bool:
    """Whether the stored type is just that NumPy type: no odd precision, padding or exotic floats, for which HDF5 converts."""
    import h5py

    if dset.is_virtual or dset.external:
        return False
    stored = dset.id.get_type()
    if isinstance(stored, h5py.h5t.TypeEnumID) and dtype.kind != "b":
        stored = stored.get_super()
    if dtype.kind == "b":  # an enumeration of False and True over one byte
        return bool(stored.get_size() == 1)
    return bool(stored.equal(h5py.h5t.py_create(dtype)))


def _others(dset: Any, path: str) -> tuple[StoredFile, ...]:
    """Files besides `path` that hold pixels. HDF5 fills in for missing ones without a word, so they are looked for."""
    names: list[str] = []
    if dset.external:
        names = [name for name, _, _ in dset.external]
    elif dset.is_virtual:  # "." is the file itself; a pattern: which files there are is only known while reading
        names = [s.file_name for s in dset.virtual_sources() if s.file_name != "." and "%" not in s.file_name]
    return tuple(stat_file(find_source(dset, name)) for name in dict.fromkeys(names))


def find_source(dset: Any, name: str) -> str:
    """Path of a file that `dset` keeps its data in. Raises FormatError where it is missing."""
    folder = Path(dset.file.filename).parent
    if dset.external:
        places = [Path(os.environ.get("HDF5_EXTFILE_PREFIX", "").replace("${ORIGIN}", str(folder)) or Path.cwd()) / name]
    else:
        places = [folder / name, Path.cwd() / name, folder / Path(name).name]  # an absolute name replaces the folder
    for place in places:
        if place.is_file():
            return os.path.abspath(place)
    raise FormatError(f"{dset.file.filename}:{dset.name} keeps its data in {name}, but there is no {places[0]}. Copy that file there too.")


def need_filters(found: H5Dataset) -> None:
    """Raise NotInstalledError unless HDF5 itself can undo all filters."""
    for number, _ in found.filters:
        if not _available(number):
            name = _NAMES.get(number, "unknown")
            raise NotInstalledError(
                f"{found.where} is compressed with {name} (HDF5 filter {number}), which is not installed: pip install libstream[formats]"
            )


def _available(number: int) -> bool:
    import h5py

    if h5py.h5z.filter_avail(number):
        return True
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401  # registers its filters

        return bool(h5py.h5z.filter_avail(number))
    return False
