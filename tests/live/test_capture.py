"""Recording alone, over real sockets: every protocol, whatever goes wrong, and what is opened afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream import registry
from libstream.cli.main import main
from libstream.contracts.stream import FramePart, StreamUrl
from libstream.errors import SaveError, UsageError, WireError
from libstream.live import capture
from libstream.live.capture import Capture, record
from libstream.live.faults import Faults
from libstream.live.record import RESERVE_BYTES
from libstream.live.replay import replay, serve
from libstream.model.partial import CORRUPT, MISSING
from tests.live import fake
from tests.live.sending import BINDS, PROTOCOLS, Sender, detector, free_ports

SCAN = (6, 7)


def frames_for(protocol: str) -> np.ndarray:
    """A data set that the protocol can carry, every frame another one."""
    y, x = (576, 576) if protocol == "sectors" else (256, 256) if protocol == "merlin" else (48, 64)
    out = np.random.default_rng(5).poisson(0.4, (1, y, x)).astype(np.uint16).repeat(42, axis=0)
    out[:, 0, 0] = np.arange(42)
    return out.reshape(*SCAN, y, x)


@contextlib.contextmanager
def recording(url: str, folder: Path, **how: Any) -> Iterator[Callable[[], Capture]]:
    """Records in a thread; gives a function that waits for the end."""
    box: list[Capture] = []
    failed: list[BaseException] = []
    opened = threading.Event()
    cancel = how.setdefault("cancel", threading.Event())

    def body() -> None:
        try:
            box.append(record(url, folder, opened=lambda where: opened.set(), reserve_bytes=0, **how))
        except BaseException as exc:
            failed.append(exc)
            opened.set()

    def wait() -> Capture:
        thread.join(30)
        assert not thread.is_alive(), "the recording hangs"
        if failed:
            raise failed[0]
        return box[0]

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        assert opened.wait(20)
        yield wait
    finally:
        cancel.set()
        thread.join(30)


def record_run(protocol: str, source: Any, folder: Path, *, count: int = 1, **faults: Any) -> tuple[Capture, Any]:
    """Record a replay of `source`; (what was recorded, what was sent)."""
    ports = free_ports(5)
    words = {"port": ports[0], "ports": f"{ports[0]}-{ports[3]}", "info": ports[4]}
    send, receive = (text.format(**words) for text in PROTOCOLS[protocol])
    how: dict[str, Any] = {"count": count, "stall_timeout_s": 1.0}
    if protocol in BINDS:
        sender = Sender(source, send, faults)
        try:
            sender.wait_open()
            with recording(receive, folder, **how) as wait:
                return wait(), sender.join()
        finally:
            sender.stop()
    with recording(receive, folder, **how) as wait:
        sender = Sender(source, send, faults)
        try:
            return wait(), sender.join()
        finally:
            sender.stop()


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


# -- the command line ------------------------------------------------------------------------------------------------------


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("scan.npy", frames_for("own"))
    url = f"libstream://127.0.0.1:{free_ports(1)[0]}"
    codes: list[int] = []
    sender = threading.Thread(
        target=lambda: codes.append(main(["replay", "scan.npy", "--to", url, "--loss", "0.2", "--seed", "3", "--rate", "5000"]))
    )
    sender.start()
    assert main(["record", url, "raw", "--count", "1", "--reserve", "1M", "--json"]) == 0
    sender.join(30)
    assert codes == [0]
    out = capsys.readouterr()
    said = json.loads(out.out[out.out.index("{") :].rpartition("}")[0] + "}")
    (run,) = said["runs"]
    lost = 42 - run["frames"]
    assert lost > 0
    assert f"{lost} lost" in out.out
    assert (run["n_frames"], run["state"], said["error"]) == (42, "incomplete", None)
    assert f"recording from tcp://{url.removeprefix('libstream://')} to raw" in out.err
    assert main(["info", "raw", "--scan", "6,7"]) == 0
    assert f"{lost} of 42 frames are not in the recording" in capsys.readouterr().out


def test_replay_of_a_recording_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_run("own", ls.open(frames_for("own")), tmp_path / "raw")
    for i, (words, kind) in enumerate(((["raw"], "own"), (["raw", "--decoded"], "own"), (["raw"], "dectris-v1"))):
        port = free_ports(1)[0]
        url = PROTOCOLS[kind][0].format(port=port)
        folder = tmp_path / f"again-{i}"
        argv = ["replay", str(tmp_path / words[0]), *words[1:], "--to", url, "--patience", "20", "--json"]
        sender = threading.Thread(target=lambda argv=argv: main(argv))
        with contextlib.ExitStack() as stack:
            if kind in BINDS:
                sender.start()
            wait = stack.enter_context(recording(PROTOCOLS[kind][1].format(port=port), folder, count=1))
            if kind not in BINDS:
                sender.start()
            assert wait().runs[0].state == "done"
        sender.join(30)
        said = json.loads(capsys.readouterr().out)
        assert (said["runs"][0]["sent"], said["runs"][0]["ended"]) == (42, True)
        np.testing.assert_array_equal(ls.open(folder, scan=SCAN)[...], frames_for("own"))


def test_mistakes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", DATA)
    for argv, says in (
        (["replay", str(tmp_path / "a.npy"), "--to", "libstream://x", "--loss", "2"], "loss is a fraction"),
        (["replay", str(tmp_path / "a.npy")], "--to"),
        (["record", "libstream://127.0.0.1:1", str(tmp_path)], "is not empty"),
    ):
        assert main(argv) == 2
        assert says in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_recorder_that_is_stopped_leaves_a_recording(tmp_path: Path, number: signal.Signals) -> None:
    frames = np.tile(frames_for("own"), (50, 1, 1, 1))
    port = free_ports(1)[0]
    process = subprocess.Popen(
        [sys.executable, "-m", "libstream", "record", f"libstream://127.0.0.1:{port}", str(tmp_path / "raw")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    sender = Sender(ls.open(frames), f"libstream://127.0.0.1:{port}", {"rate": 1500})
    path = tmp_path / "raw" / "messages-0001.lsr"
    try:
        deadline = time.monotonic() + 60
        while not path.exists() or path.stat().st_size < 100_000:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        sender.stop()
        process.kill()
        process.wait()
    source = ls.open(tmp_path / "raw")
    result = ls.run(source, ls.udfs.FrameTotals())
    n = int(result.valid.sum())
    assert 0 < n < 2100
    np.testing.assert_array_equal(result["total"].reshape(-1)[:n], frames.sum(axis=(2, 3)).reshape(-1)[:n])
    if number == signal.SIGINT:
        assert process.returncode == 0, err
        assert f"{n:,} of 2,100 frames, incomplete" in out
        assert "Traceback" not in err
    assert os.listdir(tmp_path / "raw")
