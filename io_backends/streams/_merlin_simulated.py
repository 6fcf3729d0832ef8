"""A control port for what replay sends as a Merlin, so that programs of others can set, start and stop it as they would a detector."""

from __future__ import annotations

import re
import selectors
import socket
import threading

_COMMAND = re.compile(rb"MPX,(\d{10}),")
_LONGEST = 4096
_STEP_S = 0.05
SOFT = "5"
"""TRIGGERSTART for a software trigger."""
COUNTERDEPTHS = ("1", "6", "12", "24")


class ControlServer:
    """Answers GET, SET and CMD, from a thread of its own.

    settings: the parameters that clients see and set. What is sent is what the source holds: a setting changes nothing but the
    answer to the next GET, except TRIGGERSTART = 5, which makes the first frame wait for SOFTTRIGGER.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host.strip("[]"), port
        self.settings = {
            "IMAGEX": "0", "IMAGEY": "0", "COUNTERDEPTH": "12", "NUMFRAMESTOACQUIRE": "0", "FILEFORMAT": "0", "TRIGGERSTART": "0"
        }  # fmt: skip
        self.stopped = False
        self._changed = threading.Condition()
        self._started = self._running = self._triggered = False
        self._n_frames = 0
        self._closing = threading.Event()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    # -- for the sender ----------------------------------------------------------------------------------------------

    def wait_started(self, timeout_s: float) -> bool:
        """Whether a client has started an acquisition that has not begun yet. The one before is over."""
        with self._changed:
            self._running = False
            return self._changed.wait_for(lambda: self._started, timeout_s)

    def wait_triggered(self, timeout_s: float) -> bool:
        """Whether frames may be sent; False also where the acquisition was stopped meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._triggered or self.stopped or self.settings["TRIGGERSTART"] != SOFT, timeout_s)
            return not self.stopped and (self._triggered or self.settings["TRIGGERSTART"] != SOFT)

    def begun(self, n_frames: int) -> None:
        """The header was sent."""
        with self._changed:
            self._started, self._running, self.stopped, self._n_frames = False, True, False, n_frames

    def sent(self, number: int) -> None:
        """Frame `number` (from 1) was sent."""
        if number == self._n_frames:
            with self._changed:
                self._running = False

    # -- the port ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Listen. Raises OSError naming the address."""
        if self._listener is not None:
            return
        try:
            self._listener = socket.create_server((self.host, self.port))
        except OSError as exc:
            raise OSError(exc.errno, f"cannot listen at {self.host}:{self.port}: {exc.strerror}; take another control port") from exc
        self.port = self._listener.getsockname()[1]
        self._closing.clear()
        self._thread = threading.Thread(target=self._serve, name="merlin-control", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where clients connect to; a port that was given as 0 is the real one after `open`."""
        return f"tcp://{self.host}:{self.port}"

    def close(self) -> None:
        """End the thread, close all connections. Idempotent."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._thread = self._listener = None

    def _serve(self) -> None:
        listener = self._listener
        if listener is None:
            return
        with selectors.DefaultSelector() as ready, listener:
            listener.setblocking(False)
            ready.register(listener, selectors.EVENT_READ)
            pending: dict[socket.socket, bytes] = {}
            while not self._closing.is_set():
                for key, _ in ready.select(_STEP_S):
                    client = key.fileobj
                    if client is listener:
                        self._accept(listener, ready, pending)
                    elif isinstance(client, socket.socket) and not self._hear(client, pending):
                        ready.unregister(client)
                        del pending[client]
                        client.close()
            for client in pending:
                client.close()

    def _accept(self, listener: socket.socket, ready: selectors.BaseSelector, pending: dict[socket.socket, bytes]) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # gone again
            return
        client.settimeout(1.0)
        ready.register(client, selectors.EVENT_READ)
        pending[client] = b""

    def _hear(self, client: socket.socket, pending: dict[socket.socket, bytes]) -> bool:
        """Answer what came; False where the connection ended or says nothing that could be a command."""
        try:
            more = client.recv(_LONGEST)
            data = pending[client] + more
            while (found := _COMMAND.match(data)) is not None and len(data) >= found.end() + max(0, int(found[1]) - 1):
                end = found.end() + max(0, int(found[1]) - 1)
                if end > _LONGEST:
                    return False
                reply = self.answer(data[found.end() : end].decode("latin-1")).encode("latin-1")
                client.sendall(b"MPX,%010d,%b" % (len(reply) + 1, reply))
                data = data[end:]
        except OSError:
            return False
        pending[client] = data
        return bool(more) and len(data) <= _LONGEST and (len(data) < 15 or _COMMAND.match(data) is not None)

    def answer(self, command: str) -> str:
        """Reply to one command, without its prefix."""
        kind, name, value = [w.strip() for w in [*command.split(",", 2), "", ""][:3]]
        with self._changed:
            try:
                if kind == "GET":
                    found = self.settings.get(name.upper())
                    return f"GET,{name},{found if found is not None else 0},{0 if found is not None else 2}"
                if kind == "SET":
                    return f"SET,{name},{self._set(name.upper(), value)}"
                if kind == "CMD":
                    return f"CMD,{name},{self._command(name.upper())}"
            finally:
                self._changed.notify_all()
        return f"{kind},{name},2"

    def _set(self, name: str, value: str) -> int:
        if name not in self.settings:
            return 2
        if self._running:
            return 1
        if not re.fullmatch(r"\d{1,10}", value, re.ASCII) or (name == "COUNTERDEPTH" and value not in COUNTERDEPTHS):
            return 3
        self.settings[name] = value
        return 0

    def _command(self, name: str) -> int:
        if name == "STARTACQUISITION":
            if self._running or self._started:
                return 1
            self._started, self._triggered = True, False
        elif name == "STOPACQUISITION":
            self.stopped = self.stopped or self._running
            self._started = self._running = self._triggered = False
        elif name == "SOFTTRIGGER":
            self._triggered = True
        else:
            return 2
        return 0
