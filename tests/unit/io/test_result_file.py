"""Result files: what is loaded is what was saved, bit for bit."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import h5py
import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libstream.ext import (
    Axis,
    DataShape,
    Outputs,
    Ragged,
    Result,
    default_axes,
    nav,
    ragged,
    sig,
    single,
)
from tests.unit.io.result_files import SINK, assert_same, coverage, example_result


def test_everything_comes_back(tmp_path: Path) -> None:
    result = example_result()
    SINK.save(result, tmp_path / "a.h5")
    assert_same(result, SINK.load(tmp_path / "a.h5"))
    assert os.listdir(tmp_path) == ["a.h5"]


def test_a_second_generation_of_the_file_is_the_same(tmp_path: Path) -> None:
    SINK.save(example_result(final=False), tmp_path / "a.h5")
    SINK.save(SINK.load(tmp_path / "a.h5"), tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert not SINK.load(tmp_path / "b.h5").final


plain_dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="="),
    hnp.datetime64_dtypes(endianness="="),
    hnp.unicode_string_dtypes(min_len=1, max_len=3, endianness="="),
    hnp.byte_string_dtypes(min_len=1, max_len=3),
)
dtypes = st.one_of(plain_dtypes, hnp.array_dtypes(plain_dtypes, min_size=1, max_size=3), hnp.nested_dtypes(plain_dtypes, max_leaves=4))


@st.composite
def filled(draw: st.DrawFn, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Array of random bits: NaN payloads, negative zeros and subnormals included. Bools and text must be valid ones."""
    if dtype.subdtype is not None:
        return draw(filled(dtype.subdtype[0], (*shape, *dtype.subdtype[1])))
    if dtype.names is not None:
        out = np.zeros(shape, dtype)
        for name in dtype.names:
            out[name] = draw(filled(dtype[name], shape))
        return out
    n = int(np.prod(shape))
    if dtype.kind == "b":
        return np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool).reshape(shape)
    if dtype.kind in "US" or dtype.char in "gG":
        return draw(hnp.arrays(dtype, shape))
    raw = draw(st.binary(min_size=n * dtype.itemsize, max_size=n * dtype.itemsize))
    return np.frombuffer(raw, dtype).reshape(shape).copy() if n else np.zeros(shape, dtype)


@st.composite
def results(draw: st.DrawFn) -> Result:
    nav_shape = draw(st.lists(st.integers(0, 3), max_size=3).map(tuple))
    sig_shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple))
    shape = DataShape(nav_shape, sig_shape)
    names = st.text(min_size=0, max_size=4).filter(lambda s: s.isprintable())
    udfs = {}
    for key in draw(st.lists(names, max_size=2, unique=True)):
        arrays: dict[str, object] = {}
        declared = {}
        for name in draw(st.lists(names, max_size=3, unique=True)):
            dtype, extra = draw(dtypes), draw(st.sampled_from([(), (2,), (0,), (1, 2)]))
            if dtype.subdtype is not None:
                dtype = np.dtype([("a", dtype)])
            kind = draw(st.sampled_from([nav, sig, single, ragged]))
            output = kind(dtype, extra, title=draw(names), unit=draw(names))
            if kind is ragged:
                counts = draw(hnp.arrays(np.int64, int(np.prod(nav_shape)), elements=st.integers(0, 2)))
                offsets = np.concatenate([[0], np.cumsum(counts)])
                arrays[name] = Ragged(draw(filled(dtype, (int(counts.sum()), *extra))), offsets, nav_shape)
            else:
                arrays[name] = draw(filled(dtype, output.shape(shape)))
            if draw(st.booleans()):
                declared[name] = output
        udfs[key] = Outputs(key, arrays, declared, shape, default_axes(shape))
    return Result(udfs, coverage(nav_shape), version=draw(st.integers(0, 9)), params={f"{k}/m": np.arange(3) for k in udfs})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(results())
def test_any_result_comes_back(result: Result) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r.h5")
        SINK.save(result, path)
        assert_same(result, SINK.load(path))


def test_layout_is_what_viewers_expect(tmp_path: Path) -> None:
    SINK.save(example_result(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as h5:
        group = h5
        while "default" in group.attrs:  # as NeXus viewers find what to plot
            group = group[group.attrs["default"]]
        assert group.name == "/results/adf/intensity"
        assert group.attrs["NX_class"] == "NXdata"
        signal = group[group.attrs["signal"]]
        assert signal.shape == (2, 3)
        assert signal.attrs["units"] == "e"
        assert group.attrs["title"] == "ADF signal"
        assert list(group.attrs["axes"]) == ["y", "x"]
        np.testing.assert_allclose(group["x"], [-1.0, -0.6, -0.2])
        assert group["x"].attrs["units"] == "nm"
        np.testing.assert_array_equal(group["valid"], h5["coverage/status"][()] == 1)
        assert json.loads(h5["coverage/status"].attrs["legend"])["corrupt"] == 2
        assert list(h5["results/other/sum"].attrs["axes"]) == ["ky", "kx"]
        assert list(h5["results/other/seen"].attrs["axes"]) == ["y", "x", "which"]
        assert "valid" not in h5["results/other/sum"]
        assert h5["results/other/sum/kx"].attrs["units"] == "px"
        assert "units" not in h5["results/other/seen/which"].attrs
        assert h5["results/other/com/data"].dtype == np.complex64
        np.testing.assert_array_equal(h5["results/other/peaks/counts"], [[0, 1, 0], [2, 1, 0]])
        assert h5["params/adf/mask"].shape == (4, 5)
        assert h5.attrs["libstream_format"] == 1
        assert json.loads(h5.attrs["libstream_run"])["µ"] == "Ångström"


def test_names_that_hdf5_does_not_allow(tmp_path: Path) -> None:
    shape = DataShape((2,), (2,))
    axes = (Axis("data", 2), Axis("a/b", 2))
    udfs = {
        key: Outputs(key, {"a/b": np.arange(2), ".": np.arange(4).reshape(2, 2)}, {"a/b": nav("i8"), ".": nav("i8", (2,))}, shape, axes)
        for key in ("x/y", "x%2Fy", "..", "%2E%2E", "")
    }
    result = Result(udfs, coverage((2,)), params={"x/y/m": np.arange(2), "x%2Fy/m": np.arange(3), "solo": np.arange(4)})
    SINK.save(result, tmp_path / "a.h5")
    assert_same(result, SINK.load(tmp_path / "a.h5"))


def test_large_provenance(tmp_path: Path) -> None:
    result = example_result(run={"log": "x" * 300_000, "values": [0.1, float("inf")], "count": np.int64(3)})
    SINK.save(result, tmp_path / "a.h5")
    assert SINK.load(tmp_path / "a.h5").run == {"log": "x" * 300_000, "values": [0.1, float("inf")], "count": 3}


def test_an_empty_result(tmp_path: Path) -> None:
    SINK.save(Result({}, coverage(())), tmp_path / "a.h5")
    assert_same(Result({}, coverage(())), SINK.load(tmp_path / "a.h5"))
