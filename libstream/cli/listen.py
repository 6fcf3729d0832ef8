"""`libstream listen`: UDFs over the acquisitions of a detector, as they happen."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from libstream import api
from libstream.cli._clusterargs import add_cluster_arguments, cluster_options
from libstream.cli._executorargs import add_executor_arguments, opened_executor, show_job
from libstream.cli._liveargs import add_live_arguments, live_options
from libstream.cli._liveline import LiveLine
from libstream.cli._one import statistics
from libstream.cli._udfargs import add_udf_arguments, make_udfs
from libstream.cli.command import FAILED, INTERRUPTED, OK, Command, n_of, say, say_json, tell
from libstream.cli.main import report
from libstream.cli.run import fill_template
from libstream.errors import LibstreamError, UsageError
from libstream.live.ledger import in_words

_EXAMPLES = """\
  libstream listen dectris://eiger:9999 --scan 256,256 --udf Sum --udf CenterOfMass -o 'live-{run}.h5'
  libstream listen merlin://merlin-pc:6342 --scan 256,256 --flyback 1 --udf VirtualDetector -p inner=30 --count 1 -o scan.h5
  libstream listen sectors://0.0.0.0:6001-6004?info=6005 --udf Sum --record raw/        also keep every message
  libstream listen sectors://0.0.0.0:6001-6004?info=6005 --udf Sum --executor dask --workers 8 -o 'live-{run}.h5'   by a router

It waits for acquisitions, one after another, until Ctrl-C (or --count). Whatever goes wrong in one, the next one is taken.
templates of -o and --plot: {run} the detector's number, {index} or {index:04} counted from 1"""

_POLL_S = 0.2


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="address of a detector (`libstream plugins detectors`)")
    add_udf_arguments(parser)
    out = parser.add_argument_group("results")
    out.add_argument("-o", dest="output", metavar="FILE", help="result file (.h5); for several acquisitions a template: live-{run}.h5")
    out.add_argument("--plot", metavar="FILE", help="draw all results (.png, .pdf, .svg), may be a template too")
    out.add_argument("--record", metavar="DIR", help="also write every message to this folder, to be opened or replayed later")
    out.add_argument("--count", type=int, metavar="N", help="end after N acquisitions")
    out.add_argument("--json", action="store_true", help="print a line of JSON for each acquisition")
    add_live_arguments(parser)
    add_cluster_arguments(parser)
    how = parser.add_argument_group("how to run")
    add_executor_arguments(how)
    how.add_argument("--arm", action="store_true", help="arm and trigger the detector for each acquisition (needs its control address)")


def _run(args: argparse.Namespace) -> int:
    if not args.udfs:
        raise UsageError("nothing to compute: pass at least one --udf, such as --udf Sum (`libstream plugins udfs` lists them)")
    udfs = make_udfs(args.udfs)
    for template, option in ((args.output, "-o"), (args.plot, "--plot")):
        if template and "{" not in template and args.count != 1:
            better = f"{Path(template).stem}-{{run}}{Path(template).suffix}"
            raise UsageError(f"{option} {template}: each acquisition would overwrite the one before; write {better}, or pass --count 1")
    if args.output:
        api.check_output(_path(args.output, 0, 1))
    if args.plot:
        from libstream.cli.plot import check_available

        check_available(_path(args.plot, 0, 1))
    name = args.executor or "threads"
    if args.dry_run:
        return show_job(name, args)
    with opened_executor(name, args) as executor, api.connect(
        args.url, record=args.record, executor=executor, cluster=cluster_options(args), **live_options(args)
    ) as live:  # fmt: skip
        if isinstance(live, api.RoutedSource):
            tell(f"{n_of(live.n_consumers, 'consumer')} connected to the router at {live.router}")
        tell(f"connected to {live.address}; waiting for acquisitions" + ("" if args.count else ", Ctrl-C ends"))
        return _listen(live, udfs, executor, args)


def _listen(live: api.LiveSource, udfs: dict[str, Any], executor: Any, args: argparse.Namespace) -> int:
    failed, index = 0, 0
    while args.count is None or index < args.count:
        if args.arm:
            run = live.arm()
            live.trigger()
            tell(f"armed{'' if run is None else f', run {run}'}")
        try:
            acquisition = _next(live)
        except KeyboardInterrupt:
            tell(f"\nended after {n_of(index, 'acquisition')}")
            return FAILED if failed else OK
        except LibstreamError as exc:
            report(exc, debug=args.debug)
            failed, index = failed + 1, index + 1
            continue
        index += 1
        try:
            if not _one(live, acquisition, udfs, executor, args, index):
                failed += 1
        except KeyboardInterrupt:
            return INTERRUPTED
    return FAILED if failed else OK


def _next(live: api.LiveSource) -> api.Acquisition:
    told = set(live.problems)
    with LiveLine("waiting") as line:
        while True:
            found = live.wait(_POLL_S)
            problems = live.problems
            for text in problems:  # the last fifty, each once
                if text not in told:
                    line.message(f"libstream: note: {text}")
            told = set(problems)
            if found is not None:
                return found
            line.show(live.status(), None)


def _one(
    live: api.LiveSource, acquisition: api.Acquisition, udfs: dict[str, Any], executor: Any, args: argparse.Namespace, index: int
) -> bool:
    """Run the UDFs over one acquisition, save, say what came of it. False where it failed."""
    job = api.start(acquisition, udfs, executor=executor)
    stopped = False
    with LiveLine(f"run {acquisition.run}") as line:
        while not job.done:
            try:
                with contextlib.suppress(TimeoutError):
                    job.wait(_POLL_S)
            except KeyboardInterrupt:
                stopped = True
                job.cancel()
            except LibstreamError:
                break
            line.show(live.status(), job.progress, acquisition)
    result: api.Result | None
    try:
        result = job.wait()
    except LibstreamError as exc:
        result = job.snapshot()
        if not stopped:
            report(exc, debug=args.debug)
    saved = []
    if result is not None:
        if args.output:
            saved.append(str(result.save(_path(args.output, acquisition.run, index))))
        if args.plot:
            from libstream.cli.plot import draw

            path = _path(args.plot, acquisition.run, index)
            draw(result, path, title=f"run {acquisition.run}")
            saved.append(str(path))
    _say(acquisition, result, saved, args)
    if stopped:
        tell("libstream: interrupted: " + (f"what was finished is saved, marked incomplete: {saved[0]}" if saved else "nothing was saved"))
        raise KeyboardInterrupt
    return result is not None and not result.failures


def _say(acquisition: api.Acquisition, result: Any, saved: list[str], args: argparse.Namespace) -> None:
    facts = {} if result is None else result.run.get("acquisition", {})
    state, reason = facts.get("state", acquisition.state), facts.get("reason", acquisition.reason)
    if args.json:
        say_json(
            {
                "run": acquisition.run, "state": state, "reason": reason, "notes": list(acquisition.notes), "saved": saved,
                "ledger": {} if result is None else result.ledger, "failures": {} if result is None else result.failures,
                "complete": result is not None and result.complete,
                "results": {} if result is None else {k: {n: statistics(d) for n, d in o.items()} for k, o in result.udfs.items()},
            }
        )  # fmt: skip
        return
    head = f"run {acquisition.run}: {state}" + (f" ({reason})" if reason else "")
    say(head if result is None else f"{head}: {in_words(result.ledger)}")
    for note in acquisition.notes:
        say(f"  note: {note}")
    if result is not None:
        for key, message in result.failures.items():
            say(f"  {key} stopped: {message}")
    for path in saved:
        say(f"  -> {path}")


def _path(template: str, run: int | str, index: int) -> Path:
    return fill_template(template, str(run), index, run=run)


COMMAND = Command("UDFs over the acquisitions of a detector, as they happen", _configure, _run, _EXAMPLES)
