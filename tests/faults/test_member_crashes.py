"""A member that crashes at any effect of joining, of a put, a vote or a wait: its thread and the set stay whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Commit, GetDocs, Merge
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.flows import members, sets
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.sets import SetRecord
from langgraph_gcs_saver.saver.lease import Lease
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan, put_arguments

TEAM, NAME = "team", "member"
THREAD = keys.member_thread_id(TEAM, NAME)


def perform(saver: CrashingSaver, flow: Any) -> Any:
    return run(flow, saver._backend)


def lease(saver: CrashingSaver, vote_wait: float | None = None) -> Lease:
    member = members.Member(TEAM, NAME, vote_wait)
    return Lease(saver._leases, THREAD, ttl=60.0, wait=0.0, owner=NAME, take_over=False, member=member)


def put(saver: CrashingSaver, held: Lease, number: int) -> None:
    config, *rest = put_arguments(number, number - 1 if number > 1 else None)
    configurable = {**config["configurable"], **held.config["configurable"]}
    saver.put({"configurable": configurable}, *rest)


def begin(saver: CrashingSaver, contended: int) -> SetRecord:
    found: SetRecord = perform(saver, sets.begin(TEAM, [NAME], None, 600.0, saver._context))
    if contended:
        perform(saver, iter(Commit((Merge(keys.team_doc(TEAM), {"contended": contended}),))))
    return found


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[[], str]:
    numbers = count()
    return lambda: f"file://{tmp_path}/{next(numbers)}"


def join(uri: str, stop_after: int | None) -> Plan:
    with CrashingSaver.from_conn_string(uri) as saver:
        plan = saver.plan = Plan(stop_after)
        with suppress(Crashed), lease(saver):
            saver.plan = Plan()  # What crashes is the beginning of the block.
    return plan


def test_crashes_at_every_effect_of_joining(new_store: Callable[[], str]) -> None:
    whole = join(new_store(), None)
    assert whole.done
    for stop_after in range(len(whole.done) + 1):
        uri = new_store()
        join(uri, stop_after)
        with CrashingSaver.from_conn_string(uri) as saver:
            fence = perform(saver, iter(GetDocs((keys.fence_doc(THREAD), keys.beat_doc(THREAD)))))
            # A thread that names the team is its member, and the other way round.
            assert (keys.fence_doc(THREAD) in fence) == (perform(saver, sets.members(TEAM)) == [NAME])
            with lease(saver) as held:
                put(saver, held, 1)
            assert perform(saver, sets.members(TEAM)) == [NAME]


def step(uri: str, contended: int, stop_after: int | None) -> tuple[SetRecord, Plan]:
    """Store a step while a set is being prepared, and crash."""
    with CrashingSaver.from_conn_string(uri) as saver, lease(saver) as held:
        put(saver, held, 1)
    with CrashingSaver.from_conn_string(uri) as saver:
        found = begin(saver, contended)
    with CrashingSaver.from_conn_string(uri) as saver:
        held = lease(saver, vote_wait=0.01).__enter__()  # A process that crashes releases nothing.
        plan = saver.plan = Plan(stop_after)
        with suppress(Crashed):
            put(saver, held, 2)
    return found, plan


@pytest.mark.parametrize("contended", [0, 1])
def test_crashes_at_every_effect_of_a_put_while_a_set_is_prepared(new_store: Callable[[], str], contended: int) -> None:
    _, whole = step(new_store(), contended, None)
    assert len(whole.done) > 2
    for stop_after in range(len(whole.done) + 1):
        uri = new_store()
        found, _ = step(uri, contended, stop_after)
        with CrashingSaver.from_conn_string(uri) as saver:
            tip = saver.get_tuple({"configurable": {"thread_id": THREAD}})
            # Whether or not the member has voted, another process decides with its newest checkpoint.
            done = perform(saver, sets.prepare(TEAM, found.set_id, saver._context))
            assert done.state == "committed"
            assert done.cut[NAME].checkpoint_id == tip.config["configurable"]["checkpoint_id"]
            # The member continues from the checkpoint that the set holds.
            with lease(saver) as held:
                put(saver, held, tip.metadata["step"] + 1)
            found_tip = saver.get_tuple({"configurable": {"thread_id": THREAD}})
            assert found_tip.metadata["step"] == tip.metadata["step"] + 1
