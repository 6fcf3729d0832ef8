"""`libstream demo`: the main job, without any hardware: a simulated detector streams, UDFs process it live, the page shows it."""

from __future__ import annotations

import argparse
import os
import sys
import time
import webbrowser
from pathlib import Path
from typing import Any

import numpy as np

from libstream import api
from libstream.cli._demoparts import PATIENCE_S, Detector, Server
from libstream.cli._mib import MibWriter
from libstream.cli._udfargs import UdfArg, make_udfs
from libstream.cli.command import FAILED, OK, Command, say, size, tell
from libstream.cli.progress import Progress
from libstream.errors import LibstreamError, NotInstalledError

_EXAMPLES = """\
  libstream demo                       opens the page: a scan every few seconds, until Ctrl-C
  libstream demo --headless            one scan through the page's interface; compares, saves, ends with a summary
  libstream demo --loss 0.01           a detector that loses frames"""

_PIECE = 64  # frames made at a time
_UDFS = (
    UdfArg("VirtualDetector", "adf", {"inner": "15 mrad", "outer": "45 mrad"}),
    UdfArg("CenterOfMass", "com"),
    UdfArg("Sum", "sum"),
)
_PAUSE_S = 3.0
_FOR_EVER = 1_000_000
_LOOK_S = 0.2


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--headless", action="store_true", help="open no page; end after one scan with a summary")
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
    scan, n = folder / "scan.mib", args.size
    say(f"1. a simulated 4D-STEM scan: {n} × {n} positions, frames of 256 × 256 pixels of 16 bit, as a Merlin file")
    step, pixel = _write_scan(scan, n)
    say(f"   {scan}, {size(scan.stat().st_size)}\n")
    calibration: dict[str, Any] = {"scan_step": step, "pixel": pixel}
    options = {"scan": [n, n], **calibration}
    say("2. a simulated DECTRIS detector, a program of its own, streams it over ZeroMQ:")
    repeat, pause = (1, 0.0) if args.headless else (_FOR_EVER, _PAUSE_S)
    with Server(folder) as server, Detector(scan, rate=args.rate, loss=args.loss, repeat=repeat, pause_s=pause) as detector:
        say(
            f"   {detector.url}, {args.rate:,.0f} frames/s, compressed with bitshuffle-LZ4" + ("" if args.headless else ", again and again")
        )
        say("\n3. three UDFs process it while it comes:")
        server.call("PUT", "source", {"uri": detector.url, "options": options})
        for udf in _UDFS:
            server.call("POST", "analyses", {"udf": udf.spec, "id": udf.key, "params": udf.params})
        if not args.headless:
            server.call("POST", "cmd/release_control", {})  # the page takes it
            return _show(server)
        _watch(server)
        data = server.call("GET", "results.h5")
        sent = detector.account()
    saved = folder / "live.h5"
    saved.write_bytes(data)
    return _finish(api.load_result(saved), sent, scan, saved, calibration, args)


def _show(server: Server) -> int:
    """Open the page, and stay until Ctrl-C."""
    try:  # Ctrl-C ends it well from the first word on
        say(f"   watch it at {server.link}")
        if _has_screen():
            webbrowser.open(server.link)
        else:
            say("   (no screen here: open this address in a browser)")
        say("   drag the ring over the diffraction pattern: the image follows. Ctrl-C ends")
        server.wait()
    except KeyboardInterrupt:
        say("\nended")
    return OK


def _watch(server: Server) -> None:
    """Wait until the scan is over and all analyses have seen it; say how it stands."""
    end = time.monotonic() + 10 * PATIENCE_S
    said = time.monotonic()
    while time.monotonic() < end:
        found = server.call("GET", "status")
        state, ledger = found["state"], found["stat"]["ledger"] or {}
        live, analyses = state["live"] or {}, state["analyses"]
        failed = [a["error"]["message"] for a in analyses.values() if a["error"]]
        if failed or live.get("state") == "failed":
            raise LibstreamError(f"the analyses failed: {'; '.join(failed) or live.get('reason')}")
        over = live.get("run_state") in ("done", "incomplete", "failed")
        if over and analyses and all(a["state"] in ("done", "incomplete") for a in analyses.values()):
            return
        if time.monotonic() - said > 2:
            said = time.monotonic()
            tell(f"   {ledger.get('processed', 0):,} of {ledger.get('announced', 0):,} positions")
        time.sleep(_LOOK_S)
    raise LibstreamError(f"the scan did not end within {10 * PATIENCE_S:g} s")


def _finish(result: Any, sent: dict[str, Any], scan: Path, saved: Path, calibration: dict[str, Any], args: argparse.Namespace) -> int:
    """Compare with the file, draw, and say what came of it."""
    n, ledger, folder = args.size, result.ledger, args.dir
    state = result.run.get("acquisition", {}).get("state", "")
    say(f"   {state}: {ledger['processed']:,} of {ledger['announced']:,} positions, {ledger['received']:,} frames received")
    say(f"   ledger: {', '.join(f'{v:,} {k}' for k, v in ledger.items() if v)}")
    say(f"   the detector says: {sent['sent']:,} frames sent, {len(sent['lost']):,} lost on purpose\n")
    say("4. the same UDFs over the file, afterwards:")
    wrong = _differences(result, api.run(api.open(scan, **calibration), make_udfs(_UDFS)))
    if wrong:
        tell(f"libstream: live and offline differ: {', '.join(wrong)}. This is a bug; please report it")
        return FAILED
    where = "every value" if result.valid.all() else f"every value at the {int(result.valid.sum()):,} positions that arrived"
    say(f"   live and offline are equal, bit for bit, in {where}\n")
    drawn = _draw(result, folder / "live.png")
    say(f"5. saved: {saved}" + (f", {drawn}" if drawn else "; no picture (pip install libstream[plot])"))
    given = " ".join(f"--{k.replace('_', '-')} '{v}'" for k, v in calibration.items())
    say(f"""
what to try next: a detector that loses frames in one terminal, and in another one what sees it
  libstream replay {scan} --to dectris://127.0.0.1:9999 --loss 0.01
  libstream listen dectris://127.0.0.1:9999 --scan {n},{n} --udf Sum --count 1 -o sum.h5
and with the file
  libstream run {scan} {given} --udf bf=VirtualDetector -p outer='8 mrad' -o bf.h5 --plot bf.png
  libstream rerun bf.h5
  libstream new-udf Brightest      # then: libstream run {scan} --udf brightest.py:Brightest -p threshold=10 --plot brightest.png
  libstream plugins udfs""")
    return OK


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


COMMAND = Command("try it: a simulated detector streams, UDFs process it live, the page shows it", _configure, _run, _EXAMPLES)
