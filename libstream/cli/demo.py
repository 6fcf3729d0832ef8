"""`libstream demo`: the main job, without any hardware: a simulated detector streams, UDFs process it live."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from libstream import api
from libstream.cli._liveline import LiveLine
from libstream.cli._mib import MibWriter
from libstream.cli._udfargs import UdfArg, make_udfs
from libstream.cli.command import FAILED, OK, Command, say, size, tell
from libstream.cli.progress import Progress
from libstream.errors import LibstreamError, NotInstalledError

_EXAMPLES = """\
  libstream demo                       writes ./demo-output, and opens the picture at the end
  libstream demo --headless            the same without opening anything; ends by itself with a summary
  libstream demo --loss 0.01           a detector that loses frames"""

_PIECE = 64  # frames made at a time
_UDFS = (
    UdfArg("VirtualDetector", "adf", {"inner": "15 mrad", "outer": "45 mrad"}),
    UdfArg("CenterOfMass", "com"),
    UdfArg("Sum", "sum"),
)
_START_S = 60.0


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--headless", action="store_true", help="open nothing")
    parser.add_argument("--dir", type=Path, default=Path("demo-output"), metavar="DIR", help="folder to write to (default: demo-output)")
    parser.add_argument("--size", type=_size, default=64, metavar="N", help="scan of N × N positions (default: 64; a position is 131 kB)")
    parser.add_argument("--rate", type=float, default=2000.0, metavar="FPS", help="frames the detector sends per second (default: 2000)")
    parser.add_argument("--loss", type=float, default=0.0, metavar="P", help="fraction of the frames that the detector loses (default: 0)")


def _size(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 2 to 1024")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    folder: Path = args.dir
    folder.mkdir(parents=True, exist_ok=True)
    scan, saved, picture = folder / "scan.mib", folder / "live.h5", folder / "live.png"
    n = args.size
    say(f"1. a simulated 4D-STEM scan: {n} × {n} positions, frames of 256 × 256 pixels of 16 bit, as a Merlin file")
    step, pixel = _write_scan(scan, n)
    say(f"   {scan}, {size(scan.stat().st_size)}\n")
    calibration = {"scan_step": step, "pixel": pixel}

    say("2. a simulated DECTRIS detector, a program of its own, streams it over ZeroMQ:")
    udfs = make_udfs(_UDFS)
    with _detector(scan, args) as (url, sender):
        say(f"   {url}, {args.rate:,.0f} frames/s, frames compressed with bitshuffle-LZ4\n")
        say("3. three UDFs process it while it comes, in one pass:")
        with api.connect(url, scan=(n, n), **calibration) as live:
            acquisition = live.wait(_START_S)
            if acquisition is None:
                raise LibstreamError(
                    f"the simulated detector sent nothing within {_START_S:g} s: {'; '.join(live.problems) or 'no message'}"
                )
            result = _watch(live, acquisition, udfs)
        said = sender()
    ledger = result.ledger
    say(f"   {acquisition.state}: {ledger['processed']:,} of {ledger['announced']:,} positions, {ledger['received']:,} frames received")
    say(f"   ledger: {', '.join(f'{v:,} {k}' for k, v in ledger.items() if v)}")
    say(f"   the detector says: {said}\n")

    say("4. the same UDFs over the file, afterwards:")
    offline = api.run(api.open(scan, **calibration), udfs)
    wrong = _differences(result, offline)
    if wrong:
        tell(f"libstream: live and offline differ: {', '.join(wrong)}. This is a bug; please report it")
        return FAILED
    where = "every value" if result.valid.all() else f"every value at the {int(result.valid.sum()):,} positions that arrived"
    say(f"   live and offline are equal, bit for bit, in {where}\n")

    result.save(saved)
    drawn = _draw(result, picture)
    say(f"5. saved: {saved}" + (f", {drawn}" if drawn else "; no picture (pip install libstream[plot])"))
    if drawn is not None and not args.headless and _has_screen():
        webbrowser.open(drawn.resolve().as_uri())
    options = f"--scan-step '{step}' --pixel '{pixel}'"
    say(f"""
what to try next: a detector that loses frames in one terminal, and in another one what sees it
  libstream replay {scan} --to dectris://127.0.0.1:9999 --loss 0.01
  libstream listen dectris://127.0.0.1:9999 --scan {n},{n} --udf Sum --count 1 -o sum.h5
and with the file
  libstream run {scan} {options} --udf bf=VirtualDetector -p outer='8 mrad' -o bf.h5 --plot bf.png
  libstream rerun bf.h5
  libstream new-udf Brightest      # then: libstream run {scan} --udf brightest.py:Brightest -p threshold=10 --plot brightest.png
  libstream plugins udfs""")
    return OK


@contextlib.contextmanager
def _detector(scan: Path, args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """A process that serves the scan as a detector: (its address, a call that waits for its end and gives its account)."""
    command = [
        sys.executable, "-m", "libstream", "replay", str(scan), "--to", "dectris://127.0.0.1:0", "--rate", str(args.rate), "--json",
        "--loss", str(args.loss), "--seed", "1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        first = process.stderr.readline()  # type: ignore[union-attr]
        if "tcp://" not in first:
            rest = process.stderr.read()  # type: ignore[union-attr]
            raise LibstreamError(f"the simulated detector did not start: {(first + rest).strip()}")
        port = first.partition("tcp://127.0.0.1:")[2].partition(";")[0].strip()

        def account() -> str:
            out, _ = process.communicate(timeout=_START_S)
            (run,) = json.loads(out)["runs"]
            return f"{run['sent']:,} frames sent, {len(run['lost']):,} lost on purpose"

        yield f"dectris://127.0.0.1:{port}", account
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate()


def _watch(live: Any, acquisition: Any, udfs: dict[str, Any]) -> Any:
    """Run, and show how it stands."""
    job = api.start(acquisition, udfs)
    with LiveLine(f"   run {acquisition.run}") as line:
        for _ in job.results():
            line.show(live.status(), job.progress, acquisition)
    return job.wait()


def _differences(live: Any, offline: Any) -> list[str]:
    """Outputs that differ where frames arrived; those over the whole scan are compared only where all frames did."""
    out = []
    for key in offline:
        for name, expected in offline[key].items():
            found, o = live[key][name], offline[key].declared[name]
            if o.kind == "nav":
                expected, found = expected[live.valid], found[live.valid]
            elif not live.valid.all() or o.derived:
                continue
            if o.derived and not live.valid.all():
                continue
            if not np.array_equal(expected, found, equal_nan=expected.dtype.kind in "fc"):
                out.append(f"{key}/{name}")
    return out


def _draw(result: Any, picture: Path) -> Path | None:
    try:
        from libstream.cli import plot

        plot.check_available(picture)
    except NotInstalledError as exc:
        tell(f"libstream: note: no picture: {exc}")
        picture.unlink(missing_ok=True)
        return None
    plot.draw(result, picture, title="live")
    return picture


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


COMMAND = Command("try it: a simulated detector streams, three UDFs process it live", _configure, _run, _EXAMPLES)
