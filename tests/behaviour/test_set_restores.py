"""A team goes back to a set as a whole: graphs continue from it, and what ran before stores nothing more."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, Create, Emit, Gather, Merge
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    CheckpointVerificationError,
    ConflictError,
    FencedError,
    InvalidInputError,
    SetAbortedError,
    StoreUnavailableError,
    ThreadBusyError,
)
from langgraph_gcs_saver.flows import leases, set_restores, sets
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import Hold
from langgraph_gcs_saver.format.sets import SetRecord, fields_of
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.portable.edits import next_id
from langgraph_gcs_saver.results import RestorePlan
from langgraph_gcs_saver.testing.crash import put_arguments
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.behaviour.test_forks import LOCAL, Spoiling, acquire, is_whole, loop, perform
from tests.system.raw import open_raw

TEAM, MEMBERS = "deal/42", ("extract-1", "extract-2", "planner")
THREADS = {member: keys.member_thread_id(TEAM, member) for member in MEMBERS}


def config(member: str) -> Any:
    return {"configurable": {"thread_id": THREADS[member]}}


def save_set(saver: GCSSaver, label: str | None = None) -> SetRecord:
    found = perform(saver, sets.begin(TEAM, MEMBERS, label, 30.0, saver._context))
    return perform(saver, sets.prepare(TEAM, found.set_id, saver._context))


def restore(saver: GCSSaver, set_id: str, *, dry_run: bool = False) -> RestorePlan:
    flow = set_restores.restore(TEAM, set_id, dry_run=dry_run, owner="the test", context=saver._context)
    return perform(saver, flow)


def stored(saver: GCSSaver, steps: int) -> None:
    """Each member has some checkpoints."""
    for member in MEMBERS:
        for number in range(1, steps + 1):
            saver.put(*put_arguments(number, number - 1 if number > 1 else None, thread=THREADS[member]))


def tips(saver: GCSSaver) -> dict[str, Any]:
    found = {member: saver.get_tuple(config(member)) for member in MEMBERS}
    return {member: one.checkpoint for member, one in found.items() if one is not None}


def documents(saver: GCSSaver) -> int:
    return sum(len(list(saver.list(config(member)))) for member in MEMBERS)


def test_graphs_continue_from_the_set_and_live_runs_are_fenced(make_saver: Callable[..., GCSSaver]) -> None:
    saver = make_saver()
    graphs = {member: loop(saver) for member in MEMBERS}
    wholes = {member: graph.invoke({"n": 2}, config(member)) for member, graph in graphs.items()}
    seen = {member: graphs[member].get_state(config(member)) for member in MEMBERS}
    found = save_set(saver, "before more")
    for member in MEMBERS:
        graphs[member].invoke({"n": 2}, config(member))
    runner = make_saver()
    fence = acquire(runner, THREADS["planner"]).fence
    idle = make_saver()
    former = idle.get_tuple(config("extract-1"))
    assert former is not None

    plan = restore(saver, found.set_id, dry_run=True)
    assert plan.forks == {}
    assert plan.fenced == {THREADS["planner"]: "the test"}
    assert {thread: held for thread, (held, _) in plan.threads.items()} == {
        THREADS[member]: cut.checkpoint_id for member, cut in found.cut.items()
    }
    done = restore(saver, found.set_id)
    assert done.writes == plan.writes
    assert set(done.forks) == {(thread, ns) for thread in THREADS.values() for ns in ("", "call")}

    for member, graph in graphs.items():
        now = graph.get_state(config(member))
        assert (now.values, now.next) == (seen[member].values, seen[member].next)
        assert now.config["configurable"]["checkpoint_id"] == done.forks[THREADS[member], ""]
        is_whole(saver, THREADS[member])
        assert saver.thread(THREADS[member]).status().lease is None
        (record,) = [one for one in saver.thread(THREADS[member]).recoveries() if one.kind == "restore"]
        assert record.lost is not None
        assert record.lost > 0
    with pytest.raises(FencedError):
        perform(runner, leases.beat(fence, leases.Beat(0), None))
    later: Any = {**former.checkpoint, "id": next_id(former.checkpoint["id"], 9)}
    with pytest.raises(ThreadBusyError, match="since the checkpoint was read"):
        idle.put(former.config, later, {"source": "loop", "step": 9}, {})
    again = perform(saver, sets.read(TEAM, found.set_id, saver._context))
    assert (again.restoring, again.state) == (None, "committed")
    assert again.restored is not None
    for member, graph in graphs.items():
        log = wholes[member]["out"][-1]
        assert graph.invoke({"n": 2}, config(member))["out"] == [log, log + log]
    # A set can be restored as often as it is needed.
    assert restore(saver, found.set_id).forks != done.forks


@LOCAL
def test_damage_is_found_before_anything_changes(make_saver: Callable[..., GCSSaver], store_uri: str) -> None:
    saver = make_saver(inline_max_bytes=0)
    stored(saver, 2)
    found = save_set(saver)
    for member in MEMBERS:
        saver.put(*put_arguments(3, 2, thread=THREADS[member]))
    prefix = f"{keys.spread(THREADS['planner'])}/~/{keys.enc(found.cut['planner'].checkpoint_id)}/"
    with closing(open_raw(store_uri)) as raw:
        raw.delete_object(next(name for name in raw.objects() if prefix in name and "noise" in name))
    before, count = tips(saver), documents(saver)
    with pytest.raises(CheckpointCorruptError, match="missing"):
        restore(make_saver(), found.set_id)
    assert (tips(make_saver()), documents(saver)) == (before, count)
    assert perform(saver, sets.read(TEAM, found.set_id, saver._context)).restoring is None
    assert saver.thread(THREADS["extract-1"]).status().lease is None


@LOCAL
def test_a_set_that_cannot_be_restored_says_why(saver: GCSSaver, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(saver, 2)
    found = save_set(saver)
    with pytest.raises(InvalidInputError, match="has no set"):
        restore(saver, "absent")
    monkeypatch.setattr(set_restores, "MOST_WRITES", 10)
    before = documents(saver)
    with pytest.raises(InvalidInputError, match="at most 10 are made"):
        restore(saver, found.set_id)
    assert documents(saver) == before
    monkeypatch.undo()
    monkeypatch.setattr("langgraph_gcs_saver.engine.limits.COMMIT_BYTES", 1000)
    with pytest.raises(InvalidInputError, match="Firestore accepts 1,000"):
        restore(saver, found.set_id)
    monkeypatch.undo()
    begun = perform(saver, sets.begin(TEAM, MEMBERS, None, 30.0, saver._context))
    with pytest.raises(InvalidInputError, match="is being prepared"):
        restore(saver, begun.set_id)
    aborted = replace(begun, state="aborted", decided=1)
    perform(saver, iter(Commit((Merge(begun.name, fields_of(aborted, saver._context.codec)),))))
    with pytest.raises(SetAbortedError):
        restore(saver, begun.set_id)
    perform(saver, sets.break_(Hold("set", TEAM, found.set_id), saver._context))
    with pytest.raises(InvalidInputError, match="is broken"):
        restore(saver, found.set_id)


@LOCAL
def test_a_later_restore_ends_an_earlier_one(make_saver: Callable[..., GCSSaver]) -> None:
    """The earlier one has reserved the set, and then the later one does."""
    saver, other = make_saver(), make_saver()
    stored(saver, 3)
    found = save_set(saver)
    flow = set_restores.restore(TEAM, found.set_id, dry_run=False, owner="slow", context=saver._context)
    effect = next(flow)
    while not takes_leases(effect):
        value = None if isinstance(effect, Emit) else saver._backend.perform(effect)
        effect = flow.send(value)
    done = restore(other, found.set_id)
    with pytest.raises(ConflictError, match="Another process restores"):
        perform(saver, resumed(flow, effect))
    assert {THREADS[member]: tip["id"] for member, tip in tips(other).items()} == {
        thread: fork for (thread, ns), fork in done.forks.items() if not ns
    }
    assert all(saver.thread(thread).status().lease is None for thread in THREADS.values())


def takes_leases(effect: Any) -> bool:
    """Whether an effect takes leases that no process has had before."""
    commits = effect.effects if isinstance(effect, Gather) else ()
    return any(isinstance(one, Commit) and any(isinstance(write, Create) for write in one.writes) for one in commits)


@LOCAL
def test_leases_are_taken_some_at_a_time(make_saver: Callable[..., GCSSaver], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_restores, "LEASES_AT_ONCE", 2)
    counting = CountingInterceptor()
    saver = make_saver(interceptors=[counting])
    stored(saver, 2)
    found = save_set(saver)
    counting.rounds.clear()
    restore(saver, found.set_id)
    lease = ("GetDocs", "Commit", "QueryDocs", "Commit")
    rounds = [(kind,) * number for number in (2, 1) for kind in lease]
    first = counting.rounds.index(rounds[0])
    assert counting.rounds[first : first + len(rounds)] == rounds


@LOCAL
def test_a_restore_that_gets_no_lease_of_a_member_gives_back_those_of_the_others(
    make_saver: Callable[..., GCSSaver], monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = make_saver()
    stored(saver, 2)
    found, before = save_set(saver), tips(saver)
    verify = set_restores._Restoring._verify

    def verified(self: Any, reserved: SetRecord) -> Any:
        yield from verify(self, reserved)
        yield from Commit((Merge(keys.thread_doc(THREADS["extract-2"]), {"deleting": "0" * 12}),))

    monkeypatch.setattr(set_restores._Restoring, "_verify", verified)
    with pytest.raises(ThreadBusyError, match="is being deleted"):
        restore(saver, found.set_id)
    assert tips(saver) == before
    assert list(saver.admin.leases()) == []
    assert saver._context.fences == {}
    assert perform(saver, sets.read(TEAM, found.set_id, saver._context)).restoring is None


@LOCAL
def test_an_outage_while_leases_are_taken_leaves_none(make_saver: Callable[..., GCSSaver]) -> None:
    """One of the commits is applied, and the others fail."""
    saver = make_saver()
    stored(saver, 2)
    found = save_set(saver)
    flow = set_restores.restore(TEAM, found.set_id, dry_run=False, owner="slow", context=saver._context)
    effect = next(flow)
    while not takes_leases(effect):
        effect = flow.send(None if isinstance(effect, Emit) else saver._backend.perform(effect))
    saver._backend.perform(effect.effects[0])
    assert len(list(saver.admin.leases())) == 1
    effect = flow.throw(StoreUnavailableError("an outage"))
    with pytest.raises(StoreUnavailableError, match="an outage"):
        perform(saver, resumed(flow, effect))
    assert list(saver.admin.leases()) == []
    restore(saver, found.set_id)


def resumed(flow: Any, effect: Any) -> Any:
    """The rest of a flow, from an effect on."""
    while True:
        try:
            value = yield effect
        except Exception as error:
            step = flow.throw, error
        else:
            step = flow.send, value
        try:
            effect = step[0](step[1])
        except StopIteration as stop:
            return stop.value


@LOCAL
def test_a_restore_that_does_not_read_back_is_withdrawn(make_saver: Callable[..., GCSSaver]) -> None:
    saver = make_saver()
    stored(saver, 2)
    found = save_set(saver)
    before = tips(saver)
    with pytest.raises(CheckpointVerificationError):
        restore(make_saver(interceptors=[Spoiling()]), found.set_id)
    assert tips(saver) == before
    after = perform(saver, sets.read(TEAM, found.set_id, saver._context))
    assert (after.restored, after.restoring) == (None, None)
    assert list(saver.admin.recoveries()) == []
    restore(saver, found.set_id)
    assert len(list(saver.admin.recoveries())) == len(MEMBERS)


@LOCAL
def test_operations_after_the_set_are_named(saver: GCSSaver) -> None:
    stored(saver, 2)
    operations = saver.thread(THREADS["planner"]).operations
    operations.once("charge", lambda: 1, key="before")
    for member in MEMBERS:
        saver.put(*put_arguments(3, 2, thread=THREADS[member]))
    found = save_set(saver)
    operations.once("charge", lambda: 1, key="order-17")
    plan = restore(saver, found.set_id, dry_run=True)
    assert plan.not_undone == (f"operation 'order-17' (charge) of thread {THREADS['planner']!r}",)
    assert "not undone: operation 'order-17'" in str(plan)


@LOCAL
def test_a_set_outlives_pruning_and_its_forks_do(saver: GCSSaver) -> None:
    stored(saver, 2)
    found = save_set(saver)
    for member in MEMBERS:
        for number in range(3, 6):
            saver.put(*put_arguments(number, number - 1, thread=THREADS[member]))
        saver.admin.prune([THREADS[member]], strategy=KeepLast(1))
    restore(saver, found.set_id)
    perform(saver, sets.end(TEAM, found.set_id, saver._context))
    for member in MEMBERS:
        saver.admin.prune([THREADS[member]], strategy=KeepLast(1))
        is_whole(saver, THREADS[member])
    assert documents(saver) == len(MEMBERS)
    assert {tip["channel_values"]["number"] for tip in tips(saver).values()} == {2}
