"""`libstream rerun`: repeat a stored result from its record and say whether the same comes out."""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import inspect
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from libstream import api, registry
from libstream.cli._one import Outcome, Setup, process
from libstream.cli._udfargs import udf_class
from libstream.cli.command import FAILED, INTERRUPTED, OK, Command, say, say_json, tell
from libstream.cli.progress import Progress
from libstream.cli.recipe import Recipe
from libstream.errors import FormatError, LibstreamError, UsageError

_EXAMPLES = """\
  libstream rerun adf.h5                          repeats it; exit code 0 if all is equal, 1 if not
  libstream rerun adf.h5 --source /new/scan.mib   the data have moved
  libstream rerun mine.h5 --allow-code            was made with a UDF that is not installed: run its code"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", metavar="RESULT", type=Path, help="result file (.h5) of an earlier run")
    parser.add_argument("--source", metavar="FILE", help="where the data are now, if not where they were")
    parser.add_argument("--allow-code", action="store_true", help="load and run UDFs that are not installed, from their module or file")
    parser.add_argument("--executor", metavar="NAME", default="threads", help="threads (default), inline, processes")
    parser.add_argument("-o", dest="output", metavar="FILE", type=Path, help="keep the new result")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
    old = api.load_result(args.result)
    record = old.run
    if not record.get("udfs") or not record.get("source"):
        raise FormatError(f"{args.result} holds no record of its run, so it cannot be repeated")
    file = _source_of(record, args)
    said: list[str] = []
    udfs = api.rebuild(old, lambda key, entry: _class_of(key, entry, allow_code=args.allow_code, said=said))
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record["source"].get("open", {}).items()}
    roi, corrections = api.stored_roi(old), api.stored_corrections(old)
    said += _notes(old, api.open(file, **options), udfs, roi, corrections)
    if not args.json:
        for line in said:
            tell(f"libstream: note: {line}")
    outcome = Outcome(file, output=args.output)
    with Progress(args.result.name) as progress:
        import threading

        process(outcome, Setup(Recipe(open=options), udfs, roi, corrections, args.executor), progress, threading.Event())
    if outcome.error is not None:
        raise outcome.error
    if outcome.status == "interrupted" or outcome.result is None:
        tell(f"libstream: interrupted: {outcome.message}")
        return INTERRUPTED
    return _verdict(args, old, outcome.result, said)


def _source_of(record: Mapping[str, Any], args: argparse.Namespace) -> str:
    if args.source:
        return str(args.source)
    source = record["source"]
    uri = str(source.get("uri", ""))
    if "://" in uri:
        return uri
    beside = args.result.parent / Path(uri).name
    for candidate in (source.get("path") or uri, uri, str(beside)):
        if candidate and Path(candidate).is_file():
            return str(candidate)
    if source.get("kind") == "memory":
        raise UsageError(f"{args.result} was made from an array in memory, which is gone; pass the data as --source FILE")
    raise UsageError(f"the data of {args.result} are not at {source.get('path') or uri}; say where they are: --source FILE")


def _notes(old: Any, source: Any, udfs: Any, roi: Any, corrections: Any) -> list[str]:
    """What is not as it was, in words."""
    changed = api.differences(old.run, source, udfs, old.params.get("run/roi"), corrections)
    notes = [f"not as it was: {what}" for what in changed if what != "options of opening"]
    if unseen := old.coverage.counts["unseen"]:
        notes.append(f"the result is incomplete ({unseen:,} positions unseen); only the positions that it has are repeated")
    versions = {n: importlib.metadata.version(n) for n in ("numpy", "numba", "h5py")} | {"python": platform.python_version()}
    versions["libstream"] = importlib.metadata.version("libstream")
    then = {**old.run.get("packages", {}), "libstream": old.run.get("libstream", "?")}
    notes += [f"{name} {then[name]} then, {now} now" for name, now in versions.items() if then.get(name, now) != now]
    return notes


# -- code --------------------------------------------------------------------------------------------------------------


def _class_of(key: str, entry: Mapping[str, Any], *, allow_code: bool, said: list[str]) -> type[Any]:
    """The class of a recorded UDF: an installed one, or with `allow_code` one from its module or file."""
    name, where = str(entry.get("name", "")), str(entry.get("class", ""))
    for plugin in registry.plugins("udfs"):
        if plugin.value == where or plugin.name == name:
            cls: type[Any] = registry.load("udfs", plugin.name)
            if f"{cls.__module__}:{cls.__qualname__}" == where:
                if not cls.dry_run and not allow_code:
                    raise UsageError(f"UDF {key} ({name}) writes files of its own; --allow-code repeats that too: {entry.get('params')}")
                return cls
    module, _, qualname = where.partition(":")
    file = str(entry.get("file") or "")
    if module == "__main__" or not qualname or "<" in qualname or "." in qualname:
        raise LibstreamError(f"UDF {key}: {where} was made in a notebook, a script or a function, so its code cannot be found again")
    digest = str(entry.get("source_sha256", ""))
    if not allow_code:
        place = f" from {file}" if file else ""
        raise UsageError(
            f"UDF {key} is {where}{place} (sha256 of its code {digest[:16] or 'unknown'}), which is not installed; "
            "--allow-code loads and runs it, if you trust it"
        )
    from_file = module.startswith("libstream_file_")
    spec = f"{file}:{qualname}" if from_file else where
    if from_file and not Path(file).is_file():
        raise LibstreamError(f"UDF {key}: its code was in {file}, which is not there any more")
    whole = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else "unknown"
    tell(f"libstream: loading code: UDF {key} = {spec}, file {file or '?'}, sha256 of the file {whole}")
    found = udf_class(spec)
    try:
        now = hashlib.sha256(inspect.getsource(found).encode()).hexdigest()
    except (OSError, TypeError):
        now = ""
    if digest and now != digest:
        said.append(f"the code of UDF {key} was changed since (sha256 {digest[:16]} then, {now[:16] or 'unknown'} now)")
    return found


# -- words -------------------------------------------------------------------------------------------------------------

_WORD = {"equal": "equal", "rounding": "equal to rounding", "different": "NOT EQUAL"}


def _verdict(args: argparse.Namespace, old: Any, new: Any, said: list[str]) -> int:
    rows = api.compare(old, new)
    coverage = "" if old.coverage.counts["unseen"] else _coverage_difference(old.coverage.status, new.coverage.status)
    equal = not coverage and all(row.verdict != "different" for row in rows)
    if args.json:
        outputs = [{"key": r.key, "output": r.output, "verdict": r.verdict, "why": r.why, "largest": r.largest} for r in rows]
        say_json({"result": args.result, "equal": equal, "outputs": outputs, "coverage": coverage, "notes": said})
    else:
        for row in rows:
            say(f"{row.key}/{row.output}: {_WORD[row.verdict]}{f': {row.why}' if row.verdict == 'different' else ''}")
        if coverage:
            say(f"coverage: NOT EQUAL: {coverage}")
        reason = f" ({'; '.join(said)})" if said and not equal else ""
        say(f"{args.result}: {'equal' if equal else f'not equal{reason}'}")
    return OK if equal else FAILED


def _coverage_difference(then: Any, now: Any) -> str:
    if then.shape != now.shape:
        return f"the scan was {then.shape} then and is {now.shape} now"
    n = int((then != now).sum())
    return f"{n:,} positions have another status" if n else ""


COMMAND = Command("repeat a stored result and say whether it comes out equal", _configure, _run, _EXAMPLES)
