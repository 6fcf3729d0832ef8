"""EMPAD: both kinds of .xml, companions, shapes of scans, and XML that is up to no good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libstream.errors import CorruptFileError, FormatError
from libstream.io_backends.files.empad import EmpadFormat, EmpadOptions
from libstream.testing.formats import FormatTests, read_all

_Arr = np.ndarray[Any, Any]

SERIES = """<root name="acquisition_11"><timestamp isoformat="2019-06-07T13:17:22"/><software_version>0.51 211118</software_version>
<type>series</type><count>{n}</count><raw_file filename="{raw}"/><exposure_time>1</exposure_time>
<scan_parameters><series_count>{n}</series_count></scan_parameters></root>"""

SCAN = """<root name="EMPAD_v1.2.2"><software_version>1.2.2  (2021-08-20)</software_version><raw_file filename="{raw}"/>
<scan_parameters mode="search"><scan_size>0.8</scan_size><scan_resolution_y>{sy}</scan_resolution_y>
<scan_resolution_x>{sx}</scan_resolution_x></scan_parameters>
<scan_parameters mode="acquire"><scan_size>0.6</scan_size><scan_resolution_y>{y}</scan_resolution_y>
<scan_resolution_x>{x}</scan_resolution_x></scan_parameters>
<iom_measurements><full_scan_field_of_view><scale_factor>0.72</scale_factor><x>1.2e-06</x><y>1.2e-06</y></full_scan_field_of_view>
{more}</iom_measurements></root>"""


def raw_bytes(frames: _Arr) -> bytes:
    """Frames of 128 rows as the detector stores them: two more rows, which no reader may return."""
    out = np.full((len(frames), 130, 128), np.nan, "<f4")
    out[:, :128] = frames
    return out.tobytes()


def scan_files(
    folder: Path, array: _Arr, raw: str = "scan_x{x}_y{y}.raw", xml: str = "scan.xml", more: str = "", **said: int
) -> tuple[Path, Path]:
    y, x = array.shape[:2]
    raw = raw.format(x=x, y=y)
    (folder / raw).write_bytes(raw_bytes(array.reshape(-1, 128, 128)))
    (folder / xml).write_text(SCAN.format(raw=raw, more=more, **{"y": y, "x": x, "sy": y, "sx": x, **said}))
    return folder / raw, folder / xml


class TestEmpadScan(FormatTests):
    format = EmpadFormat
    shape = (2, 3, 128, 128)
    dtypes = ("<f4",)
    maps = True

    def write_file(self, folder: Path, array: _Arr) -> tuple[str, dict[str, Any]]:
        return str(scan_files(folder, array)[1]), {}


class TestEmpadScanByItsRaw(TestEmpadScan):
    def write_file(self, folder: Path, array: _Arr) -> tuple[str, dict[str, Any]]:
        return str(scan_files(folder, array)[0]), {}


class TestEmpadSeries(TestEmpadScan):
    shape = (7, 128, 128)

    def write_file(self, folder: Path, array: _Arr) -> tuple[str, dict[str, Any]]:
        (folder / "series_x7.raw").write_bytes(raw_bytes(array))
        (folder / "stack_images.xml").write_text(SERIES.format(n=len(array), raw="series_x7.raw"))
        return str(folder / "stack_images.xml"), {}


def opened(path: Path, **options: Any) -> Any:
    return EmpadFormat().open(str(path), EmpadOptions(**options))


def frames(*nav: int) -> _Arr:
    return np.random.default_rng(0).normal(100, 10, (*nav, 128, 128)).astype("f4")


def test_calibration_and_vendor_fields(tmp_path: Path) -> None:
    more = "<calibrated_pixelsize>2.5e-1</calibrated_pixelsize>"
    _, xml = scan_files(tmp_path, frames(4, 2), more=more)
    meta = opened(xml).meta
    y, x, ky, kx = meta.axes
    # the field of view is that of the longer side, recorded times the factor; 0.6 of it was scanned
    assert y.step == x.step == pytest.approx(1.2e-6 / 0.72 * 0.6 / 4 * 1e9)
    assert (y.name, x.name, y.unit) == ("y", "x", "nm")
    assert ky.step == kx.step == pytest.approx(0.25e9)
    assert ky.unit == "1/nm"
    assert meta.vendor["scan_parameters[search]/scan_size"] == "0.8"
    assert meta.vendor["scan_parameters[acquire]/scan_size"] == "0.6"
    assert meta.vendor["software_version"].startswith("1.2.2")
    assert meta.notes == ()


def test_pixels_in_mrad_come_first(tmp_path: Path) -> None:
    more = "<calibrated_pixelsize>2.5e-1</calibrated_pixelsize><calibrated_diffraction_angle>0.0009</calibrated_diffraction_angle>"
    meta = opened(scan_files(tmp_path, frames(2, 2), more=more)[1]).meta
    assert meta.sig_axes[0].unit == "mrad"
    assert meta.sig_axes[0].step == pytest.approx(0.9)


@pytest.mark.parametrize("text", ["nan", "-1", "0", "inf", "wide", ""])
def test_calibrations_that_make_no_sense_are_left_out(tmp_path: Path, text: str) -> None:
    _, xml = scan_files(tmp_path, frames(2, 2), more=f"<calibrated_diffraction_angle>{text}</calibrated_diffraction_angle>")
    xml.write_text(xml.read_text().replace("<x>1.2e-06</x>", f"<x>{text}</x>"))
    assert [a.unit for a in opened(xml).meta.axes] == ["px"] * 4


def test_old_files_with_pix_x_and_a_list_of_fields(tmp_path: Path) -> None:
    array = frames(2, 3)
    (tmp_path / "a.raw").write_bytes(raw_bytes(array.reshape(-1, 128, 128)))
    view = "<iom_measurements><optics.get_full_scan_field_of_view>[3e-08, 4e-08]</optics.get_full_scan_field_of_view></iom_measurements>"
    (tmp_path / "a.xml").write_text(f'<root><raw_file filename="a.raw"/><pix_x>3</pix_x><pix_y>2</pix_y>{view}</root>')
    meta = opened(tmp_path / "a.xml").meta
    assert meta.shape.nav == (2, 3)
    assert meta.nav_axes[0].step == pytest.approx(20)
    assert meta.nav_axes[1].step == pytest.approx(10)
    assert "check it" in meta.notes[0]


def test_the_shape_that_fits_the_file_is_right(tmp_path: Path) -> None:
    array = frames(3, 2)
    # scanned with the parameters of "search", in a file that was renamed
    _, xml = scan_files(tmp_path, array, raw="renamed.raw", y=8, x=8, sy=3, sx=2)
    meta = opened(xml).meta
    assert meta.shape.nav == (3, 2)
    assert "mode 'search'; the scan_parameters of mode 'acquire' says (8, 8)" in meta.notes[0]
    assert meta.nav_axes[0].step == pytest.approx(1.2e-6 / 0.72 * 0.8 / 3 * 1e9)


def test_the_name_of_the_raw_file_tells_which_of_two_fitting_shapes_it_is(tmp_path: Path) -> None:
    array = frames(3, 2)
    _, xml = scan_files(tmp_path, array, y=2, x=3, sy=3, sx=2)
    assert opened(xml).meta.shape.nav == (3, 2)


def test_another_number_of_frames_than_announced(tmp_path: Path) -> None:
    array = frames(3, 2)
    raw, xml = scan_files(tmp_path, array)
    for n in (4, 8):
        raw.write_bytes(raw_bytes(frames(n)))
        with pytest.raises(CorruptFileError, match=rf"holds {n} frames, but scan\.xml announces \(3, 2\) = 6"):
            opened(xml)
        source = opened(xml, allow_truncated=True)
        assert source.meta.shape.nav == (n,)
        assert "pass scan=(y, x)" in source.meta.notes[0]
        np.testing.assert_array_equal(read_all(source), frames(n))
    raw.write_bytes(raw_bytes(array.reshape(-1, 128, 128))[:-2000])
    with pytest.raises(CorruptFileError, match="5 frames and 64560 bytes"):
        opened(xml)


def test_an_xml_without_a_shape(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(raw_bytes(frames(6)))
    (tmp_path / "a.xml").write_text('<root><raw_file filename="a.raw"/></root>')
    meta = opened(tmp_path / "a.xml").meta
    assert meta.shape.nav == (6,)
    assert "pass scan=(y, x)" in meta.notes[0]


def test_missing_companions(tmp_path: Path) -> None:
    raw, xml = scan_files(tmp_path, frames(2, 2))
    data = raw.read_bytes()
    raw.unlink()
    with pytest.raises(FormatError, match=r"its data are not here: expected .*scan_x2_y2\.raw\. Copy"):
        opened(xml)
    (tmp_path / "scan.raw").write_bytes(data)  # renamed to the name of the .xml
    assert opened(xml).meta.shape.nav == (2, 2)
    xml.unlink()
    with pytest.raises(FormatError, match=r"no \.xml beside it.*expected .*scan\.xml"):
        opened(tmp_path / "scan.raw")
    (tmp_path / "none.xml").write_text("<root/>")
    with pytest.raises(FormatError, match="names no raw file"):
        opened(tmp_path / "none.xml")


def test_a_path_of_the_acquisition_computer_leads_nowhere_else(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "a.raw").write_bytes(raw_bytes(frames(4)))
    for given in ("../a.raw", str(tmp_path / "a.raw"), "C:\\data\\..\\a.raw"):
        (inner / "b.xml").write_text(f'<root><raw_file filename="{given}"/></root>')
        with pytest.raises(FormatError, match="not here"):
            opened(inner / "b.xml")


def test_probing_a_raw_file_needs_its_xml(tmp_path: Path) -> None:
    raw, xml = scan_files(tmp_path, frames(2, 2))
    made = EmpadFormat()
    assert made.probe(b"", str(raw)) == pytest.approx(0.9)
    assert made.probe(xml.read_bytes(), str(xml)) > 0.9
    other = tmp_path / "other.raw"
    other.write_bytes(b"")
    assert made.probe(b"", str(other)) == 0
    xml.unlink()
    assert made.probe(b"", str(raw)) == 0
    assert made.probe(b"", str(tmp_path / "no folder" / "a.raw")) == 0


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE r [<!ENTITY a "b">]><root><raw_file filename="&a;"/></root>',
        '<!DOCTYPE r SYSTEM "file:///etc/passwd"><root><raw_file filename="a.raw"/></root>',
        '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><root><raw_file filename="a.raw"/>&b;</root>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "a.raw").write_bytes(raw_bytes(frames(2)))
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    with pytest.raises(CorruptFileError, match="document type"):
        opened(tmp_path / "a.xml")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no valid XML"), (b'<root><raw_file filename="a.raw"/>', "no valid XML"), (bytes(range(256)), "no valid XML"),
        (b"<a>" * 100_000, "nests more than"), (b"<root>" + b" " * 5_000_000 + b"</root>", "is larger than"),
        (b'<?xml version="1.0" encoding="nonsense"?><root/>', "no valid XML"),
    ],
)  # fmt: skip
def test_xml_that_is_none(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "a.xml").write_bytes(data)
    with pytest.raises(CorruptFileError, match=text):
        opened(tmp_path / "a.xml")
