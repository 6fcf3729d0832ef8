"""One pass over a run at the router: which block is where, and what becomes of those of a lost consumer. No sockets, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.contracts.source import Partition
from libstream.live.handout import HandOut
from libstream.model.partial import CORRUPT, DROPPED, MISSING, Partial

_Arr = np.ndarray[Any, Any]

TRIES = 3
"""Consumers that may be lost over one block, before its frames are given up."""
GROUP = 4
"""Neighbours that go to one consumer where it has room, so that it can merge them; a power of two."""
_NOTHING = np.zeros(0, np.int64)
_ZERO = dict.fromkeys(("announced", "processed", "corrupt", "dropped", "missing", "unseen"), 0)


@dataclass
class Block:
    """Frames that go to one consumer together, until they are merged.

    size: bytes of the frames as they came. weight: frames of the account that it stands for. owner: the session that has it, "" for none
    and CLIENT for those that hold no frames and go to the client itself, or have reached it. since: when it was given.
    tries: consumers that were lost while they worked on it. gone: frames of it that are given up. again: it was given before.
    """

    partition: Partition
    size: int
    weight: int
    owner: str = ""
    tries: int = 0
    since: float = 0.0
    gone: int = 0
    again: bool = False

    @property
    def number(self) -> int:
        """Its place in the merge tree."""
        return self.partition.number


CLIENT = "client"


class Pass:
    """The blocks of one pass: from the `HandOut` to a consumer, kept until they are merged, and given again where a consumer is lost.

    weight: frames in blocks whose merge was acknowledged; the client knows the same sum of those that it has merged, and so what the
    account does not know yet.
    """

    def __init__(self, hand_out: HandOut) -> None:
        self.hand_out = hand_out
        self.kept: dict[int, Block] = {}
        self._again: deque[Block] = deque()
        self._ended = False
        self.weight = self.given_up = 0
        self.n_given = self.n_again = 0

    @property
    def over(self) -> bool:
        """Everything was handed out, and merged."""
        return self._ended and not self.kept

    def next(self) -> Block | None:
        """The next block to be given, or None for now. One without frames, or given up, has the owner CLIENT already."""
        if self._again:
            return self._again[0]
        if self._ended:
            return None
        try:
            partition = self.hand_out.poll()
        except StopIteration:
            self._ended = True
            return None
        if partition is None:
            return None
        codes = _NOTHING if partition.lost is None else partition.lost[1]
        weight = partition.n_positions + int(np.isin(codes, (CORRUPT, DROPPED)).sum())
        size = int(partition.held.size.sum(dtype=np.int64))
        block = self.kept[partition.number] = Block(partition, size, weight)
        if not partition.n_positions:
            block.owner = CLIENT
        else:
            self._again.append(block)  # it waits there for its consumer
        return block

    def given(self, block: Block, owner: str, now: float) -> None:
        """`owner` has it now."""
        self._again.remove(block)
        self.n_given += 1
        self.n_again += block.again
        block.owner, block.since = owner, now

    def merged(self, numbers: Iterable[int]) -> None:
        """These are in the result. Numbers that are not kept, or that nobody has, mean nothing."""
        for number in numbers:
            block = self.kept.get(number)
            if block is None or not block.owner:
                continue
            del self.kept[number]
            self.hand_out.merged(Partial(number, 1, _NOTHING, _NOTHING, {}, {}))
            self.weight += block.weight
            self.given_up += block.gone

    def lost(self, owner: str, arrived: Iterable[int], blamed: Iterable[int]) -> list[Block]:
        """`owner` is lost, and the client takes nothing of it any more: its blocks are to be given again, but for those that have
        `arrived` at the client, which will merge them. blamed: those that it was working on. Blocks that were blamed too often are given
        up and returned: `as_lost` says what the client has to be told."""
        blamed = set(blamed)
        for number in arrived:
            if (block := self.kept.get(number)) is not None and block.owner == owner:
                block.owner = CLIENT
        out = []
        for block in [b for b in self.kept.values() if b.owner == owner]:
            block.owner, block.again = "", True
            block.tries += block.number in blamed
            if block.tries < TRIES:
                self._again.append(block)
                continue
            block.owner, block.gone = CLIENT, block.partition.n_positions
            block.weight -= block.gone
            out.append(block)
        self._again = deque(sorted(self._again, key=lambda b: b.number))
        return out

    def as_lost(self, block: Block) -> tuple[_Arr, _Arr]:
        """Positions and states of a block without a consumer."""
        at, codes = block.partition.lost or (_NOTHING, np.zeros(0, np.uint8))
        mine = block.partition.positions()
        return np.concatenate([mine, at]), np.concatenate([np.full(len(mine), MISSING, np.uint8), codes]).astype(np.uint8)

    def overdue(self, now: float, seconds: float) -> set[str]:
        """Owners that have had a block for longer than that."""
        return {b.owner for b in self.kept.values() if b.owner not in ("", CLIENT) and now - b.since > seconds}

    def account(self) -> dict[str, Any]:
        """The report of the hand-out without what only the client knows, and `weight`."""
        report = self.hand_out.report(_ZERO)
        report["ledger"]["gone"] += self.given_up
        return {**report, "weight": self.weight}

    def wake(self) -> None:
        """Hand out nothing more."""
        self.hand_out.wake()
        for block in self._again:
            self.kept.pop(block.number, None)
        self._again.clear()
        self._ended = True

    def close(self) -> None:
        """The client has gone on: nothing is kept for it."""
        self.hand_out.close()
        self.kept.clear()
        self._again.clear()
        self._ended = True
