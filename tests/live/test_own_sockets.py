"""libstream's own stream over real sockets: the programs of the docs, several producers, keys."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest

from libstream.ext import Announced, DataShape, FramePart, RunEnd, RunHeader, SourceId, SourceMeta, StreamUrl, UsageError, wire
from libstream.io_backends.streams import _own_decode
from libstream.io_backends.streams.own import Own, OwnDecoder
from tests import links

_Arr = np.ndarray[Any, Any]
dumps = cbor2.dumps
START: dict[str, Any] = {"v": 1, "type": "start", "run": 1, "n_frames": 6, "scan": [2, 3], "frame": [4, 5], "dtype": "uint16"}


class Listening:
    """The receiving side at a free port; events and payloads as they come."""

    def __init__(self, query: str = "") -> None:
        self.transport = Own().receiver(StreamUrl.parse(f"libstream://127.0.0.1:0{query}")).transport
        self.decoder, self.events, self.payloads = OwnDecoder(), [], []
        self.into, self.table = np.zeros(1 << 20, "u1"), np.zeros((1000, 3), np.int64)

    def __enter__(self) -> Listening:
        self.transport.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close()

    def until(self, done: Callable[[], bool], seconds: float = 30) -> None:
        """Take messages until `done`."""
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, self.events[-5:]
            got = self.transport.receive(self.into, self.table, 0.1, self.into.size)
            rows = self.table[: got.rows].tolist()
            for message in range(got.messages):
                parts = [memoryview(self.into)[at : at + n] for m, at, n in rows if m == message]
                for event in self.decoder.feed(parts):
                    self.events.append(event)
                    if type(event) is FramePart:
                        self.payloads.append(bytes(parts[event.part][event.start : event.stop]))

    def ended(self) -> bool:
        return any(type(e) is RunEnd for e in self.events)

    def frame(self, i: int) -> _Arr:
        """Decoded pixels of the i-th frame part."""
        part = [e for e in self.events if type(e) is FramePart][i]
        out = np.zeros(part.shape, part.dtype)
        payload = np.frombuffer(self.payloads[i], "u1")
        assert wire.decode(part.codec, part.shape, part.dtype, payload, [0], [payload.size], out.reshape(-1).view("u1"), [0]).all()
        return out


PAGE = links.ROOT / "docs/how-to/feed-your-own-detector.md"


def page_file(name: str, folder: Path) -> Path:
    """A file that the page shows, just as it stands there."""
    text = re.search(rf"```python\n# file: {name}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert text is not None
    (folder / name).write_text(text[1], encoding="utf-8")
    return folder / name


@pytest.fixture
def programs() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Programs that were started; they are ended."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for program in started:
        program.kill()
        program.wait()


def test_the_example_of_the_page(tmp_path: Path, programs: list[subprocess.Popen[bytes]]) -> None:
    file = page_file("producer.py", tmp_path)
    assert len([line for line in file.read_text().splitlines() if line.strip()]) <= 20
    with Listening() as here:
        programs.append(subprocess.Popen([sys.executable, str(file), here.transport.address]))
        here.until(here.ended)
        assert programs[0].wait(30) == 0
    assert here.events[0] == RunHeader("scan 1", 64, (8, 8), (32, 48), "uint16")
    rng = np.random.default_rng(0)
    for i in range(64):
        np.testing.assert_array_equal(here.frame(i), rng.poisson(10, (32, 48)))
    assert here.events[-2:] == [Announced("scan 1", 0, 64), RunEnd("scan 1")]


def test_the_example_with_several_producers(tmp_path: Path, programs: list[subprocess.Popen[bytes]]) -> None:
    file = page_file("part.py", tmp_path)
    with Listening("?producers=3") as here:
        address = here.transport.address
        programs += [subprocess.Popen([sys.executable, str(file), address, str(i), "3"]) for i in range(3)]
        here.until(here.ended)
        assert [p.wait(30) for p in programs] == [0, 0, 0]
    assert [type(e) for e in here.events].count(RunHeader) == 1
    assert here.events[-4:] == [Announced(7, 0, 64), Announced(7, 1, 0), Announced(7, 2, 0), RunEnd(7)]
    frames = np.random.default_rng(0).poisson(0.3, (64, 32, 48))
    parts = [e for e in here.events if type(e) is FramePart]
    assert sorted(p.number for p in parts) == list(range(64))
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(here.frame(i), frames[part.number])


def test_what_the_page_says_is_what_the_decoder_reads() -> None:
    """Every field of the tables of the page is read, and every field that is read is in the tables."""
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE.read_text(encoding="utf-8"), re.M)
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"start", "end", "frames"}
    source = Path(_own_decode.__file__).read_text(encoding="utf-8")
    read = set(re.findall(r'said\.get\("(\w+)"', source)) | set(re.findall(r'\(said, "(\w+)"', source)) | {"frame", "shape"}
    assert told - {"lz4", "lz4f", "zstd"} == read - {"type"}


def test_a_sender_and_a_receiver() -> None:
    with Listening() as here:
        port = here.transport.address.rpartition(":")[2]
        transport, encoder = Own().sender(StreamUrl.parse(f"libstream://127.0.0.1:{port}?codec=raw>"))
        transport.open()
        try:
            frame = np.arange(24, dtype="u2").reshape(4, 6)
            about = SourceMeta(SourceId("here", "memory", 0), DataShape((6,), (4, 6)), np.dtype("u2"))
            for message in [*encoder.begin(about, 5), *encoder.frame(2, {"frames": frame}), *encoder.end()]:
                assert transport.send(message.parts, 10.0)
            here.until(here.ended)
        finally:
            transport.close()
    np.testing.assert_array_equal(here.frame(0), frame)


def test_keys(tmp_path: Path) -> None:
    """Producers whose key is listed come in, all others do not, and there is nobody without a key."""
    zmq = pytest.importorskip("zmq")
    auth = pytest.importorskip("zmq.auth")
    for name in ("here/clients", "known", "stranger"):
        (tmp_path / name).mkdir(parents=True)
    auth.create_certificates(tmp_path / "here", "server")
    for name in ("known", "stranger"):
        auth.create_certificates(tmp_path / name, name)
        (tmp_path / name / "server.key").write_bytes((tmp_path / "here/server.key").read_bytes())
    (tmp_path / "here/clients/known.key").write_bytes((tmp_path / "known/known.key").read_bytes())
    with Listening(f"?curve={tmp_path}/here") as here:
        port = here.transport.address.rpartition(":")[2]
        known, stranger = (
            Own().sender(StreamUrl.parse(f"libstream://127.0.0.1:{port}"), curve=tmp_path / name)[0] for name in ("known", "stranger")
        )
        with zmq.Context() as context, context.socket(zmq.PUSH) as plain:
            plain.setsockopt(zmq.LINGER, 0)
            plain.connect(here.transport.address)
            plain.send(dumps({**START, "run": "plain"}))
            known.open()
            stranger.open()
            try:
                # nobody takes what a stranger sends; what it may send into the void is not seen here
                assert not stranger.send([dumps({**START, "run": "stranger"})], 1.0)
                assert known.send([dumps({**START, "run": "known"})], 10.0)
                assert known.send([dumps({"type": "end", "run": "known"})], 10.0)
                here.until(here.ended)
            finally:
                known.close()
                stranger.close()
    assert [e.run for e in here.events] == ["known", "known"]


def test_folders_of_keys(tmp_path: Path) -> None:
    def connect(bind: int) -> None:
        Own().receiver(StreamUrl.parse(f"libstream://h:1?curve={tmp_path}&bind={bind}"))

    auth = pytest.importorskip("zmq.auth")
    with pytest.raises(UsageError, match=r"0 files \*.key_secret"):
        connect(1)
    auth.create_certificates(tmp_path, "mine")
    with pytest.raises(UsageError, match="nobody could come in"):
        connect(1)
    with pytest.raises(UsageError, match=r"server\.key is missing"):
        connect(0)
    (tmp_path / "server.key").write_text("nonsense")
    with pytest.raises(UsageError, match="holds no CURVE keys"):
        connect(0)
    auth.create_certificates(tmp_path, "another")
    with pytest.raises(UsageError, match="2 files"):
        connect(1)
