"""From the JSON schema of parameters to fields of a form, and to handles on the frame. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PLACES = {"centre"}
RADII = ("outer", "radius")
LIMITS = {
    "minimum": "min", "ge": "min", "maximum": "max", "le": "max", "exclusiveMinimum": "above", "gt": "above", "exclusiveMaximum": "below",
    "lt": "below",
}  # fmt: skip


def fields_of(schema: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Fields of a form, in the order of the parameters (docs/reference/gui-protocol.md, "Forms and handles")."""
    if not schema:
        return []
    definitions = schema.get("$defs", {})
    required = set(schema.get("required", ()))
    return [_field(name, prop, name in required, definitions) for name, prop in schema.get("properties", {}).items()]


def _field(name: str, prop: Mapping[str, Any], required: bool, definitions: Mapping[str, Any]) -> dict[str, Any]:
    options = [_resolved(o, definitions) for o in (*prop.get("anyOf", ()), *prop.get("oneOf", ()))]
    optional = any(o.get("type") == "null" for o in options)
    real = [o for o in options if o.get("type") != "null"]
    shape = {**_resolved(prop, definitions), **(real[0] if len(real) == 1 else {})} if real or not options else dict(prop)
    out: dict[str, Any] = {
        "name": name, "title": prop.get("title") or name.replace("_", " ").capitalize(), "help": prop.get("description", ""),
        "unit": prop.get("unit", ""), "optional": optional, "required": required, "default": prop.get("default"),
    }  # fmt: skip
    out |= _kind(name, shape, real)
    # pydantic writes a limit of a type that it does not know (a quantity) under its own name
    return out | {key: shape[n] for n, key in LIMITS.items() if shape.get(n) is not None}


def _resolved(prop: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    name = str(prop.get("$ref", "")).rsplit("/", 1)[-1]
    return {**definitions.get(name, {}), **prop} if name else dict(prop)


def _kind(name: str, shape: Mapping[str, Any], real: list[dict[str, Any]]) -> dict[str, Any]:
    if "enum" in shape or "const" in shape:
        values = shape.get("enum", [shape.get("const")])
        return {"kind": "choice", "choices": [{"value": v, "title": str(v)} for v in values]}
    kind, form = shape.get("type"), shape.get("format")
    if form == "quantity":
        return {"kind": "quantity"}
    if form in ("ndarray", "per-position"):
        return {"kind": "array"}
    if form in ("path", "file-path"):
        return {"kind": "file"}
    if len(real) > 1:
        kinds = {r.get("type") for r in real}
        return {"kind": "number"} if kinds <= {"number", "integer"} else {"kind": "json"}
    if kind == "boolean":
        return {"kind": "bool"}
    if kind in ("number", "integer"):
        return {"kind": kind}
    if kind == "string":
        return {"kind": "text"}
    if kind == "array":
        return _list(name, shape)
    return {"kind": "json"}


def _list(name: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    items, each = shape.get("prefixItems"), shape.get("items")
    kinds = [i.get("type") for i in items or ([each] if isinstance(each, Mapping) else [])]
    if not kinds or not all(k in ("number", "integer") for k in kinds):
        return {"kind": "json"}
    length = len(items) if items else shape.get("minItems") if shape.get("minItems") == shape.get("maxItems") else None
    if length == 2:
        return {"kind": "point" if name in PLACES else "pair"}
    return {"kind": "numbers", **({"length": length} if length else {})}


def handles_of(fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shapes on the frame that parameters describe, by their names and kinds; in any UDF, own ones too."""
    by_name = {f["name"]: f for f in fields}

    def length(name: str) -> bool:
        return name in by_name and by_name[name]["kind"] in ("quantity", "number", "integer")

    if by_name.get("centre", {}).get("kind") != "point":
        return []
    outer = next((n for n in RADII if length(n)), None)
    inner = "inner" if length("inner") else None
    box = length("width") and length("height")
    angles = by_name.get("angles", {}).get("kind") == "pair"
    rings: dict[str, Any] = {"kind": "annulus" if inner else "disk", "centre": "centre"}
    if outer:
        rings["outer"] = outer
    if inner:
        rings["inner"] = inner
    shapes: dict[str, dict[str, Any]] = {"point": {"kind": "point", "centre": "centre"}}
    if outer:
        shapes |= {"annulus": rings, "disk": {"kind": "disk", "centre": "centre", "outer": outer}}
    if box:
        shapes["rectangle"] = {"kind": "rectangle", "centre": "centre", "height": "height", "width": "width"}
    if angles and outer and inner:
        shapes["sector"] = {**rings, "kind": "sector", "angles": "angles"}
    chooser = by_name.get("shape", {})
    if chooser.get("kind") == "choice":
        values = [c["value"] for c in chooser["choices"]]
        return [{**shapes[v], "when": {"shape": v}} for v in values if isinstance(v, str) and v in shapes]
    if outer:
        return [{**rings, "when": {}}]
    return [{**shapes["rectangle"], "when": {}}] if box else [{**shapes["point"], "when": {}}]


def first_sentence(doc: str) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join(doc.strip().split("\n\n")[0].split())


def strict(value: Any) -> Any:
    """`value` if it is strict JSON. Raises ValueError (NaN) or TypeError."""
    json.dumps(value, allow_nan=False)
    return value
