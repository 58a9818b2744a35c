"""Converts LangGraph's arguments to requests for flows, and the results of flows to LangGraph's tuples.

Everything that must be read from live objects is read here, on the calling thread, before anything is awaited.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_gcs_saver.errors import InvalidConfigError, InvalidInputError, SerializationError
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.flows.load import Loaded, Search
from langgraph_gcs_saver.flows.save import Put
from langgraph_gcs_saver.flows.writes import PendingWrite, PutWrites
from langgraph_gcs_saver.format import filters, shapes
from langgraph_gcs_saver.format.keys import checkpoint_doc
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.serialization import dumps
from langgraph_gcs_saver.portable import DELTA_COUNTERS
from langgraph_gcs_saver.saver.configs import (
    check_type,
    checkpoint_id_of,
    config_of,
    configurable,
    text_of,
    thread_and_ns,
)


class _NotPlainError(Exception):
    """JSON would not return a value unchanged."""


def _plain(value: Any) -> Any:
    """A copy of a value that JSON returns unchanged. The owner of the original may change that afterwards."""
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    if type(value) is list:
        return [_plain(item) for item in value]
    # Any dict, because LangGraph's versions_seen has been a defaultdict.
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {key: _plain(item) for key, item in value.items()}
    raise _NotPlainError


def put_request(
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
    *,
    serde: SerializerProtocol,
    context: Context,
    now: float,
    fence: Fence | None = None,
) -> Put:
    """The request for `put`.

    Values are serialized here. The exceptions are values without a new version, if the parent is at hand, because it
    has them already.

    Raises:
        InvalidConfigError: The config or the checkpoint lacks an id.
        InvalidInputError: An argument is of the wrong type.
        SerializationError: A value cannot be serialized.
    """
    thread_id, ns = thread_and_ns(config)
    _check_put(checkpoint, metadata, new_versions)
    checkpoint_id = checkpoint["id"]
    try:
        whole = get_checkpoint_metadata(config, metadata)
    except AttributeError:
        raise InvalidConfigError(
            "'configurable' and 'metadata' in the config must be mappings whose keys are of type str."
        ) from None
    if fence is not None:
        whole.setdefault("run_id", fence.nonce)
    wrong = shapes.wrong_in_metadata(whole)
    if wrong is not None:
        raise InvalidInputError(f"These are not metadata of LangGraph, and nothing was stored: {wrong}.")
    run_id = whole.get("run_id")
    plain: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, field in checkpoint.items():
        if key not in ("id", "channel_values"):
            try:
                plain[key] = _plain(field)
            except (_NotPlainError, RecursionError):
                rest[key] = field  # The serializer decides. If it fails, its error says why and where.
    where = f"of checkpoint {checkpoint_id!r}, thread {thread_id!r}"
    parent_id = checkpoint_id_of(config)
    has_parent = parent_id is not None and context.heads.get(checkpoint_doc(thread_id, ns, parent_id)) is not None
    values: dict[str, Callable[[], Serialized]] = {}
    for channel, value in checkpoint["channel_values"].items():
        dump = partial(dumps, serde, value, f"The value of channel {channel!r} {where}")
        values[channel] = _ready(dump()) if channel in new_versions or not has_parent else dump
    versions, counters = checkpoint["channel_versions"], whole.get(DELTA_COUNTERS)
    deltas = counters.keys() & versions.keys() if isinstance(counters, Mapping) else set[str]()
    return Put(
        thread_id=thread_id,
        ns=ns,
        checkpoint_id=checkpoint_id,
        parent_id=parent_id,
        checkpoint=plain,
        rest=dumps(serde, rest, f"A field {where}") if rest else None,
        metadata=dumps(serde, whole, f"The metadata {where}"),
        run_id=run_id if isinstance(run_id, str) else None,
        index=index(whole, context),
        versions=dict(versions),
        fresh=frozenset(new_versions),
        values=values,
        now=now,
        history=frozenset(deltas - values.keys()),
        fence=fence,
    )


def index(metadata: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """The metadata that queries may filter by.

    Raises:
        InvalidConfigError: It is more than a document can index.
    """
    found = filters.index(metadata, context.clear_metadata)
    if filters.size(found) > filters.MAX_BYTES:
        raise InvalidConfigError(
            f"The metadata holds {len(found)} short values of {filters.size(found):,} bytes together. A document can "
            f"index at most {filters.MAX_BYTES:,}. Put such data into the state, or into one nested value."
        )
    return found


def _check_put(checkpoint: Any, metadata: Any, new_versions: Any) -> None:
    check_type("checkpoint", checkpoint, Mapping)
    check_type("metadata", metadata, Mapping)
    check_type("new_versions", new_versions, Mapping)
    for key in ("channel_values", "channel_versions"):
        check_type(f"{key} of the checkpoint", checkpoint.get(key), Mapping)
    for channel in (*checkpoint["channel_values"], *checkpoint["channel_versions"], *new_versions):
        # JSON would turn a number into text, and the value would return under another name.
        check_type("The name of a channel", channel, str)
    for channel, version in checkpoint["channel_versions"].items():
        if not shapes.is_version(version):
            raise SerializationError(
                f"Checkpoint {checkpoint.get('id')!r} has a version of channel {channel!r} that is neither text nor a "
                f"finite number, but of type {type(version).__name__}. Nothing was stored."
            )
    wrong = shapes.wrong_in_checkpoint(checkpoint)
    if wrong is not None:
        raise InvalidInputError(f"This is not a checkpoint of LangGraph, and nothing was stored: {wrong}.")
    if not isinstance(checkpoint.get("id"), str) or not checkpoint["id"]:
        raise InvalidConfigError("The checkpoint has no 'id'. It must be a str that is not empty.")


def _ready(value: Serialized) -> Callable[[], Serialized]:
    return lambda: value


def put_writes_request(
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str,
    *,
    serde: SerializerProtocol,
    fence: Fence | None = None,
) -> PutWrites:
    """The request for `put_writes`. All values are serialized here.

    Raises:
        InvalidConfigError: The config names no checkpoint.
        InvalidInputError: An argument is of the wrong type.
        SerializationError: A value cannot be serialized.
    """
    thread_id, ns = thread_and_ns(config)
    checkpoint_id = text_of(configurable(config), "checkpoint_id")
    check_type("writes", writes, Sequence)
    check_type("task_id", task_id, str)
    check_type("task_path", task_path, str)
    for write in writes:
        if not isinstance(write, Sequence) or len(write) != 2 or not isinstance(write[0], str):
            raise InvalidInputError("Each of the writes must be a pair: the channel's name, a str, and the value.")
    where = f"of task {task_id!r} of checkpoint {checkpoint_id!r}, thread {thread_id!r}"
    return PutWrites(
        thread_id=thread_id,
        ns=ns,
        checkpoint_id=checkpoint_id,
        task_id=task_id,
        writes=[
            PendingWrite(
                idx=WRITES_IDX_MAP.get(channel, number),
                task_id=task_id,
                task_path=task_path,
                channel=channel,
                value=dumps(serde, value, f"A write to channel {channel!r} {where}"),
            )
            for number, (channel, value) in enumerate(writes)
        ],
        fence=fence,
    )


def search(
    config: RunnableConfig | None,
    *,
    wanted: Mapping[str, Any] | None,
    before: RunnableConfig | None,
    limit: int | None = None,
) -> Search:
    """The request for `list`.

    Raises:
        InvalidConfigError: The config names no thread. A config of `None` lists all threads.
        InvalidInputError: An argument is of the wrong type.
    """
    found = None if config is None else configurable(config)
    if wanted is not None:
        check_type("filter", wanted, Mapping)
    if limit is not None:
        check_type("limit", limit, int)
    return Search(
        thread_id=None if found is None else text_of(found, "thread_id"),
        ns=None if found is None or found.get("checkpoint_ns") is None else text_of(found, "checkpoint_ns"),
        checkpoint_id=None if config is None else checkpoint_id_of(config),
        before=None if before is None else checkpoint_id_of(before),
        wanted=wanted or None,
    )


def to_tuple(loaded: Loaded, thread_id: Any = None) -> CheckpointTuple:
    """The result of a flow as LangGraph's tuple. `thread_id` has the type that the caller used, if it gave one."""
    known = loaded.manifest
    thread = known.thread_id if thread_id is None else thread_id
    checkpoint = {
        "channel_versions": {},  # LangGraph needs it. Only a tampered document lacks it.
        **known.checkpoint,
        **loaded.rest,
        "id": known.checkpoint_id,
        "channel_values": loaded.values,
    }
    return CheckpointTuple(
        config=config_of(thread, known.ns, known.checkpoint_id),
        checkpoint=cast("Checkpoint", checkpoint),
        metadata=cast("CheckpointMetadata", loaded.metadata),
        parent_config=None if known.parent_id is None else config_of(thread, known.ns, known.parent_id),
        pending_writes=list(loaded.writes),
    )
