"""Recording alone, over real sockets: every protocol, whatever goes wrong, and what is opened afterwards."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream import registry
from libstream.contracts.stream import FramePart, StreamUrl
from libstream.errors import SaveError, UsageError, WireError
from libstream.live import capture
from libstream.live.capture import Capture, record
from libstream.live.faults import Faults
from libstream.live.record import RESERVE_BYTES
from libstream.live.replay import replay, serve
from libstream.model.partial import CORRUPT, MISSING
from tests.live import fake
from tests.live.capturing import SCAN, frames_for, record_run
from tests.live.sending import PROTOCOLS, detector


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_same_bits(protocol: str, tmp_path: Path) -> None:
    frames = frames_for(protocol)
    captured, account = record_run(protocol, ls.open(frames), tmp_path / "raw")
    assert [(r.state, r.frames, r.n_frames) for r in captured.runs] == [("done", 42, 42)]
    assert captured.error is None
    assert captured.malformed == captured.foreign == captured.oversized == 0
    assert captured.n_messages >= account.runs[0].n_messages
    source = ls.open(tmp_path / "raw", scan=SCAN)
    assert (source.shape, source.dtype) == (frames.shape, frames.dtype)
    np.testing.assert_array_equal(source[...], frames)
    stored, recorded = (ls.run(s, [ls.udfs.Sum(), ls.udfs.CenterOfMass()]) for s in (ls.open(frames), source))
    for key in stored:
        for name in stored[key]:
            assert recorded[key][name].tobytes() == stored[key][name].tobytes()


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_recording_is_sent_as_it_was_recorded(protocol: str, tmp_path: Path) -> None:
    frames = frames_for(protocol)
    record_run(protocol, ls.open(frames), tmp_path / "raw")
    with detector(protocol, tmp_path / "raw", live={"scan": SCAN}) as (live, sender):
        acquisition = live.wait(30)
        assert acquisition is not None, live.problems
        result = ls.run(acquisition, ls.udfs.FrameTotals())
        account = sender.join()
    assert result.complete
    np.testing.assert_array_equal(result["total"], frames.sum(axis=(2, 3)))
    assert [(r.n_frames, r.ended) for r in account.runs] == [(42, protocol not in ("merlin", "sectors"))]  # which send no end


@pytest.mark.parametrize("protocol", ["dectris-v1", "own", "sectors"])
def test_every_fault_is_in_the_recording_and_in_no_result(protocol: str, tmp_path: Path) -> None:
    frames = frames_for(protocol)
    # plain numbers on the wire of the sectors: what was damaged before it was recorded cannot be seen
    corrupt = 0.0 if protocol == "sectors" else 0.1
    captured, account = record_run(
        protocol, ls.open(frames), tmp_path / "raw", loss=0.1, duplicate=0.1, reorder=0.3, corrupt=corrupt, seed=11
    )  # fmt: skip
    (run,) = account.runs
    assert run.lost
    assert run.duplicated
    assert captured.runs[0].state == "incomplete"
    result = ls.run(ls.open(tmp_path / "raw", scan=SCAN), ls.udfs.FrameTotals())
    status = result.coverage.status.reshape(-1)
    assert set(np.flatnonzero(status == MISSING).tolist()) == set(run.lost)
    assert set(np.flatnonzero(status == CORRUPT).tolist()) == set(run.corrupted) - set(run.lost)
    assert bool(run.corrupted) == bool(corrupt)
    np.testing.assert_array_equal(result["total"][result.valid], frames.sum(axis=(2, 3))[result.valid])
    assert result.valid.sum() == 42 - len(set(run.lost) | set(run.corrupted))


@pytest.mark.parametrize("protocol", ["dectris-v2", "sectors"])
def test_recording_beside_a_live_run(protocol: str, tmp_path: Path) -> None:
    frames = frames_for(protocol)
    with detector(protocol, ls.open(frames), live={"scan": SCAN, "record": tmp_path / "raw"}, loss=0.1, seed=2) as (live, sender):
        acquisition = live.wait(30)
        assert acquisition is not None, live.problems
        result = ls.run(acquisition, [ls.udfs.Sum(), ls.udfs.FrameTotals()])
        account = sender.join()
        assert live.status()["recording_error"] is None
    recorded = ls.run(ls.open(tmp_path / "raw", scan=SCAN), [ls.udfs.Sum(), ls.udfs.FrameTotals()])
    assert account.runs[0].lost
    np.testing.assert_array_equal(recorded.coverage.status, result.coverage.status)
    for key in result:
        for name in result[key]:
            assert recorded[key][name].tobytes() == result[key][name].tobytes()


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@pytest.mark.parametrize("fault", [{"wrong_shape": 0.3}, {"extra": 3}, {"new_run_at": 20}, {"foreign_at": 35}, {"late": 0.2}])
def test_every_kind_of_detector_can_fail_in_every_way(protocol: str, fault: dict[str, Any]) -> None:
    address = StreamUrl.parse(PROTOCOLS[protocol][0].format(port=1, ports="1-4", info=5))
    kind = registry.load("detectors", address.scheme)()
    _, encoder = kind.sender(address)
    account = serve(
        ls.open(frames_for(protocol)), fake.Line(f"every-{protocol}"), encoder, lambda: kind.decoder(address), faults=Faults(**fault),
        rate=None, run=1, repeat=1, pause_s=0, seed=1, progress=None, opened=None, cancel=None, patience_s=1, ahead_bytes=1 << 20,
    )  # fmt: skip
    line = fake.LINES.pop(f"every-{protocol}")
    decoder, numbers = kind.decoder(address), []
    while not line.empty():
        with contextlib.suppress(WireError):
            numbers += [(e.run, e.number) for e in decoder.feed(line.get()[0]) if isinstance(e, FramePart)]
    if "new_run_at" in fault:
        assert [len(set(numbers) & {(r.run, k) for k in range(42)}) for r in account.runs] in ([20, 42], [0, 42])
    else:
        treated = {k for k in range(45) for name in ("wrong_shape", "foreign") if k in getattr(account.runs[0], name)}
        assert {k for _, k in numbers} | treated == set(range(45 if "extra" in fault else 42))


def test_run_after_run(tmp_path: Path) -> None:
    frames = frames_for("own")
    captured, _ = record_run("own", ls.open(frames), tmp_path / "raw", count=3, repeat=3)
    assert [(r.run, r.state) for r in captured.runs] == [(1, "done"), (2, "done"), (3, "done")]
    np.testing.assert_array_equal(ls.open(tmp_path / "raw", run=2)[...], frames)


def test_a_run_that_stops_is_over_after_a_silence(tmp_path: Path) -> None:
    captured, account = record_run("own", ls.open(frames_for("own")), tmp_path / "raw", die_at=20)
    assert account.died
    assert [(r.frames, r.state) for r in captured.runs] == [(20, "incomplete")]


# -- the fake detector -----------------------------------------------------------------------------------------------------


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A wire in memory."""
    load = registry.load
    monkeypatch.setattr(
        registry, "load", lambda group, name: fake.FakeKind if (group, name) == ("detectors", "fake") else load(group, name)
    )
    name = uuid.uuid4().hex
    yield name
    fake.LINES.pop(name, None)


DATA = np.random.default_rng(0).poisson(5, (5, 6, 8, 4)).astype(np.uint16)


def test_nobody_sends(host: str, tmp_path: Path) -> None:
    cancel = threading.Event()
    seen: list[float] = []

    def progress(state: Capture) -> None:
        seen.append(state.seconds)
        cancel.set()

    captured = record(f"fake://{host}", tmp_path / "raw", cancel=cancel, progress=progress, reserve_bytes=0)
    assert captured.runs == []
    assert captured.error is None
    assert seen
    (session,) = json.loads((tmp_path / "raw" / "recording.json").read_text())["sessions"]
    assert session["n_messages"] == 0


def test_more_than_the_memory_holds(host: str, tmp_path: Path) -> None:
    frames = np.tile(DATA, (20, 1, 1, 1))  # 40 kB of pixels through blocks of 4 kB
    replay(ls.open(frames), f"fake://{host}")
    captured = record(f"fake://{host}", tmp_path / "raw", count=1, block_bytes=4096, reserve_bytes=0)
    assert captured.runs[0].state == "done"
    assert captured.waiting == 0
    np.testing.assert_array_equal(ls.open(tmp_path / "raw")[...], frames)


def test_the_detector_waits_for_a_slow_disk(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    real = capture.Recorder._write

    def slow(self: Any, *args: Any) -> None:
        assert gate.wait(20)
        real(self, *args)

    monkeypatch.setattr(capture.Recorder, "_write", slow)
    frames = np.tile(DATA, (60, 1, 1, 1))
    replay(ls.open(frames), f"fake://{host}")
    state: list[Capture] = []

    def progress(now: Capture) -> None:
        state.append(now)
        if now.full:
            gate.set()

    captured = record(f"fake://{host}", tmp_path / "raw", count=1, block_bytes=4096, progress=progress, reserve_bytes=0)
    assert captured.full
    assert captured.runs[0].state == "done"
    np.testing.assert_array_equal(ls.open(tmp_path / "raw")[...], frames)


def test_a_full_disk_ends_the_recording_and_is_said_before(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.tile(DATA, (10, 1, 1, 1))
    replay(ls.open(frames), f"fake://{host}")
    free = [1 << 40, RESERVE_BYTES + 3000, RESERVE_BYTES + 3000, RESERVE_BYTES - 1]
    for module in (capture, sys.modules["libstream.live.record"]):
        monkeypatch.setattr(module, "free_bytes", lambda folder: free.pop(0) if len(free) > 1 else free[0])
    monkeypatch.setattr("libstream.live.record._CHECK_BYTES", 0)
    captured = record(f"fake://{host}", tmp_path / "raw", block_bytes=4096)
    assert captured.error is not None
    assert "nothing more is recorded" in captured.error
    assert any("the recording will end after about" in n and "of 300 frames. Make room" in n for n in captured.notes)


def test_what_nobody_understands_is_recorded_all_the_same(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = fake.Line(host)
    line.send((b"\x00\x01",), 1)
    line.send((json.dumps({"t": "f", "run": 5, "k": 0, "shape": [1, 1], "dtype": "uint8"}).encode(), b"x"), 1)
    replay(ls.open(DATA), f"fake://{host}")
    feed = fake.FakeDecoder.feed

    def buggy(self: Any, parts: Any) -> Any:
        if b'"k": 7,' in bytes(parts[0]):
            raise ZeroDivisionError("a bug")
        return feed(self, parts)

    monkeypatch.setattr(fake.FakeDecoder, "feed", buggy)
    captured = record(f"fake://{host}", tmp_path / "raw", count=1, reserve_bytes=0)
    assert (captured.malformed, captured.foreign) == (2, 1)
    assert captured.n_messages == 34
    assert [(r.frames, r.state) for r in captured.runs] == [(29, "incomplete")]
    monkeypatch.undo()


def test_refuses(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="count is a number of runs"):
        record(f"fake://{host}", tmp_path / "raw", count=0)
    with pytest.raises(SaveError, match="needs about"):
        record(f"fake://{host}", tmp_path / "raw", needed_bytes=10**18)
    with pytest.raises(UsageError, match="no detector called 'nothing'"):
        record("nothing://here", tmp_path / "raw")
