"""From words on the command line to UDFs."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.cli import _udfargs
from libstream.cli._udfargs import UdfArg, add_udf_arguments, make_udf, make_udfs, udf_class
from libstream.cli.command import Parser
from libstream.contracts.udf import UDF, param
from libstream.errors import LibstreamError, ParameterError, UsageError
from libstream.model.array import Array
from libstream.model.output import nav
from libstream.model.quantity import Quantity


class Everything(UDF):
    """One parameter of each kind."""

    inner: float = param(3.0, ge=0, unit="px")
    count: int = param(1, ge=1, le=9)
    flip: bool = False
    label: str = "none"
    radius: Quantity = param(4, unit="px")
    centre: tuple[float, float] | None = None
    positions: list[int] = param([0])
    mask: Array | None = None
    mode: str = param("fast", choices=("fast", "slow"))

    def outputs(self):  # type: ignore[no-untyped-def]
        """One number a frame."""
        return {"n": nav("f8")}

    def process_frame(self, frame, out):  # type: ignore[no-untyped-def]
        """Nothing."""


def parse(*words: str) -> list[UdfArg]:
    parser = Parser(prog="x")
    add_udf_arguments(parser)
    return parser.parse_args([*words]).udfs or []


def test_parameters_belong_to_the_udf_before_them() -> None:
    adf, com = parse("--udf", "adf=VirtualDetector", "-p", "inner=30", "-p", "outer = 80", "--udf", "CenterOfMass", "-p", "mask=a=b")
    assert (adf.spec, adf.key, adf.params) == ("VirtualDetector", "adf", {"inner": "30", "outer": " 80"})
    assert (com.spec, com.key, com.params) == ("CenterOfMass", None, {"mask": "a=b"})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-p", "inner=3"], "stands before any --udf"),
        (["--on", "threshold_2"], "stands before any --udf"),
        (["--udf", "A", "-p", "inner"], "name=value"),
        (["--udf", "A", "-p", "=3"], "name=value"),
        (["--udf", "A", "-p", "a=3", "-p", "a=4"], "given twice"),
    ],
)
def test_wrong_words(words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(*words)


def test_channel_belongs_to_the_udf_before_it() -> None:
    first, second = parse("--udf", "A", "--on", "threshold_2", "--udf", "B")
    assert (first.channel, second.channel) == ("threshold_2", None)


@pytest.mark.parametrize(
    ("text", "spec", "key"),
    [
        ("Sum", "Sum", None),
        ("a=Sum", "Sum", "a"),
        ("a_b=m:C", "m:C", "a_b"),
        ("./x=1/u.py:C", "./x=1/u.py:C", None),
        ("k=./x=1/u.py:C", "./x=1/u.py:C", "k"),
    ],
)
def test_key(text: str, spec: str, key: str | None) -> None:
    assert UdfArg.parse(text) == UdfArg(spec, key)


def test_values_from_text(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.eye(3))
    made = make_udf(
        Everything,
        {
            "inner": "2.5", "count": "4", "flip": "true", "label": "12", "radius": "12 mrad", "centre": "1.5,2", "positions": "3, 4",
            "mask": f"@{tmp_path / 'mask.npy'}", "mode": "slow",
        },
    )  # fmt: skip
    assert made == Everything(
        inner=2.5, count=4, flip=True, label="12", radius=Quantity(12.0, "mrad"), centre=(1.5, 2.0), positions=[3, 4],
        mask=Array(np.eye(3)), mode="slow",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("centre", "none", None),
        ("centre", "(1, 2)", (1.0, 2.0)),
        ("centre", "[1, 2]", (1.0, 2.0)),
        ("positions", "7", [7]),
        ("positions", "[7, 8]", [7, 8]),
        ("label", "none", "none"),
        ("label", "1,2", "1,2"),
        ("label", "@@at", "@at"),
        ("mask", "[[1, 2], [3, 4]]", Array([[1, 2], [3, 4]])),
        ("mask", "1, 2", Array([1, 2])),
        ("mask", "none", None),
        ("radius", "3", Quantity(3.0)),
    ],
)
def test_one_value(name: str, text: str, value: object) -> None:
    assert getattr(make_udf(Everything, {name: text}), name) == value


def test_positions_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.array([2, 5]))
    assert make_udf(Everything, {"positions": f"@{tmp_path / 'p.npy'}"}).positions == [2, 5]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"inner": "-1"}, r"Everything: inner.*greater than or equal to 0.*'-1'.*allowed: >= 0 px"),
        ({"inner": "abc"}, r"inner.*'abc'"),
        ({"count": "12"}, r"count.*12.*allowed: >= 1 and <= 9"),
        ({"count": "1.5"}, r"count.*1\.5"),
        ({"iner": "1"}, r"no parameter 'iner' \(did you mean inner\?\); it has: inner, count"),
        ({"mode": "quick"}, r"mode must be one of fast, slow, got 'quick'"),
        ({"radius": "3 parsec"}, r"radius.*unknown unit 'parsec'"),
        ({"centre": "1,2,3"}, r"centre"),
        ({"centre": "here"}, r"centre.*here"),
        ({"mask": "@nowhere.npy"}, r"Everything: mask: no file nowhere.npy"),
        ({"flip": "maybe"}, r"flip.*maybe"),
    ],
)
def test_wrong_values_name_the_parameter(params: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_udf(Everything, params)


def test_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"mask.*evil.npy"):
        make_udf(Everything, {"mask": f"@{tmp_path / 'evil.npy'}"})


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False), st.integers(1, 9), st.booleans())
def test_numbers_survive_their_text(inner: float, count: int, flip: bool) -> None:
    made = make_udf(Everything, {"inner": repr(inner), "count": str(count), "flip": str(flip)})
    assert (made.inner, made.count, made.flip) == (inner, count, flip)


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=6))
def test_lists_survive_their_text(values: list[int]) -> None:
    assert make_udf(Everything, {"positions": ",".join(map(str, values))}).positions == values


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_a_parameter_error(text: str) -> None:
    for name in ("inner", "centre", "positions", "mask", "radius"):
        with contextlib.suppress(UsageError):
            assert isinstance(make_udf(Everything, {name: text}), Everything)


# -- classes -----------------------------------------------------------------------------------------------------------

SOURCE = """
import libstream as ls
from dataclasses import dataclass

class Bright(ls.UDF):
    floor: float = 1.0
    def outputs(self): return {"n": ls.nav("f8")}
    def process_frame(self, frame, out): out.n[...] = (frame > self.floor).sum()
"""


def test_class_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bright.py"
    path.write_text(SOURCE)
    cls = udf_class(f"{path}:Bright")
    assert cls.__name__ == "Bright"
    assert udf_class(str(path)) is cls, "a single UDF need not be named"
    moved = tmp_path / "sub" / "bright.py"
    moved.parent.mkdir()
    moved.write_text(SOURCE)
    assert udf_class(str(moved)) is cls, "moved code is the same UDF"
    path.write_text(SOURCE.replace("1.0", "2.0"))
    assert udf_class(str(path)) is not cls, "edited code is another UDF"


def test_class_from_a_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bright_module.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    assert udf_class("bright_module:Bright").__name__ == "Bright"


@pytest.mark.parametrize(
    ("text", "suffix", "kind", "says"),
    [
        (SOURCE, ":Brite", UsageError, r"no Brite \(did you mean Bright\?\); UDFs in it: Bright"),
        (SOURCE, ":dataclass", UsageError, r"which is no UDF"),
        (SOURCE + SOURCE.replace("Bright", "Dark"), "", UsageError, r"defines 2 UDFs, say which one"),
        ("x = 1", "", UsageError, r"defines 0 UDFs"),
        ("1/0", ":A", LibstreamError, r"cannot be imported: ZeroDivisionError"),
        ("def", ":A", LibstreamError, r"cannot be imported: SyntaxError"),
        ("import not_there_at_all", ":A", LibstreamError, r"ModuleNotFoundError.*not_there_at_all"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, suffix: str, kind: type[Exception], says: str) -> None:
    path = tmp_path / "u.py"
    path.write_text(text)
    with pytest.raises(kind, match=says):
        udf_class(f"{path}{suffix}")


@pytest.mark.parametrize(
    ("spec", "says"), [("nowhere.py:A", "no file nowhere.py"), ("no_module_here:A", "no module 'no_module_here'"), ("json:A", "no A")]
)
def test_missing_code(spec: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        udf_class(spec)


def test_nothing_to_compute() -> None:
    with pytest.raises(UsageError, match="pass --udf"):
        make_udfs([])


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_udfargs, "udf_class", lambda spec: Everything)
    assert list(make_udfs([UdfArg("E"), UdfArg("E", "b"), UdfArg("E")])) == ["everything", "b", "everything_2"]
    with pytest.raises(UsageError, match="two UDFs are called 'b'"):
        make_udfs([UdfArg("E", "b"), UdfArg("E", "b")])
    with pytest.raises(ParameterError):
        make_udfs([UdfArg("E", params={"nope": 1})])


def test_help_mentions_all() -> None:
    parser = argparse.ArgumentParser()
    add_udf_arguments(parser)
    assert "--udf" in parser.format_help()
    assert "-p NAME=VALUE" in parser.format_help()
