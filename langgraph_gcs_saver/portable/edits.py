"""Edits: a child of a checkpoint that differs from it in the value of one channel. The checkpoint itself stays.

The child is what `update_state` of a graph would store, as far as that is possible without the graph. The edit does not
change which nodes run next, because it is not a node's write. A node that had seen the old version counts as having
seen the new one.
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
    """The arguments of the `put` that stores an edit. Its config is that of the edited checkpoint.

    Attributes:
        checkpoint: The new checkpoint, with the new value only. It inherits all other values from its parent.
        metadata: Its metadata.
        new_versions: The version of the edited channel.
    """

    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    new_versions: ChannelVersions


def deltas_of(saved: CheckpointTuple) -> frozenset[str]:
    """The DeltaChannels that a checkpoint is known to have. A `PortableSerializer` must have read it."""
    values = saved.checkpoint["channel_values"]
    counters = cast("Mapping[str, Any]", saved.metadata).get(portable.DELTA_COUNTERS) or {}
    return frozenset(counters) | {channel for channel, value in values.items() if portable.is_delta(value)}


def value_of(saved: CheckpointTuple, channel: str) -> Any:
    """The value of a channel, if it can be edited.

    Raises:
        InvalidInputError: The channel has no value, or a value that cannot be edited.
    """
    values = saved.checkpoint["channel_values"]
    if channel in values:
        value = values[channel]
        if not portable.is_editable(value):
            raise InvalidInputError(
                f"The value of channel {channel!r} cannot be edited, because JSON cannot express it exactly."
            )
        return portable.without_delta(value)
    if channel in deltas_of(saved):
        raise InvalidInputError(
            f"Channel {channel!r} is a DeltaChannel without a snapshot at this checkpoint, so only the graph knows its "
            "value. Use update_state of the graph, with an Overwrite, or edit a checkpoint that has a snapshot."
        )
    raise InvalidInputError(
        f"Channel {channel!r} has no value at this checkpoint. Channels with a value: "
        f"{', '.join(map(repr, sorted(values)))}."
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
    """The child of a checkpoint, with another value of one channel.

    Args:
        saved: The checkpoint, read by a `PortableSerializer`.
        latest: The tip of its namespace, after which the new checkpoint must sort.
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
    # The new checkpoint inherits snapshots, as it does all other values. Without a snapshot, it would read the parent's
    # pending writes, which belong to another child, as its own.
    without = sorted(_written_deltas(saved, latest) - base["channel_values"].keys())
    if without:
        raise InvalidInputError(
            f"Channel {without[0]!r} is, or may be, a DeltaChannel, and this checkpoint has pending writes to it. A "
            "new fork must not take them over, and only the graph knows the channel's value. Use update_state of the "
            "graph, or edit a checkpoint without pending writes, such as the latest."
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
    described: dict[str, Any] = {"source": "update", "step": step + 1, "parents": metadata.get("parents") or {}}
    counters = metadata.get(portable.DELTA_COUNTERS) or {}
    counted = {name: (updates, steps + 1) for name, (updates, steps) in counters.items() if name != channel}
    if counted:
        described[portable.DELTA_COUNTERS] = counted
    checkpoint = {
        **base,
        "id": next_id(_newest(latest, now), step + 1),
        "ts": now.isoformat(),
        "channel_values": values,
        "channel_versions": versions,
        "versions_seen": seen,
        "updated_channels": None,
    }
    return Edit(cast("Checkpoint", checkpoint), cast("CheckpointMetadata", described), {channel: version})


def _latest(versions: Iterable[Any]) -> Any:
    """The greatest of some versions; `None` if there are none.

    Raises:
        InvalidInputError: The versions have types that cannot be compared.
    """
    try:
        return max((version for version in versions if version is not None), default=None)
    except TypeError:
        raise InvalidInputError("The versions of the checkpoint's channels are of several types.") from None


def _written_deltas(saved: CheckpointTuple, latest: CheckpointTuple) -> set[str]:
    """Channels with pending writes at the checkpoint that are, or may be, DeltaChannels."""
    values = saved.checkpoint["channel_values"]
    metadata = cast("Mapping[str, Any]", saved.metadata)
    known = deltas_of(saved) | deltas_of(latest)
    found = set()
    for _, channel, _ in saved.pending_writes or ():
        # Only the first `update_state` of a thread has no counters, and stores no DeltaChannel that it did not write.
        uncounted = (
            saved.parent_config is None and metadata.get("source") != "loop" and portable.DELTA_COUNTERS not in metadata
        )
        is_latest = saved.checkpoint["id"] == latest.checkpoint["id"]
        is_unknown = uncounted and is_latest and channel not in values and not channel.startswith(("__", "branch:"))
        if channel in known or is_unknown:
            found.add(channel)
    return found


def _newest(latest: CheckpointTuple, now: datetime) -> str:
    """The id after which a new checkpoint must sort.

    It is the latest checkpoint's id. If that checkpoint stands in for a damaged one, it is the damaged one's id.

    Raises:
        InvalidInputError: The damaged checkpoint's id is in the future. Nothing proves such an id, not even a cipher,
            and a checkpoint that follows it would sort after all later steps.
    """
    own, lost = latest.checkpoint["id"], cast("Mapping[str, Any]", latest.metadata).get("recovered_from")
    if not isinstance(lost, str) or lost <= own:
        return own
    ticks = (now + _SKEW - _EPOCH) // timedelta(microseconds=1) * 10
    if lost > str(_at(ticks)):
        configurable = latest.config.get("configurable", {})
        raise InvalidInputError(
            f"Checkpoint {own!r} of thread {configurable.get('thread_id')!r}, namespace "
            f"{configurable.get('checkpoint_ns', '')!r}, stands in for a damaged later one, {lost!r}, whose id is in "
            "the future. After an edit that follows it, no later step would be the latest. Run repair first."
        )
    return lost


_EPOCH = datetime(1582, 10, 15, tzinfo=timezone.utc)
"""The time at which UUIDs of version 6 begin."""

_UNIX_SECONDS = (datetime(1970, 1, 1, tzinfo=timezone.utc) - _EPOCH).total_seconds()

_SKEW = timedelta(minutes=5)
"""The most that the clock of another process may be ahead."""


def _at(ticks: int, rest: int = 0) -> UUID:
    """The UUID of version 6 with this time. It has 48 bits of time, the version, 12 more bits of time, and `rest`."""
    return UUID(int=(ticks >> 12) << 80 | 6 << 76 | (ticks & 0xFFF) << 64 | 2 << 62 | rest)


def next_id(newest: str, step: int) -> str:
    """An id for a checkpoint of this step that sorts after `newest`, even if the clock was set back.

    Raises:
        InvalidInputError: No id of that kind sorts after `newest`.
    """
    from langgraph.checkpoint.base.id import uuid6  # noqa: PLC0415 - slow to import, and few processes edit

    found = str(uuid6(clock_seq=step))
    return found if found > newest else _after(newest, secrets.randbits(62))


def id_at(newest: str, step: int, now: float, node: int) -> str:
    """Like `next_id`, from a time in seconds since the epoch, and 48 random bits."""
    ticks = int((now + _UNIX_SECONDS) * 1e6) * 10
    rest = (step & 0x3FFF) << 48 | node
    found = str(_at(ticks, rest))
    return found if found > newest else _after(newest, rest)


def _after(newest: str, rest: int) -> str:
    """The next id after `newest`."""
    try:
        number = UUID(newest).int
    except ValueError:
        number = 0
    ticks = ((number >> 80) << 12 | (number >> 64) & 0xFFF) + 1
    following = _at(ticks, rest)
    if number == 0 or str(following) <= newest:
        raise InvalidInputError(f"No new id can sort after the id of the latest checkpoint, {newest!r}.")
    return str(following)
