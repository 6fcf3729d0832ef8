"""What the tests of failures share: frames, a source in memory, and what has to hold after any fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import libstream as ls
from libstream.live.ledger import imbalance
from libstream.testing.detectors import Wire, memory_source

SCAN = (6, 8)
N = 48
LIMIT_S = 20.0
FRAMES = np.random.default_rng(1).integers(0, 60000, (N, 8, 12)).astype(np.uint16)
UDFS = {"sum": ls.udfs.Sum(), "total": ls.udfs.FrameTotals(), "mean": ls.udfs.Mean()}


@contextmanager
def detector(**options: Any) -> Iterator[tuple[Wire, ls.LiveSource]]:
    """A detector in memory and a source that listens to it; afterwards the next acquisition on the same source is whole."""
    wire = options.pop("wire", None) or Wire()
    following = options.pop("following", 1000)
    with memory_source(wire, **{"scan": SCAN, **options}) as live:
        yield wire, live
        whole_run(wire, live, following)


def whole_run(wire: Wire, live: ls.LiveSource, run: int) -> None:
    """An acquisition as it should be."""
    wire.header(run, N)
    wire.frames(run, FRAMES)
    wire.end(run)
    acquisition = taken(live)
    while acquisition.run != run:
        acquisition = taken(live)
    result = ls.run(acquisition, UDFS)
    check(result, range(N))
    assert acquisition.wait(LIMIT_S) == "done"
    assert result.ledger["received"] == N


def taken(live: ls.LiveSource) -> ls.Acquisition:
    """The next acquisition."""
    found = live.wait(LIMIT_S)
    assert found is not None, live.problems
    return found


def check(result: ls.Result, seen: Iterable[int], frames: Any = FRAMES, **ledger: int) -> None:
    """The result is that of the frames `seen` and of no other; every frame is accounted for, with these numbers."""
    at = sorted(seen)
    assert np.flatnonzero(result.valid.reshape(-1)).tolist() == at
    assert imbalance(result.ledger) == ""
    assert {k: result.ledger[k] for k in ledger} == ledger
    assert result.ledger["pending"] == result.ledger["unseen"] == 0
    assert np.array_equal(result["sum"]["sum"], frames[at].sum(axis=0, dtype=np.uint64))
    totals = result["total"]["total"].reshape(-1)
    assert np.array_equal(totals[at], frames[at].sum(axis=(1, 2), dtype=np.uint64))
    if "mean" in result and at:
        assert np.allclose(result["mean"]["mean"], frames[at].mean(axis=0), rtol=1e-12)  # over what was seen, not over the scan


def until(true: Callable[[], Any], what: str) -> None:
    """Wait for something that another thread does."""
    import time

    end = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < end, f"waited in vain for: {what}"
        time.sleep(0.002)
