"""A call that stores pending writes must be able to read what it takes for its own earlier call."""

import itertools

import pytest

from langgraph_gcs_saver.engine.effects import Commit
from langgraph_gcs_saver.errors import UnsupportedFormatError, WrongKeyError
from langgraph_gcs_saver.events import CheckpointDamaged, ClearTextAccepted
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.frames import Codec, envelope
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.incremental.eax import Eax
from tests.kit.interceptors import Meanwhile
from tests.security.forging import frames_of, put_writes, sealed
from tests.system.build import cfg, cid, noise, put

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
KEY = Eax("the key")
SIZES = {"inline": "REAL", "in an object": "REAL" + noise(300_000).hex()}
DOC = keys.writes("t")
FORGED = envelope({"path": "", "writes": [[0, "v", "msgpack", 7]]}, b"\xa6FORGED")


def name_of(raw, n=1):
    (name,) = [one for one in raw.documents() if one.startswith(f"{DOC}/") and f"!{keys.inv(cid(n))}!" in one]
    return name


@pytest.fixture
def own(make_saver, raw):
    """The name of a call's document, which an attacker can compute from ids. The document itself is deleted."""
    saver = make_saver(cipher=KEY)
    put(saver, 1, {"v": "x"})
    saver.put_writes(cfg(1), [("v", "probe")], "task")
    name = name_of(raw)
    raw.delete_document(name)
    return name


def clear(raw, name, _):
    put_writes(raw, name, {"writes": Codec(3).encode(FORGED)})


def moved(raw, name, saver):
    saver.put_writes(cfg(5), [("v", "another's")], "task")
    put_writes(raw, name, frames_of(raw, name_of(raw, 5)))


def not_bound(raw, name, _):
    put_writes(raw, name, {"writes": Codec(3, KEY).encode(FORGED)})


def no_seal(raw, name, _):
    raw.set_document(name, {"format": 1, "writes": b"x" * 60})


def other_fields(raw, name, _):
    raw.set_document(name, {"format": 1, "what nobody writes": sealed(name, "what nobody writes", b"x"), "w 2": 5})


def nothing(raw, name, _):
    raw.set_document(name, {})


PLANTED = [clear, moved, not_bound, no_seal, other_fields, nothing]


@pytest.mark.parametrize(("size", "verify"), list(itertools.product(SIZES, ["readback", "checksum", "off"])))
@pytest.mark.parametrize("plant", PLANTED)
def test_what_was_planted_is_replaced(make_saver, raw, own, plant, size, verify):  # noqa: PLR0917 - a store, and a case
    """Otherwise an attacker who can write to the store could keep a task's writes out, though the call succeeds."""
    events = []
    saver = make_saver(cipher=KEY, on_event=events.append, verify=verify)
    plant(raw, own, saver)
    saver.put_writes(cfg(1), [("v", SIZES[size])], "task")
    assert make_saver(cipher=KEY).get_tuple(cfg(1)).pending_writes == [("task", "v", SIZES[size])]
    assert [one.name for one in events if hasattr(one, "name")] == [own]
    assert raw.documents()[own].keys() == {"format", "writes"}
    # From now on it is an earlier call, which wins.
    stored = raw.documents()[own]
    saver.put_writes(cfg(1), [("v", "later")], "task")
    assert raw.documents()[own] == stored


@pytest.mark.parametrize("plant", PLANTED)
def test_special_writes_beside_it(make_saver, raw, own, plant):
    saver = make_saver(cipher=KEY)
    plant(raw, own, saver)
    saver.put_writes(cfg(1), [("v", "REAL"), ("__interrupt__", "?")], "task")
    found = make_saver(cipher=KEY).get_tuple(cfg(1)).pending_writes
    assert sorted(found) == [("task", "__interrupt__", "?"), ("task", "v", "REAL")]


@pytest.mark.parametrize("size", SIZES)
def test_another_call_replaces_it_first(make_saver, raw, own, size):
    """The first call wins of those that both found what was planted there."""
    other = make_saver(cipher=KEY)
    clear(raw, own, None)
    ahead = Meanwhile(
        (Commit,), lambda: other.put_writes(cfg(1), [("v", "first")], "task"), at=1 if size == "inline" else 0
    )
    make_saver(cipher=KEY, interceptors=[ahead]).put_writes(cfg(1), [("v", SIZES[size])], "task")
    assert ahead.is_done
    assert make_saver(cipher=KEY).get_tuple(cfg(1)).pending_writes == [("task", "v", "first")]


@pytest.mark.parametrize("size", SIZES)
def test_it_is_gone_when_it_is_to_be_replaced(make_saver, raw, own, size):
    clear(raw, own, None)
    gone = Meanwhile((Commit,), lambda: raw.delete_document(own), at=1 if size == "inline" else 0)
    make_saver(cipher=KEY, interceptors=[gone]).put_writes(cfg(1), [("v", SIZES[size])], "task")
    assert gone.is_done
    assert make_saver(cipher=KEY).get_tuple(cfg(1)).pending_writes == [("task", "v", SIZES[size])]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cipher", [None, Eax("another key")], ids=["no key", "another key"])
def test_another_key_is_no_damage(make_saver, raw, own, cipher, size):
    """It may be an earlier call's, of a saver that is configured rightly."""
    make_saver(cipher=KEY).put_writes(cfg(1), [("v", "own")], "task")
    before = raw.documents()
    with pytest.raises(WrongKeyError):
        make_saver(cipher=cipher).put_writes(cfg(1), [("v", SIZES[size])], "task")
    assert raw.documents() == before


def test_a_newer_version_wrote_it(make_saver, raw, own):
    make_saver(cipher=KEY).put_writes(cfg(1), [("v", "own")], "task")
    raw.set_document(own, {**raw.documents()[own], "format": 3})
    before = raw.documents()
    with pytest.raises(UnsupportedFormatError):
        make_saver(cipher=KEY).put_writes(cfg(1), [("v", "REAL")], "task")
    assert raw.documents() == before


@pytest.mark.parametrize("cipher", [None, KEY], ids=["no cipher", "cipher"])
def test_an_earlier_call_costs_what_it_did(make_saver, cipher):
    """Two rounds: the commit that finds it, and its document."""
    put(make_saver(cipher=cipher), 1, {"v": "x"})
    count = CountingInterceptor()
    saver = make_saver(cipher=cipher, interceptors=[count])
    saver.put_writes(cfg(1), [("v", "first")], "task")
    count.clear()
    saver.put_writes(cfg(1), [("v", "second")], "task")
    assert count.rounds == [("Commit",), ("GetDocs",)]


# What is accepted in clear does not stay so


def test_the_same_in_clear_is_stored_again(make_saver, raw):
    """A call that finds what it stores in clear leaves it encrypted, and says that it has read it."""
    plain = make_saver()
    put(plain, 1, {"v": ["x"]})
    plain.put_writes(cfg(1), [("v", "w")], "task")
    events = []
    saver = make_saver(cipher=KEY, accept_clear=True, on_event=events.append)
    saver.put_writes(cfg(1), [("v", "w")], "task")
    assert [one.thread_id for one in events if isinstance(one, ClearTextAccepted)] == ["t"]
    put(saver, 1, {"v": ["x"]})
    assert not any(isinstance(one, CheckpointDamaged) for one in events)
    strict = make_saver(cipher=KEY)
    found = strict.get_tuple(cfg(1))
    assert (found.checkpoint["channel_values"], found.pending_writes) == ({"v": ["x"]}, [("task", "v", "w")])
    assert list(strict.admin.verify("t", depth="existence")) == []
    # The frames in clear stay where they are, and are reported until the checkpoint is pruned.
    assert [found.kind for found in strict.admin.verify("t", depth="data")] == ["clear"]
