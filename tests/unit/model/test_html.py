"""Results, runs and sources in notebooks: whatever is in them, the HTML is well-formed, harmless, small, and says what is there."""

from __future__ import annotations

import base64
import io
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import libstream as ls
from libstream.model import picture
from libstream.model.html import result_html, values_of
from libstream.model.output import Output, nav, ragged, sig, single
from libstream.model.partial import PROCESSED, Coverage
from libstream.model.ragged import Ragged
from libstream.model.result import Outputs, Result
from libstream.model.shape import DataShape
from libstream.model.source import SourceId, SourceMeta, default_axes

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'\n\x00é"
VOID = {"img", "br", "hr"}


class Checked(HTMLParser):
    """Tags and text; complains about tags that do not match and about all that could run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.images: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"div", "span", "b", "table", "tr", "td", "th", "img", "br", "details", "summary"}, tag
        assert {name for name, _ in attrs} <= {"style", "src", "alt", "title", "colspan"}, attrs
        src = dict(attrs).get("src")
        if src is not None:
            assert re.match(r"data:image/(png|svg\+xml);base64,[A-Za-z0-9+/=]+$", src), src[:80]
            self.images.append(src)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def made(declared: Output, data: Any, *, scan: tuple[int, ...] = (4, 5), valid: np.ndarray[Any, Any] | None = None, **more: Any) -> Result:
    shape = DataShape(scan, (6, 7))
    status = np.full(scan, PROCESSED, np.uint8) if valid is None else np.where(valid, PROCESSED, 0).astype(np.uint8)
    outputs = Outputs("key", {"name": data}, {"name": declared}, shape, default_axes(shape))
    return Result({"key": outputs}, Coverage(status), **more)


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    """A PNG of this library, decoded by hand: (h, w, 3)."""
    w, h = struct.unpack(">II", data[16:24])
    at = data.index(b"IDAT")
    (n,) = struct.unpack(">I", data[at - 4 : at])
    return np.frombuffer(zlib.decompress(data[at + 4 : at + 4 + n]), np.uint8).reshape(h, 1 + 3 * w)[:, 1:].reshape(h, w, 3)


def first_picture(result: Result) -> bytes:
    return base64.b64decode(Checked(result_html(result)).images[0].partition(",")[2])


ANY = st.one_of(
    hnp.arrays(
        st.sampled_from([np.dtype(d) for d in ("f2", "f4", "f8", "c8", "c16", "u1", "i8", "u8", "bool", ">f4")]),
        hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5),
    ),
    hnp.arrays(hnp.array_dtypes(), hnp.array_shapes(max_dims=2, max_side=3)),
)


@settings(max_examples=60)
@given(ANY, st.sampled_from(["nav", "sig", "single"]))
def test_any_array_has_a_row(array: np.ndarray[Any, Any], kind: str) -> None:
    declared = Output(kind, "f8", merge="place" if kind == "nav" else "sum")  # type: ignore[arg-type]
    result = made(declared, array, valid=np.indices((4, 5)).sum(0) % 3 > 0)
    page = Checked(result_html(result))
    assert "name" in page.text
    png = result._repr_png_()
    assert png is None or png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full((4, 5), np.nan), "none is finite (20 values)"),
        (np.array([[np.inf, -np.inf, 1.0, 2.5]]), "1 to 2.5 (2 not finite)"),
        (np.full((4, 5), 7.0), "7"),
        (np.zeros((0, 5)), "empty"),
        (np.array([[1 + 1j, 0]]), "amplitude 0 to 1.4142"),
        (np.array([-1.7e308, 1.7e308]), "-1.7e+308 to 1.7e+308"),
        (np.array(3, "u2"), "3"),
        (np.array([True, False, True]), "2 of 3 true"),
        (np.zeros(2, [("y", "f4"), ("<x>", "f4")]), "fields y, <x>"),
        (np.array([12345678], "u8"), "12 345 678"),
    ],
)
def test_values_in_words(array: np.ndarray[Any, Any], says: str) -> None:
    assert values_of(array) == says


def test_hostile_text_stays_text() -> None:
    shape = DataShape((2, 2), (2, 2))
    outputs = Outputs(
        HOSTILE, {HOSTILE: np.ones((2, 2))}, {HOSTILE: nav("f8", unit=HOSTILE, title=HOSTILE + "t")}, shape, default_axes(shape)
    )
    run = {
        "source": {"uri": HOSTILE}, "failures": {HOSTILE: HOSTILE}, "ledger": {HOSTILE: 1, "dropped": 2},
        "udfs": {HOSTILE: {"name": HOSTILE, "params": {HOSTILE: HOSTILE}}},
    }  # fmt: skip
    result = Result({HOSTILE: outputs}, Coverage(np.full((2, 2), PROCESSED, np.uint8)), run=run)
    page = Checked(result._repr_html_())
    assert "<script>alert(1)</script>" in page.text, "it is shown, as text"
    assert page.text.count("onerror") >= 6
    meta = SourceMeta(
        SourceId(HOSTILE, HOSTILE, 1), shape, np.dtype("u2"), vendor={HOSTILE: HOSTILE}, notes=(HOSTILE,), channels=(HOSTILE, "b")
    )
    from libstream.model.html import job_html, source_html

    assert "<script>" in Checked(source_html(meta, HOSTILE)).text
    assert "<script>" in Checked(job_html(HOSTILE, float("nan"), HOSTILE, HOSTILE, result)).text


def test_what_was_not_seen_is_grey_and_not_counted() -> None:
    valid = np.zeros((4, 5), bool)
    valid[:2] = True
    data = np.where(valid, np.arange(20).reshape(4, 5), 65535).astype("u2")
    result = made(nav("u2"), data, valid=valid)
    page = Checked(result_html(result))
    assert "0 to 9" in page.text
    assert "65" not in page.text.replace("65 ", "")
    shown = pixels(first_picture(result))
    assert (shown[2:] == picture.UNSEEN).all()
    assert not (shown[:2] == picture.UNSEEN).all(axis=-1).any()
    assert "incomplete" in page.text
    assert "10 of 20 positions processed" in page.text


def test_losses_and_failures_are_said() -> None:
    page = Checked(
        result_html(made(nav("f8"), np.ones((4, 5)), run={"ledger": {"processed": 18, "dropped": 2}, "failures": {"key": "it broke"}}))
    )
    assert "dropped 2" in page.text
    assert "key stopped it broke" in page.text
    assert "incomplete" in page.text


def test_large_results_are_shrunk() -> None:
    rng = np.random.default_rng(0)
    result = made(nav("f4"), rng.random((1500, 2000), np.float32), scan=(1500, 2000))
    html = result._repr_html_()
    assert len(html) < 60_000
    h, w = pixels(first_picture(result)).shape[:2]
    assert 40 <= h < w <= 110
    png = result._repr_png_()
    assert png is not None
    assert max(pixels(png).shape) <= 600
    many = {f"k{i}": Outputs(f"k{i}", {"a": np.ones((4, 5)), "b": np.ones(3)}, {}, DataShape((4, 5), (6, 7)), ()) for i in range(60)}
    page = Checked(result_html(Result(many, Coverage(np.full((4, 5), PROCESSED, np.uint8)))))
    assert "and 80 more" in page.text
    assert len(page.images) == 40


def test_shrinking_takes_means_of_what_is_there() -> None:
    values = np.arange(64.0).reshape(8, 8)
    values[0, 0] = np.nan
    values[4:, 4:] = np.nan
    small = picture.shrunk(values, 2)
    assert small.shape == (2, 2)
    assert small[0, 1] == values[:4, 4:].mean()
    assert small[0, 0] == np.nanmean(values[:4, :4])
    assert np.isnan(small[1, 1])
    assert np.array_equal(picture.shrunk(np.eye(3), 5), np.eye(3))
    assert picture.shrunk(np.full((40, 40), 1.7e308), 4).max() == pytest.approx(1.7e308)


def test_vectors_and_complex_numbers_are_wheels() -> None:
    # right is red, up is a quarter turn on: green and a little red; y is downwards
    vectors = np.zeros((1, 4, 2))
    vectors[0, :, 1] = [1, 0, -1, 0]
    vectors[0, :, 0] = [0, -1, 0, 1]
    right, up, left, down = pixels(first_picture(made(nav("f8", (2,)), vectors, scan=(1, 4))))[0].tolist()
    assert right == [255, 0, 0]
    assert up == [128, 255, 0]
    assert left == [0, 255, 255]
    assert down == [127, 0, 255] or down == [128, 0, 255]
    same = pixels(first_picture(made(nav("c16"), np.array([[1, 1j, -1, -1j]]), scan=(1, 4))))[0].tolist()
    assert same == [right, up, left, down]


def test_lines_are_svg_with_gaps() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, np.inf, 6.0])
    page = Checked(result_html(made(single("f8", (6,)), values)))
    svg = base64.b64decode(page.images[0].partition(",")[2]).decode()
    path = ET.fromstring(svg).find(".//{http://www.w3.org/2000/svg}path")
    assert path is not None
    assert path.get("d", "").count("M") == 3
    assert "nan" not in svg
    assert "inf" not in svg
    long = picture.lines([np.sin(np.arange(1_000_000))])
    assert len(long) < 20_000
    assert ET.fromstring(picture.lines([np.full(5, np.nan)])) is not None
    spike = np.zeros(100_000)
    spike[54_321] = 9
    assert " 4.0" in picture.lines([spike]), "extremes stay"


def test_ragged_results_show_how_many_there_are() -> None:
    counts = np.arange(20)
    data = Ragged(np.zeros((int(counts.sum()), 2)), np.concatenate([[0], np.cumsum(counts)]), (4, 5))
    result = made(ragged("f8", (2,)), data)
    page = Checked(result_html(result))
    assert "190 records, 0 to 19 a position" in page.text
    assert "4 × 5 positions" in page.text
    assert result._repr_png_() is not None


def test_one_image_is_a_picture_and_several_are_none() -> None:
    one = made(sig("f8"), np.arange(42.0).reshape(6, 7))
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(one._repr_png_() or b""))
    assert image.size == (252, 216)
    both = Result({**one.udfs, "b": one.udfs["key"]}, one.coverage)
    assert both._repr_png_() is None
    assert made(single("f8"), np.array(1.0))._repr_png_() is None


def test_runs_and_sources() -> None:
    frames = np.random.default_rng(1).poisson(5, (4, 5, 6, 7)).astype("u2")
    source = ls.open(frames, scan_step="0.5 nm")
    page = Checked(source._repr_html_())
    assert "y: 4 × 0.5 nm" in page.text
    assert "uint16" in page.text
    job = ls.start(source, {"s": ls.udfs.Sum(), "m": ls.udfs.Mean()}, executor="inline")
    job.wait()
    assert job.state == "done"
    assert "done, 20 of 20 positions" in repr(job)
    page = Checked(job._repr_html_())
    assert "20 of 20 positions processed" in page.text
    assert len(page.images) == 2
    assert "sum" in Checked(job.wait()["s"]._repr_html_()).text
