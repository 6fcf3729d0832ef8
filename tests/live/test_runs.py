"""When runs begin, overlap, drain and end; by hand, with a clock that stands still."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from libstream.contracts.stream import FramePart
from libstream.errors import CodecError, LibstreamError, ShapeError, WireError
from libstream.live.acquisition import TABLE_BYTES, TABLE_FREE_BYTES, TABLE_PART_BYTES
from libstream.live.runs import END_S, NOT_UNDERSTOOD_SHOWN, REMEMBERED, STRANGE_MIN
from tests.live.by_hand import SCAN, ByHand, N, Pass, begin, marked, send


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The same, shorter."""
    return monkeypatch


# -- the end of a run ----------------------------------------------------------------------------------------------------------


def test_states_of_a_run_with_an_end(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    assert hand.runs.state == "waiting"
    hand.wire.header(1, N)
    hand.turn()
    assert hand.runs.state == "armed"
    send(hand, 1, range(N - 1))
    (acquisition,) = hand.taken()
    assert hand.runs.state == acquisition.state == "running"
    hand.wire.end(1)
    hand.turn()
    assert hand.runs.state == acquisition.state == "draining"
    send(hand, 1, [N - 1])  # overtaken by the end
    assert hand.runs.state == "waiting"
    assert (acquisition.state, acquisition.reason) == ("done", "")


def test_without_its_end_a_whole_run_is_done_a_second_later(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    acquisition = begin(hand, numbers=range(N))
    hand.after(END_S - 0.1)
    assert acquisition.state == "running"
    hand.after(0.2)
    assert (acquisition.state, acquisition.reason) == ("done", "")


def test_where_there_is_no_end_a_run_is_done_with_its_last_frame(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN, has_end=False, flyback=1)
    acquisition = begin(hand, n=15, numbers=range(14))
    assert acquisition.n_arrived == N
    assert acquisition.state == "running"  # the last frame between lines is part of it
    send(hand, 1, [14])
    assert acquisition.state == "done"
    assert (acquisition.counts.late, acquisition.counts.flyback) == (0, 3)
    following = begin(hand, 2, n=15, numbers=range(14))
    hand.after(END_S)
    assert following.state == "done"


def test_silence_ends_a_run_but_only_silence(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN, stall_s=5.0)
    acquisition = begin(hand)
    for number in range(1, 4):
        hand.after(4.0)
        send(hand, 1, [number])
    hand.after(4.0)
    send(hand, 1, [0])  # a duplicate shows that somebody is there
    hand.after(4.0)
    assert acquisition.state == "running"
    send(hand, 99, [0])  # a stranger does not
    hand.after(1.5)
    assert acquisition.state == "incomplete"
    assert "no frame for 5.5 s" in acquisition.reason


def test_a_run_that_drains_ends_although_the_next_one_is_busy(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN, n_senders=2)
    first = begin(hand, 1)
    second = begin(hand, 2)
    send(hand, 1, [1])
    assert first.state == "draining"
    for number in range(2, 8):
        hand.clock.now += 0.2
        send(hand, 2, [number])
        hand.wire.frame(2, number, marked(2, number))
        hand.ingest._turn()  # a wire that is never silent
    assert first.state == "incomplete"
    assert second.state == "running"


def test_announced_numbers_of_parts_end_a_run(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN, sectors=2, n_senders=2, has_end=False)
    for run in (7, 7):  # the numbers of scans begin anew
        acquisition = begin(hand, run)
        assert acquisition.state == "running"
        hand.wire.announce(run, 0, N)
        hand.wire.announce(run, 1, N - 1)  # the second sender knows that it has lost one
        send(hand, run, range(1, N - 1))
        assert acquisition.state == "running"
        hand.wire.frame(run, N - 1, marked(run, N - 1)[:2], sector=0)
        hand.turn()
        assert acquisition.state == "draining"
        hand.after(1.1)
        assert acquisition.state == "incomplete"
        assert acquisition.counts.partial == 1
        for sender in range(2):
            hand.wire.announce(run, sender, 1)  # too late: it says nothing about the next run of this number
        hand.turn()


def test_each_of_several_senders_may_say_the_header(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN, sectors=2, n_senders=2)
    hand.wire.header(1, N)
    hand.wire.header(1, N)
    send(hand, 1, range(3))
    hand.wire.header(1, N)
    send(hand, 1, range(3, N))
    hand.wire.end(1)
    hand.turn()
    (acquisition,) = hand.taken()
    assert acquisition.state == "done"
    assert not hand.runs.problems


def test_runs_of_many_senders_overlap(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN, sectors=2, n_senders=2, has_end=False)
    first = begin(hand, 1, numbers=range(N - 1))
    second = begin(hand, 2)
    send(hand, 1, [N - 1])
    assert first.state == "done"
    send(hand, 2, range(1, N))
    assert second.state == "done"
    assert (first.counts.late, second.counts.foreign) == (0, 0)


# -- frames that cannot be --------------------------------------------------------------------------------------------------------


def test_the_codec_is_checked_at_the_first_frame(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    hand.wire.header(1, N)
    hand.wire.frame(1, 0, marked(1, 0), codec="brotli<")
    hand.turn()
    (error,) = hand.taken()
    assert isinstance(error, CodecError)
    assert "unknown codec 'brotli<'" in str(error)
    assert begin(hand, 2, numbers=range(N)).n_arrived == N


def test_other_codecs_may_come_later_and_unknown_ones_are_counted(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    acquisition = begin(hand)
    hand.wire.frame(1, 1, marked(1, 1).byteswap(), codec="raw>")
    hand.wire.frame(1, 2, marked(1, 2), codec="brotli<")
    for i in range(100):  # names of a hostile sender are not kept
        hand.wire.frame(1, 3 + i, marked(1, 3), codec=f"x{i}")
    hand.turn()
    assert acquisition.n_arrived == 2
    assert acquisition._run.codecs == ["raw<", "raw>"]
    assert len(acquisition._run._codec_ids) <= 64
    one = Pass(acquisition, lambda at, c: marked(1, at))
    one.finish()
    assert (one.ledger["processed"], one.ledger["corrupt"]) == (2, 10)


@pytest.mark.parametrize("numbers", [range(1, N * N), [0] * 300], ids=["all others", "again and again"])
def test_frames_that_are_all_of_another_shape_fail_the_run(patch: pytest.MonkeyPatch, numbers: Any) -> None:
    hand = ByHand(patch, scan=(N, N))
    acquisition = begin(hand, n=N * N)
    for number in numbers:
        hand.wire.frame(1, number, marked(1, 0)[:3, :2].astype("<i4"))
    hand.turn()
    assert acquisition.state == "failed"
    assert f"{STRANGE_MIN}" in acquisition.reason or acquisition._run.n_strange > STRANGE_MIN
    assert "(3, 2) int32 in the codec 'raw<'" in acquisition.reason
    assert "(4, 4) uint16 in 'raw<'" in acquisition.reason
    assert begin(hand, 2, n=N * N).state == "running"


def test_what_the_header_says_of_frames_and_they_do_not_is_noted(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    acquisition = begin(hand, frame=(8, 8), dtype="uint32", notes=("from the header",))
    assert acquisition.notes == (
        "from the header", "the header says frames of (8, 8), they come as (4, 4)", "the header says pixels of uint32, they come as uint16",
    )  # fmt: skip


def test_a_run_that_would_take_all_memory_is_refused(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=None)
    hand.wire.header(1, 1 << 40)
    send(hand, 1, [0])
    (error,) = hand.taken()
    assert isinstance(error, ShapeError)
    assert "more than the memory for frames" in str(error)


def test_whatever_a_hook_raises_the_next_run_begins(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=None)

    def hook(n: int, header: Any) -> Any:
        if header.run == 1:
            raise ZeroDivisionError("by nothing")
        return (3, n // 3)

    hand.arrivals._hook = hook
    hand.wire.header(1, N)
    send(hand, 1, [0])
    (error,) = hand.taken()
    assert type(error) is LibstreamError
    assert "run 1 could not begin: ZeroDivisionError: by nothing" in str(error)
    assert begin(hand, 2).meta.shape.nav == SCAN


# -- memory ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop", [True, False])
def test_frames_without_all_their_sectors_give_way(patch: pytest.MonkeyPatch, drop: bool) -> None:
    """Each block holds a frame that waits for a sector that was lost: the scan has to go on all the same."""
    hand = ByHand(patch, scan=(N * 10,), sectors=2, blocks=4, block_bytes=400, drop=drop)
    lost = set(range(0, N * 10, 4))
    acquisition = begin(hand, n=N * 10, numbers=[1])
    one = Pass(acquisition, lambda at, c: marked(1, at))
    for number in [0, *range(2, N * 10)]:
        send(hand, 1, [number], turn=False)
        if number in lost:
            hand.wire._queue.get()  # the second sector
        hand.turn()
        while one.has_next and one.take():
            one.merge()
    hand.wire.end(1)
    hand.after(1.1)
    one.finish()
    assert (acquisition.counts.partial, acquisition.counts.dropped) == (len(lost), 0)
    assert one.ledger["processed"] == N * 10 - len(lost)
    one.hand_out.close()
    acquisition.give_up()
    assert not hand.ring.keep.any()


def test_a_sector_that_comes_after_its_frame_was_given_up_changes_nothing(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=(40,), sectors=2, blocks=4, block_bytes=300)
    acquisition = begin(hand, n=40)
    for number in range(1, 20):
        hand.wire.frame(1, number, marked(1, number)[:2], sector=0)
    hand.turn()
    assert acquisition.counts.partial > 0
    for number in range(1, 20):
        hand.wire.frame(1, number, marked(1, number)[2:], sector=1)
    hand.turn()
    one = Pass(acquisition, lambda at, c: marked(1, at))
    one.finish()
    assert one.ledger["received"] == 20
    assert one.ledger["processed"] + one.ledger["partial"] + one.ledger["pending"] == 20


def test_frames_stay_while_somebody_reads_them(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN, blocks=4, block_bytes=300, drop=True)
    acquisition = begin(hand, numbers=range(N))
    one = Pass(acquisition, lambda at, c: marked(1, at), at_most=3)
    while one.has_next and one.take():
        pass
    assert len(one.out) == 4
    acquisition.give_up()
    begin(hand, 2, numbers=range(N))
    begin(hand, 3, numbers=range(N))
    one.finish()
    assert one.ledger["processed"] == N


def test_tables_of_a_closed_run_go_with_its_acquisition(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    acquisition = begin(hand, numbers=range(N))
    hand.wire.end(1)
    hand.turn()
    run = weakref.ref(acquisition._run)
    del acquisition
    gc.collect()
    assert run() is None
    send(hand, 1, [0, N + 3])
    assert (hand.runs.total.late, hand.runs.total.surplus) == (1, 1)


def test_totals_are_the_sum_of_all_runs(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    for run in range(REMEMBERED + 10):
        begin(hand, run, numbers=[0, 1, 1, N + 1])
        hand.wire.send(b"?")
        hand.wire.end(run)
        hand.after(0.3)
        send(hand, run, [5])
    total = hand.runs.total
    assert (total.frames, total.duplicate, total.surplus, total.late) == tuple(k * (REMEMBERED + 10) for k in (2, 1, 1, 1))
    assert total.messages == 8 * (REMEMBERED + 10)
    assert total.malformed == REMEMBERED + 10
    assert sum("not understood" in p for p in hand.runs.problems) <= NOT_UNDERSTOOD_SHOWN
    send(hand, 0, [3])  # forgotten
    assert hand.runs.total.foreign == 1


def test_acquisitions_that_nobody_takes_give_way(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=(1,), blocks=4, block_bytes=1000)
    patch.setattr("libstream.live.acquisition.QUEUED_MAX", 5)
    for run in range(200):
        hand.wire.header(run, 1)
        send(hand, run, [0])
        hand.wire.end(run)
        hand.turn()
    assert [a.run for a in hand.taken()] == [195, 196, 197, 198, 199]


def test_a_first_frame_with_a_number_that_cannot_be_costs_nothing_else(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    hand.wire.header(1, N)
    hand.turn()
    part = FramePart(1, 2**63 - 1, 0, 0, 4, "raw<", (2, 1), "uint16")
    with pytest.raises(WireError, match="cannot be"):
        hand.runs.take(part, [0], [4])
    hand.runs.message_over()
    send(hand, 1, range(N))
    (acquisition,) = hand.taken()
    assert acquisition.n_arrived == N


def test_large_acquisitions_that_nobody_takes_give_way(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=None, blocks=4, block_bytes=1000)
    largest = TABLE_FREE_BYTES // (TABLE_BYTES + TABLE_PART_BYTES)
    for run in range(10):
        hand.wire.header(run, largest // 3)
        send(hand, run, [0])
        assert len(hand.arrivals.queue) == min(3, run + 1)
    hand.wire.header(10, largest)
    send(hand, 10, [0])
    assert [a.run for a in hand.taken()] == [10]


def test_the_run_of_another_client_is_named(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=(96,))
    begin(hand, n=96, numbers=range(0, 96, 3))
    second = hand.runs.open[0]
    hand.wire.end(1)
    hand.after(1.0)
    assert any("only every third frame arrived, as regularly as if 2 other programs took the rest" in n for n in second.notes)
    acquisition = begin(hand, 2, n=96, numbers=np.random.default_rng(0).permutation(96)[:48].tolist())
    hand.wire.end(2)
    hand.after(1.0)
    assert acquisition.notes == ()


def test_after_a_bug_in_the_receiving_thread_nothing_is_overwritten(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    acquisition = begin(hand, numbers=range(4))
    place = type(acquisition._run).place
    calls = []

    def broken(*args: Any) -> None:
        place(*args)
        calls.append(1)
        raise RuntimeError("a bug")

    patch.setattr(type(acquisition._run), "place", broken)
    send(hand, 1, range(4, 8), turn=False)
    with pytest.raises(RuntimeError):
        hand.turn()
    patch.setattr(type(acquisition._run), "place", place)
    patch.setattr("libstream.live.ingest.RETRY_S", 0.0)
    hand.ingest._begin_anew("a bug")
    assert (acquisition.state, acquisition.n_arrived) == ("incomplete", 8)
    following = begin(hand, 2, numbers=range(N))
    for one in (Pass(acquisition, lambda at, c: marked(1, at)), Pass(following, lambda at, c: marked(2, at))):
        one.finish()
    assert "next one is received" in " ".join(hand.runs.problems)
