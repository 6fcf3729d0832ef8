"""Keys of encrypted ZeroMQ sockets (CURVE), and the doorman who lets known clients in (ZAP, RFC 27 of zeromq.org)."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libstream.ext import UsageError

_Z85 = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")
_KNOWN = ("secret", "public", "server", "clients")


@dataclass(frozen=True)
class Keys:
    """Keys of one side, each 40 characters of Z85 (RFC 32 of zeromq.org).

    secret, public: of this side; public "" is worked out from secret. server: public key of the other side, for clients.
    clients: public keys that may come in, for servers; None lets in whoever knows the server's public key.
    """

    secret: str
    public: str = ""
    server: str = ""
    clients: frozenset[str] | None = None

    def __repr__(self) -> str:  # keys stay out of logs
        return f"Keys(public={self.public!r})"

    @classmethod
    def parse(cls, given: Mapping[str, Any], *, bind: bool) -> Keys:
        """From {"secret", "public", "server", "clients"}: each the text of a key, or a key file as `zmq.auth.create_certificates`
        writes them; "clients": several of them, or a folder of key files. The side that binds is the server.

        Raises UsageError saying which key is missing or no key.
        """
        for name in given:
            if name not in _KNOWN:
                raise UsageError(f"curve: unknown key {name!r}; there are {', '.join(_KNOWN)}")
        if not given.get("secret"):
            raise UsageError("curve: the secret key of this side is missing: give secret=, a key of 40 characters or a *.key_secret file")
        if not bind and not given.get("server"):
            raise UsageError("curve: the side that connects needs the public key of the side that binds: give server=")
        if bind and given.get("server"):
            raise UsageError("curve: server= is for the side that connects; the side that binds has its own secret= and clients=")
        if not bind and given.get("clients") is not None:
            raise UsageError("curve: clients= is for the side that binds; the side that connects has server=")
        public, secret = _key(given["secret"], "secret")
        clients = given.get("clients")
        return cls(
            secret=secret or public,
            public=_key(given["public"], "public")[0] if given.get("public") else (public if secret else ""),
            server=_key(given["server"], "server")[0] if given.get("server") else "",
            clients=None if clients is None else frozenset(_key(c, "clients")[0] for c in _several(clients)),
        )


def _several(clients: Any) -> Iterable[Any]:
    if isinstance(clients, (str, bytes, Path)):
        if not isinstance(clients, bytes) and Path(clients).is_dir():
            return sorted(Path(clients).glob("*.key"))
        return [clients]
    return clients


def _key(value: Any, name: str) -> tuple[str, str]:
    """(key, "") of a text; (public, secret) of a file, secret "" where it has none."""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    if len(text) == 40 and set(text) <= _Z85:
        return text, ""
    found = {"public-key": "", "secret-key": ""}
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines() if len(text) < 4096 else []
    except (OSError, ValueError) as exc:  # not shown: it may be a mistyped secret key
        raise UsageError(
            f"curve: {name} is neither a key (40 characters of Z85) nor a key file that can be read ({type(exc).__name__})"
        ) from None
    for line in lines:
        field, _, content = line.partition("=")
        if field.strip() in found:
            found[field.strip()] = content.strip(" \t'\"")
    public, secret = found["public-key"], found["secret-key"]
    if len(public) != 40 or not set(public) <= _Z85 or len(secret) not in (0, 40) or not set(secret) <= _Z85:
        raise UsageError(f"curve: {name}: the file {text} holds no CURVE keys; zmq.auth.create_certificates writes such files")
    if name == "secret" and not secret:
        raise UsageError(f"curve: {text} holds the public key only; give the *.key_secret file as secret=")
    return public, secret


class Doorman:
    """Answers libzmq's questions who may come in; a thread that ends when the context of `socket` is terminated.

    socket: a REP socket, bound to inproc://zeromq.zap.01 before the sockets it guards. ended: the error that says that the context ends.
    encode: raw key (32 bytes) -> Z85.
    """

    def __init__(self, socket: Any, clients: frozenset[str], encode: Any, ended: type[Exception]) -> None:
        self._socket, self._clients, self._encode, self._ended = socket, clients, encode, ended
        self.refused = 0
        self._thread = threading.Thread(target=self._answer, name="libstream-zap", daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        try:
            while True:
                self._socket.send_multipart(self._reply(self._socket.recv_multipart()))
        except self._ended:
            pass
        finally:
            self._socket.close(0)

    def _reply(self, asked: list[bytes]) -> list[bytes]:
        request = asked[1] if len(asked) > 1 else b""
        good = len(asked) == 7 and asked[5] == b"CURVE" and len(asked[6]) == 32 and self._encode(asked[6]).decode() in self._clients
        self.refused += not good
        return [b"1.0", request, b"200" if good else b"400", b"OK" if good else b"unknown key", b"", b""]

    def join(self) -> None:
        """Wait for the end, after the context was terminated."""
        self._thread.join(5.0)
