"""Process a file and print the peak of anonymous memory in MB, all processes together: `python -m tests.system.memory_probe FILE EXECUTOR`.

Anonymous memory is what a run allocates; pages of the file itself are the system's cache and are given back at need.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import libstream as ls


def anonymous_mb(pid: str) -> float:
    """RssAnon of a process [MB]; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    line = next((row for row in status.splitlines() if row.startswith("RssAnon:")), "RssAnon: 0 kB")
    return float(line.split()[1]) / 1024


def family(pid: str = "self") -> list[str]:
    """`pid` and all processes below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                found += family(child)
        except OSError:  # ended meanwhile
            continue
    return found


class Peak(threading.Thread):
    """Samples the anonymous memory of this process and its children every 20 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            self.peak = max(self.peak, sum(anonymous_mb(pid) for pid in family()))
            time.sleep(0.02)


def main(path: str, executor: str) -> None:
    """Run three UDFs over raw frames of 256 x 256 uint16 and print the peak [MB] and the number of frames."""
    peak = Peak()
    peak.start()
    source = ls.open(path, format="raw", dtype="uint16", frame=(256, 256))
    udfs = [ls.udfs.Sum(), ls.udfs.VirtualDetector(inner=30, outer=80), ls.udfs.CenterOfMass()]
    result = ls.run(source, udfs, executor=executor)
    peak.stop.set()
    peak.join()
    print(f"{peak.peak:.1f} {int(result.coverage.counts['processed'])}")


if __name__ == "__main__":
    main(*sys.argv[1:])
