"""Runs on a real cluster of Dask: the same bits as threads, whatever happens to workers; nothing is left, nothing grows."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream import registry
from libstream.errors import CancelledError, SourceChangedError, UDFError, UsageError
from libstream.executors import _dask_run, _dask_worker
from libstream.executors.dask import DaskExecutor
from libstream.testing._bench import differ
from libstream.testing._works import FrameSums, KernelSums
from libstream.testing.detectors import Wire, memory_source
from libstream.testing.sources import ScriptedSource, part_filled
from tests.laws import zoo
from tests.live.failing import taken

pytestmark = pytest.mark.leaves("files", "connections between the parts of a cluster that lives on")
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskExecutor]:
    ex = DaskExecutor(workers=2)
    yield ex
    ex.close()


@pytest.fixture(scope="module")
def client(cluster: DaskExecutor) -> Any:
    return cluster._connected()


@pytest.fixture(params=["fetched one by one", "merged on the workers"])
def ex(request: pytest.FixtureRequest, cluster: DaskExecutor, client: Any) -> DaskExecutor:
    """Both ways that results come back, on one cluster."""
    return cluster if request.param == "fetched one by one" else DaskExecutor(client=client, combine_bytes=0, snapshot_s=0.05)


def pids(client: Any) -> list[int]:
    return list(client.run(os.getpid).values())


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT_S:g} s: {what}"
        time.sleep(0.01)


def assert_same_bits(there: ls.Result, here: ls.Result) -> None:
    assert set(there) == set(here)
    wrong = [differ(f"{k}/{n}", here[k][n], there[k][n], 0.0) for k in here for n in here[k]]
    wrong += [differ("coverage", here.coverage.status, there.coverage.status, 0.0)]
    assert not any(wrong), "; ".join(w for w in wrong if w)


def spread(frame: Any) -> Any:
    return frame.max() - frame.min()


def built_in(tmp_path: Path) -> dict[str, ls.UDF]:
    """One of each."""
    rng = np.random.default_rng(5)
    given: dict[str, dict[str, Any]] = {
        "FrameHistogram": {"low": 0.0, "high": 1000.0, "bins": 16, "per_frame": True},
        "FrameMap": {"func": spread},
        "LocalMaxima": {"threshold": 900.0},
        "Pick": {"positions": [(0, 0), (5, 7)]},
        "RadialProfile": {"max_order": 2},
        "Record": {"path": str(tmp_path / "record.npy"), "overwrite": True},
        "VirtualDetector": {"shape": "mask", "mask": rng.random((3, 24, 20), np.float32)},
    }
    return {p.name: registry.load("udfs", p.name)(**given.get(p.name, {})) for p in registry.plugins("udfs")}


# -- the same bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_every_built_in_udf_gives_the_bits_of_threads(ex: DaskExecutor, dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 1000, (12, 14, 24, 20)).astype(dtype)
    if dtype == "float32":
        frames *= 0.37
    source = ScriptedSource(frames, part_filled(3, most=9))
    corrections = ls.Corrections(dark=rng.random((24, 20)).astype("f4")) if dtype == "float32" else None
    here = ls.run(source, built_in(tmp_path), corrections=corrections)
    recorded = np.load(tmp_path / "record.npy")
    there = ls.run(source, built_in(tmp_path), corrections=corrections, executor=ex)
    assert_same_bits(there, here)
    assert there.complete
    np.testing.assert_array_equal(np.load(tmp_path / "record.npy"), recorded)
    assert corrections is not None or (recorded == frames).all()


def test_udfs_of_every_kind_give_the_bits_of_threads(ex: DaskExecutor) -> None:
    frames = np.random.default_rng(2).normal(100, 30, (9, 11, 12, 10))
    source = ScriptedSource(frames, part_filled(5, most=5))
    udfs = zoo.everything((9, 11), (12, 10))
    roi = np.random.default_rng(3).random((9, 11)) < 0.7
    here, there = (ls.run(source, udfs, roi=roi, executor=e) for e in ("threads", ex))
    assert_same_bits(there, here)


def test_snapshots_grow(client: Any) -> None:
    """Sums that are merged on the workers come at the rate asked for, each partition once."""
    frames = np.random.default_rng(4).integers(0, 99, (40, 10, 8, 8)).astype("u2")
    source = ScriptedSource(frames, part_filled(1, most=3))
    slow = DaskExecutor(client=client, combine_bytes=0, snapshot_s=0.1)
    seen = [int(r["slow"]["n"]) for r in ls.run_iter(source, {"slow": Slow(seconds=0.004)}, executor=slow)]
    assert seen == sorted(seen)
    assert seen[-1] == 400
    assert 3 <= len(seen) <= 30, f"snapshots: {seen}"


class Slow(ls.UDF):
    """Sums whose bits show the order of merging; takes its time."""

    seconds: float = 0.001
    dry_run = False

    def outputs(self) -> dict[str, ls.Output]:
        return {"total": ls.nav("f8"), "image": ls.sig("f8"), "n": ls.single("i8")}

    def process_frame(self, frame: Any, out: Any) -> None:
        time.sleep(self.seconds)
        out.total[...] = frame.sum(dtype="f8") / 3.0
        out.image += frame / 7.0
        out.n[...] += 1


def test_a_client_with_an_adaptive_cluster() -> None:
    """Workers come when there is work, and go; no work, no worker."""
    import distributed

    frames = np.random.default_rng(6).integers(0, 1000, (20, 25, 16, 16)).astype("u2")
    source = ScriptedSource(frames, part_filled(2, most=9))
    options = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50, "memory_limit": 0}
    with (
        distributed.LocalCluster(n_workers=0, threads_per_worker=2, **options) as local,
        distributed.Client(local, set_as_default=False) as own,
    ):
        local.adapt(minimum=0, maximum=2, interval="200ms")
        there = ls.run(source, {"slow": Slow()}, executor=own)
        assert_same_bits(there, ls.run(source, {"slow": Slow(seconds=0.0)}))
        assert own.nthreads(), "a run does not close the client it was given"


# -- errors and the end ------------------------------------------------------------------------------------------------


class Raises(ls.UDF):
    """At one position, or when it is merged."""

    at_index: int = -1
    merging: bool = False

    def outputs(self) -> dict[str, ls.Output]:
        return {"n": ls.single("i8"), "image": ls.sig("f8", merge="custom")}

    def process_frame(self, frame: Any, out: Any, at: Any) -> None:
        if at.index == self.at_index:
            raise ValueError("boo")
        out.n[...] += 1

    def merge(self, into: Any, part: Any) -> None:
        if self.merging:
            raise KeyError("no merge")
        into.image += part.image


def test_errors_of_user_code_come_with_the_traceback_of_the_worker(ex: DaskExecutor) -> None:
    frames = np.ones((12, 12, 4, 4), "u2")
    source = ScriptedSource(frames, part_filled(0, most=5))
    with pytest.raises(UDFError, match=r"boo, at scan position \(8, 4\)") as caught:
        ls.run(source, {"r": Raises(at_index=100)}, executor=ex)
    assert "raise ValueError" in caught.value.remote_traceback
    with pytest.raises(UDFError, match="UDF r: merge raised KeyError: 'no merge'"):
        ls.run(source, {"r": Raises(merging=True)}, executor=ex)


def test_files_that_the_workers_do_not_see(client: Any, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    np.save(tmp_path / "here" / "scan.npy", np.ones((8, 8, 4, 4), "u2"))
    elsewhere = DaskExecutor(client=client, path_map={str(tmp_path / "here"): str(tmp_path / "there")})
    with pytest.raises(SourceChangedError, match=r"there/scan\.npy: .*No such file.* what the Dask worker at .* found.*path_map="):
        ls.run(tmp_path / "here" / "scan.npy", ls.udfs.Sum(), executor=elsewhere)


def test_paths_are_mapped(client: Any, tmp_path: Path) -> None:
    """The workers read a file of another name; here it has other contents, so that this can be seen."""
    for name, value in (("here", 1), ("there", 2)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "scan.npy", np.full((8, 8, 4, 4), value, "u2"))
    shutil.copystat(tmp_path / "here" / "scan.npy", tmp_path / "there" / "scan.npy")
    ex = DaskExecutor(client=client, path_map={str(tmp_path / "here"): str(tmp_path / "there") + "/"})
    assert ls.run(tmp_path / "here" / "scan.npy", ls.udfs.Sum(), executor=ex)["sum"]["sum"].max() == 128
    assert ls.run(tmp_path / "here" / "scan.npy", ls.udfs.Sum(), executor=DaskExecutor(client=client))["sum"]["sum"].max() == 64


def test_other_versions_are_refused(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = _dask_worker.versions()
    monkeypatch.setattr(_dask_worker, "versions", lambda: {**mine, "numpy": "1.0"})
    with pytest.raises(UsageError, match=rf"the Dask worker .* has other versions: numpy {mine['numpy']} there, 1\.0 here"):
        ls.run(np.ones((4, 4, 4, 4)), ls.udfs.Sum(), executor=DaskExecutor(client=client))
    monkeypatch.undo()
    ls.run(np.ones((4, 4, 4, 4)), ls.udfs.Sum(), executor=DaskExecutor(client=client))


def test_a_client_that_cannot_be_used() -> None:
    import distributed

    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=50) as local:
        with distributed.Client(local, set_as_default=False) as own:
            ex = DaskExecutor(client=own, wait_s=0.5)
            with pytest.raises(OSError, match=r"has had no worker for 0\.5 s: start some with `dask worker tcp://"):
                ls.run(np.ones((4, 4, 4, 4)), ls.udfs.Sum(), executor=ex)
        with pytest.raises(UsageError, match="the Dask client is closed"):
            ls.run(np.ones((4, 4, 4, 4)), ls.udfs.Sum(), executor=own)


class Marks(ls.UDF):
    """Adds a byte to a file for each frame, and takes its time."""

    path: str
    seconds: float = 0.003
    dry_run = False

    def outputs(self) -> dict[str, ls.Output]:
        return {"n": ls.single("i8")}

    def process_frame(self, frame: Any, out: Any) -> None:
        with open(self.path, "ab", buffering=0) as f:
            f.write(b".")
        time.sleep(self.seconds)
        out.n[...] += 1


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.parametrize("same_computer", [True, False])
def test_cancel_stops_calls(ex: DaskExecutor, client: Any, tmp_path: Path, same_computer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = tmp_path / "marks"
    if not same_computer:  # workers elsewhere do not see the file of the flag
        monkeypatch.setattr(ls.ext.CancelFlag, "__reduce__", object.__reduce__)
    job = ls.start(np.ones((32, 32, 4, 4), "u2"), Marks(path=str(marks)), executor=ex)
    wait_until(lambda: size(marks) > 300, "calls")
    before = size(marks)
    job.cancel()
    with pytest.raises(CancelledError) as caught:
        job.wait(LIMIT_S)
    # no frame begins later than 0.1 s after the cancel; two workers, 3 ms a frame
    assert size(marks) - before <= 2 * (0.1 / 0.003 + 1)
    n = size(marks)
    time.sleep(0.3)
    assert size(marks) == n, "the run was cancelled, its UDF is still called"
    assert caught.value.partial["n"] > 0
    wait_until(lambda: not any(client.has_what().values()), "the workers hold nothing")
    assert not client.futures
    assert not client.run(lambda: len(_dask_worker._held)) or set(client.run(lambda: len(_dask_worker._held)).values()) == {0}


def test_workers_that_sleep_are_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dask_run, "PATIENCE_S", 0.4)
    marks = tmp_path / "marks"
    with ls.executor("dask", workers=2) as ex:
        client: Any = ex._connected()  # type: ignore[attr-defined]
        before = pids(client)
        job = ls.start(np.ones((32, 32, 4, 4), "u2"), Marks(path=str(marks), seconds=600.0), executor=ex)
        wait_until(lambda: size(marks) >= 2, "both workers sleep")
        begun = time.monotonic()
        job.cancel()
        with pytest.raises(CancelledError):
            job.wait(LIMIT_S)
        assert time.monotonic() - begun < LIMIT_S / 2
        assert not set(before) & set(pids(client)), "the workers that slept are gone"
        assert ls.run(np.ones((4, 4, 4, 4)), Marks(path=str(marks), seconds=0.0), executor=ex)["n"] == 16


# -- live --------------------------------------------------------------------------------------------------------------


@pytest.mark.leaves("threads", "of the worker that is started anew")
@pytest.mark.leaves("children", "the worker that is started anew")
@pytest.mark.parametrize("kill", [False, True])
def test_a_running_acquisition(client: Any, kill: bool) -> None:
    """The memory that frames are received into is mapped by the workers; a worker that is killed loses none of them."""
    frames = np.random.default_rng(7).integers(0, 500, (20, 30, 10, 12)).astype("u2")
    udfs = {"python": FrameSums(), "kernel": KernelSums(), "sum": ls.udfs.Sum(), "com": ls.udfs.CenterOfMass()}
    offline = ls.run(frames, udfs)
    ex = DaskExecutor(client=client, combine_bytes=0 if kill else 1 << 20, snapshot_s=0.1)
    wait_until(lambda: len(client.nthreads()) == 2, "two workers")
    victim = pids(client)[0]
    wire = Wire()
    with memory_source(wire, scan=(20, 30), ring_bytes=4 << 20) as live:

        def send() -> None:
            wire.header(1, 600)
            for number, frame in enumerate(frames.reshape(-1, 10, 12)):
                wire.frame(1, number, frame)
                if kill and number == 300:
                    os.kill(victim, signal.SIGKILL)
                time.sleep(0.001)
            wire.end(1)

        sender = threading.Thread(target=send)
        sender.start()
        result = ls.start(taken(live), udfs, executor=ex).wait(LIMIT_S)
        sender.join()
    assert result.complete, str(result.coverage)
    ledger = result.run["ledger"]
    assert (ledger["processed"], ledger["missing"], ledger["dropped"]) == (600, 0, 0)
    for key in udfs:
        for name in offline[key]:
            integers = offline.udfs[key].declared[name].kind == "nav" or offline[key][name].dtype.kind in "iu"
            wrong = differ(f"{key}/{name}", offline[key][name], result[key][name], 0.0 if integers else 1e-12)
            assert not wrong, wrong
