"""`libstream route`: takes what detectors send and deals the frames out to consumers on other computers."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from typing import Any

from libstream import api
from libstream.cli._liveargs import add_live_arguments, live_options, n_bytes
from libstream.cli.command import OK, Command, n_of, say, tell

_EXAMPLES = """\
  libstream route 'sectors://0.0.0.0:6001-6004?info=6005' --listen tcp://0.0.0.0:9880 --memory 64GiB --health 9881
  libstream route dectris://eiger:9999 --scan 256,256 --policy drop --timeout 10
  libstream listen router://detector-pc:9880 --executor dask://head-node:8786 --udf Sum -o 'live-{run}.h5'     its counterpart

Consumers (Dask workers) and clients (Python, `libstream listen`) connect to --listen; nothing is computed here. Each block of frames
is kept until its result has reached the client's merge, so that a consumer may die without loss while the memory lasts.
Without CURVE keys, whoever reaches --listen can take the frames: keep it on the loopback interface or on a network that you trust."""

_POLL_S = 0.2
_LINE_S = 10.0


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("urls", metavar="URL", nargs="+", help="address of a detector (`libstream plugins detectors`), one or several")
    where = parser.add_argument_group("the router")
    where.add_argument(
        "--listen", metavar="ADDRESS", default="tcp://127.0.0.1:9880", help="where consumers and clients connect (default: %(default)s)"
    )
    where.add_argument("--memory", type=n_bytes, metavar="SIZE", help="memory for frames, such as 4GiB (default: a quarter of the memory)")
    where.add_argument(
        "--timeout", type=float, metavar="S",
        help="silence of the detector that ends a scan as incomplete, and of a consumer that gives it up [s] (default: 5)",
    )  # fmt: skip
    where.add_argument(
        "--block-timeout", type=float, metavar="S", default=60.0,
        help="time that a consumer has for a block before it goes to another one [s] (default: %(default)g)",
    )  # fmt: skip
    where.add_argument("--health", metavar="[HOST:]PORT", help="serve GET /health (JSON) and GET /metrics (Prometheus), on 127.0.0.1")
    where.add_argument("--curve-secret", metavar="FILE", help="encrypt: key file of this side (*.key_secret, zmq.auth.create_certificates)")
    where.add_argument("--curve-clients", metavar="DIR", help="let in only these: folder of public key files (*.key)")
    where.add_argument("--record", metavar="DIR", help="also write every message to this folder, to be opened or replayed later")
    where.add_argument("--json", action="store_true", help="print the addresses as a line of JSON")
    where.add_argument("--end-with-input", action="store_true", help="end when standard input is closed (for programs that start a router)")
    add_live_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from libstream.route.health import HealthServer

    with contextlib.ExitStack() as stack:
        router = stack.enter_context(
            api.route(
                args.urls, listen=args.listen, memory=args.memory, timeout_s=args.timeout, block_timeout_s=args.block_timeout,
                curve=_curve(args), record=args.record, **live_options(args),
            )
        )  # fmt: skip
        server = None
        if args.health:
            server = HealthServer(args.health, router.health)
            stack.callback(server.close)
        if args.json:
            say(json.dumps({"address": router.address, "sources": [s.address for s in router.sources], "health": server and server.url}))
        for source in router.sources:
            tell(f"receiving from {source.uri} at {source.address}")
        tell(f"consumers and clients connect to {router.address}" + (f", health at {server.url}" if server else "") + "; Ctrl-C ends")
        ended = threading.Event()
        if args.end_with_input:
            threading.Thread(target=_wait_for_end, args=(ended,), name="libstream-input", daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            _watch(router, ended)
    return OK


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _watch(router: Any, ended: threading.Event) -> None:
    told: set[str] = set()
    line_at = time.monotonic() + _LINE_S
    before: dict[str, Any] = {}
    while not ended.wait(_POLL_S):
        health = router.health()
        for text in health["problems"]:
            if text not in told:
                tell(f"libstream: note: {text}")
        told = set(health["problems"])
        if time.monotonic() >= line_at:
            line_at = time.monotonic() + _LINE_S
            me = health["nodes"][0]
            now = {k: health[k] for k in ("state", "run", "arrived", "consumers", "blocks_kept")}
            if now != before:
                before = now
                tell(
                    f"{health['state']}, {n_of(health['consumers'], 'consumer')}, run {health['run'] or '-'}: {health['arrived']:,} of "
                    f"{health['announced']:,} frames in ({me['frames_per_s']:,.0f}/s, {me['bytes_per_s'] / 1e9:.2f} GB/s), "
                    f"{n_of(health['blocks_kept'], 'block')} not merged yet, memory {100 * me['fill']:.0f} %"
                )


def _curve(args: argparse.Namespace) -> dict[str, Any] | None:
    if args.curve_secret is None:
        return None
    return {"secret": args.curve_secret, **({"clients": args.curve_clients} if args.curve_clients else {})}


COMMAND = Command("take what detectors send and deal the frames out to consumers on other computers", _configure, _run, _EXAMPLES)
