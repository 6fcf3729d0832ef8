"""The 4D Camera's sectors as replay sends them, and over real sockets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.ext import (
    DataShape,
    Outgoing,
    SourceId,
    SourceMeta,
    StreamUrl,
    UsageError,
)
from libstream.io_backends.streams import _sectors_wire as wire_format
from libstream.io_backends.streams._sectors_wire import SectorsDecoder, SectorsEncoder
from libstream.io_backends.streams.sectors import Sectors
from tests.live.sectors_messages import Assembled, frames_like, meta_of

msgpack = pytest.importorskip("msgpack")

# -- the sending side -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [8, 9])
@pytest.mark.parametrize("nav", [(2, 3), (6,), (3, 2, 1)])
def test_what_is_sent_is_what_msgpack_reads_and_what_comes_out(fields: int, nav: tuple[int, ...]) -> None:
    frames = frames_like(6)
    encoder = SectorsEncoder(fields)
    out: list[Outgoing] = list(encoder.begin(meta_of(frames, nav), 4711))
    assert [(o.lane, o.number, msgpack.unpackb(o.parts[0], strict_map_key=False)) for o in out] == [(4, None, {4711: 6})] * 4
    for i, frame in enumerate(frames):
        sent = list(encoder.frame(i, {"frames": frame}))
        assert [o.lane for o in sent] == [0, 1, 2, 3]
        assert {o.number for o in sent} == {i}
        rows, columns = (1, 6) if nav == (6,) else (2, 3) if nav == (2, 3) else (6, 1)
        expected = [4711, i, *([6] if fields == 9 else []), columns, rows, i % columns, i // columns, 0]
        assert [msgpack.unpackb(o.parts[0]) for o in sent] == [[*expected, m] for m in range(4)]
        out += sent
    got = Assembled().take([[bytes(p) for p in o.parts] for o in [*out, *encoder.end()]])
    assert len(got.announced) == 4
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(got.frame(4711, i), frame)


def test_several_frames_at_each_position() -> None:
    frames = frames_like(12)
    encoder = SectorsEncoder(dwell=2)
    out = list(encoder.begin(meta_of(frames, (2, 3, 2)), 1))
    for i, frame in enumerate(frames):
        out += encoder.frame(i, {"frames": frame})
    got = Assembled(SectorsDecoder(dwell=2)).take([[bytes(p) for p in o.parts] for o in out])
    assert (got.headers[0].n_frames, got.headers[0].scan, got.skipped) == (12, (2, 3), [])
    assert all((got.frame(1, i) == frames[i]).all() for i in range(12))
    with pytest.raises(UsageError, match="last axis of the scan"):
        list(SectorsEncoder(dwell=3).begin(meta_of(frames, (2, 3, 2)), 1))


@given(st.integers(0, 2**64 - 1))
def test_numbers_are_packed_as_msgpack_does(value: int) -> None:
    assert wire_format.packed(value) == msgpack.packb(value)
    assert wire_format._number(msgpack.packb(value), 0) == (value, len(msgpack.packb(value)))


def test_what_the_camera_could_not_have_sent_is_not_sent() -> None:
    for sig, dtype, match in (((16, 16), "f4", "whole numbers"), ((15, 16), "u2", "4 sectors"), ((16,), "u2", "4 sectors")):
        with pytest.raises(UsageError, match=match):
            list(SectorsEncoder().begin(SourceMeta(SourceId("", "", 0), DataShape((1,), sig), np.dtype(dtype)), 1))
    meta = meta_of(np.zeros((1, 16, 16), "i4"), (1,))
    with pytest.raises(UsageError, match="one channel"):
        list(SectorsEncoder().begin(meta.with_(channels=("a", "b")), 1))
    with pytest.raises(UsageError, match="scans up to"):
        list(SectorsEncoder().begin(meta_of(np.zeros((1, 16, 16), "u2"), (70_000,)), 1))
    with pytest.raises(UsageError, match="fields is 8 or 9"):
        SectorsEncoder(7)
    encoder = SectorsEncoder()
    list(encoder.begin(meta, 1))
    for value in (-1, 65536):
        with pytest.raises(UsageError, match="16 bits"):
            list(encoder.frame(0, {"frames": np.full((16, 16), value, "i4")}))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("sectors://h:6001-6003", "4 ports"),
        ("sectors://h:6001-6004?info=6002", "port of its own"),
        ("sectors://h:6001-6004?info=99999", "port of its own"),
        ("sectors://h:6001-6004?frame=10,10", "ROWS,COLUMNS"),
        ("sectors://h:6001-6004?frame=large", "ROWS,COLUMNS"),
        ("sectors://h:6001-6004?frames=12,12", "unknown option"),
    ],
)
def test_addresses_that_cannot_work(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Sectors().receiver(StreamUrl.parse(text))


@pytest.mark.parametrize("ports", [4, 1])  # of the sending side
def test_a_scan_over_sockets(ports: int) -> None:
    frames = frames_like(24)
    kind = Sectors()
    detector = kind.receiver(StreamUrl.parse("sectors://127.0.0.1:0?info=0"))
    assert (detector.sectors, detector.n_senders, detector.controller) == (4, 4, None)
    receiving = detector.transport
    receiving.open()
    found = [int(a.rpartition(":")[2]) for a in receiving.address.split(",")]
    sending, encoder = kind.sender(StreamUrl("sectors", "sectors", "127.0.0.1", tuple(found[:4][:ports]), {"info": str(found[-1])}))
    sending.open()
    try:
        into, table = np.zeros(1 << 20, np.uint8), np.zeros((256, 3), np.int64)
        got = Assembled(detector.make_decoder())
        outgoing = list(encoder.begin(meta_of(frames, (4, 6)), 3))
        for i, frame in enumerate(frames):
            outgoing += encoder.frame(i, {"frames": frame})
        assert {o.lane for o in outgoing} == set(range(ports + 1))
        for o in outgoing:
            assert sending.send(o.parts, 10.0, o.lane)
        for _ in range(100):
            n = receiving.receive(into, table, 0.1, 1 << 18)
            rows = table[: n.rows].tolist()
            for _, group in itertools.groupby(rows, key=lambda row: row[0]):
                got.take([[bytes(into[at : at + size]) for _, at, size in group]])
            if sum(map(len, got.parts.values())) == 96 and len(got.announced) == 4:
                break
        assert sum(a.n_parts for a in got.announced) == 96
        for i, frame in enumerate(frames):
            np.testing.assert_array_equal(got.frame(3, i), frame)
    finally:
        sending.close()
        receiving.close()
