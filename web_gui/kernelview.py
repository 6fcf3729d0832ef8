"""What stands between a run and the views of it in notebooks: who wants what, and what is sent next. Knows no notebook.

Messages are those of docs/reference/gui-protocol.md; each one that comes names its `client` (one drawn view), each one that goes its
`to`. A view is drawn any number of times: in several cells, in several browsers, again after a page was loaded anew.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from libstream.errors import LibstreamError, UsageError
from libstream.jobs import looking
from libstream.jobs.watched import Watched
from libstream.web_gui import commands
from libstream.web_gui.forms import fields_of, handles_of
from libstream.web_gui.sending import Link, Subscription, acknowledged, due
from libstream.web_gui.state import SharedState
from libstream.web_gui.topics import Hub, Key
from libstream.web_gui.wire import EXACT, LEVELS, Level

STAT_S = 0.25
SAMPLE_AGAIN_S = 1.5
"""Mean and maximum of the frames of an acquisition that goes on are computed again after this time."""
SILENT_S = 60.0
"""A client that leaves a message unpainted so long is gone: nobody says so when a page is closed."""
CLIENTS_MAX = 64
SUBS_MAX = 64
LAYOUT_MAX = 256 << 10
KEPT_SIDE = 256
"""Rows and columns of a picture that is kept with the notebook."""
KEPT_BYTES = 4 << 20
DEAF_S = 0.5
"""While the kernel runs a cell it hears no view; then the pictures that are kept are renewed instead, so often at first ..."""
DEAF_MOST_S = 5.0
"""... and so often in the end, since each one goes through the notebook's server, whether somebody looks or not."""

Send = Callable[[dict[str, Any], list[bytes]], None]


class Client:
    """One drawn view."""

    def __init__(self) -> None:
        self.subs: dict[str, Subscription] = {}
        self.link = Link()
        self.state_v = -1
        self.heard = time.monotonic()


class KernelView:
    """The run that is shown, and the clients that show it. One thread sends everything; `hear` may be called from any.

    send: given a message and its binary parts. keep: given what shows the view without a kernel (state, messages with arrays).
    deaf: True while nothing that a client says can be heard.
    """

    def __init__(self, send: Send, keep: Callable[[dict[str, Any], list[bytes]], None], deaf: Callable[[], bool]) -> None:
        self._send, self._keep, self._deaf = send, keep, deaf
        self._event = threading.Event()
        self.watched = Watched(self.poke)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="libstream-frames")
        self._hub = Hub(self.watched, self._pool, self.poke)
        self._state = SharedState()
        self._kinds: tuple[int, dict[str, Any]] = (-1, {})
        self._clients: dict[str, Client] = {}
        self._inbox: deque[Mapping[str, Any]] = deque()
        self._stat_at = self._kept_at = 0.0
        self._sampled_at: dict[tuple[int, str | None], float] = {}
        self._kept: Any = None
        self._stat: dict[str, Any] = {}
        self._deaf_since: float | None = None
        self._sampling = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="libstream-view", daemon=True)

    def start(self) -> None:
        """Begin to send; call it once something is shown."""
        self._renew()
        self._thread.start()

    def hear(self, message: Any) -> None:
        """A message of a client; handled by the thread of this view, so that the kernel goes on at once."""
        if isinstance(message, Mapping) and not self._closed.is_set() and len(self._inbox) < 10_000:
            self._inbox.append(message)
            self.poke()

    def poke(self) -> None:
        """There may be something to send."""
        self._event.set()

    def close(self) -> None:
        """Stop sending; what is kept stays. The run goes on."""
        if self._closed.is_set():
            return
        self.watched.close()
        self._closed.set()
        self.poke()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(5.0)
        self._pool.shutdown(wait=True, cancel_futures=True)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._event.wait(self._pause())
            self._event.clear()
            if self._closed.is_set():
                break
            while self._inbox:
                self._heard(self._inbox.popleft())
            self._texts()
            while self._array():
                if self._inbox:
                    break
            self._kept_with_the_notebook()
        self._texts()
        self._keep_now()
        self._post({"type": "bye", "reason": "closed", "to": None})

    def _pause(self) -> float | None:
        """Seconds until something is due by itself; None where nothing is."""
        now = time.monotonic()
        waits = [w for c in self._clients.values() for s in c.subs.values() if (w := s.refine_in(now)) is not None]
        if self.watched.running or self._kept != self._what_to_keep() or self._stat != {"type": "stat", **self.watched.progress()}:
            waits.append(STAT_S)
        return min(waits, default=None)

    def _post(self, message: dict[str, Any], parts: list[bytes] | None = None) -> None:
        try:
            self._send(message, parts or [])
        except Exception:  # noqa: BLE001  the notebook is gone, or goes: nothing can be said to anybody
            self._closed.set()
            self.poke()

    # -- what clients say ----------------------------------------------------------------------------------------------

    def _heard(self, message: Mapping[str, Any]) -> None:
        name, kind = message.get("client"), message.get("type")
        if not isinstance(name, str) or not 0 < len(name) <= 100:
            return
        try:
            if kind == "hello":
                self._hello(name)
                return
            client = self._clients.get(name)
            if client is None:
                self._post({"type": "again", "to": name})  # forgotten: it was silent for long
                return
            client.heard = time.monotonic()
            if kind == "sub":
                self._sub(client, message)
            elif kind == "unsub":
                client.subs.pop(str(message.get("topic")), None)
            elif kind == "ack":
                acknowledged(client.subs, client.link, str(message.get("topic")), message.get("v"), client.heard)
            elif kind == "seen" and isinstance(message.get("t"), (int, float)):
                client.link.rtt_s = min(max(0.0, time.time() - message["t"] / 1000), 10.0)
            elif kind == "set":
                self._set(name, message)
            elif kind == "cmd":
                self._command(name, message)
            elif kind == "bye":
                del self._clients[name]
        except (LibstreamError, ValueError, TypeError, KeyError) as exc:
            self._post({"type": "reply", "id": None, "ok": False, "error": commands.error_json(exc), "to": name})

    def _hello(self, name: str) -> None:
        if len(self._clients) >= CLIENTS_MAX:
            oldest = min(self._clients, key=lambda k: self._clients[k].heard)
            del self._clients[oldest]
        self._clients[name] = Client()
        now = time.time_ns() // 1_000_000
        self._post({"type": "welcome", "proto": 1, "you": name, "now": now, "to": name})
        self._post({"type": "ping", "t": now, "to": name})

    def _sub(self, client: Client, message: Mapping[str, Any]) -> None:
        topic, channel, px = message.get("topic"), message.get("channel"), message.get("px")
        if not isinstance(topic, str) or (channel is not None and not isinstance(channel, str)):
            raise UsageError("a subscription has a topic, and maybe a channel")
        if topic not in client.subs and len(client.subs) >= SUBS_MAX:
            raise UsageError(f"a view may subscribe to {SUBS_MAX} topics")
        key = Key(topic, commands.position(message.get("at")), channel)
        sub = client.subs.setdefault(topic, Subscription(key))
        sub.key, sub.exact = key, message.get("exact") is True
        sub.px = (int(px[0]), int(px[1])) if isinstance(px, list) and len(px) == 2 else None

    def _set(self, name: str, message: Mapping[str, Any]) -> None:
        id, gen = message.get("analysis"), message.get("gen")
        try:
            self.watched.set(str(id), message["params"], gen if isinstance(gen, int) else None)
        except Exception as exc:  # noqa: BLE001  the view is told, whatever it was
            self._post({"type": "refused", "analysis": id, "gen": gen, "error": commands.error_json(exc), "to": name})

    def _command(self, name: str, message: Mapping[str, Any]) -> None:
        id, args = message.get("id"), message.get("args") or {}
        reply: dict[str, Any] = {"type": "reply", "id": id, "to": name}
        try:
            reply |= {"ok": True, "result": self._done(str(message.get("name")), args)}
        except Exception as exc:  # noqa: BLE001  the view is told, whatever it was
            reply |= {"ok": False, "error": commands.error_json(exc)}
        self._post(reply)

    def _done(self, name: str, args: Mapping[str, Any]) -> Any:
        if name == "pixel":
            key = Key(str(args["topic"]), commands.position(args.get("at")), args.get("channel"))
            return {"value": self._hub.pixel(key, int(args["y"]), int(args["x"]))}
        if name == "layout":
            layout = dict(args["layout"])
            if len(json.dumps(layout)) > LAYOUT_MAX:
                raise UsageError(f"a layout has at most {LAYOUT_MAX} bytes of JSON")
            self.watched.layout = layout
            return None
        if name == "cancel":
            self.watched.cancel()
            return None
        if name == "auto_centre":
            return looking.bright_disk(self.watched, args.get("channel"))  # type: ignore[arg-type]  # asks for what a Watched has too
        raise UsageError(f"views in notebooks have no command {name!r}")

    # -- what they are told --------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        view = self.watched.view()
        if self._kinds[0] != self.watched.number:
            self._kinds = self.watched.number, {k: _kind(e) for k, e in self.watched.entries().items()}
        self._state.update({**view, "kinds": self._kinds[1]})

    def _texts(self) -> None:
        self._renew()
        now = time.monotonic()
        for name in [k for k, c in self._clients.items() if _gone(c, now)]:
            del self._clients[name]
        stat = {"type": "stat", **self.watched.progress()}
        said = stat == self._stat or now - self._stat_at < STAT_S
        if not said:
            self._stat, self._stat_at = stat, now
        for name, client in self._clients.items():
            new = client.state_v < 0
            patches = None if new else self._state.since(client.state_v)
            client.state_v = self._state.version
            if patches is None:
                self._post({"type": "snapshot", "v": self._state.version, "state": self._state.value, "to": name})
            for v, ops in patches or ():
                self._post({"type": "patch", "v": v, "ops": ops, "to": name})
            if new or not said:
                self._post({**stat, "to": name})
        self._sample()

    def _sample(self) -> None:
        """Have mean and maximum of some frames computed, where somebody looks at them; of an acquisition that goes on, again and again."""
        now = time.monotonic()
        goes_on = self.watched.running and (self._state.value.get("source") or {}).get("kind") == "live"
        channels = {s.key.channel for c in self._clients.values() for t, s in c.subs.items() if t in ("frame/mean", "frame/max")}
        if self._deaf() and not self._clients:
            channels = {None}  # it is what will be shown first
        for channel in channels:
            key = self.watched.number, channel
            recent = now - self._sampled_at.get(key, -SAMPLE_AGAIN_S) < SAMPLE_AGAIN_S
            there = self._hub.view(Key("frame/mean", None, channel)) is not None
            if not (self._sampling or recent or (there and not goes_on)):
                self._sampling, self._sampled_at[key] = True, now
                self._pool.submit(self._sampled, channel)

    def _sampled(self, channel: str | None) -> None:
        try:
            self.watched.sample(channel)
        finally:
            self._sampling = False

    def _array(self) -> bool:
        """Send the arrays that are due next, one to each client; False where there was none."""
        sent = False
        for name, client in list(self._clients.items()):
            found = due(client.subs, client.link, self._hub.view, time.monotonic())
            if found is None:
                continue
            sub, view, plan = found
            message = self._hub.message(view, plan.level, plan.rows, whole=plan.whole, keep=plan.keep)
            sub.sent(plan, view, len(message), time.monotonic())
            self._post({"type": "array", "to": name}, [message])
            sent = True
        return sent and not self._closed.is_set()

    # -- without a kernel ----------------------------------------------------------------------------------------------

    def _what_to_keep(self) -> Any:
        result = self.watched.progress()["ledger"]
        return self._state.version, self.watched.number, str(result), tuple(h.version for t in self._topics() if (h := self._hub.view(t)))

    def _kept_with_the_notebook(self) -> None:
        """Renew what is kept when the run is at rest; while nobody can be heard, also in between."""
        now = time.monotonic()
        if self._deaf():
            self._deaf_since = self._deaf_since if self._deaf_since is not None else now
            pause = min(DEAF_MOST_S, max(DEAF_S, (now - self._deaf_since) / 20))
            heard = max((c.heard for c in self._clients.values()), default=0.0)
            if now - self._kept_at < pause or now - heard < DEAF_S:
                return
        else:
            self._deaf_since = None
            if self.watched.running or now - self._kept_at < DEAF_S:
                return
        what = self._what_to_keep()
        if what != self._kept:
            self._kept, self._kept_at = what, now
            self._keep_now()

    def _topics(self) -> list[Key]:
        """What is shown somewhere; else what would be shown first."""
        wanted = {s.key for c in self._clients.values() for s in c.subs.values()}
        if not wanted:
            analyses = (self._state.value.get("analyses") or {}).values()
            outputs = [o for a in analyses for o in a["outputs"] if o["display"] != "none"]
            wanted = {Key("frame/mean"), *(Key(_first_topic(o)) for o in outputs)}
        return sorted(wanted, key=lambda k: k.topic)

    def _keep_now(self) -> None:
        arrays: list[bytes] = []
        for key in self._topics():
            view = self._hub.view(key)
            if view is not None and sum(map(len, arrays)) < KEPT_BYTES:
                arrays.append(self._hub.message(view, _kept_level(view.shape), None, whole=True))
        try:
            self._keep({"state": self._state.value, "stat": {"type": "stat", **self.watched.progress()}}, arrays)
        except Exception:  # noqa: BLE001  as in _post
            self._closed.set()


def _gone(client: Client, now: float) -> bool:
    waiting = [s.in_flight[1] for s in client.subs.values() if s.in_flight is not None]
    return bool(waiting) and now - max(min(waiting), client.heard) > SILENT_S


def _first_topic(output: Mapping[str, Any]) -> str:
    topic = str(output["topic"])
    return f"{topic}/count" if output["display"] == "ragged" else f"{topic}/0" if output["planes"] else topic


def _kept_level(shape: tuple[int, ...]) -> Level:
    """Exact where it is small, else coarse."""
    if len(shape) < 2 or max(shape[:2]) <= KEPT_SIDE // 2:
        return EXACT
    return next((x for x in LEVELS[1:] if max(shape[:2]) <= KEPT_SIDE * x.bin), LEVELS[-1])


def _kind(entry: Any) -> dict[str, Any]:
    """Fields and handles of a UDF, as the page has them; none where its parameters have no form."""
    try:
        fields = fields_of(entry.schema())
    except Exception:  # noqa: BLE001  parameters of own types: shown all the same, without handles
        fields = []
    return {"fields": fields, "handles": handles_of(fields)}
