"""Added latency: relays in a process of their own, so that they take nothing from the one that is measured.

python -m benchmarks.compare.delay 127.0.0.1:5432=0.001 127.0.0.1:8080=0.012

prints a port for each, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import selectors
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.compare.relay import Relay
from tests.emulators.process import HOST
from tests.patience import PATIENCE

DELAYS = {"firestore": 0.012, "storage": 0.045, "postgres": 0.001}
"""Seconds added to each request: assumed, not measured, for a client in the same region.

They stand for the network and for what a replicated service does before it answers. A PostgreSQL server does its work
here, so what is added is the network only.
"""

_ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def delayed(targets: dict[str, float]) -> Iterator[list[str]]:
    """Relays to targets, each with its delay: their `host:port`, in the same order.

    What a client sends arrives so many seconds later; answers come at once. So each request takes so much longer, and
    those that are sent together still take the time together.
    """
    words = [f"{target}={seconds}" for target, seconds in targets.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.compare.delay", *words],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            ports = [process.stdout.readline().strip() for _ in targets]
            if not all(ports):
                raise RuntimeError("the relays did not start")
            yield [f"{HOST}:{port}" for port in ports]
        finally:
            process.stdin.close()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


async def _serve(words: list[str]) -> None:
    relays = []
    for word in words:
        target, _, seconds = word.partition("=")
        relays.append(Relay(target, forth=float(seconds)))
        print(await relays[-1].start(), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    await ended.wait()
    for relay in relays:
        await relay.close()


def main() -> None:
    # Other selectors round up to whole milliseconds, which would double PostgreSQL's delay.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(_serve(sys.argv[1:]))


if __name__ == "__main__":
    main()
