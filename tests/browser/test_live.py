"""A detector in the page: images as they come, what was lost, adjusting while it runs."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.browser.serving import Serve, Window

pytestmark = pytest.mark.leaves("threads", "Playwright's event loop keeps a thread of its executor until the package is done")


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def detector() -> Iterator[Callable[..., str]]:
    """Start a simulated detector that sends scans of 24 x 24 positions, one after another; its address."""
    running: list[subprocess.Popen[str]] = []

    def start(*args: str, kind: str = "libstream", more: str = "") -> str:
        url = f"{kind}://127.0.0.1:{free_port()}{more}"
        command = [sys.executable, "-m", "libstream", "replay", "sim://?scan=24,24&frame=64,64", "--to", url, "--patience", "60", *args]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        assert running[-1].stderr is not None
        assert "serving" in running[-1].stderr.readline()
        return url

    yield start
    for process in running:
        process.kill()
        process.communicate()


def connect(w: Window, url: str) -> None:
    """By the dialog."""
    w.click("button", "Detector…")
    w.page.get_by_label("Address of the detector").fill(url)
    w.click("button", "Connect")
    w.page.get_by_role("dialog").wait_for(state="detached")
    w.until("libstream.store.state.live")


def test_watch_adjust_and_save_a_live_scan(shared: Serve, window: Callable[..., Window], detector: Callable[..., str]) -> None:
    """The second scenario of the issue."""
    w = window(shared).in_control()
    connect(w, detector("--rate", "60", "--repeat", "2", "--pause", "2"))
    w.until("libstream.store.source?.sig")
    w.click("button", re.compile("^Annular dark field"), exact=False)
    w.until("libstream.store.state.order.length === 1")
    w.until("libstream.store.stat?.live?.arrived > 60")
    a = next(iter(w.state()["analyses"].values()))
    topic = a["outputs"][0]["topic"]
    w.until(f"libstream.link.array('{topic}')?.values")
    w.shot("live-running")
    seen = np.array(w.js(f"Array.from(libstream.link.array('{topic}').values, v => v === v)"))
    assert seen.any()
    assert not seen.all(), "what was not scanned yet is not seen"
    knob = w.knob(f"{a['title']}: Inner radius")
    w.drag(knob, 12, 0)
    w.until(f"libstream.store.state.analyses[{a['id']!r}].gen > 1")
    w.until("libstream.store.state.live.run_state === 'done'", 60)
    w.settled()
    assert np.isfinite(w.array(topic)).all(), "everything that came was computed anew, from the beginning"
    w.click("button", "Save results")
    w.page.locator(".toast", has_text="Saved to").wait_for()
    assert w.clicks <= 6
    w.scenario("live scan watched, adjusted, saved (the scan takes 10 s)")
    w.until("libstream.store.state.live.acquisition >= 2 || libstream.store.state.history.length > 0", 60)
    w.shot("live-done")


def test_lost_frames_are_never_hidden(shared: Serve, window: Callable[..., Window], detector: Callable[..., str]) -> None:
    w = window(shared).in_control()
    connect(w, detector("--rate", "600", "--loss", "0.1", "--seed", "1"))
    w.js("libstream.do('add', {udf: 'Sum'})")
    w.until("['incomplete', 'done', 'failed'].includes(libstream.store.state.live.run_state)", 60)
    lost = w.page.locator(".status .lost")
    lost.wait_for()
    w.until("libstream.store.stat?.ledger?.missing > 10")
    ledger: dict[str, Any] = w.js("libstream.store.stat.ledger")
    assert f"missing {ledger['missing']}" in (lost.text_content() or "")
    assert "lost" in (w.page.locator("#alarm").text_content() or ""), "told to screen readers at once"
    lost.click()
    table = w.page.get_by_role("dialog")
    table.wait_for()
    w.shot("ledger")
    rows = {
        r.locator("th").text_content(): int((r.locator("td").first.text_content() or "").replace(" ", ""))
        for r in table.locator("tr").all()
    }
    assert rows["processed"] + rows["missing"] + rows["dropped"] + rows["corrupt"] == rows["announced"] == 576


def test_a_detector_is_armed_and_triggered(shared: Serve, window: Callable[..., Window], detector: Callable[..., str]) -> None:
    w = window(shared).in_control()
    url = detector("--rate", "400", kind="dectris", more=f"?api={free_port()}")
    settings = shared.folder / "detectors.toml"
    settings.write_text(f'[eiger]\nurl = "{url}"\ntitle = "Eiger, left column"\nscan = [12, 48]\nscan_step = "0.5 nm"\n')
    w.click("button", "Detector…")
    w.click("button", re.compile("^Eiger, left column"), exact=False)
    w.page.get_by_text("It will send 576 frames").wait_for()
    assert w.page.get_by_label("Address of the detector").input_value() == url.split("?")[0]
    w.page.get_by_label("Scan (rows, columns)").fill("24, 24")
    w.page.get_by_text("More: calibration").click()
    w.page.get_by_label("Record into the folder").fill(str(shared.folder / "data" / "raw"))
    w.page.keyboard.press("Tab")
    w.shot("detector-dialog")
    w.click("button", "Connect")
    w.page.get_by_role("dialog").wait_for(state="detached")
    w.until("libstream.store.state.live?.can_arm")
    w.shot("waiting")
    w.click("button", "Arm")
    w.page.locator(".toast", has_text="armed").wait_for()
    w.click("button", "Trigger")
    w.until("['done', 'incomplete'].includes(libstream.store.state.live.run_state)", 60)
    source = w.state()["source"]
    assert source["nav"] == [24, 24]
    assert (source["axes"][0]["step"], source["axes"][0]["unit"]) == (0.5, "nm")
    w.js("libstream.do('add', {udf: 'FrameTotals', id: 'total'})")
    w.until("libstream.store.state.order.length === 1")
    w.settled()
    seen = w.array("a/total/total")
    w.click("button", "Stop")
    # what was recorded is run once more
    w.js("libstream.do('close')")
    w.until("libstream.store.state.history[0]?.name.startsWith('dectris') && libstream.store.source === null")
    w.click("button", "Past runs")
    w.page.locator("dialog.history li").first.get_by_role("button", name="Open again").click()
    w.until("libstream.store.source?.format === 'recording' && libstream.store.source.state === 'ready'")
    w.settled()
    assert np.array_equal(w.array("a/total/total"), seen)
    settings.write_text("")
