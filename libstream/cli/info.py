"""`libstream info`: what is in a file, without reading its frames."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from libstream import api
from libstream.cli._one import statistics
from libstream.cli._openargs import add_open_arguments, open_options
from libstream.cli.command import OK, Command, as_options, jsonable, n_of, say, say_json, size
from libstream.errors import FormatError

_EXAMPLES = """\
  libstream info scan.mib
  libstream info scan.mib --scan 256,256 --scan-step '0.4 nm' --pixel '0.9 mrad'     with what you know of it
  libstream info raw.bin --format raw --dtype u2 --frame 256,256
  libstream info out.h5                                                               a result: what was computed, and how
  libstream info scan.mib --json"""

_SHORT = 16
"""Rows of vendor metadata shown without --all."""
_LONG = 100
"""Characters of one value shown without --all."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--all", action="store_true", help="show all metadata of the vendor, in full length")
    add_open_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    options = open_options(args)
    if not options and (result := _result_in(args.file)) is not None:
        _say_result(args.file, result, as_json=args.json)
        return OK
    source = api.open(args.file, **options)
    if args.json:
        say_json(_described(source))
    else:
        _say_source(args.file, source, everything=args.all)
    return OK


def _described(source: Any) -> dict[str, Any]:
    meta = source.meta
    return {
        "kind": "source",
        "file": meta.id.uri,
        "format": meta.id.kind,
        "shape": {"nav": list(meta.shape.nav), "sig": list(meta.shape.sig)},
        "dtype": str(meta.dtype),
        "n_frames": meta.n_frames,
        "n_positions": meta.shape.n_positions,
        "bytes_in_file": meta.id.n_bytes,
        "bytes_in_memory": meta.n_bytes,
        "axes": [{"name": a.name, "size": a.size, "step": a.step, "offset": a.offset, "unit": a.unit} for a in meta.axes],
        "sync_offset": meta.sync_offset,
        "channel": source.channel_name,
        "channels": {
            name: {"sig": list(m.shape.sig), "dtype": str(m.dtype)} for name in meta.channels for m in (source.channel_meta(name),)
        },
        "centre": meta.centre,
        "rotation_deg": meta.rotation_deg,
        "notes": list(meta.notes),
        "fingerprint": meta.id.fingerprint,
        "vendor": dict(meta.vendor),
    }


def _say_source(file: str, source: Any, *, everything: bool) -> None:
    meta = source.meta
    rows = [
        ("format", meta.id.kind),
        ("shape", f"{meta.shape}  = {n_of(meta.shape.n_positions, 'position')} of {' × '.join(map(str, meta.shape.sig))} pixels"),
        ("dtype", str(meta.dtype)),
        ("size", f"{size(meta.n_bytes)} as frames" + (f", {size(meta.id.n_bytes)} in the file" if "://" not in file else "")),
    ]
    if meta.n_frames != meta.shape.n_positions:
        rows.append(("frames", f"{meta.n_frames:,} in the file"))
    rows += [("axes" if i == 0 else "", _axis(a)) for i, a in enumerate(meta.axes)]
    for i, name in enumerate(meta.channels if len(meta.channels) > 1 else ()):
        m = source.channel_meta(name)
        used = "  (used)" if name == source.channel_name else ""
        rows.append(("channels" if i == 0 else "", f"{name}: {' × '.join(map(str, m.shape.sig))} {m.dtype}{used}"))
    if meta.centre is not None:
        rows.append(("centre", f"{', '.join(f'{c:g}' for c in meta.centre)} px"))
    if meta.rotation_deg is not None:
        rows.append(("rotation", f"{meta.rotation_deg:g} deg"))
    say(file)
    for name, text in rows:
        say(f"  {name:<9} {text}")
    vendor = list(_flat(meta.vendor))
    shown = vendor if everything else vendor[:_SHORT]
    if vendor:
        say("  metadata")
        width = min(44, max(len(name) for name, _ in shown))
        for name, value in shown:
            say(f"    {name:<{width}}  {value if everything or len(value) <= _LONG else value[: _LONG - 3] + '...'}")
        if len(shown) < len(vendor):
            say(f"    ... and {len(vendor) - len(shown)} more (--all)")
    for note in meta.notes:
        say(f"  note: {as_options(note)}")


def _axis(axis: Any) -> str:
    if not axis.calibrated:
        return f"{axis.name}: {axis.size} px" if axis.name != "frame" else f"{axis.name}: {axis.size}"
    start = f", from {axis.offset:g} {axis.unit}" if axis.offset else ""
    return f"{axis.name}: {axis.size} × {axis.step:g} {axis.unit} = {axis.size * abs(axis.step):.4g} {axis.unit}{start}"


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        name = f"{before}{key}"
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{name}.")
        elif isinstance(inner, np.ndarray) and inner.size > 8:
            yield name, f"array {inner.shape} {inner.dtype}"
        else:
            text = inner.decode("utf-8", "replace") if isinstance(inner, bytes) else str(jsonable(inner))
            yield name, " ".join(text.split())


# -- result files ------------------------------------------------------------------------------------------------------


def _result_in(file: str) -> Any:
    """The `Result` stored in `file`, or None where it is something else."""
    if "://" in file or not Path(file).is_file():
        return None
    try:
        return api.load_result(file)
    except FormatError:
        return None


def _say_result(file: str, result: Any, *, as_json: bool) -> None:
    if as_json:
        results = {
            key: {n: {**statistics(d), "unit": o.declared[n].unit if n in o.declared else ""} for n, d in o.items()}
            for key, o in result.udfs.items()
        }
        say_json({"kind": "result", "file": file, "complete": result.complete, "coverage": result.coverage.counts, "results": results,
                  "run": dict(result.run)})  # fmt: skip
        return
    say(f"{file}: a result of libstream, {'complete' if result.complete else 'incomplete'}: {result.coverage}")
    run = result.run
    source, times, host = run.get("source", {}), run.get("times", {}), run.get("host", {})
    fingerprint = str(source.get("fingerprint", ""))[:12] or "none"
    say(f"  source   {source.get('path') or source.get('uri', '?')}  ({source.get('kind', '?')}, fingerprint {fingerprint})")
    say(f"  made     {times.get('started', '?')}, {times.get('seconds', float('nan')):.3g} s, by libstream {run.get('libstream', '?')} "
        f"on {host.get('name', '?')}, executor {run.get('executor', '?')}")  # fmt: skip
    for key, outputs in result.udfs.items():
        entry = run.get("udfs", {}).get(key, {})
        params = ", ".join(f"{n}={_param(v)}" for n, v in entry.get("params", {}).items())
        say(f"  {key:<8} {entry.get('name', '?')}({params})  [{entry.get('class', '?')}]")
        for name, data in outputs.items():
            found = statistics(data)
            unit = outputs.declared[name].unit if name in outputs.declared else ""
            span = f", {found['min']:.6g} to {found['max']:.6g}" if "min" in found else ""
            records = f", {n_of(found['records'], 'record')}" if "records" in found else ""
            say(f"           {name}: {tuple(found['shape'])} {found['dtype']}{f' [{unit}]' if unit else ''}{span}{records}")


def _param(value: Any) -> str:
    if isinstance(value, Mapping) and "array" in value:
        return f"array {tuple(value.get('shape', ()))} {value.get('dtype', '')}"
    return str(value)


COMMAND = Command("show what is in a file: shape, dtype, axes, channels, metadata", _configure, _run, _EXAMPLES)
