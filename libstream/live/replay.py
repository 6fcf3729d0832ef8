"""The other side of a wire: any source of frames, or a recording as it was, served as a detector would."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from libstream import registry
from libstream.codecs import lsr
from libstream.contracts.source import FrameReader, FrameSource
from libstream.contracts.stream import Encoder, FramePart, Outgoing, RunEnd, RunHeader, StreamUrl, Transport
from libstream.errors import CodecError, FormatError, UsageError, WireError
from libstream.live.faults import Faults, ReplayAccount
from libstream.live.record import ABOUT, data_files, read_about
from libstream.live.sending import Ahead, Begin, Item, Leave, Message, Note, Over, Sender, Sending, message
from libstream.model.shape import Region, Span

_Arr = np.ndarray[Any, Any]

AHEAD_BYTES = 256 << 20
"""Messages that are made before they are needed."""
_READ_BYTES = 4 << 20


def replay(
    source: FrameSource | str | Path,
    url: str,
    *,
    rate: float | None = None,
    run: int = 1,
    repeat: int = 1,
    pause_s: float = 0.0,
    seed: int = 0,
    progress: Callable[[Sending], None] | None = None,
    opened: Callable[[str], None] | None = None,
    cancel: threading.Event | None = None,
    patience_s: float = math.inf,
    ahead_bytes: int = AHEAD_BYTES,
    options: Mapping[str, Any] | None = None,
    **faults: Any,
) -> ReplayAccount:
    """Serve a source as the detector of `url` does, and return an account of what was done.

    Args:
        source: an opened source: its frames are encoded anew, in the order of its positions. Or the folder of a recording: its
            messages are sent as they came.
        url: where to, and as what: "dectris://127.0.0.1:9999" binds there, "libstream://host:7000" connects.
        rate: frames/s; None = as fast as they are taken.
        run: number of the first run; repeat: runs, one after another on the same connection, numbered on; pause_s: between them.
        seed: of the faults. The same seed does the same to the same source.
        progress: called some 20 times a second with a `Sending`. opened: called with the address once it is bound or connecting.
        cancel: setting it ends the replay within 0.1 s, also while nobody takes messages.
        patience_s: how long nobody may take a message until the replay gives up.
        ahead_bytes: messages that are kept ready, so that encoding does not limit the speed; without a rate the first one is sent
            when so many are made.
        options: what the sender of the detector takes (codec=, ...).
        faults: see `Faults`.

    Raises:
        UsageError: for an address, an option or a fault that cannot be. OSError: the address cannot be had.
        TimeoutError: nobody took a message for `patience_s`.
    """
    if rate is not None and not rate > 0:
        raise UsageError(f"rate is a number of frames per second above 0, got {rate}")
    if repeat < 1:
        raise UsageError(f"repeat is the number of runs, 1 or more, got {repeat}")
    address = StreamUrl.parse(url)
    kind = registry.load("detectors", address.scheme)()
    make_decoder = partial(kind.decoder, address)
    if not isinstance(source, FrameSource):
        about = read_about(Path(source))
        if about["detector"] != address.scheme:
            raise UsageError(
                f"{source} is a recording of {about['detector']}, its messages cannot be sent as {address.scheme}; "
                "open it (ls.open) and replay the source: its frames are then encoded anew"
            )
        make_decoder = partial(kind.decoder, StreamUrl.parse(about["url"]), **about.get("options", {}))
    transport, encoder = kind.sender(address, **dict(options or {}))
    return serve(
        source, transport, encoder, make_decoder, rate=rate, run=run, repeat=repeat, pause_s=pause_s, seed=seed,
        progress=progress, opened=opened, cancel=cancel, patience_s=patience_s, ahead_bytes=ahead_bytes, faults=Faults.of(faults),
    )  # fmt: skip


def is_recording_of(source: Any, url: str) -> bool:
    """True for the folder of a recording whose messages can be sent to `url` as they are."""
    if not isinstance(source, (str, Path)) or not (Path(source) / ABOUT).is_file():
        return False
    return bool(read_about(Path(source))["detector"] == StreamUrl.parse(url).scheme)


def serve(
    source: FrameSource | str | Path, transport: Transport, encoder: Encoder, make_decoder: Callable[[], Any], *, faults: Faults,
    rate: float | None, run: int, repeat: int, pause_s: float, seed: int, progress: Callable[[Sending], None] | None,
    opened: Callable[[str], None] | None, cancel: threading.Event | None, patience_s: float, ahead_bytes: int,
) -> ReplayAccount:  # fmt: skip
    """`replay` over a transport, with an encoder."""
    stream: Iterable[Item]
    if isinstance(source, FrameSource):
        stream = (item for k in range(repeat) for item in _encoded(source, encoder, run, k, faults, seed))
    else:
        folder = Path(source)
        for name in ("wrong_shape", "extra", "new_run_at", "foreign_at"):
            if getattr(faults, name):
                raise UsageError(
                    f"{name} needs frames that are encoded anew, and a recording is sent as it was; open it (ls.open) and replay the source"
                )
        stream = (item for k in range(repeat) for item in _recorded(folder, make_decoder(), faults, seed + k))
    account = ReplayAccount()
    sender = Sender(transport, account, faults, rate, seed, progress, cancel or threading.Event(), patience_s, pause_s)
    transport.open()
    begun = time.monotonic()
    try:
        if opened is not None:
            opened(transport.address)
        with Ahead(stream, ahead_bytes, sender.cancel, fill=rate is None) as ahead:
            for item in ahead:
                sender.take(item)
            sender.finish()
    except Over:
        pass
    finally:
        transport.close()
        account.seconds = time.monotonic() - begun
    return account


def _encoded(source: FrameSource, encoder: Encoder, first_run: int, k: int, faults: Faults, seed: int) -> Iterator[Item]:
    """The messages of the k-th run over a source."""
    n = source.meta.shape.n_positions
    step = 2 if faults.new_run_at is not None else 1  # each time a run is left, another one begins
    run = first_run + k * step
    if faults.new_run_at is not None and faults.new_run_at < n:
        yield from _frames(source, encoder, run, faults, seed + 1_000_003 * run, stop=faults.new_run_at)
        yield Leave(n - faults.new_run_at)
        run += 1
    yield from _frames(source, encoder, run, faults, seed + 1_000_003 * run, stop=n)
    for out in encoder.end():
        yield message("end", out)


def _frames(source: FrameSource, encoder: Encoder, run: int, faults: Faults, seed: int, stop: int) -> Iterator[Item]:
    n = source.meta.shape.n_positions
    yield Begin(run, n, seed)
    for out in encoder.begin(source.meta, run):
        yield message("header", out)
    random = np.random.default_rng([seed % (1 << 32), 1])
    kind = ""
    for number, frames in _read(source, 0, stop):
        if number == faults.foreign_at:
            list(encoder.begin(source.meta, run + 1_000_000))  # its header is never sent
            kind = "foreign"
        if frames is None:
            yield Note("absent", number)
            continue
        if faults.every is not None and number % faults.every == faults.every - 1:
            yield Note("skipped", number)
            continue
        if not kind and faults.wrong_shape and random.random() < faults.wrong_shape:
            for out in encoder.frame(number, {c: np.ascontiguousarray(f[:-1]) for c, f in frames.items()}):
                yield message("wrong_shape", out)
            continue
        for out in encoder.frame(number, frames):
            yield message(kind, out)
    if faults.extra and stop == n:
        last = next((f for _, f in _read(source, n - 1, n) if f is not None), None)
        for number in range(n, n + faults.extra) if last is not None else ():
            for out in encoder.frame(number, last or {}):
                yield message("extra", out)


def _read(source: FrameSource, start: int, stop: int) -> Iterator[tuple[int, dict[str, _Arr] | None]]:
    """(position, frames by channel) in order; None for positions whose frame is missing or corrupt in any channel."""
    meta = source.meta
    names = meta.channels if len(meta.channels) > 1 else (source.channel_name,)
    metas = {name: source.channel_meta(name) if name != source.channel_name else meta for name in names}
    readers: dict[str, FrameReader] = {}
    try:
        for name in names:
            readers[name] = source.opener.open_reader(name)
        size = sum(m.shape.frame_size * m.dtype.itemsize for m in metas.values())
        step = max(1, _READ_BYTES // max(1, size))
        for first in range(start, stop, step):
            count = min(step, stop - first)
            frame = first + meta.sync_offset
            lo, hi = max(0, -frame), min(count, meta.n_frames - frame)
            good = np.zeros(count, bool)
            arrays = {name: np.empty((count, *m.shape.sig), m.dtype) for name, m in metas.items()}
            if hi > lo:
                good[lo:hi] = True
                for name, reader in readers.items():
                    valid = reader.read_into(arrays[name][lo:hi], Span(frame + lo, frame + hi), Region.whole(metas[name].shape.sig))
                    if valid is not None:
                        good[lo:hi] &= valid
            for i in range(count):
                yield first + i, {name: a[i] for name, a in arrays.items()} if good[i] else None
    finally:
        for reader in readers.values():
            reader.close()


def raw_messages(folder: Path) -> Iterator[tuple[int, tuple[bytes, ...], int]]:
    """(session, parts, lane) of every message of a recording that can be read and whose checksums are right."""
    for path in data_files(folder):
        with open(path, "rb", buffering=0) as f:
            size = path.stat().st_size

            def read(at: int, n: int, f: Any = f) -> bytes:
                f.seek(at)
                return bytes(f.read(n))

            try:
                head = lsr.parse_file_head(read(0, lsr.FILE_HEAD))
            except CodecError as exc:
                if size < lsr.FILE_HEAD:
                    continue  # its writer was stopped at once
                raise FormatError(f"{path}: {exc}") from exc
            for block in lsr.blocks(read, size):
                if isinstance(block, lsr.Damage):
                    continue
                data = read(block.data, block.n_bytes)
                array = np.frombuffer(data, np.uint8)
                sums = lsr.sums(array, block.table[:, lsr.OFFSET], block.table[:, lsr.LENGTH])
                good = sums.view(np.int64) == block.table[:, lsr.SUM]
                edges = np.searchsorted(block.table[:, lsr.MESSAGE], np.arange(block.n_messages + 1))
                rows = block.table.tolist()
                for m in range(block.n_messages):
                    a, b = int(edges[m]), int(edges[m + 1])
                    if good[a:b].all():
                        parts = tuple(data[at : at + length] for _, at, length, _ in rows[a:b])
                        yield head.session, parts, 0 if block.lanes is None else int(block.lanes[m])


def _recorded(folder: Path, decoder: Any, faults: Faults, seed: int) -> Iterator[Item]:
    """The messages of a recording. Its decoder says which of them carry frames; what it does not understand is sent all the same."""
    runs = 0
    yield Begin("", 0, seed)  # messages before the first header
    for _, parts, lane in raw_messages(folder):
        kind, number = "other", None
        try:
            for event in decoder.feed(parts):
                if type(event) is FramePart:
                    kind, number = "", event.number
                elif type(event) is RunHeader:
                    kind = "header"
                    runs += 1
                    yield Begin(event.run, event.n_frames or 0, seed + 1_000_003 * runs)
                elif type(event) is RunEnd and kind == "other":
                    kind = "end"
        except WireError:
            pass
        if number is not None and faults.every is not None and number % faults.every == faults.every - 1:
            yield Note("skipped", number)
            continue
        yield Message(kind, Outgoing(parts, lane, number), sum(map(len, parts)))
