"""The verbs: open, connect, start, run, run_iter, arun, arun_iter, map, load_result. Names -> plug-ins -> run."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from libstream import registry
from libstream.connecting import connect, record, replay, route, watch
from libstream.contracts.executor import Executor
from libstream.contracts.source import FrameSource, WarmsUp
from libstream.contracts.udf import UDF
from libstream.errors import FormatError, UsageError
from libstream.executing import cluster_of, executor, named, shutdown
from libstream.live.source import Acquisition, LiveSource
from libstream.model.corrections import Corrections
from libstream.model.result import Result
from libstream.opening import open_source
from libstream.route.source import RoutedSource
from libstream.run.again import Comparison, compare, differences, rebuild, stored_corrections, stored_roi
from libstream.run.bind import OnChannel
from libstream.run.job import Job, Progress

__all__ = [
    "Acquisition", "Comparison", "Job", "LiveSource", "OnChannel", "Progress", "Result", "RoutedSource", "WarmsUp", "arun", "arun_iter",
    "check_output", "cluster_of", "compare", "connect", "differences", "executor", "explain", "load_result", "map", "on", "open", "rebuild",
    "record", "register", "replay", "route", "run", "run_iter", "shutdown", "start", "stored_corrections", "stored_roi", "watch",
]  # fmt: skip

UDFs = UDF | OnChannel | Sequence[UDF | OnChannel] | Mapping[str, UDF | OnChannel]


def open(  # the door's name, as in every library of the field
    uri: Any,
    *,
    format: str | None = None,
    scan: Any = None,
    frame: Any = None,
    sync_offset: int | None = None,
    scan_step: Any = None,
    pixel: Any = None,
    centre: tuple[float, float] | None = None,
    rotation_deg: float | None = None,
    channel: str | None = None,
    io: str = "auto",
    **options: Any,
) -> FrameSource:
    """Open stored frames, without reading any. Files are recognised by content.

    Args:
        uri: a path, an address ("sim://?scan=64,64&frame=256,256&dtype=uint16"), an array (*scan, *frame), or a dict of arrays by channel.
        format: name of the format where it cannot be recognised ("raw").
        scan: shape of the scan, (y, x), where the file does not say or another one is wanted.
        frame: shape of a frame, (y, x).
        sync_offset: position p holds frame p + sync_offset; positions without a frame stay unseen.
        scan_step: step of the scan, "0.4 nm", or one for each axis.
        pixel: size of a detector pixel, "0.9 mrad", or one for each axis.
        centre: (y, x) of the optical axis in px.
        rotation_deg: rotation of the scan against the detector, anticlockwise, in degrees.
        channel: name of the channel to use where there are several.
        io: "auto" maps files into memory where that is safe; "read" never does; "direct" reads past the system's cache of
            files (for data larger than memory that are read once; flat formats on Linux).
        options: what the format takes (`libstream plugins` lists it), e.g. dtype=, offset=, dataset=.

    Raises:
        FileNotFoundError, FormatError, CorruptFileError, ShapeError, UsageError: with what, where and what to do.
    """
    return open_source(
        uri, format=format, scan=scan, frame=frame, sync_offset=sync_offset, scan_step=scan_step, pixel=pixel,
        centre=centre, rotation_deg=rotation_deg, channel=channel, io=io, options=options,
    )  # fmt: skip


def register(group: str, name: str, plugin: Any) -> None:
    """Add a plug-in to this process, without a package around it.

    After `ls.register("detectors", "mine", MyDetector)`, `ls.connect("mine://host:1234")` finds it.

    group: "detectors", "formats", "executors", "sinks" or "udfs". A package declares an entry point `libstream.<group>` instead.
    Raises UsageError for an unknown group, and where an installed plug-in has this name.
    """
    groups = get_args(registry.Group)
    if group not in groups:
        raise UsageError(f"there is no group {group!r} of plug-ins; there are {', '.join(groups)}")
    registry.register(group, name, plugin)  # type: ignore[arg-type]


def on(channel: str, udf: UDF) -> OnChannel:
    """Bind one UDF of a pass to a channel of the source: `ls.run(scan, [Sum(), ls.on("threshold_2", Sum())])`."""
    return OnChannel(channel, udf)


def start(
    source: FrameSource | Any,
    udfs: UDFs,
    *,
    roi: Any = None,
    corrections: Corrections | None = None,
    executor: str | Executor = "threads",
    progress: bool | Callable[[Progress], None] | None = None,
    order: str = "scan",
    profile: bool = False,
    tick_s: float | None = None,
) -> Job:
    """Start UDFs over a source in one pass; returns at once.

    Args:
        source: from `ls.open`, or anything that `ls.open` takes.
        udfs: a UDF, a list (keys from class names, "virtual_detector", "virtual_detector_2"), or a dict by key.
        roi: which positions: a bool array of exactly the scan's shape, slices, or positions (k, 2) as (y, x).
        corrections: dark, gain and excluded pixels.
        executor: "threads", "inline", "processes", "dask" (processes of this computer), "dask://host:8786" (a cluster), a
            `distributed.Client`, or an executor object.
        progress: True for a progress bar, or a function of `Progress`.
        order: "scan", or "coarse" to see the whole scan early.
        profile: time each UDF alone, for `Job.profile()`; costs some speed where several share a pass.
        tick_s: least time between two snapshots (default: the source's).

    Raises:
        UsageError, ShapeError, ParameterError, UDFError: everything that can be checked is checked before work starts.
    """
    return _job(source, udfs, roi, corrections, executor, progress, order, profile, tick_s).start()


def run(
    source: FrameSource | Any,
    udfs: UDFs,
    *,
    roi: Any = None,
    corrections: Corrections | None = None,
    executor: str | Executor = "threads",
    progress: bool | Callable[[Progress], None] | None = None,
) -> Result:
    """Run UDFs over a source in one pass and wait for the result. Arguments and errors as for `start`.

    Ctrl-C cancels the run and raises KeyboardInterrupt.
    """
    job = _job(source, udfs, roi, corrections, executor, progress, "scan", tick_s=math.inf)
    if job.in_caller:
        *_, last = job.steps()
        return last
    job.start()
    try:
        return job.wait()
    except KeyboardInterrupt:
        job.cancel()
        raise


def explain(
    source: FrameSource | Any, udfs: UDFs, *, roi: Any = None, corrections: Corrections | None = None, executor: str | Executor = "threads"
) -> str:
    """The plan of a run in words, one choice a line, without running it. Arguments and errors as for `start`."""
    return _job(source, udfs, roi, corrections, executor, None, "scan").explain()


def run_iter(
    source: FrameSource | Any,
    udfs: UDFs,
    *,
    roi: Any = None,
    corrections: Corrections | None = None,
    executor: str | Executor = "threads",
    progress: bool | Callable[[Progress], None] | None = None,
    order: str = "scan",
) -> Iterator[Result]:
    """As `run`, yielding the newest result while it grows; older ones are skipped, the last one is final.

    The consumer never slows the run. Leaving the loop cancels it.
    """
    job = _job(source, udfs, roi, corrections, executor, progress, order)
    return job.steps() if job.in_caller else job.start().results()


async def arun(source: FrameSource | Any, udfs: UDFs, **options: Any) -> Result:
    """`run` for asyncio: the event loop stays free; cancelling the task cancels the run."""
    job = await asyncio.to_thread(lambda: start(source, udfs, **options))
    try:
        return await asyncio.to_thread(job.wait)
    except asyncio.CancelledError:
        job.cancel()
        raise


async def arun_iter(source: FrameSource | Any, udfs: UDFs, **options: Any) -> AsyncIterator[Result]:
    """`run_iter` for asyncio."""
    job = await asyncio.to_thread(lambda: start(source, udfs, **options))
    results = job.results()
    try:
        while (result := await asyncio.to_thread(next, results, None)) is not None:
            yield result
    finally:
        job.cancel()


def map(source: FrameSource | Any, func: Callable[[np.ndarray[Any, Any]], Any], **options: Any) -> Any:
    """`func(frame)` for every scan position, as an array of shape (*scan, *shape of func's result).

    options: as for `run`. Positions that were not processed hold NaN (or the largest integer).
    """
    from libstream.registry import load

    return run(source, {"map": load("udfs", "FrameMap")(func=func)}, **options)["map"]["value"]


def load_result(path: str | Path) -> Result:
    """Read a result that `Result.save` wrote. Raises FileNotFoundError, FormatError."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    from dataclasses import replace

    return replace(_sink_for(path).load(path), saver=save_result)


def save_result(result: Result, path: Path) -> None:
    """Write `result` by the sink that knows the ending of `path`."""
    _sink_for(path).save(result, path)


def check_output(path: str | Path) -> None:
    """Raise before a run what `Result.save` would raise after it: an unknown ending, a file that is no result, no such folder."""
    path = Path(path)
    _sink_for(path).check(path)


def _sink_for(path: Path) -> Any:
    known: list[str] = []
    for plugin in registry.plugins("sinks"):
        sink = registry.load("sinks", plugin.name)()
        known += sink.suffixes
        if path.suffix.lower() in sink.suffixes:
            return sink
    raise FormatError(f"{path}: nobody writes results with the ending {path.suffix!r}; use one of {', '.join(known)}")


# -- arguments ---------------------------------------------------------------------------------------------------------


def _job(
    source: Any,
    udfs: UDFs,
    roi: Any,
    corrections: Any,
    ex: str | Executor,
    progress: Any,
    order: str,
    profile: bool = False,
    tick_s: float | None = None,
) -> Job:
    if isinstance(source, (LiveSource, RoutedSource)):
        source = source.wait()
    elif not isinstance(source, FrameSource):
        source = open(source)
    if progress is True:
        from libstream.progressbar import Bar

        progress = Bar()
    return Job(
        source,
        keyed(udfs),
        executor=named(ex),
        roi=roi,
        corrections=corrections,
        progress=progress or None,
        order=order,
        saver=save_result,
        profile=profile,
        tick_s=tick_s,
    )


def keyed(udfs: UDFs) -> dict[str, UDF | OnChannel]:
    """UDFs by key: a dict as it is, else keys from the class names in snake_case, repeated ones with a number."""
    if isinstance(udfs, Mapping):
        items = {str(k): v for k, v in udfs.items()}
        for key in items:
            if not key.isidentifier():
                raise UsageError(f"the key of a UDF is a Python name, got {key!r}")
    else:
        listed = [udfs] if isinstance(udfs, (UDF, OnChannel)) or not isinstance(udfs, Sequence) else list(udfs)
        items = {}
        for u in listed:
            inner = u.udf if isinstance(u, OnChannel) else u
            given = inner if isinstance(inner, type) else type(inner)
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", given.__name__).lower()
            key, n = name, 2
            while key in items:
                key, n = f"{name}_{n}", n + 1
            items[key] = u
    for key, u in items.items():
        inner = u.udf if isinstance(u, OnChannel) else u
        if isinstance(inner, type) and issubclass(inner, UDF):
            raise UsageError(f"{key}: pass an instance, {inner.__name__}(), not the class")
        if not isinstance(inner, UDF):
            raise UsageError(f"{key}: {inner!r} is not a UDF")
    return items
