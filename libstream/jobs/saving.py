"""Results of several runs as one, and files made of them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from libstream.errors import UsageError
from libstream.model.partial import PROCESSED, Coverage
from libstream.model.result import Result


def combined(results: Sequence[tuple[set[str], Result]], ids: Sequence[str]) -> Result:
    """One `Result` of the analyses `ids` out of several runs over the same source.

    Its coverage is what all of them have processed. Raises UsageError where there is nothing to save.
    """
    parts = [(keep, r) for keep, r in ((have & set(ids) & set(r.udfs), r) for have, r in results) if keep]
    if not parts:
        raise UsageError("there are no results yet")
    found = {id: r for keep, r in parts for id in keep}
    order = [id for id in ids if id in found]
    first = found[order[0]]
    status = first.coverage.status
    for _, other in parts:
        lacking = (status == PROCESSED) & (other.coverage.status != PROCESSED)
        if lacking.any():
            status = np.where(lacking, other.coverage.status, status)
    coverage = Coverage(status)
    run = {
        **first.run,
        "udfs": {id: found[id].run.get("udfs", {}).get(id, {}) for id in order},
        "coverage": coverage.counts,
        "failures": {id: found[id].failures[id] for id in order if id in found[id].failures},
    }
    if not run["failures"]:
        del run["failures"]
    shared = {k: v for k, v in first.params.items() if k.split("/")[0] in ("corrections", "run")}
    params = {k: v for id in order for k, v in found[id].params.items() if k.split("/")[0] == id}
    return replace(
        first, udfs={id: found[id].udfs[id] for id in order}, coverage=coverage, run=run, params={**shared, **params},
        final=all(found[id].final for id in order),
    )  # fmt: skip


def free_path(folder: Path, name: str, suffix: str = ".h5") -> Path:
    """A path in `folder` that does not exist: "<name>_<time>.h5", with a number where two come in one second."""
    stem = f"{safe(name)}_{time.strftime('%Y%m%d-%H%M%S')}"
    path = folder / f"{stem}{suffix}"
    n = 2
    while path.exists():
        path = folder / f"{stem}-{n}{suffix}"
        n += 1
    return path


def safe(name: str) -> str:
    """`name` as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("._")[:80] or "result"


def named(folder: Path, name: Any) -> Path:
    """The path that a user's `name` means: a plain name in `folder`, ending with .h5. Raises UsageError."""
    if not isinstance(name, str) or not name.strip() or len(name) > 120 or re.search(r"[\x00-\x1f/\\]", name) or name.startswith("."):
        raise UsageError(f"a file is saved under a plain name, without folders, got {name!r:.120}")
    path = folder / (name if name.lower().endswith((".h5", ".hdf5")) else f"{name}.h5")
    if path.exists():
        raise UsageError(f"{path} exists; choose another name")
    return path


def as_hdf5(result: Result) -> bytes:
    """The file that `Result.save` would write, in memory."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="libstream-") as folder:
        return result.save(Path(folder) / "results.h5").read_bytes()
