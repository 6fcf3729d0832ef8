"""What is where in a recording: its messages are walked once, by their headers, and the result is kept beside them."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from libstream.ext import CodecError, FormatError, FramePart, RunEnd, RunHeader, WireError, decoder_at, lsr
from libstream.io_backends.files._identity import StoredFile, may_map, stat_file

_Arr = np.ndarray[Any, Any]

ABOUT, INDEX = "recording.json", "index.lsx"
_MAGIC = b"LSRINDX1"
_MAX_HEAD = 256 * 1024 * 1024
_SMALL = 4096
"""Parts up to this size are checked while the index is made: headers, on which all else depends. Larger ones when they are read."""
_NAME = re.compile(r"messages-(\d{4,})\.lsr")

ROW = np.dtype(
    [
        *((name, "<i8") for name in ("number", "at", "size", "part_at", "part_size")), ("sum", "<u8"), ("file", "<u4"),
        *((name, "<u2") for name in ("sector", "channel", "kind", "bad")), ("spare", "<u4"),
    ]
)  # fmt: skip
"""A part of a frame: its number; bytes of its pixels; bytes and checksum of the part of the message they are in; which file, sector and
channel; which of the run's kinds (codec, shape, dtype); bad: its checksum was wrong already when the index was made."""


@dataclass
class RunIndex:
    """One run. rows: ROW (n,), in the order of arrival. kinds: (codec, shape, dtype) by number. ended: its end was recorded."""

    header: RunHeader
    rows: _Arr = field(default_factory=lambda: np.zeros(0, ROW))
    kinds: list[tuple[str, tuple[int, int], str]] = field(default_factory=list)
    ended: bool = False


@dataclass
class Index:
    """All runs of a recording. check: checksum of the table, "" where it could not be stored. sectors: of a frame, 0 = not known."""

    files: tuple[StoredFile, ...]
    runs: list[RunIndex]
    sectors: int
    notes: list[str]
    check: str = ""


def read_about(folder: str) -> dict[str, Any]:
    """`recording.json`. Raises FormatError where it is none."""
    path = os.path.join(folder, ABOUT)
    try:
        with open(path, "rb") as f:
            about = json.loads(f.read(1 << 20))
        url = about["url"]
        if about["libstream_recording"] != 1 or not isinstance(url, str) or not isinstance(about.get("options", {}), dict):
            raise ValueError("version 1 is expected, with the address and the options of the detector")
    except OSError as exc:
        raise FormatError(f"{path}: cannot be read ({exc.strerror or exc}); a recording is a folder with this file in it") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise FormatError(f"{path}: is no description of a recording that this libstream reads ({exc})") from exc
    return dict(about)


def index_of(folder: str, *, stored: bool = True) -> Index:
    """The index of a recording: as it is kept beside the data where that still fits, else made anew and kept.

    Raises FormatError where the folder holds no recording, or files that cannot be read.
    """
    about = read_about(folder)
    names = sorted((int(m[1]), m[0]) for n in os.listdir(folder) if (m := _NAME.fullmatch(n)))
    files = tuple(stat_file(os.path.join(folder, name)) for _, name in names)
    if not files:
        raise FormatError(f"{folder}: there are no messages in this recording (files messages-0001.lsr, ...)")
    key = {
        "format": 2, "url": about["url"], "options": about.get("options", {}),
        "files": [[os.path.basename(f.path), f.size, f.mtime_ns] for f in files],
    }  # fmt: skip
    path = os.path.join(folder, INDEX)
    found = _load(path, key, files) if stored else None
    if found is None:
        found = _make(files, about)
        found.check = _store(path, key, found)
    return found


# -- the index file --------------------------------------------------------------------------------------------------------


def _store(path: str, key: dict[str, Any], index: Index) -> str:
    """Keep the index; returns its checksum, "" where the folder cannot be written."""
    tables = b"".join(run.rows.tobytes() for run in index.runs)
    check = f"{lsr.sum_of(tables):016x}"
    head = {
        "key": key, "check": check, "sectors": index.sectors, "notes": index.notes,
        "runs": [{"header": run.header._asdict(), "n": len(run.rows), "kinds": run.kinds, "ended": run.ended} for run in index.runs],
    }  # fmt: skip
    raw = json.dumps(head, default=str).encode()
    raw += b" " * (-len(raw) % 8)
    spare = f"{path}.{os.getpid()}.part"
    try:
        with open(spare, "wb") as f:
            f.write(_MAGIC + len(raw).to_bytes(8, "little") + lsr.sum_of(raw).to_bytes(8, "little") + raw + tables)
        os.replace(spare, path)
    except OSError:
        if os.path.exists(spare):
            os.unlink(spare)
        return ""
    return check


def _load(path: str, key: dict[str, Any], files: tuple[StoredFile, ...]) -> Index | None:
    """The index that is kept; None where there is none, or it is of other data or damaged."""
    try:
        with open(path, "rb") as f:
            start = f.read(24)
            size = int.from_bytes(start[8:16], "little")
            if start[:8] != _MAGIC or size > _MAX_HEAD:
                return None
            raw = f.read(size)
            if len(raw) != size or lsr.sum_of(raw) != int.from_bytes(start[16:], "little"):
                return None
            head = json.loads(raw)
            if head["key"] != json.loads(json.dumps(key)):
                return None
            tables = f.read()
        if f"{lsr.sum_of(tables):016x}" != head["check"]:
            return None
        runs, at = [], 0
        for run in head["runs"]:
            rows = np.frombuffer(tables, ROW, run["n"], at)
            at += rows.nbytes
            kinds = [(codec, tuple(shape), dtype) for codec, shape, dtype in run["kinds"]]
            runs.append(RunIndex(_header(run["header"]), rows, kinds, run["ended"]))
        return Index(files, runs, head["sectors"], head["notes"], head["check"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _header(said: dict[str, Any]) -> RunHeader:
    lists = {k: tuple(said[k]) for k in ("scan", "frame", "channels", "notes") if said[k] is not None}
    axes = {name: (float(step), str(unit)) for name, (step, unit) in said["axes"].items()}
    return RunHeader(**{**said, **lists, "axes": axes})


# -- making it -------------------------------------------------------------------------------------------------------------


class _Walk:
    """Runs of the messages seen so far."""

    def __init__(self, many_senders: bool) -> None:
        self.many = many_senders
        self.runs: list[RunIndex] = []
        self.tables: list[list[tuple[Any, ...]]] = []
        self.kinds: list[dict[tuple[Any, ...], int]] = []
        self.by_id: dict[int | str, int] = {}
        self.foreign = self.malformed = self.damaged = self.failed = 0

    def header(self, header: RunHeader) -> None:
        """A run begins; several senders may say so."""
        if self.many and self.runs and self.by_id.get(header.run) == len(self.runs) - 1:
            return
        self.by_id[header.run] = len(self.runs)
        self.runs.append(RunIndex(header))
        self.tables.append([])
        self.kinds.append({})

    def end(self, end: RunEnd) -> None:
        """A run ends."""
        if (i := self.by_id.get(end.run)) is not None:
            self.runs[i].ended = True

    def frame(self, part: FramePart, row: tuple[int, int, int], file: int, bad: bool) -> None:
        """Pixels. row: first byte in the file, length and checksum of the part of the message that they are in."""
        i = self.by_id.get(part.run)
        if i is None:
            self.foreign += 1
            return
        inside = 0 <= part.start <= part.stop <= row[1]
        if not (inside and 0 <= part.number < 1 << 62 and 0 <= part.sector < 256 and 0 <= part.channel < 64):
            self.malformed += 1
            return
        kinds = self.kinds[i]
        kind = kinds.setdefault((part.codec, part.shape, part.dtype), len(kinds))
        at, size, check = row
        self.tables[i].append(
            (part.number, at + part.start, part.stop - part.start, at, size, check, file, part.sector, part.channel, kind, bad, 0)
        )


def _make(files: tuple[StoredFile, ...], about: dict[str, Any]) -> Index:
    make_decoder, sectors, n_senders = decoder_at(about["url"], **about.get("options", {}))
    walk = _Walk(n_senders > 1)
    notes: list[str] = []
    session, decoder = 0, make_decoder()
    for number, file in enumerate(files):
        with open(file.path, "rb", buffering=0) as f:
            read = _reader(f.fileno())
            try:
                head = lsr.parse_file_head(read(0, lsr.FILE_HEAD))
            except CodecError as exc:
                if file.size < lsr.FILE_HEAD:
                    continue  # its writer was stopped at once
                raise FormatError(f"{file.path}: {exc}") from exc
            if head.session != session:
                session, decoder = head.session, make_decoder()
            mapped = mmap.mmap(f.fileno(), file.size, access=mmap.ACCESS_READ) if may_map(file) else None
            try:
                for block in lsr.blocks(read, file.size):
                    if isinstance(block, lsr.Damage):
                        what = "its end was not finished" if block.tail else "damaged"
                        name = os.path.basename(file.path)
                        notes.append(f"{name}: bytes {block.start} to {block.stop} cannot be read: {what} ({block.why})")
                        continue
                    if mapped is None or os.fstat(f.fileno()).st_size < file.size:
                        data = np.frombuffer(read(block.data, block.n_bytes), np.uint8)
                    else:
                        data = np.frombuffer(mapped, np.uint8, block.n_bytes, block.data)
                    _feed(walk, decoder, block, data, number)
                    del data
            finally:
                if mapped is not None:
                    with contextlib.suppress(BufferError):  # a decoder that keeps what it must not keep
                        mapped.close()
    for run, table, kinds in zip(walk.runs, walk.tables, walk.kinds, strict=True):
        run.rows = np.array(table, ROW)
        run.kinds = list(kinds)
    for n, what in (
        (walk.damaged, "messages are damaged (their checksums differ) and were left out"),
        (walk.malformed, "messages were not understood"),
        (walk.failed, "messages made the decoder of the detector fail, which is a bug in it"),
        (walk.foreign, "frames belong to runs whose header was not recorded"),
    ):
        if n:
            notes.append(f"{n} {what}")
    return Index(files, walk.runs, sectors, notes)


def _reader(fd: int) -> Callable[[int, int], bytes]:
    if hasattr(os, "pread"):
        return lambda at, n: _pread(fd, at, n)

    def seek(at: int, n: int) -> bytes:
        os.lseek(fd, at, os.SEEK_SET)
        return os.read(fd, n)

    return seek


def _pread(fd: int, at: int, n: int) -> bytes:
    out = os.pread(fd, n, at)
    while len(out) < n and (more := os.pread(fd, n - len(out), at + len(out))):  # one call moves 2 GiB at most
        out += more
    return out


def _feed(walk: _Walk, decoder: Any, block: lsr.Block, data: _Arr, file: int) -> None:
    table = block.table
    small = np.flatnonzero(table[:, lsr.LENGTH] <= _SMALL)
    good = np.ones(len(table), bool)
    sums = lsr.sums(data, table[small, lsr.OFFSET], table[small, lsr.LENGTH])
    good[small] = sums.view(np.int64) == table[small, lsr.SUM]
    all_good = bool(good.all())
    view = memoryview(data)
    for first, rows in _messages(table):
        bad = set() if all_good else {i for i in range(len(rows)) if not good[first + i]}
        parts = [view[at : at + n] for _, at, n, _ in rows]
        try:
            events = list(decoder.feed(parts))
        except WireError:
            walk.malformed += not bad
            walk.damaged += bool(bad)
            continue
        except Exception:  # noqa: BLE001  a decoder of somebody else with a bug must not close the others' frames
            walk.failed += 1
            continue
        if bad and (len(bad) > 1 or not any(type(e) is FramePart and e.part in bad for e in events)):
            walk.damaged += 1
            continue
        for event in events:
            if type(event) is FramePart:
                if not 0 <= event.part < len(rows):
                    walk.malformed += 1
                    continue
                _, at, n, check = rows[event.part]
                walk.frame(event, (block.data + at, n, check & 0xFFFFFFFFFFFFFFFF), file, event.part in bad)
            elif type(event) is RunHeader:
                walk.header(event)
            elif type(event) is RunEnd:
                walk.end(event)


def _messages(table: _Arr) -> Iterator[tuple[int, list[list[int]]]]:
    """(number of its first row, its rows) of each message."""
    rows = table.tolist()
    i = 0
    while i < len(rows):
        k = i + 1
        while k < len(rows) and rows[k][0] == rows[i][0]:
            k += 1
        yield i, rows[i:k]
        i = k
