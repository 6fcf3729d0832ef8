"""Real detector files: where they are, and what the manifest says is in them.

They are no part of the project: tests look in $LIBSTREAM_REALDATA, else in `shared/realdata` beside the checkout.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MISSING = "no real detector files: set LIBSTREAM_REALDATA to their folder, or put it at shared/realdata beside the checkout"


def root() -> Path | None:
    """Folder of the real files, None where there is none."""
    named = os.environ.get("LIBSTREAM_REALDATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "realdata"
    return folder if (folder / "MANIFEST.json").is_file() else None


@functools.cache
def manifest() -> dict[str, dict[str, Any]]:
    """Entries by id; {} where there is no folder."""
    folder = root()
    if folder is None:
        return {}
    entries = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))["datasets"]
    return {entry["id"]: entry for entry in entries}


def ids(*formats: str) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: ids of all entries of these formats, or one that skips and says why."""
    found = [i for i, entry in manifest().items() if entry["format"] in formats]
    return found or [pytest.param("", marks=pytest.mark.skip(reason=MISSING))]


def dataset(name: str) -> dict[str, Any]:
    """Entry `name`; skips the test where there are no real files."""
    if root() is None:
        pytest.skip(MISSING)
    return manifest()[name]


def path(entry: dict[str, Any], role: str | None = None, suffix: str = "") -> Path:
    """The entry's file of that role (default: its first file) or with that ending."""
    folder = root()
    if folder is None:
        pytest.skip(MISSING)
    files = [f for f in entry["files"] if (role is None or f["role"] == role) and f["path"].endswith(suffix)]
    return folder / files[0]["path"]


def frames_of(source: Any) -> np.ndarray[Any, Any]:
    """All frames (*nav, *sig) of an ndarray, of what `ls.open` gives, or of a `FrameSource` by its reader."""
    if isinstance(source, np.ndarray):
        return source
    if not hasattr(source, "opener"):
        return np.asarray(source[...])
    from libstream.ext import Region, Span

    meta = source.meta
    reader = source.opener.open_reader(source.channel_name)
    out = np.empty((meta.n_frames, *meta.shape.sig), meta.dtype)
    try:
        for start in range(0, meta.n_frames, 7):
            stop = min(start + 7, meta.n_frames)
            valid = reader.read_into(out[start:stop], Span(start, stop), Region.whole(meta.shape.sig))
            assert valid is None or valid.all(), f"corrupt frames from {start}: {valid}"
    finally:
        reader.close()
    return out.reshape(*meta.shape.nav, *meta.shape.sig)


def check_against_manifest(source: Any, entry: dict[str, Any], *, reshape: bool = False) -> None:
    """Compare frames with the entry: shape, dtype, extremes, sum, every frame's sum, probes, sha256 of all.

    reshape: the scan's shape is not in the file; compare with the entry's shape imposed.
    """
    data = frames_of(source)
    expected = tuple(entry["shape"])
    if reshape:
        data = data.reshape(expected)
    assert data.shape == expected
    assert data.dtype == np.dtype(entry["dtype"])
    assert data.min() == entry["min"]
    assert data.max() == entry["max"]
    _close([_total(data)], [entry["sum"]], data.dtype)
    if entry.get("frame_sums"):
        sig = len(entry["shape_sig"])
        frames = data.reshape(-1, *data.shape[-sig:])
        _close([_total(frame) for frame in frames], entry["frame_sums"], data.dtype)
    for probe in entry["probes"]:
        assert data[tuple(probe["index"])] == probe["value"], f"pixel {probe['index']}"
    little = np.ascontiguousarray(data).astype(data.dtype.newbyteorder("<"), copy=False)
    assert hashlib.sha256(little.tobytes()).hexdigest() == entry["array_sha256"]


def _total(data: np.ndarray[Any, Any]) -> Any:
    wide = {"u": np.uint64, "i": np.int64, "b": np.int64}.get(data.dtype.kind, np.float64)
    return data.sum(dtype=wide).item()


def _close(got: Iterable[Any], expected: Iterable[Any], dtype: np.dtype[Any]) -> None:
    if dtype.kind in "uib":
        assert list(got) == list(expected)
    else:
        np.testing.assert_allclose(list(got), list(expected), rtol=1e-12)
