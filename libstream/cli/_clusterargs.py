"""Options of `ls.connect(..., cluster=...)`: how a router, consumers and this program reach each other."""

from __future__ import annotations

import argparse
from typing import Any

from libstream.cli._executorargs import SLURM, count
from libstream.cli._liveargs import n_bytes


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `cluster=` takes."""
    far = parser.add_argument_group("on a cluster (--executor dask, dask://host:8786, slurm): frames go from a router to the workers")
    far.add_argument("--listen", metavar="ADDRESS", help="where the router waits for consumers (default: tcp://127.0.0.1:0, a free port)")
    far.add_argument("--results", metavar="ADDRESS", help="where this program waits for consumers (default: the same)")
    far.add_argument("--consumers", type=count, metavar="N", help="begin when so many consumers are connected (default: all workers)")
    far.add_argument("--consumer-bytes", type=n_bytes, metavar="SIZE", help="memory for frames of each consumer (default: 256Mi)")
    far.add_argument("--consumer-wait", dest="wait_s", type=float, metavar="S", help="longest time without any consumer [s] (default: 120)")
    far.add_argument("--health", metavar="[HOST:]PORT", help="the router serves GET /health (JSON) and /metrics (Prometheus) here")
    far.add_argument("--curve-secret", metavar="FILE", help="keys towards a router that asks for them: this user's *.key_secret")
    far.add_argument("--curve-server", metavar="FILE", help="public key file of the router")


def cluster_options(args: argparse.Namespace) -> dict[str, Any] | None:
    """What was given of `cluster=`; None where nothing was."""
    names = ("listen", "results", "consumers", "consumer_bytes", "wait_s", "health")
    given: dict[str, Any] = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    if args.nodes is not None and args.consumers is None and (args.executor or "").partition("://")[0] == SLURM:
        given["consumers"] = args.nodes
    if args.curve_secret or args.curve_server:
        given["curve"] = {"secret": args.curve_secret, "server": args.curve_server}
    return given or None
