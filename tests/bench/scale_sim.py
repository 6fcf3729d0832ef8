"""The chain of `tests.bench.scale_model`, event by event: `python -m tests.bench.scale_sim [--rates FILE] [--page]`.

Blocks of frames pass through servers with queues: routers with bounded memory and credits, network cards, nodes with cores, a client that
merges snapshots and thereby frees memory at the routers. Nothing is random; detectors that are faster than the rest are held back, as
with `--policy block`.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests import links
from tests.bench.page import put
from tests.bench.scale_model import HELD, WINDOW, Costs, Rates, Site, limits, nodes_needed, predicted, routers_needed

Then = Callable[[], None]
QUEUED = 4
"""Blocks that may wait in front of a router before the detector has to."""
PAGE = links.ROOT / "docs" / "explanation" / "scaling.md"
BEGIN, END = "<!-- tables: written by `python -m tests.bench.scale_sim --page` -->", "<!-- end of tables -->"
SMALL = 20e3
"""Bytes of a partial result of UDFs that give images of the scan only: numbers for the frames of some blocks."""


class Clock:
    """Events in the order of their time [s]."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Then]] = []
        self._order = itertools.count()

    def at(self, when: float, then: Then) -> None:
        """Call `then` at `when`."""
        heapq.heappush(self._events, (when, next(self._order), then))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._events and self._events[0][0] <= until:
            self.now, _, then = heapq.heappop(self._events)
            then()


class Servers:
    """`n` equal servers with one queue. on: cores that a server needs as well while it works (everything on one computer)."""

    def __init__(self, clock: Clock, n: int = 1, on: Servers | None = None) -> None:
        self.clock, self.n, self.free, self.on = clock, n, n, on
        self.busy_s = 0.0
        self._queue: deque[tuple[float, Then]] = deque()

    def do(self, seconds: float, then: Then) -> None:
        """Work for so long as soon as a server is free, then call `then`."""
        self._queue.append((seconds, then))
        self._next()

    def _next(self) -> None:
        while self.free and self._queue:
            self.free -= 1
            seconds, then = self._queue.popleft()

            def done(seconds: float = seconds, then: Then = then) -> None:
                self.busy_s += seconds
                self.free += 1
                then()
                self._next()

            if self.on is not None:
                self.on.do(seconds, done)
            else:
                self.clock.at(self.clock.now + seconds, done)


@dataclass(frozen=True)
class Block:
    """Its number, and the router that keeps it."""

    number: int
    router: Router


@dataclass
class Node:
    """A consumer. held: blocks given to it; blocks: those that wait for a core; ready: partial results that wait to be sent, by their
    place in the merge tree: the blocks in them and when they were computed."""

    nic: Servers
    take: Servers
    cores: Servers
    held: int = 0
    running: int = 0
    flying: int = 0
    blocks: deque[Block] = field(default_factory=deque)
    ready: dict[tuple[int, int], list[tuple[Block, float]]] = field(default_factory=dict)


@dataclass
class Router:
    """coming: blocks on the way into its memory. kept: blocks in it. waiting: of them, numbers of those not dealt out."""

    nic_in: Servers
    ingest: Servers
    deal: Servers
    nic_out: Servers
    coming: int = 0
    kept: int = 0
    most_kept: int = 0
    waiting: deque[Block] = field(default_factory=deque)
    due: float = 0.0
    asleep: bool = False


@dataclass(frozen=True)
class Found:
    """frames_per_s: merged at the client. busy: part of the time in which each kind of server worked. kept_bytes: most, at one router.
    partials: for each block. age_s: mean time from a block computed to its merge."""

    frames_per_s: float
    busy: dict[str, float]
    kept_bytes: float
    partials: float
    age_s: float


class Simulation:
    """One site at work."""

    def __init__(self, rates: Rates, site: Site) -> None:
        self.site, self.costs, self.clock = site, Costs.of(rates, site), Clock()
        c = self.clock
        shared = Servers(c, round(site.all_cores)) if site.all_cores else None
        self.shared = shared
        self.detector = Servers(c, on=shared)
        self.routers = [Router(Servers(c), Servers(c, on=shared), Servers(c, on=shared), Servers(c)) for _ in range(site.routers)]
        self.nodes = [Node(Servers(c), Servers(c, on=shared), Servers(c, site.cores, on=shared)) for _ in range(site.nodes)]
        self.client_nic, self.client = Servers(c), Servers(c, on=shared)
        self.block_bytes = site.block * site.frame_bytes
        self.room = max(1, int(site.router_memory // self.block_bytes))
        self.credit = max(1, min(int(site.ring // self.block_bytes), 2 * site.cores + 2))
        self.owners: dict[int, Node] = {}
        self.n_blocks = self.n_merged = self.n_partials = 0
        self.age_s = 0.0

    def run(self, seconds: float, warm: float) -> Found:
        """Let it work; figures are of the time from `warm` on."""
        site = self.site
        for i, router in enumerate(self.routers):
            router.due = i * site.block / site.offered
            self.clock.at(router.due, lambda r=router: self._arrives(r))  # type: ignore[misc]
        for i, node in enumerate(self.nodes):
            self.clock.at(site.publish_s * (i + 1) / site.nodes, lambda n=node: self._tick(n))  # type: ignore[misc]
        self.clock.run(warm)
        busy, merged, partials, age = self._busy_s(), self.n_merged, self.n_partials, self.age_s
        for router in self.routers:
            router.most_kept = router.kept
        self.clock.run(warm + seconds)
        n = self.n_merged - merged
        return Found(
            n * site.block / seconds,
            {k: (v - busy[k]) / seconds for k, v in self._busy_s().items()},
            max(r.most_kept for r in self.routers) * self.block_bytes,
            (self.n_partials - partials) / max(1, n),
            (self.age_s - age) / max(1, n),
        )

    def _busy_s(self) -> dict[str, float]:
        def of(*servers: Servers) -> float:
            return sum(s.busy_s for s in servers) / sum(s.n for s in servers)

        routers, nodes = self.routers, self.nodes
        out = {
            "router: receives": of(*(r.ingest for r in routers)),
            "router: deals": of(*(r.deal for r in routers)),
            "router: network": of(*(r.nic_in for r in routers)),
            "nodes: network": of(*(n.nic for n in nodes)),
            "nodes: receive": of(*(n.take for n in nodes)),
            "nodes: cores": of(*(n.cores for n in nodes)),
            "client: network": of(self.client_nic),
            "client: merges": of(self.client),
        }
        if self.shared is not None:
            out["one computer: cores"] = of(self.shared)
        return out

    # -- a block on its way --------------------------------------------------------------------------------------------

    def _arrives(self, router: Router) -> None:
        """The detector has a block for this router, and waits where it takes no more."""
        router.asleep = router.kept >= self.room or router.coming >= QUEUED
        if router.asleep:
            return
        router.coming += 1
        router.kept += 1
        router.most_kept = max(router.most_kept, router.kept)

        def sent() -> None:
            router.nic_in.do(
                self.block_bytes / self.site.router_nic, lambda: router.ingest.do(self.costs.ingest, lambda: self._received(router))
            )
            router.due = max(router.due + self.site.routers * self.site.block / self.site.offered, self.clock.now)
            self.clock.at(router.due, lambda: self._arrives(router))

        if self.shared is not None:
            self.detector.do(self.costs.send, sent)
        else:
            sent()

    def _received(self, router: Router) -> None:
        router.coming -= 1
        router.waiting.append(Block(self.n_blocks, router))
        self.n_blocks += 1
        if router.asleep:
            self._arrives(router)
        self._deal(router)

    def _deal(self, router: Router) -> None:
        """To the node that has the neighbours, else to the one that has the least to do, where there is credit."""
        while router.waiting:
            group = router.waiting[0].number // self.site.group
            node = self.owners.get(group)
            if node is None or node.held >= self.credit:
                node = min(self.nodes, key=lambda n: n.held)
            if node.held >= self.credit:
                return
            self.owners[group] = node
            self.owners.pop(group - 4096, None)
            node.held += 1
            block = router.waiting.popleft()
            router.deal.do(self.costs.deal, lambda b=block, n=node: self._dealt(b, n))  # type: ignore[misc]

    def _dealt(self, block: Block, node: Node) -> None:
        def taken() -> None:
            node.blocks.append(block)
            self._compute(node)

        block.router.nic_out.do(
            self.block_bytes / self.site.router_nic,
            lambda: node.nic.do(self.block_bytes / self.site.node_nic, lambda: node.take.do(self.costs.take, taken)),
        )

    def _compute(self, node: Node) -> None:
        while node.blocks and node.running < self.site.cores and len(node.ready) < HELD:
            node.running += 1
            block = node.blocks.popleft()

            def computed(block: Block = block) -> None:
                node.running -= 1
                node.held -= 1
                level, i, done = 0, block.number, [(block, self.clock.now)]
                while 2 << level <= self.site.group and (level, i ^ 1) in node.ready:
                    done += node.ready.pop((level, i ^ 1))
                    level, i = level + 1, i >> 1
                node.ready[level, i] = done
                self._compute(node)
                for router in self.routers:
                    self._deal(router)

            node.cores.do(self.costs.compute, computed)

    # -- partial results -----------------------------------------------------------------------------------------------

    def _tick(self, node: Node) -> None:
        self.clock.at(self.clock.now + self.site.publish_s, lambda: self._tick(node))
        self._send(node)

    def _send(self, node: Node) -> None:
        for at in sorted(node.ready, key=lambda at: (-at[0], at[1]))[: WINDOW - node.flying]:
            done = node.ready.pop(at)
            node.flying += 1
            self.client_nic.do(
                self.site.result_bytes / self.site.client_nic,
                lambda d=done: self.client.do(self.costs.merge, lambda: self._merged(node, d)),  # type: ignore[misc]
            )
        self._compute(node)

    def _merged(self, node: Node, done: list[tuple[Block, float]]) -> None:
        node.flying -= 1
        self.n_partials += 1
        self.n_merged += len(done)
        for block, computed in done:
            self.age_s += self.clock.now - computed
            block.router.kept -= 1
            if block.router.asleep:
                self._arrives(block.router)
        if len(node.ready) >= HELD:
            self._send(node)


HEADER = """| routers | nodes | model [frames/s] | limit | simulation [frames/s] | Gbit/s | busiest | memory of a router [GB] | age [ms] |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def row(rates: Rates, site: Site, seconds: float) -> str:
    """A line of the table."""
    found = Simulation(rates, site).run(seconds, warm=2 * seconds)
    most, where = predicted(rates, site)
    busiest = max(found.busy, key=lambda k: found.busy[k])
    return (
        f"| {site.routers} | {site.nodes} | {most:,.0f} | {where} | {found.frames_per_s:,.0f} | "
        f"{8e-9 * found.frames_per_s * site.frame_bytes:.0f} | {busiest} {100 * found.busy[busiest]:.0f} % | "
        f"{found.kept_bytes / 1e9:.1f} | {1e3 * found.age_s:.0f} |"
    )


def measured(report: dict[str, Any]) -> str:
    """What the parts cost and what the chain did on one computer, as Markdown."""
    names = {
        "send": "the detector's program sends a message of 166 kB", "ingest": "the router receives it, the slowest thread",
        "deal_byte": "the router sends a block", "take_byte": "a consumer receives it", "frame": "a consumer assembles a frame and sums it",
        "beside": "everything else, for a frame: other threads, the client",
        "fold_byte": "a consumer merges a sum", "snapshot": "a partial result is written and read",
        "merge_byte": "its sums, received, read and merged",
    }  # fmt: skip
    rates = report["rates"]
    cost = {k: f"{1e9 * v:.2f} ns/byte" if k.endswith("_byte") else f"{1e6 * v:.0f} us" for k, v in rates.items()}
    lines = ["| part | one core |", "| --- | --- |", *(f"| {text} (`{k}`) | {cost[k]} |" for k, text in names.items())]
    lines += [
        "",
        "| consumers | cores left by others | measured [frames/s] | model [frames/s] | model / measured |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {c['workers']} | {c['cores']:.2f} | {c['frames_per_s']:,.0f} | {c['model']:,.0f} | {c['model'] / c['frames_per_s']:.2f} |"
        for c in report["chain"]
    ]
    return "\n".join(lines)


def head(report: dict[str, Any]) -> str:
    """When, where."""
    day, busy = f"{datetime.now(UTC):%Y-%m-%d}", 100 * report["others_busy"]
    return f"Measured {day} on {report['cores']} cores, of which other programs kept {busy:.0f} % busy when it began.\n"


def tables(rates: Rates, nodes: Sequence[int], seconds: float) -> Iterator[str]:
    """The tables of docs/explanation/scaling.md, line by line."""
    small = Site(result_bytes=SMALL)
    yield f"Images of the scan only, one router, {small.cores} cores a node:\n\n{HEADER}"
    for n in nodes:
        yield row(rates, replace(small, nodes=n), seconds)
    yield f"\nAs many routers as {small.offered:,.0f} frames/s need:\n\n{HEADER}"
    for n in nodes:
        here = replace(small, nodes=n)
        yield row(rates, replace(here, routers=routers_needed(rates, here)), seconds)
    enough = replace(small, nodes=nodes_needed(rates, small))
    enough = replace(enough, routers=routers_needed(rates, enough))
    yield f"\nThe fewest that take {small.offered:,.0f} frames/s: {enough.nodes} nodes and {enough.routers} routers."
    n = max(nodes)
    yield f"\nSums of frames beside the images, {n} nodes, {enough.routers} routers, {1e3 * enough.publish_s:.0f} ms between snapshots:\n"
    yield "| sums [MB] | blocks of a group | model: client [frames/s] | simulation [frames/s] | partial results / block | age [ms] |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for mb in (0.1, 1.3, 2.7, 10.6):
        for group in (1, 4, 16, 64):
            here = replace(enough, nodes=n, result_bytes=mb * 1e6, group=group)
            most = limits(rates, here)
            found = Simulation(rates, here).run(seconds, warm=2 * seconds)
            yield (
                f"| {mb:g} | {group} | {min(most['client: merges'], most['client: network']):,.0f} | {found.frames_per_s:,.0f} | "
                f"{found.partials:.2f} | {1e3 * found.age_s:.0f} |"
            )


def main(argv: list[str]) -> int:
    """Print the tables, or put them on the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rates", type=Path, help="what `python -m tests.bench.scale_rates --json FILE` has written")
    parser.add_argument("--nodes", default="1,2,4,8,16,32,64,128")
    parser.add_argument("--seconds", type=float, default=2.0, help="simulated time of each row, after twice as long to settle")
    parser.add_argument("--page", action="store_true", help=f"write them to {PAGE.name}")
    args = parser.parse_args(argv)
    report = json.loads(args.rates.read_text()) if args.rates else None
    rates = Rates(**report["rates"]) if report else Rates()
    lines = [] if report is None else [head(report), measured(report), ""]
    for line in tables(rates, [int(n) for n in args.nodes.split(",")], args.seconds):
        print(line, flush=True)
        lines.append(line)
    if args.page:
        put(PAGE, BEGIN, END, "\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
