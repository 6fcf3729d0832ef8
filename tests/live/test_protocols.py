"""Every protocol over real sockets: live is bit-identical to offline, and every frame is accounted for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.live.ledger import imbalance
from tests.live.sending import PROTOCOLS, detector

SCAN = (16, 24)
ALL = sorted(PROTOCOLS)
TOTALS = [ls.udfs.Sum(), ls.udfs.FrameTotals(), ls.udfs.Max(), ls.udfs.VirtualDetector(inner=2, outer=9), ls.udfs.CenterOfMass()]


def frames_for(protocol: str) -> Any:
    """A data set that the protocol can carry."""
    y, x = (576, 576) if protocol == "sectors" else (256, 256) if protocol == "merlin" else (48, 64)
    n = int(np.prod(SCAN))
    base = np.random.default_rng(5).poisson(0.4, (8, y, x)).astype(np.uint16)
    out = (
        base[np.arange(n) % 8].copy()
        if y * x < 10_000
        else np.lib.stride_tricks.as_strided(base[:1], (n, y, x), (0, *base.strides[1:])).copy()
    )
    out[:, 0, 0] = np.arange(n)  # every frame is another one
    return out.reshape(*SCAN, y, x)


@pytest.fixture(scope="module", params=ALL)
def stored(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    """(protocol, frames, offline result)."""
    frames = frames_for(request.param)
    return request.param, frames, ls.run(ls.open(frames), TOTALS)


def assert_same(live: ls.Result, offline: ls.Result) -> None:
    """Bit for bit, in every output of every UDF."""
    for key in offline:
        for name in offline[key]:
            a, b = offline[key][name], live[key][name]
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes(), f"{key}/{name} differs"


def frames_lost(account: Any) -> set[int]:
    """Numbers of frames that did not arrive whole."""
    return set(account.lost) | set(account.truncated)


def test_live_is_offline(stored: tuple[str, Any, Any]) -> None:
    protocol, frames, offline = stored
    with detector(protocol, ls.open(frames), live={"scan": SCAN}) as (live, sender):
        acquisition = live.wait(30)
        assert acquisition is not None, live.problems
        assert acquisition.meta.shape == ls.open(frames).meta.shape
        result = ls.run(acquisition, TOTALS)
        assert_same(result, offline)
        assert result.complete, (result.ledger, live.problems)
        assert acquisition.wait(10) == "done"
        assert imbalance(result.ledger) == ""
        assert result.ledger["received"] == frames.shape[0] * frames.shape[1]
        assert not live.problems
        sender.join()


@pytest.mark.parametrize("workers", [1, 2])
def test_shuffled_frames_find_their_places(stored: tuple[str, Any, Any], workers: int) -> None:
    protocol, frames, offline = stored
    with detector(protocol, ls.open(frames), live={"scan": SCAN}, reorder=0.5, window=40, seed=workers) as (live, sender):
        with ls.executor("threads", workers=workers) as ex:
            acquisition = live.wait(30)
            assert acquisition is not None, live.problems
            result = ls.run(acquisition, TOTALS, executor=ex)
        assert sender.join().runs[0].reordered
        assert_same(result, offline)
        assert result.complete


def test_serpentine(stored: tuple[str, Any, Any]) -> None:
    protocol, frames, offline = stored
    sent = frames.copy()
    sent[1::2] = sent[1::2, ::-1]
    with detector(protocol, ls.open(sent), live={"scan": SCAN, "order": "serpentine"}) as (live, _):
        acquisition = live.wait(30)
        assert acquisition is not None, live.problems
        assert_same(ls.run(acquisition, TOTALS), offline)


def test_losses_and_duplicates_are_counted_and_the_next_run_is_whole(stored: tuple[str, Any, Any]) -> None:
    protocol, frames, offline = stored
    n = int(np.prod(SCAN))
    parts = 4 if protocol == "sectors" else 1
    with detector(protocol, ls.open(frames), live={"scan": SCAN, "stall_timeout_s": 1.5}, loss=0.05, duplicate=0.05, seed=3, repeat=2) as (
        live, sender,
    ):  # fmt: skip
        acquisition = live.wait(30)
        assert acquisition is not None, live.problems
        result = ls.run(acquisition, [ls.udfs.Sum(), ls.udfs.FrameTotals()])
        ledger = result.ledger
        following = live.wait(30)
        assert following is not None
        second = ls.run(following, [ls.udfs.Sum(), ls.udfs.FrameTotals()])
        first_run, second_run = sender.join().runs
    for found, run in ((result, first_run), (second, second_run)):
        lost = frames_lost(run)
        ledger = found.ledger
        assert imbalance(ledger) == ""
        assert ledger["processed"] == n - len(lost)
        assert ledger["missing"] == len(lost)
        assert set(np.flatnonzero(~found.valid.reshape(-1)).tolist()) == lost
        if parts == 1:
            assert ledger["duplicate"] == len(run.duplicated)
        seen = sorted(set(range(n)) - lost)
        assert np.array_equal(found["sum"]["sum"], frames.reshape(n, *frames.shape[2:])[seen].sum(axis=0, dtype=np.uint64))
        assert np.array_equal(found["total"].reshape(-1)[seen], offline["frame_totals"]["total"].reshape(-1)[seen])


def test_a_memory_full_of_incomplete_frames_does_not_stand_still() -> None:
    frames = frames_for("sectors")[:4]
    with detector("sectors", ls.open(frames), live={"scan": (4, 24), "ring_bytes": 12 << 20}) as (live, sender):
        acquisition = live.wait(30)
        assert acquisition is not None, live.problems
        result = ls.run(acquisition, [ls.udfs.Sum(), ls.udfs.FrameTotals()])
        assert imbalance(result.ledger) == ""
        ok = result.valid
        assert np.array_equal(result["sum"]["sum"], frames[ok].sum(axis=0, dtype=np.uint64))
        assert result.ledger["dropped"] + result.ledger["processed"] + result.ledger["missing"] == 96
        sender.join()
