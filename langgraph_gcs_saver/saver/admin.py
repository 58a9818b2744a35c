"""`Admin`: everything of a saver that people and schedulers call, without LangGraph.

Every method is one line deep: it makes a request of its arguments and performs a flow. LangGraph is not imported, so a
command that lists, moves or deletes threads starts in a fraction of the time that an agent needs.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.address import GoogleAddress, LocalAddress, parse
from langgraph_gcs_saver.engine.effects import Flow
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.protocols import BlobStore, DocumentStore
from langgraph_gcs_saver.engine.runner import Admit, Backend, Between, arun, run
from langgraph_gcs_saver.errors import InvalidInputError, InvalidOptionError
from langgraph_gcs_saver.events import EventHandler, Subscribers
from langgraph_gcs_saver.flows import places, threads
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.context import Binding, Context, Loads, Place
from langgraph_gcs_saver.flows.tries import Tries
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.serialization import dumps, loads
from langgraph_gcs_saver.options import Options
from langgraph_gcs_saver.saver import configs

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud import firestore as firestore_v1
    from google.cloud.storage import Bucket
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from typing_extensions import Self

    from langgraph_gcs_saver.flows.catalogue import ThreadFilter
    from langgraph_gcs_saver.flows.companions import Companion
    from langgraph_gcs_saver.flows.survey import Survey
    from langgraph_gcs_saver.flows.transfer import ArchiveWriter
    from langgraph_gcs_saver.policy.retention import Retention
    from langgraph_gcs_saver.results import (
        CheckpointInfo,
        CollectPlan,
        CopyPlan,
        DeletePlan,
        Depth,
        Finding,
        IdleThread,
        Migration,
        PrunePlan,
        RebindPlan,
        RepairPlan,
        SetupReport,
        StoreStats,
        ThreadInfo,
        Transfer,
    )
    from langgraph_gcs_saver.saver.foreign import Foreign

T = TypeVar("T")

ORPHAN_AGE = timedelta(hours=24)
"""How old an object that nothing refers to must be to be collected, if the caller does not say."""


class Admin:
    """What people and schedulers do with a store: look, check, repair, keep small, and move threads.

    `GCSSaver` is one, and more; its documentation tells what the arguments are.

    Attributes:
        serde: The serializer. Metadata are read with it, and values where a method reads or compares them. If not
            given, it is a `langgraph_gcs_saver.portable.PortableSerializer`, which imports nothing that a value names.
    """

    serde: SerializerProtocol

    _companions: tuple[Companion, ...] = ()
    """What rides in the commits of puts and pending writes. This package's own features set it; it is no option."""

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
        if serde is None:
            from langgraph_gcs_saver.portable import PortableSerializer  # noqa: PLC0415 - not for savers

            serde = PortableSerializer()
        self.serde = serde
        self._options = chosen = Options.of(options)
        self._subscribers = Subscribers()
        if chosen.on_event is not None:
            self._subscribers.subscribe(chosen.on_event)
        place: Place | None = None
        if stores is None:
            if bucket is None:
                raise InvalidOptionError("GCSSaver needs a bucket, or use GCSSaver.from_conn_string(…).")
            from langgraph_gcs_saver.stores.google import clients  # noqa: PLC0415 - not for all stores

            name = clients.bucket_name(bucket)
            address = GoogleAddress(bucket=name, prefix=prefix, project=project, database=database, root=root)
            place = Place(name, f"{prefix}/" if prefix else "")
            stores = clients.open_google(
                address,
                chosen,
                bucket=bucket,
                firestore_client=firestore,
                credentials=credentials,
                on_retry=self._subscribers.emit,
            )
        self._contexts = PerProcess(partial(_new_context, chosen, place, self._companions))
        self._backend = Backend(
            *stores,
            subscribers=self._subscribers,
            max_threads=chosen.max_threads,
            timeout=chosen.timeout,
            admit=_admit_to(self._contexts),
            interceptors=chosen.interceptors,
        )

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
            InvalidOptionError: An option is unknown or out of its range, or nothing names a project.
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

    def subscribe(self, handler: EventHandler) -> Callable[[], None]:
        """Call a handler with every event of this saver from now on (`langgraph_gcs_saver.events`).

        Any number of handlers can subscribe, at any time and from any thread, beside the option `on_event`. They are
        called one after another on the thread that works, in a coroutine on its event loop, so keep them short. A
        handler that raises is logged, and the call goes on. A process that forks takes its handlers along.

        Args:
            handler: Called with one event.

        Returns:
            A function that ends this subscription; call it as often as you like. A call that is reporting an event
            meanwhile may still report it.

        Raises:
            InvalidInputError: The handler is not callable.
        """
        if not callable(handler):
            raise InvalidInputError(f"handler is of type {type(handler).__name__}; it must be callable with one event.")
        return self._subscribers.subscribe(handler)

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
                report's `missing`. `docs/guides/platform-settings.md` names the roles.
            write_settings: A directory to write the same settings to, as files for someone else to apply. Without any
                rights, `langgraph_gcs_saver.write_settings` does it.

        Raises:
            PermissionDeniedError: Documents or objects cannot be written.
            StoreNotFoundError: The database does not exist.
            WrongStoreError: The documents belong to another bucket or prefix.
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

    def ping(self) -> None:
        """Raise if the store cannot be reached: one small read of the database and one of the bucket, at the same time.

        For a readiness check. Returns if both answer, whatever is stored. Liveness needs no store: a process that
        cannot reach it is not repaired by a restart.

        Raises:
            StoreNotFoundError: The database or the bucket does not exist.
            WrongStoreError: The documents belong to another bucket or prefix.
            PermissionDeniedError: These credentials may not read them.
            StoreUnavailableError: A service did not answer before the deadline, `timeout`.
        """
        run(flows.setup.ping(), self._backend)

    async def aping(self) -> None:
        """Asynchronous twin of `ping`."""
        await arun(flows.setup.ping(), self._backend)

    def rebind(
        self, *, force: bool = False, dry_run: bool = False, show: Callable[[RebindPlan], object] = print
    ) -> RebindPlan:
        """Bind the store to this saver's bucket and prefix, because its objects were moved or restored there.

        A store belongs to the bucket and prefix of its first writer, and all calls with another one raise
        `WrongStoreError`. Stop all writers first: a process that knows the old place goes on writing objects there
        until it ends. No object is copied or deleted.

        Args:
            force: Bind it although objects are missing there. What needs them is damaged from then on.
            dry_run: Only show what would be done.
            show: Called with the plan of a dry run; `str` of it is its text.

        Returns:
            What was done, and what was found at the new place. It is false if the store was bound to it already.

        Raises:
            InvalidInputError: Objects are missing there; or this is an embedded store, which has no bucket.
            ConflictError: Another process bound the store meanwhile.
            WrongKeyError: Something is encrypted, with another key or while the saver has none.
            StoreNotFoundError: There is no such bucket.
        """
        return run(self._rebind(force, dry_run, show), self._backend, unchecked=True)

    async def arebind(
        self, *, force: bool = False, dry_run: bool = False, show: Callable[[RebindPlan], object] = print
    ) -> RebindPlan:
        """Asynchronous twin of `rebind`."""
        return await arun(self._rebind(force, dry_run, show), self._backend, unchecked=True)

    def _rebind(self, force: bool, dry_run: bool, show: Callable[[RebindPlan], object]) -> Flow[RebindPlan]:
        return flows.rebind.rebind(force=force, dry_run=dry_run, show=show, loads=self._loads, context=self._context)

    # Reading

    def checkpoint_ids(self, config: RunnableConfig) -> Sequence[str]:
        """The ids of all checkpoints of a thread's namespace, newest first; nothing else of them is read.

        Args:
            config: The thread and the namespace.

        Raises:
            InvalidConfigError: The config names no thread.
            StoreError: A service refused, or did not answer before the deadline.
        """
        return run(flows.ids.checkpoint_ids(*configs.thread_and_ns(config)), self._backend)

    async def acheckpoint_ids(self, config: RunnableConfig) -> Sequence[str]:
        """Asynchronous twin of `checkpoint_ids`."""
        return await arun(flows.ids.checkpoint_ids(*configs.thread_and_ns(config)), self._backend)

    def checkpoint_at(self, config: RunnableConfig, time: datetime) -> str | None:
        """The id of the newest checkpoint of a thread's namespace that was made at a time or before, or `None`.

        Read are manifests, from the newest on. The time is the checkpoint's `ts`, by the clock of the process that ran
        the graph, which copies keep; of a damaged checkpoint, when it was stored.

        Args:
            config: The thread and the namespace.
            time: The time; local if it names no zone.

        Raises:
            InvalidConfigError: The config names no thread.
            InvalidInputError: The time is no datetime, or the system cannot tell when it is.
            WrongKeyError: Something is encrypted, with another key or while the saver has none.
            StoreError: A service refused, or did not answer before the deadline.
        """
        return run(self._checkpoint_at(config, time), self._backend)

    async def acheckpoint_at(self, config: RunnableConfig, time: datetime) -> str | None:
        """Asynchronous twin of `checkpoint_at`."""
        return await arun(self._checkpoint_at(config, time), self._backend)

    def _checkpoint_at(self, config: RunnableConfig, time: datetime) -> Flow[str | None]:
        thread_id, ns = configs.thread_and_ns(config)
        return flows.catalogue.find_checkpoint(thread_id, ns, configs.seconds_of("time", time), self._context)

    def delete_thread(
        self, thread_id: str, *, dry_run: bool = False, show: Callable[[DeletePlan], object] = print
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
        self, thread_id: str, *, dry_run: bool = False, show: Callable[[DeletePlan], object] = print
    ) -> None:
        """Asynchronous twin of `delete_thread`."""
        await arun(self._delete_thread(thread_id, dry_run, show), self._backend)

    def _delete_thread(self, thread_id: str, dry_run: bool, show: Callable[[DeletePlan], object]) -> Flow[Any]:
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
            strategy: `"keep_latest"`; a rule of `langgraph_gcs_saver.policy.retention`, such as `KeepLast(10)` or
                `KeepLast(3) | KeepEvery(timedelta(days=1))`; or `"delete"`, which deletes the threads.
            dry_run: Only show, for each thread, what would go and why the rest stays.
            show: Called with each plan of a dry run; `str` of one is its text.

        Raises:
            InvalidOptionError: There is no such strategy.
            CheckpointCorruptError: A checkpoint is damaged: nobody can tell what it needs. Repair it first. Or one is
                gone that DeltaChannels of kept ones are made of: restore it. The other threads are pruned.
            ClearTextError: A checkpoint is in clear, and the saver has a `cipher`; likewise.
            UnsupportedFormatError: A newer version stored a checkpoint; likewise.
            WrongKeyError: A checkpoint is encrypted, with another key or while the saver has none; likewise.
            ConflictError: Others kept changing what was to go.
        """
        rule = _rule_of(strategy)
        run(self._prune_each(thread_ids, rule, dry_run, show), self._backend)

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
        await arun(self._prune_each(thread_ids, rule, dry_run, show), self._backend)

    def _prune_each(
        self, thread_ids: Sequence[str], rule: Retention | None, dry_run: bool, show: Callable[[PrunePlan], object]
    ) -> Flow[None]:
        tries = Tries()
        for one in map(str, thread_ids):
            yield from tries.of(self._prune(one, rule, dry_run, show), one)
        tries.end()

    def _prune(
        self, thread_id: str, rule: Retention | None, dry_run: bool, show: Callable[[PrunePlan], object]
    ) -> Flow[Any]:
        if rule is None and not dry_run:
            return threads.delete_thread(thread_id, self._context)
        from langgraph_gcs_saver.policy import retention  # noqa: PLC0415 - few processes need it

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
            CheckpointCorruptError: A checkpoint of one of the threads is damaged. Repair it first. What the runs wrote
                to other threads is deleted.
            ClearTextError: One is in clear, and the saver has a `cipher`; likewise.
            UnsupportedFormatError: A newer version stored one; likewise.
            WrongKeyError: One is encrypted, with another key or while the saver has none; likewise.
            ConflictError: Others kept changing what was to go.
        """
        run(self._delete_for_each_run(run_ids, dry_run, show), self._backend)

    async def adelete_for_runs(
        self, run_ids: Sequence[str], *, dry_run: bool = False, show: Callable[[PrunePlan], object] = print
    ) -> None:
        """Asynchronous twin of `delete_for_runs`."""
        await arun(self._delete_for_each_run(run_ids, dry_run, show), self._backend)

    def _delete_for_each_run(
        self, run_ids: Sequence[str], dry_run: bool, show: Callable[[PrunePlan], object]
    ) -> Flow[None]:
        options: dict[str, Any] = {"dry_run": dry_run, "show": show, "loads": self._loads, "context": self._context}
        tries = Tries()
        for one in map(str, run_ids):
            yield from tries.of(flows.prune.delete_for_run(one, **options))
        tries.end()

    def copy_thread(
        self,
        source_thread_id: str,
        target_thread_id: str,
        *,
        dry_run: bool = False,
        show: Callable[[CopyPlan], object] = print,
    ) -> None:
        """Copy all checkpoints and pending writes of a thread, as they are now, to a thread that is empty.

        Objects are copied by Cloud Storage itself, and frames of values as they are stored: what was in clear stays so.
        Manifests and pending writes in clear, which `accept_clear` lets through, are encrypted: the plan says how many,
        and a `ClearTextEncrypted` event reports it, for the cipher vouches for them from then on.
        Pins stay with the source. A call with the same arguments continues one that crashed, if all that the target
        holds is a part of what the source has now. Otherwise it raises, and overwrites nothing in the target.

        Args:
            source_thread_id: The thread to copy from.
            target_thread_id: The thread to copy to.
            dry_run: Only show what would be copied.
            show: Called with the plan of a dry run.

        Raises:
            InvalidInputError: The target is the source, or is neither empty nor a part of the source as it is now.
            CheckpointCorruptError: A checkpoint of the source is damaged. Repair it first.
            ClearTextError: One is in clear, and the saver has a `cipher`.
            ConflictError: The target was written to or deleted all the time, or the source was deleted meanwhile.
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
        target: Admin,
        *,
        dry_run: bool = False,
        show: Callable[[Transfer], object] = print,
        step: Callable[[int], object] | None = None,
    ) -> Transfer:
        """Move everything of a thread, as it is now, to another store, where the thread is empty; the source stays.

        Documents and objects are carried over byte for byte, pins, pending writes and what repairs have set aside
        included, and need no key. Then all of it is read from the target and compared, and decoded if it can be: damage
        of the source is moved too, and found there. A call with the same source continues one that died, unless the
        target holds something that the source does not have, or no longer has, or has with other content.
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
        between = target._between(self._backend, self._context.binding)
        return run(target._receive(thread_id, dry_run, show, step), between)

    async def atransfer_thread(
        self,
        thread_id: str,
        target: Admin,
        *,
        dry_run: bool = False,
        show: Callable[[Transfer], object] = print,
        step: Callable[[int], object] | None = None,
    ) -> Transfer:
        """Asynchronous twin of `transfer_thread`."""
        between = target._between(self._backend, self._context.binding)
        return await arun(target._receive(thread_id, dry_run, show, step), between)

    def _between(self, source: Backend, reads: Binding | None) -> Between:
        """What reads a source, which was given a place or has none, and writes this saver's store."""
        writes = self._context.binding

        def admit(flow: Flow[T], /) -> Flow[T]:
            return places.admit_between(flow, reads, writes)

        return Between(source, self._backend, admit)

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
        from langgraph_gcs_saver.saver.foreign import Foreign  # noqa: PLC0415 - few processes need it

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
        from langgraph_gcs_saver.saver.foreign import Foreign  # noqa: PLC0415 - few processes need it

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
            between = self._between(self._backend, self._context.binding)
            return run(flows.transfer.export(str(thread_id), archive, step), between)

    async def aexport_thread(
        self, thread_id: str, path: str | os.PathLike[str], *, step: Callable[[int], object] | None = None
    ) -> Transfer:
        """Asynchronous twin of `export_thread`."""
        with _new_archive(path) as archive:
            between = self._between(self._backend, self._context.binding)
            return await arun(flows.transfer.export(str(thread_id), archive, step), between)

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
            return run(self._receive(thread_id, dry_run, show, step), self._between(archive, None))

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
            return await arun(self._receive(thread_id, dry_run, show, step), self._between(archive, None))
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
        request = configs.pin_request(config, label)
        configs.check_found(request, run(flows.prune.pin(*request, context=self._context), self._backend))

    async def apin(self, config: RunnableConfig, label: str) -> None:
        """Asynchronous twin of `pin`."""
        request = configs.pin_request(config, label)
        configs.check_found(request, await arun(flows.prune.pin(*request, context=self._context), self._backend))

    def unpin(self, config: RunnableConfig) -> None:
        """Take a checkpoint's pin off, if it has one.

        Args:
            config: The checkpoint.

        Raises:
            InvalidConfigError: The config names no checkpoint, or one that is not there.
        """
        request = configs.unpin_request(config)
        configs.check_found(request, run(flows.prune.pin(*request, context=self._context), self._backend))

    async def aunpin(self, config: RunnableConfig) -> None:
        """Asynchronous twin of `unpin`."""
        request = configs.unpin_request(config)
        configs.check_found(request, await arun(flows.prune.pin(*request, context=self._context), self._backend))

    def pins(self, config: RunnableConfig) -> Mapping[str, str]:
        """The labels of the pinned checkpoints of a thread's namespace, by checkpoint id, newest first.

        Args:
            config: The thread and the namespace.

        Raises:
            InvalidConfigError: The config names no thread.
            StoreError: A service refused, or did not answer before the deadline.
        """
        return run(flows.prune.pins(*configs.thread_and_ns(config)), self._backend)

    async def apins(self, config: RunnableConfig) -> Mapping[str, str]:
        """Asynchronous twin of `pins`."""
        return await arun(flows.prune.pins(*configs.thread_and_ns(config)), self._backend)

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
        checkpoint is left alone, with a `ThreadSkipped` event: repair it first. So is one that has lost a checkpoint of
        which DeltaChannels are made, until that is restored, and one of a newer version.

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
            WrongKeyError: Something is encrypted, with another key or while the saver has none. This, and what else a
                thread raises because of what is stored of it, comes when all others are collected, as of `verify`.
            SerializationError: A thread has lost checkpoints, by pruning or otherwise, and the serializer does not read
                which DeltaChannels it has; likewise.
            StoreError: A service refused, or did not answer before the deadline.
        """
        tries = Tries()
        each = (tries.of(self._collect(one, orphan_age, dry_run, show), one) for one in self._threads(thread_id))
        plans = [run(flow, self._backend) for flow in each]
        tries.end()
        return [plan for plan in plans if plan]

    async def acollect(
        self,
        thread_id: str | None = None,
        *,
        orphan_age: timedelta = ORPHAN_AGE,
        dry_run: bool = False,
        show: Callable[[CollectPlan], object] = print,
    ) -> Sequence[CollectPlan]:
        """Asynchronous twin of `collect`."""
        tries = Tries()
        plans = [
            await arun(tries.of(self._collect(one, orphan_age, dry_run, show), one), self._backend)
            async for one in self._athreads(thread_id)
        ]
        tries.end()
        return [plan for plan in plans if plan]

    def _collect(
        self, thread_id: str, orphan_age: timedelta, dry_run: bool, show: Callable[[CollectPlan], object]
    ) -> Flow[CollectPlan]:
        if not isinstance(orphan_age, timedelta) or orphan_age < timedelta():
            raise InvalidOptionError(f"orphan_age is {orphan_age!r}; it must be a timedelta that is not negative.")
        return flows.collect.collect(
            thread_id,
            orphan_age.total_seconds(),
            dry_run=dry_run,
            show=show,
            loads=self._loads,
            context=self._context,
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
        if self._options.ttl is None:
            raise InvalidOptionError("sweep() needs to know which threads are idle: make the saver with ttl=…")
        ttl = self._options.ttl.total_seconds()
        return flows.sweep.sweep_page(after, ttl, among=among, dry_run=dry_run, show=show, context=self._context)

    # What is stored

    def threads(
        self,
        *,
        prefix: str = "",
        since: datetime | None = None,
        limit: int | None = None,
        waiting: bool = False,
        unfinished: bool = False,
        damaged: bool = False,
    ) -> Sequence[ThreadInfo]:
        """Threads, the most recently used first: last use, number of checkpoints, stored bytes.

        Each argument leaves threads out. The documents of all threads that `prefix` allows are read, because no query
        sorts by last use; they are small. Then manifests are read: all of these threads', or with `since` or `limit`
        only those of threads that may be in the result. `unfinished` also reads the few values that say what runs next.

        `ThreadInfo.damaged` counts manifests that cannot be read. Whether checkpoints are missing, and whether pending
        writes, objects and values are whole, is not checked: `verify` does that.

        Args:
            prefix: What their ids begin with. It takes 512 short queries by name for threads, and as many for
                manifests, however many threads there are.
            since: When they were last used, at the earliest; local time if it names no zone. A store notes use at most
                once a minute. A thread whose own document is gone is left out.
            limit: Most threads to return.
            waiting: Only threads whose newest checkpoint has a task that asked for an answer by `interrupt` and has not
                finished. Nothing is stored of an `interrupt_before` or `interrupt_after`: see `unfinished`.
            unfinished: Only threads with work due at their newest checkpoint: a run is at work, waits for an answer,
                failed or crashed. For graphs that were not made by `StateGraph` or `entrypoint`, only pending writes
                tell that.
            damaged: Only threads with a checkpoint whose manifest cannot be read.

        Raises:
            InvalidInputError: An argument is of the wrong type, the limit is negative, or the system cannot tell when
                `since` is.
            WrongKeyError: Something is encrypted, with another key or while the saver has none.
            StoreError: A service refused, or did not answer before the deadline.
        """
        wanted = _thread_filter(prefix, since, limit, waiting=waiting, unfinished=unfinished, damaged=damaged)
        return run(flows.catalogue.list_threads(wanted, self._context), self._backend)

    async def athreads(
        self,
        *,
        prefix: str = "",
        since: datetime | None = None,
        limit: int | None = None,
        waiting: bool = False,
        unfinished: bool = False,
        damaged: bool = False,
    ) -> Sequence[ThreadInfo]:
        """Asynchronous twin of `threads`."""
        wanted = _thread_filter(prefix, since, limit, waiting=waiting, unfinished=unfinished, damaged=damaged)
        return await arun(flows.catalogue.list_threads(wanted, self._context), self._backend)

    def history(self, thread_id: str) -> Sequence[CheckpointInfo]:
        """All checkpoints of a thread, newest first: what made each, what it stored, what is wrong. Reads no payload.

        `damage` is what manifests and the names of documents and objects show. Whether checkpoints are missing, and
        whether pending writes, contents of objects, and values are whole, is not checked: `verify` does that.

        Args:
            thread_id: The thread.

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

    def verify(
        self,
        thread_id: str | None = None,
        *,
        depth: Depth = "metadata",
        step: Callable[[int], object] | None = None,
    ) -> Iterator[Finding]:
        """What is missing, damaged or not referred to, as far as `depth` looks. Changes nothing.

        By default objects and values are not checked, so that nothing is found does not mean that all can be read. Only
        `depth="data"` decodes values; whether the serializer reads them is not checked at any depth.

        Writers may be at work meanwhile: what changes while it is looked at is left out. Only an object that a call has
        uploaded and not yet committed shows as unreferenced.

        Args:
            thread_id: The thread; all threads of the store if not given.
            depth: `"metadata"` reads all documents; `"existence"` also looks whether every object is there, with its
                size and checksum; `"data"` decodes every value of every checkpoint, and compares it with its digest.
            step: Called after each thread, with the number of its documents that were read.

        Raises:
            DamageError: A document lies where no writer puts any.
            SerializationError: Metadata were written with another serializer, or their class is gone.
            UnsupportedFormatError: A newer version wrote something.
            ValueTooLargeError: A value is larger than `max_value_bytes`.
            WrongKeyError: Something is encrypted, with another key or while the saver has none. This and the above are
                raised when all other threads have been looked at; a `ThreadSkipped` event reports each.
            StoreError: A service refused, or did not answer before the deadline.
        """
        from langgraph_gcs_saver import results  # noqa: PLC0415 - few processes need it

        looked = results.check_depth(depth)
        tries = Tries()
        for one in self._threads(thread_id):
            survey = run(tries.of(self._survey(one, looked), one), self._backend)
            if survey is not None:
                yield from survey.findings()
                if step is not None:
                    step(survey.documents)
        tries.end()

    async def averify(
        self,
        thread_id: str | None = None,
        *,
        depth: Depth = "metadata",
        step: Callable[[int], object] | None = None,
    ) -> AsyncIterator[Finding]:
        """Asynchronous twin of `verify`: an asynchronous iterator, for `async for`, not to be awaited."""
        from langgraph_gcs_saver import results  # noqa: PLC0415 - few processes need it

        looked = results.check_depth(depth)
        tries = Tries()
        async for one in self._athreads(thread_id):
            survey = await arun(tries.of(self._survey(one, looked), one), self._backend)
            if survey is not None:
                for finding in survey.findings():
                    yield finding
                if step is not None:
                    step(survey.documents)
        tries.end()

    def _survey(self, thread_id: str, depth: Depth) -> Flow[Survey]:
        return flows.survey.survey(thread_id, depth, self._loads, self._context)

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
        that followed. A checkpoint that cannot be made whole, and pending writes that cannot be read, go to the
        thread's `lg_aside` collection: nothing lists them any more, and nothing of them is lost. Reading, and `verify`,
        tell of no damage afterwards, but of what only a backup can bring back. With a cipher no metadata are written in
        clear but those that `clear_metadata` names.

        Args:
            thread_id: The thread; all threads of the store if not given.
            dry_run: Only plan and show.
            show: Called with each plan; `str` of one is its text.

        Returns:
            A plan for each damaged thread: what was found, and what was done.

        Raises:
            CheckpointVerificationError: What was written anew reads differently.
            ConflictError: Others kept writing what had to be changed; call again when they are done.
            WrongKeyError: Something is encrypted, with another key or while the saver has none. This, and what else a
                thread raises because of what is stored of it, comes when all others are repaired, as of `verify`.
            StoreError: A service refused, or did not answer before the deadline.
        """
        tries = Tries()
        each = (tries.of(self._repair(one, dry_run, show), one) for one in self._threads(thread_id))
        plans = [run(flow, self._backend) for flow in each]
        tries.end()
        return [plan for plan in plans if plan is not None and plan.findings]

    async def arepair(
        self,
        thread_id: str | None = None,
        *,
        dry_run: bool = False,
        show: Callable[[RepairPlan], object] = print,
    ) -> Sequence[RepairPlan]:
        """Asynchronous twin of `repair`."""
        tries = Tries()
        plans = [
            await arun(tries.of(self._repair(one, dry_run, show), one), self._backend)
            async for one in self._athreads(thread_id)
        ]
        tries.end()
        return [plan for plan in plans if plan is not None and plan.findings]

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

    # What every call needs

    @property
    def _context(self) -> Context:
        return self._contexts.get()

    @property
    def _loads(self) -> Loads:
        # Bound when called, for `with_allowlist` swaps the serialiser of a copy.
        return partial(loads, self.serde)


def _new_context(options: Options, place: Place | None, companions: tuple[Companion, ...]) -> Context:
    return Context(
        inline_max_bytes=options.inline_max_bytes,
        codec=Codec(options.zstd_level, options.cipher, options.max_value_bytes, accept_clear=options.accept_clear),
        incremental=options.incremental,
        full_every=options.full_every,
        values=ByteCache(options.cache_max_bytes),
        clear_metadata=None if options.cipher is None else frozenset(options.clear_metadata),
        verify=options.verify,
        falls_back=options.on_corruption == "fallback",
        timeout=options.timeout,
        new_attempt=partial(secrets.token_hex, 6),
        binding=None if place is None else Binding(place),
        companions=companions,
    )


def _admit_to(contexts: PerProcess[Context]) -> Admit:
    """Lets a flow reach only the store that belongs to the saver's bucket and prefix."""

    def admit(flow: Flow[T], /) -> Flow[T]:
        return places.admit(flow, contexts.get().binding)

    return admit


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


def _thread_filter(
    prefix: str, since: datetime | None, limit: int | None, *, waiting: bool, unfinished: bool, damaged: bool
) -> ThreadFilter:
    configs.check_type("prefix", prefix, str)
    if limit is not None:
        configs.check_type("limit", limit, int)
        if limit < 0:
            raise InvalidInputError(f"limit is {limit}; it must not be negative.")
    return flows.catalogue.ThreadFilter(
        prefix=prefix,
        since=None if since is None else configs.seconds_of("since", since),
        limit=limit,
        waiting=waiting,
        unfinished=unfinished,
        damaged=damaged,
    )


def _rule_of(strategy: str | Retention) -> Retention | None:
    """The rule of a strategy; `None` for deleting everything."""
    if strategy == "keep_latest":
        from langgraph_gcs_saver.policy import retention  # noqa: PLC0415 - few processes need it

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
        from langgraph_gcs_saver import provisioning  # noqa: PLC0415 - few processes need it

        provisioning.write_files(directory, report.settings.items())
    return report
