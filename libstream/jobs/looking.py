"""Single arrays that a server needs beside results: reference frames, masks from files, the bright disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from libstream import api, registry
from libstream.contracts.indexing import memory_available
from libstream.errors import FormatError, UsageError

if TYPE_CHECKING:
    from libstream.jobs.session import Session

_Arr = np.ndarray[Any, Any]


def array_file(path: Path) -> _Arr:
    """The array in a .npy file; nothing in it is unpickled. Raises FormatError, FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix.lower() != ".npy":
        raise FormatError(f"{path}: arrays are taken from .npy files")
    if path.stat().st_size > 0.5 * memory_available():
        raise UsageError(f"{path}: {path.stat().st_size} bytes are more than fit into memory")
    try:
        loaded: _Arr = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as exc:
        raise FormatError(f"{path} is not an array of numbers in .npy form ({exc})") from exc
    return loaded


def frame_file(path: Path) -> _Arr:
    """One frame from a file: a .npy array, or the mean of all frames of any file that can be opened. Raises as `ls.open`."""
    if path.suffix.lower() == ".npy":
        array = array_file(path)
        return array if array.ndim <= 2 else np.asarray(array.mean(axis=tuple(range(array.ndim - 2))))
    source = api.open(str(path))
    return np.asarray(api.run(source, {"mean": registry.load("udfs", "Mean")()})["mean"]["mean"])


def bright_disk(session: Session, channel: str | None) -> dict[str, Any]:
    """Centre (y, x) and radius in px of the bright disk of the mean frame, and whether there is one; waits.

    Its pixels are those above half of the level inside: the 99.5th percentile, so that a few hot pixels do not decide. The centre is
    their centre of mass, the radius that of a disk of their area. `good`: a disk of this radius around that centre covers nine
    tenths of them, and it covers neither nearly nothing nor nearly all of the frame.
    """
    mean = mean_frame(session, channel)
    if mean.ndim != 2 or not np.isfinite(mean).any():
        return {"centre": None, "radius": None, "good": False}
    values = np.where(np.isfinite(mean), mean, np.nanmin(mean))
    low, high = np.quantile(values, (0.05, 0.995))
    inside = values > (low + high) / 2
    n = int(inside.sum())
    if not n or high <= low:
        return {"centre": None, "radius": None, "good": False}
    y, x = np.nonzero(inside)
    cy, cx = float(np.median(y)), float(np.median(x))
    radius = math.sqrt(n / math.pi)
    for _ in range(3):  # what lies far from the disk (other reflections, noise) does not pull at its centre
        near = np.hypot(y - cy, x - cx) <= 1.5 * radius + 2
        if not near.any():
            break
        cy, cx, radius = float(y[near].mean()), float(x[near].mean()), math.sqrt(int(near.sum()) / math.pi)
    covered = float((np.hypot(y - cy, x - cx) <= radius + 1).sum()) / n
    good = covered > 0.9 and 1.5 < radius < 0.45 * min(mean.shape)
    return {"centre": [round(cy, 2), round(cx, 2)], "radius": round(radius, 2), "good": bool(good)}


def mean_frame(session: Session, channel: str | None) -> _Arr:
    """Mean of the frames: what is there already, or that of some of them. Raises UsageError where nothing is open."""
    source = session.source
    if source is None:
        raise UsageError("nothing is open")
    from libstream.jobs.analyses import frames_id

    held = session.store.get(f"a/{frames_id('mean', channel)}/mean")
    if held is not None and np.isfinite(held.array).any():
        return np.asarray(held.array)
    seen = source if channel is None else source.channel(channel)
    nav = source.meta.shape.nav
    n = math.prod(nav)
    flat = np.unique(np.linspace(0, n - 1, min(n, 64)).astype(int))
    frames = [np.asarray(seen[tuple(int(i) for i in np.unravel_index(f, nav))] if nav else seen[...], np.float64) for f in flat]
    return np.asarray(np.mean(frames, axis=0))
