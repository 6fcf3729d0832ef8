"""UDFs of every kind that the contract knows, small and with known results. Worker processes import this module."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

import libstream as ls


class Peak(ls.UDF):
    """Python frames: nav, a maximum, an exact sum, and `at`."""

    def outputs(self) -> dict[str, ls.Output]:
        return {
            "peak": ls.nav(self.meta.dtype),
            "envelope": ls.sig(self.meta.dtype, merge="max"),
            "total": ls.single({"f": "f8", "i": "i8"}.get(self.meta.dtype.kind, "u8")),
            "where": ls.nav("i8", (2,)),
        }

    def process_frame(self, frame: Any, out: Any, at: Any) -> None:
        out.peak[...] = frame.max()
        np.maximum(out.envelope, frame, out=out.envelope)
        out.total[...] += frame.sum(dtype=out.total.dtype)
        out.where[...] = at.coords


class PeakKernel(ls.UDF):
    """A compiled frame loop: nav, a maximum over the scan, a parameter."""

    above: float = ls.param(0.0, ge=0.0, title="Threshold")

    def outputs(self) -> dict[str, ls.Output]:
        return {"peak": ls.nav(self.meta.dtype), "envelope": ls.sig(self.meta.dtype, merge="max"), "n": ls.nav("u4")}

    @ls.kernel
    def process_frame(frame, peak, envelope, n, above):
        m = frame[0, 0]
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                m = max(m, frame[y, x])
                envelope[y, x] = max(envelope[y, x], frame[y, x])
                if frame[y, x] > above:
                    n[0] += 1
        peak[0] = m


class Sums(ls.UDF):
    """Python tiles of any region: sums over the scan and over the frame, in floats and integers."""

    def outputs(self) -> dict[str, ls.Output]:
        wide = "f8" if self.meta.dtype.kind == "f" else "i8" if self.meta.dtype.kind == "i" else "u8"
        return {"image": ls.sig(wide), "total": ls.nav(wide), "squares": ls.sig("f8"), "least": ls.single("f8", merge="min")}

    def process_tile(self, tile: Any, out: Any) -> None:
        axes = tuple(range(1, tile.data.ndim))
        out.image += tile.data.sum(0, dtype=out.image.dtype)
        out.total[:, 0] += tile.data.sum(axes, dtype=out.total.dtype)
        out.squares += (tile.data.astype("f8") ** 2).sum(0) * 0.1
        out.least[...] = min(float(out.least[0]), float(tile.data.min()))


class Moments(ls.UDF):
    """Compiled tiles of any region: first moments by detector row, float sums, positions."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"moments": ls.nav("f8", (3,)), "image": ls.sig("f8"), "at": ls.nav("i8"), "sum": ls.single("f8", (2,))}

    @ls.kernel
    def process_tile(tile, moments, image, at, sum, index, row0):
        for i in range(tile.shape[0]):
            frame = ls.frame_of(tile, i)
            at[i, 0] = index[i]
            for y in range(frame.shape[0]):
                for x in range(frame.shape[1]):
                    v = float(frame[y, x])
                    moments[i, 0] += v
                    moments[i, 1] += v * (row0 + y)
                    moments[i, 2] += v * x
                    image[y, x] += v / 3.0
                    sum[0] += v
                    sum[1] += v * (row0 + y)


class Whole(ls.UDF):
    """All frames of a partition at once."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"total": ls.nav("f8"), "image": ls.sig("f8"), "n": ls.single("i8")}

    def process_partition(self, data: Any, out: Any) -> None:
        out.total[:, 0] = data.sum((1, 2), dtype="f8")
        out.image += data.sum(0, dtype="f8")
        out.n[...] += len(data)


EVENT = np.dtype([("y", "i4"), ("x", "i4"), ("value", "f8")])


class Events(ls.UDF):
    """Ragged records and a count, from plain Python."""

    above: float = 3.0

    def outputs(self) -> dict[str, ls.Output]:
        return {"events": ls.ragged(EVENT), "n": ls.nav("i8"), "all": ls.single("i8")}

    def process_frame(self, frame: Any, out: Any) -> None:
        y, x = np.nonzero(frame > self.above)
        records = np.zeros(len(y), EVENT)
        records["y"], records["x"], records["value"] = y, x, frame[y, x]
        out.events.put(0, records)
        out.n[...] = len(y)
        out.all[...] += len(y)


class EventsKernel(ls.UDF):
    """Ragged records from compiled code, in an arena that grows."""

    above: float = 3.0

    def outputs(self) -> dict[str, ls.Output]:
        return {"events": ls.ragged(EVENT), "n": ls.nav("i8")}

    @ls.kernel
    def process_frame(frame, events, n, above):
        k = 0
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                if frame[y, x] > above:
                    if k < len(events):
                        events[k]["y"] = y
                        events[k]["x"] = x
                        events[k]["value"] = frame[y, x]
                    k += 1
                    n[0] += 1
        return k


class Spread(ls.UDF):
    """Mean and variance of each pixel by the pairwise formula (doi:10.2307/1266577), which needs a merge of its own."""

    def outputs(self) -> dict[str, ls.Output]:
        return {
            "count": ls.single("f8", merge="custom", private=True),
            "mean": ls.sig("f8", merge="custom"),
            "m2": ls.sig("f8", merge="custom", private=True),
            "variance": ls.sig("f8", derived=True),
        }

    def process_tile(self, tile: Any, out: Any) -> None:
        n, data = len(tile.data), tile.data.astype("f8")
        mean = data.mean(0)
        rows = tile.region.rows
        # the count is common to all bands of a frame: the last band raises it
        before = out.count[0]
        delta = mean - out.mean
        out.mean += delta * n / (before + n)
        out.m2 += ((data - mean) ** 2).sum(0) + delta**2 * before * n / (before + n)
        if rows.stop == self.meta.shape.sig[0]:
            out.count[...] = before + n

    def merge(self, into: Any, part: Any) -> None:
        n = into.count + part.count
        delta = part.mean - into.mean
        into.m2 = into.m2 + part.m2 + delta**2 * into.count * part.count / n
        into.mean = into.mean + delta * part.count / n
        into.count = n

    def finish(self, results: dict[str, Any], coverage: Any) -> dict[str, Any]:
        n = results["count"]
        return {"variance": results["m2"] / n if n > 0 else np.full_like(results["m2"], np.nan)}


class Weighted(ls.UDF):
    """Array, per-position and quantity parameters, a constant made of them, a cast."""

    mask: ls.Array
    weight: ls.PerPosition
    radius: ls.Quantity = ls.param(4.0, unit="px", title="Radius")
    offset: tuple[float, float] = (0.5, -1.0)
    dtype = "float32"

    @cached_property
    def disk(self) -> np.ndarray:
        ny, nx = self.meta.shape.sig
        y, x = np.ogrid[:ny, :nx]
        return ((y - ny / 2) ** 2 + (x - nx / 2) ** 2 < self.radius**2) * np.asarray(self.mask, "f8")

    def outputs(self) -> dict[str, ls.Output]:
        return {"value": ls.nav("f8", unit="e"), "image": ls.sig("f8", unit="e")}

    @ls.kernel
    def process_frame(frame, value, image, disk, weight, offset):
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                v = frame[y, x] * disk[y, x] * weight + offset[0]
                value[0] += v
                image[y, x] += v + offset[1]


class Fourier(ls.UDF):
    """Complex output, per-position parameter in Python tiles, whole frames, a private scratch output."""

    phase: ls.PerPosition
    whole_frames = True

    def outputs(self) -> dict[str, ls.Output]:
        return {
            "first": ls.nav("c16"),
            "sum": ls.sig("c16"),
            "scratch": ls.single("f8", (3,), private=True),
            "ratio": ls.nav("f4", derived=True),
        }

    def process_tile(self, tile: Any, out: Any) -> None:
        spectra = np.fft.fft2(tile.data) * np.exp(1j * tile.aux.phase)[:, None, None]
        out.first[:, 0] = spectra[:, 0, 1]
        out.sum += spectra.sum(0)
        out.scratch[0] += len(tile)

    def finish(self, results: dict[str, Any], coverage: Any) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            return {"ratio": (np.abs(results["first"]) / results["scratch"][0]).astype("f4")}


def everything(nav: tuple[int, ...], sig: tuple[int, int]) -> dict[str, ls.UDF]:
    """One of each, by key."""
    rng = np.random.default_rng(9)
    return {
        "peak": Peak(),
        "peak_kernel": PeakKernel(above=3.0),
        "sums": Sums(),
        "moments": Moments(),
        "whole": Whole(),
        "events": Events(),
        "events_kernel": EventsKernel(),
        "spread": Spread(),
        "weighted": Weighted(mask=rng.random(sig), weight=rng.random(nav)),
        "fourier": Fourier(phase=rng.random(nav)),
    }
