"""`libstream record`: what a detector sends, to disk."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from libstream.cli._background import Rate, run_stoppable
from libstream.cli._liveargs import n_bytes
from libstream.cli._liveline import LiveLine
from libstream.cli._openargs import option
from libstream.cli.command import FAILED, OK, Command, duration, n_of, say, say_json, size, tell
from libstream.live.capture import BLOCK_BYTES, Capture, record
from libstream.live.record import RESERVE_BYTES

_EXAMPLES = """\
  libstream record dectris://eiger:9999 raw/                    until Ctrl-C
  libstream record merlin://merlin-pc:6342 raw/ --count 1       one acquisition
  libstream run raw/ --scan 256,256 --udf Sum -o sum.h5         a recording is a file like any other
  libstream replay raw/ --to dectris://127.0.0.1:9999           the same messages once more

The shape of the scan need not be known. What was written can be read, whatever stops the recording; the same command goes on with it."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="address of a detector (`libstream plugins detectors`)")
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to write to; a recording that is in it goes on")
    parser.add_argument("--count", type=int, metavar="N", help="end after N acquisitions (default: at Ctrl-C)")
    parser.add_argument("--needs", type=n_bytes, metavar="SIZE", help="expected size, such as 200G: refused where it cannot fit")
    parser.add_argument(
        "--reserve", type=n_bytes, default=RESERVE_BYTES, metavar="SIZE", help="space that stays free on the disk (default: 1 GiB)"
    )
    parser.add_argument(
        "--stall-timeout", dest="stall_timeout_s", type=float, default=5.0, metavar="S", help="silence that ends an acquisition [s]"
    )
    parser.add_argument(
        "--max-message-bytes", type=n_bytes, default=BLOCK_BYTES, metavar="SIZE", help="largest message that is accepted (default: 32 MiB)"
    )
    parser.add_argument("--json", action="store_true", help="print what was recorded as JSON")
    parser.add_argument(
        "-O", dest="detector_options", type=option, action="append", default=[], metavar="KEY=VALUE", help="option of the detector"
    )


def _run(args: argparse.Namespace) -> int:
    state: list[Capture] = []

    def keep(now: Capture) -> None:
        state[:] = [now]

    frames, bytes_ = Rate(), Rate()

    def work(cancel: threading.Event) -> Capture:
        return record(
            args.url, args.folder, count=args.count, needed_bytes=args.needs, reserve_bytes=args.reserve, cancel=cancel,
            stall_timeout_s=args.stall_timeout_s, block_bytes=args.max_message_bytes, progress=keep,
            opened=lambda where: tell(f"recording from {where} to {args.folder}" + ("" if args.count else "; Ctrl-C ends")),
            **dict(args.detector_options),
        )  # fmt: skip

    with LiveLine("record") as line:
        told = 0

        def text() -> str | None:
            nonlocal told
            if not state:
                return None
            for note in state[0].notes[told:]:
                line.message(f"libstream: note: {note}")
                told += 1
            return _line(state[0], frames, bytes_)

        done, _ = run_stoppable(work, line, text)
        for note in done.notes[told:]:
            line.message(f"libstream: note: {note}")
    return _say(done, args)


def _line(state: Capture, frames: Rate, bytes_: Rate) -> str:
    run = state.runs[-1] if state.runs else None
    n = sum(r.frames for r in state.runs)
    parts = ["waiting for an acquisition" if run is None else str(run), f"{frames.of(n):,.0f}/s"]
    parts += [f"{size(state.n_bytes)} written ({size(bytes_.of(state.n_bytes))}/s)", f"{size(state.waiting)} in memory"]
    if state.full:
        parts.append("THE DISK IS TOO SLOW: the detector waits")
    if state.malformed:
        parts.append(f"{state.malformed:,} not understood")
    return ", ".join(parts)


def _say(done: Capture, args: argparse.Namespace) -> int:
    if args.json:
        say_json(
            {
                "folder": str(args.folder), "bytes": done.n_bytes, "messages": done.n_messages, "seconds": done.seconds,
                "malformed": done.malformed, "foreign": done.foreign, "oversized": done.oversized, "notes": done.notes, "error": done.error,
                "runs": [{"run": r.run, "n_frames": r.n_frames, "frames": r.frames, "state": r.state} for r in done.runs],
            }
        )  # fmt: skip
    else:
        for run in done.runs:
            say(str(run))
        say(f"{n_of(done.n_messages, 'message')}, {size(done.n_bytes)} in {duration(done.seconds)} -> {args.folder}")
        for n, what in (
            (done.malformed, "messages were not understood (they are recorded all the same)"),
            (done.foreign, "frames belong to no announced run (they are recorded all the same)"),
            (done.oversized, "messages were larger than --max-message-bytes and are not recorded"),
        ):
            if n:
                say(f"  note: {n:,} {what}")
    if done.error is not None:
        tell(f"libstream: error: {done.error}")
        return FAILED
    return OK


COMMAND = Command("write what a detector sends to disk", _configure, _run, _EXAMPLES)
