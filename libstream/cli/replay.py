"""`libstream replay`: any file as a detector, with or without faults."""

from __future__ import annotations

import argparse
import threading
from dataclasses import asdict
from typing import Any

from libstream import api
from libstream.cli._background import Rate, run_stoppable
from libstream.cli._liveargs import n_bytes
from libstream.cli._liveline import LiveLine
from libstream.cli._openargs import add_open_arguments, open_options, option
from libstream.cli.command import INTERRUPTED, OK, Command, duration, say, say_json, size, tell
from libstream.live.replay import AHEAD_BYTES, is_recording_of, replay
from libstream.live.sending import Sending

_EXAMPLES = """\
  libstream replay scan.mib --to dectris://127.0.0.1:9999 --rate 2000
  libstream replay raw/ --to merlin://127.0.0.1:6342                     a recording of a Merlin, message by message
  libstream replay scan.npy --to libstream://127.0.0.1:9876 --loss 0.001 --reorder 0.1 --seed 7
  libstream replay 'sim://?scan=64,64&frame=256,256' --to sectors://127.0.0.1:6001-6004 --repeat 10

what waits on the other side: libstream listen URL --udf Sum. A detector of kind dectris or merlin waits for its receiver (it binds),
one of kind sectors or libstream connects to it."""

_FRACTIONS = {
    "loss": "are not sent",
    "duplicate": "are sent twice",
    "reorder": "are sent up to --window messages later",
    "delay": "are held back for --delay-s seconds",
    "late": "are sent after the end of the run",
    "corrupt": "have damaged pixels",
    "truncate": "are cut off",
    "wrong_shape": "have a row of pixels less",
}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a file, a recording, or an address of a source")
    parser.add_argument(
        "--to", dest="url", required=True, metavar="URL", help="what to be: dectris://, merlin://, sectors://, libstream://"
    )
    parser.add_argument("--rate", type=float, metavar="N", help="frames/s (default: as fast as they are taken)")
    parser.add_argument("--run", type=int, default=1, metavar="N", help="number of the first run")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="runs, one after another")
    parser.add_argument("--pause", dest="pause_s", type=float, default=0.0, metavar="S", help="time between them [s]")
    parser.add_argument(
        "--ahead", type=n_bytes, default=AHEAD_BYTES, metavar="SIZE", help="messages made before the first is sent (256 MiB)"
    )
    parser.add_argument(
        "--patience", dest="patience_s", type=float, metavar="S", help="give up when nobody takes a message for so long [s]"
    )
    parser.add_argument("--decoded", action="store_true", help="encode the frames of a recording anew, instead of sending its messages")
    parser.add_argument(
        "-D",
        dest="sender_options",
        type=option,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the detector that is played",
    )
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    faults = parser.add_argument_group("faults, from a seed, all accounted for")
    faults.add_argument("--seed", type=int, default=0, metavar="N")
    for name, what in _FRACTIONS.items():
        faults.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="P", help=f"this fraction of the frames {what}")
    faults.add_argument("--window", type=int, metavar="N", help="messages (with --reorder; default 16)")
    faults.add_argument("--delay-s", type=float, metavar="S", help="seconds (with --delay; default 0.05)")
    faults.add_argument("--every", type=int, metavar="K", help="each K-th frame goes to another client")
    faults.add_argument("--extra", type=int, metavar="N", help="frames beyond the announced number")
    faults.add_argument("--stall-at", type=int, metavar="N", help="stop sending before frame N, for --stall-s seconds or for good")
    faults.add_argument("--stall-s", type=float, metavar="S")
    faults.add_argument("--die-at", type=int, metavar="N", help="close the connection before frame N and leave")
    faults.add_argument("--no-header", action="store_true", default=None, help="leave the start of the run out")
    faults.add_argument("--no-end", action="store_true", default=None, help="leave the end of the run out")
    faults.add_argument("--new-run-at", type=int, metavar="N", help="begin the next run before frame N")
    faults.add_argument("--foreign-at", type=int, metavar="N", help="from frame N on, the number of another run")
    add_open_arguments(parser)


_FAULTS = (
    *_FRACTIONS, "window", "delay_s", "every", "extra", "stall_at", "stall_s", "die_at", "no_header", "no_end", "new_run_at", "foreign_at",
)  # fmt: skip


def _run(args: argparse.Namespace) -> int:
    source = _source(args)
    faults = {name: getattr(args, name) for name in _FAULTS if getattr(args, name) is not None}
    if args.patience_s is not None:
        faults["patience_s"] = args.patience_s
    last: list[Sending] = []

    def keep(now: Sending) -> None:
        last[:] = [now]

    rate = Rate()

    def work(cancel: threading.Event) -> Any:
        return replay(
            source, args.url, rate=args.rate, run=args.run, repeat=args.repeat, pause_s=args.pause_s, seed=args.seed, cancel=cancel,
            progress=keep, ahead_bytes=args.ahead, options=dict(args.sender_options),
            opened=lambda where: tell(f"serving {args.file} at {where}; Ctrl-C ends"), **faults,
        )  # fmt: skip

    with LiveLine("replay") as line:
        account, stopped = run_stoppable(work, line, lambda: _line(last[0], rate) if last else None)
    if args.json:
        say_json({**asdict(account), "file": str(args.file), "url": args.url, "bytes": account.n_bytes})
    else:
        say(str(account))
        say(f"{account.n_frames:,} frames, {size(account.n_bytes)} in {duration(account.seconds)}" + (", died" if account.died else ""))
    return INTERRUPTED if stopped else OK


def _source(args: argparse.Namespace) -> Any:
    """A recording of the same kind of detector as it is, anything else opened."""
    if not args.decoded and not open_options(args) and is_recording_of(args.file, args.url):
        return args.file
    return api.open(args.file, **open_options(args))


def _line(state: Sending, rate: Rate) -> str:
    text = f"run {state.run}: {state.frames:,} of {state.n_frames:,} frames, {rate.of(state.frames):,.0f}/s, {size(state.n_bytes)} sent"
    return text + (", WAITING: nobody takes messages" if state.waiting else "")


COMMAND = Command("serve any file as a detector, with or without faults", _configure, _run, _EXAMPLES)
