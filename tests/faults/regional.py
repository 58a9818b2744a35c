"""Processes of two regions, each region with emulators of its own: `python -m tests.faults.regional ROLE`.

The environment variable `REGIONS` names the emulators and the store of each region. A process prints a line of JSON for
each thing that happens.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from langgraph_gcs_saver import GCSSaver, run
from langgraph_gcs_saver.cli.demo.agent import SERDE, thread_config
from langgraph_gcs_saver.cli.demo.regions import Items, build
from langgraph_gcs_saver.errors import NotPrimaryError

ITEMS = 50
THREAD = "batch"
PACE = 0.05


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def opened(region: str, **options: Any) -> GCSSaver:
    """A saver of a region. Its clients remember the emulators of the environment at this time."""
    found = json.loads(os.environ["REGIONS"])[region]
    os.environ.update(found["emulators"])
    return GCSSaver.from_conn_string(found["uri"], serde=SERDE, **options)


def before_item(number: int) -> None:
    say(begins=number, at=time.time())
    time.sleep(PACE)  # clock: an item takes a while; no outcome depends on it


def agent() -> None:
    """Work on the batch in the region east."""
    with opened("east") as saver:
        try:
            config, inputs = thread_config(THREAD), Items(items=ITEMS, done=[])
            run(build(saver, "Ada", before_item), inputs, config, request_id="batch", durability="sync", owner="Ada")
            say(ended="finished")
        except NotPrimaryError as error:
            say(ended=error.kind)


def worker() -> None:
    """Stand by in the region west."""
    with opened("west") as saver:
        for one in saver.recover(build(saver, "Bob", before_item), every=1.0, limit=1, durability="sync"):
            say(ended=one.outcome)


def begin() -> None:
    """Make west the replica of east."""
    with opened("west") as west, opened("east") as east:
        say(threads=east.admin.replicate(west).threads)


def follow() -> None:
    """Ship what east has, until the process is killed."""
    with opened("west") as west, opened("east") as east:
        for _ in east.admin.follow(west, every=0.1):
            say(mark=east.admin.replication(west).mark)


def fail_over() -> None:
    """Promote west, whether east can be reached or not."""
    with opened("west") as west, opened("east", timeout=5.0) as east:  # clock: east does not answer
        done = east.admin.failover(west, force=True)
        say(unreached=done.unreached, mark=(done.mark or 0) / 1e9, primary=done.primary)


def look() -> None:
    """Say what both regions have."""
    with opened("west") as west, opened("east") as east:
        for name, saver in (("east", east), ("west", west)):
            state = build(saver, "", before_item).get_state({"configurable": {"thread_id": THREAD}})
            ids = [one.checkpoint_id for one in saver.admin.history(THREAD)]
            damage = [str(one) for one in saver.admin.verify(depth="data") if one.is_damage]
            say(region=name, done=state.values.get("done", []), ids=ids, damage=damage)


def swap() -> None:
    """Make east the replica of west, and compare both."""
    with opened("west") as west, opened("east") as east:
        west.admin.replicate(east)
        say(documents=sum(one.documents for one in west.admin.reconcile(east)))


ROLES = {found.__name__: found for found in (agent, worker, begin, follow, fail_over, look, swap)}

if __name__ == "__main__":
    ROLES[sys.argv[1]]()
