"""Frames through a router: the result is that of one computer, whatever happens to consumers, producers, routers and clients."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import CancelledError, ShapeError, UDFError, UsageError
from libstream.live.ledger import imbalance
from libstream.route.source import RoutedSource
from libstream.testing.detectors import Wire
from tests.cluster.routing import ANYWHERE, FRAME_BYTES, ThreadConsumers, routed
from tests.live.failing import FRAMES, LIMIT_S, UDFS, N, check, until


def test_an_acquisition_gives_the_bits_of_a_stored_scan() -> None:
    stored = ls.run(ls.open(FRAMES.reshape(6, 8, 8, 12)), UDFS)
    with routed() as r:
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES)
        r.wire.end(1)
        result = r.run(r.taken())
        check(result, range(N), received=N)
        for key in stored:
            for name in stored[key]:
                assert result[key][name].dtype == stored[key][name].dtype
                assert result[key][name].tobytes() == stored[key][name].tobytes(), (key, name)
        until(lambda: r.live.cluster()["blocks_given"] >= 12, "health that knows of the blocks")
        nodes = r.live.cluster()["nodes"]
        assert [n["role"] for n in nodes] == ["router", "consumer", "consumer"]
        assert all(n["frames"] > 0 for n in nodes if n["role"] == "router")


def test_sectors_of_a_frame_reach_one_consumer() -> None:
    with routed(wire=Wire(sectors=4)) as r:
        r.wire.header(1, N)
        rng = np.random.default_rng(3)
        parts = [(n, s) for n in range(N) for s in range(4)]
        rng.shuffle(parts)
        for n, s in parts:
            r.wire.frame(1, n, np.split(FRAMES[n], 4)[s], sector=s)
        r.wire.end(1)
        check(r.run(r.taken()), range(N), received=N)


def test_two_channels_and_a_part_of_the_scan() -> None:
    roi = np.zeros((6, 8), bool)
    roi[1:4, 2:7] = True
    with routed(wire=Wire(channels=("a", "b")), following=None) as r:
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES)
        r.wire.end(1)
        acquisition = r.taken()
        udfs: Any = {"a": ls.udfs.Sum(), "b": ls.on("b", ls.udfs.Sum())}
        result = ls.run(acquisition, udfs, roi=roi, executor=r.executor)
        at = np.flatnonzero(roi)
        assert np.array_equal(result["a"]["sum"], FRAMES[at].sum(axis=0, dtype=np.uint64))
        assert np.array_equal(result["b"]["sum"], (FRAMES[at] + 1).sum(axis=0, dtype=np.uint64))
        assert imbalance(result.ledger) == ""
        assert result.ledger["excluded"] == N - len(at)


def disc(outer: Any) -> ls.UDF:
    return ls.udfs.VirtualDetector(shape="disk", outer=outer)


def test_parameters_change_while_frames_come_and_afterwards() -> None:
    with routed() as r:
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES, range(20))
        job = r.start(r.taken(), {"disc": disc(3.0)})
        until(lambda: job.progress.n_done >= 16, "the first frames")
        job.update("disc", outer=5.0)
        r.wire.frames(1, FRAMES, range(20, N))
        r.wire.end(1)
        first = job.wait(LIMIT_S)
        job.update("disc", outer=4.0)
        second = job.wait(LIMIT_S)
        for result, outer in ((first, 5.0), (second, 4.0)):
            here = ls.run(ls.open(FRAMES.reshape(6, 8, 8, 12)), {"disc": disc(outer)})
            assert result.complete
            for name in here["disc"]:
                assert np.array_equal(result["disc"][name], here["disc"][name])


def test_every_snapshot_is_accounted_for() -> None:
    with routed() as r:
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES, range(9))
        job = r.start(r.taken())
        for k in range(9, N, 3):
            r.wire.frames(1, FRAMES, range(k, k + 3))
            until(lambda k=k: job.progress.n_done >= k, "snapshots while frames come")  # type: ignore[misc]
            shot = job.snapshot()
            assert shot is not None
            assert imbalance(shot.ledger) == ""
            assert min(shot.ledger.values()) >= 0
        r.wire.end(1)
        check(job.wait(LIMIT_S), range(N), received=N)


# -- consumers that are lost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.parametrize("after", [0, 3])
def test_a_consumer_is_lost_in_the_middle_and_nothing_else_is(how: str, after: int) -> None:
    """What it had not finished goes to the other one; a frozen one that comes back is not listened to, and begins anew."""
    seen: list[int] = []
    reached = threading.Event()

    def before(index: int, partition: Any) -> None:
        if index == 0:
            seen.append(partition.number)
            if len(seen) > after and not reached.is_set():
                setattr(r.executor.running[0], how, True)
                reached.set()
                threading.Event().wait(0.1)  # nothing of this block leaves the consumer

    with routed(before=before, frames=2) as r:
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES)
        r.wire.end(1)
        acquisition = r.taken()
        job = r.start(acquisition)
        assert reached.wait(LIMIT_S)
        result = job.wait(LIMIT_S)
        check(result, range(N), received=N)
        assert result.run["acquisition"]["state"] == "done"
        until(lambda: r.live.cluster()["consumers_lost"] >= 1, "health that knows of the loss")
        until(lambda: r.live.cluster()["blocks_again"] >= 1, "health that knows of blocks that were given again")
        until(lambda: any("goes to others" in p for p in r.live.problems), "the note of the loss")
        r.executor.running[0].frozen = False
        if how == "frozen":
            until(lambda: r.live.n_consumers == 2, "the frozen one, in a new session")
        names = [(n["name"], n["role"]) for n in r.hub.health()["nodes"]]
        assert len(set(names)) == len(names)
        reached.set()


def test_frames_over_which_consumers_die_are_given_up_and_the_scan_ends() -> None:
    """Three consumers are lost over one block: its frames are missing, and said to be gone; everything else is there."""

    def before(index: int, partition: Any) -> None:
        if 13 in partition.positions():
            r.executor.running[index].killed = True
            r.executor.another()
            threading.Event().wait(0.2)  # no result of it leaves the consumer

    with routed(before=before, following=None) as r:
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES)
        r.wire.end(1)
        result = r.run(r.taken())
        lost = np.flatnonzero(~result.valid.reshape(-1))
        assert 13 in lost
        assert len(lost) == 4
        check(result, sorted(set(range(N)) - set(lost.tolist())), missing=4, gone=4, received=N)
        until(lambda: any("given up" in p for p in r.live.problems), "the note that frames were given up")


def test_a_consumer_that_does_not_finish_is_replaced() -> None:
    stuck = threading.Event()

    def before(index: int, partition: Any) -> None:
        if index == 0 and not stuck.is_set():
            stuck.set()
            r.executor.running[0].frozen = False
            threading.Event().wait(1.2)

    with routed(before=before, hub={"block_s": 0.4}) as r:
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES)
        r.wire.end(1)
        check(r.run(r.taken()), range(N), received=N)


def test_without_consumers_a_scan_ends_after_the_agreed_time() -> None:
    with routed(1, following=None) as r:
        r.live.wait_s = 0.5
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES)
        r.wire.end(1)
        r.executor.running[0].killed = True
        until(lambda: r.live.n_consumers == 0, "no consumers")
        result = r.run(r.taken())
        assert imbalance(result.ledger) == ""
        assert (result.ledger["missing"], result.ledger["gone"], result.ledger["processed"]) == (N, N, 0)
        assert "no consumer" in result.run["acquisition"]["reason"]


# -- the account -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["lost after it was announced", "the producer dies"])
def test_what_never_comes_is_missing_within_the_timeout(what: str) -> None:
    wire = Wire(sectors=4)
    with routed(wire=wire, stall_timeout_s=0.4, n_senders=4) as r:
        last = N if what.startswith("lost") else 20
        wire.header(1, N)
        for n in range(last):
            for s, part in enumerate(np.split(FRAMES[n], 4)):
                if (n, s) != (7, 2):
                    wire.frame(1, n, part, sector=s)
        for s in range(4):
            wire.announce(1, s, N)
        result = r.run(r.taken())
        check(result, sorted(set(range(last)) - {7}), missing=N - last + 1, partial=1, received=last)
        assert result.run["acquisition"]["state"] == "incomplete"


def test_where_the_memory_is_full_the_ledger_says_which_frames_are_missing() -> None:
    frames = np.random.default_rng(2).integers(0, 60000, (N, 256, 512)).astype(np.uint16)  # 12 MiB, three times the memory
    hold = threading.Event()

    def before(index: int, partition: Any) -> None:
        hold.wait(LIMIT_S)

    with routed(before=before, following=None, ring_bytes=4 << 20, policy="drop") as r:
        r.wire.header(1, N)
        r.wire.frames(1, frames, range(4))
        job = r.start(r.taken())
        r.wire.frames(1, frames, range(4, N))
        until(lambda: not r.wire.waiting, "frames to be received or dropped")
        r.wire.end(1)
        hold.set()
        result = job.wait(LIMIT_S)
        seen = np.flatnonzero(result.valid.reshape(-1)).tolist()
        assert 4 <= len(seen) < N
        check(result, seen, frames, dropped=N - len(seen), received=N)
        r.wire.header(2, N)
        r.wire.frames(2, frames, range(2))
        job = r.start(r.taken())
        for n in range(2, N):
            until(lambda n=n: job.progress.n_done > n - 4, "room")  # type: ignore[misc]
            r.wire.frames(2, frames, [n])
        r.wire.end(2)
        check(job.wait(LIMIT_S), range(N), frames, received=N)


# -- routers and clients come and go ---------------------------------------------------------------------------------------


def test_a_router_that_is_closed_ends_the_scan_and_the_next_one_works() -> None:
    from libstream.route.hub import Hub
    from libstream.testing.detectors import memory_source

    with routed(following=None) as r:
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES, range(20))
        acquisition = r.taken()
        job = r.start(acquisition)
        until(lambda: job.progress.n_done == 20, "the first frames")
        r.hub.close()
        result = job.wait(LIMIT_S)
        check(result, range(20), missing=N - 20)
        assert acquisition.state == "incomplete"
        assert "router" in acquisition.reason
        wire = Wire()
        with Hub([memory_source(wire, scan=(6, 8))], r.hub.address, lost_s=1.0, block_bytes=4 * FRAME_BYTES) as again:
            again.start()
            until(lambda: r.live.n_consumers == 2, "both consumers at the new router")
            r.wire = wire
            r.whole(2)


@pytest.mark.parametrize("n", [10, pytest.param(200, marks=pytest.mark.soak)])
def test_scans_one_after_another(n: int) -> None:
    with routed(following=None) as r:
        for run in range(1, n + 1):
            r.whole(run)
        assert r.live.cluster()["consumers_lost"] == 0


def test_a_source_that_nobody_refers_to_disconnects() -> None:
    with routed(following=None) as r:
        r.whole(1)
        executor = r.executor
        del r.live
        gc.collect()
        until(lambda: r.hub.health()["clients"] == 0, "the router to see that the client has gone")
        until(lambda: not any(t.is_alive() for t in executor._threads), "consumers to end")


def test_a_second_client_is_refused_until_the_first_has_gone() -> None:
    with routed() as r:
        other = ThreadConsumers(1)
        with pytest.raises(ls.errors.LibstreamError, match="another program already takes"):
            RoutedSource("memory://", r.hub.address, other, results=ANYWHERE, consumers=1)
        other.close()


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libstream.route.source.CONNECT_S", 0.3)
    with pytest.raises(OSError, match="does not answer"):
        RoutedSource("memory://", "tcp://127.0.0.1:9", ThreadConsumers(1), results=ANYWHERE)


def test_other_executors_are_refused() -> None:
    with pytest.raises(UsageError, match="no workers that can take frames"):
        ls.connect("router://127.0.0.1:9880", executor="threads")
    with routed() as r:
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES)
        r.wire.end(1)
        with pytest.raises(UsageError, match="from a router to consumers"):
            ls.run(r.taken(), UDFS, executor="inline")


# -- what goes wrong in UDFs and runs --------------------------------------------------------------------------------------


class Fails(ls.UDF):
    """Raises at one position."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"x": ls.nav("f8")}

    def process_frame(self, frame: Any, out: Any, at: Any) -> None:
        if at.index == 21:
            raise ValueError("planted")
        out.x[...] = 1.0


def test_a_udf_that_fails_is_left_out_and_the_others_go_on() -> None:
    with routed() as r:
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES)
        r.wire.end(1)
        result = r.start(r.taken(), {**UDFS, "fails": Fails()}).wait(LIMIT_S)
        check(result, range(N), received=N)
        assert "planted" in result.failures["fails"]


def test_where_the_only_udf_fails_its_error_arrives() -> None:
    with routed() as r:
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES)
        r.wire.end(1)
        with pytest.raises(UDFError, match="planted") as caught:
            r.start(r.taken(), {"fails": Fails()}).wait(LIMIT_S)
        assert caught.value.udf == "fails"


def test_cancel_keeps_what_is_there() -> None:
    with routed() as r:
        r.wire.header(1, N)
        r.wire.frames(1, FRAMES, range(20))
        job = r.start(r.taken())
        until(lambda: job.progress.n_done == 20, "the first frames")
        job.cancel()
        with pytest.raises(CancelledError):
            job.wait(LIMIT_S)
        partial = job.snapshot()
        assert partial is not None
        assert partial.coverage.counts["processed"] == 20
        r.wire.end(1)


def test_a_scan_that_does_not_fit_is_an_error_and_the_next_one_works() -> None:
    with routed() as r:
        r.wire.header(1, N + 1)
        r.wire.frames(1, FRAMES)
        r.wire.end(1)
        with pytest.raises(ShapeError, match="announces 49 frames"):
            r.live.wait(LIMIT_S)


@pytest.mark.parametrize("what", ["arm", "trigger", "disarm"])
def test_commands_reach_the_detector_or_say_why_not(what: str) -> None:
    with routed() as r:
        assert not r.live.can_arm
        with pytest.raises(UsageError, match="no connection for commands"):
            getattr(r.live, what)()
