"""`GCSSaver`: LangGraph's checkpointer, one class for synchronous and asynchronous use.

Every method is one line deep: it makes a request from its arguments, and performs a flow.

`python -m tests.twins` writes each asynchronous twin below its method.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

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
from langgraph_gcs_saver.engine.effects import Ask, Flow
from langgraph_gcs_saver.engine.protocols import BlobStore, DocumentStore
from langgraph_gcs_saver.engine.runner import arun, run
from langgraph_gcs_saver.errors import GCSSaverError, InvalidInputError
from langgraph_gcs_saver.events import ThreadSkipped
from langgraph_gcs_saver.flows import load, save, threads
from langgraph_gcs_saver.flows.writes import put_writes as store_writes
from langgraph_gcs_saver.format.keys import thread_doc
from langgraph_gcs_saver.saver import arguments, configs, controls, restores, subgraphs, turns
from langgraph_gcs_saver.saver.admin import Admin
from langgraph_gcs_saver.saver.background import Background, Kind
from langgraph_gcs_saver.saver.calls import Call
from langgraph_gcs_saver.saver.connection import DRAIN_SECONDS, Connection, beside
from langgraph_gcs_saver.saver.controls import Controls
from langgraph_gcs_saver.saver.lease import Leases
from langgraph_gcs_saver.saver.recovered import Recovered
from langgraph_gcs_saver.saver.thread import Thread

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud import firestore as firestore_v1
    from google.cloud.storage import Bucket
    from langgraph.checkpoint.base import DeltaChannelHistory

    from langgraph_gcs_saver.cadence.objective import RTO
    from langgraph_gcs_saver.cadence.policies import Policy
    from langgraph_gcs_saver.flows.stored import Stored
    from langgraph_gcs_saver.flows.writes import PutWrites
    from langgraph_gcs_saver.policy.retention import Retention, Strategy
    from langgraph_gcs_saver.results import ThreadStatus, Warmed
    from langgraph_gcs_saver.saver.each import Each
    from langgraph_gcs_saver.saver.shipper import Shipper
    from langgraph_gcs_saver.saver.team import Team
    from langgraph_gcs_saver.saver.worker import Recoveries

RETENTION_STEPS = 16
"""Steps of a graph after which a thread is pruned. For a while, a thread may exceed a rule by as many checkpoints.

Pruning reads all manifests of a thread, and deletes in batches. After every step it would cost more than the step.
"""

RETENTION = Kind("retention", most=10_000)
"""Pruning: one job for each thread that waits for it."""


class GCSSaver(Connection, BaseCheckpointSaver[str]):
    """Stores the state of LangGraph agents in Firestore and Cloud Storage.

    Pass it as `checkpointer=` to a compiled graph; `invoke` and `ainvoke` both work. You can make it outside of any
    event loop, use it from many threads and event loops at once, and use it after a fork. It is a context manager for
    `with` and `async with`, which closes it at the end.

    `put`, `put_writes` and their asynchronous twins return when their data is durable. With `verify="readback"`, it has
    been read back as well. Every read is checked against the digests that were written. So a reader gets the exact
    value or an error. If the latest checkpoint is damaged, a reader of the latest one may get an older exact one, which
    says so.

    Args:
        bucket: The bucket, or its name.
        firestore: A client for the database, which `close` leaves open. If not given, the saver makes one from
            `project`, `database` and `credentials`.
        prefix: The prefix of all object names, so that several applications can share a bucket.
        root: Path of the document that the collections are below, so that several applications can share a database;
            empty for the top of the database. If not given, it is derived from the prefix (`lg_apps/PREFIX`), so that
            two prefixes are two stores.
        project: The project; the environment's if not given.
        database: The Firestore database (Native mode, Standard edition).
        credentials: Credentials for both services; the environment's if not given.
        serde: The serializer; LangGraph's `JsonPlusSerializer` if not given.
        stores: A pair of stores instead of Google's; `from_conn_string("file:///…")` passes the embedded ones.
        options: See `langgraph_gcs_saver.options.Options`: `incremental`, `full_every`, `zstd_level`, `dictionary`,
            `cache_max_bytes`, `inline_max_bytes`, `cipher`, `accept_clear`, `clear_metadata`, `verify`,
            `on_corruption`, `max_value_bytes`, `retention`, `ttl`, `writers`, `stop_on`, `objective`, `labels`,
            `mirror`, `replica`, `timeout`, `max_threads`, `on_event`, `interceptors`.

    Raises:
        InvalidURIError: The bucket, prefix or root is not a legal name. Pass a connection string to `from_conn_string`.
        InvalidInputError: `stop_on` waits for a signal, and this is not the main thread. Or the other options do not
            allow to meet `objective`. Or `replica` names this very store.
        InvalidOptionError: An option is unknown or outside its range, a client is for another project or database, or
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
        self._shipper: Shipper | None = None
        self._leases = Leases(
            self._contexts,
            self._backend,
            self._background,
            self._subscribers,
            self._options.writers,
            behind=self._behind,
            trailing=self._trailing,
        )
        self._recovered = Recovered(self._contexts, self._behind, self._background, self._leases, self._labels)
        self._retention = self._options.rule
        self._controls = Controls(self._options.stop_on)
        if self._options.replica is not None:
            from langgraph_gcs_saver.saver.shipper import Shipper  # noqa: PLC0415 - most stores have no replica

            try:
                self._shipper = Shipper(self, self._options.replica, credentials, self._background)
            except GCSSaverError:
                self.close()
                raise
        self._call = partial(Call, self._subscribers, self._labels)

    def close(self) -> None:
        """Release connections and threads. Idempotent; later calls of other methods raise `SaverClosedError`.

        It waits until pending pruning by `retention` is done. It waits 3 seconds at most for what is being shipped to
        the `replica`.
        """
        self._controls.close()
        self._background.close()
        try:
            super().close()
        finally:
            if self._shipper is not None:
                self._shipper.close()

    async def aclose(self) -> None:
        """Release connections and threads, those of the running event loop included. Idempotent.

        It waits as `close` does.
        """
        self._controls.close()
        await asyncio.to_thread(self._background.close)
        try:
            await super().aclose()
        finally:
            if self._shipper is not None:
                await self._shipper.aclose()

    @property
    def admin(self) -> Admin:
        """Administration of the store: verify, repair, prune, collect, copy, move and list threads.

        It shares the saver's store, options and serializer, and is closed with the saver.
        """
        return beside(self, Admin)

    def thread(self, thread_id: str) -> Thread:
        """The handle of a thread. This reads nothing; the thread need not exist.

        An id of another type, such as a UUID, is made text, as in configs.

        Raises:
            InvalidConfigError: The id is `None`.
            InvalidIdError: The id cannot be stored.
        """
        thread_id = configs.text_of({"thread_id": thread_id}, "thread_id")
        thread_doc(thread_id)
        return Thread(self, self._leases, thread_id)

    def team(
        self,
        team_id: str,
        members: Iterable[str] = (),
        *,
        retention: int | None = None,
        vote_wait: float | None = None,
    ) -> Team:
        """The handle of a team: several threads, and consistent sets of their checkpoints. This reads nothing.

        Args:
            team_id: The team.
            members: Names of members. More can be added later: `team.member(name)`.
            retention: How many committed sets the team keeps, from 1 to 1,000; the next `checkpoint` stores it. If not
                given, what is stored counts, and 10 without that.
            vote_wait: Most seconds for which a put of a member waits for the decision about a set, after another put
                has made that decision fail. The default is the measured time of two rounds, which grows fourfold with
                each further try that fails, up to 5 seconds after the last one.

        Raises:
            InvalidIdError: The id, or the name of a member, cannot be stored.
            InvalidInputError: An argument is of the wrong type.
            InvalidOptionError: A number is outside its range.
        """
        from langgraph_gcs_saver.saver.team import Team  # noqa: PLC0415 - most processes need none

        return Team(self, team_id, members, retention=retention, vote_wait=vote_wait)

    def runs(self, *, state: str | None = None) -> Each[ThreadStatus]:
        """The threads whose turns have not finished, for `for` and `async for`. It raises what `admin.runs` does.

        Args:
            state: `"running"`, `"waiting"`, `"paused"`, `"crashed"`, `"due"` or `"poison"`; all of them if `None`.
        """
        return self.admin.runs(state=state)

    def recover(
        self,
        graph: Any,
        *,
        every: float | None = None,
        limit: int | None = None,
        attempts: int = 5,
        backoff: float = 1.0,
        policy: Policy | None = None,
        store: Literal["every_step", "segments"] = "every_step",
        objective: RTO | None = None,
        context_factory: Callable[[], Any] | None = None,
        durability: str | None = None,
        ttl: float = 60.0,
        owner: str | None = None,
    ) -> Recoveries:
        """Resume the threads that a process has left: crashed, paused or answered ones. It works while you iterate.

            for done in saver.recover(graph, every=5):
                print(done)

        Each thread is resumed under its lease, as `run(graph, None, …)` does. Any number of processes can do this on
        one store. A thread whose graph raises an error is tried again later. After `attempts` failures in a row it is
        given up as *poison*; `run` resumes it nevertheless.

        If the store is one of two that replicate each other, and not the primary, this stands by: it takes no thread,
        looks at the role every second, and reads the tips of threads ahead. It begins when the store becomes the
        primary. If the store is fenced, the thread under way ends at its next put, and this stands by again. Start it
        after `admin.replicate`.

        Args:
            graph: A compiled graph, or several by their names. Only threads whose turns have a graph of that name are
                resumed. A turn that `run` did not begin has no name. It is resumed if you pass a graph, and left alone
                if you pass a mapping. A graph without a checkpointer gets this saver.
            every: Seconds between two looks for such threads, above 0. If `None`, it looks once.
            limit: Most threads to resume.
            attempts: After so many failures in a row, a thread is given up. A crash of its process is one.
            backoff: Seconds to wait after the first failure. They double with each further one, up to 10 minutes.
            policy: When to store, and when to stop, such as `cadence.Signal(SIGTERM)`. The thread under way ends at its
                next boundary. The saver's `stop_on` counts too.
            store: As for `run`. It need not be what the process passed that began the turn.
            objective: As for `run`.
            context_factory: Makes the context of turns that have a `context_factory`. The stored name of that function
                is not imported.
            durability: As for `run`.
            ttl: As for `run`.
            owner: As for `run`.

        Returns:
            A `Recovery` for each thread that was resumed or given up, for `for` and `async for`.

        Raises:
            InvalidInputError: An argument is of the wrong type, or outside its range.
            NotPrimaryError: While you iterate, without `every`: the store is not the primary.
            StoreError: As for `run`, while you iterate. With `every`, it waits for a store that cannot be reached.
        """
        from langgraph_gcs_saver.saver.worker import Recoveries, Work  # noqa: PLC0415 - most processes need none

        work = Work(
            every=every,
            limit=limit,
            attempts=attempts,
            backoff=backoff,
            policy=policy,
            store=store,
            objective=objective,
            context_factory=context_factory,
            durability=durability,
            ttl=ttl,
            owner=owner,
        )
        return Recoveries(self, graph, work)

    def warm(self, thread_ids: Iterable[str]) -> list[Warmed]:
        """Read the newest checkpoints of threads, so that the next `get_tuple` of each has less to wait for.

        Call it when you expect that threads will be used soon: a user has opened a page, or an interrupt is about to be
        answered. It reads the root graph's checkpoint and its pending writes, a few threads at a time, checks them, and
        keeps the values in the cache (`cache_max_bytes`). A later read still looks for a newer checkpoint. It takes one
        round, and fetches no value that the cache has. If the cache is too small, values of earlier threads are
        dropped.

        A thread that cannot be read does not stop the others. A `ThreadSkipped` event reports it, and so does its
        result.

        Args:
            thread_ids: The threads. They need not exist.

        Returns:
            What was read, in the order of the threads, each of them once.

        Raises:
            InvalidIdError: An id cannot be stored.
            InvalidInputError: The threads are one text, and not a list of ids.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._warm(thread_ids), self._backend)

    async def awarm(self, thread_ids: Iterable[str]) -> list[Warmed]:
        """Asynchronous twin of `warm`."""
        return await arun(self._warm(thread_ids), self._backend)

    def _warm(self, thread_ids: Iterable[str]) -> Flow[list[Warmed]]:
        if isinstance(thread_ids, str):
            raise InvalidInputError(f"thread_ids is the text {thread_ids[:80]!r}; pass a list of ids.")
        found = [configs.text_of({"thread_id": one}, "thread_id") for one in thread_ids]
        for one in found:
            thread_doc(one)
        return flows.warm.warm(found, self._context)

    # Reading

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the latest of its thread and namespace; `None` if there is none.

        If the latest checkpoint is damaged, this returns the newest whole one. `metadata["recovered_from"]` is then the
        id of the damaged one, and a warning in the log and a `CheckpointRecovered` event report it. With
        `on_corruption="raise"`, it raises `CheckpointCorruptError` instead.

        Raises:
            CheckpointCorruptError: The checkpoint is damaged, and `config` names its id; or no checkpoint is whole.
            ClearTextError: It is in clear, and the saver has a `cipher`. The saver does not fall back to an older one.
            DamageError: All checkpoints of the thread's root namespace are gone, although none was deleted.
            InvalidConfigError: The config names no thread.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        stored = turns.take_tip(self._leases.turn_in(config), config)
        if stored is not None:
            self._meet_reader(config)
            return stored
        with self._call("get_tuple", config) as call:
            loaded = run(self._get(config), self._backend)
        return self._found(config, loaded, call)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Asynchronous twin of `get_tuple`."""
        stored = turns.take_tip(self._leases.turn_in(config), config)
        if stored is not None:
            self._meet_reader(config)
            return stored
        with self._call("get_tuple", config) as call:
            loaded = await arun(self._get(config), self._backend)
        return self._found(config, loaded, call)

    def _get(self, config: RunnableConfig) -> Flow[load.Loaded | None]:
        thread_id, ns = configs.thread_and_ns(config)
        self._meet_reader(config)
        return load.get_tuple(thread_id, ns, configs.checkpoint_id_of(config), self._loads, self._context)

    def _found(self, config: RunnableConfig, loaded: load.Loaded | None, call: Call) -> CheckpointTuple | None:
        """What `get_tuple` returns. It is reported, compared with the objective, and recorded if it is a recovery."""
        seconds = call.seconds
        self._recovered.note_read(config, loaded, seconds)
        call.get_tuple(loaded)
        if loaded is None:
            return None
        turn = self._leases.turn_in(config)
        objective = self._options.objective if turn is None or turn.objective is None else turn.objective
        if objective is not None and configs.checkpoint_id_of(config) is None:
            restores.judge(objective, loaded, seconds, self._options, self._subscribers)
        found = arguments.to_tuple(loaded, configs.configurable(config)["thread_id"])
        subgraphs.read(config, found)
        return found

    def _meet_reader(self, config: RunnableConfig) -> None:
        """A run may be reading where it continues."""
        self._leases.meet(config)
        self._controls.meet_reader(config)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first. Damaged ones are skipped, with a warning and an event.

        A list of all threads also skips those of a newer version, and, if the saver has a `cipher`, those in clear.

        Args:
            config: The thread. A `checkpoint_ns` limits the list to one namespace, and a `checkpoint_id` to that
                checkpoint. `None` lists all threads, thread by thread, each newest first.
            filter: Metadata that must be equal.
            before: A config. Only checkpoints whose id sorts before its id are returned.
            limit: Most checkpoints to return, after filtering; 0 means none.

        Raises:
            ClearTextError: A checkpoint of the thread is in clear, and the saver has a `cipher`.
            InvalidConfigError: The config names no thread.
            StoreError: A service rejected a request, or did not answer before the deadline.
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
        """The writes and seeds that make up the values of DeltaChannels at a checkpoint.

        One walk along the ancestors serves all channels.

        Args:
            config: The checkpoint, or its thread and namespace for the latest.
            channels: Names of channels.

        Returns:
            For each channel, its `writes` along the line of ancestors, oldest first, back to the nearest ancestor with
            a stored value. That value is the `seed`, which is absent if there is no such ancestor.

        Raises:
            CheckpointCorruptError: A part of the history is damaged or gone, and the values would silently be wrong.
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
        """Store a checkpoint. It is durable when this returns, and repeating the call changes nothing.

        `aput` serializes the values before its first await.

        Args:
            config: The thread and namespace; its `checkpoint_id` is the parent.
            checkpoint: The checkpoint.
            metadata: Its metadata; the config's is merged in, and never overrides it.
            new_versions: Channels that changed since the parent; the others are inherited from the parent.

        Returns:
            The config that names the stored checkpoint.

        Raises:
            CheckpointVerificationError: The service returns other data than was written; nothing is visible.
            ConflictError: Other writers kept changing the same documents: call again. Or the parent is gone, and with
                it the only values of some channels, or the history of DeltaChannels.
            FencedError: The config has a lease that this process does not hold any more.
            InvalidConfigError: The config names no thread.
            InvalidIdError: An id cannot be stored.
            LeaseMismatchError: The config has another thread's lease, or none although `writers="leased"`.
            SerializationError: A value cannot be serialized.
            StoreError: A service rejected a request, or did not answer before the deadline.
            ThreadBusyError: Another process holds the thread's lease, and the config has none.
        """
        with self._call("put", config, checkpoint, metadata=metadata) as call, self._leases.watching(config):
            request = self._put_request(config, checkpoint, metadata, new_versions)
            stored = run(self._storing(request, save.put(request, self._context)), self._backend)
        call.put(request, stored)
        turns.note_stored(self._leases.turn_of(request.fence), config, request, checkpoint, metadata)
        controls.note_stored(config, metadata)
        self._retain(request, metadata)
        if stored.beside is not None:
            run(self._leases.voting(request, stored), self._behind)
        if self._may_be_last(config):
            run(self._flush(), self._backend)
        return configs.config_of(config["configurable"]["thread_id"], request.ns, request.checkpoint_id)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Asynchronous twin of `put`."""
        with self._call("put", config, checkpoint, metadata=metadata) as call, self._leases.watching(config):
            request = self._put_request(config, checkpoint, metadata, new_versions)
            stored = await arun(self._storing(request, save.put(request, self._context)), self._backend)
        call.put(request, stored)
        turns.note_stored(self._leases.turn_of(request.fence), config, request, checkpoint, metadata)
        controls.note_stored(config, metadata)
        self._retain(request, metadata)
        if stored.beside is not None:
            await arun(self._leases.voting(request, stored), self._behind)
        if self._may_be_last(config):
            await arun(self._flush(), self._backend)
        return configs.config_of(config["configurable"]["thread_id"], request.ns, request.checkpoint_id)

    def _storing(self, request: save.Put | PutWrites, flow: Flow[Stored]) -> Flow[Stored]:
        """The flow, up to the point at which its call returns."""
        return flow if self._trailing is None else self._trailing.storing(request, flow)

    def _put_request(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> save.Put:
        self._controls.meet_writer(config)
        fence = self._leases.fence_of(config)
        request = arguments.put_request(
            config,
            checkpoint,
            metadata,
            new_versions,
            serde=self.serde,
            context=self._context,
            now=time.time(),
            fence=fence,
        )
        request = turns.with_turn(self._leases.turn_of(fence), request)
        if fence is not None and not request.ns:
            held = self._leases.note(fence, checkpoint, metadata)
            if held is not None and held.voter is not None:
                request = replace(request, beside=held.voter.beside)
        return request

    def _may_be_last(self, config: RunnableConfig) -> bool:
        """Whether `stop_on` ends a run after this put, and its sinks are to be flushed. A call of `run` does so itself.

        A run may store twice after it was asked to end. It waits only once for a sink that is too slow.
        """
        may_flush = self._subscribers.may_flush_again and self._leases.turn_in(config) is None
        return may_flush and self._controls.meet_writer(config)

    def _flush(self) -> Flow[bool]:
        found = self._subscribers
        return (yield from Ask(partial(found.flush, DRAIN_SECONDS), partial(found.aflush, DRAIN_SECONDS)))

    def _retain(self, request: save.Put, metadata: CheckpointMetadata) -> None:
        """Prune the thread in the background, if there is a rule and pruning is due."""
        rule, step = self._retention, metadata.get("step")
        if rule is None or (isinstance(step, int) and not self._is_due(request, step)):
            return
        proven = None if self._trailing is None else self._trailing.outcome(request.thread_id)
        prune = partial(self._prune_in_background, request.thread_id, rule, proven, is_leased=request.fence is not None)
        if not self._background.submit(RETENTION, request.thread_id, prune):
            reason = f"It was not pruned: the saver was being closed, or {RETENTION.most:,} other threads were waiting."
            self._subscribers.emit(ThreadSkipped(thread_id=request.thread_id, reason=reason))

    def _is_due(self, request: save.Put, step: int) -> bool:
        # Calls are not counted, because a process may live for a few steps only. The step alone does not decide: with
        # `durability="exit"`, a run stores only its last step, which may never be a multiple.
        key = (request.thread_id, request.ns)
        before = self._context.steps.get(key)
        self._context.steps.put(key, step, 100 + len(request.thread_id) + len(request.ns))
        # Each call of a subgraph begins at step 0, and a thread at step 0 has nothing to prune.
        return step > 0 and (step - 1 if before is None else before) // RETENTION_STEPS < step // RETENTION_STEPS

    def _prune_in_background(
        self, thread_id: str, rule: Retention, proven: Flow[bool] | None, *, is_leased: bool
    ) -> None:
        try:
            if proven is not None and not run(proven, self._behind):
                reason = "It was not pruned, because the proof of a checkpoint has failed."
                self._subscribers.emit(ThreadSkipped(thread_id=thread_id, reason=reason))
                return
            make = partial(flows.prune.prune_by, rule, thread_id, loads=self._loads, context=self._context)
            run(flows.leases.as_writer(thread_id, make, self._context) if is_leased else make(), self._behind)
        except Exception as error:  # noqa: BLE001 - no caller waits for it; the event reports it
            reason = f"It was not pruned: {type(error).__name__}: {error}"
            self._subscribers.emit(ThreadSkipped(thread_id=thread_id, reason=reason))

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store a task's writes, for the checkpoint that the task started from. They are durable when this returns.

        `aput_writes` serializes the values before its first await.

        All writes of a call become visible together. For regular channels, the first write with a task and a number
        wins; for special channels (errors, interrupts, resumes), the last one. Stored regular writes that are damaged,
        or in clear although the saver has a `cipher`, are replaced. A `CheckpointDamaged` event reports this.

        Args:
            config: The thread, namespace and checkpoint. The checkpoint need not be stored yet.
            writes: Pairs of a channel and a value.
            task_id: The task.
            task_path: The task's path, which orders the writes of parallel tasks.

        Raises:
            CheckpointVerificationError: The service returns other data than was written; nothing is visible.
            FencedError: The config has a lease that this process does not hold any more.
            InvalidConfigError: The config names no checkpoint.
            LeaseMismatchError: The config has another thread's lease, or none although `writers="leased"`.
            SerializationError: A value cannot be serialized.
            StoreError: A service rejected a request, or did not answer before the deadline.
            UnsupportedFormatError: A newer version has stored writes of this task.
            WrongKeyError: Writes of this task were encrypted with another key.
        """
        with self._call("put_writes", config) as call, self._leases.watching(config):
            request = arguments.put_writes_request(
                config, writes, task_id, task_path, serde=self.serde, fence=self._leases.fence_of(config)
            )
            stored = run(self._storing(request, store_writes(request, self._context)), self._backend)
        call.put_writes(request, stored)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Asynchronous twin of `put_writes`."""
        with self._call("put_writes", config) as call, self._leases.watching(config):
            request = arguments.put_writes_request(
                config, writes, task_id, task_path, serde=self.serde, fence=self._leases.fence_of(config)
            )
            stored = await arun(self._storing(request, store_writes(request, self._context)), self._backend)
        call.put_writes(request, stored)

    # Deleting and copying, with LangGraph's signatures. The same methods of `admin` also have plans and results.

    def delete_thread(self, thread_id: str) -> None:
        """Delete every checkpoint, pending write and object of a thread.

        Idempotent: call it again after a crash, and it continues.

        Raises:
            ConflictError: Other writers kept writing to the thread.
            StoreError: A service rejected a request, or did not answer before the deadline.
            ThreadBusyError: A process holds the thread's lease. `admin.delete_thread(…, force=True)` ends it.
            ThreadInSetError: A set of a team needs a checkpoint of the thread. With `force=True` it becomes `broken`.
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

    def prune(self, thread_ids: Sequence[str], *, strategy: Strategy = "keep_latest") -> None:
        """Remove checkpoints of threads, with the pending writes, objects and frames that only they need.

        It promises and raises what `admin.prune` does.

        Args:
            thread_ids: The threads.
            strategy: `"keep_latest"`; a rule such as `KeepLast(10)`, or a mapping from patterns of namespaces to rules;
                or `"delete"`, which deletes the threads.
        """
        if strategy == "delete":
            for thread_id in thread_ids:
                self.delete_thread(thread_id)
        else:
            self.admin.prune(thread_ids, strategy=strategy)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: Strategy = "keep_latest") -> None:
        """Asynchronous twin of `prune`."""
        if strategy == "delete":
            for thread_id in thread_ids:
                await self.adelete_thread(thread_id)
        else:
            await self.admin.aprune(thread_ids, strategy=strategy)

    def get_next_version(  # type: ignore[override]  # LangGraph's savers have one kind, and a migrated thread keeps its own
        self,
        current: str | float | None,
        channel: None,  # noqa: ARG002 - LangGraph's signature
    ) -> str | float:
        """The version after `current`: a counter, and random digits so that forks never share a version.

        Versions sort as text. A thread that another saver has begun with numbers continues with numbers, because
        LangGraph compares the versions of a thread with each other. Its forks may share versions.

        Raises:
            InvalidInputError: The version is of another form.
        """
        is_number = isinstance(current, (int, float))
        try:
            count = 0 if current is None else int(current if is_number else str(current).split(".")[0])
        except (ValueError, OverflowError):
            raise InvalidInputError(
                f"{str(current)[:80]!r} is not a version that this saver can increment. It must begin with a number."
            ) from None
        if is_number:
            return count + 1
        # From the operating system, because a graph that seeds `random` would repeat its versions in every fork.
        return f"{count + 1:032}.{secrets.randbits(40):013}"
