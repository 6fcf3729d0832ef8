"""`libstream listen` over real sockets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from tests.live.sending import Sender, free_ports

FRAMES = np.random.default_rng(1).poisson(3, (6, 8, 24, 32)).astype(np.uint16)


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def senders() -> Iterator[Any]:
    """Starts replays; they end with the test."""
    made: list[Sender] = []

    def start(url: str, frames: Any = FRAMES, **options: Any) -> Sender:
        made.append(Sender(ls.open(frames), url, options))
        return made[-1]

    yield start
    for sender in made:
        sender.stop()


def test_results_of_acquisitions_one_after_another(cli: Any, folder: Path, senders: Any, port: int) -> None:
    url = f"dectris://127.0.0.1:{port}"
    senders(url, repeat=2, run=7).wait_open()
    said = cli("listen", url, "--scan", "6,8", "--udf", "Sum", "--udf", "bf=VirtualDetector", "-p", "outer=5",
               "-o", "live-{run}.h5", "--plot", "live-{index:02}.png", "--record", "raw", "--count", "2")  # fmt: skip
    assert said.code == 0, said.err
    for run, index in ((7, 1), (8, 2)):
        result = ls.load_result(folder / f"live-{run}.h5")
        assert np.array_equal(result["sum"]["sum"], FRAMES.sum(axis=(0, 1)))
        assert result["bf"]["intensity"].shape == (6, 8)
        assert (folder / f"live-{index:02}.png").stat().st_size > 1000
        assert f"run {run}: done: 48 of 48 positions processed, 48 frames received" in said.out
    assert "connected to tcp://127.0.0.1" in said.err
    assert np.array_equal(ls.open(folder / "raw", run=8, scan=(6, 8))[...], FRAMES)


def test_a_line_of_json_says_all(cli: Any, senders: Any, port: int) -> None:
    url = f"dectris://127.0.0.1:{port}"
    sender = senders(url, loss=0.2, seed=3)
    sender.wait_open()
    said = cli("listen", url, "--scan", "6,8", "--udf", "FrameTotals", "--count", "1", "--json")
    assert said.code == 0, said.err
    lost = sender.join().runs[0].lost
    found = said.json
    assert found["state"] == "incomplete"
    assert found["ledger"]["missing"] == len(lost) > 0
    assert not found["complete"]
    assert found["results"]["frame_totals"]["total"]["shape"] == [6, 8]
    assert "before all frames had come" in found["reason"]


def test_a_scan_that_cannot_be_is_said_and_the_next_one_is_taken(cli: Any, senders: Any, port: int) -> None:
    url = f"dectris://127.0.0.1:{port}"
    senders(url, repeat=2).wait_open()
    said = cli("listen", url, "--scan", "6,9", "--udf", "Sum", "--count", "2")
    assert said.code == 1
    assert said.err.count("announces 48 frames") >= 2
    assert "--scan 6,9" in said.err or "(6, 9)" in said.err


def test_a_udf_that_fails_stops_alone(cli: Any, folder: Path, senders: Any, port: int) -> None:
    frames = FRAMES.copy()
    frames[3, 2, 0, 0] = 999
    url = f"dectris://127.0.0.1:{port}"
    senders(url, frames).wait_open()
    said = cli("listen", url, "--scan", "6,8", "--udf", "bright.py:Failing", "--udf", "Sum", "--count", "1", "-o", "x.h5")
    assert said.code == 1
    assert "failing stopped:" in said.out
    assert "a pixel of 999" in said.out
    assert np.array_equal(ls.load_result(folder / "x.h5")["sum"]["sum"], frames.sum(axis=(0, 1)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dectris://127.0.0.1:9", "--scan", "4,4"], ["--udf Sum"]),
        (["dectris://127.0.0.1:9", "--udf", "Sum", "-o", "x.h5"], ["x-{run}.h5", "--count 1"]),
        (["dectris://127.0.0.1:9", "--udf", "Sum", "-o", "x.xyz", "--count", "1"], [".xyz"]),
        (["dectris://127.0.0.1:9?apy=3", "--udf", "Sum"], ["apy"]),
        (["nothing://127.0.0.1:9", "--udf", "Sum"], ["nothing", "dectris"]),
        (["no-address", "--udf", "Sum"], ["no-address", "dectris://host:9999"]),
        (["dectris://127.0.0.1:9", "--udf", "Sum", "--ring-bytes", "some"], ["'some' is no size", "4G"]),
        (["dectris://127.0.0.1:9", "--udf", "Sum", "--ring-bytes", "3"], ["ring_bytes=3"]),
        (["dectris://127.0.0.1:9", "--udf", "Sum", "--scan", "4,4", "--order", "spiral"], ["spiral", "serpentine"]),
        (["dectris://127.0.0.1:9", "--udf", "Sum", "--arm", "--count", "1"], ["api=80"]),
    ],
)
def test_wrong_usage_is_one_line(cli: Any, arguments: list[str], words: list[str]) -> None:
    said = cli("listen", *arguments)
    assert said.code in (1, 2)
    for word in words:
        assert word in said.error, said.err


def test_ctrl_c_saves_what_was_finished(folder: Path, senders: Any, port: int) -> None:
    url = f"dectris://127.0.0.1:{port}"
    senders(url, rate=8).wait_open()
    command = [sys.executable, "-m", "libstream", "listen", url, "--scan", "6,8", "--udf", "Sum", "-o", "x-{run}.h5", "--json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stderr is not None
        assert "connected" in process.stderr.readline()
        time.sleep(1.0)  # some of the frames
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    if process.returncode == 0:  # before the first frame had come
        assert "ended after 0 acquisitions" in err
        return
    assert process.returncode == 130, err
    assert "Traceback" not in err
    found = json.loads(out)
    assert found["saved"] == ["x-1.h5"]
    assert not ls.load_result(folder / "x-1.h5").complete
