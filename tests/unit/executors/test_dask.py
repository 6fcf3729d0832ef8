"""The executor for Dask passes the kit; workers are processes of this computer."""

from __future__ import annotations

from typing import Any

import pytest

from libstream.errors import UsageError
from libstream.executors.dask import DaskExecutor
from libstream.testing import ExecutorTests

CONNECTIONS = "connections between the parts of a cluster that lives on"


@pytest.mark.leaves("files", CONNECTIONS)
class TestDask(ExecutorTests):
    wait_s = 60.0

    def make(self) -> Any:
        return DaskExecutor(workers=2)


@pytest.mark.leaves("files", CONNECTIONS)
class TestDaskMerging(ExecutorTests):
    """Everything is merged on the workers and fetched as a whole."""

    wait_s = 60.0

    def make(self) -> Any:
        return DaskExecutor(workers=2, combine_bytes=0, snapshot_s=0.2)


def test_at_least_one_worker() -> None:
    with pytest.raises(UsageError, match=r"workers must be >= 1, got 0"):
        DaskExecutor(workers=0)


def test_a_cluster_has_the_workers_that_it_has() -> None:
    with pytest.raises(UsageError, match="starts processes on this computer"):
        DaskExecutor(workers=2, address="host:8786")
