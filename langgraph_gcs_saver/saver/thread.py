"""`Thread`: one handle for everything about one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from langgraph_gcs_saver.engine.runner import arun, run
from langgraph_gcs_saver.saver.lease import Lease

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.pregel import Pregel

    from langgraph_gcs_saver.engine.effects import Flow
    from langgraph_gcs_saver.flows.members import Member
    from langgraph_gcs_saver.results import BatchInfo, CheckFinding, RecoveryRecord, SagaInfo, ThreadStatus
    from langgraph_gcs_saver.saver.batch import Batch
    from langgraph_gcs_saver.saver.blobs import Blobs
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver
    from langgraph_gcs_saver.saver.lease import Leases
    from langgraph_gcs_saver.saver.operations import Operations
    from langgraph_gcs_saver.saver.saga import Saga

T = TypeVar("T")


class Thread:
    """A thread of a saver. Making one reads nothing and writes nothing; the thread need not exist.

    Attributes:
        id: The thread's id.
    """

    def __init__(self, saver: GCSSaver, leases: Leases, thread_id: str, member: Member | None = None) -> None:
        self._saver = saver
        self._leases = leases
        self._member = member
        self.id = thread_id

    @property
    def operations(self) -> Operations:
        """Side effects that are not repeated: perform one, and settle those with an unknown outcome."""
        from langgraph_gcs_saver.saver.operations import Calls, Operations  # noqa: PLC0415 - most processes need none

        return Operations(Calls(self._saver, self.id))

    @property
    def blobs(self) -> Blobs:
        """Large data beside the state, such as files: the state has only a dict that names it.

        Raises:
            InvalidOptionError: The saver's serializer hides which blobs a value names, as one that encrypts does.
        """
        from langgraph_gcs_saver.saver.blobs import Blobs  # noqa: PLC0415 - most processes need none

        return Blobs(self._saver, self.id)

    def __repr__(self) -> str:
        return f"Thread({self.id!r})"

    def lease(
        self, *, ttl: float = 60.0, wait: float = 0.0, owner: str | None = None, take_over: bool = False
    ) -> Lease:
        """The lease of the thread, for `with` or `async with`: one process writes, and all others are kept out.

        This only makes the lease. The block's beginning acquires it, with four rounds, and its end releases it:

            with saver.thread("thread-1").lease() as lease:
                graph.with_config(lease.config).invoke(inputs, config)

        The beginning of the block raises `ThreadBusyError` if another process, or another call of this one, holds the
        lease. If its holder crashed, the lease can be acquired once it has given no sign of life for its `ttl`. In a
        store that is not the primary of two, it raises `NotPrimaryError`.

        Args:
            ttl: Seconds without a sign of life after which the lease expires, from 5 to 86,400. A beat is written every
                third of it.
            wait: Seconds to wait for another holder; with 0, a held lease raises at once.
            owner: The holder's name, in at most 200 characters; by default host, process and random digits. A process
                with the same name takes the lease back at once, without waiting for the `ttl`. So pass a name that only
                the restarted process has, such as the id of a job's task or the name of a pod.
            take_over: Take the lease from a live holder too. What that one still tries to store raises `FencedError`.

        Raises:
            InvalidInputError: An argument is of the wrong type, or outside its range.
        """
        return Lease(self._leases, self.id, ttl=ttl, wait=wait, owner=owner, take_over=take_over, member=self._member)

    def pause(self, *, cancel: bool = False) -> bool:
        """Ask the holder of the thread's lease to end its run at the next boundary between two steps.

        This only leaves a wish. The holder finds it with its next beat, and its run raises `GraphDrained`. The state is
        stored, and `invoke(None, config)` continues.

        Args:
            cancel: Withdraw the wish. A run that has been asked already ends nevertheless.

        Returns:
            Whether the lease has a holder.

        Raises:
            ConflictError: Other writers kept changing the lease.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return self._saver.admin.pause(self.id, cancel=cancel)

    async def apause(self, *, cancel: bool = False) -> bool:
        """Asynchronous twin of `pause`."""
        return await self._saver.admin.apause(self.id, cancel=cancel)

    def status(self) -> ThreadStatus:
        """What the thread is doing: what comes next, what it asks a person, who works on it, and since when.

        This takes one or two rounds, and is right just after a crash too.

        Raises:
            CheckpointCorruptError: The newest checkpoint is damaged, and the saver does not fall back to an older one;
                or its pending writes are damaged.
            StoreError: A service rejected a request, or did not answer before the deadline.
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
        """
        return self._saver.admin.status(self.id)

    async def astatus(self) -> ThreadStatus:
        """Asynchronous twin of `status`."""
        return await self._saver.admin.astatus(self.id)

    def answer(self, value: Any, *, request_id: str | None = None, wait: float = 0.0) -> bool:
        """Answer the question of a graph that waits for a person. A worker (`recover`) then resumes it.

        The answer is durable when this returns, and no node has run. `run(graph, None, config)` also resumes it.

        Args:
            value: The answer: what `interrupt` returns in the node. To answer several questions, pass a mapping from
                their ids to answers. A `Command` is taken as it is.
            request_id: Identifies the answer, in at most 500 characters. The same one, given again, is not stored.
            wait: Seconds to wait for another holder of the thread's lease.

        Returns:
            Whether the answer was stored; false if one with this `request_id` was stored before.

        Raises:
            InvalidInputError: The thread waits for no answer, or not for this one; or an argument is of the wrong
                type.
            SerializationError: The answer cannot be serialized.
            StoreError: A service rejected a request, or did not answer before the deadline.
            ThreadBusyError: A process works on the thread.
        """
        from langgraph_gcs_saver.saver.answers import Answering  # noqa: PLC0415 - it needs LangGraph

        answering = Answering(self._saver, self.id, value, request_id)
        with self.lease(wait=wait) as lease:
            return run(answering.flow(lease.config), self._saver._backend)  # noqa: SLF001 - a part of the saver

    async def aanswer(self, value: Any, *, request_id: str | None = None, wait: float = 0.0) -> bool:
        """Asynchronous twin of `answer`."""
        from langgraph_gcs_saver.saver.answers import Answering  # noqa: PLC0415 - it needs LangGraph

        answering = Answering(self._saver, self.id, value, request_id)
        async with self.lease(wait=wait) as lease:
            return await arun(answering.flow(lease.config), self._saver._backend)  # noqa: SLF001 - as above

    def check(self, *, graph: Pregel[Any, Any, Any, Any] | None = None) -> Sequence[CheckFinding]:
        """Whether what the newest state refers to is still there, and whether a graph can resume the thread.

        It finds the references (`langgraph_gcs_saver.references.Ref`) in all values and pending writes of the newest
        state, and in those of subgraphs in the step under way. It looks at each URI once, all at the same time, and
        waits for 10 seconds at most. No content is transferred. Nothing is stored, and no node runs.

        The URIs come from the state. Anyone who can write the state decides which hosts get a request, with method
        `HEAD`. To restrict that, register a checker of your own with `langgraph_gcs_saver.references.register`.

        Args:
            graph: The compiled graph that should resume the thread. With it, nodes that are due and channels that have
                a value are found that the graph does not have, as `GraphChanged`.

        Returns:
            Changes of the graph first, then a finding for each reference, those that are `ok` too.

        Raises:
            CheckpointCorruptError: A state is damaged, and there is no whole one.
            InvalidInputError: `graph` is not a compiled graph.
            SerializationError: The serializer cannot read a value.
            StoreError: A service rejected a request, or did not answer before the deadline.
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
        """
        return run(self._checking(graph), self._saver._backend)  # noqa: SLF001 - a part of the saver

    async def acheck(self, *, graph: Pregel[Any, Any, Any, Any] | None = None) -> Sequence[CheckFinding]:
        """Asynchronous twin of `check`."""
        return await arun(self._checking(graph), self._saver._backend)  # noqa: SLF001 - as above

    def _checking(self, graph: Pregel[Any, Any, Any, Any] | None) -> Flow[list[CheckFinding]]:
        from langgraph_gcs_saver.saver.check import checking  # noqa: PLC0415 - most processes need none

        return checking(self.id, graph, self._saver._loads, self._saver._context)  # noqa: SLF001 - as above

    def recoveries(self) -> Sequence[RecoveryRecord]:
        """What crashes and damage have cost the thread, oldest first: when, why, the time, and what ran again.

        Records are kept for 90 days.

        Raises:
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return list(self._saver.admin.recoveries(self.id))

    async def arecoveries(self) -> Sequence[RecoveryRecord]:
        """Asynchronous twin of `recoveries`."""
        return [one async for one in self._saver.admin.recoveries(self.id)]

    def batch(
        self,
        batch_id: str,
        items: Iterable[T],
        *,
        key: Callable[[T], str] | None = None,
        chunk: int | None = None,
        flush: int = 1,
        attempts: int = 3,
        changed: Literal["raise", "merge"] = "raise",
        on_done: Literal["raise", "skip", "restart"] = "raise",
        context: Any = None,
        timeout: float = 60.0,
        owner: str | None = None,
        progress: bool = False,
    ) -> Batch[T]:
        """A loop over items that resumes after the last item that was stored, and that several processes can share.

        Use the result in a `with` or `async with` block, and iterate over it there. This reads nothing yet.

        With `flush=1`, an item is durable before the next one is handed out. So a crash repeats nothing but the item
        that the process handled at that moment. With a greater number, up to `flush - 1` finished items are repeated.

        Args:
            batch_id: Identifies the batch in the thread. Pass the same id to resume it.
            items: The items, in order.
            key: Makes the key of an item: text that is unique in the batch. Items that are text are their own keys.
            chunk: Number of items that a process claims at once, if the batch is new; 100, or 20 times `flush` if that
                is more. With several processes, choose a fraction of the items for each.
            flush: Number of items that are stored together.
            attempts: After so many failures, an item is not handed out again. A crash counts if it ended a process that
                stored each item, at the same item as the crash before.
            changed: What to do if the batch began with other items: `"raise"` an error, or `"merge"` them. New items
                then follow the others, and missing ones are no longer handed out.
            on_done: What to do if the batch is done: `"raise"` an error, `"skip"` all items, or `"restart"` it. A
                restart forgets what was done, and the outputs.
            context: JSON to store with a new batch, such as an agent's id. Later callers get it as `batch.context`.
            timeout: Seconds after which a silent process counts as crashed, so that another one takes its chunk. Choose
                at least twice what an item can take. A process of the same Linux machine that has ended is noticed at
                once.
            owner: A name of this process that stays the same when it is started again, such as a pod's. It gets its
                chunk back at once after a crash. Two processes must not have the same name.
            progress: Whether to draw a progress bar on standard error.

        Raises:
            InvalidIdError: The id cannot be stored.
            InvalidInputError: A key or the owner is not text that can be stored, or two items have the same key.
            InvalidOptionError: An option is outside its range.
        """
        from langgraph_gcs_saver.saver.batch import Batch  # noqa: PLC0415 - most processes need none

        return Batch(
            self._saver,
            self.id,
            batch_id,
            items,
            operations=lambda: self.operations,
            key=key,
            chunk=chunk,
            flush=flush,
            attempts=attempts,
            changed=changed,
            on_done=on_done,
            context=context,
            timeout=timeout,
            owner=owner,
            progress=progress,
        )

    def batches(self) -> Sequence[BatchInfo]:
        """The batches of the thread, with how far each of them is.

        Raises:
            DamageError: A document of a batch is damaged.
            WrongKeyError: It was encrypted with another key.
        """
        return self._saver.admin.batches(self.id)

    async def abatches(self) -> Sequence[BatchInfo]:
        """Asynchronous twin of `batches`."""
        return await self._saver.admin.abatches(self.id)

    def saga(
        self,
        saga_id: str,
        *,
        config: RunnableConfig | None = None,
        wait: float = 90.0,
        owner: str | None = None,
    ) -> Saga:
        """Steps with side effects that are all done, or all undone, or stuck with a list of what is left to settle.

        Use the result in a `with` or `async with` block, in a node or outside of a graph. This reads nothing yet.

        Args:
            saga_id: Identifies the saga in the thread. Pass the same id to continue it after a crash.
            config: The config that LangGraph gave to the node. It is only needed in coroutines before Python 3.11.
            wait: Seconds that a rollback outside of a graph waits for another holder of the thread's lease. The lease
                of a crashed process expires within the default.
            owner: The name with which a rollback takes the lease; see `lease`.

        Raises:
            InvalidIdError: The id cannot be stored.
            InvalidInputError: An argument is of the wrong type, or outside its range.
        """
        from langgraph_gcs_saver.saver.saga import Saga  # noqa: PLC0415 - most processes need none

        return Saga(self._saver, self._leases, self.id, saga_id, config=config, wait=wait, owner=owner)

    def sagas(self) -> Sequence[SagaInfo]:
        """The sagas of the thread, with their steps, in the order of their ids' encodings.

        Raises:
            DamageError: A document of a saga is damaged.
            WrongKeyError: It was encrypted with another key.
        """
        return self._saver.admin.sagas(self.id)

    async def asagas(self) -> Sequence[SagaInfo]:
        """Asynchronous twin of `sagas`."""
        return await self._saver.admin.asagas(self.id)
