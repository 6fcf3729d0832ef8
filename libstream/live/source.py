"""What `ls.connect` gives: a live source, whose acquisitions are sources like files."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from libstream.contracts.source import FrameSource, Partition
from libstream.contracts.stream import Detector, RunHeader
from libstream.errors import LibstreamError, NotArmed, ShapeError, UsageError
from libstream.live.assemble import Layout, Run
from libstream.live.handout import HandOut
from libstream.live.ingest import Ingest, Recorder
from libstream.live.ledger import Counts
from libstream.live.reader import opener_of
from libstream.live.ring import MIB, Ring
from libstream.live.runs import Runs
from libstream.model.order import ScanOrder
from libstream.model.shape import DataShape
from libstream.model.source import Axis, SourceId, SourceMeta, default_axes

PUBLISH_S = 0.05
"""Time between two publications of a live run."""
STALL_MIN_S, STALL_FRAMES = 5.0, 20
POLICIES = ("block", "drop")
ShapeHook = Callable[[int, RunHeader], Any]
Describe = Callable[[SourceMeta], SourceMeta]


class Acquisition(FrameSource):
    """One run of a detector, while it happens and afterwards; used like a file.

    Its frames are kept in memory until they are processed, and as long as there is room after that: running other UDFs, or changing
    parameters, applies to all that are still there.
    """

    tick_s = PUBLISH_S
    keeps_going = True

    def __init__(self, run: Run, meta: SourceMeta, metas: Mapping[str, SourceMeta]) -> None:
        super().__init__(meta, opener_of(run))
        self._run, self._metas = run, dict(metas)

    def partitions(self, planned: Iterable[Partition]) -> Iterator[Partition]:
        """Partitions as frames arrive; ends when the run is closed and everything was handed out."""
        frame_bytes = sum(m.shape.frame_size * m.dtype.itemsize for m in self._metas.values())
        return HandOut(self._run, planned, frame_bytes)

    def channel_meta(self, name: str) -> SourceMeta:
        """See `FrameSource`."""
        return self._metas.get(name, self.meta)

    @property
    def run(self) -> int | str:
        """The detector's number of this run."""
        return self._run.header.run

    @property
    def state(self) -> str:
        """running, draining, done, incomplete or failed."""
        return self._run.state

    @property
    def reason(self) -> str:
        """Why it ended as it did, in words; "" for a regular end."""
        return self._run.reason

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know."""
        return (*self.meta.notes, *self._run.notes[len(self.meta.notes) :])

    @property
    def n_arrived(self) -> int:
        """Positions whose frame has arrived so far."""
        return self._run.n_ready

    @property
    def counts(self) -> Counts:
        """What was received, by kind."""
        return replace(self._run.counts)

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait until the run is closed; returns its state (still "running" after `timeout_s` seconds)."""
        with self._run.changed:
            self._run.changed.wait_for(lambda: self._run.closed, timeout_s)
            return self._run.state

    def give_up(self) -> None:
        """Frames that nobody processes need not be kept; called when its user goes on to the next acquisition."""
        with self._run.changed:
            self._run.give_up()
            self._run.changed.notify_all()


class LiveSource:
    """A detector that sends acquisitions, one after another. Made by `ls.connect`; a context manager and an iterator.

    `for acquisition in live:` waits for each; `wait(timeout_s)` for one. `arm`, `trigger`, `disarm` command the detector where it can
    be commanded. Frames come in from the moment of connecting, whether somebody asks for them or not.
    """

    def __init__(
        self,
        detector: Detector,
        uri: str,
        *,
        scan: tuple[int, ...] | None,
        order: Mapping[str, Any],
        shape_hook: ShapeHook | None,
        ring_bytes: int,
        max_message_bytes: int | None,
        policy: str,
        stall_timeout_s: float | None,
        describe: Describe,
        recorder: Any = None,
    ) -> None:
        if policy not in POLICIES:
            raise UsageError(f"policy is one of {', '.join(POLICIES)}, got {policy!r}")
        if stall_timeout_s is not None and not stall_timeout_s > 0:
            raise UsageError(f"stall_timeout_s is a time in seconds, got {stall_timeout_s!r}")
        if scan is not None:
            ScanOrder.of(scan, **order)
        self.uri, self.detector, self.policy = uri, detector, policy
        self._scan, self._order, self._hook, self._describe, self._stall = scan, dict(order), shape_hook, describe, stall_timeout_s
        block = None if max_message_bytes is None else max(MIB, max_message_bytes)
        self._ring = Ring(ring_bytes, block)
        self._changed = threading.Condition()
        self._queue: deque[Acquisition | LibstreamError] = deque()
        self._current: Acquisition | None = None
        self._recorder: Recorder | None = recorder
        self._runs = Runs(
            detector.name, self._changed, self._begin, self._refused,
            sectors=detector.sectors, n_senders=detector.n_senders, stall_s=self._stall_of,
        )  # fmt: skip
        self._ingest = Ingest(
            detector, self._ring, self._runs, drop=policy == "drop",
            max_message_bytes=min(self._ring.block_bytes, max_message_bytes or self._ring.block_bytes), recorder=recorder,
        )  # fmt: skip
        self._closed = False
        self.n_acquisitions = 0
        self._t = time.monotonic()
        self._ingest.start()

    # -- acquisitions ------------------------------------------------------------------------------------------------

    @property
    def meta(self) -> SourceMeta:
        """A live source has no shape yet. Raises NotArmed."""
        raise NotArmed(
            f"{self.uri} has no shape before an acquisition begins: use `for acquisition in live:` or `live.wait()`, and run UDFs on these"
        )

    def wait(self, timeout_s: float | None = None) -> Acquisition | None:
        """The next acquisition, once its first frame has arrived; None after `timeout_s` seconds.

        The one before is given up: frames of it that nobody processes make room. Raises ShapeError where its scan shape cannot be
        (frames of such a run are counted and not processed), LibstreamError when this source is closed.
        """
        with self._changed:
            if self._current is not None:
                self._current._run.give_up()
                self._current = None
                self._changed.notify_all()
            end = None if timeout_s is None else time.monotonic() + timeout_s
            while not self._queue:
                if self._closed:
                    raise LibstreamError(f"{self.uri} is closed")
                left = 0.5 if end is None else min(0.5, end - time.monotonic())
                if left <= 0:
                    return None
                self._changed.wait(left)
            found = self._queue.popleft()
            if isinstance(found, LibstreamError):
                raise found
            self._current = found
            return found

    def __iter__(self) -> Iterator[Acquisition]:
        while True:
            try:
                found = self.wait()
            except LibstreamError:
                if self._closed:
                    return
                raise
            if found is not None:
                yield found

    # -- commands ----------------------------------------------------------------------------------------------------

    def arm(self, **settings: Any) -> int | str | None:
        """Apply settings and arm the detector; the number of the run that will come, where it says so. Raises UsageError, OSError."""
        return self._controller().arm(**settings)

    def trigger(self) -> None:
        """Start the armed acquisition. Raises UsageError, OSError."""
        self._controller().trigger()

    def disarm(self) -> None:
        """Stop the detector. Raises UsageError, OSError."""
        self._controller().disarm()

    def _controller(self) -> Any:
        if self.detector.controller is None:
            raise UsageError(
                f"{self.uri} has no connection for commands: only listening is possible. "
                "Some detectors take one in the address, such as dectris://host:9999?api=80 or merlin://host:6342?control=6341"
            )
        return self.detector.controller

    # -- how it stands -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """waiting, armed, running, draining or closed."""
        return "closed" if self._closed else self._runs.state

    @property
    def address(self) -> str:
        """The address in use, with the real port where 0 was given."""
        return self.detector.transport.address

    @property
    def problems(self) -> tuple[str, ...]:
        """The last things that went wrong, in words."""
        with self._changed:
            return tuple(self._runs.problems)

    def status(self) -> dict[str, Any]:
        """For people and progress lines: state, counts since connecting, how full the memory is (0 to 1), acquisitions so far."""
        with self._changed:
            total, running = self._runs.total, self._runs.open[-1] if self._runs.open else None
            return {
                "state": self.state,
                "address": self.address,
                "acquisitions": self.n_acquisitions,
                "waiting": len(self._queue),
                "run": None if running is None else running.header.run,
                "arrived": 0 if running is None else running.n_ready,
                "announced": 0 if running is None else running.n,
                "messages": total.messages,
                "bytes": total.bytes,
                "late": total.late,
                "foreign": total.foreign,
                "malformed": total.malformed,
                "oversized": total.oversized,
                "fill": self._ring.fill,
                "blocked": self._ingest.blocked,
                "problems": len(self._runs.problems),
                "recorded_bytes": getattr(self._recorder, "n_bytes", 0),
                "recording_error": getattr(self._recorder, "error", None),
            }

    def close(self) -> None:
        """Disconnect. The open run becomes incomplete; runs of UDFs over it end with what there is. Idempotent."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
        self._ingest.stop()
        if self._recorder is not None:
            self._recorder.close()  # type: ignore[attr-defined]
        if self.detector.controller is not None:
            self.detector.controller.close()
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<live {self.uri}: {self.state}, {self.n_acquisitions} acquisitions>"

    # -- called by the receiving thread, with `changed` held ------------------------------------------------------------

    def _begin(self, header: RunHeader, layout: Layout, first: int) -> Run:
        order = self._order_of(header)
        run = Run(header, order, layout, self._ring, self._changed, first)
        metas = self._metas(header, order, layout, first)
        acquisition = Acquisition(run, metas[layout.channels[0]], metas)
        self.n_acquisitions += 1
        self._queue.append(acquisition)
        return run

    def _refused(self, header: RunHeader, exc: LibstreamError) -> None:
        self._queue.append(exc)

    def _stall_of(self, header: RunHeader) -> float:
        if self._stall is not None:
            return self._stall
        return max(STALL_MIN_S, STALL_FRAMES * (header.frame_time_s or 0.0))

    def _order_of(self, header: RunHeader) -> ScanOrder:
        n = header.n_frames
        scan, said = self._scan, "scan="
        if scan is None and header.scan is not None:
            scan, said = tuple(header.scan), "the stream"
        if scan is None and self._hook is not None and n is not None:
            scan, said = _shape(self._hook(n, header)), "the shape hook"
        if scan is None:
            if n is None:
                raise ShapeError(
                    f"run {header.run!r}: the detector announces no number of frames; say the shape of the scan: connect with scan=(y, x)"
                )
            scan, said = (n,), "the announced number of frames"
            if self._order.get("positions") is None and not self._order.get("flyback") and self._order.get("frames_per_position", 1) == 1:
                return ScanOrder.of(scan)
        order = ScanOrder.of(scan, **self._order)
        if n is not None and order.n_frames != n:
            raise ShapeError(
                f"run {header.run!r}: the detector announces {n} frames, but the scan {scan} from {said} "
                f"({_order_words(self._order)}) takes {order.n_frames}. Nothing was processed. Give the scan=, flyback= and "
                "frames_per_position= that multiply to the announced number"
            )
        return order

    def _metas(self, header: RunHeader, order: ScanOrder, layout: Layout, first: int) -> dict[str, SourceMeta]:
        out = {}
        for c, name in enumerate(layout.channels):
            shape = DataShape(order.nav, layout.frame_shape(c))
            dtype = np.dtype(layout.dtypes[c])
            uri = f"{self.uri}#run={header.run}" + (f"&from={first}" if first else "")
            n_bytes = shape.n_positions * shape.frame_size * dtype.itemsize
            vendor = dict(header.meta)
            meta = SourceMeta(
                SourceId(uri, self.detector.name, n_bytes), shape, dtype, axes=_axes(shape, order, header), channels=layout.channels,
                vendor=vendor, notes=header.notes,
            )  # fmt: skip
            out[name] = self._describe(meta)
        return out


def _axes(shape: DataShape, order: ScanOrder, header: RunHeader) -> tuple[Axis, ...]:
    axes = list(default_axes(shape))
    if order.frames_per_position > 1:
        base = default_axes(DataShape(order.nav[:-1], shape.sig))
        axes = [*base[: len(order.nav) - 1], Axis("repeat", order.nav[-1]), *base[len(order.nav) - 1 :]]
    return tuple(replace(a, step=float(header.axes[a.name][0]), unit=header.axes[a.name][1]) if a.name in header.axes else a for a in axes)


def _order_words(order: Mapping[str, Any]) -> str:
    words = [f"{k}={v}" for k, v in order.items() if k != "positions" and v not in (0, 1, None)]
    return ", ".join([*words, *(["positions="] if order.get("positions") is not None else [])])


def _shape(value: Any) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in value)
    except TypeError:
        return (int(value),)
