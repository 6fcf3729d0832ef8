"""DECTRIS detectors with a SIMPLON control unit (ARINA, QUADRO, ELA, EIGER2): streams V1 and V2, and the REST interface.

dectris://HOST:9999 listens to a detector's stream; which version it is, the first message says. With ?api=80 the detector can be armed
and triggered too. The detector binds, libstream connects; a detector deals its messages out to all who are connected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from libstream.ext import Decoder, Detector, Encoder, Event, Parts, StreamUrl, Transport, UsageError
from libstream.io_backends.streams._dectris_v1 import V1Decoder, V1Encoder, V1Settings
from libstream.io_backends.streams._dectris_v2 import V2Decoder
from libstream.io_backends.streams._dectris_v2_send import COMPRESSIONS, V2Encoder, V2Settings

PORTS = {1: 9999, 2: 31001}
"""Ports of the stream by its version."""
_RECEIVES = ("version", "api", "bind")
_SENDS = (*_RECEIVES, "encoding", "detail", "header_appendix", "image_appendix", "split", "hash", "magic")


class AnyDecoder:
    """V1 or V2, whichever comes: a detector can be switched from one to the other between two series."""

    has_end = True

    def __init__(self) -> None:
        self._v1, self._v2 = V1Decoder(), V2Decoder()
        self._last: Decoder = self._v1

    def feed(self, parts: Parts) -> Iterable[Event]:
        """See `Decoder.feed`."""
        first = parts[0][0] if len(parts) and len(parts[0]) else -1
        if first == 0x7B:  # {
            self._last = self._v1
            return self._v1.feed(parts)
        # a CBOR map, or a tag before it; tables of a header of V1 that come as messages of their own may begin so
        if 0xA0 <= first <= 0xDB and not self._v1.loose:
            self._last = self._v2
            return self._v2.feed(parts)
        return self._last.feed(parts)


class Dectris:
    """Streams of DECTRIS detectors (a `DetectorKind`).

    Options of addresses, receiving: version (1, 2; both where it is left out), api (port of the REST interface), bind.
    Sending, for replay and simulators: encoding (V1: <, lz4<, bs16-lz4< and so on; V2: bslz4, lz4, none), detail (none, basic, all),
    header_appendix, image_appendix; V1: split=1 sends the parts of the header one by one, hash=0 leaves out MD5 sums; V2: magic=0 leaves
    out the tag of CBOR; api serves a simulated REST interface there (0 = a free port), and waits to be armed by others.
    """

    name: ClassVar[str] = "dectris"
    hint: ClassVar[str] = "dectris://192.168.1.20:9999?api=80"

    def receiver(self, url: StreamUrl, **options: Any) -> Detector:
        """See `DetectorKind`."""
        from libstream.io_backends.streams._dectris_rest import DectrisController

        url = _merged(url, options, _RECEIVES)
        api = url.number("api")
        return Detector(
            name=url.text,
            transport=_transport(url, "pull", bind=False),
            make_decoder=partial(_decoder, url),
            controller=None if api is None else DectrisController(url.host.strip("[]"), _port(url, api)),
        )

    def decoder(self, url: StreamUrl, **options: Any) -> Decoder:
        """See `DetectorKind`."""
        return _decoder(_merged(url, options, _RECEIVES))

    def sender(self, url: StreamUrl, **options: Any) -> tuple[Transport, Encoder]:
        """See `DetectorKind`. With ?api= the transport serves a REST interface, and the encoder waits until somebody arms."""
        url = _merged(url, options, _SENDS)
        make = _maker(url)
        stream = _transport(url, "push", bind=True)
        api = url.number("api")
        if api is None:
            return stream, make({}, {})
        from libstream.io_backends.streams._simplon import SimulatedDcu
        from libstream.io_backends.streams._simplon_send import DcuEncoder, DcuTransport

        dcu = SimulatedDcu()
        if _version(url) == 2:
            dcu.config["stream"]["format"] = "cbor"
        dcu.config["stream"]["header_detail"] = url.query.get("detail", "basic")
        host = "" if url.host in ("*", "0.0.0.0") else url.host.strip("[]")
        return DcuTransport(stream, dcu, make, host, _port(url, api)), DcuEncoder(dcu)


def _merged(url: StreamUrl, options: Mapping[str, Any], known: tuple[str, ...]) -> StreamUrl:
    """The address with options of the call in it, checked."""
    given = {k: str(int(v)) if isinstance(v, bool) else str(v) for k, v in options.items() if v is not None}
    url = replace(url, query={**url.query, **given})
    url.only(*known)
    if len(url.ports) > 1:
        raise UsageError(f"{url.text}: a DECTRIS stream has one port, got {len(url.ports)}")
    _version(url)
    return url


def _version(url: StreamUrl) -> int | None:
    version = url.number("version")
    if version not in (None, 1, 2):
        raise UsageError(f"{url.text}: version is 1 (legacy) or 2 (CBOR), got {version}")
    return 2 if version is None and url.ports == (PORTS[2],) else version


def _port(url: StreamUrl, port: int) -> int:
    if port > 65535:
        raise UsageError(f"{url.text}: api is the port of the REST interface, usually 80; got {port}")
    return port


def _decoder(url: StreamUrl) -> Decoder:
    kinds: dict[int | None, type[Decoder]] = {None: AnyDecoder, 1: V1Decoder, 2: V2Decoder}
    return kinds[url.number("version")]()


def _transport(url: StreamUrl, kind: Any, *, bind: bool) -> Transport:
    from libstream.io_backends.streams._zmq import ZmqTransport

    port = url.ports[0] if url.ports else PORTS[_version(url) or 1]
    host = "*" if url.host == "0.0.0.0" else url.host
    return ZmqTransport(f"tcp://{host}:{port}", kind=kind, bind=url.flag("bind", bind))


def _maker(url: StreamUrl) -> Any:
    """Makes the encoder that an address asks for, with what the REST interface was told: (detector, stream) -> Encoder."""
    query = url.query
    shared = {k: query[k] for k in ("detail", "header_appendix", "image_appendix") if k in query}
    encoding = query.get("encoding")

    def make(detector: Mapping[str, Any], stream: Mapping[str, Any]) -> Encoder:
        told = {"detail": stream["header_detail"]} if stream else {}
        told |= {k: stream[k] for k in ("header_appendix", "image_appendix") if stream.get(k)}
        cbor = stream.get("format", "cbor" if _version(url) == 2 else "legacy") == "cbor"
        if cbor:
            config = {"number_of_images": _images(detector)} if detector else {}
            config |= {k: detector[k] for k in ("count_time", "frame_time") if k in detector}
            compression = encoding or "bslz4"
            if (detector and compression not in COMPRESSIONS) or encoding is None:
                compression = detector.get("compression", "bslz4")
            return V2Encoder(V2Settings(compression, **{**shared, **told}, magic=url.flag("magic", True), config=config))
        packed = encoding or ""
        if encoding is None or (detector and encoding in COMPRESSIONS):
            packed = {"lz4": "lz4<", "none": "<"}.get(detector.get("compression", ""), "")
        texts = {k: str(v) if isinstance(v, (str, int, float)) else _json(v) for k, v in {**shared, **told}.items()}
        settings = V1Settings(packed, split=url.flag("split", False), hash=url.flag("hash", True), config=detector)
        return V1Encoder(replace(settings, **texts))  # type: ignore[arg-type]

    make({}, {})  # wrong options are found here
    return make


def _images(detector: Mapping[str, Any]) -> int:
    return int(detector["ntrigger"]) * (int(detector["nimages"]) if detector["trigger_mode"] in ("exts", "ints") else 1)


def _json(value: Any) -> str:
    import json

    return json.dumps(value, separators=(",", ":"))
