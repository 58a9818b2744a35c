"""Recovery records beside crashes: each crash under a lease has one record, whatever crashes next."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from langgraph_gcs_saver import GCSSaver, RecoveryRecord, run
from langgraph_gcs_saver.engine.effects import GetDocs
from langgraph_gcs_saver.engine.runner import run as perform
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from langgraph_gcs_saver.testing.kills import process
from tests.behaviour.test_recoveries import damage
from tests.faults.test_work_crashes import Store, begin, build, expire
from tests.faults.turns import CONFIG, THREAD, Ran, chain, inputs
from tests.patience import PATIENCE


def records(store: Store) -> list[RecoveryRecord]:
    with store.open() as saver:
        return list(saver.thread(THREAD).recoveries())


def is_held(store: Store) -> bool:
    """Whether a process has left its lease."""
    with store.open() as saver:
        name = keys.fence_doc(THREAD)
        doc = perform(iter(GetDocs((name,))), saver._backend).get(name)
        return doc is not None and doc.fields["owner"] is not None


def resume(saver: Any, ran: Ran) -> Any:
    return run(chain(saver, ran), inputs("one"), CONFIG, request_id="r1", durability="sync")


def play(stop_after: int | None, successor_stops_after: int | None) -> int:
    """A process crashes, its successor does, and another process finishes. Returns the effects of the successor."""
    store, ran = Store(), Ran()
    store.crash(lambda saver: resume(saver, ran), stop_after)
    crashes = int(is_held(store))
    plan = store.crash(lambda saver: resume(saver, ran), successor_stops_after)
    # If the successor has not got as far as the lease, that of the first one is still there.
    before = records(store)
    assert [one.kind for one in before] == ["takeover"] * len(before)
    assert len(before) <= crashes
    crashes = len(before) + int(is_held(store))
    with store.open() as saver:
        assert sorted(resume(saver, ran)["log"]) == ["a", "b", "c", "d", "one"]
        saver._background.close()
        found = list(saver.thread(THREAD).recoveries())
        assert len(found) == crashes
        assert found[: len(before)] == before, "a record of an earlier crash does not change"
        for one in found[len(before) :]:
            assert None not in (one.lost, one.down, one.held, one.restore, one.ran_again), "it is complete"
    return len(plan.done)


def test_each_crash_has_one_record_whatever_effect_its_successor_crashes_at() -> None:
    whole, ran = Store(), Ran()
    effects = len(whole.crash(lambda saver: resume(saver, ran), None).done)
    assert records(whole) == []
    middle = effects // 2
    for stop_after in range(play(middle, None) + 1):
        play(middle, stop_after)


def test_the_first_process_crashes_at_any_effect() -> None:
    whole, ran = Store(), Ran()
    effects = len(whole.crash(lambda saver: resume(saver, ran), None).done)
    for stop_after in range(effects + 1):
        play(stop_after, 7)


def test_a_fallback_is_recorded_once_whatever_effect_its_reader_crashes_at(tmp_path: Path) -> None:
    for stop_after in (0, 1, 2, 3, 4, 5, 6, 7, 8, None):
        path = tmp_path / f"{stop_after}"
        ran: Ran = []
        with GCSSaver.from_conn_string(f"file://{path}") as saver:
            resume(saver, ran)
        damage(path)
        with CrashingSaver.from_conn_string(f"file://{path}") as saver:
            saver.plan = plan = Plan(stop_after)
            with suppress(Crashed):
                saver.get_tuple(CONFIG)
            saver._background.close()
            plan.is_dead = True
        with GCSSaver.from_conn_string(f"file://{path}") as saver:
            assert saver.get_tuple(CONFIG) is not None
            saver._background.close()
            assert [one.kind for one in saver.thread(THREAD).recoveries()] == ["fallback"]
            (plan_of_repair,) = saver.admin.repair(THREAD)
            assert plan_of_repair.repairs
            assert [one.kind for one in saver.admin.recoveries()] == ["fallback", "repair"]
        if stop_after is None:
            assert len(plan.done) <= 8, "the crashes are at every effect"


def work(uri: str, directory: Path, node: str, pipe: Any) -> None:
    """Resume a thread, and be killed in a node."""

    def act(name: str) -> None:
        if name == node:
            os.kill(os.getpid(), signal.SIGKILL)

    with GCSSaver.from_conn_string(uri) as saver:
        list(saver.recover(build(saver, directory, act), backoff=0, durability="sync"))


def test_a_successor_records_each_worker_that_was_killed(tmp_path: Path) -> None:
    uri, ids = f"file://{tmp_path}/store", ["t"]
    kills: list[Any] = [(begin, uri, tmp_path, ids), (work, uri, tmp_path, "b"), (work, uri, tmp_path, "c")]
    for kill in kills:
        with process(*kill) as (killed, _):
            killed.join(PATIENCE)
            assert killed.exitcode == -signal.SIGKILL
        with GCSSaver.from_conn_string(uri) as saver:
            expire(saver, ids)
    with GCSSaver.from_conn_string(uri) as saver:
        (done,) = saver.recover(build(saver, tmp_path), backoff=0)
        assert done.outcome == "finished"
    with GCSSaver.from_conn_string(uri) as saver:
        found = saver.thread("t").recoveries()
    assert [one.kind for one in found] == ["takeover"] * 3
    # A killed worker may not have had the time to complete its record.
    assert [one.ran_again in (nodes, None) for one, nodes in zip(found[:2], (("b",), ("b",)), strict=True)] == [
        True
    ] * 2
    assert found[2].ran_again == ("c",)
    assert found[2].restore is not None
    assert (tmp_path / "ran").read_text().splitlines() == ["t a", "t b", "t b", "t b", "t c", "t c"]
