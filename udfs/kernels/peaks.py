"""Local maxima of a frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import kernel


@kernel
def _sort(values: Any, order: Any) -> None:
    """Fill `order` with 0, 1, ... sorted by values, largest first, equal ones by number: a total order, so that sorting has one outcome.

    Heap sort: the heap has the last of the order on top.
    """
    n = order.shape[0]
    for i in range(n):
        order[i] = i
    root, end = n // 2, n
    while end > 1:
        if root > 0:  # build the heap from its leaves up, ...
            root -= 1
        else:  # ... then take its top away, again and again
            end -= 1
            order[0], order[end] = order[end], order[0]
        moving, at = order[root], root
        while 2 * at + 1 < end:
            child = 2 * at + 1
            if child + 1 < end:
                a, b = order[child], order[child + 1]
                if values[a] > values[b] or (values[a] == values[b] and a < b):
                    child += 1
            below = order[child]
            if values[below] > values[moving] or (values[below] == values[moving] and below < moving):
                break
            order[at] = below
            at = child
        order[at] = moving


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
    ys, xs, values, order = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, frame.dtype), np.empty(n, np.int64)
    for k in range(n):
        ys[k], xs[k], values[k] = peaks[k]["y"], peaks[k]["x"], peaks[k]["value"]
    _sort(values, order)

    # Kept peaks hang in chains at the cells of a grid as wide as the distance, so that nine cells hold all that can be too
    # close. Strict maxima are never direct neighbours, so a distance up to 2 asks for nothing.
    thin = distance > 2.0
    cell = max(1, int(np.ceil(distance)))
    rows, columns = (ny // cell + 3, nx // cell + 3) if thin and n > 1 else (0, 0)
    head, chain = np.empty(rows * columns, np.int64), np.empty(n, np.int64)
    for c in range(rows * columns):
        head[c] = -1
    kept = 0
    for k in range(n):
        y, x = ys[order[k]], xs[order[k]]
        free = True
        if rows > 0:
            at = (y // cell + 1) * columns + x // cell + 1
            for c in range(9):
                other = head[at + (c // 3 - 1) * columns + c % 3 - 1]
                while other >= 0 and free:
                    dy, dx = float(ys[other] - y), float(xs[other] - x)
                    free = not dy * dy + dx * dx < distance * distance
                    other = chain[other]
            if free:
                chain[order[k]], head[at] = head[at], order[k]
        if free:
            peaks[kept]["y"], peaks[kept]["x"], peaks[kept]["value"] = y, x, values[order[k]]
            kept += 1
            if kept == max_peaks:
                break
    return kept
