"""Messages over a plain TCP connection, for detectors that send a stream of bytes. Where a message begins and ends says a `Framing`.

A transport knows no protocol. A detector's module gives an object with two methods:

    class Lines:
        def cut(self, data: memoryview) -> tuple[int, int]:
            at = bytes(data).find(b"\\n")
            return (0, at + 1) if at >= 0 else (0, UNKNOWN)

        def reset(self) -> None:
            pass

    TcpTransport("192.168.0.7", 6342, listen=False, framing=Lines())
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from typing import Any

import numpy as np

from libstream.ext import Parts, Received, UsageError
from libstream.io_backends.streams._framing import UNKNOWN, Batch, Framing

__all__ = ["UNKNOWN", "Framing", "TcpTransport"]

_Arr = np.ndarray[Any, Any]

_STEP_S = 0.05
"""How often a waiting thread looks whether it shall stop."""
_LINGER_MS = 2
"""Silence that ends a batch."""
_LONGEST_S = 0.01
"""A batch ends that long after its first message."""
_BACK_OFF_S = (0.05, 1.0)
"""Pause between attempts to connect: the first and the longest."""
_CONNECT_S = 5.0
"""An attempt to connect is given up after this."""
_READ, _WRITE = 1, 4  # POLLIN, POLLOUT


class TcpTransport:
    """A `Transport` over one TCP connection.

    Args:
        host, port: where to connect to, or where to listen; port 0 listens at a free port.
        listen: wait for the peer, one at a time (others are closed at once), instead of connecting to it.
        framing: needed to receive; None for a transport that only sends (what the peer says is thrown away then).

    Used by one thread, except for `close`.
    """

    def __init__(self, host: str, port: int, *, listen: bool, framing: Framing | None = None) -> None:
        self.host, self.port, self.listen, self._framing = host.strip("[]"), port, listen, framing
        self.trouble = f"{host}:{port}: not connected yet"
        """Why there is no connection, in words; "" where there is one."""
        self._lock = threading.RLock()  # held by whoever uses the sockets
        self._stop = threading.Event()
        self._stop.set()
        self._places: list[Any] = []
        self._listener: socket.socket | None = None
        self._link: socket.socket | None = None
        self._underway: socket.socket | None = None  # a connection that is being made
        self._next_try = self._give_up = 0.0
        self._pause = _BACK_OFF_S[0]
        self._carry = memoryview(b"")  # received, and not cut into messages
        self._why = ""
        self._need = 0  # length of the message that `_carry` begins with, where it is known
        self._unsent: memoryview = memoryview(b"")  # the rest of a message

    # -- open, close -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Listen, or look up the host; raises OSError naming the address."""
        with self._lock:
            if not self._stop.is_set():
                return
            try:
                flags = socket.AI_PASSIVE if self.listen else 0
                self._places = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=flags)
            except OSError as exc:
                raise OSError(exc.errno, f"{self.host} is not known: {exc.strerror}; check the name, or give its number") from exc
            if self.listen:
                self._listener = self._bind()
                self.port = self._listener.getsockname()[1]
            self._next_try, self._pause = 0.0, _BACK_OFF_S[0]
            self._stop.clear()

    def _bind(self) -> socket.socket:
        family, kind, proto, _, place = self._places[0]
        listener = socket.socket(family, kind, proto)
        try:
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind(place)
            listener.listen(8)
        except OSError as exc:
            listener.close()
            hint = {
                errno.EADDRINUSE: "another program has this port: stop it, or take another port (0 finds a free one)",
                errno.EADDRNOTAVAIL: "this computer has no such address; 127.0.0.1 is always there, 0.0.0.0 stands for all of them",
                errno.EACCES: "ports below 1024 are for the administrator; take a higher one",
            }.get(exc.errno or 0, "check host and port")
            raise OSError(exc.errno, f"cannot listen at {self.host}:{self.port}: {exc.strerror}; {hint}") from exc
        return listener

    @property
    def address(self) -> str:
        """`tcp://host:port`; a port that was given as 0 is the real one after `open`."""
        return f"tcp://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def connected(self) -> bool:
        """Whether a connection stands, as far as is known."""
        return self._link is not None

    def close(self) -> None:
        """Close; the rest of a message that is underway is given up after a second. Idempotent; a thread that waits in `receive` or
        `send` leaves within 50 ms, before anything is closed."""
        self._stop.set()
        with self._lock:
            try:
                if self._link is not None and self._unsent:
                    self._link.settimeout(1.0)
                    self._link.sendall(self._unsent)
            except OSError:
                pass
            self._drop_link("closed")
            for sock in (self._listener, self._underway):
                if sock is not None:
                    sock.close()
            self._listener = self._underway = None

    # -- receive -----------------------------------------------------------------------------------------------------

    def receive(self, into: _Arr, table: _Arr, timeout_s: float, max_bytes: int) -> Received:
        """See `Transport.receive`; messages have one part. `full` speaks of `into` only, a full table just ends the call; a message
        that fits nowhere is offered again and again, so `into` must at some time have room for max_bytes and a prefix.
        closed: the connection ended after these messages; half a message that came before is forgotten, and the next call connects
        again. After `close` OSError (EBADF) is raised; a wait that `close` ends gives nothing."""
        if self._framing is None:
            raise UsageError(f"{self.address} was made for sending; receiving needs framing=")
        if into.dtype != np.uint8 or into.ndim != 1 or not into.flags.c_contiguous:
            raise UsageError(f"into is a contiguous row of uint8, got {into.dtype} of shape {into.shape}")
        with self._lock:
            self._check_open()
            batch = Batch(into, self._framing, self._carry, self._need, len(table), max_bytes)
            closed = False
            until, first_at, silent = time.monotonic() + timeout_s, 0.0, 0
            got = 1
            while batch.cut():
                now = time.monotonic()
                if batch.rows or batch.dropped:
                    first_at = first_at or now
                    silent = 0 if got > 0 else silent + 1
                    if now - first_at > _LONGEST_S or silent > _LINGER_MS:
                        break
                elif self._stop.is_set() or (now >= until and (got <= 0 or now >= until + _LONGEST_S)):
                    break
                if got < 0:
                    self._wait_link(_READ, 0.001 if first_at else min(_STEP_S, until - now))
                if self._link is None and not self._link_up(until):
                    break
                got = self._read(batch)
                if got == 0:
                    self._drop_link(self._why or "the other side closed the connection")
                    closed = True
                    break
            if not closed:
                self._carry, self._need = batch.rest(), batch.need
            if batch.rows:
                table[: len(batch.rows)] = batch.rows
            return Received(len(batch.rows), len(batch.rows), batch.used, batch.full, batch.dropped, closed)

    def _read(self, batch: Batch) -> int:
        """Bytes that were received; 0 at the end of the connection, -1 where there is nothing now."""
        self._why = ""
        try:
            got = self._link.recv_into(batch.free()) if self._link is not None else 0
        except (BlockingIOError, InterruptedError):
            return -1
        except OSError as exc:
            self._why = exc.strerror or str(exc)
            return 0
        batch.tail += got
        return got

    # -- send --------------------------------------------------------------------------------------------------------

    def send(self, parts: Parts, timeout_s: float, lane: int = 0) -> bool:
        """See `Transport.send`; parts follow each other without anything between. A message that was begun is waited for as long as the
        peer goes on taking something (each second, or each timeout_s); then it counts as sent, and the next call, `send([], ...)`
        too, sends the rest first. After a lost connection the message begins anew on the next one."""
        with self._lock:
            self._check_open()
            until = time.monotonic() + timeout_s
            while self._link is not None or self._link_up(until):
                try:
                    if self._framing is None:
                        self._hear_out()
                    if self._unsent:
                        self._unsent = self._push([self._unsent], until)
                        if self._unsent:
                            return False
                    views = [v for v in (memoryview(p).cast("B") for p in parts) if v.nbytes]
                    size = sum(v.nbytes for v in views)
                    rest = self._push(views, until, max(1.0, timeout_s))
                    if size and rest.nbytes == size:
                        return False
                    self._unsent = memoryview(bytes(rest))
                    return True
                except OSError as exc:
                    self._drop_link(exc.strerror or str(exc))
                    if self._stop.is_set():
                        return False
            return False

    def _push(self, views: list[memoryview], until: float, more_s: float = 0.0) -> memoryview:
        """Send; returns what could not be sent in time, in one piece. more_s: time after each bit that was taken."""
        while views:
            if self._link is None:
                raise ConnectionResetError(errno.ECONNRESET, "the connection was lost")
            try:
                sent = self._link.sendmsg(views[:64]) if hasattr(self._link, "sendmsg") else self._link.send(views[0])
            except (BlockingIOError, InterruptedError):
                now = time.monotonic()
                if now >= until or self._stop.is_set():
                    return views[0] if len(views) == 1 else memoryview(b"".join(views))
                self._wait_link(_WRITE, min(_STEP_S, until - now))
                continue
            if sent and more_s:
                until = max(until, time.monotonic() + more_s)
            while views and sent >= views[0].nbytes:
                sent -= views.pop(0).nbytes
            if sent:
                views[0] = views[0][sent:]
        return memoryview(b"")

    def _hear_out(self) -> None:
        """Throw away what the peer says, and notice that it went."""
        try:
            if self._link is not None and not self._link.recv(65536):
                raise ConnectionResetError(errno.ECONNRESET, "the other side closed the connection")
        except (BlockingIOError, InterruptedError):
            pass

    # -- the connection ----------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._stop.is_set():
            raise OSError(errno.EBADF, f"{self.address}: the connection was closed")

    def _link_up(self, until: float) -> bool:
        """Wait for a connection, making it where this side connects; whether there is one."""
        while not self._stop.is_set():
            if self._listener is not None:
                self._accept()
            else:
                self._connect()
            if self._link is not None:
                return True
            now = time.monotonic()
            if now >= until:
                return False
            wait = min(_STEP_S, until - now)
            if self._listener is not None:
                _poll([(self._listener, _READ)], wait)
            elif self._underway is not None:
                _poll([(self._underway, _WRITE)], wait)
            else:
                self._stop.wait(max(0.0, min(wait, self._next_try - now)))
        return False

    def _accept(self) -> None:
        try:
            link, _ = self._listener.accept() if self._listener is not None else (None, None)
        except OSError:  # nobody, or one that has gone again
            return
        if link is not None and self._link is not None:
            link.close()  # one peer at a time
        elif link is not None:
            self._adopt(link)

    def _connect(self) -> None:
        now = time.monotonic()
        if self._underway is None:
            if now < self._next_try:
                return
            family, kind, proto, _, place = self._places[0]
            self._places = self._places[1:] + self._places[:1]
            self._underway = socket.socket(family, kind, proto)
            self._underway.setblocking(False)
            self._give_up = now + _CONNECT_S
            error = self._underway.connect_ex(place)
        elif _poll([(self._underway, _WRITE)], 0.0):
            error = self._underway.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        else:
            error = errno.EINPROGRESS if now < self._give_up else errno.ETIMEDOUT
        if error in (errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK)):
            return
        link, self._underway = self._underway, None
        try:
            if error == 0 and not _to_itself(link):
                self._adopt(link)
                return
        except OSError as exc:  # connected, and gone
            error = exc.errno or errno.ECONNRESET
        link.close()
        self.trouble = f"{self.host}:{self.port}: {os.strerror(error or errno.ECONNREFUSED)}"
        self._next_try, self._pause = now + self._pause, min(2 * self._pause, _BACK_OFF_S[1])

    def _adopt(self, link: socket.socket) -> None:
        # SO_RCVBUF is left alone: Linux makes it grow to more than a program may ask for, unless the program asks
        link.setblocking(False)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):  # a peer that lost power or cable is noticed after 25 s
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._link, self.trouble, self._pause = link, "", _BACK_OFF_S[0]

    def _drop_link(self, why: str) -> None:
        if self._link is not None:
            self._link.close()
            self.trouble = f"{self.host}:{self.port}: {why}"
            self._next_try = time.monotonic() + self._pause
        self._link, self._unsent = None, memoryview(b"")
        self._carry, self._need = memoryview(b""), 0
        if self._framing is not None:
            self._framing.reset()

    def _wait_link(self, events: int, wait_s: float) -> None:
        """Wait for the connection; meanwhile close others that knock."""
        if self._link is None:
            return
        watched = [(self._link, events)] + ([(self._listener, _READ)] if self._listener is not None else [])
        ready = _poll(watched, wait_s)
        if self._listener is not None and ready == {self._listener.fileno()}:
            self._accept()


def _poll(watched: list[tuple[socket.socket, int]], wait_s: float) -> set[int]:
    """Descriptors that are ready, of sockets and what is waited for (_READ, _WRITE); errors are ready too."""
    if hasattr(select, "poll"):
        poll = select.poll()
        for sock, events in watched:
            poll.register(sock, events)
        return {fd for fd, _ in poll.poll(1000 * max(0.0, wait_s))}
    read, write = ([s for s, events in watched if events == kind] for kind in (_READ, _WRITE))
    return {s.fileno() for ready in select.select(read, write, write, max(0.0, wait_s)) for s in ready}


def _to_itself(link: socket.socket) -> bool:
    """Whether a connection met itself: possible where nobody listens at a port that the system gives to those who connect."""
    return link.getsockname() == link.getpeername()
