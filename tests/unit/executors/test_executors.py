"""The built-in executors pass the kit, and what is special to each."""

from __future__ import annotations

from typing import Any

import pytest

from libstream.errors import UsageError
from libstream.executors.inline import InlineExecutor
from libstream.executors.processes import ProcessesExecutor
from libstream.executors.threads import ThreadsExecutor
from libstream.testing import ExecutorTests


class TestInline(ExecutorTests):
    def make(self) -> Any:
        return InlineExecutor()


class TestThreads(ExecutorTests):
    def make(self) -> Any:
        return ThreadsExecutor(workers=2)


class TestProcesses(ExecutorTests):
    wait_s = 40.0

    def make(self) -> Any:
        return ProcessesExecutor(workers=2)


@pytest.mark.parametrize("kind", [ThreadsExecutor, ProcessesExecutor])
def test_at_least_one_worker(kind: Any) -> None:
    with pytest.raises(UsageError, match=r"workers must be >= 1, got 0"):
        kind(workers=0)
