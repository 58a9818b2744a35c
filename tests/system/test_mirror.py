"""A store whose objects are in two buckets: each is in both, and a reader needs only one of them."""

import asyncio
import hashlib
import random
import uuid
from datetime import timedelta
from unittest.mock import Mock

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import HashBlob, PutBlob
from langgraph_gcs_saver.engine.pieces import Pieces, crc32c
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import (
    DamageError,
    InvalidOptionError,
    InvalidURIError,
    StoreNotFoundError,
    StoreUnavailableError,
    WrongStoreError,
)
from langgraph_gcs_saver.events import CheckpointDamaged, ReadFromMirror
from langgraph_gcs_saver.flows import dictionaries
from langgraph_gcs_saver.format.trained import train
from tests.system.build import cfg, checkpoint, cid, version

METADATA = {"source": "loop", "step": 0, "parents": {}}


def large(number):
    """A text that is too large for a document, and shares nothing with others."""
    return random.Random(number).randbytes(140_000).hex()


def put(saver, number, value, thread="t"):
    parent = number - 1 or None
    saver.put(cfg(parent, thread=thread), checkpoint(number, {"v": value}), METADATA, {"v": version(number)})


def value(saver, thread="t"):
    found = saver.get_tuple(cfg(thread=thread))
    return None if found is None else found.checkpoint["channel_values"]["v"]


@pytest.fixture
def buckets(bucket_name, storage_emulator):
    """The bucket, and its mirror."""
    client = storage.Client(project="p", credentials=AnonymousCredentials())
    return client.bucket(bucket_name), client.create_bucket(f"test-{uuid.uuid4().hex}")


@pytest.fixture
def open_in(firestore_emulator, project_id, request):
    """Opens savers on one database, a bucket and perhaps a mirror."""

    def opened(bucket, mirror=None, path="/agents", **options):
        named = {} if mirror is None else {"mirror": f"gs://{mirror.name}"}
        uri = f"gs://{bucket.name}{path}?root=one/store&project={project_id}"
        saver = GCSSaver.from_conn_string(uri, **named, **options)
        request.addfinalizer(saver.close)
        return saver

    return opened


def objects(bucket):
    """The objects of threads in a bucket, with their checksums."""
    return {blob.name: blob.crc32c for blob in bucket.list_blobs() if "~setup" not in blob.name}


def test_each_object_is_in_both_buckets(open_in, buckets):
    saver = open_in(*buckets)
    put(saver, 1, large(1))
    saver.put_writes(cfg(1), [("v", large(2))], "task")
    saver.copy_thread("t", "copy")
    first, mirror = map(objects, buckets)
    assert len(first) == 4
    assert first == mirror
    assert list(saver.admin.verify(depth="data")) == []
    saver.delete_thread("t")
    saver.delete_thread("copy")
    assert objects(buckets[0]) == objects(buckets[1]) == {}


def test_asynchronous_calls_use_both(open_in, buckets):
    saver = open_in(*buckets)

    async def act():
        await saver.aput(cfg(), checkpoint(1, {"v": large(1)}), METADATA, {"v": version(1)})
        damage(buckets[0], "missing")
        found = await saver.aget_tuple(cfg())
        await saver.aclose()
        return found.checkpoint["channel_values"]["v"]

    assert asyncio.run(act()) == large(1)
    assert len(objects(buckets[1])) == 1


def test_an_upload_in_pieces_goes_to_both(open_in, buckets):
    """Several requests to each bucket, at the same time."""
    blocks = [random.Random(number).randbytes(1 << 20) for number in range(9)]
    blobs = open_in(*buckets)._backend.blobs
    blobs.put_blob(PutBlob("ff-t/pieces", Pieces(lambda: iter(blocks), hashed=True)))
    first, mirror = map(objects, buckets)
    assert first == mirror == {"agents/ff-t/pieces": crc32c(b"".join(blocks))}
    assert blobs.hash_blob(HashBlob("ff-t/pieces")) == hashlib.sha256(b"".join(blocks)).hexdigest()


@pytest.mark.parametrize("what", ["missing", "corrupt"])
def test_a_read_uses_the_mirror(open_in, buckets, what):
    put(open_in(*buckets), 1, large(1))
    for blob in buckets[0].list_blobs(prefix="agents/"):
        blob.delete() if what == "missing" else blob.upload_from_string(b"x" * blob.size)
    events = []
    assert value(open_in(*buckets, on_event=events.append)) == large(1)
    read = [event for event in events if isinstance(event, ReadFromMirror)]
    assert [(event.thread_id, event.reason) for event in read] == [("t", what)]
    assert not any(isinstance(event, CheckpointDamaged) for event in events)


def test_a_saver_must_know_the_mirror(open_in, buckets):
    put(open_in(*buckets), 1, large(1))
    plain = open_in(buckets[0])
    for act in (value, lambda saver: put(saver, 2, "small"), lambda saver: saver.delete_thread("t")):
        with pytest.raises(WrongStoreError, match=f"mirrored in the bucket {buckets[1].name!r}.* no mirror"):
            act(plain)
    assert value(open_in(*buckets)) == large(1)


def test_the_first_writer_with_a_mirror_names_it(open_in, buckets):
    """A store that had none keeps what it has, and no saver without the mirror reaches it after that."""
    put(open_in(buckets[0]), 1, large(1))
    with_mirror = open_in(*buckets)
    assert value(with_mirror) == large(1)
    assert value(open_in(buckets[0])) == large(1)
    put(with_mirror, 2, large(2))
    with pytest.raises(WrongStoreError):
        value(open_in(buckets[0]))


def test_a_mirror_belongs_to_one_store(open_in, buckets, project_id):
    put(open_in(*buckets), 1, large(1))
    client = buckets[0].client
    other = client.create_bucket(f"test-{uuid.uuid4().hex}")

    def stranger(bucket, mirror):
        uri = f"gs://{bucket.name}/agents?root=two/store&project={project_id}&mirror={mirror.name}"
        return GCSSaver.from_conn_string(uri)

    with stranger(other, buckets[1]) as saver, pytest.raises(WrongStoreError, match=r"is the mirror of 'gs://"):
        put(saver, 1, "small")
    with stranger(other, buckets[0]) as saver, pytest.raises(WrongStoreError, match="has objects of threads"):
        put(saver, 1, "small")
    with stranger(buckets[1], other) as saver, pytest.raises(WrongStoreError, match="objects of threads"):
        put(saver, 1, "small")
    assert value(open_in(*buckets)) == large(1)


def test_a_mirror_is_no_bucket_of_another_store(open_in, buckets, project_id):
    """Before it has any objects, too: `collect` of one store would delete those of the other."""
    put(open_in(*buckets), 1, "small")
    uri = f"gs://{buckets[1].name}/agents?root=two/store&project={project_id}"
    with GCSSaver.from_conn_string(uri) as saver, pytest.raises(WrongStoreError, match="mirror of another store"):
        put(saver, 1, "small")


def test_the_mirror_takes_over_by_rebind(open_in, buckets):
    first, mirror = buckets
    put(open_in(*buckets), 1, large(1))
    first.delete_blobs(list(first.list_blobs()))
    first.delete()
    with pytest.raises(StoreNotFoundError):
        put(open_in(*buckets), 2, large(2))
    alone = open_in(mirror)
    with pytest.raises(WrongStoreError):
        value(alone)
    plan = alone.admin.rebind()
    assert (plan.objects, plan.missing) == (1, 0)
    put(alone, 2, large(2))
    assert value(alone) == large(2)
    with pytest.raises(WrongStoreError):
        put(open_in(*buckets), 3, "small")


def test_the_bucket_that_was_lost_becomes_the_mirror(open_in, buckets):
    first, mirror = buckets
    put(open_in(*buckets), 1, large(1))
    alone = open_in(mirror)
    alone.admin.rebind()
    put(alone, 2, large(2))
    swapped = open_in(mirror, first)
    assert swapped.admin.rebind().missing == 0
    assert kinds(swapped) == ["unmirrored"]
    swapped.admin.repair()
    put(swapped, 3, large(3))
    assert objects(first) == objects(mirror)
    assert value(open_in(mirror, first)) == large(3)
    for stale in (open_in(mirror), open_in(*buckets)):
        with pytest.raises(WrongStoreError):
            put(stale, 4, "small")


def test_bad_configurations_are_refused(bucket_name, tmp_path):
    with pytest.raises(InvalidURIError, match="itself"):
        GCSSaver.from_conn_string(f"gs://{bucket_name}?mirror={bucket_name}&project=p")
    with pytest.raises(InvalidOptionError, match="Name it once"):
        GCSSaver.from_conn_string(f"gs://{bucket_name}?mirror=other&project=p", mirror="other")
    for uri in (f"file://{tmp_path}/store", "memory:"):
        with pytest.raises(InvalidOptionError, match="in one place"):
            GCSSaver.from_conn_string(uri, mirror="gs://other")
    for wrong in ("gs://other/prefix", "gs://", 5, "file:///x"):
        with pytest.raises(InvalidOptionError, match="mirror"):
            GCSSaver.from_conn_string(f"gs://{bucket_name}?project=p", mirror=wrong)
    assert list(tmp_path.iterdir()) == []


# What only one bucket has


def damage(bucket, how, suffix=""):
    for blob in bucket.list_blobs(prefix="agents/"):
        if "~setup" not in blob.name and suffix in blob.name:
            blob.delete() if how == "missing" else blob.upload_from_string(b"x" * blob.size)


def kinds(saver, depth="data"):
    return [finding.kind for finding in saver.admin.verify(depth=depth)]


@pytest.mark.parametrize(
    ("side", "how"),
    [
        (1, "missing"),
        (0, "corrupt"),
        pytest.param(0, "missing", marks=pytest.mark.soak),
        pytest.param(1, "corrupt", marks=pytest.mark.soak),
    ],
)
def test_repair_copies_what_one_bucket_lacks(open_in, buckets, side, how):
    """Values of their own, small values that share an object, and pending writes."""
    saver = open_in(*buckets, inline_max_bytes=0)
    put(saver, 1, large(1))
    saver.put(cfg(1), checkpoint(2, {"a": "small", "b": "as small"}), METADATA, {"a": version(2), "b": version(2)})
    saver.put_writes(cfg(2), [("v", large(2))], "task")
    written = objects(buckets[0])
    damage(buckets[side], how)
    for depth in ("existence", "data"):
        assert kinds(open_in(*buckets), depth) == ["unmirrored"] * len(written)
    reader = open_in(*buckets)
    (plan,) = reader.admin.plan_repair()
    assert {step.action for step in plan.steps} == {"mirror"}
    (plan,) = reader.admin.repair()
    assert {step.action for step in plan.steps} == {"mirror"}
    assert objects(buckets[0]) == objects(buckets[1]) == written
    assert kinds(open_in(*buckets)) == []
    found = open_in(*buckets).get_tuple(cfg())
    assert found.checkpoint["channel_values"]["b"] == "as small"
    assert [channel for _, channel, _ in found.pending_writes] == ["v"]


@pytest.fixture
def crowd(open_in, buckets):
    """Values that are small, and together too large for a document, so that they share an object."""
    values = {f"v{number}": random.Random(number).randbytes(15_000).hex() for number in range(80)}
    saver = open_in(*buckets)
    saver.put(cfg(), checkpoint(1, values), METADATA, dict.fromkeys(values, version(1)))
    assert len(objects(buckets[0])) == 1
    return values


def test_values_that_share_a_corrupt_object_are_read_from_the_mirror(open_in, buckets, crowd):
    """No checksum of the object is known, so only the digests of the values show that it is corrupt."""
    damage(buckets[0], "corrupt")
    events = []
    found = open_in(*buckets, on_event=events.append).get_tuple(cfg())
    assert found.checkpoint["channel_values"] == crowd
    assert "recovered_from" not in found.metadata
    assert [event.reason for event in events if isinstance(event, ReadFromMirror)] == ["corrupt"]


@pytest.mark.parametrize("kind", ["packed", "manifest", "writes"])
def test_no_damage_is_reported_while_a_bucket_is_not_asked(open_in, buckets, kind):
    """For a while after an outage, reads ask the mirror first. Its corrupt copy must not hide the right one."""
    saver = open_in(*buckets)
    put(saver, 1, "old")
    values = {f"v{number}": random.Random(number).randbytes(15_000).hex() for number in range(80 * (kind == "packed"))}
    metadata = METADATA | {"large": random.Random(9).randbytes(1_200_000).hex() * (kind == "manifest")}
    saver.put(cfg(1), checkpoint(2, values), metadata, dict.fromkeys(values, version(2)))
    if kind == "writes":
        saver.put_writes(cfg(2), [("v", large(2))], "task")
    damage(buckets[1], "corrupt")
    reader = open_in(*buckets)
    first = reader._backend.blobs.buckets[0]
    found, first.get_blob = first.get_blob, Mock(side_effect=StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError):
        reader.get_tuple(cfg())
    first.get_blob = found
    assert {finding.kind for finding in reader.admin.verify(depth="data")} == {"unmirrored"}
    assert "recovered_from" not in reader.get_tuple(cfg()).metadata


@pytest.mark.parametrize("how", ["corrupt", "missing"])
def test_a_transfer_copies_no_corrupt_object(open_in, buckets, crowd, tmp_path, how):
    """A transfer and an export copy bytes, and have no reader that sees which copy is right."""
    damage(buckets[0], how)
    saver = open_in(*buckets)
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as target:
        if how == "corrupt":
            with pytest.raises(DamageError, match=r"such as .*Call `repair`"):
                saver.admin.transfer_thread("t", target)
            with pytest.raises(DamageError, match=r"such as .*Call `repair`"):
                saver.admin.export_thread("t", tmp_path / "thread.tar")
            assert target.get_tuple(cfg()) is None
            saver.admin.repair()
        saver.admin.transfer_thread("t", target)
        assert target.get_tuple(cfg()).checkpoint["channel_values"] == crowd


@pytest.mark.parametrize("how", ["corrupt", "missing"])
def test_a_dictionary_is_read_from_the_mirror(open_in, buckets, how):
    """Both of its objects are lost in the bucket, and everything that was compressed with it needs it."""
    shared = random.Random(1).randbytes(300).hex()
    dictionary = train([f"{shared[at : at + 99]} {at}".encode() for at in range(120)])
    saver = open_in(*buckets)
    run(dictionaries.keep(dictionary, saver._context), saver._backend)
    written = objects(buckets[0])
    assert len(written) == 2
    put(open_in(*buckets, dictionary=dictionary.id), 1, shared)
    damage(buckets[0], how)
    events = []
    reader = open_in(*buckets, on_event=events.append)
    assert value(reader) == shared
    assert {event.reason for event in events if isinstance(event, ReadFromMirror)} == {how}
    assert set(kinds(reader)) == ({"unmirrored"} if how == "missing" else {"unmirrored", "corrupt"})
    reader.admin.repair()
    assert kinds(reader) == []
    assert value(open_in(buckets[0], mirror=buckets[1])) == shared


@pytest.mark.parametrize("side", [0, 1])
def test_the_right_copy_is_found_by_its_readers(open_in, buckets, crowd, side):
    written = objects(buckets[0])
    damage(buckets[side], "corrupt")
    saver = open_in(*buckets)
    assert kinds(saver) == ["unmirrored"]
    saver.admin.repair()
    assert objects(buckets[0]) == objects(buckets[1]) == written


def test_setup_checks_both_buckets(open_in, buckets):
    first, mirror = buckets
    saver = open_in(first, mirror)
    report = saver.setup()
    assert any("both buckets" in line for line in report.done)
    assert any("both in US" in line for line in report.warnings), "both are in the same place"
    assert objects(first) == objects(mirror) == {}
    saver.ping()
    mirror.delete_blobs(list(mirror.list_blobs()))
    mirror.delete()
    with pytest.raises(StoreNotFoundError, match="in another region"):
        saver.setup()
    with pytest.raises(StoreNotFoundError):
        saver.ping()


def test_damage_in_both_buckets_is_damage(open_in, buckets):
    put(open_in(*buckets), 1, "small")
    put(open_in(*buckets), 2, large(2))
    for bucket in buckets:
        damage(bucket, "corrupt")
    assert kinds(open_in(*buckets)) == ["corrupt"]
    found = open_in(*buckets).get_tuple(cfg())
    assert found.metadata["recovered_from"] == cid(2)


def test_objects_from_before_the_mirror_are_copied(open_in, buckets):
    put(open_in(buckets[0]), 1, large(1))
    saver = open_in(*buckets)
    put(saver, 2, large(2))
    assert kinds(saver) == ["unmirrored"]
    saver.admin.repair()
    assert objects(buckets[0]) == objects(buckets[1])
    assert kinds(saver) == []


def test_collect_deletes_orphans_of_both_buckets(open_in, buckets):
    saver = open_in(*buckets)
    put(saver, 1, large(1))
    kept = objects(buckets[0])
    (name,) = kept
    for number, bucket in enumerate(buckets):
        bucket.blob(name.replace("/v-", f"/orphan{number}-")).upload_from_string(b"orphan")
    assert kinds(saver) == ["unreferenced"] * 2
    saver.admin.collect(orphan_age=timedelta(0))
    assert objects(buckets[0]) == objects(buckets[1]) == kept
