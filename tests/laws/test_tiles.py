"""The tile loop hands each pixel of each wanted frame to each UDF exactly once, with its right place, however it is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import libstream as ls
from libstream.testing._bench import Bench
from libstream.testing.sources import ScriptedSource


class Seen(ls.UDF):
    """Counts pixels, and those that are not what their place says: pixel p of frame f holds 1000 f + p."""

    sync: int

    def outputs(self) -> dict[str, ls.Output]:
        return {"times": ls.sig("i8"), "pixels": ls.nav("i8"), "wrong": ls.single("i8"), "place": ls.nav("i8")}


class SeenTile(Seen):
    def process_tile(self, tile: Any, out: Any) -> None:
        sig = self.meta.shape.sig
        expected = np.arange(np.prod(sig)).reshape(sig)[tile.region.rows] + 1000 * (tile.index + self.sync).reshape(-1, *[1] * len(sig))
        assert tile.data.shape == (len(tile.index), *tile.region.shape)
        assert not tile.data.flags.writeable
        out.wrong[...] += (tile.data != expected).sum()
        out.times += len(tile)
        out.pixels[:, 0] += tile.data[0].size
        flat = np.ravel_multi_index(tile.coords.T, self.meta.shape.nav) if self.meta.shape.nav else np.zeros(len(tile), int)
        out.place[:, 0] = flat


class SeenFrame(Seen):
    def process_frame(self, frame: Any, out: Any, at: Any) -> None:
        expected = np.arange(frame.size).reshape(frame.shape) + 1000 * (at.index + self.sync)
        out.wrong[...] += (frame != expected).sum()
        out.times += 1
        out.pixels[...] += frame.size
        out.place[...] = np.ravel_multi_index(at.coords, self.meta.shape.nav) if at.coords else 0


class SeenPartition(Seen):
    def process_partition(self, data: Any, out: Any) -> None:
        flat = data.reshape(len(data), -1)
        out.wrong[...] += (flat - flat[:, :1] != np.arange(flat.shape[1])).sum()
        out.times += len(data)
        out.pixels[...] += flat.shape[1]
        out.place[:, 0] = flat[:, 0] // 1000 - self.sync


class SeenTileKernel(Seen):
    @ls.kernel
    def process_tile(tile, times, pixels, wrong, place, index, row0, sync):
        for i in range(tile.shape[0]):
            place[i, 0] = index[i]
            for y in range(tile.shape[1]):
                for x in range(tile.shape[2]):
                    times[y, x] += 1
                    pixels[i, 0] += 1
                    if tile[i, y, x] != (row0 + y) * tile.shape[2] + x + 1000 * (index[i] + sync):
                        wrong[0] += 1


class SeenFrameKernel(Seen):
    @ls.kernel
    def process_frame(frame, times, pixels, wrong, place, index, sync):
        place[0] = index
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                times[y, x] += 1
                pixels[0] += 1
                if frame[y, x] != y * frame.shape[1] + x + 1000 * (index + sync):
                    wrong[0] += 1


PYTHON = [SeenTile, SeenFrame, SeenPartition]
COMPILED = [SeenTileKernel, SeenFrameKernel]


def numbered(n: int, sig: tuple[int, ...]) -> np.ndarray:
    """Frames (n, *sig) whose pixel p of frame f is 1000 f + p."""
    return (np.arange(n)[:, None] * 1000 + np.arange(int(np.prod(sig)))).reshape(n, *sig)


class Case:
    """One way to cut."""

    def __init__(self, draw: Any, sig_axes: int) -> None:
        # the first of each choice is what hypothesis tries most: scattered frames, used in place, several runs to a tile
        self.nav = draw(st.sampled_from([(4, 5), (3, 6), (2, 3, 4), (7,), (1,), (), (1, 9)]))
        self.sig = tuple(draw(st.lists(st.integers(1, 9), min_size=sig_axes, max_size=sig_axes)))
        n = int(np.prod(self.nav, dtype=int))
        self.sync = draw(st.sampled_from([0, 1, -2, n - 1, -n, n + 1]))
        self.n_frames = max(1, n + draw(st.sampled_from([0, 3, -2, -n])))
        self.layout = draw(st.sampled_from(["view", "gaps", "buffer"]))
        self.depth, self.rows = draw(st.integers(1, n + 2)), draw(st.none() | st.integers(1, self.sig[0]))
        self.sizes = draw(st.lists(st.integers(1, n), max_size=4))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        self.mask = draw(st.sampled_from([rng.random(self.nav) < 0.6, None]))
        self.bad = rng.random(self.n_frames) < draw(st.sampled_from([0.0, 0.3, 1.0]))

    def __repr__(self) -> str:
        return str({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()})


two_axes = st.composite(lambda draw: Case(draw, 2))()
one_axis = st.composite(lambda draw: Case(draw, 1))()


def hands_out_each_pixel_once(udf: type[Seen], case: Case) -> None:
    frames = numbered(case.n_frames, case.sig)
    source = ScriptedSource(
        frames, scan=case.nav, sync_offset=case.sync, layout=case.layout, n_sig=len(case.sig), invalid=case.bad if case.bad.any() else None
    )
    rows = case.rows if udf.hook_name() == "process_tile" else None
    bench = Bench(udf(sync=case.sync), source, depth=case.depth, rows=rows, roi=case.mask)
    result = bench.result(bench.cut(case.sizes))
    n = int(np.prod(case.nav, dtype=int))
    wanted = np.ones(n, bool) if case.mask is None else np.asarray(case.mask).reshape(-1)
    frame = np.arange(n) + case.sync
    good = wanted & (frame >= 0) & (frame < case.n_frames)
    good[good] &= ~case.bad[frame[good]]
    assert np.array_equal(result.valid.reshape(-1), good)
    if good.any():
        assert result["wrong"] == 0
        assert (result["times"] == good.sum()).all()
    else:
        assert (result["times"] == np.iinfo("i8").max).all(), "nothing was seen: the fill, not zero"
    assert (result["pixels"].reshape(-1)[good] == np.prod(case.sig)).all()
    assert np.array_equal(result["place"].reshape(-1)[good], np.flatnonzero(good))
    assert (result["place"].reshape(-1)[~good] == np.iinfo("i8").max).all()


@pytest.mark.parametrize("udf", PYTHON)
@settings(max_examples=60)
@given(case=two_axes)
def test_python_hooks(udf: type[Seen], case: Case) -> None:
    hands_out_each_pixel_once(udf, case)


@pytest.mark.parametrize("udf", COMPILED)
@settings(max_examples=30)
@given(case=two_axes)
def test_compiled_hooks(udf: type[Seen], case: Case) -> None:
    hands_out_each_pixel_once(udf, case)


@settings(max_examples=20)
@given(case=one_axis)
def test_spectra(case: Case) -> None:
    hands_out_each_pixel_once(SeenTile, case)
