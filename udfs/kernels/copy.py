"""Copies of chosen frames."""

from __future__ import annotations

from typing import Any

from libstream.ext import kernel


@kernel
def pick_frame(frame: Any, picked: Any, index: int, wanted: Any) -> int:
    """Copy the frame to picked[0] where wanted[index]; other frames are not touched. Returns the number of copies."""
    if not wanted[index]:
        return 0
    if picked.shape[0] > 0:
        picked[0] = frame
    return 1
