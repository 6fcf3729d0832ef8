"""Modules of the page, called in the browser, against their twins in Python."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from libstream.web_gui import state as twin
from libstream.web_gui import wire
from tests.browser.serving import Serve, Window

RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def js(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """call(module, body, argument): what an async function of the module's exports `m` and the argument `a` returns."""
    folder = tmp_path_factory.mktemp("units")
    server = Serve(folder, "--fresh")
    w = Window(browser, server, folder).open()

    def call(module: str, body: str, argument: Any = None) -> Any:
        return w.page.evaluate(f"async (a) => {{ const m = await import('./static/js/{module}'); {body} }}", argument)

    yield call
    w.close()
    server.stop()


def as_list(values: np.ndarray[Any, Any]) -> list[float | None]:
    return [None if math.isnan(v) else float(v) for v in values.ravel()]


UNPACK = """
    const bytes = Uint8Array.from(atob(a), c => c.charCodeAt(0));
    const { header, values } = m.unpack(bytes.buffer);
    return [header, Array.from(values, v => v === v ? v : null)];
"""


def test_arrays_are_read_as_python_reads_them(js: Callable[..., Any]) -> None:
    with_gaps = RNG.normal(size=(9, 7)).astype(np.float32)
    with_gaps[2, 3:] = np.nan
    many = RNG.integers(0, 1 << 40, (6, 5)).astype(np.float64)
    for values in (with_gaps, many, RNG.normal(size=(4, 6, 2)).astype(np.float32), RNG.normal(size=11).astype(np.float32), np.float32(3.5)):
        values = np.asarray(values)
        for level in wire.LEVELS:
            for rows in (None, (2, 4)) if values.ndim > 1 else (None,):
                head, payload = wire.encode(values, level, rows, wire.limits(values))
                message = wire.pack({"topic": "a/é/x", "v": 3, **head}, payload)
                header, expected = wire.unpack(message)
                got_header, got = js("wire.js", UNPACK, base64.b64encode(message).decode())
                assert got_header == header
                assert np.allclose(np.array(got, float), np.array(as_list(expected), float), rtol=2e-7, atol=1e-12, equal_nan=True)


def test_rows_of_many_messages_make_the_array(js: Callable[..., Any]) -> None:
    values = RNG.normal(size=(12, 8)).astype(np.float32)
    messages = []
    for level, rows, more in (
        (wire.LEVELS[4], None, {"whole": True}), (wire.EXACT, (0, 5), {"whole": True, "keep": True}), (wire.EXACT, (5, 12), {}),
    ):  # fmt: skip
        head, payload = wire.encode(values, level, rows, wire.limits(values))
        messages.append(base64.b64encode(wire.pack({"topic": "t", "v": 1, **head, **more}, payload)).decode())
    body = """
        const t = new m.TopicArray();
        const out = [];
        for (const text of a) {
            t.take(m.unpack(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer));
            out.push([t.shape, t.bin, Array.from(t.values, v => v === v ? v : null)]);
        }
        return out;
    """
    coarse, half, full = js("wire.js", body, messages)
    assert coarse[0] == [3, 2]
    assert coarse[1] == 4
    assert half[0] == [12, 8]
    assert np.array_equal(np.array(half[2][:40], np.float32).reshape(5, 8), values[:5])
    blown = np.array(coarse[2]).reshape(3, 2).repeat(4, 0).repeat(4, 1)
    assert np.allclose(np.array(half[2][40:]).reshape(7, 8), blown[5:], atol=1e-5), "rows that have not come show the coarse picture"
    assert np.array_equal(np.array(full[2], np.float32).reshape(12, 8), values)


def test_patches_are_applied_as_python_applies_them(js: Callable[..., Any]) -> None:
    old = {"a": {"b": [1, 2], "c": {"d": 1}}, "e": None, "gone": {"x": 1}}
    new = {"a": {"b": [1], "c": {"d": 2, "n": {"m": []}}}, "e": {"f": "é"}}
    ops = twin.difference(old, new)
    got, before = js(
        "store.js",
        "const before = structuredClone(a[0]); return [m.apply(a[0], a[1]), JSON.stringify(before) === JSON.stringify(a[0])]",
        [old, ops],
    )
    assert got == twin.applied(old, ops) == new
    assert before, "the old state stays as it was"


def test_limits_leave_outliers_out(js: Callable[..., Any]) -> None:
    values = np.concatenate([RNG.normal(100, 10, 5000), [1e6, -1e6]])
    lo, hi = js("levels.js", "return m.robust(Float64Array.from(a))", values.tolist())
    assert 60 < lo < 85
    assert 115 < hi < 140
    assert js("levels.js", "return m.robust(Float64Array.from(a))", [5.0] * 10) == pytest.approx([4.995, 5.005])
    assert js("levels.js", "return m.robust(Float64Array.from([NaN, NaN]))") is None


@pytest.mark.parametrize("scale", ["linear", "log", "sqrt", "symlog"])
def test_scales_have_their_inverse(js: Callable[..., Any], scale: str) -> None:
    body = "const f = m.scaler(a[0], a[1]); const g = m.unscaler(a[0], a[1]); return [0, .1, .5, .9, 1].map(t => f(g(t)))"
    for limits in ([0, 10], [3, 900]) + (([-5, 20],) if scale in ("linear", "symlog") else ()):
        assert js("levels.js", body, [scale, limits]) == pytest.approx([0, 0.1, 0.5, 0.9, 1], abs=1e-9)


def test_numbers_are_written_for_people(js: Callable[..., Any]) -> None:
    got = js("levels.js", "return a.map(m.short)", [0, 12345, 0.1234567, 1.5e-5, 123456.7, 2e9 + 0.5, None])
    assert got == ["0", "12 345", "0.12346", "1.500e-5", "123 457", "2.000e+9", "not seen"]


def test_colours_follow_the_limits(js: Callable[..., Any]) -> None:
    body = """
        const target = new Uint32Array(5);
        const field = { values: Float32Array.from([0, 5, 10, 99, NaN]), turns: null };
        m.paintRows(target, field, 5, [0, 1], { map: 'gray', scale: 'linear', limits: [0, 10] });
        return Array.from(new Uint8Array(target.buffer)).filter((_, i) => i % 4 === 0);
    """
    black, middle, white, above, unseen = js("picture.js", body)
    assert (black, white, above) == (0, 255, 255)
    assert 126 <= middle <= 129
    assert 30 < unseen < 90, "not seen is grey"


def test_directions_of_vectors_are_drawn_as_the_legend_says(js: Callable[..., Any]) -> None:
    # (y, x): right, up, left, down; y is downwards
    array = {"shape": [1, 4, 2], "values": [0, 1, -1, 0, 0, -1, 1, 0]}
    body = """
        const f = m.fieldOf({ shape: a.shape, values: Float32Array.from(a.values) }, 'vector', 'wheel');
        return [Array.from(f.turns, t => (t + 1) % 1), Array.from(f.values)];
    """
    turns, size = js("picture.js", body, array)
    assert turns == pytest.approx([0, 0.25, 0.5, 0.75])
    assert size == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("kind", "key", "to", "expected"),
    [
        ("annulus", "inner", (30.0, 90.0), {"inner": 19.5}),  # never beyond the outer one
        ("annulus", "outer", (30.0, 31.0), {"outer": 10.5}),
        ("annulus", "centre", (-50.0, 500.0), {"y": 0, "x": 63}),
        ("disk", "outer", (30.0, 42.5), {"outer": 12.5}),
        ("rectangle", "width", (10.0, 36.0), {"width": 12, "height": 8}),
        ("sector", "start", (20.0, 30.0), {"angles": [90, 450]}),  # up is 90 degrees, and stop stays behind start
    ],
)
def test_shapes_keep_their_limits(js: Callable[..., Any], kind: str, key: str, to: tuple[float, float], expected: dict[str, Any]) -> None:
    values = {"y": 30, "x": 30, "inner": 10, "outer": 20, "height": 8, "width": 8, "angles": [0, 90]}
    got = js("overlay.js", "return m.SHAPES[a[0]].drag(a[1], a[2], a[3][0], a[3][1], [64, 64])", [kind, values, key, list(to)])
    assert {k: got[k] for k in expected} == expected


def test_regions_are_whole_pixels(js: Callable[..., Any]) -> None:
    call = "return m.regionOf(a[0], a[1], a[2], [20, 24])"
    assert js("draw.js", call, ["rectangle", [1.6, 2.4], [4.4, 5.6]]) == {"kind": "rectangle", "y0": 2, "x0": 3, "y1": 5, "x1": 6}
    assert js("draw.js", call, ["rectangle", [-9, -9], [99, 99]]) == {"kind": "rectangle", "y0": 0, "x0": 0, "y1": 20, "x1": 24}
    assert js("draw.js", call, ["rectangle", [3, 3], [3.1, 3.1]]) is None
    assert js("draw.js", call, ["pixel", [0, 0], [3.3, 4.6]]) == {"kind": "rectangle", "y0": 3, "x0": 5, "y1": 4, "x1": 6}
    assert js("draw.js", call, ["ellipse", [2, 4], [6, 10]]) == {"kind": "ellipse", "centre": [4, 7], "radii": [2, 3]}


def test_fields_say_what_is_wrong(js: Callable[..., Any]) -> None:
    body = "return m.checkField(a[0], a[1])"
    assert js("fields.js", body, [{"kind": "number", "above": 0}, 0]) == "more than 0"
    assert js("fields.js", body, [{"kind": "integer", "max": 9}, 10]) == "at most 9"
    assert js("fields.js", body, [{"kind": "integer"}, 1.5]) == "a whole number is needed"
    assert js("fields.js", body, [{"kind": "number", "required": True, "optional": False}, None]) == "a value is needed"
    assert js("fields.js", body, [{"kind": "quantity", "min": 1}, "3 mrad"]) is None


def test_a_picture_is_drawn_when_it_comes_and_once_a_frame_of_the_screen(js: Callable[..., Any]) -> None:
    fields, payload = wire.encode(np.zeros((4, 5), np.float32), wire.EXACT, None, (0.0, 0.0))
    head = {"topic": "t", **fields, "whole": True, "gen": 1, "ts": 0, "final": False}
    three = [base64.b64encode(wire.pack({**head, "v": v}, payload)).decode() for v in (1, 2, 3)]
    body = """
        const link = new m.Link("ws://nowhere");
        const [drawn, acks] = [[], []];
        link.send = (message) => message.type === "ack" && acks.push(message.v);
        link.subscribe("t", () => drawn.push(link.array("t").header.v));
        for (const text of a) link.binary(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
        const at_once = [[...drawn], [...acks]];
        await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        return [at_once, [drawn, acks]];
    """
    at_once, later = js("link.js", body, three)
    assert at_once == [[1], [1]]
    assert later == [[1, 3], [1, 3]]


def test_what_is_spaced_is_called_at_once_seldom_and_last(js: Callable[..., Any]) -> None:
    body = """
        const times = [];
        const asked = m.spaced(() => times.push(performance.now()), 60);
        const began = performance.now();
        let last = 0;
        while (performance.now() - began < 150) { last = performance.now(); asked(); await new Promise(done => setTimeout(done, 5)); }
        await new Promise(done => setTimeout(done, 120));
        return [times.length, times[0] - began, Math.min(...times.slice(1).map((t, i) => t - times[i])), times.at(-1) >= last];
    """
    n, first, least, told = js("dom.js", body)
    assert 2 <= n <= 5
    assert first < 20
    assert least >= 59
    assert told, "the last call was lost"


def test_what_is_the_same_is_not_set_anew(js: Callable[..., Any]) -> None:
    body = """
        const node = m.el("p", { text: "7" });
        let changes = 0;
        const seen = new MutationObserver((list) => (changes += list.length));
        seen.observe(node, { attributes: true, childList: true, characterData: true, subtree: true });
        for (const value of [7, "7", 8]) { m.write(node, value); m.put(node, "data-value", value); }
        changes += seen.takeRecords().length;
        return [changes, node.textContent, node.getAttribute("data-value")];
    """
    changes, text, attribute = js("dom.js", body)
    assert (text, attribute) == ("8", "8")
    assert changes <= 4, "one text, two attributes; a text may be two changes"


def test_positions_are_physical(js: Callable[..., Any]) -> None:
    axes = [
        {"name": "y", "size": 9, "step": 0.5, "offset": 1, "unit": "nm"},
        {"name": "x", "size": 9, "step": 0.5, "offset": 0, "unit": "nm"},
    ]
    assert js("axes.js", "return m.positionText(a, [2, 3])", axes) == "y 2, x 3 (2, 1.5 nm)"
    assert js("axes.js", "return m.pixelAspect(a)", axes) == 1
    assert js("axes.js", "return m.pixelAspect([a[0], {...a[1], unit: 'eV'}])", axes) is None
