"""Views of a stored scan, in Chromium: shapes, contrast, plots, numbers, series, what they say to everybody."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import libstream as ls
from tests.browser.serving import SCAN_VIEW, Serve, Window, expected, pattern, wait_for

pytestmark = pytest.mark.leaves("threads", "Playwright's event loop keeps a thread of its executor until the package is done")
PIXEL = """(() => {
    const c = [...document.querySelectorAll('.tile')].at(-1).querySelector('canvas.pixels');
    return Array.from(c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data);
})()"""
NEEDS_NAMES = {"button", "slider", "textbox", "combobox", "checkbox"}
Opens = Callable[..., Window]


def compact(value: Any) -> str:
    """As JSON.stringify writes it."""
    return json.dumps(value, separators=(",", ":"))


def test_every_shape_by_form_and_keyboard(adf: Window) -> None:
    """Another shape leaves no length behind that it does not have; each of its handles moves by an arrow key and says its value."""
    chooser = adf.page.locator("[data-name=shape] select")
    steps = {
        "disk": {"Centre": "centre", "Radius": "outer"},
        "point": {"Centre": "centre"},
        "rectangle": {"Centre": "centre", "Width": "width", "Height": "height"},
        "sector": {"Inner radius": "inner", "Outer radius": "outer", "Start angle": "angles", "Stop angle": "angles"},
        "annulus": {"Inner radius": "inner", "Outer radius": "outer"},
    }
    for shape, handles in steps.items():
        chooser.select_option(shape)
        adf.until(f"libstream.store.state.analyses.adf.params.shape === '{shape}'")
        for name, parameter in handles.items():
            before = adf.state()["analyses"]["adf"]["params"][parameter]
            knob = adf.knob(f"Ring: {name}")
            text = knob.get_attribute("aria-valuetext")
            knob.focus()
            adf.page.keyboard.press("ArrowLeft")
            adf.until(f"JSON.stringify(libstream.store.state.analyses.adf.params.{parameter}) !== {json.dumps(compact(before))}")
            assert adf.knob(f"Ring: {name}").get_attribute("aria-valuetext") != text
        adf.settled()
        a = adf.state()["analyses"]["adf"]
        assert a["state"] == "done", a["error"]
        assert np.array_equal(adf.array("a/adf/intensity"), expected(adf.serve, a["params"])), shape
        if shape == "sector":
            adf.shot("sector")
    assert a["params"]["inner"] == 12 - 2, "the inner radius came back with the ring"


def test_scans_of_other_shapes(shared: Serve, window: Opens) -> None:
    """A line of positions, a single frame, a series of scans: plots, numbers, and planes that move together."""
    w = window(shared).in_control()

    def show(name: str, *udfs: str) -> None:
        for id in w.state()["order"]:
            w.js(f"libstream.do('remove', {{id: '{id}'}})")
        w.js(f"libstream.do('open', {{uri: '{shared.folder}/data/{name}'}})")
        w.until(f"libstream.store.source?.state === 'ready' && libstream.store.source.name === '{name}'")
        for udf in udfs:
            w.js(f"libstream.do('add', {{udf: '{udf}', id: '{udf.lower()}'}})")
        w.until(f"libstream.store.state.order.length === {len(udfs)}")
        w.settled()

    show("line.npy", "VirtualDetector", "CenterOfMass")
    w.until("libstream.link.array('a/virtualdetector/intensity')?.values")
    plot = w.page.get_by_role("region", name=re.compile("^Virtual detector")).get_by_role("img")
    box = plot.bounding_box()
    w.page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 60)
    w.until("libstream.cursor?.length === 1 && libstream.link.array('frame')?.header?.at?.length === 1")
    assert np.array_equal(w.array("frame"), pattern()[0, w.js("libstream.cursor[0]")])
    w.page.wait_for_timeout(200)
    w.shot("scan-line")
    show("frame.npy", "VirtualDetector", "CenterOfMass")
    number = w.page.locator(".stage.number")
    wait_for(lambda: number.first.text_content() == f"{pattern()[0, 0].sum():,}".replace(",", " "))
    assert re.fullmatch(r"y -?[\d.]+ px\nx -?[\d.]+ px", number.nth(1).text_content() or "")
    w.shot("single-frame")
    show("series.npy", "VirtualDetector", "CenterOfMass")
    planes = w.page.get_by_role("slider", name="Plane along t")
    planes.first.focus()
    w.page.keyboard.press("ArrowRight")
    w.until("[...document.querySelectorAll('.planes input')].map(n => n.value).join() === '1,1'")
    w.page.mouse.click(*w.point("[...libstream.regions.places][0].tile.view", 2, 3))
    w.until("String(libstream.cursor) === '1,2,3' && String(libstream.link.array('frame')?.header?.at) === '1,2,3'")
    series = pattern()[:12, :5].reshape(3, 4, 5, 64, 64)
    assert np.array_equal(w.array("frame"), series[1, 2, 3])
    w.page.get_by_role("region", name=re.compile("^Virtual detector")).get_by_role("button", name="More for this view").click()
    with w.page.expect_download() as download:
        w.click("menuitem", "Save as TIFF")
    assert download.value.suggested_filename == "series_virtualdetector_intensity.tif"
    text = download.value.path().read_bytes()
    assert series[1].sum(axis=(-2, -1), dtype=np.uint64).tobytes() in text, "the plane that is seen"
    w.shot("series")


def test_handles_are_sliders_with_values_for_everybody(adf: Window) -> None:
    tree = adf.page.context.new_cdp_session(adf.page).send("Accessibility.getFullAXTree")["nodes"]
    sliders = {n["name"]["value"]: n for n in tree if n.get("role", {}).get("value") == "slider" and not n.get("ignored")}
    for name, value in (("Ring: Inner radius", 12), ("Ring: Outer radius", 26)):
        assert float(sliders[name]["value"]["value"]) == value
        props = {p["name"]: p["value"].get("value") for p in sliders[name]["properties"]}
        assert props["valuemin"] == 0
        assert props["valuemax"] > 30
        assert adf.knob(name).get_attribute("aria-valuetext") == f"{name[6:].lower()} {value} px"
    assert "Ring: Centre" in sliders
    assert "Diffraction: upper limit" in sliders, sorted(sliders)
    shown = [n for n in tree if n.get("role", {}).get("value") in NEEDS_NAMES and not n.get("ignored")]
    unnamed = [n for n in shown if not n["name"]["value"]]
    assert not unnamed


def test_contrast_follows_limits_and_maps(adf: Window) -> None:
    adf.allowed.append("willReadFrequently")  # this test looks at pixels
    tile = adf.page.get_by_role("region", name="Ring, Intensity", exact=True)
    shade = PIXEL
    before = adf.js(shade)
    high = tile.get_by_label("Ring, Intensity: upper limit of the colours")
    low = tile.get_by_label("Ring, Intensity: lower limit of the colours")
    high.fill("0")
    high.press("Enter")
    assert "wrong" in (high.get_attribute("class") or ""), "limits cannot cross"
    top = adf.array("a/adf/intensity").max()
    high.fill(str(top * 10))
    high.press("Enter")
    low.fill(str(top * 5))
    low.press("Enter")
    adf.until(f"JSON.stringify({shade}) !== '{before}'.replace(/ /g, '')")
    assert adf.js(shade)[:3] == [68, 1, 84], "everything lies below the limits: the darkest colour"
    assert not tile.get_by_label("limits follow the data").is_checked()
    tile.get_by_label("colour map").select_option("gray")
    adf.until(f"{shade}[0] === 0")
    tile.get_by_label("limits follow the data").check()
    adf.until(f"{shade}[0] > 0 || {shade}[1] > 0")


def test_names_copies_and_other_displays(adf: Window) -> None:
    page = adf.page
    page.get_by_role("button", name="More for this analysis").click()
    adf.click("menuitem", "Duplicate")
    adf.until("libstream.store.state.order.length === 2")
    page.get_by_role("button", name="More for this analysis").last.click()
    adf.click("menuitem", "Rename…")
    page.get_by_role("textbox", name="Name").fill("Outer ring")
    page.keyboard.press("Enter")
    adf.until("Object.values(libstream.store.state.analyses).some(a => a.title === 'Outer ring')")
    for udf, params in (("CenterOfMass", {}), ("RadialProfile", {}), ("LocalMaxima", {"threshold": 25})):
        adf.js(f"libstream.do('add', {{udf: '{udf}', params: {params}}}).then(r => libstream.select(r.id))")
        adf.until(f"Object.values(libstream.store.state.analyses).some(a => a.udf === '{udf}')")
    adf.settled()
    adf.js("libstream.setCursor([4, 5])")
    adf.until("document.querySelectorAll('.records circle').length > 0")
    page.wait_for_timeout(400)
    adf.shot("many-analyses")
    peaks = adf.js("[...libstream.shapes.places][0].tile.points")
    source = ls.open(adf.serve.folder / "data" / "scan.mib")
    from libstream.udfs.maxima import LocalMaxima

    found = ls.run(source, {"a": LocalMaxima(threshold=25)})["a"]["peaks"][4, 5]
    assert sorted(map(tuple, peaks)) == sorted((int(p["y"]), int(p["x"])) for p in found)
    page.get_by_role("region", name=re.compile("Deflection")).get_by_label("what is shown").select_option("y")
    tile = page.get_by_role("region", name="Ring, Intensity", exact=True)
    tile.get_by_role("button", name="More for this view").click()
    adf.click("menuitem", "Pin for comparison")
    adf.until("Object.keys(libstream.store.state.pins).length === 1")
    tile.get_by_role("button", name="More for this view").click()
    adf.click("menuitem", "Line profile")
    tile.get_by_role("img", name=re.compile("Line profile")).wait_for()
    tile.get_by_role("button", name=re.compile("Full size")).click()
    page.wait_for_timeout(300)
    adf.shot("line-profile-full-size")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Dark or light").click()
    adf.shot("light")


def test_values_under_the_pointer_are_exact(adf: Window) -> None:
    x, y = adf.point(SCAN_VIEW, 7, 11)
    adf.page.mouse.move(x, y)
    value = int(adf.array("a/adf/intensity")[7, 11])
    shown = wait_for(lambda: adf.page.get_by_role("region", name="Ring, Intensity", exact=True).locator(".readout").text_content())
    assert "y 7, x 11" in shown
    assert shown.replace(" ", "").endswith(str(value))
    adf.page.mouse.wheel(0, -600)
    adf.until(f"{SCAN_VIEW}.zoom > 2")
    adf.page.mouse.move(x + 1, y)
    assert "y 7, x 11" in (adf.page.get_by_role("region", name="Ring, Intensity", exact=True).locator(".readout").text_content() or ""), (
        "zoom keeps the point"
    )
