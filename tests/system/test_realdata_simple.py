"""Real files of npy, raw, EMPAD and BLO against the manifest of the real-data set, by `ls.open`."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

import libstream as ls
from libstream.errors import FormatError
from tests import realdata

pytestmark = pytest.mark.realdata

WITH_FRAMES = [name for name in realdata.ids("npy", "raw", "empad", "blo") if name != "empad_xml_v122"]
# what the manifest tells and the file does not say
NOT_IN_THE_FILE: dict[str, dict[str, Any]] = {"raw_nordif_3x3": {"dtype": "uint8", "frame": (60, 60), "scan": (3, 3)}}


@pytest.mark.parametrize("name", WITH_FRAMES)
def test_equals_manifest(name: str) -> None:
    entry = realdata.dataset(name)
    for file in entry["files"]:
        if file["role"] == "metadata":
            continue
        path = realdata.path(entry, file["role"])
        source = ls.open(path, **NOT_IN_THE_FILE.get(name, {}))
        assert source.meta.id.kind == entry["format"]
        realdata.check_against_manifest(source, entry)


@pytest.mark.parametrize("name", WITH_FRAMES)
def test_the_sum_image_of_a_run(name: str) -> None:
    entry = realdata.dataset(name)
    source = ls.open(realdata.path(entry), **NOT_IN_THE_FILE.get(name, {}))
    result = ls.run(source, ls.udfs.Sum(), executor="inline")
    total = result["sum"]["sum"].sum(dtype="f8")
    assert total == pytest.approx(entry["sum"], rel=1e-12)
    assert result.complete


def test_an_xml_without_its_data() -> None:
    entry = realdata.dataset("empad_xml_v122")
    with pytest.raises(FormatError, match=r"its data are not here: expected .*scan_x32_y64\.raw"):
        ls.open(realdata.path(entry))


def test_real_empad_calibration(tmp_path: Any) -> None:
    """The .xml of a real scan, with a file of the announced size (without frames: a hole in the file system)."""
    entry = realdata.dataset("empad_xml_v122")
    xml = tmp_path / "scan.xml"
    xml.write_bytes(realdata.path(entry).read_bytes())
    with (tmp_path / "scan_x32_y64.raw").open("wb") as f:
        f.truncate(64 * 32 * 130 * 128 * 4)
    meta = ls.open(xml).meta
    assert meta.shape.nav == (64, 32)
    # 1.272 um recorded, of which 1 / 0.72 is true and 0.6 was scanned, over the 64 rows of the longer side
    assert [a.step for a in meta.nav_axes] == pytest.approx([1.272412341559544e3 / 0.72 * 0.6 / 64] * 2)
    assert [a.unit for a in meta.axes] == ["nm", "nm", "px", "px"]
    assert meta.vendor["iom_measurements/high_voltage"] == "300000.0"


def test_real_blo_calibration() -> None:
    meta = ls.open(realdata.path(realdata.dataset("blo_test2_2x3"))).meta
    assert [(a.step, a.unit) for a in meta.nav_axes] == [(64.0, "nm"), (64.0, "nm")]
    assert meta.sig_axes[0].unit == "mrad"
    assert meta.sig_axes[0].step == pytest.approx(0.80308, rel=1e-4)


@pytest.mark.parametrize("name", realdata.ids("npy", "raw", "empad", "blo", "mib"))
def test_the_files_are_those_of_the_manifest(name: str) -> None:
    entry = realdata.dataset(name)
    for file in entry["files"]:
        data = realdata.path(entry, suffix=file["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file["sha256"]


def test_raw_says_what_must_be_given() -> None:
    with pytest.raises(FormatError, match=r"32400 bytes.*dtype='uint16'"):
        ls.open(realdata.path(realdata.dataset("raw_nordif_3x3")))
