"""What is sent next: a simulated page that follows the headers always ends with the exact array, over any link."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.jobs.outputs import OutputInfo
from libstream.jobs.store import Store
from libstream.web_gui import sending, wire
from libstream.web_gui.topics import Key, _plain

SIDE = 96
INFO = OutputInfo("x", "nav", "image", (SIDE, SIDE), np.dtype(np.float32), ())
KEY = Key("a/x/y")


class Sink:
    """What a page has: the rules of the header, and nothing else."""

    def __init__(self) -> None:
        self.shown: np.ndarray | None = None
        self.exact = np.zeros(SIDE, bool)

    def take(self, message: bytes) -> dict:
        header, rows = wire.unpack(message)
        shape = tuple(header["shape"])
        if self.shown is None or self.shown.shape != shape:
            assert header["whole"] or header["rows"] == [0, shape[0]], header
        if header["whole"] or self.shown is None or self.shown.shape != shape:
            self.shown = np.full(shape, np.nan)
            self.exact[:] = False
        y0, y1 = header["rows"]
        self.shown[y0:y1] = rows
        b = header["bin"]
        self.exact[y0 * b : y1 * b] = header["exact"]
        return header


def step(store: Store, sub: sending.Subscription, link: sending.Link, sink: Sink, now: float) -> dict | None:
    view = _plain(KEY, store.get("t"))
    plan = sub.plan(view, link, now)
    if plan is None:
        return None
    values = view.make()
    fields, payload = wire.encode(values, plan.level, plan.rows, wire.limits(values))
    message = wire.pack({"topic": "t", "v": view.version, "whole": plan.whole, **fields}, payload)
    sub.sent(plan, view, len(message), now)
    header = sink.take(message)
    assert sub.plan(view, link, now + 100) is None, "credit 1"
    sub.in_flight = None
    return header


@given(
    rate=st.sampled_from([2e4, 1e5, 4e5, 1e6, 1e8]),
    px=st.sampled_from([None, (SIDE, SIDE), (24, 24)]),
    writes=st.lists(st.tuples(st.integers(0, SIDE - 1), st.integers(1, 30), st.booleans(), st.floats(0, 0.5)), min_size=1, max_size=8),
)
@settings(max_examples=120)
def test_the_page_ends_with_the_exact_array(rate: float, px: tuple[int, int] | None, writes: list) -> None:
    rng = np.random.default_rng(0)
    store, link, sink = Store(), sending.Link(), Sink()
    link.bytes_per_s = rate
    sub = sending.Subscription(KEY, px)
    array, gen, now = rng.random((SIDE, SIDE)).astype(np.float32), 1, 0.0
    for y, n, new, pause in writes:
        gen += new
        array = array.copy()
        array[y : y + n] = rng.random(array[y : y + n].shape)
        store.put("t", array, None, gen, True, 0, INFO)
        now += pause
        for _ in range(3):  # sometimes a strip or two of exact values between
            step(store, sub, link, sink, now)
    for _ in range(2000):
        now += 0.05
        if step(store, sub, link, sink, now) is None and sub.refine_in(now) is None:
            break
    assert np.array_equal(sink.shown, array), "what is shown is not what is there"
    assert sink.exact.all()
    assert sub.lossy is None


def test_dirty_rows_only() -> None:
    store, link, sink, sub = Store(), sending.Link(), Sink(), sending.Subscription(KEY)
    array = np.zeros((SIDE, SIDE), np.float32)
    store.put("t", array.copy(), None, 1, False, 0, INFO)
    step(store, sub, link, sink, 0.0)
    array[40:42] = 1
    store.put("t", array.copy(), None, 1, False, 0, INFO)
    array[44] = 2
    store.put("t", array.copy(), None, 1, False, 0, INFO)
    header = step(store, sub, link, sink, 0.0)
    assert header["rows"] == [40, 45], "two versions, one message"
    assert not header["whole"]


def test_new_values_go_before_exact_ones_and_strips_are_short() -> None:
    store, link, sink, sub = Store(), sending.Link(), Sink(), sending.Subscription(KEY)
    link.bytes_per_s = 1e5
    array = np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32)
    store.put("t", array, None, 1, True, 0, INFO)
    assert step(store, sub, link, sink, 0.0)["bin"] > 1
    assert step(store, sub, link, sink, 0.1) is None, "not yet idle"
    first = step(store, sub, link, sink, 0.5)
    assert first["exact"]
    assert first["whole"]
    assert (first["rows"][1] - first["rows"][0]) * SIDE * 4 <= 1e5 * sending.STRIP_S * 1.1
    store.put("t", array + 1, None, 2, True, 0, INFO)
    assert step(store, sub, link, sink, 0.6)["whole"], "the next strip waits"


def test_the_estimate_follows_the_link_and_ignores_small_messages() -> None:
    link = sending.Link()
    for _ in range(10):
        link.measured(1 << 20, 2.0, 0)
    assert 4e5 < link.bytes_per_s < 7e5
    slow = link.bytes_per_s
    link.measured(500, 1.0, 0)
    assert link.bytes_per_s == slow
    for _ in range(20):
        link.measured(1 << 20, 0.01, 0)
    assert link.bytes_per_s > 5e7
    link.measured(1 << 15, 0.03, 0)  # two frames of painting say nothing of the link
    assert link.bytes_per_s > 5e7
