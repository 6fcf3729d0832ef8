"""What to send next for one subscription: policy only, no sockets. Latest wins, credit 1, dirty rows, fitted to the link."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from libstream.web_gui.topics import Key, View
from libstream.web_gui.wire import EXACT, LEVELS, Level, coarsest_sharp, fitting

BUDGET_S = 0.05
"""Time that one message may take on the link: what is left of a tenth of a second after computing and painting."""
REFINE_S = 0.3
"""So long nothing new has to come before exact values are sent."""
STRIP_S = 0.1
"""Time that one strip of exact values may take: new parameters must not wait longer for the line."""
START_BYTES_PER_S = 100e6
"""Assumed until acks say more; a first message that is too large costs one slow picture."""
LEAST_BYTES_PER_S = 20e3
IN_FLIGHT_LEAST = 2 << 20
IN_FLIGHT_S = 0.25
"""Bytes that may be under way to one page: what its link takes in this time."""
ACTIVE_S = 0.3
"""A topic that was new within this time will be so again: the line is shared with it."""


class Link:
    """Speed of one connection, from the time between a message and its ack.

    The ack comes after painting, so that the estimate covers the network and a browser that is busy. Messages under way at once
    share the line. share: part of it that one topic may use, set by whoever knows how many change at the moment.
    """

    def __init__(self) -> None:
        self.bytes_per_s = START_BYTES_PER_S
        self.rtt_s = 0.0
        self.level = "f4"
        self.share = 1.0

    def measured(self, n_bytes: int, seconds: float, others: int) -> None:
        """A message of `n_bytes` was acknowledged after `seconds`, `others` bytes were under way with it."""
        seconds = max(seconds - self.rtt_s, 1e-4)
        if n_bytes + others < 16_384:  # says something of the round trip only
            return
        rate = (n_bytes + others) / seconds
        # painting takes a frame or two whatever the size: small messages must not pull the estimate down
        if seconds < 0.034 and rate < self.bytes_per_s:
            return
        weight = 0.5 if rate < self.bytes_per_s else 0.3
        self.bytes_per_s = max(LEAST_BYTES_PER_S, (1 - weight) * self.bytes_per_s + weight * rate)


@dataclass(frozen=True)
class Plan:
    """One message: rows of the full resolution (None = all) at a level."""

    level: Level
    rows: tuple[int, int] | None
    whole: bool
    keep: bool = False


@dataclass
class Subscription:
    """One topic of one connection. Times are of a monotonic clock in seconds.

    version, gen, shape: of what the page has. lossy: rows [y0, y1) of it that are not exact. refining: strips are on their way to a
    page that shows a coarser picture.
    """

    key: Key
    px: tuple[int, int] | None = None
    exact: bool = False
    version: int = 0
    gen: int = -1
    shape: tuple[int, ...] | None = None
    bin: int = 1
    lossy: tuple[int, int] | None = None
    refining: bool = False
    sent_key: Key | None = None
    new_at: float = 0.0
    in_flight: tuple[int, float, int] | None = field(default=None)
    """(bytes, time, version) of the message that is not acknowledged yet."""

    def plan(self, view: View, link: Link, now: float) -> Plan | None:
        """What to send of `view` now; None where there is nothing, or not yet."""
        if self.in_flight is not None:
            return None
        if view.version != self.version or self.sent_key != self.key:
            return self._newer(view, link)
        if self.lossy is None or now - self.new_at < REFINE_S:
            return None
        return self._finer(view, link)

    def refine_in(self, now: float) -> float | None:
        """Seconds until exact values are due; None where they are not."""
        return None if self.lossy is None or self.in_flight is not None else max(0.0, self.new_at + REFINE_S - now)

    def sent(self, plan: Plan, view: View, n_bytes: int, now: float) -> None:
        """`plan` was sent."""
        new = view.version != self.version or self.sent_key != self.key
        height = view.shape[0] if view.shape else 1
        rows = plan.rows if plan.rows is not None else (0, height)
        exact = plan.level is EXACT
        if new:
            self.new_at = now
            self.refining = False
            before = None if plan.whole or plan.rows is None else self.lossy
            self.lossy = before if exact else _union(before, rows)
        elif self.lossy is not None:
            rest = (rows[1], self.lossy[1])
            self.lossy = rest if rest[0] < rest[1] else None
            self.refining = self.refining or plan.keep
            if self.lossy is None:
                self.refining = False
        self.bin = plan.level.bin
        self.version, self.gen, self.shape, self.sent_key = view.version, view.gen, view.shape, self.key
        self.in_flight = (n_bytes, now, view.version)

    def _newer(self, view: View, link: Link) -> Plan:
        known = self.shape == view.shape and self.gen == view.gen and self.sent_key == self.key
        rows = view.rows_since(self.version) if known else None
        if rows is not None and rows[0] == rows[1]:
            rows = (0, min(1, view.shape[0])) if view.shape else None  # nothing but `final` has changed
        n = _size(view.shape, rows)
        level = self._level(view, link, n)
        if rows is not None and (level.bin != self.bin or self.refining):
            # rows of another resolution would be mixed: all of them
            rows = None
            level = self._level(view, link, _size(view.shape, None))
        if rows is not None and level.bin > 1:
            rows = (rows[0] // level.bin * level.bin, min(view.shape[0], -(-rows[1] // level.bin) * level.bin))
        return Plan(level, rows, whole=not known)

    def _level(self, view: View, link: Link, n: int) -> Level:
        if self.exact or len(view.shape) < 2 or view.fields or n <= 4096:
            return EXACT
        sharp = coarsest_sharp(view.shape, self.px)
        level = fitting(n, link.bytes_per_s, BUDGET_S * link.share)
        if sharp > level.bin:  # more than the screen shows: at least as coarse, and better values for the same bytes
            level = next(x for x in LEVELS if x.bin == sharp)
        link.level = level.name
        return level

    def _finer(self, view: View, link: Link) -> Plan | None:
        if self.lossy is None or not view.shape:
            return None
        y0, y1 = self.lossy
        per_row = max(1, _size(view.shape, (0, 1))) * 4
        n = max(1, int(link.bytes_per_s * STRIP_S / per_row))
        first = self.bin > 1 and not self.refining
        return Plan(EXACT, (y0, min(y1, y0 + n)), whole=first, keep=first)


def due(
    subs: Mapping[str, Subscription], link: Link, view_of: Callable[[Key], View | None], now: float
) -> tuple[Subscription, View, Plan] | None:
    """What to send next to one page, which is subscribed to `subs`; None where nothing is due, or enough is under way."""
    under_way = sum(s.in_flight[0] for s in subs.values() if s.in_flight is not None)
    if under_way > max(IN_FLIGHT_LEAST, link.bytes_per_s * IN_FLIGHT_S):
        return None
    active = sum(s.in_flight is not None or now - s.new_at < ACTIVE_S for s in subs.values())
    link.share = 1 / max(1, active)
    for sub in sorted(subs.values(), key=_priority):
        view = None if sub.in_flight is not None else view_of(sub.key)
        plan = None if view is None else sub.plan(view, link, now)
        if view is not None and plan is not None:
            return sub, view, plan
    return None


def acknowledged(subs: Mapping[str, Subscription], link: Link, topic: str, version: object, now: float) -> bool:
    """The page has painted `version` of `topic`; False where that is not what it was sent."""
    sub = subs.get(topic)
    if sub is None or sub.in_flight is None or version != sub.in_flight[2]:
        return False
    n_bytes, at, _ = sub.in_flight
    sub.in_flight = None
    link.measured(n_bytes, now - at, sum(s.in_flight[0] for s in subs.values() if s.in_flight is not None))
    return True


def _priority(sub: Subscription) -> tuple[int, float]:
    """Results first, then frames; among these, who waited longest."""
    return (0 if sub.key.topic.startswith(("a/", "r/")) else 1, sub.new_at)


def _size(shape: tuple[int, ...], rows: tuple[int, int] | None) -> int:
    n = 1
    for s in shape[1:]:
        n *= s
    return n * ((rows[1] - rows[0]) if rows is not None else (shape[0] if shape else 1))


def _union(a: tuple[int, int] | None, b: tuple[int, int]) -> tuple[int, int]:
    return b if a is None else (min(a[0], b[0]), max(a[1], b[1]))
