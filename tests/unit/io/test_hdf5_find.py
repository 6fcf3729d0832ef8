"""HDF5: which dataset is opened, and what its axes are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from libstream.ext import Axis, FormatError
from libstream.io_backends.files import _h5find
from libstream.io_backends.files.hdf5 import Hdf5Format, Hdf5Options


def opened(path: Path | str, **options: Any) -> Any:
    return Hdf5Format().open(str(path), Hdf5Options(**options))


def test_the_largest_dataset_is_taken(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["meta/mask"] = np.zeros((8, 8), "u1")
        h5["b/scan"] = np.zeros((3, 4, 8, 8), "u2")
        h5["c/scan"] = np.zeros((3, 4, 8, 8), "f8")
        h5["line"] = np.zeros(100_000)
        h5["text"] = "hello"
    source = opened(tmp_path / "a.h5")
    assert source.meta.vendor["dataset"] == "/b/scan"
    assert source.meta.shape.nav == (3, 4)
    (note,) = source.meta.notes
    assert note == "took /b/scan; dataset= chooses another: /c/scan (3, 4, 8, 8) float64, /meta/mask (8, 8) uint8"
    assert opened(tmp_path / "a.h5", dataset="meta/mask").meta.shape.nav == ()
    assert opened(tmp_path / "a.h5", dataset="/line", sig_dims=1).meta.shape.sig == (100_000,)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["g/scalar"] = 3.0
        h5["g/text"] = np.array(["a", "b"], h5py.string_dtype())
        h5["g/bytes"] = np.array([b"ab"])
        h5["g/records"] = np.zeros((3, 3), [("y", "u2"), ("x", "u2")])
        h5["g/null"] = h5py.Empty("f4")
        h5["g/none"] = np.zeros((0, 8, 8))
        h5["g/long"] = np.zeros((2, 2), "g")
        h5["g/line"] = np.zeros(5)
        h5.create_dataset("g/lists", (3,), h5py.vlen_dtype("u2"))
        h5["g/lost"] = h5py.ExternalLink("nowhere.h5", "/x")
    for name, why in {
        "scalar": "is a scalar",
        "text": "holds text",
        "bytes": "holds text",
        "records": r"holds records \(y, x\)",
        "null": "is an empty dataset",
        "none": r"holds no data: its shape is \(0, 8, 8\)",
        "long": "holds float128",
        "line": r"has shape \(5,\), expected at least 2 axes. Pass sig_dims=1",
        "lists": "variable length",
        "lost": r"points to /x in nowhere\.h5",
    }.items():
        if name == "long" and np.dtype("g").itemsize == 8:
            continue
        with pytest.raises(FormatError, match=why):
            opened(tmp_path / "a.h5", dataset=f"g/{name}")
    with pytest.raises(FormatError, match=r"holds no dataset of frames: /g/line has 1 axes; .*/g/records holds records"):
        opened(tmp_path / "a.h5")
    with pytest.raises(FormatError, match=r"there is no dataset 'g/lnie'; there are: /g/line"):
        opened(tmp_path / "a.h5", dataset="g/lnie")
    with pytest.raises(FormatError, match=r"'g' is a group; name a dataset in it: g/line"):
        opened(tmp_path / "a.h5", dataset="g")
    with h5py.File(tmp_path / "b.h5", "w"):
        pass
    with pytest.raises(FormatError, match="no dataset in it at all"):
        opened(tmp_path / "b.h5")


def test_circles_and_crowds_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["a/b/d"] = np.zeros((2, 4, 4))
        h5["a/b/up"] = h5["a"]
        h5["a/root"] = h5["/"]
        h5["a/soft"] = h5py.SoftLink("/a/b")
        h5["a/self"] = h5py.ExternalLink("a.h5", "/")
        h5.attrs["default"] = "a"
        h5["a"].attrs["default"] = "root"  # back to where it came from
        for i in range(30):
            h5[f"z/{i}"] = np.zeros((3, 3))
    assert opened(tmp_path / "a.h5").meta.vendor["dataset"] == "/a/b/d"
    monkeypatch.setattr(_h5find, "_MAX_OBJECTS", 10)
    assert any("only the first 10" in n for n in opened(tmp_path / "a.h5").meta.notes)


def nexus(h5: h5py.File, **attrs: Any) -> h5py.Group:
    group = h5.create_group("entry/data")
    h5.attrs["default"] = np.bytes_(b"entry")
    h5["entry"].attrs["default"] = "data"
    group.attrs.update({"NX_class": "NXdata", "signal": "counts", **attrs})
    h5["entry/raw"] = np.zeros((3, 4, 6, 5), "u2")
    group["counts"] = h5py.SoftLink("/entry/raw")
    h5["bigger"] = np.zeros((3, 4, 9, 9), "u2")
    return group


def test_nexus_default_and_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        group = nexus(h5, axes=["y", "x", ".", "q"])
        for name, values, unit in [("y", [1.0, 1.5, 2.0], "um"), ("x", np.arange(4) * 0.25, "um"), ("q", [-2, -1, 0, 1, 2], "1/nm")]:
            group[name] = np.asarray(values)
            group[name].attrs["units"] = unit
    source = opened(tmp_path / "a.h5")
    assert source.meta.vendor["dataset"] == "/entry/data/counts"
    assert source.meta.axes == (Axis("y", 3, 0.5, 1.0, "um"), Axis("x", 4, 0.25, 0.0, "um"), Axis("ky", 6), Axis("q", 5, 1.0, -2.0, "1/nm"))
    assert opened(tmp_path / "a.h5", dataset="/entry/data").meta.shape.sig == (6, 5)


def test_axes_by_indices_and_uneven_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        group = nexus(h5, axes=["x", "t", "edges"], x_indices=1, t_indices=0, edges_indices=3)
        group["x"] = np.arange(4) * 2.0
        group["t"] = np.array([0.0, 1.0, 5.0])
        group["edges"] = np.arange(6) * 10.0
        group["edges"].attrs["units"] = "mrad"
    meta = opened(tmp_path / "a.h5").meta
    assert meta.axes == (Axis("y", 3), Axis("x", 4), Axis("ky", 6), Axis("edges", 5, 10.0, 5.0, "mrad"))
    assert any("axis t of /entry/data/counts is not evenly spaced" in n for n in meta.notes)
    assert any("axis x of /entry/data/counts has step 2 without a unit" in n for n in meta.notes)


def test_older_nexus(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["entry/data/counts"] = np.zeros((3, 6, 5), "u2")
        h5["entry/data"].attrs["NX_class"] = "NXdata"
        h5["entry/data/counts"].attrs.update({"signal": 1, "axes": "t:v:u"})
        for name, n in (("t", 3), ("v", 6), ("u", 5)):
            h5[f"entry/data/{name}"] = np.arange(n) * 3.0
            h5[f"entry/data/{name}"].attrs["units"] = "mm"
    assert [(a.name, a.step, a.unit) for a in opened(tmp_path / "a.h5").meta.axes] == [("t", 3.0, "mm"), ("v", 3.0, "mm"), ("u", 3.0, "mm")]


def test_a_default_that_is_no_stack_is_not_followed(tmp_path: Path) -> None:
    """The sum image that a file shows in viewers is not what a user wants to process."""
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        nexus(h5)
        del h5["entry/raw"]
        h5["entry/raw"] = np.zeros((6, 5))
    assert opened(tmp_path / "a.h5").meta.vendor["dataset"] == "/bigger"


def test_hyperspy_and_emd_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["Experiments/s/data"] = np.zeros((3, 6, 5), "u2")
        for i, (name, scale, unit) in enumerate([("t", 0.5, "s"), ("ky", 0.1, "1/nm"), ("<undefined>", 1.0, "<undefined>")]):
            h5.create_group(f"Experiments/s/axis-{i}").attrs.update(
                {"name": name, "scale": scale, "offset": -1.0, "units": unit, "size": 1}
            )
    assert opened(tmp_path / "a.h5").meta.axes == (
        Axis("t", 3, 0.5, -1.0, "s"),
        Axis("ky", 6, 0.1, -1.0, "1/nm"),
        Axis("kx", 5),
    )
    for first in (0, 1):
        with h5py.File(tmp_path / f"emd{first}.h5", "w") as h5:
            h5["data/scan/data"] = np.zeros((3, 6, 5), "u2")
            h5["data/scan"].attrs["emd_group_type"] = 1
            for i, values in enumerate([[0, 2, 4], [0, 0.1] if first == 0 else np.arange(6) * 0.1, np.arange(5)]):
                h5[f"data/scan/dim{i + first}"] = np.asarray(values, float)
                h5[f"data/scan/dim{i + first}"].attrs.update({"name": np.bytes_(f"d{i}"), "units": "[n_m]"})
        axes = opened(tmp_path / f"emd{first}.h5").meta.axes
        assert [(a.name, a.size, round(a.step, 9), a.unit) for a in axes] == [
            ("d0", 3, 2.0, "nm"),
            ("d1", 6, 0.1, "nm"),
            ("d2", 5, 1.0, "nm"),
        ]


def test_probe() -> None:
    sure = Hdf5Format().probe
    assert sure(b"\x89HDF\r\n\x1a\n" + bytes(100), "x.dat") == 0.5
    assert sure(bytes(512) + b"\x89HDF\r\n\x1a\n", "x.h5") == 0.5
    assert sure(bytes(100) + b"\x89HDF\r\n\x1a\n", "x.h5") == 0.0
    assert sure(b"", "x.h5") == 0.0
