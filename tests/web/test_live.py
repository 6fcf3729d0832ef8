"""A detector in the page: acquisition after acquisition, parameters changed for the whole scan, loss that is shown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from tests.web.client import Page
from tests.web.serving import FRAMES, Served, served

NAV = list(FRAMES.shape[:2])


class Detector:
    """Sends FRAMES to the server's source, when told."""

    def __init__(self, s: Served) -> None:
        self._s, self._threads, self.stop = s, [], threading.Event()

    def send(self, **options: Any) -> None:
        """One or several runs, in the background."""
        url = f"libstream://{self._s.session.follow.live.address.partition('://')[2]}"
        thread = threading.Thread(
            target=ls.replay, args=(ls.open(FRAMES), url), kwargs={"cancel": self.stop, "patience_s": 90.0, **options}
        )
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        self.stop.set()
        for t in self._threads:
            t.join(90)


def run(test: Callable[[Served, Page, Detector], Awaitable[None]], folder: Path) -> None:
    async def main() -> None:
        async with served(folder / "data") as s:
            page = await Page.open(s.url)
            detector = Detector(s)
            try:
                await page.cmd("open", uri="libstream://127.0.0.1:0", options={"scan": NAV, "ring_bytes": 64 << 20})
                await page.cmd("add", udf="VirtualDetector", id="adf", params={"outer": 8})
                await page.sub("a/adf/intensity")
                await asyncio.wait_for(test(s, page, detector), 200)
            finally:
                detector.end()

    asyncio.run(main())


def adf(**params: object) -> np.ndarray:
    return np.asarray(ls.run(FRAMES, ls.udfs.VirtualDetector(**params))["intensity"])


def topic(page: Page) -> dict[str, Any]:
    return page.headers.get("a/adf/intensity", {})


def test_one_acquisition_after_another(tmp_path: Path) -> None:
    async def test(s: Served, page: Page, detector: Detector) -> None:
        assert page.state["source"]["state"] == "waiting"
        assert page.state["source"]["nav"] is None
        assert page.state["live"]["can_arm"] is False
        detector.send()
        await page.until(lambda: page.state["live"]["run_state"] == "done" and page.state["analyses"]["adf"]["state"] == "done")
        await page.until(lambda: topic(page).get("final") and topic(page)["exact"])
        assert np.array_equal(page.arrays["a/adf/intensity"], adf(outer=8))
        first = page.state["source"]["id"]
        gen = page.state["analyses"]["adf"]["gen"] + 1
        await page.send(type="set", analysis="adf", params={"inner": 3}, gen=gen)  # frames are still held: for the whole scan
        await page.until(lambda: topic(page)["gen"] == gen and topic(page)["final"])
        assert np.array_equal(page.arrays["a/adf/intensity"], adf(inner=3, outer=8))
        detector.send(run=2)
        await page.until(lambda: page.state["live"]["acquisition"] == 2 and page.state["live"]["run_state"] == "done")
        await page.until(lambda: page.state["analyses"]["adf"]["state"] == "done" and topic(page)["gen"] > gen and topic(page)["final"])
        await page.until(lambda: page.state["source"]["id"] > first)
        assert np.array_equal(page.arrays["a/adf/intensity"], adf(inner=3, outer=8))
        await page.until(lambda: len(page.state["history"]) == 2)
        past = page.state["history"][1]
        assert past["kind"] == "live"
        assert past["thumb"]
        await page.sub(past["results"][0]["topic"])
        await page.until(lambda: past["results"][0]["topic"] in page.arrays)
        assert np.array_equal(page.arrays[past["results"][0]["topic"]], adf(inner=3, outer=8))
        with pytest.raises(RuntimeError, match="usage"):
            await page.cmd("arm")
        await page.sub("frame")
        await page.until(lambda: "frame" in page.arrays)
        assert np.array_equal(page.arrays["frame"], FRAMES[-1, -1])

    run(test, tmp_path)


def test_parameters_change_while_frames_come(tmp_path: Path) -> None:
    async def test(s: Served, page: Page, detector: Detector) -> None:
        detector.send(rate=100)
        await page.until(lambda: topic(page).get("gen", 0) > 0 and np.isfinite(page.arrays["a/adf/intensity"]).any())
        gen = topic(page)["gen"]
        for inner in (1, 2, 3, 4):
            gen += 1
            await page.send(type="set", analysis="adf", params={"inner": inner}, gen=gen)
            await asyncio.sleep(0.05)
        assert page.state["live"]["run_state"] == "running"
        await page.until(lambda: topic(page)["gen"] == gen and topic(page)["final"])
        await page.until(lambda: topic(page)["exact"])
        assert np.array_equal(page.arrays["a/adf/intensity"], adf(inner=4, outer=8)), "one image, one detector"

    run(test, tmp_path)


def test_what_is_lost_is_shown(tmp_path: Path) -> None:
    async def test(s: Served, page: Page, detector: Detector) -> None:
        detector.send(loss=0.05, seed=3)
        await page.until(lambda: page.state["live"]["run_state"] in ("done", "incomplete"))
        await page.until(lambda: page.state["analyses"]["adf"]["state"] == "incomplete" and page.stat["ledger"]["missing"] > 0)
        ledger = page.stat["ledger"]
        assert ledger["announced"] == ledger["processed"] + ledger["missing"] + ledger["dropped"] + ledger["corrupt"] == 320
        await page.until(lambda: topic(page).get("final"))
        unseen = np.isnan(page.arrays["a/adf/intensity"])
        assert unseen.sum() == ledger["missing"]
        assert np.array_equal(page.arrays["a/adf/intensity"][~unseen], adf(outer=8)[~unseen])
        await page.until(lambda: page.state["history"] and page.state["history"][0]["dropped"] == ledger["missing"])
        await page.until(lambda: any(line["level"] == "warning" for line in page.state["log"]))

    run(test, tmp_path)


def test_a_file_after_a_detector_and_back(tmp_path: Path) -> None:
    async def test(s: Served, page: Page, detector: Detector) -> None:
        detector.send(rate=200)
        await page.until(lambda: topic(page).get("gen", 0) > 0)
        detector.end()
        await page.cmd("open", uri=s.scan)
        await page.until(lambda: page.state["analyses"]["adf"]["state"] == "done" and page.state["live"] is None)
        await page.until(lambda: topic(page)["final"])
        assert np.array_equal(page.arrays["a/adf/intensity"], adf(outer=8))
        await page.cmd("open", uri="libstream://127.0.0.1:0", options={"scan": NAV, "ring_bytes": 64 << 20})
        await page.until(lambda: page.state["live"]["state"] == "waiting")
        with pytest.raises(RuntimeError, match="usage"):
            await page.cmd("open", uri="libstream://127.0.0.1:0", options={"record": "/etc/x"})
        with pytest.raises(RuntimeError, match="usage"):
            await page.cmd("open", uri="libstream://127.0.0.1:0?curve=/keys")

    run(test, tmp_path)


def test_a_recorded_acquisition_is_run_again(tmp_path: Path) -> None:
    async def test(s: Served, page: Page, detector: Detector) -> None:
        raw = str(s.folder / "raw")
        await page.cmd("open", uri="libstream://127.0.0.1:0", options={"scan": NAV, "ring_bytes": 64 << 20, "record": raw})
        for number in (1, 2):
            detector.send(run=number)
            await page.until(lambda n=number: len(page.state["history"]) == n and page.state["live"]["run_state"] == "done")
        past = page.state["history"][1]
        assert past["rerun"]
        await page.cmd("close")
        assert (await page.cmd("probe", uri=raw))["error"]  # two runs: one must be named
        folders = {e["name"]: e["format"] for e in (await page.cmd("files"))["entries"]}
        assert folders == {"raw": "recording", "scan.npy": "npy"}
        await page.cmd("history_open", id=past["id"])
        await page.until(lambda: page.state["source"]["kind"] == "file" and page.state["analyses"]["adf"]["state"] == "done")
        await page.until(lambda: topic(page)["final"] and topic(page)["exact"])
        assert np.array_equal(page.arrays["a/adf/intensity"], adf(outer=8))

    run(test, tmp_path)


def test_a_file_is_watched_while_it_is_written(tmp_path: Path) -> None:
    async def test(s: Served, page: Page, detector: Detector) -> None:
        path = s.folder / "growing.raw"
        data = FRAMES.astype("<u2").tobytes()
        with path.open("wb", buffering=0) as file:
            options = {"watch": True, "format": "raw", "dtype": "<u2", "frame": [24, 24], "scan": NAV}
            await page.cmd("open", uri="growing.raw", options=options)
            assert page.state["source"]["state"] == "waiting"
            file.write(data[: len(data) // 2 + 100])
            await page.until(lambda: topic(page) and np.isfinite(page.arrays["a/adf/intensity"]).sum() == 160)
            assert page.state["live"]["run_state"] == "running"
            await page.sub("frame")
            await page.until(lambda: "frame" in page.arrays)
            assert np.array_equal(page.arrays["frame"], FRAMES.reshape(-1, 24, 24)[159])
            file.write(data[len(data) // 2 + 100 :])
        await page.until(lambda: page.state["live"]["run_state"] == "done" and page.state["analyses"]["adf"]["state"] == "done")
        await page.until(lambda: topic(page)["final"])
        assert np.array_equal(page.arrays["a/adf/intensity"], adf(outer=8))
        with pytest.raises(RuntimeError, match="no detector"):
            await page.cmd("trigger")
        await page.until(lambda: page.state["history"])
        await page.cmd("history_open", id=page.state["history"][0]["id"])
        await page.until(lambda: page.state["source"]["kind"] == "file" and page.state["analyses"]["adf"]["state"] == "done")

    run(test, tmp_path)
