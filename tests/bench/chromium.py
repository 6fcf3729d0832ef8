"""Chromium by raw DevTools messages over one WebSocket: a driver that costs little beside what is measured. (Playwright mirrors every
WebSocket frame of the page, which slows it down several times.)"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--enable-precise-memory-info",
    "--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows",
    "--mute-audio", "--window-size=1280,800",
)  # fmt: skip
PROBE = (Path(__file__).parent / "gui_probe.js").read_text(encoding="utf-8")


class Chromium:
    """A browser of its own: process, profile, connection. more: further flags."""

    def __init__(self, process: subprocess.Popen[bytes], profile: str, socket: WebSocketClientConnection) -> None:
        self.process, self._profile, self._socket = process, profile, socket
        self._count = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.events: list[dict[str, Any]] = []
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, *more: str) -> Chromium:
        """Start one. Raises RuntimeError where it does not come up."""
        profile = tempfile.mkdtemp(prefix="libstream-bench-")
        process = subprocess.Popen(
            [CHROMIUM, *FLAGS, *more, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        file, end = Path(profile) / "DevToolsActivePort", time.monotonic() + 30
        while not (file.is_file() and len(file.read_text().splitlines()) == 2):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{CHROMIUM} did not start")
            await asyncio.sleep(0.05)
        port, path = file.read_text().splitlines()
        socket = await websocket_connect(f"ws://127.0.0.1:{port}{path}", max_message_size=1 << 28)
        return cls(process, profile, socket)

    async def send(self, method: str, session: str | None = None, **params: Any) -> Any:
        """One command; its result. Raises RuntimeError with what Chromium says."""
        id = next(self._count)
        future = self._waiting[id] = asyncio.get_running_loop().create_future()
        message = {"id": id, "method": method, "params": params, **({"sessionId": session} if session else {})}
        await self._socket.write_message(json.dumps(message))
        return await asyncio.wait_for(future, 60)

    def post(self, method: str, session: str, **params: Any) -> None:
        """One command whose result nobody wants."""
        self._socket.write_message(json.dumps({"id": next(self._count), "method": method, "params": params, "sessionId": session}))

    async def tab(self, url: str, *, width: int = 1280, height: int = 800, fresh: bool = False) -> Tab:
        """A tab with `url` in a window of its own, watched by gui_probe.js from the start. fresh: with its own cache and cookies."""
        context = {"browserContextId": (await self.send("Target.createBrowserContext"))["browserContextId"]} if fresh else {}
        window = {"newWindow": True, "width": width, "height": height, **context}
        target = (await self.send("Target.createTarget", url="about:blank", **window))["targetId"]
        session = (await self.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = Tab(self, target, session)
        await tab.send("Page.enable")
        await tab.send("Page.addScriptToEvaluateOnNewDocument", source=PROBE)
        tab.started_ms = time.time() * 1e3
        await tab.send("Page.navigate", url=url)
        return tab

    def stall(self) -> None:
        """Stop all its processes where they are, as a laptop does that goes to sleep."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        os.killpg(self.process.pid, signal.SIGCONT)

    async def close(self) -> None:
        """End it."""
        self._reader.cancel()
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for _ in range(20):  # its processes may write still
            shutil.rmtree(self._profile, ignore_errors=True)
            if not Path(self._profile).exists():
                break
            await asyncio.sleep(0.05)

    async def _read(self) -> None:
        while (text := await self._socket.read_message()) is not None:
            message = json.loads(text)
            future = self._waiting.pop(message.get("id"), None)
            if future is not None and not future.done():
                if "error" in message:
                    future.set_exception(RuntimeError(message["error"]["message"]))
                else:
                    future.set_result(message["result"])
            elif "method" in message and message["method"].startswith("Runtime."):
                self.events.append(message)


class Tab:
    """One page. started_ms: when it was told where to go, in ms since 1970."""

    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self.browser, self.target, self.session = browser, target, session
        self.started_ms = 0.0

    async def send(self, method: str, **params: Any) -> Any:
        """A command for this page."""
        return await self.browser.send(method, self.session, **params)

    async def js(self, expression: str) -> Any:
        """The value of an expression, as JSON. Raises RuntimeError with what the page says."""
        found = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails'].get('exception', {}).get('description', found)}")
        return found["result"].get("value")

    async def until(self, expression: str, timeout_s: float = 60.0, every_s: float = 0.05) -> None:
        """Wait until it is true. Raises TimeoutError."""
        end = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(RuntimeError):  # the page may be on its way to another address
                if await self.js(f"Boolean({expression})"):
                    return
            if time.monotonic() > end:
                raise TimeoutError(f"not true within {timeout_s} s: {expression}")
            await asyncio.sleep(every_s)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Move, press or release the left button; nobody waits for it to be done."""
        down = kind != "mouseReleased"
        more = {"button": "left", "buttons": int(down), "clickCount": 1, "pointerType": "mouse"}
        self.browser.post("Input.dispatchMouseEvent", self.session, type=kind, x=x, y=y, **more)

    async def shot(self, path: Path) -> None:
        """A picture of it."""
        import base64

        path.write_bytes(base64.b64decode((await self.send("Page.captureScreenshot"))["data"]))

    async def heap(self) -> dict[str, float]:
        """What it holds after garbage was collected: bytes of JavaScript and of array buffers, nodes and listeners of the document."""
        await self.send("HeapProfiler.collectGarbage")
        found = await self.send("Runtime.getHeapUsage")
        counters = await self.send("Memory.getDOMCounters")
        return {
            "js": found["usedSize"], "buffers": found.get("backingStorageSize", 0.0), "nodes": counters["nodes"],
            "listeners": counters["jsEventListeners"],
        }  # fmt: skip

    async def close(self) -> None:
        """Close it."""
        await self.browser.send("Target.closeTarget", targetId=self.target)
