"""The widget of `ls.live_view`, drawn for real: its module in Chromium, its Python half here, the kernel's messages carried by hand."""

from __future__ import annotations

import base64
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from tests.browser.serving import CENTRE, pattern

_Arr = np.ndarray[Any, Any]

pytestmark = pytest.mark.leaves("threads", "Playwright's event loop keeps a thread of its executor until the package is done")

# what anywidget hands to a module, on a page whose own styles are as loud as those of a notebook may be
PAGE = """<!doctype html><html><head><style>
  body { font: 20px serif; background: #fff; margin: 10px; } body.dark { background: #111; }
  button, select, input, svg, canvas, section, header { border: 7px dotted red !important; padding: 30px !important; }
</style></head><body><button id="own">own</button><div id="one"></div><div id="two"></div></body></html>"""
MODEL = """async ([code, state]) => {
  const bytes = (t) => new DataView(Uint8Array.from(atob(t), (c) => c.charCodeAt(0)).buffer);
  window.out = [];
  const calls = {};
  window.model = {
    state,
    get: (k) => k === 'arrays' ? window.model.state.arrays.map(bytes) : window.model.state[k],
    set: (k, v) => (window.model.state[k] = v), save_changes() {},
    on: (name, call) => (calls[name] ??= new Set()).add(call), off: (name, call) => calls[name]?.delete(call),
    send: (content) => window.out.push(content),
  };
  window.fire = (name, ...args) => [...(calls[name] ?? [])].forEach((call) => call(...args));
  window.deliver = (list) => list.forEach(([kind, a, b]) => {
    if (kind === 'msg') fire('msg:custom', a, b.map(bytes));
    else { window.model.state[a] = b; fire(`change:${a}`); }
  });
  window.calls = calls;
  window.widget = (await import(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })))).default;
  window.draw = (id) => (window.ends ??= {})[id] = window.widget.render({ model: window.model, el: document.getElementById(id) });
  window.view = (id) => document.querySelector(`#${id} > div`)?.libstream;
}"""


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Cell:
    """A page with the model of one widget; `pump` carries messages in both directions, as a notebook does."""

    def __init__(self, browser: Any, view: Any) -> None:
        self.view, self.wrong, self.connected = view, list[str](), True
        self.queue: deque[list[Any]] = deque()
        self.context = browser.new_context(viewport={"width": 1200, "height": 760})
        self.page = self.context.new_page()
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.wrong.append(f"{e}\n{e.stack}"))
        self.page.set_content(PAGE)
        view.send = lambda content, buffers=(): self.queue.append(["msg", content, [text(bytes(b)) for b in buffers]])
        view.observe(lambda change: self.queue.append(["state", change["name"], _plain(change["new"])]), ["kept", "arrays"])
        state = {k: _plain(getattr(view, k)) for k in ("height", "kept", "arrays")}
        self.page.evaluate(MODEL, [view._esm, state])

    def pump(self) -> None:
        """Carry what waits."""
        listed = []
        while self.queue:
            listed.append(self.queue.popleft())
        sent = self.page.evaluate("(list) => (deliver(list), out.splice(0))", listed)
        for content in sent if self.connected else ():
            self.view._handle_custom_msg(content, [])

    def until(self, expression: str, timeout_s: float = 30.0) -> None:
        """Wait until an expression is true in the page."""
        end = time.monotonic() + timeout_s
        while not self.page.evaluate(f"() => Boolean({expression})"):
            self.pump()
            assert time.monotonic() < end, f"not true within {timeout_s} s: {expression}"
            self.page.wait_for_timeout(15)

    def js(self, expression: str) -> Any:
        """The value of an expression."""
        return self.page.evaluate(expression)

    def array(self, topic: str, place: str = "one") -> _Arr:
        """Values of a topic as a drawn view has them."""
        shape, values = self.js(
            f"(() => {{ const a = view('{place}').link.array('{topic}');"
            " return [a?.shape ?? [0], Array.from(a?.values ?? [], v => v === v ? v : null)] })()"
        )
        return np.array([np.nan if v is None else v for v in values], float).reshape(shape)

    def shows(self, topic: str, expected: _Arr, place: str = "one") -> None:
        """Wait until a drawn view has exactly these values."""
        end = time.monotonic() + 30
        while not np.array_equal(self.array(topic, place), expected, equal_nan=True):
            self.pump()
            assert time.monotonic() < end, topic
            self.page.wait_for_timeout(15)

    def drag(self, knob: str, dx: float) -> None:
        """Drag a handle along x, with the messages that this makes."""
        box = self.page.get_by_role("slider", name=knob, exact=True).first.locator(".body").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for i in range(1, 5):
            self.page.mouse.move(x + dx * i / 4, y)
            self.pump()
        self.page.mouse.up()


def _plain(value: Any) -> Any:
    return [text(v) for v in value] if isinstance(value, list) else json.loads(json.dumps(value))


@pytest.fixture
def cell(browser: Any) -> Iterator[Callable[[Any], Cell]]:
    pytest.importorskip("anywidget", reason="anywidget is not installed: pip install libstream[jupyter]")
    made: list[Cell] = []

    def make(what: Any) -> Cell:
        made.append(Cell(browser, ls.live_view(what)))
        return made[-1]

    yield make
    for c in made:
        c.view.close()
        c.context.close()
        assert c.wrong == []


def shot(c: Cell, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("LIBSTREAM_SHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(c.page.screenshot(full_page=True))


def test_a_view_is_drawn_dragged_closed_and_drawn_again(cell: Callable[[Any], Cell], tmp_path: Path) -> None:
    scan = ls.open(pattern(), scan_step="0.5 nm", pixel="1 mrad", centre=CENTRE)

    def adf(inner: float) -> _Arr:
        return np.asarray(ls.run(scan, ls.udfs.VirtualDetector(inner=inner, outer=26))["intensity"], float)

    job = ls.start(scan, {"adf": ls.udfs.VirtualDetector(inner=14, outer=26), "com": ls.udfs.CenterOfMass()})
    c = cell(job)
    c.js("void draw('one')")
    c.shows("a/adf/intensity", adf(14))
    c.until("view('one').tiles.size === 3 && view('one').store.state.run.state === 'done'")
    c.until("[...view('one').tiles.values()].every(t => t.array?.header.exact)")

    # the page's styles do not reach in, the view's do not reach out
    style = "getComputedStyle(document.querySelector('#one > div').shadowRoot.querySelector('.button')).borderTopStyle"
    assert c.js(style) == "solid"
    assert c.js("getComputedStyle(document.getElementById('own')).borderTopStyle") == "dotted"
    assert c.js("getComputedStyle(document.body).overflow") == "visible"
    assert c.js("document.querySelector('#one > div').dataset.theme") == "light"
    shot(c, "notebook-light", tmp_path)

    # what is under the pointer, and the wheel: the notebook scrolls until an image was clicked
    tile = "[...view('one').tiles.values()][1]"
    stage = f"const v = {tile}.view, b = v.root.getBoundingClientRect(), p = v.toScreen(4, 6)"
    x, y = c.js(f"(() => {{ {stage}; return [b.left + p[1], b.top + p[0]] }})()")
    c.page.mouse.move(x, y)
    c.until(f"{tile}.readout.textContent.includes('y 4, x 6 (2, 3 nm)')")
    assert str(int(adf(14)[4, 6])) in c.js(f"{tile}.readout.textContent").replace(" ", "")
    c.page.mouse.wheel(0, -200)
    c.page.wait_for_timeout(60)
    assert c.js(f"{tile}.view.zoom") == 1
    c.page.mouse.click(x, y)
    c.until("view('one').cursor?.join() === '4,6'")
    c.shows("frame", np.asarray(scan[4, 6], float))
    c.page.mouse.wheel(0, -200)
    c.until(f"{tile}.view.zoom > 1")

    # a handle
    c.drag("adf: Inner radius", -30)
    c.until("view('one').store.state.analyses.adf.params.inner !== 14 && view('one').store.drafts.size === 0")
    c.until("view('one').store.state.analyses.adf.shown_gen >= view('one').store.state.analyses.adf.gen")
    inner = float(c.js("view('one').store.state.analyses.adf.params.inner"))
    assert 14 < inner < 26
    c.shows("a/adf/intensity", adf(inner))
    assert job.wait().run["udfs"]["adf"]["params"]["inner"] == f"{inner:g} px"

    # limits, colours, another output: kept for whoever draws the view next
    c.page.get_by_label("adf, Intensity: colour map").select_option("magma")
    c.page.get_by_role("textbox", name="adf, Intensity: upper limit of the colours").fill("9000")
    c.page.keyboard.press("Enter")
    c.page.get_by_role("button", name="Sum of intensity", exact=True).click()
    c.until("view('one').tiles.size === 4")
    c.page.evaluate("document.body.classList.add('dark')")
    c.until("document.querySelector('#one > div').dataset.theme === 'dark'")
    c.until("view('one').store.state.layout.tiles?.['adf/intensity']?.contrast?.map === 'magma'")
    shot(c, "notebook-dark", tmp_path)
    c.js("void draw('two')")
    c.shows("a/adf/intensity", adf(inner), "two")
    c.until("view('two').tiles.size === 4")
    assert c.js("[...view('two').tiles.values()][1].contrast.map") == "magma"
    assert c.js("[...view('two').tiles.values()][1].contrast.limits[1]") == 9000

    # the cell is cleared: nothing is left behind that listens
    c.js("void ends.two()")
    c.until("document.getElementById('two').children.length === 0 && calls['msg:custom'].size === 1")
    c.pump()
    c.until("true")

    # closed: the last picture stays, and is drawn again where no kernel is
    c.view.close()
    c.until("view('one').note.textContent.includes('closed')")
    c.connected = False
    c.js("void draw('two')")
    c.until("view('two').tiles.size === 4")
    c.shows("a/adf/intensity", adf(inner), "two")
    c.until("view('two').note.textContent.includes('kernel')")
    assert c.js("[...view('two').tiles.values()][1].view.data !== null")


def test_a_result_is_drawn_without_frames(cell: Callable[[Any], Cell], tmp_path: Path) -> None:
    udfs = {"com": ls.udfs.CenterOfMass(), "rings": ls.udfs.RadialProfile(), "totals": ls.udfs.FrameTotals()}
    result = ls.run(ls.open(pattern()[:8, :8]), udfs)
    c = cell(result)
    c.js("void draw('one')")
    c.until("view('one').tiles.size === 3")
    c.shows("a/com/field", result["com"]["field"].astype(np.float32))
    assert c.js("[...view('one').tiles.keys()].some(k => k.startsWith('frame'))") is False
    c.until("view('one').status.count.textContent.startsWith('64 / 64')")
    shot(c, "notebook-result", tmp_path)
