"""Generations, cancel, progress: a run as its user sees it. Sources wait at a gate, so that nothing depends on the clock."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.contracts.executor import Traits
from libstream.errors import CancelledError, ParameterError, UDFError, UsageError
from libstream.run.bind import bind
from libstream.run.job import Job, Progress
from libstream.testing.sources import ScriptedSource, cut_at, gated

FRAMES = np.ones((8, 8, 4, 4), "u2")
LIMIT_S = float(os.environ.get("LIBSTREAM_TEST_LIMIT_S", "20"))
"""Longest time to wait for something that is to happen at once; shorter for planted faults."""
CUT = cut_at([4] * 16)


class Level(ls.UDF):
    """Writes its parameter everywhere, so that mixed generations are seen."""

    level: float = ls.param(0.0, ge=0.0)
    fails_at: int = -1

    def outputs(self) -> dict[str, ls.Output]:
        return {"value": ls.nav("f8"), "sum": ls.single("f8"), "n": ls.single("i8")}

    def process_frame(self, frame: Any, out: Any, at: Any) -> None:
        if at.index == self.fails_at:
            raise RuntimeError("told to")
        out.value[...] = self.level
        out.sum[...] += self.level
        out.n[...] += 1


def start(udf: Any = None, gate: threading.Event | None = None, after: int = 4, **options: Any) -> Any:
    script = [CUT] if gate is None else [CUT, gated(after, gate, 2 * LIMIT_S)]
    return ls.start(ScriptedSource(FRAMES, *script), {"u": udf or Level()}, **options)


def until(condition: Any, what: str = "") -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what or f"waited {LIMIT_S} s"
        time.sleep(0.002)


def one_generation(result: Any) -> None:
    """Values, sums and parameters of a result belong together."""
    level = result.run["udfs"]["u"]["params"]["level"]
    valid = result.valid
    assert (result["value"][valid] == level).all()
    assert np.isnan(result["value"][~valid]).all()
    if valid.any():
        assert (result["n"], result["sum"]) == (valid.sum(), level * valid.sum())
    assert result.run["generation"] == result.generation


# -- parameters ------------------------------------------------------------------------------------------------------------


def test_parameters_collapse_to_the_last_ones() -> None:
    gate = threading.Event()
    job = start(gate=gate, after=0)  # nothing is published yet
    numbers = [job.update("u", level=v) for v in (1.0, 2.0, 3.0)]
    gate.set()
    result = job.wait(LIMIT_S)
    assert numbers == [1, 1, 1]
    assert (result.generation, job.generation) == (1, 1)
    assert (result["value"] == 3.0).all()
    one_generation(result)


def test_a_generation_that_has_shown_nothing_is_not_cancelled() -> None:
    gate, seen = threading.Event(), []
    job = start(gate=gate, after=0, progress=lambda p: seen.append((p.generation, p.n_done)))
    job.update("u", level=1.0)
    time.sleep(0.05)
    assert not job._cancel, "it has published nothing, so it goes on until it has"
    gate.set()
    result = job.wait(LIMIT_S)
    assert max(n for g, n in seen if g == 0) >= 4, "the first generation showed a first picture"
    assert max(n for g, n in seen if g == 0) < 64, "and was given up then"
    assert result.generation == 1
    one_generation(result)


def test_a_generation_that_has_shown_something_is_cancelled_at_once() -> None:
    gate = threading.Event()
    job = start(gate=gate)
    until(lambda: job.snapshot() is not None and job.snapshot().valid.sum() == 16, "all that the source gave is shown")
    job.update("u", level=2.0)
    until(lambda: job.generation == 1, "the old generation waits for its source")
    gate.set()
    result = job.wait(LIMIT_S)
    assert result.complete
    one_generation(result)


def test_no_snapshot_mixes_generations() -> None:
    class Slow(Level):
        def process_frame(self, frame: Any, out: Any, at: Any) -> None:
            time.sleep(0.0005)
            super().process_frame(frame, out, at)

    source = ScriptedSource(FRAMES, CUT)
    job = Job(source, {"u": Slow()}, executor=ls.api.named("threads"), tick_s=0.002).start()
    seen = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            if (snapshot := job.snapshot()) is not None:
                seen.append(snapshot)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for v in range(1, 12):
            job.update("u", level=float(v))
            time.sleep(0.006)
        final = job.wait(LIMIT_S)
    finally:
        stop.set()
        watcher.join()
    assert len({s.version for s in seen}) > 3
    for snapshot in [*seen, final]:
        one_generation(snapshot)
    assert final["value"][0, 0] == 11.0
    generations = [s.generation for s in seen]
    assert generations == sorted(generations), "an older generation came back"
    assert [s.version for s in seen] == sorted(s.version for s in seen)


def test_parameters_after_the_end_start_again() -> None:
    job = start(Level(level=1.0))
    assert job.wait(LIMIT_S).generation == 0
    assert job.update("u", level=5.0) == 1
    result = job.wait(LIMIT_S)
    assert (result.generation, result["sum"]) == (1, 5.0 * 64)
    one_generation(result)


def test_parameters_that_arrive_at_the_very_end_are_computed() -> None:
    for n in range(40):
        job = start()
        time.sleep(0.0004 * n)
        number = job.update("u", level=7.0)
        result = job.wait(LIMIT_S)
        assert (result.generation, result["value"][0, 0]) == (number, 7.0), f"update after {0.4 * n} ms was lost"


def test_bad_parameters_leave_the_run_as_it_is() -> None:
    gate = threading.Event()
    job = start(Level(level=1.0), gate=gate)
    with pytest.raises(ParameterError, match=r"Level: level: .* got -3.0 \(allowed: >= 0\)"):
        job.update("u", level=-3.0)
    with pytest.raises(ParameterError, match="Level has no parameter 'levle'; it has: fails_at, level"):
        job.update("u", levle=1.0)
    with pytest.raises(UsageError, match="this run has no UDF 'v'; it has u"):
        job.update("v", level=1.0)
    gate.set()
    result = job.wait(LIMIT_S)
    assert (result.generation, result["sum"]) == (0, 64.0)


def test_other_parameters_keep_their_values() -> None:
    job = start(Level(level=3.0))
    job.wait(LIMIT_S)
    job.update("u", fails_at=1000)
    assert job.wait(LIMIT_S)["value"][0, 0] == 3.0


def test_several_udfs_and_channels_keep_their_keys() -> None:
    frames = {"a": FRAMES, "b": 2 * FRAMES}
    job = ls.start(frames, {"x": Level(level=1.0), "y": ls.on("b", Level(level=2.0))})
    job.wait(LIMIT_S)
    job.update("y", level=5.0)
    result = job.wait(LIMIT_S)
    assert (result["x"]["value"][0, 0], result["y"]["value"][0, 0]) == (1.0, 5.0)
    assert result.run["udfs"]["y"]["channel"] == "b"


def test_parameters_mend_a_run_that_failed() -> None:
    job = start(Level(fails_at=20))
    for _ in range(2):
        with pytest.raises(UDFError, match=r"told to, at scan position \(2, 4\)"):
            job.wait(LIMIT_S)
    snapshot = job.snapshot()
    assert snapshot is not None
    assert not snapshot.complete
    job.update("u", fails_at=-1)
    assert job.wait(LIMIT_S).complete


# -- cancel ----------------------------------------------------------------------------------------------------------------


def test_cancel_keeps_what_was_merged() -> None:
    gate = threading.Event()
    job = start(Level(level=1.0), gate=gate)
    until(lambda: job.progress.n_done >= 16)
    job.cancel()
    with pytest.raises(CancelledError, match=r"the run was cancelled: 16 of 64 positions processed \(48 unseen\)") as caught:
        job.wait(LIMIT_S)
    gate.set()
    partial: Any = caught.value.partial
    assert partial is job.snapshot()
    assert partial.final
    assert not partial.complete
    assert partial["n"] == 16
    one_generation(partial)
    assert job.done


def test_cancel_before_anything() -> None:
    gate = threading.Event()
    job = start(gate=gate, after=0)
    job.cancel()
    with pytest.raises(CancelledError):
        job.wait(LIMIT_S)
    gate.set()


def test_cancel_after_the_end_changes_nothing() -> None:
    job = start()
    job.wait(LIMIT_S)
    job.cancel()
    assert job.wait(LIMIT_S).complete


def test_cancel_then_parameters_runs_again() -> None:
    gate = threading.Event()
    job = start(gate=gate)
    until(lambda: job.snapshot() is not None)
    job.cancel()
    job.update("u", level=4.0)
    gate.set()
    result = job.wait(LIMIT_S)
    assert result.complete
    assert result["sum"] == 256.0


# -- waiting and looking -----------------------------------------------------------------------------------------------------


def test_wait_with_a_time() -> None:
    gate = threading.Event()
    job = start(gate=gate)
    with pytest.raises(TimeoutError, match=r"not finished after 0.02 s"):
        job.wait(0.02)
    assert not job.done
    gate.set()
    assert job.wait(LIMIT_S).complete


def test_progress_rises_to_the_end() -> None:
    seen: list[Progress] = []
    ls.run(ScriptedSource(FRAMES, CUT), Level(), progress=seen.append)
    done = [p.n_done for p in seen]
    assert done == sorted(done)
    last = seen[-1]
    assert (last.n_done, last.n_total, last.bytes_done, last.seconds_left) == (64, 64, 64 * 4 * 4 * 2, 0.0)
    assert last.frames_per_s == pytest.approx(64 / last.seconds)
    assert Progress(0, 10, 0, 0.0, 0).seconds_left == float("inf")


def test_a_progress_function_that_fails_ends_the_run() -> None:
    def broken(p: Progress) -> None:
        raise KeyError("bar")

    with pytest.raises(KeyError, match="bar"):
        ls.run(FRAMES, Level(), progress=broken)


def test_explain_and_profile() -> None:
    job = start()
    job.wait(LIMIT_S)
    assert job.explain().startswith("positions: 64 of 64")
    assert {"read", "merge", "udf:u"} <= set(job.profile())
    assert all(s >= 0 for s in job.profile().values())


def test_an_order_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="order must be 'scan' or 'coarse', got 'random'"):
        ls.start(FRAMES, Level(), order="random")


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_run_iter_ends_with_the_final_result(executor: str) -> None:
    results = list(ls.run_iter(ScriptedSource(FRAMES, CUT), {"u": Level(level=2.0)}, executor=executor))
    assert [r.final for r in results] == [False] * (len(results) - 1) + [True]
    assert results[-1].complete
    versions = [r.version for r in results]
    assert versions == sorted(set(versions))
    for r in results:
        one_generation(r)


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_leaving_run_iter_cancels(executor: str) -> None:
    gate = threading.Event()
    handed: list[int] = []

    def counting(planned: Any) -> Any:
        for p in planned:
            handed.append(p.number)
            yield p

    script = [CUT, counting] if executor == "inline" else [CUT, counting, gated(3, gate, LIMIT_S)]
    results = ls.run_iter(ScriptedSource(FRAMES, *script), Level(), executor=executor)
    first = next(results)
    assert not first.final
    results.close()  # type: ignore[attr-defined]
    gate.set()
    time.sleep(0.05)
    assert len(handed) < 16


def test_run_iter_raises_the_error_of_the_run() -> None:
    results = ls.run_iter(ScriptedSource(FRAMES, CUT), Level(fails_at=60))
    with pytest.raises(UDFError, match="told to"):
        list(results)


def test_inline_runs_in_the_thread_of_the_caller() -> None:
    seen = set()

    class Where(Level):
        def process_frame(self, frame: Any, out: Any, at: Any) -> None:
            seen.add(threading.current_thread())

    ls.run(FRAMES, Where(), executor="inline")
    assert seen == {threading.main_thread()}


class Costly(ls.UDF):
    cost: float = 2.0

    @property
    def tile_cost(self) -> float:
        return self.cost

    def outputs(self) -> dict[str, ls.Output]:
        return {"n": ls.single("i8")}

    @ls.kernel
    def process_tile(tile, n):
        n[0] += tile.shape[0]


class CostlyPython(Costly):
    def process_tile(self, tile: Any, out: Any) -> None:
        out.n += len(tile)


@pytest.mark.parametrize(("cls", "seen"), [(Costly, ["c", "a", "d", "b"]), (CostlyPython, ["a", "b", "c", "d"])])
def test_the_slowest_kernel_sees_a_tile_first(cls: Any, seen: list[str]) -> None:
    udfs = {"a": cls(cost=3), "b": cls(cost=1), "c": cls(cost=9), "d": cls(cost=3)}
    bound = bind(ls.open(np.ones((3, 4, 2, 2), "u2")), udfs, traits=Traits(n_workers=1))
    assert list(bound.work.channels[0].udfs) == seen
    result = ls.run(np.ones((3, 4, 2, 2), "u2"), udfs)
    assert list(result) == ["a", "b", "c", "d"]
    assert all(result[k]["n"] == 12 for k in udfs)
