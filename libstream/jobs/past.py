"""A result that is looked at without its run: what a view needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libstream.contracts.udf import UDF
from libstream.jobs import sources
from libstream.jobs.analysis import DONE, Analysis
from libstream.jobs.outputs import axis_json
from libstream.model.result import Result


def analysis_of_result(result: Result, key: str, number: int) -> Analysis:
    """A result has no parameters that could be changed."""
    return Analysis(key, _udf_name(result, key), _Fixed(), key, colour=number, sent=1, state=DONE)


def _udf_name(result: Result, key: str) -> str:
    udfs = result.run.get("udfs")
    record = udfs.get(key) if isinstance(udfs, Mapping) else None
    return str(record.get("name", key)) if isinstance(record, Mapping) else key


class _Fixed(UDF):
    """Stands for a UDF that is over."""

    def outputs(self) -> dict[str, Any]:
        """None."""
        return {}

    def process_frame(self, frame: Any, out: Any) -> None:
        """Not called."""


def source_of_result(result: Result, number: int) -> dict[str, Any]:
    """A result's source as a part of the state: what can be known without its frames."""
    outputs = next(iter(result.udfs.values()), None)
    record = result.run.get("source")
    uri = str(record.get("uri", "")) if isinstance(record, Mapping) else ""
    nav, sig = (outputs.shape.nav, outputs.shape.sig) if outputs is not None else ((), (1, 1))
    return {
        "state": "ready", "kind": "result", "uri": uri, "name": sources.name_of(uri) if uri else "result", "format": None, "id": number,
        "error": None, "nav": list(nav), "sig": list(sig), "dtype": None, "bytes": None,
        "axes": [axis_json(a) for a in outputs.axes] if outputs is not None else [], "channels": [],
        "centre": [(n - 1) / 2 for n in sig], "centre_known": False, "rotation_deg": None, "notes": [], "options": {}, "frames": False,
        "sampled": 0,
    }  # fmt: skip
