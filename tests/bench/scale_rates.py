"""What each part of a cluster costs on this computer, and how well the model foretells one and two consumers from it.

`python -m tests.bench.scale_rates [--json FILE] [--frames 4096] [--smoke]`: seconds of a core for messages of the 4D Camera (166 kB, four
a frame) sent by pyzmq and received into libstream's ring, blocks of 16 MiB sent and received, frames assembled and summed, partial
results written, read and merged. Then the whole chain, sender, router, one and two Dask workers and client on this computer, beside
what `tests.bench.scale_model` says of it. Part of a result, not a gate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.live import Process
from tests.bench.measure import load, others_busy
from tests.bench.scale_model import Rates, Site, limits, predicted
from tests.live.sending import free_ports

SECTOR, BLOCK = 144 * 576 * 2, 16 << 20
FRAME = (576, 576)
SENDER = """
import sys, time, zmq
size, n = int(sys.argv[1]), int(sys.argv[2])
socket = zmq.Context().socket(zmq.PUSH)
print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
data = b"x" * size
socket.send(b"")
begun = time.process_time()
for _ in range(n):
    socket.send(data, copy=False)
socket.send(b"")
sys.stdin.read()  # the other side has it all
print(time.process_time() - begun, flush=True)
"""


def message(size: int, n: int) -> tuple[float, float]:
    """Seconds of a core for sending and for receiving a message by pyzmq, the threads of libzmq included."""
    import zmq

    with subprocess.Popen(
        [sys.executable, "-c", SENDER, str(size), str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sender, zmq.Context() as context, context.socket(zmq.PULL) as socket:  # fmt: skip
        assert sender.stdout is not None
        assert sender.stdin is not None
        socket.connect(f"tcp://127.0.0.1:{sender.stdout.readline().strip()}")
        socket.recv()
        begun = time.process_time()
        while len(socket.recv(copy=False)):
            pass
        took = time.process_time() - begun
        sender.stdin.close()
        return float(sender.stdout.readline()) / n, took / n


def sectors(n: int) -> tuple[float, float]:
    """Seconds of a core for receiving a message of a sector into the ring, and for assembling and summing a frame from there."""
    import libstream as ls

    ports = free_ports(5)
    ingest, frame = [], []
    with ls.connect(f"sectors://127.0.0.1:{ports[0]}-{ports[3]}?info={ports[4]}", scan=(n // 64, 64), ring_bytes=2 << 30) as live:
        sender = Process(sys.executable, "tests.bench.live_sender", "sectors", n, env={"LIBSTREAM_BENCH_PORTS": ",".join(map(str, ports))})
        with sender:
            for _ in range(4):
                begun = time.process_time()
                sender.order("0")
                acquisition = live.wait(60)
                assert acquisition is not None
                while acquisition.n_arrived < n:
                    time.sleep(0.01)
                here = time.process_time()
                assert ls.run(acquisition, ls.udfs.Sum()).complete
                ingest.append((here - begun) / n / 4)
                frame.append((time.process_time() - here) / n)
                os.unlink(sender.read()["sent"])
    return min(ingest), min(frame)


def partial_result() -> tuple[float, float, float]:
    """Seconds of a core: for an empty partial result written and read, for a byte of a sum merged, for a byte written, read and merged."""
    from libstream.model.partial import Partial
    from libstream.route import wire

    def best(call: Any, n: int) -> float:
        times = []
        for _ in range(5):
            begun = time.process_time()
            for _ in range(n):
                call()
            times.append((time.process_time() - begun) / n)
        return min(times)

    def of(array: np.ndarray[Any, Any]) -> Partial:
        n = 26
        return Partial(3, 4, np.arange(n), np.ones(n, np.uint8), {("v", "intensity"): np.zeros((n, 1))}, {("s", "sum"): array})

    small, large = of(np.zeros(1, np.uint64)), of(np.zeros(FRAME, np.uint64))
    total = np.zeros(FRAME, np.uint64)

    def passed(partial: Partial) -> None:
        parts = [bytes(p) for p in wire.write_partial("t", partial)]
        found = wire.read_partial(wire.read(parts))
        if partial is large:
            np.add(total, found.reduced["s", "sum"], out=total)

    fixed = best(lambda: passed(small), 50)
    return (
        fixed,
        best(lambda: np.add(total, large.reduced["s", "sum"], out=total), 20) / total.nbytes,
        (best(lambda: passed(large), 20) - fixed) / total.nbytes,
    )


def rates(n: int) -> Rates:
    """All of them."""
    send, _ = message(SECTOR, 8 * n)
    ingest, frame = sectors(min(n, 2048))
    deal, take = message(BLOCK, max(20, n // 20))
    snapshot, fold_byte, merge_byte = partial_result()
    return Rates(
        send=send, send_byte=0.0, ingest=ingest, ingest_byte=0.0, deal=0.0, deal_byte=deal / BLOCK, take=0.0, take_byte=take / BLOCK,
        frame=frame, fold_byte=fold_byte, snapshot=snapshot, merge_byte=merge_byte + take / BLOCK,
    )  # fmt: skip


def routed(workers: int, n: int, rounds: int) -> float:
    """Frames/s of the whole chain on this computer: sectors, router, so many Dask workers, client."""
    import libstream as ls

    ports = free_ports(5)
    url = f"sectors://127.0.0.1:{ports[0]}-{ports[3]}?info={ports[4]}"
    with ls.executor("dask", workers=workers) as ex, ls.connect(url, scan=(n // 64, 64), executor=ex, ring_bytes=2 << 30) as live:
        sender = Process(sys.executable, "tests.bench.live_sender", "sectors", n, env={"LIBSTREAM_BENCH_PORTS": ",".join(map(str, ports))})
        with sender:
            found = []
            for _ in range(rounds + 1):
                sender.order("0")
                acquisition = live.wait(60)
                assert acquisition is not None, live.problems
                begun = time.perf_counter()
                result = ls.run(acquisition, ls.udfs.Sum(), executor=ex)
                found.append(n / (time.perf_counter() - begun))
                assert result.complete, str(result.coverage)
                os.unlink(sender.read()["sent"])
    return statistics.median(found[1:])


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="small and once: that it runs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    n, rounds = (128, 1) if args.smoke else (args.frames, args.rounds)
    print(f"load {load()}, others keep {100 * others_busy():.0f} % of the processors busy", flush=True)
    r = rates(n)
    for name, value in asdict(r).items():
        print(f"{name:12} {1e12 * value:10.2f} ps" if name.endswith("_byte") else f"{name:12} {1e6 * value:10.2f} us", flush=True)
    report: dict[str, Any] = {"rates": asdict(r), "cores": os.cpu_count(), "chain": []}
    for workers in (1, 2):
        site = Site(offered=1e9, nodes=workers, cores=1, all_cores=os.cpu_count() or 1, result_bytes=8 * FRAME[0] * FRAME[1],
                    router_memory=2 << 30, ring=256 << 20, router_nic=1e12, node_nic=1e12, client_nic=1e12)  # fmt: skip
        most, where = predicted(r, site)
        got = routed(workers, n, rounds)
        print(f"{workers} consumer(s): {got:,.0f} frames/s, model {most:,.0f} ({where}), model / measured = {most / got:.2f}", flush=True)
        report["chain"].append({"workers": workers, "measured": got, "model": most, "limit": where, "limits": limits(r, site)})
    if args.json:
        args.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
