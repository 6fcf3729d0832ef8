"""The built-in detectors pass the tests that every detector has to pass."""

from __future__ import annotations

from libstream.io_backends.streams.dectris import Dectris
from libstream.io_backends.streams.merlin import Merlin
from libstream.io_backends.streams.own import Own
from libstream.io_backends.streams.sectors import Sectors
from libstream.testing import DetectorTests


class TestDectrisV1(DetectorTests):
    kind = Dectris
    addresses = ("dectris://127.0.0.1:{port}", "dectris://127.0.0.1:{port}")
    dtypes = ("uint16", "uint8", "uint32")


class TestDectrisV2(DetectorTests):
    kind = Dectris
    addresses = ("dectris://127.0.0.1:{port}?version=2", "dectris://127.0.0.1:{port}")
    dtypes = ("uint16", "uint8", "uint32")


class TestMerlin(DetectorTests):
    kind = Merlin
    addresses = ("merlin://127.0.0.1:{port}", "merlin://127.0.0.1:{port}")
    shape = (3, 4, 256, 256)
    ordered = True


class TestOwn(DetectorTests):
    kind = Own
    addresses = ("libstream://127.0.0.1:{port}", "libstream://127.0.0.1:{port}")
    detector_binds = False
    dtypes = ("uint16", "uint8", "uint32", "float32")


class TestSectors(DetectorTests):
    kind = Sectors
    addresses = ("sectors://127.0.0.1:{port}-{port4}?info={port5}", "sectors://127.0.0.1:{port}-{port4}?info={port5}")
    detector_binds = False
    shape = (3, 4, 576, 576)
    sectors = 4
    mutations = 1000
