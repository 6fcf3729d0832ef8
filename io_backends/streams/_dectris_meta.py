"""What both versions of DECTRIS' stream say of a run, in libstream's words: metadata, calibration, masks, the shape of the scan.

Everything here is auxiliary: what is missing or makes no sense is left out, with a sentence where a user may want to know it, and
never costs a frame.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from libstream.ext import SourceMeta, UsageError

_Arr = np.ndarray[Any, Any]

DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
"""Pixels that are understood; the detectors themselves send the first three."""
MAX_SIDE, MAX_PIXELS = 1 << 16, 1 << 28
"""Largest frame that is believed [px]."""
ENDLESS = 1 << 30
"""An announced number of frames from which on the run is taken for endless."""
MAX_INT = (1 << 63) - 1
_TEXT, _KEYS, _ITEMS, _DEPTH = 4096, 256, 64, 4
_MOST_MRAD = 100.0
PIXEL_M = 75e-6
"""Pixels of a simulated detector [m]."""


def whole(value: Any) -> int | None:
    """A whole number from 0 to 2^63 - 1, None for anything else."""
    return value if type(value) is int and 0 <= value <= MAX_INT else None


def positive(value: Any) -> float | None:
    """A finite number greater than 0, None for anything else."""
    if type(value) not in (int, float) or (type(value) is int and not -MAX_INT <= value <= MAX_INT):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None


def frame_shape(y: Any, x: Any) -> tuple[int, int] | None:
    """(y, x) where both are whole and of a size that a detector may have."""
    if type(y) is int and type(x) is int and 0 < y <= MAX_SIDE and 0 < x <= MAX_SIDE and y * x <= MAX_PIXELS:
        return y, x
    return None


def plain(value: Any, depth: int = 0) -> Any:
    """A bounded copy of vendor metadata: numbers, texts, lists and dictionaries; what is longer is cut, what is deeper left out."""
    if value is None or type(value) is bool:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else str(value)
    if type(value) is int:
        return value if -MAX_INT <= value <= MAX_INT else str(value)[:40]
    if isinstance(value, str):
        return text(value)
    if depth < _DEPTH and isinstance(value, Mapping):
        return {text(str(k)): plain(v, depth + 1) for k, v in list(value.items())[:_KEYS]}
    if depth < _DEPTH and isinstance(value, (list, tuple)):
        return [plain(v, depth + 1) for v in value[:_ITEMS]]
    return None


def text(value: str) -> str:
    """Bounded, and without halves of surrogate pairs, which nobody can write."""
    return value[:_TEXT].encode("utf-8", "replace").decode()


def announced(value: int | None) -> tuple[int | None, tuple[str, ...]]:
    """Number of frames, None for runs without an end that is worth waiting for."""
    if value is None or 0 < value < ENDLESS:
        return value, ()
    return None, (f"{value} frames are announced: taken for a run that ends when somebody stops it",)


def axes_of(pixel_y: Any, pixel_x: Any, distance: Any) -> tuple[dict[str, tuple[float, str]], tuple[str, ...]]:
    """Axes in mrad from pixel sizes and distance [m], and what was assumed. Nothing where one is 0 or missing."""
    y, x, far = positive(pixel_y), positive(pixel_x), positive(distance)
    if y is None or x is None or far is None or max(y, x) / far * 1e3 > _MOST_MRAD:
        return {}, ()
    note = (
        f"angles assume that the detector's distance of {far:g} m is the camera length: {x / far * 1e3:.4g} mrad a pixel. "
        "A microscope's lenses are not known to the detector; give pixel=... to say it better"
    )
    return {"ky": (y / far * 1e3, "mrad"), "kx": (x / far * 1e3, "mrad")}, (note,)


def scan_of(appendix: Any, n_frames: int | None) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """Shape of the scan where the user's appendix is an object (or its JSON) with `"scan": [y, x]`, and it fits the number of frames."""
    if isinstance(appendix, str) and appendix.lstrip()[:1] == "{" and len(appendix) <= _TEXT:
        try:
            appendix = json.loads(appendix)
        except (ValueError, RecursionError):
            return None, ()
    scan = appendix.get("scan") if isinstance(appendix, Mapping) else None
    if not isinstance(scan, (list, tuple)) or not 1 <= len(scan) <= 4 or not all(whole(n) for n in scan):
        return None, ()
    shape = tuple(int(n) for n in scan)
    if n_frames is not None and math.prod(shape) != n_frames:
        return None, (f"the appendix of the header says scan {list(shape)}, which is not {n_frames} frames: left out",)
    return shape, ()


def mask_meta(name: str, mask: _Arr | None, shape: tuple[int, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Summary of a pixel mask or flat field (None: could not be read), and a note of masked pixels. shape: as announced."""
    if mask is None:
        return {"shape": list(shape)}, (f"the {name} in the header is damaged: left out",)
    summary: dict[str, Any] = {"shape": list(mask.shape), "sha256": hashlib.sha256(np.ascontiguousarray(mask).tobytes()).hexdigest()}
    if mask.dtype.kind not in "iu":
        return summary, ()
    n = summary["masked"] = int(np.count_nonzero(mask))
    if not n:
        return summary, ()
    values = "they hold the largest value of their type, unless the detector sets them to 0"
    return summary, (f"{name}: {n} of {mask.size} pixels are masked; {values}",)


def as_array(blob: Any, dtype: str, shape: tuple[int, ...]) -> _Arr | None:
    """The bytes of an array, or None where their number is another."""
    kind = np.dtype(dtype)
    if not shape or any(n < 1 for n in shape) or math.prod(shape) * kind.itemsize != len(blob):
        return None
    return np.frombuffer(blob, kind).reshape(shape)


# -- the other way ---------------------------------------------------------------------------------------------------------


def pixel_mask_of(meta: SourceMeta) -> _Arr:
    """The pixel mask that a source knows of, uint32 (y, x), else zeros."""
    mask, shape = meta.vendor.get("pixel_mask"), meta.shape.sig
    if isinstance(mask, np.ndarray) and mask.shape == shape and mask.dtype.kind in "iu":
        return mask.astype("<u4")
    return np.zeros(shape, "<u4")


def distance_of(meta: SourceMeta) -> float:
    """Distance [m] at which pixels of 75 um have the source's angle, 0.0 where it has none."""
    axis = meta.sig_axes[-1]
    return PIXEL_M / (axis.step * 1e-3) if axis.unit == "mrad" and axis.step > 0 else 0.0


def check_source(meta: SourceMeta) -> tuple[int, int]:
    """Shape (y, x) of frames that can be sent. Raises UsageError."""
    if len(meta.shape.sig) != 2 or meta.dtype.name not in DTYPES:
        raise UsageError(
            f"{meta.id.uri}: a DECTRIS stream carries frames of two axes and {', '.join(DTYPES)}; got {meta.shape.sig} {meta.dtype}"
        )
    return meta.shape.sig[0], meta.shape.sig[1]


def detector_config(meta: SourceMeta) -> dict[str, Any]:
    """A detector's configuration, as one that recorded this source would have it: one external trigger for each frame."""
    ny, nx = check_source(meta)
    config: dict[str, Any] = {"auto_summation": True, "beam_center_x": (nx - 1) / 2, "beam_center_y": (ny - 1) / 2}
    if meta.dtype.kind == "u":
        config["bit_depth_image"] = config["bit_depth_readout"] = 8 * meta.dtype.itemsize
    return config | {
        "compression": "bslz4",
        "count_time": 0.0009999,
        "countrate_correction_applied": False,
        "data_collection_date": "2026-01-01T00:00:00.000+00:00",
        "description": "libstream simulated detector",
        "detector_distance": distance_of(meta),
        "detector_number": "E-00-0000",
        "detector_readout_time": 1e-7,
        "detector_translation": [0.0, 0.0, 0.0],
        "eiger_fw_version": "release-2022.1",
        "flatfield_correction_applied": False,
        "frame_time": 0.001,
        "nimages": 1,
        "ntrigger": meta.shape.n_positions,
        "number_of_excluded_pixels": 0,
        "photon_energy": 200000.0,
        "pixel_mask_applied": True,
        "roi_mode": "disabled",
        "sensor_material": "Si",
        "sensor_thickness": 0.00045,
        "software_version": "1.8.0",
        "threshold_energy": 20000.0,
        "trigger_mode": "exts",
        "virtual_pixel_correction_applied": False,
        "wavelength": 0.0,
        "x_pixel_size": PIXEL_M,
        "x_pixels_in_detector": nx,
        "y_pixel_size": PIXEL_M,
        "y_pixels_in_detector": ny,
    }


def n_frames_of(config: Mapping[str, Any]) -> tuple[int | None, tuple[str, ...]]:
    """Frames of a run: each trigger gives `nimages`, with external or internal enable one."""
    mode, triggers, images = config.get("trigger_mode"), whole(config.get("ntrigger")), whole(config.get("nimages"))
    if mode in ("exte", "inte") and triggers is not None:
        return announced(triggers)
    if mode in ("exts", "ints") and triggers is not None and images is not None:
        return announced(triggers * images)
    return None, (f"the number of frames is not known: trigger_mode {str(mode)[:20]!r}, ntrigger {triggers}, nimages {images}",)
