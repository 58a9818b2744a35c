"""`GCSSaver`: LangGraph's checkpointer, one class for synchronous and asynchronous use.

Every method is one line deep: it makes a request of its arguments and performs a flow.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_gcs_saver import requests
from langgraph_gcs_saver.cache import ByteCache
from langgraph_gcs_saver.effects import Flow
from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.flows import checkpoints, threads, tuples
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.setup import SetupReport, setup
from langgraph_gcs_saver.flows.writes import put_writes as store_writes
from langgraph_gcs_saver.frames import Codec
from langgraph_gcs_saver.options import GoogleAddress, LocalAddress, Options, parse
from langgraph_gcs_saver.runners import Backend, arun, run
from langgraph_gcs_saver.serialization import loads
from langgraph_gcs_saver.stores import BlobStore, DocumentStore

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud import firestore as firestore_v1
    from google.cloud.storage import Bucket
    from typing_extensions import Self


class GCSSaver(BaseCheckpointSaver[str]):
    """Keeps the state of LangGraph agents in Firestore and Cloud Storage.

    Pass it as `checkpointer=` to a compiled graph; `invoke` and `ainvoke` both work. It can be made outside of any
    event loop, used from many threads and event loops at once, and used after a fork. It is a context manager, for
    `with` and for `async with`, that closes it at the end.

    `put`, `put_writes` and their asynchronous twins return when what they stored is durable. Everything read is checked
    against the digests that were written: a reader gets the exact value, or an error.

    Args:
        bucket: The bucket, or its name.
        firestore: A client for the database; made of `project`, `database` and `credentials` if not given.
        prefix: What names of objects begin with, so that several applications can share a bucket.
        root: Path of the document below which the collections lie, so that several applications can share a database;
            empty for the database itself.
        project: The project; the environment's if not given.
        database: The Firestore database (Native mode, Standard edition).
        credentials: Credentials for both services; the environment's if not given.
        serde: The serialiser; LangGraph's `JsonPlusSerializer` if not given.
        stores: A pair of stores instead of Google's; `from_conn_string("file:///…")` passes the embedded ones.
        options: See `langgraph_gcs_saver.options.Options`: `incremental`, `full_every`, `zstd_level`,
            `cache_max_bytes`, `inline_max_bytes`, `cipher`, `clear_metadata`, `timeout`, `max_threads`, `on_event`.

    Raises:
        InvalidURIError: The bucket, prefix or root is not a legal name.
        InvalidOptionError: An option is unknown or out of its range.
        PermissionDeniedError: There are no credentials.
    """

    def __init__(
        self,
        bucket: Bucket | str | None = None,
        *,
        firestore: firestore_v1.Client | None = None,
        prefix: str = "",
        root: str = "",
        project: str | None = None,
        database: str = "(default)",
        credentials: Credentials | None = None,
        serde: SerializerProtocol | None = None,
        stores: tuple[DocumentStore, BlobStore] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(serde=serde)
        chosen = Options.of(options)
        if stores is None:
            if bucket is None:
                raise InvalidOptionError("GCSSaver needs a bucket, or use GCSSaver.from_conn_string(…).")
            from langgraph_gcs_saver.stores.google import open_google  # noqa: PLC0415 - the embedded store needs none

            name = bucket if isinstance(bucket, str) else str(bucket.name)
            address = GoogleAddress(bucket=name, prefix=prefix, project=project, database=database, root=root)
            stores = open_google(address, chosen, bucket=bucket, firestore_client=firestore, credentials=credentials)
        self._backend = Backend(*stores, on_event=chosen.on_event, max_threads=chosen.max_threads)
        self._contexts = _Contexts(chosen)

    @classmethod
    def from_conn_string(cls, conn_string: str, **options: Any) -> Self:
        """A saver for the store that a connection string names.

        `gs://BUCKET/PREFIX?project=PROJECT&database=DATABASE&root=DOCUMENT_PATH` is Cloud Storage and Firestore; all
        but the bucket are optional. `file:///DIRECTORY` is the embedded store, with the same documents and frames.
        `FIRESTORE_EMULATOR_HOST` and `STORAGE_EMULATOR_HOST` are honoured.

        Args:
            conn_string: The connection string.
            options: `serde`, `credentials`, and what `langgraph_gcs_saver.options.Options` has.

        Raises:
            InvalidURIError: It names no store.
            InvalidOptionError: An option is unknown or out of its range.
            PermissionDeniedError: There are no credentials.
        """
        address = parse(conn_string)
        if isinstance(address, LocalAddress):
            from langgraph_gcs_saver.stores.local import LocalBlobs, LocalDocuments  # noqa: PLC0415 - only if needed

            chosen = Options.of({k: v for k, v in options.items() if k not in {"serde", "credentials"}})
            stores = (
                LocalDocuments(address.path, timeout=chosen.timeout),
                LocalBlobs(address.path, timeout=chosen.timeout),
            )
            return cls(stores=stores, **options)
        return cls(
            address.bucket,
            prefix=address.prefix,
            root=address.root,
            project=address.project,
            database=address.database,
            **options,
        )

    # Life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """Release connections and threads. Idempotent; later calls of other methods raise `SaverClosedError`."""
        self._backend.close()

    async def aclose(self) -> None:
        """Release connections and threads, those of the running event loop included. Idempotent."""
        await self._backend.aclose()

    def setup(self, *, location: str | None = None) -> SetupReport:
        """Create the bucket if it is missing, and check that documents and objects can be written.

        Idempotent and optional. Prints to stderr what these credentials may not create.

        Args:
            location: Where to create the bucket, such as `europe-west1`; Cloud Storage's default if not given.

        Raises:
            PermissionDeniedError: Documents or objects cannot be written.
            StoreNotFoundError: The database does not exist.
        """
        return _print_missing(run(setup(location, self._context), self._backend))

    async def asetup(self, *, location: str | None = None) -> SetupReport:
        """Asynchronous twin of `setup`."""
        return _print_missing(await arun(setup(location, self._context), self._backend))

    # Reading

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the latest of its thread and namespace; `None` if there is none.

        Raises:
            CheckpointCorruptError: It is damaged.
            InvalidConfigError: The config names no thread.
            StoreError: A service refused, or did not answer before the deadline.
        """
        loaded = run(self._get(config), self._backend)
        return None if loaded is None else requests.to_tuple(loaded, requests.configurable(config)["thread_id"])

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Asynchronous twin of `get_tuple`."""
        loaded = await arun(self._get(config), self._backend)
        return None if loaded is None else requests.to_tuple(loaded, requests.configurable(config)["thread_id"])

    def _get(self, config: RunnableConfig) -> Flow[tuples.Loaded | None]:
        thread_id, ns = requests.thread_and_ns(config)
        return tuples.get_tuple(thread_id, ns, requests.checkpoint_id_of(config), self._loads, self._context)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first; damaged ones are stepped over, with a warning and an event.

        Args:
            config: The thread; with a `checkpoint_ns` one namespace, else all of them; with a `checkpoint_id` that
                checkpoint. `None` lists all threads, thread by thread, each newest first.
            filter: Metadata that must be equal.
            before: Only checkpoints whose id sorts before this config's.
            limit: Most checkpoints to return, after filtering; 0 means none.

        Raises:
            InvalidConfigError: A config without a thread.
            StoreError: A service refused, or did not answer before the deadline.
        """
        search = requests.search(config, wanted=filter, before=before, limit=limit)
        thread_id = None if config is None else requests.configurable(config)["thread_id"]
        after: str | None = None
        while limit is None or limit > 0:
            page, after = run(tuples.list_page(search, after, limit, self._loads, self._context), self._backend)
            for loaded in page:
                yield requests.to_tuple(loaded, thread_id)
            limit = None if limit is None else limit - len(page)
            if after is None:
                return

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Asynchronous twin of `list`."""
        search = requests.search(config, wanted=filter, before=before, limit=limit)
        thread_id = None if config is None else requests.configurable(config)["thread_id"]
        after: str | None = None
        while limit is None or limit > 0:
            page, after = await arun(tuples.list_page(search, after, limit, self._loads, self._context), self._backend)
            for loaded in page:
                yield requests.to_tuple(loaded, thread_id)
            limit = None if limit is None else limit - len(page)
            if after is None:
                return

    # Writing

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint; it is durable when this returns, and repeating the call changes nothing.

        Args:
            config: Its thread and namespace; its `checkpoint_id` is the parent.
            checkpoint: The checkpoint.
            metadata: Its metadata; the config's is merged in, and never overrides it.
            new_versions: Channels that changed since the parent; the others are taken from there.

        Returns:
            The config that names the stored checkpoint.

        Raises:
            ConflictError: Others kept changing the same documents; call again.
            InvalidConfigError: The config names no thread.
            InvalidIdError: An id cannot be stored.
            SerializationError: A value cannot be serialised.
            StoreError: A service refused, or did not answer before the deadline.
        """
        request = self._put_request(config, checkpoint, metadata, new_versions)
        run(checkpoints.put(request, self._context), self._backend)
        return requests.config_of(config["configurable"]["thread_id"], request.ns, request.checkpoint_id)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Asynchronous twin of `put`; values are serialised before the first await."""
        request = self._put_request(config, checkpoint, metadata, new_versions)
        await arun(checkpoints.put(request, self._context), self._backend)
        return requests.config_of(config["configurable"]["thread_id"], request.ns, request.checkpoint_id)

    def _put_request(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> checkpoints.Put:
        return requests.put_request(
            config, checkpoint, metadata, new_versions, serde=self.serde, context=self._context, now=time.time()
        )

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote, for the checkpoint that it started from; durable when this returns.

        All writes of a call become visible together. The first regular write for a task and a number wins; of special
        channels (errors, interrupts, resumes) the last.

        Args:
            config: Thread, namespace and checkpoint, which need not be stored yet.
            writes: Pairs of a channel and a value.
            task_id: The task.
            task_path: The task's path, which orders the writes of parallel tasks.

        Raises:
            InvalidConfigError: The config names no checkpoint.
            SerializationError: A value cannot be serialised.
            StoreError: A service refused, or did not answer before the deadline.
        """
        request = requests.put_writes_request(config, writes, task_id, task_path, serde=self.serde)
        run(store_writes(request, self._context), self._backend)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Asynchronous twin of `put_writes`; values are serialised before the first await."""
        request = requests.put_writes_request(config, writes, task_id, task_path, serde=self.serde)
        await arun(store_writes(request, self._context), self._backend)

    def delete_thread(self, thread_id: str) -> None:
        """Delete every checkpoint, pending write and object of a thread. Idempotent; goes on where a call died.

        Raises:
            ConflictError: Others kept writing to the thread.
            StoreError: A service refused, or did not answer before the deadline.
        """
        run(threads.delete_thread(str(thread_id), self._context), self._backend)

    async def adelete_thread(self, thread_id: str) -> None:
        """Asynchronous twin of `delete_thread`."""
        await arun(threads.delete_thread(str(thread_id), self._context), self._backend)

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002 - LangGraph's signature
        """The version after `current`: a counter, and random digits so that forks never share a version.

        Versions sort as text. Integers, and versions that other savers made, can be continued.
        """
        count = 0 if current is None else int(str(current).split(".")[0])
        # From the operating system: a graph that seeds `random` would repeat its versions in every fork.
        return f"{count + 1:032}.{secrets.randbits(53):016}"

    # What every call needs

    @property
    def _context(self) -> Context:
        return self._contexts.current()

    @property
    def _loads(self) -> Loads:
        # Bound when called, for `with_allowlist` swaps the serialiser of a copy.
        return partial(loads, self.serde)


class _Contexts:
    """The flows' context, one per process: a lock that another thread held during a fork is never released."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._by_pid: dict[int, Context] = {}

    def current(self) -> Context:
        pid = os.getpid()
        found = self._by_pid.get(pid)
        if found is None:
            options = self._options
            # setdefault is atomic: two threads get the same one.
            found = self._by_pid.setdefault(
                pid,
                Context(
                    inline_max_bytes=options.inline_max_bytes,
                    codec=Codec(options.zstd_level, options.cipher),
                    incremental=options.incremental,
                    full_every=options.full_every,
                    values=ByteCache(options.cache_max_bytes),
                    clear_metadata=None if options.cipher is None else frozenset(options.clear_metadata),
                    timeout=options.timeout,
                    new_attempt=partial(secrets.token_hex, 8),
                ),
            )
        return found


def _print_missing(report: SetupReport) -> SetupReport:
    for line in report.missing:
        print(line, file=sys.stderr)  # noqa: T201 - setup() is run by a person, who must see it
    return report
