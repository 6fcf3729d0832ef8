"""What can go wrong between detector and result. Each ends with the right account and mask, and the next acquisition works."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.codecs import wire as codecs
from libstream.errors import CancelledError, CodecError, ShapeError
from libstream.testing.detectors import Wire
from tests.live.failing import FRAMES, LIMIT_S, SCAN, UDFS, N, check, detector, taken, until


def all_but(*lost: int) -> list[int]:
    """Numbers of the other frames."""
    return [n for n in range(N) if n not in lost]


@pytest.mark.parametrize("hangs_up", [False, True])
def test_01_the_producer_dies(hangs_up: bool) -> None:
    with detector(stall_timeout_s=0.3) as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, range(20))
        if hangs_up:
            wire.hang_up()
        acquisition = taken(live)
        result = ls.run(acquisition, UDFS)
        check(result, range(20), missing=N - 20, received=20)
        assert result.run["acquisition"]["state"] == acquisition.state == "incomplete"
        assert ("closed the connection" if hangs_up else "no frame for 0.3") in acquisition.reason
        assert live.state == "waiting"


def test_02_a_frame_is_lost() -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, all_but(5, 30))
        wire.end(1)
        result = ls.run(taken(live), UDFS)
        check(result, all_but(5, 30), missing=2, received=N - 2)
        assert result.run["acquisition"]["state"] == "incomplete"


def test_03_a_frame_comes_twice() -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, [0, 1, 1, *range(2, N), 7])
        wire.end(1)
        check(ls.run(taken(live), UDFS), range(N), duplicate=2, received=N + 2)


def test_04_frames_out_of_order() -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, np.random.default_rng(0).permutation(N).tolist())
        wire.end(1)
        check(ls.run(taken(live), UDFS), range(N), received=N)


@pytest.mark.parametrize("end", [True, False])
def test_05_the_last_frame_is_lost(end: bool) -> None:
    with detector(stall_timeout_s=5.0 if end else 0.3) as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, range(N - 1))
        if end:
            wire.end(1)
        check(ls.run(taken(live), UDFS), range(N - 1), missing=1)


def test_06_the_end_is_missing() -> None:
    with detector(stall_timeout_s=60.0) as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES)
        acquisition = taken(live)
        check(ls.run(acquisition, UDFS), range(N))
        assert acquisition.state == "done"


@pytest.mark.parametrize("ended", [False, True])
def test_07_and_08_the_next_acquisition_begins_before_the_first_one_ends(ended: bool) -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, range(20))
        wire.header(2, N)
        wire.frames(2, FRAMES[::-1])
        wire.frames(1, FRAMES, range(20, 23))  # late
        if ended:
            wire.end(1)
        wire.end(2)
        first = taken(live)
        check(ls.run(first, UDFS), range(20), missing=N - 20)
        assert first.state == "incomplete"
        assert "next acquisition began" in first.reason
        second = taken(live)
        check(ls.run(second, UDFS), range(N), FRAMES[::-1], received=N)
        assert first.counts.late == 3


def test_09_what_is_left_of_an_older_acquisition() -> None:
    with detector() as (wire, live):
        wire.frames(0, FRAMES, range(40, 48))
        wire.end(0)
        wire.header(1, N)
        wire.frames(0, FRAMES, range(3))
        wire.frames(1, FRAMES)
        wire.end(1)
        acquisition = taken(live)
        check(ls.run(acquisition, UDFS), range(N))
        assert acquisition.counts.foreign == 0
        assert live.status()["foreign"] == 11


def test_10_joined_late() -> None:
    with detector() as (wire, live):
        wire.frames(1, FRAMES, range(20, 48))
        wire.end(1)
        assert live.wait(0.2) is None
        assert live.status()["foreign"] == 28
        assert "arrive without a header (joined too late?)" in " ".join(live.problems)


def test_10_a_header_and_no_frame() -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        until(lambda: live.state == "armed", "the header")
        assert live.wait(0.05) is None
        wire.end(1, "aborted")
        until(lambda: live.problems, "the end")
        assert "run 1 ended without a frame: aborted" in live.problems[-1]
        wire.header(2, N)
        wire.header(3, N)
        until(lambda: len(live.problems) == 2, "the next header")
        assert "run 2 was announced and sent no frame" in live.problems[-1]


def test_11_parts_that_nobody_needs() -> None:
    """Messages of DECTRIS with everything that can be asked for, through the same source."""
    from libstream.contracts.stream import Detector
    from libstream.io_backends.streams import _dectris_v1 as v1
    from libstream.live.source import LiveSource
    from libstream.testing.detectors import memory_source

    wire = Wire()
    made = memory_source(Wire())
    made.close()
    settings: dict[str, Any] = {"order": {}, "shape_hook": None, "ring_bytes": 8 << 20, "max_message_bytes": None, "policy": "block"}
    from tests.live import dectris_v1_messages as m

    head, appendix = m.head("all", series=3), b"\x00 any bytes {"
    config = m.text({"ntrigger": N, "nimages": 1, "x_pixels_in_detector": 12, "y_pixels_in_detector": 8})
    detector_ = Detector("dectris", wire, v1.V1Decoder)  # type: ignore[arg-type]
    with LiveSource(detector_, "dectris://", scan=SCAN, stall_timeout_s=None, describe=lambda s: s, **settings) as live:
        wire.send(head, config, *m.tables(), appendix)
        for n in range(N):
            wire.send(*m.image(n, FRAMES[n].astype("<u2").tobytes(), shape=(12, 8), series=3), appendix)
        wire.send(m.text({"htype": "dseries_end-1.0", "series": 3}))
        check(ls.run(taken(live), UDFS), range(N), received=N)
        assert not live.problems


def test_12_one_frame_of_another_shape_or_dtype() -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        for n in range(N):
            frame = FRAMES[n, :4] if n == 9 else FRAMES[n].astype("i4") if n == 11 else FRAMES[n]
            wire.frame(1, n, frame)
        wire.end(1)
        result = ls.run(taken(live), UDFS)
        check(result, all_but(9, 11), corrupt=2, received=N)
        assert result.run["acquisition"]["state"] == "incomplete"


def test_12_all_frames_of_another_shape() -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        wire.frame(1, 0, FRAMES[0, :4])
        wire.frames(1, FRAMES, range(1, N))
        acquisition = taken(live)
        assert acquisition.wait(LIMIT_S) == "failed"
        assert "(8, 12) uint16" in acquisition.reason
        assert "(4, 12) uint16" in acquisition.reason
        ledger = ls.run(acquisition, ls.udfs.Sum()).ledger
        assert (ledger["processed"], ledger["received"]) == (1, N)
        assert ledger["corrupt"] + ledger["late"] == N - 1


@pytest.mark.parametrize("codec", ["bslz4/2", "lz4", "raw<"])
def test_13_a_damaged_payload(codec: str) -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        for n in range(N):
            payload = codecs.encode(codec, FRAMES[n])
            if n in (4, 40):
                payload = payload[: len(payload) // 2]
            wire.payload(1, n, payload, FRAMES[n].shape, "u2", codec)
        wire.end(1)
        result = ls.run(taken(live), UDFS)
        check(result, all_but(4, 40), corrupt=2, received=N)


def test_14_an_unknown_encoding() -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        for n in range(N):
            wire.frame(1, n, FRAMES[n], codec="zip9<")
        wire.end(1)
        with pytest.raises(CodecError, match="unknown codec 'zip9<'"):
            live.wait(LIMIT_S)


@pytest.mark.parametrize("codec", ["raw<", "raw>", "bslz4/2", "lz4", "lz4f", "bslz4/4>"])
def test_14_known_encodings(codec: str) -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        for n in range(N):
            wire.payload(1, n, codecs.encode(codec, FRAMES[n]), FRAMES[n].shape, "u2", codec)
        wire.end(1)
        check(ls.run(taken(live), UDFS), range(N))


class Gate(ls.UDF):
    """Waits in a worker until the test lets it go on. (Not a thing to do in a UDF.)"""

    def outputs(self) -> dict[str, ls.Output]:
        return {"seen": ls.nav("u1")}

    def process_frame(self, frame, out) -> None:  # type: ignore[no-untyped-def]
        if threading.current_thread().name.startswith("libstream-worker"):  # not in the dry run
            GATE.wait(LIMIT_S)
        out.seen[...] = 1


GATE = threading.Event()
BIG = np.random.default_rng(2).integers(0, 1000, (16, 512, 512)).astype(np.uint16)  # half a block each; the memory has 8 blocks


@pytest.mark.parametrize("policy", ["block", "drop"])
def test_15_a_slow_consumer(policy: str) -> None:
    GATE.clear()
    with detector(policy=policy, ring_bytes=4 << 20, scan=None, stall_timeout_s=0.5) as (wire, live):
        wire.header(1, 16)
        wire.frames(1, BIG)
        wire.end(1)
        job = ls.start(taken(live), {"gate": Gate(), "sum": ls.udfs.Sum(), "total": ls.udfs.FrameTotals()})
        until(lambda: live.status()["blocked"], "the memory to be full")
        if policy == "block":
            threading.Event().wait(0.7)  # longer than the stall timeout: it is not the detector that is silent
        else:
            until(lambda: live.status()["messages"] == 18, "the detector to send all")
        GATE.set()
        result = job.wait(LIMIT_S)
        ledger = result.ledger
        seen = np.flatnonzero(result.valid)
        check(result, seen, BIG, received=16)
        assert (ledger["dropped"] > 0) is (policy == "drop")
        assert ledger["processed"] + ledger["dropped"] == 16
        said = "thrown away" if policy == "drop" else "the detector has to wait"
        assert said in " ".join(live.problems)
        live._arrivals._scan = SCAN  # for the acquisition that follows
        until(lambda: not live.status()["blocked"], "memory")


def test_16_too_few_frames_for_the_scan() -> None:
    with detector() as (wire, live):
        wire.header(1, N - 8)  # it is known before the first frame
        wire.frames(1, FRAMES, range(N - 8))
        wire.end(1)
        with pytest.raises(ShapeError, match=r"announces 40 frames, but the scan \(6, 8\) from scan= takes 48"):
            live.wait(LIMIT_S)
        until(lambda: live.status()["foreign"] == N - 8, "the frames to be counted")
        wire.header(2, N)  # it is not
        wire.frames(2, FRAMES, range(N - 8))
        wire.end(2)
        check(ls.run(taken(live), UDFS), range(N - 8), missing=8)


def test_17_too_many_frames() -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES)
        for n in range(N, N + 5):
            wire.frame(1, n, FRAMES[0])
        wire.end(1)
        wire.frame(1, N + 9, FRAMES[0])
        acquisition = taken(live)
        assert acquisition.wait(LIMIT_S) == "done"
        until(lambda: acquisition.counts.surplus == 6, "the surplus")
        check(ls.run(acquisition, UDFS), range(N), surplus=6, received=N + 6)


class Raises(ls.UDF):
    """Cannot stand one frame."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"first": ls.nav("u2")}

    def process_frame(self, frame, out) -> None:  # type: ignore[no-untyped-def]
        if frame[0, 0] == FRAMES[17, 0, 0]:
            raise ValueError("frame 17")
        out.first[...] = frame[0, 0]


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_18_a_udf_raises(executor: str) -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES)
        wire.end(1)
        result = ls.run(taken(live), {**UDFS, "raises": Raises()}, executor=executor)
        check(result, range(N))
        assert "frame 17" in result.failures["raises"]


class Pids(ls.UDF):
    """Who processed each frame; slowly."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"pid": ls.nav("i8")}

    def process_frame(self, frame, out) -> None:  # type: ignore[no-untyped-def]
        import time

        time.sleep(0.005)
        out.pid[...] = os.getpid()


def test_19_a_worker_is_killed() -> None:
    with detector(stall_timeout_s=120.0) as (wire, live), ls.executor("processes", workers=2) as ex:
        wire.header(1, N)
        wire.frames(1, FRAMES, range(12))
        job = ls.start(taken(live), {**UDFS, "pids": Pids()}, executor=ex)
        until(lambda: job.snapshot() is not None and job.snapshot().valid.any(), "the first frames")  # type: ignore[union-attr]
        snapshot = job.snapshot()
        assert snapshot is not None
        victim = int(snapshot["pids"]["pid"][snapshot.valid][0])
        wire.frames(1, FRAMES, range(12, 30))
        os.kill(victim, signal.SIGKILL)
        wire.frames(1, FRAMES, range(30, N))
        wire.end(1)
        result = job.wait(60)
        check(result, range(N), received=N)
        pids = set(result["pids"]["pid"].reshape(-1).tolist())
        assert len(pids) > 1
        assert os.getpid() not in pids
        assert not live._ring.keep.any()


@pytest.mark.parametrize("error", [OSError("no route to the detector"), RuntimeError("a bug")])
def test_20_receiving_fails(error: Exception) -> None:
    class Breaks(Wire):
        broken = 0

        def receive(self, *args: Any) -> Any:
            if self.broken:
                self.broken -= 1
                raise error
            return super().receive(*args)

    breaks = Breaks()
    with detector(wire=breaks) as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, range(20))
        acquisition = taken(live)
        until(lambda: acquisition.n_arrived == 20, "the first frames")
        breaks.broken = 2
        until(lambda: not breaks.broken, "the fault")
        wire.frames(1, FRAMES, range(20, N))
        wire.end(1)
        assert acquisition.wait(LIMIT_S) == ("done" if isinstance(error, OSError) else "incomplete")
        check(ls.run(acquisition, UDFS), range(N) if isinstance(error, OSError) else range(20))
        assert str(error) in " ".join(live.problems)


def test_21_a_message_that_is_too_large() -> None:
    with detector(max_message_bytes=1000) as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, range(10))
        wire.frame(1, 10, np.zeros((30, 30), np.uint16))
        wire.frames(1, FRAMES, range(11, N))
        wire.end(1)
        check(ls.run(taken(live), UDFS), all_but(10), missing=1, received=N - 1)
        assert live.status()["oversized"] == 1
        assert "messages of more than 1000 bytes were thrown away" in " ".join(live.problems)


def test_22_whoever_looked_has_gone() -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, range(10))
        job = ls.start(taken(live), UDFS)
        viewer = threading.Thread(target=lambda: job.snapshot())
        viewer.start()
        viewer.join()
        wire.frames(1, FRAMES, range(10, N))
        wire.end(1)
        check(job.wait(LIMIT_S), range(N))


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_24_cancel_and_start_again(executor: str) -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, range(20))
        acquisition = taken(live)
        results = ls.run_iter(acquisition, UDFS, executor=executor)
        first = next(results)
        assert 0 < first.coverage.counts["processed"] <= 20
        results.close()  # type: ignore[attr-defined]
        wire.frames(1, FRAMES, range(20, N))
        wire.end(1)
        check(ls.run(acquisition, UDFS, executor=executor), range(N), received=N, gone=0)
        GATE.clear()
        job = ls.start(acquisition, {"gate": Gate(), "sum": ls.udfs.Sum()}, executor="threads")
        job.cancel()
        GATE.set()
        with pytest.raises(CancelledError):
            job.wait(LIMIT_S)


def test_25_a_header_of_zeros_before_compressed_pixels() -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        for n in range(N):
            payload = bytes(12) + codecs.encode("bslz4/2", FRAMES[n])[12:]
            wire.payload(1, n, payload, FRAMES[n].shape, "u2", "bslz4/2")
        wire.end(1)
        check(ls.run(taken(live), UDFS), range(N))


def test_26_numbers_begin_anew_and_elsewhere() -> None:
    with detector(following=1) as (wire, live):
        for frames in (FRAMES, FRAMES[::-1]):  # the same number of the run
            wire.header(1, N)
            wire.frames(1, frames)
            wire.end(1)
            check(ls.run(taken(live), UDFS), range(N), frames, received=N)
        wire.header(2, N)
        wire.frames(2, FRAMES, range(5, N))  # the first number is not 0: these are holes, not a shift
        wire.end(2)
        check(ls.run(taken(live), UDFS), range(5, N), missing=5)


@pytest.mark.parametrize("k", [2, 3])
def test_27_two_clients_share_the_frames(k: int) -> None:
    with detector() as (wire, live):
        wire.header(1, N)
        wire.frames(1, FRAMES, range(0, N, k))
        wire.end(1)
        acquisition = taken(live)
        result = ls.run(acquisition, UDFS)
        check(result, range(0, N, k))
        said = "another program" if k == 2 else "2 other programs"
        assert [note for note in acquisition.notes if f"as if {said} took the rest" in note]
        assert list(acquisition.notes) == result.run["acquisition"]["notes"]


def test_28_messages_of_strangers() -> None:
    rng = np.random.default_rng(3)
    with detector() as (wire, live):
        wire.header(1, N)
        for n in range(N):
            wire.frames(1, FRAMES, [n])
            for _ in range(20):
                head = [b"FRAM", b"HEAD", b"ANNO", b"ENDS", b""][rng.integers(5)]
                wire.send(head + rng.bytes(rng.integers(0, 40)), *[rng.bytes(rng.integers(0, 40)) for _ in range(rng.integers(0, 3))])
            wire.send(b'HEAD{"run": 5, "n_frames": "many", "scan": [1e99]}')
            wire.send(b"FRAM")
        wire.end(1)
        acquisition = taken(live)
        result = ls.run(acquisition, UDFS)
        check(result, range(N), received=N + acquisition.counts.foreign)
        assert result.run["acquisition"]["messages_not_understood"] > 10 * N
