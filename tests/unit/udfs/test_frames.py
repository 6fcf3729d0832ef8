"""Frames as results: picked and recorded."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import libstream as ls
from libstream.errors import LibstreamError, ParameterError, SaveError, ShapeError, UDFError, UsageError
from libstream.udfs import frames as frames_module
from libstream.udfs.frames import Pick, Record
from tests.unit.udfs.drive import drive
from tests.unit.udfs.test_com import frames_of

# -- Pick --------------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), dtype=st.sampled_from(["u2", "c8"]), n=st.integers(0, 9), flat=st.booleans())
def test_picked_frames_are_the_frames_in_the_order_asked(seed: int, dtype: str, n: int, flat: bool) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 100, (4, 5, 3, 7)).astype(dtype)
    seen = rng.random((4, 5)) < 0.8
    positions = rng.integers(0, 20, n)
    yx = np.stack(np.unravel_index(positions, (4, 5)), axis=-1)
    got = drive(Pick(positions=positions if flat else yx), data, seen=seen, corrupt=[7])
    seen[1, 2] = False
    assert_array_equal(got["seen"], seen[yx[:, 0], yx[:, 1]])
    assert got["frames"].dtype == np.dtype(dtype)
    assert_array_equal(got["frames"][got["seen"]], data[yx[:, 0], yx[:, 1]][got["seen"]])
    lost = got["frames"][~got["seen"]]
    assert np.isnan(lost).all() if dtype[0] in "fc" else (lost == np.iinfo(dtype).max).all()


def test_a_frame_asked_twice_is_held_once() -> None:
    data = frames_of(0, (3, 4), (5, 6), "u2")
    got = drive(Pick(positions=[(2, 1), (0, 0), (2, 1)]), data)
    assert len(got["picked"].values) == 2
    assert_array_equal(got["frames"], data[[2, 0, 2], [1, 0, 1]])


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_pick_through_the_engine(executor: str, tmp_path: Path) -> None:
    data = frames_of(0, (12, 11), (16, 14), "u2")
    np.save(tmp_path / "a.npy", data)
    source = ls.open(tmp_path / "a.npy")
    at = [(11, 10), (0, 0), (5, 3)]
    for roi in (None, at):
        result = ls.run(source, Pick(positions=at), roi=roi, executor=executor)
        assert_array_equal(result["frames"], data[[11, 0, 5], [10, 0, 3]])
        assert set(result["pick"]) == {"frames", "seen"}
    assert ls.run(data[0, 0], Pick(positions=[0]), executor=executor)["frames"].tolist() == [data[0, 0].tolist()]


def test_positions_that_are_none() -> None:
    data = np.zeros((3, 4, 2, 2), np.uint8)
    for positions, error, match in (
        ([(3, 0)], ParameterError, r"\(3, 0\) is outside of the scan \(3, 4\)"),
        ([(0, -1)], ParameterError, "outside"),
        ([12], ParameterError, "outside"),
        ([(0, 0, 0)], ShapeError, "positions has shape"),
        ([(0.5, 1)], ParameterError, "integers"),
        (["a"], ParameterError, "positions"),
    ):
        with pytest.raises(error, match=match):
            drive(Pick(positions=positions), data)


# -- Record ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i4", "f4", "c8", "?"])
@pytest.mark.parametrize("nav", [(), (7,), (5, 6), (2, 3, 4)])
def test_recorded_frames_are_the_frames(nav: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 2, (*nav, 9, 8)).astype(dtype)
    result = ls.run(data, Record(path=str(tmp_path / "out.npy")))
    again = np.load(tmp_path / "out.npy", mmap_mode="r")
    assert again.dtype == np.dtype(dtype).newbyteorder("=")
    assert_array_equal(again, data)
    assert result["written"].all()
    assert os.listdir(tmp_path) == ["out.npy"]


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_parallel_workers_write_one_file_with_the_rest_filled(executor: str, tmp_path: Path) -> None:
    data = frames_of(1, (40, 41), (16, 24), "u2")
    roi = np.random.default_rng(0).random((40, 41)) < 0.4
    path = tmp_path / "out.npy"
    for fill, expected in ((None, 65535), (0, 0)):
        result = ls.run(
            data, {"r": Record(path=str(path), fill=fill, overwrite=True), "com": ls.udfs.CenterOfMass()}, roi=roi, executor=executor
        )
        again = np.load(path)
        assert_array_equal(again[roi], data[roi])
        assert (again[~roi] == expected).all()
        assert_array_equal(result["written"], roi)


def test_worker_processes_write_the_same_file(tmp_path: Path) -> None:
    data = frames_of(1, (40, 41), (16, 24), "u2")
    path = tmp_path / "out.npy"
    at = [(0, 0), (39, 40), (7, 7)]
    with ls.executor("processes", workers=2) as ex:
        result = ls.run(data, [Record(path=str(path)), Pick(positions=at)], executor=ex)
    assert_array_equal(np.load(path), data)
    assert result["written"].all()
    assert_array_equal(result["frames"], data[[0, 39, 7], [0, 40, 7]])


def test_large_frames_are_written_in_bands(tmp_path: Path) -> None:
    data = frames_of(2, (10,), (600, 512), "u2")
    result = ls.run(data, [Record(path=str(tmp_path / "out.npy")), ls.udfs.CenterOfMass()])
    assert_array_equal(np.load(tmp_path / "out.npy"), data)
    assert result["written"].all()


def test_corrected_frames_are_recorded_as_they_are_processed(tmp_path: Path) -> None:
    data = np.full((2, 3, 4, 4), 7, np.uint16)
    ls.run(data, Record(path=str(tmp_path / "out.npy")), corrections=ls.Corrections(dark=np.ones((4, 4))))
    again = np.load(tmp_path / "out.npy")
    assert again.dtype == np.float32
    assert (again == 6).all()


class Fails(ls.UDF):
    """Raises at one frame."""

    def outputs(self) -> dict[str, Any]:
        return {"n": ls.nav("u1")}

    def process_frame(self, frame: Any, out: Any, at: Any) -> None:
        if at.index == 11 and frame.sum() != frame.size:
            raise RuntimeError("on purpose")


class Slow(ls.UDF):
    """Takes its time."""

    def outputs(self) -> dict[str, Any]:
        return {"n": ls.nav("u1")}

    def process_frame(self, frame: Any, out: Any) -> None:
        time.sleep(0.002)


def test_a_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    data = frames_of(1, (6, 7), (9, 9), "u2")
    with pytest.raises(UDFError, match="on purpose"):
        ls.run(data, [Record(path=str(tmp_path / "out.npy")), Fails()])
    assert os.listdir(tmp_path) == []
    (tmp_path / "out.npy").write_bytes(b"old")
    with pytest.raises(UDFError, match="on purpose"):
        ls.run(data, [Record(path=str(tmp_path / "out.npy"), overwrite=True), Fails()])
    assert (tmp_path / "out.npy").read_bytes() == b"old"


def test_a_cancelled_run_leaves_nothing_and_an_update_starts_anew(tmp_path: Path) -> None:
    data = frames_of(1, (60, 7), (9, 9), "u2")
    path = tmp_path / "out.npy"
    job = ls.start(data, [Record(path=str(path)), Slow()])
    while job.snapshot() is None:
        time.sleep(0.005)
    assert os.listdir(tmp_path) == ["out.npy.part"]
    job.cancel()
    with pytest.raises(LibstreamError):
        job.wait(20)
    assert os.listdir(tmp_path) == []
    job = ls.start(data, [Record(path=str(path)), Slow()])
    while job.snapshot() is None:
        time.sleep(0.005)
    job.update("record", fill=3)
    job.wait(60)
    assert_array_equal(np.load(path), data)


def test_two_runs_do_not_write_the_same_file(tmp_path: Path) -> None:
    data = frames_of(1, (60, 7), (9, 9), "u2")
    path = str(tmp_path / "out.npy")
    job = ls.start(data, [Record(path=path), Slow()])
    while job.snapshot() is None:
        time.sleep(0.005)
    with pytest.raises(UsageError, match="another run"):
        ls.run(data, Record(path=path))
    job.wait(60)
    assert_array_equal(np.load(path), data)


def test_a_file_that_another_run_finished_meanwhile_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aside, done = tmp_path / "out.npy.part", tmp_path / "out.npy"
    opened = os.open

    def slow_open(path: Any, *args: Any) -> int:
        fd = opened(path, *args)
        if not done.exists():
            os.replace(aside, done)  # the other run, between our open and our lock
        return fd

    monkeypatch.setattr(os, "open", slow_open)
    fd = frames_module._locked(aside, str(done))
    assert os.path.samestat(os.fstat(fd), os.stat(aside))
    assert not os.path.samestat(os.fstat(fd), os.stat(done))
    os.close(fd)


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    data = frames_of(1, (6, 7), (9, 9), "u2")
    (tmp_path / "out.npy.part").write_bytes(b"rubbish" * 10000)
    ls.run(data, Record(path=str(tmp_path / "out.npy")))
    assert_array_equal(np.load(tmp_path / "out.npy"), data)
    assert os.listdir(tmp_path) == ["out.npy"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    data = np.ones((2, 3, 4, 4), np.uint16)
    (tmp_path / "there.npy").write_bytes(b"old")
    (tmp_path / "folder.npy").mkdir()
    for kwargs, error, match in (
        ({"path": str(tmp_path / "there.npy")}, UsageError, "overwrite=True"),
        ({"path": str(tmp_path / "folder.npy")}, UsageError, "folder"),
        ({"path": str(tmp_path / "none" / "out.npy")}, SaveError, "there is no folder"),
        ({"path": str(tmp_path / "out.h5")}, ParameterError, "npy"),
        ({"path": str(tmp_path / "out.npy"), "fill": -1}, ParameterError, "fill = -1"),
        ({"path": str(tmp_path / "out.npy"), "fill": 0.5}, ParameterError, "fill = 0.5"),
    ):
        with pytest.raises(error, match=match):
            ls.run(data, Record(**kwargs))
    assert (tmp_path / "there.npy").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["folder.npy", "there.npy"]


def test_a_full_disk_is_told_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, n_bytes: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(frames_module, "_allocate", full)
    with pytest.raises(SaveError, match=r"No space left.*MB in .*free there"):
        ls.run(np.ones((2, 3, 4, 4), np.uint16), Record(path=str(tmp_path / "out.npy")))
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any, data: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(frames_module, "_write", full)
    with pytest.raises(LibstreamError, match="No space left"):
        ls.run(np.ones((2, 3, 4, 4), np.uint16), Record(path=str(tmp_path / "out.npy")))
    assert os.listdir(tmp_path) == []


def test_the_file_has_its_size_from_the_start(tmp_path: Path) -> None:
    data = frames_of(1, (60, 7), (9, 9), "u2")
    job = ls.start(data, [Record(path=str(tmp_path / "out.npy")), Slow()])
    while job.snapshot() is None:
        time.sleep(0.005)
    assert (tmp_path / "out.npy.part").stat().st_size == data.nbytes + 128
    job.cancel()
    with pytest.raises(LibstreamError):
        job.wait(20)
    assert threading.active_count() < 50
