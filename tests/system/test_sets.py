"""Sets of a team: what is committed, what is not, and what is left when they end."""

import pytest

from langgraph_gcs_saver.engine.effects import REQUESTS, Commit, GetDocs
from langgraph_gcs_saver.errors import (
    DamageError,
    InvalidIdError,
    InvalidInputError,
    SetAbortedError,
    WrongKeyError,
)
from langgraph_gcs_saver.flows import sets
from langgraph_gcs_saver.flows.sets import Decider
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import HOLDS, Hold
from langgraph_gcs_saver.format.sets import Preparing
from tests.incremental.eax import Eax
from tests.kit.performing import both, perform_sync, rounds_of
from tests.system.build import cfg, cid, put

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
TEAM = "deal/42 %"
FOR_EVER = 1e6


def thread(member):
    return keys.member_thread_id(TEAM, member)


def store(saver, n, *members, ns=""):
    for member in members:
        put(saver, n, {"v": [f"{member} {n}"]}, parent=n - 1 or None, thread=thread(member), ns=ns)


def call(saver, flow, *arguments, perform=perform_sync, **options):
    """The result of a flow of sets."""
    return perform(flow(*arguments, saver._context, **options), saver._backend)


def join(saver, member, team=TEAM):
    perform_sync(sets.join(team, member), saver._backend)


def begin(saver, *members, label=None, timeout=FOR_EVER, **options):
    return call(saver, sets.begin, TEAM, members, label, timeout, **options)


def commit(saver, *members, **options):
    return call(saver, sets.prepare, TEAM, begin(saver, *members, **options).set_id)


def vote(saver, found, member, n):
    name = keys.checkpoint_doc(thread(member), "", cid(n))
    (doc,) = saver._backend.perform(GetDocs((name,))).values()
    call(saver, sets.vote, found.name, member, sets.vote_in(doc))


def decide(saver, found):
    return call(saver, sets.decide, TEAM, found.set_id)


def held(raw):
    """The members' checkpoints with holds, and the keys of these."""
    return {name: set(fields[HOLDS]) for name, fields in raw.documents().items() if fields.get(HOLDS)}


def team_of(raw):
    return raw.documents()[keys.team_doc(TEAM)]


@both
def test_a_set_of_members_that_run_nowhere(saver, raw, perform):
    store(saver, 1, "a", "b")
    store(saver, 2, "b")
    before = {member: raw.documents()[keys.thread_doc(thread(member))] for member in "ab"}
    found = call(saver, sets.begin, TEAM, ("b", "a", "b"), "before merge", FOR_EVER, perform=perform, retention=3)
    assert team_of(raw) == {
        "format": 1,
        "team": TEAM,
        "preparing": found.set_id,
        "timeout": FOR_EVER,
        "retention": 3,
    }
    done = call(saver, sets.prepare, TEAM, found.set_id, perform=perform)
    assert team_of(raw) == {"format": 1, "team": TEAM, "retention": 3}
    assert done == call(saver, sets.read, TEAM, found.set_id, perform=perform)
    (info,) = call(saver, sets.listed, TEAM, perform=perform)
    assert (info.state, info.label, info.members) == ("committed", "before merge", ("a", "b"))
    assert info.cut == {"a": cid(1), "b": cid(2)}
    assert info.begun < info.decided
    assert held(raw) == {done.checkpoint("a"): {done.hold.key}, done.checkpoint("b"): {done.hold.key}}
    for member, fields in before.items():
        now = dict(raw.documents()[keys.thread_doc(thread(member))])
        assert now.pop("held")  # So an idle sweep sees that the thread was used.
        assert now == fields


@LOCAL
def test_members_join_once_and_at_the_same_time(saver):
    for member in ("b", "a", "b"):
        join(saver, member)
    names = sets.joining_names(TEAM, "c")
    seen = saver._backend.perform(GetDocs(names))
    join(saver, "d")
    assert saver._backend.perform(Commit(sets.joining(TEAM, "c", seen))) is not None
    assert perform_sync(sets.members(TEAM), saver._backend) == ["a", "b", "c", "d"]
    assert sets.joining(TEAM, "c", saver._backend.perform(GetDocs(names))) == ()


@LOCAL
def test_votes_decide_in_one_try(saver, raw):
    store(saver, 1, "a", "b")
    found = begin(saver, "a", "b")
    vote(saver, found, "a", 1)
    assert decide(saver, found) is None
    vote(saver, found, "b", 1)
    assert decide(saver, found).state == "committed"
    assert decide(saver, found).state == "committed"
    assert len(held(raw)) == 2


@LOCAL
def test_a_vote_for_what_is_no_longer_the_newest_does_not_count(saver, raw):
    store(saver, 1, "a", "b")
    found = begin(saver, "a", "b")
    vote(saver, found, "a", 1)
    vote(saver, found, "b", 1)
    store(saver, 2, "b")
    assert decide(saver, found) is None
    assert sets.preparing(perform_sync(_team(), saver._backend)) == Preparing(found.set_id, 1, FOR_EVER)
    assert not held(raw)
    vote(saver, found, "b", 2)
    assert decide(saver, found).cut["b"].checkpoint_id == cid(2)
    assert "contended" not in team_of(raw)


def _team():
    return (yield from GetDocs((keys.team_doc(TEAM),)))[keys.team_doc(TEAM)]


@LOCAL
def test_a_vote_does_not_count_once_its_checkpoint_has_changed(saver):
    store(saver, 1, "a")
    found = begin(saver, "a")
    vote(saver, found, "a", 1)
    saver.admin.pin(cfg(1, thread=thread("a")), label="mine")
    assert decide(saver, found) is None
    vote(saver, found, "a", 1)
    assert decide(saver, found).state == "committed"


@LOCAL
def test_members_without_a_whole_checkpoint_are_named(saver, raw):
    store(saver, 1, "a", "damaged")
    for n in (1, 2):
        store(saver, n, "lost")
    store(saver, 1, "sub", ns="sub")
    raw.delete_document(keys.checkpoint_doc(thread("lost"), "", cid(2)))
    name = keys.checkpoint_doc(thread("damaged"), "", cid(1))
    raw.set_document(name, {**raw.documents()[name], "digest": b"x" * 32})
    with pytest.raises(SetAbortedError, match="damaged, lost, none, sub") as caught:
        commit(saver, "a", "damaged", "lost", "none", "sub", timeout=0.2)  # clock: it is over whenever it is looked at
    assert caught.value.missing == ("damaged", "lost", "none", "sub")
    (info,) = call(saver, sets.listed, TEAM)
    assert (info.state, info.missing, info.set_id) == ("aborted", caught.value.missing, caught.value.set_id)
    assert not held(raw)
    assert team_of(raw) == {"format": 1, "team": TEAM}


@LOCAL
def test_a_set_past_its_timeout_is_aborted_although_all_have_voted(saver):
    store(saver, 1, "a")
    found = begin(saver, "a", timeout=1e-9)  # clock: it is over whenever it is looked at
    vote(saver, found, "a", 1)
    assert decide(saver, found).state == "aborted"
    with pytest.raises(SetAbortedError, match="no process decided it"):
        call(saver, sets.prepare, TEAM, found.set_id)


@LOCAL
def test_a_set_is_begun_after_the_one_that_is_being_prepared(saver):
    store(saver, 1, "a")
    first = begin(saver, "a")  # Its coordinator has crashed.
    second = commit(saver, "a")
    assert [one.set_id for one in call(saver, sets.records, TEAM)] == [second.set_id, first.set_id]
    assert {one.state for one in call(saver, sets.records, TEAM)} == {"committed"}


@LOCAL
def test_a_set_is_not_begun_while_another_one_is_being_prepared_for_too_long(saver, monkeypatch):
    monkeypatch.setattr(sets, "POLL_SECONDS", 0.01)
    other = begin(saver, "x")
    with pytest.raises(SetAbortedError, match="No set of team") as caught:
        begin(saver, "a", timeout=0.1)  # clock: it is over whenever it is looked at
    assert caught.value.set_id == other.set_id


@pytest.mark.parametrize("hint", ["x", "20260101-000000000-000000000000", "x" * 5000])
@LOCAL
def test_a_hint_to_a_set_that_does_not_exist_is_replaced(saver, raw, hint):
    store(saver, 1, "a")
    raw.set_document(keys.team_doc(TEAM), {"format": 1, "team": TEAM, "preparing": hint, "contended": 7})
    assert commit(saver, "a").state == "committed"
    assert team_of(raw) == {"format": 1, "team": TEAM}


@LOCAL
def test_a_set_that_is_deleted_while_it_is_prepared(saver):
    found = begin(saver, "a")
    call(saver, sets.end, TEAM, found.set_id)
    assert decide(saver, found) is None
    with pytest.raises(SetAbortedError, match="it was deleted"):
        call(saver, sets.prepare, TEAM, found.set_id)
    with pytest.raises(InvalidInputError, match="has no set"):
        call(saver, sets.read, TEAM, found.set_id)


@pytest.mark.parametrize(
    ("members", "label", "timeout", "error"),
    [
        ((), None, 1.0, InvalidInputError),
        ([str(n) for n in range(101)], None, 1.0, InvalidInputError),
        (("a",), "x" * 1001, 1.0, InvalidInputError),
        (("a",), None, 0.0, InvalidInputError),
        (("a",), None, float("nan"), InvalidInputError),
        (("",), None, 1.0, InvalidIdError),
        (("é" * 67,), None, 1.0, InvalidIdError),
        (("\ud800",), None, 1.0, InvalidIdError),
    ],
)
@LOCAL
def test_what_no_set_can_have(saver, members, label, timeout, error):
    with pytest.raises(error):
        call(saver, sets.begin, TEAM, members, label, timeout)
    assert not saver._backend.perform(GetDocs((keys.team_doc(TEAM),)))


@LOCAL
def test_the_names_of_teams_and_members(saver):
    for name in ("", "x" * 201, "\ud800"):
        with pytest.raises(InvalidIdError):
            join(saver, "a", name)
        with pytest.raises(InvalidIdError):
            join(saver, name, "team")


@pytest.mark.parametrize("store_uri", ["local", pytest.param("emulators", marks=pytest.mark.soak)], indirect=True)
def test_a_hundred_members_need_one_commit_and_three_rounds_after_the_last_vote(saver, raw):
    members = [f"agent-{n:03}" for n in range(100)]
    store(saver, 1, *members)
    found = begin(saver, *members)
    for member in members:
        vote(saver, found, member, 1)
    rounds = []
    done = perform_sync(
        rounds_of(sets.decide(TEAM, found.set_id, saver._context), rounds),
        saver._backend,
    )
    assert done.state == "committed"
    requests = [one for one in rounds if isinstance(one[0], REQUESTS)]
    assert len(requests) == 3
    (decision,) = requests[-1]
    assert len(decision.writes) == 2 * 100 + 2
    assert len(held(raw)) == 100
    call(saver, sets.end, TEAM, found.set_id)
    assert not held(raw)
    assert not [name for name in raw.documents() if f"/{keys.SETS}/" in name]


@LOCAL
def test_the_newest_sets_are_kept(saver, raw):
    kept = []
    for n in (1, 2, 3, 4):
        store(saver, n, "a")
        kept.append(commit(saver, "a"))
    with pytest.raises(SetAbortedError):
        commit(saver, "a", "none", timeout=0.1)  # clock: it is over whenever it is looked at
    call(saver, sets.retain, TEAM, 2)
    left = [one.set_id for one in call(saver, sets.records, TEAM)]
    assert left[1:] == [kept[3].set_id, kept[2].set_id]
    assert held(raw) == {one.checkpoint("a"): {one.hold.key} for one in kept[2:]}
    call(saver, sets.retain, TEAM, 1)
    assert len(call(saver, sets.records, TEAM)) == 2


@LOCAL
def test_two_sets_hold_one_checkpoint_until_both_have_ended(saver, raw):
    store(saver, 1, "a")
    one, two = commit(saver, "a"), commit(saver, "a")
    assert held(raw) == {one.checkpoint("a"): {one.hold.key, two.hold.key}}
    call(saver, sets.end, TEAM, one.set_id)
    assert held(raw) == {one.checkpoint("a"): {two.hold.key}}
    call(saver, sets.end, TEAM, two.set_id)
    assert not held(raw)


@LOCAL
def test_a_set_is_broken_once(saver, raw):
    store(saver, 1, "a")
    found = commit(saver, "a")
    call(saver, sets.break_, found.hold)
    broken = call(saver, sets.read, TEAM, found.set_id)
    assert broken.state == "broken"
    call(saver, sets.break_, found.hold)
    assert call(saver, sets.read, TEAM, found.set_id) == broken
    assert call(saver, sets.prepare, TEAM, found.set_id).state == "broken"
    for hold in (Hold("set", TEAM, "x"), Hold("set", "", "odd"), Hold("savepoint", TEAM, found.set_id)):
        call(saver, sets.break_, hold)
    assert [name for name in raw.documents() if f"/{keys.SETS}/" in name] == [found.name]


@LOCAL
def test_a_damaged_set_can_only_be_deleted(saver, raw):
    store(saver, 1, "a", "b")
    join(saver, "a")
    join(saver, "b")
    found = commit(saver, "a", "b")
    other = commit(saver, "a")
    raw.set_document(found.name, {**raw.documents()[found.name], "set": b"x" * 100})
    for flow in (sets.read, sets.decide, sets.prepare):
        with pytest.raises(DamageError):
            call(saver, flow, TEAM, found.set_id)
    with pytest.raises(DamageError):
        call(saver, sets.listed, TEAM)
    damaged = raw.documents()[found.name]
    call(saver, sets.break_, found.hold)
    assert raw.documents()[found.name] == damaged
    call(saver, sets.retain, TEAM, 1)
    assert len(held(raw)) == 2
    call(saver, sets.end, TEAM, found.set_id)
    assert held(raw) == {other.checkpoint("a"): {other.hold.key}}
    assert [one.set_id for one in call(saver, sets.records, TEAM)] == [other.set_id]


def test_a_team_is_deleted_with_all_that_is_its_own(saver, raw):
    store(saver, 1, "a")
    threads = {name: fields for name, fields in raw.documents().items() if name.startswith(keys.CHECKPOINTS)}
    join(saver, "a")
    found = commit(saver, "a")
    begin(saver, "a")
    vote(saver, found, "a", 1)
    raw.set_document(f"{keys.sets(TEAM)}/~{'0' * 64}", {"planted": 1})
    call(saver, sets.delete, TEAM)
    assert not held(raw)
    left = {name: fields for name, fields in raw.documents().items() if name.startswith(keys.CHECKPOINTS)}
    assert left == threads
    assert not [name for name in raw.documents() if name.startswith(keys.TEAMS)]
    call(saver, sets.delete, TEAM)


@LOCAL
def test_a_process_that_looks_twice_needs_no_votes(saver):
    store(saver, 1, "a", "b")
    found = begin(saver, "a", "b")
    decider = Decider(TEAM, found.set_id, saver._context)
    assert perform_sync(decider.step(), saver._backend).state == "preparing"
    store(saver, 2, "a")
    assert perform_sync(decider.step(), saver._backend).state == "preparing"
    assert decider.busy == ("a",)
    assert perform_sync(decider.step(), saver._backend).cut["a"].checkpoint_id == cid(2)


KEY = Eax("the key")


@LOCAL
def test_a_cipher_encrypts_what_is_not_an_id(make_saver, raw):
    saver = make_saver(cipher=KEY)
    store(saver, 1, "a")
    found = begin(saver, "a", label="the secret label")
    vote(saver, found, "a", 1)
    assert decide(saver, found).label == "the secret label"
    stored = repr({name: fields for name, fields in raw.documents().items() if name.startswith(keys.TEAMS)})
    assert "secret" not in stored
    with pytest.raises(WrongKeyError):
        call(make_saver(cipher=Eax("another key")), sets.read, TEAM, found.set_id)
    with pytest.raises(WrongKeyError):
        call(make_saver(), sets.read, TEAM, found.set_id)
