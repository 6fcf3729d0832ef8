"""The benchmarks run and give all rows; never how long anything takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import links
from tests.bench import gui, live, page
from tests.bench.chromium import CHROMIUM
from tests.bench.measure import LIMIT, OURS
from tests.bench.overheads import TARGETS_S
from tests.bench.plan import SMOKE, TABLES
from tests.bench.spec import JOBS, OWN, VARIANTS

pytest.importorskip("pytest_benchmark")
pytest.importorskip("hdf5plugin")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_rows_are_there(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    env = {k: v for k, v in os.environ.items() if k != "LIBSTREAM_BENCH_PEERS"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--smoke", "--json", str(report)], cwd=links.ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(report.read_text(encoding="utf-8"))
    rows = {table: {row["job"]: row for row in rows} for table, rows in found["rows"].items()}

    assert set(TABLES) - set(rows) == {"memory", "overheads"}
    assert set(rows["main"]) == set(JOBS)
    for table in ("threads", "mib", "dectris", "uint8", "uint32", "float32", "variants"):
        assert set(rows[table]) == set(SMOKE), table
    assert all(row["seconds"][OURS] and row["seconds"][LIMIT] for row in rows["main"].values())
    assert all(row["seconds"][f"{OURS}, {v}"] for row in rows["variants"].values() for v in VARIANTS)
    assert {label for row in rows["own"].values() for label in row["seconds"]} >= set(OWN)
    assert {(m["data"], m["executor"]) for m in found["memory"]} == {
        (d, e) for d in ("uint16", "dectris", "holes") for e in ("threads", "processes")
    }
    cases = {name.partition("[")[0] for name in found["overheads"]}
    assert cases >= {name.partition("[")[0] for name in TARGETS_S}

    # plain NumPy is there without peers: results are compared with its own
    assert all(row["differs"]["NumPy"] == "" for job, row in rows["main"].items() if job not in ("masks16", "trio"))
    assert "LiberTEM threads" in found["missing"]
    assert JOBS["disk"].title in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_live_rows_are_there(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.bench.live", "--smoke", "--json", str(report)]
    done = subprocess.run(command, cwd=links.ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(report.read_text(encoding="utf-8"))
    assert all(found["dectris"]["rates"]["libstream"])
    assert set(found["sectors"]["rates"]) == {"libstream with Sum", "bare pyzmq"}
    assert 0 < found["latency"]["p50"] <= found["latency"]["p95"] <= found["latency"]["max"]
    assert sum(line.startswith("| --- |") for line in done.stdout.splitlines()) == 3


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path(CHROMIUM).is_file(), reason="no Chromium: install Debian's package chromium")
def test_rows_of_the_page_are_there(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.bench.gui", "--smoke", "--json", str(report), "--dir", str(tmp_path)]
    done = subprocess.run(command, cwd=links.ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(report.read_text(encoding="utf-8"))
    assert set(found) == {*gui.GATES, "tabs", "others"}
    assert all(rate > 0 for rate in found["live"]["painted"].values())
    assert found["drag"]["n"] > 0
    assert found["drag"]["complete"]
    assert found["load"]["files"][0] > 10_000
    assert found["stalled"]["viewers"] == 2
    assert all(x["rate"] > 0 for n, x in found["crowd"].items() if n != "0")
    assert sum(line.startswith("| --- |") for line in done.stdout.splitlines()) == 1


def test_the_page_has_room_for_the_live_tables(tmp_path: Path) -> None:
    copy = tmp_path / "performance.md"
    copy.write_text(live.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    before = copy.read_text(encoding="utf-8")
    page.put(copy, live.BEGIN, live.END, "x\ny")
    after = copy.read_text(encoding="utf-8")
    assert f"{live.BEGIN}\n\nx\ny\n\n{live.END}" in after
    assert (after.split(live.BEGIN)[0], after.split(live.END)[1]) == (before.split(live.BEGIN)[0], before.split(live.END)[1])
    page.put(copy, gui.BEGIN, gui.END, "z")
    assert f"{gui.BEGIN}\n\nz\n\n{gui.END}" in copy.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="the marks"):
        page.put(copy, "<!-- nowhere -->", live.END, "x")
