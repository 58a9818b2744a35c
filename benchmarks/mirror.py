"""How long a `put` takes that stores its objects in two buckets, compared with one in the slower bucket alone.

python -m benchmarks.mirror [--runs N] [--json]

Uses the emulators that `FIRESTORE_EMULATOR_HOST` and `STORAGE_EMULATOR_HOST` name, else starts its own. A proxy delays
each request to a bucket, as the distance of a region does: 20 ms to the bucket, 40 ms to its mirror. Puts of the three
savers take turns, and a ratio is the median of those of single turns. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
import uuid
from contextlib import ExitStack
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, storage

from benchmarks.event_loop import emulators
from benchmarks.hot_path import Bar
from benchmarks.storage import report
from benchmarks.verify import Thread
from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.testing.storage_proxy import StorageProxy, bucket_of

NEAR, FAR = 0.020, 0.040
"""Seconds that a request to each bucket takes in addition."""

BYTES = 1_000_000
"""Bytes of the value that each put stores, which do not compress."""

FARTHER, BOTH = f"one bucket, {FAR * 1000:g} ms away", "both buckets"
"""The names of two of the savers."""

WARM = 3
"""Turns that do not count."""

BAR = 1.05
"""A put in both buckets takes at most so many times one in the slower of them."""


class Distant(StorageProxy):
    """Delays the requests to some buckets, by their names."""

    def __init__(self, target: str, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        super().__init__(target)

    def forward(self, request: Any, sent: int | None = None) -> Any:
        time.sleep(self._seconds.get(bucket_of(request), 0.0))
        return super().forward(request, sent)


def savers(stack: ExitStack) -> dict[str, GCSSaver]:
    """A saver on the nearer bucket, one on the farther one, and one on both."""
    stack.enter_context(emulators())
    url = os.environ["STORAGE_EMULATOR_HOST"]
    anonymous = AnonymousCredentials()
    plain = storage.Client(project="bench", credentials=anonymous)
    near, far = (plain.create_bucket(f"bench-{uuid.uuid4().hex}").name for _ in range(2))
    proxy = stack.enter_context(Distant(url, {near: NEAR, far: FAR}))
    documents = firestore.Client(project="bench", credentials=anonymous)

    def opened(name: str, bucket: str, **options: Any) -> GCSSaver:
        client = storage.Client(project="bench", credentials=anonymous, client_options={"api_endpoint": proxy.url})
        made = GCSSaver(client.bucket(bucket), firestore=documents, prefix=name, cache_max_bytes=0, **options)
        return stack.enter_context(made)

    return {
        f"one bucket, {NEAR * 1000:g} ms away": opened("near", near),
        FARTHER: opened("far", far),
        BOTH: opened("both", near, mirror=far),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=40, help="turns that count (default 40)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        threads = {name: Thread(saver, "t") for name, saver in savers(stack).items()}
        for turn in range(WARM + options.runs):
            for name, thread in threads.items():
                put = thread.next(data=random.Random(turn).randbytes(BYTES), turn=turn)
                begin = time.perf_counter()
                put()
                times.setdefault(name, []).append(time.perf_counter() - begin)
    counted = {name: own[WARM:] for name, own in times.items()}
    ratios = [both / far for both, far in zip(counted[BOTH], counted[FARTHER], strict=True)]
    if not options.json:
        for name, own in counted.items():
            print(f"put of {BYTES / 1e6:g} MB, {name}: {statistics.median(own) * 1000:.0f} ms")
    bar = Bar("put in both buckets, to one in the slower bucket", statistics.median(ratios), BAR)
    return report([bar], as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
