"""A consumer: connects outbound to the router and to the client, holds blocks, runs the tile loop, sends partial results."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from libstream import registry
from libstream.contracts.dealt import UnknownRunError, WorkOf
from libstream.contracts.source import Partition
from libstream.errors import CancelledError, WireError
from libstream.model.partial import Partial
from libstream.route import wire
from libstream.route.blocks import unpack
from libstream.route.passes import GROUP
from libstream.route.peers import Rate

PUBLISH_S = 0.05
"""Partial results are sent this often while there are some."""
BEAT_S = 0.5
SILENT_S = 30.0
"""A consumer whose client says nothing for that long ends."""
ROUTER_SILENT_S = 5.0
"""A router that says nothing for that long will have given up this consumer: it begins anew."""
WINDOW = 4
"""Messages with results that may be on their way to the client: a client that is slow gets fewer, larger ones."""
HELD_MAX = 16
"""Partial results that wait to be sent, before no more are computed."""
RING_BYTES = 256 << 20
IDLE_S = 0.02


@dataclass
class _Pass:
    """A run as this consumer knows it. ready: nodes of the merge tree that wait to be sent, by (level, i). apart: merging has failed."""

    token: str
    layout: Any
    blocks: deque[tuple[Partition, int, int]] = field(default_factory=deque)
    ready: dict[tuple[int, int], Partial] = field(default_factory=dict)
    freed: list[int] = field(default_factory=list)
    apart: bool = False
    failed: bool = False


@dataclass(frozen=True)
class RouteConsumer:
    """A `Consumer` of a router. Picklable; nothing is opened before `run`.

    router, results: addresses of the router and of the client. client: its name there. curve: keys towards both, by "router" and
    "results". ring_bytes: memory for blocks. health: HOST:PORT to serve health at, "" for none.
    """

    router: str
    results: str
    client: str
    curve: Mapping[str, Any] = field(default_factory=dict, repr=False)
    ring_bytes: int = RING_BYTES
    health: str = ""

    def run(self, work_of: WorkOf, n_threads: int, stopped: Callable[[], bool]) -> None:
        """See `Consumer.run`."""
        _Serving(self, work_of, max(1, n_threads), stopped).run()


class _Serving:
    """One consumer at work. The sockets are of the thread that called `run`; the others compute."""

    def __init__(self, how: RouteConsumer, work_of: WorkOf, n_threads: int, stopped: Callable[[], bool]) -> None:
        self.how, self.work_of, self.n_threads, self.stopped = how, work_of, n_threads, stopped
        self.changed = threading.Condition()
        self.passes: dict[str, _Pass] = {}
        self.over: deque[str] = deque(maxlen=256)  # passes that have ended: a block that was on its way means nothing
        self.failures: list[list[Any]] = []
        self.rate = Rate()
        self.n_held = self.held_bytes = self.window = 0
        self.last_error = ""
        self.leaving = False
        self.dues = 0.0

    # -- the thread of the sockets -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the end. Sessions follow one another: who is given up by the router begins anew."""
        threads = [threading.Thread(target=self._compute, name=f"libstream-consumer-{i}", daemon=True) for i in range(self.n_threads)]
        server = None
        if self.how.health:
            from libstream.route.health import HealthServer, of_consumer

            with contextlib.suppress(OSError):  # the router shows the same
                server = HealthServer(self.how.health, lambda: of_consumer(self._node()))
        for thread in threads:
            thread.start()
        try:
            while not self.leaving and not self.stopped():
                self._session()
        finally:
            with self.changed:
                self.leaving = True
                self.changed.notify_all()
            for thread in threads:
                thread.join(5.0)
            if server is not None:
                server.close()

    def _session(self) -> None:
        """Until this session is given up, or the end."""
        self.name = uuid.uuid4().hex.encode()
        self.boot = ""
        self.window = 0
        now = time.monotonic()
        self.router_heard = self.client_heard = now
        self.beat = 0.0
        self.going = True
        sockets = self.sockets = registry.load("transports", "route")()
        try:
            sockets.connect(self.how.router, self.name, curve=self.how.curve.get("router"), max_bytes=1 << 30)
            sockets.connect(self.how.results, self.name, curve=self.how.curve.get("results"))
            while self.going and not self.leaving and not self.stopped():
                self._turn()
            with contextlib.suppress(OSError):
                self._beat(time.monotonic())  # the last figures
                sockets.send(0, wire.write("bye"))
        except OSError as exc:
            self.last_error = str(exc)
            time.sleep(1.0)
        finally:
            with self.changed:  # whoever wakes the sockets holds this
                self.sockets = None
                for one in self.passes.values():
                    self._forget(one)
                self.passes.clear()
            sockets.close()

    def _turn(self) -> None:
        with self.changed:
            busy = bool(self.passes)
        self.sockets.wait(IDLE_S if not busy else PUBLISH_S / 5)
        for at in (0, 1):
            for _ in range(64):
                got = self.sockets.receive(at)
                if got is None:
                    break
                try:
                    said = wire.read(got[1])
                    self._of_router(said) if at == 0 else self._of_client(said)
                except WireError as exc:
                    self.last_error = f"a message was not understood: {exc}"
        now = time.monotonic()
        self._send(now)
        if now - self.beat >= BEAT_S:
            self.beat = now
            self._beat(now)

    def _beat(self, now: float) -> None:
        self.sockets.look_after(now)
        node = self._node()
        self.sockets.send(0, wire.write(
            "consumer", client=self.how.client, host=node["host"], pid=node["pid"], ring_bytes=self.how.ring_bytes,
            most=2 * self.n_threads + 2, frames=node["frames"], bytes=node["bytes"], frames_per_s=int(node["frames_per_s"]),
            bytes_per_s=int(node["bytes_per_s"]), last_error=self.last_error[:2000],
        ))  # fmt: skip
        self.sockets.send(1, wire.write("consumer", host=node["host"], pid=node["pid"]))
        if now - self.client_heard > SILENT_S:
            self.leaving = True
        if self.boot and now - self.router_heard > ROUTER_SILENT_S:
            self.going = False

    def _node(self) -> dict[str, Any]:
        frames_per_s, bytes_per_s = self.rate.look(time.monotonic())
        return {
            "name": f"{platform.node()}:{os.getpid()}", "role": "consumer", "host": platform.node(), "pid": os.getpid(),
            "state": "busy" if self.n_held else "idle", "frames": self.rate.frames, "bytes": self.rate.bytes,
            "frames_per_s": frames_per_s, "bytes_per_s": bytes_per_s, "fill": min(1.0, self.held_bytes / self.how.ring_bytes),
            "ring_bytes": self.how.ring_bytes, "blocks": self.n_held, "seen_s": 0.0, "last_error": self.last_error,
        }  # fmt: skip

    def _of_router(self, said: wire.Message) -> None:
        self.router_heard = time.monotonic()
        if said.kind == "block":
            self._block(said)
        elif said.kind == "end":
            self._end(said.text("token"))
        elif said.kind in ("welcome", "beat"):
            boot = said.text("boot")
            if self.boot and boot != self.boot:
                self.going = False  # another router at the same place, which knows nothing of this session
            self.boot = boot
        elif said.kind in ("fenced", "bye"):
            self.going = False
        elif said.kind == "refused":
            self.last_error = said.text("why", 20_000)

    def _of_client(self, said: wire.Message) -> None:
        self.client_heard = time.monotonic()
        if said.kind == "got":
            self.window -= 1
        elif said.kind == "bye":
            self.leaving = True
        elif said.kind == "fenced" and said.text("session") == self.name.decode():
            self.going = False

    def _block(self, said: wire.Message) -> None:
        token = said.text("token")
        with self.changed:
            if token in self.over:
                return
            one = self.passes.get(token)
            if one is None:
                one = self.passes[token] = _Pass(token, wire.layout_in(said.head.get("layout")))
            partition = unpack(said, one.layout)
            n_bytes = int(partition.held.size.sum(dtype="int64"))
            one.blocks.append((partition, n_bytes, len(partition.held.memory)))
            self.n_held += 1
            self.held_bytes += n_bytes
            self.changed.notify()

    def _end(self, token: str) -> None:
        with self.changed:
            self.over.append(token)
            one = self.passes.pop(token, None)
            if one is not None:
                self._forget(one)

    def _forget(self, one: _Pass) -> None:
        self.n_held -= len(one.blocks)
        self.held_bytes -= sum(n for _, n, _ in one.blocks)
        one.blocks.clear()
        one.ready.clear()

    def _send(self, now: float) -> None:
        """What has been computed, and which blocks are worked off."""
        out: list[list[Any]] = []
        freed: list[tuple[str, list[int]]] = []
        with self.changed:
            failures, self.failures = self.failures, []
            for one in self.passes.values():
                if one.freed:
                    freed.append((one.token, one.freed))
                    one.freed = []
                whole = len(one.ready) >= HELD_MAX
                if one.ready and (now >= self.dues or whole):
                    # whole groups first: a block alone may still be merged with its neighbours, so that a slow client has less to do
                    for at in sorted(one.ready, key=lambda at: (-at[0], at[1]))[: max(0, WINDOW - self.window - len(out))]:
                        out.append(wire.write_partial(one.token, one.ready.pop(at)))
            if out:
                self.dues = now + PUBLISH_S
                self.changed.notify_all()
        for token, numbers in freed:
            self.sockets.send(0, wire.write("freed", token=token, numbers=numbers))
        for message in (*out, *failures):
            self.sockets.send(1, message)
        self.window += len(out)

    # -- the threads that compute ------------------------------------------------------------------------------------

    def _compute(self) -> None:
        while True:
            with self.changed:
                found = None
                while found is None:
                    if self.leaving:
                        return
                    found = next((p for p in self.passes.values() if p.blocks and len(p.ready) < HELD_MAX), None)
                    if found is None:
                        self.changed.wait(0.5)
                partition, n_bytes, _ = found.blocks.popleft()
            self._process(found, partition)
            with self.changed:
                self.n_held -= 1
                self.held_bytes -= n_bytes
                found.freed.append(partition.number)
                self.rate.frames += partition.n_positions
                self.rate.bytes += n_bytes
                if self.sockets is not None:
                    self.sockets.wake()

    def _process(self, one: _Pass, partition: Partition) -> None:
        if one.failed:
            return
        try:
            work, cancel = self.work_of(one.token)
            partial = work.process(partition, cancel)
        except CancelledError:
            return
        except UnknownRunError as exc:
            self.last_error = str(exc)
            with self.changed:
                if self.passes.get(one.token) is one:  # it goes on: others take what is here
                    self.going = False
            return
        except Exception as exc:  # noqa: BLE001  of the UDF, or of whatever stands in its way: the client's to say
            one.failed = True
            self.last_error = f"{type(exc).__name__}: {exc}"
            with self.changed:
                self.failures.append(wire.write_error(one.token, exc, "".join(traceback.format_tb(exc.__traceback__))))
            return
        self._merge(one, work, partial)

    def _merge(self, one: _Pass, work: Any, partial: Partial) -> None:
        """Together with its neighbours, as far as they are here."""
        level, i = 0, partial.number
        while True:
            with self.changed:
                other = None
                if not one.apart and 2 << level <= GROUP:
                    other = one.ready.pop((level, i ^ 1), None)
                if other is None:
                    if self.passes.get(one.token) is one:
                        one.ready[level, i] = partial
                    return
            try:
                left, right = (other, partial) if i & 1 else (partial, other)
                partial = work.combine(left, right)
            except Exception:  # noqa: BLE001  of the UDF's merge: the client merges them, and its error is that of every executor
                with self.changed:
                    one.apart = True
                    one.ready[level, i ^ 1] = other
                    one.ready[level, i] = partial
                return
            level, i = level + 1, i >> 1
