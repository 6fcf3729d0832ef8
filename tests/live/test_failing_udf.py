"""Over a live source a UDF that fails stops alone: its frames come only once for the others, too."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

import libstream as ls
from libstream.errors import UDFError
from libstream.testing.detectors import Wire, memory_source

FRAMES = np.random.default_rng(0).integers(0, 1000, (64, 6, 8)).astype(np.uint16)
FRAMES[:, 0, 0] = np.arange(64)


class RaisesAt40(ls.UDF):
    """Raises at the frame whose first pixel is 40."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"seen": ls.nav("u8"), "sum": ls.sig("u8")}

    def process_frame(self, frame, out) -> None:  # type: ignore[no-untyped-def]
        out.seen[...] = 1
        out.sum[...] += frame
        if frame[0, 0] == 40:
            raise ZeroDivisionError("frame 40")


class RaisesInMerge(ls.UDF):
    """Cannot merge once it holds more than 5 frames."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"n": ls.single("i8", (1,), merge="custom")}

    def process_frame(self, frame, out) -> None:  # type: ignore[no-untyped-def]
        out.n[...] += 1

    def merge(self, into, part) -> None:  # type: ignore[no-untyped-def]
        if into.n[0] > 5:
            raise ValueError("no more")
        into.n[...] += part.n


class RaisesInFinish(ls.UDF):
    """Cannot finish once all frames are there."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"n": ls.single("i8", (1,)), "ratio": ls.single("f8", (1,), derived=True)}

    def process_frame(self, frame, out) -> None:  # type: ignore[no-untyped-def]
        out.n[...] += 1

    def finish(self, results, coverage):  # type: ignore[no-untyped-def]
        if coverage.counts["processed"] > 60:
            raise OverflowError("too many")
        return {"ratio": np.ones(1)}


@pytest.fixture
def acquisition() -> Iterator[ls.Acquisition]:
    wire = Wire()
    with memory_source(wire, scan=(8, 8)) as live:
        wire.header(1, 64)
        wire.frames(1, FRAMES, range(20))
        found = live.wait(10)
        assert found is not None
        while found.n_arrived < 20:
            time.sleep(0.001)
        wire.frames(1, FRAMES, range(20, 64))
        wire.end(1)
        yield found


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_the_others_go_on(acquisition: ls.Acquisition, executor: str) -> None:
    udfs = {"sum": ls.udfs.Sum(), "a": RaisesAt40(), "b": RaisesInMerge(), "c": RaisesInFinish(), "total": ls.udfs.FrameTotals()}
    result = ls.run(acquisition, udfs, executor=executor)
    assert np.array_equal(result["sum"]["sum"], FRAMES.sum(axis=0, dtype=np.uint64))
    assert np.array_equal(result["total"]["total"].reshape(-1), FRAMES.sum(axis=(1, 2), dtype=np.uint64))
    assert set(result.failures) == {"a", "b", "c"}
    assert "frame 40" in result.failures["a"]
    assert "(5, 0)" in result.failures["a"]  # where
    assert "no more" in result.failures["b"]
    assert "too many" in result.failures["c"]
    assert not result.complete
    assert result.coverage.complete
    assert "a stopped:" in repr(result)


def test_what_it_holds_has_no_part_of_the_partition_that_failed(acquisition: ls.Acquisition) -> None:
    result = ls.run(acquisition, {"a": RaisesAt40(), "sum": ls.udfs.Sum()}, executor="inline")
    seen = result["a"]["seen"].reshape(-1) == 1
    assert seen.any()
    assert not seen[40]
    assert np.array_equal(result["a"]["sum"], FRAMES[seen].sum(axis=0, dtype=np.uint64))


def test_the_only_udf_ends_the_run_and_the_next_run_works(acquisition: ls.Acquisition) -> None:
    with pytest.raises(UDFError, match="frame 40"):
        ls.run(acquisition, RaisesAt40())
    assert acquisition.wait(10) == "done"
    assert ls.run(acquisition, ls.udfs.Sum()).complete


def test_stored_frames_can_be_read_again_so_the_first_error_ends_the_run() -> None:
    with pytest.raises(UDFError, match="frame 40"):
        ls.run(FRAMES.reshape(8, 8, 6, 8), {"sum": ls.udfs.Sum(), "a": RaisesAt40()})


def test_failures_are_saved_with_the_result(acquisition: ls.Acquisition, tmp_path) -> None:  # type: ignore[no-untyped-def]
    ls.run(acquisition, {"sum": ls.udfs.Sum(), "a": RaisesAt40()}).save(tmp_path / "r.h5")
    loaded = ls.load_result(tmp_path / "r.h5")
    assert "frame 40" in loaded.failures["a"]
    assert loaded.ledger["processed"] == 64
