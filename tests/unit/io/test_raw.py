"""Raw files: dtypes, headers, gaps, and what is said when something is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libstream.errors import CorruptFileError, FormatError, UsageError
from libstream.io_backends.files.raw import RawFormat, RawOptions
from libstream.testing.formats import FormatTests, read_all


class TestRaw(FormatTests):
    format = RawFormat
    dtypes = ("uint16", "uint8", ">u2", ">i4", "<f4", ">f8", "bool", "complex64")
    says_scan = False
    has_mark = False
    maps = True

    def write_file(self, folder: Path, array: Any) -> tuple[str, dict[str, Any]]:
        path = folder / "scan.raw"
        array.tofile(path)
        return str(path), {"dtype": array.dtype.str, "frame": array.shape[-2:]}


class TestRawWithHeaders(TestRaw):
    dtypes = ("uint16", ">u4", "uint8")

    def write_file(self, folder: Path, array: Any) -> tuple[str, dict[str, Any]]:
        path = folder / "scan.dat"
        with path.open("wb") as f:
            f.write(b"H" * 40)
            frames = array.reshape(-1, *array.shape[-2:])
            for i, frame in enumerate(frames):
                f.write(b"h" * 8 + frame.tobytes() + b"f" * 4 + b"g" * (12 if i < len(frames) - 1 else 0))
        options = {"dtype": array.dtype.str, "frame": array.shape[-2:], "offset": 40, "frame_header": 8, "frame_footer": 4, "gap": 12}
        return str(path), options


class TestSpectra(TestRaw):
    shape = (4, 5, 64)
    n_sig = 1
    dtypes = ("uint32", ">f4")

    def write_file(self, folder: Path, array: Any) -> tuple[str, dict[str, Any]]:
        path = folder / "scan.bin"
        array.tofile(path)
        return str(path), {"dtype": array.dtype.str, "frame": array.shape[-1:]}


def opened(path: Path, **options: Any) -> Any:
    return RawFormat().open(str(path), RawOptions(**options))


def test_one_frame_has_no_scan(tmp_path: Path) -> None:
    np.arange(35, dtype="u2").tofile(tmp_path / "a.raw")
    source = opened(tmp_path / "a.raw", dtype="u2", frame=(5, 7))
    assert source.meta.shape.nav == ()
    assert source.meta.n_frames == 1
    np.testing.assert_array_equal(read_all(source)[0], np.arange(35).reshape(5, 7))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    np.zeros((10, 256, 256), "u2").tofile(tmp_path / "a.raw")
    with pytest.raises(FormatError, match=r"dtype and frame must be given.*1310720 bytes.*10 frames of 256 x 256 uint16.*Pass for example"):
        opened(tmp_path / "a.raw")
    with pytest.raises(FormatError, match=r"frame must be given.*20 frames of 256 x 256 uint8"):
        opened(tmp_path / "a.raw", dtype="u1")
    with pytest.raises(FormatError, match="dtype must be given"):
        opened(tmp_path / "a.raw", frame=(256, 256))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dtype": "uint17", "frame": (4, 4)}, "is no dtype"),
        ({"dtype": "O", "frame": (4, 4)}, "is no number"),
        ({"dtype": "u2,u4", "frame": (4, 4)}, "is no number"),
        ({"dtype": "M8[s]", "frame": (4, 4)}, "is no number"),
        ({"dtype": "u2", "frame": (4, 4, 4)}, "no shape of a frame"),
        ({"dtype": "u2", "frame": (0, 4)}, "no shape of a frame"),
        ({"dtype": "u2", "frame": (4, 4), "offset": -1}, "offset is a number of bytes"),
        ({"dtype": "u2", "frame": (4, 4), "gap": -1}, "gap is a number of bytes"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    np.zeros(64, "u2").tofile(tmp_path / "a.raw")
    with pytest.raises(UsageError, match=text):
        opened(tmp_path / "a.raw", **options)


def test_a_truncated_file_can_be_accepted(tmp_path: Path) -> None:
    frames = np.arange(4 * 20, dtype="u2").reshape(4, 4, 5)
    (tmp_path / "a.raw").write_bytes(frames.tobytes()[:-3])
    with pytest.raises(CorruptFileError, match="3 whole frames"):
        opened(tmp_path / "a.raw", dtype="u2", frame=(4, 5))
    source = opened(tmp_path / "a.raw", dtype="u2", frame=(4, 5), allow_truncated=True)
    np.testing.assert_array_equal(read_all(source), frames[:3])


def test_a_frame_larger_than_any_memory_is_refused_without_trying(tmp_path: Path) -> None:
    np.zeros(64, "u2").tofile(tmp_path / "a.raw")
    with pytest.raises(CorruptFileError, match="too short"):
        opened(tmp_path / "a.raw", dtype="f8", frame=(10**9, 10**9))
