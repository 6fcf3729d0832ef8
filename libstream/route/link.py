"""A client's connections: to the router, and from the consumers. One thread; everybody else speaks with it through this object."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from libstream import registry
from libstream.errors import LibstreamError, WireError
from libstream.route import wire

_log = logging.getLogger("libstream.route")

BEAT_S = 0.5
SILENT_S = 5.0
"""Silence after which a router is taken for gone."""
ANSWER_S = 30.0
"""Longest wait for the answer to a command."""
RESULT_MAX = 1 << 30
"""Largest array of a partial result."""


class Link:
    """Connections of a client.

    heard: called for each message of the router. came: for each message of a consumer, with its session. Both in the link's thread, with
    `changed` held; what they return is sent back. silent: called once when the router is taken for gone, with the reason.

    Raises OSError where `results` cannot be bound.
    """

    def __init__(
        self,
        router: str,
        results: str,
        *,
        source: int,
        curve: Mapping[str, Any],
        heard: Callable[[wire.Message], None],
        came: Callable[[str, wire.Message], None],
        silent: Callable[[str], None],
        silent_s: float = SILENT_S,
    ) -> None:
        self.router, self.source, self.silent_s = router, source, silent_s
        self.changed = threading.Condition()
        self.name = uuid.uuid4().hex
        self.boot = ""
        self.consumers: dict[str, float] = {}  # sessions that have spoken to the client, and when
        self.fenced: deque[str] = deque(maxlen=4096)
        self.trouble = ""
        self._heard, self._came, self._silent = heard, came, silent
        self._out: deque[tuple[int, bytes, list[Any]]] = deque()
        self._answers: dict[int, wire.Message | None] = {}
        self._n_commands = 0
        self._leaving = self._closed = False
        self._sockets = registry.load("transports", "route")()
        try:
            self._sockets.connect(router, self.name.encode(), curve=curve.get("router"))
            self._sockets.bind(results, curve=curve.get("results"), max_bytes=RESULT_MAX)
        except BaseException:
            self._sockets.close()
            raise
        self.results: str = self._sockets.address(1)
        self._thread = threading.Thread(target=self._loop, name="libstream-client", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    # -- for others; `changed` may be held -----------------------------------------------------------------------------

    def send(self, kind: str, parts: Any = (), /, **head: Any) -> None:
        """To the router, soon."""
        self._put(0, b"", wire.write(kind, parts, **head))

    def tell(self, session: str, kind: str, **head: Any) -> None:
        """To a consumer, soon."""
        self._put(1, session.encode(), wire.write(kind, **head))

    def _put(self, at: int, to: bytes, parts: list[Any]) -> None:
        with self.changed:
            self._out.append((at, to, parts))
            if not self._closed:
                self._sockets.wake()

    def command(self, what: str, settings: Mapping[str, Any]) -> Any:
        """A command to the detector, and its answer. Raises what it raised at the router, OSError where that does not answer."""
        with self.changed:
            self._n_commands += 1
            number = self._n_commands
            self._answers[number] = None
            self.send("command", id=number, what=what, settings=wire.plain(settings))
            self.changed.wait_for(lambda: self._answers[number] is not None or self._leaving, ANSWER_S)
            answer = self._answers.pop(number)
        if answer is None:
            raise OSError(f"the router at {self.router} did not answer to {what!r} within {ANSWER_S:g} s")
        if "error" in answer.head:
            raise wire.read_error(answer)
        return answer.head.get("answer")

    def leave(self) -> None:
        """End soon. Takes no lock: the garbage collector may call it."""
        self._leaving = True

    def close(self) -> None:
        """End; consumers are told. Idempotent."""
        with self.changed:
            self._leaving = True
            if not self._closed:
                self._sockets.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(10.0)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        beat = told = 0.0
        self._at = time.monotonic()
        try:
            while not self._leaving:
                try:
                    self._sockets.wait(BEAT_S / 5)
                    self._take(0)
                    self._take(1)
                    self._flush()
                    now = time.monotonic()
                    if now - beat >= BEAT_S:
                        beat = now
                        self._beat(now)
                    if now - self._at > self.silent_s and now - told > self.silent_s:
                        told = now
                        with self.changed:
                            self.boot = ""
                            self._silent(f"the router at {self.router} has not answered for {now - self._at:.3g} s")
                            self.changed.notify_all()
                except Exception as exc:  # noqa: BLE001  the next message is another one
                    _log.exception("the connection to the router at %s had an error", self.router)
                    self.trouble = f"{type(exc).__name__}: {exc}"
                    time.sleep(0.1)
            for session in self.consumers:
                self._sockets.send(1, wire.write("bye"), session.encode())
            self._sockets.send(0, wire.write("bye"))
        finally:
            with self.changed:
                self._closed = True
                self._silent("the live source was closed")
                self.changed.notify_all()
            self._sockets.close()

    def _beat(self, now: float) -> None:
        self._sockets.look_after(now)
        self._sockets.send(0, wire.write("client", source=self.source))
        with self.changed:
            for session, at in list(self.consumers.items()):
                if not self._sockets.send(1, wire.write("beat"), session.encode()) or now - at > 3 * self.silent_s:
                    del self.consumers[session]
                    self.send("gone", session=session)
                    self.changed.notify_all()

    def _flush(self) -> None:
        with self.changed:
            out, self._out = self._out, deque()
        for at, to, parts in out:
            self._sockets.send(at, parts, to)

    def _take(self, at: int) -> None:
        for _ in range(256):
            got = self._sockets.receive(at)
            if got is None:
                return
            peer, parts = got
            try:
                said = wire.read(parts)
                with self.changed:
                    if at == 0:
                        self._of_router(said)
                    else:
                        self._of_consumer(peer.decode("ascii", "replace"), said)
                    self.changed.notify_all()
            except WireError as exc:
                self.trouble = f"a message was not understood: {exc}"

    def _of_router(self, said: wire.Message) -> None:
        self._at = time.monotonic()
        if said.kind == "welcome":
            boot = said.text("boot")
            if self.boot and boot != self.boot:
                self._silent(f"the router at {self.router} was restarted")
            self.boot = boot
            self.trouble = ""
        elif said.kind == "bye":
            self._silent(f"the router at {self.router} was closed")
            self.boot = ""
        elif said.kind == "refused":
            self.trouble = said.text("why", 20_000)
        elif said.kind == "done":
            number = said.number("id")
            if number in self._answers:
                self._answers[number] = said
            return
        elif said.kind == "lost":
            session = said.text("session")
            self.fenced.append(session)
            self.consumers.pop(session, None)
        self._heard(said)

    def _of_consumer(self, session: str, said: wire.Message) -> None:
        if session in self.fenced:
            self._out.append((1, session.encode(), wire.write("fenced", session=session)))
            return
        self.consumers[session] = time.monotonic()
        self._came(session, said)

    def connected(self) -> bool:
        """The router answers."""
        return bool(self.boot)

    def check(self) -> None:
        """Raise LibstreamError where the router refuses this client."""
        if self.trouble and not self.boot:
            raise LibstreamError(f"the router at {self.router} refuses: {self.trouble}")
