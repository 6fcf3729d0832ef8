"""One page: its WebSocket, what it wants to see, and what it is told. Imported only when a server is started."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import tornado.iostream
import tornado.websocket

from libstream.errors import UsageError
from libstream.web_gui import commands
from libstream.web_gui.gate import Checked
from libstream.web_gui.sending import Link, Plan, Subscription, acknowledged, due
from libstream.web_gui.topics import Key, View

if TYPE_CHECKING:
    from libstream.web_gui.server import Server

PROTO = 1
SUBS_MAX = 64
COMMANDS_MAX = 16
HELLO_S, SILENT_S, PING_S = 10.0, 60.0, 5.0
BIG_TEXT = 1 << 20
"""Messages with more characters than this are parsed in a thread."""
LARGE = 1 << 16
"""Arrays with more values than this are encoded in a thread: about 0.5 ms."""


class Viewer(Checked, tornado.websocket.WebSocketHandler):
    """A WebSocket connection. All its writes are done by one task, one after another, so that nothing queues for a slow page."""

    def initialize(self, server: Server) -> None:
        """Tornado's constructor."""
        super().initialize(server)
        self.client = ""
        self.subs: dict[str, Subscription] = {}
        self.link = Link()
        self._event = asyncio.Event()
        self._outbox: deque[str] = deque()
        self._stat: dict[str, Any] | None = None
        self._state_v = -1
        self._busy = 0
        self._pump_task: asyncio.Task[None] | None = None
        self._pinged = self._opened = self._acked = time.monotonic()
        self._bye: str | None = None
        self._writing: float | None = None

    # -- connection ----------------------------------------------------------------------------------------------------

    def check_origin(self, origin: str) -> bool:
        """Only pages that this server gave out."""
        return self.server.names.origin_is_ours(origin, self.request.host) or self.ours_by_address(origin)

    def get_compression_options(self) -> None:
        """None: arrays of noise do not shrink, and compressing takes longer than sending."""
        return None

    def open(self, *args: str, **kwargs: str) -> None:
        """The connection is there."""
        self.set_nodelay(True)
        self._opened = self._acked = time.monotonic()
        self._pump_task = asyncio.create_task(self._pump())
        asyncio.get_running_loop().call_later(HELLO_S, self._no_hello)

    def _no_hello(self) -> None:
        if not self.client:
            self.close(4001, "no hello")

    def on_close(self) -> None:
        """The connection is gone."""
        if self._pump_task is not None:
            self._pump_task.cancel()
        self.subs.clear()
        if self.client:
            self.server.left(self)

    def say_bye(self, reason: str) -> None:
        """Say why, and close."""
        self._bye = reason
        self.poke()

    def poke(self) -> None:
        """There may be something to send."""
        self._event.set()

    def tick(self, base: dict[str, Any]) -> None:
        """Called a few times a second: `base` is `stat` without what is this connection's."""
        now = time.monotonic()
        link = {"bytes_per_s": self.link.bytes_per_s, "rtt_ms": self.link.rtt_s * 1e3, "level": self.link.level}
        self._stat = {**base, "link": link}
        if now - self._pinged > PING_S:
            self._pinged = now
            self._put({"type": "ping", "t": time.time_ns() // 1_000_000})
        waiting = [s.in_flight[1] for s in self.subs.values() if s.in_flight is not None]
        stuck = self._writing is not None and now - self._writing > SILENT_S
        if stuck or (waiting and now - max(min(waiting), self._acked) > SILENT_S):
            self.close(4002, "silent")
        self.poke()

    # -- from the page -------------------------------------------------------------------------------------------------

    async def on_message(self, message: str | bytes) -> None:
        """One message of the page; the next one waits until this returns."""
        try:
            read = self.server.call(json.loads, message) if len(message) > BIG_TEXT else None
            data = await read if read is not None else json.loads(message) if isinstance(message, str) else None
            if not isinstance(data, dict):
                raise UsageError("a message is a JSON object, as text")
            kind = data.get("type")
            if kind == "hello":
                self._hello(data)
            elif not self.client:
                raise UsageError("the first message is hello")
            elif kind == "set":
                await self._set(data, large=len(message) > LARGE)
            elif kind in _HANDLERS:
                _HANDLERS[kind](self, data)
            else:
                raise UsageError(f"there are no messages of type {kind!r:.40}")
        except (ValueError, TypeError, KeyError, RecursionError) as exc:
            self._put({"type": "reply", "id": None, "ok": False, "error": {"message": f"not understood: {exc}", "kind": "usage"}})

    def _hello(self, data: dict[str, Any]) -> None:
        if data.get("proto") != PROTO:
            self._put({"type": "bye", "reason": "proto"})
            self._bye = "proto"
            self.poke()
            return
        client, name = data.get("client"), data.get("name")
        if not isinstance(client, str) or not 8 <= len(client) <= 64 or self.client:
            raise UsageError("hello: client is a random text of 8 to 64 characters, said once")
        self.client = client
        me = self.server.joined(self, name[:40] if isinstance(name, str) and name.strip() else None)
        limits = {"message_bytes": 16 << 20, "subs": SUBS_MAX}
        now = time.time_ns() // 1_000_000
        self._outbox.appendleft(
            json.dumps({"type": "welcome", "proto": PROTO, "version": self.server.options.version, "you": me, "now": now, "limits": limits})
        )
        self.poke()

    def _sub(self, data: dict[str, Any]) -> None:
        topic = _text(data, "topic", 400)
        if topic not in self.subs and len(self.subs) >= SUBS_MAX:
            raise UsageError(f"a page may subscribe to {SUBS_MAX} topics")
        channel = data.get("channel")
        if channel is not None and not isinstance(channel, str):
            raise UsageError("channel is a name")
        key = Key(topic, commands.position(data.get("at")), channel)
        sub = self.subs.setdefault(topic, Subscription(key))
        sub.key, sub.px, sub.exact = key, _px(data.get("px")), data.get("exact") is True
        if topic in ("frame/mean", "frame/max"):
            self.server.wanted()
        self.poke()

    def _unsub(self, data: dict[str, Any]) -> None:
        if self.subs.pop(_text(data, "topic", 400), None) is not None:
            self.server.wanted()

    def _ack(self, data: dict[str, Any]) -> None:
        self._acked = time.monotonic()
        if acknowledged(self.subs, self.link, _text(data, "topic", 400), data.get("v"), self._acked):
            self.poke()

    def _seen(self, data: dict[str, Any]) -> None:
        t = data.get("t")
        if isinstance(t, (int, float)) and not isinstance(t, bool):
            self.link.rtt_s = min(max(0.0, time.time() - t / 1000), 10.0)

    async def _set(self, data: dict[str, Any], *, large: bool) -> None:
        id, params, gen = data.get("analysis"), data.get("params"), data.get("gen")
        context = self.server.context
        try:
            if not context.control.may(self.client):
                raise commands.NotInControl("someone else is in control; take control first")
            if not isinstance(params, dict) or not isinstance(id, str):
                raise UsageError("set: analysis is an id, params an object")
            gen = gen if isinstance(gen, int) and not isinstance(gen, bool) else None
            if large or any(isinstance(v, dict) for v in params.values()):
                await self.server.call(lambda: context.session.analyses.set(id, commands.with_files(context, params), gen))
            else:
                context.session.analyses.set(id, params, gen)
        except Exception as exc:  # noqa: BLE001  the page is told, whatever it was
            self._put({"type": "refused", "analysis": id, "gen": gen, "error": commands.error_json(exc)})

    def _cmd(self, data: dict[str, Any]) -> None:
        if self._busy >= COMMANDS_MAX:
            raise UsageError(f"{COMMANDS_MAX} commands are under way")
        self._busy += 1
        task = asyncio.create_task(self._command(data))
        _running.add(task)
        task.add_done_callback(_running.discard)

    async def _command(self, data: dict[str, Any]) -> None:
        id, name, args = data.get("id"), data.get("name"), data.get("args", {})
        if not isinstance(id, (str, int, float)) or len(str(id)) > 200:
            id = None
        server = self.server
        try:
            if name == "take_control":
                server.control.take(self.client)
                result = None
                server.refresh()
            elif name == "release_control":
                server.control.release(self.client)
                result = None
                server.refresh()
            else:
                commands.checked(name, args)
                result = await server.call(commands.run, server.context, name, args, self.client)
                server.refresh()  # so that who reads the reply knows the state that belongs to it
            reply: dict[str, Any] = {"type": "reply", "id": id, "ok": True, "result": result}
        except Exception as exc:  # noqa: BLE001  the page is told, whatever it was
            reply = {"type": "reply", "id": id, "ok": False, "error": commands.error_json(exc)}
        finally:
            self._busy -= 1
        if self.ws_connection is not None:
            self._put(reply)

    # -- to the page ---------------------------------------------------------------------------------------------------

    def _put(self, message: dict[str, Any]) -> None:
        self._outbox.append(json.dumps(message, separators=(",", ":"), allow_nan=False))
        if len(self._outbox) > 1000:  # it reads nothing and goes on asking
            self.close(4003, "too many messages")
        self.poke()

    async def _pump(self) -> None:
        """The only place that writes."""
        try:
            while True:
                wait = min((w for s in self.subs.values() if (w := s.refine_in(time.monotonic())) is not None), default=None)
                later = None if wait is None else asyncio.get_running_loop().call_later(wait, self._event.set)
                await self._event.wait()  # wait_for would make a task each time
                if later is not None:
                    later.cancel()
                self._event.clear()
                await self._write_texts()
                if self._bye is not None:
                    await self._write(json.dumps({"type": "bye", "reason": self._bye}))
                    self.close(4000, self._bye)
                    return
                while await self._write_array():
                    await self._write_texts()
        except (tornado.websocket.WebSocketClosedError, tornado.iostream.StreamClosedError):
            return
        except Exception as exc:  # noqa: BLE001  a page that is told nothing any more must not look alive: it comes back by itself
            self.server.session.say("error", f"a page was cut off: {type(exc).__name__}: {exc}")
            self.close(1011, "internal error")

    async def _write(self, message: str | bytes, *, binary: bool = False) -> None:
        """Returns when the system has taken it all: a page that does not read holds up its own messages only."""
        self._writing = time.monotonic()
        await self.write_message(message, binary=binary)
        self._writing = None

    async def _write_texts(self) -> None:
        if not self.client:
            return
        state = self.server.state
        if self._state_v < 0 and self._outbox:  # the welcome goes first
            await self._write(self._outbox.popleft())
        if self._state_v != state.version:
            patches = state.since(self._state_v) if self._state_v >= 0 else None
            self._state_v = state.version
            if patches is None:
                await self._write(_dumps({"type": "snapshot", "v": state.version, "state": state.value}))
            for v, ops in patches or ():
                await self._write(_dumps({"type": "patch", "v": v, "ops": ops}))
        while self._outbox:
            await self._write(self._outbox.popleft())
        if self._stat is not None:
            stat, self._stat = self._stat, None
            await self._write(_dumps(stat))

    async def _write_array(self) -> bool:
        """Send the array that is due next; False where there is none."""
        found = due(self.subs, self.link, self.server.hub.view, time.monotonic())
        if found is None:
            return False
        sub, view, plan = found
        message = await self._message(view, plan)
        if self.subs.get(sub.key.topic) is not sub or view.key != sub.key:
            return True  # it wants something else by now
        sub.sent(plan, view, len(message), time.monotonic())
        await self._write(message, binary=True)
        return True

    async def _message(self, view: View, plan: Plan) -> bytes:
        """What is sent of a view; viewers that want the same wait for one thread that makes it."""
        make = functools.partial(self.server.hub.message, view, plan.level, plan.rows, whole=plan.whole, keep=plan.keep)
        if _size(view.shape) <= LARGE:
            return make()
        name = (view.key, view.version, plan.level.name, plan.rows, plan.whole, plan.keep)
        found = self.server.hub.made(name)
        if found is not None:
            return found
        making = self.server.making.get(name)
        if making is None:
            making = self.server.making[name] = asyncio.ensure_future(self.server.call(make))
            making.add_done_callback(lambda _: self.server.making.pop(name))
        return await asyncio.shield(making)  # whoever goes away leaves it to the others


_running: set[asyncio.Task[None]] = set()
"""Tasks of commands: the loop itself keeps weak references only."""

_HANDLERS = {"sub": Viewer._sub, "unsub": Viewer._unsub, "ack": Viewer._ack, "seen": Viewer._seen, "cmd": Viewer._cmd}


def _text(data: dict[str, Any], key: str, longest: int) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise UsageError(f"{key} is a text of 1 to {longest} characters")
    return value


def _px(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(v, (int, float)) and 1 <= v < 1e6 for v in value):
        raise UsageError(f"px is [width, height] in device pixels, got {value!r:.80}")
    return int(value[0]), int(value[1])


def _size(shape: tuple[int, ...]) -> int:
    n = 1
    for s in shape:
        n *= s
    return n


def _dumps(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
