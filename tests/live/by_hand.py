"""The receiving side of a live source without its thread and its clock: one message, or one moment, at a time."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from libstream.contracts.source import Partition
from libstream.contracts.stream import Detector
from libstream.live import handout, runs
from libstream.live.acquisition import Acquisition, Arrivals
from libstream.live.ingest import Ingest
from libstream.live.ledger import imbalance
from libstream.live.ring import Ring
from libstream.live.runs import Runs
from libstream.model.partial import CORRUPT, EXCLUDED, PROCESSED, UNSEEN, Coverage, Partial
from libstream.testing.detectors import Wire, WireDecoder

SIG = (4, 4)
N = 12
SCAN = (3, 4)


def marked(run: int, number: int, channel: int = 0) -> np.ndarray[Any, Any]:
    """The frame that carries its own number."""
    return (np.arange(SIG[0] * SIG[1]).reshape(SIG) + 1000 * run + 16 * number + channel).astype("<u2")


class Clock:
    """Stands in for `time` in the modules of `patched`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """What a test has set."""
        return self.now


class ByHand:
    """A live source whose turns are called by the test.

    frame: shape (y, x) of whole frames of dtype <u2. blocks: of the ring, each of `block_bytes`.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        *,
        scan: tuple[int, ...] | None,
        sectors: int = 1,
        channels: tuple[str, ...] = ("frames",),
        n_senders: int = 1,
        blocks: int = 64,
        block_bytes: int = 1 << 12,
        drop: bool = False,
        has_end: bool = True,
        stall_s: float = 5.0,
        max_message_bytes: int | None = None,
        **order: Any,
    ) -> None:
        self.clock = Clock()
        patch.setattr(runs, "time", self.clock)
        patch.setattr(handout, "FLUSH_S", 0.0)
        patch.setattr(handout, "PAUSE_S", 0.0)
        self.wire = Wire(sectors=sectors, channels=channels)
        self.changed = threading.Condition()
        self.ring = Ring(blocks * block_bytes, block_bytes)
        detector = Detector("memory", self.wire, lambda: WireDecoder(has_end=has_end), sectors, n_senders)  # type: ignore[arg-type]
        self.arrivals = Arrivals(
            "memory://", "memory", self.ring, self.changed, scan=scan, order=order, shape_hook=None, describe=lambda m: m,
            stall_timeout_s=stall_s,
        )  # fmt: skip
        self.runs = Runs("memory", self.changed, self.arrivals, sectors=sectors, n_senders=n_senders)
        self.ingest = Ingest(detector, self.ring, self.runs, drop=drop, max_message_bytes=max_message_bytes or block_bytes)
        patch.setattr("libstream.live.ingest.TICK_S", 0.0)

    def turn(self) -> None:
        """Receive what was sent, and look at the clock."""
        while self.wire.waiting:
            self.ingest._turn()
            if self.ingest.blocked and not self.ingest._drop:
                break
        self.ingest._turn()

    def after(self, seconds: float) -> None:
        """Receive what was sent; then time passes."""
        self.turn()
        self.clock.now += seconds
        self.turn()

    def taken(self) -> list[Any]:
        """Acquisitions and errors that wait to be taken."""
        found = list(self.arrivals.queue)
        self.arrivals.queue.clear()
        return found


class Pass:
    """One pass over an acquisition: partitions are taken, read and merged when the test says so.

    roi: bool (n_positions,), True where asked for. expected: f(position, channel) -> frame (y, x).
    """

    def __init__(self, acquisition: Acquisition, expected: Any, roi: np.ndarray[Any, Any] | None = None, at_most: int = 7) -> None:
        self.run, self.expected = acquisition._run, expected
        n = self.run.n
        self.roi = np.ones(n, bool) if roi is None else roi
        cuts = [np.flatnonzero(self.roi)[i : i + at_most] for i in range(0, int(self.roi.sum()), at_most)]
        planned = [Partition(k, np.array([(p, p + 1) for p in at])) for k, at in enumerate(cuts)]
        self.status = np.where(self.roi, UNSEEN, EXCLUDED).astype(np.uint8)
        self.out: list[Partition] = []
        self.readers = [acquisition.opener.open_reader(c) for c in self.run.layout.channels]
        self.hand_out = handout.HandOut(self.run, planned, 1)

    @property
    def has_next(self) -> bool:
        """`take` would not wait."""
        h = self.hand_out
        return self.run.n_ready > h._at or self.run.n_lost > h._lost_at

    def take(self) -> bool:
        """The next partition; False where the pass is over."""
        try:
            self.out.append(next(self.hand_out))
        except StopIteration:
            return False
        return True

    def merge(self, which: int = 0) -> None:
        """Read the frames of a partition, compare every one, and say that it is merged."""
        part = self.out.pop(which)
        at = part.positions()
        status = np.full(len(at), PROCESSED, np.uint8)
        for c, reader in enumerate(self.readers):
            reader.begin(part)
            frames = np.zeros((len(at), *self.run.layout.frame_shape(c)), self.run.layout.dtypes[c])
            middle = len(at) // 2  # in two reads
            for rows in (slice(0, middle), slice(middle, len(at))):
                valid = reader.read_rows(frames[rows], rows.start)
                if valid is not None:
                    status[rows][~valid] = CORRUPT
            for k in np.flatnonzero(status == PROCESSED):
                np.testing.assert_array_equal(frames[k], self.expected(int(at[k]), c))
        if part.lost is not None:
            at, status = np.concatenate([at, part.lost[0]]), np.concatenate([status, part.lost[1]])
        assert (self.status[at] == UNSEEN).all(), "a position came twice, or was not asked for"
        self.status[at] = status
        self.hand_out.merged(Partial(part.number, 1, at, status, {}, {}))

    @property
    def ledger(self) -> dict[str, int]:
        """The account of this moment. Both equations hold."""
        found = self.hand_out.report(Coverage(self.status).counts)["ledger"]
        assert imbalance(found) == ""
        assert min(found.values()) >= 0, found
        return dict(found)

    def finish(self) -> None:
        """Take and merge until the pass is over, or nothing is there to be taken."""
        while self.has_next or self.run.closed:
            if not self.take():
                break
            self.merge()
        while self.out:
            self.merge()


def send(hand: ByHand, run: int, numbers: Any, *, turn: bool = True) -> None:
    """Frames in all sectors and channels."""
    for number in numbers:
        for c in range(len(hand.wire.channels)):
            for s, part in enumerate(np.split(marked(run, number, c), hand.wire.sectors)):
                hand.wire.frame(run, number, part, sector=s, channel=c)
    if turn:
        hand.turn()


def begin(hand: ByHand, run: int = 1, n: int | None = N, numbers: Any = range(1), **more: Any) -> Acquisition:
    """A run whose first frames are there."""
    hand.wire.header(run, n, **more)
    send(hand, run, numbers)
    found = hand.taken()
    assert [type(a) for a in found] == [Acquisition]
    return found[0]  # type: ignore[no-any-return]
