"""What `ls.connect` gives: a live source, whose acquisitions are sources like files."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from libstream.contracts.stream import Detector
from libstream.errors import LibstreamError, NotArmed, UsageError
from libstream.live.acquisition import Acquisition, Arrivals, Describe, ShapeHook
from libstream.live.ingest import Ingest
from libstream.live.ring import MIB, Ring
from libstream.live.runs import Runs
from libstream.model.source import SourceMeta

__all__ = ["POLICIES", "Acquisition", "LiveSource"]

POLICIES = ("block", "drop")


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
        if max_message_bytes is not None and max_message_bytes < 1:
            raise UsageError(f"max_message_bytes is 1 or more, got {max_message_bytes}")
        self.uri, self.detector, self.policy = uri, detector, policy
        self._changed = threading.Condition()
        self._ring = Ring(ring_bytes, None if max_message_bytes is None else max(MIB, max_message_bytes))
        self._arrivals = Arrivals(
            uri, detector.name, self._ring, self._changed, scan=scan, order=order, shape_hook=shape_hook, describe=describe,
            stall_timeout_s=stall_timeout_s,
        )  # fmt: skip
        self._runs = Runs(detector.name, self._changed, self._arrivals, sectors=detector.sectors, n_senders=detector.n_senders)
        self._ingest = Ingest(
            detector, self._ring, self._runs, drop=policy == "drop",
            max_message_bytes=min(self._ring.block_bytes, max_message_bytes or self._ring.block_bytes), recorder=recorder,
        )  # fmt: skip
        self._current: Acquisition | None = None
        self._recorder = recorder
        self._closed = False
        self._ingest.start()
        weakref.finalize(self, self._ingest.leave)  # nobody refers to this source any more, and nobody has closed it

    # -- acquisitions ------------------------------------------------------------------------------------------------

    @property
    def meta(self) -> SourceMeta:
        """A live source has no shape yet. Raises NotArmed."""
        raise NotArmed(
            f"{self.uri} has no shape before an acquisition begins: use `for acquisition in live:` or `live.wait()`, and run UDFs on these"
        )

    def wait(self, timeout_s: float | None = None) -> Acquisition | None:
        """The next acquisition, once its first frame has arrived; None after `timeout_s` seconds.

        The one before is given up when the next one is there, or needs the memory: frames of it that nobody processes make room.
        Raises ShapeError where the scan shape of the next one cannot be, CodecError where its frames cannot be decoded (they are
        counted and not processed; wait again for the one after it), LibstreamError when this source is closed.
        """
        with self._changed:
            end = None if timeout_s is None else time.monotonic() + timeout_s
            queue = self._arrivals.queue
            while not queue:
                if self._closed:
                    raise LibstreamError(f"{self.uri} is closed")
                if self._ring.short:
                    self._give_up_current()
                left = 0.5 if end is None else min(0.5, end - time.monotonic())
                if left <= 0:
                    return None
                self._changed.wait(left)
            self._give_up_current()
            found = queue.popleft()
            if isinstance(found, LibstreamError):
                raise found
            found._source, self._current = self, found
            return found

    def _give_up_current(self) -> None:
        if self._current is not None:
            self._current.give_up()
            self._current = None

    def __iter__(self) -> Iterator[Acquisition]:
        """Acquisitions until this source is closed. One that could not begin is passed over: `problems` says why."""
        while True:
            try:
                found = self.wait()
            except LibstreamError:
                if self._closed:
                    return
                continue
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
    def n_acquisitions(self) -> int:
        """Acquisitions that have begun so far."""
        return self._arrivals.n_acquisitions

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
                "waiting": len(self._arrivals.queue),
                "run": None if running is None else running.header.run,
                "arrived": 0 if running is None else running.n_ready,
                "announced": 0 if running is None else running.n,
                "messages": total.messages,
                "bytes": total.bytes,
                "frames": total.frames,
                "duplicate": total.duplicate,
                "dropped": total.dropped,
                "late": total.late,
                "surplus": total.surplus,
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
            self._current = None
            self._changed.notify_all()
        with ExitStack() as stack:  # each is closed, whatever the others raise
            if self.detector.controller is not None:
                stack.callback(self.detector.controller.close)
            if self._recorder is not None:
                stack.callback(self._recorder.close)
            stack.callback(self._ingest.stop)

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<live {self.uri}: {self.state}, {self.n_acquisitions} acquisitions>"

    def _repr_html_(self) -> str:
        from libstream.model.html import facts_html

        return facts_html("live source", self.uri, [("detector", self.detector.name), *self.status().items()])
