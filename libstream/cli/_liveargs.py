"""Options of `ls.connect` on the command line."""

from __future__ import annotations

import argparse
import re
from typing import Any

from libstream.cli._openargs import load_array, pair, shape

_NAMES = (
    "scan", "order", "flyback", "frames_per_position", "policy", "ring_bytes", "max_message_bytes", "stall_timeout_s", "scan_step", "pixel",
    "centre", "rotation_deg",
)  # fmt: skip
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def n_bytes(text: str) -> int:
    """A size such as 4G, 500M, 2GiB or 1000000."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]i?)?B?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 500M, 4G or 2GiB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def add_live_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `ls.connect` takes."""
    scan = parser.add_argument_group("the scan")
    scan.add_argument("--scan", type=shape, metavar="Y,X", help="shape of the scan, where the stream does not say it (256,256)")
    scan.add_argument("--order", choices=("raster", "serpentine"), help="serpentine: lines in alternating directions")
    scan.add_argument("--flyback", type=int, metavar="N", help="frames at the end of each line that belong to no position")
    scan.add_argument("--frames-per-position", type=int, metavar="N", help="frames at each position, one after another")
    scan.add_argument("--positions", metavar="FILE", help="a custom path (.npy or file.h5:/dataset): position of each frame, -1 for none")
    scan.add_argument("--scan-step", metavar="STEP", help="distance of two scan positions ('0.4 nm')")
    scan.add_argument("--pixel", metavar="SIZE", help="size of a detector pixel ('0.9 mrad')")
    scan.add_argument("--centre", type=pair, metavar="Y,X", help="optical axis on the detector [px]")
    scan.add_argument("--rotation", dest="rotation_deg", type=float, metavar="DEG", help="rotation of the scan against the detector [deg]")
    how = parser.add_argument_group("the stream")
    how.add_argument(
        "--policy", choices=("block", "drop"), help="when the memory is full: let the detector wait (default), or drop, counted"
    )
    how.add_argument("--ring-bytes", type=n_bytes, metavar="SIZE", help="memory for frames, such as 4G (default: a quarter of the memory)")
    how.add_argument("--max-message-bytes", type=n_bytes, metavar="SIZE", help="largest message that is accepted")
    how.add_argument(
        "--stall-timeout", dest="stall_timeout_s", type=float, metavar="S", help="silence that ends an acquisition [s] (default: 5)"
    )


def live_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `ls.connect` that were given on the command line."""
    out = {name: getattr(args, name) for name in _NAMES if getattr(args, name) is not None}
    if args.positions is not None:
        out["positions"] = load_array(args.positions, "--positions")
    return out
