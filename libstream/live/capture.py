"""Recording alone: what a detector sends goes to disk, without a scan shape, without UDFs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from libstream import registry
from libstream.contracts.stream import Announced, Detector, FramePart, RunEnd, RunHeader, StreamUrl
from libstream.errors import UsageError, WireError
from libstream.live.record import RESERVE_BYTES, Recorder, free_bytes

_Arr = np.ndarray[Any, Any]

BLOCK_BYTES, BLOCKS = 32 << 20, 16
"""Memory between the wire and the disk: a second of a fast detector."""
_ROWS = 16384
_STEP_S = 0.05
_TELL_S = 0.1
END_S = 0.5
"""Silence after the last run that was asked for: its last messages may come after its end."""
_MOST_SEEN = 1 << 26
_ENOUGH = 16
"""Frames after which the size of a run is estimated."""


@dataclass
class Captured:
    """One recorded run. n_frames: announced, None where it is not known; parts: different parts of frames that came, `pieces` of them
    in each frame; n_bytes: of their pixels, encoded; state: "running", "done", or "incomplete" (frames did not come)."""

    run: int | str
    n_frames: int | None
    pieces: int
    parts: int = 0
    n_bytes: int = 0
    state: str = "running"
    announced: dict[int, int] = field(default_factory=dict, repr=False)
    messages: int = 0
    _seen: bytearray = field(default_factory=bytearray, repr=False)

    def take(self, part: FramePart, sectors: int) -> bool:
        """Note a part of a frame; False where it came before. Frames beyond 64 million are counted without looking."""
        self.messages += 1
        self.n_bytes += part.stop - part.start
        at = part.number * self.pieces + part.channel * sectors + part.sector
        if 0 <= at < _MOST_SEEN:
            if at >= len(self._seen):
                self._seen.extend(bytes(at + 1 - len(self._seen) + (1 << 16)))
            if self._seen[at]:
                return False
            self._seen[at] = 1
        self.parts += 1
        return True

    @property
    def frames(self) -> int:
        """Whole frames that came (by number of parts)."""
        return self.parts // self.pieces

    def __str__(self) -> str:
        of = "" if self.n_frames is None else f" of {self.n_frames:,}"
        return f"run {self.run}: {self.frames:,}{of} frames, {self.state}"


@dataclass
class Capture:
    """How a recording stands, or what it came to.

    n_bytes, n_messages: written; waiting: bytes in memory that are not written yet; full: times the detector had to wait for the disk;
    malformed: messages that the decoder did not understand (they are recorded all the same); error: why the recording ended early.
    """

    runs: list[Captured] = field(default_factory=list)
    n_bytes: int = 0
    n_messages: int = 0
    waiting: int = 0
    full: int = 0
    malformed: int = 0
    foreign: int = 0
    oversized: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def n_over(self) -> int:
        """Runs that have ended."""
        return sum(r.state != "running" for r in self.runs)


def record(
    url: str,
    folder: str | os.PathLike[str],
    *,
    count: int | None = None,
    needed_bytes: int | None = None,
    reserve_bytes: int = RESERVE_BYTES,
    stall_timeout_s: float = 5.0,
    progress: Callable[[Capture], None] | None = None,
    opened: Callable[[str], None] | None = None,
    cancel: threading.Event | None = None,
    block_bytes: int = BLOCK_BYTES,
    **options: Any,
) -> Capture:
    """Write everything that a detector sends to a folder, until `count` runs are over, or `cancel` is set.

    Args:
        url: address of the detector, as for `connect`. folder: is made; a recording of the same detector in it goes on.
        count: number of runs; None = until cancelled.
        needed_bytes: expected size; refused where it cannot fit. reserve_bytes: stays free on the disk; the recording ends before.
        stall_timeout_s: silence after which a run is over without its end.
        progress: called some 10 times a second. opened: called with the address in use.
        block_bytes: largest message.
        options: what the kind of detector takes.

    Raises:
        UsageError: a bad address or option, or a folder that holds something else. SaveError: no space, or not writable.
        OSError: the address cannot be had.
    """
    if count is not None and count < 1:
        raise UsageError(f"count is a number of runs, 1 or more, got {count}")
    address = StreamUrl.parse(url)
    detector: Detector = registry.load("detectors", address.scheme)().receiver(address, **options)
    recorder = Recorder(folder, url, address.scheme, options=options, needed_bytes=needed_bytes, reserve_bytes=reserve_bytes)
    try:
        loop = _Loop(detector, recorder, block_bytes, stall_timeout_s, reserve_bytes)
        detector.transport.open()
        try:
            if opened is not None:
                opened(detector.transport.address)
            loop.run(count, cancel or threading.Event(), progress)
        finally:
            detector.transport.close()
            if detector.controller is not None:
                detector.controller.close()
    finally:
        recorder.close()
    return loop.end(progress)


class _Loop:
    """Receives into blocks, hands them to the recorder, looks at what they hold."""

    def __init__(self, detector: Detector, recorder: Recorder, block_bytes: int, stall_s: float, reserve: int) -> None:
        self._detector, self._recorder, self._stall_s, self._reserve = detector, recorder, stall_s, reserve
        self._decoder = detector.make_decoder()
        self._memory = np.empty((BLOCKS, block_bytes), np.uint8)  # pages are taken when they are first used
        self._free = list(range(BLOCKS))
        self._pins = [0] * BLOCKS
        self._changed = threading.Condition()
        self._table = np.zeros((_ROWS, 3), np.int64)
        self._block, self._used = self._free.pop(), 0
        self._now: Captured | None = None
        self._pieces = 1
        self._begun = self._heard = time.monotonic()
        self._told = 0.0
        self.state = Capture()

    def run(self, count: int | None, cancel: threading.Event, progress: Callable[[Capture], None] | None) -> None:
        """Until enough runs are over, the disk is full, or somebody cancels."""
        state = self.state
        while not cancel.is_set() and self._recorder.error is None:
            try:
                self._turn()
            except OSError as exc:  # the connection cannot be had now
                if str(exc) not in state.notes:
                    state.notes.append(str(exc))
                cancel.wait(0.2)
            now = time.monotonic()
            if self._now is not None and now - self._heard > self._stall_s:
                self._over("incomplete")
            if count is not None and state.n_over >= count and now - self._heard > END_S:
                return
            if progress is not None and now - self._told >= _TELL_S:
                self._told = now
                progress(self._stand())

    def end(self, progress: Callable[[Capture], None] | None) -> Capture:
        """The account, after the recorder was closed."""
        if self._now is not None:
            self._over("incomplete")
        state = self._stand()
        if progress is not None:
            progress(state)
        return state

    def _stand(self) -> Capture:
        state, recorder = self.state, self._recorder
        state.n_bytes, state.n_messages, state.error = recorder.n_bytes, recorder.n_messages, recorder.error
        state.seconds = time.monotonic() - self._begun
        with self._changed:
            state.waiting = (BLOCKS - len(self._free) - 1) * self._memory.shape[1]
        return state

    def _turn(self) -> None:
        if self._used < 0 and not self._next_block():
            return
        block = self._block
        into = self._memory[block, self._used :]
        got = self._detector.transport.receive(into, self._table, _STEP_S, self._memory.shape[1])
        self.state.oversized += got.dropped
        if got.messages:
            self._heard = time.monotonic()
            with self._changed:
                self._pins[block] += 1
            self._recorder.put(into[: got.used], self._table, got.rows, got.lane, time.time_ns(), lambda: self._written(block))
            self._look(into, self._table[: got.rows].tolist())
            self._used += got.used
        if got.full:
            self._used = -1  # take another one
        if got.closed:
            if self._now is not None:
                self._over("incomplete")
            self._decoder = self._detector.make_decoder()

    def _next_block(self) -> bool:
        with self._changed:
            if self._block >= 0:
                old, self._block = self._block, -1
                if not self._pins[old]:
                    self._free.append(old)
            if not self._free:
                self.state.full += 1
                self._changed.wait(_STEP_S)
                self._heard = time.monotonic()  # silence that is ours
                return False
            self._block, self._used = self._free.pop(), 0
            return True

    def _written(self, block: int) -> None:
        with self._changed:
            self._pins[block] -= 1
            if not self._pins[block] and block != self._block:
                self._free.append(block)
                self._changed.notify_all()

    # -- what it is --------------------------------------------------------------------------------------------------------

    def _look(self, into: _Arr, rows: list[list[int]]) -> None:
        view, feed = memoryview(into), self._decoder.feed
        i, end = 0, len(rows)
        while i < end:
            number, parts = rows[i][0], []
            while i < end and rows[i][0] == number:
                _, at, size = rows[i]
                parts.append(view[at : at + size])
                i += 1
            try:
                for event in feed(parts):
                    self._event(event)
            except WireError:
                self.state.malformed += 1
            except Exception as exc:  # noqa: BLE001  a decoder of somebody else must not end the recording
                self.state.malformed += 1
                if self.state.malformed == 1:
                    self.state.notes.append(f"the decoder of {self._detector.name} raised {type(exc).__name__}: {exc}; this is a bug in it")

    def _event(self, event: Any) -> None:
        now = self._now
        if type(event) is FramePart:
            if now is None or event.run != now.run:
                if not any(r.run == event.run for r in self.state.runs):
                    self.state.foreign += 1
                return
            if event.channel >= self._pieces // self._detector.sectors:
                self._pieces = now.pieces = (event.channel + 1) * self._detector.sectors
            if now.take(event, self._detector.sectors) and now.parts == _ENOUGH * now.pieces:
                self._estimate(now)
            self._look_for_end(now)
        elif type(event) is RunHeader:
            if now is not None:
                if now.run == event.run and self._detector.n_senders > 1:
                    return
                self._over("incomplete")
            self._pieces = max(1, len(event.channels)) * self._detector.sectors
            self._now = Captured(event.run, event.n_frames, self._pieces)
            self.state.runs.append(self._now)
        elif type(event) is RunEnd:
            if now is not None and event.run == now.run and self._detector.n_senders == 1:
                self._over("done" if now.n_frames in (None, now.frames) else "incomplete")
        elif type(event) is Announced and now is not None and event.run == now.run:
            now.announced[event.sender] = event.n_parts
            self._look_for_end(now)

    def _look_for_end(self, now: Captured) -> None:
        every = now.n_frames is not None and now.parts >= now.n_frames * now.pieces
        said = now.announced and len(now.announced) >= self._detector.n_senders and now.messages >= sum(now.announced.values())
        if said or (every and not (self._decoder.has_end and self._detector.n_senders == 1)):
            self._over("done" if now.n_frames is None or every else "incomplete")

    def _over(self, state: str) -> None:
        if self._now is not None:
            if state == "incomplete" and self._now.n_frames is not None and self._now.frames >= self._now.n_frames:
                state = "done"
            self._now.state = state
            self._now = None

    def _estimate(self, now: Captured) -> None:
        """Say early that a run will not fit."""
        if now.n_frames is None:
            return
        needed = now.n_bytes / now.parts * now.pieces * now.n_frames - now.n_bytes
        room = free_bytes(self._recorder.folder) - self._reserve
        if needed > room:
            fits = max(0, int(room / (now.n_bytes / now.frames)))
            self.state.notes.append(
                f"run {now.run!r} needs about {needed / 1e9:.1f} GB more, {max(0, room) / 1e9:.1f} GB are there: the recording will end "
                f"after about {now.frames + fits:,} of {now.n_frames:,} frames. Make room on the disk of {self._recorder.folder} now"
            )
