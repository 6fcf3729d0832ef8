"""Merlin files through the whole engine: damaged and missing frames are accounted for, every way of reading gives the same."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import libstream as ls
from tests.unit.io.mib_files import damage, frames_like, settle
from tests.writers import mib as writer


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize(("code", "layout"), [("U08", "1x1"), ("U16", "1x1"), ("R64", "2x2")])
def test_damaged_and_missing_frames(tmp_path: Path, code: str, layout: str, mapped: bool) -> None:
    frames = frames_like(24, code, 12, layout)
    path = writer.write(tmp_path, frames, code, 12, layout, per_trigger=6)
    record = path.stat().st_size // 24
    damage(path, 7 * record, b"\0\0\0\0")
    os.truncate(path, 20 * record + 100)
    if mapped:
        settle(tmp_path)
    with pytest.raises(ls.errors.CorruptFileError, match="ends within a frame"):
        ls.open(path)
    scan = ls.open(path, allow_truncated=True)
    assert scan.meta.shape.nav == (4, 6)
    there = np.arange(24) < 20
    there[7] = False
    result = ls.run(scan, {"totals": ls.udfs.FrameTotals(), "sum": ls.udfs.Sum()}, executor="inline")
    np.testing.assert_array_equal(np.ravel(result.valid), there)
    assert not result.complete
    totals = np.ravel(result["totals"][next(iter(result["totals"]))])
    np.testing.assert_array_equal(totals[there], frames[there].sum(axis=(1, 2), dtype=np.uint64))
    np.testing.assert_array_equal(result["sum"][next(iter(result["sum"]))], frames[there].sum(axis=0, dtype=np.uint64))
