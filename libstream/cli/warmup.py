"""`libstream warmup`: compile the kernels of the built-in UDFs now, so that first runs do not wait for it."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream import api, registry
from libstream.api import WarmsUp
from libstream.cli.command import FAILED, OK, Command, duration, n_of, one_line, say, tell
from libstream.config import cache_dir, n_workers
from libstream.errors import LibstreamError, ParameterError, UsageError
from libstream.model.corrections import Corrections

DTYPES = ("uint8", "uint16", "uint32", "float32")
"""What detectors give; other dtypes are compiled at their first use."""
_FRAME, _SCAN = (24, 32), (4, 4)

_EXAMPLES = """\
  libstream warmup                     all built-in UDFs, for uint8, uint16, uint32, float32
  libstream warmup Sum --dtype int16   one UDF, for another dtype"""


@dataclass(frozen=True)
class _Done:
    name: str
    seconds: float
    skipped: str = ""
    failed: str = ""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("udfs", nargs="*", metavar="UDF", help="names of UDFs (default: all)")
    parser.add_argument("--dtype", dest="dtypes", action="append", metavar="DTYPE", help=f"dtype of frames (default: {', '.join(DTYPES)})")
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="processes that compile (default: one a processor)")


def _run(args: argparse.Namespace) -> int:
    if not args.udfs:
        _warm_formats()
    names = args.udfs or [p.name for p in registry.plugins("udfs") if p.value.startswith("libstream.")]
    for name in args.udfs:
        registry.load("udfs", name)  # a misspelt name is said now
    dtypes = tuple(str(np.dtype(d)) for d in args.dtypes or DTYPES)
    started = time.monotonic()
    done: list[_Done] = []
    jobs = min(args.jobs or n_workers(), len(names))
    if jobs <= 1:
        for name in names:
            done.append(warm(name, dtypes))
            _say(done[-1], len(done), len(names))
    else:
        # compiling holds a lock of numba, so that only processes do it side by side; spawn: this process may have threads
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            for future in as_completed([pool.submit(warm, name, dtypes) for name in names]):
                done.append(future.result())
                _say(done[-1], len(done), len(names))
    failed = [d for d in done if d.failed]
    ready = sum(not d.failed and not d.skipped for d in done)
    say(f"{n_of(ready, 'UDF')} ready for {', '.join(dtypes)} in {duration(time.monotonic() - started)}; compiled code: {cache_dir()}")
    return FAILED if failed else OK


def _warm_formats() -> None:
    """Decoders of frames."""
    for plugin in registry.plugins("formats"):
        fmt = registry.load("formats", plugin.name)()
        if isinstance(fmt, WarmsUp):
            started = time.monotonic()
            fmt.warm_up()
            tell(f"reading {plugin.name}: {duration(time.monotonic() - started)}")


def _say(done: _Done, number: int, of: int) -> None:
    what = done.failed or (f"left out: {done.skipped}" if done.skipped else duration(done.seconds))
    tell(f"{number} of {of}: {done.name}: {what}")


def warm(name: str, dtypes: tuple[str, ...]) -> _Done:
    """Run UDF `name` over tiny data of each dtype: frames in one block and with gaps between them, raw and corrected."""
    started = time.monotonic()
    try:
        cls = registry.load("udfs", name)
        if not cls.dry_run:
            return _Done(name, 0.0, "it writes files")
        udfs = cls.examples(_FRAME) or [u for u in (_example(cls),) if u is not None]
        if not udfs:
            return _Done(name, 0.0, "it has parameters without a default, so it is compiled at its first use")
        unfit: list[str] = []
        for dtype in dtypes:
            try:
                for data, corrections in _data(np.dtype(dtype), corrected=dtype == dtypes[0]):
                    for udf in udfs:
                        api.run(data, {"warmup": udf}, executor="inline", corrections=corrections)
            except UsageError as exc:  # its defaults do not suit this dtype
                unfit.append(f"{dtype} ({one_line(exc)})")
        if unfit:
            return _Done(name, time.monotonic() - started, "; ".join(unfit))
    except LibstreamError as exc:
        return _Done(name, time.monotonic() - started, failed=one_line(exc))
    except Exception as exc:  # noqa: BLE001  one broken plug-in must not keep the others cold
        return _Done(name, time.monotonic() - started, failed=f"{type(exc).__name__}: {one_line(exc)}")
    return _Done(name, time.monotonic() - started)


def _example(cls: type[Any]) -> Any:
    """An instance with default parameters, required positions being (0, 0); None where something else is required."""
    from libstream.contracts.params import make, schema

    required = schema(cls).get("required", [])
    try:
        return make(cls, {n: np.zeros((1, len(_SCAN)), np.int64) for n in required if n == "positions"})
    except ParameterError:
        return None


def _data(dtype: np.dtype[Any], *, corrected: bool) -> list[tuple[np.ndarray[Any, Any], Corrections | None]]:
    frames = np.ones((*_SCAN, *_FRAME), dtype)
    # as in files with a header for each frame, and as bands of large frames
    gapped = np.ones((*_SCAN, _FRAME[0] + 1, _FRAME[1]), dtype)[:, :, :-1]
    # what comes out of corrections is a float, whatever went in
    return [(frames, None), (gapped, None), *([(frames, Corrections(dark=np.zeros(_FRAME)))] if corrected else [])]


COMMAND = Command("compile the kernels of the built-in UDFs now", _configure, _run, _EXAMPLES)
