"""Files that appear whole or not at all: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libstream.ext import SaveError


class AsideFile(io.RawIOBase):
    """Binary file that keeps its first failed write in `failure` and from then on takes writes without doing them.

    HDF5 keeps a file open, and tries again at exit, when a write fails while it closes the file. So it is told nothing, closes in
    peace, and the failure is raised afterwards.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._raw = io.FileIO(fd, "r+")
        self._pos = 0
        self._size = 0
        self.failure: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._pos = offset + (0, self._pos, self._size)[whence]
        return self._pos

    def tell(self) -> int:
        return self._pos

    def readinto(self, buffer: Any) -> int:
        self._raw.seek(self._pos)
        n = self._raw.readinto(buffer) or 0
        self._pos += n
        return n

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.failure is None:
            try:
                self._raw.seek(self._pos)
                done = 0
                while done < len(view):
                    done += self._raw.write(view[done:]) or 0
            except OSError as exc:
                self.failure = exc
        self._pos += len(view)
        self._size = max(self._size, self._pos)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        size = self._pos if size is None else size
        if self.failure is None:
            try:
                self._raw.truncate(size)
            except OSError as exc:
                self.failure = exc
        self._size = size
        return size

    def flush(self) -> None:
        """Nothing is buffered here."""

    def finish(self) -> None:
        """Bring the file to the disk. Raises the first OSError of any write."""
        if self.failure is None:
            os.fsync(self._raw.fileno())
            return
        raise self.failure

    def close(self) -> None:
        self._raw.close()
        super().close()


@contextlib.contextmanager
def written_aside(path: Path, n_bytes: int) -> Iterator[AsideFile]:
    """Yield a file that replaces `path` when the block ends well, and vanishes otherwise.

    n_bytes: estimated size, for the message. Raises SaveError for whatever the operating system refuses.
    A link is followed; the permissions of a file that is replaced are kept.
    """
    target = Path(os.path.realpath(path))
    folder = target.parent
    if target.is_dir():
        raise SaveError(f"cannot save {path}: it is a folder; give the name of a file in it")
    if not folder.is_dir():
        raise SaveError(f"cannot save {path}: there is no folder {folder}; create it first or choose another")
    aside = folder / f".libstream-{secrets.token_hex(6)}.tmp"
    try:
        fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as exc:
        raise _refused(path, folder, n_bytes, exc) from exc
    file = AsideFile(fd)
    try:
        try:
            yield file
        except Exception:
            if file.failure is None:
                raise
        file.finish()
        with contextlib.suppress(OSError, AttributeError):
            os.fchmod(fd, stat.S_IMODE(target.stat().st_mode))
        file.close()
        os.replace(aside, target)
    except OSError as exc:
        if isinstance(exc, SaveError):
            raise
        raise _refused(path, folder, n_bytes, exc) from exc
    finally:
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            os.unlink(aside)
    _sync_folder(folder)


def _refused(path: Path, folder: Path, n_bytes: int, exc: OSError) -> SaveError:
    try:
        free = f"{shutil.disk_usage(folder).free / 1e6:.1f} MB are free there"
    except OSError:
        free = "its free space is unknown"
    reason = exc.strerror or str(exc)
    return SaveError(
        f"cannot save {path}: {reason}. It needs about {n_bytes / 1e6:.1f} MB in {folder}, {free}; nothing was left behind. "
        "Free some space, check that the folder can be written, or save elsewhere; the result is still in memory."
    )


def _sync_folder(folder: Path) -> None:
    """Make the rename last; not every file system has that, and the file itself is safe already."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
