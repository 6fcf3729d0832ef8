"""What users do with a live source and its acquisitions."""

from __future__ import annotations

import numpy as np
import pytest

import libstream as ls
from libstream.errors import LibstreamError, ShapeError
from libstream.live.ledger import imbalance
from libstream.testing.detectors import Wire
from tests.live.failing import FRAMES, LIMIT_S, SCAN, UDFS, N, check, detector, taken, until


def test_frames_that_are_not_there_are_named() -> None:
    with detector(stall_timeout_s=60.0) as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, range(20))
        acquisition = taken(live)
        until(lambda: acquisition.n_arrived == 20, "the frames")
        assert np.array_equal(acquisition[1, 4], FRAMES[12])
        assert np.array_equal(acquisition[:2], FRAMES[:16].reshape(2, 8, 8, 12))
        with pytest.raises(LibstreamError, match="flat position 20 is not in memory: it has not arrived yet, was lost"):
            acquisition[2, 4]
        with pytest.raises(LibstreamError, match="flat position 20 is not in memory"):
            acquisition[...]
        wire.frames(1, FRAMES, range(20, N))
        wire.end(1)
        assert acquisition.wait(LIMIT_S) == "done"
        assert np.array_equal(acquisition[...], FRAMES.reshape(*SCAN, 8, 12))
        assert not live._ring.keep[1:].any()


def test_a_refused_scan_is_raised_by_wait_and_passed_over_by_the_loop() -> None:
    with detector() as (wire, live):
        for run, n in ((1, N), (2, N - 1), (3, N)):
            wire.header(run, n)
            wire.frames(run, FRAMES, range(n))
            wire.end(run)
        seen = []
        for acquisition in live:
            seen.append(acquisition.run)
            check(ls.run(acquisition, UDFS), range(N))
            if acquisition.run == 3:
                break
        assert seen == [1, 3]
        assert "announces 47 frames" in " ".join(live.problems)
        wire.header(4, N - 1)
        wire.frames(4, FRAMES, range(N - 1))
        with pytest.raises(ShapeError, match="announces 47 frames"):
            live.wait(LIMIT_S)


def test_the_scan_may_come_from_the_stream_or_a_hook() -> None:
    with detector(scan=None, shape_hook=lambda n, header: (n // 4, 4)) as (wire, live):
        wire.header(1, N, scan=(4, 12))
        wire.frames(1, FRAMES)
        wire.end(1)
        assert taken(live).meta.shape.nav == (4, 12)
        wire.header(2, N)
        wire.frames(2, FRAMES)
        wire.end(2)
        assert taken(live).meta.shape.nav == (12, 4)


def test_asking_for_the_next_acquisition_gives_the_last_one_up_when_it_has_to() -> None:
    big = np.random.default_rng(0).integers(0, 9, (8, 512, 512)).astype(np.uint16)  # a block each; the memory has eight
    with detector(scan=None, ring_bytes=8 << 20, stall_timeout_s=60.0) as (wire, live):
        wire.header(1, 8)
        wire.frames(1, big[:3])
        first = taken(live)
        until(lambda: first.n_arrived == 3, "the frames")
        assert live.wait(0.01) is None  # nobody else needs the memory
        assert live._ring.keep.sum() == 3
        assert np.array_equal(first[2], big[2])
        wire.frames(1, big, range(3, 8))
        wire.header(2, 8)
        wire.frames(2, big)
        wire.end(2)
        second = taken(live)
        assert ls.run(second, ls.udfs.FrameTotals()).ledger["processed"] == 8
        assert first.state == "done"
        ledger = ls.run(first, ls.udfs.FrameTotals()).ledger
        assert ledger["gone"] > 0
        assert ledger["processed"] + ledger["gone"] == 8
        live._arrivals._scan = SCAN  # for the acquisition that follows


def test_names_of_channels_are_told_apart() -> None:
    with detector(wire=Wire(channels=("a", "a"))) as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES)
        wire.end(1)
        acquisition = taken(live)
        assert acquisition.meta.channels == ("channel_1", "channel_2")
        both = ls.run(acquisition, {"a": ls.udfs.FrameTotals(), "b": ls.on("channel_2", ls.udfs.FrameTotals())})
        assert np.array_equal(both["b"]["total"] - both["a"]["total"], np.full(SCAN, FRAMES[0].size))
        wire.channels = ("frames",)


def test_waiting_for_the_end_of_more_than_the_memory_holds() -> None:
    big = np.random.default_rng(0).integers(0, 9, (20, 512, 512)).astype(np.uint16)  # a block each; the memory has eight
    with detector(scan=None, ring_bytes=8 << 20, stall_timeout_s=60.0) as (wire, live):
        wire.header(1, 20)
        wire.frames(1, big)
        wire.end(1)
        acquisition = taken(live)
        assert acquisition.wait(LIMIT_S) == "done"
        ledger = ls.run(acquisition, ls.udfs.FrameTotals()).ledger
        assert imbalance(ledger) == ""
        assert (ledger["received"], ledger["processed"] + ledger["gone"]) == (20, 20)
        assert ledger["gone"] >= 12
        live._arrivals._scan = SCAN  # for the acquisition that follows


def test_scans_of_an_endless_acquisition_one_after_another() -> None:
    with detector() as (wire, live):
        wire.header(1, None)
        seen = []
        for scan in range(3):
            lost = {scan}
            for n in range(N):
                if n not in lost:
                    wire.frame(1, scan * N + n, FRAMES[n])
        wire.end(1, "stopped by the operator")
        for acquisition in live:
            result = ls.run(acquisition, UDFS)
            check(result, set(range(N)) - {len(seen)}, missing=1, received=N - 1)
            seen.append(acquisition.meta.id.uri)
            if len(seen) == 3:
                break
        assert seen == ["memory://#run=1", f"memory://#run=1&from={N}", f"memory://#run=1&from={2 * N}"]
        assert acquisition.reason == "stopped by the operator"
