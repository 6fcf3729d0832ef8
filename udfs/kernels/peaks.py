"""Local maxima of a frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import kernel


@kernel
def _before(a: Any, b: Any) -> bool:
    """Order of peaks: brightest first, then by y, then by x. Total, so that sorting has one outcome."""
    if a["value"] != b["value"]:
        return a["value"] > b["value"]
    if a["y"] != b["y"]:
        return a["y"] < b["y"]
    return a["x"] < b["x"]


@kernel
def _swap(peaks: Any, i: int, j: int) -> None:
    y, x, value = peaks[i]["y"], peaks[i]["x"], peaks[i]["value"]
    peaks[i]["y"], peaks[i]["x"], peaks[i]["value"] = peaks[j]["y"], peaks[j]["x"], peaks[j]["value"]
    peaks[j]["y"], peaks[j]["x"], peaks[j]["value"] = y, x, value


@kernel
def _sift(peaks: Any, root: int, n: int) -> None:
    """Let peaks[root] sink in a heap of n that has the last of the order on top."""
    while True:
        child = 2 * root + 1
        if child >= n:
            return
        if child + 1 < n and _before(peaks[child], peaks[child + 1]):
            child += 1
        if not _before(peaks[root], peaks[child]):
            return
        _swap(peaks, root, child)
        root = child


@kernel
def _sort(peaks: Any, n: int) -> None:
    """Heap sort of the first n peaks, in place."""
    for root in range(n // 2 - 1, -1, -1):
        _sift(peaks, root, n)
    for last in range(n - 1, 0, -1):
        _swap(peaks, 0, last)
        _sift(peaks, 0, last)


@kernel
def _is_maximum(frame: Any, y: int, x: int) -> bool:
    """True where the pixel is above all its (up to 8) neighbours."""
    v = frame[y, x]
    for j in range(max(0, y - 1), min(frame.shape[0], y + 2)):
        for i in range(max(0, x - 1), min(frame.shape[1], x + 2)):
            if (j != y or i != x) and not v > frame[j, i]:
                return False
    return True


@kernel
def _thin(peaks: Any, n: int, shape: tuple[int, int], distance: float) -> int:
    """Keep the peaks that have no kept one before them closer than `distance`; returns how many. In place.

    Kept peaks hang in chains at the cells of a grid that is as wide as the distance, so that nine cells hold all that can be too close.
    """
    cell = max(1, int(np.ceil(distance)))
    head = np.full((shape[0] // cell + 3, shape[1] // cell + 3), np.int32(-1), np.int32)
    chain = np.empty(n, np.int32)
    kept = 0
    for k in range(n):
        y, x = np.int64(peaks[k]["y"]), np.int64(peaks[k]["x"])
        cy, cx = y // cell + 1, x // cell + 1
        free = True
        for j in range(cy - 1, cy + 2):
            for i in range(cx - 1, cx + 2):
                other = head[j, i]
                while other >= 0 and free:
                    dy, dx = float(peaks[other]["y"] - y), float(peaks[other]["x"] - x)
                    free = not dy * dy + dx * dx < distance * distance
                    other = chain[other]
        if free:
            if kept != k:
                _swap(peaks, kept, k)
            chain[kept] = head[cy, cx]
            head[cy, cx] = kept
            kept += 1
    return kept


@kernel
def local_maxima(frame: Any, peaks: Any, threshold: float, distance: float, edge: int, max_peaks: int) -> int:
    """Write the local maxima of a frame to peaks (records y, x, value), brightest first; returns their number, or what room is needed."""
    ny, nx = frame.shape
    room, n = peaks.shape[0], 0
    for y in range(edge, ny - edge):
        row = frame[y]
        brightest = row[0]
        for x in range(nx):  # most rows of sparse frames hold nothing above the threshold; this loop vectorises
            brightest = row[x] if row[x] > brightest else brightest
        if brightest == brightest and not brightest > threshold:
            continue
        for x in range(edge, nx - edge):
            if row[x] > threshold and _is_maximum(frame, y, x):
                if n < room:
                    peaks[n]["y"], peaks[n]["x"], peaks[n]["value"] = y, x, row[x]
                n += 1
    if n > room:
        return n
    _sort(peaks, n)
    if distance > 2.0 and n > 1:  # strict maxima are never direct neighbours
        n = _thin(peaks, n, (ny, nx), distance)
    return min(n, max_peaks) if max_peaks > 0 else n
