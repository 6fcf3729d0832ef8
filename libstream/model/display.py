"""In which way an array is shown: as an image, vectors, a line, planes of a stack. Pure; the page and notebooks agree by it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from libstream.model.source import Axis

NUMBERS = "biufc"
LINES_MAX = 16
"""A 2-D array whose last axis, an extra one, is at most this long is shown as lines, where its first axis is long enough."""


def display_of(
    dtype: np.dtype[Any], shape: tuple[int, ...], own: tuple[Axis, ...], extra: tuple[Axis, ...]
) -> tuple[str, int, tuple[Axis, ...], tuple[Axis, ...], bool]:
    """(display, number of planes, axes that are shown, axes of the planes, whether these are the last ones).

    own: axes of the scan or of the frame, by the kind of the output; extra: those that the output adds.
    """
    axes = (*own, *extra)
    if dtype.kind not in NUMBERS or not all(shape):
        return "none", 0, axes, (), False
    is_complex = dtype.kind == "c"
    n = len(shape)
    if n == 0:
        return "complex-line" if is_complex else "scalar", 0, (), (), False
    if n == 1:
        return "complex-line" if is_complex else "line", 0, axes, (), False
    image = "complex" if is_complex else "image"
    if n == 2:
        few = len(own) < 2 and not is_complex and shape[1] <= min(LINES_MAX, shape[0])
        return "lines" if few else image, 0, axes, (), False
    if len(own) >= 2 and extra:
        vectors = shape[len(own) :] == (2,) and not is_complex
        if len(own) > 2:  # a series of maps; what else it has beside vectors cannot be shown
            return ("vector", math.prod(shape[: len(own) - 2]), own[-2:], own[:-2], False) if vectors else ("none", 0, axes, (), False)
        return ("vector", 0, own, (), False) if vectors else (image, math.prod(shape[2:]), own, extra, True)
    return image, math.prod(shape[: n - 2]), axes[n - 2 :], axes[: n - 2], False
