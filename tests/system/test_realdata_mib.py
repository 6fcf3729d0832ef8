"""Real Merlin files against the manifest of the real-data set."""

from __future__ import annotations

import pytest

import libstream as ls
from libstream.io_backends.files.mib import MibFormat, MibOptions
from tests import realdata

pytestmark = pytest.mark.realdata

# 2021 files: frames per trigger is 1, so that the scan's shape is not in the file
SHAPE_NOT_STATED = {"mib_nav4x2_256x256_u08"}


@pytest.mark.parametrize("name", realdata.ids("mib"))
@pytest.mark.parametrize("suffix", [".mib", ".hdr"])
def test_equals_manifest(name: str, suffix: str) -> None:
    """Includes the 24-bit raw quad, whose single count the manifest places provisionally: see docs/explanation/merlin.md."""
    entry = realdata.dataset(name)
    if not any(f["path"].endswith(suffix) for f in entry["files"]):
        pytest.skip(f"{name} has no {suffix} file")
    source = MibFormat().open(str(realdata.path(entry, suffix=suffix)), MibOptions())
    realdata.check_against_manifest(source, entry, reshape=name in SHAPE_NOT_STATED)
    if name in SHAPE_NOT_STATED:
        assert "8 frames: pass scan=(2, 4) if they are a scan" in source.meta.notes
    assert any("not confirmed" in note for note in source.meta.notes) == (name == "mib_epsic_quad_1f_24bit_raw")


@pytest.mark.parametrize("name", realdata.ids("mib"))
def test_opens_by_content(name: str) -> None:
    entry = realdata.dataset(name)
    scan = ls.open(realdata.path(entry, suffix=".mib"), scan=tuple(entry["shape_nav"]) if name in SHAPE_NOT_STATED else None)
    realdata.check_against_manifest(scan, entry)
