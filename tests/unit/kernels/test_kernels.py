"""Kernels as callables, views of frames, ragged arenas, bounds checks."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import libstream as ls
from libstream.errors import UDFError
from libstream.kernels.jit import Kernel, callees, flat_of, frame_of, part_of, prefetch
from libstream.testing._bench import Bench
from libstream.testing.sources import ScriptedSource

SCALE = 3


@ls.kernel
def scaled(v):
    return v * SCALE


@ls.kernel
def total(tile, out):
    for i in range(tile.shape[0]):
        frame = frame_of(tile, i)
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                out[i] += scaled(frame[y, x])


@ls.kernel
def total_flat(tile, out):
    for i in range(tile.shape[0]):
        row = flat_of(tile, i)
        for p in range(row.shape[0]):
            out[i] += row[p]


@ls.kernel
def total_part(tile, out, start, stop):
    for i in range(tile.shape[0]):
        row = part_of(tile, i, start, stop)
        for p in range(row.shape[0]):
            out[i] += row[p]


def gapped(n: int, rows: int, cols: int, gap: int, dtype: Any) -> np.ndarray:
    whole = np.random.default_rng(n).integers(0, 100, (n, rows + gap, cols)).astype(dtype)
    return whole[:, gap // 2 : rows + gap // 2]


# -- callables ---------------------------------------------------------------------------------------------------------------


def test_a_kernel_called_from_python_is_the_plain_function() -> None:
    assert scaled(2) == 6
    assert scaled.func(2) == 6
    assert isinstance(scaled, Kernel)
    assert (scaled.__name__, repr(scaled)) == ("scaled", "<kernel scaled>")


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("k", [total, total_flat])
def test_compiled_and_plain_agree(k: Any, gap: int) -> None:
    tile = gapped(5, 4, 6, gap, "u2")
    plain, compiled = np.zeros(5), np.zeros(5)
    k(tile.astype("f8"), plain)
    k.cached(tile, compiled)
    assert np.array_equal(plain, compiled)
    assert np.array_equal(compiled, tile.sum((1, 2)) * (3 if k is total else 1))


@settings(max_examples=30)
@given(n=st.integers(1, 4), rows=st.integers(1, 5), cols=st.integers(1, 5), gap=st.integers(0, 3), data=st.data())
def test_parts_of_frames(n: int, rows: int, cols: int, gap: int, data: Any) -> None:
    tile = gapped(n, rows, cols, gap, "f4")
    start = data.draw(st.integers(0, rows * cols))
    stop = data.draw(st.integers(start, rows * cols))
    out = np.zeros(n)
    total_part.cached(tile, out, start, stop)
    assert out.tolist() == tile.reshape(n, -1)[:, start:stop].sum(1).tolist()
    assert [part_of(tile, i, start, stop).tolist() for i in range(n)] == tile.reshape(n, -1)[:, start:stop].tolist()


@ls.kernel
def total_asked_for(tile, out, ahead):
    for i in range(tile.shape[0]):
        prefetch(tile, i + ahead, ahead, ahead + 40)
        row = flat_of(tile, i)
        for p in range(row.shape[0]):
            out[i] += row[p]


@pytest.mark.parametrize("ahead", [0, 1, 10**9, -(10**9)])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f8", "c16"])
@pytest.mark.parametrize("gap", [0, 3])
def test_what_is_asked_for_changes_nothing(ahead: int, dtype: str, gap: int) -> None:
    tile = gapped(5, 4, 6, gap, dtype)
    plain, compiled = np.zeros(5, "c16"), np.zeros(5, "c16")
    total_asked_for(tile, plain, ahead)
    total_asked_for.jit(tile, compiled, ahead)  # compiled here: code from the cache has no text to look into
    assert plain.tolist() == compiled.tolist() == tile.sum((1, 2), dtype="c16").tolist()
    assert "llvm.prefetch" in "".join(total_asked_for.jit.inspect_llvm().values())


def test_frames_of_spectra() -> None:
    tile = np.arange(12.0).reshape(3, 4)
    out = np.zeros(3)
    total_flat.cached(tile, out)
    assert out.tolist() == tile.sum(1).tolist()
    assert frame_of(tile, 1).tolist() == [4, 5, 6, 7]


def test_kernels_can_be_sent_to_other_processes() -> None:
    import cloudpickle

    assert pickle.loads(pickle.dumps(frame_of)) is frame_of
    assert pickle.loads(pickle.dumps(prefetch)) is prefetch
    assert cloudpickle.loads(cloudpickle.dumps(scaled))(2) == 6

    @ls.kernel(fastmath={"nsz"})
    def local(v):
        return v + SCALE

    again = cloudpickle.loads(cloudpickle.dumps(local))
    assert (again(2), again.fastmath) == (5, {"nsz"})
    assert copy.copy(scaled)(1) == 3


def test_kernels_of_one_name_are_kept_apart() -> None:
    def made(k: int) -> Kernel:
        @ls.kernel
        def same(v):
            return v + k

        return same

    assert [made(k).cached(1) for k in (1, 2, 3)] == [2, 3, 4]


def test_callees() -> None:
    names = dict(callees(total.func))
    assert (names["frame_of"], names["scaled"]) == (frame_of, scaled)
    assert dict(callees(scaled.func)) == {"SCALE": 3}


# -- ragged arenas -----------------------------------------------------------------------------------------------------------


class Copies(ls.UDF):
    """As many records as the first pixel says: its frame number and a running number; and how often the frame was visited."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"records": ls.ragged([("frame", "i4"), ("k", "i4")]), "n": ls.nav("i8"), "visits": ls.nav("i8")}

    @ls.kernel
    def process_frame(frame, records, n, visits, index):
        want = int(frame[0, 0])
        for k in range(min(want, len(records))):
            records[k]["frame"] = index
            records[k]["k"] = k
        n[0] += want
        visits[0] += 1
        return want


@settings(max_examples=30)
@given(
    counts=st.lists(st.sampled_from([0, 1, 2, 7, 60, 300, 5000]), min_size=1, max_size=12), cut=st.integers(1, 12), depth=st.integers(1, 5)
)
def test_the_arena_grows(counts: list[int], cut: int, depth: int) -> None:
    frames = np.zeros((len(counts), 2, 3), "u2")
    frames[:, 0, 0] = counts
    bench = Bench(Copies(), ScriptedSource(frames, layout="view"), depth=depth)
    merged = bench.merged(bench.cut([min(cut, len(counts))]))
    assert merged["records"].counts.tolist() == counts == merged["n"].tolist()
    assert merged["visits"].tolist() == [1] * len(counts), "what a repeated frame added the first time is forgotten"
    for i, records in enumerate(merged["records"]):
        assert records["frame"].tolist() == [i] * counts[i]
        assert records["k"].tolist() == list(range(counts[i]))


def test_one_frame_larger_than_all_room() -> None:
    frames = np.zeros((3, 2, 3), "u4")
    frames[1, 0, 0] = 1_000_000
    r = ls.run(frames, {"u": Copies()}, executor="inline")["u"]
    assert r["records"].counts.tolist() == [0, 1_000_000, 0]
    assert r["records"][1]["k"][-1] == 999_999


def test_beside_other_kernels_of_one_pass() -> None:
    class Count(ls.UDF):
        def outputs(self) -> dict[str, ls.Output]:
            return {"n": ls.nav("i8"), "image": ls.sig("i8")}

        @ls.kernel
        def process_frame(frame, n, image):
            n[0] += 1
            image[0, 0] += frame[0, 0]

    counts = [3, 700, 0, 90, 2, 4000, 5]
    frames = np.zeros((len(counts), 2, 3), "u2")
    frames[:, 0, 0] = counts
    r = ls.run(frames, {"a": Count(), "b": Copies(), "c": Copies(), "d": Count()}, executor="inline")
    for key in "ad":
        assert r[key]["n"].tolist() == [1] * 7, "a frame that is repeated for one UDF is not repeated for another"
        assert r[key]["image"][0, 0] == sum(counts)
    for key in "bc":
        assert r[key]["records"].counts.tolist() == counts


@pytest.mark.parametrize("n", [-1, -1000])
def test_a_negative_number_of_records(n: int) -> None:
    class Negative(ls.UDF):
        n: int

        def outputs(self) -> dict[str, ls.Output]:
            return {"records": ls.ragged("i4")}

        @ls.kernel
        def process_frame(frame, records, n):
            return n if frame[0, 0] == 3 else 0

    frames = np.zeros((4, 2, 2), "u2")
    frames[2] = 3
    with pytest.raises(UDFError, match=f"the kernel process_frame returned {n} for a frame; it returns the number of its records"):
        ls.run(frames, {"u": Negative(n=n)}, executor="inline")


# -- bounds ------------------------------------------------------------------------------------------------------------------


@ls.kernel
def beyond(frame, i):
    return frame[i, 0]


class Inside(ls.UDF):
    def outputs(self) -> dict[str, ls.Output]:
        return {"v": ls.nav("f8")}

    @ls.kernel
    def process_frame(frame, v):
        v[0] = beyond(frame, frame.shape[0] - 1)


class Outside(Inside):
    @ls.kernel
    def process_frame(frame, v):
        v[0] = beyond(frame, frame.shape[0])  # in a kernel that it calls


class OutsideOut(Inside):
    @ls.kernel
    def process_tile(tile, v):
        for i in range(tile.shape[0] + 1):
            v[i, 0] = tile[min(i, tile.shape[0] - 1), 0, 0]


@pytest.mark.parametrize("udf", [Outside(), OutsideOut()])
def test_debug_mode_checks_bounds(udf: ls.UDF, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBSTREAM_DEBUG", "1")
    frames = np.ones((4, 3, 3))
    assert (ls.run(frames, {"u": Inside()}, executor="inline")["v"] == 1.0).all()
    with pytest.raises(UDFError, match=r"IndexError: index is out of bounds.*, in debug mode, with bounds checks"):
        ls.run(frames, {"u": udf}, executor="inline")
