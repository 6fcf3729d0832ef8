"""Long proofs: `make soak`. Runs the laws with many examples and the tests marked `soak`, and writes what came out, with its date.

`python -m tests.system.soak [pytest arguments]`; the report is docs/reference/soak.md, newest first.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests import links

REPORT = links.ROOT / "docs" / "reference" / "soak.md"
HEAD = """# Long proofs

Written by `make soak`, newest first: every property test (kernels against their plain twins, any cut of the data, tiles that
cover each pixel exactly once, damaged files, ...) with 20 times as many random examples as in `make test`, and tests that run
for minutes (memory, leaks, cancels at any moment; live: a hundred acquisitions in a row, faults without end, killed workers, a million
hostile messages, over real sockets; page: 100,000 arrays to Python clients and 100,000 to a real one in Chromium).
"""
PROOFS = {
    "properties, 20 times as many examples": [
        "tests",
        "--ignore=tests/bench",
        "-m",
        "hypothesis and not soak",
        "--hypothesis-profile=soak",
        "--timeout=3600",
    ],
    "memory, leaks, cancel, live": ["tests", "--ignore=tests/bench", "-m", "soak", "--timeout=3600"],
}


def machine() -> str:
    """One line about where this ran: versions and processor, not names."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file() and (m := re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))):
        model = m[1]
    packages = ", ".join(f"{p} {version(p)}" for p in ("numpy", "numba", "h5py", "hypothesis"))
    system = f"{platform.system()} {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    return f"{len(os.sched_getaffinity(0))} x {model}, {system}, {packages}"


def commit() -> str:
    """The commit that was tested, marked where files differ from it."""
    run = {"cwd": links.ROOT, "capture_output": True, "text": True}
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **run).stdout.strip()  # type: ignore[call-overload]
    changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **run).stdout.strip()  # type: ignore[call-overload]
    return f"{head or 'unknown'}{' with changes' if changed else ''}"


def prove(name: str, arguments: list[str], more: list[str]) -> tuple[bool, str]:
    """Run one proof; whether it holds, and its section of the report."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "--durations=5", "-rP", *arguments, *more]
    done = subprocess.run(command, cwd=links.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = [
        line
        for line in done.stdout.splitlines()
        if re.match(r"(soak: |FAILED|ERROR|SKIPPED|\d+ (passed|failed|skipped|deselected)|\d+\.\d+s (call|setup))", line)
    ]
    minutes = (time.monotonic() - started) / 60
    print(done.stdout if done.returncode else f"{name}: {lines[-1] if lines else ''}", flush=True)
    none_chosen = bool(more) and done.returncode == 5
    return done.returncode == 0 or none_chosen, f"### {name}: {minutes:.1f} min\n\n```text\n" + "\n".join(lines) + "\n```\n"


def main(more: list[str]) -> int:
    """Run all proofs and put a dated section at the top of the report; 1 when one of them fails."""
    results = [prove(name, arguments, more) for name, arguments in PROOFS.items()]
    verdict = "all hold" if all(ok for ok, _ in results) else "FAILED"
    title = f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}: {verdict}"
    chosen = f"Only a part: `{shlex.join(more)}`.\n\n" if more else ""
    section = f"{title}\n\n{machine()}\n\n{chosen}" + "\n".join(text for _, text in results)
    older = REPORT.read_text(encoding="utf-8").removeprefix(HEAD).strip() if REPORT.is_file() else ""
    REPORT.write_text(f"{HEAD}\n{section}\n{older}".rstrip() + "\n", encoding="utf-8")
    return 0 if verdict == "all hold" else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
