"""Members of a team under their leases: how they join, how they learn of a set, how they vote, and how they wait."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.errors import GraphDrained
from langgraph.graph import END, START, StateGraph

import benchmarks.teams as simulated
from langgraph_gcs_saver import GCSSaver, arun, astream, run, stream
from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.engine.effects import Commit, Effect, GetDocs, Merge, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor, Perform
from langgraph_gcs_saver.errors import InvalidInputError, SetAbortedError, StoreUnavailableError
from langgraph_gcs_saver.flows import leases, members, sets
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.sets import Preparing, SetRecord, Vote
from langgraph_gcs_saver.saver.thread import Thread
from langgraph_gcs_saver.saver.voter import VOTES
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.patience import Clock, aeventually, eventually
from tests.system.build import DEFAULT, cfg, checkpoint, cid, put

TEAM = "deal/42"
NAMES = ["left", "right"]
MODES = ["readback", "checksum", "off"]


class Requests(Interceptor):
    """Keeps the requests of a saver, and fails those for which `refuses` is true."""

    def __init__(self) -> None:
        self.effects: list[Effect[Any]] = []
        self.refuses: Any = lambda effect: False

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        self.effects.append(effect)
        if self.refuses(effect):
            raise StoreUnavailableError("The store cannot be reached.")
        return perform(effect)


class Documents(MemoryDocuments):
    """Documents that several savers share, so that none of them closes the store."""

    def close(self) -> None:
        pass


@pytest.fixture
def stores() -> tuple[MemoryDocuments, MemoryBlobs]:
    return Documents(), MemoryBlobs()


@pytest.fixture
def seen() -> Requests:
    return Requests()


@pytest.fixture
def saver(stores: Any, seen: Requests) -> Iterator[GCSSaver]:
    with GCSSaver(stores=stores, interceptors=[seen]) as saver:
        yield saver


@pytest.fixture
def other(stores: Any) -> Iterator[GCSSaver]:
    """The saver of another process on the same store, as far as the store knows."""
    with GCSSaver(stores=stores) as saver:
        yield saver


def perform(saver: GCSSaver, flow: Any) -> Any:
    return runner.run(flow, saver._backend)


def read(saver: GCSSaver, name: str) -> Any:
    doc = perform(saver, iter(GetDocs((name,)))).get(name)
    return None if doc is None else doc.fields


def begin(saver: GCSSaver, names: Any = NAMES, timeout: float = 600.0) -> SetRecord:
    return perform(saver, sets.begin(TEAM, names, None, timeout, saver._context))


def contend(saver: GCSSaver) -> None:
    """Say that a try to decide was lost because members continued."""
    perform(saver, iter(Commit((Merge(keys.team_doc(TEAM), {"contended": 1}),))))


def vote_of(saver: GCSSaver, found: SetRecord, member: str) -> Vote | None:
    look = perform(saver, sets.look(TEAM, found.set_id, saver._context))
    return look.votes.get(member)


def voted_for(saver: GCSSaver, found: SetRecord, member: str) -> str | None:
    """The id of the checkpoint that a member has voted for."""
    vote = vote_of(saver, found, member)
    return None if vote is None else vote.checkpoint_id


def await_vote(saver: GCSSaver, found: SetRecord, member: str, number: int) -> None:
    """Wait until a member has voted for a checkpoint."""
    eventually(lambda: voted_for(saver, found, member) == cid(number))


def step(saver: GCSSaver, lease: Any, number: int) -> None:
    config = cfg(number - 1 if number > 1 else None, thread=lease.thread_id, ns="")
    config["configurable"] |= lease.config["configurable"]
    versions = {"a": f"{number:032}.0.5"}
    saver.put(config, checkpoint(number, {"a": number}), {**DEFAULT, "step": number}, versions)


class State(TypedDict):
    done: Annotated[list[str], operator.add]


def build(saver: GCSSaver, act: Any = lambda name: None, names: str = "abc") -> Any:
    """Nodes in a row. Each calls `act` with its name first."""
    graph = StateGraph(State)
    for name in names:

        def node(state: State, name: str = name) -> dict[str, list[str]]:
            act(name)
            return {"done": [name]}

        graph.add_node(name, node)
    graph.add_edge(START, names[0])
    for one, following in pairwise(names):
        graph.add_edge(one, following)
    graph.add_edge(names[-1], END)
    return graph.compile(checkpointer=saver)


# Joining


def test_the_commit_that_takes_the_lease_makes_the_thread_a_member(saver: GCSSaver, seen: Requests) -> None:
    with saver.thread("plain").lease():
        pass
    plain = [type(effect).__name__ for effect in seen.effects]
    seen.effects.clear()
    member = saver.team(TEAM).member("left")
    with member.lease():
        assert [type(effect).__name__ for effect in seen.effects] == plain[: len(seen.effects)]
        assert read(saver, keys.team_doc(TEAM))["team"] == TEAM
        assert read(saver, keys.member_doc(TEAM, "left"))["member"] == "left"
        assert read(saver, keys.fence_doc(member.id))["team"] == TEAM
    assert perform(saver, sets.members(TEAM)) == ["left"]
    seen.effects.clear()
    with member.lease():
        taking = next(effect for effect in seen.effects if isinstance(effect, Commit))
        assert not any(write.name.startswith(keys.TEAMS) for write in taking.writes)
    assert perform(saver, sets.members(TEAM)) == ["left"]


def test_a_member_whose_name_cannot_be_stored_does_not_get_the_lease(saver: GCSSaver) -> None:
    member = members.Member(TEAM, "x" * 300)
    with pytest.raises(ValueError, match="name of a member"), Thread(saver, saver._leases, "t", member).lease():
        pass
    assert list(saver.admin.leases()) == []


def test_two_members_that_join_a_new_team_at_once_both_do(stores: Any) -> None:
    team = GCSSaver(stores=stores).team(TEAM)
    start = threading.Barrier(8)

    def join(name: str) -> None:
        start.wait()
        with team.member(name).lease():
            pass

    threads = [threading.Thread(target=join, args=(f"m{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(team.threads()) == [f"m{number}" for number in range(8)]


def test_a_process_that_resumes_the_thread_is_the_member_without_being_asked(saver: GCSSaver, other: GCSSaver) -> None:
    thread = saver.team(TEAM).member("left")
    with thread.lease() as lease:
        step(saver, lease, 1)
    found = begin(other, ["left"])
    with other.thread(thread.id).lease() as lease:
        step(other, lease, 2)
        await_vote(other, found, "left", 2)


@pytest.mark.parametrize("wrong", ["another", 7, keys.member_thread_id("another", "left")])
def test_a_fence_that_names_another_team_makes_no_member(saver: GCSSaver, wrong: Any) -> None:
    thread_id = saver.team(TEAM).member("left").id
    with saver.thread(thread_id).lease():
        pass
    perform(saver, iter(Commit((Merge(keys.fence_doc(thread_id), {"team": wrong}),))))
    with saver.thread(thread_id).lease() as lease:
        assert saver._leases.held_in(lease.config).voter is None  # type: ignore[union-attr]
        step(saver, lease, 1)


@pytest.mark.parametrize("thread_id", ["left", "deal/42/left", "deal%2F42/", "deal%2F43/left"])
def test_a_thread_of_no_member_is_none(thread_id: str) -> None:
    assert members.Member.of(TEAM, thread_id) is None


@pytest.mark.parametrize(("team", "name"), [(TEAM, "left"), ("a%2Fb", "x/y"), ("ä", "ö/%2F")])
def test_the_member_of_a_thread_is_found_by_its_id(team: str, name: str) -> None:
    assert members.Member.of(team, members.Member(team, name).thread_id) == members.Member(team, name)


# Runs


def test_a_run_of_a_team_makes_its_thread_a_member_in_every_way(saver: GCSSaver) -> None:
    graph, team, given = build(saver), saver.team(TEAM), {"done": []}

    def config(name: str) -> Any:
        return {"configurable": {"thread_id": team.member(name).id}}

    async def calls() -> None:
        await arun(graph, given, config("b"), team=team)
        async for _ in astream(graph, given, config("d"), team=team):
            pass

    run(graph, given, config("a"), team=team)
    asyncio.run(calls())
    list(stream(graph, given, config("c"), team=team))
    assert perform(saver, sets.members(TEAM)) == list("abcd")
    assert saver.get_tuple(config("a")).checkpoint["channel_values"]["done"] == ["a", "b", "c"]  # type: ignore[union-attr]


def test_a_run_of_a_team_needs_a_thread_and_a_lease_of_that_team(saver: GCSSaver) -> None:
    graph, team, given = build(saver), saver.team(TEAM), {"done": []}
    with pytest.raises(InvalidInputError, match=r"not a thread of team 'deal/42'.*member\(name\)\.id"):
        run(graph, given, {"configurable": {"thread_id": "left"}}, team=team)
    thread = team.member("left")
    with (
        saver.thread(thread.id).lease() as lease,
        pytest.raises(InvalidInputError, match=r"not acquired for team.*member\(name\)\.lease"),
    ):
        run(graph, given, lease.config, team=team)
    with thread.lease() as lease:
        assert run(graph, given, lease.config, team=team) == {"done": ["a", "b", "c"]}


# What a put costs


@pytest.mark.parametrize("verify", MODES)
def test_a_put_reads_the_teams_document_without_a_round_of_its_own(stores: Any, verify: Any) -> None:
    count, seen = CountingInterceptor(), Requests()
    with GCSSaver(stores=stores, verify=verify, interceptors=[count, seen]) as saver:

        def puts(thread: Thread) -> tuple[int, list[Effect[Any]]]:
            with thread.lease() as lease:
                step(saver, lease, 1)
                count.clear(), seen.effects.clear()
                step(saver, lease, 2)
                return len(count.rounds), list(seen.effects)

        rounds, plain = puts(saver.thread("t"))
        of_team, found = puts(saver.team(TEAM).member("left"))
    assert of_team == rounds

    def writes(effects: list[Effect[Any]]) -> list[int]:
        return [len(effect.writes) for effect in effects if isinstance(effect, Commit)]

    def reads(effects: list[Effect[Any]]) -> list[str]:
        return [name for effect in effects if isinstance(effect, GetDocs) for name in effect.names]

    assert writes(found) == writes(plain)
    assert len(reads(found)) == len(reads(plain)) + 1
    assert [name for name in reads(found) if name.startswith(keys.TEAMS)] == [keys.team_doc(TEAM)]


@pytest.mark.parametrize("verify", MODES)
def test_a_thread_outside_makes_the_same_requests_while_a_set_is_prepared(stores: Any, verify: Any) -> None:
    def requests(thread_id: str) -> list[Any]:
        seen = Requests()
        with GCSSaver(stores=stores, verify=verify, interceptors=[seen]) as saver:
            for number in range(1, 4):
                put(saver, number, {"a": number}, parent=number - 1 or None, thread=thread_id)
            with saver.thread(thread_id).lease() as lease:
                step(saver, lease, 4)
                step(saver, lease, 5)
        return [
            (type(one), [name.split("/")[2:] for name in one.names])
            if isinstance(one, GetDocs)
            else (type(one), len(one.writes) if isinstance(one, Commit) else 0)
            for one in seen.effects
        ]

    before = requests("before")
    with GCSSaver(stores=stores) as saver:
        begin(saver)
    assert requests("behind") == before


def test_subgraphs_and_pending_writes_of_a_member_read_nothing_more(saver: GCSSaver, seen: Requests) -> None:
    with saver.team(TEAM).member("left").lease() as lease:
        step(saver, lease, 1)
        seen.effects.clear()
        config = cfg(None, thread=lease.thread_id, ns="sub:1")
        config["configurable"] |= lease.config["configurable"]
        saver.put(config, checkpoint(2, {"a": 2}), DEFAULT, {"a": f"{2:032}.0.5"})
        config["configurable"] |= {"checkpoint_ns": "", "checkpoint_id": cid(1)}
        saver.put_writes(config, [("a", 3)], "task")
        names = [name for one in seen.effects if isinstance(one, GetDocs) for name in one.names]
    assert names
    assert keys.team_doc(TEAM) not in names


# Votes


@pytest.mark.parametrize("verify", MODES)
def test_a_put_votes_for_what_it_has_stored_and_the_set_is_committed(stores: Any, verify: Any) -> None:
    with (
        GCSSaver(stores=stores, verify=verify) as saver,
        GCSSaver(stores=stores) as other,
        saver.team(TEAM).member("left").lease() as lease,
    ):
        step(saver, lease, 1)
        found = begin(other, ["left"])
        step(saver, lease, 2)
        await_vote(other, found, "left", 2)
        done = perform(other, sets.decide(TEAM, found.set_id, other._context))
        assert (done.state, done.cut["left"].checkpoint_id) == ("committed", cid(2))
        # The hold has changed the checkpoint that the member continues from.
        step(saver, lease, 3)
        assert saver.get_tuple(lease.config).metadata["step"] == 3  # type: ignore[union-attr]


def test_a_member_votes_again_after_each_put_and_after_a_hold_has_changed_its_checkpoint(
    saver: GCSSaver, other: GCSSaver
) -> None:
    with saver.team(TEAM).member("left").lease() as lease:
        step(saver, lease, 1)
        for number in (2, 3):
            found = begin(other, ["left"])
            step(saver, lease, number)
            await_vote(other, found, "left", number)
            assert perform(other, sets.decide(TEAM, found.set_id, other._context)) is not None
        found = begin(other, ["left"])
        saver._leases.held_in(lease.config).voter.look()  # type: ignore[union-attr]  # as each beat does
        eventually(lambda: vote_of(other, found, "left"))
        assert perform(other, sets.decide(TEAM, found.set_id, other._context)).state == "committed"


def test_a_beat_learns_of_a_set_and_votes_for_the_tip(saver: GCSSaver, other: GCSSaver) -> None:
    with saver.team(TEAM).member("left").lease(ttl=5) as lease:
        step(saver, lease, 1)
        found = begin(other, ["left"])
        vote = eventually(lambda: vote_of(other, found, "left"))
        assert vote.checkpoint_id == cid(1)


def test_a_member_without_a_checkpoint_votes_for_none(saver: GCSSaver, other: GCSSaver, seen: Requests) -> None:
    with saver.team(TEAM).member("left").lease() as lease:
        found = begin(other, ["left"])
        voter = saver._leases.held_in(lease.config).voter  # type: ignore[union-attr]
        voter.look()  # type: ignore[union-attr]
        eventually(lambda: any(isinstance(one, QueryDocs) and "deal" in one.collection for one in seen.effects[4:]))
        assert vote_of(other, found, "left") is None


def test_a_vote_that_fails_changes_no_put(
    saver: GCSSaver, other: GCSSaver, seen: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    def is_vote(effect: Effect[Any]) -> bool:
        return isinstance(effect, Commit) and any(keys.VOTES in write.name for write in effect.writes)

    with saver.team(TEAM).member("left").lease() as lease:
        step(saver, lease, 1)
        found = begin(other, ["left"])
        seen.refuses = is_vote
        step(saver, lease, 2)
        eventually(lambda: "did not vote: The store cannot be reached." in caplog.text)
        contend(other)
        caplog.clear()
        step(saver, lease, 3)
        assert "did not vote" in caplog.text
        assert vote_of(other, found, "left") is None
        assert saver.get_tuple(lease.config).metadata["step"] == 3  # type: ignore[union-attr]
        seen.refuses = lambda effect: False
        eventually(lambda: vote_of(other, found, "left"))  # The job looks again.


def test_a_member_decides_when_no_coordinator_is_left(saver: GCSSaver, other: GCSSaver) -> None:
    with saver.team(TEAM).member("left").lease() as lease:
        step(saver, lease, 1)
        found = begin(other, ["left", "gone"], timeout=0.5)  # clock: its end is what this waits for
        step(saver, lease, 2)
        done = eventually(
            lambda: (one := perform(other, sets.read(TEAM, found.set_id, other._context))).state == "aborted" and one
        )
        assert done.missing == ("gone",)
        # The document does not name the set any more, so the job ends.
        background = saver._background._processes.get().queues[VOTES]
        eventually(lambda: not background.timers)


def test_a_lease_that_has_ended_looks_no_more(saver: GCSSaver, other: GCSSaver) -> None:
    with saver.team(TEAM).member("left").lease() as lease:
        step(saver, lease, 1)
        begin(other)
        step(saver, lease, 2)
        timers = saver._background._processes.get().queues[VOTES].timers
        assert timers
    assert not timers


# Waiting


def test_a_put_waits_for_the_decision_once_a_try_was_lost(saver: GCSSaver, other: GCSSaver) -> None:
    with saver.team(TEAM, vote_wait=600.0).member("left").lease() as lease:
        step(saver, lease, 1)
        found = begin(other, ["left"])
        contend(other)
        working = threading.Thread(target=step, args=(saver, lease, 2))
        working.start()
        vote = eventually(lambda: vote_of(other, found, "left"))
        assert vote.checkpoint_id == cid(2)
        assert working.is_alive()
        assert perform(other, sets.decide(TEAM, found.set_id, other._context)).state == "committed"
        working.join()


def test_a_look_that_comes_late_does_not_replace_the_vote_of_a_put_that_waits(
    saver: GCSSaver, other: GCSSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with saver.team(TEAM, vote_wait=0.0).member("left").lease() as lease:
        voter: Any = saver._leases.held_in(lease.config).voter  # type: ignore[union-attr]
        monkeypatch.setattr(voter._jobs, "now", lambda *_: None)
        monkeypatch.setattr(voter._jobs, "again", lambda *_: None)
        found = begin(other, ["left"])
        step(saver, lease, 1)
        contend(other)
        step(saver, lease, 2)
        assert voted_for(other, found, "left") == cid(2)
        perform(saver, voter._look())
        assert voted_for(other, found, "left") == cid(2)


def test_an_asynchronous_put_waits_too(saver: GCSSaver, other: GCSSaver) -> None:
    async def story() -> None:
        async with saver.team(TEAM, vote_wait=600.0).member("left").lease() as lease:
            found = begin(other, ["left"])
            contend(other)
            putting = asyncio.create_task(
                saver.aput(
                    lease.config | {"configurable": {**lease.config["configurable"], "checkpoint_ns": ""}},
                    checkpoint(1, {"a": 1}),
                    DEFAULT,
                    {"a": f"{1:032}.0.5"},
                )
            )
            await aeventually(lambda: vote_of(other, found, "left"))
            assert not putting.done()
            assert perform(other, sets.decide(TEAM, found.set_id, other._context)).state == "committed"
            await putting

    asyncio.run(story())


@pytest.mark.parametrize("vote_wait", [0.0, 0.5, 7.0])
def test_a_put_waits_at_most_for_vote_wait(stores: Any, other: GCSSaver, vote_wait: float) -> None:
    clock = Clock()
    with (
        GCSSaver(stores=stores, interceptors=[clock]) as saver,
        saver.team(TEAM, vote_wait=vote_wait).member("left").lease() as lease,
    ):
        begin(other, ["left"])
        contend(other)
        step(saver, lease, 1)
        assert clock.paused <= vote_wait
        assert (clock.paused > 0) == (vote_wait > 0)


def test_a_put_does_not_wait_for_a_coordinator_that_has_crashed(saver: GCSSaver, other: GCSSaver) -> None:
    with saver.team(TEAM, vote_wait=600.0).member("left").lease() as lease:
        found = begin(other, ["left", "gone"], timeout=0.5)  # clock: its end is what this waits for
        contend(other)
        step(saver, lease, 1)
        eventually(lambda: perform(other, sets.read(TEAM, found.set_id, other._context)).state == "aborted")


def test_by_default_a_put_waits_longer_after_each_try_that_was_lost(stores: Any, other: GCSSaver) -> None:
    waits = []
    for contended in range(1, 12):
        clock, member = Clock(), members.Member(TEAM, "left")
        with GCSSaver(stores=stores, interceptors=[clock]) as saver:
            found = begin(other, ["left"])
            perform(other, iter(Commit((Merge(keys.team_doc(TEAM), {"contended": contended}),))))
            hint = Preparing(found.set_id, contended, 600.0)
            perform(saver, members.stand(member, hint, 0.0))
            waits.append(clock.paused)
            perform(other, sets.end(TEAM, found.set_id, other._context))
    assert waits == sorted(waits)
    assert waits[0] <= 2 * 0.005
    assert waits[3] >= 20 * waits[0]
    assert waits[-1] <= members.MOST_WAIT
    assert waits[-1] == waits[-2]


def test_a_wait_starts_over_with_each_try_that_is_lost_meanwhile(stores: Any, other: GCSSaver) -> None:
    """So the next try finds all members standing, however long the tries take."""
    found, name, lost = begin(other, ["left"]), keys.team_doc(TEAM), 0

    class Losing(Clock):
        def around(self, effect: Effect[Any], perform_: Perform) -> Any:
            nonlocal lost
            if isinstance(effect, GetDocs) and self.paused >= (lost + 1) * 0.004 and lost < 9:
                lost += 1
                perform(other, iter(Commit((Merge(name, {"contended": lost + 1}),))))
            return super().around(effect, perform_)

    clock = Losing()
    with GCSSaver(stores=stores, interceptors=[clock]) as saver:
        hint = Preparing(found.set_id, 1, 600.0)
        perform(saver, members.stand(members.Member(TEAM, "left"), hint, 0.0))
    assert lost == 9
    # With ten lost tries, the last wait is the longest one.
    assert clock.paused > 9 * 0.004


def test_a_wait_ends_with_the_timeout_of_the_set(stores: Any, other: GCSSaver) -> None:
    clock, found = Clock(), begin(other, ["left"], timeout=2.0)  # clock: the test's own
    with GCSSaver(stores=stores, interceptors=[clock]) as saver:
        hint = Preparing(found.set_id, 9, 2.0)
        perform(saver, members.stand(members.Member(TEAM, "left"), hint, 0.0))
    assert 0 < clock.paused <= 2.0


def test_a_hundred_busy_members_are_in_a_set_within_ten_seconds() -> None:
    """The bar, in simulated time: each stores a step about every 50 ms, and a request takes about 30 ms."""
    result = simulated.play(100, every=0.05, turn=0.03)
    assert result.is_good, str(result)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("every", [0.0, 0.05, 0.5, 3.0])
@pytest.mark.parametrize("turn", [0.005, 0.03])
@pytest.mark.parametrize("count", [2, 10, 100])
def test_busy_members_are_in_a_set_whatever_a_request_and_a_node_take(
    count: int, turn: float, every: float, seed: int
) -> None:
    result = simulated.play(count, every, turn, seed=seed)
    assert result.is_good, str(result)


def test_without_the_wait_busy_members_are_never_in_a_set() -> None:
    with pytest.raises(SetAbortedError):
        simulated.play(10, every=0.05, turn=0.03, vote_wait=0.0, timeout=5.0)  # clock: simulated


# Quiescing


def test_a_quiet_team_has_runs_that_ended_at_a_boundary(saver: GCSSaver, other: GCSSaver) -> None:
    team, entered, leave = saver.team(TEAM), threading.Event(), threading.Event()

    def act(name: str) -> None:
        if name == "a":
            entered.set()
            leave.wait()

    graph, config = build(saver, act), {"configurable": {"thread_id": team.member("left").id}}
    ended: list[BaseException] = []

    def work() -> None:
        try:
            run(graph, {"done": []}, config, team=team, ttl=5)
        except GraphDrained as error:
            ended.append(error)

    with team.member("right").lease():
        pass  # A member that runs nowhere is quiet.
    working = threading.Thread(target=work)
    working.start()
    entered.wait()
    waiting = threading.Thread(target=perform, args=(other, members.quiesce(TEAM, NAMES, 600.0)))
    waiting.start()
    eventually(lambda: (read(other, keys.beat_doc(team.member("left").id)) or {}).get("wish") == leases.WISH)
    # The holder finds the wish with its next beat, and asks its run to end.
    held = next(iter(saver._leases._processes.get().held.values()))
    eventually(lambda: held.ending)
    assert waiting.is_alive()
    leave.set()
    waiting.join()
    working.join()
    assert ended
    assert saver.get_tuple(config).checkpoint["channel_values"]["done"] == ["a"]  # type: ignore[union-attr]
    assert run(graph, None, config, team=team) == {"done": ["a", "b", "c"]}


def test_a_member_that_does_not_end_in_time_is_named_and_asked_no_more(saver: GCSSaver, stores: Any) -> None:
    team, clock = saver.team(TEAM), Clock()
    with (
        team.member("left").lease() as lease,
        GCSSaver(stores=stores, interceptors=[clock]) as other,
        pytest.raises(SetAbortedError, match="still ran after 3 s: left") as caught,
    ):
        perform(other, members.quiesce(TEAM, NAMES, 3.0))
    assert caught.value.missing == ("left",)
    assert clock.paused >= 3.0
    assert (read(saver, keys.beat_doc(lease.thread_id)) or {}).get("wish") is None
