"""The side of a measurement: reads orders as JSON lines from stdin, answers on stdout, keeps files open in between.

Orders: {"op": "hello"}; {"op": "run", "data": {...}, "job": name, "variant": name, "save": path (optional)}. Answers: {"seconds": s,
"bytes": b, "frames": n}
(b, n: of those that were asked for), {"absent": reason} where this side has no such job, {"error": text}.
NumPy only: it is imported in the environments of the peers.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.bench.spec import JOBS, OWN, Data, roi_of

_Arr = np.ndarray[Any, Any]
Step = Callable[[], dict[str, _Arr]]


KEPT = 8
"""Jobs that stay prepared: entries of one row are run in turn."""


class Absent(Exception):
    """This side has no such job; the text says why."""


class Side:
    """What a side implements."""

    def versions(self) -> dict[str, str]:
        """Versions of the packages that matter."""
        return {}

    def step(self, data: Data, job: str, variant: str) -> Step:
        """Prepare `job` (open the file, make masks), and return what is timed: a call that gives the arrays of the job by name.

        The scan is flattened or not, as it comes. Raises Absent.
        """
        raise NotImplementedError

    def share(self, data: Data, job: str) -> float:
        """Part of the frames that `step` goes through (1.0, unless a side needs too much memory for all of them)."""
        return 1.0


def serve(side: Side) -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not get between the answers
    warnings.simplefilter("ignore")
    prepared: dict[str, Step] = {}
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"versions": side.versions()} if order["op"] == "hello" else _run(side, order, prepared)
        except Absent as exc:
            answer = {"absent": str(exc)}
        except Exception as exc:
            traceback.print_exc()
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _run(side: Side, order: dict[str, Any], prepared: dict[str, Step]) -> dict[str, Any]:
    data, job, variant = Data.of(order["data"]), order["job"], order["variant"]
    key = json.dumps([order["data"], job, variant])
    if key not in prepared:
        while len(prepared) >= KEPT:
            prepared.pop(next(iter(prepared)))
        prepared[key] = side.step(data, job, variant)
    if "save" in order:
        arrays = prepared[key]()
        known = JOBS.get(OWN[job][0] if job in OWN else job)
        names = known.outputs if known is not None else ()
        if names and set(names) <= set(arrays):
            np.savez(order["save"], **{n: np.asarray(arrays[n]) for n in names})
    step = prepared[key]
    started = time.perf_counter()
    step()
    seconds = time.perf_counter() - started
    roi = roi_of(variant, data.scan)
    share = side.share(data, job) * (1.0 if roi is None else roi.sum() / roi.size)
    return {"seconds": seconds, "bytes": data.n_bytes * share, "frames": data.n_frames * share}
