"""The REST controller and the simulated control unit: real HTTP on loopback, series over real ZMQ."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

import numpy as np
import pytest

from libstream.ext import FramePart, RunEnd, RunHeader, StreamUrl, UsageError
from libstream.io_backends.streams._dectris_rest import DectrisController
from libstream.io_backends.streams.dectris import Dectris
from tests.live import dectris_messages as d

WAIT_S = 20.0


# -- a server that says what a test wants ----------------------------------------------------------------------------------


class Scripted(BaseHTTPRequestHandler):
    """Answers from `server.answers` by method and path; keeps what was asked. None = no answer before the client gives up."""

    def handle_one_request(self) -> None:
        if self.server.raw is not None:  # type: ignore[attr-defined]
            self.request.recv(1000)
            self.wfile.write(self.server.raw)  # type: ignore[attr-defined]
            self.close_connection = True
            return
        super().handle_one_request()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, json.loads(body) if body else None))  # type: ignore[attr-defined]
        answer = self.server.answers.get((self.command, self.path), (404, b"no such path"))  # type: ignore[attr-defined]
        if answer is None:
            self.request.recv(1)  # until the client closes the connection
            return
        self.send_response(answer[0])
        self.end_headers()
        self.wfile.write(answer[1])

    do_PUT = do_GET

    def log_message(self, *args: Any) -> None:
        """Quiet."""


class Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False

    def __init__(self, answers: dict[tuple[str, str], tuple[int, bytes] | None], raw: bytes | None) -> None:
        super().__init__(("127.0.0.1", 0), Scripted)
        self.answers, self.raw, self.asked = answers, raw, []  # type: ignore[var-annotated]

    def handle_error(self, *_: Any) -> None:
        """Clients that give up are part of the test."""


@contextmanager
def scripted(answers: dict[Any, Any], raw: bytes | None = None) -> Iterator[tuple[DectrisController, list[Any]]]:
    with Server(answers, raw) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield (
                DectrisController("127.0.0.1", server.server_address[1], timeout_s=1.0 if raw or None in answers.values() else 5.0),
                server.asked,
            )
        finally:
            server.shutdown()
            thread.join()


V = {("GET", "/detector/api/version/"): (200, b'{"value": "1.6.0"}'), ("GET", "/stream/api/version/"): (500, b"")}
C, S = "/detector/api/1.6.0", "/stream/api/1.8.0"


def test_arm_applies_settings_in_order_modes_first() -> None:
    paths = [f"{C}/config/{n}" for n in ("trigger_mode", "frame_time", "ntrigger")]
    ok = {("PUT", p): (200, b'["x"]') for p in [*paths, f"{S}/config/header_detail", f"{S}/config/format"]}
    with scripted({**V, **ok, ("PUT", f"{C}/command/arm"): (200, b'{"sequence id": 41}')}) as (controller, asked):
        settings = {
            "frame_time": 0.001,
            "count_time": None,
            "ntrigger": 64,
            "header_detail": "all",
            "trigger_mode": "exts",
            "stream_format": "cbor",
        }
        assert controller.arm(**settings) == 41
        assert [(p, b) for m, p, b in asked if m == "PUT"] == [
            (f"{S}/config/format", {"value": "cbor"}),
            (f"{C}/config/trigger_mode", {"value": "exts"}),
            (f"{C}/config/frame_time", {"value": 0.001}),
            (f"{C}/config/ntrigger", {"value": 64}),
            (f"{S}/config/header_detail", {"value": "all"}),
            (f"{C}/command/arm", None),
        ]
        assert sum(p.endswith("version/") for _, p, _ in asked) == 2  # asked once for each module


def test_commands() -> None:
    commands = {("PUT", f"{C}/command/{n}"): (200, b"") for n in ("arm", "trigger", "disarm", "abort", "initialize")}
    with scripted({**V, **commands}) as (controller, asked):
        assert controller.arm() is None  # a detector that does not say the number
        controller.trigger()
        controller.disarm()
        controller.abort()
        controller.initialize()
        controller.close()
        assert [p.rpartition("/")[2] for m, p, _ in asked if m == "PUT"] == ["arm", "trigger", "disarm", "abort", "initialize"]


def test_refused_with_the_reply() -> None:
    with scripted({**V, ("PUT", f"{C}/config/frame_time"): (400, b"value below\n the minimum 1e-05")}) as (controller, _):
        with pytest.raises(UsageError, match=r"refused frame_time=1e-09: HTTP 400, 'value below the minimum 1e-05'"):
            controller.arm(frame_time=1e-9)
        with pytest.raises(UsageError, match=r"refused PUT /detector/api/1.6.0/command/trigger: HTTP 404, 'no such path'"):
            controller.trigger()
        with pytest.raises(UsageError, match="cannot be written as JSON"):
            controller.arm(frame_time=float("nan"))


def test_unreachable_says_what_to_check() -> None:
    with scripted({}) as (controller, _):
        pass
    with pytest.raises(OSError, match=rf"http://127.0.0.1:{controller.port}.*Is the detector's computer on.*api=PORT"):
        controller.status()
    for host in ("no such host.invalid", "a\nb", "x" * 300 + ".invalid"):
        with pytest.raises(OSError, match="cannot reach"):
            DectrisController(host, 80, timeout_s=1.0).status()


def test_what_answers_is_no_detector() -> None:
    with scripted({}, raw=b"220 smtp ready\r\n") as (controller, _), pytest.raises(OSError, match="something else than HTTP"):
        controller.disarm()
    with scripted({("GET", "/detector/api/version/"): (200, b"<html>")}) as (controller, _), pytest.raises(UsageError, match="HTTP 404"):
        controller.disarm()


def test_no_answer() -> None:
    with scripted({**V, ("PUT", f"{C}/command/disarm"): None, ("PUT", f"{C}/command/trigger"): None}) as (controller, _):
        with pytest.raises(OSError, match=r"did not answer PUT .*disarm within 1 s"):
            controller.disarm()
        controller.trigger()  # some detectors answer when the last image is taken


def test_status_leaves_out_what_the_detector_does_not_know() -> None:
    answers = {("GET", f"{C}/status/state"): (200, b'{"value": "idle"}'), ("GET", f"{C}/config/nimages"): (200, b'{"value": 5}')}
    answers |= {("GET", f"{C}/config/ntrigger"): (200, b"[1, 2]"), ("GET", f"{C}/config/trigger_mode"): (200, b"\xff")}
    with scripted({**V, **answers}) as (controller, _):
        assert controller.status() == {"api_version": "1.6.0", "state": "idle", "nimages": 5}
        assert controller.get("nimages") == 5
        with pytest.raises(UsageError, match="HTTP 404"):
            controller.get("header_appendix")


# -- the simulated control unit --------------------------------------------------------------------------------------------


class Sending:
    """What replay does, in a thread: series after series until the transport is closed."""

    def __init__(self, query: str, meta: Any, frames: np.ndarray, hold: threading.Event | None = None) -> None:
        self.transport, self.encoder = Dectris().sender(StreamUrl.parse(f"dectris://127.0.0.1:0?api=0{query}"))
        self.meta, self.frames, self.hold, self.closed = meta, frames, hold, False
        self.transport.open()
        self.api = self.transport.api_address[1]  # type: ignore[attr-defined]
        self.thread = threading.Thread(target=self.run)

    def __enter__(self) -> Sending:
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.closed = True
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        self.transport.close()

    def run(self) -> None:
        while not self.closed:
            self.send(self.encoder.begin(self.meta, 1))
            for number, frame in enumerate(self.frames):
                if self.hold is not None and number == 5:
                    assert self.hold.wait(WAIT_S)
                self.send(self.encoder.frame(number, {"frames": frame}))
            self.send(self.encoder.end())

    def send(self, messages: Any) -> None:
        for out in messages:
            while not self.transport.send(out.parts, 0.05) and not self.closed:
                pass


class Receiving:
    """The other end: events, with their frames decoded, one series at a time."""

    def __init__(self, stream: str, api: int) -> None:
        port = stream.rpartition(":")[2]
        detector = Dectris().receiver(StreamUrl.parse(f"dectris://127.0.0.1:{port}?api={api}"))
        self.transport, self.decoder, self.controller = detector.transport, detector.make_decoder(), detector.controller
        self.memory, self.table = np.empty(1 << 20, np.uint8), np.empty((64, 3), np.int64)

    def __enter__(self) -> Receiving:
        self.transport.open()
        return self

    def __exit__(self, *_: Any) -> None:
        self.transport.close()

    def series(self) -> tuple[list[Any], dict[int, np.ndarray]]:
        events: list[Any] = []
        frames: dict[int, np.ndarray] = {}
        while not (events and isinstance(events[-1], RunEnd)):
            got = self.transport.receive(self.memory, self.table, WAIT_S, 1 << 20)
            assert got.messages, f"nothing more came after {events[-1:]}"
            rows = self.table[: got.rows]
            for message in range(got.messages):
                parts = [memoryview(self.memory[at : at + n]) for _, at, n in rows[rows[:, 0] == message]]
                for event in self.decoder.feed(parts):
                    events.append(event)
                    if isinstance(event, FramePart):
                        frames[event.number] = d.pixels(event, parts)
        return events, frames


FRAMES = np.stack([d.counts(i) for i in range(12)])


@pytest.mark.parametrize("query", ["", "&version=2"])
def test_series_armed_by_others(query: str) -> None:
    with Sending(query, d.source(), FRAMES) as sending, Receiving(sending.transport.address, sending.api) as receiving:
        for expected in (1, 2, 3):
            assert receiving.controller.arm() == expected
            events, frames = receiving.series()
            assert isinstance(events[0], RunHeader)
            assert (events[0].run, events[0].n_frames, len(events), events[-1]) == (expected, 12, 14, RunEnd(expected))
            np.testing.assert_array_equal(np.stack([frames[i] for i in range(12)]), FRAMES)


def test_settings_reach_the_stream() -> None:
    with Sending("", d.source(), FRAMES) as sending, Receiving(sending.transport.address, sending.api) as receiving:
        arm = receiving.controller.arm
        arm(ntrigger=5, trigger_mode="exte", frame_time=0.005, header_appendix='{"scan": [1, 5]}', compression="none")
        events, frames = receiving.series()
        assert (events[0].n_frames, events[0].scan, events[0].frame_time_s, sorted(frames)) == (5, (1, 5), 0.005, [0, 1, 2, 3, 4])
        assert events[1].codec == "raw<"
        arm(stream_format="cbor", header_detail="all", nimages=2, trigger_mode="exts", compression="lz4", header_appendix={"scan": [5, 2]})
        events, frames = receiving.series()
        assert (events[0].n_frames, events[0].scan, events[1].codec, len(frames)) == (10, (5, 2), "lz4f", 10)
        assert "pixel_mask" in events[0].meta
        status = receiving.controller.status()
        assert (status["stream_format"], status["nimages"], status["x_pixels_in_detector"]) == ("cbor", 2, 24)


def test_software_triggers() -> None:
    with Sending("", d.source(), FRAMES) as sending, Receiving(sending.transport.address, sending.api) as receiving:
        controller = receiving.controller
        with pytest.raises(UsageError, match="arm first"):
            controller.trigger()
        controller.arm(trigger_mode="ints", ntrigger=2, nimages=6)
        controller.trigger()
        controller.trigger()
        events, frames = receiving.series()
        assert (events[0].n_frames, len(frames)) == (12, 12)
        controller.arm(trigger_mode="inte", ntrigger=3)
        for _ in range(3):
            controller.trigger()
        events, frames = receiving.series()
        assert (events[0].n_frames, len(frames)) == (3, 3)


@pytest.mark.parametrize("command", ["abort", "disarm"])
def test_a_series_that_is_ended_early(command: str) -> None:
    hold = threading.Event()
    with Sending("", d.source(), FRAMES, hold) as sending, Receiving(sending.transport.address, sending.api) as receiving:
        receiving.controller.arm()
        with pytest.raises(UsageError, match="unheard_of"):
            receiving.controller.arm(unheard_of=1)
        getattr(receiving.controller, command)()
        hold.set()
        events, frames = receiving.series()
        assert events[0].n_frames == 12
        assert len(frames) <= 5
        assert receiving.controller.arm() == 2
        events, frames = receiving.series()
        assert (events[0].run, len(frames)) == (2, 12)


def test_more_images_asked_for_than_there_are() -> None:
    with Sending("", d.source(), FRAMES) as sending, Receiving(sending.transport.address, sending.api) as receiving:
        receiving.controller.arm(ntrigger=100)
        events, frames = receiving.series()
        assert (events[0].n_frames, len(frames), events[-1]) == (100, 12, RunEnd(1))


def ask(port: int, method: str, path: str, body: str = "") -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request(method, path, body=body, headers={"Content-Type": "application/json; charset=utf-8"})
        reply = connection.getresponse()
        data = reply.read()
        kind = reply.getheader("Content-Type") or ""
        return reply.status, kind, json.loads(data) if "json" in kind else data
    finally:
        connection.close()


@pytest.fixture(scope="module")
def unit() -> Iterator[int]:
    with Sending("", d.source(), FRAMES) as sending:
        keys: list[str] = []
        while "nimages" not in keys:  # described by the thread that has just begun
            keys = ask(sending.api, "GET", "/detector/api/1.8.0/config/keys")[2]
        assert set(ask(sending.api, "GET", "/detector/api/1.8.0/config/")[2]) == set(keys)
        yield sending.api


MODE = {"access_mode": "rw", "value": "enabled", "value_type": "string", "allowed_values": ["enabled", "disabled"]}
IDLE = {"value": "idle", "value_type": "string", "access_mode": "r", "state": "normal"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reply"),
    [
        ("GET", "/detector/api/version/", "", 200, {"value": "1.8.0", "value_type": "string"}),
        ("GET", "/detector/api/1.8.0/config/nimages", "", 200, {"access_mode": "rw", "value": 1, "value_type": "uint"}),
        ("GET", "/detector/api/1.8.0/config/bit_depth_image", "", 200, {"access_mode": "r", "value": 16, "value_type": "uint"}),
        (
            "GET",
            "/stream/api/1.8.0/config/mode",
            "",
            200,
            MODE,
        ),
        ("GET", "/filewriter/api/1.8.0/config/nimages_per_file", "", 200, {"access_mode": "rw", "value": 1000, "value_type": "uint"}),
        ("PUT", "/filewriter/api/1.8.0/config/mode", '{"value": "disabled"}', 200, ["mode"]),
        ("PUT", "/filewriter/api/1.8.0/command/clear", "", 200, b""),
        ("PUT", "/detector/api/1.8.0/config/frame_time", '{"value": 1}', 200, ["frame_time"]),
        ("PUT", "/detector/api/1.8.0/config/frame_time", '{"value": "fast"}', 400, "frame_time is of type float, got string"),
        ("PUT", "/detector/api/1.8.0/config/nimages", '{"value": 0}', 400, "nimages is a whole number of at least 1, got '0'"),
        ("PUT", "/detector/api/1.8.0/config/trigger_mode", '{"value": "x"}', 400, "trigger_mode is one of exte, exts, inte, ints, got 'x'"),
        ("PUT", "/detector/api/1.8.0/config/y_pixels_in_detector", '{"value": 9}', 400, "y_pixels_in_detector is read-only"),
        ("PUT", "/detector/api/1.8.0/config/nimages", '{"value"', 400, None),
        ("PUT", "/detector/api/1.8.0/config/nimages", "[1]", 400, 'expected {"value": ...}'),
        ("PUT", "/detector/api/1.8.0/config/nothing", '{"value": 9}', 404, "there is no nothing"),
        (
            "GET",
            "/detector/api/1.8.0/status/state",
            "",
            200,
            IDLE,
        ),
        ("PUT", "/detector/api/1.8.0/command/initialize", "", 200, {}),
        ("PUT", "/detector/api/1.8.0/command/disarm", "", 200, {"sequence id": 0}),
        ("PUT", "/detector/api/1.8.0/command/explode", "", 404, None),
        ("GET", "/", "", 404, None),
        ("GET", "/system/api/1.8.0/config/", "", 404, None),
    ],
)
def test_rest_of_the_simulated_unit(unit: int, method: str, path: str, body: str, status: int, reply: Any) -> None:
    got = ask(unit, method, path, body)
    assert got[0] == status
    if reply is not None:
        assert got[2] == reply


def test_the_port_is_taken() -> None:
    with Sending("", d.source(), FRAMES) as sending:
        other, _ = Dectris().sender(StreamUrl.parse(f"dectris://127.0.0.1:0?api={sending.api}"))
        try:
            with pytest.raises(OSError, match=rf"127.0.0.1:{sending.api}.*another port with \?api="):
                other.open()
        finally:
            other.close()
