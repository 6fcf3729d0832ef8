"""UDFs as a user writes them first: plain loops, no tricks. Each algorithm as a kernel of frames and as one of tiles."""

from __future__ import annotations

from typing import Any

import libstream as ls
from tests.bench.spec import mask_of


class OwnDisk(ls.UDF):
    """Sum of the pixels in a mask of zeros and ones."""

    mask: ls.Array

    def outputs(self) -> Any:
        return {"intensity": ls.nav("int64")}

    @ls.kernel
    def process_frame(frame, intensity, mask):  # type: ignore[no-untyped-def]
        s = 0
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                s += frame[y, x] * mask[y, x]
        intensity[0] = s


class OwnDiskTile(OwnDisk):
    """The same, tile by tile."""

    whole_frames = True

    @ls.kernel
    def process_tile(tile, intensity, mask):  # type: ignore[no-untyped-def]
        for i in range(tile.shape[0]):
            frame = ls.frame_of(tile, i)
            s = 0
            for y in range(frame.shape[0]):
                for x in range(frame.shape[1]):
                    s += frame[y, x] * mask[y, x]
            intensity[i, 0] = s


class OwnTotals(ls.UDF):
    """Sum of each frame."""

    def outputs(self) -> Any:
        return {"total": ls.nav("int64")}

    @ls.kernel
    def process_frame(frame, total):  # type: ignore[no-untyped-def]
        s = 0
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                s += frame[y, x]
        total[0] = s


class OwnTotalsTile(OwnTotals):
    """The same, tile by tile."""

    whole_frames = True

    @ls.kernel
    def process_tile(tile, total):  # type: ignore[no-untyped-def]
        for i in range(tile.shape[0]):
            frame = ls.frame_of(tile, i)
            s = 0
            for y in range(frame.shape[0]):
                for x in range(frame.shape[1]):
                    s += frame[y, x]
            total[i, 0] = s


class OwnSum(ls.UDF):
    """Sum of all frames."""

    def outputs(self) -> Any:
        return {"sum": ls.sig("int64")}

    @ls.kernel
    def process_frame(frame, sum):  # type: ignore[no-untyped-def]
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                sum[y, x] += frame[y, x]


class OwnSumTile(OwnSum):
    """The same, tile by tile."""

    @ls.kernel
    def process_tile(tile, sum):  # type: ignore[no-untyped-def]
        for i in range(tile.shape[0]):
            frame = ls.frame_of(tile, i)
            for y in range(frame.shape[0]):
                for x in range(frame.shape[1]):
                    sum[y, x] += frame[y, x]


class Nothing(ls.UDF):
    """A plain-Python hook that does nothing."""

    def outputs(self) -> Any:
        return {"none": ls.nav("int64")}

    def process_frame(self, frame: Any, out: Any) -> None:
        pass


UDFS = {
    "python_frame": lambda frame: Nothing(),
    "own_frame_disk": lambda frame: OwnDisk(mask=mask_of("disk", frame).astype("uint8")),
    "own_tile_disk": lambda frame: OwnDiskTile(mask=mask_of("disk", frame).astype("uint8")),
    "own_frame_totals": lambda frame: OwnTotals(),
    "own_tile_totals": lambda frame: OwnTotalsTile(),
    "own_frame_sum": lambda frame: OwnSum(),
    "own_tile_sum": lambda frame: OwnSumTile(),
}
"""Makers by job, of the frame's shape."""
