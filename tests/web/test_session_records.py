"""What a session keeps: history, saved files, setups, pins, scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import UsageError
from libstream.jobs.corrected import corrected
from libstream.jobs.keep import Keep
from libstream.jobs.session import Session
from tests.web.sessions import FRAMES, array, settled, wait


def test_the_next_file_takes_the_analyses_along(session: Session, scan: str, tmp_path: Path) -> None:
    session.analyses.add("Sum", id="sum")
    session.open(scan)
    settled(session, "sum")
    np.save(tmp_path / "other.npy", FRAMES[:, :, :8])
    session.open(str(tmp_path / "other.npy"))
    settled(session, "sum")
    assert array(session, "a/sum/sum").shape == (8, 16)
    wait(lambda: [e["name"] for e in session.view()["history"]] == ["other.npy", "scan.npy"])
    view = session.view()
    past = view["history"][1]
    assert past["processed"] == 72
    assert np.array_equal(array(session, past["results"][0]["topic"]), FRAMES.sum(axis=(0, 1)))
    session.records.reopen(past["id"])
    settled(session, "sum")
    assert session.view()["source"]["name"] == "scan.npy"


def test_saved_files_hold_all_results(session: Session, scan: str) -> None:
    session.open(scan)
    session.analyses.add("Sum", id="sum")
    session.analyses.add("VirtualDetector", {"outer": 4}, id="bf")
    settled(session, "sum", "bf")
    session.analyses.set("bf", {"outer": 5})  # now it has a run of its own
    settled(session, "bf")
    loaded = ls.load_result(session.records.save())
    assert np.array_equal(loaded["bf"]["intensity"], ls.run(ls.open(scan), ls.udfs.VirtualDetector(outer=5))["intensity"])
    assert np.array_equal(loaded["sum"]["sum"], FRAMES.sum(axis=(0, 1)))
    assert loaded.run["udfs"]["bf"]["params"]["outer"] in (5, 5.0, "5 px")
    assert loaded.complete
    with pytest.raises(UsageError):
        session.records.save("../x")
    assert session.records.save("mine").name == "mine.h5"
    with pytest.raises(UsageError, match="exists"):
        session.records.save("mine.h5")
    wait(lambda: session.view()["history"][0]["saved"].endswith("mine.h5"))


def test_setups_and_the_last_state_come_back(session: Session, scan: str, tmp_path: Path) -> None:
    session.open(scan)
    session.analyses.add("VirtualDetector", {"inner": 3, "outer": "6 px"}, id="adf", title="Dark field")
    session.records.set_layout({"tiles": ["a"]})
    session.records.save_setup("mine / yours".replace("/", "and"))
    settled(session, "adf")
    session.close()
    again = Session(keep=Keep(tmp_path / "state"), out=tmp_path / "out")
    try:
        assert [x["name"] for x in again.view()["setups"]] == ["mine and yours"]
        uri, options = again.records.last()
        again.open(uri, options)
        a = again.view()["analyses"]["adf"]
        assert (a["title"], a["params"]["inner"], a["params"]["outer"]) == ("Dark field", 3, 6)
        assert again.view()["layout"] == {"tiles": ["a"]}
        again.analyses.remove("adf")
        again.records.load_setup("mine and yours")
        settled(again, "adf")
        with pytest.raises(UsageError):
            again.records.load_setup("none")
        again.records.remove_setup("mine and yours")
        assert again.view()["setups"] == []
    finally:
        assert again.close()


def test_region_and_corrections_come_back(session: Session, scan: str, tmp_path: Path) -> None:
    region = {"kind": "rectangle", "y0": 1, "x0": 0, "y1": 5, "x1": 9}
    hot = {"kind": "rectangle", "y0": 3, "x0": 4, "y1": 4, "x1": 5}
    np.save(tmp_path / "mask.npy", np.eye(16, dtype=np.uint8))
    np.save(tmp_path / "dark.npy", np.full((16, 16), 2.0))
    given = {"dark": str(tmp_path / "dark.npy"), "excluded": [hot, {"kind": "file", "path": str(tmp_path / "mask.npy")}]}

    def correct(s: Session, what: dict[str, Any]) -> None:
        shown, made = corrected(s.corrections, what, (16, 16), s.records.resolve)
        s.set_corrections(made, shown)

    session.open(scan)
    session.analyses.add("VirtualDetector", {"outer": 6}, id="bf")
    session.set_roi(region)
    correct(session, given)
    settled(session, "bf")
    first = array(session, "a/bf/intensity")
    excluded = np.eye(16, dtype=bool)
    excluded[3, 4] = True
    corrections = ls.Corrections(dark=np.full((16, 16), 2.0), excluded=excluded)
    roi = np.zeros(FRAMES.shape[:2], bool)
    roi[1:5] = True
    assert np.array_equal(
        first, ls.run(FRAMES, ls.udfs.VirtualDetector(outer=6), roi=roi, corrections=corrections)["intensity"], equal_nan=True
    )
    session.records.save_setup("with dark")
    # a past run, on another day
    correct(session, {"dark": None, "excluded": None})
    session.set_roi(None)
    settled(session, "bf")
    assert not np.array_equal(array(session, "a/bf/intensity"), first, equal_nan=True)
    session.records.load_setup("with dark")
    settled(session, "bf")
    assert np.array_equal(array(session, "a/bf/intensity"), first, equal_nan=True)
    session.worker.call(session.records.note)
    session.close()
    again = Session(keep=Keep(tmp_path / "state"), out=tmp_path / "out")
    try:
        again.open(*again.records.last())
        settled(again, "bf")
        assert again.view()["roi"]["n"] == roi.sum()
        assert again.view()["corrections"]["shapes"] == given["excluded"]
        assert np.array_equal(array(again, "a/bf/intensity"), first, equal_nan=True)
        correct(again, {"dark": None, "excluded": None})
        again.set_roi(None)
        settled(again, "bf")
        again.close_source()
        past = again.view()["history"]
        assert past[0]["results"], "results of what was closed can still be looked at"
        again.open(scan)
        assert again.view()["history"][0]["results"] == past[0]["results"]
        again.records.reopen(past[-1]["id"])
        settled(again, "bf")
        assert np.array_equal(array(again, "a/bf/intensity"), first, equal_nan=True)
        # a file that is gone is told, and nothing is corrected by half
        again.analyses.remove("bf")
        (tmp_path / "dark.npy").unlink()
        correct(again, {"dark": None, "excluded": None})
        again.records.load_setup("with dark")
        assert again.view()["corrections"]["dark"] is None
        assert "dark.npy" in again.view()["log"][-1]["text"]
    finally:
        assert again.close()


def test_pins_stay_when_parameters_change(session: Session, scan: str) -> None:
    session.open(scan)
    session.analyses.add("VirtualDetector", {"outer": 4}, id="bf")
    settled(session, "bf")
    first = array(session, "a/bf/intensity")
    pin = session.records.pin("a/bf/intensity", "before")
    session.analyses.set("bf", {"outer": 6})
    settled(session, "bf")
    assert np.array_equal(array(session, f"p/{pin}"), first)
    assert session.view()["pins"][pin]["params"]["outer"] == 4
    session.records.unpin(pin)
    assert session.store.get(f"p/{pin}") is None


def test_the_script_gives_the_same_arrays(session: Session, scan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from libstream.jobs import code
    from libstream.jobs.arrays import json_array

    session.open(scan)
    session.analyses.add("VirtualDetector", {"inner": 2, "outer": 6.5, "centre": [7, 8]}, id="adf")
    session.analyses.add("VirtualDetector", {"mask": json_array(np.eye(16))}, id="m")
    session.analyses.add("mine.py:Scaled", {"factor": 4}, id="s")
    session.set_roi({"kind": "polygon", "points": [[-1, -1], [-1, 7], [9, 7]]})
    session.set_corrections(ls.Corrections(dark=np.ones((16, 16))), {"dark": None, "gain": None, "excluded": 0, "on": True})
    settled(session, "adf", "m", "s")
    monkeypatch.chdir(tmp_path)
    text = code.generate(session, "python")["text"]
    found: dict[str, Any] = {}
    exec(compile(text, "script", "exec"), found)
    for id, name in (("adf", "intensity"), ("m", "intensity"), ("s", "value")):
        assert np.array_equal(found["result"][id][name], array(session, f"a/{id}/{name}"), equal_nan=True), id
    notebook = json.loads(code.generate(session, "notebook")["text"])
    cells = ["".join(c["source"]) for c in notebook["cells"]]
    assert "\n\n".join(cells).replace("\nresult\n", "\nprint(result)\n") + "\n" == text


def test_a_setup_is_computed_in_one_pass(session: Session, scan: str) -> None:
    for id in ("a", "b", "c"):
        session.analyses.add("VirtualDetector", {"outer": 6}, id=id)
    session.records.save_setup("three")
    session.open(scan)
    settled(session, "a", "b", "c")
    session.analyses.set("b", {"inner": 1})
    settled(session, "b")
    assert len(session.runner.results()) == 2
    session.records.load_setup("three")
    settled(session, "a", "b", "c")
    assert [ids for ids, _ in session.runner.results()] == [{"a", "b", "c"}]
    session.analyses.set("b", {"inner": 1})
    settled(session, "b")
    session.run()
    settled(session, "a", "b", "c")
    assert [ids for ids, _ in session.runner.results()] == [{"a", "b", "c"}]
