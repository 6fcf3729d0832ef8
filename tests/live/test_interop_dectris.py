"""DECTRIS' own decompression and an independent reader and writer of stream V2: what one side encodes, the other one decodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.contracts.stream import FramePart, RunEnd, RunHeader, StreamUrl
from libstream.ext import DataShape, SourceId, SourceMeta, wire
from libstream.io_backends.streams.dectris import Dectris
from tests.live import dectris_messages as d
from tests.live.peers import Peer
from tests.live.sending import free_ports

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]
SIZES = [(16, 24), (37, 53), (128, 257), (1, 1), (3, 5)]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """Their side."""
    with Peer.script("dectris", tmp_path_factory.mktemp("peer") / "peer.log") as peer:
        yield peer


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("algorithm", ["bslz4", "lz4"])
def test_payloads(tmp_path: Path, peer: Peer, algorithm: str, dtype: str) -> None:
    width = np.dtype(dtype).itemsize
    codec = f"bslz4/{width}" if algorithm == "bslz4" else "lz4f"
    blob, raw, given = tmp_path / "blob", tmp_path / "raw", tmp_path / "frame.npy"
    for k, shape in enumerate(SIZES):
        for frame in (d.counts(k, shape, dtype), np.random.default_rng(k).integers(0, 1 << 8 * width, shape).astype(dtype)):
            # ours there
            blob.write_bytes(bytes(wire.encode(codec, frame)))
            peer.ask(do="decompress", blob=str(blob), out=str(raw), algorithm=algorithm, width=width)
            assert raw.read_bytes() == frame.tobytes(), shape
            # theirs here
            np.save(given, frame)
            peer.ask(do="compress", frame=str(given), out=str(blob), algorithm=algorithm)
            src = np.frombuffer(blob.read_bytes(), np.uint8)
            out = np.zeros(frame.nbytes, np.uint8)
            assert wire.decode(codec, shape, dtype, src, [0], [len(src)], out, [0]).tolist() == [True]
            assert out.tobytes() == frame.tobytes(), shape


def channels_of(n: int, dtype: str) -> dict[str, Any]:
    """Frames of two thresholds."""
    low = np.stack([d.counts(k, (37, 53), dtype) for k in range(n)])
    return {"threshold_1": low, "threshold_2": low // 2 + np.arange(n)[:, None, None].astype(dtype)}


@pytest.mark.parametrize(("compression", "dtype"), [("bslz4", "uint16"), ("bslz4", "uint32"), ("lz4", "uint16"), ("none", "uint8")])
def test_our_messages_are_understood(tmp_path: Path, peer: Peer, compression: str, dtype: str) -> None:
    frames = channels_of(4, dtype)
    meta = SourceMeta(SourceId("made-up", "sim", 0), DataShape((2, 2), (37, 53)), np.dtype(dtype), channels=tuple(frames))
    _, encoder = Dectris().sender(StreamUrl.parse(f"dectris://127.0.0.1:0?version=2&encoding={compression}"))
    messages = [*encoder.begin(meta, 5)]
    for k in range(4):
        messages += encoder.frame(k, {name: f[k] for name, f in frames.items()})
    messages += encoder.end()
    (tmp_path / "messages").mkdir()
    for i, message in enumerate(messages):
        (data,) = message.parts
        (tmp_path / "messages" / f"{i:05d}.cbor").write_bytes(bytes(data))
    said = peer.ask(do="read", folder=str(tmp_path / "messages"), out=str(tmp_path / "found.npz"))
    assert said["kinds"] == ["start", *["image"] * 4, "end"]
    assert all(said["magic"])
    assert said["start"] == {
        "series_id": 5, "number_of_images": 4, "image_size_x": 53, "image_size_y": 37, "image_dtype": dtype, "channels": list(frames),
    }  # fmt: skip
    found = np.load(tmp_path / "found.npz")
    assert len(found.files) == 8
    for name, expected in frames.items():
        for k in range(4):
            assert found[f"{name}/{k}"].dtype == expected.dtype
            assert np.array_equal(found[f"{name}/{k}"], expected[k])


@pytest.mark.parametrize(("compression", "dtype"), [("bslz4", "uint16"), ("bslz4", "uint32"), ("lz4", "uint16"), ("none", "uint8")])
def test_their_messages_are_understood(tmp_path: Path, peer: Peer, compression: str, dtype: str) -> None:
    import zmq

    frames = channels_of(6, dtype)
    np.save(tmp_path / "frames.npy", np.stack(list(frames.values())))
    (tmp_path / "messages").mkdir()
    peer.ask(do="write", frames=str(tmp_path / "frames.npy"), folder=str(tmp_path / "messages"), algorithm=compression)
    messages = [p.read_bytes() for p in sorted((tmp_path / "messages").iterdir())]

    decoder = Dectris().decoder(StreamUrl.parse("dectris://127.0.0.1:9999"))
    events = [event for message in messages for event in decoder.feed(d.views([message]))]
    header, end = events[0], events[-1]
    assert isinstance(header, RunHeader)
    assert isinstance(end, RunEnd)
    assert (header.run, header.n_frames, tuple(header.channels)) == (5, 6, tuple(frames))
    parts = [e for e in events if isinstance(e, FramePart)]
    assert len(parts) == 12
    for part in parts:
        assert np.array_equal(d.pixels(part, [messages[1 + part.number]]), frames[f"threshold_{part.channel + 1}"][part.number])

    (port,) = free_ports(1)
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.linger = 0
        socket.bind(f"tcp://127.0.0.1:{port}")
        with ls.connect(f"dectris://127.0.0.1:{port}", scan=(2, 3), ring_bytes=64 << 20) as live:
            for message in messages:
                socket.send(message)
            acquisition = live.wait(20)
            assert acquisition is not None, live.problems
            result = ls.run(acquisition, ls.udfs.Sum())
            assert result.complete, (result.ledger, live.problems)
            assert np.array_equal(result["sum"], frames["threshold_1"].sum(axis=0, dtype=np.uint64))
