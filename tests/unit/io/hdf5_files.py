"""Writing HDF5 files with h5py, and reading them with libstream, for tests."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libstream.ext import Region, Span
from libstream.io_backends.files import _h5library
from libstream.io_backends.files._fixed import FixedLayout
from libstream.io_backends.files.hdf5 import Hdf5Format, Hdf5Options

hdf5plugin = pytest.importorskip("hdf5plugin")

FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip"},
    "shuffle+gzip": {"compression": "gzip", "shuffle": True},
    "shuffle": {"shuffle": True},
    "lzf": {"compression": "lzf"},
    "fletcher32": {"fletcher32": True, "compression": "gzip"},
    "bslz4": dict(hdf5plugin.Bitshuffle()),
    "bslz4, small blocks": dict(hdf5plugin.Bitshuffle(nelems=64, cname="lz4")),
    "bitshuffle alone": dict(hdf5plugin.Bitshuffle(cname="none")),
    "bszstd": dict(hdf5plugin.Bitshuffle(cname="zstd")),
    "lz4": dict(hdf5plugin.LZ4(nbytes=512)),
    "zstd": dict(hdf5plugin.Zstd()),
    "blosc": dict(hdf5plugin.Blosc()),
    "shuffle+bslz4": {"shuffle": True, **hdf5plugin.Bitshuffle()},
}
DTYPES = ["u1", "<u2", ">u2", "<u4", ">i4", "i8", "f4", ">f8", "?", "c8", "f2", "i1"]


def opened(path: Path | str, **options: Any) -> Any:
    return Hdf5Format().open(str(path), Hdf5Options(**options))


def read(source: Any, start: int = 0, stop: int | None = None, rows: slice | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Frames [start, stop) cut to rows, and their validity; through a pickled opener, as workers get it."""
    meta = source.meta
    stop = meta.n_frames if stop is None else stop
    rows = rows or slice(0, meta.shape.sig[0])
    region = Region((rows.start, *(0,) * (len(meta.shape.sig) - 1)), (rows.stop - rows.start, *meta.shape.sig[1:]))
    reader = pickle.loads(pickle.dumps(source.opener)).open_reader(source.channel_name)
    try:
        out = np.full((stop - start, *region.shape), 77, meta.dtype)
        valid = reader.read_into(out, Span(start, stop), region)
        reader.check()
    finally:
        reader.close()
    return out, np.ones(stop - start, bool) if valid is None else valid


def pixels(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "b":
        return rng.random(shape) < 0.3
    data = rng.poisson(rng.choice([0.1, 20.0]), shape)
    return (data + 1j * data[..., ::-1] if np.dtype(dtype).kind == "c" else data).astype(dtype)


def kind_of(source: Any) -> str:
    reader = source.opener.open_reader("frames")
    try:
        if isinstance(source.opener, FixedLayout):
            return "flat"
        part = reader._part(0)
        if isinstance(part, _h5library.LibraryPart):
            return "library"
        return "whole frames" if part.codec is not None else "pieces"
    finally:
        reader.close()
