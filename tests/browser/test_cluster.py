"""The cluster view: there while a run uses a cluster, and only then; says who does how much and who is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.serving import Serve, Window

pytestmark = pytest.mark.leaves("threads", "Playwright's event loop keeps a thread of its executor until the package is done")


def node(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "role": "consumer", "host": name.partition(":")[0], "pid": 5120, "state": "busy", "frames": 40960,
        "bytes": 27_179_089_920, "frames_per_s": 2048.0, "bytes_per_s": 1_358_954_496.0, "fill": 0.5, "ring_bytes": 1 << 28, "blocks": 6,
        "seen_s": 0.2, "last_error": "", **more,
    }  # fmt: skip


def health(n: int, **more: Any) -> dict[str, Any]:
    """Of a router with n consumers, as in docs/reference/router.md."""
    router = node("router", role="router", host="dcu-01", state="running", fill=0.31, frames_per_s=2048.0 * n)
    return {
        "v": 1, "state": "running", "address": "tcp://dcu-01:9880", "consumers": n, "consumers_lost": 0, "problems": [],
        "nodes": [router, *(node(f"nid{i:06d}:5120") for i in range(n))], **more,
    }  # fmt: skip


def show(w: Window, cluster: dict[str, Any] | None) -> str:
    """Have the page show this; the text of the view."""
    return str(w.page.evaluate(
        """c => {
            window.fake = c;
            Object.defineProperty(libstream.store, "stat", {
                configurable: true, get() { return this.told; }, set(v) { this.told = {...v, cluster: window.fake ?? undefined}; },
            });
            libstream.link.dispatchEvent(new CustomEvent("stat", {detail: libstream.store.stat ?? {}}));
            const v = document.getElementById("cluster");
            return v.hidden ? "" : v.innerText;
        }""",
        cluster,
    ))  # fmt: skip


def test_a_router_and_its_consumers(shared: Serve, window: Callable[..., Window]) -> None:
    w = window(shared)
    w.until("libstream.store.stat")
    assert show(w, None) == ""
    text = show(w, health(2))
    assert "2 consumers" in text
    assert "4.1k frames/s · 2.72 GB/s" in text
    assert "router" in text
    assert "nid000001:5120" in text
    many = health(128, consumers_lost=1, problems=["the memory for frames is full"])
    many["nodes"][100].update(state="lost", last_error="no word for 5 s", frames_per_s=0.0)
    text = show(w, many)
    w.shot("cluster-many")
    assert "127 consumers" in text
    assert "1 lost" in text
    assert "nid000099:5120" in text, "the lost one is not among the few that are shown"
    assert "the memory for frames is full" in text
    w.click("button", "all 129…")
    assert w.page.locator("dialog tbody tr").count() == 129
    assert "no word for 5 s" in w.page.locator("dialog").inner_text()


def test_workers_of_dask(serve: Callable[..., Serve], window: Callable[..., Window]) -> None:
    pytest.importorskip("distributed")
    w = window(serve("--executor", "dask", "sim://?scan=32,32&frame=64,64"))
    w.until("libstream.store.source?.sig")
    assert w.page.locator("#cluster").is_hidden(), "nothing has run yet"
    w.js("libstream.do('add', {udf: 'Sum'})")
    w.until("libstream.store.stat?.cluster?.nodes?.some((n) => n.frames > 0)")
    assert "worker" in w.page.locator("#cluster").inner_text()
