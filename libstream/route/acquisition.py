"""An acquisition behind a router, as the client sees it, and its passes: partial results come in, acknowledgements go out."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from libstream.contracts.source import FrameSource, Partition
from libstream.errors import LibstreamError, UsageError, WireError
from libstream.live.acquisition import PUBLISH_S
from libstream.live.layout import Layout
from libstream.live.ledger import Counts
from libstream.model.partial import CORRUPT, DROPPED, MISSING, PROCESSED, Partial
from libstream.model.source import SourceMeta
from libstream.route import wire
from libstream.route.blocks import BlockOpener
from libstream.route.link import Link

_Arr = np.ndarray[Any, Any]

OVER = 1 << 40
"""Number of the partial result that says what is missing when a router is lost: none of its blocks has it."""
_OPEN = ("running", "draining")
_SPENT = ("duplicate", "late", "surplus", "foreign", "excluded", "partial")
Anybody = Callable[[], tuple[int, float]]


class RoutedAcquisition(FrameSource):
    """One run of a detector behind a router; used like an `Acquisition`, with an executor whose workers are its consumers."""

    tick_s = PUBLISH_S
    keeps_going = True

    def __init__(self, link: Link, key: int, run: int | str, metas: list[SourceMeta], layout: Layout, uri: str, anybody: Anybody) -> None:
        if len(metas) != len(layout.channels):
            raise WireError(f"{len(layout.channels)} channels, {len(metas)} descriptions")
        super().__init__(metas[0], BlockOpener(layout, uri))
        self._link, self._key, self.run, self._anybody = link, key, run, anybody
        self._metas = dict(zip(layout.channels, metas, strict=True))
        self._state: Mapping[str, Any] = {"state": "running", "reason": "", "notes": [], "arrived": 0, "newest": None, "counts": {}}
        self._passes: dict[str, RoutedPass] = {}
        self._source: Any = None  # a source that nobody refers to disconnects

    def partitions(self, planned: Iterable[Partition]) -> Iterator[Partition]:
        """Partitions that are dealt out by the router (`Dealt`)."""
        return RoutedPass(self, self._link, planned)

    def channel_meta(self, name: str) -> SourceMeta:
        """See `FrameSource`."""
        return self._metas.get(name, self.meta)

    def _take_state(self, state: Any) -> None:
        if isinstance(state, dict) and self._state["state"] in _OPEN:
            self._state = {**self._state, **state}

    def _router_lost(self, why: str) -> None:
        if self.state in _OPEN:
            self._state = {**self._state, "state": "incomplete", "reason": why}
        for one in self._passes.values():
            one._router_lost(why)

    @property
    def state(self) -> str:
        """running, draining, done, incomplete or failed."""
        return str(self._state["state"])

    @property
    def reason(self) -> str:
        """Why it ended as it did, in words; "" for a regular end."""
        return str(self._state["reason"])

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know."""
        return tuple(map(str, self._state["notes"]))

    @property
    def n_arrived(self) -> int:
        """Positions whose frame has arrived at the router so far."""
        return int(self._state["arrived"])

    @property
    def newest(self) -> int | None:
        """Flat position of the frame that became complete last; None before the first one."""
        found: int | None = self._state["newest"]
        return found

    @property
    def counts(self) -> Counts:
        """What the router received, by kind."""
        known = {k: int(v) for k, v in self._state["counts"].items() if k in Counts.__dataclass_fields__}
        return Counts(**known)

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait until the run is closed; returns its state (still "running" after `timeout_s` seconds)."""
        with self._link.changed:
            self._link.changed.wait_for(lambda: self.state not in _OPEN, timeout_s)
            return self.state

    def give_up(self) -> None:
        """The router makes room when its next acquisition is asked for."""


class RoutedPass:
    """One pass over a routed acquisition; see `Dealt` and `HandsOut`."""

    def __init__(self, acquisition: RoutedAcquisition, link: Link, planned: Iterable[Partition]) -> None:
        self.token = uuid.uuid4().hex
        self._acquisition, self._link = acquisition, link
        given = list(planned)
        self._runs = _joined([p.runs for p in given])
        self._most = max((p.n_positions for p in given), default=1)
        self._missing = np.zeros(acquisition.meta.shape.n_positions, bool)  # positions that are asked for and not in the result
        for a, b in self._runs.tolist():
            self._missing[a:b] = True
        self._queue: deque[Partial] = deque()
        self._owner: dict[int, tuple[str, int]] = {}  # of what has arrived and is not merged: session and span, by number
        self._account: Mapping[str, Any] | None = None
        self._weight = 0
        self._error: LibstreamError | None = None
        self._begun = self._over = self._woken = self._ended = False
        self._lost = ""
        self._alone_since: float | None = None

    # -- for the executor --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """See `Dealt`."""
        with self._link.changed:
            self._begun = True
            self._acquisition._passes[self.token] = self
            if not self._link.connected():
                self._router_lost(f"the router at {self._link.router} does not answer")
                return
            self._link.send("pass", [wire.view(self._runs)], token=self.token, key=self._acquisition._key, most=self._most)

    def results(self, timeout_s: float) -> list[Partial] | None:
        """See `Dealt`."""
        with self._link.changed:
            if not self._queue and not self._over:
                self._link.changed.wait_for(lambda: self._queue or self._over or self._error or self._woken, timeout_s)
            if self._error is not None:
                raise self._error
            found = list(self._queue)
            self._queue.clear()
            if found:
                return found
            if self._over or self._woken:
                return None
            self._look_for_consumers()
            return []

    def _look_for_consumers(self) -> None:
        n, wait_s = self._acquisition._anybody()
        now = time.monotonic()
        if n:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since > wait_s:
            self._router_lost(f"there has been no consumer for {wait_s:g} s")

    def __iter__(self) -> Iterator[Partition]:
        return self

    def __next__(self) -> Partition:
        """Frames do not come here. Raises UsageError."""
        raise UsageError(
            f"the frames of {self._acquisition.meta.id.uri} go from a router to consumers: run with the executor that it was connected with"
        )

    # -- for the loop ------------------------------------------------------------------------------------------------

    def merged(self, partial: Partial) -> None:
        """It is in the result: the router need not keep its blocks any more."""
        with self._link.changed:
            self._missing[partial.positions] = False
            self._weight += _weight(partial)
            session, _ = self._owner.pop(partial.number, ("", 1))
            if partial.number != OVER:
                self._link.send("merged", token=self.token, numbers=list(range(partial.number, partial.number + partial.span)))
            if session:
                self._link.tell(session, "got")

    def wake(self) -> None:
        """Deal out nothing more."""
        with self._link.changed:
            self._woken = True
            if self._begun:
                self._link.send("wake", token=self.token)
            self._link.changed.notify_all()

    def close(self) -> None:
        """The pass is over."""
        with self._link.changed:
            if self._ended:
                return
            self._ended = True
            self._acquisition._passes.pop(self.token, None)
            if self._begun:
                self._link.send("end", token=self.token)
                self._begun = False

    def report(self, coverage: Mapping[str, int]) -> dict[str, Any]:
        """See `HandsOut`: the account of the router, brought to this moment by what was merged here since."""
        names = ("announced", "processed", "corrupt", "dropped", "missing", "unseen")
        with self._link.changed:
            account = self._account or {"ledger": {}, "weight": 0}
            known = {k: int(account["ledger"].get(k, 0)) for k in (*_SPENT, "pending", "gone", "received")}
            known["pending"] -= self._weight - int(account["weight"])
            if self._lost:
                known["gone"] += max(0, known["pending"])
                known["pending"] = 0
            known["pending"] = max(0, known["pending"])
            mine = {k: int(coverage[k]) for k in names}
            # frames that came after the router's account, and are in the result already, were received, too
            known["received"] = sum(mine[k] for k in ("processed", "corrupt", "dropped")) + known["pending"] + known["gone"] + sum(
                known[k] for k in _SPENT
            )  # fmt: skip
            a = self._acquisition
            told = dict(account.get("acquisition", {"run": a.run, "messages_not_understood": 0}))
            told.update({"state": a.state, "reason": a.reason, "notes": list(a.notes)})
            if self._lost:
                told.update({"state": "incomplete", "reason": self._lost})
            return {"ledger": {**mine, **known}, "acquisition": told}

    # -- what router and consumers say (in the thread of the link, `changed` held) ---------------------------------------

    def arrived(self, session: str) -> list[int]:
        """Numbers of blocks whose result has come from this session and is not merged yet."""
        return [n for number, (name, span) in self._owner.items() if name == session for n in range(number, number + span)]

    def _of_router(self, said: wire.Message) -> None:
        if self._over:
            return
        if said.kind == "lost-frames":
            at, codes = said.array(0, "<i8"), said.array(1, "u1")
            if len(at) != len(codes) or (len(at) and not 0 <= int(at.min()) <= int(at.max()) < len(self._missing)):
                raise WireError("lost-frames: positions and states do not fit together")
            self._queue.append(Partial(said.number("number"), 1, at, codes, {}, {}))
        elif said.kind in ("account", "over"):
            if isinstance(said.head.get("account"), dict):
                self._account = said.head["account"]
                self._acquisition._take_state(self._account["acquisition"])
            if said.kind == "over":
                if said.text("why"):
                    self._router_lost(said.text("why"))
                self._over = True

    def _of_consumer(self, session: str, said: wire.Message) -> None:
        if said.kind == "failed":
            self._error = self._error or wire.read_error(said)
        elif said.kind == "partial":
            if self._over:
                self._link.tell(session, "got")
                return
            partial = wire.read_partial(said)
            at = partial.positions
            if len(at) and not 0 <= int(at.min()) <= int(at.max()) < len(self._missing):
                raise WireError("partial: positions are outside of the scan")
            self._owner[partial.number] = session, partial.span
            self._queue.append(partial)

    def _router_lost(self, why: str) -> None:
        """Nothing more will come. What has not arrived is missing."""
        if self._over:
            return
        self._over, self._lost = True, why
        there = np.zeros(len(self._missing), bool)
        for partial in self._queue:
            there[partial.positions] = True
        rest = np.flatnonzero(self._missing & ~there)
        self._queue.append(Partial(OVER, 1, rest, np.full(len(rest), MISSING, np.uint8), {}, {}))
        if self._acquisition.state in _OPEN:
            self._acquisition._state = {**self._acquisition._state, "state": "incomplete", "reason": why}
        self._link.changed.notify_all()


def _weight(partial: Partial) -> int:
    """Frames of the account that stand behind the positions of a partial result."""
    return int(np.isin(partial.status, (PROCESSED, CORRUPT, DROPPED)).sum())


def _joined(runs: list[_Arr]) -> _Arr:
    """Runs one after the other, neighbours joined, int64 (k, 2)."""
    if not runs:
        return np.zeros((0, 2), np.int64)
    found = np.concatenate(runs).astype(np.int64)
    found = found[np.argsort(found[:, 0], kind="stable")]
    first = np.concatenate([[True], found[1:, 0] != found[:-1, 1]])
    last = np.concatenate([first[1:], [True]])
    return np.ascontiguousarray(np.stack([found[first, 0], found[last, 1]], axis=1))
