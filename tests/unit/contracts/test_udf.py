"""The rules of a UDF class: one hook, parameters by annotation, compared by content, carried to other processes."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import libstream as ls
from libstream.contracts.params import make
from libstream.contracts.udf import RESERVED, constants, per_position_fields
from libstream.errors import UsageError
from libstream.model.shape import DataShape
from libstream.model.source import RunMeta, default_axes


def meta(nav: tuple[int, ...] = (2, 3), sig: tuple[int, ...] = (4, 5)) -> RunMeta:
    shape = DataShape(nav, sig)
    return RunMeta(shape, np.dtype("u2"), default_axes(shape), np.dtype("u2"))


class Base(ls.UDF):
    a: int = 1

    def outputs(self) -> dict[str, ls.Output]:
        return {"v": ls.nav("f8")}

    def process_frame(self, frame: Any, out: Any) -> None:
        out.v[...] = self.a


# -- hooks -----------------------------------------------------------------------------------------------------------------


def test_two_hooks_in_one_class() -> None:
    with pytest.raises(TypeError, match="UDF Two defines process_frame and process_tile: write exactly one of them"):

        class Two(ls.UDF):
            def process_frame(self, frame: Any, out: Any) -> None: ...
            def process_tile(self, tile: Any, out: Any) -> None: ...


def test_no_hook_is_abstract() -> None:
    class Abstract(ls.UDF):
        a: int = 1

    with pytest.raises(TypeError, match="UDF Abstract has no hook: write one of process_frame, process_tile, process_partition"):
        Abstract()
    with pytest.raises(TypeError, match="has no hook"):
        make(Abstract, {})

    class Whole(Abstract):
        def process_frame(self, frame: Any, out: Any) -> None: ...

    assert Whole(a=2).a == 2


def test_the_nearest_class_decides() -> None:
    class Tiles(Base):
        def process_tile(self, tile: Any, out: Any) -> None:
            out.v[...] = -1

    class More(Tiles):
        b: int = 2

    class Frames(More):
        @ls.kernel
        def process_frame(frame, v):
            v[0] = -2

    assert [c.hook_name() for c in (Base, Tiles, More, Frames)] == ["process_frame", "process_tile", "process_tile", "process_frame"]
    frames = np.zeros((2, 3, 4))
    values = [ls.run(frames, {"u": c()}, executor="inline")["v"][0] for c in (Base, Tiles, More, Frames)]
    assert values == [1, -1, -1, -2]


def test_a_hook_may_leave_at_out() -> None:
    class With(Base):
        def process_frame(self, frame: Any, out: Any, at: Any) -> None:
            out.v[...] = at.index

    frames = np.zeros((2, 2, 3, 4))
    assert ls.run(frames, {"u": Base()}, executor="inline")["v"].tolist() == [[1, 1], [1, 1]]
    assert ls.run(frames, {"u": With()}, executor="inline")["v"].tolist() == [[0, 1], [2, 3]]


# -- fields ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names(name: str) -> None:
    with pytest.raises(TypeError, match=f"a parameter cannot be called '{name}', that name is reserved"):
        type("Bad", (ls.UDF,), {"__annotations__": {name: "int"}, "__module__": __name__})


def test_reserved_names_may_be_set_as_constants_of_the_class() -> None:
    class Cast(Base):
        dtype: ClassVar[str] = "float32"
        version = "2"
        whole_frames = True

    assert Cast().parameters() == {"a": 1}


def test_a_constant_without_annotation_is_told() -> None:
    with pytest.warns(UserWarning, match=r"UDF Loose: radius = 3.0 has no annotation, .* write `radius: float = 3.0`, or `ClassVar`"):

        class Loose(Base):
            radius = 3.0

    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Tight(Base):
            radius: float = 3.0
            limit: ClassVar[int] = 4
            _private = 5


def test_parameters_are_by_keyword_and_frozen() -> None:
    with pytest.raises(TypeError):
        Base(3)  # type: ignore[misc]
    udf = Base(a=3)
    with pytest.raises(AttributeError):
        udf.a = 4  # type: ignore[misc]
    with pytest.raises(TypeError, match="b"):
        Base(b=4)  # type: ignore[call-arg]


def test_a_mutable_default_is_not_shared() -> None:
    class Lists(Base):
        where: list[int] = ls.param([1, 2])

    one, other = Lists(), Lists()
    one.where.append(3)
    assert other.where == [1, 2]
    assert one != other


def test_meta_is_there_in_a_bound_udf_only() -> None:
    with pytest.raises(UsageError, match="UDF Base is not bound to a source yet, so it has no meta"):
        Base().meta  # noqa: B018
    bound = Base(a=4).bound_to(meta())
    assert (bound.meta.shape, bound.a) == (DataShape((2, 3), (4, 5)), 4)
    with pytest.raises(UsageError):
        Base(a=4).meta  # noqa: B018


def test_what_an_author_forgot() -> None:
    class NoOutputs(ls.UDF):
        def process_frame(self, frame: Any, out: Any) -> None: ...

    with pytest.raises(UsageError, match=r"UDF NoOutputs has no outputs\(\): return a dict"):
        NoOutputs().outputs()
    with pytest.raises(UsageError, match="UDF Base declares an output with merge='custom' and has no merge"):
        Base().merge(None, None)


def test_constants_are_made_anew_when_bound() -> None:
    made = []

    class Constant(Base):
        @functools.cached_property
        def table(self) -> Any:
            made.append(self.a)
            return np.full(self.meta.shape.sig, self.a)

        def process_frame(self, frame: Any, out: Any) -> None:
            out.v[...] = self.table.sum()

    udf = Constant(a=3)
    assert constants(Constant) == ("table",)
    for sig in ((2, 2), (3, 3)):
        assert (ls.run(np.zeros((50, *sig)), {"u": udf}, executor="threads")["v"] == 3 * sig[0] * sig[1]).all()
    assert made == [3, 3], "once for each run"
    assert "table" not in udf.__dict__


# -- equal by content --------------------------------------------------------------------------------------------------------


class Arrays(ls.UDF):
    mask: ls.Array
    place: ls.PerPosition | None = None
    number: float = 1.0
    options: dict[str, int] = ls.param({})

    def outputs(self) -> dict[str, ls.Output]:
        return {"v": ls.nav("f8")}

    def process_frame(self, frame: Any, out: Any) -> None: ...


def test_equal_udfs_have_equal_hashes() -> None:
    rows = np.arange(6.0).reshape(2, 3)
    same = [
        Arrays(mask=ls.Array(rows)), Arrays(mask=rows.copy()), Arrays(mask=np.asfortranarray(rows)), Arrays(mask=rows, number=1),
        Arrays(mask=rows.astype(">f8")),
    ]  # fmt: skip
    for udf in same:
        assert udf == same[0]
        assert hash(udf) == hash(same[0])
    a, b = Arrays(mask=rows, options={"x": 1, "y": 2}), Arrays(mask=rows, options={"y": 2, "x": 1})
    assert (a == b, hash(a) == hash(b)) == (True, True)
    assert len({*same, a, b}) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"mask": np.arange(6.0).reshape(3, 2)}, {"mask": np.arange(6).reshape(2, 3)}, {"mask": np.arange(6.0).reshape(2, 3) + 1e-9},
        {"number": 1.5}, {"place": np.zeros(3)}, {"options": {"x": 1}},
    ],
)  # fmt: skip
def test_other_content_is_another_udf(other: dict[str, Any]) -> None:
    rows = np.arange(6.0).reshape(2, 3)
    assert Arrays(mask=rows) != Arrays(**{"mask": rows, **other})
    assert Arrays(mask=rows).digest() != Arrays(**{"mask": rows, **other}).digest()


def test_another_class_or_version_is_another_udf() -> None:
    class Child(Base):
        pass

    assert Child() != Base()
    assert Base() != "Base"
    before = Child().digest()
    Child.version = "2"
    assert Child().digest() != before
    assert Base(a=1).digest() == Base(a=1).digest() != Base(a=2).digest()


def test_per_position_fields() -> None:
    assert per_position_fields(Base) == ()

    class Place(Base):
        place: ls.PerPosition
        mask: ls.Array

    assert per_position_fields(Place) == ("place",)


# -- to another process ------------------------------------------------------------------------------------------------------


def test_pickle_takes_the_parameters_only() -> None:
    udf = Arrays(mask=np.ones((2, 2))).bound_to(meta())
    udf.__dict__["table"] = "a constant"
    again = pickle.loads(pickle.dumps(udf))
    assert again == udf
    assert again.meta.shape == udf.meta.shape
    assert set(again.__dict__) == {"mask", "place", "number", "options", "_meta"}


NOTEBOOK = """
    import functools
    import numpy as np
    import libstream as ls

    FACTOR = 3

    @ls.kernel
    def helper(v):
        return v * FACTOR

    class First(ls.UDF):
        scale: int = 2

        @functools.cached_property
        def table(self):
            return np.full(self.meta.shape.sig, self.scale * FACTOR)

        def outputs(self):
            return {"v": ls.nav("f8"), "image": ls.sig("f8")}

        def process_frame(self, frame, out):
            out.v[...] = (frame * self.table).sum()
            out.image += frame

    class Second(First):                       # a hook of another kind, a kernel that calls a kernel of the notebook
        @ls.kernel
        def process_frame(frame, v, image, table):
            for y in range(frame.shape[0]):
                for x in range(frame.shape[1]):
                    v[0] += helper(frame[y, x]) * table[y, x]
                    image[y, x] += frame[y, x]

    class Own(First):                          # with a merge of its own, and super()
        def outputs(self):
            return {**super().outputs(), "last": ls.single("i8", merge="custom")}

        def process_frame(self, frame, out, at):
            super().process_frame(frame, out)
            out.last[...] = max(int(out.last[0]), at.index)

        def merge(self, into, part):
            into.last = np.maximum(into.last, part.last)

    if __name__ == "__main__":
        frames = np.ones((6, 7, 4, 4), "u2")
        with ls.executor("processes", workers=2) as ex:
            for _ in range(2):
                r = ls.run(frames, {"a": First(), "b": Second(scale=1), "c": Own()}, executor=ex)
        assert (r["a"]["v"] == 16 * 6).all() and (r["b"]["v"] == 16 * 9).all() and r["c"]["last"] == 41, r
        assert (r["a"]["image"] == 42).all() and (r["b"]["image"] == 42).all()
        import cloudpickle
        again = cloudpickle.loads(cloudpickle.dumps(Own(scale=5)))
        assert again == Own(scale=5)
        print("fine")
"""


def test_classes_of_a_notebook_run_in_other_processes(tmp_path: Path) -> None:
    """Classes of `__main__` are carried by value: cloudpickle makes an empty class first and fills it later."""
    script = tmp_path / "notebook.py"
    script.write_text(textwrap.dedent(NOTEBOOK))
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, str(script)], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["fine"]


def test_a_class_of_a_function_is_carried_by_value() -> None:
    import cloudpickle

    class Local(Base):
        b: float = 0.5

        @functools.cached_property
        def table(self) -> Any:
            return np.full(3, self.b)

    text = cloudpickle.dumps(Local(b=2.0))
    code = f"import pickle; u = pickle.loads({text!r}); print(type(u).__name__, u.b, u.a, u.hook_name(), u.table.tolist())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.stdout.split(maxsplit=4) == ["Local", "2.0", "1", "process_frame", "[2.0, 2.0, 2.0]\n"], done.stderr
