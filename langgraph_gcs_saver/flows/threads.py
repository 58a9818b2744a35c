"""Handles threads as a whole: the guard that keeps a deletion and a writer apart, and the deletion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import Any

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Create,
    Delete,
    DeleteBlobs,
    Doc,
    Docs,
    Emit,
    Flow,
    Gather,
    GetDocs,
    ListCollections,
    Merge,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.errors import ConflictError
from langgraph_gcs_saver.events import ThreadDeleted
from langgraph_gcs_saver.flows.collections import list_docs
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.fences import Fence, fence_of
from langgraph_gcs_saver.flows.holds import HELD_BY, break_sets, require_none
from langgraph_gcs_saver.flows.leases import LEASED_BY, broken, busy, lease_in
from langgraph_gcs_saver.flows.listing import list_page
from langgraph_gcs_saver.flows.marks import unmarked
from langgraph_gcs_saver.format import keys, registry
from langgraph_gcs_saver.format.holds import HOLDS, Hold, holds_of
from langgraph_gcs_saver.format.manifest import DocumentKind, kind_of, runs_of
from langgraph_gcs_saver.format.registry import Collection
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import DeletePlan

NOTE_SECONDS = 60.0
"""A process updates the time of activity in a thread's document at most once in so many seconds."""

_RUNS_PER_PAGE = 5000
"""How many documents are read at once, only by name and runs: well within one call's deadline."""


@record(frozen=True, slots=True)
class Guard:
    """The thread's document as last seen: a commit that carries it fails if a deletion began in between.

    Attributes:
        name: The document's name.
        update_time: When it last changed; `None` to require that it does not exist.
        is_bare: Whether it lacks, or may lack, a thread's note (`note_thread`).
        has_root: Whether it says that the root namespace has had a checkpoint.
        fence: Digits of the last acquisition of the thread's lease, if any.
        beside: Those of the other requested documents that exist.
    """

    name: str
    update_time: int | None
    is_bare: bool = False
    has_root: bool = False
    fence: str | None = None
    beside: Docs = field(default_factory=Docs)

    def write(self, fields: dict[str, object]) -> Write:
        """The write that carries the guard, and sets `fields`."""
        if self.update_time is None:
            return Create(self.name, fields)
        return Merge(self.name, fields, update_time=self.update_time)


def guard(thread_id: str, context: Context, *, beside: tuple[str, ...] = (), fence: Fence | None = None) -> Flow[Guard]:
    """The thread's guard, once no deletion is under way. The thread's document is created if it does not exist.

    Without a document, a commit would have no precondition. A whole deletion could then pass unnoticed between an
    upload and its commit.

    This waits for a deletion of the thread, as `unmarked` does.

    Raises:
        FencedError: The call's lease, `fence`, is lost. Then nothing is created either.
    """
    name = keys.thread_doc(thread_id)
    while True:
        docs = yield from unmarked(thread_id, context, beside=beside, fence=fence)
        others = Docs((docs[other] for other in beside if other in docs), docs.read_time)
        doc = docs.get(name)
        if doc is None:
            check = () if fence is None else (fence.check(),)
            times = yield from Commit((Create(name, {"thread_id": thread_id}), *check))
            if times is not None:
                return Guard(name, times[0], is_bare=True, beside=others)
            continue
        bare, root = "active" not in doc.fields, doc.fields.get("root") is True
        return Guard(name, doc.update_time, is_bare=bare, has_root=root, fence=fence_of(doc), beside=others)


def note_thread(thread_id: str, now: float, *, has_root: bool) -> dict[str, Any]:
    """The fields that a thread's document gets when something is stored: its id and the time.

    Args:
        thread_id: The thread.
        now: Seconds since the epoch.
        has_root: Whether its root namespace has a checkpoint. A thread that has lost them all must not look new.
    """
    note: dict[str, Any] = {"thread_id": thread_id, "active": int(now)}
    return note | {"root": True} if has_root else note


def note_run(run_id: str, thread_id: str, context: Context) -> Merge:
    """The write that notes that a run wrote to a thread. Its token is new each time, so that the document changes."""
    token = context.new_attempt()[:6]
    return Merge(keys.run_doc(run_id, thread_id), {"run_id": run_id, "thread_id": thread_id, "token": token})


def plan_deletion(thread_id: str) -> Flow[DeletePlan]:
    """What `delete_thread` would delete.

    Raises:
        UnsupportedFormatError: The thread has a collection that only a newer version knows.
    """
    name = keys.thread_doc(thread_id)
    docs = yield from list_docs(name, lambda _: True, mask=(HOLDS,))
    thread, ids = yield from Gather((GetDocs((name,), mask=()), ListCollections(name)))
    registry.check(thread_id, ids)
    sizes: list[int] = []
    after: str | None = None
    while blobs := (yield from list_page(keys.thread_blobs(thread_id), after)):
        sizes += [blob.size for blob in blobs]
        after = blobs[-1].name
    checkpoints = sum(entry.tells_runs for entry, _ in docs)
    writes = sum(entry.id == keys.WRITES for entry, _ in docs)
    return DeletePlan(
        thread_id=thread_id,
        checkpoints=checkpoints,
        writes=writes,
        others=len(docs) - checkpoints - writes,
        objects=len(sizes),
        bytes=sum(sizes),
        exists=bool(thread or docs or sizes),
        sets=tuple(map(str, _sets_of(thread_id, (doc for _, doc in docs)))),
    )


def delete_thread(thread_id: str, context: Context, *, seen: int | None = None, force: bool = False) -> Flow[bool]:
    """Delete every document and object of a thread. Data stored meanwhile may remain, whole.

    First the thread's document is marked, so that writers that inherit nothing wait. Then checkpoints are deleted,
    newest first, and each only if it is as last seen. So no checkpoint is deleted while a document that inherits from
    it can still get a child. Everything is deleted only while the mark has held without a break. Then a writer that
    uploaded objects before can no longer commit, and a reader that misses a checkpoint sees the mark.

    Each listing of checkpoints also shows their holds. If a set holds one, the mark is withdrawn. A set that is
    committed after the listing changes the checkpoint, so the deletion looks again.

    Args:
        thread_id: The thread.
        context: Options and caches.
        seen: Begin only if the thread's document has this update time.
        force: Whether to end the lease of a process that is alive, which fences it, and to mark sets as broken that
            hold a checkpoint of the thread.

    Returns:
        False if the thread's document has another update time than `seen`, else true.

    Raises:
        ConflictError: Other writers changed the thread in every try.
        ThreadBusyError: A process holds the thread's lease.
        ThreadInSetError: A set holds a checkpoint of the thread, and `force` is false.
        UnsupportedFormatError: The thread has a collection that only a newer version knows. Nothing was deleted.
    """
    thread = keys.thread_doc(thread_id)
    documents = objects = 0
    mark: int | None = None
    runs: set[str] = set()
    for _ in range(MAX_TRIES):
        if mark is None:
            # The precondition matters: a mark that arrives after the deletion would block writers for nothing.
            names = (thread, keys.fence_doc(thread_id), keys.beat_doc(thread_id))
            docs, ids = yield from Gather((GetDocs(names, mask=LEASED_BY), ListCollections(thread)))
            doc, lease = docs.get(thread), lease_in(thread_id, docs)
            if seen is not None and (doc is None or doc.update_time != seen):
                return False
            registry.check(thread_id, ids)
            if lease.owner is not None and not (force or lease.is_expired):
                raise busy(lease, context)
            # The mark is new each time, because a write that changes nothing would not change the document's time.
            fields = {"thread_id": thread_id, "deleting": context.new_attempt()}
            marked = yield from Commit(
                (
                    Create(thread, fields) if doc is None else Merge(thread, fields, update_time=doc.update_time),
                    *broken(lease, context),
                )
            )
            if marked is None:
                continue
            mark, seen = marked[0], None
        count, held = yield from _delete_with_runs(thread_id, mark, runs, context, force=force)
        documents += count
        if held:
            there = frozenset((yield from ListCollections(thread)))
            for entry in registry.COLLECTIONS:
                if entry.id in there and not (entry.tells_runs or entry.ends):
                    documents += yield from _delete_all(thread, entry)
            count, mark = yield from _delete_blobs(thread_id, mark, context)
            objects += count
        context.noted.drop(thread)
        context.noted.drop(f"{thread}!")
        # This has a precondition, because a write to the thread's document may have come with a checkpoint.
        gone = False
        if held and mark is not None:
            last = yield from _last(thread)
            ends = (*last, Delete(keys.active_doc(thread_id)), Delete(thread, update_time=mark))
            gone = (yield from Commit(ends)) is not None
            documents += len(last) if gone else 0
        if not gone:
            doc = (yield from GetDocs((thread,))).get(thread)
            gone = doc is None  # Another deletion has finished.
            # Two deletions share a mark. With a mark of its own, each would keep breaking the other's.
            mark = doc.update_time if doc is not None and "deleting" in doc.fields else None
        if gone:
            yield from Emit(ThreadDeleted(thread_id=thread_id, documents=documents, objects=objects))
            return True
    raise ConflictError(
        f"Thread {thread_id!r} was not deleted completely, because runs kept writing to it. Stop its runs, and call "
        "again to continue the deletion."
    )


def _last(thread: str) -> Flow[list[Delete]]:
    """The writes that delete what ends with the thread's document.

    No process acquires the lease of a thread while its mark holds. So they need no precondition but that of the mark.
    """
    found: list[Delete] = []
    for entry in registry.COLLECTIONS:
        if entry.ends:
            found += [Delete(doc.name) for doc in (yield from QueryDocs(f"{thread}/{entry.id}", mask=()))]
    return found


def _delete_with_runs(
    thread_id: str, mark: int, runs: set[str], context: Context, *, force: bool
) -> Flow[tuple[int, bool]]:
    """Delete all documents that name runs, checkpoints in order, and the runs' own documents, while the mark holds.

    A run's document is deleted with the last checkpoint that names it. So if this call crashes, `delete_for_runs` finds
    the other checkpoints. A document that a pruner has stripped does not count, because it may lose the run's name at
    any time.

    Args:
        thread_id: The thread.
        mark: The update time of the thread's document.
        runs: Runs that earlier tries have seen, and whose documents may exist. Those of this try are added.
        context: Options and caches.
        force: Whether to mark sets as broken that hold a checkpoint.

    Returns:
        The number of deleted documents, and false after a conflict that requires another look.

    Raises:
        ThreadInSetError: A set holds a checkpoint, and `force` is false. Then the mark is withdrawn.
    """
    deleted = 0
    while True:
        docs: list[Doc] = []
        for entry in registry.COLLECTIONS:
            if entry.tells_runs:
                docs += yield from _runs_of_all(f"{keys.thread_doc(thread_id)}/{entry.id}")
        if not docs:
            return deleted, (yield from _delete_runs(thread_id, mark, runs))
        sets = _sets_of(thread_id, docs)
        if sets and not force:
            yield from _withdraw(thread_id, mark)
            require_none(thread_id, sets)
        yield from break_sets(sets, context)
        last = {run: doc.name for doc in sorted(docs, key=_is_listed) for run in runs_of(doc)}
        runs.update(last)
        for at in range(0, len(docs), limits.COMMIT_WRITES):
            writes: list[Write] = []
            gone: set[str] = set()
            for doc in docs[at : at + limits.COMMIT_WRITES]:
                writes.append(Delete(doc.name, update_time=doc.update_time))
                ended = sorted(run for run in runs_of(doc) if last[run] == doc.name)
                writes += [Delete(keys.run_doc(run, thread_id)) for run in ended]
                gone.update(ended)
            writes.append(Merge(keys.thread_doc(thread_id), {}, update_time=mark))
            if (yield from Commit(tuple(writes))) is None:
                return deleted, False
            deleted += len(docs[at : at + limits.COMMIT_WRITES])
            runs.difference_update(gone)


def _delete_runs(thread_id: str, mark: int, runs: set[str]) -> Flow[bool]:
    """Delete the documents of runs whose last checkpoint a pruner has meanwhile removed or stripped."""
    names = [keys.run_doc(run, thread_id) for run in sorted(runs)]
    for at in range(0, len(names), limits.COMMIT_WRITES):
        writes = tuple(Delete(name) for name in names[at : at + limits.COMMIT_WRITES])
        if (yield from Commit((*writes, Merge(keys.thread_doc(thread_id), {}, update_time=mark)))) is None:
            return False
    return True


def _sets_of(thread_id: str, docs: Iterable[Doc]) -> list[Hold]:
    """The sets that hold checkpoints among some documents. Documents that were set aside have no holds any more."""
    checkpoints = f"{keys.checkpoints(thread_id)}/"
    found = {hold for doc in docs if doc.name.startswith(checkpoints) for hold in holds_of(doc)}
    return sorted((hold for hold in found if hold.kind == "set"), key=str)


def _withdraw(thread_id: str, mark: int) -> Flow[None]:
    """Remove the mark of a deletion that ends early. If this fails, it is removed like that of a crashed deletion."""
    name = keys.thread_doc(thread_id)
    for _ in range(MAX_TRIES):
        if (yield from Commit((Merge(name, {}, remove=("deleting",), update_time=mark),))) is not None:
            return
        doc = (yield from GetDocs((name,), mask=("deleting",))).get(name)
        if doc is None or "deleting" not in doc.fields:
            return
        mark = doc.update_time


def _is_listed(doc: Doc) -> bool:
    return kind_of(doc) is DocumentKind.CHECKPOINT


def _runs_of_all(collection: str) -> Flow[list[Doc]]:
    """All documents of a collection, with the fields that name their runs and holds."""
    found: list[Doc] = []
    after: str | None = None
    while True:
        page = yield from QueryDocs(collection, after=after, limit=_RUNS_PER_PAGE, mask=HELD_BY)
        found += page
        if len(page) < _RUNS_PER_PAGE:
            return found
        after = page[-1].name


def _delete_all(document: str, entry: Collection) -> Flow[int]:
    """Delete all documents of a collection below a document, those nested below them first."""
    deleted = 0
    while docs := (yield from QueryDocs(f"{document}/{entry.id}", limit=limits.COMMIT_WRITES, mask=())):
        for doc in docs:
            for nested in entry.below:
                deleted += yield from _delete_all(doc.name, nested)
        # Each document has a precondition: a call that adds to one adds to others too, and must go or stay as a whole.
        writes: list[Write] = [Delete(doc.name, update_time=doc.update_time) for doc in docs]
        writes += [] if entry.note is None else [entry.note(doc.name, {}) for doc in docs]
        times = yield from Commit(tuple(writes))
        deleted += 0 if times is None else len(docs)
    return deleted


def _delete_blobs(thread_id: str, mark: int, context: Context) -> Flow[tuple[int, int | None]]:
    """Delete all objects of a thread.

    Returns:
        Their number, and the mark's update time, which is `None` if another writer changed the thread's document.
    """
    deleted = 0
    while blobs := (yield from list_page(keys.thread_blobs(thread_id))):
        times = yield from Commit(
            (Merge(keys.thread_doc(thread_id), {"deleting": context.new_attempt()}, update_time=mark),)
        )
        if times is None:
            return deleted, None
        mark = times[0]
        names = [blob.name for blob in blobs]
        for start in range(0, len(names), limits.BATCH_CALLS):
            yield from DeleteBlobs(tuple(names[start : start + limits.BATCH_CALLS]))
        deleted += len(names)
    return deleted, mark
