"""The kernels of sums, statistics and masks give what plain NumPy gives, for any dtype, shape, cut, band of rows and extreme.

Integers are compared with exact integers of Python, floats with a bound on the error of a sum in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import libstream as ls
from libstream.testing._bench import KEY, Bench
from libstream.testing.sources import ScriptedSource
from libstream.udfs.masks import ALL, cheapest

# each dtype and form is compiled apart, so these are those that take another path, not all
DTYPES = ["u1", "u2", "i2", "u4", "?", "u8", "f4", "f8"]
EPS = np.finfo(np.float64).eps
EXAMPLES = max(6, settings.default.max_examples // 4)  # of each dtype and form: there are many of those

pytestmark = pytest.mark.filterwarnings("error")


@st.composite
def cases(draw: st.DrawFn, n_sig: int = 2) -> dict[str, Any]:
    """Shape of frames, number of frames, what is in them, and how they are cut; one pixel, one frame and one row included."""
    sig = tuple(draw(st.integers(1, 9)) for _ in range(n_sig))
    n = draw(st.integers(1, 21))
    return {
        "sig": sig,
        "n": n,
        "content": draw(st.sampled_from(["any", "largest", "smallest", "ends", "few counts", "large mean"])),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "depth": draw(st.integers(1, n)),
        "rows": draw(st.integers(1, sig[0])),
        "cut": draw(st.lists(st.integers(1, 7), max_size=3)),
    }


def frames_of(case: dict[str, Any], dtype: str) -> np.ndarray:
    """Frames (n, *sig) of this content."""
    rng, shape, d = np.random.default_rng(case["seed"]), (case["n"], *case["sig"]), np.dtype(dtype)
    if d.kind == "b":
        return {"largest": np.ones(shape, bool), "smallest": np.zeros(shape, bool)}.get(case["content"], rng.random(shape) < 0.5)
    if d.kind == "f":
        scale = {"largest": 1e30, "few counts": 1.0, "large mean": 1.0}.get(case["content"], 1e3)
        return (rng.normal(60_000.0 if case["content"] == "large mean" else 0.0, scale, shape)).astype(d)
    low, high = int(np.iinfo(d).min), int(np.iinfo(d).max)
    if case["content"] == "largest":
        return np.full(shape, high, d)
    if case["content"] == "smallest":
        return np.full(shape, low, d)
    if case["content"] == "ends":
        return rng.choice(np.array([low, high], d), shape)
    if case["content"] == "few counts":
        return rng.poisson(0.7, shape).astype(d)
    if case["content"] == "large mean":
        return np.clip(np.round(rng.normal(min(60_000, high - 10), 3, shape)), low, high).astype(d)
    return rng.integers(low, high, shape, dtype=d, endpoint=True)


def results(udf: ls.UDF, frames: np.ndarray, case: dict[str, Any], n_sig: int = 2) -> dict[str, Any]:
    """Results of `udf`, through tiles of the case's depth and rows in partitions of its cut."""
    bench = Bench(udf, ScriptedSource(frames, n_sig=n_sig, layout="gaps"), depth=case["depth"], rows=case["rows"])
    cut, left = [], len(frames)
    for size in case["cut"]:
        if size < left:
            cut.append(size)
            left -= size
    return dict(bench.result(bench.cut(cut))[KEY])


def check_sum(got: np.ndarray, terms: np.ndarray, axis: Any) -> None:
    """`got` is the sum of `terms` along `axis`: exactly for integers, within the error of any order of additions for floats."""
    if got.dtype.kind in "iu":
        expected = terms.astype(object).sum(axis=axis)
        assert (np.asarray(got).astype(object) == expected).all()
        return
    terms = terms.astype(np.complex128 if got.dtype.kind == "c" else np.float64)
    n = terms.size // max(1, got.size)
    bound = (n + 1) * EPS * np.abs(terms).sum(axis=axis)
    assert (np.abs(got - terms.sum(axis=axis)) <= bound).all()


@contextmanager
def _form(name: str) -> Iterator[None]:
    """Virtual detectors take this form, whatever it costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("libstream.udfs.virtual.cheapest", lambda *a: cheapest(*a[:3], (name,)))
        yield


# -- sums --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@given(case=cases())
@settings(max_examples=EXAMPLES)
def test_sum_over_the_scan(dtype: str, case: dict[str, Any]) -> None:
    frames = frames_of(case, dtype)
    got = results(ls.udfs.Sum(), frames, case)["sum"]
    assert got.dtype.kind == ("f" if dtype in ("u8", "i8", "f4", "f8") else "i" if dtype[0] == "i" else "u")
    check_sum(got, frames, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@given(case=cases())
@settings(max_examples=EXAMPLES)
def test_totals_of_frames(dtype: str, case: dict[str, Any]) -> None:
    frames = frames_of(case, dtype)
    check_sum(results(ls.udfs.FrameTotals(), frames, case)["total"], frames, (1, 2))


@given(case=cases(n_sig=1))
@settings(max_examples=EXAMPLES)
def test_spectra(case: dict[str, Any]) -> None:
    frames = frames_of(case, "u2")
    check_sum(results(ls.udfs.Sum(), frames, case, 1)["sum"], frames, 0)
    check_sum(results(ls.udfs.FrameTotals(), frames, case, 1)["total"], frames, 1)
    window = np.zeros(case["sig"])
    window[case["seed"] % case["sig"][0] :] = 0.5
    with _form("each"):
        check_sum(results(ls.udfs.VirtualDetector(mask=window), frames, case, 1)["intensity"], window * frames, 1)


# -- statistics --------------------------------------------------------------------------------------------------------


def exact_moments(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sum of squared deviations of each pixel as fractions."""
    values = np.vectorize(lambda x: Fraction(x.item() if hasattr(x, "item") else x), otypes=[object])(frames.astype(object))
    mean = values.sum(axis=0) / len(frames)
    return mean, ((values - mean) ** 2).sum(axis=0)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2", "i4", "?"])
@given(case=cases())
@settings(max_examples=EXAMPLES)
def test_mean_and_variance_of_integers_are_exact(dtype: str, case: dict[str, Any]) -> None:
    frames = frames_of(case, dtype)
    mean, deviations = exact_moments(frames)
    got = results(ls.udfs.Variance(), frames, case)
    np.testing.assert_allclose(got["mean"], mean.astype(float), rtol=2 * EPS, atol=0)
    if dtype in ("u2", "i4"):
        np.testing.assert_array_equal(results(ls.udfs.Mean(), frames, case)["mean"], got["mean"])
    np.testing.assert_allclose(got["variance"], (deviations / len(frames)).astype(float), rtol=8 * EPS, atol=0)


@pytest.mark.parametrize("dtype", ["f4", "f8", "u8"])
@given(case=cases())
@settings(max_examples=EXAMPLES)
def test_mean_and_variance_of_floats(dtype: str, case: dict[str, Any]) -> None:
    frames = frames_of(case, dtype).astype(np.float64).astype(dtype) if dtype != "u8" else frames_of(case, dtype) >> np.uint64(11)
    mean, deviations = exact_moments(frames)
    largest = np.abs(frames.astype(np.float64)).max()
    got = results(ls.udfs.StdDev(), frames, case)
    variance = (deviations / len(frames)).astype(float)
    np.testing.assert_allclose(got["mean"], mean.astype(float), rtol=0, atol=64 * EPS * largest)
    # errors of a pixel's deviations: eps of them, and eps of its mean against its standard deviation
    bound = 200 * EPS * variance + 64 * EPS * largest * np.sqrt(variance) + (64 * EPS * largest) ** 2
    assert (np.abs(got["std"] ** 2 - variance) <= bound).all()


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4", "?"])
@given(case=cases(), poison=st.booleans())
@settings(max_examples=EXAMPLES)
def test_extremes(dtype: str, case: dict[str, Any], poison: bool) -> None:
    frames = frames_of(case, dtype)
    if poison and dtype == "f4":
        frames[np.random.default_rng(case["seed"]).random(frames.shape) < 0.1] = np.nan
        frames[0, 0] = -np.inf
    np.testing.assert_array_equal(results(ls.udfs.Max(), frames, case)["max"], frames.max(axis=0))
    np.testing.assert_array_equal(results(ls.udfs.Min(), frames, case)["min"], frames.min(axis=0))


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
@given(case=cases())
@settings(max_examples=EXAMPLES)
def test_sum_of_logarithms(dtype: str, case: dict[str, Any]) -> None:
    frames = frames_of(case, dtype)
    wide = frames.astype(np.float64)
    logs = np.log(wide - wide.min(axis=(1, 2), keepdims=True) + 1)
    got = results(ls.udfs.LogSum(), frames, {**case, "rows": case["sig"][0]})["logsum"]
    np.testing.assert_allclose(got, logs.sum(axis=0), rtol=(len(frames) + 4) * EPS, atol=0)


# -- masks -------------------------------------------------------------------------------------------------------------


@st.composite
def masks(draw: st.DrawFn, sig: tuple[int, ...], kind: str) -> np.ndarray:
    """One mask, or several; empty, full, sparse and scattered ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 6)), *sig) if draw(st.booleans()) else sig
    inside = rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    if kind == "binary":
        return inside
    weights = rng.normal(0, 3, shape)
    return np.where(inside, weights + 1j * rng.normal(0, 3, shape) if kind == "complex" else weights, 0)


@pytest.mark.parametrize(
    ("dtype", "form"),
    [
        ("u2", "runs"),
        ("i2", "runs"),
        ("u4", "runs"),
        ("u1", "bits"),
        ("i2", "bits"),
        ("u4", "bits"),
        ("?", "bits"),
        ("u2", "pixels"),
        ("i4", "pixels"),
    ],
)
@given(data=st.data())
@settings(max_examples=EXAMPLES)
def test_binary_masks_over_integers_are_exact(dtype: str, form: str, data: st.DataObject) -> None:
    case = data.draw(cases())
    mask = data.draw(masks(case["sig"], "binary"))
    frames = frames_of(case, dtype)
    with _form(form):
        got = results(ls.udfs.VirtualDetector(mask=mask), frames, case)["intensity"]
    assert got.dtype == (np.int64 if dtype[0] == "i" else np.uint64)
    several = mask.reshape(-1, *case["sig"])
    expected = np.stack([np.where(m, frames.astype(object), 0).sum(axis=(1, 2)) for m in several], axis=-1)
    assert (got.reshape(len(frames), -1).astype(object) == expected).all()


@pytest.mark.parametrize("form", ["each", "many", "pixels"])
@pytest.mark.parametrize(("dtype", "kind"), [("u2", "real"), ("u8", "real"), ("f4", "real"), ("u2", "complex")])
@given(data=st.data(), poison=st.booleans())
@settings(max_examples=EXAMPLES)
def test_weights(dtype: str, kind: str, form: str, data: st.DataObject, poison: bool) -> None:
    case = data.draw(cases())
    mask = data.draw(masks(case["sig"], kind))
    frames = frames_of(case, dtype)
    several = mask.reshape(-1, *case["sig"])
    if poison and dtype == "f4":
        frames[:, (several == 0).all(axis=0)] = np.nan  # outside of all masks
    with _form(form):
        got = results(ls.udfs.VirtualDetector(mask=mask), frames, case)["intensity"].reshape(len(frames), -1)
    for i, m in enumerate(several):
        check_sum(got[:, i], np.where(m != 0, m * frames.astype(np.float64), 0), (1, 2))


@pytest.mark.parametrize("dtype", ["u2", "f4", "u8"])
@given(data=st.data())
@settings(max_examples=EXAMPLES)
def test_binary_masks_over_floats(dtype: str, data: st.DataObject) -> None:
    case = data.draw(cases())
    mask = data.draw(masks(case["sig"], "binary"))
    frames = frames_of(case, dtype)
    form = data.draw(st.sampled_from(["runs", "each"])) if dtype != "u2" else "bits"
    with _form(form):
        got = results(ls.udfs.VirtualDetector(mask=mask.astype(float)), frames, case)["intensity"].reshape(len(frames), -1)
    for i, m in enumerate(mask.reshape(-1, *case["sig"])):
        check_sum(got[:, i], np.where(m, frames, 0), (1, 2))


def test_all_forms_are_tried() -> None:
    assert set(ALL) == {"runs", "bits", "pixels", "each", "many"}
