"""What comes out of a running acquisition is what comes out of the stored frames, bit for bit where bits can be the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import libstream as ls
from libstream.live.ledger import imbalance
from libstream.model.order import ScanOrder
from libstream.testing.detectors import Wire, memory_source
from tests.live.failing import LIMIT_S, taken, until

SIG = (10, 12)
DTYPES = ["uint16", "float32"]  # each costs its own compiled loops, and corrections of each
ORDERS: list[dict[str, Any]] = [
    {}, {"order": "serpentine"}, {"flyback": 2}, {"order": "serpentine", "flyback": 1}, {"frames_per_position": 2}, {"positions": "custom"},
]  # fmt: skip


def udfs() -> dict[str, Any]:
    """Built-in analyses of every kind of output."""
    return {
        "sum": ls.udfs.Sum(),
        "totals": ls.udfs.FrameTotals(),
        "max": ls.udfs.Max(),
        "min": ls.udfs.Min(),
        "mean": ls.udfs.Mean(),
        "std": ls.udfs.StdDev(),
        "disc": ls.udfs.VirtualDetector(inner=1, outer=4),
        "com": ls.udfs.CenterOfMass(),
        "radial": ls.udfs.RadialProfile(),
        "map": ls.udfs.FrameMap(func=_spread),
    }


def _spread(frame: np.ndarray[Any, Any]) -> Any:
    return frame.max() - frame.min()


def same(live: ls.Result, offline: ls.Result) -> None:
    """Per-frame values and integers to the bit, sums of floats to 1e-12."""
    assert np.array_equal(live.valid, offline.valid)
    assert set(live) == set(offline)
    for key in offline:
        assert set(live[key]) == set(offline[key])
        for name, expected in offline[key].items():
            got = live[key][name]
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape), (key, name)
            declared = offline.udfs[key].declared[name]
            if declared.kind == "nav" or expected.dtype.kind in "iub":
                assert got.tobytes() == expected.tobytes(), (key, name)
            else:
                assert np.allclose(got, expected, rtol=1e-12, atol=0, equal_nan=True), (key, name)


def data(rng: np.random.Generator, nav: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """Frames of any numbers."""
    if np.dtype(dtype).kind == "f":
        return rng.normal(100, 30, (*nav, *SIG)).astype(dtype)
    return rng.integers(0, 200, (*nav, *SIG)).astype(dtype)


def shuffled(rng: np.random.Generator, n: int, window: int) -> list[int]:
    """Numbers of frames, each up to about `window` places from where it should be."""
    return np.argsort(np.arange(n) + rng.uniform(0, window, n), kind="stable").tolist()


def stream(wire: Wire, run: int, frames: np.ndarray[Any, Any], order: ScanOrder, rng: np.random.Generator, window: int) -> None:
    """Send an acquisition of these frames (*nav, *sig), travelled in this order."""
    flat = frames.reshape(-1, *SIG)
    at = order.positions_of(np.arange(order.n_frames))
    wire.header(run, order.n_frames)
    between = np.full(SIG, 99, frames.dtype)
    for number in shuffled(rng, order.n_frames, window):
        for c in range(len(wire.channels)):
            whole = flat[at[number]] + c if at[number] >= 0 else between
            for s, part in enumerate(np.split(whole.astype(frames.dtype), wire.sectors)):
                wire.frame(run, number, part, sector=s, channel=c)
    wire.end(run)


def compare(seed: int, executor: Any) -> None:
    """One random acquisition, live and offline."""
    rng = np.random.default_rng(seed)
    scan = tuple(rng.integers(1, 9, rng.integers(1, 4)).tolist())
    chosen = dict(ORDERS[rng.integers(len(ORDERS))])
    if "positions" in chosen:
        path = rng.permutation(int(np.prod(scan)))
        chosen["positions"] = np.insert(path, rng.integers(0, len(path)), -1)
    order = ScanOrder.of(scan, **chosen)
    frames = data(rng, order.nav, DTYPES[rng.integers(len(DTYPES))])
    roi = rng.random(order.nav) < 0.5 if rng.integers(3) == 0 else None
    if roi is not None:
        roi.flat[0] = True
    corrections = None
    if frames.dtype == np.uint16 and rng.integers(3) == 0:
        corrections = ls.Corrections(dark=rng.normal(5, 1, SIG), gain=rng.uniform(0.8, 1.2, SIG), excluded=rng.random(SIG) < 0.1)
    wire = Wire(sectors=int(rng.choice([1, 2, 5])))
    with memory_source(wire, scan=scan, stall_timeout_s=LIMIT_S, **chosen) as live:
        stream(wire, 1, frames, order, rng, int(rng.choice([1, 5, 40])))
        acquisition = taken(live)
        assert acquisition.meta.shape.nav == order.nav
        result = ls.run(acquisition, udfs(), roi=roi, corrections=corrections, executor=executor)
    assert imbalance(result.ledger) == ""
    assert result.ledger["received"] == order.n_frames
    assert result.complete
    same(result, ls.run(frames, udfs(), roi=roi, corrections=corrections, executor="inline"))


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_inline(seed: int) -> None:
    compare(seed, "inline")


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2]))
def test_threads(seed: int, workers: int) -> None:
    with ls.executor("threads", workers=workers) as ex:
        compare(seed, ex)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_processes(seed: int) -> None:
    compare(seed, "processes")


def test_processes_where_the_memory_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.memfd_create", raising=False)
    compare(4, "processes")


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_several_channels_in_one_pass(executor: str) -> None:
    rng = np.random.default_rng(4)
    frames = data(rng, (6, 7), "uint16")
    with memory_source(wire := Wire(sectors=2, channels=("low", "high")), scan=(6, 7)) as live:
        stream(wire, 1, frames, ScanOrder.of((6, 7)), rng, 9)
        acquisition = taken(live)
        both = {"a": ls.on("high", ls.udfs.Sum()), "b": ls.udfs.Sum(), "c": ls.on("high", ls.udfs.CenterOfMass()), "d": ls.udfs.Max()}
        result = ls.run(acquisition, both, executor=executor)
        same(result, ls.run({"low": frames, "high": frames + np.uint16(1)}, both))
        high = ls.run(acquisition.channel("high"), ls.udfs.Sum())
        assert np.array_equal(high["sum"], result["a"]["sum"])
        assert np.array_equal(acquisition.channel("high")[2, 3], frames[2, 3] + 1)
        assert result.ledger["received"] == 42


# -- while it runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_parameters_of_a_running_scan_apply_to_all_of_it(executor: str) -> None:
    """No snapshot ever shows an image that was made with two detectors."""
    frames = data(np.random.default_rng(5), (8, 8), "uint16")
    radii = [2.0, 3.0, 4.5]
    images = {outer: ls.run(frames, ls.udfs.VirtualDetector(inner=0, outer=outer))["intensity"] for outer in radii}
    with memory_source(wire := Wire(), scan=(8, 8), stall_timeout_s=LIMIT_S) as live:
        wire.header(1, 64)
        wire.frames(1, frames.reshape(64, *SIG), range(20))
        job = ls.start(taken(live), {"disc": ls.udfs.VirtualDetector(inner=0, outer=radii[0])}, executor=executor)
        by_generation = {0: radii[0]}
        sent = 20
        for outer in radii[1:]:
            shown_all(job, sent)
            by_generation[job.update("disc", outer=outer)] = outer
            wire.frames(1, frames.reshape(64, *SIG), range(sent, sent + 20))
            sent += 20
        wire.frames(1, frames.reshape(64, *SIG), range(sent, 64))
        wire.end(1)
        seen = set()
        for result in job.results():
            expected = images[by_generation[result.generation]]
            assert np.array_equal(result["intensity"][result.valid], expected[result.valid])
            assert imbalance(result.ledger) == ""
            seen.add(result.generation)
        assert result.final
        assert (result.complete, result.ledger["gone"]) == (True, 0)
        assert np.array_equal(result["intensity"], images[radii[-1]])
        assert max(seen) == len(radii) - 1


def shown_all(job: ls.Job, n: int) -> None:
    """Wait until a snapshot shows n frames."""
    until(lambda: (s := job.snapshot()) is not None and s.coverage.counts["processed"] == n, f"{n} frames to be shown")


def test_after_the_end_parameters_apply_as_long_as_the_frames_are_there() -> None:
    frames = data(np.random.default_rng(6), (8, 8), "uint16")
    with memory_source(wire := Wire(), scan=(8, 8)) as live:
        stream(wire, 1, frames, ScanOrder.of((8, 8)), np.random.default_rng(0), 1)
        job = ls.start(taken(live), {"disc": ls.udfs.VirtualDetector(inner=0, outer=3)})
        job.wait(LIMIT_S)
        job.update("disc", outer=4.0)
        result = job.wait(LIMIT_S)
        assert result.complete
        assert np.array_equal(result["intensity"], ls.run(frames, ls.udfs.VirtualDetector(inner=0, outer=4))["intensity"])


def test_frames_that_made_room_are_gone_and_counted() -> None:
    big = np.random.default_rng(7).integers(0, 9, (24, 512, 512)).astype(np.uint16)  # a block each; the memory has eight
    with memory_source(wire := Wire(), scan=(24,), ring_bytes=8 << 20, stall_timeout_s=LIMIT_S) as live:
        wire.header(1, 24)
        wire.frames(1, big, range(20))
        job = ls.start(taken(live), {"totals": ls.udfs.FrameTotals()})
        shown_all(job, 20)
        job.update("totals")
        until(lambda: job.generation == 1 and job.snapshot().generation == 1, "the second generation")  # type: ignore[union-attr]
        wire.frames(1, big, range(20, 24))
        wire.end(1)
        result = job.wait(LIMIT_S)
        gone = result.ledger["gone"]
        assert 12 <= gone < 20
        assert result.ledger["processed"] == 24 - gone
        assert result.ledger["unseen"] == gone
        assert imbalance(result.ledger) == ""
        assert np.flatnonzero(result.valid).min() >= 12 - 1
        valid = np.flatnonzero(result.valid)
        assert np.array_equal(result["total"][valid], big[valid].sum(axis=(1, 2), dtype=np.uint64))


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_while_the_detector_pauses_all_that_has_come_is_shown(executor: str) -> None:
    frames = data(np.random.default_rng(8), (64,), "uint16")
    pauses = [1, 2, 30, 31, 64]
    shown = threading.Semaphore(0)
    in_time = []
    with memory_source(wire := Wire(), scan=(64,), stall_timeout_s=60.0) as live:

        def send() -> None:
            wire.header(1, 64)
            sent = 0
            for upto in pauses:
                wire.frames(1, frames, range(sent, upto))
                sent = upto
                if upto < 64:
                    in_time.append(shown.acquire(timeout=LIMIT_S))
            wire.end(1)

        sender = threading.Thread(target=send)
        sender.start()
        left = list(pauses)
        for result in ls.run_iter(taken(live), {"totals": ls.udfs.FrameTotals()}, executor=executor):
            n = result.coverage.counts["processed"]
            assert np.array_equal(result["total"][:n], frames[:n].sum(axis=(1, 2), dtype=np.uint64))
            assert result.ledger["processed"] == n
            assert imbalance(result.ledger) == ""
            while left and left[0] <= n:
                left.pop(0)
                shown.release()
        sender.join()
        assert result.final
        assert result.complete
        assert in_time == [True] * 4


def test_the_ledger_is_in_the_saved_file(tmp_path: Path) -> None:
    frames = data(np.random.default_rng(9), (6, 6), "uint16")
    with memory_source(wire := Wire(), scan=(6, 6)) as live:
        wire.header(7, 36, notes=("the gain file is old",))
        wire.frames(7, frames.reshape(36, *SIG), [*range(30), 3])
        wire.end(7, "aborted")
        result = ls.run(taken(live), {k: u for k, u in udfs().items() if k != "map"})
    path = result.save(tmp_path / "live.h5")
    loaded = ls.load_result(path)
    same(loaded, result)
    assert loaded.ledger == result.ledger
    assert (loaded.ledger["missing"], loaded.ledger["duplicate"]) == (6, 1)
    assert loaded.run["acquisition"] == {
        "run": 7, "state": "incomplete", "reason": "aborted", "notes": ["the gain file is old"], "messages_not_understood": 0,
    }  # fmt: skip
