"""Raw messages to disk, as they came, beside the pipeline: the receiving thread hands over memory and goes on.

A recording is a folder: `recording.json` and files `messages-0001.lsr`, ... (docs/reference/recording-format.md). It can be read
whatever stopped the writer: every block of messages has a header with checksums, and what was not finished is recognised.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import platform
import queue
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import libstream
from libstream.codecs import lsr
from libstream.errors import CodecError, FormatError, SaveError, UsageError

_Arr = np.ndarray[Any, Any]

ABOUT = "recording.json"
FILE_BYTES = 4 << 30
RESERVE_BYTES = 1 << 30
"""Space that a recording leaves free on its disk: results are saved there too, and other programs need some."""
_CHECK_BYTES, _CHECK_S = 64 << 20, 0.5
_NAME = re.compile(r"messages-(\d{4,})\.lsr")


class Recorder:
    """Writes blocks of messages to a folder, in a thread of its own.

    folder: is made; a recording of the same detector that is in it goes on in a new file, anything else is refused.
    url: address of the detector. detector: its kind. options: what its decoder was given (of plain values).
    needed_bytes: expected size, where it is known; refused where that cannot fit. reserve_bytes: stays free on the disk.
    file_bytes: a file that is larger than this is finished.

    error: None, or why nothing more is recorded (the disk is full); the live run goes on. n_bytes, n_messages: written so far.

    Raises SaveError (cannot be written, too little space), UsageError (the folder holds something else).
    """

    def __init__(
        self, folder: str | os.PathLike[str], url: str, detector: str, *, options: Mapping[str, Any] | None = None,
        needed_bytes: int | None = None, reserve_bytes: int = RESERVE_BYTES, file_bytes: int = FILE_BYTES,
    ) -> None:  # fmt: skip
        self.folder = Path(folder)
        self._failure: str | None = None
        self._slow: str | None = None
        self.n_bytes = self.n_messages = 0
        self._reserve, self._file_bytes = reserve_bytes, file_bytes
        self._queue: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._fd, self._size, self._blocks = -1, 0, 0
        self._unchecked, self._checked = 0, 0.0
        lsr.warm_up()  # compiling takes seconds: not while messages wait
        with _as_save_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._about, self._number = _joined(self.folder, url, detector, dict(options or {}))
            check_space(self.folder, needed_bytes or 0, reserve_bytes)
            self._ident = uuid.UUID(self._about["id"]).bytes
            self._hold = _Hold(self.folder)
            try:
                self._session = len(self._about["sessions"]) + 1
                self._about["sessions"].append(
                    {"started": _now(), "url": url, "host": platform.node(), "libstream": libstream.__version__, "first_file": self._number}
                )
                _write_about(self.folder, self._about)
                self._next_file()
            except BaseException:
                self._hold.release()
                raise
        self._thread = threading.Thread(target=self._write_all, name="libstream-record", daemon=True)
        self._thread.start()

    # -- the receiving thread ------------------------------------------------------------------------------------------

    def put(self, block: _Arr, table: _Arr, rows: int, lanes: _Arr | None, t_ns: int, done: Callable[[], None]) -> None:
        """Have the messages of a block written; returns at once.

        block: uint8, stays as it is until `done()` was called (in the writer's thread, once, whatever happens).
        table: int64 (k, 3), of which the first `rows` rows say (message, offset, length) of each part; it may be used again
        afterwards. lanes: index of the socket of each message, or None. t_ns: wall clock at which they came.
        """
        with self._lock:
            if not self._closed:
                self._queue.put((block, table[:rows].copy(), None if lanes is None else lanes.copy(), t_ns, done))
                return
        done()

    @property
    def error(self) -> str | None:
        """Why nothing more is recorded, or what may be missing at the end; None where all is well."""
        return self._failure or self._slow

    @property
    def waiting(self) -> int:
        """Blocks that are not written yet."""
        return self._queue.qsize()

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what was put, have the disk store it, finish the files. `error` says where that took longer than `timeout_s`.

        Idempotent. A disk that does not answer is left to the thread, which goes on by itself.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join(timeout_s)
        self._slow = None
        if self._thread.is_alive():
            self._slow = f"{self.folder}: the disk did not store everything within {timeout_s:g} s; the end may be missing"

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the writing thread ----------------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            block, table, lanes, t_ns, done = item
            try:
                if self._failure is None and len(table):
                    self._write(block, table, lanes, t_ns)
            except OSError as exc:
                self._failure = f"{self.folder}: nothing more is recorded: {_why(exc)}"
            except Exception as exc:  # noqa: BLE001  a fault of ours must not keep the memory of the run
                self._failure = f"{self.folder}: nothing more is recorded: {type(exc).__name__}: {exc}"
            finally:
                del block, item
                done()
        try:
            self._end_file()
            session = self._about["sessions"][-1]
            session.update(stopped=_now(), n_bytes=self.n_bytes, n_messages=self.n_messages)
            if self._failure is not None:
                session["error"] = self._failure
            _write_about(self.folder, self._about)
        except OSError as exc:
            self._failure = self._failure or f"{self.folder}: the recording could not be finished: {_why(exc)}"
        finally:
            self._hold.release()

    def _write(self, block: _Arr, table: _Arr, lanes: _Arr | None, t_ns: int) -> None:
        n_messages = int(table[-1, 0]) + 1
        stops = table[:, 1] + table[:, 2]
        first, last = int(table[:, 1].min()), int(stops.max())
        self._check_space(last - first)
        if self._size > self._file_bytes:
            self._end_file()
            self._number += 1
            self._next_file()
        data = block[first:last]
        rows = np.empty((len(table), 4), np.int64)
        rows[:, :3] = table
        rows[:, lsr.OFFSET] -= first
        rows[:, lsr.SUM] = lsr.sums(data, rows[:, lsr.OFFSET], rows[:, lsr.LENGTH]).view(np.int64)
        head = lsr.pack_block(rows, None if lanes is None else lanes[:n_messages], n_messages, len(data), t_ns, self._blocks)
        _write_fully(self._fd, [head, memoryview(np.ascontiguousarray(data)), bytes(-len(data) % 8)])
        size = len(head) + len(data) + -len(data) % 8
        self._size += size
        self._unchecked += size
        self._blocks += 1
        self.n_bytes += size
        self.n_messages += n_messages

    def _check_space(self, size: int) -> None:
        now = time.monotonic()
        if self._unchecked + size < _CHECK_BYTES and now - self._checked < _CHECK_S:
            return
        self._unchecked, self._checked = 0, now
        free = free_bytes(self.folder)
        if free - size < self._reserve:
            raise OSError(
                errno.ENOSPC,
                f"{_size(free)} are left on the disk, of which {_size(self._reserve)} stay free. What was written so far is complete; "
                "make room and record again into the same folder",
            )

    def _next_file(self) -> None:
        path = self.folder / file_name(self._number)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o644)
        head = lsr.pack_file_head(lsr.FileHead(self._number, self._session, self._ident, time.time_ns()))
        _write_fully(self._fd, [head])
        self._size, self._blocks = len(head), 0
        self.n_bytes += len(head)

    def _end_file(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def file_name(number: int) -> str:
    """Name of the n-th data file of a recording."""
    return f"messages-{number:04d}.lsr"


def data_files(folder: Path) -> list[Path]:
    """Data files of a recording, in order."""
    found = ((int(m[1]), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name)))
    return [p for _, p in sorted(found)]


def read_about(folder: Path) -> dict[str, Any]:
    """`recording.json`. Raises FormatError where it is none."""
    path = folder / ABOUT
    try:
        about = json.loads(path.read_bytes()[: 1 << 20])
        if not isinstance(about, dict) or about.get("libstream_recording") != 1:
            raise FormatError(f"{path}: is no recording of a version that this libstream reads (expected libstream_recording 1)")
        uuid.UUID(about["id"])
        if not isinstance(about["detector"], str) or not isinstance(about["url"], str) or not isinstance(about["sessions"], list):
            raise TypeError("a field is of the wrong type")
    except OSError as exc:
        raise FormatError(f"{path}: cannot be read ({exc.strerror or exc}); a recording is a folder with this file in it") from exc
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as exc:
        raise FormatError(f"{path}: is damaged ({exc!r}); the data files beside it may be good") from exc
    return about


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder."""
    return shutil.disk_usage(folder).free


def check_space(folder: Path, needed_bytes: int, reserve_bytes: int = RESERVE_BYTES) -> None:
    """Raise SaveError, with the numbers, where `needed_bytes` more clearly do not fit on the disk of `folder`."""
    free = free_bytes(folder)
    if free < needed_bytes + reserve_bytes:
        wanted = f"the recording needs about {_size(needed_bytes)}" if needed_bytes else "there is no room for a recording"
        raise SaveError(
            f"{folder}: {wanted}, {_size(free)} are free on this disk, of which {_size(reserve_bytes)} stay free. "
            "Make room, choose a folder on another disk, or record fewer frames"
        )


def _joined(folder: Path, url: str, detector: str, options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """What is known of a recording in `folder`, new or going on, and the number of its next file."""
    if not (folder / ABOUT).exists():
        others = sorted(p.name for p in folder.iterdir())
        if others:
            raise UsageError(f"{folder} is not empty ({', '.join(others[:3])}) and holds no recording; choose a new folder")
        about: dict[str, Any] = {"libstream_recording": 1, "id": uuid.uuid4().hex, "detector": detector, "url": url, "options": options}
        return {**about, "sessions": []}, 1
    about = read_about(folder)
    if about["detector"] != detector or about.get("options", {}) != options:
        raise UsageError(
            f"{folder} holds a recording of {about['url']} (options {about.get('options', {})}), which {url} (options {options}) "
            "cannot go on with; choose a new folder"
        )
    files = data_files(folder)
    for path in files:
        with open(path, "rb") as f:
            try:
                head = lsr.parse_file_head(f.read(lsr.FILE_HEAD))
            except CodecError as exc:
                if path.stat().st_size < lsr.FILE_HEAD:  # killed within the first bytes
                    continue
                raise UsageError(f"{path}: {exc}; choose a new folder") from exc
        if head.ident != uuid.UUID(about["id"]).bytes:
            raise UsageError(f"{path} belongs to another recording; choose a new folder")
    return about, max((int(_NAME.fullmatch(p.name)[1]) for p in files), default=0) + 1  # type: ignore[index]  # data_files matched


class _Hold:
    """Keeps other recorders out of a folder, where the system can."""

    def __init__(self, folder: Path) -> None:
        self._fd = -1
        try:
            import fcntl
        except ImportError:  # Windows: new files are made exclusively, which has to do
            return
        self._fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise UsageError(f"{folder}: something is being recorded into it just now; choose another folder") from None
        except OSError:  # a file system without locks
            pass

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_about(folder: Path, about: Mapping[str, Any]) -> None:
    spare = folder / f"{ABOUT}.part"
    with open(spare, "w", encoding="utf-8") as f:
        json.dump(about, f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    os.replace(spare, folder / ABOUT)
    if hasattr(os, "O_DIRECTORY"):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):  # some file systems refuse it
                os.fsync(fd)
        finally:
            os.close(fd)


def _write_fully(fd: int, parts: list[Any]) -> None:
    left = [memoryview(p).cast("B") for p in parts if len(p)]
    while left:
        n = os.writev(fd, left) if hasattr(os, "writev") else os.write(fd, left[0])
        while left and n >= len(left[0]):
            n -= len(left.pop(0))
        if n:
            left[0] = left[0][n:]


@contextlib.contextmanager
def _as_save_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except (SaveError, FormatError):
        raise
    except UsageError:
        raise
    except OSError as exc:
        raise SaveError(f"{folder}: cannot be recorded into ({_why(exc)})") from exc


def _why(exc: OSError) -> str:
    if exc.errno == errno.ENOSPC and exc.filename is None and exc.strerror == os.strerror(errno.ENOSPC):
        return "the disk is full. What was written so far is complete; make room and record again into the same folder"
    return exc.strerror or str(exc)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _size(n: float) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.1f} MB"
