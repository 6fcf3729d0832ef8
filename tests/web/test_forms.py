"""Forms and handles from the parameters of UDFs."""

from __future__ import annotations

from typing import Literal

import pytest

import libstream as ls
from libstream.contracts.params import schema
from libstream.jobs.catalog import Catalog
from libstream.web_gui.forms import fields_of, first_sentence, handles_of


class Everything(ls.UDF):
    """One of each kind.

    And more about it.
    """

    number: float = ls.param(1.5, ge=0, lt=10, unit="s", title="A number", help="of seconds")
    count: int = ls.param(3, gt=1, le=9)
    switch: bool = True
    name: str = "x"
    choice: Literal["a", "b"] = "a"
    listed: int = ls.param(1, choices=(1, 2, 4))
    radius: ls.Quantity = ls.param(5.0, unit="px")
    maybe: ls.Quantity | None = None
    centre: tuple[float, float] | None = None
    pair: tuple[int, int] = (1, 2)
    several: tuple[float, ...] = (1.0,)
    three: tuple[float, float, float] = (1.0, 2.0, 3.0)
    weights: ls.Array | None = None
    needed: float
    odd: dict[str, float] | None = None
    either: int | str = 1

    def outputs(self):
        return {"x": ls.nav("float32")}

    def process_frame(self, frame, out):
        out.x[...] = 0


FIELDS = {f["name"]: f for f in fields_of(schema(Everything))}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("number", "number"), ("count", "integer"), ("switch", "bool"), ("name", "text"), ("choice", "choice"), ("listed", "choice"),
        ("radius", "quantity"), ("maybe", "quantity"), ("centre", "point"), ("pair", "pair"), ("several", "numbers"), ("three", "numbers"),
        ("weights", "array"), ("needed", "number"), ("odd", "json"), ("either", "json"),
    ],
)  # fmt: skip
def test_each_type_has_its_field(name: str, kind: str) -> None:
    assert FIELDS[name]["kind"] == kind


def test_limits_units_and_texts() -> None:
    assert FIELDS["number"] | {"default": 0} == {
        "name": "number", "title": "A number", "help": "of seconds", "unit": "s", "optional": False, "required": False, "default": 0,
        "kind": "number", "min": 0, "below": 10,
    }  # fmt: skip
    assert (FIELDS["count"]["above"], FIELDS["count"]["max"]) == (1, 9)
    assert FIELDS["needed"]["required"]
    assert [n for n, f in FIELDS.items() if f["optional"]] == ["maybe", "centre", "weights", "odd"]
    assert FIELDS["three"]["length"] == 3
    assert [c["value"] for c in FIELDS["listed"]["choices"]] == [1, 2, 4]


def test_handles_follow_from_names() -> None:
    assert handles_of(list(FIELDS.values())) == [{"kind": "disk", "centre": "centre", "outer": "radius", "when": {}}]
    catalog = Catalog()
    kinds = {e.name: [h["kind"] for h in handles_of(fields_of(e.schema()))] for e in catalog.entries()}
    assert kinds["VirtualDetector"] == ["annulus", "disk", "point", "rectangle", "sector"]
    assert kinds["CenterOfMass"] == ["annulus"]
    assert kinds["RadialProfile"] == ["disk"]
    assert kinds["Sum"] == []


def test_every_installed_udf_has_a_form() -> None:
    for entry in Catalog().entries():
        assert not entry.error
        for field in fields_of(entry.schema()):
            assert field["kind"] != "json", (entry.name, field)
            assert field["title"]


def test_no_parameters_no_fields() -> None:
    assert fields_of(None) == fields_of({}) == handles_of([]) == []
    assert first_sentence(Everything.__doc__) == "One of each kind."
