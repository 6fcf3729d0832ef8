"""Thousands of updates: what the server keeps stays as small as it was."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from libstream.jobs.outputs import OutputInfo
from tests.web.client import Page
from tests.web.serving import served

SIDE = 64
INFO = OutputInfo("x", "nav", "image", (SIDE, SIDE), np.dtype(float), ())


@pytest.mark.parametrize("n", [3_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_memory_stays_flat(tmp_path: Path, n: int) -> None:
    async def test() -> None:
        async with served(tmp_path / "data") as s:
            pages = [await Page.open(s.url), await Page.open(s.url, client="client-two", paints=False)]
            for page in pages:
                await page.sub("a/m/x")
            array, seen = np.zeros((SIDE, SIDE)), np.ones((SIDE, SIDE), bool)
            held = []
            for i in range(n):
                array = array.copy()
                array[i % SIDE] += 1
                s.session.store.put("a/m/x", array, seen, 1 + i // 500, False, time.time_ns() // 1_000_000, INFO)
                s.session.changed()
                if i % 10 == 0:
                    await asyncio.sleep(0)
                if i % 100 == 99:
                    version = s.session.store.get("a/m/x").version
                    await pages[0].until(lambda v=version: pages[0].headers["a/m/x"]["v"] == v)
                    for page in pages:
                        page.received.clear()
                if i in (n // 3, n - 1):
                    gc.collect()
                    held.append(tracemalloc.get_traced_memory()[0])
            print(f"soak: {n:,} updates: traced memory {held[0]:,} bytes after a third, {held[1]:,} after all")
            assert np.array_equal(pages[0].arrays["a/m/x"], array)
            assert held[1] - held[0] < 5e6, "a few hundred encoded messages are kept, and nothing else"
            hub = s.server.hub
            assert sum(map(len, hub._messages.values())) == hub._bytes <= 64 << 20
            assert len(hub._messages) <= 512
            assert len(s.server.state._patches) <= 256

    tracemalloc.start()
    try:
        asyncio.run(test())
    finally:
        tracemalloc.stop()
