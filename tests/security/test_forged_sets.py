"""An attacker without the key cannot make up a set or a vote. Odd documents of teams mislead nothing."""

import pytest

from langgraph_gcs_saver.engine.effects import Doc, GetDocs
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import ClearTextError, DamageError, UnsupportedFormatError
from langgraph_gcs_saver.flows import sets
from langgraph_gcs_saver.format import keys, seals
from langgraph_gcs_saver.format import sets as format_sets
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.holds import HOLDS
from langgraph_gcs_saver.format.manifest import DamagedError
from langgraph_gcs_saver.format.sets import Cut, SetRecord, Vote
from tests.incremental.eax import Eax
from tests.security.sealing import plain_envelope
from tests.system.build import cid, put

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
KEY = Eax("the key")
TEAM, OTHER = "team", "other"
CLEAR = Codec(3)
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
from langgraph_gcs_saver.errors import ClearTextError, DamageError, GCSSaverError
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
    found = make_saver(cipher=KEY)
    for team in (TEAM, OTHER):
        for member in "ab":
            put(found, 1, {"v": [member]}, thread=keys.member_thread_id(team, member))
    return found


def call(saver, flow, *arguments):
    return run(flow(*arguments, saver._context), saver._backend)


def begin(saver, team=TEAM):
    return call(saver, sets.begin, team, ("a", "b"), None, 1e6)


def commit(saver, team=TEAM):
    return call(saver, sets.prepare, team, begin(saver, team).set_id)


def vote(saver, found, member, team=TEAM):
    name = keys.checkpoint_doc(keys.member_thread_id(team, member), "", cid(1))
    (doc,) = run(iter(GetDocs((name,))), saver._backend).values()
    call(saver, sets.vote, found.name, member, sets.vote_in(doc))
    return keys.vote_doc(found.name, member)


def held(raw):
    return [name for name, fields in raw.documents().items() if fields.get(HOLDS)]


def in_clear(raw, found):
    """The set as committed, sealed by an attacker who has no key."""
    cut = {member: Cut(cid(1), "0" * 64) for member in found.members}
    forged = SetRecord(
        team=found.team, set_id=found.set_id, state="committed", members=found.members, timeout=1e6, cut=cut
    )
    return format_sets.fields_of(forged, CLEAR)


def with_another_state(raw, found):
    return {**raw.documents()[found.name], "state": "committed"}


def of_another_set(raw, found):
    (other,) = [
        fields for name, fields in raw.documents().items() if name.startswith(keys.sets(TEAM)) and name != found.name
    ]
    return other


def of_another_team(raw, _):
    (other,) = [fields for name, fields in raw.documents().items() if name.startswith(f"{keys.sets(OTHER)}/")]
    return other


def without_a_seal(raw, found):
    return {**raw.documents()[found.name], "set": raw.documents()[found.name]["set"][seals.SEAL_BYTES :]}


def without_a_format(raw, found):
    return {name: value for name, value in raw.documents()[found.name].items() if name != "format"}


def of_nothing(*_):
    return {"state": "committed"}


FORGED = [in_clear, with_another_state, of_another_set, of_another_team, without_a_seal, without_a_format, of_nothing]


@LOCAL
@pytest.mark.parametrize("forge", FORGED)
def test_a_forged_set_is_committed_for_nobody(saver, raw, forge):
    commit(saver)
    commit(saver, OTHER)
    found = begin(saver)
    before = held(raw)
    raw.set_document(found.name, forge(raw, found))
    for flow in (sets.read, sets.look, sets.decide, sets.prepare):
        with pytest.raises((ClearTextError, DamageError)):
            call(saver, flow, TEAM, found.set_id)
    for flow in (sets.records, sets.listed):
        with pytest.raises((ClearTextError, DamageError)):
            call(saver, flow, TEAM)
    with pytest.raises((ClearTextError, DamageError)):
        begin(saver)
    assert not call(saver, sets.break_, found.hold)
    assert held(raw) == before
    # An operator deletes it, and the next set is committed.
    call(saver, sets.end, TEAM, found.set_id)
    assert held(raw) == before
    assert commit(saver).state == "committed"


@LOCAL
def test_a_set_of_a_newer_version(saver, raw):
    found = commit(saver)
    raw.set_document(found.name, {**raw.documents()[found.name], "format": 2})
    for flow in (sets.read, sets.end):
        with pytest.raises(UnsupportedFormatError):
            call(saver, flow, TEAM, found.set_id)


def a_vote_in_clear(raw, name):
    digest = raw.documents()[keys.checkpoint_doc(keys.member_thread_id(TEAM, "b"), "", cid(1))]["digest"].hex()
    return format_sets.vote_fields(name, Vote(cid(1), digest, 1), CLEAR)


def the_vote_of_another_member(raw, name):
    return raw.documents()[name.rpartition("/")[0] + "/a"]


def the_vote_for_another_set(raw, name):
    (other,) = [found for found in raw.documents() if found.endswith(f"/{keys.VOTES}/b") and found != name]
    return raw.documents()[other]


@LOCAL
@pytest.mark.parametrize("forge", [a_vote_in_clear, the_vote_of_another_member, the_vote_for_another_set])
def test_a_forged_vote_does_not_count(saver, raw, forge):
    past = commit(saver)
    vote(saver, past, "b")
    found = begin(saver)
    vote(saver, found, "a")
    name = keys.vote_doc(found.name, "b")
    raw.set_document(name, forge(raw, name))
    assert call(saver, sets.decide, TEAM, found.set_id) is None
    assert vote(saver, found, "b") == name
    assert call(saver, sets.decide, TEAM, found.set_id).state == "committed"


@LOCAL
def test_many_planted_votes_do_not_hide_those_of_the_members(saver, raw):
    found = begin(saver)
    for number in range(400):
        raw.set_document(keys.vote_doc(found.name, f"A{number}"), {"planted": number})
    for member in "ab":
        vote(saver, found, member)
    assert call(saver, sets.prepare, TEAM, found.set_id).state == "committed"
    call(saver, sets.delete, TEAM)
    assert not [name for name in raw.documents() if name.startswith(keys.team_doc(TEAM))]


ODD = [None, True, -1, 1.5, float("nan"), float("inf"), "x" * 10_000, "", b"x", {"a": 1}, 1 << 62]


@LOCAL
@pytest.mark.parametrize("name", ["preparing", "timeout", "contended", "retention", "format", "team"])
def test_odd_fields_of_a_team_mislead_nothing(saver, raw, name):
    for value in ODD:
        found = begin(saver)
        team = keys.team_doc(TEAM)
        raw.set_document(team, {**raw.documents()[team], name: value})
        doc = Doc(team, raw.documents()[team], 1, 1)
        hint = format_sets.preparing(doc)
        if hint is not None:
            assert 0 <= hint.contended < 1 << 31
            assert 0.0 <= hint.timeout <= format_sets.MAX_SECONDS
        kept = format_sets.retention_of(doc)
        assert kept is None or 0 < kept < 1 << 31
        assert call(saver, sets.prepare, TEAM, found.set_id).state == "committed"
        assert commit(saver).state == "committed"


def head(**changes):
    whole = {
        "team": TEAM,
        "set": "s",
        "state": "committed",
        "members": ["a", "b"],
        "timeout": 1.0,
        "label": None,
        "cut": [["a", "1", "0" * 64], ["b", "1", "0" * 64]],
        "missing": [],
        "decided": None,
        "restoring": None,
        "restored": None,
    }
    return {**whole, **changes}


WRONG = [
    {"team": OTHER},
    {"set": "z"},
    {"state": "done"},
    {"members": ["b", "a"]},
    {"members": []},
    {"members": "ab"},
    {"members": [str(number) for number in range(101)]},
    {"members": None},
    {"timeout": -1},
    {"timeout": "1"},
    {"timeout": True},
    {"label": 1},
    {"cut": []},
    {"cut": [["a", "1", "0" * 64]]},
    {"cut": [["a", "1", "0" * 63], ["b", "1", "0" * 64]]},
    {"cut": [["a", "1" * 501, "0" * 64], ["b", "1", "0" * 64]]},
    {"cut": [["a", 1, "0" * 64], ["b", "1", "0" * 64]]},
    {"cut": [["a"], ["b"]]},
    {"cut": {"a": 1}},
    {"missing": ["c"]},
    {"missing": 1},
    {"decided": -1},
    {"decided": 1 << 63},
    {"restored": "x"},
    {"restored": [1, 2]},
    {"restored": ["x", -1]},
    {"restoring": 1},
]


def document(found):
    name = keys.set_doc(TEAM, "s")
    plain = plain_envelope(found)
    return Doc(name, {"format": 1, "state": "committed", "set": seals.close(plain, (name, "set"), CLEAR)}, 1, 1)


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_shapes_that_no_writer_makes_are_damage(changes):
    assert format_sets.parse(document(head()), CLEAR).members == ("a", "b")
    with pytest.raises(DamagedError):
        format_sets.parse(document(head(**changes)), CLEAR)
    for key in changes:
        lacking = {name: value for name, value in head().items() if name != key}
        with pytest.raises(DamagedError):
            format_sets.parse(document(lacking), CLEAR)


@pytest.mark.parametrize("found", [[], 1, {}, {"checkpoint": "", "digest": "0" * 64, "time": 1}, {"checkpoint": "1"}])
def test_votes_that_no_voter_writes_are_damage(found):
    name = keys.vote_doc(keys.set_doc(TEAM, "s"), "a")
    plain = plain_envelope(found)
    with pytest.raises(DamagedError):
        format_sets.vote_of(Doc(name, {"format": 1, "vote": seals.close(plain, (name, "vote"), CLEAR)}, 1, 1), CLEAR)
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
        with pytest.raises((ClearTextError, DamageError)):
            saver.thread("t").saga("trip-7").rollback()
        assert UNDONE == []
        assert [one.name for one in saver.admin.verify("t")] == [name]
    raw.set_document(name, stored)
    assert saver.thread("t").saga("trip-7").resume().state == "compensated"
    assert UNDONE == ["hotel"]


def doc_of(raw, name):
    return Doc(name, raw.documents()[name], 1, 1)
