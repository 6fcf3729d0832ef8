"""What is measured of the page: each function takes one server, some browsers, and gives plain numbers (see tests/bench/gui.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClosedError, websocket_connect

from tests.bench.chromium import Chromium, Tab
from tests.browser.serving import TOKEN, Serve

ROOT = Path(__file__).resolve().parents[2]
HELD = "Object.values(libstream.store.state.analyses)"
SETTLED = f"window.libstream?.store.state?.run.state !== 'running' && {HELD}.length && {HELD}.every(a => a.shown_gen >= a.gen)"
MAPS = ("a/adf/intensity", "a/total/total")
FRAME = "frame/mean"


# -- servers -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(folder: Path, *args: str) -> Iterator[Serve]:
    """A server of its own; what it opened before is not opened again."""
    home = folder / f"home-{len(list(folder.glob('home-*')))}"
    home.mkdir(parents=True)
    made = Serve(home, "--root", str(folder), "--fresh", *args)
    try:
        yield made
    finally:
        made.stop()


def opened(serve: Serve, uri: Path, **options: Any) -> None:
    """Open a file with a ring over it. Raises RuntimeError."""
    _empty(serve)
    _done(serve, "open", uri=str(uri), options=options)
    _done(serve, "add", udf="VirtualDetector", id="adf", params={"inner": 12, "outer": 30})
    serve.command("release_control")


def _empty(serve: Serve) -> None:
    serve.command("take_control")
    serve.command("close")
    for id in serve.status()["state"]["order"]:
        serve.command("remove", id=id)


def _done(serve: Serve, name: str, **args: Any) -> None:
    if serve.command(name, **args) is None:
        raise RuntimeError(f"{name} {args} was refused")


@contextlib.contextmanager
def live(serve: Serve, side: int, per: int, hz: float) -> Iterator[None]:
    """A detector that sends scans of side x side, and two maps of them; hz messages of `per` frames a second."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _empty(serve)
    _done(serve, "open", uri=f"libstream://127.0.0.1:{port}", options={})
    _done(serve, "add", udf="VirtualDetector", id="adf", params={"inner": 30, "outer": 50})
    _done(serve, "add", udf="FrameTotals", id="total")
    serve.command("release_control")
    feed = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.gui_feed", f"tcp://127.0.0.1:{port}", str(side), str(per), str(hz)],
        cwd=ROOT, stdin=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield
    finally:
        feed.stdin.close()  # type: ignore[union-attr]
        try:
            feed.wait(10)
        except subprocess.TimeoutExpired:
            feed.kill()
            feed.wait()


def cpu_s(pid: int) -> float:
    """CPU seconds that a process and its threads have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


# -- browsers ----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def chromium(*more: str) -> AsyncIterator[Chromium]:
    """A browser, ended afterwards."""
    made = await Chromium.start(*more)
    try:
        yield made
    finally:
        await made.close()


async def paints(tab: Tab, seconds: float) -> list[dict[str, Any]]:
    """What the page paints in this time: topic, version, generation, time of publication, time painted (ms), final, exact."""
    await tab.js("probe.paints.length = 0")
    await asyncio.sleep(seconds)
    return _paints(await tab.js("probe.paints"))


def _paints(rows: list[list[Any]]) -> list[dict[str, Any]]:
    names = ("topic", "v", "gen", "published", "painted", "final", "shown", "exact")
    return [dict(zip(names, row, strict=True)) for row in rows]


def newest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first time that each version was painted: repetitions with exact values are no news."""
    seen: set[tuple[str, int]] = set()
    out = []
    for row in rows:
        if (key := (row["topic"], row["v"])) not in seen:
            seen.add(key)
            out.append(row)
    return out


def rates(rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Painted versions per second of each topic, and their ages in ms."""
    found = newest(rows)
    ages = [r["painted"] - r["published"] for r in found]
    return {
        "painted": {t: sum(r["topic"] == t for r in found) / seconds for t in (*MAPS, FRAME)},
        "p50": _percentile(ages, 50), "p95": _percentile(ages, 95), "n": len(ages),
    }  # fmt: skip


def _percentile(values: list[float], q: float) -> float:
    return float(np.percentile(values, q)) if values else float("nan")


async def watched(browser: Chromium, serve: Serve) -> Tab:
    """A page that shows both maps and the diffraction pattern."""
    tab = await browser.tab(serve.link)
    topics = json.dumps([*MAPS, FRAME])
    await tab.until(f"window.libstream && {topics}.every(t => libstream.link.array(t)?.values)", 90)
    return tab


# -- the gates ---------------------------------------------------------------------------------------------------------


def settle(seconds: float) -> float:
    """How long to wait before measuring so long."""
    return min(2.0, seconds / 3)


async def painted(browser: Chromium, serve: Serve, seconds: float, shot: Path | None = None) -> dict[str, Any]:
    """Painted per second, ages, and CPU of the server (which computes, too), of a live scan in one tab."""
    tab = await watched(browser, serve)
    await asyncio.sleep(settle(seconds))
    before = cpu_s(serve.process.pid)
    found = rates(await paints(tab, seconds), seconds)
    found["server_cpu"] = (cpu_s(serve.process.pid) - before) / seconds
    if shot:
        await tab.shot(shot)
    await tab.close()
    return found


async def drag(browser: Chromium, serve: Serve, seconds: float, *, rest: float = 0.5, shot: Path | None = None) -> dict[str, Any]:
    """Drag the outer knob of the ring to and fro at 60 moves a second.

    latencies: ms from the pointer's event to the first picture (of this position or a later one), for each position that was sent;
    firsts: the same for the first moves after a rest. finals: whether pictures were complete.
    """
    tab = await browser.tab(serve.link)
    await tab.until(SETTLED, 120)
    await asyncio.sleep(rest)
    knob = "[...document.querySelectorAll('.shape.active .knob')].at(-1)"
    await tab.until(knob)
    box = await tab.js(f"(() => {{ const b = ({knob}.querySelector('.body') ?? {knob}).getBoundingClientRect(); "
                       "return [b.x + b.width / 2, b.y + b.height / 2] })()")  # fmt: skip
    x, y = box
    await tab.js("probe.paints.length = probe.sets.length = 0")
    tab.mouse("mouseMoved", x, y)
    tab.mouse("mousePressed", x, y)
    loop = asyncio.get_running_loop()
    began, k = loop.time(), 0
    while loop.time() - began < seconds:
        k += 1
        tab.mouse("mouseMoved", x + 12 * np.sin(k / 9), y + 6 * np.sin(k / 13))
        if shot and k == 20:
            await asyncio.sleep(0.1)
            await tab.shot(shot)
        await asyncio.sleep(max(0.0, began + k / 60 - loop.time()))
    tab.mouse("mouseReleased", x, y)
    await asyncio.sleep(0.3)
    await tab.until(SETTLED, 120)
    await asyncio.sleep(0.5)
    sets = await tab.js("probe.sets")
    rows = [r for r in _paints(await tab.js("probe.paints")) if r["topic"] == MAPS[0] and r["shown"]]
    await tab.close()
    late = [min(r["painted"] for r in rows if r["gen"] >= gen) - moved for gen, moved, _ in sets]
    last = sets[-1][0]
    of_last = newest([r for r in rows if r["gen"] == last])
    return {
        "p50": _percentile(late, 50), "p95": _percentile(late, 95), "max": max(late), "n": len(late), "images": len(newest(rows)) / seconds,
        "final": sum(r["final"] for r in newest(rows)) / max(1, len(newest(rows))), "first": late[0],
        "after": [(r["painted"] - sets[-1][1]) for r in of_last], "complete": of_last[-1]["final"],
    }  # fmt: skip


async def step(browser: Chromium, serve: Serve, n: int, shots: Path | None = None) -> dict[str, Any]:
    """One move of the knob at a time, each when the one before is complete: ms to the first picture, pictures until the last one, ms."""
    tab = await browser.tab(serve.link)
    await tab.until(SETTLED, 180)
    firsts, counts, lasts = [], [], []
    for k in range(n):
        await asyncio.sleep(0.4)
        knob = "[...document.querySelectorAll('.shape.active .knob')].at(-1)"
        x, y = await tab.js(f"(() => {{ const b = ({knob}.querySelector('.body') ?? {knob}).getBoundingClientRect(); "
                            "return [b.x + b.width / 2, b.y + b.height / 2] })()")  # fmt: skip
        await tab.js("probe.paints.length = probe.sets.length = 0")
        tab.mouse("mouseMoved", x, y)
        tab.mouse("mousePressed", x, y)
        tab.mouse("mouseMoved", x + (8 if k % 2 else -8), y)
        tab.mouse("mouseReleased", x + (8 if k % 2 else -8), y)
        await tab.until("probe.sets.length", 10, 0.01)
        if shots is not None and k == 0:
            await tab.until("probe.paints.some(p => p[2] >= probe.sets.at(-1)[0])", 60, 0.005)
            await tab.shot(shots / "gui-large-first.png")
            await asyncio.sleep(0.25)
            await tab.shot(shots / "gui-large-growing.png")
        await asyncio.sleep(0.05)
        await tab.until(f"{SETTLED} && probe.paints.some(p => p[2] >= probe.sets.at(-1)[0] && p[5])", 120)
        gen, moved, _ = (await tab.js("probe.sets"))[-1]
        rows = newest([r for r in _paints(await tab.js("probe.paints")) if r["topic"] == MAPS[0] and r["gen"] >= gen and r["shown"]])
        firsts.append(rows[0]["painted"] - moved)
        counts.append(len(rows))
        lasts.append(next(r["painted"] for r in rows if r["final"]) - moved)
    await tab.close()
    return {"firsts": firsts, "pictures": counts, "lasts": lasts}


async def load(browser: Chromium, serve: Serve, n: int) -> dict[str, Any]:
    """Page loads with an empty cache, from the link to the first image of a result: ms, bytes of files and of arrays."""
    times, files, arrays = [], [], []
    for _ in range(n):
        tab = await browser.tab(serve.link, fresh=True)
        await tab.until(f"window.probe?.paints.some(p => p[0] === {MAPS[0]!r} && p[6])", 60)
        first = await tab.js(f"probe.paints.find(p => p[0] === {MAPS[0]!r} && p[6])[4]")
        times.append(first - tab.started_ms)
        sizes = "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')].map(e => e.transferSize)"
        files.append(sum(await tab.js(sizes)))
        arrays.append(await tab.js("probe.bytes"))
        await tab.close()
    return {"ms": times, "files": files, "arrays": arrays}


async def stalled(browser: Chromium, serve: Serve, seconds: float) -> dict[str, Any]:
    """Painted per second of one browser alone, and beside a second one that was stopped."""
    tab = await watched(browser, serve)
    await asyncio.sleep(settle(seconds))
    alone = rates(await paints(tab, seconds), seconds)
    async with chromium() as other:
        await watched(other, serve)
        other.stall()
        try:
            await asyncio.sleep(settle(seconds))
            beside = rates(await paints(tab, seconds), seconds)
            viewers = serve.status()["stat"]["server"]["viewers"]
        finally:
            other.resume()
    await tab.close()
    return {"alone": alone, "beside": beside, "viewers": viewers}


class Light:
    """A WebSocket client that acts as the page does and looks at headers only, so that many of them cost this machine little."""

    def __init__(self, name: str) -> None:
        self.name, self.n, self.bytes = name, 0, 0

    async def run(self, serve: Serve) -> None:
        """Subscribe, and acknowledge everything, until cancelled."""
        request = HTTPRequest(f"ws://127.0.0.1:{serve.port}/ws", headers={"Authorization": f"Bearer {TOKEN}"})
        connection = await websocket_connect(request, max_message_size=1 << 28)
        connection.protocol.stream.set_nodelay(True)  # as browsers do: else acks wait for the kernel's delayed ones
        try:
            await connection.write_message(json.dumps({"type": "hello", "proto": 1, "client": f"light-client-{self.name}"}))
            for topic in (*MAPS, FRAME):
                await connection.write_message(json.dumps({"type": "sub", "topic": topic, "px": [512, 512]}))
            while (message := await connection.read_message()) is not None:
                with contextlib.suppress(WebSocketClosedError):
                    await self._take(connection, message)
        finally:
            connection.close()

    async def _take(self, connection: Any, message: str | bytes) -> None:
        if isinstance(message, bytes):
            size = int.from_bytes(message[4:8], "little")
            head = json.loads(message[8 : 8 + size])
            self.n += 1
            self.bytes += len(message)
            await asyncio.sleep(0.01)  # a frame of the screen, more or less
            await connection.write_message(json.dumps({"type": "ack", "topic": head["topic"], "v": head["v"]}))
        elif '"ping"' in message[:40]:
            await connection.write_message(json.dumps({"type": "seen", "t": json.loads(message)["t"]}))


async def crowd(serve: Serve, counts: tuple[int, ...], seconds: float) -> dict[int, dict[str, float]]:
    """CPU of the server (part of one core), and arrays per second of one client, by the number of clients."""
    out = {}
    for n in counts:
        clients = [Light(f"{n}-{i}") for i in range(n)]
        tasks = [asyncio.create_task(c.run(serve)) for c in clients]
        await asyncio.sleep(settle(seconds))
        before, got = cpu_s(serve.process.pid), sum(c.n for c in clients)
        await asyncio.sleep(seconds)
        out[n] = {
            "cpu": (cpu_s(serve.process.pid) - before) / seconds,
            "rate": (sum(c.n for c in clients) - got) / seconds / max(1, n) / 3,
        }
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return out


async def tabs(browser: Chromium, serve: Serve, n: int, seconds: float) -> dict[str, float]:
    """The same of n tabs of one Chromium: CPU of the server, painted per second and map of one tab."""
    shown = [await watched(browser, serve) for _ in range(n)]
    await asyncio.sleep(settle(seconds))
    before = cpu_s(serve.process.pid)
    found = await asyncio.gather(*(paints(t, seconds) for t in shown))
    cpu = (cpu_s(serve.process.pid) - before) / seconds
    for tab in shown:
        await tab.close()
    return {"cpu": cpu, "rate": float(np.mean([rates(f, seconds)["painted"][MAPS[0]] for f in found]))}
