"""How long one call holds the event loop: a ticker wakes every millisecond, and the longest gap between ticks counts.

Run as `python -m benchmarks.event_loop [--rounds N] [--megabytes M] [--profile] [--no-emulators]`. Uses the emulators
that `FIRESTORE_EMULATOR_HOST` and `STORAGE_EMULATOR_HOST` name, else starts its own. Exit code 1 when a call is over
the bar.
"""

import argparse
import asyncio
import gc
import http.client
import json
import os
import random
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from langchain_core.messages import AIMessage, HumanMessage

from langgraph_gcs_saver import GCSSaver
from tests.emulators.firestore import FirestoreEmulator
from tests.emulators.storage import StorageEmulator

BAR = 0.050
TICK = 0.001
METADATA = {"source": "loop", "step": 0, "parents": {}}


def messages(size):
    """A chat of about `size` bytes, alternately human and AI, 1 KB each."""
    words = [f"word{n}" for n in range(2000)]
    found = []
    for n in range(size // 1024):
        text = " ".join(random.Random(n).choices(words, k=130))
        found.append((HumanMessage if n % 2 else AIMessage)(content=text, id=f"{n:036}"))
    return found


def text(size):
    """One long string."""
    return " ".join(str(n * n) for n in range(size))[:size]


STATES = {"messages": messages, "one long string": text, "random bytes": lambda size: random.Random(1).randbytes(size)}


@dataclass
class Gap:
    """The longest time between two ticks.

    Attributes:
        seconds: Longest gap.
        own: Longest time that the loop's thread itself computed between two ticks; the rest of a gap is waiting, for
            the interpreter's lock, or for a processor that other programs use.
        collected: Longest run of the garbage collector meanwhile, which holds every thread. A full one takes as long as
            there are objects in the process, and making many objects starts it, on whatever thread.
        held: Where the loop was, when `watch` looked.
    """

    seconds: float
    own: float
    collected: float
    held: Counter


async def measure(call, *, profile):
    """Await `call()` with a ticker beside it."""
    loop_thread = threading.get_ident()
    gap = Gap(0.0, 0.0, 0.0, Counter())
    last, used = time.perf_counter(), time.thread_time()
    started = 0.0
    done = threading.Event()

    async def tick():
        nonlocal last, used
        while True:
            await asyncio.sleep(TICK)
            now, cpu = time.perf_counter(), time.thread_time()
            gap.seconds, gap.own = max(gap.seconds, now - last), max(gap.own, cpu - used)
            last, used = now, cpu

    def collecting(phase, _):
        nonlocal started
        if phase == "start":
            started = time.perf_counter()
        else:
            gap.collected = max(gap.collected, time.perf_counter() - started)

    def watch():
        while not done.wait(0.002):
            if time.perf_counter() - last > 0.01:
                stack = traceback.extract_stack(sys._current_frames()[loop_thread])
                ours = [f for f in stack if "langgraph" in f.filename or "ormsgpack" in f.filename] or stack[-1:]
                gap.held[" > ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in ours[-3:])] += 1

    watcher = threading.Thread(target=watch, daemon=True)
    if profile:
        watcher.start()
    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    last, used = time.perf_counter(), time.thread_time()
    gap.seconds = gap.own = 0.0
    gap.held.clear()
    gc.callbacks.append(collecting)
    try:
        began = time.perf_counter()
        await call()
        whole = time.perf_counter() - began
        # A gap that ends with the call has not been seen yet.
        await asyncio.sleep(2 * TICK)
    finally:
        gc.callbacks.remove(collecting)
        ticker.cancel()
        done.set()
    return gap, whole


def numbered(n):
    return f"{n:032}.0.5"


def checkpoint(n, values):
    return {
        "v": 4,
        "id": f"1f000000-0000-6000-8000-{n:012}",
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, numbered(n)),
        "versions_seen": {},
        "updated_channels": None,
    }


def calls(saver, thread, value, n):
    """The calls to measure, in their order; each handles the state once."""
    config = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    first = checkpoint(n, {"state": value, "n": n})
    # A checkpoint of its own for the pending writes, or reading would handle two states.
    beside = {
        "configurable": {"thread_id": f"{thread}, pending {n}", "checkpoint_ns": "", "checkpoint_id": first["id"]}
    }

    async def alist():
        return [found async for found in saver.alist(config, limit=1)]

    async def aput_writes():
        await saver.aput_writes(beside, [("state", value), ("n", n)], f"task {n}")

    async def aget_writes():
        small = checkpoint(n, {"n": n})
        await saver.aput(beside, small, METADATA, small["channel_versions"])
        assert len((await saver.aget_tuple(beside)).pending_writes) == 2

    return {
        "aput": lambda: saver.aput(config, first, METADATA, first["channel_versions"]),
        "aput_writes": aput_writes,
        "aget_tuple": lambda: saver.aget_tuple(config),
        "  its writes": aget_writes,
        "alist": alist,
    }


async def bench(uri, arguments):
    """Rows of (state, call, longest gap, duration, what held the loop), the worst round of each."""
    rows = []
    async with GCSSaver.from_conn_string(uri) as saver:
        for what, make in STATES.items():
            value = make(arguments.megabytes << 20)
            worst = {}
            # The first round opens connections and fills caches; what it costs counts as well.
            for n in range(1, arguments.rounds + 1):
                for name, call in calls(saver, what, value, n).items():
                    gap, whole = await measure(call, profile=arguments.profile)
                    if name not in worst or gap.seconds > worst[name][0].seconds:
                        worst[name] = (gap, whole)
            rows += [(what, name, gap, whole) for name, (gap, whole) in worst.items()]
    return rows


@contextmanager
def emulators():
    """The connection string of a fresh store on the emulators."""
    with ExitStack() as stack:
        if not os.environ.get("FIRESTORE_EMULATOR_HOST"):
            os.environ["FIRESTORE_EMULATOR_HOST"] = stack.enter_context(FirestoreEmulator()).host
            stack.callback(os.environ.pop, "FIRESTORE_EMULATOR_HOST")
        if not os.environ.get("STORAGE_EMULATOR_HOST"):
            os.environ["STORAGE_EMULATOR_HOST"] = stack.enter_context(StorageEmulator()).url
            stack.callback(os.environ.pop, "STORAGE_EMULATOR_HOST")
        host = os.environ["STORAGE_EMULATOR_HOST"]
        bucket = f"bench-{uuid.uuid4().hex}"
        connection = http.client.HTTPConnection(urlsplit(host).netloc or host, timeout=30)
        body = json.dumps({"name": bucket})
        connection.request("POST", "/storage/v1/b?project=bench", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"no bucket on {host}: {answer.status}")
        connection.close()
        yield f"gs://{bucket}/bench?project=bench-{uuid.uuid4().hex[:12]}"


def report(store, rows, *, profile):
    """Print a table; returns how many are over the bar."""
    over = 0
    for state, name, gap, whole in rows:
        flag = ""
        if gap.seconds > BAR:
            over += 1
            flag = "  OVER"
        times = "".join(f"{seconds * 1000:10.1f}" for seconds in (gap.seconds, gap.own, gap.collected, whole))
        print(f"{store:<10} {state:<16} {name:<12}{times}{flag}")
        if profile:
            for where, seen in gap.held.most_common(3):
                print(f"{'':<12}{seen:4} x {where}")
    return over


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="also show where the loop was held")
    parser.add_argument("--no-emulators", action="store_true", help="the embedded store only")
    arguments = parser.parse_args()
    columns = "".join(f"{name:>10}" for name in ("held, ms", "own, ms", "gc, ms", "call, ms"))
    print(f"{'store':<10} {'state':<16} {'call':<12}{columns}   bar: {BAR * 1000:.0f} ms held")
    idle, whole = asyncio.run(measure(lambda: asyncio.sleep(2), profile=False))
    report("-", [("nothing", "sleep", idle, whole)], profile=False)
    with tempfile.TemporaryDirectory() as folder:
        over = report("local", asyncio.run(bench(f"file://{folder}/store", arguments)), profile=arguments.profile)
    if not arguments.no_emulators:
        with emulators() as uri:
            over += report("emulators", asyncio.run(bench(uri, arguments)), profile=arguments.profile)
    if over:
        print(f"{over} calls held the loop for longer than {BAR * 1000:.0f} ms.")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
