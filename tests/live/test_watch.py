"""A file that is still being written: the same bits as the finished file, frames as they appear, an end in every case."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import CancelledError, LibstreamError, NotArmed, ShapeError, UsageError
from libstream.live.ledger import imbalance
from libstream.model.partial import MISSING
from tests.writers import mib

DATA = np.random.default_rng(0).poisson(5, (5, 6, 16, 8)).astype(np.uint16)
CHIP = np.random.default_rng(1).poisson(5, (5, 6, 256, 256)).astype(np.uint16)
TOTALS = [ls.udfs.Sum(), ls.udfs.FrameTotals()]
RAW = {"dtype": "uint16", "frame": (16, 8), "format": "raw"}


class Writer:
    """A file that grows when it is told to."""

    def __init__(self, path: Path, raw: bytes) -> None:
        self.path, self.raw, self.done = path, raw, 0

    def until(self, n: int) -> None:
        """Write on, to byte n."""
        with open(self.path, "ab") as f:
            f.write(self.raw[self.done : n])
        self.done = max(self.done, n)


def npy_bytes(folder: Path, data: np.ndarray) -> bytes:
    np.save(folder / "whole.npy", data)
    return (folder / "whole.npy").read_bytes()


def case(kind: str, folder: Path) -> tuple[Writer, np.ndarray, dict[str, Any], int, int]:
    """(writer, frames, arguments of watch, bytes before the first frame, bytes of a frame)."""
    if kind == "raw":
        return Writer(folder / "a.raw", b"?" * 10 + DATA.tobytes()), DATA, {**RAW, "scan": (5, 6), "offset": 10}, 10, 256
    if kind == "npy":
        raw = npy_bytes(folder, DATA)
        return Writer(folder / "a.npy", raw), DATA, {}, len(raw) - DATA.nbytes, 256
    records = mib.records(CHIP.reshape(30, 256, 256), "U16")
    (folder / "a.hdr").write_bytes(mib.hdr(30, scan=(5, 6)) if kind == "mib+hdr" else b"")
    how = {} if kind == "mib+hdr" else {"scan": (5, 6)}
    if kind == "mib":
        (folder / "a.hdr").unlink()
    return Writer(folder / "a.mib", b"".join(records)), CHIP, how, 0, len(records[0])


def totals(data: np.ndarray) -> np.ndarray:
    return data.sum(axis=(-2, -1))


@pytest.mark.parametrize("executor", ["threads", "inline"])
@pytest.mark.parametrize("kind", ["raw", "npy", "mib", "mib+hdr"])
def test_same_bits_as_the_finished_file(kind: str, executor: str, tmp_path: Path) -> None:
    writer, data, how, head, frame = case(kind, tmp_path)
    with ls.watch(writer.path, **how) as watched:
        assert watched.state == "waiting"
        with pytest.raises(NotArmed, match="holds no frame yet"):
            _ = watched.meta
        assert watched.wait(0) is None
        for n in (head // 2, head, head + frame // 2):
            writer.until(n)
            assert watched.wait(0) is None
        writer.until(head + 2 * frame)
        (acquisition,) = watched
        assert acquisition.shape == data.shape
        assert (watched.state, acquisition.n_arrived) == ("running", 2)
        np.testing.assert_array_equal(acquisition[0, 1], data[0, 1])
        seen: list[int] = []

        def write_on(progress: Any) -> None:  # more only once what is there was processed
            seen.append(progress.n_done)
            writer.until(head + min(30, progress.n_done + 3) * frame + (frame // 3 if progress.n_done < 27 else 0))

        result = ls.run(acquisition, TOTALS, executor=executor, progress=write_on)
    assert result.complete
    assert seen[:3] == [2, 5, 8]
    stored = ls.run(ls.open(writer.path, **how), TOTALS)
    for key in stored:
        for name in stored[key]:
            assert result[key][name].tobytes() == stored[key][name].tobytes()
    np.testing.assert_array_equal(result["total"], totals(data))
    assert result.run["acquisition"]["state"] == "done"
    assert imbalance(result.run["ledger"]) == ""
    assert result.run["ledger"]["received"] == 30
    assert watched.state == "closed"


def test_a_writer_that_stops_leaves_missing_positions(tmp_path: Path) -> None:
    writer, data, how, head, frame = case("raw", tmp_path)
    writer.until(head + 11 * frame + 7)
    with ls.watch(writer.path, stall_timeout_s=0.1, **how) as watched:
        acquisition = watched.wait(0)
        result = ls.run(acquisition, TOTALS)
        assert acquisition.wait(0) == "incomplete"
        assert "has not grown for 0.1 s: 11 of 30 frames are there" in acquisition.reason
    status = result.coverage.status.reshape(-1)
    assert np.flatnonzero(status == MISSING).tolist() == list(range(11, 30))
    np.testing.assert_array_equal(result["total"].reshape(-1)[:11], totals(data).reshape(-1)[:11])
    assert result.run["acquisition"]["state"] == "incomplete"
    assert imbalance(result.run["ledger"]) == ""
    assert result.run["ledger"]["missing"] == 19


def test_runs_go_on_while_others_look(tmp_path: Path) -> None:
    writer, data, how, head, frame = case("raw", tmp_path)
    writer.until(head + frame)
    watched = ls.watch(writer.path, **how)
    acquisition = watched.wait(0)
    jobs = [ls.start(acquisition, TOTALS), ls.start(acquisition, ls.udfs.FrameTotals(), roi=np.s_[1:4, 2:])]
    writer.until(head + 30 * frame + 100)
    assert acquisition.wait(20) == "done"
    first, second = (job.wait(20) for job in jobs)
    np.testing.assert_array_equal(first["total"], totals(data))
    np.testing.assert_array_equal(second["total"][1:4, 2:], totals(data)[1:4, 2:])
    assert second.run["ledger"]["excluded"] == 18
    assert all(imbalance(r.run["ledger"]) == "" for r in (first, second))
    watched.close()


def test_snapshots_show_frames_as_they_come(tmp_path: Path) -> None:
    writer, _, how, head, frame = case("npy", tmp_path)
    writer.until(head + 4 * frame)
    with ls.watch(writer.path, **how) as watched:
        for acquisition in watched:
            seen = []
            for snapshot in ls.run_iter(acquisition, ls.udfs.FrameTotals()):
                seen.append(int(snapshot.valid.sum()))
                writer.until(head + min(30, seen[-1] + 13) * frame)
    assert seen[0] == 4
    assert seen[-1] == 30
    assert seen == sorted(seen)


def test_parameters_are_changed_for_all_frames(tmp_path: Path) -> None:
    writer, _, how, head, frame = case("raw", tmp_path)
    writer.until(head + 10 * frame)
    with ls.watch(writer.path, **how) as watched:
        job = ls.start(watched.wait(0), {"v": ls.udfs.VirtualDetector(inner=0, outer=2)})
        job.update("v", outer=4)
        writer.until(head + 30 * frame)
        result = job.wait(20)
    whole = ls.run(ls.open(writer.path, **how), {"v": ls.udfs.VirtualDetector(inner=0, outer=4)})
    assert result.complete
    for name in whole["v"]:
        np.testing.assert_array_equal(result["v"][name], whole["v"][name])


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_a_waiting_run_can_be_cancelled(executor: str, tmp_path: Path) -> None:
    writer, _, how, head, frame = case("raw", tmp_path)
    writer.until(head + 5 * frame)
    with ls.watch(writer.path, stall_timeout_s=60, **how) as watched:
        there = threading.Event()
        job = ls.start(watched.wait(0), TOTALS, executor=executor, progress=lambda p: there.set())
        assert there.wait(20)
        job.cancel()
        with pytest.raises(CancelledError, match="5 of 30 positions processed") as stopped:
            job.wait(20)
    assert stopped.value.partial.valid.sum() == 5


def test_closing_ends_runs(tmp_path: Path) -> None:
    writer, _, how, head, frame = case("raw", tmp_path)
    writer.until(head + 5 * frame)
    watched = ls.watch(writer.path, **how)
    acquisition = watched.wait(0)
    job = ls.start(acquisition, TOTALS)
    watched.close()
    watched.close()
    assert job.wait(20).valid.sum() == 5
    assert (acquisition.state, acquisition.reason) == ("incomplete", "the file is not watched any more")
    with pytest.raises(LibstreamError, match="is not watched any more"):
        watched.wait()


@pytest.mark.parametrize("what", ["deleted", "replaced", "shortened"])
def test_a_file_that_is_another_one(what: str, tmp_path: Path) -> None:
    writer, _, how, head, frame = case("raw", tmp_path)
    writer.until(head + 5 * frame)
    with ls.watch(writer.path, **how) as watched:
        acquisition = watched.wait(0)
        if what == "deleted":
            writer.path.unlink()
        elif what == "shortened":
            os.truncate(writer.path, head + frame)
        else:
            (tmp_path / "other").write_bytes(b"x" * 100_000)
            os.replace(tmp_path / "other", writer.path)
        assert acquisition.wait(20) == "failed"
        assert {"deleted": "is gone", "replaced": "was replaced", "shortened": "was shortened"}[what] in acquisition.reason


def test_sync_offset(tmp_path: Path) -> None:
    writer, _, how, _, _ = case("raw", tmp_path)
    writer.until(len(writer.raw))
    for sync in (-3, 4):
        given = {**how, "scan": (4, 6), "sync_offset": sync}
        with ls.watch(writer.path, stall_timeout_s=0.05, **given) as watched:
            result = ls.run(watched.wait(0), TOTALS)
        stored = ls.run(ls.open(writer.path, **given), TOTALS)
        np.testing.assert_array_equal(result.valid, stored.valid)
        np.testing.assert_array_equal(result["total"][result.valid], stored["total"][stored.valid])
        assert imbalance(result.run["ledger"]) == ""


def test_finished_files_can_be_watched_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", DATA)
    with ls.watch(tmp_path / "a.npy") as watched:
        np.testing.assert_array_equal(ls.run(watched.wait(0), TOTALS)["total"], totals(DATA))


def test_mistakes_are_said_at_once(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", DATA)
    np.save(tmp_path / "f.npy", np.asfortranarray(DATA))
    (tmp_path / "a.raw").write_bytes(DATA.tobytes())
    (tmp_path / "a.mib").write_bytes(b"".join(mib.records(CHIP[0], "U16")))
    for path, how, error, says in (
        ("a.raw", RAW, UsageError, "does not say how many frames there will be"),
        ("a.mib", {}, UsageError, "no .hdr file says how many frames"),
        ("a.npy", {"scan": (7, 7)}, ShapeError, "has 49 positions"),
        ("a.npy", {"dtype": "u2"}, UsageError, "takes no option 'dtype'"),
        ("f.npy", {}, ValueError, "Fortran order"),
        ("sim://?scan=4,4", {}, UsageError, "only files can be watched"),
        ("a.npy", {"stall_timeout_s": 0}, UsageError, "times in seconds"),
    ):
        with pytest.raises(error, match=says):
            ls.watch(path if "://" in path else tmp_path / path, **how)
    ls.run(ls.open(DATA), ls.udfs.Sum()).save(tmp_path / "a.h5")
    with pytest.raises((UsageError, ValueError), match="cannot be read while they are written"):
        ls.watch(tmp_path / "a.h5", format="hdf5")
