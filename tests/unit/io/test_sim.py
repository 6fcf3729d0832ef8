"""sim://: the same frames however they are read, plausible physics, and addresses with mistakes."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.errors import UsageError
from libstream.ext import Region, Span
from libstream.io_backends.files import _sim_model
from libstream.io_backends.files._sim_model import SimModel
from libstream.io_backends.files.sim import SimFormat, SimOptions, sim_frames
from libstream.testing.formats import read_all

_Arr = np.ndarray[Any, Any]


def opened(query: str = "") -> Any:
    return SimFormat().open(f"sim://{'?' if query else ''}{query}", SimOptions())


@given(data=st.data())
@settings(max_examples=25)
def test_any_cut_in_any_order_is_the_same(data: st.DataObject) -> None:
    source = opened("scan=4,5&frame=24,30&seed=3&electrons=900")
    whole = read_all(source)
    a = data.draw(st.integers(0, 20))
    b = data.draw(st.integers(a, 20))
    top = data.draw(st.integers(0, 24))
    bottom = data.draw(st.integers(top, 24))
    reader = pickle.loads(pickle.dumps(source.opener)).open_reader("frames")
    out = np.full((b - a, bottom - top, 30), 7, "u2")
    reader.read_into(out, Span(a, b), Region((top, 0), (bottom - top, 30)))
    np.testing.assert_array_equal(out, whole[a:b, top:bottom])
    np.testing.assert_array_equal(sim_frames((4, 5), (24, 30), seed=3, electrons=900, frames=Span(a, b)), whole[a:b])


def test_compiled_code_is_the_plain_function() -> None:
    model = SimModel((3, 2), (16, 18), np.dtype("u2"), 5, 700.0)
    fast = np.empty((6, 16, 18), np.uint16)
    model.fill(fast, 0, 0)
    table, scale = _sim_model._noise(model._peak, 65535)
    geometry = np.array([16, 18, model.disk_radius, model.bragg_radius, model._disk_level])
    slow = np.empty_like(fast)
    with np.errstate(over="ignore"):
        _sim_model._fill(slow, 0, 0, 3, 2, geometry, *model._sample, model._background, table, scale, np.uint64(5))
    # the two may round an expected value to different sides of a level: a few pixels differ by the noise of one level
    assert (fast != slow).mean() < 0.01
    np.testing.assert_allclose(fast, slow, atol=3)


def test_values_are_pinned() -> None:
    # demos and benchmarks on other computers show the same data
    frame = sim_frames((2, 2), (16, 16), seed=1, electrons=2000, frames=Span(3, 4))[0]
    # another computer's sine may put an expected value on the other side of a level
    assert abs(int(frame.sum()) - PINNED_SUM) < 10
    np.testing.assert_allclose(frame[7], PINNED_ROW, atol=3)


PINNED_SUM = 2076
PINNED_ROW = [0, 0, 1, 0, 5, 4, 51, 161, 164, 29, 2, 0, 1, 0, 0, 2]


def test_dose_noise_and_seed() -> None:
    frames = sim_frames((40, 40), (32, 32), seed=9, electrons=5000).reshape(1600, -1).astype(float)
    totals = frames.sum(axis=1)
    assert totals.mean() == pytest.approx(5000, rel=0.03)
    # Poisson: the variance of the totals is their mean, and a bit for what differs between grains
    assert 0.8 < totals.var() / totals.mean() < 4
    assert not np.array_equal(sim_frames((2, 2), (32, 32), seed=1), sim_frames((2, 2), (32, 32), seed=2))
    assert sim_frames((2, 2), (32, 32), electrons=1e-3).sum() <= 1


def test_noise_tables_are_poisson() -> None:
    table, scale = _sim_model._noise(400.0, 65535)
    for level in (3, 20, 97, 120, 255):  # below and above the switch to the expansion
        mean = (level / scale) ** 2
        assert table[level].mean() == pytest.approx(mean, rel=0.01, abs=2e-3)
        assert table[level].var() == pytest.approx(mean, rel=0.03, abs=5e-3)
    assert table[0].max() == 0
    assert _sim_model._noise(400.0, 255)[0].max() == 255


def test_virtual_images_show_a_hole_and_grains() -> None:
    frames = sim_frames((24, 24), (48, 48), electrons=20_000).astype(float)
    r = np.hypot(*(np.indices((48, 48)) - 23.5))
    dark = frames[..., r > 12].sum(axis=-1)
    assert dark[11:13, 11:13].max() < 0.05 * np.median(dark)
    ring = frames[0, :2].sum(axis=0)[np.abs(r - 0.23 * 48) < 2]
    assert np.percentile(ring, 95) > 5 * np.percentile(ring, 20) + 5  # Bragg disks of one grain, and little between them
    bright = frames * (r <= 8)
    x = (bright * (np.arange(48) - 23.5)).sum(axis=(2, 3)) / bright.sum(axis=(2, 3))
    assert x[:, :4].mean() - x[:, -4:].mean() > 0.3  # the descan error


def test_axes_and_channels() -> None:
    source = opened("scan=2,3&frame=64,32&dtype=uint8&channels=2&electrons=3000")
    assert source.meta.channels == ("threshold_1", "threshold_2")
    y, x, ky, kx = source.meta.axes
    assert (y.name, y.unit, x.size) == ("y", "nm", 3)
    assert (ky.name, kx.unit) == ("ky", "mrad")
    assert ky.offset + 31.5 * ky.step == pytest.approx(0)
    assert kx.step * source.meta.vendor["disk_radius_px"] == pytest.approx(10)
    low, high = (read_all(source, c).sum() for c in source.meta.channels)
    assert high / low == pytest.approx(0.6, rel=0.05)
    with pytest.raises(UsageError, match="'threshold_1', 'threshold_2'"):
        source.opener.open_reader("frames")
    np.testing.assert_array_equal(
        sim_frames((2, 3), (64, 32), "uint8", electrons=3000, channel=1), read_all(source, "threshold_2").reshape(2, 3, 64, 32)
    )


@pytest.mark.parametrize(
    ("query", "nav"), [("scan=", ()), ("scan=7", (7,)), ("scan=2,3,4", (2, 3, 4)), ("", (64, 64)), ("scan=3,4", (3, 4))]
)
def test_scans(query: str, nav: tuple[int, ...]) -> None:
    source = opened(query)
    assert source.meta.shape.nav == nav
    assert source.meta.shape.sig == (256, 256)
    assert source.meta.dtype == np.dtype("u2")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32", "float32", "float64", ">u2"])
def test_dtypes(dtype: str) -> None:
    frames = read_all(opened(f"scan=2&frame=16,16&electrons=4000&dtype={dtype}"))
    assert frames.dtype == np.dtype(dtype).newbyteorder("=")
    expected = read_all(opened("scan=2&frame=16,16&electrons=4000&dtype=float64"))
    np.testing.assert_array_equal(frames, np.minimum(expected, 255) if dtype == "uint8" else expected)


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("sim://?scna=3,4", "unknown key 'scna'; known are scan, frame, dtype, seed, channels, electrons"),
        ("sim://?scan=3,x", "scan='3,x' cannot be read, expected whole numbers"),
        ("sim://?scan=3&scan=4", "given twice"),
        ("sim://?scan=0,4", "sizes of 1 or more"),
        ("sim://?scan=1,2,3,4", "0 to 3 sizes"),
        ("sim://?frame=256", "two sizes"),
        ("sim://?frame=4,4", "8 to 16384"),
        ("sim://?frame=99999,8", "8 to 16384"),
        ("sim://?dtype=complex64", "must be one of uint8"),
        ("sim://?dtype=nonsense", "must be one of uint8"),
        ("sim://?seed=one", "expected a whole number"),
        ("sim://?channels=0", "1 to 16"),
        ("sim://?electrons=nan", "more than 0"),
        ("sim://?electrons=-5", "more than 0"),
        ("sim://?electrons=1e99", "at most 1e9"),
        ("sim://host?scan=3", "is no simulation"),
        ("sin://?scan=3", "is no simulation"),
    ],
)
def test_addresses_with_mistakes(uri: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        SimFormat().open(uri, SimOptions())


def test_a_huge_simulation_costs_nothing_to_open() -> None:
    source = opened("scan=100000,100000&frame=1024,1024")
    assert source.meta.n_frames == 10**10
    assert source.meta.id.n_bytes == 2 * 10**10 * 2**20
    out = np.empty((1, 8, 1024), "u2")
    source.opener.open_reader("frames").read_into(out, Span(10**10 - 1, 10**10), Region((500, 0), (8, 1024)))
    assert out.max() > 0


def test_identity_and_reading_beyond_the_end() -> None:
    first, same, other = (opened(f"scan=2,2&frame=16,16&seed={s}") for s in (1, 1, 2))
    assert first.meta.id.fingerprint == same.meta.id.fingerprint != other.meta.id.fingerprint
    assert opened("frame=16,16&scan=2,2").meta.id.fingerprint == first.meta.id.fingerprint
    reader = first.opener.open_reader("frames")
    with pytest.raises(UsageError, match="has 4"):
        reader.read_into(np.empty((2, 16, 16), "u2"), Span(3, 5), Region.whole((16, 16)))
    with pytest.raises(UsageError, match="band"):
        reader.read_into(np.empty((1, 9, 16), "u2"), Span(3, 4), Region((8, 0), (9, 16)))
