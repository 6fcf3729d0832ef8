"""Runs from asyncio: the event loop stays free, cancelling the task cancels the run."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import libstream as ls
from libstream.testing.sources import ScriptedSource, gated
from tests.unit.run.test_job import CUT, FRAMES, LIMIT_S, Level, until


def test_asyncio() -> None:
    async def main() -> tuple[Any, list[Any]]:
        result = await ls.arun(ScriptedSource(FRAMES, CUT), {"u": Level(level=2.0)})
        seen = [r async for r in ls.arun_iter(ScriptedSource(FRAMES, CUT), {"u": Level(level=3.0)})]
        return result, seen

    result, seen = asyncio.run(main())
    assert result["sum"] == 128.0
    assert seen[-1].complete
    assert seen[-1]["sum"] == 192.0


def test_cancelling_the_task_cancels_the_run() -> None:
    gate = threading.Event()
    source = ScriptedSource(FRAMES, CUT, gated(3, gate, LIMIT_S))
    job_threads = lambda: [t for t in threading.enumerate() if t.name == "libstream-run"]  # noqa: E731

    async def main() -> None:
        task = asyncio.create_task(ls.arun(source, Level()))
        while not job_threads():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    until(lambda: not job_threads(), "the run goes on after its task was cancelled")
    gate.set()
