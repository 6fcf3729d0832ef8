"""Frames to their places: by the detector's frame number, whatever the order of arrival."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np

from libstream.codecs import wire
from libstream.contracts.stream import RunHeader
from libstream.errors import CodecError
from libstream.live.layout import Layout
from libstream.live.ledger import Counts
from libstream.live.ring import Ring
from libstream.model.order import ScanOrder
from libstream.model.partial import CORRUPT, DROPPED, EXCLUDED, MISSING

_Arr = np.ndarray[Any, Any]

WAITING, READY, LOST = range(3)
NO_CODEC = 255
"""Codec id of a part that cannot be decoded."""
CODECS_MAX = 64
CLIENTS_MIN = 16
"""Frames that have to be seen before a regular gap says that somebody else takes the others."""


class Run:
    """One run of a detector: where each frame lies in the ring, what is ready, what is lost.

    All methods are called with `changed` held. Positions become ready in the order of `ready[:n_ready]`, lost in the order of
    `lost[:n_lost]`; both only grow, so that whoever processes them keeps two numbers.

    A block of the ring is kept for each of its parts that somebody will process (a claim), or that nobody has asked for yet
    (an orphan). `first`: number of the run's first frame, other than 0 in endless acquisitions.
    `due`, `n_parts`, `n_strange` are of whoever decides when the run is over.
    """

    def __init__(
        self, header: RunHeader, order: ScanOrder, layout: Layout, ring: Ring, changed: threading.Condition, first: int = 0
    ) -> None:
        self.header, self.order, self.layout, self.ring, self.changed, self.first = header, order, layout, ring, changed, first
        n, p = order.n_positions, layout.pieces
        self.n = n
        self.offset = np.zeros((n, p), np.int64)
        self.size = np.zeros((n, p), np.int32)
        self.epoch = np.zeros((n, p), np.int32)
        self.codec = np.zeros((n, p), np.uint8)
        self.have = np.zeros((n, p), bool)
        self.fate = np.zeros(n, np.uint8)
        self.ready, self.n_ready = np.empty(n, np.int64), 0
        self.lost, self.lost_code, self.n_lost = np.empty(n, np.int64), np.empty(n, np.uint8), 0
        self.codecs: list[str] = []
        self._codec_ids: dict[tuple[str, int], int] = {}
        self.counts = Counts()
        self.state = "running"
        self.reason = ""
        self.notes: list[str] = []
        self.t_begun = time.monotonic()
        self.seconds = 0.0
        self.given_up = False
        self.due = math.inf
        self.n_parts = self.n_strange = 0
        self._claims: list[_Arr] = []
        self._orphan = np.zeros(n, bool)
        self._blocks: set[tuple[int, int]] = set()
        self._flyback_parts = 0
        left_out = order.left_out()
        self._n_flyback = order.n_frames - (n - len(left_out))
        self._lose(left_out, EXCLUDED)

    @property
    def closed(self) -> bool:
        """No frame will be accepted any more."""
        return self.state not in ("running", "draining")

    @property
    def claimed(self) -> bool:
        """Somebody processes it."""
        return bool(self._claims)

    @property
    def n_open(self) -> int:
        """Frames of which some parts are there and others not, so far."""
        c = self.counts
        return c.frames - c.flyback - c.dropped - c.rejected - c.partial - self.n_ready

    @property
    def settled(self) -> bool:
        """Every position is ready or lost."""
        return self.n_ready + self.n_lost == self.n

    @property
    def all_came(self) -> bool:
        """Every position is settled, and the frames between the lines came, too."""
        return self.settled and self.counts.flyback >= self._n_flyback

    def codec_id(self, codec: str, channel: int) -> int:
        """Number of a codec in this run; NO_CODEC where it is not known, or cannot hold frames of this channel."""
        known = self._codec_ids.get((codec, channel))
        if known is None:
            known = NO_CODEC
            if len(self._codec_ids) < CODECS_MAX:
                try:
                    wire.check(codec, self.layout.shapes[channel], self.layout.dtypes[channel])
                    if codec not in self.codecs:
                        self.codecs.append(codec)
                    known = self.codecs.index(codec)
                except CodecError:
                    pass
                self._codec_ids[codec, channel] = known
        return known

    def continues(self, before: Run) -> None:
        """Use the codec ids of `before`: both are scans of one endless run."""
        self.codecs, self._codec_ids = before.codecs, before._codec_ids

    # -- frames come in ----------------------------------------------------------------------------------------------

    def place(self, numbers: _Arr, pieces: _Arr, offsets: _Arr, sizes: _Arr, codecs: _Arr, good: _Arr | None, dropped: bool) -> None:
        """Put parts of frames to their places.

        All arrays are (k,). numbers: of the frames. pieces: channel * sectors + sector. offsets, sizes: where in the ring, all in one
        block. codecs: ids.
        good: False for parts that are not as the run's (None = all are). dropped: nothing was kept, the memory is full.
        """
        numbers = numbers - self.first
        if not dropped and not sizes.all():
            good = sizes > 0 if good is None else good & (sizes > 0)
        inside = (numbers >= 0) & (numbers < self.order.n_frames)
        if not inside.all():
            self.counts.surplus += int(len(inside) - np.count_nonzero(inside))
            numbers, pieces, offsets, sizes, codecs, good = pick(inside, numbers, pieces, offsets, sizes, codecs, good)
        at = self.order.positions_of(numbers)
        stay = at >= 0
        if not stay.all():
            self._count_flyback(int(len(stay) - np.count_nonzero(stay)))
            at, pieces, offsets, sizes, codecs, good = pick(stay, at, pieces, offsets, sizes, codecs, good)
        new = self._new(at, pieces)
        if not new.all():
            self.counts.duplicate += int(len(new) - np.count_nonzero(new))
            at, pieces, offsets, sizes, codecs, good = pick(new, at, pieces, offsets, sizes, codecs, good)
        if not len(at):
            return
        whole = self.layout.pieces == 1
        self.counts.frames += len(at) if whole else len(np.unique(at[~self.have[at].any(axis=1)]))
        self.have[at, pieces] = True
        if dropped:
            self._spoil(np.unique(at), DROPPED)
            return
        alive = self.fate[at] == WAITING
        if good is not None:
            alive &= good
        bad = None
        if not alive.all():
            bad = np.unique(at[~alive])
            at, pieces, offsets, sizes, codecs, _ = pick(alive, at, pieces, offsets, sizes, codecs, None)
        if len(at):
            block = int(offsets[0]) // self.ring.block_bytes
            self.offset[at, pieces], self.size[at, pieces], self.codec[at, pieces] = offsets, sizes, codecs
            self.epoch[at, pieces] = self.ring.epoch[block]
            self.ring.pin(block, len(at))
            self._touch(block)
        if bad is not None:
            self._spoil(bad, CORRUPT)
            at = at[self.fate[at] == WAITING]
        if not whole:
            at = _unique_in_order(at)
            at = at[self.have[at].all(axis=1)]
        self._become_ready(at)

    def _new(self, at: _Arr, pieces: _Arr) -> _Arr:
        """Bool: parts seen for the first time."""
        new = ~self.have[at, pieces]
        key = at * self.layout.pieces + pieces
        if len(key) > 1 and not (key[1:] > key[:-1]).all():
            first = np.zeros(len(key), bool)
            first[np.unique(key, return_index=True)[1]] = True
            new &= first
        return new

    def _count_flyback(self, n: int) -> None:
        self._flyback_parts += n
        frames = self._flyback_parts // self.layout.pieces
        self.counts.frames += frames - self.counts.flyback
        self.counts.flyback = frames

    def _become_ready(self, at: _Arr) -> None:
        n = len(at)
        if not n:
            return
        self.fate[at] = READY
        self.ready[self.n_ready : self.n_ready + n] = at
        self.n_ready += n
        for needs in self._claims:
            needs[at] = True
        if not self._claims and not self.given_up:
            self._orphan[at] = True
        extra = len(self._claims) - 1 if self._claims or self.given_up else 0
        if extra:
            self.ring.hold(self.offset[at].reshape(-1), extra)

    def _spoil(self, at: _Arr, code: int) -> None:
        """Positions that will not be ready any more: what is there of them is let go."""
        at = at[self.fate[at] == WAITING]
        self._let_go_parts(at)
        if code == DROPPED:
            self.counts.dropped += len(at)
        else:
            self.counts.rejected += len(at)
        self._lose(at, code)

    def _let_go_parts(self, at: _Arr) -> None:
        held = self.have[at] & (self.size[at] > 0)
        self.ring.hold(self.offset[at][held], -1)
        self.size[at] = 0

    def _lose(self, at: _Arr, code: int) -> None:
        n = len(at)
        self.fate[at] = LOST
        self.lost[self.n_lost : self.n_lost + n], self.lost_code[self.n_lost : self.n_lost + n] = at, code
        self.n_lost += n

    def _touch(self, block: int) -> None:
        mark = (block, int(self.ring.epoch[block]))
        if not self.given_up and mark not in self._blocks:
            self._blocks.add(mark)
            self.ring.want(*mark, 1)

    def drop_oldest_open(self) -> int:
        """Let the older half of the frames go that wait for their other parts, as dropped; how many that were."""
        if self.layout.pieces == 1 or self.closed or self._orphan.any() or any(needs.any() for needs in self._claims):
            return 0
        at = np.flatnonzero((self.fate == WAITING) & self.have.any(axis=1))
        at = at[np.argsort(self.epoch[at].max(axis=1), kind="stable")][: (len(at) + 1) // 2]
        self._spoil(at, DROPPED)
        return len(at)

    # -- frames of which something is missing ------------------------------------------------------------------------

    def _open(self) -> _Arr:
        """Positions of which some parts are there and others not."""
        if self.layout.pieces == 1:
            return np.zeros(0, np.int64)
        return np.flatnonzero((self.fate == WAITING) & self.have.any(axis=1))

    def open_parts(self) -> _Arr:
        """Number of parts of such frames in each block of the ring."""
        return self.ring.count(self.offset[at := self._open()][self.have[at]])

    def lose_open(self, block: int) -> None:
        """Give up such frames of which a part lies in this block."""
        at = self._open()
        inside = (self.offset[at] // self.ring.block_bytes == block) & self.have[at]
        self._lose_partial(at[inside.any(axis=1)])

    def _lose_partial(self, at: _Arr) -> None:
        self._let_go_parts(at)
        self.counts.partial += len(at)
        self._lose(at, MISSING)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, state: str, reason: str = "") -> None:
        """No more frames: what has not come is missing. state: "done", "incomplete" or "failed"."""
        if self.closed:
            return
        n_missing = self.n - self.n_ready - self.n_lost
        self._lose_partial(self._open())
        self._lose(np.flatnonzero(self.fate == WAITING), MISSING)
        c = self.counts
        if state == "done" and (n_missing or c.partial or c.dropped or c.rejected):
            state = "incomplete"
            said = {"thrown away": c.dropped, "not as they should be": c.rejected, "without all their parts": c.partial}
            reason = reason or "frames were " + ", ".join(f"{what} ({n})" for what, n in said.items() if n)
        self.state, self.reason = state, reason
        self.seconds = time.monotonic() - self.t_begun
        note = self._other_client()
        if note:
            self.notes.append(note)
        self.changed.notify_all()

    def _other_client(self) -> str:
        """A sentence where every k-th frame came and the others did not: another client takes them."""
        if self.n_ready < CLIENTS_MIN or self.n - self.n_ready < CLIENTS_MIN:
            return ""
        numbers = np.sort(self.order.numbers()[self.ready[: self.n_ready]])
        steps, counts = np.unique(np.diff(numbers), return_counts=True)
        k = int(steps[np.argmax(counts)])
        if k < 2 or counts.max() < 0.9 * (len(numbers) - 1):
            return ""
        others = "another program" if k == 2 else f"{k - 1} other programs"
        return (
            f"only every {_th(k)} frame arrived, as regularly as if {others} took the rest: "
            "the detector deals its frames out to all who are connected to it. Close the other programs"
        )

    def give_up(self) -> None:
        """Its user has gone on: frames that nobody processes need not be kept."""
        if self.given_up:
            return
        self.given_up = True
        orphans = np.flatnonzero(self._orphan)
        self.ring.hold(self.offset[orphans].reshape(-1), -1)
        self._orphan[:] = False
        if not self._claims:
            self._unwant()

    def _unwant(self) -> None:
        while self._blocks:
            self.ring.want(*self._blocks.pop(), -1)

    # -- who processes them ------------------------------------------------------------------------------------------

    def claim(self) -> _Arr:
        """Somebody begins to process the run: bool (n,), the ready positions that are still there; it grows as frames come."""
        needs = np.zeros(self.n, bool)
        ready = self.ready[: self.n_ready]
        there = ready[self.held(ready)]
        needs[there] = True
        more = there[~self._orphan[there]]
        self.ring.hold(self.offset[more].reshape(-1), 1)
        self._orphan[:] = False
        self._claims.append(needs)
        return needs

    def held(self, at: _Arr) -> _Arr:
        """Bool: all parts of these ready positions are still in the ring."""
        offsets, epochs = self.offset[at], self.epoch[at]
        return np.asarray(self.ring.held(offsets, epochs).all(axis=1))

    def merged(self, needs: _Arr, at: _Arr) -> None:
        """`at` were processed by the owner of `needs`."""
        at = at[needs[at]]
        needs[at] = False
        self.ring.hold(self.offset[at].reshape(-1), -1)

    def unclaim(self, needs: _Arr) -> None:
        """The owner of `needs` ends. What it has not processed waits for somebody else, unless the user has gone on."""
        self._claims = [c for c in self._claims if c is not needs]
        rest = np.flatnonzero(needs)
        if self._claims or self.given_up:
            self.ring.hold(self.offset[rest].reshape(-1), -1)
            if self.given_up and not self._claims:
                self._unwant()
        else:
            self._orphan[rest] = True


def pick(which: _Arr, *columns: _Arr | None) -> Any:
    """These rows of all columns."""
    return tuple(None if c is None else c[which] for c in columns)


def _unique_in_order(at: _Arr) -> _Arr:
    _, first = np.unique(at, return_index=True)
    return np.asarray(at[np.sort(first)])


def _th(k: int) -> str:
    return {2: "second", 3: "third"}.get(k, f"{k}th")
