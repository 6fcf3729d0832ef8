"""LiberTEM-live 0.3 on the other end of the wire: its simulators send to libstream, its Rust receivers take what libstream replays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from tests.live.peers import Peer, program
from tests.live.sending import Sender, free_ports
from tests.writers import mib

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]
SCAN = (6, 8)
N = 48


def frames_of(shape: tuple[int, int], top: int, dtype: str) -> Any:
    """A scan in which every frame is another one, and values up to `top` are used; totals are below 2**24, exact in float32."""
    rng = np.random.default_rng(7)
    out = rng.integers(0, top, (N, *shape)) * (rng.random((N, *shape)) < 0.02)
    out[:, 0, 0] = np.arange(N) % top
    return out.astype(dtype)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """LiberTEM-live, ready to listen."""
    with Peer.script("libertem", tmp_path_factory.mktemp("peer") / "receiver.log") as peer:
        yield peer


def assert_equal(result: ls.Result, frames: Any) -> None:
    """The result of Sum and FrameTotals over frames, in any order of arrival."""
    assert np.array_equal(result["sum"]["sum"], frames.sum(axis=0, dtype=np.uint64))
    assert np.array_equal(result["frame_totals"]["total"].reshape(-1), frames.sum(axis=(1, 2), dtype=np.uint64))
    assert result.complete, result.ledger
    assert result.ledger["received"] == N


def runs_twice(live: ls.LiveSource, frames: Any) -> None:
    """Two acquisitions in a row, started by libstream."""
    for _ in range(2):
        live.arm()
        live.trigger()
        acquisition = live.wait(30)
        assert acquisition is not None, live.problems
        assert_equal(ls.run(acquisition, [ls.udfs.Sum(), ls.udfs.FrameTotals()]), frames)
        assert acquisition.wait(10) == "done"


# -- their simulators send, libstream receives -----------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "encoding"), [("uint16", "bs16-lz4<"), ("uint32", "bs32-lz4<"), ("uint8", "bs8-lz4<")])
def test_dectris_simulator(tmp_path: Path, receiver: Peer, dtype: str, encoding: str) -> None:
    frames = frames_of((64, 96), 250, dtype)
    np.save(tmp_path / "frames.npy", frames)
    receiver.ask(do="write", frames=str(tmp_path / "frames.npy"), out=str(tmp_path / "scan.dump"), encoding=encoding)
    (api,) = free_ports(1)
    command = [program("libertem", "libertem-live-dectris-sim"), str(tmp_path / "scan.dump"), "--port", str(api), "--zmqport", "0"]
    with Peer(command, tmp_path / "sim.log") as simulator:
        port = simulator.wait_said(r"RustedReplay listening on tcp://\S+:(\d+)")[1]
        simulator.wait_listens(api)
        with ls.connect(f"dectris://127.0.0.1:{port}?api={api}", scan=SCAN, ring_bytes=64 << 20) as live:
            runs_twice(live, frames)


@pytest.mark.parametrize(("code", "depth", "options"), [("U16", 12, ["--garbage"]), ("R64", 12, []), ("R64", 6, []), ("U08", 6, [])])
def test_merlin_simulator(tmp_path: Path, code: str, depth: int, options: list[str]) -> None:
    frames = mib.random_frames(np.random.default_rng(3), N, code, depth)
    file = mib.write(tmp_path, frames, code, depth, scan=SCAN)
    data, control, trigger = free_ports(3)
    ports = ["--data-port", str(data), "--control-port", str(control), "--trigger-port", str(trigger)]
    command = [program("libertem", "libertem-live-mib-sim"), str(file.with_suffix(".hdr")), "--host", "127.0.0.1", *ports, *options]
    with Peer([*command, "--wait-trigger"], tmp_path / "sim.log") as simulator:
        simulator.wait_listens(control)
        with ls.connect(f"merlin://127.0.0.1:{data}?control={control}", ring_bytes=256 << 20) as live:
            runs_twice(live, frames)
            assert np.array_equal(ls.run(ls.open(file), ls.udfs.Sum())["sum"], frames.sum(axis=0, dtype=np.uint64))


# -- libstream replays, their receivers take it ----------------------------------------------------------------------------


def assert_received(peer: Peer, kind: str, options: str, frames: Any, out: Path) -> None:
    """Two replays of frames, started by LiberTEM-live, give it the right sum and the right total at each position."""
    source = ls.open(frames.reshape(*SCAN, *frames.shape[1:]))
    data, api = free_ports(2)
    sender = Sender(
        source, f"{kind}://127.0.0.1:{data}?{'api' if kind == 'dectris' else 'control'}={api}&{options}", {"repeat": 3}
    )  # the last one is never started
    try:
        sender.wait_open()
        peer.ask(do="listen", kind=kind, data=data, api=api)
        for _ in range(2):
            said = peer.ask(do="run", scan=SCAN, out=str(out))
            assert said["executor"] == "PipelinedExecutor"
            found = np.load(out)
            assert np.array_equal(found["sum"], frames.sum(axis=0, dtype=np.float64))
            assert np.array_equal(found["totals"].reshape(-1), frames.sum(axis=(1, 2), dtype=np.float64))
    finally:
        sender.stop()
    assert [run.sent for run in sender.join().runs[:2]] == [N, N]


@pytest.mark.parametrize(
    ("dtype", "encoding", "split"),
    [("uint16", "bs16-lz4<", 1), ("uint16", "lz4<", 0), ("uint32", "bs32-lz4<", 0), ("uint8", "bs8-lz4<", 1)],
)
def test_dectris_receiver(tmp_path: Path, receiver: Peer, dtype: str, encoding: str, split: int) -> None:
    frames = frames_of((64, 96), 250, dtype)
    assert_received(receiver, "dectris", f"split={split}&encoding={encoding}", frames, tmp_path / "found.npz")


@pytest.mark.parametrize(
    ("options", "shape", "top", "dtype"),
    [
        ("pixels=U08", (256, 256), 250, "uint8"),
        ("pixels=U16", (256, 256), 4096, "uint16"),
        ("pixels=R64&depth=1", (256, 256), 2, "uint8"),
        ("pixels=R64&depth=6", (256, 256), 64, "uint8"),
        ("pixels=R64&depth=12", (256, 256), 4096, "uint16"),
        ("pixels=R64&depth=12&chips=2x2", (512, 512), 4096, "uint16"),
    ],
)
def test_merlin_receiver(tmp_path: Path, receiver: Peer, options: str, shape: tuple[int, int], top: int, dtype: str) -> None:
    frames = frames_of(shape, top, dtype)
    assert_received(receiver, "merlin", options, frames, tmp_path / "found.npz")
