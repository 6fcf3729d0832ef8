"""What each part of a cluster costs on this computer, and how well the model foretells one and two consumers from it.

`python -m tests.bench.scale_rates [--json FILE] [--frames 2048] [--smoke]`. A chain of sender (4D Camera, four messages of 166 kB a
frame), router, one Dask worker (Sum) and client runs on this computer, and the system says what each of its threads has used: the
slowest thread of a part limits it where it has a computer of its own, all of them together where they share one. Partial results are
written, read and merged apart. Then the chain with one and two consumers, beside what `tests.bench.scale_model` says of it. Part of a
result, not a gate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.live import Process
from tests.bench.measure import load, others_busy
from tests.bench.scale_model import Rates, Site, limits, predicted
from tests.live.sending import free_ports

FRAME = (576, 576)
MESSAGES = 4


def threads_of(pid: int) -> dict[int, tuple[str, float]]:
    """Name and seconds of a core of each thread of a process."""
    import psutil

    found = {}
    for t in psutil.Process(pid).threads():
        with contextlib.suppress(OSError):
            found[t.id] = Path(f"/proc/{pid}/task/{t.id}/comm").read_text().strip(), t.user_time + t.system_time
    return found


@dataclass(frozen=True)
class Used:
    """Seconds of a core for a frame: of the Python threads of a program and of libzmq's, each from the largest down."""

    python: list[float]
    zmq: list[float]

    @property
    def total(self) -> float:
        """Of all threads."""
        return sum(self.python) + sum(self.zmq)

    @property
    def slowest(self) -> float:
        """Of the thread that limits."""
        return max([*self.python, *self.zmq])

    @classmethod
    def between(cls, before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]], n: int) -> Used:
        """From two looks at the threads, for n frames."""
        spent = [(name, (t - before.get(i, ("", 0.0))[1]) / n) for i, (name, t) in after.items()]
        return cls(
            sorted((t for name, t in spent if not name.startswith("ZMQ")), reverse=True) or [0.0],
            sorted((t for name, t in spent if name.startswith("ZMQ")), reverse=True) or [0.0],
        )


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


def rates(used: dict[str, Used]) -> Rates:
    """Of the parts, from what a chain with one consumer has used."""
    snapshot, fold_byte, merge_byte = partial_result()
    n_bytes = FRAME[0] * FRAME[1] * 2
    router, worker = used["router"], used["worker"]
    receives = max(router.python[0], router.zmq[0])  # the thread that receives is the busiest one, the one that deals comes next
    deals = max([*router.python[1:2], *router.zmq[1:2]])
    takes = max([*worker.python[1:2], worker.zmq[0]])
    shown = used["sender"].total + receives + deals + takes + worker.python[0]
    return Rates(
        send=used["sender"].total / MESSAGES, send_byte=0.0, ingest=receives / MESSAGES, ingest_byte=0.0, deal=0.0,
        deal_byte=deals / n_bytes,
        take=0.0, take_byte=takes / n_bytes, frame=worker.python[0], fold_byte=fold_byte, snapshot=snapshot,
        merge_byte=merge_byte + takes / n_bytes,
        beside=sum(u.total for u in used.values()) - shown,
    )  # fmt: skip


def cpu_s() -> tuple[float, float]:
    """Seconds of a core that this program and its children, and everybody on this computer, have used."""
    import psutil

    mine = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            mine += sum(process.cpu_times()[:2])
    times = psutil.cpu_times()
    return mine, sum(times) - times.idle - getattr(times, "iowait", 0.0)


@dataclass(frozen=True)
class Chain:
    """frames_per_s of the whole chain; cores: left to it by other programs; core_s: seconds of a core that it took for a frame."""

    frames_per_s: float
    cores: float
    core_s: float
    used: dict[str, Used]


def programs() -> dict[str, int]:
    """The programs of the chain and their process numbers."""
    import psutil

    words = {"tests.bench.live_sender": "sender", "route": "router", "spawn_main": "worker"}
    found = {"client": os.getpid()}
    for process in psutil.Process().children(recursive=True):
        line = " ".join(process.cmdline())
        name = next((name for word, name in words.items() if word in line), "")
        if name:
            found[name if name not in found else f"{name} {process.pid}"] = process.pid
    return found


def routed(workers: int, n: int, rounds: int) -> Chain:
    """The whole chain on this computer: sectors, router, so many Dask workers, client."""
    import libstream as ls

    ports = free_ports(5)
    url = f"sectors://127.0.0.1:{ports[0]}-{ports[3]}?info={ports[4]}"
    found = []
    with ls.executor("dask", workers=workers) as ex, ls.connect(url, scan=(n // 64, 64), executor=ex, ring_bytes=2 << 30) as live:
        sender = Process(sys.executable, "tests.bench.live_sender", "sectors", n, env={"LIBSTREAM_BENCH_PORTS": ",".join(map(str, ports))})
        with sender:
            for _ in range(rounds + 1):
                sender.order("0")
                acquisition = live.wait(60)
                assert acquisition is not None, live.problems
                before = {name: threads_of(pid) for name, pid in programs().items()}
                begun, (mine, all_) = time.perf_counter(), cpu_s()
                result = ls.run(acquisition, ls.udfs.Sum(), executor=ex)
                took = time.perf_counter() - begun
                mine, all_ = (b - a for a, b in zip((mine, all_), cpu_s(), strict=True))
                used = {name: Used.between(before[name], threads_of(pid), n) for name, pid in programs().items()}
                found.append(Chain(n / took, (os.cpu_count() or 1) - max(0.0, all_ - mine) / took, mine / n, used))
                assert result.complete, str(result.coverage)
                os.unlink(sender.read()["sent"])
    return sorted(found[1:], key=lambda c: c.frames_per_s)[rounds // 2]


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="small and once: that it runs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    n, rounds = (128, 1) if args.smoke else (args.frames, args.rounds)
    others = others_busy()
    print(f"load {load()}, others keep {100 * others:.0f} % of the processors busy", flush=True)
    r = rates(routed(1, n, rounds).used)
    for name, value in asdict(r).items():
        print(f"{name:12} {1e12 * value:10.2f} ps" if name.endswith("_byte") else f"{name:12} {1e6 * value:10.2f} us", flush=True)
    report: dict[str, Any] = {"rates": asdict(r), "cores": os.cpu_count(), "others_busy": others, "chain": []}
    for workers in (1, 2):
        got = routed(workers, n, rounds)
        site = Site(offered=1e9, nodes=workers, cores=1, all_cores=got.cores, result_bytes=8 * FRAME[0] * FRAME[1],
                    router_memory=2 << 30, ring=256 << 20, router_nic=1e12, node_nic=1e12, client_nic=1e12)  # fmt: skip
        most, where = predicted(r, site)
        print(
            f"{workers} consumer(s): {got.frames_per_s:,.0f} frames/s on {got.cores:.2f} cores, {1e3 * got.core_s:.2f} ms of a core each; "
            f"model {most:,.0f} ({where}), model / measured = {most / got.frames_per_s:.2f}",
            flush=True,
        )
        report["chain"].append(
            {
                "workers": workers,
                **{k: v for k, v in asdict(got).items() if k != "used"},
                "model": most,
                "limit": where,
                "limits": limits(r, site),
            }
        )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
