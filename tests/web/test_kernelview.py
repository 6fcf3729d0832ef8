"""What a view in a notebook is sent, without notebook and browser: a client that speaks as widget.js does."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import NotInstalledError, UsageError
from libstream.web_gui import bundle, kernelview, notebook, wire
from libstream.web_gui.kernelview import KernelView
from libstream.web_gui.state import applied

_Arr = np.ndarray[Any, Any]


class Client:
    """One drawn view: keeps the newest arrays, paints (acknowledges) unless told not to."""

    def __init__(self, view: Views, name: str = "c1") -> None:
        self.view, self.name, self.paints = view, name, True
        self.arrays: dict[str, _Arr] = {}
        self.headers: dict[str, dict[str, Any]] = {}
        self.said: list[dict[str, Any]] = []
        self.state: dict[str, Any] = {}
        self.stat: dict[str, Any] = {}
        self.n_arrays = 0
        view.clients[name] = self
        self.say(type="hello")

    def say(self, **message: Any) -> None:
        self.view.core.hear({**message, "client": self.name})

    def take(self, message: dict[str, Any], parts: list[bytes]) -> None:
        kind = message["type"]
        if kind == "array":
            (part,) = parts
            header, rows = wire.unpack(part)
            topic, full = header["topic"], tuple(header["shape"])
            if header["whole"] or topic not in self.arrays or self.arrays[topic].shape != full:
                self.arrays[topic] = np.full(full, np.nan)
            if full:
                self.arrays[topic][header["rows"][0] : header["rows"][1]] = rows
            else:
                self.arrays[topic] = rows
            self.n_arrays += 1
            self.headers[topic] = header
            if self.paints:
                self.say(type="ack", topic=topic, v=header["v"])
        elif kind == "snapshot":
            self.state = json.loads(json.dumps(message["state"], allow_nan=False))
        elif kind == "patch":
            self.state = applied(self.state, message["ops"])
        elif kind == "stat":
            self.stat = json.loads(json.dumps(message, allow_nan=False))
        else:
            self.said.append(message)


class Views:
    """A KernelView whose messages go to clients at once; `deaf` as while a cell runs."""

    def __init__(self, what: Any) -> None:
        self.clients: dict[str, Client] = {}
        self.kept: list[tuple[dict[str, Any], list[bytes]]] = []
        self.deaf = False
        self.core = KernelView(self._send, lambda kept, arrays: self.kept.append((kept, arrays)), lambda: self.deaf)
        self.core.watched.show(what)
        self.core.start()

    def _send(self, message: dict[str, Any], parts: list[bytes]) -> None:
        for name, client in self.clients.items():
            if message.get("to") in (None, name):
                client.take(message, parts)


@pytest.fixture
def views() -> Iterator[Callable[[Any], Views]]:
    made: list[Views] = []

    def make(what: Any) -> Views:
        made.append(Views(what))
        return made[-1]

    yield make
    for v in made:
        v.core.close()


def until(true: Callable[[], Any], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def frames() -> _Arr:
    return np.random.default_rng(2).poisson(20, (6, 7, 16, 16)).astype(np.uint16)


class Bad(ls.UDF):
    """Fails in the middle of a scan."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"value": ls.nav("f8")}

    def process_frame(self, frame: _Arr, out: Any, at: Any) -> None:
        if at.coords == (3, 3):
            raise ValueError("too bright")
        out.value[...] = frame[0, 0]


def ring(**more: Any) -> Any:
    return ls.udfs.VirtualDetector(outer=6, **more)


def test_a_run_is_shown_and_follows_its_handles(views: Callable[[Any], Views], frames: _Arr) -> None:
    scan = ls.open(frames)
    job = ls.start(scan, {"adf": ring(inner=2), "sum": ls.udfs.Sum()})
    client = Client(views(job))
    until(lambda: client.state)
    assert client.state["source"]["nav"] == [6, 7]
    assert client.state["kinds"]["adf"]["handles"][0]["centre"] == "centre"
    client.say(type="sub", topic="a/adf/intensity", px=[300, 300])
    client.say(type="sub", topic="a/sum/sum", px=[300, 300])
    client.say(type="sub", topic="frame/mean", px=[300, 300])
    expected = ls.run(scan, ring(inner=2))["intensity"]
    until(lambda: np.array_equal(client.arrays.get("a/adf/intensity", ()), expected))
    until(lambda: np.array_equal(client.arrays.get("a/sum/sum", ()), frames.sum((0, 1))))
    until(lambda: "frame/mean" in client.arrays)
    assert np.allclose(client.arrays["frame/mean"], frames.mean((0, 1)), rtol=1e-6)
    until(lambda: client.state["source"]["sampled"] == 42)

    for i, inner in enumerate((2.5, 3.0, 4.5)):
        client.say(type="set", analysis="adf", params={"inner": inner}, gen=2 + i)
    expected = ls.run(scan, ring(inner=4.5))["intensity"]
    until(lambda: np.array_equal(client.arrays["a/adf/intensity"], expected))
    until(lambda: client.state["analyses"]["adf"]["shown_gen"] == 4 and client.state["run"]["state"] == "done")
    assert job.wait().run["udfs"]["adf"]["params"]["inner"] == "4.5 px"
    until(lambda: client.stat.get("run") is None and client.stat["analyses"]["adf"] == {"n_done": 42, "n_total": 42})

    job.update("adf", inner=1)  # in another cell
    expected = ls.run(scan, ring(inner=1))["intensity"]
    until(lambda: np.array_equal(client.arrays["a/adf/intensity"], expected))
    until(lambda: client.state["analyses"]["adf"]["resolved"]["inner"] == 1)

    client.say(type="set", analysis="adf", params={"inner": "wide"}, gen=99)
    until(lambda: any(m["type"] == "refused" for m in client.said))
    client.say(type="cmd", id=7, name="pixel", args={"topic": "a/adf/intensity", "y": 2, "x": 3})
    until(lambda: any(m.get("id") == 7 for m in client.said))
    assert client.said[-1]["result"] == {"value": int(expected[2, 3])}


def test_a_view_that_does_not_paint_is_sent_one_array_and_others_all(views: Callable[[Any], Views], frames: _Arr) -> None:
    job = ls.start(ls.open(frames), {"adf": ring()})
    view = views(job)
    slow, quick = Client(view, "slow"), Client(view, "quick")
    slow.paints = False
    for client in (slow, quick):
        client.say(type="sub", topic="a/adf/intensity", px=[300, 300])
    until(lambda: slow.n_arrays and quick.n_arrays)
    for inner in range(1, 6):
        before = quick.n_arrays
        quick.say(type="set", analysis="adf", params={"inner": inner}, gen=None)
        until(lambda before=before: quick.n_arrays > before)  # type: ignore[misc]
    until(lambda: quick.state["analyses"]["adf"]["shown_gen"] == 6)
    assert slow.n_arrays == 1
    slow.paints = True
    slow.say(type="ack", topic="a/adf/intensity", v=slow.headers["a/adf/intensity"]["v"])
    until(lambda: np.array_equal(slow.arrays["a/adf/intensity"], quick.arrays["a/adf/intensity"]))
    assert slow.n_arrays <= 3, "the newest, not all of them"


def test_a_silent_view_is_forgotten_and_taken_again(views: Callable[[Any], Views], frames: _Arr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernelview, "SILENT_S", 0.05)
    view = views(ls.start(ls.open(frames), {"adf": ring()}))
    client = Client(view)
    client.paints = False
    client.say(type="sub", topic="a/adf/intensity")
    until(lambda: client.n_arrays == 1)
    time.sleep(0.1)
    view.core.poke()
    until(lambda: not view.core._clients)
    client.say(type="ack", topic="a/adf/intensity", v=1)
    until(lambda: any(m["type"] == "again" for m in client.said))


def test_what_is_kept_shows_the_last_picture(views: Callable[[Any], Views], frames: _Arr) -> None:
    scan = ls.open(frames)
    job = ls.start(scan, {"adf": ring(), "com": ls.udfs.CenterOfMass()})
    view = views(job)
    job.wait()
    until(lambda: view.kept and view.kept[-1][0]["state"]["run"]["state"] == "done")
    kept, arrays = view.kept[-1]
    json.dumps(kept, allow_nan=False)
    topics = {h["topic"]: v for h, v in map(wire.unpack, arrays)}
    assert np.array_equal(topics["a/adf/intensity"], ls.run(scan, ring())["intensity"])
    assert {"a/com/field", "a/com/total"} <= set(topics)
    n = len(view.kept)
    time.sleep(0.6)
    assert len(view.kept) == n, "nothing has changed, so nothing is sent"


def test_while_a_cell_runs_pictures_come_all_the_same(views: Callable[[Any], Views], frames: _Arr) -> None:
    scan = ls.open(frames)
    job = ls.start(scan, {"adf": ring()})
    view = views(job)
    view.deaf = True
    for inner in (0, 3):
        job.update("adf", inner=inner)
        expected = ls.run(scan, ring(inner=inner))["intensity"]
        until(lambda expected=expected: view.kept and np.array_equal(dict(_kept(view)).get("a/adf/intensity", ()), expected))  # type: ignore[misc]


def _kept(view: Views) -> Iterator[tuple[str, _Arr]]:
    return ((header["topic"], values) for header, values in map(wire.unpack, view.kept[-1][1]))


def test_a_live_acquisition_is_shown_with_its_ledger(views: Callable[[Any], Views], frames: _Arr) -> None:
    with ls.connect("libstream://127.0.0.1:0", scan=(6, 7), ring_bytes=64 << 20) as live:
        url = f"libstream://{live.address.partition('://')[2]}"
        sending = threading.Thread(target=ls.replay, args=(ls.open(frames), url), kwargs={"loss": 0.2, "rate": 200, "patience_s": 30.0})
        sending.start()
        try:
            acquisition = live.wait(30)
            job = ls.start(acquisition, {"adf": ring()})
            client = Client(views(job))
            for topic in ("a/adf/intensity", "frame/mean", "frame"):
                client.say(type="sub", topic=topic)
            until(lambda: client.stat.get("run") is None and client.stat.get("ledger", {}) and client.stat["ledger"]["missing"])
            until(lambda: client.state["run"]["state"] != "running" and "frame/mean" in client.arrays and "frame" in client.arrays)
            assert client.state["source"]["kind"] == "live"
            result = job.wait()
            expected = np.where(result.valid, ls.run(frames, ring())["intensity"], np.nan)
            until(lambda: np.array_equal(client.arrays["a/adf/intensity"], expected, equal_nan=True))
            client.say(type="set", analysis="adf", params={"inner": 3}, gen=2)  # for the whole scan, also what is over
            expected = np.where(result.valid, ls.run(frames, ring(inner=3))["intensity"], np.nan)
            until(lambda: np.array_equal(client.arrays["a/adf/intensity"], expected, equal_nan=True))
        finally:
            sending.join(30)


def test_a_failing_udf_is_told_and_the_view_lives(views: Callable[[Any], Views], frames: _Arr) -> None:
    view = views(ls.start(ls.open(frames), {"map": Bad()}))
    client = Client(view)
    until(lambda: client.state.get("analyses", {}).get("map", {}).get("state") == "failed")
    assert "too bright" in client.state["analyses"]["map"]["error"]["message"]
    view.core.watched.show(ls.start(ls.open(frames), {"sum": ls.udfs.Sum()}))
    client.say(type="sub", topic="a/sum/sum")
    until(lambda: np.array_equal(client.arrays.get("a/sum/sum", ()), frames.sum((0, 1))))
    assert list(client.state["analyses"]) == ["sum"]


class Slow(ls.UDF):
    """Takes its time."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"value": ls.nav("f8")}

    def process_frame(self, frame: _Arr, out: Any) -> None:
        time.sleep(0.02)
        out.value[...] = frame[0, 0]


def test_a_run_is_stopped_and_what_is_there_stays(views: Callable[[Any], Views], frames: _Arr) -> None:
    job = ls.start(ls.open(np.tile(frames, (4, 1, 1, 1))), {"slow": Slow()})
    client = Client(views(job))
    until(lambda: client.stat.get("run") and client.state)
    client.say(type="cmd", id=1, name="cancel")
    until(lambda: client.state["analyses"]["slow"]["state"] == "incomplete" and client.state["run"]["state"] == "incomplete")
    assert job.state == "cancelled"
    until(lambda: client.stat["run"] is None)


def test_results_are_shown_and_nothing_else(views: Callable[[Any], Views], frames: _Arr) -> None:
    result = ls.run(ls.open(frames), {"com": ls.udfs.CenterOfMass()})
    client = Client(views(result))
    until(lambda: client.state)
    assert client.state["source"]["frames"] is False
    assert client.state["analyses"]["com"]["udf"] == "CenterOfMass"
    client.say(type="sub", topic="a/com/field", px=[100, 100])
    until(lambda: np.array_equal(client.arrays.get("a/com/field", ()), result["com"]["field"].astype(np.float32)))
    client.say(type="set", analysis="com", params={"inner": 1}, gen=5)
    until(lambda: any(m["type"] == "refused" for m in client.said))
    with pytest.raises(UsageError, match="only a Job"):
        KernelView(lambda *_: None, lambda *_: None, lambda: False).watched.show(frames)


@pytest.mark.parametrize(
    "message",
    [
        {}, {"type": "sub"}, {"type": "sub", "topic": "a/x", "at": "here"}, {"type": "cmd", "id": 1, "name": "rm"}, {"type": "set"},
        {"type": "cmd", "id": 2, "name": "pixel", "args": {}}, {"type": "ack", "topic": 4},
        {"type": "cmd", "name": "layout", "args": {"layout": 5}}, {"type": "sub", "topic": "frame", "at": [99, 99]},
        {"type": "nothing"}, {"type": "seen", "t": float("nan")},
    ],
)  # fmt: skip
def test_odd_messages_do_no_harm(views: Callable[[Any], Views], frames: _Arr, message: dict[str, Any]) -> None:
    client = Client(views(ls.start(ls.open(frames), {"sum": ls.udfs.Sum()})))
    client.view.core.hear("text")
    client.view.core.hear({"type": "hello", "client": 5})
    client.say(**message)
    client.say(type="sub", topic="a/sum/sum")
    until(lambda: np.array_equal(client.arrays.get("a/sum/sum", ()), frames.sum((0, 1))))


def test_closing_ends_all_threads_and_says_so(frames: _Arr) -> None:
    view = Views(ls.start(ls.open(frames), {"sum": ls.udfs.Sum()}))
    client = Client(view)
    until(lambda: client.state)
    view.core.close()
    view.core.close()
    assert client.said[-1]["type"] == "bye"
    assert view.kept
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("libstream-view", "libstream-watched", "libstream-frames"))]
    with pytest.raises(UsageError, match="closed"):
        view.core.watched.show(ls.run(ls.open(frames), ls.udfs.Sum()))


def test_without_anywidget_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, frames: _Arr) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    notebook.widget_class.cache_clear()
    with pytest.raises(NotInstalledError, match=r"pip install 'libstream\[jupyter\]'"):
        ls.live_view(ls.run(ls.open(frames), ls.udfs.Sum()))


def test_the_bundle_is_one_module_without_the_page() -> None:
    text = bundle.module()
    assert text.count("\nexport ") == 1
    assert "\nexport default { render };" in text
    assert "\nimport " not in text
    names = bundle.modules()
    assert names[-1] == "jupyter/widget.js"
    assert not {"js/app.js", "js/topbar.js", "js/filedialog.js"} & set(names)
    order = {n: i for i, n in enumerate(names)}
    assert order["js/dom.js"] < order["js/tile.js"] < order["js/imagetile.js"] < order["js/frametile.js"]


def test_the_styles_stay_in_the_view() -> None:
    css = bundle.styles()
    assert ":root" not in css
    assert not [line for line in css.splitlines() if line.startswith(("body", "html"))]
    assert " body" not in css.replace("tile-body", "")
    assert ':host([data-theme="light"])' in css
