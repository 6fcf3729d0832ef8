"""The values that travel: shapes, ranges, arrays, quantities, ragged data, fills, results."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import libstream as ls
from libstream.errors import ParameterError, ShapeError, UsageError
from libstream.model.output import Output, default_fill, nav, ragged, sig, single
from libstream.model.partial import CORRUPT, EXCLUDED, MISSING, PROCESSED, UNSEEN, Coverage
from libstream.model.quantity import Quantity, convert
from libstream.model.ragged import Ragged
from libstream.model.result import Outputs, Result
from libstream.model.shape import DataShape, Region, Span
from libstream.model.source import Axis, SourceId, SourceMeta, default_axes

# -- shapes and ranges -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nav", "positions"), [((), 1), ((7,), 7), ((3, 4), 12), ((2, 3, 4), 24), ((0, 4), 0)])
def test_data_shape(nav: tuple[int, ...], positions: int) -> None:
    shape = DataShape(nav, (5, 6))
    assert (shape.n_positions, shape.frame_size) == (positions, 30)
    assert DataShape(tuple(np.array(nav, "i8")), (np.int64(5), 6)) == shape  # type: ignore[arg-type]
    assert hash(DataShape(nav, (5, 6))) == hash(shape)


def test_shapes_that_cannot_be() -> None:
    with pytest.raises(ShapeError, match=r"scan shape \(-1, 2\) has a negative size"):
        DataShape((-1, 2), (3, 3))
    with pytest.raises(ShapeError, match=r"a frame has 1 or 2 axes, got 3: \(1, 2, 3\)"):
        DataShape((1,), (1, 2, 3))
    assert str(DataShape((2, 3), (4,))) == "(2, 3 | 4)"


def test_spans_are_half_open_and_checked_at_birth() -> None:
    assert len(Span(3, 7)) == 4
    assert len(Span(3, 3)) == 0
    with pytest.raises(ShapeError, match="Span stops at 3 before it starts at 7"):
        Span(7, 3)
    with pytest.raises(ShapeError, match="Span starts at -1, before 0"):
        Span(-1, 3)


def test_regions_are_bands_of_rows() -> None:
    frame = np.arange(30).reshape(5, 6)
    assert Region((2, 0), (3, 6)).rows == slice(2, 5)
    assert np.array_equal(frame[Region((2, 0), (3, 6)).slices], frame[2:5])
    assert Region.whole((5, 6)) == Region((0, 0), (5, 6))


def test_metadata() -> None:
    meta = SourceMeta(SourceId("a.mib", "mib", 10), DataShape((2, 3), (4, 5)), np.dtype(">u2"))
    assert meta.dtype == np.dtype("u2").newbyteorder("=")
    assert (meta.n_frames, meta.n_bytes) == (6, 6 * 20 * 2)
    assert [a.name for a in meta.nav_axes] + [a.name for a in meta.sig_axes] == ["y", "x", "ky", "kx"]
    assert not any(a.calibrated for a in meta.axes)
    with pytest.raises(ShapeError, match=r"1 axes were given for shape \(2, 3 \| 4, 5\), expected 4"):
        meta.with_(axes=(Axis("y", 2),))
    assert [a.name for a in default_axes(DataShape((2, 3, 4, 5), (6,)))] == ["scan_0", "scan_1", "scan_2", "scan_3", "channel"]


# -- arrays ------------------------------------------------------------------------------------------------------------------


def test_arrays_are_values() -> None:
    a = np.arange(6.0).reshape(2, 3)
    value = ls.Array(a)
    a[...] = -1
    assert value[1, 2] == 5.0
    assert (value.shape, value.dtype, value.ndim, len(value)) == ((2, 3), np.dtype("f8"), 2, 2)
    assert np.asarray(value) is value.data
    assert np.asarray(value, "f4").dtype == "f4"
    assert np.array(value).flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        value.data[0] = 1
    assert pickle.loads(pickle.dumps(value)) == value == ls.Array(value)
    assert "Array(shape=(2, 3), dtype=float64" in repr(value)


def test_arrays_are_equal_by_content() -> None:
    a = np.arange(6, dtype="u2").reshape(2, 3)
    assert ls.Array(a) == ls.Array(np.asfortranarray(a)) == ls.Array(a.astype(">u2"))
    assert hash(ls.Array(a)) == hash(ls.Array(a.copy()))
    for other in (a.reshape(3, 2), a.astype("u4"), a + 1, a.ravel(), a[:0]):
        assert ls.Array(other) != ls.Array(a)
    assert ls.Array(a) != a.tolist()


@pytest.mark.parametrize("given", ["abc", ["a"], [object()], np.array("x"), [b"a"]])
def test_arrays_hold_numbers(given: Any) -> None:
    with pytest.raises(TypeError, match="an Array parameter holds numbers"):
        ls.Array(given)


# -- quantities --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "value", "unit"),
    [
        ("12 mrad", 12.0, "mrad"), ("12mrad", 12.0, "mrad"), (" -1.5e-3 nm ", -0.0015, "nm"), ("30", 30.0, "px"), (30, 30.0, "px"),
        (".5 1/nm", 0.5, "1/nm"), (np.float32(0.5), 0.5, "px"), ("3 µm", 3.0, "µm"), ("+2 Å^-1", 2.0, "Å^-1"), ("2. deg", 2.0, "deg"),
    ],
)  # fmt: skip
def test_quantities_as_texts(given: Any, value: float, unit: str) -> None:
    q = Quantity.parse(given)
    assert (q.value, q.unit) == (value, unit)
    assert Quantity.parse(str(q)) == q == Quantity.parse(q)


@pytest.mark.parametrize("given", ["", "mrad", "12 parsec", "1 2", "1e", "--3 nm", "nan mrad", "12,5 mrad"])
def test_texts_that_are_no_quantity(given: str) -> None:
    with pytest.raises(ParameterError, match=r"is not a quantity|unknown unit"):
        Quantity.parse(given)


@given(st.floats(-1e6, 1e6), st.sampled_from(["mrad", "deg", "rad", "urad"]), st.sampled_from(["mrad", "deg", "rad", "µrad"]))
def test_conversion_there_and_back(value: float, unit: str, to: str) -> None:
    assert convert(convert(value, unit, to), to, unit) == pytest.approx(value, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("value", "unit", "to", "expected"),
    [
        (1.0, "nm", "Å", 10.0),
        (1.0, "1/Å", "1/nm", 10.0),
        (180.0, "deg", "mrad", 1000 * np.pi),
        (2.0, "keV", "eV", 2000.0),
        (5.0, "ms", "us", 5000.0),
    ],
)
def test_conversion(value: float, unit: str, to: str, expected: float) -> None:
    assert convert(value, unit, to) == pytest.approx(expected, rel=1e-12)


def test_units_of_another_kind() -> None:
    with pytest.raises(ParameterError, match=r"cannot convert 'nm' \(length\) to 'mrad' \(angle\)"):
        convert(1.0, "nm", "mrad")
    axes = (Axis("ky", 8, 0.5, unit="mrad"), Axis("kx", 8, -0.5, unit="mrad"))
    assert Quantity(3.0, "mrad").in_pixels(axes) == 6.0
    assert Quantity(3.0).in_pixels(axes) == 3.0
    mixed = (Axis("ky", 8, 0.5, unit="mrad"), Axis("kx", 8, 0.0005, unit="rad"))
    assert Quantity(3.0, "mrad").in_pixels(mixed) == pytest.approx(6.0)


# -- ragged data -------------------------------------------------------------------------------------------------------------

lists = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.lists(st.integers(0, 99), max_size=3), min_size=width, max_size=width), min_size=1, max_size=4)
)


def ragged_of(rows: list[list[list[int]]]) -> Ragged:
    flat = [records for row in rows for records in row]
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in flat])])
    return Ragged(np.array([v for r in flat for v in r], "i4"), offsets, (len(rows), len(rows[0])))


@given(lists, st.data())
def test_ragged_slicing_is_that_of_lists(rows: list[list[list[int]]], data: Any) -> None:
    r = ragged_of(rows)
    y, x = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, len(rows[0]) - 1))
    assert r[y, x].tolist() == rows[y][x]
    assert [e.tolist() for e in r[y]] == rows[y]
    start, stop, step = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5)), data.draw(st.sampled_from([1, 2, -1]))
    assert [[e.tolist() for e in r[i]] for i in range(len(rows))][start:stop:step] == _lists(r[start:stop:step])
    column = r[:, x]
    assert (column.nav, [e.tolist() for e in column]) == ((len(rows),), [row[x] for row in rows])
    assert r.counts.tolist() == [[len(e) for e in row] for row in rows]
    assert (len(r), r.dtype) == (len(rows) * len(rows[0]), np.dtype("i4"))
    assert r == pickle.loads(pickle.dumps(r)) == ragged_of(rows)
    mask = r.counts > 1
    assert [e.tolist() for e in r[mask]] == [e for row in rows for e in row if len(e) > 1]


def _lists(r: Ragged) -> list[Any]:
    return [[r.at(i * r.nav[1] + j).tolist() for j in range(r.nav[1])] for i in range(r.nav[0])]


def test_ragged_data_are_not_changed() -> None:
    r = ragged_of([[[1], [2, 3]]])
    with pytest.raises(ValueError, match="read-only"):
        r.values[0] = 5
    assert r != ragged_of([[[1, 2], [3]]])
    assert r != Ragged(r.values.astype("i8"), r.offsets, r.nav)
    assert r != "ragged"
    with pytest.raises(TypeError):
        hash(r)
    assert Ragged(np.zeros(0), np.array([0, 0]), ())[()].shape == (0,)


@pytest.mark.parametrize(("n", "offsets"), [(3, [0, 3]), (3, [0, 2, 1, 3]), (3, [1, 2, 3, 3]), (4, [0, 1, 2, 3])])
def test_offsets_that_do_not_fit(n: int, offsets: list[int]) -> None:
    with pytest.raises(ShapeError, match=r"ragged data of scan .* needs 4 rising offsets from 0 to"):
        Ragged(np.zeros(n), np.array(offsets), (3,))


# -- outputs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [("f4", np.nan), ("c8", complex(np.nan, 0)), ("u1", 255), ("i2", 32767), ("u8", 2**64 - 1), ("?", False)],
)
def test_fill_of_what_was_never_seen(dtype: str, fill: Any) -> None:
    value = default_fill(np.dtype(dtype))
    assert np.array_equal(np.array(value).real, np.array(fill).real, equal_nan=True)
    assert np.array(value, dtype).dtype == dtype
    assert nav(dtype).fill_value == value or value != value
    assert nav(dtype, fill=1).fill_value == 1


def test_fill_of_records() -> None:
    record = default_fill(np.dtype([("y", "i4"), ("v", "f8"), ("deep", [("flag", "?"), ("w", "f4", (2,))])]))
    assert (record["y"], record["deep"]["flag"]) == (2**31 - 1, False)
    assert np.isnan(record["v"])
    assert np.isnan(record["deep"]["w"]).all()


@pytest.mark.parametrize(
    ("output", "init"),
    [
        (sig("u2"), 0), (single("f8"), 0.0), (sig("u2", merge="max"), 0), (sig("i2", merge="max"), -32768), (sig("i2", merge="min"), 32767),
        (sig("f4", merge="max"), -np.inf), (single("f8", merge="min"), np.inf),
        (single("?", merge="max"), False), (single("?", merge="min"), True),
        (single("f8", init=1.0, merge="custom"), 1.0),
    ],
)  # fmt: skip
def test_accumulators_start_at_the_identity(output: Output, init: Any) -> None:
    assert output.init_value == init


def test_outputs_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="an output of kind 'sig' merges by 'sum', 'max', 'min' or 'custom', got 'place'"):
        sig("f8", merge="place")
    with pytest.raises(UsageError, match="an output of kind 'nav' merges by 'place', got 'sum'"):
        nav("f8", merge="sum")
    with pytest.raises(UsageError, match="numbers or records of numbers, got dtype object"):
        nav(object)
    with pytest.raises(UsageError, match="no negative sizes"):
        nav("f8", (-1,))
    with pytest.raises(UsageError, match="needs numbers with an order, got dtype complex64"):
        sig("c8", merge="max").init_value  # noqa: B018


def test_shapes_of_outputs() -> None:
    data = DataShape((2, 3), (4, 5))
    assert [o.shape(data) for o in (nav("f8"), nav("f8", (2,)), sig("f8"), sig("f8", (3,)), single("f8"), single("f8", (7,)))] == [
        (2, 3), (2, 3, 2), (4, 5), (4, 5, 3), (), (7,),
    ]  # fmt: skip
    assert ragged("i4", (2,)).extra == (2,)


# -- coverage and results ----------------------------------------------------------------------------------------------------


def test_coverage() -> None:
    status = np.array([[PROCESSED, PROCESSED, CORRUPT], [MISSING, EXCLUDED, UNSEEN]], np.uint8)
    c = Coverage(status)
    assert c.counts == {"unseen": 1, "processed": 2, "corrupt": 1, "dropped": 0, "missing": 1, "excluded": 1, "announced": 5}
    assert c.valid.tolist() == [[True, True, False], [False, False, False]]
    assert not c.complete
    assert str(c) == "2 of 5 positions processed (1 corrupt, 1 missing, 1 unseen, 1 excluded)"
    assert Coverage(np.array([PROCESSED, EXCLUDED], np.uint8)).complete


def two() -> Result:
    shape = DataShape((2, 3), (4, 5))
    status = np.full((2, 3), PROCESSED, np.uint8)
    status[1, 2] = UNSEEN
    declared = {"a": nav("f8", unit="e"), "b": sig("f8"), "c": nav("u2", (2,))}
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones((4, 5)), "c": np.ones((2, 3, 2), "u2")}
    one = Outputs("one", arrays, declared, shape, default_axes(shape))
    other = Outputs(
        "other", {"a": arrays["a"] + 1, "d": ragged_of([[[1], []]])}, {"a": nav("f8"), "d": ragged("i4")}, shape, default_axes(shape)
    )
    return Result({"one": one, "other": other}, Coverage(status))


def test_results_by_key_and_by_output() -> None:
    r = two()
    assert list(r) == ["one", "other"]
    assert r["one"]["a"][1, 2] == 5.0
    assert r["b"].shape == (4, 5)
    with pytest.raises(KeyError, match=r"output 'a' is not unique; write one of result\['one'\]\['a'\], result\['other'\]\['a'\]"):
        r["a"]
    with pytest.raises(KeyError, match="no UDF or output 'z' in this result; it has one: a, b, c; other: a, d"):
        r["z"]
    with pytest.raises(KeyError, match="'one' has no output 'z'; it has: a, b, c"):
        r["one"]["z"]
    assert (r.complete, r.valid.sum()) == (False, 5)
    assert "one/a: (2, 3) float64 [e]" in repr(r)


def test_masked_values() -> None:
    r = two()
    assert r.masked("one", "a").mask.tolist() == [[False] * 3, [False, False, True]]
    assert r.masked("c").shape == (2, 3, 2)
    assert r.masked("c").mask[1, 2].all()
    for key, name in (("one", "b"), ("other", "d")):
        with pytest.raises(UsageError, match=f"{key}/{name} is not a nav output"):
            r.masked(key, name)
    with pytest.raises(UsageError, match="made by hand and cannot be saved"):
        r.save("x.h5")


def test_results_can_be_copied() -> None:
    r = two()
    assert copy.copy(r)["one"]["a"] is r["one"]["a"]
    assert np.array_equal(pickle.loads(pickle.dumps(r))["one"]["a"], r["one"]["a"])


def test_outputs_of_one_array_are_that_array_to_numpy() -> None:
    scan = np.arange(24, dtype=np.uint16).reshape(2, 3, 2, 2)
    result = ls.run(scan, [ls.udfs.Sum(), ls.udfs.CenterOfMass()], executor="inline")
    np.testing.assert_array_equal(np.asarray(result["sum"]), scan.sum(axis=(0, 1)))
    assert np.asarray(result["sum"], dtype=np.float32).dtype == np.float32
    with pytest.raises(TypeError, match=r"'center_of_mass' has \d+ outputs; take one of"):
        np.asarray(result["center_of_mass"])
    ragged = ls.run(scan, ls.udfs.LocalMaxima(threshold=1), executor="inline")
    with pytest.raises(TypeError, match="ragged"):
        np.asarray(ragged["local_maxima"])
