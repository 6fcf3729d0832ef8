"""A router and consumers as a closed model: which part of the chain gives out first, and at how many frames/s.

detector -> router (receives, deals) -> network -> consumers (receive, compute) -> client (merges snapshots). docs/explanation/scaling.md
says it in words; `tests.bench.scale_sim` plays the same chain event by event.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

GIB = 1 << 30
WINDOW, HELD = 4, 16
"""Partial results of a consumer that may be on their way to the client, and that may wait there before it computes no more
(`libstream.route.consumer`)."""


@dataclass(frozen=True)
class Rates:
    """What one core spends on each part [s]: measured (`tests.bench.scale_rates`).

    send, ingest: a message of the detector; *_byte: a byte of frames. deal, take: a block, sent and received. frame: decoding and the
    UDF over one frame. fold_byte: a byte of sums merged at a consumer, for each block. snapshot, merge_byte: a partial result merged at
    the client, and each byte of it. beside: a frame, of all other threads of these programs; they have cores of their own where there are
    enough.
    """

    send: float = 20e-6
    send_byte: float = 0.15e-9
    ingest: float = 15e-6
    ingest_byte: float = 0.3e-9
    deal: float = 0.3e-3
    deal_byte: float = 0.2e-9
    take: float = 0.3e-3
    take_byte: float = 0.3e-9
    frame: float = 60e-6
    fold_byte: float = 0.2e-9
    snapshot: float = 0.3e-3
    merge_byte: float = 0.5e-9
    beside: float = 0.0


@dataclass(frozen=True)
class Site:
    """Computers and what they have to do.

    frame_bytes: of a frame on the wire; messages: parts in which the detector sends one; block_bytes: that go to a consumer together.
    group: neighbouring blocks that a consumer merges before it sends them. offered: frames/s of the detector.
    result_bytes: of the sums of a partial result; publish_s: how often a consumer sends what it has.
    *_nic: bytes/s in each direction. router_memory, ring: bytes. cores: of a node. all_cores: of the one computer on which everything
    runs, as far as other programs leave them; 0 where each part has its own.
    """

    offered: float = 87_000.0
    frame_bytes: int = 576 * 576 * 2
    messages: int = 4
    block_bytes: int = 16 << 20
    group: int = 4
    routers: int = 1
    router_nic: float = 12.5e9
    router_memory: float = 64 * GIB
    nodes: int = 4
    cores: int = 32
    node_nic: float = 12.5e9
    ring: float = 4 * GIB
    result_bytes: float = 4 * 576 * 576 * 8
    publish_s: float = 0.05
    client_nic: float = 12.5e9
    all_cores: float = 0

    @property
    def block(self) -> int:
        """Frames of a block."""
        return max(1, math.ceil(self.block_bytes / self.frame_bytes))


@dataclass(frozen=True)
class Costs:
    """Seconds of a core for one block, by role; `merge` for one partial result at the client."""

    send: float
    ingest: float
    deal: float
    take: float
    compute: float
    merge: float

    @classmethod
    def of(cls, r: Rates, s: Site) -> Costs:
        """With these rates at this site."""
        n, b = s.block, s.block * s.frame_bytes
        return cls(
            send=n * s.messages * r.send + b * r.send_byte,
            ingest=n * s.messages * r.ingest + b * r.ingest_byte,
            deal=r.deal + b * r.deal_byte,
            take=r.take + b * r.take_byte,
            compute=n * r.frame + s.result_bytes * r.fold_byte * (1 - 1 / s.group),
            merge=r.snapshot + s.result_bytes * r.merge_byte,
        )


def kept_s(r: Rates, s: Site) -> float:
    """How long the router keeps a block where nothing queues: from its first frame to the acknowledgement of its partial result."""
    c, b = Costs.of(r, s), s.block * s.frame_bytes
    way = b / s.router_nic * 2 + c.ingest + c.deal + b / s.node_nic + c.take + c.compute
    return way + s.publish_s / 2 + c.merge + s.result_bytes / s.client_nic


def limits(r: Rates, s: Site) -> dict[str, float]:
    """Frames/s that each part of the chain could do if the others were free."""
    c, n, b = Costs.of(r, s), s.block, s.block * s.frame_bytes
    out = {
        "router: receives": s.routers * n / c.ingest,
        "router: deals": s.routers * n / c.deal,
        "router: network": s.routers * n * s.router_nic / b,
        "router: memory": s.routers * s.router_memory / s.frame_bytes / kept_s(r, s),
        "nodes: network": s.nodes * n * s.node_nic / b,
        "nodes: receive": s.nodes * n / c.take,
        "nodes: cores": s.nodes * s.cores * n / c.compute,
        "client: merges": n * s.group / c.merge,
        "client: network": n * s.group * s.client_nic / max(1.0, s.result_bytes),
    }
    if s.all_cores:
        out["one computer: cores"] = s.all_cores * n / (c.send + c.ingest + c.deal + c.take + c.compute + n * r.beside)
    return out


def predicted(r: Rates, s: Site) -> tuple[float, str]:
    """(frames/s, the part that allows no more; "detector" where all keep up with it)."""
    where, most = min(limits(r, s).items(), key=lambda item: item[1])
    return (s.offered, "detector") if s.offered <= most else (most, where)


def routers_needed(r: Rates, s: Site) -> int:
    """Routers for what the detector offers."""
    one = {k: v / s.routers for k, v in limits(r, s).items() if k.startswith("router")}
    return max(1, math.ceil(s.offered / min(one.values()) - 1e-9))


def nodes_needed(r: Rates, s: Site) -> int:
    """Nodes for what the detector offers."""
    one = {k: v / s.nodes for k, v in limits(r, s).items() if k.startswith("nodes")}
    return max(1, math.ceil(s.offered / min(one.values()) - 1e-9))
