"""Inline, threads and processes give the same bits, for every kind of UDF and every way to ask; and the values are right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.testing._bench import differ
from libstream.testing.laws import random_frames
from libstream.testing.sources import ScriptedSource, part_filled
from tests.laws import zoo

NAV, SIG = (12, 11), (14, 10)
FRAMES = random_frames(NAV, SIG, "uint16")
ROI = np.random.default_rng(4).random(NAV) < 0.4
CORRECTIONS = ls.Corrections(
    dark=np.random.default_rng(1).random(SIG),
    gain=1 + np.random.default_rng(2).random(SIG),
    excluded=np.random.default_rng(3).random(SIG) < 0.1,
)


@pytest.fixture(scope="module")
def executors() -> Iterator[dict[str, Any]]:
    with ls.executor("threads", workers=3) as threads, ls.executor("processes", workers=2) as processes:
        ls.run(FRAMES[:2], zoo.Peak(), executor=processes)
        ls.run(FRAMES[:2], zoo.Peak(), executor=threads)
        yield {"inline": "inline", "threads": threads, "processes": processes}


def same_bits(executors: dict[str, Any], source: Any, udfs: Any, **options: Any) -> Any:
    """Run on every executor, compare all bits, return one result."""
    first = None
    for name, ex in executors.items():
        result = ls.run(source, udfs, executor=ex, **options)
        if first is None:
            first = result
            continue
        wrong = [differ(f"{k}/{n}", first[k][n], result[k][n], 0.0) for k in first for n in first[k]]
        assert not any(wrong), f"{name}: " + "; ".join(w for w in wrong if w)
        assert np.array_equal(first.coverage.status, result.coverage.status), name
    return first


WAYS: dict[str, Any] = {
    "all": {},
    "a region of interest": {"roi": ROI},
    "one line": {"roi": np.s_[3]},
    "corrections": {"corrections": CORRECTIONS},
    "corrections and a region": {"corrections": CORRECTIONS, "roi": ROI},
}


@pytest.mark.parametrize("layout", ["view", "buffer"])
@pytest.mark.parametrize("way", WAYS)
def test_all_udfs_in_one_pass(executors: dict[str, Any], way: str, layout: Any) -> None:
    source = ScriptedSource(FRAMES, part_filled(8, most=30), layout=layout)
    result = same_bits(executors, source, zoo.everything(NAV, SIG), **WAYS[way])
    assert result.complete


@pytest.mark.parametrize("sync", [-7, 20])
def test_sync_offset(executors: dict[str, Any], sync: int) -> None:
    source = ScriptedSource(FRAMES.reshape(-1, *SIG), part_filled(8, most=30), scan=NAV, sync_offset=sync)
    result = same_bits(executors, source, {"peak": zoo.Peak(), "kernel": zoo.PeakKernel(), "events": zoo.EventsKernel()})
    assert result.coverage.counts["missing"] == abs(sync)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64", ">u2"])
def test_dtypes(executors: dict[str, Any], dtype: str) -> None:
    frames = random_frames(NAV, SIG, np.dtype(dtype).newbyteorder("=")).astype(dtype)
    udfs = {k: u for k, u in zoo.everything(NAV, SIG).items() if k in ("peak", "sums", "moments", "events", "weighted")}
    result = same_bits(executors, frames, udfs)
    assert result["peak"]["peak"].dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(result["peak"]["peak"], frames.max((2, 3)))


def test_several_channels(executors: dict[str, Any]) -> None:
    data = {"low": FRAMES, "high": random_frames(NAV, (6, 8), "float32"), "other": FRAMES // 2}
    udfs = {"a": zoo.Sums(), "b": ls.on("high", zoo.Sums()), "c": ls.on("other", zoo.PeakKernel()), "d": ls.on("high", zoo.Moments())}
    result = same_bits(executors, data, udfs)
    assert np.array_equal(result["a"]["image"], FRAMES.sum((0, 1), dtype="u8"))
    np.testing.assert_allclose(result["b"]["image"], data["high"].sum((0, 1), dtype="f8"), rtol=1e-12)
    assert np.array_equal(result["c"]["peak"], data["other"].max((2, 3)))
    np.testing.assert_allclose(result["d"]["moments"][..., 0], data["high"].sum((2, 3), dtype="f8"), rtol=1e-12)


def test_values(executors: dict[str, Any]) -> None:
    """What comes out is what numpy says, with nothing but numpy."""
    udfs = zoo.everything(NAV, SIG)
    result = same_bits(executors, ScriptedSource(FRAMES, part_filled(8, most=30)), udfs)
    f8 = FRAMES.astype("f8")
    y, x = np.arange(SIG[0])[:, None], np.arange(SIG[1])
    assert np.array_equal(result["peak"]["peak"], FRAMES.max((2, 3)))
    assert np.array_equal(result["peak"]["envelope"], FRAMES.max((0, 1)))
    assert result["peak"]["total"] == FRAMES.sum(dtype="u8")
    assert np.array_equal(result["peak"]["where"], np.stack(np.indices(NAV), -1))
    assert np.array_equal(result["peak_kernel"]["n"], (FRAMES > 3).sum((2, 3)))
    assert np.array_equal(result["sums"]["total"], FRAMES.sum((2, 3), dtype="u8"))
    assert result["sums"]["least"] == FRAMES.min()
    np.testing.assert_allclose(
        result["moments"]["moments"], np.stack([f8.sum((2, 3)), (f8 * y).sum((2, 3)), (f8 * x).sum((2, 3))], -1), rtol=1e-12
    )
    np.testing.assert_allclose(result["moments"]["sum"], [f8.sum(), (f8 * y).sum()], rtol=1e-12)
    np.testing.assert_allclose(result["whole"]["image"], f8.sum((0, 1)), rtol=1e-12)
    assert result["whole"]["n"] == 132
    for key in ("events", "events_kernel"):
        events = result[key]["events"]
        assert np.array_equal(events.counts, (FRAMES > 3).sum((2, 3)))
        for p in [(0, 0), (3, 7), (11, 10)]:
            ey, ex = np.nonzero(FRAMES[p] > 3)
            assert (events[p]["y"].tolist(), events[p]["x"].tolist(), events[p]["value"].tolist()) == (
                ey.tolist(), ex.tolist(), FRAMES[p][ey, ex].tolist(),
            )  # fmt: skip
    np.testing.assert_allclose(result["spread"]["variance"], f8.var((0, 1)), rtol=1e-9)
    weighted: Any = udfs["weighted"]
    disk = ((y - SIG[0] / 2) ** 2 + (x - SIG[1] / 2) ** 2 < 16) * np.asarray(weighted.mask)
    expected = (f8 * disk).sum((2, 3)) * np.asarray(weighted.weight) + 0.5 * disk.size
    np.testing.assert_allclose(result["weighted"]["value"], expected, rtol=1e-6)
    fourier: Any = udfs["fourier"]
    spectra = np.fft.fft2(f8) * np.exp(1j * np.asarray(fourier.phase))[..., None, None]
    np.testing.assert_allclose(result["fourier"]["sum"], spectra.sum((0, 1)), atol=1e-9 * np.abs(spectra).max())
    assert list(result["fourier"]) == ["first", "sum", "ratio"]


def test_a_scan_of_realistic_size(executors: dict[str, Any], tmp_path: Path) -> None:
    """64 x 64 positions, 128 x 128 pixels, from a file: many partitions as the plan cuts them."""
    rng = np.random.default_rng(0)
    path = tmp_path / "scan.npy"
    frames = np.lib.format.open_memmap(path, "w+", np.dtype("u2"), (64, 64, 128, 128))
    for row in frames:
        row[...] = rng.integers(0, 4000, row.shape, "u2")
    frames.flush()
    udfs = {"kernel": zoo.PeakKernel(above=100.0), "sums": zoo.Sums(), "moments": zoo.Moments()}
    source = ls.open(path)
    result = same_bits(executors, source, udfs)
    assert np.array_equal(result["kernel"]["peak"], frames.max((2, 3)))
    assert np.array_equal(result["kernel"]["envelope"], frames.max((0, 1)))
    assert np.array_equal(result["sums"]["image"], frames.sum((0, 1), dtype="u8"))
    assert np.array_equal(result["sums"]["total"], frames.sum((2, 3), dtype="u8"))
    totals = frames.sum((2, 3), dtype="u8")
    assert np.array_equal(result["moments"]["moments"][..., 0], totals.astype("f8"))
    half = same_bits({k: executors[k] for k in ("inline", "threads")}, source, udfs, roi=np.s_[:, ::3])
    assert np.array_equal(half["sums"]["image"], frames[:, ::3].sum((0, 1), dtype="u8"))
    del frames
