"""Arrays in memory as a source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from libstream.ext import DataShape, FrameReader, FrameSource, Region, ShapeError, SourceId, SourceMeta, Span, UsageError, param
from libstream.io_backends.files._gather import copy_frames, flat_frames

_Arr = np.ndarray[Any, Any]
# frames that enter the fingerprint, and bytes of each: 4 MiB at most, so that opening an array stays instant
_SAMPLES, _SAMPLE_BYTES = 64, 64 * 1024


@dataclass(frozen=True)
class MemoryOptions:
    """sig_dims: axes of a frame, the last ones of the array: 2 for images, 1 for spectra."""

    sig_dims: int = param(2, ge=1, le=2, title="Axes of a frame")


@dataclass(frozen=True, eq=False)
class MemoryOpener:
    """Arrays (*nav, *sig) by channel; travels with the arrays in it."""

    arrays: tuple[tuple[str, _Arr], ...]
    n_sig: int

    def open_reader(self, channel: str) -> MemoryReader:
        """Open a reader of `channel`. Raises UsageError naming the channels there are."""
        for name, data in self.arrays:
            if name == channel:
                return MemoryReader(data, self.n_sig)
        raise UsageError(f"no channel {channel!r}; there are {', '.join(repr(n) for n, _ in self.arrays)}")


class MemoryReader(FrameReader):
    """Reads frames of an array."""

    in_memory = True

    def __init__(self, data: _Arr, n_sig: int) -> None:
        self._data = data
        self._n_sig = n_sig

    def read_into(self, out: _Arr, frames: Span, region: Region) -> None:
        """Copy frames into `out` (see `FrameReader`)."""
        data, n_sig = self._data, self._n_sig
        sig = data.shape[data.ndim - n_sig :]
        n = data.size // max(1, int(np.prod(sig)))
        if frames.stop > n:
            raise UsageError(f"frames {frames.start} to {frames.stop} were asked for, the array has {n}")
        if region.rows.start < 0 or region.rows.stop > sig[0]:
            raise UsageError(f"region {region} is no band of whole rows of frames of shape {sig}")
        copy_frames(data, n_sig, frames, region.rows, out)

    def view(self) -> _Arr | None:
        """The array itself as (n, *sig), read-only, or None where its memory layout does not allow it."""
        return flat_frames(self._data, self._n_sig)

    def check(self) -> None:
        """Arrays cannot be shortened."""

    def close(self) -> None:
        """Nothing to release: the array belongs to the source."""


class MemorySource(FrameSource):
    """An array (*nav, *sig), or a dict of them by channel with the same scan, as a source. Nothing is copied where it can be avoided.

    sig_dims: axes of a frame (2: images, 1: spectra). Raises ShapeError, UsageError where arrays do not fit.
    """

    def __init__(self, data: Any, sig_dims: int = 2, uri: str = "memory:") -> None:
        if sig_dims not in (1, 2):
            raise UsageError(f"sig_dims is the number of axes of a frame, 1 or 2, got {sig_dims}")
        given = dict(data) if isinstance(data, Mapping) else {"frames": data}
        if not given:
            raise UsageError("no arrays were given; pass an array or a dict of arrays {channel: array}")
        arrays = {str(name): _checked(str(name), value, sig_dims) for name, value in given.items()}
        first = next(iter(arrays))
        nav = arrays[first].shape[:-sig_dims]
        for name, array in arrays.items():
            if array.shape[:-sig_dims] != nav:
                raise ShapeError(f"channels must have the same scan: {first!r} has {nav}, {name!r} has {array.shape[:-sig_dims]}")
        n_bytes = sum(a.nbytes for a in arrays.values())
        self._metas = {
            name: SourceMeta(
                id=SourceId(uri, "memory", n_bytes, _fingerprint(arrays, sig_dims)),
                shape=DataShape(nav, array.shape[-sig_dims:]),
                dtype=array.dtype,
                channels=tuple(arrays),
            )
            for name, array in arrays.items()
        }
        super().__init__(self._metas[first], MemoryOpener(tuple(arrays.items()), sig_dims))

    def channel_meta(self, name: str) -> SourceMeta:
        """Description of channel `name`."""
        if name not in self._metas:
            raise UsageError(f"no channel {name!r}; there are {', '.join(map(repr, self._metas))}")
        return self._metas[name]


class MemoryFormat:
    """Arrays, handed over as objects."""

    name: ClassVar[str] = "memory"
    suffixes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[type] = MemoryOptions

    def probe(self, head: bytes, path: str) -> float:
        """No file is an array in memory."""
        return 0.0

    def open(self, uri: Any, options: MemoryOptions) -> FrameSource:
        """A source of the array, or dict of arrays, `uri`."""
        if isinstance(uri, str):
            raise UsageError(f"{uri!r} is a text; the format 'memory' takes an array or a dict of arrays {{channel: array}}")
        return MemorySource(uri, options.sig_dims)


def _checked(name: str, value: Any, sig_dims: int) -> _Arr:
    data = np.asarray(value).view(np.ndarray)
    if data.dtype.kind not in "biufc":
        raise UsageError(f"array {name!r} has dtype {data.dtype}, expected numbers (bool, integers, floats or complex)")
    if data.ndim < sig_dims:
        hint = ", or sig_dims=1 for spectra" if data.ndim == 1 else ""
        raise ShapeError(f"array {name!r} has shape {data.shape}, expected at least {sig_dims} axes: (scan..., frame y, frame x){hint}")
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))


def _fingerprint(arrays: Mapping[str, _Arr], sig_dims: int) -> str:
    digest = hashlib.sha256()
    for name, data in arrays.items():
        digest.update(f"{name}{data.shape}{data.dtype.str}".encode())
        nav = data.shape[:-sig_dims]
        n = int(np.prod(nav))
        if not data.size:
            continue
        for i in sorted({n * k // _SAMPLES for k in range(_SAMPLES)} | {n - 1}):
            frame = data[tuple(int(j) for j in np.unravel_index(i, nav))] if nav else data
            rows = max(1, _SAMPLE_BYTES // max(1, frame[0].nbytes))
            digest.update(np.ascontiguousarray(frame[:rows]).tobytes())
            digest.update(np.ascontiguousarray(frame[-1:]).tobytes())
    return digest.hexdigest()
