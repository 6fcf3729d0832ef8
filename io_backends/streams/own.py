"""libstream's own stream, `libstream://host:port`: any program that can send ZeroMQ messages can be a detector.

The receiver binds a PULL socket, any number of producers connect PUSH sockets to it. A message has a header, and a part for the pixels
of each frame it brings. The header is a map in CBOR (RFC 8949) of at most 64 KiB: texts as keys; numbers, texts, lists and maps as
values; no tags, no byte strings, at most 8 levels deep. Keys that are not listed here are ignored, a value of null is as none.

**start** begins a run. It is the first message of each of its producers, on the connection on which their frames follow.

- `v`: 1, the version of this protocol. `type`: "start".
- `run`: number or name of the run. All its messages carry it; another run has another one.
- `n_frames`: how many frames will come, if that is known. `scan`: sizes [y, x] of the scan, if it is known.
- `frame`: sizes [y, x] of a frame. `dtype`: bool, uint8 to uint64, int8 to int64, float32, float64, complex64 or complex128. Either
  here, or in each frame.
- `channels`: names, where each position has several images. `frame_time`: seconds from frame to frame; after 20 of them, and at least
  5 s, without a message, the run is given up as incomplete.
- `axes`: {"ky": [step, unit], ...}. `meta`: a map of anything.
- `n_producers`: how many send this run (default 1). `producer`: which one this is, from 0.
- `n_parts`: how many frames (of any channel) this producer will send; may be said in `end` instead.

**frame** is one frame, or one channel of it.

- `type`: "frame". `run`. `number`: its place in the scan, from 0. Frames may come in any order.
- `codec`: how its pixels are encoded in the second part, see `libstream.codecs.wire`: "raw<", "bslz4/2", ...
- `channel`: index or name, default 0. `shape`, `dtype`: where the start does not say them.
- `t_ns`: time of the frame [ns].

**frames** is several of them at once, which is faster for small frames: `number` is a list (`t_ns` too), and as many parts follow.

**end** ends the run, when all of its producers have sent it.

- `type`: "end". `run`. `producer`. `n_parts`: as above. `reason`: why it ended, where it is not the regular end.

Frames whose start was not seen are counted and not processed. A message that breaks these rules is counted; those after it are read.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        """The receiving side. Raises UsageError for a bad address or option."""
        _no(url, options)
        url.only("bind", "hwm", "producers", "curve")
        transport = _transport(url, "pull", bind=url.flag("bind", True))
        n = _number(url, "producers", 1, MAX_PRODUCERS)
        return Detector(self.name, transport, OwnDecoder, n_senders=n)

    def decoder(self, url: StreamUrl, **options: Any) -> Decoder:
        """A decoder alone."""
        _no(url, options)
        return OwnDecoder()

    def sender(self, url: StreamUrl, **options: Any) -> tuple[Transport, Encoder]:
        """The sending side; one producer."""
        _no(url, options)
        url.only("bind", "hwm", "curve", "codec")
        encoder = OwnEncoder(url.query.get("codec", "bslz4"))
        return _transport(url, "push", bind=url.flag("bind", False)), encoder


def _no(url: StreamUrl, options: Mapping[str, Any]) -> None:
    if options:
        raise UsageError(f"{url.text}: unknown option {', '.join(options)}; libstream:// takes its options in the address")


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
