"""The session without a server: analyses over files, changed while they run, and what is kept."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import libstream as ls
from libstream.errors import LibstreamError, ParameterError, UsageError
from libstream.jobs.catalog import Catalog
from libstream.jobs.keep import Keep
from libstream.jobs.session import Session
from tests.web.sessions import FRAMES, OWN, array, settled, wait


def test_what_is_shown_is_what_a_run_gives(session: Session, scan: str) -> None:
    session.analyses.add("VirtualDetector", {"inner": 2, "outer": 6}, id="adf")
    assert session.view()["analyses"]["adf"]["state"] == "idle"
    session.open(scan)
    com = session.analyses.add("CenterOfMass")
    settled(session, "adf", com)
    expected = ls.run(ls.open(scan), {"adf": ls.udfs.VirtualDetector(inner=2, outer=6), "com": ls.udfs.CenterOfMass()})
    assert np.array_equal(array(session, "a/adf/intensity"), expected["adf"]["intensity"])
    assert np.array_equal(array(session, f"a/{com}/com"), expected["com"]["com"], equal_nan=True)
    view = session.view()
    json.dumps(view, allow_nan=False)
    assert view["run"]["state"] == "done"
    assert view["analyses"]["adf"]["resolved"]["centre"] == [7.5, 7.5]
    assert view["source"]["nav"] == [8, 9]
    assert [o["topic"] for o in view["analyses"]["adf"]["outputs"]] == ["a/adf/intensity"]


def test_the_newest_parameters_win_and_others_are_not_computed_again(session: Session, scan: str) -> None:
    session.open(scan)
    session.analyses.add("VirtualDetector", {"outer": 6}, id="adf")
    session.analyses.add("Sum", id="sum")
    settled(session, "adf", "sum")
    before = session.store.get("a/sum/sum").version
    for inner in (1, 2, 3, 4, 2.5):
        gen = session.analyses.set("adf", {"inner": inner})
    settled(session, "adf")
    a = session.view()["analyses"]["adf"]
    assert (a["gen"], a["shown_gen"], a["params"]["inner"]) == (gen, gen, 2.5)
    expected = ls.run(ls.open(scan), ls.udfs.VirtualDetector(inner=2.5, outer=6))["intensity"]
    assert np.array_equal(array(session, "a/adf/intensity"), expected)
    assert session.store.get("a/adf/intensity").gen == gen
    assert session.store.get("a/sum/sum").version == before


def test_generations_are_the_pages(session: Session) -> None:
    session.analyses.add("VirtualDetector", id="adf")
    assert session.analyses.set("adf", {"inner": 1}, gen=7) == 7
    assert session.analyses.set("adf", {"inner": 2}, gen=7) == 8
    assert session.analyses.set("adf", {"inner": 2}, gen=1 << 60) == 9


def test_values_that_are_not_allowed_change_nothing(session: Session, scan: str) -> None:
    session.open(scan)
    session.analyses.add("VirtualDetector", {"inner": 3}, id="adf")
    for bad in ({"inner": "3 furlong"}, {"nothing": 1}, {"shape": "star"}, {"centre": [1]}, {"mask": {"array": "x"}}, [1], {"inner": None}):
        with pytest.raises((ParameterError, UsageError)):
            session.analyses.set("adf", bad)
    assert session.view()["analyses"]["adf"]["params"]["inner"] == 3
    session.analyses.set("adf", {"inner": "2 mrad"})  # known only when it is bound: not calibrated
    wait(lambda: session.view()["analyses"]["adf"]["state"] == "failed")
    assert "calibrated" in session.view()["analyses"]["adf"]["error"]["message"]
    session.analyses.set("adf", {"inner": 2})
    settled(session, "adf")
    assert session.view()["analyses"]["adf"]["state"] == "done"
    assert session.view()["analyses"]["adf"]["error"] is None


def test_one_that_fails_stops_alone_and_says_why(session: Session, scan: str) -> None:
    session.analyses.add("Sum", id="sum")
    bad = session.analyses.add("mine.py:Raises")
    session.open(scan)
    wait(lambda: session.view()["analyses"][bad]["state"] == "failed" and session.view()["analyses"]["sum"]["state"] == "done")
    assert "this is too much" in session.view()["analyses"][bad]["error"]["message"]
    assert np.array_equal(array(session, "a/sum/sum"), FRAMES.sum(axis=(0, 1)))
    session.analyses.set(bad, {"limit": 1000})
    settled(session, bad)
    assert session.view()["analyses"][bad]["state"] == "done"


def test_masks_travel_as_arrays_and_stay(session: Session, scan: str) -> None:
    from libstream.jobs.arrays import json_array

    mask = np.zeros((16, 16), np.float32)
    mask[3:5, 4:9] = 2
    session.open(scan)
    session.analyses.add("VirtualDetector", {"mask": json_array(mask)}, id="m")
    settled(session, "m")
    assert np.array_equal(array(session, "a/m/intensity"), (FRAMES * mask).sum(axis=(2, 3)))
    shown = session.view()["analyses"]["m"]["params"]["mask"]
    assert set(shown) == {"array", "shape", "dtype"}
    session.analyses.set("m", {"mask": shown})
    settled(session, "m")
    assert session.view()["analyses"]["m"]["state"] == "done"


def test_a_region_of_interest_and_corrections_apply_to_all(session: Session, scan: str) -> None:
    session.open(scan)
    session.analyses.add("FrameTotals", id="t")
    settled(session, "t")
    session.set_roi({"kind": "rectangle", "y0": 2, "x0": 3, "y1": 5, "x1": 7})
    settled(session, "t")
    held = session.store.get("a/t/total" if "a/t/total" in session.store.topics() else session.store.topics()[0])
    assert held.seen.sum() == 12
    assert held.seen[2:5, 3:7].all()
    assert session.view()["roi"]["n"] == 12
    with pytest.raises(UsageError, match="no position"):
        session.set_roi({"kind": "rectangle", "y0": 100, "x0": 0, "y1": 200, "x1": 5})
    session.set_roi(None)
    dark = np.full((16, 16), 1.0)
    session.set_corrections(ls.Corrections(dark=dark), {"dark": "x", "gain": None, "excluded": 0, "on": True})
    settled(session, "t")
    held = session.store.get("a/t/total" if "a/t/total" in session.store.topics() else session.store.topics()[0])
    assert np.allclose(held.array, (FRAMES - 1.0).sum(axis=(2, 3)))


def test_cancel_stops_the_work_and_auto_off_waits(session: Session, scan: str) -> None:
    session.open(scan)
    slow = session.analyses.add("mine.py:Slow", {"seconds": 0.05})
    wait(lambda: session.runner.running)
    session.cancel()
    wait(lambda: not session.runner.running, 5)
    wait(lambda: session.view()["analyses"][slow]["state"] == "incomplete", 5)
    session.set_auto(False)
    session.analyses.set(slow, {"seconds": 0.0})
    time.sleep(0.1)
    a = session.view()["analyses"][slow]
    assert a["shown_gen"] < a["gen"]
    session.run()
    wait(lambda: session.view()["analyses"][slow]["state"] == "done")


def test_a_source_that_cannot_be_opened_is_told(session: Session, tmp_path: Path) -> None:
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    with pytest.raises((LibstreamError, OSError)):
        session.open(str(tmp_path / "bad.npy"))
    assert session.view()["source"]["state"] == "failed"
    assert session.view()["log"][-1]["level"] == "error"
    with pytest.raises(UsageError, match="nothing is open"):
        session.frame([0, 0])


def test_own_udfs_are_read_again_and_a_broken_file_changes_nothing(session: Session, scan: str, own: Path) -> None:
    session.open(scan)
    mine = session.analyses.add("mine.py:Scaled", {"factor": 3})
    settled(session, mine)
    total = FRAMES.sum(axis=(2, 3))
    assert np.allclose(array(session, f"a/{mine}/value"), 3 * total)
    (own / "mine.py").write_text(OWN.replace("FACTOR", "10"))
    wait(lambda: np.allclose(array(session, f"a/{mine}/value"), 30 * total))
    (own / "mine.py").write_text("def broken(:\n")
    wait(lambda: session.view()["udfs"]["errors"])
    error = session.view()["udfs"]["errors"][0]
    assert (error["file"], error["line"]) == ("mine.py", 1)
    session.analyses.set(mine, {"factor": 2})
    settled(session, mine)
    assert np.allclose(array(session, f"a/{mine}/value"), 20 * total)
    (own / "mine.py").write_text(OWN.replace("FACTOR", "1").replace("factor: float = 2.0", "factor: int = 2"))
    wait(lambda: np.allclose(array(session, f"a/{mine}/value"), 2 * total))
    assert session.view()["udfs"]["errors"] == []


def test_means_are_computed_while_wanted(session: Session, scan: str) -> None:
    session.open(scan)
    session.analyses.want_frames({("mean", None), ("max", None)})
    wait(lambda: session.store.get("a/_mean/mean") is not None and session.store.get("a/_max/max") is not None)
    wait(lambda: not session.runner.running)
    assert np.allclose(array(session, "a/_mean/mean"), FRAMES.mean(axis=(0, 1)))
    assert np.array_equal(array(session, "a/_max/max"), FRAMES.max(axis=(0, 1)))
    assert session.view()["analyses"] == {}
    session.analyses.want_frames(set())
    session.open(scan)
    assert session.store.get("a/_mean/mean") is None


def test_changes_from_many_threads_end_in_one_state(session: Session, scan: str) -> None:
    session.open(scan)
    session.analyses.add("VirtualDetector", {"outer": 7}, id="a")
    session.analyses.add("VirtualDetector", {"outer": 7}, id="b")

    def change(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(25):
            session.analyses.set("ab"[rng.integers(2)], {"inner": float(rng.integers(6))})
            time.sleep(float(rng.random()) * 0.004)

    threads = [threading.Thread(target=change, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    settled(session, "a", "b")
    for id in "ab":
        a = session.view()["analyses"][id]
        assert a["shown_gen"] == a["gen"]
        expected = ls.run(ls.open(scan), ls.udfs.VirtualDetector(inner=a["params"]["inner"], outer=7))["intensity"]
        assert np.array_equal(array(session, f"a/{id}/intensity"), expected)


def test_frames_are_the_frames(session: Session, scan: str) -> None:
    session.open(scan)
    assert np.array_equal(session.frame([3, 4]), FRAMES[3, 4])
    assert np.array_equal(session.frame(None), FRAMES[0, 0])
    with pytest.raises(LibstreamError, match="outside"):
        session.frame([8, 0])


@pytest.mark.leaves("threads", "a UDF that does not end cannot be stopped in a thread; it ends two seconds later")
def test_a_udf_that_does_not_end_does_not_hold_up_the_end(scan: str, own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("libstream.jobs.session.END_S", 0.3)
    session = Session(catalog=Catalog(own), out=tmp_path / "out")
    session.open(scan)
    session.analyses.add("mine.py:Slow", {"seconds": 2.0})
    wait(lambda: session.runner.running)
    time.sleep(0.1)
    before = time.monotonic()
    assert not session.close()
    assert time.monotonic() - before < 1.5
    wait(lambda: not any(t.name in ("libstream-run", "libstream-lane") for t in threading.enumerate()))


def test_yesterdays_scan_is_found_and_run_again(session: Session, scan: str, tmp_path: Path) -> None:
    from libstream.jobs.arrays import json_array

    session.open(scan)
    session.analyses.add("VirtualDetector", {"mask": json_array(np.eye(16))}, id="m", title="Diagonal")
    settled(session, "m")
    wait(lambda: session.view()["history"])
    session.close()
    again = Session(keep=Keep(tmp_path / "state"), out=tmp_path / "out")
    try:
        (past,) = again.view()["history"]
        assert past["name"] == "scan.npy"
        assert past["analyses"][0]["title"] == "Diagonal"
        assert past["results"] == []
        assert again.history.get(past["id"]).thumb.shape == (8, 9)
        again.records.reopen(past["id"])
        settled(again, "m")
        assert np.array_equal(array(again, "a/m/intensity"), (FRAMES * np.eye(16)).sum(axis=(2, 3)))
        wait(lambda: len({e["id"] for e in again.view()["history"]}) == 2)
    finally:
        assert again.close()
