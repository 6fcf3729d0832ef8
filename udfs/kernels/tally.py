"""Counting pixel values in bins."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.ext import frame_of, kernel

# Four tallies are used in turn: equal neighbours (zeros, mostly) would else wait for each other's addition.


@kernel
def _by_table(frame: Any, table: Any, lowest: int, tally: Any) -> None:
    """Count slots table[v - lowest] of the pixels v of a frame into tally (4, n_slots)."""
    for y in range(frame.shape[0]):
        row = frame[y]
        for x in range(row.shape[0]):
            tally[x & 3, table[np.intp(row[x]) - lowest]] += np.uint32(1)


@kernel
def _by_edges(frame: Any, edges: Any, tally: Any) -> None:
    """As `_by_table`, for pixels v in edges[k] <= v < edges[k + 1]: slot k + 1; 0 below, n + 1 above the last, n + 2 not a number."""
    n = edges.shape[0] - 1
    low, high = edges[0], edges[n]
    per_unit = n / (high - low)
    for y in range(frame.shape[0]):
        row = frame[y]
        for x in range(row.shape[0]):
            v = float(row[x])
            if v != v:
                slot = n + 2
            elif v < low:
                slot = 0
            elif v > high:
                slot = n + 1
            else:
                k = min(int((v - low) * per_unit), n - 1)
                while v < edges[k]:  # the product is rounded: at most one step
                    k -= 1
                while k < n - 1 and v >= edges[k + 1]:
                    k += 1
                slot = k + 1
            tally[x & 3, slot] += np.uint32(1)


@kernel
def _collect(tally: Any, counts: Any, outside: Any) -> None:
    n = counts.shape[0]
    for q in range(4):
        outside[0] += tally[q, 0]
        outside[1] += tally[q, n + 1]
        outside[2] += tally[q, n + 2]
        for k in range(n):
            counts[k] += tally[q, k + 1]
        for k in range(n + 3):
            tally[q, k] = np.uint32(0)


@kernel
def counts_by_table(tile: Any, counts: Any, outside: Any, table: Any, lowest: int) -> None:
    """Add the values of a tile to counts (n,) and outside (3,): below, above, not a number."""
    tally = np.zeros((4, counts.shape[0] + 3), np.uint32)
    for i in range(tile.shape[0]):
        _by_table(frame_of(tile, i), table, lowest, tally)
        _collect(tally, counts, outside)


@kernel
def counts_by_edges(tile: Any, counts: Any, outside: Any, edges: Any) -> None:
    """As `counts_by_table`, for values that have no table."""
    tally = np.zeros((4, counts.shape[0] + 3), np.uint32)
    for i in range(tile.shape[0]):
        _by_edges(frame_of(tile, i), edges, tally)
        _collect(tally, counts, outside)


@kernel
def frame_counts_by_table(tile: Any, counts: Any, outside: Any, frame_counts: Any, table: Any, lowest: int) -> None:
    """As `counts_by_table`, and frame_counts (n_frames, n) for each frame by itself."""
    tally = np.zeros((4, counts.shape[0] + 3), np.uint32)
    for i in range(tile.shape[0]):
        _by_table(frame_of(tile, i), table, lowest, tally)
        for k in range(counts.shape[0]):
            frame_counts[i, k] += tally[0, k + 1] + tally[1, k + 1] + tally[2, k + 1] + tally[3, k + 1]
        _collect(tally, counts, outside)


@kernel
def frame_counts_by_edges(tile: Any, counts: Any, outside: Any, frame_counts: Any, edges: Any) -> None:
    """As `counts_by_edges`, and frame_counts (n_frames, n) for each frame by itself."""
    tally = np.zeros((4, counts.shape[0] + 3), np.uint32)
    for i in range(tile.shape[0]):
        _by_edges(frame_of(tile, i), edges, tally)
        for k in range(counts.shape[0]):
            frame_counts[i, k] += tally[0, k + 1] + tally[1, k + 1] + tally[2, k + 1] + tally[3, k + 1]
        _collect(tally, counts, outside)
