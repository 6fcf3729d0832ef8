"""`libstream run`: UDFs over one file or many, saved, drawn, repeatable."""

from __future__ import annotations

import argparse
import glob
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from libstream import registry
from libstream.cli._executorargs import add_executor_arguments, count, opened_executor, show_job
from libstream.cli._one import Outcome, Setup, process, speed, statistics
from libstream.cli._openargs import add_open_arguments
from libstream.cli._udfargs import add_udf_arguments, make_udfs
from libstream.cli.command import FAILED, INTERRUPTED, OK, WRONG_USAGE, Command, n_of, say, say_json, tell
from libstream.cli.main import report
from libstream.cli.progress import Progress
from libstream.cli.recipe import Recipe
from libstream.errors import UsageError

_EXAMPLES = """\
  libstream run scan.mib --udf VirtualDetector -p inner=30 -p outer=80 -o adf.h5 --plot adf.png
  libstream run scan.mib --udf adf=VirtualDetector -p inner=30 --udf CenterOfMass -o out.h5     several in one pass
  libstream run scan.mib --udf mine.py:Brightest -p threshold=50 -o out.h5                      a UDF of your own
  libstream run raw.bin --format raw --dtype u2 --frame 256,256 --scan 64,64 --udf Sum -o sum.h5
  libstream run scan.mib --udf Sum -o sum.h5 --executor slurm --nodes 4 --slurm-config cluster.toml
  libstream run *.mib --recipe recipe.toml -o results/{stem}.h5 --resume                        many files; again, only what is missing

templates of -o and --plot: {stem} scan, {name} scan.mib, {parent} its folder, {index} or {index:04} number of the file

a recipe (options on the command line win, its --udf come after those of the recipe):
  executor = "threads"
  output = "results/{stem}.h5"
  roi = "mask.npy"                       # arrays: .npy or file.h5:/dataset, beside the recipe
  [open]
  scan = [256, 256]
  pixel = "0.9 mrad"
  [corrections]
  dark = "dark.npy"
  [[udf]]
  name = "VirtualDetector"
  key = "adf"
  params = { inner = 30, outer = 80 }"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="data to process")
    add_udf_arguments(parser)
    parser.add_argument("--recipe", metavar="TOML", help="what to do, from a file")
    out = parser.add_argument_group("results")
    out.add_argument("-o", dest="output", metavar="FILE", help="result file (.h5); with many files a template: results/{stem}.h5")
    out.add_argument("--plot", metavar="FILE", help="draw all results (.png, .pdf, .svg), may be a template too")
    out.add_argument("--json", action="store_true", help="print a summary as JSON")
    out.add_argument("--explain", action="store_true", help="say how the data are cut and why; without -o and --plot, nothing is run")
    out.add_argument("--profile", action="store_true", help="say where the time went")
    add_open_arguments(parser)
    how = parser.add_argument_group("how to run")
    how.add_argument("--roi", metavar="FILE", help="positions to process: bool array of the scan's shape (.npy or file.h5:/dataset)")
    how.add_argument("--dark", metavar="FILE", help="array of the frame's shape that is subtracted")
    how.add_argument("--gain", metavar="FILE", help="array of the frame's shape to multiply with")
    how.add_argument("--excluded", metavar="FILE", help="bad pixels (bool, frame's shape), replaced by the mean of their good neighbours")
    add_executor_arguments(how)
    many = parser.add_argument_group("many files")
    many.add_argument("--resume", action="store_true", help="skip files whose result is there, complete, of the same data and run")
    many.add_argument("--jobs", type=count, default=1, metavar="N", help="files at the same time (default: 1)")


def _run(args: argparse.Namespace) -> int:
    recipe = (Recipe.load(args.recipe) if args.recipe else Recipe()).with_arguments(args)
    if args.dry_run:
        return show_job(recipe.executor, args)
    files = expand_files(args.files)
    outcomes = [Outcome(f) for f in files]
    _place(outcomes, recipe, args.resume)
    if recipe.plot is not None:
        from libstream.cli.plot import check_available

        for outcome in outcomes:
            check_available(outcome.plot or "")
    udfs = make_udfs(recipe.udfs)
    silent = not (recipe.output or recipe.plot or args.json or args.profile)
    args.workers = recipe.workers
    with opened_executor(recipe.executor, args) as executor:
        setup = Setup(
            recipe, udfs, recipe.load_roi(), recipe.load_corrections(), executor,
            resume=args.resume, explain=args.explain, explain_only=args.explain and silent, profile=args.profile,
        )  # fmt: skip
        _process_all(outcomes, setup, args)
    return _finish(outcomes, args, warn_unsaved=silent and not args.explain)


# -- files -------------------------------------------------------------------------------------------------------------


def expand_files(given: list[str]) -> list[str]:
    """Files in the order given; patterns (*.mib) that no shell has expanded are expanded here, sorted."""
    out: list[str] = []
    for name in given:
        if "://" not in name and not Path(name).exists() and glob.has_magic(name):
            found = sorted(glob.glob(name, recursive=True))
            if not found:
                raise UsageError(f"no file matches {name}")
            out += found
        else:
            out.append(name)
    return list(dict.fromkeys(out))


def fill_template(template: str, file: str, index: int, **more: Any) -> Path:
    """`template` with {stem}, {name}, {parent}, {index} of a file (or {index} and `more`). Raises UsageError for other words in braces."""
    path = Path(re.sub(r"[^\w.=-]+", "_", file).strip("_")) if "://" in file else Path(file)
    words: dict[str, Any] = {"stem": path.stem, "name": path.name, "parent": str(path.parent)} if not more else dict(more)
    words["index"] = index

    def word(match: re.Match[str]) -> str:
        name, form = match[1], match[2] or ""
        if name not in words:
            raise UsageError(f"{template}: {{{name}}} is unknown; known are {', '.join(f'{{{w}}}' for w in words)}")
        try:
            return format(words[name], form)
        except ValueError as exc:
            raise UsageError(f"{template}: {{{name}:{form}}}: {exc}") from exc

    return Path(re.sub(r"\{(\w*)(?::([^{}]*))?\}", word, template))


def _place(outcomes: list[Outcome], recipe: Recipe, resume: bool) -> None:
    """Give every file its output and picture, and refuse what would overwrite something."""
    if resume and recipe.output is None:
        raise UsageError("--resume looks at results of an earlier run, so it needs -o")
    for attribute, template, option in (("output", recipe.output, "-o"), ("plot", recipe.plot, "--plot")):
        if template is None:
            continue
        taken: dict[Path, str] = {}
        for number, outcome in enumerate(outcomes, 1):
            path = fill_template(template, outcome.file, number)
            if path in taken:
                hint = "{stem}" if "{" not in template else "{parent} or {index}"
                both = f"{taken[path]} and {outcome.file}"
                raise UsageError(f"{option} {template}: {both} would both be written to {path}; put {hint} into it")
            if any(path.exists() and Path(o.file).exists() and path.samefile(o.file) for o in outcomes):
                raise UsageError(f"{option} {path} is one of the files to be processed, it would be overwritten")
            taken[path] = outcome.file
            setattr(outcome, attribute, path)
            if attribute == "output":
                _check_ending(path)


def _check_ending(path: Path) -> None:
    known = [suffix for p in registry.plugins("sinks") for suffix in registry.load("sinks", p.name).suffixes]
    if path.suffix.lower() not in known:
        raise UsageError(f"-o {path}: nobody writes results with the ending {path.suffix!r}; write {path.stem}{known[0]}")


# -- work --------------------------------------------------------------------------------------------------------------


def _process_all(outcomes: list[Outcome], setup: Setup, args: argparse.Namespace) -> None:
    stop = threading.Event()
    if args.jobs == 1 or len(outcomes) == 1:
        for number, outcome in enumerate(outcomes, 1):
            label = Path(outcome.file).name if "://" not in outcome.file else outcome.file
            label = f"{number} of {len(outcomes)}: {label}" if len(outcomes) > 1 else label
            try:
                with Progress(label) as progress:
                    process(outcome, setup, progress, stop)
            except KeyboardInterrupt:
                stop.set()
                saving = "while it was saved, nothing was written" if outcome.result is not None else "nothing was computed yet"
                outcome.status, outcome.message = "interrupted", saving
            _say_outcome(outcome, args, len(outcomes))
            if stop.is_set():
                return
        return
    with Progress(f"{len(outcomes)} files") as progress, ThreadPoolExecutor(args.jobs, thread_name_prefix="libstream-file") as pool:

        def work(outcome: Outcome) -> None:
            if not stop.is_set():
                process(outcome, setup, progress, stop)

        waiting = [pool.submit(work, o) for o in outcomes]
        for outcome, future in zip(outcomes, waiting, strict=True):
            while True:
                try:
                    future.result()
                    break
                except KeyboardInterrupt:
                    stop.set()
            if outcome.status != "not started":
                _say_outcome(outcome, args, len(outcomes), progress)


def _say_outcome(outcome: Outcome, args: argparse.Namespace, n_files: int, progress: Progress | None = None) -> None:
    """Errors to stderr at once; a line for each of many files."""
    if outcome.error is not None:
        report(outcome.error, debug=args.debug, about=outcome.file if n_files > 1 else "")
        if outcome.result is not None:
            tell(f"libstream: what was computed before is kept: {outcome.message}")
    elif outcome.status == "interrupted":
        tell(f"libstream: interrupted: {outcome.file}: {outcome.message}")
    elif n_files > 1 and not args.json:
        what = f"skipped: {outcome.message}" if outcome.status == "skipped" else speed(outcome)
        saved = f" -> {outcome.output}" if outcome.output is not None and outcome.status == "done" else ""
        (progress.message if progress is not None else tell)(f"{outcome.file}: {what}{saved}")


# -- words at the end --------------------------------------------------------------------------------------------------


def _finish(outcomes: list[Outcome], args: argparse.Namespace, *, warn_unsaved: bool) -> int:
    count = {s: sum(o.status == s for o in outcomes) for s in ("done", "skipped", "failed", "interrupted", "not started")}
    if args.json:
        say_json({"files": [_json(o, profile=args.profile) for o in outcomes], **count})
    else:
        for outcome in outcomes:
            if outcome.explained:
                say(outcome.explained)
            if args.profile and outcome.profile:
                say(_profile_table(outcome))
        if len(outcomes) > 1:
            rest = [f"{n} {s}" for s, n in count.items() if n]
            say(f"{n_of(len(outcomes), 'file')}: {', '.join(rest)}")
        else:
            _say_result(outcomes[0])
    if warn_unsaved and count["done"]:
        tell("libstream: note: nothing was saved; pass -o out.h5 to keep the result, --plot out.png to see it")
    if count["interrupted"] or count["not started"]:
        if len(outcomes) > 1:
            ready = count["done"] + count["skipped"]
            tell(f"libstream: interrupted: {ready} of {len(outcomes)} files are done; --resume goes on from here")
        return INTERRUPTED
    if len(outcomes) == 1 and isinstance(outcomes[0].error, UsageError):
        return WRONG_USAGE
    return FAILED if count["failed"] else OK


def _say_result(outcome: Outcome) -> None:
    if outcome.status == "skipped":
        say(f"{outcome.file}: skipped: {outcome.message}")
    if outcome.result is None:
        return
    say(f"{outcome.file}: {speed(outcome)}")
    if not outcome.result.complete:
        say(f"  incomplete: {outcome.result.coverage}")
    for key, outputs in outcome.result.udfs.items():
        for name, data in outputs.items():
            say(f"  {_described(key, name, outputs, data)}")
    for path in (outcome.output, outcome.plot):
        if path is not None:
            say(f"  -> {path}")


def _described(key: str, name: str, outputs: Any, data: Any) -> str:
    found = statistics(data)
    unit = outputs.declared[name].unit if name in outputs.declared else ""
    text = f"{key}/{name}: {tuple(found['shape'])} {found['dtype']}{f' [{unit}]' if unit else ''}"
    if "records" in found:
        return f"{text}, {n_of(found['records'], 'record')}, at most {found['most_records']} at a position"
    if "min" in found:
        text += f", {found['min']:.6g} to {found['max']:.6g}, mean {found['mean']:.6g}" if found["shape"] else f" = {found['mean']:.6g}"
    return text


def _profile_table(outcome: Outcome) -> str:
    total = sum(outcome.profile.values()) or 1.0
    head = f"{outcome.file}: {outcome.ready_s:.3f} s to get ready (checks, compilation), {outcome.run_s:.3f} s for the frames"
    rows = [f"{head}; of these, summed over workers:"]
    for name, seconds in sorted(outcome.profile.items(), key=lambda item: -item[1]):
        rows.append(f"  {name:<24} {seconds:9.3f} s  {100 * seconds / total:5.1f} %")
    return "\n".join(rows)


def _json(outcome: Outcome, *, profile: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"file": outcome.file, "status": outcome.status, "message": outcome.message}
    out |= {"output": outcome.output, "plot": outcome.plot, "frames": outcome.frames, "seconds": outcome.seconds}
    if outcome.error is not None:
        out["error"] = type(outcome.error).__name__
    if outcome.explained:
        out["explain"] = outcome.explained.splitlines()
    if profile:
        out["profile"] = {"ready": outcome.ready_s, "run": outcome.run_s, "workers": outcome.profile}
    if outcome.result is not None:
        result = outcome.result
        out |= {"complete": result.complete, "coverage": result.coverage.counts}
        out["results"] = {
            key: {n: {**statistics(d), "unit": o.declared[n].unit if n in o.declared else ""} for n, d in o.items()}
            for key, o in result.udfs.items()
        }
    return out


COMMAND = Command("run UDFs over files, save and draw the results", _configure, _run, _EXAMPLES)
