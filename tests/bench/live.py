"""`python -m tests.bench.live`: live streams beside LiberTEM-live and bare pyzmq, sender and receiver on the same machine.

Three measurements: DECTRIS V1 (256 x 256 uint16, 0.3 counts a pixel, bitshuffle-LZ4) with Sum, in frames/s, beside LiberTEM-live; the
time from a frame sent to the snapshot that shows it, at 1,000 frames/s; 4D Camera sectors with Sum, in GB/s, beside receiving alone.
Both sides of a row run in turn, and rates are from the first frame to the result. `--page` writes the tables to the section "Live" of
docs/reference/performance.md. LiberTEM-live is taken from the folder --peers, or from .venv-interop, which `pytest -m interop` makes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench import page
from tests.bench.live_sender import frames_of
from tests.bench.measure import load
from tests.live.peers import FOLDER
from tests.live.sending import free_ports

_ROOT = Path(__file__).resolve().parents[2]


class Process:
    """A sender or a receiver: JSON lines from it, orders to it."""

    def __init__(self, python: str, module: str, *args: Any, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [python, "-m", module, *map(str, args)], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
        self.said = self.read()

    def read(self) -> dict[str, Any]:
        """The next answer."""
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)  # type: ignore[no-any-return]

    def order(self, line: str = "") -> None:
        """Send an order."""
        self.process.stdin.write(line + "\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()


def one_run(sender: Process, receiver: Process, rate: float = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Send one run and receive it: (what the receiver says, what the sender says)."""
    receiver.order()
    sender.order(f"{rate}")
    return receiver.read(), sender.read()


def compare(sides: dict[str, tuple[Process, Process]], rounds: int, warm: int = 2) -> dict[str, list[dict[str, Any]]]:
    """Runs of all sides in turn: A B A B."""
    out: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for k in range(warm + rounds):
        for name, (sender, receiver) in sides.items():
            got, sent = one_run(sender, receiver)
            os.unlink(sent["sent"])
            if k >= warm:
                out[name].append(got)
    return out


def dectris(n: int, rounds: int, peers: Path | None) -> dict[str, Any]:
    """Frames/s of both sides, and that their sums are right."""
    scan = f"{n // 64},64"
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        sender = enter(Process(sys.executable, "tests.bench.live_sender", "v1", n))
        url = f"dectris://127.0.0.1:{sender.said['port']}"
        sides = {"libstream": (sender, enter(Process(sys.executable, "tests.bench.live_receiver", "libstream", url, scan)))}
        python = peers / "libertem" / "bin" / "python" if peers else None
        if python is not None and python.exists():
            other = enter(Process(sys.executable, "tests.bench.live_sender", "v1", n))
            args = ("libertem", other.said["port"], other.said["api"], scan)
            sides["LiberTEM-live"] = (
                other,
                enter(Process(str(python), "tests.bench.live_receiver", *args, env={"PYTHONPATH": str(_ROOT)})),
            )
        runs = compare(sides, rounds)
        versions = {name: receiver.said["version"] for name, (_, receiver) in sides.items()}
    given = frames_of("v1").astype(np.uint64)
    expected = int(given.sum()) * (n // len(given)) + int(given[: n % len(given)].sum())
    for name, found in runs.items():
        assert all(r["sum"] == expected and r["complete"] for r in found), (name, found[-1])
    return {"rates": {k: [n / r["seconds"] for r in v] for k, v in runs.items()}, "versions": versions, "frames": n}


def snapshots(n: int, rate: float) -> dict[str, Any]:
    """Milliseconds from sending a frame to the snapshot in which it is."""
    scan = f"{n // 64},64"
    with contextlib.ExitStack() as stack:
        sender = stack.enter_context(Process(sys.executable, "tests.bench.live_sender", "v1", n))
        url = f"dectris://127.0.0.1:{sender.said['port']}"
        receiver = stack.enter_context(Process(sys.executable, "tests.bench.live_receiver", "latency", url, scan))
        ages = []
        for k in range(3):
            got, sent = one_run(sender, receiver, rate)
            seen, times = np.load(got["seen"]), np.load(sent["sent"])
            os.unlink(sent["sent"])
            if k:
                ages.append((seen - times) / 1e6)
        os.unlink(got["seen"])
    found = np.concatenate(ages)
    return {"rate": rate, "p50": float(np.percentile(found, 50)), "p95": float(np.percentile(found, 95)), "max": float(found.max()),
            "snapshots": got["snapshots"], "seconds": n / rate}  # fmt: skip


def sectors(n: int, rounds: int) -> dict[str, Any]:
    """GB/s of libstream with Sum, and of pyzmq that receives the same messages and does nothing."""
    scan = f"{n // 64},64"
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        ours, theirs = free_ports(5), free_ports(10)[5:]
        text = [",".join(map(str, ports)) for ports in (ours, theirs)]
        url = f"sectors://127.0.0.1:{ours[0]}-{ours[3]}?info={ours[4]}"
        receiver = enter(Process(sys.executable, "tests.bench.live_receiver", "libstream", url, scan))
        bare = enter(Process(sys.executable, "tests.bench.live_receiver", "bare", text[1], 4 * n, scan))
        a = enter(Process(sys.executable, "tests.bench.live_sender", "sectors", n, env={"LIBSTREAM_BENCH_PORTS": text[0]}))
        b = enter(Process(sys.executable, "tests.bench.live_sender", "sectors", n, env={"LIBSTREAM_BENCH_PORTS": text[1]}))
        runs = compare({"libstream with Sum": (a, receiver), "bare pyzmq": (b, bare)}, rounds)
    size = n * 576 * 576 * 2
    return {"rates": {k: [size / r["seconds"] / 1e9 for r in v] for k, v in runs.items()}, "frames": n}


TITLES = {
    "dectris": ("DECTRIS V1, 256 x 256 uint16, bitshuffle-LZ4, Sum", "frames/s", "libstream", 1.5),
    "sectors": ("4D Camera sectors, 576 x 576 uint16, Sum", "GB/s", "libstream with Sum", 0.7),
}
LATENCY_MS = 150.0
BEGIN, END = "<!-- live tables: written by `make bench` -->", "<!-- end of live tables -->"
PAGE = _ROOT / "docs" / "reference" / "performance.md"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"


def table(found: dict[str, Any]) -> str:
    """All rows, as Markdown."""
    lines = []
    for key, (title, unit, first, aim) in TITLES.items():
        if key not in found:
            continue
        lines += [f"| {title}; {found[key]['frames']:,} frames | median {unit} | min | max | ratio |", "| --- | --- | --- | --- | --- |"]
        rates = found[key]["rates"]
        middle = {k: statistics.median(v) for k, v in rates.items()}
        for name, values in rates.items():
            ratio = middle[first] / middle[name]
            said = "" if name == first else f"libstream {ratio:.2f} x (aim: {aim:g}; {_verdict(ratio >= aim)})"
            form = ",.0f" if unit == "frames/s" else ".2f"
            lines.append(f"| {name} | {middle[name]:{form}} | {min(values):{form}} | {max(values):{form}} | {said} |")
        lines.append("")
    if "latency" in found:
        x = found["latency"]
        aim = f"{x['p95']:.0f} ms (aim: {LATENCY_MS:g}; {_verdict(x['p95'] < LATENCY_MS)})"
        lines += [
            f"| from frame sent to snapshot, {x['rate']:,.0f} frames/s | p50 | p95 | max | snapshots/s |",
            "| --- | --- | --- | --- | --- |",
            f"| libstream, Sum | {x['p50']:.0f} ms | {aim} | {x['max']:.0f} ms | {x['snapshots'] / x['seconds']:.0f} |", "",
        ]  # fmt: skip
    return "\n".join(lines)


def head(found: dict[str, Any], before: Any, rounds: int) -> str:
    """When, where, and what else the machine did."""
    versions = "; ".join(f"{name} {version}" for name, version in found.get("dectris", {}).get("versions", {}).items())
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {page.machine()}, sender and receiver on the same cores; load {before} before and "
        f"{load()} after; {rounds} rounds, each side in turn." + (f" Versions: {versions}." if versions else "")
    )


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.live", description=__doc__)
    parser.add_argument("--only", default="dectris,latency,sectors")
    parser.add_argument("--frames", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=os.environ.get("LIBSTREAM_BENCH_PEERS", FOLDER), help="folder of venvs: libertem")
    parser.add_argument("--smoke", action="store_true", help="tiny runs, no peers: only that it works")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", action="store_true", help=f"write the tables to {PAGE.relative_to(_ROOT)}")
    args = parser.parse_args()
    if args.smoke:
        args.frames, args.rounds, args.peers = 512, 1, None
    only, found, before = set(args.only.split(",")), {}, load()
    if "dectris" in only:
        found["dectris"] = dectris(args.frames, args.rounds, Path(args.peers) if args.peers else None)
    if "latency" in only:
        found["latency"] = snapshots(256 if args.smoke else 4096, 1000)
    if "sectors" in only:
        found["sectors"] = sectors(64 if args.smoke else 1024, args.rounds)
    print(table(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if args.page and not args.smoke:
        page.put(PAGE, BEGIN, END, f"{head(found, before, args.rounds)}\n\n{table(found).strip()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
