"""`python -m tests.bench.receive`: how fast messages come in, through our loops and through bare pyzmq.

A sender process (compiled, so that it is not what limits) on one core, the receiver on the other. Messages of four parts as those of
DECTRIS detectors: three short ones and the pixels. Every side copies, or keeps, each message; rounds alternate between the sides.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.ext import Kernel
from tests import links

PARTS = (100, 120, 0, 90)
"""Bytes of the parts; the third one is the pixels."""
BLOCK = 64 * 1024 * 1024
"""Bytes of a ring, written once before it is timed: the system gives memory at the first touch."""
BOUND_S = 60.0
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else [0]


@dataclass(frozen=True)
class Took:
    """seconds: of the clock, after the first batch. cpu: of the receiving process. messages: in that time."""

    seconds: float
    cpu: float
    messages: int


# -- the sender -------------------------------------------------------------------------------------------------------


def _send_all(send: int, push: int, parts: Any, sizes: Any, n: int) -> None:
    for _ in range(n):
        for p in range(sizes.size):
            call_send(send, (push, parts, sizes[p], 2 if p + 1 < sizes.size else 0))  # 2 = ZMQ_SNDMORE


call_send: Any = None


def sender(address: str, size: int, n: int) -> None:
    """Send n messages with pixels of `size` bytes."""
    global call_send
    import ctypes

    import zmq
    import zmq.backend.cython._zmq as extension

    from libstream.io_backends.streams._zmq_native import _caller

    call_send = _caller(32, 64, 64, 64, 32)
    run = Kernel(_send_all).cached
    sizes = np.array([p or size for p in PARTS], np.int64)
    data = np.zeros(max(sizes), np.uint8)
    function = ctypes.cast(ctypes.CDLL(extension.__file__).zmq_send, ctypes.c_void_p).value
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.sndhwm = 128
        args = (function, push.underlying, data.ctypes.data, sizes)
        run(*args, 0)  # compiled before it connects
        push.connect(address)
        run(*args, n)


def tcp_sender(address: str, size: int, n: int) -> None:
    """The same over TCP: Merlin's prefix and a frame of `size` bytes."""
    message = b"MPX,%010d," % (size + 1) + bytes(size)
    several = message * max(1, 1_000_000 // len(message))
    host, port = address.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port))) as link:
        for _ in range(n // (len(several) // len(message))):
            link.sendall(several)
        link.sendall(message * (n % (len(several) // len(message))))


# -- receivers --------------------------------------------------------------------------------------------------------


def ours(loop: str) -> Callable[[int, int], Took]:
    """libstream's transport with one of its loops, into blocks of a ring."""

    def run(size: int, n: int) -> Took:
        from libstream.io_backends.streams._zmq import ZmqTransport

        return _through(ZmqTransport("tcp://127.0.0.1:0", bind=True, loop=loop), "send", size, n)  # type: ignore[arg-type]

    return run


def _through(transport: Any, how: str, size: int, n: int) -> Took:
    into, table = np.ones(BLOCK, np.uint8), np.zeros((4096, 3), np.int64)
    transport.open()
    at = got = first = 0
    begin = cpu = 0.0
    with _Sender(how, transport.address, size, n):
        while got < n:
            r = transport.receive(into[at:], table, BOUND_S, BLOCK)
            if not begin and r.messages:
                begin, cpu, first = time.perf_counter(), time.process_time(), r.messages
            got, at = got + r.messages, 0 if r.full or at + r.used > BLOCK // 2 else at + r.used
        took = Took(time.perf_counter() - begin, time.process_time() - cpu, max(1, n - first))
    transport.close()
    return took


def bare(copy_to_ring: bool) -> Callable[[int, int], Took]:
    """recv_multipart(copy=False), and nothing else; or the pixels copied into a ring."""

    def run(size: int, n: int) -> Took:
        import zmq

        ring = memoryview(np.ones(BLOCK, np.uint8))
        with zmq.Context() as context, context.socket(zmq.PULL) as pull:
            pull.rcvhwm = 128
            port = pull.bind_to_random_port("tcp://127.0.0.1")
            with _Sender("send", f"tcp://127.0.0.1:{port}", size, n):
                pull.recv_multipart(copy=False)
                begin, cpu, at = time.perf_counter(), time.process_time(), 0
                for _ in range(n - 1):
                    parts = pull.recv_multipart(copy=False)
                    if copy_to_ring:
                        pixels = parts[2].buffer
                        at = at if at + len(pixels) <= BLOCK else 0
                        ring[at : at + len(pixels)] = pixels
                        at += len(pixels)
                return Took(time.perf_counter() - begin, time.process_time() - cpu, n - 1)

    return run


def tcp(size: int, n: int) -> Took:
    """libstream's TCP transport, with Merlin's framing."""
    from libstream.io_backends.streams._tcp import TcpTransport
    from libstream.io_backends.streams.merlin import MerlinFraming

    return _through(TcpTransport("127.0.0.1", 0, listen=True, framing=MerlinFraming()), "send-tcp", size, n)


def tcp_bare(size: int, n: int) -> Took:
    """recv_into of exactly prefix and frame, in turn, as a client that knows the size could do."""
    ring, whole = memoryview(np.ones(BLOCK, np.uint8)), size + 15
    with socket.create_server(("127.0.0.1", 0)) as server, _Sender("send-tcp", f"tcp://127.0.0.1:{server.getsockname()[1]}", size, n):
        link, _ = server.accept()
        begin, cpu, at = time.perf_counter(), time.process_time(), 0
        for _ in range(n):
            at = at if at + whole <= BLOCK else 0
            end = at + whole
            while at < end:
                at += link.recv_into(ring[at:end])
        link.close()
        return Took(time.perf_counter() - begin, time.process_time() - cpu, n)


class _Sender:
    def __init__(self, how: str, address: str, size: int, n: int) -> None:
        command = [sys.executable, "-m", "tests.bench.receive", how, address, str(size), str(n)]
        self._process = subprocess.Popen(command, cwd=links.ROOT)

    def __enter__(self) -> None:
        if len(CORES) > 1:
            os.sched_setaffinity(self._process.pid, {CORES[1]})

    def __exit__(self, *_: object) -> None:
        self._process.wait(BOUND_S)


ZMQ = {"compiled": ours("compiled"), "plain": ours("plain"), "pyzmq": bare(False), "pyzmq, copied": bare(True)}
TCP = {"transport": tcp, "recv_into": tcp_bare}


def measure(sides: dict[str, Callable[[int, int], Took]], size: int, n: int, rounds: int, against: Sequence[str]) -> None:
    """Run all sides in turn and print medians, and of the rounds the ratios of the first side to others."""
    took: dict[str, list[Took]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            took[name].append(run(size, n))
    rates = {name: [t.messages / t.seconds for t in ts] for name, ts in took.items()}
    print(f"\nframes of {size:,} bytes, {n:,} messages, {rounds} rounds")
    for name, ts in took.items():
        rate = statistics.median(rates[name])
        cpu = statistics.median(t.cpu / t.messages for t in ts)
        low, high = min(rates[name]), max(rates[name])
        print(
            f"  {name:14s} {rate:9,.0f}/s  ({low:,.0f} to {high:,.0f})  {rate * size / 1e9:5.2f} GB/s  {1e6 * cpu:6.1f} us of CPU a message"
        )
    first = next(iter(sides))
    for other in against:
        ratios = sorted(a / b for a, b in zip(rates[first], rates[other], strict=True))
        print(f"  {first} / {other}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def main() -> int:
    if sys.argv[1:2] in (["send"], ["send-tcp"]):
        (sender if sys.argv[1] == "send" else tcp_sender)(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.bench.receive", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a few messages and one round: only that it runs")
    args = parser.parse_args()
    scale, rounds = (0.005, 1) if args.smoke else (1.0, args.rounds)
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[0]})
    for size, n in ((14_400, 100_000), (166_000, 15_000))[: 1 if args.smoke else 2]:
        measure(ZMQ, size, int(n * scale), rounds, ("plain", "pyzmq", "pyzmq, copied"))
    measure(TCP, 65_920, int(40_000 * scale), rounds, ("recv_into",))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
