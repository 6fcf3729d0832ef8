"""Commands to a Merlin over its control port: settings, start, software trigger, stop, and what it says of itself."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from libstream.ext import UsageError

RETURN_CODES = {0: "done", 1: "the system is busy", 2: "unknown command or parameter", 3: "the value is out of range"}
"""Last field of a reply."""
ASKED = ("IMAGEX", "IMAGEY", "COUNTERDEPTH", "NUMFRAMESTOACQUIRE", "FILEFORMAT", "TRIGGERSTART")
"""Parameters that `status` asks for."""
ORDER = ("COUNTERDEPTH", "FILEFORMAT", "NUMFRAMESTOACQUIRE", "TRIGGERSTART")
"""Settings that are made first, in this order; others follow as they are given."""
TIMEOUT_S = 5.0
"""How long a connection or a reply is waited for."""

_LONGEST = 65536
_GRACE_S = 0.2
"""How long the rest of a reply that is complete but shorter than it states is waited for."""


class MerlinControl:
    """A `Controller`. Connects at the first command, and again after the connection was lost.

    Lengths in replies are not believed: a reply is complete when it reads as one to the command that was sent.
    """

    def __init__(self, host: str, port: int, timeout_s: float = TIMEOUT_S) -> None:
        self.host, self.port, self.timeout_s = host.strip("[]"), port, timeout_s
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None

    def arm(self, **settings: Any) -> int | str | None:
        """Make settings (names of Merlin's parameters, such as numframestoacquire=4096, counterdepth=12, fileformat=2 (raw),
        triggerstart=5 (software trigger)) and start the acquisition. Runs have no numbers: returns None.

        Raises UsageError where Merlin refuses one, with its reason; OSError where it cannot be reached.
        """
        given = {name.upper(): value for name, value in settings.items()}
        for name in (*[n for n in ORDER if n in given], *[n for n in given if n not in ORDER]):
            self.set(name, given[name])
        self._command("STARTACQUISITION")
        return None

    def trigger(self) -> None:
        """Software trigger; Merlin has to be armed with triggerstart=5."""
        self._command("SOFTTRIGGER")

    def disarm(self) -> None:
        """Stop the acquisition. On the data port this is not seen: no more frames come."""
        self._command("STOPACQUISITION")

    def status(self) -> Mapping[str, Any]:
        """Values of the parameters in `ASKED`, in lower case; those that this Merlin does not know are left out."""
        found: dict[str, Any] = {}
        for name in ASKED:
            value, code = self._ask("GET", name, "0")
            if code == 0:
                found[name.lower()] = int(value) if re.fullmatch(r"-?\d{1,15}", value) else value
        return found

    def set(self, name: str, value: Any) -> None:
        """Set one parameter. Raises UsageError where Merlin refuses it."""
        text = str(int(value)) if isinstance(value, bool) else str(value)
        if not re.fullmatch(r"\w{1,64}", name, re.ASCII) or not re.fullmatch(r"[^,\x00-\x1f\x7f-\U0010ffff]{1,256}", text):
            raise UsageError(
                f"a parameter of Merlin is a name and a value in plain characters without commas, got {name!r} = {text[:80]!r}"
            )
        _, code = self._ask("SET", name, text)
        self._check(f"SET {name} = {text}", code)

    def get(self, name: str) -> str:
        """Value of one parameter. Raises UsageError where there is none of this name."""
        if not re.fullmatch(r"\w{1,64}", name, re.ASCII):
            raise UsageError(f"{name!r} is no name of a parameter of Merlin")
        value, code = self._ask("GET", name.upper(), "0")
        self._check(f"GET {name}", code)
        return value

    def close(self) -> None:
        """Close the connection. Idempotent."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            self._socket = None

    def _command(self, name: str) -> None:
        _, code = self._ask("CMD", name, "0")
        self._check(name, code)

    def _check(self, what: str, code: int) -> None:
        if code:
            why = RETURN_CODES.get(code, "a code that is not documented")
            raise UsageError(f"Merlin at {self.host}:{self.port} refused {what}: {why} (code {code})")

    # -- the wire --------------------------------------------------------------------------------------------------------

    def _ask(self, kind: str, name: str, value: str) -> tuple[str, int]:
        """Send one command; value (of GET, else "") and return code of its reply. Raises OSError."""
        payload = f"{kind},{name},{value}".encode("ascii")
        message = b"MPX,%010d,%b" % (len(payload) + 1, payload)
        with self._lock:
            try:
                link = self._link()
                link.sendall(message)
                return self._reply(link, kind, name)
            except OSError as exc:
                self.close()
                why = (
                    f"Merlin's control port {self.host}:{self.port}: {exc.strerror or exc} ({kind} {name}). Is the detector's software "
                    "running, its TCP interface on, and no other program connected?"
                )
                raise (OSError(exc.errno, why) if exc.errno else OSError(why)) from exc

    def _link(self) -> socket.socket:
        if self._socket is not None:
            # what was not read belongs to an earlier command
            self._socket.setblocking(False)
            try:
                while self._socket.recv(4096):
                    pass
                self.close()  # ended meanwhile
            except BlockingIOError:
                self._socket.settimeout(self.timeout_s)
            except ConnectionError:
                self.close()
        if self._socket is None:
            self._socket = socket.create_connection((self.host, self.port), self.timeout_s)
        return self._socket

    def _reply(self, link: socket.socket, kind: str, name: str) -> tuple[str, int]:
        middle = rb"(?:(.*),)?" if kind == "GET" else rb"()"
        form = re.compile(rb"MPX,(\d{1,10}),%b,%b,%b(\d)\s*" % (kind.encode(), name.encode(), middle), re.DOTALL | re.IGNORECASE)
        data, until, late = b"", time.monotonic() + self.timeout_s, 0.0
        while True:
            found = form.fullmatch(data[max(0, data.rfind(b"MPX,")) :])
            now = time.monotonic()
            if found is not None:
                late = late or now + _GRACE_S
                # a reply states its length, or one byte more
                if len(found[0]) - found.end(1) >= int(found[1]) or now >= late:
                    return (found[2] or b"").decode("latin-1").strip(), int(found[3])
            if now >= until:
                raise TimeoutError(f"no reply within {self.timeout_s:g} s" + (f", only {data[:80]!r}" if data else ""))
            if len(data) > _LONGEST:
                raise OSError(f"no reply to the command in {len(data):,} bytes")
            link.settimeout(max(0.001, (late if found is not None else until) - now))
            try:
                more = link.recv(4096)
            except TimeoutError:
                continue
            if not more:
                raise ConnectionResetError("the connection was closed")
            data += more
