"""Recordings of live streams: folders with raw messages as they came (`ls.record`, `libstream record`), read as a file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from libstream.ext import (
    MISSING,
    Axis,
    DataShape,
    FormatError,
    FrameSource,
    Partition,
    ScanOrder,
    ShapeError,
    SourceMeta,
    UsageError,
    default_axes,
    lsr,
    param,
)
from libstream.io_backends.files._identity import local_path, source_id
from libstream.io_backends.files._lsr_index import ABOUT, RunIndex, index_of
from libstream.io_backends.files._lsr_read import Layout, RecordingOpener

_Arr = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RecordingOptions:
    """run: which one, as the detector numbers it, or "#1", "#2", ... by its place, where there are several.

    order: how the scan was travelled, "raster" or "serpentine". flyback: frames at the end of each line that belong to no position.
    frames_per_position: frames at each position, one after another. positions: the position of each frame, for any other path.
    scan: shape of the scan that these need (given as `scan=` of `ls.open`).
    """

    run: int | str | None = param(None, title="Run")
    order: str = param("raster", title="Scan order")
    flyback: int = param(0, ge=0, title="Flyback frames")
    frames_per_position: int = param(1, ge=1, title="Frames per position")
    positions: tuple[int, ...] | None = param(None, title="Custom path")
    scan: tuple[int, ...] | None = param(None, title="Scan shape (y, x)")

    @property
    def travelled(self) -> bool:
        """True where anything but one frame after the other was asked for."""
        return self.order != "raster" or bool(self.flyback) or self.frames_per_position != 1 or self.positions is not None


class RecordingFormat:
    """Folders written by `libstream record` and by live runs with record=."""

    name: ClassVar[str] = "recording"
    suffixes: ClassVar[tuple[str, ...]] = (".lsr", ".json")
    options: ClassVar[type] = RecordingOptions

    def probe(self, head: bytes, path: str) -> float:
        """A file of a recording stands for its folder."""
        if head.startswith(lsr.FILE_MAGIC[:7]) or (os.path.basename(path) == ABOUT and b'"libstream_recording"' in head):
            return 1.0
        return 0.0

    def probe_folder(self, path: str) -> float:
        """Certain where the description of a recording is in it."""
        return 1.0 if os.path.isfile(os.path.join(path, ABOUT)) else 0.0

    def warm_up(self) -> None:
        """Compile the checksum."""
        lsr.warm_up()

    def open(self, uri: str, options: RecordingOptions) -> FrameSource:
        """Open one run of a recording. Raises FormatError naming what is wrong, UsageError listing the runs where one must be chosen."""
        folder = local_path(uri)
        if not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        index = index_of(folder)
        number, run = _chosen(index.runs, options.run, uri)
        if not len(run.rows):
            raise FormatError(f"{uri}: run {run.header.run!r} holds no frame (its header announces {run.header.n_frames})")
        order = _order(run, options, uri)
        layout = Layout.of(run, index.sectors)
        opener = RecordingOpener(folder, index.files, number, index.check, order, layout, run)
        notes = [*run.header.notes, *index.notes]
        gone = int((opener.fate == MISSING).sum())
        if gone:
            notes.append(f"{gone} of {order.n_positions} frames are not in the recording; they count as missing")
        if not run.ended and gone:
            notes.append("the end of the run was not recorded")
        metas = {}
        paths = [f.path for f in index.files]
        name = source_id(uri, self.name, [os.path.join(folder, ABOUT), *paths])
        for c, channel in enumerate(layout.channels):
            shape = DataShape(order.nav, layout.frame_shape(c))
            metas[channel] = SourceMeta(
                name, shape, np.dtype(layout.dtypes[c]), axes=_axes(shape, order, run), channels=layout.channels,
                n_frames=order.n_positions, vendor=dict(run.header.meta), notes=tuple(notes),
            )  # fmt: skip
        return RecordingSource(metas, opener)


class RecordingSource(FrameSource):
    """A run of a recording; positions whose frame is not in it are reported as missing."""

    def __init__(self, metas: dict[str, SourceMeta], opener: RecordingOpener) -> None:
        super().__init__(next(iter(metas.values())), opener)
        self._metas, self._fate = metas, opener.fate

    def channel_meta(self, name: str) -> SourceMeta:
        """See `FrameSource`."""
        return self._metas.get(name, self.meta)

    def partitions(self, planned: Iterable[Partition]) -> Iterator[Partition]:
        """The plan's partitions without the positions that have no frame."""
        for p in planned:
            at = p.positions()
            fate = self._fate[at]
            if not fate.any():
                yield p
                continue
            lost = (at[fate > 0], fate[fate > 0])
            if p.lost is not None:
                lost = (np.concatenate([p.lost[0], lost[0]]), np.concatenate([p.lost[1], lost[1]]))
            yield replace(p, runs=_runs(at[fate == 0]), lost=lost)


# -- what the recording says ------------------------------------------------------------------------------------------------


def _chosen(runs: list[RunIndex], wanted: int | str | None, uri: str) -> tuple[int, RunIndex]:
    if not runs:
        raise FormatError(f"{uri}: there is no run in this recording: no header of an acquisition was understood")
    listed = "; ".join(
        f"run={r.header.run!r} (#{i + 1}): {len(np.unique(r.rows['number']))} frames of {r.header.n_frames or 'an unknown number'}"
        for i, r in enumerate(runs[:20])
    ) + ("; ..." if len(runs) > 20 else "")  # fmt: skip
    if wanted is None:
        full = [i for i, r in enumerate(runs) if len(r.rows)] or [0]
        if len(full) > 1:
            raise UsageError(f"{uri}: holds {len(runs)} runs, say which one: {listed}")
        return full[0], runs[full[0]]
    if isinstance(wanted, str) and wanted.startswith("#") and wanted[1:].isdecimal() and 1 <= int(wanted[1:]) <= len(runs):
        return int(wanted[1:]) - 1, runs[int(wanted[1:]) - 1]
    same = [i for i, r in enumerate(runs) if str(r.header.run) == str(wanted)]
    if len(same) != 1:
        what = f"holds {len(same)} runs {wanted!r}, say which one by its place" if same else f"holds no run {wanted!r}"
        raise UsageError(f"{uri}: {what}: {listed}")
    return same[0], runs[same[0]]


def _order(run: RunIndex, options: RecordingOptions, uri: str) -> ScanOrder:
    announced = run.header.n_frames
    n = announced if announced is not None else int(run.rows["number"].max()) + 1
    said = run.header.scan
    if not options.travelled:
        return ScanOrder.of(said if said is not None and math.prod(said) == n else (n,))
    scan = options.scan if options.scan is not None else said
    if scan is None:
        raise UsageError(f"{uri}: order, flyback, frames_per_position and positions need the shape of the scan; pass scan=(y, x)")
    how: dict[str, Any] = {"order": options.order, "flyback": options.flyback, "frames_per_position": options.frames_per_position}
    order = ScanOrder.of(tuple(np.ravel(scan).tolist()), **how, positions=options.positions)
    if announced is not None and order.n_frames != announced:
        raise ShapeError(
            f"{uri}: run {run.header.run!r} has {announced} frames, but the scan {tuple(scan)} takes {order.n_frames} as it is travelled. "
            "Give the scan=, flyback= and frames_per_position= that multiply to the announced number"
        )
    return order


def _axes(shape: DataShape, order: ScanOrder, run: RunIndex) -> tuple[Axis, ...]:
    axes = list(default_axes(shape))
    if order.frames_per_position > 1:
        base = default_axes(DataShape(order.nav[:-1], shape.sig))
        axes = [*base[: len(order.nav) - 1], Axis("repeat", order.nav[-1]), *base[len(order.nav) - 1 :]]
    known = run.header.axes
    return tuple(replace(a, step=float(known[a.name][0]), unit=known[a.name][1]) if a.name in known else a for a in axes)


def _runs(at: _Arr) -> _Arr:
    """Runs [start, stop) of rising positions, int64 (k, 2)."""
    if not len(at):
        return np.zeros((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(at) != 1)
    starts, stops = at[np.concatenate([[0], breaks + 1])], at[np.concatenate([breaks, [len(at) - 1]])] + 1
    return np.stack([starts, stops], axis=1).astype(np.int64)
