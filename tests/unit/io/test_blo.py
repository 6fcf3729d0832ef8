"""NanoMEGAS block files, written byte by byte."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.errors import CorruptFileError, FormatError, LibstreamError
from libstream.io_backends.files.blo import BloFormat, BloOptions
from libstream.testing.formats import FormatTests, read_all

_Arr = np.ndarray[Any, Any]


def blo_bytes(array: _Arr, note: bytes = b"", **fields: Any) -> bytes:
    """A block file of `array` (y, x, size, size): header, note, image, then frames of AA 55, number, pixels."""
    n_y, n_x, size, _ = array.shape
    first = 4096
    values = {
        "magic": 258, "image": first, "frames": first + 2 * n_y * n_x, "flags": 0x2003F, "size": size, "turned": 0, "n_x": n_x, "n_y": n_y,
        "rotation": 2500, "sx": 1.5, "sy": 2.5, "energy": 200_000, "sdp": 6226, "length": 2000, "time": 42339.6549,
    }  # fmt: skip
    values.update(fields)
    head = b"IMGBLO" + struct.pack("<HIII", values["magic"], values["image"], values["frames"], values["flags"])
    head += struct.pack("<HHHHH", *(values[k] for k in ("size", "turned", "n_x", "n_y", "rotation")))
    head += struct.pack("<dd", values["sx"], values["sy"])
    head += struct.pack("<I", values["energy"]) + struct.pack("<H", values["sdp"])
    head += struct.pack("<I", values["length"]) + struct.pack("<d", values["time"])
    head = head.ljust(240, b"\0") + note
    head = head.ljust(first, b"\0") + bytes(2 * n_y * n_x)
    little = array.astype(array.dtype.newbyteorder("<")).reshape(-1, size, size)
    return head + b"".join(b"\xaa\x55" + struct.pack("<I", i) + frame.tobytes() for i, frame in enumerate(little))


class TestBlo(FormatTests):
    format = BloFormat
    shape = (3, 4, 20, 20)
    dtypes = ("uint8",)
    maps = True

    def write_file(self, folder: Path, array: _Arr) -> tuple[str, dict[str, Any]]:
        path = folder / "scan.blo"
        path.write_bytes(blo_bytes(array))
        return str(path), {}


class TestBlo16(TestBlo):
    dtypes = ("uint16",)
    highest = 60_000

    def write_file(self, folder: Path, array: _Arr) -> tuple[str, dict[str, Any]]:
        path = folder / "scan.blo"
        path.write_bytes(blo_bytes(array, b"Blo Bit Depth: 16 bits\r\n", magic=259))
        return str(path), {}


def opened(folder: Path, data: bytes, **options: Any) -> Any:
    path = folder / "a.blo"
    path.write_bytes(data)
    return BloFormat().open(str(path), BloOptions(**options))


def frames(dtype: str = "u1") -> _Arr:
    return np.random.default_rng(0).integers(0, 250, (2, 3, 6, 6)).astype(dtype)


def test_metadata(tmp_path: Path) -> None:
    meta = opened(tmp_path, blo_bytes(frames(), b"Camera gamma : on\0\0rest")).meta
    assert [(a.name, a.step, a.unit) for a in meta.nav_axes] == [("y", 2.5, "nm"), ("x", 1.5, "nm")]
    # 62.26 px/cm at a camera length of 200 mm
    assert meta.sig_axes[0].step == pytest.approx(10 / 62.26 / 200 * 1000)
    assert meta.sig_axes[0].unit == "mrad"
    assert meta.vendor["beam_energy_V"] == 200_000
    assert meta.vendor["scan_rotation_deg"] == 25.0
    assert meta.vendor["camera_length_mm"] == 200.0
    assert meta.vendor["acquired"] == "2015-12-01T15:43:03"
    assert meta.vendor["note"] == "Camera gamma : on"


def test_calibrations_that_are_not_there(tmp_path: Path) -> None:
    meta = opened(tmp_path, blo_bytes(frames(), length=0)).meta
    assert meta.sig_axes[0].unit == "mm"
    assert meta.sig_axes[0].step == pytest.approx(10 / 62.26)
    meta = opened(tmp_path, blo_bytes(frames(), sdp=0, sx=0.0, sy=float("nan"), time=float("inf"))).meta
    assert [a.unit for a in meta.axes] == ["px"] * 4
    assert "acquired" not in meta.vendor


def test_depth_is_that_which_fits_the_file(tmp_path: Path) -> None:
    for dtype in ("u1", "u2"):
        for magic in (258, 259):
            for note in (b"", b"Blo Bit Depth: 8 bits", b"Blo Bit Depth: 16 bits", b"Blo Bit Depth: many"):
                source = opened(tmp_path, blo_bytes(frames(dtype), note, magic=magic))
                assert source.meta.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(read_all(source), frames(dtype).reshape(-1, 6, 6))
    # a truncated file fits neither: then the note tells
    data = blo_bytes(frames("u2"), b"Some: thing\r\nBlo Bit Depth: 16 bits\r\n", magic=259)[:-10]
    source = opened(tmp_path, data, allow_truncated=True)
    assert source.meta.dtype == np.dtype("u2")
    np.testing.assert_array_equal(read_all(source), frames("u2").reshape(-1, 6, 6)[:5])


def test_a_truncated_file(tmp_path: Path) -> None:
    data = blo_bytes(frames())[:-50]
    with pytest.raises(CorruptFileError, match=r"announces 6 frames, the file holds 4 whole ones.*allow_truncated"):
        opened(tmp_path, data)
    source = opened(tmp_path, data, allow_truncated=True)
    assert source.meta.shape.nav == (4,)
    assert "4 of 6 frames; the scan was (2, 3)" in source.meta.notes[0]
    assert source.meta.nav_axes[0].name == "frame"


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"magic": 7}, FormatError, "version 0x7"),
        ({"n_x": 0}, CorruptFileError, "scan of 2 x 0"),
        ({"size": 0}, CorruptFileError, "frames of 0 px"),
        ({"n_x": 65535, "n_y": 65535}, CorruptFileError, "announces 4294836225 frames"),
        ({"size": 65535}, CorruptFileError, "too short"),
        ({"frames": 2**32 - 1}, CorruptFileError, "too short"),
        ({"frames": 100}, CorruptFileError, "puts image and frames at bytes 4096 and 100"),
        ({"image": 3}, CorruptFileError, "puts image and frames"),
        ({"frames": 4100}, CorruptFileError, "byte 4100 should begin the first frame with AA 55"),
    ],
)
def test_headers_that_lie(tmp_path: Path, fields: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        opened(tmp_path, blo_bytes(frames(), **fields))


@given(place=st.integers(0, 80), value=st.integers(0, 255))
def test_no_damaged_byte_leads_to_anything_but_an_error_or_other_frames(place: int, value: int) -> None:
    data = bytearray(blo_bytes(frames()))
    data[place] = value
    with tempfile.TemporaryDirectory() as folder:
        try:
            size, said = read_all(opened(Path(folder), bytes(data))).size, "a.blo"
        except LibstreamError as exc:
            size, said = 0, str(exc)
        assert size <= frames().size
        assert "a.blo" in said
