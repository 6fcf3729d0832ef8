"""Ten thousand partitions: neither the client with its scheduler nor the workers keep what was merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import libstream as ls
from libstream.executors.dask import DaskExecutor
from libstream.testing.sources import ScriptedSource, cut_at
from tests.system.memory_probe import anonymous_mb, family

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc: Linux only")
LIMIT_MB = 40.0


class Image(ls.UDF):
    """A sum of 256 KiB from tiny frames: what would be seen if it were kept for each partition."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"image": ls.single("f8", (32768,)), "n": ls.nav("i8")}

    def process_frame(self, frame: np.ndarray, out: object) -> None:
        out.image += frame[0, 0]  # type: ignore[attr-defined]
        out.n[...] = 1  # type: ignore[attr-defined]


@pytest.mark.leaves("files", "connections within the process")
@pytest.mark.parametrize("n", [400, pytest.param(10_000, marks=pytest.mark.soak)])
def test_memory_is_flat(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libstream.executors._dask_run.TOGETHER", 1)  # each partition a task
    source = ScriptedSource(np.ones((n, 2, 2), "u2"), cut_at([1] * n))
    samples: list[tuple[int, float, float]] = []

    def look(progress: ls.Progress) -> None:
        if progress.n_done >= (samples[-1][0] if samples else 0) + n // 20:
            here, *workers = family()
            samples.append((progress.n_done, anonymous_mb(here), sum(map(anonymous_mb, workers))))

    ex = DaskExecutor(workers=2, snapshot_s=0.2)
    try:
        result = ls.start(source, Image(), executor=ex, progress=look).wait(600.0)
    finally:
        ex.close()
    assert result["image"]["image"].tolist() == [float(n)] * 32768
    assert len(samples) >= 5, "progress came too rarely"
    early = samples[len(samples) // 4]
    for what, i in (("the client and its scheduler", 1), ("the workers", 2)):
        grown = max(s[i] for s in samples) - early[i]
        assert grown < LIMIT_MB, f"{what}: {grown:.0f} MB between partition {early[0]} and {samples[-1][0]}: {samples}"
