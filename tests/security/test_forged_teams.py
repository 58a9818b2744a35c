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
