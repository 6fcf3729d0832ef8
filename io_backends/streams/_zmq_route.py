"""Sockets of routers, consumers and clients: ROUTER where they bind, DEALER where they connect. All of one thread, which can be woken.

Nothing here waits for a peer: what is sent is queued by libzmq, and how much that may be is for the protocol above to say (credits).
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping, Sequence
from typing import Any

from libstream.ext import UsageError
from libstream.io_backends.streams._curve import Doorman, Keys
from libstream.io_backends.streams._zmq import _os_error, _Watch, harden

MAX_BYTES = 64 << 20
"""Largest part of a message that is accepted where nothing else is said."""
MAX_PARTS = 4096
_ZERO_COPY = 1 << 16
"""Parts from here on are sent from where they are."""


class RouteSockets:
    """A few sockets of one thread. Make them with `bind` and `connect`, which return the number of the socket."""

    def __init__(self) -> None:
        import zmq

        self._zmq = zmq
        self._context: Any = zmq.Context(io_threads=1)
        self._sockets: list[Any] = []
        self._made_sockets: list[Any] = []  # with those that could not be bound: one left open keeps the context from ending
        self._watched: list[_Watch] = []
        self._binds: list[bool] = []
        self._addresses: list[str] = []
        self._doorman: Doorman | None = None
        self._poller = zmq.Poller()
        self._wake_out, self._wake_in = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        self._wake_out.bind("inproc://wake")
        self._wake_in.connect("inproc://wake")
        self._poller.register(self._wake_out, zmq.POLLIN)

    @staticmethod
    def texts(given: Mapping[str, Any]) -> dict[str, str]:
        """The keys of a client, {"secret", "server"}, each a text or a key file, as texts, with "public". Raises UsageError."""
        import zmq

        keys = Keys.parse(given, bind=False)
        public = keys.public or zmq.curve_public(keys.secret.encode()).decode()
        return {"secret": keys.secret, "public": public, "server": keys.server}

    def bind(self, address: str, *, curve: Mapping[str, Any] | None = None, max_bytes: int = MAX_BYTES) -> int:
        """A socket to which many connect. curve: {"secret", "clients"}. Raises OSError, UsageError."""
        zmq = self._zmq
        keys = None if curve is None else Keys.parse(curve, bind=True)
        if keys is not None and keys.clients is not None:
            from zmq.utils import z85

            if self._doorman is not None:
                raise UsageError("only one socket of a process can have a list of clients")
            door = self._context.socket(zmq.REP)
            door.bind("inproc://zeromq.zap.01")
            self._doorman = Doorman(door, keys.clients, z85.encode, zmq.ContextTerminated)
        socket = self._made(zmq.ROUTER, address, keys, max_bytes)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        if keys is not None:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.ZAP_DOMAIN, b"libstream")
        try:
            socket.bind(address)
        except zmq.ZMQError as exc:
            raise _os_error(exc, address, "bind") from exc
        return self._keep(socket, socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"), True)

    def connect(self, address: str, name: bytes, *, curve: Mapping[str, Any] | None = None, max_bytes: int = MAX_BYTES) -> int:
        """A socket that is known as `name` at the other side. curve: {"secret", "server"}. Raises OSError, UsageError."""
        zmq = self._zmq
        keys = None if curve is None else Keys.parse(curve, bind=False)
        socket = self._made(zmq.DEALER, address, keys, max_bytes)
        socket.setsockopt(zmq.ROUTING_ID, name)
        if keys is not None:
            socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server.encode())
        try:
            self._watched.append(_Watch(zmq, self._context, socket, address))
            socket.connect(address)
        except zmq.ZMQError as exc:
            raise _os_error(exc, address, "connect to") from exc
        return self._keep(socket, address, False)

    def _made(self, kind: int, address: str, keys: Keys | None, max_bytes: int) -> Any:
        zmq = self._zmq
        socket = self._context.socket(kind)
        self._made_sockets.append(socket)
        socket.setsockopt(zmq.LINGER, 200)
        socket.setsockopt(zmq.RCVHWM, 0)  # credits say how much is on its way
        socket.setsockopt(zmq.SNDHWM, 0)
        harden(zmq, socket, address, max_bytes)
        if keys is not None:
            if not zmq.has("curve"):
                raise UsageError("this build of pyzmq has no CURVE encryption; the wheels of pypi.org have it")
            socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode() or zmq.curve_public(keys.secret.encode()))
            socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
        return socket

    def _keep(self, socket: Any, address: str, binds: bool) -> int:
        self._sockets.append(socket)
        self._addresses.append(address)
        self._binds.append(binds)
        self._poller.register(socket, self._zmq.POLLIN)
        return len(self._sockets) - 1

    def address(self, at: int) -> str:
        """The address in use, with the real port where 0 was given."""
        return self._addresses[at]

    def wait(self, timeout_s: float) -> None:
        """Until something can be received, `wake` is called, or the time is over."""
        with contextlib.suppress(self._zmq.ZMQError):  # a signal: its handler shall run
            self._poller.poll(max(0, int(1000 * timeout_s)))
        with contextlib.suppress(self._zmq.Again):
            while True:
                self._wake_out.recv(self._zmq.DONTWAIT)

    def receive(self, at: int) -> tuple[bytes, list[Any]] | None:
        """(peer, parts) of the next message of socket `at`, or None; peer is b"" where this side connected. Parts are memoryviews.

        Messages of more parts than `MAX_PARTS` are given as no parts.
        """
        try:
            frames = self._sockets[at].recv_multipart(self._zmq.DONTWAIT, copy=False)
        except self._zmq.Again:
            return None
        peer = b""
        if self._binds[at]:
            peer, frames = frames[0].bytes, frames[1:]
        return peer, [] if len(frames) > MAX_PARTS else [f.buffer for f in frames]

    def send(self, at: int, parts: Sequence[Any], to: bytes = b"") -> bool:
        """Queue a message; False where there is no such peer any more. Large parts are sent from where they are: leave them alone."""
        zmq = self._zmq
        message: list[Any] = [to, *parts] if self._binds[at] else list(parts)
        try:
            if max(map(_size, parts)) < _ZERO_COPY:
                self._sockets[at].send_multipart(message, zmq.DONTWAIT, copy=True)
            else:
                frames = [p if _size(p) < _ZERO_COPY else zmq.Frame(p, copy=False) for p in message]
                self._sockets[at].send_multipart(frames, zmq.DONTWAIT, copy=False)
            return True
        except zmq.ZMQError as exc:
            if exc.errno in (errno.EHOSTUNREACH, errno.EAGAIN):
                return False
            raise _os_error(exc, self._addresses[at], "send to") from exc

    def wake(self) -> None:
        """End a `wait`. Called from one other thread at a time (its caller holds a lock)."""
        with contextlib.suppress(self._zmq.ZMQError):
            self._wake_in.send(b"", self._zmq.DONTWAIT)

    def look_after(self, now: float) -> None:
        """Connect anew what libzmq gave up. Call it now and then."""
        for watch in self._watched:
            watch.look(now)

    def close(self) -> None:
        """Close all. The owning thread calls it, and nobody calls `wake` any more."""
        for watch in self._watched:
            watch.close()
        for socket in (*self._made_sockets, self._wake_in, self._wake_out):
            socket.close()
        self._sockets, self._made_sockets, self._watched = [], [], []
        self._context.term()
        if self._doorman is not None:
            self._doorman.join()


def _size(part: Any) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)
