"""Each law finds the UDF that breaks it; `check` says when halves do not merge to the whole."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import UDFError
from libstream.testing import UDFLaws, check
from tests.laws import zoo

SCRATCH = np.zeros(1)


class CountsTiles(ls.UDF):
    def outputs(self) -> dict[str, ls.Output]:
        return {"n": ls.single("i8")}

    def process_tile(self, tile: Any, out: Any) -> None:
        out.n[...] += 1


class KeepsTheLast(ls.UDF):
    def outputs(self) -> dict[str, ls.Output]:
        return {"image": ls.sig("f8")}

    def process_frame(self, frame: Any, out: Any) -> None:
        out.image[...] = frame


class StartsFromOne(zoo.Sums):
    def outputs(self) -> dict[str, ls.Output]:
        return {**super().outputs(), "image": ls.sig("u8", init=1)}


class Averages(ls.UDF):
    """A merge that weighs both sides alike, whatever they saw."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"mean": ls.single("f8", merge="custom")}

    def process_partition(self, data: Any, out: Any) -> None:
        out.mean[...] = data.mean()

    def merge(self, into: Any, part: Any) -> None:
        into.mean = (into.mean + part.mean) / 2


class ForgetsTheBand(ls.UDF):
    """Rows are counted from the first one of the tile, not of the frame."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"moment": ls.nav("f8")}

    @ls.kernel
    def process_tile(tile, moment):
        for i in range(tile.shape[0]):
            for y in range(tile.shape[1]):
                for x in range(tile.shape[2]):
                    moment[i, 0] += y * float(tile[i, y, x])


class Wraps(ls.UDF):
    """Unsigned pixels are subtracted: the compiled code wraps around."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"step": ls.nav("f8")}

    @ls.kernel
    def process_frame(frame, step):
        for x in range(frame.shape[1] - 1):
            step[0] += frame[0, x] - frame[0, x + 1]


class Beyond(ls.UDF):
    def outputs(self) -> dict[str, ls.Output]:
        return {"edge": ls.nav("f8")}

    @ls.kernel
    def process_frame(frame, edge):
        edge[0] = frame[0, frame.shape[1]] * 0.0


class ChangesItsInput(zoo.Fourier):
    def finish(self, results: dict[str, Any], coverage: Any) -> dict[str, Any]:
        results["scratch"] *= 2.0
        return super().finish(results, coverage)


class Counts(zoo.Fourier):
    def finish(self, results: dict[str, Any], coverage: Any) -> dict[str, Any]:
        SCRATCH[0] += 1
        return {"ratio": np.full(coverage.valid.shape, SCRATCH[0], "f4")}


class SharesABuffer(ls.UDF):
    def outputs(self) -> dict[str, ls.Output]:
        return {"total": ls.nav("f8")}

    def process_frame(self, frame: Any, out: Any) -> None:
        SCRATCH[0] = frame.sum()
        time.sleep(0.0005)
        out.total[...] = SCRATCH[0]


class HoldsALock(KeepsTheLast):
    lock: Any


class NoText(KeepsTheLast):
    func: Any


class NeedsNeighbours(ls.UDF):
    """A value of a frame that depends on the frame before it in the tile."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"step": ls.nav("f8")}

    def process_tile(self, tile: Any, out: Any) -> None:
        totals = tile.data.sum((1, 2), dtype="f8")
        out.step[1:, 0] = np.diff(totals)


class TakesRowsForPositions(ls.UDF):
    """Counts frames itself instead of looking at their positions."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"where": ls.nav("i8")}

    def process_partition(self, data: Any, out: Any) -> None:
        out.where[:, 0] = np.arange(len(data))


class HidesTheFill(ls.UDF):
    def outputs(self) -> dict[str, ls.Output]:
        return {"value": ls.nav("f8"), "mean": ls.single("f8", derived=True)}

    def process_frame(self, frame: Any, out: Any) -> None:
        out.value[...] = frame.mean()

    def finish(self, results: dict[str, Any], coverage: Any) -> dict[str, Any]:
        seen = results["value"][coverage.valid]
        return {"mean": np.array(seen[0] * 0 + seen.mean())}  # fails where nothing was seen


BROKEN = [
    (CountsTiles(), "test_tiles_of_any_depth_agree"),
    (CountsTiles(), "test_cuts_agree"),
    (KeepsTheLast(), "test_cuts_agree"),
    (StartsFromOne(), "test_cuts_agree"),
    (Averages(), "test_nested_merges_agree"),
    (Averages(), "test_cuts_agree"),
    (ForgetsTheBand(), "test_bands_of_rows_agree"),
    (Wraps(), "test_the_kernel_equals_its_plain_function"),
    (Beyond(), "test_the_kernel_stays_inside_its_arrays"),
    (ChangesItsInput(phase=np.zeros((8, 8))), "test_finish_is_pure"),
    (Counts(phase=np.zeros((8, 8))), "test_finish_is_pure"),
    (SharesABuffer(), "test_threads_give_the_same_bits"),
    (HoldsALock(lock=threading.Lock()), "test_it_can_be_sent_to_another_process"),
    (NoText(func=np.max), "test_parameters_are_kept_as_text"),
    (NeedsNeighbours(), "test_tiles_of_any_depth_agree"),
    (NeedsNeighbours(), "test_a_region_of_interest_gives_the_values_of_the_whole"),
    (TakesRowsForPositions(), "test_a_region_of_interest_gives_the_values_of_the_whole"),
    (HidesTheFill(), "test_what_was_not_seen_holds_the_fill"),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("udf", "law"), BROKEN, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_a_broken_udf_is_found(udf: ls.UDF, law: str) -> None:
    laws = type("Laws", (UDFLaws,), {"udf": udf})()
    test = getattr(laws, law)
    with pytest.raises((AssertionError, UDFError, TypeError, IndexError)):
        test() if law == "test_parameters_are_kept_as_text" else test(np.dtype("uint16"))


def test_every_law_is_tried() -> None:
    """Laws that only a fault of the engine can break are those named here."""
    engine = {
        "test_outputs_are_as_declared", "test_the_order_of_arrival_does_not_matter", "test_a_partition_without_frames_changes_nothing",
        "test_the_layout_in_memory_does_not_matter", "test_corrupt_frames_are_left_out",
    }  # fmt: skip
    laws = {name for name in vars(UDFLaws) if name.startswith("test_")}
    assert laws - engine == {law for _, law in BROKEN}


def test_check_prints_what_came_out(capsys: pytest.CaptureFixture[str]) -> None:
    frames = np.random.default_rng(0).poisson(3.0, (4, 5, 8, 9)).astype("u2")
    result = check(zoo.Peak(), frames)
    assert np.array_equal(result["peak"], frames.max((2, 3)))
    said = capsys.readouterr().out
    assert "Peak on (4, 5 | 8, 9) uint16, 0.00288 MB" in said
    assert f"peak: (4, 5) uint16, {frames.max((2, 3)).min()} to {frames.max()}, mean" in said
    assert "two halves of 10 and 10 frames, merged: the same" in said
    assert "GB/s" in said
    check(zoo.EventsKernel(above=1.0), frames)
    assert f"{(frames > 1).sum()} records of" in capsys.readouterr().out
    assert check(zoo.Peak(), ls.open(frames[:1, :1])).complete


def test_check_finds_what_does_not_merge() -> None:
    with pytest.raises(AssertionError, match=r"KeepsTheLast: two halves, merged, differ from the whole: image\[0, 0\] is"):
        check(KeepsTheLast(), np.ones((4, 5, 8, 9)))
