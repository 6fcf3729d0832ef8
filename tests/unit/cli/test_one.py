"""One file: waiting, stopping, what is kept."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from libstream.cli import _one
from libstream.cli._one import Outcome, Setup, speed, statistics
from libstream.cli.progress import Progress
from libstream.cli.recipe import Recipe
from libstream.model.partial import Coverage
from libstream.model.ragged import Ragged
from libstream.model.result import Result

DONE = Result({}, Coverage(np.ones((2, 2), np.uint8)))
HALF = Result({}, Coverage(np.array([[1, 0], [0, 0]], np.uint8)))
NOTHING = Result({}, Coverage(np.zeros((2, 2), np.uint8)))


class FakeJob:
    """A job whose `wait` does what the script says, one entry a call."""

    def __init__(self, script: list[Any], newest: Result | None = HALF) -> None:
        self.script, self.newest, self.cancelled = script, newest, False

    @property
    def done(self) -> bool:
        return self.cancelled or not self.script or self.script[0] != "busy"

    def wait(self, timeout_s: float | None = None) -> Result:
        step = self.script[0] if timeout_s is None else self.script.pop(0)
        if step == "busy":
            raise TimeoutError("not finished after 0.2 s")
        if isinstance(step, BaseException):
            raise step
        return step

    def cancel(self) -> None:
        self.cancelled = True

    def snapshot(self) -> Result | None:
        return self.newest

    def profile(self) -> dict[str, float]:
        return {"read": 1.0}


def run(monkeypatch: pytest.MonkeyPatch, job: FakeJob, stop: bool = False) -> Outcome:
    class Source:
        class meta:
            notes = ()

    monkeypatch.setattr(_one.api, "open", lambda file, **options: Source)
    monkeypatch.setattr(_one.api, "start", lambda *args, **options: job)
    outcome, flag = Outcome("x"), threading.Event()
    if stop:
        flag.set()
    _one.process(outcome, Setup(Recipe(), {}, None, None, "threads"), Progress("x", quiet=True), flag)
    return outcome


def test_a_run_that_ends_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run(monkeypatch, FakeJob(["busy", "busy", DONE]))
    assert (outcome.status, outcome.result) == ("done", DONE)


def test_a_timeout_of_the_run_itself_is_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run(monkeypatch, FakeJob(["busy", TimeoutError("the file server does not answer")] * 2))
    assert outcome.status == "failed"
    assert "file server" in outcome.message


def test_stop_of_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    job = FakeJob(["busy", "busy", "busy"])
    outcome = run(monkeypatch, job, stop=True)
    assert job.cancelled
    assert (outcome.status, outcome.result) == ("interrupted", HALF)
    assert "1 of 4 positions processed" in outcome.message


@pytest.mark.parametrize("newest", [None, NOTHING])
def test_stop_before_anything_was_computed(monkeypatch: pytest.MonkeyPatch, newest: Result | None) -> None:
    outcome = run(monkeypatch, FakeJob(["busy", "busy"], newest), stop=True)
    assert (outcome.status, outcome.result) == ("interrupted", None)
    assert "nothing was saved" in outcome.message


def test_a_run_that_does_not_end_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_one, "CANCEL_S", 0.05)
    monkeypatch.setattr(FakeJob, "done", property(lambda self: False))
    outcome = run(monkeypatch, FakeJob(["busy", "busy"]), stop=True)
    assert (outcome.status, outcome.result) == ("interrupted", HALF)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (np.array([1.0, np.nan, 3.0]), {"shape": [3], "dtype": "float64", "min": 1.0, "mean": 2.0, "max": 3.0}),
        (np.array([np.nan]), {"shape": [1], "dtype": "float64"}),
        (np.array([3 + 4j]), {"shape": [1], "dtype": "complex128", "min": 5.0, "mean": 5.0, "max": 5.0}),
        (np.uint16(7), {"shape": [], "dtype": "uint16", "min": 7, "mean": 7.0, "max": 7}),
        (np.zeros(2, [("a", "i4")]), {"shape": [2], "dtype": "[('a', '<i4')]"}),
        (np.zeros(0), {"shape": [0], "dtype": "float64"}),
        (Ragged(np.arange(3), [0, 1, 3], (2,)), {"shape": [2], "dtype": "int64", "records": 3, "most_records": 2}),
    ],
)
def test_statistics(data: Any, expected: dict[str, Any]) -> None:
    assert statistics(data) == expected


def test_speed_tells_the_time_to_get_ready_where_it_matters() -> None:
    outcome = Outcome("x", frames=1000, n_bytes=2 * 10**9, run_s=2.0, ready_s=0.4)
    assert speed(outcome) == "1,000 frames in 2.0 s (2 GB, 1.00 GB/s)"
    outcome.ready_s = 3.0
    assert speed(outcome) == "1,000 frames in 2.0 s (2 GB, 1.00 GB/s), 3.0 s to get ready"
