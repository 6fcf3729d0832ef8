"""How pixels are shared between rings."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import kernel


@kernel
def ring_shares(shape: Any, centre: Any, edges: Any, per_axis: int, first: Any, rings: Any, hits: Any) -> None:
    """Count the sub-pixel centres (per_axis x per_axis of each pixel) that lie in each ring edges[k] <= r < edges[k + 1].

    first (ny * nx + 1,) is filled with where the shares of each flat pixel begin; rings and hits (number of shares) with the
    ring and the count of each, by rising ring. Where these two are empty only `first` is filled, so that one knows how many there are.
    """
    n_rings = edges.shape[0] - 1
    inner, per_px = edges[0], n_rings / (edges[n_rings] - edges[0])
    fill = rings.shape[0] > 0
    at = np.empty(per_axis * per_axis, np.int64)
    n = 0
    for y in range(shape[0]):
        for x in range(shape[1]):
            first[y * shape[1] + x] = n
            low, high = n_rings, -1
            for j in range(per_axis):
                for i in range(per_axis):
                    dy = y - centre[0] + (j + 0.5) / per_axis - 0.5
                    dx = x - centre[1] + (i + 0.5) / per_axis - 0.5
                    r = np.hypot(dy, dx)
                    k = n_rings
                    if r < edges[n_rings]:
                        k = min(int((r - inner) * per_px), n_rings - 1)
                        while r < edges[k]:  # the last ring may be narrower than the others
                            k -= 1
                        while r >= edges[k + 1]:
                            k += 1
                        low, high = min(low, k), max(high, k)
                    at[j * per_axis + i] = k
            for k in range(low, high + 1):
                count = 0
                for s in range(per_axis * per_axis):
                    count += at[s] == k
                if count > 0:
                    if fill:
                        rings[n], hits[n] = k, count
                    n += 1
    first[shape[0] * shape[1]] = n
