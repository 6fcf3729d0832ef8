"""`python -m tests.bench`: measure, print the tables, write them to docs/reference/performance.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests import links
from tests.bench import page, plan
from tests.bench.data import Files
from tests.bench.measure import Bench, load
from tests.bench.results import Results


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny data, one round, no peers: only that it runs; writes no page")
    parser.add_argument("--size-gb", type=float, default=2.147483648, help="size of the uint16 scan; the other files have half of it")
    parser.add_argument("--only", default="", help=f"tables or jobs, with commas: {', '.join(plan.TABLES)}, or names of jobs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data", help="folder of the generated files")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--add", type=Path, nargs="*", default=[], help="figures of earlier runs (--json), for what is not measured now")
    parser.add_argument("--no-run", action="store_true", help="measure nothing: make the page of --add")
    parser.add_argument(
        "--peers", type=Path, default=os.environ.get("LIBSTREAM_BENCH_PEERS"), help="folder of venvs: libertem, py4dstem, dask"
    )
    parser.add_argument("--wait-quiet", type=float, default=0.0, metavar="S", help="wait up to S seconds before a round while others work")
    parser.add_argument("--page", type=Path, default=links.ROOT / "docs" / "reference" / "performance.md", help="page to write")
    parser.add_argument("--no-page", action="store_true", help="print only")
    return parser.parse_args()


def main() -> int:
    """Measure what was asked for."""
    args = arguments()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="libstream-bench-") as small:
        folder = Path(small) if args.smoke else args.data
        files = Files(folder, 2**21 if args.smoke else int(args.size_gb * 1e9), say)
        peers = None if args.smoke or args.peers is None else Path(args.peers)
        results = Results(load_before=load(), rounds=1 if args.smoke else args.rounds, size=files.n_bytes)
        if not args.no_run:
            with Bench(peers, say, args.wait_quiet) as bench:
                plan.measure(bench, files, results, {n for n in args.only.split(",") if n}, smoke=args.smoke, say=say)
                results.versions, results.missing = bench.versions, bench.missing
            results.load_after = load()
        if args.add:
            earlier = [Results.of(path.read_text(encoding="utf-8")) for path in args.add]
            for later in [*earlier[1:], *([] if args.no_run else [results])]:
                earlier[0].add(later)
            results = earlier[0]
    print(page.tables(results))
    if args.json:
        args.json.write_text(results.json(), encoding="utf-8")
    if not args.smoke and not args.no_page:
        page.write(args.page, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
