"""What a stored file is: its state at opening, its fingerprint, and whether it may be mapped into memory."""

from __future__ import annotations

import bisect
import hashlib
import os
import stat
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from libstream.ext import CorruptFileError, FormatError, SourceChangedError, SourceId

_HEAD = 64 * 1024
_BLOCK = 4096
_N_BLOCKS = 64
# a file that was written to within this time may still be growing or be replaced: it is read, never mapped
_RECENT_NS = 5_000_000_000
_NETWORK = frozenset(
    [
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "9p", "virtiofs"),
        *("ncpfs", "orangefs", "pvfs2", "panfs", "wekafs", "davfs", "drvfs", "autofs"),
    ]
)


@dataclass(frozen=True)
class StoredFile:
    """State of one file at opening, with the frames it holds.

    offset: byte at which the first frame's record begins. mtime_ns, device, inode, size: as `os.stat` gave them.
    growing: it is being written, and may get longer at any time.
    settled: it had not been written to in the last 5 seconds, so that it may be mapped into memory.
    """

    path: str
    size: int
    mtime_ns: int
    device: int
    inode: int
    settled: bool
    n_frames: int = 0
    offset: int = 0
    growing: bool = False


def local_path(uri: str) -> str:
    """Path of a local file from a path or a file:// URL; `~` is the home folder."""
    if uri.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        uri = unquote(urlsplit(uri).path)
        if sys.platform == "win32":
            uri = uri.lstrip("/")
    return os.path.abspath(os.path.expanduser(uri))


def stat_file(path: str, *, n_frames: int = 0, offset: int = 0) -> StoredFile:
    """State of `path` now. Raises FormatError where it is missing, unreadable or no regular file."""
    try:
        st = os.stat(path)
    except OSError as exc:
        raise FormatError(f"{path}: cannot be opened ({exc.strerror or exc}). Check the name and the access rights.") from exc
    if not stat.S_ISREG(st.st_mode):
        kind = "a folder" if stat.S_ISDIR(st.st_mode) else "not a regular file"
        raise FormatError(f"{path}: is {kind}, expected a file of frames. Pass the path of the file itself.")
    settled = time.time_ns() - st.st_mtime_ns > _RECENT_NS
    return StoredFile(os.path.abspath(path), st.st_size, st.st_mtime_ns, st.st_dev, st.st_ino, settled, n_frames, offset)


def verify(file: StoredFile, st: os.stat_result) -> None:
    """Raise SourceChangedError unless `st` is the state in which `file` was opened."""
    if file.growing and st.st_size >= file.size:
        if st.st_dev == file.device and st.st_ino != file.inode:
            raise changed(file, "was replaced by another file", f"inode {file.inode}", f"inode {st.st_ino}")
        return
    if st.st_size != file.size:
        word = "shortened" if st.st_size < file.size else "extended"
        raise changed(file, f"was {word}", f"{file.size} bytes", f"{st.st_size} bytes")
    if st.st_mtime_ns != file.mtime_ns:
        raise changed(file, "was written to", _when(file.mtime_ns), _when(st.st_mtime_ns))
    # device numbers of one file system differ between computers, and inode numbers mean nothing across devices
    if st.st_dev == file.device and st.st_ino != file.inode:
        raise changed(file, "was replaced by another file", f"inode {file.inode}", f"inode {st.st_ino}")


def verify_path(file: StoredFile) -> None:
    """`verify` by name: also notices a deleted or replaced file."""
    try:
        st = os.stat(file.path)
    except OSError as exc:
        raise changed(file, "is gone", f"{file.size} bytes", exc.strerror or str(exc)) from exc
    verify(file, st)


def changed(file: StoredFile, what: str, expected: str, got: str) -> SourceChangedError:
    """The error for a file that is not what it was at opening."""
    return SourceChangedError(
        f"{file.path}: {what} after it was opened: expected {expected}, got {got}. Wait until it is complete, then open it again."
    )


def _when(ns: int) -> str:
    return f"last write {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(ns / 1e9))}.{ns % 1_000_000_000:09d}"


def fingerprint(paths: Sequence[str]) -> str:
    """sha256 (hex) over the sizes of the files, and head, tail (64 KiB each) and 64 spread blocks (4 KiB) of all bytes in a row.

    Reads at most 384 KiB, so that it is quick on files of any size. Put small files (headers) first: they are then covered whole.
    """
    sizes = [os.path.getsize(p) for p in paths]
    ends: list[int] = []
    for size in sizes:
        ends.append((ends[-1] if ends else 0) + size)
    total = ends[-1] if ends else 0
    digest = hashlib.sha256(",".join(map(str, sizes)).encode())
    wanted = [(0, min(_HEAD, total)), (max(0, total - _HEAD), total)]
    if total > 2 * _HEAD:
        span = total - 2 * _HEAD - _BLOCK
        wanted += [(_HEAD + max(0, span) * i // (_N_BLOCKS - 1), 0) for i in range(_N_BLOCKS)]
        wanted = [(a, b or min(total, a + _BLOCK)) for a, b in wanted]
    for start, stop in sorted(wanted):
        while start < stop:
            i = bisect.bisect_right(ends, start)
            first = ends[i] - sizes[i]
            n = min(stop, ends[i]) - start
            with open(paths[i], "rb") as f:
                f.seek(start - first)
                block = f.read(n)
            if len(block) != n:
                raise CorruptFileError(f"{paths[i]}: expected {n} bytes at byte {start - first}, got {len(block)}. Is it being written?")
            digest.update(block)
            start += n
    return digest.hexdigest()


def source_id(uri: str, kind: str, paths: Sequence[str]) -> SourceId:
    """Identity of a source made of `paths` (small header files first)."""
    return SourceId(uri=uri, kind=kind, n_bytes=sum(os.path.getsize(p) for p in paths), fingerprint=fingerprint(paths))


def whole_frames(
    file: StoredFile,
    *,
    offset: int,
    stride: int,
    last: int,
    announced: int | None = None,
    allow_truncated: bool = False,
) -> int:
    """Number of whole frames that a file of records of fixed size holds.

    Args:
        offset: bytes before the first record.
        stride: bytes from one record to the next.
        last: bytes that the last record needs at least (its pixels without a trailing gap).
        announced: number of frames that the header states, None where it does not.
        allow_truncated: take the whole frames of a file that is too short or ends within a frame.

    Raises CorruptFileError where the file is empty, too short for one frame, ends within a frame, or holds fewer frames than it states.
    """
    size, name = file.size, file.path
    if size == 0:
        raise CorruptFileError(f"{name}: is empty (0 bytes), expected at least {offset + last} bytes for one frame. Copy it again.")
    if size < offset + last:
        part = f"a header of {offset} bytes and " if offset else ""
        raise CorruptFileError(f"{name}: too short: expected {part}frames of {last} bytes, got {size} bytes. Copy it again.")
    n, rest = divmod(size - offset, stride)
    if rest >= last:
        n, rest = n + 1, 0
    if announced is not None and n >= announced:
        return announced
    if allow_truncated:
        return n
    hint = f"Truncated copy? Copy it again, or pass allow_truncated=True to use the {n} whole frames."
    if announced is not None:
        raise CorruptFileError(f"{name}: its header announces {announced} frames, the file holds {n} whole ones ({size} bytes). {hint}")
    if rest:
        expected = f"expected {offset} + n * {stride} bytes, got {n} frames and {rest} bytes"
        raise CorruptFileError(f"{name}: {size} bytes are no whole number of frames: {expected}. {hint}")
    return n


def present_in(file: StoredFile, *, stride: int, last: int) -> int:
    """Whole records that are in a growing file now. stride, last: as for `whole_frames`; `file.offset` bytes are before the first one.

    Raises SourceChangedError where the file is gone, shorter than it was, or another one.
    """
    try:
        st = os.stat(file.path)
    except OSError as exc:
        raise changed(file, "is gone", f"{file.size} bytes", exc.strerror or str(exc)) from exc
    verify(file, st)
    body = st.st_size - file.offset
    if body < last:
        return 0
    n, rest = divmod(body, stride)
    return n + (rest >= last)


def may_map(file: StoredFile) -> bool:
    """True where the file may be mapped: settled, and on a file system of this computer."""
    return file.settled and not file.growing and file.size > 0 and not _on_network(file.path)


def _on_network(path: str) -> bool:
    path = os.path.realpath(path)
    if sys.platform == "darwin":
        return path.startswith(("/Volumes/", "/Network/"))
    if not sys.platform.startswith("linux"):
        return path.startswith("\\\\")
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as f:
            return _is_remote(mount_kind(path, f))
    except OSError:
        return True  # unknown: reading is always right, mapping is only faster


def mount_kind(path: str, mounts: Iterable[str]) -> str:
    """Kind of the file system that holds `path`, from the lines of /proc/mounts; "" where none does."""
    kind, length = "", -1
    for line in mounts:
        fields = line.split(" ")
        point = fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
        if len(point) >= length and (path == point or path.startswith(point.rstrip("/") + "/")):
            kind, length = fields[2], len(point)  # a later mount on the same point hides the earlier one
    return kind


def _is_remote(kind: str) -> bool:
    return kind in _NETWORK or kind.startswith("fuse.")
