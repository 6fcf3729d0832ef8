"""What router, consumers and clients say to each other: results come out as they went in; what a stranger says means nothing."""

from __future__ import annotations

import random
import time
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream import registry
from libstream.errors import LibstreamError, UDFError, UsageError, WireError
from libstream.live.layout import Layout
from libstream.model.partial import Partial, RaggedPart
from libstream.route import wire
from libstream.route.blocks import unpack
from libstream.route.peers import Session
from tests.cluster.routing import routed
from tests.live.failing import FRAMES, N, check, until

RECORD = np.dtype([("y", "<f4"), ("x", "<f4"), ("at", "<i4", (2,))])
DTYPES = [np.dtype("u1"), np.dtype("<u8"), np.dtype("<f8"), np.dtype("<c8"), np.dtype("?"), RECORD]


def arrays(draw: Any, n: int | None = None) -> Any:
    dtype = draw(st.sampled_from(DTYPES))
    shape = (draw(st.integers(0, 3)) if n is None else n, *draw(st.sampled_from([(), (2,), (3, 0)])))
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(np.random.default_rng(size).bytes(size), dtype).reshape(shape)


@st.composite
def partials(draw: Any) -> Partial:
    n = draw(st.integers(0, 5))
    positions = np.sort(np.array(draw(st.lists(st.integers(0, 99), min_size=n, max_size=n, unique=True)), np.int64))
    status = np.array(draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)), np.uint8)
    placed: dict[tuple[str, str], Any] = {("u", "v"): arrays(draw, n)}
    if draw(st.booleans()):
        counts = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), np.int64)
        placed["u", "events"] = RaggedPart(np.zeros((int(counts.sum()), 2), "<f4"), counts)
    reduced = {("u", "sum"): arrays(draw), ("w", "x"): np.float64(draw(st.floats(allow_nan=False))) * np.ones(())}
    failures = (("bad", "it raised"),) if draw(st.booleans()) else ()
    return Partial(
        draw(st.integers(0, 1 << 40)), 1 << draw(st.integers(0, 5)), positions, status, placed, reduced, {"read": 0.25}, failures
    )


def through(message: list[Any]) -> wire.Message:
    return wire.read([memoryview(bytes(p)) for p in message])


def same(a: Any, b: Any) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@given(partials())
def test_a_partial_result_comes_out_as_it_went_in(partial: Partial) -> None:
    got = wire.read_partial(through(wire.write_partial("t", partial)))
    assert (got.number, got.span, got.seconds, got.failures) == (partial.number, partial.span, partial.seconds, partial.failures)
    same(got.positions, partial.positions)
    same(got.status, partial.status)
    assert (set(got.placed), set(got.reduced)) == (set(partial.placed), set(partial.reduced))
    for at, value in partial.placed.items():
        if isinstance(value, RaggedPart):
            same(got.placed[at].values, value.values)
            same(got.placed[at].counts, value.counts)
        else:
            same(got.placed[at], value)
    for at, value in partial.reduced.items():
        same(got.reduced[at], value)


@given(partials(), st.data())
def test_a_damaged_result_is_an_error_of_the_wire_and_nothing_else(partial: Partial, data: st.DataObject) -> None:
    message = [bytes(p) for p in wire.write_partial("t", partial)]
    which = data.draw(st.integers(0, len(message) - 1))
    part = message[which]
    how = data.draw(st.sampled_from(["cut", "flip", "gone", "more"]))
    if how == "gone":
        del message[which]
    elif how == "more":
        message.insert(which, data.draw(st.binary(max_size=20)))
    elif part:
        k = data.draw(st.integers(0, len(part) - 1))
        message[which] = part[:k] if how == "cut" else part[:k] + bytes([part[k] ^ data.draw(st.integers(1, 255))]) + part[k + 1 :]
    try:
        wire.read_partial(through(message))
    except WireError:
        pass


@given(st.lists(st.binary(max_size=60), max_size=8), st.sampled_from(["block", "partial", "consumer", "failed"]), st.data())
def test_rubbish_is_an_error_of_the_wire_and_nothing_else(parts: list[bytes], kind: str, data: st.DataObject) -> None:
    plain = st.recursive(
        st.none() | st.booleans() | st.integers(-9, 1 << 63) | st.text(max_size=5), lambda s: st.lists(s, max_size=3), max_leaves=5
    )
    names = ["token", "number", "numbers", "codecs", "arrays", "span", "client", "host", "pid", "ring_bytes", "most", "error", "layout"]
    head = data.draw(st.dictionaries(st.sampled_from(names), plain))
    message = through([cbor2.dumps({"v": 1, "t": kind, **head}), *parts])
    layout = Layout(("x",), 1, ((4, 4),), ("u2",))
    reads: list[Any] = [wire.read_partial, wire.read_error, lambda m: unpack(m, layout), lambda m: Session.of(b"n", m, 0.0)]
    reads += [lambda m: wire.layout_in(m.head.get("layout")), lambda m: wire.meta_in(m.head.get("layout"))]
    for one in reads:
        try:
            one(message)
        except WireError:
            pass


def test_versions_and_sizes_are_bounded() -> None:
    with pytest.raises(WireError, match="version 2"):
        wire.read([cbor2.dumps({"v": 2, "t": "beat"})])
    with pytest.raises(WireError):
        wire.read([cbor2.dumps({"v": 1, "t": "x", "text": "a" * wire.HEADER_MAX})])
    for bad in ([], [b""], [b"\x80"], [cbor2.dumps([1])], [cbor2.dumps({"v": 1, "t": 5})]):
        with pytest.raises(WireError):
            wire.read(bad)


def test_objects_of_python_are_not_sent() -> None:
    partial = Partial(0, 1, np.zeros(1, np.int64), np.ones(1, np.uint8), {("u", "o"): np.array([object()])}, {})
    with pytest.raises(LibstreamError, match="Python objects"):
        wire.write_partial("t", partial)


@pytest.mark.parametrize(
    "exc", [UDFError("it failed", udf="u", where="at (3, 4)"), UsageError("no"), ZeroDivisionError("division by zero")]
)
def test_errors_arrive_as_libstreams_own(exc: Exception) -> None:
    got = wire.read_error(through(wire.write_error("t", exc, "line 3")))
    assert str(exc) in str(got)
    assert type(got) is (type(exc) if isinstance(exc, LibstreamError) else LibstreamError)
    assert getattr(got, "udf", "") == getattr(exc, "udf", "")
    assert "line 3" in "".join(got.__notes__)


def test_no_other_class_is_looked_up() -> None:
    message = through(wire.write("failed", token="t", error="annotations", message="m", trace="", udf="", where=""))
    assert type(wire.read_error(message)) is LibstreamError


# -- strangers at the router's door ------------------------------------------------------------------------------------------


def test_strangers_change_nothing() -> None:
    """Garbage, wrong order, wrong roles, huge announcements, while a scan runs: it is what it would be without them."""
    rng = random.Random(1)
    heads = [
        "consumer",
        "client",
        "next",
        "pass",
        "merged",
        "fenced",
        "wake",
        "end",
        "command",
        "bye",
        "freed",
        "block",
        "partial",
        "?",
        "",
    ]
    values: list[Any] = [None, -1, 0, 1 << 63, "", "t", [], [1], [-1], {}, {"t": [1]}, 1.5, True]
    names = ["token", "number", "numbers", "key", "most", "session", "arrived", "id", "what", "settings", "client", "host", "pid", "source",
             "ring_bytes", "frames", "bytes", "frames_per_s", "bytes_per_s", "last_error"]  # fmt: skip
    with routed() as r:
        stranger = registry.load("transports", "route")()
        try:
            for name in (b"one", b"two", r.live._link.name.encode()[:-1]):
                stranger.connect(r.hub.address, name)
            stranger.connect(r.live._link.results, b"one")
            r.wire.header(1, N)
            r.wire.frames(1, FRAMES, range(10))
            job = r.start(r.taken())
            for k in range(10, N):
                r.wire.frames(1, FRAMES, [k])
                for at in range(4) if k % 4 == 0 else ():
                    for _ in range(8):
                        head = {name: rng.choice(values) for name in rng.sample(names, 6)}
                        parts = [rng.randbytes(rng.choice([0, 1, 8, 16, 100])) for _ in range(rng.randrange(4))]
                        stranger.send(at, [cbor2.dumps({"v": rng.choice([1, 1, 1, 2]), "t": rng.choice(heads), **head}), *parts])
                    stranger.send(at, [rng.randbytes(30)])
                    stranger.send(at, [b"x"] * 5000)
            r.wire.end(1)
            result = job.wait(20)
            check(result, range(N), received=N)
            until(lambda: any("not understood" in p for p in r.live.problems), "a note that something was not understood")
        finally:
            stranger.close()


def test_a_message_that_is_too_large_is_refused_before_it_is_held() -> None:
    with routed() as r:
        stranger = registry.load("transports", "route")()
        try:
            stranger.connect(r.hub.address, b"one")
            stranger.send(0, [bytes(65 << 20)])
            time.sleep(0.2)
            r.whole(1)
        finally:
            stranger.close()


# -- keys --------------------------------------------------------------------------------------------------------------------


def test_only_those_with_keys_come_in() -> None:
    import zmq

    server, user, other = zmq.curve_keypair(), zmq.curve_keypair(), zmq.curve_keypair()
    keys = {"secret": user[1].decode(), "server": server[0].decode()}
    hub = {"curve": {"secret": server[1].decode(), "clients": [user[0].decode()]}}
    with routed(hub=hub, client={"curve": keys}) as r:
        r.whole(1)
        stranger = registry.load("transports", "route")()
        try:
            bad = {"secret": other[1].decode(), "server": server[0].decode()}
            stranger.connect(r.hub.address, b"x", curve=bad)
            stranger.connect(r.hub.address, b"y")
            for at in (0, 1):
                stranger.send(at, wire.write("client", source=0))
            stranger.wait(0.4)
            assert stranger.receive(0) is None
            assert stranger.receive(1) is None
        finally:
            stranger.close()
