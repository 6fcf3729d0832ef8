"""`ls.open`: what the user adds to what the file says; and frames by index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import libstream as ls
from libstream.contracts import indexing
from libstream.errors import CorruptFileError, FormatError, LibstreamError, ParameterError, ShapeError, UsageError
from libstream.testing import ScriptedSource

STACK = np.arange(8 * 3 * 4, dtype="u2").reshape(8, 3, 4)


class Positions(ls.UDF):
    """Number of the frame at each position, from its first pixel."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"first": ls.nav("i8"), "n": ls.single("i8")}

    def process_frame(self, frame: Any, out: Any) -> None:
        out.first[...] = int(np.ravel(frame)[0])
        out.n[...] += 1


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    path = tmp_path / "stack.npy"
    np.save(path, STACK)
    return path


# -- the scan ----------------------------------------------------------------------------------------------------------------


def test_a_stack_says_what_is_missing(npy: Path) -> None:
    for source in (ls.open(npy), ls.open(STACK)):
        assert source.shape == (8, 3, 4)
        assert any("8 frames" in note and "pass scan=(2, 4)" in note for note in source.meta.notes), source.meta.notes


@pytest.mark.parametrize(
    ("n", "says"), [(8, "scan=(2, 4)"), (9, "scan=(3, 3)"), (7, "scan=(7,)"), (36, "scan=(6, 6)"), (15, "scan=(3, 5)")]
)
def test_a_scan_that_does_not_fit_says_what_would(n: int, says: str) -> None:
    with pytest.raises(ShapeError) as caught:
        ls.open(np.zeros((n, 2, 2)), scan=(5, 5))
    assert f"scan=(5, 5) has 25 positions, but memory: holds {n} frames; pass {says}, or sync_offset=0" in str(caught.value)


@pytest.mark.parametrize("scan", [(2, 4), (4, 2), (8,), 8, [2, 2, 2], np.array([2, 4]), (1, 8)])
def test_the_scan_is_reshaped(scan: Any) -> None:
    source = ls.open(STACK, scan=scan)
    nav = (scan,) if isinstance(scan, int) else tuple(int(i) for i in scan)
    assert source.shape == (*nav, 3, 4)
    assert np.array_equal(source[...], STACK.reshape(*nav, 3, 4))
    assert not any("pass scan=" in note for note in source.meta.notes)


def test_one_frame() -> None:
    assert ls.open(STACK[:1], scan=()).shape == (3, 4)
    assert ls.open(STACK[0]).shape == (3, 4)
    result = ls.run(ls.open(STACK[2]), Positions(), executor="inline")
    assert (result["first"].shape, int(result["first"]), int(result["n"])) == ((), 24, 1)


@pytest.mark.parametrize("scan", ["2,4", (2, "x"), (2.5,), object()])
def test_what_is_no_shape(scan: Any) -> None:
    with pytest.raises(UsageError, match="scan"):
        ls.open(STACK, scan=scan)


@pytest.mark.parametrize("scan", [(0, 8), (-2, -4)])
def test_sizes_are_at_least_one(scan: Any) -> None:
    with pytest.raises(ShapeError, match="sizes must be >= 1"):
        ls.open(STACK, scan=scan)


# -- sync_offset -------------------------------------------------------------------------------------------------------------


@given(sync=st.integers(-12, 12), nav=st.sampled_from([(2, 4), (3, 4), (2, 2), (8,), (1,)]))
def test_sync_offset(sync: int, nav: tuple[int, ...]) -> None:
    source = ls.open(STACK, scan=nav, sync_offset=sync)
    frame = np.arange(int(np.prod(nav))) + sync
    there = (frame >= 0) & (frame < 8)
    expected = np.full((len(frame), 3, 4), 65535, "u2")
    expected[there] = STACK[frame[there]]
    assert np.array_equal(source[...], expected.reshape(*nav, 3, 4))
    result = ls.run(source, Positions(), executor="inline")
    first = result["first"].reshape(-1)
    assert first[there].tolist() == (frame[there] * 12).tolist()
    assert (first[~there] == np.iinfo("i8").max).all()
    counts = result.coverage.counts
    assert (counts["processed"], counts["missing"], counts["announced"]) == (there.sum(), (~there).sum(), len(frame))
    assert result["n"] == (there.sum() if there.any() else np.iinfo("i8").max)
    if sync or len(frame) != 8:
        note = f"sync_offset {sync}: {there.sum()} of {len(frame)} positions have a frame, {8 - there.sum()} of 8 frames are left out"
        assert note in source.meta.notes, source.meta.notes


def test_sync_offset_zero_opens_what_does_not_fit() -> None:
    assert ls.open(STACK, scan=(3, 4), sync_offset=0).shape == (3, 4, 3, 4)
    assert ls.open(STACK, scan=(2, 2), sync_offset=0)[1, 1].tolist() == STACK[3].tolist()


# -- the frame ---------------------------------------------------------------------------------------------------------------


def test_the_frame_is_reshaped(npy: Path) -> None:
    for source in (ls.open(STACK, frame=(6, 2)), ls.open(npy, frame=(6, 2)), ls.open(ScriptedLike.of(STACK), frame=None)):
        frames = STACK.reshape(8, 6, 2) if source.shape[-2:] == (6, 2) else STACK
        assert np.array_equal(source[...], frames)
        assert np.array_equal(source[3, 1:], frames[3, 1:])
        result = ls.run(source, ImageOf(), executor="inline")
        assert np.array_equal(result["image"], frames.sum(0))
    assert np.array_equal(ls.run(ls.open(STACK, frame=12), ImageOf(), executor="inline")["image"], STACK.reshape(8, 12).sum(0))


class ScriptedLike:
    @staticmethod
    def of(frames: np.ndarray) -> np.ndarray:
        """The same frames with another layout in memory: no view of reshaped frames is possible."""
        wide = np.zeros((len(frames), frames.shape[1] + 2, frames.shape[2]), frames.dtype)
        wide[:, 1:-1] = frames
        return wide[:, 1:-1]


class ImageOf(ls.UDF):
    def outputs(self) -> dict[str, ls.Output]:
        return {"image": ls.sig("i8")}

    def process_tile(self, tile: Any, out: Any) -> None:
        out.image += tile.data.sum(0, dtype="i8")


def test_frames_with_gaps_are_reshaped() -> None:
    source = ls.open(ScriptedLike.of(STACK), frame=(6, 2))
    assert np.array_equal(source[...], STACK.reshape(8, 6, 2))
    assert np.array_equal(ls.run(source, ImageOf(), executor="inline")["image"], STACK.reshape(8, 6, 2).sum(0))


def test_a_frame_of_other_size() -> None:
    with pytest.raises(ShapeError, match=r"frame=\(5, 5\) has 25 pixels, the file's frames have 12 \(3, 4\)"):
        ls.open(STACK, frame=(5, 5))


# -- calibration -------------------------------------------------------------------------------------------------------------


def test_calibration() -> None:
    source = ls.open(STACK, scan=(2, 4), scan_step="0.4 nm", pixel=("0.5 mrad", "0.9 mrad"), centre=(1, 2), rotation_deg=30)
    assert [(a.step, a.unit, a.size) for a in source.meta.axes] == [(0.4, "nm", 2), (0.4, "nm", 4), (0.5, "mrad", 3), (0.9, "mrad", 4)]
    assert (source.meta.centre, source.meta.rotation_deg) == ((1.0, 2.0), 30.0)
    stored = ls.run(source, Positions(), executor="inline").run
    assert [(a["name"], a["step"], a["unit"]) for a in stored["calibration"]] == [
        ("y", 0.4, "nm"), ("x", 0.4, "nm"), ("ky", 0.5, "mrad"), ("kx", 0.9, "mrad"),
    ]  # fmt: skip
    assert stored["source"]["open"]["scan_step"] == "0.4 nm"
    assert stored["source"]["open"]["scan"] == [2, 4]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pixel": 3}, r"pixel must be a positive number with a unit, such as '0.4 nm', got 3"),
        ({"pixel": "-1 mrad"}, "pixel must be a positive number"),
        ({"pixel": "0 mrad"}, "pixel must be a positive number"),
        ({"scan_step": "4 parsec"}, "unknown unit 'parsec'"),
        ({"pixel": ("1 mrad",) * 3}, r"pixel takes one quantity or 2 of them \(one an axis, slow axis first\)"),
        ({"centre": (1, 2, 3)}, r"centre must be \(y, x\) in px, got \(1.0, 2.0, 3.0\)"),
    ],
)
def test_calibrations_that_cannot_be(options: dict[str, Any], says: str) -> None:
    with pytest.raises((ParameterError, UsageError), match=says):
        ls.open(STACK, **options)


# -- formats, options, channels ----------------------------------------------------------------------------------------------


def test_unknown_options_name_a_near_one(npy: Path, tmp_path: Path) -> None:
    raw = tmp_path / "a.raw"
    raw.write_bytes(bytes(96))
    with pytest.raises(UsageError, match=r"format raw takes no option 'dtpye'; did you mean 'dtype'\? it takes: .*dtype"):
        ls.open(raw, format="raw", dtpye="u2", frame=(3, 4))
    with pytest.raises(UsageError, match="format npy takes no option 'banana'; it takes:"):
        ls.open(npy, banana=3)


def test_files_that_are_not_there(tmp_path: Path, npy: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"stak.npy: no such file; did you mean stack.npy\?"):
        ls.open(tmp_path / "stak.npy")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        ls.open(tmp_path / "no" / "stack.npy")
    with pytest.raises(FormatError, match="is a folder; pass one of the files in it"):
        ls.open(tmp_path)


def test_files_that_nobody_knows(tmp_path: Path) -> None:
    odd = tmp_path / "odd.xyz"
    odd.write_bytes(b"no such format" + bytes(range(256)))
    with pytest.raises(
        FormatError, match=r"no format recognises this file \(it starts with b'no such format.*pass format='raw', dtype= and frame="
    ):
        ls.open(odd)
    odd.write_bytes(b"")
    with pytest.raises(FormatError, match=r"is empty \(0 bytes\)"):
        ls.open(odd)
    with pytest.raises(UsageError, match=r"there is no format called 'nyp'; did you mean npy\?"):
        ls.open(odd, format="nyp")


def test_channels() -> None:
    data = {"low": STACK, "high": np.arange(8 * 5, dtype="f4").reshape(8, 5, 1)}
    source = ls.open(data, scan=(2, 4))
    assert (source.meta.channels, source.channel_name) == (("low", "high"), "low")
    high = source.channel("high")
    assert (high.shape, high.dtype, high.channel_name) == ((2, 4, 5, 1), np.dtype("f4"), "high")
    assert np.array_equal(high[1, 2], data["high"][6])
    assert np.array_equal(ls.open(data, channel="high", scan=(2, 4))[...], high[...])
    assert np.array_equal(high.channel("low")[...], source[...])
    result = ls.run(high, {"a": ImageOf(), "b": ls.on("low", ImageOf()), "c": ls.on("high", ImageOf())}, executor="inline")
    assert np.array_equal(result["b"]["image"], STACK.sum(0))
    for key in "ac":
        assert np.array_equal(result[key]["image"], data["high"].sum(0))
    for call in (lambda: source.channel("none"), lambda: ls.run(source, ls.on("none", ImageOf())), lambda: ls.open(data, channel="none")):
        with pytest.raises(UsageError, match=r"no channel 'none'; (it has|there are).*low.*high"):
            call()


def test_channels_with_other_frames_are_not_reshaped() -> None:
    data = {"low": STACK, "high": np.arange(8 * 5, dtype="f4").reshape(8, 5, 1), "third": STACK + 1}
    source = ls.open(data, scan=(2, 4), frame=(6, 2))
    result = ls.run(source, {c: ls.on(c, ImageOf()) for c in data}, executor="inline")
    assert np.array_equal(result["low"]["image"], STACK.sum(0).reshape(6, 2))
    assert np.array_equal(result["third"]["image"], (STACK + 1).sum(0).reshape(6, 2))
    assert np.array_equal(result["high"]["image"], data["high"].sum(0))


# -- frames by index ---------------------------------------------------------------------------------------------------------


@st.composite
def indices(draw: Any, sizes: tuple[int, ...]) -> Any:
    """An index of basic indexing: integers, slices, one ellipsis, maybe shorter than the axes."""
    n_lead = draw(st.integers(0, len(sizes)))
    n_trail = draw(st.none() | st.integers(0, len(sizes) - n_lead))
    parts: list[Any] = []
    for size in (*sizes[:n_lead], *(sizes[len(sizes) - n_trail :] if n_trail else ())):
        i = draw(st.integers(-size, size - 1))
        parts.append(draw(st.sampled_from([i, np.int64(i), slice(None), slice(i, None), slice(None, i, 2), slice(None, None, -1)])))
    if n_trail is not None:
        parts.insert(n_lead, ...)
    return parts[0] if len(parts) == 1 and draw(st.booleans()) else tuple(parts)


@given(st.data(), st.sampled_from([(8,), (2, 4), (2, 2, 2), ()]), st.booleans())
def test_indexing_is_that_of_numpy(data: Any, nav: tuple[int, ...], scripted: bool) -> None:
    array = (STACK if nav else STACK[:1]).reshape(*nav, 3, 4)
    source = ScriptedSource(array) if scripted else ls.open(array)
    index = data.draw(indices(array.shape))
    expected, got = array[index], source[index]
    assert np.array_equal(expected, got)
    assert got.dtype == array.dtype
    assert not np.shares_memory(got, array)


def test_masks_and_lists() -> None:
    array = STACK.reshape(2, 4, 3, 4)
    source = ls.open(array)
    mask = np.array([[True, False, False, True], [False, True, False, False]])
    assert np.array_equal(source[mask], array[mask])
    assert np.array_equal(source[[1, 0], [2, 3]], array[[1, 0], [2, 3]])
    assert np.array_equal(source[np.array([1, 1]), :, 2], array[np.array([1, 1]), :, 2])
    assert source[mask & ~mask].shape == (0, 3, 4)


@pytest.mark.parametrize("index", [8, (0, 3), (0, 0, 0, 0), "a", 1.5, (slice(None), 9)])
def test_an_index_that_does_not_fit(index: Any) -> None:
    with pytest.raises((ShapeError, UsageError), match="does not fit data of shape"):
        ls.open(STACK)[index]


def test_no_new_axes() -> None:
    with pytest.raises(UsageError, match=r"None .newaxis. is not understood here; index the array that comes back"):
        ls.open(STACK)[None]


def test_more_than_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "memory_available", lambda: 200.0)
    source = ls.open(STACK)
    assert source[0, :].shape == (3, 4)
    with pytest.raises(UsageError, match=r"8 frames need 0.0 GB, more than the memory that is free \(0.0 GB\); take a part"):
        source[...]


def test_a_corrupt_frame_is_an_error_when_it_is_looked_at() -> None:
    bad = np.zeros((2, 4), bool)
    bad[1, 2] = True
    source = ScriptedSource(STACK.reshape(2, 4, 3, 4), invalid=bad)
    assert np.array_equal(source[0], STACK[:4])
    with pytest.raises(
        CorruptFileError, match=r"the frame at scan position \(1, 2\) is corrupt; runs leave such frames out and count them"
    ):
        source[1]


def test_repr() -> None:
    assert repr(ls.open(STACK, scan=(2, 4))) == "<memory memory: (2, 4 | 3, 4) uint16, 1.92e-07 GB>"


def test_errors_are_of_libstream() -> None:
    assert issubclass(ShapeError, LibstreamError)
