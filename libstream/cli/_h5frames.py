"""The HDF5 file around exported frames, made in memory; the frames themselves are written by plain file operations.

HDF5 itself is kept away from the file: where a disk is full while it writes, it kills the process or tries again at exit.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.model.source import Axis, SourceMeta


@dataclass(frozen=True)
class Frame:
    """A file without its frames: what stands at which byte, where the frames go (C order), and the size of the whole file."""

    pieces: tuple[tuple[int, bytes], ...]
    data_offset: int
    size: int


def around(
    shape: tuple[int, ...], dtype: np.dtype[Any], axes: Sequence[Axis], meta: SourceMeta, crop: Sequence[tuple[int, int]], factor: int
) -> Frame:
    """NXdata with axes in their units at /entry/data; `crop` and `factor` are those of the frames."""
    import h5py

    file = _Pieces()
    with h5py.File(file, "w") as h5:
        h5.attrs.update({"NX_class": "NXroot", "creator": "libstream", "default": "entry"})
        entry = h5.create_group("entry")
        entry.attrs.update({"NX_class": "NXentry", "default": "data"})
        entry.attrs.update({"source": meta.id.uri, "source_fingerprint": meta.id.fingerprint, "crop_px": np.array(crop), "bin": factor})
        group = entry.create_group("data")
        group.attrs.update({"NX_class": "NXdata", "signal": "data", "axes": [a.name for a in axes]})
        for number, axis in enumerate(axes):
            group[axis.name] = axis.offset + np.arange(axis.size) * axis.step
            group[axis.name].attrs["units"] = axis.unit
            group.attrs[f"{axis.name}_indices"] = number
        if meta.centre is not None:
            group.attrs["centre_px"] = [(c - r[0] - (factor - 1) / 2) / factor for c, r in zip(meta.centre, crop, strict=True)]
        if meta.rotation_deg is not None:
            group.attrs["rotation_deg"] = meta.rotation_deg
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.CONTIGUOUS)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        kind = h5py.h5t.py_create(dtype, logical=True)
        data = h5py.h5d.create(group.id, b"data", kind, h5py.h5s.create_simple(shape), dcpl=layout)
        offset = data.get_offset() or 0
        del data
    return Frame(tuple(file.pieces), offset, file.size)


class _Pieces(io.RawIOBase):
    """A file in memory that keeps what is written, not what lies between."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[tuple[int, bytes]] = []
        self.size = 0
        self._pos = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._pos = offset + (0, self._pos, self.size)[whence]
        return self._pos

    def tell(self) -> int:
        return self._pos

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        n = max(0, min(len(view), self.size - self._pos))
        view[:n] = bytes(n)
        for at, piece in self.pieces:  # later ones over earlier ones
            lo, hi = max(at, self._pos), min(at + len(piece), self._pos + n)
            if lo < hi:
                view[lo - self._pos : hi - self._pos] = piece[lo - at : hi - at]
        self._pos += n
        return n

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self.pieces.append((self._pos, piece))
        self._pos += len(piece)
        self.size = max(self.size, self._pos)
        return len(piece)

    def truncate(self, size: int | None = None) -> int:
        self.size = self._pos if size is None else size
        return self.size
