"""Which store a connection string names: two that differ in the prefix never meet, however alike their threads."""

import random
import uuid
from datetime import timedelta

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import StoreNotFoundError
from langgraph_gcs_saver.events import CheckpointDamaged, CheckpointRecovered, CheckpointSkipped
from tests.system.build import cfg, checkpoint, cid, version
from tests.system.raw import open_raw

METADATA = {"source": "loop", "step": 0, "parents": {}}


def large(number):
    """Text for which there is no room in a document, and that shares nothing with others."""
    return random.Random(number).randbytes(12_000).hex()


@pytest.fixture
def buckets(bucket_name, storage_emulator):
    """The bucket, and another one that exists."""
    client = storage.Client(project="p", credentials=AnonymousCredentials())
    other = client.create_bucket(f"test-{uuid.uuid4().hex}")
    return client.bucket(bucket_name), other


@pytest.fixture
def open_in(firestore_emulator, project_id, request):
    """Opens savers on one database and a bucket."""

    def opened(bucket, **options):
        saver = GCSSaver.from_conn_string(f"gs://{bucket.name}/agents?project={project_id}", **options)
        request.addfinalizer(saver.close)
        return saver

    return opened


@pytest.fixture
def open_at(firestore_emulator, bucket_name, project_id, request):
    """Opens savers at what follows the bucket in a connection string."""

    def opened(path, **options):
        separator = "&" if "?" in path else "?"
        saver = GCSSaver.from_conn_string(f"gs://{bucket_name}{path}{separator}project={project_id}", **options)
        request.addfinalizer(saver.close)
        return saver

    return opened


def put(saver, number, value):
    parent = number - 1 or None
    saver.put(cfg(parent), checkpoint(number, {"v": value}), METADATA, {"v": version(number)})


def value(saver):
    found = saver.get_tuple(cfg())
    return None if found is None else found.checkpoint["channel_values"]["v"]


@pytest.mark.parametrize("kind", ["small", "large"])
def test_two_prefixes_are_two_stores(open_at, kind):
    """In one bucket and one database, and with the same ids of threads."""
    places = ["/app-a", "/app-b", "", "/app", "/app-a/b", "/__a__"]
    values = {place: f"{uuid.uuid4()}{large(1) if kind == 'large' else ''}" for place in places}
    for place in places:
        saver = open_at(place)
        assert saver.get_tuple(cfg()) is None, place
        put(saver, 1, values[place])
    for place in places:
        saver = open_at(place)
        assert value(saver) == values[place]
        assert [info.thread_id for info in saver.threads()] == ["t"]
        assert not any(finding.is_damage for finding in saver.verify(depth="data"))
    open_at("/app-b").delete_thread("t")
    open_at("").delete_thread("t")
    for place in places:
        assert value(open_at(place)) == (None if place in {"/app-b", ""} else values[place])


def test_what_else_is_in_a_bucket_is_let_alone(open_at, buckets):
    """A store without a prefix shares the bucket's names with others."""
    bucket, _ = buckets
    others = ["a.txt", "data/a/b.txt", "data/é", "__a__/b", "ff", "ff-", "zz-t/b", "~/a", "é/a"]
    for name in others:
        bucket.blob(name).upload_from_string(b"not ours")
    saver = open_at("")
    put(saver, 1, large(1))
    assert list(saver.verify(depth="data")) == []
    assert saver.stats().objects == 1
    saver.repair()
    saver.collect(orphan_age=timedelta(0))
    saver.delete_thread("t")
    assert sorted(blob.name for blob in bucket.list_blobs()) == sorted(others)


def test_a_root_that_is_given_is_taken(open_at):
    put(open_at("/app-a?root=apps/one"), 1, "one")
    put(open_at("/app-a?root="), 1, "top")
    put(open_at("/app-a"), 1, "own")
    found = [value(open_at(place)) for place in ("/app-a?root=apps/one", "/app-a?root=", "/app-a")]
    assert found == ["one", "top", "own"]
    assert value(open_at("/app-a?root=lg_apps/app-a")) == "own"


def test_another_bucket_is_no_damage(open_in, buckets, project_id):
    """Whoever named one by mistake that exists must neither get an older state nor mend anything."""
    right, wrong = buckets
    saver = open_in(right)
    for number, text in enumerate(["small", large(2), large(3)], 1):
        put(saver, number, text)
    wrong.blob("agents/00-other/~/x/v-y.zst").upload_from_string(b"somebody's")
    raw = open_raw(f"gs://{right.name}/agents?project={project_id}")
    before = raw.snapshot()
    events = []
    for call in (
        value,
        lambda saver: saver.get_tuple(cfg(3)),
        lambda saver: list(saver.list(cfg())),
        lambda saver: saver.repair("t", show=lambda plan: None),
        lambda saver: saver.repair(show=lambda plan: None),
    ):
        with pytest.raises(StoreNotFoundError, match=f"(?s){right.name}.*{wrong.name}"):
            call(open_in(wrong, on_event=events.append))
    assert not any(isinstance(event, (CheckpointDamaged, CheckpointRecovered, CheckpointSkipped)) for event in events)
    assert raw.snapshot() == before
    raw.close()
    assert value(open_in(right)) == large(3)


def test_a_bucket_that_was_moved_is_the_right_one(open_in, buckets):
    right, moved = buckets
    saver = open_in(right)
    for number, text in enumerate(["small", large(2), large(3)], 1):
        put(saver, number, text)
    for blob in right.list_blobs():
        right.copy_blob(blob, moved)
    assert value(open_in(moved)) == large(3)
    # What is lost there is damage, like anywhere.
    lost = [blob for blob in moved.list_blobs() if cid(3) in blob.name]
    assert lost
    moved.delete_blobs(lost)
    assert value(open_in(moved)) == large(2)
    put(open_in(moved), 4, large(4))
    assert value(open_in(moved)) == large(4)


def test_the_last_object_of_a_thread_is_damage_where_it_was_written(open_in, buckets):
    right, _ = buckets
    put(open_in(right), 1, "small")
    put(open_in(right), 2, large(2))
    right.delete_blobs(list(right.list_blobs()))
    found = open_in(right).get_tuple(cfg())
    assert found.metadata["recovered_from"] == cid(2)
    assert found.checkpoint["channel_values"] == {"v": "small"}
