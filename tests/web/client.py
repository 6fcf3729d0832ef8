"""A page without a browser: what the JavaScript does, in Python."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, ClassVar

import numpy as np
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from libstream.web_gui import wire
from libstream.web_gui.state import applied

TOKEN = "a-token-for-tests-0123456789"


class Page:
    """A connection that keeps the state and paints arrays. paints: acknowledges what it gets. reads: cleared, it reads nothing more."""

    opened: ClassVar[list[Page]] = []

    def __init__(self, connection: WebSocketClientConnection, *, paints: bool = True) -> None:
        self.connection, self.paints = connection, paints
        self.state: dict[str, Any] = {}
        self.version = -1
        self.snapshots = 0
        self.welcome: dict[str, Any] = {}
        self.stat: dict[str, Any] = {}
        self.replies: dict[Any, dict[str, Any]] = {}
        self.refused: list[dict[str, Any]] = []
        self.bye: str | None = None
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}
        self.headers: dict[str, dict[str, Any]] = {}
        self.received: dict[str, list[dict[str, Any]]] = {}
        self.n_bytes = 0
        self.closed = False
        self.reads = asyncio.Event()
        self.reads.set()
        Page.opened.append(self)
        self._count = 1000
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def open(
        cls, url: str, *, client: str = "client-one", token: str = TOKEN, paints: bool = True, hello: bool = True, headers: Any = None
    ) -> Page:
        """Connect to "http://host:port" and say hello."""
        found = {"Authorization": f"Bearer {token}", **(headers or {})}
        request = HTTPRequest(url.replace("http", "ws", 1) + "/ws", headers=found)
        page = cls(await websocket_connect(request, max_message_size=1 << 28), paints=paints)
        if hello:
            await page.send(type="hello", proto=1, client=client)
            await page.until(lambda: page.version >= 0)
        return page

    async def send(self, **message: Any) -> None:
        """One message; none where the connection is closed."""
        with contextlib.suppress(WebSocketClosedError):
            await self.connection.write_message(json.dumps(message))

    async def sub(self, topic: str, **more: Any) -> None:
        """Subscribe."""
        await self.send(type="sub", topic=topic, **more)

    async def cmd(self, name: str, /, **args: Any) -> Any:
        """A command; returns its result, raises RuntimeError with kind and message."""
        self._count += 1
        id = self._count
        await self.send(type="cmd", id=id, name=name, args=args)
        await self.until(lambda: id in self.replies)
        reply = self.replies.pop(id)
        if not reply["ok"]:
            raise RuntimeError(f"{reply['error']['kind']}: {reply['error']['message']}")
        return reply["result"]

    async def until(self, condition: Any, timeout_s: float = 90.0) -> None:
        """Wait for something that messages bring about; that may include compiling kernels, beside other tests."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: self.closed or condition())
        assert condition(), "the connection was closed before"

    async def close(self) -> None:
        """Leave."""
        self.reads.set()
        self.connection.close()
        await asyncio.wait_for(self._task, 10)

    async def ack(self, topic: str) -> None:
        """Say that the newest version was painted."""
        await self.send(type="ack", topic=topic, v=self.headers[topic]["v"])

    async def _read(self) -> None:
        while (message := await self.connection.read_message()) is not None:
            await self.reads.wait()
            if isinstance(message, bytes):
                await self._array(message)
            else:
                await self._text(json.loads(message))
            async with self._changed:
                self._changed.notify_all()
        self.closed = True
        async with self._changed:
            self._changed.notify_all()

    async def _text(self, data: dict[str, Any]) -> None:
        match data["type"]:
            case "welcome":
                self.welcome = data
            case "snapshot":
                self.state, self.version = data["state"], data["v"]
                self.snapshots += 1
            case "patch":
                assert data["v"] == self.version + 1, (data["v"], self.version)
                self.state, self.version = applied(self.state, data["ops"]), data["v"]
            case "stat":
                self.stat = data
            case "reply":
                self.replies[data["id"]] = data
            case "refused":
                self.refused.append(data)
            case "ping":
                await self.send(type="seen", t=data["t"])
            case "bye":
                self.bye = data["reason"]

    async def _array(self, message: bytes) -> None:
        self.n_bytes += len(message)
        header, rows = wire.unpack(message)
        topic = header["topic"]
        self.received.setdefault(topic, []).append(header)
        self.headers[topic] = header
        shape = tuple(header["shape"])
        if not shape:
            self.arrays[topic] = rows
        else:
            old = self.arrays.get(topic)
            if header["whole"] or old is None or old.shape != shape:
                assert header["whole"] or header["rows"] == [0, shape[0]], "rows of an array that the page does not have"
                old = np.full(shape, np.nan)
            old[header["rows"][0] : header["rows"][1]] = rows
            self.arrays[topic] = old
        if self.paints:
            await self.send(type="ack", topic=topic, v=header["v"])
