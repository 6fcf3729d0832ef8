"""How an output of a UDF is shown: as an image, vectors, a line, planes of a stack."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.contracts.udf import UDF
from libstream.jobs.arrays import plain
from libstream.model.display import display_of
from libstream.model.output import Output
from libstream.model.shape import DataShape
from libstream.model.source import Axis


@dataclass(frozen=True)
class OutputInfo:
    """What is known of an output before it has values; `display` is one of docs/reference/gui-protocol.md.

    planes: number of planes of an array with more axes than can be shown (else 0), counted over `plane_axes`, which are the last
    axes of the array where `plane_last`, else the first ones.
    """

    name: str
    kind: str
    display: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[Axis, ...]
    unit: str = ""
    title: str = ""
    meaning: str = "total"
    fill: Any = None
    planes: int = 0
    plane_axes: tuple[Axis, ...] = ()
    plane_last: bool = False
    fields: tuple[str, ...] = ()

    def json(self, topic: str) -> dict[str, Any]:
        """As a part of the state. topic: where its values are found."""
        out = {
            "name": self.name, "topic": topic, "kind": self.kind, "display": self.display, "shape": list(self.shape),
            "dtype": str(self.dtype),
            "axes": [axis_json(a) for a in self.axes], "unit": self.unit, "title": self.title or self.name, "meaning": self.meaning,
            "fill": plain(self.fill) if isinstance(self.fill, (int, float, bool)) else None, "planes": self.planes,
        }  # fmt: skip
        if self.planes:
            out |= {"plane_axes": [axis_json(a) for a in self.plane_axes], "plane_last": self.plane_last}
        if self.fields:
            out["fields"] = list(self.fields)
        return out

    def plane(self, array: np.ndarray[Any, Any], index: int) -> np.ndarray[Any, Any]:
        """One plane of the array, by its flat index."""
        n = len(self.plane_axes)
        sizes = array.shape[array.ndim - n :] if self.plane_last else array.shape[:n]
        at = tuple(int(i) for i in np.unravel_index(index, sizes))
        if self.plane_last:
            at = (slice(None),) * (array.ndim - n) + at  # type: ignore[assignment]
        return np.asarray(array[at])


def axis_json(axis: Axis) -> dict[str, Any]:
    """An axis as a part of the state."""
    return {"name": axis.name, "size": int(axis.size), "step": float(axis.step), "offset": float(axis.offset), "unit": axis.unit}


def outputs_of(udf: UDF) -> list[OutputInfo]:
    """Outputs of a UDF that is bound to a source, private ones left out."""
    meta = udf.meta
    return [describe(name, o, meta.shape, meta.axes) for name, o in udf.outputs().items() if not o.private]


def describe(name: str, output: Output, data: DataShape, axes: tuple[Axis, ...]) -> OutputInfo:
    """How `output` of a run over `data` is shown."""
    nav_axes, sig_axes = axes[: len(data.nav)], axes[len(data.nav) :]
    common = {"unit": output.unit, "title": output.title, "meaning": output.meaning, "fill": _number(output.fill_value)}
    if output.kind == "ragged":
        fields = tuple(output.dtype.names or ()) or tuple(str(i) for i in range(math.prod(output.extra)))
        return OutputInfo(name, "ragged", "ragged", (), output.dtype, nav_axes, fields=fields, **common)
    shape = output.shape(data)
    own = nav_axes if output.kind == "nav" else sig_axes if output.kind == "sig" else ()
    extra = tuple(Axis(output.axes[i] if i < len(output.axes) else f"axis_{i}", n) for i, n in enumerate(output.extra))
    display, planes, shown, over, last = display_of(output.dtype, shape, own, extra)
    return OutputInfo(
        name, output.kind, display, shape, output.dtype, shown, planes=planes, plane_axes=over, plane_last=last,
        fields=tuple(output.dtype.names or ()), **common,
    )  # fmt: skip


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) and value.dtype.kind in "biuf" else value
