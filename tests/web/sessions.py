"""What the tests of sessions share: a scan, UDFs of a user, and waiting for what is computed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from libstream.jobs.session import Session

FRAMES = np.random.default_rng(1).poisson(5, (8, 9, 16, 16)).astype(np.uint16)

OWN = '''
import threading
import numpy as np
import libstream as ls

class Scaled(ls.UDF):
    """Sum times a factor."""
    factor: float = 2.0
    def outputs(self):
        return {"value": ls.nav("float64")}
    def process_frame(self, frame, out):
        out.value[...] = FACTOR * self.factor * frame.sum()

class Raises(ls.UDF):
    limit: int = 5
    def outputs(self):
        return {"value": ls.nav("float64")}
    def process_frame(self, frame, out, at):
        if at.index >= self.limit and frame.any():
            raise ValueError("this is too much")
        out.value[...] = 1

class Slow(ls.UDF):
    seconds: float = 0.01
    def outputs(self):
        return {"value": ls.nav("float64")}
    def process_frame(self, frame, out):
        import time
        if frame.any():
            time.sleep(self.seconds)
        out.value[...] = 1
'''


def wait(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def settled(s: Session, *ids: str) -> None:
    wait(lambda: not s.pending and not s.runner.running and all(s.view()["analyses"][i]["state"] not in ("running", "idle") for i in ids))


def array(s: Session, topic: str) -> np.ndarray:
    return s.store.get(topic).array
