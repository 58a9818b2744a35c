"""Teams as callers use them: sets of real graphs' threads, what verifies them, and how they end."""

import asyncio
from datetime import datetime, timedelta, timezone
from operator import add
from typing import Annotated, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, StateGraph

from langgraph_gcs_saver import GCSSaver, run
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    DamageError,
    InvalidIdError,
    InvalidInputError,
    InvalidOptionError,
    SetAbortedError,
    ThreadInSetError,
    WrongKeyError,
)
from langgraph_gcs_saver.events import SetDecided, SetRestored
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver.admin import Admin
from langgraph_gcs_saver.testing.crash import put_arguments
from tests.incremental.eax import Eax
from tests.kit import methods
from tests.system.build import noise

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
"""For what does not depend on the services."""


class Inner(TypedDict):
    memory: Annotated[list[str], add]


class Plain(TypedDict):
    said: Annotated[list[str], add]
    notes: Annotated[list[str], add]
    large: bytes


class State(Plain):
    notes: Annotated[list[str], DeltaChannel(lambda old, new: [*old, *(one for more in new for one in more)])]


def agent(saver, state=State):
    """A graph with a subgraph that keeps its state, and a value in an object; by default also with a DeltaChannel."""
    inner = StateGraph(Inner).add_node("recall", lambda state: {"memory": [f"{len(state['memory'])} before"]})
    inner = inner.add_edge(START, "recall").compile(checkpointer=True)

    def remember(state):
        return {"notes": [inner.invoke({"memory": [state["said"][-1]]})["memory"][-1]]}

    outer = StateGraph(state).add_node("remember", remember)
    return outer.add_edge(START, "remember").compile(checkpointer=saver)


def config(team, name):
    return {"configurable": {"thread_id": team.member(name).id}}


def turn(saver, team, name, text, state=State):
    """A turn of a member's graph."""
    return run(agent(saver, state), {"said": [text], "large": noise(300_000, text)}, config(team, name), team=team)


def said(saver, team, name):
    return agent(saver).get_state(config(team, name)).values["said"]


def made(saver, names=("a", "b"), **options):
    """A team whose members have done a turn."""
    team = saver.team("deal 42/ä", names, **options)
    for name in names:
        turn(saver, team, name, f"{name} 1")
    return team


def call(team, name, *args, is_async, **options):
    """Call a method, or its asynchronous twin."""
    if is_async:
        return asyncio.run(getattr(team, f"a{name}")(*args, **options))
    return getattr(team, name)(*args, **options)


# Sets


@pytest.mark.parametrize("is_async", [False, True])
def test_a_team_from_its_first_set_to_its_end(make_saver, is_async):
    events = []
    saver = make_saver(on_event=events.append)
    team = made(saver)
    threads = {"a": "deal 42%2Fä/a", "b": "deal 42%2Fä/b"}
    assert call(team, "threads", is_async=is_async) == threads
    saved = call(team, "checkpoint", "before merge", is_async=is_async)
    assert (saved.state, saved.label, saved.members, saved.missing) == ("committed", "before merge", ("a", "b"), ())
    tips = {name: agent(saver).get_state(config(team, name)).config["configurable"] for name in threads}
    assert saved.cut == {name: tip["checkpoint_id"] for name, tip in tips.items()}
    assert abs(saved.begun - datetime.now(timezone.utc)) < timedelta(hours=1)
    assert saved.begun <= saved.decided
    assert call(team, "sets", is_async=is_async) == [saved]
    assert call(team, "verify", saved, is_async=is_async) == []
    for name in threads:
        turn(saver, team, name, f"{name} 2")
    plan = call(team, "restore", saved, dry_run=True, is_async=is_async)
    assert set(plan.threads) == set(threads.values())
    assert said(saver, team, "a") == ["a 1", "a 2"]
    done = call(team, "restore", saved.set_id, is_async=is_async)
    assert {thread for thread, ns in done.forks if ns == ""} == set(threads.values())
    assert {name: said(saver, team, name) for name in threads} == {"a": ["a 1"], "b": ["b 1"]}
    (again,) = call(team, "sets", is_async=is_async)
    assert again.restored is not None
    assert [*saver.admin.verify(depth="data")] == []
    (listed,) = methods.perform(saver.admin, "teams", is_async=is_async)
    assert (listed.team, listed.threads, listed.retention, listed.sets) == (team.id, threads, 10, (again,))
    assert (str(listed), listed.newest) == ("Team 'deal 42/ä': 2 members, 1 committed set", again)
    assert [call(team, "remove", "b", is_async=is_async) for _ in range(2)] == [True, False]
    assert list(call(team, "threads", is_async=is_async)) == ["a"]
    assert call(team, "sets", is_async=is_async) == [again]
    call(team, "delete_set", saved, is_async=is_async)
    call(team, "delete_set", saved, is_async=is_async)
    assert call(team, "sets", is_async=is_async) == []
    call(team, "delete", is_async=is_async)
    assert [*saver.admin.teams()] == []
    assert said(saver, team, "b") == ["b 1"]
    assert [type(one).__name__ for one in events if isinstance(one, (SetDecided, SetRestored))] == [
        "SetDecided",
        "SetRestored",
    ]
    decided = next(one for one in events if isinstance(one, SetDecided))
    assert (decided.team, decided.set_id, decided.state, decided.members) == (team.id, saved.set_id, "committed", 2)


@LOCAL
def test_a_worker_continues_a_run_that_had_ended_after_the_set(make_saver):
    saver, sets = make_saver(), []
    team = saver.team("deal-42", ["a", "b"])

    def second(_):
        if not sets:
            sets.append(team.checkpoint(members=["a", "b"]))
        return {"said": ["second"]}

    graph = StateGraph(Plain).add_node("first", lambda _: {"said": ["first"]}).add_node("second", second)
    graph = graph.add_edge(START, "first").add_edge("first", "second").compile(checkpointer=saver)
    saver.put(*put_arguments(1, None, thread=team.member("b").id))  # No run stored it, so no worker looks at it.
    run(graph, {"said": []}, config(team, "a"), team=team, durability="sync")
    team.restore(sets[0])
    assert [(one.thread_id, one.state) for one in saver.admin.runs()] == [(team.member("a").id, "due")]
    assert [(one.thread_id, one.outcome) for one in saver.recover(graph)] == [(team.member("a").id, "finished")]
    assert graph.get_state(config(team, "a")).values["said"] == ["first", "second"]


@pytest.mark.parametrize("state", [State, Plain])
def test_a_restored_graph_continues_with_the_states_of_the_set(make_saver, state):
    """A set of a restored team can itself be restored, after all that was not held was pruned."""
    saver = make_saver()
    team = saver.team("deal", ["a"])
    turn(saver, team, "a", "first", state)
    first = team.checkpoint()
    turn(saver, team, "a", "lost", state)
    team.restore(first)
    # The tip is a fork now, and so is the state of its subgraph.
    second = team.checkpoint()
    assert second.cut != first.cut
    team.delete_set(first)
    for text in ("later", "last"):
        turn(saver, team, "a", text, state)
    saver.admin.prune([team.member("a").id])
    assert team.verify(second) == []
    team.restore(second)
    found = turn(saver, team, "a", "again", state)
    assert found["said"] == ["first", "again"]
    assert found["notes"] == ["1 before", "3 before"]


@LOCAL
@pytest.mark.parametrize("finishes", [False, True])
def test_a_worker_resumes_a_restored_run(make_saver, finishes):
    """One that had finished meanwhile is due again."""
    saver, fails = make_saver(), [True]
    team = saver.team("deal")

    def second(_):
        if fails:
            raise TimeoutError
        return {"said": ["second"]}

    graph = StateGraph(State).add_node("first", lambda _: {"said": ["first"]}).add_node("second", second)
    graph = graph.add_edge(START, "first").add_edge("first", "second").compile(checkpointer=saver)
    with pytest.raises(TimeoutError):
        run(graph, {"said": []}, config(team, "a"), team=team)
    saved = team.checkpoint()
    fails.clear()
    if finishes:
        run(graph, None, config(team, "a"), team=team)
    team.restore(saved)
    assert said(saver, team, "a") == ["first"]
    assert [one.thread_id for one in saver.recover(graph, backoff=0)] == [team.member("a").id]
    assert run(graph, None, config(team, "a"), team=team)["said"] == ["first", "second"]


@LOCAL
def test_a_member_without_a_checkpoint(make_saver):
    events = []
    saver = make_saver(on_event=events.append)
    team = made(saver, ("a",))
    team.member("late")
    with pytest.raises(SetAbortedError) as error:
        team.checkpoint(timeout=1)  # clock: the set cannot be committed at any time
    assert error.value.missing == ("late",)
    (aborted,) = team.sets()
    assert (aborted.state, aborted.missing, aborted.cut) == ("aborted", ("late",), {})
    with pytest.raises(InvalidInputError, match="is aborted, so it has no checkpoints"):
        team.verify(aborted)
    (event,) = [one for one in events if isinstance(one, SetDecided)]
    assert (event.state, event.missing) == ("aborted", ("late",))
    # It was named, so it has joined.
    assert saver.team(team.id).threads().keys() == {"a", "late"}
    assert saver.team(team.id).checkpoint(members=["a"]).members == ("a",)


@LOCAL
def test_only_as_many_sets_are_kept_as_the_team_says(make_saver):
    saver = make_saver()
    team = made(saver, ("a",), retention=2)
    labels = []
    for number in range(4):
        labels.append(team.checkpoint(str(number)).label)
        turn(saver, team, "a", f"then {number}")
    assert [one.label for one in team.sets()] == ["3", "2"]
    # The number is stored, and counts for handles that do not say one.
    same = saver.team(team.id)
    same.checkpoint("4")
    assert [one.label for one in same.sets()] == ["4", "3"]
    held = {hold for one in saver.admin.history(team.member("a").id) for hold in one.holds}
    assert held == {f"set {one.set_id} of team {team.id}" for one in same.sets()}
    with pytest.raises(ThreadInSetError):
        saver.admin.delete_thread(team.member("a").id)
    same.delete()
    assert saver.admin.delete_thread(team.member("a").id).exists


@LOCAL
def test_a_set_is_committed_although_older_ones_cannot_be_deleted(make_saver, raw, caplog):
    team = made(make_saver(), ("a",))
    old = team.checkpoint("old")
    change(raw, keys.set_doc(team.id, old.set_id), format=2)
    saved = team.checkpoint("new")
    assert saved.state == "committed"
    (line,) = [one.getMessage() for one in caplog.records if "older sets" in one.getMessage()]
    assert team.id in line
    change(raw, keys.set_doc(team.id, old.set_id), format=1)
    assert [one.label for one in team.sets()] == ["new", "old"]


def test_collecting_and_sweeping_leave_teams_alone(make_saver):
    saver = make_saver(ttl=timedelta(hours=1))
    team = made(saver)
    saved = team.checkpoint()
    saver.admin.collect(orphan_age=timedelta(0))
    assert saver.admin.sweep() == []
    assert team.sets() == [saved]
    saver.admin.copy_thread(team.member("a").id, "copy")
    assert {hold for one in saver.admin.history("copy") for hold in one.holds} == set()
    assert [*saver.admin.verify(depth="data")] == []


@LOCAL
def test_with_a_cipher(make_saver, raw):
    saver = make_saver(cipher=Eax("key"))
    team = made(saver, ("a",))
    saved = team.checkpoint("a secret label")
    assert team.verify(saved) == []
    assert [one.label for one in team.sets()] == ["a secret label"]
    assert not any(b"secret" in repr(fields).encode() for fields in raw.documents().values())


# Damage


def head_of(saved, team, name="a"):
    """The document of a member's checkpoint in a set."""
    return keys.checkpoint_doc(team.member(name).id, "", saved.cut[name])


def change(raw, name, **fields):
    raw.set_document(name, {**raw.documents()[name], **fields})


def inner_of(raw, team, name="a"):
    """The newest document of the subgraph's state."""
    found = [doc for doc in raw.documents() if keys.CHECKPOINTS in doc and doc.endswith("!remember")]
    return min(doc for doc in found if doc.startswith(keys.thread_doc(team.member(name).id)))


def lose(raw, saved, team):
    raw.delete_document(head_of(saved, team))


def swap(raw, saved, team):
    digest = bytearray(raw.documents()[head_of(saved, team)]["digest"])
    digest[0] ^= 1
    change(raw, head_of(saved, team), digest=bytes(digest))


def unhold(raw, saved, team):
    change(raw, head_of(saved, team), holds={})


def lose_objects(raw, saved, team):
    for name in raw.objects():
        raw.delete_object(name)


def flip_writes(raw, saved, team):
    """The writes that DeltaChannels are made of belong to the ancestors of the checkpoint."""
    for name, fields in raw.documents().items():
        if f"/{keys.WRITES}/" in name:
            key, data = next((key, value) for key, value in fields.items() if isinstance(value, bytes))
            change(raw, name, **{key: data[:-1] + bytes([data[-1] ^ 1])})


def flip_state_of_subgraph(raw, saved, team):
    frames = raw.documents()[inner_of(raw, team)]["frames"]
    change(raw, inner_of(raw, team), frames=bytes([*frames[:-1], frames[-1] ^ 1]))


DAMAGE = {
    lose: ("missing", True),
    swap: ("corrupt", True),
    unhold: ("corrupt", True),
    lose_objects: ("missing", False),
    flip_writes: ("corrupt", False),
    flip_state_of_subgraph: ("corrupt", False),
}
"""Damage, the kind of the finding, and whether the documents of sets show it."""


@LOCAL
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda one: one.__name__)
def test_damage_to_a_set_is_found(make_saver, raw, damage):
    kind, by_documents = DAMAGE[damage]
    team = made(make_saver())
    saved = team.checkpoint()
    damage(raw, saved, team)
    with make_saver() as fresh:
        found = fresh.team(team.id).verify(saved)
        assert found
        assert {one.kind for one in found} >= {kind}, found
        assert all(one.is_damage and one.thread_id.startswith("deal 42%2F") for one in found)
        everywhere = [one.reason for one in fresh.admin.verify(depth="data")]
        assert any(f"set {saved.set_id} of team {team.id}" in reason for reason in everywhere) == by_documents
        assert everywhere
        if damage is not unhold:
            with pytest.raises((CheckpointCorruptError, DamageError, InvalidInputError)):
                fresh.team(team.id).restore(saved)
            assert fresh.team(team.id).sets()[0].restored is None


@LOCAL
def test_damage_outside_of_a_set_is_not_about_it(make_saver, raw):
    saver = make_saver()
    team = made(saver, ("a",))
    saved = team.checkpoint()
    turn(saver, team, "a", "later")
    tip = agent(saver).get_state(config(team, "a")).config["configurable"]["checkpoint_id"]
    raw.delete_document(keys.checkpoint_doc(team.member("a").id, "", tip))
    flip_state_of_subgraph(raw, saved, team)
    with make_saver() as fresh:
        assert fresh.team(team.id).verify(saved) == []
        assert [*fresh.admin.verify(depth="data")] != []


@LOCAL
def test_damaged_documents_of_teams(make_saver, raw):
    """A damaged set of one team hides neither the others nor the teams; it can be deleted, with its holds."""
    saver = make_saver()
    team, other = made(saver, ("a",)), saver.team("other", ["x"])
    turn(saver, other, "x", "hello")
    saved, whole = team.checkpoint(), other.checkpoint()
    change(raw, keys.set_doc(team.id, saved.set_id), state="aborted")
    with pytest.raises(DamageError):
        team.sets()
    listed = []
    with pytest.raises(DamageError):
        listed.extend(saver.admin.teams())
    assert [(one.team, one.newest) for one in listed] == [("other", whole)]
    (finding,) = [one for one in saver.admin.verify() if not one.thread_id]
    assert (finding.kind, finding.name) == ("corrupt", keys.set_doc(team.id, saved.set_id))
    assert str(finding).startswith(f"corrupt: {finding.name} (a team): ")
    team.delete()
    assert [one.team for one in saver.admin.teams()] == ["other"]
    assert not any(one.holds for one in saver.admin.history(team.member("a").id))


# Arguments


@LOCAL
def test_what_is_no_team(make_saver):
    saver = make_saver()
    for members in ("planner", [5], [None]):
        with pytest.raises(InvalidInputError):
            saver.team("t", members)
    for team_id, members in (("", ()), ("x" * 2000, ()), ("t", [""]), ("t", ["\ud800"])):
        with pytest.raises(InvalidIdError):
            saver.team(team_id, members)
    with pytest.raises(InvalidInputError):
        saver.admin.team(5)
    for options in ({"retention": 0}, {"retention": True}, {"retention": 1001}, {"vote_wait": -1}):
        with pytest.raises(InvalidOptionError):
            saver.team("t", **options)
    with pytest.raises(InvalidInputError):
        saver.team("t", vote_wait="1")
    team = saver.team("t")
    assert repr(team) == "Team('t')"
    assert repr(saver.admin.team("t")) == "TeamSets('t')"
    with pytest.raises(InvalidOptionError):
        team.retention = 0
    with pytest.raises(InvalidIdError):
        team.member("")


@LOCAL
def test_what_is_no_set(make_saver):
    saver = make_saver()
    with pytest.raises(InvalidInputError, match="has no members"):
        saver.team("none").checkpoint()
    team = made(saver, ("a",))
    saved = team.checkpoint()
    for bad in ({"timeout": "5"}, {"label": 5}, {"label": "\ud800"}, {"members": "a"}, {"label": "x" * 1001}):
        with pytest.raises(InvalidInputError):
            team.checkpoint(**bad)
    with pytest.raises(InvalidOptionError):
        team.checkpoint(timeout=0)
    with pytest.raises(InvalidInputError, match="100"):
        team.checkpoint(members=[f"m{number}" for number in range(101)])
    assert saver.team(team.id).threads().keys() == {"a"}, "nothing was written"
    for method in (team.verify, team.restore):
        with pytest.raises(InvalidInputError, match="no set 'unknown'"):
            method("unknown")
        with pytest.raises(InvalidInputError, match="is of type int"):
            method(5)
    with pytest.raises(InvalidInputError, match="not of team 'other'"):
        saver.team("other").restore(saved)


@LOCAL
def test_the_handle_of_operators_does_the_same(make_saver, store_uri):
    team = made(make_saver(), ("a",))
    with Admin.from_conn_string(store_uri) as admin:
        sets = admin.team(team.id)
        saved = sets.checkpoint("by an operator")
        assert sets.verify(saved) == []
        assert sets.restore(saved).set_id == saved.set_id
    assert [one.label for one in asyncio.run(team.asets())] == ["by an operator"]


@LOCAL
def test_a_team_that_nothing_uses_costs_nothing(make_saver):
    """Making handles reads nothing."""
    saver = make_saver()
    saver.close()
    assert saver.team("t", ["a"]).member("a").id == "t/a"
    assert isinstance(saver, GCSSaver)


@LOCAL
def test_a_process_with_another_key_begins_no_set(make_saver, raw):
    """The members could not read it. One that was written all the same can be deleted."""
    team, other = made(make_saver(cipher=Eax("the key"))), make_saver(cipher=Eax("another key")).team("deal 42/ä")
    before = raw.documents()
    for wrong in (other, make_saver().team("deal 42/ä")):
        with pytest.raises(WrongKeyError):
            wrong.checkpoint()
    assert raw.documents() == before
    saved = team.checkpoint()
    other.delete_set(saved)
    assert team.sets() == []
    assert not any(fields.get("holds") for fields in raw.documents().values())
