"""`libstream demo`: a first run, without any data of one's own."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import webbrowser
from pathlib import Path

from libstream import api
from libstream.cli._mib import MibWriter
from libstream.cli._one import Outcome, Setup, process, speed
from libstream.cli._udfargs import UdfArg, make_udfs
from libstream.cli.command import INTERRUPTED, OK, Command, say, size, tell
from libstream.cli.progress import Progress
from libstream.cli.recipe import Recipe
from libstream.errors import NotInstalledError

_EXAMPLES = """\
  libstream demo                       writes ./demo-output and opens the picture
  libstream demo --headless            the same without opening anything"""

_PIECE = 64  # frames made at a time


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--headless", action="store_true", help="open nothing")
    parser.add_argument("--dir", type=Path, default=Path("demo-output"), metavar="DIR", help="folder to write to (default: demo-output)")
    parser.add_argument("--size", type=_size, default=64, metavar="N", help="scan of N × N positions (default: 64; a position is 131 kB)")


def _size(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 2 to 1024")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    folder: Path = args.dir
    folder.mkdir(parents=True, exist_ok=True)
    scan, result, picture = folder / "scan.mib", folder / "result.h5", folder / "result.png"
    say(f"1. a simulated 4D-STEM scan, written as a Merlin file: {scan}")
    step, pixel = _write_scan(scan, args.size)
    say(f"   {size(scan.stat().st_size)}; its scan is {args.size} × {args.size} positions, its frames 256 × 256 pixels of 16 bit\n")

    say("2. three UDFs in one pass over it:")
    recipe = Recipe(
        open={"scan_step": step, "pixel": pixel},
        udfs=(
            UdfArg("VirtualDetector", "adf", {"inner": "15 mrad", "outer": "45 mrad"}),
            UdfArg("CenterOfMass", "com"),
            UdfArg("Sum", "sum"),
        ),
    )
    try:
        from libstream.cli import plot

        plot.check_available(picture)
    except NotInstalledError as exc:
        tell(f"libstream: note: no picture: {exc}")
        picture.unlink(missing_ok=True)
    drawn = picture if "matplotlib" in sys.modules else None
    outcome = Outcome(str(scan), output=result, plot=drawn)
    with Progress(scan.name) as progress:
        process(outcome, Setup(recipe, make_udfs(recipe.udfs), None, None, "threads"), progress, threading.Event())
    if outcome.error is not None:
        raise outcome.error
    if outcome.status == "interrupted" or outcome.result is None:
        tell(f"libstream: interrupted: {outcome.message}")
        return INTERRUPTED
    say(f"   {speed(outcome)}\n   result {result}\n")
    for line in repr(outcome.result).splitlines():
        say(f"   {line}")

    say(f"\n3. {f'the picture: {drawn}' if drawn else 'no picture (pip install libstream[plot])'}")
    if drawn is not None and not args.headless and _has_screen():
        webbrowser.open(drawn.resolve().as_uri())
    options = f"--scan-step '{step}' --pixel '{pixel}'"
    say(f"""
what to try next:
  libstream info {scan} {options}
  libstream run {scan} {options} --udf bf=VirtualDetector -p outer='8 mrad' -o bf.h5 --plot bf.png
  libstream rerun {result}
  libstream new-udf Brightest      # then: libstream run {scan} --udf brightest.py:Brightest -p threshold=10 --plot brightest.png
  libstream plugins udfs""")
    return OK


def _write_scan(path: Path, n: int) -> tuple[str, str]:
    """Write the simulated scan; returns (step of the scan, size of a pixel)."""
    source = api.open(f"sim://?scan={n},{n}&frame=256,256&dtype=uint16&seed=7")
    with MibWriter(path, (n, n), (256, 256)) as writer, Progress(f"writing {path.name}", n * n, 256 * 256 * 2) as progress:
        for row in range(n):
            for start in range(0, n, _PIECE):
                frames = source[row, start : start + _PIECE]
                for frame in frames:
                    writer.write(frame)
                progress.update(len(frames))
    y, ky = source.meta.nav_axes[0], source.meta.sig_axes[0]
    return f"{y.step:g} {y.unit}", f"{ky.step:g} {ky.unit}"


def _has_screen() -> bool:
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


COMMAND = Command("try it: make a 4D-STEM file, run three UDFs, save and draw", _configure, _run, _EXAMPLES)
