"""Fake sources over arrays, which behave as live ones do: late, out of order, part-filled, with lost and corrupt frames.

A script is a chain of steps; each takes partitions and gives partitions:

    source = ScriptedSource(frames, part_filled(seed=1), losing([17, 18]), shuffled(seed=2), late(0.01), invalid=bad)
    ls.run(source, Sum())

The engine runs it through the same loop as a file: nothing in libstream knows this class.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from libstream.contracts.source import FrameReader, FrameSource, Partition
from libstream.model.partial import DROPPED
from libstream.model.shape import DataShape, Region, Span
from libstream.model.source import SourceId, SourceMeta
from libstream.plan.roi import runs_of

_Arr = np.ndarray[Any, Any]
Layout = Literal["buffer", "view", "gaps"]
Step = Callable[[Iterable[Partition]], Iterable[Partition]]


@dataclass(frozen=True, eq=False)
class ArrayOpener:
    """Opens readers of frames (n, *sig). valid: bool (n,) or None. layout: as for `ScriptedSource`."""

    frames: _Arr
    valid: _Arr | None
    layout: Layout

    def open_reader(self, channel: str) -> ArrayReader:
        """A reader of its own for each worker."""
        return ArrayReader(self)


class ArrayReader(FrameReader):
    """Reads frames of an array; corrupt ones come as the largest value of the dtype, so that using one is seen."""

    in_memory = True

    def __init__(self, opener: ArrayOpener) -> None:
        self._frames, self._valid, self._layout = opener.frames, opener.valid, opener.layout
        self._view: _Arr | None = None

    def read_into(self, out: _Arr, frames: Span, region: Region) -> _Arr | None:
        """See `FrameReader`."""
        if frames.stop > len(self._frames):
            raise IndexError(f"frames {frames.start} to {frames.stop} were asked for, there are {len(self._frames)}")
        out[...] = self._frames[frames.start : frames.stop, region.rows]
        valid = self.valid(frames)
        if valid is not None:
            out[~valid] = _rubbish(out.dtype)
        return valid

    def view(self) -> _Arr | None:
        """The array itself, or one with a gap after each frame; None for the layout "buffer"."""
        if self._layout == "buffer":
            return None
        if self._view is None:
            n, rows, *rest = self._frames.shape
            held = np.full((n, rows + (self._layout == "gaps"), *rest), _rubbish(self._frames.dtype), self._frames.dtype)
            self._view = held[:, :rows]
            self._view[...] = self._frames
            if self._valid is not None:
                self._view[~self._valid] = _rubbish(self._frames.dtype)
            self._view.setflags(write=False)
        return self._view

    def valid(self, frames: Span) -> _Arr | None:
        """Which frames are good."""
        return None if self._valid is None else self._valid[frames.start : frames.stop]

    def check(self) -> None:
        """Arrays do not change."""

    def close(self) -> None:
        """Nothing to release."""


def _rubbish(dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        return np.iinfo(dtype).max
    return dtype.type(1e30 if dtype.kind in "fc" else 1)


class ScriptedSource(FrameSource):
    """A source over an array that hands out partitions as its script says.

    frames: (*nav, *sig). script: steps such as `shuffled(1)`, applied in order to the plan's partitions.
    invalid: bool array of the number of frames or of the scan's shape, True where a frame is corrupt.
    layout: "buffer", read frame by frame into buffers, as live and compressed data are; "view", used in place; "gaps", used
        in place with a gap after each frame.
    n_sig: axes of a frame. scan: shape of the scan where it is not that of the array (with sync_offset).
    """

    def __init__(
        self,
        frames: Any,
        *script: Step,
        invalid: Any = None,
        layout: Layout = "buffer",
        n_sig: int = 2,
        scan: tuple[int, ...] | None = None,
        sync_offset: int = 0,
    ) -> None:
        data = np.asarray(frames)
        nav, sig = data.shape[: data.ndim - n_sig], data.shape[data.ndim - n_sig :]
        flat = np.ascontiguousarray(data.reshape(-1, *sig))
        valid = None if invalid is None else ~np.asarray(invalid, bool).reshape(len(flat))
        name = SourceId("scripted:", "scripted", data.nbytes, hashlib.sha256(flat.tobytes()).hexdigest())
        meta = SourceMeta(
            name, DataShape(nav if scan is None else scan, sig), data.dtype, n_frames=len(flat), sync_offset=sync_offset
        )  # fmt: skip
        super().__init__(meta, ArrayOpener(flat, valid, layout))
        self.script = script

    def partitions(self, planned: Iterable[Partition]) -> Iterator[Partition]:
        """The plan's partitions, as changed by the script."""
        for step in self.script:
            planned = step(planned)
        yield from planned


# -- steps of a script -------------------------------------------------------------------------------------------------


def part_filled(seed: int, most: int | None = None) -> Step:
    """Cut partitions at random places, as a tick that flushes what is there; at most `most` positions in each part."""

    def step(planned: Iterable[Partition]) -> Iterator[Partition]:
        rng = np.random.default_rng(seed)
        number = 0
        for p in sorted(planned, key=lambda p: p.number):
            positions = p.positions()
            while len(positions):
                n = int(rng.integers(1, min(most or len(positions), len(positions)) + 1))
                yield Partition(number, _runs_at(positions[:n]), p.lost if n == len(positions) else None)
                positions, number = positions[n:], number + 1

    return step


def cut_at(sizes: Sequence[int]) -> Step:
    """Cut all positions into partitions of these sizes; what is left is one more."""

    def step(planned: Iterable[Partition]) -> Iterator[Partition]:
        parts = sorted(planned, key=lambda p: p.number)
        positions = np.concatenate([np.zeros(0, np.int64), *(p.positions() for p in parts)])
        edges = np.minimum(np.cumsum([0, *sizes, len(positions)]), len(positions))
        kept = [(a, b) for a, b in itertools.pairwise(edges) if b > a]
        for number, (a, b) in enumerate(kept):
            yield Partition(number, _runs_at(positions[a:b]))

    return step


def shuffled(seed: int) -> Step:
    """Hand out partitions in a random order; their numbers, and so the order of merging, stay."""

    def step(planned: Iterable[Partition]) -> Iterator[Partition]:
        held = list(planned)
        yield from (held[i] for i in np.random.default_rng(seed).permutation(len(held)))

    return step


def losing(positions: Iterable[int], code: int = DROPPED) -> Step:
    """Take flat positions out of their partitions and report them as lost, with this status."""
    gone = np.array(sorted(positions), np.int64)

    def step(planned: Iterable[Partition]) -> Iterator[Partition]:
        for p in planned:
            own = p.positions()
            lost = own[np.isin(own, gone)]
            if not len(lost):
                yield p
                continue
            yield replace(p, runs=_runs_at(own[~np.isin(own, gone)]), lost=(lost, np.full(len(lost), code, np.uint8)))

    return step


def late(seconds: float) -> Step:
    """Wait before each partition."""

    def step(planned: Iterable[Partition]) -> Iterator[Partition]:
        for p in planned:
            time.sleep(seconds)
            yield p

    return step


def gated(after: int, gate: threading.Event, timeout_s: float = 30.0) -> Step:
    """Stand still after `after` partitions until `gate` is set, as a source does whose detector pauses."""

    def step(planned: Iterable[Partition]) -> Iterator[Partition]:
        for i, p in enumerate(planned):
            if i == after and not gate.wait(timeout_s):
                raise TimeoutError(f"the gate was not opened within {timeout_s} s")
            yield p

    return step


def _runs_at(positions: _Arr) -> _Arr:
    """Runs [start, stop) of rising flat positions, int64 (k, 2)."""
    if not len(positions):
        return np.zeros((0, 2), np.int64)
    flags = np.zeros(int(positions[-1]) + 1, bool)
    flags[positions] = True
    return runs_of(flags)
