"""Blocks of a pass at the router: kept until they are merged, given again where a consumer is lost, merged exactly once, accounted for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.contracts.source import Partition
from libstream.live import handout
from libstream.live.handout import HandOut
from libstream.live.ledger import imbalance
from libstream.model.partial import PROCESSED, UNSEEN, Coverage
from libstream.route.blocks import BlockOpener, pack, unpack
from libstream.route.passes import CLIENT, TRIES, Block, Pass
from libstream.route.wire import Message, read, write
from tests.live.by_hand import ByHand, begin, marked, send

SCAN, N = (6, 8), 48
SIZE = 5


class World:
    """A router's pass, consumers that are letters, and a client that merges. All of one thread."""

    def __init__(self, patch: pytest.MonkeyPatch, sectors: int = 1) -> None:
        self.hand = ByHand(patch, scan=SCAN, sectors=sectors, blocks=256, block_bytes=1 << 10)
        self.acquisition = begin(self.hand, n=N, numbers=range(1))
        self.run = self.acquisition._run
        patch.setattr(handout, "FLUSH_S", 0.0)
        self.work = Pass(HandOut(self.run, [Partition(0, np.array([[0, N]]))], 1, SIZE))
        self.status = np.full(N, UNSEEN, np.uint8)
        self.weight = 0
        self.at: dict[int, tuple[str, Block]] = {}  # blocks at consumers
        self.arrived: dict[int, str] = {}  # results that the client has not merged yet, and whose they are
        self.times: dict[int, int] = {}  # how often each block was given
        self.now = 0.0

    def give(self, owner: str) -> bool:
        """The next block to a consumer, or to the client where it holds no frames."""
        self.now += 1
        block = self.work.next()
        if block is None:
            return False
        if block.owner == CLIENT:
            self.arrived[block.number] = CLIENT
            return True
        self.work.given(block, owner, self.now)
        self.times[block.number] = self.times.get(block.number, 0) + 1
        assert block.number not in self.at, "a block is with two consumers"
        assert block.number not in self.arrived, "its result is at the client already"
        self.at[block.number] = owner, block
        return True

    def result(self, number: int) -> None:
        """A consumer has read the frames, which are still there, and its result reaches the client."""
        owner, block = self.at.pop(number)
        head, parts = pack(block.partition, self.run.ring.data)
        got = unpack(read([bytes(p) for p in write("block", parts, **head)]), self.run.layout)
        reader = BlockOpener(self.run.layout, "here").open_reader(self.run.layout.channels[0])
        reader.begin(got)
        at = got.positions()
        frames = np.zeros((len(at), *self.run.layout.frame_shape(0)), self.run.layout.dtypes[0])
        assert reader.read_rows(frames, 0) is None
        for position, frame in zip(at, frames, strict=True):
            np.testing.assert_array_equal(frame, marked(1, int(position)))
        self.arrived[number] = owner

    def merge(self, number: int) -> None:
        """The client merges a result and says so."""
        owner = self.arrived.pop(number)
        block = self.work.kept[number]
        at, codes = self.work.as_lost(block)
        if owner != CLIENT:
            codes[: block.partition.n_positions] = PROCESSED
        assert (self.status[at] == UNSEEN).all(), "positions came twice"
        self.status[at] = codes
        self.weight += int(np.isin(codes, (1, 2, 3)).sum())
        self.check()
        self.work.merged([number])
        self.check()

    def lose(self, owner: str) -> None:
        """A consumer is lost; what has arrived of it is kept, what is at it is given again."""
        arrived = [n for n, o in self.arrived.items() if o == owner]
        mine = [n for n, (o, _) in self.at.items() if o == owner]
        for block in self.work.lost(owner, arrived, mine[:1]):
            self.arrived[block.number] = CLIENT
        for n in mine:
            del self.at[n]
        for n in arrived:
            self.arrived[n] = CLIENT + "?"

    def check(self) -> None:
        """Both equations hold, brought to this moment as a client does."""
        account = self.work.account()
        ledger = dict(account["ledger"])
        ledger["pending"] -= self.weight - account["weight"]
        ledger.update({k: v for k, v in Coverage(self.status).counts.items() if k in ledger and k != "excluded"})
        assert imbalance(ledger) == ""
        assert min(ledger.values()) >= 0, ledger

    def finish(self) -> None:
        """Everything arrives, and goes to a consumer that is not lost."""
        send(self.hand, 1, range(N))
        self.hand.wire.end(1)
        self.hand.after(2.0)
        for _ in range(1000):
            if self.work.over:
                break
            self.give("last")
            for n in list(self.at):
                self.result(n)
            for n in list(self.arrived):
                self.merge(n)
        assert self.work.over
        assert not self.work.kept


STEPS = st.lists(st.tuples(st.sampled_from(["frames", "give", "give", "result", "merge", "lose"]), st.integers(0, 1 << 16)), max_size=60)


@settings(max_examples=60)
@given(steps=STEPS, sectors=st.sampled_from([1, 2]))
def test_every_frame_is_merged_once_whatever_is_lost(steps: Any, sectors: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        world = World(patch, sectors)
        n_sent, session = 1, dict.fromkeys("abc", 0)
        for what, k in steps:
            letter = "abc"[k % 3]
            owner = f"{letter}{session[letter]}"
            if what == "frames":
                more = 1 + k % 9
                send(world.hand, 1, range(n_sent, min(N, n_sent + more)))
                n_sent = min(N, n_sent + more)
            elif what == "give":
                world.give(owner)
            elif what == "result" and world.at:
                world.result(sorted(world.at)[k % len(world.at)])
            elif what == "merge" and world.arrived:
                world.merge(sorted(world.arrived)[k % len(world.arrived)])
            elif what == "lose":
                world.lose(owner)
                session[letter] += 1
            world.check()
        world.finish()
        assert (world.status != UNSEEN).all()
        given_up = world.work.given_up
        assert int((world.status == PROCESSED).sum()) == N - given_up
        assert given_up == 0 or max(world.times.values()) >= TRIES
        assert not world.run.ring.keep.any() or world.run.counts.duplicate  # nothing is kept for blocks that are merged


def test_a_block_is_kept_until_its_merge_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames go on coming into a small ring: those of blocks that are not merged stay as they were."""
    world = World(monkeypatch)
    send(world.hand, 1, range(1, 20))
    while world.give("a"):
        pass
    held = {n: world.run.ring.keep.copy() for n in world.at}
    assert held
    for n in list(world.at):
        world.result(n)
    assert world.run.ring.keep.any(), "a result that has only arrived is not merged: its client may be lost"
    for n in list(world.arrived):
        world.merge(n)
    assert not world.run.ring.keep[: world.hand.ring.n_blocks].any()


def test_what_has_reached_the_client_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    send(world.hand, 1, range(1, 20))
    while world.give("a"):
        pass
    first, *rest = sorted(world.at)
    world.result(first)
    world.lose("a")
    while world.give("b"):
        pass
    assert sorted(world.at) == rest
    world.finish()
    assert world.times[first] == 1


def test_a_lost_consumer_is_not_blamed_for_what_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    send(world.hand, 1, range(1, N))
    for life in range(TRIES + 1):
        while world.give(f"a{life}"):
            pass
        first = min(world.at)
        world.lose(f"a{life}")
        if life == TRIES - 1:
            assert first in world.arrived, "a block over which consumers were lost so often is given up"
            break
    assert len(world.arrived) == 1, "and no other one is"
    world.finish()
    assert int((world.status == PROCESSED).sum()) == N - SIZE


def test_a_message_that_says_merged_of_what_nobody_has_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    send(world.hand, 1, range(1, N))
    block = world.work.next()
    assert block is not None
    world.work.merged([block.number, 77, 1 << 40])
    assert block.number in world.work.kept
    world.finish()


@given(data=st.data())
def test_a_block_comes_out_as_it_went_in(data: st.DataObject) -> None:
    """Pieces anywhere in the ring, in any order, overlapping or far apart: the same bytes at the other end."""
    from libstream.live.layout import Layout
    from libstream.live.reader import Held

    n, pieces = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    ring = np.random.default_rng(0).integers(0, 256, 1 << 17).astype(np.uint8)
    sizes = np.array(data.draw(st.lists(st.integers(0, 300), min_size=n * pieces, max_size=n * pieces))).reshape(n, pieces)
    spots = data.draw(st.lists(st.integers(0, len(ring) - 301), min_size=n * pieces, max_size=n * pieces))
    offsets = np.array(spots, np.int64).reshape(n, pieces)
    codec = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n * pieces, max_size=n * pieces)), np.uint8).reshape(n, pieces)
    lost = (np.array([200, 201]), np.array([4, 3], np.uint8)) if data.draw(st.booleans()) else None
    partition = Partition(3, np.array([[5, 5 + n]]), lost, Held(offsets, sizes.astype(np.int32), codec, ("raw<", "raw>")))
    head, parts = pack(partition, ring)
    message = write("block", parts, token="t", **head)
    got = unpack(read([bytes(p) for p in message]), Layout(("x",), pieces, ((1, 1),), ("u1",)))
    assert np.array_equal(got.positions(), partition.positions())
    assert (got.number, got.held.codecs) == (3, ("raw<", "raw>"))
    assert (got.lost is None) == (lost is None)
    for i in np.ndindex(n, pieces):
        here = ring[offsets[i] : offsets[i] + sizes[i]]
        there = got.held.memory[got.held.offset[i] : got.held.offset[i] + got.held.size[i]]
        assert np.array_equal(here, there)
        assert got.held.codec[i] == codec[i]


def test_the_kind_of_a_message_is_read_back() -> None:
    message = read([bytes(p) for p in write("freed", token="t", numbers=[1, 2])])
    assert isinstance(message, Message)
    assert (message.kind, message.text("token"), message.numbers("numbers")) == ("freed", "t", [1, 2])
