"""Casts and corrections: the compiled path, the plain twin and the folded masks say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import libstream as ls
from libstream.errors import ShapeError, UsageError
from libstream.model.corrections import Corrections
from libstream.run.correct import Converter, corrected_dtype, input_dtype


def corrections(draw: Any, sig: tuple[int, ...]) -> Corrections:
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    size = int(np.prod(sig))
    excluded = rng.random(sig) < draw(st.sampled_from([0.1, 0.0, 0.8]))
    excluded.reshape(-1)[int(rng.integers(size))] = False
    return Corrections(  # what is tried first is all of them
        dark=draw(st.sampled_from([rng.normal(5.0, 2.0, sig), None])),
        gain=draw(st.sampled_from([1.0 + 0.2 * rng.random(sig), None])),
        excluded=draw(st.sampled_from([excluded, None])),
    )


@st.composite
def cases(draw: Any, dtype: str) -> tuple[np.ndarray, Corrections, np.ndarray]:
    sig = tuple(draw(st.lists(st.integers(1, 7), min_size=2, max_size=2)))
    n = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    frames = (rng.integers(0, 4000, (n, *sig)) if dtype[0] in "iu" else rng.normal(0, 100, (n, *sig))).astype(dtype)
    runs = np.array([[a, a + 1] for a in range(n) if draw(st.booleans())] or [[0, n]], np.int64)
    return frames, corrections(draw, sig), runs


@pytest.mark.parametrize(("dtype", "out"), [("u2", "f4"), ("u4", "f8"), ("f4", "f4"), ("u2", "f8")])
@settings(max_examples=25)
@given(data=st.data())
def test_compiled_corrections_equal_the_plain_ones(dtype: str, out: str, data: Any) -> None:
    frames, c, runs = data.draw(cases(dtype))
    given_frames = frames.copy()
    c.check(frames.shape[1:])
    got = np.full((int((runs[:, 1] - runs[:, 0]).sum()), *frames.shape[1:]), np.nan, out)
    Converter(np.dtype(out), c).into(frames, runs, got)
    expected = c.apply(np.concatenate([frames[a:b] for a, b in runs]))
    rounding = 1e-12 if out == "f8" else 1e-6
    np.testing.assert_allclose(got, expected, rtol=rounding, atol=rounding * (10 + np.abs(frames.astype("f8")).max()))
    assert np.array_equal(frames, given_frames)


@settings(max_examples=60)
@given(data=st.data(), kind=st.sampled_from(["f8", "c16", "?"]))
def test_folded_masks_equal_corrected_frames(data: Any, kind: str) -> None:
    frames, c, _ = data.draw(cases("u2"))
    rng = np.random.default_rng(3)
    mask = (rng.normal(size=frames.shape[1:]) + (1j if kind == "c16" else 0) * rng.normal(size=frames.shape[1:])).astype(kind)
    weights, offset = c.fold(mask)
    got = np.einsum("yx,nyx->n", weights, frames) - offset
    expected = np.einsum("yx,nyx->n", mask, c.apply(frames))
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-6)
    if c.excluded is not None:
        assert (weights[c.excluded] == 0).all()


def test_repair_by_hand() -> None:
    frame = np.arange(9.0).reshape(3, 3)
    bad = np.zeros((3, 3), bool)
    bad[0, 0] = bad[1, 1] = True
    out = Corrections(excluded=bad).apply(frame)
    assert out[0, 0] == (1 + 3) / 2  # its good neighbours are (0, 1) and (1, 0)
    assert out[1, 1] == (1 + 2 + 3 + 5 + 6 + 7 + 8) / 7
    wide = np.ones((5, 5), bool)
    wide[4, 0] = False
    assert (Corrections(excluded=wide).apply(np.arange(25.0).reshape(5, 5)) == 20.0).all(), "the window grows until one is good"


def test_order_is_dark_gain_repair() -> None:
    c = Corrections(dark=np.full((1, 3), 2.0), gain=np.array([[1.0, 10.0, 1.0]]), excluded=np.array([[False, False, True]]))
    assert c.apply(np.array([[5.0, 3.0, 99.0]])).tolist() == [[3.0, 10.0, 10.0]]


class Image(ls.UDF):
    def outputs(self) -> dict[str, ls.Output]:
        return {"image": ls.sig("f8"), "total": ls.nav("f8"), "kind": ls.single("i8", merge="max")}

    def process_tile(self, tile: Any, out: Any) -> None:
        out.image += tile.data.sum(0, dtype="f8")
        out.total[:, 0] += tile.data.sum((1, 2), dtype="f8")
        out.kind[...] = tile.data.dtype.itemsize


class ImageKernel(ls.UDF):
    def outputs(self) -> dict[str, ls.Output]:
        return {"image": ls.sig("f8"), "total": ls.nav("f8")}

    @ls.kernel
    def process_frame(frame, image, total):
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                image[y, x] += frame[y, x]
                total[0] += frame[y, x]


class Folding(ls.UDF):
    """Linear: gets raw frames and folds the corrections into its mask."""

    folds_corrections = True

    def outputs(self) -> dict[str, ls.Output]:
        return {"total": ls.nav("f8")}

    def process_tile(self, tile: Any, out: Any) -> None:
        assert tile.data.dtype == self.meta.source_dtype
        weights, offset = np.ones(self.meta.shape.sig), 0.0
        if self.meta.corrections is not None:
            weights, offset = self.meta.corrections.fold(weights)
        rows = tile.region.rows
        out.total[:, 0] += (tile.data * weights[rows]).sum((1, 2)) - (offset if rows.start == 0 else 0.0)


def test_in_a_run_for_all_at_once() -> None:
    rng = np.random.default_rng(7)
    frames = rng.integers(0, 4000, (6, 7, 12, 9)).astype("u2")
    c = Corrections(dark=rng.random((12, 9)), gain=1 + rng.random((12, 9)), excluded=rng.random((12, 9)) < 0.1)
    expected = c.apply(frames)
    r = ls.run(frames, {"a": Image(), "b": ImageKernel(), "c": Folding(), "raw": ImageKernel()}, corrections=c, executor="inline")
    for key in "ab":
        np.testing.assert_allclose(r[key]["image"], expected.sum((0, 1)), rtol=1e-5)
    for key in "abc":
        np.testing.assert_allclose(r[key]["total"], expected.sum((2, 3)), rtol=1e-5)
    np.testing.assert_allclose(r["c"]["total"], expected.sum((2, 3)), rtol=1e-12)
    assert r["a"]["kind"] == 4, "float32 holds uint16 exactly"
    assert r.run["corrections"] == {"digest": c.digest}
    plain = ls.run(frames, {"a": Image(), "c": Folding()}, corrections=Corrections(), executor="inline")
    assert (plain["a"]["image"] == frames.sum((0, 1))).all(), "empty corrections are none"
    assert plain["a"]["kind"] == 2
    assert plain.run["corrections"] is None


@pytest.mark.parametrize(
    ("source", "expected"), [("u1", "f4"), ("u2", "f4"), ("i2", "f4"), ("u4", "f8"), ("i4", "f8"), ("f4", "f4"), ("f8", "f8"), ("?", "f4")]
)  # fmt: skip
def test_corrected_frames_hold_every_value_of_the_detector(source: str, expected: str) -> None:
    assert corrected_dtype(np.dtype(source)) == expected


@pytest.mark.parametrize(
    ("source", "wanted", "corrected", "expected"),
    [
        ("u2", None, False, "u2"), ("u2", None, True, "f4"), ("u2", "float32", False, "f4"), ("u4", "f4", False, "f4"),
        ("u2", "u4", False, "u4"), ("u2", "f8", True, "f8"), ("c8", "c16", False, "c16"), ("f4", "c8", False, "c8"),
        ("?", "u1", False, "u1"),
        ("c16", "c8", False, "c8"),
    ],
)  # fmt: skip
def test_what_a_hook_gets(source: str, wanted: Any, corrected: bool, expected: str) -> None:
    assert input_dtype(np.dtype(source), wanted, corrected) == expected


@pytest.mark.parametrize(
    ("source", "wanted", "corrected"),
    [
        ("u4", "u2", False), ("i2", "u2", False), ("f4", "i4", False), ("u2", "u2", True), ("c8", "f4", False), ("u2", "?", False),
        ("f8", "i8", False),
    ],
)  # fmt: skip
def test_a_cast_that_would_lose_is_refused(source: str, wanted: str, corrected: bool) -> None:
    with pytest.raises(UsageError, match=r"asks for frames of dtype .*, but the frames are .* which does not fit into it; ask for a"):
        input_dtype(np.dtype(source), wanted, corrected)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="only numbers can be asked for"):
        input_dtype(np.dtype("u2"), "S3", False)


@pytest.mark.parametrize("name", ["dark", "gain", "excluded"])
def test_shapes_of_corrections(name: str) -> None:
    c = Corrections(**{name: np.zeros((3, 4))})
    with pytest.raises(ShapeError, match=rf"corrections: {name} has shape \(3, 4\), the frame has \(4, 3\)"):
        ls.run(np.zeros((2, 4, 3)), Image(), corrections=c, executor="inline")


def test_values_that_are_not_finite_and_nothing_left() -> None:
    with pytest.raises(UsageError, match="gain holds values that are not finite; exclude such pixels"):
        Corrections(gain=np.array([[np.inf]]))
    with pytest.raises(UsageError, match="all pixels are excluded"):
        Corrections(excluded=np.ones((2, 2), bool)).check((2, 2))


def test_corrections_are_values() -> None:
    dark = np.ones((2, 2))
    c = Corrections(dark=dark)
    dark[...] = 5.0
    assert c.dark is not None
    assert not np.may_share_memory(c.dark, dark), "what the caller does to the array later does not matter"
    assert c.digest != Corrections(gain=np.ones((2, 2))).digest
    assert c.digest == Corrections(dark=np.ones((2, 2))).digest
    assert not Corrections()
