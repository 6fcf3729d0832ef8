"""Messages over ZeroMQ: PULL and PUSH sockets, bound or connected, one or several. The only module that imports zmq.

What libzmq does by itself: queues, waiting, connecting again. What is done here:

- bounds: messages queued (`hwm`), bytes of a part (`max_bytes`, MAXMSGSIZE), bytes of a message (`receive`), parts of a message
  (rows of the table). A part that is announced larger than `max_bytes` makes libzmq drop the connection before it allocates
  anything. A bound socket is connected to again by the sender. A connected socket is given up by libzmq after such a breach of
  protocol (it connects again after network errors only), so the transport looks for that and connects it anew.
- what cannot be bounded: libzmq gathers the parts of a message until the last one came, however many there are. Who is not
  trusted is kept out with keys (`curve`).
- receiving in a compiled loop without the GIL (`_zmq_native`), where libzmq's functions can be found in the pyzmq wheel.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from libstream.ext import Parts, Received, UsageError
from libstream.io_backends.streams._curve import Doorman, Keys
from libstream.io_backends.streams._zmq_plain import BURST, PlainLoop, Taken

__all__ = ["BURST", "HWM", "MAX_BYTES", "ZmqTransport"]

_Arr = np.ndarray[Any, Any]

HWM = 128
"""Messages that libzmq may hold for a socket; 21 MB of 4D Camera sectors. The queue that matters is the ring behind."""
MAX_BYTES = 256 * 1024 * 1024
"""Largest part of a message; 8192 x 8192 pixels of 32 bits."""

_STEP_S = 0.05
"""How often a waiting thread looks whether it shall stop."""
_WATCH_S = 0.5
"""How often connections are looked after; one that was lost and is not tried again for that long is made anew."""


class ZmqTransport:
    """A `Transport` over ZeroMQ sockets of one kind, one for each address (`lane` = index of the address).

    Args:
        addresses: one address or several, such as "tcp://127.0.0.1:9999"; port 0 binds a free port.
        kind: "pull" to receive, "push" to send.
        bind: wait for others at these addresses, instead of connecting to them.
        hwm: messages that libzmq may queue for each socket; with the sockets of the system what a sender may be ahead.
        max_bytes: largest part that libzmq accepts, on receiving.
        curve: keys, see `Keys.parse`: {"secret", "clients"} where this side binds, {"secret", "server"} where it connects. With
            keys, only encrypted connections are accepted; with clients=, only those of these public keys.
        loop: "compiled", "plain", or "auto" for compiled where libzmq can be reached.

    Raises UsageError for arguments that cannot work. Used by one thread, except for `close`.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        kind: Literal["pull", "push"] = "pull",
        bind: bool,
        hwm: int = HWM,
        max_bytes: int = MAX_BYTES,
        curve: Mapping[str, Any] | None = None,
        loop: Literal["auto", "compiled", "plain"] = "auto",
    ) -> None:
        self.asked = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        if not self.asked:
            raise UsageError("a transport needs at least one address, such as tcp://127.0.0.1:9999")
        if kind not in ("pull", "push"):
            raise UsageError(f"kind is 'pull' or 'push', got {kind!r}")
        if loop not in ("auto", "compiled", "plain"):
            raise UsageError(f"loop is 'auto', 'compiled' or 'plain', got {loop!r}")
        if hwm < 1 or max_bytes < 1:
            raise UsageError(f"hwm and max_bytes are at least 1, got {hwm} and {max_bytes}: without limits a sender could fill the memory")
        self.kind, self.bind, self.hwm, self.max_bytes = kind, bind, hwm, max_bytes
        self._keys = None if curve is None else Keys.parse(curve, bind=bind)
        self._which = loop
        self._lock = threading.RLock()  # held by whoever uses the sockets
        self._stop = np.zeros(1, np.int64)
        self._addresses = self.asked
        self._context: Any = None
        self._sockets: list[Any] = []
        self._watched: list[_Watch] = []
        self._doorman: Doorman | None = None
        self._loop: Any = None
        self._lanes = np.zeros(0, np.int64)
        self._watch_at = 0.0

    # -- open, close -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Bind or connect, and have the receiving loop compiled or loaded. Raises OSError naming the address."""
        import zmq

        with self._lock:
            if self._context is not None:
                return
            self._stop[0] = 0
            self._context = zmq.Context(io_threads=1)
            try:
                self._guard()
                self._addresses = tuple(self._attach(zmq, address) for address in self.asked)
                if self.kind == "pull":
                    self._loop = self._make_loop()
            except BaseException:
                self.close()
                raise

    def _guard(self) -> None:
        if self._keys is None or self._keys.clients is None:
            return
        import zmq
        from zmq.utils import z85

        socket = self._context.socket(zmq.REP)
        try:
            socket.bind("inproc://zeromq.zap.01")
        except BaseException:
            socket.close(0)
            raise
        self._doorman = Doorman(socket, self._keys.clients, z85.encode, zmq.ContextTerminated)

    def _attach(self, zmq: Any, address: str) -> str:
        socket = self._context.socket(zmq.PULL if self.kind == "pull" else zmq.PUSH)
        self._sockets.append(socket)
        socket.setsockopt(zmq.LINGER, 1000)
        socket.setsockopt(zmq.RCVHWM, self.hwm)
        socket.setsockopt(zmq.SNDHWM, self.hwm)
        harden(zmq, socket, address, self.max_bytes)
        if self.kind == "push":
            socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for a peer that is not there
        if self._keys is not None:
            self._encrypt(zmq, socket, self._keys)
        try:
            if self.bind:
                socket.bind(address)
                return socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
            self._watched.append(_Watch(zmq, self._context, socket, address))
            socket.connect(address)
            return address
        except zmq.ZMQError as exc:
            raise _os_error(exc, address, "bind" if self.bind else "connect to") from exc

    def _encrypt(self, zmq: Any, socket: Any, keys: Keys) -> None:
        if not zmq.has("curve"):
            raise UsageError(
                "this build of pyzmq has no CURVE encryption; the wheels of pypi.org have it: pip install --force-reinstall pyzmq"
            )
        public = keys.public.encode() or zmq.curve_public(keys.secret.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
        if self.bind:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.ZAP_DOMAIN, b"libstream")
        else:
            socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server.encode())

    def _make_loop(self) -> Any:
        if self._which != "plain":
            try:
                import zmq.backend.cython._zmq as extension

                from libstream.io_backends.streams._zmq_native import NativeLoop

                return NativeLoop(extension.__file__ or "", self._sockets, self._stop)
            except (ImportError, OSError):  # another build of pyzmq, or another system
                if self._which == "compiled":
                    raise
        return PlainLoop(self._sockets, self._stop)

    @property
    def compiled(self) -> bool:
        """Whether the loop that receives is compiled; known after `open`."""
        return self._loop is not None and not isinstance(self._loop, PlainLoop)

    @property
    def address(self) -> str:
        """The addresses in use, with commas; ports that were given as 0 are the real ones after `open`."""
        return ",".join(self._addresses)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The same, one for each lane."""
        return self._addresses

    @property
    def trouble(self) -> str:
        """Why there is no connection, in words, "" where there is one or nothing is known (bound sockets). Half a second old, and
        only as long as `receive` or `send` are called."""
        return "; ".join(w.trouble for w in self._watched if w.trouble)

    def close(self) -> None:
        """Close the sockets; what is unsent is given up after a second. Idempotent; a thread that waits in `receive` or `send` leaves
        within 50 ms, before anything is closed."""
        self._stop[0] = 1
        with self._lock:
            context, self._context = self._context, None
            if context is None:
                return
            if self._loop is not None:
                self._loop.release()
            self._loop = None
            for watch in self._watched:
                watch.close()
            for socket in self._sockets:
                socket.close()
            self._sockets, self._watched = [], []
            context.term()  # waits for LINGER, and ends the doorman
            if self._doorman is not None:
                self._doorman.join()
                self._doorman = None

    # -- receive, send -----------------------------------------------------------------------------------------------

    def receive(self, into: _Arr, table: _Arr, timeout_s: float, max_bytes: int) -> Received:
        """See `Transport.receive`. Besides: a message of more parts than the table has rows is thrown away and counted too;
        `full` speaks of `into` only, a full table just ends the call; into must at some time have room for max_bytes, as a message
        that fits nowhere is offered again and again. After `close` OSError (EBADF) is raised; a wait that `close` ends gives nothing."""
        if self.kind != "pull":
            raise UsageError(f"{self.address} is a sending socket (kind='push'); receive needs kind='pull'")
        if into.dtype != np.uint8 or into.ndim != 1 or not into.flags.c_contiguous:
            raise UsageError(f"into is a contiguous row of uint8, got {into.dtype} of shape {into.shape}")
        if table.dtype != np.int64 or table.ndim != 2 or table.shape[1] != 3 or not table.flags.c_contiguous:
            raise UsageError(f"table is a contiguous array of int64, shape (k, 3), got {table.dtype} of shape {table.shape}")
        with self._lock:
            until = time.monotonic() + timeout_s
            if len(self._lanes) < len(table):
                self._lanes = np.zeros(len(table), np.int64)
            while True:
                if self._loop is None:
                    raise OSError(errno.EBADF, f"{self.address}: the connection was closed")
                wait = max(0.0, until - time.monotonic())
                # connections are looked after now and then while waiting
                got: Taken = self._loop.receive(into, table, self._lanes, min(wait, _WATCH_S) if self._watched else wait, max_bytes)
                if got.error and not got.messages:
                    raise OSError(got.error, f"{self.address}: receiving failed: {os.strerror(got.error)}")
                self._look_after()
                if got.messages or got.full or got.dropped or self._stop[0] or wait <= _WATCH_S:
                    lane = self._lanes[: got.messages].copy() if len(self._sockets) > 1 else None
                    return Received(got.messages, got.rows, got.used, got.full, got.dropped, False, lane)

    def send(self, parts: Parts, timeout_s: float, lane: int = 0) -> bool:
        """See `Transport.send`. True: libzmq has the message, and a peer is connected; it may be underway for long."""
        import zmq

        if self.kind != "push":
            raise UsageError(f"{self.address} is a receiving socket (kind='pull'); send needs kind='push'")
        with self._lock:
            if self._context is None:
                raise OSError(errno.EBADF, f"{self.address}: the connection was closed")
            socket = self._sockets[lane]
            until = time.monotonic() + timeout_s
            while True:
                self._look_after()
                try:
                    # copied: referring to buffers costs a thread of pyzmq and one round through it a message
                    socket.send_multipart(parts, zmq.DONTWAIT, copy=True)
                    return True
                except zmq.Again:
                    pass
                except zmq.ZMQError as exc:
                    raise _os_error(exc, self.address, "send to") from exc
                wait = until - time.monotonic()
                if wait <= 0 or self._stop[0]:
                    return False
                socket.poll(max(1, int(1000 * min(wait, _STEP_S))), zmq.POLLOUT)

    def _look_after(self) -> None:
        """Connect anew what libzmq gave up."""
        if self._watched and (now := time.monotonic()) >= self._watch_at:
            self._watch_at = now + _WATCH_S
            for watch in self._watched:
                watch.look(now)


def harden(zmq: Any, socket: Any, address: str, max_bytes: int) -> None:
    """What every socket needs whose peers may say nothing, vanish, or send more than `max_bytes` in a message part."""
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)  # peers that connect and say nothing
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    # a peer that lost power or cable is noticed after 25 s
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    if "[" in address:
        socket.setsockopt(zmq.IPV6, 1)


def _os_error(exc: Any, address: str, doing: str) -> OSError:
    number = exc.errno or errno.EIO
    hint = {
        errno.EADDRINUSE: "another program has this port: stop it, or take another port (0 finds a free one)",
        errno.EADDRNOTAVAIL: "this computer has no such address; 127.0.0.1 is always there, 0.0.0.0 stands for all of them",
        errno.ENODEV: "this computer has no such address or interface; 127.0.0.1 is always there, 0.0.0.0 stands for all of them",
        errno.EACCES: "ports below 1024 are for the administrator; take a higher one",
        errno.EINVAL: "an address looks like tcp://host:port",
        errno.EPROTONOSUPPORT: "an address looks like tcp://host:port",
    }.get(number, "check host and port")
    return OSError(number, f"cannot {doing} {address}: {exc.strerror or exc}; {hint}")


class _Watch:
    """Sees whether libzmq goes on connecting a socket, and connects it where it does not (see the text of the module)."""

    def __init__(self, zmq: Any, context: Any, socket: Any, address: str) -> None:
        self._zmq, self._socket, self._address = zmq, socket, address
        self._bad = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        self._bad |= zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        self._goes_on = zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CONNECT_DELAYED | zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
        where = f"inproc://watch-{id(self)}"
        socket.monitor(where, self._bad | self._goes_on)
        self._events = context.socket(zmq.PAIR)
        self._events.setsockopt(zmq.RCVHWM, 0)  # libzmq's own thread waits for room here, so there always is some
        self._events.setsockopt(zmq.LINGER, 0)
        self._events.connect(where)
        self._lost_at: float | None = None
        self._greeted = False
        self.trouble = f"{address}: not connected yet"

    def look(self, now: float) -> None:
        zmq = self._zmq
        while True:
            try:
                event, _ = self._events.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            number = int.from_bytes(event[:2], "little")
            if number & self._bad:
                self._lost_at = now
                text = "the connection was lost" if self._greeted else "no ZeroMQ socket of the right kind is there, or its keys are others"
                self.trouble = f"{self._address}: {text}"
            elif number & self._goes_on:
                self._lost_at = None
                if number == zmq.EVENT_CONNECTED:
                    self._greeted = False
                elif number == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self._greeted, self.trouble = True, ""
        if self._lost_at is not None and now - self._lost_at >= _WATCH_S / 2:
            self._lost_at = now
            try:
                self._socket.disconnect(self._address)
            except zmq.ZMQError:
                pass  # libzmq has forgotten it
            try:
                self._socket.connect(self._address)
            except zmq.ZMQError as exc:
                raise _os_error(exc, self._address, "connect to") from exc

    def close(self) -> None:
        self._socket.disable_monitor()
        self._events.close(0)
