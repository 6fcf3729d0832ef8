"""Frames of a source by index, for looking at data."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from libstream.errors import CorruptFileError, ShapeError, UsageError
from libstream.model.output import default_fill
from libstream.model.shape import Region, Span

if TYPE_CHECKING:
    from libstream.contracts.source import FrameSource

_Arr = np.ndarray[Any, Any]


def frames_at(source: FrameSource, index: Any) -> _Arr:
    """`source[index]`: frames at scan positions, cut to the rest of the index, as a new array.

    Positions without a frame (sync_offset) hold the dtype's fill value. Raises ShapeError for an index outside of the
    data, UsageError where the result would not fit into memory, CorruptFileError for a frame that cannot be read.
    """
    meta = source.meta
    nav, sig = meta.shape.nav, meta.shape.sig
    nav_index, sig_index = _split(index, len(nav), len(sig))
    try:
        picked = np.arange(math.prod(nav)).reshape(nav)[nav_index]
        np.empty(sig, bool)[sig_index]
    except IndexError as exc:
        raise ShapeError(f"index {index!r} does not fit data of shape {meta.shape}: {exc}") from None
    flat = np.atleast_1d(picked).reshape(-1)
    needed = len(flat) * math.prod(sig) * meta.dtype.itemsize
    if needed > 0.8 * memory_available():
        raise UsageError(
            f"{len(flat)} frames need {needed / 1e9:.1f} GB, more than the memory that is free "
            f"({memory_available() / 1e9:.1f} GB); take a part (source[0, 0], source[:4]) or run a UDF over it"
        )
    out = np.full((len(flat), *sig), default_fill(meta.dtype), meta.dtype)
    reader = source.opener.open_reader(source.channel_name)
    try:
        for row, count, frame in _runs(flat + meta.sync_offset, meta.n_frames):
            valid = reader.read_into(out[row : row + count], Span(frame, frame + count), Region.whole(sig))
            if valid is not None and not valid.all():
                bad = int(flat[row + int(np.flatnonzero(~valid)[0])])
                where = tuple(int(i) for i in np.unravel_index(bad, nav)) if nav else 0
                raise CorruptFileError(
                    f"{meta.id.uri}: the frame at scan position {where} is corrupt; runs leave such frames out and count them"
                )
    finally:
        reader.close()
    out = out.reshape(*np.shape(picked), *sig)
    return out[(*(slice(None),) * np.ndim(picked), *sig_index)]


def _split(index: Any, n_nav: int, n_sig: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    if isinstance(index, np.ndarray) and index.dtype == bool and index.ndim == n_nav:
        return (index,), (slice(None),) * n_sig
    parts = index if isinstance(index, tuple) else (index,)
    if any(p is None for p in parts):
        raise UsageError("None (newaxis) is not understood here; index the array that comes back")
    if Ellipsis in [p for p in parts if not isinstance(p, np.ndarray)]:
        at = next(i for i, p in enumerate(parts) if p is Ellipsis)
        fill = (slice(None),) * (n_nav + n_sig - len(parts) + 1)
        parts = (*parts[:at], *fill, *parts[at + 1 :])
    parts = (*parts, *(slice(None),) * (n_nav + n_sig - len(parts)))
    return tuple(parts[:n_nav]), tuple(parts[n_nav:])


def _runs(frames: _Arr, n_frames: int) -> Any:
    """(row, count, first frame) of consecutive frames that exist."""
    row, n = 0, len(frames)
    while row < n:
        first = int(frames[row])
        stop = row + 1
        while stop < n and int(frames[stop]) == first + stop - row:
            stop += 1
        lo, hi = max(0, -first), min(stop - row, n_frames - first)
        if hi > lo:
            yield row + lo, hi - lo, first + lo
        row = stop


def memory_available() -> float:
    """Memory that can be taken without swapping, in bytes; inf where the system does not say."""
    try:
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError):
        return float("inf")
