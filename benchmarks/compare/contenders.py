"""The savers that are compared, each opened as its own documentation says."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from typing import Any, Protocol

import psycopg
from gcsfs.core import GCSFileSystem
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph_checkpoint_firestore import FirestoreSaver
from langgraph_checkpoint_objectstorage import ObjectStorageSaver
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from benchmarks.compare import sizes
from benchmarks.compare.services import BUCKET, Endpoints
from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor

POOL = 20
"""Connections to PostgreSQL, at most; a saver holds a lock during each query, so it hardly uses two at once."""

_environment = threading.Lock()


class Contender(Protocol):
    """A saver on its services. Spaces keep apart, their names are small letters, digits and hyphens.

    Attributes:
        name: What the table calls it.
        services: Those of `services.SERVICES` that it needs.
        is_shared: Whether another process sees what it stored.
    """

    name: str
    services: frozenset[str]
    is_shared: bool

    def open(self, endpoints: Endpoints, space: str) -> AbstractContextManager[BaseCheckpointSaver[Any]]:
        """The saver of a space, for synchronous calls; what the space needs is made when it is first opened."""
        ...

    def aopen(self, endpoints: Endpoints, space: str) -> AbstractAsyncContextManager[BaseCheckpointSaver[Any]]:
        """The same for asynchronous calls, on the running event loop."""
        ...

    def stored(self, endpoints: Endpoints, space: str) -> int | None:
        """Bytes that the service stores of a space, past the saver; none if it stores nothing.

        Takes the direct endpoints: what goes through others is counted.
        """
        ...

    def drop(self, endpoints: Endpoints, space: str) -> None:
        """Delete a space, past the saver: the emulators keep everything in memory. Takes the direct endpoints."""
        ...


def contenders() -> list[Contender]:
    return [
        _Google("GCSSaver"),
        _Google("GCSSaver off", verify="off"),
        _Embedded(),
        _Firestore(),
        _ObjectFiles(),
        _ObjectGoogle(),
        _Postgres(),
        _Sqlite(),
        _Memory(),
    ]


@contextmanager
def _emulators(endpoints: Endpoints) -> Iterator[None]:
    """The variables by which Google's clients find emulators, while a client is made. They need no credentials then."""
    found = {"FIRESTORE_EMULATOR_HOST": endpoints.firestore, "STORAGE_EMULATOR_HOST": endpoints.storage}
    wanted = {name: value for name, value in found.items() if value}
    with _environment:
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class _Google:
    services = frozenset({"firestore", "storage"})
    is_shared = True

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self._options = options

    def counted(self, count: CountingInterceptor) -> Contender:
        """The same saver, with its rounds counted."""
        return _Google(self.name, **self._options, interceptors=[count])

    def _space(self, space: str) -> str:
        return f"{self.name.lower().replace(' ', '-')}-{space}"

    def _saver(self, endpoints: Endpoints, space: str) -> GCSSaver:
        own = self._space(space)
        with _emulators(endpoints):
            return GCSSaver.from_conn_string(f"gs://{BUCKET}/{own}?project={own}", **self._options)

    @contextmanager
    def open(self, endpoints: Endpoints, space: str) -> Iterator[GCSSaver]:
        with self._saver(endpoints, space) as saver:
            yield saver

    @asynccontextmanager
    async def aopen(self, endpoints: Endpoints, space: str) -> AsyncIterator[GCSSaver]:
        async with self._saver(endpoints, space) as saver:
            yield saver

    def stored(self, endpoints: Endpoints, space: str) -> int:
        own = self._space(space)
        return sizes.documents(endpoints.firestore, own) + self.objects(endpoints, space)

    def objects(self, endpoints: Endpoints, space: str) -> int:
        """Bytes that are objects; the others are documents."""
        return sizes.objects(endpoints.storage, BUCKET, f"{self._space(space)}/")

    def drop(self, endpoints: Endpoints, space: str) -> None:
        own = self._space(space)
        sizes.delete_documents(endpoints.firestore, own)
        sizes.delete_objects(endpoints.storage, BUCKET, f"{own}/")


class _Files:
    """What those have in common that keep files."""

    name: str
    services: frozenset[str] = frozenset()
    is_shared = True

    def _directory(self, endpoints: Endpoints, space: str) -> Path:
        return Path(endpoints.directory, f"{self.name.lower().replace(' ', '-')}-{space}")

    def stored(self, endpoints: Endpoints, space: str) -> int:
        return sizes.files(self._directory(endpoints, space))

    def drop(self, endpoints: Endpoints, space: str) -> None:
        shutil.rmtree(self._directory(endpoints, space))


class _Embedded(_Files):
    name = "GCSSaver embedded"

    @contextmanager
    def open(self, endpoints: Endpoints, space: str) -> Iterator[GCSSaver]:
        with GCSSaver.from_conn_string(f"file://{self._directory(endpoints, space)}") as saver:
            yield saver

    @asynccontextmanager
    async def aopen(self, endpoints: Endpoints, space: str) -> AsyncIterator[GCSSaver]:
        async with GCSSaver.from_conn_string(f"file://{self._directory(endpoints, space)}") as saver:
            yield saver


class _ObjectFiles(_Files):
    name = "objectstorage files"

    @contextmanager
    def open(self, endpoints: Endpoints, space: str) -> Iterator[ObjectStorageSaver]:
        yield ObjectStorageSaver.from_conn_string(f"file://{self._directory(endpoints, space)}")

    @asynccontextmanager
    async def aopen(self, endpoints: Endpoints, space: str) -> AsyncIterator[ObjectStorageSaver]:
        with self.open(endpoints, space) as saver:
            yield saver


class _Sqlite(_Files):
    name = "sqlite"

    def _path(self, endpoints: Endpoints, space: str) -> str:
        directory = self._directory(endpoints, space)
        directory.mkdir(exist_ok=True)
        return str(directory / "checkpoints.sqlite")

    @contextmanager
    def open(self, endpoints: Endpoints, space: str) -> Iterator[SqliteSaver]:
        with SqliteSaver.from_conn_string(self._path(endpoints, space)) as saver:
            yield saver

    @asynccontextmanager
    async def aopen(self, endpoints: Endpoints, space: str) -> AsyncIterator[AsyncSqliteSaver]:
        async with AsyncSqliteSaver.from_conn_string(self._path(endpoints, space)) as saver:
            yield saver


class _Firestore:
    """Its asynchronous methods are its synchronous ones, on the event loop's threads."""

    name = "firestore"
    services = frozenset({"firestore"})
    is_shared = True

    @contextmanager
    def open(self, endpoints: Endpoints, space: str) -> Iterator[FirestoreSaver]:
        with _emulators(endpoints):
            saver = FirestoreSaver(f"firestore-{space}", "checkpoints")
        try:
            yield saver
        finally:
            saver.client.close()

    @asynccontextmanager
    async def aopen(self, endpoints: Endpoints, space: str) -> AsyncIterator[FirestoreSaver]:
        with self.open(endpoints, space) as saver:
            yield saver

    def stored(self, endpoints: Endpoints, space: str) -> int:
        return sizes.documents(endpoints.firestore, f"firestore-{space}")

    def drop(self, endpoints: Endpoints, space: str) -> None:
        sizes.delete_documents(endpoints.firestore, f"firestore-{space}")


class _ProductionFiles(GCSFileSystem):  # type: ignore[misc]
    """Deletes in batches, as gcsfs does on Google's own address only."""

    is_made = False

    @property
    def on_google(self) -> bool:
        return self.is_made  # credentials are looked for while it is made


class _ObjectGoogle:
    """The file system is handed over: `gcs://` takes gcsfs's extended one, which asks the Storage Control API first.

    No emulator has that. After a minute of trying it continues as this one, and tries again at the next call.
    """

    name = "objectstorage gcs"
    services = frozenset({"storage"})
    is_shared = True

    def _saver(self, endpoints: Endpoints, space: str, **options: Any) -> ObjectStorageSaver:
        files = _ProductionFiles(
            project="bench", token="anon", endpoint_url=endpoints.storage, skip_instance_cache=True, **options
        )
        files.is_made = True
        return ObjectStorageSaver(files, f"{BUCKET}/objectstorage-{space}")

    @contextmanager
    def open(self, endpoints: Endpoints, space: str) -> Iterator[ObjectStorageSaver]:
        yield self._saver(endpoints, space)

    @asynccontextmanager
    async def aopen(self, endpoints: Endpoints, space: str) -> AsyncIterator[ObjectStorageSaver]:
        saver = self._saver(endpoints, space, asynchronous=True, loop=asyncio.get_running_loop())
        session = await saver.fs._set_session()
        try:
            yield saver
        finally:
            await session.close()

    def stored(self, endpoints: Endpoints, space: str) -> int:
        return sizes.objects(endpoints.storage, BUCKET, f"objectstorage-{space}/")

    def drop(self, endpoints: Endpoints, space: str) -> None:
        sizes.delete_objects(endpoints.storage, BUCKET, f"objectstorage-{space}/")


class _Postgres:
    """On a pool of connections, with the settings that its documentation requires."""

    name = "postgres"
    services = frozenset({"postgres"})
    is_shared = True
    _settings: Mapping[str, Any] = {
        "kwargs": {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
        "min_size": 1,
        "max_size": POOL,
    }

    def _conninfo(self, server: str, space: str) -> str:
        return make_conninfo(server, options=f"-csearch_path={self._schema(space)}")

    def _schema(self, space: str) -> str:
        return f"space_{space.replace('-', '_').lower()}"

    def _prepare(self, endpoints: Endpoints, space: str) -> None:
        schema = self._schema(space)
        with psycopg.connect(endpoints.setup, autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
            if found is None:
                connection.execute(f"CREATE SCHEMA {schema}")
        if found is None:
            with PostgresSaver.from_conn_string(self._conninfo(endpoints.setup, space)) as saver:
                saver.setup()

    @contextmanager
    def open(self, endpoints: Endpoints, space: str) -> Iterator[PostgresSaver]:
        self._prepare(endpoints, space)
        conninfo = self._conninfo(endpoints.postgres, space)
        pool = ConnectionPool(conninfo, connection_class=Connection[DictRow], open=False, **self._settings)
        with pool:
            pool.wait()
            yield PostgresSaver(pool)

    @asynccontextmanager
    async def aopen(self, endpoints: Endpoints, space: str) -> AsyncIterator[AsyncPostgresSaver]:
        await asyncio.to_thread(self._prepare, endpoints, space)
        conninfo = self._conninfo(endpoints.postgres, space)
        pool = AsyncConnectionPool(conninfo, connection_class=AsyncConnection[DictRow], open=False, **self._settings)
        async with pool:
            await pool.wait()
            yield AsyncPostgresSaver(pool)

    def stored(self, endpoints: Endpoints, space: str) -> int:
        return _tables(endpoints.setup, self._schema(space))

    def drop(self, endpoints: Endpoints, space: str) -> None:
        with psycopg.connect(endpoints.setup, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA {self._schema(space)} CASCADE")


def _tables(conninfo: str, schema: str) -> int:
    """Bytes of a schema's tables with their indexes and large values, after a vacuum."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        named = connection.execute(
            "SELECT format('%%I.%%I', schemaname, tablename) FROM pg_tables WHERE schemaname = %s", (schema,)
        ).fetchall()
        total = 0
        for (name,) in named:
            connection.execute(f"VACUUM {name}")
            found = connection.execute("SELECT pg_total_relation_size(%s::regclass)", (name,)).fetchone()
            assert found is not None
            total += found[0]
    return total


class _Memory:
    name = "memory"
    services: frozenset[str] = frozenset()
    is_shared = False

    def __init__(self) -> None:
        self._savers: dict[str, InMemorySaver] = {}

    @contextmanager
    def open(self, endpoints: Endpoints, space: str) -> Iterator[InMemorySaver]:  # noqa: ARG002
        yield self._savers.setdefault(space, InMemorySaver())

    @asynccontextmanager
    async def aopen(self, endpoints: Endpoints, space: str) -> AsyncIterator[InMemorySaver]:
        with self.open(endpoints, space) as saver:
            yield saver

    def stored(self, endpoints: Endpoints, space: str) -> None:  # noqa: ARG002
        return None

    def drop(self, endpoints: Endpoints, space: str) -> None:  # noqa: ARG002
        self._savers.pop(space, None)
