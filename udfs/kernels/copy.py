"""Copies of chosen frames."""

from __future__ import annotations

from typing import Any

from libstream.ext import flat_of, kernel


@kernel
def pick_frame(frame: Any, picked: Any, index: int, wanted: Any) -> int:
    """Copy the frame to picked[0] where wanted[index]; other frames are not touched. Returns the number of copies."""
    if not wanted[index]:
        return 0
    if picked.shape[0] > 0:
        into = flat_of(picked, 0)
        for i, value in enumerate(frame.flat):  # picked[0] = frame would take seconds to compile
            into[i] = value
    return 1
