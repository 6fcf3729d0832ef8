"""Corrections as people give them: files, drawn shapes, masks. What they were made of is kept, so that they can be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libstream.errors import ShapeError, UsageError
from libstream.jobs import looking
from libstream.jobs.arrays import array_of, json_array, mask_of
from libstream.model.corrections import Corrections

_Arr = np.ndarray[Any, Any]
Corrected = tuple[dict[str, Any], Corrections | None]
"""What the state says of corrections (docs/reference/gui-protocol.md, "The state"), and the corrections."""
Resolve = Callable[[Any, str], Path]
"""From a path that was given, and what it is for, to the file. Raises UsageError where that must not be read."""

NONE: Mapping[str, Any] = {"dark": None, "gain": None, "excluded": 0, "shapes": [], "on": True}
MOST_SHAPES = 1000


def corrected(before: Corrected, given: Mapping[str, Any], sig: tuple[int, ...], resolve: Resolve) -> Corrected:
    """Corrections of frames of shape `sig` in which those that are named are replaced; files are read.

    given: dark, gain: path or None; excluded: list of shapes, a bool array as JSON, or None; on: whether they are used (default: yes).
    A shape is one of `arrays.mask_of`; {"kind": "file", "path"}: pixels that are not 0 in this frame are excluded; {"kind": "mask"}
    alone: what is excluded already, as the state says it where it was given as an array.
    Raises UsageError, ShapeError, and what opening a file raises.
    """
    shown, now = {**NONE, **before[0]}, before[1]
    arrays: dict[str, Any] = {n: getattr(now, n) if now is not None else None for n in ("dark", "gain", "excluded")}
    for name in ("dark", "gain"):
        if name in given:
            path = None if given[name] is None else resolve(given[name], name)
            arrays[name] = None if path is None else _of_shape(looking.frame_file(path), sig, f"{name} {path}")
            shown[name] = None if path is None else str(path)
    if "excluded" in given:
        pixels = given["excluded"]
        shapes = [{"kind": "mask", "array": pixels}] if isinstance(pixels, Mapping) else list(pixels or ())
        if len(shapes) > MOST_SHAPES:
            raise UsageError(f"excluded: at most {MOST_SHAPES} shapes, got {len(shapes)}; give them as one mask")
        there = arrays["excluded"] if arrays["excluded"] is not None else np.zeros(sig, bool)
        masks = [there if s == {"kind": "mask"} else _pixels(s, sig, resolve) for s in shapes]
        arrays["excluded"] = np.logical_or.reduce(masks) if masks else None
        shown["excluded"] = 0 if arrays["excluded"] is None else int(arrays["excluded"].sum())
        shown["shapes"] = [{"kind": "mask"} if s["kind"] == "mask" else dict(s) for s in shapes]  # arrays are for the server alone
    shown["on"] = bool(given.get("on", True))
    made = Corrections(**arrays)
    return shown, made if made else None


def recipe(now: Corrected) -> dict[str, Any] | None:
    """What `corrected` makes the same of, as JSON; None where nothing is corrected."""
    shown, made = now
    if made is None:
        return None
    shapes: Sequence[Mapping[str, Any]] = shown.get("shapes", ())
    excluded: Any = list(shapes)
    if made.excluded is not None and (not shapes or any(s["kind"] == "mask" for s in shapes)):
        excluded = json_array(np.asarray(made.excluded, bool))
    return {"dark": shown.get("dark"), "gain": shown.get("gain"), "excluded": excluded, "on": bool(shown.get("on", True))}


def _pixels(shape: Any, sig: tuple[int, ...], resolve: Resolve) -> _Arr:
    if isinstance(shape, Mapping) and shape.get("kind") == "file":
        if set(shape) != {"kind", "path"}:
            raise UsageError(f'excluded: a file is {{"kind": "file", "path": "..."}}, got {shape!r:.100}')
        path = resolve(shape["path"], "excluded")
        return _of_shape(looking.frame_file(path), sig, f"excluded {path}") != 0
    if isinstance(shape, Mapping) and shape.get("kind") == "mask" and set(shape) == {"kind", "array"}:
        return _of_shape(array_of(shape["array"], "excluded"), sig, "excluded").astype(bool)
    return mask_of(shape, sig, "excluded")


def _of_shape(array: _Arr, sig: tuple[int, ...], what: str) -> _Arr:
    if array.shape != tuple(sig):
        raise ShapeError(f"{what}: has the shape {array.shape}, frames have {tuple(sig)}")
    return array
