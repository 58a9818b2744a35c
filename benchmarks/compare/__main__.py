"""The same workloads on our saver and on the others, in one run: a table, JSON and plots.

python -m benchmarks.compare [--only WORKLOAD] [--contender NAME] [--quick] [--output DIR]

Starts emulators of Firestore and Cloud Storage and a PostgreSQL on this machine, and ends them. Talks to nothing else.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

from benchmarks.compare.contenders import contenders
from benchmarks.compare.plots import draw
from benchmarks.compare.results import Results, environment, markdown, tables
from benchmarks.compare.runs import Run
from benchmarks.compare.services import Services
from benchmarks.compare.workloads import FULL, QUICK, workloads

OUTPUT = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "comparison"


def main() -> int:
    # Deprecations and advice of the other savers would drown the progress.
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", action="append", metavar="WORKLOAD", help="this workload only; may be repeated")
    parser.add_argument("--contender", action="append", metavar="NAME", help="this saver only; may be repeated")
    parser.add_argument("--quick", action="store_true", help="less of everything: a look, and no result to quote")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="directory of the results [%(default)s]")
    parser.add_argument(
        "--plots", action="store_true", help="draw the plots of the results that are there, and no more"
    )
    options = parser.parse_args()
    if options.plots:
        report(draw(Results.load(options.output / "results.json"), options.output))
        return 0
    scale = QUICK if options.quick else FULL
    every, savers = workloads(scale), contenders()
    chosen = [workload for workload in every if not options.only or workload.name in options.only]
    playing = [saver for saver in savers if not options.contender or saver.name in options.contender]
    for names, given, known in (
        ("workload", options.only, [workload.name for workload in every]),
        ("contender", options.contender, [saver.name for saver in savers]),
    ):
        unknown = sorted({*(given or ())} - {*known})
        if unknown:
            parser.error(f"no {names} {', '.join(unknown)}; there are: {', '.join(known)}")
    begin = time.perf_counter()
    with Services(frozenset().union(*(saver.services for saver in playing))) as services:
        run = Run(services, playing, scale, lambda line: print(line, file=sys.stderr, flush=True))
        run.play(chosen)
    facts = environment(quick=options.quick, seconds=time.perf_counter() - begin)
    results = Results(run.rows, run.series, facts)
    options.output.mkdir(parents=True, exist_ok=True)
    results.dump(options.output / "results.json")
    (options.output / "index.md").write_text(markdown(results), "utf-8")
    print(tables(run.rows))
    report(draw(results, options.output))
    return 0


def report(paths: list[Path]) -> None:
    for path in paths:
        print(f"drawn: {path.name}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
