"""`Admin`: the administration of a store, for people and schedulers. A saver has it as `saver.admin`.

Every method is one line deep: it makes a request from its arguments, and performs a flow. This module does not import
LangGraph. So a command that lists, moves or deletes threads starts in a fraction of the time that an agent needs.

`python -m tests.twins` writes each asynchronous twin below its method.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.engine.effects import Compute, Flow, Now
from langgraph_gcs_saver.engine.named_stores import NamedStores
from langgraph_gcs_saver.engine.runner import Backend, arun, run
from langgraph_gcs_saver.errors import GCSSaverError, InvalidInputError, InvalidOptionError
from langgraph_gcs_saver.events import ThreadVerified
from langgraph_gcs_saver.flows import threads
from langgraph_gcs_saver.format.sagas import ROLLING_BACK
from langgraph_gcs_saver.format.serialization import dumps
from langgraph_gcs_saver.saver import configs
from langgraph_gcs_saver.saver.connection import Connection, beside
from langgraph_gcs_saver.saver.each import Each
from langgraph_gcs_saver.saver.outcomes import NOT_GIVEN, found_out

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from langgraph_gcs_saver.flows.all_threads import Pages
    from langgraph_gcs_saver.flows.catalogue import ThreadFilter
    from langgraph_gcs_saver.flows.survey import Survey
    from langgraph_gcs_saver.flows.transfer import ArchiveWriter
    from langgraph_gcs_saver.policy.retention import Retention, Strategy
    from langgraph_gcs_saver.results import (
        BatchInfo,
        CheckpointInfo,
        CollectPlan,
        CopyPlan,
        DeletePlan,
        Depth,
        Failover,
        Finding,
        IdleThread,
        LeaseInfo,
        Migration,
        OperationInfo,
        PrunePlan,
        RebindPlan,
        Reconciled,
        RecoveryRecord,
        RepairPlan,
        ReplicationStatus,
        RunPlan,
        SagaInfo,
        Shipped,
        StoreStats,
        TeamInfo,
        ThreadInfo,
        ThreadStatus,
        Training,
        Transfer,
    )
    from langgraph_gcs_saver.saver.replicas import Following, Replicas
    from langgraph_gcs_saver.saver.team import TeamSets
    from langgraph_gcs_saver.saver.watch import Watch
    from langgraph_gcs_saver.stores.archive import Archive

    Plan = TypeVar("Plan", PrunePlan, RunPlan, DeletePlan, CollectPlan, IdleThread, RepairPlan)

T = TypeVar("T")

logger = logging.getLogger("langgraph_gcs_saver")

Progress = Callable[[int], object]
"""Called with the number of documents, objects or checkpoints done since the last call, as a progress bar needs."""

ORPHAN_AGE = timedelta(hours=24)
"""The default of how old an orphan must be to be collected."""


class Admin(Connection):
    """Administration of a store: list, check, repair, prune and move threads.

    `saver.admin` shares the saver's store, options and serializer. `Admin.from_conn_string` opens a store without
    importing LangGraph.

    Methods that delete or repair have two forms. For example, `prune` removes checkpoints and returns what it did.
    `plan_prune` only reads and returns a plan, and `carry_out` does what that plan says. Plans for several threads come
    one by one: iterate over them with `for`, or in a coroutine with `async for`. Methods that copy threads delete
    nothing, and most of them take `dry_run=True`.

    Attributes:
        serde: The serializer. It reads metadata, and values in methods that read or compare them.
    """

    # Reading

    def checkpoint_ids(self, config: RunnableConfig) -> Sequence[str]:
        """The ids of all checkpoints of a thread's namespace, newest first. Only the ids are read.

        Args:
            config: The thread and the namespace.

        Raises:
            InvalidConfigError: The config names no thread.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(flows.ids.checkpoint_ids(*configs.thread_and_ns(config)), self._backend)

    async def acheckpoint_ids(self, config: RunnableConfig) -> Sequence[str]:
        """Asynchronous twin of `checkpoint_ids`."""
        return await arun(flows.ids.checkpoint_ids(*configs.thread_and_ns(config)), self._backend)

    def checkpoint_at(self, config: RunnableConfig, time: datetime) -> str | None:
        """The id of the newest checkpoint of a thread's namespace that was made at or before a time, or `None`.

        This reads manifests, beginning with the newest. The time of a checkpoint is its `ts`, by the clock of the
        process that ran the graph. Copies keep it. For a damaged checkpoint, the time when it was stored counts.

        Args:
            config: The thread and the namespace.
            time: The time; local time if it has no time zone.

        Raises:
            InvalidConfigError: The config names no thread.
            InvalidInputError: The time is not a datetime, or the system cannot convert it.
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._checkpoint_at(config, time), self._backend)

    async def acheckpoint_at(self, config: RunnableConfig, time: datetime) -> str | None:
        """Asynchronous twin of `checkpoint_at`."""
        return await arun(self._checkpoint_at(config, time), self._backend)

    def _checkpoint_at(self, config: RunnableConfig, time: datetime) -> Flow[str | None]:
        thread_id, ns = configs.thread_and_ns(config)
        return flows.catalogue.find_checkpoint(thread_id, ns, configs.seconds_of("time", time), self._context)

    # Listing

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

        Each argument excludes threads. The documents of all threads that `prefix` allows are read, because no query
        sorts by last use; they are small. Then manifests are read: those of all these threads, or with `since` or
        `limit` only those of threads that may be in the result. `unfinished` also reads the few values that determine
        what runs next.

        `ThreadInfo.damaged` counts manifests that cannot be read. This method does not check whether checkpoints are
        missing, or whether pending writes, objects and values are whole: `verify` does that.

        Args:
            prefix: The prefix of the ids. It takes 512 short queries by name for threads, and as many for manifests,
                regardless of the number of threads.
            since: Only threads that were used at this time or later; local time if it has no time zone. A store records
                use at most once a minute. A thread whose own document is gone is left out.
            limit: Most threads to return.
            waiting: Only threads whose newest checkpoint has a task that called `interrupt` and has not finished. An
                `interrupt_before` or `interrupt_after` stores nothing: see `unfinished`.
            unfinished: Only threads with work due at their newest checkpoint: a run is at work, waits for an answer,
                failed or crashed. For graphs that were not made by `StateGraph` or `entrypoint`, only pending writes
                show that.
            damaged: Only threads with a checkpoint whose manifest cannot be read.

        Raises:
            InvalidInputError: An argument is of the wrong type, the limit is negative, or the system cannot convert
                `since`.
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
            StoreError: A service rejected a request, or did not answer before the deadline.
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

        `damage` is what manifests and the names of documents and objects show. This method does not check whether
        checkpoints are missing, or whether pending writes, contents of objects, and values are whole: `verify` does
        that.

        Args:
            thread_id: The thread.

        Raises:
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(flows.catalogue.list_checkpoints(str(thread_id), self._loads, self._context), self._backend)

    async def ahistory(self, thread_id: str) -> Sequence[CheckpointInfo]:
        """Asynchronous twin of `history`."""
        return await arun(flows.catalogue.list_checkpoints(str(thread_id), self._loads, self._context), self._backend)

    def stats(self) -> StoreStats:
        """The space that the store takes, by thread, by channel and kind of frame, and what incremental frames save.

        Raises:
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(flows.catalogue.store_stats(self._context), self._backend)

    async def astats(self) -> StoreStats:
        """Asynchronous twin of `stats`."""
        return await arun(flows.catalogue.store_stats(self._context), self._backend)

    def train(self, *, sample: int = 2000, holdout: float = 0.3, keep: bool = False) -> Training:
        """Train a compression dictionary from the store's own threads, and measure what it would save.

        Many short threads of one deployment have much in common: instructions, names of fields, the form of tools'
        results. Incremental frames save nothing of that, because each thread begins with full frames. A dictionary is
        trained from some threads, and measured on others. Of each thread, the newest 50 checkpoints and 50 documents of
        pending writes count.

        Args:
            sample: Most threads to read.
            holdout: The share of these threads that the dictionary is measured on, and not trained from.
            keep: Store the dictionary, unless there is a `refusal`. Savers that are made with its id as `dictionary=`
                write with it. It contains text of the threads that it was trained from, and no deletion removes it. All
                readers of the store must know format 2.

        Returns:
            The bytes of the held-out threads, by kind. Its `refusal` says why a dictionary is not worth its use, such
            as a gain below 10 %.

        Raises:
            CheckpointVerificationError: The stored dictionary reads differently from what was written.
            InvalidInputError: `sample` is not a positive int, or `holdout` is not between 0 and 1.
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._train(sample, holdout, keep=keep), self._backend)

    async def atrain(self, *, sample: int = 2000, holdout: float = 0.3, keep: bool = False) -> Training:
        """Asynchronous twin of `train`."""
        return await arun(self._train(sample, holdout, keep=keep), self._backend)

    def _train(self, sample: int, holdout: float, *, keep: bool) -> Flow[Training]:
        if type(sample) is not int or sample < 1:
            raise InvalidInputError("sample must be a positive number of threads.")
        if not isinstance(holdout, (int, float)) or not 0 < holdout < 1:
            raise InvalidInputError("holdout must be a share between 0 and 1.")
        return flows.train.train(sample, holdout, keeps=keep, context=self._context)

    # Checking and repairing

    def verify(
        self, thread_id: str | None = None, *, depth: Depth = "metadata", progress: Progress | None = None
    ) -> Each[Finding]:
        """Find missing, corrupt and unreferenced data, as far as `depth` looks. Changes nothing.

        By default objects and values are not checked, so an empty result does not mean that all of them can be read.
        Only `depth="data"` decodes values. No depth checks whether the serializer can read them.

        Other processes may write meanwhile: data that changes while it is read is left out. Only an object that a call
        has uploaded and not yet committed is reported as unreferenced.

        Without a thread, this also checks the sets of all teams: a committed set whose checkpoint is missing, is
        another one, or is not held, is a finding. So is a trained dictionary with a damaged object.

        In a store with a mirror, the depths `"existence"` and `"data"` also compare both buckets.

        Args:
            thread_id: The thread; all threads of the store if not given.
            depth: `"metadata"` reads all documents. `"existence"` also checks whether every object is there, with its
                size and checksum. `"data"` decodes every value of every checkpoint, and compares it with its digest.
            progress: Called after each thread, with the number of its documents that were read.

        Returns:
            The findings, which are read while you iterate over them, with `for` or `async for`.

        Raises:
            InvalidOptionError: There is no such depth. All other errors are raised by the iteration.
            DamageError: A document is in a place where no writer stores one.
            SerializationError: Metadata was written with another serializer, or its class is gone.
            UnsupportedFormatError: A newer version wrote something.
            ValueTooLargeError: A value is larger than `max_value_bytes`.
            WrongKeyError: Something is encrypted with another key, or the saver has no key. This error and those above
                are raised after all other threads were checked; a `ThreadSkipped` event reports each.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        from langgraph_gcs_saver import results  # noqa: PLC0415 - few processes need it

        return self._each(
            _one_or_all(thread_id),
            partial(self._verify, depth=results.check_depth(depth), progress=progress),
            shared=self._verify_shared,
        )

    def _verify_shared(self) -> Flow[Sequence[Finding]]:
        found: list[Finding] = yield from flows.teams.survey(self._context)
        found += yield from flows.dictionaries.survey(self._context)
        return found + flows.unmirrored.findings("", (yield from flows.unmirrored.shared(self._context)))

    def _verify(self, thread_id: str, depth: Depth, progress: Progress | None) -> Flow[Sequence[Finding]]:
        began = time.monotonic()
        survey = yield from flows.survey.survey(thread_id, depth, self._loads, self._context)
        if progress is not None:
            yield from Compute(partial(progress, survey.documents))
        found = survey.findings()
        if self._subscribers.want(ThreadVerified):
            self._subscribers.emit(
                ThreadVerified(
                    thread_id=thread_id,
                    depth=depth,
                    findings=len(found),
                    damaged=sum(one.is_damage for one in found),
                    seconds=time.monotonic() - began,
                )
            )
        return found

    def plan_repair(self, thread_id: str | None = None) -> Each[RepairPlan]:
        """A plan for each damaged thread: what `repair` would do. Changes nothing.

        Args:
            thread_id: The thread; all threads of the store if not given.

        Raises:
            WrongKeyError, StoreError: As in `repair`; raised by the iteration.
        """
        plan = partial(self._repair_shared, dry_run=True)
        return self._each(_one_or_all(thread_id), lambda one: _page(self._repair(one, dry_run=True)), shared=plan)

    def repair(self, thread_id: str | None = None) -> Sequence[RepairPlan]:
        """Make damaged threads readable again.

        If a value's frame is damaged, the call looks for the value elsewhere in the thread, and proves a result by the
        value's digest. A result may be the same value at another checkpoint or in a pending write, a list or text that
        begins with it, or the value before it with the writes that followed.

        A checkpoint that cannot be made whole, and pending writes that cannot be read, move to the thread's `lg_aside`
        collection. No method lists them any more, but all their data is kept. A damaged document about the thread's
        turn or its latest requests is deleted, so that the thread can run again. Afterwards neither reads nor `verify`
        report damage, except for data that only a backup can restore. With a cipher, only the metadata that
        `clear_metadata` names is written in clear.

        In a store with a mirror, objects that only one bucket has as they were written are copied to the other one.

        Args:
            thread_id: The thread; all threads of the store if not given.

        Returns:
            A plan for each damaged thread: what was found, and what was done.

        Raises:
            CheckpointVerificationError: The service returns other data than was written.
            ConflictError: Other writers kept changing documents that had to be repaired; call again when they are done.
            ThreadBusyError: Another process holds the lease of a thread that needs a repair.
            WrongKeyError: Something is encrypted with another key, or the saver has no key. As in `verify`, errors
                about a thread's stored data are raised after all other threads were repaired.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._repair_all(thread_id), self._backend)

    async def arepair(self, thread_id: str | None = None) -> Sequence[RepairPlan]:
        """Asynchronous twin of `repair`."""
        return await arun(self._repair_all(thread_id), self._backend)

    def _repair_all(self, thread_id: str | None) -> Flow[Sequence[RepairPlan]]:
        one_by_one = partial(self._all, _one_or_all(thread_id), lambda one: _page(self._repair(one)))
        return one_by_one(shared=partial(self._repair_shared, dry_run=False))

    def _repair_shared(self, *, dry_run: bool) -> Flow[Sequence[RepairPlan]]:
        """The repair of what belongs to no thread: its plan has an empty id."""
        dictionaries = yield from flows.dictionaries.repair(dry_run=dry_run, context=self._context)
        copies = yield from flows.remirror.repair_shared(dry_run=dry_run, context=self._context)
        return [plan for plan in (dictionaries, copies) if plan]

    def _repair(self, thread_id: str, *, dry_run: bool = False, planned: RepairPlan | None = None) -> Flow[RepairPlan]:
        began = time.monotonic()
        plan = yield from flows.repair.repair(
            thread_id,
            dry_run=dry_run,
            planned=planned,
            loads=self._loads,
            dumps=partial(dumps, self.serde, what="A value that is looked for"),
            context=self._context,
        )
        if plan.repairs and not dry_run and any(finding.is_damage for finding in plan.findings):
            try:
                yield from flows.recoveries.repaired(thread_id, time.monotonic() - began, self._context)
            except GCSSaverError as error:
                logger.warning("The repair of thread %r was not recorded: %s", thread_id, error)
        return plan

    # Keeping a store small

    def plan_prune(self, thread_ids: Iterable[str], *, strategy: Strategy = "keep_latest") -> Each[PrunePlan]:
        """A plan for each thread: what `prune` would remove, and why the rest stays. Changes nothing.

        Args:
            thread_ids: The threads.
            strategy: As in `prune`.

        Raises:
            InvalidOptionError: There is no such strategy. The iteration raises what `prune` raises.
        """
        rule = _rule_of(strategy)
        return self._each(thread_ids, lambda one: _page(self._prune(one, rule, dry_run=True)))

    def prune(self, thread_ids: Iterable[str], *, strategy: Strategy = "keep_latest") -> Sequence[PrunePlan]:
        """Remove checkpoints of threads, with the pending writes, objects and frames that only they need.

        These checkpoints stay: the latest of a namespace, one that waits for the answer to an interrupt, a pinned one,
        and one that a team's set or a saga's savepoint holds. For each kept checkpoint, those that make up its
        DeltaChannels stay too, and those from which its subgraphs continue. The namespace of a subgraph's call is
        removed with the checkpoint that made the call. Other processes may write meanwhile. Idempotent: call it again
        after a crash, and it continues.

        Args:
            thread_ids: The threads.
            strategy: `"keep_latest"`, or a rule of `langgraph_gcs_saver.policy.retention`, such as `KeepLast(10)` or
                `KeepLast(3) | KeepEvery(timedelta(days=1))`. Or a mapping from patterns of namespaces to rules, such as
                `{"": KeepLast(50), "extract|*": KeepLast(2)}`: see `langgraph_gcs_saver.policy.namespaces`.

        Returns:
            For each thread, the decision for each checkpoint.

        Raises:
            InvalidOptionError: There is no such strategy.
            CheckpointCorruptError: A checkpoint is damaged, or the newest of a namespace is gone, so what it needs is
                unknown: repair it first. Or a checkpoint is gone that DeltaChannels of kept checkpoints are made of:
                restore it. This error and those below are raised after the other threads were pruned.
            DamageError: All checkpoints of a thread's root namespace are gone: restore them.
            ClearTextError: A checkpoint is in clear, and the saver has a `cipher`.
            UnsupportedFormatError: A newer version stored a checkpoint.
            WrongKeyError: A checkpoint is encrypted with another key, or the saver has no key.
            ConflictError: Other writers kept changing what was to be removed, or a copy to a thread has not ended.
        """
        rule = _rule_of(strategy)
        return run(self._all(thread_ids, lambda one: _page(self._prune(one, rule))), self._backend)

    async def aprune(self, thread_ids: Iterable[str], *, strategy: Strategy = "keep_latest") -> Sequence[PrunePlan]:
        """Asynchronous twin of `prune`."""
        rule = _rule_of(strategy)
        return await arun(self._all(thread_ids, lambda one: _page(self._prune(one, rule))), self._backend)

    def _prune(self, thread_id: str, rule: Retention, *, dry_run: bool = False) -> Flow[PrunePlan]:
        return flows.prune.prune_by(rule, thread_id, dry_run=dry_run, loads=self._loads, context=self._context)

    def plan_delete_for_runs(self, run_ids: Iterable[str]) -> Each[RunPlan]:
        """A plan for each run: what `delete_for_runs` would delete. Changes nothing.

        Args:
            run_ids: The runs.

        Raises:
            CheckpointCorruptError, ClearTextError, ThreadInSetError, UnsupportedFormatError, WrongKeyError: As in
                `delete_for_runs`; raised by the iteration.
        """
        return self._each(run_ids, lambda one: _page(self._delete_for_run(one, dry_run=True)), reports=False)

    def delete_for_runs(self, run_ids: Iterable[str], *, force: bool = False) -> Sequence[RunPlan]:
        """Delete every checkpoint that runs wrote, in every thread, with its pending writes.

        Call it when the runs have ended. The checkpoints are deleted even if others need them: a read of a DeltaChannel
        that has lost its history raises from then on. Idempotent: call it again after a crash, and it continues.

        Args:
            run_ids: The runs.
            force: Whether to delete checkpoints that a team's set or a saga's savepoint needs. The sets are marked as
                broken first.

        Returns:
            For each run, what was deleted.

        Raises:
            CheckpointCorruptError: A checkpoint of one of the threads is damaged, or the newest of a namespace is gone:
                repair the thread first. This error and those below are raised after the checkpoints in other threads
                were deleted.
            DamageError: All checkpoints of a thread's root namespace are gone: restore them, or delete the thread.
            ClearTextError: A checkpoint is in clear, and the saver has a `cipher`.
            UnsupportedFormatError: A newer version stored a checkpoint.
            WrongKeyError: A checkpoint is encrypted with another key, or the saver has no key.
            ConflictError: Other writers kept changing what was to be removed, or a copy to a thread has not ended.
            ThreadBusyError: Another process holds the lease of a thread. End the runs, or take the lease over first.
            ThreadInSetError: A set or a savepoint needs a checkpoint of a thread, and `force` is false. Nothing of that
                thread was deleted.
        """
        deletion = self._all(run_ids, lambda one: _page(self._delete_for_run(one, force=force)), reports=False)
        return run(deletion, self._backend)

    async def adelete_for_runs(self, run_ids: Iterable[str], *, force: bool = False) -> Sequence[RunPlan]:
        """Asynchronous twin of `delete_for_runs`."""
        deletion = self._all(run_ids, lambda one: _page(self._delete_for_run(one, force=force)), reports=False)
        return await arun(deletion, self._backend)

    def _delete_for_run(self, run_id: str, *, dry_run: bool = False, force: bool = False) -> Flow[RunPlan]:
        return flows.prune.delete_for_run(
            run_id, dry_run=dry_run, loads=self._loads, context=self._context, force=force
        )

    def plan_delete_thread(self, thread_id: str) -> DeletePlan:
        """What `delete_thread` would delete. Changes nothing.

        Args:
            thread_id: The thread.

        Raises:
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(threads.plan_deletion(str(thread_id)), self._backend)

    async def aplan_delete_thread(self, thread_id: str) -> DeletePlan:
        """Asynchronous twin of `plan_delete_thread`."""
        return await arun(threads.plan_deletion(str(thread_id)), self._backend)

    def delete_thread(self, thread_id: str, *, force: bool = False) -> DeletePlan:
        """Delete every checkpoint, pending write and object of a thread.

        Idempotent: call it again after a crash, and it continues.

        Args:
            thread_id: The thread.
            force: Whether to end the lease of a process that is alive. That process is fenced: it stores nothing more.
                Sets of teams that need a checkpoint of the thread are marked as broken.

        Returns:
            What the thread consisted of.

        Raises:
            ConflictError: Other writers kept writing to the thread.
            StoreError: A service rejected a request, or did not answer before the deadline.
            ThreadBusyError: A process holds the thread's lease.
            ThreadInSetError: A set of a team needs a checkpoint of the thread. Nothing was deleted. A savepoint of a
                saga of the thread does not keep it.
        """
        return run(self._delete_thread(str(thread_id), force=force), self._backend)

    async def adelete_thread(self, thread_id: str, *, force: bool = False) -> DeletePlan:
        """Asynchronous twin of `delete_thread`."""
        return await arun(self._delete_thread(str(thread_id), force=force), self._backend)

    def _delete_thread(self, thread_id: str, *, force: bool = False) -> Flow[DeletePlan]:
        plan = yield from threads.plan_deletion(thread_id)
        yield from threads.delete_thread(thread_id, self._context, force=force)
        return plan

    def plan_collect(self, thread_id: str | None = None, *, orphan_age: timedelta = ORPHAN_AGE) -> Each[CollectPlan]:
        """A plan for each thread that has something to collect, or is left alone. Changes nothing.

        Args:
            thread_id: The thread; all threads of the store if not given.
            orphan_age: As in `collect`.

        Raises:
            InvalidOptionError: The age is negative. The iteration raises what `collect` raises.
        """
        age = _seconds(orphan_age)
        work = partial(self._collect_older, age, True)
        return self._each(_one_or_all(thread_id), work, shared=partial(work, None))

    def collect(self, thread_id: str | None = None, *, orphan_age: timedelta = ORPHAN_AGE) -> Sequence[CollectPlan]:
        """Delete orphans: objects and documents of crashed calls, and objects that lost a race.

        Operations whose outcome need not be kept any longer go too, and recovery records that have expired. Without
        `thread_id`, so do the operations that all threads share.

        Schedule it once a day. Other processes may write, prune, copy and read meanwhile.

        Some threads are left alone, with a `ThreadSkipped` event. A thread with a damaged checkpoint is one: repair it
        first. Another is a thread that has lost its newest checkpoint, or one that DeltaChannels are made of, until
        that is restored. So is a thread of a newer version, and one to which a copy has not ended. The last has no
        plan.

        Args:
            thread_id: The thread; all threads of the store if not given.
            orphan_age: How old an object or pending write must be. A call that is still at work commits within an hour,
                and one that stores a blob within 12 hours. Before you pass less than a day, stop all writers.

        Returns:
            A plan for each thread that had something to collect, or was left alone.

        Raises:
            InvalidOptionError: The age is negative.
            WrongKeyError: Something is encrypted with another key, or the saver has no key. As in `verify`, errors
                about a thread's stored data are raised after all other threads were collected.
            SerializationError: A thread has lost checkpoints, by pruning or otherwise, and the serializer cannot read
                which DeltaChannels the thread has. It is raised at the same point.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        age = _seconds(orphan_age)
        work = partial(self._collect_older, age, False)
        return run(self._all(_one_or_all(thread_id), work, shared=partial(work, None)), self._backend)

    async def acollect(
        self, thread_id: str | None = None, *, orphan_age: timedelta = ORPHAN_AGE
    ) -> Sequence[CollectPlan]:
        """Asynchronous twin of `collect`."""
        age = _seconds(orphan_age)
        work = partial(self._collect_older, age, False)
        return await arun(self._all(_one_or_all(thread_id), work, shared=partial(work, None)), self._backend)

    def _collect_older(self, orphan_age: float, dry_run: bool, thread_id: str | None) -> Flow[Sequence[CollectPlan]]:
        before = (yield from Now()) - orphan_age
        return (yield from _page(self._collect(thread_id, before, dry_run)))

    def _collect(
        self, thread_id: str | None, before: float, dry_run: bool, planned: CollectPlan | None = None
    ) -> Flow[CollectPlan]:
        context = self._context
        if thread_id is None:
            return flows.collect.collect_shared(before, dry_run=dry_run, planned=planned, context=context)
        return flows.collect.collect(
            thread_id, before, dry_run=dry_run, planned=planned, loads=self._loads, context=context
        )

    def plan_sweep(self) -> Each[IdleThread]:
        """The threads that `sweep` would delete. Changes nothing.

        Raises:
            InvalidOptionError: The saver was made without `ttl`.
            StoreError: A service rejected a request, or did not answer before the deadline; raised by the iteration.
        """
        return Each(self._idle_threads(), self._backend)

    def sweep(self) -> Sequence[IdleThread]:
        """Delete the threads that have received no checkpoint, and begun no operation, for longer than `ttl`.

        Schedule it, for example as a Cloud Run job. A thread that is used meanwhile stays, and so does one with
        a pinned checkpoint, or one that a set or a savepoint holds. Idempotent: call it again after a crash, and it
        continues.

        Returns:
            The threads that were deleted.

        Raises:
            InvalidOptionError: The saver was made without `ttl`.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._sweep(self._idle_threads()()), self._backend)

    async def asweep(self) -> Sequence[IdleThread]:
        """Asynchronous twin of `sweep`."""
        return await arun(self._sweep(self._idle_threads()()), self._backend)

    def _idle_threads(self) -> Callable[[], Pages[IdleThread]]:
        if self._options.ttl is None:
            raise InvalidOptionError("sweep() needs to know when a thread is idle. Make the saver with ttl=….")
        return partial(flows.sweep.idle_threads, self._options.ttl.total_seconds())

    def _sweep(self, idle: Pages[IdleThread]) -> Flow[Sequence[IdleThread]]:
        swept: list[IdleThread] = []
        while (page := (yield from idle())) is not None:
            for thread in page:
                done = yield from flows.sweep.sweep_thread(thread, self._context)
                swept += [] if done is None else [done]
        return swept

    def carry_out(self, plan: Plan) -> Plan | None:
        """Do what a plan says, and nothing else.

        Data that has become needed since the plan was made stays. So do checkpoints of the run that the plan does not
        show. A repair ends after the planned steps, even if they bring more damage to light: plan again.

        Args:
            plan: A plan from `plan_prune`, `plan_delete_thread`, `plan_delete_for_runs`, `plan_collect`, `plan_sweep`
                or `plan_repair`.

        Returns:
            What was done, as a plan of the same kind; `None` for an idle thread that is in use again.

        Raises:
            InvalidInputError: The argument is not such a plan.
            ConflictError: A thread needs other steps than its planned repair has. No other step was taken.
            GCSSaverError: An error of the method that does the same without a plan, such as `prune`.
        """
        return cast("Plan | None", run(self._carry_out(plan), self._backend))

    async def acarry_out(self, plan: Plan) -> Plan | None:
        """Asynchronous twin of `carry_out`."""
        return cast("Plan | None", await arun(self._carry_out(plan), self._backend))

    def _carry_out(self, plan: object) -> Flow[object]:
        from langgraph_gcs_saver import results  # noqa: PLC0415 - few processes need it

        match plan:
            case results.PrunePlan():
                from langgraph_gcs_saver.policy import retention  # noqa: PLC0415 - likewise

                gone = frozenset(decision.row.name for decision in plan.decisions if decision.reason is None)
                choose = partial(retention.decide, rule=retention.AnyOf(()), now=0, planned=gone)
                return flows.prune.prune(
                    plan.thread_id, choose, dry_run=False, loads=self._loads, context=self._context
                )
            case results.RunPlan():
                return flows.prune.delete_planned(plan, self._loads, self._context)
            case results.DeletePlan():
                return self._delete_thread(plan.thread_id)
            case results.CollectPlan():
                return self._collect(plan.thread_id, plan.before, False, plan)
            case results.IdleThread():
                return flows.sweep.sweep_thread(plan, self._context)
            case results.RepairPlan(thread_id=""):
                return flows.dictionaries.repair(dry_run=False, context=self._context)
            case results.RepairPlan():
                return self._repair(plan.thread_id, dry_run=False, planned=plan)
            case _:
                raise InvalidInputError(
                    f"carry_out() got a {type(plan).__name__}. Pass one plan from plan_prune, plan_delete_thread, "
                    "plan_delete_for_runs, plan_collect, plan_sweep or plan_repair."
                )

    # Pins

    def pin(self, config: RunnableConfig, label: str) -> None:
        """Keep a checkpoint from being pruned; a second pin replaces the first one's label.

        Args:
            config: The checkpoint.
            label: Why it is kept, in at most 500 characters.

        Raises:
            ConflictError: Other writers kept changing its document.
            InvalidConfigError: The config names no checkpoint, or one that does not exist.
            InvalidInputError: The label is not a str, or is too long.
        """
        request = configs.pin_request(config, label)
        configs.check_found(request, run(flows.prune.pin(*request, context=self._context), self._backend))

    async def apin(self, config: RunnableConfig, label: str) -> None:
        """Asynchronous twin of `pin`."""
        request = configs.pin_request(config, label)
        configs.check_found(request, await arun(flows.prune.pin(*request, context=self._context), self._backend))

    def unpin(self, config: RunnableConfig) -> None:
        """Remove a checkpoint's pin, if it has one.

        Args:
            config: The checkpoint.

        Raises:
            InvalidConfigError: The config names no checkpoint, or one that does not exist.
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
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(flows.prune.pins(*configs.thread_and_ns(config)), self._backend)

    async def apins(self, config: RunnableConfig) -> Mapping[str, str]:
        """Asynchronous twin of `pins`."""
        return await arun(flows.prune.pins(*configs.thread_and_ns(config)), self._backend)

    def holds(self, config: RunnableConfig) -> Mapping[str, Sequence[str]]:
        """The sets and savepoints that hold checkpoints of a thread's namespace, by checkpoint id, newest first.

        While a checkpoint is held, pruning keeps it, and what it needs. Each hold is a text, such as `set S of team T`.

        Args:
            config: Names the thread and the namespace.

        Raises:
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(flows.holds.held(*configs.thread_and_ns(config)), self._backend)

    async def aholds(self, config: RunnableConfig) -> Mapping[str, Sequence[str]]:
        """Asynchronous twin of `holds`."""
        return await arun(flows.holds.held(*configs.thread_and_ns(config)), self._backend)

    # Leases

    def leases(self, *, expired: bool = False) -> Each[LeaseInfo]:
        """The leases of all threads that a process holds or held when it crashed, for `for` and `async for`.

        Args:
            expired: Only those that have expired: their holders gave no sign of life for their `ttl`.

        Raises:
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return Each(lambda: self._leases_page(expired=expired), self._backend)

    def _leases_page(self, *, expired: bool) -> Pages[LeaseInfo]:
        next_page = flows.leases.leases()

        def page() -> Flow[Sequence[LeaseInfo] | None]:
            found = yield from next_page()
            return None if found is None else [one for one in found if one.is_expired or not expired]

        return page

    def recoveries(self, thread_id: str | None = None) -> Each[RecoveryRecord]:
        """What crashes and damage have cost: the recovery records, for `for` and `async for`, oldest first.

        Without a thread, they come thread by thread. To get a rate of crashes, divide the number of takeovers by the
        time for which processes worked. `held` is that time for those that crashed; all others leave no record.

        Args:
            thread_id: The thread; all threads of the store if not given.

        Raises:
            InvalidIdError: The id cannot be stored.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return Each(partial(flows.recoveries.listed, None if thread_id is None else str(thread_id)), self._backend)

    # Runs

    def status(self, thread_id: str) -> ThreadStatus:
        """What a thread is doing: what comes next, what it asks a person, who works on it, and since when.

        This takes one or two rounds, and is right just after a crash too.

        Args:
            thread_id: The thread.

        Raises:
            CheckpointCorruptError: The newest checkpoint is damaged, and the saver does not fall back to an older one;
                or its pending writes are damaged.
            InvalidIdError: The id cannot be stored.
            StoreError: A service rejected a request, or did not answer before the deadline.
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
        """
        return run(flows.work.described(str(thread_id), self._loads, self._context), self._backend)

    async def astatus(self, thread_id: str) -> ThreadStatus:
        """Asynchronous twin of `status`."""
        return await arun(flows.work.described(str(thread_id), self._loads, self._context), self._backend)

    def runs(self, *, state: str | None = None) -> Each[ThreadStatus]:
        """The threads whose turns have not finished, for `for` and `async for`.

        It finds the threads that `run` and its twins work on, or have worked on, and those that were answered. It reads
        no others.

        Args:
            state: `"running"`, `"waiting"`, `"paused"`, `"crashed"`, `"due"` or `"poison"`; all of them if `None`. See
                `ThreadStatus`.

        Raises:
            CheckpointCorruptError: As for `status`, and other errors if a thread cannot be read. The first one is
                raised after all other threads were listed; a `ThreadSkipped` event reports each.
            InvalidInputError: There is no such state.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        if state is not None and state not in flows.work.STATES:
            raise InvalidInputError(f"state is {state!r}; it must be one of {', '.join(flows.work.STATES)}.")
        return Each(lambda: flows.work.listed(state, self._loads, self._context), self._backend)

    def watch(self) -> Watch:
        """Repeated looks at the store, as `langgraph-gcs top` takes them. This reads nothing; `watch().look()` does.

        Example:
            >>> watch = saver.admin.watch()
            >>> watch.look(limit=10, order="state").states
            {'crashed': 1, 'running': 4}
        """
        from langgraph_gcs_saver.saver.watch import Watch  # noqa: PLC0415 - few processes need it

        seen = flows.watch.Watch()
        return Watch(
            lambda limit, order: seen.look(limit, order, self._loads, self._context),
            self._backend,
        )

    # Leases

    def pause(self, thread_id: str, *, cancel: bool = False) -> bool:
        """Ask the holder of a thread's lease to end its run at the next boundary between two steps.

        This only leaves a wish. The holder finds it with its next beat, at the latest after a third of the lease's
        `ttl`.

        Args:
            thread_id: The thread.
            cancel: Withdraw the wish. A run that has been asked already ends nevertheless.

        Returns:
            Whether the lease has a holder.

        Raises:
            ConflictError: Other writers kept changing the lease.
            InvalidIdError: The id cannot be stored.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(flows.leases.pause(str(thread_id), cancel), self._backend)

    async def apause(self, thread_id: str, *, cancel: bool = False) -> bool:
        """Asynchronous twin of `pause`."""
        return await arun(flows.leases.pause(str(thread_id), cancel), self._backend)

    # Operations

    def operations(self, thread_id: str | None, *, unresolved: bool = False) -> Sequence[OperationInfo]:
        """The recorded side effects of a thread, in the order in which they were last claimed.

        Args:
            thread_id: The thread; `None` for the operations that all threads share.
            unresolved: Whether to list only those whose outcome is unknown.

        Raises:
            DamageError: The document of one of them is damaged.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._operations(thread_id, unresolved), self._backend)

    async def aoperations(self, thread_id: str | None, *, unresolved: bool = False) -> Sequence[OperationInfo]:
        """Asynchronous twin of `operations`."""
        return await arun(self._operations(thread_id, unresolved), self._backend)

    def _operations(self, thread_id: str | None, unresolved: bool) -> Flow[Sequence[OperationInfo]]:
        return flows.operations.listed(thread_id, self._context, only_unresolved=unresolved)

    def resolve_operation(
        self, thread_id: str | None, key: str, *, result: Any = NOT_GIVEN, not_done: bool = False
    ) -> OperationInfo:
        """Settle an operation whose outcome is unknown. Find out first whether it took effect.

        Args:
            thread_id: The thread; `None` for an operation that all threads share.
            key: The operation's key.
            result: The result, if the operation took effect; it may be `None`. Later calls with the same key return it.
            not_done: Whether the operation did not take effect. Then the next call performs it.

        Raises:
            ConflictError: Its outcome is known, or it changed meanwhile. The message says its state.
            InvalidInputError: There is no such operation, or not exactly one of `result` and `not_done` is given.
            OperationInProgressError: A call may still be performing it.
            SerializationError: The result cannot be serialized.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(self._resolve_operation(thread_id, key, result, not_done), self._backend)

    async def aresolve_operation(
        self, thread_id: str | None, key: str, *, result: Any = NOT_GIVEN, not_done: bool = False
    ) -> OperationInfo:
        """Asynchronous twin of `resolve_operation`."""
        return await arun(self._resolve_operation(thread_id, key, result, not_done), self._backend)

    def _resolve_operation(self, thread_id: str | None, key: str, result: Any, not_done: bool) -> Flow[OperationInfo]:
        outcome = found_out(self.serde, key, result, not_done=not_done)
        return flows.operations.info((yield from flows.operations.resolve(thread_id, key, outcome, self._context)))

    # Batches

    def batches(self, thread_id: str) -> Sequence[BatchInfo]:
        """The batches of a thread, with how far each of them is, in the order of their ids' encodings.

        Args:
            thread_id: The thread.

        Raises:
            DamageError: A document of one of them is damaged.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(flows.item_batches.batches(str(thread_id), self._context), self._backend)

    async def abatches(self, thread_id: str) -> Sequence[BatchInfo]:
        """Asynchronous twin of `batches`."""
        return await arun(flows.item_batches.batches(str(thread_id), self._context), self._backend)

    # Sagas

    def sagas(self, thread_id: str) -> Sequence[SagaInfo]:
        """The sagas of a thread, with their steps, in the order of their ids' encodings.

        Args:
            thread_id: The thread.

        Raises:
            DamageError: A document of one of them is damaged.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(flows.sagas.listed(str(thread_id), self._context), self._backend)

    async def asagas(self, thread_id: str) -> Sequence[SagaInfo]:
        """Asynchronous twin of `sagas`."""
        return await arun(flows.sagas.listed(str(thread_id), self._context), self._backend)

    def rollbacks(self, *, state: str | None = None) -> Each[SagaInfo]:
        """The sagas of all threads whose rollback has not ended, for `for` and `async for`. It reads no others.

        One that is `compensating` is being rolled back, or the process that did it has crashed: `resume` completes it.
        One that is `stuck` waits for a person; the `problem` of each step says why.

        Args:
            state: `"compensating"` or `"stuck"`; both if `None`.

        Raises:
            DamageError: A document of one of them is damaged. It is raised after all others were listed, and a
                `ThreadSkipped` event reports each.
            InvalidInputError: The state is another one.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        if state is not None and state not in ROLLING_BACK:
            raise InvalidInputError(f"state is {state!r}; it must be one of {', '.join(ROLLING_BACK)}.")
        return Each(lambda: flows.sagas.rolling_back(state, self._context), self._backend)

    # Copying threads

    def copy_thread(self, source_thread_id: str, target_thread_id: str, *, dry_run: bool = False) -> CopyPlan:
        """Copy all checkpoints and pending writes of a thread, as they are now, to a thread that is empty.

        Cloud Storage copies objects by itself. Frames of values are copied as they are stored, so a frame in clear
        stays in clear. Manifests and pending writes in clear, which `accept_clear` allows, are encrypted. The plan
        contains their number, and a `ClearTextEncrypted` event reports it, because the cipher vouches for them from
        then on. Metadata that is stored in clear is copied only if `clear_metadata` names it.

        Pins and holds are not copied. A call with the same arguments continues one that crashed, if the target holds
        only a part of what the source has now. Otherwise it raises, and overwrites nothing in the target.

        Args:
            source_thread_id: The thread to copy from.
            target_thread_id: The thread to copy to.
            dry_run: Copy nothing; return what would be copied.

        Returns:
            What was copied.

        Raises:
            InvalidInputError: The target is the source, or is neither empty nor a part of the source as it is now.
            CheckpointCorruptError: A checkpoint of the source is damaged, or the newest of a namespace is gone: repair
                the source first.
            ClearTextError: A checkpoint is in clear, and the saver has a `cipher`.
            DamageError: All checkpoints of the source's root namespace are gone: restore them first.
            ConflictError: Other writers kept writing to the target or deleting it, or the source was deleted meanwhile.
        """
        copying = flows.copy.copy_thread(
            str(source_thread_id), str(target_thread_id), dry_run=dry_run, context=self._context
        )
        return run(copying, self._backend)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str, *, dry_run: bool = False) -> CopyPlan:
        """Asynchronous twin of `copy_thread`."""
        copying = flows.copy.copy_thread(
            str(source_thread_id), str(target_thread_id), dry_run=dry_run, context=self._context
        )
        return await arun(copying, self._backend)

    def transfer_thread(
        self, thread_id: str, target: Connection, *, dry_run: bool = False, progress: Progress | None = None
    ) -> Transfer:
        """Copy everything of a thread, as it is now, to another store, where the thread must be empty.

        Documents and objects are copied byte for byte, without a key. That includes pins, pending writes, and documents
        that repairs have set aside, but no holds of sets and savepoints. Then all of it is read from the target and
        compared, and decoded if possible. Damage in the source is copied too, and reported for the target. The source
        does not change.

        A call with the same source continues one that crashed. It raises if the target holds something that the source
        does not have, no longer has, or has with other content. Until the transfer is done, do not write to the thread
        in the target; you may write to it in the source.

        Args:
            thread_id: The thread.
            target: A saver, or an `Admin`, of the store to copy it to.
            dry_run: Copy nothing; return what would be copied.
            progress: Called with the number of documents and objects that were copied, or compared, since the last
                call.

        Returns:
            What was copied. It has no checkpoints, writes or objects if there is no such thread.

        Raises:
            InvalidInputError: The target is not empty.
            CheckpointVerificationError: The target returns other data than was copied.
            ConflictError: Other writers kept writing to the target or deleting it, or the source is being deleted.
            DamageError: The source's bucket and its mirror have other bytes of an object. `repair` it first.
        """
        there: Admin = beside(target, Admin)
        between = there._between(self._backend)
        return run(there._receive(str(thread_id), dry_run, progress), between)

    async def atransfer_thread(
        self, thread_id: str, target: Connection, *, dry_run: bool = False, progress: Progress | None = None
    ) -> Transfer:
        """Asynchronous twin of `transfer_thread`."""
        there: Admin = beside(target, Admin)
        between = there._between(self._backend)
        return await arun(there._receive(str(thread_id), dry_run, progress), between)

    def _between(self, source: Backend) -> NamedStores:
        """Stores for a flow that reads a source and writes this saver's store."""
        stores = {flows.transfer.SOURCE: source, flows.transfer.TARGET: self._backend}
        return NamedStores(stores, home=flows.transfer.TARGET)

    def _receive(self, thread_id: str, dry_run: bool, progress: Progress | None) -> Flow[Transfer]:
        return flows.transfer.transfer(
            thread_id, dry_run=dry_run, progress=progress, loads=self._loads, context=self._context
        )

    def export_thread(
        self, thread_id: str, path: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> Transfer:
        """Write everything of a thread, as it is now, to one file, a tar archive that `import_thread` reads.

        The file appears under its name after all of it was read back. It replaces a file with that name.

        Args:
            thread_id: The thread.
            path: The file.
            progress: As in `transfer_thread`.

        Returns:
            What was written. If there is no such thread, it has no checkpoints, writes or objects, and no file is
            written.

        Raises:
            ConflictError: Other processes kept replacing or pruning the thread, or it is being deleted.
            DamageError: The bucket and its mirror have other bytes of an object. `repair` it first.
            StoreError: The file cannot be written.
        """
        with _new_archive(path) as archive:
            return run(flows.transfer.export(str(thread_id), archive, progress), self._backend)

    async def aexport_thread(
        self, thread_id: str, path: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> Transfer:
        """Asynchronous twin of `export_thread`."""
        with _new_archive(path) as archive:
            return await arun(flows.transfer.export(str(thread_id), archive, progress), self._backend)

    def import_thread(
        self, path: str | os.PathLike[str], *, dry_run: bool = False, progress: Progress | None = None
    ) -> Transfer:
        """Import a thread that `export_thread` has written. It keeps its id, and must be empty here.

        The file is checked from end to end before anything is written. Import only files whose author you trust,
        because reading a state deserializes it.

        Args:
            path: The file.
            dry_run: Only check the file; return what would be imported.
            progress: As in `transfer_thread`.

        Returns:
            What was imported.

        Raises:
            InvalidInputError: The file is not an archive of a thread, or the thread is not empty here.
            DamageError: The file is corrupt.
            CheckpointVerificationError: The store returns other data than was imported.
        """
        archive = run(self._open_archive(path), self._backend)
        with closing(Backend(archive, archive)) as source:
            return run(self._receive(archive.thread_id, dry_run, progress), self._between(source))

    async def aimport_thread(
        self, path: str | os.PathLike[str], *, dry_run: bool = False, progress: Progress | None = None
    ) -> Transfer:
        """Asynchronous twin of `import_thread`."""
        archive = await arun(self._open_archive(path), self._backend)
        with closing(Backend(archive, archive)) as source:
            return await arun(self._receive(archive.thread_id, dry_run, progress), self._between(source))

    def _open_archive(self, path: str | os.PathLike[str]) -> Flow[Archive]:
        from langgraph_gcs_saver.stores.archive import Archive  # noqa: PLC0415 - only if needed

        most = max(1 << 30, self._context.codec.max_bytes) + (1 << 20)
        return (yield from Compute(partial(Archive, Path(path), max_object=most), size=most))

    def migrate(
        self,
        source: BaseCheckpointSaver[Any],
        thread_ids: Iterable[Any] | None = None,
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Sequence[Migration]:
        """Copy threads with all their checkpoints from another checkpointer, and compare; the source stays.

        The copy includes every namespace, forks, metadata and pending writes, oldest first, as far as the source
        returns them. If both checkpointers use LangGraph's serializer, values are copied in their serialized form.
        Afterwards all of it is read from both and compared.

        You can repeat the call: it continues one that crashed, copies what is new in the source, and changes nothing
        else. Until the migration is done, do not write to these threads here. `retention` applies from the first write
        on.

        A source that is a `GCSSaver` is verified first, with every value, because its `list` skips damaged checkpoints.
        A thread that is damaged there is not migrated: `repair` it there first.

        Args:
            source: The checkpointer. The migration calls its `list` and `get_tuple`; in a coroutine, `alist` and
                `aget_tuple`.
            thread_ids: The threads; all that the source lists, if not given.
            dry_run: Copy nothing; return what would be copied.
            progress: Called with the number of checkpoints that were stored, or compared, since the last call.

        Returns:
            For each thread, what was copied. It has no checkpoints if the source has no such thread.

        Raises:
            InvalidInputError: A thread with the same id exists here and is another one, or has continued both here and
                in the source.
            CheckpointVerificationError: This store returns other data than the source.
            SerializationError: A value cannot be serialized.
            SourceError: The source failed; or it is a `GCSSaver`, and the thread is damaged there.
        """
        return run(self._migrate(source, thread_ids, dry_run, progress), self._backend)

    async def amigrate(
        self,
        source: BaseCheckpointSaver[Any],
        thread_ids: Iterable[Any] | None = None,
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Sequence[Migration]:
        """Asynchronous twin of `migrate`."""
        return await arun(self._migrate(source, thread_ids, dry_run, progress), self._backend)

    def _migrate(
        self,
        source: BaseCheckpointSaver[Any],
        thread_ids: Iterable[Any] | None,
        dry_run: bool,
        progress: Progress | None,
    ) -> Flow[Sequence[Migration]]:
        from langgraph_gcs_saver.saver.foreign import Foreign  # noqa: PLC0415 - few processes need it

        foreign = Foreign(source, self.serde, _admin_of)
        wanted = (yield from foreign.thread_ids()) if thread_ids is None else thread_ids
        found: list[Migration] = []
        for one in wanted:
            thread = foreign.thread(one, self._context)
            migrating = flows.migrate.migrate(
                str(one), thread, dry_run=dry_run, progress=progress, context=self._context
            )
            found.append((yield from migrating))
        return found if thread_ids is not None else [one for one in found if one]

    def rebind(self, *, force: bool = False, dry_run: bool = False) -> RebindPlan:
        """Bind the store to this saver's bucket and prefix, because its objects were moved or restored there.

        A store belongs to the bucket and prefix of its first writer, and all calls with another place raise
        `WrongStoreError`. Stop all writers first, because a process that knows the old place writes objects there until
        it ends. No object is copied or deleted.

        Args:
            force: Bind the store even if objects are missing there. Checkpoints that need them are then damaged.
            dry_run: Bind nothing; return what would be done.

        Returns:
            What was done, and what was found at the new place. It is false if the store was bound to that place
            already.

        Raises:
            InvalidInputError: Objects are missing there, or this is an embedded store, which has no bucket.
            ConflictError: Another process bound the store meanwhile.
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
            StoreNotFoundError: There is no such bucket.
        """
        binding = flows.rebind.rebind(force=force, dry_run=dry_run, loads=self._loads, context=self._context)
        return run(binding, self._backend, unchecked=True)

    async def arebind(self, *, force: bool = False, dry_run: bool = False) -> RebindPlan:
        """Asynchronous twin of `rebind`."""
        binding = flows.rebind.rebind(force=force, dry_run=dry_run, loads=self._loads, context=self._context)
        return await arun(binding, self._backend, unchecked=True)

    # Replication

    def replicate(self, target: Connection) -> Shipped:
        """Make another store the replica of this one, and ship everything that it lacks.

        The target becomes a replica first, and takes no writes. Then this store becomes the primary, and each commit
        adds to its outbox what has changed. Restart the writers after the first call, because a process that knows that
        the store has no replica adds nothing. Then call `reconcile`, which ships what they have stored meanwhile.

        You can repeat the call: it continues one that crashed, and ships what the outbox has.

        Args:
            target: A saver, or an `Admin`, of the store that becomes the replica. It must be empty, unless it is this
                store's replica already. With a cipher, both have the same key.

        Returns:
            What was shipped, and the threads that could not be shipped.

        Raises:
            InvalidInputError: The target has threads that were not replicated, one of the stores is replicated with
                another one, this store is not the primary of the two, or they are the same.
            ConflictError: Other processes kept changing the roles.
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
        """
        pair = self._replicas(target)
        return pair.reported(run(pair.begin(), pair.stores))

    async def areplicate(self, target: Connection) -> Shipped:
        """Asynchronous twin of `replicate`."""
        pair = self._replicas(target)
        return pair.reported(await arun(pair.begin(), pair.stores))

    def follow(self, target: Connection, *, every: float = 1.0) -> Following:
        """Ship what the outbox has, again and again. It works while you iterate, until the target is the primary.

            for shipped in saver.admin.follow(replica):
                print(shipped)

        Call `replicate` first. Any number of processes may follow at the same time. `Replicated` events say how far the
        replica is behind. If a store does not answer, it waits, and reports that by `ReplicationFailed` events.

        Args:
            target: A saver, or an `Admin`, of the replica.
            every: Seconds between two looks, above 0. After a look that failed, it waits longer, up to a minute.

        Returns:
            What each look has shipped, for `for` and `async for`.

        Raises:
            InvalidInputError: `every` is not a positive number, or the two stores are the same. The iteration raises it
                if this store is not replicated to the target.
            NotPrimaryError: The target has become the primary. The iteration raises this.
            StoreError: A service rejected a request. The iteration raises this.
        """
        from langgraph_gcs_saver.saver.replicas import Following  # noqa: PLC0415 - few processes need it

        if isinstance(every, bool) or not isinstance(every, (int, float)) or not 0 < every < math.inf:
            raise InvalidInputError(f"every is {every!r}; it must be a positive number of seconds.")
        return Following(self._replicas(target), every)

    def reconcile(self, target: Connection, thread_id: str | None = None) -> Each[Reconciled]:
        """Ship what a replica lacks, or has in another version, whatever the outbox says.

        Each thread of this store is compared with the replica. So this ships what was stored while no outbox was
        written, and heals what was damaged in the replica. It deletes nothing there.

        Args:
            target: A saver, or an `Admin`, of the replica.
            thread_id: The thread; all threads of the store if not given.

        Returns:
            What was shipped of each thread, while you iterate, with `for` or `async for`.

        Raises:
            InvalidInputError: The two stores are the same. The errors below are raised by the iteration.
            NotPrimaryError: This store is not the primary of the two.
            CheckpointCorruptError: A checkpoint is damaged: repair it first.
            ConflictError: Others changed a thread in every try.
            WrongKeyError: Something is encrypted with another key, or the saver has no key.
        """
        pair = self._replicas(target)
        return Each(partial(pair.reconcile, None if thread_id is None else str(thread_id)), pair.stores)

    def replication(self, target: Connection) -> ReplicationStatus:
        """How far the replication to another store is: the roles of both, the mark, and what the outbox has.

        Args:
            target: A saver, or an `Admin`, of the other store.

        Raises:
            DamageError: The document of a role is damaged.
            InvalidInputError: The two stores are the same.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        pair = self._replicas(target)
        return run(pair.status(), pair.stores)

    async def areplication(self, target: Connection) -> ReplicationStatus:
        """Asynchronous twin of `replication`."""
        pair = self._replicas(target)
        return await arun(pair.status(), pair.stores)

    def failover(self, target: Connection, *, force: bool = False, abort: bool = False) -> Failover:
        """Make a replica the primary in place of this store, which becomes its replica.

        First this store is fenced: from then on, neither store takes writes. Then what the replica lacks is shipped.
        Last, the replica becomes the primary. Nothing that was acknowledged is missing there. If the process crashes,
        call it again: any process can continue. To fail back, call it in the other direction.

        Args:
            target: A saver, or an `Admin`, of the replica. With a cipher, both have the same key.
            force: Do not wait for this store, because it cannot be reached. The replica becomes the primary at once,
                and lacks what was not shipped. Until this store can be reached, it may still take writes, and `once`
                raises `OutcomeUnknownError` for operations that this store may have begun. So call it again then. That
                fences this store, and ships what it has taken. Where both stores have continued a thread, it forks.
            abort: Take back a failover that was not completed: this store stays the primary, or becomes it again.

        Returns:
            Which store is the primary now, and what was shipped. After a forced failover, also the time before which
            nothing is missing, and why this store was not fenced.

        Raises:
            InvalidInputError: The stores do not replicate to each other; `replicate` has not ended; there is nothing to
                take back; or both `force` and `abort` are true.
            ConflictError: Other processes kept changing the roles.
            CheckpointCorruptError: A checkpoint is damaged, so it was not shipped. This store stays fenced: take the
                failover back, repair the thread, and call it again.
            DamageError: The same, of another document.
            WrongKeyError: The same, for something that is encrypted with another key.
        """
        pair = self._replicas(target)
        return pair.failed_over(run(pair.failover(force=force, abort=abort), pair.stores))

    async def afailover(self, target: Connection, *, force: bool = False, abort: bool = False) -> Failover:
        """Asynchronous twin of `failover`."""
        pair = self._replicas(target)
        return pair.failed_over(await arun(pair.failover(force=force, abort=abort), pair.stores))

    def _replicas(self, target: Connection) -> Replicas:
        from langgraph_gcs_saver.saver.replicas import Replicas  # noqa: PLC0415 - few processes need it

        return Replicas(self, target)

    # Teams

    def team(self, team_id: str) -> TeamSets:
        """The sets of a team: make, list, check, restore and delete them. This reads nothing; the team need not exist.

        Raises:
            InvalidIdError: The id cannot be stored.
            InvalidInputError: It is not text.
        """
        from langgraph_gcs_saver.saver.team import TeamSets  # noqa: PLC0415 - few processes need it

        return TeamSets(self, team_id)

    def teams(self) -> Each[TeamInfo]:
        """The teams of the store, with their members and sets, for `for` and `async for`.

        Raises:
            DamageError: A document of a team is damaged. This error and the next one are raised after all other teams
                were listed.
            WrongKeyError: It is encrypted with another key, or the saver has no key.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return Each(lambda: flows.teams.listed(self._context), self._backend)

    # The common part of methods for many threads

    def _pages(
        self,
        ids: Iterable[str] | None,
        work: Callable[[str], Flow[Sequence[T]]],
        *,
        reports: bool,
        shared: Callable[[], Flow[Sequence[T]]] | None = None,
    ) -> Pages[T]:
        from langgraph_gcs_saver.flows import all_threads  # noqa: PLC0415 - few processes need it

        if isinstance(ids, str):
            raise InvalidInputError("A single id was passed where several are expected. Pass a list of ids.")
        given = None if ids is None else map(str, ids)
        return all_threads.each_thread(given, work, self._context, reports=reports, shared=shared)

    def _each(
        self,
        ids: Iterable[str] | None,
        work: Callable[[str], Flow[Sequence[T]]],
        *,
        reports: bool = True,
        shared: Callable[[], Flow[Sequence[T]]] | None = None,
    ) -> Each[T]:
        known = ids if ids is None or isinstance(ids, str) else tuple(ids)
        return Each(lambda: self._pages(known, work, reports=reports, shared=shared), self._backend)

    def _all(
        self,
        ids: Iterable[str] | None,
        work: Callable[[str], Flow[Sequence[T]]],
        *,
        reports: bool = True,
        shared: Callable[[], Flow[Sequence[T]]] | None = None,
    ) -> Flow[list[T]]:
        from langgraph_gcs_saver.flows import all_threads  # noqa: PLC0415 - few processes need it

        return all_threads.all_of(self._pages(ids, work, reports=reports, shared=shared))


def _page(flow: Flow[T]) -> Flow[Sequence[T]]:
    """A page with the result of a flow, unless that is false: it says that there is nothing."""
    found = yield from flow
    return [found] if found else []


def _one_or_all(thread_id: str | None) -> tuple[str, ...] | None:
    return None if thread_id is None else (thread_id,)


class SourceAdmin(Admin):
    """The admin of a store that a migration reads."""

    def surveys(self, thread_id: str) -> Each[Survey]:
        """The survey of a thread, with every value; raises as `verify` does."""
        return self._each((thread_id,), lambda one: _page(flows.survey.survey(one, "data", self._loads, self._context)))


def _admin_of(checkpointer: BaseCheckpointSaver[Any]) -> SourceAdmin | None:
    return beside(checkpointer, SourceAdmin) if isinstance(checkpointer, Connection) else None


def _seconds(orphan_age: timedelta) -> float:
    if not isinstance(orphan_age, timedelta) or orphan_age < timedelta():
        raise InvalidOptionError(f"orphan_age is {orphan_age!r}; it must be a timedelta that is not negative.")
    return orphan_age.total_seconds()


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


def _rule_of(strategy: Strategy) -> Retention:
    """The rule of a strategy.

    Raises:
        InvalidOptionError: There is no such strategy.
    """
    from langgraph_gcs_saver.policy import retention  # noqa: PLC0415 - few processes need it

    if strategy == "keep_latest":
        return retention.KeepLast(1)
    if isinstance(strategy, Mapping):
        return retention.PerNamespace.parse(strategy)
    if isinstance(strategy, str | type) or not hasattr(strategy, "keeps"):
        raise InvalidOptionError(
            f'strategy is {strategy!r}; it must be "keep_latest", a rule such as KeepLast(10), or a mapping from '
            "patterns of namespaces to rules. Call delete_thread to delete a thread."
        )
    return strategy
