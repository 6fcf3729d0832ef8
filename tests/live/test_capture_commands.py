"""Recording and replaying by command, over real sockets; recorders that are stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import libstream as ls
from libstream.cli.main import main
from tests.live.capturing import SCAN, frames_for, record_run, recording
from tests.live.sending import BINDS, PROTOCOLS, Sender, free_ports


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
    np.save(tmp_path / "a.npy", frames_for("own"))
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
