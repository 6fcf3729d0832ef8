"""Where frames come from.

A plug-in for a file format writes two small classes: a `FileFormat` that recognises and opens, and a `FrameReader` that
reads frames. Everything else (tiles, casts, corrections, regions of interest, reshaping) happens outside of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from libstream.errors import UsageError
from libstream.model.shape import Region, Span
from libstream.model.source import SourceMeta

_Arr = np.ndarray[Any, Any]


@runtime_checkable
class FrameReader(Protocol):
    """Reads frames of one channel. Opened per worker, used by one thread at a time."""

    def read_into(self, out: _Arr, frames: Span, region: Region) -> _Arr | None:
        """Read frames [frames.start, frames.stop) (frame numbers, not scan positions), cut to `region`, into `out`.

        out: C-contiguous, (len(frames), *region.shape), native byte order, dtype of the source.
        Returns None where all frames are good, else bool (len(frames),): False for corrupt or lost frames.
        Raises SourceChangedError where the file was changed or shortened since it was opened.
        """

    def view(self) -> _Arr | None:
        """All frames as one array (n_frames, *sig) without copying, or None where that is impossible.

        Native byte order, read-only, C order inside a frame, frames may have gaps. Only for memory and for regular local
        files: the engine calls `check` before it touches each partition of it.
        """

    in_memory: bool = False
    """True where a view stays readable whatever happens to files (arrays of this process)."""

    def valid(self, frames: Span) -> _Arr | None:
        """For views: bool (len(frames),), False for corrupt frames; None where all are good."""
        return None

    def check(self) -> None:
        """Raise SourceChangedError unless the data are still as they were at opening. Cheap: called per partition."""

    def close(self) -> None:
        """Release files. Called once; never while a view is in use."""


class Opener(Protocol):
    """Picklable recipe that opens a reader in whatever process needs one. A frozen dataclass."""

    def open_reader(self, channel: str) -> FrameReader:
        """Open a reader of `channel`. Raises SourceChangedError where the file is not what it was."""


@dataclass(frozen=True)
class Partition:
    """One task: scan positions to process. number: its place in the fixed merge tree.

    runs: int64 (k, 2), half-open runs [start, stop) of flat scan positions, rising.
    lost: positions that the source already knows to be lost in this partition, and their status: (positions, codes) or None.
    held: what the source's own reader needs to find these frames, picklable; handed to `TakesPartitions.begin`.
    """

    number: int
    runs: _Arr
    lost: tuple[_Arr, _Arr] | None = None
    held: Any = None

    @property
    def n_positions(self) -> int:
        """Number of positions to process."""
        return int((self.runs[:, 1] - self.runs[:, 0]).sum())

    def positions(self) -> _Arr:
        """Flat scan positions, int64 (n,)."""
        lengths = self.runs[:, 1] - self.runs[:, 0]
        before = np.cumsum(lengths) - lengths
        return np.repeat(self.runs[:, 0] - before, lengths) + np.arange(int(lengths.sum()), dtype=np.int64)


@runtime_checkable
class HandsOut(Protocol):
    """Partitions of a source that keeps its frames only until they are merged: what `FrameSource.partitions` may return."""

    def __next__(self) -> Partition:
        """The next partition; waits for it. Its frames can be read at once."""

    def merged(self, partial: Any) -> None:
        """The frames of this `Partial` are in the result. Called by the loop after each merge."""

    def wake(self) -> None:
        """Hand out nothing more: whoever waits in `next` gets StopIteration. Partitions already handed out are still read."""

    def close(self) -> None:
        """The run is over, no partition is being read any more."""

    def report(self, coverage: Mapping[str, int]) -> Mapping[str, Any]:
        """What the source knows of the run, for `Result.run`: "ledger" and "acquisition". coverage: counts of the positions so far."""


class FrameSource:
    """A data set: `meta`, an `opener` for workers, and partitions. Sources are lazy: nothing is read before it is asked for.

    `source[3, 4]` is a frame, `source[2:5]` an array of frames, `source[...]` all of them (refused if that would not fit
    into memory). `source.channel(name)` is the same scan seen by another channel.
    Sub-classes may override `partitions` to hand out work as it appears (a live acquisition); stored sources use the cut
    that the plan proposes.
    """

    opened: Mapping[str, Any] = {}
    """Keyword arguments of `ls.open` that made this source, for the provenance."""
    tick_s: float = 0.1
    """Time between two publications of a run over this source."""
    keeps_going: bool = False
    """True where the frames come only once: a UDF that fails is left out then, and the others go on."""

    def __init__(self, meta: SourceMeta, opener: Opener, channel: str | None = None) -> None:
        self.meta = meta
        self.opener = opener
        self.channel_name = channel if channel is not None else meta.channels[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """(*scan, *frame)."""
        return (*self.meta.shape.nav, *self.meta.shape.sig)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the frames."""
        return self.meta.dtype

    def partitions(self, planned: Iterable[Partition]) -> Iterator[Partition]:
        """Partitions in the order in which they are to be processed; `planned` is the plan's proposal."""
        return iter(planned)

    def channel_meta(self, name: str) -> SourceMeta:
        """Description of channel `name`; same scan, maybe another frame shape and dtype."""
        return self.meta

    def channel(self, name: str) -> FrameSource:
        """The source with `name` as its default channel. Raises UsageError naming the channels there are."""
        if name not in self.meta.channels:
            raise UsageError(f"{self.meta.id.uri} has no channel {name!r}; it has {', '.join(self.meta.channels)}")
        other = copy.copy(self)
        other.meta, other.channel_name = self.channel_meta(name), name
        return other

    def __getitem__(self, index: Any) -> _Arr:
        from libstream.contracts.indexing import frames_at

        return frames_at(self, index)

    def __repr__(self) -> str:
        m = self.meta
        return f"<{m.id.kind} {m.id.uri} {m.shape} {m.dtype}, {m.n_bytes / 1e9:.3g} GB>"

    def _repr_html_(self) -> str:
        from libstream.model.html import source_html

        return source_html(self.meta, self.channel_name)


class FileFormat(Protocol):
    """One kind of file.

    name: as in `ls.open(..., format=name)`. suffixes: usual endings, lower case, with the dot.
    options: frozen dataclass of what the format can be told (made into forms and CLI options); its fields are
    keyword arguments of `ls.open`.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    options: ClassVar[type]

    def probe(self, head: bytes, path: str) -> float:
        """How sure this format is (0 = not mine, 1 = certain) from the first 64 KiB and the path. Never raises, never slow."""

    def open(self, uri: str, options: Any) -> FrameSource:
        """Open without reading frames. meta.shape.nav is what the file says: (), (n,) or a scan; the caller reshapes.

        Raises FormatError / CorruptFileError with what, where, expected, got, next step.
        """


@runtime_checkable
class ReadsInWays(Protocol):
    """An opener that can read its files in more than one way."""

    def with_io(self, io: str) -> Opener:
        """The same frames, read by "read" (never mapped) or "direct" (past the cache). Raises UsageError where that is impossible."""


@runtime_checkable
class OpensFolders(Protocol):
    """A format of folders (recordings)."""

    def probe_folder(self, path: str) -> float:
        """How sure this format is that the folder is one of its own (0 = not mine, 1 = certain). Never raises, never slow."""


@dataclass(frozen=True)
class Growing:
    """A file that is being written. source: described with all frames that there will be, read without mapping.

    present: number of whole frames that are in the file now; rises. Raises SourceChangedError where the file is gone or was replaced.
    """

    source: FrameSource
    present: Callable[[], int]


@runtime_checkable
class WatchesFiles(Protocol):
    """A format whose frames can be read while the file is being written: frames of one size, one after the other."""

    def watch(self, uri: str, options: Any, n_frames: int | None) -> Growing | None:
        """A file that grows; None while it holds too little to say what it is.

        n_frames: number of frames that there will be, where the caller knows it. Raises UsageError where nobody says it, FormatError
        for a file that is something else (CorruptFileError where it may still become one).
        """


class Planned(Iterator[Partition]):
    """Partitions that are known beforehand: the next one is there without waiting, so that executors take it in their own thread."""

    def __init__(self, partitions: Iterator[Partition]) -> None:
        self._partitions = partitions

    def __next__(self) -> Partition:
        return next(self._partitions)


@runtime_checkable
class TakesPartitions(Protocol):
    """A reader whose frames are wherever the partition says (`Partition.held`)."""

    def begin(self, partition: Partition) -> None:
        """The next reads are for this partition, until `begin` is called again."""

    def read_rows(self, out: _Arr, start: int) -> _Arr | None:
        """As `FrameReader.read_into`: the frames of the partition's positions [start, start + len(out)), wherever they lie."""


@runtime_checkable
class WarmsUp(Protocol):
    """A format whose reading is compiled code."""

    def warm_up(self) -> None:
        """Compile it, or load it from the user's cache; `libstream warmup` calls this."""
