"""Acquisitions without end: one scan after another; by hand, with a clock that stands still."""

from __future__ import annotations

import pytest

from libstream.errors import ShapeError
from libstream.live.acquisition import QUEUED_MAX
from tests.live.by_hand import SCAN, ByHand, N, Pass, marked, send


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The same, shorter."""
    return monkeypatch


@pytest.mark.parametrize("has_end", [True, False])
def test_an_endless_run_is_one_scan_after_another(patch: pytest.MonkeyPatch, has_end: bool) -> None:
    hand = ByHand(patch, scan=SCAN, has_end=has_end)
    hand.wire.header(1, None)
    send(hand, 1, range(4 * N + 5))  # more than four scans in one batch
    found = hand.taken()
    assert [a._run.first for a in found] == [0, 12, 24, 36, 48]
    assert [a.state for a in found] == ["done"] * 4 + ["running"]
    assert found[-1].n_arrived == 5
    assert [a.meta.id.uri for a in found[:2]] == ["memory://#run=1", "memory://#run=1&from=12"]
    for acquisition in found[:4]:
        one = Pass(acquisition, lambda at, c, first=acquisition._run.first: marked(1, first + at, c))
        one.finish()
        assert one.ledger["processed"] == N
    hand.wire.end(1)
    hand.after(1.0)
    assert found[-1].state == "incomplete"
    send(hand, 1, [5 * N])
    assert hand.taken() == []
    assert found[-1].counts.surplus == 1


def test_one_position_is_a_scan_too(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=(1,), blocks=300)
    hand.wire.header(1, None)
    send(hand, 1, range(2000))
    assert [a.state for a in hand.taken()[-2000:]] == ["done"] * QUEUED_MAX


def test_frames_that_are_overtaken_at_the_border_of_two_scans(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    hand.wire.header(1, None)
    send(hand, 1, [*range(N - 2), N + 1, N - 1, N, N - 2])
    first, second = hand.taken()
    assert first.state == "done"
    assert second.n_arrived == 2
    assert first.counts.late == second.counts.late == 0
    send(hand, 1, [N + 3, 3])
    assert (first.counts.late, second.n_arrived) == (1, 3)


def test_a_scan_that_lost_a_frame_ends_soon_after_the_next_one_begins(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    hand.wire.header(1, None)
    send(hand, 1, [*range(1, N), N])
    first, second = hand.taken()
    assert first.state == "draining"
    hand.after(0.3)
    assert (first.state, second.state) == ("incomplete", "running")


def test_an_endless_run_goes_on_after_a_pause(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    hand.wire.header(1, None)
    send(hand, 1, range(N))
    (first,) = hand.taken()
    assert first.state == "done"
    hand.after(100.0)
    send(hand, 1, [3 * N + 1])
    (second,) = hand.taken()
    assert second._run.first == 3 * N
    send(hand, 1, [2])
    assert first.counts.late == 1
    hand.after(100.0)
    assert second.state == "incomplete"


def test_one_who_joined_late_begins_with_the_scan_that_is_on(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=SCAN)
    hand.wire.header(1, None)
    send(hand, 1, [1000, 1001])
    (acquisition,) = hand.taken()
    assert acquisition._run.first == 996
    assert acquisition.n_arrived == 2


def test_an_endless_run_without_a_scan_is_refused(patch: pytest.MonkeyPatch) -> None:
    hand = ByHand(patch, scan=None)
    hand.wire.header(1, None)
    send(hand, 1, range(3))
    (error,) = hand.taken()
    assert isinstance(error, ShapeError)
    assert "announces no number of frames" in str(error)
    assert hand.runs.total.foreign == 3
