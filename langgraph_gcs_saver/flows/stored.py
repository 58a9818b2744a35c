"""What a successful put has stored, as events report it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph_gcs_saver.engine.effects import Docs, PutBlob
from langgraph_gcs_saver.events import ValueStored
from langgraph_gcs_saver.format.manifest import ChannelRef
from langgraph_gcs_saver.records import record


@record(frozen=True, slots=True)
class Stored:
    """What a put of a checkpoint or of pending writes has stored.

    Attributes:
        attempts: The number of commits tried.
        is_new: Whether this call stored it, as far as it knows. If false, it was stored by an earlier call, or by a
            commit of this call whose answer was lost.
        channels: Where the checkpoint's values are.
        inline_bytes: Bytes stored in documents.
        uploads: What was uploaded.
        time: The update time of its document, if this call knows it.
        digest: The digest of its document, likewise.
        beside: The documents that the call read beside its own, if it read any.
    """

    attempts: int
    is_new: bool
    channels: Mapping[str, ChannelRef]
    inline_bytes: int = 0
    uploads: Sequence[PutBlob] = ()
    time: int | None = None
    digest: bytes = b""
    beside: Docs | None = None

    @property
    def object_bytes(self) -> int:
        """Bytes uploaded."""
        return sum([upload.size for upload in self.uploads]) if self.uploads else 0


def values_of(channels: Mapping[str, ChannelRef]) -> tuple[ValueStored, ...]:
    """The values that the put of a checkpoint has stored. Its own frame is the last one of a value's chain."""
    return tuple(
        [
            ValueStored(channel, ref.size, ref.chain[-1].stored, len(ref.chain))
            for channel, ref in channels.items()
            if ref.chain and ref.chain[-1].owner is None
        ]
    )


def made_by(metadata: object) -> dict[str, Any]:
    """What made a checkpoint, by its metadata, which may be invalid."""
    found: Mapping[Any, Any] = metadata if isinstance(metadata, Mapping) else {}
    step, source = found.get("step"), found.get("source")
    return {"step": step if isinstance(step, int) else None, "source": source if isinstance(source, str) else ""}
