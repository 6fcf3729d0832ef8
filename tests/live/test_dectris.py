"""DECTRIS detectors by their address: options, versions recognised, both directions over real sockets."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.ext import FramePart, RunEnd, RunHeader, StreamUrl, UsageError, WireError
from libstream.io_backends.streams._dectris_rest import DectrisController
from libstream.io_backends.streams._dectris_v1 import V1Decoder, V1Encoder
from libstream.io_backends.streams._dectris_v2 import V2Decoder
from libstream.io_backends.streams._dectris_v2_send import V2Encoder
from libstream.io_backends.streams.dectris import AnyDecoder, Dectris
from libstream.live.replay import replay
from tests.live import dectris_messages as d
from tests.live.sending import free_ports


def url(text: str) -> StreamUrl:
    return StreamUrl.parse(text)


@pytest.mark.parametrize(
    ("text", "address", "bind"),
    [
        ("dectris://", "tcp://127.0.0.1:9999", False),
        ("dectris://dcu", "tcp://dcu:9999", False),
        ("dectris://dcu?version=1", "tcp://dcu:9999", False),
        ("dectris://dcu?version=2", "tcp://dcu:31001", False),
        ("dectris://dcu:1234?version=2", "tcp://dcu:1234", False),
        ("dectris://0.0.0.0:1234?bind=1", "tcp://*:1234", True),
        ("dectris://[::1]:1234", "tcp://[::1]:1234", False),
    ],
)
def test_addresses_to_listen_to(text: str, address: str, bind: bool) -> None:
    detector = Dectris().receiver(url(text))
    assert detector.transport.asked == (address,)  # type: ignore[attr-defined]
    assert (detector.transport.kind, detector.transport.bind) == ("pull", bind)  # type: ignore[attr-defined]
    assert detector.controller is None
    assert detector.make_decoder() is not detector.make_decoder()
    pickle.loads(pickle.dumps(detector.make_decoder))


def test_controller_only_where_asked_for() -> None:
    controller = Dectris().receiver(url("dectris://[::1]:9999?api=80")).controller
    assert isinstance(controller, DectrisController)
    assert (controller.host, controller.port) == ("::1", 80)
    assert isinstance(Dectris().receiver(url("dectris://h"), api=8080).controller, DectrisController)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dectris://h:1-4", "one port"),
        ("dectris://h?version=3", "version is 1"),
        ("dectris://h?version=two", "whole number"),
        ("dectris://h?api=99999", "api is the port"),
        ("dectris://h?bind=yes", "bind is 0 or 1"),
        ("dectris://h?baud=9600", "unknown option 'baud'; dectris takes version, api, bind"),
        ("dectris://h?encoding=<", "unknown option 'encoding'"),
    ],
)
def test_bad_addresses_to_listen_to(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Dectris().receiver(url(text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dectris://h?encoding=gzip", "gzip"),
        ("dectris://h?version=2&encoding=bs16-lz4<", "bslz4, lz4 or none"),
        ("dectris://h?detail=some", "none, basic or all"),
        ("dectris://h?split=2", "split is 0 or 1"),
        ("dectris://h?version=2&magic=2", "magic is 0 or 1"),
        ("dectris://h?speed=3", "unknown option 'speed'"),
    ],
)
def test_bad_addresses_to_send_to(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Dectris().sender(url(text))


def test_decoders_and_encoders_by_version() -> None:
    kind = Dectris()
    for query, decoder, encoder in (
        ("", AnyDecoder, V1Encoder),
        ("?version=1", V1Decoder, V1Encoder),
        ("?version=2", V2Decoder, V2Encoder),
    ):
        assert type(kind.decoder(url(f"dectris://h{query}"))) is decoder
        assert type(kind.sender(url(f"dectris://h{query}"))[1]) is encoder
        assert kind.decoder(url(f"dectris://h{query}")).has_end
    assert type(kind.sender(url("dectris://h:31001"))[1]) is V2Encoder
    assert type(kind.decoder(url("dectris://h:31001"))) is AnyDecoder


def test_the_detector_is_switched_between_series() -> None:
    decoder = AnyDecoder()
    for run, encoder in enumerate((V1Encoder(), V2Encoder(), V1Encoder(), V2Encoder())):
        messages = [*encoder.begin(d.source(), run), *encoder.frame(0, {"frames": d.counts(run)}), *encoder.end()]
        with pytest.raises(WireError):
            decoder.feed([b"garbage"])
        header, part, end = d.feed(decoder, messages)
        assert isinstance(header, RunHeader)
        assert isinstance(part, FramePart)
        assert (header.run, part.run, end) == (run, run, RunEnd(run))


def test_split_header_with_tables_is_no_cbor() -> None:
    decoder = AnyDecoder()
    assert isinstance(
        next(iter(d.feed(decoder, Dectris().sender(url("dectris://h?split=1&detail=all"))[1].begin(d.source(), 3)))), RunHeader
    )
    # a table of floats may begin like a CBOR map
    assert decoder.feed([b"\xa1\x01\x02"])
    for bad in ([], [b""], [b"\xa1"]):
        with pytest.raises(WireError):
            AnyDecoder().feed(bad)


QUERIES = [
    "",
    "?version=2",
    "?encoding=<&detail=all&image_appendix=x",
    "?version=2&encoding=none&magic=0",
    "?split=1&hash=0&header_appendix=y",
]


@pytest.mark.parametrize("query", QUERIES)
def test_frames_over_a_socket(query: str) -> None:
    kind = Dectris()
    frames = np.stack([d.counts(i) for i in range(12)])
    out, encoder = kind.sender(url(f"dectris://127.0.0.1:0{query}"))
    out.open()
    try:
        detector = kind.receiver(url(f"dectris://{out.address.partition('//')[2]}"))
        detector.transport.open()
        try:
            messages: list[Any] = [*encoder.begin(d.source(), 4)]
            for i, frame in enumerate(frames):
                messages += encoder.frame(i, {"frames": frame})
            for message in [*messages, *encoder.end()]:
                assert out.send(message.parts, 20.0)
            memory, table, decoder = np.empty(1 << 20, np.uint8), np.empty((64, 3), np.int64), detector.make_decoder()
            found: list[Any] = []
            while not (found and isinstance(found[-1], RunEnd)):
                got = detector.transport.receive(memory, table, 20.0, 1 << 20)
                assert got.messages
                for message in range(got.messages):
                    parts = [memoryview(memory[at : at + n]) for k, at, n in table[: got.rows] if k == message]
                    for event in decoder.feed(parts):
                        found.append(event)
                        if isinstance(event, FramePart):
                            np.testing.assert_array_equal(d.pixels(event, parts), frames[event.number])
            assert [e.number for e in found if isinstance(e, FramePart)] == list(range(12))
            assert found[0].n_frames == 12
        finally:
            detector.transport.close()
    finally:
        out.close()


@pytest.mark.parametrize("version", [1, 2])
def test_replay_is_a_detector_that_others_arm(version: int) -> None:
    frames = np.stack([d.counts(i) for i in range(12)]).reshape(3, 4, 16, 24)
    offline = ls.run(ls.open(frames), ls.udfs.Sum())
    api, stream = free_ports(2)
    cancel, said = threading.Event(), threading.Event()
    accounts: list[Any] = []

    def play() -> None:
        where = f"dectris://127.0.0.1:{stream}?api={api}&version={version}"
        accounts.append(replay(ls.open(frames), where, repeat=5, cancel=cancel, corrupt=0.0, opened=lambda _: said.set()))

    thread = threading.Thread(target=play)
    thread.start()
    try:
        assert said.wait(60)
        with ls.connect(f"dectris://127.0.0.1:{stream}?api={api}", scan=(3, 4), ring_bytes=64 << 20) as live:
            for expected in (1, 2):
                assert live.arm(trigger_mode="exts", ntrigger=12, nimages=1) == expected
                acquisition = live.wait(60)
                assert acquisition is not None, live.problems
                assert acquisition.run == expected
                result = ls.run(acquisition, ls.udfs.Sum())
                np.testing.assert_array_equal(result["sum"], offline["sum"])
                assert result.complete
            # software triggers: nothing comes before the first, and a series may be ended between two
            live.arm(trigger_mode="ints", ntrigger=3, nimages=4)
            live.trigger()
            acquisition = live.wait(60)
            assert acquisition is not None, live.problems
            for _ in range(2000):
                if acquisition.n_arrived == 4 or acquisition.wait(0.01) != "running":
                    break
            live.disarm()
            assert acquisition.wait(20) == "incomplete"
            assert (acquisition.n_arrived, acquisition.meta.shape.nav) == (4, (3, 4))
            live.arm(trigger_mode="exts", ntrigger=12, nimages=1)
            acquisition = live.wait(60)
            assert acquisition is not None
            assert acquisition.wait(20) == "done"
    finally:
        cancel.set()
        thread.join(60)
    assert not thread.is_alive()
    assert accounts[0].cancelled
