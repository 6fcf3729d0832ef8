"""Consumers on computers of their own, as far as Linux can make some: network namespaces behind veth pairs, cut off and slowed down."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import libstream as ls
from tests.cluster.test_dask_live import same, udfs
from tests.live.failing import until
from tests.live.sending import Sender, free_ports

LIMIT_S = 60.0
NET = 200 + os.getpid() % 40
HERE = f"10.{NET}.0.1"
"""Address of this side, on no link: it stays when one is cut."""
SCAN, SIDE = (12, 16), 128


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)


def why_not() -> str:
    """Why this machine cannot make such hosts; "" where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if not shutil.which("ip") or not shutil.which("tc"):
        return "network namespaces need the programs ip and tc (Debian: iproute2)"
    made = run("ip", "netns", "add", "libstream-try")
    if made.returncode:
        return f"this system makes no network namespaces: {made.stderr.strip()}"
    try:
        veth = run("ip", "link", "add", "lstry0", "type", "veth", "peer", "name", "lstry1", "netns", "libstream-try")
        return f"this system makes no veth pairs: {veth.stderr.strip()}" if veth.returncode else ""
    finally:
        run("ip", "netns", "del", "libstream-try")
        run("ip", "link", "del", "lstry0")


pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(reason := why_not()), reason=reason or "-"),
    pytest.mark.leaves("files", "connections between the parts of a cluster that lives on"),
    pytest.mark.leaves("children", "scheduler, workers and router live until the module is over"),
    pytest.mark.leaves("threads", "those of Dask's client and of the router's connections live until then, too"),
]


class Host:
    """A namespace with a link to this one. there: its address."""

    def __init__(self, number: int) -> None:
        self.name, self.link = f"libstream-{os.getpid()}-{number}", f"ls{os.getpid() % 100000}{number}"
        here, self.there = f"10.{NET}.{number}.1", f"10.{NET}.{number}.2"
        inner = f"{self.link}i"
        for words in (
            ("ip", "netns", "add", self.name), ("ip", "link", "add", self.link, "type", "veth", "peer", "name", inner, "netns", self.name),
            ("ip", "addr", "add", f"{here}/24", "dev", self.link), ("ip", "link", "set", self.link, "up"),
            (*self.inside, "ip", "addr", "add", f"{self.there}/24", "dev", inner), (*self.inside, "ip", "link", "set", inner, "up"),
            (*self.inside, "ip", "link", "set", "lo", "up"), (*self.inside, "ip", "route", "add", "default", "via", here),
        ):  # fmt: skip
            done = run(*words)
            assert not done.returncode, f"{' '.join(words)}: {done.stderr}"

    @property
    def inside(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def connected(self, yes: bool) -> None:
        run("ip", "link", "set", self.link, "up" if yes else "down")

    def close(self) -> None:
        run("ip", "link", "del", self.link)
        run("ip", "netns", "del", self.name)


@contextlib.contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    made = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(made.pid, signal.SIGKILL)
        made.wait()


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    with contextlib.ExitStack() as stack:
        made: list[Host] = []
        assert not run("ip", "addr", "add", f"{HERE}/32", "dev", "lo").returncode
        stack.callback(run, "ip", "addr", "del", f"{HERE}/32", "dev", "lo")
        for number in (1, 2):
            made.append(Host(number))
            stack.callback(made[-1].close)
        yield made


class Net:
    """Two hosts with a worker each; scheduler, router, client and producers here. url: of the producers' ports."""

    def __init__(self, hosts: list[Host], live: Any, executor: Any, url: str) -> None:
        self.hosts, self.live, self.executor, self.url = hosts, live, executor, url
        frames = np.random.default_rng(1).integers(0, 4096, (*SCAN, SIDE, SIDE), dtype=np.uint16)
        self.source = ls.open(frames)
        self.stored = ls.run(self.source, udfs())
        self.n_runs = 0

    def scan(self, rate: float) -> tuple[Any, ls.api.Job, Sender]:
        self.n_runs += 1
        sender = Sender(self.source, self.url, {"run": self.n_runs, "rate": rate})
        acquisition = self.live.wait(LIMIT_S)
        assert acquisition is not None, self.live.problems
        return acquisition, ls.start(acquisition, udfs(), executor=self.executor), sender


@pytest.fixture(scope="module")
def net(hosts: list[Host]) -> Iterator[Net]:
    p = free_ports(8)
    dask = os.path.join(os.path.dirname(sys.executable), "dask")
    scheduler, router, results = (f"tcp://{HERE}:{port}" for port in (p[5], p[6], p[7]))
    with contextlib.ExitStack() as stack:
        stack.enter_context(process(dask, "scheduler", "--host", "0.0.0.0", "--port", str(p[5]), "--no-dashboard"))
        for host in hosts:
            worker = ("worker", scheduler, "--nthreads", "1", "--no-dashboard", "--memory-limit", "0", "--host", host.there)
            stack.enter_context(process(*host.inside, dask, *worker))
        url = f"sectors://127.0.0.1:{p[0]}-{p[3]}?info={p[4]}"
        executor = stack.enter_context(_executor(scheduler))
        cluster = {"listen": router, "results": results, "consumers": 2, "wait_s": LIMIT_S, "timeout_s": 2.0}
        live = stack.enter_context(ls.connect(url, executor=executor, ring_bytes=256 << 20, cluster=cluster))
        yield Net(hosts, live, executor, url)


@contextlib.contextmanager
def _executor(scheduler: str) -> Iterator[Any]:
    until = time.monotonic() + LIMIT_S
    while True:
        try:
            with ls.executor(f"dask://{scheduler.removeprefix('tcp://')}") as executor:
                _ = executor.traits
                yield executor
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def test_frames_go_to_both_hosts(net: Net) -> None:
    _, job, sender = net.scan(2000.0)
    same(job.wait(LIMIT_S), net.stored)
    sender.join()
    until(lambda: sum(n["frames"] > 0 for n in net.live.cluster()["nodes"]) == 3, "frames at both hosts")


def test_a_host_that_is_cut_off_changes_nothing_and_comes_back(net: Net) -> None:
    _, job, sender = net.scan(150.0)
    until(lambda: job.progress.n_done > 20, "the first results")
    net.hosts[0].connected(False)
    try:
        same(job.wait(LIMIT_S), net.stored)
        until(lambda: net.live.cluster()["consumers_lost"] >= 1, "health that knows of the loss")
    finally:
        net.hosts[0].connected(True)
    sender.join()
    until(lambda: net.live.n_consumers == 2, "the host, back again")
    _, job, sender = net.scan(2000.0)
    same(job.wait(LIMIT_S), net.stored)
    sender.join()


@pytest.mark.parametrize("how", ["delay 20ms 5ms", "loss 2%"])
def test_a_bad_network_is_slower_and_nothing_else(net: Net, how: str) -> None:
    for host in net.hosts:
        done = run("tc", "qdisc", "replace", "dev", host.link, "root", "netem", *how.split())
        if done.returncode:
            pytest.skip(f"this kernel cannot slow a network down (no sch_netem): {done.stderr.strip()}")
    try:
        _, job, sender = net.scan(400.0)
        same(job.wait(LIMIT_S), net.stored)
        sender.join()
    finally:
        for host in net.hosts:
            run("tc", "qdisc", "del", "dev", host.link, "root")
