"""Several pages and what one makes for all of them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from libstream.web_gui import viewer, wire
from tests.web.client import Page
from tests.web.serving import Served
from tests.web.test_server import adf, opened, run


def test_all_pages_share_one_encoding(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        page = await opened(s)
        pages = [page] + [await Page.open(s.url, client=f"client-{i:04}") for i in range(6)]
        for p in pages[1:]:
            await p.sub("a/adf/intensity")
            await p.until(lambda p=p: "a/adf/intensity" in p.arrays)
        before = s.server.hub.encoded
        gen = page.state["analyses"]["adf"]["gen"] + 1
        await page.send(type="set", analysis="adf", params={"inner": 2}, gen=gen)
        for p in pages:
            await p.until(lambda p=p: p.headers["a/adf/intensity"]["gen"] == gen and p.headers["a/adf/intensity"]["final"])
            assert np.array_equal(p.arrays["a/adf/intensity"], adf(inner=2, outer=8))
        assert s.server.hub.encoded - before <= 6, "seven pages, one array, a few versions of it"

    run(test, tmp_path)


def test_viewers_that_want_the_same_large_array_wait_for_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "LARGE", 0)
    encode, busy, most = wire.encode, [0], [0]

    def slow(*args: object, **more: object) -> object:
        busy[0] += 1
        most[0] = max(most[0], busy[0])
        time.sleep(0.05)
        busy[0] -= 1
        return encode(*args, **more)

    async def test(s: Served) -> None:
        page = await opened(s)
        pages = [page] + [await Page.open(s.url, client=f"client-{i:04}") for i in range(4)]
        for p in pages[1:]:
            await p.sub("a/adf/intensity")
        for p in pages:
            await p.until(lambda p=p: p.headers.get("a/adf/intensity", {}).get("exact"))
        monkeypatch.setattr(wire, "encode", slow)
        gen = page.state["analyses"]["adf"]["gen"] + 1
        await page.send(type="set", analysis="adf", params={"inner": 2}, gen=gen)
        for p in pages:
            await p.until(lambda p=p: p.headers["a/adf/intensity"]["gen"] == gen and p.headers["a/adf/intensity"]["final"])
            assert np.array_equal(p.arrays["a/adf/intensity"], adf(inner=2, outer=8))
        assert most == [1]
        assert not s.server.making

    run(test, tmp_path)


def test_a_page_whose_arrays_cannot_be_sent_is_cut_off_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(s: Served) -> None:
        page = await opened(s)
        other = await Page.open(s.url, client="client-two")
        monkeypatch.setattr(s.server.hub, "message", lambda *_, **__: 1 / 0)
        await other.sub("a/adf/intensity")
        await other.until(lambda: other.closed)
        await page.until(lambda: any("cut off: ZeroDivisionError" in line["text"] for line in page.state["log"]))

    run(test, tmp_path)
