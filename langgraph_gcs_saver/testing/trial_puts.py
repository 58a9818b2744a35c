"""How long storing a step takes: steps of a thread are stored once more, in a thread of its own, which is deleted."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import CheckpointMetadata, CheckpointTuple

    from langgraph_gcs_saver.results import CheckpointInfo
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver

SCRATCH = "langgraph-gcs-advise-"
"""How the id of such a thread begins. Digits follow that no other thread has."""


def put_costs(saver: GCSSaver, known: Sequence[CheckpointInfo], most: int) -> tuple[float, ...]:
    """Seconds that storing the last steps of a thread takes: each checkpoint, and the writes of its tasks before it.

    The steps are stored in the same store, in a new thread, which is deleted at the end, whatever happens. The first
    one is not timed if there are others, because it also stores what the steps before it have made.

    Args:
        saver: A saver of the store.
        known: The thread's history, as `admin.history` returns it.
        most: How many steps to time.
    """
    thread_id = SCRATCH + secrets.token_hex(8)
    try:
        costs = tuple(_put_all(saver, list(reversed(_newest(known, most + 1))), thread_id))
    finally:
        saver.delete_thread(thread_id)
    return costs[1:] or costs


def _newest(known: Sequence[CheckpointInfo], most: int) -> list[CheckpointInfo]:
    """The tip of the root namespace, and its ancestors as far as they are there and whole.

    A damaged tip is among them, so that reading it says what is wrong.
    """
    root = {one.checkpoint_id: one for one in known if not one.checkpoint_ns}
    found: list[CheckpointInfo] = []
    following = root.get(max(root, default=""))
    while following is not None and len(found) < most and not (found and following.damage):
        found.append(following)
        following = root.get(following.parent_id or "")
    return found


def _put_all(saver: GCSSaver, steps: Sequence[CheckpointInfo], thread_id: str) -> Iterator[float]:
    config = cast("RunnableConfig", {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}})
    before: CheckpointTuple | None = None
    for step in steps:
        ids = {"thread_id": step.thread_id, "checkpoint_ns": "", "checkpoint_id": step.checkpoint_id}
        found = saver.get_tuple({"configurable": ids})
        if found is None:
            return  # It was pruned meanwhile.
        seen: dict[str, Any] = {} if before is None else before.checkpoint["channel_versions"]
        versions = found.checkpoint["channel_versions"]
        changed = {channel: version for channel, version in versions.items() if seen.get(channel) != version}
        metadata = {key: value for key, value in found.metadata.items() if key in ("source", "step", "parents")}
        begun = time.perf_counter()  # clock: the result of a measurement
        if before is not None:
            for task_id, writes in groupby(before.pending_writes or (), key=itemgetter(0)):
                saver.put_writes(config, [(channel, value) for _, channel, value in writes], task_id)
        config = saver.put(config, found.checkpoint, cast("CheckpointMetadata", metadata), changed)
        yield time.perf_counter() - begun  # clock: as above
        before = found
