"""VirtualDetector: shapes, units, masks, refusals, and the choice among its forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import libstream as ls
from libstream.errors import LibstreamError, ParameterError, ShapeError, UsageError
from libstream.model.shape import DataShape
from libstream.model.source import RunMeta, default_axes
from libstream.testing._bench import Bench
from libstream.udfs.kernels.masks import BLOCK, SEGMENT
from libstream.udfs.masks import ALL, cheapest, runs_of, segments_of

RNG = np.random.default_rng(1)
FRAMES = RNG.integers(0, 4000, (3, 4, 24, 20)).astype("u2")


def intensity(udf: Any, frames: np.ndarray = FRAMES, **options: Any) -> np.ndarray:
    """Output of a detector over `frames`; `opened` options go to ls.open."""
    opened = options.pop("opened", {})
    return ls.run(ls.open(frames, **opened), udf, executor="inline", **options)["intensity"]


def mask_of(udf: ls.udfs.VirtualDetector, sig: tuple[int, int] = (24, 20), **opened: Any) -> np.ndarray:
    """The mask that a detector draws, seen from outside: its response to each single pixel."""
    pixels = np.eye(sig[0] * sig[1], dtype="u1").reshape(-1, *sig)
    return intensity(udf, pixels, opened=opened).reshape(sig)


def radii(sig: tuple[int, int], centre: tuple[float, float]) -> np.ndarray:
    y, x = np.mgrid[: sig[0], : sig[1]]
    return np.hypot(y - centre[0], x - centre[1])


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_the_annulus_is_half_open_around_the_middle() -> None:
    r = radii((24, 20), (11.5, 9.5))
    assert_array_equal(mask_of(ls.udfs.VirtualDetector(inner=3, outer=8)), (r >= 3) & (r < 8))
    assert_array_equal(mask_of(ls.udfs.VirtualDetector(inner=3)), r >= 3)
    assert_array_equal(mask_of(ls.udfs.VirtualDetector()), np.ones((24, 20)))
    r = radii((9, 9), (4.0, 4.0))
    assert mask_of(ls.udfs.VirtualDetector(inner=0, outer=2), (9, 9)).sum() == 9  # pixels at 2.0 are outside
    assert_array_equal(mask_of(ls.udfs.VirtualDetector(inner=2, outer=3), (9, 9)), (r >= 2) & (r < 3))


def test_disk_and_centre() -> None:
    for centre in ((3.0, 12.25), (-2.0, 4.0)):
        r = radii((24, 20), centre)
        assert_array_equal(mask_of(ls.udfs.VirtualDetector(shape="disk", outer=5, centre=centre)), r < 5)
        assert_array_equal(mask_of(ls.udfs.VirtualDetector(inner=0, outer=5, centre=centre)), r < 5)
    assert_array_equal(mask_of(ls.udfs.VirtualDetector(outer=5), centre=(7.0, 8.0)), radii((24, 20), (7.0, 8.0)) < 5)


def test_point() -> None:
    for centre, at in (((3.4, 5.6), (3, 6)), (None, (12, 10)), ((0.0, 19.0), (0, 19))):
        expected = np.zeros((24, 20))
        expected[at] = 1
        assert_array_equal(mask_of(ls.udfs.VirtualDetector(shape="point", centre=centre)), expected)


def test_rectangle() -> None:
    expected = np.zeros((24, 20))
    expected[8:12, 3:9] = 1
    assert_array_equal(mask_of(ls.udfs.VirtualDetector(shape="rectangle", centre=(9.5, 5.5), height=4, width=6)), expected)
    assert_array_equal(mask_of(ls.udfs.VirtualDetector(shape="rectangle", centre=(10, 6), height=4, width=6)), expected)  # half-open
    expected[:] = 0
    expected[8:12] = 1
    assert_array_equal(mask_of(ls.udfs.VirtualDetector(shape="rectangle", centre=(9.5, 5.5), height=4)), expected)


def test_sector() -> None:
    y, x = np.mgrid[:24, :20] - np.array([11.5, 9.5])[:, None, None]
    right_up = mask_of(ls.udfs.VirtualDetector(shape="sector", inner=2, outer=9, angles=(0, 90)))
    r = radii((24, 20), (11.5, 9.5))
    assert_array_equal(right_up, (x > 0) & (y < 0) & (r >= 2) & (r < 9))  # y points down: up is -y
    left = mask_of(ls.udfs.VirtualDetector(shape="sector", outer=9, angles=(90, 270)))
    assert_array_equal(left, (x < 0) & (r < 9))
    parts = [mask_of(ls.udfs.VirtualDetector(shape="sector", outer=9, angles=(a, a + 40))).astype(int) for a in range(-100, 260, 40)]
    assert_array_equal(sum(parts), (r < 9).astype(int))  # neighbours neither overlap nor leave a gap
    assert_array_equal(mask_of(ls.udfs.VirtualDetector(shape="sector", outer=9, angles=(17, 377))), r < 9)


def test_units() -> None:
    in_px = mask_of(ls.udfs.VirtualDetector(inner=3, outer=8))
    assert_array_equal(mask_of(ls.udfs.VirtualDetector(inner="1.5 mrad", outer="4 mrad"), pixel="0.5 mrad"), in_px)
    with pytest.raises(ParameterError, match="calibrated"):
        intensity(ls.udfs.VirtualDetector(inner="1.5 mrad"))


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bool", "int", "float", "complex"])
@pytest.mark.parametrize("several", [False, True])
def test_masks(kind: str, several: bool) -> None:
    mask = RNG.random((5, 24, 20) if several else (24, 20))
    mask = {"bool": mask < 0.5, "int": (mask < 0.5).astype("i4"), "float": mask, "complex": mask * np.exp(1j * mask)}[kind]
    got = intensity(ls.udfs.VirtualDetector(mask=mask))
    expected = np.einsum("yxij,...ij->yx...", FRAMES.astype("f8"), mask)
    assert got.shape == expected.shape
    assert got.dtype == {"bool": "u8", "int": "u8", "float": "f8", "complex": "c16"}[kind]
    assert_allclose(got, expected, rtol=1e-12)


def test_integer_weights_are_weights() -> None:
    mask = RNG.integers(-1, 2, (24, 20))
    got = intensity(ls.udfs.VirtualDetector(mask=mask))
    assert got.dtype == np.float64
    assert_array_equal(got, (FRAMES.astype("i8") * mask).sum((2, 3)))


def test_what_is_outside_is_not_read() -> None:
    frames = RNG.random((2, 3, 24, 20)).astype("f4")
    inside = radii((24, 20), (11.5, 9.5)) < 6
    frames[:, :, ~inside] = np.nan
    expected = np.where(inside, frames, 0).astype("f8").sum((2, 3))
    for udf in (
        ls.udfs.VirtualDetector(outer=6),
        ls.udfs.VirtualDetector(mask=inside * 1.0),
        ls.udfs.VirtualDetector(mask=np.stack([inside * 1.0] * 4)),
        ls.udfs.VirtualDetector(mask=inside * (1 + 0j)),
    ):
        assert_allclose(intensity(udf, frames).reshape(2, 3, -1)[..., 0], expected, rtol=1e-12)


def test_signed_and_wide_frames() -> None:
    inside = radii((24, 20), (11.5, 9.5)) < 6
    for dtype, out in (("i2", "i8"), ("i4", "i8"), ("u4", "u8"), ("u8", "f8"), ("?", "u8")):
        frames = np.full((2, 24, 20), 1 if dtype == "?" else np.iinfo(dtype).max).astype(dtype)
        if dtype[0] == "i":
            frames[0] = np.iinfo(dtype).min
        got = intensity(ls.udfs.VirtualDetector(outer=6), frames)
        assert got.dtype == np.dtype(out)
        assert got.tolist() == [f.flat[0].astype(out) * np.dtype(out).type(inside.sum()) for f in frames]


def test_corrections_are_folded_into_the_weights() -> None:
    excluded = RNG.random((24, 20)) < 0.1
    corrections = ls.Corrections(dark=RNG.normal(5, 1, (24, 20)), gain=RNG.normal(1, 0.1, (24, 20)), excluded=excluded)
    corrected = corrections.apply(FRAMES)
    r = radii((24, 20), (11.5, 9.5))
    for mask in ((r >= 3) & (r < 8), RNG.random((24, 20)), RNG.random((6, 24, 20)), np.exp(1j * r)):
        got = intensity(ls.udfs.VirtualDetector(mask=mask), corrections=corrections)
        assert got.dtype.kind == ("c" if mask.dtype.kind == "c" else "f")
        assert_allclose(got, np.einsum("yxij,...ij->yx...", corrected, mask), rtol=1e-11)
    assert_allclose(
        intensity(ls.udfs.VirtualDetector(shape="point", centre=(7, 7)), corrections=corrections), corrected[:, :, 7, 7], rtol=1e-11
    )


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("udf", "kind", "words"),
    [
        (ls.udfs.VirtualDetector(mask=np.ones((20, 24))), ShapeError, r"\(20, 24\).*\(24, 20\)"),
        (ls.udfs.VirtualDetector(mask=np.ones((0, 24, 20))), ShapeError, r"\(0, 24, 20\)"),
        (ls.udfs.VirtualDetector(mask=np.full((24, 20), np.nan)), ParameterError, "finite"),
        (ls.udfs.VirtualDetector(mask=np.ones((24, 20)), outer=5), ParameterError, "give one of them"),
        (ls.udfs.VirtualDetector(mask=np.ones((24, 20)), shape="disk"), ParameterError, "give one of them"),
        (ls.udfs.VirtualDetector(shape="mask"), ParameterError, "needs mask="),
        (ls.udfs.VirtualDetector(inner=9, outer=8), ParameterError, "inner=9"),
        (ls.udfs.VirtualDetector(inner=-1), ParameterError, "inner: .*got -1 .allowed: >= 0 px"),
        (ls.udfs.VirtualDetector(shape="disk", inner=2, outer=5), ParameterError, "no inner radius"),
        (ls.udfs.VirtualDetector(outer=3, centre=(100, 100)), ParameterError, "no pixel"),
        (ls.udfs.VirtualDetector(shape="point", centre=(24, 0)), ParameterError, "no pixel"),
        (ls.udfs.VirtualDetector(shape="sector", angles=(90, 0)), ParameterError, "start < stop"),
        (ls.udfs.VirtualDetector(centre=(np.nan, 1)), ParameterError, "finite"),
        (ls.udfs.VirtualDetector(shape="square"), ParameterError, "shape"),
    ],
)
def test_refusals(udf: Any, kind: type[LibstreamError], words: str) -> None:
    with pytest.raises(kind, match=words):
        intensity(udf)


def test_frames_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="real"):
        intensity(ls.udfs.VirtualDetector(), FRAMES.astype("c8"))


# -- forms -------------------------------------------------------------------------------------------------------------


def meta(sig: tuple[int, ...] = (256, 256), dtype: str = "u2") -> RunMeta:
    shape = DataShape((4, 4), sig)
    return RunMeta(shape, np.dtype(dtype), default_axes(shape), np.dtype(dtype), max_frames=16)


def test_the_cheapest_form_is_taken() -> None:
    r = radii((256, 256), (127.5, 127.5))
    large = radii((2048, 2048), (1023.5, 1023.5))
    point = np.zeros((256, 256), bool)
    point[3, 4] = True
    u8, f8, c16 = np.dtype("u8"), np.dtype("f8"), np.dtype("c16")
    scattered = RNG.random((256, 256))
    few = np.where(scattered < 1e-3, scattered, 0)
    for mask, m, out, form in [
        (r < 80, meta(), u8, "runs"),  # to begin anew in each row costs less than to bring from memory what lies between
        ((r >= 60) & (r < 100), meta(dtype="u1"), u8, "bits"),  # rows are so short that it costs more
        (large < 80, meta((2048, 2048)), u8, "runs"),  # rows are long: do not read between
        (large < 500, meta((2048, 2048)), u8, "runs"),
        (r < 80, meta(dtype="f4"), f8, "runs"),
        (point, meta(), u8, "pixels"),
        (scattered < 0.5, meta(), u8, "bits"),
        (scattered < 1e-3, meta(), u8, "pixels"),
        (scattered, meta(), f8, "each"),
        (few, meta(), f8, "pixels"),
        (few * 1j, meta(), c16, "pixels"),
    ]:
        assert cheapest(mask[None], m, out).name == form
    assert cheapest(RNG.random((16, 256, 256)), meta(), f8).name == "many"
    disjoint = np.zeros((16, 256, 256))
    for k in range(16):
        disjoint[k, 16 * k : 16 * k + 16] = scattered[:16]
    assert cheapest(disjoint, meta(), f8).name == "each"  # each pixel is in one of them


def test_the_examples_use_all_forms() -> None:
    frames = np.ones((2, 24, 32), "u2")
    source = ls.open(frames)
    used = set()
    for udf in ls.udfs.VirtualDetector.examples((24, 32)):
        bench = Bench(udf, source)
        used.add(bench.udf._form.name)
    assert used == set(ALL)


def test_segments() -> None:
    mask = np.array([1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 1], bool)
    runs = runs_of(mask)
    assert runs.tolist() == segments_of(runs).tolist() == [[0, 2], [4, 5], [8, 11]]
    assert runs_of(~mask).tolist() == [[2, 4], [5, 8]]
    assert segments_of(runs, 2).tolist() == [[0, 5], [8, 11]]
    assert segments_of(runs, 3).tolist() == [[0, 11]]
    assert segments_of(runs_of(np.zeros(5, bool))).tolist() == []
    long = segments_of(runs_of(np.ones(2 * SEGMENT + 1, bool)))
    assert long.tolist() == [[0, SEGMENT], [SEGMENT, 2 * SEGMENT], [2 * SEGMENT, 2 * SEGMENT + 1]]


def test_large_frames_in_bands_of_rows() -> None:
    frames = RNG.integers(0, 100, (9, 700, 600)).astype("u2")
    inside = radii((700, 600), (349.5, 299.5)) < 200
    weights = np.where(inside, RNG.random((700, 600)), 0)
    udfs = {
        "sum": ls.udfs.Sum(),  # asks for bands
        "disk": ls.udfs.VirtualDetector(outer=200),
        "weights": ls.udfs.VirtualDetector(mask=weights),
        "many": ls.udfs.VirtualDetector(mask=np.stack([weights] * 4)),
    }
    result = ls.run(ls.open(frames), udfs, executor="inline")
    assert_array_equal(result["sum"]["sum"], frames.sum(0))
    assert_array_equal(result["disk"]["intensity"], frames[:, inside].sum(1))
    assert_allclose(result["weights"]["intensity"], (frames * weights).sum((1, 2)), rtol=1e-12)
    assert_allclose(result["many"]["intensity"][:, 3], (frames * weights).sum((1, 2)), rtol=1e-12)


def test_many_large_masks_ask_for_many_frames() -> None:
    frames = RNG.integers(0, 100, (9, 700, 600)).astype("u2")
    masks = RNG.random((5, 700, 600)) * (radii((700, 600), (349.5, 299.5)) < 200)
    bench = Bench(ls.udfs.VirtualDetector(mask=masks), ls.open(frames))
    assert (bench.udf._form.name, bench.udf.tile_frames) == ("many", 32)
    assert np.diff(bench.udf.segments[:, :2]).max() <= BLOCK
    got = ls.run(ls.open(frames), ls.udfs.VirtualDetector(mask=masks), executor="inline")["intensity"]
    assert_allclose(got, np.einsum("nyx,myx->nm", frames.astype(float), masks), rtol=1e-12)
    small = Bench(ls.udfs.VirtualDetector(mask=masks[:, :64, :64]), ls.open(frames[:, :64, :64].copy()))
    assert small.udf.tile_frames == 1
