"""Several people, restarts, strangers, and UDFs that fail."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import numpy as np
import pytest

from tests.browser.serving import Serve, Window

pytestmark = pytest.mark.leaves("threads", "Playwright's event loop keeps a thread of its executor until the package is done")
Starts = Callable[..., Serve]
Opens = Callable[..., Window]

SLOW = """
import time
from libstream.ext import UDF, nav


class Slow(UDF):
    '''Takes its time.'''

    def outputs(self):
        return {"n": nav("f4")}

    def process_frame(self, frame, out):
        time.sleep(0.02)
        out.n[...] = 1
"""
BROKEN = """
from libstream.ext import UDF, nav


class Broken(UDF):
    '''Fails at every bright frame.'''

    def outputs(self):
        return {"n": nav("f4")}

    def process_frame(self, frame, out):
        raise ValueError("the beam is too bright for this")
"""


def start_analysis(w: Window, **args: object) -> None:
    w.js(f"libstream.do('open', {{uri: '{w.serve.folder}/data/scan.mib'}})")
    w.until("libstream.store.source?.state === 'ready'")
    w.js(f"libstream.do('add', {json.dumps(args)})")
    w.until("libstream.store.state.order.length === 1")


def test_two_windows_see_the_same_and_hand_over(shared: Serve, window: Opens) -> None:
    one, two = window(shared).in_control(), window(shared)
    start_analysis(one, udf="VirtualDetector", id="adf", title="Ring", params={"inner": 10, "outer": 25})
    one.settled()
    two.settled()
    assert np.array_equal(one.array("a/adf/intensity"), two.array("a/adf/intensity"))
    assert two.page.get_by_role("button", name="Take control").is_visible()
    assert two.page.get_by_role("button", name="Add analysis").is_disabled()
    assert two.page.locator("[data-name=inner] input").is_disabled()
    assert two.page.get_by_role("slider", name=re.compile("^Ring: ")).count() == 0, "who only looks has no handles"
    two.shot("viewer")
    two.click("button", "Take control")
    two.until("libstream.store.mayChange")
    one.until("!libstream.store.mayChange")
    box = two.page.locator("[data-name=outer] input")
    box.fill("18")
    box.press("Enter")
    one.until("libstream.store.state.analyses.adf.params.outer === 18")
    one.settled()
    two.settled()
    assert one.page.locator("[data-name=outer] input").input_value() == "18"
    assert np.array_equal(one.array("a/adf/intensity"), two.array("a/adf/intensity"))
    assert len(one.state()["viewers"]) == 2


def test_everything_is_back_after_the_server_restarts(serve: Starts, window: Opens) -> None:
    server = serve()
    w = window(server)
    start_analysis(w, udf="VirtualDetector", id="adf", title="Ring", params={"inner": 9, "outer": 24})
    w.settled()
    before = w.array("a/adf/intensity")
    w.allowed += ["WebSocket", "ERR_CONNECTION_REFUSED", "Failed to load resource"]
    server.stop()
    w.until("document.querySelector('.connection').classList.contains('warn')")
    w.shot("no-connection")
    server.start()
    w.until("libstream.link.open && libstream.store.source?.state === 'ready' && libstream.store.state.order.length === 1", 60)
    w.settled()
    assert w.page.get_by_text("connected", exact=True).is_visible()
    assert np.array_equal(w.array("a/adf/intensity"), before)
    w.until("libstream.store.mayChange")


def test_yesterdays_scan_is_found_and_run_again(serve: Starts, window: Opens) -> None:
    """The third scenario of the issue: three clicks from the open page to the saved file, on another day."""
    server = serve("--fresh")
    w = window(server)
    w.js(f"libstream.do('open', {{uri: '{server.folder}/data/yesterday/old.npy'}})")
    w.until("libstream.store.source?.state === 'ready'")
    w.js("libstream.do('add', {udf: 'VirtualDetector', id: 'adf', title: 'Ring', params: {inner: 9, outer: 24}})")
    w.until("libstream.store.state.order.length === 1")
    w.settled()
    before = w.array("a/adf/intensity")
    w.js("libstream.do('close')")
    w.until("libstream.store.state.history.length > 0")
    w.close()
    w.wrong.clear()
    server.stop()
    server.start()
    w = window(server)
    w.click("button", "Past runs")
    row = w.page.locator("dialog.history li", has_text="old.npy").first
    row.wait_for()
    w.shot("yesterday")
    row.get_by_role("button", name="Open again").click()
    w.clicks += 1
    w.until("libstream.store.source?.state === 'ready' && libstream.store.state.order.length === 1")
    w.settled()
    assert np.array_equal(w.array("a/adf/intensity"), before)
    w.click("button", "Save results")
    w.page.locator(".toast", has_text="Saved to").wait_for()
    assert w.clicks == 3
    w.scenario("yesterday's scan found, run again, saved")
    assert next((server.folder / "out").glob("old*.h5")).stat().st_size > 1000


def test_strangers_stay_outside(shared: Serve, window: Opens) -> None:
    w = window(shared)
    context = w.context.browser.new_context()
    page = context.new_page()
    answer = page.goto(f"{shared.url}?token=wrong-token-wrong-token")
    assert answer is not None
    assert answer.status == 403
    assert "libstream printed" in page.inner_text("body")
    context.close()
    assert shared.refused("api/status", token=None) == 403
    assert shared.refused("api/status", headers={"Origin": "https://evil.example"}) == 403
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
    }
    assert shared.refused("ws", headers={**upgrade, "Origin": "https://evil.example"}) == 403
    said = w.js("libstream.link.command('files', {path: '/etc'}).then(() => '', e => e.message)")
    assert said, "a folder outside of the roots is not listed"
    said = w.in_control().js("libstream.link.command('open', {uri: '/etc/passwd'}).then(() => '', e => e.message)")
    assert said
    assert w.state()["source"] is None


def test_a_udf_that_raises_says_so_and_the_rest_goes_on(serve: Starts, window: Opens, tmp_path: object) -> None:
    own = tmp_path / "udfs"  # type: ignore[operator]
    own.mkdir()
    (own / "broken.py").write_text(BROKEN)
    w = window(serve("--fresh", "--udfs", str(own)))
    start_analysis(w, udf="VirtualDetector", id="adf", params={"outer": 20})
    w.click("button", "Add analysis")
    w.page.get_by_role("searchbox", name="Filter analyses").fill("broken")
    w.page.keyboard.press("Enter")
    w.until("Object.values(libstream.store.state.analyses).some(a => a.state === 'failed')", 60)
    w.page.locator(".failure", has_text="the beam is too bright for this").first.wait_for()
    w.shot("udf-failed")
    assert w.state()["analyses"]["adf"]["state"] == "done"
    # a broken file is told, and mending it is enough
    (own / "broken.py").write_text("class Broken(:\n")
    w.page.locator(".own-errors", has_text="broken.py, line 1").wait_for()
    (own / "broken.py").write_text(BROKEN.replace('raise ValueError("the beam is too bright for this")', "out.n[...] = frame.max()"))
    w.until("Object.values(libstream.store.state.analyses).every(a => a.state === 'done')", 60)
    assert w.page.locator(".own-errors > div").count() == 0


def test_cancel_stops_the_work(serve: Starts, window: Opens, tmp_path: object) -> None:
    own = tmp_path / "udfs"  # type: ignore[operator]
    own.mkdir()
    (own / "slow.py").write_text(SLOW)
    w = window(serve("--fresh", "--udfs", str(own)))
    start_analysis(w, udf="slow.py:Slow", id="slow")
    w.until("libstream.store.stat?.run?.n_done > 20", 60)
    w.shot("running")
    w.click("button", "Cancel")
    w.until("libstream.store.state.analyses.slow.state === 'incomplete'")
    done = np.isfinite(w.array("a/slow/n")).sum()
    time.sleep(0.5)
    assert 0 < done < 480
    assert np.isfinite(w.serve.result("slow", "n")).sum() >= done
    assert np.isfinite(w.array("a/slow/n")).sum() == done, "nothing more was computed"
    w.click("button", "Run")
    w.until("libstream.store.state.run.state === 'running'")


def test_the_page_is_light(shared: Serve) -> None:
    """Bytes of the page with all its modules, as they go over the line."""
    html = shared.ask("").decode()
    total = len(html)
    for name in re.findall(r'(?:href|src)="(static/[^"]+)"', html):
        request = urllib.request.Request(
            shared.url + name, headers={"Authorization": "Bearer browser-test-token-0123456789", "Accept-Encoding": "gzip"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                total += len(answer.read())
        except urllib.error.HTTPError as exc:
            raise AssertionError(name) from exc
    assert total < 150_000
