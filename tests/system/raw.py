"""A store's contents, read and changed without the library: through SQLite, files, and Google's own clients."""

import sqlite3
import sys
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, storage

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.address import parse
from langgraph_gcs_saver.engine.effects import ListBlobs
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.stores.local import LocalBlobs
from langgraph_gcs_saver.stores.messages import PbMapValue
from langgraph_gcs_saver.stores.values import from_fields, to_map
from tests.patience import PATIENCE

LEAVES = {"lg_checkpoints", "lg_writes"}
"""Collections whose documents have no collections below them."""


def open_raw(uri):
    """The raw contents of the store at a connection string."""
    return LocalRaw(Path(urlsplit(uri).path)) if uri.startswith("file:") else GoogleRaw(uri)


class Raw:
    """Documents are dicts of fields by name, objects bytes by name (with the prefix, if the store has one)."""

    def place(self):
        """The bucket and prefix that the store says that it has; `None` for the embedded one, which has neither."""
        return

    def snapshot(self):
        return self.documents(), self.objects()

    def counts(self):
        """Number of documents by collection id, and of objects."""
        found = Counter(name.split("/")[-2] for name in self.documents())
        return {**found, "objects": len(self.objects())}


class LocalRaw(Raw):
    thin = 1
    """Of many variants of one damage, try one in so many: every request to an emulator takes milliseconds."""

    def __init__(self, path):
        self.path = path
        self.uri = f"file://{path}"
        self._objects = path / "objects"

    def reader(self, **options):
        """A saver without any cache."""
        return GCSSaver.from_conn_string(self.uri, **options)

    @contextmanager
    def database(self):
        with closing(sqlite3.connect(self.path / "documents.sqlite3", timeout=PATIENCE)) as db, db:
            yield db

    def rows(self):
        """The stored bytes of each document."""
        if not (self.path / "documents.sqlite3").exists():
            return {}
        with self.database() as db:
            return {
                name.replace(b"\0", b"/").decode(): row
                for name, row in db.execute("SELECT name, fields FROM documents")
            }

    def set_row(self, name, row):
        with self.database() as db:
            done = db.execute("UPDATE documents SET fields = ? WHERE name = ?", (row, name.replace("/", "\0").encode()))
            assert done.rowcount == 1

    def documents(self):
        return {name: from_fields(PbMapValue.FromString(row).fields) for name, row in self.rows().items()}

    def set_document(self, name, fields):
        row = to_map(fields).SerializeToString()
        key = name.replace("/", "\0").encode()
        with self.database() as db:
            # A deleted document that comes back keeps the place in the order of creation that it had.
            db.execute(
                "INSERT INTO documents (collection_id, name, fields, create_time, update_time) VALUES (?, ?, ?, 1, 1) "
                "ON CONFLICT (collection_id, name) DO UPDATE SET fields = excluded.fields",
                (name.split("/")[-2], key, row),
            )

    def delete_document(self, name):
        with self.database() as db:
            assert db.execute("DELETE FROM documents WHERE name = ?", (name.replace("/", "\0").encode(),)).rowcount == 1

    def document_sizes(self):
        return {name: len(row) for name, row in self.rows().items()}

    def objects(self):
        return {name: path.read_bytes() for name, path in self._files().items()}

    def object_sizes(self):
        return {name: path.stat().st_size for name, path in self._files().items()}

    def _files(self):
        """The file of each object."""
        if not self._objects.is_dir():
            return {}
        with closing(LocalBlobs(self.path, timeout=PATIENCE)) as blobs:
            listed = blobs.list_blobs(ListBlobs("", limit=sys.maxsize))
        return {info.name: self._file(info.name) for info in listed}

    def _file(self, name):
        with closing(LocalBlobs(self.path, timeout=PATIENCE)) as blobs:
            return self._objects.joinpath(*blobs._parts(name))

    def set_object(self, name, data):
        file = self._file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def delete_object(self, name):
        self._file(name).unlink()

    def close(self):
        pass


class GoogleRaw(Raw):
    thin = 5

    def __init__(self, uri):
        self.uri = uri
        parts = urlsplit(uri)
        project = parse_qs(parts.query)["project"][0]
        anonymous = AnonymousCredentials()
        self.firestore = firestore.Client(project=project, credentials=anonymous)
        self.storage = storage.Client(project=project, credentials=anonymous)
        self.bucket = self.storage.bucket(parts.netloc)
        address = parse(uri)
        self.prefix, self._root = address.prefix, address.root

    def reader(self, **options):
        """A saver without any cache, on connections that are there already."""
        return GCSSaver(self.bucket, firestore=self.firestore, prefix=self.prefix, **options)

    def documents(self):
        found = {}
        top = self.firestore.document(self._root) if self._root else self.firestore
        self._walk(top.collections(), found)
        found = {name.removeprefix(f"{self._root}/"): fields for name, fields in found.items()}
        return {name: fields for name, fields in found.items() if name != keys.PLACE}

    def place(self):
        """What the store says of its place: of every store the same, so `documents` leaves it out."""
        return self._document(keys.PLACE).get().to_dict()

    def _document(self, name):
        return self.firestore.document(f"{self._root}/{name}" if self._root else name)

    def _walk(self, collections, found):
        for collection in collections:
            # Names of documents that do not exist, but have others below them, come along.
            references = list(collection.list_documents())
            for snapshot in self.firestore.get_all(references):
                if snapshot.exists:
                    found[snapshot.reference.path] = snapshot.to_dict()
            if collection.id not in LEAVES:
                for reference in references:
                    self._walk(reference.collections(), found)

    def set_document(self, name, fields):
        self._document(name).set(fields)

    def delete_document(self, name):
        self._document(name).delete()

    def document_sizes(self):
        return {name: to_map(fields).ByteSize() for name, fields in self.documents().items()}

    def objects(self):
        return {blob.name: blob.download_as_bytes(raw_download=True) for blob in self.bucket.list_blobs()}

    def object_sizes(self):
        return {blob.name: blob.size for blob in self.bucket.list_blobs()}

    def set_object(self, name, data):
        self.bucket.blob(name).upload_from_string(data, "application/octet-stream")

    def delete_object(self, name):
        self.bucket.blob(name).delete()

    def close(self):
        self.firestore.close()
        self.storage.close()
