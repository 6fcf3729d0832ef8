"""How outputs are shown: every shape has a way, and planes are the planes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.ext import Axis, DataShape, default_axes, nav, ragged, sig, single
from libstream.jobs.outputs import OutputInfo, describe
from libstream.model.output import Output


def info(output: Output, scan: tuple[int, ...] = (4, 5), frame: tuple[int, ...] = (6, 7)) -> OutputInfo:
    shape = DataShape(scan, frame)
    return describe("x", output, shape, default_axes(shape))


@pytest.mark.parametrize(
    ("output", "scan", "display", "planes"),
    [
        (nav("u8"), (4, 5), "image", 0),
        (nav("f8", (2,)), (4, 5), "vector", 0),
        (nav("u1", (2,)), (4, 5), "vector", 0),
        (nav("f8", (3,)), (4, 5), "image", 3),
        (nav("f8", (30, 2)), (4, 5), "image", 60),
        (nav("c16"), (4, 5), "complex", 0),
        (nav("c16", (2,)), (4, 5), "complex", 2),
        (nav("f8", (1,)), (4, 5), "image", 1),
        (nav("bool"), (4, 5), "image", 0),
        (nav("f8"), (40,), "line", 0),
        (nav("f8", (3,)), (40,), "lines", 0),
        (nav("f8", (40,)), (40,), "image", 0),
        (nav("c16"), (40,), "complex-line", 0),
        (nav("f8"), (3, 4, 5), "image", 3),
        (nav("f8", (2,)), (3, 4, 5), "vector", 3),
        (nav("f8", (7,)), (3, 4, 5), "none", 0),
        (nav("f8"), (), "scalar", 0),
        (nav([("a", "i4"), ("b", "f8")]), (4, 5), "none", 0),
        (sig("f8"), (4, 5), "image", 0),
        (sig("f8", (2,)), (4, 5), "vector", 0),
        (single("f8"), (4, 5), "scalar", 0),
        (single("f8", (9,)), (4, 5), "line", 0),
        (single("f8", (9, 2)), (4, 5), "lines", 0),
        (single("f8", (2, 9)), (4, 5), "image", 0),
        (single("f8", (3, 8, 9)), (4, 5), "image", 3),
        (single("f8", (0, 3)), (4, 5), "none", 0),
        (ragged([("y", "i4"), ("x", "i4")]), (4, 5), "ragged", 0),
        (ragged("f4", (3,)), (4, 5), "ragged", 0),
    ],
)
def test_displays(output: Output, scan: tuple[int, ...], display: str, planes: int) -> None:
    found = info(output, scan)
    assert (found.display, found.planes) == (display, planes)
    as_json = found.json("a/x/x")
    assert as_json["display"] == display
    assert ("plane_axes" in as_json) == bool(planes)
    if planes:
        assert np.prod([a["size"] for a in as_json["plane_axes"]]) == planes


@given(st.lists(st.integers(1, 4), min_size=0, max_size=3), st.lists(st.integers(1, 4), max_size=3), st.sampled_from(["f8", "c16", "u4"]))
def test_planes_have_the_shown_axes_and_cover_the_array(scan: list[int], extra: list[int], dtype: str) -> None:
    found = info(nav(dtype, tuple(extra)), tuple(scan))
    shape = (*scan, *extra)
    array = np.arange(int(np.prod(shape))).reshape(shape)
    if not found.planes:
        return
    planes = [found.plane(array, i) for i in range(found.planes)]
    sizes = tuple(a.size for a in found.axes)
    assert all(p.shape[: len(sizes)] == sizes for p in planes)
    assert sorted(np.concatenate([p.reshape(-1) for p in planes])) == list(range(array.size))


def test_axes_and_units_are_those_of_the_source() -> None:
    shape = DataShape((4, 5), (6, 7))
    axes = (Axis("y", 4, 0.5, 0.0, "nm"), Axis("x", 5, 0.5, 0.0, "nm"), Axis("ky", 6, 1.0, -3.0, "mrad"), Axis("kx", 7, 1.0, -3.0, "mrad"))
    assert [a.unit for a in describe("x", nav("f8"), shape, axes).axes] == ["nm", "nm"]
    assert [a["offset"] for a in describe("x", sig("f8", unit="counts"), shape, axes).json("t")["axes"]] == [-3.0, -3.0]
    assert describe("x", sig("f8", unit="counts"), shape, axes).json("t")["unit"] == "counts"
    assert describe("x", nav("f8", (9,), axes=("ring",)), shape, axes).plane_axes[0].name == "ring"
