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
    damaged = raw.documents()[found.name]
    call(saver, sets.break_, found.hold)
    assert raw.documents()[found.name] == damaged
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
