"""Binary messages: what is packed is unpacked, to the promised accuracy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from libstream.web_gui import wire

FINITE = st.floats(-1e6, 1e6, width=32)
IMAGES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.one_of(FINITE, st.just(np.nan)))


@given(IMAGES, st.sampled_from(wire.LEVELS), st.data())
@settings(max_examples=150)
def test_rows_come_back_as_accurately_as_the_level_promises(values: np.ndarray, level: wire.Level, data: st.DataObject) -> None:
    h = values.shape[0]
    y0 = data.draw(st.integers(0, h - 1))
    y1 = data.draw(st.integers(y0 + 1, h))
    span = wire.limits(values)
    fields, payload = wire.encode(values, level, (y0, y1), span)
    header, rows = wire.unpack(wire.pack({"topic": "a/x/y", "v": 1, **fields}, payload))
    a, b = header["rows"]
    b_ = level.bin
    assert a * b_ <= y0 < y1 <= b * b_
    expected = twin_binned(values.astype(float), b_)[a:b]
    assert rows.shape == expected.shape
    assert np.array_equal(np.isnan(rows), np.isnan(expected))
    seen = ~np.isnan(expected)
    if level.dtype == "<f4":
        assert np.array_equal(rows[seen], expected[seen])
        assert header["exact"]
    elif seen.any():
        assert not header["exact"]
        # float32 means of a bin, then half a step of the scale
        slack = 1e-5 * max(1.0, float(np.abs(expected[seen]).max()))
        assert np.abs(rows[seen] - expected[seen]).max() <= header["scale"] / 2 + slack


def twin_binned(values: np.ndarray, b: int) -> np.ndarray:
    h, w = values.shape
    out = np.full((-(-h // b), -(-w // b)), np.nan)
    for y, x in np.ndindex(out.shape):
        block = values[y * b : (y + 1) * b, x * b : (x + 1) * b]
        if np.isfinite(block).any():
            out[y, x] = block[np.isfinite(block)].mean()
    return out


def test_the_payload_starts_at_a_multiple_of_eight() -> None:
    for n in range(20):
        message = wire.pack({"x": "y" * n}, b"\1")
        assert (len(message) - 1) % 8 == 0
        assert json.loads(message[8:-1])["x"] == "y" * n


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([[1, 2**24]], np.uint64), np.float32),
        (np.array([[1, 2**24 + 1]], np.uint64), np.float64),
        (np.array([[-(2**24) - 1, 0]], np.int32), np.float64),
        (np.array([[0, 65535]], np.uint16), np.float32),
        (np.array([[0.1, 2.5]], np.float64), np.float32),
        (np.array([[0.1, 1e300]], np.float64), np.float64),
        (np.array([[True, False]]), np.float32),
    ],
)
def test_values_are_shown_exactly(array: np.ndarray, dtype: type) -> None:
    shown = wire.displayed(array, None)
    assert shown.dtype == dtype
    assert np.allclose(shown, array.astype(float), rtol=1e-7, atol=0)
    if array.dtype.kind in "iu":
        assert np.array_equal(shown, array)


def test_what_was_not_seen_is_nan_whatever_its_fill() -> None:
    counts = np.full((2, 2), np.iinfo(np.uint64).max, np.uint64)
    counts[0] = 7
    seen = np.array([[True, True], [False, False]])
    shown = wire.displayed(counts, seen)
    assert shown.dtype == np.float32  # the fill does not count
    assert np.array_equal(shown, [[7, 7], [np.nan, np.nan]], equal_nan=True)


def test_complex_numbers_and_vectors_have_components_last() -> None:
    shown = wire.displayed(np.array([[1 + 2j]]), np.array([[True]]))
    assert shown.shape == (1, 1, 2)
    assert shown.tolist() == [[[1, 2]]]
    vectors = wire.displayed(np.ones((2, 3, 2)), np.zeros((2, 3), bool))
    assert np.isnan(vectors).all()
    assert vectors.shape == (2, 3, 2)


@pytest.mark.parametrize("level", wire.LEVELS)
def test_constant_empty_and_unseen_arrays_can_be_sent(level: wire.Level) -> None:
    for values in (np.full((3, 3), 5.0, np.float32), np.full((3, 3), np.nan, np.float32), np.float32(3.0), np.zeros(4, np.float32)):
        values = np.asarray(values)
        header, rows = wire.unpack(wire.pack(*with_payload(values, level)))
        assert rows.shape == tuple(header["shape"])
        assert np.allclose(rows[~np.isnan(rows)], 5.0 if values.ndim == 2 else values.reshape(-1)[:1])


def with_payload(values: np.ndarray, level: wire.Level) -> tuple[dict, bytes]:
    return wire.encode(values, level, None, wire.limits(values))


def test_infinite_values_do_not_spoil_the_scale() -> None:
    values = np.array([[0.0, 10.0], [np.inf, -np.inf]], np.float32)
    assert wire.limits(values) == (0.0, 10.0)
    _, rows = wire.unpack(wire.pack(*with_payload(values, wire.LEVELS[1])))
    assert np.allclose(rows, [[0, 10], [10, 0]], atol=1e-3)


def test_the_level_fits_the_link() -> None:
    n = 512 * 512
    names = [wire.fitting(n, rate, 0.05).name for rate in (1e9, 15e6, 6e6, 2e6, 4e5, 1e4)]
    assert names == ["f4", "u2", "u1", "u1/2", "u1/4", "u1/8"]


def test_a_view_gets_no_more_pixels_than_its_screen_has() -> None:
    assert wire.coarsest_sharp((512, 512), None) == 1
    assert wire.coarsest_sharp((512, 512), (512, 512)) == 1
    assert wire.coarsest_sharp((512, 512), (300, 300)) == 1
    assert wire.coarsest_sharp((1024, 1024), (256, 256)) == 4
    assert wire.coarsest_sharp((1024, 1024), (1024, 256)) == 1


def test_nonsense_is_no_message() -> None:
    with pytest.raises(ValueError, match="LST1"):
        wire.unpack(b"GIF89a..........")
