"""Many thousands of arrays in a real page: its memory, and the server's, stay as they were."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from libstream.jobs.outputs import OutputInfo
from tests.bench.chromium import CHROMIUM, Chromium, Tab
from tests.web.serving import Served, served

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).is_file(), reason="no Chromium: install Debian's package chromium")
SIDE = 32
LONG = int(os.environ.get("LIBSTREAM_SOAK_UPDATES", "100_000"))
PAINTED_PER_S = 100
"""So often a page can be expected to paint on a busy machine; it decides only when the test gives up."""


class Feeder:
    """Puts new versions of the maps of analyses into the store, from a thread, as runs do; counts them."""

    def __init__(self, s: Served, topics: list[str]) -> None:
        self.n = 0
        self._s, self._topics = s, topics
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="test-feeder")
        self._thread.start()

    def _run(self) -> None:
        store = self._s.session.store
        info = OutputInfo("x", "nav", "image", (SIDE, SIDE), np.dtype(float), ())
        y, x = np.indices((SIDE, SIDE))
        array, seen = 1e3 * (np.sin(y / 9) + np.cos(x / 7)), np.ones((SIDE, SIDE), bool)
        began = time.monotonic()
        while not self._over.is_set():
            self.n += 1
            array = array.copy()
            array[self.n % SIDE] += np.random.default_rng(self.n).normal(0, 30, SIDE)
            for topic in self._topics:
                store.put(topic, array, seen, 10 + self.n // 500, False, time.time_ns() // 1_000_000, info)
            self._s.session.changed()
            self._over.wait(max(0.0, began + self.n / 120 - time.monotonic()))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def rss() -> float:
    """Memory of this process, which is the server's, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))


async def measured(tab: Tab) -> dict[str, float]:
    """What page and server hold."""
    return {**await tab.heap(), "server": rss(), "painted": await tab.js("libstream.link.painted.n")}


@pytest.mark.parametrize("n", [300, pytest.param(LONG, marks=pytest.mark.soak)])
@pytest.mark.timeout(3000)
def test_page_and_server_stay_flat(tmp_path: Path, n: int) -> None:
    """n arrays painted. The first third is to warm up; the rest may not add anything."""

    async def test() -> list[dict[str, float]]:
        async with served(tmp_path / "data") as s:
            np.save(tmp_path / "data" / "page.npy", np.ones((SIDE, SIDE, 4, 4), np.uint16))
            s.session.open(str(tmp_path / "data" / "page.npy"))
            ids = [s.session.analyses.add("FrameTotals", id=f"t{k}") for k in range(8)]
            while s.session.runner.running or s.session.pending:
                await asyncio.sleep(0.05)
            # vsync off: paints as fast as it can, so that hours of a session take minutes
            browser = await Chromium.start("--disable-frame-rate-limit", "--disable-gpu-vsync")
            feeder = None
            try:
                tab = await browser.tab(s.link, width=900, height=700)
                await tab.until("window.libstream?.store.state && document.querySelectorAll('.tile').length === 9", 60)
                await tab.js("link = libstream.link; setInterval(() => (probe.paints.length = probe.sets.length = 0), 500); 0")
                feeder = Feeder(s, [f"a/{i}/total" for i in ids])
                found: list[dict[str, float]] = []
                for part in (0.05, 1 / 3, 2 / 3, 1.0):
                    await tab.until(f"libstream.link.painted.n >= {int(part * n)}", 60 + n / PAINTED_PER_S, 0.5)
                    found.append(await measured(tab))
                return found
            finally:
                if feeder is not None:
                    feeder.stop()
                await browser.close()

    with ThreadPoolExecutor(1) as pool:  # a browser test before this one may have left a loop in this thread
        found = pool.submit(asyncio.run, test()).result()
    units = {
        "js": "bytes of JavaScript", "buffers": "bytes of array buffers", "nodes": "nodes of the document",
        "listeners": "event listeners", "server": "bytes of the server", "painted": "arrays painted",
    }  # fmt: skip
    print("\n".join(f"soak: {units[k]}: " + ", ".join(f"{f[k]:,.0f}" for f in found) for k in found[0]))
    _, before, _, after = found
    assert after["painted"] >= n
    # what a collection of garbage leaves varies by some hundred kB; a leak of 20 bytes for each array would be 2 MB in the long form
    assert after["js"] - before["js"] < 1e6
    assert after["buffers"] - before["buffers"] < 2e6
    assert after["nodes"] - before["nodes"] < 200
    assert after["listeners"] - before["listeners"] < 50
    assert after["server"] - before["server"] < 20e6, "a few hundred encoded messages are kept, and nothing else"
