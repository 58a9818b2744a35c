"""The events that end LangGraph's calls: each call is timed, and reported when it has returned or raised."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from langgraph_gcs_saver.errors import GCSSaverError
from langgraph_gcs_saver.events import (
    CallEnded,
    CheckpointLoaded,
    CheckpointNotFound,
    CheckpointSaved,
    CheckpointsListed,
    GetFailed,
    HistoryLoaded,
    Outcome,
    PutFailed,
    Subscribers,
    WritesSaved,
)
from langgraph_gcs_saver.flows.load import Loaded
from langgraph_gcs_saver.flows.save import Put
from langgraph_gcs_saver.flows.stored import Stored, made_by, values_of
from langgraph_gcs_saver.flows.writes import PutWrites, which
from langgraph_gcs_saver.format.manifest import ChannelRef
from langgraph_gcs_saver.saver import configs
from langgraph_gcs_saver.saver.labels import Labels

if TYPE_CHECKING:
    from typing_extensions import Self

Name = Literal["put", "put_writes", "get_tuple", "list", "get_delta_channel_history"]


class Call:
    """One call, timed from the construction of this object.

    As a context manager it reports an exception of its block. After the block, one of its methods reports the result.
    An event is made only if a subscriber would see it.

    Args:
        subscribers: The subscribers, which get the events.
        labels: Reads the labels of the call.
        name: The method, without the `a` of its asynchronous twin.
        config: The config that it was called with, which may be invalid.
        checkpoint: The checkpoint that `put` was called with, which may be invalid.
        metadata: The metadata that `put` was called with, which may be invalid.
    """

    __slots__ = ("_began", "_checkpoint", "_config", "_labels", "_metadata", "_name", "_subscribers")

    def __init__(
        self,
        subscribers: Subscribers,
        labels: Labels,
        name: Name,
        config: object,
        checkpoint: object = None,
        *,
        metadata: object = None,
    ) -> None:
        self._began = time.perf_counter()
        self._subscribers = subscribers
        self._labels = labels
        self._name = name
        self._config = config
        self._checkpoint = checkpoint
        self._metadata = metadata

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure: type[CallEnded] = PutFailed if self._name in {"put", "put_writes"} else GetFailed
        if error is None or not self._subscribers.want(failure):
            return
        ended = self._ended("failed" if isinstance(error, Exception) else "interrupted")
        ours = error if isinstance(error, GCSSaverError) else None
        ended |= {"call": self._name, "error": type(error).__name__}
        # Messages of other exceptions may quote state.
        ended |= {"kind": "" if ours is None else ours.kind, "message": "" if ours is None else str(ours)}
        self._subscribers.emit(failure(**ended))

    @property
    def seconds(self) -> float:
        """How long the call has taken so far."""
        return time.perf_counter() - self._began

    def put(self, request: Put, stored: Stored) -> None:
        """Report what `put` stored. Most fields are computed when the event is read, because each put pays for them."""
        if self._subscribers.want(CheckpointSaved):
            metadata: Mapping[str, Any] = self._metadata  # type: ignore[assignment] # it was stored
            fields = partial(
                _saved,
                request.checkpoint.get("ts"),
                time.time(),
                stored.channels,
                metadata.get("step"),
                metadata.get("source"),
                is_new=stored.is_new,
                checkpoint_ns=request.ns,
                checkpoint_id=request.checkpoint_id,
                seconds=time.perf_counter() - self._began,
                run_id=request.run_id,
                labels=self._labels.of(self._config, self._metadata),
                inline_bytes=stored.inline_bytes,
                object_bytes=stored.object_bytes,
                objects=len(stored.uploads),
                attempts=stored.attempts,
                parent_id=request.parent_id,
            )
            self._subscribers.emit(CheckpointSaved.later(request.thread_id, fields))

    def put_writes(self, request: PutWrites, stored: Stored) -> None:
        """Report what `put_writes` stored."""
        if self._subscribers.want(WritesSaved):
            self._subscribers.emit(
                WritesSaved(
                    **self._ended(_outcome(is_new=stored.is_new)),
                    task_id=request.task_id,
                    which=which(request.writes),
                    writes=len(request.writes),
                    size=sum([len(write.value.data) for write in request.writes]),
                    inline_bytes=stored.inline_bytes,
                    object_bytes=stored.object_bytes,
                    objects=len(stored.uploads),
                    attempts=stored.attempts,
                )
            )

    def get_tuple(self, loaded: Loaded | None) -> None:
        """Report what `get_tuple` read."""
        if loaded is None:
            if self._subscribers.want(CheckpointNotFound):
                self._subscribers.emit(CheckpointNotFound(**self._ended("none")))
        elif self._subscribers.want(CheckpointLoaded):
            known = loaded.manifest
            ended = self._ended("loaded" if loaded.recovered_from is None else "recovered")
            ended["checkpoint_id"] = known.checkpoint_id
            self._subscribers.emit(
                CheckpointLoaded(
                    **ended,
                    channels=len(known.channels),
                    size=loaded.size,
                    inline_bytes=loaded.inline_bytes,
                    object_bytes=loaded.object_bytes,
                )
            )

    def list(self, page: Sequence[Loaded]) -> None:
        """Report a page that `list` read."""
        if self._subscribers.want(CheckpointsListed):
            size, object_bytes = sum(one.size for one in page), sum(one.object_bytes for one in page)
            ended = self._ended("loaded")
            self._subscribers.emit(
                CheckpointsListed(**ended, checkpoints=len(page), size=size, object_bytes=object_bytes)
            )

    def history(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Report what `get_delta_channel_history` read."""
        if self._subscribers.want(HistoryLoaded):
            writes = sum(len(one["writes"]) for one in found.values())
            self._subscribers.emit(HistoryLoaded(**self._ended("loaded"), channels=len(found), writes=writes))

    def _ended(self, outcome: Outcome) -> dict[str, Any]:
        """The fields that all these events have. The ids are those of the config."""
        ended: dict[str, Any] = configs.named(self._config)
        ended["seconds"], ended["outcome"] = self.seconds, outcome
        ended["labels"] = self._labels.of(self._config, self._metadata)
        if isinstance(self._checkpoint, Mapping):
            found = self._checkpoint.get("id")
            ended["checkpoint_id"] = found if isinstance(found, str) else ""
        return ended


def _outcome(*, is_new: bool) -> Outcome:
    return "stored" if is_new else "found"


def _saved(
    made: object,
    now: float,
    channels: Mapping[str, ChannelRef],
    step: object,
    source: object,
    *,
    is_new: bool,
    **known: Any,
) -> dict[str, Any]:
    """The fields of a put's event, by what stays of the call. None of that is state.

    Args:
        made: The time in the checkpoint.
        now: When the call ended, by the wall clock.
        channels: Where the checkpoint's values are.
        step: The step in the metadata.
        source: The source in the metadata.
        is_new: Whether the call has stored them.
        known: The fields that need no work.
    """
    return known | {
        "outcome": _outcome(is_new=is_new),
        "lag": _lag(made, now),
        "channels": len(channels),
        "size": sum([ref.size for ref in channels.values()]),
        "values": values_of(channels) if is_new else (),
        **made_by({"step": step, "source": source}),
    }


def _lag(made: object, now: float) -> float | None:
    """Seconds since a checkpoint was made, by its `ts`; `None` if that is not a time with a zone."""
    try:
        then = datetime.fromisoformat(str(made))
        return None if then.tzinfo is None else now - then.timestamp()
    except (ValueError, OverflowError):
        return None
