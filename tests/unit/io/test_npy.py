""".npy files: versions, orders, byte orders, and headers that lie."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.errors import CorruptFileError, FormatError, LibstreamError, UsageError
from libstream.ext import Region, Span
from libstream.io_backends.files.npy import FortranLayout, NpyFormat, NpyOptions
from libstream.testing.formats import FormatTests, read_all

_Arr = np.ndarray[Any, Any]


def npy_bytes(array: _Arr, version: int = 1, **fields: Any) -> bytes:
    """A .npy file by hand; `fields` replace those of the header."""
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    text = repr({"descr": array.dtype.str, "fortran_order": fortran, "shape": array.shape, **fields})
    head = 10 if version == 1 else 12
    text += " " * (-(head + len(text) + 1) % 64) + "\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    data = array.tobytes(order="F" if fortran else "C")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode() + data


class TestNpy(FormatTests):
    format = NpyFormat
    dtypes = ("uint16", "uint8", ">u2", "int32", "<f4", ">f8", "bool", "complex128")
    maps = True
    version = 1

    def write_file(self, folder: Path, array: _Arr) -> tuple[str, dict[str, Any]]:
        path = folder / "scan.npy"
        path.write_bytes(npy_bytes(array, self.version))
        return str(path), {}


class TestNpyVersion2(TestNpy):
    dtypes = ("uint16", ">f4")
    version = 2


class TestNpyVersion3(TestNpy):
    dtypes = ("uint16", ">f4")
    version = 3


class TestNpyFortran(FormatTests):
    format = NpyFormat
    dtypes = ("uint16", ">u4", "<f8")

    def write_file(self, folder: Path, array: _Arr) -> tuple[str, dict[str, Any]]:
        path = folder / "scan.npy"
        path.write_bytes(npy_bytes(np.asfortranarray(array)))
        return str(path), {}


class TestSpectra(TestNpy):
    shape = (4, 5, 64)
    n_sig = 1
    dtypes = ("uint32", ">f4")

    def write_file(self, folder: Path, array: _Arr) -> tuple[str, dict[str, Any]]:
        return super().write_file(folder, array)[0], {"sig_dims": 1}


@given(data=st.data())
def test_any_shape_order_and_byte_order_as_numpy_writes_it(data: st.DataObject) -> None:
    draw = data.draw
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)))
    sig_dims = draw(st.integers(1, min(2, len(shape))))
    dtype = draw(st.sampled_from(["<u2", ">u2", "<f4", ">i8", "bool"]))
    array = np.asarray(
        np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype), order=draw(st.sampled_from("CF"))
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npy"
        np.save(path, array)
        source = NpyFormat().open(str(path), NpyOptions(sig_dims=sig_dims))
        nav, sig = shape[:-sig_dims], shape[-sig_dims:]
        assert source.meta.shape.nav == nav
        assert source.meta.shape.sig == sig
        frames = np.ascontiguousarray(array).reshape(-1, *sig)
        np.testing.assert_array_equal(read_all(source), frames)
        a = draw(st.integers(0, len(frames)))
        b = draw(st.integers(a, len(frames)))
        top = draw(st.integers(0, sig[0]))
        bottom = draw(st.integers(top, sig[0]))
        reader = source.opener.open_reader("frames")
        out = np.full((b - a, bottom - top, *sig[1:]), 1, source.meta.dtype)
        reader.read_into(out, Span(a, b), Region((top, *(0,) * (sig_dims - 1)), out.shape[1:]))
        reader.close()
        np.testing.assert_array_equal(out, frames[a:b, top:bottom])


def test_fortran_order_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(np.zeros((3, 4, 5), "u2")))
    source = NpyFormat().open(str(tmp_path / "a.npy"), NpyOptions())
    assert isinstance(source.opener, FortranLayout)
    assert "Fortran order" in source.meta.notes[0]
    np.save(tmp_path / "b.npy", np.zeros((1, 1, 1, 5), "u2"))
    assert not isinstance(NpyFormat().open(str(tmp_path / "b.npy"), NpyOptions()).opener, FortranLayout)


def test_large_scans_in_fortran_order_are_read_in_pieces(tmp_path: Path) -> None:
    # a piece of one scan line is 199 * 150 numbers here: the rows of a frame do not fit into one read
    array = np.asfortranarray(np.random.default_rng(0).integers(0, 99, (150, 200, 12, 3)).astype(">u4"))
    np.save(tmp_path / "a.npy", array)
    source = NpyFormat().open(str(tmp_path / "a.npy"), NpyOptions())
    reader = source.opener.open_reader("frames")
    out = np.empty((450, 11, 3), "u4")
    reader.read_into(out, Span(20_050, 20_500), Region((1, 0), (11, 3)))
    reader.close()
    np.testing.assert_array_equal(out, array.reshape(-1, 12, 3)[20_050:20_500, 1:])


def refused(path: Path, data: bytes, error: type[Exception], text: str, **options: Any) -> None:
    path.write_bytes(data)
    with pytest.raises(error, match=text):
        NpyFormat().open(str(path), NpyOptions(**options))


def test_what_is_no_stack_of_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    refused(path, npy_bytes(np.zeros(9)), FormatError, r"shape \(9,\), expected at least 2 axes. Pass sig_dims=1")
    refused(path, npy_bytes(np.zeros(())), FormatError, r"shape \(\), expected at least 1", sig_dims=1)
    refused(path, npy_bytes(np.zeros((0, 3, 3))), FormatError, "no frames in it")
    refused(path, npy_bytes(np.zeros((3, 0, 3))), FormatError, "no frames in it")
    refused(path, npy_bytes(np.zeros((3, 3), "S4")), FormatError, "plain numbers")
    refused(path, npy_bytes(np.zeros((3, 3, 3), "M8[s]")), FormatError, "plain numbers")
    refused(path, npy_bytes(np.zeros((3, 3), [("a", "u2")]), descr=[("a", "<u2")]), FormatError, "objects or records")
    np.save(path, np.array([[{}, 1], [2, 3]], dtype=object), allow_pickle=True)
    refused(path, path.read_bytes(), FormatError, "objects or records")
    refused(path, npy_bytes(np.zeros((3, 3, 3))), UsageError, "1 or 2, got 3", sig_dims=3)
    refused(path, b"PK\x03\x04" + bytes(500), FormatError, "is no .npy file")


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": (-3, 4)}, {"shape": "xy"}, {"shape": (3.0, 4)}, {"shape": (True, 4)}, {"shape": [3, 4]}, {"fortran_order": 2},
        {"fortran_order": None}, {"shape": None}, {"shape": (3, 4, "a" * 400)},
    ],
)  # fmt: skip
def test_headers_that_make_no_sense(tmp_path: Path, fields: dict[str, Any]) -> None:
    refused(tmp_path / "a.npy", npy_bytes(np.zeros((3, 4)), **fields), CorruptFileError, "cannot be understood")


def test_headers_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    good = npy_bytes(np.zeros((3, 4, 4), "u2"))
    refused(
        path, npy_bytes(np.zeros((3, 4, 4), "u2"), shape=(10**12, 4, 4)), CorruptFileError, "announces 1000000000000 frames.*3 whole ones"
    )
    refused(path, npy_bytes(np.zeros((3, 4, 4), "u2"), shape=(3, 10**9, 10**9)), CorruptFileError, "too short")
    refused(path, npy_bytes(np.zeros((3, 4, 4), "u2"), shape=(10**400, 4, 4)), CorruptFileError, "announces")
    refused(path, npy_bytes(np.zeros((3, 4, 4), "u2"), descr="zz"), FormatError, "plain numbers")
    refused(path, npy_bytes(np.zeros((3, 4, 4), "u2"), descr="O"), FormatError, "objects")
    refused(path, good[:6] + b"\x09" + good[7:], CorruptFileError, "version 9 is unknown")
    refused(path, good[:8] + b"\xff\xff" + good[10:], CorruptFileError, "claims 65535 bytes")
    refused(path, good[:8] + b"\x10\x27" + good[10:], CorruptFileError, "claims 10000 bytes, the file holds")
    refused(path, good[:10] + b"(" * 100 + good[110:], CorruptFileError, "cannot be understood")
    refused(path, good[:10] + b"__import__('os').system('true')".ljust(100) + good[110:], CorruptFileError, "cannot be understood")


@given(place=st.integers(0, 200), value=st.integers(0, 255))
def test_no_damaged_byte_leads_to_anything_but_an_error_or_other_frames(place: int, value: int) -> None:
    data = bytearray(npy_bytes(np.arange(96, dtype="u2").reshape(6, 4, 4)))
    data[place] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npy"
        path.write_bytes(bytes(data))
        try:
            size, said = read_all(NpyFormat().open(str(path), NpyOptions())).size, "a.npy"
        except LibstreamError as exc:
            size, said = 0, str(exc)
        assert size <= 200
        assert "a.npy" in said


def test_a_truncated_file_can_be_accepted(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 20, dtype=">u2").reshape(2, 3, 4, 5)
    (tmp_path / "a.npy").write_bytes(npy_bytes(array)[:-50])
    source = NpyFormat().open(str(tmp_path / "a.npy"), NpyOptions(allow_truncated=True))
    assert source.meta.shape.nav == (4,)
    assert "4 of 6 frames; the scan was (2, 3)" in source.meta.notes[0]
    np.testing.assert_array_equal(read_all(source), array.reshape(6, 4, 5)[:4])
    (tmp_path / "f.npy").write_bytes(npy_bytes(np.asfortranarray(array))[:-50])
    with pytest.raises(CorruptFileError):  # every frame lacks pixels there
        NpyFormat().open(str(tmp_path / "f.npy"), NpyOptions(allow_truncated=True))
