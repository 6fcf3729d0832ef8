"""Parts of frames on their way from the decoder to the table of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.contracts.stream import FramePart
from libstream.errors import WireError
from libstream.live.assemble import NO_CODEC, Run

_Arr = np.ndarray[Any, Any]
LARGEST = 1 << 62
"""Numbers of frames are smaller."""


class Batch:
    """Parts of frames of one run, collected in lists: an array operation for each would cost more than the rest.

    run_id: of the run they belong to; None where there is none. strange: the last part that was not as the run's.
    """

    def __init__(self) -> None:
        self.reset(None)

    def reset(self, run: Run | None) -> None:
        """Begin a batch of this run; what was in it is gone."""
        self.run = run
        self.run_id = None if run is None else run.header.run
        self.numbers: list[int] = []
        self.pieces: list[int] = []
        self.offsets: list[int] = []
        self.sizes: list[int] = []
        self.codecs: list[int] = []
        self.bad: list[int] = []
        self.strange: FramePart | None = None
        self._codec, self._channel, self._codec_id = "", -1, 0
        layout = None if run is None else run.layout
        self._sectors, self._channels = (0, 0) if layout is None else (layout.sectors, len(layout.channels))
        self._shapes, self._dtypes = ((), ()) if layout is None else (layout.shapes, layout.dtypes)

    def add(self, part: FramePart, at: int) -> None:
        """One part, whose bytes begin at ring offset `at`. Raises WireError for one that cannot be."""
        _, number, _, start, stop, codec, shape, dtype, sector, channel, _ = part
        if not (0 <= channel < self._channels and 0 <= sector < self._sectors and 0 <= number < LARGEST):
            raise WireError(f"frame {number}: sector {sector}, channel {channel} cannot be in this run")
        if codec is not self._codec or channel != self._channel:
            self._codec, self._channel = codec, channel
            self._codec_id = NO_CODEC if self.run is None else self.run.codec_id(codec, channel)
        if shape != self._shapes[channel] or dtype != self._dtypes[channel] or self._codec_id == NO_CODEC:
            self.bad.append(len(self.numbers))
            self.strange = part
        self.numbers.append(number)
        self.pieces.append(channel * self._sectors + sector)
        self.offsets.append(at)
        self.sizes.append(stop - start)
        self.codecs.append(self._codec_id)

    def columns(self) -> tuple[_Arr, _Arr, _Arr, _Arr, _Arr, _Arr | None]:
        """numbers, pieces, offsets, sizes, codecs, and which are good (None = all), as `Run.place` takes them."""
        good: _Arr | None = None
        if self.bad:
            good = np.ones(len(self.numbers), bool)
            good[self.bad] = False
        return (
            np.array(self.numbers, np.int64), np.array(self.pieces, np.int64), np.array(self.offsets, np.int64),
            np.array(self.sizes, np.int64), np.array(self.codecs, np.uint8), good,
        )  # fmt: skip
