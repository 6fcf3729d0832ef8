"""Parameters at the border: values, texts, JSON schema, and what is said of wrong ones."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import numpy as np
import pytest

import libstream as ls
from libstream.contracts.params import make, schema, to_json, validated
from libstream.errors import ParameterError, UsageError


class Ring(ls.UDF):
    """A ring."""

    inner: ls.Quantity = ls.param(0.0, unit="px", title="Inner radius")
    outer: ls.Quantity | None = ls.param(None, title="Outer radius", help="default: the whole frame")
    power: float = ls.param(1.0, ge=0, le=4, unit="e")
    count: int = ls.param(3, gt=0, lt=10)
    mode: Literal["sum", "mean"] = "sum"
    kind: str = ls.param("a", choices=("a", "b"))
    flag: bool = False
    centre: tuple[float, float] | None = None
    mask: ls.Array | None = None
    place: ls.PerPosition | None = None
    orders: list[int] = ls.param([0, 1])

    def outputs(self) -> dict[str, ls.Output]:
        return {"v": ls.nav("f8")}

    def process_frame(self, frame: Any, out: Any) -> None:
        out.v[...] = self.inner


class Needs(ls.UDF):
    radius: float
    label: str = "x"

    def outputs(self) -> dict[str, ls.Output]:
        return {"v": ls.nav("f8")}

    def process_frame(self, frame: Any, out: Any) -> None: ...


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"power": "2.5"}, "power", 2.5),
        ({"power": 2}, "power", 2.0),
        ({"count": "7"}, "count", 7),
        ({"count": np.int64(7)}, "count", 7),
        ({"flag": "true"}, "flag", True),
        ({"flag": "0"}, "flag", False),
        ({"centre": ["3", 4]}, "centre", (3.0, 4.0)),
        ({"inner": "12 mrad"}, "inner", ls.Quantity(12.0, "mrad")),
        ({"inner": 3}, "inner", ls.Quantity(3.0, "px")),
        ({"outer": None}, "outer", None),
        ({"orders": (1, 2)}, "orders", [1, 2]),
        ({"mode": "mean"}, "mode", "mean"),
    ],
)
def test_values_and_texts(given: dict[str, Any], name: str, value: Any) -> None:
    made = getattr(make(Ring, given), name)
    assert made == value
    assert type(made) is type(value)


def test_arrays_are_read_only_values() -> None:
    rows = np.arange(4.0).reshape(2, 2)
    udf = make(Ring, {"mask": rows})
    rows[...] = 9
    assert isinstance(udf.mask, ls.Array)
    assert udf.mask[1, 1] == 3.0
    with pytest.raises(ValueError, match="read-only"):
        udf.mask.data[...] = 0
    assert make(Ring, {"mask": [[0, 1], [2, 3]]}).mask == ls.Array(np.array([[0, 1], [2, 3]]))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"power": 5}, r"Ring: power: input should be less than or equal to 4, got 5 \(allowed: >= 0 and <= 4 e\)"),
        ({"power": -1}, r"Ring: power: .* got -1 \(allowed: >= 0 and <= 4 e\)"),
        ({"power": "fast"}, r"Ring: power: .* got 'fast' \(allowed"),
        ({"count": 0}, r"Ring: count: .* got 0 \(allowed: > 0 and < 10\)"),
        ({"count": 2.5}, r"Ring: count: .*integer.* got 2.5"),
        ({"mode": "max"}, "Ring: mode: .*'sum' or 'mean', got 'max'"),
        ({"kind": "c"}, "Ring: kind must be one of a, b, got 'c'"),
        ({"flag": "perhaps"}, "Ring: flag: .*bool.* got 'perhaps'"),
        ({"centre": (1.0,)}, r"Ring: centre"),
        ({"inner": "3 parsec"}, "Ring: inner: unknown unit 'parsec' in '3 parsec'"),
        ({"inner": "wide"}, "Ring: inner: 'wide' is not a quantity; write a number of px"),
        ({"mask": "abc"}, "Ring: mask: not an array of numbers|Ring: mask"),
        ({"mask": np.array(["a"], object)}, r"Ring: mask: .* got array of shape \(1,\)"),
        ({"powr": 1}, "Ring has no parameter 'powr'; it has: centre, count, flag"),
        ({"power": 9, "count": 0}, "Ring: power: .*; count: "),
    ],
)
def test_wrong_values_are_named_with_their_limits(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        make(Ring, given)


def test_what_is_required() -> None:
    with pytest.raises(ParameterError, match="Needs: radius is required"):
        make(Needs, {})
    assert make(Needs, {"radius": 3}).radius == 3.0


def test_a_run_checks_parameters_given_to_the_class() -> None:
    udf = Ring(power=99)  # not checked here, so that writing a UDF needs nothing
    with pytest.raises(ParameterError, match="power"):
        validated(udf)
    with pytest.raises(ParameterError, match="power"):
        ls.run(np.ones((2, 3, 3)), udf, executor="inline")
    text: Any = "7"
    assert validated(Ring(count=text)).count == 7


def test_a_type_that_cannot_be_checked() -> None:
    class Odd(Needs):
        thing: NoSuchType = None  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(UsageError, match="UDF Odd: its parameters cannot be understood"):
        make(Odd, {"radius": 1})


def test_schema() -> None:
    out = schema(Ring)
    properties = out["properties"]
    assert list(properties) == ["inner", "outer", "power", "count", "mode", "kind", "flag", "centre", "mask", "place", "orders"]
    assert properties["power"] == {"default": 1.0, "maximum": 4, "minimum": 0, "title": "Power", "type": "number", "unit": "e"}
    assert (properties["count"]["exclusiveMinimum"], properties["count"]["exclusiveMaximum"]) == (0, 10)
    assert (properties["inner"]["title"], properties["inner"]["format"], properties["inner"]["unit"]) == ("Inner radius", "quantity", "px")
    assert properties["kind"]["enum"] == ["a", "b"]
    assert properties["mode"]["enum"] == ["sum", "mean"]
    assert properties["place"]["format"] == "per-position"
    assert properties["outer"]["description"] == "default: the whole frame"
    assert out.get("required", []) == []
    assert schema(Needs)["required"] == ["radius"]
    json.dumps(out)


def test_schema_of_every_built_in_is_json() -> None:
    from libstream import registry

    for plugin in registry.plugins("udfs"):
        cls = registry.load("udfs", plugin.name)
        out = json.loads(json.dumps(schema(cls)))
        assert all(p.get("title") for p in out.get("properties", {}).values()), plugin.name


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (True, True),
        (1 + 2j, {"complex": [1.0, 2.0]}),
        ((1, np.int8(2)), [1, 2]),
        (ls.Quantity(12.0, "mrad"), "12 mrad"),
        (None, None),
        ({"a": (1.5,)}, {"a": [1.5]}),
    ],
)
def test_to_json(value: Any, expected: Any) -> None:
    assert to_json(value) == expected
    json.dumps(to_json(value))


def test_arrays_in_json_are_named_by_content() -> None:
    a = np.arange(6, dtype="u2").reshape(2, 3)
    out = to_json(a)
    assert out == to_json(ls.Array(a)) == {"array": ls.Array(a).digest, "shape": [2, 3], "dtype": "<u2"}


# -- units -----------------------------------------------------------------------------------------------------------------


def test_quantities_are_converted_by_the_axes_of_the_source() -> None:
    frames = np.zeros((2, 2, 8, 8), "u2")
    source = ls.open(frames, pixel="0.5 mrad")
    for given, px in (("12 mrad", 24.0), ("0.012 rad", 24.0), (7, 7.0), ("7 px", 7.0), ("1 deg", 1000 * np.pi / 180 / 0.5)):
        result = ls.run(source, make(Ring, {"inner": given}), executor="inline")
        assert result["v"][0, 0] == pytest.approx(px, rel=1e-12), given
    stored = ls.run(source, Ring(inner="12 mrad"), executor="inline").run["udfs"]["ring"]["params"]["inner"]
    assert stored == "12 mrad", "the record keeps what the user wrote"


def test_a_unit_needs_calibrated_axes() -> None:
    frames = np.zeros((2, 2, 8, 8), "u2")
    with pytest.raises(ParameterError, match=r"12 mrad needs calibrated axes, but ky, kx of this source are in px: .*pixel='0.9 mrad'"):
        ls.run(frames, Ring(inner="12 mrad"), executor="inline")
    with pytest.raises(ParameterError, match=r"cannot convert 'nm' \(length\) to 'mrad' \(angle\)"):
        ls.run(ls.open(frames, pixel="0.5 mrad"), Ring(inner="12 nm"), executor="inline")
    with pytest.raises(ParameterError, match="is not one number of px: the axes have different steps"):
        ls.run(ls.open(frames, pixel=("0.5 mrad", "0.6 mrad")), Ring(inner="12 mrad"), executor="inline")


class Limited(ls.UDF):
    """Lengths with limits."""

    inner: ls.Quantity = ls.param(0.0, ge=0, unit="px")
    outer: ls.Quantity | None = ls.param(None, gt=0, le=20, unit="px")

    def outputs(self) -> dict[str, ls.Output]:
        return {"v": ls.nav("f8")}

    def process_frame(self, frame: Any, out: Any) -> None:
        out.v[...] = self.inner


@pytest.mark.parametrize("given", [{"inner": 0}, {"inner": "3 mrad"}, {"outer": 20}, {"outer": "9000 mrad"}, {"outer": None}])
def test_a_length_within_its_limits(given: dict[str, Any]) -> None:
    make(Limited, given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"inner": -3}, "inner: input should be greater than or equal to 0, got -3 (allowed: >= 0 px)"),
        ({"inner": "-3 mrad"}, "(allowed: >= 0 px)"),
        ({"outer": 0}, "(allowed: > 0 and <= 20 px)"),
        ({"outer": 20.5}, "(allowed: > 0 and <= 20 px)"),
    ],
)
def test_a_length_beyond_its_limits(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(text)):
        make(Limited, given)


def test_a_limit_in_px_holds_for_other_units_too() -> None:
    source = ls.open(np.zeros((2, 2, 8, 8), np.uint16), pixel="0.5 mrad")
    with pytest.raises(ParameterError, match=re.escape("outer=11 mrad is 22 px on this source (allowed: > 0 and <= 20 px)")):
        ls.run(source, Limited(outer="11 mrad"))
    assert ls.run(source, Limited(inner="2 mrad", outer="10 mrad"))["v"][0, 0] == 4
    assert (ls.Quantity(3.0) > 2, ls.Quantity(3.0) < 2, ls.Quantity(-1.0, "nm") >= 0) == (True, False, False)
    assert schema(Limited)["properties"]["inner"]["ge"] == 0
