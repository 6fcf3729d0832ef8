"""Compiled UDFs over frames that lie apart in the file: a random part of a scan."""

from __future__ import annotations

import re

import numpy as np
import pytest

import libstream as ls
from libstream.errors import UDFError


class SumAndPeaks(ls.UDF):
    """Ragged: its arena is too small at first, so that the pass stops in the middle of a gathered tile and goes on."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"peaks": ls.ragged("i8")}

    @ls.kernel
    def process_frame(frame, peaks):
        n = 0
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                if n < len(peaks):
                    peaks[n] = frame[y, x]
                n += 1
        return n


class FailsOn(ls.UDF):
    value: int

    def outputs(self) -> dict[str, ls.Output]:
        return {"image": ls.sig("i8")}

    @ls.kernel
    def process_tile(tile, image, value):
        for i in range(tile.shape[0]):
            if tile[i, 0, 0] == value:
                raise ValueError("this one")
            for y in range(tile.shape[1]):
                for x in range(tile.shape[2]):
                    image[y, x] += tile[i, y, x]


def scattered(n: int) -> tuple[np.ndarray, np.ndarray]:
    mask = np.random.default_rng(3).random(n) < 0.3
    return (np.arange(n)[:, None, None] * 100 + np.arange(40).reshape(5, 8)).astype("i4"), mask


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_several_udfs_over_frames_that_lie_apart(executor: str) -> None:
    frames, mask = scattered(500)
    result = ls.run(frames, [SumAndPeaks(), ls.udfs.Sum(), ls.udfs.FrameTotals(), ls.udfs.Max()], roi=mask, executor=executor)
    assert np.array_equal(result["sum"]["sum"], frames[mask].sum(0))
    assert np.array_equal(result["max"]["max"], frames[mask].max(0))
    assert np.array_equal(result["total"][mask], frames[mask].sum((1, 2)))
    assert all(np.array_equal(result["peaks"][p], frames[p].reshape(-1)) for p in np.flatnonzero(mask))


def test_corrections_over_frames_that_lie_apart() -> None:
    frames, mask = scattered(300)
    dark = np.linspace(0, 3, 40).reshape(5, 8)
    result = ls.run(frames, FailsOn(value=-1), roi=mask, corrections=ls.Corrections(dark=dark), executor="inline")
    assert np.array_equal(result["image"], (frames[mask] - dark).astype("i8").sum(0))


def test_the_frame_of_a_failure_is_named_where_frames_lie_apart() -> None:
    frames, mask = scattered(500)
    at = int(np.flatnonzero(mask)[60])
    with pytest.raises(UDFError, match="ValueError: this one") as error:
        ls.run(frames, FailsOn(value=int(frames[at, 0, 0])), roi=mask, executor="inline")
    first, last = map(int, re.findall(r"\((\d+),\)", str(error.value))[:2])
    assert first <= at <= last
