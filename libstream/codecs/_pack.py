"""Merlin's pixels, packed as the detector stores them: the inverse of `merlin.Pixels.decode`, for replay and simulators."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.codecs.merlin import CHIP, GAP, Pixels
from libstream.errors import CodecError

_Arr = np.ndarray[Any, Any]


def pack(pixels: Pixels, frame: _Arr) -> bytes:
    """Stored bytes of one frame (y, x) of `pixels.dtype`. Raises CodecError for counts that the counter depth cannot hold."""
    if pixels.code != "R64":
        if pixels.code == "U01" and frame.size and frame.max() > 1:
            raise CodecError(f"pixels of U01 are 0 or 1, got {frame.max()}")
        return frame.astype(frame.dtype.newbyteorder(">"), copy=False).tobytes()
    most = (1 << pixels.depth) - 1
    if frame.size and int(frame.max()) > most:
        raise CodecError(f"a counter of {pixels.depth} bit holds counts up to {most}, got {frame.max()}")
    rows = _stored_rows(pixels, frame)
    if pixels.depth == 24:
        return _words(rows >> 12, 12) + _words(rows & 0xFFF, 12)
    return _words(rows, pixels.depth)


def _stored_rows(pixels: Pixels, frame: _Arr) -> _Arr:
    """Pixels in the order in which rows are read out: (rows of a chip, pixels of all chips)."""
    if pixels.across == 1:
        return frame
    n = pixels.chip_rows
    upper, lower = frame[:n], frame[n + pixels.gap :]
    if pixels.gap:
        upper, lower = (np.concatenate((half[:, :CHIP], half[:, CHIP + GAP :]), axis=1) for half in (upper, lower))
    # chips 4 and 3, below and mounted upside down, are one row from the right; then chip 2, then chip 1
    return np.concatenate((lower[::-1, ::-1], upper[:, CHIP:], upper[:, :CHIP]), axis=1)


def _words(rows: _Arr, depth: int) -> bytes:
    """Groups of 8 bytes, each with its pixels in reversed order."""
    if depth == 1:
        return np.packbits(np.ascontiguousarray(rows), axis=1, bitorder="little").reshape(-1, 8)[:, ::-1].tobytes()
    group, kind = (8, "u1") if depth == 6 else (4, ">u2")
    return np.ascontiguousarray(rows).reshape(-1, group)[:, ::-1].astype(kind).tobytes()
