"""The executor for Dask passes the kit; workers are processes of this computer."""

from __future__ import annotations

from typing import Any

import pytest

from libstream.executors.dask import DaskExecutor
from libstream.testing import ExecutorTests


@pytest.mark.leaves("files", "connections between the parts of a cluster that lives on")
class TestDask(ExecutorTests):
    wait_s = 60.0

    def make(self) -> Any:
        return DaskExecutor(workers=2)
