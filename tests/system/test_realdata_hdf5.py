"""Real HDF5 files against the manifest of the real-data set."""

from __future__ import annotations

import numpy as np
import pytest

import libstream as ls
from libstream.io_backends.files.dectris import DectrisFormat, DectrisOptions
from libstream.io_backends.files.hdf5 import Hdf5Format, Hdf5Options
from tests import realdata

pytestmark = pytest.mark.realdata

SCAN_NOT_STATED = {"hdf5_ni_h5ebsd", "dectris_arina_4x4"}
# the frame axis is the last one in Velox files: these need a reader of their own
PLAIN = {
    "emd_ncem_acquisition18": "/data/single/data",
    "emd_prismatic_si100": "/4DSTEM_simulation/data/datacubes/CBED_array_depth0000/datacube",
    "emd_py4dstem_2345": "/datacube_root/datacube/data",
    "hspy_pyxem_sted": "/Experiments/__unnamed__/data",
    "hdf5_libertem_sample": "/dataset",
    "hdf5_ni_h5ebsd": "/Scan 1/EBSD/Data/patterns",
}


@pytest.mark.parametrize("name", [*PLAIN])
@pytest.mark.parametrize("named", [True, False])
def test_datasets_equal_the_manifest(name: str, named: bool) -> None:
    """By the dataset's path, and by what is taken when none is given."""
    entry = realdata.dataset(name)
    source = Hdf5Format().open(str(realdata.path(entry)), Hdf5Options(dataset=PLAIN[name] if named else None))
    assert source.meta.vendor["dataset"] == PLAIN[name]
    realdata.check_against_manifest(source, entry, reshape=name in SCAN_NOT_STATED)


def test_dectris_master() -> None:
    entry = realdata.dataset("dectris_arina_4x4")
    source = DectrisFormat().open(str(realdata.path(entry, role="master")), DectrisOptions())
    realdata.check_against_manifest(source, entry, reshape=True)
    assert source.meta.vendor["detector"]["description"] == "Dectris ARINA CZT"
    assert source.meta.vendor["detector"]["count_time [s]"] == pytest.approx(9.95e-5)
    assert source.meta.vendor["pixel_mask"].shape == (192, 192)
    assert source.meta.id.n_bytes == sum(f["bytes"] for f in entry["files"] if f["role"] in ("master", "data"))


@pytest.mark.parametrize("name", [*PLAIN, "dectris_arina_4x4"])
def test_opens_by_content(name: str) -> None:
    entry = realdata.dataset(name)
    role = "master" if name.startswith("dectris") else None
    scan = ls.open(realdata.path(entry, role=role), scan=tuple(entry["shape_nav"]) if name in SCAN_NOT_STATED else None)
    assert scan.meta.id.kind == ("dectris" if role else "hdf5")
    realdata.check_against_manifest(scan, entry)


def test_calibration_of_real_files() -> None:
    axes = Hdf5Format().open(str(realdata.path(realdata.dataset("emd_py4dstem_2345"))), Hdf5Options()).meta.axes
    assert [(a.name, a.unit) for a in axes] == [("Rx", "nm"), ("Ry", "nm"), ("Qx", "A^-1"), ("Qy", "A^-1")]
    np.testing.assert_allclose([a.step for a in axes], [0.126796875, 0.126796875, 0.0442515666, 0.0442515666])
