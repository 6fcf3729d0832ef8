"""What can go wrong between a detector and its receiver, done on purpose, from a seed, and accounted for exactly."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from libstream.contracts.stream import Outgoing
from libstream.errors import UsageError


@dataclass(frozen=True)
class Faults:
    """Faults of a replay. Fractions (0 to 1) are of the messages that carry frames; other messages are sent as they are.

    loss: not sent. duplicate: sent twice. reorder: sent up to `window` messages later. delay: held back for `delay_s` seconds
    while others pass. late: sent after the end of the run. corrupt: pixels overwritten. truncate: cut off.
    wrong_shape: of the frames: with a row of pixels less.
    every: each `every`-th frame goes to another client (is not sent).
    extra: frames beyond the announced number, at the end.
    stall_at: before this frame nothing is sent for `stall_s` seconds. die_at: before this frame the connection is closed, for good.
    no_header, no_end: the messages at the start and at the end are not sent.
    new_run_at: before this frame the run is left and the next one begins. foreign_at: from this frame on frames carry the number
    of another run, which never had a header.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    window: int = 16
    delay: float = 0.0
    delay_s: float = 0.05
    late: float = 0.0
    corrupt: float = 0.0
    truncate: float = 0.0
    wrong_shape: float = 0.0
    every: int | None = None
    extra: int = 0
    stall_at: int | None = None
    stall_s: float = float("inf")
    die_at: int | None = None
    no_header: bool = False
    no_end: bool = False
    new_run_at: int | None = None
    foreign_at: int | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder", "delay", "late", "corrupt", "truncate", "wrong_shape"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is a fraction from 0 to 1, got {getattr(self, name)}")
        if self.window < 1:
            raise UsageError(f"window is a number of messages, 1 or more, got {self.window}")
        if self.every is not None and self.every < 2:
            raise UsageError(f"every is 2 or more (each n-th frame goes to another client), got {self.every}")
        for name in ("extra", "stall_at", "die_at", "new_run_at", "foreign_at"):
            if (getattr(self, name) or 0) < 0:
                raise UsageError(f"{name} is a number of frames, 0 or more, got {getattr(self, name)}")
        if self.delay_s < 0 or self.stall_s < 0:
            raise UsageError(f"delay_s and stall_s are times in seconds, 0 or more, got {self.delay_s} and {self.stall_s}")

    @classmethod
    def of(cls, given: dict[str, Any]) -> Faults:
        """From keyword arguments. Raises UsageError naming an unknown one."""
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise UsageError(f"replay knows no fault {name!r}; it knows {', '.join(known)}")
        return cls(**given)

    @property
    def per_message(self) -> bool:
        """True where single messages are treated."""
        return any((self.loss, self.duplicate, self.reorder, self.delay, self.late, self.corrupt, self.truncate))


@dataclass
class RunAccount:
    """What was done to the frames of one run.

    n_frames: that the run has. sent: messages with frames that were sent as they should be, once (late, reordered, delayed ones
    too); the others are listed by the number of their frame, once for each message: a frame that is sent in four sectors may be
    there four times. absent: frames that the source itself has not got. skipped: gone to another client. foreign: sent with the
    number of another run. extra: beyond the announced number. n_not_sent: frames after the connection or the run was left.
    """

    run: int | str
    n_frames: int
    sent: int = 0
    n_messages: int = 0
    n_bytes: int = 0
    lost: list[int] = field(default_factory=list)
    duplicated: list[int] = field(default_factory=list)
    reordered: list[int] = field(default_factory=list)
    delayed: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    corrupted: list[int] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)
    wrong_shape: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    foreign: list[int] = field(default_factory=list)
    extra: list[int] = field(default_factory=list)
    absent: list[int] = field(default_factory=list)
    n_not_sent: int = 0
    ended: bool = False

    def __str__(self) -> str:
        names = (
            "lost",
            "skipped",
            "duplicated",
            "reordered",
            "delayed",
            "late",
            "corrupted",
            "truncated",
            "wrong_shape",
            "foreign",
            "extra",
        )
        said = [f"{len(getattr(self, n)):,} {n.replace('_', ' ')}" for n in (*names, "absent") if getattr(self, n)]
        if self.n_not_sent:
            said.append(f"{self.n_not_sent:,} not sent")
        return f"run {self.run}: {self.n_frames:,} frames, {self.sent:,} messages sent well" + (f", {', '.join(said)}" if said else "")


@dataclass
class ReplayAccount:
    """What a replay did, run by run. died: the connection was closed on purpose; cancelled: the replay was stopped."""

    runs: list[RunAccount] = field(default_factory=list)
    seconds: float = 0.0
    died: bool = False
    cancelled: bool = False

    @property
    def n_frames(self) -> int:
        """Frames of all runs."""
        return sum(r.n_frames for r in self.runs)

    @property
    def n_bytes(self) -> int:
        """Bytes given to the connection."""
        return sum(r.n_bytes for r in self.runs)

    def __str__(self) -> str:
        return "\n".join(map(str, self.runs)) or "nothing was sent"


class Sieve:
    """Applies the faults of single messages to a run. `give` takes the messages in order and yields what is to be sent now."""

    def __init__(self, faults: Faults, seed: int, account: RunAccount) -> None:
        self.faults, self.account = faults, account
        self._random = np.random.default_rng(seed)
        self._count = 0
        self._held: list[tuple[int, int, list[Outgoing]]] = []  # (message after which it goes, its place, it)
        self._until: list[tuple[float, int, list[Outgoing]]] = []  # (time, its place, it)
        self._late: list[Outgoing] = []

    def give(self, message: Outgoing) -> Iterator[Outgoing]:
        """One message of the run that carries a frame."""
        f, a = self.faults, self.account
        number = -1 if message.number is None else message.number
        self._count += 1
        u = self._random.random(7)
        copies = [message]
        if u[0] < f.loss:
            a.lost.append(number)
            copies = []
        elif u[1] < f.corrupt:
            copies = [_corrupted(message, self._random)]
            a.corrupted.append(number)
        elif u[2] < f.truncate:
            copies = [_truncated(message, self._random)]
            a.truncated.append(number)
        else:
            a.sent += 1
            if u[3] < f.duplicate:
                a.duplicated.append(number)
                copies = [message, message]
        if copies:
            if u[4] < f.late:
                a.late.append(number)
                self._late += copies
                copies = []
            elif u[5] < f.delay:
                a.delayed.append(number)
                heapq.heappush(self._until, (time.monotonic() + f.delay_s, self._count, copies))
                copies = []
            elif u[6] < f.reorder:
                a.reordered.append(number)
                heapq.heappush(self._held, (self._count + int(self._random.integers(1, f.window + 1)), self._count, copies))
                copies = []
        yield from copies
        while self._held and self._held[0][0] <= self._count:
            yield from heapq.heappop(self._held)[2]
        yield from self.due()

    def due(self) -> Iterator[Outgoing]:
        """Delayed messages whose time has come."""
        while self._until and self._until[0][0] <= time.monotonic():
            yield from heapq.heappop(self._until)[2]

    def rest(self) -> Iterator[Outgoing]:
        """All that still waits for its turn, before the end of the run."""
        while self._held:
            yield from heapq.heappop(self._held)[2]
        while self._until:
            yield from heapq.heappop(self._until)[2]

    def late(self) -> Iterable[Outgoing]:
        """What comes after the end of the run."""
        late, self._late = self._late, []
        return late


def _corrupted(message: Outgoing, random: np.random.Generator) -> Outgoing:
    """The middle of the largest part overwritten: pixels, with lengths of runs that no decoder of LZ4 can believe."""
    at, part = _largest(message)
    if len(part):
        size = max(1, len(part) // 4)
        first = min(len(part) * 3 // 8 + int(random.integers(0, len(part) // 8 + 1)), len(part) - size)
        part[first : first + size] = b"\xff" * size
        part[first] ^= int(random.integers(0, 16))  # never the same twice
    return _with(message, at, part)


def _truncated(message: Outgoing, random: np.random.Generator) -> Outgoing:
    at, part = _largest(message)
    return _with(message, at, part[: int(random.integers(0, max(1, len(part))))])


def _largest(message: Outgoing) -> tuple[int, bytearray]:
    sizes = [memoryview(p).nbytes for p in message.parts]
    at = sizes.index(max(sizes))
    return at, bytearray(message.parts[at])


def _with(message: Outgoing, at: int, part: bytearray) -> Outgoing:
    parts = list(message.parts)
    parts[at] = bytes(part)
    return message._replace(parts=tuple(parts))
