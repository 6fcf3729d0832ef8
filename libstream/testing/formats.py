"""Tests that every file format has to pass. Inherit `FormatTests`, write a file by other means than the reader's, run pytest.

class TestMyFormat(FormatTests):
    format = MyFormat

    def write_file(self, folder, array):
        path = folder / "scan.my"
        path.write_bytes(my_header(array.shape) + array.tobytes())
        return str(path), {}
"""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from libstream.contracts.source import FrameReader, FrameSource
from libstream.errors import FormatError, LibstreamError, SourceChangedError
from libstream.model.shape import Region, Span

_Arr = np.ndarray[Any, Any]
# long ago: older than the time within which a file counts as being written
_SETTLED_NS = 1_500_000_000_000_000_000

_CHILD = """
import hashlib, pickle, sys
import numpy as np
from libstream.model.shape import Region, Span
opener, channel, n, sig, dtype = pickle.load(sys.stdin.buffer)
reader = opener.open_reader(channel)
out = np.zeros((n, *sig), dtype)
reader.read_into(out, Span(0, n), Region.whole(sig))
reader.close()
print(hashlib.sha256(out.tobytes()).hexdigest())
"""


def read_all(source: FrameSource, channel: str | None = None) -> _Arr:
    """All frames of a channel, (n, *sig), by `read_into`. Raises AssertionError where a frame is reported as corrupt."""
    name = source.channel_name if channel is None else channel
    meta = source.channel_meta(name)
    out = np.empty((meta.n_frames, *meta.shape.sig), meta.dtype)
    reader = source.opener.open_reader(name)
    try:
        valid = reader.read_into(out, Span(0, meta.n_frames), Region.whole(meta.shape.sig))
    finally:
        reader.close()
    if valid is not None and not valid.all():
        raise AssertionError(f"frames {np.flatnonzero(~valid).tolist()} are reported as corrupt")
    return out


class FormatTests:
    """Hooks: `format`, `write_file`, and where they differ the attributes below.

    format: the class under test. shape: of the array that `write_file` gets, (*nav, *sig). n_sig: axes of a frame.
    dtypes: what the format can hold; the first is used where one is enough. highest: largest value that is written.
    says_scan: the file tells the shape of the scan (else n frames are expected). has_mark: the format knows its own files by content.
    maps: settled files are handed out as a view. sees_truncation: a file that ends too early is refused when it is opened.
    """

    format: ClassVar[Any]
    shape: ClassVar[tuple[int, ...]] = (3, 5, 16, 24)
    n_sig: ClassVar[int] = 2
    dtypes: ClassVar[tuple[str, ...]] = ("uint16",)
    highest: ClassVar[int] = 200
    says_scan: ClassVar[bool] = True
    has_mark: ClassVar[bool] = True
    maps: ClassVar[bool] = False
    sees_truncation: ClassVar[bool] = True

    def write_file(self, folder: Path, array: _Arr) -> tuple[str, dict[str, Any]]:
        """Write `array` into `folder` without using the reader's code. Returns what is opened, and its options."""
        raise NotImplementedError(f"{type(self).__name__} must define write_file(self, folder, array) -> (uri, options)")

    def data_file(self, folder: Path) -> Path:
        """The file that holds the frames: the largest one, unless overridden."""
        return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)

    # -- the tests ----------------------------------------------------------------------------------------------------

    def test_shape_dtype_and_every_value(self, tmp_path: Path) -> None:
        for dtype in self.dtypes:
            array = self._array(dtype)
            source = self._open(self._folder(tmp_path, dtype), array)
            nav, sig = array.shape[: -self.n_sig], array.shape[-self.n_sig :]
            n = int(np.prod(nav))
            assert source.meta.shape.sig == sig
            assert source.meta.shape.nav == (nav if self.says_scan else (n,))
            assert source.meta.n_frames == n
            assert source.meta.dtype == array.dtype.newbyteorder("=")
            assert source.meta.dtype.isnative
            np.testing.assert_array_equal(read_all(source), array.reshape(-1, *sig))

    def test_any_span_and_band(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for dtype in self.dtypes:
            array = self._array(dtype)
            sig = array.shape[-self.n_sig :]
            flat = array.reshape(-1, *sig)
            folder = self._folder(tmp_path, dtype)
            for settled in (False, True):
                with self._reading(self._open(folder, array, settled=settled)) as reader:
                    for _ in range(30):
                        a, b = sorted(int(v) for v in rng.integers(0, len(flat) + 1, 2))
                        top, bottom = sorted(int(v) for v in rng.integers(0, sig[0] + 1, 2))
                        out = np.full((b - a, bottom - top, *sig[1:]), 99, array.dtype.newbyteorder("="))
                        region = Region((top, *(0,) * (self.n_sig - 1)), out.shape[1:])
                        valid = reader.read_into(out, Span(a, b), region)
                        assert valid is None or (valid.shape == (b - a,) and valid.all())
                        np.testing.assert_array_equal(out, flat[a:b, top:bottom], err_msg=f"frames {a}:{b}, rows {top}:{bottom}, {dtype}")

    def test_a_view_is_the_same_data(self, tmp_path: Path) -> None:
        seen = False
        for dtype in self.dtypes:
            array = self._array(dtype)
            sig = array.shape[-self.n_sig :]
            with self._reading(self._open(self._folder(tmp_path, dtype), array, settled=True)) as reader:
                view = reader.view()
                if view is not None:
                    seen = True
                    assert view.dtype == array.dtype.newbyteorder("=")
                    assert view.dtype.isnative
                    assert not view.flags.writeable
                    assert view.flags.aligned
                    assert view[0].flags.c_contiguous
                    np.testing.assert_array_equal(view, array.reshape(-1, *sig))
                    del view
        assert seen == self.maps

    def test_a_file_just_written_is_not_mapped(self, tmp_path: Path) -> None:
        if self.maps:
            with self._reading(self._open(tmp_path, self._array(), settled=False)) as reader:
                assert reader.view() is None

    def test_beyond_the_end(self, tmp_path: Path) -> None:
        source = self._open(tmp_path, self._array())
        n, sig = source.meta.n_frames, source.meta.shape.sig
        out = np.empty((2, *sig), source.meta.dtype)
        with self._reading(source) as reader, pytest.raises(LibstreamError):
            reader.read_into(out, Span(n - 1, n + 1), Region.whole(sig))

    def test_an_empty_file(self, tmp_path: Path) -> None:
        array = self._array()
        uri, options = self.write_file(tmp_path, array)
        self.data_file(tmp_path).write_bytes(b"")
        with pytest.raises(FormatError):
            self.format().open(uri, self.format.options(**options))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        uri, options = self.write_file(tmp_path, self._array())
        for file in tmp_path.rglob("*"):
            if file.is_file():
                file.unlink()
        with pytest.raises(FormatError, match=r"cannot be opened|not found|missing|not here|no \.|no such"):
            self.format().open(uri, self.format.options(**options))

    def test_a_truncated_file(self, tmp_path: Path) -> None:
        array = self._array()
        uri, options = self.write_file(tmp_path, array)
        file = self.data_file(tmp_path)
        data = file.read_bytes()
        for keep in (len(data) - 1, len(data) // 2 + 1, 300, 20, 1):
            file.write_bytes(data[:keep])
            if self.sees_truncation:
                with pytest.raises(FormatError) as caught:
                    self.format().open(uri, self.format.options(**options))
                assert file.name in str(caught.value) or Path(uri).name in str(caught.value)
            else:  # read what is said to be there, or say that it is not
                try:
                    source = self.format().open(uri, self.format.options(**options))
                    got = read_all(source)
                    np.testing.assert_array_equal(got, array.reshape(-1, *got.shape[1:])[: len(got)])
                except LibstreamError:
                    pass

    def test_reading_in_another_process(self, tmp_path: Path) -> None:
        array = self._array()
        source = self._open(tmp_path, array, settled=True)
        meta = source.meta
        recipe = pickle.dumps((source.opener, source.channel_name, meta.n_frames, meta.shape.sig, meta.dtype))
        done = subprocess.run([sys.executable, "-c", _CHILD], input=recipe, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr.decode()
        expected = array.astype(array.dtype.newbyteorder("="))
        assert done.stdout.decode().strip() == hashlib.sha256(expected.tobytes()).hexdigest()

    def test_a_file_that_grows(self, tmp_path: Path) -> None:
        source = self._open(tmp_path, self._array(), settled=True)
        with self._reading(source) as reader:
            self._touch(source, reader)
            reader.check()
            with self.data_file(tmp_path).open("ab") as f:
                f.write(b"more")
            self._is_noticed(source, reader)

    def test_a_file_that_is_written_to(self, tmp_path: Path) -> None:
        source = self._open(tmp_path, self._array(), settled=True)
        with self._reading(source) as reader:
            self._touch(source, reader)
            with self.data_file(tmp_path).open("r+b") as f:
                f.seek(-1, os.SEEK_END)
                f.write(b"\x07")
            self._is_noticed(source, reader)

    def test_a_file_that_is_shortened(self, tmp_path: Path) -> None:
        source = self._open(tmp_path, self._array(), settled=True)
        file, meta = self.data_file(tmp_path), source.meta
        out = np.empty((1, *meta.shape.sig), meta.dtype)
        last = meta.n_frames - 1
        with self._reading(source) as reader:
            self._touch(source, reader)
            os.truncate(file, file.stat().st_size // 2)
            with pytest.raises(SourceChangedError):
                reader.read_into(out, Span(last, last + 1), Region.whole(meta.shape.sig))
            self._is_noticed(source, reader)

    def test_a_file_that_is_deleted_or_replaced(self, tmp_path: Path) -> None:
        for how in ("deleted", "replaced"):
            folder = self._folder(tmp_path, how)
            source = self._open(folder, self._array(), settled=True)
            file = self.data_file(folder)
            with self._reading(source) as reader:
                self._touch(source, reader)
                if how == "deleted":
                    file.unlink()
                else:
                    other = file.with_suffix(".other")
                    other.write_bytes(file.read_bytes())
                    os.utime(other, ns=(file.stat().st_mtime_ns,) * 2)
                    other.replace(file)
                self._is_noticed(source, reader)

    def test_nothing_is_held_open(self, tmp_path: Path) -> None:
        if not Path("/proc/self/fd").is_dir():
            pytest.skip("open files are listed on Linux only")
        for settled in (False, True):
            for _ in range(3):
                source = self._open(tmp_path, self._array(), settled=settled)
                with self._reading(source) as reader:
                    self._touch(source, reader)
                    reader.view()
            # one mapping may live as long as its source
            assert len(_open_files(tmp_path)) <= int(settled)
            del source, reader
            gc.collect()
            assert _open_files(tmp_path) == []

    def test_probing(self, tmp_path: Path) -> None:
        made = self.format()
        uri, _ = self.write_file(tmp_path, self._array())
        head = Path(uri).read_bytes()[: 64 * 1024] if Path(uri).is_file() else b""
        assert 0.0 < made.probe(head, uri) <= 1.0
        noise = np.random.default_rng(1).integers(0, 256, 64 * 1024).astype(np.uint8).tobytes()
        for other in (noise, b"", b"\0" * 512, b"<?xml version='1.0'?><a/>", head[:3]):
            assert made.probe(other, str(tmp_path / "something.xyz")) == 0.0 or other == head[:3]
            assert 0.0 <= made.probe(other, str(tmp_path / f"something{(*made.suffixes, '')[0]}")) <= 1.0
        if self.has_mark:
            assert made.probe(noise, str(tmp_path / "something.xyz")) < made.probe(head, uri)

    def test_identity(self, tmp_path: Path) -> None:
        array = self._array()
        first = self._open(self._folder(tmp_path, "a"), array).meta.id
        same = self._open(self._folder(tmp_path, "b"), array).meta.id
        assert first.kind == self.format.name
        assert first.n_bytes > 0
        assert first.fingerprint == same.fingerprint != ""
        array[(0,) * array.ndim] = 77 if array.flat[0] != 77 else 78
        assert self._open(self._folder(tmp_path, "c"), array).meta.id.fingerprint != first.fingerprint

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _array(self, dtype: str | None = None) -> _Arr:
        made = np.dtype(self.dtypes[0] if dtype is None else dtype)
        rng = np.random.default_rng(5)
        if made.kind == "b":
            return rng.integers(0, 2, self.shape).astype(made)
        if made.kind == "c":
            return (rng.normal(size=self.shape) + 1j * rng.normal(size=self.shape)).astype(made)
        if made.kind == "f":
            return rng.normal(0, self.highest, self.shape).astype(made)
        return rng.integers(0, self.highest + 1, self.shape).astype(made)

    def _folder(self, tmp_path: Path, name: str) -> Path:
        folder = tmp_path / "".join(c if c.isalnum() else f"_{ord(c)}" for c in name)
        folder.mkdir(exist_ok=True)
        return folder

    def _open(self, folder: Path, array: _Arr, *, settled: bool = False) -> FrameSource:
        uri, options = self.write_file(folder, array)
        # a write in the future is as recent as can be, however slowly this test runs
        written_ns = _SETTLED_NS if settled else time.time_ns() + 60_000_000_000
        for file in folder.rglob("*"):
            if file.is_file():
                os.utime(file, ns=(written_ns, written_ns))
        made: FrameSource = self.format().open(uri, self.format.options(**options))
        return made

    @contextmanager
    def _reading(self, source: FrameSource) -> Iterator[FrameReader]:
        reader = source.opener.open_reader(source.channel_name)
        try:
            yield reader
        finally:
            reader.close()

    def _touch(self, source: FrameSource, reader: FrameReader) -> None:
        meta = source.meta
        reader.read_into(np.empty((1, *meta.shape.sig), meta.dtype), Span(0, 1), Region.whole(meta.shape.sig))

    def _is_noticed(self, source: FrameSource, reader: FrameReader) -> None:
        with pytest.raises(SourceChangedError):
            reader.check()
        with pytest.raises(SourceChangedError):
            self._use(source)

    def _use(self, source: FrameSource) -> None:
        with self._reading(source) as late:
            self._touch(source, late)
            late.check()


def _open_files(folder: Path) -> list[str]:
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            continue
    return [path for path in found if path.startswith(str(folder))]
