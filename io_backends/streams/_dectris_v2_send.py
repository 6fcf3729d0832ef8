"""DECTRIS stream V2, the sending side: what replay and simulators use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from libstream.ext import Outgoing, SourceMeta, UsageError
from libstream.io_backends.streams import _dectris_meta as m
from libstream.io_backends.streams._dectris_v2 import TAG_OF

_Arr = np.ndarray[Any, Any]
_MAGIC = b"\xd9\xd9\xf7"
COMPRESSIONS = ("bslz4", "lz4", "none")
"""How pixels may be compressed."""
_CLOCK_HZ = 50_000_000


@dataclass(frozen=True)
class V2Settings:
    """How a simulated detector writes.

    compression: bslz4, lz4 or none. detail: none, basic or all. header_appendix, image_appendix: user_data of the start and of images.
    magic: begin with the tag of self-described CBOR. config: values of the start message that differ from the source's.
    """

    compression: str = "bslz4"
    detail: str = "basic"
    header_appendix: Any = ""
    image_appendix: Any = ""
    magic: bool = True
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.compression not in COMPRESSIONS:
            raise UsageError(f"stream V2 is compressed with bslz4, lz4 or none, got {self.compression!r}")
        if self.detail not in ("none", "basic", "all"):
            raise UsageError(f"detail is none, basic or all, got {self.detail!r}")


class V2Encoder:
    """Frames -> messages (an `Encoder`)."""

    def __init__(self, settings: V2Settings | None = None) -> None:
        self.settings = settings or V2Settings()
        self._run, self._period = 0, _CLOCK_HZ // 1000
        self._names: dict[str, str] = {}

    def begin(self, meta: SourceMeta, run: int) -> Iterable[Outgoing]:
        """See `Encoder`. Raises UsageError for frames that the protocol cannot carry."""
        ny, nx = m.check_source(meta)
        s = self.settings
        self._run = run
        # the one channel of a file without names is a detector's only threshold
        self._names = {c: "threshold_1" if meta.channels == ("frames",) else c for c in meta.channels}
        names = list(self._names.values())
        beam = {k: v for k, v in m.detector_config(meta).items() if k in ("beam_center_x", "beam_center_y", "count_time", "frame_time")}
        start: dict[str, Any] = {
            **self._head("start"),
            "arm_date": _tag(0, "2026-01-01T00:00:00.000+00:00"),
            **beam,
            "channels": names,
            "countrate_correction_enabled": False,
            "detector_description": "libstream simulated detector",
            "detector_serial_number": "E-00-0000",
            "detector_translation": [0.0, 0.0, m.distance_of(meta)],
            "flatfield_enabled": False,
            "goniometer": {axis: {"increment": 0.0, "start": 0.0} for axis in ("chi", "kappa", "omega", "phi", "two_theta")},
            "image_dtype": meta.dtype.name,
            "image_size_x": nx,
            "image_size_y": ny,
            "incident_energy": 200000.0,
            "incident_wavelength": 0.0,
            "number_of_images": meta.shape.n_positions,
            "pixel_mask_enabled": True,
            "pixel_size_x": m.PIXEL_M,
            "pixel_size_y": m.PIXEL_M,
            "saturation_value": int(np.iinfo(meta.dtype).max) - 1 if meta.dtype.kind == "u" else 0,
            "sensor_material": "Si",
            "sensor_thickness": 0.00045,
            "threshold_energy": {name: 20000.0 * (i + 1) for i, name in enumerate(names)},
            "user_data": s.header_appendix,
            "virtual_pixel_interpolation_enabled": False,
        } | dict(s.config)
        if s.detail == "all":
            table = np.array([0.0, 1e6], "<f4")
            start["countrate_correction_lookup_table"] = _tag(TAG_OF["float32"], table.tobytes())
            start["flatfield"] = {name: _array(np.ones((ny, nx), "<f4"), "none") for name in names}
            start["pixel_mask"] = {name: _array(m.pixel_mask_of(meta), "none") for name in names}
        self._period = int((m.positive(start["frame_time"]) or 0.001) * _CLOCK_HZ)
        return [Outgoing([self._dumps(start)])]

    def frame(self, number: int, frames: Mapping[str, _Arr]) -> Iterable[Outgoing]:
        """See `Encoder`."""
        start = number * self._period
        image = {
            **self._head("image"),
            "image_id": number,
            "real_time": [self._period, _CLOCK_HZ],
            "series_date": _tag(0, "2026-01-01T00:00:00.000+00:00"),
            "start_time": [start, _CLOCK_HZ],
            "stop_time": [start + self._period, _CLOCK_HZ],
            "user_data": self.settings.image_appendix,
            "data": {self._names.get(name, name): _array(frame, self.settings.compression) for name, frame in frames.items()},
        }
        return [Outgoing([self._dumps(image)], number=number)]

    def end(self) -> Iterable[Outgoing]:
        """See `Encoder`."""
        return [Outgoing([self._dumps(self._head("end"))])]

    def _head(self, kind: str) -> dict[str, Any]:
        return {"type": kind, "series_id": self._run, "series_unique_id": f"libstream-{self._run}"}

    def _dumps(self, value: Mapping[str, Any]) -> bytes:
        import cbor2

        return (_MAGIC if self.settings.magic else b"") + cbor2.dumps(value)


def _tag(number: int, value: Any) -> Any:
    import cbor2

    return cbor2.CBORTag(number, value)


def _array(frame: _Arr, compression: str) -> Any:
    """Rows and columns, and the values as a typed array, compressed or not."""
    from libstream.ext import wire

    item = frame.dtype.itemsize
    if compression == "none":
        values: Any = wire.encode("raw<", frame)
    elif compression == "lz4":
        values = _tag(56500, ["lz4", 0, wire.encode("lz4f", frame)])
    else:
        values = _tag(56500, ["bslz4", item, wire.encode(f"bslz4/{item}", frame)])
    return _tag(40, [list(frame.shape), _tag(TAG_OF[frame.dtype.name], values)])
