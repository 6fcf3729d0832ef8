"""A result made by a function of the user's can be saved, and says that it cannot be repeated from the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import libstream as ls
from libstream.api import rebuild
from libstream.errors import FormatError

FRAMES = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(2, 3, 4, 5)


def brightest(frame):  # type: ignore[no-untyped-def]
    """Brightest pixel."""
    return frame.max()


def test_it_is_saved_with_its_text(tmp_path: Path) -> None:
    result = ls.run(FRAMES, {"map": ls.udfs.FrameMap(func=brightest)})
    loaded = ls.load_result(result.save(tmp_path / "map.h5"))
    np.testing.assert_array_equal(loaded["map"]["value"], FRAMES.max(axis=(2, 3)))
    kept = loaded.run["udfs"]["map"]["params"]["func"]
    assert kept["object"].endswith(":brightest")
    assert "return frame.max()" in kept["source"]
    with pytest.raises(FormatError, match=r"brightest.*from Python again"):
        rebuild(loaded, lambda key, record: ls.udfs.FrameMap)


def test_a_function_without_text_is_saved_too(tmp_path: Path) -> None:
    result = ls.run(FRAMES, {"map": ls.udfs.FrameMap(func=np.max)})
    assert "max" in ls.load_result(result.save(tmp_path / "map.h5")).run["udfs"]["map"]["params"]["func"]["object"]
