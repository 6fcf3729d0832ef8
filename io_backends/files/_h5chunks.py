"""Where the chunks of a dataset lie in the file, asked of HDF5 once for each process, and the filters that are undone here."""

from __future__ import annotations

import importlib
import math
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.ext import CorruptFileError, FormatError, bslz4
from libstream.io_backends.files._h5open import BITSHUFFLE, DEFLATE, LZ4, SHUFFLE, ZSTD, H5Dataset, opened
from libstream.io_backends.files._identity import verify

_Arr = np.ndarray[Any, Any]
_INDEX_BYTES = 256 * 1024 * 1024  # of all chunk tables together: 12 million chunks
_MAX_CHUNKS = 20_000_000  # 400 MB of table; more is damage, or chunks of a few pixels
_lock = threading.Lock()
_tables: OrderedDict[H5Dataset, ChunkTable] = OrderedDict()


@dataclass(frozen=True, eq=False)
class ChunkTable:
    """Place of each chunk in the file [bytes], its stored size and filter mask (bit i: filter i was left out).

    C order over the grid of chunks. at is -1 for chunks that were never written, or that lie behind the end of the file.
    """

    at: _Arr
    size: _Arr
    mask: _Arr

    @property
    def n_bytes(self) -> int:
        """Memory of the table."""
        return int(self.at.nbytes + self.size.nbytes + self.mask.nbytes)


def grid_of(dataset: H5Dataset) -> tuple[int, ...]:
    """Number of chunks along each axis."""
    return tuple(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))


def chunk_table(dataset: H5Dataset) -> ChunkTable:
    """Table of `dataset`, made at the first call (3 microseconds a chunk) and kept for all readers of this process."""
    with _lock:  # HDF5 has one lock for everything: several threads would only wait for each other
        table = _tables.get(dataset)
        if table is None:
            table = _tables[dataset] = _read_table(dataset)
            while len(_tables) > 1 and sum(t.n_bytes for t in _tables.values()) > _INDEX_BYTES:
                _tables.popitem(last=False)
        else:
            _tables.move_to_end(dataset)
        return table


def _read_table(dataset: H5Dataset) -> ChunkTable:
    grid = grid_of(dataset)
    n = math.prod(grid)
    if n > _MAX_CHUNKS:
        raise FormatError(f"{dataset.where}: shape {dataset.shape} has {n} chunks of {dataset.chunks}, expected at most {_MAX_CHUNKS}")
    table = ChunkTable(np.full(n, -1, np.int64), np.zeros(n, np.int64), np.zeros(n, np.uint32))
    rows: list[tuple[Any, ...]] = []
    with opened(dataset.file.path) as h5:
        verify(dataset.file, os.stat(dataset.file.path))
        stored = h5[dataset.name].id
        if hasattr(stored, "chunk_iter"):
            stored.chunk_iter(lambda c: rows.append((*c.chunk_offset, c.byte_offset, c.size, c.filter_mask)))
        else:
            infos = (stored.get_chunk_info(i) for i in range(stored.get_num_chunks()))
            rows.extend((*c.chunk_offset, c.byte_offset, c.size, c.filter_mask) for c in infos)
        if not rows:
            return table
        found = np.array(rows, np.int64)
        where = found[:, :-3] // np.array(dataset.chunks)
        if ((where < 0) | (where >= np.array(grid))).any():
            raise CorruptFileError(f"{dataset.where}: a chunk lies outside of shape {dataset.shape}. The file is damaged; copy it again.")
        flat = np.ravel_multi_index(tuple(where.T), grid)
        table.at[flat], table.size[flat], table.mask[flat] = found[:, -3], found[:, -2], found[:, -1]
        _check_place(dataset, stored, found[0])
    lost = (table.at < 0) | (table.size <= 0) | (table.at > dataset.file.size - table.size)
    table.at[lost] = -1
    for array in (table.at, table.size, table.mask):
        array.setflags(write=False)
    return table


def _check_place(dataset: H5Dataset, stored: Any, row: _Arr) -> None:
    """Compare one chunk as HDF5 reads it with the bytes at its place: some versions of HDF5 forgot the user block."""
    _, direct = stored.read_direct_chunk(tuple(int(i) for i in row[:-3]))
    at, size = int(row[-3]), int(row[-2])
    with open(dataset.file.path, "rb") as f:
        f.seek(at)
        if f.read(size) != bytes(direct):
            raise CorruptFileError(f"{dataset.where}: the chunk at byte {at} is not where HDF5 says. Update h5py: pip install -U h5py")


# -- filters -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Codec:
    """A single encoding that `bslz4.decode_parts` undoes: its kind, and the bytes of a shuffled element."""

    kind: int
    item: int


def codec_of(dataset: H5Dataset) -> Codec | None:
    """The one codec of the chunks where there is at most one filter and it is of that sort, else None."""
    if not dataset.filters:
        return Codec(bslz4.STORED, 1)
    if len(dataset.filters) > 1:
        return None
    number, values = dataset.filters[0]
    if number == LZ4:
        return Codec(bslz4.LZ4_FRAMED, 1)
    if number == BITSHUFFLE and len(values) >= 5 and values[4] == 2 and 1 <= values[2] <= 255:
        return Codec(bslz4.BSLZ4, values[2])
    return None


Step = Callable[[Any, int], Any]
"""Undo one filter: (bytes, largest size to expect) -> bytes. Raises ValueError or zlib.error for damaged ones."""


def steps_of(dataset: H5Dataset) -> tuple[Step, ...] | None:
    """How each filter is undone here, in the order of writing; None where HDF5 has to do it (checksums, unknown filters)."""
    steps = []
    for number, values in dataset.filters:
        step = _step(number, values)
        if step is None:
            return None
        steps.append(step)
    return tuple(steps)


def _step(number: int, values: tuple[int, ...]) -> Step | None:
    if number == DEFLATE:
        return _inflate
    if number == SHUFFLE:
        item = values[0] if values else 0
        return (lambda data, limit: _unshuffle(data, item)) if item > 0 else None
    if number == LZ4:
        return lambda data, limit: _decode(data, limit, bslz4.decode_lz4)
    if number == BITSHUFFLE and len(values) >= 5 and values[4] == 2 and 1 <= values[2] <= 255:
        item = values[2]
        return lambda data, limit: _decode(data, limit, lambda blob, out: bslz4.decode_bslz4(blob, out, item))
    if number == ZSTD:
        return _zstd()
    return None


def _inflate(data: Any, limit: int) -> bytes:
    worker = zlib.decompressobj()
    out = worker.decompress(data, limit)
    if not worker.eof and worker.decompress(worker.unconsumed_tail, 1):
        raise ValueError(f"more than {limit} bytes in a chunk")
    return out


def _unshuffle(data: Any, item: int) -> _Arr:
    raw = np.frombuffer(data, np.uint8)
    n = raw.size // item
    out = np.empty(raw.size, np.uint8)
    out[: n * item].reshape(n, item)[...] = raw[: n * item].reshape(item, n).T
    out[n * item :] = raw[n * item :]
    return out


def _decode(data: Any, limit: int, decode: Callable[[Any, _Arr], None]) -> _Arr:
    size = int.from_bytes(bytes(memoryview(data)[:8]), "big")
    if size > limit:
        raise ValueError(f"a chunk announces {size} bytes, {limit} were expected")
    out = np.empty(size, np.uint8)
    decode(data, out)
    return out


def _zstd() -> Step | None:
    for name, limit_name in (("compression.zstd", "max_length"), ("zstandard", "max_output_size")):  # the first: Python 3.14
        try:
            return _zstd_by(importlib.import_module(name), limit_name)
        except ImportError:
            continue
    return None


def _zstd_by(zstd: Any, limit_name: str) -> Step:
    def undo(data: Any, limit: int) -> bytes:
        try:
            out: bytes = zstd.ZstdDecompressor().decompress(bytes(data), **{limit_name: limit})
        except zstd.ZstdError as exc:
            raise ValueError(str(exc)) from exc
        return out

    return undo
