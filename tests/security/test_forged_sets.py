"""An attacker without the key can have no wrong set committed or restored, and no step of a saga undone.

Everyone who can write to the store can end sets and threads. But what a caller gets, and what a restore makes the
newest state, is what a process with the key has stored.
"""

from dataclasses import replace

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from langgraph_gcs_saver import compensation, flows
from langgraph_gcs_saver.engine.effects import Doc
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import ClearTextError, DamageError, GCSSaverError, SagaStuckError
from langgraph_gcs_saver.format import keys, operations, sagas, sets
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.operations import Undo
from tests.incremental.eax import Eax
from tests.patience import PATIENCE
from tests.system.build import cfg

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
KEY = Eax("the key")
CLEAR = Codec(3)
MEMBERS = ["extract", "planner"]
UNDO = "undo for test_forged_sets"
UNDONE = []


@compensation(UNDO, attempts=1)
def undo(request, result, key):
    """Note that it was called."""
    UNDONE.append(result)


@pytest.fixture
def saver(make_saver):
    return make_saver(cipher=KEY)


@pytest.fixture
def team(saver):
    return saver.team("deal", MEMBERS)


def put(saver, team, *numbers):
    """Store checkpoints of all members."""
    for name in MEMBERS:
        for number in numbers:
            at = cfg(number - 1 or None, thread=team.member(name).id)
            saver.put(at, {**empty_checkpoint(), "id": cid(number)}, {"step": number}, {})


def cid(number):
    return f"1f0a0000-0000-6000-8000-{number:012}"


def tips(saver, team):
    return {name: saver.get_tuple(cfg(thread=team.member(name).id)).checkpoint["id"] for name in MEMBERS}


def forge(raw, name, **fields):
    raw.set_document(name, {**raw.documents()[name], **fields})


def in_clear(found, **changes):
    """The fields of a set that an attacker has made, with a seal that is right."""
    return sets.fields_of(replace(found, **changes), CLEAR)


def record_of(raw, set_name):
    """What an attacker could know of a set."""
    team, set_id = "deal", set_name.rpartition("/")[2]
    cut = {}
    for name in MEMBERS:
        document = keys.checkpoint_doc(keys.member_thread_id(team, name), "", cid(1))
        cut[name] = sets.Cut(cid(1), raw.documents()[document]["digest"].hex())
    return sets.SetRecord(
        team=team, set_id=set_id, state="committed", members=tuple(MEMBERS), timeout=PATIENCE, cut=cut, decided=1
    )


FORGERIES = {
    "a set in clear": lambda raw, name, other: in_clear(record_of(raw, name)),
    "another state": lambda raw, name, other: {"state": "aborted"},
    "another set of the team": lambda raw, name, other: {"set": raw.documents()[other]["set"]},
    "no seal": lambda raw, name, other: {"set": raw.documents()[name]["set"][32:]},
    "no bytes": lambda raw, name, other: {"set": {"team": "deal"}},
    "a flipped bit": lambda raw, name, other: {"set": flipped(raw.documents()[name]["set"])},
}


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_set_is_restored_by_no_call(saver, team, raw, forgery):
    put(saver, team, 1)
    other = keys.set_doc("deal", team.checkpoint().set_id)
    put(saver, team, 2)
    saved = team.checkpoint()
    put(saver, team, 3)
    name = keys.set_doc("deal", saved.set_id)
    stored = raw.documents()[name]
    forge(raw, name, **FORGERIES[forgery](raw, name, other))
    before = raw.snapshot()
    for call in (
        team.sets,
        lambda: list(saver.admin.teams()),
        lambda: team.verify(saved),
        lambda: team.restore(saved, dry_run=True),
        lambda: team.restore(saved),
    ):
        with pytest.raises((ClearTextError, DamageError)):
            call()
    assert [one.name for one in saver.admin.verify() if one.name.startswith("lg_teams")] == [name]
    assert raw.snapshot() == before
    assert tips(saver, team) == dict.fromkeys(MEMBERS, cid(3))
    raw.set_document(name, stored)
    team.restore(saved)
    assert tips(saver, team) != dict.fromkeys(MEMBERS, cid(3))


@pytest.mark.parametrize("codec", [CLEAR, Codec(3, cipher=KEY)], ids=["in clear", "of a member"])
def test_a_vote_for_another_checkpoint_is_not_chosen(saver, team, raw, codec):
    """It would make the set inconsistent, or hold a checkpoint whose content is another."""
    put(saver, team, 1, 2)
    begun = run(flows.sets.begin("deal", MEMBERS, None, PATIENCE, saver._context), saver._backend)
    name = keys.vote_doc(begun.name, "planner")
    for number, digest in ((1, None), (2, "00" * 32)):
        document = raw.documents()[keys.checkpoint_doc(team.member("planner").id, "", cid(number))]
        vote = sets.Vote(cid(number), digest or document["digest"].hex(), 1)
        raw.set_document(name, sets.vote_fields(name, vote, codec))
        assert run(flows.sets.decide("deal", begun.set_id, saver._context), saver._backend) is None
    saved = run(flows.sets.prepare("deal", begun.set_id, saver._context), saver._backend)
    assert {member: one.checkpoint_id for member, one in saved.cut.items()} == dict.fromkeys(MEMBERS, cid(2))
    assert team.verify(saved.set_id) == []


HINTS = [
    {"preparing": "no such set", "contended": 1 << 40, "timeout": 1e300},
    {"preparing": "no such set", "contended": -1, "timeout": float("nan")},
    {"preparing": 5, "contended": "x", "timeout": None, "retention": -3},
    {"preparing": "", "retention": True},
    {"preparing": "x" * 5000, "retention": 1 << 60},
]


@pytest.mark.parametrize("hint", HINTS, ids=range(len(HINTS)))
def test_forged_hints_stop_no_member_and_no_set(saver, raw, hint):
    """Members read them after each put, and a set is begun beside them."""
    team = saver.team("deal", MEMBERS, vote_wait=0)
    put(saver, team, 1)
    team.checkpoint()
    forge(raw, keys.team_doc("deal"), **hint)
    with team.member("planner").lease() as lease:
        at = {"configurable": {**lease.config["configurable"], "checkpoint_ns": "", "checkpoint_id": cid(1)}}
        saver.put(at, {**empty_checkpoint(), "id": cid(2)}, {"step": 2}, {})
    saved = team.checkpoint()
    assert saved.cut == {"extract": cid(1), "planner": cid(2)}
    assert [one.retention > 0 for one in saver.admin.teams()] == [True]


def test_members_that_others_have_planted(saver, team, raw):
    """The name of a document says who is a member. So a field cannot lead to a thread of another team."""
    put(saver, team, 1)
    team.checkpoint()
    other = saver.team("other", ["planner"])
    saver.put(cfg(thread=other.member("planner").id), {**empty_checkpoint(), "id": cid(1)}, {"step": 1}, {})
    forge(raw, keys.member_doc("deal", "planner"), member="../other/planner")
    for odd in ("~", "no%name", "~" + "0" * 64):
        raw.set_document(f"{keys.members('deal')}/{odd}", {"format": 1, "member": "planner"})
    assert dict(team.threads()) == {name: team.member(name).id for name in MEMBERS}
    saved = team.checkpoint()
    assert set(saved.cut) == set(MEMBERS)
    team.delete()
    assert saver.get_tuple(cfg(thread=other.member("planner").id)) is not None


# Sagas


@pytest.fixture
def trip(saver):
    """A saga with a step that can be undone."""
    UNDONE.clear()
    saga = saver.thread("t").saga("trip-7")
    saga.once("book", lambda: "hotel", undo=UNDO)
    return saga


def saga_in_clear(raw):
    name = keys.saga_doc("t", "trip-7")
    assert name in raw.documents()
    found = sagas.Saga(name, "t", "trip-7", "compensating", 0, 60.0, "attacker")
    return sagas.fields_of(found, CLEAR)


SAGAS = {
    "in clear": saga_in_clear,
    "another state": lambda raw: {"state": "compensating"},
    "no seal": lambda raw: {"saga": raw.documents()[keys.saga_doc("t", "trip-7")]["saga"][32:]},
    "no bytes": lambda raw: {"saga": 5},
}


@pytest.mark.parametrize("forgery", SAGAS)
def test_a_forged_rollback_undoes_nothing(saver, trip, raw, forgery):
    name = keys.saga_doc("t", "trip-7")
    stored = raw.documents()[name]
    forge(raw, name, **SAGAS[forgery](raw))
    other = saver.thread("t").saga("trip-7")
    for call in (other.resume, other.rollback, other.info, saver.thread("t").sagas, lambda: saver.admin.sagas("t")):
        with pytest.raises((ClearTextError, DamageError)):
            call()
    with pytest.raises(GCSSaverError):
        other.once("pay", lambda: UNDONE.append("paid"), irreversible=True)
    assert UNDONE == []
    assert [one.name for one in saver.admin.verify("t")] == [name]
    raw.set_document(name, stored)
    assert saver.thread("t").saga("trip-7").rollback().state == "compensated"
    assert UNDONE == ["hotel"]


def test_a_forged_step_is_not_undone(saver, trip, raw):
    """What it would undo, and with which request, is the attacker's choice."""
    (name,) = [name for name in raw.documents() if f"/{keys.OPERATIONS}/" in name]
    found = operations.parse(doc_of(raw, name), Codec(3, cipher=KEY))
    chosen = Undo(UNDO, 1, Serialized("msgpack", b"\xa6theirs"))
    forged = operations.fields_of(replace(found, step=replace(found.step, undo=chosen), result=None), CLEAR)
    stored = raw.documents()[name]
    for fields in (forged, {**stored, "state": "unknown"}, {**stored, "result": forged["digest"]}):
        raw.set_document(name, fields)
        with pytest.raises((ClearTextError, DamageError, SagaStuckError)):
            saver.thread("t").saga("trip-7").rollback()
        assert UNDONE == []
        assert [one.name for one in saver.admin.verify("t")] == [name]
    raw.set_document(name, stored)
    assert saver.thread("t").saga("trip-7").resume().state == "compensated"
    assert UNDONE == ["hotel"]


def doc_of(raw, name):
    return Doc(name, raw.documents()[name], 1, 1)
