"""Analyses of frames obey the laws: any cut, order, nesting and layout gives the same."""

from __future__ import annotations

from libstream.testing.laws import UDFLaws
from libstream.udfs.com import CenterOfMass
from libstream.udfs.fem import FEM
from libstream.udfs.frames import Pick
from libstream.udfs.histogram import FrameHistogram
from libstream.udfs.maxima import LocalMaxima
from libstream.udfs.radial import RadialProfile


class TestCenterOfMass(UDFLaws):
    udf = CenterOfMass(descan="plane", scan_rotation_deg=20.0)
    dtypes = ("uint16", "float32")


class TestCenterOfMassOfARing(UDFLaws):
    udf = CenterOfMass(centre=(7, 8.5), radius=6, inner=2, descan="parabola", flip_y=True)
    dtypes = ("int16",)


class TestRadialProfile(UDFLaws):
    udf = RadialProfile()
    dtypes = ("uint16", "float32")


class TestRadialWaves(UDFLaws):
    udf = RadialProfile(bin_width=1.7, outer=7, max_order=3, antialias=True)


class TestFEM(UDFLaws):
    udf = FEM(inner=2, outer=6)
    dtypes = ("uint16", "float32")


class TestFrameHistogram(UDFLaws):
    udf = FrameHistogram(low=0, high=50, bins=7)
    dtypes = ("uint8", "float32")


class TestFrameHistogramOfEachFrame(UDFLaws):
    udf = FrameHistogram(low=0, high=50, bins=7, per_frame=True)
    dtypes = ("uint16",)


class TestLocalMaxima(UDFLaws):
    udf = LocalMaxima(threshold=2, min_distance=3, edge=1)
    dtypes = ("uint16", "float32")


class TestPick(UDFLaws):
    udf = Pick(positions=[[0, 0], [7, 3], [0, 0], [4, 4]])
