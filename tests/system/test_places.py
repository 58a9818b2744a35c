"""Which store a connection string names, and that no call reaches a store through another bucket or prefix."""

import ast
import asyncio
import random
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from langgraph.checkpoint.memory import InMemorySaver

import langgraph_gcs_saver
from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, ListBlobs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import (
    ConflictError,
    DamageError,
    InvalidInputError,
    PermissionDeniedError,
    StoreNotFoundError,
    WrongStoreError,
)
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.results import IdleThread
from langgraph_gcs_saver.saver.admin import Admin
from langgraph_gcs_saver.saver.connection import Connection
from tests.kit import methods
from tests.kit.interceptors import Meanwhile
from tests.system.build import cfg, checkpoint, cid, version
from tests.system.raw import open_raw

METADATA = {"source": "loop", "step": 0, "parents": {}}


def large(number):
    """A text that is too large for a document, and shares nothing with others."""
    return random.Random(number).randbytes(140_000).hex()


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
        assert [info.thread_id for info in saver.admin.threads()] == ["t"]
        assert not any(finding.is_damage for finding in saver.admin.verify(depth="data"))
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
    assert list(saver.admin.verify(depth="data")) == []
    assert saver.admin.stats().objects == 1
    saver.admin.repair()
    saver.admin.collect(orphan_age=timedelta(0))
    saver.delete_thread("t")
    assert sorted(blob.name for blob in bucket.list_blobs()) == sorted(others)


def test_a_root_that_is_given_is_taken(open_at):
    put(open_at("/app-a?root=apps/one"), 1, "one")
    put(open_at("/app-a?root="), 1, "top")
    put(open_at("/app-a"), 1, "own")
    found = [value(open_at(place)) for place in ("/app-a?root=apps/one", "/app-a?root=", "/app-a")]
    assert found == ["one", "top", "own"]
    assert value(open_at("/app-a?root=lg_apps/app-a")) == "own"


DELETING = {
    "collect": lambda saver: saver.admin.collect(orphan_age=timedelta(0)),
    "delete_thread": lambda saver: saver.delete_thread("t"),
    "put": lambda saver: put(saver, 9, "small"),
}


@pytest.mark.parametrize("wrong", ["root=lg_apps/typo", "database=restored"])
def test_objects_of_another_root_or_database_are_let_alone(open_at, wrong):
    """A store without documents would take them for orphans."""
    put(open_at("/agents"), 1, large(1))
    for name, act in DELETING.items():
        with pytest.raises(WrongStoreError, match=r"objects of threads in 'gs://.*/agents'"):
            act(open_at(f"/agents?{wrong}"))
        assert value(open_at("/agents")) == large(1), name
    lost = open_at(f"/agents?{wrong}")
    lost.admin.rebind()
    put(lost, 9, "small")
    assert value(open_at(f"/agents?{wrong}")) == "small"


class NoListing(Interceptor):
    """Permits no listing of objects."""

    def around(self, effect, perform):
        if isinstance(effect, ListBlobs):
            raise PermissionDeniedError("no listing")
        return perform(effect)


def test_who_may_not_list_objects_can_be_the_first_writer(open_at, buckets):
    """An account that is kept to the names below one prefix."""
    bucket, _ = buckets
    put(open_at("/agents", interceptors=[NoListing()]), 1, large(1))
    assert value(open_at("/agents")) == large(1)
    gone = open_at("/none", interceptors=[NoListing()])
    for blob in bucket.list_blobs():
        blob.delete()
    bucket.delete()
    with pytest.raises(StoreNotFoundError, match=bucket.name):
        put(gone, 1, "small")


# Another bucket, or another prefix of the same documents


def fill(saver):
    """A thread whose newest checkpoints need objects, and whose oldest needs none. A wrong bucket fell back to that."""
    for number, text in enumerate(["small", large(2), large(3)], 1):
        put(saver, number, text)
    saver.put_writes(cfg(3), [("v", "pending")], "task")


def other_saver():
    saver = InMemorySaver()
    saver.put(cfg(), checkpoint(1, {"v": 1}), METADATA, {"v": version(1)})
    return saver


CALLS = {
    "setup": lambda tools: ((), {}),
    "ping": lambda tools: ((), {}),
    "get_tuple": lambda tools: ((cfg(),), {}),
    "list": lambda tools: ((cfg(),), {}),
    "checkpoint_ids": lambda tools: ((cfg(),), {}),
    "checkpoint_at": lambda tools: ((cfg(), datetime(2026, 1, 2, tzinfo=timezone.utc)), {}),
    "get_delta_channel_history": lambda tools: ((), {"config": cfg(), "channels": ["v"]}),
    "put": lambda tools: ((cfg(), checkpoint(9, {"v": 1}), METADATA, {"v": version(9)}), {}),
    "put_writes": lambda tools: ((cfg(3), [("v", 1)], "other"), {}),
    "delete_thread": lambda tools: (("t",), {}),
    "delete_for_runs": lambda tools: ((["run"],), {}),
    "prune": lambda tools: ((["t"],), {}),
    "copy_thread": lambda tools: (("t", "copy"), {}),
    "transfer_thread": lambda tools: (("t", tools.elsewhere), {}),
    "warm": lambda _: ((["t"],), {}),
    "replicate": lambda tools: ((tools.elsewhere,), {}),
    "replication": lambda tools: ((tools.elsewhere,), {}),
    "reconcile": lambda tools: ((tools.elsewhere,), {}),
    "failover": lambda tools: ((tools.elsewhere,), {}),
    "migrate": lambda tools: ((other_saver(), ["t"]), {}),
    "export_thread": lambda tools: (("t", tools.path / "new.tar"), {}),
    "import_thread": lambda tools: ((tools.path / "moved.tar",), {}),
    "pin": lambda tools: ((cfg(1), "label"), {}),
    "unpin": lambda tools: ((cfg(1),), {}),
    "pins": lambda tools: ((cfg(),), {}),
    "holds": lambda tools: ((cfg(),), {}),
    "leases": lambda tools: ((), {}),
    "pause": lambda tools: (("t",), {}),
    "status": lambda tools: (("t",), {}),
    "runs": lambda tools: ((), {}),
    "rollbacks": lambda tools: ((), {}),
    "recoveries": lambda tools: ((), {}),
    "operations": lambda tools: (("t",), {}),
    "resolve_operation": lambda tools: (("t", "key"), {"not_done": True}),
    "batches": lambda tools: (("t",), {}),
    "teams": lambda tools: ((), {}),
    "sagas": lambda tools: (("t",), {}),
    "threads": lambda tools: ((), {}),
    "history": lambda tools: (("t",), {}),
    "stats": lambda tools: ((), {}),
    "train": lambda tools: ((), {}),
    "verify": lambda tools: ((), {"depth": "existence"}),
    "repair": lambda tools: ((), {}),
    "plan_repair": lambda tools: ((), {}),
    "plan_prune": lambda tools: ((["t"],), {}),
    "plan_delete_for_runs": lambda tools: ((["run"],), {}),
    "plan_delete_thread": lambda tools: (("t",), {}),
    "plan_collect": lambda tools: ((), {"orphan_age": timedelta(0)}),
    "plan_sweep": lambda tools: ((), {}),
    "carry_out": lambda tools: ((IdleThread(thread_id="t", idle=timedelta(1), seen=1),), {}),
    "collect": lambda tools: ((), {"orphan_age": timedelta(0)}),
    "sweep": lambda tools: ((), {}),
}
"""A call of each method that reaches a store."""

REACH_NOTHING = {
    "from_conn_string",
    "close",
    "aclose",
    "get_next_version",
    "subscribe",
    "team",
    "thread",
    "watch",
    "follow",
    "recover",
}
BIND = {"rebind", "arebind"}


def refusal(saver, name, given, mode):
    try:
        call(saver, name, *given, mode)
    except WrongStoreError as error:
        return str(error)
    return "It was let in."


def call(saver, name, arguments, options, mode):
    return methods.perform(saver, name, *arguments, is_async=mode == "async", **options)


def test_the_calls_are_all_methods_that_reach_a_store():
    public = {
        name
        for kind in (Connection, Admin, GCSSaver)
        for name, found in vars(kind).items()
        if not name.startswith("_") and callable(found)
    }
    twins = {f"a{name}" for name in CALLS.keys() - methods.EACH}
    assert public - REACH_NOTHING - BIND == {*CALLS, *twins}


def test_only_binding_a_store_goes_unchecked():
    sources = {path: path.read_text() for path in sorted(Path(langgraph_gcs_saver.__file__).parent.rglob("*.py"))}
    found = [
        (path.name, function.name)
        for path, source in sources.items()
        if "unchecked" in source
        for function in ast.walk(ast.parse(source))
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, ast.keyword) and node.arg == "unchecked"
    ]
    assert found == [("admin.py", "rebind"), ("admin.py", "arebind")]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("wrong", ["bucket", "prefix"])
def test_no_call_reaches_a_store_from_another_place(open_in, buckets, project_id, tmp_path, *, wrong, mode):
    """Neither one that writes nor one that reads: a wrong bucket looks like lost objects."""
    right, other = buckets
    saver = open_in(right)
    fill(saver)
    with GCSSaver.from_conn_string(f"file://{tmp_path}/moved") as moved:
        put(moved, 1, large(1))
        moved.admin.export_thread("t", tmp_path / "moved.tar")
    # The other place has objects too, even some of this very thread, so their presence proves nothing.
    for blob in right.list_blobs():
        right.copy_blob(blob, other)
    raw = open_raw(f"gs://{right.name}/agents?project={project_id}")
    before, listed = raw.snapshot(), sorted(blob.name for blob in other.list_blobs())
    named = f"gs://{other.name}/agents" if wrong == "bucket" else f"gs://{right.name}/mine"
    events = []
    with GCSSaver.from_conn_string(f"file://{tmp_path}/elsewhere") as elsewhere:
        tools = SimpleNamespace(path=tmp_path, elsewhere=elsewhere)
        for name, arguments in CALLS.items():
            root = f"root=lg_apps/agents&project={project_id}"
            options = {"on_event": events.append, "ttl": timedelta(hours=1)}
            with GCSSaver.from_conn_string(f"{named}?{root}", **options) as stranger:
                told = refusal(stranger, name, arguments(tools), mode)
            assert f"'gs://{right.name}/agents'" in told, name
            assert f"'{named}'" in told, name
            assert "rebind" in told, name
        assert elsewhere.admin.threads() == []
    refused = {"put", "put_writes", "get_tuple", "list", "get_delta_channel_history"}
    assert {(event.call, event.kind) for event in events} == {(call, "wrong-store") for call in refused}
    assert raw.snapshot() == before
    assert sorted(blob.name for blob in other.list_blobs()) == listed
    raw.close()
    assert value(open_in(right)) == large(3)


@pytest.mark.parametrize("thread", ["t", "nothing"])
def test_a_transfer_that_writes_nothing_looks_at_its_target(open_in, buckets, tmp_path, thread):
    right, wrong = buckets
    fill(open_in(right))
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as source:
        put(source, 1, "text")
        with pytest.raises(WrongStoreError, match=r"^Store 'target': These documents .* rebind"):
            source.admin.transfer_thread(thread, open_in(wrong), dry_run=True)


def test_a_thread_that_was_moved_in_is_bound_as_well(open_in, buckets, tmp_path):
    right, wrong = buckets
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as source:
        fill(source)
        source.admin.transfer_thread("t", open_in(right))
    for act in (value, lambda saver: saver.admin.repair()):
        with pytest.raises(WrongStoreError):
            act(open_in(wrong))
    assert value(open_in(right)) == large(3)
    assert list(open_in(right).admin.verify(depth="data")) == []


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_transfer_looks_at_both_stores(open_in, buckets, tmp_path, dry_run):
    right, wrong = buckets
    fill(open_in(right))
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as local:
        put(local, 1, "small")
        for source, target in ((open_in(wrong), local), (local, open_in(wrong))):
            for thread in ("t", "none"):
                with pytest.raises(WrongStoreError):
                    source.admin.transfer_thread(thread, target, dry_run=dry_run)
                with pytest.raises(WrongStoreError):
                    asyncio.run(source.admin.atransfer_thread(thread, target, dry_run=dry_run))
        assert local.admin.checkpoint_ids(cfg()) == [cid(1)]


def test_the_first_writer_finds_that_the_bucket_is_missing(open_in, buckets, project_id):
    """The error does not wait for the first value that is too large for a document."""
    right, gone = buckets
    gone.delete()
    saver = open_in(gone)
    assert saver.get_tuple(cfg()) is None
    for write in (lambda: put(saver, 1, "small"), lambda: saver.put_writes(cfg(1), [("v", 1)], "task")):
        with pytest.raises(StoreNotFoundError, match=gone.name):
            write()
    raw = open_raw(f"gs://{right.name}/agents?project={project_id}")
    assert (raw.documents(), raw.place()) == ({}, None)
    raw.close()
    put(open_in(right), 1, "small")
    with pytest.raises(WrongStoreError):
        put(saver, 1, "small")


def test_setup_binds_a_store_and_makes_no_bucket_for_the_wrong_one(open_in, buckets):
    right, gone = buckets
    gone.delete()
    open_in(right).setup()
    with pytest.raises(WrongStoreError):
        open_in(gone).setup()
    assert not gone.exists()


def test_who_has_found_a_store_empty_looks_again(open_in, buckets):
    right, wrong = buckets
    stranger = open_in(wrong)
    assert stranger.get_tuple(cfg()) is None
    fill(open_in(right))
    for act in (value, lambda saver: put(saver, 9, "small"), lambda saver: saver.delete_thread("t")):
        with pytest.raises(WrongStoreError):
            act(stranger)
    assert value(open_in(right)) == large(3)


# Stores that were written before they named their place


@pytest.fixture
def old(open_in, buckets, project_id):
    """A store as it was: no document names its place, and threads that a graph wrote name the bucket."""
    right, _ = buckets
    saver = open_in(right)
    fill(saver)
    raw = open_raw(f"gs://{right.name}/agents?project={project_id}")
    raw.delete_document(keys.PLACE)
    name = keys.thread_doc("t")
    raw.set_document(name, {**raw.documents()[name], "bucket": right.name})
    yield raw
    raw.close()


def test_an_old_store_is_bound_by_its_next_writer(open_in, buckets, old):
    right, wrong = buckets
    reader = open_in(right)
    assert value(reader) == large(3)
    assert old.place() is None, "reading binds nothing"
    put(reader, 4, large(4))
    assert old.place() == {"bucket": right.name, "prefix": "agents/"}
    with pytest.raises(WrongStoreError):
        value(open_in(wrong))
    assert value(open_in(right)) == large(4)


def test_an_old_store_is_not_bound_to_a_bucket_that_its_threads_do_not_name(open_in, buckets, old):
    right, wrong = buckets
    before = old.snapshot()
    for act in (value, fill, lambda saver: list(saver.admin.verify()), lambda saver: saver.delete_thread("t")):
        with pytest.raises(WrongStoreError, match=f"(?s)'t'.*{right.name}.*{wrong.name}"):
            act(open_in(wrong))
    assert (old.snapshot(), old.place()) == (before, None)
    # On purpose it is, when the objects are there.
    for blob in right.list_blobs():
        right.copy_blob(blob, wrong)
    assert open_in(wrong).admin.rebind().bound is None
    assert value(open_in(wrong)) == large(3)


def test_a_document_that_names_no_place_is_damage(open_in, buckets, project_id):
    right, _ = buckets
    fill(open_in(right))
    raw = open_raw(f"gs://{right.name}/agents?project={project_id}")
    for fields in ({}, {"bucket": right.name}, {"bucket": 1, "prefix": "agents/"}):
        raw.set_document(keys.PLACE, fields)
        with pytest.raises(DamageError, match="rebind"):
            value(open_in(right))
        with pytest.raises(DamageError, match="rebind"):
            put(open_in(right), 4, "small")
        assert open_in(right).admin.rebind().missing == 0
        assert value(open_in(right)) == large(3)
    raw.close()


# Binding a store to another place on purpose


def move(right, moved, *, without=()):
    for blob in right.list_blobs():
        if not any(part in blob.name for part in without):
            right.copy_blob(blob, moved)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_bucket_that_was_moved_is_bound_on_purpose(open_in, buckets, project_id, mode):
    right, moved = buckets
    fill(open_in(right))
    move(right, moved)
    raw = open_raw(f"gs://{right.name}/agents?project={project_id}")
    before = raw.snapshot()
    plan = call(open_in(moved), "rebind", (), {"dry_run": True}, mode)
    assert raw.place() == {"bucket": right.name, "prefix": "agents/"}
    assert (plan.bound, plan.place) == (f"gs://{right.name}/agents", f"gs://{moved.name}/agents")
    assert (plan.threads, plan.objects, plan.missing, plan.examples) == (1, 2, 0, ())
    assert bool(plan)
    saver = open_in(moved)
    assert call(saver, "rebind", (), {}, mode) == plan
    assert raw.place() == {"bucket": moved.name, "prefix": "agents/"}
    assert raw.snapshot() == before
    raw.close()
    assert value(saver) == value(open_in(moved)) == large(3)
    put(saver, 4, large(4))
    with pytest.raises(WrongStoreError):
        value(open_in(right))
    # Again it changes nothing.
    assert not call(open_in(moved), "rebind", (), {}, mode)


def test_a_place_without_all_objects_is_not_bound(open_in, buckets):
    right, moved = buckets
    fill(open_in(right))
    move(right, moved, without=[cid(3)])
    with pytest.raises(InvalidInputError, match=f"(?s)1 of the 2 objects.*{moved.name}.*{cid(3)}") as caught:
        open_in(moved).admin.rebind()
    assert "force" in str(caught.value)
    assert value(open_in(right)) == large(3)
    plan = open_in(moved).admin.rebind(force=True)
    assert plan.missing == 1
    assert cid(3) in plan.examples[0]
    # What is lost there is damage, like anywhere.
    assert open_in(moved).get_tuple(cfg()).metadata["recovered_from"] == cid(3)
    put(open_in(moved), 4, large(4))
    assert value(open_in(moved)) == large(4)


def test_a_bucket_that_is_missing_is_not_bound(open_in, buckets):
    right, gone = buckets
    gone.delete()
    fill(open_in(right))
    with pytest.raises(StoreNotFoundError, match=gone.name):
        open_in(gone).admin.rebind(force=True)
    assert value(open_in(right)) == large(3)


def test_two_at_once_bind_a_store_once(open_in, buckets, project_id):
    """A binding that another process has made meanwhile is not undone."""
    right, moved = buckets
    fill(open_in(right))
    move(right, moved)
    first = open_in(right)
    second = open_in(moved, interceptors=[Meanwhile(Commit, first.admin.rebind)])
    raw = open_raw(f"gs://{right.name}/agents?project={project_id}")
    raw.set_document(keys.PLACE, {"bucket": "a-third-one", "prefix": "agents/"})
    with pytest.raises(ConflictError):
        second.admin.rebind()
    raw.close()
    assert value(open_in(right)) == large(3)


def test_the_embedded_store_has_no_place(tmp_path):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        put(saver, 1, large(1))
        with pytest.raises(InvalidInputError, match="embedded"):
            saver.admin.rebind()
        assert keys.PLACE not in open_raw(f"file://{tmp_path}/store").documents()


def test_who_knows_the_old_place_takes_nothing_for_damage(open_in, buckets):
    """A process that runs on while its store is bound to another place notices it where an object is missing."""
    right, moved = buckets
    fill(open_in(right))
    events = []
    stale = [open_in(right, on_event=events.append) for _ in range(6)]
    for saver in stale:
        assert value(saver) == large(3)
    move(right, moved)
    open_in(moved).admin.rebind()
    put(open_in(moved), 4, large(4))
    events.clear()
    for saver, act in zip(
        stale,
        (
            value,
            lambda saver: list(saver.admin.verify(depth="existence")),
            lambda saver: saver.admin.repair("t"),
            lambda saver: list(saver.list(cfg())),
            lambda saver: saver.copy_thread("t", "copy"),
            lambda saver: saver.get_delta_channel_history(config=cfg(), channels=["v"]),
        ),
        strict=True,
    ):
        with pytest.raises(WrongStoreError):
            act(saver)
        with pytest.raises(WrongStoreError):
            put(saver, 5, "small")
    assert {event.kind for event in events} == {"wrong-store"}, "damage was reported"
    assert value(open_in(moved)) == large(4)


def test_the_last_object_of_a_thread_is_damage_where_it_was_written(open_in, buckets):
    right, _ = buckets
    put(open_in(right), 1, "small")
    put(open_in(right), 2, large(2))
    right.delete_blobs(list(right.list_blobs()))
    found = open_in(right).get_tuple(cfg())
    assert found.metadata["recovered_from"] == cid(2)
    assert found.checkpoint["channel_values"] == {"v": "small"}
