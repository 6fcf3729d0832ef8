"""Arguments that say how a file is to be opened; used by every command that opens one."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path
from typing import Any

import numpy as np

from libstream.errors import NotInstalledError, UsageError

_SHAPE = re.compile(r"\d+(?:\s*[,x×]\s*\d+)*\s*,?")
OPTIONS = ("format", "scan", "frame", "dtype", "dataset", "channel", "sync_offset", "scan_step", "pixel", "centre", "rotation_deg")
"""Names that `[open]` of a recipe and the provenance share with `ls.open`, besides those of a format."""


def shape(text: str) -> tuple[int, ...]:
    """Sizes from "256,256" or "256x256", slow axis first. Raises ArgumentTypeError."""
    if not _SHAPE.fullmatch(text.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; write whole numbers, slow axis first: 256,256")
    sizes = tuple(int(part) for part in re.split(r"[,x×]", text) if part.strip())
    if 0 in sizes:
        raise argparse.ArgumentTypeError(f"{text!r} has a size of 0; every size is at least 1")
    return sizes


def pair(text: str) -> tuple[float, float]:
    """Two numbers (y, x) from "127.5,127.5". Raises ArgumentTypeError."""
    try:
        y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a pair of numbers y,x; write for example 127.5,127.5") from None
    return y, x


def dtype(text: str) -> str:
    """A dtype as numpy writes it ("u2", ">u2", "uint16", "float32"). Raises ArgumentTypeError."""
    try:
        numbers = np.dtype(text).kind in "biufc"
    except TypeError:
        numbers = False
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text!r} is not a dtype of numbers; write for example u2, >u2, uint16, float32")
    return text


def option(text: str) -> tuple[str, Any]:
    """(name, value) from "key=value": numbers, True/False/None, 2,3 and (2, 3) are read as such, anything else is text."""
    name, sign, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not sign or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    try:
        return name, ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        named = {"true": True, "false": False, "none": None}
        return name, named.get(value.strip().lower(), value)


def add_open_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ls.open`."""
    group = parser.add_argument_group("how to open the file")
    group.add_argument("--scan", type=shape, metavar="Y,X", help="shape of the scan, slow axis first (256,256)")
    group.add_argument("--frame", type=shape, metavar="Y,X", help="shape of a frame, where the file does not say it")
    group.add_argument("--dtype", type=dtype, help="dtype of a pixel, where the file does not say it (u2, >u2, float32)")
    group.add_argument("--dataset", metavar="PATH", help="data set inside of the file (/entry/data)")
    group.add_argument("--channel", metavar="NAME", help="channel to use, where there are several (threshold, counter, camera)")
    group.add_argument("--sync-offset", type=int, metavar="N", help="position p holds frame p + N (N may be negative)")
    group.add_argument("--scan-step", metavar="STEP", help="distance of two scan positions ('0.4 nm')")
    group.add_argument("--pixel", metavar="SIZE", help="size of a detector pixel ('0.9 mrad')")
    group.add_argument("--centre", type=pair, metavar="Y,X", help="optical axis on the detector [px] (--centre=-1,5 for negative numbers)")
    group.add_argument("--rotation", dest="rotation_deg", type=float, metavar="DEG", help="rotation of the scan against the detector [deg]")
    group.add_argument("--format", metavar="NAME", help="kind of file, instead of looking at it (`libstream plugins` lists them)")
    group.add_argument(
        "-O", dest="format_options", type=option, action="append", default=[], metavar="KEY=VALUE",
        help="option of the file format (may be repeated)",
    )  # fmt: skip


def open_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `ls.open` that were given on the command line."""
    given = {name: getattr(args, name) for name in OPTIONS}
    out = {name: value for name, value in given.items() if value is not None}
    out.update(dict(args.format_options))
    return out


def load_array(spec: str, what: str) -> np.ndarray[Any, Any]:
    """An array from "mask.npy" or "file.h5:/dataset" (or an HDF5 file with a single data set). Never unpickles.

    Raises UsageError naming `what` the array is for; OSError where the file cannot be read.
    """
    path, dataset = _split(spec)
    if not Path(path).is_file():
        raise UsageError(f"{what}: no file {path}")
    if path.lower().endswith((".h5", ".hdf5", ".hdf", ".nxs", ".emd")):
        return _from_hdf5(path, dataset, what)
    if not path.lower().endswith(".npy"):
        raise UsageError(f"{what}: {path} is neither .npy nor HDF5 (file.h5:/dataset)")
    try:
        loaded: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as exc:
        raise UsageError(f"{what}: {path} is not an array of numbers in .npy form ({exc})") from exc
    return loaded


def _split(spec: str) -> tuple[str, str]:
    match = re.match(r"(?i)(.+\.(?:h5|hdf5|hdf|nxs|emd)):(.+)$", spec)
    return (match[1], match[2]) if match else (spec, "")


def _from_hdf5(path: str, dataset: str, what: str) -> np.ndarray[Any, Any]:
    try:
        import h5py
    except ImportError as exc:
        raise NotInstalledError(f"{what}: reading {path} needs h5py, which is not installed: pip install h5py") from exc
    with h5py.File(path, "r") as file:
        names: list[str] = []
        file.visititems(lambda name, node: names.append(f"/{name}") if isinstance(node, h5py.Dataset) else None)
        if not dataset:
            if len(names) != 1:
                raise UsageError(f"{what}: {path} has {len(names)} data sets, say which one: {path}:/name ({', '.join(names[:8])})")
            dataset = names[0]
        node = file.get(dataset)
        if not isinstance(node, h5py.Dataset):
            raise UsageError(f"{what}: no data set {dataset} in {path}; it has: {', '.join(names[:8])}")
        return np.asarray(node[()])
