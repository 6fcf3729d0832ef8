"""Helpers of the tests of Merlin files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from libstream.ext import FrameSource, Region, Span
from libstream.io_backends.files.mib import MibFormat, MibOptions
from tests.writers import mib as writer

_Arr = np.ndarray[Any, Any]


def frames_like(n: int, code: str = "U16", depth: int = 12, layout: str = "1x1", rows: int = 4) -> _Arr:
    return writer.random_frames(np.random.default_rng(n), n, code, depth, layout, rows)


def opened(path: Path, **options: Any) -> FrameSource:
    return MibFormat().open(str(path), MibOptions(**options))


def settle(folder: Path) -> None:
    """Make files look old: recent ones are read, old ones are mapped."""
    for path in folder.iterdir():
        os.utime(path, (1_600_000_000, 1_600_000_000))


def read(source: FrameSource, a: int, b: int, rows: slice | None = None, channel: str | None = None) -> tuple[_Arr, _Arr | None]:
    ny, nx = source.meta.shape.sig
    rows = rows or slice(0, ny)
    out = np.full((b - a, rows.stop - rows.start, nx), 77, source.meta.dtype)
    reader = source.opener.open_reader(channel or source.channel_name)
    try:
        return out, reader.read_into(out, Span(a, b), Region((rows.start, 0), (rows.stop - rows.start, nx)))
    finally:
        reader.close()


def damage(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as f:
        f.seek(at)
        f.write(data)
