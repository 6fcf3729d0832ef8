"""A stored record against what would run now: is it the same run, how is it repeated, are the results equal?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.contracts.params import make, to_json, validated
from libstream.contracts.source import FrameSource
from libstream.contracts.udf import UDF
from libstream.errors import FormatError, UsageError
from libstream.model.array import digest_of
from libstream.model.corrections import Corrections
from libstream.model.ragged import Ragged
from libstream.model.result import Result
from libstream.plan.roi import as_mask
from libstream.run.bind import OnChannel
from libstream.run.stamp import source_digest

_Arr = np.ndarray[Any, Any]
ROUNDING = 1e-12
"""Relative difference up to which float results of differently cut runs agree (the merge tree follows the cuts)."""


# -- the same run? -----------------------------------------------------------------------------------------------------


def differences(
    record: Mapping[str, Any],
    source: FrameSource,
    udfs: Mapping[str, UDF | OnChannel],
    roi: Any = None,
    corrections: Corrections | None = None,
) -> list[str]:
    """What of the stored `record` is not as it would be now, in words; empty where the run would be the same.

    Reads no frame and compiles nothing. Executor, host, plan and versions of packages are not compared.
    """
    meta = source.meta
    old = record.get("source", {})
    out = []
    if not meta.id.fingerprint or old.get("fingerprint") != meta.id.fingerprint or old.get("n_bytes") != meta.id.n_bytes:
        out.append("the data are not those of the result (fingerprint)")
    if old.get("shape") != {"nav": list(meta.shape.nav), "sig": list(meta.shape.sig)} or old.get("dtype") != meta.dtype.str:
        out.append("shape or dtype of the data")
    if old.get("open", {}) != to_json(dict(source.opened)):
        out.append("options of opening")
    axes = [{"name": a.name, "size": a.size, "step": a.step, "offset": a.offset, "unit": a.unit} for a in meta.axes]
    if record.get("calibration") != axes:
        out.append("calibration")
    stored = record.get("udfs", {})
    if list(stored) != list(udfs):
        out.append(f"UDFs: {', '.join(stored)} then, {', '.join(udfs)} now")
    else:
        for key, given in udfs.items():
            out += [f"{what} of {key}" for what in _udf_differences(stored[key], given, source.channel_name)]
    mask = as_mask(roi, meta.shape.nav)
    now = None if mask is None else digest_of([("roi", mask)])
    if (record.get("roi") or {}).get("digest") != now:
        out.append("region of interest")
    if (record.get("corrections") or {}).get("digest") != (corrections.digest if corrections else None):
        out.append("corrections")
    return out


def _udf_differences(old: Mapping[str, Any], given: UDF | OnChannel, channel: str) -> list[str]:
    udf, channel = (given.udf, given.channel) if isinstance(given, OnChannel) else (given, channel)
    cls = type(udf)
    out = []
    if old.get("class") != f"{cls.__module__}:{cls.__qualname__}":
        out.append("class")
    elif old.get("version") != udf.version or old.get("source_sha256") != source_digest(cls):
        out.append("code")
    if old.get("channel") != channel:
        out.append("channel")
    # as they are recorded: a default of 0 is 0 px where lengths may have units
    params = {n: to_json(v) for n, v in validated(udf).parameters().items()}
    if old.get("params") != params:
        changed = [n for n in params if (old.get("params") or {}).get(n) != params[n]]
        out.append(f"parameter {', '.join(changed)}" if changed else "parameters")
    return out


# -- run it again ------------------------------------------------------------------------------------------------------


def rebuild(result: Result, load: Callable[[str, Mapping[str, Any]], type[UDF]]) -> dict[str, UDF | OnChannel]:
    """The UDFs of a stored result, by key. `load(key, record of the UDF)` gives the class.

    Raises FormatError where the record is incomplete, ParameterError where a parameter is not allowed any more.
    """
    source = result.run.get("source", {})
    default = source.get("open", {}).get("channel")
    out: dict[str, UDF | OnChannel] = {}
    for key, entry in result.run.get("udfs", {}).items():
        values = {n: _value(v, result.params, f"{key}/{n}") for n, v in entry.get("params", {}).items()}
        udf = make(load(key, entry), values)
        first = next(iter(result.run["udfs"].values())).get("channel")
        differs = entry.get("channel") not in (None, default) and (default is not None or entry.get("channel") != first)
        out[key] = OnChannel(entry["channel"], udf) if differs else udf
    if not out:
        raise FormatError("this result has no record of its UDFs, so it cannot be repeated")
    return out


def _value(value: Any, arrays: Mapping[str, _Arr], name: str) -> Any:
    if isinstance(value, Mapping) and "array" in value:
        if name not in arrays:
            raise FormatError(f"array parameter {name} is not in the result file, so the run cannot be repeated")
        return arrays[name]
    if isinstance(value, Mapping) and "object" in value:
        raise FormatError(
            f"parameter {name} was the Python object {value['object']}, of which the file has the text only; run it from Python again"
        )
    if isinstance(value, Mapping) and set(value) == {"complex"}:
        return complex(*value["complex"])
    if isinstance(value, list):
        return [_value(v, arrays, name) for v in value]
    return value


def stored_roi(result: Result) -> _Arr | None:
    """Region of interest of a stored result; of an incomplete one the positions that it has. None = all."""
    roi = result.params.get("run/roi")
    if not result.coverage.counts["unseen"]:
        return None if roi is None else np.asarray(roi, bool)
    return result.valid


def stored_corrections(result: Result) -> Corrections | None:
    """Corrections of a stored result. Raises UsageError where their arrays are not in the file."""
    if not result.run.get("corrections"):
        return None
    arrays = {name: result.params.get(f"corrections/{name}") for name in ("dark", "gain", "excluded")}
    found = Corrections(**arrays)
    if found.digest != result.run["corrections"].get("digest"):
        raise UsageError("the corrections in the result file are not those of its record; the file was changed")
    return found


# -- equal? ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """One output of two runs. verdict: "equal" (same bits), "rounding" (floats within 1e-12), "different".

    why: a sentence, "" where equal. largest: largest relative difference, 0.0 where equal, NaN where there is none to tell.
    """

    key: str
    output: str
    verdict: str
    why: str = ""
    largest: float = 0.0


def compare(old: Result, new: Result) -> list[Comparison]:
    """Every output of `old` against that of `new`, NaN equal to NaN."""
    out = []
    for key, outputs in old.udfs.items():
        for name, a in outputs.items():
            if key not in new.udfs or name not in new.udfs[key]:
                out.append(Comparison(key, name, "different", "the new run has no such output", np.nan))
            else:
                out.append(_compare(key, name, a, new.udfs[key][name]))
    for key, outputs in new.udfs.items():
        out += [
            Comparison(key, n, "different", "the stored result has no such output", np.nan)
            for n in outputs
            if n not in old.udfs.get(key, {})
        ]
    return out


def _compare(key: str, name: str, a: Any, b: Any) -> Comparison:
    if isinstance(a, Ragged) and isinstance(b, Ragged):
        if a == b:
            return Comparison(key, name, "equal")
        n = int((a.counts != b.counts).sum()) if a.nav == b.nav else -1
        why = (
            f"number of records differs at {n:,} positions"
            if n > 0
            else "same numbers of records, other values"
            if n == 0
            else "other scan"
        )
        return Comparison(key, name, "different", why, np.nan)
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return Comparison(key, name, "different", f"{a.shape} {a.dtype} then, {b.shape} {b.dtype} now", np.nan)
    if a.dtype.kind not in "fc":
        unequal = (
            int((a != b).sum()) if a.dtype.names is None else int((a.view(f"V{a.dtype.itemsize}") != b.view(f"V{b.dtype.itemsize}")).sum())
        )
        if not unequal:
            return Comparison(key, name, "equal")
        largest = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) if a.dtype.kind in "iub" else np.nan
        words = f", by at most {largest:g}" if a.dtype.kind in "iu" else ""
        return Comparison(key, name, "different", f"{unequal:,} of {a.size:,} values differ{words}", largest)
    if np.array_equal(a, b, equal_nan=True):
        return Comparison(key, name, "equal")
    with np.errstate(invalid="ignore", over="ignore"):
        here = np.isfinite(a) & np.isfinite(b)
        same_holes = np.array_equal(np.where(here, 0, a), np.where(here, 0, b), equal_nan=True)
        scale = float(np.abs(a[here]).max()) if here.any() else 0.0
        gap = np.abs(a[here] - b[here])
        largest = float(gap.max() / scale) if here.any() and scale else float(gap.max()) if here.any() else np.nan
    if same_holes and largest <= ROUNDING:
        return Comparison(key, name, "rounding", f"equal to rounding (largest relative difference {largest:.1e})", largest)
    unequal = int((~((a == b) | ((a != a) & (b != b)))).sum())
    holes = "" if same_holes else ", and not the same positions have values"
    return Comparison(
        key, name, "different", f"{unequal:,} of {a.size:,} values differ, by at most {largest:.1e} of the largest{holes}", largest
    )
