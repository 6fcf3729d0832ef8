"""The receiving side of the live benchmark: `python -m tests.bench.live_receiver SIDE ...`; each line on stdin receives one run.

SIDE: libstream URL SCAN (Sum, frames/s), latency URL SCAN (snapshots), libertem PORT API SCAN (LiberTEM-live, in its own environment),
bare PORTS N (pyzmq's recv_multipart, nothing else). Answers are JSON lines.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np


def say(**values: Any) -> None:
    """One answer."""
    print(json.dumps(values), file=_ANSWERS, flush=True)


def libstream(url: str, scan: tuple[int, int]) -> None:
    """Sum over each run."""
    import libstream as ls

    with ls.connect(url, scan=scan, ring_bytes=2 << 30) as live:
        say(ready=True, version=ls.__version__)
        for _ in sys.stdin:
            acquisition = live.wait(60)
            began = time.monotonic()
            result = ls.run(acquisition, ls.udfs.Sum())
            seconds = time.monotonic() - began
            total = int(result["sum"]["sum"].sum())
            say(seconds=seconds, sum=total, complete=result.complete, ledger=result.ledger, problems=live.problems)


def latency(url: str, scan: tuple[int, int]) -> None:
    """When each position was first in a snapshot, monotonic clock, ns."""
    import libstream as ls

    with ls.connect(url, scan=scan, ring_bytes=2 << 30) as live:
        say(ready=True, version=ls.__version__)
        for _ in sys.stdin:
            acquisition = live.wait(60)
            seen = np.zeros(scan[0] * scan[1], np.int64)
            n = 0
            for snapshot in ls.run_iter(acquisition, ls.udfs.Sum()):
                now = time.monotonic_ns()
                seen[snapshot.valid.reshape(-1) & (seen == 0)] = now
                n += 1
            np.save(_seen(), seen)
            say(seen=_seen(), snapshots=n, seconds=0.0, sum=int(snapshot["sum"]["sum"].sum()), complete=snapshot.complete)


def _seen() -> str:
    import tempfile

    return f"{tempfile.gettempdir()}/libstream-bench-seen-{os.getpid()}.npy"


def libertem(port: int, api: int, scan: tuple[int, int]) -> None:
    """LiberTEM-live, passive mode, SumUDF."""
    import libertem_live
    from libertem.udf.sum import SumUDF
    from libertem_live.api import LiveContext

    with LiveContext() as ctx:
        builder = ctx.make_connection("dectris")
        with builder.open(api_host="127.0.0.1", api_port=api, data_host="127.0.0.1", data_port=port, buffer_size=2048) as conn:
            conn.wait_for_acquisition(timeout=0.5)  # begins to listen
            say(ready=True, version=libertem_live.__version__)
            for _ in sys.stdin:
                pending = conn.wait_for_acquisition(timeout=60)
                began = time.monotonic()
                acquisition = ctx.make_acquisition(conn=conn, nav_shape=scan, pending_aq=pending, frames_per_partition=128)
                result = ctx.run_udf(dataset=acquisition, udf=SumUDF())
                seconds = time.monotonic() - began
                say(seconds=seconds, sum=int(np.asarray(result["intensity"].data).sum()), complete=True)


def bare(ports: list[int], n: int) -> None:
    """Receive n messages and throw them away: what pyzmq can do."""
    import zmq

    context = zmq.Context()
    poller = zmq.Poller()
    for port in ports:
        socket = context.socket(zmq.PULL)
        socket.bind(f"tcp://127.0.0.1:{port}")
        poller.register(socket, zmq.POLLIN)
    say(ready=True, version=zmq.__version__)
    for _ in sys.stdin:
        count, size, began = 0, 0, 0.0
        while count < n:
            for socket, _event in poller.poll():
                for _i in range(16):
                    try:
                        parts = socket.recv_multipart(zmq.NOBLOCK, copy=False)
                    except zmq.Again:
                        break
                    if len(parts) > 1:
                        began = began or time.monotonic()
                        count += 1
                        size += len(parts[1])
        say(seconds=time.monotonic() - began, sum=size, complete=True)


def main() -> None:
    """Run one side."""
    side, *args = sys.argv[1:]
    scan = tuple(int(v) for v in args[-1].split(","))
    if side == "libstream":
        libstream(args[0], scan)  # type: ignore[arg-type]
    elif side == "latency":
        latency(args[0], scan)  # type: ignore[arg-type]
    elif side == "libertem":
        libertem(int(args[0]), int(args[1]), scan)  # type: ignore[arg-type]
    elif side == "bare":
        bare([int(p) for p in args[0].split(",")], int(args[1]))


if __name__ == "__main__":
    _ANSWERS = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not get between the answers
    main()
