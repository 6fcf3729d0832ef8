"""The router beside a bare relay of pyzmq, and how old the newest frame in a snapshot is.

`python -m tests.bench.route [--frames 4096] [--rounds 3] [--smoke] [--json FILE]`. One sender makes the messages of a 4D Camera (166 kB,
four a frame) for both sides, in turn: A B A B. The relay is PULL-PUSH in a process of its own, and its receiver counts the messages
(PUSH-PULL-PUSH-PULL); the router is `libstream route` in a process of its own, and its receiver is a consumer that takes the blocks,
looks at nothing, and acknowledges them by way of a client: what a router costs and nothing of what consumers compute. Then two Dask
workers sum frames and find their centres at a fixed rate: the time from the hand-over of a frame to the first snapshot that has it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import libstream as ls
from libstream.contracts.executor import CancelFlag
from libstream.contracts.source import Partition
from libstream.model.partial import PROCESSED, Partial
from libstream.route.source import RoutedSource
from libstream.route.spawn import SpawnedRouter
from tests.bench.live import Process
from tests.bench.measure import load, others_busy
from tests.cluster.routing import ANYWHERE, ThreadConsumers
from tests.live.sending import free_ports

PARTS, PART_BYTES = 4, 144 * 576 * 2
LIMIT_S = 120.0
RELAY = """
import sys, zmq
context = zmq.Context()
poller, out = zmq.Poller(), context.socket(zmq.PUSH)
for port in map(int, sys.argv[1].split(",")):
    socket = context.socket(zmq.PULL)
    socket.bind(f"tcp://127.0.0.1:{port}")
    poller.register(socket, zmq.POLLIN)
print(out.bind_to_random_port("tcp://127.0.0.1"), flush=True)
while True:
    for socket, _ in poller.poll():
        for _ in range(64):
            try:
                out.send_multipart(socket.recv_multipart(zmq.DONTWAIT, copy=False), copy=False)
            except zmq.Again:
                break
"""


class Looks(ThreadConsumers):
    """A consumer that takes blocks and looks at nothing."""

    def _work_of(self, index: int) -> Any:
        def process(partition: Any, cancel: Any) -> Partial:
            at = partition.positions()
            return Partial(partition.number, 1, at, np.full(len(at), PROCESSED, np.uint8), {}, {})

        def combine(left: Partial, right: Partial) -> Partial:
            at = np.concatenate([left.positions, right.positions])
            return Partial(left.number, left.span + right.span, at, np.full(len(at), PROCESSED, np.uint8), {}, {})

        work, flag = SimpleNamespace(process=process, combine=combine), CancelFlag()
        return lambda token: (work, flag)


def _env(ports: list[int]) -> dict[str, str]:
    return {"LIBSTREAM_BENCH_PORTS": ",".join(map(str, ports))}


def relay_s(sender: Process, port: int, n: int) -> float:
    """Seconds from the first to the last message through the relay."""
    import zmq

    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.connect(f"tcp://127.0.0.1:{port}")
        sender.order("0")
        seen, began = 0, 0.0
        while seen < n * PARTS:
            if not socket.poll(int(1000 * LIMIT_S)):
                raise TimeoutError(f"the relay passed {seen} of {n * PARTS} messages")
            parts = socket.recv_multipart(copy=False)
            if len(parts[-1]) == PART_BYTES:
                began = began or time.monotonic()
                seen += 1
        took = time.monotonic() - began
    Path(sender.read()["sent"]).unlink()
    return took


def router_s(sender: Process, live: RoutedSource, n: int) -> float:
    """Seconds from the first frame at the router to the acknowledgement of the last block."""
    sender.order("0")
    acquisition = live.wait(LIMIT_S)
    assert acquisition is not None
    began = time.monotonic()
    dealt: Any = acquisition.partitions(iter([Partition(0, np.array([[0, n]]))]))
    dealt.begin()
    seen = 0
    while (found := dealt.results(LIMIT_S)) is not None:
        for partial in found:
            dealt.merged(partial)
            seen += len(partial.positions)
    took = time.monotonic() - began
    dealt.close()
    assert seen == n, f"{seen} of {n} frames came"
    Path(sender.read()["sent"]).unlink()
    return took


def rates(n: int, rounds: int) -> dict[str, Any]:
    """GB/s of both sides, round by round."""
    found = free_ports(10)
    ports = [found[:5], found[5:]]
    n_bytes = n * PARTS * PART_BYTES
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", RELAY, ",".join(map(str, ports[0]))], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(relay.kill)
        assert relay.stdout is not None
        out = int(relay.stdout.readline())
        p = ports[1]
        router = SpawnedRouter([f"sectors://127.0.0.1:{p[0]}-{p[3]}?info={p[4]}", "--listen", ANYWHERE, "--memory", "1GiB"])
        stack.callback(router.close)
        executor = Looks(1)
        stack.callback(executor.close)
        live = stack.enter_context(RoutedSource("bench", router.address, executor, results=ANYWHERE))
        senders = [
            stack.enter_context(Process(sys.executable, "tests.bench.live_sender", "sectors", n, env=_env(p)))
            for p in ports
        ]  # fmt: skip
        bare, routed = [], []
        for k in range(rounds + 1):
            a, b = relay_s(senders[0], out, n), router_s(senders[1], live, n)
            if k:  # the first round touches all memory for the first time
                bare.append(n_bytes / a / 1e9)
                routed.append(n_bytes / b / 1e9)
    return {"relay_gb_s": bare, "router_gb_s": routed, "ratio": float(np.median(np.array(routed) / np.array(bare)))}


def ages(n: int, rate: float) -> dict[str, float]:
    """Age of frames when a snapshot first has them [s]: median, 95 %, largest."""
    p = free_ports(5)
    env = _env(p)
    udfs = {"sum": ls.udfs.Sum(), "com": ls.udfs.CenterOfMass()}
    url = f"sectors://127.0.0.1:{p[0]}-{p[3]}?info={p[4]}"
    with ls.executor("dask", workers=2) as executor, ls.connect(url, executor=executor, ring_bytes=1 << 30) as live, Process(
        sys.executable, "tests.bench.live_sender", "sectors", n, env=env
    ) as sender:  # fmt: skip
        for warm in (True, False):  # the first run loads what was compiled
            sender.order("0" if warm else str(rate))
            acquisition = live.wait(LIMIT_S)
            shown = np.zeros(n, np.int64)
            job = ls.start(acquisition, udfs, executor=executor)
            for result in job.results():
                now = time.monotonic_ns()
                shown[result.valid.reshape(-1) & (shown == 0)] = now
            file = Path(sender.read()["sent"])
            sent = np.load(file)
            file.unlink()
    age = (shown - sent) / 1e9
    return {"median_s": float(np.median(age)), "p95_s": float(np.percentile(age, 95)), "max_s": float(age.max()), "rate": rate}


def main() -> int:
    """Measure, print, and write where asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.route", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="few frames, one round: only that it runs")
    parser.add_argument("--frames", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=400.0, help="frames/s of the run with snapshots")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    n, rounds = (128, 1) if args.smoke else (args.frames, args.rounds)
    found: dict[str, Any] = {"frames": n, "load": load(), "others_busy": others_busy()}
    found["rates"] = rates(n, rounds)
    found["ages"] = ages(64 if args.smoke else min(n, 2048), args.rate)
    r, a = found["rates"], found["ages"]
    print(f"bare relay {np.median(r['relay_gb_s']):.2f} GB/s, router {np.median(r['router_gb_s']):.2f} GB/s, ratio {r['ratio']:.2f}")
    print(f"age of frames in the first snapshot that has them, {a['rate']:g} frames/s: median {a['median_s']:.3f} s, "
          f"95 % {a['p95_s']:.3f} s, largest {a['max_s']:.3f} s")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
