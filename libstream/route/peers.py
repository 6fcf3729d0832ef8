"""Who is connected to a router: consumers with their credits, and clients."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from libstream.route.passes import Pass
from libstream.route.wire import Message

RATE_S = 1.0
"""Rates are means over about this time."""


class Rate:
    """Frames and bytes, and how many of them in a second."""

    def __init__(self) -> None:
        self.frames = self.bytes = 0
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=64)

    def look(self, now: float) -> tuple[float, float]:
        """(frames/s, bytes/s) over the last second or so. Call it a few times a second."""
        if not self._marks or now - self._marks[-1][0] >= RATE_S / 8:
            self._marks.append((now, self.frames, self.bytes))
        while len(self._marks) > 2 and now - self._marks[1][0] >= RATE_S:
            self._marks.popleft()
        t, frames, n_bytes = self._marks[0]
        passed = max(now - t, 1e-3)
        return (self.frames - frames) / passed, (self.bytes - n_bytes) / passed


@dataclass
class Session:
    """A consumer from its first word until it is lost. A consumer that comes back is another session.

    client: for whom it works. ring_bytes: memory that it has for blocks. most: blocks that it may have at once. held: blocks that it has
    not worked off, by (token, number), and their bytes. passed: bytes of frames that it has
    worked off. lost: since when it is given up; 0.0 while it lives.
    """

    name: bytes
    client: bytes
    host: str
    pid: int
    ring_bytes: int
    most: int
    heard: float
    held: dict[tuple[str, int], int] = field(default_factory=dict)
    n_bytes: int = 0
    lost: float = 0.0
    state: str = "idle"
    frames: int = 0
    passed: int = 0
    rates: tuple[float, float] = (0.0, 0.0)
    last_error: str = ""

    @classmethod
    def of(cls, name: bytes, said: Message, now: float) -> Session:
        """By its first word. Raises WireError."""
        return cls(
            name, said.text("client").encode(), said.text("host"), said.number("pid"), said.number("ring_bytes", 1),
            said.number("most", 1, 4096), now,
        )  # fmt: skip

    @property
    def id(self) -> str:
        """As text, for messages."""
        return self.name.decode("ascii", "replace")

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.host}:{self.pid}"

    def heard_of(self, said: Message, now: float) -> None:
        """It lives. Raises WireError."""
        self.heard = now
        self.frames, self.passed = said.number("frames"), said.number("bytes")
        self.rates = (float(said.number("frames_per_s")), float(said.number("bytes_per_s")))
        self.last_error = said.text("last_error", 2000)

    def takes(self, size: int) -> bool:
        """Whether it has credit for a block of `size` bytes; an idle one takes any."""
        return not self.lost and (not self.held or (len(self.held) < self.most and self.n_bytes + size <= self.ring_bytes))

    def give(self, token: str, number: int, size: int) -> None:
        """A block is on its way to it."""
        self.held[token, number] = size
        self.n_bytes += size

    def freed(self, token: str, numbers: list[int]) -> None:
        """It has worked off these."""
        for number in numbers:
            self.n_bytes -= self.held.pop((token, number), 0)

    def working_on(self, token: str) -> list[int]:
        """Numbers of the blocks of this pass that it was probably working on: it takes them in order, one for each of its threads."""
        return [n for t, n in list(self.held)[: max(1, self.most // 2 - 1)] if t == token]

    def forget(self, token: str) -> None:
        """A pass is over."""
        self.freed(token, [n for t, n in self.held if t == token])

    def node(self, now: float) -> dict[str, Any]:
        """As in the health dictionary."""
        return {
            "name": self.label, "role": "consumer", "host": self.host, "pid": self.pid,
            "state": "lost" if self.lost else "busy" if self.held else "idle", "frames": self.frames, "bytes": self.passed,
            "frames_per_s": 0.0 if self.lost else self.rates[0], "bytes_per_s": 0.0 if self.lost else self.rates[1],
            "fill": min(1.0, self.n_bytes / self.ring_bytes), "ring_bytes": self.ring_bytes, "blocks": len(self.held),
            "seen_s": round(max(0.0, now - self.heard), 3), "last_error": self.last_error,
        }  # fmt: skip


@dataclass
class Running:
    """A pass that a client has asked for. run: key of the acquisition. due: when the next account goes out. told: what was sent last."""

    work: Pass
    run: int
    layout: dict[str, Any]
    ring: Any
    frame_bytes: int
    due: float = 0.0
    told: Any = None
    owners: dict[int, bytes] = field(default_factory=dict)


@dataclass
class Client:
    """A program that merges. source: index of the detector that it follows. waits: it has asked for the next acquisition."""

    name: bytes
    source: int
    heard: float = field(default_factory=time.monotonic)
    waits: bool = False
    passes: dict[str, Running] = field(default_factory=dict)
    told: dict[int, Any] = field(default_factory=dict)
