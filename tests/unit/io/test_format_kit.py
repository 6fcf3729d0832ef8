"""The kit for format authors finds the faults that formats have: each planted one fails the test that is there for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from libstream.errors import FormatError
from libstream.ext import DataShape, FrameSource, Region, SourceId, SourceMeta, Span
from libstream.io_backends.files._fixed import FixedLayout, FixedReader
from libstream.io_backends.files.raw import RawFormat, RawOptions
from libstream.testing.formats import FormatTests

_Arr = np.ndarray[Any, Any]


class Faulty(RawFormat):
    """Raw files read by a reader with a fault."""

    reader: ClassVar[type[FixedReader]] = FixedReader

    def open(self, uri: str, options: RawOptions) -> FrameSource:
        source = super().open(uri, options)
        return FrameSource(source.meta, _Opener(source.opener, self.reader))  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Opener:
    layout: FixedLayout
    reader: type[FixedReader]

    def open_reader(self, channel: str) -> FixedReader:
        return self.reader(self.layout)


class _BandOffByOne(FixedReader):
    def read_into(self, out: _Arr, frames: Span, region: Region) -> _Arr | None:
        top = min(region.origin[0] + 1, self.layout.sig[0] - region.shape[0])
        return super().read_into(out, frames, Region((top, *region.origin[1:]), region.shape))


class _LastFrameMissing(FixedReader):
    def read_into(self, out: _Arr, frames: Span, region: Region) -> _Arr | None:
        good = super().read_into(out, frames, region)
        if frames.stop == self.layout.n_frames and len(frames):
            out[-1] = 0
        return good


class _NeverChecks(FixedReader):
    def check(self) -> None:
        pass


class _WriteableView(FixedReader):
    def view(self) -> _Arr | None:
        found = super().view()
        return None if found is None else found.copy()


class _LeaksFiles(FixedReader):
    held: ClassVar[list[int]] = []

    def close(self) -> None:
        self.held.extend(os.dup(f.fd) for f in self._open.values())
        super().close()


class _ZerosBeyondTheEnd(FixedReader):
    def read_into(self, out: _Arr, frames: Span, region: Region) -> _Arr | None:
        out[...] = 0
        stop = min(frames.stop, self.layout.n_frames)
        return super().read_into(out[: stop - frames.start], Span(frames.start, stop), region)


class _MapsWhatIsBeingWritten(FixedReader):
    def view(self) -> _Arr | None:
        path = self.layout.files[0].path
        found = np.fromfile(path, self.layout.dtype).reshape(-1, *self.layout.sig)
        found.flags.writeable = False
        return found


class AcceptsTruncated(RawFormat):
    """Takes what is there."""

    def open(self, uri: str, options: RawOptions) -> FrameSource:
        return super().open(uri, RawOptions(options.dtype, options.frame, allow_truncated=True))


class KnowsEverything(RawFormat):
    """Claims every file."""

    def probe(self, head: bytes, path: str) -> float:
        return 1.0


class Anonymous(RawFormat):
    """Has no fingerprint."""

    def open(self, uri: str, options: RawOptions) -> FrameSource:
        source = super().open(uri, options)
        meta = source.meta
        return FrameSource(SourceMeta(SourceId(uri, "raw", 1, ""), meta.shape, meta.dtype), source.opener)


class Transposed(RawFormat):
    """Confuses y and x."""

    def open(self, uri: str, options: RawOptions) -> FrameSource:
        source = super().open(uri, RawOptions(options.dtype, options.frame[::-1]))
        return FrameSource(source.meta.with_(shape=DataShape(source.meta.shape.nav, options.frame)), source.opener)


def kit(made: type[RawFormat]) -> FormatTests:
    class Kit(FormatTests):
        format = made
        says_scan = False
        has_mark = False
        maps = True

        def write_file(self, folder: Path, array: _Arr) -> tuple[str, dict[str, Any]]:
            array.tofile(folder / "scan.raw")
            return str(folder / "scan.raw"), {"dtype": array.dtype.str, "frame": array.shape[-2:]}

    return Kit()


def with_reader(faulty: type[FixedReader]) -> type[RawFormat]:
    return type(f"With{faulty.__name__}", (Faulty,), {"reader": faulty})


FAULTS: list[tuple[type[RawFormat], Callable[[FormatTests, Path], None]]] = [
    (with_reader(_BandOffByOne), FormatTests.test_any_span_and_band),
    (with_reader(_LastFrameMissing), FormatTests.test_shape_dtype_and_every_value),
    (with_reader(_NeverChecks), FormatTests.test_a_file_that_grows),
    (with_reader(_NeverChecks), FormatTests.test_a_file_that_is_written_to),
    (with_reader(_NeverChecks), FormatTests.test_a_file_that_is_deleted_or_replaced),
    (with_reader(_WriteableView), FormatTests.test_a_view_is_the_same_data),
    (with_reader(_ZerosBeyondTheEnd), FormatTests.test_beyond_the_end),
    (with_reader(_MapsWhatIsBeingWritten), FormatTests.test_a_file_just_written_is_not_mapped),
    (AcceptsTruncated, FormatTests.test_a_truncated_file),
    (KnowsEverything, FormatTests.test_probing),
    (Anonymous, FormatTests.test_identity),
    (Transposed, FormatTests.test_any_span_and_band),
]


@pytest.mark.parametrize(("made", "test"), FAULTS, ids=lambda v: v.__name__)
def test_planted_faults_are_found(tmp_path: Path, made: type[RawFormat], test: Callable[[FormatTests, Path], None]) -> None:
    test(kit(RawFormat), _sub(tmp_path, "good"))
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - pytest.fail raises an outcome, which is no Exception
        test(kit(made), _sub(tmp_path, "bad"))
    assert not isinstance(caught.value, (KeyboardInterrupt, SystemExit, NotImplementedError, AttributeError))


def test_leaked_files_are_found(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are listed on Linux only")
    try:
        with pytest.raises(AssertionError):
            kit(with_reader(_LeaksFiles)).test_nothing_is_held_open(tmp_path)
    finally:
        for fd in _LeaksFiles.held:
            os.close(fd)


def test_a_kit_without_a_writer_says_so(tmp_path: Path) -> None:
    class Kit(FormatTests):
        format = RawFormat

    with pytest.raises(NotImplementedError, match=r"Kit must define write_file"):
        Kit().test_an_empty_file(tmp_path)
    with pytest.raises(FormatError):
        RawFormat().open(str(tmp_path), RawOptions())


def _sub(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name
