"""Uses a saver while a timer's signal raises at random moments; run as a program: URI SEED STRIKES."""

import faulthandler
import random
import signal
import sys
import threading
from contextlib import suppress

from langgraph_gcs_saver import GCSSaver
from tests.system.build import cfg, noise, number, put, values

HANGS_AFTER = 200
"""Seconds after which this program shows what all threads do, and ends."""

LONGEST = 0.02


class Struck(BaseException):
    """What the handler raises."""


def strike(number, frame):
    raise Struck


def state(n):
    """With a value for an object now and then, so that requests to Cloud Storage are struck as well."""
    return {"n": n, "large": noise(140_000 if n % 4 == 0 else 20, n)}


def struck(call, after):
    """Call, and raise in it after so many seconds; whether it was cut short."""
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        try:
            call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Struck:
        return True
    return False


def work(saver, rng, strikes):
    """Put and read until so many calls were cut short; returns what was acknowledged."""
    acknowledged, n, parent = [], 0, None
    while strikes:
        n += 1
        if rng.random() < 0.5:
            cut = struck(lambda: put(saver, n, state(n), parent=parent), rng.uniform(0.0001, LONGEST))  # noqa: B023
            if not cut:
                acknowledged.append(n)
                parent = n
        else:
            cut = struck(lambda: check(saver.get_tuple(cfg()), parent), rng.uniform(0.0001, LONGEST))  # noqa: B023
        strikes -= cut
    return acknowledged


def check(found, least):
    """The latest checkpoint is whole, and no older than the last one that was acknowledged."""
    assert least is None or number(found) >= least
    assert found is None or values(found) == state(number(found))


def in_a_thread(function):
    """Call a function in a thread that is not the main one, and raise what it raises."""
    failures = []

    def run():
        try:
            function()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def go_on(saver, n):
    put(saver, n, state(n))
    check(saver.get_tuple(cfg()), n)


def main(uri, seed, strikes):
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    signal.signal(signal.SIGALRM, strike)
    saver = GCSSaver.from_conn_string(uri)
    with suppress(Struck):  # a last one may come between two calls
        acknowledged = work(saver, random.Random(seed), strikes)
    last = 100_000
    go_on(saver, last)
    in_a_thread(lambda: go_on(saver, last + 1))
    found = {number(one): values(one) for one in saver.list(cfg())}
    assert found == {n: state(n) for n in found}
    assert {*acknowledged, last, last + 1} <= found.keys()
    saver.close()
    print(f"{len(acknowledged)} acknowledged, {len(found)} found")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
