"""libstream's own stream: frames -> messages, for replay and simulators. The protocol is written down in `own`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from libstream.ext import CodecError, Outgoing, SourceMeta, UsageError, wire
from libstream.io_backends.streams._own_decode import DTYPES, VERSION

_Arr = np.ndarray[Any, Any]

META_BYTES = 32768
"""Metadata of the source that are longer stay behind."""
_DEEP = 6


class OwnEncoder:
    """Encoder of `libstream://`. codec: see `libstream.codecs.wire`; "bslz4" for elements as wide as a pixel."""

    def __init__(self, codec: str = "bslz4") -> None:
        self.codec = codec
        self._begun = False

    def begin(self, meta: SourceMeta, run: int) -> Iterable[Outgoing]:
        """The start. Raises UsageError for sources whose frames have no two axes, or a dtype or codec that the stream has not."""
        import cbor2

        shape, dtype = meta.shape, meta.dtype.name
        if len(shape.sig) != 2 or dtype not in DTYPES:
            raise UsageError(
                f"{meta.id.uri}: frames of {shape.sig} {dtype} cannot be sent; expected two axes and one of {', '.join(DTYPES)}"
            )
        self._run, self._sent = run, 0
        self._shape, self._dtype = (shape.sig[0], shape.sig[1]), meta.dtype
        self._channels = {name: i for i, name in enumerate(meta.channels)}
        self._codecs: dict[str, str] = {}
        try:
            wire.check(self._codec_of(meta.dtype), self._shape, meta.dtype)
        except CodecError as err:
            raise UsageError(str(err)) from None
        said: dict[str, Any] = {"v": VERSION, "type": "start", "run": run, "n_frames": meta.n_frames}
        if shape.nav:
            said["scan"] = list(shape.nav)
        said |= {"frame": list(shape.sig), "dtype": dtype}
        if meta.channels != ("frames",):
            said["channels"] = list(meta.channels)
        axes = {a.name: [float(a.step), a.unit] for a in meta.axes if a.calibrated and a.step and math.isfinite(a.step)}
        if axes:
            said["axes"] = axes
        vendor = _plain(dict(meta.vendor), 0)
        if vendor and len(cbor2.dumps(vendor)) <= META_BYTES:
            said["meta"] = vendor
        self._begun = True
        yield Outgoing((cbor2.dumps(said),))

    def frame(self, number: int, frames: Mapping[str, _Arr]) -> Iterable[Outgoing]:
        """A message for each channel."""
        import cbor2

        for name, frame in frames.items():
            codec = self._codec_of(frame.dtype)
            said: dict[str, Any] = {"type": "frame", "run": self._run, "number": number, "codec": codec}
            if channel := self._channels.get(name, 0):
                said["channel"] = channel
            if frame.shape != self._shape:
                said["shape"] = list(frame.shape)
            if frame.dtype != self._dtype:
                said["dtype"] = frame.dtype.name
            self._sent += 1
            yield Outgoing((cbor2.dumps(said), wire.encode(codec, frame)), number=number)

    def end(self) -> Iterator[Outgoing]:
        """The end; `n_parts` says how much was sent."""
        import cbor2

        if self._begun:
            yield Outgoing((cbor2.dumps({"type": "end", "run": self._run, "n_parts": self._sent}),))

    def _codec_of(self, dtype: np.dtype[Any]) -> str:
        return f"bslz4/{dtype.itemsize}" if self.codec == "bslz4" else "raw<" if self.codec == "raw" else self.codec


def _plain(value: Any, depth: int) -> Any:
    """What of a value can be said in a header: numbers, texts, lists and maps; None for the rest."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, Mapping) and depth < _DEEP:
        return {str(k): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and depth < _DEEP:
        return [_plain(v, depth + 1) for v in value]
    return None
