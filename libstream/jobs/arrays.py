"""Arrays, shapes and values as JSON, as docs/reference/gui-protocol.md writes them."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from libstream.contracts.params import to_json
from libstream.errors import UsageError

_Arr = np.ndarray[Any, Any]

DTYPES = ("|b1", "|u1", "<u2", "<u4", "<i4", "<f4", "<f8", "<c16")
MAX_BYTES = 64 << 20
"""Largest array that is taken from JSON."""


def array_of(given: Any, what: str) -> _Arr:
    """The array of {"shape", "dtype", "data": base64}. Raises UsageError naming `what` it is for."""
    if not isinstance(given, Mapping) or set(given) != {"shape", "dtype", "data"}:
        raise UsageError(f'{what}: an array is {{"shape": [...], "dtype": "<f4", "data": "<base64>"}}')
    if given["dtype"] not in DTYPES:
        raise UsageError(f"{what}: dtype {given['dtype']!r} is none of {', '.join(DTYPES)}")
    dtype = np.dtype(given["dtype"])
    shape = given["shape"]
    if not isinstance(shape, list) or len(shape) > 8 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape):
        raise UsageError(f"{what}: {shape!r} is not a shape")
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise UsageError(f"{what}: an array of shape {shape} is larger than {MAX_BYTES} bytes")
    try:
        data = base64.b64decode(given["data"], validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise UsageError(f"{what}: data is not base64") from None
    if len(data) != math.prod(shape) * dtype.itemsize:
        needed = math.prod(shape) * dtype.itemsize
        raise UsageError(f"{what}: shape {shape} and dtype {given['dtype']} take {needed} bytes, got {len(data)}")
    if dtype.kind == "b":
        return np.frombuffer(data, np.uint8).reshape(shape) != 0
    return np.frombuffer(data, dtype).reshape(shape).copy()


def json_array(array: _Arr) -> dict[str, Any]:
    """An array as JSON, the inverse of `array_of`."""
    kind = array.dtype.newbyteorder("<").str
    if kind not in DTYPES:
        kind = "<c16" if array.dtype.kind == "c" else "<f8"
    data = np.ascontiguousarray(array, dtype=np.dtype(kind)).tobytes()
    return {"shape": list(array.shape), "dtype": kind, "data": base64.b64encode(data).decode()}


def plain(value: Any) -> Any:
    """`value` as strict JSON: numbers that are not finite become null, arrays are named by their digests."""
    value = to_json(value)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def mask_of(shape: Mapping[str, Any], size: tuple[int, ...], what: str) -> _Arr:
    """Bool array of shape `size` (its last two axes are y, x) of a drawn shape. Raises UsageError.

    rectangle: y0 <= y < y1 and x0 <= x < x1. ellipse: ((y - cy) / ry)^2 + ((x - cx) / rx)^2 < 1. polygon: pixels whose centres
    are inside (even-odd rule). mask: an array.
    """
    if not isinstance(shape, Mapping) or shape.get("kind") not in _SHAPES:
        raise UsageError(f"{what}: a shape has a kind, one of {', '.join(_SHAPES)}, got {shape!r:.100}")
    kind = shape["kind"]
    needed, make = _SHAPES[kind]
    given = set(shape) - {"kind", "n"}
    if given != set(needed):
        raise UsageError(f"{what}: {kind} takes {', '.join(needed)}, got {', '.join(sorted(given)) or 'nothing'}")
    if kind == "mask":
        mask = array_of(shape["array"], what)
        if mask.shape != tuple(size):
            raise UsageError(f"{what}: the mask has shape {mask.shape}, expected {tuple(size)}")
        return mask.astype(bool)
    if len(size) < 2:
        line = tuple(size) or (1,)
        return np.broadcast_to(make(shape, (1, line[-1])), (1, line[-1])).reshape(size)
    plane = make(shape, (int(size[-2]), int(size[-1])))
    return np.ascontiguousarray(np.broadcast_to(plane, size))


def numbers(value: Any, n: int | None, what: str) -> list[float]:
    """A list of (n) finite numbers. Raises UsageError."""
    if not isinstance(value, (list, tuple)) or (n is not None and len(value) != n):
        raise UsageError(f"{what}: expected {n if n is not None else 'several'} numbers, got {value!r:.100}")
    for v in value:
        if isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v):
            raise UsageError(f"{what}: {v!r} is not a finite number")
    return [float(v) for v in value]


def _rectangle(shape: Mapping[str, Any], size: tuple[int, int]) -> _Arr:
    y0, x0, y1, x1 = numbers([shape[k] for k in ("y0", "x0", "y1", "x1")], 4, "rectangle")
    y, x = np.ogrid[: size[0], : size[1]]
    return (y >= y0) & (y < y1) & (x >= x0) & (x < x1)


def _ellipse(shape: Mapping[str, Any], size: tuple[int, int]) -> _Arr:
    (cy, cx), (ry, rx) = numbers(shape["centre"], 2, "ellipse: centre"), numbers(shape["radii"], 2, "ellipse: radii")
    if ry <= 0 or rx <= 0:
        raise UsageError(f"ellipse: radii are positive, got {ry:g} and {rx:g}")
    y, x = np.ogrid[: size[0], : size[1]]
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1


def _polygon(shape: Mapping[str, Any], size: tuple[int, int]) -> _Arr:
    points = shape["points"]
    if not isinstance(points, Sequence) or not 3 <= len(points) <= 10_000:
        raise UsageError("polygon: 3 to 10000 points are needed")
    corners = [numbers(p, 2, "polygon: point") for p in points]
    y, x = np.ogrid[: size[0], : size[1]]
    inside = np.zeros(size, bool)
    for (ya, xa), (yb, xb) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if ya != yb:  # an edge along x is crossed by no line along x
            with np.errstate(over="ignore", invalid="ignore"):  # nearly along x: matters only for rows between its ends
                inside ^= ((ya > y) != (yb > y)) & (x < (xb - xa) * (y - ya) / (yb - ya) + xa)
    return inside


_SHAPES: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any], tuple[int, int]], _Arr]]] = {
    "rectangle": (("y0", "x0", "y1", "x1"), _rectangle),
    "ellipse": (("centre", "radii"), _ellipse),
    "polygon": (("points",), _polygon),
    "mask": (("array",), _rectangle),
}
