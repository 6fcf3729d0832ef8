"""What `ls.connect(..., executor=...)` gives: a live source behind a router, whose acquisitions are processed by consumers."""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from libstream import registry
from libstream.contracts.dealt import Consumers, KeepsConsumers
from libstream.errors import LibstreamError, NotArmed, UsageError
from libstream.model.source import SourceMeta
from libstream.route import wire
from libstream.route.acquisition import RoutedAcquisition
from libstream.route.consumer import RING_BYTES, RouteConsumer
from libstream.route.link import SILENT_S, Link

Describe = Callable[[SourceMeta], SourceMeta]

CONNECT_S = 20.0
"""Longest wait for the first answer of a router."""
CONSUMERS_S = 120.0
"""Longest wait for the first consumers, and longest time without any while blocks wait for one."""
KNOWN = 16


class RoutedSource:
    """A detector behind a router, used like a `LiveSource`: `for acquisition in live:`, `wait`, `arm`, `trigger`, `disarm`, `close`.

    Consumers run in the workers of `executor` from now on, until `close`; there is no restart between scans. `cluster()` says how router
    and consumers are.

    router: its address ("tcp://host:9880"). results: where consumers connect to this program. owned: what belongs to this source and is
    closed with it (a router that was started for it). consumers: how many have to be connected at first (default: all workers).
    wait_s: longest time without any consumer.

    Raises OSError where the router does not answer or no consumer connects in time, UsageError, LibstreamError where it refuses.
    """

    def __init__(
        self,
        uri: str,
        router: str,
        executor: Any,
        *,
        results: str,
        source: int = 0,
        curve: Mapping[str, Any] | None = None,
        consumers: int | None = None,
        ring_bytes: int = RING_BYTES,
        consumer_health: str = "",
        wait_s: float = CONSUMERS_S,
        silent_s: float = SILENT_S,
        describe: Describe = lambda meta: meta,
        owned: Any = None,
    ) -> None:
        if not isinstance(executor, KeepsConsumers):
            name = getattr(executor, "name", type(executor).__name__)
            raise UsageError(f"executor {name!r} has no workers that can take frames from a router; 'dask' has")
        self.uri, self.executor, self.wait_s, self._describe, self._owned = uri, executor, wait_s, describe, owned
        self._runs: OrderedDict[int, RoutedAcquisition] = OrderedDict()
        self._queue: deque[RoutedAcquisition | LibstreamError] = deque()
        self._asked = self._closed = False
        self._welcome: Mapping[str, Any] = {}
        self._said: deque[str] = deque(maxlen=50)
        self._welcome_at = 0.0
        self.n_acquisitions = 0
        mine, theirs = _keys(curve or {})
        self._link = Link(
            router, results, source=source, curve=mine, silent_s=silent_s, heard=_weak(self._heard), came=_weak(self._came),
            silent=_weak(self._silent),
        )  # fmt: skip
        self._changed = self._link.changed
        self._consumers: Consumers | None = None
        self._link.start()
        self._parts: list[Any] = [] if owned is None else [owned]
        self._forgotten = weakref.finalize(self, _leave, self._link, self._parts)
        self._forgotten.atexit = False
        try:
            self._wait_for_router()
            self._consumers = executor.keep(RouteConsumer(router, self._link.results, self._link.name, theirs, ring_bytes, consumer_health))
            n = int(self._consumers.status()["workers"]) if consumers is None else consumers
            self._parts.append(self._consumers)
            self.wait_for_consumers(max(1, n), wait_s)
        except BaseException:
            self.close()
            raise

    # -- connecting --------------------------------------------------------------------------------------------------

    def _wait_for_router(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._link.connected() or self._link.trouble, CONNECT_S)
            self._link.check()
            if not self._link.connected():
                raise OSError(
                    f"the router at {self._link.router} does not answer within {CONNECT_S:g} s; does `libstream route` run there, and do "
                    "the keys fit?"
                )

    def wait_for_consumers(self, n: int, timeout_s: float) -> int:
        """Until `n` consumers are connected to router and client; how many there are. Raises OSError where there are fewer by then."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while True:
                there = min(self.n_consumers, len(self._link.consumers))
                if there >= n:
                    return there
                error = "" if self._consumers is None else str(self._consumers.status().get("error", ""))
                if error:
                    raise LibstreamError(f"consumers do not start: {error}")
                if time.monotonic() >= until:
                    break
                self._changed.wait(0.1)
            status = {} if self._consumers is None else self._consumers.status()
            raise OSError(
                f"{there} of {n} consumers have connected within {timeout_s:g} s ({status.get('workers', 0)} workers, {self.n_consumers} "
                f"at the router, {len(self._link.consumers)} at this program): can the workers reach {self._link.router} and "
                f"{self._link.results}? Say other addresses with cluster={{'listen': ..., 'results': ...}}"
            )

    @property
    def n_consumers(self) -> int:
        """Consumers that are connected to the router."""
        return int(self._welcome.get("health", {}).get("consumers", 0))

    # -- what router and consumers say (in the thread of the link, `changed` held) ---------------------------------------

    def _heard(self, said: wire.Message) -> None:
        kind = said.kind
        if kind == "welcome":
            self._welcome, self._welcome_at = said.head, time.monotonic()
        elif kind == "acquisition":
            self._new_run(said)
        elif kind == "refused-run":
            self._asked = False
            self._queue.append(wire.read_error(said))
        elif kind == "state":
            if (found := self._runs.get(said.number("key"))) is not None:
                found._take_state(said.head.get("state"))
        elif kind == "lost":
            arrived = {
                p.token: numbers for a in self._runs.values() for p in a._passes.values() if (numbers := p.arrived(said.text("session")))
            }
            self._link.send("fenced", session=said.text("session"), arrived=arrived)
        elif "token" in said.head:
            token = said.text("token")
            for found in self._runs.values():
                if (one := found._passes.get(token)) is not None:
                    one._of_router(said)

    def _came(self, session: str, said: wire.Message) -> None:
        if said.kind == "consumer":
            return
        token = said.text("token")
        for found in self._runs.values():
            if (one := found._passes.get(token)) is not None:
                one._of_consumer(session, said)
                return
        if said.kind == "partial":
            self._link.tell(session, "got")  # of a pass that is over

    def _silent(self, why: str) -> None:
        self._say(why)
        self._asked = False
        for found in self._runs.values():
            found._router_lost(why)
        if self._owned is not None and not self._closed:
            threading.Thread(target=self._revive, name="libstream-revive", daemon=True).start()

    def _revive(self) -> None:
        """A router that was started for this source and has died is started again: the next scan shall work."""
        try:
            if self._owned.revive():
                self._say("the router had ended and was started again")
        except (LibstreamError, OSError) as exc:
            self._say(str(exc))

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.append(text)

    def _new_run(self, said: wire.Message) -> None:
        self._asked = False
        metas = [self._describe(wire.meta_in(m)) for m in said.head.get("metas") or []]
        layout = wire.layout_in(said.head.get("layout"))
        run = said.head.get("run")
        found = RoutedAcquisition(self._link, said.number("key"), run if isinstance(run, (int, str)) else str(run), metas, layout, self.uri,
                                  self._anybody)  # fmt: skip
        found._take_state(said.head.get("state"))
        self._runs[found._key] = found
        while len(self._runs) > KNOWN:
            self._runs.popitem(last=False)
        self._queue.append(found)
        self.n_acquisitions += 1

    def _anybody(self) -> tuple[int, float]:
        """(consumers at the router, longest time to wait for one)."""
        return self.n_consumers, self.wait_s

    # -- acquisitions ------------------------------------------------------------------------------------------------

    @property
    def meta(self) -> SourceMeta:
        """A live source has no shape yet. Raises NotArmed."""
        raise NotArmed(
            f"{self.uri} has no shape before an acquisition begins: use `for acquisition in live:` or `live.wait()`, and run UDFs on these"
        )

    def wait(self, timeout_s: float | None = None) -> RoutedAcquisition | None:
        """The next acquisition, once its first frame has arrived at the router; None after `timeout_s` seconds. As `LiveSource.wait`."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._queue:
                if self._closed:
                    raise LibstreamError(f"{self.uri} is closed")
                if not self._asked and self._link.connected():
                    self._asked = True
                    self._link.send("next")
                left = 0.5 if end is None else min(0.5, end - time.monotonic())
                if left <= 0:
                    return None
                self._changed.wait(left)
            found = self._queue.popleft()
        if isinstance(found, LibstreamError):
            raise found
        found._source = self
        return found

    def __iter__(self) -> Iterator[RoutedAcquisition]:
        """Acquisitions until this source is closed. One that could not begin is passed over: `problems` says why."""
        while True:
            try:
                found = self.wait()
            except LibstreamError as exc:
                if self._closed:
                    return
                self._say(str(exc))
                continue
            if found is not None:
                yield found

    # -- commands ----------------------------------------------------------------------------------------------------

    def arm(self, **settings: Any) -> int | str | None:
        """Apply settings and arm the detector, through the router. Raises UsageError, OSError."""
        answer: int | str | None = self._link.command("arm", settings)
        return answer

    def trigger(self) -> None:
        """Start the armed acquisition. Raises UsageError, OSError."""
        self._link.command("trigger", {})

    def disarm(self) -> None:
        """Stop the detector. Raises UsageError, OSError."""
        self._link.command("disarm", {})

    # -- how it stands -----------------------------------------------------------------------------------------------

    @property
    def can_arm(self) -> bool:
        """Whether the detector takes commands."""
        return bool(self._welcome.get("can_arm"))

    @property
    def state(self) -> str:
        """waiting, armed, running, draining or closed; "silent" where the router does not answer."""
        if self._closed:
            return "closed"
        return str(self._welcome.get("health", {}).get("state", "waiting")) if self._link.connected() else "silent"

    @property
    def address(self) -> str:
        """Where the detector connects."""
        return str(self._welcome.get("address", ""))

    @property
    def router(self) -> str:
        """Where the router is."""
        return self._link.router

    @property
    def problems(self) -> tuple[str, ...]:
        """The last things that went wrong, in words."""
        with self._changed:
            found = [*self._welcome.get("problems", ()), *self._welcome.get("health", {}).get("problems", ()), *self._said]
            if self._link.trouble:
                found.append(self._link.trouble)
            return tuple(dict.fromkeys(map(str, found)))[-50:]

    def status(self) -> dict[str, Any]:
        """As `LiveSource.status`, of the router's memory; up to a second old."""
        names = ("messages", "bytes", "frames", "duplicate", "dropped", "late", "surplus", "foreign", "malformed", "oversized", "arrived",
                 "announced", "waiting")  # fmt: skip
        base: dict[str, Any] = {**dict.fromkeys(names, 0), "run": None, "fill": 0.0, "blocked": False}
        base.update(self._welcome.get("status", {}))
        more = {"state": self.state, "address": self.address, "acquisitions": self.n_acquisitions, "problems": len(self.problems)}
        return {**base, **more, "recorded_bytes": base.get("recorded_bytes") or 0, "recording_error": base.get("recording_error")}

    def cluster(self) -> dict[str, Any]:
        """How router and consumers are: the dictionary of docs/reference/router.md."""
        found = dict(self._welcome.get("health", {}))
        if self.state in ("silent", "closed"):
            found["state"] = "silent"
        return found

    def close(self) -> None:
        """End consumers and connections, and the router that was started for this source. Idempotent."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._forgotten.detach()
        with ExitStack() as stack:
            if self._owned is not None:
                stack.callback(self._owned.close)
            if self._consumers is not None:
                stack.callback(self._consumers.close)
            stack.callback(self._link.close)

    def __enter__(self) -> RoutedSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<live {self.uri} by the router {self._link.router}: {self.state}, {self.n_consumers} consumers>"


def _weak(method: Callable[..., None]) -> Callable[..., None]:
    """The method, as long as its object lives: the thread of the link does not keep it alive."""
    found = weakref.WeakMethod(method)

    def call(*args: Any) -> None:
        if (bound := found()) is not None:
            bound(*args)

    return call


def _leave(link: Link, parts: list[Any]) -> None:
    """Nobody refers to the source any more, and nobody has closed it."""
    link.leave()

    def close() -> None:
        for one in parts:
            one.close()

    threading.Thread(target=close, name="libstream-leave", daemon=True).start()  # the garbage collector is not to wait


def _keys(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys of the client's two sockets, and of a consumer's, by "router" and "results", as texts: workers may not have the files.

    Towards the router both are clients with the same keys; for its consumers the client is a server that lets in itself only.
    """
    if not given:
        return {}, {}
    texts = registry.load("transports", "route").texts(given)
    router = {"secret": texts["secret"], "public": texts["public"], "server": texts["server"]}
    mine = {"secret": texts["secret"], "public": texts["public"]}
    own = texts["public"]
    return {"router": router, "results": {**mine, "clients": [own]}}, {"router": router, "results": {**mine, "server": own}}
