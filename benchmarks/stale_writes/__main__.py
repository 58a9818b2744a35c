"""Stop a worker, let another one take its thread over, wake the first one, and count what it still stores.

python -m benchmarks.stale_writes [--schedules N] [--seed N] [--saver NAME] [--verbose]

Two processes run one graph on a thread of the emulators. SIGSTOP stops the first one at a random moment: in a node, in
a request, or while it acquires its lease. The second one takes the thread over, and SIGCONT wakes the first one at
another random moment. Then both may run. What the first one stores after the takeover is stale. Each schedule has a
thread of its own. Exit code 1 if `GCSSaver` with leases stored something stale, or anything else went wrong with it.

The other savers need `make .venv-bench/installed`, and `.venv-bench/bin/python`. They have no leases.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.compare.services import BUCKET, SERVICES, Services
from benchmarks.stale_writes.schedules import Result, play, table
from benchmarks.stale_writes.workers import Row

OURS = "GCSSaver with leases"

OTHERS = ("postgres", "firestore")
"""Names of `benchmarks.compare`."""

NAMES = (OURS, "GCSSaver", *OTHERS)


@contextmanager
def rows(names: list[str]) -> Iterator[list[Row]]:
    """The rows with these names, on services that are started for them."""
    needed = SERVICES if "postgres" in names else SERVICES - {"postgres"}
    with Services(needed) as services:
        at = services.direct
        uri = f"gs://{BUCKET}/stale?project=stale"
        yield [
            Row(name, name if name in OTHERS else "", name == OURS, "" if name in OTHERS else uri, at) for name in names
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--schedules", type=int, default=1000, help="schedules of each saver [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="seed of the schedules [%(default)s]")
    parser.add_argument("--saver", action="append", choices=NAMES, help="this saver only; may be repeated")
    parser.add_argument("--verbose", action="store_true", help="print the schedules in which something went wrong")
    options = parser.parse_args()
    found: list[Result] = []

    def report(result: Result) -> None:
        if result.schedules % 50 == 0:
            print(f"{result.row}: {result.schedules} schedules", file=sys.stderr, flush=True)

    with rows(options.saver or [*NAMES]) as chosen:
        for row in chosen:
            found.append(play(row, options.schedules, options.seed, report))
            if options.verbose:
                print("\n".join(found[-1].stories), file=sys.stderr)
    print(table(found))
    return int(any(one.row == OURS and not one.is_clean for one in found))


if __name__ == "__main__":
    sys.exit(main())
