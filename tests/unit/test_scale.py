"""The simulation of a cluster agrees with the closed model where that is exact: nothing saturated, and each part saturated alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench.scale_model import GIB, Rates, Site, kept_s, limits, nodes_needed, predicted, routers_needed
from tests.bench.scale_sim import Clock, Servers, Simulation

NOTHING = Rates(**dict.fromkeys(Rates.__dataclass_fields__, 1e-12))
WIDE = Site(
    offered=1e6, frame_bytes=100_000, messages=4, block_bytes=1_000_000, group=1, routers=1, router_nic=1e13, router_memory=2 * GIB,
    nodes=4, cores=2, node_nic=1e13, ring=1e9, result_bytes=1000.0, publish_s=0.01, client_nic=1e13,
)  # fmt: skip
"""So much of everything that one cost decides."""


def test_servers_are_a_queue() -> None:
    clock, seen = Clock(), []
    two = Servers(clock, 2)
    for k in range(4):
        two.do(1.0 + k, lambda k=k: seen.append((k, clock.now)))  # type: ignore[misc]
    clock.run(100.0)
    assert seen == [(0, 1.0), (1, 2.0), (2, 4.0), (3, 6.0)]
    assert two.busy_s == 10.0


def test_servers_that_share_cores_share_their_time() -> None:
    clock, ends = Clock(), []
    core = Servers(clock, 1)
    for server in (Servers(clock, on=core), Servers(clock, on=core)):
        for _ in range(5):
            server.do(1.0, lambda: ends.append(clock.now))
    clock.run(100.0)
    assert len(ends) == 10
    assert ends[-1] == 10.0


@pytest.mark.parametrize("nodes", [1, 4, 128])
def test_nothing_saturated(nodes: int) -> None:
    site = Site(offered=2000.0, nodes=nodes, result_bytes=20e3)
    most, where = predicted(Rates(), site)
    assert (most, where) == (2000.0, "detector")
    found = Simulation(Rates(), site).run(4.0, warm=2.0)
    assert found.frames_per_s == pytest.approx(2000.0, rel=0.02)
    assert max(found.busy.values()) < 0.9
    # Little's law: what is kept at the router is the rate times how long it is kept
    assert found.kept_bytes <= 1.5 * 2000 * site.frame_bytes * kept_s(Rates(), site) + 2 * site.block_bytes


SATURATED = {
    "router: receives": (replace(NOTHING, ingest=50e-6), WIDE, 5000.0),
    "router: deals": (replace(NOTHING, deal=2e-3), WIDE, 5000.0),
    "router: network": (NOTHING, replace(WIDE, router_nic=5e8), 5000.0),
    "nodes: network": (NOTHING, replace(WIDE, node_nic=1.25e8), 5000.0),
    "nodes: receive": (replace(NOTHING, take_byte=8e-9), WIDE, 5000.0),
    "nodes: cores": (replace(NOTHING, frame=1.6e-3), WIDE, 5000.0),
    "client: merges": (replace(NOTHING, snapshot=2e-3), WIDE, 5000.0),
    "client: network": (NOTHING, replace(WIDE, result_bytes=2e6, client_nic=1e9), 5000.0),
}


@pytest.mark.parametrize("part", SATURATED)
def test_each_part_saturated_alone(part: str) -> None:
    rates, site, wanted = SATURATED[part]
    most, where = predicted(rates, site)
    assert where == part
    assert most == pytest.approx(wanted, rel=0.01)
    assert sorted(limits(rates, site).values())[1] > 3 * most, "another part is nearly as slow"
    found = Simulation(rates, site).run(4.0, warm=2.0)
    assert found.frames_per_s == pytest.approx(most, rel=0.02)
    assert max(found.busy, key=lambda k: found.busy[k]) == part
    assert found.busy[part] == pytest.approx(1.0, abs=0.02)


def test_memory_of_the_router() -> None:
    """With room for two blocks, a block can come when one is acknowledged: publishing decides."""
    site = replace(WIDE, router_memory=2e6, nodes=2, publish_s=0.1)
    found = Simulation(NOTHING, site).run(10.0, warm=1.0)
    assert found.kept_bytes == 2e6
    most, where = predicted(NOTHING, site)
    assert where == "router: memory"
    assert most / 3 < found.frames_per_s < 1.5 * most


def test_one_computer() -> None:
    """All parts on two cores: their times add up."""
    rates = Rates(send=5e-6, ingest=10e-6, deal=1e-3, take=1e-3, frame=100e-6, snapshot=1e-12, merge_byte=1e-15)
    site = replace(WIDE, all_cores=2, nodes=2)
    most, where = predicted(rates, site)
    assert where == "one computer: cores"
    found = Simulation(rates, site).run(1.5, warm=0.5)
    assert found.frames_per_s == pytest.approx(most, rel=0.05)
    assert found.busy["one computer: cores"] == pytest.approx(1.0, abs=0.05)


def test_groups_save_merges() -> None:
    """What neighbours come as one need be merged once: four blocks of a group at most, with few nodes and much to do nearly that."""
    rates, site = replace(NOTHING, snapshot=2e-3), replace(WIDE, group=4, nodes=1, publish_s=0.05)
    found = Simulation(rates, site).run(4.0, warm=2.0)
    assert 0.25 <= found.partials < 0.5
    assert 2 * 5000 < found.frames_per_s <= predicted(rates, site)[0] * 1.01


@pytest.mark.parametrize("offered", [5000.0, 87_000.0])
def test_as_many_as_are_needed_are_enough(offered: float) -> None:
    site = Site(offered=offered, result_bytes=20e3)
    site = replace(site, nodes=nodes_needed(Rates(), site))
    site = replace(site, routers=routers_needed(Rates(), site))
    assert predicted(Rates(), site) == (offered, "detector")
    if site.nodes > 1:
        assert predicted(Rates(), replace(site, nodes=site.nodes - 1))[1].startswith("nodes")
    if site.routers > 1:
        assert predicted(Rates(), replace(site, routers=site.routers - 1))[1].startswith("router")
