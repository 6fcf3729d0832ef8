"""Cast and correct frames into a buffer: one pass, in cache."""

from __future__ import annotations

from libstream.kernels.jit import flat_of, kernel


@kernel
def cast_frames(tile, out):  # type: ignore[no-untyped-def]
    """Frames of `tile` into the first rows of `out` (n, frame size), cast to its dtype."""
    for i in range(tile.shape[0]):
        frame = flat_of(tile, i)
        row = out[i]
        for p in range(row.shape[0]):
            row[p] = frame[p]


@kernel
def correct_frames(tile, out, dark, gain, bad, offsets, good):  # type: ignore[no-untyped-def]
    """As `cast_frames`, with `(raw - dark) * gain`, then bad pixels replaced by the mean of their good neighbours.

    dark, gain: flat, dtype of `out`. bad (b,), offsets (b + 1,), good: repair table of `Corrections.repair`.
    """
    for i in range(tile.shape[0]):
        frame = flat_of(tile, i)
        row = out[i]
        for p in range(row.shape[0]):
            row[p] = frame[p]  # in the dtype of `out` from here on
            row[p] = (row[p] - dark[p]) * gain[p]
        for b in range(bad.shape[0]):
            total = 0.0
            for g in range(offsets[b], offsets[b + 1]):
                total += row[good[g]]
            row[bad[b]] = total / (offsets[b + 1] - offsets[b])
