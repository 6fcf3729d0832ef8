"""Partitions of a running acquisition: handed out as frames arrive, and let go when they are merged."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from libstream.contracts.source import Partition
from libstream.live.assemble import Run
from libstream.live.reader import Held
from libstream.model.partial import CORRUPT, DROPPED, Partial

_Arr = np.ndarray[Any, Any]

FLUSH_S = 0.03
"""Frames that have come wait at most this long for more."""
PAUSE_S = 0.25
"""Silence after which an empty partition is handed out, then twice as long, and so on: an executor that waits in here (inline) comes
back, and what was merged is published."""
MOST_BYTES = 32 << 20
"""Decoded bytes of a partition: more would keep frames waiting while other workers have nothing to do."""
LEAST = 64
"""Frames that a partition may always have."""


class HandOut:
    """One pass over a run: an iterator of partitions, each handed out once its frames are in memory.

    planned: partitions of the plan; say which positions are wanted, and how many a partition may have (or `size` says it).
    """

    def __init__(self, run: Run, planned: Iterable[Partition], frame_bytes: int, size: int | None = None) -> None:
        self._run = run
        self._wanted = np.zeros(run.n, bool)
        most = 1
        for p in planned:
            self._wanted[p.positions()] = True
            most = max(most, p.n_positions)
        self._all = bool(self._wanted.all())
        self._size = min(most, max(LEAST, MOST_BYTES // max(1, frame_bytes))) if size is None else size
        self._number = 0
        self._pause_s = PAUSE_S
        self._out: dict[int, tuple[_Arr, _Arr]] = {}
        self._at = self._lost_at = 0
        self._gone = self._excluded = 0
        self._woken = self._closed = False
        self._since = 0.0  # of `poll`: since when there is something
        with run.changed:
            self._needs = run.claim()

    def __iter__(self) -> HandOut:
        return self

    def __next__(self) -> Partition:
        run, since, begun = self._run, 0.0, time.monotonic()
        with run.changed:
            while True:
                if self._woken or self._closed:
                    raise StopIteration
                n = run.n_ready - self._at
                if n >= self._size or (n and (run.closed or not self._number)):
                    break
                now = time.monotonic()
                if n or run.n_lost > self._lost_at:
                    since = since or now
                    if now - since >= FLUSH_S or run.closed:
                        break
                elif run.closed:
                    raise StopIteration
                elif self._number and now - begun >= self._pause_s:
                    self._pause_s *= 2
                    return self._next_partition()
                run.changed.wait(FLUSH_S if since == 0.0 else max(0.001, FLUSH_S - (now - since)))
            self._pause_s = PAUSE_S
            return self._next_partition()

    def poll(self) -> Partition | None:
        """The next partition if there is one, else None: as `next` without waiting. Raises StopIteration at the end."""
        run = self._run
        with run.changed:
            if self._woken or self._closed:
                raise StopIteration
            n = run.n_ready - self._at
            if not n and run.n_lost == self._lost_at:
                if run.closed:
                    raise StopIteration
                return None
            now = time.monotonic()
            self._since = self._since or now
            if n < self._size and not run.closed and not (n and not self._number) and now - self._since < FLUSH_S:
                return None
            self._since = 0.0
            return self._next_partition()

    def _next_partition(self) -> Partition:
        run = self._run
        n = min(run.n_ready - self._at, self._size)
        at = run.ready[self._at : self._at + n]
        self._at += n
        if not self._all:
            asked = self._wanted[at]
            away = at[~asked]
            run.merged(self._needs, away)
            self._excluded += len(away)
            at = at[asked]
        there = self._needs[at]
        self._gone += int(len(at) - np.count_nonzero(there))
        at = np.sort(at[there])
        lost_at, codes = run.lost[self._lost_at : run.n_lost].copy(), run.lost_code[self._lost_at : run.n_lost].copy()
        self._lost_at = run.n_lost
        if not self._all:
            asked = self._wanted[lost_at]
            self._excluded += int(np.isin(codes[~asked], (CORRUPT, DROPPED)).sum())
            lost_at, codes = lost_at[asked], codes[asked]
        held = Held(run.offset[at], run.size[at], run.codec[at], tuple(run.codecs))
        partition = Partition(self._number, _runs(at), (lost_at, codes) if len(lost_at) else None, held)
        self._out[self._number] = at, codes
        self._number += 1
        return partition

    def merged(self, partial: Partial) -> None:
        """What this partial result covers need not be kept any more."""
        run = self._run
        with run.changed:
            for number in range(partial.number, partial.number + partial.span):
                at, _ = self._out.pop(number)
                run.merged(self._needs, at)
            run.changed.notify_all()

    def wake(self) -> None:
        """Hand out nothing more; whoever waits in `next` comes back."""
        with self._run.changed:
            self._woken = True
            self._run.changed.notify_all()

    def close(self) -> None:
        """The pass is over; all its partitions have been processed or given up."""
        run = self._run
        with run.changed:
            if not self._closed:
                self._closed = True
                run.unclaim(self._needs)
                run.changed.notify_all()

    def report(self, coverage: Mapping[str, int]) -> dict[str, Any]:
        """What goes into the result: the ledger and how the acquisition stands. coverage: counts of this pass so far."""
        run = self._run
        with run.changed:
            c = run.counts
            waiting = run.ready[self._at : run.n_ready]
            pending = int(np.count_nonzero(self._needs[waiting] & self._wanted[waiting])) + sum(len(at) for at, _ in self._out.values())
            gone = self._gone + int(np.count_nonzero(~self._needs[waiting] & self._wanted[waiting]))
            unwanted = int(np.count_nonzero(~self._wanted[waiting]))
            lost = run.lost_code[self._lost_at : run.n_lost]
            spoiled = int(np.isin(lost, (CORRUPT, DROPPED)).sum()) + sum(
                int(np.isin(k, (CORRUPT, DROPPED)).sum()) for _, k in self._out.values()
            )
            ledger = {
                **{k: int(coverage[k]) for k in ("announced", "processed", "corrupt", "dropped", "missing", "unseen")},
                "received": c.received,
                "excluded": c.flyback + self._excluded + unwanted,
                "partial": c.partial,
                "pending": pending + spoiled + run.n_open,
                "gone": gone,
                "duplicate": c.duplicate,
                "late": c.late,
                "surplus": c.surplus,
                "foreign": c.foreign,
            }
            return {
                "ledger": ledger,
                "acquisition": {
                    "run": run.header.run, "state": run.state, "reason": run.reason, "notes": list(run.notes),
                    "messages_not_understood": c.malformed,
                },
            }  # fmt: skip


def _runs(at: _Arr) -> _Arr:
    """Runs [start, stop) of rising positions, int64 (k, 2)."""
    if not len(at):
        return np.zeros((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(at) != 1)
    starts, stops = at[np.concatenate([[0], breaks + 1])], at[np.concatenate([breaks, [len(at) - 1]])] + 1
    return np.stack([starts, stops], axis=1).astype(np.int64)
