"""Cast and correct frames into a buffer: one pass, in cache."""

from __future__ import annotations

from libstream.kernels.jit import frame_of, kernel


@kernel
def cast_frames(data, runs, out):  # type: ignore[no-untyped-def]
    """Frames `runs` of `data` into `out` (n, size), cast to its dtype. data: (n, size) rows are flat frames."""
    k = 0
    for r in range(runs.shape[0]):
        for i in range(runs[r, 0], runs[r, 1]):
            frame = frame_of(data, i).reshape(-1)
            row = out[k]
            for p in range(row.shape[0]):
                row[p] = frame[p]
            k += 1


@kernel
def correct_frames(data, runs, out, dark, gain, bad, offsets, good):  # type: ignore[no-untyped-def]
    """As `cast_frames`, with `(raw - dark) * gain`, then bad pixels replaced by the mean of their good neighbours.

    dark, gain: flat, dtype of `out`. bad (b,), offsets (b + 1,), good: repair table of `Corrections.repair`.
    """
    k = 0
    for r in range(runs.shape[0]):
        for i in range(runs[r, 0], runs[r, 1]):
            frame = frame_of(data, i).reshape(-1)
            row = out[k]
            for p in range(row.shape[0]):
                row[p] = (row.dtype.type(frame[p]) - dark[p]) * gain[p]
            for b in range(bad.shape[0]):
                total = 0.0
                for g in range(offsets[b], offsets[b + 1]):
                    total += row[good[g]]
                row[bad[b]] = total / (offsets[b + 1] - offsets[b])
            k += 1
