"""docs/guides/operations.md names the permissions that the stores' requests need: no more, no fewer."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore
from google.cloud.storage import Client

from langgraph_gcs_saver.engine.effects import (
    Commit,
    CopyBlob,
    Create,
    Delete,
    DeleteBlobs,
    EnsureBucket,
    ExemptField,
    GetBlob,
    GetDocs,
    HashBlob,
    ListBlobs,
    ListCollections,
    Merge,
    PutBlob,
    QueryDocs,
    ReadBucket,
    ReadIndexing,
    SetLifecycle,
)
from langgraph_gcs_saver.engine.protocols import BlobStore, DocumentStore
from langgraph_gcs_saver.stores.google.firestore import FirestoreDocuments
from langgraph_gcs_saver.stores.google.objects import GCSBlobs
from tests.docs.conftest import chat
from tests.docs.fences import ROOT
from tests.emulators.firestore_admin import FirestoreAdmin
from tests.kit.interceptors import Seen

OPERATIONS = (ROOT / "docs" / "guides" / "operations.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    section = OPERATIONS.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert rows, heading
    return rows[1:]


def permissions(cell: str) -> set[str]:
    return set(re.findall(r"`((?:datastore|storage)\.[a-zA-Z.]+)`", cell))


# https://firebase.google.com/docs/firestore/security/iam: what each method needs. A commit's writes need it each.
RPCS = {
    "GetDocument`, of one document": {"datastore.entities.get"},
    "BatchGetDocuments`, of several, and to confirm that one is missing": {"datastore.entities.get"},
    "RunQuery": {"datastore.entities.get", "datastore.entities.list"},
    "ListCollectionIds": {"datastore.entities.list"},
    "Commit` of a created document": {"datastore.entities.create"},
    "Commit` of a merged document": {"datastore.entities.create", "datastore.entities.update"},
    "Commit` of a deletion": {"datastore.entities.delete"},
    "GetField": {"datastore.indexes.get"},
    "UpdateField": {"datastore.indexes.update"},
}

# https://cloud.google.com/storage/docs/access-control/iam-json. Objects are never overwritten, which would need more.
METHODS = {
    "objects.insert": {"storage.objects.create"},
    "objects.get": {"storage.objects.get"},
    "objects.get`, with `alt=media": {"storage.objects.get"},
    "objects.list": {"storage.objects.list"},
    "objects.copy": {"storage.objects.get", "storage.objects.create"},
    "objects.delete": {"storage.objects.delete"},
    "buckets.get": {"storage.buckets.get"},
    "buckets.insert": {"storage.buckets.create"},
    "buckets.patch": {"storage.buckets.update", "storage.buckets.getIamPolicy"},
}

_WRITES = {
    Create: "Commit` of a created document",
    Merge: "Commit` of a merged document",
    Delete: "Commit` of a deletion",
}


def effects_of(protocol: type) -> set[str]:
    """Names of the methods that perform an effect, without asynchronous twins, which make the same requests."""
    names = {name for name in vars(protocol) if not name.startswith("_")} - {"close", "aclose"}
    return {name for name in names if not (name.startswith("a") and name[1:] in names)}


# Documents

_READS = {
    "GetDocument": "GetDocument`, of one document",
    "BatchGetDocuments": "BatchGetDocuments`, of several, and to confirm that one is missing",
}


def test_every_rpc_has_a_row(firestore_emulator, project_id, monkeypatch):
    made: set[str] = set()
    attempt = FirestoreDocuments._perform

    def recorded(store: FirestoreDocuments, call: Any, *args: Any) -> Any:
        if call.method.name != "Commit":
            made.add(_READS.get(call.method.name, call.method.name))
        return attempt(store, call, *args)

    monkeypatch.setattr(FirestoreDocuments, "_perform", recorded)
    performed: dict[str, Any] = {
        "get_docs": GetDocs(("lg_threads/a",)),  # which is missing, so that it is read both ways
        "query_docs": QueryDocs("lg_threads"),
        "list_collections": ListCollections("lg_threads/a"),
        "commit": Commit(tuple(kind(*arguments) for kind, arguments in _commits())),
        "read_indexing": ReadIndexing("lg_writes", "*"),
        "exempt_field": ExemptField("lg_writes", "*"),
    }
    assert set(performed) == effects_of(DocumentStore), "an effect that this test does not know"
    with FirestoreAdmin(firestore_emulator) as server:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", server.host)
        client = firestore.Client(project=project_id, credentials=AnonymousCredentials())
        with closing(FirestoreDocuments(client, owns_client=True)) as store:
            for name, effect in performed.items():
                getattr(store, name)(effect)
    made |= {_WRITES[kind] for kind, _ in _commits()}
    assert made == set(RPCS)
    assert {row[0].strip("`"): permissions(row[2]) for row in table("Documents")} == RPCS


def _commits() -> list[tuple[type, tuple[Any, ...]]]:
    return [(Create, ("x/a", {"f": 1})), (Merge, ("x/b", {"f": 1})), (Delete, ("x/c",))]


def test_the_kinds_of_writes_are_all_known():
    from langgraph_gcs_saver.engine import effects

    assert set(_WRITES) == set(effects.Write.__args__)


# Objects


class Recorder(requests.Session):
    """What Google's client requests, as methods of the JSON API."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[str] = set()

    def request(self, method: Any, url: Any, *rest: Any, **options: Any) -> Any:
        self.made |= set(_methods(str(method), str(url), options.get("data")))
        return super().request(method, url, *rest, **options)


def _methods(verb: str, url: str, data: Any) -> list[str]:
    split = urlsplit(url)
    path, query = split.path, parse_qs(split.query)
    if path.startswith("/batch/"):
        text = data.decode() if isinstance(data, bytes) else str(data)
        inner = re.findall(r"^(DELETE|GET|POST|PATCH|PUT) (\S+)", text, re.MULTILINE)
        assert inner, text
        return [name for verb, url in inner for name in _methods(verb, url, None)]
    if path.startswith("/upload/"):
        return ["objects.insert"]
    if path.startswith("/download/"):
        return ["objects.get`, with `alt=media"]
    found = {
        ("POST", "b"): "buckets.insert",
        ("GET", "b/B"): "buckets.get",
        ("PATCH", "b/B"): "buckets.patch",
        ("GET", "b/B/o"): "objects.list",
        ("GET", "b/B/o/O"): "objects.get",
        ("DELETE", "b/B/o/O"): "objects.delete",
        ("POST", "b/B/o/O/copyTo/b/B/o/O"): "objects.copy",
    }
    shape = re.sub(r"/o/[^/]+", "/o/O", re.sub(r"\bb/[^/]+", "b/B", path.removeprefix("/storage/v1/")))
    name = found[verb, shape]
    # Access lists in an answer need another permission.
    assert (name == "buckets.patch") == (query.get("projection") == ["full"]), url
    return [name]


def test_every_request_has_a_row(storage_emulator, bucket_name, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage_emulator)
    session = Recorder()
    client: Any = Client(project="test", credentials=AnonymousCredentials(), _http=session)
    performed: dict[str, list[Any]] = {
        # The second time it is there already, as after a lost answer; the third one is uploaded in a session.
        "put_blob": [PutBlob("a", b"1"), PutBlob("a", b"1"), PutBlob("large", bytes(9 << 20))],
        "get_blob": [GetBlob("a"), GetBlob("a", 0, 1), GetBlob("a", 0, 0), GetBlob("none")],
        "hash_blob": [HashBlob("a")],
        "copy_blob": [CopyBlob("a", "b"), CopyBlob("a", "b")],
        "list_blobs": [ListBlobs("")],
        "delete_blobs": [DeleteBlobs(("a",)), DeleteBlobs(("b", "large"))],
        "ensure_bucket": [EnsureBucket()],
        "read_bucket": [ReadBucket()],
        "set_lifecycle": [SetLifecycle((), 1)],
    }
    assert set(performed) == effects_of(BlobStore), "an effect that this test does not know"
    for name in (bucket_name, f"{bucket_name}-new"):  # one that is there, and one that is not
        with closing(GCSBlobs(client.bucket(name), prefix="agents")) as store:
            store.ensure_bucket(EnsureBucket())
            for method, effects in performed.items():
                for effect in effects:
                    getattr(store, method)(effect)
    assert session.made == set(METHODS)
    assert {row[0].strip("`"): permissions(row[3]) for row in table("Objects")} == METHODS


# Roles


def test_the_roles_are_what_the_tables_ask_for():
    roles = {row[0]: permissions(row[1]) for row in table("Roles of your own")}
    admin = {"GetField", "UpdateField", "buckets.get", "buckets.insert", "buckets.patch"}
    asked = {name: needed for name, needed in {**RPCS, **METHODS}.items() if name not in admin}
    assert roles["documents, run"] | roles["objects, run"] == set().union(*asked.values())
    assert {name.partition(".")[0] for name in roles["documents, run"]} == {"datastore"}
    assert {name.partition(".")[0] for name in roles["objects, run"]} == {"storage"}
    reading = [
        *(
            RPCS[name]
            for name in (
                "GetDocument`, of one document",
                "BatchGetDocuments`, of several, and to confirm that one is missing",
                "RunQuery",
            )
        ),
        METHODS["objects.get"],
        METHODS["objects.list"],
    ]
    assert roles["documents, read"] | roles["objects, read"] == set().union(*reading)
    commands = re.findall(r"^\$ gcloud iam roles create .*--permissions=(\S+)$", OPERATIONS, re.MULTILINE)
    assert [set(command.split(",")) for command in commands] == [roles["documents, run"], roles["objects, run"]]


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_reading_needs_no_more_than_the_reading_roles(make_saver, tmp_path):
    saver = make_saver(inline_max_bytes=0)
    config = {"configurable": {"thread_id": "1"}}
    chat().compile(checkpointer=saver).invoke({"messages": [("user", "hello")]}, config)
    seen = Seen()
    reader = make_saver(inline_max_bytes=0, interceptors=[seen])
    assert reader.get_tuple(config) is not None
    assert list(reader.list(config))
    assert reader.admin.threads()
    assert reader.admin.history("1")
    assert reader.admin.stats().checkpoints
    assert not list(reader.admin.verify(depth="data"))
    reader.admin.export_thread("1", tmp_path / "1.tar")
    made = set(map(type, seen.requests))
    assert GetBlob in made
    assert not made & {Commit, PutBlob, CopyBlob, DeleteBlobs, EnsureBucket, SetLifecycle, ExemptField}
