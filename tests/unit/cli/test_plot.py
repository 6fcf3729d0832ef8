"""Pictures: every kind of output has its panels, nothing warns, odd data do not break it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("matplotlib")

from libstream.cli import plot
from libstream.cli._panels import panels_of
from libstream.errors import SaveError, UsageError
from libstream.model.output import Output, nav, ragged, sig, single
from libstream.model.partial import Coverage
from libstream.model.ragged import Ragged
from libstream.model.result import Outputs, Result
from libstream.model.shape import DataShape
from libstream.model.source import Axis, default_axes

RNG = np.random.default_rng(0)


def result_of(
    nav_shape: tuple[int, ...], sig_shape: tuple[int, ...], status: Any = None, axes: Any = None, **outputs: tuple[Any, Output]
) -> Result:
    shape = DataShape(nav_shape, sig_shape)
    status = np.ones(nav_shape, np.uint8) if status is None else status
    arrays = {name: data for name, (data, _) in outputs.items()}
    declared = {name: output for name, (_, output) in outputs.items()}
    return Result({"u": Outputs("u", arrays, declared, shape, axes or default_axes(shape))}, Coverage(status))


def titles(result: Result) -> list[str]:
    return [p.title for name in result["u"] for p in panels_of(result, "u", name)]


PEAKS = Ragged(np.zeros(9, [("y", "f4"), ("x", "f4"), ("value", "u4")]), np.r_[0, 2, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9], (3, 4))


@pytest.mark.parametrize(
    ("data", "declared", "expected"),
    [
        (RNG.random((3, 4)), nav("f8"), ["u: x"]),
        (RNG.random((3, 4)), nav("f8", title="dose"), ["u: dose"]),
        (RNG.random((3, 4, 2)), nav("f8", (2,)), ["u: x, direction and length"]),
        (RNG.random((3, 4, 3)), nav("f8", (3,)), ["u: x [0]", "u: x [1]", "u: x [2]"]),
        (RNG.random((3, 4, 50)), nav("f8", (50,)), ["u: x, mean over positions"]),
        (RNG.random((3, 4, 5, 6)), nav("f8", (5, 6)), ["u: x, mean over positions"]),
        (RNG.random((3, 4)) + 1j, nav("c16"), ["u: x, amplitude", "u: x, phase"]),
        (RNG.random((3, 4)) > 0.5, nav(bool), ["u: x"]),
        (RNG.random((5, 6)), sig("f8"), ["u: x"]),
        (RNG.random((5, 6)) * 1j, sig("c16"), ["u: x, amplitude", "u: x, phase"]),
        (RNG.random((5, 6, 2)), sig("f8", (2,)), ["u: x [0]", "u: x [1]"]),
        (RNG.random((5, 6, 40)), sig("f8", (40,)), ["u: x, mean over (40,)"]),
        (np.int64(7), single("i8"), ["u: x"]),
        (RNG.integers(0, 100, 256), single("i8", (256,)), ["u: x"]),
        (RNG.random(300), single("f8", (300,)), ["u: x"]),
        (RNG.random((6, 2)), single("f8", (6, 2)), ["u: x"]),
        (RNG.random((30, 20)), single("f8", (30, 20)), ["u: x"]),
        (RNG.random((2, 30, 20)), single("f8", (2, 30, 20)), ["u: x [0]", "u: x [1]"]),
        (PEAKS, ragged(PEAKS.dtype), ["u: x (records per position)", "u: x (records per pixel)"]),
        (np.zeros((3, 4), [("a", "f8"), ("b", "i4")]), nav([("a", "f8"), ("b", "i4")]), ["u: x.a", "u: x.b"]),
    ],
)  # fmt: skip
def test_every_kind_is_drawn(tmp_path: Path, data: Any, declared: Output, expected: list[str]) -> None:
    result = result_of((3, 4), (5, 6), x=(data, declared))
    assert titles(result) == expected
    path = plot.draw(result, tmp_path / "x.png", "title")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize(
    ("nav_shape", "sig_shape", "n_panels"),
    [((), (5, 6), 1), ((7,), (5, 6), 1), ((3, 4), (16,), 1), ((9, 3, 4), (5, 6), 4), ((2, 3, 2, 3), (4,), 4)],
)  # fmt: skip
def test_scans_of_any_number_of_axes(tmp_path: Path, nav_shape: tuple[int, ...], sig_shape: tuple[int, ...], n_panels: int) -> None:
    result = result_of(nav_shape, sig_shape, x=(RNG.random(nav_shape), nav("f8")), s=(RNG.random(sig_shape), sig("f8")))
    assert len(titles(result)) == n_panels + 1
    plot.draw(result, tmp_path / "x.png")


def test_no_declaration_is_needed(tmp_path: Path) -> None:
    result = result_of((3, 4), (5, 6), x=(RNG.random((3, 4)), nav("f8")))
    bare = Result(
        {"u": Outputs("u", {"a": RNG.random((3, 4)), "b": RNG.random((5, 6)), "c": RNG.random(99)}, {}, *_shape_of(result))},
        result.coverage,
    )
    assert titles(bare) == ["u: a", "u: b", "u: c"]
    plot.draw(bare, tmp_path / "x.png")


def _shape_of(result: Result) -> tuple[DataShape, tuple[Axis, ...]]:
    return result["u"].shape, result["u"].axes


def _colours(result: Result) -> np.ndarray:
    fig = plot.figure(result)
    image = fig.axes[0].images[0]
    return image.cmap(image.norm(image.get_array()))


def test_what_was_not_processed_is_grey_and_does_not_set_the_contrast() -> None:
    status = np.ones((3, 4), np.uint8)
    status[2] = 0
    values = np.arange(12.0).reshape(3, 4)
    values[2] = 1e9
    colours = _colours(result_of((3, 4), (5, 6), status, x=(values, nav("f8"))))
    np.testing.assert_allclose(colours[2, :, :3], 0.72)
    np.testing.assert_allclose(colours[1, 3, :3], 1.0, err_msg="brightest of the processed ones")
    np.testing.assert_allclose(colours[0, 0, :3], 0.0)


def test_integers_that_were_not_processed_are_grey() -> None:
    status = np.ones((3, 4), np.uint8)
    status[0, 0] = 2
    values = np.full((3, 4), 5, np.uint16)
    values[0, 0] = 65535
    colours = _colours(result_of((3, 4), (5, 6), status, x=(values, nav("u2"))))
    np.testing.assert_allclose(colours[0, 0, :3], 0.72)
    assert (colours[1:, :, :3] != 0.72).all()


def test_axes_and_scale_bar_are_in_units() -> None:
    axes = (Axis("y", 30, 0.5, 0, "nm"), Axis("x", 40, 0.5, 0, "nm"), Axis("ky", 5, 1, -2, "mrad"), Axis("kx", 6, 1, -2.5, "mrad"))
    result = result_of((30, 40), (5, 6), axes=axes, x=(RNG.random((30, 40)), nav("f8", unit="e")), s=(RNG.random((5, 6)), sig("f8")))
    fig = plot.figure(result)
    ax, frame = fig.axes[:2]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x (nm)", "y (nm)")
    assert ax.images[0].get_extent() == [-0.25, 19.75, 14.75, -0.25]
    assert "5 nm" in [t.get_text() for t in ax.texts]
    assert frame.images[0].get_extent() == [-3, 3, 2.5, -2.5]
    labels = [a.get_ylabel() for child in fig.axes for a in child.child_axes]
    assert labels[0] == "e"


def test_direction_of_a_vector_is_its_hue() -> None:
    from matplotlib.colors import rgb_to_hsv

    field = np.zeros((3, 3, 2))
    field[1, 2], field[1, 0], field[0, 1], field[2, 1] = (0, 1), (0, -1), (-1, 0), (1, 0)
    fig = plot.figure(result_of((3, 3), (5, 6), x=(field, nav("f8", (2,)))))
    hsv = rgb_to_hsv(np.asarray(fig.axes[0].images[0].get_array())[..., :3])
    assert hsv[1, 2, 0] == pytest.approx(0)  # right
    assert hsv[0, 1, 0] == pytest.approx(0.25)  # up
    assert hsv[1, 0, 0] == pytest.approx(0.5)  # left
    assert hsv[2, 1, 0] == pytest.approx(0.75)  # down
    assert hsv[0, 0, 2] == 0, "no length, no light"


@settings(max_examples=10)
@given(st.data())
def test_odd_values_never_break_it(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    values = data.draw(st.sampled_from([0.0, np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-300]))
    kind = data.draw(st.sampled_from(["nav", "sig", "vector", "profile", "single"]))
    seen = data.draw(st.booleans())
    status = np.full((3, 4), np.uint8(seen))
    shape, declared = {
        "nav": ((3, 4), nav("f8")), "sig": ((5, 6), sig("f8")), "vector": ((3, 4, 2), nav("f8", (2,))),
        "profile": ((3, 4, 9), nav("f8", (9,))), "single": ((80,), single("f8", (80,))),
    }[kind]  # fmt: skip
    array = np.full(shape, values)
    if data.draw(st.booleans()):
        array.flat[0] = 1.0
    plot.draw(result_of((3, 4), (5, 6), status, x=(array, declared)), tmp_path_factory.mktemp("p") / "x.png")


def test_nothing_to_draw_and_far_too_much(tmp_path: Path) -> None:
    plot.draw(Result({}, Coverage(np.zeros((3, 4), np.uint8))), tmp_path / "nothing.png")
    many = {f"o{i}": (np.float64(i), single("f8")) for i in range(plot.MAX_PANELS + 3)}
    fig = plot.figure(result_of((3, 4), (5, 6), **many))
    assert len(fig.axes) == plot.MAX_PANELS
    assert "3 more not drawn" in fig.get_suptitle()


def test_endings(tmp_path: Path) -> None:
    result = result_of((3, 4), (5, 6), x=(RNG.random((3, 4)), nav("f8")))
    for ending in ("png", "pdf", "svg"):
        assert plot.draw(result, tmp_path / f"x.{ending}").stat().st_size > 1000
    with pytest.raises(UsageError, match="nobody can write"):
        plot.draw(result, tmp_path / "x.xyz")
    with pytest.raises(SaveError, match="could not be written"):
        plot.draw(result, tmp_path / "nowhere" / "x.png")


def test_an_output_that_gives_positions_becomes_the_axis_of_its_neighbours() -> None:
    result = result_of(
        (3, 4), (5, 6),
        profile=(RNG.random((3, 4, 30)), nav("f8", (30,), axes=("ring",))),
        counts=(RNG.integers(1, 9, 40), single("i8", (40,), axes=("bin",))),
        other=(RNG.random(55), single("f8", (55,), axes=("order",))),
        radius=(np.linspace(0, 3, 30), single("f8", (30,), unit="mrad")),
        edges=(np.linspace(0, 10, 41), single("f8", (41,), unit="counts")),
    )  # fmt: skip
    assert titles(result) == ["u: profile, mean over positions", "u: counts", "u: other"]
    fig = plot.figure(result)
    assert [ax.get_xlabel() for ax in fig.axes] == ["radius (mrad)", "value (counts)", "order"]
    np.testing.assert_allclose(fig.axes[0].lines[0].get_xdata(), np.linspace(0, 3, 30))
    assert fig.axes[1].patches[0].get_data().edges[-1] == 10
