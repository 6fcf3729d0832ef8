"""The command: one line with the link, and a clean end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

TOKEN = "serve-token-0123456789"


def start(folder: Path, *args: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "libstream", "serve", "--no-browser", *args]
    own = {**os.environ, "LIBSTREAM_STATE_DIR": str(folder / "state"), **env}
    return subprocess.Popen(command, cwd=folder, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ask(link: str, path: str) -> dict:
    base, _, token = link.partition("/?token=")
    request = urllib.request.Request(base + path, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_a_link_serves_and_ends(tmp_path: Path, how: signal.Signals) -> None:
    np.save(tmp_path / "scan.npy", np.ones((4, 5, 8, 8), np.uint16))
    process = start(tmp_path, "scan.npy", "--port", "0", "--scan", "5,4", "--executor", "processes")
    try:
        link = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", link)
        end = time.monotonic() + 30
        while (source := ask(link, "/api/source")["source"]) is None or source["state"] == "opening":
            assert time.monotonic() < end
        assert source["nav"] == [5, 4]
        assert ask(link, "/api/files")["path"] == str(tmp_path)
        process.send_signal(how)
        out, err = process.communicate(timeout=15)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.communicate()


def test_a_second_start_opens_what_was_open(tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.ones((4, 5, 8, 8), np.uint16))
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    for args in (["scan.npy"], []):
        process = start(tmp_path, *args, "--token-file", "token")
        try:
            link = process.stdout.readline().strip()
            assert link.endswith(TOKEN)
            end = time.monotonic() + 30
            while (source := ask(link, "/api/source")["source"]) is None or source["state"] != "ready":
                assert time.monotonic() < end
            assert source["uri"] == str(tmp_path / "scan.npy")
            process.terminate()
            assert process.wait(15) == 0
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["gone.npy"], 1, "no such file"),
        (["--host", "0.0.0.0"], 2, "--certfile"),
        (["--token", "short"], 2, "token"),
        (["--root", "gone"], 2, "no such folder"),
        (["--udfs", "gone"], 2, "no such folder"),
        (["--certfile", "gone.pem"], 2, "gone.pem"),
        (["--keyfile", "gone.pem"], 2, "--certfile"),
        (["--port", "70000"], 2, "port"),
        (["--scan", "4,4"], 2, "no SOURCE"),
        (["--executor", "magic"], 2, "installed are"),
        (["--token", TOKEN, "--token-file", "x"], 2, "one is enough"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(tmp_path: Path, args: list[str], code: int, says: str) -> None:
    process = start(tmp_path, *args)
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (code, "")
    assert says in err
    assert err.count("\n") == 1


STUCK = """
import time
import libstream as ls


class Stuck(ls.UDF):
    def outputs(self):
        return {"n": ls.nav("float64")}

    def process_frame(self, frame, out):
        time.sleep(60)
"""


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_udf_that_never_ends_does_not_hold_up_the_end(tmp_path: Path, executor: str) -> None:
    """It ends within seconds, says so, and leaves no process behind."""
    np.save(tmp_path / "scan.npy", np.ones((4, 5, 8, 8), np.uint16))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "stuck.py").write_text(STUCK)
    process = start(tmp_path, "scan.npy", "--udfs", "own", "--executor", executor)
    try:
        link = process.stdout.readline().strip()
        base, _, token = link.partition("/?token=")
        end = time.monotonic() + 30
        while (source := ask(link, "/api/source")["source"]) is None or source["state"] != "ready":
            assert time.monotonic() < end
        head = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        add = urllib.request.Request(f"{base}/api/analyses", b'{"udf": "stuck.py:Stuck"}', head)
        urllib.request.urlopen(add, timeout=30).close()
        while ask(link, "/api/status")["state"]["run"]["state"] != "running":
            assert time.monotonic() < end
        before = time.monotonic()
        process.terminate()
        _, err = process.communicate(timeout=20)  # a worker that is left behind would hold the pipe
        assert process.returncode == 0
        assert "did not end within 2 s" in err
        assert time.monotonic() - before < 10, "2 s, on a machine that does other things, too"
    finally:
        process.kill()
        process.communicate()


def test_who_asks_twice_does_not_wait(tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.ones((4, 5, 8, 8), np.uint16))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "stuck.py").write_text(STUCK)
    process = start(tmp_path, "scan.npy", "--udfs", "own")
    try:
        link = process.stdout.readline().strip()
        base, _, token = link.partition("/?token=")
        head = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        end = time.monotonic() + 30
        while (source := ask(link, "/api/source")["source"]) is None or source["state"] != "ready":
            assert time.monotonic() < end
        urllib.request.urlopen(urllib.request.Request(f"{base}/api/analyses", b'{"udf": "stuck.py:Stuck"}', head), timeout=30).close()
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode in (-signal.SIGINT, 0), "0 where it was over by then"
    finally:
        process.kill()
        process.communicate()
