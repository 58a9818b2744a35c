"""A thread in one file: a tar archive of its documents and objects, written once and read as a store.

```
archive.json          {"archive": "langgraph-gcs-saver", "version": 1, "thread_id": …}
objects/00000000      an object
documents/00000001    a document: a google.firestore.v1.MapValue
index.json            names, sizes, digests and times of all of them, in order
index.sha256          the digest of index.json, in hex
```

Nothing in the file is extracted, and no member's name becomes a path. Members must be regular files with these names,
in this order, each with a plain header; any other archive raises an error. Names of documents and objects come from the
index, and must belong to the thread. The whole archive is checked when it is opened, before anything is written.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import stat
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from google.protobuf.message import DecodeError

from langgraph_gcs_saver.engine import files, limits
from langgraph_gcs_saver.engine.effects import (
    BlobInfo,
    Commit,
    CopyBlob,
    DeleteBlobs,
    Doc,
    Docs,
    EnsureBucket,
    ExemptField,
    GetBlob,
    GetDocs,
    HashBlob,
    ListBlobs,
    ListCollections,
    PutBlob,
    QueryDocs,
    ReadBucket,
    ReadIndexing,
    SetLifecycle,
)
from langgraph_gcs_saver.engine.pieces import crc32c
from langgraph_gcs_saver.errors import DamageError, InvalidInputError, PermissionDeniedError, StoreError
from langgraph_gcs_saver.format import frames, keys, registry
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.stores.messages import PbMapValue
from langgraph_gcs_saver.stores.values import from_fields, to_map

if TYPE_CHECKING:
    from typing_extensions import Self

VERSION = 1

MAX_DOCUMENT = 2 * limits.DOCUMENT_BYTES
"""Most bytes of a document in the archive's encoding, which can be larger than Firestore's."""

MAX_INDEX = 256 << 20

MAX_MEMBERS = 1_000_000
"""Most documents and objects together. The index has about 250 bytes for each."""

MAX_HEAD = 64 << 10

_ROW, _ROW_MORE = 5, 16
"""Most parts of JSON in the index: this many for each document and object, and this many for the lists."""

_BLOCK = 512
_KIND = "langgraph-gcs-saver"
_SEGMENT = re.compile(rf"(?!__.*__\Z)[A-Za-z0-9_%~!-]{{1,{limits.SEGMENT_BYTES}}}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_CRC32C = re.compile(r"[A-Za-z0-9+/]{6}==\Z")
_MAX_TIME = 2**63


@record(frozen=True, slots=True)
class _Member:
    """The location of a document or object in the file, and its entry in the index."""

    offset: int
    size: int
    sha256: str
    crc32c: str = ""
    create_time: int = 0


class NewArchive:
    """An archive that is being written to a temporary file beside its final path.

    Args:
        path: The final path. An existing file is replaced only at the very end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = files.beside(path)
        self._file: BinaryIO | None = None
        self._index: dict[str, list[list[Any]]] = {}
        self._numbers = count()

    def begin(self, thread_id: str) -> None:
        """Begin a file for a thread. If a file was begun before, discard it.

        Raises:
            InvalidInputError: The path is a link, a pipe, a device or a directory, which a file must not replace.
        """
        self.discard()
        with _os_errors(self._path):
            is_other = os.path.lexists(self._path) and not stat.S_ISREG(self._path.lstat().st_mode)
        if is_other:
            raise InvalidInputError(
                f"{str(self._path)!r} is a link, a directory or a device, and is not a file, so it is not replaced. "
                "Name a file."
            )
        with _os_errors(self._part):
            self._file = files.create_file(self._part)
        self._index = {"objects": [], "documents": []}
        self._numbers = count()
        self._add("archive.json", _dump({"archive": _KIND, "version": VERSION, "thread_id": thread_id}))

    def add_blob(self, name: str, data: bytes) -> None:
        """Add an object."""
        self._index["objects"].append([name, len(data), hashlib.sha256(data).hexdigest(), crc32c(data)])
        self._add(f"objects/{next(self._numbers):08}", data)

    def add_doc(self, doc: Doc) -> None:
        """Add a document. All objects must be added before the first document."""
        data: bytes = to_map(doc.fields).SerializeToString(deterministic=True)
        self._index["documents"].append([doc.name, len(data), hashlib.sha256(data).hexdigest(), doc.create_time])
        self._add(f"documents/{next(self._numbers):08}", data)

    def finish(self) -> None:
        """Write the index, sync the file to disk, read it back and check it, and then give it its final name."""
        file = self._open()
        index = _dump(self._index)
        self._add("index.json", index)
        self._add("index.sha256", hashlib.sha256(index).hexdigest().encode())
        with _os_errors(self._part):
            file.write(bytes(2 * _BLOCK))
            file.flush()
            os.fsync(file.fileno())
            file.close()
        self._file = None
        Archive(self._part).close()
        with _os_errors(self._path):
            self._part.replace(self._path)

    def discard(self) -> None:
        """Discard the file, unless it is finished. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
        with _os_errors(self._part), suppress(FileNotFoundError, NotADirectoryError):
            self._part.unlink()  # the name is random, so the file is this object's own

    def _open(self) -> BinaryIO:
        if self._file is None:
            raise StoreError("The archive was not begun.")
        return self._file

    def _add(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        file = self._open()
        with _os_errors(self._part):
            # GNU's format has a plain header even for objects over 8 GiB.
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.write(data)
            file.write(bytes(-len(data) % _BLOCK))


class Archive:
    """An archive as a read-only store: a `DocumentStore` and a `BlobStore`. Opening it checks the whole file.

    Args:
        path: The file.
        max_object: Largest object that is read, in bytes.

    Attributes:
        thread_id: The thread in the archive.

    Raises:
        InvalidInputError: The file is not an archive of a thread, is of another version, or has content that no
            archive has.
        DamageError: The file was truncated, or does not match its digests.
    """

    def __init__(self, path: Path, *, max_object: int = 1 << 40) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        try:
            with _os_errors(path):
                self._file = files.open_file(path)
                self.thread_id, self._docs, self._blobs = self._read(max_object)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def contents(self) -> dict[str, str]:
        """The digests of all documents and objects, by name."""
        return {name: member.sha256 for name, member in {**self._docs, **self._blobs}.items()}

    # Opening

    def _read(self, max_object: int) -> tuple[str, dict[str, _Member], dict[str, _Member]]:
        members = self._members(max_object)
        first = next(members, None)
        if first is None or first[1][1] > MAX_HEAD:
            raise self._refuse("it is not an archive")
        head = self._parsed(self._bytes(*first[1]))
        if not isinstance(head, dict) or head.get("archive") != _KIND or not isinstance(head.get("thread_id"), str):
            raise self._refuse("it is not an archive")
        if head.get("version") != VERSION:
            raise self._refuse(f"its version is not {VERSION}; upgrade langgraph-gcs-saver")
        found = dict(members)
        index_at, digest_at = found.pop("index.json", None), found.pop("index.sha256", None)
        if index_at is None or digest_at is None:
            raise self._damaged("its index is missing")
        index = self._bytes(*index_at)
        if hashlib.sha256(index).hexdigest().encode() != self._bytes(*digest_at):
            raise self._damaged("its index does not match its digest")
        # Each value of the index takes about 100 bytes in memory, and each member's header takes 512 bytes in the file.
        if frames.parts(index, 0, len(index)) > _ROW * len(found) + _ROW_MORE:
            raise self._refuse("its index lists more than the file holds")
        parsed = self._parsed(index)
        try:
            blobs = self._listed(parsed["objects"], found, "objects/{:08}", 0)
            docs = self._listed(parsed["documents"], found, "documents/{:08}", len(blobs))
        except (KeyError, TypeError, ValueError):
            raise self._refuse("its index does not parse") from None
        if len(blobs) + len(docs) != len(found):
            raise self._refuse("it holds more than its index lists")
        thread_id: str = head["thread_id"]
        prefix = keys.thread_blobs(thread_id)
        for name in blobs:
            is_own = name.startswith(prefix) and keys.BLOB.match(name.removeprefix(prefix))
            if not is_own and keys.dictionary_of(name) is None:
                raise self._refuse(f"it holds an object that is not the thread's, {name!r}")
        for name, member in docs.items():
            if not _is_document(name, thread_id):
                raise self._refuse(f"it holds a document that is not the thread's, {name!r}")
            if member.size > MAX_DOCUMENT:
                raise self._refuse("it holds a document that is too large")
        for member in blobs.values():
            self._check(member)
        for member in docs.values():
            self._check(member)
            # A document that no store can hold must raise an error now, not halfway through an import.
            to_map(self._fields(member))
        return thread_id, docs, blobs

    def _members(self, max_object: int) -> Iterator[tuple[str, tuple[int, int]]]:
        """Names of members, with their offsets and sizes. Each must be a regular file with a plain header."""
        total = 0 if self._file is None else os.fstat(self._file.fileno()).st_size
        at, numbers, stage = 0, count(), 0
        while True:
            header = self._bytes(at, _BLOCK)
            if header == bytes(_BLOCK) or not header:
                return
            try:
                info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
                raise self._refuse("it is not an archive, or was truncated") from None
            if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise self._refuse("it holds entries that are not files")
            at += _BLOCK
            folder = info.name.partition("/")[0]
            if folder in ("objects", "documents") and stage == 1:
                number = next(numbers)
                if number == MAX_MEMBERS:
                    raise self._refuse(f"it holds more than {MAX_MEMBERS} documents and objects")
                expected = f"{folder}/{number:08}"
            else:
                expected, stage = ("archive.json", "index.json", "index.sha256", "")[min(stage, 3)], stage + 1
            if info.name != expected:
                raise self._refuse("its files have unexpected names, or are in another order")
            if info.size < 0 or at + info.size > total:
                raise self._damaged("it was truncated")
            limit = {"objects": max_object, "documents": MAX_DOCUMENT, "index.json": MAX_INDEX}.get(folder, MAX_HEAD)
            if info.size > limit:
                raise self._refuse(f"{info.name} has {info.size} bytes, and at most {limit} are read")
            yield info.name, (at, info.size)
            at += info.size + -info.size % _BLOCK

    def _parsed(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise self._refuse("its index does not parse") from None

    def _listed(
        self, rows: list[list[Any]], found: Mapping[str, tuple[int, int]], form: str, first: int
    ) -> dict[str, _Member]:
        listed: dict[str, _Member] = {}
        for number, (name, size, sha256, last) in enumerate(rows, first):
            at, length = found[form.format(number)]
            is_object = form.startswith("objects")
            known = isinstance(name, str) and name not in listed and size == length and _SHA256.match(sha256)
            if not known or not (_CRC32C.match(last) if is_object else type(last) is int and 0 <= last < _MAX_TIME):
                raise ValueError(name)
            listed[name] = _Member(at, length, sha256, *((last, 0) if is_object else ("", last)))
        return listed

    def _check(self, member: _Member) -> None:
        found = hashlib.sha256()
        for at in range(0, member.size, 1 << 20):
            found.update(self._bytes(member.offset + at, min(1 << 20, member.size - at)))
        if found.hexdigest() != member.sha256:
            raise self._damaged("a part of it does not match its digest")

    def _bytes(self, offset: int, size: int) -> bytes:
        with self._lock, _os_errors(self._path):
            if self._file is None:
                raise StoreError(f"The archive {str(self._path)!r} was closed.")
            self._file.seek(offset)
            return self._file.read(size)

    def _refuse(self, why: str) -> InvalidInputError:
        return InvalidInputError(f"{str(self._path)!r} cannot be read as an archive of a thread: {why}.")

    def _damaged(self, why: str) -> DamageError:
        return DamageError(f"The archive {str(self._path)!r} is damaged: {why}. Export the thread again.")

    # Documents

    def _doc(self, name: str, mask: tuple[str, ...] | None) -> Doc:
        member = self._docs[name]
        fields = self._fields(member)
        wanted = fields if mask is None else {key: fields[key] for key in mask if key in fields}
        return Doc(name, wanted, member.create_time, member.create_time)

    def _fields(self, member: _Member) -> dict[str, Any]:
        data = self._bytes(member.offset, member.size)
        if hashlib.sha256(data).hexdigest() != member.sha256:
            raise self._damaged("it has changed since it was opened")
        try:
            return from_fields(PbMapValue.FromString(data).fields)
        except DecodeError:
            raise self._refuse("it holds a document that does not parse") from None

    def get_docs(self, effect: GetDocs) -> Docs:
        """Perform `GetDocs`."""
        return Docs((self._doc(name, effect.mask) for name in effect.names if name in self._docs), time.time_ns())

    def query_docs(self, effect: QueryDocs) -> list[Doc]:
        """Perform `QueryDocs` of a whole collection."""
        if effect.where or effect.group or effect.start or effect.after or effect.end:
            self._no("be searched")
        names = sorted(name for name in self._docs if name.rpartition("/")[0] == effect.collection)
        return [self._doc(name, effect.mask) for name in names[: effect.limit]]

    def list_collections(self, effect: ListCollections) -> list[str]:
        """Perform `ListCollections`."""
        below = f"{effect.document}/"
        return sorted({name.removeprefix(below).split("/")[0] for name in self._docs if name.startswith(below)})

    async def aget_docs(self, effect: GetDocs) -> Docs:
        """Perform `GetDocs` without blocking the event loop."""
        return await asyncio.to_thread(self.get_docs, effect)

    async def aquery_docs(self, effect: QueryDocs) -> list[Doc]:
        """Perform `QueryDocs` without blocking the event loop."""
        return await asyncio.to_thread(self.query_docs, effect)

    async def alist_collections(self, effect: ListCollections) -> list[str]:
        """Perform `ListCollections` without blocking the event loop."""
        return self.list_collections(effect)

    # Objects

    def get_blob(self, effect: GetBlob) -> bytes | None:
        """Perform `GetBlob` of a whole object."""
        member = self._blobs.get(effect.name)
        if member is None:
            return None
        data = self._bytes(member.offset, member.size)
        if hashlib.sha256(data).hexdigest() != member.sha256:
            raise self._damaged("it has changed since it was opened")
        return data[effect.start :][: effect.length]

    def hash_blob(self, effect: HashBlob) -> str | None:
        """Perform `HashBlob`."""
        member = self._blobs.get(effect.name)
        if member is None:
            return None
        self._check(member)
        return member.sha256

    def list_blobs(self, effect: ListBlobs) -> list[BlobInfo]:
        """Perform `ListBlobs`."""
        names = sorted(
            name
            for name in self._blobs
            if name.startswith(effect.prefix) and (effect.after is None or name > effect.after)
        )
        found = ((name, self._blobs[name]) for name in names[: effect.limit])
        return [BlobInfo(name, member.size, member.crc32c, member.create_time) for name, member in found]

    # Effects that an archive does not support

    def _no(self, what: str) -> NoReturn:
        raise StoreError(f"The archive {str(self._path)!r} cannot {what}.")

    def commit(self, effect: Commit) -> NoReturn:  # noqa: ARG002 - an archive is written once
        """Raise `StoreError`: an archive does not support `Commit`."""
        self._no("be written to")

    async def acommit(self, effect: Commit) -> NoReturn:
        """Raise `StoreError`: an archive does not support `Commit`."""
        self.commit(effect)

    def put_blob(self, effect: PutBlob) -> NoReturn:  # noqa: ARG002 - likewise
        """Raise `StoreError`: an archive does not support `PutBlob`."""
        self._no("be written to")

    def copy_blob(self, effect: CopyBlob) -> NoReturn:  # noqa: ARG002 - likewise
        """Raise `StoreError`: an archive does not support `CopyBlob`."""
        self._no("be written to")

    def delete_blobs(self, effect: DeleteBlobs) -> NoReturn:  # noqa: ARG002 - likewise
        """Raise `StoreError`: an archive does not support `DeleteBlobs`."""
        self._no("be written to")

    def ensure_bucket(self, effect: EnsureBucket) -> NoReturn:  # noqa: ARG002 - likewise
        """Raise `StoreError`: an archive does not support `EnsureBucket`."""
        self._no("be written to")

    def set_lifecycle(self, effect: SetLifecycle) -> NoReturn:  # noqa: ARG002 - likewise
        """Raise `StoreError`: an archive does not support `SetLifecycle`."""
        self._no("be written to")

    def exempt_field(self, effect: ExemptField) -> NoReturn:  # noqa: ARG002 - likewise
        """Raise `StoreError`: an archive does not support `ExemptField`."""
        self._no("be written to")

    async def aexempt_field(self, effect: ExemptField) -> NoReturn:
        """Raise `StoreError`: an archive does not support `ExemptField`."""
        self.exempt_field(effect)

    def read_indexing(self, effect: ReadIndexing) -> None:
        """Perform `ReadIndexing`: there are no such settings."""

    async def aread_indexing(self, effect: ReadIndexing) -> None:
        """Perform `ReadIndexing`: there are no such settings."""

    def read_bucket(self, effect: ReadBucket) -> None:
        """Perform `ReadBucket`: there is none."""

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    async def aclose(self) -> None:
        """Close the file. Idempotent."""
        self.close()


def _is_document(name: str, thread_id: str) -> bool:
    """Whether a document is the thread's own, one below it, or one of its runs."""
    segments = name.split("/")
    own = keys.spread(thread_id)
    if not all(map(_SEGMENT.match, segments)):
        return False
    match segments:
        case [keys.THREADS, thread] | [keys.RUNS, _, keys.THREADS, thread]:
            return thread == own
        case [keys.THREADS, thread, *path]:
            entry = registry.entry_of(path)
            return thread == own and entry is not None and entry.moved
        case _:
            return False


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class _os_errors:  # noqa: N801 - it is used like a function, in `with`
    """Turn errors of the operating system into this library's errors."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise InvalidInputError(f"The file {str(self._path)!r} or its directory does not exist.") from error
        if isinstance(error, files.NotAFileError):
            raise InvalidInputError(f"{str(self._path)!r} is a pipe, a device or a directory, not a file.") from error
        if isinstance(error, PermissionDeniedError):
            return
        if isinstance(error, PermissionError):
            raise PermissionDeniedError(f"This process may not read or write {str(self._path)!r}.") from error
        if isinstance(error, OSError) and not isinstance(error, StoreError):
            raise StoreError(f"Reading or writing {str(self._path)!r} failed: {error.strerror}.") from error
