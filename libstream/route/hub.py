"""The router: what detectors send is received and accounted for by live sources; blocks of it are dealt out to consumers.

One thread owns the sockets. It never waits for a consumer, a client or a detector, and never looks at a pixel.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from libstream import registry
from libstream.errors import LibstreamError, WireError
from libstream.live.runs import NOT_UNDERSTOOD_SHOWN
from libstream.live.source import LiveSource
from libstream.route import wire
from libstream.route.blocks import BLOCK_BYTES
from libstream.route.peers import Rate, Session
from libstream.route.serving import Serving

_log = logging.getLogger("libstream.route")

IDLE_S, BUSY_S = 0.02, 0.002
"""Longest waits for a message: while nothing runs, and while frames may come in."""
TELL_S = 0.1
"""Accounts and states go to clients this often, where they have changed."""
BEAT_S = 0.5
"""Everybody says something at least this often."""
LOST_S = 5.0
"""Silence after which a consumer, or a client, is given up."""
BLOCK_S = 60.0
"""Time that a consumer has for a block."""
REMEMBERED_S = 60.0
"""How long a lost consumer is shown."""
PROBLEMS = 50
MESSAGES = 256
"""Most messages taken before blocks are dealt out again."""


class Hub:
    """A router. sources: live sources that it owns from now on. listen: where consumers and clients connect; port 0 finds a free one.

    curve: keys of this side, {"secret", "clients"}. lost_s, block_s: see the constants. block_bytes: decoded bytes of a block.
    Raises OSError where the address cannot be bound.
    """

    def __init__(
        self, sources: Sequence[LiveSource], listen: str, *, curve: Mapping[str, Any] | None = None, lost_s: float = LOST_S,
        block_s: float = BLOCK_S, block_bytes: int = BLOCK_BYTES,
    ) -> None:  # fmt: skip
        self.sources, self.lost_s, self.block_s, self.block_bytes = list(sources), lost_s, block_s, block_bytes
        self.boot = uuid.uuid4().hex
        self.started = time.time()
        self._sockets = registry.load("transports", "route")()
        try:
            self._sockets.bind(listen, curve=curve)
        except BaseException:
            self._sockets.close()
            raise
        self.address: str = self._sockets.address(0)
        self.serving = Serving(self)
        self.sessions: dict[bytes, Session] = {}
        self.former: deque[Session] = deque(maxlen=64)
        self._fenced: OrderedDict[bytes, None] = OrderedDict()  # of sessions that are over, so that they hear of it
        self.n_lost = self._not_understood = 0
        self.problems: deque[str] = deque(maxlen=PROBLEMS)
        self._rates = [Rate() for _ in self.sources]
        self._health: dict[str, Any] = {}
        self._later: deque[tuple[bytes, list[Any]]] = deque()
        self._lock = threading.Lock()
        self._told = self._beat = 0.0
        self._leaving = False
        self._news = False  # consumers have come or gone
        self._thread = threading.Thread(target=self._loop, name="libstream-router", daemon=True)
        self._look(time.monotonic())

    def start(self) -> Hub:
        """Begin to serve."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End, and close the sources. Idempotent."""
        self._leaving = True
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(10.0)
        for source in self.sources:
            source.close()

    def health(self) -> dict[str, Any]:
        """See docs/reference/router.md."""
        return self._health

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        try:
            while not self._leaving:
                try:
                    self._turn()
                except Exception as exc:  # noqa: BLE001  whatever it was, the next acquisition has to be routed
                    _log.exception("the router had an error")
                    self.problem(f"the router had an error: {type(exc).__name__}: {exc}")
                    time.sleep(0.1)
            for name in (*self.serving.clients, *self.sessions):
                self.send(name, wire.write("bye", boot=self.boot))
            for client in list(self.serving.clients.values()):
                self.serving.drop(client)
        finally:
            self._sockets.close()

    def _turn(self) -> None:
        self._sockets.wait(BUSY_S if self.serving.busy else IDLE_S)
        for _ in range(MESSAGES):
            got = self._sockets.receive(0)
            if got is None:
                break
            self._take(*got)
        with self._lock:
            later, self._later = self._later, deque()
        for name, parts in later:
            self.send(name, parts)
        now = time.monotonic()
        self.serving.turn(now)
        if now - self._told >= TELL_S:
            self._told = now
            self.serving.tell()
        if now - self._beat >= BEAT_S or self._news:
            self._beat, news, self._news = now, self._news, False
            self._look(now)
            for client in self.serving.clients.values() if news else ():
                self.serving.welcome(client)

    def _take(self, name: bytes, parts: Sequence[Any]) -> None:
        try:
            said = wire.read(parts)
            if said.kind == "consumer":
                self._consumer(name, said)
            elif said.kind == "client":
                self.serving.first_word(name, said)
            elif (session := self.sessions.get(name)) is not None:
                self._of_consumer(session, said)
            elif (client := self.serving.clients.get(name)) is not None:
                client.heard = time.monotonic()
                self.serving.take(client, said)
        except WireError as exc:
            self._not_understood += 1
            if self._not_understood <= NOT_UNDERSTOOD_SHOWN:
                self.problem(f"a message was not understood: {exc}")
        except LibstreamError as exc:
            self.send(name, wire.write("refused", why=str(exc)))

    def send(self, name: bytes, parts: list[Any]) -> bool:
        """Queue a message; False where there is no such peer."""
        return bool(self._sockets.send(0, parts, name))

    def send_later(self, name: bytes, parts: list[Any]) -> None:
        """Send a message from any thread."""
        with self._lock:
            self._later.append((name, parts))

    def problem(self, text: str) -> None:
        """Keep a sentence for the user, and log it, once."""
        if text not in self.problems:
            self.problems.append(text)
            _log.warning("%s", text)

    # -- consumers ---------------------------------------------------------------------------------------------------

    def _consumer(self, name: bytes, said: wire.Message) -> None:
        """First word and heartbeat of a consumer."""
        now = time.monotonic()
        if name in self._fenced:
            self.send(name, wire.write("fenced", boot=self.boot))
            return
        session = self.sessions.get(name)
        if session is None:
            session = Session.of(name, said, now)
            if session.client not in self.serving.clients:
                self.send(name, wire.write("wait", boot=self.boot))  # its client has not come (back) yet
                return
            self.sessions[name] = session
            self._news = True
            _log.info("consumer %s has connected", session.label)
        session.heard_of(said, now)
        self.send(name, wire.write("welcome", boot=self.boot))

    def _of_consumer(self, session: Session, said: wire.Message) -> None:
        session.heard = time.monotonic()
        if said.kind == "freed":
            session.freed(said.text("token"), said.numbers("numbers"))
        elif said.kind == "bye":
            self.lose(session, "")

    def lose(self, session: Session, why: str) -> None:
        """A consumer is given up. Its blocks are given again once its client takes nothing of it any more."""
        if session.lost:
            return
        session.lost = time.monotonic()
        self._news = True
        if why:
            self.n_lost += 1
            session.last_error = why
            self.problem(f"consumer {session.label} {why}: what it had not finished goes to others")
        self._fenced[session.name] = None
        while len(self._fenced) > 4096:
            self._fenced.popitem(last=False)
        del self.sessions[session.name]
        self.former.append(session)
        self.send(session.name, wire.write("fenced", boot=self.boot))
        client = self.serving.clients.get(session.client)
        if client is not None:
            self.send(client.name, wire.write("lost", session=session.id))

    # -- how it stands -----------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Who is still there; how it goes."""
        for session in list(self.sessions.values()):
            if now - session.heard > self.lost_s:
                self.lose(session, f"has been silent for {now - session.heard:.3g} s")
            elif not self.send(session.name, wire.write("beat", boot=self.boot)):
                self.lose(session, "has gone")
        self.serving.look(now)
        while self.former and now - self.former[0].lost > REMEMBERED_S:
            self.former.popleft()
        from libstream.route.health import of_hub

        self._health = of_hub(self, now)

    def nodes(self, now: float) -> list[dict[str, Any]]:
        """Entries of the health dictionary: this router, then its consumers."""
        fills, frames, n_bytes, rates = [], 0, 0, [0.0, 0.0]
        for source, rate in zip(self.sources, self._rates, strict=True):
            status = source.status()
            fills.append(status["fill"])
            rate.frames, rate.bytes = status["frames"], status["bytes"]
            a, b = rate.look(now)
            rates = [rates[0] + a, rates[1] + b]
            frames, n_bytes = frames + rate.frames, n_bytes + rate.bytes
        me = {
            "name": "router", "role": "router", "host": platform.node(), "pid": os.getpid(), "state": self.sources[0].state,
            "frames": frames, "bytes": n_bytes, "frames_per_s": rates[0], "bytes_per_s": rates[1], "fill": max(fills, default=0.0),
            "ring_bytes": sum(s._ring.n_bytes for s in self.sources), "seen_s": 0.0,
            "blocks": sum(len(p.kept) for p in self.serving.passes),
            "last_error": (self.problems or [p for s in self.sources for p in s.problems] or [""])[-1],
        }  # fmt: skip
        here = {s.label for s in self.sessions.values()}  # one that has begun anew is shown once
        gone = {s.label: s for s in self.former if s.label not in here}
        times: Counter[str] = Counter()
        nodes = [me]
        for session in (*self.sessions.values(), *gone.values()):
            times[session.label] += 1
            again = "" if times[session.label] == 1 else f"#{times[session.label]}"  # two in one process
            nodes.append({**session.node(now), "name": session.label + again})
        return nodes
