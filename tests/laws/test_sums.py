"""The built-in sums, statistics and virtual detectors obey the laws of UDFs."""

from __future__ import annotations

import numpy as np

import libstream as ls
from libstream.testing.laws import UDFLaws

RNG = np.random.default_rng(1)


class TestSum(UDFLaws):
    udf = ls.udfs.Sum
    dtypes = ("uint16", "float32")


class TestFrameTotals(UDFLaws):
    udf = ls.udfs.FrameTotals
    dtypes = ("uint16", "float32")


class TestMean(UDFLaws):
    udf = ls.udfs.Mean


class TestVariance(UDFLaws):
    udf = ls.udfs.Variance(ddof=1)
    dtypes = ("uint16", "uint32", "float32")


class TestStdDev(UDFLaws):
    udf = ls.udfs.StdDev


class TestMax(UDFLaws):
    udf = ls.udfs.Max


class TestMin(UDFLaws):
    udf = ls.udfs.Min


class TestLogSum(UDFLaws):
    udf = ls.udfs.LogSum
    dtypes = ("uint8", "float32")


class TestDisk(UDFLaws):
    udf = ls.udfs.VirtualDetector(inner=2, outer=6)
    dtypes = ("uint16", "float32")


class TestPoint(UDFLaws):
    udf = ls.udfs.VirtualDetector(shape="point")


class TestWeights(UDFLaws):
    udf = ls.udfs.VirtualDetector(mask=RNG.random((16, 16)))


class TestManyMasks(UDFLaws):
    udf = ls.udfs.VirtualDetector(mask=RNG.random((5, 16, 16)))


class TestSpectra(UDFLaws):
    udf = ls.udfs.FrameTotals
    n_sig = 1
