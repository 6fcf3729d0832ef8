"""What a router does for its clients: acquisitions, passes over them, blocks to their consumers, accounts, commands."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from libstream.contracts.source import Partition
from libstream.errors import LibstreamError, WireError
from libstream.live.acquisition import Acquisition
from libstream.live.handout import HandOut
from libstream.route import wire
from libstream.route.blocks import block_frames, pack
from libstream.route.passes import CLIENT, GROUP, Block, Pass
from libstream.route.peers import Client, Running, Session

if TYPE_CHECKING:
    from libstream.route.hub import Hub

_log = logging.getLogger("libstream.route")

RUNS_KEPT = 8
"""Acquisitions to which a client may come back."""
RUNS_OF_POSITIONS = 1 << 22
SHARES = GROUP
"""Blocks that each consumer gets at least, as long as there are frames: small scans are shared out, too."""


class Serving:
    """Clients of a router. Used by the router's thread."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.clients: dict[bytes, Client] = {}
        self.runs: OrderedDict[int, Acquisition] = OrderedDict()
        self._n_runs = self._n_given = self._n_again = 0

    @property
    def passes(self) -> list[Pass]:
        """Those that run."""
        return [r.work for c in self.clients.values() for r in c.passes.values()]

    @property
    def n_given(self) -> int:
        """Blocks dealt out so far."""
        return self._n_given + sum(p.n_given for p in self.passes)

    @property
    def n_again(self) -> int:
        """Blocks dealt out once more."""
        return self._n_again + sum(p.n_again for p in self.passes)

    @property
    def busy(self) -> bool:
        """Frames may come in for somebody."""
        return any(c.passes or c.waits for c in self.clients.values())

    def turn(self, now: float) -> None:
        """Acquisitions to those who wait for one, blocks to consumers."""
        for client in list(self.clients.values()):
            if client.waits:
                self._next_run(client)
            for token, running in list(client.passes.items()):
                self._deal(client, token, running, now)

    def look(self, now: float) -> None:
        """Clients that are gone, consumers that do not finish."""
        for client in list(self.clients.values()):
            if now - client.heard > self.hub.lost_s:
                self.hub.problem(f"the client has been silent for {now - client.heard:.3g} s: what it computed is given up")
                self.drop(client)
                continue
            late = {owner for r in client.passes.values() for owner in r.work.overdue(now, self.hub.block_s)}
            for session in [s for s in self.hub.sessions.values() if s.id in late]:
                self.hub.lose(session, f"has not finished a block for {self.hub.block_s:g} s")

    # -- clients -----------------------------------------------------------------------------------------------------

    def first_word(self, name: bytes, said: wire.Message) -> None:
        """First word and heartbeat of a client."""
        client = self.clients.get(name)
        if client is None:
            source = said.number("source", 0, 1 << 16)
            if source >= len(self.hub.sources):
                raise LibstreamError(f"this router has {len(self.hub.sources)} sources, there is no number {source}")
            other = next((c for c in self.clients.values() if c.source == source), None)
            if other is not None:
                raise LibstreamError(
                    f"another program already takes the acquisitions of {self.hub.sources[source].uri} from this router: close it first"
                )
            client = self.clients[name] = Client(name, source)
            _log.info("a client has connected")
        client.heard = time.monotonic()
        self.welcome(client)

    def welcome(self, client: Client) -> None:
        """How it goes."""
        source = self.hub.sources[client.source]
        self.hub.send(client.name, wire.write(
            "welcome", boot=self.hub.boot, source=source.uri, address=source.address, can_arm=source.detector.controller is not None,
            health=wire.plain(self.hub.health()), status=wire.plain(source.status()), problems=[p[:2000] for p in source.problems],
        ))  # fmt: skip

    def take(self, client: Client, said: wire.Message) -> None:
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
        elif kind == "gone":
            name = said.text("session")
            for session in [s for s in self.hub.sessions.values() if s.id == name and s.client == client.name]:
                self.hub.lose(session, "cannot be reached by the client any more")
        elif kind == "wake" and said.text("token") in client.passes:
            client.passes[said.text("token")].work.wake()
        elif kind == "end":
            self._end(client, said.text("token"))
        elif kind == "command":
            self._command(client, said)
        elif kind == "bye":
            self.drop(client)

    def drop(self, client: Client) -> None:
        for token in list(client.passes):
            self._end(client, token)
        self.clients.pop(client.name, None)
        for session in [s for s in self.hub.sessions.values() if s.client == client.name]:
            self.hub.lose(session, "")

    def _next_run(self, client: Client) -> None:
        try:
            found = self.hub.sources[client.source].wait(0.0)
        except LibstreamError as exc:
            client.waits = False
            self.hub.send(client.name, wire.write("refused-run", error=type(exc).__name__, message=str(exc), trace=""))
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
        self.hub.send(client.name, wire.write(
            "acquisition", key=key, run=run.header.run, metas=metas, layout=wire.layout_out(run.layout), state=_state(found),
        ))  # fmt: skip

    def _begin(self, client: Client, said: wire.Message) -> None:
        """A pass over an acquisition."""
        token, key = said.text("token"), said.number("key")
        found = self.runs.get(key)
        if found is None:
            self.hub.send(client.name, wire.write("over", token=token, account=None, why="this acquisition is not remembered any more"))
            return
        run = found._run
        runs = said.array(0, "<i8", 2)
        if len(runs) > RUNS_OF_POSITIONS or (len(runs) and (runs.min() < 0 or runs.max() > run.n or (runs[:, 0] >= runs[:, 1]).any())):
            raise WireError(f"pass: runs of positions are not inside of a scan of {run.n}")
        frame_bytes = sum(m.shape.frame_size * m.dtype.itemsize for m in map(found.channel_meta, run.layout.channels))
        consumers = sum(s.client == client.name for s in self.hub.sessions.values())
        share = math.ceil(int((runs[:, 1] - runs[:, 0]).sum()) / (SHARES * max(1, consumers)))
        size = block_frames(frame_bytes, min(said.number("most", 1), max(1, share)), self.hub.block_bytes)
        hand_out = HandOut(run, [Partition(0, runs)], frame_bytes, size)
        client.passes[token] = Running(Pass(hand_out), key, wire.layout_out(run.layout), run.ring.data, frame_bytes)

    def _end(self, client: Client, token: str) -> None:
        running = client.passes.pop(token, None)
        if running is None:
            return
        running.work.close()
        self._n_given += running.work.n_given
        self._n_again += running.work.n_again
        for session in self.hub.sessions.values():
            if session.client == client.name:
                session.forget(token)
                self.hub.send(session.name, wire.write("end", token=token))

    def _give_again(self, client: Client, said: wire.Message) -> None:
        """The client takes nothing more of a lost session."""
        name = said.text("session")
        session = next((s for s in self.hub.former if s.id == name), None)
        arrived = said.head.get("arrived")
        arrived = arrived if isinstance(arrived, dict) else {}
        for token, running in client.passes.items():
            numbers = [n for n in arrived.get(token, []) if type(n) is int]
            blamed = [] if session is None else session.working_on(token)
            for block in running.work.lost(name, numbers, blamed):
                self.hub.problem(
                    f"{block.gone} frames were given up: {block.tries} consumers were lost while they had them. "
                    "They were killed from outside (out of memory?) or the UDF crashes the interpreter"
                )
                self._to_client(client, token, running.work, block)

    def _command(self, client: Client, said: wire.Message) -> None:
        """Arm, trigger, disarm: in a thread of its own, as the detector may take its time."""
        number, what, settings = said.number("id"), said.text("what"), said.head.get("settings") or {}
        source = self.hub.sources[client.source]

        def act() -> None:
            try:
                if what not in ("arm", "trigger", "disarm") or type(settings) is not dict:
                    raise LibstreamError(f"there is no command {what!r}")
                answer: Any = getattr(source, what)(**settings)
                reply = wire.write("done", id=number, answer=wire.plain(answer))
            except Exception as exc:  # noqa: BLE001  it is the client's
                reply = wire.write("done", id=number, error=type(exc).__name__, message=str(exc), trace="")
            self.hub.send_later(client.name, reply)

        threading.Thread(target=act, name="libstream-command", daemon=True).start()

    # -- blocks ------------------------------------------------------------------------------------------------------

    def _deal(self, client: Client, token: str, running: Running, now: float) -> None:
        work = running.work
        mine = [s for s in self.hub.sessions.values() if s.client == client.name]
        while any(s.takes(0) for s in mine) and (block := work.next()) is not None:
            if block.owner == CLIENT:
                self._to_client(client, token, work, block)
                continue
            session = self._whose(running, block, mine)
            if session is None:
                break
            head, parts = pack(block.partition, running.ring)
            sent = self.hub.send(session.name, wire.write("block", parts, token=token, layout=running.layout, **head))
            if not sent:
                mine.remove(session)
                self.hub.lose(session, "has gone")
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
        self.hub.send(client.name, wire.write("lost-frames", [wire.view(at), wire.view(codes)], token=token, number=block.number))

    # -- how it stands -----------------------------------------------------------------------------------------------

    def tell(self) -> None:
        for client in list(self.clients.values()):
            for key in {r.run for r in client.passes.values()} | set(list(self.runs)[-1:]):
                state = _state(self.runs[key]) if key in self.runs else None
                if state is not None and client.told.get(key) != state:
                    client.told = {**{k: v for k, v in client.told.items() if k in self.runs}, key: state}
                    self.hub.send(client.name, wire.write("state", key=key, state=state))
            for token, running in list(client.passes.items()):
                self._account(client, token, running)

    def _account(self, client: Client, token: str, running: Running, *, last: bool = False) -> None:
        account = wire.plain(running.work.account())
        if last:
            self.hub.send(client.name, wire.write("over", token=token, account=account, why=""))
            self._end(client, token)
        elif account != running.told:
            running.told = account
            self.hub.send(client.name, wire.write("account", token=token, account=account))


def _state(found: Acquisition) -> dict[str, Any]:
    counts = found.counts
    return {
        "state": found.state, "reason": found.reason, "notes": list(found.notes), "arrived": found.n_arrived, "newest": found.newest,
        "counts": {name: getattr(counts, name) for name in counts.__dataclass_fields__},
    }  # fmt: skip
