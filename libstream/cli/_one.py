"""One file through one recipe: open, skip or run, save, draw, with a way to stop it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from libstream import api
from libstream.cli.command import as_options, duration, n_of, one_line, size
from libstream.cli.progress import Progress
from libstream.cli.recipe import Recipe
from libstream.errors import CancelledError, FormatError, LibstreamError, WorkerLostError
from libstream.model.ragged import Ragged
from libstream.model.result import Result

POLL_S = 0.2
"""How often a wait looks whether it is to stop."""
CANCEL_S = 10.0
"""How long an interrupted run may take to end by itself before what it has is saved all the same; plain-Python UDFs may be busy
with one tile."""


@dataclass
class Outcome:
    """What became of one file. status: done, skipped, failed, interrupted, not started.

    seconds: for everything; of these ready_s to check and compile, run_s from the first frame to the last.
    """

    file: str
    status: str = "not started"
    output: Path | None = None
    plot: Path | None = None
    message: str = ""
    frames: int = 0
    seconds: float = 0.0
    ready_s: float = 0.0
    run_s: float = 0.0
    n_bytes: int = 0
    result: Result | None = None
    explained: str = ""
    profile: dict[str, float] = field(default_factory=dict)
    error: BaseException | None = None


@dataclass(frozen=True)
class Setup:
    """What all files of a command share."""

    recipe: Recipe
    udfs: dict[str, Any]
    roi: Any
    corrections: Any
    executor: Any
    resume: bool = False
    explain: bool = False
    explain_only: bool = False
    profile: bool = False


def process(outcome: Outcome, setup: Setup, progress: Progress, stop: threading.Event) -> None:
    """Fill `outcome`. Raises nothing but KeyboardInterrupt before the run began; errors are kept in it."""
    begun = time.monotonic()
    try:
        _process(outcome, setup, progress, stop)
    except CancelledError as exc:
        outcome.status, outcome.message = "interrupted", one_line(exc)
    except Exception as exc:  # noqa: BLE001  one file's error must not stop the others; main reports it
        outcome.status, outcome.message, outcome.error = "failed", one_line(exc), exc
    outcome.seconds = time.monotonic() - begun


def _process(outcome: Outcome, setup: Setup, progress: Progress, stop: threading.Event) -> None:
    source = api.open(outcome.file, **setup.recipe.open)
    for note in source.meta.notes:
        progress.message(f"libstream: note: {outcome.file}: {as_options(note)}")
    options = {"roi": setup.roi, "corrections": setup.corrections}
    if setup.resume and outcome.output is not None and outcome.output.exists():
        why = _unfinished(outcome.output, source, setup, options)
        if not why:
            outcome.status, outcome.message = "skipped", f"{outcome.output} is complete and of the same run"
            return
        progress.message(f"{outcome.file}: {outcome.output} is made anew: {why}")
    if setup.explain:
        outcome.explained = api.explain(source, setup.udfs, executor=setup.executor, **options)
        if setup.explain_only:
            outcome.status = "done"
            return
    for target in (outcome.output, outcome.plot):
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
    if outcome.output is not None:
        api.check_output(outcome.output)  # before hours of work, not after them
    result = _run(outcome, source, setup, options, progress, stop)
    if result is None:
        outcome.status, outcome.message = "interrupted", "nothing was computed yet, nothing was saved"
        return
    outcome.result = result
    _store(outcome)


def _unfinished(path: Path, source: Any, setup: Setup, options: dict[str, Any]) -> str:
    """Why the result in `path` is not what this run would give, or ""."""
    try:
        old = api.load_result(path)
    except FormatError as exc:
        return one_line(exc)
    if unseen := old.coverage.counts["unseen"]:
        return f"it is incomplete ({n_of(unseen, 'position')} unseen)"
    changed = api.differences(old.run, source, setup.udfs, **options)
    return f"changed: {'; '.join(changed)}" if changed else ""


def _run(outcome: Outcome, source: Any, setup: Setup, options: dict[str, Any], progress: Progress, stop: threading.Event) -> Result | None:
    """The result, or what there is of it after an interruption (status says so), or None where there is nothing."""
    seen = _Seen(progress)
    started = time.monotonic()
    job = api.start(source, setup.udfs, executor=setup.executor, progress=seen, profile=setup.profile, **options)
    ready = time.monotonic() - started
    try:
        result = None
        while result is None:
            try:
                result = job.wait(POLL_S)
            except TimeoutError:
                if job.done:  # just now; or the error of the run is a TimeoutError itself
                    result = job.wait()
                elif stop.is_set():
                    raise KeyboardInterrupt from None
        outcome.status = "done"
    except KeyboardInterrupt:
        stop.set()
        job.cancel()
        deadline = time.monotonic() + CANCEL_S
        while not job.done and time.monotonic() < deadline:
            time.sleep(0.01)
        result = job.snapshot()
        outcome.status = "interrupted"
        if result is not None and not result.coverage.counts["processed"]:
            result = None
    except WorkerLostError as exc:
        result = job.snapshot()
        if result is None or not result.coverage.counts["processed"]:
            raise
        outcome.status, outcome.error = "failed", exc  # hours of other workers are not thrown away with the ones that died
    outcome.frames, outcome.n_bytes = seen.n_done, seen.n_bytes
    outcome.profile, outcome.run_s, outcome.ready_s = job.profile(), time.monotonic() - started - ready, ready
    return result


class _Seen:
    """Adds the progress of one job to that of the command; called from the job's thread."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.n_done, self.n_bytes, self._expected = progress, 0, 0, False

    def __call__(self, p: Any) -> None:
        if not self._expected:
            self._expected = True
            self.progress.expect(p.n_total)
        frames, n_bytes = p.n_done - self.n_done, p.bytes_done - self.n_bytes
        self.n_done, self.n_bytes = p.n_done, p.bytes_done
        if frames > 0:
            self.progress.update(frames, n_bytes / frames)


def _store(outcome: Outcome) -> None:
    """Save and draw; an interrupted run says what it has."""
    result = outcome.result
    if result is None:
        return
    if outcome.output is not None:
        result.save(outcome.output)
    if outcome.plot is not None:
        from libstream.cli.plot import draw

        try:
            draw(result, outcome.plot, title=Path(outcome.file).name if "://" not in outcome.file else outcome.file)
        except LibstreamError:
            raise
        except Exception as exc:
            saved = f"; the result is in {outcome.output}" if outcome.output is not None else ""
            raise LibstreamError(f"the picture could not be drawn ({type(exc).__name__}: {one_line(exc)}){saved}") from exc
    if outcome.status != "done":
        where = f"saved to {outcome.output}, marked incomplete" if outcome.output is not None else "not saved (no -o)"
        outcome.message = f"{result.coverage}, {where}"


def statistics(data: Any) -> dict[str, Any]:
    """Shape, dtype, and smallest, mean and largest finite value of an output."""
    if isinstance(data, Ragged):
        counts = data.counts
        out: dict[str, Any] = {"shape": list(data.nav), "dtype": str(data.dtype), "records": len(data.values)}
        return {**out, "most_records": int(counts.max()) if counts.size else 0}
    data = np.asarray(data)
    out = {"shape": list(data.shape), "dtype": str(data.dtype)}
    if data.dtype.names is not None:
        return out
    shown = np.abs(data) if data.dtype.kind == "c" else data
    finite = shown[np.isfinite(shown)] if shown.dtype.kind == "f" else shown.reshape(-1)
    if finite.size:
        out |= {"min": finite.min().item(), "mean": float(finite.mean(dtype=np.float64)), "max": finite.max().item()}
    return out


def speed(outcome: Outcome) -> str:
    """Frames, time, rate; where it took long to get ready, that too."""
    if not outcome.frames:
        return "0 frames"
    seconds = max(outcome.run_s, 1e-9)
    text = f"{outcome.frames:,} frames in {duration(seconds)} ({size(outcome.n_bytes)}, {outcome.n_bytes / seconds / 1e9:.2f} GB/s)"
    return f"{text}, {duration(outcome.ready_s)} to get ready" if outcome.ready_s > 1 else text
