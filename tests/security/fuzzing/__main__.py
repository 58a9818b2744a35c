"""Fuzz targets in this process, with a limit of memory that the system enforces.

Ends with 0, or prints what failed and how to reproduce it, and ends with 1. `--state` names a file that holds the
number of the iteration at work, in case the process crashes.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random

from langgraph_gcs_saver.testing import PATIENCE
from tests.security.fuzzing import sabotage
from tests.security.fuzzing.limits import ALLOWANCE, SETTINGS, held, lift, limit
from tests.security.fuzzing.targets import TARGETS, Target, refuse_out_of_memory

ENVIRONMENT = {**SETTINGS, "PYTHONHASHSEED": "0"}
"""With the last one an iteration is the same each time."""

WARM_UP = 6
"""Iterations before the limit: what is loaded late, caches and threads are not what is looked for."""


def iterate(target: Target, name: str, seed: int, number: int) -> str:
    """One iteration; returns what came of it."""
    try:
        return target.one(Random(f"{name} {seed} {number}"))
    except target.family as error:
        refuse_out_of_memory(error)
        return type(error).__name__


def fuzz(target: Target, name: str, options: argparse.Namespace, state: int) -> bool:
    """Fuzz a target; whether nothing failed."""
    outcomes: Counter[str] = Counter()
    begin = time.monotonic()  # clock: how long a soak lasts, whatever it finds
    number = options.first
    passed = 0.0
    base = held()
    while number < options.first + options.iterations and passed < options.seconds:
        limit(options.allowance, base)
        os.pwrite(state, b"%20s %20d" % (name.encode(), number), 0)
        try:
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            outcomes[iterate(target, name, options.seed, number)] += 1
        except Exception as error:  # whatever it is: that is what is looked for
            lift()
            traceback.print_exc()
            again = f"--seed {options.seed} --first {number} --iterations 1"
            print(f"FAILED {type(error).__name__}. To see it again:\npython -m tests.security.fuzzing {name} {again}")
            return False
        finally:
            faulthandler.cancel_dump_traceback_later()
        number += 1
        passed = time.monotonic() - begin  # clock: likewise
    print(f"{name}: {sum(outcomes.values())} iterations in {passed:.0f} s: {dict(outcomes)}")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzzing", description=__doc__)
    parser.add_argument("targets", nargs="+", help=f"{', '.join(TARGETS)}; with =N so many iterations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first iteration")
    parser.add_argument("--iterations", type=int, default=1 << 60)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of each target")
    parser.add_argument("--allowance", type=int, default=ALLOWANCE, help="bytes")
    parser.add_argument("--state", default=os.devnull, help="file for the number of the iteration at work")
    parser.add_argument("--sabotage", choices=sabotage.SABOTAGES, help="a check to be left out")
    options = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, "-m", __spec__.parent, *sys.argv[1:]], {**os.environ, **ENVIRONMENT})
    faulthandler.enable()
    logging.disable()
    state = os.open(options.state, os.O_RDWR | os.O_CREAT, 0o600)
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    wanted = [word.partition("=")[::2] for word in options.targets]
    with tempfile.TemporaryDirectory(prefix="fuzzing-", dir=shared) as directory:
        targets = {name: TARGETS[name](Path(directory)) for name, _ in wanted}
        for name, target in targets.items():
            for number in range(-WARM_UP, 0):
                iterate(target, name, 0, number)
        if options.sabotage:
            sabotage.SABOTAGES[options.sabotage]()
        gc.collect()
        gc.freeze()
        for name, count in wanted:
            counted = argparse.Namespace(**{**vars(options), "iterations": int(count or options.iterations)})
            if not fuzz(targets[name], name, counted, state):
                return 1
    return 0


sys.exit(main())
