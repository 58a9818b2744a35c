"""Forged documents of teams: none is taken for a set, and none hides another team."""

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import ClearTextError, DamageError, GCSSaverError, InvalidInputError
from langgraph_gcs_saver.format import keys, sets
from langgraph_gcs_saver.format.frames import Codec
from tests.incremental.eax import Eax
from tests.patience import PATIENCE
from tests.system.build import cfg, cid, put, values
from tests.system.raw import open_raw

KEY = Eax("key")


@pytest.fixture
def uri(tmp_path):
    return f"file://{tmp_path}/store"


@pytest.fixture
def raw(uri):
    return open_raw(uri)


def made(saver, team, numbers=(1, 2)):
    """A team of one member, with a set at each of some checkpoints; the ids of the sets."""
    found = []
    for number in numbers:
        put(saver, number, {"v": number}, parent=number - 1 or None, thread=f"{team}/m")
        found.append(saver.team(team, ["m"]).checkpoint().set_id)
    return found


def tip(saver, team="crew"):
    return values(saver.get_tuple(cfg(thread=f"{team}/m")))["v"]


def refused(saver, set_id, team="crew"):
    """Whether a set is neither listed, nor verified, nor restored; and nothing changed."""
    before = tip(saver, team)
    for call in (
        saver.team(team).sets,
        lambda: saver.team(team).verify(set_id),
        lambda: saver.team(team).restore(set_id),
    ):
        with pytest.raises((DamageError, ClearTextError)):
            call()
    return tip(saver, team) == before


@pytest.mark.parametrize("cipher", [None, KEY], ids=["clear", "encrypted"])
@pytest.mark.parametrize("other", ["a set of another team", "another set", "another state", "odd fields"])
def test_a_set_that_was_changed_or_moved(uri, raw, cipher, other):
    with GCSSaver.from_conn_string(uri, cipher=cipher) as saver:
        old, new = made(saver, "crew")
        (theirs,) = made(saver, "theirs", (1,))
        docs = raw.documents()
        name = keys.set_doc("crew", new)
        fields = {
            "a set of another team": docs[keys.set_doc("theirs", theirs)],
            "another set": docs[keys.set_doc("crew", old)],
            "another state": {**docs[name], "state": "aborted"},
            "odd fields": {"set": 5, "state": 5, "format": 1},
        }[other]
        raw.set_document(name, fields)
        assert refused(saver, new)
        reported = [one.name for one in saver.admin.verify() if one.is_damage]
        assert name in reported
        # The other team is not hidden by it, and the set can be deleted with what it holds.
        listed = []
        with pytest.raises(GCSSaverError):
            listed.extend(saver.admin.teams())
        assert [one.team for one in listed] == ["theirs"]
        saver.team("crew").delete_set(new)
        assert [one.set_id for one in saver.team("crew").sets()] == [old]
        assert [len(one.holds) for one in saver.admin.history("crew/m")] == [0, 1]


def test_a_set_in_clear_is_not_restored(uri, raw):
    """An account that may write, and has no key, plants a set that names an older checkpoint."""
    with GCSSaver.from_conn_string(uri, cipher=KEY) as saver:
        made(saver, "crew", (1, 2))
        docs = raw.documents()
        old = docs[keys.checkpoint_doc("crew/m", "", cid(1))]
        planted = sets.SetRecord(
            team="crew",
            set_id="29991231-000000000-planted",
            state="committed",
            members=("m",),
            timeout=PATIENCE,
            timeout=1.0,
            cut={"m": sets.Cut(cid(1), old["digest"].hex())},
            decided=1,
        )
        raw.set_document(planted.name, sets.fields_of(planted, Codec(3)))
        assert refused(saver, planted.set_id)
        assert tip(saver) == 2
        assert planted.name in [one.name for one in saver.admin.verify() if one.is_damage]


def test_a_set_that_was_deleted_and_planted_again(uri, raw):
    """An older document under its own name is read. The look at the store says that its checkpoint is not held."""
    with GCSSaver.from_conn_string(uri, cipher=KEY) as saver:
        old, _ = made(saver, "crew")
        name = keys.set_doc("crew", old)
        fields = raw.documents()[name]
        saver.team("crew").delete_set(old)
        raw.set_document(name, fields)
        (finding,) = saver.admin.verify()
        assert "does not hold it" in finding.reason
        assert [one.reason for one in saver.team("crew").verify(old)] == [finding.reason]


@pytest.mark.parametrize(
    "name",
    [
        f"{keys.TEAMS}/no team",
        keys.team_doc("crew"),
        f"{keys.members('crew')}/%",
        f"{keys.sets('crew')}/%",
        keys.vote_doc(keys.set_doc("crew", "gone"), "m"),
    ],
)
@pytest.mark.parametrize("fields", [{}, {"preparing": 5, "retention": "many", "contended": -1, "timeout": "x"}])
def test_odd_documents_beside_teams(uri, raw, name, fields):
    with GCSSaver.from_conn_string(uri) as saver:
        old, new = made(saver, "crew")
        raw.set_document(name, fields)
        try:
            listed = list(saver.admin.teams())
        except DamageError:
            assert name.startswith(keys.sets("crew"))
        else:
            assert [(one.team, one.retention) for one in listed] == [("crew", 10)]
        assert {one.name for one in saver.admin.verify()} <= {name}
        assert saver.team("crew").threads() == {"m": "crew/m"}
        saver.team("crew").restore(old)
        assert tip(saver) == 1
        if not name.startswith(keys.sets("crew") + "/%"):
            assert saver.team("crew").checkpoint().cut.keys() == {"m"}
        saver.team("crew").delete()
        assert not any(one.startswith(keys.team_doc("crew")) for one in raw.documents())
        with pytest.raises(InvalidInputError):
            saver.team("crew").verify(new)
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
from tests.system.build import cfg

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
KEY = Eax("the key")
CLEAR = Codec(3)
MEMBERS = ["extract", "planner"]
UNDO = "undo for test_forged_teams"
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
        team=team, set_id=set_id, state="committed", members=tuple(MEMBERS), timeout=30.0, cut=cut, decided=1
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
    begun = run(flows.sets.begin("deal", MEMBERS, None, 30.0, saver._context), saver._backend)
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
