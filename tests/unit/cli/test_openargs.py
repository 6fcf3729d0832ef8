"""Options of `ls.open` from the command line; arrays from files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.cli import _openargs
from libstream.cli.command import Parser
from libstream.errors import UsageError


def options(*words: str) -> dict[str, Any]:
    parser = Parser(prog="x")
    _openargs.add_open_arguments(parser)
    return _openargs.open_options(parser.parse_args([*words]))


def test_only_what_was_given() -> None:
    assert options() == {}
    assert options("--scan", "4,2", "--pixel", "0.9 mrad", "--dtype", ">u2", "--centre=-1,2.5", "-O", "offset=8") == {
        "scan": (4, 2), "pixel": "0.9 mrad", "dtype": ">u2", "centre": (-1.0, 2.5), "offset": 8,
    }  # fmt: skip


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=4), st.sampled_from([",", "x", " , ", "×"]))
def test_shapes(sizes: list[int], sign: str) -> None:
    assert _openargs.shape(sign.join(map(str, sizes))) == tuple(sizes)


@pytest.mark.parametrize("text", ["", "a", "3,", "3,,4", "-3,4", "3.5,2", "0,4", "3;4"])
def test_wrong_shapes(text: str) -> None:
    if text == "3,":
        assert _openargs.shape(text) == (3,)
        return
    with pytest.raises(argparse.ArgumentTypeError, match=r"shape|size of 0"):
        _openargs.shape(text)


@pytest.mark.parametrize(
    "words", [("--dtype", "O"), ("--dtype", "banana"), ("--dtype", "M8[s]"), ("--centre", "3"), ("-O", "novalue"), ("-O", "=3")]
)
def test_wrong_options(words: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=words[0]):
        options(*words)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3.5", 3.5),
        ("true", True),
        ("False", False),
        ("none", None),
        ("2,3", (2, 3)),
        ("/a/b", "/a/b"),
        ("a=b", "a=b"),
        ("'3'", "3"),
        ("", ""),
    ],
)
def test_format_options(text: str, value: object) -> None:
    assert _openargs.option(f"some-key={text}") == ("some_key", value)


def test_misspelt_option_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"--scna.*did you mean --scan\?"):
        options("--scna", "4")


def test_arrays(tmp_path: Path) -> None:
    data = np.arange(6).reshape(2, 3)
    np.save(tmp_path / "a.npy", data)
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["g/dark"] = data
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["dark"], file["gain"] = data, data + 1
    np.testing.assert_array_equal(_openargs.load_array(str(tmp_path / "a.npy"), "dark"), data)
    np.testing.assert_array_equal(_openargs.load_array(str(tmp_path / "one.h5"), "dark"), data)
    np.testing.assert_array_equal(_openargs.load_array(f"{tmp_path}/two.h5:/gain", "gain"), data + 1)
    np.testing.assert_array_equal(_openargs.load_array(f"{tmp_path}/one.h5:g/dark", "dark"), data)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no.npy", "--dark: no file"),
        ("a.tif", "neither .npy nor HDF5"),
        ("text.npy", "not an array of numbers"),
        ("two.h5", r"has 2 data sets, say which one: .*two.h5:/name \(/dark, /gain\)"),
        ("two.h5:/flat", "no data set /flat in .*; it has: /dark, /gain"),
        ("two.h5:/group", "no data set /group"),
    ],
)
def test_wrong_arrays(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "a.tif").write_bytes(b"II")
    (tmp_path / "text.npy").write_bytes(b"hello")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["dark"], file["gain"] = 1, 2
        file.create_group("group")
    with pytest.raises(UsageError, match=says):
        _openargs.load_array(str(tmp_path / name), "--dark")
