"""What executors call: all UDFs of a run over one partition."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from libstream.contracts.executor import CancelFlag
from libstream.contracts.source import FrameReader, Opener, Partition, TakesPartitions
from libstream.contracts.udf import UDF
from libstream.errors import CancelledError, UDFError, UsageError
from libstream.kernels.drive import driver
from libstream.kernels.loops import Entry
from libstream.model.partial import PROCESSED, Partial
from libstream.plan.plan import Tiling
from libstream.run.block import Block
from libstream.run.buffers import Buffers
from libstream.run.calls import Call, State
from libstream.run.correct import Converter
from libstream.run.hooked import Hooked
from libstream.run.lanes import Lanes
from libstream.run.merge import Merger
from libstream.run.tiles import PartitionFrames, cut, gathered, read_buffer

_Arr = np.ndarray[Any, Any]
Placed = dict[tuple[str, str], Any]


@dataclass(frozen=True)
class ChannelWork:
    """UDFs of one channel. udfs: bound UDFs by key; converters: what each needs done to its frames (None = nothing)."""

    channel: str
    sig: tuple[int, ...]
    dtype: np.dtype[Any]
    tiling: Tiling
    udfs: Mapping[str, UDF]
    converters: Mapping[str, Converter | None]
    mapped: bool
    gapped: bool


@dataclass
class Work:
    """All UDFs of a run. Picklable; what is made in a process (readers, buffers, compiled loops) stays there.

    keeps_going: a UDF that raises is left out from then on (`Partial.failures` says so), and the others go on.
    """

    opener: Opener
    channels: tuple[ChannelWork, ...]
    nav: tuple[int, ...]
    sync_offset: int
    partition_frames: int
    profile: bool = False
    keeps_going: bool = False
    _made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self._readers: list[FrameReader] = []
        self._failed: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_made", "_lock", "_local", "_readers", "_failed")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _made={})
        self.__post_init__()

    # -- the contract ----------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Make the calls of this process: constants, compiled loops. Idempotent, thread-safe."""
        with self._lock:
            if "calls" in self._made:
                return
            calls: dict[str, Call] = {}
            entries: dict[str, dict[Any, Entry]] = {}
            for c in self.channels:
                for key, udf in c.udfs.items():
                    calls[key] = call = Call(key, udf, self.nav, self.partition_frames)
                    if call.compiled:
                        converter = c.converters[key]
                        call.compile(_sample(c, c.dtype if converter is None else converter.dtype, converter is not None))
                converters = {v.key: v for v in c.converters.values() if v is not None}
                entries[c.channel] = {k: v.entry(_sample(c, c.dtype, False, whole=True)) for k, v in converters.items()}
            driver()
            self._made["entries"] = entries
            self._made["merger"] = Merger({k: (call.udf, call.outputs) for k, call in calls.items()})
            self._made["calls"] = calls

    def process(self, partition: Partition, cancel: CancelFlag) -> Partial:
        """Run all UDFs over one partition."""
        while True:
            try:
                return self._process(partition, cancel)
            except UDFError as exc:
                n = sum(len(c.udfs) for c in self.channels)
                if not self.keeps_going or not exc.udf or exc.udf in self._failed or len(self._failed) + 1 == n:
                    raise
                with self._lock:
                    self._failed[exc.udf] = str(exc)  # and once more without it: its part of the sums must not stay

    def _process(self, partition: Partition, cancel: CancelFlag) -> Partial:
        calls: dict[str, Call] = self._made["calls"]
        failed = dict(self._failed)
        channels = self.channels if not failed else tuple(_without(c, failed) for c in self.channels)
        positions = partition.positions()
        if len(positions) > self.partition_frames:
            raise UsageError(
                f"partition {partition.number} has {len(positions)} positions, the plan allows {self.partition_frames}: "
                "accumulators may be too narrow for more. FrameSource.partitions hands out the plan's partitions, or parts of them"
            )
        seconds: dict[str, float] = {"read": 0.0}
        frames = {c.channel: self._frames(c, partition, positions) for c in channels}
        placed: dict[tuple[str, str], Any] = {}
        reduced: dict[tuple[str, str], _Arr] = {}
        for c in channels:
            mine = {k: calls[k] for k in c.udfs}
            if not mine:
                continue
            states = {k: call.begin(len(positions)) for k, call in mine.items()}
            self._run_channel(c, mine, states, frames[c.channel], cancel, seconds)
            good = frames[c.channel].status == PROCESSED
            n_good = int(good.sum())
            for k, call in mine.items():
                p, r = call.end(states[k])
                placed.update({(k, name): _head(v, n_good) for name, v in p.items()})
                reduced.update({(k, name): v for name, v in r.items()})
        status, placed = _agree(channels, frames, placed)
        if partition.lost is not None:
            positions = np.concatenate([positions, partition.lost[0]])
            status = np.concatenate([status, partition.lost[1]])
        seconds["read"] += sum(f.read_s for f in frames.values())
        return Partial(partition.number, 1, positions, status, placed, reduced, seconds, tuple(failed.items()))

    def combine(self, left: Partial, right: Partial) -> Partial:
        """Merge two neighbours."""
        self.setup()
        merger: Merger = self._made["merger"]
        return merger.combine(left, right)

    def close(self) -> None:
        """Close this process's readers."""
        with self._lock:
            readers, self._readers = self._readers, []
            self._local = threading.local()
        for reader in readers:
            reader.close()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _frames(self, c: ChannelWork, partition: Partition, positions: _Arr) -> PartitionFrames:
        reader = self._reader(c.channel)
        if isinstance(reader, TakesPartitions):
            reader.begin(partition)
        return PartitionFrames(reader, positions, partition.runs, self.sync_offset, c.mapped)

    def _reader(self, channel: str) -> FrameReader:
        held: dict[str, FrameReader] = self._local.__dict__.setdefault("readers", {})
        if channel not in held:
            held[channel] = self.opener.open_reader(channel)
            with self._lock:
                self._readers.append(held[channel])
        return held[channel]

    def _buffers(self) -> Buffers:
        buffers: Buffers = self._local.__dict__.setdefault("buffers", Buffers())
        return buffers

    def _run_channel(
        self,
        c: ChannelWork,
        calls: dict[str, Call],
        states: dict[str, State],
        frames: PartitionFrames,
        cancel: CancelFlag,
        seconds: dict[str, float],
    ) -> None:
        n = len(frames.positions)
        if not n:
            return
        partition = any(call.kind == "process_partition" for call in calls.values())
        depth = n if partition else c.tiling.depth
        entries: Mapping[Any, Entry] = self._made["entries"][c.channel]
        tiles = _Tiles(c, calls, states, depth, self._buffers(), cancel, seconds, self.profile, entries)
        block = frames.whole()
        if block is not None:
            tiles.run(block)
            return
        buffer, depth = read_buffer(self._buffers(), c.tiling, c.sig, c.dtype, n, partition)
        for part in frames.read(buffer, depth):
            if cancel:
                raise CancelledError("cancelled")
            data = part.data.view()
            data.setflags(write=False)
            tiles.run(replace(part, data=data))


class _Tiles:
    """The tile loop of one channel over one partition: compiled where all hooks are, else in Python."""

    def __init__(
        self,
        c: ChannelWork,
        calls: dict[str, Call],
        states: dict[str, State],
        depth: int,
        buffers: Buffers,
        cancel: CancelFlag,
        seconds: dict[str, float],
        profile: bool,
        entries: Mapping[Any, Entry],
    ) -> None:
        self.c, self.calls, self.states, self.depth = c, calls, states, depth
        self.buffers, self.cancel, self.seconds = buffers, cancel, seconds
        self.bands = c.tiling.bands
        self.together: Lanes | None = None
        self.alone: dict[str, Lanes] = {}
        self.plain: dict[str, Hooked] = {}
        if all(call.compiled for call in calls.values()) and not (profile and len(calls) > 1):
            self.together = Lanes(calls, states, c.converters, c.sig, depth, self.bands, buffers, entries)
            return
        for key, call in calls.items():
            if call.compiled:
                self.alone[key] = Lanes({key: call}, states, {key: None}, c.sig, depth, self.bands, buffers)
            else:
                self.plain[key] = Hooked(call, states[key], cancel.array)

    def run(self, block: Block) -> None:
        """Process the frames of a block; no hook is called for none."""
        if not len(block.index):
            return
        if self.together is not None:
            with self._timed("udf:" + "+".join(self.calls)):
                self.together.run(block, self.cancel.array)
            return
        if not self.alone and not any(self.c.converters.values()):
            frames = all(call.kind == "process_frame" for call in self.calls.values())
            if frames and len(self.calls) == 1:
                for key, hooked in self.plain.items():
                    with self._timed("udf:" + key):
                        hooked.frames(block.data, block.runs, block.index, block.k)
                return
            if len(block.runs) == 1:
                self._run_plain(block)
                return
        for tile in cut(block, self.depth):
            if self.cancel:
                raise CancelledError("cancelled")
            self._run_tile(tile)

    def _run_plain(self, block: Block) -> None:
        """Plain-Python hooks over frames that lie one after the other: `_run_tile` without its questions."""
        data, index, bands, stopped = block.data, block.index, self.bands, self.cancel.array
        first = int(block.runs[0, 0])
        spent = dict.fromkeys(self.plain, 0.0)
        for start in range(0, len(index), self.depth):
            if stopped[0]:
                raise CancelledError("cancelled")
            part = data[first + start : first + min(start + self.depth, len(index))]
            where = index[start : start + self.depth]
            for key, hooked in self.plain.items():
                t = time.perf_counter()
                if hooked.call.kind == "process_frame":
                    hooked.frames(part, np.array([[0, len(part)]]), where, block.k + start)
                elif len(bands) == 1:
                    hooked.tile(part, where, block.k + start, bands[0])
                else:
                    for band in bands:
                        hooked.tile(part[:, band[0] : band[1]], where, block.k + start, band)
                spent[key] += time.perf_counter() - t
        for key, seconds in spent.items():
            self.seconds["udf:" + key] = self.seconds.get("udf:" + key, 0.0) + seconds

    def _run_tile(self, tile: Block) -> None:
        made: dict[Any, Block] = {None: tile}
        for converter in self.c.converters.values():
            if converter is not None and converter.key not in made:
                with self._timed("convert"):
                    out = self.buffers.get(f"convert{converter.key}", (len(tile.index), *tile.data.shape[1:]), converter.dtype)
                    converter.into(tile.data, tile.runs, out)
                    view = out.view()
                    view.setflags(write=False)
                    made[converter.key] = replace(Block.of(view, tile.index), k=tile.k)
        for key, call in self.calls.items():
            converter = self.c.converters[key]
            source = None if converter is None else converter.key
            if call.kind != "process_frame" and not call.compiled and len(made[source].runs) != 1:
                made[source] = gathered(made[source], self.buffers)
            part = made[source]
            with self._timed("udf:" + key):
                if call.compiled:
                    self.alone[key].run(part, self.cancel.array)
                    continue
                hooked = self.plain[key]
                if call.kind == "process_frame":
                    hooked.frames(part.data, part.runs, part.index, part.k)
                    continue
                start, stop = part.runs[0].tolist()
                for y0, y1 in self.bands:
                    hooked.tile(part.data[start:stop, y0:y1], part.index, part.k, (y0, y1))

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        t = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - t


def _without(c: ChannelWork, failed: Mapping[str, str]) -> ChannelWork:
    udfs = {k: u for k, u in c.udfs.items() if k not in failed}
    return replace(c, udfs=udfs, converters={k: v for k, v in c.converters.items() if k in udfs})


def _sample(c: ChannelWork, dtype: np.dtype[Any], buffered: bool, *, whole: bool = False) -> _Arr:
    """An array of the type that kernels will be given: C order, or frames with gaps where views or bands make some."""
    banded = len(c.tiling.bands) > 1 and not whole
    if c.mapped and c.gapped and not buffered:
        first, *rest = c.sig
        base = np.zeros((3, first + 1, *rest), dtype)[:, :-1]
    else:
        base = np.zeros((3, *c.sig), dtype)
    if banded:
        base = base[:, : c.tiling.rows]
    base.setflags(write=False)
    return base


def _head(value: Any, n: int) -> Any:
    """Rows of placed values for the good frames (corrupt ones have none)."""
    return value[:n] if isinstance(value, np.ndarray) else type(value)(value.values, value.counts[:n])


def _agree(channels: tuple[ChannelWork, ...], frames: dict[str, PartitionFrames], placed: Placed) -> tuple[_Arr, Placed]:
    """Status of each position over all channels (the worst), and placed rows for the positions that are good in all."""
    all_status = [f.status for f in frames.values()]
    status = np.maximum.reduce(all_status) if len(all_status) > 1 else all_status[0]
    if len(all_status) > 1 and any(not np.array_equal(s, status) for s in all_status):
        owner = {key: frames[c.channel] for c in channels for key in c.udfs}
        good = status == PROCESSED
        for at, value in placed.items():
            keep = good[owner[at[0]].status == PROCESSED]
            if isinstance(value, np.ndarray):
                placed[at] = value[keep]
            else:
                rows = np.repeat(keep, value.counts)
                placed[at] = type(value)(value.values[rows], value.counts[keep])
    return status, placed
