"""What the saver and a call of `run` know of each other: the lease that the call holds leads to its turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import (
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    copy_checkpoint,
)

from langgraph_gcs_saver.saver import configs

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from langgraph_gcs_saver.cadence.objective import RTO
    from langgraph_gcs_saver.flows.companions import Companion
    from langgraph_gcs_saver.flows.save import Put


class TurnInProgress:
    """A turn that a call of `run` works on.

    Attributes:
        opening: What rides in the commit of the input's checkpoint, while that is not stored.
        is_open: Whether the input's checkpoint was stored by this call.
        last: The last checkpoint of the root graph that this call stored.
        steps: How many of them it stored.
        tip: The input's checkpoint, for the call of the graph that follows. It is not read again, because no other
            process can have changed the thread. So nodes get the input's own objects, as from the graph's `invoke`.
        keeps_tips: Whether each later checkpoint of the root graph becomes `tip`, because another call will follow.
        parents: By id, the parents of the checkpoints that this call stored, of all namespaces. They are noted for a
            stream whose parts name checkpoints; `None` if no stream needs them.
        objective: The call's recovery time objective; `None` if it has none of its own.
    """

    def __init__(self) -> None:
        self.opening: Companion | None = None
        self.is_open = False
        self.last: Mapping[str, Any] | None = None
        self.steps = 0
        self.tip: CheckpointTuple | None = None
        self.keeps_tips = False
        self.parents: dict[str, str | None] | None = None
        self.objective: RTO | None = None


def with_turn(turn: TurnInProgress | None, request: Put) -> Put:
    """The request of a put, with what its turn adds to its commit."""
    if turn is None or turn.opening is None or request.ns:
        return request
    return replace(request, companions=(turn.opening,))


def note_stored(
    turn: TurnInProgress | None,
    config: RunnableConfig,
    request: Put,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
) -> None:
    """Note that a checkpoint was stored, if a call of `run` works on the thread."""
    if turn is None:
        return
    if turn.parents is not None:
        turn.parents[request.checkpoint_id] = request.parent_id
    if request.ns:
        return
    turn.last, turn.steps = checkpoint, turn.steps + 1
    is_opening = turn.opening is not None
    if is_opening:
        turn.opening, turn.is_open = None, True
    if is_opening or turn.keeps_tips:
        thread_id, parent = configs.configurable(config)["thread_id"], request.parent_id
        turn.tip = CheckpointTuple(
            config=configs.config_of(thread_id, "", request.checkpoint_id),
            checkpoint=copy_checkpoint(checkpoint),
            metadata=metadata,
            parent_config=None if parent is None else configs.config_of(thread_id, "", parent),
            pending_writes=[],
        )


def take_tip(turn: TurnInProgress | None, config: RunnableConfig) -> CheckpointTuple | None:
    """The tip of a thread, once, if this call of `run` has just stored it and the config names no other checkpoint."""
    if turn is None or turn.tip is None or configs.thread_and_ns(config)[1] or configs.checkpoint_id_of(config):
        return None
    found, turn.tip = turn.tip, None
    return found
