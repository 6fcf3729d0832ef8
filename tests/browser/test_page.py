"""What people do with a stored scan, in Chromium: by pointer, by form, by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from tests import realdata
from tests.browser.serving import CENTRE, RADIUS, SCAN_VIEW, Serve, Window, expected, pattern

pytestmark = pytest.mark.leaves("threads", "Playwright's event loop keeps a thread of its executor until the package is done")
Starts = Callable[..., Serve]
Opens = Callable[..., Window]


def test_open_through_the_dialog_centre_and_see_the_dark_field(shared: Serve, window: Opens) -> None:
    """The first scenario of the issue: at most 6 clicks from an empty page to the file of a centred annular dark field."""
    server = shared
    w = window(server).in_control()
    w.shot("empty")
    w.click("button", "File…")
    w.page.get_by_role("option", name=re.compile("^scan.mib")).click()
    w.clicks += 1
    w.page.get_by_text("20 × 24").wait_for()
    w.shot("file-dialog")
    w.click("button", "Open")
    w.page.get_by_role("dialog").wait_for(state="detached")
    w.click("button", re.compile("^Annular dark field"), exact=False)
    w.until("libstream.store.state.order.length === 1")
    w.settled()
    w.click("button", "Auto centre")
    w.page.locator(".toast", has_text="Centre of the bright disk").wait_for()
    w.settled()
    w.click("button", "Save results")
    w.page.locator(".toast", has_text="Saved to").wait_for()
    assert w.clicks <= 6
    w.scenario("centre aligned, annular dark field of a stored scan saved")
    a = next(iter(w.state()["analyses"].values()))
    assert np.allclose(a["resolved"]["centre"], CENTRE, atol=0.3)
    assert RADIUS < a["resolved"]["inner"] < 1.6 * RADIUS
    seen = w.array(a["outputs"][0]["topic"])
    w.shot("annular-dark-field")
    assert np.array_equal(seen, expected(server, a["params"]))
    assert np.array_equal(server.result(a["id"], "intensity"), expected(server, a["params"]))


def test_dragging_moves_handle_form_and_image_together(adf: Window) -> None:
    before = adf.array("a/adf/intensity")
    knob = adf.knob("Ring: Inner radius")
    scale = adf.js("[...libstream.shapes.places][0].tile.view.place().kx")
    adf.drag(knob, -4 * scale, 0)
    adf.page.wait_for_timeout(100)
    adf.settled()
    params = adf.state()["analyses"]["adf"]["params"]
    assert params["inner"] == pytest.approx(16, abs=0.6)
    assert float(adf.page.locator("[data-name=inner] input").input_value()) == params["inner"]
    assert float(knob.get_attribute("aria-valuenow") or "nan") == params["inner"]
    after = adf.array("a/adf/intensity")
    assert not np.array_equal(before, after)
    assert np.array_equal(after, expected(adf.serve, params))
    # the centre, by its own knob, and no further than the frame
    adf.drag(adf.knob("Ring: Centre"), 2000, 0)
    adf.until("libstream.store.state.analyses.adf.params.centre?.[1] === 63")


def test_a_typed_radius_moves_the_handle_and_wrong_ones_are_told(adf: Window) -> None:
    box = adf.page.locator("[data-name=outer] input")
    box.fill("20.5")
    box.press("Enter")
    adf.until("document.querySelector('[aria-label=\"Ring: Outer radius\"]').getAttribute('aria-valuenow') === '20.5'")
    adf.settled()
    assert np.array_equal(adf.array("a/adf/intensity"), expected(adf.serve, adf.state()["analyses"]["adf"]["params"]))
    box.fill("wide")
    box.press("Enter")
    problem = adf.page.locator("[data-name=outer] .problem, .failure").filter(has_text=re.compile("wide"))
    problem.first.wait_for()
    adf.shot("wrong-value")
    box.fill("22")
    box.press("Enter")
    adf.settled()
    assert adf.state()["analyses"]["adf"]["state"] == "done"
    assert adf.state()["analyses"]["adf"]["params"]["outer"] == 22
    adf.page.locator("[data-name=inner] input").fill("-3")
    adf.page.locator("[data-name=inner] .problem", has_text="at least 0").wait_for()
    adf.page.locator("[data-name=inner] input").fill("12")
    adf.page.keyboard.press("Tab")
    adf.settled()


def test_what_is_being_typed_is_not_overwritten(adf: Window) -> None:
    box = adf.page.locator("[data-name=outer] input")
    box.fill("2e")  # not a number yet
    adf.js("libstream.link.command('rename', { id: 'adf', title: 'Bright ring' })")  # the state changes, and the form is filled anew
    adf.until("[...document.querySelectorAll('.analyses .title')].some(t => t.textContent === 'Bright ring')")
    assert box.input_value() == "2e"
    adf.js("libstream.link.command('rename', { id: 'adf', title: 'Ring' })")
    box.fill("21")
    box.press("Enter")
    adf.settled()
    assert adf.state()["analyses"]["adf"]["params"]["outer"] == 21


def test_a_quick_drag_does_not_make_signs_flicker(adf: Window) -> None:
    adf.js(
        """(() => {
          window.signs = 0;
          const look = () => (window.signs += document.querySelectorAll(".tile.running, .mark.running").length);
          new MutationObserver(look).observe(document.body, { subtree: true, attributes: true, attributeFilter: ["class"] });
        })()"""
    )
    knob = adf.page.get_by_role("slider", name="Ring: Outer radius")
    knob.focus()
    for _ in range(12):
        knob.press("ArrowRight")
        knob.press("ArrowLeft")
    adf.settled()
    assert adf.js("window.signs") == 0


def test_everything_by_keyboard(shared: Serve, window: Opens) -> None:
    w = window(shared).in_control()
    keys = w.page.keyboard
    keys.press("Control+o")
    w.page.get_by_role("listbox", name="Files").wait_for()
    w.until("document.activeElement.getAttribute('role') === 'listbox' && document.querySelectorAll('.files li').length > 2")
    keys.type("mib")
    keys.press("ArrowDown")
    w.until("document.querySelector('.files [aria-selected=true]')?.textContent.includes('scan.mib')")
    keys.press("Enter")
    w.until("libstream.store.source?.state === 'ready'")
    w.page.get_by_role("dialog").wait_for(state="detached")
    w.page.get_by_role("button", name="Add analysis").focus()
    keys.press("Enter")
    w.page.get_by_role("searchbox", name="Filter analyses").wait_for()
    keys.type("virtual")
    keys.press("Enter")
    w.until("libstream.store.state.order.length === 1")
    w.settled()
    outer = w.page.locator("[data-name=outer] input")
    outer.focus()
    keys.type("20")
    keys.press("Enter")
    w.until("document.querySelector('[aria-label$=\"Outer radius\"]')?.getAttribute('aria-valuenow') === '20'")
    w.page.locator("[aria-label$='Outer radius']").focus()
    keys.press("ArrowRight")
    keys.press("Shift+ArrowLeft")
    w.settled()
    assert next(iter(w.state()["analyses"].values()))["params"]["outer"] == 11
    # the cursor of the scan, by arrows
    w.page.get_by_role("group", name=re.compile("Intensity")).focus()
    keys.press("ArrowRight")
    keys.press("Shift+ArrowDown")
    cursor = w.js("libstream.cursor")
    assert cursor == [19, 13]
    w.until("String(libstream.link.array('frame')?.header?.at) === String(libstream.cursor)")
    assert np.array_equal(w.array("frame"), pattern()[tuple(cursor)])


def test_region_restricts_the_run(adf: Window) -> None:
    adf.page.get_by_role("region", name="Ring, Intensity", exact=True).get_by_role("button", name="More for this view").click()
    adf.click("menuitem", "Region: rectangle")
    adf.draw(SCAN_VIEW, (3.6, 4.6), (9.4, 15.4))
    adf.until("libstream.store.state.roi")
    adf.settled()
    assert {k: v for k, v in adf.state()["roi"].items() if k != "n"} == {"kind": "rectangle", "y0": 4, "x0": 5, "y1": 10, "x1": 16}
    assert adf.state()["roi"]["n"] == 6 * 11
    seen = adf.array("a/adf/intensity")
    adf.shot("region")
    assert np.isfinite(seen[4:10, 5:16]).all()
    assert np.isfinite(seen).sum() == 66
    adf.click("button", "Whole scan")
    adf.until("libstream.store.state.roi === null")
    adf.settled()
    assert np.isfinite(adf.array("a/adf/intensity")).all()


def test_pixels_that_are_left_out_do_not_count(adf: Window) -> None:
    adf.page.get_by_role("heading", name="Corrections").click()
    adf.click("button", "Leave out: rectangle")
    adf.draw("[...libstream.corrections.places][0].tile.view", (-0.4, 29.6), (30.4, 36.4))
    adf.until("libstream.store.state.corrections.excluded > 0")
    adf.settled()
    adf.shot("left-out")
    assert adf.state()["corrections"]["excluded"] == 31 * 7
    mask = np.zeros((64, 64), bool)
    mask[0:31, 30:37] = True
    made = expected(adf.serve, adf.state()["analyses"]["adf"]["params"], corrections=ls.Corrections(excluded=mask))
    assert np.array_equal(adf.array("a/adf/intensity"), made.astype(np.float32))
    adf.click("button", "Leave out: mask from a file")
    adf.page.get_by_role("option", name=re.compile("^mask.npy")).dblclick()
    mask |= np.eye(64, dtype=bool)
    adf.until(f"libstream.store.state.corrections.excluded === {mask.sum()}")
    adf.settled()
    made = expected(adf.serve, adf.state()["analyses"]["adf"]["params"], corrections=ls.Corrections(excluded=mask))
    assert np.array_equal(adf.array("a/adf/intensity"), made.astype(np.float32))
    adf.click("button", "Leave nothing out")
    adf.until("!libstream.store.state.corrections.excluded")


def test_save_copy_and_history(adf: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adf.click("button", "Save results")
    toast = adf.page.locator(".toast", has_text="Saved to")
    toast.wait_for()
    saved = max((adf.serve.folder / "out").glob("scan*.h5"))
    assert str(saved) in (toast.text_content() or "")
    with adf.page.expect_download() as download:
        adf.click("button", "Code, setups, history")
        adf.click("menuitem", "Download notebook")
    assert download.value.suggested_filename.endswith(".ipynb")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    for cell in json.loads(download.value.path().read_text())["cells"]:
        exec(compile("".join(cell["source"]), "notebook", "exec"), found)
    assert np.array_equal(found["result"]["adf"]["intensity"], adf.array("a/adf/intensity")), "elsewhere it is the same view"
    adf.page.get_by_role("region", name="Ring, Intensity", exact=True).get_by_role("button", name="More for this view").click()
    with adf.page.expect_download() as download:
        adf.click("menuitem", "Save image as PNG")
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    adf.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    adf.click("button", "Code, setups, history")
    adf.click("menuitem", "Copy as Python")
    adf.page.locator(".toast", has_text="clipboard").wait_for()
    assert "VirtualDetector" in adf.js("navigator.clipboard.readText()")
    adf.page.get_by_role("region", name="Ring, Intensity", exact=True).get_by_role("button", name="More for this view").click()
    adf.click("menuitem", "Copy image with scale bar")
    adf.page.locator(".toast", has_text="picture is on the clipboard").wait_for()
    assert adf.js("navigator.clipboard.read().then(items => items[0].types)") == ["image/png"]
    adf.click("button", "Past runs")
    row = adf.page.locator("dialog.history li").first
    row.wait_for()
    adf.shot("history")
    assert "scan.mib" in (row.text_content() or "")
    row.get_by_role("button", name="Open again").click()
    adf.until("libstream.store.source?.id > 1 && libstream.store.source.state === 'ready'")
    adf.settled()


def test_polygons_and_setups(adf: Window) -> None:
    adf.page.get_by_role("region", name="Ring, Intensity", exact=True).get_by_role("button", name="More for this view").click()
    adf.click("menuitem", "Region: polygon")
    corners = [(2.0, 2.0), (2.0, 20.0), (16.0, 11.0)]
    for y, x in corners:
        adf.page.mouse.click(*adf.point(SCAN_VIEW, y, x))
    adf.page.keyboard.press("Enter")
    adf.until("libstream.store.state.roi?.kind === 'polygon'")
    adf.settled()
    n = adf.state()["roi"]["n"]
    assert 80 < n < 180
    assert np.isfinite(adf.array("a/adf/intensity")).sum() == n
    # a corner, by keyboard
    adf.page.get_by_role("slider", name="Region: corner 3").first.focus()
    adf.page.keyboard.press("Shift+ArrowUp")
    adf.until(f"libstream.store.state.roi.n < {n}")
    adf.settled()
    few = adf.state()["roi"]["n"]
    adf.click("button", "Code, setups, history")
    adf.click("menuitem", "Save this setup…")
    adf.page.get_by_role("textbox", name="Name of the setup").fill("triangle")
    adf.page.keyboard.press("Enter")
    adf.until("libstream.store.state.setups.some(s => s.name === 'triangle')")
    adf.click("button", "Whole scan")
    adf.until("libstream.store.state.roi === null")
    adf.click("button", "Code, setups, history")
    adf.click("menuitem", "Setup: triangle")
    adf.until(f"libstream.store.state.roi?.n === {few}")
    adf.settled()


def test_changes_wait_for_run_where_that_is_wanted(adf: Window) -> None:
    adf.page.get_by_label("run at once").uncheck()
    adf.until("libstream.store.state.run.auto === false")
    before = adf.array("a/adf/intensity")
    box = adf.page.locator("[data-name=outer] input")
    box.fill("17")
    box.press("Enter")
    adf.until("libstream.store.state.analyses.adf.params.outer === 17")
    adf.page.wait_for_timeout(400)
    assert np.array_equal(adf.array("a/adf/intensity"), before)
    adf.click("button", "Run")
    adf.settled()
    assert np.array_equal(adf.array("a/adf/intensity"), expected(adf.serve, adf.state()["analyses"]["adf"]["params"]))
    adf.page.get_by_label("run at once").check()
    adf.until("libstream.store.state.run.auto")


def test_a_narrow_window_has_a_drawer(adf: Window) -> None:
    adf.page.set_viewport_size({"width": 640, "height": 800})
    assert not adf.page.get_by_role("button", name="Add analysis").is_visible()
    adf.click("button", "Analyses and parameters")
    adf.page.get_by_role("button", name="Add analysis").wait_for()
    adf.page.wait_for_timeout(200)
    adf.shot("narrow")
    assert adf.page.get_by_text("connected", exact=True).is_visible()


@pytest.mark.realdata
@pytest.mark.parametrize("entry", realdata.ids("mib")[:1])
def test_a_real_merlin_file(entry: str, serve: Starts, window: Opens) -> None:
    path = realdata.path(realdata.dataset(entry), suffix=".mib")
    server = serve("--fresh", "--root", str(path.parent))
    w = window(server)
    w.click("button", "File…")
    w.click("button", path.parent.name)
    w.page.get_by_role("option", name=re.compile(f"^{re.escape(path.name)}")).dblclick()
    w.until("libstream.store.source?.state === 'ready'")
    w.until("libstream.link.array('frame/mean')?.values || libstream.link.array('frame')?.values")
    w.page.wait_for_timeout(500)
    w.shot("real-merlin-file")
    assert w.state()["source"]["sig"] == list(ls.open(path).meta.shape.sig)
