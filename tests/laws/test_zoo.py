"""The UDFs of the zoo obey the laws; so the laws are tried on every kind of output and hook."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.testing.laws import UDFLaws
from tests.laws import zoo

WEIGHTS = np.random.default_rng(2).random((8, 8))


class TestPeak(UDFLaws):
    udf = zoo.Peak
    dtypes = ("uint16", "float32")


class TestPeakKernel(UDFLaws):
    udf = zoo.PeakKernel(above=3.0)
    dtypes = ("uint8", "float64")


class TestSums(UDFLaws):
    udf = zoo.Sums()
    dtypes = ("uint16", "int32", "float32")


class TestMoments(UDFLaws):
    udf = zoo.Moments()


class TestWhole(UDFLaws):
    udf = zoo.Whole()


class TestEvents(UDFLaws):
    udf = zoo.Events()


class TestEventsKernel(UDFLaws):
    udf = zoo.EventsKernel()
    dtypes = ("uint16", "float32")


class TestSpread(UDFLaws):
    udf = zoo.Spread()


class TestWeighted(UDFLaws):
    @property
    def udf(self) -> Any:
        return zoo.Weighted(mask=np.random.default_rng(1).random((16, 16)), weight=WEIGHTS, radius="5 px")

    rtol_twin = 1e-6  # float32 frames


class TestFourier(UDFLaws):
    udf = zoo.Fourier(phase=WEIGHTS)
