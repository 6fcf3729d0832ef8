"""Partitions of a running acquisition: how large, and when."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import libstream as ls
from libstream.contracts.source import Partition
from libstream.live import handout
from libstream.live.handout import LEAST, MOST_BYTES, HandOut
from tests.live.by_hand import SCAN, ByHand, N, Pass, begin, marked, send
from tests.live.failing import FRAMES, UDFS, check, detector, taken, until
from tests.live.failing import N as N_FRAMES


@pytest.mark.parametrize(
    ("frame_bytes", "planned", "expected"), [(1, 7, 7), (1, 10**6, 2000), (MOST_BYTES // 100, 10**6, 100), (MOST_BYTES, 2000, LEAST)]
)
def test_how_large_partitions_are(monkeypatch: pytest.MonkeyPatch, frame_bytes: int, planned: int, expected: int) -> None:
    hand = ByHand(monkeypatch, scan=(2000,), blocks=200)
    acquisition = begin(hand, n=2000, numbers=range(2000))
    plan = [Partition(k, np.array([[a, min(a + planned, 2000)]])) for k, a in enumerate(range(0, 2000, planned))]
    out = HandOut(acquisition._run, plan, frame_bytes)
    sizes = [next(out).n_positions for _ in range(3)]
    assert max(sizes) == sizes[0] == expected
    out.close()


def test_positions_rise_and_runs_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    hand = ByHand(monkeypatch, scan=SCAN)
    acquisition = begin(hand, numbers=[7, 3, 4, 5, 0, 11])
    one = Pass(acquisition, lambda at, c: marked(1, at), at_most=N)
    one.take()
    assert one.out[0].runs.tolist() == [[0, 1], [3, 6], [7, 8], [11, 12]]
    one.merge()
    send(hand, 1, [1, 2])
    one.take()
    assert one.out[0].runs.tolist() == [[1, 3]]
    one.finish()


def test_positions_that_are_only_lost_come_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hand = ByHand(monkeypatch, scan=SCAN)
    acquisition = begin(hand, numbers=[0])
    one = Pass(acquisition, lambda at, c: marked(1, at))
    one.take()
    one.merge()
    hand.wire.frame(1, 5, marked(1, 5)[:2])
    hand.turn()
    one.take()
    assert one.out[0].n_positions == 0
    assert [a.tolist() for a in one.out[0].lost or ()] == [[5], [2]]
    one.merge()
    assert one.ledger["corrupt"] == 1
    with hand.changed:
        hand.runs.close_all("over")
    one.finish()
    assert one.ledger["missing"] == N - 2


def test_while_nothing_comes_an_executor_that_waits_comes_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    hand = ByHand(monkeypatch, scan=SCAN)
    acquisition = begin(hand)
    plan = [Partition(0, np.array([[0, N]]))]
    monkeypatch.setattr(handout, "PAUSE_S", 0.01)
    out = HandOut(acquisition._run, plan, 1)
    assert next(out).n_positions == 1
    assert [next(out).n_positions for _ in range(3)] == [0, 0, 0]
    assert out._pause_s == 0.08
    send(hand, 1, [1])
    assert next(out).n_positions == 1
    assert out._pause_s == 0.01
    out.wake()
    with pytest.raises(StopIteration):
        next(out)
    out.close()


def test_two_jobs_of_different_speed_share_an_acquisition() -> None:
    with detector(stall_timeout_s=60.0) as (wire, live):
        wire.header(1, N_FRAMES)
        wire.frames(1, FRAMES, range(10))
        acquisition = taken(live)
        first = ls.start(acquisition, UDFS)
        until(lambda: first.snapshot() is not None, "the first job to be under way")
        second = ls.start(acquisition, UDFS, executor="inline")
        wire.frames(1, FRAMES, range(10, N_FRAMES))
        wire.end(1)
        results = []
        threads = [threading.Thread(target=lambda job=job: results.append(job.wait(20))) for job in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            check(result, range(N_FRAMES), received=N_FRAMES, gone=0)
        assert len(results) == 2
        until(lambda: not live._ring.keep.any(), "the memory to be let go")
