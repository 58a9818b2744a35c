"""What is stored of a thread, and what of it is stale."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from langgraph_gcs_saver.engine.effects import QueryDocs
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.format import keys

Place = tuple[str, str]
"""A checkpoint's id, and the task whose pending writes these are; no task for the checkpoint itself."""


@dataclass
class Found:
    """Everything that is stored of a thread.

    Attributes:
        parents: The parent of each checkpoint.
        writers: The worker that stored a checkpoint or a task's pending writes.
        results: The results that the pending writes contain.
        state: The results that the newest checkpoint contains.
    """

    parents: dict[str, str | None] = field(default_factory=dict)
    writers: dict[Place, str] = field(default_factory=dict)
    results: Counter[str] = field(default_factory=Counter)
    state: list[str] = field(default_factory=list)

    def of(self, worker: str) -> set[Place]:
        """What a worker has stored."""
        return {place for place, writer in self.writers.items() if writer == worker}

    @property
    def forks(self) -> int:
        """Checkpoints that have more than one child; no checkpoint counts as one, too."""
        return sum(count > 1 for count in Counter(self.parents.values()).values())


def look(saver: Any, thread_id: str) -> Found:
    """What is stored now."""
    found = Found()
    for one in saver.list({"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}):
        checkpoint_id = one.checkpoint["id"]
        parent = (one.parent_config or {}).get("configurable", {}).get("checkpoint_id")
        if not found.parents:
            found.state = list(one.checkpoint["channel_values"].get("done", ()))
        found.parents[checkpoint_id] = parent
        found.writers[checkpoint_id, ""] = one.metadata.get("worker", "")
        for task_id, channel, value in one.pending_writes or ():
            if channel == "done" and value:
                found.writers[checkpoint_id, task_id] = value[0].rpartition(" by ")[2]
                found.results.update(value)
    return found


def before(saver: Any, thread_id: str, places: set[Place], time: int) -> set[Place]:
    """Those of the places that were stored before a time, by the clock of Firestore, which orders all commits."""

    def docs(collection: str) -> Any:
        return run(iter_of(QueryDocs(collection, mask=())), saver._backend)

    made: dict[Place, int] = {}
    for doc in docs(keys.checkpoints(thread_id)):
        made[keys.checkpoint_id_of(doc.name), ""] = doc.create_time
    for doc in docs(keys.writes(thread_id)):
        place = keys.writes_checkpoint_id_of(doc.name), keys.writes_task_id_of(doc.name) or ""
        made[place] = max(made.get(place, 0), doc.create_time)
    return {place for place in places if made[place] < time}


def iter_of(effect: Any) -> Any:
    """An effect as a flow."""
    return (yield from effect)
