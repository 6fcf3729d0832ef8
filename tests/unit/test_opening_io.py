"""`ls.open(..., io=)`: the same frames, whichever way they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import libstream as ls
from libstream.errors import UsageError


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    path = tmp_path / "frames.npy"
    np.save(path, np.random.default_rng(1).integers(0, 999, (6, 7, 16, 24)).astype(np.uint16))
    return path


@pytest.mark.parametrize("io", ["auto", "read", "direct"])
def test_same_result_and_remembered(npy: Path, io: str) -> None:
    scan = ls.open(npy, io=io)
    try:
        result = ls.run(scan, ls.udfs.Sum(), executor="inline")
    except UsageError as exc:
        pytest.skip(f"no direct reading here: {exc}")
    np.testing.assert_array_equal(result["sum"], np.load(npy).sum(axis=(0, 1)))
    assert result.run["source"]["open"].get("io", "auto") == io
    if io != "auto":
        assert "buffers" in "\n".join(result.run["plan"])


def test_what_cannot_be_chosen(npy: Path) -> None:
    with pytest.raises(UsageError, match="io must be 'auto', 'read' or 'direct', got 'fast'"):
        ls.open(npy, io="fast")
    with pytest.raises(UsageError, match="memory are read in one way only"):
        ls.open(np.zeros((2, 3, 4, 4)), io="direct")
