"""Which jobs are measured on which files by which sides, for each table."""

from __future__ import annotations

from collections.abc import Callable

from tests.bench import memory, overheads
from tests.bench.data import Files
from tests.bench.measure import LIMIT, LIMIT_ONE, ONE, OURS, PEER, SIDES, Bench, Entry
from tests.bench.results import Results
from tests.bench.spec import JOBS, OWN, VARIANTS

FEW = {"LiberTEM inline": 3, "py4DSTEM": 3, "dask.array": 3, "NumPy": 3}
"""Rounds of sides that take long: their spread does not decide anything."""

SMOKE = ("disk", "totals")
"""Jobs of a smoke run, beside the main table, which has all."""

TABLES = ("main", "threads", "mib", "dectris", "uint8", "uint32", "float32", "variants", "own", "memory", "overheads")


def measure(bench: Bench, files: Files, results: Results, only: set[str], *, smoke: bool, say: Callable[[str], None]) -> None:
    """Fill `results`. only: names of tables or jobs; empty for all."""
    tables = [t for t in TABLES if not only or t in only or not only & set(TABLES)]
    jobs = [j for j in JOBS if not only & {*JOBS, *OWN} or j in only]
    some = [j for j in jobs if j in SMOKE] if smoke else jobs
    own = [j for j in OWN if not only & {*JOBS, *OWN} or j in only or OWN[j][0] in only]

    def row(table: str, file: str, job: str, *entries: Entry) -> None:
        found = bench.row(files.get(file), job, entries, results.rounds, FEW)
        results.rows.setdefault(table, []).append(found)
        say(f"{table}: {job}: " + ", ".join(f"{label} {found.rate(label):.1f}" for label in found.seconds))

    def by(job: str, *sides: str) -> list[Entry]:
        return [Entry(s, s, job) for s in sides]

    if "main" in tables:
        for job in jobs:
            extra = [Entry("one mask", OURS, "mask")] if job == "masks16" else []
            row("main", "uint16", job, *by(job, *(s for s in SIDES if s not in (ONE, LIMIT_ONE))), *extra)
    if "threads" in tables:
        for job in some:
            row("threads", "uint16", job, *by(job, LIMIT, OURS, LIMIT_ONE, ONE))
    for file in ("mib", "dectris"):
        if file in tables:
            for job in some:
                row(file, file, job, *by(job, OURS, PEER))
    for file in ("uint8", "uint32", "float32"):
        if file in tables:
            for job in some:
                row(file, file, job, *by(job, LIMIT, OURS, PEER))
    if "variants" in tables:
        for job in some:
            row("variants", "uint16", job, *(Entry(f"{s}, {v}", s, job, v) for v in VARIANTS for s in (OURS, PEER)))
    if "own" in tables:
        for job in dict.fromkeys(OWN[name][0] for name in own):
            mine = [Entry(name, OURS, name) for name in own if OWN[name][0] == job]
            row("own", "uint16", job, *by(job, LIMIT, OURS), *mine)
    if "memory" in tables:
        memory.measure(files, results, smoke=smoke, say=say)
    if "overheads" in tables:
        overheads.measure(files, results, bench, smoke=smoke, say=say)
