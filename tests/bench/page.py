"""Tables in Markdown, and the page docs/reference/performance.md, of which a run replaces only what lies between its marks."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.measure import LIMIT, LIMIT_ONE, ONE, OURS, PEER, Row
from tests.bench.results import Results
from tests.bench.spec import ANONYMOUS, FACTOR_16, HALF, JOBS, LEAST_LIMIT, OWN, SCALING, VARIANTS

BEGIN, END = "<!-- tables: written by `make bench` -->", "<!-- end of tables -->"
OTHERS = ("LiberTEM inline", "py4DSTEM", "dask.array", "NumPy")
FILE_TITLES = {
    "mib": "Merlin MIB, raw 12 bit, quad (512 x 512): GB/s of file bytes",
    "dectris": "DECTRIS HDF5, bitshuffle-LZ4, one frame a chunk",
    "uint8": "uint8",
    "uint32": "uint32",
    "float32": "float32",
}
PEER_LIMITS = {"mib": 3.0, "dectris": 2.0}


def tables(results: Results) -> str:
    """Everything that was measured, as Markdown."""
    parts = [_head(results), _main(results), _threads(results)]
    parts += [_file(results, name) for name in FILE_TITLES]
    parts += [_variants(results), _own(results), _memory(results), _overheads(results), _missing(results)]
    return "\n\n".join(p for p in parts if p)


def write(path: Path, results: Results) -> None:
    """Put the tables between the marks of the page; what else is on it stays."""
    if not path.is_file():
        path.write_text(f"# Performance\n\n{BEGIN}\n{END}\n", encoding="utf-8")
    put(path, BEGIN, END, tables(results))


def put(path: Path, begin: str, end: str, text: str) -> None:
    """Replace what is between two marks of a page. Raises ValueError where they are not there."""
    old = path.read_text(encoding="utf-8")
    if begin not in old or end not in old:
        raise ValueError(f"{path}: the marks {begin!r} and {end!r} are not there; put them where the tables belong")
    before, rest = old.split(begin, 1)
    after = rest.split(end, 1)[1]
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


# -- tables ------------------------------------------------------------------------------------------------------------


def _main(results: Results) -> str:
    rows = results.rows.get("main", [])
    if not rows:
        return ""
    lines = [
        ["job", "read limit R", "libstream", "of R", "aim", "x LiberTEM threads", "aim", *(f"x {o}" for o in OTHERS), "reached", "results"]
    ]
    for r in rows:
        job = JOBS[r.job]
        of_limit, of_peer = r.ratio(OURS, LIMIT), r.ratio(OURS, PEER)
        lines.append(
            [
                job.title,
                _spread(r, LIMIT),
                _spread(r, OURS),
                _number(of_limit),
                _aim(job.limit),
                _number(of_peer),
                _aim(job.peer),
                *(_number(r.ratio(OURS, o)) for o in OTHERS),
                _reached(r),
                _same(r),
            ]
        )
    text = f"### 16-bit frames, {results.size / 1e9:.1f} GB in the page cache\n\n{_table(lines)}"
    for r in rows:
        if r.job == "masks16" and "one mask" in r.seconds:
            factor = 16 / (r.rate(OURS) / r.rate("one mask") * 16)
            verdict = "reached" if factor <= FACTOR_16 else "not reached"
            text += f"\n\n16 masks take {factor:.1f} times the time of one (aim: {FACTOR_16:g}; {verdict})."
    return text


def _reached(r: Row) -> str:
    """Whether the figures of the row are reached; where the machine was too slow the ratio to the peer decides alone."""
    job = JOBS[r.job]
    checks = []
    if job.limit is not None and r.rate(LIMIT) >= LEAST_LIMIT:
        checks.append(r.ratio(OURS, LIMIT) >= job.limit)
    if job.peer is not None and r.seconds.get(PEER):
        checks.append(r.ratio(OURS, PEER) >= job.peer)
    if not checks:
        return "-"
    return "yes" if all(checks) else "no"


def _threads(results: Results) -> str:
    rows = results.rows.get("threads", [])
    if not rows:
        return ""
    lines = [["job", "R, 1 thread", "1 thread", "of R", "2 threads", "speed-up", f"aim {SCALING:g}"]]
    for r in rows:
        share, gain = r.ratio(ONE, LIMIT), r.ratio(OURS, ONE)
        verdict = "at the limit" if share >= 0.5 else "yes" if gain >= SCALING else "no"
        lines.append([JOBS[r.job].title, _spread(r, LIMIT_ONE), _spread(r, ONE), _number(share), _spread(r, OURS), _number(gain), verdict])
    return f"### From one thread to all\n\n`of R`: one thread, in units of the read limit of all threads.\n\n{_table(lines)}"


def _file(results: Results, name: str) -> str:
    rows = results.rows.get(name, [])
    if not rows:
        return ""
    limit = any(LIMIT in r.seconds for r in rows)
    frames = name == "dectris"
    unit = "frames/s" if frames else "GB/s"
    more, ratio = (["read limit R"], ["of R"]) if limit else ([], [])
    lines = [["job", *more, f"libstream [{unit}]", *ratio, "x LiberTEM threads", "results"]]
    for r in rows:
        peer = _number(r.ratio(OURS, PEER))
        if name in PEER_LIMITS and r.seconds.get(PEER):
            peer += f" (aim {PEER_LIMITS[name]:g}: {'yes' if r.ratio(OURS, PEER) >= PEER_LIMITS[name] else 'no'})"
        scale = 1e9 / (r.data.n_bytes / r.data.n_frames) if frames else 1.0
        ours = _spread(r, OURS, scale)
        lines.append(
            [
                JOBS[r.job].title,
                *([_spread(r, LIMIT)] if limit else []),
                ours,
                *([_number(r.ratio(OURS, LIMIT))] if limit else []),
                peer,
                _same(r),
            ]
        )
    size = rows[0].data.n_bytes / 1e9
    return f"### {FILE_TITLES[name]}, {size:.1f} GB of frames\n\n{_table(lines)}"


def _variants(results: Results) -> str:
    rows = results.rows.get("variants", [])
    if not rows:
        return ""
    names = [v for v in VARIANTS if v != "plain"]
    lines = [["job", "whole scan [GB/s]", *(t for v in names for t in (f"{VARIANTS[v]} [GB/s]", "of plain", "x LiberTEM"))]]
    for r in rows:
        line = [JOBS[r.job].title, _spread(r, f"{OURS}, plain")]
        for v in names:
            ratio = r.ratio(f"{OURS}, {v}", f"{OURS}, plain")
            mark = "" if math.isnan(ratio) or ratio >= HALF else " (below the aim)"
            line += [_spread(r, f"{OURS}, {v}"), _number(ratio) + mark, _number(r.ratio(f"{OURS}, {v}", f"{PEER}, {v}"))]
        lines.append(line)
    return (
        f"### Part of the scan, corrections\n\nGB/s of the frames that were asked for. Aim: {HALF:g} of the whole scan.\n\n{_table(lines)}"
    )


def _own(results: Results) -> str:
    rows = results.rows.get("own", [])
    if not rows:
        return ""
    lines = [["job", "built in [GB/s]", "own kernel", "[GB/s]", "of built in", f"aim {HALF:g}", "frame / tile kernel", "of R"]]
    for r in rows:
        frame, tile = (f"own_{kind}_{r.job}" for kind in ("frame", "tile"))
        for name in (frame, tile):
            if name in r.seconds:
                ratio = r.ratio(name, OURS)
                lines.append(
                    [
                        JOBS[r.job].title,
                        _spread(r, OURS),
                        OWN[name][1],
                        _spread(r, name),
                        _number(ratio),
                        "yes" if ratio >= HALF else "no",
                        _number(r.ratio(frame, tile)) if name == frame else "",
                        _number(r.ratio(name, LIMIT)),
                    ]
                )
    return f"### A user's own kernels\n\nPlain loops, as one writes them first.\n\n{_table(lines)}"


def _memory(results: Results) -> str:
    if not results.memory:
        return ""
    lines = [["file", "size [GB]", "executor", "job", "anonymous memory [MB]", "processes", f"aim {ANONYMOUS / 1e6:.0f} MB"]]
    for m in results.memory:
        verdict = "yes" if m["anonymous"] < ANONYMOUS else "no"
        lines.append(
            [
                m["data"],
                f"{m['data_bytes'] / 1e9:.1f}",
                m["executor"],
                JOBS[m["job"]].title,
                f"{m['anonymous'] / 1e6:.0f}",
                f"{m['processes']:.0f}",
                verdict,
            ]
        )
    return f"### Anonymous memory\n\nLargest sum over all processes of a fresh run, interpreter and libraries included.\n\n{_table(lines)}"


def _overheads(results: Results) -> str:
    lines = [["what", "median", "min", "max", "aim", "reached"]]
    for found in results.overheads.values():
        target = found["target"]
        verdict = "-" if target is None else "yes" if found["median"] < target else "no"
        aim = "-" if target is None else f"< {_time(target)}"
        lines.append([found["title"], _time(found["median"]), _time(found["min"]), _time(found["max"]), aim, verdict])
    for r in results.rows.get("calls", []):
        n = r.data.n_frames if r.job == "python_frame" else 1
        what = "plain-Python `process_frame` that does nothing, a frame" if r.job == "python_frame" else "pick one frame by a UDF"
        for side in (OURS, PEER):
            if r.seconds.get(side):
                s = sorted(v / n for v in r.seconds[side])
                lines.append([f"{what}, {r.data.name} file, {side}", _time(s[len(s) // 2]), _time(s[0]), _time(s[-1]), "-", "-"])
    return f"### Overheads\n\n{_table(lines)}" if len(lines) > 1 else ""


def _missing(results: Results) -> str:
    reasons: dict[str, str] = dict(results.missing)
    for found in results.rows.values():
        for r in found:
            for label, reason in r.absent.items():
                if label not in results.missing and not reason.startswith(("not written", "plain NumPy", "py4DSTEM has")):
                    reasons[f"{label}: {r.job} on {r.data.name}"] = reason
    if not reasons:
        return ""
    return "Without figures:\n\n" + "\n".join(f"- {name}: {reason}" for name, reason in reasons.items())


def _head(results: Results) -> str:
    busy = [b for found in results.rows.values() for r in found for b in r.others]
    share = f", others kept {100 * sum(busy) / len(busy):.0f} % of it busy (at most {100 * max(busy):.0f} %)" if busy else ""
    versions = "; ".join(f"{side}: " + ", ".join(f"{k} {v}" for k, v in found.items()) for side, found in results.versions.items())
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}; load {results.load_before} before and {results.load_after} after"
        f"{share}; {results.rounds} rounds, each side in turn.\n\nVersions: {versions}."
    )


def machine() -> str:
    """Cores, system, Python."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file() and (m := re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))):
        model = m[1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {model}, {platform.system()} {platform.release()}, Python {platform.python_version()}"


# -- cells -------------------------------------------------------------------------------------------------------------


def _table(lines: list[list[str]]) -> str:
    head, *rest = lines
    return "\n".join(["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rest)])


def _spread(r: Row, label: str, scale: float = 1.0) -> str:
    """Median (min to max)."""
    found = sorted(v * scale for v in r.rates(label))
    if not found:
        return "-"
    return f"{_short(r.rate(label) * scale)} ({_short(found[0])} to {_short(found[-1])})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _aim(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _same(r: Row) -> str:
    """Equal to the peers', or how they differ."""
    found: Iterable[str] = (f"{label}: {text}" for label, text in r.differs.items() if text)
    return "; ".join(found) or ("equal" if r.differs else "-")
