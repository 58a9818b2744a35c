"""`GCSSaver`: LangGraph's checkpointer, one class for synchronous and asynchronous use.

Every method is one line deep: it makes a request of its arguments and performs a flow.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
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

from langgraph_gcs_saver import flows, requests
from langgraph_gcs_saver.cache import ByteCache
from langgraph_gcs_saver.effects import Flow
from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.events import ThreadSkipped
from langgraph_gcs_saver.flows import checkpoints, threads, tuples
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.writes import put_writes as store_writes
from langgraph_gcs_saver.frames import Codec
from langgraph_gcs_saver.options import GoogleAddress, LocalAddress, Options, parse
from langgraph_gcs_saver.runners import Backend, Between, arun, run
from langgraph_gcs_saver.serialization import dumps, loads
from langgraph_gcs_saver.stores import BlobStore, DocumentStore
from langgraph_gcs_saver.upkeep import Upkeep

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud import firestore as firestore_v1
    from google.cloud.storage import Bucket
    from langgraph.checkpoint.base import DeltaChannelHistory
    from typing_extensions import Self

    from langgraph_gcs_saver.findings import Depth, Finding
    from langgraph_gcs_saver.flows.catalogue import CheckpointInfo, StoreStats, ThreadInfo
    from langgraph_gcs_saver.flows.collect import CollectPlan
    from langgraph_gcs_saver.flows.copy import CopyPlan
    from langgraph_gcs_saver.flows.migrate import Migration
    from langgraph_gcs_saver.flows.setup import SetupReport
    from langgraph_gcs_saver.flows.sweep import IdleThread
    from langgraph_gcs_saver.flows.transfer import ArchiveWriter, Transfer
    from langgraph_gcs_saver.foreign import Foreign
    from langgraph_gcs_saver.repairs import RepairPlan
    from langgraph_gcs_saver.retention import PrunePlan, Retention

ORPHAN_AGE = timedelta(hours=24)
"""How old an object that nothing refers to must be to be collected, if the caller does not say."""

RETENTION_STEPS = 16
"""Steps of a graph after which a thread is pruned: a rule may be exceeded by so many checkpoints for a while.

Pruning reads all manifests of a thread, and deletes in batches; after every step it would cost more than the step.
"""


class GCSSaver(BaseCheckpointSaver[str]):
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
            `cache_max_bytes`, `inline_max_bytes`, `cipher`, `clear_metadata`, `verify`, `on_corruption`,
            `max_value_bytes`, `retention`, `ttl`, `timeout`, `max_threads`, `on_event`.

    Raises:
        InvalidURIError: The bucket, prefix or root is not a legal name.
        InvalidOptionError: An option is unknown or out of its range, or a client is for another project or database.
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
        super().__init__(serde=serde)
        chosen = Options.of(options)
        where = ""
        if stores is None:
            if bucket is None:
                raise InvalidOptionError("GCSSaver needs a bucket, or use GCSSaver.from_conn_string(…).")
            from langgraph_gcs_saver.stores.google import bucket_name, open_google  # noqa: PLC0415 - not for all stores

            where = bucket_name(bucket)
            address = GoogleAddress(bucket=where, prefix=prefix, project=project, database=database, root=root)
            stores = open_google(address, chosen, bucket=bucket, firestore_client=firestore, credentials=credentials)
        self._backend = Backend(*stores, on_event=chosen.on_event, max_threads=chosen.max_threads)
        self._contexts = _Contexts(chosen, where)
        self._retention = chosen.retention
        self._ttl = chosen.ttl
        self._upkeep = Upkeep()

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
        """Release connections and threads. Idempotent; later calls of other methods raise `SaverClosedError`.

        Waits until what `retention` has begun is done.
        """
        self._upkeep.close()
        self._backend.close()

    async def aclose(self) -> None:
        """Release connections and threads, those of the running event loop included. Idempotent.

        Waits until what `retention` has begun is done.
        """
        await asyncio.to_thread(self._upkeep.close)
        await self._backend.aclose()

    def setup(
        self,
        *,
        location: str | None = None,
        platform: bool = False,
        write_settings: str | os.PathLike[str] | None = None,
    ) -> SetupReport:
        """Create the bucket if it is missing, and check that documents and objects can be written.

        Idempotent and optional. Prints to stderr what these credentials may not do, and which settings of others
        endanger what is stored: lifecycle rules that delete objects by their age, though later steps build on them.

        Args:
            location: Where to create the bucket, such as `europe-west1`; if not given, Cloud Storage's default,
                the multi-region `US`. It gets uniform bucket-level access, and public access is prevented.
            platform: Also set what the platform can do by itself, and leave what others have set: lifecycle rules move
                objects to Nearline storage after 30 days and abort incomplete multipart uploads after 7, and fields
                that no query filters by leave Firestore's indexes. What these credentials may not set is in the
                report's `missing`. `docs/SETUP.md` names the roles.
            write_settings: A directory to write the same settings to, as files for someone else to apply. Without any
                rights, `langgraph_gcs_saver.write_settings` does it.

        Raises:
            PermissionDeniedError: Documents or objects cannot be written.
            StoreNotFoundError: The database does not exist.
            OSError: A file cannot be written.
        """
        return _told(run(flows.setup.setup(location, self._context, platform=platform), self._backend), write_settings)

    async def asetup(
        self,
        *,
        location: str | None = None,
        platform: bool = False,
        write_settings: str | os.PathLike[str] | None = None,
    ) -> SetupReport:
        """Asynchronous twin of `setup`."""
        report = await arun(flows.setup.setup(location, self._context, platform=platform), self._backend)
        return _told(report, write_settings)

    # Reading

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the latest of its thread and namespace; `None` if there is none.

        In place of a latest one that is damaged comes the newest whole one, with the damaged one's id in
        `metadata["recovered_from"]`, a warning in the log and a `CheckpointRecovered` event, unless the saver was made
        with `on_corruption="raise"`.

        Raises:
            CheckpointCorruptError: The checkpoint is damaged, and was asked for by its id; or there is no whole one.
            DamageError: All checkpoints of the thread's root namespace are gone, and no deletion took them.
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

    def checkpoint_ids(self, config: RunnableConfig) -> Sequence[str]:
        """The ids of all checkpoints of a thread's namespace, newest first; nothing else of them is read.

        Raises:
            InvalidConfigError: The config names no thread.
            StoreError: A service refused, or did not answer before the deadline.
        """
        return run(flows.ids.checkpoint_ids(*requests.thread_and_ns(config)), self._backend)

    async def acheckpoint_ids(self, config: RunnableConfig) -> Sequence[str]:
        """Asynchronous twin of `checkpoint_ids`."""
        return await arun(flows.ids.checkpoint_ids(*requests.thread_and_ns(config)), self._backend)

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
        return cast("Mapping[str, DeltaChannelHistory]", run(self._history(config, channels), self._backend))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Asynchronous twin of `get_delta_channel_history`."""
        return cast("Mapping[str, DeltaChannelHistory]", await arun(self._history(config, channels), self._backend))

    def _history(self, config: RunnableConfig, channels: Sequence[str]) -> Flow[dict[str, dict[str, Any]]]:
        thread_id, ns = requests.thread_and_ns(config)
        request = flows.lineage.History(thread_id, ns, requests.checkpoint_id_of(config), tuple(channels))
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
        request = self._put_request(config, checkpoint, metadata, new_versions)
        run(checkpoints.put(request, self._context), self._backend)
        self._retain(request, metadata)
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
        self._retain(request, metadata)
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

    def _retain(self, request: checkpoints.Put, metadata: CheckpointMetadata) -> None:
        """Have the thread pruned in the background, if there is a rule and it is due."""
        rule, step = self._retention, metadata.get("step")
        if rule is not None and (not isinstance(step, int) or self._is_due(request, step)):
            self._upkeep.submit(request.thread_id, partial(self._prune_in_background, request.thread_id, rule))

    def _is_due(self, request: checkpoints.Put, step: int) -> bool:
        # Of the step, not of a count of calls: a process may live for a few steps only. Not of the step alone: with
        # `durability="exit"` a run stores its last one, which may never be a multiple.
        key = (request.thread_id, request.ns)
        before = self._context.steps.get(key)
        self._context.steps.put(key, step, 100 + len(request.thread_id) + len(request.ns))
        # Each call of a subgraph begins at 0, and there is nothing to prune at a thread's 0.
        return step > 0 and (step - 1 if before is None else before) // RETENTION_STEPS < step // RETENTION_STEPS

    def _prune_in_background(self, thread_id: str, rule: Retention) -> None:
        try:
            run(self._prune(thread_id, rule, dry_run=False, show=print), self._backend)
        except Exception as error:  # noqa: BLE001 - nobody waits for it, and the next time may do; the event tells
            reason = f"It was not pruned: {type(error).__name__}: {error}"
            self._backend.emit(ThreadSkipped(thread_id=thread_id, reason=reason))

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
            CheckpointVerificationError: The service gives back something else than was written; nothing is visible.
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

    def delete_thread(
        self, thread_id: str, *, dry_run: bool = False, show: Callable[[threads.DeletePlan], object] = print
    ) -> None:
        """Delete every checkpoint, pending write and object of a thread. Idempotent; goes on where a call died.

        Args:
            thread_id: The thread.
            dry_run: Only show what would be deleted.
            show: Called with the plan of a dry run; `str` of it is its text.

        Raises:
            ConflictError: Others kept writing to the thread.
            StoreError: A service refused, or did not answer before the deadline.
        """
        run(self._delete_thread(thread_id, dry_run, show), self._backend)

    async def adelete_thread(
        self, thread_id: str, *, dry_run: bool = False, show: Callable[[threads.DeletePlan], object] = print
    ) -> None:
        """Asynchronous twin of `delete_thread`."""
        await arun(self._delete_thread(thread_id, dry_run, show), self._backend)

    def _delete_thread(self, thread_id: str, dry_run: bool, show: Callable[[threads.DeletePlan], object]) -> Flow[Any]:
        if dry_run:
            return threads.plan_deletion(str(thread_id), show)
        return threads.delete_thread(str(thread_id), self._context)

    def prune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: str | Retention = "keep_latest",
        dry_run: bool = False,
        show: Callable[[PrunePlan], object] = print,
    ) -> None:
        """Remove checkpoints of threads, with the pending writes, objects and frames that only they need.

        Never removed: the latest checkpoint of a namespace, one that waits for the answer to an interrupt, one that is
        pinned, what a kept checkpoint's DeltaChannels are made of, and what its subgraphs go on from; but the namespace
        of a subgraph's call goes with the checkpoint that made the call. Others may write meanwhile. Idempotent; goes
        on where a call died.

        Args:
            thread_ids: The threads.
            strategy: `"keep_latest"`; a rule of `langgraph_gcs_saver.retention`, such as `KeepLast(10)` or
                `KeepLast(3) | KeepEvery(timedelta(days=1))`; or `"delete"`, which deletes the threads.
            dry_run: Only show, for each thread, what would go and why the rest stays.
            show: Called with each plan of a dry run; `str` of one is its text.

        Raises:
            InvalidOptionError: There is no such strategy.
            CheckpointCorruptError: A checkpoint is damaged: nobody can tell what it needs. Repair it first.
            ConflictError: Others kept changing what was to go.
        """
        rule = _rule_of(strategy)
        for thread_id in thread_ids:
            run(self._prune(str(thread_id), rule, dry_run, show), self._backend)

    async def aprune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: str | Retention = "keep_latest",
        dry_run: bool = False,
        show: Callable[[PrunePlan], object] = print,
    ) -> None:
        """Asynchronous twin of `prune`."""
        rule = _rule_of(strategy)
        for thread_id in thread_ids:
            await arun(self._prune(str(thread_id), rule, dry_run, show), self._backend)

    def _prune(
        self, thread_id: str, rule: Retention | None, dry_run: bool, show: Callable[[PrunePlan], object]
    ) -> Flow[Any]:
        if rule is None and not dry_run:
            return threads.delete_thread(thread_id, self._context)
        from langgraph_gcs_saver import retention  # noqa: PLC0415 - few processes need it

        choose = partial(retention.decide, rule=rule, now=time.time())
        return flows.prune.prune(
            thread_id, choose, dry_run=dry_run, show=show, loads=self._loads, context=self._context
        )

    def delete_for_runs(
        self, run_ids: Sequence[str], *, dry_run: bool = False, show: Callable[[PrunePlan], object] = print
    ) -> None:
        """Delete every checkpoint that runs wrote, in every thread, with its pending writes.

        Call it when the runs have ended. Whatever needs the checkpoints, they go: a DeltaChannel that has lost its
        history raises from then on. Idempotent; goes on where a call died.

        Args:
            run_ids: The runs.
            dry_run: Only show, for each thread, what would go.
            show: Called with each plan of a dry run.

        Raises:
            CheckpointCorruptError: A checkpoint of one of the threads is damaged. Repair it first.
            ConflictError: Others kept changing what was to go.
        """
        for run_id in run_ids:
            run(self._delete_for_run(run_id, dry_run, show), self._backend)

    async def adelete_for_runs(
        self, run_ids: Sequence[str], *, dry_run: bool = False, show: Callable[[PrunePlan], object] = print
    ) -> None:
        """Asynchronous twin of `delete_for_runs`."""
        for run_id in run_ids:
            await arun(self._delete_for_run(run_id, dry_run, show), self._backend)

    def _delete_for_run(self, run_id: str, dry_run: bool, show: Callable[[PrunePlan], object]) -> Flow[None]:
        return flows.prune.delete_for_run(
            str(run_id), dry_run=dry_run, show=show, loads=self._loads, context=self._context
        )

    def copy_thread(
        self,
        source_thread_id: str,
        target_thread_id: str,
        *,
        dry_run: bool = False,
        show: Callable[[CopyPlan], object] = print,
    ) -> None:
        """Copy all checkpoints and pending writes of a thread, as they are now, to a thread that is empty.

        Objects are copied by Cloud Storage itself. Pins stay with the source. A call that died is taken up again by one
        with the same arguments.

        Args:
            source_thread_id: The thread to copy from.
            target_thread_id: The thread to copy to.
            dry_run: Only show what would be copied.
            show: Called with the plan of a dry run.

        Raises:
            InvalidInputError: The target is the source, or is not empty.
            CheckpointCorruptError: A checkpoint of the source is damaged. Repair it first.
            ConflictError: The target was written to or deleted all the time.
        """
        run(self._copy(source_thread_id, target_thread_id, dry_run, show), self._backend)

    async def acopy_thread(
        self,
        source_thread_id: str,
        target_thread_id: str,
        *,
        dry_run: bool = False,
        show: Callable[[CopyPlan], object] = print,
    ) -> None:
        """Asynchronous twin of `copy_thread`."""
        await arun(self._copy(source_thread_id, target_thread_id, dry_run, show), self._backend)

    def _copy(self, source: str, target: str, dry_run: bool, show: Callable[[CopyPlan], object]) -> Flow[CopyPlan]:
        return flows.copy.copy_thread(str(source), str(target), dry_run=dry_run, show=show, context=self._context)

    def transfer_thread(
        self,
        thread_id: str,
        target: GCSSaver,
        *,
        dry_run: bool = False,
        show: Callable[[Transfer], object] = print,
        step: Callable[[int], object] | None = None,
    ) -> Transfer:
        """Move everything of a thread, as it is now, to another store, where the thread is empty; the source stays.

        Documents and objects are carried over byte for byte, pins, pending writes and what repairs have set aside
        included, and need no key. Then all of it is read from the target and compared, and decoded if it can be: damage
        of the source is moved too, and found there. A call that died is taken up again by one with the same source.
        Nobody may write to the thread in the target before it is there; in the source they may.

        Args:
            thread_id: The thread.
            target: A saver of the store to move it to.
            dry_run: Only show what would be moved.
            show: Called with the plan of a dry run.
            step: Called with a number of documents and objects, whenever so many more were carried over, or compared.

        Returns:
            What was moved; without checkpoints, writes and objects, if there is no such thread.

        Raises:
            InvalidInputError: The target is not empty.
            CheckpointVerificationError: The target gives back something else than was carried over.
            ConflictError: The target was written to or deleted all the time, or the source is being deleted.
        """
        between = Between(self._backend, target._backend)
        return run(target._receive(thread_id, dry_run, show, step), between)

    async def atransfer_thread(
        self,
        thread_id: str,
        target: GCSSaver,
        *,
        dry_run: bool = False,
        show: Callable[[Transfer], object] = print,
        step: Callable[[int], object] | None = None,
    ) -> Transfer:
        """Asynchronous twin of `transfer_thread`."""
        between = Between(self._backend, target._backend)
        return await arun(target._receive(thread_id, dry_run, show, step), between)

    def _receive(
        self,
        thread_id: str,
        dry_run: bool,
        show: Callable[[Transfer], object],
        step: Callable[[int], object] | None,
    ) -> Flow[Transfer]:
        return flows.transfer.transfer(
            str(thread_id), dry_run=dry_run, show=show, step=step, loads=self._loads, context=self._context
        )

    def migrate(
        self,
        source: BaseCheckpointSaver[Any],
        thread_ids: Sequence[Any] | None = None,
        *,
        dry_run: bool = False,
        show: Callable[[Migration], object] = print,
        step: Callable[[int], object] | None = None,
    ) -> Sequence[Migration]:
        """Take threads over from another checkpointer, with all their checkpoints, and compare; that one stays.

        Every namespace, forks, metadata and pending writes come along, oldest first, as far as the other checkpointer
        gives them; between two that use LangGraph's serialiser, values come as they were serialised. Afterwards all of
        it is read from both and compared. Repeating the call changes nothing: it goes on where one died, and brings
        what the source has got since. Nobody may write to the threads here before they are there, and `retention` is
        not applied before somebody does.

        Args:
            source: The checkpointer, of which `list` and `get_tuple` are called.
            thread_ids: The threads; all that the source lists, if not given.
            dry_run: Only show what would be taken over.
            show: Called with the plan of each thread of a dry run.
            step: Called with a number of checkpoints, whenever so many more were put, or compared.

        Returns:
            For each thread what was taken over; without checkpoints, if the source has no such thread.

        Raises:
            InvalidInputError: A thread is here already, and is another one, or has gone on here as well as there.
            CheckpointVerificationError: What is read here is not what the source gives.
            SerializationError: A value cannot be serialised.
            SourceError: The source failed.
        """
        from langgraph_gcs_saver.foreign import Foreign  # noqa: PLC0415 - few processes need it

        foreign = Foreign(source, self.serde)
        wanted = self._backend.perform(foreign.thread_ids()) if thread_ids is None else thread_ids
        return [run(self._migrate(foreign, one, dry_run, show, step), self._backend) for one in wanted]

    async def amigrate(
        self,
        source: BaseCheckpointSaver[Any],
        thread_ids: Sequence[Any] | None = None,
        *,
        dry_run: bool = False,
        show: Callable[[Migration], object] = print,
        step: Callable[[int], object] | None = None,
    ) -> Sequence[Migration]:
        """Asynchronous twin of `migrate`; of the source `alist` and `aget_tuple` are called."""
        from langgraph_gcs_saver.foreign import Foreign  # noqa: PLC0415 - few processes need it

        foreign = Foreign(source, self.serde)
        wanted = await self._backend.aperform(foreign.thread_ids()) if thread_ids is None else thread_ids
        return [await arun(self._migrate(foreign, one, dry_run, show, step), self._backend) for one in wanted]

    def _migrate(
        self,
        foreign: Foreign,
        thread_id: Any,
        dry_run: bool,
        show: Callable[[Migration], object],
        step: Callable[[int], object] | None,
    ) -> Flow[Migration]:
        source = foreign.thread(thread_id, self._context)
        return flows.migrate.migrate(
            str(thread_id), source, dry_run=dry_run, show=show, step=step, context=self._context
        )

    def export_thread(
        self, thread_id: str, path: str | os.PathLike[str], *, step: Callable[[int], object] | None = None
    ) -> Transfer:
        """Write everything of a thread, as it is now, to one file, a tar archive; `import_thread` takes it in again.

        The file appears under its name when all of it was read again and compared. One that is there is replaced.

        Args:
            thread_id: The thread.
            path: The file.
            step: As in `transfer_thread`.

        Returns:
            What was written; without checkpoints, writes and objects, if there is no such thread, and then no file.

        Raises:
            ConflictError: The thread was replaced or pruned all the time, or is being deleted.
            StoreError: The file cannot be written.
        """
        with _new_archive(path) as archive:
            return run(flows.transfer.export(str(thread_id), archive, step), Between(self._backend, self._backend))

    async def aexport_thread(
        self, thread_id: str, path: str | os.PathLike[str], *, step: Callable[[int], object] | None = None
    ) -> Transfer:
        """Asynchronous twin of `export_thread`."""
        with _new_archive(path) as archive:
            return await arun(
                flows.transfer.export(str(thread_id), archive, step), Between(self._backend, self._backend)
            )

    def import_thread(
        self,
        path: str | os.PathLike[str],
        *,
        dry_run: bool = False,
        show: Callable[[Transfer], object] = print,
        step: Callable[[int], object] | None = None,
    ) -> Transfer:
        """Take in a thread that `export_thread` has written, under its own id, which must be empty here.

        The file is checked from end to end before anything is written. What it holds is as trustworthy as who made it:
        a state is deserialised when it is read.

        Args:
            path: The file.
            dry_run: Only check the file, and show what would be taken in.
            show: Called with the plan of a dry run.
            step: As in `transfer_thread`.

        Returns:
            What was taken in.

        Raises:
            InvalidInputError: The file is no archive of a thread; or the thread is not empty here.
            DamageError: The file is not what was written.
            CheckpointVerificationError: The store gives back something else than was carried over.
        """
        with _archive(path, self._context) as (thread_id, archive):
            return run(self._receive(thread_id, dry_run, show, step), Between(archive, self._backend))

    async def aimport_thread(
        self,
        path: str | os.PathLike[str],
        *,
        dry_run: bool = False,
        show: Callable[[Transfer], object] = print,
        step: Callable[[int], object] | None = None,
    ) -> Transfer:
        """Asynchronous twin of `import_thread`."""
        opening = _archive(path, self._context)
        thread_id, archive = await asyncio.to_thread(opening.__enter__)  # It reads the whole file.
        try:
            return await arun(self._receive(thread_id, dry_run, show, step), Between(archive, self._backend))
        finally:
            await asyncio.to_thread(opening.__exit__, None, None, None)

    def pin(self, config: RunnableConfig, label: str) -> None:
        """Keep a checkpoint from being pruned; a second pin replaces the first one's label.

        Args:
            config: The checkpoint.
            label: What it is kept for, at most 500 characters.

        Raises:
            ConflictError: Others kept changing its document.
            InvalidConfigError: The config names no checkpoint, or one that is not there.
            InvalidInputError: The label is no text, or too long.
        """
        request = requests.pin_request(config, label)
        requests.check_found(request, run(flows.prune.pin(*request, context=self._context), self._backend))

    async def apin(self, config: RunnableConfig, label: str) -> None:
        """Asynchronous twin of `pin`."""
        request = requests.pin_request(config, label)
        requests.check_found(request, await arun(flows.prune.pin(*request, context=self._context), self._backend))

    def unpin(self, config: RunnableConfig) -> None:
        """Take a checkpoint's pin off, if it has one.

        Raises:
            InvalidConfigError: The config names no checkpoint, or one that is not there.
        """
        request = requests.unpin_request(config)
        requests.check_found(request, run(flows.prune.pin(*request, context=self._context), self._backend))

    async def aunpin(self, config: RunnableConfig) -> None:
        """Asynchronous twin of `unpin`."""
        request = requests.unpin_request(config)
        requests.check_found(request, await arun(flows.prune.pin(*request, context=self._context), self._backend))

    def pins(self, config: RunnableConfig) -> Mapping[str, str]:
        """The labels of the pinned checkpoints of a thread's namespace, by checkpoint id, newest first."""
        return run(flows.prune.pins(*requests.thread_and_ns(config)), self._backend)

    async def apins(self, config: RunnableConfig) -> Mapping[str, str]:
        """Asynchronous twin of `pins`."""
        return await arun(flows.prune.pins(*requests.thread_and_ns(config)), self._backend)

    def collect(
        self,
        thread_id: str | None = None,
        *,
        orphan_age: timedelta = ORPHAN_AGE,
        dry_run: bool = False,
        show: Callable[[CollectPlan], object] = print,
    ) -> Sequence[CollectPlan]:
        """Delete what nothing refers to any more: what calls that died have left, and objects that lost a race.

        For a scheduler, once a day. Others may write, prune, copy and read meanwhile. A thread with a damaged
        checkpoint is left alone, with a `ThreadSkipped` event: repair it first.

        Args:
            thread_id: The thread; all threads of the store if not given.
            orphan_age: How old an object or pending write must be. A call that is still at work commits within an hour,
                so with less than a few hours nobody else may be writing.
            dry_run: Only show, for each thread, what would go.
            show: Called with each plan of a dry run; `str` of one is its text.

        Returns:
            A plan for each thread that had something to collect, or was left alone.

        Raises:
            InvalidOptionError: The age is negative.
            StoreError: A service refused, or did not answer before the deadline.
        """
        flows = (self._collect(one, orphan_age, dry_run, show) for one in self._threads(thread_id))
        return [plan for flow in flows if (plan := run(flow, self._backend))]

    async def acollect(
        self,
        thread_id: str | None = None,
        *,
        orphan_age: timedelta = ORPHAN_AGE,
        dry_run: bool = False,
        show: Callable[[CollectPlan], object] = print,
    ) -> Sequence[CollectPlan]:
        """Asynchronous twin of `collect`."""
        found = self._athreads(thread_id)
        plans = [await arun(self._collect(one, orphan_age, dry_run, show), self._backend) async for one in found]
        return [plan for plan in plans if plan]

    def _collect(
        self, thread_id: str, orphan_age: timedelta, dry_run: bool, show: Callable[[CollectPlan], object]
    ) -> Flow[CollectPlan]:
        if not isinstance(orphan_age, timedelta) or orphan_age < timedelta():
            raise InvalidOptionError(f"orphan_age is {orphan_age!r}; it must be a timedelta that is not negative.")
        return flows.collect.collect(
            thread_id, orphan_age.total_seconds(), dry_run=dry_run, show=show, context=self._context
        )

    def sweep(
        self,
        *,
        thread_ids: Collection[str] | None = None,
        dry_run: bool = False,
        show: Callable[[IdleThread], object] = print,
    ) -> Sequence[IdleThread]:
        """Delete the threads that have got no checkpoint for longer than the option `ttl`.

        For a scheduler, such as a Cloud Run job. A thread that somebody uses meanwhile, or that has a pinned
        checkpoint, stays. Idempotent; goes on where a call died.

        Args:
            thread_ids: Only these, as far as they are idle, such as those that a dry run has shown; all if not given.
            dry_run: Only show the threads.
            show: Called with each thread of a dry run.

        Returns:
            The threads that were idle.

        Raises:
            InvalidOptionError: The saver was made without `ttl`.
            StoreError: A service refused, or did not answer before the deadline.
        """
        found: list[IdleThread] = []
        after: str | None = None
        while True:
            page, after = run(self._sweep(after, thread_ids, dry_run, show), self._backend)
            found += page
            if after is None:
                return found

    async def asweep(
        self,
        *,
        thread_ids: Collection[str] | None = None,
        dry_run: bool = False,
        show: Callable[[IdleThread], object] = print,
    ) -> Sequence[IdleThread]:
        """Asynchronous twin of `sweep`."""
        found: list[IdleThread] = []
        after: str | None = None
        while True:
            page, after = await arun(self._sweep(after, thread_ids, dry_run, show), self._backend)
            found += page
            if after is None:
                return found

    def _sweep(
        self,
        after: str | None,
        among: Collection[str] | None,
        dry_run: bool,
        show: Callable[[IdleThread], object],
    ) -> Flow[tuple[Sequence[IdleThread], str | None]]:
        if self._ttl is None:
            raise InvalidOptionError("sweep() needs to know which threads are idle: make the saver with ttl=…")
        ttl = self._ttl.total_seconds()
        return flows.sweep.sweep_page(after, ttl, among=among, dry_run=dry_run, show=show, context=self._context)

    # What is stored

    def threads(self) -> Sequence[ThreadInfo]:
        """All threads, the most recently used first: last use, number of checkpoints, stored bytes. Reads no payload.

        Raises:
            WrongKeyError: Something is encrypted, with another key or while the saver has none.
            StoreError: A service refused, or did not answer before the deadline.
        """
        return run(flows.catalogue.list_threads(self._context), self._backend)

    async def athreads(self) -> Sequence[ThreadInfo]:
        """Asynchronous twin of `threads`."""
        return await arun(flows.catalogue.list_threads(self._context), self._backend)

    def history(self, thread_id: str) -> Sequence[CheckpointInfo]:
        """All checkpoints of a thread, newest first: what made each, what it stored, what is wrong. Reads no payload.

        Raises:
            WrongKeyError: Something is encrypted, with another key or while the saver has none.
            StoreError: A service refused, or did not answer before the deadline.
        """
        return run(flows.catalogue.list_checkpoints(str(thread_id), self._loads, self._context), self._backend)

    async def ahistory(self, thread_id: str) -> Sequence[CheckpointInfo]:
        """Asynchronous twin of `history`."""
        return await arun(flows.catalogue.list_checkpoints(str(thread_id), self._loads, self._context), self._backend)

    def stats(self) -> StoreStats:
        """What the store takes: by thread, by channel and kind of frame, and what incremental frames save.

        Raises:
            WrongKeyError: Something is encrypted, with another key or while the saver has none.
            StoreError: A service refused, or did not answer before the deadline.
        """
        return run(flows.catalogue.store_stats(self._context), self._backend)

    async def astats(self) -> StoreStats:
        """Asynchronous twin of `stats`."""
        return await arun(flows.catalogue.store_stats(self._context), self._backend)

    # Checking what is stored

    def verify(self, thread_id: str | None = None, *, depth: Depth = "metadata") -> Iterator[Finding]:
        """What is missing, damaged or not referred to; nothing, if all is well. Changes nothing.

        Writers may be at work meanwhile: what changes while it is looked at is left out. Only an object that a call has
        uploaded and not yet committed shows as unreferenced.

        Args:
            thread_id: The thread; all threads of the store if not given.
            depth: `"metadata"` reads all documents; `"existence"` also looks whether every object is there, with its
                size and checksum; `"data"` decodes every value of every checkpoint.

        Raises:
            WrongKeyError: Something is encrypted, with another key or while the saver has none.
            UnsupportedFormatError: A newer version wrote something.
            StoreError: A service refused, or did not answer before the deadline.
        """
        from langgraph_gcs_saver import findings  # noqa: PLC0415 - few processes need it

        looked = findings.check_depth(depth)
        for one in self._threads(thread_id):
            yield from run(flows.verify.verify(one, looked, self._loads, self._context), self._backend)

    async def averify(self, thread_id: str | None = None, *, depth: Depth = "metadata") -> AsyncIterator[Finding]:
        """Asynchronous twin of `verify`."""
        from langgraph_gcs_saver import findings  # noqa: PLC0415 - few processes need it

        looked = findings.check_depth(depth)
        async for one in self._athreads(thread_id):
            for finding in await arun(flows.verify.verify(one, looked, self._loads, self._context), self._backend):
                yield finding

    def repair(
        self,
        thread_id: str | None = None,
        *,
        dry_run: bool = False,
        show: Callable[[RepairPlan], object] = print,
    ) -> Sequence[RepairPlan]:
        """Make damaged threads readable again: plan, show the plan, do it.

        A value whose frame is damaged is looked for elsewhere in the thread, and proven by its digest: the same value
        at another checkpoint or in a pending write, a list or text that began with it, the value before and the writes
        that followed. A DeltaChannel's snapshot is left to LangGraph to rebuild, if all writes are there. A checkpoint
        that cannot be made whole, and pending writes that cannot be read, go to the thread's `lg_aside` collection:
        nothing lists them any more, and nothing of them is lost. Reading, and `verify`, tell of no damage afterwards,
        but of what only a backup can bring back.

        Args:
            thread_id: The thread; all threads of the store if not given.
            dry_run: Only plan and show.
            show: Called with each plan; `str` of one is its text.

        Returns:
            A plan for each damaged thread: what was found, and what was done.

        Raises:
            CheckpointVerificationError: What was written anew reads differently.
            ConflictError: Others kept writing what had to be changed; call again when they are done.
            WrongKeyError: Something is encrypted, with another key or while the saver has none.
            StoreError: A service refused, or did not answer before the deadline.
        """
        each = (self._repair(one, dry_run, show) for one in self._threads(thread_id))
        return [plan for flow in each if (plan := run(flow, self._backend)).findings]

    async def arepair(
        self,
        thread_id: str | None = None,
        *,
        dry_run: bool = False,
        show: Callable[[RepairPlan], object] = print,
    ) -> Sequence[RepairPlan]:
        """Asynchronous twin of `repair`."""
        plans = [await arun(self._repair(one, dry_run, show), self._backend) async for one in self._athreads(thread_id)]
        return [plan for plan in plans if plan.findings]

    def _repair(self, thread_id: str, dry_run: bool, show: Callable[[RepairPlan], object]) -> Flow[RepairPlan]:
        return flows.repair.repair(
            thread_id,
            dry_run=dry_run,
            show=show,
            loads=self._loads,
            dumps=partial(dumps, self.serde, what="A value that is looked for"),
            context=self._context,
        )

    def _threads(self, thread_id: str | None) -> Iterator[str]:
        """One thread, or all."""
        if thread_id is not None:
            yield str(thread_id)
            return
        cursor = flows.verify.START
        while (found := run(flows.verify.next_thread(cursor, self._context), self._backend)) is not None:
            one, cursor = found
            if one is not None:
                yield one

    async def _athreads(self, thread_id: str | None) -> AsyncIterator[str]:
        if thread_id is not None:
            yield str(thread_id)
            return
        cursor = flows.verify.START
        while (found := await arun(flows.verify.next_thread(cursor, self._context), self._backend)) is not None:
            one, cursor = found
            if one is not None:
                yield one

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002 - LangGraph's signature
        """The version after `current`: a counter, and random digits so that forks never share a version.

        Versions sort as text. Integers, and versions that other savers made, can be continued.
        """
        count = 0 if current is None else int(str(current).split(".")[0])
        # From the operating system: a graph that seeds `random` would repeat its versions in every fork.
        return f"{count + 1:032}.{secrets.randbits(40):013}"

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

    def __init__(self, options: Options, bucket: str) -> None:
        self._options = options
        self._bucket = bucket
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
                    codec=Codec(options.zstd_level, options.cipher, options.max_value_bytes),
                    incremental=options.incremental,
                    full_every=options.full_every,
                    values=ByteCache(options.cache_max_bytes),
                    clear_metadata=None if options.cipher is None else frozenset(options.clear_metadata),
                    verify=options.verify,
                    falls_back=options.on_corruption == "fallback",
                    timeout=options.timeout,
                    new_attempt=partial(secrets.token_hex, 6),
                    bucket=self._bucket,
                ),
            )
        return found


@contextmanager
def _new_archive(path: str | os.PathLike[str]) -> Iterator[ArchiveWriter]:
    from langgraph_gcs_saver.stores.archive import NewArchive  # noqa: PLC0415 - only if needed

    new = NewArchive(Path(path))
    try:
        yield flows.transfer.ArchiveWriter(
            begin=new.begin, add_blob=new.add_blob, add_doc=new.add_doc, finish=new.finish
        )
    finally:
        new.discard()


@contextmanager
def _archive(path: str | os.PathLike[str], context: Context) -> Iterator[tuple[str, Backend]]:
    """The thread in an archive, and a backend that reads it."""
    from langgraph_gcs_saver.stores.archive import Archive  # noqa: PLC0415 - only if needed

    archive = Archive(Path(path), max_object=max(1 << 30, context.codec.max_bytes) + (1 << 20))
    backend = Backend(archive, archive)
    try:
        yield archive.thread_id, backend
    finally:
        backend.close()


def _rule_of(strategy: str | Retention) -> Retention | None:
    """The rule of a strategy; `None` for deleting everything."""
    if strategy == "keep_latest":
        from langgraph_gcs_saver import retention  # noqa: PLC0415 - few processes need it

        return retention.KeepLast(1)
    if strategy == "delete":
        return None
    if isinstance(strategy, str | type) or not hasattr(strategy, "keeps"):
        raise InvalidOptionError(
            f'strategy is {strategy!r}; it must be "keep_latest", "delete", or a rule such as KeepLast(10).'
        )
    return strategy


def _told(report: SetupReport, directory: str | os.PathLike[str] | None) -> SetupReport:
    """The report, after its settings were written to the directory, if there is one."""
    for line in (*report.missing, *report.warnings):
        print(line, file=sys.stderr)  # noqa: T201 - setup() is run by a person, who must see it
    if directory is not None:
        from langgraph_gcs_saver import settings  # noqa: PLC0415 - few processes need it

        settings.write_files(directory, report.settings.items())
    return report
