"""A checkpoint that differs from another one in the value of one channel: its child, never its replacement.

As `update_state` of a graph would store it, as far as that is possible without the graph. What runs next is what would
have run next: the edit is nobody's write, so whoever had seen the old version has seen the new one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from langgraph_gcs_saver import portable
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.portable import trials
from langgraph_gcs_saver.portable.refusals import check
from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple


@record(frozen=True, slots=True)
class Edit:
    """What to `put`, with the config of the checkpoint that was edited.

    Attributes:
        checkpoint: The new checkpoint, with the new value only; the others stay the parent's.
        metadata: Its metadata.
        new_versions: The version of the channel with a new value.
    """

    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    new_versions: ChannelVersions


def deltas_of(saved: CheckpointTuple) -> frozenset[str]:
    """The DeltaChannels that a checkpoint is known to have, read by a `PortableSerializer`."""
    values = saved.checkpoint["channel_values"]
    counters = cast("Mapping[str, Any]", saved.metadata).get(portable.DELTA_COUNTERS) or {}
    return frozenset(counters) | {channel for channel, value in values.items() if portable.is_delta(value)}


def value_of(saved: CheckpointTuple, channel: str) -> Any:
    """The value of a channel that can be edited.

    Raises:
        InvalidInputError: It has none, or one that cannot be edited.
    """
    values = saved.checkpoint["channel_values"]
    if channel in values:
        value = values[channel]
        if not portable.is_editable(value):
            raise InvalidInputError(
                f"The value of channel {channel!r} cannot be edited: JSON would not give it back as it is stored."
            )
        return portable.without_delta(value)
    if channel in deltas_of(saved):
        raise InvalidInputError(
            f"Channel {channel!r} is a DeltaChannel without a snapshot at this checkpoint: only the graph can tell its "
            "value. Use update_state of the graph, with an Overwrite, or edit a checkpoint that has a snapshot."
        )
    raise InvalidInputError(
        f"Channel {channel!r} has no value at this checkpoint. These have one: {', '.join(map(repr, sorted(values)))}."
    )


def fork(
    saved: CheckpointTuple,
    latest: CheckpointTuple,
    channel: str,
    value: Any,
    *,
    next_version: Callable[[Any, None], Any],
    now: datetime,
) -> Edit:
    """The child of a checkpoint in which one channel has another value.

    Args:
        saved: The checkpoint, read by a `PortableSerializer`.
        latest: The latest of its namespace, which the new one is to follow.
        channel: The channel.
        value: Its new value.
        next_version: The saver's `get_next_version`.
        now: The time, for the new checkpoint's `ts`.

    Raises:
        InvalidInputError: The channel, the value or the checkpoint cannot be edited.
        SerializationError: The value cannot be stored as it is.
    """
    old = value_of(saved, channel)
    check(portable.ExactSerializer(), value, f"The new value of channel {channel!r}")
    trials.check_types(old, value)
    base, metadata = saved.checkpoint, cast("Mapping[str, Any]", saved.metadata)
    deltas = deltas_of(saved)
    values = {channel: portable.delta(value) if channel in deltas else value}
    # The new checkpoint inherits snapshots with all other values; without one, it would take the writes of another
    # child for its own.
    without = sorted(_written_deltas(saved, latest) - base["channel_values"].keys())
    if without:
        raise InvalidInputError(
            f"Channel {without[0]!r} is, or may be, a DeltaChannel, and this checkpoint has pending writes to it, "
            "which a new branch must not take over; only the graph can tell its value. Use update_state "
            "of the graph, or edit a checkpoint without pending writes, such as the latest."
        )
    versions = dict(base["channel_versions"])
    version = next_version(_latest(versions.values()), None)
    seen = {node: dict(of_node) for node, of_node in base.get("versions_seen", {}).items()}
    for of_node in seen.values():
        if channel in of_node and of_node[channel] == versions.get(channel):
            of_node[channel] = version
    versions[channel] = version
    stored = metadata.get("step")
    step = int(stored) if isinstance(stored, int | float) else -1
    told: dict[str, Any] = {"source": "update", "step": step + 1, "parents": metadata.get("parents") or {}}
    counters = metadata.get(portable.DELTA_COUNTERS) or {}
    counted = {name: (updates, steps + 1) for name, (updates, steps) in counters.items() if name != channel}
    if counted:
        told[portable.DELTA_COUNTERS] = counted
    checkpoint = {
        **base,
        "id": next_id(_newest(latest, now), step + 1),
        "ts": now.isoformat(),
        "channel_values": values,
        "channel_versions": versions,
        "versions_seen": seen,
        "updated_channels": None,
    }
    return Edit(cast("Checkpoint", checkpoint), cast("CheckpointMetadata", told), {channel: version})


def _latest(versions: Iterable[Any]) -> Any:
    """The greatest of some versions; `None` of none.

    Raises:
        InvalidInputError: They are not of one kind.
    """
    try:
        return max((version for version in versions if version is not None), default=None)
    except TypeError:
        raise InvalidInputError("The versions of the checkpoint's channels are of several types.") from None


def _written_deltas(saved: CheckpointTuple, latest: CheckpointTuple) -> set[str]:
    """DeltaChannels that the checkpoint has pending writes to, and channels that may be some."""
    values = saved.checkpoint["channel_values"]
    metadata = cast("Mapping[str, Any]", saved.metadata)
    known = deltas_of(saved) | deltas_of(latest)
    found = set()
    for _, channel, _ in saved.pending_writes or ():
        # Only a first `update_state` of a thread counts nothing, and stores no DeltaChannel that it did not write.
        uncounted = (
            saved.parent_config is None and metadata.get("source") != "loop" and portable.DELTA_COUNTERS not in metadata
        )
        is_latest = saved.checkpoint["id"] == latest.checkpoint["id"]
        is_unknown = uncounted and is_latest and channel not in values and not channel.startswith(("__", "branch:"))
        if channel in known or is_unknown:
            found.add(channel)
    return found


def _newest(latest: CheckpointTuple, now: datetime) -> str:
    """The id that a new checkpoint is to sort after: the latest's, or that of the one in whose place it is given.

    Raises:
        InvalidInputError: That one's id is in the future. Nothing proves such an id, not even with a cipher, and
            whatever follows it would sort after all later steps.
    """
    own, lost = latest.checkpoint["id"], cast("Mapping[str, Any]", latest.metadata).get("recovered_from")
    if not isinstance(lost, str) or lost <= own:
        return own
    ticks = (now + _SKEW - _EPOCH) // timedelta(microseconds=1) * 10
    if lost > str(_at(ticks)):
        configurable = latest.config.get("configurable", {})
        raise InvalidInputError(
            f"Checkpoint {own!r} of thread {configurable.get('thread_id')!r}, namespace "
            f"{configurable.get('checkpoint_ns', '')!r}, stands in for a later one that is damaged or lost, {lost!r}, "
            "whose id is in the future. After an edit that follows it, no later step would be the latest. Run "
            "repair, and then edit."
        )
    return lost


_EPOCH = datetime(1582, 10, 15, tzinfo=timezone.utc)
"""Where the time of a UUID of version 6 begins."""

_SKEW = timedelta(minutes=5)
"""How far the clock of another process may be ahead."""


def _at(ticks: int, rest: int = 0) -> UUID:
    """The UUID of version 6 with this time: 48 bits of it, the version, 12 more bits, and what is not time."""
    return UUID(int=(ticks >> 12) << 80 | 6 << 76 | (ticks & 0xFFF) << 64 | 2 << 62 | rest)


def next_id(newest: str, step: int) -> str:
    """An id for a checkpoint of this step that sorts after the newest one, even when the clock went back.

    Raises:
        InvalidInputError: Ids of that kind cannot be continued.
    """
    from langgraph.checkpoint.base.id import uuid6  # noqa: PLC0415 - slow to import, and few processes edit

    found = str(uuid6(clock_seq=step))
    if found > newest:
        return found
    try:
        number = UUID(newest).int
    except ValueError:
        number = 0
    ticks = ((number >> 80) << 12 | (number >> 64) & 0xFFF) + 1
    following = _at(ticks, secrets.randbits(62))
    if number == 0 or str(following) <= newest:
        raise InvalidInputError(f"No id can be made that sorts after the latest checkpoint's, {newest!r}.")
    return str(following)
