"""`sim://`: a simulated 4D-STEM data set that needs no file; for demos, docs, tests and benchmarks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from libstream.ext import Axis, DataShape, FrameReader, FrameSource, Region, SourceId, SourceMeta, Span, UsageError
from libstream.io_backends.files._sim_model import SimModel

_Arr = np.ndarray[Any, Any]
_DTYPES = ("uint8", "uint16", "uint32", "int16", "int32", "float32", "float64")
_STEP_NM = 0.5
_CONVERGENCE_MRAD = 10.0


@dataclass(frozen=True)
class SimOptions:
    """The address says everything."""


@dataclass(frozen=True)
class SimOpener:
    """The model of each channel, by name."""

    models: tuple[tuple[str, SimModel], ...]

    def open_reader(self, channel: str) -> SimReader:
        """Open a reader of `channel`. Raises UsageError naming the channels there are."""
        for name, model in self.models:
            if name == channel:
                return SimReader(model)
        raise UsageError(f"no channel {channel!r}; there are {', '.join(repr(n) for n, _ in self.models)}")


class SimReader(FrameReader):
    """Computes frames when they are read."""

    def __init__(self, model: SimModel) -> None:
        self._model = model

    def read_into(self, out: _Arr, frames: Span, region: Region) -> None:
        """Compute frames into `out` (see `FrameReader`)."""
        model = self._model
        if frames.stop > model.n_frames:
            raise UsageError(f"frames {frames.start} to {frames.stop} were asked for, the simulation has {model.n_frames}")
        if region.rows.start < 0 or region.rows.stop > model.sig[0] or out.shape != (len(frames), *region.shape):
            raise UsageError(f"region {region} is no band of whole rows of frames of shape {model.sig}, or out does not fit: {out.shape}")
        if out.size:
            model.fill(out, frames.start, region.rows.start)

    def view(self) -> None:
        """Frames exist only once they are read."""
        return None

    def check(self) -> None:
        """A simulation does not change."""

    def close(self) -> None:
        """Nothing to release."""


class SimFormat:
    """Simulated 4D-STEM: `sim://?scan=64,64&frame=256,256&dtype=uint16&seed=1&channels=1&electrons=20000`."""

    name: ClassVar[str] = "sim"
    suffixes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[type] = SimOptions

    def probe(self, head: bytes, path: str) -> float:
        """Certain of addresses that start with sim:."""
        return 1.0 if path.startswith("sim:") else 0.0

    def open(self, uri: str, options: SimOptions) -> FrameSource:
        """Open a simulation. Raises UsageError naming the keys that are known, and the values they take."""
        given = _parse(uri)
        names = ("frames",) if given.channels == 1 else tuple(f"threshold_{i + 1}" for i in range(given.channels))
        models = tuple((name, _model(given, i)) for i, name in enumerate(names))
        first = models[0][1]
        text = f"sim v1 {given}"
        frame_bytes = math.prod(first.sig) * first.dtype.itemsize
        identity = SourceId(uri, self.name, first.n_frames * frame_bytes * len(models), hashlib.sha256(text.encode()).hexdigest())
        pixel = _CONVERGENCE_MRAD / first.disk_radius
        nav_names = ((), ("x",), ("y", "x"), ("t", "y", "x"))[len(first.nav)]
        axes = [
            Axis(n, size, 1.0, 0.0, "px") if n == "t" else Axis(n, size, _STEP_NM, 0.0, "nm")
            for n, size in zip(nav_names, first.nav, strict=True)
        ]
        axes += [Axis(n, size, pixel, -(size - 1) / 2 * pixel, "mrad") for n, size in zip(("ky", "kx"), first.sig, strict=True)]
        meta = SourceMeta(
            id=identity,
            shape=DataShape(first.nav, first.sig),
            dtype=first.dtype,
            axes=tuple(axes),
            channels=names,
            rotation_deg=0.0,
            vendor={
                "convergence_mrad": _CONVERGENCE_MRAD,
                "disk_radius_px": first.disk_radius,
                "bragg_radius_px": first.bragg_radius,
                "electrons_per_frame": first.electrons,
                "seed": given.seed,
            },
            notes=("simulated data",),
        )
        return FrameSource(meta, SimOpener(models))


def sim_frames(
    scan: tuple[int, ...] = (64, 64),
    frame: tuple[int, int] = (256, 256),
    dtype: Any = "uint16",
    *,
    seed: int = 1,
    electrons: float = 20_000.0,
    frames: Span | None = None,
    channel: int = 0,
) -> _Arr:
    """Simulated frames as an array (*scan, *frame), or (n, *frame) for a span of flat scan positions. The pixels are those of `sim://`.

    electrons: mean number per frame. channel: later channels (thresholds) count 0.6 times the electrons of the one before.
    """
    given = _Given(tuple(scan), tuple(frame), np.dtype(dtype).name, seed, channel + 1, electrons)
    model = _model(_validated(given, "sim_frames"), channel)
    span = Span(0, model.n_frames) if frames is None else frames
    out = np.empty((len(span), *model.sig), model.dtype)
    SimReader(model).read_into(out, span, Region.whole(model.sig))
    return out.reshape(*model.nav, *model.sig) if frames is None else out


@dataclass(frozen=True)
class _Given:
    scan: tuple[int, ...] = (64, 64)
    frame: tuple[int, ...] = (256, 256)
    dtype: str = "uint16"
    seed: int = 1
    channels: int = 1
    electrons: float = 20_000.0


def _model(given: _Given, channel: int) -> SimModel:
    height, width = given.frame
    seed = given.seed + 7919 * channel
    return SimModel(given.scan, (height, width), np.dtype(given.dtype), seed, given.electrons * 0.6**channel)


def _parse(uri: str) -> _Given:
    parts = urlsplit(uri)
    if parts.scheme != "sim" or parts.netloc or parts.path.strip("/"):
        raise UsageError(f"{uri!r} is no simulation; write for example sim://?scan=64,64&frame=256,256&dtype=uint16&seed=1")
    readers: dict[str, Callable[[str], Any]] = {
        "scan": _sizes, "frame": _sizes, "dtype": str, "seed": int, "channels": int, "electrons": float,
    }  # fmt: skip
    values: dict[str, Any] = {}
    for key, text in parse_qsl(parts.query, keep_blank_values=True):
        if key not in readers:
            raise UsageError(f"{uri}: unknown key {key!r}; known are {', '.join(readers)}")
        if key in values:
            raise UsageError(f"{uri}: {key} is given twice")
        try:
            values[key] = readers[key](text)
        except ValueError as exc:
            kind = {_sizes: "whole numbers such as 64,64", int: "a whole number", float: "a number"}.get(readers[key], "a text")
            raise UsageError(f"{uri}: {key}={text!r} cannot be read, expected {kind}") from exc
    return _validated(_Given(**values), uri)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip()) if text.strip("() ") else ()


def _validated(given: _Given, where: str) -> _Given:
    if len(given.scan) > 3 or any(n < 1 for n in given.scan):
        raise UsageError(f"{where}: scan={given.scan} must have 0 to 3 sizes of 1 or more, slow axis first")
    if len(given.frame) != 2 or not all(8 <= n <= 16384 for n in given.frame):
        raise UsageError(f"{where}: frame={given.frame} must be two sizes (y, x) of 8 to 16384")
    try:
        name = np.dtype(given.dtype).name
    except TypeError:
        name = ""
    if name not in _DTYPES:
        raise UsageError(f"{where}: dtype={given.dtype!r} must be one of {', '.join(_DTYPES)}")
    if not 1 <= given.channels <= 16:
        raise UsageError(f"{where}: channels={given.channels} must be 1 to 16")
    if not 0 < given.electrons <= 1e9:  # also refuses NaN
        raise UsageError(f"{where}: electrons={given.electrons} must be more than 0 and at most 1e9")
    return _Given(given.scan, given.frame, name, given.seed, given.channels, given.electrons)
