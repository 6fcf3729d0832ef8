"""Options of who computes: the executor, its workers, its nodes."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from libstream import api, registry
from libstream.cli.command import OK, say, tell
from libstream.errors import UsageError

SLURM = "slurm"


def count(text: str) -> int:
    """A number of something, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 1")
    return int(text)


def add_executor_arguments(group: Any) -> None:
    """Add the options to a group of a parser."""
    group.add_argument("--executor", metavar="NAME", help="threads (default), inline, processes, ... (`libstream plugins executors`)")
    group.add_argument("--workers", type=count, metavar="N", help="number of workers (default: one a processor)")
    group.add_argument("--nodes", type=count, metavar="N", help="number of nodes to ask Slurm for (with --executor slurm)")
    group.add_argument("--slurm-config", metavar="TOML", help="settings of --executor slurm (default: see docs/how-to/use-a-cluster.md)")
    group.add_argument("--dry-run", action="store_true", help="print the job as --executor slurm would submit it, and do nothing")


def slurm_options(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of Slurm. Raises UsageError where another executor is asked for."""
    given = {"nodes": args.nodes, "config": args.slurm_config}
    options = {k: v for k, v in given.items() if v is not None}
    if name.partition("://")[0] != SLURM:
        flags = ["--nodes"] * (args.nodes is not None) + ["--slurm-config"] * (args.slurm_config is not None) + ["--dry-run"] * args.dry_run
        if flags:
            raise UsageError(f"{' and '.join(flags)}: only --executor slurm takes this; the executor is {name}")
    elif args.workers is not None:
        raise UsageError("--workers: say --nodes with --executor slurm; workers of a node: processes = ... in its settings")
    return options


@contextlib.contextmanager
def opened_executor(name: str, args: argparse.Namespace) -> Iterator[Any]:
    """The name of a shared executor, or one of our own where the options say more of it, closed at the end."""
    options = slurm_options(name, args)
    if name.partition("://")[0] == SLURM:
        with api.executor(name, say=tell_above, **options) as own:
            yield own
    elif args.workers is None:
        yield name
    elif name == "inline":
        raise UsageError("--workers: the executor inline has one worker, the program itself; use --executor threads or processes")
    else:
        with api.executor(name, workers=args.workers) as own:
            yield own


def show_job(name: str, args: argparse.Namespace) -> int:
    """--dry-run: print the job, submit nothing. Returns the exit code."""
    options = slurm_options(name, args)
    kind, _, address = name.partition("://")
    executor = registry.load("executors", kind)(**options, **({"address": address} if address else {}))
    script: str = executor.job_script()
    say(script, end="")
    n = executor.config.nodes
    tell(f"libstream: nothing was submitted. A run submits this {n} times" if n > 1 else "libstream: nothing was submitted")
    tell("libstream: the scheduler's port, the name of the jobs and the keys are made anew by each run")
    return OK


def tell_above(text: str) -> None:
    """A line to stderr, above a progress bar where there is one."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        tell(text)
