"""What the tests of DECTRIS' streams share: sources, decoding of events, damaged messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from libstream.ext import DataShape, Decoder, Event, FramePart, Outgoing, Parts, SourceId, SourceMeta, WireError, wire


def source(
    scan: tuple[int, ...] = (3, 4),
    frame: tuple[int, int] = (16, 24),
    dtype: str = "uint16",
    channels: tuple[str, ...] = ("frames",),
) -> SourceMeta:
    """A description of a source; no data."""
    return SourceMeta(SourceId("made-up", "sim", 0), DataShape(scan, frame), np.dtype(dtype), channels=channels)


def counts(seed: int, shape: tuple[int, int] = (16, 24), dtype: str = "uint16") -> np.ndarray:
    """A frame as counting detectors have them: mostly small numbers, some large."""
    rng = np.random.default_rng(seed)
    frame = rng.poisson(3, shape)
    frame[rng.integers(0, shape[0], 5), rng.integers(0, shape[1], 5)] = 250
    return frame.astype(dtype)


def pixels(part: FramePart, parts: Parts) -> np.ndarray:
    """The frame of an event, decoded from its message."""
    src = np.frombuffer(parts[part.part], np.uint8)
    out = np.empty(part.shape, part.dtype)
    flat = out.reshape(-1).view(np.uint8)
    ok = wire.decode(part.codec, part.shape, part.dtype, src, [part.start], [part.stop - part.start], flat, [0])
    assert ok.tolist() == [True]
    return out


def views(parts: Iterable[bytes]) -> list[memoryview]:
    """A message as transports hand it over: views of one block of memory, which is written again later."""
    parts = list(parts)
    block = memoryview(bytearray(b"".join(parts)))
    out, at = [], 0
    for part in parts:
        out.append(block[at : at + len(part)])
        at += len(part)
    return out


def feed(decoder: Decoder, outgoing: Iterable[Outgoing]) -> list[Event]:
    """Events of messages."""
    return [event for out in outgoing for event in decoder.feed(views(out.parts))]


def damaged(parts: list[bytes], n: int, seed: int) -> Iterator[list[bytes]]:
    """n variants of a message: bytes changed, cut, inserted, doubled; parts lost, doubled, exchanged."""
    rng = random.Random(seed)
    for _ in range(n):
        out = [bytearray(p) for p in parts]
        for _ in range(rng.randint(1, 3)):
            part = out[rng.randrange(len(out))]
            kind = rng.randrange(8)
            at = rng.randrange(len(part) + 1)
            if kind < 3 and part:
                part[min(at, len(part) - 1)] = rng.randrange(256)
            elif kind == 3:
                del part[at:]
            elif kind == 4:
                part[at:at] = rng.randbytes(rng.randint(1, 9))
            elif kind == 5:
                del part[at : at + rng.randint(1, 9)]
            elif kind == 6:
                part[at:at] = part[max(0, at - 12) : at]
            else:
                i, j = rng.randrange(len(out)), rng.randrange(len(out))
                out[i], out[j] = bytearray(out[j]), bytearray(out[i])
        if rng.random() < 0.1:
            del out[rng.randrange(len(out))]
        yield [bytes(p) for p in out]


def survives(make: Callable[[], Decoder], good: list[list[bytes]], bad: Iterable[list[bytes]]) -> int:
    """Feed bad messages to a decoder that has seen a header; only WireError comes, and a good series is understood after each.

    good: messages of a whole series. Returns how many of the bad messages were refused.
    """
    expected = [list(make_and_feed(make, good[: i + 1]))[-1] for i in range(len(good))]
    refused = 0
    decoder = make()
    for parts in bad:
        try:
            events = list(decoder.feed(views(parts)))
        except WireError as exc:
            refused += 1
            events, said = [], str(exc)
            assert 10 < len(said) < 1000
        for event in events:
            check(event, parts)
        # what comes after is understood, whatever the damaged message was taken for
        for message, event in zip(good, expected, strict=True):
            assert list(decoder.feed(views(message)))[-1] == event
    return refused


def make_and_feed(make: Callable[[], Decoder], messages: list[list[bytes]]) -> list[Event]:
    """Events of messages, by a fresh decoder."""
    decoder = make()
    return [event for parts in messages for event in decoder.feed(views(parts))]


def check(event: Event, parts: list[bytes]) -> None:
    """Whatever an event says lies inside of its message and inside of the limits."""
    if isinstance(event, FramePart):
        assert 0 <= event.part < len(parts)
        assert 0 <= event.start <= event.stop <= len(parts[event.part])
        assert all(type(n) is int and 0 < n <= 65536 for n in event.shape)
        assert type(event.number) is int
        assert 0 <= event.number < 1 << 63
        assert type(event.t_ns) is int
        assert 0 <= event.t_ns < 1 << 63
        wire_known(event)


def wire_known(event: FramePart) -> None:
    """The codec is one that there is; bitshuffle may still not fit the number of pixels, which only damages that frame."""
    if not event.codec.startswith("bslz4"):
        wire.check(event.codec, event.shape, event.dtype)
