"""What a trained dictionary saves of three corpora of short threads, measured on threads that it was not trained from.

python -m benchmarks.dictionaries                          # 10,000 threads of each corpus; half an hour
python -m benchmarks.dictionaries --threads 300 chat       # a glance

Everything that checkpoints and pending writes store counts: manifests, values, names and fields. Each corpus is stored
twice. In the second form, the words of each thread's texts occur in no other thread. So a dictionary can only learn
what threads share by design, and the result is a lower bound.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

from benchmarks.corpora import CORPORA, fill
from langgraph_gcs_saver import GCSSaver, Training
from langgraph_gcs_saver.flows.train import KINDS

BAR = 0.25
"""A dictionary is worth its place in the format if it saves this share of one corpus."""


def measure(corpus: str, threads: int, *, own_words: bool) -> Training:
    """Store a corpus in an embedded store, and measure a dictionary."""
    with (
        tempfile.TemporaryDirectory() as directory,
        GCSSaver.from_conn_string(f"file://{directory}", verify="off") as saver,
    ):
        for _ in fill(saver, corpus, threads, own_words=own_words):
            pass
        return saver.admin.train(sample=2000, holdout=0.3)


def row(corpus: str, found: Training) -> dict[str, Any]:
    kinds = {one.kind: f"{one.before / found.total.before:.0%}, saved {one.gain:.0%}" for one in found.kinds}
    return {
        "corpus": corpus,
        "bytes a thread": round(found.total.before / found.held_out),
        "with a dictionary": round(found.total.after / found.held_out),
        "saved": f"{found.total.gain:.1%}",
        **{kind: kinds.get(kind, "-") for kind in KINDS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("corpora", nargs="*", metavar="CORPUS", help=f"some of {list(CORPORA)}; all if none is given")
    parser.add_argument("--threads", type=int, default=10_000, help="threads of each corpus")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = []
    for corpus in options.corpora or CORPORA:
        for own_words in (False, True):
            found = measure(corpus, options.threads, own_words=own_words)
            rows.append(row(corpus + (", own words" if own_words else ""), found))
            if not options.json:
                header = [*rows[-1]], ["---"] * len(rows[-1])
                for cells in (*(header if len(rows) == 1 else ()), rows[-1].values()):
                    print("|", " | ".join(map(str, cells)), "|", flush=True)
    if options.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
