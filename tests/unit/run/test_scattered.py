"""Frames that lie apart: kernels find them by a table, or get copies of them, and results are those of frames in a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import libstream as ls
from libstream.kernels.jit import finds_frames

RNG = np.random.default_rng(8)
FRAMES = RNG.integers(0, 60000, (9, 11, 12, 20)).astype("u2")

EXCLUDED = np.zeros((12, 20), bool)
EXCLUDED[4, 5] = True


@ls.kernel
def by_view(tile, total):  # type: ignore[no-untyped-def]
    for i in range(tile.shape[0]):
        frame = ls.frame_of(tile, i)
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                total[i, 0] += frame[y, x]


@ls.kernel
def by_index(tile, total):  # type: ignore[no-untyped-def]
    for i in range(tile.shape[0]):
        for y in range(tile.shape[1]):
            for x in range(tile.shape[2]):
                total[i, 0] += tile[i, y, x]


@ls.kernel
def by_another_name(tile, total):  # type: ignore[no-untyped-def]
    same = tile
    for i in range(tile.shape[0]):
        total[i, 0] += same[i, 0, 0]


@ls.kernel
def as_second_argument(tile, total):  # type: ignore[no-untyped-def]
    for i in range(tile.shape[0]):
        total[i, 0] += ls.frame_of(total, tile[i, 0, 0] * 0)[0]


@ls.kernel
def by_strides(tile, total):  # type: ignore[no-untyped-def]
    total[0, 0] += tile.strides[0]


@ls.kernel
def by_a_helper(tile, total):  # type: ignore[no-untyped-def]
    by_index(tile, total)


def test_what_a_kernel_does_with_its_tile() -> None:
    def local(tile, total):  # type: ignore[no-untyped-def]
        view = ls.frame_of
        total[0, 0] += view(tile, 0)[0, 0]

    from libstream.udfs.kernels import masks, sums

    assert finds_frames(by_view)
    assert finds_frames(masks.add_runs_narrow)
    assert finds_frames(sums.add_frames)
    for other in (by_index, by_another_name, as_second_argument, by_strides, by_a_helper, ls.kernel(local)):
        assert not finds_frames(other), other


class Total(ls.UDF):
    def outputs(self) -> Any:
        return {"total": ls.nav("u8")}

    process_tile = by_index


class Image(ls.UDF):
    """Sums over the scan by direct indices: frames are copied together for it."""

    def outputs(self) -> Any:
        return {"image": ls.sig("u8")}

    @ls.kernel
    def process_tile(tile, image):  # type: ignore[no-untyped-def]
        for i in range(tile.shape[0]):
            for y in range(tile.shape[1]):
                for x in range(tile.shape[2]):
                    image[y, x] += tile[i, y, x]


class Bright(ls.UDF):
    """Ragged: positions of bright pixels."""

    def outputs(self) -> Any:
        return {"where": ls.ragged("i4")}

    @ls.kernel
    def process_frame(frame, where):  # type: ignore[no-untyped-def]
        n = 0
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                if frame[y, x] > 30000:
                    if n < where.shape[0]:
                        where[n] = y * frame.shape[1] + x
                    n += 1
        return n


UDFS: dict[str, Any] = {
    "disk": lambda: ls.udfs.VirtualDetector(outer=5),
    "weights": lambda: ls.udfs.VirtualDetector(mask=np.linspace(-1, 2, 240).reshape(12, 20)),
    "many": lambda: ls.udfs.VirtualDetector(mask=np.linspace(-1, 2, 5 * 240).reshape(5, 12, 20)),
    "sum": lambda: ls.udfs.Sum(),
    "com": lambda: ls.udfs.CenterOfMass(),
    "rings": lambda: ls.udfs.RadialProfile(max_order=1),
    "total": Total,
    "image": Image,
    "bright": Bright,
}


@settings(max_examples=12)
@given(roi=st.integers(1, 2**99 - 1), names=st.sets(st.sampled_from(sorted(UDFS)), min_size=1, max_size=4), corrected=st.booleans())
def test_as_frames_in_a_row(roi: int, names: set[str], corrected: bool) -> None:
    mask = np.array([roi >> k & 1 for k in range(99)], bool).reshape(9, 11)
    options: dict[str, Any] = {}
    if corrected:
        options["corrections"] = ls.Corrections(dark=np.full((12, 20), 3.0), gain=np.linspace(1, 2, 240).reshape(12, 20), excluded=EXCLUDED)
    there = ls.run(FRAMES, {n: UDFS[n]() for n in names}, roi=mask, executor="inline", **options)
    row = ls.run(FRAMES[mask], {n: UDFS[n]() for n in names}, executor="inline", **options)
    for name in names:
        for output in row[name]:
            a, b = there[name][output], row[name][output]
            if name == "bright":
                assert_array_equal(a.values, b.values)
            elif np.shape(a)[:2] == (9, 11):
                assert_array_equal(np.asarray(a)[mask], b, err_msg=f"{name}/{output}")
            else:
                np.testing.assert_allclose(a, b, rtol=1e-12, err_msg=f"{name}/{output}")


def test_an_error_is_that_of_a_frame_in_the_region() -> None:
    class Fails(ls.UDF):
        def outputs(self) -> Any:
            return {"total": ls.nav("u8")}

        @ls.kernel
        def process_frame(frame, total):  # type: ignore[no-untyped-def]
            if frame[0, 0] == 7:
                raise ValueError("a seven")
            if frame[0, 0] == 8:
                raise ValueError("an eight")
            total[0] = frame[0, 0]

    frames = np.ones((40, 4, 4), "u2")
    frames[21], frames[2:21:4] = 7, 8  # the eights are not in the region
    mask = np.zeros(40, bool)
    mask[1::4] = True
    with pytest.raises(ls.errors.UDFError, match=r"ValueError: a seven, .* positions \(1,\) to \(37,\)"):
        ls.run(frames, Fails(), roi=mask, executor="inline")
