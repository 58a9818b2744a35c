"""Holds: sets and savepoints that need a checkpoint to stay (`format.holds`).

A hold is written together with a fresh token in the thread's document. So a sweep that has seen the thread idle, and a
deletion that has marked the thread, find that it has changed, and look again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from langgraph_gcs_saver.engine.effects import Commit, Doc, Flow, GetDocs, Merge, QueryDocs, Write
from langgraph_gcs_saver.errors import ConflictError, ThreadInSetError
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.marks import move
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import HOLDS, Hold, holds_of, keys_of, with_hold, without_hold
from langgraph_gcs_saver.format.manifest import RUNS_BY, DocumentKind, kind_of

HELD_BY = (*RUNS_BY, HOLDS)
"""The fields of a document that say whether it is a checkpoint, and what holds it."""


def hold(thread_id: str, checkpoint_id: str, key: str, context: Context, beside: tuple[Write, ...] = ()) -> Flow[bool]:
    """Write a hold into a checkpoint of the root namespace.

    Args:
        thread_id: The thread.
        checkpoint_id: The checkpoint.
        key: The hold's key.
        context: Options and caches.
        beside: More writes of the same commit, with preconditions of their own.

    Returns:
        False if there is no such checkpoint. Then nothing was written, `beside` included.

    Raises:
        ConflictError: A document of `beside` has changed, or other writers changed the checkpoint's document in every
            try. Nothing was written, unless a commit's answer was lost. Look again, and repeat the call.
    """

    def change(doc: Doc) -> Mapping[str, Any]:
        return {} if key in keys_of(doc) else with_hold(doc, key)

    return (yield from _change(thread_id, checkpoint_id, change, context, beside, moves=True))


def unhold(
    thread_id: str, checkpoint_id: str, key: str, context: Context, beside: tuple[Write, ...] = ()
) -> Flow[bool]:
    """Remove a hold from a checkpoint of the root namespace, if it has it; like `hold`.

    This does not count as a use of the thread.
    """

    def change(doc: Doc) -> Mapping[str, Any]:
        return without_hold(doc, key) if key in keys_of(doc) else {}

    return (yield from _change(thread_id, checkpoint_id, change, context, beside, moves=False))


def _change(
    thread_id: str,
    checkpoint_id: str,
    change: Callable[[Doc], Mapping[str, Any]],
    context: Context,
    beside: tuple[Write, ...],
    *,
    moves: bool,
) -> Flow[bool]:
    name = keys.checkpoint_doc(thread_id, "", checkpoint_id)
    seen: int | None = None
    for _ in range(MAX_TRIES):
        doc = (yield from GetDocs((name,), mask=(*HELD_BY, "fence"))).get(name)
        if doc is None or kind_of(doc) is not DocumentKind.CHECKPOINT:
            return False
        if doc.update_time == seen:
            break  # The checkpoint has not changed, so the conflict was about `beside`.
        seen = doc.update_time
        fields = change(doc)
        if not (fields or beside):
            return True
        own = (move(thread_id, context),) if moves and fields else ()
        done = yield from Commit((Merge(name, fields, update_time=seen), *beside, *own))
        context.outdate(doc)
        if done is not None:
            return True
    raise ConflictError(
        f"The holds of checkpoint {checkpoint_id!r}, thread {thread_id!r}, were not changed, because other writers "
        "changed documents at the same time. Call again."
    )


def held(thread_id: str, ns: str) -> Flow[dict[str, tuple[str, ...]]]:
    """The holds of a namespace's checkpoints, as texts, by checkpoint id, newest first."""
    where = (("ns", keys.enc(ns, "namespace")),)
    docs = yield from QueryDocs(keys.checkpoints(thread_id), where, mask=(HOLDS,))
    found = {keys.checkpoint_id_of(doc.name): holds_of(doc) for doc in docs if keys.is_in_ns(doc.name, ns)}
    return {checkpoint_id: tuple(map(str, holds)) for checkpoint_id, holds in found.items() if holds}


def break_sets(holds: Iterable[Hold], context: Context) -> Flow[None]:
    """Mark the sets of some holds as broken, before something is deleted that they need."""
    found = [one for one in holds if one.kind == "set"]
    if found:
        from langgraph_gcs_saver.flows import sets  # noqa: PLC0415 - few processes delete what a set needs

        for one in found:
            yield from sets.break_(one, context)


def require_none(thread_id: str, holds: Iterable[Hold]) -> None:
    """Check that nothing holds what is about to be deleted.

    Raises:
        ThreadInSetError: Something holds it.
    """
    texts = tuple([str(one) for one in holds])
    if texts:
        needs = "needs" if len(texts) == 1 else "need"
        raise ThreadInSetError(
            f"Thread {thread_id!r}: {', '.join(texts)} {needs} a checkpoint that would be deleted. Nothing was "
            "deleted. End the set with `Team.delete_set`, or delete with force, which marks the set as broken.",
            thread_id=thread_id,
            sets=texts,
        )
