"""Hostile messages over real sockets, for each protocol: nothing but a count comes of them, and every good run between them is whole."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream import registry
from libstream.contracts.stream import StreamUrl
from libstream.errors import LibstreamError
from libstream.live.ingest import Ingest
from libstream.live.ledger import imbalance
from libstream.live.runs import Runs
from libstream.model.shape import DataShape
from libstream.model.source import SourceId, SourceMeta
from tests.live.resources import MIB, Held
from tests.live.rubbish import Rubbish
from tests.live.sending import BINDS, PROTOCOLS, free_ports

SCAN = (4, 6)
N = 24
FRAME = {"dectris-v1": (16, 24), "dectris-v2": (16, 24), "own": (16, 24), "merlin": (4, 256), "sectors": (16, 16)}
LIMIT_S = 30.0
OTHER = 870_000_000
"""Number of the run that rubbish is made of: far from those of the good runs."""
FIRST = 3_000_017
"""Number of the first good run: one that no rubbish has."""
EACH = 110
"""Messages of rubbish before each good run."""


class Sending:
    """One end of a wire, by hand."""

    def __init__(self, protocol: str, url: str) -> None:
        address = StreamUrl.parse(url)
        self.transport, self._encoder = registry.load("detectors", address.scheme)().sender(address)
        self.protocol, self.n_sent = protocol, 0
        self.transport.open()

    def run(self, number: int, frames: Any) -> list[Any]:
        """Messages of a run."""
        meta = SourceMeta(SourceId("test", "test", 0), DataShape(SCAN, frames.shape[1:]), frames.dtype)
        out = [*self._encoder.begin(meta, number)]
        for k, frame in enumerate(frames):
            out += self._encoder.frame(k, {"frames": frame})
        return [o._replace(parts=[bytes(p) for p in o.parts]) for o in [*out, *self._encoder.end()]]

    def send(self, parts: list[bytes], lane: int = 0) -> None:
        """Send a message."""
        if self.protocol == "merlin":
            parts = [b"".join(parts)]  # a stream of bytes
            if not parts[0]:
                return
        assert self.transport.send(parts or [b""], LIMIT_S, lane), "the receiver takes nothing any more"
        self.n_sent += 1


@contextlib.contextmanager
def both_ends(protocol: str) -> Iterator[tuple[Sending, ls.LiveSource]]:
    """A sender and a live source."""
    ports = free_ports(5)
    words = {"port": ports[0], "ports": f"{ports[0]}-{ports[3]}", "info": ports[4]}
    sends, receives = (text.format(**words) for text in PROTOCOLS[protocol])
    if protocol == "merlin":
        sends += "?pixels=U16"
    with contextlib.ExitStack() as stack:
        live: Any = None
        if protocol not in BINDS:
            live = stack.enter_context(ls.connect(receives, ring_bytes=32 * MIB))
        sending = Sending(protocol, sends)
        stack.callback(sending.transport.close)
        if protocol in BINDS:
            live = stack.enter_context(ls.connect(receives, ring_bytes=32 * MIB))
        yield sending, live


def all_received(sending: Sending, live: ls.LiveSource) -> None:
    """Wait until what was sent is received: the sockets of several senders keep no order."""
    end = time.monotonic() + LIMIT_S
    while sending.protocol != "merlin" and live.status()["messages"] + live.status()["oversized"] < sending.n_sent:
        assert time.monotonic() < end, (sending.n_sent, live.status())
        time.sleep(0.001)


def good_run(sending: Sending, live: ls.LiveSource, rubbish: Rubbish, number: int, frames: Any) -> None:
    """A run as it should be, with noise in the middle, is received whole; acquisitions that rubbish began are passed over."""
    messages = sending.run(number, frames)
    for i, message in enumerate(messages):
        sending.send(message.parts, message.lane)
        if i == len(messages) // 2:
            sending.send([rubbish.rng.randbytes(40)], message.lane)
    if sending.protocol == "merlin":
        sending.transport.send([], LIMIT_S)  # the rest of the last message
    end, acquisition = time.monotonic() + LIMIT_S, None
    while True:
        assert time.monotonic() < end, (number, live.status(), live.problems)
        try:
            acquisition = live.wait(1.0)
        except LibstreamError:
            continue
        if acquisition is None or acquisition.meta.shape.sig != frames.shape[1:] or acquisition.meta.shape.n_positions != N:
            continue
        if sending.protocol != "merlin" and acquisition.run != number:
            continue
        result = ls.run(acquisition, [ls.udfs.Sum(), ls.udfs.FrameTotals()])
        assert imbalance(result.ledger) == ""
        if sending.protocol != "merlin" or result["frame_totals"]["total"].reshape(-1)[0] == frames[0].sum(dtype=np.uint64):
            break
    assert result.complete, (result.ledger, acquisition.reason, live.problems)
    assert np.array_equal(result["sum"]["sum"], frames.sum(axis=0, dtype=np.uint64))
    assert np.array_equal(result["frame_totals"]["total"].reshape(-1), frames.sum(axis=(1, 2), dtype=np.uint64))


def besiege(protocol: str, n: int, seed: int, patch: pytest.MonkeyPatch) -> None:
    """n messages of rubbish, and a good run after every `EACH` of them."""
    seen, bugs = [0], []

    def spy(runs: Runs, why: str) -> None:
        seen[0] += 1
        assert 5 < len(why) < 2000
        if "this is a bug" in why:
            bugs.append(why)
        count(runs, why)

    count = Runs.not_understood
    patch.setattr(Runs, "not_understood", spy)
    patch.setattr(Ingest, "_begin_anew", lambda self, why: bugs.append(why))
    base = np.random.default_rng(seed).integers(0, 4000, (N, *FRAME[protocol])).astype(np.uint16)
    with both_ends(protocol) as (sending, live):
        rubbish = Rubbish(seed, [m.parts for m in sending.run(OTHER, base[::-1])], protocol)
        before = Held.now()
        for k in range(n // EACH):
            for _ in range(EACH):
                sending.send(rubbish.one(), rubbish.rng.randrange(5) if protocol == "sectors" else 0)
            all_received(sending, live)
            good_run(sending, live, rubbish, FIRST + k, base + np.uint16(k % 50_000))
            assert not bugs, bugs[0]
            assert len(live.problems) <= 50
            if k == 9:
                before = Held.now()
        Held.now().assert_like(before)
        status = live.status()
        assert status["malformed"] == seen[0]
        assert seen[0] > n // 6, status
        if protocol != "merlin":
            assert status["messages"] + status["oversized"] == sending.n_sent


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_rubbish_between_good_runs(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    besiege(protocol, 3080, 11, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 105))
@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_million_messages_between_good_runs(protocol: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    besiege(protocol, 40_000, seed, monkeypatch)
