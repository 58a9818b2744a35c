"""Restores beside a recovery time objective: whether options allow to meet it, and whether a read has met it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.events import RestoreTooSlow
from langgraph_gcs_saver.format import chains

if TYPE_CHECKING:
    from langgraph_gcs_saver.cadence.objective import RTO, Weight
    from langgraph_gcs_saver.events import Subscribers
    from langgraph_gcs_saver.flows.load import Loaded
    from langgraph_gcs_saver.format.manifest import Step
    from langgraph_gcs_saver.options import Options


def most_frames(options: Options) -> int:
    """The most frames that a value's chain can have with some options."""
    if not options.incremental or options.zstd_level is None or not options.cache_max_bytes:
        return 1
    every = options.full_every
    return min(every, chains.MAX_FRAMES) if isinstance(every, int) else chains.MAX_FRAMES


def check(objective: RTO, options: Options) -> None:
    """Check that a saver with some options can meet an objective.

    Raises:
        InvalidInputError: It cannot, or the objective is of another type.
    """
    from langgraph_gcs_saver.cadence.objective import RTO  # noqa: PLC0415 - most processes need none

    if not isinstance(objective, RTO):
        raise InvalidInputError(
            f"objective is of type {type(objective).__name__}; it must be an RTO, such as cadence.RTO(seconds=30)."
        )
    objective.check(most_frames(options))


def judge(objective: RTO, loaded: Loaded, seconds: float, options: Options, subscribers: Subscribers) -> None:
    """Report a read of a newest checkpoint that took longer than the objective, or would in a fresh process.

    Args:
        objective: The objective.
        loaded: What was read.
        seconds: How long the read took.
        options: The saver's options.
        subscribers: The subscribers, which get the event.
    """
    known, weight = loaded.manifest, weight_of(loaded, options.max_threads)
    is_estimated = seconds <= objective.total
    found = weight.seconds if is_estimated else seconds
    if found <= objective.total:
        return
    slow = (
        "" if weight.seconds > objective.total else f"It should take {weight.seconds:.1f} s; see how far the store is. "
    )
    subscribers.emit(
        RestoreTooSlow(
            thread_id=known.thread_id,
            checkpoint_ns=known.ns,
            checkpoint_id=known.checkpoint_id,
            seconds=found,
            is_estimated=is_estimated,
            objective=objective.total,
            size=loaded.size,
            frames=weight.frames,
            advice=slow or weight.advice,
        )
    )


def weight_of(loaded: Loaded, parallel: int) -> Weight:
    """What a fresh process has to do to restore a checkpoint.

    Args:
        loaded: The checkpoint.
        parallel: How many objects can be read at the same time.
    """
    from langgraph_gcs_saver.cadence.objective import Weight  # noqa: PLC0415 - as above

    known = loaded.manifest
    steps: dict[object, Step] = {one.place: one for channel in known.channels for one in known.steps(channel)}
    objects = {one.name for one in steps.values() if one.frame.attempt is not None}
    writes = loaded.size - known.size
    return Weight(
        # One batched read gets all documents.
        requests=len(objects),
        parallel=parallel,
        read=sum(one.frame.stored for one in steps.values()) + writes,
        decoded=sum(one.size for one in steps.values()) + writes,
        loaded=loaded.size,
        frames=max((len(ref.chain) for ref in known.channels.values()), default=1),
    )
