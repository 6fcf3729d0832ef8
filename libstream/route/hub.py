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
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from libstream import registry
from libstream.contracts.source import Partition
from libstream.errors import LibstreamError, WireError
from libstream.live.acquisition import Acquisition
from libstream.live.handout import HandOut
from libstream.live.source import LiveSource
from libstream.route import wire
from libstream.route.blocks import block_frames, pack
from libstream.route.passes import CLIENT, GROUP, Block, Pass
from libstream.route.peers import Client, Rate, Running, Session

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
RUNS_KEPT = 8
"""Acquisitions to which a client may come back."""
PROBLEMS = 50
MESSAGES = 256
"""Most messages taken before blocks are dealt out again."""
RUNS_OF_POSITIONS = 1 << 22


class Hub:
    """A router. sources: live sources that it owns from now on. listen: where consumers and clients connect; port 0 finds a free one.

    curve: keys of this side, {"secret", "clients"}. lost_s, block_s: see the constants. Raises OSError where the address cannot be bound.
    """

    def __init__(
        self, sources: Sequence[LiveSource], listen: str, *, curve: Mapping[str, Any] | None = None, lost_s: float = LOST_S,
        block_s: float = BLOCK_S,
    ) -> None:  # fmt: skip
        self.sources, self.lost_s, self.block_s = list(sources), lost_s, block_s
        self.boot = uuid.uuid4().hex
        self.started = time.time()
        self._sockets = registry.load("transports", "route")()
        try:
            self._sockets.bind(listen, curve=curve)
        except BaseException:
            self._sockets.close()
            raise
        self.address: str = self._sockets.address(0)
        self.clients: dict[bytes, Client] = {}
        self.sessions: dict[bytes, Session] = {}
        self._former: deque[Session] = deque(maxlen=64)
        self._fenced: OrderedDict[bytes, None] = OrderedDict()  # of sessions that are over, so that they hear of it
        self.runs: OrderedDict[int, Acquisition] = OrderedDict()
        self._n_runs = self.n_given = self.n_again = self.n_lost = 0
        self.problems: deque[str] = deque(maxlen=PROBLEMS)
        self._rates = [Rate() for _ in self.sources]
        self._health: dict[str, Any] = {}
        self._later: deque[tuple[bytes, list[Any]]] = deque()
        self._lock = threading.Lock()
        self._told = self._beat = 0.0
        self._leaving = False
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
                    self._problem(f"the router had an error: {type(exc).__name__}: {exc}")
                    time.sleep(0.1)
            for name in (*self.clients, *self.sessions):
                self._send(name, wire.write("bye", boot=self.boot))
            for client in list(self.clients.values()):
                self._drop(client)
        finally:
            self._sockets.close()

    def _turn(self) -> None:
        busy = any(c.passes or c.waits for c in self.clients.values())
        self._sockets.wait(BUSY_S if busy else IDLE_S)
        for _ in range(MESSAGES):
            got = self._sockets.receive(0)
            if got is None:
                break
            self._take(*got)
        with self._lock:
            later, self._later = self._later, deque()
        for name, parts in later:
            self._send(name, parts)
        now = time.monotonic()
        for client in list(self.clients.values()):
            if client.waits:
                self._next_run(client)
            for token, running in list(client.passes.items()):
                self._deal(client, token, running, now)
        if now - self._told >= TELL_S:
            self._told = now
            self._tell(now)
        if now - self._beat >= BEAT_S:
            self._beat = now
            self._look(now)

    def _take(self, name: bytes, parts: Sequence[Any]) -> None:
        try:
            said = wire.read(parts)
            if said.kind == "consumer":
                self._consumer(name, said)
            elif said.kind == "client":
                self._client(name, said)
            elif (session := self.sessions.get(name)) is not None:
                self._of_consumer(session, said)
            elif (client := self.clients.get(name)) is not None:
                client.heard = time.monotonic()
                self._of_client(client, said)
        except WireError as exc:
            self._problem(f"a message was not understood: {exc}")
        except LibstreamError as exc:
            self._send(name, wire.write("refused", why=str(exc)))

    def _send(self, name: bytes, parts: list[Any]) -> bool:
        return bool(self._sockets.send(0, parts, name))

    def _problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)
            _log.warning("%s", text)

    # -- consumers ---------------------------------------------------------------------------------------------------

    def _consumer(self, name: bytes, said: wire.Message) -> None:
        """First word and heartbeat of a consumer."""
        now = time.monotonic()
        if name in self._fenced:
            self._send(name, wire.write("fenced", boot=self.boot))
            return
        session = self.sessions.get(name)
        if session is None:
            session = Session.of(name, said, now)
            if session.client not in self.clients:
                self._send(name, wire.write("wait", boot=self.boot))  # its client has not come (back) yet
                return
            self.sessions[name] = session
            _log.info("consumer %s has connected", session.label)
        session.heard_of(said, now)
        self._send(name, wire.write("welcome", boot=self.boot))

    def _of_consumer(self, session: Session, said: wire.Message) -> None:
        session.heard = time.monotonic()
        if said.kind == "freed":
            session.freed(said.text("token"), said.numbers("numbers"))
        elif said.kind == "bye":
            self._lose(session, "")

    def _lose(self, session: Session, why: str) -> None:
        """A consumer is given up. Its blocks are given again once its client takes nothing of it any more."""
        if session.lost:
            return
        session.lost = time.monotonic()
        if why:
            self.n_lost += 1
            session.last_error = why
            self._problem(f"consumer {session.label} {why}: what it had not finished goes to others")
        self._fenced[session.name] = None
        while len(self._fenced) > 4096:
            self._fenced.popitem(last=False)
        del self.sessions[session.name]
        self._former.append(session)
        self._send(session.name, wire.write("fenced", boot=self.boot))
        client = self.clients.get(session.client)
        if client is not None:
            self._send(client.name, wire.write("lost", session=session.id))

    # -- clients -----------------------------------------------------------------------------------------------------

    def _client(self, name: bytes, said: wire.Message) -> None:
        """First word and heartbeat of a client."""
        client = self.clients.get(name)
        if client is None:
            source = said.number("source", 0, 1 << 16)
            if source >= len(self.sources):
                raise LibstreamError(f"this router has {len(self.sources)} sources, there is no number {source}")
            other = next((c for c in self.clients.values() if c.source == source), None)
            if other is not None:
                raise LibstreamError(
                    f"another program already takes the acquisitions of {self.sources[source].uri} from this router: close it first"
                )
            client = self.clients[name] = Client(name, source)
            _log.info("a client has connected")
        client.heard = time.monotonic()
        source_ = self.sources[client.source]
        self._send(name, wire.write(
            "welcome", boot=self.boot, source=source_.uri, address=source_.address, can_arm=source_.detector.controller is not None,
            health=wire.plain(self._health), status=wire.plain(source_.status()), problems=[p[:2000] for p in source_.problems],
        ))  # fmt: skip

    def _of_client(self, client: Client, said: wire.Message) -> None:
        kind = said.kind
        if kind == "next":
            client.waits = True
        elif kind == "pass":
            self._begin(client, said)
        elif kind == "merged":
            running = client.passes.get(said.text("token"))
            if running is not None:
                running.work.merged(said.numbers("numbers"))
        elif kind == "fenced":
            self._give_again(client, said)
        elif kind == "wake" and said.text("token") in client.passes:
            client.passes[said.text("token")].work.wake()
        elif kind == "end":
            self._end(client, said.text("token"))
        elif kind == "command":
            self._command(client, said)
        elif kind == "bye":
            self._drop(client)

    def _drop(self, client: Client) -> None:
        for token in list(client.passes):
            self._end(client, token)
        self.clients.pop(client.name, None)
        for session in [s for s in self.sessions.values() if s.client == client.name]:
            self._lose(session, "")

    def _next_run(self, client: Client) -> None:
        try:
            found = self.sources[client.source].wait(0.0)
        except LibstreamError as exc:
            client.waits = False
            self._send(client.name, wire.write("refused-run", error=type(exc).__name__, message=str(exc), trace=""))
            return
        if found is None:
            return
        client.waits = False
        self._n_runs += 1
        key = self._n_runs
        self.runs[key] = found
        in_use = {r.run for c in self.clients.values() for r in c.passes.values()}
        for old in [k for k in self.runs if k not in in_use][: max(0, len(self.runs) - RUNS_KEPT)]:
            self.runs.pop(old)
        run = found._run
        metas = [wire.meta_out(found.channel_meta(c)) for c in run.layout.channels]
        self._send(client.name, wire.write(
            "acquisition", key=key, run=run.header.run, metas=metas, layout=wire.layout_out(run.layout), state=_state(found),
        ))  # fmt: skip

    def _begin(self, client: Client, said: wire.Message) -> None:
        """A pass over an acquisition."""
        token, key = said.text("token"), said.number("key")
        found = self.runs.get(key)
        if found is None:
            self._send(client.name, wire.write("over", token=token, account=None, why="this acquisition is not remembered any more"))
            return
        run = found._run
        runs = said.array(0, "<i8", 2)
        if len(runs) > RUNS_OF_POSITIONS or (len(runs) and (runs.min() < 0 or runs.max() > run.n or (runs[:, 0] >= runs[:, 1]).any())):
            raise WireError(f"pass: runs of positions are not inside of a scan of {run.n}")
        frame_bytes = sum(m.shape.frame_size * m.dtype.itemsize for m in map(found.channel_meta, run.layout.channels))
        size = block_frames(frame_bytes, said.number("most", 1))
        hand_out = HandOut(run, [Partition(0, runs)], frame_bytes, size)
        client.passes[token] = Running(Pass(hand_out), key, wire.layout_out(run.layout), run.ring.data, frame_bytes)

    def _end(self, client: Client, token: str) -> None:
        running = client.passes.pop(token, None)
        if running is None:
            return
        running.work.close()
        self.n_given += running.work.n_given
        self.n_again += running.work.n_again
        for session in self.sessions.values():
            if session.client == client.name:
                session.forget(token)
                self._send(session.name, wire.write("end", token=token))

    def _give_again(self, client: Client, said: wire.Message) -> None:
        """The client takes nothing more of a lost session."""
        session = said.text("session")
        arrived = said.head.get("arrived")
        arrived = arrived if isinstance(arrived, dict) else {}
        for token, running in client.passes.items():
            numbers = [n for n in arrived.get(token, []) if type(n) is int]
            for block in running.work.lost(session, numbers):
                self._problem(
                    f"{block.gone} frames were given up: {block.tries} consumers were lost while they had them. "
                    "They were killed from outside (out of memory?) or the UDF crashes the interpreter"
                )
                self._to_client(client, token, running.work, block)

    def _command(self, client: Client, said: wire.Message) -> None:
        """Arm, trigger, disarm: in a thread of its own, as the detector may take its time."""
        number, what, settings = said.number("id"), said.text("what"), said.head.get("settings") or {}
        source = self.sources[client.source]

        def act() -> None:
            try:
                if what not in ("arm", "trigger", "disarm") or type(settings) is not dict:
                    raise LibstreamError(f"there is no command {what!r}")
                answer: Any = getattr(source, what)(**settings)
                reply = wire.write("done", id=number, answer=wire.plain(answer))
            except Exception as exc:  # noqa: BLE001  it is the client's
                reply = wire.write("done", id=number, error=type(exc).__name__, message=str(exc), trace="")
            with self._lock:
                self._later.append((client.name, reply))

        threading.Thread(target=act, name="libstream-command", daemon=True).start()

    # -- blocks ------------------------------------------------------------------------------------------------------

    def _deal(self, client: Client, token: str, running: Running, now: float) -> None:
        work = running.work
        mine = [s for s in self.sessions.values() if s.client == client.name]
        while any(s.takes(0) for s in mine) and (block := work.next()) is not None:
            if block.owner == CLIENT:
                self._to_client(client, token, work, block)
                continue
            session = self._whose(running, block, mine)
            if session is None:
                break
            head, parts = pack(block.partition, running.ring)
            sent = self._send(session.name, wire.write("block", parts, token=token, layout=running.layout, **head))
            if not sent:
                mine.remove(session)
                self._lose(session, "has gone")
                continue
            work.given(block, session.id, now)
            session.give(token, block.number, block.size)
            running.owners[block.number // GROUP] = session.name
        if work.over:
            self._account(client, token, running, last=True)

    def _whose(self, running: Running, block: Block, sessions: list[Session]) -> Session | None:
        """Who gets a block: the owner of its neighbours where it has credit, else whoever has the least to do."""
        able = [s for s in sessions if s.takes(block.size)]
        owner = running.owners.get(block.number // GROUP)
        return next((s for s in able if s.name == owner), None) or min(able, key=lambda s: len(s.held) / s.most, default=None)

    def _to_client(self, client: Client, token: str, work: Pass, block: Block) -> None:
        at, codes = work.as_lost(block)
        self._send(client.name, wire.write("lost-frames", [wire.view(at), wire.view(codes)], token=token, number=block.number))

    # -- how it stands -----------------------------------------------------------------------------------------------

    def _tell(self, now: float) -> None:
        for client in list(self.clients.values()):
            for key in {r.run for r in client.passes.values()} | set(list(self.runs)[-1:]):
                state = _state(self.runs[key]) if key in self.runs else None
                if state is not None and client.told.get(key) != state:
                    client.told = {**{k: v for k, v in client.told.items() if k in self.runs}, key: state}
                    self._send(client.name, wire.write("state", key=key, state=state))
            for token, running in list(client.passes.items()):
                self._account(client, token, running)

    def _account(self, client: Client, token: str, running: Running, *, last: bool = False) -> None:
        account = wire.plain(running.work.account())
        if last:
            self._send(client.name, wire.write("over", token=token, account=account, why=""))
            self._end(client, token)
        elif account != running.told:
            running.told = account
            self._send(client.name, wire.write("account", token=token, account=account))

    def _look(self, now: float) -> None:
        """Who is still there; how it goes."""
        for session in list(self.sessions.values()):
            if now - session.heard > self.lost_s:
                self._lose(session, f"has been silent for {now - session.heard:.3g} s")
            elif not self._send(session.name, wire.write("beat", boot=self.boot)):
                self._lose(session, "has gone")
        for client in list(self.clients.values()):
            if now - client.heard > self.lost_s:
                self._problem(f"the client has been silent for {now - client.heard:.3g} s: what it computed is given up")
                self._drop(client)
                continue
            late = set().union(*(r.work.overdue(now, self.block_s) for r in client.passes.values())) if client.passes else set()
            for session in [s for s in self.sessions.values() if s.id in late]:
                self._lose(session, f"has not finished a block for {self.block_s:g} s")
        while self._former and now - self._former[0].lost > REMEMBERED_S:
            self._former.popleft()
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
        kept = [len(r.work.kept) for c in self.clients.values() for r in c.passes.values()]
        me = {
            "name": "router", "role": "router", "host": platform.node(), "pid": os.getpid(), "state": self.sources[0].state,
            "frames": frames, "bytes": n_bytes, "frames_per_s": rates[0], "bytes_per_s": rates[1], "fill": max(fills, default=0.0),
            "ring_bytes": sum(s._ring.n_bytes for s in self.sources), "blocks": sum(kept), "seen_s": 0.0,
            "last_error": (self.problems or [p for s in self.sources for p in s.problems] or [""])[-1],
        }  # fmt: skip
        return [me, *(s.node(now) for s in self.sessions.values()), *(s.node(now) for s in self._former)]


def _state(found: Acquisition) -> dict[str, Any]:
    counts = found.counts
    return {
        "state": found.state, "reason": found.reason, "notes": list(found.notes), "arrived": found.n_arrived, "newest": found.newest,
        "counts": {name: getattr(counts, name) for name in counts.__dataclass_fields__},
    }  # fmt: skip
