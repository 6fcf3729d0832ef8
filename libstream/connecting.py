"""The verbs of live sources: connect, record, replay, watch. Names -> plug-ins -> live."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from libstream import registry
from libstream.contracts.dealt import KeepsConsumers
from libstream.contracts.indexing import memory_available
from libstream.contracts.source import FrameSource
from libstream.contracts.stream import StreamUrl
from libstream.errors import UsageError
from libstream.executing import named
from libstream.live.source import LiveSource
from libstream.live.watch import WatchedFile
from libstream.model.source import SourceMeta
from libstream.opening import described, open_source, scan_shape, watch_source
from libstream.route.connect import Cluster, connect_routed


def connect(
    url: str,
    *,
    scan: Any = None,
    order: str = "raster",
    flyback: int = 0,
    frames_per_position: int = 1,
    positions: Any = None,
    shape_hook: Callable[[int, Any], Any] | None = None,
    scan_step: Any = None,
    pixel: Any = None,
    centre: tuple[float, float] | None = None,
    rotation_deg: float | None = None,
    ring_bytes: int | None = None,
    max_message_bytes: int | None = None,
    policy: str = "block",
    stall_timeout_s: float | None = None,
    record: str | Path | None = None,
    executor: Any = None,
    cluster: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Connect to a detector. Frames come in from now on; iterate, or `wait()`, for acquisitions, and use each like a file.

    Args:
        url: "dectris://host:9999?api=80", "merlin://host:6342", "sectors://host:6001-6004?info=6005", "libstream://host:9876";
            `libstream plugins` lists them.
        scan: shape of the scan (y, x); default: what the stream says, then `shape_hook`, then (number of frames,).
        order: "raster", or "serpentine" for lines in alternating directions.
        flyback: frames at the end of each line that belong to no position.
        frames_per_position: frames at each position, one after another; they become one more axis of the scan.
        positions: a custom path: for each frame its flat position, or (y, x); negative ones belong to none.
        shape_hook: f(n_frames, header) -> scan shape, asked when neither `scan` nor the stream says one.
        scan_step, pixel, centre, rotation_deg: calibration, as for `open`.
        ring_bytes: memory for frames (default: a quarter of the machine's memory). Frames are kept there while it lasts, so that
            parameters can be changed for the whole scan.
        max_message_bytes: largest message that is accepted (default: a 64th of the memory for frames).
        policy: where frames come faster than they are processed and the memory is full: "block" lets the detector wait,
            "drop" throws new frames away and counts them.
        stall_timeout_s: silence after which a running acquisition is closed as incomplete (default: 5 s, or 20 frame times).
        record: folder; everything that arrives is written there, too (docs/how-to/record-and-replay.md).
        executor: name or executor whose workers are to take the frames themselves ("dask"): a router is started on this computer and deals
            them out. "router://host:9880" as url takes the frames of one that runs (`libstream route`). Give the same executor to `start`.
        cluster: how router, workers and this program reach each other, see `libstream.route.connect.Cluster`: listen=, results=, health=,
            curve=, consumers=, consumer_bytes=, consumer_health=, wait_s=, timeout_s=, block_timeout_s= (docs/how-to/live-on-a-cluster.md).
        options: what the kind of detector takes.

    Returns a `LiveSource`; with `executor` a `RoutedSource`, which is used in the same way.

    Raises:
        UsageError: a bad address or option. NotInstalledError: a package is missing. OSError: the address cannot be bound.
    """

    def describe(meta: SourceMeta) -> SourceMeta:
        return described(meta, None, None, None, scan_step, pixel, centre, rotation_deg)

    parsed = StreamUrl.parse(url)
    given = {"order": order, "flyback": flyback, "frames_per_position": frames_per_position, "positions": positions}
    shape = None if scan is None else scan_shape("scan", scan)
    if parsed.scheme == "router" or (executor is not None and isinstance(named(executor), KeepsConsumers)):
        if executor is None:
            raise UsageError(f"{url}: frames of a router go to the workers of a cluster: connect with executor='dask' or a similar one")
        if shape_hook is not None:
            raise UsageError("a shape hook cannot be asked by a router, which is another process: give scan=")
        received = {
            "scan": shape, **given, "policy": policy, "ring_bytes": ring_bytes, "max_message_bytes": max_message_bytes,
            "stall_timeout_s": stall_timeout_s, "record": record,
        }  # fmt: skip
        return connect_routed(parsed, named(executor), Cluster.of(cluster), received, options, describe)
    if cluster is not None:
        raise UsageError("cluster= is for an executor whose workers take frames from a router, such as executor='dask'")
    kind = registry.load("detectors", parsed.scheme)()
    detector = kind.receiver(parsed, **options)
    recorder = None
    if record is not None:
        from libstream.live.record import Recorder

        recorder = Recorder(record, url, parsed.scheme, options=options)
    try:
        return LiveSource(
            detector, url, scan=shape, order=given, shape_hook=shape_hook,
            ring_bytes=int(min(memory_available(), 1 << 40) // 4 if ring_bytes is None else ring_bytes),
            max_message_bytes=max_message_bytes, policy=policy, stall_timeout_s=stall_timeout_s, describe=describe, recorder=recorder,
        )  # fmt: skip
    except BaseException:
        if recorder is not None:
            recorder.close()
        raise


def route(
    urls: str | Sequence[str],
    *,
    listen: str = "tcp://127.0.0.1:9880",
    memory: int | None = None,
    timeout_s: float | None = None,
    block_timeout_s: float = 60.0,
    curve: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A router in this process: receives from detectors, deals frames out to consumers. `libstream route` on the command line.

    Args:
        urls: addresses of one or several detectors, as for `connect`.
        listen: where consumers and clients connect; port 0 finds a free one (`address` says it).
        memory: for frames (default: a quarter of the machine's memory, shared by all detectors).
        timeout_s: silence of a detector that ends a scan, and of a consumer that gives it up (default: 5 s).
        block_timeout_s: time that a consumer has for a block.
        curve: keys, {"secret": ..., "clients": ...}: each a key or a file of `zmq.auth.create_certificates`.
        options: as for `connect`: scan=, order=, policy=, record= ...

    Returns a `libstream.route.hub.Hub`, a context manager: address, health(), close(). Raises OSError, UsageError.
    """
    from contextlib import ExitStack

    from libstream.route.hub import LOST_S, Hub

    if timeout_s is not None and not timeout_s > 0:
        raise UsageError(f"a timeout is a time in seconds, above 0, got {timeout_s!r}")
    listed = [urls] if isinstance(urls, str) else list(urls)
    share = (int(min(memory_available(), 1 << 40) // 4) if memory is None else memory) // max(1, len(listed))
    given = {"ring_bytes": share, "stall_timeout_s": timeout_s, **{k: v for k, v in options.items() if v is not None}}
    with ExitStack() as stack:
        sources = [stack.enter_context(connect(url, **given)) for url in listed]
        hub = Hub(sources, listen, curve=curve, lost_s=timeout_s or LOST_S, block_s=block_timeout_s)
        stack.pop_all()
        return hub.start()


def replay(source: FrameSource | str | Path, url: str, **options: Any) -> Any:
    """Serve a source as a detector does: encoded anew, or the raw messages of a recording. Returns an account of what was sent.

    Args:
        source: from `ls.open`, or anything that it opens. The folder of a recording of the same kind of detector is sent message by
            message, as it was.
        url: as what, and where: "dectris://127.0.0.1:9999" binds there, "libstream://host:9876" connects.
        options: rate= (frames/s), repeat=, run=, seed=, and faults to try out a receiver: loss=, duplicate=, reorder=, corrupt=,
            truncate=, stall_at=, die_at= and others; see `libstream.live.replay.replay` and docs/how-to/record-and-replay.md.

    Raises:
        UsageError, OSError, TimeoutError: a bad address or option; it cannot be bound; nobody took a message for `patience_s`.
    """
    from libstream.live.replay import is_recording_of
    from libstream.live.replay import replay as serve

    if not isinstance(source, FrameSource) and not is_recording_of(source, url):
        source = open_source(
            source, format=None, scan=None, frame=None, sync_offset=None, scan_step=None, pixel=None, centre=None, rotation_deg=None,
            channel=None, io="auto", options={},
        )  # fmt: skip
    return serve(source, url, **options)


def record(url: str, folder: str | Path, **options: Any) -> Any:
    """Write what a detector sends to a folder, without processing it; `ls.open(folder)` reads it. Returns what was recorded.

    options: see `libstream.live.capture.record`. Raises UsageError, OSError, SaveError.
    """
    from libstream.live.capture import record as capture

    return capture(url, folder, **options)


def watch(
    uri: str | Path,
    *,
    scan: Any = None,
    frames: int | None = None,
    format: str | None = None,
    frame: Any = None,
    sync_offset: int | None = None,
    scan_step: Any = None,
    pixel: Any = None,
    centre: tuple[float, float] | None = None,
    rotation_deg: float | None = None,
    channel: str | None = None,
    stall_timeout_s: float = 10.0,
    poll_s: float = 0.02,
    **options: Any,
) -> WatchedFile:
    """Watch a file that is still being written (raw, npy, mib). Iterate, or `wait()`, for its acquisition, and use that like a file.

    A run over it processes frames as they appear, and ends when all are there, or when the file has not grown for
    `stall_timeout_s` seconds: then the positions without a frame are missing, and the result is incomplete.

    Args:
        uri: path; the file need not exist yet.
        scan: shape of the scan (y, x); where the file itself does not say it, it also says how many frames there will be.
        frames: number of frames that there will be, where neither `scan` nor the file says it.
        stall_timeout_s: silence after which no more frames are expected.
        poll_s: how often the length of the file is looked at.
        format, frame, sync_offset, scan_step, pixel, centre, rotation_deg, channel, options: as for `open`.

    Raises:
        FormatError, ShapeError, UsageError: as `open` does, once the file is there.
    """
    if not stall_timeout_s > 0 or not poll_s > 0:
        raise UsageError(f"stall_timeout_s and poll_s are times in seconds, above 0, got {stall_timeout_s!r} and {poll_s!r}")

    def look() -> Any:
        return watch_source(
            uri, format=format, scan=scan, frame=frame, frames=frames, sync_offset=sync_offset, scan_step=scan_step, pixel=pixel,
            centre=centre, rotation_deg=rotation_deg, channel=channel, options=options,
        )  # fmt: skip

    return WatchedFile(look, str(uri), stall_timeout_s=stall_timeout_s, poll_s=poll_s)
