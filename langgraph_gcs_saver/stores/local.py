"""The embedded store: documents in one SQLite file, and objects in a directory. For one machine, without a server.

```
{path}/documents.sqlite3     all documents (with -wal and -shm beside it while in use)
{path}/objects/{name}        an object, under its name as `_fold` writes it
{path}/tmp/                  objects that are being written
{path}/.new-*/new.sqlite3    a new database, which becomes `documents.sqlite3.*.part` before it gets its name
```

A killed process leaves files of the last two kinds. They are removed a day later.

The store is private to its user: new files have mode 0600, and new directories 0700. It follows no link. It reads and
writes only regular files, in directories that belong to its user or to root (`files.py`).

Many threads and processes may use one directory at the same time. The file system must be local, because SQLite's
write-ahead log needs shared memory (https://www.sqlite.org/wal.html). A commit returns when it is on the disk.

An open SQLite connection must not cross a fork. The child would believe that it holds the parent's file locks. The
parent would delete the log that the child writes to when it closes (https://www.sqlite.org/howtocorrupt.html, 2.6). So
connections are closed just before a fork, and both sides open new ones.

In the main thread, a signal can raise an exception anywhere (Ctrl-C, a task queue's time limit). So `LocalDocuments`
writes and opens connections on threads of its own (`pool.py`). Reads run in the caller's thread, and the connection of
an interrupted read is closed. A call consists of one or more attempts. An attempt does not wait for other processes,
and between two attempts a call holds no lock or connection (`docs/explanation/design/009-signals.md`).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import secrets
import sqlite3
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cached_property, partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from weakref import WeakSet

import google_crc32c

from langgraph_gcs_saver.address import LocalAddress
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
from langgraph_gcs_saver.engine.per_process import AtFork, PerProcess
from langgraph_gcs_saver.engine.pieces import text_of
from langgraph_gcs_saver.engine.pool import Pool, is_exposed
from langgraph_gcs_saver.errors import (
    DamageError,
    GCSSaverError,
    InvalidIdError,
    PermissionDeniedError,
    SaverClosedError,
    StoreError,
    StoreUnavailableError,
    UnsupportedFormatError,
)
from langgraph_gcs_saver.stores import rows
from langgraph_gcs_saver.stores.sqlite_files import COMPANIONS, HEADER_BYTES, JOURNAL, header_of

T = TypeVar("T")

Operation = Callable[[sqlite3.Cursor], T]

MAX_CONNECTIONS = 16
MAX_THREADS = 16
"""Most threads for asynchronous calls and for calls of the main thread."""

MOMENT = 1.0
"""Seconds that an attempt waits for other threads of this process. Their attempts take milliseconds."""

PAUSES = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.025, 0.025, 0.05, 0.05)
LAST_PAUSE = 0.1
"""Seconds between attempts while another process writes, as in SQLite's own busy handler."""

ABANDONED_AFTER = 24 * 3600
"""Age in seconds from which an unfinished file or directory counts as left by a killed process."""

_LATEST = 2**63 - 1
"""SQLite's greatest integer."""

_FORMAT = 2
_FOLDING = 2
"""The first format with folded names of objects."""

_CACHE_KIB = 2000
"""Memory of each connection for pages of the database, which is SQLite's default."""

_WITH_LOG = bytes((2, 2))
"""Bytes 18 and 19 of the header of a database with a write-ahead log (https://www.sqlite.org/fileformat.html#database_header)."""

_NEW = re.compile(r"\.new-[a-z0-9_]{8}\Z")
"""Names of directories in which databases are created, as `tempfile` makes them."""

_NEW_NAMES = {f"new.sqlite3{ending}" for ending in COMPANIONS}
"""Names of the files there. No store in use has these, so a store in a directory with such a name is never removed."""

_PART = re.compile(r"documents\.sqlite3\.[0-9a-f]{16}\.part\Z")
"""Names of new databases before they get their own name, as `files.beside` makes them."""

_SCHEMA = (
    """
CREATE TABLE documents (
    id INTEGER PRIMARY KEY,
    collection_id TEXT NOT NULL,
    name BLOB NOT NULL,  -- segments joined by NUL: bytewise order is then order by segments
    fields BLOB NOT NULL,  -- google.firestore.v1.MapValue
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    UNIQUE (collection_id, name)
)
""",
    "CREATE TABLE clock (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL)",
    "INSERT INTO clock VALUES (1, 0)",
    f"PRAGMA user_version = {_FORMAT}",
)
_OURS = {" ".join(statement.split()) for statement in _SCHEMA if "CREATE" in statement}
"""The schema of all formats. Any other view, trigger or computed column would run in the process that opens the store.

SQLite's own statistics must not exist either. They could make SQLite sort all documents for each query.
"""

_VALUE_BYTES = 2 * limits.DOCUMENT_BYTES
"""Most bytes of a value in the database; no store writes as many."""

# A value that no store writes reads as null. SQLite knows a value's type and length before it reads the value.
_NAME = f"CASE WHEN typeof(name) = 'blob' AND length(name) <= {limits.NAME_BYTES} THEN name END"
_ID = f"""
    CASE WHEN typeof(collection_id) = 'text' AND length(collection_id) <= {limits.SEGMENT_BYTES} THEN collection_id END
"""
_ROW = f"""
    CASE
        WHEN typeof(fields) = 'blob' AND length(fields) <= {_VALUE_BYTES}
        AND typeof(create_time) = 'integer' AND typeof(update_time) = 'integer' THEN fields
    END,
    CASE WHEN typeof(create_time) = 'integer' THEN create_time END,
    CASE WHEN typeof(update_time) = 'integer' THEN update_time END
"""
# No statement lets SQLite go from row to row by itself, because a forged index may have no end.
_IN_COLLECTION = "FROM documents WHERE collection_id = ?"
_RANGE = f"{_IN_COLLECTION} AND name >= ? AND name < ? ORDER BY name"
_GET = f"SELECT {_ROW} {_IN_COLLECTION} AND name = ?"
_QUERY = f"SELECT {_NAME}, id, {_ROW} {_RANGE}"
_NEXT_ID = f"SELECT {_ID} FROM documents WHERE collection_id > ? ORDER BY collection_id LIMIT 1"  # noqa: S608 - a constant
_NEXT_NAME = f"SELECT {_NAME} {_RANGE} LIMIT 1"
_SET = """
INSERT INTO documents (collection_id, name, fields, create_time, update_time) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (collection_id, name) DO UPDATE SET
    fields = excluded.fields, create_time = excluded.create_time, update_time = excluded.update_time
"""


class _Pauses:
    """The pauses between the tries of a call.

    Args:
        timeout: Seconds for all tries together.
    """

    __slots__ = ("_deadline", "_pauses")

    def __init__(self, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._pauses = chain(PAUSES, repeat(LAST_PAUSE))

    def __call__(self) -> float | None:
        """Seconds until the next try; `None` if the timeout is over."""
        left = self._deadline - time.monotonic()
        return None if left < 0 else min(next(self._pauses), left)


def _until(condition: Callable[[], bool], timeout: float) -> Iterator[float]:
    """Pauses until a condition holds or the timeout is over."""
    pauses = _Pauses(timeout)
    while not condition() and (pause := pauses()) is not None:
        yield pause


class _Busy:
    """The outcome of an attempt that would have had to wait.

    Args:
        error: SQLite's error, if SQLite was the reason.
    """

    __slots__ = ("error",)

    def __init__(self, error: sqlite3.Error | None = None) -> None:
        self.error = error


_UNOPENED = _Busy()
"""The outcome of an attempt that needs a new connection in the main thread, which opens none."""


class _Call:
    """One call, which may need several attempts.

    Attributes:
        admitted: Whether it continues even if the store is closed meanwhile.
        over: Whether its caller has continued. An attempt that an exception interrupted may still be under way.
        proven: Whether the attempt under way has ended properly, so that its connection can be used again.
    """

    __slots__ = ("__weakref__", "admitted", "over", "pause", "proven")

    def __init__(self, timeout: float) -> None:
        self.pause = _Pauses(timeout)
        self.admitted = False
        self.over = False
        self.proven = False


class LocalDocuments:
    """Documents in an SQLite file below `path`; a `DocumentStore`.

    The directory and the file are created on first use. Asynchronous methods and commits of the main thread run on
    threads of this store's own.

    Args:
        path: The directory.
        timeout: Seconds to wait for other writers before raising `StoreUnavailableError`.
    """

    survives_signals = True
    is_local = True

    def __init__(self, path: Path, *, timeout: float) -> None:
        self._directory = path.absolute()
        self._file = self._directory / "documents.sqlite3"
        self._log = self._directory / "documents.sqlite3-wal"
        self._timeout = timeout
        self._closed = False
        self._is_tidy = False
        self._inherited: list[sqlite3.Cursor] = []  # from before a fork
        self._torn = False
        self._reset()
        _at_fork.add(self)

    @property
    def address(self) -> LocalAddress:
        """Where the store is."""
        return LocalAddress(self._directory)

    def _reset(self) -> None:
        self._threads = Pool("langgraph-gcs-saver-local", MAX_THREADS)
        self._writing = threading.Lock()  # fair among threads; SQLite's own lock is polled
        self._cursors: dict[int, sqlite3.Cursor] = {}  # by number: the only cursor of a connection
        self._frozen: dict[int, tuple[int, ...]] = {}  # by number of a connection without locks: the state of its file
        self._leases: dict[int, _Call] = {}  # by number of a connection: the call that uses it
        self._forks: list[None] = []  # one entry for each fork under way
        self._waiting: WeakSet[_Call] = WeakSet()  # calls between two attempts

    def get_docs(self, effect: GetDocs) -> Docs:
        """Perform `GetDocs`."""
        return self._perform(partial(self._read, _reading(effect)))

    def query_docs(self, effect: QueryDocs) -> list[Doc]:
        """Perform `QueryDocs`."""
        return self._perform(partial(self._read, _querying(effect)))

    def list_collections(self, effect: ListCollections) -> list[str]:
        """Perform `ListCollections`."""
        return self._perform(partial(self._read, _listing(effect)))

    def commit(self, effect: Commit) -> tuple[int, ...] | None:
        """Perform `Commit`."""
        return self._perform(partial(self._write, _committing(effect)))

    async def aget_docs(self, effect: GetDocs) -> Docs:
        """Perform `GetDocs` without blocking the event loop."""
        return await self._aperform(partial(self._read, _reading(effect)))

    async def aquery_docs(self, effect: QueryDocs) -> list[Doc]:
        """Perform `QueryDocs` without blocking the event loop."""
        return await self._aperform(partial(self._read, _querying(effect)))

    async def alist_collections(self, effect: ListCollections) -> list[str]:
        """Perform `ListCollections` without blocking the event loop."""
        return await self._aperform(partial(self._read, _listing(effect)))

    async def acommit(self, effect: Commit) -> tuple[int, ...] | None:
        """Perform `Commit` without blocking the event loop."""
        return await self._aperform(partial(self._write_here, _committing(effect)))

    def read_indexing(self, effect: ReadIndexing) -> None:  # noqa: ARG002 - no field has an index
        """Perform `ReadIndexing`: there are no such settings."""
        self._refuse()

    def exempt_field(self, effect: ExemptField) -> None:
        """Raise `StoreError`, because there are no such settings."""
        self._refuse()
        raise StoreError(
            f"The embedded store has no indexes, so {effect.collection}.{effect.field} cannot be exempted."
        )

    async def aread_indexing(self, effect: ReadIndexing) -> None:
        """Perform `ReadIndexing`: there are no such settings."""
        self.read_indexing(effect)

    async def aexempt_field(self, effect: ExemptField) -> None:
        """Raise `StoreError`, because there are no such settings."""
        self.exempt_field(effect)

    def version(self) -> int:
        """The format of this store, which never changes."""
        version: int = self._perform(partial(self._read, _read_version))
        return version

    def close(self) -> None:
        """Wait for calls under way, up to the timeout, and close the file. Idempotent."""
        self._closed = True
        for pause in _until(self._is_quiet, self._timeout):
            time.sleep(pause)
        with suppress(SaverClosedError):  # it was closed before
            self._apart(self._close_unused)
        self._threads.close(self._timeout)

    async def aclose(self) -> None:
        """Close like `close`, without blocking the event loop. Idempotent."""
        await Pool("langgraph-gcs-saver-local-close", 1).aperform(self.close)

    # In the caller's thread, where a signal can raise an exception anywhere

    def _perform(self, attempt: Callable[[_Call], T | _Busy]) -> T:
        self._refuse()
        call = _Call(self._timeout)
        try:
            try:
                while isinstance(outcome := attempt(call), _Busy):
                    time.sleep(self._pause(call, outcome))
                return outcome
            finally:
                self._forget(call)
        finally:
            self._forget(call)  # if an exception has struck the line above

    async def _aperform(self, attempt: Callable[[_Call], T | _Busy]) -> T:
        self._refuse()
        call = _Call(self._timeout)
        try:
            while True:
                outcome = await self._threads.aperform(partial(attempt, call))
                if not isinstance(outcome, _Busy):
                    return outcome
                await asyncio.sleep(self._pause(call, outcome))
        finally:
            self._forget(call)

    def _forget(self, call: _Call) -> None:
        """Make `close` stop waiting for a call. Idempotent."""
        call.over = True
        if call.admitted:
            self._waiting.discard(call)

    def _pause(self, call: _Call, busy: _Busy) -> float:
        pause = call.pause()
        if pause is None:
            raise StoreUnavailableError(
                f"Other writers kept {self._file} busy for {self._timeout:g} s. Try again, or raise the timeout."
            ) from busy.error
        return pause

    def _is_quiet(self) -> bool:
        return not self._waiting and not self._leases

    def _refuse(self) -> None:
        if self._closed:
            raise SaverClosedError("This saver was closed; make a new one.")
        if self._torn:
            raise StoreError(
                f"This process was forked while the parent was using {self._file}, whose locks it cannot share. "
                "Start a new process, or fork before the first use of the saver."
            )

    def _apart(self, function: Callable[[], T]) -> T:
        """Call a function in a thread that no signal interrupts, where it continues if a signal interrupts this one."""
        if not is_exposed():
            return function()
        (outcome,) = self._threads.perform((function, False))
        result: T = outcome
        return result

    # Attempts

    def _write(self, operation: Operation[T], call: _Call) -> T | _Busy:
        """Attempt to write, in a thread that no signal can interrupt, because writing takes locks."""
        return self._apart(partial(self._write_here, operation, call))

    def _write_here(self, operation: Operation[T], call: _Call) -> T | _Busy:
        if not self._writing.acquire(timeout=MOMENT):
            return self._busy(call)
        try:
            return self._attempt("BEGIN IMMEDIATE", operation, call)
        finally:
            self._writing.release()

    def _read(self, operation: Operation[T], call: _Call) -> T | _Busy:
        """Attempt to read, in any thread. Reading takes only a lease, which can safely be given up twice."""
        attempt = partial(self._attempt, "BEGIN", operation, call)
        outcome = attempt()
        return self._apart(attempt) if outcome is _UNOPENED else outcome

    def _attempt(self, begin: str, operation: Operation[T], call: _Call) -> T | _Busy:
        """Perform an operation in a transaction, if that is possible now. If it returns `None`, roll it back."""
        call.proven = False
        number = None
        try:
            try:
                number = self._lease(call)
                if number is None or self._forks:  # checked after leasing, because a fork waits for all leases
                    return self._busy(call)
                if not call.admitted:
                    self._refuse()
                if number not in self._cursors:
                    if is_exposed():
                        return _UNOPENED
                    self._open(number)
                db = self._cursors[number]
                db.execute(begin)
                outcome = operation(db)
                db.execute("ROLLBACK" if outcome is None else "COMMIT")
                if number in self._frozen and self._frozen[number] != self._stamp():
                    return self._busy(call)  # another process has written meanwhile
                call.proven = self._is_clean(number)
            except sqlite3.Error as error:
                if not _is_busy(error):
                    raise self._explain(error) from error
                call.proven = self._is_clean(number)  # clean if another writer kept it from beginning
                return self._busy(call, error)
            else:
                return outcome
            finally:
                self._give_up(call)
        finally:
            self._give_up(call)  # if an exception has struck the line above

    def _lease(self, call: _Call) -> int | None:
        """The number of a connection that now belongs to the call; `None` if other calls use all of them."""
        for number in range(MAX_CONNECTIONS):
            if self._leases.setdefault(number, call) is call:
                return number
        return None

    def _is_clean(self, number: int | None) -> bool:
        """Whether a connection can be used again. Without a transaction, its only cursor has no open statement."""
        db = None if number is None else self._cursors.get(number)
        if db is None or number in self._frozen:  # a frozen connection serves only one attempt
            return False
        return not db.connection.in_transaction and not self._closed

    def _give_up(self, call: _Call) -> None:
        """Release the call's connection to others if it is proven to be clean, or else close it. Idempotent."""
        for number, holder in list(self._leases.items()):
            if holder is call:
                if not call.proven and number in self._cursors:
                    _close(self._cursors[number])
                    self._cursors.pop(number, None)
                self._leases.pop(number, None)

    def _busy(self, call: _Call, error: sqlite3.Error | None = None) -> _Busy:
        if not call.admitted:
            call.admitted = True
            self._waiting.add(call)  # so `close` waits for it
            if call.over:
                self._waiting.discard(call)
        return _Busy(error)

    def _close_unused(self) -> None:
        """Close all connections that no call uses."""
        call = _Call(0)
        try:
            try:
                for number in range(MAX_CONNECTIONS):
                    self._leases.setdefault(number, call)
            finally:
                self._give_up(call)
        finally:
            self._give_up(call)

    def _open(self, number: int) -> None:
        with _os_errors(self._directory):
            _make_store(self._directory)
            if not self._file.exists():
                self._make()
            before = self._look()
            self._refuse_header(before)
        self._refuse_without_log(before)
        db = self._connect(before)
        try:
            try:
                self._prepare(db)
                self._frozen.pop(number, None)
            except sqlite3.OperationalError:
                stamp = self._stamp()
                if stamp is None:
                    raise
                db.close()
                db = self._connect(before, "?immutable=1")
                self._prepare(db, frozen=True)
                self._frozen[number] = stamp
            with _os_errors(self._directory):
                self._tidy()  # only after the checks, because the directory might not be a store's
            self._cursors[number] = db.cursor()
        except BaseException:
            db.close()
            raise

    def _tidy(self) -> None:
        """Remove files of processes that were killed more than a day ago while they created the database."""
        if self._is_tidy or not os.access(self._directory, os.W_OK):
            return
        with files.Directory.at(str(self._directory.resolve())) as store:
            for name, is_directory in store.names():
                found = store.look(name) if (_NEW.match if is_directory else _PART.match)(name) else None
                if found is not None and time.time() - found.st_mtime > ABANDONED_AFTER:
                    # Nothing depends on these files, so a failure to remove one must not prevent opening the store.
                    with suppress(OSError):
                        self._empty(store, name) if is_directory else store.unlink(name)
        self._is_tidy = True

    def _empty(self, store: files.Directory, name: str) -> None:
        """Remove a directory in which a database was created, unless it holds anything else."""
        with store.directory(name) as made:
            found = made.entries()
            if files.is_trusted(made.status()) and all(self._is_new(made, one) for one in found):
                for one in found:
                    made.unlink(one)
                store.remove_empty(name)

    def _is_new(self, directory: files.Directory, name: str) -> bool:
        found = directory.look(name) if name in _NEW_NAMES else None
        return found is not None and stat.S_ISREG(found.st_mode) and found.st_nlink == 1

    def _stamp(self) -> tuple[int, ...] | None:
        """The state of a database in a directory where this process may not write, and SQLite cannot keep its locks.

        It changes with each write of another process. `None` if this process may write there, or if SQLite's log holds
        commits that are not in the database.
        """
        if os.access(self._directory, os.W_OK):
            return None
        with suppress(FileNotFoundError):
            if self._log.stat().st_size:
                return None
        found = self._file.stat()
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def _refuse_lost(self, state: str, is_begun: Callable[[], bool]) -> None:
        """Check that a missing or empty database does not mean that a store was lost.

        Args:
            state: What the database is.
            is_begun: Whether another process has begun the store since.

        Raises:
            StoreError: There is a log, or there are objects, so the documents of a store are lost.
        """
        objects = self._directory / "objects"
        if _size(self._log):
            path = self._log
            advice = "First move the log away, because SQLite would write it into any database. Then restore"
        elif _holds_objects(objects):
            path, advice = objects, "Restore"
        else:
            return
        if not is_begun():
            raise StoreError(
                f"{self._file} is {state}, but {path} is not. So a store was here, and its documents are lost. "
                f"{advice} {self._file.name} from a backup. To begin an empty store, choose another directory, or "
                f"remove {self._directory}. Nothing was read or written."
            )

    def _refuse_header(self, looked_at: os.stat_result) -> None:
        """Check a database's header before SQLite opens it. SQLite may write to any file, or remove the log beside it.

        A process that closes a file loses all its locks on it, and so do SQLite's connections in that process
        (https://www.sqlite.org/howtocorrupt.html, 2.2). So a file is read only before the first connection to it.

        Raises:
            StoreError: It is not an SQLite database, or there is a log that does not belong to it.
        """
        key = (looked_at.st_dev, looked_at.st_ino)
        with _header_lock.get():
            if not looked_at.st_size:
                self._refuse_lost("empty", lambda: _size(self._file) > 0)
            elif looked_at.st_size < HEADER_BYTES or key not in _opened:
                has_log = _size(self._log) > 0  # asked first, because another process may begin the store right now
                header = header_of(self._file)
                if header is None:
                    raise self._no_database("file is not a database")
                if has_log and header[18:20] != _WITH_LOG:
                    raise self._no_log(
                        f"Yet {self._log} is beside it, which SQLite would write into it. Move that file away first. "
                    )
            _opened.add(key)

    def _refuse_without_log(self, looked_at: os.stat_result) -> None:
        """Check the schema of the database file alone, because the first connection may write the log into it.

        `immutable` makes SQLite ignore all other files, and write nothing.
        """
        if not _size(self._log):
            return
        with closing(self._connect(looked_at, "?mode=ro&immutable=1")) as db, _bounded(db, self._timeout):
            try:
                db.execute("PRAGMA trusted_schema = OFF")
                if self._is_begun(db):  # otherwise all of the store may still be in the log
                    self._check_schema(db)
            except sqlite3.DatabaseError as error:
                if "malformed" not in str(error):  # The file may lack pages that the log has.
                    raise

    def _look(self) -> os.stat_result:
        """The status of the database file. Raises what `_refuse_strange` raises."""
        self._refuse_strange()
        return self._file.lstat()

    def _refuse_strange(self) -> None:
        """Check that this library or SQLite created the database and the files beside it.

        Raises:
            PermissionDeniedError: A file belongs to another user.
            StoreError: One is a link or not a file, or there is a rollback journal.
        """
        for companion in COMPANIONS:
            path = self._file.with_name(self._file.name + companion)
            with suppress(FileNotFoundError):
                found = path.lstat()
                if not stat.S_ISREG(found.st_mode):
                    raise StoreError(
                        f"{path} is a link, a directory or a device. It must be a file that only this library and "
                        "SQLite have written."
                    )
                if found.st_nlink > 1:
                    self._drop_parts(found)
                    found = path.lstat()
                if found.st_nlink > 1:
                    raise StoreError(
                        f"{path} is a hard link: the file has other names, and would change under these too. "
                        "Nothing was read or written. Copy the whole directory without keeping links (`cp -r`), and "
                        "open the copy."
                    )
                _refuse_owner(path, found)
                if companion == JOURNAL and found.st_size:
                    raise StoreError(
                        f"{path} is a rollback journal. This library's databases never have one, and SQLite would "
                        "change or delete files because of it. Nothing was read. Move it away, or restore both from a "
                        "backup."
                    )

    def _drop_parts(self, made: os.stat_result) -> None:
        """Remove the temporary name of a file that already has its final name. Its process will, or was killed."""
        for path in self._directory.iterdir():
            if _PART.match(path.name):
                with suppress(OSError):  # The name is gone, or this process may not remove it.
                    if os.path.samestat(path.lstat(), made):
                        path.unlink()

    def _connect(self, looked_at: os.stat_result, parameters: str = "") -> sqlite3.Connection:
        # The timeout is 0 because nothing can interrupt SQLite's own waiting.
        db = sqlite3.connect(
            self._file.as_uri() + parameters, timeout=0, isolation_level=None, check_same_thread=False, uri=True
        )
        try:
            if sys.version_info >= (3, 11):
                db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_BYTES)
            with _os_errors(self._directory):
                self._refuse_other(db, looked_at)
        except BaseException:
            db.close()
            raise
        return db

    def _refuse_other(self, db: sqlite3.Connection, looked_at: os.stat_result) -> None:
        """Check that SQLite opened the file that was checked, and not one that replaced it.

        SQLite resolves the links of a path, opens the file that it finds, and gives its path as the database's name.
        """
        (_, _, opened) = db.execute("PRAGMA database_list").fetchone()
        if not all(os.path.samestat(looked_at, one) for one in (self._look(), Path(opened).lstat())):
            raise StoreError(f"{self._file} was replaced while it was being opened. Nothing was read. Try again.")

    def _make(self) -> None:
        """Create the database elsewhere, and then give it its name. So the file there never has a rollback journal."""
        self._refuse_strange()
        self._refuse_lost("missing", self._file.exists)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self._directory) as directory:
            made = Path(directory, "new.sqlite3")
            with closing(sqlite3.connect(made, isolation_level=None)) as db:
                # The log comes last, because the file would lack changes that are still in a log.
                for statement in (*_SCHEMA, "PRAGMA journal_mode = WAL"):
                    db.execute(statement)
            with suppress(FileExistsError):  # another process was first
                files.add_file(self._file, made.read_bytes())

    def _prepare(self, db: sqlite3.Connection, *, frozen: bool = False) -> None:
        with _bounded(db, self._timeout):
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA fullfsync = ON")  # on macOS, fsync alone does not reach the disk
            db.execute("PRAGMA trusted_schema = OFF")
            if not self._is_begun(db):
                self._begin(db, frozen=frozen)
            self._check_schema(db)
            # These override the file's header, which an attacker may have written: memory use, and where SQLite sorts.
            db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            db.execute("PRAGMA temp_store = MEMORY")
            (mode,) = db.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal" and not frozen:  # a frozen database is read as it is
            raise self._no_log()

    def _is_begun(self, db: sqlite3.Connection) -> bool:
        """Whether a database has a version or any table."""
        (version,) = db.execute("PRAGMA user_version").fetchone()
        return bool(version) or db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is not None

    def _begin(self, db: sqlite3.Connection, *, frozen: bool) -> None:
        """Begin a store in an empty database, which `touch` or a killed process of an earlier version may have left.

        This happens in place and under SQLite's own locks, because another process may do the same.
        """
        if frozen:
            raise PermissionDeniedError(
                f"{self._file} is empty, and this process may not begin a store there. Give its user write permission "
                "on the file and on its directory, or choose another directory."
            )
        self._refuse_lost("empty", lambda: self._is_begun(db))
        if db.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            db.execute("PRAGMA journal_mode = MEMORY")  # A crash leaves no rollback journal, and nothing is lost.
            db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        for statement in () if self._is_begun(db) else _SCHEMA:
            db.execute(statement)
        db.execute("COMMIT")

    def _check_schema(self, db: sqlite3.Connection) -> None:
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found > _FORMAT:
            raise UnsupportedFormatError(
                f"{self._file} has format {found}. This version of langgraph-gcs-saver reads up to {_FORMAT}. Upgrade "
                "it."
            )
        # Only the indexes of UNIQUE columns have no SQL.
        stored = db.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL OR type <> 'index'")
        strange = next((name for name, sql in stored if " ".join(str(sql).split()) not in _OURS), None)
        if strange is not None:
            raise StoreError(
                f"{self._file} has {strange!r} in its schema, which this library did not create. Restore the file from "
                f"a backup or, if the table is yours, run `DROP TABLE {strange}`. Nothing was read."
            )
        if not found:
            raise StoreError(
                f"{self._file} has a store's tables, but not its format, because something has changed it. Restore it "
                "from a backup, or choose another directory. Nothing was read."
            )

    def _explain(self, error: sqlite3.Error) -> StoreError:
        # Texts are compared because error codes are attributes only from Python 3.11 on, and SQLite's texts are stable.
        text = str(error)
        if "unable to open" in text and self._log.exists() and not os.access(self._directory, os.W_OK):
            return PermissionDeniedError(
                f"{self._log} holds commits that are not in the database yet. To read them, SQLite must write in the "
                "directory, which this process may not. Copy the whole directory to a writable place, and open the "
                "copy."
            )
        if "readonly" in text or ("unable to open" in text and not self._accessible()):
            return PermissionDeniedError(
                f"This process may not write {self._file}. Give its user read and write permission on the file and on "
                "its directory. The file system must not be mounted read-only."
            )
        if "unable to open" in text:
            return StoreError(
                f"SQLite cannot open {self._file}. Check that it is a file and that this process has file handles left."
            )
        if "full" in text:
            return StoreError(f"The disk of {self._file} is full. Nothing was written. Free some space and try again.")
        if "not a database" in text or "malformed" in text:
            return self._no_database(text)
        return StoreError(f"SQLite failed on {self._file}: {text}.")

    def _no_database(self, reason: str) -> StoreError:
        log = f"First move {self._log.name} away. " if _size(self._log) else ""
        return StoreError(
            f"{self._file} is not a whole SQLite database ({reason}). {log}Restore it from a backup, or choose another "
            "directory."
        )

    def _no_log(self, beside: str = "") -> StoreError:
        return StoreError(
            f"{self._file} has no write-ahead log. {beside}Choose a directory on a local disk. If another program has "
            f'changed it, run `sqlite3 {self._file.name} "PRAGMA journal_mode = WAL"` there. Nothing was read.'
        )

    def _accessible(self) -> bool:
        return os.access(self._directory, os.R_OK | os.W_OK | os.X_OK) and (
            not self._file.exists() or os.access(self._file, os.R_OK | os.W_OK)
        )

    def _before_fork(self) -> None:
        self._forks.append(None)
        for pause in _until(lambda: not self._leases, self._timeout):
            time.sleep(pause)
        self._close_unused()

    def _after_fork_in_parent(self) -> None:
        with suppress(IndexError):  # another thread forked after `_before_fork`
            self._forks.pop()

    def _after_fork_in_child(self) -> None:
        # Connections are still open if a call outlasted the timeout, or if the fork did not run Python's hooks.
        self._torn = self._torn or bool(self._leases or self._cursors)
        self._inherited += self._cursors.values()  # closing them here could touch the parent's files
        self._reset()


_at_fork = AtFork(
    before=LocalDocuments._before_fork,  # noqa: SLF001
    after_in_parent=LocalDocuments._after_fork_in_parent,  # noqa: SLF001
    after_in_child=LocalDocuments._after_fork_in_child,  # noqa: SLF001
)


_opened: set[tuple[int, int]] = set()
"""Devices and inodes of the databases to which this process may have connections."""

_header_lock = PerProcess(threading.Lock)
"""Held while a header is read, so that no thread opens the database meanwhile."""


def _size(path: Path) -> int:
    """The size of a file, and 0 if there is none."""
    try:
        return path.lstat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _holds_objects(directory: Path) -> bool:
    """Whether a file below a directory has the ending of objects. Follows no link."""
    waiting = [directory]
    while waiting:
        path = waiting.pop()
        with suppress(FileNotFoundError, NotADirectoryError), files.Directory.at(str(path)) as opened:
            for name, is_directory in opened.names():
                if is_directory:
                    waiting.append(path / name)
                elif name.endswith(".zst"):
                    return True
    return False


@contextmanager
def _bounded(db: sqlite3.Connection, timeout: float) -> Iterator[None]:
    """Limit the time of reading the schema, because SQLite reads all its statistics, even computed columns."""
    deadline = time.monotonic() + timeout
    db.set_progress_handler(lambda: time.monotonic() > deadline, 100)
    try:
        yield
    finally:
        db.set_progress_handler(None, 0)


# Operations, which run within a transaction


def _is_busy(error: sqlite3.Error) -> bool:
    return "locked" in str(error) or "locking protocol" in str(error)


def _close(db: sqlite3.Cursor) -> None:
    """Close a connection, which rolls back and drops SQLite's locks. Idempotent."""
    connection = db.connection
    with suppress(sqlite3.ProgrammingError):  # it is closed already
        db.close()  # otherwise an open statement would outlive its connection
    connection.close()


def _read_version(db: sqlite3.Cursor) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def _reading(effect: GetDocs) -> Operation[Docs]:
    keys = {name: rows.key_of(name) for name in effect.names}

    def read(db: sqlite3.Cursor) -> Docs:
        docs = Docs(read_time=time.time_ns())
        for name, key in keys.items():
            row = db.execute(_GET, key).fetchone()
            if row is not None:
                docs[name] = rows.read(name, row, effect.mask)
        return docs

    return read


def _querying(effect: QueryDocs) -> Operation[list[Doc]]:
    query = rows.Query(effect)
    place = (query.collection_id, query.start, query.end)
    return lambda db: query.find(_in_order(query, db.execute(_QUERY, place)))


def _listing(effect: ListCollections) -> Operation[list[str]]:
    _, document = rows.key_of(effect.document)
    first, end = document + b"\0", document + b"\1"

    def list_ids(db: sqlite3.Cursor) -> list[str]:
        # Each step is one search in the index. Other documents cost only one search for each collection id.
        found: set[bytes] = set()
        group = _next_id(db, "")
        while group is not None:
            start = first
            while (row := db.execute(_NEXT_NAME, (group, start, end)).fetchone()) is not None:
                if row[0] is None or not start <= row[0] < end:
                    raise _damaged_index()
                segment = row[0][len(first) :].split(b"\0")[0]
                found.add(segment)
                start = first + segment + b"\1"
            group = _next_id(db, group)
        return sorted(segment.decode() for segment in found if rows.is_segment(segment))

    return list_ids


def _next_id(db: sqlite3.Cursor, before: str) -> str | None:
    """The collection id after `before`. Raises what `_in_order` raises."""
    row = db.execute(_NEXT_ID, (before,)).fetchone()
    if row is None:
        return None
    (following,) = row
    if following is None or following <= before:
        raise _damaged_index()
    return str(following)


def _in_order(query: rows.Query, found: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """The paths and rows that a query finds, in ascending order, except rows that no document has.

    Raises:
        DamageError: Paths do not ascend, or a row occurs twice. Such an index could give more than the file holds.
    """
    before, seen = b"", set()
    for path, number, *row in found:
        if path is None or path <= before or number in seen:
            raise _damaged_index()
        before = path
        seen.add(number)
        key = query.collection_id, path
        if query.includes(key) and rows.is_document(key):
            yield path, *row


def _damaged_index() -> DamageError:
    return DamageError(
        "The index of the embedded store's documents.sqlite3 is corrupt. Restore the file from a backup."
    )


def _committing(effect: Commit) -> Operation[tuple[int, ...] | None]:
    writes = rows.Writes(effect)

    def commit(db: sqlite3.Cursor) -> tuple[int, ...] | None:
        now = max(time.time_ns(), _last(db) + 1)
        applied = writes.apply(lambda key: db.execute(_GET, key).fetchone(), now)
        if applied is None:
            return None
        times, changed = applied
        for key, row in changed.items():
            if row is None:
                db.execute("DELETE FROM documents WHERE collection_id = ? AND name = ?", key)
            else:
                db.execute(_SET, (*key, *row))
        if now in times:
            db.execute("UPDATE clock SET last = ? WHERE id = 1", (now,))
        return times

    return commit


def _last(db: sqlite3.Cursor) -> int:
    """The time of the last commit."""
    (last,) = db.execute("SELECT last FROM clock WHERE id = 1").fetchone() or (None,)
    if not isinstance(last, int) or last >= _LATEST:
        raise DamageError(
            "The clock of the embedded store is corrupt. Restore its documents.sqlite3 from a backup. Nothing was "
            "written."
        )
    return last


# Objects


class LocalBlobs:
    """Objects as files below `path`; a `BlobStore`.

    A file appears under its name whole and durable, or not at all. Only regular files are objects.

    Args:
        path: The directory, which is created on first use.
        timeout: Seconds to retry while another process removes the directories of an object.
    """

    def __init__(self, path: Path, *, timeout: float) -> None:
        self._directory = path.absolute()
        self._objects = self._directory / "objects"
        self._tmp = self._directory / "tmp"
        self._timeout = timeout
        self._ready = False
        self._closed = False

    def put_blob(self, effect: PutBlob) -> None:
        """Perform `PutBlob`."""
        self._refuse()
        *above, leaf = self._parts(effect.name)
        with _os_errors(self._objects), self._prepare() as tmp:
            source = f"{os.getpid()}-{secrets.token_hex(16)}"
            try:
                with tmp.create(source) as file:
                    file.writelines(effect.pieces)
                    file.flush()
                    os.fsync(file.fileno())
                self._link(tmp, source, above, leaf, effect)
            finally:
                with suppress(FileNotFoundError):
                    tmp.unlink(source)

    def get_blob(self, effect: GetBlob) -> bytes | None:
        """Perform `GetBlob`."""
        with self._open(effect.name) as file:
            if file is None:
                return None
            file.seek(effect.start)
            return file.read(-1 if effect.length is None else effect.length)

    def hash_blob(self, effect: HashBlob) -> str | None:
        """Perform `HashBlob`."""
        with self._open(effect.name) as file:
            return None if file is None else _feed(hashlib.sha256(), file).hexdigest()

    def copy_blob(self, effect: CopyBlob) -> bool:
        """Perform `CopyBlob`."""
        data = self.get_blob(GetBlob(effect.name))
        if data is None:
            return False
        self.put_blob(PutBlob(effect.target, data))
        return True

    def list_blobs(self, effect: ListBlobs) -> list[BlobInfo]:
        """Perform `ListBlobs`. If checksums are requested, this reads the listed objects."""
        self._refuse()
        with _os_errors(self._objects):
            try:
                top = self._own(self._objects)
            except FileNotFoundError:
                return []
            after = None if effect.after is None else effect.after.encode()
            infos = self._infos(top, b"", effect.prefix.encode(), after, checksums=effect.checksums)
            with top, closing(infos) as found:
                return list(islice(found, effect.limit))

    def delete_blobs(self, effect: DeleteBlobs) -> None:
        """Perform `DeleteBlobs`, and remove directories that become empty."""
        self._refuse()
        wanted: dict[tuple[str, ...], list[str]] = {}
        for name in effect.names:
            *above, leaf = self._parts(name)
            wanted.setdefault(tuple(above), []).append(leaf)
        with _os_errors(self._objects):
            for directories, leaves in wanted.items():
                with suppress(FileNotFoundError, NotADirectoryError), self._down(directories) as opened:
                    _delete(opened, directories, leaves)

    def ensure_bucket(self, effect: EnsureBucket) -> str:  # noqa: ARG002 - a directory has no location
        """Perform `EnsureBucket`: create the directory."""
        self._refuse()
        with _os_errors(self._objects):
            existed = self._objects.is_dir()
            self._prepare().close()
        return f"The directory {self._objects} {'exists' if existed else 'was created'}."

    def read_bucket(self, effect: ReadBucket) -> None:  # noqa: ARG002 - a directory has no settings
        """Perform `ReadBucket`: there is no bucket."""
        self._refuse()

    def set_lifecycle(self, effect: SetLifecycle) -> bool:  # noqa: ARG002 - as above
        """Raise `StoreError`, because there is no bucket."""
        self._refuse()
        raise StoreError(f"The directory {self._objects} is not a bucket and has no lifecycle rules.")

    def close(self) -> None:
        """Close the store, so that further calls raise an error. Idempotent."""
        self._closed = True

    def _refuse(self) -> None:
        if self._closed:
            raise SaverClosedError("This saver was closed; make a new one.")

    # Directories

    def _own(self, path: Path) -> files.Directory:
        """Open a directory of the store, which must belong to this process' user or to root."""
        try:
            opened = files.Directory.at(str(path))
        except NotADirectoryError:
            _refuse_link(path)
            raise
        try:
            _refuse_owner(path, opened.status())
        except BaseException:
            opened.close()
            raise
        return opened

    def _prepare(self) -> files.Directory:
        """Open `tmp`, after creating all directories and removing files that killed processes left a day ago."""
        if self._ready:
            with suppress(FileNotFoundError):
                return self._own(self._tmp)
        _make_store(self._directory)
        _ = self._folds  # creates the database, because objects without one are the remains of a store
        files.make_directory(self._objects)
        self._own(self._objects).close()
        files.make_directory(self._tmp)
        tmp = self._own(self._tmp)
        try:
            for name, is_directory in tmp.names():
                found = None if is_directory or not _TEMPORARY.match(name) else tmp.look(name)
                if found is not None and time.time() - found.st_mtime > ABANDONED_AFTER:
                    with suppress(FileNotFoundError):
                        tmp.unlink(name)
        except BaseException:
            tmp.close()
            raise
        self._ready = True
        return tmp

    @contextmanager
    def _down(self, names: Iterable[str], *, make: bool = False) -> Iterator[list[files.Directory]]:
        """Open `objects`, and the directories with these names, each inside the one before."""
        with self._own(self._objects) as top, files.descend(top, names, make=make) as opened:
            yield opened

    @contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO | None]:
        """The file of an object; `None` if there is none."""
        self._refuse()
        *above, leaf = self._parts(name)
        with _os_errors(self._objects):
            try:
                with self._down(above) as opened:
                    file = opened[-1].open(leaf)
            except (FileNotFoundError, NotADirectoryError, files.NotAFileError):
                yield None
                return
            with file:
                yield file

    def _link(self, tmp: files.Directory, source: str, above: list[str], leaf: str, effect: PutBlob) -> None:
        """Give a file the name of an object, durably."""
        deadline = time.monotonic() + self._timeout
        while not self._try_link(tmp, source, above, leaf, effect):
            if time.monotonic() > deadline:
                raise StoreUnavailableError(
                    f"Other processes keep removing the directory of {effect.name!r} in {self._objects}. Try again."
                )

    def _try_link(self, tmp: files.Directory, source: str, above: list[str], leaf: str, effect: PutBlob) -> bool:
        try:
            with self._down(above, make=True) as opened:
                try:
                    opened[-1].link(tmp, source, leaf)
                except FileExistsError:
                    if not _has_content(opened[-1], leaf, effect):
                        return False  # The object was deleted since.
                for directory in reversed(opened):
                    directory.sync()
        except FileNotFoundError:
            if not tmp.has(source) or not self._objects.is_dir():
                raise
            return False  # A deletion has just removed the empty directory.
        return True

    def _infos(
        self, directory: files.Directory, above: bytes, prefix: bytes, after: bytes | None, *, checksums: bool
    ) -> Generator[BlobInfo, None, None]:
        """Objects below a directory, in bytewise order of their names. `above` is the directory's name as a prefix."""
        for segment, where in sorted(self._entries(directory)):
            key = above + segment
            if key.endswith(b"/"):
                # Longer names belong to no object, and an attacker may nest more directories than Python can enter.
                wanted = (key.startswith(prefix) or prefix.startswith(key)) and len(key) < limits.OBJECT_NAME_BYTES
                if wanted and (after is None or after < key or after.startswith(key)):
                    with suppress(FileNotFoundError, NotADirectoryError), files.descend(directory, where) as opened:
                        yield from self._infos(opened[-1], key, prefix, after, checksums=checksums)
            elif key.startswith(prefix) and (after is None or key > after):
                info = _info(directory, where, os.fsdecode(key), checksum=checksums)
                if info is not None:
                    yield info

    def _entries(
        self, directory: files.Directory, begun: bytes = b"", above: tuple[str, ...] = ()
    ) -> Iterator[tuple[bytes, tuple[str, ...]]]:
        """The entries of a directory: segments of objects' names, with a `/` for directories, and the paths to them."""
        for name, is_directory in directory.names():
            written, where = begun + os.fsencode(name), (*above, name)
            if is_directory and self._folds and written.endswith(_GOES_ON):
                if len(name) <= _MAX_PART or len(written) > _MAX_FOLDED:
                    continue  # `_fold` makes no such part, and there may be any number of them
                with suppress(FileNotFoundError, NotADirectoryError), directory.directory(name) as deeper:
                    yield from self._entries(deeper, written[:-1], where)
                continue
            segment = _unfold(written) if self._folds else written
            if rows.is_segment(segment) and where == self._written(segment):  # otherwise no object has this name
                yield (segment + b"/" if is_directory else segment), where

    # Names

    def _parts(self, name: str) -> list[str]:
        """The path of an object below `objects`."""
        if _SAME.match(name):
            return name.split("/")
        return [part for segment in rows.object_segments_of(name) for part in self._written(segment)]

    def _written(self, segment: bytes) -> tuple[str, ...]:
        """The path of a segment of a name, in the format of this store."""
        if self._folds:
            return _fold(segment)
        plain = os.fsdecode(segment)
        if os.sep != "/" and (os.sep in plain or ":" in plain):
            raise InvalidIdError(f"The name {plain[:200]!r} is illegal: it holds a path separator of this system.")
        return (plain,)

    @cached_property
    def _folds(self) -> bool:
        """Whether names are folded, which stores of earlier versions do not do."""
        with closing(LocalDocuments(self._directory, timeout=self._timeout)) as documents:
            return documents.version() >= _FOLDING


_Checksum: Any = google_crc32c.Checksum

_TEMPORARY = re.compile(r"[0-9]+-[0-9a-f]{32}\Z")
"""Names of the files that stores create in `tmp`."""

_MAX_PART = 240
"""Longest part of a path, in bytes. File systems allow 255."""

_MAX_FOLDED = 3 * limits.OBJECT_NAME_BYTES + _MAX_PART
"""Most bytes of a segment as `_fold` writes it, with three bytes for each byte of a name."""

_GOES_ON = b"+"
"""Ending of the name of a directory that holds the rest of a segment."""

_ODD = re.compile(
    rb"[^a-z0-9_%~.-]|\.\Z|\A(?=(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z)).",
    re.DOTALL,
)
"""Bytes that some file systems confuse or forbid, and the first byte of a name that Windows reserves."""

_SAME = re.compile(
    rf"(?=.{{1,{limits.OBJECT_NAME_BYTES}}}\Z)(?:(?:~|[a-z0-9_%~-]{{5,{_MAX_PART}}})/)*[a-z0-9_%~-]{{5,200}}(?:\.zst)?\Z"
)
"""Most names whose path equals the name in every format. Names that Windows reserves are shorter."""

_FOLDED = re.compile(rb"\^([a-z])|=([0-9a-f]{2})")


def _fold(segment: bytes) -> tuple[str, ...]:
    """Write a segment of a name as the parts of a path, so that no two segments differ only in case.

    An upper-case letter becomes `^` and the letter in lower case. Lower-case letters, digits and `_%~.-` stay. Every
    other byte becomes `=` and two hex digits. A segment that is too long for a file name is split. All parts except the
    last become directories whose names end with `+`.
    """
    written = _ODD.sub(_fold_one, segment).decode("ascii")
    last = (len(written) - 1) // _MAX_PART * _MAX_PART
    parts = [written[at : at + _MAX_PART] + "+" for at in range(0, last, _MAX_PART)]
    return (*parts, written[last:])


def _fold_one(match: re.Match[bytes]) -> bytes:
    (code,) = match[0]
    return b"^" + match[0].lower() if match[0].isalpha() and match[0].isupper() else b"=%02x" % code


def _unfold(written: bytes) -> bytes:
    """Undo `_fold`, for the joined parts without `+`. The result is arbitrary for text that `_fold` does not make."""
    return _FOLDED.sub(lambda match: match[1].upper() if match[1] else bytes((int(match[2], 16),)), written)


def _feed(checksum: T, file: BinaryIO) -> T:
    """Update a checksum with a whole file, and return it."""
    update: Callable[[bytes], object] = checksum.update  # type: ignore[attr-defined]
    while block := file.read(1 << 20):
        update(block)
    return checksum


def _info(directory: files.Directory, where: tuple[str, ...], name: str, *, checksum: bool) -> BlobInfo | None:
    *above, leaf = where
    try:
        with files.descend(directory, above) as opened, opened[-1].open(leaf) as file:
            status = os.fstat(file.fileno())
            found = text_of(_feed(_Checksum(), file)) if checksum else None
            return BlobInfo(name, status.st_size, found, status.st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError, files.NotAFileError):
        return None


def _has_content(directory: files.Directory, leaf: str, effect: PutBlob) -> bool:
    """Whether an existing object has the content to store; false if the object is gone.

    Raises:
        StoreError: The object has other content, or is not a file.
    """
    try:
        with directory.open(leaf) as file:
            found = text_of(_feed(_Checksum(), file))
    except FileNotFoundError:
        return False
    except files.NotAFileError as error:
        raise StoreError(
            f"A link, a directory or a device is in the place of the object {effect.name!r}. No store creates one. "
            "Find out which program did, and remove it."
        ) from error
    if found != effect.crc32c():
        raise StoreError(
            f"The object {effect.name!r} already exists with other content and was left as it is. Two writers used the "
            "same name."
        )
    return True


def _delete(opened: list[files.Directory], names: tuple[str, ...], leaves: Iterable[str]) -> None:
    """Delete files in the last of some nested directories. Remove directories that become empty, except the first."""
    deleted = False
    for leaf in leaves:
        with suppress(FileNotFoundError):
            opened[-1].unlink(leaf)
            deleted = True
    if deleted:
        left = len(names)
        while left and opened[left - 1].remove_empty(names[left - 1]):
            left -= 1
        for directory in reversed(opened[: left + 1]):
            directory.sync()


def _make_store(path: Path) -> None:
    """Create the store's directory, if it is missing.

    Raises:
        PermissionDeniedError: The directory, or a link to it, belongs to another user.
    """
    files.make_directory(path)
    for status in (os.lstat(path), os.stat(path)):  # noqa: PTH116 - the link and its target
        _refuse_owner(path, status)


def _refuse_owner(path: Path, status: os.stat_result) -> None:
    if not files.is_trusted(status):
        raise PermissionDeniedError(
            f"{path} belongs to the user with the id {status.st_uid}, who could change the stored data and its place. "
            "Run this as that user, or choose a directory of your own. If you trust the content, take ownership of it "
            "(`chown -R`)."
        )


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise StoreError(
            f"{path} is a symbolic link. The store follows no links, because it deletes files there. Remove the link. "
            "In the connection string, name the directory that holds the whole store."
        )


@contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into this library's errors."""
    try:
        yield
    except GCSSaverError:
        raise
    except PermissionError as error:
        raise PermissionDeniedError(
            f"This process may not use {_named(error, path)}. Give its user read and write permission on "
            "the directory and everything below it."
        ) from error
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "Check that the directory can be created and written")
        raise StoreError(f"Storing to {_named(error, path)} failed ({error.strerror}). {advice}.") from error


def _named(error: OSError, path: Path) -> Path:
    """The path that an error is about. The error may name a path below an open directory."""
    return path if error.filename is None else path / os.fsdecode(error.filename)


_ADVICE = {
    errno.ENOSPC: "Free some space on the disk and try again",
    errno.EDQUOT: "Raise the user's disk quota and try again",
    errno.EROFS: "Mount the file system for writing, or choose another directory",
    errno.EEXIST: "Move the file that is in the place of a directory, or choose another directory",
    errno.ENOTDIR: "Move the file that is in the place of a directory, or choose another directory",
    errno.ENAMETOOLONG: "Shorten the directory's path. Names below it need up to 700 characters",
    errno.EMFILE: "Raise this process' limit of open files",
    errno.EOPNOTSUPP: "Choose a directory on a file system with hard links",
}
