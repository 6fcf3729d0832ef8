"""Numbers with a unit: `Quantity("12 mrad")`, converted to px by the axes of a source."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from libstream.errors import ParameterError
from libstream.model.source import Axis

# factor to the base unit of its kind; "px" is a kind of its own
_UNITS: dict[str, tuple[str, float]] = {
    "px": ("px", 1.0),
    "rad": ("angle", 1.0), "mrad": ("angle", 1e-3), "urad": ("angle", 1e-6), "µrad": ("angle", 1e-6),
    "deg": ("angle", 0.017453292519943295), "°": ("angle", 0.017453292519943295),
    "m": ("length", 1.0), "mm": ("length", 1e-3), "um": ("length", 1e-6), "µm": ("length", 1e-6),
    "nm": ("length", 1e-9), "Å": ("length", 1e-10), "A": ("length", 1e-10), "pm": ("length", 1e-12),
    "1/nm": ("inverse length", 1e9), "nm^-1": ("inverse length", 1e9), "1/Å": ("inverse length", 1e10),
    "1/A": ("inverse length", 1e10), "A^-1": ("inverse length", 1e10), "Å^-1": ("inverse length", 1e10),
    "1/m": ("inverse length", 1.0),
    "s": ("time", 1.0), "ms": ("time", 1e-3), "us": ("time", 1e-6), "µs": ("time", 1e-6), "ns": ("time", 1e-9),
    "eV": ("energy", 1.0), "keV": ("energy", 1e3),
}  # fmt: skip
_TEXT = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S.*?)?\s*$")


def convert(value: float, unit: str, to: str) -> float:
    """`value` in `unit`, expressed in `to`. Raises ParameterError where the kinds differ or a unit is unknown."""
    for u in (unit, to):
        if u not in _UNITS:
            raise ParameterError(f"unknown unit {u!r}; known are {', '.join(_UNITS)}")
    kind, factor = _UNITS[unit]
    kind_to, factor_to = _UNITS[to]
    if kind != kind_to:
        raise ParameterError(f"cannot convert {unit!r} ({kind}) to {to!r} ({kind_to})")
    return value * (factor / factor_to)


@dataclass(frozen=True)
class Quantity:
    """A number with a unit. Made from a number (px), or a text such as "12 mrad"."""

    value: float
    unit: str = "px"

    @classmethod
    def parse(cls, given: Any) -> Quantity:
        """Quantity of a number, a text or a Quantity. Raises ParameterError with the accepted forms."""
        if isinstance(given, Quantity):
            return given
        if isinstance(given, str):
            match = _TEXT.match(given)
            if match is None:
                raise ParameterError(f"{given!r} is not a quantity; write a number of px (30) or a number and a unit ('12 mrad')")
            unit = match[2] or "px"
            if unit not in _UNITS:
                raise ParameterError(f"unknown unit {unit!r} in {given!r}; known are {', '.join(_UNITS)}")
            return cls(float(match[1]), unit)
        return cls(float(given))

    def in_pixels(self, axes: Sequence[Axis]) -> float:
        """Length in px along `axes` (calibrated alike). Raises ParameterError where they are uncalibrated."""
        if self.unit == "px":
            return float(self.value)
        steps = {(a.unit, abs(a.step)) for a in axes}
        if any(u == "px" for u, _ in steps):
            names = ", ".join(a.name for a in axes)
            raise ParameterError(
                f"{self} needs calibrated axes, but {names} of this source are in px: "
                "give the size of a pixel, e.g. ls.open(..., pixel='0.9 mrad'), or the value in px"
            )
        in_px = [convert(self.value, self.unit, u) / s for u, s in steps]
        if max(in_px) - min(in_px) > 1e-6 * max(map(abs, in_px), default=0.0):
            raise ParameterError(f"{self} is not one number of px: the axes have different steps {sorted(steps)}; give px")
        return float(in_px[0])

    def __lt__(self, limit: float) -> bool:
        return self._keeps(operator.lt, limit)

    def __le__(self, limit: float) -> bool:
        return self._keeps(operator.le, limit)

    def __gt__(self, limit: float) -> bool:
        return self._keeps(operator.gt, limit)

    def __ge__(self, limit: float) -> bool:
        return self._keeps(operator.ge, limit)

    def _keeps(self, compare: Callable[[float, float], bool], limit: float) -> bool:
        """Whether it keeps a limit in px. Of another unit only the sign is known before a source gives its axes."""
        if self.unit == "px" or limit == 0 or self.value * limit <= 0:
            return compare(self.value, limit)
        return True

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def to_quantity(value: Any) -> Quantity:
            try:
                return cls.parse(value)
            except (TypeError, ValueError) as exc:
                raise ValueError(str(exc)) from exc

        return core_schema.no_info_plain_validator_function(
            to_quantity,
            metadata={"pydantic_js_functions": [lambda _s, _h: {"type": ["number", "string"], "format": "quantity"}]},
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )
