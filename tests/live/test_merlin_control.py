"""Merlin's control port: commands against answers of strangers, and a scan that a client starts."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from libstream.ext import StreamUrl, UsageError
from libstream.io_backends.streams import _merlin_control
from libstream.io_backends.streams._merlin_control import MerlinControl
from libstream.io_backends.streams._merlin_simulated import ControlServer
from libstream.io_backends.streams.merlin import Merlin
from tests.live.merlin_streams import decoded, meta_of, small


@contextlib.contextmanager
def stranger(answer: Callable[[str], list[bytes]]) -> Iterator[tuple[int, list[str]]]:
    """A control port that is not ours; `answer` gives the pieces in which a reply is sent. Its port, and the commands that came."""
    heard: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, contextlib.suppress(OSError):
                    while data := client.recv(4096):
                        assert int(data[4:14]) == len(data) - 14
                        heard.append(data[15:].decode())
                        pieces = answer(heard[-1])
                        for piece in pieces:
                            client.sendall(piece)
                        if not pieces:
                            break

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], heard
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def message(text: str, more: int = 1) -> bytes:
    return b"MPX,%010d," % (len(text) + more) + text.encode()


def reply_to(command: str, values: dict[str, str], code: int = 0) -> str:
    kind, name, _ = command.split(",")
    if kind == "GET":
        return f"GET,{name},{values.get(name, '0')},{code if name in values else 2}"
    return f"{kind},{name},{code}"


@pytest.mark.parametrize("more", [1, 0, 2, -3])
def test_lengths_of_replies_are_not_believed(more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_merlin_control, "_GRACE_S", 0.02)
    values = {"IMAGEX": "256", "IMAGEY": "515", "COUNTERDEPTH": "12", "FILENAME": "a,b c"}
    with stranger(lambda c: [message(reply_to(c, values), more)]) as (port, heard):
        control = MerlinControl("127.0.0.1", port, timeout_s=5.0)
        assert control.status() == {"imagex": 256, "imagey": 515, "counterdepth": 12}
        assert control.get("filename") == "a,b c"
        assert control.arm(triggerstart=5, numframestoacquire=8, gain=1, counterdepth=12, fileformat=2) is None
        control.trigger()
        control.disarm()
        control.close()
        assert heard[-8:] == [
            "SET,COUNTERDEPTH,12", "SET,FILEFORMAT,2", "SET,NUMFRAMESTOACQUIRE,8", "SET,TRIGGERSTART,5", "SET,GAIN,1",
            "CMD,STARTACQUISITION,0", "CMD,SOFTTRIGGER,0", "CMD,STOPACQUISITION,0",
        ]  # fmt: skip


def test_replies_in_pieces_and_after_garbage() -> None:
    def answer(command: str) -> list[bytes]:
        data = message(reply_to(command, {"IMAGEX": "1024"}))
        return [b"left over MPX,", data[:9], data[9:-3], data[-3:]]

    with stranger(answer) as (port, _):
        control = MerlinControl("127.0.0.1", port, timeout_s=5.0)
        assert [control.get("IMAGEX") for _ in range(5)] == ["1024"] * 5
        control.close()


@pytest.mark.parametrize(("code", "words"), [(1, "busy"), (2, "unknown command"), (3, "out of range"), (7, "not documented")])
def test_refusals_say_why(code: int, words: str) -> None:
    with stranger(lambda c: [message(reply_to(c, {}, code))]) as (port, heard):
        control = MerlinControl("127.0.0.1", port)
        with pytest.raises(UsageError, match=rf"refused SET COUNTERDEPTH = 13: .*{words}.*code {code}"):
            control.arm(counterdepth=13)
        with pytest.raises(UsageError, match=f"refused STOPACQUISITION: .*{words}"):
            control.disarm()
        assert heard == ["SET,COUNTERDEPTH,13", "CMD,STOPACQUISITION,0"]
        control.close()


@pytest.mark.parametrize(("name", "value"), [("A,B", 1), ("", 1), ("GAIN", "1,CMD"), ("GAIN", "1\r\nMPX"), ("GAIN", ""), ("GAIN", "ä")])
def test_nothing_else_can_be_put_into_a_command(name: str, value: Any) -> None:
    control = MerlinControl("127.0.0.1", 1)
    with pytest.raises(UsageError, match="without commas"):
        control.set(name, value)
    with pytest.raises(UsageError, match="no name"):
        control.get("A,B")


def test_silence_and_lost_connections_are_told_and_the_next_command_connects_again() -> None:
    answers: list[list[bytes]] = [[b"MPX,0000000010,GET,IM"], [], [b"y" * 70_000], [message("GET,IMAGEX,8,0")]]
    with stranger(lambda _: answers.pop(0)) as (port, _):
        control = MerlinControl("127.0.0.1", port, timeout_s=0.3)
        for match in ("no reply within 0.3 s, only", "closed", "no reply"):
            with pytest.raises(OSError, match=rf"{port}: .*{match}.*no other program"):
                control.get("IMAGEX")
        assert control.get("IMAGEX") == "8"
        control.close()
        control.close()
    with pytest.raises(OSError, match="Is the detector's software running"):
        MerlinControl("127.0.0.1", port, timeout_s=0.5).trigger()


# -- the simulated port ---------------------------------------------------------------------------------------------------


def test_the_simulated_port_answers() -> None:
    server = ControlServer("127.0.0.1", 0)
    assert server.answer("GET,IMAGEX,0") == "GET,IMAGEX,0,0"
    assert server.answer("SET,COUNTERDEPTH,6") == "SET,COUNTERDEPTH,0"
    assert server.answer("GET,counterdepth,0") == "GET,counterdepth,6,0"
    assert server.answer("SET,COUNTERDEPTH,7") == "SET,COUNTERDEPTH,3"
    assert server.answer("SET,NUMFRAMESTOACQUIRE,x") == "SET,NUMFRAMESTOACQUIRE,3"
    assert server.answer("SET,NOTHING,1") == "SET,NOTHING,2"
    assert server.answer("GET,NOTHING,0") == "GET,NOTHING,0,2"
    assert server.answer("CMD,NOTHING,0") == "CMD,NOTHING,2"
    assert server.answer("WHAT") == "WHAT,,2"
    assert server.answer("CMD,STARTACQUISITION,0") == "CMD,STARTACQUISITION,0"
    assert server.answer("CMD,STARTACQUISITION,0") == "CMD,STARTACQUISITION,1"
    assert server.wait_started(0)
    server.begun(5)
    assert server.answer("SET,COUNTERDEPTH,12") == "SET,COUNTERDEPTH,1"
    server.sent(5)
    assert server.answer("CMD,STARTACQUISITION,0") == "CMD,STARTACQUISITION,0"


def test_the_simulated_port_closes_on_strangers_and_serves_others() -> None:
    server = ControlServer("127.0.0.1", 0)
    server.open()
    try:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"MPX,9999999999," + b"x" * 5000, b"MPX,0000000099,GET,IMA"):
            with socket.create_connection(("127.0.0.1", server.port), 5) as client:
                client.sendall(garbage)
                if not garbage.endswith(b"IMA"):
                    with contextlib.suppress(ConnectionResetError):
                        assert client.recv(100) == b""
        control = MerlinControl("127.0.0.1", server.port)
        assert control.status()["counterdepth"] == 12
        control.close()
        with pytest.raises(OSError, match="cannot listen"):
            ControlServer("127.0.0.1", server.port).open()
    finally:
        server.close()
        server.close()


def test_a_client_starts_triggers_and_stops_what_is_sent() -> None:
    frames = small(6)
    kind = Merlin()
    sending, encoder = kind.sender(StreamUrl.parse("merlin://127.0.0.1:0?control=0"))
    sending.open()
    data, control_at = (int(a.rpartition(":")[2]) for a in sending.address.split(","))
    detector = kind.receiver(StreamUrl.parse(f"merlin://127.0.0.1:{data}?control={control_at}"))
    control = detector.controller
    assert control is not None
    into, table = np.zeros(1 << 20, np.uint8), np.zeros((64, 3), np.int64)
    detector.transport.open()

    def received(most: int) -> list[bytes]:
        out: list[bytes] = []
        for _ in range(100):
            n = detector.transport.receive(into, table, 0.1, 1 << 18)
            out += [bytes(into[at : at + size]) for _, at, size in table[: n.rows].tolist()]
            if len(out) >= most:
                break
        return out

    def run() -> tuple[Any, list[Any]]:
        (header,) = encoder.begin(meta_of(frames, (2, 3)), 1)
        return header, [o for i, frame in enumerate(frames) for o in encoder.frame(i, {"frames": frame})]

    try:
        received(0)  # connects
        header, rest = run()
        assert control.status()["numframestoacquire"] == 6
        assert not sending.send(header.parts, 0.01)  # nobody has started
        control.arm(triggerstart=5)
        assert sending.send(header.parts, 10.0)
        assert not sending.send(rest[0].parts, 0.01)  # nor triggered
        control.trigger()
        assert all(sending.send(o.parts, 10.0) for o in rest)
        headers, got = decoded(received(7))
        assert headers[0].scan == (2, 3)
        assert all((got[1, i, 0] == frames[i]).all() for i in range(6))

        header, rest = run()
        control.arm(triggerstart=0)
        assert sending.send(header.parts, 10.0)
        assert sending.send(rest[0].parts, 10.0)
        with pytest.raises(UsageError, match="busy"):
            control.arm()
        control.disarm()
        assert all(sending.send(o.parts, 10.0) for o in rest[1:])  # thrown away: a stop is not seen on the data port
        control.arm()
        header, rest = run()
        assert sending.send(header.parts, 10.0)
        assert [data[15:19] for data in received(3)] == [b"HDR,", b"MQ1,", b"HDR,"]
        assert received(0) == []
    finally:
        control.close()
        detector.transport.close()
        sending.close()
