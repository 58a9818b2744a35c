"""`GCSSaver`: LangGraph's checkpointer, one class for synchronous and asynchronous use.

Every method is one line deep: it makes a request of its arguments and performs a flow.

`python -m tests.twins` writes each asynchronous twin below its method.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.engine.effects import Flow
from langgraph_gcs_saver.engine.protocols import BlobStore, DocumentStore
from langgraph_gcs_saver.engine.runner import arun, run
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.events import ThreadSkipped
from langgraph_gcs_saver.flows import load, save, threads
from langgraph_gcs_saver.flows.writes import put_writes as store_writes
from langgraph_gcs_saver.saver import arguments, configs
from langgraph_gcs_saver.saver.admin import Admin
from langgraph_gcs_saver.saver.background import Background, Kind
from langgraph_gcs_saver.saver.calls import Call
from langgraph_gcs_saver.saver.connection import Connection, beside

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud import firestore as firestore_v1
    from google.cloud.storage import Bucket
    from langgraph.checkpoint.base import DeltaChannelHistory

    from langgraph_gcs_saver.policy.retention import Retention

RETENTION_STEPS = 16
"""Steps of a graph after which a thread is pruned: a rule may be exceeded by so many checkpoints for a while.

Pruning reads all manifests of a thread, and deletes in batches; after every step it would cost more than the step.
"""

RETENTION = Kind("retention", most=10_000)
"""Pruning, one job for each thread that waits for it."""


class GCSSaver(Connection, BaseCheckpointSaver[str]):
    """Keeps the state of LangGraph agents in Firestore and Cloud Storage.

    Pass it as `checkpointer=` to a compiled graph; `invoke` and `ainvoke` both work. It can be made outside of any
    event loop, used from many threads and event loops at once, and used after a fork. It is a context manager, for
    `with` and for `async with`, that closes it at the end.

    `put`, `put_writes` and their asynchronous twins return when what they stored is durable and, with
    `verify="readback"`, was read back. All that is read is checked against the digests that were written: a reader gets
    the exact value or an error, or, asking for the latest checkpoint when that is damaged, an older exact one that says
    so.

    Args:
        bucket: The bucket, or its name.
        firestore: A client for the database, which `close` leaves open; made of `project`, `database` and
            `credentials` if not given.
        prefix: What names of objects begin with, so that several applications can share a bucket.
        root: Path of the document below which the collections lie, so that several applications can share a database;
            empty for the top of the database. If not given, it is made of the prefix (`lg_apps/PREFIX`): two prefixes
            are two stores.
        project: The project; the environment's if not given.
        database: The Firestore database (Native mode, Standard edition).
        credentials: Credentials for both services; the environment's if not given.
        serde: The serialiser; LangGraph's `JsonPlusSerializer` if not given.
        stores: A pair of stores instead of Google's; `from_conn_string("file:///…")` passes the embedded ones.
        options: See `langgraph_gcs_saver.options.Options`: `incremental`, `full_every`, `zstd_level`,
            `cache_max_bytes`, `inline_max_bytes`, `cipher`, `accept_clear`, `clear_metadata`, `verify`,
            `on_corruption`, `max_value_bytes`, `retention`, `ttl`, `timeout`, `max_threads`, `on_event`,
            `interceptors`.

    Raises:
        InvalidURIError: The bucket, prefix or root is not a legal name. A connection string goes to `from_conn_string`.
        InvalidOptionError: An option is unknown or out of its range, a client is for another project or database, or
            nothing names a project.
        PermissionDeniedError: There are no credentials.
    """

    def __init__(
        self,
        bucket: Bucket | str | None = None,
        *,
        firestore: firestore_v1.Client | None = None,
        prefix: str = "",
        root: str | None = None,
        project: str | None = None,
        database: str = "(default)",
        credentials: Credentials | None = None,
        serde: SerializerProtocol | None = None,
        stores: tuple[DocumentStore, BlobStore] | None = None,
        **options: Any,
    ) -> None:
        BaseCheckpointSaver.__init__(self, serde=serde)
        Connection.__init__(
            self,
            bucket,
            firestore=firestore,
            prefix=prefix,
            root=root,
            project=project,
            database=database,
            credentials=credentials,
            serde=self.serde,
            stores=stores,
            **options,
        )
        self._background = Background()
        self._call = partial(Call, self._subscribers)

    def close(self) -> None:
        """Release connections and threads. Idempotent; later calls of other methods raise `SaverClosedError`.

        Waits until what `retention` has begun is done.
        """
        self._background.close()
        super().close()

    async def aclose(self) -> None:
        """Release connections and threads, those of the running event loop included. Idempotent.

        Waits until what `retention` has begun is done.
        """
        await asyncio.to_thread(self._background.close)
        await super().aclose()

    @property
    def admin(self) -> Admin:
        """What people and schedulers do with the store: verify, repair, prune, collect, copy, move, list threads.

        It shares the saver's store, options and serializer, and is closed with the saver.
        """
        return beside(self, Admin)

    # Reading

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the latest of its thread and namespace; `None` if there is none.

        In place of a latest one that is damaged comes the newest whole one, with the damaged one's id in
        `metadata["recovered_from"]`, a warning in the log and a `CheckpointRecovered` event, unless the saver was made
        with `on_corruption="raise"`.

        Raises:
            CheckpointCorruptError: The checkpoint is damaged, and was asked for by its id; or there is no whole one.
            ClearTextError: It is in clear, and the saver has a `cipher`. Nothing falls back.
            DamageError: All checkpoints of the thread's root namespace are gone, and no deletion took them.
            InvalidConfigError: The config names no thread.
            StoreError: A service refused, or did not answer before the deadline.
        """
        with self._call("get_tuple", config) as call:
            loaded = run(self._get(config), self._backend)
        call.get_tuple(loaded)
        return None if loaded is None else arguments.to_tuple(loaded, configs.configurable(config)["thread_id"])

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Asynchronous twin of `get_tuple`."""
        with self._call("get_tuple", config) as call:
            loaded = await arun(self._get(config), self._backend)
        call.get_tuple(loaded)
        return None if loaded is None else arguments.to_tuple(loaded, configs.configurable(config)["thread_id"])

    def _get(self, config: RunnableConfig) -> Flow[load.Loaded | None]:
        thread_id, ns = configs.thread_and_ns(config)
        return load.get_tuple(thread_id, ns, configs.checkpoint_id_of(config), self._loads, self._context)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first; damaged ones are stepped over, with a warning and an event.

        In a list of all threads so are those of a newer version, and those in clear while the saver has a `cipher`.

        Args:
            config: The thread; with a `checkpoint_ns` one namespace, else all of them; with a `checkpoint_id` that
                checkpoint. `None` lists all threads, thread by thread, each newest first.
            filter: Metadata that must be equal.
            before: Only checkpoints whose id sorts before this config's.
            limit: Most checkpoints to return, after filtering; 0 means none.

        Raises:
            ClearTextError: One of the thread's is in clear, and the saver has a `cipher`.
            InvalidConfigError: A config without a thread.
            StoreError: A service refused, or did not answer before the deadline.
        """
        with self._call("list", config):
            search = arguments.search(config, wanted=filter, before=before, limit=limit)
            thread_id = None if config is None else configs.configurable(config)["thread_id"]
        after: str | None = None
        while limit is None or limit > 0:
            with self._call("list", config) as call:
                page, after = run(load.list_page(search, after, limit, self._loads, self._context), self._backend)
            call.list(page)
            for loaded in page:
                yield arguments.to_tuple(loaded, thread_id)
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
        """Asynchronous twin of `list`: an asynchronous iterator, for `async for`, not to be awaited."""
        with self._call("list", config):
            search = arguments.search(config, wanted=filter, before=before, limit=limit)
            thread_id = None if config is None else configs.configurable(config)["thread_id"]
        after: str | None = None
        while limit is None or limit > 0:
            with self._call("list", config) as call:
                page, after = await arun(
                    load.list_page(search, after, limit, self._loads, self._context), self._backend
                )
            call.list(page)
            for loaded in page:
                yield arguments.to_tuple(loaded, thread_id)
            limit = None if limit is None else limit - len(page)
            if after is None:
                return

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the values of DeltaChannels at a checkpoint are made of, in one walk for all channels.

        Args:
            config: The checkpoint, or its thread and namespace for the latest.
            channels: Names of channels.

        Returns:
            For each channel its `writes` along the line of ancestors, oldest first, back to the nearest ancestor with a
            stored value, which is the `seed`; none if there is no such ancestor.

        Raises:
            CheckpointCorruptError: Something of that is damaged or gone; without it values would silently be others.
        """
        with self._call("get_delta_channel_history", config) as call:
            found = run(self._history(config, channels), self._backend)
        call.history(found)
        return cast("Mapping[str, DeltaChannelHistory]", found)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Asynchronous twin of `get_delta_channel_history`."""
        with self._call("get_delta_channel_history", config) as call:
            found = await arun(self._history(config, channels), self._backend)
        call.history(found)
        return cast("Mapping[str, DeltaChannelHistory]", found)

    def _history(self, config: RunnableConfig, channels: Sequence[str]) -> Flow[dict[str, dict[str, Any]]]:
        thread_id, ns = configs.thread_and_ns(config)
        request = flows.lineage.History(thread_id, ns, configs.checkpoint_id_of(config), tuple(channels))
        return flows.lineage.delta_history(request, self._loads, self._context)

    # Writing

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint; it is durable when this returns, and repeating the call changes nothing.

        `aput` serializes the values before its first await.

        Args:
            config: Its thread and namespace; its `checkpoint_id` is the parent.
            checkpoint: The checkpoint.
            metadata: Its metadata; the config's is merged in, and never overrides it.
            new_versions: Channels that changed since the parent; the others are taken from there.

        Returns:
            The config that names the stored checkpoint.

        Raises:
            CheckpointVerificationError: The service gives back something else than was written; nothing is visible.
            ConflictError: Others kept changing the same documents; call again. Or the parent is gone, and with it the
                only values of some channels, or what DeltaChannels are made of.
            InvalidConfigError: The config names no thread.
            InvalidIdError: An id cannot be stored.
            SerializationError: A value cannot be serialised.
            StoreError: A service refused, or did not answer before the deadline.
        """
        with self._call("put", config, checkpoint) as call:
            request = self._put_request(config, checkpoint, metadata, new_versions)
            stored = run(save.put(request, self._context), self._backend)
        call.put(request, stored)
        self._retain(request, metadata)
        return configs.config_of(config["configurable"]["thread_id"], request.ns, request.checkpoint_id)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Asynchronous twin of `put`."""
        with self._call("put", config, checkpoint) as call:
            request = self._put_request(config, checkpoint, metadata, new_versions)
            stored = await arun(save.put(request, self._context), self._backend)
        call.put(request, stored)
        self._retain(request, metadata)
        return configs.config_of(config["configurable"]["thread_id"], request.ns, request.checkpoint_id)

    def _put_request(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> save.Put:
        return arguments.put_request(
            config, checkpoint, metadata, new_versions, serde=self.serde, context=self._context, now=time.time()
        )

    def _retain(self, request: save.Put, metadata: CheckpointMetadata) -> None:
        """Have the thread pruned in the background, if there is a rule and it is due."""
        rule, step = self._options.retention, metadata.get("step")
        if rule is None or (isinstance(step, int) and not self._is_due(request, step)):
            return
        prune = partial(self._prune_in_background, request.thread_id, rule)
        if not self._background.submit(RETENTION, request.thread_id, prune):
            reason = f"It was not pruned: the saver was being closed, or {RETENTION.most:,} other threads were waiting."
            self._subscribers.emit(ThreadSkipped(thread_id=request.thread_id, reason=reason))

    def _is_due(self, request: save.Put, step: int) -> bool:
        # Of the step, not of a count of calls: a process may live for a few steps only. Not of the step alone: with
        # `durability="exit"` a run stores its last one, which may never be a multiple.
        key = (request.thread_id, request.ns)
        before = self._context.steps.get(key)
        self._context.steps.put(key, step, 100 + len(request.thread_id) + len(request.ns))
        # Each call of a subgraph begins at 0, and there is nothing to prune at a thread's 0.
        return step > 0 and (step - 1 if before is None else before) // RETENTION_STEPS < step // RETENTION_STEPS

    def _prune_in_background(self, thread_id: str, rule: Retention) -> None:
        try:
            pruning = flows.prune.prune_by(rule, thread_id, loads=self._loads, context=self._context)
            run(pruning, self._backend)
        except Exception as error:  # noqa: BLE001 - nobody waits for it, and the next time may do; the event tells
            reason = f"It was not pruned: {type(error).__name__}: {error}"
            self._subscribers.emit(ThreadSkipped(thread_id=thread_id, reason=reason))

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote, for the checkpoint that it started from; durable when this returns.

        `aput_writes` serializes the values before its first await.

        All writes of a call become visible together. The first regular write for a task and a number wins; of special
        channels (errors, interrupts, resumes) the last. What lies in the place of regular writes and is damaged, or in
        clear where the saver has a cipher, is replaced, and reported as a `CheckpointDamaged` event.

        Args:
            config: Thread, namespace and checkpoint, which need not be stored yet.
            writes: Pairs of a channel and a value.
            task_id: The task.
            task_path: The task's path, which orders the writes of parallel tasks.

        Raises:
            CheckpointVerificationError: The service gives back something else than was written; nothing is visible.
            InvalidConfigError: The config names no checkpoint.
            SerializationError: A value cannot be serialised.
            StoreError: A service refused, or did not answer before the deadline.
            UnsupportedFormatError: A newer version has stored writes of this task.
            WrongKeyError: Writes of this task were encrypted with another key.
        """
        with self._call("put_writes", config) as call:
            request = arguments.put_writes_request(config, writes, task_id, task_path, serde=self.serde)
            stored = run(store_writes(request, self._context), self._backend)
        call.put_writes(request, stored)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Asynchronous twin of `put_writes`."""
        with self._call("put_writes", config) as call:
            request = arguments.put_writes_request(config, writes, task_id, task_path, serde=self.serde)
            stored = await arun(store_writes(request, self._context), self._backend)
        call.put_writes(request, stored)

    # Deleting and copying, as LangGraph calls them; `admin` also has plans, and returns what was done

    def delete_thread(self, thread_id: str) -> None:
        """Delete every checkpoint, pending write and object of a thread.

        Idempotent: call it again after a crash, and it continues.

        Raises:
            ConflictError: Others kept writing to the thread.
            StoreError: A service refused, or did not answer before the deadline.
        """
        run(threads.delete_thread(str(thread_id), self._context), self._backend)

    async def adelete_thread(self, thread_id: str) -> None:
        """Asynchronous twin of `delete_thread`."""
        await arun(threads.delete_thread(str(thread_id), self._context), self._backend)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete every checkpoint that runs wrote, in every thread, with its pending writes.

        It promises and raises what `admin.delete_for_runs` does.
        """
        self.admin.delete_for_runs(run_ids)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Asynchronous twin of `delete_for_runs`."""
        await self.admin.adelete_for_runs(run_ids)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and pending writes of a thread, as they are now, to a thread that is empty.

        It promises and raises what `admin.copy_thread` does.
        """
        self.admin.copy_thread(source_thread_id, target_thread_id)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Asynchronous twin of `copy_thread`."""
        await self.admin.acopy_thread(source_thread_id, target_thread_id)

    def prune(self, thread_ids: Sequence[str], *, strategy: str | Retention = "keep_latest") -> None:
        """Remove checkpoints of threads, with the pending writes, objects and frames that only they need.

        It promises and raises what `admin.prune` does.

        Args:
            thread_ids: The threads.
            strategy: `"keep_latest"`; a rule such as `KeepLast(10)`; or `"delete"`, which deletes the threads.
        """
        if strategy == "delete":
            for thread_id in thread_ids:
                self.delete_thread(thread_id)
        else:
            self.admin.prune(thread_ids, strategy=strategy)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str | Retention = "keep_latest") -> None:
        """Asynchronous twin of `prune`."""
        if strategy == "delete":
            for thread_id in thread_ids:
                await self.adelete_thread(thread_id)
        else:
            await self.admin.aprune(thread_ids, strategy=strategy)

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002 - LangGraph's signature
        """The version after `current`: a counter, and random digits so that forks never share a version.

        Versions sort as text. Integers, and versions that other savers made, can be continued.

        Raises:
            InvalidInputError: The version is of another form.
        """
        try:
            count = 0 if current is None else int(str(current).split(".")[0])
        except ValueError:
            raise InvalidInputError(f"{str(current)[:80]!r} is no version that can be continued.") from None
        # From the operating system: a graph that seeds `random` would repeat its versions in every fork.
        return f"{count + 1:032}.{secrets.randbits(40):013}"
