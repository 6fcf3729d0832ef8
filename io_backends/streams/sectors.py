"""The 4D Camera of NCEM: four receivers, each of which sends the sectors of one quarter of the detector over ZeroMQ.

sectors://0.0.0.0:6001-6004?info=6005 waits for the senders at these ports.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, ClassVar

from libstream.ext import Decoder, Detector, Encoder, StreamUrl, Transport, UsageError
from libstream.io_backends.streams._sectors_wire import SECTORS, SectorsDecoder, SectorsEncoder
from libstream.io_backends.streams.merlin import with_options

MAX_DWELL = 1_000_000
PORTS = (6001, 6002, 6003, 6004)


class Sectors:
    """The detector's kind. See `DetectorKind`. The receiver binds, unless `bind=0`."""

    name: ClassVar[str] = "sectors"
    hint: ClassVar[str] = "sectors://0.0.0.0:6001-6004?info=6005"

    def receiver(self, url: StreamUrl, **options: Any) -> Detector:
        """Options: bind, info (port of the announcements), frame ("ROWS,COLUMNS" of a whole frame; default: square),
        dwell (frames at each position)."""
        from libstream.io_backends.streams._zmq import ZmqTransport

        url = with_options(url, options)
        url.only("bind", "info", "frame", "dwell")
        transport = ZmqTransport(_addresses(url), kind="pull", bind=url.flag("bind", True))
        return Detector(self.name, transport, partial(SectorsDecoder, _frame(url), _dwell(url)), sectors=SECTORS, n_senders=SECTORS)

    def decoder(self, url: StreamUrl, **options: Any) -> Decoder:
        """Options as for `receiver`."""
        url = with_options(url, options)
        url.only("bind", "info", "frame", "dwell")
        return SectorsDecoder(_frame(url), _dwell(url))

    def sender(self, url: StreamUrl, **options: Any) -> tuple[Transport, Encoder]:
        """Options: bind, info (port of the announcements; none are sent without it), fields (8 or 9 numbers in a header), dwell."""
        from libstream.io_backends.streams._zmq import ZmqTransport

        url = with_options(url, options)
        url.only("bind", "info", "frame", "fields", "dwell")
        addresses = _addresses(url)
        transport = ZmqTransport(addresses, kind="push", bind=url.flag("bind", False))
        n_lanes = len(addresses) - ("info" in url.query)
        return transport, SectorsEncoder(url.number("fields", 8) or 0, "info" in url.query, n_lanes, _dwell(url))


def _addresses(url: StreamUrl) -> tuple[str, ...]:
    """Of the sectors' sockets, then that of the announcements."""
    ports = url.ports or PORTS
    if ports == (0,):
        ports = (0,) * SECTORS  # free ones
    if len(ports) not in (1, SECTORS):
        raise UsageError(
            f"{url.text}: the sectors come to {SECTORS} ports, such as sectors://0.0.0.0:6001-6004, or all to one, got {len(ports)} ports"
        )
    info = url.number("info")
    if info is not None and (info > 65535 or (info and info in ports)):
        raise UsageError(f"{url.text}: info is a port of its own, 0 to 65535, got {info}")
    return tuple(f"tcp://{url.host}:{port}" for port in (*ports, *([] if info is None else [info])))


def _frame(url: StreamUrl) -> tuple[int, ...]:
    text = url.query.get("frame")
    if text is None:
        return ()
    found = re.fullmatch(r"\(?\s*(\d{1,5}),\s*(\d{1,5})\s*\)?", text)
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not sides[0] or not sides[1] or sides[0] % SECTORS:
        raise UsageError(f"{url.text}: frame is ROWS,COLUMNS of a whole frame, rows in {SECTORS} equal sectors, got {text!r}")
    return sides


def _dwell(url: StreamUrl) -> int:
    dwell = url.number("dwell", 1) or 0
    if not 1 <= dwell <= MAX_DWELL:
        raise UsageError(f"{url.text}: dwell is the number of frames at each position, 1 to {MAX_DWELL:,}, got {dwell}")
    return dwell
