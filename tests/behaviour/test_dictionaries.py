"""Trained dictionaries: what is stored with one can be read by every process, and losing one object loses nothing."""

import random
import re
import shutil

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import DeleteBlobs, GetBlob, PutBlob
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import DamageError, InvalidOptionError, WrongKeyError
from langgraph_gcs_saver.events import ClearTextEncrypted
from langgraph_gcs_saver.flows import dictionaries
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.trained import train
from tests.behaviour.api import cfg, checkpoint, cid, metadata, version
from tests.incremental.eax import Eax
from tests.kit.interceptors import Seen
from tests.system.raw import open_raw

SHARED = " ".join(f"{random.Random(1).getrandbits(900):x}"[at : at + 9] for at in range(0, 200, 5)) * 3


def put(saver, thread, n=1, *, large=""):
    own = f"{random.Random(f'{thread} {n}').getrandbits(400):x}"
    values = {"notes": f"{SHARED} {own} {large}", "step": n}
    versions = dict.fromkeys(values, version(n))
    saver.put(cfg(thread, n=n - 1 or None), checkpoint(n, values, versions), metadata(step=n), versions)
    saver.put_writes(cfg(thread, n=n), [("notes", f"{SHARED} written {n}"), ("__error__", "x")], "task")
    return values


def read(saver, thread):
    return {number: saver.get_tuple(cfg(thread, n=number)) for number in (1, 2)}


@pytest.fixture(scope="module", params=[None, Eax("key")], ids=["clear", "encrypted"])
def cipher(request):
    return request.param


@pytest.fixture(scope="module")
def made(cipher, tmp_path_factory):
    """A store, its dictionary's id, and the states of a thread that was written with the dictionary."""
    path = tmp_path_factory.mktemp("made") / "store"
    with GCSSaver.from_conn_string(path.as_uri(), cipher=cipher, verify="off") as saver:
        for n in range(60):
            put(saver, f"sample {n}")
        found = saver.admin.train(keep=True)
        assert found.dictionary is not None, found
        assert saver.admin.train(keep=True).dictionary == found.dictionary
    with GCSSaver.from_conn_string(path.as_uri(), cipher=cipher, dictionary=found.dictionary) as saver:
        states = {n: put(saver, "t", n) for n in (1, 2)}
    return path, found.dictionary, states


@pytest.fixture
def store(made, tmp_path):
    """A copy of that store."""
    return shutil.copytree(made[0], tmp_path / "store").as_uri()


@pytest.fixture
def trained(made):
    return made[1]


@pytest.fixture
def written(made):
    return made[2]


def documents(store, thread="t"):
    raw = open_raw(store)
    found = {name: fields for name, fields in raw.documents().items() if f"/{keys.spread(thread)}/" in name}
    raw.close()
    return found


def is_read(saver, written, thread="t"):
    found = read(saver, thread)
    values = {n: one.checkpoint["channel_values"] for n, one in found.items()}
    return values == written and all(len(one.pending_writes) == 2 for one in found.values())


def test_what_needs_it_is_smaller_and_states_format_2(store, cipher, trained, written):
    with GCSSaver.from_conn_string(store, cipher=cipher) as saver:
        for n in (1, 2):
            put(saver, "plain", n)
    sizes = {}
    for thread, expected in (("t", 2), ("plain", 1)):
        docs = documents(store, thread)
        formats = {name: fields["format"] for name, fields in docs.items() if not name.endswith("!s")}
        assert set(formats.values()) == {expected}, formats
        sizes[thread] = sum(
            len(data) for fields in docs.values() for data in fields.values() if isinstance(data, bytes)
        )
    assert sizes["t"] < 0.7 * sizes["plain"]
    assert trained
    assert written


def test_a_process_fetches_it_once(store, cipher, trained, written):
    seen = Seen()
    with GCSSaver.from_conn_string(store, cipher=cipher, interceptors=[seen]) as saver:
        assert is_read(saver, written)
        assert [one.pending_writes for one in saver.list(cfg("t"))]
    fetched = [one.name for one in seen.requests if isinstance(one, GetBlob)]
    assert fetched == [keys.dictionary_blobs(trained)[0]]


def test_a_store_without_one_pays_no_request(cipher):
    seen = Seen()
    with GCSSaver.from_conn_string("memory:", cipher=cipher, interceptors=[seen]) as saver:
        put(saver, "t", 1)
        saver.get_tuple(cfg("t"))
    assert not [one for one in seen.requests if isinstance(one, GetBlob)]


def test_a_writer_without_it_continues_what_needs_it(store, cipher, trained, written):
    with GCSSaver.from_conn_string(store, cipher=cipher) as saver:
        values = written[2] | {"step": 3}
        versions = {"notes": version(2), "step": version(3)}
        saver.put(cfg("t", n=2), checkpoint(3, values, versions), metadata(step=3), {"step": version(3)})
    name = keys.checkpoint_doc("t", "", cid(3))
    assert documents(store)[name]["format"] == 2, "it inherits a frame with the dictionary"
    seen = Seen()
    with GCSSaver.from_conn_string(store, cipher=cipher, interceptors=[seen]) as saver:
        assert saver.get_tuple(cfg("t")).checkpoint["channel_values"] == values
    assert keys.dictionary_blobs(trained)[0] in [getattr(one, "name", None) for one in seen.requests]


@pytest.mark.parametrize("damage", [("missing", 0), ("corrupt", 1), ("another", 0)])
def test_one_damaged_object_is_found_and_restored(store, cipher, trained, written, damage):
    how, which = damage
    name = keys.dictionary_blobs(trained)[which]
    raw = open_raw(store)
    before = raw.objects()
    if how == "missing":
        raw.delete_object(name)
    else:
        data = bytearray(before[name])
        data[len(data) // 2] ^= 1
        raw.set_object(name, bytes(data) if how == "corrupt" else bytes(20))
    with GCSSaver.from_conn_string(store, cipher=cipher) as saver:
        assert is_read(saver, written)
        (finding,) = saver.admin.verify()
        assert (finding.name, finding.kind) == (name, "missing" if how == "missing" else "corrupt")
        (plan,) = saver.admin.plan_repair()
        assert [(step.action, step.name) for step in plan.steps] == [("fix", name)]
        assert saver.admin.carry_out(plan) == plan
        assert list(saver.admin.verify(depth="data")) == []
        assert saver.admin.repair() == []
    assert raw.objects().keys() == before.keys()
    if cipher is None:
        assert raw.objects() == before
    raw.close()


def test_a_lost_dictionary_is_no_damage_of_threads(store, cipher, trained, written):
    raw = open_raw(store)
    before = raw.objects()
    for name in keys.dictionary_blobs(trained):
        raw.delete_object(name)
    docs = documents(store)
    with GCSSaver.from_conn_string(store, cipher=cipher, dictionary=trained) as saver:
        for call in (
            lambda: saver.get_tuple(cfg("t")),
            lambda: saver.get_tuple(cfg("t", n=1)),
            lambda: put(saver, "new"),
            lambda: list(saver.list(cfg("t"))),
            lambda: list(saver.admin.verify("t")),
            saver.admin.repair,
            lambda: saver.admin.prune(["t"]),
        ):
            with pytest.raises(DamageError, match=f"dictionary '{trained}' cannot be read.*backup"):
                call()
    assert documents(store) == docs
    assert not documents(store, "new")
    raw.set_object(keys.dictionary_blobs(trained)[1], before[keys.dictionary_blobs(trained)[1]])
    with GCSSaver.from_conn_string(store, cipher=cipher) as saver:
        assert is_read(saver, written)
        assert len(saver.admin.repair()) == 1
    raw.close()


def test_copies_and_archives_carry_it(store, cipher, trained, written, tmp_path):
    other = (tmp_path / "other").as_uri()
    third = (tmp_path / "third").as_uri()
    with (
        GCSSaver.from_conn_string(store, cipher=cipher) as saver,
        GCSSaver.from_conn_string(other, cipher=cipher) as target,
        GCSSaver.from_conn_string(third, cipher=cipher) as imported,
    ):
        saver.admin.copy_thread("t", "copy")
        assert is_read(saver, written, "copy")
        assert saver.admin.transfer_thread("t", target).findings == ()
        saver.admin.export_thread("t", tmp_path / "t.tar")
        assert imported.admin.import_thread(tmp_path / "t.tar").findings == ()
        assert list(saver.admin.verify(depth="data")) == []
    for uri in (other, third):
        with GCSSaver.from_conn_string(uri, cipher=cipher) as saver:
            assert is_read(saver, written)
            assert list(saver.admin.verify(depth="data")) == []
        raw = open_raw(uri)
        assert {keys.dictionary_of(name) for name in raw.objects()} == {trained}
        raw.close()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_transfer_completes_one_that_carried_one_object(store, cipher, trained, tmp_path, lost):
    other = (tmp_path / "other").as_uri()
    with GCSSaver.from_conn_string(store, cipher=cipher) as saver:
        for _ in range(2):
            with GCSSaver.from_conn_string(other, cipher=cipher) as target:
                saver.admin.transfer_thread("t", target)
            raw = open_raw(other)
            found = raw.objects()
            raw.delete_object(keys.dictionary_blobs(trained)[lost])
            raw.close()
            assert set(keys.dictionary_blobs(trained)) <= found.keys()


def test_a_thread_of_format_1_carries_none(store, cipher, trained, tmp_path):
    assert trained
    with GCSSaver.from_conn_string(store, cipher=cipher) as saver:
        saver.admin.export_thread("sample 1", tmp_path / "t.tar")
        other = (tmp_path / "other").as_uri()
        with GCSSaver.from_conn_string(other, cipher=cipher) as target:
            target.admin.import_thread(tmp_path / "t.tar")
    raw = open_raw(other)
    assert not raw.objects()
    raw.close()


def test_it_is_encrypted_as_the_data_is(store, cipher, trained):
    raw = open_raw(store)
    stored = raw.objects()[keys.dictionary_blobs(trained)[0]]
    raw.close()
    assert stored.startswith(b"\x01") is (cipher is not None)
    if cipher is not None:
        with (
            GCSSaver.from_conn_string(store, cipher=Eax("other"), dictionary=trained) as saver,
            pytest.raises(WrongKeyError),
        ):
            put(saver, "new")


def test_upkeep_leaves_it(store, cipher, trained, written):
    with GCSSaver.from_conn_string(store, cipher=cipher) as saver:
        saver.admin.collect()
        saver.admin.prune(["t"])
        saver.admin.delete_thread("sample 1")
        assert saver.get_tuple(cfg("t")).checkpoint["channel_values"] == written[2]
    raw = open_raw(store)
    assert set(keys.dictionary_blobs(trained)) <= raw.objects().keys()
    raw.close()


def in_place(store, trained, **options):
    """A saver that encrypts a store in place, whose dictionary and threads are in clear."""
    return GCSSaver.from_conn_string(store, cipher=Eax("new"), dictionary=trained, accept_clear=True, **options)


@pytest.mark.parametrize("cipher", [None], ids=["clear"], indirect=True)
def test_repair_encrypts_one_in_clear(store, trained):
    """Without that, a thread that was encrypted in place could not be read any more without `accept_clear`."""
    events = []
    with in_place(store, trained, on_event=events.append) as saver:
        new = put(saver, "new")
        (plan,) = saver.admin.plan_repair()
        assert [(step.action, step.name) for step in plan.steps] == [
            ("fix", name) for name in keys.dictionary_blobs(trained)
        ]
        assert plan.clear == 2
        events.clear()
        assert saver.admin.repair() == [plan]
        assert [one.documents for one in events if isinstance(one, ClearTextEncrypted)] == [2]
        assert saver.admin.repair() == []
    raw = open_raw(store)
    for name in keys.dictionary_blobs(trained):
        assert raw.objects()[name].startswith(b"\x01")
    raw.close()
    with GCSSaver.from_conn_string(store, cipher=Eax("new"), dictionary=trained) as saver:
        assert saver.get_tuple(cfg("new")).checkpoint["channel_values"] == new
        put(saver, "new", 2)
        assert not [one for one in saver.admin.verify() if not one.thread_id]


@pytest.mark.parametrize("cipher", [None], ids=["clear"], indirect=True)
def test_one_in_clear_says_what_to_do(store, trained):
    with in_place(store, trained) as saver:
        put(saver, "new")
    with (
        GCSSaver.from_conn_string(store, cipher=Eax("new")) as saver,
        pytest.raises(DamageError, match=r"is in clear.*repair.*accept_clear"),
    ):
        saver.get_tuple(cfg("new"))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("cipher", [None], ids=["clear"], indirect=True)
def test_a_crash_while_it_is_encrypted_loses_nothing(store, trained, written, at, after):
    with in_place(store, trained, interceptors=[Crashing(at, after=after)]) as saver, pytest.raises(Crash):
        saver.admin.repair()
    with GCSSaver.from_conn_string(store, cipher=Eax("new"), accept_clear=True) as saver:
        assert is_read(saver, written)
        saver.admin.repair()
    with GCSSaver.from_conn_string(store, cipher=Eax("new"), dictionary=trained) as saver:
        put(saver, "new")
        assert not [one for one in saver.admin.verify() if not one.thread_id]


def test_without_compression_it_has_no_effect(store, cipher, trained):
    with GCSSaver.from_conn_string(store, cipher=cipher, dictionary=trained, zstd_level=None) as saver:
        put(saver, "raw")
    assert {fields["format"] for fields in documents(store, "raw").values()} == {1}


@pytest.mark.parametrize("wrong", ["", "1234567", "123456789", "ABCDEF01", "f2345678", 5])
def test_an_id_has_8_digits(wrong):
    with pytest.raises(InvalidOptionError, match=re.escape(repr(wrong))):
        GCSSaver.from_conn_string("memory:", dictionary=wrong)


# Crashes


class Crash(BaseException):
    """Ends a call as a killed process does."""


class Crashing(Interceptor):
    """Crashes before or after the change with a number."""

    def __init__(self, at, *, after):
        self.at, self.after, self.changes = at, after, 0

    def around(self, effect, perform):
        is_due = isinstance(effect, (PutBlob, DeleteBlobs)) and self.changes == self.at
        self.changes += isinstance(effect, (PutBlob, DeleteBlobs))
        if is_due and not self.after:
            raise Crash
        found = perform(effect)
        if is_due:
            raise Crash
        return found


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_crash_at_any_change_is_completed_by_the_next_call(tmp_path, lost, after):
    """`keep` may find no object, a damaged one, or a missing one; a call that crashes makes none of them worse."""
    dictionary = train([f"{SHARED[at : at + 99]} {at}".encode() for at in range(120)])
    for at in range(4):
        store = (tmp_path / f"{at}").as_uri()
        crashing = Crashing(at, after=after)
        with GCSSaver.from_conn_string(store) as saver:
            run(dictionaries.keep(dictionary, saver._context), saver._backend)
        raw = open_raw(store)
        whole = raw.objects()
        for name in keys.dictionary_blobs(dictionary.id)[:lost]:
            raw.set_object(name, b"damaged")
        with GCSSaver.from_conn_string(store, interceptors=[crashing]) as saver:
            if at < 1 + lost:
                with pytest.raises(Crash):
                    run(dictionaries.keep(dictionary, saver._context), saver._backend)
            else:
                run(dictionaries.keep(dictionary, saver._context), saver._backend)
                assert crashing.changes == 1 + lost
            if lost == 1:
                run(dictionaries.fetch((dictionary.id,), saver._context.codec), saver._backend)
        with GCSSaver.from_conn_string(store) as saver:
            run(dictionaries.keep(dictionary, saver._context), saver._backend)
            assert list(saver.admin.verify()) == []
        assert raw.objects() == whole
        raw.close()
