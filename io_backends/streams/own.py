"""libstream's own stream, `libstream://host:port`: any program that can send ZeroMQ messages can be a detector.

The receiver binds a PULL socket, any number of producers connect PUSH sockets to it. A message has a header, which is a map in CBOR, and
a part for the pixels of each frame it brings: start, frame or frames, end. docs/how-to/feed-your-own-detector.md has all fields;
`_own_decode` is what it says, in code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from libstream.ext import Decoder, Detector, Encoder, StreamUrl, Transport, UsageError
from libstream.io_backends.streams._own_decode import MAX_PRODUCERS, OwnDecoder
from libstream.io_backends.streams._own_encode import OwnEncoder

PORT = 9876
"""Where the receiver listens unless the address says something else."""


class Own:
    """`libstream://host:port?bind=1&hwm=128&producers=1&curve=FOLDER`; for sending also `codec=bslz4`.

    bind: the receiver waits for producers at this address (1, its default), or connects to one (0). hwm: messages that ZeroMQ may
    hold. producers: how many send at the same time; with more than one, a producer may begin the next run while others still
    finish the one before. curve: folder with keys: `*.key_secret` of this side, and `clients/*.key` of those who may come in where this
    side binds, `server.key` where it connects (`zmq.auth.create_certificates` makes such files).
    """

    name: ClassVar[str] = "libstream"
    hint: ClassVar[str] = f"libstream://127.0.0.1:{PORT}"

    def receiver(self, url: StreamUrl, **options: Any) -> Detector:
        """The receiving side. options: the same as in the address. Raises UsageError for a bad address or option."""
        url = _with(url, options)
        url.only("bind", "hwm", "producers", "curve")
        transport = _transport(url, "pull", bind=url.flag("bind", True))
        n = _number(url, "producers", 1, MAX_PRODUCERS)
        return Detector(self.name, transport, OwnDecoder, n_senders=n)

    def decoder(self, url: StreamUrl, **options: Any) -> Decoder:
        """A decoder alone."""
        return OwnDecoder()

    def sender(self, url: StreamUrl, **options: Any) -> tuple[Transport, Encoder]:
        """The sending side; one producer."""
        url = _with(url, options)
        url.only("bind", "hwm", "curve", "codec")
        encoder = OwnEncoder(url.query.get("codec", "bslz4"))
        return _transport(url, "push", bind=url.flag("bind", False)), encoder


def _with(url: StreamUrl, options: Mapping[str, Any]) -> StreamUrl:
    """The address with options in it that were given as keyword arguments."""
    said = {name: str(int(value) if isinstance(value, bool) else value) for name, value in options.items()}
    return replace(url, query={**url.query, **said})


def _number(url: StreamUrl, name: str, default: int, most: int) -> int:
    value = url.number(name, default)
    if value is None or not 1 <= value <= most:
        raise UsageError(f"{url.text}: {name} is a number from 1 to {most}, got {value}")
    return value


def _transport(url: StreamUrl, kind: str, *, bind: bool) -> Transport:
    from libstream.io_backends.streams import _zmq

    addresses = [f"tcp://{url.host}:{port}" for port in url.ports or (PORT,)]
    if kind == "push" and len(addresses) > 1:
        raise UsageError(f"{url.text}: a producer sends to one port, got {len(addresses)}")
    curve = _keys(url, bind) if "curve" in url.query else None
    hwm = _number(url, "hwm", _zmq.HWM, 1_000_000)
    return _zmq.ZmqTransport(addresses, kind=kind, bind=bind, hwm=hwm, curve=curve)  # type: ignore[arg-type]


def _keys(url: StreamUrl, bind: bool) -> dict[str, Any]:
    """Key files of a folder, as `ZmqTransport` wants them."""
    folder = Path(url.query["curve"]).expanduser()
    secrets = sorted(folder.glob("*.key_secret"))
    if len(secrets) != 1:
        raise UsageError(
            f"{url.text}: the folder {folder} has {len(secrets)} files *.key_secret, expected one: the key of this side. "
            "zmq.auth.create_certificates(folder, name) makes it"
        )
    if not bind:
        if not (folder / "server.key").is_file():
            raise UsageError(f"{url.text}: {folder / 'server.key'} is missing: the public key of the side that binds")
        return {"secret": str(secrets[0]), "server": str(folder / "server.key")}
    clients = sorted((folder / "clients").glob("*.key"))
    if not clients:
        raise UsageError(f"{url.text}: nobody could come in: {folder / 'clients'} holds no *.key, the public keys of those who may send")
    return {"secret": str(secrets[0]), "clients": [str(c) for c in clients]}
