"""A detector: its acquisitions one after another, each processed as it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from libstream import api
from libstream.contracts.executor import ShowsCluster
from libstream.errors import LibstreamError, UsageError
from libstream.jobs import sources
from libstream.live.watch import WatchedAcquisition
from libstream.model.result import Result

if TYPE_CHECKING:
    from libstream.jobs.session import Session

Acquired = api.Acquisition | WatchedAcquisition
POLL_S = 0.2
LEDGER = ("announced", "processed", "dropped", "missing", "corrupt", "received", "duplicate", "late", "surplus", "foreign")


class Follow:
    """Takes the acquisitions of `live` as they come and gives them to the session. A thread of its own, ended by `close`."""

    def __init__(self, session: Session, live: api.LiveSource | sources.Growing) -> None:
        self._session, self.live = session, live
        self.follow = True
        self.acquisition: Acquired | None = None
        self.number = 0
        self.armed = False
        self._told = 0
        self._shown: tuple[Any, ...] = ()
        self._before: tuple[float, int] = (0.0, 0)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="libstream-follow", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Disconnect; waits for the thread, except in it or before it was started."""
        self._closed.set()
        self.live.close()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(10.0)

    @property
    def dealt(self) -> ShowsCluster | None:
        """The source, where its frames go to other computers by a router."""
        return self.live if isinstance(self.live, ShowsCluster) else None

    # -- commands ------------------------------------------------------------------------------------------------------

    @property
    def detector(self) -> api.LiveSource:
        """What can be commanded. Raises UsageError for a file that is watched."""
        if not isinstance(self.live, api.LiveSource):
            raise UsageError(f"{self.live.uri} is a file: there is no detector to command")
        return self.live

    def arm(self, settings: dict[str, Any]) -> Any:
        """Arm the detector; the number of the run, where it says one."""
        run = self.detector.arm(**settings)
        self.armed = True
        return run

    def disarm(self) -> None:
        """Stop the detector."""
        self.detector.disarm()
        self.armed = False

    # -- for whoever looks ---------------------------------------------------------------------------------------------

    def json(self) -> dict[str, Any]:
        """As a part of the state."""
        a = self.acquisition
        can_arm = isinstance(self.live, api.LiveSource) and self.live.detector.controller is not None
        return {
            "state": self.live.state, "url": self.live.uri, "can_arm": can_arm, "armed": self.armed,
            "acquisition": self.number, "run": None if a is None else run_of(a), "run_state": None if a is None else a.state,
            "reason": "" if a is None else a.reason, "follow": self.follow,
        }  # fmt: skip

    def stat(self, results: Sequence[tuple[set[str], Result]]) -> tuple[dict[str, Any], dict[str, int] | None]:
        """What changes all the time: (`live`, `ledger`). The ledger is that of the result which has seen most."""
        status, now = self.live.status(), time.monotonic()
        arrived = 0 if self.acquisition is None else self.acquisition.n_arrived
        before, n = self._before
        rate = max(0, arrived - n) / (now - before) if 0 < now - before < 5 else 0.0
        if now - before > 0.2:
            self._before = now, arrived
        positions = 0 if self.acquisition is None else self.acquisition.meta.shape.n_positions
        live = {
            "arrived": arrived, "announced": positions, "in_per_s": rate, "fill": status["fill"], "blocked": bool(status["blocked"]),
            "problems": status["problems"], "recorded_bytes": status["recorded_bytes"], "recording_error": status["recording_error"],
        }  # fmt: skip
        ledgers = [r.ledger for _, r in results if r.ledger]
        ledger = max(ledgers, key=lambda x: x.get("processed", 0)) if ledgers else None
        return live, None if ledger is None else {k: int(ledger.get(k, 0)) for k in (*LEDGER, *(k for k in ledger if k not in LEDGER))}

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        session = self._session
        while not self._closed.is_set():
            self._look()
            if not self.follow and self.acquisition is not None:
                self._closed.wait(POLL_S)
                continue
            try:
                found = self.live.wait(POLL_S)
            except LibstreamError as exc:
                if self._closed.is_set() or self.live.state == "closed":
                    break
                session.say("error", str(exc))
                continue
            if found is not None:
                self._take(found)
        self._look()

    def _take(self, acquisition: Acquired) -> None:
        """Process one acquisition until it is over and everything of it was processed."""
        session = self._session
        self.armed = False
        try:
            begun = session.worker.submit(lambda: self._begin(acquisition))
            while True:
                try:
                    begun.result(POLL_S)
                    break
                except TimeoutError:
                    if self._closed.is_set() and begun.cancel():  # it is the worker that waits for this thread to end
                        return
        except Exception as exc:  # noqa: BLE001  the next acquisition may do
            if not self._closed.is_set():
                session.say("error", str(exc))
            return
        while not self._closed.is_set():
            self._look()
            if acquisition.wait(POLL_S) in ("running", "draining"):
                continue
            if not session.runner.running:
                break
            self._closed.wait(POLL_S / 4)
        if not self._closed.is_set():
            level = "info" if acquisition.state == "done" else "warning"
            session.say(level, f"run {run_of(acquisition)}: {acquisition.state}{f', {acquisition.reason}' if acquisition.reason else ''}")

    def _begin(self, acquisition: Acquired) -> None:
        if self._closed.is_set():
            return
        self._session.records.over()
        self.acquisition, self.number = acquisition, self.number + 1
        self._session.begin(acquisition, "live")
        self._session.say("info", f"run {run_of(acquisition)}: {sources.name_of(self.live.uri)} {acquisition.meta.shape}")

    def _look(self) -> None:
        """Tell the session what changed."""
        a = self.acquisition
        problems = self.live.problems
        now = (self.live.state, None if a is None else a.state, self.follow, self.armed)
        if now != self._shown:
            self._shown = now
            self._session.changed()
        count = int(self.live.status()["problems"])
        if count != self._told:
            self._told = count
            if problems:
                self._session.say("warning", problems[-1])


def run_of(acquisition: Acquired) -> str:
    """The detector's number of an acquisition; a file has one."""
    return str(acquisition.run) if isinstance(acquisition, api.Acquisition) else "1"
