"""What a hook is given, and what is said when it does not keep to the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import UDFError, UsageError
from libstream.testing._bench import KEY, Bench
from libstream.testing.sources import ScriptedSource

FRAMES = np.arange(6 * 4 * 5, dtype="u2").reshape(2, 3, 4, 5)


def run(udf: ls.UDF, frames: Any = FRAMES, **options: Any) -> Any:
    return ls.run(frames, {"u": udf}, executor="inline", **options)["u"]


def hooks(body: Any, kind: str = "process_frame", outputs: Any = None) -> ls.UDF:
    """A UDF whose hook is `body(self, data, out)`."""
    made = outputs or (lambda self: {"value": ls.nav("f8"), "image": ls.sig("f8"), "n": ls.single("i8"), "events": ls.ragged("i4")})
    return type("Made", (ls.UDF,), {"outputs": made, kind: body, "__module__": __name__})()


# -- out -----------------------------------------------------------------------------------------------------------------


def test_shapes_of_what_is_written() -> None:
    seen: dict[str, Any] = {}

    def frame(self: Any, frame: Any, out: Any) -> None:
        seen["frame"] = (frame.shape, out.value.shape, out.image.shape, out.n.shape)

    def tile(self: Any, tile: Any, out: Any) -> None:
        seen["tile"] = (tile.data.shape[1:], out.value.shape[1:], len(out.value) == len(tile), out.image.shape, out.n.shape)

    def partition(self: Any, data: Any, out: Any) -> None:
        seen["partition"] = (data.shape[1:], out.value.shape[1:], len(out.value) == len(data), out.image.shape)

    run(hooks(frame))
    run(hooks(tile, "process_tile"))
    run(hooks(partition, "process_partition"))
    assert seen == {
        "frame": ((4, 5), (1,), (4, 5), (1,)),
        "tile": ((4, 5), (1,), True, (4, 5), (1,)),
        "partition": ((4, 5), (1,), True, (4, 5)),
    }


def test_all_ways_to_write() -> None:
    def frame(self: Any, frame: Any, out: Any, at: Any) -> None:
        if at.index % 2:
            out.value[...] = at.index
        else:
            out.value[0] = at.index
        out.image += frame
        out.n[...] += 1
        out.events.put(0, [at.index] * at.index)

    r = run(hooks(frame))
    assert r["value"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (r["image"] == FRAMES.sum((0, 1))).all()
    assert r["n"] == 6
    assert [e.tolist() for e in r["events"]] == [[i] * i for i in range(6)]


@pytest.mark.parametrize("value", [3.0, np.zeros(1)])
def test_an_assignment_that_would_be_lost_is_refused(value: Any) -> None:
    def frame(self: Any, frame: Any, out: Any) -> None:
        out.value = value

    with pytest.raises(
        UDFError, match=r"AttributeError: write into the output: out.value\[...\] = value \(out.value = value would lose it\)"
    ):
        run(hooks(frame))


def test_an_output_that_was_not_declared() -> None:
    def frame(self: Any, frame: Any, out: Any) -> None:
        out.valeu[...] = 1

    with pytest.raises(UDFError, match=r"UDF 'u' has no output 'valeu'; outputs\(\) declares value, image, n, events"):
        run(hooks(frame))


def test_frames_are_read_only() -> None:
    def frame(self: Any, frame: Any, out: Any) -> None:
        frame[...] = 0

    before = FRAMES.copy()
    with pytest.raises(UDFError, match="read-only"):
        run(hooks(frame))
    assert np.array_equal(FRAMES, before)


@pytest.mark.parametrize(
    ("i", "kind", "n"), [(1, "process_frame", "1 frame,"), (-1, "process_frame", "1 frame,"), (6, "process_tile", "frames?,")]
)
def test_records_of_frames_that_are_not_here(i: int, kind: str, n: str) -> None:
    def hook(self: Any, data: Any, out: Any) -> None:
        out.events.put(i, [1])

    with pytest.raises(UDFError, match=rf"put\({i}, ...\): this call has .*{n} counted from 0"):
        run(hooks(hook, kind))


def test_records_of_tiles_keep_their_frames() -> None:
    def tile(self: Any, tile: Any, out: Any) -> None:
        for i, index in enumerate(tile.index):
            if index != 2:
                out.events.put(i, [index, -index])

    r = run(hooks(tile, "process_tile"))
    assert [e.tolist() for e in r["events"]] == [[0, 0], [1, -1], [], [3, -3], [4, -4], [5, -5]]


def test_records_with_extra_axes() -> None:
    def frame(self: Any, frame: Any, out: Any, at: Any) -> None:
        out.events.put(0, np.full((at.index % 3, 2), at.index))

    r = run(hooks(frame, outputs=lambda self: {"events": ls.ragged("i4", (2,))}))
    assert r["events"].values.shape == (0 + 1 + 2 + 0 + 1 + 2, 2)
    assert r["events"][1, 2].tolist() == [[5, 5], [5, 5]]


# -- where it failed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("process_frame", r"UDF u \(Made\): process_frame raised ValueError: odd, at scan position \(1, 0\)"),
        (
            "process_tile",
            r"UDF u \(Made\): process_tile raised ValueError: odd, in the 6 frames at scan positions \(0, 0\) to \(1, 2\), rows 0 to 4",
        ),
        (
            "process_partition",
            r"UDF u \(Made\): process_partition raised ValueError: odd, in the 6 frames at scan positions \(0, 0\) to \(1, 2\)",
        ),
    ],
)
def test_an_error_names_its_place(kind: str, says: str) -> None:
    def hook(self: Any, data: Any, out: Any) -> None:
        values = data.data if kind == "process_tile" else data
        if (np.asarray(values) == FRAMES[1, 0, 0, 0]).any():
            raise ValueError("odd")

    with pytest.raises(UDFError, match=says) as caught:
        run(hooks(hook, kind))
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.udf == "u"
    assert "raise ValueError" in caught.value.remote_traceback


def test_an_error_under_a_region_of_interest_names_its_place() -> None:
    def frame(self: Any, frame: Any, out: Any) -> None:
        raise ValueError("always")

    with pytest.raises(UDFError, match=r"at scan position \(1, 1\)"):
        run(hooks(frame), roi=np.s_[1, 1:])


class Picky(ls.UDF):
    forbidden: int

    def outputs(self) -> dict[str, ls.Output]:
        return {"value": ls.nav("f8")}

    @ls.kernel
    def process_frame(frame, value, forbidden):
        if frame[0, 0] == forbidden:
            raise ValueError("forbidden")
        value[0] = frame[0, 0]


def test_an_error_in_compiled_code_is_found_by_the_plain_function() -> None:
    with pytest.raises(
        UDFError, match=r"UDF u \(Picky\): process_frame raised ValueError: forbidden, in the frames at scan positions"
    ) as caught:
        run(Picky(forbidden=60))
    assert isinstance(caught.value.__cause__, ValueError)


# -- kernels ---------------------------------------------------------------------------------------------------------------


def test_an_argument_that_nobody_knows() -> None:
    class Unbound(ls.UDF):
        radius: float = 3.0

        def outputs(self) -> dict[str, ls.Output]:
            return {"value": ls.nav("f8")}

        @ls.kernel
        def process_frame(frame, value, raduis):
            value[0] = raduis

    with pytest.raises(
        TypeError, match=r"UDF u: argument 'raduis' of the kernel process_frame is neither .*; known names: value, radius, index, row0"
    ):
        run(Unbound())


@pytest.mark.parametrize(("value", "says"), [("text", "text = 'text' cannot be given to a kernel"), (None, "cannot be given to a kernel")])
def test_a_parameter_that_no_kernel_takes(value: Any, says: str) -> None:
    class Texts(ls.UDF):
        text: str | None = "a"

        def outputs(self) -> dict[str, ls.Output]:
            return {"value": ls.nav("f8")}

        @ls.kernel
        def process_frame(frame, value, text):
            value[0] = 1.0

    with pytest.raises(TypeError, match=says):
        run(Texts(text=value))


@pytest.mark.parametrize(("extra", "hook"), [({"total": ls.single("f8")}, "frame"), ({"more": ls.ragged("i4")}, "frame"), ({}, "tile")])
def test_ragged_kernels_have_no_sums(extra: dict[str, ls.Output], hook: str) -> None:
    names = ", ".join(["data", "events", *extra])
    scope: dict[str, Any] = {}
    exec(f"def f({names}):\n    return 0\n", scope)
    outputs = {"events": ls.ragged("i4"), **extra}
    udf = type("Made", (ls.UDF,), {"outputs": lambda self: outputs, f"process_{hook}": ls.kernel(scope["f"]), "__module__": __name__})()
    with pytest.raises(TypeError, match=r"UDF u: a kernel with a ragged output is a process_frame without other sums or ragged outputs"):
        run(udf)


def test_code_that_numba_does_not_know_is_an_error_of_the_udf() -> None:
    class Unknown(ls.UDF):
        def outputs(self) -> dict[str, ls.Output]:
            return {"value": ls.nav("f8")}

        @ls.kernel
        def process_frame(frame, value):
            value[0] = frame.nosuchthing

    with pytest.raises(UDFError, match=r"UDF u \(Unknown\): process_frame raised .*nosuchthing.* while it was compiled"):
        run(Unknown())


class AllArguments(ls.UDF):
    """Everything that can be an argument."""

    a: int = 3
    b: float = 0.5
    c: bool = True
    d: complex = 2 + 1j
    e: tuple[float, float] = (1.0, 2.0)
    array: ls.Array
    place: ls.PerPosition

    def outputs(self) -> dict[str, ls.Output]:
        return {"value": ls.nav("c16"), "where": ls.nav("i8")}

    @ls.kernel
    def process_frame(frame, value, where, index, a, b, c, d, e, array, place):
        where[0] = index
        value[0] = (a + b + e[0] * e[1] + array[1] + place) * d if c else 0.0


def test_all_kinds_of_arguments_of_a_kernel() -> None:
    place = np.arange(6.0).reshape(2, 3)
    for c in (True, False):
        r = run(AllArguments(array=[1, 10], place=place, c=c))
        assert r["where"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert np.array_equal(r["value"], (3.5 + 2.0 + 10 + place) * (2 + 1j) if c else np.zeros((2, 3)))


def test_a_large_integer_parameter_keeps_its_value() -> None:
    class Large(ls.UDF):
        a: int

        def outputs(self) -> dict[str, ls.Output]:
            return {"value": ls.nav("i8")}

        @ls.kernel
        def process_frame(frame, value, a):
            value[0] = a

    assert (run(Large(a=2**62 + 1))["value"] == 2**62 + 1).all()


# -- parameters by position ------------------------------------------------------------------------------------------------


class Shifted(ls.UDF):
    shift: ls.PerPosition

    def outputs(self) -> dict[str, ls.Output]:
        return {"value": ls.nav("f8", (2,))}

    def process_tile(self, tile: Any, out: Any) -> None:
        out.value[...] = tile.aux.shift


def test_per_position_parameters_with_extra_axes_and_roi() -> None:
    shift = np.random.default_rng(0).random((2, 3, 2))
    mask = np.array([[True, False, True], [False, True, True]])
    r = run(Shifted(shift=shift), roi=mask)
    assert np.array_equal(r["value"][mask], shift[mask])
    with pytest.raises(UsageError, match=r"UDF u: per-position parameter shift has shape \(3, 2\), the scan has \(2, 3\)"):
        run(Shifted(shift=np.zeros((3, 2))))


# -- narrow accumulators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "n", "narrow"), [("u1", 200, "u2"), ("u1", 258, "u8"), ("u2", 2, "u8"), ("?", 60000, "u2"), ("i2", 1, "u8")]
)
def test_narrow_accumulators_where_they_cannot_overflow(dtype: str, n: int, narrow: str) -> None:
    seen = set()

    def tile(self: Any, tile: Any, out: Any) -> None:
        seen.add(out.image.dtype.str[1:])
        out.image += tile.data.sum(0, dtype=out.image.dtype)

    outputs = lambda self: {"image": ls.sig("u8", partial_dtype="u2")}  # noqa: E731
    frames = np.full((n, 1, 2), 1 if dtype == "?" else np.iinfo(dtype).max, dtype)
    bench = Bench(hooks(tile, "process_tile", outputs), ScriptedSource(frames))
    seen.clear()
    image = bench.merged(bench.cut([]))["image"]
    assert seen == {narrow}
    assert image.dtype == "u8"
    assert (image == n * int(frames.max())).all()


def test_a_partition_beyond_the_plan_is_refused() -> None:
    from dataclasses import replace

    from libstream.contracts.executor import CancelFlag
    from libstream.contracts.source import Partition

    bench = Bench(hooks(lambda self, frame, out: None), ScriptedSource(np.zeros((9, 2, 2))))
    work = replace(bench.work, partition_frames=8, _made={})
    work.setup()
    with pytest.raises(UsageError, match="partition 0 has 9 positions, the plan allows 8"):
        work.process(Partition(0, np.array([[0, 9]])), CancelFlag())
    assert KEY in work.channels[0].udfs


class MaybeShifted(ls.UDF):
    shift: ls.PerPosition | None = None

    def outputs(self) -> dict[str, ls.Output]:
        return {"value": ls.nav("f8")}

    def process_frame(self, frame: Any, out: Any, at: Any) -> None:
        out.value[...] = -1.0 if at.aux.shift is None else at.aux.shift


def test_a_per_position_parameter_may_be_left_out() -> None:
    shift = np.random.default_rng(0).random((2, 3))
    assert (run(MaybeShifted())["value"] == -1.0).all()
    assert np.array_equal(run(MaybeShifted(shift=shift))["value"], shift)
