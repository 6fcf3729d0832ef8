"""PNG and TIFF without packages, read back with packages."""

from __future__ import annotations

import io

import numpy as np
import pytest

from libstream.errors import UsageError
from libstream.model import picture
from libstream.web_gui import pictures


def test_a_png_has_the_colours() -> None:
    image = pytest.importorskip("PIL.Image")
    values = np.array([[0.0, 1.0, 2.0], [np.nan, -5.0, 9.0]])
    got = np.asarray(image.open(io.BytesIO(pictures.png(values, map="gray", lo=0, hi=2))))
    assert got.shape == (2, 3, 3)
    assert got[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]
    assert got[1].tolist() == [list(pictures.UNSEEN), [0] * 3, [255] * 3]
    colours = np.asarray(image.open(io.BytesIO(pictures.png(values, lo=0, hi=2))))
    assert colours[0, 0].tolist() == [0x44, 0x01, 0x54]
    assert colours[0, 2].tolist() == [0xFD, 0xE7, 0x25]
    grey = np.asarray(image.open(io.BytesIO(pictures.grey(np.arange(6, dtype=np.uint8).reshape(2, 3)))))
    assert grey.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_viridis_is_matplotlibs() -> None:
    colormaps = pytest.importorskip("matplotlib").colormaps
    theirs = (colormaps["viridis"](np.arange(256))[:, :3] * 255).round()
    assert np.abs(picture.table("viridis").astype(float) - theirs).max() <= 6


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", "int64", "float32", "float64", "bool", "float16", ">u2"])
def test_a_tiff_holds_the_values(dtype: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    array = np.arange(15).reshape(3, 5).astype(dtype)
    with tifffile.TiffFile(io.BytesIO(pictures.tiff(array, "intensity [counts] µ"))) as file:
        assert np.array_equal(file.asarray(), array)
        assert file.pages[0].description == "intensity [counts] µ"


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((2, 2, 2)), np.zeros((0, 3))])
def test_only_images_are_drawn(array: np.ndarray) -> None:
    with pytest.raises(UsageError):
        pictures.png(array)
    with pytest.raises(UsageError):
        pictures.tiff(array)
    with pytest.raises(UsageError, match="map"):
        pictures.png(np.zeros((2, 2)), map="jet")
