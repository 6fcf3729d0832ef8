"""Arrays as sources: any memory layout, no copies where none are needed."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.errors import ShapeError, UsageError
from libstream.ext import Region, Span
from libstream.io_backends.files._gather import flat_frames
from libstream.io_backends.files.memory import MemoryFormat, MemoryOptions, MemorySource
from libstream.testing.formats import read_all

_Arr = np.ndarray[Any, Any]


@given(data=st.data())
def test_any_memory_layout(data: st.DataObject) -> None:
    draw = data.draw
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)))
    sig_dims = draw(st.integers(1, min(2, len(shape))))
    dtype = draw(st.sampled_from(["u2", ">u2", "f4", ">c8", "bool"]))
    array = np.asarray(
        np.random.default_rng(2).integers(0, 2 if dtype == "bool" else 99, shape).astype(dtype), order=draw(st.sampled_from("CF"))
    )
    array = array[tuple(slice(None, None, draw(st.sampled_from([1, 1, 2, -1]))) for _ in shape)]
    if draw(st.booleans()):
        array = array.transpose(draw(st.permutations(range(array.ndim))))
    if draw(st.booleans()):
        array = np.broadcast_to(array, (2, *array.shape))
    source = MemorySource(array, sig_dims)
    nav, sig = array.shape[:-sig_dims], array.shape[-sig_dims:]
    assert source.meta.shape.nav == nav
    assert source.meta.shape.sig == sig
    assert source.meta.dtype.isnative
    frames = np.array(array, order="C", dtype=source.meta.dtype).reshape(-1, *sig)
    np.testing.assert_array_equal(read_all(source), frames)
    reader = pickle.loads(pickle.dumps(source.opener)).open_reader("frames")
    a = draw(st.integers(0, len(frames)))
    b = draw(st.integers(a, len(frames)))
    top = draw(st.integers(0, sig[0]))
    bottom = draw(st.integers(top, sig[0]))
    out = np.empty((b - a, bottom - top, *sig[1:]), source.meta.dtype)
    assert reader.read_into(out, Span(a, b), Region((top, *(0,) * (sig_dims - 1)), out.shape[1:])) is None
    np.testing.assert_array_equal(out, frames[a:b, top:bottom])
    view = source.opener.open_reader("frames").view()
    if view is not None:
        np.testing.assert_array_equal(view, frames)
        assert view[0].flags.c_contiguous
        assert not view.flags.writeable
        assert dtype[0] == ">" or np.shares_memory(view, array)


def test_views_are_the_array_itself() -> None:
    array = np.arange(4 * 6 * 5 * 7, dtype="u2").reshape(4, 6, 5, 7)
    for data, same in [
        (array, True), (array[1:3], True), (array[:, :, 1:3], True), (array[::2, 0], True), (array[0, 0], True),
        (array[:, ::2], True), (array[:, 1:], False), (array[..., ::2], False), (array[::-1], False), (np.asfortranarray(array), False),
        (np.broadcast_to(array[0, 0], (3, 5, 7)), False),
    ]:  # fmt: skip
        view = flat_frames(data, 2)
        assert (view is not None) == same, data.strides
        if view is not None:
            assert np.shares_memory(view, array)
    assert array.flags.writeable
    unaligned = np.frombuffer(b"x" + array.tobytes(), np.uint16, offset=1).reshape(array.shape)
    assert flat_frames(unaligned, 2) is None
    np.testing.assert_array_equal(read_all(MemorySource(unaligned)), array.reshape(-1, 5, 7))


def test_channels() -> None:
    low, high = np.ones((3, 4, 8, 8), "u2"), np.full((3, 4, 6, 5), 2, ">f4")
    source = MemoryFormat().open({"low": low, "high": high}, MemoryOptions())
    assert source.meta.channels == ("low", "high")
    assert source.channel_name == "low"
    assert source.channel_meta("high").shape.sig == (6, 5)
    assert source.channel_meta("high").dtype == np.dtype("f4")
    np.testing.assert_array_equal(read_all(source, "high"), high.reshape(-1, 6, 5))
    for call in (source.channel_meta, source.opener.open_reader):
        with pytest.raises(UsageError, match="'low', 'high'"):
            call("middle")


def test_what_cannot_be_a_source() -> None:
    with pytest.raises(ShapeError, match=r"same scan: 'a' has \(3,\), 'b' has \(4,\)"):
        MemorySource({"a": np.zeros((3, 2, 2)), "b": np.zeros((4, 2, 2))})
    with pytest.raises(ShapeError, match=r"shape \(5,\).*sig_dims=1"):
        MemorySource(np.zeros(5))
    with pytest.raises(ShapeError, match=r"shape \(\)"):
        MemorySource(np.float64(3.0), sig_dims=1)
    with pytest.raises(UsageError, match="dtype object"):
        MemorySource(np.array([[{}]], dtype=object))
    with pytest.raises(UsageError, match="expected numbers"):
        MemorySource(np.zeros((2, 2), "S3"))
    with pytest.raises(UsageError, match="no arrays"):
        MemorySource({})
    with pytest.raises(UsageError, match="got 3"):
        MemorySource(np.zeros((2, 2, 2)), sig_dims=3)
    with pytest.raises(UsageError, match="is a text"):
        MemoryFormat().open("scan.npy", MemoryOptions())


def test_reading_beyond_the_array() -> None:
    reader = MemorySource(np.zeros((3, 2, 2))).opener.open_reader("frames")
    with pytest.raises(UsageError, match="has 3"):
        reader.read_into(np.empty((2, 2, 2)), Span(2, 4), Region.whole((2, 2)))
    with pytest.raises(UsageError, match="band"):
        reader.read_into(np.empty((2, 2, 2)), Span(0, 2), Region((1, 0), (2, 2)))


def test_fingerprint_is_of_the_content() -> None:
    array = np.arange(3 * 4 * 8 * 8, dtype="u2").reshape(3, 4, 8, 8)
    first = MemorySource(array).meta.id
    assert len(first.fingerprint) == 64
    assert first.n_bytes == array.nbytes
    assert MemorySource(np.asfortranarray(array)).meta.id.fingerprint == first.fingerprint
    assert MemorySource(array.astype("u4")).meta.id.fingerprint != first.fingerprint
    assert MemorySource(array.reshape(12, 8, 8)).meta.id.fingerprint != first.fingerprint
    other = array.copy()
    other[2, 3, 7, 7] += 1
    assert MemorySource(other).meta.id.fingerprint != first.fingerprint


def test_lists_and_memmaps_are_arrays(tmp_path: Any) -> None:
    assert read_all(MemorySource([[[1, 2], [3, 4]]]))[0, 1, 1] == 4
    mapped = np.memmap(tmp_path / "a.raw", "u2", "w+", shape=(3, 4, 4))
    source = MemorySource(mapped)
    view = source.opener.open_reader("frames").view()
    assert type(view) is np.ndarray
    del view, source
    mapped._mmap.close()  # type: ignore[attr-defined]


def test_no_frames_at_all() -> None:
    source = MemorySource(np.zeros((0, 4, 4)))
    assert source.meta.n_frames == 0
    assert read_all(source).shape == (0, 4, 4)
